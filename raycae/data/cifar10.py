"""Download, check and read CIFAR-10."""

from __future__ import annotations

import os
import shutil
import sys
import tarfile
import tempfile
import urllib.request
from functools import cached_property
from http.client import HTTPException
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from raycae.data.decoding import fit_square, run_in_threads
from raycae.data.summary import Remark
from raycae.data.types import Indices, PixelTarget
from raycae.errors import InputError

_NETWORK_TIMEOUT = 30.0
"""Seconds that a download waits for an answer, or for the next bytes."""

N_IMAGES = (50_000, 10_000)
"""Number of training and of test images."""


def cache_folder() -> Path:
    """Return the folder for downloads: ``RAYCAE_CACHE``, or ``~/.cache/raycae``.

    Returns:
        The folder, which may not exist yet.
    """
    return Path(os.environ.get("RAYCAE_CACHE") or "~/.cache/raycae").expanduser()


def describe_download() -> str | None:
    """Write what has to be downloaded; None if CIFAR-10 seems to be in the cache."""
    root = cache_folder()
    if any((root / name).exists() for name in ("cifar-10-batches-py", "cifar-10-python.tar.gz")):
        return None
    return f"cifar10 is not in {root}; raycae downloads it there once (170 MB)"


class Cifar10:
    """The training or the test images of CIFAR-10, an `ImagePool`."""

    def __init__(self, train: bool) -> None:
        self._train = train
        self.remarks: list[Remark] = []

    @cached_property
    def _half(self) -> Any:
        return _open_half(self._train)

    def __len__(self) -> int:
        return len(self._half)

    def names(self) -> list[str]:
        """Return a name for every image, such as ``train/00000``."""
        half = "train" if self._train else "test"
        return [f"{half}/{index:05}" for index in range(len(self))]

    def decode_into(self, out: PixelTarget, slots: Indices, indices: Indices) -> None:
        """Copy images, resized to the size of ``out``; see `ImagePool`."""
        pixels, size = self._half.data, out.shape[1]

        def fill(job: int) -> None:
            image = pixels[indices[job]]
            if size != len(image):
                image = np.asarray(fit_square(Image.fromarray(image), size))
            out[slots[job]] = image

        run_in_threads(fill, len(indices))

    def identify(self, indices: Indices) -> None:
        """Return None: the images are not cached, because nothing has to be decoded."""

    def labels(self) -> Indices:
        """Return the class of every image, int64 (N,), 0 to 9."""
        return np.array(self._half.targets, np.int64)


def _open_half(train: bool) -> Any:
    """Open one half of CIFAR-10, after a download if it is not in the cache.

    Any number of processes may start together: one downloads, the others wait for it.

    Args:
        train: Open the training images, else the test images.

    Returns:
        The half as a data set of torchvision.

    Raises:
        InputError: It is not in the cache and cannot be downloaded.
    """
    from filelock import FileLock

    root = cache_folder()
    try:
        return _read_half(root, train)  # without the lock, because the cache may be read-only
    except RuntimeError:
        pass  # It is missing or damaged.
    try:
        root.mkdir(parents=True, exist_ok=True)
        with FileLock(root / "cifar10.lock"):
            _unpack_archive(root)
            return _read_half(root, train)
    except (OSError, HTTPException, RuntimeError) as error:
        from torchvision.datasets import CIFAR10

        raise InputError(
            f"source 'cifar10' is not in {root} and cannot be downloaded there: {error}. Put "
            f"{CIFAR10.filename} into that folder, unpack it there (it contains "
            f"{CIFAR10.base_folder}), or use another source: photos, a folder of Parquet files or "
            "a folder of images"
        ) from error


def _read_half(root: Path, train: bool) -> Any:
    """Open one half of CIFAR-10 from a folder.

    Args:
        root: The cache folder.
        train: Open the training images, else the test images.

    Returns:
        torchvision's data set, with ``data`` uint8 (N, 32, 32, 3) and ``targets``.

    Raises:
        RuntimeError: One of its files is missing or damaged.
    """
    from torchvision.datasets import CIFAR10

    # torchvision checks the files of both halves. An empty list keeps it from opening the other.
    half = type("Cifar10Half", (CIFAR10,), {"test_list" if train else "train_list": []})
    return half(root, train=train)


def _unpack_archive(root: Path) -> None:
    """Unpack every file of CIFAR-10 into ``root``; download the archive if it is missing."""
    from torchvision.datasets import CIFAR10
    from torchvision.datasets.utils import check_integrity

    folder = root / CIFAR10.base_folder
    wanted = [
        *CIFAR10.train_list,
        *CIFAR10.test_list,
        (CIFAR10.meta["filename"], CIFAR10.meta["md5"]),
    ]
    if all(check_integrity(folder / name, md5) for name, md5 in wanted):
        return  # Another process was faster.
    archive = root / CIFAR10.filename
    if not check_integrity(archive, CIFAR10.tgz_md5):
        _download(CIFAR10.url, archive, CIFAR10.tgz_md5)
    # Each file is replaced atomically, because other processes read without the lock.
    with tempfile.TemporaryDirectory(dir=root) as fresh, tarfile.open(archive) as tar:
        tar.extractall(fresh, filter="data")
        folder.mkdir(exist_ok=True)
        for file in Path(fresh, CIFAR10.base_folder).iterdir():
            file.replace(folder / file.name)


def _download(url: str, target: Path, md5: str) -> None:
    """Download a file; it gets its name only after its checksum was verified.

    torchvision's own download has no timeout, requests the file twice and leaves an incomplete file
    under the final name.

    Args:
        url: The address of the file.
        target: The path to write.
        md5: The expected MD5 of the file, hexadecimal.

    Raises:
        OSError: The server does not answer, or the file cannot be written.
        RuntimeError: The file is incomplete or another one.
    """
    from torchvision.datasets.utils import check_integrity

    print(f"raycae: downloading {url} into {target.parent}", file=sys.stderr)
    partial = target.with_name(target.name + ".partial")
    request = urllib.request.Request(url, headers={"User-Agent": "raycae"})
    try:
        with (
            urllib.request.urlopen(request, timeout=_NETWORK_TIMEOUT) as reply,
            partial.open("wb") as file,
        ):
            shutil.copyfileobj(reply, file, 1 << 20)
        if not check_integrity(partial, md5):
            raise RuntimeError(f"the file from {url} is cut short or not CIFAR-10 (wrong MD5)")
        partial.replace(target)
    finally:
        partial.unlink(missing_ok=True)
