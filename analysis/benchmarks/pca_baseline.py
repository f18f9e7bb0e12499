"""PCA fitted on 10,000 images against PCA fitted on all: error, time and memory.

    python analysis/benchmarks/pca_baseline.py DATA [--limit N] [--beside]

DATA is a source of images as `raycae search --data` takes it. PCA of whole images is fitted on
10,000 training images, evenly spread, and on all of them; the errors on the validation images are
printed at the usual latent sizes. Then `baselines` computes its whole table, as a search does, and
its time is printed. `--beside` keeps one core busy with another process meanwhile. Seconds of CPU
say more than seconds of the clock on a machine that others use.
"""

from __future__ import annotations

import argparse
import resource
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path

import numpy as np
import torch

from raycae import data
from raycae.baselines import baselines
from raycae.provenance import hardware

FEW = 10_000
SIZES = (64, 128, 256, 384, 512, 1024)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("data")
    parser.add_argument("--limit", type=int)
    parser.add_argument("--beside", action="store_true")
    arguments = parser.parse_args()
    source = arguments.data
    if source not in data.NAMED_SOURCES:
        source = str(Path(source).resolve())
    images = data.load(source, limit=arguments.limit)
    train, val = images.train, images.val
    few = train[np.arange(min(FEW, len(train))) * len(train) // min(FEW, len(train))]
    print(
        f"{hardware()['cpu']}, {torch.get_num_threads()} threads; torch {torch.__version__}; "
        f"{len(train):,} training and {len(val):,} validation images, split of seed 0; n = 1"
    )
    by_few = compute_errors(few, val)
    with load_one_core() if arguments.beside else nullcontext():
        start, cpu = time.perf_counter(), time.process_time()
        by_all = compute_errors(train, val)
        wall, cpu = time.perf_counter() - start, time.process_time() - cpu
    print(f"| numbers | {len(few):,} images | {len(train):,} images | ratio |\n|---|---|---|---|")
    for size in SIZES:
        if size in by_few and size in by_all:
            ratio = by_few[size] / by_all[size]
            print(f"| {size:,} | {by_few[size]:.7f} | {by_all[size]:.7f} | {ratio:.3f} |")
    beside = ", another process on one core" if arguments.beside else ""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(f"all baselines on {len(train):,} images: {wall:.1f} s, {cpu:.1f} s of CPU{beside}")
    held = (train.nbytes + val.nbytes) / 2**20
    print(f"peak memory {peak:,.0f} MB, of which the images {held:,.0f} MB")


def compute_errors(train: data.Pixels, val: data.Pixels) -> dict[int, float]:
    """Compute the validation error of PCA of whole images by latent size."""
    table = baselines("reconstruct", train, val)
    linear = table[table["baseline"] == "linear"]
    return dict(
        zip(linear["latent_size"].astype(int), linear["val_mse"].astype(float), strict=True)
    )


@contextmanager
def load_one_core() -> Iterator[None]:
    """Run another process that keeps one core busy."""
    process = subprocess.Popen([sys.executable, "-c", "while True: pass"])
    try:
        yield
    finally:
        process.kill()
        process.wait()


if __name__ == "__main__":
    main()
