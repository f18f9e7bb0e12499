"""The two exceptions that are a message to a person, not a fault of raycae."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager


class InputError(Exception):
    """Wrong use or wrong input.

    The message stands alone: it names the thing, the value and what is allowed.
    """


class StorageError(Exception):
    """Results cannot be written or read now: a full disk, a store that does not answer.

    What has been written is whole; once the storage is back, `--resume` goes on.
    """


@contextmanager
def told_on_stderr() -> Iterator[None]:
    """An `InputError` inside ends the process with exit code 2, a `StorageError` with 1: their
    message on standard error, no traceback. Everything else keeps its traceback."""
    try:
        yield
    except (InputError, StorageError) as error:
        print(f"raycae: {error}", file=sys.stderr)
        sys.exit(2 if isinstance(error, InputError) else 1)
