"""Atomic writes, folder trees, checksums and quarantine."""

from __future__ import annotations

import hashlib
import os
import shutil
import uuid
from contextlib import suppress
from pathlib import Path

from pyarrow.fs import LocalFileSystem, copy_files

from raycae.storage.paths import Place, StorePath
from raycae.storage.retry import with_retries


def write_atomic(path: Place, content: bytes) -> None:
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
            write_beside(path, content)
        except FileNotFoundError as error:
            # The folder was there when the study was opened: its mount has gone.
            raise OSError(f"the folder {path.parent} is gone") from error

    with_retries(f"writing {path}", write)


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

    with_retries(f"writing {folder}", make)


def remove_tree(folder: Place) -> None:
    """Delete what lies in `folder`, and itself. What cannot be deleted stays."""
    if isinstance(folder, StorePath):
        folder.remove_tree()
    else:
        tree = folder
        with_retries(f"deleting {tree}", lambda: shutil.rmtree(tree, ignore_errors=True))


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
        with_retries(f"fetching {folder}", fetch)
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def quarantine(path: Place) -> Place:
    """Move a file that cannot be read out of the way, into `damaged/` beside it, for a person to
    look at. Returns where it is now."""
    to = path.parent / "damaged" / f"{path.name}.{uuid.uuid4().hex[:4]}"
    make_folder(to.parent, path.parent)
    if isinstance(path, StorePath):
        write_atomic(to, path.read_bytes())
        path.unlink(missing_ok=True)
    else:
        file = path
        with_retries(f"moving {path}", lambda: file.rename(str(to)))
    return to


def checksum(content: bytes) -> str:
    """Tells a file from a damaged one: 16 bytes of BLAKE2b, in hexadecimal."""
    return hashlib.blake2b(content, digest_size=16).hexdigest()


def write_beside(path: Path, content: bytes) -> None:
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
    sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """A rename is durable only once the folder that holds the name is."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
