"""Check fused training on a GPU and measure it, in one run of at most 8 minutes.

    python analysis/benchmarks/gpu_check.py [IMAGES.npy] [OUT.json] [--size full] [--seconds 460]

It compares fused training with separate training for seven kinds of networks, looks for waits for
the GPU within a step, for effects of a member with NaN on the others and for differences between
equal runs. Then it measures model-images per second, lists the kernels of a step, and times the
layers as grouped convolutions and as batched matrix products.

IMAGES.npy has square images, uint8 (N, H, W, 3): `raycae.data.load(...).train`, written by
`numpy.save`. Without it, the images are random. An error is printed and the remaining cases run;
the exit code is then 1. After 460 s (`--seconds`), the remaining cases are left out. Each section
prints a Markdown table for analysis/FINDINGS.md, and OUT.json has all rows.

The script needs torch, NumPy, pydantic and this checkout, and neither Ray nor Optuna. Without a GPU
it runs at the size `small`, so that it is ready when a GPU is at hand. Times of the size `small`
mean nothing. The parts for CUDA have never run.
"""

from __future__ import annotations

import argparse
import itertools
import json
import platform
import statistics
import sys
import time
import traceback
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils.data import TensorDataset

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from raycae.config import resolve
from raycae.provenance import describe_hardware, get_commit
from raycae.training.device import allow_tf32, configure_torch, put_on_device
from raycae.training.fused import WARM_STEPS, FusedTrainings, Replay, view_by_member
from raycae.training.trainer import Diverged, Training

Row = dict[str, Any]
"""One row of a table: values by column."""

NETWORKS: dict[str, dict[str, Any]] = {
    "base": {},
    "batch norm, average": {"norm": "batch", "averaging": 0.99},
    "colourise": {"task": "colourise"},
    "stride, transposed": {"downsample": "stride", "upsample": "transposed"},
    "PCA path, refined": {"linear_path": "pca", "refine": 8, "output": "linear"},
    "bf16": {"precision": "bf16"},
    "tf32": {"precision": "tf32"},
}
"""Settings of the networks that are compared."""

OPTIMIZERS = ("adam", "adamw", "rmsprop", "sgd")
"""Optimizers of the members, in turn."""

LAYERS = ((8, 12, 16), (12, 16, 8), (16, 12, 16), (12, 3, 32))
"""Input channels, output channels and side in pixels of the timed convolutions of 3 x 3."""

METHODS = (
    ("grouped", "channels_last", "float32", False),
    ("grouped", "contiguous", "float32", False),
    ("grouped", "channels_last", "float32", True),
    ("grouped", "channels_last", "bfloat16", False),
    ("batched products", "contiguous", "float32", False),
    ("batched products", "contiguous", "float32", True),
    ("batched products", "contiguous", "bfloat16", False),
)
"""Method, memory format, number type and whether TF32 is allowed, for each timed convolution."""

LAYER_BATCH = 16
"""Number of images of a timed convolution."""

NEEDS_CUDA = "not measured: needs CUDA"
"""Result of a case that has no meaning on a CPU."""


@dataclass(frozen=True)
class Size:
    """How much is computed.

    Args:
        side: Side of random images in pixels.
        n_members: Size of the compared groups.
        n_steps: Number of full minibatches of an epoch of a compared group.
        n_val: Number of validation images; more than a batch, so that validation is captured.
        n_timed_steps: Number of minibatches of a timed epoch.
        repeats: Number of timed epochs.
        batch_sizes: Batch sizes of the timed groups.
        group_sizes: Sizes of the timed groups.
        profiled: Group size and batch size of each profiled step.
        layer_members: Number of networks whose layers are timed together.
        layer_repeats: Number of timed passes through a layer.
    """

    side: int
    n_members: int
    n_steps: int
    n_val: int
    n_timed_steps: int
    repeats: int
    batch_sizes: tuple[int, ...]
    group_sizes: tuple[int, ...]
    profiled: tuple[tuple[int, int], ...]
    layer_members: int
    layer_repeats: int


SIZES = {
    "small": Size(16, 4, 2, 64, 2, 1, (16,), (1, 4), ((4, 16),), 2, 1),
    "full": Size(
        32, 5, 10, 2048, 40, 5, (16, 128), (1, 8, 32, 128), ((1, 16), (32, 16), (128, 128)), 32, 20
    ),
}


class ContiguousTask:
    """A task whose minibatches are contiguous instead of `channels_last`.

    Args:
        task: The task.
    """

    def __init__(self, task: Any) -> None:
        self.task = task

    def __getattr__(self, name: str) -> Any:
        return getattr(self.task, name)

    def batch(self, *images: Tensor) -> tuple[Tensor, ...]:
        """Return input and target of a minibatch."""
        return tuple(part.contiguous() for part in self.task.batch(*images))


class Check:
    """The measurements.

    Args:
        images: Training images, uint8 (N, H, H, 3); repeated where there are too few.
        size: How much is computed.
        device: Where it is computed.
        end_time: `time.perf_counter()` after which no case begins.
    """

    def __init__(
        self, images: np.ndarray, size: Size, device: torch.device, end_time: float
    ) -> None:
        self.images, self.size, self.device, self.end_time = images, size, device, end_time
        self.is_cuda = device.type == "cuda"

    def synchronize(self) -> None:
        """Wait for the GPU, if there is one."""
        if self.is_cuda:
            torch.cuda.synchronize()

    def measure_s(self, action: Callable[[], object]) -> float:
        """Measure the seconds that an action takes on the device."""
        self.synchronize()
        start = time.perf_counter()
        action()
        self.synchronize()
        return time.perf_counter() - start

    def measure_cases(self, cases: Iterable[Row], measure: Callable[..., Row]) -> list[Row]:
        """Measure each case; an error is the result of its case.

        Args:
            cases: Keyword arguments of `measure`.
            measure: Measures a case and returns columns.

        Returns:
            The cases with their results. A column `failed` or `left out` has the reason.
        """
        rows = []
        for case in cases:
            if time.perf_counter() > self.end_time:
                rows.append(case | {"left out": "no time left"})
                continue
            try:
                result = measure(**case)
                self.synchronize()
            except Exception as error:
                traceback.print_exc()
                result = {"failed": f"{type(error).__name__}: {error}"[:300]}
            rows.append(case | result)
        return rows

    def load(self, n: int) -> TensorDataset:
        """Put n images on the device."""
        return put_on_device(self.images[np.arange(n) % len(self.images)], self.device)

    def make_members(
        self, m: int, n: int, batch_size: int, *, is_mixed: bool = False, **settings: Any
    ) -> list[Training]:
        """Make trainings that can be fused.

        Args:
            m: Number of trainings.
            n: Number of training images.
            batch_size: Batch size.
            is_mixed: Whether optimizer, learning rate and schedule differ.
            settings: More settings of all of them.

        Returns:
            The trainings.
        """
        train, val = self.load(n), self.load(self.size.n_val)
        common = {"batch_size": batch_size, "image_size": self.images.shape[1], **settings}
        members = []
        for i in range(m):
            mixed = {
                "optimizer": OPTIMIZERS[i % 4],
                "lr": 1e-3 / (1 + i % 3),
                "schedule": ("constant", "cosine")[i % 2],
            }
            config = resolve(common | (mixed if is_mixed else {}))
            members.append(Training(config, train, val, epochs=50, seed=i))
        return members

    def train_group(self, m: int, batch_size: int, **settings: Any) -> FusedTrainings:
        """Make a group and train eight steps, after which a step is captured on CUDA."""
        group = FusedTrainings(self.make_members(m, 8 * batch_size, batch_size, **settings))
        train_epoch(group)
        self.synchronize()
        return group

    def compare_fused(self) -> list[Row]:
        """Compare fused training with separate training, with a smaller last minibatch."""

        def measure(network: str) -> Row:
            n, settings = 16 * self.size.n_steps + 5, NETWORKS[network]
            alone, fused = (
                self.make_members(self.size.n_members, n, 16, is_mixed=True, **settings)
                for _ in range(2)
            )
            group = FusedTrainings(fused)
            for _ in range(2):
                expected, found = [training.run_epoch() for training in alone], group.run_epoch()
            for result in found:
                if isinstance(result, Diverged):
                    raise result
            errors = zip(expected, found, strict=True)
            pairs = zip(map(join_weights, alone), map(join_weights, fused), strict=True)
            return {
                "weights, difference": max(float((a - b).abs().max()) for a, b in pairs),
                "val_mse, relative difference": max(
                    abs(b["val_mse"] / a["val_mse"] - 1) for a, b in errors
                ),
                "step captured": is_captured(group.replay),
                "validation captured": is_captured(group.validation_replay),
            }

        return self.measure_cases([{"network": name} for name in NETWORKS], measure)

    def find_host_syncs(self) -> list[Row]:
        """Find out whether a step waits for the GPU, with torch's sync debug mode."""

        def measure(network: str) -> Row:
            if not self.is_cuda:
                return {"wait": NEEDS_CUDA}
            group = self.train_group(4, 16, **NETWORKS[network])
            rows, rates = torch.arange(16, device=self.device), group.optimizer.plan_rates(4)[0]
            self.synchronize()
            torch.cuda.set_sync_debug_mode("error")
            try:
                group._step(rows, rates)
            except RuntimeError as error:
                return {"wait": f"{error}"[:300]}
            finally:
                torch.cuda.set_sync_debug_mode("default")
            return {"wait": "none"}

        names = ("base", "colourise", "batch norm, average")
        return self.measure_cases([{"network": name} for name in names], measure)

    def isolate_nan(self) -> list[Row]:
        """Compare the neighbours of a member with NaN with those of the same member without."""

        def measure(network: str) -> Row:
            n, settings = 16 * self.size.n_steps, NETWORKS[network]
            sound, broken = (self.make_members(4, n, 16, **settings) for _ in range(2))
            with torch.no_grad():
                next(broken[2].model.parameters()).fill_(float("nan"))
            FusedTrainings(sound).run_epoch()
            results = FusedTrainings(broken).run_epoch()
            return {
                "others equal to the bit": all(
                    torch.equal(join_weights(sound[i]), join_weights(broken[i])) for i in (0, 1, 3)
                ),
                "reported as diverged": isinstance(results[2], Diverged),
            }

        names = ("base", "batch norm, average")
        return self.measure_cases([{"network": name} for name in names], measure)

    def compare_runs(self) -> list[Row]:
        """Train the same group twice."""

        def measure(network: str) -> Row:
            runs = []
            for _ in range(2):
                members = self.make_members(8, 32 * self.size.n_steps, 16, **NETWORKS[network])
                FusedTrainings(members).run_epoch()
                runs.append(torch.stack([join_weights(member) for member in members]))
            return {
                "equal to the bit": torch.equal(*runs),
                "weights, difference": float((runs[0] - runs[1]).abs().max()),
            }

        return self.measure_cases([{"network": "base"}], measure)

    def measure_speed(self) -> list[Row]:
        """Measure the parts of an epoch over batch size, group size, memory format and search."""
        formats: list[tuple[str, bool]] = [("channels_last", False), ("contiguous", False)]
        if self.is_cuda:
            formats = [("channels_last", False), ("channels_last", True), ("contiguous", True)]
        cases = [
            {"batch": batch, "members": m, "format": memory_format, "cudnn.benchmark": benchmark}
            for batch, m, (memory_format, benchmark) in itertools.product(
                self.size.batch_sizes, self.size.group_sizes, formats
            )
        ]

        def measure(**case: Any) -> Row:
            torch.backends.cudnn.benchmark = case["cudnn.benchmark"]
            try:
                return self.measure_epoch(case["batch"], case["members"], case["format"])
            finally:
                torch.backends.cudnn.benchmark = False

        return self.measure_cases(cases, measure)

    def measure_epoch(self, batch_size: int, m: int, memory_format: str) -> Row:
        """Measure the parts of an epoch of a fused group.

        Args:
            batch_size: Batch size.
            m: Size of the group.
            memory_format: `channels_last` or `contiguous`.

        Returns:
            Columns. `train_mse` is the mean of the members' errors in the first epoch; it does not
            depend on the memory format, except for rounding.
        """
        if self.is_cuda:
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()
        n = batch_size * self.size.n_timed_steps
        group = FusedTrainings(self.make_members(m, n, batch_size))
        if memory_format == "contiguous":
            group.network.to(memory_format=torch.contiguous_format)
            group.wide = view_by_member(group.network, m)  # The views of the old tensors, if moved.
            group.values.copy_to(group.wide)
            group.members[0].task = ContiguousTask(group.members[0].task)  # type: ignore[assignment]
        errors: list[float] = []
        first_s = self.measure_s(lambda: errors.extend(train_epoch(group)))
        epochs_s = [self.measure_s(lambda: train_epoch(group)) for _ in range(self.size.repeats)]
        for _ in range(WARM_STEPS + 1):
            group._validate()
        return {
            "train_mse": statistics.fmean(errors),
            "model-images/s": round(m * n / statistics.median(epochs_s)),
            "least": round(m * n / max(epochs_s)),
            "most": round(m * n / min(epochs_s)),
            "first epoch, s": first_s,
            "write back, ms": 1e3 * self.measure_s(group._write_back),
            "states, ms": 1e3 * self.measure_s(lambda: [x.state() for x in group.members]),
            "validation, ms": 1e3 * self.measure_s(group._validate),
            "peak, MB": round(torch.cuda.max_memory_allocated() / 1e6) if self.is_cuda else None,
        }

    def profile_steps(self) -> list[Row]:
        """List the kernels of a captured step, or on a CPU the operations of a step."""
        from torch.profiler import ProfilerActivity, profile

        activity = ProfilerActivity.CUDA if self.is_cuda else ProfilerActivity.CPU

        def measure(members: int, batch: int) -> Row:
            group = self.train_group(members, batch)
            rows = torch.arange(batch, device=self.device)
            rates = group.optimizer.plan_rates(1)[0]
            graph = group.replay.graph if group.replay else None
            self.synchronize()
            with profile(activities=[activity]) as profiled:
                if graph is None:
                    group._step(rows, rates)
                else:
                    graph.replay()
                self.synchronize()
            column = "self_device_time_total" if self.is_cuda else "self_cpu_time_total"
            events = [(getattr(e, column), e.count, e.key) for e in profiled.key_averages()]
            events.sort(reverse=True)
            return {
                "captured": graph is not None,
                "kernels" if self.is_cuda else "operations": sum(n for _, n, _ in events),
                "total, us": round(sum(us for us, _, _ in events)),
                "longest": "; ".join(f"{key[:50]} {n}x {us:.0f} us" for us, n, key in events[:12]),
            }

        cases = [{"members": m, "batch": batch} for m, batch in self.size.profiled]
        return self.measure_cases(cases, measure)

    def compare_convolutions(self) -> list[Row]:
        """Time layers of many networks, forward and backward, in different ways."""
        columns = ("in", "out", "side", "method", "format", "type", "tf32")
        cases = [
            dict(zip(columns, (*layer, *method), strict=True))
            for layer, method in itertools.product(LAYERS, METHODS)
        ]

        def measure(**case: Any) -> Row:
            allow_tf32(case["tf32"])
            torch.backends.cudnn.benchmark = True
            try:
                return self.time_layer(*list(case.values())[:6])
            finally:
                torch.backends.cudnn.benchmark = False
                allow_tf32(False)

        return self.measure_cases(cases, measure)

    def time_layer(
        self, n_in: int, n_out: int, side: int, method: str, memory_format: str, dtype: str
    ) -> Row:
        """Time a convolution of 3 x 3 of all networks, forward and backward.

        Args:
            n_in: Input channels of each network.
            n_out: Output channels of each network.
            side: Side of the feature maps in pixels.
            method: `grouped` or `batched products`.
            memory_format: `channels_last` or `contiguous`.
            dtype: Name of the number type.

        Returns:
            Columns. `difference` is that of the output to float64, relative to its norm.
        """
        m, number_type = self.size.layer_members, getattr(torch, dtype)
        generator = torch.Generator().manual_seed(0)
        exact_x = torch.randn(LAYER_BATCH, m * n_in, side, side, generator=generator)
        exact_w = torch.randn(m * n_out, n_in, 3, 3, generator=generator) / (3 * n_in**0.5)
        x, w = (t.to(self.device, number_type, copy=True) for t in (exact_x, exact_w))
        if memory_format == "channels_last":
            x = x.to(memory_format=torch.channels_last)
        x.requires_grad_()
        w.requires_grad_()
        convolve = convolve_grouped if method == "grouped" else convolve_batched

        def run() -> Tensor:
            y = convolve(x, w, m)
            torch.autograd.grad(y, (x, w), torch.ones_like(y))
            return y.detach()

        exact = convolve_grouped(exact_x.double(), exact_w.double(), m)
        difference = run().cpu().double().reshape(exact.shape) - exact
        for _ in range(2):
            run()
        repeats = self.size.layer_repeats
        us = 1e6 * self.measure_s(lambda: [run() for _ in range(repeats)]) / repeats
        # The gradients of input and weights take as many operations as the output.
        flops = 3 * 2 * LAYER_BATCH * m * n_in * n_out * 9 * side**2
        return {
            "difference": float(difference.norm() / exact.norm()),
            "us": round(us),
            "TFLOP/s": flops / us / 1e6,
        }


def convolve_grouped(x: Tensor, w: Tensor, m: int) -> Tensor:
    """Convolve the inputs of m networks as groups of one convolution.

    Args:
        x: Inputs, float (N, M C, H, W).
        w: Weights, float (M F, C, 3, 3).
        m: Number of networks.

    Returns:
        Outputs, float (N, M F, H, W).
    """
    return F.conv2d(x, w, padding=1, groups=m)


def convolve_batched(x: Tensor, w: Tensor, m: int) -> Tensor:
    """Convolve the inputs of m networks as one batch of matrix products.

    Args:
        x: Inputs, float (N, M C, H, W).
        w: Weights, float (M F, C, 3, 3).
        m: Number of networks.

    Returns:
        Outputs, float (N, M, F, H, W), as a view.
    """
    (n, _, height, width), n_in = x.shape, w.shape[1]
    patches = F.unfold(x.view(n * m, n_in, height, width), 3, padding=1)
    columns = patches.view(n, m, n_in * 9, -1).permute(1, 2, 0, 3).reshape(m, n_in * 9, -1)
    outputs = torch.bmm(w.view(m, -1, n_in * 9), columns)  # (M, F, N H W)
    return outputs.view(m, -1, n, height, width).permute(2, 0, 1, 3, 4)


def train_epoch(group: FusedTrainings) -> list[float]:
    """Train a group for one epoch without validation; return the members' training errors."""
    for member in group.members:
        member.epoch += 1
    return group._train()


def join_weights(training: Training) -> Tensor:
    """Return all weights of a training, float (n,)."""
    return torch.cat([p.detach().flatten() for p in training.model.parameters()])


def is_captured(replay: Replay | None) -> bool:
    """Return whether a step was captured as a CUDA graph."""
    return replay is not None and replay.graph is not None


def make_images(n: int, side: int) -> np.ndarray:
    """Make random images: smooth colours with a little noise.

    Args:
        n: Number of images.
        side: Side in pixels, a multiple of 4.

    Returns:
        The images, uint8 (n, side, side, 3).
    """
    rng = np.random.default_rng(0)
    blocks = rng.uniform(40, 215, (n, 4, 4, 3)).repeat(side // 4, 1).repeat(side // 4, 2)
    smooth = sum(np.roll(blocks, shift, (1, 2)) for shift in range(side // 4)) / (side // 4)
    noisy = smooth + rng.normal(0, 8, blocks.shape)
    return np.asarray(noisy.clip(0, 255), np.uint8)


SECTIONS: dict[str, Callable[[Check], list[Row]]] = {
    "Fused training against separate training": Check.compare_fused,
    "Waits for the GPU within a step": Check.find_host_syncs,
    "Members next to one with NaN": Check.isolate_nan,
    "The same run twice": Check.compare_runs,
    "Speed of a fused group": Check.measure_speed,
    "Kernels of a step": Check.profile_steps,
    "Convolutions of many networks": Check.compare_convolutions,
}
"""The sections by title, in their order."""


def run_section(check: Check, measure: Callable[[Check], list[Row]]) -> list[Row]:
    """Run a section; an error outside its cases is a row, too."""
    try:
        return measure(check)
    except Exception as error:
        traceback.print_exc()
        return [{"failed": f"{type(error).__name__}: {error}"[:300]}]


def format_value(value: object) -> str:
    """Format a value for a cell of a Markdown table."""
    match value:
        case None:
            return ""
        case bool():
            return "yes" if value else "no"
        case int():
            return f"{value:,}"
        case float():
            return f"{value:.3g}"
    return str(value).replace("|", "/").replace("\n", " ")


def format_table(rows: list[Row]) -> str:
    """Format rows as a Markdown table with the columns of all rows."""
    columns = list(dict.fromkeys(column for row in rows for column in row))
    cells = [[format_value(row.get(column)) for column in columns] for row in rows]
    lines = [columns, ["---"] * len(columns), *cells]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def describe_run(device: torch.device, size: str, source: str) -> Row:
    """Describe device, versions and input."""
    name = f"{describe_hardware()['cpu']}, one thread"
    if device.type == "cuda":
        name = f"{torch.cuda.get_device_name()}, CUDA {torch.version.cuda}"
    return {
        "device": f"{device.type} ({name})",
        "python": platform.python_version(),
        "torch": torch.__version__,
        "commit": get_commit(),
        "size": size,
        "images": source,
    }


def main() -> None:
    """Run all sections, print their tables and write their rows."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("images", type=Path, nargs="?", help="images as .npy (default: random)")
    parser.add_argument("output", type=Path, nargs="?", help="write all rows here, as JSON")
    parser.add_argument("--size", choices=SIZES, help="default: full on a GPU, small on a CPU")
    parser.add_argument("--seconds", type=float, default=460, help="begin no case after (460)")
    arguments = parser.parse_args()
    start = time.perf_counter()
    configure_torch(1)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    size = arguments.size or ("full" if device.type == "cuda" else "small")
    images = make_images(256, SIZES[size].side)
    if arguments.images:
        images = np.load(arguments.images)
    check = Check(images, SIZES[size], device, start + arguments.seconds)
    facts = describe_run(device, size, str(arguments.images or "random"))
    print("\n".join(f"{name}: {value}" for name, value in facts.items()), flush=True)
    sections: dict[str, list[Row]] = {}
    for title, measure in SECTIONS.items():
        sections[title] = run_section(check, measure)
        print(f"\n{title} (ended after {time.perf_counter() - start:.0f} s)\n")
        print(format_table(sections[title]), flush=True)
        if arguments.output:
            arguments.output.write_text(json.dumps({**facts, "sections": sections}, indent=1))
    failed = sum("failed" in row for rows in sections.values() for row in rows)
    print(f"\nfailed: {failed} of {sum(map(len, sections.values()))} cases")
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
