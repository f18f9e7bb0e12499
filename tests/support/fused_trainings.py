"""Small trainings that are fused and compared with trainings alone.

On a machine with a GPU, tests use them with nothing installed but torch, NumPy, pydantic and
pytest, so this file imports nothing else.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import TensorDataset

from raycae.config import resolve
from raycae.training.device import put_on_device
from raycae.training.trainer import Training

Pictures = tuple[TensorDataset, TensorDataset]

TINY: dict[str, Any] = {"image_size": 8, "channels": [4, 5], "latent_channels": 4}

TRAININGS: list[dict[str, Any]] = [
    {"optimizer": "adam"},
    {"optimizer": "adam", "weight_decay": 1e-3, "schedule": "cosine", "averaging": 0.95},
    {"optimizer": "adamw", "weight_decay": 0.01, "lr": 0.002},
    {"optimizer": "rmsprop", "weight_decay": 1e-4},
    {"optimizer": "sgd", "lr": 0.1},
    {"optimizer": "sgd", "lr": 0.05, "momentum": 0.9, "weight_decay": 1e-4, "averaging": 0.5},
]
"""Every optimizer, and whatever else members may differ in."""

NETWORKS: dict[str, dict[str, Any]] = {
    "base": {},
    "strides": {"downsample": "stride", "upsample": "pixel_shuffle", "kernel": 5},
    "transposed": {"upsample": "transposed", "kernel": 4, "decoder_kind": "transposed"},
    "residual": {"convs": 2, "residual": True, "norm": "batch", "channels": [3, 6]},
    "average": {"downsample": "average", "upsample": "bilinear", "activation": "gelu"},
    "uneven": {"kernel": 2, "padding": "none", "downsample": ["max", "none"]},
    "linear": {"linear_path": "pca", "output": "linear", "refine": 4, "norm": "batch"},
    "colour": {"task": "colourise", "gammas": [0.5, 1.0, 2.0, 3.0], "residual": True},
    "classes": {"task": "colourise", "classes": 3, "norm": "batch"},
    "flipped": {"flips": "both", "linear_path": "pca", "output": "linear"},
}


def pictures(device: str = "cpu", n: int = 96, size: int = 8) -> Pictures:
    """Make smooth pictures, `size` pixels square, of three classes."""
    draw = torch.Generator().manual_seed(0)
    coarse = torch.rand(n, 3, 3, 3, generator=draw)
    smooth = torch.nn.functional.interpolate(coarse, size=size, mode="bicubic").clamp(0, 1)
    pixels = (255 * smooth).byte().permute(0, 2, 3, 1).contiguous().numpy()
    n_train = 7 * n // 8
    train, val = (
        put_on_device(part, torch.device(device), torch.arange(len(part)).numpy() % 3)
        for part in (pixels[:n_train], pixels[n_train:])
    )
    return train, val


class Doubled:
    """A task whose numbers are float64."""

    def __init__(self, task: Any) -> None:
        self.task, self.picture = task, task.picture

    def batch(self, *images: Tensor) -> tuple[Tensor, ...]:
        return tuple(part.double() for part in self.task.batch(*images))


def trainings(
    photos: Pictures, network: dict[str, Any], of: Sequence[dict[str, Any]] = TRAININGS, **more: Any
) -> list[Training]:
    """One of this network for each way to train it, each with weights and a length of its own."""
    return [
        Training(resolve(TINY | network | way), *photos, epochs=24 + seed, seed=seed, **more)
        for seed, way in enumerate(of)
    ]


def exact(members: list[Training]) -> list[Training]:
    for member in members:
        member.task = Doubled(member.task)  # type: ignore[assignment]
        member.model.double()
        if member.averaged:
            member.averaged.double()
    return members


def apart(one: nn.Module, other: nn.Module) -> float:
    """Relative difference of two networks' weights and running statistics."""
    a, b = (
        torch.cat(
            [t.detach().flatten() for t in network.state_dict().values() if t.is_floating_point()]
        )
        for network in (one, other)
    )
    return float((a - b).norm() / b.norm())


def assert_equal(fused: Training, alone: Training, bound: float) -> None:
    assert apart(fused.model, alone.model) <= bound
    assert apart(fused.evaluation_model, alone.evaluation_model) <= bound
    counts = [
        [t for t in network.state_dict().values() if not t.is_floating_point()]
        for network in (fused.model, alone.model)
    ]
    assert counts[0] == counts[1]
    assert fused.best_epoch == alone.best_epoch
    assert fused.best_weights.keys() == alone.best_weights.keys()


def same_bits(one: Training, other: Training) -> bool:
    a, b = (
        [*t.model.state_dict().values(), *t.evaluation_model.state_dict().values()]
        for t in (one, other)
    )
    return all(map(torch.equal, a, b))
