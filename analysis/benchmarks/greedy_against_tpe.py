"""Compare the report's greedy series with TPE on exercise 3: same number of trials and epochs.

Three methods start from the base model: the series of changes in `ex3-greedy`, the greedy sampler
on the space `ex3` (one parameter at a time), and TPE on the space `ex3`. There is no early
stopping, so every trial runs all its epochs. Each line is one trial: the lowest validation error so
far, mean and standard deviation over seeds (of split, weights and proposals). The last line is the
mean over seeds of the series' error divided by TPE's. Trials run one after the other on one thread;
two processes share the work. With PLACES, a sampler makes that many proposals before it gets the
first result.

    python analysis/benchmarks/greedy_against_tpe.py DATA [LIMIT EPOCHS SEEDS TRIALS PLACES]
"""

from __future__ import annotations

import sys
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from statistics import mean, stdev

import optuna
import torch

from raycae import data
from raycae.space import loading
from raycae.study.attempt import Attempt, EpochReport, FailureReport
from raycae.study.opening import create_study
from raycae.study.plan import Plan
from raycae.study.study import Study
from raycae.training.device import configure_torch, put_on_device
from raycae.training.trainer import Diverged, Training

WAYS = {
    "greedy, series": ("ex3-greedy", "greedy"),
    "greedy, ex3": ("ex3", "greedy"),
    "TPE, ex3": ("ex3", "tpe"),
}


def main(
    source: str,
    limit: int = 2000,
    epochs: int = 3,
    seeds: int = 5,
    trials: int = 16,
    places: int = 1,
) -> None:
    print(f"{source}, {limit} images, {trials} trials of {epochs} epochs, {places} at a time")
    print(f"torch {torch.__version__}, optuna {optuna.__version__}, seeds 0 to {seeds - 1}")
    jobs = [(way, seed) for seed in range(seeds) for way in WAYS]
    curves: dict[str, list[list[float]]] = {way: [] for way in WAYS}
    seconds: dict[str, list[float]] = {way: [] for way in WAYS}
    with ProcessPoolExecutor(2, mp_context=get_context("spawn")) as pool:
        done = [pool.submit(search, *job, source, limit, epochs, trials, places) for job in jobs]
        for (way, seed), future in zip(jobs, done, strict=True):
            curve, took = future.result()
            curves[way].append(curve)
            seconds[way].append(took)
            print(f"seed {seed}, {way}: {curve[-1]:.5f} in {took:.0f} s", flush=True)
    print("trials  " + "  ".join(f"{way:>18}" for way in WAYS))
    for n in range(trials):
        cells = (f"{mean(at):.5f} ± {stdev(at):.5f}" for at in (nth(curves[w], n) for w in WAYS))
        print(f"{n + 1:6}  " + "  ".join(f"{cell:>18}" for cell in cells))
    print("s/seed  " + "  ".join(f"{mean(seconds[way]):18.0f}" for way in WAYS))
    series, _, tpe = (nth(curves[way], trials - 1) for way in WAYS)
    ratios = [a / b for a, b in zip(series, tpe, strict=True)]
    wins = sum(ratio < 1 for ratio in ratios)
    print(f"the series is better than TPE with {wins} of {seeds} seeds")
    print(f"error of the series / error of TPE: {mean(ratios):.3f} ± {stdev(ratios):.3f}")


def nth(curves: list[list[float]], n: int) -> list[float]:
    return [curve[n] for curve in curves]


def search(
    way: str, seed: int, source: str, limit: int, epochs: int, trials: int, places: int
) -> tuple[list[float], float]:
    """Return the lowest error so far after each finished trial, and the seconds for all.

    A finished series keeps its error.
    """
    configure_torch(1)
    name, sampler = WAYS[way]
    images = data.load(source, image_size=32, limit=limit, seed=seed)
    plan = Plan("s", name, source, trials, epochs, limit, seed, sampler, "none")
    facts = {"source": source, "fingerprint": images.fingerprint, "n_train": 1, "n_val": 1}
    best: list[float] = []
    begun = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        study = create_study(Path(folder) / "s", plan, loading.load_space(name), facts)
        waiting: list[Attempt] = []
        while True:
            while len(waiting) < places and (issue := study.ask()):
                waiting.append(issue)
            if not waiting:
                break
            train(study, waiting.pop(0), images)
            row = study.records.best()
            best.append(row["val_mse"] if row else float("inf"))
        study.close()
    return best + best[-1:] * (trials - len(best)), time.perf_counter() - begun


def train(study: Study, issue: Attempt, images: data.Images) -> None:
    """Run one trial to its end, as `trainable` does."""
    cpu = torch.device("cpu")
    study.start_attempt(issue.number, issue.attempt)
    pictures = [put_on_device(part, cpu) for part in (images.train, images.val)]
    seeds = {"seed": issue.seed, "order_seed": issue.seed}
    training = Training(issue.config, *pictures, epochs=study.plan.epochs, **seeds)
    try:
        while study.report_epoch(EpochReport(issue.number, issue.attempt, **training.run_epoch())):
            pass
    except Diverged as fault:
        study.fail_attempt(FailureReport(issue.number, issue.attempt, f"diverged: {fault}"))


if __name__ == "__main__":
    main(sys.argv[1], *map(int, sys.argv[2:]))
