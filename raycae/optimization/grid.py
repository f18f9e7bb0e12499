"""Every combination of a search space, and the sampler that suggests them in order."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from typing import Any

from raycae.config import Config
from raycae.optimization.history import History
from raycae.optimization.sampler import Candidate, Proposal, Sampler, SamplerSetup
from raycae.space.parameters import Value
from raycae.space.space import Space

MAX_GRID_REFUSALS = 100_000
"""Number of combinations in a row that may break the constraints; a grid is walked in order and
may have long stretches that are refused."""


class GridSampler(Sampler):
    """Suggests every combination of the space once, the last parameter changing fastest."""

    max_refusals = MAX_GRID_REFUSALS

    def __init__(self, setup: SamplerSetup) -> None:
        super().__init__(setup)
        self._grid = list_grid(setup.space)
        self._begun: set[frozenset[tuple[str, Value]]] = set()
        """The combinations of all trials that are not named points."""

    def sample(self, number: int, history: History) -> Iterator[Candidate]:
        """See `Sampler.sample`."""
        self.max_refusals = MAX_GRID_REFUSALS
        for n_seen, (params, config) in enumerate(self._grid, 1):
            if frozenset(params.items()) in self._begun:
                # The ledger has it. The count of refusals in a row begins again.
                self.max_refusals = MAX_GRID_REFUSALS + n_seen
            else:
                yield Candidate(config, params)

    def begin(self, number: int, proposal: Proposal) -> None:
        """See `Sampler.begin`."""
        if proposal.point is None:
            self._begun.add(frozenset(proposal.params.items()))


def list_grid(space: Space) -> Iterator[tuple[dict[str, Value], Config]]:
    """List every combination of a space, the last parameter changing fastest.

    Conditions (`when`) are respected. Ranges without a step have a few values: integers on a log
    scale are doubled, floats are at the low end, the middle (geometric on a log scale) and the
    high end.

    Args:
        space: The search space.

    Yields:
        The parameter values and the resolved configuration.
    """
    path: list[int] = []
    while True:
        walker = GridWalker(path)
        config = space.draw(walker)
        yield {n: space.parameters[n].label(v) for n, v in walker.params.items()}, config
        path = walker.path
        while path and path[-1] + 1 == walker.sizes[len(path) - 1]:
            path.pop()
        if not path:
            return
        path[-1] += 1


class GridWalker:
    """Answers the questions of `Space.draw` by a path through the tree of choices.

    Args:
        path: Index of the choice at each question; questions beyond its end get the first choice.
    """

    def __init__(self, path: list[int]) -> None:
        self.path = path.copy()
        self.sizes: list[int] = []
        """Number of choices at each question."""
        self.params: dict[str, Value] = {}
        """The values chosen, by parameter."""

    def suggest_float(
        self, name: str, low: float, high: float, *, step: float | None = None, log: bool = False
    ) -> float:
        """See `Suggest.suggest_float`."""
        if step:
            values = [low + i * step for i in range(round((high - low) / step) + 1)]
        else:
            middle = math.sqrt(low * high) if log else (low + high) / 2
            values = [low, middle, high] if low < high else [low]
        return float(self._choose(name, values))

    def suggest_int(
        self, name: str, low: int, high: int, *, step: int = 1, log: bool = False
    ) -> int:
        """See `Suggest.suggest_int`."""
        if log:
            doubled = (low * 2**i for i in itertools.count())
            return int(self._choose(name, list(itertools.takewhile(lambda v: v <= high, doubled))))
        return int(self._choose(name, list(range(low, high + 1, step))))

    def suggest_categorical(self, name: str, choices: list[Any]) -> Any:
        """See `Suggest.suggest_categorical`."""
        return self._choose(name, choices)

    def _choose(self, name: str, values: list[Any]) -> Any:
        question = len(self.sizes)
        if question == len(self.path):
            self.path.append(0)
        self.sizes.append(len(values))
        self.params[name] = values[self.path[question]]
        return self.params[name]
