"""raycae from Python: a space as a dict, the progress callback, the figure and the models."""

from __future__ import annotations

import contextlib
import inspect
import io
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import yaml
from conftest import measured
from models import put_model

import raycae
from raycae.config import Config
from raycae.execution import runner
from raycae.execution.search_request import parse_options
from raycae.report.reader import StudyReader
from raycae.space.loading import make_space
from raycae.study.attempt import EpochReport
from raycae.study.study import Study

RECORDED = Path(__file__).resolve().parents[2] / "analysis" / "recorded"
SPACE: dict[str, Any] = {
    "task": "reconstruct",
    "data": "photos",
    "budget": {"trials": 3, "epochs": 2, "limit": 64},
    "params": {"lr": {"type": "float", "low": 1e-3, "high": 1e-2, "log": True}},
    "fixed": {"image_size": 16, "batch_size": 32},
    "points": {"wide": {"latent_channels": 8}, "narrow": {"latent_channels": 2}},
}


def test_public_names_are_documented() -> None:
    """Oracle: Python's own `dir` and `help`, and the docstring of each name."""
    assert dir(raycae) == sorted(raycae.__all__)
    shown = io.StringIO()
    with contextlib.redirect_stdout(shown):
        help(raycae)
    for name in set(raycae.__all__) - {"__version__"}:
        assert name in shown.getvalue()
        assert inspect.getdoc(getattr(raycae, name))
    for reader in (raycae.StudyReader, raycae.Codec):
        for name, member in inspect.getmembers(reader):
            assert name.startswith("_") or inspect.getdoc(member), name


def test_a_search_names_what_it_raises() -> None:
    """Oracle: the exceptions of the package; the docstring of `run_search` says when each comes."""
    _, _, raised = (raycae.run_search.__doc__ or "").partition("Raises:")
    exceptions = {
        name
        for name in raycae.__all__
        if isinstance(getattr(raycae, name), type)
        and issubclass(getattr(raycae, name), BaseException)
    }
    assert len(exceptions) == 5
    assert all(f"{name}: " in raised for name in exceptions)


def test_a_space_as_a_dict(tmp_path: Path) -> None:
    """Oracle: the same space as a file."""
    file = tmp_path / "custom.yaml"
    file.write_text(yaml.safe_dump(SPACE, sort_keys=False))
    spaces = [parse_options({"space": each, "results": tmp_path}).space for each in (SPACE, file)]
    assert spaces[0].name == spaces[1].name == "custom"
    assert spaces[0].file == spaces[1].file
    assert spaces[0].points == spaces[1].points


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"params": {"lr": {"type": "float", "low": 1, "high": 0}}}, "space: params.lr"),
        ({"colour": "red"}, "space: colour: unknown key"),
        ({"fixed": {"lr": np.float64(0.1)}}, "only dicts, lists, text, numbers"),
        ({1: 2}, "space: 1: this key is not text"),
    ],
)
def test_a_bad_dict(changes: dict[Any, Any], said: str, tmp_path: Path) -> None:
    """Oracle: the message, which names the key."""
    with pytest.raises(raycae.InputError, match=said):
        raycae.run_search({**SPACE, **changes}, results=tmp_path / "r")
    assert not list(tmp_path.iterdir())


@pytest.mark.usefixtures("without_ray")
def test_a_search_with_a_callback(tmp_path: Path) -> None:
    """Oracle: the tables of the study: the callback has seen every epoch and every end, with the
    values that they hold. The model of a limited size is that of the row with the least error."""
    seen: list[raycae.SearchProgress] = []
    study = raycae.run_search(SPACE, results=tmp_path, on_progress=seen.append)
    assert isinstance(study, raycae.StudyReader)
    epochs, trials = study.epochs, study.trials
    told = [(p.trial_number, p.epochs_run, p.epoch_val_mse) for p in seen if p.event == "epoch"]
    columns = ["trial_number", "epoch", "val_mse"]
    assert told == list(epochs[columns].itertuples(index=False, name=None))
    ended = [(p.trial_number, p.state, p.val_mse) for p in seen if p.event == "ended"]
    columns = ["trial_number", "state", "val_mse"]
    assert ended == list(trials[columns].itertuples(index=False, name=None))
    assert [p.n_ended for p in seen if p.event == "ended"] == [1, 2, 3]
    last = seen[-1]
    assert (last.study, last.n_trials) == ("custom", 3)
    assert study.best is not None
    assert (last.best_trial, last.best_val_mse) == (
        study.best["trial_number"],
        study.best["val_mse"],
    )
    assert study.model().config == Config.model_validate_json(study.best["config"])
    small = trials[trials["latent_size"] == trials["latent_size"].min()]
    row = small.sort_values("val_mse").iloc[0]
    limit = int(trials["latent_size"].max()) - 1
    assert study.model(latent=limit).config == Config.model_validate_json(row["config"])


def test_a_callback_that_fails(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Oracle: the contract: the search ends cleanly, its exception is the callback's, which was not
    called again. The study can be resumed, with or without its space, but not with another one."""
    calls = []

    def fail(progress: raycae.SearchProgress) -> None:
        calls.append(progress)
        if progress.event == "epoch":
            raise ZeroDivisionError("mine")

    def train(study: Study, *others: Any) -> None:
        is_due = others[4]
        while not is_due() and (attempt := study.ask()):
            study.start_attempt(attempt.number, attempt.attempt)
            epoch = EpochReport(attempt.number, attempt.attempt, **measured(1, 0.1))
            study.report_epoch(epoch)

    monkeypatch.setattr(runner, "connect_ray", lambda *_: contextlib.nullcontext(True))
    monkeypatch.setattr(runner, "TrialSlots", lambda **_: None)
    monkeypatch.setattr(runner, "train_trials", train)
    with pytest.raises(ZeroDivisionError, match="mine"):
        raycae.run_search(SPACE, results=tmp_path, on_progress=fail)
    assert [progress.event for progress in calls] == ["started", "epoch"]
    trials = raycae.open_study("custom", tmp_path).trials
    assert trials[["state", "reason", "epochs_run"]].values.tolist() == [
        ["RUNNING", "interrupted", 1]
    ]
    again = {"study": "custom", "results": tmp_path, "resume": True}
    for space in (None, SPACE):
        assert parse_options({**again, "space": space}).space.file == make_space(SPACE).file
    with pytest.raises(raycae.InputError, match="space"):
        parse_options({**again, "space": {**SPACE, "fixed": {"image_size": 32}}})


def test_the_model_of_a_size(tmp_path: Path) -> None:
    """Oracle: a recorded Pareto front, whose errors fall with the size: the best model within a
    limit is the largest within it, also of a trial that was stopped early. A refusal names the
    sizes there are."""
    folder = shutil.copytree(RECORDED / "frontier", tmp_path / "frontier")
    reader = raycae.open_study(folder)
    front = reader.frontier().drop_duplicates("latent_size").nsmallest(4, "n_params")
    front = front.sort_values("latent_size")
    assert set(front["state"]) == {"COMPLETE", "PRUNED"}
    for number, config in zip(front["trial_number"], front["config"], strict=True):
        put_model(folder / "models" / str(number), json.loads(config))
    for size, config in zip(front["latent_size"], front["config"], strict=True):
        for limit in (size, int(size)):
            assert reader.model(latent=limit).config == Config.model_validate_json(config)
    largest = Config.model_validate_json(front["config"].iloc[-1])
    assert reader.model(latent=10**6).config == largest
    sizes = ", ".join(f"{size:,}" for size in front["latent_size"])
    for limit in (front["latent_size"].min() - 1, 0, -5, True, "256", 64.5):
        with pytest.raises(
            raycae.InputError, match=rf"are {sizes}\. Use a latent size of at least "
        ):
            reader.model(latent=limit)


def test_no_model_yet(study: Study) -> None:
    """Oracle: the message."""
    with pytest.raises(raycae.InputError, match="has no model yet"):
        StudyReader(study.folder).model(latent=64)


def test_the_figure() -> None:
    """Oracle: the table: the line of the front has the cheapest trials that no trial beats."""
    figure = raycae.open_study("frontier", RECORDED).plot()
    table = pd.read_parquet(RECORDED / "frontier" / "trials.parquet")
    table = table[table["val_mse"].notna()].sort_values(["latent_size", "val_mse"])
    front = table[table["val_mse"].cummin() == table["val_mse"]].drop_duplicates("val_mse")
    lines = [list(zip(trace.x, trace.y, strict=True)) for trace in figure.data]
    assert list(zip(front["latent_size"], front["val_mse"], strict=True)) in lines


def test_a_figure_before_the_first_trial(study: Study) -> None:
    """Oracle: the message."""
    with pytest.raises(raycae.InputError, match="no trial has ended yet"):
        StudyReader(study.folder).plot()
