"""Where results lie: a folder, or a URI of an object store. What raycae writes there is whole or
absent, and a storage that fails for a while is waited for.

A local place is a `pathlib.Path`; a `StorePath` has as much of its interface as a study needs.
"""

from __future__ import annotations

import errno
import hashlib
import os
import queue
import re
import shutil
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TypeVar
from urllib.parse import parse_qs, urlsplit

from pyarrow import ArrowException
from pyarrow.fs import FileSelector, FileSystem, FileType, S3FileSystem

from raycae.errors import InputError, StorageError

T = TypeVar("T")

SILENT_S = 10.0
"""A storage that has not answered for so long is waited for aloud."""
LONGEST_PAUSE_S = 30.0
LOST_FOR_GOOD = {
    errno.ENOSPC,
    errno.EDQUOT,
    errno.EROFS,
    errno.EACCES,
    errno.EPERM,
    errno.ENOTDIR,
    errno.EISDIR,
    errno.ENAMETOOLONG,
    errno.EFBIG,
}
"""Waiting does not help: somebody has to make room, or give leave."""
REFUSED_FOR_GOOD = re.compile(
    "ACCESS_DENIED|NO_SUCH_BUCKET|INVALID_ACCESS_KEY|SIGNATURE_DOES_NOT_MATCH|HTTP status 40[0134]"
)
"""The same in the words of object stores, which pyarrow hands on as plain `OSError`s."""


@dataclass
class Patience:
    """How a process waits for its storage: at most `limit_s` for one thing, and not for long once
    somebody wants the process to end (`over`), saying through `say` what it waits for."""

    limit_s: float = 600.0
    say: Callable[[str], None] = lambda note: None
    over: Callable[[], bool] = lambda: False


patience = Patience()
"""This process's own; a search lets its live view say what is waited for."""


def patiently(what: str, action: Callable[[], T]) -> T:
    """Do `action`; where the storage fails in a way that may pass, do it again, later and later.

    Raises `StorageError` where waiting does not help or has not helped, and what `action` raises
    besides: `FileNotFoundError` is an answer.
    """
    begun = time.monotonic()
    pause = 0.5
    while True:
        try:
            return _answer(what, action, begun)
        except (FileNotFoundError, _NoAnswer):
            raise
        except OSError as error:
            reason = _words(error)
            if error.errno in LOST_FOR_GOOD or REFUSED_FOR_GOOD.search(str(error)):
                raise StorageError(f"{what}: {reason}") from None
        waited = time.monotonic() - begun
        if waited + pause > _limit_s():
            raise StorageError(f"{what}: {reason}; waited for {waited:.0f} s")
        patience.say(f"waiting for the storage: {what}: {reason}")
        time.sleep(pause)
        pause = min(2 * pause, LONGEST_PAUSE_S)


class _NoAnswer(StorageError):
    """A call into the storage that does not come back."""


def _answer(what: str, action: Callable[[], T], begun: float) -> T:
    """What `action` returns or raises, in a thread of its own: a mount whose server is gone holds
    a caller for ever, and nothing can wake it."""
    outcome: queue.SimpleQueue[tuple[T | None, BaseException | None]] = queue.SimpleQueue()

    def attempt() -> None:
        try:
            outcome.put((action(), None))
        except BaseException as error:
            outcome.put((None, error))

    threading.Thread(target=attempt, daemon=True).start()
    at_once = time.monotonic()
    while True:
        try:
            value, error = outcome.get(timeout=1.0)
        except queue.Empty:
            silent = time.monotonic() - at_once
            if silent > SILENT_S:
                patience.say(f"waiting for the storage: {what}: no answer for {silent:.0f} s")
            if time.monotonic() - begun > _limit_s():
                raise _NoAnswer(
                    f"{what}: the storage has not answered for {silent:.0f} s"
                ) from None
            continue
        if error is not None:
            raise error
        return value  # type: ignore[return-value]


def _limit_s() -> float:
    return min(SILENT_S, patience.limit_s) if patience.over() else patience.limit_s


def _words(error: OSError) -> str:
    return error.strerror or (str(error).splitlines() or [type(error).__name__])[0]


class StorePath:
    """A path in an object store, e.g. `s3://bucket/results/ex3?endpoint_override=127.0.0.1:9000`.

    Writing is one PUT: a reader sees all of it or nothing.
    """

    def __init__(self, filesystem: FileSystem, scheme: str, path: str, query: str) -> None:
        self._filesystem, self._scheme, self._query = filesystem, scheme, query
        self._path = PurePosixPath(path)
        self.name = self._path.name

    def __str__(self) -> str:
        return f"{self._scheme}://{self._path}" + (f"?{self._query}" if self._query else "")

    def __repr__(self) -> str:
        return f"StorePath({str(self)!r})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, StorePath) and str(self) == str(other)

    def __hash__(self) -> int:
        return hash(str(self))

    def __truediv__(self, name: str) -> StorePath:
        return StorePath(self._filesystem, self._scheme, str(self._path / name), self._query)

    @property
    def parent(self) -> StorePath:
        return StorePath(self._filesystem, self._scheme, str(self._path.parent), self._query)

    @property
    def stem(self) -> str:
        return self._path.stem

    def read_bytes(self) -> bytes:
        def read() -> bytes:
            with self._filesystem.open_input_stream(str(self._path)) as stream:
                content: bytes = stream.read()
                return content

        return patiently(f"reading {self}", read)

    def write_bytes(self, content: bytes) -> None:
        def put() -> None:
            with self._filesystem.open_output_stream(str(self._path)) as stream:
                stream.write(content)

        patiently(f"writing {self}", put)

    def exists(self) -> bool:
        return self._type() != FileType.NotFound

    def is_file(self) -> bool:
        return self._type() == FileType.File

    def is_dir(self) -> bool:
        return self._type() == FileType.Directory

    def iterdir(self) -> Iterator[StorePath]:
        selector = FileSelector(str(self._path), allow_not_found=True)
        found = patiently(f"listing {self}", lambda: self._filesystem.get_file_info(selector))
        return (self / info.base_name for info in found)

    def mkdir(self, *, parents: bool = False, exist_ok: bool = False) -> None:
        """An object store has no folders."""

    def unlink(self, *, missing_ok: bool = False) -> None:
        try:
            patiently(f"deleting {self}", lambda: self._filesystem.delete_file(str(self._path)))
        except FileNotFoundError:
            if not missing_ok:
                raise

    def remove_tree(self) -> None:
        def remove() -> None:
            self._filesystem.delete_dir_contents(str(self._path), missing_dir_ok=True)

        patiently(f"deleting {self}", remove)

    def _type(self) -> FileType:
        path = str(self._path)
        kind: FileType = patiently(
            f"looking for {self}", lambda: self._filesystem.get_file_info(path).type
        )
        return kind


Place = Path | StorePath


def place(where: str | Path | StorePath) -> Place:
    """A folder's path, absolute, or the place that a URI names. Raises `InputError`.

    S3 takes its credentials from the environment or the profile files; `endpoint_override`,
    `scheme` and `region` stand behind the `?`.
    """
    if isinstance(where, StorePath):
        return where
    parts = urlsplit(str(where))
    if not re.match("[a-z][a-z0-9+]+://", str(where)):
        return Path(where).expanduser().resolve()
    if parts.scheme == "file":
        return Path(parts.path).resolve()
    shown = f"{parts.scheme}://{parts.hostname or ''}{parts.path}"
    if "@" in parts.netloc or re.search("(access|secret)_key", parts.query):
        raise InputError(
            f"{shown}: leave credentials out of the URI; "
            "the environment and the usual profile files are asked"
        )
    try:
        filesystem, path = FileSystem.from_uri(str(where))
    except (ArrowException, OSError, ValueError) as error:
        raise InputError(
            f"{shown}: a folder, or a URI of a file system that pyarrow knows: {error}"
        ) from None
    if isinstance(filesystem, S3FileSystem):
        filesystem = _s3(filesystem, parts.query)
    return StorePath(filesystem, parts.scheme, path, parts.query)


def _s3(found: S3FileSystem, query: str) -> S3FileSystem:
    """The same store, with a small file as one PUT and requests that end: a URI has no words for
    either."""
    options = {key: values[-1] for key, values in parse_qs(query).items()}
    return S3FileSystem(
        region=found.region,
        endpoint_override=options.get("endpoint_override"),
        scheme=options.get("scheme", "https"),
        connect_timeout=5,
        request_timeout=20,
        allow_delayed_open=True,
    )


def write_whole(path: Place, content: bytes) -> None:
    """Write `content` to `path` so that a reader, at any moment and after a power cut, finds the
    old file or the new one and nothing between.

    On a file system the temporary file lies in the same folder under a name that begins with a
    dot, which readers of Parquet folders pass over. Raises `StorageError`; the temporary file is
    gone then.
    """
    if isinstance(path, StorePath):
        path.write_bytes(content)
        return

    def write() -> None:
        try:
            _write_aside(path, content)
        except FileNotFoundError as error:
            # The folder was there when the study was opened: its mount has gone.
            raise OSError(f"the folder {path.parent} is gone") from error

    patiently(f"writing {path}", write)


def remove_tree(folder: Place) -> None:
    """Delete what lies in `folder`, and itself. What cannot be deleted stays."""
    if isinstance(folder, StorePath):
        folder.remove_tree()
    else:
        shutil.rmtree(folder, ignore_errors=True)


def set_aside(path: Place) -> Place:
    """Move a file that cannot be read out of the way, into `damaged/` beside it, for a person to
    look at. Returns where it is now."""
    to = path.parent / "damaged" / f"{path.name}.{uuid.uuid4().hex[:4]}"
    to.parent.mkdir(exist_ok=True)
    if isinstance(path, StorePath):
        write_whole(to, path.read_bytes())
        path.unlink(missing_ok=True)
    else:
        path.rename(str(to))
    return to


def digest(content: bytes) -> str:
    """Tells a file from a damaged one: 16 bytes of BLAKE2b, in hexadecimal."""
    return hashlib.blake2b(content, digest_size=16).hexdigest()


def _write_aside(path: Path, content: bytes) -> None:
    aside = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}")
    try:
        with aside.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        aside.replace(path)
    except BaseException:
        aside.unlink(missing_ok=True)
        raise
    _sync_folder(path.parent)


def _sync_folder(folder: Path) -> None:
    """A rename is durable only once the folder that holds the name is."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
