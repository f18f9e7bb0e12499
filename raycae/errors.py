"""Exceptions whose message is shown to the user without a traceback."""

from __future__ import annotations

import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from raycae.formatting import make_printable

LONGEST = 2000
"""Maximum length of a message in characters; the middle of a longer one is left out."""


class _Message(Exception):
    """An exception with a one-line message of printable characters."""

    def __init__(self, message: str) -> None:
        line = make_printable(" ".join(part.strip() for part in message.splitlines()))
        if len(line) > LONGEST:
            line = f"{line[: LONGEST * 3 // 4]} … {line[-LONGEST // 4 :]}"
        super().__init__(line)


class InputError(_Message):
    """Wrong use or wrong input.

    The message is complete by itself: it names the input, its value and what is allowed.
    """


class StorageError(_Message):
    """Results cannot be written or read now, because a disk is full or a store does not answer.

    All files written so far are complete; `--resume` continues once the storage works again.
    """


class SearchAborted(_Message):
    """The search stopped because trials failed one after another for the same reason."""


class Unfinished(_Message):
    """All trials are recorded, but a later step failed: test errors, pictures or report."""


class SearchInterrupted(BaseException):
    """SIGTERM has ended a search cleanly; `resume=True` continues its study.

    Like `KeyboardInterrupt`, which stands for SIGINT, it is not an `Exception`, so that no
    `except Exception` swallows it.

    Attributes:
        signal_number: The signal. A command ends with exit code 128 + signal number.
    """

    def __init__(self, signal_number: int) -> None:
        super().__init__(f"the search was ended by {signal.Signals(signal_number).name}")
        self.signal_number = signal_number


@contextmanager
def exit_with_message() -> Iterator[None]:
    """Print the message of an exception of this module and exit.

    The exit code is 2 for an `InputError` and 1 for the other exceptions of this module. Other
    exceptions pass through with their traceback.
    """
    try:
        yield
    except _Message as error:
        print(f"raycae: {error}", file=sys.stderr)
        sys.exit(2 if isinstance(error, InputError) else 1)


@contextmanager
def exit_silently_on_interrupt() -> Iterator[None]:
    """End the process without a message if Ctrl-C is pressed while modules are imported."""
    before = signal.signal(signal.SIGINT, lambda number, frame: sys.exit(128 + number))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
