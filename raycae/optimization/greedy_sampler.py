"""The sampler that makes single changes to the best trial so far."""

from __future__ import annotations

from collections.abc import Iterator

from raycae.config import Config
from raycae.optimization.feasibility import draw_possible
from raycae.optimization.greedy import (
    KEPT,
    ChangeSource,
    GreedyLadder,
    GreedyStep,
    ListedChanges,
    NeighbourChanges,
    draw_held,
    list_series,
)
from raycae.optimization.history import History
from raycae.optimization.sampler import Candidate, Proposal, Sampler, SamplerSetup


class GreedySampler(Sampler):
    """Suggests single changes to the best trial so far: a listed series, or neighbours.

    Changes run in parallel only if they set different settings.
    """

    starts_with_points = False
    waits_for_results = True
    avoids_other_drivers = False

    def __init__(self, setup: SamplerSetup) -> None:
        super().__init__(setup)
        self._start_point = next(iter(setup.points), None)
        self._start = self._choose_start()
        listed = list_series(self.space)
        self._changes: ChangeSource = (
            ListedChanges(self.space, listed) if listed else NeighbourChanges(self.space)
        )
        self._ladder = GreedyLadder()
        self._running: dict[int, GreedyStep] = {}
        self._passed: set[str] = set()
        """Changes to the best trial so far that need no second look."""

    def sample(self, number: int, history: History) -> Iterator[Candidate]:
        """See `Sampler.sample`."""
        best = self._ladder.best
        if best is None:
            if not self._running:
                yield self._make_candidate(GreedyStep(self._start))
            return  # Everything else is a change to the start, which is running.
        busy = {
            name for step in self._running.values() for name in self._changes.list_settings(step)
        }
        for change in self._changes.list_changes(best):
            if change.name in self._passed or busy & change.settings.keys():
                continue
            self._passed.add(change.name)
            config = self._changes.apply(best, change)
            if config is None or self.space.check(config) is not None:
                continue
            if not history.count_runs(config):
                yield self._make_candidate(GreedyStep(config, change.name, best))

    def begin(self, number: int, proposal: Proposal) -> None:
        """See `Sampler.begin`."""
        step = GreedyStep(proposal.config, proposal.change, proposal.parent)
        self._running[number] = step
        self._changes.begin(number, step)

    def end(self, number: int, state: str, error: float | None) -> None:
        """See `Sampler.end`."""
        step = self._running.pop(number)
        verdict = self._ladder.judge(number, step.parent, state, error)
        if verdict == KEPT:
            self._passed.clear()
        self._changes.end(step, verdict)

    def _make_candidate(self, step: GreedyStep) -> Candidate:
        params = self.space.params_of(step.config)
        point = self._start_point if step.change is None else None
        return Candidate(step.config, params, self.setup.seed, point, step.change, step.parent)

    def _choose_start(self) -> Config:
        """Choose the first named point; else the middle of the space, or a random possible one."""
        if self._start_point is not None:
            return self.space.points[self._start_point]
        middle = draw_held(self.space, {})
        if self.space.check(middle) is None:
            return middle
        return draw_possible(self.space, self.setup.seed)
