"""Which image belongs to which split of a study: names and checksums, and the copies left out.

Splits are cut once, when a study begins. From then on its images are found by name and recognised
by a checksum of their pixels, whatever else is added to the source.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from raycae.data.decoding import DamagedImageError, require_undamaged, run_in_threads
from raycae.data.summary import Remark
from raycae.data.types import ImagePool, Indices, Origin, Pixels, PixelTarget, Pools
from raycae.errors import InputError

Checksums = NDArray[np.uint64]

WORDS = {"train": "training", "validation": "validation", "test": "test"}
"""The splits, in the order in which they are stored, and their names in messages."""
DUPLICATE, UNUSED = "duplicate", "unused"
"""Marks of copies of images of another split, and of images beyond the limit."""
N_NAMED = 5
"""Maximum number of images that a message names."""


@dataclass(frozen=True)
class Membership:
    """The images of a source by split.

    Attributes:
        splits: The split of each image, or `DUPLICATE` or `UNUSED`.
        names: Its name in the source, unique.
        checksums: Checksum of its pixels at the study's image size, uint64 (N,); 0 where it was not
            decoded.
    """

    splits: list[str]
    names: list[str]
    checksums: Checksums

    @property
    def checksum(self) -> str:
        """Checksum of the whole table, 32 hexadecimal digits; independent of how it is stored."""
        digest = hashlib.blake2b(self.checksums.astype("<u8").tobytes(), digest_size=16)
        for texts in (self.splits, self.names):
            digest.update("\0".join(texts).encode() + b"\0\0")
        return digest.hexdigest()

    def get_split(self, split: str) -> tuple[list[str], Checksums]:
        """Return the images of a split.

        Args:
            split: "train", "validation", "test", `DUPLICATE` or `UNUSED`.

        Returns:
            Their names in order, and their checksums, uint64 (N,).
        """
        rows = [row for row, member_of in enumerate(self.splits) if member_of == split]
        return [self.names[row] for row in rows], self.checksums[rows]

    def to_parquet(self) -> bytes:
        """Encode the table as a Parquet file with the columns split, name and checksum.

        Returns:
            The content of the file. A checksum is stored as the signed integer of the same bits;
            unused images have none.
        """
        import pyarrow as pa
        import pyarrow.parquet as pq

        unseen = np.array([split == UNUSED for split in self.splits], bool)
        columns = {
            "split": pa.array(self.splits, pa.string()).dictionary_encode(),
            "name": pa.array(self.names, pa.string()),
            "checksum": pa.array(self.checksums.view(np.int64), mask=unseen),
        }
        buffer = io.BytesIO()
        pq.write_table(pa.table(columns), buffer, write_page_checksum=True)
        return buffer.getvalue()


class SourceImages:
    """All images of a source in one numbering, whichever pool holds them."""

    def __init__(self, pools: Pools) -> None:
        found = (pools.train, pools.validation, pools.test)
        self.pools: list[ImagePool] = [pool for pool in found if pool is not None]
        self._ends = np.cumsum([len(pool) for pool in self.pools])
        self.names = [make_storable(name) for pool in self.pools for name in pool.names()]

    def get_start(self, pool: ImagePool) -> int:
        """Return the place of a pool's first image among all images.

        Args:
            pool: One of the source's pools.

        Returns:
            The place, from 0.
        """
        number = next(i for i, other in enumerate(self.pools) if other is pool)
        return int(self._ends[number]) - len(pool)

    def find(self, names: Iterable[str]) -> Indices:
        """Find images by name.

        Args:
            names: The names, at most one of each.

        Returns:
            The place of each among all images, int64 (N,); -1 for an unknown name.
        """
        places = {name: place for place, name in enumerate(self.names)}
        return np.array([places.get(name, -1) for name in names], np.int64)

    def decode_into(self, out: PixelTarget, places: Indices) -> None:
        """Decode images, those of one pool in one pass over its files.

        Args:
            out: Takes the images in the order of ``places``.
            places: The places of the images among all images, int64 (N,).

        Raises:
            InputError: Images are damaged; the message names those of all pools.
        """
        problems: list[tuple[str, str]] = []
        for pool, positions, indices in self._find_in_pools(places):
            try:
                pool.decode_into(out, positions, indices)
            except DamagedImageError as error:
                problems += error.problems
        require_undamaged(problems)

    def identify(self, places: Indices) -> Origin | None:
        """Describe what decides on the pixels of images; decode nothing.

        Args:
            places: The places of the images among all images, int64 (N,).

        Returns:
            The description; None if a pool has none or a file cannot be examined.
        """
        digest = hashlib.blake2b(digest_size=16)
        n_bytes = changed_ns = 0
        for pool, positions, indices in self._find_in_pools(places):
            try:
                origin = pool.identify(indices)
            except OSError:  # Decoding will say what is wrong with the file.
                return None
            if origin is None:
                return None
            digest.update(origin.digest + positions.astype("<i8").tobytes())
            n_bytes += origin.n_bytes
            changed_ns = max(changed_ns, origin.changed_ns)
        return Origin(digest.digest(), n_bytes, changed_ns)

    def list_remarks(self) -> list[Remark]:
        """Return the remarks on the images that were decoded, sorted by their names."""
        return sorted((r for pool in self.pools for r in pool.remarks), key=lambda r: r[1])

    def _find_in_pools(self, places: Indices) -> Iterator[tuple[ImagePool, Indices, Indices]]:
        """Yield each pool that holds some of the images, where these are in ``places``, and their
        indices in the pool."""
        for pool, end in zip(self.pools, self._ends, strict=True):
            start = int(end) - len(pool)
            positions = np.flatnonzero((places >= start) & (places < end))
            if len(positions):
                yield pool, positions, places[positions] - start

    def labels(self) -> Indices | None:
        """Return the class of every image, int64 (N,), or None if a pool has no labels."""
        found = [pool.labels() for pool in self.pools]
        known = [labels for labels in found if labels is not None]
        return np.concatenate(known) if len(known) == len(found) else None


def checksum_images(pixels: Pixels) -> Checksums:
    """Compute a 64-bit checksum of each image.

    Args:
        pixels: uint8 (N, H, W, 3).

    Returns:
        The first 8 bytes of BLAKE2b of the pixels, uint64 (N,). Among 10 million different images
        two have the same checksum with a probability of 3e-6.
    """
    rows = np.ascontiguousarray(pixels).reshape(len(pixels), -1)
    digests = np.empty((len(rows), 8), np.uint8)

    def fill(row: int) -> None:
        digest = hashlib.blake2b(memoryview(rows[row]), digest_size=8)
        digests[row] = np.frombuffer(digest.digest(), np.uint8)

    run_in_threads(fill, len(rows))
    return digests.view("<u8")[:, 0].astype(np.uint64)


def compute_fingerprint(*arrays: NDArray[Any]) -> str:
    """Compute a checksum of arrays and their shapes, in the order of their values.

    Args:
        arrays: The arrays.

    Returns:
        16 hexadecimal digits.
    """
    digest = hashlib.blake2b(digest_size=8)
    for array in arrays:
        digest.update(repr(array.shape).encode())
        digest.update(np.ascontiguousarray(array).data)
    return digest.hexdigest()


def find_copies(
    train: Checksums, validation: Checksums, test: Checksums
) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Find the images that an earlier split holds as well: test, then validation, then training.

    The test split keeps all of its images, so that test errors stay comparable with published ones.

    Args:
        train: Checksums of the training images, uint64 (N,).
        validation: Checksums of the validation images, uint64 (M,).
        test: Checksums of the test images, uint64 (K,).

    Returns:
        Which training images are in the validation or the test split, bool (N,); which validation
        images are in the test split, bool (M,).
    """
    return np.isin(train, np.concatenate([validation, test])), np.isin(validation, test)


def require_unchanged(
    split: str, names: Sequence[str], wrong: NDArray[np.bool_], fault: str, source: str
) -> None:
    """Raise `InputError` where images of a split are missing or have changed.

    Args:
        split: "train", "validation" or "test".
        names: The names of its images.
        wrong: Which of them, bool (N,).
        fault: "are missing" or what else is wrong with them.
        source: Where they come from.
    """
    if not wrong.any():
        return
    named = [names[i] for i in np.flatnonzero(wrong)[:N_NAMED]]
    more = int(wrong.sum()) - len(named)
    more_text = f" and {more:,} more" if more else ""
    raise InputError(
        f"source {source!r}: {int(wrong.sum()):,} of the {len(names):,} {WORDS[split]} images of "
        f"this study {fault}: {', '.join(named)}{more_text}; restore them, or start another study"
    )


def make_storable(name: str) -> str:
    """Escape the bytes of a name that UTF-8 cannot hold; file systems allow them.

    Args:
        name: The name of an image.
    """
    return name.encode("utf-8", "backslashreplace").decode()
