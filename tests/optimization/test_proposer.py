"""Proposals: what each sampler owes, and the four defects of Ray's `OptunaSearch` that raycae
must not have."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from optuna.trial import TrialState

from raycae.config import TRAINING_KEYS, UNSEEN_KEYS, resolve
from raycae.errors import InputError
from raycae.model.architecture import build_architecture
from raycae.optimization import grid, history
from raycae.optimization.feasibility import find_reachable_strata, require_possible
from raycae.optimization.frontier import Strata
from raycae.optimization.grid import list_grid
from raycae.optimization.history import N_COMPARED, History, make_training_identity
from raycae.optimization.proposer import Proposal, Proposer
from raycae.optimization.samplers import SAMPLERS
from raycae.space import loading
from raycae.space.space import Space


def finish(proposer: Proposer, numbers: range) -> list[Proposal]:
    """Propose and complete trials one after the other, with an error made up from the lr."""
    seen = []
    for number in numbers:
        if (proposal := proposer.propose(number)) is None:
            break
        seen.append(proposal)
        proposer.report(number, 1, 1.0)
        proposer.tell(number, "COMPLETE", abs(math.log(proposal.config.lr / 0.003)))
    return seen


@pytest.mark.parametrize("sampler", SAMPLERS)
@pytest.mark.parametrize("name", ["quickstart", "ex2", "ex3"])
def test_every_sampler_on_every_space(sampler: str, name: str) -> None:
    """Oracle: the contract of a proposal: the points first, then configurations that build, obey
    the constraints, and whose parameters give the same configuration again."""
    the_space = loading.load_space(name)
    proposer = Proposer(the_space, sampler, seed=3)
    for number in range(14):
        proposal = proposer.propose(number)
        if sampler == "points" and number:
            assert proposal is None
            break
        assert proposal is not None
        assert proposal.point == ("base" if number == 0 else None)
        assert the_space.check(proposal.config) is None
        assert the_space.params_of(proposal.config) == proposal.params
        proposer.tell(number, "COMPLETE", 0.01)


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_proposals_are_a_function_of_seed_and_history(sampler: str, tiny_space: Space) -> None:
    """Oracle: the same seed gives the same proposals; a proposer that was told of the first ten
    (a restart) proposes what the other one did, and does not repeat its start-up trials."""
    whole = finish(Proposer(tiny_space, sampler, seed=1), range(16))
    assert finish(Proposer(tiny_space, sampler, seed=1), range(16)) == whole
    if sampler not in ("grid", "points", "greedy"):
        other = finish(Proposer(tiny_space, sampler, seed=2), range(16))
        assert [p.params for p in other] != [p.params for p in whole]

    resumed = Proposer(tiny_space, sampler, seed=1)
    original = Proposer(tiny_space, sampler, seed=1)
    for number, proposal in enumerate(finish(original, range(10))):
        resumed.reopen(number, proposal)
        resumed.report(number, 1, 1.0)
        value = original.history.ended[number].value
        resumed.tell(number, "COMPLETE", value)
    assert finish(resumed, range(10, 16)) == whole[10:]


def test_a_restart_among_stopped_trials(tiny_space: Space) -> None:
    """Oracle: the search that was not interrupted: after the same reports, in their order, of
    trials that were stopped, that ended and that run, the next proposals are the same."""
    original, resumed = (Proposer(tiny_space, "tpe", seed=1) for _ in range(2))
    for number in range(24):
        proposal = original.propose(number)
        assert proposal is not None
        resumed.reopen(number, proposal)
        error = abs(math.log(proposal.config.lr / 0.003)) + 0.1
        n_epochs = 9 if number % 5 == 0 else 4 if number % 2 else 1
        for proposer in (original, resumed):
            for epoch in range(1, n_epochs + 1):
                proposer.report(number, epoch, error / epoch)
            if number < 22:
                state = "COMPLETE" if n_epochs == 9 else "PRUNED"
                proposer.tell(number, state, error / n_epochs)
    seen = [trial.value for trial in original.history.select_recent().values()]
    assert 10 <= len(seen) < 24
    assert [trial.value for trial in resumed.history.select_recent().values()] == seen
    proposals = [original.propose(number) for number in (24, 25)]
    assert [resumed.propose(number) for number in (24, 25)] == proposals


def test_points_with_several_seeds(tiny_space: Space) -> None:
    """Oracle: each seed takes every point before the next seed does; of two that a restart finds
    in the ledger neither comes again; then nothing more."""
    names = ["base"]
    proposer = Proposer(tiny_space, "points", 5, points=names, n_seeds=3)
    proposer.reopen(0, Proposal(tiny_space.points["base"], {}, 6, "base"))
    assert [(p.point, p.seed) for n in (1, 2) if (p := proposer.propose(n))] == [
        ("base", 5),
        ("base", 7),
    ]
    assert proposer.propose(3) is None
    both = loading.load_space("ex3-report")
    few = Proposer(both, "points", points=["ex3-base", "ex3-custom"], n_seeds=2)
    seen = [(p.point, p.seed) for n in range(4) if (p := few.propose(n))]
    assert seen == [("ex3-base", 0), ("ex3-custom", 0), ("ex3-base", 1), ("ex3-custom", 1)]


FOUR = """
task: reconstruct
params:
  channels: {type: categorical, choices: [8, 12], per: stage}
fixed: {latent_channels: 4}
points: {wide: {channels: [12, 12]}}
"""


@pytest.mark.parametrize("sampler", ["tpe", "random", "grid"])
def test_nothing_is_proposed_twice(sampler: str) -> None:
    """Oracle: four networks, one of them a named point: four proposals, all different, and then
    nothing more. With other seeds they go on, each run of one with a seed of its own."""
    four = loading.parse_space(FOUR, name="four")
    proposer = Proposer(four, sampler)
    seen = [p.config.channels for n in range(5) if (p := proposer.propose(n))]
    assert sorted(seen) == [(8, 8), (8, 12), (12, 8), (12, 12)]
    if sampler == "grid":
        return  # it has an end of its own
    proposer = Proposer(four, sampler, seed=7, repeats="seed")
    runs = [(p.config.channels, p.seed) for n in range(12) if (p := proposer.propose(n))]
    assert len(set(runs)) == 12
    for channels in {channels for channels, _ in runs}:
        seeds = [seed for other, seed in runs if other == channels]
        assert seeds == list(range(7, 7 + len(seeds)))


def test_one_network_written_in_two_ways_is_one() -> None:
    """Oracle: a residual sum needs a convolution that keeps its shape; without one, with and
    without `residual` is the same network. Another learning rate is another run of it."""
    text = FOUR.replace("[8, 12], per: stage", "[8, 12]").replace(
        "fixed:", "  residual: {type: categorical, choices: [false, true]}\nfixed:"
    )
    two = loading.parse_space(text, name="two")
    proposer = Proposer(two, "random")
    nets = [build_architecture(p.config).hash for n in range(9) if (p := proposer.propose(n))]
    assert len(nets) == len(set(nets))
    base = resolve({})
    assert make_training_identity(base) == make_training_identity(resolve({"residual": True}))
    assert make_training_identity(base) != make_training_identity(resolve({"lr": 0.002}))


def test_what_tells_two_runs_apart() -> None:
    """Oracle: every setting is part of the network's hash or of the training's identity."""
    other = {
        "task": "colourise",
        "gammas": [1.0],
        "classes": 10,
        "optimizer": "sgd",
        "lr": 0.5,
        "weight_decay": 0.5,
        "momentum": 0.5,
        "batch_size": 3,
        "schedule": "cosine",
        "averaging": 0.5,
        "flips": "both",
        "precision": "bf16",
        "linear_path": "random",
    }
    assert set(other) == {*UNSEEN_KEYS, *TRAINING_KEYS}
    base = {"task": "colourise", "optimizer": "sgd", "lr": 0.1, "output": "linear"}
    for name, value in other.items():
        if base.get(name) != value:
            changed = resolve({**base, name: value})
            assert make_training_identity(changed) != make_training_identity(resolve(base)), name
    random, pca = (resolve({"output": "linear", "linear_path": way}) for way in ("random", "pca"))
    assert make_training_identity(random) != make_training_identity(pca)


def sizes(proposals: list[Proposal]) -> list[int]:
    return [build_architecture(proposal.config).latent_size for proposal in proposals]


def test_strata_are_asked_for() -> None:
    """Oracle: every proposal after the point lies in the stratum that was weakest when it was asked
    for, and each gets one; the strata's own test says which is the weakest."""
    ex2 = loading.load_space("ex2")
    strata = Strata((64, 128, 256, 512, 1024), (0.01, 0.008, 0.005, 0.003, 0.002))
    proposer = Proposer(ex2, "strata", seed=1, cost="latent_size", strata=strata)
    for number in range(25):
        wanted = strata.choose_weakest()
        proposal = proposer.propose(number)
        assert proposal is not None
        size = build_architecture(proposal.config).latent_size
        assert strata.of(size) == wanted or number == 0
        proposer.tell(number, "COMPLETE", 1 / size)
    assert None not in [strata.best[place] < 1 for place in range(5)]


def test_the_sampler_learns_within_a_stratum() -> None:
    """Oracle: a made-up error that falls with the learning rate in each stratum alike, while large
    latents have a thousandth of it: after sixty trials the proposals of every stratum have moved
    to high rates, those of the middle half of the range to random's are."""
    ex2 = loading.load_space("ex2")
    strata = Strata((128, 512, 2048), (1.0, 1.0, 1.0))
    proposer = Proposer(ex2, "strata", seed=0, cost="latent_size", strata=strata)
    rates: list[float] = []
    for number in range(80):
        proposal = proposer.propose(number)
        assert proposal is not None
        place = strata.of(build_architecture(proposal.config).latent_size)
        rates.append(proposal.config.lr)
        proposer.tell(number, "COMPLETE", 1e-3 ** (place or 0) / proposal.config.lr)
    middle = math.sqrt(1e-4 * 3e-2)
    assert sum(rate > middle for rate in rates[60:]) >= 16  # of 20; random: 10


def test_two_objectives_reach_optuna() -> None:
    """Oracle: Optuna's own record has both values, in the order error, cost; a stopped trial is
    PRUNED without any; what comes next is still proposed, as a function of what was told."""
    ex2 = loading.load_space("ex2")
    seen = []
    for _ in range(2):
        proposer = Proposer(ex2, "tpe", seed=2, cost="n_params")
        for number in range(14):
            proposal = proposer.propose(number)
            assert proposal is not None
            net = build_architecture(proposal.config)
            proposer.report(number, 1, 0.5)
            state = "PRUNED" if number % 3 == 1 else "COMPLETE"
            proposer.tell(number, state, 1 / net.n_params, {"n_params": net.n_params})
        trials = proposer.history.ended
        assert trials[1].state == TrialState.PRUNED
        for trial in trials.values():
            if trial.state == TrialState.COMPLETE:
                error, cost = map(math.exp, trial.values)
                assert error * cost == pytest.approx(1.0)
        seen.append([trial.params for trial in trials.values()])
    assert seen[0] == seen[1]


@pytest.mark.parametrize("sampler", ["tpe", "random", "strata"])
def test_several_settings_of_each_network(sampler: str) -> None:
    """Oracle: with three settings the networks come in runs of three, the named point's too; the
    settings of a run differ. A restart in the middle of a run ends it."""
    ex2 = loading.load_space("ex2")

    def fresh() -> Proposer:
        strata = Strata((256, 2048), (0.01, 0.001)) if sampler == "strata" else None
        return Proposer(ex2, sampler, seed=4, settings=3, strata=strata)

    proposer = fresh()
    proposals = [p for number in range(12) if (p := proposer.propose(number))]
    networks = [build_architecture(p.config).hash for p in proposals]
    assert networks == [network for network in dict.fromkeys(networks) for _ in range(3)]
    assert len({make_training_identity(p.config) for p in proposals}) == 12
    resumed = fresh()
    for number, proposal in enumerate(proposals[:7]):
        resumed.reopen(number, proposal)
    assert [resumed.propose(number) for number in range(7, 12)] == proposals[7:]


def test_a_network_without_more_settings() -> None:
    """Oracle: two learning rates are all there are, so a third setting is not waited for."""
    two = loading.parse_space(
        FOUR.replace("fixed:", "  lr: {type: categorical, choices: [0.01, 0.02]}\nfixed:"),
        name="two",
    )
    proposer = Proposer(two, "random", settings=3)
    seen = [p.config for n in range(12) if (p := proposer.propose(n))]
    assert len(seen) == len({(c.channels, c.lr) for c in seen})
    assert len({c.channels for c in seen}) == 4


def test_what_can_be_reached() -> None:
    """Oracle: the tiniest latent of ex2 has two channels of 2 x 2; no network has 3 numbers or
    fewer, some have at most 64."""
    assert find_reachable_strata(loading.load_space("ex2"), [3, 64, 2048]) == [64, 2048]


def test_excluded_bins_are_not_searched(monkeypatch: pytest.MonkeyPatch) -> None:
    """Oracle: the constraints of the space `demo`, 64 to 1,024 numbers; every allowed bin
    has a named point, so nothing has to be drawn."""
    space = loading.load_space("demo")
    n_drawn = 0

    def draw(*arguments: Any) -> Any:
        nonlocal n_drawn
        n_drawn += 1
        return Space.draw(space, *arguments)

    monkeypatch.setitem(vars(space), "draw", draw)
    assert find_reachable_strata(space, [32, 64, 128, 1024, 2048, 4096]) == [64, 128, 1024]
    assert n_drawn == 0


def test_stopped_trial_is_pruned_with_its_curve(tiny_space: Space) -> None:
    """Defect 1 of the stock searcher: it tells COMPLETE with the first loss. Oracle: Optuna's own
    record says PRUNED and holds the intermediate values."""
    proposer = Proposer(tiny_space)
    proposer.propose(0)
    proposer.report(0, 1, 0.5)
    proposer.report(0, 2, 0.4)
    proposer.tell(0, "PRUNED", 0.4)
    trial = proposer.history.ended[0]
    assert trial.state == TrialState.PRUNED
    assert trial.intermediate_values == {1: 0.5, 2: 0.4}


def test_failed_trial_does_not_stay_running(tiny_space: Space) -> None:
    """Defect 2: a NaN objective leaves the trial RUNNING for ever. Oracle: FAIL in Optuna."""
    proposer = Proposer(tiny_space)
    proposer.propose(0)
    proposer.tell(0, "FAIL", None)
    assert proposer.history.select_recent() == {}
    assert proposer.history.latent_sizes.keys() == {0}


def test_telling_twice_is_telling_once(tiny_space: Space) -> None:
    """Defect 3: a restored search dies with UpdateFinishedTrialError. Oracle: the first word
    stands; epochs repeated after a restart count once."""
    proposer = Proposer(tiny_space)
    proposer.propose(0)
    proposer.report(0, 1, 0.5)
    proposer.report(0, 1, 0.6)
    proposer.tell(0, "COMPLETE", 0.3)
    proposer.tell(0, "FAIL", None)
    proposer.report(0, 2, 0.1)
    trial = proposer.history.ended[0]
    assert (trial.state, trial.value) == (TrialState.COMPLETE, 0.3)
    assert trial.intermediate_values == {1: 0.5}


def test_constraints_are_kept_before_a_trial_is_issued() -> None:
    """Defect 4: no constraints. Oracle: the latent size of everything proposed; what was refused
    is not in Optuna's study, so the sampler neither waits for it nor learns from it."""
    text = yaml.safe_load(loading.load_space("ex2").text)
    text["constraints"] = {"latent_size": {"max": 256}}
    text["points"] = {}
    proposer = Proposer(loading.parse_space(yaml.safe_dump(text), name="ex2"), "tpe", seed=0)
    for number in range(12):
        proposal = proposer.propose(number)
        assert proposal is not None
        assert proposer.space.check(proposal.config) is None
        proposer.tell(number, "COMPLETE", 0.1)
    ended = proposer.history.ended
    assert {n: trial.state for n, trial in ended.items()} == dict.fromkeys(
        range(12), TrialState.COMPLETE
    )


def test_the_sampler_sees_a_window(tiny_space: Space, monkeypatch: pytest.MonkeyPatch) -> None:
    """Oracle: by hand, with a window of 8. Of twelve that ended: the two with the lowest errors of
    those that ran to their end, then the newest. Of three that run and have an epoch: the newest
    two. None that failed, none without an epoch."""
    monkeypatch.setattr(history, "WINDOW", 8)
    proposer = Proposer(tiny_space)
    errors = [0.9, 0.1, 0.8, 0.2, 0.7, 0.6, 0.5, 0.4, 0.3, 0.35, 0.45, 0.55, 0.97, 0.98, 0.99]
    proposals = [proposer.propose(number) for number in range(16)]
    for number, error in enumerate(errors):
        proposer.report(number, 1, error)
    for number, error in enumerate(errors[:12]):
        state = "FAIL" if number == 11 else "COMPLETE" if number < 6 else "PRUNED"
        proposer.tell(number, state, error)
    seen = list(proposer.history.select_recent().values())
    assert [trial.value for trial in seen] == [
        *(0.1, 0.2),  # the best, as trials 1 and 3
        *(0.4, 0.3, 0.35, 0.45),
        *(0.98, 0.99),
    ]
    assert [trial.params for trial in seen[-2:]] == [
        proposals[number].params for number in (13, 14)
    ]


def test_trials_are_compared_after_equally_many_epochs(
    tiny_space: Space, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Oracle: by hand, with three trials to compare. Epoch 2 is the last that three have reached:
    two of the three that ran on, and one that runs. The lowest error up to there counts, not what
    came later. The one that was stopped after epoch 1 is left out, good as it looked."""
    monkeypatch.setattr(history, "N_COMPARED", 3)
    proposer = Proposer(tiny_space)
    curves = [[0.9, 0.45, 0.3], [0.4, 0.8, 0.2], [0.1], [0.6, 0.7]]
    for number, curve in enumerate(curves):
        proposer.propose(number)
        for epoch, error in enumerate(curve, 1):
            proposer.report(number, epoch, error)
    for number, state in enumerate(["COMPLETE", "COMPLETE", "PRUNED"]):
        proposer.tell(number, state, min(curves[number]))
    seen = proposer.history.select_recent()
    assert {number: trial.value for number, trial in seen.items()} == {0: 0.45, 1: 0.4, 3: 0.6}
    assert {trial.state for trial in seen.values()} == {TrialState.COMPLETE}
    proposer.propose(4)
    proposer.report(4, 1, 0.5)
    proposer.tell(4, "COMPLETE", 0.5)
    # Three ran to their end, so only these and their lowest errors count.
    seen = proposer.history.select_recent()
    assert {number: trial.value for number, trial in seen.items()} == {0: 0.3, 1: 0.2, 4: 0.5}


def test_trials_without_an_epoch_are_compared_with_nothing() -> None:
    """Oracle: by hand. Ten trials ended before their first epoch: errors are compared after one
    epoch, never after none."""
    kept = History()
    kept._lengths = [0.0] * N_COMPARED
    assert kept._find_compared_epoch() == 1


@given(st.lists(st.tuples(st.lists(st.floats(0.01, 1), max_size=6), st.booleans()), max_size=30))
def test_the_sampler_compares_what_bohb_compares(trials: list[tuple[list[float], bool]]) -> None:
    """Oracle: BOHB's choice of the budget, by counting: the highest epoch that ten trials have,
    and of these trials the lowest error up to it. Those that ended COMPLETE have all epochs."""
    kept = History()
    config = resolve({})
    curves: dict[int, list[float]] = {}
    is_complete: dict[int, bool] = {}
    for number, (curve, completes) in enumerate(trials):
        kept.begin(number, config, {}, {})
        for epoch, error in enumerate(curve, 1):
            kept.report(number, epoch, error)
        if curve:
            curves[number], is_complete[number] = curve, completes
            state = "COMPLETE" if completes else "PRUNED"
            kept.end(number, state, min(curve) if completes else None)
    longest = 7  # More than any curve; only COMPLETE trials count as having it.
    reach = {n: longest if is_complete[n] else len(curve) for n, curve in curves.items()}
    epochs = [e for e in range(1, longest + 1) if sum(r >= e for r in reach.values()) >= 10]
    last = max(epochs, default=1)
    expected = {
        n: min(curve[:last] if len(curves) >= 10 else curve)
        for n, curve in curves.items()
        if reach[n] >= last
    }
    assert {n: trial.value for n, trial in kept.select_recent().items()} == expected


def test_impossible_constraint_is_refused(tiny_space: Space) -> None:
    """Oracle: 4 channels at 8 x 8 are the least this space can do, and the message says what was
    met instead."""
    content = yaml.safe_load(tiny_space.text)
    content |= {"constraints": {"latent_size": {"max": 3}}, "points": {}}
    impossible = loading.parse_space(yaml.safe_dump(content), name="tiny")
    with pytest.raises(InputError, match=r"constraints: none of 1,000 .* latent_size 1,024 is"):
        require_possible(impossible, "tpe", 5)
    with pytest.raises(InputError, match="constraints: none of 1,000"):
        Proposer(impossible).propose(0)


def test_grid_is_every_combination_once() -> None:
    """Oracle: the product, written out; momentum only with SGD."""
    the_space = loading.parse_space(
        """
        task: reconstruct
        params:
          optimizer: {type: categorical, choices: [adam, sgd]}
          momentum: {type: float, low: 0.0, high: 0.8, step: 0.4, when: {optimizer: sgd}}
          latent_channels: {type: int, low: 4, high: 16, log: true}
          lr: {type: float, low: 1.0e-4, high: 1.0e-2, log: true}
        """,
        name="small",
    )
    walked = [params for params, _ in list_grid(the_space)]
    rest = list(itertools.product([4, 8, 16], [1e-4, 1e-3, 1e-2]))
    expected = [{"optimizer": "adam", "latent_channels": z, "lr": lr} for z, lr in rest]
    expected += [
        {"optimizer": "sgd", "latent_channels": z, "lr": lr, "momentum": m}
        for (z, lr), m in itertools.product(rest, [0.0, 0.4, 0.8])
    ]
    assert len(walked) == len(expected) == 36
    assert all(
        any(w.keys() == e.keys() and all(w[k] == pytest.approx(e[k]) for k in e) for w in walked)
        for e in expected
    )
    proposer = Proposer(the_space, "grid")
    numbers = itertools.count()
    proposals = list(iter(lambda: proposer.propose(next(numbers)), None))
    assert len(proposals) == 36


RATES = "task: reconstruct\nparams: {lr: {type: categorical, choices: [%s]}}\n"


@pytest.mark.parametrize("repeats", ["refuse", "seed"])
@pytest.mark.parametrize(
    ("before", "after", "rest"),
    [
        ("0.001, 0.002", "0.003, 0.004", [0.003, 0.004]),
        ("0.001, 0.002", "0.0005, 0.002, 0.004", [0.0005, 0.004]),
        ("0.001, 0.002", "0.002, 0.003, 0.001", [0.003]),
        ("0.001, 0.002, 0.003", "0.001, 0.002, 0.003", [0.003]),
    ],
)
def test_a_grid_after_its_space_was_edited(
    before: str, after: str, rest: list[float], repeats: str
) -> None:
    """Oracle: by hand. The combinations of the new space that no trial of the ledger had."""
    old, new = (loading.parse_space(RATES % text, name="rates") for text in (before, after))
    first, resumed = Proposer(old, "grid"), Proposer(new, "grid", repeats=repeats)
    for number in range(2):
        proposal = first.propose(number)
        assert proposal is not None
        params = new.params_of(proposal.config)
        resumed.reopen(number, replace(proposal, params=params))
    numbers = itertools.count(2)
    found = iter(lambda: resumed.propose(next(numbers)), None)
    assert [proposal.config.lr for proposal in itertools.islice(found, 9)] == rest


@pytest.mark.timeout(120)
def test_a_large_grid_is_not_walked_to_its_end() -> None:
    """Oracle: 99 to the power of five combinations, none of which the trial of the ledger had. The
    first of them is proposed."""
    large = loading.parse_space(
        """
        task: reconstruct
        params:
          channels: {type: int, low: 1, high: 99, per: stage}
          latent_channels: {type: int, low: 1, high: 99}
        fixed: {depth: 4}
        """,
        name="large",
    )
    proposer = Proposer(large, "grid")
    proposer.reopen(0, Proposal(resolve({}), {}, 0))
    proposal = proposer.propose(1)
    assert proposal is not None
    assert set(proposal.params.values()) == {1}
    assert len(proposal.params) == 5


def test_a_grid_with_long_stretches_is_resumed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Oracle: the search that was not interrupted. Two combinations in a row break the constraint,
    which is fewer than the limit of three; before the place where the search ended, six do."""
    monkeypatch.setattr(grid, "MAX_GRID_REFUSALS", 3)
    monkeypatch.setattr(grid.GridSampler, "max_refusals", 3)
    space = loading.parse_space(
        """
        task: reconstruct
        params:
          lr: {type: categorical, choices: [0.001, 0.002, 0.003, 0.004, 0.005]}
          latent_channels: {type: categorical, choices: [4, 32, 64]}
        constraints: {latent_size: {max: 1024}}
        """,
        name="stretches",
    )
    whole, resumed = Proposer(space, "grid"), Proposer(space, "grid")
    proposals = [whole.propose(number) for number in range(5)]
    assert [proposal.config.lr for proposal in proposals if proposal] == [
        *(0.001, 0.002, 0.003, 0.004, 0.005)
    ]
    for number, proposal in enumerate(proposals[:4]):
        assert proposal is not None
        resumed.reopen(number, proposal)
    assert resumed.propose(4) == proposals[4]
    assert resumed.propose(5) is None


def test_parallel_proposals_differ(tiny_space: Space) -> None:
    """Oracle: sixteen trials in flight after twenty that ended are sixteen settings."""
    proposer = Proposer(tiny_space, "tpe", seed=0)
    finish(proposer, range(20))
    flying = [proposer.propose(number) for number in range(20, 36)]
    assert len({str(p.params) for p in flying if p}) == 16


def test_unknown_sampler_is_named(tiny_space: Space) -> None:
    """Oracle: the allowed ones are listed."""
    with pytest.raises(InputError, match=r"--sampler cma: unknown\. Use tpe, strata, random"):
        Proposer(tiny_space, "cma")
