"""A trained model as something to call: pictures in, pictures or latents out.

    codec = raycae.load("results/ex3")
    codec.colourise(Image.open("grandmother.jpg")).save("in-colour.png")

Pictures are, one or a batch,

- numpy arrays (H, W, 3) or (N, H, W, 3), and (H, W) for one grey picture: uint8 from 0 to 255, or
  floating-point in [0, 1];
- torch tensors (3, H, W) or (N, 3, H, W), or with one channel: uint8 or floating-point likewise;
- PIL images of any mode; EXIF turns them, transparent parts are laid over white, and their colour
  profile is converted to sRGB;
- lists of such, whose sizes may differ: each is taken by itself.

What comes back is of the kind and type that went in, in colour; tensors are on their old device.
PIL images carry the sRGB profile, which Pillow writes into PNG and TIFF files.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar, cast

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from raycae import model, results
from raycae.architecture import architecture, reach
from raycae.config import Config
from raycae.data import srgb_profile, to_rgb
from raycae.errors import InputError
from raycae.model import Autoencoder
from raycae.storage import Place
from raycae.tasks import Task, task

T = TypeVar("T")
Labels = int | Sequence[int] | None

PIECE = 512
"""Pixels, each way, that go through a network at once; more would only cost memory."""


class Painter(nn.Module):
    """A network and its colour conversions: `forward` takes RGB (N, 3, H, W) in [0, 1] to RGB.

    `labels`: int64 (N,), for a network that is told the class. H and W are as the network's.
    """

    def __init__(self, network: Autoencoder, task: Task) -> None:
        super().__init__()
        self.network, self.task = network, task

    def forward(self, rgb: Tensor, labels: Tensor | None = None) -> Tensor:
        return self.task.painted(rgb, self.network(self.task.shown(rgb, labels)))


class Codec:
    """A model ready for use, on the CPU. `load` makes one.

    Pictures may have any size. A network that is the same at every size (`stride`: it is so for
    multiples of that) sees the whole picture, mirrored at its right and lower edge up to the next
    multiple. Any other one sees tiles of the size it was trained on, which overlap by half and are
    blended.

    `labels` is for models that are told the class of each image (`config.classes`) and for no
    others: one number for all images, or one for each, from 0 to classes - 1. Nobody can guess it,
    so such models refuse pictures without.

    All methods raise `InputError` for pictures or latents of another type, shape or range.
    """

    def __init__(self, network: Autoencoder, config: Config) -> None:
        self.network, self.config = network, config
        self.task = task(config.task, config.gammas, config.classes)
        self.painter = Painter(network, self.task).eval().requires_grad_(False)
        self.architecture = architecture(config)
        self.stride = self.architecture.stride

    def __repr__(self) -> str:
        return f"Codec({self.config.task}, {self.architecture})"

    def reconstruct(self, pictures: Any) -> Any:
        """The pictures as they come out of the latent. Raises `InputError` where the model
        colourises."""
        return self._paint("reconstruct", pictures, None)

    def colourise(self, pictures: Any, labels: Labels = None) -> Any:
        """The pictures' luma with the colours that the model gives it; what colours they have is
        not looked at. Raises `InputError` where the model reconstructs."""
        return self._paint("colourise", pictures, labels)

    def paint(self, pictures: Any, labels: Labels = None) -> Any:
        """`reconstruct` or `colourise`, whichever the model does."""
        return self._paint(self.config.task, pictures, labels)

    def encode(self, pictures: Any, labels: Labels = None) -> Any:
        """The latents, float32, (C, h, w) or (N, C, h, w): tensors of tensors, else arrays.

        h and w are the picture's sides divided by `stride`, rounded up. A model without a stride
        encodes pictures of its own size alone.
        """
        if isinstance(pictures, list | tuple):
            each = zip(pictures, _for_each(labels, len(pictures)), strict=True)
            return [self.encode(picture, label) for picture, label in each]
        rgb, kind = _taken(pictures)
        with torch.no_grad():
            z = self._encode(self._shown(rgb, labels))
        z = z if kind.batch else z[0]
        return z.to(pictures.device) if isinstance(pictures, Tensor) else z.numpy()

    def require_latent(self, height: int, width: int) -> None:
        """Raise `InputError` where `encode` would, for pictures of this size."""
        size = self.config.image_size
        if self.stride is None and (height, width) != (size, size):
            raise InputError(
                f"encode: a picture of {height} x {width}: the latent of this model stands for "
                f"{size} x {size} pixels and no others; cut or resize the picture"
            )

    def decode(self, latents: Any) -> Any:
        """What latents as `encode` gives them stand for, float32, h and w times `stride` pixels.

        Where the model reconstructs, RGB; where it colourises, Cb and Cr (see `raycae.tasks`). In
        [0, 1]; channels come last in arrays, and first in tensors.
        """
        if isinstance(latents, list | tuple):
            return [self.decode(latent) for latent in latents]
        z = self._latents(latents)
        with torch.no_grad():
            y = self._decode(z if z.ndim == 4 else z[None]).clamp(0, 1)
        y = y if z.ndim == 4 else y[0]
        if isinstance(latents, Tensor):
            return y.to(latents.device)
        return y.movedim(-3, -1).contiguous().numpy()

    def _paint(self, wanted: str, pictures: Any, labels: Labels) -> Any:
        if wanted != (does := self.config.task):
            raise InputError(f"{wanted}: this model was trained to {does}; use `{does}`")
        if isinstance(pictures, list | tuple):
            each = zip(pictures, _for_each(labels, len(pictures)), strict=True)
            return [self._paint(wanted, picture, label) for picture, label in each]
        rgb, kind = _taken(pictures)
        with torch.no_grad():
            x = self._shown(rgb, labels)
            if self.stride:
                y = self._decode(self._encode(x))[..., : x.shape[2], : x.shape[3]]
            else:
                y = blended(self.network, x, self.config.image_size)
            return kind.back(self.task.painted(rgb, y))

    def _shown(self, rgb: Tensor, labels: Labels) -> Tensor:
        return self.task.shown(rgb, self._labels(labels, len(rgb)))

    def _labels(self, labels: Labels, n: int) -> Tensor | None:
        classes = self.config.classes
        if not classes:
            if labels is not None:
                raise InputError(
                    f"labels: {labels}: this model is not told the class; leave it out"
                )
            return None
        allowed = f"this model is told the class of each image, from 0 to {classes - 1}"
        if labels is None:
            raise InputError(f"labels: none given; {allowed}")
        each = _for_each(labels, n)
        if bad := [label for label in each if label not in range(classes)]:
            raise InputError(f"labels: {bad[0]} is not allowed; {allowed}")
        return torch.tensor([int(label) for label in each])

    def _encode(self, x: Tensor) -> Tensor:
        self.require_latent(*x.shape[2:])
        if self.stride is None:
            return self.network.encode(x)
        net, stride = self.architecture, self.stride
        margin = reach((*net.encoder, *net.linear[:1]), net.in_shape)
        x = _mirrored(_mirrored(x, 2, stride), 3, stride)
        piece = math.ceil(PIECE / stride) * stride
        return piecewise(self.network.encode, x, piece, math.ceil(margin / stride) * stride)

    def _decode(self, z: Tensor) -> Tensor:
        if self.stride is None:
            return self.network.decode(z)
        net = self.architecture
        margin = reach((*net.decoder, *net.linear[1:], *net.refine), net.in_shape)
        piece = math.ceil(PIECE / self.stride)
        return piecewise(self.network.decode, z, piece, math.ceil(margin / self.stride))

    def _latents(self, latents: Any) -> Tensor:
        channels, height, width = self.architecture.latent_shape
        shape = tuple(getattr(latents, "shape", ()))
        fits = len(shape) in (3, 4) and shape[-3] == channels and 0 not in shape
        if not self.stride:
            fits = fits and shape[-2:] == (height, width)
        if not fits:
            sides = "h, w" if self.stride else f"{height}, {width}"
            raise InputError(
                f"decode: latents of shape {shape}; this model's are arrays or tensors "
                f"({channels}, {sides}), or (N, {channels}, {sides})"
            )
        return torch.as_tensor(latents).detach().cpu().float()


def load(path: str | Path, results_folder: str | Path = "results") -> Codec:
    """The model in a model folder (`results/ex3/models/12`), or the best one that a study
    (`results/ex3`, or `ex3` under `results_folder`) has kept; URIs of object stores too.

    Nothing is unpickled. Raises `InputError` where there is no model, or a damaged one.
    """
    return read(results.find_model(path, results_folder))


def read(folder: Place) -> Codec:
    """The model in its folder. Raises `InputError`."""
    return Codec(*model.load(folder))


def _for_each(labels: Any, n: int) -> list[Any]:
    """One for each of `n` images, where one stands for all; numpy's and torch's numbers too."""
    if not hasattr(labels, "__iter__") or getattr(labels, "ndim", None) == 0:
        return [labels] * n
    if len(each := list(labels)) != n:
        raise InputError(f"labels: {len(each)} for {n} images; give one for all, or one each")
    return each


def piecewise(function: Callable[[Tensor], Tensor], x: Tensor, piece: int, margin: int) -> Tensor:
    """`function(x)` of maps (N, C, H, W), computed from pieces of `piece` numbers a side and
    `margin` numbers around them. The same, if nothing farther away than that has a say."""
    rows = []
    for top in range(0, x.shape[2], piece):
        row = []
        for left in range(0, x.shape[3], piece):
            above, before = max(0, top - margin), max(0, left - margin)
            cut = x[:, :, above : top + piece + margin, before : left + piece + margin]
            y = function(cut)
            # Where the piece lies in what came out, which may be smaller or larger.
            bounds = (top - above, top - above + piece, left - before, left - before + piece)
            upper, lower, first, last = (n * y.shape[2] // cut.shape[2] for n in bounds)
            row.append(y[:, :, upper:lower, first:last])
        rows.append(torch.cat(row, 3))
    return torch.cat(rows, 2)


def blended(function: Callable[[Tensor], Tensor], x: Tensor, side: int) -> Tensor:
    """`function` of tiles of `side` pixels each way, side by side and half over each other, and of
    each pixel the mean, where a tile counts the less the nearer the pixel is to the tile's edge."""
    height, width = x.shape[2:]
    x = x if height >= side else _mirrored(x, 2, side)
    x = x if width >= side else _mirrored(x, 3, side)
    tops, lefts = (_starts(length, side) for length in x.shape[2:])
    tiles = [x[:, :, top : top + side, left : left + side] for top in tops for left in lefts]
    at_once = max(1, PIECE**2 // side**2)
    painted = [
        tile
        for first in range(0, len(tiles), at_once)
        for tile in function(torch.cat(tiles[first : first + at_once])).split(len(x))
    ]
    n = len(lefts)
    rows = [_faded(painted[i : i + n], lefts, 3) for i in range(0, len(painted), n)]
    return _faded(rows, tops, 2)[:, :, :height, :width]


def _faded(parts: Sequence[Tensor], starts: Sequence[int], axis: int) -> Tensor:
    """Maps (N, C, H, W) that begin at `starts` of `axis`, one fading into the next."""
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


def _starts(length: int, side: int) -> list[int]:
    """Where tiles begin so that they overlap by half or more and the last one ends at the end."""
    n = math.ceil(2 * (length - side) / side)
    return [step * (length - side) // n for step in range(n + 1)] if n else [0]


def _mirrored(x: Tensor, axis: int, multiple: int) -> Tensor:
    """`x` continued along `axis` by its mirror image, to the next multiple.

    By indices, for torch mirrors no picture beyond its own size.
    """
    size = x.shape[axis]
    period = max(1, 2 * (size - 1))
    index = torch.arange(math.ceil(size / multiple) * multiple) % period
    return x.index_select(axis, index.minimum(period - index)) if len(index) > size else x


class _Kind:
    """What pictures were given as, to give pictures back as the same."""

    def __init__(self, given: Any, batch: bool) -> None:
        self.given, self.batch = given, batch

    def back(self, rgb: Tensor) -> Any:
        """`rgb`: (N, 3, H, W) in [0, 1]."""
        rgb = rgb if self.batch else rgb[0]
        given = self.given
        if isinstance(given, Tensor):
            rgb = rgb if given.is_floating_point() else (rgb * 255).round()
            return rgb.to(given.device, given.dtype).contiguous()
        rows = rgb.movedim(-3, -1).contiguous().numpy()
        if isinstance(given, np.ndarray) and given.dtype != np.uint8:
            return rows.astype(given.dtype)
        rows = (rows * 255).round().astype(np.uint8)
        if isinstance(given, np.ndarray):
            return rows
        picture = Image.fromarray(rows)
        picture.info["icc_profile"] = srgb_profile()  # Pillow writes it into PNG files
        return picture


def _taken(pictures: Any) -> tuple[Tensor, _Kind]:
    """Pictures as float RGB (N, 3, H, W) in [0, 1] on the CPU, and what they were."""
    if isinstance(pictures, Image.Image):
        try:
            rows = torch.from_numpy(np.array(to_rgb(pictures)))
        except ValueError as error:
            raise InputError(f"picture: {error}") from None
        planes = rows.permute(2, 0, 1)
    elif isinstance(pictures, np.ndarray):
        rows = torch.from_numpy(np.array(_checked(pictures), order="C"))
        planes = rows[None] if rows.ndim == 2 else rows.movedim(-1, -3)
    elif isinstance(pictures, Tensor):
        planes = _checked(pictures).detach().cpu()
    else:
        raise InputError(
            f"pictures: a {type(pictures).__name__}; allowed are numpy arrays, torch tensors, "
            "PIL images and lists of them"
        )
    if planes.ndim not in (3, 4) or planes.shape[-3] not in (1, 3) or 0 in planes.shape:
        raise InputError(
            f"pictures of shape {tuple(pictures.shape)}; allowed are arrays (H, W, 3) and "
            "(N, H, W, 3), (H, W) for a grey one, and tensors (3, H, W) and (N, 3, H, W)"
        )
    kind = _Kind(pictures, planes.ndim == 4)
    batch = planes if kind.batch else planes[None]
    rgb = batch.expand(-1, 3, -1, -1).to(torch.float32, memory_format=torch.channels_last)
    return (rgb / 255 if planes.dtype == torch.uint8 else rgb), kind


def _checked(pictures: T) -> T:
    """As they are, or `InputError`: 0 to 255 as floating-point is the mistake everybody makes."""
    given = cast(Any, pictures)
    kind = str(given.dtype).removeprefix("torch.")
    if kind == "uint8":
        return pictures
    if "float" not in kind:
        raise InputError(
            f"pictures of type {kind}; allowed are uint8, and floating-point in [0, 1]"
        )
    if 0 not in given.shape and not (given.min() >= 0 and given.max() <= 1):
        low, high = float(given.min()), float(given.max())
        raise InputError(
            f"pictures from {low:g} to {high:g}; floating-point ones have to be in [0, 1]"
        )
    return pictures
