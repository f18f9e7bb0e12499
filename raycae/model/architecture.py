"""A trial's configuration as a list of layers with shapes and costs. No weights, no torch.

`build_architecture(config)` is the one place that knows how settings become layers; `model` only
turns each layer into its module. Shapes are (channels, height, width).

The encoder shrinks stage by stage; each decoder stage restores exactly the size that its encoder
stage began with, so that every network gives a picture of the target's size. Where the factor
alone does not lead there (sizes that do not divide, convolutions without padding) the decoder
crops a row too many or resizes to close the gap.
"""

from __future__ import annotations

import hashlib
from collections.abc import Hashable
from dataclasses import astuple, dataclass, replace
from functools import cached_property
from math import prod
from typing import cast

from raycae.config import Config

Shape = tuple[int, int, int]
# D x D float64 and two copies of it as work space stay below 1 GB; 32 x 32 RGB is 3072.
PCA_LIMIT = 6_000
"""Numbers of a block, or a whole image, beyond which nobody waits for its principal axes."""


class Infeasible(ValueError):
    """The configuration describes no network; the message says at which layer and why."""


@dataclass(frozen=True)
class Conv:
    """A convolution with what belongs to it, in this order: convolution, pixel shuffle, crop to
    `out_shape`, batch norm, residual sum, activation."""

    in_shape: Shape
    out_shape: Shape
    kernel: int
    stride: int = 1
    pad: tuple[int, int] = (0, 0)
    """Zeros before and after, in both directions. Transposed: what is cut off (`pad[0]`) and the
    output padding (`pad[1]`), as torch's `ConvTranspose2d` calls them."""
    transposed: bool = False
    shuffle: int = 1
    norm: bool = False
    residual: bool = False
    activation: bool = True

    @property
    def filters(self) -> int:
        """Channels that the convolution itself puts out, before any pixel shuffle."""
        return self.out_shape[0] * self.shuffle**2

    @property
    def raw_size(self) -> int:
        """Height of what the convolution puts out, before shuffle and crop."""
        size = self.in_shape[1]
        if self.transposed:
            return (size - 1) * self.stride - 2 * self.pad[0] + self.kernel + self.pad[1]
        return (size + sum(self.pad) - self.kernel) // self.stride + 1

    @property
    def n_params(self) -> int:
        weights = self.in_shape[0] * self.filters * self.kernel**2
        # Batch norm has a scale and a shift of its own, and makes the bias superfluous.
        return weights + (2 * self.out_shape[0] if self.norm else self.filters)

    @property
    def flops(self) -> int:
        """Forward, one image, a multiply-add counted as two (torch.utils.flop_counter's rule)."""
        side = self.in_shape[1] if self.transposed else self.raw_size
        return 2 * self.in_shape[0] * self.filters * self.kernel**2 * side**2

    def __str__(self) -> str:
        kind = "tconv" if self.transposed else "conv"
        stride = f" s{self.stride}" if self.stride > 1 else ""
        shuffle = f" shuffle {self.shuffle}" if self.shuffle > 1 else ""
        return f"{kind} {self.in_shape[0]}-{self.out_shape[0]} k{self.kernel}{stride}{shuffle}"


@dataclass(frozen=True)
class Pool:
    """Max or average pooling by `factor`."""

    in_shape: Shape
    out_shape: Shape
    kind: str
    factor: int

    def __str__(self) -> str:
        return f"{self.kind}-pool {self.factor}"


@dataclass(frozen=True)
class Resize:
    """Nearest or bilinear interpolation to the size of `out_shape`."""

    in_shape: Shape
    out_shape: Shape
    mode: str

    def __str__(self) -> str:
        return f"{self.mode} {self.in_shape[1]}→{self.out_shape[1]}"


Layer = Conv | Pool | Resize


@dataclass(frozen=True)
class Architecture:
    """`encoder` takes the input to the latent, `decoder` the latent to the output.

    Of the pair `linear`, if there is one, the first adds its latent to the encoder's, the second
    its picture to the decoder's. `refine` adds to the picture what it makes of it.
    """

    encoder: tuple[Layer, ...]
    decoder: tuple[Layer, ...]
    activation: str
    output: str
    linear: tuple[Conv, ...] = ()
    refine: tuple[Conv, ...] = ()

    @property
    def layers(self) -> tuple[Layer, ...]:
        return self.encoder + self.decoder + self.linear + self.refine

    @property
    def in_shape(self) -> Shape:
        return self.encoder[0].in_shape

    @property
    def latent_shape(self) -> Shape:
        return self.encoder[-1].out_shape

    @property
    def out_shape(self) -> Shape:
        return self.decoder[-1].out_shape

    @property
    def latent_size(self) -> int:
        return prod(self.latent_shape)

    @cached_property
    def stride(self) -> int | None:
        """Pixels, each way, to one position of the latent, where the network serves every picture
        whose sides are multiples of it. None where it serves its own size alone."""
        if all(map(is_size_independent, self.layers)):
            return self.in_shape[1] // self.latent_shape[1]
        return None

    @cached_property
    def n_params(self) -> int:
        return sum(layer.n_params for layer in self.layers if isinstance(layer, Conv))

    @cached_property
    def flops(self) -> int:
        return sum(layer.flops for layer in self.layers if isinstance(layer, Conv))

    @cached_property
    def hash(self) -> str:
        """The same for two configurations exactly when they build the same network."""
        plain = (
            tuple(map(make_fusion_identity, self.encoder)),
            tuple(map(make_fusion_identity, self.decoder)),
        )
        beside = [tuple(map(make_fusion_identity, part)) for part in (self.linear, self.refine)]
        # Networks without these parts keep the hash that they had before there were any.
        text = repr((plain, self.activation, self.output, *(beside if any(beside) else ())))
        return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()

    def __str__(self) -> str:
        """In words: `conv 3-8 k3, max-pool 2, … | …`, the bar standing at the latent, `+ linear`
        before what is added to a half, `+ refine` before what is added to the picture."""
        halves = [", ".join(map(str, half)) for half in (self.encoder, self.decoder)]
        if self.linear:
            halves = [
                f"{half} + linear {conv}" for half, conv in zip(halves, self.linear, strict=True)
            ]
        refine = f" + refine {', '.join(map(str, self.refine))}" if self.refine else ""
        return " | ".join(halves) + refine


def receptive_margin(layers: tuple[Layer, ...], picture: Shape) -> int:
    """How many pixels of the picture, at most, lie between a place in what `layers` put out and
    the farthest place that has a say in it."""
    pixels = 0
    for layer in layers:
        of_input, of_output = (
            picture[1] // shape[1] for shape in (layer.in_shape, layer.out_shape)
        )
        match layer:
            case Conv(transposed=True):
                pixels += layer.kernel * of_output
            case Conv():
                pixels += layer.kernel // 2 * of_input
            case Resize(mode="bilinear"):
                pixels += of_input
    return pixels


def fusion_key(config: Config) -> Hashable:
    """Equal for two configurations exactly when they may train in one cohort
    (`fused.FusedTrainings`): the same layers, input and minibatches, reckoned alike."""
    shown = config.task, config.gammas, config.classes
    return build_architecture(config), *shown, config.batch_size, config.precision


def build_architecture(config: Config) -> Architecture:
    """The layers of `config`. Raises `Infeasible` where a feature map would vanish, or the linear
    path does not fit."""
    encoder, starts = build_encoder(config)
    latent = encoder[-1].out_shape
    decoder = strip_last_activation(build_decoder(config, latent, starts))
    linear: tuple[Conv, ...] = ()
    if config.linear_path != "none":
        linear = make_linear_path(config, latent)
        encoder = strip_last_activation(
            encoder
        )  # what is added to a linear code may have either sign
    refine = make_refinement(config, decoder[-1].out_shape) if config.refine else ()
    return Architecture(
        tuple(encoder), tuple(decoder), config.activation, config.output, linear, refine
    )


def build_encoder(config: Config) -> tuple[list[Layer], list[int]]:
    """The layers, and the size that each stage began with."""
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
                raise Infeasible(f"stage {i + 1}: {down}-pool {factor} on {shape[1]} x {shape[2]}")
            pooled = (shape[0], shape[1] // factor, shape[2] // factor)
            layers.append(Pool(shape, pooled, down, factor))
            shape = pooled
        elif down == "stride" and layers[-1].in_shape[1] < factor:
            size = layers[-1].in_shape[1]
            raise Infeasible(f"stage {i + 1}: stride {factor} on {size} x {size}")
    for _ in range(config.latent_convs if config.latent_channels else 0):
        layers.append(make_conv(config, shape, config.latent_channels, config.latent_kernel))
        shape = layers[-1].out_shape
    return layers, starts


def build_decoder(config: Config, shape: Shape, starts: list[int]) -> list[Layer]:
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
    """The first convolution of a decoder stage together with what brings it to `size`."""
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
    # For odd kernels this is the usual padding of k // 2 on every side; for even ones a row of
    # zeros more behind than in front keeps the size all the same.
    pad = ((kernel - 1) // 2, kernel // 2) if same else (0, 0)
    if shape[1] + sum(pad) < kernel:
        raise Infeasible(f"kernel {kernel} without padding on {shape[1]} x {shape[2]}")
    conv = Conv(shape, shape, kernel, stride, pad, norm=config.norm == "batch")
    out = (width, conv.raw_size, conv.raw_size)
    return replace(conv, out_shape=out, residual=config.residual and out == shape)


def make_transposed_conv(
    config: Config, shape: Shape, width: int, kernel: int, stride: int, size: int
) -> Conv:
    """A transposed convolution that ends as near to `size` as its stride allows, never above."""
    missing = kernel - (size - (shape[1] - 1) * stride)  # what has to be cut off, both ends
    if missing <= 0:
        pad = (0, min(-missing, stride - 1))
    elif stride > 1:
        pad = (-(-missing // 2), missing % 2)
    else:
        pad = (missing // 2, 0)  # no output padding at stride 1: one row too many is cropped
    conv = Conv(shape, shape, kernel, stride, pad, transposed=True, norm=config.norm == "batch")
    side = min(conv.raw_size, size)
    out = (width, side, side)
    return replace(conv, out_shape=out, residual=config.residual and out == shape)


def make_linear_path(config: Config, latent: Shape) -> tuple[Conv, Conv]:
    """A block of pixels to its latent position, and back.

    Back by a pixel shuffle and not by a transposed convolution, which is the same map but has one
    bias a channel, where a mean block needs one a pixel.
    """
    size = latent[1]
    side, rest = divmod(config.image_size, size)
    if rest:
        whole = f"{config.image_size} x {config.image_size}"
        raise Infeasible(f"linear path: a latent of {size} x {size} does not tile {whole} pixels")
    numbers = config.in_channels * side**2
    if config.linear_path == "pca" and numbers > PCA_LIMIT:
        raise Infeasible(
            f"linear path: principal axes of blocks of {numbers:,} numbers; "
            f"at most {PCA_LIMIT:,} go"
        )
    picture = (config.in_channels, config.image_size, config.image_size)
    output = (config.out_channels, *picture[1:])
    there = Conv(picture, latent, kernel=side, stride=side, activation=False)
    return there, Conv(latent, output, kernel=1, shuffle=side, activation=False)


def make_refinement(config: Config, picture: Shape) -> tuple[Conv, ...]:
    layers: list[Layer] = []
    shape = picture
    for width in (*[config.refine] * (config.refine_convs - 1), picture[0]):
        layers.append(make_conv(config, shape, width, kernel=3))
        shape = layers[-1].out_shape
    return cast(tuple[Conv, ...], tuple(strip_last_activation(layers)))


def is_size_independent(layer: Layer) -> bool:
    """Whether the layer does to a larger map what it does to its own.

    Not so where sizes do not divide, for what closes the gap closes this gap only. Nor where the
    kernel is larger than the map: parts of it have seen nothing but the zeros around it.
    """
    size, out = layer.in_shape[1], layer.out_shape[1]
    match layer:
        case Conv(transposed=True):
            return out == size * layer.stride and layer.kernel <= out
        case Conv():
            return out * layer.stride == size * layer.shuffle and layer.kernel <= size
        case Pool():
            return out * layer.factor == size
        case Resize():
            return out % size == 0


def strip_last_activation(layers: list[Layer]) -> list[Layer]:
    """The last convolution, which makes the picture or what is added to something, has no norm, no
    sum and no activation of its own."""
    last = max(i for i, layer in enumerate(layers) if isinstance(layer, Conv))
    bare = cast(Conv, layers[last])
    bare = replace(bare, norm=False, residual=False, activation=False)
    return [*layers[:last], bare, *layers[last + 1 :]]


def make_fusion_identity(layer: Layer) -> tuple[object, ...]:
    return (type(layer).__name__, *astuple(layer))
