"""Values of options that are more than a number or a choice: parse them and write them."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from raycae.errors import InputError
from raycae.execution.search_options import OPTIONS

MAX_HOURS = 100_000
"""The longest time limit that `--hours` takes."""


def format_option(value: Any) -> str:
    """Write a value as it would be typed.

    Args:
        value: The value; a list or any other sequence is written with commas.
    """
    is_one = isinstance(value, str) or not isinstance(value, Iterable)
    return str(value) if is_one else ",".join(map(str, value))


def parse_trials(trials: str | None, *, so_far: int) -> int | None:
    """Parse `--trials`.

    Args:
        trials: `N` for a total of N, `+N` for N more than `so_far`, or None.
        so_far: Trials that the study has been planned with.

    Returns:
        The study's total; None if the option is not given.

    Raises:
        InputError: The text is neither.
    """
    if trials is None:
        return None
    digits = trials.removeprefix("+")
    if not re.fullmatch("[0-9]{1,9}", digits) or int(digits) < 1:
        raise InputError(
            f"--trials {trials}: expected a whole number of at least 1, or +N to add N trials."
        )
    return int(digits) + (so_far if trials.startswith("+") else 0)


def parse_strata(text: str) -> list[int]:
    """Parse `--strata`.

    Args:
        text: Latent sizes separated by commas, such as `64,128,256`.

    Returns:
        The upper bound of each latent-size bin, ascending.

    Raises:
        InputError: The text is no ascending list of latent sizes.
    """
    bounds = [int(size) if re.fullmatch("[0-9]{1,9}", size) else 0 for size in text.split(",")]
    if min(bounds) < 1 or bounds != sorted(set(bounds)):
        raise InputError(
            f"--strata {text}: expected latent sizes in ascending order, such as 64,128,256"
        )
    return bounds


def parse_fuse(text: int | str | None) -> int | None:
    """Parse `--fuse`.

    Args:
        text: `auto`, `off`, a number of trials, or None.

    Returns:
        The largest number of trials to train together; None: as many as make it faster.

    Raises:
        InputError: The value is not allowed.
    """
    if text in (None, "auto"):
        return None
    if text == "off":
        return 1
    if not re.fullmatch("[0-9]{1,4}", str(text)) or int(text or 0) < 2:
        raise InputError(f"--fuse {text}: expected auto, off or a whole number from 2 to 9999")
    return int(text or 0)


def parse_hours(hours: float | None) -> float | None:
    """Check `--hours`, which must be above zero.

    Args:
        hours: The time limit; None for none.

    Raises:
        InputError: It is not a number of hours above 0 and up to `MAX_HOURS`.
    """
    hours = OPTIONS["hours"].check(hours)
    if hours is not None and not 0 < hours <= MAX_HOURS:
        raise InputError(f"--hours {hours:g}: expected a number above 0, up to {MAX_HOURS:,}")
    return hours


def parse_limits(limits: Mapping[str, float] | Sequence[str] | None) -> list[str]:
    """Write the limits of `--max` as they would be typed.

    Args:
        limits: Numbers by the name of a limit, or texts `NAME=VALUE`, or None.

    Returns:
        One text `NAME=VALUE` for each limit.
    """
    if isinstance(limits, Mapping):
        return [f"{name}={value}" for name, value in limits.items()]
    if isinstance(limits, str):
        return [limits]
    return [] if limits is None else list(map(str, limits))
