"""Write the events of a study: first to the ledger, then to everything that follows it."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from raycae.errors import StorageError
from raycae.storage.paths import Place
from raycae.study import ledger
from raycae.study.lease import Lease
from raycae.study.ledger import Event, Ledger
from raycae.study.records import Records

TABLES_EVERY_S = 3.0
"""While a search runs, the tables are written at most this often, in seconds. The ledger is always
complete."""
TABLES_SHARE = 0.05
"""Writing the tables takes at most this share of a search's time, however long they are."""
Listener = Callable[[Event, Records], None]
"""Receives every event, and the records after it."""


class Journal:
    """Keeps ledger, records, listener and tables of a study in step.

    Args:
        folder: Folder of the study.
        ledger: Its ledger.
        records: Its records.
        lease: The lease of the folder.
        listener: Receives every event.

    Attributes:
        has_failed: Whether events could not be written. The records then know more than the ledger,
            so nothing more is written.
    """

    def __init__(
        self,
        folder: Place,
        ledger: Ledger,
        records: Records,
        lease: Lease,
        listener: Listener | None,
    ) -> None:
        self.listener = listener
        self.has_failed = False
        self._folder = folder
        self._ledger = ledger
        self._records = records
        self._lease = lease
        self._tables_at = -TABLES_EVERY_S
        self._tables_took_s = 0.0
        self._held: list[Event] | None = None
        """Events that `write_as_one_part` has not written yet."""
        self._actions: list[Callable[[], object]] = []
        """What `run_when_written` does once they are written."""

    def make_event(self, number: int | None, kind: str, **columns: Any) -> dict[str, Any]:
        """Make an event that happens now.

        Args:
            number: Number of the trial, or None for an event of the study.
            kind: Kind of the event; see `ledger.SCHEMA`.
            columns: The other columns of the event.

        Returns:
            The event, of the newest attempt at the trial.
        """
        attempt = None
        if number is not None:
            row = self._records.trials.get(number)
            attempt = row["attempt"] if row else 0
        return {
            "event": kind,
            "at": ledger.get_time(),
            "trial_number": number,
            "attempt": attempt,
            **columns,
        }

    @contextmanager
    def write_as_one_part(self) -> Iterator[None]:
        """Write what is recorded inside the `with` block to the ledger as one part, at its end.

        A block inside another one belongs to it.

        Raises:
            StorageError: Another process has taken the study over, or the storage has failed. The
                records then know more than the ledger.
        """
        if self._held is not None:
            yield
            return
        self._held = []
        try:
            yield
        finally:
            try:
                self.flush()
            finally:
                self._held = None
        self._write_tables()

    def record(self, *events: Event) -> None:
        """Write events as one part of the ledger, then update records, listener and tables.

        Raises:
            StorageError: Another process has taken the study over, or the storage has failed.
        """
        if self._held is None:
            self._append(events)
        else:
            self._require_working()
            self._held += events
        for event in events:
            self._records.apply(event)
            if self.listener:
                self.listener(event, self._records)
        if self._held is None:  # The tables never know more than the ledger.
            self._write_tables()

    def run_when_written(self, action: Callable[[], object]) -> None:
        """Do something once the ledger has all events: now, or when the `with` block is written.

        Args:
            action: What to do, for example deleting files. It is left out if the ledger fails.
        """
        if self._held:
            self._actions.append(action)
        elif not self.has_failed:
            action()

    def flush(self) -> None:
        """Write what `write_as_one_part` holds, and do what waits for it.

        Raises:
            StorageError: Another process has taken the study over, or the storage has failed.
        """
        actions, self._actions = self._actions, []
        if self._held:
            held, self._held = self._held, []
            self._append(held)
        for action in actions:
            action()

    def _append(self, events: Iterable[Event]) -> None:
        """Write events as one part of the ledger."""
        self._require_working()
        try:
            self._ledger.append(events)
        except BaseException:
            self.has_failed = True
            raise

    def _write_tables(self) -> None:
        """Write the tables if they are due, and if nothing has failed."""
        if self.has_failed:
            return
        now = time.monotonic()
        if now - self._tables_at >= max(TABLES_EVERY_S, self._tables_took_s / TABLES_SHARE):
            self._records.write(self._folder)
            self._tables_at = time.monotonic()
            self._tables_took_s = self._tables_at - now

    def _require_working(self) -> None:
        """Raise if nothing may be written any more."""
        if self._lease.lost:
            self.has_failed = True
            raise StorageError(
                f"{self._folder}: another process has taken this study over, because this "
                "process did not renew its lease. This process writes nothing more."
            )
        if self.has_failed:
            raise StorageError(
                f"{self._folder}: an earlier event could not be written to the ledger. This "
                "process writes nothing more."
            )
