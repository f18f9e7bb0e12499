"""Studies in the formats of earlier versions are read and resumed like those of today."""

from __future__ import annotations

import json
import shutil
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from conftest import begin, data_facts, die, measured, run_trial

from raycae.report.page import render_report
from raycae.space.space import Space
from raycae.storage.files import checksum
from raycae.storage.parquet import write_parquet
from raycae.study import ledger as study_ledger
from raycae.study import tables
from raycae.study.attempt import EpochReport, FailureReport
from raycae.study.ledger import list_parts, read_events, read_part
from raycae.study.opening import create_study, resume_study
from raycae.study.plan import Plan, load_plan, read_content
from raycae.study.study import Study

LATER_OF_EVENTS = ("change", "parent", "source", "curve", "n_images", "model")
"""Columns that the parts of the first ledgers did not have. The study of this test needs none."""
TIMES = ["started_at", "ended_at"]


@pytest.fixture
def killed(tmp_path: Path, plan: Plan, tiny_space: Space, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a study that was killed: a trial of each state, and parts of two widths."""
    monkeypatch.setattr(study_ledger, "FAN", 8)
    folder = tmp_path / "today" / "tiny"
    plan = replace(plan, trials=8, sampler="tpe", scheduler="asha")
    study = create_study(folder, plan, tiny_space, data_facts())
    run_trial(study, 0.3, 0.2, 0.1)
    run_trial(study, 0.2, 0.15, 0.12)
    run_trial(study, 0.4)
    failing = begin(study)
    study.fail_attempt(FailureReport(failing.number, failing.attempt, "diverged: loss is nan"))
    running = begin(study)
    study.report_epoch(EpochReport(running.number, running.attempt, **measured(1, 0.15)))
    study.record_test_error(0, 0.11)
    study.close()
    baselines = [("0" * 16, "pca", 8, 0.02, 0.03), ("0" * 16, "pca_8x8", 12, 0.01, 0.02)]
    columns = zip(tables.BASELINE_COLUMNS.items(), zip(*baselines, strict=True), strict=True)
    table = pa.table({name: pa.array(values, kind) for (name, kind), values in columns})
    write_parquet(folder / "baselines.parquet", table)
    return folder


def remove_later_fields(content: dict[str, Any]) -> dict[str, Any]:
    """Remove the settings of a plan that have their defaults; the first studies had fewer."""
    defaults = {field.name: field.default for field in fields(Plan)}
    kept = {name: value for name, value in content["plan"].items() if value != defaults[name]}
    return {**content, "plan": kept}


def encode_older_part(table: pa.Table) -> bytes:
    """Encode a part as the first versions did: Parquet, with all columns that they had."""
    studies = [
        None if text is None else json.dumps(remove_later_fields(json.loads(text)))
        for text in table["study"].to_pylist()
    ]
    column = table.column_names.index("study")
    older = table.set_column(column, "study", pa.array(studies, pa.string()))
    buffer = pa.BufferOutputStream()
    pq.write_table(
        older.drop_columns(LATER_OF_EVENTS), buffer, write_page_checksum=True, store_schema=False
    )
    content: bytes = buffer.getvalue().to_pybytes()
    return content


def write_in_older_format(folder: Path, *, has_checksums: bool) -> None:
    """Write all files of a study as an earlier version would have written them.

    Args:
        folder: The study.
        has_checksums: Whether the names of the ledger's parts contain checksums.
    """
    for part in list_parts(folder / "ledger"):
        path = folder / "ledger" / part.name
        content = encode_older_part(read_part(path))
        path.unlink()
        digest = f"-{checksum(content)}" if has_checksums else ""
        name = f"{part.first:08d}-{part.last:08d}{digest}.parquet"
        (folder / "ledger" / name).write_bytes(content)
    for name, later in (("trials", tables.LATER), ("epochs", tables.LATER_OF_EPOCHS)):
        path = folder / f"{name}.parquet"
        write_parquet(path, pq.read_table(path).drop_columns(list(later)))
    path = folder / "baselines.parquet"
    table = pq.read_table(path)
    names = [name.replace("pca", "linear") for name in table["baseline"].to_pylist()]
    column = table.column_names.index("baseline")
    write_parquet(path, table.set_column(column, "baseline", pa.array(names)))
    path = folder / "study.json"
    path.write_text(json.dumps(remove_later_fields(json.loads(path.read_text()))))


def resume(folder: Path) -> Study:
    return resume_study(folder, load_plan(read_content(folder)))


def finish(study: Study) -> list[tuple[Any, ...]]:
    """Run what is left of a study, and return the attempts."""
    attempts = []
    while issue := study.ask():
        attempts.append((issue.number, issue.attempt, issue.config, issue.seed))
        study.start_attempt(issue.number, issue.attempt)
        first = 1 + max(study.records.epochs[issue.number], default=0)
        for epoch in range(first, 4):
            error = 0.1 + issue.number / 100 - epoch / 1000
            report = EpochReport(issue.number, issue.attempt, **measured(epoch, error))
            if not study.report_epoch(report):
                break
    return attempts


def list_events(folder: Path) -> list[dict[str, Any]]:
    """List the events of trials without their times."""
    events = read_events(folder / "ledger")
    return [{**event, "at": None} for event in events if event["trial_number"] is not None]


@pytest.mark.parametrize("has_checksums", [True, False])
def test_a_study_in_an_older_format(killed: Path, tmp_path: Path, has_checksums: bool) -> None:
    """Oracle: the same study in today's format. Its tables, events and baselines are read alike.
    Resumed, it has the same trials, repeats nothing, makes the same proposals, ends the same trials
    early, and writes the tables of today. The old parts merge with new ones."""
    older = Path(shutil.copytree(killed, tmp_path / "older" / "tiny"))
    write_in_older_format(older, has_checksums=has_checksums)
    suffixes = {path.suffix for path in (older / "ledger").iterdir()}
    assert suffixes == {".parquet"} != {path.suffix for path in (killed / "ledger").iterdir()}
    narrow = [part for part in list_parts(older / "ledger") if part.first == part.last]
    assert narrow
    folders = killed, older
    assert list_events(older) == list_events(killed)
    for read, later in (
        (tables.read_trials, tables.LATER),
        (tables.read_epochs, tables.LATER_OF_EPOCHS),
    ):
        today, other = (read(folder) for folder in folders)
        assert other[list(later)].isna().all(axis=None)
        pd.testing.assert_frame_equal(*(t.drop(columns=list(later)) for t in (today, other)))
    assert list(tables.read_baselines(older)["baseline"]) == ["pca", "pca_8x8"]  # type: ignore[index]
    pd.testing.assert_frame_equal(*map(tables.read_baselines, folders))  # type: ignore[call-overload]
    assert load_plan(read_content(older)) == load_plan(read_content(killed))
    assert "linear" not in render_report(older).partition("<body")[2].partition("<script")[0]

    studies = [resume(folder) for folder in folders]
    assert [study.notes for study in studies] == [[], []]
    assert studies[0].records.trials == studies[1].records.trials
    assert studies[0].records.epochs == studies[1].records.epochs
    attempts = [finish(study) for study in studies]
    assert attempts[0] == attempts[1]
    assert (attempts[0][0][:2], len(attempts[0])) == ((4, 2), 4)
    for study in studies:
        study.close()
    today, other = (tables.read_trials(folder).drop(columns=TIMES) for folder in folders)
    pd.testing.assert_frame_equal(today, other)
    pd.testing.assert_frame_equal(*map(tables.read_epochs, folders))
    assert list_events(older) == list_events(killed)
    assert not {part.name for part in narrow} & {path.name for path in (older / "ledger").iterdir()}
    reopened = resume(older)
    assert reopened.notes == []
    die(reopened)
