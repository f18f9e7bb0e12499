"""The life of trials: ledger, records, sampler and stopping in step, also after a restart."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from conftest import begin, data_facts, die, measured, run_trial, study_json, write_epoch
from hypothesis import given
from hypothesis import strategies as st

from raycae.config import Config, resolve
from raycae.errors import InputError
from raycae.formatting import hide_password
from raycae.provenance import get_command
from raycae.space import loading
from raycae.space.space import Space
from raycae.study import find, tables
from raycae.study.artifacts import get_checkpoint_folder
from raycae.study.attempt import EpochReport, FailureReport
from raycae.study.ledger import read_events
from raycae.study.opening import create_study, resume_study
from raycae.study.plan import Plan, load_plan, read_content, read_study
from raycae.study.records import (
    EPOCH_COLUMNS,
    TRIAL_COLUMNS,
    Records,
    get_architecture_columns,
    select_kept_models,
)
from raycae.study.study import Study


def restart(study: Study, **changes: object) -> Study:
    """What a new process finds: the old one is gone without a word."""
    die(study)
    return resume_study(study.folder, replace(study.plan, **changes))  # type: ignore[arg-type]


def test_every_trial_is_accounted_for(study: Study) -> None:
    """Oracle: what was done below, trial by trial."""
    assert run_trial(study, 0.3, 0.2, 0.1) == 0
    one = run_trial(study, 0.5)
    study.fail_attempt(
        FailureReport(one, 1, "diverged: training loss is nan in epoch 2", "Traceback …", host="h")
    )
    run_trial(study, 0.4, 0.35, 0.36)
    begin(study)
    rows = study.records.trials
    assert [rows[n]["state"] for n in range(4)] == ["COMPLETE", "FAIL", "COMPLETE", "RUNNING"]
    assert rows[1]["reason"].startswith("diverged")
    assert (rows[2]["val_mse"], rows[2]["best_epoch"], rows[2]["epochs_run"]) == (0.35, 2, 3)
    assert study.records.best() == rows[0]
    assert rows[0]["point"] == "base"
    assert rows[0]["n_params"] == 4911
    assert rows[0]["wall_time_s"] == 3.0


def test_as_many_trials_as_asked(study: Study) -> None:
    """Oracle: the plan says six."""
    numbers = [run_trial(study, 0.1, 0.1, 0.1) for _ in range(6)]
    assert numbers == list(range(6))
    assert study.ask() is None


def test_stopped_by_the_rule(tmp_path: Path, tiny_space: Space, plan: Plan) -> None:
    """Oracle: ASHA by hand, factor 3: the third of three errors at epoch 1 is not the best."""
    plan = replace(plan, scheduler="asha")
    study = create_study(tmp_path / "s", plan, tiny_space, data_facts())
    run_trial(study, 0.1, 0.1, 0.1)
    run_trial(study, 0.2, 0.2, 0.2)
    stopped = run_trial(study, 0.3, 0.0, 0.0)
    row = study.records.trials[stopped]
    assert (row["state"], row["reason"]) == ("PRUNED", "asha after epoch 1")
    assert row["epochs_run"] == 1
    assert study.proposer.history.ended[stopped].intermediate_values == {1: 0.3}
    study.close()


def test_a_restart_stands_where_the_last_process_stood(
    tmp_path: Path, tiny_space: Space, plan: Plan
) -> None:
    """Oracle: a study that was never interrupted, trial for trial the same: proposals, verdicts,
    tables. The one that was loses its process after every trial."""
    plan = replace(plan, scheduler="asha", sampler="tpe", trials=20)
    whole = create_study(tmp_path / "whole", plan, tiny_space, data_facts())
    broken = create_study(tmp_path / "broken", plan, tiny_space, data_facts())
    for n in range(20):
        errors = [0.1 + (n * 7 % 20) / 100 - epoch / 100 for epoch in range(3)]
        run_trial(whole, *errors)
        run_trial(broken, *errors)
        broken = restart(broken)
    drop = ["study", "started_at", "ended_at"]
    frames = [s.records.trials_table().to_pandas().drop(columns=drop) for s in (whole, broken)]
    pd.testing.assert_frame_equal(*frames)
    assert whole.records.epochs_table().equals(broken.records.epochs_table())
    assert len(frames[0]["params_lr"].unique()) == 20
    whole.close()
    broken.close()


@pytest.mark.parametrize(
    "asked",
    [
        {"sampler": "strata", "objective": "frontier", "strata": [128, 512, 2048]},
        {"sampler": "tpe", "objective": "frontier", "cost": "epoch_time_s"},
        {"sampler": "tpe", "settings": 3},
    ],
    ids=lambda asked: "-".join(map(str, asked.values())),
)
def test_a_restart_of_other_objectives(tmp_path: Path, plan: Plan, asked: dict[str, Any]) -> None:
    """Oracle: a study that was never interrupted, as above. Trials differ in the time of an epoch,
    which the ledger alone knows."""
    plan = replace(plan, scheduler="asha", trials=12, **asked)
    facts = {**data_facts(), "line": [0.3, 0.2, 0.1]}
    ex2 = loading.load_space("ex2")
    whole = create_study(tmp_path / "whole", plan, ex2, facts)
    broken = create_study(tmp_path / "broken", plan, ex2, facts)
    for n in range(12):
        for study in (whole, broken):
            issue = begin(study)
            for epoch in range(1, 4):
                said = measured(epoch, 0.1 + (n * 7 % 12) / 100 - epoch / 100)
                said["epoch_time_s"] = 1.0 + (n * 5 % 12) + epoch / 7
                if not study.report_epoch(EpochReport(issue.number, issue.attempt, **said)):
                    break
        broken = restart(broken)
    drop = ["study", "started_at", "ended_at"]
    frames = [s.records.trials_table().to_pandas().drop(columns=drop) for s in (whole, broken)]
    pd.testing.assert_frame_equal(*frames)
    assert set(frames[0]["state"]) == {"COMPLETE", "PRUNED"}
    whole.close()
    broken.close()


def test_the_frontier_of_another_cost(tmp_path: Path, plan: Plan, tiny_space: Space) -> None:
    """Oracle: by hand: of two trials of one latent size and equal epochs the one with more error is
    on the frontier of the time of an epoch, for it is the faster one; the third is neither."""
    plan = replace(plan, objective="frontier", cost="epoch_time_s")
    study = create_study(tmp_path / "s", plan, tiny_space, data_facts())
    for error, seconds in ((0.1, 3.0), (0.2, 1.0), (0.3, 2.0)):
        issue = begin(study)
        for epoch in range(1, 4):
            said = {**measured(epoch, error), "epoch_time_s": seconds}
            study.report_epoch(EpochReport(issue.number, issue.attempt, **said))
    table = study.records.trials_table().to_pandas()
    assert table["on_frontier"].tolist() == [True, True, False]
    assert table["epoch_time_s"].tolist() == [3.0, 1.0, 2.0]
    study.close()


def test_an_epoch_that_takes_too_long(tmp_path: Path, plan: Plan, tiny_space: Space) -> None:
    """Oracle: by hand: at most two seconds; the trial whose second epoch takes three is stopped
    there, and says why; a last epoch is not held against a trial that is through."""
    limited = loading.limit_space(tiny_space, ["epoch_time_s=2"])
    study = create_study(tmp_path / "s", plan, limited, data_facts())
    for times in ([1.0, 3.0], [1.0, 2.0, 9.0]):
        issue = begin(study)
        for epoch, seconds in enumerate(times, 1):
            said = {**measured(epoch, 0.1), "epoch_time_s": seconds}
            goes_on = study.report_epoch(EpochReport(issue.number, issue.attempt, **said))
        assert not goes_on
    rows = study.records.trials
    assert (rows[0]["state"], rows[0]["reason"]) == ("PRUNED", "epoch_time_s 3 is above 2")
    assert rows[1]["state"] == "COMPLETE"
    study.close()


def test_strata_without_a_line(plan: Plan) -> None:
    """Oracle: a `study.json` from elsewhere that says strata and not what they have to beat is
    refused by name, not met as a fault later."""
    plan = replace(plan, objective="frontier", sampler="strata", strata=[64, 128])
    for line in ({}, {"line": [0.1]}):
        with pytest.raises(InputError, match=r"data\.line must have one error for each"):
            load_plan({"plan": asdict(plan), "data": {**data_facts(), **line}})


def test_what_was_running_goes_on(study: Study) -> None:
    """Oracle: the same number and configuration again, a new attempt, its epochs not repeated;
    and the total stays what was asked for."""
    run_trial(study, 0.1, 0.1, 0.1)
    left = begin(study)
    study.report_epoch(EpochReport(left.number, left.attempt, **measured(1, 0.5)))
    study.mark_interrupted()
    assert study.records.trials[left.number]["reason"] == "interrupted"
    resumed = restart(study)
    again = resumed.ask()
    assert again is not None
    assert (again.number, again.config, again.seed) == (left.number, left.config, left.seed)
    assert again.attempt == 2
    assert again.checkpoints == ((1, 1, ""),)
    resumed.start_attempt(again.number, again.attempt)
    assert resumed.report_epoch(EpochReport(again.number, again.attempt, **measured(2, 0.4)))
    assert not resumed.report_epoch(EpochReport(again.number, again.attempt, **measured(3, 0.3)))
    row = resumed.records.trials[left.number]
    assert (row["state"], row["reason"], row["attempt"]) == ("COMPLETE", None, 2)
    assert row["epochs_run"] == 3
    assert [run_trial(resumed, 0.1, 0.1, 0.1) for _ in range(4)] == [2, 3, 4, 5]
    assert resumed.ask() is None
    die(resumed)


def test_an_epoch_and_its_verdict_are_one_part(study: Study) -> None:
    """Oracle: cut the ledger back part by part, as a kill at any moment would leave it: no state of
    it has a trial whose last epoch is known but not how it ended; and each can be resumed to six
    trials, each accounted for once."""
    run_trial(study, 0.3, 0.2, 0.1)
    number = run_trial(study, 0.3)
    study.fail_attempt(FailureReport(number, 1, "diverged"))
    run_trial(study, 0.2, 0.2, 0.2)
    die(study)
    parts = sorted((study.folder / "ledger").iterdir(), reverse=True)
    for part in parts:
        part.unlink()
        resumed = resume_study(study.folder, study.plan)
        for row in resumed.records.trials.values():
            assert row["state"] != "RUNNING" or (row["epochs_run"] or 0) < 3
        die(resumed)
    resumed = resume_study(study.folder, study.plan)
    assert [run_trial(resumed, 0.1, 0.1, 0.1) for _ in range(6)] == list(range(6))
    die(resumed)


def test_more_trials_for_a_finished_study(study: Study) -> None:
    """Oracle: two more than the six that there were."""
    for _ in range(6):
        run_trial(study, 0.1, 0.1, 0.1)
    more = restart(study, trials=8)
    assert [run_trial(more, 0.1, 0.1, 0.1) for _ in range(2)] == [6, 7]
    assert more.ask() is None
    assert study_json(study.folder)["plan"]["trials"] == 8
    die(more)


def test_a_trial_that_ended_stays_ended(study: Study) -> None:
    """Oracle: the process of a trial may die after its last word; the state is what was recorded
    first."""
    number = run_trial(study, 0.1, 0.1, 0.1)
    study.lose_attempt(number, 1, "process", "process lost: killed")
    assert study.records.trials[number]["state"] == "COMPLETE"


def test_events_of_an_older_attempt_are_refused(study: Study) -> None:
    """Oracle: a machine that comes back after a network cut reports for attempt 1, while attempt 2
    runs elsewhere."""
    issue = begin(study)
    study.start_attempt(issue.number, issue.attempt + 1)
    late = {"event": "epoch", "trial_number": 0, "attempt": 1, **measured(1, 0.001)}
    study.records.apply(late)
    assert study.records.trials[0]["val_mse"] is None


def test_tables_are_typed_flat_and_the_contracts(study: Study) -> None:
    """Oracle: the contract's column names; the types that pandas reads back; JSON in `config`."""
    run_trial(study, 0.3, 0.2, 0.1)
    run_trial(study, 0.3, 0.2, 0.1)
    study.close()
    trials = tables.read_trials(study.folder)
    epochs = tables.read_epochs(study.folder)
    assert set(TRIAL_COLUMNS) <= set(trials.columns)
    assert list(epochs.columns) == list(EPOCH_COLUMNS)
    params = [c for c in trials if c.startswith("params_")]
    assert {"params_lr", "params_channels_1", "params_optimizer"} <= set(params)
    assert str(trials["params_channels_1"].dtype) == "Int64"
    assert str(trials["params_lr"].dtype) == "Float64"
    assert str(trials["test_mse"].dtype) == "Float64"
    assert trials["test_mse"].isna().all()
    assert len(epochs) == 6
    config = Config.model_validate_json(trials["config"][0])
    assert config == study.space.points["base"]
    assert trials["n_images"].tolist() == [100, 100]


def test_tables_are_the_ledgers(study: Study) -> None:
    """Oracle: folding the events of the ledger anew gives the tables on disk."""
    run_trial(study, 0.3, 0.2, 0.1)
    issue = begin(study)
    study.fail_attempt(FailureReport(issue.number, issue.attempt, "x"))
    study.close()
    anew = Records("tiny", n_images=100)
    for event in read_events(study.folder / "ledger"):
        anew.apply(event)
    table = anew.trials_table().to_pandas(types_mapper=None)
    pd.testing.assert_frame_equal(table, pd.read_parquet(study.folder / "trials.parquet"))


def test_facts_of_the_base_model() -> None:
    """Oracle: the course report (1024, 4,911) and arithmetic: 3072 / 1024 = 3; colourisation
    starts from 1024 luma values, whatever the gammas."""
    known = get_architecture_columns(resolve({}))
    assert (known["latent_size"], known["n_params"], known["compression_ratio"]) == (1024, 4911, 3)
    assert (known["latent_channels"], known["latent_height"]) == (16, 8)
    assert get_architecture_columns(resolve({"task": "colourise"}))["compression_ratio"] == 1


@given(
    st.lists(
        st.tuples(
            st.sampled_from([64, 128, 256, 512]),
            st.floats(0, 1) | st.none(),
            st.sampled_from(["COMPLETE", "PRUNED", "FAIL", "RUNNING"]),
            st.sampled_from([None, None, "base", "ex2-stride"]),
        ),
        max_size=40,
    )
)
def test_kept_models(rows: list[tuple[int, float | None, str, str | None]]) -> None:
    """Oracle: brute force. The best ten of those that ended well are kept, and for each latent
    size and each named point somebody who has its least error; nobody else."""
    names = ("latent_size", "val_mse", "state", "point")
    trials = [
        {"trial_number": n, **dict(zip(names, row, strict=True))} for n, row in enumerate(rows)
    ]
    kept = select_kept_models(trials)
    good = [t for t in trials if t["state"] in ("COMPLETE", "PRUNED") and t["val_mse"] is not None]
    best = sorted(good, key=lambda t: (t["val_mse"], t["trial_number"]))
    expected = {t["trial_number"] for t in best[:10]}
    for size in {t["latent_size"] for t in good}:
        same = [t for t in best if t["latent_size"] == size]
        expected.add(same[0]["trial_number"])
    for point in ("base", "ex2-stride"):
        expected.update([t["trial_number"] for t in best if t["point"] == point][:1])
    assert kept == expected


@given(
    rows=st.lists(
        st.tuples(
            st.integers(1, 12),
            st.one_of(st.none(), st.floats(0.01, 0.1)),
            st.sampled_from(["COMPLETE", "PRUNED", "FAIL"]),
            st.sampled_from([None, None, "base"]),
        ),
        max_size=60,
    )
)
def test_kept_models_follow_each_end(
    rows: list[tuple[int, float | None, str, str | None]],
) -> None:
    """Oracle: `select_kept_models` of all trials that have ended, after each end. The records
    compare a trial only if it can be kept."""
    found = Records("s")
    at = datetime(2026, 11, 30, tzinfo=UTC)
    for number, (channels, error, state, point) in enumerate(rows):
        event = {"trial_number": number, "attempt": 1, "at": at}
        config = CONFIGS[channels]
        named = {"point": point, "params": "{}", "config": config, "seed": 0}
        found.apply({**event, "event": "created", "attempt": 0, **named})
        if error is not None:
            columns = dict.fromkeys(EPOCH_COLUMNS) | {"epoch": 1, "val_mse": error}
            found.apply({**columns, **event, "event": "epoch", "epoch_time_s": 1.0})
        ended = "FAIL" if error is None else state
        found.apply({**event, "event": "ended", "state": ended})
        assert found.kept == select_kept_models(found.trials.values())


CONFIGS = {
    n: resolve({"channels": 1, "image_size": 8, "latent_channels": n}).to_json()
    for n in range(1, 13)
}
"""Configurations of different latent sizes, as JSON."""


def test_models_not_worth_keeping_go(tmp_path: Path, tiny_space: Space, plan: Plan) -> None:
    """Oracle: of 14 trials with latent 1024 the best ten keep their models; a running trial keeps
    its files; an ended one has none."""
    study = create_study(tmp_path / "s", replace(plan, trials=20), tiny_space, data_facts())
    running = begin(study)
    checkpoints = study.folder / "checkpoints"
    write_epoch(study, running, 1)
    for n in range(1, 15):
        issue = study.ask()
        assert issue is not None
        study.start_attempt(issue.number, issue.attempt)
        for epoch in (1, 2, 3):
            files = write_epoch(study, issue, epoch)
            study.report_epoch(
                EpochReport(issue.number, issue.attempt, **measured(epoch, n / 100), **files)
            )
    left = {int(p.name) for p in (study.folder / "models").iterdir()}
    assert left == set(range(1, 11))
    assert [p.name for p in checkpoints.iterdir()] == [str(running.number)]
    study.close()


def test_a_study_is_not_overwritten(study: Study, tiny_space: Space, plan: Plan) -> None:
    """Oracle: the second `create` is refused, says what to do, and changes no file."""
    run_trial(study, 0.1, 0.1, 0.1)
    before = {p: p.read_bytes() for p in study.folder.rglob("*") if p.is_file()}
    with pytest.raises(InputError, match=r"--resume --study .* with --study NAME"):
        create_study(study.folder, plan, tiny_space, data_facts())
    assert {p: p.read_bytes() for p in study.folder.rglob("*") if p.is_file()} == before


def test_one_search_a_folder(study: Study) -> None:
    """Oracle: the second is refused while the first is open."""
    with pytest.raises(InputError, match="another process is searching here"):
        resume_study(study.folder, study.plan)


def test_a_refused_resume_changes_nothing(study: Study) -> None:
    """Oracle: `study.json` still says six trials after somebody else asked for 24 in vain."""
    with pytest.raises(InputError, match="another process is searching here"):
        resume_study(study.folder, replace(study.plan, trials=24))
    assert study_json(study.folder)["plan"]["trials"] == 6


def test_the_ledger_alone_is_enough(study: Study) -> None:
    """Oracle: everything but the ledger is deleted; the study goes on where it stood, and
    `study.json` is there again."""
    run_trial(study, 0.3, 0.2, 0.1)
    before = study_json(study.folder)
    die(study)
    for name in ("study.json", "trials.parquet", "epochs.parquet"):
        (study.folder / name).unlink()
    content = read_content(study.folder)
    assert content == before
    resumed = resume_study(study.folder, study.plan)
    assert [run_trial(resumed, 0.1, 0.1, 0.1) for _ in range(5)] == [1, 2, 3, 4, 5]
    resumed.close()
    assert study_json(study.folder) == before
    assert len(tables.read_trials(study.folder)) == 6


def test_an_epoch_said_again_is_not_judged_again(
    tmp_path: Path, tiny_space: Space, plan: Plan
) -> None:
    """Oracle: trial 0 passed the rung when it was first there; better ones came after it. Saying
    its epoch again, as a resumed trial does, does not stop it."""
    study = create_study(tmp_path / "s", replace(plan, scheduler="asha"), tiny_space, data_facts())
    first = begin(study)
    assert study.report_epoch(EpochReport(first.number, first.attempt, **measured(1, 0.5)))
    for _ in range(3):
        run_trial(study, 0.1, 0.1, 0.1)
    resumed = restart(study)
    again = begin(resumed)
    assert (again.number, again.attempt) == (first.number, 2)
    assert resumed.report_epoch(EpochReport(again.number, again.attempt, **measured(1, 0.5)))
    assert resumed.records.trials[first.number]["state"] == "RUNNING"
    die(resumed)


def test_what_a_dead_process_left_behind_goes(study: Study) -> None:
    """Oracle: a checkpoint of a trial that has ended, as a kill before the clean-up leaves it."""
    number = run_trial(study, 0.1, 0.1, 0.1)
    path = get_checkpoint_folder(study.folder, number) / "2-1.pt"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"state")
    resumed = restart(study)
    assert not path.exists()
    die(resumed)


def test_folder_that_cannot_be_written(tmp_path: Path, tiny_space: Space, plan: Plan) -> None:
    """Oracle: a file where the folder should be; the message names it and the option."""
    (tmp_path / "results").write_text("not a folder")
    with pytest.raises(InputError, match=r"results cannot be written there: .*--results"):
        create_study(tmp_path / "results" / "tiny", plan, tiny_space, data_facts())


def test_study_json_says_where_results_come_from(study: Study, tiny_space: Space) -> None:
    """Oracle: the contract of `study.json`."""
    content = study_json(study.folder)
    assert content["space"]["text"] == tiny_space.text
    assert content["data"]["fingerprint"] == "0" * 16
    assert content["plan"]["seed"] == 0
    assert {"python", "torch", "ray", "optuna", "raycae"} <= set(content["versions"])
    assert content["hardware"]["n_cpus"] >= 1
    assert content["command"]
    assert "commit" in content


def test_no_password_is_written(monkeypatch: pytest.MonkeyPatch) -> None:
    """Oracle: the command as typed, without what stands before the @."""
    url = "postgresql+psycopg://me:secret@db:5432/studies"
    monkeypatch.setattr("sys.argv", ["/usr/bin/raycae", "search", "--storage", url])
    assert get_command() == "raycae search --storage 'postgresql+psycopg://…@db:5432/studies'"
    url = "postgresql+psycopg://db/studies?user=u&password=secret&sslmode=require"
    monkeypatch.setattr("sys.argv", ["/usr/bin/raycae", "search", f"--storage={url}"])
    assert get_command() == f"raycae search '--storage={url.replace('secret', '…')}'"
    monkeypatch.setattr("sys.argv", ["/x/raycae/__main__.py", "show", "ex2"])  # python -m raycae
    assert get_command() == "raycae show ex2"


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("postgresql+psycopg://me@db/studies", "postgresql+psycopg://db/studies"),
        ("postgresql://me:sec/ret@db/studies", "postgresql://db/studies"),
        ("postgresql://me@server:secret@db:5432/studies", "postgresql://db:5432/studies"),
        ("postgresql://db/s?password=secret", "postgresql://db/s?password=…"),
        (
            "postgresql://db/s?port=1&PASSWORD=sec@ret&a=b",
            "postgresql://db/s?port=1&PASSWORD=…&a=b",
        ),
        ("postgresql://db/s?sslpassword=secret", "postgresql://db/s?sslpassword=…"),
        ("mysql+pymysql://db/s?passwd=secret", "mysql+pymysql://db/s?passwd=…"),
        ("sqlite:////data/a@b/study.db?timeout=5", "sqlite:////data/a@b/study.db?timeout=5"),
        ("s3://bucket/a@b?scheme=http", "s3://bucket/a@b?scheme=http"),
    ],
)
def test_passwords_in_urls(url: str, shown: str) -> None:
    """Oracle: by hand, from SQLAlchemy's syntax of URLs and the parameters of libpq and MySQL."""
    assert hide_password(url) == shown


def test_a_process_that_died_before_the_first_part(
    tmp_path: Path, tiny_space: Space, plan: Plan
) -> None:
    """Oracle: a folder with an empty ledger and a lease of nobody: no study, and room for one."""
    folder = tmp_path / "tiny"
    (folder / "ledger").mkdir(parents=True)
    (folder / "lease.json").write_text("{}")
    study = create_study(folder, plan, tiny_space, data_facts())
    assert begin(study).number == 0
    study.close()


def test_find_study(study: Study, tmp_path: Path) -> None:
    """Oracle: by name under the results folder or by path; else the known ones are listed."""
    assert find.find_study("tiny", tmp_path) == study.folder
    assert find.find_study(study.folder) == study.folder
    with pytest.raises(InputError, match=r"nope: no study has .* Existing studies: tiny"):
        find.find_study("nope", tmp_path)


def test_foreign_table_is_refused(tmp_path: Path) -> None:
    """Oracle: a Parquet file of something else, and a file that is none: each is named."""
    pd.DataFrame({"a": [1]}).to_parquet(tmp_path / "trials.parquet")
    with pytest.raises(InputError, match=r"trials\.parquet: this is not a table of raycae"):
        tables.read_trials(tmp_path)
    (tmp_path / "epochs.parquet").write_text("hello")
    with pytest.raises(InputError, match=r"epochs\.parquet: cannot be read as Parquet"):
        tables.read_epochs(tmp_path)
    (tmp_path / "study.json").write_text(json.dumps([])[:1])
    with pytest.raises(InputError, match=r"study\.json: cannot be read"):
        read_study(tmp_path)
