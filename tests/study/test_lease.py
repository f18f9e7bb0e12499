"""The right to write a study: one holds it, a dead one does not, on a folder and in a store."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from object_store import ObjectStore
from searches import wait_for

from raycae.errors import InputError, StorageError
from raycae.storage import retry
from raycae.storage.files import write_atomic
from raycae.storage.paths import Place, resolve_place
from raycae.storage.retry import RetryPolicy
from raycae.study import lease as study_lease
from raycae.study.lease import NAME, Lease, describe_self, get_location

pytestmark = pytest.mark.timeout(60)

QUICK = (
    "from raycae.study import lease\nlease.BEAT_S, lease.WATCH_S, lease.SETTLE_S = 0.1, 0.6, 0.2\n"
)
"""Time runs faster than for people; a holder's process says so too."""
HOLD = f"""
import sys, time
{QUICK}
from raycae.errors import InputError
from raycae.storage.paths import resolve_place
if sys.argv[2:]: print("ready", flush=True), sys.stdin.readline()
try:
    held = lease.Lease.take(resolve_place(sys.argv[1]))
except InputError as error:
    print("refused:", error, flush=True)
    raise SystemExit
print("held", flush=True)
for line in sys.stdin:
    print(held.lost, flush=True)
held.release()
"""
ELSEWHERE = "import platform\nplatform.node = lambda: 'elsewhere'\n"
"""Before `HOLD`: the process is on another host, as far as it can be seen from here."""
SUSPENDABLE = "import time\ntime.monotonic = time.process_time\n"
"""Before `HOLD`: the monotonic clock stands still while the process is stopped."""


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, seconds in (("BEAT_S", 0.1), ("WATCH_S", 0.6), ("SETTLE_S", 0.2)):
        monkeypatch.setattr(study_lease, name, seconds)


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


@pytest.fixture
def in_store(request: pytest.FixtureRequest, store: ObjectStore) -> Place:
    return resolve_place(store.uri(request.node.name))


@pytest.fixture(params=["folder", "store"])
def folder(request: pytest.FixtureRequest, tmp_path: Path, store: ObjectStore) -> Place:
    if request.param == "folder":
        return resolve_place(tmp_path)
    return resolve_place(store.uri(request.node.name.partition("[")[0]))


@contextmanager
def holder(folder: Place, *more: str, before: str = "") -> Iterator[subprocess.Popen[str]]:
    """A process that takes the lease; what it says first is read already, as `first`."""
    arguments = [sys.executable, "-c", before + HOLD, str(folder), *more]
    pipe = subprocess.PIPE
    with subprocess.Popen(arguments, stdin=pipe, stdout=pipe, text=True) as process:
        try:
            yield process
        finally:
            process.kill()


def said(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline()


def tell(process: subprocess.Popen[str]) -> None:
    """A line, which it waits for."""
    assert process.stdin is not None
    process.stdin.write("\n")
    process.stdin.flush()


def has_lost(process: subprocess.Popen[str]) -> bool:
    tell(process)
    return said(process) == "True\n"


def content(folder: Place) -> dict[str, object]:
    found: dict[str, object] = json.loads((folder / NAME).read_bytes())
    return found


def written_by(where: Place, **other: object) -> dict[str, object]:
    """A lease as a process left it that ended without a word."""
    folder = get_location(where)
    made = {"token": "f" * 32, "folder": folder, **describe_self(), "beat": 7, **other}
    write_atomic(where / NAME, json.dumps(made).encode())
    return made


def test_one_holds_it(folder: Place, capsys: pytest.CaptureFixture[str]) -> None:
    """Oracle: taken, renewed, refused without watching to a second process while the first one
    lives, which is named; free at once when it lets go."""
    with holder(folder) as process:
        assert said(process) == "held\n"
        with pytest.raises(InputError, match=rf"is searching here \(process {process.pid} on "):
            Lease.take(folder)
        assert "to see whether it still writes" not in capsys.readouterr().out
        beat = content(folder)["beat"]
        wait_for(lambda: content(folder)["beat"] != beat)
        assert not has_lost(process)
        process.communicate()
    assert not (folder / NAME).exists()
    mine = Lease.take(folder)
    assert content(folder)["pid"] == os.getpid()
    mine.release()
    assert not (folder / NAME).exists()


def test_a_killed_one(folder: Place, capsys: pytest.CaptureFixture[str]) -> None:
    """Oracle: kill -9 of a holder of this host: taken over without watching, nothing to say."""
    with holder(folder) as process:
        assert said(process) == "held\n"
        process.kill()
        process.wait()
        assert (folder / NAME).exists()
        Lease.take(folder).release()
    assert capsys.readouterr().out == ""


def test_a_number_that_was_given_away(in_store: Place, capsys: pytest.CaptureFixture[str]) -> None:
    """Oracle: this very process has the number of the dead holder, but began later: taken over
    without watching."""
    written_by(in_store, started=1)
    Lease.take(in_store).release()
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize(
    "other",
    [
        {"host": "elsewhere", "boot": "another"},
        {"boot": "this machine before it was switched off"},
        {"host": "another container of this machine"},
        {"boot": None},
    ],
)
def test_a_dead_one_of_another_host(
    folder: Place, other: dict[str, object], capsys: pytest.CaptureFixture[str]
) -> None:
    """Oracle: its beat does not move: watched for as long as is said, then taken over, and that is
    said too."""
    made = written_by(folder, **other)
    begun = time.monotonic()
    mine = Lease.take(folder)
    assert time.monotonic() - begun >= 0.6
    first, second = capsys.readouterr().out.splitlines()
    assert f"process {made['pid']} on {made['host']} wrote here last" in first
    assert "s to see whether it still writes" in first
    assert second.endswith("it no longer writes; taking over")
    assert content(folder)["pid"] == os.getpid()
    mine.release()


def test_a_name_that_is_not_utf_8_is_printed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Oracle: the byte as Python's escape; a strict stream of UTF-8 cannot print it."""
    study = tmp_path / os.fsdecode(b"s\xff")
    study.mkdir()
    written_by(study, host="elsewhere", boot="another")
    Lease.take(study).release()
    lines = capsys.readouterr().out.splitlines()
    assert [line.partition(": ")[0] for line in lines] == [rf"{tmp_path}/s\udcff"] * 2


def test_a_living_one_of_another_host(folder: Place) -> None:
    """Oracle: somebody renews it: refused, named, untouched."""
    stop = threading.Event()

    def renew() -> None:
        beat = 0
        while not stop.wait(0.05):
            beat += 1
            written_by(folder, host="elsewhere", boot="another", pid=4711, beat=beat)

    other = threading.Thread(target=renew)
    written_by(folder, host="elsewhere", boot="another", pid=4711)
    other.start()
    try:
        with pytest.raises(InputError, match="process 4711 on elsewhere"):
            Lease.take(folder)
    finally:
        stop.set()
        other.join()
    assert content(folder)["token"] == "f" * 32


@pytest.mark.parametrize("damage", [b"", b"{", b"[]", b'{"pid": "x"}', b"\xff\xfe"])
def test_a_damaged_one(folder: Place, damage: bytes) -> None:
    """Oracle: nobody's."""
    write_atomic(folder / NAME, damage)
    Lease.take(folder).release()


def test_a_copied_one(folder: Place, capsys: pytest.CaptureFixture[str]) -> None:
    """Oracle: it names another folder, so it came with a copy: taken without watching."""
    written_by(folder, folder="/somewhere/else", host="elsewhere")
    Lease.take(folder).release()
    assert capsys.readouterr().out == ""


def test_two_spellings_of_a_store(in_store: Place, store: ObjectStore) -> None:
    """Oracle: a store with two host names, and with an option less in the URI: its bucket and key
    say that it is the same study."""
    other = resolve_place(str(in_store).replace("127.0.0.1", "localhost").partition("&region")[0])
    assert str(other) != str(in_store)
    with holder(in_store) as process:
        assert said(process) == "held\n"
        assert study_lease.is_held(other)
        with pytest.raises(InputError, match=f"process {process.pid} on "):
            Lease.take(other)
        process.communicate()
    assert not study_lease.is_held(other)


@pytest.mark.parametrize("times", range(3))
def test_two_at_the_same_moment(folder: Place, times: int) -> None:
    """Oracle: of four that start at the same moment exactly one goes on; the others name it or
    know no better."""
    folder = folder / str(times)
    if isinstance(folder, Path):
        folder.mkdir()
    with (
        holder(folder, "on a word") as a,
        holder(folder, "on a word", before=ELSEWHERE) as b,
        holder(folder, "on a word") as c,
        holder(folder, "on a word", before=ELSEWHERE) as d,
    ):
        assert {said(process) for process in (a, b, c, d)} == {"ready\n"}
        for process in (a, b, c, d):
            tell(process)
        words = [said(process) for process in (a, b, c, d)]
        for i, process in enumerate((a, b, c, d)):
            if "to see whether it still writes" in words[i]:  # one of the other host, first
                words[i] = said(process)
        assert sum(word == "held\n" for word in words) == 1, words
        assert sum("another process is searching here" in word for word in words) == 3, words


def test_one_that_looked_long_ago(in_store: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """Oracle: one looks, finds nobody, and is kept from writing until another one's lease counts;
    when his counts too the other has heard of it: at no moment do both believe to hold it."""
    monkeypatch.setattr(study_lease, "BEAT_S", 1.0)
    first: list[Lease] = []
    look = Lease._wait_for_holder

    def and_sleep(self: Lease) -> float:
        looked_at = look(self)
        if not first:
            monkeypatch.setattr(Lease, "_wait_for_holder", look)
            first.append(Lease.take(in_store))
        return looked_at

    monkeypatch.setattr(Lease, "_wait_for_holder", and_sleep)
    second = Lease.take(in_store)
    assert first[0]._lost
    assert not second.lost
    second.release()


def test_let_go_in_the_middle_of_a_beat(folder: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """Oracle: a beat that has begun to write when the lease is let go leaves none behind."""
    mine = Lease.take(folder)
    renew, writing = Lease._renew, threading.Event()

    def slow(self: Lease) -> None:
        writing.set()
        time.sleep(0.05)
        renew(self)

    monkeypatch.setattr(Lease, "_renew", slow)
    assert writing.wait(5)
    mine.release()
    time.sleep(0.3)
    assert not (folder / NAME).exists()


def test_one_that_was_away(in_store: Place) -> None:
    """Oracle: a holder is stopped for longer than he is watched for, so another one takes over;
    when he goes on, the first thing he asks tells him, before he writes anything; he leaves the
    other's lease alone."""
    with holder(in_store, before=ELSEWHERE) as process:
        assert said(process) == "held\n"
        process.send_signal(signal.SIGSTOP)
        mine = Lease.take(in_store)
        process.send_signal(signal.SIGCONT)
        assert has_lost(process)
        process.communicate()
        assert content(in_store)["pid"] == os.getpid()
        assert not mine.lost
        mine.release()


def test_one_whose_machine_was_suspended(in_store: Place) -> None:
    """Oracle: as for one that was away, on a machine whose monotonic clock stands still meanwhile,
    as that of a suspended one does (here: the CPU time of a stopped process); and the other one has
    let go before the holder goes on, so that only the time tells him."""
    with holder(in_store, before=ELSEWHERE + SUSPENDABLE) as process:
        assert said(process) == "held\n"
        process.send_signal(signal.SIGSTOP)
        mine = Lease.take(in_store)
        write_atomic(in_store / "study.json", b"{}")
        mine.release()
        process.send_signal(signal.SIGCONT)
        assert has_lost(process)
        process.communicate()
        assert not (in_store / NAME).exists()


def test_the_storage_is_away(
    in_store: Place, store: ObjectStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Oracle: while the store refuses, the lease says for how long it has waited; after the limit
    it has a fault; when the store is back it is still held and has none."""
    monkeypatch.setattr(retry, "retry_policy", RetryPolicy(limit_s=6, say=lambda note: None))
    mine = Lease.take(in_store)
    try:
        assert mine.waiting_s < 1
        store.fault("refuse")
        wait_for(lambda: mine.waiting_s > 1, 30)
        assert mine.fault is None
        wait_for(lambda: isinstance(mine.fault, StorageError), 30)
        store.fault("ok")
        wait_for(lambda: mine.fault is None, 30)
        assert not mine.lost
        wait_for(lambda: mine.waiting_s < 1, 30)
    finally:
        store.fault("ok")
        mine.release()
    assert not (in_store / NAME).exists()


def test_a_late_write_is_settled_for_longer(in_store: Place, store: ObjectStore) -> None:
    """Oracle: two saw a free study; the write of one comes long after the other one has settled.
    The one who was overwritten knows it before the late one goes on; or the late one, where it was
    not as late as that, is refused. Never do both go on."""
    store.fault("slow", 1.0)
    before = store.requests
    known: list[bool | str] = []

    def take_late() -> None:
        try:
            late = Lease.take(in_store)
        except InputError:
            known.append("refused")
            return
        known.append(early.lost)
        late.release()

    other = threading.Thread(target=take_late)
    other.start()
    looks = 1
    while not (in_store_requests := store.requests - before) > looks:
        time.sleep(0.01)  # it has looked, and its write is on its way
    assert in_store_requests == looks + 1
    store.fault("ok")
    early = Lease.take(in_store)
    other.join()
    early.release()
    assert known in ([True], ["refused"])


def test_a_file_system_without_locks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Oracle: some networks' file systems know none and say so; the lease alone decides."""

    def none(descriptor: int, how: int) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", none)
    mine = Lease.take(resolve_place(tmp_path))
    with pytest.raises(InputError, match="is searching here"):
        Lease.take(resolve_place(tmp_path))
    mine.release()
    Lease.take(resolve_place(tmp_path)).release()
