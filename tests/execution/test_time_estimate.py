"""The time estimate before a search."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from conftest import run_trial

from raycae.execution import time_estimate
from raycae.execution.search_request import SearchRequest, parse_options
from raycae.execution.time_estimate import (
    TEST_SHARE,
    Estimate,
    compute_image_cost,
    estimate_resumed,
    format_rough_duration,
    format_time_estimate,
    list_first_configs,
    measure_unit,
    simulate_duration,
)
from raycae.study.study import Study


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


def test_simulated_duration_without_early_stopping(
    request_: SearchRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Oracle: the sum over trials, by hand: one worker on one of two cores does all of it."""
    monkeypatch.setattr(time_estimate, "count_cpus", lambda: 2)
    cost = sum(map(compute_image_cost, list_first_configs(request_)))
    expected = 3 * (1000 + TEST_SHARE * 100) * 1e-3 * cost
    assert simulate_duration(request_, 1e-3, (1000, 100, 100)) == pytest.approx(expected)


def test_early_stopping_and_workers_shorten_it(request_: SearchRequest) -> None:
    """Oracle: fewer epochs than without early stopping, half the time with two workers or less."""
    counts = (1000, 100, 100)
    plan = replace(request_.plan, trials=60, epochs=9, sampler="random")
    alone = replace(request_, plan=plan)
    stopped = replace(alone, plan=replace(plan, scheduler="asha"))
    assert simulate_duration(stopped, 1e-3, counts) < simulate_duration(alone, 1e-3, counts) / 2


def test_a_long_search_is_scaled(request_: SearchRequest) -> None:
    """Oracle: proportion."""
    counts = (1000, 100, 100)
    longs = [
        replace(request_, plan=replace(request_.plan, trials=n, sampler="random"))
        for n in (time_estimate.MAX_SIMULATED, 3 * time_estimate.MAX_SIMULATED)
    ]
    first, second = (simulate_duration(long, 1e-3, counts) for long in longs)
    assert second == pytest.approx(3 * first)


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
        assert simulate_duration(request, 1e-6, (1000, 100, 100)) > 0


def test_measuring_leaves_torch_as_it_was(request_: SearchRequest) -> None:
    """Oracle: torch's own state before: threads, random numbers, denormals."""
    torch.set_num_threads(2)
    state = torch.get_rng_state()
    unit_s, step_s = measure_unit(list_first_configs(request_), threads=1)
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
    assert estimate.seconds == pytest.approx(time_estimate.START_S + 4 * 3)
    assert estimate.reason == "estimated from the 2 trials that ended"


def test_the_line(request_: SearchRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Oracle: by hand."""
    monkeypatch.setattr(time_estimate, "estimate_search", lambda *_: Estimate(7300.0, "a reason"))
    line = format_time_estimate(request_, (1, 1, 1))
    assert line == "time     about 2.0 h: 6 trials of 3 epochs on 1 worker; a reason"
    line = format_time_estimate(replace(request_, hours=0.5), (1, 1, 1))
    assert line.startswith("time     at most 30 min (time limit) of about 2.0 h: 6 trials")
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
