"""Estimate the time left while a search runs.

The estimate learns from this search: how long epochs take relative to the rule of
`model_cost`, how much time a trial needs beside its epochs, and how many epochs trials
run compared with a simulation of the early-stopping rule. The trials to come are then distributed
over the workers.
"""

from __future__ import annotations

import heapq
import random
import statistics
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from raycae.config import Config
from raycae.execution.model_cost import compute_image_cost
from raycae.study.records import INTERRUPTED, RUNNING

Row = Mapping[str, Any]
"""A trial, with the columns of `trials.parquet`."""
COST_WEIGHT = 1
"""The expected cost of a sampled configuration counts as much as this many trials."""
N_COSTS = 15
"""Only so many of the newest sampled configurations count, because a sampler learns."""
EPOCHS_WEIGHT = 4
"""The simulated number of epochs counts as much as this many complete trials."""
N_RATIOS = 9
"""The time beside the epochs is the median over this many trials that ended last."""
MAX_TO_COME = 300
"""Only so many of the trials to come are drawn; the others take as long on average."""
N_DRAWS = 9
"""The trials to come are drawn this many times; the estimate is the median."""
MAX_RATIO = 3.0
"""A trial takes at most this many times as long as its epochs together."""


class Forecast(NamedTuple):
    """What is expected of the trials of a search before it starts.

    Attributes:
        epochs: Expected number of epochs of each trial, by its number; the last entry is for all
            further trials.
        alive: Expected number of epochs of a trial that has run e epochs and continues, by e.
        lengths: Numbers of epochs of simulated trials.
        costs: Costs of sampled configurations, see `compute_image_cost`.
    """

    epochs: Sequence[float]
    alive: Sequence[float]
    lengths: Sequence[int]
    costs: Sequence[float]


class TimeLeft:
    """Estimates the time until all trials have ended.

    Args:
        trials: The study's total number of trials.
        epochs: Epochs of a full trial.
        forecast: What is expected of the trials; None if nothing is.
    """

    def __init__(self, trials: int, epochs: int, forecast: Forecast | None = None) -> None:
        self._trials, self._epochs, self._forecast = trials, epochs, forecast
        self._costs: dict[int, float] = {}
        self._ratios: list[float] = []
        self._workers = 1

    def end_trial(self, row: Row, duration_s: float) -> None:
        """Note how long a trial took that was started and ended by this process.

        Args:
            row: The trial.
            duration_s: Seconds from its start to its end.
        """
        if row["wall_time_s"]:
            ratio = duration_s / row["wall_time_s"]
            self._ratios = [*self._ratios[1 - N_RATIOS :], min(max(ratio, 1.0), MAX_RATIO)]

    def estimate(
        self, rows: Collection[Row], running: Sequence[Row], waited_s: Mapping[int, float]
    ) -> float | None:
        """Estimate the time left.

        Args:
            rows: All trials.
            running: Those that a worker trains now.
            waited_s: Seconds since the last epoch, or the start, of running trials, by number.

        Returns:
            Seconds; None while no epoch has ended.
        """
        self._workers = max(self._workers, len(running))
        measured = [row for row in rows if row["wall_time_s"]]
        if not measured:
            return None
        unit_s = statistics.median(
            row["wall_time_s"] / (row["epochs_run"] * self._get_cost(row)) for row in measured
        )
        unit_s *= statistics.median(self._ratios) if self._ratios else 1.0
        slots = [
            self._estimate_running(row, unit_s, waited_s.get(row["trial_number"], 0.0))
            for row in running
        ]
        slots += [0.0] * (self._workers - len(slots))
        ended = [row for row in rows if row["state"] != RUNNING]
        n_begun = len(ended) + len(running)
        n_to_come = max(self._trials - n_begun, 0)
        expected = self._list_expected(n_begun, min(n_to_come, MAX_TO_COME), ended)
        draw = random.Random(n_begun)
        lengths, costs = self._list_lengths(ended), self._list_costs(rows, draw)
        mean_length = statistics.fmean(lengths) or 1.0
        durations_s = []
        for _ in range(N_DRAWS if expected else 1):
            busy_s = [*slots]
            heapq.heapify(busy_s)
            drawn_lengths = draw.choices(lengths, k=len(expected))
            drawn_costs = draw.choices(costs, k=len(expected))
            drawn_s = 0.0
            for mean, length, cost in zip(expected, drawn_lengths, drawn_costs, strict=True):
                trial_s = min(mean * length / mean_length, self._epochs) * unit_s * cost
                heapq.heapreplace(busy_s, busy_s[0] + trial_s)
                drawn_s += trial_s
            further_s = drawn_s * (n_to_come / len(expected) - 1) if expected else 0.0
            durations_s.append(max(busy_s) + further_s / self._workers)
        return statistics.median(durations_s)

    def _list_lengths(self, ended: Sequence[Row]) -> list[int]:
        """List typical numbers of epochs of trials."""
        if self._forecast is not None:
            return list(self._forecast.lengths)
        return [row["epochs_run"] or 0 for row in ended] or [self._epochs]

    def _list_costs(self, rows: Iterable[Row], draw: random.Random) -> list[float]:
        """List typical costs of trials: of the newest ones, and expected ones."""
        sampled = [self._get_cost(row) for row in rows if not row.get("point")][-N_COSTS:]
        if self._forecast is None:
            return sampled or [self._get_cost(row) for row in rows]
        repeats = max(N_COSTS // max(len(sampled), 1), 1)
        n_expected = COST_WEIGHT * repeats
        return [*sampled * repeats, *draw.choices(self._forecast.costs, k=n_expected)]

    def _estimate_running(self, row: Row, unit_s: float, waited_s: float) -> float:
        """Estimate the seconds until a running trial ends."""
        # An epoch that another thread records just now may have no duration yet.
        done = row["epochs_run"] if row["wall_time_s"] else 0
        expected_s = unit_s * self._get_cost(row)
        if done and self._ratios:
            expected_s = statistics.median(self._ratios) * row["wall_time_s"] / done
        elif done:
            expected_s = row["wall_time_s"] / done
        alive = self._forecast.alive if self._forecast else ()
        total = alive[done] if done < len(alive) else self._epochs
        return max((total - done) * expected_s - waited_s, 0.0)

    def _get_cost(self, row: Row) -> float:
        """Return the cost of an image in a trial; the same for all if it is not known."""
        if not row.get("config"):
            return 1.0
        number = row["trial_number"]
        if number not in self._costs:
            config = Config.model_validate_json(row["config"])
            self._costs[number] = compute_image_cost(config)
        return self._costs[number]

    def _list_expected(self, first: int, n: int, ended: Sequence[Row]) -> list[float]:
        """List the expected numbers of epochs of `n` trials to come, from number `first` on."""
        if self._forecast is not None:
            factor = self._compare_epochs(self._forecast, ended)
            return [factor * get_expected(self._forecast, first + i) for i in range(n)]
        lengths = [row["epochs_run"] or 0 for row in ended] or [self._epochs]
        return [statistics.fmean(lengths)] * n

    def _compare_epochs(self, forecast: Forecast, ended: Sequence[Row]) -> float:
        """Return how many epochs trials run, as a multiple of what was expected."""
        prior = EPOCHS_WEIGHT * self._epochs
        observed = prior + sum(row["epochs_run"] or 0 for row in ended)
        expected = sum(get_expected(forecast, row["trial_number"]) for row in ended)
        return observed / (prior + expected)


def get_expected(forecast: Forecast, number: int) -> float:
    """Return the expected number of epochs of trial `number`."""
    return forecast.epochs[min(number, len(forecast.epochs) - 1)]


def estimate_time_left(
    rows: Collection[Row], trials: int, epochs: int, spent_s: float
) -> float | None:
    """Estimate the time until all trials have ended from tables alone, by the pace so far.

    A trial to come is taken to run as many epochs as those that have ended, on average.

    Args:
        rows: The trials so far.
        trials: The total number of trials.
        epochs: Epochs that have ended during `spent_s`.
        spent_s: Seconds since the search or its resumption began.

    Returns:
        Seconds; None while nothing is known.
    """
    ended = [row["epochs_run"] or 0 for row in rows if row["state"] != RUNNING]
    if not epochs or not sum(ended):
        return None
    epochs_left = sum(ended) / len(ended) * (trials - len(ended))
    epochs_left -= sum(row["epochs_run"] or 0 for row in list_running(rows))
    return max(epochs_left, 0.0) * spent_s / epochs


def list_running(rows: Iterable[Row]) -> list[Row]:
    """List the trials that a worker has started, without those of an earlier process.

    Args:
        rows: Trials.
    """
    running = (row for row in rows if row["state"] == RUNNING and row["attempt"])
    return [row for row in running if row["reason"] != INTERRUPTED]
