"""How the Pareto front grew, and error against other costs."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass
from typing import Any

import pandas as pd
import plotly.graph_objects as go

from raycae.formatting import format_error, format_ratio
from raycae.optimization.frontier import compute_hypervolume, find_frontier
from raycae.report import plotting
from raycae.report.plotting import EXACT, ORANGE, VIOLET, draw_trials, errors_apart, fall
from raycae.report.sections.answer import format_larger_factor
from raycae.report.sections.latent_size import LatentError
from raycae.report.trials import COST_NAMES, select_ended


def describe_cost(front: pd.DataFrame, cost: str) -> str:
    """How far the error falls along a Pareto front of error and `cost`, and for how much."""
    over = COST_NAMES[cost].partition(",")[0]
    front = front.drop_duplicates(["val_mse", cost])
    first, last = front.iloc[0], front.iloc[-1]
    if len(front) == 1:
        return (
            f"One trial, {first['trial_number']}, has both the least error, "
            f"{format_error(first['val_mse'])}, and the least cost: {over} of {first[cost]:,.4g}."
        )
    before, after = errors_apart(first["val_mse"], last["val_mse"])
    return (
        f"From {first[cost]:,.4g} to {last[cost]:,.4g} ({over}) the least error falls from "
        f"{before} to {after}, {fall(first['val_mse'], last['val_mse'])} for "
        f"{format_larger_factor(last[cost] / first[cost])} the cost."
    )


def describe_growth(grown: Growth, cost: str) -> str:
    """How far the Pareto front lies below doing nothing, and PCA does."""
    height = float(grown.steps["height"].iloc[-1])
    line = (
        ""
        if grown.line is None
        else f" PCA lies a factor of {format_ratio(10**grown.line)} below it."
    )
    over = COST_NAMES[cost].partition(",")[0]
    return (
        f"The Pareto front lies a factor of {format_ratio(10**height)} below an error of "
        f"{format_error(grown.worst)} ({height:.2f} decades: the geometric mean over {over} from "
        f"{grown.low:,.4g} to {grown.high:,.4g}, its hypervolume on logarithmic axes).{line}"
    )


@dataclass(frozen=True)
class Growth:
    """How a frontier grew: `steps`: `cost` and `error` of each trial, in the order in which they
    ended, and `height`, the hypervolume until then: the mean over costs from `low` to `high` of how
    many decades the least error lies below `worst`. `line`: the same of PCA, where the
    cost is the latent size and there are any."""

    steps: pd.DataFrame
    low: float
    high: float
    worst: float
    line: float | None


def compute_growth(trials: pd.DataFrame, latent: LatentError, cost: str) -> Growth | None:
    """From the smallest cost of any trial to twice the largest, so that each counts. `worst` is the
    error of doing nothing, where that is known and not zero; else that of the worst trial. None
    where no trial has ended with an error above zero."""
    rows = select_ended(trials).sort_values(["ended_at", "trial_number"])
    if rows.empty:
        return None
    steps = pd.DataFrame({"cost": rows[cost].astype(float), "error": rows["val_mse"].astype(float)})
    steps = steps.reset_index(drop=True)
    worst = max(latent.levels.values(), default=0.0)
    if worst <= EXACT:
        worst = float(steps["error"].max())
    if worst <= EXACT:
        return None
    low, high = float(steps["cost"].min()), 2 * float(steps["cost"].max())
    errors = steps["error"].clip(lower=EXACT)  # a logarithm needs an end
    points = list(zip(steps["cost"].tolist(), errors.tolist(), strict=True))
    front: list[tuple[float, float]] = []
    heights = []
    for point in points:
        if not any(c <= point[0] and e <= point[1] for c, e in front):
            front = [p for p in front if p[0] < point[0] or p[1] < point[1]] + [point]
        heights.append(compute_hypervolume(front, low, high, worst))
    line = None
    codes = latent.linear[latent.linear["val_mse"] > EXACT]
    if cost == "latent_size" and not codes.empty:
        sizes = zip(codes["latent_size"].tolist(), codes["val_mse"].tolist(), strict=True)
        line = compute_hypervolume(sizes, low, high, worst)
    return Growth(steps.assign(height=heights), low, high, worst, line)


def draw_growth(data: Growth) -> go.Figure:
    """The hypervolume after each trial."""
    figure = plotting.make_figure("trials that ended", "mean height of the Pareto front, decades")
    places = list(range(1, len(data.steps) + 1))
    figure.add_scatter(
        x=places,
        y=data.steps["height"].tolist(),
        name="Pareto front",
        mode="lines",
        line={"color": ORANGE, "width": 2, "shape": "hv"},
        hovertemplate="%{x} trials: %{y:.3f}<extra></extra>",
    )
    if data.line is not None:
        figure.add_scatter(
            x=[1, len(places)],
            y=[data.line] * 2,
            name="PCA",
            mode="lines",
            line={"color": VIOLET, "width": 1.5},
            hovertemplate="PCA: %{y:.3f}<extra></extra>",
        )
    figure.update_yaxes(rangemode="tozero")
    figure.update_xaxes(tickformat="d")
    return figure


def select_cost_frontier(trials: pd.DataFrame, cost: str) -> pd.DataFrame:
    """Of the trials that ended with an error those that no other beats in error and `cost`, the
    cheapest first."""
    rows = select_ended(trials).sort_values([cost, "val_mse"])
    on = find_frontier(rows.to_dict("records"), cost)  # type: ignore[arg-type]
    return rows[rows["trial_number"].map(on).astype(bool)]


def draw_cost(trials: pd.DataFrame, cost: str) -> go.Figure:
    """Error against a cost other than the latent size, both axes logarithmic. Needs one trial that
    ended with an error."""
    rows = select_ended(trials)
    figure = plotting.make_figure(COST_NAMES[cost], "validation error, MSE")

    def hover(row: dict[Hashable, Any]) -> str:
        return f"trial {row['trial_number']}: {format_error(row['val_mse'])}, {row[cost]:,.4g}"

    errors = rows["val_mse"].astype(float).tolist()
    zero = plotting.floor(errors)
    draw_trials(figure, rows, select_cost_frontier(rows, cost), cost, hover, zero)
    drawn = plotting.lifted(errors, zero)
    figure.update_yaxes(plotting.error_log_axis(min(drawn) / 1.2, max(drawn) * 1.2, errors))
    low, high = float(rows[cost].min()) / 1.2, float(rows[cost].max()) * 1.2
    figure.update_xaxes(plotting.make_log_axis(low, high, form="{:,.4g}"))
    return figure
