"""Early stopping as a plain rule: given (trial, epoch, error), should the trial continue?

This module uses neither Ray nor torch, so the Tune adapter, fused training and simulations share
its rules. Every rule is deterministic: the same reports in the same order give the
same verdicts, so replaying a ledger restores its state.
"""

from __future__ import annotations

import itertools
import math
from abc import ABC, abstractmethod
from bisect import bisect_left, insort
from collections import defaultdict
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol

from raycae.errors import InputError
from raycae.formatting import join_words

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

Known = Mapping[str, Any]
"""Columns of a trial by name."""
NOTHING: Known = {}
"""An empty default for columns that are only read."""
FACTOR = 4
"""Default reduction factor: about one trial in four continues from a rung."""
GRACE_SHARE = 12
"""By default no trial is stopped in the first of this many parts of its epochs."""
BASE = "base"
"""Name of the point that the report compares the trials of a study with."""


class StoppingRule(Protocol):
    """Decides after each epoch whether a trial continues."""

    def report(self, trial_number: int, epoch: int, value: float, known: Known = NOTHING) -> bool:
        """Record the error of a trial and decide whether it continues.

        Args:
            trial_number: Number of the trial in its study.
            epoch: Epoch that ended, from 1.
            value: Validation error after that epoch; lower is better.
            known: Other columns of the trial, for rules that compare them: its settings and sizes,
                and the columns of this epoch. Sums over earlier epochs may differ after a resume.

        Returns:
            True if the trial continues, False if it is stopped.
        """


class NoStopping:
    """Lets every trial run to its end."""

    def report(self, trial_number: int, epoch: int, value: float, known: Known = NOTHING) -> bool:
        """See `StoppingRule.report`."""
        return True


class AtRungs(ABC):
    """Base of the rules that judge a trial once at each rung.

    Rungs are at `grace` x `factor`^k epochs, below `epochs`. A trial that reports a rung again,
    after a restart, counts once and gets the same verdict.

    Args:
        epochs: Epochs of a trial that is not stopped.
        grace: The first rung.
        factor: The reduction factor.
    """

    def __init__(self, epochs: int, *, grace: int = 1, factor: int = FACTOR) -> None:
        self.factor = factor
        self.rungs = compute_rungs(epochs, grace, factor)
        self._verdicts: dict[tuple[int, int], bool] = {}

    def report(self, trial_number: int, epoch: int, value: float, known: Known = NOTHING) -> bool:
        """See `StoppingRule.report`."""
        if epoch not in self.rungs:
            return True
        if (trial_number, epoch) not in self._verdicts:
            self._verdicts[trial_number, epoch] = self._judge(epoch, value, known)
        return self._verdicts[trial_number, epoch]

    @abstractmethod
    def _judge(self, rung: int, value: float, known: Known) -> bool:
        """Add a trial to a rung and decide whether it continues."""


class ASHA(AtRungs):
    """Asynchronous successive halving, stopping type (Li et al., MLSys 2020).

    A trial that reaches a rung continues if it is among the best `n // factor` of the `n` trials
    that have reached the rung so far, itself included: the top 1 / `factor` of algorithm 2 of the
    paper. Ties continue together. A trial is judged when it arrives, as in Ray's `ASHAScheduler`
    and syne-tune's ASHA with `type="stopping"`. The promotion type would pause it and look again
    later.

    With fewer than `factor` trials at a rung, `n // factor` is 0 and the paper lets none continue.
    Here the best so far always continues, as in Optuna's `SuccessiveHalvingPruner` and syne-tune:
    a rule that stops cannot wait for further trials, and stopping the best would lose it.

    The number of trials that continue is not limited. With a sampler that improves, most new trials
    are better than most earlier ones and continue. So such a search spends more epochs per trial.
    """

    def __init__(self, epochs: int, *, grace: int = 1, factor: int = FACTOR) -> None:
        super().__init__(epochs, grace=grace, factor=factor)
        self._values: dict[int, list[float]] = defaultdict(list)
        """Per rung the errors seen there, ascending."""

    def _judge(self, rung: int, value: float, known: Known) -> bool:
        values = self._values[rung]
        insort(values, value)
        return bisect_left(values, value) < max(1, len(values) // self.factor)


class ParetoASHA(AtRungs):
    """ASHA on two objectives, the error and a `cost`.

    A trial's rank is the number of trials at the rung that are better in one objective and not
    worse in the other (Fonseca & Fleming, ICGA 1993). It continues if fewer than `n // factor` of
    the `n` trials at the rung have a lower rank. So a trial on the Pareto front is never stopped.
    The first `factor` - 1 trials at a rung continue, because so few do not show what is worth its
    cost. The ranks are kept in arrays: 5,000 trials at a rung take 0.19 instead of 5.30 s of CPU
    (analysis/FINDINGS.md).
    """

    def __init__(self, epochs: int, *, cost: str, grace: int = 1, factor: int = FACTOR) -> None:
        super().__init__(epochs, grace=grace, factor=factor)
        import numpy as np  # It takes 0.1 s, and the help of a search imports this module.

        self.cost = cost
        self._trials: dict[int, NDArray[np.float64]] = defaultdict(lambda: np.empty((3, 0)))
        """Per rung the errors, costs and ranks of the N trials seen there, (3, N)."""

    def _judge(self, rung: int, value: float, known: Known) -> bool:
        import numpy as np

        cost = float(known[self.cost])
        errors, costs, ranks = self._trials[rung]
        differ = (errors != value) | (costs != cost)
        ranks += differ & (value <= errors) & (cost <= costs)
        rank = int(np.count_nonzero(differ & (errors <= value) & (costs <= cost)))
        n_better = int(np.count_nonzero(ranks < rank))
        self._trials[rung] = np.column_stack([self._trials[rung], (value, cost, rank)])
        n = len(errors) + 1
        return n < self.factor or n_better < n // self.factor


class KeepOnlyBest(AtRungs):
    """Lets a trial continue from a rung only if it is the best that has reached it so far."""

    def __init__(self, epochs: int, *, grace: int = 1, factor: int = FACTOR) -> None:
        super().__init__(epochs, grace=grace, factor=factor)
        self._best: dict[int, float] = defaultdict(lambda: math.inf)

    def _judge(self, rung: int, value: float, known: Known) -> bool:
        self._best[rung] = min(value, self._best[rung])
        return value == self._best[rung]


class PerGroup:
    """Applies one rule per group, so that trials are compared only within their group.

    Args:
        make: Makes the rule of a new group.
        group: Returns the group of a trial from its columns.
    """

    def __init__(
        self, make: Callable[[], StoppingRule], group: Callable[[Known], Hashable]
    ) -> None:
        self._rules: dict[Hashable, StoppingRule] = defaultdict(make)
        self._group = group

    def report(self, trial_number: int, epoch: int, value: float, known: Known = NOTHING) -> bool:
        """See `StoppingRule.report`."""
        return self._rules[self._group(known)].report(trial_number, epoch, value, known)


class AllOf:
    """Lets a trial continue only if both rules do."""

    def __init__(self, first: StoppingRule, second: StoppingRule) -> None:
        self._rules = (first, second)

    def report(self, trial_number: int, epoch: int, value: float, known: Known = NOTHING) -> bool:
        """See `StoppingRule.report`."""
        verdicts = [rule.report(trial_number, epoch, value, known) for rule in self._rules]
        return all(verdicts)  # Not a generator: both rules have to record the error.


class ExemptBasePoint:
    """Never stops the trial of the point `BASE`, because the report compares with it.

    Its errors count at every rung like those of any other trial.
    """

    def __init__(self, rule: StoppingRule) -> None:
        self._rule = rule

    def report(self, trial_number: int, epoch: int, value: float, known: Known = NOTHING) -> bool:
        """See `StoppingRule.report`."""
        should_continue = self._rule.report(trial_number, epoch, value, known)
        return should_continue or known.get("point") == BASE


class Hyperband:
    """Runs several ASHAs that begin to stop at different epochs (Li et al., JMLR 2018).

    Before a search it is not known how early the last epoch can be predicted. With rungs r_1 < … <
    r_m there are m + 1 brackets: s = m stops at all of them, s = m - 1 from r_2 on, and so on; the
    trials of s = 0 all run to their end. Trials are compared only within their bracket.

    Every bracket spends an equal share of the epochs. A trial of a bracket with rungs q_1 < … < q_k
    spends in expectation E = q_1 + (q_2 - q_1) / F + … + (epochs - q_k) / F^k epochs, F the
    `factor`, because one in F continues from each rung. So the share of the trials that a bracket
    gets is proportional to 1 / E. The paper's table 1 counts every rung's epochs from the first
    one, as if survivors were trained again; here they continue, so the shares differ from F^s / (s
    + 1) by a few percentage points.

    Trials arrive one by one, so the trial number decides on the bracket: the fractional part of
    number x golden ratio is a low-discrepancy sequence, and any run of numbers has about the
    right shares.

    Args:
        epochs: Epochs of a trial that is not stopped.
        grace: The smallest first rung.
        factor: The reduction factor.
        halving: Makes the rule of one bracket from `epochs`, `grace` and `factor`.
    """

    def __init__(
        self,
        epochs: int,
        *,
        grace: int = 1,
        factor: int = FACTOR,
        halving: Callable[..., StoppingRule] = ASHA,
    ) -> None:
        starts = [*compute_rungs(epochs, grace, factor), epochs]
        self.brackets = [halving(epochs, grace=start, factor=factor) for start in starts]
        shares = [
            1 / _compute_expected_epochs(epochs, compute_rungs(epochs, start, factor), factor)
            for start in starts
        ]
        self.shares = [share / sum(shares) for share in shares]
        """Per bracket the share of the trials; they sum to 1."""
        self._ends = list(itertools.accumulate(self.shares))

    def find_bracket(self, trial_number: int) -> int:
        """Return the index in `brackets` of the bracket that a trial is in.

        Args:
            trial_number: Number of the trial in its study.
        """
        position = trial_number * (math.sqrt(5) - 1) / 2 % 1
        return next((n for n, end in enumerate(self._ends) if position < end), len(self._ends) - 1)

    def report(self, trial_number: int, epoch: int, value: float, known: Known = NOTHING) -> bool:
        """See `StoppingRule.report`."""
        bracket = self.brackets[self.find_bracket(trial_number)]
        return bracket.report(trial_number, epoch, value, known)


@dataclass(frozen=True)
class RuleOptions:
    """What a rule is made from; each takes what it needs.

    Attributes:
        epochs: Epochs of a trial that is not stopped.
        grace: No trial is stopped before this epoch.
        factor: About one trial in `factor` continues from a rung.
        cost: Column that trials are compared by besides the error, if any.
        family: Column that the trials of one family share, if only the best of each continues.
    """

    epochs: int
    grace: int = 1
    factor: int = FACTOR
    cost: str | None = None
    family: str | None = None


def make_halving(options: RuleOptions) -> StoppingRule:
    """Make ASHA for one or two objectives; with a family, only its best trial continues.

    Args:
        options: What the rule is made from.
    """
    pace = {"grace": options.grace, "factor": options.factor}
    halving: StoppingRule = (
        ParetoASHA(options.epochs, cost=options.cost, **pace)
        if options.cost
        else ASHA(options.epochs, **pace)
    )
    if options.family is None:
        return halving
    family = options.family
    siblings = PerGroup(lambda: KeepOnlyBest(options.epochs, **pace), lambda known: known[family])
    return AllOf(halving, siblings)


def make_hyperband(options: RuleOptions) -> StoppingRule:
    """Make Hyperband, whose brackets are rules of `make_halving`.

    Args:
        options: What the rule is made from.
    """

    def make_bracket(epochs: int, *, grace: int, factor: int) -> StoppingRule:
        return make_halving(replace(options, epochs=epochs, grace=grace, factor=factor))

    return Hyperband(
        options.epochs, grace=options.grace, factor=options.factor, halving=make_bracket
    )


SCHEDULERS: dict[str, Callable[[RuleOptions], StoppingRule] | None] = {
    "asha": make_halving,
    "hyperband": make_hyperband,
    "none": None,
}
"""What makes a rule, by the names that `--scheduler` takes; None: no trial is stopped."""


def make_rule(
    name: str,
    epochs: int,
    *,
    grace: int = 1,
    factor: int = FACTOR,
    cost: str | None = None,
    stratum: Callable[[Known], Hashable] | None = None,
    family: str | None = None,
) -> StoppingRule:
    """Make the rule called `name`. It never stops the trial of the point `BASE`.

    Args:
        name: One of `SCHEDULERS`.
        epochs: Epochs of a trial that is not stopped.
        grace: No trial is stopped before this epoch.
        factor: About one trial in `factor` continues from a rung.
        cost: A column to compare trials by besides the error. Not used with `stratum`.
        stratum: Returns the stratum of a trial from its columns. Trials are compared only within
            their stratum.
        family: A column that the trials of one family share. Of these only the best so far
            continues from a rung. With `hyperband` families are compared within a bracket, at its
            rungs.

    Raises:
        InputError: There is no rule of that name.
    """
    if name not in SCHEDULERS:
        raise InputError(f"--scheduler {name}: unknown. Use {join_words(list(SCHEDULERS), 'or')}.")
    make = SCHEDULERS[name]
    if make is None:
        return NoStopping()
    options = RuleOptions(epochs, grace, factor, None if stratum else cost, family)
    rule = PerGroup(partial(make, options), stratum) if stratum else make(options)
    return ExemptBasePoint(rule)


def choose_grace(epochs: int) -> int:
    """Choose the first rung of a search that names none.

    The first epochs of a long training often do not tell how it ends (analysis/FINDINGS.md).

    Args:
        epochs: Epochs of a trial that is not stopped.

    Returns:
        A twelfth of the epochs, rounded down, and at least 1.
    """
    return max(1, epochs // GRACE_SHARE)


def list_rungs(name: str, epochs: int, *, grace: int, factor: int) -> list[int]:
    """Return the epochs after which the rule called `name` may stop a trial, ascending.

    Args:
        name: One of `SCHEDULERS`, or the name of a rule that this version does not have.
        epochs: Epochs of a trial that is not stopped.
        grace: The first rung.
        factor: The reduction factor.

    Returns:
        The rungs; none for a rule that this version does not have.
    """
    return compute_rungs(epochs, grace, factor) if SCHEDULERS.get(name) else []


def compute_rungs(epochs: int, grace: int, factor: int) -> list[int]:
    """Compute the rungs `grace` x `factor`^k that lie below `epochs`, ascending.

    Args:
        epochs: Epochs of a trial that is not stopped.
        grace: The first rung.
        factor: The reduction factor.
    """
    rungs = [grace]
    while rungs[-1] * factor < epochs:
        rungs.append(rungs[-1] * factor)
    return [rung for rung in rungs if rung < epochs]


def _compute_expected_epochs(epochs: int, rungs: Sequence[int], factor: int) -> float:
    """Compute the mean epochs of a trial if one in `factor` continues from each of `rungs`."""
    spans = itertools.pairwise([0, *rungs, epochs])
    return sum((end - start) / factor**n for n, (start, end) in enumerate(spans))
