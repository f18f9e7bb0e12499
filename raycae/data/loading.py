"""Open a source and load its splits."""

from __future__ import annotations

import hashlib
from typing import Any

import numpy as np
from numpy.typing import NDArray

from raycae.data import photos
from raycae.data.cifar10 import Cifar10
from raycae.data.folders import open_folder
from raycae.data.membership import (
    DUPLICATE,
    UNUSED,
    WORDS,
    Checksums,
    Membership,
    SourceImages,
    checksum_images,
    find_copies,
    require_unchanged,
)
from raycae.data.photos import PhotoCrops
from raycae.data.sources import parse_source
from raycae.data.splits import LEAST_IMAGES, split_indices
from raycae.data.summary import DataSummary, Reason, Tally
from raycae.data.types import Images, Indices, Labels, Pixels, Pools
from raycae.errors import InputError


def load(
    source: str,
    *,
    image_size: int = 32,
    limit: int | None = None,
    seed: int = 0,
    classes: int = 0,
    membership: Membership | None = None,
    keep_copies: bool = False,
) -> Images:
    """Load the training, validation and test images of a source.

    All of them are decoded, the test images to check them and to leave their copies out of the
    other splits. An image that several splits hold (equal pixels at `image_size`) stays in one of
    them: test before validation before training.

    Args:
        source: A name or a folder, see the package.
        image_size: Side of the images in pixels.
        limit: Most training and validation images together; see `split_indices`.
        seed: Seed of the splits; see `split_indices`.
        classes: Number of classes if labels are wanted; see `load_labels`.
        membership: The splits as an earlier call cut them; `limit` and `seed` are not used then.
        keep_copies: Leave copies where they are, as versions before this rule did.

    Returns:
        The images. Equal arguments give equal arrays.

    Raises:
        InputError: The source is unknown or cannot be read, an image is damaged, a split is empty,
            fewer than `LEAST_IMAGES` images are left, or the images are not those of `membership`.
    """
    _check_numbers(image_size, seed)
    pools = open_source(source)
    images = SourceImages(pools)
    if membership is None:
        splits = _cut(source, pools, images, limit, seed)
    else:
        splits = _find_members(source, images, membership, *WORDS)
    labels = _label(source, images, splits, classes)  # before the images: it takes no time
    train, val, test = pixels = images.take(splits, image_size)
    checksums = [checksum_images(each) for each in pixels]
    if membership is not None:
        _require_pixels(source, membership, dict(zip(WORDS, checksums, strict=True)))
        summary = _summarize_members(source, pools, images, membership)
        return Images(train, val, test, _fingerprint(train, val), labels, membership, summary)
    is_copy = find_copies(*checksums)
    if keep_copies:
        is_copy = np.zeros(len(train), bool), np.zeros(len(val), bool)
    kept = [~is_copy[0], ~is_copy[1], np.ones(len(test), bool)]
    membership = _describe_splits(images, splits, checksums, kept)
    if n_copies := int(is_copy[0].sum() + is_copy[1].sum()):
        train, val = train[kept[0]], val[kept[1]]
        _require_enough(source, len(train), len(val), n_copies)
        labels = _label(source, images, [s[k] for s, k in zip(splits, kept, strict=True)], classes)
    summary = _summarize_members(source, pools, images, membership)
    return Images(train, val, test, _fingerprint(train, val), labels, membership, summary)


def load_test(
    source: str, *, image_size: int = 32, seed: int = 0, membership: Membership | None = None
) -> Pixels:
    """Load the test images of a source.

    Args:
        source: A name or a folder, see the package.
        image_size: Side of the images in pixels.
        seed: Seed of the splits, the one given to `load`: a source without test images of its own
            sets a tenth aside by it.
        membership: The splits as `load` cut them; `seed` is not used then.

    Returns:
        uint8 (N, H, W, 3).

    Raises:
        InputError: As `load` does.
    """
    _check_numbers(image_size, seed)
    pools = open_source(source)
    images = SourceImages(pools)
    if membership is None:
        (test,) = images.take([_cut(source, pools, images, None, seed)[2]], image_size)
        return test
    (test,) = images.take(_find_members(source, images, membership, "test"), image_size)
    _require_pixels(source, membership, {"test": checksum_images(test)})
    return test


def load_labels(
    source: str,
    *,
    classes: int,
    limit: int | None = None,
    seed: int = 0,
    membership: Membership | None = None,
) -> Labels:
    """Load the class of every image of each split; decode nothing.

    Args:
        source: A name or a folder, see the package.
        classes: Number of classes; 0 reads nothing at all.
        limit: As in `load`.
        seed: As in `load`.
        membership: The splits as `load` cut them; `limit` and `seed` are not used then. Without it
            copies of images are not left out.

    Returns:
        Classes from 0 to ``classes`` - 1.

    Raises:
        InputError: The source does not say them, or one is not below ``classes``.
    """
    if not classes:
        return Labels()
    pools = open_source(source)
    images = SourceImages(pools)
    if membership is None:
        return _label(source, images, _cut(source, pools, images, limit, seed), classes)
    splits = _find_members(source, images, membership, *WORDS)
    return _label(source, images, splits, classes)


def summarize(
    source: str,
    *,
    limit: int | None = None,
    seed: int = 0,
    membership: Membership | None = None,
) -> DataSummary:
    """Count what `load` gives with these arguments; decode nothing.

    Without `membership` copies of images count as well, for they show in the pixels alone.

    Raises:
        InputError: As `load`, for all that shows before images are decoded.
    """
    pools = open_source(source)
    images = SourceImages(pools)
    if membership is None:
        splits = _cut(source, pools, images, limit, seed)
        return _summarize(source, pools, images, (len(splits[0]), len(splits[1]), len(splits[2])))
    return _summarize_members(source, pools, images, membership)


def check(source: str) -> None:
    """Raise `InputError` where ``source`` plainly cannot be read; decode and download nothing."""
    open_source(source)


def _cut(
    source: str, pools: Pools, images: SourceImages, limit: int | None, seed: int
) -> list[Indices]:
    """Cut the splits of a source: the places of training, validation and test images among all
    images. Raise `InputError` for too few, or none to test on."""
    try:
        train, validation, test = split_indices(
            len(pools.train),
            own_validation=None if pools.validation is None else len(pools.validation),
            own_test=pools.test is not None,
            limit=limit,
            seed=seed,
        )
    except InputError as error:
        raise InputError(f"source {source!r}: {error}") from None
    train, test = images.start(pools.train) + train, images.start(pools.train) + test
    validation = images.start(pools.validation or pools.train) + validation
    if pools.test is not None:
        test = images.start(pools.test) + np.arange(len(pools.test))
    if not len(test):
        raise InputError(
            f"source {source!r}: its test split is empty; put images there, or take it away: a "
            "tenth of the training images is then set aside for the test"
        )
    return [train, validation, test]


def _find_members(
    source: str, images: SourceImages, membership: Membership, *wanted: str
) -> list[Indices]:
    """Return the places of the images of each wanted split. Raise `InputError` where one is
    missing."""
    splits = []
    for split in wanted:
        names, _ = membership.of(split)
        places = images.find(names)
        require_unchanged(split, names, places < 0, "are missing", source)
        splits.append(places)
    return splits


def _require_pixels(source: str, membership: Membership, found: dict[str, Checksums]) -> None:
    """Raise `InputError` where images are not those of the membership."""
    for split, checksums in found.items():
        names, expected = membership.of(split)
        fault = "have other pixels than when it began"
        require_unchanged(split, names, checksums != expected, fault, source)


def _describe_splits(
    images: SourceImages,
    splits: list[Indices],
    checksums: list[Checksums],
    kept: list[NDArray[np.bool_]],
) -> Membership:
    """Return what becomes of every image of a source: its split, a copy, or unused."""
    rows: list[tuple[str, Indices, Checksums]] = []
    for split, places, found, keep in zip(WORDS, splits, checksums, kept, strict=True):
        rows.append((split, places[keep], found[keep]))
    for places, found, keep in zip(splits, checksums, kept, strict=True):
        rows.append((DUPLICATE, places[~keep], found[~keep]))
    unused = np.setdiff1d(np.arange(len(images.names)), np.concatenate(splits))
    rows.append((UNUSED, unused, np.zeros(len(unused), np.uint64)))
    return Membership(
        [split for split, places, _ in rows for _ in places],
        [images.names[place] for _, places, _ in rows for place in places],
        np.concatenate([found for _, _, found in rows]),
    )


def _require_enough(source: str, n_train: int, n_val: int, n_copies: int) -> None:
    """Raise `InputError` where too few images are left without the copies."""
    if n_train + n_val < LEAST_IMAGES or not n_train or not n_val:
        raise InputError(
            f"source {source!r}: too few images: without {n_copies:,} copies of test and "
            f"validation images there are {n_train:,} to train on and {n_val:,} to validate on; "
            f"training and validation together need at least {LEAST_IMAGES}, and one of each"
        )


def _label(source: str, images: SourceImages, splits: list[Indices], classes: int) -> Labels:
    """Return the classes of the images of each split, nothing if `classes` is 0. Raise `InputError`
    where the source does not say them, or one is too large."""
    if not classes:
        return Labels()
    found = images.labels()
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
    train, val, test = (found[split] for split in splits)
    return Labels(train, val, test, _fingerprint(train, val, test))


def _summarize(
    source: str,
    pools: Pools,
    images: SourceImages,
    counts: tuple[int, int, int],
    tally: Tally | None = None,
) -> DataSummary:
    """Return what a source holds: the numbers of training, validation and test images, and what is
    left out beside what its pools say."""
    tally = tally or Tally()
    tally.extend(Reason.BAD_PROFILE, sorted(name for p in images.pools for name in p.bad_profiles))
    return DataSummary(
        source,
        *counts,
        pools.n_classes or _count_labels(images),
        (*pools.left_out, *tally.entries()),
        pools.note,
    )


def _summarize_members(
    source: str, pools: Pools, images: SourceImages, membership: Membership
) -> DataSummary:
    """Return what a source holds of a study: its splits, the copies, and what came later."""
    tally = Tally()
    tally.extend(Reason.COPY, membership.of(DUPLICATE)[0])
    tally.extend(Reason.ADDED, sorted(set(images.names).difference(membership.names)))
    n_train, n_val, n_test = (len(membership.of(split)[0]) for split in WORDS)
    return _summarize(source, pools, images, (n_train, n_val, n_test), tally)


def _count_labels(images: SourceImages) -> int | None:
    """Count the different labels of all images, or return None where they have none."""
    labels = images.labels()
    return None if labels is None else len(set(np.unique(labels[labels >= 0]).tolist()))


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
