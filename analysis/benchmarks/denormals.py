"""Measure the cost of numbers below 1e-38: one trial with and without `configure_torch`.

    python analysis/benchmarks/denormals.py [--data SOURCE] [--images 4000]

The network is a deep pixel-shuffle network under RMSprop with strong weight decay, as proposed by a
real search. Its output stays at the mean colour and its weights decay towards zero. Each side runs
two epochs in a separate process on one core. The script prints the seconds, the errors and the
ratio of the second epochs.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path

import torch

from raycae import data
from raycae.config import resolve
from raycae.provenance import describe_hardware
from raycae.training.device import configure_torch, put_on_device
from raycae.training.trainer import Training

STARVED = {
    "channels": [9, 6, 5, 7],
    "kernel": 7,
    "convs": 2,
    "downsample": ["max", "average", "average", "stride"],
    "latent_channels": 12,
    "upsample": "pixel_shuffle",
    "optimizer": "rmsprop",
    "lr": 0.00112,
    "weight_decay": 0.00286,
    "batch_size": 128,
}


def side(source: str, images: int, flush: bool) -> None:
    configure_torch(1)
    torch.set_flush_denormal(flush)
    loaded = data.load(source, limit=images)
    cpu = torch.device("cpu")
    pictures = [put_on_device(part, cpu) for part in (loaded.train, loaded.val)]
    training = Training(resolve(STARVED), *pictures, epochs=2)
    print(json.dumps([training.run_epoch() for _ in range(2)]))


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--data", default="photos")
    parser.add_argument("--images", type=int, default=4000)
    parser.add_argument("--side", choices=["flushed", "kept"])
    arguments = parser.parse_args()
    source = arguments.data
    if source not in data.NAMED_SOURCES:
        source = str(Path(source).resolve())
    if arguments.side:
        side(source, arguments.images, arguments.side == "flushed")
        return
    print(f"{describe_hardware()['cpu']}, one core; torch {torch.__version__}; {source}")
    seconds = {}
    for name in ("flushed", "kept"):
        command = [sys.executable, __file__, "--data", source, "--side", name]
        command += ["--images", str(arguments.images)]
        done = subprocess.run(command, check=True, capture_output=True, text=True)
        epochs = json.loads(done.stdout)
        seconds[name] = epochs[1]["epoch_time_s"]
        for epoch in epochs:
            print(f"{name:8} epoch {epoch['epoch']}  {epoch['epoch_time_s']:6.1f} s  "
                  f"val_mse {epoch['val_mse']:.5f}")  # fmt: skip
    print(f"kept / flushed, second epoch: {seconds['kept'] / seconds['flushed']:.1f}")


if __name__ == "__main__":
    main()
