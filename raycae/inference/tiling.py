"""Apply a network to large images in pieces or overlapping tiles."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

PIECE = 512
"""Side in pixels of the pieces that pass through a network; larger ones only cost memory."""


def apply_in_pieces(
    function: Callable[[Tensor], Tensor], x: Tensor, piece: int, margin: int
) -> Tensor:
    """Compute `function(x)` from overlapping pieces.

    The result equals `function(x)` if no value depends on values farther away than the margin.

    Args:
        function: A function of maps (N, C, H, W); it may change their size by a constant factor.
        x: Maps, float (N, C, H, W).
        piece: Side of the pieces, in positions of `x`.
        margin: Width of the overlap on each side, in positions of `x`.

    Returns:
        The result, float (N, C_out, H_out, W_out).
    """
    rows = []
    for top in range(0, x.shape[2], piece):
        row = []
        for left in range(0, x.shape[3], piece):
            above, before = max(0, top - margin), max(0, left - margin)
            cut = x[:, :, above : top + piece + margin, before : left + piece + margin]
            y = function(cut)
            # The bounds of the piece in the output, which may be smaller or larger.
            bounds = (top - above, top - above + piece, left - before, left - before + piece)
            upper, lower, first, last = (n * y.shape[2] // cut.shape[2] for n in bounds)
            row.append(y[:, :, upper:lower, first:last])
        rows.append(torch.cat(row, 3))
    return torch.cat(rows, 2)


def apply_in_tiles(function: Callable[[Tensor], Tensor], x: Tensor, side: int) -> Tensor:
    """Apply a function of fixed size to an image in tiles that overlap by half.

    Each pixel is the weighted mean of its tiles; the weight of a tile falls towards its edges.

    Args:
        function: A function of images (N, C, side, side) that keeps their size.
        x: Images, float (N, C, H, W); an image smaller than a tile is mirrored.
        side: Side of the tiles in pixels.

    Returns:
        The result, float (N, C_out, H, W).
    """
    height, width = x.shape[2:]
    x = x if height >= side else pad_mirrored(x, 2, side)
    x = x if width >= side else pad_mirrored(x, 3, side)
    tops, lefts = (place_tiles(length, side) for length in x.shape[2:])
    tiles = [x[:, :, top : top + side, left : left + side] for top in tops for left in lefts]
    batch_size = max(1, PIECE**2 // side**2)
    outputs = [
        tile
        for first in range(0, len(tiles), batch_size)
        for tile in function(torch.cat(tiles[first : first + batch_size])).split(len(x))
    ]
    n = len(lefts)
    rows = [blend_tiles(outputs[i : i + n], lefts, 3) for i in range(0, len(outputs), n)]
    return blend_tiles(rows, tops, 2)[:, :, :height, :width]


def blend_tiles(parts: Sequence[Tensor], starts: Sequence[int], axis: int) -> Tensor:
    """Join maps along an axis; each one fades into the next.

    Args:
        parts: Maps, float (N, C, H, W), of one size.
        starts: Where they begin along the axis.
        axis: The axis: 2 for the height, 3 for the width.

    Returns:
        The joined map.
    """
    side, length = parts[0].shape[axis], starts[-1] + parts[0].shape[axis]
    ramp = torch.arange(side).add(0.5).sub(side / 2).abs().neg().add(side / 2)
    weights = torch.zeros(length)
    for start in starts:
        weights[start : start + side] += ramp
    whole = parts[0].new_zeros([*parts[0].shape[:axis], length, *parts[0].shape[axis + 1 :]])
    for start, part in zip(starts, parts, strict=True):
        share = (ramp / weights[start : start + side]).view(-1, *[1] * (3 - axis))
        whole.narrow(axis, start, side).add_(part * share)
    return whole


def place_tiles(length: int, side: int) -> list[int]:
    """Place tiles so that they overlap by half or more and cover a length exactly.

    Args:
        length: The length in pixels, at least `side`.
        side: Side of the tiles in pixels.

    Returns:
        Where the tiles begin.
    """
    n = math.ceil(2 * (length - side) / side)
    return [step * (length - side) // n for step in range(n + 1)] if n else [0]


def pad_mirrored(x: Tensor, axis: int, multiple: int) -> Tensor:
    """Extend an image at its end by its mirror image, up to the next multiple of a size.

    Args:
        x: Images, float (N, C, H, W).
        axis: The axis to extend: 2 for the height, 3 for the width.
        multiple: The new size is the next multiple of this, in pixels.

    Returns:
        The extended images; `x` itself where its size is a multiple already.
    """
    size = x.shape[axis]
    if missing := -size % multiple:
        # Indices are mirrored, because torch pads by less than the size of the image only.
        index = np.pad(np.arange(size), (0, missing), mode="reflect")
        return x.index_select(axis, torch.from_numpy(index))
    return x
