"""Early stopping as a rule, without Ray and without training."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from raycae.errors import InputError
from raycae.stopping import ASHA, SCHEDULERS, Hyperband, NoStopping, ParetoASHA, rule


def test_rungs() -> None:
    """Oracle: grace times powers of the factor, below the last epoch."""
    assert ASHA(10, factor=3).rungs == [1, 3, 9]
    assert ASHA(9, factor=3).rungs == [1, 3]
    assert ASHA(10).rungs == [1, 4]
    assert ASHA(1).rungs == []
    assert ASHA(20, grace=2, factor=2).rungs == [2, 4, 8, 16]


def test_the_best_third_goes_on() -> None:
    """Oracle: by hand, factor 3; of n seen n // 3 places. The first is the best so far, so are 4,
    3, 2 and 1. 3.5 is among the best two of six, but four have gone on; 1.5 is the second of nine,
    and five have."""
    asha = ASHA(9, factor=3)
    values = [5.0, 4.0, 3.0, 6.0, 2.0, 3.5, 1.0, 7.0, 1.5]
    verdicts = [asha.report(i, 1, value) for i, value in enumerate(values)]
    assert verdicts == [True, True, True, False, True, False, True, False, False]


def test_a_place_that_nobody_took_is_given_away() -> None:
    """Oracle: by hand, factor 3. The first one stays the best; of six two may go on and one has, so
    the second best of six does, and the second best of seven no more."""
    asha = ASHA(9, factor=3)
    verdicts = [asha.report(i, 1, v) for i, v in enumerate([1.0, 5.0, 6.0, 7.0, 8.0, 2.0, 1.5])]
    assert verdicts == [True, False, False, False, False, True, False]


@given(st.lists(st.floats(0, 1), min_size=1, max_size=60), st.integers(2, 5))
def test_no_more_than_a_share_goes_on(values: list[float], factor: int) -> None:
    """Oracle: beside those that were the best of their time at most one in `factor` goes on."""
    asha = ASHA(9, factor=factor)
    went_on = sum(asha.report(i, 1, value) for i, value in enumerate(values))
    n_best = sum(value <= min(values[: i + 1]) for i, value in enumerate(values))
    assert went_on <= n_best + len(values) // factor


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
    assert not asha.report(1, 1, 2.0)  # of two, which have one place; six would have three


def test_brackets_of_hyperband() -> None:
    """Oracle: by hand, 27 epochs, factor 3: brackets from rung 1, 3, 9 on, with 2, 1 and 0 further
    rungs. Shares (n + 1 = 3, 2, 1 rungs): 3/3 x 9, 3/2 x 3, 3/1 x 1 = 9 : 4.5 : 3."""
    hyperband = Hyperband(27, factor=3)
    assert [bracket.rungs for bracket in hyperband.brackets] == [[1, 3, 9], [3, 9], [9]]
    counts = Counter(hyperband.bracket(number) for number in range(1650))
    assert [counts[n] for n in range(3)] == pytest.approx([900, 450, 300], abs=5)
    some = Counter(hyperband.bracket(number) for number in range(700, 711))
    assert [some[n] for n in range(3)] == pytest.approx([6, 3, 2], abs=1)


def test_hyperband_compares_within_a_bracket() -> None:
    """Oracle: a trial of the last bracket has no rung before epoch 9, however bad it is; those of
    the first are halved at epoch 1 among themselves."""
    hyperband = Hyperband(27, factor=3)
    of_bracket = [
        [number for number in range(100) if hyperband.bracket(number) == n] for n in range(3)
    ]
    assert all(hyperband.report(number, 1, 1e3) for number in of_bracket[2][:9])
    verdicts = [hyperband.report(n, 1, float(i)) for i, n in enumerate(of_bracket[0][:6])]
    assert verdicts == [True, False, False, False, False, False]


@pytest.mark.parametrize("name", SCHEDULERS)
def test_every_rule(name: str) -> None:
    """Oracle: the contract: no trial is stopped before the grace, none after the last epoch is
    told, a replay says the same, one epoch has nothing to stop."""
    told = [(number, epoch, 1.0 / (1 + number)) for number in range(40) for epoch in range(1, 10)]
    told = [(number, epoch, -value) for number, epoch, value in told]  # each worse than the last
    first, second = (rule(name, 9, grace=4, factor=2) for _ in range(2))
    verdicts = [first.report(*said) for said in told]
    assert verdicts == [second.report(*said) for said in told]
    stopped = {said[1] for said, goes_on in zip(told, verdicts, strict=True) if not goes_on}
    assert stopped <= {4, 8}
    assert (4 in stopped) == (name != "none")
    assert all(rule(name, 1).report(number, 1, float(number)) for number in range(20))


def test_by_name() -> None:
    """Oracle: the names that the command line offers."""
    assert isinstance(rule("none", 5), NoStopping)
    assert rule("none", 5).report(0, 1, 1e9)
    with pytest.raises(InputError, match="allowed: asha, hyperband, none"):
        rule("pbt", 5)


@pytest.mark.parametrize("name", SCHEDULERS)
@pytest.mark.parametrize("family", [None, "arch_hash"])
def test_the_base_runs_to_its_end(name: str, family: str | None) -> None:
    """Oracle: by hand. The worst of all trials goes on from every rung if it is the base; as any
    other point it is stopped. The best goes on after it."""
    for point, goes_on in (("base", True), ("other", name == "none"), (None, name == "none")):
        judge = rule(name, 9, factor=2, family=family)
        for number in range(4):
            judge.report(number, 4, 0.1 + number, {"point": None, "arch_hash": "a"})
        said = [judge.report(4, epoch, 9.0, {"point": point, "arch_hash": "a"}) for epoch in (1, 4)]
        assert said[1] == goes_on
        assert judge.report(5, 4, 0.05, {"point": None, "arch_hash": "a"})


def test_strata_are_strangers() -> None:
    """Oracle: two strata told in turn say what two rules of their own do, though every error of the
    one is below all of the other's."""
    both = rule("asha", 9, stratum=lambda known: known["latent_size"] > 64)
    alone = {64: rule("asha", 9), 128: rule("asha", 9)}
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


def test_two_costs_in_brackets() -> None:
    """Oracle: Hyperband compares by rank too: a dear trial with the least error goes on, and so
    does a cheap one with the most."""
    hyperband = rule("hyperband", 9, cost="flops")
    told = [(n, 1, 1.0 - n / 100, {"flops": 10.0 + n}) for n in range(40)]
    assert all(hyperband.report(*said) for said in told)
    assert not all(hyperband.report(n + 40, 1, 2.0, {"flops": 99.0}) for n in range(40))


def test_of_a_family_only_the_best_goes_on() -> None:
    """Oracle: by hand: at a rung whoever has a better sibling stops, whatever the others do."""
    one = rule("asha", 9, family="arch_hash")
    told = [("a", 0.5), ("a", 0.6), ("b", 0.9), ("a", 0.4), ("b", 0.95), ("b", 0.2)]
    verdicts = [
        one.report(n, 1, value, {"arch_hash": family}) for n, (family, value) in enumerate(told)
    ]
    # The third of all, and the best b, has two better ones before it: ASHA stops it.
    assert verdicts == [True, False, False, True, False, True]
    assert one.report(1, 2, 0.6, {"arch_hash": "a"})  # no rung
