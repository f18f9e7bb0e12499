"""Configure PyTorch and the device that a process trains on."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import cast

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import TensorDataset

from raycae.config import Config
from raycae.provenance import count_cpus


def choose_device() -> torch.device:
    """A GPU if this process sees one; else the CPU with every core it may use. Prepares the
    process for either."""
    configure_torch(count_cpus())
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def configure_torch(threads: int) -> None:
    """Set this process up for training on `threads` cores; before anything is computed.

    Products of float32 keep all their digits; unasked, torch lets a GPU round the factors of
    convolutions as `tf32` does.

    Numbers below 1e-38 become 0. Where weight decay or a saturated sigmoid starves a network its
    weights and gradients shrink into that range, which CPUs handle in microcode: such a trial ran
    20 times as long without this, with the same errors to five digits (analysis/FINDINGS.md).
    """
    torch.set_flush_denormal(True)
    torch.set_num_threads(threads)
    allow_tf32(False)


@contextmanager
def set_rounding(config: Config) -> Iterator[None]:
    """Products of float32 on a GPU: rounded where the configuration says `tf32`, else exact."""
    allow_tf32(config.precision == "tf32")
    try:
        yield
    finally:
        allow_tf32(False)


def allow_tf32(allowed: bool) -> None:
    torch.backends.cudnn.allow_tf32 = allowed
    torch.backends.cuda.matmul.allow_tf32 = allowed


def run_forward(network: nn.Module, x: Tensor, config: Config) -> Tensor:
    """What `network` makes of `x` while it trains; where the configuration says `bf16`, in that."""
    if config.precision != "bf16":
        return cast(Tensor, network(x))
    # Once a step: autocast keeps what it has rounded to its end, and a step moves the weights.
    with torch.autocast(x.device.type, torch.bfloat16):
        return cast(Tensor, network(x)).float()


def put_on_device(
    images: np.ndarray, device: torch.device, labels: np.ndarray | None = None
) -> TensorDataset:
    """uint8 images (N, H, W, 3) on `device`, and where they are given their classes, int64 (N,);
    on the CPU the memory stays shared. Its rows are what `Task.batch` takes."""
    arrays = [images] if labels is None else [images, labels]
    with warnings.catch_warnings():
        # Ray's object store hands out read-only memory; nothing here writes to images.
        warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
        return TensorDataset(*(torch.from_numpy(array).to(device) for array in arrays))
