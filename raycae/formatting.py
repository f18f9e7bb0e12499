"""Numbers, counts and lists as text."""

from __future__ import annotations

import math


def make_printable(text: str) -> str:
    """`text` with control characters, line ends and the like as Python writes them: a name from a
    file may hold what would steer a terminal."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def format_duration(seconds: float) -> str:
    """`2 h 05 min`, `3 min 07 s`, `9 s`"""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes:02d} min"
    return f"{minutes} min {rest:02d} s" if minutes else f"{rest} s"


def format_error(mse: float) -> str:
    """Write a mean squared error: five decimals, three digits below 0.001, and `0` for zero."""
    if mse == 0:
        return "0"
    return f"{mse:.5f}" if mse >= 0.001 else f"{mse:#.3g}"


def format_factor(value: float) -> str:
    """`0.62 times`, `1.8 times`, `140 times`."""
    return f"{format_ratio(value)} times"


def format_ratio(value: float) -> str:
    """Two digits that count, never an exponent: `0.0062`, `0.62`, `1.8`, `140`."""
    if value >= 9.95:
        digits = 0
    elif 0 < value < 1:
        digits = 1 - math.floor(math.log10(value))
    else:
        digits = 1
    return f"{value:,.{digits}f}"


def join_words(parts: list[str]) -> str:
    """`a`, `a and b`, `a, b and c`"""
    return " and ".join(filter(None, (", ".join(parts[:-1]), parts[-1])))


def format_count(n: int, thing: str) -> str:
    """`1 trial`, `2,000 trials`"""
    return f"{n:,} {thing}" if n == 1 else f"{n:,} {thing}s"
