"""Error against latent size, with PCA for comparison."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Hashable
from dataclasses import dataclass
from typing import Any

import pandas as pd
import plotly.graph_objects as go

from raycae.formatting import format_count, format_error
from raycae.report import plotting, sampled_values
from raycae.report.latent_error import LatentError, measure_against_linear
from raycae.report.plotting import BLUE, EXACT, GREY, VIOLET, draw_trials
from raycae.report.report_data import ReportData
from raycae.report.sampled_values import Parameters
from raycae.report.section import Section
from raycae.report.sections.latent_shape import LatentShapeSection
from raycae.report.sections.picture_strip import PictureStrip, make_picture_strip
from raycae.report.trial_details import get_point_trials
from raycae.report.trials import (
    RankedRows,
    Row,
    describe_network,
    get_baseline_name,
    rank_trials,
    thin_trials,
)
from raycae.report.wording import describe_fall, format_errors_apart
from raycae.space.parameters import CategoricalParameter, IntParameter


def draw_psnr_view(latent: LatentError) -> dict[str, Any]:
    """Return what the PSNR views of "latent size against error" draw besides the trials.

    Args:
        latent: The numbers of the figure.

    Returns:
        `front`: the trials of the Pareto front by mean PSNR of the images, by latent size; `x` and
        `y` of that line; `zero`: where the figure draws an error of zero, which has no PSNR.
    """
    front = latent.psnr_frontier
    return {
        "front": front["trial_number"].astype(int).tolist(),
        "x": front["latent_size"].astype(int).tolist(),
        "y": front["val_psnr_db"].astype(float).tolist(),
        "zero": plotting.choose_zero_position(list_zero_errors(latent)),
    }


def describe_latent_error(latent: LatentError) -> str | None:
    """Describe how the error falls along the Pareto front, and where it is below that of PCA.

    Args:
        latent: The trials, the front and the baselines.

    Returns:
        One or two sentences; None if no trial has a measured error.
    """
    frontier = latent.frontier
    if frontier.empty:
        return None
    first, last = frontier.iloc[0], frontier.iloc[-1]
    if latent.points["latent_size"].nunique() == 1:
        text = (
            f"Every trial has a latent of {format_count(last['latent_size'], 'number')}; "
            f"the lowest error is {format_error(last['val_mse'])}."
        )
    elif first["latent_size"] == last["latent_size"]:
        text = (
            f"The smallest latent of all, {format_count(last['latent_size'], 'number')}, "
            f"also has the lowest error, {format_error(last['val_mse'])}."
        )
    else:
        before, after = format_errors_apart(first["val_mse"], last["val_mse"])
        fall = describe_fall(first["val_mse"], last["val_mse"])
        text = (
            f"From latent size {first['latent_size']:,} to {last['latent_size']:,}, the lowest "
            f"error falls from {before} to {after}, {fall}."
        )
    compared = frontier[frontier["linear_mse"] > EXACT]
    if compared.empty:
        return text
    below = int((compared["val_mse"] < compared["linear_mse"]).sum())
    comparable = "" if len(compared) == len(frontier) else " with a comparable PCA"
    if len(compared) == 1:
        subject = f"The only trial on the Pareto front{comparable} has "
        subject += "less" if below else "no less"
    else:
        n = f"{len(compared):,}"
        share = f"All {n}" if below == len(compared) else f"{below or 'None'} of the {n}"
        subject = f"{share} trials on the Pareto front{comparable} "
        subject += f"{'has' if below == 1 else 'have'} less"
    return f"{text} {subject} error than the best PCA of the same size or smaller."


def make_frontier_rows(latent: LatentError, ranked: RankedRows) -> list[Row]:
    """Make the rows of the table of the Pareto front.

    Args:
        latent: The trials, the front and the baselines.
        ranked: All trials as rows.

    Returns:
        The trials by latent size, each with the entries of `measure_against_linear`.
    """
    rows = ranked.select(latent.frontier["trial_number"])
    return [
        {**rows[number], **measure_against_linear(rows[number], latent)}
        for number in latent.frontier["trial_number"]
    ]


MOST_POINTS = 800
"""Largest number of trials in the figure besides the Pareto front."""
MOST_SEEDS = 300
"""Largest number of bars for configurations with several seeds."""
CLOSE = 1.6
"""Lines across a figure whose errors differ by less than this factor share a label."""


def draw_latent_error(data: LatentError, most: int = MOST_POINTS) -> go.Figure:
    """Draw error against latent size on logarithmic axes.

    Args:
        data: The numbers of the figure, with at least one point.
        most: The largest number of points besides the Pareto front.
    """
    low, high, x_low, x_high = compute_window(data)
    figure = plotting.make_figure("latent size, numbers per image", "validation error, MSE")
    dashes = ("solid", "dash", "dashdot")
    codes = data.linear[data.linear["val_mse"] > EXACT].groupby("baseline", sort=True)
    for i, (baseline, code) in enumerate(codes):
        code = code[plotting.thin_line(code["latent_size"])]
        name = plotting.escape_html(get_baseline_name(str(baseline)))
        figure.add_scatter(
            x=code["latent_size"].tolist(),
            y=code["val_mse"].tolist(),
            name=name,
            mode="lines",
            line={"color": VIOLET, "width": 1.5, "dash": dashes[i % len(dashes)]},
            hovertemplate=f"{name}<br>%{{x:,}} numbers: %{{y:.4g}}<extra></extra>",
        )
    points = thin_trials(rank_trials(data.points), most)
    fronts = [data.frontier, data.psnr_frontier] if "val_psnr_db" in points else [data.frontier]
    points = pd.concat([points, *fronts]).drop_duplicates("trial_number")
    zero = plotting.choose_zero_position(list_zero_errors(data))
    draw_trials(figure, points, data.frontier, "latent_size", format_hover, zero)
    draw_seeds(figure, thin_trials(data.seeds.sort_values("mean"), MOST_SEEDS))
    draw_levels(figure, data.levels, zero)
    sizes = plotting.list_powers_of_two(x_low, x_high)
    figure.update_xaxes(plotting.make_log_axis(x_low, x_high, sizes, "{:,}"))
    figure.update_yaxes(plotting.make_full_error_axis(low, high, list_zero_errors(data)))
    return figure


def compute_window(data: LatentError) -> tuple[float, float, float, float]:
    """Compute which part of the plane the figure shows.

    The trials determine the latent sizes. PCA extends beyond them, down to an error of zero.

    Args:
        data: The numbers of the figure.

    Returns:
        The lowest and highest error, and the smallest and largest latent size.
    """
    sizes = data.points["latent_size"]
    zero = plotting.choose_zero_position(list_zero_errors(data))
    errors = plotting.lift_zeros(data.points["val_mse"], zero)
    near = data.linear[data.linear["latent_size"].between(sizes.min(), sizes.max())]
    near = near[near["val_mse"] > EXACT]
    shown = [*errors, *near["val_mse"], *plotting.lift_zeros(data.levels.values(), zero)]
    low = max(min(shown), min(errors) / 10) / 1.3
    high = max(max(shown) * 1.3, low * 3)
    if data.levels:  # room for their label
        label = (high / low) ** (0.07 * len(data.levels))
        high = max(high, max(plotting.lift_zeros(data.levels.values(), zero)) * label)
    return low, high, min(sizes) / 1.7, max(sizes) * 1.7


def draw_seeds(figure: go.Figure, seeds: pd.DataFrame) -> None:
    """Draw a bar from the lowest to the highest error of each configuration with several seeds.

    Args:
        figure: The figure to draw into.
        seeds: Rows of `LatentError.seeds`.
    """
    if seeds.empty:
        return
    seeds = seeds[seeds["low"] > EXACT]  # a bar down to zero has no end on a logarithmic axis
    figure.add_scatter(
        x=seeds["latent_size"].tolist(),
        y=seeds["mean"].tolist(),
        error_y={
            "type": "data",
            "array": (seeds["high"] - seeds["mean"]).tolist(),
            "arrayminus": (seeds["mean"] - seeds["low"]).tolist(),
            "color": BLUE,
            "thickness": 1.2,
            "width": 4,
        },
        name="several seeds: mean, lowest to highest",
        mode="markers",
        marker={"color": BLUE, "symbol": "line-ew-open", "size": 9},
        hovertext=[
            f"{row['n']} seeds: {format_error(row['mean'])}, {format_error(row['low'])} to "
            f"{format_error(row['high'])}"
            for row in seeds.to_dict("records")
        ],
        hoverinfo="text",
    )


def draw_levels(figure: go.Figure, levels: dict[str, float], zero: float) -> None:
    """Draw a dotted line across the figure for each baseline without a latent.

    Lines that are too close for a label each share the one above them, which names them from top to
    bottom.

    Args:
        figure: The figure to draw into.
        levels: The errors of the baselines by name.
        zero: Where an error of zero is drawn.
    """
    label: list[str] = []
    above = math.inf
    drawn = zip(levels, plotting.lift_zeros(levels.values(), zero), strict=True)
    for baseline, val_mse in sorted(drawn, key=lambda level: -level[1]):
        line = {"color": GREY, "width": 1.5, "dash": "dot"}
        figure.add_hline(y=val_mse, line=line, layer="below")
        if val_mse * CLOSE < above:
            label, above = [], val_mse
            figure.add_annotation(
                x=1,
                xref="paper",
                xanchor="right",
                y=math.log10(above),  # plotly wants it so on a logarithmic axis
                yanchor="bottom",
                align="right",
                showarrow=False,
                font={"size": 12, "color": GREY},
            )
        label.append(plotting.escape_html(get_baseline_name(baseline)))
        figure.layout.annotations[-1].text = "<br>".join(label)


def format_hover(point: dict[Hashable, Any]) -> str:
    """Format the hover text of a trial.

    Args:
        point: A row of `LatentError.points`.
    """
    name = "" if pd.isna(point["point"]) else f", point {point['point']}"
    network = describe_network(point["trial_number"], str(point["config"]))
    lines = [
        f"trial {point['trial_number']}{name}: {format_error(point['val_mse'])}",
        f"latent size {point['latent_size']:,}",
        f"{network.optimizer}, lr {network.lr:.3g}, batch {network.batch_size}",
        *textwrap.wrap(network.network, 56, break_long_words=False),
    ]
    return "<br>".join(map(plotting.escape_html, lines))


def list_zero_errors(data: LatentError) -> list[float]:
    """List the errors that determine where zero is drawn: those of trials and levels.

    Args:
        data: The numbers of the figure.
    """
    return [*data.points["val_mse"].tolist(), *data.levels.values()]


def get_scale(parameter: sampled_values.Parameter) -> tuple[float, float, bool, bool] | None:
    """Return what turns a position on the axis of a parameter into a value.

    Args:
        parameter: The parameter.

    Returns:
        The lower and the upper end, whether the axis is logarithmic, and whether values are whole
        numbers; None for choices.
    """
    if isinstance(parameter, CategoricalParameter):
        return None
    return parameter.low, parameter.high, parameter.log, isinstance(parameter, IntParameter)


def list_colours(
    trials: pd.DataFrame, parameters: Parameters, figure: go.Figure | None
) -> list[dict[str, Any]]:
    """List the parameters by which the points of a figure can be coloured.

    Args:
        trials: Trials in any state.
        parameters: The searched parameters.
        figure: The figure; None without one.

    Returns:
        For each parameter `name`, `marks` (positions and their values as text), `at`, the position
        of each trial, 0 to 1, and `scale`: both ends, whether it is logarithmic, and whether values
        are whole; None for choices.
    """
    if figure is None:
        return []
    shown = trials[trials["trial_number"].isin(get_point_trials(figure))]
    places = sampled_values.get_positions(shown, parameters)
    return [
        {
            "name": str(name),
            "marks": sampled_values.list_marks(parameters[str(name)]),
            "scale": get_scale(parameters[str(name)]),
            "at": {
                int(number): round(place, 3)
                for number, place in zip(shown["trial_number"], places[name], strict=True)
                if not math.isnan(place)
            },
        }
        for name in places
    ]


@dataclass(frozen=True, kw_only=True)
class LatentSizeSection(Section):
    """Error against latent size, the shape of the latent, and the Pareto front."""

    template = "sections/latent_size.html.j2"
    sentence: str | None
    n_points: int
    """Number of trials with a measured error."""
    n_drawn: int
    """Number of those that the figure shows."""
    colours: list[dict[str, Any]]
    psnr_view: dict[str, Any]
    shape: LatentShapeSection
    frontier: list[Row]
    has_linear: bool
    strip: PictureStrip | None

    @classmethod
    def build(cls, data: ReportData) -> LatentSizeSection | None:
        """Build the section; see `Section.build`.

        Args:
            data: The study.

        Returns:
            The section; None if no trial has a measured error.
        """
        latent = data.latent
        if latent.points.empty:
            return None
        figure = draw_latent_error(latent)
        colours = list_colours(data.trials, data.parameters, figure)
        psnr_view = draw_psnr_view(latent)
        shape = LatentShapeSection.build(data)
        strip = make_picture_strip(data)
        return cls(
            figures={"latent-error": figure, **shape.figures},
            constants={
                "colours": colours,
                "psnrView": psnr_view,
                "stripCuts": strip and strip.cuts,
            },
            sentence=describe_latent_error(latent),
            n_points=len(latent.points),
            n_drawn=len(get_point_trials(figure)),
            colours=colours,
            psnr_view=psnr_view,
            shape=shape,
            frontier=make_frontier_rows(latent, data.ranked),
            has_linear=not latent.linear.empty,
            strip=strip,
        )
