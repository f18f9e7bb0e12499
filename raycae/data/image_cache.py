"""Keep decoded images in the cache folder, and map them into memory.

A data set is one NumPy file with the images of all splits in order, and a record with checksums.
Every process of a machine maps the same file, so its pages are in memory once, and the system may
drop them. A file is named by what decides on its pixels: version of this module, decoders, image
size, and path, size and times of every image file (see `identify_files`). Images that were changed
therefore have another name and are decoded.

Nothing depends on the cache. What is missing, damaged or cannot be written is decoded.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import shutil
import sys
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NamedTuple

import numpy as np
import PIL
from numpy.typing import NDArray
from PIL import ImageFile, features

from raycae.data.cifar10 import cache_folder
from raycae.data.pixel_files import (
    NotCachedError,
    PixelFile,
    PixelWriter,
    compute_crcs,
    explain_error,
    lock_file,
)
from raycae.data.summary import Reason, Remark
from raycae.data.types import Indices, Origin, Pixels

VERSION = 2
"""Increased when decoding gives other pixels or remarks for the same file."""
LEAST_BYTES = 16 * 2**20
"""Size of image files and decoded images together from which they are cached: 4,000 JPEG files
of 32 x 32, which take 2 s of CPU to decode (analysis/FINDINGS.md)."""
MOST_BYTES = 10 * 10**9
"""Maximum size of all cached images; those used last are kept."""
FOLDER = "decoded"
"""Name of the folder in the cache folder."""
NAME = "[0-9a-f]" * 32
"""Pattern of the names of data sets. Files with other names are never deleted."""
SETTLE_S = 2.0
"""Coarsest step of the times that file systems keep. A file that changes twice within a step looks
the same, so files are decoded into the cache only when their last change is as old as this."""


class Key(NamedTuple):
    """What names a data set in the cache.

    Attributes:
        name: 32 hexadecimal digits.
        changed_ns: When the last of its image files was changed, in ns since 1970.
    """

    name: str
    changed_ns: int


class Record(NamedTuple):
    """What is known of cached images.

    Attributes:
        checksums: Checksums of all images that were decoded, also of copies that were left out,
            uint64 (N,).
        fingerprint: Checksum of the training and validation images; see `Images`.
        remarks: Those on the images.
    """

    checksums: NDArray[np.uint64]
    fingerprint: str
    remarks: list[Remark]


class CachedFile(NamedTuple):
    """A file of cached images, which may still be being written.

    Attributes:
        path: The file.
        n_bytes: Its size.
        used_s: When it was used last, in s since 1970.
        is_used: Whether a process has locked it.
    """

    path: Path
    n_bytes: int
    used_s: float
    is_used: bool


def compute_key(origin: Origin | None, splits: Sequence[Indices], size: int) -> Key | None:
    """Compute the name of images in the cache.

    Args:
        origin: What decides on their pixels.
        splits: The images of each split.
        size: Side of the images in pixels.

    Returns:
        The key; None if the images are not cached, because that would save little, or on Windows,
        which has neither locks nor mapped files like these.
    """
    counts = [len(split) for split in splits]
    if sys.platform == "win32":
        return None
    if origin is None or origin.n_bytes + 3 * size * size * sum(counts) < LEAST_BYTES:
        return None
    decoders = [features.version(name) for name in ("jpg", "libjpeg_turbo", "libtiff", "webp")]
    decoders += [features.version(name) for name in ("avif", "littlecms2")]
    software = (VERSION, PIL.__version__, decoders, platform.machine())
    setting = ImageFile.LOAD_TRUNCATED_IMAGES
    facts = repr((software, setting, size, counts)).encode()
    digest = hashlib.blake2b(facts + origin.digest, digest_size=16)
    return Key(digest.hexdigest(), origin.changed_ns)


def find(name: str, size: int) -> tuple[Record, PixelFile] | None:
    """Find images in the cache; delete damaged files that no process uses.

    Args:
        name: The name of the data set.
        size: Side of the images in pixels.

    Returns:
        The record and the file; None if there are no such images, if they cannot be read now, or if
        their checksums differ from those in the record.
    """
    folder = get_folder()
    if folder is None:
        return None
    damaged = folder / f"{name}.record"
    try:
        target, record, crcs = _read_record(damaged)
        damaged = folder / f"{target}.npy"
        file = PixelFile(damaged)
        is_whole = file.pixels.shape == (len(crcs), size, size, 3)
        if is_whole and (compute_crcs(file.pixels) == crcs).all():
            with suppress(OSError):
                os.utime(file.path)  # It was used now.
            return record, file
        del file  # It locks the file.
    except OSError:
        return None
    except ValueError:
        pass
    remove_unless_used(damaged)
    return None


@contextmanager
def create_file(key: Key, shape: tuple[int, int, int, int]) -> Iterator[PixelWriter]:
    """Free space in the cache, and open a new file there.

    Args:
        key: The key of the images.
        shape: (N, H, W, 3).

    Yields:
        The file. It is deleted if an exception ends the block.

    Raises:
        NotCachedError: They do not fit, or the storage does not take the file.
    """
    folder, n_bytes = get_folder(), int(np.prod(shape))
    if folder is None:
        raise NotCachedError("this user has no home folder; set RAYCAE_CACHE")
    path = folder / f"{key.name}.{uuid.uuid4().hex[:8]}.partial"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        _free_space(folder, n_bytes)
        _wait_until_settled(key.changed_ns)
        file = path.open("w+b", buffering=0)
    except OSError as error:
        raise NotCachedError(explain_error(error)) from error
    try:
        with file:
            lock_file(file)  # It is in use.
            try:
                writer = PixelWriter(file, path, shape)
            except OSError as error:
                raise NotCachedError(explain_error(error)) from error
            yield writer
    except OSError as error:  # Some network storage refuses only when a file is closed.
        raise NotCachedError(explain_error(error)) from error
    finally:
        with suppress(OSError):
            path.unlink(missing_ok=True)


def commit(
    writer: PixelWriter, pixels: Pixels, target: str, records: Mapping[str, Record]
) -> PixelFile:
    """Put a new file into the cache.

    Args:
        writer: The file.
        pixels: Those of its images, from the first, that are kept, uint8 (N, H, W, 3).
        target: The name of the data set that is kept.
        records: A record for each name by which it is found.

    Returns:
        The file.

    Raises:
        NotCachedError: The storage does not take it.
    """
    crcs = compute_crcs(pixels)
    folder = writer.path.parent
    try:
        file = writer.finish(len(pixels), folder / f"{target}.npy")
        for name, record in records.items():
            _write_record(folder / f"{name}.record", target, record, crcs)
    except OSError as error:
        with suppress(OSError):
            (folder / f"{target}.npy").unlink()  # Without a record it is never found.
        raise NotCachedError(explain_error(error)) from error
    return file


def get_folder() -> Path | None:
    """Return the folder of the cached images; None if this user has no home folder."""
    try:
        return cache_folder() / FOLDER
    except RuntimeError:
        return None


def list_files() -> list[CachedFile]:
    """List the files of cached images, those used last first, then those being written."""
    files = []
    for suffix in (".npy", ".*.partial"):
        for path in _list_paths(suffix):
            with suppress(OSError):  # It was deleted meanwhile.
                status = path.stat()
                is_used = not remove_unless_used(path, is_trial=True)
                files.append(CachedFile(path, status.st_size, status.st_mtime, is_used))
    return sorted(files, key=lambda f: (f.path.suffix == ".npy", f.used_s), reverse=True)


def remove_unused(most_bytes: int = 0) -> None:
    """Delete cached images that no process uses, those that were not used for longest first.

    Args:
        most_bytes: How much may stay in all.
    """
    files = list_files()
    total = sum(file.n_bytes for file in files)
    for file in reversed(files):
        is_left = file.path.suffix == ".partial"  # by a process that was killed
        if (is_left or total > most_bytes) and remove_unless_used(file.path):
            total -= file.n_bytes
    for path in _list_paths(".record"):
        with suppress(OSError):
            try:
                has_pixels = path.with_name(f"{_read_record(path)[0]}.npy").exists()
            except ValueError:
                has_pixels = False
            if not has_pixels:
                path.unlink()


def _list_paths(suffix: str) -> list[Path]:
    """List the files in the folder whose names are `NAME` and a suffix."""
    try:
        return list(folder.glob(f"{NAME}{suffix}")) if (folder := get_folder()) else []
    except OSError:  # The folder cannot be read.
        return []


def _free_space(folder: Path, n_bytes: int) -> None:
    """Delete cached images that no process uses until others fit; none if these cannot fit.

    At least half of the free space is left to the search.

    Raises:
        NotCachedError: They do not fit.
    """
    files = list_files()
    total = sum(file.n_bytes for file in files)
    used = sum(file.n_bytes for file in files if file.is_used)
    if used + n_bytes > MOST_BYTES:
        used_text = f", of which {used / 1e9:.1f} GB are in use" if used else ""
        raise NotCachedError(
            f"they take {n_bytes / 1e9:.1f} GB, and the cache holds {MOST_BYTES / 1e9:.0f} GB"
            f"{used_text}"
        )
    free_now = shutil.disk_usage(folder).free
    free = free_now + total - used
    if n_bytes > free // 2:
        raise NotCachedError(
            f"they take {n_bytes / 1e9:.1f} GB, more than half of the {free / 1e9:.1f} GB that are "
            f"free in {folder}"
        )
    remove_unused(min(MOST_BYTES - n_bytes, total + free_now - 2 * n_bytes))


def _wait_until_settled(changed_ns: int) -> None:
    """Wait until a later change of a file must show in its times, at most `SETTLE_S`.

    Raises:
        NotCachedError: The time of the change is in the future.
    """
    missing_s = changed_ns / 1e9 + SETTLE_S - time.time()
    if missing_s > 2 * SETTLE_S:
        raise NotCachedError(
            "the modification time of an image file is in the future by the clock of this machine"
        )
    time.sleep(max(missing_s, 0.0))


def remove_unless_used(path: Path, *, is_trial: bool = False) -> bool:
    """Delete a file that no process has locked.

    Args:
        path: The file.
        is_trial: Keep the file.

    Returns:
        Whether it was deleted, or in a trial could be.
    """
    try:
        with path.open("r+b") as file:
            if not lock_file(file, is_exclusive=True):
                return False
            if not is_trial:
                path.unlink()
    except OSError:
        return False
    return True


def _write_record(path: Path, target: str, record: Record, crcs: NDArray[np.uint32]) -> None:
    """Write a record: a checksum of the rest, a line of JSON, and the two arrays.

    Args:
        path: The file.
        target: The name of the pixels' file.
        record: The record.
        crcs: A CRC-32 of each image in that file, uint32 (N,).
    """
    remarks = [(reason.name, name) for reason, name in record.remarks]
    facts = json.dumps([target, record.fingerprint, remarks, len(record.checksums)]).encode()
    content = (
        facts + b"\n" + record.checksums.astype("<u8").tobytes() + crcs.astype("<u4").tobytes()
    )
    partial = path.with_name(f"{path.stem}.{uuid.uuid4().hex[:8]}.partial")
    try:
        with partial.open("wb") as file:
            lock_file(file)  # It is in use.
            file.write(_compute_checksum(content) + b"\n" + content)
            file.flush()
            partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def _read_record(path: Path) -> tuple[str, Record, NDArray[np.uint32]]:
    """Read what `_write_record` wrote: the target, the record and the CRCs.

    Raises:
        OSError: The file cannot be read.
        ValueError: It is damaged.
    """
    stored, _, content = path.read_bytes().partition(b"\n")
    if stored != _compute_checksum(content):
        raise ValueError(f"{path}: damaged")
    facts, _, arrays = content.partition(b"\n")
    target, fingerprint, remarks, n_checksums = json.loads(facts)
    remarks = [(Reason[reason], name) for reason, name in remarks]
    checksums = np.frombuffer(arrays, "<u8", n_checksums).astype(np.uint64)
    crcs = np.frombuffer(arrays, "<u4", offset=8 * n_checksums).astype(np.uint32)
    return target, Record(checksums, fingerprint, remarks), crcs


def _compute_checksum(content: bytes) -> bytes:
    """Return the checksum of a record's content, 32 hexadecimal digits."""
    return hashlib.blake2b(content, digest_size=16).hexdigest().encode()
