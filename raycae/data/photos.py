"""Cut crops from the photographs in the scikit-image wheel."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from itertools import product
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from raycae.data.decoding import blank_images, fit_square, to_rgb
from raycae.data.types import Indices, Pixels


class PhotoCrops:
    """Square crops of the photographs, from the regions that belong to one split."""

    def __init__(self, split: str) -> None:
        self._split = split
        self.bad_profiles: list[str] = []

    def __len__(self) -> int:
        return len(photo_crops(self._split))

    def names(self) -> list[str]:
        return [f"{c.photo}#{c.left},{c.top},{c.side}" for c in photo_crops(self._split)]

    def take(self, indices: Indices, size: int) -> Pixels:
        out = blank_images(len(indices), size)
        crops = photo_crops(self._split)
        photos = {name: to_rgb(Image.open(_photo(name))) for name in PHOTOS}
        for slot, index in enumerate(indices):
            crop = crops[index]
            # Cut first, then resize: the filter of a resize "in place" reads past the crop's edge,
            # and so into another split's region.
            out[slot] = np.asarray(fit_square(photos[crop.photo].crop(crop.box), size))
        return out

    def labels(self) -> None:
        return None


PHOTOS = ("astronaut.png", "chelsea.png", "coffee.png", "motorcycle_left.png", "rocket.jpg")
"""The colour photographs in the scikit-image wheel. Left out: the second view of the motorcycle,
which shows again what the first shows, and medical and astronomical pictures."""


NOTE = (
    "Validation and test images of photos are crops from other regions of the same five "
    "photographs as the training images, so errors are lower than on new photographs."
)
"""What a reader of figures of this source has to know."""

REGION = 96
"""The least side of a region, in pixels of the photograph."""


CROPS = {32: 3, 48: 3, 64: 3, 96: 1}
"""Side of a crop, in pixels of the photograph, to how many a region holds along each axis."""


class Crop(NamedTuple):
    """A square of a photograph, in its pixels."""

    photo: str
    left: int
    top: int
    side: int

    @property
    def box(self) -> tuple[int, int, int, int]:
        """Left, top, right and bottom; right and bottom are outside."""
        return self.left, self.top, self.left + self.side, self.top + self.side


def photo_crops(split: str) -> list[Crop]:
    """The crops of ``split`` ("train", "validation" or "test"), the same on every call.

    Every photograph is cut into a grid of regions and every region belongs to one split. A crop, at
    whatever scale, lies inside one region, so no pixel is seen by two splits.
    Where images larger than a crop are asked for, the crop is enlarged.
    """
    return [
        Crop(photo, left, top, side)
        for photo in PHOTOS
        for (x0, y0, x1, y1), owner in _regions(photo)
        if owner == split
        for side, along in CROPS.items()
        for top, left in product(_spread(y0, y1 - side, along), _spread(x0, x1 - side, along))
    ]


def _regions(photo: str) -> Iterator[tuple[tuple[int, int, int, int], str]]:
    """The regions of a photograph: left, top, right, bottom, and the split that owns it."""
    with Image.open(_photo(photo)) as image:
        width, height = image.size
    columns, rows = width // REGION, height // REGION
    for row, column in product(range(rows), range(columns)):
        box = (
            column * width // columns,
            row * height // rows,
            (column + 1) * width // columns,
            (row + 1) * height // rows,
        )
        # A knight's move from row to row: validation and test come from all over the photograph.
        yield box, {4: "validation", 9: "test"}.get((column + 3 * row) % 10, "train")


def _spread(first: int, last: int, count: int) -> list[int]:
    """``count`` positions evenly spaced from first to last; the middle for a single one."""
    if count == 1:
        return [(first + last) // 2]
    return [first + (last - first) * step // (count - 1) for step in range(count)]


def _photo(name: str) -> Path:
    """Where the wheel has it. scikit-image is not imported: its loaders may start a download."""
    spec = importlib.util.find_spec("skimage")
    assert spec is not None  # a dependency of the package
    return Path(str(spec.origin)).with_name("data") / name
