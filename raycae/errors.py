"""The exceptions that are a message to a person, not a fault of raycae."""

from __future__ import annotations

import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from raycae.formatting import make_printable

LONGEST = 2000
"""Characters of a message; of a longer one, which quotes half a file, the middle is left out."""


class _Message(Exception):
    """One line that any terminal can take, whatever it quotes."""

    def __init__(self, message: str) -> None:
        line = make_printable(" ".join(part.strip() for part in message.splitlines()))
        if len(line) > LONGEST:
            line = f"{line[: LONGEST * 3 // 4]} … {line[-LONGEST // 4 :]}"
        super().__init__(line)


class InputError(_Message):
    """Wrong use or wrong input.

    The message stands alone: it names the thing, the value and what is allowed.
    """


class StorageError(_Message):
    """Results cannot be written or read now: a full disk, a store that does not answer.

    What has been written is whole; once the storage is back, `--resume` goes on.
    """


class SearchAborted(_Message):
    """The trials of a search fail one after the other for one reason, so it was ended."""


class Unfinished(_Message):
    """All trials are recorded, but a step after them failed: test errors, pictures, report."""


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
    """End the process with exit code 2 on an `InputError` inside, and with 1 on the other messages
    of this module: one line on standard error, no traceback. Other exceptions keep theirs."""
    try:
        yield
    except _Message as error:
        print(f"raycae: {error}", file=sys.stderr)
        sys.exit(2 if isinstance(error, InputError) else 1)
