"""The greedy method of the course report: single changes to the best trial so far.

A change that lowers the validation error is kept for the next one; a change that raises it is
dropped. `GreedyLadder` is this rule, for the sampler and for the report's table. The changes are
those that a space lists as its `series`, or, for any space, one parameter at a time.

Plain Python. Everything is a function of which trials began and how they ended, in that order.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from raycae.config import Config, list_given, resolve
from raycae.errors import InputError

if TYPE_CHECKING:
    from raycae.space.parameters import Value
    from raycae.space.space import Space

START, KEPT, AGAIN, DROPPED = "start", "kept", "again", "dropped"
"""Verdicts of `GreedyLadder.judge`."""


@dataclass
class GreedyLadder:
    """Judges changes in the order in which their trials end."""

    best: int | None = None
    """Number of the best trial so far."""
    errors: dict[int | None, float] = field(default_factory=dict)
    """Error of every trial that ended; infinite for those that were stopped or failed, because an
    error after fewer epochs is not comparable."""

    def judge(self, number: int, parent: int | None, state: str, error: float | None) -> str:
        """Judge the change that a trial made to its parent.

        Args:
            number: Number of the trial that ended.
            parent: Number of the trial that it changed; None for the start of the series.
            state: COMPLETE, PRUNED or FAIL.
            error: Validation error of a COMPLETE trial.

        Returns:
            START: The first trial that ended, in whatever state.
            KEPT: It is better than the best trial so far, which is its parent.
            AGAIN: It is better than its parent, but another change to that parent was kept
                meanwhile. So this change has to be tried on top of the other one.
            DROPPED: Anything else.
        """
        error = error if state == "COMPLETE" and error is not None else math.inf
        self.errors[number] = error
        if self.best is None:
            self.best = number
            return START
        if parent == self.best and error < self.errors[self.best]:
            self.best = number
            return KEPT
        if parent != self.best and error < self.errors.get(parent, -math.inf):
            return AGAIN
        return DROPPED


class GreedyStep(NamedTuple):
    """A configuration to try: that of trial `parent` with one change; the start has neither."""

    config: Config
    change: str | None = None
    parent: int | None = None


@dataclass(frozen=True)
class Change:
    """A change to a configuration: its name, and the settings or parameters that it sets."""

    name: str
    settings: Mapping[str, Any]


class ChangeSource(Protocol):
    """The changes that a greedy series may make."""

    def list_changes(self, best: int) -> Iterator[Change]:
        """Yield the changes to trial `best`, in the order in which to try them."""

    def apply(self, best: int, change: Change) -> Config | None:
        """Return trial `best` with a change; None if the result is not a valid configuration."""

    def list_settings(self, step: GreedyStep) -> set[str]:
        """Return the names of the settings that the change of a step sets."""

    def begin(self, number: int, step: GreedyStep) -> None:
        """Note that trial `number` runs a step."""

    def end(self, step: GreedyStep, verdict: str) -> None:
        """Note the verdict on a step."""


class ListedChanges:
    """The changes that a space lists as its `series`.

    They are made to the settings as they are written, so that decoder settings which mirror the
    encoder follow it.

    Args:
        space: The search space.
        series: Settings of each change, by its name.
    """

    def __init__(self, space: Space, series: Mapping[str, Mapping[str, Any]]) -> None:
        self._series = series
        self._fixed = space.fixed
        self._start = get_first_point(space)
        self._written: dict[int, Mapping[str, Any]] = {}
        """The settings of each trial as they are written."""
        self._done: set[str] = set()

    def list_changes(self, best: int) -> Iterator[Change]:
        """See `ChangeSource.list_changes`."""
        for name, settings in self._series.items():
            if name not in self._done:
                yield Change(name, settings)

    def apply(self, best: int, change: Change) -> Config | None:
        """See `ChangeSource.apply`."""
        try:
            return resolve({**self._fixed, **self._written[best], **change.settings})
        except InputError:
            return None  # E.g. one entry per stage for another depth.

    def list_settings(self, step: GreedyStep) -> set[str]:
        """See `ChangeSource.list_settings`."""
        return set(self._series.get(step.change or "", ()))

    def begin(self, number: int, step: GreedyStep) -> None:
        """See `ChangeSource.begin`."""
        change = self._series.get(step.change or "")
        parent_settings = self._written.get(step.parent or 0)
        if step.change is None:
            self._written[number] = self._start
        elif change is not None and parent_settings is not None:
            self._written[number] = {**parent_settings, **change}
        else:  # The trial began with another version of the space.
            self._written[number] = step.config.model_dump()
        self._done.add(step.change or "")

    def end(self, step: GreedyStep, verdict: str) -> None:
        """See `ChangeSource.end`."""
        if verdict == AGAIN:
            self._done.discard(step.change or "")


class NeighbourChanges:
    """One parameter at a time, in the order of the file, nearest values first.

    After a change that was kept, the next parameter comes first.

    Args:
        space: The search space.
    """

    def __init__(self, space: Space) -> None:
        self._space = space
        self._configs: dict[int, Config] = {}
        self._again: list[Change] = []
        """Changes to try on top of a change that was kept meanwhile."""
        self._last_kept = ""
        """The parameter that the last kept change set."""

    def list_changes(self, best: int) -> Iterator[Change]:
        """See `ChangeSource.list_changes`."""
        held = hold_settings(self._space, self._configs[best])
        for change in self._again:
            (column,) = change.settings
            if column in held:
                yield make_change(column, held[column], change.settings[column])
        columns = list(self._space.parameters)
        first = columns.index(self._last_kept) + 1 if self._last_kept in columns else 0
        ordered = [column for column in columns[first:] + columns[:first] if column in held]
        for distance in itertools.count(1):
            has_found = False
            for column in ordered:
                for value in self._space.parameters[column].list_neighbours(held[column], distance):
                    has_found = True
                    yield make_change(column, held[column], value)
            if not has_found:
                return

    def apply(self, best: int, change: Change) -> Config | None:
        """See `ChangeSource.apply`."""
        config = self._configs[best]
        held = {**hold_settings(self._space, config), **change.settings}
        try:
            return draw_held(self._space, held, config.depth)
        except InputError:
            return None

    def list_settings(self, step: GreedyStep) -> set[str]:
        """See `ChangeSource.list_settings`."""
        return {step.change.partition(" ")[0]} if step.change else set()

    def begin(self, number: int, step: GreedyStep) -> None:
        """See `ChangeSource.begin`."""
        self._configs[number] = step.config
        changed = self.list_settings(step)
        self._again = [change for change in self._again if not change.settings.keys() & changed]

    def end(self, step: GreedyStep, verdict: str) -> None:
        """See `ChangeSource.end`."""
        held = hold_settings(self._space, step.config)
        # Empty if the trial began with another version of the space.
        for column in self.list_settings(step) & held.keys():
            if verdict == KEPT:
                self._last_kept = column
            elif verdict == AGAIN:
                self._again.append(Change("", {column: held[column]}))


def draw_held(space: Space, held: Mapping[str, Any], depth: int | None = None) -> Config:
    """Build the configuration with the given values of its parameters.

    A parameter without a value takes that of the stage before it, else its middle. Settings that
    the space does not search are those of the first named point.

    Args:
        space: The search space.
        held: Values by column, e.g. `lr` or `channels_2`.
        depth: Number of stages, if the space does not search it.

    Raises:
        InputError: The settings contradict each other.
    """
    point = get_first_point(space)
    rest = {name: value for name, value in point.items() if name not in space.file.params}
    if depth is not None and "depth" not in space.file.params:
        rest["depth"] = depth
    return space.draw(HeldAnswers(space, held), rest)


class HeldAnswers:
    """Answers the questions of `Space.draw` with given values, neighbouring stages and middles.

    `optuna.trial.FixedTrial` only knows given values, and new stages have none.

    Args:
        space: The search space.
        held: Values by column.
    """

    def __init__(self, space: Space, held: Mapping[str, Any]) -> None:
        self._space, self._held = space, held

    def suggest_float(
        self, name: str, low: float, high: float, *, step: float | None = None, log: bool = False
    ) -> Any:
        """See `Suggest.suggest_float`."""
        return self._get_value(name)

    def suggest_int(
        self, name: str, low: int, high: int, *, step: int = 1, log: bool = False
    ) -> Any:
        """See `Suggest.suggest_int`."""
        return self._get_value(name)

    def suggest_categorical(self, name: str, choices: list[Any]) -> Any:
        """See `Suggest.suggest_categorical`."""
        return self._get_value(name)

    def _get_value(self, name: str) -> Any:
        if name in self._held:
            return self._held[name]
        stem, _, stage = name.rpartition("_")
        if stage.isdigit() and stage != "1":
            return self._get_value(f"{stem}_{int(stage) - 1}")
        return self._space.parameters[name].middle


def hold_settings(space: Space, config: Config) -> dict[str, Any]:
    """Return the value of every searched parameter that is active in a configuration.

    Args:
        space: The search space.
        config: A configuration, which may lie outside of the space.

    Returns:
        Values by column.
    """
    return {
        column: parameter.label(value) if parameter.contains(value) else value
        for column, parameter, value in space.list_active(config)
    }


def list_series(space: Space) -> dict[str, dict[str, Any]]:
    """Return the changes that a space lists, settings by name.

    In a space that lists none and searches nothing, every named point is a change to the first.

    Args:
        space: The search space.
    """
    listed = space.file.series
    if not listed and not space.file.params:
        listed = dict(list(space.file.points.items())[1:])
    return {name: list_given(settings) for name, settings in listed.items()}


def get_first_point(space: Space) -> dict[str, Any]:
    """Return the settings of the first named point as they are written; empty without points."""
    return next((list_given(point) for point in space.file.points.values()), {})


def make_change(column: str, before: Any, after: Value) -> Change:
    """Make the change of one parameter, e.g. `lr 0.001 → 0.003`.

    Args:
        column: Name of the parameter.
        before: Its value before the change.
        after: Its value after the change.
    """
    name = f"{column} {format_change(before)} → {format_change(after)}"
    return Change(name, {column: after})


def format_change(value: Any) -> str:
    """Format a value for the name of a change, floats with three digits."""
    return f"{value:.3g}" if isinstance(value, float) else str(value)
