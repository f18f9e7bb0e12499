"""Types that the modules of this package share: pixels, labels and pools of images."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from raycae.data.summary import DataSummary, LeftOut, Remark

if TYPE_CHECKING:
    from raycae.data.membership import Membership
    from raycae.data.pixel_files import PixelFile, SharedPixels

Pixels = NDArray[np.uint8]
"""Images, uint8 (N, H, W, 3), sRGB, 0 to 255."""
Indices = NDArray[np.int64]
"""Indices of images or classes, int64 (N,)."""


class Labels(NamedTuple):
    """The class of each image of a split, in the order of the images.

    Attributes:
        train: Classes of the training images, int64 (N,); None if labels were not asked for.
        val: Classes of the validation images, int64 (M,).
        test: Classes of the test images, int64 (K,).
        fingerprint: Checksum of all three.
    """

    train: Indices | None = None
    val: Indices | None = None
    test: Indices | None = None
    fingerprint: str | None = None


@dataclass(frozen=True)
class Images:
    """The images of a search.

    Attributes:
        train: Training images, uint8 (N, H, W, 3), sRGB, 0 to 255, H = W.
        val: Validation images, uint8 (M, H, W, 3).
        test: Test images, uint8 (K, H, W, 3). Nothing is selected on them.
        fingerprint: 16 hexadecimal digits, equal for equal training and validation images in equal
            order and shape.
        labels: The classes that were asked for.
        membership: Which image of the source belongs to which split.
        summary: What the source holds, and what is left out of it.
        notes: Sentences for the person who waits for the images.
        file: The file in the cache that all three are mapped from, in their order; None if they are
            in memory.
    """

    train: Pixels
    val: Pixels
    test: Pixels
    fingerprint: str
    labels: Labels
    membership: Membership
    summary: DataSummary
    notes: tuple[str, ...] = ()
    file: PixelFile | None = None

    def share(self) -> tuple[Pixels | SharedPixels, ...]:
        """Return the images of each split as other processes of this machine take them.

        Returns:
            Where to map the training, validation and test images from; the images themselves if
            they are in memory, or without /proc, where a file that is deleted cannot be opened.
        """
        splits = self.train, self.val, self.test
        if self.file is None or not Path("/proc/self/fd").is_dir():
            return splits
        ends = np.cumsum([len(pixels) for pixels in splits]).tolist()
        return tuple(
            self.file.share(end - len(pixels), end)
            for pixels, end in zip(splits, ends, strict=True)
        )


class PixelTarget(Protocol):
    """Takes decoded images one by one, from several threads: an array, or a file.

    Attributes:
        shape: (N, H, W, 3).
    """

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the target, (N, H, W, 3)."""

    def __setitem__(self, slot: Any, pixels: Pixels, /) -> None: ...


class Origin(NamedTuple):
    """What decides on the pixels of images, as far as it shows without reading their files.

    Attributes:
        digest: Checksum of the paths, sizes and times of the files, and of the order of the images.
        n_bytes: Size of the files in bytes.
        changed_ns: When the last of the files was changed, in ns since 1970.
    """

    digest: bytes
    n_bytes: int
    changed_ns: int


class ImagePool(Protocol):
    """Images in a fixed order, counted without decoding and decoded when taken.

    Attributes:
        remarks: Those on the images that were decoded so far.
    """

    remarks: list[Remark]

    def __len__(self) -> int: ...

    def names(self) -> list[str]:
        """Return a stable name for every image, in order; decode nothing.

        Returns:
            A path relative to the source folder with ``/`` for an image file;
            ``FILE.parquet#ROW`` for a Parquet row, the first row being 0; ``train/00000`` for
            CIFAR-10; ``PHOTO#LEFT,TOP,SIDE`` for a crop of a photograph.
        """

    def decode_into(self, out: PixelTarget, slots: Indices, indices: Indices) -> None:
        """Decode images.

        Args:
            out: Takes the images; its shape gives their size.
            slots: The place of each image in ``out``, int64 (N,).
            indices: The images, int64 (N,).

        Raises:
            DamagedImageError: Images are damaged; the message names them.
            InputError: An image cannot be read.
        """

    def identify(self, indices: Indices) -> Origin | None:
        """Describe what decides on the pixels of images; decode nothing.

        Args:
            indices: The images, int64 (N,).

        Returns:
            The description, or None where decoding is so fast that nothing is cached.

        Raises:
            OSError: A file cannot be examined.
        """

    def labels(self) -> Indices | None:
        """Return the class of every image, int64 (N,), or None without labels."""


@dataclass(frozen=True)
class Pools:
    """The images of a source by split. Pools are lazy: they decode images only when taken.

    Attributes:
        train: The training images; all images of an undivided source.
        validation: The source's own validation images.
        test: The source's own test images.
        n_classes: Number of class folders; None without class folders.
        left_out: What the source holds and no pool contains.
        note: A sentence for the summary.
    """

    train: ImagePool
    validation: ImagePool | None
    test: ImagePool | None
    n_classes: int | None = None
    left_out: tuple[LeftOut, ...] = ()
    note: str = ""
