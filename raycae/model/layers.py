"""Layers with shapes and costs, without weights or torch. Shapes are (channels, height, width)."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from operator import attrgetter
from typing import cast

Shape = tuple[int, int, int]
"""Channels, height and width; height and width are equal for all layers of a network."""


@dataclass(frozen=True)
class Conv:
    """A convolution and the steps that follow it.

    They are, in this order: convolution, pixel shuffle, crop to `out_shape`, batch norm, residual
    sum, activation.
    """

    in_shape: Shape
    out_shape: Shape
    kernel: int
    stride: int = 1
    pad: tuple[int, int] = (0, 0)
    """Zeros before and after, in both directions.

    For a transposed convolution: `pad[0]` is the padding and `pad[1]` the output padding of torch's
    `ConvTranspose2d`.
    """
    transposed: bool = False
    shuffle: int = 1
    norm: bool = False
    residual: bool = False
    activation: bool = True

    @property
    def filters(self) -> int:
        """Output channels of the convolution itself, before the pixel shuffle."""
        return self.out_shape[0] * self.shuffle**2

    @property
    def raw_size(self) -> int:
        """Output height of the convolution itself, before shuffle and crop."""
        size = self.in_shape[1]
        if self.transposed:
            return (size - 1) * self.stride - 2 * self.pad[0] + self.kernel + self.pad[1]
        return (size + sum(self.pad) - self.kernel) // self.stride + 1

    @property
    def n_params(self) -> int:
        """Number of parameters; batch norm has a scale and a shift and replaces the bias."""
        weights = self.in_shape[0] * self.filters * self.kernel**2
        return weights + (2 * self.out_shape[0] if self.norm else self.filters)

    @property
    def flops(self) -> int:
        """Floating-point operations of a forward pass over one image.

        A multiply-add counts as two, as in torch.utils.flop_counter.
        """
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
READ_FIELDS: dict[type, attrgetter[tuple[object, ...]]] = {
    kind: attrgetter(*(field.name for field in fields(kind))) for kind in (Conv, Pool, Resize)
}
"""Reads all fields of a layer, by its class, in a third of the time of a loop."""


def receptive_margin(layers: tuple[Layer, ...], picture: Shape) -> int:
    """Compute how far a position of the output depends on the image around it.

    Args:
        layers: The layers.
        picture: Shape of the image that the distance is measured in.

    Returns:
        An upper bound of the distance in pixels of the image.
    """
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


def is_size_independent(layer: Layer) -> bool:
    """Return whether a layer treats a larger map like one of its own size.

    It does not if sizes do not divide, because the gap that is closed depends on the size. Nor if
    the kernel is larger than the map: some of its weights have then seen only padding.

    Args:
        layer: The layer.

    Returns:
        Whether it does.
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
    """Remove norm, residual sum and activation from the last convolution.

    Its output is an image or is added to something else.

    Args:
        layers: The layers.

    Returns:
        The layers with the last convolution replaced.
    """
    last = max(i for i, layer in enumerate(layers) if isinstance(layer, Conv))
    bare = cast(Conv, layers[last])
    bare = replace(bare, norm=False, residual=False, activation=False)
    return [*layers[:last], bare, *layers[last + 1 :]]


def make_fusion_identity(layer: Layer) -> tuple[object, ...]:
    """Return what identifies a layer in hashes.

    Args:
        layer: The layer.

    Returns:
        The name of its class and its fields.
    """
    return (type(layer).__name__, *READ_FIELDS[type(layer)](layer))
