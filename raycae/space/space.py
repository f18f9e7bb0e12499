"""A search space: what is searched, what is fixed, what is tried first, what is refused.

A space is a YAML file with the keys `task`, `data`, `budget`, `objective`, `params`, `fixed`,
`points`, `series` and `constraints`; its first comment line is the question it asks. Parameters
have the names of the settings in `raycae.config`; one with `per: stage` becomes the columns
`channels_1` … `channels_4`. A configuration is drawn from any object with Optuna's `suggest_*`
methods.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from raycae.config import Config, list_given, resolve
from raycae.model.architecture import Architecture, Infeasible, build_architecture
from raycae.space.parameters import (
    CategoricalParameter,
    FloatParameter,
    IntParameter,
    Suggest,
    Value,
    get_entry,
)
from raycae.space.schema import COUNT_CONSTRAINTS, Budget, SpaceFile


@dataclass(frozen=True)
class Space:
    """A search space whose file has been checked.

    Attributes:
        name: Name of the file without its suffix.
        text: Content of the file.
        file: The parsed file.
        folder: Folder of the file, from which relative paths in it start; None for the current
            folder. It is not part of `hash`, so a file has the same hash on every machine.
    """

    name: str
    text: str
    file: SpaceFile
    folder: Path | None = None

    @property
    def task(self) -> str:
        """The task of every trial: `reconstruct` or `colourise`."""
        return self.file.task

    @property
    def budget(self) -> Budget:
        """What a search spends unless the command says otherwise."""
        return self.file.budget

    @property
    def source(self) -> str:
        """The data source that the file names, with an absolute path.

        Raises:
            InputError: There is a built-in source and a folder next to the file with this name.
        """
        from raycae.data import is_built_in, resolve_source  # It imports NumPy and Pillow.

        source = self.file.data
        if self.folder is None and is_built_in(source):
            return source  # A shipped space does not mean a folder with this name.
        return resolve_source(source, self.folder)

    @property
    def image_size(self) -> int:
        """Height and width in pixels to which every image is resized."""
        return int(self.fixed.get("image_size", Config.model_fields["image_size"].default))

    @property
    def question(self) -> str:
        """The first comment line of the file that is not an instruction to an editor."""
        lines = (line.lstrip("# ") for line in self.text.splitlines() if line.startswith("#"))
        return next((line for line in lines if line and not line.startswith("yaml-")), "")

    @property
    def hash(self) -> str:
        """Hash of the content (16 hexadecimal digits), without comments and the order of keys."""
        plain = json.dumps(self.file.model_dump(mode="json", exclude_unset=True), sort_keys=True)
        return hashlib.blake2b(plain.encode(), digest_size=8).hexdigest()

    @cached_property
    def fixed(self) -> dict[str, Any]:
        """Settings that all trials share."""
        return {"task": self.task, **list_given(self.file.fixed)}

    @cached_property
    def points(self) -> dict[str, Config]:
        """Named configurations in the order in which they are tried, completed with defaults."""
        return {
            name: self.on_grid(resolve({**self.fixed, **list_given(point)}))
            for name, point in self.file.points.items()
        }

    @cached_property
    def parameters(self) -> dict[str, FloatParameter | IntParameter | CategoricalParameter]:
        """Parameters by the name of their column in tables: `lr`, `channels_1`, `channels_2`, …"""
        flat = {}
        deepest = self._find_max_depth()
        for name, parameter in self.file.params.items():
            for column in list_columns(name, parameter, deepest):
                flat[column] = parameter
        return flat

    @property
    def classes(self) -> int:
        """Smallest number of classes, above 0, that a network may get as input; 0 if none does."""
        file = self.file
        if file.task == "reconstruct":
            return 0
        written = [file.fixed, *file.points.values(), *file.series.values()]
        counts = {list_given(settings).get("classes", 0) for settings in written}
        match file.params.get("classes"):
            case CategoricalParameter(choices=choices):
                counts.update(choices)
            case IntParameter(low=low, high=high, step=step):
                counts.update(range(low, high + 1, step))
        return min(counts - {0}, default=0)

    def draw(self, trial: Suggest, rest: Mapping[str, Any] | None = None) -> Config:
        """Draw a configuration; parameters whose condition (`when`) is not met keep a default.

        Args:
            trial: An Optuna trial, or anything with its `suggest_*` methods.
            rest: Values for settings that the space neither searches nor fixes.

        Returns:
            The resolved configuration. It may break the constraints.

        Raises:
            InputError: The settings contradict each other.
        """
        values = {"depth": self._default_depth, **self.fixed, **(rest or {})}
        for name, parameter in self.ordered_params:
            if parameter.per is None:
                if self._is_met(parameter.when, values, None):
                    values[name] = parameter.read_label(parameter.suggest(trial, name))
                continue
            default = Config.model_fields[name].default[0]
            values[name] = [
                parameter.read_label(parameter.suggest(trial, f"{name}_{stage + 1}"))
                if self._is_met(parameter.when, values, stage)
                else default
                for stage in range(values["depth"])
            ]
        return resolve(values)

    def params_of(self, config: Config) -> dict[str, Value]:
        """Return the parameter values from which `draw` would make a configuration.

        Args:
            config: A configuration, e.g. of a named point.

        Returns:
            Values by column. Values outside the space are left out.
        """
        return {
            column: parameter.label(value)
            for column, parameter, value in self.list_active(config)
            if parameter.contains(value)
        }

    def list_active(self, config: Config) -> Iterator[tuple[str, Any, Any]]:
        """Yield the parameters that are active in a configuration.

        Args:
            config: A configuration.

        Yields:
            Column, parameter and value of the setting; the value may lie outside the space.
        """
        values = self.on_grid(config).model_dump()
        for name, parameter in self.ordered_params:
            for column in list_columns(name, parameter, config.depth):
                stage = None if parameter.per is None else int(column.rpartition("_")[2]) - 1
                if self._is_met(parameter.when, values, stage):
                    entry = get_entry(name, values[name], stage)
                    written = values[name] if stage is None else values[name][stage]
                    yield column, parameter, written if entry is None else entry

    def on_grid(self, config: Config) -> Config:
        """Return a configuration whose searched floats have no rounding errors.

        Every such float is what this space would draw, so that equal configurations compare equal.

        Args:
            config: A configuration; values outside the space stay as they are.
        """
        return config.model_copy(
            update={
                name: float(parameter.read_label(parameter.label(value)))
                for name, parameter in self.file.params.items()
                if isinstance(value := getattr(config, name), float) and parameter.contains(value)
            }
        )

    def check(self, config: Config) -> str | None:
        """Check that a configuration can be built and meets the constraints.

        Args:
            config: A configuration.

        Returns:
            The reason why it may not be run, or None.
        """
        try:
            architecture = build_architecture(config)
        except Infeasible as error:
            return str(error)
        return self._find_violation(architecture)

    def _find_violation(self, architecture: Architecture) -> str | None:
        for name in COUNT_CONSTRAINTS:
            bounds, value = getattr(self.file.constraints, name), getattr(architecture, name)
            if bounds.max is not None and value > bounds.max:
                return f"{name} {value:,} is above {bounds.max:,.0f}"
            if bounds.min is not None and value < bounds.min:
                return f"{name} {value:,} is below {bounds.min:,.0f}"
        return None

    def _is_met(
        self, when: Mapping[str, Any], values: Mapping[str, Any], stage: int | None
    ) -> bool:
        """Return whether settings meet a condition; floats are compared as they are drawn."""
        for key, wanted in when.items():
            searched = self.file.params.get(key)
            allowed = [
                searched.label(value) if searched and isinstance(value, float) else value
                for value in (wanted if isinstance(wanted, list) else [wanted])
            ]
            if get_setting(key, values, stage) not in allowed:
                return False
        return True

    def _find_max_depth(self) -> int:
        depth = self.file.params.get("depth")
        if isinstance(depth, IntParameter):
            return depth.high
        if isinstance(depth, CategoricalParameter):
            return int(max(depth.choices))
        return self._default_depth

    @cached_property
    def _default_depth(self) -> int:
        """Number of stages, if the space does not search it."""
        return resolve(self.fixed).depth

    @cached_property
    def ordered_params(self) -> list[tuple[str, Any]]:
        """Name and parameter: `depth` first, then every parameter after those its `when` names.

        Parameters that wait for each other are missing.
        """
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
    """List the columns of a parameter: its name, or `NAME_1` … for one with `per: stage`.

    Args:
        name: Name of the setting.
        parameter: The parameter.
        depth: Number of stages.
    """
    if parameter.per is None:
        return [name]
    return [f"{name}_{stage}" for stage in range(1, depth + 1)]


def get_setting(name: str, values: Mapping[str, Any], stage: int | None) -> Any:
    """Return the value of a setting, or its default; of a per-stage one, the entry of a stage.

    Args:
        name: Name of the setting.
        values: The settings that were drawn or fixed.
        stage: Index of the stage, from 0; None for the value that all stages share.
    """
    value = values.get(name, Config.model_fields[name].default)
    return get_entry(name, value, stage)
