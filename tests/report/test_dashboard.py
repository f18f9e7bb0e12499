"""`raycae dashboard`: the copy that it shows, and the server."""

from __future__ import annotations

import dataclasses
import json
import os
import re
import signal
import socket
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any
from wsgiref.util import setup_testing_defaults

import numpy as np
import pytest
from conftest import Run, begin, data_facts, run_trial
from optuna.study import StudyDirection
from optuna.trial import TrialState
from searches import Running, wait_for

from raycae.cli.dashboard import with_importances
from raycae.report.latent_error import compute_latent_error
from raycae.report.optuna_mirror import OptunaMirror
from raycae.report.sections import importance, latent_size
from raycae.report.trials import add_config_columns
from raycae.space import loading
from raycae.space.space import Space
from raycae.study import ledger as study_ledger
from raycae.study import tables
from raycae.study.attempt import FailureReport
from raycae.study.ledger import Follower, Ledger, Part, list_whole_parts
from raycae.study.opening import create_study
from raycae.study.plan import Plan, read_study
from raycae.study.records import PROCESS
from raycae.study.study import Study

RECORDED = Path(__file__).resolve().parents[2] / "analysis" / "recorded"

pytest.importorskip("optuna_dashboard", reason="the extra `dashboard` is not installed")


def require_alike(copy: OptunaMirror, folder: Path) -> None:
    """The copy's trials are those of the two tables."""
    trials, epochs = tables.read_trials(folder), tables.read_epochs(folder)
    curves = epochs.groupby("trial_number")
    shown = copy.study.get_trials()
    assert [t.user_attrs["trial_number"] for t in shown] == trials["trial_number"].tolist()
    for trial, row in zip(shown, trials.to_dict("records"), strict=True):
        number = row["trial_number"]
        curve = curves.get_group(number) if number in curves.groups else epochs.head(0)
        assert trial.state == TrialState[row["state"]]
        assert trial.intermediate_values == dict(zip(curve.epoch, curve.val_mse, strict=True))
        assert trial.user_attrs["latent_size"] == row["latent_size"]
        assert trial.user_attrs["n_params"] == row["n_params"]
        assert trial.user_attrs["state"] == row["state"]
        if row["state"] in ("COMPLETE", "PRUNED"):
            assert trial.values is not None
            assert trial.values[0] == row["val_mse"]
        for name, value in trial.params.items():
            assert row[f"params_{name}"] == value


@pytest.mark.parametrize("name", ["frontier", "curves/ex2", "reproduction/ex3-report"])
def test_recorded_studies(name: str) -> None:
    """Oracle: the tables, and of the frontier that both of its directions are there: error and
    latent size."""
    folder = RECORDED / name
    copy = OptunaMirror(folder)
    copy.follow()
    require_alike(copy, folder)
    front = name == "frontier"
    assert copy.study.directions == [StudyDirection.MINIMIZE] * (1 + front)
    if front:
        sizes = tables.read_trials(folder)["latent_size"].tolist()
        assert [trial.values[1] for trial in copy.study.trials] == sizes


def test_following_a_study(study: Study) -> None:
    """Oracle: the tables, after each thing that happens to a study; and a copy that is made at the
    end. The study is open for writing all the while: nobody else could take its lease."""
    copy = OptunaMirror(study.folder)
    copy.follow()
    assert copy.study.trials == []
    run_trial(study, 0.3, 0.2, 0.1)
    copy.follow()
    failing = begin(study)
    copy.follow()
    study.fail_attempt(FailureReport(failing.number, failing.attempt, "diverged: loss is nan"))
    copy.follow()
    lost = begin(study)
    study.lose_attempt(lost.number, lost.attempt, PROCESS, "process lost: killed")
    copy.follow()
    assert copy.study.trials[lost.number].user_attrs["reason"] == "process lost: killed"
    begin(study)
    study.records.write(study.folder)
    copy.follow()
    require_alike(copy, study.folder)
    whole = OptunaMirror(study.folder)
    whole.follow()
    for followed, at_once in zip(copy.study.trials, whole.study.trials, strict=True):
        assert followed.params == at_once.params
        assert followed.values == at_once.values
        assert followed.state == at_once.state
        gone = {"reason"} if followed.number == lost.number else set()  # it has begun again
        assert {k: v for k, v in followed.user_attrs.items() if k not in gone} == at_once.user_attrs


def figure_parts(copy: OptunaMirror) -> dict[str, str]:
    """What optuna-dashboard keeps of the figure, piece by piece."""
    told = copy.study._storage.get_study_system_attrs(copy.study._study_id)
    return {k: v for k, v in told.items() if k.startswith("dashboard:plot_data:frontier:")}


def test_the_first_trial_fails(tmp_path: Path, tiny_space: Space, plan: Plan) -> None:
    """Oracle: there is no figure before any trial has an error, and one then."""
    other = dataclasses.replace(plan, objective="frontier", cost="n_params")
    study = create_study(tmp_path / "tiny", other, tiny_space, data_facts())
    copy = OptunaMirror(study.folder)
    failing = begin(study)
    study.fail_attempt(FailureReport(failing.number, failing.attempt, "diverged: loss is nan"))
    copy.follow()
    assert not figure_parts(copy)
    run_trial(study, 0.3, 0.2, 0.1)
    copy.follow()
    assert figure_parts(copy)
    study.close()


def test_the_figure_is_the_reports() -> None:
    """Oracle: the report's figure of the same tables."""
    folder = RECORDED / "frontier"
    copy = OptunaMirror(folder)
    copy.follow()
    parts = figure_parts(copy)
    shown = json.loads("".join(parts[name] for name in sorted(parts, key=_part)))
    trials = add_config_columns(tables.read_trials(folder))
    drawn = latent_size.draw_latent_error(
        compute_latent_error(trials, tables.read_baselines(folder))
    )
    assert shown["layout"]["xaxis"] == json.loads(drawn.to_json())["layout"]["xaxis"]
    assert len(shown["data"]) == len(drawn.data)


def request(app: Any, path: str) -> Any:
    """What a WSGI application answers to a GET."""
    told: list[str] = []
    environ: dict[str, Any] = {"REQUEST_METHOD": "GET", "PATH_INFO": path}
    setup_testing_defaults(environ)
    body = b"".join(app(environ, lambda status, _: told.append(status)))
    return told[0], json.loads(body)


@pytest.mark.parametrize("name", ["curves/ex2", "frontier", "reproduction/ex3-report"])
def test_importance_is_the_reports(name: str) -> None:
    """Oracle: the report's own function on the study's tables, for what the page asks its server;
    below fifty configurations nothing is ranked and the note says so."""
    folder = RECORDED / name
    copy = OptunaMirror(folder)
    copy.follow()
    asked: list[str] = []

    def dashboard(environ: dict[str, Any], _: Any) -> list[bytes]:
        asked.append(environ["PATH_INFO"])
        return [b"{}"]

    app = with_importances(dashboard, copy)
    status, told = request(app, f"/api/studies/{copy.study._study_id}/param_importances")
    assert (status, asked) == ("200 OK", [])
    trials = tables.read_trials(folder)
    objectives = ["val_mse", "latent_size"][: len(copy.study.directions)]
    parameters = loading.parse_space(read_study(folder)["space"]["text"], name="s").parameters
    for objective, rows in zip(objectives, told["param_importances"], strict=True):
        is_error_at_cost = len(objectives) == 2 and objective == "val_mse"
        cost = "latent_size" if is_error_at_cost else None
        weights = importance.compute_importance(trials, parameters, objective, cost)
        assert [row["name"] for row in rows] == weights["parameter"].tolist()
        assert [row["importance"] for row in rows] == pytest.approx(weights["share"].tolist())
    n = len(importance.select_weighed(trials))
    assert bool(told["param_importances"][0]) == (n >= 50)
    attributes = copy.study._storage.get_study_system_attrs(copy.study._study_id)
    note = "".join(text for key, text in attributes.items() if ":note_str:" in key)
    assert ("Parameters are not ranked yet" in note) == (n < 50)
    b"".join(app({"REQUEST_METHOD": "GET", "PATH_INFO": "/api/studies/0"}, lambda *_: None))
    assert asked == ["/api/studies/0"]


def _part(name: str) -> int:
    return int(name.rpartition(":")[2])


def test_a_follower_hears_everything_once(tmp_path: Path) -> None:
    """Oracle: what was appended, while parts are merged under the follower's feet."""
    ledger, rng = Ledger(tmp_path), np.random.default_rng(0)
    follower, heard, told = Follower(tmp_path), [], 0
    while told < 200:
        for _ in range(int(rng.integers(1, 40))):
            n = int(rng.integers(1, 3))
            ledger.append({"event": "epoch", "epoch": told + i} for i in range(n))
            told += n
        heard += [event["epoch"] for event in follower.news()]
        assert heard == list(range(told))
        assert follower.news() == []


def test_a_part_is_merged_between_listing_and_reading(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Oracle: what was appended; the follower looks again."""
    book = Ledger(tmp_path)
    for epoch in range(3):
        book.append([{"event": "epoch", "epoch": epoch}])
    gone = [Part(0, 2, f"00000000-00000002-{'0' * 32}.parquet")]
    listings = iter([gone, list_whole_parts(tmp_path)])
    monkeypatch.setattr(study_ledger, "list_whole_parts", lambda _: next(listings))
    assert [event["epoch"] for event in Follower(tmp_path).news()] == [0, 1, 2]


def ask(url: str, method: str = "GET") -> Any:
    with urllib.request.urlopen(urllib.request.Request(url, method=method), timeout=20) as answer:
        return json.load(answer)


def test_the_server(study: Study) -> None:
    """Oracle: the study's table, by the dashboard's own HTTP API, while another process (this one)
    goes on writing the study. It listens on the loopback address alone, changes nothing, and ends
    with exit code 0 at Ctrl-C."""
    number = run_trial(study, 0.3, 0.2, 0.1)
    setup = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)"
    words = ["dashboard", str(study.folder), "--port", "0"]
    code = f"{setup}; import sys; sys.argv[1:] = {words}; from raycae.cli.main import main; main()"
    said: list[str] = []
    with Running([sys.executable, "-u", "-c", code], dict(os.environ)) as server:
        assert server._process.stdout is not None
        said.append(server._process.stdout.readline())
        found = re.search(r"http://127\.0\.0\.1:(\d+)/", said[0])
        assert found, said
        port = int(found[1])
        where = f"http://127.0.0.1:{port}/api/studies"
        (summary,) = ask(where)["study_summaries"]
        assert summary["study_name"] == "tiny"
        (shown,) = ask(f"{where}/0")["trials"]
        assert (shown["number"], shown["state"], shown["values"]) == (number, "Complete", [0.1])
        assert ask(f"{where}/0/param_importances") == {"param_importances": [[]]}
        with pytest.raises(urllib.error.HTTPError, match="405"):
            ask(f"{where}/0", "DELETE")
        run_trial(study, 0.3, 0.25, 0.2)
        wait_for(lambda: len(ask(f"{where}/0")["trials"]) == 2, 30)
        answer = ask(f"{where}/0")
        assert [trial["values"] for trial in answer["trials"]] == [[0.1], [0.2]]
        attributes = {a["key"]: a["value"] for a in answer["trials"][1]["user_attrs"]}
        assert attributes["latent_size"] == str(study.records.trials[1]["latent_size"])
        assert [figure["id"] for figure in answer["plotly_graph_objects"]] == ["frontier"]
        with socket.socket() as other, pytest.raises(ConnectionRefusedError):
            other.connect(("127.0.0.2", port))
        server.send(signal.SIGINT)
        done = server.end(20)
    assert (done.returncode, done.stderr) == (0, "")
    begin(study)  # its lease was never taken


@pytest.mark.parametrize("pause", [0.0, 0.1])
def test_ctrl_c_while_it_reads(pause: float) -> None:
    """Oracle: exit code 0 and nothing on standard error at Ctrl-C while the server reads the study,
    here without any pause between two reads. Before, the process aborted (SIGABRT) or hung in about
    one of ten cases, because it ended while a thread was inside Arrow."""
    folder = RECORDED / "frontier"
    code = f"""
import signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)
sys.argv[1:] = ["dashboard", {str(folder)!r}, "--port", "0"]
from raycae.cli import dashboard
from raycae.report.optuna_mirror import OptunaMirror
from raycae.study import tables
dashboard.FOLLOW_S, dashboard.FOLLOW_SHARE = 0.0, 1e9
follow = OptunaMirror.follow
OptunaMirror.follow = lambda copy: (follow(copy), tables.read_epochs(copy._folder))
from raycae.cli.main import main
main()
"""
    with Running([sys.executable, "-u", "-c", code], dict(os.environ)) as server:
        assert server._process.stdout is not None
        assert "http://" in server._process.stdout.readline()
        time.sleep(pause)
        server.send(signal.SIGINT)
        done = server.end(20)
    assert (done.returncode, done.stderr) == (0, "")


def test_wrong_use(run: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Oracle: one message that names the thing and what to do, exit code 2."""
    code, _, err = run("dashboard", "nobody", "--results", tmp_path)
    assert (code, err.count("\n")) == (2, 1)
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        code, _, err = run("dashboard", RECORDED / "frontier", "--port", port)
    assert (code, err.count("\n")) == (2, 1)
    assert f"--host 127.0.0.1 --port {port}: cannot listen there: " in err
    code, _, err = run("dashboard", RECORDED / "frontier", "--host", "no.such.host.invalid")
    assert (code, err.count("\n")) == (2, 1)
    monkeypatch.setitem(sys.modules, "optuna_dashboard", None)
    code, _, err = run("dashboard", RECORDED / "frontier")
    assert (code, err.count("\n")) == (2, 1)
    assert "pip install 'raycae[dashboard]'" in err
