"""The look that all figures share: colours, axes, how an error is written.

Colours and text are chosen to be read on a white and on a black page alike; backgrounds are
transparent.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

import plotly.graph_objects as go

BLUE, ORANGE, VIOLET, GREY = "#3b82c4", "#e4692b", "#9270b8", "#8a8f96"
FAINT = "rgba(138, 143, 150, 0.22)"


def error(mse: float) -> str:
    """A mean squared error: five decimals, or three digits where those would not be enough."""
    return f"{mse:.5f}" if mse >= 0.001 else f"{mse:#.3g}"


def log_ticks(low: float, high: float) -> list[float]:
    """Round numbers from `low` to `high` (0 < low < high) for a logarithmic axis, four or more."""
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    for mantissas in ((1,), (1, 3), (1, 2, 5), (1, 1.5, 2, 3, 4, 5, 6, 8)):
        ticks = [float(f"{m}e{decade}") for decade in decades for m in mantissas]
        ticks = [tick for tick in ticks if low <= tick <= high]
        if len(ticks) >= 4:
            return ticks
    step = 10.0 ** math.floor(math.log10((high - low) / 4))
    step *= max(m for m in (1, 2, 5) if m * step <= (high - low) / 4)
    return [n * step for n in range(math.ceil(low / step), math.floor(high / step) + 1)]


def powers_of_two(low: float, high: float) -> list[int]:
    """Those from `low` to `high`, nine at most."""
    powers = range(math.ceil(math.log2(max(low, 1))), math.floor(math.log2(high)) + 1)
    return [2**n for n in powers][:: 1 + len(powers) // 8]


def log_axis(
    low: float, high: float, ticks: Iterable[float], labels: Iterable[str]
) -> dict[str, object]:
    """What makes a plotly axis logarithmic from `low` to `high`, marked at `ticks`."""
    return {
        "type": "log",
        "range": [math.log10(low), math.log10(high)],
        "tickvals": list(ticks),
        "ticktext": list(labels),
    }


def figure(x_title: str, y_title: str) -> go.Figure:
    """An empty figure in the page's look. Dragging does nothing: on a phone it has to scroll."""
    empty = go.Figure(layout={"template": "none"})
    axis = {"gridcolor": FAINT, "linecolor": FAINT, "zeroline": False, "fixedrange": True}
    axis |= {"automargin": True, "title": {"font": {"size": 13}}}
    empty.update_xaxes(axis, title_text=x_title, showline=True)
    empty.update_yaxes(axis, title_text=y_title)
    return empty.update_layout(
        paper_bgcolor="rgba(0,0,0,0)",
        plot_bgcolor="rgba(0,0,0,0)",
        font={"color": GREY, "size": 13, "family": "system-ui, sans-serif"},
        margin={"l": 10, "r": 12, "t": 10, "b": 10},
        legend={"orientation": "h", "font": {"size": 12}, "x": 0, "y": 1.02, "yanchor": "bottom"},
        hoverlabel={
            "bgcolor": "#23272e",
            "bordercolor": GREY,
            "font": {"color": "#f1f2f4", "size": 12},
            "align": "left",
        },
        hovermode="closest",
        dragmode=False,
        showlegend=True,
    )
