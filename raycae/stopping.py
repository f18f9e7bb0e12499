"""Early stopping as a plain rule: told (trial, epoch, value), it says go on or stop.

It knows neither Ray nor training, so that the bridge to Tune, fused trials and simulations can ask
the same rule. Values are errors: less is better.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
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


SCHEDULERS: dict[str, Callable[[int], Rule]] = {
    "asha": ASHA,
    "none": lambda epochs: NoStopping(),
}


def rule(name: str, epochs: int) -> Rule:
    """The rule called `name` for trials of at most `epochs`. Raises `InputError`."""
    if name not in SCHEDULERS:
        raise InputError(f"--scheduler {name}: not known; allowed: {', '.join(SCHEDULERS)}")
    return SCHEDULERS[name](epochs)
