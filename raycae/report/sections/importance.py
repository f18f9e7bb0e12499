"""What mattered in a study: each parameter's importance, the shape of its effect, and its size.

Numbers first, figures second, as in `figures`. A *parameter* is what the space leaves open and a
sampler draws (`lr`, `channels_2`); a *setting* is one of `config.Config`, searched or not.

A study looks at many parameters and few trials, so something always looks best. A sentence singles
something out only if that is unlikely to be chance; see `LEVEL`.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import plotly.graph_objects as go
from scipy.special import ndtr

from raycae.formatting import join_words
from raycae.report import plotting
from raycae.report.plotting import BLUE, GREY, ORANGE
from raycae.report.sampled_values import (
    BEST,
    Parameter,
    Parameters,
    format_choice,
    get_drawn_values,
    get_position,
)
from raycae.report.sections import single_changes
from raycae.report.sections.latent_size import LEVEL, compute_chance_of_marked
from raycae.report.sections.single_changes import CONFIDENCE
from raycae.report.sections.slices import (
    describe_common_choices,
    describe_slices,
    draw_parallel_coordinates,
    draw_slice,
    make_slices,
)
from raycae.report.trials import select_distinct
from raycae.space.parameters import CategoricalParameter, IntParameter

FEWEST_RANKED = 50
"""Configurations that ended with an error below which parameters are not ranked."""
MOST_RANKED = 2000
"""Configurations that importance is computed on; more of them take longer to say the same."""
N_BOOTSTRAPS = 200
"""Resampled sets of trials behind the intervals of importance."""
GRID = 50
"""Cells of a numerical parameter's range; Optuna's PED-ANOVA has as many."""


def select_weighed(trials: pd.DataFrame) -> pd.DataFrame:
    """Select the trials that importance rests on.

    Args:
        trials: Trials in any state.

    Returns:
        The first trial of each configuration that ended with an error, in their order, thinned
        evenly to at most `MOST_RANKED`.
    """
    rows = select_distinct(trials)
    return rows.iloc[:: max(1, math.ceil(len(rows) / MOST_RANKED))]


def compute_importance(
    trials: pd.DataFrame, parameters: Parameters, target: str = "val_mse"
) -> pd.DataFrame:
    """Rank parameters by how much they say about which trials are among the best tenth.

    The method is PED-ANOVA: the Pearson divergence between what the best tenth of the trials drew
    and what all of them drew. It is the one method of raycae; the report and the dashboard show
    this function's numbers. It is used, and not fANOVA, because it weighs a conditional parameter
    within the trials that drew it, where fANOVA needs parameters that every trial has, and because
    it is cheap enough to be repeated. Trials that were stopped early count with the error they
    had. Repeats of a configuration say nothing new about it; its first trial counts.

    Args:
        trials: Trials in any state.
        parameters: What was searched.
        target: The column that is better when smaller.

    Returns:
        One row a parameter, the largest share first: `parameter`; `share` of the importance, 0 to
        1, together 1; `low` and `high`, its bootstrap interval (`CONFIDENCE`); `first`, the share
        of the bootstrap samples in which no other parameter has more; `p`, see `_chances`; `n`, the
        configurations that drew it. Empty below `FEWEST_RANKED` configurations that ended with an
        error, and where no parameter has any importance.

    Source: Watanabe et al., PED-ANOVA (IJCAI 2023), and its conditional form in Optuna 5, whose
    numbers these are.
    """
    columns = ["parameter", "share", "low", "high", "first", "p", "n"]
    rows = select_weighed(trials)
    cells = {name: assign_cells(rows, name, parameter) for name, parameter in parameters.items()}
    cells = {name: column for name, column in cells.items() if (column[0] >= 0).any()}
    if len(rows) < FEWEST_RANKED or not cells:
        return pd.DataFrame(columns=columns)
    random = np.random.default_rng(0)
    n = len(rows)
    errors = rows[target].to_numpy(float)
    as_drawn = np.arange(n)[None]
    samples = random.integers(n, size=(N_BOOTSTRAPS, n))
    found, again = (
        np.stack([compute_divergences(column, order, errors[order]) for column in cells.values()])
        for order in (as_drawn, samples)
    )  # each (parameters, repetitions)
    if not found.sum():
        return pd.DataFrame(columns=columns)
    shares = again / np.maximum(again.sum(axis=0), 1e-300)
    low, high = np.quantile(shares, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2], axis=1)
    frame = pd.DataFrame(
        {
            "parameter": list(cells),
            "share": (found / found.sum())[:, 0],
            "low": low,
            "high": high,
            "first": (again >= again.max(axis=0)).mean(axis=1),
            "p": _chances(rows.assign(target=errors), parameters, list(cells)),
            "n": [int((column[0] >= 0).sum()) for column in cells.values()],
        }
    )
    return frame.sort_values(["share", "parameter"], ascending=[False, True], ignore_index=True)


def _chances(rows: pd.DataFrame, parameters: Parameters, names: list[str]) -> list[float]:
    """Compute how likely it is by chance that a parameter seems to matter as much as it does.

    PED-ANOVA gives some parameter a large share of the importance also where nothing matters. Under
    chance the best tenth is a random choice of the trials; so the number of them in a part of a
    parameter (a choice, or a third of a range) is hypergeometric.

    Args:
        rows: Trials, with their error as `target`.
        parameters: What was searched.
        names: The parameters to look at.

    Returns:
        The least probability of as many of the best tenth in any part of each parameter, times the
        number of parts of all parameters (Bonferroni); at most 1.
    """
    n_best = math.ceil(BEST * len(rows))
    best = rows.sort_values(["target", "trial_number"]).index[:n_best]
    least, n_parts = [], 0
    for name in names:
        drawn = parts(rows, name, parameters[name])
        counts, best_counts = drawn.value_counts(), drawn[drawn.index.isin(best)].value_counts()
        n_parts += len(counts)
        tails = [
            compute_chance_of_marked(len(rows), int(n), n_best, int(best_counts.get(part, 0)))
            for part, n in counts.items()
        ]
        least.append(min(tails))
    return [min(1.0, chance * n_parts) for chance in least]


def parts(trials: pd.DataFrame, name: str, parameter: Parameter) -> pd.Series[Any]:
    """Sort what each trial drew into choices or thirds of the range, in words with the parameter's
    name; without the trials that did not draw it."""
    drawn = get_drawn_values(trials, name, parameter).dropna()
    if isinstance(parameter, CategoricalParameter):
        return drawn.map(lambda label: f"{name} {format_choice(label)}")
    thirds = drawn.map(lambda value: min(int(3 * get_position(value, parameter)), 2))
    ends = drawn.groupby(thirds).agg(["min", "max"])
    words = {
        at: f"{name} {format_choice(low)} to {format_choice(high)}"
        for at, low, high in ends.itertuples()
    }
    return thirds.map(words)


Cells = tuple[npt.NDArray[np.int64], int, bool]
"""The cell of each trial's value (-1: the trial did not draw the parameter), how many cells there
are, and whether they have no order."""


def assign_cells(rows: pd.DataFrame, name: str, parameter: Parameter) -> Cells:
    """Sort what each trial drew into the cells of Optuna's PED-ANOVA."""
    drawn = get_drawn_values(rows, name, parameter)
    if isinstance(parameter, CategoricalParameter):
        place = {label: i for i, label in enumerate(parameter.labels)}
        cells = [-1 if value is None else place[value] for value in drawn]
        return np.array(cells, np.int64), len(place), True
    n_cells, distribution = GRID, parameter.distribution
    if isinstance(parameter, IntParameter) and parameter.log:
        n_cells = math.ceil(math.log2(parameter.high - parameter.low + 1)) + 1
    elif step := getattr(distribution, "step", None):
        n_cells = round((parameter.high - parameter.low) / step) + 1
    n_cells = max(1, min(n_cells, GRID))
    where = [-1 if value is None else get_position(value, parameter) for value in drawn]
    # Halves go to the lower cell, as in Optuna.
    cells = [
        -1 if at < 0 else min(math.ceil(at * (n_cells - 1) - 0.5), n_cells - 1) for at in where
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
    """Count the chosen trials in each cell: (R, n) to (R, cells)."""
    row = np.arange(len(cells))[:, None] * n_cells
    kept = chosen & (cells >= 0)
    flat = np.bincount((row + cells)[kept], minlength=len(cells) * n_cells)
    return flat.reshape(len(cells), n_cells).astype(float)


def estimate_density(counts: npt.NDArray[np.float64], unordered: bool) -> npt.NDArray[np.float64]:
    """Estimate the density over cells, (R, cells), as Optuna's Parzen estimator does, with one
    trial's weight of a prior that knows nothing."""
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
    """Return the mass that a normal kernel, cut at the ends of the range, has in each cell."""
    centres = centres.reshape(1, -1, 1)
    edges = ndtr((np.arange(n_cells + 1)[None, None] - 0.5 - centres) / width)
    masses: npt.NDArray[np.float64] = np.diff(edges) / (edges[..., -1:] - edges[..., :1])
    return masses


def choose_widths(
    counts: npt.NDArray[np.float64], total: npt.NDArray[np.float64]
) -> npt.NDArray[np.float64]:
    """Choose the kernels' standard deviation in cells, (R, 1), by Scott's rule as Optuna does."""
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


def draw_importance(weights: pd.DataFrame) -> go.Figure:
    """One bar a parameter with its interval, the largest on top. Needs one."""
    rows = weights[::-1]  # plotly begins at the bottom
    figure = plotting.make_figure("share of the importance", "")
    figure.add_bar(
        x=rows["share"].tolist(),
        y=rows["parameter"].tolist(),
        orientation="h",
        marker={"color": [BLUE if p <= LEVEL else GREY for p in rows["p"]]},
        error_x={
            "type": "data",
            # A bootstrap interval need not hold the share itself.
            "array": (rows["high"] - rows["share"]).clip(lower=0).tolist(),
            "arrayminus": (rows["share"] - rows["low"]).clip(lower=0).tolist(),
            "color": ORANGE,
            "thickness": 1,
            "width": 3,
        },
        hovertext=[
            f"{row['parameter']}: {row['share']:.0%} ({row['low']:.0%} to {row['high']:.0%}), "
            f"drawn by {row['n']:,} configurations"
            for row in rows.to_dict("records")
        ],
        hoverinfo="text",
        showlegend=False,
    )
    figure.update_xaxes(tickformat=".0%", rangemode="tozero")
    figure.update_yaxes(showgrid=False, ticksuffix="  ")
    return figure.update_layout(height=90 + 24 * len(rows))


def describe_importance(weights: pd.DataFrame, n: int) -> str:
    """Say which parameter matters most, or why that cannot be said.

    Args:
        weights: What `compute_importance` gives.
        n: How many trials it rests on, `select_weighed`.
    """
    if n < FEWEST_RANKED:
        return (
            f"Parameters are not ranked yet. That takes {FEWEST_RANKED} different configurations "
            f"that ended with an error; this study has {n}."
        )
    clear = weights[weights["p"] <= LEVEL]
    if clear.empty:
        return (
            f"No parameter stands out from chance among {n:,} configurations, so none is called "
            "important."
        )
    names = clear["parameter"].tolist()
    first = clear.iloc[0]
    share = f"{first['share']:.0%} ({first['low']:.0%} to {first['high']:.0%})"
    if first["first"] >= CONFIDENCE:
        said = (
            f"{names[0]} matters most for reaching the best tenth: its share of the importance is "
            f"{share}."
        )
        verb = "stands" if len(names) == 2 else "stand"
        return f"{said} {join_words(names[1:])} {verb} out from chance, too." if names[1:] else said
    if len(names) == 1:
        return (
            f"Of all parameters only {names[0]} stands out from chance, so it matters for reaching "
            f"the best tenth; its share of the importance is {share}."
        )
    return (
        f"{join_words(names)} matter for reaching the best tenth. Which of these {len(names)} "
        "matters "
        f"most is not settled by {n:,} configurations."
    )


def summarise_importance(
    trials: pd.DataFrame, epochs: pd.DataFrame, parameters: Parameters
) -> dict[str, Any]:
    """What the template shows of "What mattered"."""
    weights = compute_importance(trials, parameters)
    n_ended = len(select_distinct(trials))
    order = [*weights["parameter"], *(n for n in parameters if n not in set(weights["parameter"]))]
    parameters = {name: parameters[name] for name in order}
    slices = make_slices(trials, parameters)
    paired = single_changes.compare_single_changes(trials, epochs)
    drawn = {f"slice-{data.name}": draw_slice(data) for data in slices}
    if not weights.empty:
        drawn["importance"] = draw_importance(weights)
    if (parallel := draw_parallel_coordinates(trials, parameters)) is not None:
        drawn["parallel"] = parallel
    if not paired.empty:
        drawn["pairs"] = single_changes.draw_single_changes(paired)
    return {
        "figures": drawn,
        "sentence": describe_importance(weights, len(select_weighed(trials))),
        "slices": [(data.name, describe_slices(data), len(data.points)) for data in slices],
        "is_ranked": not weights.empty,
        "n_ended": n_ended,
        "n_searched": len(parameters),
        "common_sentence": describe_common_choices(trials, parameters),
        "pairs_sentence": single_changes.describe_single_changes(paired),
        "n_paired": len(paired),
    }
