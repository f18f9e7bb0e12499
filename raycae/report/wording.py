"""Errors, factors, shares and times as text for sentences of the report."""

from __future__ import annotations

from raycae.formatting import format_error, format_factor, format_ratio
from raycae.report.plotting import EXACT


def format_errors_apart(first: float, second: float) -> tuple[str, str]:
    """Format two errors with as many digits as it takes to tell them apart.

    Args:
        first: A mean squared error.
        second: Another one. Two equal errors get the same text.

    Returns:
        Both errors as text, as `format_error` gives them where that is enough.
    """
    texts = format_error(first), format_error(second)
    for digits in range(4, 18):
        if texts[0] != texts[1] or first == second:
            break
        texts = f"{first:.{digits}g}", f"{second:.{digits}g}"
    return texts


def describe_fall(first: float, last: float) -> str:
    """Describe by how much an error falls: `by a factor of 2.2`, `by 3.1 %`, `to zero`.

    Args:
        first: The error before, above `last`.
        last: The error after, at least 0.

    Returns:
        A factor from 1.1 on, a percentage below that.
    """
    if last <= EXACT:
        return "to zero"
    if first >= 1.1 * last:
        return f"by a factor of {format_ratio(first / last)}"
    return f"by {100 * (1 - last / first):.2g} %"


def format_larger_factor(times: float) -> str:
    """Format a factor: `3.1 times`, or `1.0031 times` where two digits would read as no difference.

    Args:
        times: A factor of at least 1.
    """
    return format_factor(times) if times >= 1.1 else f"{times:.6g} times"


def format_percent(share: float) -> str:
    """Format a share in percent with two digits: `50 %`, `0.31 %`, `100 %`.

    Args:
        share: A share from 0 to 1.
    """
    return f"{100 * share:.0f} %" if share >= 0.095 else f"{100 * share:.2g} %"


def format_time(seconds: float) -> str:
    """Format a duration in the unit that suits it: `41 s`, `12 min`, `3.4 h`.

    Args:
        seconds: A duration in seconds.
    """
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 6000 else f"{seconds / 3600:,.1f} h"


def choose_time_unit(hours: float) -> tuple[float, str]:
    """Choose the unit of an axis of time.

    Args:
        hours: The largest time on the axis.

    Returns:
        How many units an hour has, and the name of the unit.
    """
    for per_hour, name in ((1 / 24, "days"), (1.0, "hours"), (60.0, "minutes")):
        if hours * per_hour >= 2:
            return per_hour, name
    return 3600.0, "seconds"


def format_signed_percent(percent: float) -> str:
    """Format a change in percent with its sign: `−4.5 %`, `+0.03 %`.

    Args:
        percent: The change in percent.
    """
    digits = 1 if abs(percent) >= 0.1 else 2
    return f"{percent:+.{digits}f} %".replace("-", "−")


def format_bound(value: float) -> str:
    """Format an end of an interval; a value that is too large to be useful as `over 1,000`.

    Args:
        value: A ratio above 0.
    """
    return format_ratio(value) if value <= 1000 else "over 1,000"
