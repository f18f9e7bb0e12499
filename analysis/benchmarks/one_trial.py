"""Compare one trial on one core: raycae and a `DataLoader` with per-image `ToTensor`.

    python analysis/benchmarks/one_trial.py [--data SOURCE] [--images 8000] [--repeats 5]

It trains the base model of the source report, batch 16 (and also 128), Adam 0.001, for one epoch
without validation. The loader gets its best number of workers (0, 1 or 2, measured in this run).
Both run interleaved on one core, to which this process pins itself. The medians and the ratio are
printed last.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import nn
from torch.utils.data import DataLoader, Dataset
from torchvision.transforms import ToTensor

from raycae import data
from raycae.config import resolve
from raycae.provenance import describe_hardware
from raycae.training.device import put_on_device
from raycae.training.trainer import Training


class Pictures(Dataset[torch.Tensor]):
    """As torchvision's CIFAR10 with `transform=ToTensor()`: an array, a PIL image, a tensor."""

    def __init__(self, images: np.ndarray) -> None:
        self.images = images
        self.transform = ToTensor()

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> torch.Tensor:
        tensor: torch.Tensor = self.transform(Image.fromarray(self.images[index]))
        return tensor


class TutorialAutoencoder(nn.Module):
    """The base model as a tutorial writes it."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            *(nn.Conv2d(3, 8, 3, padding=1), nn.LeakyReLU(), nn.MaxPool2d(2)),
            *(nn.Conv2d(8, 12, 3, padding=1), nn.LeakyReLU(), nn.MaxPool2d(2)),
            *(nn.Conv2d(12, 16, 3, padding=1), nn.LeakyReLU()),
            *(nn.Upsample(scale_factor=2), nn.Conv2d(16, 12, 3, padding=1), nn.LeakyReLU()),
            *(nn.Upsample(scale_factor=2), nn.Conv2d(12, 3, 3, padding=1), nn.Sigmoid()),
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y: torch.Tensor = self.layers(x)
        return y


def tutorial(images: np.ndarray, batch_size: int, workers: int) -> Callable[[], None]:
    torch.manual_seed(0)
    model = TutorialAutoencoder()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.001)
    loader = DataLoader(
        Pictures(images),
        batch_size=batch_size,
        shuffle=True,
        num_workers=workers,
        persistent_workers=workers > 0,
    )

    def epoch() -> None:
        total = 0.0
        for x in loader:
            loss = nn.functional.mse_loss(model(x), x)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            total += loss.item()

    return epoch


def ours(images: np.ndarray, batch_size: int) -> Callable[[], None]:
    train, val = (put_on_device(part, torch.device("cpu")) for part in (images, images[:16]))
    training = Training(resolve({"batch_size": batch_size}), train, val, epochs=1)

    def epoch() -> None:
        training.epoch += 1
        training._train()

    return epoch


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--data", default="photos")
    parser.add_argument("--images", type=int, default=8000)
    parser.add_argument("--repeats", type=int, default=5)
    arguments = parser.parse_args()

    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    warnings.filterwarnings("ignore", message="This DataLoader will create")  # on purpose
    torch.set_num_threads(1)
    source = arguments.data
    if source not in data.NAMED_SOURCES:
        source = str(Path(source).resolve())
    images = data.load(source).train
    images = images[np.arange(arguments.images) % len(images)]

    machine = describe_hardware()
    print(f"{machine['cpu']}, one core; python {sys.version.split()[0]}, torch {torch.__version__}")
    print(f"{source}: {len(images):,} images an epoch, {arguments.repeats} interleaved repeats")
    for batch_size in (16, 128):
        runs = {f"loader, {n} workers": tutorial(images, batch_size, n) for n in (0, 1, 2)}
        runs["raycae"] = ours(images, batch_size)
        rates: dict[str, list[float]] = {name: [] for name in runs}
        for epoch in runs.values():
            epoch()  # warm
        for _ in range(arguments.repeats):
            for name, epoch in runs.items():
                begun = time.perf_counter()
                epoch()
                rates[name].append(len(images) / (time.perf_counter() - begun))
        medians = {name: statistics.median(values) for name, values in rates.items()}
        for name, values in rates.items():
            spread = f"{min(values):,.0f} to {max(values):,.0f}"
            print(f"batch {batch_size:3}  {name:18} {medians[name]:7,.0f} images/s  ({spread})")
        best = max(value for name, value in medians.items() if name != "raycae")
        print(f"batch {batch_size:3}  raycae / best loader: {medians['raycae'] / best:.2f}")


if __name__ == "__main__":
    main()
