"""Search-space files: what is searched, what is fixed, what is tried first, what is refused.

A space is a YAML file with the keys `task`, `data`, `budget`, `objective`, `params`, `fixed`,
`points`, `series` and `constraints`; its first comment line is the question it asks. Names of
parameters are the settings of `raycae.config`; one with `per: stage` becomes `channels_1` …
`channels_4`. This room knows how to draw a configuration from anything with Optuna's `suggest_*`
methods, and nothing of studies.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import optuna

from raycae.config import Config, list_given, resolve
from raycae.data import is_built_in, resolve_source
from raycae.model.architecture import Architecture, Infeasible, build_architecture
from raycae.space.parameters import (
    CategoricalParameter,
    FloatParameter,
    IntParameter,
    Suggest,
    Value,
    get_entry,
)
from raycae.space.schema import COUNTED, Budget, SpaceFile

optuna.logging.set_verbosity(optuna.logging.ERROR)  # raycae says what there is to say


@dataclass(frozen=True)
class Space:
    """A search space, checked. `name` is the file's, without its ending."""

    name: str
    text: str
    file: SpaceFile
    folder: Path | None = None
    """Where the file is: relative paths in it start there. None: the current folder. It is no part
    of the space's content, so the same file has the same hash on every machine."""

    @property
    def task(self) -> str:
        return self.file.task

    @property
    def budget(self) -> Budget:
        return self.file.budget

    @property
    def source(self) -> str:
        """The data source that the file names, its path absolute.

        Raises:
            InputError: The name is that of a built-in source and of a folder beside the file.
        """
        source = self.file.data
        if self.folder is None and is_built_in(source):
            return source  # a shipped space: a folder of that name is not meant
        return resolve_source(source, self.folder)

    @property
    def image_size(self) -> int:
        """Height and width in pixels that every image is brought to."""
        return int(self.fixed.get("image_size", Config.model_fields["image_size"].default))

    @property
    def question(self) -> str:
        """The first comment line that is not for an editor."""
        lines = (line.lstrip("# ") for line in self.text.splitlines() if line.startswith("#"))
        return next((line for line in lines if line and not line.startswith("yaml-")), "")

    @property
    def hash(self) -> str:
        """Of what the file means: comments and order of keys do not count."""
        plain = json.dumps(self.file.model_dump(mode="json", exclude_unset=True), sort_keys=True)
        return hashlib.blake2b(plain.encode(), digest_size=8).hexdigest()

    @cached_property
    def fixed(self) -> dict[str, Any]:
        return {"task": self.task, **list_given(self.file.fixed)}

    @cached_property
    def points(self) -> dict[str, Config]:
        """Named configurations, tried first and in this order; defaults where a point is silent."""
        return {
            name: self.on_grid(resolve({**self.fixed, **list_given(point)}))
            for name, point in self.file.points.items()
        }

    @cached_property
    def parameters(self) -> dict[str, FloatParameter | IntParameter | CategoricalParameter]:
        """By the name that a table's column carries: `lr`, `channels_1`, `channels_2`, …"""
        flat = {}
        deepest = self._deepest()
        for name, parameter in self.file.params.items():
            for column in list_columns(name, parameter, deepest):
                flat[column] = parameter
        return flat

    @property
    def classes(self) -> int:
        """The fewest classes, above 0, that a network of this space may be told; 0: none is."""
        file = self.file
        if file.task == "reconstruct":
            return 0
        written = [file.fixed, *file.points.values(), *file.series.values()]
        told = {list_given(settings).get("classes", 0) for settings in written}
        match file.params.get("classes"):
            case CategoricalParameter(choices=choices):
                told.update(choices)
            case IntParameter(low=low, high=high, step=step):
                told.update(range(low, high + 1, step))
        return min(told - {0}, default=0)

    def draw(self, trial: Suggest, rest: Mapping[str, Any] | None = None) -> Config:
        """A configuration with every open setting suggested by `trial`, conditions heeded. `rest`:
        settings that the space leaves at their defaults."""
        values = {"depth": self._depth, **self.fixed, **(rest or {})}
        for name, parameter in self._in_order:
            if parameter.per is None:
                if self._holds(parameter.when, values, None):
                    values[name] = parameter.value(parameter.suggest(trial, name))
                continue
            default = Config.model_fields[name].default[0]
            values[name] = [
                parameter.value(parameter.suggest(trial, f"{name}_{stage + 1}"))
                if self._holds(parameter.when, values, stage)
                else default
                for stage in range(values["depth"])
            ]
        return resolve(values)

    def params_of(self, config: Config) -> dict[str, Value]:
        """The values that a sampler would have had to draw for `config`: only those that lie
        inside this space (a named point may lie partly outside)."""
        return {
            column: parameter.label(value)
            for column, parameter, value in self.in_force(config)
            if parameter.contains(value)
        }

    def in_force(self, config: Config) -> Iterator[tuple[str, Any, Any]]:
        """Column, parameter and value of each open setting that has a say in `config`; the value
        may lie outside of what is searched."""
        values = self.on_grid(config).model_dump()
        for name, parameter in self._in_order:
            for column in list_columns(name, parameter, config.depth):
                stage = None if parameter.per is None else int(column.rpartition("_")[2]) - 1
                if self._holds(parameter.when, values, stage):
                    entry = get_entry(name, values[name], stage)
                    written = values[name] if stage is None else values[name][stage]
                    yield column, parameter, written if entry is None else entry

    def on_grid(self, config: Config) -> Config:
        """Return `config` with each searched float as this space would draw it, without rounding
        errors, so that equal configurations compare equal. Other values stay as they are."""
        return config.model_copy(
            update={
                name: float(parameter.value(parameter.label(value)))
                for name, parameter in self.file.params.items()
                if isinstance(value := getattr(config, name), float) and parameter.contains(value)
            }
        )

    def check(self, config: Config) -> str | None:
        """Why this configuration may not be issued (it cannot be built; a constraint), or None."""
        try:
            net = build_architecture(config)
        except Infeasible as error:
            return str(error)
        return self.violation(net)

    def violation(self, net: Architecture) -> str | None:
        for name in COUNTED:
            bounds, value = getattr(self.file.constraints, name), getattr(net, name)
            if bounds.max is not None and value > bounds.max:
                return f"{name} {value:,} is above {bounds.max:,.0f}"
            if bounds.min is not None and value < bounds.min:
                return f"{name} {value:,} is below {bounds.min:,.0f}"
        return None

    def _holds(self, when: Mapping[str, Any], values: Mapping[str, Any], stage: int | None) -> bool:
        """Whether the settings in force meet the condition, floats compared as they are drawn."""
        for key, wanted in when.items():
            searched = self.file.params.get(key)
            allowed = [
                searched.label(value) if searched and isinstance(value, float) else value
                for value in (wanted if isinstance(wanted, list) else [wanted])
            ]
            if get_setting(key, values, stage) not in allowed:
                return False
        return True

    def _deepest(self) -> int:
        depth = self.file.params.get("depth")
        if isinstance(depth, IntParameter):
            return depth.high
        if isinstance(depth, CategoricalParameter):
            return int(max(depth.choices))
        return self._depth

    @cached_property
    def _depth(self) -> int:
        """How many stages there are where nobody searches for that."""
        return resolve(self.fixed).depth

    @cached_property
    def _in_order(self) -> list[tuple[str, Any]]:
        """`depth` first, then as in the file, every parameter after those its `when` names.
        Parameters that wait for each other are missing."""
        params = self.file.params
        ordered = [(name, params[name]) for name in params if name == "depth"]
        while more := [
            (name, parameter)
            for name, parameter in params.items()
            if name not in dict(ordered)
            and all(key not in params or key in dict(ordered) for key in parameter.when)
        ]:
            ordered += more
        return ordered


def list_columns(name: str, parameter: Any, depth: int) -> list[str]:
    if parameter.per is None:
        return [name]
    return [f"{name}_{stage}" for stage in range(1, depth + 1)]


def get_setting(name: str, values: Mapping[str, Any], stage: int | None) -> Any:
    """The value in force: drawn or fixed, else the default. Of a per-stage one, its entry."""
    value = values.get(name, Config.model_fields[name].default)
    return get_entry(name, value, stage)
