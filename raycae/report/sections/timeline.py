"""What ran when: a bar for each trial from its start to its end."""

from __future__ import annotations

import heapq
from typing import Any

import pandas as pd
import plotly.graph_objects as go

from raycae.report import plotting
from raycae.report.plotting import BLUE, GREY, ORANGE, VIOLET
from raycae.report.sampled_values import shorten
from raycae.report.sections.improvements import get_hours
from raycae.report.wording import choose_time_unit
from raycae.study.records import COMPLETE, FAIL, PRUNED, RUNNING

MOST_BARS = 400
"""Number of trials above which bars would be thinner than a pixel."""
GAP_ROWS = 0.6
"""Distance between the rows of two hosts, besides that of two rows."""


def assign_rows(starts: list[float], ends: list[float]) -> list[int]:
    """Assign each bar to the first row that is free when it starts.

    Args:
        starts: The starts, ascending.
        ends: The ends, each at least its start.

    Returns:
        The row of each bar, from 0. There are as many rows as bars overlap at most.
    """
    free: list[int] = []
    busy: list[tuple[float, int]] = []
    rows: list[int] = []
    for start, end in zip(starts, ends, strict=True):
        while busy and busy[0][0] <= start:
            heapq.heappush(free, heapq.heappop(busy)[1])
        row = heapq.heappop(free) if free else len(busy)
        heapq.heappush(busy, (end, row))
        rows.append(row)
    return rows


def list_places(trials: pd.DataFrame) -> pd.Series[str]:
    """List where each trial was trained: its host, and the device if there are several kinds.

    Args:
        trials: Trials in any state.

    Returns:
        `unknown host` where the table has no host. Empty texts if it has none for any trial.
    """
    if "host" not in trials or trials["host"].isna().all():
        return pd.Series("", index=trials.index)
    places = trials["host"].astype(object).where(trials["host"].notna(), "unknown host")
    if "device" in trials and trials["device"].nunique() > 1:
        devices = trials["device"].astype(object)
        places = places.where(devices.isna(), places + ", " + devices.fillna(""))
    return places


def draw_timeline(trials: pd.DataFrame) -> go.Figure | None:
    """Draw what ran when, with the rows of each host together.

    A trial that has not ended runs until the last time known of any trial. An interrupted trial
    counts as running until it ended.

    Args:
        trials: Trials in any state.

    Returns:
        The figure; None without a trial that ended, or with more than `MOST_BARS` trials.
    """
    ran = trials.dropna(subset=["started_at"]).sort_values(["started_at", "trial_number"])
    if len(ran) > MOST_BARS or ran["ended_at"].isna().all():
        return None
    last = max(ran["started_at"].max(), ran["ended_at"].max())
    since = ran["started_at"].min()
    starts = get_hours(ran["started_at"], since)
    ends = get_hours(ran["ended_at"].fillna(last), since).clip(lower=starts)
    scale, unit = choose_time_unit(float(ends.max()))
    bars = ran[["trial_number", "state"]].assign(start=starts * scale, end=ends * scale)
    places = list_places(ran)
    n_rows, ticks = 0.0, []
    for place, group in bars.groupby(places.to_numpy()):
        rows = assign_rows(group["start"].tolist(), group["end"].tolist())
        bars.loc[group.index, "row"] = [n_rows + row for row in rows]
        ticks.append((n_rows + max(rows) / 2, plotting.escape_html(shorten(str(place)))))
        n_rows += max(rows) + 1 + GAP_ROWS
    last_row = n_rows - 1 - GAP_ROWS
    figure = plotting.make_figure(f"{unit} since the first trial began", "")
    for state, name, colour in (
        (COMPLETE, "complete", BLUE),
        (PRUNED, "stopped early", GREY),
        (FAIL, "failed", ORANGE),
        (RUNNING, "not ended", VIOLET),
    ):
        x: list[Any] = []
        y: list[Any] = []
        numbers: list[Any] = []
        for bar in bars[bars["state"] == state].to_dict("records"):
            x += [bar["start"], bar["end"], None]
            y += [bar["row"], bar["row"], None]
            numbers += [int(bar["trial_number"])] * 2 + [None]
        if x:
            figure.add_scatter(
                x=x,
                y=y,
                customdata=numbers,
                name=name,
                mode="lines+markers",
                line={"color": colour, "width": 7},
                marker={"color": "white", "size": 4, "symbol": "line-ns-open"},
                hovertemplate=f"trial %{{customdata}}: %{{x:.3g}} {unit}<extra></extra>",
            )
    figure.update_yaxes(
        visible=bool(places.any()),
        showgrid=False,
        range=[last_row + 0.7, -0.7],
        tickvals=[row for row, _ in ticks],
        ticktext=[text for _, text in ticks],
    )
    return figure.update_layout(height=round(110 + 16 * (last_row + 1)))
