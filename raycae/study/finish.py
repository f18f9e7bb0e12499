"""The steps that follow the trials of a search: each runs even when an earlier one has failed.

The trials are safe in the ledger by then. A fault of a step must not lose the summary, the tables,
the report or the command with which to continue.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from raycae.errors import InputError, StorageError
from raycae.formatting import make_printable

StepCounter = Callable[[str, int, int], None]
"""Shows how far a step has come: its name in the -ing form, the parts done, the number of parts."""


def count_nothing(step: str, done: int, total: int) -> None:
    """Show nothing; a `StepCounter` for callers without a live view."""


class Finish:
    """Runs steps and collects their faults.

    Attributes:
        notes: One sentence for each step that failed, with the way out; none twice.
        errors: What the steps raised.
    """

    def __init__(self) -> None:
        self.notes: list[str] = []
        self.errors: list[Exception] = []

    def attempt(
        self, failure: str, remedy: str, action: Callable[..., Any], *args: Any, **options: Any
    ) -> bool:
        """Call `action(*args, **options)` and note its fault if it raises.

        Args:
            failure: What did not succeed then, without a full stop: "The report could not be
                written".
            remedy: The command that does it later.
            action: The step.
            args: Its arguments.
            options: Its keyword arguments.

        Returns:
            Whether the step succeeded.
        """
        try:
            action(*args, **options)
        except Exception as error:
            self.errors.append(error)
            fault = describe_fault(error).removesuffix(".")
            note = f"{failure}: {fault}. Fix this, then run `{remedy}`."
            if note not in self.notes:
                self.notes.append(note)
            return False
        return True

    def raise_fault(self) -> None:
        """Raise the first error that is no wrong input: a bug, with its traceback, before a
        `StorageError`."""
        faults = [error for error in self.errors if not isinstance(error, InputError)]
        faults.sort(key=lambda error: isinstance(error, StorageError))
        if faults:
            raise faults[0]

    def raise_first(self) -> None:
        """Raise as `raise_fault`, else the first `InputError`. Do nothing without errors."""
        self.raise_fault()
        if self.errors:
            raise self.errors[0]


def describe_fault(error: Exception) -> str:
    """Describe an error in one printable line; the type is named unless it is a message."""
    if isinstance(error, (InputError, StorageError)):
        return str(error)
    lines = str(error).splitlines()
    return make_printable(f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__)
