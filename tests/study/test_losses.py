"""Attempts that are lost: who counts them, when a trial goes on, when it is given up. No processes
here; tests/faults/test_faults.py does it to real ones."""

from __future__ import annotations

import time
import tracemalloc
from dataclasses import replace
from pathlib import Path

import pytest
from conftest import begin, data_facts, die, measured, run_trial, write_epoch

from raycae.execution.progress import Progress
from raycae.space import loading
from raycae.space.space import Space
from raycae.study.artifacts import get_checkpoint_folder
from raycae.study.attempt import Attempt, EpochReport, FailureReport
from raycae.study.ledger import FAN, read_events
from raycae.study.opening import create_study, resume_study
from raycae.study.plan import Plan
from raycae.study.records import HUNG, MACHINE, PROCESS
from raycae.study.study import Study


def test_a_lost_process_is_begun_again_behind_its_last_epoch(study: Study) -> None:
    """Oracle: the next attempt is the same trial with the newest two checkpoints, and what comes
    later counts the loss; new trials wait their turn."""
    first = begin(study)
    for epoch in (1, 2):
        files = write_epoch(study, first, epoch)
        study.report_epoch(EpochReport(0, 1, **measured(epoch, 0.2), **files))
    study.lose_attempt(0, 1, PROCESS, "process lost: killed")
    again = begin(study)
    assert (again.number, again.attempt, again.config) == (0, 2, first.config)
    assert [(epoch, attempt) for epoch, attempt, _ in again.checkpoints] == [(2, 1), (1, 1)]
    row = study.records.trials[0]
    assert (row["losses"], row["state"], row["attempt"]) == (1, "RUNNING", 2)
    assert not study.report_epoch(EpochReport(0, 2, **measured(3, 0.1)))
    assert (row["state"], row["losses"], row["reason"]) == ("COMPLETE", 1, None)
    assert begin(study).number == 1


@pytest.mark.parametrize("cause", [PROCESS, HUNG])
def test_the_third_loss_is_a_failure(study: Study, cause: str) -> None:
    """Oracle: three attempts, then FAIL with the last reason; the sampler is told."""
    for attempt in (1, 2, 3):
        issue = begin(study)
        assert (issue.number, issue.attempt) == (0, attempt)
        study.lose_attempt(0, attempt, cause, f"process lost: for the {attempt}. time")
    row = study.records.trials[0]
    assert (row["state"], row["losses"]) == ("FAIL", 3)
    assert row["reason"] == "lost 3 times; the last time: process lost: for the 3. time"
    assert study.proposer.history.select_recent() == {}
    assert 0 not in study.proposer.history.ended
    assert begin(study).number == 1


def test_machines_that_vanish_do_not_count(study: Study) -> None:
    """Oracle: ten machines are lost; the trial goes on, with both of its own retries left."""
    for _ in range(10):
        issue = begin(study)
        study.lose_attempt(issue.number, issue.attempt, MACHINE, "its node has died")
    issue = begin(study)
    row = study.records.trials[0]
    assert (issue.number, issue.attempt, row["losses"]) == (0, 11, 0)
    study.lose_attempt(0, 11, PROCESS, "killed")
    study.lose_attempt(begin(study).number, 12, PROCESS, "killed")
    assert row["state"] == "RUNNING"


def test_what_an_older_attempt_says_is_refused(study: Study) -> None:
    """Oracle: the trial's own words of attempt 2. The machine of attempt 1 comes back after a
    network cut: its epoch, its failure, its loss change nothing, and it is told to stop."""
    first = begin(study)
    study.lose_attempt(0, 1, MACHINE, "its node has died")
    second = begin(study)
    assert study.report_epoch(EpochReport(0, second.attempt, **measured(1, 0.2)))
    assert not study.report_epoch(EpochReport(0, first.attempt, **measured(1, 0.001)))
    study.fail_attempt(FailureReport(0, first.attempt, "diverged"))
    study.lose_attempt(0, first.attempt, PROCESS, "killed")
    row = study.records.trials[0]
    assert (row["state"], row["val_mse"], row["losses"]) == ("RUNNING", 0.2, 0)
    assert len([e for e in read_events(study.folder / "ledger") if e["event"] == "lost"]) == 1


def test_lost_before_it_began(study: Study) -> None:
    """Oracle: a process that dies while it starts counts like any other; nothing waits for it."""
    for _ in range(3):
        issue = study.ask()
        assert issue is not None
        assert issue.number == 0
        study.lose_attempt(0, issue.attempt, PROCESS, "died in its constructor")
    assert study.records.trials[0]["state"] == "FAIL"


def test_losses_are_in_the_ledger(study: Study) -> None:
    """Oracle: two losses before the driver's own end and one after it make three."""
    for _ in range(2):
        issue = begin(study)
        study.lose_attempt(0, issue.attempt, PROCESS, "killed")
    die(study)
    resumed = resume_study(study.folder, study.plan)
    issue = begin(resumed)
    resumed.lose_attempt(0, issue.attempt, PROCESS, "killed")
    assert resumed.records.trials[0]["state"] == "FAIL"
    die(resumed)


def memory_runs_out(study: Study) -> list[tuple[int | None, str]]:
    """Attempt after attempt of trial 0: what it was given, and the state it ended in."""
    seen = []
    while study.records.trials.get(0, {"state": "RUNNING"})["state"] == "RUNNING":
        issue = begin(study)
        assert issue.number == 0
        study.fail_attempt(
            FailureReport(0, issue.attempt, "out of memory: too large", out_of_memory=True)
        )
        seen.append((issue.micro_batch, study.records.trials[0]["state"]))
    return seen


def test_out_of_memory(study: Study) -> None:
    """Oracle: the base point's batch of 32 by quarters, down to one image; then FAIL. It is no loss
    of a process, and what it was tried with is recorded."""
    assert memory_runs_out(study) == [
        (None, "RUNNING"),
        (8, "RUNNING"),
        (2, "RUNNING"),
        (1, "FAIL"),
    ]
    row = study.records.trials[0]
    assert (row["losses"], row["micro_batch"], row["attempt"]) == (0, 1, 4)
    assert row["reason"] == "out of memory: too large"


def test_out_of_memory_with_batch_norm(tmp_path: Path, tiny_space: Space, plan: Plan) -> None:
    """Oracle: pieces of a minibatch would be normalised by themselves: FAIL at once."""
    text = tiny_space.text.replace("fixed: {", "fixed: {norm: batch, ")
    study = create_study(tmp_path / "s", plan, loading.parse_space(text, name="bn"), data_facts())
    assert memory_runs_out(study) == [(None, "FAIL")]
    study.close()


def test_a_hung_trial(study: Study, monkeypatch: pytest.MonkeyPatch) -> None:
    """Oracle: by hand. An epoch took 2 s: after 60 + 10 x 2 s the trial is overdue. A first epoch
    has the start on top, and is predicted from FLOPs."""
    clock = Clock(monkeypatch)
    first = begin(study)
    assert clock.passes(study, 3595) == []
    study.report_epoch(EpochReport(0, first.attempt, **{**measured(1, 0.2), "epoch_time_s": 2.0}))
    second = begin(study)
    assert clock.passes(study, 75) == []
    assert clock.passes(study, 10) == [(0, 1, "hung: no epoch in 80 s")]
    flops = [study.records.trials[n]["flops"] for n in (0, 1)]
    limit = 360 + 20 * flops[1] / flops[0]
    assert [number for number, *_ in clock.passes(study, limit - 90)] == [0]
    assert clock.passes(study, 10)[1] == (1, second.attempt, f"hung: no epoch in {limit:.0f} s")
    study.lose_attempt(0, 1, HUNG, "hung: no epoch in 80 s")
    assert [number for number, *_ in study.find_hung_attempts()] == [1]


def test_a_first_epoch_of_hours(study: Study, monkeypatch: pytest.MonkeyPatch) -> None:
    """Oracle: by hand. Nothing is known: a day. A resumed study predicts a first epoch from the
    ledger, and gives it an hour at least, because this machine may be a slower one."""
    clock = Clock(monkeypatch)
    first = begin(study)
    assert clock.passes(study, 86_395) == []
    assert clock.passes(study, 10) == [(0, first.attempt, "hung: no epoch in 86400 s")]
    study.report_epoch(EpochReport(0, first.attempt, **measured(1, 0.2)))
    die(study)
    study = resume_study(study.folder, study.plan)
    second = begin(study)
    assert clock.passes(study, 3595) == []
    assert clock.passes(study, 10) == [(0, second.attempt, "hung: no epoch in 3600 s")]
    slow = {**measured(2, 0.1), "epoch_time_s": 4200.0}
    study.report_epoch(EpochReport(0, second.attempt, **slow))
    die(study)
    study = resume_study(study.folder, study.plan)
    third = begin(study)
    assert clock.passes(study, 42_355) == []
    assert clock.passes(study, 10) == [(0, third.attempt, "hung: no epoch in 42360 s")]
    other = begin(study)
    flops = [study.records.trials[n]["flops"] for n in (0, other.number)]
    limit = 360 + 42_000 * flops[1] / flops[0]
    assert [number for number, *_ in clock.passes(study, limit - 10)] == [0]
    hung = (other.number, other.attempt, f"hung: no epoch in {limit:.0f} s")
    assert clock.passes(study, 20)[1] == hung
    die(study)


def test_waiting_for_the_storage_is_nobodys_silence(
    study: Study, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Oracle: the driver stands for two hours before a store that does not answer, so it hears
    nobody; no trial is overdue for it."""
    clock = Clock(monkeypatch)
    begin(study)
    append = study.ledger.append

    def slow(events: object) -> None:
        clock.now += 7200
        append(events)  # type: ignore[arg-type]

    monkeypatch.setattr(study.ledger, "append", slow)
    begin(study)
    assert study.find_hung_attempts() == []


class Clock:
    """The monotonic clock, moved by the test."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = time.monotonic()
        monkeypatch.setattr(time, "monotonic", lambda: self.now)

    def passes(self, study: Study, seconds: float) -> list[tuple[int, int, str]]:
        """A search looks every few seconds. Who is overdue in the end."""
        until = self.now + seconds
        while self.now < until:
            self.now = min(self.now + 5, until)
            study.find_hung_attempts()
        return study.find_hung_attempts()


def fail(study: Study, reason: str) -> None:
    issue = begin(study)
    study.fail_attempt(FailureReport(issue.number, issue.attempt, reason))


def test_every_trial_fails_alike(tmp_path: Path, tiny_space: Space, plan: Plan) -> None:
    """Oracle: five in a row for one reason (numbers aside) are a cause; a success between, or
    another reason, begins the count anew; twenty for divergence. A resumed search counts from
    nothing."""
    study = create_study(tmp_path / "s", replace(plan, trials=99), tiny_space, data_facts())
    for n in range(4):
        fail(study, f"OSError: cannot open device {n}")
    assert study.hopeless is None
    run_trial(study, 0.1, 0.1, 0.1)
    for n in range(4):
        fail(study, f"OSError: cannot open device {n}")
    fail(study, "RuntimeError: another one")
    for n in range(4):
        fail(study, f"OSError: cannot open device {n}")
    assert study.hopeless is None
    fail(study, "OSError: cannot open device 7")
    assert (
        study.hopeless
        == "5 trials in a row failed for the same reason: OSError: cannot open device 7"
    )
    die(study)
    resumed = resume_study(study.folder, study.plan)
    assert resumed.hopeless is None
    for n in range(19):
        fail(resumed, f"diverged: training loss is nan in epoch {n}")
    assert resumed.hopeless is None
    fail(resumed, "diverged: training loss is nan in epoch 3")
    assert "20 trials in a row failed for the same reason" in (resumed.hopeless or "")
    die(resumed)


def test_all_of_few_trials_fail_alike(tmp_path: Path, tiny_space: Space, plan: Plan) -> None:
    """Oracle: a study of two trials cannot have five failures."""
    study = create_study(tmp_path / "s", replace(plan, trials=2), tiny_space, data_facts())
    fail(study, "OSError: cannot open device 1")
    assert study.hopeless is None
    fail(study, "OSError: cannot open device 2")
    assert (
        study.hopeless
        == "2 trials in a row failed for the same reason: OSError: cannot open device 2"
    )
    die(study)


def test_a_loss_is_said(
    tmp_path: Path, tiny_space: Space, plan: Plan, capsys: pytest.CaptureFixture[str]
) -> None:
    """Oracle: one line that names the trial, what was lost and where it goes on."""
    listener = Progress(plan.trials, plan.epochs).listen
    study = create_study(tmp_path / "s", plan, tiny_space, data_facts(), listener)
    issue = begin(study)
    study.lose_attempt(issue.number, issue.attempt, MACHINE, "machine lost: its node has died")
    assert capsys.readouterr().err == ("trial 0: machine lost: its node has died; epochs kept: 0\n")
    die(study)


def test_two_checkpoints_and_the_best_model_stay(study: Study) -> None:
    """Oracle: by hand. Of a running trial's files those of the last two epochs and of the best one,
    whichever attempt wrote them; what an older attempt still lays down stays apart."""
    study.plan = replace(study.plan, epochs=9)
    issue = begin(study)
    for epoch, error in ((1, 0.3), (2, 0.1), (3, 0.2)):
        study.report_epoch(
            EpochReport(0, 1, **measured(epoch, error), **_files(study, issue, epoch, epoch < 3))
        )
    folder = get_checkpoint_folder(study.folder, 0)
    assert names(folder) == ["2-1.pt", "2-1.safetensors", "3-1.pt"]
    study.lose_attempt(0, 1, MACHINE, "gone")
    again = begin(study)
    write_epoch(study, issue, 4)  # the machine was only cut off
    study.report_epoch(EpochReport(0, 2, **measured(4, 0.05), **_files(study, again, 4, True)))
    expected = ["3-1.pt", "4-1.pt", "4-1.safetensors", "4-2.pt", "4-2.safetensors"]
    assert names(folder) == expected


def _files(study: Study, issue: Attempt, epoch: int, best: bool) -> dict[str, str]:
    said = write_epoch(study, issue, epoch)
    if not best:
        (get_checkpoint_folder(study.folder, 0) / f"{epoch}-{issue.attempt}.safetensors").unlink()
        del said["model"]
    return said


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize(
    "n", [120, pytest.param(5000, marks=[pytest.mark.long, pytest.mark.timeout(1800)])]
)
def test_thousands_of_trials(tmp_path: Path, tiny_space: Space, plan: Plan, n: int) -> None:
    """Oracle: simulated training, everything else real. The folder of the ledger stays a few times
    `FAN` files; Python's memory grows by less than 20 kB a trial; every trial is there after a
    restart."""
    plan = replace(plan, trials=n, scheduler="asha")
    study = create_study(tmp_path / "s", plan, tiny_space, data_facts())
    tracemalloc.start()
    before = tracemalloc.get_traced_memory()[0]
    for number in range(n):
        errors = [0.1 + (number * 7 % 101) / 1000 - epoch / 1000 for epoch in range(3)]
        run_trial(study, *errors)
    grown = tracemalloc.get_traced_memory()[0] - before
    tracemalloc.stop()
    assert len(names(study.folder / "ledger")) <= 3 * FAN
    assert grown < 20_000 * n
    study.close()
    resumed = resume_study(study.folder, plan)
    assert resumed.records.counts() == study.records.counts()
    assert sorted(resumed.records.trials) == list(range(n))
    die(resumed)
