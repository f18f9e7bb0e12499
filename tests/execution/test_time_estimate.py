"""The time estimate before a search."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import run_trial

from raycae.config import Config, resolve
from raycae.errors import InputError
from raycae.execution import time_estimate
from raycae.execution.search_request import SearchRequest, parse_options
from raycae.execution.time_estimate import (
    TEST_SHARE,
    Estimate,
    StandIns,
    compute_image_cost,
    estimate_resumed,
    format_rough_duration,
    format_time_estimate,
    make_forecast,
    measure_unit,
    simulate_duration,
)
from raycae.model.architecture import build_architecture
from raycae.optimization.proposer import Proposal, Proposer
from raycae.study.study import Study
from raycae.training.trainer import Training


@pytest.fixture
def request_(tmp_path: Path, space_file: Path) -> SearchRequest:
    """Return a search of six trials of three epochs by one worker, without early stopping."""
    return parse_options(
        {
            "space": space_file,
            "results": tmp_path,
            "study": "new",
            "scheduler": "none",
            "concurrent": 1,
        }
    )


def simulate(request: SearchRequest, unit_s: float, counts: tuple[int, int, int]) -> float:
    """Simulate the training of a search."""
    return simulate_duration(request, StandIns(request), unit_s, counts)


def test_simulated_duration_without_early_stopping(
    request_: SearchRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Oracle: the sum over trials, by hand: one worker on one of two cores does all of it."""
    monkeypatch.setattr(time_estimate, "count_cpus", lambda: 2)
    cost = sum(map(compute_image_cost, StandIns(request_).list_first_configs()))
    expected = 3 * (1000 + TEST_SHARE * 100) * 1e-3 * cost
    assert simulate(request_, 1e-3, (1000, 100, 100)) == pytest.approx(expected)


def test_early_stopping_and_workers_shorten_it(request_: SearchRequest) -> None:
    """Oracle: fewer epochs than without early stopping, half the time with two workers or less."""
    counts = (1000, 100, 100)
    plan = replace(request_.plan, trials=60, epochs=9, sampler="random")
    alone = replace(request_, plan=plan)
    stopped = replace(alone, plan=replace(plan, scheduler="asha"))
    assert simulate(stopped, 1e-3, counts) < simulate(alone, 1e-3, counts) / 2


def test_a_long_search_is_scaled(request_: SearchRequest) -> None:
    """Oracle: proportion."""
    counts = (1000, 100, 100)
    longs = [
        replace(request_, plan=replace(request_.plan, trials=n, sampler="random"))
        for n in (time_estimate.MAX_SIMULATED, 3 * time_estimate.MAX_SIMULATED)
    ]
    first, second = (simulate(long, 1e-3, counts) for long in longs)
    assert second == pytest.approx(3 * first)


def test_more_cores_than_any_machine_has(tmp_path: Path, space_file: Path) -> None:
    """Oracle: the contract: there is an estimate, and whether a node is large enough is found out
    later. torch cannot be asked for as many threads."""
    given = {"space": space_file, "results": tmp_path, "cpus_per_trial": 10**20}
    assert format_time_estimate(parse_options(given), (80, 20, 20)).startswith("time     about ")


def test_a_space_that_runs_out_is_not_scaled(tmp_path: Path, space_file: Path) -> None:
    """Oracle: a grid of four configurations takes as long with a thousand trials as with four."""
    space_file.write_text(
        "task: reconstruct\ndata: photos\nbudget: {trials: 4, epochs: 2, limit: 100}\nparams:\n"
        "  latent_channels: {type: categorical, choices: [2, 3, 4, 5]}\n"
    )
    given = {"space": space_file, "results": tmp_path, "sampler": "grid", "scheduler": "none"}
    few, many = (parse_options({**given, "study": f"s{n}", "trials": n}) for n in (4, 1000))
    counts = (1000, 100, 100)
    assert simulate(many, 1e-3, counts) == pytest.approx(simulate(few, 1e-3, counts))


def test_a_constraint_that_random_configurations_miss(
    request_: SearchRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Oracle: where the third proposal finds nothing allowed, or time is up, the first two come
    again, and there is an estimate; a search is not refused for it."""

    def propose(proposer: Proposer, number: int) -> Proposal | None:
        if number == 2:
            raise InputError("none of 1000 proposals meets the constraints")
        return own(proposer, number)

    own = Proposer.propose
    monkeypatch.setattr(Proposer, "propose", propose)
    stand_ins = StandIns(request_)
    first = [stand_ins.propose(number) for number in range(5)]
    assert first[2:] == [first[0], first[1], first[0]]
    assert simulate_duration(request_, stand_ins, 1e-3, (1000, 100, 100)) > 0
    monkeypatch.setattr(time_estimate, "DRAW_S", 0.0)
    assert StandIns(request_).propose(0) is None
    assert make_forecast(request_) is None


def test_a_large_minibatch_is_measured_in_part(monkeypatch: pytest.MonkeyPatch) -> None:
    """Oracle: the number of images that a training gets, and proportion: no more FLOPs than the
    limit, at least two images for batch norm."""
    seen: list[int] = []

    class Counted(Training):
        def __init__(self, config: Config, images: Any, *rest: Any, **more: Any) -> None:
            super().__init__(config, images, *rest, **more)
            seen.append(len(images))

    monkeypatch.setattr("raycae.training.trainer.Training", Counted)
    monkeypatch.setattr(time_estimate, "MEASURED_S", 0.0)
    config = resolve({"batch_size": 64, "norm": "batch"})
    flops = build_architecture(config).flops
    for limit, n in ((flops * 100, 64), (flops * 10.5, 10), (flops / 2, 2)):
        monkeypatch.setattr(time_estimate, "MEASURED_FLOPS", limit)
        assert time_estimate.measure_step(config) > 0
        assert seen[-1] == n


def test_every_sampler_and_objective(tmp_path: Path) -> None:
    """Oracle: a search of every shipped kind has a duration above zero."""
    for number, options in enumerate(
        (
            {"space": "frontier"},
            {"space": "frontier", "cost": "epoch_time_s"},
            {"space": "ex3-greedy"},
            {"space": "ex2-report"},
            {"space": "ex2", "settings": 4, "scheduler": "hyperband"},
            {"space": "ex2", "sampler": "grid"},
        )
    ):
        request = parse_options({"results": tmp_path, "study": f"s{number}", **options})
        assert simulate(request, 1e-6, (1000, 100, 100)) > 0


def test_measuring_leaves_torch_as_it_was(request_: SearchRequest) -> None:
    """Oracle: torch's own state before: threads, random numbers, denormals."""
    torch.set_num_threads(2)
    state = torch.get_rng_state()
    unit_s, step_s = measure_unit(StandIns(request_).list_first_configs(), threads=1)
    assert min(unit_s, step_s) > 0
    assert torch.get_num_threads() == 2
    assert torch.equal(torch.get_rng_state(), state)
    assert float(torch.tensor(1e-40) * 0.5) > 0


def test_a_resumed_search_learns_from_its_trials(study: Study, request_: SearchRequest) -> None:
    """Oracle: by hand: an epoch takes 1 s (`conftest.measured`), so four more trials like the two
    that ended take 3 s each."""
    resumed = replace(request_, folder=study.folder, resume=True)
    assert estimate_resumed(resumed) is None
    for errors in ((0.3, 0.2, 0.1), (0.3, 0.2, 0.1)):
        run_trial(study, *errors)
    study.records.write(study.folder)
    estimate = estimate_resumed(resumed)
    assert estimate is not None
    assert estimate.seconds == pytest.approx(time_estimate.FIXED_S + 4 * 3)
    assert estimate.reason == "estimated from the 2 trials that ended"


def test_the_line(request_: SearchRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Oracle: by hand."""
    monkeypatch.setattr(time_estimate, "estimate_search", lambda *_: Estimate(7300.0, "a reason"))
    line = format_time_estimate(request_, (1, 1, 1))
    assert line == "time     about 2.0 h: 6 trials of 3 epochs on 1 worker; a reason"
    line = format_time_estimate(replace(request_, hours=0.5), (1, 1, 1))
    assert line.startswith(
        "time     at most 30 min (time limit); the whole search would take about 2.0 h: 6 trials"
    )
    monkeypatch.setattr(time_estimate, "estimate_search", lambda *_: Estimate(None, "a reason"))
    line = format_time_estimate(request_, (1, 1, 1))
    assert line == "time     unknown: 6 trials of 3 epochs; a reason"


def test_a_cluster_has_no_estimate(
    request_: SearchRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Oracle: what is documented."""
    monkeypatch.setattr(time_estimate, "starts_own_ray", lambda _: False)
    assert "unknown" in format_time_estimate(request_, (1, 1, 1))


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        *((2, "10 s"), (84, "80 s"), (90, "2 min"), (730, "12 min"), (3100, "50 min")),
        *((5500, "1.5 h"), (86_400, "24 h")),
    ],
)
def test_rough_durations(seconds: float, text: str) -> None:
    """Oracle: by hand, two digits at most."""
    assert format_rough_duration(seconds) == text
