"""Errors of a network on validation or test images."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.utils.data import TensorDataset

from raycae.model.tasks import Task
from raycae.training import metrics

VALIDATION_BATCH = 500
"""Number of images per batch where no gradients are needed."""
PARALLEL_BATCH = 100
"""The same where a CPU evaluates several networks at a time. With 500, they take 1.2 times as long
on two cores, because feature maps do not fit into the cache."""


def get_parallel_batch(device: torch.device) -> int:
    """Return the number of images per batch where several networks are evaluated.

    Args:
        device: The device of the networks.
    """
    return PARALLEL_BATCH if device.type == "cpu" else VALIDATION_BATCH


class Reference:
    """Batches of images together with the same images as RGB floats.

    Each item is the arguments of `Task.batch` (the images first) and RGB, float (N, 3, H, W) in
    [0, 1].

    Args:
        images: The images and, where there are any, their labels.
        batch_size: Number of images per batch.
    """

    def __init__(self, images: TensorDataset, batch_size: int = VALIDATION_BATCH) -> None:
        self.images, self.batch_size = images, batch_size

    def __iter__(self) -> Iterator[tuple[tuple[Tensor, ...], Tensor]]:
        for start in range(0, len(self.images), self.batch_size):
            batch = self.images[start : start + self.batch_size]
            yield batch, scale_to_rgb(batch[0])


def scale_to_rgb(images: Tensor) -> Tensor:
    """Scale images to RGB floats.

    Args:
        images: The images, uint8 (N, H, W, 3).

    Returns:
        RGB, float (N, 3, H, W) in [0, 1].
    """
    return images.permute(0, 3, 1, 2).float() / 255


@torch.inference_mode()
def compute_errors(
    model: nn.Module, task: Task, images: TensorDataset, *, batch_size: int = VALIDATION_BATCH
) -> tuple[float, float]:
    """Compute the errors of a network, as means over the images.

    Args:
        model: The network, in eval mode.
        task: The task.
        images: The images and, where there are any, their labels.
        batch_size: Number of images that pass through the network at a time.

    Returns:
        The task's MSE, and the PSNR of the RGB images in dB.
    """
    mse = torch.zeros((), device=images.tensors[0].device, dtype=torch.float64)
    psnr_db = torch.zeros_like(mse)
    for batch, rgb in Reference(images, batch_size):
        x, y = task.batch(*batch)
        output = model(x)
        mse += metrics.compute_mse(output, y).sum()
        psnr_db += metrics.compute_psnr_db(task.picture(batch[0], output), rgb).sum()
    return float(mse) / len(images), float(psnr_db) / len(images)
