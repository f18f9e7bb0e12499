"""Early stopping as a rule, without Ray and without training."""

from __future__ import annotations

import math
from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from raycae.errors import InputError
from raycae.optimization.early_stopping import (
    ASHA,
    SCHEDULERS,
    Hyperband,
    KeepOnlyBest,
    NoStopping,
    ParetoASHA,
    StoppingRule,
    choose_grace,
    list_rungs,
    make_rule,
)


def test_rungs() -> None:
    """Oracle: grace times powers of the factor, below the last epoch."""
    assert ASHA(10, factor=3).rungs == [1, 3, 9]
    assert ASHA(9, factor=3).rungs == [1, 3]
    assert ASHA(10).rungs == [1, 4]
    assert ASHA(1).rungs == []
    assert ASHA(20, grace=2, factor=2).rungs == [2, 4, 8, 16]


@pytest.mark.parametrize(
    ("epochs", "grace"), [(1, 1), (9, 1), (10, 1), (23, 1), (24, 2), (52, 4), (81, 6), (100, 8)]
)
def test_the_default_grace(epochs: int, grace: int) -> None:
    """Oracle: a twelfth of the epochs by hand; it leaves at least one rung above one epoch."""
    assert choose_grace(epochs) == grace
    assert bool(ASHA(epochs, grace=grace).rungs) == (epochs > 1)


def test_the_best_third_goes_on() -> None:
    """Oracle: algorithm 2 of Li et al. (MLSys 2020) by hand, factor 3, one rung.

    Of n values the best n // 3 go on, at least the best one. 4, 3, 2 and 1 are the best when they
    arrive. 3.5 is the third of six, two go on. 1.5 is the second of nine, three go on.
    """
    asha = ASHA(9, factor=3)
    values = [5.0, 4.0, 3.0, 6.0, 2.0, 3.5, 1.0, 7.0, 1.5]
    verdicts = [asha.report(i, 1, value) for i, value in enumerate(values)]
    assert verdicts == [True, True, True, False, True, False, True, False, True]


@given(st.lists(st.integers(1, 20), min_size=1, max_size=60), st.integers(2, 5))
def test_asha_by_its_definition(values: list[int], factor: int) -> None:
    """Oracle: the values seen so far, sorted anew at every report: a trial goes on if its value is
    at most the (n // factor)-th smallest of n, or the smallest. Ties go on together."""
    asha = ASHA(9, factor=factor)
    for i, value in enumerate(values):
        ranked = sorted(values[: i + 1])
        assert asha.report(i, 1, float(value)) == (value <= ranked[max(1, (i + 1) // factor) - 1])


def improving(n: int, seed: int) -> list[float]:
    """Errors of a sampler that improves steadily: their mean falls by 1, with noise of 0.25."""
    noise = np.random.default_rng(seed).normal(0, 0.25, n)
    return list(1 - np.arange(n) / n + noise)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("name", ["asha", "family"])
def test_an_improving_sampler_loses_no_good_trial(name: str, seed: int) -> None:
    """Oracle: the best twentieth of 400 trials, by sorting. None of them may be stopped.

    A rule that also limits how many trials go on stops half of them and more
    (analysis/benchmarks/stopping_simulation.py).
    """
    values = improving(400, seed)
    judge = make_rule("asha", 9, family="point" if name == "family" else None)
    stopped = []
    for number in range(len(values)):
        known = {"point": number}  # Every trial is a family of its own.
        reports = (judge.report(number, rung, values[number], known) for rung in (1, 4))
        if not all(reports):
            stopped.append(number)
    best = np.argsort(values)[:20]
    assert not set(best) & set(stopped)
    assert len(stopped) > 100  # The rule does stop trials.


def test_between_rungs_nobody_is_stopped() -> None:
    """Oracle: epochs 2 and 4 to 8 are no rungs."""
    asha = ASHA(9, factor=3)
    assert all(asha.report(i, epoch, 9.0 - i) for i in range(9) for epoch in (2, 4, 8))


@given(st.lists(st.floats(0, 1), min_size=3, max_size=60))
def test_the_best_so_far_is_never_stopped(values: list[float]) -> None:
    """Oracle: an invariant of successive halving, whatever the order of arrival."""
    asha = ASHA(9)
    for i, value in enumerate(values):
        goes_on = asha.report(i, 1, value)
        if value <= min(values[: i + 1]):
            assert goes_on


@given(st.lists(st.floats(0, 1), min_size=1, max_size=40))
def test_a_replay_gives_the_same_verdicts(values: list[float]) -> None:
    """Oracle: two rules told the same; a ledger read twice leads to the same place."""
    first, second = ASHA(9), ASHA(9)
    told = [(first.report(i, 1, v), second.report(i, 1, v)) for i, v in enumerate(values)]
    assert all(a == b for a, b in told)
    assert first.report(999, 1, 0.5) == second.report(999, 1, 0.5)


def test_a_repeated_report_counts_once() -> None:
    """Oracle: a trial that repeats an epoch after a restart is one trial at the rung."""
    asha = ASHA(9, factor=2)
    assert [asha.report(0, 1, 1.0) for _ in range(5)] == [True] * 5
    assert not asha.report(1, 1, 2.0)  # Of two trials one goes on; of six it would be three.


@pytest.mark.parametrize(
    "judge",
    [
        ASHA(9, factor=2),
        ParetoASHA(9, cost="n_params", factor=2),
        KeepOnlyBest(9, factor=2),
        Hyperband(9, factor=2),
    ],
    ids=lambda judge: type(judge).__name__,
)
def test_a_verdict_stands(judge: StoppingRule) -> None:
    """Oracle: a trial that went on from a rung goes on when it reports the rung again, after many
    better trials; so does one that was stopped stay stopped."""
    numbers = [
        n for n in range(60) if not isinstance(judge, Hyperband) or not judge.find_bracket(n)
    ]
    told = [(n, 1, 1.0 - n / 100, {"n_params": 1}) for n in numbers]
    told.append((1000, 1, 9.0, {"n_params": 9}))
    verdicts = [judge.report(*report) for report in told]
    assert verdicts[0]
    assert not all(verdicts) or isinstance(judge, Hyperband)
    assert [judge.report(*report) for report in told] == verdicts


TABLE_1 = {
    81: {
        4: [(81, 1), (27, 3), (9, 9), (3, 27), (1, 81)],
        3: [(34, 3), (11, 9), (3, 27), (1, 81)],
        2: [(15, 9), (5, 27), (1, 81)],
        1: [(8, 27), (2, 81)],
        0: [(5, 81)],
    },
    27: {
        3: [(27, 1), (9, 3), (3, 9), (1, 27)],
        2: [(12, 3), (4, 9), (1, 27)],
        1: [(6, 9), (2, 27)],
        0: [(4, 27)],
    },
}
"""(n_i, r_i) of every bracket s, eta = 3: table 1 of Li et al. (JMLR 2018) for R = 81; for R = 27
their algorithm 1 by hand: n = ceil(4 / (s + 1) x 3^s), n_i = n // 3^i, r_i = 27 / 3^s x 3^i."""


@pytest.mark.parametrize("epochs", TABLE_1)
def test_brackets_of_hyperband(epochs: int) -> None:
    """Oracle: table 1 of the paper. Every bracket stops at its r_i below R, s = 0 never does, and
    the shares of the trials are those of its n_0 within 3 percentage points. (The paper counts
    epochs from the first at every rung; here survivors continue, so they cannot be equal.)"""
    table = TABLE_1[epochs]
    hyperband = Hyperband(epochs, factor=3)
    resources = [[r for _, r in rounds] for rounds in table.values()]
    assert [[*bracket.rungs, epochs] for bracket in hyperband.brackets] == resources
    firsts = [rounds[0][0] for rounds in table.values()]
    counts = Counter(hyperband.find_bracket(number) for number in range(10_000))
    for n, first in enumerate(firsts):
        assert counts[n] / 10_000 == pytest.approx(first / sum(firsts), abs=0.03)


def test_shares_of_hyperband() -> None:
    """Oracle: by hand, 27 epochs, factor 3. Where one in three goes on from each rung, trials take
    1 + 2/3 + 6/9 + 18/27 = 3, 3 + 6/3 + 18/9 = 7, 9 + 18/3 = 15 and 27 epochs. Equal shares of the
    epochs give the brackets 1/3 : 1/7 : 1/15 : 1/27 = 315 : 135 : 63 : 35 of 548 trials."""
    hyperband = Hyperband(27, factor=3)
    counts = Counter(hyperband.find_bracket(number) for number in range(5480))
    assert [counts[n] for n in range(4)] == pytest.approx([3150, 1350, 630, 350], abs=6)
    some = Counter(hyperband.find_bracket(number) for number in range(700, 755))
    assert [some[n] for n in range(4)] == pytest.approx([31.6, 13.5, 6.3, 3.5], abs=1.6)


@pytest.mark.parametrize(
    ("epochs", "grace", "factor"),
    [(81, 1, 3), (27, 1, 3), (9, 1, 4), (20, 2, 2), (50, 3, 4), (5, 9, 2)],
)
def test_brackets_spend_equal_epochs(epochs: int, grace: int, factor: int) -> None:
    """Oracle: count the epochs of 6,000 trials with random errors: every bracket spends the same
    share within a tenth of it. Also where `epochs` is no power of the factor."""
    hyperband = Hyperband(epochs, grace=grace, factor=factor)
    draw = np.random.default_rng(0)
    spent = [0] * len(hyperband.brackets)
    for number in range(6000):
        error = float(draw.uniform())
        for epoch in range(1, epochs + 1):
            spent[hyperband.find_bracket(number)] += 1
            if epoch < epochs and not hyperband.report(number, epoch, error):
                break
    shares = np.array(spent) / sum(spent)
    assert shares == pytest.approx(1 / len(spent), rel=0.1)


def test_grace_is_the_smallest_first_rung() -> None:
    """Oracle: by hand. No bracket stops before the grace; one that starts after the last epoch
    leaves a single bracket that never stops."""
    found = [bracket.rungs for bracket in Hyperband(30, grace=2, factor=3).brackets]
    assert found == [[2, 6, 18], [6, 18], [18], []]
    assert [bracket.rungs for bracket in Hyperband(4, grace=9).brackets] == [[]]
    assert list_rungs("hyperband", 30, grace=2, factor=3) == [2, 6, 18]


def test_hyperband_compares_within_a_bracket() -> None:
    """Oracle: trials of the third bracket have no rung before epoch 9, however bad they are; those
    of the first are compared at epoch 1 among themselves; those of the last run to their end."""
    hyperband = Hyperband(27, factor=3)
    of_bracket = [
        [number for number in range(200) if hyperband.find_bracket(number) == n] for n in range(4)
    ]
    assert all(hyperband.report(number, 1, 1e3) for number in of_bracket[2][:9])
    verdicts = [hyperband.report(n, 1, float(i)) for i, n in enumerate(of_bracket[0][:6])]
    assert verdicts == [True, False, False, False, False, False]
    worst = ((n, epoch, 1e3 + n) for n in of_bracket[3] for epoch in range(1, 28))
    assert all(hyperband.report(*report) for report in worst)


def test_families_in_brackets() -> None:
    """Oracle: by hand. Siblings are compared at the rungs of their bracket, and those of the
    bracket without early stopping are not."""
    judge = make_rule("hyperband", 27, factor=3, family="arch_hash")
    brackets = Hyperband(27, factor=3)
    first, last = (
        [number for number in range(200) if brackets.find_bracket(number) == n][:4] for n in (0, 3)
    )
    sibling = {"arch_hash": "a"}
    assert [judge.report(n, 1, e, sibling) for n, e in zip(first, (5, 6, 4, 5), strict=True)] == [
        *(True, False, True, False)
    ]
    assert all(judge.report(n, epoch, 9.0 + n, sibling) for n in last for epoch in (1, 3, 9))


@pytest.mark.parametrize("name", SCHEDULERS)
def test_every_rule(name: str) -> None:
    """Oracle: the contract: no trial is stopped before the grace, none after the last epoch is
    told, a replay says the same, one epoch has nothing to stop."""
    told = [(number, epoch, 1.0 / (1 + number)) for number in range(40) for epoch in range(1, 10)]
    told = [(number, epoch, -value) for number, epoch, value in told]  # each worse than the last
    first, second = (make_rule(name, 9, grace=4, factor=2) for _ in range(2))
    verdicts = [first.report(*said) for said in told]
    assert verdicts == [second.report(*said) for said in told]
    stopped = {said[1] for said, goes_on in zip(told, verdicts, strict=True) if not goes_on}
    assert stopped <= {4, 8}
    assert (4 in stopped) == (name != "none")
    assert all(make_rule(name, 1).report(number, 1, float(number)) for number in range(20))


def test_by_name() -> None:
    """Oracle: the names that the command line offers."""
    assert isinstance(make_rule("none", 5), NoStopping)
    assert make_rule("none", 5).report(0, 1, 1e9)
    with pytest.raises(InputError, match="Use asha, hyperband or none"):
        make_rule("pbt", 5)


@pytest.mark.parametrize("name", SCHEDULERS)
@pytest.mark.parametrize("family", [None, "arch_hash"])
def test_the_base_runs_to_its_end(name: str, family: str | None) -> None:
    """Oracle: by hand. The worst of all trials goes on from every rung if it is the base; as any
    other point it is stopped. The best goes on after it."""
    for point, goes_on in (("base", True), ("other", name == "none"), (None, name == "none")):
        judge = make_rule(name, 9, factor=2, family=family)
        for number in range(4):
            judge.report(number, 4, 0.1 + number, {"point": None, "arch_hash": "a"})
        said = [judge.report(4, epoch, 9.0, {"point": point, "arch_hash": "a"}) for epoch in (1, 4)]
        assert said[1] == goes_on
        assert judge.report(5, 4, 0.05, {"point": None, "arch_hash": "a"})


def test_strata_are_strangers() -> None:
    """Oracle: two strata told in turn say what two rules of their own do, though every error of the
    one is below all of the other's."""
    both = make_rule("asha", 9, stratum=lambda known: known["latent_size"] > 64)
    alone = {64: make_rule("asha", 9), 128: make_rule("asha", 9)}
    for number, value in enumerate([5.0, 4.0, 3.0, 6.0, 2.0, 3.5, 1.0]):
        for size, error in ((64, value), (128, value / 100)):
            told = (2 * number + (size > 64), 1, error)
            assert both.report(*told, {"latent_size": size}) == alone[size].report(*told)


@given(st.lists(st.tuples(st.integers(1, 5), st.integers(1, 5)), min_size=1, max_size=25))
def test_pareto_rank_by_its_definition(points: list[tuple[int, int]]) -> None:
    """Oracle: Fonseca and Fleming's rank, how many beat a trial, counted anew at every report; a
    trial goes on while fewer than a third of those seen have a lower rank. What nobody beats is
    never stopped."""

    def beaten_by(one: tuple[int, int], others: list[tuple[int, int]]) -> int:
        return sum(o != one and o[0] <= one[0] and o[1] <= one[1] for o in others)

    asha = ParetoASHA(9, cost="n_params", factor=3)
    for n, (error, size) in enumerate(points):
        seen = points[: n + 1]
        ranks = [beaten_by(point, seen) for point in seen]
        expected = len(seen) < 3 or sum(r < ranks[n] for r in ranks) < len(seen) // 3
        assert asha.report(n, 1, float(error), {"n_params": size}) == expected
        if ranks[n] == 0 and len(seen) >= 3:
            assert expected


MEASURED = st.sampled_from([0.0, 0.1, 0.1 + 1e-17, 0.3, 0.1 + 0.2, math.inf, math.nan]) | st.floats(
    0, 1
)


@given(st.lists(st.tuples(MEASURED, MEASURED), max_size=60), st.integers(2, 5))
def test_pareto_rank_as_in_plain_python(points: list[tuple[float, float]], factor: int) -> None:
    """Oracle: the loops over all earlier trials that the arrays have replaced, for any numbers."""

    def dominates(first: tuple[float, float], second: tuple[float, float]) -> bool:
        return first != second and first[0] <= second[0] and first[1] <= second[1]

    seen: list[tuple[float, float]] = []
    ranks: list[int] = []
    asha = ParetoASHA(9, cost="epoch_time_s", factor=factor)
    for n, new in enumerate(points):
        for i, other in enumerate(seen):
            ranks[i] += dominates(new, other)
        ranks.append(sum(dominates(other, new) for other in seen))
        seen.append(new)
        n_better = sum(rank < ranks[n] for rank in ranks)
        expected = len(seen) < factor or n_better < len(seen) // factor
        verdict = asha.report(n, 1, new[0], {"epoch_time_s": new[1]})
        assert verdict is expected


def test_two_costs_in_brackets() -> None:
    """Oracle: Hyperband compares by rank too: a dear trial with the least error goes on, and so
    does a cheap one with the most."""
    hyperband = make_rule("hyperband", 9, cost="flops")
    told = [(n, 1, 1.0 - n / 100, {"flops": 10.0 + n}) for n in range(40)]
    assert all(hyperband.report(*said) for said in told)
    assert not all(hyperband.report(n + 40, 1, 2.0, {"flops": 99.0}) for n in range(40))


def test_of_a_family_only_the_best_goes_on() -> None:
    """Oracle: by hand: at a rung whoever has a better sibling stops, whatever the others do."""
    one = make_rule("asha", 9, family="arch_hash")
    told = [("a", 0.5), ("a", 0.6), ("b", 0.9), ("a", 0.4), ("b", 0.95), ("b", 0.2)]
    verdicts = [
        one.report(n, 1, value, {"arch_hash": family}) for n, (family, value) in enumerate(told)
    ]
    # The third of all, and the best b, has two better ones before it: ASHA stops it.
    assert verdicts == [True, False, False, True, False, True]
    assert one.report(1, 2, 0.6, {"arch_hash": "a"})  # no rung
