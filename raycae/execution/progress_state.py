"""What the live view knows of a running search, apart from how it is drawn."""

from __future__ import annotations

import heapq
import os
import time
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from raycae.execution.time_left import TimeLeft, list_running
from raycae.optimization.frontier import find_frontier
from raycae.provenance import count_cpus
from raycae.study.ledger import Event
from raycae.study.records import COMPLETE, PRUNED, RUNNING, Records

RATE_WINDOW_S = 60.0
"""The number of images per second is averaged over this many seconds."""
N_TOP = 5
"""Number of trials in the table of the best ones."""
LEFT_EVERY_S = 1.0
"""The time left is estimated again after this many seconds."""
Row = Mapping[str, Any]
"""A trial, with the columns of `trials.parquet`."""


@dataclass
class ProgressState:
    """The state of a running search.

    Attributes:
        trials: The study's total number of trials.
        epochs: Epochs of a full trial.
        until: The deadline in seconds of `time.monotonic()`, or None.
        left: Estimates the time left; None before the search has begun.
        results: Where the study is stored, as it is shown.
        is_frontier: Whether the search looks for a Pareto front.
        phase: What happens now apart from trials, in the -ing form; empty while trials run.
        note: A line about the phase, or about waiting.
        records: What the study knows of its trials.
        best_curve: The lowest validation error after each trial that ended.
        top: The best trials, the best one first; of a Pareto front at most `N_TOP` trials, evenly
            spread, the lowest cost first.
        n_front: Number of trials on the Pareto front.
        has_epochs: Whether an epoch has ended in this process.
    """

    trials: int
    epochs: int
    until: float | None = None
    left: TimeLeft | None = None
    results: str = ""
    is_frontier: bool = False
    phase: str = ""
    note: str = ""
    records: Records = field(default_factory=Records)
    best_curve: list[float] = field(default_factory=list)
    top: list[Row] = field(default_factory=list)
    n_front: int = 0
    _ranked: Sequence[Row] = ()
    """The Pareto front, or the best trials."""
    has_epochs: bool = False
    _started_s: float = field(default_factory=lambda: time.monotonic())
    _begun_s: dict[int, float] = field(default_factory=dict)
    """When this process started each trial."""
    _seen_s: dict[int, float] = field(default_factory=dict)
    """When each running trial was last heard of."""
    _images: deque[tuple[float, float]] = field(default_factory=deque)
    """When an epoch ended, and how many images it saw."""
    _left_s: float | None = None
    _left_at_s: float = float("-inf")

    def load_records(self, records: Records) -> None:
        """Take over what earlier processes have done. It does not count for the pace of this one.

        Args:
            records: What the study knows of its trials.
        """
        self.records = records
        for row in list(records.trials.values()):
            if row["state"] != RUNNING:
                self._add_to_curve(row)
        self._rank(list(records.trials.values()))

    def apply(self, event: Event, records: Records) -> None:
        """Take over an event of the study.

        Args:
            event: The event.
            records: What the study knows after it.
        """
        self.records = records
        now, kind = time.monotonic(), event["event"]
        number: Any = event.get("trial_number")
        if kind == "started":
            self._begun_s[number] = self._seen_s[number] = now
        elif kind == "epoch":
            self._seen_s[number] = now
            self.has_epochs = True
            self._images.append((now, event.get("n_images") or records.n_images or 0))
        elif kind == "ended":
            row = records.trials[number]
            self._add_to_curve(row)
            self._rank([*self._ranked, row])
            self._seen_s.pop(number, None)
            begun_s = self._begun_s.pop(number, None)
            if self.left is not None and begun_s is not None:
                self.left.end_trial(row, now - begun_s)
        if self._left_s is None:
            self._left_at_s = float("-inf")

    def _add_to_curve(self, row: Row) -> None:
        """Add a trial that ended to the curve of the lowest error."""
        error = row["val_mse"] if row["state"] in (COMPLETE, PRUNED) else None
        known = [value for value in (error, *self.best_curve[-1:]) if value is not None]
        if known:
            self.best_curve.append(min(known))

    def _rank(self, rows: Sequence[Row]) -> None:
        """Choose the trials of the table of the best ones.

        Args:
            rows: The trials that are compared. What fell out once never comes back, so after a
                trial these are it and those of before.
        """
        if self.is_frontier:
            is_on_front = find_frontier(rows, self.records.cost)
            front = [row for row in rows if is_on_front.get(row["trial_number"])]
            self._ranked = sorted(front, key=lambda row: row[self.records.cost])
            self.n_front = len(front)
            n = min(len(front), N_TOP)
            self.top = [self._ranked[i * (len(front) - 1) // max(n - 1, 1)] for i in range(n)]
            return
        scored = [r for r in rows if r["state"] in (COMPLETE, PRUNED) and r["val_mse"] is not None]
        self.top = heapq.nsmallest(N_TOP, scored, lambda r: (r["val_mse"], r["trial_number"]))
        self._ranked = self.top

    def list_running(self) -> list[Row]:
        """List the trials that a worker trains now."""
        rows = (self.records.trials[number] for number in self.records.running())
        return list_running(rows)

    def get_elapsed_s(self) -> float:
        """Return the seconds since the search began."""
        return time.monotonic() - self._started_s

    def compute_image_rate(self) -> float:
        """Compute how many images per second were seen lately."""
        now = time.monotonic()
        while self._images and now - self._images[0][0] >= RATE_WINDOW_S:
            self._images.popleft()
        elapsed_s = max(min(RATE_WINDOW_S, now - self._started_s), 1e-9)
        return sum(n for _, n in list(self._images)) / elapsed_s

    def estimate_seconds_left(self) -> float | None:
        """Estimate the seconds until all trials have ended, or to the deadline if that is sooner.

        Returns:
            The seconds; None if neither is known.
        """
        now = time.monotonic()
        if self.left is not None and now - self._left_at_s >= LEFT_EVERY_S:
            # The main thread may be adding a trial, whose columns are empty at first.
            rows = [row for row in list(self.records.trials.values()) if row["state"]]
            waited_s = {number: now - seen_s for number, seen_s in list(self._seen_s.items())}
            self._left_s = self.left.estimate(rows, self.list_running(), waited_s)
            self._left_at_s = now
        deadline = None if self.until is None else max(self.until - now, 0.0)
        passed_s = 0.0 if self._left_s is None else now - self._left_at_s
        left_s = None if self._left_s is None else max(self._left_s - passed_s, 0.0)
        return min((s for s in (left_s, deadline) if s is not None), default=None)


def describe_load() -> str:
    """Write how busy this machine is; empty where the system does not tell."""
    try:
        load = os.getloadavg()[0]
    except (AttributeError, OSError):
        return ""
    cores = count_cpus()
    return f"load {load:.1f} on {cores} core{'s' * (cores != 1)}"
