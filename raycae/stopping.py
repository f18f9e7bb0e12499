"""Early stopping as a plain rule: told (trial, epoch, value), it says go on or stop.

It knows neither Ray nor training, so that the bridge to Tune, fused trials and simulations can ask
the same rule. Values are errors: less is better.
"""

from __future__ import annotations

import itertools
import math
from collections import defaultdict
from typing import Protocol

from raycae.errors import InputError


class Rule(Protocol):
    def report(self, trial_number: int, epoch: int, value: float) -> bool:
        """Note that the trial reached `value` after `epoch` (from 1); True: it goes on."""


class NoStopping:
    """Every trial runs to its end."""

    def report(self, trial_number: int, epoch: int, value: float) -> bool:
        return True


class ASHA:
    """Asynchronous successive halving, stopping variant (Li et al., MLSys 2020).

    Rungs stand at `grace` x `factor`^k epochs below `epochs`. A trial that reaches a rung goes on
    if it is among the best 1 / `factor` of all values seen there so far; the first `factor` - 1
    at a rung have too little company to be judged and go on.
    """

    def __init__(self, epochs: int, *, grace: int = 1, factor: int = 3) -> None:
        self.factor = factor
        self.rungs = []
        rung = grace
        while rung < epochs:
            self.rungs.append(rung)
            rung *= factor
        self._seen: dict[int, dict[int, float]] = defaultdict(dict)

    def report(self, trial_number: int, epoch: int, value: float) -> bool:
        if epoch not in self.rungs:
            return True
        seen = self._seen[epoch]
        seen[trial_number] = value
        if len(seen) < self.factor:
            return True
        places = len(seen) // self.factor
        better = sum(other < value for other in seen.values())
        return better < places


class Hyperband:
    """Several ASHAs side by side, which begin to stop at 1, `factor`, `factor`² … times `grace`
    (Li et al., JMLR 2018), for how early the first epochs tell the last is not known before.

    Each bracket spends about as many epochs; the number of a trial says which one it is in.
    """

    def __init__(self, epochs: int, *, grace: int = 1, factor: int = 3) -> None:
        first = [grace]
        while first[-1] * factor < epochs:
            first.append(first[-1] * factor)
        self.brackets = [ASHA(epochs, grace=rung, factor=factor) for rung in first]
        shares = [len(first) / (n + 1) * factor**n for n in reversed(range(len(first)))]
        self._ends = [total / sum(shares) for total in itertools.accumulate(shares)]

    def bracket(self, trial_number: int) -> int:
        """Any stretch of numbers has about the right shares: the golden ratio spreads it."""
        place = trial_number * (math.sqrt(5) - 1) / 2 % 1
        return next((n for n, end in enumerate(self._ends) if place < end), len(self._ends) - 1)

    def report(self, trial_number: int, epoch: int, value: float) -> bool:
        return self.brackets[self.bracket(trial_number)].report(trial_number, epoch, value)


SCHEDULERS = ("asha", "hyperband", "none")


def rule(name: str, epochs: int, *, grace: int = 1, factor: int = 3) -> Rule:
    """The rule called `name` for trials of at most `epochs`, none of which is stopped before its
    epoch `grace`; of those that come to a rung one in `factor` goes on. Raises `InputError`."""
    match name:
        case "asha":
            return ASHA(epochs, grace=grace, factor=factor)
        case "hyperband":
            return Hyperband(epochs, grace=grace, factor=factor)
        case "none":
            return NoStopping()
    raise InputError(f"--scheduler {name}: not known; allowed: {', '.join(SCHEDULERS)}")
