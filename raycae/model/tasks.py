"""What a network is asked to do: images to (input, target), and its outputs back to pictures.

*reconstruct* gives the RGB picture and asks for it again. *colourise* gives the luma and asks for
the two chroma channels. Nothing here knows a model; both tasks are called through the same methods.

Images are uint8 tensors (N, H, W, 3), rows of the one tensor a process holds. The tasks hand the
channel axis to the front by a view, so every float tensor comes out in `torch.channels_last` order
without a transposing copy.

Colour space: full-range BT.601, as JFIF (JPEG) stores it, scaled to [0, 1] with chroma centred at
0.5. It is not the "video range" YCbCr (Y from 16 to 235) of scikit-image's `rgb2ycbcr`.
Source: ITU-T T.871 (JFIF); the constants are derived from the three luma weights, not from the
rounded decimals printed there, so that the two directions are each other's inverse.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn import functional as F

from raycae.errors import InputError
from raycae.model.color import CB_SPAN, CR_SPAN, combine_rgb, compute_luma, stack_channels_last

GAMMAS = (0.1, 0.5, 1.5, 3.0)
LOWEST_GAMMA, HIGHEST_GAMMA = 0.01, 100.0


@dataclass(frozen=True)
class Reconstruct:
    """RGB in, the same RGB out."""

    name: ClassVar[str] = "reconstruct"
    in_channels: ClassVar[int] = 3
    out_channels: ClassVar[int] = 3

    def batch(self, images: Tensor, labels: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """uint8 (N, H, W, 3) to input and target, both float (N, 3, H, W) in [0, 1].

        The two are one tensor: neither may be changed in place. `labels` add nothing here.
        """
        rgb = images.permute(0, 3, 1, 2).to(torch.float32).div_(255)  # (N, 3, H, W) channels last
        return rgb, rgb

    def picture(self, images: Tensor, output: Tensor) -> Tensor:
        """The output (N, 3, H, W) as an RGB picture in [0, 1]; `images` add nothing here."""
        return output.float().clamp(0, 1)

    def shown(self, rgb: Tensor, labels: Tensor | None = None) -> Tensor:
        """The input of `batch` from pictures, float (N, 3, H, W) in [0, 1]."""
        return rgb

    def painted(self, rgb: Tensor, output: Tensor) -> Tensor:
        """`picture` for such pictures."""
        return output.clamp(0, 1)


@dataclass(frozen=True)
class Colourise:
    """Luma in, chroma (Cb, Cr) out.

    `gammas`: one input channel each, the luma raised to that power; `(1.0,)` is the plain grey
    channel. `classes`: so many planes behind them say which class the picture is of. Raises
    `InputError` for an empty list or a gamma outside [0.01, 100].
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
        """One per gamma and one per class."""
        return len(self.gammas) + self.classes

    def batch(self, images: Tensor, labels: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """uint8 (N, H, W, 3) to input (N, in_channels, H, W) and target (N, 2, H, W), in [0, 1].

        Input: the luma to the power of each gamma; then a plane for each class, 1 where it is the
        image's label (int64 (N,), 0 to classes - 1) and else 0. Target: Cb and Cr.
        """
        red, green, blue = split_planes(images)
        luma = compute_luma(red, green, blue)
        chroma = luma.new_full((*luma.shape, 2), 0.5)  # (N, H, W, 2)
        # In place and straight into the channels-last result: a quarter less time than `stack`.
        chroma[..., 0].add_(blue.sub_(luma), alpha=1 / CB_SPAN)
        chroma[..., 1].add_(red.sub_(luma), alpha=1 / CR_SPAN)
        return self._told(raise_to_gammas(luma, self.gammas), labels), chroma.permute(0, 3, 1, 2)

    def picture(self, images: Tensor, output: Tensor) -> Tensor:
        """RGB (N, 3, H, W) in [0, 1] of the images' true luma and the predicted chroma.

        `output`: Cb and Cr, float (N, 2, H, W). Colours that no screen has are clamped.
        """
        luma = compute_luma(*split_planes(images))  # (N, H, W)
        return combine_rgb(luma, output[:, 0], output[:, 1]).clamp_(0, 1)

    def shown(self, rgb: Tensor, labels: Tensor | None = None) -> Tensor:
        """The input of `batch` from pictures, float (N, 3, H, W) in [0, 1], and their labels."""
        luma = compute_luma(*rgb.unbind(1))
        # Not `raise_to_gammas`: its kept tensor of exponents would be one of torch.export's
        # make-believe.
        return self._told(torch.stack([luma**gamma for gamma in self.gammas], dim=-1), labels)

    def painted(self, rgb: Tensor, output: Tensor) -> Tensor:
        """`picture` for such pictures."""
        return combine_rgb(compute_luma(*rgb.unbind(1)), output[:, 0], output[:, 1]).clamp(0, 1)

    def _told(self, shown: Tensor, labels: Tensor | None) -> Tensor:
        """`shown` (N, H, W, len(gammas)) and the planes of the classes as the network's input."""
        if self.classes:
            assert labels is not None  # whoever has images without has refused them
            planes = F.one_hot(labels, self.classes).to(shown.dtype)[:, None, None]
            shown = torch.cat([shown, planes.expand(*shown.shape[:3], -1)], dim=-1)
        return shown.permute(0, 3, 1, 2)

    def grey(self, images: Tensor) -> Tensor:
        """The luma as a grey RGB picture (N, 3, H, W) in [0, 1]: what the network is shown."""
        luma = compute_luma(*split_planes(images))  # (N, H, W)
        return stack_channels_last(luma, luma, luma)


Task = Reconstruct | Colourise


def make_task(name: str, gammas: Sequence[float] = GAMMAS, classes: int = 0) -> Task:
    """The task called `name`: "reconstruct" (which has no use for the rest) or "colourise".

    Raises `InputError` for another name.
    """
    if name == Reconstruct.name:
        return Reconstruct()
    if name == Colourise.name:
        return Colourise(tuple(gammas), classes)
    raise InputError(f"task: {name!r} is unknown; use {Reconstruct.name} or {Colourise.name}")


def split_planes(images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """uint8 (N, H, W, 3) to red, green, blue, each float (N, H, W) in [0, 1], contiguous.

    Whole planes, because arithmetic on every third byte cannot be vectorised.
    """
    planes = images.permute(3, 0, 1, 2)
    planes = planes.to(torch.float32, memory_format=torch.contiguous_format).div_(255)
    return planes[0], planes[1], planes[2]


def raise_to_gammas(luma: Tensor, gammas: tuple[float, ...]) -> Tensor:
    """Luma (N, H, W) to luma ** gamma (N, H, W, len(gammas)).

    One logarithm, and an exponential a gamma: 3 to 6 times as fast as `pow` per gamma. Black is
    log 0 = -inf, and exp(-inf) is 0 again.
    """
    luma = luma.unsqueeze(-1)
    if gammas == (1.0,):
        return luma
    return luma.log().mul(get_exponents(gammas, luma.device)).exp_()


@lru_cache(maxsize=64)
def get_exponents(gammas: tuple[float, ...], device: torch.device) -> Tensor:
    """The gammas on `device`; kept, for a copy to a GPU in every batch would stall it."""
    return torch.tensor(gammas, dtype=torch.float32, device=device)
