"""Decode the images of splits once: into the cache, or into memory."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from raycae.data import image_cache
from raycae.data.decoding import blank_images
from raycae.data.image_cache import Record
from raycae.data.membership import (
    Checksums,
    SourceImages,
    checksum_images,
    compute_fingerprint,
    find_copies,
    make_storable,
)
from raycae.data.pixel_files import NotCachedError, PixelFile, PixelWriter
from raycae.data.types import Indices, Pixels, PixelTarget
from raycae.formatting import make_printable

Mask = NDArray[np.bool_]
NOT_CACHED = "decoded images are not cached, so each start decodes them"
"""How a note begins; the reason follows."""


@dataclass(frozen=True)
class Decoded:
    """Decoded images by split.

    Attributes:
        pixels: The images of each split without copies, uint8 (N, H, W, 3); read-only if they are
            mapped from a file.
        checksums: Checksums of the images of each split, copies included, uint64 (M,).
        kept: Which of these are in `pixels`, bool (M,).
        fingerprint: Checksum of the first two splits, see `Images`.
        notes: Sentences about the cache.
        file: The file that `pixels` are mapped from.
    """

    pixels: list[Pixels]
    checksums: list[Checksums]
    kept: list[Mask]
    fingerprint: str
    notes: tuple[str, ...] = ()
    file: PixelFile | None = None


def decode_splits(
    images: SourceImages, splits: Sequence[Indices], size: int, *, drop_copies: bool
) -> Decoded:
    """Return the images of splits, mapped from the cache if they were decoded before.

    The pixels do not depend on the cache.

    Args:
        images: All images of the source.
        splits: The places of the images of each split: training, validation and test.
        size: Side of the images in pixels.
        drop_copies: Whether to leave out images that a later split holds, see `find_copies`.

    Returns:
        The images.

    Raises:
        InputError: An image is damaged.
    """
    places = np.concatenate(splits)
    key = image_cache.compute_key(images.identify(places), splits, size)
    if key and (found := _read_cached(images, key, splits, size, drop_copies)):
        return found
    shape = (len(places), size, size, 3)
    notes = []
    if key:
        try:
            with image_cache.create_file(key, shape) as writer:
                images.decode_into(writer, places)
                return _finish_in_cache(images, writer, key, splits, drop_copies)
        except NotCachedError as error:
            reason = make_printable(str(error))
            notes = [f"{NOT_CACHED}: {reason}"]
            for pool in images.pools:
                pool.remarks.clear()  # They are found again.
    pixels = blank_images(len(places), size)
    images.decode_into(pixels, places)
    checksums = _cut(checksum_images(pixels), splits)
    kept = _find_kept(checksums, drop_copies)
    parts = _cut(pixels[: _compact(pixels, pixels, kept)], kept)
    return Decoded(parts, checksums, kept, compute_fingerprint(*parts[:2]), tuple(notes))


def _read_cached(
    images: SourceImages,
    key: image_cache.Key,
    splits: Sequence[Indices],
    size: int,
    drop_copies: bool,
) -> Decoded | None:
    """Return the images from the cache, or None if they are not there or damaged."""
    if not (found := image_cache.find(key.name, size)):
        return None
    record, file = found
    pixels = file.pixels
    checksums = _cut(record.checksums, splits)
    kept = _find_kept(checksums, drop_copies)
    if sum(int(mask.sum()) for mask in kept) != len(pixels):  # An older study keeps copies.
        return None
    images.pools[0].remarks.extend(record.remarks)
    return Decoded(_cut(pixels, kept), checksums, kept, record.fingerprint, (), file)


def _finish_in_cache(
    images: SourceImages,
    writer: PixelWriter,
    key: image_cache.Key,
    splits: Sequence[Indices],
    drop_copies: bool,
) -> Decoded:
    """Leave out copies, put the file into the cache, and return its images.

    Nothing is put there if a file was changed since ``key`` was computed, nor images without copies
    if they have no key of their own: a name stands for the same images for good.
    """
    size = writer.shape[1]
    decoded = writer.map()
    checksums = _cut(checksum_images(decoded), splits)
    kept = _find_kept(checksums, drop_copies)
    n_kept = _compact(decoded, writer, kept)
    parts = _cut(decoded[:n_kept], kept)
    result = Decoded(parts, checksums, kept, compute_fingerprint(*parts[:2]))
    left = [places[mask] for places, mask in zip(splits, kept, strict=True)]
    target: image_cache.Key | None = key
    if n_kept < len(decoded):  # A study that is resumed asks for the images without copies.
        target = image_cache.compute_key(images.identify(np.concatenate(left)), left, size)
    again = image_cache.compute_key(images.identify(np.concatenate(splits)), splits, size)
    if again != key:
        note = f"{NOT_CACHED}: an image file was changed while it was decoded"
        return replace(result, notes=(note,))
    if target is None:
        return result
    remarks = images.list_remarks()
    records = {key.name: Record(np.concatenate(checksums), result.fingerprint, remarks)}
    if n_kept < len(decoded):
        rest = np.concatenate([found[mask] for found, mask in zip(checksums, kept, strict=True)])
        names = {images.names[place] for place in np.concatenate(left)}
        remarks = [remark for remark in remarks if make_storable(remark[1]) in names]
        records[target.name] = Record(rest, result.fingerprint, remarks)
    file = image_cache.commit(writer, decoded[:n_kept], target.name, records)
    note = f"decoded images are kept in {file.path.parent} for the next start; see raycae cache"
    return replace(result, pixels=_cut(file.pixels, kept), notes=(make_printable(note),), file=file)


def _cut(array: NDArray[Any], parts: Sequence[Indices | Mask]) -> list[NDArray[Any]]:
    """Cut an array into pieces.

    Args:
        array: The array.
        parts: The lengths of the pieces: those of indices, or the number of True in a mask.

    Returns:
        A view for each piece.
    """
    lengths = [int(p.sum()) if p.dtype == np.bool_ else len(p) for p in parts]
    return np.split(array, np.cumsum(lengths)[:-1])


def _find_kept(checksums: Sequence[Checksums], drop_copies: bool) -> list[Mask]:
    """Return which images of each split are no copies of images of a later split."""
    kept = [np.ones(len(found), bool) for found in checksums]
    if drop_copies:
        train, validation, test = checksums
        for mask, is_copy in zip(kept, find_copies(train, validation, test), strict=False):
            mask &= ~is_copy
    return kept


def _compact(pixels: Pixels, out: PixelTarget, kept: Sequence[Mask]) -> int:
    """Move the images that are kept to the front, in place, so that memory is needed once.

    Args:
        pixels: The images, uint8 (N, H, W, 3).
        out: The same memory or file, for writing.
        kept: Which images of each split are kept.

    Returns:
        How many are kept.
    """
    places = np.flatnonzero(np.concatenate(kept))
    for slot in np.flatnonzero(places != np.arange(len(places))):
        out[slot] = pixels[places[slot]].copy()
    return len(places)
