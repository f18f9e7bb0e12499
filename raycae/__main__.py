"""`raycae`, and `python -m raycae`."""

import signal
import sys


def main() -> None:
    """Ctrl-C while the commands are being imported ends without a word: nothing has begun."""
    before = signal.signal(signal.SIGINT, lambda number, frame: sys.exit(128 + number))
    from raycae import cli

    signal.signal(signal.SIGINT, before)
    cli.main()


if __name__ == "__main__":
    main()
