"""Bare `raycae`, `raycae list`, `--json`, and which study is meant if none is named."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
from conftest import Run, data_facts
from synthetic_study import long_study

from raycae.cli.main import COMMANDS, GROUPS, load_command
from raycae.space.space import Space
from raycae.study import tables
from raycae.study.opening import create_study
from raycae.study.plan import Plan


@pytest.fixture
def results(tmp_path: Path, plan: Plan, tiny_space: Space) -> Path:
    """Return a folder with a finished study of 2026-03, an open one of today, and a damaged one."""
    long_study(tmp_path / "old", 8)
    create_study(tmp_path / "new", plan, tiny_space, data_facts()).close()
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "study.json").write_text("{}")
    (tmp_path / "empty").mkdir()
    return tmp_path


def test_list(run: Run, results: Path, plan: Plan) -> None:
    """Oracle: the studies as they were made; the table of the finished one."""
    code, out, _ = run("list", "--results", results, "--json")
    new, old, broken = json.loads(out)
    assert code == 0
    trials = tables.read_trials(results / "old")
    least = trials.loc[trials["state"] == "COMPLETE", "val_mse"].min()
    assert old["best_val_mse"] == pytest.approx(least)
    assert (old["study"], old["state"], old["trials_ended"], old["space"]) == (
        *("old", "finished", 8),
        "ex2",
    )
    assert (new["study"], new["state"]) == ("new", "unfinished")
    assert (new["trials_ended"], new["trials_planned"]) == (0, plan.trials)
    assert (broken["study"], broken["state"], broken["created_at"]) == (
        "broken",
        "unreadable",
        None,
    )
    code, out, _ = run("list", "--results", results)
    assert [line.split()[:2] for line in out.splitlines()[1:]] == [
        ["new", "unfinished"],
        ["old", "finished"],
        ["broken", "unreadable"],
    ]


def test_list_of_a_running_study(run: Run, tmp_path: Path, plan: Plan, tiny_space: Space) -> None:
    """Oracle: this process writes the study."""
    study = create_study(tmp_path / "mine", plan, tiny_space, data_facts())
    _, out, _ = run("list", "--results", tmp_path, "--json")
    study.close()
    assert [entry["state"] for entry in json.loads(out)] == ["running"]


def test_list_of_nothing(run: Run, tmp_path: Path) -> None:
    """Oracle: by hand."""
    assert run("list", "--results", tmp_path / "none")[:2] == (
        *(0, f"no studies in {tmp_path / 'none'}\n"),
    )
    code, _, err = run("show", "--results", tmp_path)
    assert (code, "there are no studies" in err) == (2, True)


def test_the_newest_study_is_shown(run: Run, results: Path) -> None:
    """Oracle: the same output as with its name; there are no trials in the newest one."""
    long_study(results / "middle", 8)
    content = json.loads((results / "middle" / "study.json").read_text())
    content["created_at"] = "2099-01-01T00:00:00+00:00"
    (results / "middle" / "study.json").write_text(json.dumps(content))
    assert run("show", "--results", results) == run("show", "middle", "--results", results)


def test_show_as_json(run: Run, results: Path) -> None:
    """Oracle: the table of the study, best first."""
    code, out, _ = run("show", "old", "--results", results, "--json", "-n", 3)
    rows = json.loads(out)
    trials = tables.read_trials(results / "old")
    ranked = trials[trials["state"] != "FAIL"].sort_values(["val_mse", "trial_number"])
    assert code == 0
    assert [row["trial_number"] for row in rows] == ranked["trial_number"].tolist()[:3]
    assert all(math.isfinite(row["val_mse"]) and row["config"]["task"] for row in rows)


def test_bare_command(run: Run) -> None:
    """Oracle: every command of the guide is one, with these options."""
    code, out, err = run()
    assert (code, err) == (0, "")
    lines = [line.split("  ")[1].split()[1:] for line in out.splitlines() if line[:2] == "  "]
    assert len(lines) >= 5
    for name, *words in lines:
        known = {option for param in load_command(name).params for option in param.opts}
        assert {word for word in words if word.startswith("-")} <= known


def test_every_command_is_in_one_group() -> None:
    """Oracle: the table of commands."""
    listed = [name for names in GROUPS.values() for name in names]
    assert sorted(listed) == sorted(COMMANDS)
