"""PED-ANOVA: how differently the best trials and all trials are spread over a parameter."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
from scipy.special import ndtr

from raycae.report.sampled_values import BEST, Parameter, get_drawn_values, get_position
from raycae.space.parameters import CategoricalParameter, IntParameter

GRID = 50
"""Cells of a numerical parameter's range; Optuna's PED-ANOVA has as many."""


Cells = tuple[npt.NDArray[np.int64], int, bool]
"""The cell of each trial's value (-1: the trial did not draw the parameter), how many cells there
are, and whether they have no order."""


def assign_cells(rows: pd.DataFrame, name: str, parameter: Parameter) -> Cells:
    """Assign what each trial drew to the cells of Optuna's PED-ANOVA.

    Args:
        rows: The trials.
        name: The name of the parameter.
        parameter: The parameter.
    """
    drawn = get_drawn_values(rows, name, parameter)
    if isinstance(parameter, CategoricalParameter):
        index_of = {label: i for i, label in enumerate(parameter.labels)}
        cells = [-1 if value is None else index_of[value] for value in drawn]
        return np.array(cells, np.int64), len(index_of), True
    n_cells, distribution = GRID, parameter.distribution
    if isinstance(parameter, IntParameter) and parameter.log:
        n_cells = math.ceil(math.log2(parameter.high - parameter.low + 1)) + 1
    elif step := getattr(distribution, "step", None):
        n_cells = round((parameter.high - parameter.low) / step) + 1
    n_cells = max(1, min(n_cells, GRID))
    positions = [-1 if value is None else get_position(value, parameter) for value in drawn]
    # Halves go to the lower cell, as in Optuna.
    cells = [
        -1 if position < 0 else min(math.ceil(position * (n_cells - 1) - 0.5), n_cells - 1)
        for position in positions
    ]
    return np.array(cells, np.int64), n_cells, False


def compute_divergences(
    column: Cells, order: npt.NDArray[np.int64], errors: npt.NDArray[np.float64]
) -> npt.NDArray[np.float64]:
    """Compute a parameter's importance in every repetition.

    Args:
        column: Where the trials lie, (n,).
        order: The trials of each repetition, (R, n), or (1, n) where all have the same.
        errors: Their errors, (R, n).

    Returns:
        Importance, (R,), at least 0; as Optuna scales it but for a factor that all parameters
        share.
    """
    cells, n_cells, unordered = column
    if n_cells < 2:
        return np.zeros(len(errors))
    n_best = math.ceil(BEST * errors.shape[1])
    cutoff = np.partition(errors, n_best - 1, axis=1)[:, n_best - 1 : n_best]
    best = errors <= cutoff
    counts_all = count_chosen(cells[order], np.ones(order.shape, bool), n_cells)  # (1 or R, cells)
    counts_best = count_chosen(np.broadcast_to(cells[order], best.shape), best, n_cells)
    density_all = estimate_density(counts_all, unordered)
    density_best = estimate_density(counts_best, unordered)
    divergence = (density_all * (density_best / density_all - 1) ** 2).sum(axis=1)
    drew_all, drew_best = counts_all.sum(axis=1), counts_best.sum(axis=1)
    n_all, n_chosen = errors.shape[1], best.sum(axis=1)
    weight = (drew_best / n_chosen) ** 2 / np.maximum(drew_all / n_all, 1e-300)
    found: npt.NDArray[np.float64] = np.where(drew_all > 1, weight * divergence, 0.0)
    return found * (n_chosen / n_all) ** 2


def count_chosen(
    cells: npt.NDArray[np.int64], chosen: npt.NDArray[np.bool_], n_cells: int
) -> npt.NDArray[np.float64]:
    """Count the chosen trials in each cell.

    Args:
        cells: The cell of each trial, (R, n); -1 if the trial did not draw the parameter.
        chosen: Which trials count, (R, n).
        n_cells: The number of cells.

    Returns:
        Counts, float64 (R, cells).
    """
    row = np.arange(len(cells))[:, None] * n_cells
    kept = chosen & (cells >= 0)
    flat = np.bincount((row + cells)[kept], minlength=len(cells) * n_cells)
    return flat.reshape(len(cells), n_cells).astype(float)


def estimate_density(counts: npt.NDArray[np.float64], unordered: bool) -> npt.NDArray[np.float64]:
    """Estimate the density over cells as Optuna's Parzen estimator does.

    The prior has the weight of one trial.

    Args:
        counts: Trials in each cell, (R, cells).
        unordered: Whether the cells are choices without an order.

    Returns:
        Densities, (R, cells).
    """
    n_cells = counts.shape[1]
    total = counts.sum(axis=1, keepdims=True)
    if unordered:
        smooth = 1 / ((counts > 0).sum(axis=1, keepdims=True) + 1)
        kernels = (counts + smooth * total) / (1 + n_cells * smooth)
        return (kernels + 1 / n_cells) / (total + 1) + 1e-12
    cells = np.arange(n_cells)
    width = choose_widths(counts, total)[:, :, None]  # (R, 1, 1)
    kernels = compute_cell_masses(cells[None, None], width, n_cells)  # (R, cells of kernels, cells)
    prior = compute_cell_masses(
        np.array([[[(n_cells - 1) / 2]]]), np.array([[[n_cells]]]), n_cells
    )[0, 0]
    return (np.einsum("rk,rkx->rx", counts, kernels) + prior) / (total + 1) + 1e-12


def compute_cell_masses(
    centres: npt.NDArray[Any], width: npt.NDArray[Any], n_cells: int
) -> npt.NDArray[np.float64]:
    """Compute the mass of truncated normal kernels in each cell.

    Args:
        centres: The cells of the kernels' centres, (K,).
        width: Their standard deviations in cells, (R, 1, 1).
        n_cells: The number of cells.

    Returns:
        Masses, (R, K, cells), that sum to 1 over the cells.
    """
    centres = centres.reshape(1, -1, 1)
    edges = ndtr((np.arange(n_cells + 1)[None, None] - 0.5 - centres) / width)
    masses: npt.NDArray[np.float64] = np.diff(edges) / (edges[..., -1:] - edges[..., :1])
    return masses


def choose_widths(
    counts: npt.NDArray[np.float64], total: npt.NDArray[np.float64]
) -> npt.NDArray[np.float64]:
    """Choose the standard deviation of the kernels by Scott's rule, as Optuna does.

    Args:
        counts: Trials in each cell, (R, cells).
        total: Trials in all cells, (R, 1).

    Returns:
        Standard deviations in cells, (R, 1).
    """
    cells = np.arange(counts.shape[1])
    n = np.maximum(total, 1)
    mean = (counts @ cells)[:, None] / n
    deviation = np.sqrt(
        (counts * (cells - mean) ** 2).sum(axis=1, keepdims=True) / np.maximum(n - 1, 1)
    )
    filled = counts > 0
    reached = counts.cumsum(axis=1)
    last = cells[-1] - filled[:, ::-1].argmax(axis=1)
    lower = (filled & (reached >= n // 4)).argmax(axis=1)
    above = filled & (reached > n * 3 // 4)
    upper = np.where(above.any(axis=1), above.argmax(axis=1), last)
    spread = (upper - lower)[:, None] / 1.34
    width: npt.NDArray[np.float64] = 1.059 * np.minimum(spread, deviation) * n**-0.2
    return np.maximum(width, 0.5 / 1.64)
