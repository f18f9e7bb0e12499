"""Faults done to the real processes of a search: driver, trials, their memory, the clock."""

from __future__ import annotations

import json
import os
import random
import shlex
import signal
import subprocess
import time
from collections import Counter
from itertools import pairwise
from pathlib import Path

import pandas as pd
import pytest
from conftest import TINY_SPACE, Run, train_all
from databases import PostgreSQL
from databases import available as no_postgresql
from forked import Forked
from searches import (
    a_trainable,
    command,
    drop_waiting_notes,
    epochs_so_far,
    start,
    trainables,
    trials_of,
    wait_for,
)
from searches import run as run_process

from raycae.data import Images
from raycae.execution import runner
from raycae.study import plan, tables
from raycae.study.artifacts import get_checkpoint_folder
from raycae.study.attempt import FailureReport
from raycae.study.ledger import Ledger, read_events
from raycae.study.study import Study

pytestmark = [pytest.mark.ray, pytest.mark.timeout(600)]

QUIET = "from raycae.study import watchdog; watchdog.QUIET_LEAST_S = 10.0"
"""A hung trial is found out in the time that a test has, and no other one on a busy machine."""


def set_up_workers(hook: str) -> str:
    """Return what a driver runs first so that each worker process runs `hook` first."""
    support = str(Path(__file__).parents[1] / "support")
    return f"""
import ray
ray.init(
    address="auto", log_to_driver=False, logging_level="ERROR",
    runtime_env={{
        "worker_process_setup_hook": {hook!r}, "env_vars": {{"PYTHONPATH": {support!r}}}
    }},
)
"""


WRONG_CLOCK = """
import datetime, pathlib, time
from raycae.study import ledger
clock, right = pathlib.Path({!r}), time.time
time.time = lambda: right() + float(clock.read_text() or 0)
ledger.get_time = lambda: datetime.datetime.fromtimestamp(time.time(), datetime.UTC)
"""


def end(process: subprocess.Popen[str] | Forked, seconds: float = 300) -> tuple[str, str]:
    out, err = process.communicate(timeout=seconds)
    return out, drop_waiting_notes(err)


def seen_by_a_reader(folder: Path) -> set[tuple[int, int]]:
    """(trial, epoch) of every epoch that the tables show, now."""
    try:
        epochs = tables.read_epochs(folder)
    except Exception:
        return set()
    return set(zip(epochs["trial_number"], epochs["epoch"], strict=True))


def epochs_said(folder: Path) -> Counter[tuple[int, int]]:
    events = read_events(folder / "ledger")
    return Counter((e["trial_number"], e["epoch"]) for e in events if e["event"] == "epoch")


def wait_for_epochs(folder: Path, n: int) -> None:
    wait_for(lambda: epochs_so_far(folder) >= n)


class Kills:
    """A search that is killed again and again and resumed until it is done."""

    def __init__(self, arguments: list[str], folder: Path, env: dict[str, str]) -> None:
        self.arguments, self.folder, self.env = arguments, folder, env
        self.shown: set[tuple[int, int]] = set()
        self.running_at_kills = 0

    def kill(self, after_s: float) -> None:
        """Start or resume, kill -9 the driver so long after its first new event."""
        before = self._parts()
        process = start(self.command(), self.env)
        wait_for(lambda: self._parts() != before or process.poll() is not None)
        until = time.monotonic() + after_s
        while time.monotonic() < until and process.poll() is None:
            self.shown |= seen_by_a_reader(self.folder)
            time.sleep(0.02)
        process.kill()
        end(process)
        self.count_running()

    def count_running(self) -> None:
        """Trials that have not ended: each may repeat an epoch."""
        if not self._parts():
            return
        rows = pd.DataFrame(read_events(self.folder / "ledger"))
        ended = set(rows[rows["event"] == "ended"]["trial_number"])
        started = set(rows[rows["event"] == "started"]["trial_number"])
        self.running_at_kills += len(started - ended)

    def finish(self) -> pd.DataFrame:
        done = run_process(self.command(), self.env)
        assert done.returncode == 0, done.stderr
        assert done.stderr == ""
        return trials_of(self.folder)

    def command(self) -> list[str]:
        return [*self.arguments, *(["--resume"] if self._parts() else [])]

    def _parts(self) -> set[str]:
        parts = (self.folder / "ledger").glob("0*")
        return {path.name for path in parts}


@pytest.mark.parametrize(
    ("n_kills", "database"),
    [
        (1, "postgresql if installed"),
        pytest.param(20, "none", marks=[pytest.mark.long, pytest.mark.timeout(1800)]),
        pytest.param(20, "sqlite", marks=[pytest.mark.long, pytest.mark.timeout(1800)]),
        pytest.param(20, "postgresql", marks=[pytest.mark.long, pytest.mark.timeout(1800)]),
    ],
)
def test_kill_9_of_the_driver(
    space_file: Path,
    tmp_path: Path,
    small_ray: dict[str, str],
    n_kills: int,
    database: str,
) -> None:
    """Oracle: as many trials as asked, each accounted for once and run to its end; every epoch that
    a reader could see is still there; of each trial that ran when the driver was killed at most one
    epoch was said twice. Whatever is behind the Optuna study."""
    folder = tmp_path / "tiny"
    n_trials, n_epochs = (4, 10) if n_kills < 5 else (24, 20)
    if n_kills > 5:  # Larger images: the search has to last for all kills.
        space_file.write_text(TINY_SPACE)
    more = ["--trials", str(n_trials), "--epochs", str(n_epochs), "--scheduler", "none"]
    with _database(database, tmp_path) as url:
        more += ["--storage", url] if url else []
        kills = Kills(command(space_file, tmp_path, *more), folder, small_ray)
        draw = random.Random(n_kills)
        for _ in range(n_kills):
            kills.kill(after_s=draw.uniform(0.0, 6.0))
        trials = kills.finish()
        if url:
            import optuna

            told = optuna.load_study(study_name="tiny", storage=url).trials
            assert Counter(t.state.name for t in told) == {"COMPLETE": n_trials}
    assert trials["trial_number"].tolist() == list(range(n_trials))
    assert set(trials["state"]) == {"COMPLETE"}
    assert (trials["epochs_run"] == n_epochs).all()
    said = epochs_said(folder)
    assert kills.shown <= set(said)
    repeated = sum(n - 1 for n in said.values())
    print(f"{n_kills} kills, {database}: {repeated} epochs repeated, trials lost: 0")
    assert repeated <= kills.running_at_kills


def _database(kind: str, folder: Path) -> object:
    from contextlib import contextmanager

    @contextmanager
    def opened():  # type: ignore[no-untyped-def]
        if kind == "postgresql if installed" and no_postgresql():
            yield None
        elif kind.startswith("postgresql"):
            if reason := no_postgresql():
                pytest.skip(reason)
            with PostgreSQL() as server:
                yield server.url
        else:
            yield f"sqlite:///{folder / 'optuna.db'}" if kind == "sqlite" else None

    return opened()


# By default, in tests/execution/test_search.py: SIGINT between short epochs in
# test_interrupted_on_two_gpus_and_resumed, and SIGTERM after the last one in
# test_a_search_from_command_to_report_is_repeatable. Both take the same way into `StopRequest`.
@pytest.mark.long
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_asked_to_end_in_a_long_epoch(
    space_file: Path,
    tmp_path: Path,
    small_ray: dict[str, str],
    number: int,
) -> None:
    """Oracle: epochs of minutes (one image at a time). The trials are stopped and marked within
    their first epoch; the report is written; the exit code says which signal it was, though Ray
    takes SIGTERM for itself when it starts."""
    folder = tmp_path / "long"
    path = tmp_path / "long.yaml"
    path.write_text(
        "task: reconstruct\ndata: photos\nbudget: {trials: 4, epochs: 3, limit: 60}\n"
        "params:\n  lr: {type: float, low: 1.0e-4, high: 1.0e-2, log: true}\n"
        "fixed: {batch_size: 1, channels: [128, 256], kernel: 7, convs: 4}\npoints:\n"
        "  quick: {batch_size: 60, channels: [4, 4], kernel: 3, convs: 1}\n"
    )
    process = start(command(path, tmp_path, "--scheduler", "none"), small_ray)
    wait_for(lambda: sum(e["event"] == "started" for e in _events(folder)) >= 3)
    time.sleep(1)
    process.send_signal(number)
    asked = pd.Timestamp.now(tz="UTC")
    out, err = end(process)
    assert process.returncode == 128 + number, err
    assert err == ""
    marks = [e["at"] for e in _events(folder) if e["event"] == "interrupted"]
    print(f"marked {(marks[0] - asked).total_seconds():.1f} s after the signal")
    assert {e["trial_number"] for e in _events(folder) if e["event"] == "epoch"} <= {0}
    assert (folder / "report.html").exists()
    rows = trials_of(folder)
    assert set(rows[rows["state"] == "RUNNING"]["reason"]) == {"interrupted"}
    assert "raycae search --resume --study long" in out


@pytest.mark.long
def test_a_trial_whose_process_is_killed_three_times(
    space_file: Path,
    tmp_path: Path,
    small_ray: dict[str, str],
) -> None:
    """Oracle: with one trial at a time the process that is there is its. After the third kill it is
    FAIL with the reason; it had gone on from its last epoch each time; the other completes."""
    folder = tmp_path / "tiny"
    more = ["--epochs", "60", "--trials", "2", "--scheduler", "none", "--concurrent", "1"]
    process = start(command(space_file, tmp_path, *more), small_ray)
    for attempt in (1, 2, 3):
        wait_for(lambda attempt=attempt: _epochs_of(folder, 0, attempt) >= 3)
        os.kill(a_trainable(), signal.SIGKILL)
    _, err = end(process)
    assert process.returncode == 0, err
    rows = trials_of(folder).set_index("trial_number")
    assert rows["state"].to_dict() == {0: "FAIL", 1: "COMPLETE"}
    assert (rows["losses"][0], rows["attempt"][0]) == (3, 3)
    assert rows["reason"][0].startswith("lost 3 times; the last time: process lost")
    assert max(n for (trial, _), n in epochs_said(folder).items() if trial == 0) <= 2


def test_a_killed_trial_and_one_that_hangs(
    space_file: Path,
    tmp_path: Path,
    small_ray: dict[str, str],
) -> None:
    """Oracle: kill -9 of one trial's process, SIGSTOP of the other's, which says nothing any more
    and answers nothing. Both are found out, and begin a second attempt behind their last epoch; the
    process that hung is ended; a third trial is unaffected."""
    folder = tmp_path / "tiny"
    more = ["--epochs", "60", "--trials", "3", "--scheduler", "none", "--limit", "200"]
    arguments = command(space_file, tmp_path, *more, setup=QUIET)
    process = start(arguments, small_ray)
    wait_for(lambda: min(_epochs_of(folder, n, 1) for n in (0, 1)) >= 2)
    killed, stopped = trainables()
    os.kill(stopped, signal.SIGSTOP)
    os.kill(killed, signal.SIGKILL)
    began = time.monotonic()
    wait_for(lambda: sum(e["event"] == "lost" for e in _events(folder)) == 2, 180)
    print(f"found out after {time.monotonic() - began:.1f} s")
    _, err = end(process)
    assert process.returncode == 0, err
    rows = trials_of(folder)
    assert (rows["state"] == "COMPLETE").all()
    assert (rows["epochs_run"] == 60).all()
    assert sorted(rows["losses"]) == [0, 1, 1]
    assert sorted(rows["attempt"]) == [1, 2, 2]
    (hung,) = [e for e in _events(folder) if e["event"] == "lost" and e["cause"] == "hung"]
    assert hung["reason"][:5] == "hung:"
    wait_for(lambda: not Path(f"/proc/{stopped}").exists(), 20)


# By default: equal steps in smaller pieces in tests/training/test_training.py, the next attempt in
# tests/study/test_losses.py, how an allocation fails in tests/execution/test_search.py.
@pytest.mark.long
def test_memory_runs_out(
    tmp_path: Path,
    small_ray: dict[str, str],
) -> None:
    """Oracle: a minibatch of 512 does not fit into what the trial's process may take, a quarter of
    it does: the same settings complete with smaller pieces, recorded; with batch norm it is a FAIL
    at once; a small one never notices."""
    path = tmp_path / "large.yaml"
    path.write_text(
        "task: reconstruct\ndata: photos\nbudget: {trials: 3, epochs: 1, limit: 700}\npoints:\n"
        "  small: {batch_size: 16}\n"
        "  large: {batch_size: 512, channels: [128, 8], convs: 2}\n"
        "  normed: {batch_size: 512, channels: [128, 8], convs: 2, norm: batch}\n"
    )
    arguments = command(
        path, tmp_path, "--concurrent", "1", setup=set_up_workers("limits.little_memory")
    )
    done = run_process(arguments, small_ray)
    assert done.returncode == 0, done.stderr
    rows = trials_of(tmp_path / "large").set_index("point")
    expected = {"small": "COMPLETE", "large": "COMPLETE", "normed": "FAIL"}
    assert rows["state"].to_dict() == expected, rows["reason"].to_dict()
    assert pd.isna(rows["micro_batch"]["small"])
    assert rows["micro_batch"]["large"] in (128, 32)
    assert rows["reason"]["normed"].startswith("out of memory: ")
    assert rows["losses"].tolist() == [0, 0, 0]
    assert rows["attempt"]["normed"] == 1


@pytest.mark.usefixtures("without_ray")
def test_failures_alike_end_a_search(
    space_file: Path, tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Oracle: the contract. Every attempt fails for one reason, whatever the settings: the search
    stops after a few trials with that cause once, exit code 1, and says how to go on."""

    def fail_all(study: Study, *_: object) -> None:
        while not study.hopeless and (attempt := study.ask()):
            study.start_attempt(attempt.number, attempt.attempt)
            reason = "RuntimeError: no convolution on this machine"
            study.fail_attempt(FailureReport(attempt.number, attempt.attempt, reason))

    monkeypatch.setattr(runner, "train_trials", fail_all)
    more = ["--results", tmp_path, "--trials", "40"]
    code, _, err = run("search", "--space", space_file, *more)
    assert code == 1
    assert err.count("\n") == 1
    assert (
        "in a row failed for the same reason: RuntimeError: no convolution on this machine" in err
    )
    assert "raycae search --resume --study tiny" in err
    assert 5 <= (trials_of(tmp_path / "tiny")["state"] == "FAIL").sum() <= 7


@pytest.mark.usefixtures("without_ray")
@pytest.mark.parametrize(
    ("trials", "more", "problem", "n_added"),
    [
        (1, [], "The only trial failed: RuntimeError: no", 1),
        (3, [], "3 trials in a row failed for the same reason: RuntimeError: no", 3),
        (3, ["--sampler", "points"], "The only trial failed: RuntimeError: no", 0),
    ],
)
def test_a_study_in_which_all_trials_failed_can_be_continued(
    space_file: Path,
    tmp_path: Path,
    run: Run,
    monkeypatch: pytest.MonkeyPatch,
    trials: int,
    more: list[str],
    problem: str,
    n_added: int,
) -> None:
    """Oracle: the printed command. Run after the cause is gone, it trains as many trials as failed.
    If all named points were tried, no command can, and none is printed."""
    has_cause = True

    def train(study: Study, images: Images, *_: object) -> None:
        if not has_cause:
            return train_all(study, images)
        while not study.hopeless and (attempt := study.ask()):
            study.start_attempt(attempt.number, attempt.attempt)
            study.fail_attempt(
                FailureReport(attempt.number, attempt.attempt, "RuntimeError: no convolution")
            )

    monkeypatch.setattr(runner, "train_trials", train)
    more = [*more, "--scheduler", "none"]
    options = ["--space", space_file, "--results", tmp_path, "--trials", trials, *more]
    code, _, err = run("search", *options)
    assert code == 1
    assert f"raycae: {problem}" in err
    n_failed = len(trials_of(tmp_path / "tiny"))
    _, _, command = err.partition("continue with: raycae ")
    if not n_added:
        assert command == ""
        assert err.endswith("Fix the cause, then start another study with --study NAME.\n")
        return
    assert n_failed == trials
    has_cause = False
    assert run(*shlex.split(command))[0] == 0
    states = trials_of(tmp_path / "tiny")["state"].tolist()
    assert states == ["FAIL"] * n_failed + ["COMPLETE"] * n_added


@pytest.mark.long  # With a worker that ends by itself; by default without one, see above.
def test_every_trial_fails_alike(
    tmp_path: Path,
    small_ray: dict[str, str],
) -> None:
    """Oracle: no convolution works on this machine, whatever the learning rate. The search stops
    after a few trials with that cause once, exit code 1, and says how to go on."""
    path = tmp_path / "no.yaml"
    path.write_text(
        "task: reconstruct\ndata: photos\nbudget: {trials: 40, epochs: 2, limit: 100}\n"
        "params:\n  lr: {type: float, low: 1.0e-4, high: 1.0e-2, log: true}\n"
    )
    setup = set_up_workers("limits.broken_convolutions")
    done = run_process(command(path, tmp_path, "--concurrent", "1", setup=setup), small_ray)
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert (
        "trials in a row failed for the same reason: RuntimeError: no convolution on this machine"
        in line
    )
    assert "raycae search --resume --study no" in line
    assert 5 <= (trials_of(tmp_path / "no")["state"] == "FAIL").sum() <= 7


@pytest.mark.long
@pytest.mark.parametrize("damaged", ["newest", "both"])
def test_a_second_ctrl_c_and_a_damaged_checkpoint(
    space_file: Path,
    tmp_path: Path,
    small_ray: dict[str, str],
    damaged: str,
) -> None:
    """Oracle: after a second Ctrl-C the process ends at once with 130, and what it wrote is whole:
    no damage is named but that done here. The newest checkpoint has one bit flipped: the trial goes
    on from the one before, one epoch is repeated. Both are damaged, one cut in half and one empty:
    it begins again, and that is said. Never in silence, never a FAIL. The study ends with one trial
    more, as asked."""
    folder = tmp_path / "tiny"
    more = ["--epochs", "30", "--trials", "1", "--scheduler", "none", "--concurrent", "1"]
    process = start(command(space_file, tmp_path, *more), small_ray)
    wait_for_epochs(folder, 5)
    process.send_signal(signal.SIGINT)
    time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    end(process, 60)
    assert process.returncode == 130
    seen = set(epochs_said(folder))
    last = max(epoch for _, epoch in seen)
    paths = [get_checkpoint_folder(folder, 0) / f"{epoch}-1.pt" for epoch in (last, last - 1)]
    content = bytearray(paths[0].read_bytes())
    content[len(content) // 2] ^= 1
    paths[0].write_bytes(content)
    if damaged == "both":
        paths[0].write_bytes(content[: len(content) // 2])
        paths[1].write_bytes(b"")
    done = run_process([*command(space_file, tmp_path, "--resume"), "--trials", "2"], small_ray)
    assert done.returncode == 0, done.stderr
    said = done.stderr.splitlines()
    assert f"{paths[0]}: damaged; resuming from what is intact" in said[0]
    assert len(said) == (2 if damaged == "both" else 1)
    rows = trials_of(folder)
    assert rows["state"].tolist() == ["COMPLETE"] * 2
    assert rows["epochs_run"].tolist() == [30, 30]
    assert rows["losses"].tolist() == [0, 0]
    assert seen <= set(epochs_said(folder))
    repeated = sum(n - 1 for n in epochs_said(folder).values())
    assert repeated == (last if damaged == "both" else 1)


@pytest.mark.long
def test_the_clock_goes_backwards(
    space_file: Path,
    tmp_path: Path,
    small_ray: dict[str, str],
) -> None:
    """Oracle: by hand. The driver's clock is put back by three hours in mid-search (inside its
    process: libfaketime breaks `sleep`), and the search resumed in another time zone: durations are
    durations, the last stamps are now in UTC."""
    folder = tmp_path / "tiny"
    clock = tmp_path / "clock"
    clock.write_text("0")
    setup = WRONG_CLOCK.format(str(clock))
    more = ["--epochs", "20", "--trials", "4", "--scheduler", "none"]
    process = start(command(space_file, tmp_path, *more, setup=setup), small_ray)
    wait_for_epochs(folder, 6)
    clock.write_text("-10800")
    wait_for_epochs(folder, 30)
    process.send_signal(signal.SIGINT)
    _, err = end(process)
    assert process.returncode == 130, err
    elsewhere = {**small_ray, "TZ": "Asia/Tokyo"}
    done = run_process([*command(space_file, tmp_path, "--resume")], elsewhere)
    assert done.returncode == 0, done.stderr
    events = _events(folder)
    stamps = [e["at"] for e in events]
    assert min(b - a for a, b in pairwise(stamps)).total_seconds() < -10_000
    rows = trials_of(folder)
    assert (rows["state"] == "COMPLETE").all()
    assert rows["wall_time_s"].between(0, 200).all()
    epochs = tables.read_epochs(folder)
    assert (epochs.groupby("trial_number")["epoch"].apply(list).map(len) == 20).all()
    assert epochs["epoch_time_s"].between(0, 60).all()
    now = pd.Timestamp.now(tz="UTC")
    assert abs((rows["ended_at"].max() - now).total_seconds()) < 300
    assert "report" in done.stdout


@pytest.mark.usefixtures("without_ray")
def test_a_package_was_updated(space_file: Path, tmp_path: Path, run: Run) -> None:
    """Oracle: the study says that it was begun with another torch: refused with what changed and
    what to do; with --force it goes on and the new versions are recorded. Another pandas is said,
    no more. Another text of the space is refused, and goes on with --force."""
    folder = tmp_path / "tiny"
    search = ["search", "--space", space_file, "--results", tmp_path]
    code, _, err = run(*search, "--trials", "1", "--epochs", "1")
    assert code == 0, err
    (first,) = [e for e in _events(folder) if e["event"] == "begun"]
    content = json.loads(first["study"])
    now = dict(content["versions"])

    def begun_with(**versions: str) -> None:
        content["versions"] = {**now, **versions}
        event = {"event": "resumed", "at": first["at"], "study": json.dumps(content)}
        Ledger(folder / "ledger").append([event])
        (folder / "study.json").write_text(json.dumps(content))

    resume = [*search, "--resume", "--trials", "2"]
    begun_with(torch="1.2.3")
    code, out, err = run(*resume)
    assert code == 2
    assert f"torch 1.2.3 → {now['torch']}" in out
    assert "measured with another version of torch" in err
    assert "--force" in err
    assert len(trials_of(folder)) == 1
    code, _, err = run(*resume, "--force")
    assert code == 0, err
    assert plan.read_study(folder)["versions"] == now

    begun_with(pandas="0.1")
    text = space_file.read_text()
    space_file.write_text(text.replace("high: 8, per", "high: 12, per"))
    more = [*search, "--resume", "--trials", "3"]
    code, out, err = run(*more)
    assert code == 2
    assert f"pandas 0.1 → {now['pandas']}" in out
    assert "this study was started with a different version of this space, or with" in err
    code, _, err = run(*more, "--force")
    assert code == 0, err
    assert len(trials_of(folder)) == 3
    assert "high: 12" in plan.read_study(folder)["space"]["text"]


def _events(folder: Path) -> list[dict[str, object]]:
    return read_events(folder / "ledger") if (folder / "ledger").exists() else []


def _epochs_of(folder: Path, number: int, attempt: int) -> int:
    return sum(
        e["event"] == "epoch" and e["trial_number"] == number and e["attempt"] == attempt
        for e in _events(folder)
    )
