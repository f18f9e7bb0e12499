"""Compare training throughput, in images times models per second, of one trial and of fused trials.

    python analysis/benchmarks/yardstick.py [FOLDER] [--images 256] [--repeats 5] [--members 8]

It trains three networks (points of the spaces ex1, ex2-report and ex3-report) with batches of 16,
128 and, on a GPU, 512. All methods get the same minibatches of real images, from FOLDER or else
from the photographs in scikit-image, and compute in full float32. Before timing, each method trains
one epoch, and its loss must equal that of `Training`. Then all methods run interleaved. Medians,
and ratios within a repetition, are printed last, each with its share of the throughput that a large
matrix product and a copy reach in the same run. On a CPU, one thread works and its CPU time counts,
so other work has little effect. On a GPU, wall time counts. The script needs neither Ray nor
Optuna.
"""

from __future__ import annotations

import argparse
import multiprocessing
import platform
import statistics
import sys
import time
import warnings
from collections.abc import Callable
from math import prod
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch
from torch import Tensor, nn
from torch.func import functional_call, grad_and_value, stack_module_state, vmap
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset, TensorDataset

from raycae import data
from raycae.config import Config, resolve
from raycae.model import autoencoder
from raycae.model.architecture import build_architecture
from raycae.model.autoencoder import Autoencoder
from raycae.model.color import rgb_to_ycbcr
from raycae.model.tasks import Task, make_task
from raycae.provenance import describe_hardware
from raycae.training.device import configure_torch, put_on_device
from raycae.training.fused import FusedTrainings, replicate_network
from raycae.training.minibatches import draw_minibatches
from raycae.training.trainer import Training

NETWORKS: dict[str, dict[str, Any]] = {
    "ex1-base": {},
    "ex2-latent-x4": {"latent_channels": 64},
    "ex3-custom": {
        "task": "colourise",
        "channels": [16, 32],
        "convs": [3, 2],
        "downsample": "stride",
        "latent_channels": 0,
        "decoder_convs": 2,
        "decoder_kind": "transposed",
        "decoder_channels": [[32, 16], [8]],
        "lr": 1e-4,
    },
}
PROCESSES = 2
EPOCHS = 1000

Epoch = Callable[[int], float]
"""Trains the epoch of that number; its mean loss, of the first model where there are many."""


class Pictures(Dataset[tuple[Tensor, Tensor]]):
    """As torchvision's CIFAR10 with `transform=ToTensor()`, and input and target made of it."""

    def __init__(self, images: np.ndarray, of: Task) -> None:
        from torchvision.transforms import ToTensor

        self.images, self.task, self.transform = images, of, ToTensor()

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        from PIL import Image

        rgb: Tensor = self.transform(Image.fromarray(self.images[index]))
        if self.task.name == "reconstruct":
            return rgb, rgb
        return self.task.prepare_input(rgb[None])[0], rgb_to_ycbcr(rgb[None])[0, 1:]


class Bench:
    """One network with one batch size on these images."""

    def __init__(self, config: Config, images: np.ndarray, device: torch.device) -> None:
        self.config, self.images, self.device = config, images, device
        self.task = make_task(config.task, config.gammas)
        self.train = put_on_device(images, device)
        self.val = TensorDataset(*(t[:16] for t in self.train.tensors))

    def plain(self, seed: int = 0) -> Autoencoder:
        """The network as torch's modules give it, in torch's order of memory, with the weights
        that raycae's begins with."""
        net = build_architecture(self.config)
        with mock.patch.object(autoencoder, "get_upsampling_factor", return_value=0):
            network = autoencoder.build_network(net, seed=seed)
        network.load_state_dict(autoencoder.build_network(net, seed=seed).state_dict())
        return network.to(self.device)

    def training(self, seed: int = 0) -> Training:
        return Training(self.config, self.train, self.val, epochs=EPOCHS, seed=seed)

    def rows(self, epoch: int, device: torch.device) -> list[Tensor]:
        order = {"seed": 0, "epoch": epoch, "device": device}
        return list(draw_minibatches(len(self.images), self.config.batch_size, **order))

    def loader(self, workers: int) -> Epoch:
        """(a) The tutorials' loop."""
        network, pictures = self.plain(), Pictures(self.images, self.task)
        optimizer = torch.optim.Adam(network.parameters(), lr=self.config.lr)

        def epoch(number: int) -> float:
            total = 0.0
            order = [rows.tolist() for rows in self.rows(number, torch.device("cpu"))]
            for x, y in DataLoader(pictures, batch_sampler=order, num_workers=workers):
                loss = F.mse_loss(network(x.to(self.device)), y.to(self.device))
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                total += loss.item() * len(x)
            return total / len(self.images)

        return epoch

    def eager(self) -> Epoch:
        """(b) The same loop, images on the device."""
        network = self.plain()
        optimizer = torch.optim.Adam(network.parameters(), lr=self.config.lr)

        def step(x: Tensor, y: Tensor) -> Tensor:
            loss = F.mse_loss(network(x), y)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            return loss.detach()

        return self._over(step)

    def alone(self) -> Epoch:
        """(c) raycae, one trial."""
        training = self.training()

        def epoch(number: int) -> float:
            training.epoch = number
            return training._train()

        return epoch

    def fused(self, m: int) -> Epoch:
        """(d) raycae, a fused group; with one member, a single trial."""
        cohort = FusedTrainings([self.training(seed) for seed in range(m)])

        def epoch(number: int) -> float:
            for member in cohort.members:
                member.epoch = number
            return cohort._train()[0]

        return epoch

    def vmapped(self, m: int) -> Epoch:
        """(e) `torch.func`: one model's loss, mapped over stacked weights."""
        networks = [self.plain(seed) for seed in range(m)]
        stacked, _ = stack_module_state(list[nn.Module](networks))
        weights = {name: w.detach().requires_grad_() for name, w in stacked.items()}
        optimizer = torch.optim.Adam(weights.values(), lr=self.config.lr)

        def loss(weights: dict[str, Tensor], x: Tensor, y: Tensor) -> Tensor:
            return F.mse_loss(functional_call(networks[0], weights, (x,)), y)

        gradients = vmap(grad_and_value(loss), (0, None, None))

        def step(x: Tensor, y: Tensor) -> Tensor:
            detached = {name: w.detach() for name, w in weights.items()}
            of_each, losses = gradients(detached, x, y)
            for name, weight in weights.items():
                weight.grad = of_each[name]
            optimizer.step()
            return losses[0].detach()

        return self._over(step)

    def grouped(self, m: int) -> Epoch:
        """(f) HFTA: grouped convolutions over M copies of the minibatch."""
        wide = replicate_network(self.plain(), m)
        for own, same in zip(
            zip(*(self.plain(seed).parameters() for seed in range(m)), strict=True),
            wide.parameters(),
            strict=True,
        ):
            same.data.copy_(torch.cat(own))
        wide.encoder[0].conv.groups = m  # type: ignore[union-attr]
        optimizer = torch.optim.Adam(wide.parameters(), lr=self.config.lr)

        def step(x: Tensor, y: Tensor) -> Tensor:
            apart = wide(x.repeat(1, m, 1, 1)) - y.repeat(1, m, 1, 1)
            losses = apart.square().unflatten(1, (m, -1)).mean(dim=(0, 2, 3, 4))
            optimizer.zero_grad()
            losses.sum().backward()
            optimizer.step()
            return losses[0].detach()

        return self._over(step)

    def _over(self, step: Callable[[Tensor, Tensor], Tensor]) -> Epoch:
        (images,) = self.train.tensors

        def epoch(number: int) -> float:
            total = torch.zeros((), device=self.device)
            for rows in self.rows(number, self.device):
                x, y = self.task.batch(images[rows])
                total += step(x.contiguous(), y.contiguous()) * len(rows)
            return float(total) / len(self.images)

        return epoch


class Processes:
    """(g) Several trials on one device, each in its own process."""

    def __init__(self, bench: Bench) -> None:
        context = multiprocessing.get_context("spawn")
        given = bench.config.to_json(), bench.images, bench.device
        self.ends, self.children = [], []
        for _ in range(PROCESSES):
            end, other = context.Pipe()
            child = context.Process(target=_child, args=(other, *given), daemon=True)
            child.start()
            self.ends.append(end)
            self.children.append(child)

    def epoch(self, number: int) -> tuple[float, float]:
        """The first one's loss, and the seconds that all together had of a core."""
        for end in self.ends:
            end.send(number)
        said = [end.recv() for end in self.ends]
        return said[0][0], sum(seconds for _, seconds in said)

    def close(self) -> None:
        for end, child in zip(self.ends, self.children, strict=True):
            end.send(None)
            child.join()


def _child(end: Connection, config: str, images: np.ndarray, device: torch.device) -> None:
    configure_torch(1)
    epoch = Bench(Config.model_validate_json(config), images, device).alone()
    while (number := end.recv()) is not None:
        begun = time.process_time()
        end.send((epoch(number), time.process_time() - begun))


def clock(device: torch.device) -> float:
    if device.type == "cpu":
        return time.process_time()
    torch.cuda.synchronize()
    return time.perf_counter()


def limits(device: torch.device) -> dict[str, float]:
    """Measure the limits of this device.

    Returns:
        FLOP/s of a large matrix product, bytes/s of a copy (read and written), and the seconds of a
        launch that does almost nothing.
    """
    side = 2048 if device.type == "cpu" else 8192
    a, b = (torch.randn(side, side, device=device) for _ in range(2))
    from_, to = (torch.empty(64 * 2**20, device=device) for _ in range(2))
    one = torch.zeros(1, device=device)

    def seconds(call: Callable[[], object], times: int) -> float:
        call()
        begun = clock(device)
        for _ in range(times):
            call()
        return (clock(device) - begun) / times

    return {
        "flops": 2 * side**3 / seconds(lambda: a @ b, 3),
        "bytes": 8 * from_.numel() / seconds(lambda: to.copy_(from_), 3),
        "launch_s": seconds(lambda: one.zero_(), 1000),
    }


def measured(
    bench: Bench, members: list[int], repeats: int
) -> dict[str, tuple[list[float], list[float]]]:
    """Measure images times models per second of each method, and ratios to (b), by repetition."""
    cuda = bench.device.type == "cuda"
    ways: dict[str, tuple[int, Epoch]] = {"b eager": (1, bench.eager())}
    for workers in (0, 4) if cuda else (0,):
        try:
            ways[f"a loader, {workers} workers"] = (1, bench.loader(workers))
        except ImportError as missing:
            print(f"a: {missing}")
    ways["c raycae, one"] = (1, bench.alone())
    ways["d raycae, fused 1"] = (1, bench.fused(1))
    for m in members:
        ways[f"d raycae, fused {m}"] = (m, bench.fused(m))
        ways[f"e vmap {m}"] = (m, bench.vmapped(m))
        ways[f"f HFTA {m}"] = (m, bench.grouped(m))
    several = Processes(bench)
    losses = {name: epoch(1) for name, (_, epoch) in ways.items()}
    losses["g processes"] = several.epoch(1)[0]
    for name, loss in losses.items():
        if abs(loss / losses["c raycae, one"] - 1) > 1e-3:
            sys.exit(f"{name}: loss {loss}, and raycae's {losses['c raycae, one']}")
    rates: dict[str, list[float]] = {name: [] for name in losses}
    for repeat in range(repeats):
        for name, (m, epoch) in ways.items():
            begun = clock(bench.device)
            epoch(2 + repeat)
            rates[name].append(m * len(bench.images) / (clock(bench.device) - begun))
        begun = clock(bench.device)
        _, of_cores = several.epoch(2 + repeat)
        seconds = clock(bench.device) - begun if cuda else of_cores
        rates["g processes"].append(PROCESSES * len(bench.images) / seconds)
    several.close()
    eager = rates["b eager"]
    return {
        name: (of, [rate / other for rate, other in zip(of, eager, strict=True)])
        for name, of in sorted(rates.items())
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", nargs="?", default="photos")
    parser.add_argument("--images", type=int)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--networks", nargs="+", choices=NETWORKS, default=list(NETWORKS))
    parser.add_argument("--batches", type=int, nargs="+")
    parser.add_argument("--members", type=int, nargs="+")
    arguments = parser.parse_args()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    cuda = device.type == "cuda"
    configure_torch(1)
    warnings.filterwarnings("ignore", message="There is a performance drop", category=UserWarning)
    n = arguments.images or (8192 if cuda else 256)
    batches = arguments.batches or ([16, 128, 512] if cuda else [16, 128])
    members = arguments.members or ([8, 32, 128] if cuda else [8])
    source = arguments.folder
    if source not in data.NAMED_SOURCES:
        source = str(Path(source).resolve())
    images = data.load(source).train
    images = images[np.arange(n) % len(images)]

    rows = []
    limit = limits(device)
    for network in arguments.networks:
        for batch_size in batches:
            config = resolve(NETWORKS[network] | {"batch_size": batch_size})
            net = build_architecture(config)
            # Backward is twice the forward; each map is written and read by either.
            flops = 3 * net.flops
            moved = 4 * 4 * sum(prod(layer.out_shape) for layer in net.layers)
            bench = Bench(config, images, device)
            for name, (rates, ratios) in measured(bench, members, arguments.repeats).items():
                rate = statistics.median(rates)
                rows.append(
                    f"| {network} | {batch_size} | {name} | {rate:,.0f} "
                    f"({min(rates):,.0f} to {max(rates):,.0f}) | {statistics.median(ratios):.2f} "
                    f"| {rate * flops / limit['flops']:.1%} | {rate * moved / limit['bytes']:.1%} |"
                )
                print(rows[-1], flush=True)
    name = torch.cuda.get_device_name() if cuda else f"{describe_hardware()['cpu']}, one thread"
    print(f"\n{name}; Python {platform.python_version()}, torch {torch.__version__}, {source}")
    print(f"{n:,} images, median of {arguments.repeats} interleaved repetitions (least to most)")
    print(
        f"matrix product {limit['flops'] / 1e9:,.0f} GFLOP/s, copy {limit['bytes'] / 1e9:,.1f} "
        f"GB/s, launch {limit['launch_s'] * 1e6:.1f} µs"
    )
    print("| network | batch | way | images x models a second | / b | of product | of copy |")
    print("|---|---|---|---|---|---|---|", *rows, sep="\n")


if __name__ == "__main__":
    main()
