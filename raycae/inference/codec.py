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
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from raycae.config import Config
from raycae.errors import InputError
from raycae.inference.image_types import read_pictures
from raycae.inference.tiling import PIECE, apply_in_pieces, apply_in_tiles, pad_mirrored
from raycae.model import weights
from raycae.model.architecture import build_architecture, receptive_margin
from raycae.model.autoencoder import Autoencoder
from raycae.model.tasks import Task, make_task
from raycae.storage.paths import Place
from raycae.study import find

Labels = int | Sequence[int] | None


class RGBAutoencoder(nn.Module):
    """A network and its colour conversions: `forward` takes RGB (N, 3, H, W) in [0, 1] to RGB.

    `labels`: int64 (N,), for a network that is told the class. H and W are as the network's.
    """

    def __init__(self, network: Autoencoder, task: Task) -> None:
        super().__init__()
        self.network, self.task = network, task

    def forward(self, rgb: Tensor, labels: Tensor | None = None) -> Tensor:
        return self.task.painted(rgb, self.network(self.task.shown(rgb, labels)))


class Codec:
    """A model ready for use, on the CPU. `load_codec` makes one.

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
        self.task = make_task(config.task, config.gammas, config.classes)
        self.painter = RGBAutoencoder(network, self.task).eval().requires_grad_(False)
        self.architecture = build_architecture(config)
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
            each = zip(pictures, expand_per_image(labels, len(pictures)), strict=True)
            return [self.encode(picture, label) for picture, label in each]
        rgb, kind = read_pictures(pictures)
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

        Where the model reconstructs, RGB; where it colourises, Cb and Cr (see
        `raycae.model.tasks`). In [0, 1]; channels come last in arrays, and first in tensors.
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
            each = zip(pictures, expand_per_image(labels, len(pictures)), strict=True)
            return [self._paint(wanted, picture, label) for picture, label in each]
        rgb, kind = read_pictures(pictures)
        with torch.no_grad():
            x = self._shown(rgb, labels)
            if self.stride:
                y = self._decode(self._encode(x))[..., : x.shape[2], : x.shape[3]]
            else:
                y = apply_in_tiles(self.network, x, self.config.image_size)
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
        each = expand_per_image(labels, n)
        if bad := [label for label in each if label not in range(classes)]:
            raise InputError(f"labels: {bad[0]} is not allowed; {allowed}")
        return torch.tensor([int(label) for label in each])

    def _encode(self, x: Tensor) -> Tensor:
        self.require_latent(*x.shape[2:])
        if self.stride is None:
            return self.network.encode(x)
        net, stride = self.architecture, self.stride
        margin = receptive_margin((*net.encoder, *net.linear[:1]), net.in_shape)
        x = pad_mirrored(pad_mirrored(x, 2, stride), 3, stride)
        piece = math.ceil(PIECE / stride) * stride
        return apply_in_pieces(self.network.encode, x, piece, math.ceil(margin / stride) * stride)

    def _decode(self, z: Tensor) -> Tensor:
        if self.stride is None:
            return self.network.decode(z)
        net = self.architecture
        margin = receptive_margin((*net.decoder, *net.linear[1:], *net.refine), net.in_shape)
        piece = math.ceil(PIECE / self.stride)
        return apply_in_pieces(self.network.decode, z, piece, math.ceil(margin / self.stride))

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


def load_codec(path: str | Path, results_folder: str | Path = "results") -> Codec:
    """The model in a model folder (`results/ex3/models/12`), or the best one that a study
    (`results/ex3`, or `ex3` under `results_folder`) has kept; URIs of object stores too.

    Nothing is unpickled. Raises `InputError` where there is no model, or a damaged one.
    """
    return read_codec(find.find_model(path, results_folder))


def read_codec(folder: Place) -> Codec:
    """The model in its folder. Raises `InputError`."""
    return Codec(*weights.load_model(folder))


def expand_per_image(labels: Any, n: int) -> list[Any]:
    """One for each of `n` images, where one stands for all; numpy's and torch's numbers too."""
    if not hasattr(labels, "__iter__") or getattr(labels, "ndim", None) == 0:
        return [labels] * n
    if len(each := list(labels)) != n:
        raise InputError(f"labels: {len(each)} for {n} images; give one for all, or one each")
    return each
