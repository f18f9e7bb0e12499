"""Measure how many trial slots one driver can serve.

    python analysis/benchmarks/scale.py                  # the table
    python analysis/benchmarks/scale.py real [PLACES]    # the cost of a trial with Ray, 16 slots

For the table, the driver is real (`tune_adapter`, `study`, `proposer`, `ledger`, with all fsyncs).
It serves 64 simulated machines with 8 slots each. Epochs have a drawn length. The driver handles
one event after the other, and each takes as long as it really took. So the time that a slot waits
for its next trial is the time it would wait for this driver. The table leaves out the work of Ray.
`real` measures it: the same driver with a real Ray, PLACES worker processes, and trials with almost
no training. Each line is one study: TPE, ASHA, three epochs.
"""

from __future__ import annotations

import heapq
import os
import platform
import resource
import sys
import tempfile
import threading
import time
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import optuna
import pandas as pd
import psutil
import ray

from raycae.execution.progress import Progress
from raycae.execution.runner import run_study
from raycae.execution.search_request import SearchRequest
from raycae.execution.tune_adapter import SearchState, StudyCallback, StudySearcher, StudyStopper
from raycae.space import loading
from raycae.storage.paths import resolve_place
from raycae.study.attempt import EpochReport
from raycae.study.opening import create_study
from raycae.study.plan import Plan

MACHINES, PLACES_EACH = 64, 8
EPOCHS = 3
SIZES = (100, 1000, 10_000)
EPOCH_S = 60.0
FACTS = {"source": "photos", "fingerprint": "0" * 16, "n_train": 1000, "n_val": 100}


def main() -> None:
    print(f"{MACHINES} x {PLACES_EACH} places, epochs of {EPOCH_S:.0f} s (40 to 80 s)")
    print(versions())
    rows = []
    for trials in SIZES:
        with tempfile.TemporaryDirectory() as folder:
            rows.append(simulated(Path(folder) / "s", trials))
            print(pd.DataFrame(rows[-1:]).to_string(index=False), flush=True)
    table = pd.DataFrame(rows)
    print(table.to_string(index=False))
    small, large = table.iloc[-2], table.iloc[-1]
    slope = np.log(large["CPU ms a trial"] / small["CPU ms a trial"]) / np.log(
        large["trials"] / small["trials"]
    )
    print(f"CPU a trial grows with the number of trials to the power of {slope:.2f}")
    feeds = 1000 * EPOCH_S / large["CPU ms a result"]
    print(f"one driver is busy all the time at {feeds:,.0f} places with epochs of {EPOCH_S:.0f} s")


DEAF = SimpleNamespace(
    ray_actor=SimpleNamespace(reset_config=SimpleNamespace(remote=lambda config: None))
)
"""The state of a trial of Tune whose actor takes its next attempts and does nothing."""


def simulated(folder: Path, trials: int) -> dict[str, Any]:
    """One study before simulated machines."""
    plan = Plan("s", "ex2", "photos", trials, EPOCHS, None, 0, "tpe", "asha", factor=4)
    study = create_study(folder, plan, loading.load_space("ex2"), FACTS)
    books = SearchState(study, lambda: False, Progress(trials, EPOCHS))
    searcher = StudySearcher(books, {}, lambda: MACHINES * PLACES_EACH)
    stopper = StudyStopper(books, searcher.continue_worker)
    callback = StudyCallback(books)
    draw = np.random.default_rng(0)
    free: list[tuple[float, int, Any]] = [(0.0, n, None) for n in range(MACHINES * PLACES_EACH)]
    """Events, by their time: a place has nothing to do, or a trial on it has ended an epoch."""
    driver = 0.0
    waits, results = [], 0
    cpu = time.process_time()
    while free:
        at, where, trial = heapq.heappop(free)
        driver = max(driver, at)
        begun = time.perf_counter()
        if trial is not None:
            results += 1
            trial.epoch += 1
            error = 0.02 + 0.1 * draw.random() ** 3 / trial.epoch
            attempts = trial.config["attempts"]
            goes_on = not stopper(str(where), {"reports": [measured(trial, error)]})
            if goes_on:
                if trial.config["attempts"] is not attempts:
                    trial.epoch = 0
                    if at:
                        waits.append(driver + time.perf_counter() - begun - at)
                driver += time.perf_counter() - begun
                heapq.heappush(free, (driver + epoch_s(draw), where, trial))
                continue
            searcher.on_trial_complete(str(where))
        config = searcher.suggest(str(where))
        if isinstance(config, dict):
            trial = SimpleNamespace(
                config=config, epoch=0, trial_id=str(where), temporary_state=DEAF
            )
            callback.on_trial_start(0, [], trial)
            driver += time.perf_counter() - begun
            if at:  # the first places all fall free at once
                waits.append(driver - at)
            heapq.heappush(free, (driver + epoch_s(draw), where, trial))
        else:
            driver += time.perf_counter() - begun
    cpu = time.process_time() - cpu
    files = len(list((folder / "ledger").iterdir()))
    study.close()
    return {
        "trials": trials,
        "results": results,
        "CPU ms a trial": 1000 * cpu / trials,
        "CPU ms a result": 1000 * cpu / results,
        "results a CPU second": results / cpu,
        "wait s, median": np.median(waits) if waits else float("nan"),
        "wait s, 95 %": np.quantile(waits, 0.95) if waits else float("nan"),
        "idle": sum(waits) / (sum(waits) + results * EPOCH_S),
        "MB": psutil.Process().memory_info().rss / 1e6,
        "files": files,
    }


def epoch_s(draw: np.random.Generator) -> float:
    return float(draw.uniform(2 / 3, 4 / 3) * EPOCH_S)


def measured(trial: Any, error: float) -> EpochReport:
    attempt = trial.config["attempts"][0]
    return EpochReport(
        attempt.number,
        attempt.attempt,
        epoch=trial.epoch,
        train_mse=error,
        val_mse=error,
        val_psnr_db=20.0,
        epoch_time_s=EPOCH_S,
        images_per_s=100.0,
        n_images=1000,
    )


def real(places: int) -> None:
    """Two searches with a real Ray whose trials train for next to nothing: what the second one has
    more of says what a trial costs, without beginning and report."""
    print(f"real Ray, {places} places on {os.cpu_count()} cores")
    print(versions())
    ray.init(num_cpus=places, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
    sizes = (4 * places, 12 * places)
    few, many = (cpu_of_a_search(trials) for trials in sizes)
    per_trial = 1000 * (many - few) / (sizes[1] - sizes[0])
    print(f"{sizes[0]} trials: {few:.1f} s of the driver's CPU; {sizes[1]}: {many:.1f} s")
    print(f"a further trial of one epoch: {per_trial:.0f} ms")


def cpu_of_a_search(trials: int) -> float:
    done = threading.Event()
    watching = threading.Thread(target=watch_workers, args=(done,))
    watching.start()
    with tempfile.TemporaryDirectory() as folder:
        plan = Plan("real", "quickstart", "photos", trials, 1, 60, 0, "random", "none")
        before = resource.getrusage(resource.RUSAGE_SELF)
        request = SearchRequest(
            resolve_place(folder) / "real",
            plan,
            loading.load_space("quickstart"),
            False,
            {"cpus": 1, "gpus": 0, "concurrent": None},
        )
        run_study(request)
        after = resource.getrusage(resource.RUSAGE_SELF)
    done.set()
    watching.join()
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def watch_workers(done: threading.Event) -> None:
    """Say how much private memory the trials' processes had, when most of them were there."""
    most: list[float] = []
    while not done.wait(2.0):
        own = []
        for process in psutil.process_iter():
            with suppress(psutil.Error):
                if "Trainable" in " ".join(process.cmdline()):
                    own.append(process.memory_full_info().uss / 1e6)
        most = max(most, own, key=len)
    print(f"{len(most)} worker processes, {np.median(most):.0f} MB of private memory each")


def versions() -> str:
    return (
        f"Python {platform.python_version()}, optuna {optuna.__version__}, ray {ray.__version__}, "
        f"{platform.machine()}, {os.cpu_count()} cores"
    )


if __name__ == "__main__":
    if sys.argv[1:2] == ["real"]:
        real(int((sys.argv[2:] or ["16"])[0]))
    else:
        main()
