"""The one exception that means "the person asked for something that cannot be done"."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager


class InputError(Exception):
    """Wrong use or wrong input.

    The message stands alone: it names the thing, the value and what is allowed.
    """


@contextmanager
def told_on_stderr() -> Iterator[None]:
    """An `InputError` inside ends the process: its message on standard error, exit code 2, no
    traceback. Everything else keeps its traceback."""
    try:
        yield
    except InputError as error:
        print(f"raycae: {error}", file=sys.stderr)
        sys.exit(2)
