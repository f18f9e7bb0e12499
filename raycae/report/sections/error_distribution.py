"""How the errors of a study are spread: their empirical distribution function."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from raycae.formatting import format_error
from raycae.report import plotting
from raycae.report.plotting import BLUE, GREY
from raycae.report.report_data import ReportData
from raycae.report.section import Section
from raycae.report.trials import select_ended
from raycae.study.records import COMPLETE

FEWEST = 10
"""Trials with an error below which a distribution says nothing."""
MOST_STEPS = 300
"""Largest number of steps that are drawn of a distribution."""


def describe_errors(errors: list[float]) -> str:
    """Describe the median, and what the best tenth reaches.

    Args:
        errors: The errors of the trials that ended with one, at least one, in any order.
    """
    ordered = sorted(errors)
    n = len(ordered)
    n_best, n_half = math.ceil(n / 10), math.ceil(n / 2)
    return (
        f"Of the {n:,} trials with a measured validation error, {n_best:,} "
        f"{'has' if n_best == 1 else 'have'} an error of at most "
        f"{format_error(ordered[n_best - 1])}, and {n_half:,} of at most "
        f"{format_error(ordered[n_half - 1])}."
    )


def draw_distribution(trials: pd.DataFrame) -> go.Figure:
    """Draw which share of the trials has at most an error, all and the complete ones.

    Args:
        trials: The trials with a measured error, at least one.
    """
    figure = plotting.make_figure("validation error, MSE", "share of the trials")
    errors = trials["val_mse"].astype(float).tolist()
    zero, top = plotting.choose_zero_position(errors), plotting.get_error_ceiling(errors)
    complete = trials.loc[trials["state"] == COMPLETE, "val_mse"].astype(float).tolist()
    for name, values, colour in (("all", errors, GREY), ("complete", complete, BLUE)):
        if not values:
            continue
        drawn = sorted(min(error, top) for error in plotting.lift_zeros(values, zero))
        n = len(drawn)
        places = np.unique(np.linspace(0, n - 1, min(n, MOST_STEPS)).round().astype(int))
        figure.add_scatter(
            x=[drawn[place] for place in places],
            y=[(int(place) + 1) / n for place in places],
            name=f"{name}: {n:,}",
            mode="lines",
            line={"color": colour, "width": 2, "shape": "hv"},
            hovertemplate="%{y:.0%} have at most %{x:.4g}<extra></extra>",
        )
    figure.update_xaxes(plotting.make_error_axis(errors))
    return figure.update_yaxes(tickformat=".0%", range=[0, 1.02])


@dataclass(frozen=True, kw_only=True)
class ErrorDistributionSection(Section):
    """How the errors are spread."""

    template = "sections/error_distribution.html.j2"
    sentence: str

    @classmethod
    def build(cls, data: ReportData) -> ErrorDistributionSection | None:
        """Build the section; see `Section.build`.

        Args:
            data: The study.

        Returns:
            The section; None if fewer than `FEWEST` trials have a measured error.
        """
        ended = select_ended(data.trials)
        if len(ended) < FEWEST:
            return None
        return cls(
            figures={"error-distribution": draw_distribution(ended)},
            sentence=describe_errors(ended["val_mse"].astype(float).tolist()),
        )
