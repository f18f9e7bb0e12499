"""Draw the minibatches of an epoch, and flip their images.

Order and flips depend on (seed, epoch, batch size, flips), never on the trial. Trials of equal
settings get the same minibatches, so that fused training can share them.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import TensorDataset

FLIP_AXES: dict[str, tuple[int, ...]] = {"none": (), "horizontal": (2,), "both": (2, 1)}
"""Axes of images (N, H, W, 3) that each value of the setting `flips` reverses."""


def draw_minibatches(
    n: int, batch_size: int, *, seed: int, epoch: int, device: torch.device, flips: str = "none"
) -> Iterator[Tensor]:
    """Draw the minibatches of an epoch.

    Args:
        n: Number of images.
        batch_size: Number of images per minibatch.
        seed: Seed of the order and of the flips.
        epoch: Number of the epoch, from 1.
        device: Device of the result.
        flips: The setting `flips`.

    Returns:
        The rows of each minibatch for `load_minibatch`, int64 (batch_size,); the last one may be
        smaller.
    """
    generator = torch.Generator().manual_seed(mix_seed(seed, epoch, batch_size))
    order = torch.randperm(n, generator=generator)
    if flips != "none":
        copies = 2 ** len(FLIP_AXES[flips])
        order = order * copies + torch.randint(copies, (n,), generator=generator)
    return iter(order.to(device).split(batch_size))


def load_minibatch(images: TensorDataset, rows: Tensor, flips: str) -> tuple[Tensor, ...]:
    """Load the images of a minibatch, flipped as drawn.

    Args:
        images: Training images, uint8 (N, H, W, 3), and labels if there are any.
        rows: From `draw_minibatches`. Without flips, indices of images. With flips, an index times
            the number of flipped copies, plus one bit for each axis that is flipped.
        flips: The setting `flips`.

    Returns:
        The arguments of `Task.batch`.
    """
    axes = FLIP_AXES[flips]
    pictures, *labels = images[rows >> len(axes)]
    for bit, axis in enumerate(axes):
        is_flipped = (rows >> bit & 1).bool()[:, None, None, None]
        pictures = torch.where(is_flipped, pictures.flip(axis), pictures)
    return pictures, *labels


def mix_seed(*numbers: int) -> int:
    """Derive a seed from several numbers.

    Args:
        numbers: The numbers, each at least 0.

    Returns:
        A seed of 63 bits.
    """
    return int(np.random.SeedSequence(numbers).generate_state(1, np.uint64)[0] >> np.uint64(1))
