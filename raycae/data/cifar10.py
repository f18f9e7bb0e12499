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

from raycae.data.decoding import blank_images, fit_square, run_in_threads
from raycae.data.types import Indices, Pixels
from raycae.errors import InputError

_NETWORK_TIMEOUT = 30.0  # seconds without an answer, or without another byte


def cache_folder() -> Path:
    """Where downloads are kept: ``RAYCAE_CACHE``, or ``~/.cache/raycae``. It may not exist yet."""
    return Path(os.environ.get("RAYCAE_CACHE") or "~/.cache/raycae").expanduser()


class Cifar10:
    """One half of CIFAR-10, its training or its test images."""

    def __init__(self, train: bool) -> None:
        self._train = train
        self.bad_profiles: list[str] = []

    @cached_property
    def _half(self) -> Any:
        return _cifar10(self._train)

    def __len__(self) -> int:
        return len(self._half)

    def names(self) -> list[str]:
        half = "train" if self._train else "test"
        return [f"{half}/{index:05}" for index in range(len(self))]

    def take(self, indices: Indices, size: int) -> Pixels:
        chosen: Pixels = self._half.data[indices]
        if size == chosen.shape[1]:
            return chosen
        out = blank_images(len(indices), size)

        def fill(slot: int) -> None:
            out[slot] = np.asarray(fit_square(Image.fromarray(chosen[slot]), size))

        run_in_threads(fill, len(indices))
        return out

    def labels(self) -> Indices:
        return np.array(self._half.targets, np.int64)


def _cifar10(train: bool) -> Any:
    """The training or the test half, from the cache, after a download where it is not there.

    Any number of processes may start together: one downloads, the others wait for it.
    """
    from filelock import FileLock

    root = cache_folder()
    try:
        return _cifar10_half(root, train)  # needs no lock, so a read-only cache will do
    except RuntimeError:
        pass  # not there, or damaged
    try:
        root.mkdir(parents=True, exist_ok=True)
        with FileLock(root / "cifar10.lock"):
            _complete_cifar10(root)
            return _cifar10_half(root, train)
    except (OSError, HTTPException, RuntimeError) as error:
        from torchvision.datasets import CIFAR10

        raise InputError(
            f"source 'cifar10' is not in {root} and cannot be downloaded there: {error}. Put "
            f"{CIFAR10.filename} into that folder, or unpacked as {root / CIFAR10.base_folder}, "
            "or use another source: photos, a folder of Parquet files or a folder of images"
        ) from error


def _cifar10_half(root: Path, train: bool) -> Any:
    """One half as torchvision's data set, with ``data`` uint8 (N, 32, 32, 3) and ``targets``;
    RuntimeError where one of its files is missing or damaged."""
    from torchvision.datasets import CIFAR10

    # torchvision checks the files of both halves; without its list, the other one stays unopened.
    half = type("Cifar10Half", (CIFAR10,), {"test_list" if train else "train_list": []})
    return half(root, train=train)


def _complete_cifar10(root: Path) -> None:
    """Have every file of CIFAR-10 whole in ``root``, from the archive, downloaded if need be."""
    from torchvision.datasets import CIFAR10
    from torchvision.datasets.utils import check_integrity

    folder = root / CIFAR10.base_folder
    wanted = [
        *CIFAR10.train_list,
        *CIFAR10.test_list,
        (CIFAR10.meta["filename"], CIFAR10.meta["md5"]),
    ]
    if all(check_integrity(folder / name, md5) for name, md5 in wanted):
        return  # another process was faster
    archive = root / CIFAR10.filename
    if not check_integrity(archive, CIFAR10.tgz_md5):
        _download(CIFAR10.url, archive, CIFAR10.tgz_md5)
    # File by file, each in one step: a process that reads without the lock sees whole files only.
    with tempfile.TemporaryDirectory(dir=root) as fresh, tarfile.open(archive) as tar:
        tar.extractall(fresh, filter="data")
        folder.mkdir(exist_ok=True)
        for file in Path(fresh, CIFAR10.base_folder).iterdir():
            file.replace(folder / file.name)


def _download(url: str, target: Path, md5: str) -> None:
    """Fetch ``url`` to ``target``, which appears only when it is whole.

    Not torchvision's own download: that one waits for ever on a silent host, asks for the file
    twice, and leaves half a file under the final name.
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
            raise RuntimeError(f"{url} sent a file that is cut short or not CIFAR-10 (wrong MD5)")
        partial.replace(target)
    finally:
        partial.unlink(missing_ok=True)
