"""What the samplers know of earlier trials: settings, learning curves, errors and costs."""

from __future__ import annotations

import itertools
import math
from bisect import insort
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping
from typing import Any

import optuna
from optuna.distributions import BaseDistribution
from optuna.trial import FrozenTrial, TrialState

from raycae.config import TRAINING_KEYS, UNSEEN_KEYS, Config
from raycae.model.architecture import build_architecture
from raycae.optimization.frontier import find_frontier

optuna.logging.set_verbosity(optuna.logging.ERROR)  # raycae reports trials itself.

LEAST_ERROR = 1e-12
"""Smallest error (MSE) of which a logarithm is taken; anything below is rounding."""
NOTHING: Mapping[Any, Any] = {}
"""An empty default for mappings that are only read."""
WINDOW = 200
"""Largest number of trials that a sampler sees; without a limit, proposals would become slower as
a study grows. A quarter each is for the best and the running trials, the rest for the newest."""
N_COMPARED = 10
"""Trials are compared at the highest epoch that this many have reached: as many as Optuna's TPE
needs to begin."""


class History:
    """The trials that samplers learn from, by trial number.

    Numbers below 0 are trials of other studies or drivers. Failed trials are left out.

    Args:
        cost: Column that is minimised besides the error, one of `frontier.COSTS`, if any.
    """

    def __init__(self, cost: str | None = None) -> None:
        self.cost = cost
        self.version = 0
        """Counts what changes the selection of trials: reports and ends."""
        self.ended: dict[int, HistoryTrial] = {}
        """Trials with a measured error, in the order in which they ended."""
        self.latent_sizes: dict[int, int] = {}
        """Latent size of every trial, running or ended."""
        self._running: dict[int, HistoryTrial] = {}
        """The running trials as they began."""
        self._lengths: list[float] = []
        """`get_length` of the trials that ended, ascending."""
        self._curves: dict[int, dict[int, float]] = defaultdict(dict)
        """Validation error after each epoch of the running trials."""
        self._ranking: list[tuple[float, int]] = []
        """(error, trial number) of the trials that ran to their end, best first."""
        self._scored: list[dict[str, Any]] = []
        """Error and cost of the trials that ran to their end; empty without a cost."""
        self._runs: Counter[tuple[Any, ...]] = Counter()
        """Number of trials by training identity."""

    def count_runs(self, config: Config) -> int:
        """Count the proposals that trained the same network in the same way.

        Args:
            config: A resolved configuration.

        Returns:
            The number of trials of this driver, running or ended in any way.
        """
        return self._runs[make_training_identity(config)]

    def begin(
        self,
        number: int,
        config: Config,
        params: Mapping[str, Any],
        distributions: Mapping[str, BaseDistribution],
    ) -> None:
        """Add a running trial.

        Args:
            number: Trial number.
            config: Its configuration.
            params: The values of its parameters.
            distributions: The distributions that these values come from.
        """
        self._runs[make_training_identity(config)] += 1
        self.latent_sizes[number] = build_architecture(config).latent_size
        values = {n: normalize_value(value, distributions[n]) for n, value in params.items()}
        self._running[number] = make_trial(TrialState.RUNNING, None, values, dict(distributions))

    def report(self, number: int, epoch: int, error: float) -> bool:
        """Add the error after an epoch of a running trial, unless that epoch is already known.

        Args:
            number: Trial number.
            epoch: Epoch, from 1.
            error: Validation error (MSE) after that epoch.

        Returns:
            True if the epoch was new.
        """
        is_new = epoch not in self._curves[number]
        if is_new:
            self.version += 1
            self._curves[number][epoch] = error
        return is_new

    def end(
        self, number: int, state: str, error: float | None, known: Mapping[str, Any] = NOTHING
    ) -> None:
        """End a running trial.

        Args:
            number: Trial number.
            state: COMPLETE, PRUNED or FAIL.
            error: Error of a COMPLETE trial; None for the others.
            known: Columns of the trial, of which the cost is read.
        """
        self.version += 1
        if state != "FAIL":
            values = self._compute_values(error, known)
            self._keep(number, self._freeze(number, TrialState[state], values))
        if error is not None:
            self._rank(number, error, known)
        del self._running[number]
        self._curves.pop(number, None)

    def learn(
        self,
        config: Config,
        params: Mapping[str, Any],
        distributions: Mapping[str, BaseDistribution],
        error: float | None,
        curve: Mapping[int, float] = NOTHING,
    ) -> None:
        """Add a trial of another study or driver, under a number below 0.

        A trial whose cost has to be measured is left out: another machine has other times.

        Args:
            config: Its configuration.
            params: The values of its parameters.
            distributions: The distributions that these values come from.
            error: Its error; None if it was stopped early.
            curve: Validation error by epoch, for a trial that was stopped early.
        """
        architecture = build_architecture(config)
        known = {name: getattr(architecture, name) for name in ("latent_size", "n_params", "flops")}
        if self.cost and self.cost not in known:
            return
        self.version += 1
        number = -1 - len(self.ended)
        self.latent_sizes[number] = architecture.latent_size
        learned = make_trial(
            TrialState.PRUNED if error is None else TrialState.COMPLETE,
            self._compute_values(error, known),
            dict(params),
            dict(distributions),
            dict(curve),
        )
        self._keep(number, learned)
        if error is not None:
            self._rank(number, error, known)

    def select_recent(
        self, is_eligible: Callable[[int], bool] = lambda latent_size: True
    ) -> dict[int, HistoryTrial]:
        """Select at most `WINDOW` trials for a sampler: the best, the running and the newest ones.

        With one objective, trials are compared after equally many epochs: the highest epoch that
        `N_COMPARED` trials have reached, as BOHB does (Falkner, Klein & Hutter, ICML 2018).
        Trials that did not reach it are left out: their errors do not tell how they would have
        ended. While there are fewer trials, the lowest error so far counts.

        Args:
            is_eligible: Whether a trial of a latent size may count among the best.

        Returns:
            Trials by number, ascending; with one objective all as COMPLETE ones.
        """
        best = {number: self.ended[number] for number in self.list_best(is_eligible)}
        newest = ((n, trial) for n, trial in reversed(self.ended.items()) if n not in best)
        if self.cost:
            selected = best | dict(itertools.islice(newest, WINDOW - len(best)))
            return dict(sorted(selected.items()))
        epoch = self._find_compared_epoch()
        reached = [n for n, curve in self._curves.items() if len(curve) >= epoch]
        running = {n: self._freeze(n) for n in reached[-WINDOW // 4 :]}
        comparable = ((n, trial) for n, trial in newest if get_length(trial) >= epoch)
        n_left = WINDOW - len(running) - len(best)
        selected = best | running | dict(itertools.islice(comparable, n_left))
        last = epoch if len(self._lengths) + len(self._curves) >= N_COMPARED else math.inf
        return {n: measure_up_to(trial, last) for n, trial in sorted(selected.items())}

    def list_best(self, is_eligible: Callable[[int], bool]) -> list[int]:
        """List the best trials that ran to their end, at most a quarter of the window.

        Args:
            is_eligible: Whether a trial of a latent size counts.

        Returns:
            Trial numbers, best first; with a cost, those on the Pareto front.
        """
        if self.cost:
            is_on_front = find_frontier(self._scored, self.cost)
            ranked = [number for number in is_on_front if is_on_front[number]]
        else:
            ranked = [number for _, number in self._ranking]
        eligible = (number for number in ranked if is_eligible(self.latent_sizes[number]))
        return list(itertools.islice(eligible, WINDOW // 4))

    def _find_compared_epoch(self) -> float:
        """Find the highest epoch that `N_COMPARED` trials have reached; 1 if there are fewer.

        It is infinite if so many trials ran to their end.
        """
        running = (len(curve) for curve in self._curves.values())
        longest = sorted([*self._lengths[-N_COMPARED:], *running])[-N_COMPARED:]
        return max(1, longest[0]) if len(longest) == N_COMPARED else 1

    def _keep(self, number: int, trial: HistoryTrial) -> None:
        """Add a trial that has ended."""
        self.ended[number] = trial
        insort(self._lengths, get_length(trial))

    def _compute_values(self, error: float | None, known: Mapping[str, Any]) -> list[float] | None:
        """Compute what a sampler minimises; two objectives are compared by their logarithms."""
        if error is None:
            return None
        if not self.cost:
            return [error]
        return [math.log(max(error, LEAST_ERROR)), math.log(known[self.cost])]

    def _rank(self, number: int, error: float, known: Mapping[str, Any]) -> None:
        insort(self._ranking, (error, number))
        if self.cost:
            row = {"trial_number": number, "state": "COMPLETE", "val_mse": error}
            self._scored.append({**row, self.cost: known[self.cost]})

    def _freeze(
        self,
        number: int,
        state: TrialState = TrialState.RUNNING,
        values: list[float] | None = None,
    ) -> HistoryTrial:
        """Return a running trial with its learning curve, in the given state."""
        begun = self._running[number]
        curve = {} if self.cost else dict(self._curves[number])
        return make_trial(state, values, begun.params, begun.distributions, curve, begun.internal)


class HistoryTrial(FrozenTrial):
    """A trial of the history. It is only read, so copies share what it holds.

    Attributes:
        kind: The names of its parameters.
        internal: The values of its parameters as Optuna's models have them, filled when they are
            needed first. Copies share it: computing them took a tenth of the time of a proposal.
    """

    kind: frozenset[str]
    internal: dict[str, float]

    def get_internal(self) -> dict[str, float]:
        """Return the values of its parameters as Optuna's models have them, by name."""
        if not self.internal:
            for name, value in self._params.items():
                self.internal[name] = self._distributions[name].to_internal_repr(value)
        return self.internal

    def with_number(self, number: int) -> HistoryTrial:
        """Return a copy with another number.

        Args:
            number: The number.
        """
        copy = self._copy()
        copy._number = copy._trial_id = number
        return copy

    def with_constraint(self, name: str, violation: float) -> HistoryTrial:
        """Return a copy with one constraint.

        Args:
            name: Name of the constraint.
            violation: By how much it is violated; not above 0 if it is met.
        """
        copy = self._copy()
        copy._system_attrs = {}
        copy.set_constraint(name, violation)
        return copy

    def _copy(self) -> HistoryTrial:
        copy = object.__new__(HistoryTrial)
        vars(copy).update(vars(self))
        return copy


def make_trial(
    state: TrialState,
    values: list[float] | None,
    params: dict[str, Any],
    distributions: dict[str, BaseDistribution],
    curve: dict[int, float] | None = None,
    internal: dict[str, float] | None = None,
) -> HistoryTrial:
    """Make a trial like `optuna.trial.create_trial`, whose checks take 0.3 ms.

    A proposal makes up to `WINDOW` of them.

    Args:
        state: State of the trial.
        values: Values of the objectives.
        params: Values of the parameters, each in its distribution.
        distributions: The distributions.
        curve: Error by epoch.
        internal: `HistoryTrial.internal` of the trial that it is made from, if any.
    """
    trial = HistoryTrial(
        number=-1,
        state=state,
        value=None,
        values=values,
        datetime_start=None,
        datetime_complete=None,
        params=params,
        distributions=distributions,
        user_attrs={},
        system_attrs={},
        intermediate_values=curve or {},
        trial_id=-1,
    )
    trial.kind = frozenset(distributions)
    trial.internal = {} if internal is None else internal
    return trial


def normalize_value(value: Any, distribution: BaseDistribution) -> Any:
    """Return a parameter's value with the type of its distribution: 1.0 for a float written as 1.

    Args:
        value: A value in the distribution.
        distribution: The distribution.
    """
    return distribution.to_external_repr(distribution.to_internal_repr(value))


def get_length(trial: FrozenTrial) -> float:
    """Return the number of epochs of a trial; infinity if it ran to its end.

    Args:
        trial: A trial with the error after each epoch as its intermediate values.
    """
    if trial.state == TrialState.COMPLETE:
        return math.inf
    return len(trial.intermediate_values)


def measure_up_to(trial: HistoryTrial, last: float) -> HistoryTrial:
    """Return a trial with its lowest error up to an epoch.

    Args:
        trial: A trial with one objective. It has the error after each epoch as its intermediate
            values, or it is COMPLETE and comes from a study that did not keep them.
        last: The epoch; infinity for all epochs.

    Returns:
        The trial as a COMPLETE one.
    """
    errors = [error for _, error in sorted(trial.intermediate_values.items())]
    if trial.state == TrialState.COMPLETE and (last == math.inf or not errors):
        return trial
    value = min(errors if last == math.inf else errors[: int(last)])
    return make_trial(
        TrialState.COMPLETE, [value], trial.params, trial.distributions, None, trial.internal
    )


def make_training_identity(config: Config) -> tuple[Any, ...]:
    """Return what a training depends on; equal if the network and its training are the same.

    Args:
        config: A resolved configuration.

    Returns:
        The hash of the architecture and the settings that it does not contain.
    """
    names = (*UNSEEN_KEYS, *TRAINING_KEYS)
    return build_architecture(config).hash, *(getattr(config, name) for name in names)
