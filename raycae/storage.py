"""Where results lie: a folder, or a URI of an object store. What raycae writes there is whole or
absent, and a storage that fails for a while is waited for.

A local place is a `pathlib.Path` whose calls come back, a `LocalPath`; a `StorePath` has as much of
its interface as a study needs.
"""

from __future__ import annotations

import errno
import functools
import hashlib
import os
import queue
import random
import re
import shutil
import sys
import threading
import time
import uuid
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TypeVar
from urllib.parse import SplitResult, parse_qs, urlencode, urlsplit

from pyarrow import ArrowException
from pyarrow.fs import (
    AwsStandardS3RetryStrategy,
    FileSelector,
    FileSystem,
    FileType,
    LocalFileSystem,
    S3FileSystem,
    copy_files,
)

from raycae.errors import InputError, StorageError

if sys.platform == "win32":
    from pathlib import WindowsPath as _LocalPath
else:
    from pathlib import PosixPath as _LocalPath

T = TypeVar("T")

SILENT_S = 10.0
"""A storage that has not answered for so long is waited for aloud."""
ALOUD_S = 1.0
"""One that has failed for so long too: what passes by itself in a moment is nobody's business."""
LONGEST_PAUSE_S = 5.0
LOST_FOR_GOOD = {
    errno.ENOSPC,
    errno.EDQUOT,
    errno.EROFS,
    errno.EACCES,
    errno.EPERM,
    errno.ENOTDIR,
    errno.EISDIR,
    errno.EFBIG,
    errno.EEXIST,
}
"""Waiting does not help: somebody has to make room, or give leave."""
REFUSED_FOR_GOOD = re.compile(
    "ACCESS_DENIED|NO_SUCH_BUCKET|Bucket '.*' not found|INVALID_ACCESS_KEY|"
    "SIGNATURE_DOES_NOT_MATCH|HTTP status 40[0134]"
)
"""The same in the words of object stores, which pyarrow hands on as plain `OSError`s."""


def _on_stderr(note: str, said: list[str] = []) -> None:  # noqa: B006 - what was said last
    if said != [plain := re.sub(r"\d+", "", note)]:
        print(note, file=sys.stderr, flush=True)
        said[:] = [plain]


@dataclass
class Patience:
    """How a process waits for its storage: at most `limit_s` for one thing, and not for long once
    somebody wants the process to end (`over`), saying through `say` what it waits for. After one
    thing was waited for in vain the next ones are not waited for as long again."""

    limit_s: float = 600.0
    say: Callable[[str], None] = _on_stderr
    over: Callable[[], bool] = lambda: False
    spent: bool = False
    speaker: int | None = None
    """Of many threads that wait, one says so."""

    @contextmanager
    def of(self, say: Callable[[str], None], over: Callable[[], bool]) -> Iterator[None]:
        """While a search runs, what it says through, and when it is to end."""
        before = self.say, self.over
        self.say, self.over = say, over
        try:
            yield
        finally:
            self.say, self.over = before

    def limit(self) -> float:
        return min(SILENT_S, self.limit_s) if self.spent or self.over() else self.limit_s

    def tell(self, note: str) -> None:
        me = threading.get_ident()
        if self.speaker in (None, me):
            self.speaker = me
            self.say(f"waiting for the storage: {note}")

    def ends(self, *, spent: bool) -> None:
        """A thread has its answer, or has waited in vain."""
        self.spent = spent
        if self.speaker == threading.get_ident():
            self.speaker = None


patience = Patience()
"""This process's own; a search lets its live view say what is waited for."""


def patiently(what: str, action: Callable[[], T]) -> T:
    """Do `action`; where the storage fails in a way that may pass, do it again, later and later.

    Raises `StorageError` where waiting does not help or has not helped, and what `action` raises
    besides: `FileNotFoundError` is an answer.
    """
    begun = time.monotonic()
    pause = 0.5
    spent = False
    try:
        while True:
            try:
                return _answer(what, action, begun)
            except FileNotFoundError:
                raise
            except _NoAnswer:
                spent = True
                raise
            except OSError as error:
                if error.errno == errno.ENAMETOOLONG:
                    raise  # of the name, not of the storage
                reason = _words(error)
                if error.errno in LOST_FOR_GOOD or REFUSED_FOR_GOOD.search(str(error)):
                    raise _Refused(f"{what}: {reason}") from None
            waited = time.monotonic() - begun
            if waited + pause > patience.limit():
                spent = True
                raise StorageError(f"{what}: {reason}; waited for {waited:.0f} s")
            if waited >= ALOUD_S:
                patience.tell(f"{what}: {reason}")
            time.sleep(pause * random.uniform(0.7, 1.0))  # or all trials would knock at once
            pause = min(2 * pause, LONGEST_PAUSE_S)
    finally:
        patience.ends(spent=spent)


class _Refused(StorageError):
    """Waiting does not help: no leave, no such bucket, no room."""


@contextmanager
def at_the_door() -> Iterator[None]:
    """While it is looked whether there is what a person named: what the storage refuses is wrong
    input then, an `InputError`."""
    try:
        yield
    except _Refused as error:
        raise InputError(str(error)) from None


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
            if time.monotonic() - begun > patience.limit():
                raise _NoAnswer(
                    f"{what}: the storage has not answered for {silent:.0f} s"
                ) from None
            if silent > SILENT_S:
                patience.tell(f"{what}: no answer for {silent:.0f} s")
            continue
        if error is not None:
            raise error
        return value  # type: ignore[return-value]


def _words(error: OSError) -> str:
    """The cause. Object stores' clients begin with what was asked, which is known here."""
    line = error.strerror or (str(error).splitlines() or [type(error).__name__])[0]
    line = line.partition(": AWS Error ")[2] or line
    return re.split(r" \(Request ID: |; Details: |\. Detail: ", line)[0]


class LocalPath(_LocalPath):
    """A path on a file system, which may be one whose server has gone: no call into it blocks for
    ever, and each says what it waits for."""

    def read_bytes(self) -> bytes:
        return patiently(f"reading {self}", super().read_bytes)

    def exists(self, **how: bool) -> bool:
        return patiently(f"looking for {self}", lambda: super(LocalPath, self).exists(**how))

    def is_file(self, **how: bool) -> bool:
        return patiently(f"looking for {self}", lambda: super(LocalPath, self).is_file(**how))

    def is_dir(self, **how: bool) -> bool:
        return patiently(f"looking for {self}", lambda: super(LocalPath, self).is_dir(**how))

    def iterdir(self) -> Generator[LocalPath, None, None]:
        found = patiently(f"listing {self}", lambda: list(Path(self).iterdir()))
        return (LocalPath(path) for path in found)

    def unlink(self, missing_ok: bool = False) -> None:
        patiently(f"deleting {self}", lambda: super(LocalPath, self).unlink(missing_ok))


class StorePath:
    """A path in an object store, e.g. `s3://bucket/results/ex3?endpoint_override=127.0.0.1:9000`.

    Writing is one PUT: a reader sees all of it or nothing. Doing it twice, because the answer to
    the first was lost, is doing it once.
    """

    def __init__(self, filesystem: FileSystem, uri: str, path: str, query: str) -> None:
        """`path`: what the file system calls `uri`, which stands here without its query."""
        self._filesystem, self._uri, self._query = filesystem, uri, query
        self._path = PurePosixPath(path)
        self.name = self._path.name

    def __str__(self) -> str:
        return self._uri + (f"?{self._query}" if self._query else "")

    def __repr__(self) -> str:
        return f"StorePath({str(self)!r})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, StorePath) and str(self) == str(other)

    def __hash__(self) -> int:
        return hash(str(self))

    def __truediv__(self, name: str) -> StorePath:
        path = str(self._path / name)
        return StorePath(self._filesystem, f"{self._uri}/{name}", path, self._query)

    @property
    def parent(self) -> StorePath:
        uri, path = self._uri.rpartition("/")[0], str(self._path.parent)
        return StorePath(self._filesystem, uri, path, self._query)

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

    def require_writable(self) -> None:
        """Raise `StorageError` where nothing can be written here: no such bucket, no leave."""
        probe = self / ".probe"
        probe.write_bytes(b"")
        probe.unlink(missing_ok=True)

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
    text = str(where)
    if isinstance(where, Path) or not re.match("[A-Za-z][A-Za-z0-9+]+:/", text):
        return LocalPath(_resolved(text))
    parts = urlsplit(text)
    if parts.scheme == "file":
        return LocalPath(_resolved(parts.path))
    shown = f"{parts.scheme}://{parts.hostname or ''}{parts.path}"
    if not text.lower().startswith(f"{parts.scheme}://") or not parts.netloc:
        raise InputError(f"{text}: this is neither a folder nor a URI such as s3://BUCKET/PATH")
    if CREDENTIALS.search(parts.query) or _carries_credentials(parts):
        raise InputError(
            f"{shown}: leave credentials out of the URI; "
            "the environment and the usual profile files are asked"
        )
    bare = f"{parts.scheme}://{parts.netloc}{parts.path.rstrip('/')}"
    filesystem, path = _client(bare, parts.query, shown)
    return StorePath(filesystem, bare, path, parts.query)


CREDENTIALS = re.compile("(access|secret|account)_key|token|password", re.I)


def _carries_credentials(parts: SplitResult) -> bool:
    # Azure's containers stand before the @.
    return parts.password is not None or ("@" in parts.netloc and parts.scheme in ("s3", "gs"))


def _resolved(path: str) -> Path:
    try:
        return patiently(f"looking for {path}", lambda: Path(path).expanduser().resolve())
    except (RuntimeError, ValueError) as error:  # ~nobody, links in a circle; no name of a file
        raise InputError(f"{path}: {error}") from None


def _client(bare: str, query: str, shown: str) -> tuple[FileSystem, str]:
    """Who speaks with the store, and what he calls the place. Raises `InputError`."""
    scheme = bare.partition(":")[0]
    options = {key: values[-1] for key, values in parse_qs(query).items()}
    if scheme in ("gs", "gcs"):
        options.setdefault("retry_limit_seconds", "10")  # `patiently` does the waiting
    uri = bare + (f"?{urlencode(options)}" if options else "")
    try:
        if scheme == "s3" and not options.keys() & {"region", "endpoint_override"}:
            # Amazon is asked where the bucket is.
            filesystem, path = patiently(f"asking for {shown}", lambda: FileSystem.from_uri(uri))
        else:
            filesystem, path = FileSystem.from_uri(uri)
    except (ArrowException, OSError, ValueError) as error:
        raise InputError(
            f"{shown}: a folder, or a URI of a file system that pyarrow knows: {str(error)[:200]}"
        ) from None
    if isinstance(filesystem, S3FileSystem):
        scheme, endpoint = options.get("scheme", "https"), options.get("endpoint_override")
        filesystem = _s3(filesystem.region, endpoint, scheme)
    return filesystem, path


@functools.cache
def _s3(region: str, endpoint: str | None, scheme: str) -> S3FileSystem:
    """With a small file as one PUT, and requests that end soon: a URI has no words for either, and
    by default a PUT that nobody answers takes minutes. A request is asked twice, for to delete
    something takes several, of which a store that is busy may refuse one each time."""
    return S3FileSystem(
        region=region,
        endpoint_override=endpoint,
        scheme=scheme,
        connect_timeout=5,
        request_timeout=10,
        retry_strategy=AwsStandardS3RetryStrategy(max_attempts=2),
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


def make_folder(folder: Place, within: Place) -> None:
    """Make `folder` and what is missing between it and `within`, which has to be there: an empty
    folder is where a mount has been, and nothing is to be written below it. Raises
    `StorageError`."""
    if isinstance(folder, StorePath) or isinstance(within, StorePath):
        return

    def make() -> None:
        try:
            next(Path(within).iterdir())
            for step in reversed((folder, *folder.relative_to(within).parents)):
                (within / step).mkdir(exist_ok=True)
        except (FileNotFoundError, StopIteration) as error:
            raise OSError(f"the folder {within} is gone") from error

    patiently(f"writing {folder}", make)


def remove_tree(folder: Place) -> None:
    """Delete what lies in `folder`, and itself. What cannot be deleted stays."""
    if isinstance(folder, StorePath):
        folder.remove_tree()
    else:
        tree = folder
        patiently(f"deleting {tree}", lambda: shutil.rmtree(tree, ignore_errors=True))


def fetch_tree(folder: Place, to: Path) -> None:
    """Copy what lies in `folder` into the new folder `to`, which is whole or absent. Raises
    `StorageError`."""
    aside = to.with_name(f".{to.name}.{uuid.uuid4().hex[:8]}")
    if isinstance(folder, StorePath):
        filesystem, path = folder._filesystem, str(folder._path)
    else:
        filesystem, path = LocalFileSystem(), str(folder)

    def fetch() -> None:
        to.parent.mkdir(parents=True, exist_ok=True)
        copy_files(path, str(aside), filesystem, LocalFileSystem())
        aside.rename(to)

    try:
        patiently(f"fetching {folder}", fetch)
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def set_aside(path: Place) -> Place:
    """Move a file that cannot be read out of the way, into `damaged/` beside it, for a person to
    look at. Returns where it is now."""
    to = path.parent / "damaged" / f"{path.name}.{uuid.uuid4().hex[:4]}"
    make_folder(to.parent, path.parent)
    if isinstance(path, StorePath):
        write_whole(to, path.read_bytes())
        path.unlink(missing_ok=True)
    else:
        file = path
        patiently(f"moving {path}", lambda: file.rename(str(to)))
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
        with suppress(OSError):
            os.unlink(aside)  # noqa: PTH108 - not LocalPath's, which waits
        raise
    _sync_folder(path.parent)


def _sync_folder(folder: Path) -> None:
    """A rename is durable only once the folder that holds the name is."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
