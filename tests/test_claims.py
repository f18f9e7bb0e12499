"""From runs to verdicts. No training here: made-up runs of each kind, and the statistics against
textbooks and simulation."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pandas as pd
import pytest

from raycae import claims, space
from raycae.claims import (
    CLAIMS,
    CONTRADICTED,
    MISSING,
    UNDECIDED,
    UPHELD,
    Claim,
    Judgement,
    Prior,
    interval,
    judge,
    rank_correlation,
    runs,
    seeds_needed,
    verdict,
)

Curves = dict[tuple[str, int], list[float]]


def tables(curves: Curves, **columns: Any) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Both tables of a reproduction in which the errors of `curves` were measured, (experiment,
    seed) to validation errors by epoch; the test error is 1.1 of it, an epoch takes a second."""
    trials, epochs = [], []
    for number, ((point, seed), curve) in enumerate(curves.items()):
        best = int(np.argmin(curve))
        row = {"trial_number": number, "point": point, "seed": seed, "state": "COMPLETE"}
        row |= {"val_mse": curve[best], "train_mse": 0.9 * curve[best], "n_params": 100}
        row |= {"test_mse": 1.1 * curve[best], "latent_size": 64, "latent_height": 8}
        trials.append(row | columns.get(point.replace("-", "_"), {}))
        epochs += [
            {
                "trial_number": number,
                "point": point,
                "seed": seed,
                "epoch": epoch,
                "val_mse": value,
                "test_mse": 1.1 * value,
                "epoch_time_s": columns.get("seconds", {}).get(point, 1.0) + 0.001 * number,
            }
            for epoch, value in enumerate(curve, 1)
        ]
    return pd.DataFrame(trials), pd.DataFrame(epochs)


def judged(claim: Claim, curves: Curves, **columns: Any) -> Judgement:
    trials, epochs = tables(curves, **columns)
    (judgement,) = judge(runs(trials, epochs), epochs, [claim])
    return judgement


def seeds(less: list[float], more: list[float]) -> Curves:
    """One epoch each of experiments a and b."""
    of_a = {("a", seed): [value] for seed, value in enumerate(less)}
    return of_a | {("b", seed): [value] for seed, value in enumerate(more)}


A_BELOW_B = Claim("a is better", "a", "b")


@pytest.mark.parametrize(
    ("less", "more", "expected"),
    [
        ([0.50, 0.52, 0.51], [1.00, 1.03, 1.05], UPHELD),
        ([1.00, 1.03, 1.05], [0.50, 0.52, 0.51], CONTRADICTED),
        ([0.95, 1.05, 1.00], [1.00, 1.00, 1.02], UNDECIDED),
        ([0.50], [1.00], UNDECIDED),  # one seed has no spread
        ([], [1.0, 1.1, 1.2], MISSING),
    ],
)
def test_errors(less: list[float], more: list[float], expected: str) -> None:
    """Oracle: half the error with all of three seeds is better; a difference smaller than what
    seeds change is none; one seed alone decides nothing."""
    assert judged(A_BELOW_B, seeds(less, more)).verdict == expected


def test_the_effect_is_a_ratio_and_paired() -> None:
    """Oracle: by hand. 0.5, 0.5, 0.5 of each seed's own, however far apart the seeds are; the
    seed that only one of both has does not count."""
    found = judged(A_BELOW_B, seeds([0.1, 1.0, 10.0], [0.2, 2.0, 20.0, 5.0]))
    assert found.verdict == UPHELD
    assert found.n == 3
    assert [found.effect, found.low, found.high] == pytest.approx([0.5, 0.5, 0.5])


def test_what_is_missing_is_named() -> None:
    """Oracle: the experiments that the claim compares and nobody ran; what was run with other
    seeds."""
    assert judged(A_BELOW_B, {("b", 0): [1.0]}).why == "For want of runs of a."
    apart = judged(A_BELOW_B, {("b", 0): [1.0], ("a", 1): [1.0]})
    assert apart.why == "For want of runs of a and b with the same seed."


def test_a_failed_run_is_no_run() -> None:
    """Oracle: its error stands in the table, of the epochs before it diverged; it counts for
    nothing."""
    trials, epochs = tables(seeds([0.5, 0.5], [1.0, 1.1]))
    trials.loc[trials["point"] == "a", "state"] = "FAIL"
    assert judge(runs(trials, epochs), epochs, [A_BELOW_B])[0].verdict == MISSING


@pytest.mark.parametrize(
    ("margin", "ratio", "expected"),
    [
        (0.1, 0.85, UPHELD),  # at least a tenth less
        (0.1, 0.95, CONTRADICTED),  # less, but not by a tenth
        (-0.05, 1.02, UPHELD),  # at most a twentieth more
        (-0.05, 1.10, CONTRADICTED),
    ],
)
def test_margins(margin: float, ratio: float, expected: str) -> None:
    """Oracle: the limit of the claim, with seeds that agree to a thousandth."""
    claim = Claim("a is drastically better", "a", "b", margin=margin)
    exact = seeds([ratio, 1.001 * ratio, 0.999 * ratio], [1.0, 1.0, 1.0])
    assert judged(claim, exact).verdict == expected


def test_time_is_judged_by_time() -> None:
    """Oracle: a has twice the error and half the time an epoch."""
    claim = Claim("a is faster", "a", "b", "time")
    found = judged(claim, seeds([2.0, 2.1, 2.2], [1.0, 1.1, 1.2]), seconds={"a": 1.0, "b": 2.0})
    assert found.verdict == UPHELD
    assert found.effect == pytest.approx(0.5, rel=0.01)


def test_convergence_is_judged_on_the_way() -> None:
    """Oracle: both end at 1, a from the second epoch on, b only in the last; geometric means over
    the epochs by hand: (4 x 1 x 1) against (4 x 4 x 1), to the third root."""
    claim = Claim("a converges faster", "a", "b", "path")
    curves = {("a", s): [4.0, 1.0 + s / 1000, 1.0] for s in range(3)}
    curves |= {("b", s): [4.0, 4.0, 1.0] for s in range(3)}
    found = judged(claim, curves)
    assert found.verdict == UPHELD
    assert found.effect == pytest.approx(4 ** (-1 / 3), rel=1e-3)


def test_smoothness_is_how_far_a_curve_rises_again() -> None:
    """Oracle: a only falls, however steeply; b falls further, with a rise by a half on the way.
    Where neither rises nothing is decided, and said so."""
    claim = Claim("a is smoother", "a", "b", claims.ROUGHNESS)
    a = {("a", s): [9.0, 3.0, 1.0] for s in range(3)}
    b = {("b", s): [1.0, 1.5 + s / 100, 0.5] for s in range(3)}
    found = judged(claim, a | b)
    assert found.verdict == UPHELD
    assert found.effect == pytest.approx(-math.log(1.51), rel=0.01)
    still = judged(claim, a | {("b", s): [3.0, 2.0, 1.0] for s in range(3)})
    assert (still.verdict, still.effect) == (UNDECIDED, 0)
    assert "Both the same" in still.why


@pytest.mark.parametrize(
    ("measure", "size", "expected"),
    [
        ("latent_size", 64, UPHELD),
        ("latent_size", 65, CONTRADICTED),
        ("latent_size", 63, CONTRADICTED),
        ("n_params", 99, UPHELD),
        ("n_params", 100, CONTRADICTED),
    ],
)
def test_sizes_need_no_interval(measure: str, size: int, expected: str) -> None:
    """Oracle: counting. A latent keeps its size where it is the same; fewer is fewer."""
    claim = Claim("a keeps the size", "a", "b", measure)
    found = judged(claim, seeds([1.0], [1.0]), a={measure: size})
    assert found.verdict == expected
    assert found.why == f"{size} against {64 if measure == 'latent_size' else 100}."


def test_what_comes_eventually() -> None:
    """Oracle: by hand. A gap of a factor 4 that was 8 an epoch ago closes by 2 an epoch, so in two
    more; one that widens with every seed refutes; one that stays, or closes by next to nothing,
    does not; one that is the other way round upholds."""
    claim = Claim("a is eventually better", "a", "b", eventually=True)
    b = {("b", s): [1.0, 1.0, 1.0 + s / 1000] for s in range(3)}
    closing = judged(claim, b | {("a", s): [16.0, 8.0, 4.0] for s in range(3)})
    assert closing.verdict == UNDECIDED
    assert "at the pace of the last epoch 5 epochs would tell" in closing.why
    widens = judged(claim, b | {("a", s): [3.0, 2.0, 2.5] for s in range(3)})
    assert (widens.verdict, widens.why) == (CONTRADICTED, "Higher, and the gap widens.")
    for last in (1.9999, 2.0 + 1e-9):
        stays = judged(claim, b | {("a", s): [3.0, 2.0, last] for s in range(3)})
        assert stays.verdict == UNDECIDED
    assert judged(claim, b | {("a", s): [3.0, 2.0, 0.5] for s in range(3)}).verdict == UPHELD
    first = judged(
        claim, {(name, s): [2.0 if name == "a" else 1.0] for name in "ab" for s in (0, 1)}
    )
    assert (first.verdict, "One epoch" in first.why) == (UNDECIDED, True)


def test_the_rule() -> None:
    """Oracle: an interval wholly below the limit, wholly above it, and across it; touching is not
    beyond."""
    assert verdict(-2, -1) == UPHELD
    assert verdict(1, 2) == CONTRADICTED
    assert verdict(-1, 1) == verdict(0, 1) == verdict(-1, 0) == UNDECIDED
    assert verdict(-2, -1, threshold=-3) == CONTRADICTED


def test_interval_without_others_is_students() -> None:
    """Oracle: the textbook: mean 2, deviation 1, n 3, t 4.3027 at two degrees of freedom."""
    low, high = interval([1.0, 2.0, 3.0])
    assert (low, high) == pytest.approx((2 - 4.30265 / 3**0.5, 2 + 4.30265 / 3**0.5), rel=1e-5)
    assert interval([1.0]) == (-math.inf, math.inf)


def test_interval_with_a_known_spread_is_the_normal_one() -> None:
    """Oracle: variance 4 for certain, n 4: the mean and 1.96 on either side, whatever the four
    look like."""
    assert interval([1.0, 1.0, 3.0, 3.0], Prior(4.0, math.inf)) == pytest.approx(
        (2 - 1.959964, 2 + 1.959964), rel=1e-6
    )


def simulated(n: int, n_seeds: int, df: float, variance: float) -> list[pd.Series]:
    """Comparisons without any difference, whose variances scatter as Smyth's model has it."""
    draw = np.random.default_rng(1)
    variances = variance * df / draw.chisquare(df, n)
    return [pd.Series(draw.normal(0, v**0.5, n_seeds)) for v in variances]


def test_spread_of_all_comparisons_is_found() -> None:
    """Oracle: simulation around 0.04; it weighs no more than the two degrees of freedom that one
    comparison of three seeds has."""
    prior = claims._prior(simulated(6000, 3, 6.0, 0.04))
    assert prior is not None
    assert prior.variance == pytest.approx(0.04, rel=0.1)
    assert prior.df == 2


def test_intervals_cover_what_they_say() -> None:
    """Oracle: simulation of a page without any difference: three seeds of experiments that spread
    by 1 to 12 %, the base most of all as in the recorded study, and the very pairs of the claims,
    a dozen of which share it. Some 95 % of the intervals hold 0."""
    own = [c for c in CLAIMS if c.lower.startswith("ex2") and c.measure == "test"]
    names = sorted({c.lower for c in own} | {c.higher for c in own})
    draw = np.random.default_rng(2)
    held, n = 0, 0
    for _ in range(300):
        spreads = {name: draw.uniform(0.01, 0.1) for name in names} | {"ex2-base": 0.12}
        runs_of = {name: draw.normal(0, spread, 3) for name, spread in spreads.items()}
        pairs = [pd.Series(runs_of[c.lower] - runs_of[c.higher]) for c in own]
        prior = claims._prior(pairs)
        for pair in pairs:
            low, high = interval(pair.tolist(), prior)
            held += low <= 0 <= high
            n += 1
    assert 0.93 < held / n < 0.97


def test_seeds_that_would_decide() -> None:
    """Oracle: a known deviation of 1: a mean of 1 needs 1.96² = 3.84, so 4 seeds; 0.1 a hundred
    times as many; 0.001 more than anybody runs."""
    known = Prior(1.0, math.inf)
    assert seeds_needed([1.0, 1.0], known) == 4
    assert seeds_needed([0.1, 0.1], known) == 385
    assert seeds_needed([0.001, 0.001], known) is None
    assert seeds_needed([1.1, 1.1], known, threshold=0.1) == 4


def test_rank_correlation() -> None:
    """Oracle: by hand. Ranks 1 to 5 against 1, 2, 3.5, 5, 3.5: Pearson of the ranks is
    8 / sqrt(10 x 9.5) = 0.8208; interval of Bonett and Wright around atanh of it with standard
    error sqrt((1 + 0.8208² / 2) / 2)."""
    found = rank_correlation([1, 2, 3, 4, 5], [5, 6, 7, 8, 7])
    assert found is not None
    half = 1.959964 * math.sqrt((1 + 0.820783**2 / 2) / 2)
    at = math.atanh(0.820783)
    assert found == pytest.approx((0.820783, math.tanh(at - half), math.tanh(at + half)), rel=1e-5)
    assert rank_correlation([1, 2, 3], [3, 2, 1]) is None
    assert rank_correlation([1, 1, 1, 1], [1, 2, 3, 4]) is None
    # A perfect order of four is no certainty: -1, from there to tanh(-atanh(15 / 16) + 1.96 √1.5).
    found = rank_correlation([1, 2, 3, 4], [4, 3, 2, 1])
    least = math.tanh(-math.atanh(15 / 16) + 1.959964 * math.sqrt(1.5))
    assert found == pytest.approx((-1, -1, least), rel=1e-5)


def test_every_claim_compares_known_experiments_of_one_task() -> None:
    """Oracle: the points of the two spaces; each experiment but the figure-only ones is in some
    claim."""
    of_task = [set(space.load(name).points) for name in ("ex2-report", "ex3-report")]
    for claim in CLAIMS:
        assert any({claim.lower, claim.higher} <= points for points in of_task), claim
        assert claim.measure in claims.MEASURES
        assert claim.sentence.endswith(".")
    assert len(set(CLAIMS)) == len(CLAIMS)
    unused = set.union(*of_task) - {c.lower for c in CLAIMS} - {c.higher for c in CLAIMS}
    assert unused == {"ex2-channels-x20"}
