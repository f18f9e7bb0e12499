"""The rivals of the race (analysis/benchmarks/rivals.py) are not handicapped by the harness."""

from __future__ import annotations

import importlib.util
import json
import math
import runpy
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from optuna.samplers import TPESampler
from optuna.trial import TrialState

from raycae.space import loading

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = ROOT / "analysis" / "benchmarks" / "rivals.py"
EPOCHS = 9
N_STARTUP = 10
"""Optuna's documented default of `n_startup_trials`."""
PACKAGES = {"SMAC": "smac", "SyneTune": "syne_tune", "BOHB": "hpbandster"}


def make_rival(name: str, seed: int = 3) -> Any:
    """Make a rival over `ex2`, which refuses two thirds of its random configurations."""
    package = PACKAGES.get(name)
    if package and importlib.util.find_spec(package) is None:
        pytest.skip(f"{package} is not installed")
    return runpy.run_path(str(SCRIPT))[name](loading.load_space("ex2"), seed, EPOCHS)


def run_trial(rival: Any, number: int) -> Any:
    """Run one trial with made-up errors; the rival may stop it early.

    Returns:
        The configuration that the rival proposed.
    """
    config = rival.propose(number).config
    errors = [(1 + number % 7) / (100 * epoch) for epoch in range(1, EPOCHS + 1)]
    for epoch, error in enumerate(errors, 1):
        should_continue = rival.judge(number, epoch, error)
        rival.report(number, epoch, error)
        if not should_continue:
            break
    rival.tell(number, "COMPLETE" if epoch == EPOCHS else "PRUNED", errors[epoch - 1])
    return config


@pytest.mark.parametrize("name", ["RayOptunaSearch", "OptunaHyperband"])
def test_refused_configurations_are_not_startup_trials(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Oracle: Optuna's documentation. TPE samples at random until `n_startup_trials` (10) trials
    have ended with a value; what it fits its model to are the trials that have one."""
    n_evaluated = 0
    evaluated_at_model: list[int] = []
    sample = TPESampler._sample

    def note_use_of_model(self: TPESampler, *arguments: Any) -> Any:
        evaluated_at_model.append(n_evaluated)
        return sample(self, *arguments)

    monkeypatch.setattr(TPESampler, "_sample", note_use_of_model)
    rival = make_rival(name)
    for number in range(2 * N_STARTUP):
        run_trial(rival, number)
        n_evaluated += 1
    assert min(evaluated_at_model) == N_STARTUP
    seen = rival.study.get_trials(states=(TrialState.COMPLETE, TrialState.PRUNED))
    assert len(seen) == n_evaluated
    refused = rival.study.get_trials(states=(TrialState.FAIL,))
    assert len(refused) > N_STARTUP  # there was something to be counted wrongly


def test_refused_configurations_are_unknown_to_syne_tune() -> None:
    """Oracle: syne-tune's searcher fits its model to the trials of `trial_results`."""
    rival = make_rival("SyneTune")
    for number in range(8):
        run_trial(rival, number)
    assert rival.n_asked > 8
    assert rival.scheduler.searcher.num_results() == 8


def test_refused_configurations_are_unknown_to_smac() -> None:
    """Oracle: SMAC's run history, which its model and its brackets read; Hyperband's first bracket
    for 9 epochs and a factor of 3 runs 9, 3 and 1 configurations for 1, 3 and 9 epochs."""
    rival = make_rival("SMAC")
    ex2 = loading.load_space("ex2")
    budgets = []
    for number in range(9 + 3 + 1):
        config = rival.propose(number).config
        assert ex2.check(config) is None
        budgets.append(round(rival.open[number].budget))
        rival.tell(number, "COMPLETE", (1 + number % 7) / 100)
    assert budgets == [1] * 9 + [3] * 3 + [9]
    assert len(rival.smac.runhistory) == len(budgets)


def test_bohb_runs_the_brackets_of_hyperband() -> None:
    """Oracle: Hyperband's first two brackets for 9 epochs and a factor of 3, as for SMAC: 9, 3 and
    1 configurations for 1, 3 and 9 epochs, then 3 and 1 for 3 and 9. The promoted ones are those
    with the lowest errors; a diverged one has none."""
    rival = make_rival("BOHB")
    ex2 = loading.load_space("ex2")
    budgets, configs = [], []
    for number in range(9 + 3 + 1 + 3 + 1):
        configs.append(rival.propose(number).config)
        assert ex2.check(configs[-1]) is None
        budgets.append(round(rival.open[number].kwargs["budget"]))
        state = "FAIL" if number == 0 else "COMPLETE"
        rival.tell(number, state, None if number == 0 else number / 100)
    assert budgets == [1] * 9 + [3] * 3 + [9] + [3] * 3 + [9]
    assert configs[9:13] == [*configs[1:4], configs[1]]


@pytest.mark.parametrize(
    "name", ["RandomRayASHA", "RayOptunaSearch", "OptunaHyperband", "SyneTune", "SMAC", "BOHB"]
)
def test_every_rival_starts_with_the_named_point(name: str) -> None:
    """Oracle: the first named point of `ex2`."""
    with_defaults = loading.load_space("ex2").points["base"]
    assert make_rival(name).propose(0).config.lr == pytest.approx(with_defaults.lr)


def test_rays_asha_stops_by_its_own_percentile() -> None:
    """Oracle: by hand, from Ray's documentation. With the default factor of 4 the first rung is at
    epoch 1, and a trial continues if it is at or below the 25th percentile of the errors before it
    (numpy's linear interpolation); the first trial has nothing to be compared with."""
    rival = make_rival("RandomRayASHA")
    decisions = []
    for number, error in enumerate([0.04, 0.05, 0.03, 0.036, 0.02]):
        rival.propose(number)
        decisions.append(rival.judge(number, 1, error))
    assert decisions == [True, False, True, False, True]


def test_readme_and_findings_quote_the_recorded_race() -> None:
    """Oracle: the medians of the recorded runs, computed here without the race's own code. A run
    that did not come near counts as infinity."""
    folder = ROOT / "analysis" / "recorded" / "race"
    made = json.loads((folder / "made.json").read_text())
    all_runs = pd.read_parquet(folder / "runs.parquet")
    readme = " ".join((ROOT / "README.md").read_text().split())
    findings = (ROOT / "analysis" / "FINDINGS.md").read_text()
    first = {
        "raycae: TPE + ASHA (default)": "random configurations after {} epochs in total",
        "Ray: OptunaSearch + ASHA": "`OptunaSearch` with ASHA needs {} epochs.",
        "syne-tune: ASHACQR": "ASHACQR is as good as the default: it also needs {}.",
    }
    second = {
        "raycae: TPE + ASHA (default)": "nothing was tuned, the default needs {} epochs,",
        "Ray: OptunaSearch + ASHA": "`OptunaSearch` {}, and",
        "random search, no early stopping": "random search {}.",
    }
    title = {"ex2": "The default of today on the recorded curves", "ex2-second": "A second table"}
    for task, quoted in (("ex2", first), ("ex2-second", second)):
        section = findings[findings.index(f"## 2026-11-30 {title[task]}") :]
        runs = all_runs[all_runs["task"] == task]
        for method, phrase in quoted.items():
            own = runs[runs["method"] == method]
            assert own["seed"].nunique() == 30
            hits = own[own["error"] <= made[task]["marks"]["near"]].groupby("seed")["epochs"].min()
            epochs = sorted([*hits, *[math.inf] * (30 - len(hits))])
            median = f"{(epochs[14] + epochs[15]) / 2:,.0f}"
            assert phrase.format(median) in readme
            row = next(line for line in section.splitlines() if line.startswith(f"| {method} |"))
            assert "| 30 |" in row
            assert f" {median} (" in row.replace("*", "")
            assert f"{len(hits) / 30:.0%}".replace("%", " %") in row


def test_readme_and_guide_quote_the_recorded_runs_on_lcbench() -> None:
    """Oracle: ranks and medians of the recorded runs, computed here without the race's own code.
    Regret is on a logarithmic scale, 0 at the best and 1 at the median random configuration."""
    folder = ROOT / "analysis" / "recorded" / "lcbench"
    marks = pd.read_csv(folder / "marks.csv", index_col="task")
    runs = pd.read_csv(folder / "runs.csv")
    development = (126025, 126026, 146212, 167083, 167149, 167168, 167181, 167200)
    runs = runs[~runs["task"].isin(development)]
    with_bohb = runs[runs["seed"].le(105) & ~runs["method"].str.startswith("SMAC3")]
    n_runs = runs.groupby("method")["error_260"].transform("size")
    runs = runs[n_runs == 9 * 10]
    assert runs["method"].nunique() == 8
    assert sorted(runs["seed"].unique()) == list(range(101, 111))
    default = runs["method"] == "raycae: TPE + ASHA (default)"
    best, median = (runs["task"].map(marks[name]) for name in ("best", "median"))
    ranks, regrets = [], []
    for epochs in (260, 520, 1040):
        error = runs[f"error_{epochs}"]
        rank = error.groupby([runs["task"], runs["seed"]]).rank()
        means = rank.groupby(runs["method"]).mean()
        assert means.idxmin() == "raycae: TPE + ASHA (default)"
        ranks.append(f"{means.min():.1f}")
        regret = (error / best).map(math.log) / (median / best).map(math.log)
        regrets.append(f"{regret[default].median():.2f}")
    readme, guide = (
        " ".join((ROOT / name).read_text().split())
        for name in ("README.md", "docs/guide/search-spaces.md")
    )
    assert f"after 260, 520 and 1,040 epochs: {ranks[0]}, {ranks[1]} and {ranks[2]} of 8" in readme
    told = []
    for epochs in (260, 520, 1040):
        rank = with_bohb[f"error_{epochs}"].groupby([with_bohb["task"], with_bohb["seed"]]).rank()
        means = rank.groupby(with_bohb["method"]).mean()
        told.append(
            tuple(f"{means.filter(like=name).item():.1f}" for name in ("BOHB", "TPE + ASHA (d"))
        )
    assert with_bohb["method"].value_counts().eq(45).all()
    assert len(means) == 9
    against = [f"({bohb} against {default})" for bohb, default in told]
    assert f"better than the default's after 260 epochs {against[0]}" in readme
    assert f"worse after 520 {against[1]} and 1,040 {against[2]}" in readme
    assert f"{regrets[1]} after 520 epochs and of {regrets[2]} after 1,040 (90 runs" in guide
