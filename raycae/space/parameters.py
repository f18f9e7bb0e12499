"""Parameters of a search space: real, integer and categorical."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from decimal import Decimal
from functools import cached_property
from typing import TYPE_CHECKING, Annotated, Any, Literal, Protocol, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from raycae.config import STAGE_KEYS, IsBool, IsFloat, IsInt, Settings

if TYPE_CHECKING:  # Optuna takes 0.2 s of CPU to import; a space is read without it.
    from optuna.distributions import BaseDistribution

FiniteFloat = Annotated[float, Field(allow_inf_nan=False), IsFloat]
PositiveFloat = Annotated[float, Field(gt=0, allow_inf_nan=False), IsFloat]
PositiveInt = Annotated[int, Field(ge=1), IsInt]
Value = bool | int | float | str
"""What tables and Optuna hold for a parameter; lists are JSON text."""
MAX_STEPS = 1e9
"""Largest number of steps in the range of a float parameter."""
ROUNDING = 1e-12
"""Relative difference up to which two floats mean the same decimal number."""


class Suggest(Protocol):
    """The methods of `optuna.trial.Trial` that a space needs to draw a configuration."""

    def suggest_float(
        self, name: str, low: float, high: float, *, step: float | None = None, log: bool = False
    ) -> float:
        """See `optuna.trial.Trial.suggest_float`."""

    def suggest_int(
        self, name: str, low: int, high: int, *, step: int = 1, log: bool = False
    ) -> int:
        """See `optuna.trial.Trial.suggest_int`."""

    def suggest_categorical(self, name: str, choices: list[Any]) -> Any:
        """See `optuna.trial.Trial.suggest_categorical`."""


class StrictModel(BaseModel):
    """Base of models that are frozen and refuse unknown keys."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class BaseParameter(StrictModel):
    """What all kinds of parameters share."""

    per: Literal["stage"] | None = None
    """With `stage`, every stage has a value of its own."""
    when: dict[str, Any] = {}
    """Sample it only if these settings have this value, or one of these values."""


class FloatParameter(BaseParameter):
    """A real number in [low, high], optionally on a log scale or in steps.

    With a `step` the values are low, low + step, low + 2 step, … up to high. A high between two
    steps is lowered to the step below it.
    """

    type: Literal["float"]
    """A real number."""
    low: FiniteFloat
    """Smallest value, included."""
    high: FiniteFloat
    """Largest value, included."""
    log: Annotated[bool, IsBool] = False
    """Sample on a log scale."""
    step: PositiveFloat | None = None
    """Distance of neighbouring values; none for a continuous range."""

    @model_validator(mode="after")
    def _check_range(self) -> Self:
        check_range(self)
        if self.step and self.high - self.low > MAX_STEPS * self.step:
            raise ValueError(f"step {self.step} is too fine; at most {MAX_STEPS:,.0f} steps")
        if self.step:
            n_steps = (to_decimal(self.high) - to_decimal(self.low)) // to_decimal(self.step)
            high = self._compute_step_value(int(n_steps))
            if to_decimal(high) != to_decimal(self.low) + n_steps * to_decimal(self.step):
                raise ValueError(
                    f"low {self.low} and step {self.step} have too many digits, so their sums are "
                    "rounded; use at most 15 digits"
                )
            object.__setattr__(self, "high", high)
        return self

    @cached_property
    def distribution(self) -> BaseDistribution:
        """The distribution as Optuna has it."""
        from optuna.distributions import FloatDistribution

        return FloatDistribution(self.low, self.high, log=self.log, step=self.step)

    def suggest(self, trial: Suggest, name: str) -> Value:
        """Ask a trial for a value of this parameter.

        Args:
            trial: An Optuna trial, or anything with its `suggest_*` methods.
            name: Name of the column, e.g. `lr` or `channels_2`.

        Returns:
            The value as tables show it.
        """
        return self.label(
            trial.suggest_float(name, self.low, self.high, step=self.step, log=self.log)
        )

    def contains(self, value: Any) -> bool:
        """Return whether a setting's value can be drawn.

        Args:
            value: Value of the setting; a tuple if its stages differ.
        """
        if isinstance(value, tuple):  # Stages differ, but one value is searched for all.
            return False
        if not self.step:
            return bool(self.low <= value <= self.high)
        return math.isclose(
            value, self._find_nearest(value), rel_tol=ROUNDING, abs_tol=ROUNDING * self.step
        )

    def read_label(self, label: Value) -> Any:
        """Return the value of the setting for a label of `label`.

        Args:
            label: The value as tables show it.
        """
        return label

    def label(self, value: Any) -> Value:
        """Return the value as a float, without rounding errors where there are steps.

        The value of a step is its decimal number: low 0.1 plus two steps of 0.1 is 0.3, not
        0.30000000000000004. A value between two steps, of a named point, stays as it is.

        Args:
            value: Value of the setting.
        """
        return self._find_nearest(value) if self.step and self.contains(value) else float(value)

    @property
    def middle(self) -> Value:
        """The middle of the range, geometric on a log scale."""
        return self._snap(math.sqrt(self.low * self.high) if self.log else self._arithmetic_middle)

    def list_neighbours(self, value: Any, distance: int) -> list[Value]:
        """List the values that are a number of moves above and below a value.

        A move is a factor of three on a log scale, a step, or an eighth of the range. The last move
        ends at the end of the range. From outside, the first move leads there.

        Args:
            value: Value to move from.
            distance: Number of moves, from 1.

        Returns:
            At most two values, the upper one first.
        """
        if self.log:
            return list_around(self, value, distance, lambda v, n: v * 3.0**n)
        width = self.step or (self.high - self.low) / 8
        return list_around(self, value, distance, lambda v, n: v + n * width)

    @property
    def _arithmetic_middle(self) -> float:
        return self.low + (self.high - self.low) / 2

    def _snap(self, value: float) -> Value:
        if self.step:
            return self._find_nearest(value)
        value = min(max(value, self.low), self.high)
        return min(max(float(f"{value:.3g}"), self.low), self.high)

    def _find_nearest(self, value: float) -> float:
        """Find the value of the step that is nearest to `value`."""
        assert self.step
        inside = min(max(value, self.low), self.high)
        return self._compute_step_value(round((inside - self.low) / self.step))

    def _compute_step_value(self, n_steps: int) -> float:
        """Compute the value `n_steps` steps above low, by decimal arithmetic."""
        assert self.step
        return float(to_decimal(self.low) + n_steps * to_decimal(self.step))


class IntParameter(BaseParameter):
    """An integer in [low, high], optionally on a log scale or in steps.

    With a `step` the values are low, low + step, low + 2 step, … up to high. A high between two
    steps is lowered to the step below it.
    """

    type: Literal["int"]
    """An integer."""
    low: Annotated[int, IsInt]
    """Smallest value, included."""
    high: Annotated[int, IsInt]
    """Largest value, included."""
    log: Annotated[bool, IsBool] = False
    """Sample on a log scale."""
    step: PositiveInt = 1
    """Distance of neighbouring values."""

    @model_validator(mode="after")
    def _check_range(self) -> Self:
        check_range(self)
        object.__setattr__(self, "high", self.high - (self.high - self.low) % self.step)
        return self

    @cached_property
    def distribution(self) -> BaseDistribution:
        """The distribution as Optuna has it."""
        from optuna.distributions import IntDistribution

        return IntDistribution(self.low, self.high, log=self.log, step=self.step)

    def suggest(self, trial: Suggest, name: str) -> Value:
        """Ask a trial for a value of this parameter.

        Args:
            trial: An Optuna trial, or anything with its `suggest_*` methods.
            name: Name of the column, e.g. `lr` or `channels_2`.

        Returns:
            The value as tables show it.
        """
        return trial.suggest_int(name, self.low, self.high, step=self.step, log=self.log)

    def contains(self, value: Any) -> bool:
        """Return whether a setting's value can be drawn.

        Args:
            value: Value of the setting; a tuple if its stages differ.
        """
        if isinstance(value, tuple):  # Stages differ, but one value is searched for all.
            return False
        return bool(self.low <= value <= self.high and (value - self.low) % self.step == 0)

    def read_label(self, label: Value) -> Any:
        """Return the value of the setting for a label of `label`.

        Args:
            label: The value as tables show it.
        """
        return label

    def label(self, value: Any) -> Value:
        """Return the value as an int.

        Args:
            value: Value of the setting.
        """
        return int(value)

    @property
    def middle(self) -> Value:
        """The middle of the range, geometric on a log scale."""
        middle = math.sqrt(self.low * self.high) if self.log else (self.low + self.high) / 2
        return self._snap(middle)

    def list_neighbours(self, value: Any, distance: int) -> list[Value]:
        """List the values that are a number of moves above and below a value.

        A move is a factor of two on a log scale, else a step. The last move ends at the end of the
        range. From outside, the first move leads there.

        Args:
            value: Value to move from.
            distance: Number of moves, from 1.

        Returns:
            At most two values, the upper one first.
        """
        if self.log:
            return list_around(self, value, distance, lambda v, n: v * 2.0**n)
        return list_around(self, value, distance, lambda v, n: v + n * self.step)

    def _snap(self, value: float) -> Value:
        return self.low + round((min(max(value, self.low), self.high) - self.low) / self.step) * (
            self.step
        )


class CategoricalParameter(BaseParameter):
    """One of the `choices`; tables show a choice that is a list as JSON text."""

    type: Literal["categorical"]
    """One of several values."""
    choices: list[Any] = Field(min_length=1)
    """The values."""

    @cached_property
    def labels(self) -> list[Value]:
        """The choices as tables show them."""
        return [format_label(choice) for choice in self.choices]

    @cached_property
    def distribution(self) -> BaseDistribution:
        """The distribution as Optuna has it."""
        from optuna.distributions import CategoricalDistribution

        return CategoricalDistribution(self.labels)

    def suggest(self, trial: Suggest, name: str) -> Value:
        """Ask a trial for a value of this parameter.

        Args:
            trial: An Optuna trial, or anything with its `suggest_*` methods.
            name: Name of the column, e.g. `lr` or `channels_2`.

        Returns:
            The value as tables show it.
        """
        label: Value = trial.suggest_categorical(name, self.labels)
        return label

    def contains(self, value: Any) -> bool:
        """Return whether a setting's value can be drawn.

        Args:
            value: Value of the setting; a tuple if its stages differ.
        """
        return self.label(value) in self.labels

    def read_label(self, label: Any) -> Any:
        """Return the choice with a label; a label that no choice has is returned as it is.

        Args:
            label: The value as tables show it.
        """
        return self.choices[self.labels.index(label)] if label in self.labels else label

    def label(self, value: Any) -> Value:
        """Return the value as tables show it; a float becomes the choice it equals up to rounding.

        Args:
            value: Value of the setting.
        """
        label = format_label(value)
        if isinstance(label, float) and label not in self.labels:
            floats = (choice for choice in self.labels if isinstance(choice, float))
            equal = (choice for choice in floats if math.isclose(choice, label, rel_tol=ROUNDING))
            return next(equal, label)
        return label

    @property
    def middle(self) -> Value:
        """The choice in the middle of the list."""
        return self.labels[(len(self.labels) - 1) // 2]

    def list_neighbours(self, value: Any, distance: int) -> list[Value]:
        """List the choices that are a number of entries after and before a value in the list.

        Args:
            value: Value to move from; one that is no choice counts as before the first.
            distance: Number of entries, from 1.

        Returns:
            At most two choices, the later one first.
        """
        index = self.labels.index(self.label(value)) if self.contains(value) else -1
        indices = [index + distance, index - distance]
        return [self.labels[i] for i in indices if 0 <= i < len(self.labels)]


Parameter = Annotated[
    FloatParameter | IntParameter | CategoricalParameter, Field(discriminator="type")
]


def to_decimal(value: float) -> Decimal:
    """Return a float as it is written: 0.1, not the binary number next to it.

    Args:
        value: A finite float.
    """
    return Decimal(repr(value))


def check_range(parameter: Any) -> None:
    """Check that the range of a float or integer parameter makes sense.

    Args:
        parameter: The parameter.

    Raises:
        ValueError: The range is empty, or its scale does not go with it.
    """
    low, high = parameter.low, parameter.high
    if low > high:
        raise ValueError(f"low {low} is above high {high}; low must be at most high")
    if parameter.log and low <= 0:
        raise ValueError(f"low {low} is not allowed with log: true; a log scale starts above 0")
    if parameter.log and parameter.step not in (None, 1 if parameter.type == "int" else None):
        raise ValueError("log and step together are not possible; choose one")


def list_around(
    parameter: Any, value: Any, distance: int, move: Callable[[float, int], float]
) -> list[Value]:
    """List the values that are a number of moves up and down from a value.

    Args:
        parameter: A float or integer parameter.
        value: Value to move from; a tuple, of stages that differ, counts as the low end.
        distance: Number of moves, from 1.
        move: Moves a number by a signed number of moves.

    Returns:
        At most two values inside the range, the upper one first.
    """
    low, high = parameter.low, parameter.high
    start = low if isinstance(value, tuple) else value
    start = min(max(start, move(low, -1)), move(high, 1))
    found = []
    for direction in (1, -1):
        before = move(start, direction * (distance - 1))
        if parameter.step and parameter.contains(before):
            before = parameter.label(before)
        if before < high if direction == 1 else before > low:
            found.append(parameter._snap(move(start, direction * distance)))
    # The last step may end before the end of the range.
    return [neighbour for neighbour in found if neighbour != value]


def format_label(value: Any) -> Value:
    """Return a choice as tables show it: a list as JSON text, anything else as it is.

    Args:
        value: A choice, or the value of a setting.
    """
    if isinstance(value, list | tuple):
        return json.dumps([float(v) if isinstance(v, int) else v for v in value])
    return value


def read_setting(name: str, value: Any) -> Any:
    """Return the value that a setting takes from what a file says, e.g. 16 from 1.6e1.

    Args:
        name: Name of the setting.
        value: The value as it was read.

    Raises:
        ValidationError: The setting does not allow the value.
    """
    return get_entry(name, getattr(Settings(**{name: value}), name), None)


def read_choice(name: str, choice: Any) -> Any:
    """Return a float choice of an integer setting as an integer, any other choice as it is.

    Args:
        name: Name of the setting.
        choice: The choice as it was read; it may be invalid.
    """
    try:
        read = read_setting(name, choice) if isinstance(choice, float) else choice
    except ValidationError:
        return choice
    return read if isinstance(read, int) else choice


def get_entry(name: str, value: Any, stage: int | None) -> Any:
    """Return the entry of a per-stage setting for one stage.

    Args:
        name: Name of the setting.
        value: Value of the setting.
        stage: Index of the stage, from 0; None for the value that all stages share.

    Returns:
        The entry, or None if the stages, or the convolutions of the stage, differ. The value of a
        setting that is not per stage is returned as it is.
    """
    if name not in STAGE_KEYS or not isinstance(value, list | tuple):
        return value
    if stage is None:
        return value[0] if len(set(value)) == 1 else None
    entry = value[stage] if stage < len(value) else value[0]
    if name == "decoder_channels" and isinstance(entry, tuple):
        return entry[0] if len(set(entry)) == 1 else None
    return entry
