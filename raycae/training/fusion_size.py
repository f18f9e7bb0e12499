"""Choose how many trials to train fused."""

from __future__ import annotations

import math
import os
import time
from typing import NamedTuple

import torch
from torch.utils.data import TensorDataset

from raycae.config import Config
from raycae.model.architecture import build_architecture
from raycae.training.fused import FusedTrainings
from raycae.training.trainer import Training

MIN_SPEEDUP = 1.1
"""Minimum measured speed-up for fusing; anything smaller is timing noise.

Trials of a group also wait for each other.
"""


class FusionChoice(NamedTuple):
    """The chosen fusion size, and the reason.

    Attributes:
        m: Number of trials to train fused; 1 trains each alone.
        n_bytes: Predicted memory of a group of the size that was measured.
        speedup: Its speed relative to training one after another; 1 where nothing was measured.
        why: The reason in words.
    """

    m: int
    n_bytes: int
    speedup: float
    why: str


GPU_WORKSPACE_BYTES = 512 * 2**20
"""What cuBLAS, cuDNN and the CUDA graphs of a group need beside its tensors: an estimate that was
not measured, because no GPU was at hand."""


def choose_fusion_size(
    config: Config, max_size: int, train: TensorDataset, memory_bytes: int
) -> FusionChoice:
    """Choose how many trials to train fused, by predicted memory and a short measurement.

    The size is halved until the prediction fits and a few steps, fused and alone by turns, show a
    gain. Measuring a size m takes about as long as 12 m steps.

    Args:
        config: A typical configuration.
        max_size: Maximum number of trials in a group.
        train: Training images, on the device to measure.
        memory_bytes: Memory that a group may use.

    Returns:
        The choice.
    """
    m, device = max_size, train.tensors[0].device
    while m > 1 and predict_bytes(config, m, device) > memory_bytes:
        m //= 2
    if m < 2:
        n_bytes = predict_bytes(config, 2, device)
        memory = f"{n_bytes / 1e6:,.0f} MB; {memory_bytes / 1e6:,.0f} MB are available"
        why = f"fusing 2 trials would take {memory}" if max_size > 1 else "there is only one trial"
        return FusionChoice(1, n_bytes, 1.0, f"not fused: {why}")
    while True:
        speedup, n_bytes = measure_speedup(config, m, train), predict_bytes(config, m, device)
        text = f"training {m} trials fused is {speedup:.2f} times as fast as one by one"
        if speedup >= MIN_SPEEDUP:
            return FusionChoice(m, n_bytes, speedup, text)
        if m < 4:
            return FusionChoice(1, n_bytes, speedup, f"not fused: {text}")
        m //= 2


def get_available_bytes(device: torch.device, share: float = 1.0) -> int:
    """Return the memory that a fused group may use.

    Args:
        device: The device.
        share: This worker's share of a GPU. Above 1, it is that of one whole GPU.

    Returns:
        80 % of the free memory in this share of a GPU, or a quarter of the host's memory, in bytes.
    """
    if device.type == "cuda":
        free, total = torch.cuda.mem_get_info(device)
        # This process has reserved memory that earlier groups no longer use.
        used = torch.cuda.memory_allocated(device)
        free += torch.cuda.memory_reserved(device) - used
        return int(0.8 * min(free, min(share, 1.0) * total - used))
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 4


def predict_bytes(config: Config, m: int, device: torch.device) -> int:
    """Predict the memory of a fused group, without its images.

    Each feature map needs its values, those after the activation, and their gradient. On a GPU it
    needs them twice: a captured step has its own memory, and the last, smaller minibatch of an
    epoch is not captured. Each weight needs those of the group, the members and the best epoch, the
    gradient, and two moments twice.

    Args:
        config: The configuration.
        m: Number of trials in the group.
        device: The device.

    Returns:
        The memory in bytes.
    """
    architecture = build_architecture(config)
    shapes = [architecture.in_shape, *(layer.out_shape for layer in architecture.layers)]
    maps = sum(math.prod(shape) for shape in shapes)
    is_gpu = device.type == "cuda"
    n_values = m * ((6 if is_gpu else 3) * config.batch_size * maps + 10 * architecture.n_params)
    return 4 * n_values + (GPU_WORKSPACE_BYTES if is_gpu else 0)


def measure_speedup(config: Config, m: int, train: TensorDataset) -> float:
    """Measure how much faster fused training is than training one after another.

    On a GPU, a trial alone is a group of one, as in a search.

    Args:
        config: The configuration.
        m: Number of trials in the group.
        train: Training images, on the device to measure.

    Returns:
        The speed-up; 1 means no gain.
    """
    # All images, not a slice: a PCA that networks start from is cached for them.
    single, *members = (
        Training(config, train, train, epochs=4, first_images=4 * config.batch_size)
        for _ in range(m + 1)
    )
    for training in (single, *members):
        training.epoch = 1  # Only the first epoch has that few images.
    alone = FusedTrainings([single]) if single.device.type == "cuda" else single
    fused = FusedTrainings(members)
    alone_s, fused_s = [], []
    for _ in range(3):
        start = time.perf_counter()
        alone._train()
        between = time.perf_counter()
        fused._train()
        alone_s.append(between - start)
        fused_s.append(time.perf_counter() - between)
    return m * min(alone_s[1:]) / min(fused_s[1:])  # the first round warms up
