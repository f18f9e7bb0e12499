"""Who is on the frontier, how far it reaches, and which part of it is weakest."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from raycae.optimization.frontier import COSTS, FADING, Strata, compute_hypervolume, find_frontier


@pytest.mark.parametrize("cost", COSTS)
@given(
    points=st.lists(
        st.tuples(st.integers(1, 6), st.sampled_from([0.1, 0.2, 0.3, 0.4, 0.5])), max_size=12
    )
)
def test_frontier_is_what_nobody_dominates(cost: str, points: list[tuple[int, float]]) -> None:
    """Oracle: the definition on every pair; few values, so that ties are common."""
    trials = [
        {"trial_number": n, "state": "COMPLETE", cost: size, "val_mse": mse}
        for n, (size, mse) in enumerate(points)
    ]
    expected = [
        not any(s <= size and m <= mse and (s, m) != (size, mse) for s, m in points)
        for size, mse in points
    ]
    found = find_frontier([*trials, {**trials[0], "state": "FAIL"}] if trials else [], cost)
    assert [found[n] for n in range(len(points))] == expected


def test_hypervolume_by_hand() -> None:
    """Oracle: from 1 to 100 there are two decades of cost. One point at cost 10 with a hundredth of
    the worst error is two decades better over half of them: a mean of 1. What is dearer than 100,
    or worse than the worst, adds nothing; what is cheaper than 1 counts from 1 on."""
    assert compute_hypervolume([(10, 0.01)], 1, 100, 1.0) == pytest.approx(1.0)
    assert compute_hypervolume([(10, 0.01), (100, 1e-9), (2, 3.0)], 1, 100, 1.0) == pytest.approx(
        1.0
    )
    assert compute_hypervolume([(0.1, 0.1), (10, 0.01)], 1, 100, 1.0) == pytest.approx(1.5)
    assert compute_hypervolume([], 1, 100, 1.0) == 0.0


@given(st.lists(st.tuples(st.floats(1, 200), st.floats(1e-4, 2)), max_size=8), st.integers(0, 99))
def test_hypervolume_is_an_area(points: list[tuple[float, float]], seed: int) -> None:
    """Oracle: the share of the rectangle that some point dominates, counted over a fine grid; it
    does not depend on the order of the points."""
    cost = np.exp(np.linspace(0, math.log(100), 801)[:-1] + math.log(100) / 1600)
    least = np.ones_like(cost)
    for at, error in points:
        least = np.where(cost >= at, np.minimum(least, error), least)
    expected = float(-np.log10(least).mean())
    shuffled = list(np.random.default_rng(seed).permutation(np.array(points).reshape(-1, 2)))
    found = compute_hypervolume([(float(c), float(e)) for c, e in shuffled], 1, 100, 1.0)
    assert found == pytest.approx(expected, abs=4 * 8 / 800)


def test_the_stratum_of_a_size() -> None:
    """Oracle: by hand: a bound belongs to its own stratum; above the last there is none."""
    strata = Strata((64, 128), (0.1, 0.05))
    assert [strata.of(size) for size in (1, 64, 65, 128, 129)] == [0, 0, 1, 1, None]
    assert (
        strata.compute_distance(64, 0)
        == strata.compute_distance(65, 1)
        == strata.compute_distance(128, 1)
        == 0.0
    )
    assert strata.compute_distance(128, 0) == 1.0
    assert strata.compute_distance(256, 1) == 1.0
    assert strata.compute_distance(32, 1) == pytest.approx(math.log2(65 / 32))


def test_the_weakest_stratum() -> None:
    """Oracle: by hand. First each one in turn; then the one highest above its line; a trial in vain
    makes it count for less, and one that improves starts anew. One with more error than a smaller
    latent is measured against that."""
    strata = Strata((64, 128, 256), (0.1, 0.05, 0.02))
    for size, error in ((60, 0.11), (100, 0.06), (200, 0.04)):
        assert strata.choose_weakest() == strata.of(size)
        strata.begin_trial(size)
        strata.end_trial(size, error)
    assert strata.choose_weakest() == 2  # 1.1, 1.2 and 2.0 times the line
    n_in_vain = math.ceil(math.log(1.2 / 2.0) / math.log(FADING))
    for _ in range(n_in_vain):
        assert strata.choose_weakest() == 2
        strata.begin_trial(200)
        strata.end_trial(200, 0.05)
    assert strata.choose_weakest() == 1
    strata.begin_trial(200)
    strata.end_trial(200, 0.03)
    assert strata.choose_weakest() == 2  # 1.5 times, and nothing in vain
    strata.begin_trial(50)
    strata.end_trial(50, 0.01)  # a sixth of what 128 numbers reach
    assert strata.choose_weakest() == 1


def test_trials_that_run_and_trials_that_fail() -> None:
    """Oracle: many workers asked at once go to different strata, before anything is known; failed
    trials are trials in vain; sizes above all strata change nothing."""
    strata = Strata((64, 128), (0.1, 0.05))
    asked = []
    for _ in range(6):
        asked.append(strata.choose_weakest())
        strata.begin_trial(strata.bounds[asked[-1]])
    assert sorted(asked) == [0, 0, 0, 1, 1, 1]
    strata.end_trial(64, None)
    strata.begin_trial(4096)
    strata.end_trial(4096, 1e-9)
    assert strata.best == [math.inf, math.inf]


def test_an_improvement_does_not_call_everybody() -> None:
    """Oracle: by hand, two strata at 1.5 and 1.2 times their lines: while four run in the first,
    0.8 to the fourth of its need is left, also after a fifth has improved it to 1.4."""
    strata = Strata((64, 128), (0.1, 0.05))
    for size, error in ((64, 0.15), (128, 0.06)):
        strata.begin_trial(size)
        strata.end_trial(size, error)
    for _ in range(5):
        strata.begin_trial(64)
    strata.end_trial(64, 0.14)
    assert 1.4 * FADING**4 < 1.2
    assert strata.choose_weakest() == 1
