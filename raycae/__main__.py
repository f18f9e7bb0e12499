"""`raycae`, and `python -m raycae`."""

import sys

from raycae.import_path import remove_current_folder


def main() -> None:
    """Run a command. Ctrl-C while the commands are imported ends the process without a message."""
    remove_current_folder()
    import signal

    before = signal.signal(signal.SIGINT, lambda number, frame: sys.exit(128 + number))

    from raycae.cli.main import main as run_command_line

    signal.signal(signal.SIGINT, before)
    run_command_line()


if __name__ == "__main__":
    main()
