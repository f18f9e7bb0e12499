"""`raycae`, and `python -m raycae`."""

from os import environ

from raycae.import_path import remove_current_folder


def main() -> None:
    """Run a command."""
    remove_current_folder()
    # Threads of NumPy's OpenBLAS spin when NumPy is imported: 0.09 s of CPU for each command. What
    # raycae computes with matrices is computed by torch.
    environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    from raycae.errors import exit_silently_on_interrupt

    with exit_silently_on_interrupt():
        from raycae.cli.main import main as run_command_line

    run_command_line()


if __name__ == "__main__":
    main()
