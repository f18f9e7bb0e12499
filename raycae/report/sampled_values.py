"""Values that trials drew for a parameter, and their positions on an axis."""

from __future__ import annotations

import json
import math
import textwrap
from collections.abc import Mapping
from typing import Any

import pandas as pd

from raycae.formatting import join_words
from raycae.space.parameters import CategoricalParameter, FloatParameter, IntParameter

Parameter = FloatParameter | IntParameter | CategoricalParameter
Parameters = Mapping[str, Parameter]
"""By the name that a column carries behind `params_`, as `space.Space.parameters` has it."""
BEST = 0.1
"""The share of trials that counts as the best ones."""


def get_drawn_values(trials: pd.DataFrame, name: str, parameter: Parameter) -> pd.Series[Any]:
    """Return what each trial drew for a parameter.

    Args:
        trials: Trials in any state.
        name: The name of the parameter.
        parameter: The parameter.

    Returns:
        The values as the space writes them; None if a trial drew none, or if a named point lies
        outside the searched range.
    """
    if (column := f"params_{name}") not in trials:
        return pd.Series([None] * len(trials), index=trials.index, dtype=object)
    known: dict[Any, Any] = {}
    if isinstance(parameter, CategoricalParameter):
        # A column of numbers and words is one of words.
        known = {str(label): label for label in parameter.labels}
        known |= {label: label for label in parameter.labels}
    else:
        drawn = trials[column].dropna().unique().tolist()
        known = {value: parameter.label(value) for value in drawn if parameter.contains(value)}
    # A missing value is no key, so it becomes None.
    values = list(map(known.get, trials[column].tolist()))
    return pd.Series(values, index=trials.index, dtype=object)


def get_position(value: Any, parameter: Parameter) -> float:
    """Return where a value lies in the searched range, on the sampler's scale.

    Args:
        value: A value of the parameter.
        parameter: The parameter.

    Returns:
        0 at the lower end or the first choice, 1 at the upper end or the last choice.
    """
    if isinstance(parameter, CategoricalParameter):
        return parameter.labels.index(value) / max(len(parameter.labels) - 1, 1)
    low, high, value = (
        math.log(end) if parameter.log else float(end)
        for end in (parameter.low, parameter.high, value)
    )
    return (value - low) / (high - low) if high > low else 0.0


def list_marks(parameter: Parameter) -> list[tuple[float, str]]:
    """List positions on an axis and their labels.

    Args:
        parameter: The parameter.

    Returns:
        All choices, or the ends of the range and its middle.
    """
    if isinstance(parameter, CategoricalParameter):
        shown = parameter.labels
    else:
        shown = list(dict.fromkeys([parameter.low, parameter.middle, parameter.high]))
    return [(get_position(value, parameter), format_choice(value)) for value in shown]


def format_choice(value: Any) -> str:
    """Format a value: floats with three digits, lists with commas.

    Args:
        value: A value of a parameter.
    """
    if isinstance(value, str) and value.startswith("["):  # the label of a list
        return ", ".join(map(format_choice, json.loads(value)))
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def shorten(text: str) -> str:
    """Shorten text to fit next to an axis.

    Args:
        text: Any text.
    """
    return textwrap.shorten(text, 18, placeholder="…")


def get_positions(trials: pd.DataFrame, parameters: Parameters) -> pd.DataFrame:
    """Return `get_position` of what each trial drew.

    Args:
        trials: Trials in any state.
        parameters: The searched parameters.

    Returns:
        One column per parameter that any trial drew; NaN where a trial drew none.
    """
    columns = {}
    for name, parameter in parameters.items():
        drawn = get_drawn_values(trials, name, parameter)
        if drawn.notna().any():
            places = {value: get_position(value, parameter) for value in drawn.dropna().unique()}
            columns[name] = drawn.map(places).astype(float)
    return pd.DataFrame(columns, index=trials.index)


def select_best_drawn(
    ranked: pd.DataFrame, name: str, parameter: Parameter
) -> tuple[pd.Series[Any], pd.Series[Any]]:
    """Return what the configurations that drew a parameter drew, and what their best tenth did.

    Args:
        ranked: One trial of each configuration with a measured error, the best first.
        name: The parameter's name.
        parameter: The parameter.

    Returns:
        The value of each configuration that drew the parameter, the best first; and the first tenth
        of these, one at least if there is any.
    """
    drawn = get_drawn_values(ranked, name, parameter).dropna()
    return drawn, drawn.head(math.ceil(BEST * len(drawn)))


def format_span(drawn: pd.Series[Any], parameter: Parameter) -> str:
    """Format which values occur: `0.001 to 0.004`, `8`, `adam and sgd`.

    Args:
        drawn: The values, at least one.
        parameter: The parameter.
    """
    if isinstance(parameter, CategoricalParameter):
        occurring = set(drawn)
        return join_words(
            [format_choice(label) for label in parameter.labels if label in occurring]
        )
    return " to ".join(dict.fromkeys((format_choice(drawn.min()), format_choice(drawn.max()))))


def split_into_parts(trials: pd.DataFrame, name: str, parameter: Parameter) -> pd.Series[Any]:
    """Assign what each trial drew to a choice or a third of the range.

    Args:
        trials: Trials in any state.
        name: The name of the parameter.
        parameter: The parameter.

    Returns:
        The part as text with the parameter's name; trials that drew no value are left out.
    """
    drawn = get_drawn_values(trials, name, parameter).dropna()
    if isinstance(parameter, CategoricalParameter):
        return drawn.map(lambda label: f"{name} {format_choice(label)}")
    thirds = drawn.map(
        {value: min(int(3 * get_position(value, parameter)), 2) for value in drawn.unique()}
    )
    ends = drawn.groupby(thirds).agg(["min", "max"])
    names = {
        third: f"{name} {format_choice(low)} to {format_choice(high)}"
        for third, low, high in ends.itertuples()
    }
    return thirds.map(names)
