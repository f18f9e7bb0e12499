"""Atomic writes, folder trees, checksums and quarantine."""

from __future__ import annotations

import hashlib
import os
import shutil
import uuid
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from pyarrow.fs import LocalFileSystem, copy_files

from raycae.errors import InputError
from raycae.storage.paths import Place, StorePath
from raycae.storage.retry import with_retries

MAX_NAME_BYTES = 100
"""How much of a file's name is part of the name of its temporary file, in bytes. File systems allow
names of 255 bytes, some fewer."""


def write_atomic(path: Place, content: bytes) -> None:
    """Write a file atomically and durably.

    At any moment, and after a power cut, a reader finds either the old file or the new one. On a
    file system the temporary file is in the same folder. Its name begins with a full stop, so
    readers of Parquet folders ignore it.

    Args:
        path: The file to write or replace.
        content: Its new content.

    Raises:
        StorageError: The storage does not take the file; the temporary file is removed.
        InputError: The name is longer than the file system allows.
    """
    if isinstance(path, StorePath):
        path.write_bytes(content)
        return

    def write() -> None:
        try:
            write_beside(path, content)
        except FileNotFoundError as error:
            # The folder existed when the study was opened, so its mount is gone.
            raise OSError(f"the folder {path.parent} is gone") from error

    try:
        with_retries(f"writing {path}", write)
    except OSError as error:  # All other errors of the storage are a `StorageError`.
        raise InputError(f"{path}: cannot be written: {error.strerror}") from None


def make_folder(folder: Place, within: Place) -> None:
    """Create a folder and its missing parents below an existing folder.

    An empty or missing `within` is the mount point of a lost mount: nothing is written there.

    Args:
        folder: The folder to create.
        within: A parent of it that exists and is not empty.

    Raises:
        StorageError: `within` is gone, or the folder cannot be created.
    """
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


def delete_files(paths: Sequence[Place]) -> None:
    """Delete files; those that are gone already are fine.

    Local files are deleted in one call to the storage, because such a call costs 0.4 ms of CPU.

    Args:
        paths: The files, all on the same file system or object store.

    Raises:
        StorageError: The storage does not delete them.
    """
    local = [path for path in paths if isinstance(path, Path)]

    def delete() -> None:
        for path in local:
            with suppress(FileNotFoundError):
                os.unlink(path)  # noqa: PTH108 - not LocalPath's, which waits

    if local:
        with_retries(f"deleting {local[0]}", delete)
    for path in paths:
        if isinstance(path, StorePath):
            path.unlink(missing_ok=True)


def remove_tree(folder: Place) -> None:
    """Delete a folder with its content; keep what cannot be deleted.

    Args:
        folder: The folder to delete.
    """
    if isinstance(folder, StorePath):
        folder.remove_tree()
    else:
        tree = folder
        with_retries(f"deleting {tree}", lambda: shutil.rmtree(tree, ignore_errors=True))


def fetch_tree(folder: Place, target: Path) -> None:
    """Copy a folder into a new local folder, completely or not at all.

    Args:
        folder: The folder to copy.
        target: The new folder.

    Raises:
        StorageError: The folder cannot be copied.
    """
    temporary = make_temporary_path(target)
    if isinstance(folder, StorePath):
        filesystem, path = folder._filesystem, str(folder._path)
    else:
        filesystem, path = LocalFileSystem(), str(folder)

    def fetch() -> None:
        target.parent.mkdir(parents=True, exist_ok=True)
        copy_files(path, str(temporary), filesystem, LocalFileSystem())
        temporary.rename(target)

    try:
        with_retries(f"fetching {folder}", fetch)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def require_new_file(path: Path) -> None:
    """Raise `InputError` if a file exists, because commands do not overwrite files.

    Args:
        path: The file that a command is about to write.

    Raises:
        InputError: It exists, or its folder cannot be read.
    """
    try:
        exists = path.exists()
    except OSError as error:
        raise InputError(f"{path}: cannot be written: {error.strerror}") from None
    if exists:
        raise InputError(
            f"{path}: exists already and is not overwritten. Choose another place with -o."
        )


def require_writable_folder(folder: Path, *, may_be_new: bool = False) -> None:
    """Raise `InputError` unless files can be written into a folder.

    Args:
        folder: The folder.
        may_be_new: Accept a folder that is missing, if it can be created.

    Raises:
        InputError: The folder is missing, is a file or is read-only.
    """
    try:
        nearest = folder
        if may_be_new:
            parents = (folder, *folder.absolute().parents)
            nearest = next(path for path in parents if path.exists())
        if not nearest.is_dir():
            kind = "not a folder" if nearest.exists() else "missing"
            raise InputError(f"Cannot write to {str(folder)!r}: {nearest} is {kind}.")
        if not os.access(nearest, os.W_OK):
            raise InputError(f"Cannot write to {str(folder)!r}: permission denied for {nearest}.")
    except OSError as error:
        raise InputError(f"Cannot write to {str(folder)!r}: {error.strerror}.") from None


def quarantine(path: Place) -> Place:
    """Move an unreadable file into `damaged/` next to it, for later inspection.

    Args:
        path: The damaged file.

    Returns:
        Its new path.

    Raises:
        StorageError: The file cannot be moved.
    """
    target = path.parent / "damaged" / f"{path.name}.{uuid.uuid4().hex[:4]}"
    make_folder(target.parent, path.parent)
    if isinstance(path, StorePath):
        write_atomic(target, path.read_bytes())
        path.unlink(missing_ok=True)
    else:
        file = path
        with_retries(f"moving {path}", lambda: file.rename(str(target)))
    return target


def checksum(content: bytes) -> str:
    """Compute the checksum that detects a damaged file.

    Args:
        content: The content of the file.

    Returns:
        16 bytes of BLAKE2b, as 32 hexadecimal digits.
    """
    return hashlib.blake2b(content, digest_size=16).hexdigest()


def write_beside(path: Path, content: bytes) -> None:
    """Write a local file through a temporary file in the same folder.

    Args:
        path: The file to write or replace.
        content: Its new content.

    Raises:
        OSError: The file cannot be written; the temporary file is removed.
    """
    temporary = make_temporary_path(path)
    try:
        with temporary.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        with suppress(OSError):
            os.unlink(temporary)  # noqa: PTH108 - not LocalPath's, which waits
        raise
    sync_folder(path.parent)


def make_temporary_path(path: Path) -> Path:
    """Return a new path next to a file or folder, under which it is written before its rename.

    Args:
        path: The file or folder to write.

    Returns:
        The path. Its name matches `.*.????????` and is not too long.
    """
    name = os.fsencode(path.name)[:MAX_NAME_BYTES].decode(errors="ignore")
    return path.with_name(f".{name}.{uuid.uuid4().hex[:8]}")


def sync_folder(folder: Path) -> None:
    """Flush a folder to disk, because a rename is durable only then.

    Args:
        folder: The folder that holds the renamed file.
    """
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
