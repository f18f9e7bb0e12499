"""Verdicts and intervals for claims about paired experiments."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from scipy import special, stats

UPHELD, CONTRADICTED, UNDECIDED, MISSING = "upheld", "contradicted", "undecided", "not run"
CONFIDENCE = 0.95
MOST = 1000
"""Largest number of seeds or epochs that is named as necessary."""
LEAST_VALUES = 4
"""Number of different values of both variables that a rank correlation needs."""


def decide_verdict(low: float, high: float, threshold: float = 0.0) -> str:
    """Decide whether a claim is upheld.

    Args:
        low: The lower end of the interval of `lower` minus `higher`, on any scale.
        high: Its upper end.
        threshold: The claim is that the difference lies below it.
    """
    if high < threshold:
        return UPHELD
    if low > threshold:
        return CONTRADICTED
    return UNDECIDED


def compute_interval(differences: Sequence[float]) -> tuple[float, float]:
    """Compute the t-interval of the mean of `differences`, with `CONFIDENCE`.

    Args:
        differences: One number per seed, at least one.

    Returns:
        Both ends; infinite for a single difference, which has no spread.
    """
    mean = float(np.mean(differences))
    half = compute_half_width(differences, len(differences))
    return mean - half, mean + half


def compute_p_value(differences: Sequence[float], threshold: float = 0.0) -> float | None:
    """Compute the two-sided p-value of the mean of `differences` against `threshold`.

    Args:
        differences: One number per seed, at least one.
        threshold: What the mean is compared with.

    Returns:
        Below 1 - `CONFIDENCE` where `compute_interval` does not reach the threshold; None for a
        single difference.
    """
    n = len(differences)
    if n < 2:
        return None
    distance = abs(float(np.mean(differences)) - threshold)
    error = float(np.std(differences, ddof=1)) / math.sqrt(n)
    if error == 0:
        return 0.0 if distance else 1.0
    return 2 * float(special.stdtr(n - 1, -distance / error))


def estimate_seeds_needed(differences: Sequence[float], threshold: float = 0.0) -> int | None:
    """Estimate how many seeds would decide if mean and spread stayed what they are.

    Args:
        differences: One number per seed, at least two.
        threshold: What the mean is compared with.

    Returns:
        Number of seeds; None above `MOST`.
    """
    distance = abs(float(np.mean(differences)) - threshold)
    for n in range(len(differences), MOST + 1):
        if compute_half_width(differences, n) < distance:
            return n
    return None


def compute_rank_correlation(
    x: Sequence[float], y: Sequence[float]
) -> tuple[float, float, float] | None:
    """Compute Spearman's rank correlation and its interval with `CONFIDENCE`.

    Source of the interval: Bonett and Wright, "Sample size requirements for estimating Pearson,
    Kendall and Spearman correlations", 2000.

    Args:
        x: One number per pair.
        y: As many numbers.

    Returns:
        The correlation and both ends; None where either has fewer than `LEAST_VALUES` different
        values, for a correlation is then little more than a comparison of two groups.
    """
    if min(len(set(x)), len(set(y))) < LEAST_VALUES:
        return None
    rho = float(stats.spearmanr(x, y).statistic)
    half = stats.norm.ppf((1 + CONFIDENCE) / 2) * math.sqrt((1 + rho**2 / 2) / (len(x) - 3))
    limit = 1 - 1 / len(x) ** 2  # a perfect order of a few is no certainty
    centre = math.atanh(min(max(rho, -limit), limit))
    return rho, min(math.tanh(centre - half), rho), max(math.tanh(centre + half), rho)


def compute_half_width(differences: Sequence[float], n: int) -> float:
    """Compute half the interval of a mean of `n` numbers.

    Args:
        differences: Numbers with the same spread.
        n: How many numbers the mean is of.

    Returns:
        Half the width; infinite for fewer than two differences.
    """
    if len(differences) < 2:
        return math.inf
    quantile = float(special.stdtrit(n - 1, (1 + CONFIDENCE) / 2))
    return quantile * float(np.std(differences, ddof=1)) / math.sqrt(n)
