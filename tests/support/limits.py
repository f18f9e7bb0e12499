"""What is done to a trial's process before it begins: imported by Ray's workers."""

import resource
from pathlib import Path


def little_memory() -> None:
    """What the process holds after importing torch, and 600 MB."""
    import torch  # noqa: F401

    lines = Path("/proc/self/status").read_text().splitlines()
    status = dict(line.split(":", 1) for line in lines)
    held = int(status["VmData"].split()[0]) * 1024
    limit = held + 600 * 1024 * 1024
    resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))


def broken_convolutions() -> None:
    """Every convolution fails, as on a machine with a broken driver."""
    import torch

    def fail(*_: object) -> None:
        raise RuntimeError("no convolution on this machine")

    torch.nn.Conv2d.forward = fail  # type: ignore[method-assign,assignment]
