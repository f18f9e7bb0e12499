"""The look that all figures share: colours, axes, how numbers are written in words.

Colours and text are chosen to be read on a white and on a black page alike; backgrounds are
transparent.
"""

from __future__ import annotations

import html
import math
from collections.abc import Callable, Hashable, Iterable, Sequence
from typing import Any

import pandas as pd
import plotly.graph_objects as go

from raycae.study.records import COMPLETE, PRUNED

BLUE, ORANGE, VIOLET, GREY = "#3b82c4", "#e4692b", "#9270b8", "#8a8f96"
FAINT = "rgba(138, 143, 150, 0.22)"
EXACT = 1e-8
"""Errors up to this are zero but for rounding: half a step of 8 bits, everywhere, is 4e-6."""


def escape_html(text: str) -> str:
    """Text that plotly shows as it is; it reads a little HTML, but no escaped quotes."""
    return html.escape(text, quote=False)


def choose_log_ticks(low: float, high: float) -> list[float]:
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


def make_error_axis(errors: Sequence[float]) -> dict[str, object]:
    """A logarithmic axis from the least of `errors` to a little above nine tenths of them: one that
    exploded must not flatten all the others. What lies above is drawn at `get_error_ceiling`, and
    what is zero at `floor`."""
    low, high = min(lifted(errors, floor(errors))) / 1.15, get_error_ceiling(errors) * 1.05
    return error_log_axis(low, max(high, 1.5 * low), errors)


def get_error_ceiling(errors: Sequence[float]) -> float:
    """The greatest error that is drawn where it is."""
    ordered = sorted(lifted(errors, floor(errors)))
    return min(ordered[-1], 3 * ordered[int(0.9 * (len(ordered) - 1))])


def floor(errors: Iterable[float]) -> float:
    """Return where a logarithmic axis draws zero: at half of the least error above `EXACT`."""
    return min((error for error in errors if error > EXACT), default=2 * EXACT) / 2


def lifted(errors: Iterable[float], floor: float) -> list[float]:
    """Lift what is zero to `floor`, so that a logarithmic axis can show it."""
    return [floor if error <= EXACT else float(error) for error in errors]


def error_log_axis(low: float, high: float, errors: Sequence[float]) -> dict[str, object]:
    """Build a logarithmic axis of errors from `low` to `high`, with a tick `0` where one is zero.

    Args:
        low: The lower end, above 0.
        high: The upper end, above `low`.
        errors: What is drawn, before it was `lifted`.
    """
    axis = make_log_axis(low, high)
    if any(error <= EXACT for error in errors):
        zero = floor(errors)
        ticks = [tick for tick in choose_log_ticks(low, high) if tick > 1.2 * zero]
        axis |= {"tickvals": [zero, *ticks], "ticktext": ["0", *(f"{t:.3g}" for t in ticks)]}
    return axis


def list_powers_of_two(low: float, high: float) -> list[int]:
    """Those from `low` to `high`, nine at most."""
    powers = range(math.ceil(math.log2(max(low, 1))), math.floor(math.log2(high)) + 1)
    return [2**n for n in powers][:: 1 + len(powers) // 8]


def make_log_axis(
    low: float, high: float, ticks: Iterable[float] | None = None, form: str = "{:.3g}"
) -> dict[str, object]:
    """What makes a plotly axis logarithmic from `low` to `high`, marked at `ticks` or, without any,
    at round numbers."""
    ticks = choose_log_ticks(low, high) if ticks is None else list(ticks)
    return {
        "type": "log",
        "range": [math.log10(low), math.log10(high)],
        "tickvals": ticks,
        "ticktext": [form.format(tick) for tick in ticks],
    }


def make_figure(x_title: str, y_title: str) -> go.Figure:
    """An empty figure in the page's look. Dragging does nothing: on a phone it has to scroll."""
    axis = {"gridcolor": FAINT, "linecolor": FAINT, "zeroline": False, "fixedrange": True}
    axis["automargin"] = True
    x, y = ({**axis, "title": {"text": text, "font": {"size": 13}}} for text in (x_title, y_title))
    # In one go: plotly checks every update anew.
    return go.Figure(
        layout={
            "template": "none",
            "xaxis": {**x, "showline": True},
            "yaxis": y,
            "paper_bgcolor": "rgba(0,0,0,0)",
            "plot_bgcolor": "rgba(0,0,0,0)",
            "font": {"color": GREY, "size": 13, "family": "system-ui, sans-serif"},
            "margin": {"l": 10, "r": 12, "t": 10, "b": 10},
            "legend": {
                **{"orientation": "h", "font": {"size": 12}},
                **{"x": 0, "y": 1.02, "yanchor": "bottom"},
            },
            "hoverlabel": {
                "bgcolor": "#23272e",
                "bordercolor": GREY,
                "font": {"color": "#f1f2f4", "size": 12},
                "align": "left",
            },
            "hovermode": "closest",
            "dragmode": False,
            "showlegend": True,
        }
    )


def draw_trials(
    figure: go.Figure,
    trials: pd.DataFrame,
    front: pd.DataFrame,
    cost: str,
    hover: Callable[[dict[Hashable, Any]], str],
    zero: float,
    top: float = math.inf,
) -> None:
    """Draw each trial's error over its `cost`, what is zero at `zero`, at most at `top`, and a line
    through `front`."""
    figure.add_scatter(
        x=front[cost].tolist(),
        y=lifted(front["val_mse"], zero),
        customdata=front["trial_number"].astype(int).tolist(),
        name="Pareto front",
        mode="lines",
        line={"color": ORANGE, "width": 2},
        hoverinfo="skip",
    )
    for state, name, marker in (
        (PRUNED, "stopped early", {"color": GREY, "symbol": "circle-open", "size": 7}),
        (COMPLETE, "complete", {"color": BLUE, "size": 8}),
    ):
        shown = trials[trials["state"] == state]
        if not shown.empty:
            figure.add_scatter(
                x=shown[cost].tolist(),
                y=[min(y, top) for y in lifted(shown["val_mse"], zero)],
                name=name,
                mode="markers",
                marker=marker,
                customdata=shown["trial_number"].astype(int).tolist(),
                hovertext=[hover(trial) for trial in shown.to_dict("records")],
                hoverinfo="text",
            )
