"""PCA fitted on 10,000 images against PCA fitted on all: error, time and memory.

    python analysis/benchmarks/pca_baseline.py DATA [--limit N] [--beside]
    python analysis/benchmarks/pca_baseline.py DATA --study analysis/recorded/frontier

DATA is a source of images as `raycae search --data` takes it. PCA of whole images is fitted on
10,000 training images, evenly spread, and on all of them; the errors on the validation images are
printed at the usual latent sizes. Then `baselines` computes its whole table, as a search does, and
its time is printed. `--beside` keeps one core busy with another process at the same time. Seconds
of CPU say more than seconds of the clock on a machine that others use.

`--study` compares a recorded study, whose images DATA has, with PCA instead: its least error at
each of these sizes, as a multiple of PCA fitted on 10,000 of its training images, on all of those,
and on all training images of DATA. Validation images are those of the study, test images of DATA.
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
from raycae.provenance import describe_hardware
from raycae.study import records
from raycae.study.plan import load_plan, read_study
from raycae.study.tables import read_trials
from raycae.training.baselines import compute_baselines

FEW = 10_000
SIZES = (64, 128, 256, 384, 512, 1024)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("data")
    parser.add_argument("--limit", type=int)
    parser.add_argument("--beside", action="store_true")
    parser.add_argument("--study", type=Path)
    arguments = parser.parse_args()
    source = arguments.data
    if source not in data.NAMED_SOURCES:
        source = str(Path(source).resolve())
    if arguments.study:
        compare_study(arguments.study, source)
        return
    images = data.load(source, limit=arguments.limit)
    train, val = images.train, images.val
    few = take_evenly(train)
    print(
        f"{describe_hardware()['cpu']}, {torch.get_num_threads()} threads; torch "
        f"{torch.__version__}; "
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


def take_evenly(images: data.Pixels) -> data.Pixels:
    """Return at most 10,000 images, spread evenly over the set."""
    n = min(FEW, len(images))
    return images[np.arange(n) * len(images) // n]


def compare_study(folder: Path, source: str) -> None:
    """Print the errors of a recorded study as multiples of PCA's, validation and test."""
    content = read_study(folder)
    plan = load_plan(content)
    own = data.load(source, limit=plan.limit, seed=plan.seed)
    if own.fingerprint != content["data"]["fingerprint"]:
        raise SystemExit(f"{source}: these are not the images of {folder}")
    test, everything = data.load_test(source, seed=plan.seed), data.load(source, seed=plan.seed)
    fits = [take_evenly(own.train), own.train, everything.train]
    tables = [compute_baselines("reconstruct", fit, own.val, test) for fit in fits]
    trials = read_trials(folder)
    best = trials[trials["state"] == records.COMPLETE].sort_values("val_mse")
    names = " | ".join(f"{len(fit):,} images" for fit in fits)
    print(f"| numbers | parameters | PCA | {names} |\n|---|---|---|---|---|---|")
    for size in SIZES:
        for trial in best[best["latent_size"] == size].head(1).to_dict("records"):
            for kind in ("pca", "pca_8x8", "pca_4x4"):
                cells = []
                for table in tables:
                    rows = table[(table["baseline"] == kind) & (table["latent_size"] == size)]
                    on_val, on_test = (trial[c] / rows[c].iloc[0] for c in ("val_mse", "test_mse"))
                    cells.append(f"{on_val:.3f} ({on_test:.3f})")
                parameters = f"{trial['n_params']:,}"
                print(f"| {size:,} | {parameters} | {kind} | {' | '.join(cells)} |")


def compute_errors(train: data.Pixels, val: data.Pixels) -> dict[int, float]:
    """Compute the validation error of PCA of whole images by latent size."""
    table = compute_baselines("reconstruct", train, val)
    linear = table[table["baseline"] == "pca"]
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
