"""Where the best tenth lies: its density along each parameter, and the error over two of them."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from raycae.formatting import format_error
from raycae.report import plotting
from raycae.report.ped_anova import assign_cells, count_chosen, estimate_density
from raycae.report.plotting import EXACT, GREY, ORANGE
from raycae.report.report_data import ReportData
from raycae.report.sampled_values import (
    BEST,
    Parameter,
    Parameters,
    format_span,
    get_drawn_values,
    get_positions,
    list_marks,
    shorten,
)
from raycae.report.section import Section
from raycae.report.similar_cost import rank_by_error
from raycae.report.trials import select_distinct, thin_trials
from raycae.space.parameters import CategoricalParameter

FEWEST = 50
"""Configurations below which no density is drawn."""
FEWEST_MAPPED = 30
"""Configurations below which no map of two parameters is drawn."""
MOST_DENSITIES = 8
"""Largest number of parameters with a density."""
MOST_MAPPED = 300
"""Largest number of points of the map in the PNG file."""
SHADES = [[0, "#3b6fd4"], [0.25, "#2fa3b5"], [0.5, "#57b65a"], [0.75, "#e0a52c"], [1, "#dd4b39"]]
"""Colours from the lowest error to the largest."""


def draw_density(rows: pd.DataFrame, parameters: Parameters, name: str) -> go.Figure | None:
    """Draw how the best tenth and all configurations are spread over a parameter.

    The densities are those of PED-ANOVA.

    Args:
        rows: One trial of each configuration with a measured error, the best first.
        parameters: The searched parameters.
        name: The parameter.

    Returns:
        The figure; None if fewer than `FEWEST` configurations drew it.
    """
    parameter = parameters[name]
    cells, n_cells, unordered = assign_cells(rows, name, parameter)
    if (cells >= 0).sum() < FEWEST or n_cells < 2:
        return None
    is_best = np.arange(len(rows)) < math.ceil(BEST * len(rows))
    figure = plotting.make_figure("", "")
    marks = list_marks(parameter)
    for label, chosen, colour in (
        ("all", np.ones(len(rows), bool), GREY),
        ("best tenth", is_best, ORANGE),
    ):
        density = estimate_density(count_chosen(cells[None], chosen[None], n_cells), unordered)[0]
        shares = [float(f"{share:.3g}") for share in density / density.sum()]
        if unordered:
            # Not the texts: two long choices may have the same shortened text.
            x = [place for place, _ in marks]
            figure.add_bar(x=x, y=shares, name=label, marker={"color": colour})
        else:
            x = [round(cell / (n_cells - 1), 3) for cell in range(n_cells)]
            line = {"color": colour, "width": 2}
            figure.add_scatter(x=x, y=shares, name=label, mode="lines", line=line)
        figure.data[-1].hovertemplate = f"{label}: %{{y:.0%}}<extra></extra>"
    if not unordered:
        figure.update_xaxes(range=[-0.06, 1.06])
    figure.update_xaxes(
        tickvals=[place for place, _ in marks],
        ticktext=[plotting.escape_html(shorten(text)) for _, text in marks],
    )
    figure.update_yaxes(visible=False, rangemode="tozero")
    return figure.update_layout(showlegend=False)


def describe_best(rows: pd.DataFrame, name: str, parameter: Parameter) -> str:
    """Describe which values of a parameter the best tenth of the configurations drew.

    Args:
        rows: One trial of each configuration with a measured error, the best first.
        name: The parameter's name.
        parameter: The parameter.
    """
    n_best = math.ceil(BEST * len(rows))
    drawn = get_drawn_values(rows.head(n_best), name, parameter).dropna()
    if drawn.empty:
        return "The best tenth does not use it."
    return f"Values of the best tenth: {format_span(drawn, parameter)}."


def list_varied(rows: pd.DataFrame, parameters: Parameters) -> list[str]:
    """List the parameters of which trials drew at least two values.

    Args:
        rows: Trials with a measured error.
        parameters: The searched parameters.

    Returns:
        Their names, those with choices last, because nothing is smoothed between choices.
    """
    places = get_positions(rows, parameters)
    names = [str(name) for name in places if places[name].nunique() > 1]
    return sorted(names, key=lambda name: isinstance(parameters[name], CategoricalParameter))


def draw_map(rows: pd.DataFrame, parameters: Parameters, first: str, second: str) -> go.Figure:
    """Draw trials over two parameters, coloured by their error.

    The script of the page replaces the points by those of the two parameters that the reader
    selects, and adds the smoothed error (`templates/scripts/map.js`).

    Args:
        rows: One trial of each configuration with a measured error, the best first.
        parameters: The searched parameters.
        first: The parameter of the x axis.
        second: The parameter of the y axis.
    """
    rows = thin_trials(rows, MOST_MAPPED)
    logs = np.log10(rows["val_mse"].astype(float).clip(lower=EXACT)).round(4).tolist()
    figure = plotting.make_figure(first, second)
    places = get_positions(rows, {name: parameters[name] for name in (first, second)})
    figure.add_scatter(
        x=places[first].round(3).tolist(),
        y=places[second].round(3).tolist(),
        mode="markers",
        marker={
            "size": 8,
            "line": {"color": "#23272e", "width": 1},
            "color": logs,
            "colorscale": SHADES,
            "colorbar": {
                "thickness": 10,
                "outlinewidth": 0,
                "tickvals": [min(logs), max(logs)],
                "ticktext": [format_error(10**log) for log in (min(logs), max(logs))],
            },
        },
        hovertemplate="%{text}<extra></extra>",
        showlegend=False,
    )
    for axis, name in ((figure.layout.xaxis, first), (figure.layout.yaxis, second)):
        marks = list_marks(parameters[name])
        axis.update(
            range=[-0.04, 1.04],
            tickvals=[place for place, _ in marks],
            ticktext=[plotting.escape_html(shorten(text)) for _, text in marks],
            showgrid=False,
        )
    return figure


@dataclass(frozen=True, kw_only=True)
class ParameterMapsSection(Section):
    """Densities and maps; a part of the section on importance."""

    template = "sections/parameter_maps.html.j2"
    densities: dict[str, str]
    """For each parameter with a density, the sentence of `describe_best`."""
    mapped: list[str]
    """The parameters that the axes of the map can show."""

    @classmethod
    def build(cls, data: ReportData) -> ParameterMapsSection:
        """Build the section; see `Section.build`.

        Args:
            data: The study.

        Returns:
            The section, with the parameters in the order of the space.
        """
        return cls.build_ordered(data, data.parameters, None)

    @classmethod
    def build_ordered(
        cls, data: ReportData, parameters: Parameters, cost: str | None
    ) -> ParameterMapsSection:
        """Build the section with the parameters in a given order.

        Args:
            data: The study.
            parameters: The searched parameters in the order in which they are shown.
            cost: The second objective; see `rank_by_error`.
        """
        rows = rank_by_error(select_distinct(data.trials), cost)
        figures: dict[str, go.Figure] = {}
        if len(rows) >= FEWEST:
            drawn = ((name, draw_density(rows, parameters, name)) for name in parameters)
            found = ((f"density-{name}", figure) for name, figure in drawn if figure is not None)
            figures = dict(itertools.islice(found, MOST_DENSITIES))
        names = [name.removeprefix("density-") for name in figures]
        mapped = list_varied(rows, parameters) if len(rows) >= FEWEST_MAPPED else []
        if len(mapped) > 1:
            figures["map"] = draw_map(rows, parameters, *mapped[:2])
        return cls(
            figures=figures,
            densities={name: describe_best(rows, name, parameters[name]) for name in names},
            mapped=mapped if len(mapped) > 1 else [],
        )
