"""Draws from a window of trials, held against Optuna's own ask-and-tell interface."""

from __future__ import annotations

import threading
import warnings
from collections.abc import Mapping
from typing import Any

import optuna
import pytest
from optuna.samplers import BaseSampler, RandomSampler, TPESampler
from optuna.study import StudyDirection
from optuna.trial import TrialState

from raycae.optimization.drawing import Draw, QuickRandomSampler, Window, WindowTPESampler
from raycae.optimization.history import HistoryTrial, make_trial
from raycae.space import loading
from raycae.space.space import Space


@pytest.fixture(scope="module")
def space() -> Space:
    return loading.load_space("ex2")


def make_trials(space: Space, count: int, *, objectives: int = 1) -> list[HistoryTrial]:
    """Trials at random points; with two objectives every third one is PRUNED, without values."""
    trials = []
    for seed in range(count):
        draw = draw_here(space, [], RandomSampler(seed), {})
        distributions = {name: space.parameters[name].distribution for name in draw}
        is_pruned = objectives > 1 and seed % 3 == 1
        values = [(seed * 37 % 101 + 1) / 100 * (1 + i) for i in range(objectives)]
        state = TrialState.PRUNED if is_pruned else TrialState.COMPLETE
        trials.append(make_trial(state, None if is_pruned else values, draw, distributions))
    return trials


def draw_here(
    space: Space,
    trials: list[HistoryTrial],
    sampler: BaseSampler,
    fixed: Mapping[str, Any],
    window: Window | None = None,
) -> dict[str, Any]:
    if window is None:
        window = Window([StudyDirection.MINIMIZE])
        window.show(trials)
    distributions = {name: space.parameters[name].distribution for name in space.parameters}
    draw = Draw(window, sampler, distributions, fixed)
    space.draw(draw)
    return draw.params


def draw_with_optuna(
    space: Space,
    trials: list[HistoryTrial],
    sampler: BaseSampler,
    fixed: Mapping[str, Any],
    objectives: int = 1,
) -> dict[str, Any]:
    study = optuna.create_study(directions=["minimize"] * objectives, sampler=sampler)
    for trial in trials:
        study.add_trial(
            optuna.trial.create_trial(
                state=trial.state,
                values=trial.values,
                params=trial.params,
                distributions=trial.distributions,
                constraints=trial.constraints,
            )
        )
    if fixed:
        study.enqueue_trial(dict(fixed))
    asked = study.ask()
    space.draw(asked)
    return asked.params


def make_optunas(seed: int) -> BaseSampler:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return TPESampler(seed=seed, multivariate=True, group=True)


def require_same(params: Mapping[str, Any], expected: Mapping[str, Any]) -> None:
    assert list(params) == list(expected)
    for name, value in expected.items():
        rounded = pytest.approx(value, rel=1e-9) if isinstance(value, float) else value
        assert params[name] == rounded


@pytest.mark.parametrize("count", [0, 5, 40])
@pytest.mark.parametrize("objectives", [1, 2])
def test_draws_are_optunas(space: Space, count: int, objectives: int) -> None:
    """Oracle: `study.ask` of Optuna with its own sampler and storage: the same parameters and
    values, floats up to rounding. The second and third draw use what the first one fitted."""
    trials = make_trials(space, count, objectives=objectives)
    window = Window([StudyDirection.MINIMIZE] * objectives)
    window.show(trials)
    for seed in range(3):
        params = draw_here(space, trials, WindowTPESampler(seed), {}, window)
        require_same(params, draw_with_optuna(space, trials, make_optunas(seed), {}, objectives))
        params = draw_here(space, trials, QuickRandomSampler(seed), {}, window)
        assert params == draw_with_optuna(space, trials, RandomSampler(seed), {}, objectives)


def test_fixed_values_and_constraints_are_optunas(space: Space) -> None:
    """Oracle: as above, with some values given, and with trials that violate a constraint."""
    trials = [
        trial.with_constraint("stratum", float(number % 3))
        for number, trial in enumerate(make_trials(space, 40))
    ]
    fixed = {name: trials[0].params[name] for name in list(trials[0].params)[:2]}
    for given in ({}, fixed):
        params = draw_here(space, trials, WindowTPESampler(7), given)
        require_same(params, draw_with_optuna(space, trials, make_optunas(7), given))
        assert given.items() <= params.items()


def test_a_window_shows_what_it_was_told_last(space: Space) -> None:
    """Oracle: a new window. What was fitted to earlier trials is not used again, and the trials
    that were shown keep their numbers."""
    trials = make_trials(space, 60)
    window = Window([StudyDirection.MINIMIZE])
    window.show(trials[:30])
    draw_here(space, [], WindowTPESampler(1), {}, window)
    window.show(trials[20:])
    again = draw_here(space, [], WindowTPESampler(1), {}, window)
    assert again == draw_here(space, trials[20:], WindowTPESampler(1), {})
    assert [trial.number for trial in window.trials] == list(range(40))
    assert {trial.number for trial in trials} == {-1}


def test_threads_draw_by_themselves(space: Space) -> None:
    """Oracle: the draw of one thread alone. Another thread that begins a draw in between has
    generators of its own."""
    alone = draw_here(space, [], QuickRandomSampler(1), {})
    sampler = QuickRandomSampler(1)
    other = threading.Thread(target=lambda: QuickRandomSampler(2)._rng.rng.random_sample(9))
    other.start()
    other.join()
    assert draw_here(space, [], sampler, {}) == alone
