"""Variants of the sampler and of the early stopping on LCBench, with a fast twin of Optuna's TPE.

The twin has the formulas of Optuna 5.0's multivariate TPE (bandwidths from the distances to
neighbours, the best tenth against the rest, 24 candidates) for the seven numeric hyperparameters of
LCBench alone, in the unit cube. A search takes a quarter of a second of a core, so variants that
raycae does not have can be compared with many seeds. The early stopping is raycae's. What was
chosen is measured again with raycae's own sampler by `lcbench_race.py`.

One line for each variant: median and mean regret after 260, 520 and 1,040 epochs, and the trials
that were begun.

    python analysis/benchmarks/lcbench_variants.py DATA [--tasks development] [--seeds 1-8]
        [--rules asha-4-4,…] [--proposals random,compared-10,…] [--workers 4]
"""

from __future__ import annotations

import argparse
import heapq
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import lcbench
import lcbench_race
import numpy as np
import pandas as pd
import race
from scipy.special import ndtr, ndtri

from raycae.optimization.early_stopping import ASHA, Hyperband, StoppingRule

N_STARTUP = 10
WINDOW = 200


@dataclass
class Trial:
    """A trial: its point in the unit cube, its whole curve, and how far it has come."""

    number: int
    point: Any
    errors: Any
    epoch_s: float
    n_epochs: int = 0
    state: str = "RUNNING"

    def lowest(self, epochs: int | None = None) -> float:
        """Return the lowest error, in the first `epochs` epochs or so far."""
        return float(self.errors[: self.n_epochs if epochs is None else epochs].min())


@dataclass
class Proposals:
    """How points are proposed.

    Attributes:
        values: `random`; `extrapolated`: stopped trials are extrapolated by median factors (raycae
            until 2026-11-30); `compared`: at the highest epoch that `needed` trials have reached.
        needed: Number of trials for `compared`.
        keeps_rest: With `compared`, the other trials count as worse than all of these.
        startup: Number of trials that must have an epoch before the first proposal of TPE.
        share: Share of the trials that TPE takes for the best.
        candidates: Number of TPE's candidates.
        random_every: Every n-th proposal is random; 0 for none.
        copies: Share of the coordinates that every second proposal takes from the best trial.
    """

    values: str = "compared"
    needed: int = 10
    keeps_rest: bool = False
    startup: int = N_STARTUP
    share: float = 0.1
    candidates: int = 24
    random_every: int = 0
    copies: float = 0.0

    def propose(self, draw: np.random.Generator, trials: list[Trial]) -> Any:
        """Propose a point in the unit cube."""
        if self.random_every and len(trials) % self.random_every == self.random_every - 1:
            return draw.random(7)
        seen = select_recent(trials)
        if self.values == "random" or len(seen) < self.startup:
            return draw.random(7)
        ranked, rest = self._rank(seen)
        n_best = min(math.ceil(self.share * len(ranked)), 25)
        best, others = ranked[:n_best], ranked[n_best:] + (rest if self.keeps_rest else [])
        near, far = (fit(sorted(group, key=lambda t: t.number)) for group in (best, others))
        point = sample_best(draw, near, far, self.candidates)
        if self.copies and draw.random() < 0.5:
            is_copied = draw.random(7) < self.copies
            point = np.where(is_copied, ranked[0].point, point)
        return point

    def _rank(self, seen: list[Trial]) -> tuple[list[Trial], list[Trial]]:
        """Return the trials that are compared, best first, and the others."""
        if self.values == "extrapolated":
            estimates = extrapolate(seen)
            return [seen[i] for i in np.argsort(estimates, kind="stable")], []
        reached = sorted((t.n_epochs for t in seen), reverse=True)
        epoch = reached[min(self.needed, len(reached)) - 1]
        ranked = [t for t in seen if t.n_epochs >= epoch]
        ranked.sort(key=lambda t: t.lowest(epoch))
        return ranked, [t for t in seen if t.n_epochs < epoch]


def make_variants() -> dict[str, Proposals]:
    """Return the proposals by name."""
    variants = {f"compared-{n}": Proposals(needed=n) for n in (5, 9, 10, 15)}
    compared = {"needed": 9}
    return variants | {
        "random": Proposals("random"),
        "extrapolated": Proposals("extrapolated"),
        "rest-worse": Proposals(**compared, keeps_rest=True),
        "best-fifth": Proposals(**compared, share=0.2),
        "best-fifth-rest-worse": Proposals(**compared, share=0.2, keeps_rest=True),
        "best-twentieth": Proposals(**compared, share=0.05),
        "candidates-128": Proposals(**compared, candidates=128),
        "random-third": Proposals(**compared, random_every=3),
        "copies": Proposals(needed=5, copies=0.7),
        "random-half": Proposals(random_every=2),
        "random-quarter": Proposals(random_every=4),
        "candidates-2": Proposals(candidates=2),
        "candidates-6": Proposals(candidates=6),
        "compared-20": Proposals(needed=20),
        "compared-40": Proposals(needed=40),
        "startup-30": Proposals(startup=30),
        "startup-100": Proposals(startup=100),
        "startup-200": Proposals(startup=200),
    }


def make_rule(name: str) -> StoppingRule:
    """Make a rule from its name: `asha` or `hyperband`, grace, factor."""
    kind, grace, factor = name.split("-")
    make: Callable[..., StoppingRule] = {"asha": ASHA, "hyperband": Hyperband}[kind]
    return make(lcbench.EPOCHS, grace=int(grace), factor=int(factor))


def select_recent(trials: list[Trial]) -> list[Trial]:
    """Return what raycae's window holds: the best, the running and the newest trials."""
    ended = [t for t in trials if t.state != "RUNNING"]
    running = [t for t in trials if t.state == "RUNNING" and t.n_epochs][-WINDOW // 4 :]
    complete = [t for t in ended if t.state == "COMPLETE"]
    best = sorted(complete, key=lambda t: t.lowest())[: WINDOW // 4]
    chosen = {t.number for t in best}
    newest = [t for t in ended[::-1] if t.number not in chosen]
    found = best + running + newest[: WINDOW - len(best) - len(running)]
    return sorted(found, key=lambda t: t.number)


def extrapolate(trials: list[Trial]) -> Any:
    """Return log errors, extrapolated by the median changes of the trials that ran longer."""
    curves = [np.log(np.minimum.accumulate(t.errors[: t.n_epochs])) for t in trials]
    change = [0.0] * (max(map(len, curves)) + 1)
    for n in range(len(change) - 2, 0, -1):
        steps = [curve[n] - curve[n - 1] for curve in curves if n < len(curve)]
        change[n] = change[n + 1] + float(np.median(steps))
    return np.array([curve[-1] + change[len(curve)] for curve in curves])


def fit(trials: list[Trial]) -> tuple[Any, Any, Any]:
    """Return means, widths and weights of Optuna's Parzen estimator, the prior last."""
    n = len(trials)
    if n == 0:
        return np.full((1, 7), 0.5), np.ones((1, 7)), np.ones(1)
    points = np.array([t.point for t in trials])
    order = np.argsort(points, axis=0, kind="stable")
    ends = np.vstack([np.zeros(7), np.take_along_axis(points, order, 0), np.ones(7)])
    gaps = np.maximum(ends[1:-1] - ends[:-2], ends[2:] - ends[1:-1])
    if n > 1:
        gaps[0], gaps[-1] = ends[2] - ends[1], ends[-2] - ends[-3]
    widths = np.empty_like(gaps)
    np.put_along_axis(widths, order, np.clip(gaps, 1 / min(100, n + 2), 1), 0)
    ramp = np.linspace(1 / n, 1, n - 25) if n > 25 else np.empty(0)
    weights = np.concatenate([ramp, np.ones(min(n, 25)), [1.0]])
    means = np.vstack([points, np.full(7, 0.5)])
    return means, np.vstack([widths, np.ones(7)]), weights / weights.sum()


def sample_best(draw: np.random.Generator, near: Any, far: Any, candidates: int) -> Any:
    """Draw candidates from `near` and return the one with the highest density ratio."""
    means, widths, weights = near
    picked = draw.choice(len(weights), candidates, p=weights)
    mean, width = means[picked], widths[picked]
    low, high = ndtr(-mean / width), ndtr((1 - mean) / width)
    points = mean + width * ndtri(low + draw.random(mean.shape) * (high - low))
    points = np.clip(points, 0, 1)
    return points[np.argmax(compute_log_density(near, points) - compute_log_density(far, points))]


def compute_log_density(estimator: Any, points: Any) -> Any:
    """Return the log density of a mixture of truncated normal products at points, (N,)."""
    means, widths, weights = estimator
    scale = np.log(ndtr((1 - means) / widths) - ndtr(-means / widths)) + np.log(widths)
    squares = (((points[:, None] - means) / widths) ** 2).sum(axis=2)
    return np.logaddexp.reduce(np.log(weights) - scale.sum(axis=1) - squares / 2, axis=1)


@dataclass
class Search:
    """A search with simulated workers.

    Attributes:
        task: The task.
        proposals: How points are proposed.
        rule: The early stopping.
        draw: Random numbers.
        workers: Number of workers.
    """

    task: lcbench.Task
    proposals: Proposals
    rule: StoppingRule
    draw: np.random.Generator
    workers: int
    trials: list[Trial] = field(default_factory=list)

    def run(self) -> dict[str, Any]:
        """Return the lowest errors after the budgets, and the number of trials."""
        ends: list[tuple[float, int]] = []
        at_s, least, found = 0.0, math.inf, {}
        for n_spent in range(1, lcbench_race.BUDGETS[-1] + 1):
            while len(ends) < self.workers:
                trial = self._begin()
                heapq.heappush(ends, (at_s + trial.epoch_s, trial.number))
            at_s, number = heapq.heappop(ends)
            trial = self.trials[number]
            trial.n_epochs += 1
            error = float(trial.errors[trial.n_epochs - 1])
            least = min(least, error)
            if trial.n_epochs == lcbench.EPOCHS:
                trial.state = "COMPLETE"
            elif not self.rule.report(number, trial.n_epochs, error):
                trial.state = "PRUNED"
            else:
                heapq.heappush(ends, (at_s + trial.epoch_s, number))
            if n_spent in lcbench_race.BUDGETS:
                found[f"error_{n_spent}"] = least
        return {**found, "trials": len(self.trials)}

    def _begin(self) -> Trial:
        point = self.proposals.propose(self.draw, self.trials)
        errors, seconds = self.task.predict(self.task.scale(point[None]))
        trial = Trial(len(self.trials), point, errors[0], float(seconds[0]))
        self.trials.append(trial)
        return trial


def main() -> None:
    variants = make_variants()
    parser = argparse.ArgumentParser()
    parser.add_argument("data", type=Path)
    parser.add_argument("--tasks", default="development", choices=lcbench_race.GROUPS)
    parser.add_argument("--seeds", default="1-8")
    parser.add_argument("--rules", default="asha-4-4")
    parser.add_argument("--proposals", default=",".join(variants))
    parser.add_argument("--workers", type=int, default=race.WORKERS)
    options = parser.parse_args()
    tasks = [lcbench.Task(options.data, name) for name in lcbench_race.GROUPS[options.tasks]]
    for rule in options.rules.split(","):
        for name in options.proposals.split(","):
            rows = [
                Search(
                    task,
                    variants[name],
                    make_rule(rule),
                    np.random.default_rng([seed, n]),
                    options.workers,
                ).run()
                | {"task": task.name, "median": task.marks["median"], "best": task.marks["best"]}
                for seed in race.parse_seeds(options.seeds)
                for n, task in enumerate(tasks)
            ]
            runs = pd.DataFrame(rows)
            texts = []
            for budget in lcbench_race.BUDGETS:
                regrets = np.log(runs[f"error_{budget}"] / runs["best"])
                regrets /= np.log(runs["median"] / runs["best"])
                texts.append(f"{regrets.median():.2f} ({regrets.mean():.3f})")
            print(f"{rule:14}{name:22}", *texts, f"{runs['trials'].mean():.0f} trials", flush=True)


if __name__ == "__main__":
    main()
