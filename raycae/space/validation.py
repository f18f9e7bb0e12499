"""Checks of a search space that go beyond its schema."""

from __future__ import annotations

import difflib
import json
import math
import random
from typing import Any

from pydantic import ValidationError

from raycae.config import STAGE_KEYS, explain_validation_error, list_given, resolve
from raycae.errors import InputError
from raycae.formatting import join_words
from raycae.space.parameters import CategoricalParameter, Value, read_setting
from raycae.space.schema import SEARCHABLE
from raycae.space.space import Space
from raycae.yaml_core import load_yaml

KINDS = {"int": "a whole number", "bool": "true or false", "str": "text"}
"""Types of settings by name, as messages call them."""


def check_params(space: Space, where: str) -> None:
    """Check the parameters of a space: names, values, conditions.

    Args:
        space: The parsed space.
        where: What messages begin with, e.g. the name of the file.

    Raises:
        InputError: The first fault.
    """
    fixed = list_given(space.file.fixed)
    for name, parameter in space.file.params.items():
        path = f"{where}: params.{name}"
        if name not in SEARCHABLE:
            close = difflib.get_close_matches(name, SEARCHABLE, n=1)
            hint = f"Did you mean {close[0]}? " if close else ""
            known = join_words(list(SEARCHABLE), "or")
            raise InputError(f"{path}: unknown parameter. {hint}Use {known}.")
        if name in fixed:
            raise InputError(f"{path}: is also listed under fixed; remove one of the two")
        if parameter.per and name not in STAGE_KEYS:
            raise InputError(
                f"{path}.per: 'stage' is not allowed here; "
                f"allowed for {', '.join(sorted(STAGE_KEYS))}"
            )
        check_values(name, parameter, path)
        check_conditions(space, name, path)
    for name in space.file.params.keys() - dict(space.ordered_params).keys():
        needs = ", ".join(space.file.params[name].when)
        raise InputError(
            f"{where}: params.{name}.when: {needs} also depends on {name}; remove one condition"
        )


def check_values(name: str, parameter: Any, path: str) -> None:
    """Check that a setting allows the values of its parameter, and that they have its type.

    Args:
        name: Name of the setting.
        parameter: The parameter.
        path: What messages begin with.

    Raises:
        InputError: The first fault.
    """
    for key, value in list_extremes(parameter):
        try:
            meant = read_setting(name, value)
        except ValidationError as error:
            message = explain_validation_error(error).partition(": ")[2]
            raise InputError(f"{path}.{key}: {message}") from None
        if not isinstance(value, list) and type(meant) is not type(value) and meant is not None:
            kind = "int" if isinstance(meant, int) else type(meant).__name__
            if not (kind == "float" and isinstance(value, int)):
                raise InputError(f"{path}.{key}: expected {KINDS.get(kind, kind)}, not {value!r}")
    if isinstance(parameter, CategoricalParameter):
        labels = parameter.labels
        if len(set(map(repr, labels))) < len(labels):
            raise InputError(f"{path}.choices: {parameter.choices}: a choice is listed twice")


def check_conditions(space: Space, name: str, path: str) -> None:
    """Check the conditions (`when`) of a parameter.

    Args:
        space: The parsed space.
        name: Name of the parameter.
        path: What messages begin with.

    Raises:
        InputError: The first fault.
    """
    parameter = space.file.params[name]
    if name == "depth" and parameter.when:
        raise InputError(
            f"{path}.when: depth is drawn first, so it cannot depend on another setting"
        )
    for key, values in parameter.when.items():
        if key not in SEARCHABLE:
            allowed = ", ".join(SEARCHABLE)
            raise InputError(f"{path}.when: {key!r} is not a setting; allowed: {allowed}")
        other = space.file.params.get(key)
        if other and other.per and not parameter.per:
            raise InputError(
                f"{path}.when: {key} has one value per stage; add `per: stage` to {name}"
            )
        try:
            wanted = values if isinstance(values, list) else [values]
            for value in wanted:
                unquoted = load_yaml(value) if isinstance(value, str) else value
                meant = read_setting(key, unquoted)
                if meant != value:
                    raise InputError(f"{path}.when.{key}: {value!r}: write {json.dumps(meant)}")
            if not wanted:
                raise InputError(f"{path}.when.{key}: [] is never true; name at least one value")
        except ValidationError as error:
            message = explain_validation_error(error).partition(": ")[2]
            raise InputError(f"{path}.when.{key}: {message}") from None


def check_points(space: Space, where: str) -> None:
    """Check the fixed settings, the named points and the series of a space.

    Args:
        space: The parsed space.
        where: What messages begin with.

    Raises:
        InputError: The first fault.
    """
    try:
        resolve(space.fixed)
    except InputError as error:
        raise InputError(f"{where}: fixed: {error}") from None
    if "task" in list_given(space.file.fixed):
        raise InputError(f"{where}: fixed.task: set the task at the top of the file only")
    for name, point in space.file.points.items():
        for key in list_given(point).keys() & {"task", "image_size"}:
            raise InputError(
                f"{where}: points.{name}.{key}: cannot differ between trials of a space"
            )
        try:
            config = resolve({**space.fixed, **list_given(point)})
        except InputError as error:
            raise InputError(f"{where}: points.{name}: {error}") from None
        if reason := space.check(config):
            raise InputError(f"{where}: points.{name}: {reason}")
    start = next((list_given(point) for point in space.file.points.values()), {})
    for name, change in space.file.series.items():
        for key in list_given(change).keys() & {"task", "image_size"}:
            raise InputError(
                f"{where}: series.{name}.{key}: cannot differ between trials of a space"
            )
        if not list_given(change):
            raise InputError(f"{where}: series.{name}: changes nothing; name a setting")
        try:
            config = resolve({**space.fixed, **start, **list_given(change)})
        except InputError as error:
            raise InputError(f"{where}: series.{name}: {error}") from None
        if reason := space.check(config):
            raise InputError(f"{where}: series.{name}: {reason}")


def check_draws(space: Space, where: str) -> None:
    """Draw 30 configurations, to find contradictions that the other checks do not foresee.

    Args:
        space: The parsed space.
        where: What messages begin with.

    Raises:
        InputError: A configuration contradicts itself.
    """
    for seed in range(30 if space.file.params else 0):
        draw = RandomDraw(seed)
        try:
            space.draw(draw)
        except InputError as error:
            raise InputError(f"{where}: params: {draw.params} is not possible: {error}") from None


class RandomDraw:
    """One value per parameter, uniform or uniform on the log scale.

    An Optuna trial could be drawn from too, but a space is read without Optuna, which takes 0.2 s
    of CPU to import.

    Args:
        seed: Random seed.

    Attributes:
        params: The values so far, by name.
    """

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)
        self.params: dict[str, Value] = {}

    def suggest_float(
        self, name: str, low: float, high: float, *, step: float | None = None, log: bool = False
    ) -> float:
        """Draw a real number in [low, high]."""
        if log:
            value = math.exp(self._random.uniform(math.log(low), math.log(high)))
        elif step:
            value = low + step * self._random.randint(0, round((high - low) / step))
        else:
            value = self._random.uniform(low, high)
        self.params[name] = value = min(max(value, low), high)
        return value

    def suggest_int(
        self, name: str, low: int, high: int, *, step: int = 1, log: bool = False
    ) -> int:
        """Draw an integer in [low, high]."""
        if log:
            value = round(math.exp(self._random.uniform(math.log(low), math.log(high))))
        else:
            value = self._random.randrange(low, high + 1, step)
        self.params[name] = value
        return value

    def suggest_categorical(self, name: str, choices: list[Any]) -> Any:
        """Draw a choice."""
        self.params[name] = value = self._random.choice(choices)
        return value


def list_extremes(parameter: Any) -> list[tuple[str, Any]]:
    """List the key and value of every choice, or of both ends of the range.

    Args:
        parameter: The parameter.
    """
    if isinstance(parameter, CategoricalParameter):
        return [("choices", choice) for choice in parameter.choices]
    return [("low", parameter.low), ("high", parameter.high)]
