"""Open a source and load its splits."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from raycae.data import cifar10, photos
from raycae.data.cifar10 import Cifar10
from raycae.data.decoded_splits import decode_splits
from raycae.data.decoding import blank_images
from raycae.data.folders import open_folder
from raycae.data.membership import (
    DUPLICATE,
    UNUSED,
    WORDS,
    Checksums,
    Membership,
    SourceImages,
    checksum_images,
    compute_fingerprint,
    require_unchanged,
)
from raycae.data.photos import PhotoCrops
from raycae.data.sources import parse_source
from raycae.data.splits import LEAST_IMAGES, split_indices
from raycae.data.summary import DataSummary, Reason, Tally
from raycae.data.types import Images, Indices, Labels, Pixels, Pools
from raycae.errors import InputError
from raycae.formatting import format_count


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
        splits = _cut_splits(source, pools, images, limit, seed)
    else:
        splits = _find_members(source, images, membership, *WORDS)
    labels = _load_split_labels(source, images, splits, classes)  # first, because it is fast
    drop_copies = membership is None and not keep_copies
    decoded = decode_splits(images, splits, image_size, drop_copies=drop_copies)
    train, val, test = decoded.pixels
    if membership is not None:
        _require_pixels(source, membership, dict(zip(WORDS, decoded.checksums, strict=True)))
    else:
        membership = _describe_splits(images, splits, decoded.checksums, decoded.kept)
    if n_copies := sum(len(mask) - int(mask.sum()) for mask in decoded.kept):
        _require_enough(source, len(train), len(val), n_copies)
        left = [places[mask] for places, mask in zip(splits, decoded.kept, strict=True)]
        labels = _load_split_labels(source, images, left, classes)
    summary = _summarize_members(source, pools, images, membership)
    return Images(
        *(train, val, test, decoded.fingerprint, labels, membership, summary),
        notes=decoded.notes,
        file=decoded.file,
    )


def load_test(
    source: str, *, image_size: int = 32, seed: int = 0, membership: Membership | None = None
) -> Pixels:
    """Load the test images of a source.

    Args:
        source: A name or a folder, see the package.
        image_size: Side of the images in pixels.
        seed: Seed of the splits, the one given to `load`: a source without its own test images
            reserves a tenth by it.
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
        places = _cut_splits(source, pools, images, None, seed)[2]
    else:
        (places,) = _find_members(source, images, membership, "test")
    test = blank_images(len(places), image_size)
    images.decode_into(test, places)
    if membership is not None:
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
        InputError: The source has no labels, or one is not below ``classes``.
    """
    if not classes:
        return Labels()
    pools = open_source(source)
    images = SourceImages(pools)
    if membership is None:
        return _load_split_labels(
            source, images, _cut_splits(source, pools, images, limit, seed), classes
        )
    splits = _find_members(source, images, membership, *WORDS)
    return _load_split_labels(source, images, splits, classes)


def summarize(
    source: str,
    *,
    limit: int | None = None,
    seed: int = 0,
    membership: Membership | None = None,
) -> DataSummary:
    """Count what `load` returns for these arguments; decode nothing.

    Args:
        source: A name or a folder, see the package.
        limit: As in `load`.
        seed: As in `load`.
        membership: The splits as `load` cut them; `limit` and `seed` are not used then. Without it
            copies of images are counted as well, because they show only in the pixels.

    Returns:
        The numbers of images and what is left out.

    Raises:
        InputError: As `load`, for all that shows before images are decoded.
    """
    pools = open_source(source)
    images = SourceImages(pools)
    if membership is None:
        splits = _cut_splits(source, pools, images, limit, seed)
        return _summarize(source, pools, images, (len(splits[0]), len(splits[1]), len(splits[2])))
    return _summarize_members(source, pools, images, membership)


def count_images(source: str, *, limit: int | None = None, seed: int = 0) -> tuple[int, int, int]:
    """Count the images of each split before copies are left out; decode and download nothing.

    Args:
        source: A name or a folder, see the package.
        limit: As in `load`.
        seed: As in `load`.

    Returns:
        The numbers of training, validation and test images.

    Raises:
        InputError: As `load`, for all that shows before images are decoded or downloaded.
    """
    if parse_source(source).name == "cifar10":
        n_train, n_test = cifar10.N_IMAGES
        splits = split_indices(n_train, own_test=True, limit=limit, seed=seed)
        return len(splits.train), len(splits.validation), n_test
    pools = open_source(source)
    train, validation, test = _cut_splits(source, pools, SourceImages(pools), limit, seed)
    return len(train), len(validation), len(test)


def check(source: str) -> None:
    """Raise `InputError` if a source cannot be read; decode and download nothing.

    Args:
        source: A name or a folder, see the package.

    Raises:
        InputError: The source is unknown, ambiguous or has no images.
    """
    open_source(source)


def _cut_splits(
    source: str, pools: Pools, images: SourceImages, limit: int | None, seed: int
) -> list[Indices]:
    """Cut the splits of a source.

    Returns:
        The places of training, validation and test images among all images, int64 (N,) each.

    Raises:
        InputError: There are too few images, or none to test on.
    """
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
    train, test = images.get_start(pools.train) + train, images.get_start(pools.train) + test
    validation = images.get_start(pools.validation or pools.train) + validation
    if pools.test is not None:
        test = images.get_start(pools.test) + np.arange(len(pools.test))
    if not len(test):
        raise InputError(
            f"source {source!r}: too few training images: {len(pools.train)}. It has no test "
            "split, and a tenth of the training images is reserved for testing; at least 10 are "
            "needed."
        )
    return [train, validation, test]


def _find_members(
    source: str, images: SourceImages, membership: Membership, *wanted: str
) -> list[Indices]:
    """Return the places of the images of each wanted split.

    Raises:
        InputError: One of the images is missing.
    """
    splits = []
    for split in wanted:
        names, _ = membership.get_split(split)
        places = images.find(names)
        require_unchanged(split, names, places < 0, "are missing", source)
        splits.append(places)
    return splits


def _require_pixels(source: str, membership: Membership, found: dict[str, Checksums]) -> None:
    """Raise `InputError` if images differ from those of the membership."""
    for split, checksums in found.items():
        names, expected = membership.get_split(split)
        fault = "have changed since it started"
        require_unchanged(split, names, checksums != expected, fault, source)


def _describe_splits(
    images: SourceImages,
    splits: list[Indices],
    checksums: list[Checksums],
    kept: list[NDArray[np.bool_]],
) -> Membership:
    """Return the split of every image of a source, or that it is a copy or unused."""
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
    """Raise `InputError` if too few images are left without the copies."""
    if n_train + n_val < LEAST_IMAGES or not n_train or not n_val:
        raise InputError(
            f"source {source!r}: too few images: after removing "
            f"{format_count(n_copies, 'duplicate')} of test and validation images, {n_train:,} "
            f"training and {n_val:,} validation images are left. Together they must be at least "
            f"{LEAST_IMAGES}, with at least 1 of each."
        )


def _load_split_labels(
    source: str, images: SourceImages, splits: list[Indices], classes: int
) -> Labels:
    """Return the classes of the images of each split; none if `classes` is 0.

    Raises:
        InputError: The source has no labels, or one is too large.
    """
    if not classes:
        return Labels()
    found = images.labels()
    if found is None:
        raise InputError(
            f"source {source!r}: has no class labels, but the setting classes: {classes} needs "
            "them. Use cifar10, or Parquet files with a column 'label' of whole numbers."
        )
    if len(odd := found[(found < 0) | (found >= classes)]):
        raise InputError(
            f"source {source!r}: contains an image of class {odd[0]}. "
            f"With classes: {classes}, labels must be from 0 to {classes - 1}."
        )
    train, val, test = (found[split] for split in splits)
    return Labels(train, val, test, compute_fingerprint(train, val, test))


def _summarize(
    source: str,
    pools: Pools,
    images: SourceImages,
    counts: tuple[int, int, int],
    tally: Tally | None = None,
) -> DataSummary:
    """Summarise a source.

    Args:
        source: The source as it was given.
        pools: The images of each split.
        images: All images.
        counts: Numbers of training, validation and test images.
        tally: What is left out in addition to what the pools leave out.
    """
    tally = tally or Tally()
    for reason, name in images.list_remarks():
        tally.add(reason, name)
    return DataSummary(
        source,
        *counts,
        pools.n_classes or _count_labels(images),
        (*pools.left_out, *tally.list_entries()),
        pools.note,
    )


def _summarize_members(
    source: str, pools: Pools, images: SourceImages, membership: Membership
) -> DataSummary:
    """Summarise a source of a study: its splits, the copies, and images added later."""
    tally = Tally()
    tally.extend(Reason.COPY, membership.get_split(DUPLICATE)[0])
    tally.extend(Reason.ADDED, sorted(set(images.names).difference(membership.names)))
    n_train, n_val, n_test = (len(membership.get_split(split)[0]) for split in WORDS)
    return _summarize(source, pools, images, (n_train, n_val, n_test), tally)


def _count_labels(images: SourceImages) -> int | None:
    """Count the different labels of all images, or return None without labels."""
    labels = images.labels()
    return None if labels is None else len(set(np.unique(labels[labels >= 0]).tolist()))


def open_source(source: str) -> Pools:
    """Open a source: count its images, decode and download nothing.

    Args:
        source: A name or a folder, see the package.

    Returns:
        The images of each split.

    Raises:
        InputError: It is unknown or cannot be read.
    """
    parsed = parse_source(source)
    if parsed.name == "cifar10":
        return Pools(Cifar10(train=True), None, Cifar10(train=False))
    if parsed.name == "photos":
        return Pools(
            PhotoCrops("train"), PhotoCrops("validation"), PhotoCrops("test"), note=photos.NOTE
        )
    return open_folder(parsed)


def _check_numbers(image_size: int, seed: int) -> None:
    """Raise `InputError` for an image size below 1 or a seed below 0."""
    if image_size < 1:
        raise InputError(f"image size {image_size}: expected at least 1 pixel")
    if seed < 0:
        raise InputError(f"seed {seed}: expected a whole number of at least 0")
