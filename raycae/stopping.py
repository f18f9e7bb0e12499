"""Early stopping as a plain rule: told (trial, epoch, value), it says go on or stop.

It knows neither Ray nor training, so that the bridge to Tune, fused trials and simulations can ask
the same rule. Values are errors: less is better. `known` are other columns of the trial, for rules
that look at them.
"""

from __future__ import annotations

import itertools
import math
from collections import defaultdict
from collections.abc import Callable, Hashable, Mapping
from functools import partial
from typing import Any, Protocol

from raycae.errors import InputError

Known = Mapping[str, Any]
NOTHING: Known = {}
FACTOR = 4
"""Unless told otherwise one in so many goes on."""
BASE = "base"
"""The named point that a study's trials are compared with."""


class Rule(Protocol):
    def report(self, trial_number: int, epoch: int, value: float, known: Known = NOTHING) -> bool:
        """Note that the trial reached `value` after `epoch` (from 1); True: it goes on."""


class NoStopping:
    """Every trial runs to its end."""

    def report(self, trial_number: int, epoch: int, value: float, known: Known = NOTHING) -> bool:
        return True


class ASHA:
    """Asynchronous successive halving, stopping variant (Li et al., MLSys 2020), that keeps to its
    share.

    Rungs stand at `grace` x `factor`^k epochs below `epochs`. Of the trials that reach a rung the
    best so far goes on, and whoever is among the best 1 / `factor` of all values seen there as long
    as no more than that have gone on. Without the latter a sampler that learns sends nearly
    everything on: what it proposes later is better than most of what came before
    (analysis/FINDINGS.md).
    """

    def __init__(self, epochs: int, *, grace: int = 1, factor: int = FACTOR) -> None:
        self.factor = factor
        self.rungs = _rungs(epochs, grace, factor)
        self._seen: dict[int, dict[int, float]] = defaultdict(dict)
        self._went_on: dict[int, set[int]] = defaultdict(set)

    def report(self, trial_number: int, epoch: int, value: float, known: Known = NOTHING) -> bool:
        if epoch not in self.rungs:
            return True
        seen, went_on = self._seen[epoch], self._went_on[epoch]
        if trial_number not in seen:
            seen[trial_number] = value
            places = len(seen) // self.factor
            better = sum(other < value for other in seen.values())
            if not better or (better < places and len(went_on) < places):
                went_on.add(trial_number)
        return trial_number in went_on


class ParetoASHA:
    """ASHA where two things count, the error and a `cost`: of all trials at a rung those go on that
    the fewest others beat in both (the ranking of Fonseca & Fleming, ICGA 1993)."""

    def __init__(self, epochs: int, *, cost: str, grace: int = 1, factor: int = FACTOR) -> None:
        self.factor = factor
        self.cost = cost
        self.rungs = _rungs(epochs, grace, factor)
        self._seen: dict[int, dict[int, tuple[float, float]]] = defaultdict(dict)
        self._rank: dict[int, dict[int, int]] = defaultdict(dict)
        """How many beat each."""

    def report(self, trial_number: int, epoch: int, value: float, known: Known = NOTHING) -> bool:
        if epoch not in self.rungs:
            return True
        seen, rank = self._seen[epoch], self._rank[epoch]
        if trial_number not in seen:
            new = (value, float(known[self.cost]))
            for number, other in seen.items():
                rank[number] += _beats(new, other)
            rank[trial_number] = sum(_beats(other, new) for other in seen.values())
            seen[trial_number] = new
        if len(seen) < self.factor:
            return True
        places = len(seen) // self.factor
        better = sum(other < rank[trial_number] for other in rank.values())
        return better < places


class OfItsOwn:
    """A rule of its own, made by `make`, for all trials of which `group` says the same: nobody is
    compared with a stranger."""

    def __init__(self, make: Callable[[], Rule], group: Callable[[Known], Hashable]) -> None:
        self._rules: dict[Hashable, Rule] = defaultdict(make)
        self._group = group

    def report(self, trial_number: int, epoch: int, value: float, known: Known = NOTHING) -> bool:
        return self._rules[self._group(known)].report(trial_number, epoch, value, known)


class TheBest:
    """At the rungs of ASHA whoever is not the best so far is stopped."""

    def __init__(self, epochs: int, *, grace: int = 1, factor: int = FACTOR) -> None:
        self.rungs = _rungs(epochs, grace, factor)
        self._best: dict[int, float] = {}

    def report(self, trial_number: int, epoch: int, value: float, known: Known = NOTHING) -> bool:
        if epoch not in self.rungs:
            return True
        self._best[epoch] = min(value, self._best.get(epoch, math.inf))
        return value == self._best[epoch]


class Both:
    """A trial goes on where both rules let it."""

    def __init__(self, first: Rule, second: Rule) -> None:
        self._rules = (first, second)

    def report(self, trial_number: int, epoch: int, value: float, known: Known = NOTHING) -> bool:
        verdicts = [rule.report(trial_number, epoch, value, known) for rule in self._rules]
        return all(verdicts)  # both have to hear of it


class SparingTheBase:
    """The trial of the point `BASE` runs to its end: a base that was stopped after one epoch says
    nothing of how much better the best trial is. Its errors count at every rung all the same."""

    def __init__(self, rule: Rule) -> None:
        self._rule = rule

    def report(self, trial_number: int, epoch: int, value: float, known: Known = NOTHING) -> bool:
        goes_on = self._rule.report(trial_number, epoch, value, known)
        return goes_on or known.get("point") == BASE


def _rungs(epochs: int, grace: int, factor: int) -> list[int]:
    rungs = [grace]
    while rungs[-1] * factor < epochs:
        rungs.append(rungs[-1] * factor)
    return [rung for rung in rungs if rung < epochs]


def _beats(one: tuple[float, float], other: tuple[float, float]) -> bool:
    return one != other and one[0] <= other[0] and one[1] <= other[1]


class Hyperband:
    """Several ASHAs side by side, which begin to stop at 1, `factor`, `factor`² … times `grace`
    (Li et al., JMLR 2018), for how early the first epochs tell the last is not known before.

    Each bracket spends about as many epochs; the number of a trial says which one it is in.
    """

    def __init__(
        self,
        epochs: int,
        *,
        grace: int = 1,
        factor: int = FACTOR,
        halving: Callable[..., Rule] = ASHA,
    ) -> None:
        first = _rungs(epochs, grace, factor) or [grace]
        self.brackets = [halving(epochs, grace=rung, factor=factor) for rung in first]
        shares = [len(first) / (n + 1) * factor**n for n in reversed(range(len(first)))]
        self._ends = [total / sum(shares) for total in itertools.accumulate(shares)]

    def bracket(self, trial_number: int) -> int:
        """Any stretch of numbers has about the right shares: the golden ratio spreads it."""
        place = trial_number * (math.sqrt(5) - 1) / 2 % 1
        return next((n for n, end in enumerate(self._ends) if place < end), len(self._ends) - 1)

    def report(self, trial_number: int, epoch: int, value: float, known: Known = NOTHING) -> bool:
        bracket = self.brackets[self.bracket(trial_number)]
        return bracket.report(trial_number, epoch, value, known)


def rungs(name: str, epochs: int, *, grace: int, factor: int) -> list[int]:
    """The epochs after which the rule called `name` may stop a trial, ascending."""
    return [] if name == "none" else _rungs(epochs, grace, factor)


SCHEDULERS = ("asha", "hyperband", "none")


def rule(
    name: str,
    epochs: int,
    *,
    grace: int = 1,
    factor: int = FACTOR,
    cost: str | None = None,
    stratum: Callable[[Known], Hashable] | None = None,
    family: str | None = None,
) -> Rule:
    """The rule called `name` for trials of at most `epochs`, none of which is stopped before its
    epoch `grace`; of those that come to a rung one in `factor` goes on, and the base point.

    `stratum`: trials are compared with those of their own alone. `cost`: where there are no strata,
    by both the error and this column. `family`: the column that members of a family share; of these
    only the best so far goes on. Raises `InputError`.
    """
    if name not in SCHEDULERS:
        raise InputError(f"--scheduler {name}: not known; allowed: {', '.join(SCHEDULERS)}")
    if name == "none":
        return NoStopping()
    halving: Callable[..., Rule] = ASHA
    if cost and not stratum:
        halving = partial(ParetoASHA, cost=cost)
    if name == "hyperband":
        halving = partial(Hyperband, halving=halving)
    pace = {"grace": grace, "factor": factor}
    chosen: Rule = halving(epochs, **pace)
    if stratum:
        chosen = OfItsOwn(lambda: halving(epochs, **pace), stratum)
    if family is not None:
        of_family = OfItsOwn(lambda: TheBest(epochs, **pace), lambda known: known[family])
        chosen = Both(chosen, of_family)
    return SparingTheBase(chosen)
