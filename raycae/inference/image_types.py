"""Accept images as arrays, PIL images or tensors, and return the same type."""

from __future__ import annotations

from typing import Any, TypeVar, cast

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from raycae.data import srgb_profile, to_rgb
from raycae.errors import InputError

T = TypeVar("T")


class ImageType:
    """The form in which images were given.

    Args:
        original: The images as they were given.
        batch: Whether they have a batch axis.
    """

    def __init__(self, original: Any, batch: bool) -> None:
        self.original, self.batch = original, batch

    def restore(self, rgb: Tensor) -> Any:
        """Convert images to the form of the original.

        Args:
            rgb: RGB, float (N, 3, H, W) in [0, 1].

        Returns:
            The images.
        """
        rgb = rgb if self.batch else rgb[0]
        original = self.original
        if isinstance(original, Tensor):
            rgb = rgb if original.is_floating_point() else (rgb * 255).round()
            return rgb.to(original.device, original.dtype).contiguous()
        rows = rgb.movedim(-3, -1).contiguous().numpy()
        if isinstance(original, np.ndarray) and original.dtype != np.uint8:
            return rows.astype(original.dtype)
        rows = (rows * 255).round().astype(np.uint8)
        if isinstance(original, np.ndarray):
            return rows
        picture = Image.fromarray(rows)
        picture.info["icc_profile"] = srgb_profile()  # Pillow writes it into PNG files
        return picture


def read_pictures(pictures: Any) -> tuple[Tensor, ImageType]:
    """Convert images to RGB tensors.

    Args:
        pictures: A PIL image, an array or a tensor, see `raycae.inference.codec`.

    Returns:
        RGB, float32 (N, 3, H, W) in [0, 1] on the CPU, and the form of the input.

    Raises:
        InputError: The type, shape or range is not allowed.
    """
    if isinstance(pictures, Image.Image):
        try:
            rows = torch.from_numpy(np.array(to_rgb(pictures)))
        except ValueError as error:
            raise InputError(f"picture: {error}") from None
        planes = rows.permute(2, 0, 1)
    elif isinstance(pictures, np.ndarray):
        rows = torch.from_numpy(np.array(check_range(pictures), order="C"))
        planes = rows[None] if rows.ndim == 2 else rows.movedim(-1, -3)
    elif isinstance(pictures, Tensor):
        planes = check_range(pictures).detach().cpu()
    else:
        raise InputError(
            f"pictures of type {type(pictures).__name__}; allowed are numpy arrays, torch tensors, "
            "PIL images and lists of them"
        )
    if planes.ndim not in (3, 4) or planes.shape[-3] not in (1, 3) or 0 in planes.shape:
        raise InputError(
            f"pictures of shape {tuple(pictures.shape)}; allowed are arrays (H, W, 3) and "
            "(N, H, W, 3), (H, W) for a grey one, and tensors (3, H, W) and (N, 3, H, W)"
        )
    kind = ImageType(pictures, planes.ndim == 4)
    batch = planes if kind.batch else planes[None]
    rgb = batch.expand(-1, 3, -1, -1).to(torch.float32, memory_format=torch.channels_last)
    return (rgb / 255 if planes.dtype == torch.uint8 else rgb), kind


def check_range(pictures: T) -> T:
    """Raise `InputError` for floating-point images with values outside [0, 1].

    Values from 0 to 255 as floating-point are the most common mistake.

    Args:
        pictures: An array or a tensor.

    Returns:
        `pictures` itself.

    Raises:
        InputError: The type or the range is not allowed.
    """
    original = cast(Any, pictures)
    kind = str(original.dtype).removeprefix("torch.")
    if kind == "uint8":
        return pictures
    if "float" not in kind:
        raise InputError(
            f"pictures of type {kind}; allowed are uint8, and floating-point in [0, 1]"
        )
    if 0 not in original.shape and not (original.min() >= 0 and original.max() <= 1):
        low, high = float(original.min()), float(original.max())
        raise InputError(
            f"pictures from {low:g} to {high:g}; floating-point values must be in [0, 1]"
        )
    return pictures
