"""Parameters of a search space: real, integer and categorical."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from decimal import Decimal
from functools import cached_property
from typing import Annotated, Any, Literal, Protocol, Self

from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from raycae.config import STAGE_KEYS, IsBool, IsFloat, IsInt, Settings

FiniteFloat = Annotated[float, Field(allow_inf_nan=False), IsFloat]
PositiveFloat = Annotated[float, Field(gt=0, allow_inf_nan=False), IsFloat]
PositiveInt = Annotated[int, Field(ge=1), IsInt]
Value = bool | int | float | str
MOST_STEPS = 1e9
ROUNDING = 1e-12
"""Relative difference up to which two floats stand for the same decimal number."""


class Suggest(Protocol):
    """What a space needs of a trial: the methods of `optuna.trial.Trial`."""

    def suggest_float(
        self, name: str, low: float, high: float, *, step: float | None = None, log: bool = False
    ) -> float: ...

    def suggest_int(
        self, name: str, low: int, high: int, *, step: int = 1, log: bool = False
    ) -> int: ...

    def suggest_categorical(self, name: str, choices: list[Any]) -> Any: ...


class StrictModel(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class BaseParameter(StrictModel):
    per: Literal["stage"] | None = None
    """`stage`: one value for each stage instead of one for all."""
    when: dict[str, Any] = {}
    """Only sampled where these settings have this value, or one of these values."""


class FloatParameter(BaseParameter):
    """A real number in [low, high], on a log scale or in steps if wanted. With a `step` the values
    are low, low + step, low + 2 step, … up to high; a high between two of them counts as the lower
    one."""

    type: Literal["float"]
    low: FiniteFloat
    high: FiniteFloat
    log: Annotated[bool, IsBool] = False
    step: PositiveFloat | None = None

    @model_validator(mode="after")
    def _check_range(self) -> Self:
        check_range(self)
        if self.step and self.high - self.low > MOST_STEPS * self.step:
            raise ValueError(f"step {self.step} is too fine; at most {MOST_STEPS:,.0f} steps")
        if self.step:
            n_steps = (to_decimal(self.high) - to_decimal(self.low)) // to_decimal(self.step)
            high = self._at(int(n_steps))
            if to_decimal(high) != to_decimal(self.low) + n_steps * to_decimal(self.step):
                raise ValueError(
                    f"step {self.step} from {self.low} has more digits than add up exactly; "
                    "write low and step with at most 15 digits"
                )
            object.__setattr__(self, "high", high)
        return self

    @property
    def distribution(self) -> BaseDistribution:
        return FloatDistribution(self.low, self.high, log=self.log, step=self.step)

    def suggest(self, trial: Suggest, name: str) -> Value:
        return self.label(
            trial.suggest_float(name, self.low, self.high, step=self.step, log=self.log)
        )

    def contains(self, value: Any) -> bool:
        if isinstance(value, tuple):  # stages that differ, where one value is searched for all
            return False
        if not self.step:
            return bool(self.low <= value <= self.high)
        return math.isclose(
            value, self._nearest(value), rel_tol=ROUNDING, abs_tol=ROUNDING * self.step
        )

    def value(self, label: Value) -> Any:
        return label

    def label(self, value: Any) -> Value:
        """Return the value as a float, without rounding errors where there are steps.

        A step's value is the decimal number that it stands for: low 0.1 plus two steps of 0.1 is
        0.3, not 0.30000000000000004. A value between two steps, of a named point, stays as it is.
        """
        return self._nearest(value) if self.step and self.contains(value) else float(value)

    @property
    def middle(self) -> Value:
        return self._snapped(math.sqrt(self.low * self.high) if self.log else self._half)

    def neighbours(self, value: Any, far: int) -> list[Value]:
        """The values `far` places above and below: a factor of three each, a step, or an eighth of
        the range. The end of the range is the last place; from outside it is the first."""
        if self.log:
            return list_around(self, value, far, lambda v, n: v * 3.0**n)
        place = self.step or (self.high - self.low) / 8
        return list_around(self, value, far, lambda v, n: v + n * place)

    @property
    def _half(self) -> float:
        return self.low + (self.high - self.low) / 2

    def _snapped(self, value: float) -> Value:
        if self.step:
            return self._nearest(value)
        value = min(max(value, self.low), self.high)
        return min(max(float(f"{value:.3g}"), self.low), self.high)

    def _nearest(self, value: float) -> float:
        """Return the value of the step that is nearest to `value`."""
        assert self.step
        inside = min(max(value, self.low), self.high)
        return self._at(round((inside - self.low) / self.step))

    def _at(self, n_steps: int) -> float:
        """Return the value `n_steps` steps above low, by decimal arithmetic."""
        assert self.step
        return float(to_decimal(self.low) + n_steps * to_decimal(self.step))


class IntParameter(BaseParameter):
    """A whole number in [low, high], on a log scale or in steps if wanted. With a `step` the values
    are low, low + step, low + 2 step, … up to high; a high between two of them counts as the lower
    one."""

    type: Literal["int"]
    low: Annotated[int, IsInt]
    high: Annotated[int, IsInt]
    log: Annotated[bool, IsBool] = False
    step: PositiveInt = 1

    @model_validator(mode="after")
    def _check_range(self) -> Self:
        check_range(self)
        object.__setattr__(self, "high", self.high - (self.high - self.low) % self.step)
        return self

    @property
    def distribution(self) -> BaseDistribution:
        return IntDistribution(self.low, self.high, log=self.log, step=self.step)

    def suggest(self, trial: Suggest, name: str) -> Value:
        return trial.suggest_int(name, self.low, self.high, step=self.step, log=self.log)

    def contains(self, value: Any) -> bool:
        if isinstance(value, tuple):  # stages that differ, where one value is searched for all
            return False
        return bool(self.low <= value <= self.high and (value - self.low) % self.step == 0)

    def value(self, label: Value) -> Any:
        return label

    def label(self, value: Any) -> Value:
        return int(value)

    @property
    def middle(self) -> Value:
        middle = math.sqrt(self.low * self.high) if self.log else (self.low + self.high) / 2
        return self._snapped(middle)

    def neighbours(self, value: Any, far: int) -> list[Value]:
        """The values `far` places above and below: twice and half, or a step. The end of the range
        is the last place; from outside it is the first."""
        if self.log:
            return list_around(self, value, far, lambda v, n: v * 2.0**n)
        return list_around(self, value, far, lambda v, n: v + n * self.step)

    def _snapped(self, value: float) -> Value:
        return self.low + round((min(max(value, self.low), self.high) - self.low) / self.step) * (
            self.step
        )


class CategoricalParameter(BaseParameter):
    """One of the `choices`. A list as a choice appears in tables as its JSON text."""

    type: Literal["categorical"]
    choices: list[Any] = Field(min_length=1)

    @cached_property
    def labels(self) -> list[Value]:
        return [format_label(choice) for choice in self.choices]

    @property
    def distribution(self) -> BaseDistribution:
        return CategoricalDistribution(self.labels)

    def suggest(self, trial: Suggest, name: str) -> Value:
        label: Value = trial.suggest_categorical(name, self.labels)
        return label

    def contains(self, value: Any) -> bool:
        return self.label(value) in self.labels

    def value(self, label: Any) -> Any:
        """Of a point that lies outside the space, its own value."""
        return self.choices[self.labels.index(label)] if label in self.labels else label

    def label(self, value: Any) -> Value:
        """Return how tables show the value; a float is the choice that it equals up to rounding."""
        label = format_label(value)
        if isinstance(label, float) and label not in self.labels:
            numbers = (own for own in self.labels if isinstance(own, float))
            equal = (own for own in numbers if math.isclose(own, label, rel_tol=ROUNDING))
            return next(equal, label)
        return label

    @property
    def middle(self) -> Value:
        return self.labels[(len(self.labels) - 1) // 2]

    def neighbours(self, value: Any, far: int) -> list[Value]:
        """The choices `far` places behind and before; of what is none of them, those from the first
        one on."""
        at = self.labels.index(self.label(value)) if self.contains(value) else -1
        places = [at + far, at - far]
        return [self.labels[place] for place in places if 0 <= place < len(self.labels)]


Parameter = Annotated[
    FloatParameter | IntParameter | CategoricalParameter, Field(discriminator="type")
]


def to_decimal(value: float) -> Decimal:
    """Return the number as it is written, 0.1 and not the float next to it."""
    return Decimal(repr(value))


def check_range(parameter: Any) -> None:
    low, high = parameter.low, parameter.high
    if low > high:
        raise ValueError(f"low {low} is above high {high}; low has to be at most high")
    if parameter.log and low <= 0:
        raise ValueError(f"low {low} with log: true; a log scale starts above 0")
    if parameter.log and parameter.step not in (None, 1 if parameter.type == "int" else None):
        raise ValueError("log and step together are not possible; choose one")


def list_around(
    parameter: Any, value: Any, far: int, move: Callable[[float, int], float]
) -> list[Value]:
    """The values `far` moves up and down from `value`, as far as there are any."""
    low, high = parameter.low, parameter.high
    start = low if isinstance(value, tuple) else value
    start = min(max(start, move(low, -1)), move(high, 1))
    found = []
    for way in (1, -1):
        before = move(start, way * (far - 1))
        if parameter.step and parameter.contains(before):
            before = parameter.label(before)
        if before < high if way == 1 else before > low:
            found.append(parameter._snapped(move(start, way * far)))
    return [place for place in found if place != value]  # where the last step ends before the range


def format_label(value: Any) -> Value:
    if isinstance(value, list | tuple):
        return json.dumps([float(v) if isinstance(v, int) else v for v in value])
    return value


def read_setting(name: str, value: Any) -> Any:
    """Return the value that the setting `name` takes from `value`: 16 from 1.6e1. Raises
    `ValidationError`."""
    return get_entry(name, getattr(Settings(**{name: value}), name), None)


def read_choice(name: str, choice: Any) -> Any:
    """Return the whole number that a float choice of a whole-number setting stands for; any other
    choice as it is, right or wrong."""
    try:
        read = read_setting(name, choice) if isinstance(choice, float) else choice
    except ValidationError:
        return choice
    return read if isinstance(read, int) else choice


def get_entry(name: str, value: Any, stage: int | None) -> Any:
    """The entry of a per-stage setting for `stage` (None: for all stages, if they agree)."""
    if name not in STAGE_KEYS or not isinstance(value, list | tuple):
        return value
    if stage is None:
        return value[0] if len(set(value)) == 1 else None
    entry = value[stage] if stage < len(value) else value[0]
    if name == "decoder_channels" and isinstance(entry, tuple):
        return entry[0] if len(set(entry)) == 1 else None
    return entry
