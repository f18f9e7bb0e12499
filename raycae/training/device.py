"""Configure PyTorch and the device that a process trains on."""

from __future__ import annotations

import warnings
from collections import defaultdict
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_flatten, tree_unflatten
from torch.utils.data import TensorDataset

from raycae.config import Config
from raycae.provenance import count_cpus

MOST_THREADS = 8
"""Largest number of networks that run at a time; each needs memory for its feature maps."""


def choose_device() -> torch.device:
    """Choose a GPU if there is one, else the CPU with every core; configure PyTorch for it.

    Returns:
        The device.
    """
    configure_torch(count_cpus())
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def configure_torch(threads: int) -> None:
    """Configure PyTorch for training in this process, before anything is computed.

    Products of float32 keep all their digits. By default, torch lets a GPU round the factors of
    convolutions to TF32.

    Numbers below 1e-38 become 0. Weight decay or a saturated sigmoid can shrink the weights and
    gradients of a network into that range, which CPUs handle in microcode. Such a trial took 20
    times as long without this, with the same errors to five digits (analysis/FINDINGS.md).

    Args:
        threads: Number of cores to use.
    """
    torch.set_flush_denormal(True)
    torch.set_num_threads(threads)
    allow_tf32(False)


@contextmanager
def run_in_parallel(device: torch.device, n_tasks: int) -> Iterator[ThreadPoolExecutor]:
    """Open threads for the forward passes of several networks, which share the cores of a CPU.

    Networks one after the other, each on two cores, take 1.3 times as much CPU time, and 1.5 times
    as long (analysis/FINDINGS.md). On a GPU there is one thread. At the end of the context, tasks
    that have not begun are cancelled.

    Args:
        device: The device of the networks.
        n_tasks: Number of networks, at least 1.

    Yields:
        The threads.
    """
    n_threads = torch.get_num_threads()
    n_networks = min(count_cpus(), MOST_THREADS, n_tasks) if device.type == "cpu" else 1
    cores = max(count_cpus() // n_networks, 1)
    pool = ThreadPoolExecutor(n_networks, initializer=configure_torch, initargs=(cores,))
    try:
        yield pool
    finally:
        pool.shutdown(cancel_futures=True)
        torch.set_num_threads(n_threads)  # For new threads, torch keeps the last number set.


@contextmanager
def set_rounding(config: Config) -> Iterator[None]:
    """Allow TF32 on a GPU inside the context if the configuration says `tf32`.

    Args:
        config: The configuration of the trial.
    """
    allow_tf32(config.precision == "tf32")
    try:
        yield
    finally:
        allow_tf32(False)


def allow_tf32(allowed: bool) -> None:
    """Allow or forbid TF32 for convolutions and matrix products on a GPU.

    Args:
        allowed: Whether to allow it.
    """
    torch.backends.cudnn.allow_tf32 = allowed
    torch.backends.cuda.matmul.allow_tf32 = allowed


def run_forward(network: nn.Module, x: Tensor, config: Config) -> Tensor:
    """Run a network during training, in bfloat16 if the configuration says `bf16`.

    Args:
        network: The network.
        x: Its input, float (N, C, H, W).
        config: The configuration of the trial.

    Returns:
        Its output, float32 (N, C_out, H, W).
    """
    if config.precision != "bf16":
        return cast(Tensor, network(x))
    # One context per step, because autocast caches rounded weights, and a step changes them.
    with torch.autocast(x.device.type, torch.bfloat16):
        return cast(Tensor, network(x)).float()


def put_on_device(
    images: np.ndarray, device: torch.device, labels: np.ndarray | None = None
) -> TensorDataset:
    """Put images and labels on a device; on the CPU the memory is shared.

    Args:
        images: Images, uint8 (N, H, W, 3).
        device: The device.
        labels: Classes, int64 (N,), or None.

    Returns:
        A data set whose rows are the arguments of `Task.batch`.
    """
    arrays = [images] if labels is None else [images, labels]
    with warnings.catch_warnings():
        # Memory from Ray's object store is read-only; nothing here writes to images.
        warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
        return TensorDataset(*(torch.from_numpy(array).to(device) for array in arrays))


def copy_to_cpu(tree: Any) -> Any:
    """Copy the tensors of nested dicts and lists to the CPU.

    Those of a GPU are packed first, one transfer for each type of number. Otherwise each tensor
    would wait for the GPU: about a hundred times for the state of a trial.

    Args:
        tree: A dict, a list, a tensor, or something else.

    Returns:
        A copy, with every tensor on the CPU. Whatever else the dicts and lists hold is not copied.
    """
    leaves, structure = tree_flatten(tree)
    kinds: dict[tuple[torch.device, torch.dtype], list[int]] = defaultdict(list)
    for place, leaf in enumerate(leaves):
        if isinstance(leaf, Tensor):
            kinds[leaf.device, leaf.dtype].append(place)
    for (device, _), places in kinds.items():
        tensors = [leaves[place] for place in places]
        is_cpu = device.type == "cpu"
        copies = [t.detach().clone() for t in tensors] if is_cpu else copy_packed(tensors)
        for place, copy in zip(places, copies, strict=True):
            leaves[place] = copy
    return tree_unflatten(leaves, structure)


def copy_packed(tensors: Sequence[Tensor]) -> list[Tensor]:
    """Copy tensors of one device and type to the CPU in one transfer.

    Args:
        tensors: The tensors, without gaps in memory.

    Returns:
        Copies with the same strides.
    """
    # Values are packed in memory order, which preserves `channels_last`.
    flat = [tensor.detach().as_strided((tensor.numel(),), (1,)) for tensor in tensors]
    packed = torch.cat(flat).cpu()
    starts = np.cumsum([0, *(len(part) for part in flat)]).tolist()
    return [
        packed.as_strided(tensor.shape, tensor.stride(), start).clone()
        for tensor, start in zip(tensors, starts, strict=False)
    ]
