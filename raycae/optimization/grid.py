"""Enumerate every combination of a search space."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from typing import Any

from raycae.config import Config
from raycae.space.parameters import Value
from raycae.space.space import Space


def list_grid(space: Space) -> Iterator[tuple[dict[str, Value], Config]]:
    """Every combination of a space, the last parameter changing fastest, conditions heeded.

    Ranges without a step are walked at a few places: whole numbers on a log scale by doubling,
    reals at their low, (geometric) middle and high.
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
    """Suggests, at each question, the choice that `path` says, and the first beyond its end."""

    def __init__(self, path: list[int]) -> None:
        self.path = path.copy()
        self.sizes: list[int] = []
        self.params: dict[str, Value] = {}

    def suggest_float(
        self, name: str, low: float, high: float, *, step: float | None = None, log: bool = False
    ) -> float:
        if step:
            places = [low + i * step for i in range(round((high - low) / step) + 1)]
        else:
            middle = math.sqrt(low * high) if log else (low + high) / 2
            places = [low, middle, high] if low < high else [low]
        return float(self._choose(name, places))

    def suggest_int(
        self, name: str, low: int, high: int, *, step: int = 1, log: bool = False
    ) -> int:
        if log:
            doubled = (low * 2**i for i in itertools.count())
            return int(self._choose(name, list(itertools.takewhile(lambda v: v <= high, doubled))))
        return int(self._choose(name, list(range(low, high + 1, step))))

    def suggest_categorical(self, name: str, choices: list[Any]) -> Any:
        return self._choose(name, choices)

    def _choose(self, name: str, places: list[Any]) -> Any:
        at = len(self.sizes)
        if at == len(self.path):
            self.path.append(0)
        self.sizes.append(len(places))
        self.params[name] = places[self.path[at]]
        return self.params[name]
