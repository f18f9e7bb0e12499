"""Estimate how long a search takes before it starts.

The search is simulated with its own early-stopping rule and random errors. The duration of epochs
follows the rule of `model_cost`, whose factor is measured on this machine with a few training
steps. Everything else that takes time is a constant of this module. analysis/FINDINGS.md compares
estimates with searches.
"""

from __future__ import annotations

import statistics
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import numpy as np

from raycae.config import Config
from raycae.errors import InputError
from raycae.execution.model_cost import compute_image_cost
from raycae.execution.ray_session import starts_own_ray
from raycae.execution.search_request import LEARNING_SAMPLERS, SearchRequest
from raycae.execution.simulator import Curve, Epoch, simulate_search
from raycae.execution.time_left import Forecast
from raycae.formatting import format_count
from raycae.model.architecture import build_architecture
from raycae.optimization.frontier import Strata
from raycae.optimization.proposer import Proposal
from raycae.provenance import count_cpus
from raycae.storage import parquet
from raycae.study.records import RUNNING, TRIAL_COLUMNS, get_architecture_columns
from raycae.study.strategy import make_proposer, make_stopping_rule

SHARED = 1.1
"""A training step takes this much longer if trials run on all cores."""
FIXED_S = 17.0
"""Seconds that every search takes: 10 for images, Ray and workers, 7 for pictures and report."""
PCA_S = 6.0
"""Seconds for PCA of whole images of 32 x 32 pixels."""
TEST_SHARE = 0.3
"""Time to evaluate an image, relative to a training step's share of it."""
TEST_SHARE_PARALLEL = 0.15
"""The same after the last trial, when several models are evaluated at a time."""
N_EVALUATED = 10
"""Number of saved models that are evaluated on the test images, at most as many as trials."""
MAX_SIMULATED = 100
"""A longer search is simulated for this many trials."""
N_FORECASTS = 3
"""Number of simulations of a search that expect the number of epochs of its trials."""
SMOOTHED = 3
"""Their means are averaged over this many trials before and after each one."""
N_MEASURED = 3
"""Number of configurations whose training steps are measured."""
MEASURED_S = 0.3
"""Seconds for which the training steps of a configuration are measured, after the first step."""
MEASURED_FLOPS = 2e9
"""Largest number of FLOPs of a measured forward pass. Of a larger minibatch a part is measured: the
whole may need more memory than the driver has."""
DRAW_S = 2.0
"""Seconds after which no more proposals are drawn for simulations."""


class Estimate(NamedTuple):
    """How long a search takes.

    Attributes:
        seconds: The time from now to the report; None if it is unknown.
        reason: What the estimate is based on, or why there is none.
    """

    seconds: float | None
    reason: str


@dataclass
class EstimatedCurves:
    """Learning curves with random errors and estimated durations, a `simulator.World`.

    Attributes:
        epochs: Epochs of a trial.
        n_images: Mean number of training images of an epoch.
        unit_s: Seconds per image and unit of `compute_image_cost`.
    """

    epochs: int
    n_images: float
    unit_s: float
    _random: np.random.Generator = field(default_factory=lambda: np.random.default_rng(0))

    def get_curve(self, config: Config, seed: int) -> Curve:
        """Return the curve of a new trial.

        Args:
            config: Its configuration.
            seed: Not used.
        """
        level = float(self._random.lognormal(sigma=0.5))
        errors = tuple(level * (1 + 1 / epoch) for epoch in range(1, self.epochs + 1))
        return Curve(errors, self.n_images * self.unit_s * compute_image_cost(config))


def format_time_estimate(request: SearchRequest, counts: Sequence[int]) -> str:
    """Write how long a search will take, and on what this is based.

    Args:
        request: What the search will do.
        counts: Number of training, validation and test images.

    Returns:
        One line.
    """
    estimate = estimate_search(request, counts)
    plan = request.plan
    what = format_count(plan.trials, "trial")
    if request.resume:
        what += " in all"
    up_to = "up to " if plan.scheduler != "none" else ""
    epochs = f"of {up_to}{format_count(plan.epochs, 'epoch')}"
    if estimate.seconds is None:
        return f"time     unknown: {what} {epochs}; {estimate.reason}"
    limit_s = None if request.hours is None else request.hours * 3600
    about = f"about {format_rough_duration(estimate.seconds)}"
    if limit_s is not None and limit_s < estimate.seconds:
        limit = f"at most {format_rough_duration(limit_s)} (time limit)"
        about = f"{limit}; the whole search would take {about}"
    workers = format_count(count_workers(request), "worker")
    return f"time     {about}: {what} {epochs} on {workers}; {estimate.reason}"


def format_rough_duration(seconds: float) -> str:
    """Write a duration that is known roughly, as `40 s`, `12 min` or `2.5 h`.

    Args:
        seconds: The duration in seconds.
    """
    if seconds < 90:
        return f"{max(10 * round(seconds / 10), 10)} s"
    if seconds < 5400:
        minutes = seconds / 60
        return f"{round(minutes) if minutes < 20 else 5 * round(minutes / 5)} min"
    hours = seconds / 3600
    return f"{hours:.1f} h" if hours < 10 else f"{hours:,.0f} h"


def estimate_search(request: SearchRequest, counts: Sequence[int]) -> Estimate:
    """Estimate how long a search takes.

    Args:
        request: What the search will do.
        counts: Number of training, validation and test images.

    Returns:
        The estimate. There is none for a cluster or GPUs, whose speed is not known here.
    """
    if not starts_own_ray(request.address):
        return Estimate(
            None, "on a cluster, the time left is shown once the first epochs have ended"
        )
    if request.resume and (estimate := estimate_resumed(request)):
        return estimate
    import torch

    if request.resources["gpus"] != 0 and torch.cuda.is_available():
        return Estimate(None, "on GPUs, the time left is shown once the first epochs have ended")
    stand_ins, n_trials = StandIns(request), request.plan.trials
    configs = stand_ins.list_first_configs()
    if not configs:
        return Estimate(None, "the sampler proposes no configuration")
    try:
        unit_s, step_s = measure_unit(configs, request.resources["cpus"])
    except (RuntimeError, MemoryError):
        return Estimate(None, "a training step could not be measured here")
    training_s = simulate_duration(request, stand_ins, unit_s, counts)
    mean_cost = statistics.fmean(map(compute_image_cost, configs))
    evaluation_s = min(n_trials, N_EVALUATED) * counts[2] * unit_s * mean_cost * TEST_SHARE_PARALLEL
    pca_s = PCA_S * (1 + any(config.linear_path == "pca" for config in configs))
    pca_s *= (configs[0].image_size / 32) ** 2 if request.space.task == "reconstruct" else 0
    reason = f"estimated from a training step measured here ({1000 * step_s:,.0f} ms)"
    return Estimate(FIXED_S + pca_s + training_s + evaluation_s, reason)


def estimate_resumed(request: SearchRequest) -> Estimate | None:
    """Estimate how long a resumed search takes, from the trials that it has.

    Args:
        request: What the search will do.

    Returns:
        The estimate; None if no trial has ended.
    """
    path = request.folder / "trials.parquet"
    if not path.exists():
        return None
    names = ("state", "wall_time_s")
    try:
        rows = parquet.read_table(path, {name: TRIAL_COLUMNS[name] for name in names}).to_pylist()
    except InputError:
        return None  # The ledger replaces a damaged table when the study is opened.
    ended_s = [row["wall_time_s"] or 0.0 for row in rows if row["state"] != RUNNING]
    if not ended_s:
        return None
    n_missing = max(request.plan.trials - len(ended_s), 0)
    training_s = statistics.fmean(ended_s) * n_missing / count_workers(request)
    based_on = format_count(len(ended_s), "trial")
    return Estimate(FIXED_S + training_s, f"estimated from the {based_on} that ended")


def count_workers(request: SearchRequest) -> int:
    """Count the workers of a search on the cores of this machine.

    Args:
        request: What the search will do.
    """
    fitting = max(count_cpus() // request.resources["cpus"], 1)
    return min(request.resources["concurrent"] or fitting, max(request.plan.trials, 1))


class StandIns:
    """Proposals that stand for those of a search: random ones in place of those that learn.

    They are drawn once and serve all simulations. After `DRAW_S` seconds, or if no random
    configuration meets the constraints, the drawn ones come again.

    Args:
        request: What the search will do.
    """

    def __init__(self, request: SearchRequest) -> None:
        plan = request.plan
        sampler = "random" if plan.sampler in LEARNING_SAMPLERS else plan.sampler
        stand_in = replace(plan, sampler=sampler, objective="val_mse")
        self._proposer = make_proposer(stand_in, request.space, None, None)
        self._n_trials = plan.trials
        self._drawn: list[Proposal] = []
        self._until_s = time.monotonic() + DRAW_S

    def list_first_configs(self) -> list[Config]:
        """List the configurations of the first trials."""
        proposals = [self.propose(number) for number in range(min(self._n_trials, 12))]
        return [proposal.config for proposal in proposals if proposal]

    def propose(self, number: int) -> Proposal | None:
        """Propose what trial `number` runs.

        Args:
            number: The trial, not more than one beyond those proposed so far.

        Returns:
            None if there is nothing to run now.
        """
        if number == len(self._drawn) and time.monotonic() < self._until_s:
            try:
                if proposal := self._proposer.propose(number):
                    self._drawn.append(proposal)
                return proposal
            except InputError:  # Too few random configurations meet the constraints.
                self._until_s = 0.0
        return self._drawn[number % len(self._drawn)] if self._drawn else None

    def report(self, number: int, epoch: int, value: float) -> None:
        """Report the error of trial `number` after an epoch."""

    def tell(self, number: int, state: str, value: float | None) -> None:
        """Report how trial `number` ended, which some samplers wait for."""
        if number < len(self._drawn):
            self._proposer.tell(number, state, value)


def simulate_duration(
    request: SearchRequest, stand_ins: StandIns, unit_s: float, counts: Sequence[int]
) -> float:
    """Simulate the training of all trials.

    Args:
        request: What the search will do.
        stand_ins: What is trained.
        unit_s: Seconds per image and unit of `compute_image_cost`, of one trial alone.
        counts: Number of training, validation and test images.

    Returns:
        The duration in seconds.
    """
    plan, n_train = request.plan, counts[0]
    sizes = [n_train] * plan.epochs
    if plan.first_images:
        sizes = [min(plan.first_images << min(e, 30), n_train) for e in range(plan.epochs)]
    workers = count_workers(request)
    is_full = workers * request.resources["cpus"] >= count_cpus() > 1
    curves = EstimatedCurves(
        plan.epochs,
        statistics.fmean(sizes) + TEST_SHARE * counts[1],
        unit_s * (SHARED if is_full else 1.0),
    )
    n_simulated = min(plan.trials, MAX_SIMULATED)
    epochs = simulate_trials(request, stand_ins, curves, min(workers, n_simulated))
    duration_s = max((epoch.at_s for epoch in epochs), default=0.0)
    is_cut = len({epoch.number for epoch in epochs}) == n_simulated
    return duration_s * (plan.trials / n_simulated if is_cut else 1.0)


def simulate_trials(
    request: SearchRequest, stand_ins: StandIns, curves: EstimatedCurves, workers: int
) -> list[Epoch]:
    """Simulate at most `MAX_SIMULATED` trials of a search.

    Args:
        request: What the search will do.
        stand_ins: What is trained.
        curves: The learning curves.
        workers: Number of trials that run at the same time.

    Returns:
        The epochs in the order in which they end.
    """
    plan = request.plan
    strata = Strata(plan.strata, [1.0] * len(plan.strata)) if plan.strata else None

    def describe(proposal: Proposal) -> dict[str, Any]:
        columns = get_architecture_columns(proposal.config)
        return {"point": proposal.point, "epoch_time_s": columns["flops"], **columns}

    return list(
        simulate_search(
            stand_ins,
            make_stopping_rule(plan, strata),
            curves,
            trials=min(plan.trials, MAX_SIMULATED),
            epochs=plan.epochs,
            workers=workers,
            describe=describe,
        )
    )


def make_forecast(request: SearchRequest) -> Forecast | None:
    """Expect from a simulation how many epochs trials run, for the time left during the search.

    Args:
        request: What the search will do.

    Returns:
        What is expected; None if nothing is proposed.
    """
    full, stand_ins = request.plan.epochs, StandIns(request)
    totals: list[Counter[int]] = []
    costs: dict[int, float] = {}
    for seed in range(N_FORECASTS):
        curves = EstimatedCurves(full, 1.0, 1.0, np.random.default_rng(seed))
        simulated = simulate_trials(request, stand_ins, curves, count_workers(request))
        totals.append(Counter(epoch.number for epoch in simulated))
        for epoch in simulated:
            if epoch.proposal.point is None and epoch.number not in costs:
                costs[epoch.number] = compute_image_cost(epoch.proposal.config)
    if not totals[0]:
        return None
    means = [statistics.fmean(total[n] for total in totals) for n in range(len(totals[0]))]
    window = [
        statistics.fmean(means[max(n - SMOOTHED, 0) : n + SMOOTHED + 1]) for n in range(len(means))
    ]
    lengths = [length for total in totals for length in total.values()]
    alive = [
        statistics.fmean([length for length in lengths if length > done] or [full])
        for done in range(full)
    ]
    first = simulated[0].proposal.config
    return Forecast(window, alive, lengths, list(costs.values()) or [compute_image_cost(first)])


def measure_unit(configs: Sequence[Config], threads: int) -> tuple[float, float]:
    """Measure a few training steps on random pixels, on the CPU.

    Args:
        configs: Configurations, of which the first, the middle and the last one are measured.
        threads: Cores of a trial.

    Returns:
        Seconds per image and unit of `compute_image_cost`, and seconds of the first configuration's
        step.
    """
    import torch

    chosen = {0: None, len(configs) // 2: None, len(configs) - 1: None}
    threads_before = torch.get_num_threads()
    torch.set_num_threads(min(threads, count_cpus()))
    units, steps_s = [], []
    try:
        with torch.random.fork_rng(devices=[]):
            for index in list(chosen)[:N_MEASURED]:
                config = configs[index]
                step_s = measure_step(config)
                steps_s.append(step_s)
                units.append(step_s / config.batch_size / compute_image_cost(config))
    finally:
        torch.set_num_threads(threads_before)
    return statistics.geometric_mean(units), steps_s[0]


def measure_step(config: Config) -> float:
    """Measure a training step on random pixels.

    Args:
        config: The configuration.

    Returns:
        The median duration of a step in seconds, after one step that does not count.
    """
    import torch

    from raycae.training.device import put_on_device
    from raycae.training.trainer import Training

    size = config.image_size
    affordable = int(MEASURED_FLOPS / build_architecture(config).flops)
    n = min(config.batch_size, max(affordable, 2))
    pixels = np.random.default_rng(0).integers(0, 256, (n, size, size, 3), np.uint8)
    labels = np.zeros(n, np.int64) if config.classes else None
    images = put_on_device(pixels, torch.device("cpu"), labels)
    # PCA as the initial weights takes seconds and does not change the duration of a step.
    path = "random" if config.linear_path == "pca" else config.linear_path
    training = Training(config.model_copy(update={"linear_path": path}), images, images, epochs=1)
    training.epoch = 1
    training._train()
    durations_s: list[float] = []
    begun_s = time.perf_counter()
    while not durations_s or time.perf_counter() - begun_s < MEASURED_S:
        started_s = time.perf_counter()
        training._train()
        durations_s.append(time.perf_counter() - started_s)
    return statistics.median(durations_s) * config.batch_size / n
