"""The style that all figures share: colours, axes, and the drawing of trials.

Colours and text are chosen to be readable on a white and on a black page. Backgrounds are
transparent. Every error is a mean squared error on values from 0 to 1. Plotly reads some HTML in
every text, so text from files is escaped before.
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
LINE_STEP = math.log(1.05)
"""Natural logarithm of the ratio of neighbouring points of a line."""


def escape_html(text: str) -> str:
    """Escape text for plotly, which reads some HTML but no escaped quotes.

    Args:
        text: Any text.
    """
    return html.escape(text, quote=False)


def choose_log_ticks(low: float, high: float) -> list[float]:
    """Choose at least four round numbers as ticks of a logarithmic axis.

    Args:
        low: The lower end, above 0.
        high: The upper end, above `low`.
    """
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
    """Make a logarithmic axis that leaves out errors far above the others.

    It runs from the lowest error to slightly above nine tenths of them. Larger errors are drawn at
    `get_error_ceiling`, and errors of zero at `choose_zero_position`.

    Args:
        errors: The errors of the figure.
    """
    low, high = (
        min(lift_zeros(errors, choose_zero_position(errors))) / 1.15,
        get_error_ceiling(errors) * 1.05,
    )
    return make_full_error_axis(low, max(high, 1.5 * low), errors)


def get_error_ceiling(errors: Sequence[float]) -> float:
    """Return the largest error that is drawn at its own value.

    Args:
        errors: The errors of the figure.
    """
    ordered = sorted(lift_zeros(errors, choose_zero_position(errors)))
    return min(ordered[-1], 3 * ordered[int(0.9 * (len(ordered) - 1))])


def choose_zero_position(errors: Iterable[float]) -> float:
    """Choose where a logarithmic axis draws zero: at half of the lowest error above `EXACT`.

    Args:
        errors: The errors of the figure.
    """
    return min((error for error in errors if error > EXACT), default=2 * EXACT) / 2


def lift_zeros(errors: Iterable[float], zero: float) -> list[float]:
    """Replace errors of zero, so that a logarithmic axis can show them.

    Args:
        errors: The errors; those up to `EXACT` count as zero.
        zero: Where zero is drawn.
    """
    return [zero if error <= EXACT else float(error) for error in errors]


def make_full_error_axis(low: float, high: float, errors: Sequence[float]) -> dict[str, object]:
    """Make a logarithmic axis of errors, with a tick `0` if one is zero.

    Args:
        low: The lower end, above 0.
        high: The upper end, above `low`.
        errors: The drawn errors before `lift_zeros`.
    """
    axis = make_log_axis(low, high)
    if any(error <= EXACT for error in errors):
        zero = choose_zero_position(errors)
        ticks = [tick for tick in choose_log_ticks(low, high) if tick > 1.2 * zero]
        axis |= {"tickvals": [zero, *ticks], "ticktext": ["0", *(f"{t:.3g}" for t in ticks)]}
    return axis


def list_powers_of_two(low: float, high: float) -> list[int]:
    """List at most nine powers of two.

    Args:
        low: The lower end.
        high: The upper end.
    """
    powers = range(math.ceil(math.log2(max(low, 1))), math.floor(math.log2(high)) + 1)
    return [2**n for n in powers][:: 1 + len(powers) // 8]


def make_log_axis(
    low: float, high: float, ticks: Iterable[float] | None = None, form: str = "{:.3g}"
) -> dict[str, object]:
    """Make the settings of a logarithmic plotly axis.

    Args:
        low: The lower end, above 0.
        high: The upper end, above `low`.
        ticks: The values with a tick; round numbers by default.
        form: The format of the tick labels.
    """
    ticks = choose_log_ticks(low, high) if ticks is None else list(ticks)
    return {
        "type": "log",
        "range": [math.log10(low), math.log10(high)],
        "tickvals": ticks,
        "ticktext": [form.format(tick) for tick in ticks],
    }


def thin_line(sizes: pd.Series) -> pd.Series:
    """Choose the points of a line on a logarithmic axis that are worth drawing.

    Args:
        sizes: Their places, ascending and positive.

    Returns:
        Which to draw: neighbours are about 5 % apart.
    """
    return ~sizes.map(math.log).floordiv(LINE_STEP).duplicated()


def make_figure(x_title: str, y_title: str) -> go.Figure:
    """Make an empty figure in the style of the page.

    Dragging does nothing, so that a phone can scroll. The script of the page turns on zooming where
    there is a mouse.

    Args:
        x_title: The title of the x axis.
        y_title: The title of the y axis.
    """
    axis = {"gridcolor": FAINT, "linecolor": FAINT, "zeroline": False, "fixedrange": True}
    axis["automargin"] = True
    x, y = ({**axis, "title": {"text": text, "font": {"size": 13}}} for text in (x_title, y_title))
    # In one go: plotly validates each update.
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


def use_whole_ticks(figure: go.Figure, most: float) -> None:
    """Mark an x axis of whole numbers at whole numbers. Of few, plotly would also mark halves.

    Args:
        figure: The figure.
        most: The largest count, or the length of the axis.
    """
    if most <= 10:
        figure.update_xaxes(dtick=1, tick0=1)


def draw_trials(
    figure: go.Figure,
    trials: pd.DataFrame,
    front: pd.DataFrame,
    cost: str,
    hover: Callable[[dict[Hashable, Any]], str],
    zero: float,
    top: float = math.inf,
) -> None:
    """Draw the error of each trial over its cost, and rings around the trials of the Pareto front.

    The line between them is thin and dotted, because no error between them was measured. Steps
    would compare a small latent with PCA of a larger size.

    Args:
        figure: The figure to draw into.
        trials: The trials.
        front: The trials with a ring, in the order of the line.
        cost: The column of the x axis.
        hover: Gives the hover text of a trial.
        zero: Where an error of zero is drawn.
        top: Where larger errors are drawn.
    """
    figure.add_scatter(
        x=front[cost].tolist(),
        y=[min(y, top) for y in lift_zeros(front["val_mse"], zero)],
        customdata=front["trial_number"].astype(int).tolist(),
        name="Pareto front",
        mode="lines+markers",
        line={"color": ORANGE, "width": 1.5, "dash": "dot"},
        marker={"color": ORANGE, "symbol": "circle-open", "size": 13, "line": {"width": 1.5}},
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
                y=[min(y, top) for y in lift_zeros(shown["val_mse"], zero)],
                name=name,
                mode="markers",
                marker=marker,
                customdata=shown["trial_number"].astype(int).tolist(),
                hovertext=[hover(trial) for trial in shown.to_dict("records")],
                hoverinfo="text",
            )
