"""The look that all figures share: colours, axes, how numbers are written in words.

Colours and text are chosen to be read on a white and on a black page alike; backgrounds are
transparent.
"""

from __future__ import annotations

import html
import math
from collections.abc import Iterable, Sequence

import plotly.graph_objects as go

BLUE, ORANGE, VIOLET, GREY = "#3b82c4", "#e4692b", "#9270b8", "#8a8f96"
FAINT = "rgba(138, 143, 150, 0.22)"
EXACT = 1e-8
"""Errors up to this are zero but for rounding: half a step of 8 bits, everywhere, is 4e-6."""


def plain(text: str) -> str:
    """Text that plotly shows as it is; it reads a little HTML, but no escaped quotes."""
    return html.escape(text, quote=False)


def error(mse: float) -> str:
    """Write a mean squared error: five decimals, three digits below 0.001, and `0` for zero."""
    if mse == 0:
        return "0"
    return f"{mse:.5f}" if mse >= 0.001 else f"{mse:#.3g}"


def errors_apart(first: float, second: float) -> tuple[str, str]:
    """Write two errors with as many digits as it takes to tell them apart.

    Args:
        first: A mean squared error.
        second: Another one. Two equal errors are written alike.

    Returns:
        Both errors as text, as `error` writes them where that is enough.
    """
    texts = error(first), error(second)
    for digits in range(4, 18):
        if texts[0] != texts[1] or first == second:
            break
        texts = f"{first:.{digits}g}", f"{second:.{digits}g}"
    return texts


def fall(first: float, last: float) -> str:
    """Say by how much an error falls: `by a factor of 2.2`, `by 3.1 %`, `to zero`.

    Args:
        first: The error before, above `last`.
        last: The error after, at least 0.

    Returns:
        A factor from 1.1 on, a percentage below that.
    """
    if last <= EXACT:
        return "to zero"
    if first >= 1.1 * last:
        return f"by a factor of {ratio(first / last)}"
    return f"by {100 * (1 - last / first):.2g} %"


def factor(value: float) -> str:
    """`0.62 times`, `1.8 times`, `140 times`."""
    return f"{ratio(value)} times"


def ratio(value: float) -> str:
    """Two digits that count, never an exponent: `0.0062`, `0.62`, `1.8`, `140`."""
    if value >= 9.95:
        digits = 0
    elif 0 < value < 1:
        digits = 1 - math.floor(math.log10(value))
    else:
        digits = 1
    return f"{value:,.{digits}f}"


def listed(parts: list[str]) -> str:
    """`a`, `a and b`, `a, b and c`"""
    return " and ".join(filter(None, (", ".join(parts[:-1]), parts[-1])))


def counted(n: int, thing: str) -> str:
    """`1 trial`, `2,000 trials`"""
    return f"{n:,} {thing}" if n == 1 else f"{n:,} {thing}s"


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


def error_axis(errors: Sequence[float]) -> dict[str, object]:
    """A logarithmic axis from the least of `errors` to a little above nine tenths of them: one that
    exploded must not flatten all the others. What lies above is drawn at `ceiling`, and what is
    zero at `floor`."""
    low, high = min(lifted(errors, floor(errors))) / 1.15, ceiling(errors) * 1.05
    return error_log_axis(low, max(high, 1.5 * low), errors)


def ceiling(errors: Sequence[float]) -> float:
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
    axis = log_axis(low, high)
    if any(error <= EXACT for error in errors):
        zero = floor(errors)
        ticks = [tick for tick in log_ticks(low, high) if tick > 1.2 * zero]
        axis |= {"tickvals": [zero, *ticks], "ticktext": ["0", *(f"{t:.3g}" for t in ticks)]}
    return axis


def powers_of_two(low: float, high: float) -> list[int]:
    """Those from `low` to `high`, nine at most."""
    powers = range(math.ceil(math.log2(max(low, 1))), math.floor(math.log2(high)) + 1)
    return [2**n for n in powers][:: 1 + len(powers) // 8]


def log_axis(
    low: float, high: float, ticks: Iterable[float] | None = None, form: str = "{:.3g}"
) -> dict[str, object]:
    """What makes a plotly axis logarithmic from `low` to `high`, marked at `ticks` or, without any,
    at round numbers."""
    ticks = log_ticks(low, high) if ticks is None else list(ticks)
    return {
        "type": "log",
        "range": [math.log10(low), math.log10(high)],
        "tickvals": ticks,
        "ticktext": [form.format(tick) for tick in ticks],
    }


def figure(x_title: str, y_title: str) -> go.Figure:
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
