"""Decide which attempts hang, and whether trials fail so alike that a search should stop."""

from __future__ import annotations

import re
import time

from raycae.study.records import FAIL, Records

ALIKE = {"diverged": 20}
"""Failures in a row for one reason that end a search, by kind of failure. Diverging trials are
normal in a wide space, so it takes more of them."""
ALIKE_ELSE = 5
"""Failures in a row that end a search, for every other kind."""
QUIET_FACTOR = 10.0
"""An epoch may take this many times the slowest one of its trial so far. For a first epoch the time
is predicted from the slowest one of the study."""
QUIET_LEAST_S = 60.0
"""Every epoch may take this many seconds more."""
QUIET_FIRST_S = 300.0
"""A first epoch may take this many seconds more, to start a process and to send images."""
QUIET_RESUMED_S = 3600.0
"""Seconds that a first epoch may take at least while this process has measured no epoch. The times
in the ledger may be those of a faster machine."""
QUIET_UNKNOWN_S = 86_400.0
"""Seconds that the first epochs of a study may take, when no epoch has been measured yet. One epoch
of many large images may take hours."""
DEAF_S = 10.0
"""If the driver was blocked for more seconds than this, all deadlines are extended by the pause."""


class Watchdog:
    """Watches the attempts that run, and the failures of those that have ended.

    Times are seconds on the monotonic clock.
    """

    def __init__(self) -> None:
        self._last_seen: dict[int, float] = {}
        """When each watched trial was last heard of."""
        self._workloads: dict[int, int] = {}
        """FLOPs of the network of each trial, times the number of trials in its worker."""
        self._slowest_s: dict[int, float] = {}
        self._slowest_s_per_flop = 0.0
        self._checked_at = time.monotonic()
        self._streak: tuple[str, int] = ("", 0)
        """The reason of the last failures without numbers, and how many in a row had it."""

    def watch(self, number: int, flops: int | None, group_size: int) -> None:
        """Start to watch a trial.

        Args:
            number: Number of the trial.
            flops: FLOPs of its network, if they are known.
            group_size: Number of trials that its worker trains together.
        """
        self._last_seen[number] = time.monotonic()
        self._workloads[number] = (flops or 1) * group_size

    def record_epoch(self, number: int, seconds: float, flops: int | None) -> None:
        """Note that a trial has reported an epoch.

        Args:
            number: Number of the trial.
            seconds: How long its worker took from one report to the next.
            flops: FLOPs of its network, if they are known.
        """
        self._last_seen[number] = time.monotonic()
        self._slowest_s[number] = max(seconds, self._slowest_s.get(number, 0.0))
        self._record_pace(seconds, flops)

    def load_epochs(self, records: Records) -> None:
        """Learn from the epochs of the ledger how long a first epoch may take.

        Args:
            records: The records of the study.
        """
        for number, curve in records.epochs.items():
            for epoch in curve.values():
                self._record_pace(epoch["epoch_time_s"], records.trials[number]["flops"])

    def unwatch(self, number: int) -> None:
        """Stop watching a trial whose attempt is over.

        Args:
            number: Number of the trial.
        """
        self._last_seen.pop(number, None)

    def find_overdue(self, storage_wait_s: float) -> list[tuple[int, float]]:
        """Find trials that have been silent for longer than their pace explains.

        Args:
            storage_wait_s: How long the storage has not answered, in seconds.

        Returns:
            Number and time limit in seconds of each such trial.
        """
        now = time.monotonic()
        self._extend_deadlines(now, storage_wait_s)
        return [
            (number, limit_s)
            for number, seen in self._last_seen.items()
            if now - seen > (limit_s := self._compute_limit_s(number))
        ]

    def record_end(self, state: str, reason: str | None) -> None:
        """Count failures in a row that have the same reason, numbers aside.

        Args:
            state: State in which a trial has ended.
            reason: Its reason.
        """
        if state != FAIL:
            self._streak = ("", 0)
            return
        cause = re.sub(r"\d+", "", reason or "")
        previous, count = self._streak
        self._streak = (cause, count + 1 if cause == previous else 1)

    def count_alike_failures(self, n_trials: int) -> int:
        """Return how many trials in a row have failed alike, or 0 while it is not worth stopping.

        Args:
            n_trials: Number of trials of the study; a small one stops after as many failures.
        """
        cause, count = self._streak
        limit = min(ALIKE.get(cause.split(":")[0], ALIKE_ELSE), n_trials)
        return count if count >= limit else 0

    def _record_pace(self, seconds: float, flops: int | None) -> None:
        self._slowest_s_per_flop = max(self._slowest_s_per_flop, seconds / (flops or 1))

    def _compute_limit_s(self, number: int) -> float:
        """Compute how long a trial may be silent, in seconds."""
        if slowest_s := self._slowest_s.get(number):
            return QUIET_LEAST_S + QUIET_FACTOR * slowest_s
        if not self._slowest_s_per_flop:
            return QUIET_UNKNOWN_S
        expected_s = self._slowest_s_per_flop * self._workloads[number]
        limit_s = QUIET_LEAST_S + QUIET_FIRST_S + QUIET_FACTOR * expected_s
        return limit_s if self._slowest_s else max(limit_s, QUIET_RESUMED_S)

    def _extend_deadlines(self, now: float, storage_wait_s: float) -> None:
        """Extend all deadlines by the time in which no report could arrive.

        While the driver waits for its storage it reads no reports. While the storage does not
        answer, trials wait for it too.
        """
        pause_s = now - self._checked_at
        if storage_wait_s > DEAF_S:
            self._last_seen = dict.fromkeys(self._last_seen, now)
        elif pause_s > DEAF_S:
            self._last_seen = {number: seen + pause_s for number, seen in self._last_seen.items()}
        self._checked_at = now
