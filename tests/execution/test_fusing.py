"""Searches whose trials train in cohorts: each is a trial like any other.

What a cohort learns is held against single trials in tests/training/test_fused.py.
"""

from __future__ import annotations

import os
import signal
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from conftest import Run, data_facts, measured
from searches import Running, a_trainable, command, epochs_so_far, trials_of, wait_for

from raycae import data
from raycae.config import Config
from raycae.errors import StorageError
from raycae.execution.interrupts import StopRequest
from raycae.execution.progress import Progress
from raycae.execution.progress_callback import SearchProgress, add_callback
from raycae.execution.tune_adapter import PENDING_S, StudyCallback, StudySearcher, StudyStopper
from raycae.execution.tune_adapter import SearchState as Books
from raycae.model import weights
from raycae.model.architecture import build_architecture, fusion_key
from raycae.space import loading
from raycae.study import tables
from raycae.study.attempt import EpochReport, FailureReport, Report
from raycae.study.ledger import Ledger
from raycae.study.opening import create_study
from raycae.study.plan import Plan
from raycae.study.records import PROCESS
from raycae.training.device import put_on_device
from raycae.training.trainer import Training

SPACE = """
task: reconstruct
data: photos
budget: {trials: 12, epochs: 3, limit: 400}
params:
  channels: {type: int, low: 4, high: 8, per: stage}
  lr: {type: float, low: 1.0e-3, high: 1.0e-2, log: true}
  optimizer: {type: categorical, choices: [adam, sgd]}
  batch_size: {type: categorical, choices: [32, 64]}
"""


@pytest.fixture
def space_path(tmp_path: Path) -> Path:
    path = tmp_path / "tiny.yaml"
    path.write_text(SPACE)
    return path


class Actor:
    """Of a Tune trial: what it was told."""

    def __init__(self) -> None:
        self.left: list[int] = []
        self.drop_trial = SimpleNamespace(remote=self.left.append)
        self.configs: list[Any] = []
        self.reset_config = SimpleNamespace(remote=self.configs.append)


class Driver:
    """A study behind Tune's three interfaces, without Tune; `places` processes. Unless
    `continues`, each of them ends with its attempts."""

    def __init__(
        self, folder: Path, *, fuse: int, places: int = 40, continues: bool = False, **plan: Any
    ) -> None:
        asked = Plan("s", "tiny", "photos", 12, 3, None, 0, "random", "none", **plan)
        self.study = create_study(
            folder, asked, loading.parse_space(SPACE, name="tiny"), data_facts()
        )
        self.books = Books(self.study, lambda: False, Progress(12, 3))
        self.searcher = StudySearcher(self.books, {}, lambda: places, fuse)
        more = self.searcher.continue_worker if continues else lambda trial: False
        self.stopper, self.callback = StudyStopper(self.books, more), StudyCallback(self.books)

    def start(self, trial_id: str = "") -> Any:
        config = self.searcher.suggest(trial_id)
        assert isinstance(config, dict)
        state = SimpleNamespace(ray_actor=Actor())
        trial = SimpleNamespace(
            config=config, temporary_state=state, error_file=None, trial_id=trial_id
        )
        self.callback.on_trial_start(0, [], trial)
        return trial

    def say(self, trial: Any, *numbers: int, **failed: Any) -> bool:
        """An epoch of these trials. True: the process is done."""
        reports: list[Report] = []
        for attempt in trial.config["attempts"]:
            if attempt.number in numbers:
                identity = attempt.number, attempt.attempt
                epochs = len(self.study.records.epochs[attempt.number])
                reports.append(
                    FailureReport(*identity, **failed)
                    if failed
                    else EpochReport(*identity, elapsed_s=1.0, **measured(epochs + 1, 0.1))
                )
        return self.stopper(trial.trial_id, {"reports": reports})


def numbers_of(trial: Any) -> list[int]:
    return [attempt.number for attempt in trial.config["attempts"]]


def test_who_trains_together(tmp_path: Path) -> None:
    """Oracle: 12 trials are three networks with four settings each. A process gets trials of one
    network and batch size, never more than asked for; all are handed out once, and no network is
    asked for before the one before it has been handed out, but for one proposal."""
    driver = Driver(tmp_path / "s", fuse=3, settings=4)
    handed_out: list[int] = []
    while len(handed_out) < 12:
        attempts = driver.start().config["attempts"]
        assert len({fusion_key(attempt.config) for attempt in attempts}) == 1
        assert 1 <= len(attempts) <= 3
        handed_out += [attempt.number for attempt in attempts]
        assert len(driver.study.records.trials) <= len(handed_out) + 4
    assert sorted(handed_out) == list(range(12))
    rows = driver.study.records.trials.values()
    kinds = {fusion_key(Config.model_validate_json(row["config"])) for row in rows}
    assert len({build_architecture(Config.model_validate_json(row["config"])) for row in rows}) == 3
    assert len(kinds) > 3
    driver.study.close()


def test_without_fusing_each_is_alone(tmp_path: Path) -> None:
    """Oracle: one trial a process, and none asked for before there is a place for it."""
    driver = Driver(tmp_path / "s", fuse=1, settings=4)
    for number in range(3):
        assert numbers_of(driver.start()) == [number]
        assert len(driver.study.records.trials) == number + 1
    driver.study.close()


def test_one_leaves_and_the_others_go_on(tmp_path: Path) -> None:
    """Oracle: who failed or has run to its end is over in the ledger; the process is told of those
    that left while others go on, and is done with the last one."""
    driver = Driver(tmp_path / "s", fuse=4, settings=12)
    trial = driver.start()
    first, *others = numbers_of(trial)
    assert len(others) >= 1
    assert not driver.say(trial, first, *others)
    assert not driver.say(trial, *others)
    driver.stopper(
        "",
        {
            "reports": [
                FailureReport(first, 1, "diverged: it is"),
                EpochReport(others[0], 1, **measured(3, 0.1)),
            ][: 1 + (len(others) == 0)]
        },
    )
    states = {n: row["state"] for n, row in driver.study.records.trials.items()}
    assert states[first] == "FAIL"
    assert states[others[0]] == "RUNNING"
    assert driver.say(trial, *others)
    assert {driver.study.records.trials[n]["state"] for n in others} == {"COMPLETE"}
    driver.study.close()


def test_a_lost_process_loses_all_that_it_trained(tmp_path: Path) -> None:
    """Oracle: every trial of it that had not ended counts one loss and goes on, alone, from its own
    checkpoints; what had ended stays."""
    driver = Driver(tmp_path / "s", fuse=4, settings=12)
    trial = driver.start()
    first, *others = numbers_of(trial)
    for _ in range(2):
        driver.say(trial, first, *others)
    both = [
        EpochReport(first, 1, **measured(3, 0.1)),
        *(EpochReport(n, 1, **measured(2, 0.1)) for n in others),
    ]
    assert not driver.stopper("", {"reports": both})
    assert trial.temporary_state.ray_actor.left == [first]
    driver.callback.on_trial_error(0, [], trial)
    rows = driver.study.records.trials
    assert rows[first]["state"] == "COMPLETE"
    assert all((rows[n]["losses"], rows[n]["state"]) == (1, "RUNNING") for n in others)
    assert all(rows[n]["reason"].startswith(f"{PROCESS} lost") for n in others)
    again: list[int] = []
    while set(again) < set(others):
        attempts = driver.start().config["attempts"]
        if attempts[0].attempt == 2:
            assert len(attempts) == 1
            again.append(attempts[0].number)
    assert sorted(again) == sorted(others)
    driver.study.close()


def test_a_worker_goes_on_with_the_next_trial(tmp_path: Path) -> None:
    """Oracle: by hand. Two processes train twelve trials of three epochs without ending in between;
    each next attempt reaches the process as a config, and is in the ledger as started. The one that
    finds nothing left ends, and so does the other."""
    driver = Driver(tmp_path / "s", fuse=1, places=2, continues=True, settings=1)
    trials = [driver.start("a"), driver.start("b")]
    assert driver.searcher.suggest("c") is None
    handed_out = [numbers_of(trial) for trial in trials]
    ended = [False, False]
    while not all(ended):
        for i, trial in enumerate(trials):
            if not ended[i]:
                before = numbers_of(trial)
                ended[i] = driver.say(trial, *before)
                if numbers_of(trial) != before:
                    handed_out.append(numbers_of(trial))
    assert handed_out == [[number] for number in range(12)]
    configs = [trial.temporary_state.ray_actor.configs for trial in trials]
    assert [len(c) for c in configs] == [5, 5]
    assert [c[-1]["attempts"] for c in configs] == [trial.config["attempts"] for trial in trials]
    events = driver.study.journal._ledger.read()
    assert sum(event["event"] == "started" for event in events) == 12
    assert driver.study.records.counts()["COMPLETE"] == 12
    driver.study.close()


def test_the_end_of_a_trial_and_the_next_start_are_one_part(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Oracle: by hand. What ends one trial and begins the next is written at once. Before that the
    checkpoints are there and the process knows of nothing new; after it the checkpoints are gone.
    """
    driver = Driver(tmp_path / "s", fuse=1, places=1, continues=True, settings=1)
    trial = driver.start("a")
    checkpoints = tmp_path / "s" / "checkpoints" / "0"
    checkpoints.mkdir(parents=True)
    ledger, configs = driver.study.ledger, trial.temporary_state.ray_actor.configs
    append, written = ledger.append, []

    def watch(events: Any) -> None:
        written.append([event["event"] for event in events])
        assert checkpoints.exists() == (len(written) < 4)
        assert configs == []
        append(events)

    monkeypatch.setattr(ledger, "append", watch)
    assert [driver.say(trial, 0) for _ in range(3)] == [False, False, False]
    assert written == [["epoch"], ["epoch"], ["epoch", "ended", "created", "started"]]
    assert not checkpoints.exists()
    assert [numbers_of(SimpleNamespace(config=config)) for config in configs] == [[1]]
    driver.study.close()


def test_nothing_follows_a_part_that_is_not_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Oracle: the disk is full at the end of a trial. Its checkpoints stay, for it resumes; its
    process ends without a next trial; the search has a fault, and no trial counts as running."""
    driver = Driver(tmp_path / "s", fuse=1, places=1, continues=True, settings=1)
    trial = driver.start("a")
    checkpoints = tmp_path / "s" / "checkpoints" / "0"
    checkpoints.mkdir(parents=True)
    assert [driver.say(trial, 0) for _ in range(2)] == [False, False]
    before = driver.study.ledger.read()

    def refuse(events: Any) -> None:
        raise StorageError("no space left")

    with monkeypatch.context() as patch:
        patch.setattr(driver.study.ledger, "append", refuse)
        assert driver.say(trial, 0)
    assert isinstance(driver.books.fault, StorageError)
    assert driver.books.running == {}
    assert checkpoints.exists()
    assert trial.temporary_state.ray_actor.configs == []
    assert driver.study.ledger.read() == before
    driver.study.broken = True
    driver.study.close()


def test_a_fused_group_reports_in_one_part(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Oracle: the events that the ledger gets: those of all members at once. A member that fails
    leaves its process after the ledger has it."""
    driver = Driver(tmp_path / "s", fuse=3, places=1, settings=12)
    trial = driver.start("a")
    first, *others = numbers_of(trial)
    append, written = driver.study.ledger.append, []

    def watch(events: Any) -> None:
        written.append([(event["event"], event["trial_number"]) for event in events])
        assert trial.temporary_state.ray_actor.left == []
        append(events)

    monkeypatch.setattr(driver.study.ledger, "append", watch)
    reports = [
        FailureReport(first, 1, "diverged: nan"),
        *(EpochReport(n, 1, elapsed_s=1.0, **measured(1, 0.1)) for n in others),
    ]
    assert not driver.stopper("a", {"reports": reports})
    assert written == [[("ended", first), *(("epoch", n) for n in others)]]
    assert trial.temporary_state.ray_actor.left == [first]
    driver.study.close()


def test_the_ledger_has_what_a_callback_is_told(tmp_path: Path) -> None:
    """Oracle: whenever the caller's function hears of an event, a reader of the ledger finds it."""
    driver = Driver(tmp_path / "s", fuse=1, places=1, continues=True, settings=1)
    heard = []

    def check(progress: SearchProgress) -> None:
        events = driver.study.ledger.read()
        found = [(event["event"], event["trial_number"]) for event in events]
        assert (progress.event, progress.trial_number) in found
        heard.append((progress.event, progress.trial_number))

    stop = StopRequest()
    add_callback(driver.study, check, stop)
    trial = driver.start("a")
    for _ in range(3):
        driver.say(trial, *numbers_of(trial))
    assert stop.error is None
    assert heard == [("started", 0), *[("epoch", 0)] * 3, ("ended", 0), ("started", 1)]
    driver.study.close()


def test_a_worker_ends_where_fewer_may_run(tmp_path: Path) -> None:
    """Oracle: of two processes one ends with its trial as soon as only one may run; the other goes
    on. A lost process takes the trial with it that it was given last."""
    driver = Driver(tmp_path / "s", fuse=1, places=2, continues=True, settings=1)
    places = [2]
    driver.searcher._count_slots = lambda: places[0]
    first, second = driver.start("a"), driver.start("b")
    places[0] = 1
    assert [driver.say(first, 0) for _ in range(3)] == [False, False, True]
    driver.searcher.on_trial_complete("a")
    assert [driver.say(second, 1) for _ in range(3)] == [False, False, False]
    assert numbers_of(second) == [2]
    driver.callback.on_trial_error(0, [], second)
    assert driver.study.records.trials[2]["losses"] == 1
    assert driver.study.records.trials[1]["state"] == "COMPLETE"
    driver.study.close()


def test_a_worker_ends_for_a_trial_that_waits(tmp_path: Path) -> None:
    """Oracle: three may run, and Ray has room for two. The third trial was handed out and waits, so
    the first process that is free ends, and Tune gives it that trial; it takes no newer one."""
    driver = Driver(tmp_path / "s", fuse=1, places=3, continues=True, settings=1)
    first = driver.start("a")
    driver.start("b")
    waiting = driver.searcher.suggest("c")
    assert isinstance(waiting, dict)
    driver.books.pending["c"] -= PENDING_S
    assert [driver.say(first, 0) for _ in range(3)] == [False, False, True]
    assert first.temporary_state.ray_actor.configs == []
    assert len(driver.study.records.trials) == 3
    driver.study.close()


def test_a_killed_worker_gets_no_new_trial(tmp_path: Path) -> None:
    """Oracle: the last report of a process comes after it was killed as hung. Its trial is over,
    and the next one is not lost with it."""
    driver = Driver(tmp_path / "s", fuse=1, places=1, continues=True, settings=1)
    trial = driver.start("a")
    driver.books.hung[0, 1] = "hung: no epoch in 60 s"
    assert [driver.say(trial, 0) for _ in range(3)] == [False, False, True]
    assert list(driver.study.records.trials) == [0]
    driver.study.close()


def test_what_is_held_is_in_no_table_and_not_written_without_the_lease(tmp_path: Path) -> None:
    """Oracle: the parts of the ledger and the table. Inside the block neither has the events; after
    the lease was lost inside it, the ledger never gets them."""
    driver = Driver(tmp_path / "s", fuse=1, settings=1)
    study, journal = driver.study, driver.study.journal
    before = journal._ledger.read()
    journal._tables_at = -1000.0  # The tables are due.

    def lose_the_lease() -> None:
        with journal.write_as_one_part():
            assert study.ask() is not None
            assert journal._ledger.read() == before
            assert not (tmp_path / "s" / "trials.parquet").exists()
            study._lease._lost = True

    with pytest.raises(StorageError, match="taken this study over"):
        lose_the_lease()
    assert journal._ledger.read() == before
    study.broken = True
    study.close()


def test_nothing_is_written_or_done_after_events_that_could_not_be_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Oracle: the parts of the ledger, the table and the actions. A part is refused once: the disk
    was full. Later parts and the tables would rest on its events, so they are not written, although
    there is room again, and what waited for the ledger is not done."""
    driver = Driver(tmp_path / "s", fuse=1, settings=1)
    study, journal = driver.study, driver.study.journal
    before = journal._ledger.read()
    journal._tables_at = -1000.0  # The tables are due.
    done: list[str] = []

    def write(what: str) -> None:
        with journal.write_as_one_part():
            study.ask()
            journal.run_when_written(lambda: done.append(what))

    def refuse(_: object) -> None:
        raise StorageError("No space left on device")

    with monkeypatch.context() as full:
        full.setattr(journal._ledger, "append", refuse)
        with pytest.raises(StorageError, match="No space left"):
            write("first")
    with pytest.raises(StorageError, match="an earlier event could not be written"):
        write("second")
    journal.run_when_written(lambda: done.append("third"))
    study.mark_interrupted()
    study.close()
    assert done == []
    assert Ledger(tmp_path / "s" / "ledger").read() == before
    assert not (tmp_path / "s" / "trials.parquet").exists()


def test_a_report_without_the_lease_writes_no_table(tmp_path: Path) -> None:
    """Oracle: the ledger and the table. The study belongs to another process when a report comes:
    it is a fault of the search, and neither has anything of it, though the tables are due."""
    driver = Driver(tmp_path / "s", fuse=1, settings=1)
    driver.start("a")
    study = driver.study
    before, table = study.journal._ledger.read(), tmp_path / "s" / "trials.parquet"
    table.unlink()
    study.journal._tables_at = -1000.0
    study._lease._lost = True
    assert driver.stopper("a", {"reports": [EpochReport(0, 1, **measured(1, 0.1))]})
    assert isinstance(driver.books.fault, StorageError)
    study.close()
    assert Ledger(tmp_path / "s" / "ledger").read() == before
    assert not table.exists()


def test_a_late_report_of_a_hung_worker_gives_it_nothing(tmp_path: Path) -> None:
    """Oracle: a process was ended as hung and its trial handed out again. Its late report neither
    ends the new attempt nor takes another trial."""
    driver = Driver(tmp_path / "s", fuse=1, places=1, continues=True, settings=1)
    hung = driver.start("a")
    driver.callback.on_trial_error(0, [], hung)
    driver.searcher.on_trial_complete("a")
    new = driver.start("b")
    assert numbers_of(new) == [0]
    assert driver.stopper("a", {"reports": [EpochReport(0, 1, **measured(1, 0.1))]})
    assert hung.temporary_state.ray_actor.configs == []
    assert driver.books.running == {0: new}
    driver.study.close()


@pytest.mark.parametrize("out_of_memory", [True, False])
def test_a_fault_of_a_cohort_is_not_its_members(tmp_path: Path, out_of_memory: bool) -> None:
    """Oracle: where torch cannot train twelve as one, none of them has failed: each comes back,
    alone, with whole minibatches and without a loss, and the search is not hopeless. One that is
    handed out again is handed out once, though its process is lost, too, later."""
    driver = Driver(tmp_path / "s", fuse=12, settings=12)
    trial = driver.start()
    numbers = numbers_of(trial)
    fault = {"reason": "RuntimeError: no kernel", "is_fused": True, "out_of_memory": out_of_memory}
    assert driver.say(trial, *numbers, **fault)
    assert driver.study.hopeless is None
    driver.callback.on_trial_error(0, [], trial)
    rows = driver.study.records.trials
    assert {(rows[n]["state"], rows[n]["losses"], rows[n]["micro_batch"]) for n in numbers} == {
        ("RUNNING", 0, None)
    }
    again = []
    while len(again) < len(numbers):
        attempts = driver.start().config["attempts"]
        if attempts[0].attempt > 1:
            assert len(attempts) == 1
            again.append(attempts[0].number)
    assert sorted(again) == sorted(numbers)
    driver.study.close()


@pytest.mark.ray
@pytest.mark.timeout(600)
def test_fused_and_alone_tell_the_same_story(
    space_path: Path, tmp_path: Path, small_ray: dict[str, str]
) -> None:
    """Oracle: the proposals of a study that nobody fuses, and each of them trained alone in this
    process. A search in cohorts makes the same proposals, with errors that are equal up to
    rounding, and leaves models that can be loaded. One worker is killed in the middle of it;
    nothing is lost."""
    more = ["--settings", "4", "--sampler", "random", "--scheduler", "none", "--trials", "8"]
    with Running(command(space_path, tmp_path, *more, "--fuse", "4"), small_ray) as search:
        wait_for(lambda: epochs_so_far(tmp_path / "tiny") >= 2)
        os.kill(a_trainable(), signal.SIGKILL)
        done = search.end()
    assert done.returncode == 0, done.stderr
    trials = trials_of(tmp_path / "tiny")
    assert set(trials["state"]) == {"COMPLETE"}
    assert trials["losses"].sum() >= 1
    plain = Driver(tmp_path / "plain", fuse=1, settings=4)
    for _ in range(8):
        plain.start()
    proposed = [row["config"] for row in plain.study.records.trials.values()]
    plain.study.close()
    assert trials["config"].tolist() == proposed

    images = data.load("photos", image_size=32, limit=400, seed=0)
    train, val = (
        put_on_device(pixels, torch.device("cpu")) for pixels in (images.train, images.val)
    )
    epochs = tables.read_epochs(tmp_path / "tiny").sort_values(["trial_number", "epoch"])
    for number, text in enumerate(proposed):
        alone = Training(Config.model_validate_json(text), train, val, epochs=3)
        curve = [alone.run_epoch()["val_mse"] for _ in range(3)]
        told = epochs.loc[epochs["trial_number"] == number, "val_mse"]
        np.testing.assert_allclose(told, curve, rtol=2e-3)
        assert trials["val_ssim"].iloc[number] == pytest.approx(alone.val_ssim(), abs=2e-3)
    kept = list((tmp_path / "tiny" / "models").iterdir())
    assert kept
    for folder in kept:
        _, config = weights.load_model(folder)
        assert config.to_json() in proposed


@pytest.mark.parametrize("told", ["1", "0", "-3", "many", "2.5"])
def test_wrong_fuse(run: Run, told: str) -> None:
    """Oracle: exit code 2 and one message that names the option, the value and what is allowed."""
    code, _, err = run("search", "--fuse", told)
    assert code == 2
    assert err == f"raycae: --fuse {told}: expected auto, off or a whole number from 2 to 9999\n"
