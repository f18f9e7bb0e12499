"""Ranges with a step: their values are decimal numbers, and no library warns about them."""

from __future__ import annotations

import itertools
import json
import math
import re
import warnings
from dataclasses import replace
from decimal import Decimal
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest
from conftest import Run, data_facts, run_trial
from hypothesis import given, settings
from hypothesis import strategies as st

from raycae.config import Config, resolve
from raycae.errors import InputError
from raycae.optimization.frontier import Strata
from raycae.optimization.grid import list_grid
from raycae.optimization.proposer import Proposal, Proposer
from raycae.optimization.samplers import SAMPLERS
from raycae.optimization.shared_study import SharedStudy
from raycae.space import loading
from raycae.space.parameters import FloatParameter, IntParameter
from raycae.space.space import Space
from raycae.study import warm_start
from raycae.study.opening import create_study
from raycae.study.plan import Plan

UNEVEN = """
task: reconstruct
params:
  batch_size: {type: int, low: 16, high: 60, step: 8}
  channels: {type: int, low: 4, high: 17, step: 5, per: stage}
  depth: {type: int, low: 1, high: 4, step: 2}
  lr: {type: float, low: 0.1, high: 0.95, step: 0.1}
  momentum: {type: float, low: 0.05, high: 0.9, step: 0.1, when: {optimizer: sgd, lr: [0.3, 0.7]}}
  weight_decay: {type: float, low: 0.2, high: 0.25, step: 0.1}
  latent_channels: {type: int, low: 4, high: 9, log: true}
  averaging: {type: categorical, choices: [0.1, 0.3, 0.5]}
  optimizer: {type: categorical, choices: [adam, sgd]}
points: {base: {lr: 0.3, batch_size: 60}, odd: {lr: 0.33, optimizer: sgd}}
"""
VALUES: dict[str, list[float]] = {
    "batch_size": [16, 24, 32, 40, 48, 56],
    "channels": [4, 9, 14],
    "depth": [1, 3],
    "lr": [0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9],
    "momentum": [0.05, 0.15, 0.25, 0.35, 0.45, 0.55, 0.65, 0.75, 0.85],
    "weight_decay": [0.2],
    "latent_channels": [4, 5, 6, 7, 8, 9],
    "averaging": [0.1, 0.3, 0.5],
    "optimizer": ["adam", "sgd"],  # type: ignore[list-item]
}
"""By hand."""


@pytest.fixture(autouse=True)
def _warnings_are_errors() -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


def uneven() -> Space:
    return loading.parse_space(UNEVEN, name="uneven")


def check_proposal(proposal: Proposal) -> None:
    """Every drawn value is one of those written above; momentum is drawn for SGD at 0.3 and 0.7."""
    config = proposal.config
    params = {n.rstrip("_1234"): v for n, v in proposal.params.items()}
    for name, value in params.items():
        assert value in VALUES[name], name
    if proposal.point is None:
        assert ("momentum" in params) == (config.optimizer == "sgd" and config.lr in (0.3, 0.7))
        assert config.lr == params["lr"]
    assert uneven().params_of(config) == proposal.params


@pytest.mark.parametrize(
    ("sampler", "more"),
    [
        *[(sampler, {}) for sampler in SAMPLERS if sampler not in ("strata", "points")],
        ("tpe", {"cost": "n_params"}),
        ("tpe", {"settings": 3}),
        ("random", {"repeats": "seed", "n_seeds": 2}),
        ("strata", {"cost": "latent_size", "strata": [128, 10**6]}),
    ],
)
def test_proposals_are_on_the_grid_without_a_warning(sampler: str, more: dict[str, Any]) -> None:
    """Oracle: the values above. A restart that takes the ledger's JSON, and one that takes what
    older versions wrote there, propose the same."""
    proposers = []
    for _ in range(3):
        strata = {"strata": Strata(more["strata"], [0.1, 0.1])} if "strata" in more else {}
        proposers.append(Proposer(uneven(), sampler, seed=1, **{**more, **strata}))
    first, again, old = proposers
    for number in range(16):
        if (proposal := first.propose(number)) is None:
            break  # no neighbour helps: the greedy series is over
        check_proposal(proposal)
        params = json.loads(json.dumps(proposal.params))
        again.reopen(number, replace(proposal, params=params))
        lr = 0.1 + round((proposal.config.lr - 0.1) / 0.1) * 0.1
        rough = {**params, **({"lr": lr} if "lr" in params else {})}
        config = proposal.config.model_copy(update={"lr": lr} if "lr" in params else {})
        old.reopen(number, replace(proposal, config=config, params=rough))
        for proposer in proposers:
            proposer.report(number, 1, 1.0 + number % 7)
            known = {"n_params": 1000 + number, "latent_size": 64}
            proposer.tell(number, "COMPLETE", 1.0 + number % 7, known)
    assert number > 5
    nexts = [proposer.propose(number + 1) for proposer in proposers]
    assert nexts[0] == nexts[1] == nexts[2]


def test_grid_walks_the_written_values() -> None:
    """Oracle: the product of the values above, momentum only with SGD at 0.3 and 0.7."""
    content = {n: VALUES[n] for n in ("lr", "weight_decay", "optimizer")}
    text = "\n".join(
        line
        for line in UNEVEN.splitlines()
        if line.strip().partition(":")[0] in ("task", "params", "momentum", *content)
    )
    walked = [params for params, _ in list_grid(loading.parse_space(text, name="small"))]
    expected = []
    for lr, decay, optimizer in itertools.product(*content.values()):
        plain = {"lr": lr, "weight_decay": decay, "optimizer": optimizer}
        more = VALUES["momentum"] if optimizer == "sgd" and lr in (0.3, 0.7) else [None]
        expected += [{**plain, **({"momentum": m} if m else {})} for m in more]
    assert sorted(map(str, map(sorted_items, walked))) == sorted(
        map(str, map(sorted_items, expected))
    )


def sorted_items(params: dict[str, Any]) -> list[tuple[str, Any]]:
    return sorted(params.items())


def test_shared_study_without_a_warning(tmp_path: Path) -> None:
    """Oracle: the values above, also where each proposal is claimed in a database."""
    from optuna.study import StudyDirection

    shared = SharedStudy(
        f"journal:///{tmp_path / 'o.log'}", "s", "one", [StudyDirection.MINIMIZE], {}
    )
    proposer = Proposer(uneven(), "tpe", shared=shared)
    for number in range(8):
        proposal = proposer.propose(number)
        assert proposal is not None
        check_proposal(proposal)
        proposer.tell(number, "COMPLETE", 0.1)


def test_preview_prints_values_of_the_grid(tmp_path: Path, run: Run) -> None:
    """Oracle: the values above, read from the table; nothing on standard error."""
    file = tmp_path / "uneven.yaml"
    file.write_text(UNEVEN)
    code, out, err = run("preview", "--space", file, "-n", 12)
    assert (code, err) == (0, "")
    shown = re.findall(r"(\S+), batch (\d+)", out)[2:]  # after the points
    assert len(shown) == 10
    assert {float(lr) for lr, _ in shown} <= set(VALUES["lr"])
    assert {int(batch) for _, batch in shown} <= set(VALUES["batch_size"])


decimals = st.integers(0, 10**6).map(lambda n: float(Decimal(n).scaleb(-4)))
steps = st.integers(1, 10**5).map(lambda n: float(Decimal(n).scaleb(-4)))


@settings(deadline=None, max_examples=400)
@given(decimals, decimals, steps, st.integers(0, 10**9))
def test_float_steps_are_exact(low: float, width: float, step: float, at: int) -> None:
    """Oracle: exact fractions of what is written. The end is the last step within the range; a
    value that comes of float arithmetic is the number that the step stands for."""
    high = float(Decimal(repr(low)) + Decimal(repr(width)))
    parameter = FloatParameter(type="float", low=low, high=high, step=step)
    exact_low, exact_step = Fraction(repr(low)), Fraction(repr(step))
    n_steps = (Fraction(repr(high)) - exact_low) // exact_step
    assert parameter.high == float(exact_low + n_steps * exact_step)
    assert parameter.distribution.high == parameter.high  # type: ignore[attr-defined]
    k = at % (n_steps + 1)
    rough = low + k * step
    assert parameter.contains(rough)
    assert parameter.label(rough) == float(exact_low + k * exact_step)
    assert not parameter.contains(rough + step / 2)
    assert parameter.label(rough + step / 2) == rough + step / 2
    for far in (1, 2):
        near = parameter.list_neighbours(parameter.label(rough), far)
        inside = [k + far, k - far]
        assert [n for n in near if n not in (parameter.low, parameter.high)] == [
            float(exact_low + n * exact_step) for n in inside if 0 < n < n_steps
        ]


@settings(deadline=None, max_examples=200)
@given(st.integers(1, 300), st.integers(0, 300), st.integers(1, 50))
def test_int_steps_end_within_the_range(low: int, width: int, step: int) -> None:
    """Oracle: Python's `range`."""
    parameter = IntParameter(type="int", low=low, high=low + width, step=step)
    values = range(low, low + width + 1, step)
    assert parameter.high == values[-1]
    assert parameter.distribution.high == values[-1]  # type: ignore[attr-defined]
    assert parameter.middle in values
    for value in range(low - 1, low + width + 2):
        assert parameter.contains(value) == (value in values)


@pytest.mark.parametrize("step", [1 / 7, 0.12345678901234567])
def test_steps_that_do_not_add_up_are_refused(step: float) -> None:
    """Oracle: seven times 0.14285714285714285 is 0.99999999999999995, which is no float."""
    text = f"task: reconstruct\nparams: {{lr: {{type: float, low: 0.1, high: 1.1, step: {step}}}}}"
    with pytest.raises(InputError, match=r"^mine.yaml: params.lr: low .* at most 15 digits"):
        loading.parse_space(text, name="mine")


def test_a_range_and_its_end_on_the_grid_mean_the_same() -> None:
    """Oracle: the hash, which is of what the file means."""
    text = "task: reconstruct\nparams: {batch_size: {type: int, low: 16, high: @, step: 8}}"
    one, same, other = (
        loading.parse_space(text.replace("@", n), name="m") for n in ("60", "56", "64")
    )
    assert one.hash == same.hash != other.hash


# --- compared with what is written ----------------------------------------------------------------


@pytest.mark.parametrize("written", ["0.3", "3e-1", "0.30000000000000004", "[0.7, 0.3]"])
def test_condition_on_a_step(written: str) -> None:
    """Oracle: by hand. Of nine values that the grid walks, those that are written meet it."""
    the_space = loading.parse_space(
        "task: reconstruct\nfixed: {optimizer: sgd}\nparams:\n"
        "  lr: {type: float, low: 0.1, high: 0.9, step: 0.1}\n"
        f"  momentum: {{type: categorical, choices: [0.5, 0.8], when: {{lr: {written}}}}}\n",
        name="mine",
    )
    met = {config.lr for params, config in list_grid(the_space) if "momentum" in params}
    assert met == ({0.3, 0.7} if "[" in written else {0.3})


def test_condition_on_a_choice() -> None:
    """Oracle: by hand; a float among choices is met by what equals it but for rounding."""
    the_space = loading.parse_space(
        "task: reconstruct\nfixed: {optimizer: sgd}\nparams:\n"
        "  lr: {type: categorical, choices: [0.1, 0.3]}\n"
        "  momentum: {type: float, low: 0.5, high: 0.8, when: {lr: 0.30000000000000004}}\n",
        name="mine",
    )
    rough = resolve({"optimizer": "sgd", "lr": 0.1 + 0.2, "momentum": 0.6})
    assert the_space.params_of(rough) == {"lr": 0.3, "momentum": 0.6}
    assert the_space.on_grid(rough).lr == 0.3


def test_a_point_on_the_grid_is_not_proposed_again() -> None:
    """Oracle: three values, one of them a named point written with a rounding error."""
    the_space = loading.parse_space(
        "task: reconstruct\nparams: {lr: {type: float, low: 0.1, high: 0.3, step: 0.1}}\n"
        "points: {base: {lr: 0.30000000000000004}}\n",
        name="mine",
    )
    for sampler in ("random", "grid", "greedy"):
        proposer = Proposer(the_space, sampler)
        seen = []
        for number in range(6):
            if (proposal := proposer.propose(number)) is None:
                break
            seen.append(proposal.config.lr)
            proposer.tell(number, "COMPLETE", proposal.config.lr)
        assert sorted(seen) == [0.1, 0.2, 0.3], sampler


def test_earlier_trials_are_known_on_the_grid(tmp_path: Path, plan: Plan) -> None:
    """Oracle: trials whose tables hold 0.30000000000000004, as older versions wrote them, are known
    as 0.3, to a grid and to choices alike."""
    free = loading.parse_space(
        "task: reconstruct\nparams: {lr: {type: float, low: 0.1, high: 0.9}}\n"
        "points: {a: {lr: 0.30000000000000004}, b: {lr: 0.35}}\n",
        name="free",
    )
    points = replace(plan, study="before", sampler="points", trials=2)
    study = create_study(tmp_path / "before", points, free, data_facts())
    for _ in range(2):
        run_trial(study, 0.5, 0.4, 0.3)
    study.close()
    for lr in (
        "{type: float, low: 0.1, high: 0.9, step: 0.1}",
        "{type: categorical, choices: [0.3]}",
    ):
        mine = loading.parse_space(f"task: reconstruct\nparams: {{lr: {lr}}}\n", name="mine")
        known, notes = warm_start.load_known(["before"], str(tmp_path), mine)
        assert [config.lr for config, _ in known] == [0.3]
        assert "1 outside this space" in notes[0]
        proposer = Proposer(mine)
        proposer.learn(*known[0])
        recent = proposer.history.select_recent().values()
        assert [trial.params for trial in recent] == [{"lr": 0.3}]


def test_values_off_the_grid_stay() -> None:
    """Oracle: a named point's own value, also where a greedy search begins."""
    proposer = Proposer(uneven(), "greedy", points=["odd"])
    proposal = proposer.propose(0)
    assert proposal is not None
    assert proposal.config.lr == 0.33
    assert "lr" not in proposal.params
    assert isinstance(proposal.config, Config)
    assert math.isclose(uneven().points["odd"].lr, 0.33, rel_tol=0)
