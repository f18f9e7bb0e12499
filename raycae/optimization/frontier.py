"""Error against what it costs: who is on the frontier, how far it reaches, where it is weakest.

The cost is another column of the trials, usually the latent size. Less is better in both.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Iterable, Mapping
from typing import Any

COSTS = ("latent_size", "n_params", "flops", "epoch_time_s")
"""The columns that may stand against the error."""
USUAL_STRATA = (64, 128, 256, 384, 512, 1024, 2048)
FADING = 0.8
"""By how much a stratum counts less with each trial that did not improve it."""
ENDED = ("COMPLETE", "PRUNED")


def find_frontier(
    trials: Iterable[Mapping[str, Any]], cost: str = "latent_size"
) -> dict[int, bool]:
    """Of each trial that ended with an error, whether no other costs at most as much and has less
    error; stopped trials count too. Of two that are alike both are on it."""
    ended = [t for t in trials if t["state"] in ENDED and t["val_mse"] is not None]
    on: dict[int, bool] = {}
    least, least_of_cheaper, now = math.inf, math.inf, -math.inf
    for trial in sorted(ended, key=lambda t: (t[cost], t["val_mse"])):
        if trial[cost] != now:
            now, least_of_cheaper = trial[cost], least
        least = min(least, trial["val_mse"])
        on[trial["trial_number"]] = trial["val_mse"] == least < least_of_cheaper
    return on


def compute_hypervolume(
    points: Iterable[tuple[float, float]], low: float, high: float, worst: float
) -> float:
    """How far below `worst` the least error lies, in decades, the mean over all costs from `low` to
    `high` on a log scale.

    `points`: (cost, error), each above 0. It is the area that the frontier dominates, both axes
    logarithmic, as a height; 0 where no point costs less than `high` or is better than `worst`.
    """
    area, least, at = 0.0, worst, low
    for cost, error in sorted(points):
        if cost >= high:
            break
        if error < least:
            area += math.log(max(cost, low) / at) * math.log10(worst / least)
            at, least = max(cost, low), error
    return (area + math.log(high / at) * math.log10(worst / least)) / math.log(high / low)


class Strata:
    """The frontier cut at latent sizes, and which part of it needs the next trial.

    Stratum i holds the sizes above `bounds[i - 1]` and up to `bounds[i]`; `line` is the error there
    of what a trial has to beat, a linear code of that size. Every trial is said to `begin` and to
    `end`; which stratum is `weakest` depends on nothing else.
    """

    def __init__(self, bounds: Iterable[int], line: Iterable[float]) -> None:
        self.bounds = tuple(bounds)
        self.line = tuple(line)
        n = len(self.bounds)
        self.best = [math.inf] * n
        self._begun = [0] * n
        self._running = [0] * n
        self._in_vain = [0] * n
        """Trials that ended since the best of the stratum did."""

    def of(self, size: float) -> int | None:
        """The stratum of a latent size; None above all of them."""
        place = bisect_left(self.bounds, size)
        return place if place < len(self.bounds) else None

    def begin(self, size: int) -> None:
        place = self.of(size)
        if place is not None:
            self._begun[place] += 1
            self._running[place] += 1

    def end(self, size: int, error: float | None) -> None:
        """A trial has ended, with its least error if it has one."""
        place = self.of(size)
        if place is None:
            return
        self._running[place] -= 1
        self._in_vain[place] += 1
        if error is not None and error < self.best[place]:
            self.best[place] = error
            self._in_vain[place] = 0

    def outside(self, size: int, place: int) -> float:
        """How many times doubled or halved `size` lies outside of the stratum; 0: within."""
        above = math.log2(size / self.bounds[place])
        below = math.log2((self.bounds[place - 1] + 1) / size) if place else 0.0
        return max(above, below, 0.0)

    def weakest(self) -> int:
        """Where nobody has been yet, the smallest first; else where the error lies highest above
        the line, or above a smaller latent's, unless trials have long been in vain there."""
        return max(range(len(self.bounds)), key=lambda place: (self._need(place), -place))

    def _need(self, place: int) -> float:
        if not self._begun[place]:
            return math.inf
        smaller = min(self.best[:place], default=math.inf)
        goal = min(self.line[place], smaller)
        best = self.best[place]
        # Where all that began still runs or has failed, only their number says anything.
        above = best / goal if best < math.inf and goal > 0 else 1.0
        # Those that run are taken to be in vain: workers that ask together go to different strata.
        return float(above * FADING ** (self._in_vain[place] + self._running[place]))
