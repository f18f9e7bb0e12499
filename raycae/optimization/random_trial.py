"""Random values for `Space.draw`, without the cost of an Optuna study."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from raycae.space.parameters import Value


class RandomTrial:
    """Draws the values that `optuna.samplers.RandomSampler` would draw, to the bit.

    A random configuration of `ex2` takes 0.25 ms of CPU. With Optuna, which keeps each value in a
    storage, it takes 1.6 ms.

    Args:
        random: What it draws from.
        given: Values that are not drawn, by parameter.
    """

    def __init__(
        self, random: np.random.RandomState, given: Mapping[str, Value] | None = None
    ) -> None:
        self._random = random
        self._given = given or {}
        self.params: dict[str, Value] = {}
        """The values so far, by parameter."""

    def suggest_float(
        self, name: str, low: float, high: float, *, step: float | None = None, log: bool = False
    ) -> float:
        """See `Suggest.suggest_float`."""
        is_given = name in self._given
        value = self._given[name] if is_given else self._draw_float(low, high, step, log=log)
        self.params[name] = float(value)
        return float(value)

    def suggest_int(
        self, name: str, low: int, high: int, *, step: int = 1, log: bool = False
    ) -> int:
        """See `Suggest.suggest_int`."""
        is_given = name in self._given
        value = self._given[name] if is_given else self._draw_int(low, high, step, log=log)
        self.params[name] = int(value)
        return int(value)

    def suggest_categorical(self, name: str, choices: list[Any]) -> Any:
        """See `Suggest.suggest_categorical`."""
        if name in self._given:
            value = self._given[name]
        elif len(choices) == 1:
            value = choices[0]
        else:
            value = choices[self._random.uniform(0.0, 1.0, len(choices)).argmax()]
        self.params[name] = value
        return value

    def _draw_float(self, low: float, high: float, step: float | None, *, log: bool) -> float:
        if low == high:  # A space lowers `high` to a step.
            return low
        if log:
            drawn = math.exp(self._random.uniform(math.log(low), math.log(high)))
            return min(max(drawn, low), math.nextafter(high, high - 1))
        if step is None:
            return min(self._random.uniform(low, high), math.nextafter(high, high - 1))
        drawn = self._random.uniform(low - 0.5 * step, high + 0.5 * step)
        return float(min(max(np.round((drawn - low) / step) * step + low, low), high))

    def _draw_int(self, low: int, high: int, step: int, *, log: bool) -> int:
        if high - low < step:
            return low
        half = 0.5 * step
        if log:
            drawn = round(
                math.exp(self._random.uniform(math.log(low - half), math.log(high + half)))
            )
        else:
            place = (self._random.uniform(low - half, high + half) - low) / step
            drawn = math.floor(place + 0.5) * step + low
        return min(max(drawn, low), high)
