"""Files of decoded images: written image by image, then mapped by every process of a machine."""

from __future__ import annotations

import io
import math
import os
import sys
import weakref
import zlib
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import numpy as np
from numpy.typing import NDArray

from raycae.data.decoding import run_in_threads
from raycae.data.types import Pixels

if sys.platform != "win32":
    import fcntl


class NotCachedError(Exception):
    """Images cannot be put into the cache; the message says why."""


class PixelFile:
    """A file of decoded images that this process uses.

    Its shared lock keeps other processes from deleting the file for lack of space.

    Attributes:
        path: The file.
        pixels: Its images, mapped into memory, uint8 (N, H, W, 3), read-only.
    """

    def __init__(self, path: Path) -> None:
        """Open and lock a file.

        Args:
            path: The file.

        Raises:
            OSError: It cannot be opened, or was deleted meanwhile.
            ValueError: It is damaged.
        """
        self.path = path.absolute()  # Workers have another current folder.
        self._file = path.open("rb", buffering=0)
        weakref.finalize(self, self._file.close)  # Python warns of files that are left open.
        lock_file(self._file)
        if not os.path.samestat(os.fstat(self._file.fileno()), path.stat()):
            raise FileNotFoundError(f"{path} was replaced")
        self.pixels = map_pixels(self._file)

    def share(self, start: int, stop: int) -> SharedPixels:
        """Describe a part of the images for other processes of this machine.

        Args:
            start: The first image.
            stop: The image after the last one.

        Returns:
            The description.
        """
        # As long as this process has the file open, Linux finds it there, even if it was deleted.
        opened = f"/proc/{os.getpid()}/fd/{self._file.fileno()}"
        status = os.fstat(self._file.fileno())
        return SharedPixels((str(self.path), opened), (status.st_dev, status.st_ino), start, stop)


@dataclass(frozen=True)
class SharedPixels:
    """Images in a file of this machine; small, so that it can be sent to other processes.

    Attributes:
        paths: Where the file may be.
        identity: Its device and inode: another file may have taken its path.
        start: The first image.
        stop: The image after the last one.
    """

    paths: tuple[str, ...]
    identity: tuple[int, int]
    start: int
    stop: int

    def map(self) -> Pixels:
        """Map the images into memory.

        Returns:
            uint8 (N, H, W, 3), read-only.

        Raises:
            OSError: The file is gone.
        """
        for path in self.paths:
            with suppress(OSError), open(path, "rb", buffering=0) as file:  # noqa: PTH123 - a link
                status = os.fstat(file.fileno())
                if (status.st_dev, status.st_ino) == self.identity:
                    return map_pixels(file)[self.start : self.stop]
        raise FileNotFoundError(f"{self.paths[0]}: the decoded images were deleted or replaced")


class PixelWriter:
    """A new file of decoded images, without its final name.

    Images are written and not mapped: with a full disk, a mapped file would end the process.

    Attributes:
        path: Its temporary path.
        shape: (N, H, W, 3).
    """

    def __init__(self, file: IO[bytes], path: Path, shape: tuple[int, int, int, int]) -> None:
        """Write the header and reserve space.

        Args:
            file: The empty file, open for writing.
            path: Its temporary path.
            shape: (N, H, W, 3).

        Raises:
            OSError: The storage does not take it.
        """
        self.shape = shape
        self._file, self.path = file, path
        self._start = self._write_header(len(self))
        self._row_bytes = int(np.prod(shape[1:]))
        end = self._start + len(self) * self._row_bytes
        if hasattr(os, "posix_fallocate"):  # Not on macOS.
            os.posix_fallocate(file.fileno(), 0, end)
        file.truncate(end)

    def __len__(self) -> int:
        return self.shape[0]

    def __setitem__(self, slot: int, pixels: Pixels) -> None:
        content = memoryview(np.ascontiguousarray(pixels).data).cast("B")
        place = self._start + int(slot) * self._row_bytes
        try:
            while content:
                n_written = os.pwrite(self._file.fileno(), content, place)
                content, place = content[n_written:], place + n_written
        except OSError as error:
            raise NotCachedError(explain_error(error)) from error

    def map(self) -> Pixels:
        """Map the images that were written, uint8 (N, H, W, 3), read-only."""
        return map_pixels(self._file)

    def finish(self, n_kept: int, path: Path) -> PixelFile:
        """Give the file its final length and name.

        Nothing is flushed to disk. After a power cut, the checksums show what is missing.

        Args:
            n_kept: How many of the images, from the first, are kept.
            path: The final path, in the same folder.

        Returns:
            The file.

        Raises:
            OSError: The storage does not take it.
        """
        self._write_header(n_kept)
        self._file.truncate(self._start + n_kept * self._row_bytes)
        self.path.replace(path)
        return PixelFile(path)

    def _write_header(self, n_images: int) -> int:
        """Write the header of a NumPy file, which has room for any number; return its length."""
        header = io.BytesIO()
        facts = {"descr": "|u1", "fortran_order": False, "shape": (n_images, *self.shape[1:])}
        np.lib.format.write_array_header_1_0(header, facts)
        os.pwrite(self._file.fileno(), header.getvalue(), 0)
        return header.tell()


def map_pixels(file: IO[bytes]) -> Pixels:
    """Map the images of a NumPy file into memory.

    Args:
        file: The file, unbuffered.

    Returns:
        uint8 (N, H, W, 3), read-only.

    Raises:
        OSError: The file cannot be read.
        ValueError: It is damaged.
    """
    file.seek(0)
    try:
        np.lib.format.read_magic(file)
        shape, _, dtype = np.lib.format.read_array_header_1_0(file)
    except OSError:
        raise
    except Exception as error:  # Damaged headers raise several types.
        raise ValueError(f"damaged header: {error}") from error
    if dtype != np.uint8 or len(shape) != 4:
        raise ValueError("holds no images")
    # A plain array, because each row of a `numpy.memmap` takes 1 µs more.
    if any(length < 1 for length in shape) or math.prod(shape) > os.fstat(file.fileno()).st_size:
        raise ValueError(f"too short for images of the shape {shape}")
    mapped = np.memmap(file, np.uint8, "r", file.tell(), shape)
    return np.asarray(mapped)


def compute_crcs(pixels: Pixels) -> NDArray[np.uint32]:
    """Compute a CRC-32 of each image, which finds damage 5 times as fast as a BLAKE2b.

    Args:
        pixels: uint8 (N, H, W, 3).

    Returns:
        The checksums, uint32 (N,).
    """
    crcs = np.empty(len(pixels), np.uint32)

    def fill(row: int) -> None:
        crcs[row] = zlib.crc32(pixels[row])

    run_in_threads(fill, len(pixels))
    return crcs


def lock_file(file: IO[bytes], *, is_exclusive: bool = False) -> bool:
    """Lock a file until it is closed. Windows and storage without locks allow every lock.

    Args:
        file: The file.
        is_exclusive: Whether no other lock is allowed; then this does not wait.

    Returns:
        False if another process holds a lock that does not allow this one.
    """
    if sys.platform == "win32":
        return True
    try:
        fcntl.flock(file.fileno(), fcntl.LOCK_EX | fcntl.LOCK_NB if is_exclusive else fcntl.LOCK_SH)
    except BlockingIOError:
        return False
    except OSError:
        pass
    return True


def explain_error(error: OSError) -> str:
    """Describe an error of the storage, with the file.

    Args:
        error: What the system raised.
    """
    where = f": {error.filename}" if error.filename else ""
    return f"{error.strerror or error}{where}"
