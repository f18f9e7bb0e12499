"""Draw parameter values from Optuna's samplers, without Optuna's storage.

With `optuna.Study.ask`, half of the CPU time of a proposal from 200 trials was spent outside the
sampler: trials were copied into a storage, and each value was written to it. Here a sampler sees a
`Window`, and a `Draw` asks it for values through the public methods of `BaseSampler`.
"""

from __future__ import annotations

import threading
import warnings
from collections.abc import Container, Mapping, Sequence
from typing import Any

import numpy as np
import optuna
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)
from optuna.samplers import BaseSampler, RandomSampler, TPESampler
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState

from raycae.optimization.history import HistoryTrial, make_trial

NAME = "window"
"""The name of a window in its storage, which holds nothing else."""

CAN_REUSE = hasattr(TPESampler(seed=0), "_random_sampler") and all(
    hasattr(getattr(sampler, "_rng", None), "rng") for sampler in (RandomSampler(0), TPESampler())
)
"""Whether this version of Optuna has its generators where `ReusedGenerator` replaces them."""


class Window(optuna.Study):
    """The trials that a sampler of Optuna sees, as the study that it asks for them.

    Args:
        directions: What the values of the trials are, one for each objective.
    """

    def __init__(self, directions: Sequence[StudyDirection]) -> None:
        storage = optuna.storages.InMemoryStorage()
        storage.create_new_study(directions, NAME)
        super().__init__(NAME, storage, RandomSampler(0))
        self.models: dict[tuple[str, ...], Any] = {}
        """What `WindowTPESampler` has fitted to the trials, by parameters."""
        self.groups: dict[tuple[frozenset[str], ...], Any] = {}
        """The groups of parameters that Optuna models together, by `kinds`."""
        self.kinds: tuple[frozenset[str], ...] = ()
        """The different sets of parameters that the trials have."""
        self._shown: list[HistoryTrial] = []

    def show(self, trials: Sequence[HistoryTrial]) -> None:
        """Replace the trials.

        Args:
            trials: The trials, oldest first; they are numbered from 0.
        """
        self._shown = [trial.with_number(number) for number, trial in enumerate(trials)]
        self.models = {}
        self.kinds = tuple(dict.fromkeys(trial.kind for trial in self._shown))

    def select_kinds(self) -> Window:
        """Return a window with the first trial of each set of parameters."""
        selected = Window(self.directions)
        selected._shown = list({trial.kind: trial for trial in reversed(self._shown)}.values())
        selected._shown.sort(key=lambda trial: trial.number)
        return selected

    def _get_trials(
        self,
        deepcopy: bool = True,
        states: Container[TrialState] | None = None,
        use_cache: bool = False,
    ) -> list[FrozenTrial]:
        return [trial for trial in self._shown if states is None or trial.state in states]


class Draw:
    """The values of one draw; it has the `suggest_*` methods of an Optuna trial.

    Args:
        window: The trials that the sampler sees.
        sampler: The sampler.
        distributions: The distribution of each parameter, by name.
        fixed: Values of parameters that are not drawn.

    Attributes:
        params: The values so far, by name.
    """

    def __init__(
        self,
        window: Window,
        sampler: BaseSampler,
        distributions: Mapping[str, BaseDistribution],
        fixed: Mapping[str, Any],
    ) -> None:
        self.params: dict[str, Any] = {}
        self._window, self._sampler, self._fixed = window, sampler, fixed
        self._distributions = distributions
        trial = make_trial(TrialState.RUNNING, None, {}, {}, {})
        self._trial = trial.with_number(len(window.get_trials(deepcopy=False)))
        self._relative: dict[str, Any] | None = None
        sampler.before_trial(window, self._trial)

    def suggest_float(
        self, name: str, low: float, high: float, *, step: float | None = None, log: bool = False
    ) -> float:
        """Return the value of a float parameter.

        Args:
            name: Its name. The other arguments are those of its distribution.
            low: Lowest value.
            high: Highest value.
            step: Distance of neighbouring values, if any.
            log: Whether it is drawn on its log scale.
        """
        value: float = self._suggest(name)
        return value

    def suggest_int(
        self, name: str, low: int, high: int, *, step: int = 1, log: bool = False
    ) -> int:
        """Return the value of an integer parameter.

        Args:
            name: Its name. The other arguments are those of its distribution.
            low: Lowest value.
            high: Highest value.
            step: Distance of neighbouring values.
            log: Whether it is drawn on its log scale.
        """
        return int(self._suggest(name))

    def suggest_categorical(self, name: str, choices: list[Any]) -> Any:
        """Return the value of a categorical parameter.

        Args:
            name: Its name.
            choices: Its values.
        """
        return self._suggest(name)

    def _suggest(self, name: str) -> Any:
        if name not in self.params:
            self.params[name] = self._choose(name, self._distributions[name])
        return self.params[name]

    def _choose(self, name: str, distribution: BaseDistribution) -> Any:
        """Choose a value in the order of `optuna.Trial`: fixed, single, together, alone."""
        if name in self._fixed:
            return self._fixed[name]
        if distribution.single():
            if isinstance(distribution, CategoricalDistribution):
                return distribution.choices[0]
            assert isinstance(distribution, FloatDistribution | IntDistribution)
            return distribution.low
        if self._relative is None:
            space = self._sampler.infer_relative_search_space(self._window, self._trial)
            self._relative = self._sampler.sample_relative(self._window, self._trial, space)
        if name in self._relative:
            value = self._relative[name]
            if distribution._contains(distribution.to_internal_repr(value)):
                return value
        return self._sampler.sample_independent(self._window, self._trial, name, distribution)


class ReusedGenerator:
    """The random numbers of a seed, from a generator that the last one with the same use had.

    To make a NumPy `RandomState` takes 0.2 ms, because it asks the system for a seed first; a draw
    needs one or two of them.

    Args:
        seed: Random seed.
        use: What it is for. Only the newest one of each use and thread may be read.

    Attributes:
        rng: The generator, where Optuna's samplers look for it.
    """

    _generators = threading.local()

    def __init__(self, seed: int, use: str) -> None:
        kept = vars(self._generators)
        if use not in kept:
            kept[use] = np.random.RandomState(0)
        self.rng: np.random.RandomState = kept[use]
        self.rng.seed(seed)


class QuickRandomSampler(RandomSampler):
    """Optuna's random sampler, with a generator that the last one had.

    Args:
        seed: Random seed of one draw.
    """

    def __init__(self, seed: int) -> None:
        super().__init__(None if CAN_REUSE else seed)
        if CAN_REUSE:
            self._rng: Any = ReusedGenerator(seed, "alone")


class WindowTPESampler(TPESampler):
    """Optuna's multivariate TPE, fitted once to a window for all draws from it.

    Optuna fits it for each draw, and sorts and reads the trials again for each group of parameters.
    The draws are the same. Together with drawing without Optuna's storage, a proposal after 45 to
    90 trials of `ex2` took 14.8 instead of 21.5 ms of CPU (analysis/FINDINGS.md).

    Args:
        seed: Random seed of one draw.
    """

    def __init__(self, seed: int) -> None:
        # `group` models conditional parameters jointly. A constant liar, Optuna's default, would
        # change nothing: a window shows running trials by their epochs, as COMPLETE ones.
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            super().__init__(
                seed=None if CAN_REUSE else seed,
                multivariate=True,
                group=True,
                constant_liar=False,
            )
        if CAN_REUSE:
            self._rng: Any = ReusedGenerator(seed, "model")
            self._random_sampler = QuickRandomSampler(seed)

    def infer_relative_search_space(
        self, study: optuna.Study, trial: FrozenTrial
    ) -> dict[str, BaseDistribution]:
        """See `TPESampler.infer_relative_search_space`."""
        if not isinstance(study, Window):
            return super().infer_relative_search_space(study, trial)
        if study.kinds not in study.groups:
            # Another trial with the same parameters does not change the groups.
            inferred = super().infer_relative_search_space(study.select_kinds(), trial)
            study.groups[study.kinds] = inferred, self._search_space_group
        space: dict[str, BaseDistribution]
        space, self._search_space_group = study.groups[study.kinds]
        return space

    def _get_internal_repr(
        self,
        trials: list[FrozenTrial],
        search_space: dict[str, BaseDistribution],
        study: optuna.Study,
    ) -> dict[str, np.ndarray]:
        """Return the values of the trials that have all these parameters, by name."""
        if not isinstance(study, Window):
            return super()._get_internal_repr(trials, search_space, study)
        shown = [trial for trial in trials if isinstance(trial, HistoryTrial)]
        rows = [trial.get_internal() for trial in shown if search_space.keys() <= trial.kind]
        return {name: np.asarray([row[name] for row in rows]) for name in search_space}

    def _build_parzen_estimator(
        self,
        study: optuna.Study,
        search_space: dict[str, BaseDistribution],
        trials: list[FrozenTrial],
        handle_below: bool,
    ) -> Any:
        """Return the model of the better or the worse trials, which is fitted once to a window."""
        if not isinstance(study, Window):
            return super()._build_parzen_estimator(study, search_space, trials, handle_below)
        key = (*search_space, "below" if handle_below else "above")
        if key not in study.models:
            study.models[key] = super()._build_parzen_estimator(
                study, search_space, trials, handle_below
            )
        return study.models[key]
