"""Places: files whole or absent, stores that fail for a while, mounts that do not answer."""

from __future__ import annotations

import errno
import functools
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import mounts
import pytest
from mounts import Served, Tmpfs
from object_store import ObjectStore

from raycae.errors import InputError, StorageError
from raycae.storage import retry
from raycae.storage.files import fetch_tree, make_folder, quarantine, remove_tree, write_atomic
from raycae.storage.paths import LocalPath, Place, StorePath, resolve_place
from raycae.storage.retry import RetryPolicy

pytestmark = pytest.mark.timeout(90)


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


@pytest.fixture(autouse=True)
def said(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What this process says that it waits for; its patience is its own in each test."""
    notes: list[str] = []
    monkeypatch.setattr(retry, "retry_policy", RetryPolicy(say=notes.append))
    return notes


@pytest.fixture(params=["folder", "store"])
def anywhere(request: pytest.FixtureRequest, tmp_path: Path, store: ObjectStore) -> Place:
    name = request.node.name.replace("[", "-").replace("]", "")
    made = resolve_place(tmp_path / name if request.param == "folder" else store.uri(name))
    if isinstance(made, Path):
        made.mkdir()
    return made


def names(folder: Place) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_files_of_a_place(anywhere: Place) -> None:
    """Oracle: what `pathlib` does with a folder, a store does too: round trip, listing, deleting,
    and the same words for what is not there."""
    file = anywhere / "a.bin"
    assert not file.exists()
    assert not file.is_file()
    with pytest.raises(FileNotFoundError):
        file.read_bytes()
    with pytest.raises(FileNotFoundError):
        file.unlink()
    file.unlink(missing_ok=True)
    for content in (b"", b"first", bytes(range(256)) * 3000):
        write_atomic(file, content)
        assert file.read_bytes() == content
    assert (file.exists(), file.is_file(), file.is_dir()) == (True, True, False)
    assert (file.name, file.stem, file.parent) == ("a.bin", "a", anywhere)
    make_folder(anywhere / "sub" / "deep", anywhere)
    for name in ("b", "c"):
        write_atomic(anywhere / "sub" / "deep" / name, name.encode())
    assert (anywhere / "sub").is_dir()
    assert names(anywhere) == ["a.bin", "sub"]
    assert names(anywhere / "sub" / "deep") == ["b", "c"]
    (anywhere / "sub" / "deep" / "b").unlink()
    assert names(anywhere / "sub" / "deep") == ["c"]
    remove_tree(anywhere / "sub" / "deep")
    assert not (anywhere / "sub" / "deep" / "c").exists()
    assert names(anywhere / "sub") == []
    remove_tree(anywhere / "sub" / "deep")
    aside = quarantine(file)
    assert not file.exists()
    assert aside.parent == anywhere / "damaged"
    assert aside.read_bytes() == content


@pytest.mark.parametrize(
    "name", ["a" * 251 + ".png", "a" * 242, "ä" * 125 + ".png", "a" + "ä" * 126, "\udcff" * 250]
)
def test_the_longest_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """Oracle: file systems allow 255 bytes. What a process leaves that dies before the rename is
    found by the pattern of `remove_stale_files`, and readers of Parquet folders ignore it."""
    replace, seen = Path.replace, []

    def look(path: Path, target: Path) -> Path:
        seen.extend(tmp_path.glob(".*.????????"))
        return replace(path, target)

    monkeypatch.setattr(Path, "replace", look)
    for content in (b"old", b"new"):
        write_atomic(tmp_path / name, content)
        assert (tmp_path / name).read_bytes() == content
    assert len(seen) == 2
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_a_name_that_is_too_long(tmp_path: Path) -> None:
    """Oracle: file systems allow 255 bytes. The message is that of a wrong input."""
    with pytest.raises(InputError, match=r"a{256}: cannot be written: File name too long"):
        write_atomic(tmp_path / ("a" * 256), b"content")
    assert list(tmp_path.iterdir()) == []


def test_a_folder_with_the_longest_name(tmp_path: Path) -> None:
    """Oracle: file systems allow 255 bytes."""
    (tmp_path / "from" / "sub").mkdir(parents=True)
    (tmp_path / "from" / "sub" / "file").write_bytes(b"content")
    target = tmp_path / "to" / ("ä" * 127)
    fetch_tree(tmp_path / "from", target)
    assert (target / "sub" / "file").read_bytes() == b"content"
    assert [path.name for path in (tmp_path / "to").iterdir()] == ["ä" * 127]


def test_a_place_and_its_name(store: ObjectStore) -> None:
    """Oracle: a place's text names the same place, in another process as well."""
    made = resolve_place(store.uri("results/")) / "ex3"
    assert isinstance(made, StorePath)
    assert str(made).startswith("s3://raycae/results/ex3?")
    assert resolve_place(str(made)) == made
    assert hash(resolve_place(str(made))) == hash(made)
    write_atomic(made / "x", b"1")
    assert resolve_place(str(made / "x")).read_bytes() == b"1"
    assert made.parent == resolve_place(store.uri("results"))
    azure = "abfss://container@account.dfs.core.windows.net/results"
    assert str(resolve_place(azure) / "ex3") == f"{azure}/ex3"
    assert str(resolve_place("gs://bucket/results") / "ex3") == "gs://bucket/results/ex3"


def test_local_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Oracle: relative, absolute, from home, file: the same folder, absolute."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("r", tmp_path / "r", "~/r", f"file://{tmp_path}/r", "x/../r"):
        found = resolve_place(name)
        assert isinstance(found, LocalPath)
        assert found == tmp_path / "r"
        assert isinstance(found / "ex3", LocalPath)
        assert isinstance((found / "ex3").parent, LocalPath)


@pytest.mark.parametrize(
    ("where", "words"),
    [
        ("s3://key:secret@bucket/x", "leave credentials out of the URI"),
        ("s3://key@bucket/x", "leave credentials out of the URI"),
        ("s3://bucket/x?access_key=secret", "leave credentials out of the URI"),
        ("s3://bucket/x?secret_key=secret", "leave credentials out of the URI"),
        ("abfss://c:secret@a.dfs.core.windows.net/x", "leave credentials out of the URI"),
        ("nonsense://bucket/x", "a file system that pyarrow supports"),
        ("http://bucket/x", "a file system that pyarrow supports"),
        ("s3://bucket/x?region=a&nonsense=1", "Unexpected query parameter"),
        ("s3://", "neither a folder nor a URI"),
        ("s3:/bucket/x", "neither a folder nor a URI"),
        ("S3:bucket", None),
        ("~no-such-user/x", "home directory"),
    ],
)
def test_places_that_are_refused(where: str, words: str | None) -> None:
    """Oracle: one message that names the place and nothing secret, without a wait; what has no
    slash after its colon is a folder's name."""
    if words is None:
        assert isinstance(resolve_place(where), Path)
        return
    with pytest.raises(InputError, match=words) as caught:
        resolve_place(where)
    assert "waited" not in str(caught.value)
    assert "secret" not in str(caught.value).replace("secret_key", "")
    assert "\n" not in str(caught.value)


def test_nothing_there_and_no_leave(store: ObjectStore) -> None:
    """Oracle: no such bucket, a key that nobody knows: a message with the cause, without a wait."""
    nowhere = resolve_place(store.uri("r").replace("/raycae/", "/no-such-bucket/"))
    assert not nowhere.exists()
    expected = r"writing s3://no-such-bucket/r/x\?.*NO_SUCH_BUCKET"
    with pytest.raises(StorageError, match=expected) as caught:
        write_atomic(nowhere / "x", b"1")
    assert "waited" not in str(caught.value)
    strict = functools.partial(
        subprocess.Popen, env={**os.environ, "INITIAL_NO_AUTH_ACTION_COUNT": "1"}
    )
    with ObjectStore(popen=strict) as refusing:
        began = resolve_place(refusing.uri("r"))
        for what in (
            lambda: began.exists(),
            lambda: began.read_bytes(),
            lambda: write_atomic(began / "x", b"1"),
            lambda: names(began),
            lambda: remove_tree(began),
            lambda: (began / "x").unlink(missing_ok=True),
        ):
            with pytest.raises(StorageError, match=r"ACCESS_DENIED|INVALID_ACCESS_KEY") as caught:
                what()
            assert "waited" not in str(caught.value)


def do_everything(folder: Place) -> None:
    for number in range(3):
        write_atomic(folder / f"{number}", b"content")
        assert (folder / f"{number}").read_bytes() == b"content"
    assert {"0", "1", "2"} <= set(names(folder))
    for number in range(3):
        (folder / f"{number}").unlink(missing_ok=True)
        assert not (folder / f"{number}").exists()


@pytest.mark.parametrize("kind", ["refuse", "every_third", "reset"])
def test_a_store_that_fails_for_a_while(store: ObjectStore, said: list[str], kind: str) -> None:
    """Oracle: everything is done in the end, whatever the store had carried out although the
    client was told otherwise; what is waited for for longer is said."""
    folder = resolve_place(store.uri(f"while-{kind}"))
    if kind == "every_third":
        store.fault(kind)
        do_everything(folder)
        assert said == []
        return
    write_atomic(folder / "0", b"before")
    timer = threading.Timer(4, store.fault, ["ok"])
    store.fault(kind)
    timer.start()
    do_everything(folder)
    timer.join()
    assert said
    assert all(note.startswith(f"waiting for storage: writing {folder / '0'}: ") for note in said)
    assert "NETWORK_CONNECTION" in said[0]


def test_a_slow_store(store: ObjectStore, said: list[str]) -> None:
    """Oracle: a store that takes half a second for everything is not failing."""
    store.fault("slow", 0.5)
    folder = resolve_place(store.uri("slow"))
    write_atomic(folder / "x", b"content")
    assert (folder / "x").read_bytes() == b"content"
    assert said == []


@pytest.mark.long
def test_a_request_that_stalls(store: ObjectStore) -> None:
    """Oracle: of a store that never answers the client hears within 40 s, so that it can ask
    again; as pyarrow comes it would take 99 s to write."""
    folder = resolve_place(store.uri("stall"))
    assert isinstance(folder, StorePath)
    files = folder._filesystem
    store.fault("stall")
    for call in (
        lambda: files.get_file_info("raycae/stall/x"),
        lambda: files.open_output_stream("raycae/stall/x").close(),
    ):
        begun = time.monotonic()
        with pytest.raises(OSError, match="Timeout was reached"):
            call()
        assert time.monotonic() - begun < 40


def test_patience_ends(store: ObjectStore, said: list[str]) -> None:
    """Oracle: after the limit one message with what, why and for how long; the next thing is not
    waited for as long again, until something has worked; of two threads one says so."""
    retry.retry_policy.limit_s = 4
    file = resolve_place(store.uri("limit")) / "x"
    write_atomic(file, b"1")
    store.fault("refuse")

    def read() -> None:
        with suppress(StorageError):
            file.read_bytes()

    other = threading.Thread(target=read)
    other.start()
    with pytest.raises(StorageError, match=r"writing .*/x\?.*waited for [1-4] s"):
        write_atomic(file, b"2")
    other.join()
    assert len({note.split()[4] for note in said}) == 1
    retry.retry_policy.limit_s = 600
    retry.SILENT_S, before = 2.0, retry.SILENT_S
    try:
        with pytest.raises(StorageError, match=r"waited for [0-2] s"):
            write_atomic(file, b"2")
    finally:
        retry.SILENT_S = before
    store.fault("ok")
    write_atomic(file, b"2")
    assert not retry.retry_policy.spent


@pytest.mark.skipif(mounts.available() is not None, reason=str(mounts.available()))
def test_a_full_disk(tmp_path: Path) -> None:
    """Oracle: the old file stays, the new one is absent, nothing else lies there; the message
    says what and why, at once."""
    with Tmpfs(tmp_path / "small", 1 << 20) as small:
        folder = resolve_place(small.where)
        write_atomic(folder / "old", b"old")
        small.fill(leave=8192)
        for name in ("old", "new"):
            # "waited for" would follow if it had been tried again.
            with pytest.raises(StorageError, match=rf"writing .*/{name}: No space left on device$"):
                write_atomic(folder / name, bytes(20_000))
        assert (folder / "old").read_bytes() == b"old"
        assert names(folder) == ["filling", "old"]
        small.empty()
        write_atomic(folder / "new", bytes(20_000))


@pytest.mark.skipif(mounts.available() is not None, reason=str(mounts.available()))
def test_a_mount_that_is_gone(tmp_path: Path, said: list[str]) -> None:
    """Oracle: neither a file nor a folder is made where it was, though an empty folder is there;
    when it is back everything goes on."""
    retry.retry_policy.limit_s = 2
    behind = tmp_path / "behind"
    behind.mkdir()
    (behind / "ledger").mkdir()
    where = resolve_place(tmp_path / "study")
    assert isinstance(where, Path)
    where.mkdir()

    def mount() -> None:
        subprocess.run(["mount", "--bind", behind, where], check=True)

    mount()
    try:
        make_folder(where / "checkpoints" / "3", where)
        mounts.unmount(where)
        with pytest.raises(StorageError, match=r"the folder .*study is gone; waited for"):
            make_folder(where / "checkpoints" / "4", where)
        with pytest.raises(StorageError, match=r"the folder .*ledger is gone; waited for"):
            write_atomic(where / "ledger" / "part", b"1")
        assert list(where.iterdir()) == []
        retry.retry_policy.limit_s = 20
        timer = threading.Timer(3, mount)
        timer.start()
        write_atomic(where / "ledger" / "part", b"1")
        timer.join()
        assert (behind / "ledger" / "part").read_bytes() == b"1"
        assert any("the folder" in note for note in said)
    finally:
        mounts.unmount(where)


@pytest.mark.skipif(mounts.no_fuse() is not None, reason=str(mounts.no_fuse()))
def test_a_file_that_is_replaced_while_it_is_open(tmp_path: Path) -> None:
    """Oracle: the open file is stale, as on a network's file system, the new one is there, and the
    server goes on."""
    with Served(tmp_path / "where", tmp_path / "behind") as served:
        write_atomic(resolve_place(served.where) / "x", b"1")
        with (served.where / "x").open("rb") as opened:
            write_atomic(resolve_place(served.where) / "x", b"22")
            with pytest.raises(OSError, match=os.strerror(errno.ESTALE)):
                os.fstat(opened.fileno())
        assert (served.where / "x").read_bytes() == b"22"


@pytest.mark.skipif(mounts.no_fuse() is not None, reason=str(mounts.no_fuse()))
def test_a_mount_that_does_not_answer(
    tmp_path: Path, said: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Oracle: every call comes back within the limit, with a message; said after a while; when the
    server goes on the call that waited is done. A dead server is waited for in the same way."""
    monkeypatch.setattr(retry, "SILENT_S", 1.0)
    with Served(tmp_path / "where", tmp_path / "behind") as served:
        folder = resolve_place(served.where)
        write_atomic(folder / "x", b"1")
        assert names(folder) == ["x"]
        served.stop()
        retry.retry_policy.limit_s = 0.5
        for what in (
            lambda: write_atomic(folder / "x", b"2"),
            lambda: (folder / "x").read_bytes(),
            lambda: names(folder),
            lambda: (folder / "x").exists(),
            lambda: (folder / "x").unlink(),
            lambda: remove_tree(folder / "sub"),
            lambda: make_folder(folder / "sub", folder),
            lambda: quarantine(folder / "x"),
            lambda: resolve_place(served.where / "y"),
        ):
            with pytest.raises(StorageError, match="storage has not answered for"):
                what()
        retry.retry_policy.limit_s = 60
        retry.retry_policy.spent = False
        timer = threading.Timer(4, served.go_on)
        timer.start()
        write_atomic(folder / "z", b"3")
        timer.join()
        assert (tmp_path / "behind" / "z").read_bytes() == b"3"
        assert any("no answer for" in note for note in said)
        served.kill()
        retry.retry_policy.limit_s = 2
        with pytest.raises(StorageError, match=r"not connected; waited for"):
            write_atomic(folder / "z", b"4")


def test_calls_share_a_thread(said: list[str]) -> None:
    """Oracle: calls one after the other, also those that fail, run in one other thread. A call that
    does not return keeps its thread: the next calls have another one, and get their own answers."""

    def fail() -> int:
        seen.append(threading.get_ident())
        raise FileNotFoundError

    seen: list[int] = []
    for _ in range(3):
        seen.append(retry.with_retries("asking", threading.get_ident))
        with pytest.raises(FileNotFoundError):
            retry.with_retries("asking", fail)
    assert len(set(seen)) == 1
    assert seen[0] != threading.get_ident()
    answered = threading.Event()
    retry.retry_policy.limit_s = 0.5
    with pytest.raises(StorageError, match="storage has not answered for 1 s"):
        retry.with_retries("asking", answered.wait)
    retry.retry_policy.limit_s = 600
    other = retry.with_retries("asking", threading.get_ident)
    assert other != seen[0]
    answered.set()
    hung = [thread for thread in threading.enumerate() if thread.ident == seen[0]]
    for thread in hung:
        thread.join(10)
        assert not thread.is_alive()
    assert retry.with_retries("asking", lambda: "mine") == "mine"


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")
def test_calls_after_a_fork() -> None:
    """Oracle: a forked process, which has none of its parent's threads, gets an answer."""
    code = """
import os
from raycae.storage import retry
assert retry.with_retries("asking", lambda: 1) == 1
child = os.fork()
if not child:
    os._exit(retry.with_retries("asking", lambda: 7))
assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
"""
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
