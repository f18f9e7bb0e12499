"""The samplers: named points, random draws, TPE, TPE within latent-size bins; and their table."""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Mapping
from typing import Any

import numpy as np
from optuna.samplers import BaseSampler
from optuna.study import StudyDirection

from raycae.config import TRAINING_KEYS, Config
from raycae.model.architecture import Infeasible, build_architecture
from raycae.optimization.drawing import Draw, ReusedGenerator, Window, WindowTPESampler
from raycae.optimization.greedy_sampler import GreedySampler
from raycae.optimization.grid import GridSampler
from raycae.optimization.history import History, HistoryTrial
from raycae.optimization.optuna_patches import apply_optuna_patches
from raycae.optimization.random_trial import RandomTrial
from raycae.optimization.sampler import TRIES, Candidate, Proposal, Sampler, SamplerSetup
from raycae.space.parameters import Value
from raycae.space.space import Space

PATIENCE = 50
"""Number of draws for one trial that use the sampler's model; later draws are random."""


class PointsSampler(Sampler):
    """Suggests the named points of the space, all with one seed before the next seed."""

    starts_with_points = False

    def __init__(self, setup: SamplerSetup) -> None:
        super().__init__(setup)
        seeds = range(setup.seed, setup.seed + setup.n_seeds)
        # A dict is an ordered set here.
        self._remaining = dict.fromkeys((name, seed) for seed in seeds for name in setup.points)

    def sample(self, number: int, history: History) -> Iterator[Candidate]:
        """See `Sampler.sample`."""
        while self._remaining:
            name, seed = next(iter(self._remaining))
            config = self.space.points[name]
            yield Candidate(config, self.space.params_of(config), seed, name)
            self._remaining.pop((name, seed))  # Another driver was first.

    def begin(self, number: int, proposal: Proposal) -> None:
        """See `Sampler.begin`."""
        if proposal.point is not None:
            self._remaining.pop((proposal.point, proposal.seed), None)


class DrawingSampler(Sampler):
    """Base of the samplers that draw at random or from one of Optuna's.

    Every draw has a generator or an Optuna sampler of its own, whose seed follows from the seed of
    the search, the trial number and the number of the draw. So a proposal does not depend on
    earlier draws.
    """

    def __init__(self, setup: SamplerSetup) -> None:
        super().__init__(setup)
        self._unfinished = UnfinishedNetworks(setup.settings)
        self._window: Window | None = None
        self._seen: tuple[int, Hashable] | None = None
        """Version of the history and selection of the trials in the window."""

    def make_optuna_sampler(self, seed: int) -> BaseSampler | None:
        """Make the Optuna sampler of one draw.

        Args:
            seed: Its random seed.

        Returns:
            The sampler; None, unless overridden, for a random draw.
        """
        return None

    def select_trials(self, history: History) -> list[HistoryTrial]:
        """Select the trials that the Optuna sampler sees; none unless overridden."""
        return []

    def get_selection(self) -> Hashable:
        """Return what the selection depends on besides the history."""
        return None

    def is_fallback(self, config: Config) -> bool:
        """Return whether a configuration is only second choice; never, unless overridden."""
        return False

    def sample(self, number: int, history: History) -> Iterator[Candidate]:
        """See `Sampler.sample`."""
        while network := self._unfinished.get_first():
            yield from self._draw(number, history, network)
            self._unfinished.drop_first()  # All its settings have been tried.
        yield from self._draw(number, history, {})

    def begin(self, number: int, proposal: Proposal) -> None:
        """See `Sampler.begin`."""
        self._unfinished.begin(proposal)

    def _draw(
        self, number: int, history: History, network: Mapping[str, Value]
    ) -> Iterator[Candidate]:
        """Yield `TRIES` draws; the parameters in `network` are given, the others are drawn."""
        distributions = {n: self.space.parameters[n].distribution for n in self.space.parameters}
        for attempt in range(TRIES):
            sequence = np.random.SeedSequence([self.setup.seed, number, attempt])
            seed = int(sequence.generate_state(1)[0])
            sampler = self.make_optuna_sampler(seed) if attempt < PATIENCE else None
            draw: Draw | RandomTrial
            if sampler is None:
                draw = RandomTrial(ReusedGenerator(seed, "random").rng, network)
            else:
                draw = Draw(self._open_window(history), sampler, distributions, network)
            config = self.space.draw(draw)
            # Without the rounding errors of Optuna's arithmetic.
            params = {n: self.space.parameters[n].label(v) for n, v in draw.params.items()}
            yield Candidate(config, params, is_fallback=not network and self.is_fallback(config))

    def _open_window(self, history: History) -> Window:
        """Return the window of the history; draws from the same history share what is fitted."""
        if self._window is None:
            self._window = Window(get_directions(history.cost))
        key = history.version, self.get_selection()
        if key != self._seen:
            selected = self.select_trials(history)
            if selected:
                apply_optuna_patches()  # Not before: a preview needs no SciPy.
            self._window.show(selected)
            self._seen = key
        return self._window


class RandomSampler(DrawingSampler):
    """Draws every parameter independently and uniformly, or uniformly on its log scale."""


class TPESampler(DrawingSampler):
    """Optuna's multivariate tree-structured Parzen estimator (Bergstra et al., NeurIPS 2011)."""

    def make_optuna_sampler(self, seed: int) -> BaseSampler:
        """See `DrawingSampler.make_optuna_sampler`."""
        return WindowTPESampler(seed)

    def select_trials(self, history: History) -> list[HistoryTrial]:
        """See `DrawingSampler.select_trials`."""
        return list(history.select_recent().values())


class StrataSampler(TPESampler):
    """TPE that asks for a trial of the latent-size bin which needs one most.

    TPE sees the trials of all bins. Those outside the wanted bin break a constraint, by more the
    farther away they are. Draws outside the bin are fallbacks.
    """

    def __init__(self, setup: SamplerSetup) -> None:
        super().__init__(setup)
        self._strata = setup.strata
        self._wanted: int | None = None
        self._latent_sizes: dict[int, int] = {}

    def sample(self, number: int, history: History) -> Iterator[Candidate]:
        """See `Sampler.sample`."""
        self._wanted = self._strata.choose_weakest() if self._strata else None
        yield from super().sample(number, history)

    def get_selection(self) -> Hashable:
        """See `DrawingSampler.get_selection`."""
        return self._wanted

    def select_trials(self, history: History) -> list[HistoryTrial]:
        """See `DrawingSampler.select_trials`."""
        strata, wanted = self._strata, self._wanted
        if strata is None or wanted is None:
            return super().select_trials(history)
        selected = history.select_recent(lambda latent_size: strata.of(latent_size) == wanted)
        return [
            # How far the latent size is outside the wanted bin, in doublings; 0 means inside.
            trial.with_constraint(
                "stratum", strata.compute_distance(history.latent_sizes[number], wanted)
            )
            for number, trial in selected.items()
        ]

    def is_fallback(self, config: Config) -> bool:
        """See `DrawingSampler.is_fallback`."""
        if self._strata is None:
            return False
        try:
            latent_size = build_architecture(config).latent_size
        except Infeasible:
            return False  # The proposer refuses it.
        return self._strata.of(latent_size) != self._wanted

    def begin(self, number: int, proposal: Proposal) -> None:
        """See `Sampler.begin`."""
        super().begin(number, proposal)
        if self._strata:
            self._latent_sizes[number] = build_architecture(proposal.config).latent_size
            self._strata.begin_trial(self._latent_sizes[number])

    def end(self, number: int, state: str, error: float | None) -> None:
        """See `Sampler.end`."""
        if self._strata:
            latent_size = self._latent_sizes.pop(number)
            self._strata.end_trial(latent_size, None if state == "FAIL" else error)


class UnfinishedNetworks:
    """Networks that were proposed with fewer training settings than wanted (`--settings`).

    Args:
        settings: Number of training settings that each network is tried with.
    """

    def __init__(self, settings: int) -> None:
        self._settings = settings
        self._seen: set[str] = set()
        self._missing: dict[str, tuple[int, dict[str, Value]]] = {}
        """By architecture hash: how many settings are missing, and the network's parameters."""

    def get_first(self) -> dict[str, Value] | None:
        """Return the parameters of the network that comes next, if there is one."""
        return next((params for _, params in self._missing.values()), None)

    def drop_first(self) -> None:
        """Give up the network that comes next."""
        self._missing.pop(next(iter(self._missing)))

    def begin(self, proposal: Proposal) -> None:
        """Count a proposal; its network comes next from now on, while settings are missing."""
        if self._settings == 1:
            return
        network = build_architecture(proposal.config).hash
        if network not in self._seen:
            self._seen.add(network)
            params = {n: v for n, v in proposal.params.items() if n not in TRAINING_KEYS}
            self._missing[network] = (self._settings, params)
        if network in self._missing:
            n_missing, params = self._missing.pop(network)
            if n_missing > 1:
                self._missing = {network: (n_missing - 1, params), **self._missing}


SAMPLERS: dict[str, type[Sampler]] = {
    "tpe": TPESampler,
    "strata": StrataSampler,
    "random": RandomSampler,
    "grid": GridSampler,
    "points": PointsSampler,
    "greedy": GreedySampler,
}
"""The samplers by the names that `--sampler` takes."""


def get_cost(space: Space, recorded: Mapping[str, Any]) -> str | None:
    """Return the cost column of a search for a Pareto front; None if only the error counts.

    Args:
        space: The space of the search.
        recorded: The options that are given, of those that a study records.
    """
    is_frontier = recorded.get("objective", space.file.objective) == "frontier"
    return recorded.get("cost", "latent_size") if is_frontier else None


def choose_sampler(space: Space, cost: str | None = None) -> str:
    """Choose the sampler of a search that names none.

    Args:
        space: The search space.
        cost: Column that is minimised besides the error, if any.

    Returns:
        The name of a sampler.
    """
    if space.parameters:
        return "strata" if cost == "latent_size" else "tpe"
    return "greedy" if space.file.series else "points"


def get_directions(cost: str | None) -> list[StudyDirection]:
    """Return Optuna's directions: minimise the error, and the cost if there is one.

    Args:
        cost: Column that is minimised besides the error, if any.
    """
    return [StudyDirection.MINIMIZE] * (2 if cost else 1)
