"""Check fused training on a GPU and measure it, in one run of at most 8 minutes.

    python analysis/benchmarks/gpu_check.py IMAGES.npy OUT.json [--limit-s 460]

IMAGES.npy has images, uint8 (N, 32, 32, 3); `numpy.save` writes it from the `train` of
`raycae.data.load`. The script needs torch, NumPy, pydantic and this checkout, and neither Ray nor
Optuna. Each section prints its result and writes it to OUT.json as soon as it ends. A section that
fails says so, and the others run. On a machine without a GPU all sections run at a small size, so
that the script is ready when a GPU is at hand. It has not run on a GPU yet.
"""

from __future__ import annotations

import argparse
import itertools
import json
import statistics
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils.data import TensorDataset

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from raycae.config import resolve
from raycae.training.device import configure_torch, put_on_device
from raycae.training.fused import FusedTrainings
from raycae.training.trainer import Training

IS_GPU = torch.cuda.is_available()
DEVICE = torch.device("cuda" if IS_GPU else "cpu")
NETWORKS: dict[str, dict[str, Any]] = {
    "base": {},
    "batch norm and averaging": {"norm": "batch", "averaging": 0.99},
    "colourise": {"task": "colourise"},
    "stride, transposed": {"downsample": "stride", "upsample": "transposed"},
    "PCA path, refined": {"linear_path": "pca", "refine": 8, "output": "linear"},
    "bf16": {"precision": "bf16"},
    "tf32": {"precision": "tf32"},
}
"""Settings of the networks whose fused training is compared with separate training."""
LEAST_S = 20
"""Seconds that must be left for a section to begin."""


def synchronize() -> None:
    """Wait for the GPU, if there is one."""
    if IS_GPU:
        torch.cuda.synchronize()


def measure_s(action: Callable[[], object]) -> float:
    """Return the seconds that an action takes on the device."""
    synchronize()
    start = time.perf_counter()
    action()
    synchronize()
    return time.perf_counter() - start


class Check:
    """The sections, on one set of images.

    Args:
        pixels: Images, uint8 (N, 32, 32, 3).
    """

    def __init__(self, pixels: np.ndarray) -> None:
        self.pixels = pixels

    def load(self, n: int) -> TensorDataset:
        """Put n images on the device, repeated if there are fewer."""
        return put_on_device(self.pixels[np.arange(n) % len(self.pixels)], DEVICE)

    def make_members(
        self, m: int, n: int, batch_size: int, *, is_mixed: bool = False, **settings: Any
    ) -> list[Training]:
        """Make m trainings on n images, with mixed optimizers or with equal ones."""
        train, val = self.load(n), self.load(64)
        members = []
        for i in range(m):
            mixed = {
                "optimizer": ("adam", "adamw", "rmsprop", "sgd")[i % 4],
                "lr": 1e-3 / (1 + i % 3),
                "schedule": ("constant", "cosine")[i % 2],
            }
            values = {"batch_size": batch_size, **settings, **(mixed if is_mixed else {})}
            members.append(Training(resolve(values), train, val, epochs=50, seed=i))
        return members

    def compare_with_separate(self) -> dict[str, Any]:
        """Compare fused training with separate training, with a smaller last minibatch."""
        found: dict[str, Any] = {}
        for name, settings in NETWORKS.items():
            n, batch_size = 16 * 10 + 5, 16
            alone, fused = (
                self.make_members(5, n, batch_size, is_mixed=True, **settings) for _ in range(2)
            )
            group = FusedTrainings(fused)
            for _ in range(2):
                separate = [training.run_epoch() for training in alone]
                together = group.run_epoch()
            pairs = list(zip(separate, together, strict=True))
            apart = [
                float((join_weights(a) - join_weights(b)).abs().max())
                for a, b in zip(alone, fused, strict=True)
            ]
            found[name] = {
                "weights apart": max(apart),
                "val_mse apart": max(
                    abs(a["val_mse"] / b["val_mse"] - 1) for a, b in pairs if isinstance(b, dict)
                ),
                "captured": is_captured(group),
            }
        return found

    def find_synchronizations(self) -> dict[str, str]:
        """Find out whether a step waits for the GPU."""
        found: dict[str, str] = {}
        for name in ("base", "colourise", "batch norm and averaging"):
            group = self.train_group(4, 16 * 8, 16, **NETWORKS[name])
            rows, rates = torch.arange(16, device=DEVICE), group.optimizer.plan_rates(4)[0]
            synchronize()
            if IS_GPU:
                torch.cuda.set_sync_debug_mode("error")
            try:
                group._step(rows, rates)
                found[name] = "none"
            except RuntimeError as error:
                found[name] = repr(error)[:300]
            finally:
                if IS_GPU:
                    torch.cuda.set_sync_debug_mode("default")
        return found

    def isolate_nan(self) -> dict[str, Any]:
        """Find out whether members change when the weights of another one are not numbers."""
        whole, broken = self.make_members(4, 160, 16), self.make_members(4, 160, 16)
        with torch.no_grad():
            next(broken[2].model.parameters()).fill_(float("nan"))
        for members in (whole, broken):
            FusedTrainings(members).run_epoch()
        others = [i for i in range(4) if i != 2]
        return {
            "others equal": [
                torch.equal(join_weights(whole[i]), join_weights(broken[i])) for i in others
            ]
        }

    def repeat(self) -> dict[str, float]:
        """Train the same group twice and compare the weights."""
        runs = []
        for _ in range(2):
            members = self.make_members(8, 320, 16)
            FusedTrainings(members).run_epoch()
            runs.append(torch.stack([join_weights(member) for member in members]))
        return {"weights apart": float((runs[0] - runs[1]).abs().max())}

    def measure_speed(self) -> list[dict[str, Any]]:
        """Measure model-images a second over group size, batch size, memory order and benchmark."""
        orders = [("channels last", False), ("channels first", False)]
        if IS_GPU:
            orders = [("channels last", False), ("channels last", True), ("channels first", True)]
        rows = []
        for batch_size, m in itertools.product(
            *(((16, 128), (1, 8, 32, 128)) if IS_GPU else ((16,), (1, 4)))
        ):
            for order, benchmark in orders:
                torch.backends.cudnn.benchmark = benchmark
                shape = {"batch": batch_size, "m": m, "order": order, "benchmark": benchmark}
                try:
                    rows.append(shape | self.measure_group(m, batch_size, order))
                except RuntimeError as error:  # memory, mostly
                    rows.append(shape | {"failed": repr(error)[:200]})
        torch.backends.cudnn.benchmark = False
        return rows

    def measure_group(self, m: int, batch_size: int, order: str) -> dict[str, Any]:
        """Measure the parts of an epoch of one group."""
        if IS_GPU:
            torch.cuda.reset_peak_memory_stats()
        n = batch_size * (40 if IS_GPU else 4)
        group = FusedTrainings(self.make_members(m, n, batch_size))
        if order == "channels first":
            group.network.to(memory_format=torch.contiguous_format)
            group.members[0].task = ChannelsFirst(group.members[0].task)  # type: ignore[assignment]

        def train() -> None:
            for member in group.members:
                member.epoch += 1
            group._train()

        first_s = measure_s(train)
        epoch_s = statistics.median(measure_s(train) for _ in range(5 if IS_GPU else 2))
        return {
            "model-images/s": round(m * n / epoch_s),
            "first epoch s": round(first_s, 3),
            "write back ms": round(1e3 * measure_s(group._write_back), 1),
            "states ms": round(1e3 * measure_s(lambda: [x.state() for x in group.members]), 1),
            "validation ms": round(1e3 * measure_s(group._validate), 1),
            "peak MB": round(torch.cuda.max_memory_allocated() / 1e6) if IS_GPU else None,
        }

    def profile_step(self) -> dict[str, Any]:
        """List the kernels of a captured step; on a CPU, the operations of a step."""
        from torch.profiler import ProfilerActivity, profile

        kind = ProfilerActivity.CUDA if IS_GPU else ProfilerActivity.CPU
        found: dict[str, Any] = {}
        for m, batch_size in ((1, 16), (32, 16), (128, 128)) if IS_GPU else ((1, 16),):
            group = self.train_group(m, batch_size * 8, batch_size)
            rows, rates = torch.arange(batch_size, device=DEVICE), group.optimizer.plan_rates(1)[0]
            synchronize()
            with profile(activities=[kind]) as profiled:
                if group.replay and group.replay.graph:
                    group.replay.graph.replay()
                else:
                    group._step(rows, rates)
                synchronize()
            name = "self_device_time_total" if IS_GPU else "self_cpu_time_total"
            kernels = [
                (event.key[:70], event.count, round(getattr(event, name), 1))
                for event in profiled.key_averages()
            ]
            kernels.sort(key=lambda kernel: -kernel[2])
            found[f"m {m}, batch {batch_size}"] = {
                "kernels": sum(count for _, count, _ in kernels),
                "us": round(sum(us for _, _, us in kernels), 1),
                "longest": kernels[:14],
            }
        return found

    def compare_convolutions(self) -> list[dict[str, Any]]:
        """Time the layers of m networks as grouped convolutions and as batched matrix products."""
        m = 32 if IS_GPU else 2
        shapes = ((8, 12, 16), (12, 16, 8), (16, 12, 16), (12, 3, 32))
        ways: list[tuple[str, torch.dtype, bool]] = [
            ("grouped, channels last", torch.float32, False),
            ("grouped, channels first", torch.float32, False),
            ("grouped, channels last", torch.float32, True),
            ("grouped, channels last", torch.bfloat16, False),
            ("batched products", torch.float32, True),
            ("batched products", torch.bfloat16, False),
        ]
        rows = []
        torch.backends.cudnn.benchmark = True
        for (n_in, n_out, side), (way, dtype, tf32) in itertools.product(shapes, ways):
            torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = tf32
            row = {"in": n_in, "out": n_out, "side": side, "way": way, "tf32": tf32}
            row["type"] = str(dtype).removeprefix("torch.")
            try:
                seconds = time_convolution(m, n_in, n_out, side, way, dtype)
                flops = 3 * 2 * 16 * m * n_in * n_out * 9 * side * side
                row |= {"us": round(1e6 * seconds), "TFLOP/s": round(flops / seconds / 1e12, 3)}
            except RuntimeError as error:
                row["failed"] = repr(error)[:200]
            rows.append(row)
        torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False
        torch.backends.cudnn.benchmark = False
        return rows

    def train_group(self, m: int, n: int, batch_size: int, **settings: Any) -> FusedTrainings:
        """Make a group and train it for one epoch without validation."""
        group = FusedTrainings(self.make_members(m, n, batch_size, **settings))
        for member in group.members:
            member.epoch += 1
        group._train()
        return group


class ChannelsFirst:
    """A task whose batches have the channels before height and width.

    Args:
        task: The task.
    """

    def __init__(self, task: Any) -> None:
        self._task = task

    def __getattr__(self, name: str) -> Any:
        return getattr(self._task, name)

    def batch(self, *rows: Tensor) -> tuple[Tensor, ...]:
        """Return input and target."""
        return tuple(tensor.contiguous() for tensor in self._task.batch(*rows))


def time_convolution(
    m: int, n_in: int, n_out: int, side: int, way: str, dtype: torch.dtype
) -> float:
    """Return the seconds of a 3 x 3 convolution of 16 images for m networks, with gradients."""
    n = 16
    x = torch.randn(n, m * n_in, side, side, device=DEVICE, dtype=dtype)
    w = torch.randn(m * n_out, n_in, 3, 3, device=DEVICE, dtype=dtype, requires_grad=True)
    if way == "grouped, channels last":
        x = x.to(memory_format=torch.channels_last)
    x.requires_grad_()

    def run() -> None:
        if way == "batched products":
            patches = F.unfold(x.view(n * m, n_in, side, side), 3, padding=1)
            columns = patches.view(n, m, n_in * 9, side * side).permute(1, 2, 0, 3)
            columns = columns.reshape(m, n_in * 9, n * side * side)
            y = torch.bmm(w.view(m, n_out, n_in * 9), columns)
        else:
            y = F.conv2d(x, w, padding=1, groups=m)
        torch.autograd.grad(y, (x, w), torch.ones_like(y))

    repeats = 20 if IS_GPU else 1
    for _ in range(3):
        run()
    return measure_s(lambda: [run() for _ in range(repeats)]) / repeats


def join_weights(training: Training) -> Tensor:
    """Return all weights of a training as one vector."""
    return torch.cat([p.detach().flatten() for p in training.model.parameters()])


def is_captured(group: FusedTrainings) -> bool:
    """Return whether the step of a group was captured as a CUDA graph."""
    return bool(group.replay and group.replay.graph)


SECTIONS: dict[str, Callable[[Check], Any]] = {
    "fused against separate training": Check.compare_with_separate,
    "synchronizations within a step": Check.find_synchronizations,
    "members beside one that is not a number": Check.isolate_nan,
    "the same run twice": Check.repeat,
    "speed of a group": Check.measure_speed,
    "kernels of a step": Check.profile_step,
    "convolutions": Check.compare_convolutions,
}


def run_section(name: str, check: Check) -> Any:
    """Run a section; a fault is its result."""
    try:
        return SECTIONS[name](check)
    except Exception as error:
        return {"failed": repr(error)[:500], "where": traceback.format_exc()[-1500:]}


def main() -> None:
    """Run all sections and write their results."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("images", type=Path)
    parser.add_argument("output", type=Path)
    parser.add_argument("--limit-s", type=float, default=460)
    options = parser.parse_args()
    begun = time.perf_counter()
    configure_torch(1)
    check = Check(np.load(options.images))
    device = torch.cuda.get_device_name() if IS_GPU else "cpu"
    found: dict[str, Any] = {"torch": torch.__version__, "device": device}
    print(json.dumps(found))
    for name in SECTIONS:
        if time.perf_counter() - begun > options.limit_s - LEAST_S:
            found[name] = "left out: time"
        else:
            found[name] = run_section(name, check)
        shown = json.dumps(found[name])
        print(f"[{time.perf_counter() - begun:6.1f} s] {name}: {shown}", flush=True)
        options.output.write_text(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
