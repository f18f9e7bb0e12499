"""Slices: error against one parameter, and parallel coordinates of several."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass

import pandas as pd
import plotly.graph_objects as go

from raycae.formatting import format_count, format_error, join_words
from raycae.report import plotting
from raycae.report.plotting import BLUE, GREY, ORANGE
from raycae.report.report_data import ReportData
from raycae.report.sampled_values import (
    BEST,
    Parameter,
    Parameters,
    format_choice,
    format_span,
    get_drawn_values,
    get_positions,
    list_marks,
    select_best_drawn,
    shorten,
)
from raycae.report.section import Section
from raycae.report.significance import LEVEL, compute_chance_of_marked
from raycae.report.similar_cost import rank_by_error
from raycae.report.trials import (
    rank_trials,
    select_distinct,
    select_ended,
    thin_trials,
)
from raycae.space.parameters import CategoricalParameter, IntParameter
from raycae.study.records import COMPLETE, PRUNED


def describe_slices(data: Slice) -> str:
    """Describe the values of the best tenth of the configurations that drew a parameter.

    Args:
        data: The slice of the parameter.
    """
    subject = "best" if data.n_best == 1 else f"best {data.n_best:,}"
    return f"{subject}: {data.best}"


AXES = 10
"""The most lines in the parallel coordinates; a plot with more is unreadable."""


@dataclass(frozen=True)
class Slice:
    """Error against one parameter.

    Attributes:
        name: The name of the parameter.
        parameter: The parameter.
        points: `trial_number`, `state`, `value` and `val_mse` of the trials that drew it, the best
            first.
        best: The values of the best tenth as text: a range or choices.
        n_best: The number of configurations in the best tenth.
    """

    name: str
    parameter: Parameter
    points: pd.DataFrame
    best: str
    n_best: int


def make_slices(
    trials: pd.DataFrame, parameters: Parameters, cost: str | None = None
) -> list[Slice]:
    """Make a slice for each parameter that a trial with an error drew.

    Args:
        trials: Trials in any state.
        parameters: The searched parameters.
        cost: The second objective; see `rank_by_error`.
    """
    ranked = rank_trials(select_ended(trials))
    configurations = rank_by_error(select_distinct(trials), cost)
    found = []
    for name, parameter in parameters.items():
        points = ranked[["trial_number", "state"]].assign(
            value=get_drawn_values(ranked, name, parameter), val_mse=ranked["val_mse"]
        )
        points = points[points["value"].notna()]
        if points.empty:
            continue
        _, best = select_best_drawn(configurations, name, parameter)
        found.append(
            Slice(
                name,
                parameter,
                points.reset_index(drop=True),
                format_span(best, parameter),
                len(best),
            )
        )
    return found


def draw_slice(data: Slice, most: int = 200) -> go.Figure:
    """Draw error against a parameter.

    The axis is logarithmic if the space draws on a logarithmic scale.

    Args:
        data: The slice.
        most: The largest number of points.
    """
    points, parameter = thin_trials(data.points, most), data.parameter
    errors = points["val_mse"].astype(float).tolist()
    top = plotting.get_error_ceiling(errors)
    figure = plotting.make_figure("", "")
    order = None
    if isinstance(parameter, CategoricalParameter):
        order = [plotting.escape_html(format_choice(label)) for label in parameter.labels]
    for state, name, marker in (
        (PRUNED, "stopped early", {"color": GREY, "symbol": "circle-open", "size": 5}),
        (COMPLETE, "complete", {"color": BLUE, "size": 5}),
    ):
        shown = points[points["state"] == state]
        numbers = shown["trial_number"].astype(int).tolist()
        shown_values = shown["value"].tolist()
        texts = [
            f"trial {number}, {data.name} {format_choice(value)}: {format_error(val_mse)}"
            for number, value, val_mse in zip(numbers, shown_values, shown["val_mse"], strict=True)
        ]
        figure.add_scatter(
            x=[plotting.escape_html(format_choice(v)) for v in shown_values]
            if order
            else shown_values,
            y=[
                min(y, top)
                for y in plotting.lift_zeros(
                    shown["val_mse"], plotting.choose_zero_position(errors)
                )
            ],
            customdata=numbers,
            name=name,
            mode="markers",
            marker=marker,
            hovertext=list(map(plotting.escape_html, texts)),
            hoverinfo="text",
        )
    figure.update_yaxes(plotting.make_error_axis(errors))
    if isinstance(parameter, CategoricalParameter):
        figure.update_xaxes(
            type="category",
            categoryorder="array",
            categoryarray=order,
            tickvals=order,
            ticktext=[
                plotting.escape_html(shorten(format_choice(label))) for label in parameter.labels
            ],
        )
        figure.update_xaxes(range=[-0.5, len(parameter.labels) - 0.5])
    elif parameter.log and parameter.high > parameter.low:
        ends = parameter.low / 1.1, parameter.high * 1.1
        ticks, form = plotting.choose_log_ticks(*ends), "{:.3g}"
        if isinstance(parameter, IntParameter):
            ticks, form = [tick for tick in ticks if tick == round(tick)], "{:,.0f}"
        figure.update_xaxes(plotting.make_log_axis(*ends, ticks, form))
    elif isinstance(parameter, IntParameter):
        plotting.use_whole_ticks(figure, parameter.high - parameter.low)
    return figure.update_layout(showlegend=False)


def draw_parallel_coordinates(
    trials: pd.DataFrame, parameters: Parameters, most: int = 150, cost: str | None = None
) -> go.Figure | None:
    """Draw a line for each trial through what it drew, with the best tenth on top.

    Plotly's own parallel coordinates need WebGL and code made from strings, so these are lines. The
    trial of each line is in `meta`, for the sliders of the page (`templates/scripts/parallel.js`).

    Args:
        trials: Trials in any state.
        parameters: The searched parameters; the first `AXES` of them are drawn.
        most: The largest number of lines that are not of the best tenth.
        cost: The second objective; see `rank_by_error`.

    Returns:
        The figure; None if the trials drew fewer than two parameters.
    """
    ranked = rank_by_error(select_ended(trials), cost)
    drawn = (
        name
        for name, parameter in parameters.items()
        if get_drawn_values(ranked, name, parameter).notna().any()
    )
    names = list(itertools.islice(drawn, AXES))
    if len(names) < 2:
        return None
    n_best = math.ceil(BEST * len(ranked))
    figure = plotting.make_figure("", "")
    for label, rows, colour, width, at_most in (
        ("others", ranked[n_best:], "rgba(59, 130, 196, 0.35)", 1.0, most),
        ("the best tenth", ranked[:n_best], ORANGE, 1.5, 40),
    ):
        if rows.empty:
            continue
        rows = thin_trials(rows, at_most)
        x: list[str | None] = []
        y: list[float | None] = []
        places = get_positions(rows, {name: parameters[name] for name in names})
        for line in places.reindex(columns=names).to_numpy().tolist():
            x += [*names, None]
            y += [None if math.isnan(place) else round(place, 4) for place in line] + [None]
        figure.add_scatter(
            meta=rows["trial_number"].astype(int).tolist(),
            x=x,
            y=y,
            name=label,
            mode="lines+markers",
            line={"color": colour, "width": width},
            marker={"color": colour, "size": 4},
            hoverinfo="skip",
        )
    for name in names:
        ends = list_marks(parameters[name])
        for position, text in ends if len(ends) <= 4 else (ends[0], ends[-1]):
            figure.add_annotation(
                x=name,
                y=position,
                text=plotting.escape_html(shorten(text)),
                showarrow=False,
                xanchor="left",
                xshift=5,
                font={"size": 11, "color": GREY},
            )
    figure.update_xaxes(tickangle=-60 if len(names) > 6 else 0, showgrid=True)
    figure.update_xaxes(range=[-0.3, len(names) - 0.3], categoryorder="array", categoryarray=names)
    return figure.update_yaxes(visible=False, range=[-0.06, 1.06])


def describe_common_choices(
    trials: pd.DataFrame, parameters: Parameters, cost: str | None = None
) -> str:
    """Describe which values all of the best tenth share, if that is unlikely to be chance.

    Under chance the best tenth is a random choice of the configurations. A value counts if all of
    them share it and all such values of the first `AXES` parameters together have a probability of
    at most `LEVEL`.

    Args:
        trials: Trials in any state.
        parameters: The searched parameters.
        cost: The second objective; see `rank_by_error`.
    """
    ranked = rank_by_error(select_distinct(trials), cost)
    n, n_best = len(ranked), math.ceil(BEST * len(ranked))
    drawn = {
        name: get_drawn_values(ranked, name, parameter)
        for name, parameter in itertools.islice(parameters.items(), AXES)
    }
    drawn = {name: column for name, column in drawn.items() if column.nunique() > 1}
    shared = []
    for name, column in drawn.items():
        best = column.head(n_best)
        if best.notna().all() and best.nunique() == 1:
            n_alike = int((column == best.iloc[0]).sum())
            chance = compute_chance_of_marked(n, n_alike, n_best, n_best)
            if chance <= LEVEL / len(drawn) / column.nunique():
                shared.append(f"{name} {format_choice(best.iloc[0])}")
    if not shared:
        subject = "best has" if n_best == 1 else f"best {n_best:,} share"
        return (
            f"Of {format_count(n, 'configuration')}, the {subject} no value that stands out from "
            "chance."
        )
    return f"All of the best {n_best:,} of {n:,} configurations have {join_words(shared)}."


@dataclass(frozen=True, kw_only=True)
class SlicesSection(Section):
    """Every parameter against the error; a part of the section on importance."""

    template = "sections/slices.html.j2"
    slices: list[tuple[str, str, int]]
    """Name, sentence and number of trials of each parameter."""
    is_ranked: bool
    common_sentence: str

    @classmethod
    def build(cls, data: ReportData) -> SlicesSection:
        """Build the section; see `Section.build`.

        Args:
            data: The study.

        Returns:
            The section, with the parameters in the order of the space.
        """
        return cls.build_ordered(data, data.parameters, None, is_ranked=False)

    @classmethod
    def build_ordered(
        cls, data: ReportData, parameters: Parameters, cost: str | None, *, is_ranked: bool
    ) -> SlicesSection:
        """Build the section with the parameters in a given order.

        Args:
            data: The study.
            parameters: The searched parameters in the order in which they are shown.
            cost: The second objective; see `rank_by_error`.
            is_ranked: Whether that is the order of their importance.
        """
        slices = make_slices(data.trials, parameters, cost)
        figures = {f"slice-{item.name}": draw_slice(item) for item in slices}
        parallel = draw_parallel_coordinates(data.trials, parameters, cost=cost)
        if parallel is not None:
            figures["parallel"] = parallel
        return cls(
            figures=figures,
            slices=[(item.name, describe_slices(item), len(item.points)) for item in slices],
            is_ranked=is_ranked,
            common_sentence=describe_common_choices(data.trials, parameters, cost),
        )
