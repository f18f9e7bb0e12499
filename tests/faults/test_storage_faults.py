"""Storage that fills up, refuses, stalls or goes away under real searches: nothing is lost."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import mounts
import pyarrow.parquet as pq
import pytest
from conftest import TINY_SPACE, Run, begin, data_facts, die, measured, run_trial, write_epoch
from mounts import Freezable, Served, Tmpfs
from object_store import ObjectStore
from safetensors.numpy import load_file
from searches import Running, command, epochs_so_far, events_of, trials_of, wait_for
from searches import run as run_process

from raycae.space.space import Space
from raycae.storage.files import checksum, write_atomic
from raycae.storage.paths import resolve_place
from raycae.study.attempt import EpochReport
from raycae.study.ledger import read_events
from raycae.study.opening import create_study, resume_study
from raycae.study.plan import Plan, read_content

pytestmark = [pytest.mark.ray, pytest.mark.timeout(600)]

may_mount = pytest.mark.skipif(mounts.available() is not None, reason=str(mounts.available()))
LONG = ("--trials", "4", "--epochs", "30", "--scheduler", "none")


def resume(results_folder: Path | str, setup: str = "") -> list[str]:
    start = (
        ["-m", "raycae"]
        if not setup
        else ["-c", f"{setup}\nfrom raycae.cli.main import main; main()"]
    )
    more = ["--results", str(results_folder), "--gpus-per-trial", "0"]
    return [sys.executable, *start, "search", "--resume", "--study", "tiny", *more]


def require_whole(folder: Path) -> None:
    """Every file that a reader sees can be read, and is what the ledger says of it."""
    events = read_events(folder / "ledger")
    known = {
        f"{e['trial_number']}/{e['epoch']}-{e['attempt']}.{kind}": e[column]
        for e in events
        for kind, column in (("pt", "checkpoint"), ("safetensors", "model"))
        if e["event"] == "epoch"
    }
    for path in folder.rglob("*"):
        if path.name.startswith(".") or not path.is_file():
            continue
        name = f"{path.parent.name}/{path.name}"
        if path.suffix == ".parquet":
            pq.read_table(path, page_checksum_verification=True)
        elif path.suffix == ".json":
            json.loads(path.read_text())
        elif path.suffix in (".pt", ".safetensors") and known.get(name):
            assert checksum(path.read_bytes()) == known[name], path
        elif path.suffix == ".safetensors":
            load_file(path)


def require_said(stderr: str, *patterns: str) -> None:
    """These lines in this order, and no other."""
    lines = stderr.splitlines()
    assert len(lines) == len(patterns), stderr
    for line, pattern in zip(lines, patterns, strict=True):
        assert re.search(pattern, line), stderr


def require_complete(folder: Path | str, trials: int = 4, epochs: int = 30) -> None:
    """Every trial is there once and has all its epochs; none failed."""
    rows = trials_of(resolve_place(folder))
    assert rows["trial_number"].tolist() == list(range(trials))
    assert set(rows["state"]) == {"COMPLETE"}, rows[["state", "reason"]]
    assert set(rows["epochs_run"]) == {epochs}
    assert set(rows["losses"]) == {0}
    ended = [e["trial_number"] for e in events_of(folder, "ended")]
    assert sorted(ended) == list(range(trials))


def require_nothing_repeated(folder: Path, running: int = 2) -> None:
    """At most one epoch of each trial that ran was trained again."""
    said = [(e["trial_number"], e["epoch"]) for e in events_of(folder, "epoch")]
    assert len(said) - len(set(said)) <= running


@contextmanager
def bound(behind: Path, where: Path) -> Iterator[None]:
    """`behind` can be seen at `where` too."""
    where.mkdir(exist_ok=True)
    subprocess.run(["mount", "--bind", behind, where], check=True)
    try:
        yield
    finally:
        mounts.unmount(where)


@pytest.mark.long
@may_mount
@pytest.mark.parametrize("full", ["ledger", "checkpoints"])
def test_a_full_disk(
    space_file: Path, tmp_path: Path, small_ray: dict[str, str], full: str
) -> None:
    """Oracle: the disk is full in the middle of a search: one message with the file and the cause,
    exit code 1, every file whole; with space again the search goes on as if nothing had been.
    Checkpoints lie on a disk of their own, so that it is clear which write fails."""
    folder = tmp_path / "r" / "tiny"
    more = ("--trials", "3", "--epochs", "30", "--scheduler", "none")
    with (
        Tmpfs(tmp_path / "r", 32 << 20) as disk,
        Tmpfs(folder / "checkpoints", 32 << 20) as of_checkpoints,
        Running(command(space_file, tmp_path / "r", *more), small_ray) as search,
    ):
        filled = disk if full == "ledger" else of_checkpoints
        wait_for(lambda: epochs_so_far(folder) >= 5)
        filled.fill()
        done = search.end()
        assert done.returncode == 1, done.stderr
        where = r"checkpoints/\d/.*\.(pt|safetensors)"
        if full == "ledger":  # or whatever else is written at that moment
            where = r"ledger/.*\.(jsonl|parquet)|(trials|epochs)\.parquet|lease\.json"
        require_said(done.stderr, f"^raycae: writing {folder}/({where}): No space left on device$")
        require_whole(folder)
        assert not list(filled.where.rglob(".*.????????"))

        filled.empty()
        done = run_process(resume(tmp_path / "r"), small_ray)
        assert done.returncode == 0, done.stderr
        require_said(done.stderr)
        require_complete(folder, 3, 30)
        require_nothing_repeated(folder)
        require_whole(folder)


@pytest.mark.long
@may_mount
def test_no_room_for_the_report(
    space_file: Path, tmp_path: Path, small_ray: dict[str, str]
) -> None:
    """Oracle: everything but the report fits: one message, exit code 1, the trials are all there;
    with space again `raycae report` writes it."""
    folder = tmp_path / "r" / "tiny"
    with (
        Tmpfs(tmp_path / "r", 32 << 20) as disk,
        Running(command(space_file, tmp_path / "r"), small_ray) as search,
    ):
        wait_for(lambda: epochs_so_far(folder) >= 1)
        disk.fill(leave=1 << 20)
        done = search.end()
        assert done.returncode == 1, done.stderr
        require_said(
            done.stderr, f"^raycae: writing {folder}/report.html: No space left on device$"
        )
        assert not (folder / "report.html").exists()
        assert set(trials_of(folder)["state"]) <= {"COMPLETE", "PRUNED"}
        assert len(trials_of(folder)) == 6
        require_whole(folder)
        disk.empty()
        done = run_process([sys.executable, "-m", "raycae", "report", str(folder)], small_ray)
        assert done.returncode == 0, done.stderr
        assert (folder / "report.html").stat().st_size > 1 << 20


@may_mount
@pytest.mark.usefixtures("without_ray")
def test_full_from_the_beginning(space_file: Path, tmp_path: Path, run: Run) -> None:
    """Oracle: there is room for the lease but not for the study: one message; with space again the
    very same command begins."""
    words = ("search", "--space", space_file, "--results", tmp_path / "r")
    words += ("--trials", "1", "--epochs", "1")
    with Tmpfs(tmp_path / "r", 32 << 20) as disk:
        disk.fill(leave=4096)
        code, _, err = run(*words)
        assert code == 1, err
        require_said(err, "^raycae: writing .*: No space left on device$")
        disk.empty()
        code, _, err = run(*words)
        assert code == 0, err


@pytest.fixture(scope="module")
def started() -> Iterator[ObjectStore]:
    with ObjectStore() as made:
        yield made


@pytest.fixture
def store(started: ObjectStore, monkeypatch: pytest.MonkeyPatch) -> Iterator[ObjectStore]:
    for key, value in started.env.items():
        monkeypatch.setenv(key, value)
    yield started
    started.fault("ok")


FEW = ("--trials", "2", "--epochs", "8", "--scheduler", "none")


# By default: a search whose results are in a store, tests/execution/test_jobs.py; a store that
# fails while files are written and read, tests/storage/test_storage.py.
@pytest.mark.long
@pytest.mark.parametrize(("kind", "seconds"), [("refuse", 8), ("reset", 6), ("slow", 0)])
def test_an_object_store_that_fails(
    space_file: Path, small_ray: dict[str, str], store: ObjectStore, kind: str, seconds: float
) -> None:
    """Oracle: the store fails for a while in the middle of a search, or is slow all the time: it
    says once what it waits for, if it has to, and ends as if nothing had been."""
    where = store.uri(kind)
    folder = resolve_place(where) / "tiny"
    with Running(command(space_file, where, *FEW), small_ray) as search:
        wait_for(lambda: epochs_so_far(folder) >= 4)
        store.fault(kind, 0.1)
        if seconds:
            time.sleep(seconds)
            store.fault("ok")
        done = search.end()
    store.fault("ok")
    assert done.returncode == 0, done.stderr
    said = ["^waiting for storage: .*NETWORK_CONNECTION"] if seconds else []
    require_said(done.stderr, *said)
    require_complete(folder, 2, 8)
    require_nothing_repeated(folder, 0)


@pytest.mark.long
def test_a_store_that_refuses_every_third_request(
    space_file: Path, small_ray: dict[str, str], store: ObjectStore
) -> None:
    """Oracle: from the first request to the last: a search ends as if nothing had been, and the
    commands that read a study read this one."""
    store.fault("every_third")
    where = store.uri("third")
    folder = resolve_place(where) / "tiny"
    more = ("--trials", "1", "--epochs", "3")
    done = run_process(command(space_file, where, *more), small_ray)
    assert done.returncode == 0, done.stderr
    assert all(line.startswith("waiting for storage") for line in done.stderr.splitlines())
    shown = run_process([sys.executable, "-m", "raycae", "show", str(folder)], small_ray)
    assert shown.returncode == 0, shown.stderr
    assert "1 COMPLETE" in shown.stdout
    (folder / "report.html").unlink()
    done = run_process([sys.executable, "-m", "raycae", "report", str(folder)], small_ray)
    assert done.returncode == 0, done.stderr
    assert (folder / "report.html").exists()
    require_complete(folder, 1, 3)
    require_nothing_repeated(folder, 0)


def test_no_such_bucket(space_file: Path, store: ObjectStore) -> None:
    """Oracle: a bucket that is not there is found before Ray starts: one message, exit code 2."""
    where = store.uri("r").replace("/raycae/", "/no-such-bucket/")
    # No Ray answers there.
    done = run_process([*command(space_file, where), "--address", "127.0.0.1:1"], {**os.environ})
    assert done.returncode == 2
    require_said(done.stderr, r"^raycae: writing s3://no-such-bucket/r/tiny/.*: NO_SUCH_BUCKET")


@pytest.mark.long
def test_interrupted_while_the_store_is_away(
    space_file: Path, small_ray: dict[str, str], store: ObjectStore
) -> None:
    """Oracle: Ctrl-C while a search waits for a store that does not come back: it ends soon, says
    once what it waits for and once what it could not do, and with the store back it goes on."""
    where = store.uri("interrupted")
    folder = resolve_place(where) / "tiny"
    with Running(command(space_file, where, *FEW), small_ray) as search:
        wait_for(lambda: epochs_so_far(folder) >= 4)
        store.fault("refuse")
        time.sleep(3)
        search.send(signal.SIGINT)
        done = search.end()
    assert done.returncode == 1, done.stderr
    require_said(
        done.stderr,
        "^waiting for storage: .*NETWORK_CONNECTION",
        r"^raycae: .*NETWORK_CONNECTION.*; waited for \d+ s$",
    )
    store.fault("ok")
    done = run_process(resume(where), small_ray)
    assert done.returncode == 0, done.stderr
    require_complete(folder, 2, 8)
    require_nothing_repeated(folder)


@pytest.mark.long
def test_an_object_store_that_stalls(
    space_file: Path, small_ray: dict[str, str], store: ObjectStore
) -> None:
    """Oracle: for 15 s requests are taken and never answered: said once, then all goes on."""
    where = store.uri("stall")
    folder = resolve_place(where) / "tiny"
    with Running(command(space_file, where, *FEW), small_ray) as search:
        wait_for(lambda: epochs_so_far(folder) >= 4)
        store.fault("stall")
        time.sleep(15)
        store.fault("ok")
        done = search.end()
    assert done.returncode == 0, done.stderr
    require_said(done.stderr, "^waiting for storage: .*no answer for 1. s$")
    require_complete(folder, 2, 8)
    require_nothing_repeated(folder, 0)


@pytest.mark.long
def test_waiting_trials_do_not_hang(
    space_file: Path, small_ray: dict[str, str], store: ObjectStore
) -> None:
    """Oracle: trials that wait for the store for longer than an epoch may last are not taken for
    hung: no losses."""
    setup = (
        "from raycae.study import watchdog\n"
        "watchdog.QUIET_LEAST_S, watchdog.QUIET_FACTOR, watchdog.DEAF_S = 6.0, 1.0, 1.0"
    )
    where = store.uri("patient")
    folder = resolve_place(where) / "tiny"
    with Running(command(space_file, where, *FEW, setup=setup), small_ray) as search:
        wait_for(lambda: epochs_so_far(folder) >= 4)
        store.fault("refuse")
        time.sleep(12)
        store.fault("ok")
        done = search.end()
    assert done.returncode == 0, done.stderr
    require_complete(folder, 2, 8)


@pytest.mark.long
@may_mount
def test_the_mount_goes_away(space_file: Path, tmp_path: Path, small_ray: dict[str, str]) -> None:
    """Oracle: what the results lie on is unmounted in the middle of a search: said, waited for as
    long as is allowed, then one message and exit code 1; nothing lies in the folder that was under
    the mount; what was on it is whole, and with the mount back the search goes on."""
    setup = "from raycae.storage import retry\nretry.retry_policy.limit_s = 5"
    where, behind = tmp_path / "r", tmp_path / "behind"
    with Tmpfs(behind, 32 << 20), bound(behind, where):
        with Running(command(space_file, where, *LONG, setup=setup), small_ray) as search:
            wait_for(lambda: epochs_so_far(where / "tiny") >= 10)
            mounts.unmount(where)
            done = search.end()
        assert done.returncode == 1, done.stderr
        require_said(
            done.stderr,
            "^waiting for storage: .* is gone$",
            r"^raycae: writing .*: the folder .* is gone; waited for \d s$",
        )
        assert list(where.iterdir()) == []
        require_whole(behind / "tiny")
        with bound(behind, where):
            done = run_process(resume(where), small_ray)
            assert done.returncode == 0, done.stderr
            require_complete(where / "tiny")
            require_nothing_repeated(where / "tiny")


@pytest.mark.long
@pytest.mark.skipif(mounts.no_freezing() is not None, reason=str(mounts.no_freezing()))
def test_a_mount_that_is_frozen(
    space_file: Path, tmp_path: Path, small_ray: dict[str, str]
) -> None:
    """Oracle: writers are held, and no signal can end them: said after a while; when the file
    system is thawed the search ends as if nothing had been."""
    setup = "from raycae.storage import retry\nretry.SILENT_S = 2"
    with (
        Freezable(tmp_path / "r") as ice,
        Running(command(space_file, ice.where, *LONG, setup=setup), small_ray) as search,
    ):
        folder = ice.where / "tiny"
        wait_for(lambda: epochs_so_far(folder) >= 10)
        ice.freeze()
        time.sleep(10)
        assert not search.ends()
        ice.thaw()
        done = search.end()
        assert done.returncode == 0, done.stderr
        require_said(done.stderr, r"^waiting for storage: .*: no answer for \d s$")
        require_complete(folder)
        require_nothing_repeated(folder, 0)


@pytest.mark.long
@pytest.mark.skipif(mounts.no_fuse() is not None, reason=str(mounts.no_fuse()))
def test_a_mount_that_does_not_answer(
    space_file: Path, tmp_path: Path, small_ray: dict[str, str]
) -> None:
    """Oracle: the server of a file system hangs for longer than is waited for: one message, exit
    code 1, in bounded time; when it answers again the search goes on."""
    setup = "from raycae.storage import retry\nretry.SILENT_S, retry.retry_policy.limit_s = 2, 6"
    with Served(tmp_path / "r", tmp_path / "behind") as served:
        folder = served.where / "tiny"
        with Running(command(space_file, served.where, *LONG, setup=setup), small_ray) as search:
            wait_for(lambda: epochs_so_far(folder) >= 10)
            served.stop()
            done = search.end()
        assert done.returncode == 1, done.stderr
        require_said(
            done.stderr,
            r"^waiting for storage: .*: no answer for \d s$",
            r"^raycae: .*: storage has not answered for \d s$",
        )
        served.go_on()
        require_whole(folder)
        done = run_process(resume(served.where), small_ray)
        assert done.returncode == 0, done.stderr
        require_complete(folder)
        require_nothing_repeated(folder)


QUICK = "from raycae.study import lease\nlease.BEAT_S, lease.WATCH_S = 0.5, 3.0\n"
ELSEWHERE = "import platform\nplatform.node = lambda: 'elsewhere'\n"


@pytest.mark.long
def test_two_searches_in_one_folder(
    space_file: Path, tmp_path: Path, small_ray: dict[str, str]
) -> None:
    """Oracle: the second one refuses, naming the first one, which does not notice."""
    space_file.write_text(TINY_SPACE)  # Larger images: it has to last until the second one comes.
    with Running(command(space_file, tmp_path, *LONG), small_ray) as search:
        wait_for(lambda: epochs_so_far(tmp_path / "tiny") >= 4)
        second = run_process(resume(tmp_path), small_ray)
        assert second.returncode == 2
        require_said(
            second.stderr, rf"is searching here \(process {search.pid} on .*\); wait for it"
        )
        done = search.end()
    assert (done.returncode, done.stderr) == (0, "")
    require_complete(tmp_path / "tiny")


@pytest.mark.long
def test_two_searches_in_one_store(
    space_file: Path, small_ray: dict[str, str], store: ObjectStore
) -> None:
    """Oracle: the same from another host: it watches first, and says so."""
    space_file.write_text(TINY_SPACE)  # Larger images: it has to last until the second one comes.
    where = store.uri("two")
    folder = resolve_place(where) / "tiny"
    more = ("--trials", "2", "--epochs", "30", "--scheduler", "none")
    with Running(command(space_file, where, *more, setup=QUICK), small_ray) as search:
        wait_for(lambda: epochs_so_far(folder) >= 4)
        second = run_process(resume(where, QUICK + ELSEWHERE), small_ray)
        assert second.returncode == 2
        require_said(
            second.stderr, rf"is searching here \(process {search.pid} on .*\); wait for it"
        )
        assert "waiting 3 s to see" in second.stdout
        done = search.end()
    assert (done.returncode, done.stderr) == (0, "")
    require_complete(folder, 2, 30)


@pytest.mark.long
@pytest.mark.parametrize("what", ["folder", "store"])
def test_two_searches_at_the_same_moment(
    space_file: Path, tmp_path: Path, small_ray: dict[str, str], store: ObjectStore, what: str
) -> None:
    """Oracle: exactly one goes on, and does all of it; the other one refuses."""
    where = store.uri("same") if what == "store" else tmp_path / "r"
    more = ("--trials", "2", "--epochs", "3", "--scheduler", "none")
    arguments = command(space_file, where, *more)
    with Running(arguments, small_ray) as one, Running(arguments, small_ray) as other:
        ended = [one.end(), other.end()]
    assert sorted(done.returncode for done in ended) == [0, 2]
    refused = next(done.stderr for done in ended if done.returncode == 2)
    require_said(refused, "is searching here|this study already exists")
    require_complete(resolve_place(where) / "tiny", 2, 3)


@pytest.mark.long
def test_one_that_was_away_is_replaced(
    space_file: Path, small_ray: dict[str, str], store: ObjectStore
) -> None:
    """Oracle: a driver is stopped for so long that another host takes its study over, and goes on
    when that one has ended: it writes nothing any more, says why, exit code 1."""
    where = store.uri("away")
    folder = resolve_place(where) / "tiny"
    # One core each: the first one does not give its own back.
    more = ("--trials", "2", "--epochs", "12", "--scheduler", "none", "--concurrent", "1")
    with Running(command(space_file, where, *more, setup=QUICK), small_ray) as search:
        wait_for(lambda: epochs_so_far(folder) >= 4)
        search.send(signal.SIGSTOP)
        second = run_process([*resume(where, QUICK + ELSEWHERE), "--concurrent", "1"], small_ray)
        assert second.returncode == 0, second.stderr
        assert "it no longer writes; taking over" in second.stdout
        names = ("trials.parquet", "epochs.parquet", "study.json", "report.html")
        left = {name: (folder / name).read_bytes() for name in names}
        parts = sorted(path.name for path in (folder / "ledger").iterdir())
        search.send(signal.SIGCONT)
        done = search.end()
    assert done.returncode == 1
    require_said(done.stderr, "^raycae: .*: another process has taken this study over")
    assert {name: (folder / name).read_bytes() for name in names} == left
    assert sorted(path.name for path in (folder / "ledger").iterdir()) == parts
    require_complete(folder, 2, 12)


def test_damage_in_a_store(store: ObjectStore, tiny_space: Space, plan: Plan) -> None:
    """Oracle: what a folder can do: of a study whose driver died a part of the ledger is cut at
    half and study.json is gone: named, set aside, mended from the tables; the same trials as
    before, the one that ran goes on, the total is reached, and the second time nothing is said."""
    folder = resolve_place(store.uri("damage")) / "tiny"
    study = create_study(folder, plan, tiny_space, data_facts())
    run_trial(study, 0.3, 0.2, 0.1)
    run_trial(study, 0.2, 0.15, 0.12)
    running = begin(study)
    for epoch in (1, 2):
        files = write_epoch(study, running, epoch)
        study.report_epoch(
            EpochReport(running.number, running.attempt, **measured(epoch, 0.1 / epoch), **files)
        )
    study.records.write(folder)
    before = study.records.trials_table().drop_columns(["started_at", "ended_at", "losses"])
    die(study)
    # The last epoch of the first trial, and that it has ended.
    name = sorted(path.name for path in (folder / "ledger").iterdir())[5]
    whole = (folder / "ledger" / name).read_bytes()
    half = whole[: len(whole) // 2]
    write_atomic(folder / "ledger" / name, half)
    (folder / "study.json").unlink()

    assert read_content(folder)["plan"]["trials"] == 6
    study = resume_study(folder, plan)
    notes = "\n".join(study.notes)
    assert re.search(r"study\.json\?.*: missing; restored", notes)
    assert name in notes
    (aside,) = (folder / "ledger" / "damaged").iterdir()
    assert aside.read_bytes() == half
    after = study.records.trials_table().drop_columns(["started_at", "ended_at", "losses"])
    assert after.equals(before)
    issue = study.ask()
    assert issue is not None
    assert (issue.number, issue.checkpoints[0][0]) == (2, 2)
    study.start_attempt(issue.number, issue.attempt)
    study.report_epoch(EpochReport(issue.number, issue.attempt, **measured(3, 0.1)))
    while study.ask():
        number = study.running()[-1]
        study.start_attempt(number, 1)
        for epoch in (1, 2, 3):
            study.report_epoch(EpochReport(number, 1, **measured(epoch, 0.5)))
    study.close()
    assert (
        folder / "models" / "2" / "model.safetensors"
    ).read_bytes() == b"safetensors of 2 after 2"
    require_complete(folder, 6, 3)
    again = resume_study(folder, plan)
    assert again.notes == []
    again.close()
