"""Error against cost: the Pareto front, its hypervolume, and the latent-size bin that lags behind.

The cost is another column of the trials, usually the latent size. Lower is better for both.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Iterable, Mapping
from typing import Any

COSTS = ("latent_size", "n_params", "flops", "epoch_time_s")
"""Columns that may be minimised besides the error."""
USUAL_STRATA = (64, 128, 256, 384, 512, 1024, 2048)
"""Default upper bounds of the latent-size bins."""
FADING = 0.8
"""Factor by which the priority of a bin falls with each trial that did not improve it."""
ENDED = ("COMPLETE", "PRUNED")
"""States of trials that may have a measured error."""


def find_frontier(
    trials: Iterable[Mapping[str, Any]], cost: str = "latent_size"
) -> dict[int, bool]:
    """Find the trials on the Pareto front of error and cost.

    A trial is on the front if no other one with at most its cost has a lower error, and none with
    a lower cost has the same error. Trials that were stopped early count too.

    Args:
        trials: Rows with `trial_number`, `state`, `val_mse` and the cost.
        cost: Column of the cost.

    Returns:
        For each trial with a measured error, by number, whether it is on the front.
    """
    ended = [t for t in trials if t["state"] in ENDED and t["val_mse"] is not None]
    is_on_front: dict[int, bool] = {}
    lowest, lowest_of_cheaper, current_cost = math.inf, math.inf, -math.inf
    for trial in sorted(ended, key=lambda t: (t[cost], t["val_mse"])):
        if trial[cost] != current_cost:
            current_cost, lowest_of_cheaper = trial[cost], lowest
        lowest = min(lowest, trial["val_mse"])
        is_on_front[trial["trial_number"]] = trial["val_mse"] == lowest < lowest_of_cheaper
    return is_on_front


def compute_hypervolume(
    points: Iterable[tuple[float, float]], low: float, high: float, worst: float
) -> float:
    """Compute the dominated area on logarithmic axes, divided by its width.

    This is the hypervolume indicator (Zitzler & Thiele, PPSN 1998) as a height: the number of
    decades by which the lowest error is below `worst`, averaged over the logarithm of the cost.

    Args:
        points: (cost, error) of each trial, all above 0.
        low: Lower end of the costs that are averaged over, above 0.
        high: Upper end of these costs, above `low`.
        worst: Reference error, above 0.

    Returns:
        Decades, at least 0; 0 if no point has a cost below `high` and an error below `worst`.
    """
    area, lowest, position = 0.0, worst, low
    for cost, error in sorted(points):
        if cost >= high:
            break
        if error < lowest:
            area += math.log(max(cost, low) / position) * math.log10(worst / lowest)
            position, lowest = max(cost, low), error
    area += math.log(high / position) * math.log10(worst / lowest)
    return area / math.log(high / low)


class Strata:
    """Latent-size bins, and which of them needs the next trial.

    The answer of `choose_weakest` depends only on the calls of `begin_trial` and `end_trial`.

    Args:
        bounds: Upper bounds of the bins, ascending. Bin i has the sizes above `bounds[i - 1]` and
            up to `bounds[i]`.
        line: The error that trials of each bin have to beat: PCA with `bounds[i]` values.
    """

    def __init__(self, bounds: Iterable[int], line: Iterable[float]) -> None:
        self.bounds = tuple(bounds)
        self.line = tuple(line)
        n = len(self.bounds)
        self.best = [math.inf] * n
        """Lowest error in each bin."""
        self._n_begun = [0] * n
        self._n_running = [0] * n
        self._n_without_gain = [0] * n
        """Trials of each bin that ended since its lowest error improved."""

    def of(self, size: float) -> int | None:
        """Return the index of the bin of a latent size; None above all bins.

        Args:
            size: Latent size, in values.
        """
        index = bisect_left(self.bounds, size)
        return index if index < len(self.bounds) else None

    def begin_trial(self, size: int) -> None:
        """Note that a trial begins.

        Args:
            size: Its latent size.
        """
        index = self.of(size)
        if index is not None:
            self._n_begun[index] += 1
            self._n_running[index] += 1

    def end_trial(self, size: int, error: float | None) -> None:
        """Note that a trial has ended.

        Args:
            size: Its latent size.
            error: Its lowest validation error; None if it failed.
        """
        index = self.of(size)
        if index is None:
            return
        self._n_running[index] -= 1
        self._n_without_gain[index] += 1
        if error is not None and error < self.best[index]:
            self.best[index] = error
            self._n_without_gain[index] = 0

    def compute_distance(self, size: int, index: int) -> float:
        """Compute how far a latent size is outside of a bin.

        Args:
            size: Latent size.
            index: Index of the bin.

        Returns:
            Number of doublings or halvings to the nearest end of the bin; 0 inside.
        """
        above = math.log2(size / self.bounds[index])
        below = math.log2((self.bounds[index - 1] + 1) / size) if index else 0.0
        return max(above, below, 0.0)

    def choose_weakest(self) -> int:
        """Choose the bin that needs the next trial.

        Bins without any trial come first, smallest first. Then comes the bin whose lowest error
        is the largest multiple of what it should reach, less with every trial without a gain.

        Returns:
            Index of the bin.
        """
        indices = range(len(self.bounds))
        return max(indices, key=lambda index: (self._compute_priority(index), -index))

    def _compute_priority(self, index: int) -> float:
        if not self._n_begun[index]:
            return math.inf
        # A larger latent should be at least as good as PCA and as any smaller latent.
        goal = min(self.line[index], min(self.best[:index], default=math.inf))
        best = self.best[index]
        # While no trial has an error, only their number counts.
        ratio = best / goal if best < math.inf and goal > 0 else 1.0
        # Running trials count as trials without a gain, so that workers that ask at the same time
        # get different bins.
        n_without_gain = self._n_without_gain[index] + self._n_running[index]
        return float(ratio * FADING**n_without_gain)
