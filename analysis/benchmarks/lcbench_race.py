"""Race over LCBench: how good the best trial of each method is after 5, 10 and 20 full trainings.

Every method searches the same space over the same learning curves (`lcbench.Task`) with simulated
workers, by the searcher and early-stopping code of a real search. Regret is 0 at the best and 1 at
the median of 3,000 random configurations that ran to their end, on a logarithmic scale. raycae's
defaults were chosen with the tasks `lcbench.DEVELOPMENT` and seeds 1 to 3; the tasks
`lcbench.HELD_OUT` and seeds from 101 on were never looked at before. Every run is saved in
`analysis/recorded/lcbench/runs.csv` as soon as it ends, and runs that are saved are not repeated.

    python analysis/benchmarks/lcbench_race.py DATA [--seeds 101-105] [--tasks held-out]
        [--methods BEGINNING;BEGINNING] [--workers 4] [--budgets 260,520,1040]

DATA is the folder of the surrogate (see `lcbench`). `--seeds ""` only prints the tables. With 64
workers the runs are in `runs-64.csv`, with other budgets in `runs-WORKERS-EPOCHS.csv`. syne-tune,
SMAC, NePS and BOHB must be installed in separate environments (see `race`; `pip install
neural-pipeline-search==0.17.0` for NePS, `hpbandster==0.7.4` for BOHB).
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import Any

import lcbench
import numpy as np
import pandas as pd
import race
import rivals

from raycae.execution.simulator import simulate_search

FOLDER = race.RECORDED / "lcbench"
BUDGETS = (260, 520, 1040)
"""Epochs of 5, 10 and 20 full trainings."""
GROUPS = {
    "development": lcbench.DEVELOPMENT,
    "held-out": lcbench.HELD_OUT,
    "all": lcbench.DEVELOPMENT + lcbench.HELD_OUT,
}
METHODS: dict[str, race.Contender] = {
    "raycae: TPE + ASHA (default)": race.make_raycae("tpe", "asha"),
    "raycae: random + ASHA": race.make_raycae("random", "asha"),
    "raycae: TPE + ASHA, grace 1": race.make_raycae("tpe", "asha", grace=1),
    "raycae: random + ASHA, grace 1": race.make_raycae("random", "asha", grace=1),
    "raycae: TPE + Hyperband": race.make_raycae("tpe", "hyperband"),
    "Ray: random + ASHA": race.make_rival(rivals.RandomRayASHA),
    "Ray: OptunaSearch + ASHA": race.make_rival(rivals.RayOptunaSearch),
    "Optuna: TPE + Hyperband": race.make_rival(rivals.OptunaHyperband),
    "Optuna: multivariate TPE + successive halving": race.make_rival(rivals.OptunaHalving),
    "syne-tune: ASHACQR": race.make_rival(rivals.SyneTune),
    "SMAC3: random forest + Hyperband": race.make_rival(rivals.SMAC),
    "NePS: PriorBand": race.make_rival(rivals.NePS),
    "BOHB: kernel densities + Hyperband": race.make_rival(rivals.BOHB),
}
SAME_RULE = {
    "raycae: TPE + ASHA (default)": "raycae: random + ASHA",
    "raycae: TPE + ASHA, grace 1": "raycae: random + ASHA, grace 1",
    "Ray: OptunaSearch + ASHA": "Ray: random + ASHA",
}
"""Methods, and random proposals with the same early stopping."""


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("data", type=Path)
    parser.add_argument("--seeds", default="101-105")
    parser.add_argument("--tasks", default="held-out", help="group, or ids with commas")
    parser.add_argument("--methods", default="")
    parser.add_argument("--workers", type=int, default=race.WORKERS)
    parser.add_argument("--budgets", default=",".join(map(str, BUDGETS)))
    options = parser.parse_args()
    beginnings = options.methods.split(";")
    chosen = [name for name in METHODS if any(name.startswith(part) for part in beginnings)]
    budgets = tuple(map(int, options.budgets.split(",")))
    kind = f"-{options.workers}" if options.workers != race.WORKERS else ""
    if budgets != BUDGETS:
        kind = f"-{options.workers}-{budgets[-1]}"
    path = FOLDER / f"runs{kind}.csv"
    tasks = GROUPS.get(options.tasks) or tuple(options.tasks.split(","))
    if options.seeds:
        seeds = race.parse_seeds(options.seeds)
        run_all(options.data, path, tasks, chosen, seeds, options.workers, budgets)
    runs = add_regret(pd.read_csv(path, dtype={"task": str}))
    for group, members in GROUPS.items():
        own = runs[runs["task"].isin(members)]
        if len(own):
            print(f"\n{group}:\n{make_table(own).to_string()}")


def run_all(
    data: Path,
    path: Path,
    tasks: tuple[str, ...],
    methods: list[str],
    seeds: range,
    workers: int,
    budgets: tuple[int, ...],
) -> None:
    """Run the methods with each seed on each task, without those that are saved."""
    saved = set()
    if path.exists():
        saved = set(
            pd.read_csv(path, dtype={"task": str})[["task", "method", "seed"]].itertuples(False)
        )
        saved = {tuple(key) for key in saved}
    for seed in seeds:
        for name in tasks:
            task: lcbench.Task | None = None
            for method in methods:
                if (name, method, seed) in saved:
                    continue
                if task is None:
                    task = lcbench.Task(data, name)
                    save_marks(task)
                begin_s = time.process_time()
                found = run(task, METHODS[method], seed, workers, budgets)
                save(path, {"task": name, "method": method, "seed": seed, **found})
                print(f"{name} {method} {seed}: {time.process_time() - begin_s:.1f} s", flush=True)


def run(
    task: lcbench.Task,
    contender: race.Contender,
    seed: int,
    workers: int,
    budgets: tuple[int, ...] = BUDGETS,
) -> dict[str, Any]:
    """Run one method with one seed.

    Returns:
        The lowest error in per cent after each of `budgets` epochs, and the number of trials.
    """
    searcher, stopping = contender(task, seed)
    epochs = simulate_search(
        searcher, stopping, task, trials=10**6, epochs=task.epochs, workers=workers
    )
    # SMAC runs a configuration again on a larger budget; the epochs it has had count once.
    spent: set[tuple[Any, int]] = set()
    least, found, n_trials = np.inf, {}, 0
    for epoch in epochs:
        spent.add((epoch.proposal.config, epoch.epoch))
        n_trials = max(n_trials, epoch.number + 1)
        if epoch.error is not None:
            least = min(least, epoch.error)
        if len(spent) in budgets:
            found.setdefault(f"error_{len(spent)}", least)
        if len(spent) == budgets[-1]:
            break
    return {**found, "trials": n_trials}


def save(path: Path, row: dict[str, Any]) -> None:
    """Append a run to the table."""
    path.parent.mkdir(exist_ok=True)
    line = pd.DataFrame([row]).to_csv(index=False, header=not path.exists(), float_format="%.6g")
    with path.open("a") as file:
        file.write(line)


def save_marks(task: lcbench.Task) -> None:
    """Append the marks of a task to `marks.csv`, unless they are there."""
    path = FOLDER / "marks.csv"
    if not path.exists() or task.name not in set(pd.read_csv(path, dtype=str)["task"]):
        save(path, {"task": task.name, **task.marks})


def list_budgets(runs: pd.DataFrame) -> list[int]:
    """List the budgets of a table of runs, in epochs."""
    return [int(name.removeprefix("error_")) for name in runs if name.startswith("error_")]


def add_regret(runs: pd.DataFrame) -> pd.DataFrame:
    """Add the normalised regret after each budget, `regret_260` and so on."""
    marks = pd.read_csv(FOLDER / "marks.csv", dtype={"task": str})
    marks = marks.drop_duplicates("task").set_index("task")
    best, median = (runs["task"].map(marks[name]) for name in ("best", "median"))
    columns = {
        f"regret_{budget}": np.log(runs[f"error_{budget}"] / best) / np.log(median / best)
        for budget in list_budgets(runs)
    }
    return runs.assign(**columns)


def make_table(runs: pd.DataFrame) -> pd.DataFrame:
    """Make a row for each method: regrets, ranks, and comparison with random proposals.

    Medians and mean ranks have 95 % bootstrap intervals; tasks are resampled, then seeds. Ranks
    are of the tasks and seeds that all methods of the table ran with.
    """
    rows, budgets = {}, list_budgets(runs)
    pivots = {
        budget: runs.pivot_table(
            index=["task", "seed"], columns="method", values=f"regret_{budget}"
        )
        for budget in budgets
    }
    names = [name for name in METHODS if name in pivots[budgets[0]]]
    ranks = {budget: pivots[budget][names].dropna().rank(axis=1) for budget in budgets}
    for name in names:
        row: dict[str, Any] = {"runs": int(pivots[budgets[0]][name].notna().sum())}
        for budget in budgets:
            own = pivots[budget][name].dropna()
            row[f"regret {budget}"] = format_bootstrap(own, np.median)
        for budget in budgets:
            if len(own := ranks[budget][name]):
                row[f"rank {budget} of {len(own)}"] = format_bootstrap(own, np.mean)
        if SAME_RULE.get(name) in names:
            pair = pivots[budgets[-1]][[name, SAME_RULE[name]]].dropna()
            worse = pair[name] > pair[SAME_RULE[name]]
            medians = pair.groupby("task").median()
            n_tasks = int((medians[name] > medians[SAME_RULE[name]]).sum())
            row["worse than random"] = f"{worse.mean():.0%} of runs, {n_tasks} tasks"
        rows[name] = row
    return pd.DataFrame(rows).T.fillna("")


def format_bootstrap(values: pd.Series, estimate: Any) -> str:
    """Format an estimate and its 95 % interval; tasks are resampled, then seeds within a task."""
    draw = np.random.default_rng(0)
    groups = [own.to_numpy() for _, own in values.groupby("task")]
    samples = []
    for _ in range(1000):
        picked = draw.integers(len(groups), size=len(groups))
        samples.append(
            estimate(np.concatenate([draw.choice(g, len(g)) for g in (groups[i] for i in picked)]))
        )
    low, high = np.quantile(samples, [0.025, 0.975])
    return f"{estimate(values):.2f} ({low:.2f} to {high:.2f})"


if __name__ == "__main__":
    main()
