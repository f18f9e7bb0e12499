"""When a sentence of the report may single something out."""

from __future__ import annotations

from typing import Any

import numpy as np
from scipy.special import gammaln

LEVEL = 0.05 / 6
"""The chance that pure noise makes a sentence of the report single something out. Six sentences do
so (importance, values in common, pairs, edges, regions of failures, shapes), so of all reports of
pure noise at most 5 % hold a false statement."""


def compute_chance_of_marked(n: int, n_marked: int, n_drawn: int, at_least: int) -> float:
    """Compute the probability that a random draw contains at least a given number of marked trials.

    This is the upper tail of the hypergeometric distribution.

    Args:
        n: Number of trials.
        n_marked: Number of marked trials among them.
        n_drawn: Number of trials that are drawn at random, without replacement.
        at_least: Number of marked trials in the draw.

    Returns:
        A probability from 0 to 1.
    """
    low, high = max(at_least, n_drawn - (n - n_marked)), min(n_marked, n_drawn)
    k = np.arange(low, high + 1)
    logs = compute_log_choose(n_marked, k) + compute_log_choose(n - n_marked, n_drawn - k)
    return min(1.0, float(np.exp(logs - compute_log_choose(n, n_drawn)).sum()))


def compute_log_choose(n: int, k: Any) -> Any:
    """Compute the natural logarithm of the binomial coefficient `n` over `k`.

    Args:
        n: Size of the set.
        k: Size of the subsets, a number or an array.
    """
    return gammaln(n + 1) - gammaln(k + 1) - gammaln(n - k + 1)
