"""Where results lie: a folder, or a URI of an object store. What raycae writes there is whole or
absent, and a storage that fails for a while is waited for.

A local place is a `pathlib.Path` whose calls come back, a `LocalPath`; a `StorePath` has as much of
its interface as a study needs.
"""

from __future__ import annotations

import functools
import re
import sys
from collections.abc import Generator, Iterator
from pathlib import Path, PurePosixPath
from urllib.parse import SplitResult, parse_qs, urlencode, urlsplit

from pyarrow import ArrowException
from pyarrow.fs import AwsStandardS3RetryStrategy, FileSelector, FileSystem, FileType, S3FileSystem

from raycae.errors import InputError
from raycae.storage.retry import with_retries

if sys.platform == "win32":
    from pathlib import WindowsPath as _LocalPath
else:
    from pathlib import PosixPath as _LocalPath


class LocalPath(_LocalPath):
    """A path on a file system, which may be one whose server has gone: no call into it blocks for
    ever, and each says what it waits for."""

    def read_bytes(self) -> bytes:
        return with_retries(f"reading {self}", super().read_bytes)

    def exists(self, **how: bool) -> bool:
        return with_retries(f"looking for {self}", lambda: super(LocalPath, self).exists(**how))

    def is_file(self, **how: bool) -> bool:
        return with_retries(f"looking for {self}", lambda: super(LocalPath, self).is_file(**how))

    def is_dir(self, **how: bool) -> bool:
        return with_retries(f"looking for {self}", lambda: super(LocalPath, self).is_dir(**how))

    def iterdir(self) -> Generator[LocalPath, None, None]:
        found = with_retries(f"listing {self}", lambda: list(Path(self).iterdir()))
        return (LocalPath(path) for path in found)

    def unlink(self, missing_ok: bool = False) -> None:
        with_retries(f"deleting {self}", lambda: super(LocalPath, self).unlink(missing_ok))


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

        return with_retries(f"reading {self}", read)

    def write_bytes(self, content: bytes) -> None:
        def put() -> None:
            with self._filesystem.open_output_stream(str(self._path)) as stream:
                stream.write(content)

        with_retries(f"writing {self}", put)

    def exists(self) -> bool:
        return self._type() != FileType.NotFound

    def is_file(self) -> bool:
        return self._type() == FileType.File

    def is_dir(self) -> bool:
        return self._type() == FileType.Directory

    def iterdir(self) -> Iterator[StorePath]:
        selector = FileSelector(str(self._path), allow_not_found=True)
        found = with_retries(f"listing {self}", lambda: self._filesystem.get_file_info(selector))
        return (self / info.base_name for info in found)

    def mkdir(self, *, parents: bool = False, exist_ok: bool = False) -> None:
        """An object store has no folders."""

    def unlink(self, *, missing_ok: bool = False) -> None:
        try:
            with_retries(f"deleting {self}", lambda: self._filesystem.delete_file(str(self._path)))
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

        with_retries(f"deleting {self}", remove)

    def _type(self) -> FileType:
        path = str(self._path)
        kind: FileType = with_retries(
            f"looking for {self}", lambda: self._filesystem.get_file_info(path).type
        )
        return kind


Place = Path | StorePath


def resolve_place(where: str | Path | StorePath) -> Place:
    """A folder's path, absolute, or the place that a URI names. Raises `InputError`.

    S3 takes its credentials from the environment or the profile files; `endpoint_override`,
    `scheme` and `region` stand behind the `?`.
    """
    if isinstance(where, StorePath):
        return where
    text = str(where)
    if isinstance(where, Path) or not re.match("[A-Za-z][A-Za-z0-9+]+:/", text):
        return LocalPath(resolve_path(text))
    parts = urlsplit(text)
    if parts.scheme == "file":
        return LocalPath(resolve_path(parts.path))
    shown = f"{parts.scheme}://{parts.hostname or ''}{parts.path}"
    if not text.lower().startswith(f"{parts.scheme}://") or not parts.netloc:
        raise InputError(f"{text}: this is neither a folder nor a URI such as s3://BUCKET/PATH")
    if CREDENTIALS.search(parts.query) or carries_credentials(parts):
        raise InputError(
            f"{shown}: leave credentials out of the URI; "
            "the environment and the usual profile files are asked"
        )
    bare = f"{parts.scheme}://{parts.netloc}{parts.path.rstrip('/')}"
    filesystem, path = make_client(bare, parts.query, shown)
    return StorePath(filesystem, bare, path, parts.query)


CREDENTIALS = re.compile("(access|secret|account)_key|token|password", re.I)


def carries_credentials(parts: SplitResult) -> bool:
    # Azure's containers stand before the @.
    return parts.password is not None or ("@" in parts.netloc and parts.scheme in ("s3", "gs"))


def resolve_path(path: str) -> Path:
    try:
        return with_retries(f"looking for {path}", lambda: Path(path).expanduser().resolve())
    except (RuntimeError, ValueError) as error:  # ~nobody, links in a circle; no name of a file
        raise InputError(f"{path}: {error}") from None


def make_client(bare: str, query: str, shown: str) -> tuple[FileSystem, str]:
    """Who speaks with the store, and what he calls the place. Raises `InputError`."""
    scheme = bare.partition(":")[0]
    options = {key: values[-1] for key, values in parse_qs(query).items()}
    if scheme in ("gs", "gcs"):
        options.setdefault("retry_limit_seconds", "10")  # `with_retries` does the waiting
    uri = bare + (f"?{urlencode(options)}" if options else "")
    try:
        if scheme == "s3" and not options.keys() & {"region", "endpoint_override"}:
            # Amazon is asked where the bucket is.
            filesystem, path = with_retries(f"asking for {shown}", lambda: FileSystem.from_uri(uri))
        else:
            filesystem, path = FileSystem.from_uri(uri)
    except (ArrowException, OSError, ValueError) as error:
        raise InputError(
            f"{shown}: a folder, or a URI of a file system that pyarrow knows: {str(error)[:200]}"
        ) from None
    if isinstance(filesystem, S3FileSystem):
        scheme, endpoint = options.get("scheme", "https"), options.get("endpoint_override")
        filesystem = make_s3_client(filesystem.region, endpoint, scheme)
    return filesystem, path


@functools.cache
def make_s3_client(region: str, endpoint: str | None, scheme: str) -> S3FileSystem:
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
