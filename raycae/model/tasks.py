"""What a network is trained to do: images to (input, target), and its outputs to RGB images.

*reconstruct* shows the RGB image and asks for it again. *colourise* shows the luma and asks for
the two chroma channels. Nothing here knows a model; both tasks have the same methods.

Images are uint8 tensors (N, H, W, 3), rows of the one tensor that a process holds. The tasks move
the channel axis to the front by a view, so every float tensor is in `torch.channels_last` order
without a transposing copy.

Colour space: full-range BT.601, as JFIF (JPEG) stores it, scaled to [0, 1] with chroma centred at
0.5. It is not the "video range" YCbCr (Y from 16 to 235) of scikit-image's `rgb2ycbcr`.
Source: ITU-T T.871 (JFIF). The constants are derived from the three luma weights, not from the
rounded decimals printed there, so that the two directions are inverse to each other.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn import functional as F

from raycae.errors import InputError
from raycae.model.color import CB_SPAN, CR_SPAN, combine_rgb, compute_luma, stack_channels_last

GAMMAS = (0.1, 0.5, 1.5, 3.0)
"""Default exponents of the luma channels of colourise."""
LOWEST_GAMMA, HIGHEST_GAMMA = 0.01, 100.0
"""Range of allowed exponents."""


@dataclass(frozen=True)
class Reconstruct:
    """The task that takes RGB images and returns the same images."""

    name: ClassVar[str] = "reconstruct"
    in_channels: ClassVar[int] = 3
    out_channels: ClassVar[int] = 3

    def batch(self, images: Tensor, labels: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Make input and target of a minibatch.

        Args:
            images: Images, uint8 (N, H, W, 3).
            labels: Ignored.

        Returns:
            Input and target, float (N, 3, H, W) in [0, 1]. Both are one tensor, so neither may be
            changed in place.
        """
        rgb = images.permute(0, 3, 1, 2).to(torch.float32).div_(255)  # (N, 3, H, W) channels last
        return rgb, rgb

    def picture(self, images: Tensor, output: Tensor) -> Tensor:
        """Convert outputs of the network to RGB images.

        Args:
            images: Ignored.
            output: Output of the network, float (N, 3, H, W).

        Returns:
            RGB, float (N, 3, H, W), clamped to [0, 1].
        """
        return output.float().clamp(0, 1)

    def prepare_input(self, rgb: Tensor, labels: Tensor | None = None) -> Tensor:
        """Make the input of the network from RGB images.

        Args:
            rgb: RGB, float (N, 3, H, W) in [0, 1].
            labels: Ignored.

        Returns:
            The input, float (N, 3, H, W).
        """
        return rgb

    def render_output(self, rgb: Tensor, output: Tensor) -> Tensor:
        """Convert outputs of the network to RGB images.

        Args:
            rgb: Ignored.
            output: Output of the network, float (N, 3, H, W).

        Returns:
            RGB, float (N, 3, H, W), clamped to [0, 1].
        """
        return output.clamp(0, 1)


@dataclass(frozen=True)
class Colourise:
    """The task that takes the luma and returns chroma (Cb, Cr).

    Args:
        gammas: Exponents of the luma, one input channel each; `(1.0,)` is the plain grey image.
        classes: Number of further input planes, which tell the class of the image.

    Raises:
        InputError: `gammas` is empty or has a value outside [0.01, 100].
    """

    gammas: tuple[float, ...]
    classes: int = 0

    name: ClassVar[str] = "colourise"
    out_channels: ClassVar[int] = 2

    def __post_init__(self) -> None:
        if not self.gammas:
            raise InputError("gammas: the list is empty; colourise needs at least one, e.g. 1.0")
        for gamma in self.gammas:
            if not LOWEST_GAMMA <= gamma <= HIGHEST_GAMMA:
                raise InputError(
                    f"gammas: {gamma} is not between {LOWEST_GAMMA:g} and {HIGHEST_GAMMA:g}"
                )

    @property
    def in_channels(self) -> int:
        """Number of input channels: one per gamma and one per class."""
        return len(self.gammas) + self.classes

    def batch(self, images: Tensor, labels: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Make input and target of a minibatch.

        Args:
            images: Images, uint8 (N, H, W, 3).
            labels: Classes, int64 (N,), 0 to classes - 1; None without class planes.

        Returns:
            The input, float (N, in_channels, H, W) in [0, 1]: the luma to the power of each gamma,
            then a plane for each class, 1 for the image's class and else 0. The target, float (N,
            2, H, W) in [0, 1]: Cb and Cr.
        """
        red, green, blue = split_planes(images)
        luma = compute_luma(red, green, blue)
        chroma = luma.new_full((*luma.shape, 2), 0.5)  # (N, H, W, 2)
        # Writing into the channels-last result takes a quarter less time than `stack`.
        chroma[..., 0].add_(blue.sub_(luma), alpha=1 / CB_SPAN)
        chroma[..., 1].add_(red.sub_(luma), alpha=1 / CR_SPAN)
        inputs = self._add_class_planes(raise_to_gammas(luma, self.gammas), labels)
        return inputs, chroma.permute(0, 3, 1, 2)

    def picture(self, images: Tensor, output: Tensor) -> Tensor:
        """Combine the images' true luma with the predicted chroma.

        Args:
            images: Images, uint8 (N, H, W, 3).
            output: Cb and Cr, float (N, 2, H, W).

        Returns:
            RGB, float (N, 3, H, W), clamped to [0, 1].
        """
        luma = compute_luma(*split_planes(images))  # (N, H, W)
        return combine_rgb(luma, output[:, 0], output[:, 1]).clamp_(0, 1)

    def prepare_input(self, rgb: Tensor, labels: Tensor | None = None) -> Tensor:
        """Make the input of the network from RGB images.

        Args:
            rgb: RGB, float (N, 3, H, W) in [0, 1].
            labels: Classes, int64 (N,); None without class planes.

        Returns:
            The input, float (N, in_channels, H, W), as `batch` makes it.
        """
        luma = compute_luma(*rgb.unbind(1))
        # `raise_to_gammas` would cache a fake tensor of torch.export as its exponents.
        inputs = torch.stack([luma**gamma for gamma in self.gammas], dim=-1)
        return self._add_class_planes(inputs, labels)

    def render_output(self, rgb: Tensor, output: Tensor) -> Tensor:
        """Combine the true luma of RGB images with the predicted chroma.

        Args:
            rgb: RGB, float (N, 3, H, W) in [0, 1].
            output: Cb and Cr, float (N, 2, H, W).

        Returns:
            RGB, float (N, 3, H, W), clamped to [0, 1].
        """
        return combine_rgb(compute_luma(*rgb.unbind(1)), output[:, 0], output[:, 1]).clamp(0, 1)

    def _add_class_planes(self, inputs: Tensor, labels: Tensor | None) -> Tensor:
        """Append the class planes and move the channels to the front.

        Args:
            inputs: Luma channels, float (N, H, W, len(gammas)).
            labels: Classes, int64 (N,); None without class planes.

        Returns:
            The input of the network, float (N, in_channels, H, W).
        """
        if self.classes:
            assert labels is not None  # Callers refuse images without labels before.
            planes = F.one_hot(labels, self.classes).to(inputs.dtype)[:, None, None]
            inputs = torch.cat([inputs, planes.expand(*inputs.shape[:3], -1)], dim=-1)
        return inputs.permute(0, 3, 1, 2)

    def grey(self, images: Tensor) -> Tensor:
        """Make the grey images that the network receives.

        Args:
            images: Images, uint8 (N, H, W, 3).

        Returns:
            The luma as RGB, float (N, 3, H, W) in [0, 1].
        """
        luma = compute_luma(*split_planes(images))  # (N, H, W)
        return stack_channels_last(luma, luma, luma)


Task = Reconstruct | Colourise


def make_task(name: str, gammas: Sequence[float] = GAMMAS, classes: int = 0) -> Task:
    """Make a task.

    Args:
        name: "reconstruct" or "colourise".
        gammas: Exponents of the luma channels; only for colourise.
        classes: Number of class planes; only for colourise.

    Returns:
        The task.

    Raises:
        InputError: The name is unknown, or `gammas` is not allowed.
    """
    if name == Reconstruct.name:
        return Reconstruct()
    if name == Colourise.name:
        return Colourise(tuple(gammas), classes)
    raise InputError(f"task: {name!r} is unknown; use {Reconstruct.name} or {Colourise.name}")


def split_planes(images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Split images into colour planes.

    Whole planes are copied, because arithmetic on every third byte cannot be vectorised.

    Args:
        images: Images, uint8 (N, H, W, 3).

    Returns:
        Red, green and blue, each float (N, H, W) in [0, 1], contiguous.
    """
    planes = images.permute(3, 0, 1, 2)
    planes = planes.to(torch.float32, memory_format=torch.contiguous_format).div_(255)
    return planes[0], planes[1], planes[2]


def raise_to_gammas(luma: Tensor, gammas: tuple[float, ...]) -> Tensor:
    """Raise the luma to several powers.

    One logarithm and one exponential per gamma are 3 to 6 times as fast as `pow` per gamma. Black
    is log 0 = -inf, and exp(-inf) is 0 again.

    Args:
        luma: Luma, float (N, H, W) in [0, 1].
        gammas: The exponents.

    Returns:
        luma ** gamma, float (N, H, W, len(gammas)).
    """
    luma = luma.unsqueeze(-1)
    if gammas == (1.0,):
        return luma
    return luma.log().mul(get_exponents(gammas, luma.device)).exp_()


@cache
def get_exponents(gammas: tuple[float, ...], device: torch.device) -> Tensor:
    """Return the exponents on a device.

    A copy for each minibatch would stall a GPU. They are kept as long as the process lives, because
    a captured step (`fused.Replay`) reads them at their address.

    Args:
        gammas: The exponents.
        device: The device.

    Returns:
        The exponents, float32 (len(gammas),).
    """
    return torch.tensor(gammas, dtype=torch.float32, device=device)
