"""What mattered in a study: each parameter's importance, the shape of its effect, and its size.

Numbers first, figures second, as in `figures`. A *parameter* is what the space leaves open and a
sampler draws (`lr`, `channels_2`); a *setting* is one of `config.Config`, searched or not.

A study looks at many parameters and few trials, so something always looks best. A sentence singles
something out only if that is unlikely to be chance; see `LEVEL`.
"""

from __future__ import annotations

import functools
import itertools
import json
import math
import textwrap
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import plotly.graph_objects as go
from scipy.special import ndtr, stdtrit

from raycae import canvas
from raycae.canvas import BLUE, EXACT, GREY, ORANGE, VIOLET, counted, error, listed, ratio
from raycae.config import Config, resolve
from raycae.figures import LEVEL, chance_of_marked, distinct, ended, measured, ranking, thinned
from raycae.results import COMPLETE, PRUNED
from raycae.space import CategoricalParameter, FloatParameter, IntParameter

Parameter = FloatParameter | IntParameter | CategoricalParameter
Parameters = Mapping[str, Parameter]
"""By the name that a column carries behind `params_`, as `space.Space.parameters` has it."""

BEST = 0.1
"""The share of trials that counts as the best ones."""

FEWEST_RANKED = 50
"""Configurations that ended with an error below which parameters are not ranked."""

MOST_RANKED = 2000
"""Configurations that importance is computed on; more of them take longer to say the same."""

N_BOOTSTRAPS = 200
"""Resampled sets of trials behind the intervals of importance."""

GRID = 50
"""Cells of a numerical parameter's range; Optuna's PED-ANOVA has as many."""

CONFIDENCE = 0.95
"""Of the bootstrap intervals of importance, and for calling one parameter the most important."""

FEWEST_PAIRS = 5
"""Pairs in different settings below which an effect has no interval."""

AXES = 10
"""Of parallel coordinates; more of them nobody reads."""

MIRRORS = ("decoder_channels", "decoder_kernel", "decoder_convs", "latent_kernel")
"""Settings that are as the encoder has them unless somebody says otherwise."""

NOT_COMPARED = ["task", "image_size", "gammas", "classes", "seed"]
"""What the network is shown, and chance."""


def values(trials: pd.DataFrame, name: str, parameter: Parameter) -> pd.Series[Any]:
    """What each trial drew for a parameter, as the space writes it; null where it drew none, or
    where a named point lies outside of what is searched."""
    if (column := f"params_{name}") not in trials:
        return pd.Series([None] * len(trials), index=trials.index, dtype=object)
    known: dict[Any, Any] = {}
    if isinstance(parameter, CategoricalParameter):
        # A column of numbers and words is one of words.
        known = {str(label): label for label in parameter.labels}
        known |= {label: label for label in parameter.labels}
    told: list[Any] = []
    for value in trials[column].astype(object).where(trials[column].notna(), None).tolist():
        if value is None:
            told.append(None)
        elif isinstance(parameter, CategoricalParameter):
            told.append(known.get(value))
        else:
            told.append(parameter.label(value) if parameter.contains(value) else None)
    return pd.Series(told, index=trials.index, dtype=object)


def weighed(trials: pd.DataFrame) -> pd.DataFrame:
    """Select the trials that importance rests on.

    Args:
        trials: Trials in any state.

    Returns:
        The first trial of each configuration that ended with an error, in their order, thinned
        evenly to at most `MOST_RANKED`.
    """
    rows = distinct(trials)
    return rows.iloc[:: max(1, math.ceil(len(rows) / MOST_RANKED))]


def importance(
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
    rows = weighed(trials)
    cells = {name: _cells(rows, name, parameter) for name, parameter in parameters.items()}
    cells = {name: column for name, column in cells.items() if (column[0] >= 0).any()}
    if len(rows) < FEWEST_RANKED or not cells:
        return pd.DataFrame(columns=columns)
    random = np.random.default_rng(0)
    n = len(rows)
    errors = rows[target].to_numpy(float)
    as_drawn = np.arange(n)[None]
    samples = random.integers(n, size=(N_BOOTSTRAPS, n))
    found, again = (
        np.stack([_divergences(column, order, errors[order]) for column in cells.values()])
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
            chance_of_marked(len(rows), int(n), n_best, int(best_counts.get(part, 0)))
            for part, n in counts.items()
        ]
        least.append(min(tails))
    return [min(1.0, chance * n_parts) for chance in least]


def parts(trials: pd.DataFrame, name: str, parameter: Parameter) -> pd.Series[Any]:
    """Sort what each trial drew into choices or thirds of the range, in words with the parameter's
    name; without the trials that did not draw it."""
    drawn = values(trials, name, parameter).dropna()
    if isinstance(parameter, CategoricalParameter):
        return drawn.map(lambda label: f"{name} {word(label)}")
    thirds = drawn.map(lambda value: min(int(3 * position(value, parameter)), 2))
    ends = drawn.groupby(thirds).agg(["min", "max"])
    words = {at: f"{name} {word(low)} to {word(high)}" for at, low, high in ends.itertuples()}
    return thirds.map(words)


Cells = tuple[npt.NDArray[np.int64], int, bool]
"""The cell of each trial's value (-1: the trial did not draw the parameter), how many cells there
are, and whether they have no order."""


def _cells(rows: pd.DataFrame, name: str, parameter: Parameter) -> Cells:
    """Sort what each trial drew into the cells of Optuna's PED-ANOVA."""
    drawn = values(rows, name, parameter)
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
    where = [-1 if value is None else position(value, parameter) for value in drawn]
    # Halves go to the lower cell, as in Optuna.
    cells = [
        -1 if at < 0 else min(math.ceil(at * (n_cells - 1) - 0.5), n_cells - 1) for at in where
    ]
    return np.array(cells, np.int64), n_cells, False


def _divergences(
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
    counts_all = _counts(cells[order], np.ones(order.shape, bool), n_cells)  # (1 or R, cells)
    counts_best = _counts(np.broadcast_to(cells[order], best.shape), best, n_cells)
    density_all = _density(counts_all, unordered)
    density_best = _density(counts_best, unordered)
    divergence = (density_all * (density_best / density_all - 1) ** 2).sum(axis=1)
    drew_all, drew_best = counts_all.sum(axis=1), counts_best.sum(axis=1)
    n_all, n_chosen = errors.shape[1], best.sum(axis=1)
    weight = (drew_best / n_chosen) ** 2 / np.maximum(drew_all / n_all, 1e-300)
    found: npt.NDArray[np.float64] = np.where(drew_all > 1, weight * divergence, 0.0)
    return found * (n_chosen / n_all) ** 2


def _counts(
    cells: npt.NDArray[np.int64], chosen: npt.NDArray[np.bool_], n_cells: int
) -> npt.NDArray[np.float64]:
    """Count the chosen trials in each cell: (R, n) to (R, cells)."""
    row = np.arange(len(cells))[:, None] * n_cells
    kept = chosen & (cells >= 0)
    flat = np.bincount((row + cells)[kept], minlength=len(cells) * n_cells)
    return flat.reshape(len(cells), n_cells).astype(float)


def _density(counts: npt.NDArray[np.float64], unordered: bool) -> npt.NDArray[np.float64]:
    """Estimate the density over cells, (R, cells), as Optuna's Parzen estimator does, with one
    trial's weight of a prior that knows nothing."""
    n_cells = counts.shape[1]
    total = counts.sum(axis=1, keepdims=True)
    if unordered:
        smooth = 1 / ((counts > 0).sum(axis=1, keepdims=True) + 1)
        kernels = (counts + smooth * total) / (1 + n_cells * smooth)
        return (kernels + 1 / n_cells) / (total + 1) + 1e-12
    cells = np.arange(n_cells)
    width = _widths(counts, total)[:, :, None]  # (R, 1, 1)
    kernels = _cell_masses(cells[None, None], width, n_cells)  # (R, cells of kernels, cells)
    prior = _cell_masses(np.array([[[(n_cells - 1) / 2]]]), np.array([[[n_cells]]]), n_cells)[0, 0]
    return (np.einsum("rk,rkx->rx", counts, kernels) + prior) / (total + 1) + 1e-12


def _cell_masses(
    centres: npt.NDArray[Any], width: npt.NDArray[Any], n_cells: int
) -> npt.NDArray[np.float64]:
    """Return the mass that a normal kernel, cut at the ends of the range, has in each cell."""
    centres = centres.reshape(1, -1, 1)
    edges = ndtr((np.arange(n_cells + 1)[None, None] - 0.5 - centres) / width)
    masses: npt.NDArray[np.float64] = np.diff(edges) / (edges[..., -1:] - edges[..., :1])
    return masses


def _widths(
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


def importance_figure(weights: pd.DataFrame) -> go.Figure:
    """One bar a parameter with its interval, the largest on top. Needs one."""
    rows = weights[::-1]  # plotly begins at the bottom
    figure = canvas.figure("share of the importance", "")
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


def position(value: Any, parameter: Parameter) -> float:
    """Where a value lies in what is searched: 0 at the lower end, or the first choice, 1 at the
    upper end, or the last; as the sampler measures it, on a logarithmic scale where it draws so."""
    if isinstance(parameter, CategoricalParameter):
        return parameter.labels.index(value) / max(len(parameter.labels) - 1, 1)
    low, high, value = (
        math.log(end) if parameter.log else float(end)
        for end in (parameter.low, parameter.high, value)
    )
    return (value - low) / (high - low) if high > low else 0.0


def marks(parameter: Parameter) -> list[tuple[float, str]]:
    """Positions and their values in words: all choices, or the range's ends and its middle."""
    if isinstance(parameter, CategoricalParameter):
        shown = parameter.labels
    else:
        shown = list(dict.fromkeys([parameter.low, parameter.middle, parameter.high]))
    return [(position(value, parameter), word(value)) for value in shown]


def word(value: Any) -> str:
    """A parameter's value, floats in three digits, a list's members with commas."""
    if isinstance(value, str) and value.startswith("["):  # the label of a list
        return ", ".join(map(word, json.loads(value)))
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def _short(text: str) -> str:
    """What fits beside an axis."""
    return textwrap.shorten(text, 18, placeholder="…")


def positions(trials: pd.DataFrame, parameters: Parameters) -> pd.DataFrame:
    """`position` of what each trial drew; one column for each parameter that any trial drew, NaN
    where a trial did not."""
    columns = {}
    for name, parameter in parameters.items():
        drawn = values(trials, name, parameter)
        if drawn.notna().any():
            places = {value: position(value, parameter) for value in drawn.dropna().unique()}
            columns[name] = drawn.map(places).astype(float)
    return pd.DataFrame(columns, index=trials.index)


@dataclass(frozen=True)
class Slice:
    """One parameter against the error. `points`: `trial_number`, `state`, `value` (as the space
    writes it), `val_mse` of the trials that drew it, the best first. `best`: of the values that
    the best tenth drew, as `best_drawn` has it, the least and the greatest, or the choices."""

    name: str
    parameter: Parameter
    points: pd.DataFrame
    best: str
    n_best: int


def best_drawn(
    ranked: pd.DataFrame, name: str, parameter: Parameter
) -> tuple[pd.Series[Any], pd.Series[Any]]:
    """Return what the configurations that drew a parameter drew, and what their best tenth did.

    Args:
        ranked: One trial of each configuration that ended with an error, the best first.
        name: The parameter's name.
        parameter: The parameter.

    Returns:
        The value of each configuration that drew the parameter, the best first; and the first tenth
        of these, one at least if there is any.
    """
    drawn = values(ranked, name, parameter).dropna()
    return drawn, drawn.head(math.ceil(BEST * len(drawn)))


def slices(trials: pd.DataFrame, parameters: Parameters) -> list[Slice]:
    """One for each parameter that a trial which ended with an error drew."""
    ranked, configurations = ranking(ended(trials)), ranking(distinct(trials))
    found = []
    for name, parameter in parameters.items():
        points = ranked.assign(value=values(ranked, name, parameter))
        points = points.loc[points["value"].notna(), ["trial_number", "state", "value", "val_mse"]]
        if points.empty:
            continue
        _, best = best_drawn(configurations, name, parameter)
        found.append(
            Slice(name, parameter, points.reset_index(drop=True), span(best, parameter), len(best))
        )
    return found


def span(drawn: pd.Series[Any], parameter: Parameter) -> str:
    """Say which values there are: `0.001 to 0.004`, `8`, `adam and sgd`."""
    if isinstance(parameter, CategoricalParameter):
        there = set(drawn)
        return listed([word(label) for label in parameter.labels if label in there])
    return " to ".join(dict.fromkeys((word(drawn.min()), word(drawn.max()))))


def slice_figure(data: Slice, most: int = 300) -> go.Figure:
    """Error over the parameter, of at most `most` trials, on logarithmic axes where the space
    draws so."""
    points, parameter = thinned(data.points, most), data.parameter
    errors = points["val_mse"].astype(float).tolist()
    top = canvas.ceiling(errors)
    figure = canvas.figure("", "")
    order = None
    if isinstance(parameter, CategoricalParameter):
        order = [canvas.plain(word(label)) for label in parameter.labels]
    for state, name, marker in (
        (PRUNED, "stopped early", {"color": GREY, "symbol": "circle-open", "size": 5}),
        (COMPLETE, "complete", {"color": BLUE, "size": 5}),
    ):
        shown = points[points["state"] == state]
        numbers = shown["trial_number"].astype(int).tolist()
        shown_values = shown["value"].tolist()
        texts = [
            f"trial {number}, {data.name} {word(value)}: {error(val_mse)}"
            for number, value, val_mse in zip(numbers, shown_values, shown["val_mse"], strict=True)
        ]
        figure.add_scatter(
            x=[canvas.plain(word(v)) for v in shown_values] if order else shown_values,
            y=[min(y, top) for y in canvas.lifted(shown["val_mse"], canvas.floor(errors))],
            customdata=numbers,
            name=name,
            mode="markers",
            marker=marker,
            hovertext=list(map(canvas.plain, texts)),
            hoverinfo="text",
        )
    figure.update_yaxes(canvas.error_axis(errors))
    if isinstance(parameter, CategoricalParameter):
        figure.update_xaxes(
            type="category",
            categoryorder="array",
            categoryarray=order,
            tickvals=order,
            ticktext=[canvas.plain(_short(word(label))) for label in parameter.labels],
        )
        figure.update_xaxes(range=[-0.5, len(parameter.labels) - 0.5])
    elif parameter.log and parameter.high > parameter.low:
        ends = parameter.low / 1.1, parameter.high * 1.1
        figure.update_xaxes(canvas.log_axis(*ends))
    return figure.update_layout(showlegend=False)


def parallel_figure(
    trials: pd.DataFrame, parameters: Parameters, most: int = 150
) -> go.Figure | None:
    """A line for each trial through what it drew of the first `AXES` parameters, the best tenth on
    top. None where fewer than two parameters are drawn. Plotly's own parallel coordinates need
    WebGL and code made from strings."""
    ranked = ranking(ended(trials))
    places = positions(ranked, parameters).iloc[:, :AXES]
    names = [str(name) for name in places]
    if len(names) < 2:
        return None
    n_best = math.ceil(BEST * len(ranked))
    figure = canvas.figure("", "")
    for label, rows, colour, width, at_most in (
        ("others", ranked[n_best:], "rgba(138, 143, 150, 0.3)", 1.0, most),
        ("the best tenth", ranked[:n_best], ORANGE, 1.5, 40),
    ):
        if rows.empty:
            continue
        rows = thinned(rows, at_most)
        x: list[str | None] = []
        y: list[float | None] = []
        for line in places.loc[rows.index].to_numpy().tolist():
            x += [*names, None]
            y += [*(None if math.isnan(at) else at for at in line), None]
        figure.add_scatter(
            x=x,
            y=y,
            name=label,
            mode="lines+markers",
            line={"color": colour, "width": width},
            marker={"color": colour, "size": 4},
            hoverinfo="skip",
        )
    for name in names:
        ends = marks(parameters[name])
        for at, text in ends if len(ends) <= 4 else (ends[0], ends[-1]):
            figure.add_annotation(
                x=name,
                y=at,
                text=canvas.plain(_short(text)),
                showarrow=False,
                xanchor="left",
                xshift=5,
                font={"size": 11, "color": GREY},
            )
    figure.update_xaxes(tickangle=-60 if len(names) > 6 else 0, showgrid=True)
    figure.update_xaxes(range=[-0.3, len(names) - 0.3], categoryorder="array", categoryarray=names)
    return figure.update_yaxes(visible=False, range=[-0.06, 1.06])


def pairs(trials: pd.DataFrame, epochs: pd.DataFrame | None = None) -> pd.DataFrame:
    """Measure what one setting alone does to the error.

    Two trials of the same seed that agree in all other settings make a comparison. Where one of
    them was stopped early both count with the least error they had by the last epoch that both
    reached. Comparisons with other seeds in the same settings repeat one another: they are averaged
    to one pair. So pairs differ in settings, share no trial, and a setting's pairs are independent.

    Args:
        trials: Trials in any state.
        epochs: Their epochs: `trial_number`, `epoch`, `val_mse`. Without them only complete trials
            are compared.

    Returns:
        One row an effect, the most pairs first: `setting`; `value`, the one with less error, and
        `other`; `n`, the pairs; `n_early`, those of them that rest on a stopped trial; `ratio`, the
        geometric mean of the error with `value` over that with `other`; `low` and `high`, its
        interval by Student's t. The intervals hold together: all of them at once miss a ratio of 1
        by chance with a probability of at most `LEVEL` (Bonferroni). NaN below `FEWEST_PAIRS`.
    """
    rows = ended(trials)
    if epochs is None:
        rows = rows[rows["state"] == COMPLETE]
    # Of repeats with the same seed a complete trial is taken, else the first one.
    rows = rows.sort_values(["state", "trial_number"]).drop_duplicates(["config", "seed"])
    curves = {} if epochs is None else _curves(epochs, rows)
    runs = [
        _Run(number, state == COMPLETE, float(val_mse), curves.get(number, {}))
        for number, state, val_mse in zip(
            *(rows[name].tolist() for name in ("trial_number", "state", "val_mse")), strict=True
        )
    ]
    written = [_written(text) for text in rows["config"].astype(str)]
    names = sorted(written[0]) if written else []
    lines = [tuple(settings[name] for name in names) for settings in written]
    ratios: dict[tuple[str, str, str], list[tuple[float, bool]]] = {}
    for place, setting in enumerate(names):
        if setting in NOT_COMPARED or len({line[place] for line in lines}) < 2:
            continue
        # Momentum means nothing but to SGD, of which each momentum is one more trial.
        own = {setting, "momentum"} if setting == "optimizer" else {setting}
        kept = [i for i, name in enumerate(names) if name not in own]
        groups: dict[tuple[str, ...], list[tuple[str, int, _Run]]] = {}
        for line, seed, run in zip(lines, rows["seed"].tolist(), runs, strict=True):
            key = tuple([line[i] for i in kept])
            groups.setdefault(key, []).append((line[place], seed, run))
        for alike in groups.values():
            for both, pair in _compared(alike).items():
                ratios.setdefault((setting, *both), []).append(pair)
    n_tested = sum(len(found) >= FEWEST_PAIRS for found in ratios.values())
    effects = [_effect(*key, found, n_tested) for key, found in ratios.items()]
    columns = ["setting", "value", "other", "n", "n_early", "ratio", "low", "high"]
    return pd.DataFrame(effects, columns=columns).sort_values(
        ["n", "ratio"], ascending=[False, True], ignore_index=True
    )


@dataclass(frozen=True)
class _Run:
    """A trial: whether it is complete, its error, and its least error by each epoch."""

    number: int
    is_complete: bool
    val_mse: float
    curve: Mapping[int, float]


def _curves(epochs: pd.DataFrame, trials: pd.DataFrame) -> dict[int, dict[int, float]]:
    """Return the least error by each epoch, by trial and epoch."""
    told = epochs[epochs["trial_number"].isin(trials["trial_number"]) & measured(epochs["val_mse"])]
    told = told.sort_values(["trial_number", "epoch"])
    least = told["val_mse"].astype(float).groupby(told["trial_number"]).cummin()
    curves: dict[int, dict[int, float]] = {}
    for number, epoch, val_mse in zip(told["trial_number"], told["epoch"], least, strict=True):
        curves.setdefault(int(number), {})[int(epoch)] = float(val_mse)
    return curves


def _compared(
    alike: list[tuple[str, int, _Run]],
) -> dict[tuple[str, str], tuple[float, bool]]:
    """Compare trials that agree in all settings but one.

    Args:
        alike: The value of that setting, the seed, and the trial.

    Returns:
        By two values the mean difference of their log errors over all comparisons of the same
        seed, and whether any comparison is at an earlier epoch.
    """
    differences: dict[tuple[str, str], list[tuple[float, bool]]] = {}
    ordered = sorted(alike, key=lambda trial: trial[:2])
    for (value, seed, run), (other, other_seed, other_run) in itertools.combinations(ordered, 2):
        if value != other and seed == other_seed and (found := _difference(run, other_run)):
            differences.setdefault((value, other), []).append(found)
    return {
        both: (math.fsum(log for log, _ in found) / len(found), any(early for _, early in found))
        for both, found in differences.items()
    }


def _difference(run: _Run, other: _Run) -> tuple[float, bool] | None:
    """Return the difference of two log errors and whether it is at an epoch before the last; None
    where they have no epoch in common. Errors up to `EXACT` count as that much."""
    errors, is_early = (run.val_mse, other.val_mse), False
    if not (run.is_complete and other.is_complete):
        shared = run.curve.keys() & other.curve.keys()
        if not shared:
            return None
        errors = run.curve[max(shared)], other.curve[max(shared)]
        is_early = True
    first, second = (math.log(max(error, EXACT)) for error in errors)
    return first - second, is_early


@functools.lru_cache(maxsize=4096)
def _written(text: str) -> dict[str, str]:
    """The settings of a configuration as words; what mirrors the encoder says only that."""
    config = Config.model_validate_json(text)
    told = config.model_dump()
    mirrored = resolve({name: value for name, value in told.items() if name not in MIRRORS})
    for name in MIRRORS:
        if getattr(mirrored, name) == getattr(config, name):
            told[name] = "as the encoder"
    return {name: _brief(value) for name, value in told.items()}


def _brief(value: Any) -> str:
    """`max` where all stages say so, else `max stride`."""
    if isinstance(value, tuple):
        return word(value[0]) if len(set(value)) == 1 else " ".join(map(word, value))
    return word(value)


def _effect(
    setting: str, value: str, other: str, found: list[tuple[float, bool]], n_tested: int
) -> tuple[Any, ...]:
    """Make a row of `pairs` from the log ratios of an effect's pairs; `n_tested` effects share
    `LEVEL`."""
    logs, n = [log for log, _ in found], len(found)
    mean, half = float(np.mean(logs)), math.nan
    if n >= FEWEST_PAIRS:
        quantile = float(stdtrit(n - 1, 1 - LEVEL / n_tested / 2))
        half = quantile * float(np.std(logs, ddof=1)) / math.sqrt(n)
    if mean > 0:
        mean, value, other = -mean, other, value
    ratios = (math.exp(at) for at in (mean, mean - half, mean + half))
    return setting, value, other, n, sum(early for _, early in found), *ratios


def pairs_figure(effects: pd.DataFrame, most: int = 24) -> go.Figure:
    """The ratio of each effect and its interval, those with the most pairs on top. Needs one."""
    rows = effects.head(most)[::-1]  # plotly begins at the bottom
    ratios = rows["ratio"]
    figure = canvas.figure("error, as a multiple of the other's", "")
    figure.add_scatter(
        x=ratios.tolist(),
        y=[canvas.plain(pair_name(row)) for row in rows.to_dict("records")],
        error_x={
            "type": "data",
            "array": (rows["high"] - ratios).fillna(0).tolist(),
            "arrayminus": (ratios - rows["low"]).fillna(0).tolist(),
            "color": GREY,
            "thickness": 1,
            "width": 3,
        },
        mode="markers",
        marker={"color": [ORANGE if high < 1 else BLUE for high in rows["high"]], "size": 8},
        hovertext=[pair_words(row) for row in rows.to_dict("records")],
        hoverinfo="text",
        showlegend=False,
    )
    figure.add_vline(x=1, line={"color": VIOLET, "width": 1.5, "dash": "dot"})
    figure.update_yaxes(ticksuffix="  ")
    return figure.update_layout(height=100 + 26 * len(rows))


def pair_name(effect: Mapping[Any, Any]) -> str:
    """`downsample: stride, not max`"""
    return f"{effect['setting']}: {effect['value']}, not {effect['other']}"


def pair_words(effect: Mapping[Any, Any]) -> str:
    """`0.93 times the error (0.90 to 0.97, 12 pairs)`"""
    between = (
        "" if math.isnan(effect["low"]) else f"{bound(effect['low'])} to {bound(effect['high'])}, "
    )
    return f"{ratio(effect['ratio'])} times the error ({between}{counted(effect['n'], 'pair')})"


def bound(value: float) -> str:
    """Write the end of an interval; what is too large to say anything as `over 1,000`."""
    return ratio(value) if value <= 1000 else "over 1,000"


def importance_sentence(weights: pd.DataFrame, n: int) -> str:
    """Say which parameter matters most, or why that cannot be said.

    Args:
        weights: What `importance` gives.
        n: How many trials it rests on, `weighed`.
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
        return f"{said} {listed(names[1:])} {verb} out from chance, too." if names[1:] else said
    if len(names) == 1:
        return (
            f"Of all parameters only {names[0]} stands out from chance, so it matters for reaching "
            f"the best tenth; its share of the importance is {share}."
        )
    return (
        f"{listed(names)} matter for reaching the best tenth. Which of these {len(names)} matters "
        f"most is not settled by {n:,} configurations."
    )


def common_sentence(trials: pd.DataFrame, parameters: Parameters) -> str:
    """Say what all of the best tenth drew alike, if that is unlikely to be chance.

    Under chance the best tenth is a random choice of the configurations. A value counts if all of
    them share it and that is unlikely to be chance: all values of the first `AXES` parameters
    together have a probability of at most `LEVEL`.
    """
    ranked = ranking(distinct(trials))
    n, n_best = len(ranked), math.ceil(BEST * len(ranked))
    drawn = {
        name: values(ranked, name, parameter)
        for name, parameter in itertools.islice(parameters.items(), AXES)
    }
    drawn = {name: column for name, column in drawn.items() if column.nunique() > 1}
    alike = []
    for name, column in drawn.items():
        best = column.head(n_best)
        if best.notna().all() and best.nunique() == 1:
            n_alike = int((column == best.iloc[0]).sum())
            chance = chance_of_marked(n, n_alike, n_best, n_best)
            if chance <= LEVEL / len(drawn) / column.nunique():
                alike.append(f"{name} {word(best.iloc[0])}")
    if not alike:
        who = "The best trial has" if n_best == 1 else f"The best {n_best:,} have"
        return (
            f"{who} no value in common that stands out from chance among "
            f"{counted(n, 'configuration')}."
        )
    return f"All of the best {n_best:,} of {n:,} configurations drew {listed(alike)}."


def pairs_sentence(effects: pd.DataFrame) -> str:
    """Name the clearest effect, if one stands out from chance, and say how many pairs there are."""
    if effects.empty:
        return "No two trials differ in one setting alone, so there is nothing to pair."
    n_pairs, n_early = int(effects["n"].sum()), int(effects["n_early"].sum())
    verb = "differs" if n_pairs == 1 else "differ"
    said = f"{counted(n_pairs, 'pair')} of trials {verb} in one setting alone."
    if n_early:
        was = "is" if n_early == 1 else "are"
        said += f" {n_early:,} of them {was} compared at the epoch where a trial was stopped."
    tested = effects[effects["n"] >= FEWEST_PAIRS]
    if tested.empty:
        most = int(effects["n"].max())
        return (
            f"{said} No effect can be told from chance: that takes {FEWEST_PAIRS} pairs in "
            f"different settings, and the most of any effect is {most}."
        )
    clear = tested[tested["high"] < 1].sort_values("high")
    if clear.empty:
        of = f"the {len(tested):,} effects" if len(tested) > 1 else "the effects"
        return f"{said} None of {of} with at least {FEWEST_PAIRS} pairs stands out from chance."
    row = clear.iloc[0].to_dict()
    return f"{said} The clearest effect is {pair_name(row)}: {pair_words(row)}."
