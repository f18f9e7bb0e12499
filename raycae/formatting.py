"""Numbers, counts and lists as text."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence


def make_printable(text: str) -> str:
    """Escape control characters, so that text from a file cannot steer a terminal.

    Args:
        text: Any text.

    Returns:
        The text with every unprintable character as an escape sequence of Python.
    """
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def hide_password(text: str, user: str = "") -> str:
    """Return a URL, or a text with one, without its password.

    Args:
        text: The text.
        user: What to write in place of the user and password before the host.
    """
    # A user name may have an @, as SQLAlchemy reads it, and a password a slash.
    text = re.sub("//[^/:]*(:[^@]*)?@", f"//{user}", text)
    return re.sub(r"([?&]\w*passw(?:or)?d=)[^&]*", r"\1…", text, flags=re.I)


def format_duration(seconds: float) -> str:
    """Write a duration as `2 h 05 min`, `3 min 07 s` or `9 s`.

    Args:
        seconds: The duration in seconds, at least 0.

    Returns:
        The duration, rounded to seconds, or to minutes from one hour on.
    """
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes:02d} min"
    return f"{minutes} min {rest:02d} s" if minutes else f"{rest} s"


def format_error(mse: float) -> str:
    """Write a mean squared error: five decimals, three digits below 0.001, and `0` for zero.

    Args:
        mse: The mean squared error, at least 0.

    Returns:
        The number as text.
    """
    if mse == 0:
        return "0"
    return f"{mse:.5f}" if mse >= 0.001 else f"{mse:#.3g}"


def format_factor(value: float) -> str:
    """Write a factor as `0.62 times`, `1.8 times` or `140 times`.

    Args:
        value: The factor, at least 0.

    Returns:
        The factor with two significant digits and the word "times".
    """
    return f"{format_ratio(value)} times"


def format_ratio(value: float) -> str:
    """Write a ratio with two significant digits and no exponent: `0.0062`, `0.62`, `1.8`, `140`.

    Args:
        value: The ratio, at least 0.

    Returns:
        The number as text; integers from 9.95 on.
    """
    if value >= 9.95:
        digits = 0
    elif 0 < value < 1:
        digits = 1 - math.floor(math.log10(value))
    else:
        digits = 1
    return f"{value:,.{digits}f}"


def join_words(parts: Sequence[str], conjunction: str = "and") -> str:
    """Join words as `a`, `a and b` or `a, b and c`.

    Args:
        parts: The words, at least one.
        conjunction: The word before the last one.

    Returns:
        The words as one text.
    """
    return f" {conjunction} ".join(filter(None, (", ".join(parts[:-1]), parts[-1])))


def format_count(n: int, thing: str) -> str:
    """Write a count with its noun: `1 trial`, `2,000 trials`.

    Args:
        n: The count.
        thing: The noun in the singular; its plural ends with `s`.

    Returns:
        The count as text.
    """
    return f"{n:,} {thing}" if n == 1 else f"{n:,} {thing}s"
