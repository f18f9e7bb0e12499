"""From runs to verdicts. No training here: made-up runs of each kind, and the statistics against
textbooks and simulation."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from raycae.report.reproduction.claims import (
    CLAIMS,
    MEASURES,
    ROUGHNESS,
    SIZES,
    Claim,
    Judgement,
    adjust_verdicts,
    collect_runs,
    judge_claims,
)
from raycae.report.reproduction.statistics import (
    CONTRADICTED,
    MISSING,
    UNDECIDED,
    UPHELD,
    compute_interval,
    compute_p_value,
    compute_rank_correlation,
    decide_verdict,
    estimate_seeds_needed,
)
from raycae.space import loading

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
    (judgement,) = judge_claims(collect_runs(trials, epochs), epochs, [claim])
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
    assert judged(A_BELOW_B, {("b", 0): [1.0]}).why == "Runs are missing: a."
    apart = judged(A_BELOW_B, {("b", 0): [1.0], ("a", 1): [1.0]})
    assert apart.why == "Runs are missing: a and b with the same seed."


def test_a_failed_run_is_no_run() -> None:
    """Oracle: its error stands in the table, of the epochs before it diverged; it counts for
    nothing."""
    trials, epochs = tables(seeds([0.5, 0.5], [1.0, 1.1]))
    trials.loc[trials["point"] == "a", "state"] = "FAIL"
    assert judge_claims(collect_runs(trials, epochs), epochs, [A_BELOW_B])[0].verdict == MISSING


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
    claim = Claim("a is smoother", "a", "b", ROUGHNESS)
    a = {("a", s): [9.0, 3.0, 1.0] for s in range(3)}
    b = {("b", s): [1.0, 1.5 + s / 100, 0.5] for s in range(3)}
    found = judged(claim, a | b)
    assert found.verdict == UPHELD
    assert found.effect == pytest.approx(-math.log(1.51), rel=0.01)
    still = judged(claim, a | {("b", s): [3.0, 2.0, 1.0] for s in range(3)})
    assert (still.verdict, still.effect) == (UNDECIDED, 0)
    assert "Both are the same" in still.why


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
    assert (
        "At the pace of the last epoch, the curves would meet after about 5 epochs in total."
        in closing.why
    )
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
    assert decide_verdict(-2, -1) == UPHELD
    assert decide_verdict(1, 2) == CONTRADICTED
    assert decide_verdict(-1, 1) == decide_verdict(0, 1) == decide_verdict(-1, 0) == UNDECIDED
    assert decide_verdict(-2, -1, threshold=-3) == CONTRADICTED


def test_interval_without_others_is_students() -> None:
    """Oracle: the textbook: mean 2, deviation 1, n 3, t 4.3027 at two degrees of freedom."""
    low, high = compute_interval([1.0, 2.0, 3.0])
    assert (low, high) == pytest.approx((2 - 4.30265 / 3**0.5, 2 + 4.30265 / 3**0.5), rel=1e-5)
    assert compute_interval([1.0]) == (-math.inf, math.inf)


def test_p_values_agree_with_scipy_and_the_interval() -> None:
    """Oracle: scipy's one-sample t-test; below 0.05 exactly where the 95 % interval does not reach
    the limit. One seed has none; no spread is certainty, or no difference at all."""
    draw = np.random.default_rng(0)
    for _ in range(200):
        values = draw.normal(draw.normal(0, 2), 1, draw.integers(2, 8)).tolist()
        expected = stats.ttest_1samp(values, 0.5).pvalue
        assert compute_p_value(values, 0.5) == pytest.approx(expected, rel=1e-9)
        low, high = compute_interval(values)
        assert (expected < 0.05) == (decide_verdict(low, high, 0.5) != UNDECIDED)
    assert compute_p_value([1.0]) is None
    assert compute_p_value([1.0, 1.0, 1.0]) == 0
    assert compute_p_value([1.0, 1.0, 1.0], 1.0) == 1


def test_other_claims_change_no_interval() -> None:
    """Oracle: the claim judged alone. Intervals that borrow from others are too narrow for the
    claims whose experiments are the noisiest."""
    curves = seeds([0.50, 0.52, 0.51], [1.00, 1.03, 1.05])
    others = [Claim(f"{name} is better", name, "b") for name in "cdef"]
    for number, other in enumerate(others):
        curves |= {(other.lower, seed): [1 + 1e-4 * seed * number] for seed in range(3)}
    trials, epochs = tables(curves)
    found = collect_runs(trials, epochs)
    (alone,) = judge_claims(found, epochs, [A_BELOW_B])
    among = judge_claims(found, epochs, [A_BELOW_B, *others])[0]
    assert (among.low, among.high, among.p) == (alone.low, alone.high, alone.p)


def page_of_pairs(n_seeds: int, noise: str, pages: int) -> np.ndarray:
    """Differences of log errors without any effect, (pages, claims, seeds): the pairs of all
    measured claims of reconstruction and colourisation; both base models spread five times as much
    as all others, and their runs are in every claim that names them."""
    measured = [c for c in CLAIMS if c.measure not in SIZES]
    names = sorted({c.lower for c in measured} | {c.higher for c in measured})
    draw = np.random.default_rng(7)
    shape = (pages, len(names), n_seeds)
    runs_of = draw.standard_normal(shape) if noise == "normal" else draw.standard_t(3, shape)
    runs_of *= np.array([0.1 if name.endswith("-base") else 0.02 for name in names])[:, None]
    lower, higher = ([names.index(getattr(c, s)) for c in measured] for s in ("lower", "higher"))
    differences: np.ndarray = runs_of[:, lower] - runs_of[:, higher]
    return differences


@pytest.mark.parametrize("n_seeds", [3, 5])
@pytest.mark.parametrize("noise", ["normal", "t3"])
def test_every_claim_is_covered(n_seeds: int, noise: str) -> None:
    """Oracle: simulation with a known truth of 0; normal noise of log errors is lognormal noise of
    errors. Every fourth claim, with the base model and without, is held by itself in 94 % of
    2,500 pages (less half a standard error: 93.8 %). Intervals that use the spread of all
    comparisons hold the noisiest in 83 to 92 %."""
    pages = page_of_pairs(n_seeds, noise, 2_500)[:, ::4]
    held = [
        np.mean([low <= 0 <= high for low, high in map(compute_interval, pages[:, i])])
        for i in range(pages.shape[1])
    ]
    assert min(held) > 0.938
    assert max(held) < 0.975


@pytest.mark.parametrize("n_seeds", [3, 5])
def test_a_page_without_effects_carries_no_verdict(n_seeds: int) -> None:
    """Oracle: simulation. Of pages where nothing has an effect some 5 % carry an adjusted verdict
    (and two standard errors of 400 pages: 7.2 %), where raw ones are on more than every third."""
    raw, adjusted = [], []
    for page in page_of_pairs(n_seeds, "normal", 400):
        judgements = [
            Judgement(
                A_BELOW_B, decide_verdict(*compute_interval(pair)), n_seeds, p=compute_p_value(pair)
            )
            for pair in page
        ]
        raw.append(any(j.verdict != UNDECIDED for j in judgements))
        adjusted.append(any(j.adjusted != UNDECIDED for j in adjust_verdicts(judgements)))
    assert np.mean(raw) > 0.35
    assert np.mean(adjusted) < 0.072


def test_verdicts_are_adjusted_by_benjamini_and_hochberg() -> None:
    """Oracle: by hand, after their paper: of five p-values 0.004, 0.019, 0.03, 0.031, 0.5 the
    fourth is below 4 / 5 of 0.05, so the first four stand; adjusted they are 0.02, then the least
    of 5 / i times each later one: 0.03875 three times. What is counted or missing has no p-value,
    takes no part, and keeps its verdict; adjusting again changes nothing."""
    given = [0.031, 0.5, None, 0.004, 0.03, None, 0.019]
    verdicts = [UPHELD, UNDECIDED, UPHELD, CONTRADICTED, UPHELD, MISSING, UPHELD]
    judgements = [Judgement(A_BELOW_B, said, p=p) for said, p in zip(verdicts, given, strict=True)]
    found = adjust_verdicts(judgements)
    expected = [0.03875, 0.5, None, 0.02, 0.03875, None, 0.03875]
    assert [j.adjusted_p for j in found] == [p and pytest.approx(p) for p in expected]
    assert [j.adjusted for j in found] == verdicts
    assert adjust_verdicts(found) == found
    more = adjust_verdicts(
        [*judgements, *(Judgement(A_BELOW_B, UNDECIDED, p=0.9) for _ in range(5))]
    )
    assert [j.adjusted for j in more[:7]] == [
        *(UNDECIDED, UNDECIDED, UPHELD, CONTRADICTED, UNDECIDED, MISSING, UNDECIDED),
    ]
    assert [j.verdict for j in more[:7]] == verdicts
    assert adjust_verdicts([]) == []


def test_judging_adjusts_for_the_claims_it_judges() -> None:
    """Oracle: a difference with a p-value of 0.02 (scipy) stands alone, and not among ten claims
    whose experiments do not differ."""
    draw = np.random.default_rng(3)
    curves = seeds([0.80, 0.86, 0.83], [1.00, 1.00, 1.00])
    others = [Claim(f"{i} is better", f"c{i}", "b") for i in range(10)]
    curves |= {(c.lower, s): [1 + 0.1 * draw.standard_normal()] for c in others for s in range(3)}
    trials, epochs = tables(curves)
    found = collect_runs(trials, epochs)
    (alone,) = judge_claims(found, epochs, [A_BELOW_B])
    logs = np.log([0.80, 0.86, 0.83])
    assert alone.p == pytest.approx(stats.ttest_1samp(logs, 0).pvalue)
    assert (alone.verdict, alone.adjusted) == (UPHELD, UPHELD)
    among = judge_claims(found, epochs, [A_BELOW_B, *others])[0]
    assert (among.verdict, among.adjusted) == (UPHELD, UNDECIDED)


@pytest.mark.parametrize("column", ["train_mse", "test_mse", "val_mse"])
@pytest.mark.parametrize("measure", ["test", "train", "val", "path"])
def test_a_run_without_any_error_has_no_ratio(column: str, measure: str) -> None:
    """Oracle: the logarithm of 0. A training, validation or test error of exactly 0 (pictures of
    one grey have such) leaves that run out, and the claim is judged by the other two seeds."""
    trials, epochs = tables(seeds([0.50, 0.50, 0.51], [1.00, 1.00, 1.02]))
    trials.loc[0, column] = 0.0
    if column == "val_mse":
        epochs.loc[0, column] = 0.0
    claim = Claim("a is better", "a", "b", measure)
    (found,) = judge_claims(collect_runs(trials, epochs), epochs, [claim])
    assert (found.verdict, found.n) == (UPHELD, 2)
    assert found.effect == pytest.approx(0.5)


def test_seeds_that_would_decide() -> None:
    """Oracle: Student's quantiles from a table, with a deviation of 1: a mean of 1 needs n with
    t(n - 1) below the root of n: 2.571 > 2.449 at 6, 2.447 < 2.646 at 7. A tenth of it needs 387
    (1.96616 x 10 is the root of 386.6); a thousandth more than anybody runs."""
    unit = np.array([-1.0, 1.0]) / 2**0.5
    assert estimate_seeds_needed((unit + 1).tolist()) == 7
    assert estimate_seeds_needed((unit + 0.1).tolist()) == 387
    assert estimate_seeds_needed((unit + 0.001).tolist()) is None
    assert estimate_seeds_needed((unit + 1.1).tolist(), threshold=0.1) == 7


def test_rank_correlation() -> None:
    """Oracle: by hand. Ranks 1 to 5 against 1, 2, 3.5, 5, 3.5: Pearson of the ranks is
    8 / sqrt(10 x 9.5) = 0.8208; interval of Bonett and Wright around atanh of it with standard
    error sqrt((1 + 0.8208² / 2) / 2)."""
    found = compute_rank_correlation([1, 2, 3, 4, 5], [5, 6, 7, 8, 7])
    assert found is not None
    half = 1.959964 * math.sqrt((1 + 0.820783**2 / 2) / 2)
    at = math.atanh(0.820783)
    assert found == pytest.approx((0.820783, math.tanh(at - half), math.tanh(at + half)), rel=1e-5)
    assert compute_rank_correlation([1, 2, 3], [3, 2, 1]) is None
    assert compute_rank_correlation([1, 1, 1, 1], [1, 2, 3, 4]) is None
    # Twelve of fifteen share one size, and there are three: two groups against a third.
    assert compute_rank_correlation([1] * 12 + [2, 2, 3], range(15)) is None
    assert compute_rank_correlation([1] * 12 + [2, 3, 4], range(15)) is not None
    # A perfect order of four is no certainty: -1, from there to tanh(-atanh(15 / 16) + 1.96 √1.5).
    found = compute_rank_correlation([1, 2, 3, 4], [4, 3, 2, 1])
    least = math.tanh(-math.atanh(15 / 16) + 1.959964 * math.sqrt(1.5))
    assert found == pytest.approx((-1, -1, least), rel=1e-5)


def test_every_claim_compares_known_experiments_of_one_task() -> None:
    """Oracle: the points of the two spaces; each experiment but the figure-only ones is in some
    claim."""
    of_task = [set(loading.load_space(name).points) for name in ("ex2-report", "ex3-report")]
    for claim in CLAIMS:
        assert any({claim.lower, claim.higher} <= points for points in of_task), claim
        assert claim.measure in MEASURES
        assert claim.sentence.endswith(".")
    assert len(set(CLAIMS)) == len(CLAIMS)
    unused = set.union(*of_task) - {c.lower for c in CLAIMS} - {c.higher for c in CLAIMS}
    assert unused == {"ex2-channels-x20"}
