"""A trained model that maps images to images or latents.

    codec = raycae.load("results/ex3")
    codec.colourise(Image.open("grandmother.jpg")).save("in-colour.png")

Images are, one or a batch,

- numpy arrays (H, W, 3) or (N, H, W, 3), and (H, W) for one grey image: uint8 from 0 to 255, or
  floating-point in [0, 1];
- torch tensors (3, H, W) or (N, 3, H, W), or with one channel: uint8 or floating-point likewise;
- PIL images of any mode; their EXIF rotation is applied, transparent parts are drawn over white,
  and their colour profile is converted to sRGB;
- lists of these, whose sizes may differ: each item is processed separately.

The result has the type of the input, in colour; tensors are on the device of the input. PIL images
carry the sRGB profile, which Pillow writes into PNG and TIFF files.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from raycae.config import Config
from raycae.errors import InputError
from raycae.inference.image_types import read_pictures
from raycae.inference.tiling import (
    PIECE,
    apply_in_pieces,
    apply_in_tiles,
    pad_mirrored,
    place_tiles,
)
from raycae.model import weights
from raycae.model.architecture import build_architecture
from raycae.model.autoencoder import Autoencoder
from raycae.model.layers import receptive_margin
from raycae.model.tasks import Task, make_task
from raycae.storage.paths import Place
from raycae.study import find

Labels = int | Sequence[int] | None
"""One class for all images, a class for each, or None."""


class RGBAutoencoder(nn.Module):
    """A network together with its colour conversions.

    Args:
        network: The network.
        task: Its task.
    """

    def __init__(self, network: Autoencoder, task: Task) -> None:
        super().__init__()
        self.network, self.task = network, task

    def forward(self, rgb: Tensor, labels: Tensor | None = None) -> Tensor:
        """Run the network on RGB images of the size that it accepts.

        Args:
            rgb: RGB, float (N, 3, H, W) in [0, 1].
            labels: Classes, int64 (N,), for a network that receives the class; else None.

        Returns:
            RGB, float (N, 3, H, W) in [0, 1].
        """
        return self.task.render_output(rgb, self.network(self.task.prepare_input(rgb, labels)))


class RGBEncoder(nn.Module):
    """The encoder of a network together with its colour conversion.

    Args:
        network: The network.
        task: Its task.
    """

    def __init__(self, network: Autoencoder, task: Task) -> None:
        super().__init__()
        self.network, self.task = network, task

    def forward(self, rgb: Tensor, labels: Tensor | None = None) -> Tensor:
        """Encode RGB images of the size that the network accepts.

        Args:
            rgb: RGB, float (N, 3, H, W) in [0, 1].
            labels: Classes, int64 (N,), for a network that receives the class; else None.

        Returns:
            Latents, float (N, C, h, w).
        """
        return self.network.encode(self.task.prepare_input(rgb, labels))


class LatentDecoder(nn.Module):
    """The decoder of a network.

    Args:
        network: The network.
    """

    def __init__(self, network: Autoencoder) -> None:
        super().__init__()
        self.network = network

    def forward(self, latents: Tensor) -> Tensor:
        """Decode latents, as `Codec.decode` does.

        Args:
            latents: Latents, float (N, C, h, w).

        Returns:
            RGB, or Cb and Cr where the network colourises, float in [0, 1].
        """
        return self.network.decode(latents).clamp(0, 1)


class Codec:
    """A model that is ready for use, on the CPU; `raycae.load` and `StudyReader.model` make one.

    Images may have any size. A network with a `stride` accepts any multiple of it and gets the
    whole image, mirrored at its right and lower edge up to the next multiple. Any other network
    gets tiles of the size that it was trained on, which overlap by half and are blended. So the
    number of latent values grows with the image: `architecture.latent_size` is that of an image of
    the training size, and `count_latent_values` computes it for any size.

    `labels` are required by models that receive the class of each image (`config.classes`), and
    refused by all others: one number for all images, or one for each, from 0 to classes - 1.

    All methods raise `InputError` for images or latents of another type, shape or range.

    Args:
        network: The network, in eval mode.
        config: Its configuration.

    Attributes:
        config: The settings of the model, such as `config.task` and `config.image_size`.
        architecture: Its layers and shapes, such as `architecture.latent_size`.
        stride: Pixels per position of the latent, in each direction; None if the model encodes only
            images of the size that it was trained on.
    """

    def __init__(self, network: Autoencoder, config: Config) -> None:
        self.network, self.config = network, config
        self.task = make_task(config.task, config.gammas, config.classes)
        self.rgb_network = RGBAutoencoder(network, self.task).eval().requires_grad_(False)
        self.architecture = build_architecture(config)
        self.stride = self.architecture.stride
        self._has_warned = False

    def __repr__(self) -> str:
        return f"Codec({self.config.task}, {self.architecture})"

    def reconstruct(self, pictures: Any) -> Any:
        """Encode and decode images.

        An image larger than the training images has more latent values than
        `architecture.latent_size`, see `count_latent_values`. A `UserWarning` says so once.

        Args:
            pictures: Images in one of the forms that `help(raycae.inference.codec)` lists.

        Returns:
            The reconstructed images, in the form of the input.

        Raises:
            InputError: The model colourises, or the images are not allowed.
        """
        return self._run("reconstruct", pictures, None, should_warn=True)

    def colourise(self, pictures: Any, labels: Labels = None) -> Any:
        """Colourise images; the colours that they have are ignored.

        Args:
            pictures: Images in one of the forms that `help(raycae.inference.codec)` lists.
            labels: See the class.

        Returns:
            The images' luma with the predicted colours, in the form of the input.

        Raises:
            InputError: The model reconstructs, or the images or labels are not allowed.
        """
        return self._run("colourise", pictures, labels)

    def run(self, pictures: Any, labels: Labels = None) -> Any:
        """Reconstruct or colourise images, whichever the model does, without a warning.

        Args:
            pictures: Images in one of the forms that `help(raycae.inference.codec)` lists.
            labels: See the class.

        Returns:
            The images, in the form of the input.

        Raises:
            InputError: The images or labels are not allowed.
        """
        return self._run(self.config.task, pictures, labels)

    def encode(self, pictures: Any, labels: Labels = None) -> Any:
        """Encode images.

        Args:
            pictures: Images in one of the forms that `help(raycae.inference.codec)` lists.
            labels: See the class.

        Returns:
            Latents, float32 (C, h, w) or (N, C, h, w): tensors for tensors, else arrays. h and w
            are the image's sides divided by `stride`, rounded up.

        Raises:
            InputError: The images or labels are not allowed, or a model without a stride gets
                images of another size than its own.
        """
        if isinstance(pictures, list | tuple):
            pairs = zip(pictures, expand_per_image(labels, len(pictures)), strict=True)
            return [self.encode(picture, label) for picture, label in pairs]
        rgb, kind = read_pictures(pictures)
        with torch.no_grad():
            z = self._encode(self._make_input(rgb, labels))
        z = z if kind.batch else z[0]
        return z.to(pictures.device) if isinstance(pictures, Tensor) else z.numpy()

    def require_latent(self, height: int, width: int) -> None:
        """Raise `InputError` if `encode` would refuse images of a size.

        Args:
            height: Height of the images in pixels.
            width: Width of the images in pixels.

        Raises:
            InputError: The model encodes only images of its own size.
        """
        side = self.config.image_size
        if self.stride is None and (height, width) != (side, side):
            raise InputError(
                f"encode: an image of {width} x {height} pixels (width x height); this model "
                f"encodes only {side} x {side}. To cut the centre square and resize it as for "
                f"training, use PIL.ImageOps.fit(image, ({side}, {side}), "
                "PIL.Image.Resampling.LANCZOS)."
            )

    def count_latent_values(self, height: int, width: int) -> int:
        """Count the numbers that an image is encoded as.

        Args:
            height: Height of the image in pixels.
            width: Width of the image in pixels.

        Returns:
            The number of values; of all tiles for a model without a stride.
        """
        channels, own_height, own_width = self.architecture.latent_shape
        if self.stride:
            return channels * math.ceil(height / self.stride) * math.ceil(width / self.stride)
        size = self.config.image_size
        n_tiles = math.prod(len(place_tiles(max(side, size), size)) for side in (height, width))
        return n_tiles * channels * own_height * own_width

    def decode(self, latents: Any) -> Any:
        """Decode latents as `encode` returns them.

        Args:
            latents: Array or tensor (C, h, w) or (N, C, h, w), or a list of these.

        Returns:
            RGB where the model reconstructs, Cb and Cr (see `raycae.model.tasks`) where it
            colourises, float32 in [0, 1], h and w times `stride` pixels. Channels are last in
            arrays, first in tensors.

        Raises:
            InputError: The latents have another shape.
        """
        if isinstance(latents, list | tuple):
            return [self.decode(latent) for latent in latents]
        z = self._check_latents(latents)
        with torch.no_grad():
            y = self._decode(z if z.ndim == 4 else z[None]).clamp(0, 1)
        y = y if z.ndim == 4 else y[0]
        if isinstance(latents, Tensor):
            return y.to(latents.device)
        return y.movedim(-3, -1).contiguous().numpy()

    def _run(self, wanted: str, pictures: Any, labels: Labels, should_warn: bool = False) -> Any:
        """Run the model if it does what the caller wants; it may warn of a large latent."""
        if wanted != (does := self.config.task):
            raise InputError(f"{wanted}: this model was trained to {does}; use `{does}`")
        if isinstance(pictures, list | tuple):
            pairs = zip(pictures, expand_per_image(labels, len(pictures)), strict=True)
            return [self._run(wanted, picture, label, should_warn) for picture, label in pairs]
        rgb, kind = read_pictures(pictures)
        if should_warn:
            self._warn_of_latent(*rgb.shape[2:])
        with torch.no_grad():
            x = self._make_input(rgb, labels)
            if self.stride:
                y = self._decode(self._encode(x))[..., : x.shape[2], : x.shape[3]]
            else:
                y = apply_in_tiles(self.network, x, self.config.image_size)
            return kind.restore(self.task.render_output(rgb, y))

    def _warn_of_latent(self, height: int, width: int) -> None:
        """Warn once if an image has more latent values than one of the training size."""
        own, n_values = self.architecture.latent_size, self.count_latent_values(height, width)
        if n_values > own and not self._has_warned:
            self._has_warned = True
            side = self.config.image_size
            how = "The latent grows with the image" if self.stride else "Each tile has a latent"
            warnings.warn(
                f"the latent of an image of {width} x {height} pixels has {n_values:,} numbers, "
                f"not {own:,} as for the {side} x {side} pixels that the model was trained on. "
                f"{how}; see count_latent_values",
                stacklevel=4,  # the caller of `reconstruct`
            )

    def _make_input(self, rgb: Tensor, labels: Labels) -> Tensor:
        """Make the input of the network from RGB and labels."""
        return self.task.prepare_input(rgb, self._make_label_tensor(labels, len(rgb)))

    def _make_label_tensor(self, labels: Labels, n: int) -> Tensor | None:
        """Check labels; return one per image, int64 (N,), or None without classes."""
        classes = self.config.classes
        if not classes:
            if labels is not None:
                raise InputError(
                    f"labels: {labels}: this model does not use classes. Leave the labels out."
                )
            return None
        allowed = f"this model needs the class of each image, from 0 to {classes - 1}"
        if labels is None:
            raise InputError(f"labels: none given; {allowed}")
        values = expand_per_image(labels, n)
        if bad := [label for label in values if label not in range(classes)]:
            raise InputError(f"labels: {bad[0]} is not allowed; {allowed}")
        return torch.tensor([int(label) for label in values])

    def _encode(self, x: Tensor) -> Tensor:
        """Encode inputs of any size that the model accepts, in pieces."""
        self.require_latent(*x.shape[2:])
        if self.stride is None:
            return self.network.encode(x)
        architecture, stride = self.architecture, self.stride
        margin = receptive_margin(
            (*architecture.encoder, *architecture.linear[:1]), architecture.in_shape
        )
        x = pad_mirrored(pad_mirrored(x, 2, stride), 3, stride)
        piece = math.ceil(PIECE / stride) * stride
        return apply_in_pieces(self.network.encode, x, piece, math.ceil(margin / stride) * stride)

    def _decode(self, z: Tensor) -> Tensor:
        """Decode latents in pieces."""
        if self.stride is None:
            return self.network.decode(z)
        architecture = self.architecture
        margin = receptive_margin(
            (*architecture.decoder, *architecture.linear[1:], *architecture.refine),
            architecture.in_shape,
        )
        piece = math.ceil(PIECE / self.stride)
        return apply_in_pieces(self.network.decode, z, piece, math.ceil(margin / self.stride))

    def _check_latents(self, latents: Any) -> Tensor:
        """Check the shape of latents; return them as float32 on the CPU."""
        channels, height, width = self.architecture.latent_shape
        shape = tuple(getattr(latents, "shape", ()))
        fits = len(shape) in (3, 4) and shape[-3] == channels and 0 not in shape
        if not self.stride:
            fits = fits and shape[-2:] == (height, width)
        if not fits:
            sides = "h, w" if self.stride else f"{height}, {width}"
            raise InputError(
                f"decode: latents of shape {shape}; this model expects an array or tensor of "
                f"shape ({channels}, {sides}) or (N, {channels}, {sides})"
            )
        return torch.as_tensor(latents).detach().cpu().float()


def load_codec(path: str | Path, results_folder: str | Path | None = None) -> Codec:
    """Load a model; nothing is unpickled.

    Args:
        path: A model folder (`results/ex3/models/12`), or a study (`results/ex3`, or `ex3` under
            `results_folder`), whose best saved model is loaded; URIs of object stores are allowed.
        results_folder: The folder or URI of the studies. Default: RAYCAE_RESULTS, or `results`.

    Returns:
        The model.

    Raises:
        InputError: There is no model, or it is damaged.
    """
    return read_codec(find.find_model(path, results_folder))


def read_codec(folder: Place) -> Codec:
    """Load the model of a model folder.

    Args:
        folder: The folder.

    Returns:
        The model.

    Raises:
        InputError: There is no model, or it is damaged.
    """
    return Codec(*weights.load_model(folder))


def expand_per_image(labels: Any, n: int) -> list[Any]:
    """Return one label per image.

    Args:
        labels: One label for all images, or a sequence of one per image; numbers of numpy and torch
            are allowed.
        n: Number of images.

    Returns:
        The labels, one per image.

    Raises:
        InputError: The sequence has another length.
    """
    if not hasattr(labels, "__iter__") or getattr(labels, "ndim", None) == 0:
        return [labels] * n
    if len(values := list(labels)) != n:
        raise InputError(
            f"labels: {len(values)} for {n} images; give one for all images, or one for each"
        )
    return values
