"""Open a source and load its splits."""

from __future__ import annotations

import difflib
import hashlib
import re
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from raycae.data.cifar10 import Cifar10
from raycae.data.folders import open_images
from raycae.data.parquet_images import open_parquet
from raycae.data.photos import PhotoCrops
from raycae.data.splits import Split, split_indices
from raycae.data.types import ImagePool, Images, Indices, Labels, Pixels, Pools
from raycae.errors import InputError

NAMED_SOURCES = ("cifar10", "photos")


def load(
    source: str,
    *,
    image_size: int = 32,
    limit: int | None = None,
    seed: int = 0,
    classes: int = 0,
) -> Images:
    """The training and validation images of ``source``, ``image_size`` pixels square, and with
    ``classes`` what `load_labels` gives.

    ``limit`` bounds training and validation images together; only those are decoded. The same
    arguments give the same arrays; `split_indices` says what ``seed`` and ``limit`` choose.

    Raises `InputError`, naming the source or the file, where the source is unknown or cannot be
    read, an image is damaged, or fewer than `LEAST_IMAGES` images would be left.
    """
    _check_numbers(image_size, seed)
    labels = load_labels(source, classes=classes, limit=limit, seed=seed)  # refused in no time
    pools = open_source(source)
    split = _split(source, pools, limit, seed)
    if pools.validation is None:  # one pass over the files for both
        cut = len(split.train)
        both = pools.train.take(np.concatenate([split.train, split.validation]), image_size)
        train, val = both[:cut], both[cut:]
    else:
        train = pools.train.take(split.train, image_size)
        val = pools.validation.take(split.validation, image_size)
    return Images(train, val, _fingerprint(train, val), labels)


def load_test(source: str, *, image_size: int = 32, seed: int = 0) -> Pixels:
    """The test images of ``source``: uint8 (N, H, W, 3), for the final evaluation only.

    A source without test images of its own sets a tenth aside by ``seed``: the seed given here has
    to be the seed given to `load`. Raises `InputError` as `load` does.
    """
    _check_numbers(image_size, seed)
    pools = open_source(source)
    if pools.test is not None:
        return pools.test.take(np.arange(len(pools.test)), image_size)
    return pools.train.take(_split(source, pools, None, seed).test, image_size)


def load_labels(source: str, *, classes: int, limit: int | None = None, seed: int = 0) -> Labels:
    """The class, 0 to ``classes`` - 1, of every image that `load` and `load_test` give with this
    ``limit`` and ``seed``. No image is decoded; without ``classes`` nothing is read at all.

    Raises `InputError` where the source does not say them, or one is not below ``classes``.
    """
    if not classes:
        return Labels()
    pools = open_source(source)
    split = _split(source, pools, limit, seed)

    def labels(pool: ImagePool) -> Indices:
        found = pool.labels()
        if found is None:
            raise InputError(
                f"source {source!r}: does not say which class its images are of, and "
                f"classes: {classes} asks for it; cifar10 does, and Parquet files with a column "
                "'label' of whole numbers"
            )
        if len(odd := found[(found < 0) | (found >= classes)]):
            raise InputError(
                f"source {source!r}: holds an image of class {odd[0]}; "
                f"with classes: {classes} allowed are 0 to {classes - 1}"
            )
        return found

    own = labels(pools.train)
    train = own[split.train]
    val = (own if pools.validation is None else labels(pools.validation))[split.validation]
    test = own[split.test] if pools.test is None else labels(pools.test)
    return Labels(train, val, test, _fingerprint(train, val, test))


def check(source: str) -> None:
    """Raise `InputError` where ``source`` plainly cannot be read; decode and download nothing."""
    open_source(source)


def _split(source: str, pools: Pools, limit: int | None, seed: int) -> Split:
    count = len(pools.train)
    own_validation = None if pools.validation is None else len(pools.validation)
    try:
        return split_indices(
            count,
            own_validation=own_validation,
            own_test=pools.test is not None,
            limit=limit,
            seed=seed,
        )
    except InputError as error:
        raise InputError(f"source {source!r}: {error}") from None


def open_source(source: str) -> Pools:
    if source == "cifar10":
        return Pools(Cifar10(train=True), None, Cifar10(train=False))
    if source == "photos":
        return Pools(PhotoCrops("train"), PhotoCrops("validation"), PhotoCrops("test"))
    folder = Path(source)
    is_folder = is_file = False
    with suppress(OSError, RuntimeError):  # a name that no file system takes, ~nobody
        folder = folder.expanduser()
        is_folder, is_file = folder.is_dir(), folder.is_file()
    if not source or not is_folder:  # an empty name would be the current folder
        raise InputError(_unknown(source, is_file))
    try:
        names = sorted(path.name for path in folder.iterdir())
    except OSError as error:
        raise InputError(f"folder {folder}: cannot be listed: {error.strerror}") from error
    parquet = [folder / name for name in names if re.fullmatch(r"(?i)[^.].*\.parquet", name)]
    return open_parquet(folder, parquet) if parquet else open_images(folder)


def _unknown(source: str, is_file: bool) -> str:
    what = "a file, not a folder" if is_file else "no known source and no folder"
    close = difflib.get_close_matches(source.lower(), NAMED_SOURCES, n=1)
    return (
        f"source {source!r} is {what}; allowed are {', '.join(NAMED_SOURCES)}, "
        "a folder of Parquet files (train-*.parquet) or a folder of images"
        + (f". Did you mean {close[0]}?" if close else "")
    )


def _fingerprint(*arrays: NDArray[Any]) -> str:
    digest = hashlib.blake2b(digest_size=8)
    for array in arrays:
        digest.update(repr(array.shape).encode())
        digest.update(np.ascontiguousarray(array).data)
    return digest.hexdigest()


def _check_numbers(image_size: int, seed: int) -> None:
    if image_size < 1:
        raise InputError(f"image size {image_size}: allowed are whole numbers from 1 pixel on")
    if seed < 0:
        raise InputError(f"seed {seed}: allowed are whole numbers from 0 on")
