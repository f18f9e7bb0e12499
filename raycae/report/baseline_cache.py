"""Errors of the PCA baselines, computed once for the same images and kept in the cache folder.

PCA of 2,000 images of 32 x 32 takes 16 s of CPU, which is most of what follows the trials of a
small search. Its errors depend on the pixels and the task alone.
"""

from __future__ import annotations

import hashlib
import json
import os
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from raycae import data
from raycae.storage.files import checksum
from raycae.training.baselines import Row, build_frame, compute_rows

if TYPE_CHECKING:
    import pandas as pd

VERSION = 1
"""Increased when `compute_rows` computes other errors for the same images."""
MOST_FILES = 200
"""Maximum number of files in the cache, each of at most 30 KB; those used last are kept."""


def load_baselines(task: str, images: data.Images) -> pd.DataFrame:
    """Return the errors of the baselines, from the cache if these images were measured before.

    A cache that cannot be read or written costs time, and no error.

    Args:
        task: "reconstruct" or "colourise".
        images: The images of a study.

    Returns:
        The table of `compute_baselines`, with test errors.

    Raises:
        InputError: The task is unknown.
    """
    path = find_cache_file(task, images)
    rows = read_rows(path) if path else None
    if rows is None:
        rows = list(compute_rows(task, images.train, [images.val, images.test]))
        if path:
            write_rows(path, rows)
    return build_frame(rows, has_test=True)


def find_cache_file(task: str, images: data.Images) -> Path | None:
    """Return the file that keeps the errors; None if this user has no cache folder.

    Args:
        task: The task.
        images: The images.
    """
    try:
        folder = data.cache_folder()
    except RuntimeError:  # There is no home folder.
        return None
    return folder / "baselines" / f"{compute_key(task, images)}.json"


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
    """Write rows to the cache, and delete the files that were not used for the longest time.

    Args:
        path: The file.
        rows: The rows.
    """
    content = json.dumps(rows).encode()
    partial = path.with_suffix(f".{os.getpid()}.partial")
    with suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        partial.write_bytes(checksum(content).encode() + b"\n" + content)
        partial.replace(path)
        files = sorted(path.parent.iterdir(), key=lambda file: file.stat().st_mtime_ns)
        for file in files[:-MOST_FILES]:
            file.unlink()
