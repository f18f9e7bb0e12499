"""Paths of results: a local folder, or the URI of an object store.

A local path is a `LocalPath`, a `pathlib.Path` whose calls always return. A `StorePath` has the
part of its interface that a study needs.
"""

from __future__ import annotations

import functools
import re
import sys
from collections.abc import Generator, Iterator
from contextlib import suppress
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
    """A path on a file system that may hang, such as a mount whose server is gone.

    Every call is retried and ends after a time limit; messages name what it waits for.
    """

    def read_bytes(self) -> bytes:
        """Read the file, with retries."""
        return with_retries(f"reading {self}", super().read_bytes)

    def exists(self, **how: bool) -> bool:
        """Check whether the path exists, with retries."""
        return with_retries(f"looking for {self}", lambda: super(LocalPath, self).exists(**how))

    def is_file(self, **how: bool) -> bool:
        """Check whether the path is a file, with retries."""
        return with_retries(f"looking for {self}", lambda: super(LocalPath, self).is_file(**how))

    def is_dir(self, **how: bool) -> bool:
        """Check whether the path is a folder, with retries."""
        return with_retries(f"looking for {self}", lambda: super(LocalPath, self).is_dir(**how))

    def iterdir(self) -> Generator[LocalPath, None, None]:
        """List the folder, with retries."""
        found = with_retries(f"listing {self}", lambda: list(Path(self).iterdir()))
        return (LocalPath(path) for path in found)

    def unlink(self, missing_ok: bool = False) -> None:
        """Delete the file, with retries."""
        with_retries(f"deleting {self}", lambda: super(LocalPath, self).unlink(missing_ok))


class StorePath:
    """A path in an object store.

    An example is `s3://bucket/results/ex3?endpoint_override=127.0.0.1:9000`. Writing is one PUT:
    a reader sees the complete object or none. A repeated PUT has no effect, so it is safe to retry
    one whose answer was lost.
    """

    def __init__(self, filesystem: FileSystem, uri: str, path: str, query: str) -> None:
        """Keep a path together with the client of its store.

        Args:
            filesystem: The client.
            uri: The URI without its query.
            path: The name of the path within the file system.
            query: The query of the URI, without the question mark.
        """
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
        """Return the path without its last part."""
        uri, path = self._uri.rpartition("/")[0], str(self._path.parent)
        return StorePath(self._filesystem, uri, path, self._query)

    @property
    def key(self) -> str:
        """Return bucket and key, without what the URI says about the way to the store."""
        return str(self._path)

    @property
    def stem(self) -> str:
        """Return the name without its suffix."""
        return self._path.stem

    def read_bytes(self) -> bytes:
        """Read the object.

        Returns:
            Its content.

        Raises:
            FileNotFoundError: There is no such object.
            StorageError: The store does not answer or refuses.
        """

        def read() -> bytes:
            with self._filesystem.open_input_stream(str(self._path)) as stream:
                content: bytes = stream.read()
                return content

        return with_retries(f"reading {self}", read)

    def write_bytes(self, content: bytes) -> None:
        """Write the object in one PUT.

        Args:
            content: Its content.

        Raises:
            StorageError: The store does not answer or refuses.
        """

        def put() -> None:
            with self._filesystem.open_output_stream(str(self._path)) as stream:
                stream.write(content)

        with_retries(f"writing {self}", put)

    def exists(self) -> bool:
        """Return whether there is an object or a folder of this name."""
        return self._type() != FileType.NotFound

    def is_file(self) -> bool:
        """Return whether there is an object of this name."""
        return self._type() == FileType.File

    def is_dir(self) -> bool:
        """Return whether there are objects below this name."""
        return self._type() == FileType.Directory

    def iterdir(self) -> Iterator[StorePath]:
        """List the objects and folders directly below this name; none if it is missing."""
        selector = FileSelector(str(self._path), allow_not_found=True)
        found = with_retries(f"listing {self}", lambda: self._filesystem.get_file_info(selector))
        return (self / info.base_name for info in found)

    def mkdir(self, *, parents: bool = False, exist_ok: bool = False) -> None:
        """Do nothing, because an object store has no folders.

        Args:
            parents: Ignored.
            exist_ok: Ignored.
        """

    def unlink(self, *, missing_ok: bool = False) -> None:
        """Delete the object.

        Args:
            missing_ok: Accept that there is no such object.

        Raises:
            FileNotFoundError: There is none, unless `missing_ok`.
            StorageError: The store does not answer or refuses.
        """
        try:
            with_retries(f"deleting {self}", lambda: self._filesystem.delete_file(str(self._path)))
        except FileNotFoundError:
            if not missing_ok:
                raise

    def require_writable(self) -> None:
        """Raise `StorageError` if nothing can be written here."""
        probe = self / ".probe"
        probe.write_bytes(b"")
        probe.unlink(missing_ok=True)

    def remove_tree(self) -> None:
        """Delete all objects below this name, and the one that Arrow keeps for an empty folder."""

        def remove() -> None:
            with suppress(FileNotFoundError):
                self._filesystem.delete_dir(str(self._path))

        with_retries(f"deleting {self}", remove)

    def _type(self) -> FileType:
        path = str(self._path)
        kind: FileType = with_retries(
            f"looking for {self}", lambda: self._filesystem.get_file_info(path).type
        )
        return kind


Place = Path | StorePath


def resolve_place(where: str | Path | StorePath) -> Place:
    """Resolve the text that names a folder or an object store.

    S3 takes its credentials from the environment or the profile files. `endpoint_override`,
    `scheme` and `region` go into the query of the URI.

    Args:
        where: A folder, or a URI such as `s3://BUCKET/PATH`.

    Returns:
        The absolute path of the folder, or the path in the store.

    Raises:
        InputError: It is neither, it holds credentials, or the store is unknown.
    """
    if isinstance(where, StorePath):
        return where
    text = str(where)
    if isinstance(where, Path) or not re.match("[A-Za-z][A-Za-z0-9+]+:/", text):
        return LocalPath(resolve_path(text))
    try:
        parts = urlsplit(text)
    except ValueError as error:  # For example a bracket that is not closed.
        safe_uri = re.sub("//.*@", "//", text.partition("?")[0])
        raise InputError(f"{safe_uri}: not a valid URI: {error}") from None
    if parts.scheme == "file":
        return LocalPath(resolve_path(parts.path))
    safe_uri = f"{parts.scheme}://{parts.hostname or ''}{parts.path}"
    if not text.lower().startswith(f"{parts.scheme}://") or not parts.netloc:
        raise InputError(f"{text}: neither a folder nor a URI such as s3://BUCKET/PATH")
    if CREDENTIALS.search(parts.query) or carries_credentials(parts):
        raise InputError(
            f"{safe_uri}: leave credentials out of the URI; "
            "they are read from the environment or the profile files"
        )
    bare_uri = f"{parts.scheme}://{parts.netloc}{parts.path.rstrip('/')}"
    filesystem, path = make_client(bare_uri, parts.query, safe_uri)
    return StorePath(filesystem, bare_uri, path, parts.query)


CREDENTIALS = re.compile("(access|secret|account)_key|token|password", re.I)
"""Names in a query whose values are secret."""


def carries_credentials(parts: SplitResult) -> bool:
    """Return whether a URI holds a user or a password.

    Args:
        parts: The parts of the URI.

    Returns:
        Whether it does. Azure writes the container before the `@`, so only S3 and GCS count there.
    """
    return parts.password is not None or ("@" in parts.netloc and parts.scheme in ("s3", "gs"))


def resolve_path(path: str) -> Path:
    """Resolve a local path to an absolute one; expand `~`.

    Args:
        path: The path as typed.

    Returns:
        The absolute path.

    Raises:
        InputError: It is not a valid path, or links form a circle.
    """
    try:
        return with_retries(f"looking for {path}", lambda: Path(path).expanduser().resolve())
    except (
        RuntimeError,
        ValueError,
    ) as error:  # an unknown user after ~, a circle of links, or an invalid name
        raise InputError(f"{path}: {error}") from None


def make_client(bare_uri: str, query: str, safe_uri: str) -> tuple[FileSystem, str]:
    """Connect to the object store that a URI names.

    Args:
        bare_uri: The URI without its query.
        query: The query of the URI.
        safe_uri: The URI without credentials, for messages.

    Returns:
        The client, and the name of the path within it.

    Raises:
        InputError: pyarrow does not know the store, or its options are wrong.
    """
    scheme = bare_uri.partition(":")[0]
    options = {key: values[-1] for key, values in parse_qs(query).items()}
    if scheme in ("gs", "gcs"):
        options.setdefault("retry_limit_seconds", "10")  # because `with_retries` waits
    uri = bare_uri + (f"?{urlencode(options)}" if options else "")
    try:
        if scheme == "s3" and not options.keys() & {"region", "endpoint_override"}:
            # This asks Amazon for the region of the bucket.
            filesystem, path = with_retries(
                f"asking for {safe_uri}", lambda: FileSystem.from_uri(uri)
            )
        else:
            filesystem, path = FileSystem.from_uri(uri)
    except (ArrowException, OSError, ValueError) as error:
        raise InputError(
            f"{safe_uri}: expected a folder, or the URI of a file system that pyarrow supports: "
            f"{str(error)[:200]}"
        ) from None
    if isinstance(filesystem, S3FileSystem):
        scheme, endpoint = options.get("scheme", "https"), options.get("endpoint_override")
        filesystem = make_s3_client(filesystem.region, endpoint, scheme)
    return filesystem, path


@functools.cache
def make_s3_client(region: str, endpoint: str | None, scheme: str) -> S3FileSystem:
    """Create an S3 client that fails fast; a URI cannot set these options.

    By default, an unanswered PUT takes minutes. A small file is one PUT. Deleting takes several
    requests, each of which a busy store may refuse once, so every request is tried twice.

    Args:
        region: The region of the bucket.
        endpoint: Host and port of the store; None for Amazon's.
        scheme: "https" or "http".

    Returns:
        The client.
    """
    return S3FileSystem(
        region=region,
        endpoint_override=endpoint,
        scheme=scheme,
        connect_timeout=5,
        request_timeout=10,
        retry_strategy=AwsStandardS3RetryStrategy(max_attempts=2),
        allow_delayed_open=True,
    )
