"""State files that are damaged or gone: named, set aside, the rest used, made anew."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
from conftest import begin, data_facts, die, measured, run_trial, study_json, write_epoch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from optuna.trial import TrialState

from raycae.errors import InputError
from raycae.optimization.shared_study import require_database
from raycae.space.space import Space
from raycae.study import find
from raycae.study import ledger as study_ledger
from raycae.study.artifacts import get_checkpoint_folder, get_model_folder
from raycae.study.attempt import Attempt, EpochReport, FailureReport
from raycae.study.ledger import FAN, read_events
from raycae.study.opening import create_study, resume_study
from raycae.study.plan import Plan, read_content
from raycae.study.study import Study
from raycae.study.tables import read_trials

DAMAGE = {
    "empty": lambda content: b"",
    "half": lambda content: content[: len(content) // 2],
    "one byte short": lambda content: content[:-1],
    "one bit": lambda content: _flipped(content),
    "missing": lambda content: None,
}


def _flipped(content: bytes) -> bytes:
    changed = bytearray(content)
    changed[len(changed) // 3] ^= 4
    return bytes(changed)


def damage(path: Path, kind: str) -> bytes | None:
    """Returns what lies there now."""
    content = DAMAGE[kind](path.read_bytes())
    if content is None:
        path.unlink()
    else:
        path.write_bytes(content)
    return content


@pytest.fixture(scope="module")
def used(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A study that was killed: one trial of each state, one with its files under way, tables that
    know all of it, and parts of two widths."""
    from conftest import TINY_SPACE

    from raycae.space import loading

    study_ledger.FAN, fan = 8, FAN
    plan = Plan("tiny", "tiny", "photos", 8, 3, None, 0, "tpe", "asha")
    folder = tmp_path_factory.mktemp("used") / "tiny"
    study = create_study(folder, plan, loading.parse_space(TINY_SPACE, name="tiny"), data_facts())
    run_trial(study, 0.3, 0.2, 0.1)
    run_trial(study, 0.2, 0.15, 0.12)
    run_trial(study, 0.4)
    failing = begin(study)
    study.fail_attempt(FailureReport(failing.number, failing.attempt, "diverged: loss is nan"))
    running = begin(study)
    for epoch in (1, 2):
        files = write_epoch(study, running, epoch)
        study.report_epoch(
            EpochReport(running.number, running.attempt, **measured(epoch, 0.1 / epoch), **files)
        )
    study.record_test_error(0, 0.11)
    study.close()
    yield folder
    study_ledger.FAN = fan


@pytest.fixture
def killed(used: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(used, tmp_path / "tiny"))


def resume(folder: Path) -> Study:
    content = read_content(folder)
    return resume_study(folder, Plan(**content["plan"]))


def parts(folder: Path) -> list[str]:
    return sorted(path.name for path in (folder / "ledger").glob("0*"))


def known(study: Study) -> pd.DataFrame:
    """What a person can see of the trials, but for what only the ledger ever knew."""
    table = study.records.trials_table().to_pandas()
    return table.drop(columns=["started_at", "ended_at", "losses"])


def finish(study: Study, issue: Attempt | None = None) -> None:
    """Run what there is to run, `issue` first."""
    while issue := issue or study.ask():
        study.start_attempt(issue.number, issue.attempt)
        first = 1 + max(study.records.epochs[issue.number], default=0)
        for epoch in range(first, 4):
            if not study.report_epoch(
                EpochReport(issue.number, issue.attempt, **measured(epoch, 0.5 / epoch))
            ):
                break
        issue = None


def test_the_study_of_these_tests(used: Path) -> None:
    """Oracle: what the fixture did."""
    rows = read_trials(used)
    assert rows["state"].tolist() == ["COMPLETE", "COMPLETE", "PRUNED", "FAIL", "RUNNING"]
    widths = {int(name[9:17]) - int(name[:8]) for name in parts(used)}
    assert widths == {0, 7}


@pytest.mark.parametrize("kind", DAMAGE)
@pytest.mark.parametrize("which", [0, 1, 2, -1])
def test_a_part_of_the_ledger(killed: Path, kind: str, which: int) -> None:
    """Oracle: the undamaged study. The tables know what the part held, so nothing is lost: same
    rows, same next proposal; the part is named and kept for a person to look at; the second time
    nothing is said."""
    whole = resume(killed)
    expected, expected_epochs = known(whole), whole.records.epochs_table()
    die(whole)
    name = parts(killed)[which]
    left = damage(killed / "ledger" / name, kind)

    study = resume(killed)
    pd.testing.assert_frame_equal(known(study), expected)
    assert study.records.epochs_table().equals(expected_epochs)
    notes = "\n".join(study.notes)
    if left is not None:
        assert name in notes
        (aside,) = (killed / "ledger" / "damaged").iterdir()
        assert aside.read_bytes() == left
    elif which != -1:
        assert f"part {name[:8]} of the ledger is missing" in notes
    assert "were restored from trials.parquet" in notes or which == -1
    die(study)

    again = resume(killed)
    assert again.notes == []
    issue = again.ask()
    assert issue is not None
    assert (issue.number, issue.attempt, issue.checkpoints[0][0]) == (4, 2, 2)
    finish(again, issue)
    assert again.records.counts().total() == 8
    assert not again.running()
    die(again)


def test_every_part_by_itself(
    tmp_path: Path, tiny_space: Space, plan: Plan, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Oracle: the undamaged study. Each part holds an event or two; whichever is gone, of a trial
    that runs or has ended, the tables knew it, and the second time nothing is said."""
    monkeypatch.setattr(study_ledger, "FAN", 64)
    folder = tmp_path / "whole"
    study = create_study(folder, replace(plan, trials=8), tiny_space, data_facts())
    run_trial(study, 0.3, 0.1, 0.2)
    run_trial(study, 0.2, 0.3, 0.1)
    failing = begin(study)
    study.report_epoch(EpochReport(failing.number, failing.attempt, **measured(1, 0.5)))
    study.fail_attempt(FailureReport(failing.number, failing.attempt, "diverged: loss is nan"))
    running = begin(study)
    study.report_epoch(EpochReport(running.number, running.attempt, **measured(1, 0.4)))
    study.record_test_error(0, 0.11)
    study.close()
    expected, epochs = known(study), study.records.epochs_table()
    assert len(parts(folder)) > 15
    for number, name in enumerate(parts(folder)):
        copy = Path(shutil.copytree(folder, tmp_path / str(number)))
        (copy / "ledger" / name).unlink()
        mended = resume(copy)
        pd.testing.assert_frame_equal(known(mended), expected, obj=name)
        assert mended.records.epochs_table().equals(epochs), name
        die(mended)
        again = resume(copy)
        assert again.notes == []
        assert again.records.epochs_table().equals(epochs), name
        die(again)


@settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    st.sets(st.integers(0, 30), min_size=1, max_size=4),
    st.sampled_from(sorted(DAMAGE)),
    st.sampled_from(["kept", "gone", "damaged"]),
)
def test_any_parts_and_tables(
    used: Path, tmp_path_factory: pytest.TempPathFactory, which: set[int], kind: str, tables: str
) -> None:
    """Oracle: whatever is lost, the study can be resumed, ends with eight trials, each accounted
    for once and ended; and what any of the remaining files knew of an ended trial is unchanged."""
    folder = Path(shutil.copytree(used, tmp_path_factory.mktemp("any") / "tiny"))
    names = parts(folder)
    for name in {names[i % len(names)] for i in which}:
        damage(folder / "ledger" / name, kind)
    for name in ("trials.parquet", "epochs.parquet"):
        if tables == "gone":
            (folder / name).unlink()
        elif tables == "damaged":
            damage(folder / name, "half")
    study = resume(folder)
    before = {
        n: row["state"] for n, row in study.records.trials.items() if n not in study.running()
    }
    if tables == "kept":
        assert before == {0: "COMPLETE", 1: "COMPLETE", 2: "PRUNED", 3: "FAIL"}
    finish(study)
    assert sorted(study.records.trials) == list(range(8))
    assert not study.running()
    assert {n: study.records.trials[n]["state"] for n in before} == before
    read_events(folder / "ledger")
    study.close()
    again = resume(folder)
    assert again.notes == []
    die(again)


@pytest.mark.parametrize("kind", DAMAGE)
def test_study_json(killed: Path, kind: str) -> None:
    """Oracle: the file as it was; the ledger's first event holds it."""
    before = study_json(killed)
    left = damage(killed / "study.json", kind)
    study = resume_study(killed, Plan(**before["plan"]))
    assert study_json(killed) == before
    assert "study.json" in "".join(study.notes)
    if left is not None:
        (aside,) = (killed / "damaged").iterdir()
        assert aside.read_bytes() == left
    die(study)
    assert read_content(killed) == before


def test_neither_study_json_nor_its_event(killed: Path) -> None:
    """Oracle: nobody knows what was searched: refused, nothing is touched."""
    damage(killed / "study.json", "half")
    for name in parts(killed):
        (killed / "ledger" / name).unlink()
    before = {p: p.read_bytes() for p in killed.rglob("*") if p.is_file()}
    with pytest.raises(InputError, match=r"study\.json: cannot be read"):
        resume(killed)
    del before[killed / ".lock"]
    assert all(path.read_bytes() == content for path, content in before.items())


@pytest.mark.parametrize("name", ["trials.parquet", "epochs.parquet"])
@pytest.mark.parametrize("kind", DAMAGE)
def test_a_table(killed: Path, name: str, kind: str) -> None:
    """Oracle: the table as it was, made anew from the ledger; one that cannot be read is named."""
    expected = pd.read_parquet(killed / name)
    left = damage(killed / name, kind)
    study = resume(killed)
    study.close()
    pd.testing.assert_frame_equal(pd.read_parquet(killed / name), expected)
    if left is not None and kind != "one bit":
        assert any(name in note for note in study.notes)
        assert (killed / "damaged").exists()


@pytest.mark.parametrize("kind", DAMAGE)
def test_the_study_database(killed: Path, kind: str) -> None:
    """Oracle: the Optuna study in a SQLite file is a cache: however it is damaged, what lies there
    afterwards is what the ledger tells; a file that SQLite finds damaged is named and kept."""
    import optuna

    url = f"sqlite:///{killed / 'optuna.db'}"
    plan = Plan(**read_content(killed)["plan"])
    first = resume_study(killed, plan, database=url)
    expected = [
        (
            TrialState[row["state"]],
            json.loads(row["params"]),
            {epoch: row["val_mse"] for epoch, row in first.records.epochs[number].items()},
        )
        for number, row in first.records.trials.items()
    ]
    die(first)
    left = damage(killed / "optuna.db", kind)
    study = resume_study(killed, plan, database=url)
    seen = optuna.load_study(study_name="tiny", storage=url).trials
    assert [(t.state, t.params, t.intermediate_values) for t in seen] == expected
    assert len(seen) == 5
    if left and kind == "half":
        (aside,) = (killed / "damaged").iterdir()
        assert aside.read_bytes() == left
    assert study.ask() is not None
    die(study)


@pytest.mark.parametrize("kind", DAMAGE)
def test_a_kept_model(killed: Path, kind: str) -> None:
    """Oracle: the digest that the ledger has. The best epoch's weights are damaged before their
    trial ends: the trial is COMPLETE, its model is said to be lost, and none is laid where people
    look for one."""
    study = resume(killed)
    issue = study.ask()
    assert issue is not None
    study.start_attempt(issue.number, issue.attempt)
    damage(get_checkpoint_folder(killed, 4) / "2-1.safetensors", kind)
    study.report_epoch(EpochReport(4, issue.attempt, **measured(3, 0.2)))
    assert study.records.trials[4]["state"] == "COMPLETE"
    assert study.records.trials[4]["best_epoch"] == 2
    assert any("this model is lost" in note for note in study.notes)
    assert not get_model_folder(killed, 4).exists()
    study.close()


def test_a_model_laid_down_late(killed: Path) -> None:
    """Oracle: the process died between the ledger's word that a trial ended and the copy of its
    model. The next one makes up for it."""
    study = resume(killed)
    issue = study.ask()
    assert issue is not None
    study.start_attempt(issue.number, issue.attempt)
    keep = get_checkpoint_folder(killed, 4)
    shutil.copytree(keep, killed / "as-it-was")
    study.report_epoch(EpochReport(4, issue.attempt, **measured(3, 0.2)))
    assert (get_model_folder(killed, 4) / "model.safetensors").exists()
    die(study)
    shutil.rmtree(get_model_folder(killed, 4))
    shutil.move(killed / "as-it-was", keep)
    again = resume(killed)
    content = (get_model_folder(killed, 4) / "model.safetensors").read_bytes()
    assert content == b"safetensors of 4 after 2"
    assert not keep.exists()
    die(again)


@pytest.mark.parametrize("left", [(), ("model.safetensors",)], ids=["empty", "no config.json"])
def test_a_model_stored_in_part(killed: Path, left: tuple[str, ...]) -> None:
    """Oracle: the disk was full, or the process was killed, before `config.json`, which is written
    last. The checkpoints have the only good copy: the next process stores the model. Until then
    nobody is led to the part of it."""
    study = resume(killed)
    issue = study.ask()
    assert issue is not None
    study.start_attempt(issue.number, issue.attempt)
    keep, model = get_checkpoint_folder(killed, 4), get_model_folder(killed, 4)
    shutil.copytree(keep, killed / "as-it-was")
    study.report_epoch(EpochReport(4, issue.attempt, **measured(3, 0.2)))
    die(study)
    shutil.move(killed / "as-it-was", keep)
    for path in list(model.iterdir()):
        if path.name not in left:
            path.unlink()
    assert find.list_trials_with_model(killed) == []
    again = resume(killed)
    assert (model / "model.safetensors").read_bytes() == b"safetensors of 4 after 2"
    assert json.loads((model / "config.json").read_bytes())["trial_number"] == 4
    assert find.list_trials_with_model(killed) == [4]
    assert not keep.exists()
    assert again.notes == []
    die(again)


def test_what_lies_about_goes(killed: Path) -> None:
    """Oracle: a writer died before its rename; a folder of files of a trial that has ended."""
    torn = killed / "ledger" / ".00000011-00000011.jsonl.ab12cd34"
    torn.write_bytes(b"half")
    old = get_checkpoint_folder(killed, 0)
    old.mkdir(parents=True)
    (old / "2-1.pt").write_bytes(b"state")
    study = resume(killed)
    assert not torn.exists()
    assert not old.exists()
    die(study)


def test_a_copied_and_a_moved_folder(used: Path, tmp_path: Path) -> None:
    """Oracle: the original. A copy goes on though the original is held by a living process; a
    moved one goes on where it is."""
    held = Path(shutil.copytree(used, tmp_path / "held"))
    holder = resume(held)
    copy = Path(shutil.copytree(held, tmp_path / "copy"))
    study = resume(copy)
    assert known(study).equals(known(holder))
    finish(study)
    study.close()
    die(holder)
    moved = held.rename(tmp_path / "moved")
    study = resume(moved)
    issue = study.ask()
    assert issue is not None
    assert (issue.number, issue.checkpoints[0][0]) == (4, 2)
    assert (get_checkpoint_folder(study.folder, 4) / "2-1.pt").exists()
    study.close()


def test_a_study_of_an_older_version(killed: Path) -> None:
    """Oracle: parts without the columns that came later are parts, not damage."""
    import pyarrow.parquet as pq

    for name in parts(killed):
        path = killed / "ledger" / name
        table = study_ledger.read_part(path)
        later = {"checkpoint", "model", "cause", "micro_batch"}
        table = table.drop_columns([column for column in table.column_names if column in later])
        pq.write_table(table, path.with_name(f"{name[:17]}.parquet"))
        path.unlink()
    study = resume(killed)
    assert study.notes == []
    assert study.records.counts()["COMPLETE"] == 2
    die(study)


def test_resume_with_another_space(killed: Path, tiny_space: Space) -> None:
    """Oracle: trials drawn from the old text teach the sampler as far as the new one has their
    parameters in range; what was running goes on with its own settings; the text is recorded."""
    from raycae.space import loading

    text = tiny_space.text.replace("high: 8, per", "high: 24, per").replace(
        "high: 1.0e-2", "high: 3.0e-3"
    )
    wider = loading.parse_space(
        text.replace("  base: {}", "  base: {}\n  wide: {channels: 20}"), name="wider"
    )
    plan = Plan(**read_content(killed)["plan"])
    study = resume_study(killed, plan, space=wider)
    states = [row["state"] for row in study.records.trials.values()]
    assert states == ["COMPLETE", "COMPLETE", "PRUNED", "FAIL", "RUNNING"]
    ended = study.proposer.history.ended
    assert [ended[number].state.name for number in ended] == ["COMPLETE", "COMPLETE", "PRUNED"]
    told = [*ended.values(), *study.proposer.history.select_recent().values()]
    assert all("channels_1" in t.params for t in told)
    assert all(t.params.get("lr", 0) <= 3e-3 for t in told)
    again = study.ask()
    assert again is not None
    assert again.number == 4
    point = study.ask()
    assert point is not None
    assert study.records.trials[point.number]["point"] == "wide"
    assert study_json(killed)["space"]["text"] == wider.text
    die(study)
    anew = resume(killed)
    assert anew.space.name == "wider"
    die(anew)


def test_a_plan_that_grew_is_in_the_ledger(killed: Path) -> None:
    """Oracle: --trials +4, then `study.json` is lost: the total is still twelve."""
    plan = Plan(**read_content(killed)["plan"])
    die(resume_study(killed, replace(plan, trials=12)))
    (killed / "study.json").unlink()
    assert read_content(killed)["plan"]["trials"] == 12


def test_a_plan_that_grew_and_whose_event_is_damaged(killed: Path) -> None:
    """Oracle: --trials +4, then a bit of just that part flips: `study.json` knows."""
    plan = Plan(**read_content(killed)["plan"])
    die(resume_study(killed, replace(plan, trials=12)))
    damage(killed / "ledger" / parts(killed)[-1], "one bit")
    study = resume(killed)
    assert study.plan.trials == 12
    die(study)
    again = resume(killed)
    assert (again.plan.trials, again.notes) == (12, [])
    die(again)


def test_foreign_tables_teach_nothing(killed: Path, tmp_path: Path, tiny_space: Space) -> None:
    """Oracle: the five trials that there were, though tables of another study lie in the folder."""
    plan = replace(Plan(**read_content(killed)["plan"]), study="other")
    other = create_study(tmp_path / "other", plan, tiny_space, data_facts())
    for _ in range(7):
        run_trial(other, 0.1, 0.1, 0.1)
    other.close()
    for name in ("trials.parquet", "epochs.parquet"):
        shutil.copy(tmp_path / "other" / name, killed / name)
    study = resume(killed)
    assert study.records.counts().total() == 5
    die(study)


@pytest.mark.parametrize("url", ["u:secret@127.0.0.1:1/x", "127.0.0.1:1/x?user=u&password=secret"])
def test_a_database_without_a_server(url: str) -> None:
    """Oracle: one message that names the option and the address, and not the password."""
    with pytest.raises(InputError, match="--storage postgresql") as caught:
        require_database(f"postgresql+psycopg://{url}")
    assert "secret" not in str(caught.value)
    with pytest.raises(InputError, match="--storage nonsense"):
        require_database("nonsense")
    json.dumps(str(caught.value))
