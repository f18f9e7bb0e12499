"""The greedy series: paths worked out by hand, one place and two, and what it owes on any space."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import yaml
from conftest import begin, data_facts, die, measured

from raycae.config import Config, resolve
from raycae.errors import InputError
from raycae.execution import search_request
from raycae.optimization.greedy import AGAIN, DROPPED, KEPT, START, GreedyLadder
from raycae.optimization.proposer import Proposal, Proposer
from raycae.optimization.samplers import choose_sampler
from raycae.space import loading
from raycae.space.space import Space
from raycae.study.attempt import EpochReport
from raycae.study.ledger import read_part
from raycae.study.opening import create_study, resume_study
from raycae.study.plan import Plan

SERIES = """
# Does it climb?
task: reconstruct
points: {start: {channels: [8, 12]}}
series:
  wide: {channels: [16, 24]}
  rmsprop: {optimizer: rmsprop}
  slow: {lr: 1.0e-4}
  fast: {lr: 3.0e-3}
"""

Error = Callable[[Config], float]


def series() -> Space:
    return loading.parse_space(SERIES, name="mine")


def searched(params: dict[str, object], **others: object) -> Space:
    content = {"task": "reconstruct", "params": params, **others}
    return loading.parse_space(yaml.safe_dump(content, sort_keys=False), name="mine")


def walk(proposer: Proposer, error: Error, most: int = 1000) -> list[Proposal]:
    """One trial after the other until nothing is left."""
    seen = []
    for number in range(most):
        if (proposal := proposer.propose(number)) is None:
            break
        seen.append(proposal)
        proposer.tell(number, "COMPLETE", error(proposal.config))
    return seen


def steps(proposals: list[Proposal]) -> list[tuple[str | None, int | None]]:
    return [(p.change, p.parent) for p in proposals]


def test_rule() -> None:
    """Oracle: by hand. Trial 1 makes the start better and is kept; 2 makes it better too, but ran
    beside 1; 3 and 4, on top of 1, are worse and as good; 5 is better and 6 was stopped."""
    rule = GreedyLadder()
    told = [
        (0, None, "COMPLETE", 0.5, START),
        (1, 0, "COMPLETE", 0.4, KEPT),
        (2, 0, "COMPLETE", 0.3, AGAIN),
        (3, 1, "COMPLETE", 0.45, DROPPED),
        (4, 1, "COMPLETE", 0.4, DROPPED),
        (5, 1, "COMPLETE", 0.2, KEPT),
        (6, 5, "PRUNED", 0.1, DROPPED),
        (7, 5, "FAIL", None, DROPPED),
        (8, 0, "COMPLETE", 0.6, DROPPED),
    ]
    assert [rule.judge(*trial[:4]) for trial in told] == [trial[4] for trial in told]
    assert rule.best == 5


def test_start_that_fails() -> None:
    """Oracle: by hand. There is no error to be above, so the first change that trains is kept."""
    rule = GreedyLadder()
    assert rule.judge(0, None, "FAIL", None) == START
    assert rule.judge(1, 0, "FAIL", None) == DROPPED
    assert rule.judge(2, 0, "COMPLETE", 9.0) == KEPT


def test_series_by_hand() -> None:
    """Oracle: by hand. Wide is better, rmsprop worse, slow better, fast better than the start but
    not than slow. What mirrors the encoder follows it: the decoder is wide as well."""
    gains = {"wide": -0.1, "rmsprop": 0.2, "slow": -0.2, "fast": -0.15}

    def error(config: Config) -> float:
        wide = gains["wide"] * (config.channels == (16, 24))
        optimizer = gains["rmsprop"] * (config.optimizer == "rmsprop")
        lr = {1e-4: gains["slow"], 3e-3: gains["fast"]}.get(config.lr, 0.0)
        return 1 + wide + optimizer + lr

    seen = walk(Proposer(series(), "greedy"), error)
    assert steps(seen) == [(None, None), ("wide", 0), ("rmsprop", 1), ("slow", 1), ("fast", 3)]
    assert [p.point for p in seen] == ["start", None, None, None, None]
    assert seen[3].config == resolve({"channels": [16, 24], "lr": 1e-4})
    assert seen[3].config.decoder_channels == ((24,), ())
    assert seen[4].config == resolve({"channels": [16, 24], "lr": 3e-3})


def test_what_changes_nothing_is_left_out() -> None:
    """Oracle: by hand. Of the start no convolution keeps its shape, so a residual one would be the
    start once more; the third stage's does, so then its turn has come. Two kernels do not fit
    three stages."""
    changes = {
        "wide": {"channels": [16, 24]},
        "residual": {"residual": True},
        "deep": {"depth": 3, "channels": [8, 12, 12]},
        "odd": {"kernel": [3, 5]},
    }
    the_space = searched({}, points={"base": {"channels": [8, 12]}}, series=changes)
    seen = walk(Proposer(the_space, "greedy"), lambda config: 1 / config.depth)
    assert steps(seen) == [(None, None), ("wide", 0), ("deep", 0), ("residual", 2)]


def test_two_places_by_hand() -> None:
    """Oracle: by hand. Until the start has ended nothing else can begin. Fast and slow set the same
    setting, so they never run side by side. Rmsprop ends after wide was kept, and has made the
    start better: it comes again, before what is left, on top of wide. Slow, begun on wide beside
    it, ends after that was kept, and comes again in its turn."""
    proposer = Proposer(series(), "greedy")
    number = itertools.count()

    def ask() -> tuple[str | None, int | None] | None:
        proposal = proposer.propose(next(number))
        return (proposal.change, proposal.parent) if proposal else None

    assert ask() == (None, None)
    assert proposer.propose(1) is None
    proposer.tell(0, "COMPLETE", 1.0)
    assert [ask(), ask()] == [("wide", 0), ("rmsprop", 0)]
    proposer.tell(1, "COMPLETE", 0.9)
    assert ask() == ("slow", 1)
    assert proposer.propose(4) is None  # fast would set what slow sets
    proposer.tell(2, "COMPLETE", 0.8)
    assert ask() == ("rmsprop", 1)
    proposer.tell(4, "COMPLETE", 0.7)
    assert proposer.propose(5) is None
    proposer.tell(3, "COMPLETE", 0.85)
    assert ask() == ("slow", 4)
    proposer.tell(5, "PRUNED", 0.1)
    assert ask() == ("fast", 4)
    proposer.tell(6, "FAIL", None)
    assert ask() is None


def test_one_parameter_at_a_time_by_hand() -> None:
    """Oracle: by hand. Doubling, threefold, the neighbours in the list. Eight channels are best
    of 4 to 16, sgd of the three; a change that was kept gives the turn to the next parameter; what
    was tried is not tried again; the start's kernel, which nobody searches, stays."""
    the_space = searched(
        {
            "latent_channels": {"type": "int", "low": 4, "high": 16, "log": True},
            "optimizer": {"type": "categorical", "choices": ["adam", "rmsprop", "sgd"]},
            "lr": {"type": "float", "low": 1e-3, "high": 1e-2, "log": True},
        },
        points={"base": {"latent_channels": 4, "lr": 1e-3, "kernel": 5}},
    )

    def error(config: Config) -> float:
        optimizer = {"adam": 0.1, "rmsprop": 0.3, "sgd": 0.0}[config.optimizer]
        return 1 + abs(math.log2(config.latent_channels / 8)) + optimizer + config.lr

    seen = walk(Proposer(the_space, "greedy"), error)
    assert steps(seen) == [
        (None, None),
        ("latent_channels 4 → 8", 0),  # kept
        ("optimizer adam → rmsprop", 1),
        ("lr 0.001 → 0.003", 1),
        ("latent_channels 8 → 16", 1),
        ("optimizer adam → sgd", 1),  # kept, two places away; 8 → 4 is the start
        ("lr 0.001 → 0.003", 5),
        ("latent_channels 8 → 16", 5),
        ("latent_channels 8 → 4", 5),
        ("lr 0.001 → 0.009", 5),  # sgd → rmsprop is trial 2
        ("lr 0.001 → 0.01", 5),
    ]
    assert {p.config.kernel for p in seen} == {(5, 5)}


@pytest.mark.filterwarnings("ignore:The distribution is specified")
def test_neighbours_by_hand() -> None:
    """Oracle: by hand. The end of a range is a place, and from outside the first one."""
    params = searched(
        {
            "latent_channels": {"type": "int", "low": 4, "high": 20, "log": True},
            "batch_size": {"type": "int", "low": 4, "high": 14, "step": 4},
            "lr": {"type": "float", "low": 1e-4, "high": 5e-3, "log": True},
            "weight_decay": {"type": "float", "low": 0.0, "high": 0.8},
            "momentum": {"type": "float", "low": 0.0, "high": 0.7, "step": 0.3},
            "activation": {"type": "categorical", "choices": ["relu", "silu", "gelu"]},
        }
    ).parameters
    expected = {
        ("latent_channels", 8, 1): [16, 4],
        ("latent_channels", 8, 2): [20],
        ("latent_channels", 8, 3): [],
        ("latent_channels", 2, 1): [4],
        ("batch_size", 8, 1): [12, 4],
        ("batch_size", 12, 1): [8],
        ("lr", 1e-3, 1): [0.003, 0.000333],
        ("lr", 1e-3, 2): [0.005, 0.000111],
        ("lr", 0.0, 1): [1e-4],
        ("lr", 0.0, 2): [3e-4],
        ("weight_decay", 0.1, 1): [0.2, 0.0],
        ("momentum", 0.3, 1): [0.6, 0.0],
        ("activation", "silu", 1): ["gelu", "relu"],
        ("activation", "none", 2): ["silu"],
    }
    found = {case: params[case[0]].list_neighbours(*case[1:]) for case in expected}
    assert found == {case: pytest.approx(values) for case, values in expected.items()}
    middles = [params[name].middle for name in params]
    assert middles == [9, 8, 0.000707, 0.4, pytest.approx(0.3), "silu"]


def test_conditions_and_new_stages() -> None:
    """Oracle: by hand. A third stage is as the second; momentum, with SGD, begins in its middle,
    and is a parameter of its own from then on; weight decay stays where the base has it, though
    that is outside."""
    the_space = searched(
        {
            "depth": {"type": "int", "low": 1, "high": 3},
            "channels": {"type": "int", "low": 4, "high": 32, "log": True, "per": "stage"},
            "optimizer": {"type": "categorical", "choices": ["adam", "sgd"]},
            "momentum": {"type": "float", "low": 0, "high": 0.8, "when": {"optimizer": "sgd"}},
            "weight_decay": {"type": "float", "low": 1e-6, "high": 1e-3, "log": True},
        },
        points={"base": {}},
    )
    seen = walk(Proposer(the_space, "greedy"), lambda c: 1 / c.depth + (c.optimizer == "adam"))
    assert seen[1].config == resolve({"depth": 3, "channels": [8, 12, 12]})
    sgd = next(p for p in seen if p.change == "optimizer adam → sgd")
    assert (sgd.config.momentum, sgd.config.depth, sgd.config.weight_decay) == (0.4, 3, 0.0)
    changed = [p.change for p in seen if p.parent == seen.index(sgd)]
    assert "momentum 0.4 → 0.5" in changed
    assert "channels_3 12 → 24" in changed


def test_without_points_it_starts_in_the_middle() -> None:
    """Oracle: the geometric middle; where a constraint refuses it, another that meets it."""
    params = {"latent_channels": {"type": "int", "low": 4, "high": 64, "log": True}}
    first = Proposer(searched(params), "greedy").propose(0)
    assert first is not None
    assert (first.config.latent_channels, first.point) == (16, None)
    small = searched(params, constraints={"latent_size": {"max": 512}})
    seen = walk(Proposer(small, "greedy"), lambda config: 1 / config.latent_channels)
    assert max(p.config.latent_channels for p in seen) == 8
    with pytest.raises(InputError, match="constraints: none of 1,000"):
        Proposer(searched(params, constraints={"latent_size": {"max": 3}}), "greedy")


@pytest.mark.parametrize("name", loading.list_space_names())
def test_every_shipped_space(name: str) -> None:
    """Oracle: the contract, with three places and errors made up from the number: it starts at the
    first point; what is proposed builds, obeys the constraints, is proposed once, and differs from
    its parent in what its change names alone, as far as that can be said in parameters."""
    the_space = loading.load_space(name)
    proposer = Proposer(the_space, "greedy", seed=1)
    seen: list[Proposal] = []
    flying: list[int] = []
    while len(seen) < 20:
        proposal = proposer.propose(len(seen))
        if proposal is not None:
            flying.append(len(seen))
            seen.append(proposal)
        if not flying:
            break
        if proposal is None or len(flying) == 3:
            ended = flying.pop(0)
            proposer.tell(ended, "COMPLETE", 1 / (1 + ended * 7919 % 101))
    assert seen[0].point == next(iter(the_space.points))
    assert len({p.config for p in seen}) == len(seen)
    for proposal in seen[1:]:
        assert the_space.check(proposal.config) is None
        assert the_space.params_of(proposal.config) == proposal.params
        assert proposal.parent is not None
        if the_space.parameters and not (proposal.change or "").startswith(
            ("depth", "opt", "conv", "refine ")
        ):
            before, after = seen[proposal.parent].params, proposal.params
            changed = {name for name in before | after if before.get(name) != after.get(name)}
            assert changed == {(proposal.change or "").split()[0]}
    if the_space.parameters:
        assert len(seen) == 20


def test_a_restart_goes_on_as_if_there_had_been_none(tmp_path: Path, plan: Plan) -> None:
    """Oracle: a study that was never interrupted, with two places; the other one loses its process
    again and again. Change, parent, settings: the same, trial for trial."""
    for the_space in (series(), loading.load_space("quickstart")):
        plan = replace(plan, sampler="greedy", trials=10, epochs=1)
        paths = tmp_path / f"{the_space.name}-whole", tmp_path / f"{the_space.name}-broken"
        told = []
        for path in paths:
            study = create_study(path, plan, the_space, data_facts())
            flying = []
            while True:
                while len(flying) < 2 and (issue := study.ask()):
                    study.start_attempt(issue.number, issue.attempt)
                    flying.append(issue.number)
                if not flying:
                    break
                if path == paths[1] and len(study.records.trials) % 3 == 0:
                    die(study)
                    study = resume_study(path, plan)
                    assert [begin(study).number for _ in flying] == flying
                number = flying.pop(number_of(flying))
                error = 1 / (1 + number * 7919 % 101)
                attempt = study.records.trials[number]["attempt"]
                study.report_epoch(EpochReport(number, attempt, **measured(1, error)))
            names = ("change", "parent", "config", "point")
            told.append([[row[name] for name in names] for row in study.records.trials.values()])
            study.close()
        assert told[0] == told[1]
        assert {parent for _, parent, *_ in told[0]} > {None, 0}


def test_a_lost_beginning_is_known_from_the_table(tmp_path: Path, plan: Plan) -> None:
    """Oracle: the part that tells of trial 1's beginning is gone; the table has its change and
    parent, so the series goes on where it stood, on top of it."""
    plan = replace(plan, sampler="greedy", trials=10, epochs=1)
    study = create_study(tmp_path / "s", plan, series(), data_facts())
    for error in (0.5, 0.4):
        issue = begin(study)
        study.report_epoch(EpochReport(issue.number, issue.attempt, **measured(1, error)))
    study.close()
    (part,) = [
        path
        for path in (study.folder / "ledger").iterdir()
        if ("created", 1) in {(e["event"], e["trial_number"]) for e in read_part(path).to_pylist()}
    ]
    part.unlink()
    resumed = resume_study(study.folder, plan)
    row = resumed.records.trials[1]
    assert (row["change"], row["parent"]) == ("wide", 0)
    row = resumed.records.trials[begin(resumed).number]
    assert (row["change"], row["parent"]) == ("rmsprop", 1)
    resumed.close()


def number_of(flying: list[int]) -> int:
    """Which of those that run ends next: not always the oldest."""
    return sum(flying) % len(flying)


def test_who_proposes_if_nobody_says(tmp_path: Path) -> None:
    """Oracle: by hand. A series is greedy, and without early stopping unless somebody asks."""
    usual = {
        name: choose_sampler(loading.load_space(name)) for name in ("ex1", "ex3", "ex3-greedy")
    }
    assert usual == {"ex1": "points", "ex3": "tpe", "ex3-greedy": "greedy"}

    def planned(name: str, **given: object) -> tuple[str, str]:
        plan = search_request.plan_new_study(tmp_path / "s", loading.load_space(name), None, given)
        return plan.sampler, plan.scheduler

    assert planned("ex3-greedy") == ("greedy", "none")
    assert planned("ex3", sampler="greedy") == ("greedy", "none")
    assert planned("ex3-greedy", scheduler="asha") == ("greedy", "asha")
    assert planned("ex3") == ("tpe", "asha")


def test_report_series() -> None:
    """Oracle: the report's five tests in its order, then ten more; each builds on the base."""
    the_space = loading.load_space("ex3-greedy")
    names = list(the_space.file.series)
    assert names[:5] == ["rmsprop", "lr-1e-4", "channels-x2", "batch-64", "custom"]
    assert len(names) == 15
    points = loading.load_space("ex3-report").points
    seen = {p.change: p.config for p in walk(Proposer(the_space, "greedy"), lambda _: 1.0)}
    assert [name for name in seen if name] == names
    for name in names[:7]:
        assert seen[name] == points[f"ex3-{name}"]
