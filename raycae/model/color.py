"""Conversions between RGB and YCbCr."""

from __future__ import annotations

import torch
from torch import Tensor

# BT.601 luma weights; they sum to 1, so that grey (r = g = b) has luma r and no chroma.
RED, GREEN, BLUE = 0.299, 0.587, 0.114
# Widths of B - Y and R - Y (-0.886..0.886 and -0.701..0.701): dividing by them makes chroma span 1.
CB_SPAN, CR_SPAN = 2 * (1 - BLUE), 2 * (1 - RED)


def rgb_to_ycbcr(rgb: Tensor) -> Tensor:
    """RGB (N, 3, H, W) in [0, 1] to Y, Cb, Cr (N, 3, H, W) in [0, 1], grey at Cb = Cr = 0.5.

    Nothing is clamped: values outside [0, 1] come out where the linear map puts them.
    """
    red, green, blue = rgb.unbind(1)  # each (N, H, W)
    luma = RED * red + GREEN * green + BLUE * blue
    cb = (blue - luma) / CB_SPAN + 0.5
    cr = (red - luma) / CR_SPAN + 0.5
    return stack_channels_last(luma, cb, cr)


def ycbcr_to_rgb(ycbcr: Tensor) -> Tensor:
    """Y, Cb, Cr (N, 3, H, W) to RGB (N, 3, H, W): the inverse of `rgb_to_ycbcr`, to 1e-6.

    Nothing is clamped: many (Y, Cb, Cr) in [0, 1] are no colour a screen has, and their RGB leaves
    [0, 1].
    """
    luma, cb, cr = ycbcr.unbind(1)  # each (N, H, W)
    return combine_rgb(luma, cb, cr)


def compute_luma(red: Tensor, green: Tensor, blue: Tensor) -> Tensor:
    """Luma of three planes of one shape, in [0, 1] and not rounded to 1/255.

    Sums, not a matrix product: that would follow TF32, bfloat16 and autocast switches, and the
    pictures would change with the speed settings of the training.
    """
    return torch.mul(red, RED).add_(green, alpha=GREEN).add_(blue, alpha=BLUE)


def combine_rgb(luma: Tensor, cb: Tensor, cr: Tensor) -> Tensor:
    """Three planes (N, H, W) to RGB (N, 3, H, W), not clamped."""
    red = luma + CR_SPAN * (cr - 0.5)
    blue = luma + CB_SPAN * (cb - 0.5)
    green = (luma - RED * red - BLUE * blue) / GREEN
    return stack_channels_last(red, green, blue)


def stack_channels_last(*planes: Tensor) -> Tensor:
    """C planes (N, H, W) as one tensor (N, C, H, W) in channels-last order, which `cat` loses."""
    return torch.stack(planes, dim=-1).permute(0, 3, 1, 2)
