"""Measure the overhead of a trial: raycae and Ray Tune, each with trials that train nothing.

    python analysis/benchmarks/around_trials.py [--few 100] [--many 3000] [--repeats 3]

It uses one local Ray with two trial slots. First, all variants run FEW trials in turn, REPEATS
times. Then the variants that reuse actors run MANY trials. Tune's own loggers are off. It prints
medians of the time of a whole run, including the start of its processes, and of the driver's CPU
time per trial. Finally it runs trials of one second each. It prints which share of that second the
study, the live view and a trial's files take, and how long a slot is idle between two trials.
"""

from __future__ import annotations

import argparse
import functools
import io
import os
import platform
import statistics
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from typing import Any
from unittest import mock

import optuna
import ray
import torch
from ray import tune
from rich.console import Console

from raycae import data
from raycae.config import resolve
from raycae.execution import trainable as execution_trainable
from raycae.execution import tuner
from raycae.execution.progress import Progress
from raycae.execution.resources import Autoscaler, TrialSlots
from raycae.execution.trainable import AutoencoderTrainable, get_device_name
from raycae.model import weights
from raycae.provenance import describe_hardware
from raycae.space import loading
from raycae.storage.files import checksum, write_atomic
from raycae.storage.paths import resolve_place
from raycae.study.attempt import EpochReport
from raycae.study.ledger import Ledger
from raycae.study.opening import create_study
from raycae.study.plan import Plan
from raycae.study.records import Records
from raycae.study.study import Study
from raycae.training.device import configure_torch, put_on_device
from raycae.training.trainer import Training

SPACE = """
task: reconstruct
params:
  channels: {type: int, low: 4, high: 64, log: true, per: stage}
  kernel: {type: categorical, choices: [3, 5]}
  optimizer: {type: categorical, choices: [adam, adamw, sgd]}
  lr: {type: float, low: 1.0e-4, high: 1.0e-1, log: true}
  weight_decay: {type: float, low: 1.0e-8, high: 1.0e-2, log: true}
"""
"""Eight settings of one network make one fused group."""
PLACES = 2
SECOND = 1.0
N_OF_A_SECOND = 60


class Nothing(tune.Trainable):
    """Trainable without any work: the overhead of Tune itself."""

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        return True

    def step(self) -> dict[str, Any]:
        return {"val_mse": self.config["lr"], "done": True}


class Idle(AutoencoderTrainable):
    """Actor of raycae whose trials sleep for a fixed time and write no files."""

    lasts_s = 0.0

    def step(self) -> dict[str, Any]:
        time.sleep(self.lasts_s)
        columns = {"train_mse": 0.1, "val_psnr_db": 10.0, "images_per_s": 1.0, "n_images": 16}
        columns |= {"epoch": 1, "epoch_time_s": self.lasts_s}
        columns |= {"host": self.host, "device": get_device_name(self.device)}
        return {
            "reports": [
                EpochReport(attempt.number, attempt.attempt, val_mse=0.1 + number / 1e5, **columns)
                for number, attempt in self.attempts.items()
            ]
        }


class Waiting(Idle):
    lasts_s = SECOND


def stock(trials: int, *, reuse: bool) -> None:
    with tempfile.TemporaryDirectory() as folder, redirect_stdout(io.StringIO()):
        tune.Tuner(
            tune.with_resources(Nothing, {"cpu": 1}),
            param_space={"lr": tune.loguniform(1e-4, 1e-2)},
            tune_config=tune.TuneConfig(num_samples=trials, reuse_actors=reuse),
            run_config=tune.RunConfig(
                storage_path=folder,
                checkpoint_config=tune.CheckpointConfig(checkpoint_at_end=False),
                verbose=0,
            ),
        ).fit()


def ours(
    images: data.Images,
    trials: int,
    *,
    sampler: str = "random",
    fuse: int = 1,
    of: type[AutoencoderTrainable] = Idle,
) -> Study:
    plan = Plan("s", "s", "photos", trials, 1, None, 0, sampler, "none", settings=fuse)
    facts = {"source": "photos", "fingerprint": "0" * 16, "n_train": 16, "n_val": 2}
    room = TrialSlots(cpus=1, gpus=0, concurrent=None, autoscaler=Autoscaler())
    the_space = loading.parse_space(SPACE, name="s")
    with (
        tempfile.TemporaryDirectory() as folder,
        redirect_stdout(io.StringIO()),
        mock.patch.object(execution_trainable, "AutoencoderTrainable", of),
    ):
        progress = Progress(trials, 1, console=Console(file=io.StringIO()))
        study = create_study(
            resolve_place(folder) / "s", plan, the_space, facts, listener=progress.listen
        )
        tuner.train_trials(
            study, images, None, room, fuse if fuse > 1 else None, lambda: False, progress
        )
        study.close()
    assert study.records.counts()["COMPLETE"] == trials
    return study


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--few", type=int, default=100)
    parser.add_argument("--many", type=int, default=3000)
    parser.add_argument("--repeats", type=int, default=3)
    arguments = parser.parse_args()
    print(
        f"{describe_hardware()['cpu']}, {describe_hardware()['n_cpus']} cores; Python "
        f"{platform.python_version()}"
    )
    print(f"ray {ray.__version__}, optuna {optuna.__version__}, torch {torch.__version__}")
    os.environ["TUNE_DISABLE_AUTO_CALLBACK_LOGGERS"] = "1"  # as a search does
    images = data.load("photos", limit=32)
    ways: dict[str, Callable[[int], object]] = {
        "Tune, as it comes": functools.partial(stock, reuse=False),
        "Tune, actors kept": functools.partial(stock, reuse=True),
        "raycae, random": functools.partial(ours, images),
        "raycae, TPE": functools.partial(ours, images, sampler="tpe"),
        "raycae, fused groups of 8": functools.partial(ours, images, fuse=8),
    }
    ray.init(num_cpus=PLACES, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
    rows: dict[tuple[str, int], list[tuple[float, float]]] = defaultdict(list)
    for _ in range(arguments.repeats):
        for name, way in ways.items():
            rows[name, arguments.few].append(timed(way, arguments.few))
            print(f"  {name}: {rows[name, arguments.few][-1][0]:.1f} s", flush=True)
    for name, way in list(ways.items())[1:]:
        rows[name, arguments.many].append(timed(way, arguments.many))
    print("| way | trials | n | a second | ms of the driver's CPU a trial |")
    print("|---|---|---|---|---|")
    for (name, trials), timings in rows.items():
        wall, cpu = (statistics.median(part) for part in zip(*timings, strict=True))
        each = 1000 * cpu / trials
        print(
            f"| {name} | {trials:,} | {len(timings)} | {trials / wall:.1f} | {each:.0f} |",
            flush=True,
        )
    shares(images)


def timed(way: Callable[[int], object], trials: int) -> tuple[float, float]:
    """Return the seconds of wall time and of this process's CPU time."""
    wall, cpu = time.perf_counter(), time.process_time()
    way(trials)
    return time.perf_counter() - wall, time.process_time() - cpu


def shares(images: data.Images) -> None:
    spent: dict[str, float] = defaultdict(float)
    with watched(spent, Ledger, "append"), watched(spent, Records, "write"):
        study = ours(images, N_OF_A_SECOND, of=Waiting)
    ended = sorted(row["ended_at"].timestamp() for row in study.records.trials.values())
    # The first trials wait for their processes to start.
    each = PLACES * (ended[-1] - ended[N_OF_A_SECOND // 3]) / (N_OF_A_SECOND * 2 // 3 - 1)
    print(f"a place is without a trial for {1000 * (each - SECOND):.0f} ms between two of a second")
    for name, seconds in spent.items():
        print(f"{name}: {seconds / N_OF_A_SECOND / SECOND:.2%} of a trial's second")
    print(f"live view, redrawn 4 times a second: {4 * of_a_view(study.records):.2%} of a second")
    begun, files = of_a_trial(images)
    print(f"a trial's weights and checkpoint, with checksums: {files / SECOND:.2%} of its second")
    print(f"a trial's network and optimizer are made in {1000 * begun:.1f} ms")


@contextmanager
def watched(spent: dict[str, float], of: type, name: str) -> Iterator[None]:
    """Add the duration of each call of the method to `spent`."""
    method = getattr(of, name)

    def call(*given: Any, **named: Any) -> Any:
        begun = time.perf_counter()
        try:
            return method(*given, **named)
        finally:
            spent[f"{of.__name__}.{name}"] += time.perf_counter() - begun

    setattr(of, name, call)
    try:
        yield
    finally:
        setattr(of, name, method)


def of_a_view(of: Records) -> float:
    """Return the seconds for drawing the live view of these trials once."""
    paper = Console(file=io.StringIO(), force_terminal=True, width=100)
    progress = Progress(100, 1, console=paper)
    progress.records = of
    return statistics.median(
        timed(lambda _: paper.print(progress.render()), 0)[0] for _ in range(50)
    )


def of_a_trial(images: data.Images) -> tuple[float, float]:
    """Return the seconds until a base-model trial can begin, and until its files are written."""
    configure_torch(1)
    train, val = (put_on_device(part, torch.device("cpu")) for part in (images.train, images.val))
    begun, files = [], []
    with tempfile.TemporaryDirectory() as folder:
        for number in range(30):
            at = time.perf_counter()
            training = Training(resolve({}), train, val, epochs=2, seed=number)
            begun.append(time.perf_counter() - at)
            training.run_epoch()
            at = time.perf_counter()
            for kind, made in (
                ("a", weights.encode_weights(training.best_weights)),
                ("b", training.state()),
            ):
                checksum(made)
                write_atomic(Path(folder) / f"{number}.{kind}", made)
            files.append(time.perf_counter() - at)
    return statistics.median(begun), statistics.median(files)


if __name__ == "__main__":
    main()
