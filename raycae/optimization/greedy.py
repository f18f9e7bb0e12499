"""The report's own method: single changes against the best so far.

A change that lowers the validation error stays in for the next one, a change that raises it goes.
`GreedyLadder` is that rule, for the sampler and for the report's table alike. `GreedySeries`
proposes: the changes that a space lists as its `series`, or on any space one parameter at a time,
its neighbours first. Where there are several places it runs changes side by side that touch
different settings.

Plain Python; all of it is a function of what was begun and how it ended, in that order.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Hashable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from raycae.config import Config, list_given, resolve
from raycae.errors import InputError

if TYPE_CHECKING:
    from raycae.space.parameters import Value
    from raycae.space.space import Space

START, KEPT, AGAIN, DROPPED = "start", "kept", "again", "dropped"


@dataclass
class GreedyLadder:
    """Who is the best so far, told of trials in the order in which they end."""

    best: int | None = None
    errors: dict[int | None, float] = field(default_factory=dict)
    """Of trials that ran to their end; infinite for those that were stopped or failed: an error
    after fewer epochs says nothing here."""

    def judge(self, number: int, parent: int | None, state: str, error: float | None) -> str:
        """What becomes of the change that trial `number` made to trial `parent`.

        Kept: it is better than the best so far, and was made to it. Again: it made its parent
        better, but while it ran another change to that parent was kept; so it has to be tried on
        top of that one. Dropped: all others. The first trial of all is what the series starts
        from, however it ends.
        """
        own = error if state == "COMPLETE" and error is not None else math.inf
        self.errors[number] = own
        if self.best is None:
            self.best = number
            return START
        if parent == self.best and own < self.errors[self.best]:
            self.best = number
            return KEPT
        if parent != self.best and own < self.errors.get(parent, -math.inf):
            return AGAIN
        return DROPPED


class GreedyStep(NamedTuple):
    """A configuration to try: trial `parent`'s with `change` made to it; the start has neither."""

    config: Config
    change: str | None = None
    parent: int | None = None


@dataclass(frozen=True)
class Change:
    """In words, and the settings or parameters that it sets."""

    words: str
    sets: Mapping[str, Any]


class GreedySeries:
    """Proposes by trial number; `begin` and `tell` bring it to where a ledger stands. Of two
    configurations whose `identity` is the same one is enough."""

    def __init__(self, space: Space, start: Config, identity: Callable[[Config], Hashable]) -> None:
        self._space = space
        self._start = start
        self._identity = identity
        listed = list_series(space)
        self._way: ChangeSource = (
            ListedChanges(space, listed) if listed else NeighbourChanges(space)
        )
        self._ladder = GreedyLadder()
        self._tried: set[Hashable] = set()
        self._running: dict[int, GreedyStep] = {}
        self._passed: set[str] = set()
        """Changes to the best so far that need not be looked at again."""

    def propose(self, number: int) -> GreedyStep | None:
        """None while everything else depends on what still runs, and once nothing is left."""
        if not self._tried:
            return self._begin(number, GreedyStep(self._start))
        best = self._ladder.best
        if best is None:
            return None  # the start runs
        busy = {name for step in self._running.values() for name in self._way.sets(step)}
        for change in self._way.changes(best):
            if change.words in self._passed or busy & change.sets.keys():
                continue
            self._passed.add(change.words)
            config = self._way.apply(best, change)
            if config is None or self._space.check(config) is not None:
                continue
            if self._identity(config) not in self._tried:
                return self._begin(number, GreedyStep(config, change.words, best))
        return None

    def begin(self, number: int, step: GreedyStep) -> None:
        """Trial `number` runs, as the ledger has it."""
        self._begin(number, step)

    def tell(self, number: int, state: str, error: float | None) -> None:
        step = self._running.pop(number)
        verdict = self._ladder.judge(number, step.parent, state, error)
        if verdict == KEPT:
            self._passed.clear()
        self._way.ended(step, verdict)

    def _begin(self, number: int, step: GreedyStep) -> GreedyStep:
        self._tried.add(self._identity(step.config))
        self._running[number] = step
        self._way.begun(number, step)
        return step


class ChangeSource(Protocol):
    """Which changes there are."""

    def changes(self, best: int) -> Iterator[Change]:
        """Those to trial `best`, in the order in which to try them."""

    def apply(self, best: int, change: Change) -> Config | None:
        """None where it leads to nothing that could be built."""

    def sets(self, step: GreedyStep) -> set[str]:
        """What the step's change sets."""

    def begun(self, number: int, step: GreedyStep) -> None: ...

    def ended(self, step: GreedyStep, verdict: str) -> None: ...


class ListedChanges:
    """The changes that a space lists, made to settings as they are written: what mirrors the
    encoder then follows it."""

    def __init__(self, space: Space, series: Mapping[str, Mapping[str, Any]]) -> None:
        self._series = series
        self._fixed = space.fixed
        self._start = get_first_point(space)
        self._written: dict[int, Mapping[str, Any]] = {}
        self._done: set[str] = set()

    def changes(self, best: int) -> Iterator[Change]:
        for name, settings in self._series.items():
            if name not in self._done:
                yield Change(name, settings)

    def apply(self, best: int, change: Change) -> Config | None:
        try:
            return resolve({**self._fixed, **self._written[best], **change.sets})
        except InputError:
            return None  # as many numbers as there were stages, on top of another depth

    def sets(self, step: GreedyStep) -> set[str]:
        return set(self._series.get(step.change or "", ()))

    def begun(self, number: int, step: GreedyStep) -> None:
        change, before = self._series.get(step.change or ""), self._written.get(step.parent or 0)
        if step.change is None:
            self._written[number] = self._start
        elif change is not None and before is not None:
            self._written[number] = {**before, **change}
        else:  # begun with another space
            self._written[number] = step.config.model_dump()
        self._done.add(step.change or "")

    def ended(self, step: GreedyStep, verdict: str) -> None:
        if verdict == AGAIN:
            self._done.discard(step.change or "")


class NeighbourChanges:
    """One parameter at a time, in the file's order: first the nearest values of every one, then
    those that are farther away. After a change that was kept the next parameter's turn has come."""

    def __init__(self, space: Space) -> None:
        self._space = space
        self._configs: dict[int, Config] = {}
        self._again: list[Change] = []
        self._last = ""

    def changes(self, best: int) -> Iterator[Change]:
        held = hold_settings(self._space, self._configs[best])
        for change in self._again:
            (column,) = change.sets
            if column in held:
                yield make_change(column, held[column], change.sets[column])
        columns = list(self._space.parameters)
        after = columns.index(self._last) + 1 if self._last in columns else 0
        turns = [column for column in columns[after:] + columns[:after] if column in held]
        for far in itertools.count(1):
            found = False
            for column in turns:
                for value in self._space.parameters[column].neighbours(held[column], far):
                    found = True
                    yield make_change(column, held[column], value)
            if not found:
                return

    def apply(self, best: int, change: Change) -> Config | None:
        config = self._configs[best]
        try:
            return draw_held(
                self._space, {**hold_settings(self._space, config), **change.sets}, config.depth
            )
        except InputError:
            return None

    def sets(self, step: GreedyStep) -> set[str]:
        return {step.change.partition(" ")[0]} if step.change else set()

    def begun(self, number: int, step: GreedyStep) -> None:
        self._configs[number] = step.config
        self._again = [c for c in self._again if not c.sets.keys() & self.sets(step)]

    def ended(self, step: GreedyStep, verdict: str) -> None:
        held = hold_settings(self._space, step.config)
        for column in self.sets(step) & held.keys():  # none where it was begun with another space
            if verdict == KEPT:
                self._last = column
            elif verdict == AGAIN:
                self._again.append(Change("", {column: held[column]}))


def draw_held(space: Space, held: Mapping[str, Any], depth: int | None = None) -> Config:
    """The configuration whose open settings are `held`, by the names of their columns.

    A new stage is as the stage before it; what nobody has decided so far lies in its middle. Of
    the first point stays what the space does not search. Raises `InputError`.
    """
    rest = {k: v for k, v in get_first_point(space).items() if k not in space.file.params}
    if depth is not None and "depth" not in space.file.params:
        rest["depth"] = depth
    return space.draw(HeldAnswers(space, held), rest)


class HeldAnswers:
    """Suggests what is held."""

    def __init__(self, space: Space, held: Mapping[str, Any]) -> None:
        self._space, self._held = space, held

    def suggest_float(
        self, name: str, low: float, high: float, *, step: float | None = None, log: bool = False
    ) -> Any:
        return self._answer(name)

    def suggest_int(
        self, name: str, low: int, high: int, *, step: int = 1, log: bool = False
    ) -> Any:
        return self._answer(name)

    def suggest_categorical(self, name: str, choices: list[Any]) -> Any:
        return self._answer(name)

    def _answer(self, name: str) -> Any:
        if name in self._held:
            return self._held[name]
        stem, _, stage = name.rpartition("_")
        if stage.isdigit() and stage != "1":
            return self._answer(f"{stem}_{int(stage) - 1}")
        return self._space.parameters[name].middle


def hold_settings(space: Space, config: Config) -> dict[str, Any]:
    """What `config` has for every open setting that has a say in it, inside the space or not."""
    return {
        column: parameter.label(value) if parameter.contains(value) else value
        for column, parameter, value in space.in_force(config)
    }


def list_series(space: Space) -> dict[str, dict[str, Any]]:
    """The listed changes. Where there is nothing to search but points, each of those is a change
    to the first one."""
    listed = space.file.series
    if not listed and not space.file.params:
        listed = dict(list(space.file.points.items())[1:])
    return {name: list_given(settings) for name, settings in listed.items()}


def get_first_point(space: Space) -> dict[str, Any]:
    return next((list_given(point) for point in space.file.points.values()), {})


def make_change(column: str, before: Any, after: Value) -> Change:
    return Change(f"{column} {format_change(before)} → {format_change(after)}", {column: after})


def format_change(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)
