"""How many trials to train as one."""

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

WORTH_IT = 1.1
"""A machine that others use differs by as much from minute to minute, and trials of a cohort wait
for each other: less gain than this is none."""


class FusionChoice(NamedTuple):
    """How many trials of a network to train as one, and why."""

    m: int
    """1: each alone."""
    n_bytes: int
    """Predicted for a cohort of the size that was measured."""
    speedup: float
    """Its speed over that of as many trials one after the other; 1 where nothing was measured."""
    why: str


def choose_fusion_size(
    config: Config, most: int, train: TensorDataset, memory_bytes: int
) -> FusionChoice:
    """Whether cohorts of at most `most` trials like `config` pay, on the device of `train`.

    The size is halved until the prediction fits into `memory_bytes` and a few steps, fused and
    alone by turns, say that it pays. Measuring a size takes as long as some 12 m steps.
    """
    m = most
    while m > 1 and predict_bytes(config, m) > memory_bytes:
        m //= 2
    if m < 2:
        n_bytes = predict_bytes(config, 2)
        needed = f"{n_bytes / 1e6:,.0f} MB, and there are {memory_bytes / 1e6:,.0f}"
        why = f"two as one would take {needed}" if most > 1 else "there is but one"
        return FusionChoice(1, n_bytes, 1.0, f"each alone: {why}")
    while True:
        speedup, n_bytes = measure_speedup(config, m, train), predict_bytes(config, m)
        said = f"{m} as one train {speedup:.2f} times as fast as one after the other"
        if speedup >= WORTH_IT:
            return FusionChoice(m, n_bytes, speedup, said)
        if m < 4:
            return FusionChoice(1, n_bytes, speedup, f"each alone: {said}")
        m //= 2


def get_available_bytes(device: torch.device) -> int:
    """What a cohort may take: most of what a GPU has free; a quarter of a host's memory."""
    if device.type == "cuda":
        return int(0.8 * torch.cuda.mem_get_info(device)[0])
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 4


def predict_bytes(config: Config, m: int) -> int:
    """What a cohort of `m` takes beside its images: of each map its values, what the activation
    makes of them and their gradient; of each weight those of cohort, members and best epoch, the
    gradient, and two moments twice."""
    net = build_architecture(config)
    maps = sum(math.prod(layer.out_shape) for layer in net.layers) + math.prod(net.in_shape)
    return 4 * m * (3 * config.batch_size * maps + 10 * net.n_params)


def measure_speedup(config: Config, m: int, train: TensorDataset) -> float:
    few = TensorDataset(*(t[: 4 * config.batch_size] for t in train.tensors))
    one, *members = (Training(config, few, few, epochs=4) for _ in range(m + 1))
    cohort = FusedTrainings(members)
    alone_s, fused_s = [], []
    for epoch in range(1, 4):
        begun = time.perf_counter()
        one.epoch = epoch
        one._train()
        between = time.perf_counter()
        for member in members:
            member.epoch = epoch
        cohort._train()
        alone_s.append(between - begun)
        fused_s.append(time.perf_counter() - between)
    return m * min(alone_s[1:]) / min(fused_s[1:])  # the first epoch warms up
