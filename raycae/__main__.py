"""`raycae`, and `python -m raycae`."""

from raycae.import_path import remove_current_folder


def main() -> None:
    """Run a command."""
    remove_current_folder()
    from raycae.errors import exit_silently_on_interrupt

    with exit_silently_on_interrupt():
        from raycae.cli.main import main as run_command_line

    run_command_line()


if __name__ == "__main__":
    main()
