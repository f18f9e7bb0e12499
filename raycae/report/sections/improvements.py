"""The best so far: when each improvement came and what it cost."""

from __future__ import annotations

import math
from collections.abc import Hashable
from dataclasses import dataclass
from typing import Any

import pandas as pd
import plotly.graph_objects as go

from raycae.formatting import format_count, format_error
from raycae.report import plotting
from raycae.report.plotting import EXACT, ORANGE
from raycae.report.report_data import ReportData
from raycae.report.section import Section
from raycae.report.similar_cost import have_similar_cost
from raycae.report.trials import select_ended
from raycae.report.wording import (
    choose_time_unit,
    format_errors_apart,
    format_percent,
    format_time,
)
from raycae.study.records import COMPLETE


def find_improvements(trials: pd.DataFrame) -> pd.DataFrame:
    """Find the complete trials that were better than all before them, in the order of their ends.

    Args:
        trials: Trials in any state.

    Returns:
        One row per improvement: `trial_number`; `val_mse`; `n`, the number of trials that had ended
        by then, this one included; `hours` since the first trial began; `spent_s`, the
        worker-seconds that those trials spent in epochs; `cost_s`, the part of it since the last
        improvement; `gain`, the share of the error that it removed (NaN for the first).
    """
    rows = trials.dropna(subset=["ended_at"]).sort_values(["ended_at", "trial_number"])
    rows = rows.assign(
        n=range(1, len(rows) + 1),
        hours=get_hours(rows["ended_at"], trials["started_at"].min()),
        spent_s=rows["wall_time_s"].astype(float).fillna(0).cumsum(),
    )
    scored = rows[rows["state"].eq(COMPLETE) & rows.index.isin(select_ended(rows).index)]
    errors = scored["val_mse"].astype(float)
    better = scored[errors < errors.cummin().shift(fill_value=math.inf)]
    better = better.assign(
        val_mse=better["val_mse"].astype(float),
        cost_s=better["spent_s"].diff().fillna(better["spent_s"]),
        gain=-better["val_mse"].astype(float).pct_change(),
    )
    names = ["trial_number", "val_mse", "n", "hours", "spent_s", "cost_s", "gain"]
    return better[names].reset_index(drop=True)


def estimate_seed_spread(trials: pd.DataFrame) -> float:
    """Estimate how far two complete runs of one configuration with different seeds lie apart.

    Args:
        trials: Trials in any state.

    Returns:
        The standard deviation of the difference of two log errors, pooled over all configurations
        that are complete with several seeds and have an error above zero; NaN without one.
    """
    rows = select_ended(trials)
    rows = rows[(rows["state"] == COMPLETE) & (rows["val_mse"] > EXACT)]
    rows = rows.drop_duplicates(["config", "seed"])
    logs = rows["val_mse"].astype(float).map(math.log).groupby(rows["config"], observed=True)
    n_free = int((logs.size() - 1).sum())
    if not n_free:
        return math.nan
    squares = float(((logs.size() - 1) * logs.var().fillna(0)).sum())
    return math.sqrt(2 * squares / n_free)


def draw_best_so_far(data: pd.DataFrame, over: str, end: float) -> go.Figure:
    """Draw the lowest error so far.

    Args:
        data: What `find_improvements` returns, at least one row.
        over: The column of the x axis, `n` or `hours`, which is drawn in the unit that fits.
        end: Where the line ends.
    """
    scale, title = 1.0, "trials that ended"
    if over == "hours":
        scale, unit = choose_time_unit(end)
        title = f"{unit} since the first trial began"
    figure = plotting.make_figure(title, "lowest validation error, MSE")
    if over == "n":
        plotting.use_whole_ticks(figure, end)
    texts = [
        f"trial {number}: {format_error(val_mse)}"
        for number, val_mse in zip(data["trial_number"], data["val_mse"], strict=True)
    ]
    errors = data["val_mse"].tolist()
    drawn = plotting.lift_zeros(errors, plotting.choose_zero_position(errors))
    figure.add_scatter(
        x=[*(scale * data[over]).tolist(), scale * end],
        y=[*drawn, drawn[-1]],
        customdata=[*data["trial_number"].astype(int).tolist(), None],
        mode="lines+markers",
        line={"color": ORANGE, "width": 2, "shape": "hv"},
        marker={"size": [7] * len(data) + [0]},
        hovertext=[*map(plotting.escape_html, texts), ""],
        hoverinfo="text",
        showlegend=False,
    )
    low, high = min(drawn) / 1.1, max(drawn) * 1.1
    high = max(min(high, 1.0), 1.5 * low)
    return figure.update_yaxes(plotting.make_full_error_axis(low, high, errors))


def get_hours(times: pd.Series[Any], since: Any) -> pd.Series[float]:
    """Return times as hours since a moment.

    Args:
        times: Times.
        since: The moment.
    """
    return (times - since).dt.total_seconds().astype(float) / 3600


def describe_improvements(data: pd.DataFrame, trials: pd.DataFrame) -> str | None:
    """Describe when the best trial came, and whether improvements exceed the spread of seeds.

    Args:
        data: What `find_improvements` returns.
        trials: Trials in any state.

    Returns:
        The sentences; None without a complete trial.
    """
    if data.empty:
        return None
    n_ended = int(trials["ended_at"].notna().sum())
    last = data.iloc[-1]
    number, after = int(last["trial_number"]), n_ended - int(last["n"])
    if len(data) == 1:
        if not after:
            return f"The first complete trial, {number}, is the last trial that ended."
        return (
            f"The first complete trial, {number}, was never improved on by the "
            f"{format_count(after, 'trial')} that ended after it."
        )
    low, high = format_errors_apart(data["val_mse"].iloc[0], last["val_mse"])
    text = (
        f"The lowest error fell from {low} to {high} in "
        f"{format_count(len(data) - 1, 'improvement')}. The last improvement was trial {number}, "
        f"after {format_time(float(last['hours']) * 3600)}, when {last['n']:,.0f} of "
        f"{format_count(n_ended, 'trial')} had ended. It reduced the error by "
        f"{format_percent(last['gain'])}."
    )
    spread = estimate_seed_spread(trials)
    if math.isnan(spread):
        return (
            f"{text} No configuration was run to the end with several seeds, so the report cannot "
            "tell improvements from seed noise."
        )
    steps = data["val_mse"].astype(float).clip(lower=EXACT).map(math.log).diff()
    n_clear = int((steps < -2 * spread).sum())
    verb = "exceeds" if n_clear == 1 else "exceed"
    return (
        f"{text} Two seeds of one configuration typically differ by a factor of "
        f"{math.exp(spread):.3g}. {n_clear or 'None'} of the improvements {verb} the square of "
        "that factor."
    )


def describe_epochs_spent(data: pd.DataFrame, trials: pd.DataFrame) -> str | None:
    """Describe how much time trials spent in epochs, until the best trial, and for its improvement.

    Args:
        data: What `find_improvements` returns.
        trials: Trials in any state.

    Returns:
        A sentence; None if no trial has spent time in epochs.
    """
    total = float(trials["wall_time_s"].astype(float).fillna(0).sum())
    if total == 0:
        return None
    text = f"Epochs took {format_time(total)}, summed over workers"
    devices = ", ".join(sorted(set(trials["device"].dropna())))
    if devices:
        text += f" (on {devices})"
    if data.empty:
        return f"{text}."
    last = data.iloc[-1]
    text += f". The best trial ended after {format_percent(last['spent_s'] / total)} of this time."
    if len(data) == 1:
        return text
    return (
        f"{text} Between the previous best trial and this one, workers spent "
        f"{format_time(float(last['cost_s']))} in epochs."
    )


@dataclass(frozen=True, kw_only=True)
class ImprovementsSection(Section):
    """The best so far; a part of the sections on learning curves and on the search."""

    template = "sections/improvements.html.j2"
    sentence: str | None
    cost_sentence: str | None
    rows: list[dict[Hashable, Any]]

    @classmethod
    def build(cls, data: ReportData) -> ImprovementsSection:
        """Build the section; see `Section.build`.

        Args:
            data: The study.

        Returns:
            The section. It has only the time spent in epochs if no trial is complete, or if the
            study is of a Pareto front: a larger latent has less error, which is no improvement.
        """
        trials = data.trials
        better = find_improvements(trials)
        if data.is_frontier and not have_similar_cost(select_ended(trials), data.cost):
            better = better.head(0)
        figures = {}
        if not better.empty:
            ended = trials["ended_at"].dropna()
            hours = (ended.max() - trials["started_at"].min()).total_seconds() / 3600
            figures["best-by-trial"] = draw_best_so_far(better, "n", len(ended))
            figures["best-by-hour"] = draw_best_so_far(better, "hours", hours)
        return cls(
            figures=figures,
            sentence=describe_improvements(better, trials),
            cost_sentence=describe_epochs_spent(better, trials),
            rows=better.tail(20).to_dict("records"),
        )
