"""Errors of a network on validation or test images."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.utils.data import TensorDataset

from raycae.model.tasks import Task
from raycae.training import metrics

VALIDATION_BATCH = 500


class Reference:
    """Batches, each what `Task.batch` takes (the images first), together with their images as RGB
    floats (N, 3, H, W) in [0, 1]."""

    def __init__(self, images: TensorDataset, at_once: int = VALIDATION_BATCH) -> None:
        self.images, self.at_once = images, at_once

    def __iter__(self) -> Iterator[tuple[tuple[Tensor, ...], Tensor]]:
        for start in range(0, len(self.images), self.at_once):
            batch = self.images[start : start + self.at_once]
            yield batch, batch[0].permute(0, 3, 1, 2).float() / 255


@torch.inference_mode()
def compute_errors(
    model: nn.Module, task: Task, images: TensorDataset, *, at_once: int = VALIDATION_BATCH
) -> tuple[float, float]:
    """The task's MSE and the PSNR (dB) of the RGB pictures, each the mean over `images`, `at_once`
    of which go through the network at a time. `model` has to be in eval mode."""
    mse = torch.zeros((), device=images.tensors[0].device, dtype=torch.float64)
    psnr_db = torch.zeros_like(mse)
    for batch, rgb in Reference(images, at_once):
        x, y = task.batch(*batch)
        output = model(x)
        mse += metrics.compute_mse(output, y).sum()
        psnr_db += metrics.compute_psnr_db(task.picture(batch[0], output), rgb).sum()
    return float(mse) / len(images), float(psnr_db) / len(images)
