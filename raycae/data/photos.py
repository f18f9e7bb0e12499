"""Cut crops from the photographs in the scikit-image wheel."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from functools import cache, lru_cache
from itertools import product
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from raycae.data.decoding import fit_square, to_rgb
from raycae.data.summary import Remark
from raycae.data.types import Indices, PixelTarget


class PhotoCrops:
    """Square crops of the photographs in the regions of one split, an `ImagePool`."""

    def __init__(self, split: str) -> None:
        self._split = split
        self.remarks: list[Remark] = []

    def __len__(self) -> int:
        return len(photo_crops(self._split))

    def names(self) -> list[str]:
        """Return ``PHOTO#LEFT,TOP,SIDE`` for every crop."""
        return [f"{c.photo}#{c.left},{c.top},{c.side}" for c in photo_crops(self._split)]

    def decode_into(self, out: PixelTarget, slots: Indices, indices: Indices) -> None:
        """Cut crops and resize them to the size of ``out``; see `ImagePool`."""
        crops = photo_crops(self._split)
        photos = {name: _read_photo(_find_photo(name)) for name in PHOTOS}
        for slot, index in zip(slots, indices, strict=True):
            crop = crops[index]
            # Cutting before resizing keeps the filter from reading beyond the crop, which may be
            # the region of another split.
            square = fit_square(photos[crop.photo].crop(crop.box), out.shape[1])
            out[slot] = np.asarray(square)

    def identify(self, indices: Indices) -> None:
        """Return None: the images are not cached, because cutting takes well under a second."""

    def labels(self) -> None:
        """Return None, because the photographs have no labels."""
        return None


PHOTOS = ("astronaut.png", "chelsea.png", "coffee.png", "motorcycle_left.png", "rocket.jpg")
"""The colour photographs in the scikit-image wheel.

The second view of the motorcycle is left out, because it shows the same as the first. So are
medical and astronomical images.
"""


NOTE = (
    "Validation and test images of photos are crops from other regions of the same five "
    "photographs as the training images, so errors are lower than on new photographs."
)
"""The caveat for all errors that are measured on this source."""

REGION = 96
"""Minimum side of a region, in pixels of the photograph."""


CROPS = {32: 3, 48: 3, 64: 3, 96: 1}
"""Side of a crop in pixels of the photograph, and the number of crops along each axis."""


class Crop(NamedTuple):
    """A square of a photograph, in pixels of the photograph."""

    photo: str
    left: int
    top: int
    side: int

    @property
    def box(self) -> tuple[int, int, int, int]:
        """Left, top, right and bottom; right and bottom are exclusive."""
        return self.left, self.top, self.left + self.side, self.top + self.side


@cache
def photo_crops(split: str) -> list[Crop]:
    """List the crops of a split; the list is the same on every call.

    Every photograph is divided into a grid of regions, and each region belongs to one split. A crop
    of any size is inside one region, so two splits never share a pixel. Crops are enlarged where
    larger images are asked for.

    Args:
        split: "train", "validation" or "test".

    Returns:
        The crops, ordered by photograph and region.
    """
    return [
        Crop(photo, left, top, side)
        for photo in PHOTOS
        for (x0, y0, x1, y1), owner in _iterate_regions(photo)
        if owner == split
        for side, along in CROPS.items()
        for top, left in product(
            _space_evenly(y0, y1 - side, along), _space_evenly(x0, x1 - side, along)
        )
    ]


@lru_cache(maxsize=len(PHOTOS))
def _read_photo(path: Path) -> Image.Image:
    """Decode a photograph; the five of them take 5 MB of memory."""
    return to_rgb(Image.open(path))


def _iterate_regions(photo: str) -> Iterator[tuple[tuple[int, int, int, int], str]]:
    """Yield the regions of a photograph (left, top, right, bottom) and their splits."""
    with Image.open(_find_photo(photo)) as image:
        width, height = image.size
    columns, rows = width // REGION, height // REGION
    for row, column in product(range(rows), range(columns)):
        box = (
            column * width // columns,
            row * height // rows,
            (column + 1) * width // columns,
            (row + 1) * height // rows,
        )
        # A shift by three columns per row spreads validation and test over the photograph.
        yield box, {4: "validation", 9: "test"}.get((column + 3 * row) % 10, "train")


def _space_evenly(first: int, last: int, count: int) -> list[int]:
    """Return ``count`` positions evenly spaced from first to last; the middle for one."""
    if count == 1:
        return [(first + last) // 2]
    return [first + (last - first) * step // (count - 1) for step in range(count)]


def _find_photo(name: str) -> Path:
    """Return the path of a photograph in the scikit-image wheel.

    scikit-image is not imported, because its loaders may start a download.
    """
    spec = importlib.util.find_spec("skimage")
    assert spec is not None  # scikit-image is a dependency.
    return Path(str(spec.origin)).with_name("data") / name
