"""The network: one module for each layer of an architecture."""

from __future__ import annotations

from itertools import pairwise
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from raycae.model.architecture import Architecture
from raycae.model.layers import Conv, Layer, Pool, Resize

GREY = 0.5
"""Middle of the range of pixel values, which the linear path subtracts."""
ACTIVATIONS: dict[str, type[nn.Module]] = {
    "relu": nn.ReLU,
    "leaky_relu": nn.LeakyReLU,
    "silu": nn.SiLU,
    "gelu": nn.GELU,
    "none": nn.Identity,
}
"""Activations by the name that a configuration uses."""
OUTPUTS: dict[str, type[nn.Module]] = {
    "sigmoid": nn.Sigmoid,
    "linear": nn.Identity,
    "leaky_relu": nn.LeakyReLU,
}
"""Activations at the output by the name that a configuration uses."""


class Autoencoder(nn.Module):
    """Encoder and decoder built from an `Architecture`.

    The base model, 3 x 32 x 32 to a latent of 16 x 8 x 8 and back::

        x  3@32 ─conv─ 8@32 ─pool─ 8@16 ─conv─ 12@16 ─pool─ 12@8 ─conv─ 16@8  z
        z 16@8  ─up─ 16@16 ─conv─ 12@16 ─up─ 12@32 ─conv, sigmoid─ 3@32       x_hat

    With a linear path latent and picture are sums; refinement adds to the picture in turn::

        z = encoder(x) + to_latent(x)    y = decoder(z) + to_picture(z)    x_hat = y + refine(y)

    `forward` takes x (N, C, H, W) in [0, 1] to x_hat (N, C', H, W), in [0, 1] where the output is
    a sigmoid. H and W are the trained size, or multiples of the architecture's `stride`.
    """

    def __init__(self, architecture: Architecture) -> None:
        super().__init__()
        activation = ACTIVATIONS[architecture.activation]
        self.encoder = nn.Sequential(*make_modules(architecture.encoder, activation))
        self.decoder = nn.Sequential(*make_modules(architecture.decoder, activation))
        self.linear = LinearPath(*architecture.linear) if architecture.linear else None
        self.refine = nn.Sequential(*make_modules(architecture.refine, activation))
        self.output = OUTPUTS[architecture.output]()

    def encode(self, x: Tensor) -> Tensor:
        """Encode images.

        Args:
            x: Input of the network, float (N, C, H, W).

        Returns:
            The latents, float (N, C_latent, h, w).
        """
        z = self.encoder(x)
        return cast(Tensor, z + self.linear.encode(x) if self.linear else z)

    def decode(self, z: Tensor) -> Tensor:
        """Decode latents.

        Args:
            z: Latents, float (N, C_latent, h, w).

        Returns:
            The output of the network, float (N, C_out, H, W).
        """
        y = self.decoder(z)
        if self.linear:
            y = y + self.linear.decode(z)
        if self.refine:
            y = y + self.refine(y)
        return cast(Tensor, self.output(y))

    def forward(self, x: Tensor) -> Tensor:
        """Encode and decode images.

        Args:
            x: Input of the network, float (N, C, H, W).

        Returns:
            The output of the network, float (N, C_out, H, W).
        """
        return self.decode(self.encode(x))

    @torch.no_grad()
    def init_from_pca(self, mean: Tensor, axes: Tensor) -> None:
        """Initialise a network with a linear path to be exactly the PCA of these axes.

        Latent channels beyond the D axes keep the weights that torch drew for them, but do not
        affect the image. Everything that is added to the linear path starts at zero.

        Args:
            mean: The mean block, float (C, p, p), in [0, 1].
            axes: Orthonormal axes, float (D, C, p, p); the first ones get one latent channel each.
        """
        linear = cast(LinearPath, self.linear)
        n_latent = linear.to_latent.out_features
        mean, axes = mean.flatten(), axes.flatten(1)[:n_latent]
        linear.to_latent.weight[: len(axes)] = axes
        linear.to_latent.bias[: len(axes)] = axes @ (GREY - mean)
        linear.to_picture.weight.zero_()
        linear.to_picture.weight[:, : len(axes)] = axes.T
        linear.to_picture.bias.copy_(mean)
        for branch in (self.encoder, self.decoder, self.refine):
            for block in [block for block in branch if isinstance(block, ConvBlock)][-1:]:
                nn.init.zeros_(block.conv.weight)
                nn.init.zeros_(cast(Tensor, block.conv.bias))


class LinearPath(nn.Module):
    """Two matrices that map each block of pixels to its latent position, and back.

    They are the same maps as the two convolutions of the architecture. With convolutions, a whole
    image of 32 x 32 to 256 values and back would take four times as long on a CPU. Pixel values are
    relative to grey, not to black. Adam moves all weights equally far, so what all pixels have in
    common would move a latent value by their sum: without this, 384 values were still worse than
    PCA after four epochs.
    """

    def __init__(self, there: Conv, back: Conv) -> None:
        super().__init__()
        self.side = there.kernel
        self.to_latent = nn.Linear(there.in_shape[0] * there.kernel**2, there.filters)
        self.to_picture = nn.Linear(back.in_shape[0], back.filters)

    def encode(self, x: Tensor) -> Tensor:
        """Map blocks of pixels to the latent.

        Args:
            x: Images, float (N, C, H, W).

        Returns:
            Latents, float (N, C_latent, h, w).
        """
        blocks = F.pixel_unshuffle(x - GREY, self.side).permute(0, 2, 3, 1)  # (N, h, w, C side²)
        return cast(Tensor, self.to_latent(blocks)).permute(0, 3, 1, 2)

    def decode(self, z: Tensor) -> Tensor:
        """Map latents to blocks of pixels.

        Args:
            z: Latents, float (N, C_latent, h, w).

        Returns:
            Images, float (N, C, H, W).
        """
        blocks = cast(Tensor, self.to_picture(z.permute(0, 2, 3, 1)))
        return F.pixel_shuffle(blocks.permute(0, 3, 1, 2), self.side)


class ConvBlock(nn.Module):
    """A convolution with shuffle, crop, batch norm, residual sum and activation; see `Conv`."""

    def __init__(self, layer: Conv, activation: type[nn.Module]) -> None:
        super().__init__()
        filters, bias = layer.filters, not layer.norm
        before, after = layer.pad
        self.conv: nn.Conv2d | nn.ConvTranspose2d
        self.uneven = (before, after, before, after) if before != after else None
        if layer.transposed:
            self.uneven = None
            self.conv = nn.ConvTranspose2d(
                layer.in_shape[0], filters, layer.kernel, layer.stride, before, after, bias=bias
            )
        else:
            padding = 0 if self.uneven else before
            self.conv = nn.Conv2d(
                layer.in_shape[0], filters, layer.kernel, layer.stride, padding, bias=bias
            )
        self.shuffle = nn.PixelShuffle(layer.shuffle) if layer.shuffle > 1 else None
        # The number of surplus rows does not depend on the size of the image.
        self.crop = max(0, layer.raw_size * layer.shuffle - layer.out_shape[1])
        self.norm = BatchNorm(layer.out_shape[0]) if layer.norm else None
        self.residual = layer.residual
        self.activation = activation() if layer.activation else None

    def forward(self, x: Tensor) -> Tensor:
        """Apply the layer.

        Args:
            x: Feature maps, float (N, C, H, W).

        Returns:
            Feature maps, float (N, C_out, H_out, W_out).
        """
        y = self.conv(F.pad(x, self.uneven) if self.uneven else x)
        if self.shuffle:
            y = self.shuffle(y)
        if self.crop:
            y = y[:, :, : -self.crop, : -self.crop]
        if self.residual:
            return self.finish(y, x)
        return self.finish(y)

    def finish(self, y: Tensor, x: Tensor | None = None) -> Tensor:
        """Apply the steps that follow convolution, shuffle and crop.

        Args:
            y: Feature maps, float (N, C_out, H_out, W_out).
            x: Input of the layer, added to the result; None without a residual sum.

        Returns:
            Feature maps of the shape of `y`.
        """
        if self.norm:
            y = self.norm(y)
        if x is not None:
            y = y + x
        return self.activation(y) if self.activation else y


class BatchNorm(nn.BatchNorm2d):
    """Batch norm that accepts a single value per channel during training.

    A minibatch of one image, such as the last one of an epoch, has a single value per channel in a
    1 x 1 feature map. It has no variance, and torch refuses it. Here it is normalised with the
    running statistics and does not change them.
    """

    def forward(self, x: Tensor) -> Tensor:
        """Normalise feature maps.

        Args:
            x: Feature maps, float (N, C, H, W).

        Returns:
            Normalised maps of the same shape.
        """
        if not self.training or x.numel() > x.shape[1]:
            return super().forward(x)
        cast(Tensor, self.num_batches_tracked).add_(1)
        return F.batch_norm(
            x, self.running_mean, self.running_var, self.weight, self.bias, eps=self.eps
        )


class UpsampledConv(ConvBlock):
    """Nearest upsampling by `factor`, then the convolution of `layer`.

    On a CPU both are done together on the small image. Several of the k taps at a fine pixel fall
    on the same coarse pixel, so their weights are summed first. Each of the factor² positions
    inside a coarse pixel has its own summed kernel, and a pixel shuffle interleaves the results.
    The result is the same up to rounding. A 5 x 5 kernel after doubling takes 9 multiplications
    instead of 25, and the base model trains a tenth faster (analysis/FINDINGS.md). On a GPU, the
    time of such a small step is the number of kernel launches, and the plain way has fewer.

    Attributes:
        taps: Which fine taps add up to each coarse tap, 0 or 1,
            (factor² positions x side² coarse taps, kernel² fine taps).
    """

    taps: Tensor

    def __init__(self, layer: Conv, factor: int, activation: type[nn.Module]) -> None:
        super().__init__(layer, activation)
        self.factor = factor
        before, after = layer.pad
        first = -before // factor
        last = (factor - 1 + after) // factor
        self.margin = (-first, last, -first, last)
        self.side = last - first + 1
        taps = torch.zeros(factor, self.side, layer.kernel)  # position, coarse, fine
        for position in range(factor):
            for fine in range(layer.kernel):
                taps[position, (position + fine - before) // factor - first, fine] = 1
        both = torch.einsum("plk,qmj->pqlmkj", taps, taps)  # rows and columns
        self.register_buffer("taps", both.flatten(4).flatten(0, 3), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """Upsample and convolve.

        Args:
            x: Feature maps, float (N, C, H, W).

        Returns:
            Feature maps, float (N, C_out, factor H, factor W).
        """
        if not x.is_cpu:
            return super().forward(F.interpolate(x, scale_factor=self.factor))
        filters, channels, kernel, _ = self.conv.weight.shape
        fine = self.conv.weight.reshape(filters * channels, kernel * kernel)
        weight = (fine @ self.taps.T).view(filters, channels, -1, self.side, self.side)
        weight = weight.transpose(1, 2).reshape(-1, channels, self.side, self.side)
        bias = self.conv.bias
        if bias is not None:
            bias = bias.repeat_interleave(self.factor**2)
        left, right, _, _ = self.margin
        if left == right:
            y = F.conv2d(x, weight, bias, padding=left, groups=self.conv.groups)
        else:
            y = F.conv2d(F.pad(x, self.margin), weight, bias, groups=self.conv.groups)
        return self.finish(F.pixel_shuffle(y, self.factor))


class Interpolate(nn.Module):
    """Nearest or bilinear interpolation to a fixed size or by an integer factor."""

    def __init__(self, layer: Resize) -> None:
        super().__init__()
        factor, rest = divmod(layer.out_shape[1], layer.in_shape[1])
        self.size, self.factor, self.mode = layer.out_shape[1:], 0 if rest else factor, layer.mode

    def forward(self, x: Tensor) -> Tensor:
        """Resize feature maps.

        Args:
            x: Feature maps, float (N, C, H, W).

        Returns:
            Resized maps.
        """
        height, width = x.shape[2:]
        grown = (self.factor * height, self.factor * width) if self.factor else self.size
        return F.interpolate(x, grown, mode=self.mode)


def build_network(architecture: Architecture, *, seed: int) -> Autoencoder:
    """Build a network with torch's default initialisation.

    The global random generator is left unchanged, so that building a network affects nothing else.

    Args:
        architecture: The layers.
        seed: Seed of the weights.

    Returns:
        The network.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return Autoencoder(architecture)


def make_modules(layers: tuple[Layer, ...], activation: type[nn.Module]) -> list[nn.Module]:
    """Make one module per layer, so that the names of weights tell the layer.

    Args:
        layers: The layers.
        activation: Class of the activation.

    Returns:
        The modules, as many as layers.
    """
    modules = [make_module(layer, activation) for layer in layers]
    for i, (resize, conv) in enumerate(pairwise(layers)):
        if factor := get_upsampling_factor(resize, conv):
            modules[i] = nn.Identity()
            modules[i + 1] = UpsampledConv(cast(Conv, conv), factor, activation)
    return modules


def get_upsampling_factor(resize: Layer, conv: Layer) -> int:
    """Return the factor by which `resize` grows if both layers can be computed together, else 0.

    Args:
        resize: A layer.
        conv: The layer that follows it.

    Returns:
        The factor.
    """
    if not (isinstance(resize, Resize) and isinstance(conv, Conv)):
        return 0
    factor, rest = divmod(resize.out_shape[1], resize.in_shape[1])
    plain = not (conv.transposed or conv.residual or conv.shuffle > 1)
    return factor if resize.mode == "nearest" and plain and not rest else 0


def make_module(layer: Layer, activation: type[nn.Module]) -> nn.Module:
    """Make the module of a layer.

    Args:
        layer: The layer.
        activation: Class of the activation.

    Returns:
        The module.
    """
    match layer:
        case Conv():
            return ConvBlock(layer, activation)
        case Pool(kind="max"):
            return nn.MaxPool2d(layer.factor)
        case Pool():
            return nn.AvgPool2d(layer.factor)
        case Resize():
            return Interpolate(layer)
