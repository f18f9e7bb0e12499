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
    """Select the Pareto front of error and cost, the cheapest trial first.

    Args:
        trials: Trials in any state.
        cost: The column of the cost.
    """
    rows = select_ended(trials).sort_values([cost, "val_mse"])
    is_on_front = find_frontier(rows.to_dict("records"), cost)  # type: ignore[arg-type]
    return rows[rows["trial_number"].map(is_on_front).astype(bool)]


def describe_cost(front: pd.DataFrame, cost: str) -> str:
    """Describe how far the error falls along the Pareto front, and what that costs.

    Args:
        front: What `select_cost_frontier` returns, at least one row.
        cost: The column of the cost.
    """
    over = COST_NAMES[cost].partition(",")[0]
    front = front.drop_duplicates(["val_mse", cost])
    first, last = front.iloc[0], front.iloc[-1]
    if len(front) == 1:
        return (
            f"Trial {first['trial_number']} has both the lowest error "
            f"({format_error(first['val_mse'])}) and the lowest cost ({over}: {first[cost]:,.4g})."
        )
    before, after = format_errors_apart(first["val_mse"], last["val_mse"])
    return (
        f"The lowest error falls from {before} ({over}: {first[cost]:,.4g}) to {after} "
        f"({last[cost]:,.4g}): {format_larger_factor(last[cost] / first[cost])} the cost reduces "
        f"it {describe_fall(first['val_mse'], last['val_mse'])}."
    )


def draw_cost(trials: pd.DataFrame, cost: str) -> go.Figure:
    """Draw error against a cost other than the latent size, on logarithmic axes.

    Args:
        trials: Trials in any state; at least one has a measured error.
        cost: The column of the cost.
    """
    rows = select_ended(trials)
    figure = plotting.make_figure(COST_NAMES[cost], "validation error, MSE")

    def format_hover(row: dict[Hashable, Any]) -> str:
        return f"trial {row['trial_number']}: {format_error(row['val_mse'])}, {row[cost]:,.4g}"

    errors = rows["val_mse"].astype(float).tolist()
    zero = plotting.choose_zero_position(errors)
    draw_trials(figure, rows, select_cost_frontier(rows, cost), cost, format_hover, zero)
    drawn = plotting.lift_zeros(errors, zero)
    figure.update_yaxes(plotting.make_full_error_axis(min(drawn) / 1.2, max(drawn) * 1.2, errors))
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

        Args:
            data: The study.

        Returns:
            The section; None if the cost is the latent size or no trial has a measured error.
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
