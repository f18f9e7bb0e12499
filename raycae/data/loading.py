"""Open a source and load its splits."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from raycae.data import photos
from raycae.data.cifar10 import Cifar10
from raycae.data.folders import open_folder
from raycae.data.photos import PhotoCrops
from raycae.data.sources import parse_source
from raycae.data.splits import Split, split_indices
from raycae.data.summary import DataSummary, Reason, Tally
from raycae.data.types import ImagePool, Images, Indices, Labels, Pixels, Pools
from raycae.errors import InputError


def load(
    source: str,
    *,
    image_size: int = 32,
    limit: int | None = None,
    seed: int = 0,
    classes: int = 0,
) -> Images:
    """Load the training and validation images of a source.

    The same arguments give the same arrays; `split_indices` says what ``seed`` and ``limit``
    choose. Test images are counted and not decoded.

    Args:
        source: A built-in source or a folder; see `raycae.data`.
        image_size: Side of the images, in pixels.
        limit: The most training and validation images together; only those are decoded.
        seed: Shuffles the images before they are divided.
        classes: The number of classes that labels may have; 0: load no labels.

    Raises:
        InputError: The source is unknown or cannot be read, an image is damaged, or fewer than
            `LEAST_IMAGES` images would be left. The message names the source or the file.
    """
    _check_numbers(image_size, seed)
    pools = open_source(source)
    split = _split(source, pools, limit, seed)
    labels = _load_labels(source, pools, split, classes)  # refused in no time
    if pools.validation is None:  # one pass over the files for both
        cut = len(split.train)
        both = pools.train.take(np.concatenate([split.train, split.validation]), image_size)
        train, val = both[:cut], both[cut:]
    else:
        train = pools.train.take(split.train, image_size)
        val = pools.validation.take(split.validation, image_size)
    summary = _summarize(source, pools, split)
    return Images(train, val, _fingerprint(train, val), labels, summary)


def load_test(source: str, *, image_size: int = 32, seed: int = 0) -> Pixels:
    """Load the test images of a source, for the final evaluation only.

    A source without test images of its own sets a tenth aside by ``seed``: the seed given here has
    to be the seed given to `load`.

    Returns:
        uint8 (N, image_size, image_size, 3).

    Raises:
        InputError: As `load`.
    """
    _check_numbers(image_size, seed)
    pools = open_source(source)
    if pools.test is not None:
        return pools.test.take(np.arange(len(pools.test)), image_size)
    return pools.train.take(_split(source, pools, None, seed).test, image_size)


def load_labels(source: str, *, classes: int, limit: int | None = None, seed: int = 0) -> Labels:
    """Load the class, 0 to ``classes`` - 1, of every image that `load` and `load_test` give.

    No image is decoded; without ``classes`` nothing is read at all.

    Raises:
        InputError: The source does not say the classes, or one is not below ``classes``.
    """
    if not classes:
        return Labels()
    pools = open_source(source)
    return _load_labels(source, pools, _split(source, pools, limit, seed), classes)


def summarize(source: str, *, limit: int | None = None, seed: int = 0) -> DataSummary:
    """Count what `load` and `load_test` give with this ``limit`` and ``seed``; decode nothing.

    Raises:
        InputError: As `load`, for all that shows before images are decoded.
    """
    pools = open_source(source)
    return _summarize(source, pools, _split(source, pools, limit, seed))


def _load_labels(source: str, pools: Pools, split: Split, classes: int) -> Labels:
    if not classes:
        return Labels()

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


def _summarize(source: str, pools: Pools, split: Split) -> DataSummary:
    own = [pool for pool in (pools.train, pools.validation, pools.test) if pool is not None]
    tally = Tally()
    tally.extend(Reason.BAD_PROFILE, sorted(name for pool in own for name in pool.bad_profiles))
    return DataSummary(
        source,
        len(split.train),
        len(split.validation),
        len(split.test) if pools.test is None else len(pools.test),
        pools.n_classes or _count_labels(own),
        (*pools.left_out, *tally.entries()),
        pools.note,
    )


def _count_labels(pools: Iterable[ImagePool]) -> int | None:
    """Count the different labels of all images, or return None where they have none."""
    labels = [pool.labels() for pool in pools]
    known = [found for found in labels if found is not None]
    if len(known) < len(labels):
        return None
    return len({label for found in known for label in np.unique(found).tolist() if label >= 0})


def open_source(source: str) -> Pools:
    """Open a source: count its images, decode and download nothing.

    Raises:
        InputError: It is unknown, or it plainly cannot be read.
    """
    parsed = parse_source(source)
    if parsed.name == "cifar10":
        return Pools(Cifar10(train=True), None, Cifar10(train=False))
    if parsed.name == "photos":
        return Pools(
            PhotoCrops("train"), PhotoCrops("validation"), PhotoCrops("test"), note=photos.NOTE
        )
    return open_folder(parsed)


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
