"""The architecture of a trial: layers with shapes and costs, without weights or torch.

`build_architecture(config)` alone knows how settings become layers; `autoencoder` only turns each
layer into its module. Shapes are (channels, height, width).

The encoder shrinks stage by stage. Each decoder stage restores exactly the size that its encoder
stage began with, so that every network returns an image of the target's size. Where the factor
alone does not lead there (sizes that do not divide, convolutions without padding), the decoder
crops surplus rows or resizes to close the gap.
"""

from __future__ import annotations

import hashlib
from collections.abc import Hashable
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from math import prod
from typing import cast

from raycae.config import Config
from raycae.model.layers import (
    Conv,
    Layer,
    Pool,
    Resize,
    Shape,
    is_size_independent,
    make_fusion_identity,
    strip_last_activation,
)

PCA_LIMIT = 6_000
"""Maximum number of values of a block, or of a whole image, for PCA.

Larger covariance matrices take minutes; this one and its two copies stay below 1 GB.
"""


class Infeasible(ValueError):
    """The configuration does not describe a network; the message names the layer and reason."""


@dataclass(frozen=True)
class Architecture:
    """The layers of a network.

    Attributes:
        encoder: Layers from the input to the latent.
        decoder: Layers from the latent to the output.
        activation: The activation after most convolutions.
        output: The activation at the output.
        linear: The linear path: the first convolution adds its latent to the encoder's, the second
            its image to the decoder's. Empty without a linear path.
        refine: Layers whose output is added to the image; empty without refinement.
    """

    encoder: tuple[Layer, ...]
    decoder: tuple[Layer, ...]
    activation: str
    output: str
    linear: tuple[Conv, ...] = ()
    refine: tuple[Conv, ...] = ()

    @property
    def layers(self) -> tuple[Layer, ...]:
        """All layers."""
        return self.encoder + self.decoder + self.linear + self.refine

    @property
    def in_shape(self) -> Shape:
        """Shape of the input."""
        return self.encoder[0].in_shape

    @property
    def latent_shape(self) -> Shape:
        """Shape of the latent."""
        return self.encoder[-1].out_shape

    @property
    def out_shape(self) -> Shape:
        """Shape of the output."""
        return self.decoder[-1].out_shape

    @property
    def latent_size(self) -> int:
        """Number of values of the latent."""
        return prod(self.latent_shape)

    @cached_property
    def stride(self) -> int | None:
        """Pixels per position of the latent, in each direction.

        The network accepts every image whose sides are multiples of it. None if it accepts only
        images of its own size.
        """
        if all(map(is_size_independent, self.layers)):
            return self.in_shape[1] // self.latent_shape[1]
        return None

    @cached_property
    def n_params(self) -> int:
        """Number of parameters of the network."""
        return sum(layer.n_params for layer in self.layers if isinstance(layer, Conv))

    @cached_property
    def flops(self) -> int:
        """Floating-point operations of a forward pass over one image."""
        return sum(layer.flops for layer in self.layers if isinstance(layer, Conv))

    @cached_property
    def hash(self) -> str:
        """A hash that is equal for two configurations exactly if they build one network."""
        plain = (
            tuple(map(make_fusion_identity, self.encoder)),
            tuple(map(make_fusion_identity, self.decoder)),
        )
        extra = [tuple(map(make_fusion_identity, part)) for part in (self.linear, self.refine)]
        # Networks without these parts keep the hash of versions that did not have them.
        text = repr((plain, self.activation, self.output, *(extra if any(extra) else ())))
        return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()

    def __str__(self) -> str:
        """Describe the network in words: `conv 3-8 k3, max-pool 2, … | …`.

        The bar marks the latent; `+ linear` precedes the convolution added to a half, `+ refine`
        the layers added to the image.
        """
        halves = [", ".join(map(str, half)) for half in (self.encoder, self.decoder)]
        if self.linear:
            halves = [
                f"{half} + linear {conv}" for half, conv in zip(halves, self.linear, strict=True)
            ]
        refine = f" + refine {', '.join(map(str, self.refine))}" if self.refine else ""
        return " | ".join(halves) + refine


def fusion_key(config: Config) -> Hashable:
    """Return a key that is equal for two configurations exactly if they can be trained fused.

    They then have the same layers, input, minibatches and arithmetic; see
    `fused.FusedTrainings`.

    Args:
        config: The configuration.

    Returns:
        The key.
    """
    input_settings = config.task, config.gammas, config.classes, config.flips, config.batch_size
    return build_architecture(config), *input_settings, config.precision


@lru_cache(maxsize=4096)
def build_architecture(config: Config) -> Architecture:
    """Build the layers of a configuration.

    The result is cached: proposing, recording and replaying a trial ask six times, and each time
    would take 0.08 ms of CPU (analysis/FINDINGS.md).

    Args:
        config: The configuration.

    Returns:
        The layers.

    Raises:
        Infeasible: A feature map would vanish, or the linear path does not fit.
    """
    encoder, starts = build_encoder(config)
    latent = encoder[-1].out_shape
    decoder = strip_last_activation(build_decoder(config, latent, starts))
    linear: tuple[Conv, ...] = ()
    if config.linear_path != "none":
        linear = make_linear_path(config, latent)
        # The value added to the linear path's latent may have either sign.
        encoder = strip_last_activation(encoder)
    refine = make_refinement(config, decoder[-1].out_shape) if config.refine else ()
    return Architecture(
        tuple(encoder), tuple(decoder), config.activation, config.output, linear, refine
    )


def build_encoder(config: Config) -> tuple[list[Layer], list[int]]:
    """Build the layers of the encoder.

    Args:
        config: The configuration.

    Returns:
        The layers, and the height in pixels that each stage began with.

    Raises:
        Infeasible: A feature map would vanish.
    """
    shape: Shape = (config.in_channels, config.image_size, config.image_size)
    layers: list[Layer] = []
    starts = []
    for i in range(config.depth):
        starts.append(shape[1])
        down, factor = config.downsample[i], config.factor[i]
        for j in range(config.convs[i]):
            stride = factor if down == "stride" and j == config.convs[i] - 1 else 1
            same = config.padding[i] == "same"
            layers.append(
                make_conv(config, shape, config.channels[i], config.kernel[i], stride, same)
            )
            shape = layers[-1].out_shape
        if down in ("max", "average"):
            if shape[1] < factor:
                input_size = f"{shape[1]} x {shape[2]}"
                raise Infeasible(
                    f"stage {i + 1}: {down}-pool {factor} needs at least {factor} x {factor} "
                    f"pixels; its input has {input_size}"
                )
            pooled = (shape[0], shape[1] // factor, shape[2] // factor)
            layers.append(Pool(shape, pooled, down, factor))
            shape = pooled
        elif down == "stride" and layers[-1].in_shape[1] < factor:
            size = layers[-1].in_shape[1]
            raise Infeasible(
                f"stage {i + 1}: stride {factor} needs at least {factor} x {factor} pixels; its "
                f"input has {size} x {size}"
            )
    for _ in range(config.latent_convs if config.latent_channels else 0):
        layers.append(make_conv(config, shape, config.latent_channels, config.latent_kernel))
        shape = layers[-1].out_shape
    return layers, starts


def build_decoder(config: Config, shape: Shape, starts: list[int]) -> list[Layer]:
    """Build the layers of the decoder.

    Args:
        config: The configuration.
        shape: Shape of the latent.
        starts: The height in pixels that each encoder stage began with.

    Returns:
        The layers.

    Raises:
        Infeasible: A feature map would vanish.
    """
    layers: list[Layer] = []
    for i, size in enumerate(reversed(starts)):
        mirrored = config.depth - 1 - i
        factor = 1 if config.downsample[mirrored] == "none" else config.factor[mirrored]
        widths = config.decoder_channels[i]
        if i == config.depth - 1:
            widths += (config.out_channels,)
        kernel, transposed = config.decoder_kernel[i], config.decoder_kind[i] == "transposed"
        first, *others = widths
        layers += grow_stage(config, shape, first, kernel, factor, size, transposed)
        for width in others:
            shape = layers[-1].out_shape
            if transposed:
                layers.append(make_transposed_conv(config, shape, width, kernel, 1, size))
            else:
                layers.append(make_conv(config, shape, width, kernel))
        shape = layers[-1].out_shape
    return layers


def grow_stage(
    config: Config, shape: Shape, width: int, kernel: int, factor: int, size: int, transposed: bool
) -> list[Layer]:
    """Build the first convolution of a decoder stage and the upsampling around it.

    Args:
        config: The configuration.
        shape: Shape of the input.
        width: Number of output channels.
        kernel: Size of the kernel.
        factor: Upsampling factor.
        size: Output height in pixels.
        transposed: Whether the stage has transposed convolutions.

    Returns:
        One or two layers.
    """
    if config.upsample == "transposed" and factor > 1:
        conv = make_transposed_conv(config, shape, width, kernel, factor, size)
    elif config.upsample == "pixel_shuffle" and factor > 1:
        conv = replace(make_conv(config, shape, width, kernel), shuffle=factor, residual=False)
        side = min(shape[1] * factor, size)
        conv = replace(conv, out_shape=(width, side, side))
    else:
        mode = "bilinear" if config.upsample == "bilinear" else "nearest"
        grown = (shape[0], size, size)
        resize: list[Layer] = [Resize(shape, grown, mode)] if shape != grown else []
        if transposed:
            return [*resize, make_transposed_conv(config, grown, width, kernel, 1, size)]
        return [*resize, make_conv(config, grown, width, kernel)]
    if conv.out_shape[1] == size:
        return [conv]
    return [conv, Resize(conv.out_shape, (width, size, size), "nearest")]


def make_conv(
    config: Config, shape: Shape, width: int, kernel: int, stride: int = 1, same: bool = True
) -> Conv:
    """Make a convolution with the norm and residual sum of the configuration.

    Args:
        config: The configuration.
        shape: Shape of the input.
        width: Number of output channels.
        kernel: Size of the kernel.
        stride: Stride.
        same: Whether to pad so that the size stays the same at stride 1.

    Returns:
        The layer.

    Raises:
        Infeasible: The kernel is larger than the padded input.
    """
    # For odd kernels this is the usual padding of k // 2 on every side. For even kernels, one more
    # row of zeros at the end keeps the size.
    pad = ((kernel - 1) // 2, kernel // 2) if same else (0, 0)
    if shape[1] + sum(pad) < kernel:
        raise Infeasible(
            f"kernel {kernel} without padding needs at least {kernel} x {kernel} pixels; its input "
            f"has {shape[1]} x {shape[2]}"
        )
    side = (shape[1] + sum(pad) - kernel) // stride + 1
    out = (width, side, side)
    norm, residual = config.norm == "batch", config.residual and out == shape
    return Conv(shape, out, kernel, stride, pad, norm=norm, residual=residual)


def make_transposed_conv(
    config: Config, shape: Shape, width: int, kernel: int, stride: int, size: int
) -> Conv:
    """Make a transposed convolution that ends as near below a size as possible.

    Args:
        config: The configuration.
        shape: Shape of the input.
        width: Number of output channels.
        kernel: Size of the kernel.
        stride: Stride.
        size: Wanted output height in pixels.

    Returns:
        The layer.
    """
    missing = kernel - (size - (shape[1] - 1) * stride)  # surplus rows at both ends together
    if missing <= 0:
        pad = (0, min(-missing, stride - 1))
    elif stride > 1:
        pad = (-(-missing // 2), missing % 2)
    else:
        pad = (missing // 2, 0)  # Stride 1 has no output padding; a surplus row is cropped.
    conv = Conv(shape, shape, kernel, stride, pad, transposed=True, norm=config.norm == "batch")
    side = min(conv.raw_size, size)
    out = (width, side, side)
    return replace(conv, out_shape=out, residual=config.residual and out == shape)


def make_linear_path(config: Config, latent: Shape) -> tuple[Conv, Conv]:
    """Make the two convolutions that map a block of pixels to its latent position, and back.

    The way back is a pixel shuffle. A transposed convolution would be the same map, but it has one
    bias per channel, and a mean block needs one per pixel.

    Args:
        config: The configuration.
        latent: Shape of the latent.

    Returns:
        The convolution to the latent and the one back.

    Raises:
        Infeasible: The latent does not tile the image, or PCA would take too long.
    """
    size = latent[1]
    side, rest = divmod(config.image_size, size)
    if rest:
        whole = f"{config.image_size} x {config.image_size}"
        raise Infeasible(f"linear path: a latent of {size} x {size} does not tile {whole} pixels")
    numbers = config.in_channels * side**2
    if config.linear_path == "pca" and numbers > PCA_LIMIT:
        raise Infeasible(
            f"linear path: PCA is limited to blocks of {PCA_LIMIT:,} numbers; this configuration "
            f"needs blocks of {numbers:,}"
        )
    picture = (config.in_channels, config.image_size, config.image_size)
    output = (config.out_channels, *picture[1:])
    there = Conv(picture, latent, kernel=side, stride=side, activation=False)
    return there, Conv(latent, output, kernel=1, shuffle=side, activation=False)


def make_refinement(config: Config, picture: Shape) -> tuple[Conv, ...]:
    """Make the convolutions whose output is added to the image.

    Args:
        config: The configuration.
        picture: Shape of the image.

    Returns:
        The layers.
    """
    layers: list[Layer] = []
    shape = picture
    for width in (*[config.refine] * (config.refine_convs - 1), picture[0]):
        layers.append(make_conv(config, shape, width, kernel=3))
        shape = layers[-1].out_shape
    return cast(tuple[Conv, ...], tuple(strip_last_activation(layers)))
