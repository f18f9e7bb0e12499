"""Bare `raycae`, `raycae list`, `--json`, and which study is meant if none is named."""

from __future__ import annotations

import errno
import json
import math
import os
import re
import subprocess
import sys
import webbrowser
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from conftest import Run, begin, data_facts, die, measured
from made_studies import Page
from ray.job_submission import JobStatus
from synthetic_study import long_study

from raycae.cli import jobs
from raycae.cli.main import COMMANDS, GROUPS, load_command
from raycae.config import Config, resolve
from raycae.errors import InputError
from raycae.execution.search_request import plan_new_study
from raycae.inference.model_card import format_row
from raycae.model.architecture import Architecture, build_architecture
from raycae.report.page import render_report
from raycae.report.reader import open_study
from raycae.space import loading
from raycae.space.space import Space
from raycae.study import find, tables
from raycae.study.attempt import EpochReport
from raycae.study.opening import create_study
from raycae.study.plan import Plan
from raycae.study.warm_start import take_trials


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


def test_a_trial_that_does_not_run_is_called_interrupted(
    run: Run, tmp_path: Path, plan: Plan, tiny_space: Space
) -> None:
    """Oracle: the contract. While the search runs, its trials do; after it has marked them, and
    after it has ended without a word, they do not. The table and --json keep RUNNING."""

    def look() -> tuple[str, ...]:
        _, shown, _ = run("show", "mine", "--results", tmp_path)
        page = render_report(folder)
        details = re.findall(r"trial 0: [A-Z]+ after 1 epoch", page)
        return (
            shown.partition(": ")[2].partition(",")[0],
            next(line.split()[0] for line in shown.splitlines() if " 0.20000 " in line),
            " ".join(re.findall(r"\d+ (?:RUNNING|INTERRUPTED)", Page(page).text)),
            *sorted({detail.split()[2] for detail in details}),
            *re.findall(r'data-value="(RUNNING|INTERRUPTED)"', page),
            repr(open_study(folder)).rpartition(": ")[2].rstrip(">"),
        )

    folder = tmp_path / "mine"
    study = create_study(folder, plan, tiny_space, data_facts())
    attempt = begin(study)
    study.report_epoch(EpochReport(attempt.number, attempt.attempt, **measured(1, 0.2)))
    study.records.write(folder)
    running = look()
    assert [word.split()[-1] for word in running] == ["RUNNING"] * 5
    study.mark_interrupted()
    study.records.write(folder)
    interrupted = tuple(word.replace("RUNNING", "INTERRUPTED") for word in running)
    assert look() == interrupted
    study.records.trials[0]["reason"] = None  # as a driver leaves it that is killed
    study.close()
    assert look() == interrupted
    _, out, _ = run("show", "mine", "--results", tmp_path, "--json")
    assert [row["state"] for row in json.loads(out)] == ["RUNNING"]
    assert "reason" not in json.loads(out)[0]
    assert tables.read_trials(folder)["state"].tolist() == ["RUNNING"]


def test_list_of_nothing(run: Run, tmp_path: Path) -> None:
    """Oracle: by hand."""
    assert run("list", "--results", tmp_path / "none")[:2] == (
        *(0, f"no studies in {tmp_path / 'none'}\n"),
    )
    code, _, err = run("show", "--results", tmp_path)
    assert (code, "there are no studies" in err) == (2, True)


def test_a_folder_that_may_not_be_read(
    run: Run, results: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Oracle: the same commands without the folder, which adds a line to the list. Such a folder is
    `lost+found`, or the study of another person."""
    before = [run(*words, "--results", results) for words in (("show",), ("show", "nope"))]
    _, listed, _ = run("list", "--results", results, "--json")
    (results / "private").mkdir()
    (results / "locked").mkdir()
    (results / "locked" / "study.json").write_text((results / "old" / "study.json").read_text())
    is_file, read_bytes = Path.is_file, Path.read_bytes

    def look(path: Path, **how: bool) -> bool:
        if path.parent.name == "private":
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return is_file(path, **how)

    def read(path: Path) -> bytes:
        if path.parent.name == "locked":
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return read_bytes(path)

    monkeypatch.setattr(Path, "is_file", look)
    monkeypatch.setattr(Path, "read_bytes", read)
    code, out, err = run("list", "--results", results, "--json")
    assert (code, err) == (0, "")
    entries = {entry["study"]: entry for entry in json.loads(out)}
    assert (entries.pop("private")["state"], entries.pop("locked")["state"]) == (
        *("unreadable", "unreadable"),
    )
    assert list(entries.values()) == json.loads(listed)
    after = [run(*words, "--results", results) for words in (("show",), ("show", "nope"))]
    assert after[0] == before[0]
    assert after[1][2] == before[1][2].replace("broken, new", "broken, locked, new")
    code, _, err = run("show", "private", "--results", results)
    assert code == 2
    assert "private/study.json: Permission denied" in err
    (results / "mount" / "private").mkdir(parents=True)
    code, _, err = run("show", "--results", results / "mount")
    assert (code, "there are no studies that can be read" in err) == (2, True)


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
    assert [row["network"] for row in rows] == [
        str(build_architecture(resolve(row["config"]))) for row in rows
    ]


def damage_configs(folder: Path, whole: list[int]) -> None:
    """Replace the configurations of all trials of a study but `whole`."""
    table = pq.read_table(folder / "trials.parquet")
    rows = zip(*(table[name].to_pylist() for name in ("trial_number", "config")), strict=True)
    configs = pa.array([config if number in whole else "[]" for number, config in rows])
    table = table.set_column(table.column_names.index("config"), "config", configs)
    pq.write_table(table, folder / "trials.parquet")


def test_show_parses_only_what_it_shows(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Oracle: a count of the parsed configurations, and damaged ones below the rows that are shown.
    To parse those of 20,000 trials takes 6 s."""
    folder = long_study(tmp_path / "old", 40)
    options = ["show", "old", "--results", tmp_path, "-n", 3]
    shown = [run(*options), run(*options, "--json")]
    numbers = [row["trial_number"] for row in json.loads(shown[1][1])]
    parsed: list[int] = []
    check_config = tables.check_config

    def count(path: Path, number: int, text: str) -> tuple[Config, Architecture]:
        parsed.append(number)
        return check_config(path, number, text)

    monkeypatch.setattr(tables, "check_config", count)
    damage_configs(folder, numbers)
    assert [run(*options), run(*options, "--json")] == shown
    assert parsed == numbers * 2
    for more in ([], ["--json"]):
        code, out, err = run(*options[:-1], 4, *more)
        assert (code, out) == (2, "")
        assert re.search(r"trials\.parquet: trial \d+: config: ", err)


def test_readers_parse_only_what_they_use(
    tmp_path: Path, tiny_space: Space, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Oracle: the values before all other configurations are damaged, and the message about one
    that is used."""
    folder = long_study(tmp_path / "old", 40)
    opened, job = open_study(folder), SimpleNamespace(status=JobStatus.FAILED)
    best, front = opened.best, opened.frontier()
    assert best is not None
    monkeypatch.setattr(find, "list_trials_with_model", lambda study: range(40))
    readers: list[Callable[[], Any]] = [
        lambda: jobs.describe_trials(folder, job),
        lambda: find.find_kept_model(folder),
        lambda: find.find_kept_model(folder, 256),
        lambda: format_row(folder, 3) | {"config": None},
        lambda: take_trials(folder, tiny_space),
        lambda: (repr(opened), opened._repr_html_()),
    ]
    values = [reader() for reader in readers]
    trials = opened.trials
    complete = trials.loc[trials["state"] == "COMPLETE", "trial_number"].tolist()
    damage_configs(folder, [*complete, *front["trial_number"]])
    assert [reader() for reader in readers] == values
    pd.testing.assert_series_equal(opened.best, best)  # type: ignore[arg-type]
    pd.testing.assert_frame_equal(opened.frontier(), front)
    damage_configs(folder, [])
    for fails in (lambda: opened.best, opened.frontier, lambda: opened.trials, readers[4]):
        with pytest.raises(InputError, match=r"trials\.parquet: trial \d+: config: "):
            fails()


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


def test_open_a_report(run: Run, results: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Oracle: the path is printed and given to the browser, the report is written if it is missing;
    without a screen it is only printed."""
    opened: list[str] = []
    monkeypatch.setattr(webbrowser, "open", opened.append)
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setenv("DISPLAY", ":0")
    report = results / "old" / "report.html"
    report.unlink(missing_ok=True)
    assert run("open", "old", "--results", results) == (0, f"{report}\n", "")
    assert opened == [report.as_uri()]
    assert "<html" in report.read_text()[:200]
    report.write_text("kept")
    for name in ("DISPLAY", "WAYLAND_DISPLAY", "BROWSER"):
        monkeypatch.delenv(name, raising=False)
    assert run("open", "old", "--results", results) == (0, f"{report}\n", "")
    assert (len(opened), report.read_text()) == (1, "kept")


def test_preview_as_json(run: Run) -> None:
    """Oracle: the space `demo`: its first point with a latent of 64 numbers."""
    code, out, _ = run("preview", "--space", "demo", "-n", 6, "--json")
    rows = json.loads(out)
    assert code == 0
    assert [row["latent_size"] for row in rows[:4]] == [64, 128, 256, 1024]
    assert [row["point"] for row in rows[:2]] == ["base", "latent-128"]
    assert all(resolve(row["config"]).latent_channels > 0 for row in rows)


@pytest.mark.parametrize(
    ("space_name", "sampler"),
    [("demo", None), ("folder", None), ("frontier", None), ("demo", "strata"), ("demo", "tpe")],
)
def test_preview_shows_what_a_search_proposes(
    run: Run, tmp_path: Path, space_name: str, sampler: str | None
) -> None:
    """Oracle: a new study of the same space, which hands out trials that do not end."""
    space = loading.load_space(space_name)
    recorded = {} if sampler is None else {"sampler": sampler}
    plan = plan_new_study(tmp_path / "s", space, "12", recorded)
    line = [0.01] * len(plan.strata or ())
    study = create_study(tmp_path / "s", plan, space, {**data_facts(), "line": line})
    attempts = [study.ask() for _ in range(12)]
    die(study)
    options = [] if sampler is None else ["--sampler", sampler]
    code, out, _ = run("preview", "--space", space_name, "-n", 12, "--json", *options)
    configs = [attempt.config.model_dump(mode="json") for attempt in attempts if attempt]
    assert code == 0
    assert [row["config"] for row in json.loads(out)] == configs


@pytest.mark.parametrize(("is_over", "shown"), [(False, "RUNNING"), (True, "INTERRUPTED")])
def test_status_of_a_trial_that_has_not_ended(
    is_over: bool, shown: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Oracle: by hand. Nothing runs once the job has ended."""
    state = {"name": "a-1", "status": "STOPPED", "results": "r", "failure": None}
    state |= {"trials": {"RUNNING": 2}, "trials_planned": 3, "best": None, "seconds_left": None}
    jobs.print_status(state, "now", is_over=is_over)
    assert f"trials   2 {shown} of 3\n" in capsys.readouterr().out


def test_status_as_json(run: Run, results: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Oracle: the tables of the study, and the description of a job as Ray's client gives it. The
    lines without `--json` say the same."""
    job = SimpleNamespace(
        status=JobStatus.FAILED,
        start_time=1_767_225_600_000,
        message="first\nlast",
        metadata={"results": str(results), "study": "old", "hours": None},
    )
    monkeypatch.setattr(jobs, "connect_to_head", lambda address: None)
    monkeypatch.setattr(jobs, "find_job", lambda client, name: job)
    monkeypatch.setattr(jobs, "get_job_folder", lambda job: results / job.metadata["study"])
    code, out, _ = run("status", "old-7f3a", "--json")
    state = json.loads(out)
    trials = tables.read_trials(results / "old")
    least = trials.loc[trials["state"] == "COMPLETE", "val_mse"].min()
    assert code == 0
    assert state["best"]["val_mse"] == pytest.approx(least)
    assert state["trials"] == trials["state"].value_counts().to_dict()
    assert (state["name"], state["status"], state["failure"]) == ("old-7f3a", "FAILED", "last")
    assert (state["begun_at"], state["seconds_left"]) == ("2026-01-01T00:00:00+00:00", None)
    assert state["results"] == str(results / "old")
    _, out, _ = run("status", "old-7f3a")
    assert f"best     trial {state['best']['trial_number']}: val_mse {least:.5f}" in out
    assert out.startswith("old-7f3a  FAILED, begun 2026-01-01 00:00 UTC\ntrials   ")
    assert out.endswith("failed   last\n")
    job.metadata["study"] = "new"
    (results / "new" / "trials.parquet").unlink(missing_ok=True)
    assert json.loads(run("status", "new-7f3a", "--json")[1])["trials"] is None
    assert "no trial has begun" in run("status", "new-7f3a")[1]


def test_fetch_copies_the_study_of_the_job(
    run: Run,
    results: Path,
    plan: Plan,
    tiny_space: Space,
    tmp_path_factory: pytest.TempPathFactory,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Oracle: the results that the job recorded. The current folder contains another study of the
    same name. If the job's study is missing, there is a message, and nothing is copied."""
    here = tmp_path_factory.mktemp("here")
    create_study(here / "new", replace(plan, trials=9), tiny_space, data_facts()).close()
    monkeypatch.chdir(here)
    metadata = {"results": str(results), "study": "new"}
    job = SimpleNamespace(status=JobStatus.SUCCEEDED, metadata=metadata)
    monkeypatch.setattr(jobs, "connect_to_head", lambda address: None)
    monkeypatch.setattr(jobs, "find_job", lambda client, name: job)
    assert run("fetch", "new-7f3a", "-o", "home")[::2] == (0, "")
    fetched = (here / "home" / "new" / "study.json").read_bytes()
    assert fetched == (results / "new" / "study.json").read_bytes()
    (results / "new" / "study.json").unlink()
    code, _, err = run("fetch", "new-7f3a", "-o", "again")
    assert code == 2
    assert f"new-7f3a: there is no study at {results / 'new'}" in err
    assert not (here / "again").exists()


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion(shell: str, tmp_path: Path) -> None:
    """Oracle: a process as the shell starts it: the commands and options that begin so; the script
    of the shell names the command."""
    environment = {
        **{name: value for name, value in os.environ.items() if "COMPLETE" not in name},
        "HOME": str(tmp_path),
        "_RAYCAE_COMPLETE": f"complete_{shell}",
        "_TYPER_COMPLETE_FISH_ACTION": "get-args",
    }
    program = [str(Path(sys.executable).with_name("raycae"))]

    def complete(line: str) -> str:
        words = {"_TYPER_COMPLETE_ARGS": line, "COMP_WORDS": line}
        words["COMP_CWORD"] = str(len(line.split()) - 1)
        done = subprocess.run(
            program, env=environment | words, capture_output=True, text=True, check=False
        )
        return done.stdout

    assert "search" in complete("raycae sea")
    assert "--part" in complete("raycae export mine --pa")
    environment["_RAYCAE_COMPLETE"] = f"source_{shell}"
    shown = subprocess.run(program, env=environment, capture_output=True, text=True, check=False)
    assert f"complete_{shell}" in shown.stdout
