"""PCA baselines, computed once for the same images and kept in the cache folder.

PCA of 2,000 images of 32 x 32 takes 16 s of CPU, which is most of what follows the trials of a
small search. Errors and components depend on the pixels and the task alone.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import os
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import safetensors.torch
import torch
from torch import Tensor

from raycae import data
from raycae.data.pixel_files import lock_file
from raycae.storage.files import checksum
from raycae.training.baselines import Row, build_frame, compute_rows, fit_pca, list_pca_blocks
from raycae.training.pca_network import PcaNetwork

if TYPE_CHECKING:
    import pandas as pd

VERSION = 3
"""Increased when `compute_rows` gives other names or errors for the same images."""
COMPONENTS_VERSION = 2
"""Increased when `fit_pca` gives other components for the same images."""
MOST_FILES = 200
"""Maximum number of files with errors; those used last are kept. For 32 x 32 pixels each has 200 KB
at most, for larger images 350 KB."""
MOST_COMPONENTS = 1024
"""Number of components kept of a PCA: 6 MB for 32 x 32 pixels."""
MOST_COMPONENT_FILES = 12
"""Maximum number of files with components."""
FIT_LOCK = threading.Lock()
"""Held while a thread looks for components and fits them, so that others find them."""


def load_baselines(
    task: str, images: data.Images, count: Callable[[int, int], None] = lambda done, total: None
) -> pd.DataFrame:
    """Return the errors of the baselines, from the cache if these images were measured before.

    A cache that cannot be read or written costs time, and no error.

    Args:
        task: "reconstruct" or "colourise".
        images: The images of a study.
        count: Called with the number of PCA baselines computed so far and their total number.

    Returns:
        The table of `compute_baselines`, with test errors.

    Raises:
        InputError: The task is unknown.
    """
    path = find_cache_file(f"{compute_key(task, images)}.json")
    rows = read_rows(path) if path else None
    if rows is None:
        total, numbers = len(list_pca_blocks(*images.train.shape[1:3])), itertools.count()

        def fit(train: np.ndarray, block: tuple[int, int]) -> tuple[Tensor, Tensor]:
            count(next(numbers), total)
            mean, basis = fit_pca(train, block)
            write_components(find_components_file(images.fingerprint, block), mean, basis)
            return mean, basis

        rows = list(compute_rows(task, images.train, [images.val, images.test], fit))
        if path:
            write_rows(path, rows)
    return build_frame(rows, has_test=True)


def load_pca(
    fingerprint: str, train: np.ndarray | None, block: tuple[int, int], n: int
) -> PcaNetwork | None:
    """Return PCA as a network, from the cache if it was fitted on these images before.

    Args:
        fingerprint: Fingerprint of the images of a study.
        train: The training images, uint8 (N, H, W, 3); None if they are not loaded.
        block: Height and width of a block in pixels; those of the image for PCA of whole images.
        n: Number of components per block.

    Returns:
        The network; None if it has more components than are kept (each trial would fit it again),
        or if it is not in the cache and there are no training images.
    """
    if n > MOST_COMPONENTS:
        return None
    path = find_components_file(fingerprint, block)
    with FIT_LOCK:
        kept = read_components(path) if path else None
        if kept is None:
            if train is None:
                return None
            mean, basis = fit_pca(train, block)
            write_components(path, mean, basis)
            kept = mean, basis.half()  # As from the cache, so that pictures do not depend on it.
    return PcaNetwork(block, kept[0], kept[1][:, :n])


def has_components(fingerprint: str) -> bool:
    """Return whether the cache has components of a PCA of these images.

    Args:
        fingerprint: Fingerprint of the images of a study.
    """
    path = find_components_file(fingerprint, (0, 0))
    return path is not None and any(
        path.parent.glob(f"{COMPONENTS_VERSION}-{fingerprint}-*.safetensors")
    )


def find_components_file(fingerprint: str, block: tuple[int, int]) -> Path | None:
    """Return the file that keeps the components of a PCA; None without a cache folder.

    Args:
        fingerprint: Fingerprint of the images.
        block: Height and width of a block in pixels.
    """
    height, width = block
    name = f"{COMPONENTS_VERSION}-{fingerprint}-{height}x{width}.safetensors"
    return find_cache_file(name, "components")


def read_components(path: Path) -> tuple[Tensor, Tensor] | None:
    """Read the mean block and the first components of a PCA from the cache.

    Args:
        path: The file.

    Returns:
        The mean, float64 (D,), and the components, float16 (D, n); None if the file is missing or
        damaged.
    """
    try:
        digest, _, content = path.read_bytes().partition(b"\n")
    except OSError:
        return None
    if digest != checksum(content).encode():
        return None
    kept = safetensors.torch.load(content)
    with suppress(OSError):
        os.utime(path)  # It was used now.
    return kept["mean"], kept["components"]


def write_components(path: Path | None, mean: Tensor, basis: Tensor) -> None:
    """Write the first components of a PCA to the cache.

    In half precision, a pixel of a reconstruction changes by less than a tenth of a level.

    Args:
        path: The file; nothing is written without one.
        mean: The mean block, float64 (D,).
        basis: The basis, float64 (D, D).
    """
    if path:
        components = basis[:, :MOST_COMPONENTS].half().contiguous()
        content = safetensors.torch.save({"mean": mean, "components": components})
        digest = checksum(content).encode()
        write_cache_file(path, digest + b"\n" + content, MOST_COMPONENT_FILES)


def find_cache_file(name: str, folder: str = "baselines") -> Path | None:
    """Return the path of a file in the cache; None if this user has no cache folder.

    Args:
        name: Name of the file.
        folder: Folder in the cache folder.
    """
    try:
        return data.cache_folder() / folder / name
    except RuntimeError:  # There is no home folder.
        return None


def compute_key(task: str, images: data.Images) -> str:
    """Compute the name under which the errors are kept.

    Args:
        task: The task.
        images: The images.

    Returns:
        32 hexadecimal digits, equal for equal pixels, task, torch and instruction set of the CPU;
        the last two decide on the last digits of an error.
    """
    digest = hashlib.blake2b(digest_size=16)
    software = (VERSION, task, torch.__version__, torch.backends.cpu.get_cpu_capability())
    digest.update(repr((*software, images.fingerprint, images.test.shape)).encode())
    digest.update(np.ascontiguousarray(images.test).data)
    return digest.hexdigest()


def read_rows(path: Path) -> list[Row] | None:
    """Read rows from the cache.

    Args:
        path: The file.

    Returns:
        The rows; None if the file is missing, unreadable or damaged.
    """
    try:
        stored, _, content = path.read_bytes().partition(b"\n")
        if stored.decode() != checksum(content):
            return None
        rows = [(name, size, errors) for name, size, errors in json.loads(content)]
    except (OSError, ValueError):
        return None
    with suppress(OSError):
        os.utime(path)  # It was used now.
    return rows


def write_rows(path: Path, rows: list[Row]) -> None:
    """Write rows to the cache.

    Args:
        path: The file.
        rows: The rows.
    """
    content = json.dumps(rows).encode()
    write_cache_file(path, checksum(content).encode() + b"\n" + content, MOST_FILES)


def write_cache_file(path: Path, content: bytes, most_files: int) -> None:
    """Write a file, and delete the files of its folder that were not used for the longest time.

    Args:
        path: The file.
        content: Its content.
        most_files: Maximum number of files in the folder.
    """
    partial = path.with_suffix(f".{os.getpid()}.partial")
    with suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with partial.open("wb") as stream:
                lock_file(stream)  # `raycae cache --clear` keeps it.
                stream.write(content)
            partial.replace(path)
        finally:
            partial.unlink(missing_ok=True)
        files = sorted(path.parent.iterdir(), key=lambda file: file.stat().st_mtime_ns)
        for file in files[:-most_files]:
            file.unlink()
