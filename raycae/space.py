"""Search-space files: what is searched, what is fixed, what is tried first, what is refused.

A space is a YAML file with the keys `task`, `data`, `budget`, `objective`, `params`, `fixed`,
`points`, `series` and `constraints`; its first comment line is the question it asks. Names of
parameters are the settings of `raycae.config`; one with `per: stage` becomes `channels_1` …
`channels_4`. This room knows how to draw a configuration from anything with Optuna's `suggest_*`
methods, and nothing of studies.
"""

from __future__ import annotations

import difflib
import hashlib
import json
import math
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from decimal import Decimal
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Literal, Protocol, Self

import optuna
import yaml
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from raycae.architecture import Architecture, Infeasible, architecture
from raycae.config import (
    STAGE_KEYS,
    Config,
    IsBool,
    IsFloat,
    IsInt,
    Settings,
    explain,
    given,
    resolve,
)
from raycae.data import is_built_in, resolve_source
from raycae.errors import InputError
from raycae.yaml_core import dump_yaml, load_yaml

optuna.logging.set_verbosity(optuna.logging.ERROR)  # raycae says what there is to say

Value = bool | int | float | str

MOST_CHARACTERS = 100_000
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


FiniteFloat = Annotated[float, Field(allow_inf_nan=False), IsFloat]
PositiveFloat = Annotated[float, Field(gt=0, allow_inf_nan=False), IsFloat]
PositiveInt = Annotated[int, Field(ge=1), IsInt]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class _Parameter(_Strict):
    per: Literal["stage"] | None = None
    """`stage`: one value for each stage instead of one for all."""
    when: dict[str, Any] = {}
    """Only sampled where these settings have this value, or one of these values."""


class FloatParameter(_Parameter):
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
        _check_range(self)
        if self.step and self.high - self.low > MOST_STEPS * self.step:
            raise ValueError(f"step {self.step} is too fine; at most {MOST_STEPS:,.0f} steps")
        if self.step:
            n_steps = (_decimal(self.high) - _decimal(self.low)) // _decimal(self.step)
            high = self._at(int(n_steps))
            if _decimal(high) != _decimal(self.low) + n_steps * _decimal(self.step):
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
            return _around(self, value, far, lambda v, n: v * 3.0**n)
        place = self.step or (self.high - self.low) / 8
        return _around(self, value, far, lambda v, n: v + n * place)

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
        return float(_decimal(self.low) + n_steps * _decimal(self.step))


class IntParameter(_Parameter):
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
        _check_range(self)
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
            return _around(self, value, far, lambda v, n: v * 2.0**n)
        return _around(self, value, far, lambda v, n: v + n * self.step)

    def _snapped(self, value: float) -> Value:
        return self.low + round((min(max(value, self.low), self.high) - self.low) / self.step) * (
            self.step
        )


class CategoricalParameter(_Parameter):
    """One of the `choices`. A list as a choice appears in tables as its JSON text."""

    type: Literal["categorical"]
    choices: list[Any] = Field(min_length=1)

    @cached_property
    def labels(self) -> list[Value]:
        return [_label(choice) for choice in self.choices]

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
        label = _label(value)
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


class Bounds(_Strict):
    """What a trial may have at least and at most; both ends included."""

    min: FiniteFloat | None = None
    max: FiniteFloat | None = None

    @model_validator(mode="after")
    def _check_order(self) -> Self:
        if self.min is not None and self.max is not None and self.min > self.max:
            raise ValueError(f"min {self.min:,.0f} is above max {self.max:,.0f}")
        return self


class Most(_Strict):
    """What a trial may have at most."""

    max: PositiveFloat | None = None


COUNTED = ("latent_size", "n_params", "flops")


class Constraints(_Strict):
    """Counts are checked before a trial is issued; a proposal outside is replaced."""

    latent_size: Bounds = Bounds()
    n_params: Bounds = Bounds()
    flops: Bounds = Bounds()
    epoch_time_s: Most = Most()
    """Known once it is measured: a trial is stopped after an epoch that takes longer."""


class Budget(_Strict):
    """What a search of this space spends if the command does not say otherwise."""

    trials: PositiveInt = 50
    epochs: PositiveInt = 10
    limit: Annotated[int, Field(ge=16), IsInt] | None = None
    """Images for training and validation together; all of them if not given."""
    hours: PositiveFloat | None = None


class SpaceFile(_Strict):
    """The file as it is written."""

    task: Literal["reconstruct", "colourise"]
    data: str = "cifar10"
    budget: Budget = Budget()
    objective: Literal["val_mse", "frontier"] = "val_mse"
    """What a search of this space is after if the command does not say otherwise: the least error,
    or the frontier of error against latent size."""
    params: dict[str, Parameter] = {}
    fixed: Settings = Settings()
    points: dict[str, Settings] = {}
    series: dict[str, Settings] = {}
    """Changes for `--sampler greedy`, tried in this order on top of the best so far."""
    constraints: Constraints = Constraints()

    @model_validator(mode="after")
    def _read_choices(self) -> Self:
        """Bring choices such as 1e2 to the setting's type, as everywhere else in the file."""
        for name, parameter in self.params.items():
            if isinstance(parameter, CategoricalParameter) and name in SEARCHABLE:
                parameter.choices[:] = [_read_choice(name, each) for each in parameter.choices]
        return self


REPORT = ("ex2-report", "ex3-report")
"""The spaces whose points are the source report's experiments."""

SEARCHABLE = [name for name in Config.model_fields if name not in ("task", "image_size")]


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
        return {"task": self.task, **given(self.file.fixed)}

    @cached_property
    def points(self) -> dict[str, Config]:
        """Named configurations, tried first and in this order; defaults where a point is silent."""
        return {
            name: self.on_grid(resolve({**self.fixed, **given(point)}))
            for name, point in self.file.points.items()
        }

    @cached_property
    def parameters(self) -> dict[str, FloatParameter | IntParameter | CategoricalParameter]:
        """By the name that a table's column carries: `lr`, `channels_1`, `channels_2`, …"""
        flat = {}
        deepest = self._deepest()
        for name, parameter in self.file.params.items():
            for column in _columns(name, parameter, deepest):
                flat[column] = parameter
        return flat

    @property
    def classes(self) -> int:
        """The fewest classes, above 0, that a network of this space may be told; 0: none is."""
        file = self.file
        if file.task == "reconstruct":
            return 0
        written = [file.fixed, *file.points.values(), *file.series.values()]
        told = {given(settings).get("classes", 0) for settings in written}
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
            for column in _columns(name, parameter, config.depth):
                stage = None if parameter.per is None else int(column.rpartition("_")[2]) - 1
                if self._holds(parameter.when, values, stage):
                    entry = _entry(name, values[name], stage)
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
            net = architecture(config)
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
            if _setting(key, values, stage) not in allowed:
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


def spaces_folder() -> Path:
    """Where the shipped spaces are: inside the installed package, or beside it in a checkout."""
    package = Path(__file__).resolve().parent
    installed = package / "search_spaces"
    return installed if installed.is_dir() else package.parent / "search_spaces"


def names() -> list[str]:
    """The shipped spaces, in alphabetical order."""
    return sorted(path.stem for path in spaces_folder().glob("*.yaml"))


def load(space: str) -> Space:
    """A shipped space by name, or a file by path. Raises `InputError`."""
    path = Path(space)
    if path.suffix not in (".yaml", ".yml") and len(path.parts) == 1 and not _is_file(path):
        if space not in names():
            close = difflib.get_close_matches(space, names(), n=1)
            hint = f"; did you mean {close[0]}?" if close else "."
            raise InputError(
                f"--space {space}: there is no such space{hint} "
                f"Known: {', '.join(names())}; or give the path of a .yaml file."
            )
        path = spaces_folder() / f"{space}.yaml"
    try:
        with path.expanduser().open(encoding="utf-8") as file:
            text = file.read(MOST_CHARACTERS + 1)
    except (OSError, ValueError, RuntimeError) as error:  # RuntimeError: ~nobody
        reason = getattr(error, "strerror", None) or error
        raise InputError(f"--space {space}: {path} cannot be read: {reason}") from None
    if len(text) > MOST_CHARACTERS:
        raise InputError(
            f"--space {space}: {path} is larger than {MOST_CHARACTERS:,} characters; "
            "a space is a small YAML file"
        )
    folder = None if path.parent == spaces_folder() else path.expanduser().absolute().parent
    name = path.stem.encode(errors="replace").decode()  # file names may hold bytes that are no text
    return parse(text, name=name, where=path.name, folder=folder)


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except OSError:  # a name that no file system takes
        return False


def parse(text: str, *, name: str, where: str | None = None, folder: Path | None = None) -> Space:
    """Read and check a space.

    Args:
        text: What the file holds: YAML 1.2 with the core schema.
        name: The space's name.
        where: What stands in front of error messages; the file's name if None.
        folder: Where the file is; see `Space.folder`.

    Raises:
        InputError: The message names the file, the key, the value and what is allowed.
    """
    where = where or f"{name}.yaml"
    try:
        content = load_yaml(text)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise InputError(f"{where}: not valid YAML: {' '.join(str(error).split())}") from None
    if not isinstance(content, dict):
        raise InputError(f"{where}: has to be a mapping with the keys {_file_keys()}")
    if odd := next(_find_odd_keys(content), None):
        raise InputError(f"{where}: {odd}: keys are words; write a name that is none in quotes")
    try:
        file = SpaceFile(**content)
    except ValidationError as error:
        raise InputError(explain(error, where, _keys_at(error))) from None
    space = Space(name, text, file, folder)
    _check_params(space, where)
    _check_points(space, where)
    _check_draws(space, where)
    return space


def bounded(space: Space, limits: list[str]) -> Space:
    """Limit what a trial of `space` may have.

    Args:
        space: The space as its file has it.
        limits: NAME=VALUE each: the most of a count or of the time of an epoch, instead of what the
            file says.

    Returns:
        The space with these limits, without the named points that exceed them. Without changes of
        the series that exceed them, too, when made to the first point that is left; without a
        series where no point is left for it to start at.

    Raises:
        InputError: A limit is not one, or contradicts the file.
    """
    content = load_yaml(space.text)
    constraints = content.setdefault("constraints", {})
    for limit in limits:
        name, most = _parse_limit(limit)
        constraints[name] = {**constraints.get(name, {}), "max": most}
    where = f"--max {', '.join(limits)}"
    points, series = content.pop("points", {}), content.pop("series", {})
    limited = parse(dump_yaml(content), name=space.name, where=where)

    def fits(settings: Mapping[str, Any]) -> bool:
        try:
            return limited.check(resolve({**space.fixed, **settings})) is None
        except InputError:  # a change that does not go with the first point that is left
            return False

    if left := {name: point for name, point in points.items() if fits(point)}:
        content["points"] = left
    if series and (left or not points):
        start: dict[str, Any] = next(iter(left.values()), {})
        content["series"] = {n: change for n, change in series.items() if fits({**start, **change})}
    comments = [line for line in space.text.splitlines() if line.startswith("#")]
    text = "\n".join([*comments, dump_yaml(content)])
    return parse(text, name=space.name, where=where, folder=space.folder)


def _parse_limit(limit: str) -> tuple[str, float]:
    """Read `NAME=VALUE`, the value as in a space file; digits may be grouped by `_`."""
    name, _, value = limit.partition("=")
    if name not in Constraints.model_fields:
        allowed = ", ".join(Constraints.model_fields)
        raise InputError(f"--max {limit}: {name!r} has no limit; allowed: {allowed}")
    try:
        most = load_yaml(re.sub("(?<=[0-9])_(?=[0-9])", "", value))
    except (yaml.YAMLError, RecursionError):
        most = None
    if isinstance(most, bool) or not isinstance(most, int | float) or not 0 <= most < math.inf:
        raise InputError(f"--max {limit}: write {name}=NUMBER, e.g. {name}=50000")
    return name, float(most)


def _find_odd_keys(content: Any, path: str = "") -> Iterator[str]:
    """Find keys that YAML reads as a number, a boolean or null; yields their paths."""
    for key, value in content.items() if isinstance(content, dict) else enumerate(content):
        if isinstance(content, dict) and not isinstance(key, str):
            yield f"{path}{key}"
        if isinstance(value, dict | list):
            yield from _find_odd_keys(value, f"{path}{key}.")


def json_schema() -> str:
    """The JSON Schema of a space file, for editors; `search_spaces/schema.json` is this text."""
    return json.dumps(SpaceFile.model_json_schema(), indent=1, ensure_ascii=False) + "\n"


def _decimal(value: float) -> Decimal:
    """Return the number as it is written, 0.1 and not the float next to it."""
    return Decimal(repr(value))


def _check_range(parameter: Any) -> None:
    low, high = parameter.low, parameter.high
    if low > high:
        raise ValueError(f"low {low} is above high {high}; low has to be at most high")
    if parameter.log and low <= 0:
        raise ValueError(f"low {low} with log: true; a log scale starts above 0")
    if parameter.log and parameter.step not in (None, 1 if parameter.type == "int" else None):
        raise ValueError("log and step together are not possible; choose one")


def _around(
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


def _check_params(space: Space, where: str) -> None:
    fixed = given(space.file.fixed)
    for name, parameter in space.file.params.items():
        at = f"{where}: params.{name}"
        if name not in SEARCHABLE:
            close = difflib.get_close_matches(name, SEARCHABLE, n=1)
            hint = f"did you mean {close[0]}? " if close else ""
            raise InputError(f"{at}: unknown parameter; {hint}allowed: {', '.join(SEARCHABLE)}")
        if name in fixed:
            raise InputError(f"{at}: also stands under fixed; a setting is searched or fixed")
        if parameter.per and name not in STAGE_KEYS:
            raise InputError(
                f"{at}.per: 'stage' is not allowed here; "
                f"allowed for {', '.join(sorted(STAGE_KEYS))}"
            )
        for key, value in _extremes(parameter):
            try:
                meant = _read_setting(name, value)
            except ValidationError as error:
                message = explain(error).partition(": ")[2]
                raise InputError(f"{at}.{key}: {message}") from None
            if not isinstance(value, list) and type(meant) is not type(value) and meant is not None:
                kind = "int" if isinstance(meant, int) else type(meant).__name__
                if not (kind == "float" and isinstance(value, int)):
                    raise InputError(f"{at}.{key}: {value!r} is not allowed; it has to be {kind}")
        if isinstance(parameter, CategoricalParameter):
            labels = parameter.labels
            if len(set(map(repr, labels))) < len(labels):
                raise InputError(f"{at}.choices: {parameter.choices}: a choice stands there twice")
        if name == "depth" and parameter.when:
            raise InputError(f"{at}.when: depth is drawn first; it cannot wait for another setting")
        for key, values in parameter.when.items():
            if key not in SEARCHABLE:
                allowed = ", ".join(SEARCHABLE)
                raise InputError(f"{at}.when: {key!r} is no setting; allowed: {allowed}")
            other = space.file.params.get(key)
            if other and other.per and not parameter.per:
                raise InputError(
                    f"{at}.when: {key} differs from stage to stage; add `per: stage` to {name}"
                )
            try:
                wanted = values if isinstance(values, list) else [values]
                for value in wanted:
                    unquoted = load_yaml(value) if isinstance(value, str) else value
                    meant = _read_setting(key, unquoted)
                    if meant != value:
                        raise InputError(f"{at}.when.{key}: {value!r}: write {json.dumps(meant)}")
                if not wanted:
                    raise InputError(f"{at}.when.{key}: [] is never the case; name a value")
            except ValidationError as error:
                message = explain(error).partition(": ")[2]
                raise InputError(f"{at}.when.{key}: {message}") from None
    for name in space.file.params.keys() - dict(space._in_order).keys():
        needs = ", ".join(space.file.params[name].when)
        raise InputError(f"{where}: params.{name}.when: {needs} waits for {name} in turn")


def _check_points(space: Space, where: str) -> None:
    try:
        resolve(space.fixed)
    except InputError as error:
        raise InputError(f"{where}: fixed: {error}") from None
    if "task" in given(space.file.fixed):
        raise InputError(f"{where}: fixed.task: the task stands at the top of the file, once")
    for name, point in space.file.points.items():
        for key in given(point).keys() & {"task", "image_size"}:
            raise InputError(f"{where}: points.{name}.{key}: is the same for the whole space")
        try:
            config = resolve({**space.fixed, **given(point)})
        except InputError as error:
            raise InputError(f"{where}: points.{name}: {error}") from None
        if reason := space.check(config):
            raise InputError(f"{where}: points.{name}: {reason}")
    start = next((given(point) for point in space.file.points.values()), {})
    for name, change in space.file.series.items():
        for key in given(change).keys() & {"task", "image_size"}:
            raise InputError(f"{where}: series.{name}.{key}: is the same for the whole space")
        if not given(change):
            raise InputError(f"{where}: series.{name}: changes nothing; name a setting")
        try:
            config = resolve({**space.fixed, **start, **given(change)})
        except InputError as error:
            raise InputError(f"{where}: series.{name}: {error}") from None
        if reason := space.check(config):
            raise InputError(f"{where}: series.{name}: {reason}")


def _check_draws(space: Space, where: str) -> None:
    """What no rule above foresees shows when configurations are drawn; cheap, so some are."""
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    for _ in range(30 if space.file.params else 0):
        trial = study.ask()
        try:
            space.draw(trial)
        except InputError as error:
            raise InputError(f"{where}: params: {trial.params} cannot be: {error}") from None


def _extremes(parameter: Any) -> list[tuple[str, Any]]:
    if isinstance(parameter, CategoricalParameter):
        return [("choices", choice) for choice in parameter.choices]
    return [("low", parameter.low), ("high", parameter.high)]


def _read_setting(name: str, value: Any) -> Any:
    """Return the value that the setting `name` takes from `value`: 16 from 1.6e1. Raises
    `ValidationError`."""
    return _entry(name, getattr(Settings(**{name: value}), name), None)


def _read_choice(name: str, choice: Any) -> Any:
    """Return the whole number that a float choice of a whole-number setting stands for; any other
    choice as it is, right or wrong."""
    try:
        read = _read_setting(name, choice) if isinstance(choice, float) else choice
    except ValidationError:
        return choice
    return read if isinstance(read, int) else choice


def _columns(name: str, parameter: Any, depth: int) -> list[str]:
    if parameter.per is None:
        return [name]
    return [f"{name}_{stage}" for stage in range(1, depth + 1)]


def _setting(name: str, values: Mapping[str, Any], stage: int | None) -> Any:
    """The value in force: drawn or fixed, else the default. Of a per-stage one, its entry."""
    value = values.get(name, Config.model_fields[name].default)
    return _entry(name, value, stage)


def _entry(name: str, value: Any, stage: int | None) -> Any:
    """The entry of a per-stage setting for `stage` (None: for all stages, if they agree)."""
    if name not in STAGE_KEYS or not isinstance(value, list | tuple):
        return value
    if stage is None:
        return value[0] if len(set(value)) == 1 else None
    entry = value[stage] if stage < len(value) else value[0]
    if name == "decoder_channels" and isinstance(entry, tuple):
        return entry[0] if len(set(entry)) == 1 else None
    return entry


def _label(value: Any) -> Value:
    if isinstance(value, list | tuple):
        return json.dumps([float(v) if isinstance(v, int) else v for v in value])
    return value


def _file_keys() -> str:
    return ", ".join(SpaceFile.model_fields)


def _keys_at(error: ValidationError) -> list[str]:
    """The keys that were allowed where the first fault found an unknown one."""
    path = [part for part in error.errors()[0]["loc"] if isinstance(part, str)]
    match path:
        case [_]:
            return list(SpaceFile.model_fields)
        case ["budget", *_]:
            return list(Budget.model_fields)
        case ["constraints", _]:
            return list(Constraints.model_fields)
        case ["constraints", *_]:
            return list(Bounds.model_fields)
        case ["fixed" | "points" | "series", *_]:
            return list(Config.model_fields)
        case ["params", _, kind, *_]:
            models = {"float": FloatParameter, "int": IntParameter}
            return list(models.get(kind, CategoricalParameter).model_fields)
    return []
