"""Ranks of trials among others of similar cost, for studies of a Pareto front."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
import pandas as pd

from raycae.report.trials import rank_trials

SIMILAR = {
    "latent_size": "similar latent size",
    "n_params": "a similar number of parameters",
    "flops": "similar FLOPs",
    "epoch_time_s": "a similar time of an epoch",
}
"""The costs in a sentence about trials that are compared with one another."""
FEWEST_SIMILAR = 10
"""Trials of similar cost that are compared with one another; one of them is the best tenth."""
SIMILAR_FACTOR = 1.1
"""Costs are similar if the largest is at most this many times the smallest."""
MOST_GROUPS = 20
"""Largest number of groups of similar cost."""


def have_similar_cost(trials: pd.DataFrame, cost: str) -> bool:
    """Check whether the errors of trials can be compared without regard to their cost.

    Args:
        trials: Trials with a measured error.
        cost: The column of the cost.
    """
    costs = trials[cost].dropna().astype(float)
    return costs.empty or bool(costs.max() <= SIMILAR_FACTOR * costs.min())


def rank_by_error(trials: pd.DataFrame, cost: str | None = None) -> pd.DataFrame:
    """Sort trials with a measured error, the best first.

    Args:
        trials: Trials with a measured error.
        cost: The second objective. The error is then compared at similar cost only; see
            `compute_relative_ranks`.
    """
    if cost is None:
        return rank_trials(trials)
    ranks = compute_relative_ranks(trials, cost)
    return trials.iloc[np.lexsort((trials["trial_number"].to_numpy(int), ranks))]


def compute_relative_ranks(
    trials: pd.DataFrame, cost: str, target: str = "val_mse"
) -> npt.NDArray[np.float64]:
    """Rank trials by error among those of similar cost.

    A larger latent has less error whatever else was drawn, so errors of all sizes are not compared.
    Sorted by cost, the trials are cut into groups of at least `FEWEST_SIMILAR`, at most
    `MOST_GROUPS`; equal costs stay together, and a group that is too small so joins the next.

    Args:
        trials: Trials with a measured error.
        cost: The column of the cost.
        target: The column that is ranked.

    Returns:
        The share of its group that is better than the trial, half of itself included; 0 to 1.
    """
    n = len(trials)
    n_groups = max(1, min(n // FEWEST_SIMILAR, MOST_GROUPS))
    costs = pd.Series(trials[cost].to_numpy(float, na_value=math.nan))
    groups = join_small_groups((costs.rank(method="min", na_option="bottom") - 1) * n_groups // n)
    ranks = pd.Series(trials[target].to_numpy(float)).groupby(groups.to_numpy()).rank()
    shares: npt.NDArray[np.float64] = (ranks - 0.5).to_numpy(float)
    return shares / groups.map(groups.value_counts()).to_numpy(float)


def join_small_groups(groups: pd.Series[float]) -> pd.Series[float]:
    """Join groups of fewer than `FEWEST_SIMILAR` trials with a neighbour.

    Args:
        groups: The group of each trial; groups are ordered by their number.
    """
    joined: dict[float, float] = {}
    starts: list[float] = []
    n_trials = FEWEST_SIMILAR
    numbers, counts = np.unique(groups.to_numpy(float), return_counts=True)
    for group, n in zip(numbers.tolist(), counts.tolist(), strict=True):
        if n_trials >= FEWEST_SIMILAR:
            starts.append(group)
            n_trials = 0
        joined[group] = starts[-1]
        n_trials += n
    if n_trials < FEWEST_SIMILAR and len(starts) > 1:
        last, before = starts[-1], starts[-2]
        joined = {g: before if start == last else start for g, start in joined.items()}
    return groups.map(joined)
