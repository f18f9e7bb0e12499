"""Error against a cost other than the latent size."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass
from typing import Any

import pandas as pd
import plotly.graph_objects as go

from raycae.formatting import format_error
from raycae.optimization.frontier import find_frontier
from raycae.report import plotting
from raycae.report.plotting import draw_trials
from raycae.report.report_data import ReportData
from raycae.report.section import Section
from raycae.report.trials import COST_NAMES, select_ended
from raycae.report.wording import describe_fall, format_errors_apart, format_larger_factor


def select_cost_frontier(trials: pd.DataFrame, cost: str) -> pd.DataFrame:
    """Of the trials that ended with an error those that no other beats in error and `cost`, the
    cheapest first."""
    rows = select_ended(trials).sort_values([cost, "val_mse"])
    on = find_frontier(rows.to_dict("records"), cost)  # type: ignore[arg-type]
    return rows[rows["trial_number"].map(on).astype(bool)]


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
    before, after = format_errors_apart(first["val_mse"], last["val_mse"])
    return (
        f"From {first[cost]:,.4g} to {last[cost]:,.4g} ({over}) the least error falls from "
        f"{before} to {after}, {describe_fall(first['val_mse'], last['val_mse'])} for "
        f"{format_larger_factor(last[cost] / first[cost])} the cost."
    )


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


@dataclass(frozen=True, kw_only=True)
class CostSection(Section):
    """Error against the cost of a study whose cost is not the latent size."""

    template = "sections/cost.html.j2"
    cost: str
    sentence: str

    @classmethod
    def build(cls, data: ReportData) -> CostSection | None:
        """Build the section; see `Section.build`.

        None if the cost is the latent size or no trial has ended with an error.
        """
        has_own_cost = data.is_frontier and data.cost != "latent_size"
        if not has_own_cost or data.latent.points.empty:
            return None
        front = select_cost_frontier(data.trials, data.cost)
        return cls(
            figures={"cost-error": draw_cost(data.trials, data.cost)},
            cost=COST_NAMES[data.cost],
            sentence=describe_cost(front, data.cost),
        )
