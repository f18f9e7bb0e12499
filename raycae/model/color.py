"""Conversions between RGB and YCbCr."""

from __future__ import annotations

import torch
from torch import Tensor

RED, GREEN, BLUE = 0.299, 0.587, 0.114
"""Luma weights of BT.601; they sum to 1, so that grey (r = g = b) has luma r and no chroma."""
CB_SPAN, CR_SPAN = 2 * (1 - BLUE), 2 * (1 - RED)
"""Widths of the ranges of B - Y and R - Y; divided by them, chroma has a range of width 1."""


def rgb_to_ycbcr(rgb: Tensor) -> Tensor:
    """Convert RGB to Y, Cb, Cr.

    Nothing is clamped: values outside [0, 1] are mapped linearly, too.

    Args:
        rgb: RGB, float (N, 3, H, W) in [0, 1].

    Returns:
        Y, Cb, Cr, float (N, 3, H, W) in [0, 1]; grey has Cb = Cr = 0.5.
    """
    red, green, blue = rgb.unbind(1)  # each (N, H, W)
    luma = RED * red + GREEN * green + BLUE * blue
    cb = (blue - luma) / CB_SPAN + 0.5
    cr = (red - luma) / CR_SPAN + 0.5
    return stack_channels_last(luma, cb, cr)


def ycbcr_to_rgb(ycbcr: Tensor) -> Tensor:
    """Convert Y, Cb, Cr to RGB: the inverse of `rgb_to_ycbcr` to 1e-6.

    Nothing is clamped: many (Y, Cb, Cr) in [0, 1] are not colours of a screen, and their RGB is
    outside [0, 1].

    Args:
        ycbcr: Y, Cb, Cr, float (N, 3, H, W).

    Returns:
        RGB, float (N, 3, H, W).
    """
    luma, cb, cr = ycbcr.unbind(1)  # each (N, H, W)
    return combine_rgb(luma, cb, cr)


def compute_luma(red: Tensor, green: Tensor, blue: Tensor) -> Tensor:
    """Compute the luma of an image, not rounded to 1/255.

    Sums are used instead of a matrix product, which would follow the switches for TF32, bfloat16
    and autocast: the images would change with the speed settings of the training.

    Args:
        red: Red plane, float, any shape, in [0, 1].
        green: Green plane, same shape.
        blue: Blue plane, same shape.

    Returns:
        The luma, same shape, in [0, 1].
    """
    return torch.mul(red, RED).add_(green, alpha=GREEN).add_(blue, alpha=BLUE)


def combine_rgb(luma: Tensor, cb: Tensor, cr: Tensor) -> Tensor:
    """Combine luma and chroma to RGB, not clamped.

    Args:
        luma: Luma, float (N, H, W).
        cb: Cb, float (N, H, W), grey at 0.5.
        cr: Cr, float (N, H, W), grey at 0.5.

    Returns:
        RGB, float (N, 3, H, W).
    """
    red = luma + CR_SPAN * (cr - 0.5)
    blue = luma + CB_SPAN * (cb - 0.5)
    green = (luma - RED * red - BLUE * blue) / GREEN
    return stack_channels_last(red, green, blue)


def stack_channels_last(*planes: Tensor) -> Tensor:
    """Stack planes as channels in channels-last memory order, which `cat` does not keep.

    Args:
        planes: C planes, each (N, H, W).

    Returns:
        One tensor (N, C, H, W).
    """
    return torch.stack(planes, dim=-1).permute(0, 3, 1, 2)
