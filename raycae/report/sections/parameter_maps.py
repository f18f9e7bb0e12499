"""Where the best tenth lies: its density along each parameter, and the error over two of them."""

from __future__ import annotations

import itertools
import json
import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from raycae.formatting import format_count, format_error
from raycae.report import plotting
from raycae.report.ped_anova import assign_cells, count_chosen, estimate_density
from raycae.report.plotting import EXACT, GREY, ORANGE
from raycae.report.report_data import ReportData
from raycae.report.sampled_values import (
    BEST,
    Parameters,
    get_positions,
    list_marks,
    shorten,
)
from raycae.report.section import Section
from raycae.report.similar_cost import rank_by_error
from raycae.report.trials import select_distinct
from raycae.space.parameters import CategoricalParameter

FEWEST = 50
"""Configurations below which neither a density nor a map is drawn."""
MOST_DENSITIES = 8
"""Largest number of parameters with a density."""
MOST_MAPPED = 5
"""Largest number of parameters of which pairs are mapped: 10 pairs."""
N_CELLS = 6
"""Cells of a map along the range of a numerical parameter."""
SHADES = [[0, "#3b6fd4"], [0.25, "#2fa3b5"], [0.5, "#57b65a"], [0.75, "#e0a52c"], [1, "#dd4b39"]]
"""Colours from the lowest error to the largest."""
SPARSE = 5
"""Configurations per cell below which a map is called sparse."""


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


def map_pairs(rows: pd.DataFrame, parameters: Parameters) -> list[dict[str, Any]]:
    """Compute the error over cells of two parameters, for each pair.

    Args:
        rows: One trial of each configuration with a measured error.
        parameters: The searched parameters; pairs are of the first `MOST_MAPPED` that vary.

    Returns:
        For each pair `x` and `y` (`name` and `marks` of the parameters), and for each cell with a
        configuration its position `at`, the geometric `mean` of the errors, and their number `n`.
    """
    places = get_positions(rows, parameters)
    names = [str(name) for name in places if places[name].nunique() > 1][:MOST_MAPPED]
    logs = np.log(rows["val_mse"].astype(float).clip(lower=EXACT).to_numpy())
    pairs = []
    for first, second in itertools.combinations(names, 2):
        table = pd.DataFrame({"log": logs})
        for axis, name in (("x", first), ("y", second)):
            table[axis] = places[name].to_numpy()
            is_choice = isinstance(parameters[name], CategoricalParameter)
            if not is_choice and places[name].nunique() > N_CELLS:
                inside = np.minimum((table[axis] * N_CELLS) // 1, N_CELLS - 1)
                table[axis] = (inside + 0.5) / N_CELLS
        cells = table.dropna().groupby(["x", "y"])["log"].agg(["mean", "size"]).reset_index()
        if cells.empty:
            continue
        pairs.append(
            {
                "x": {"name": first, "marks": list_marks(parameters[first])},
                "y": {"name": second, "marks": list_marks(parameters[second])},
                "at": cells[["x", "y"]].round(3).to_numpy().tolist(),
                "mean": [float(f"{math.exp(log):.4g}") for log in cells["mean"]],
                "n": cells["size"].tolist(),
            }
        )
    return pairs


def describe_map(pair: dict[str, Any]) -> str:
    """Describe how many configurations a map rests on.

    Args:
        pair: An entry of `map_pairs`.
    """
    n, n_cells = sum(pair["n"]), len(pair["n"])
    names = f"{pair['x']['name']} and {pair['y']['name']}"
    text = f"{names}: {n:,} configurations in {format_count(n_cells, 'cell')}."
    if n < SPARSE * n_cells:
        return f"{text} The map is sparse, with fewer than {SPARSE} configurations per cell."
    return text


def draw_map(pair: dict[str, Any]) -> go.Figure:
    """Draw the error over the cells of two parameters.

    Args:
        pair: An entry of `map_pairs`.
    """
    figure = plotting.make_figure(pair["x"]["name"], pair["y"]["name"])
    logs = [math.log10(max(mean, EXACT)) for mean in pair["mean"]]
    figure.add_scatter(
        x=[x for x, _ in pair["at"]],
        y=[y for _, y in pair["at"]],
        mode="markers",
        marker={
            "symbol": "square",
            "size": 30,
            "color": logs,
            "colorscale": SHADES,
            "colorbar": {
                "thickness": 10,
                "outlinewidth": 0,
                "tickvals": [min(logs), max(logs)],
                "ticktext": [format_error(min(pair["mean"])), format_error(max(pair["mean"]))],
            },
        },
        text=[
            f"{format_count(n, 'configuration')}, mean error {format_error(mean)}"
            for n, mean in zip(pair["n"], pair["mean"], strict=True)
        ],
        hovertemplate="%{text}<extra></extra>",
        showlegend=False,
    )
    for axis, side in ((figure.layout.xaxis, "x"), (figure.layout.yaxis, "y")):
        marks = pair[side]["marks"]
        axis.update(
            range=[-0.1, 1.1],
            tickvals=[place for place, _ in marks],
            ticktext=[plotting.escape_html(shorten(text)) for _, text in marks],
        )
    return figure


@dataclass(frozen=True, kw_only=True)
class ParameterMapsSection(Section):
    """Densities and maps; a part of the section on importance."""

    template = "sections/parameter_maps.html.j2"
    densities: list[str]
    """The parameters with a density."""
    pairs: list[str]
    """The names of each mapped pair."""
    sentences: list[str]
    """A sentence about each map."""

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
        if len(rows) < FEWEST:
            return cls(densities=[], pairs=[], sentences=[])
        drawn = ((name, draw_density(rows, parameters, name)) for name in parameters)
        found = ((name, figure) for name, figure in drawn if figure is not None)
        densities = dict(itertools.islice(found, MOST_DENSITIES))
        pairs = map_pairs(rows, parameters)
        figures = {f"density-{name}": figure for name, figure in densities.items()}
        maps = [draw_map(pair) for pair in pairs]
        if maps:
            figures["map"] = maps[0]
        return cls(
            figures=figures,
            constants={
                "maps": [json.loads(figure.to_json()) for figure in maps],
                "mapSentences": [describe_map(pair) for pair in pairs],
            },
            densities=list(densities),
            pairs=[f"{pair['x']['name']} and {pair['y']['name']}" for pair in pairs],
            sentences=[describe_map(pair) for pair in pairs],
        )
