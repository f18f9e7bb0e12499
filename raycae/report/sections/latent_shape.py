"""Spatial size or channels: shapes of the latent with the same latent size."""

from __future__ import annotations

import math
from collections.abc import Hashable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from raycae.formatting import format_count, format_error
from raycae.report import plotting
from raycae.report.plotting import draw_trials
from raycae.report.report_data import ReportData
from raycae.report.section import Section
from raycae.report.significance import LEVEL
from raycae.report.trials import rank_trials, select_distinct, select_ended, thin_trials

SIDES = {
    "latent_positions": "spatial size of the latent, height × width",
    "latent_channels": "channels of the latent",
}
"""The latent size is their product."""


@dataclass(frozen=True)
class Shapes:
    """How often the largest spatial size with the fewest channels has the lowest error.

    Attributes:
        n: Latent sizes that have several shapes, of which one alone has the lowest error.
        n_wider: Those of them where it is the shape with the largest spatial size.
        n_tied: Further latent sizes, where that shape and another one share the lowest error.
        expected: The mean of `n_wider` if shapes do not matter.
        p: The probability of being at least as far from `expected`, on either side.
    """

    n: int
    n_wider: int
    n_tied: int
    expected: float
    p: float


def count_wider_is_better(trials: pd.DataFrame) -> Shapes:
    """Compare shapes of the latent at each latent size.

    If shapes do not matter, each configuration of a latent size is equally likely to be its best.
    So the widest shape wins with its share of the configurations, independently at each size.

    Args:
        trials: Trials in any state, with the columns of `add_config_columns`.
    """
    n_wider, n_tied, chances = 0, 0, []
    for _, rows in select_distinct(trials).groupby("latent_size"):
        widest = rows["latent_positions"] == rows["latent_positions"].max()
        if widest.all():
            continue
        best, rest = rows.loc[widest, "val_mse"].min(), rows.loc[~widest, "val_mse"].min()
        if best == rest:
            n_tied += 1
            continue
        n_wider += int(best < rest)
        chances.append(float(widest.mean()))
    probabilities = np.ones(1)  # the probability of each number of sizes
    for chance in chances:
        probabilities = np.convolve(probabilities, [1 - chance, chance])
    p = min(1.0, 2 * float(min(probabilities[: n_wider + 1].sum(), probabilities[n_wider:].sum())))
    return Shapes(len(chances), n_wider, n_tied, math.fsum(chances), p)


def describe_sides(trials: pd.DataFrame) -> str | None:
    """Describe how often the widest shape is best, and whether that exceeds chance.

    Args:
        trials: Trials in any state, with the columns of `add_config_columns`.

    Returns:
        The sentences; None if no latent size has several shapes.
    """
    shapes = count_wider_is_better(trials)
    if not shapes.n:
        if not shapes.n_tied:
            return None
        return "Shapes of the same latent size tie for the lowest error."
    text = (
        f"The shape with the largest spatial size and the fewest channels has the lowest error at "
        f"{shapes.n_wider or 'none'} of {format_count(shapes.n, 'latent size')} with more than one "
        f"shape; chance would give {shapes.expected:.1f}."
    )
    if shapes.p > LEVEL:
        return f"{text} So neither spatial size nor channels stand out."
    better = "Spatial size" if shapes.n_wider > shapes.expected else "Channels"
    helps = "helps" if shapes.n_wider > shapes.expected else "help"
    worse = "channels" if shapes.n_wider > shapes.expected else "spatial size"
    return f"{text} {better} {helps} more than {worse} here."


def draw_side(trials: pd.DataFrame, side: str, most: int = 300) -> go.Figure:
    """Draw error against spatial size or channels, and a dotted line through the lowest at each.

    Args:
        trials: Trials in any state; at least one has a measured error.
        side: A key of `SIDES`.
        most: The largest number of points.
    """
    ranked = rank_trials(select_ended(trials))
    least = ranked.drop_duplicates(side).sort_values(side)
    figure = plotting.make_figure(SIDES[side], "validation error, MSE")

    def format_hover(row: dict[Hashable, Any]) -> str:
        shape = f"{row['latent_channels']} × {row['latent_height']} × {row['latent_width']}"
        return f"trial {row['trial_number']}: {format_error(row['val_mse'])}<br>latent {shape}"

    errors = ranked["val_mse"].astype(float).tolist()
    zero, top = plotting.choose_zero_position(errors), plotting.get_error_ceiling(errors)
    draw_trials(figure, thin_trials(ranked, most), least, side, format_hover, zero, top)
    figure.data[0].name = "lowest error"
    figure.update_yaxes(plotting.make_error_axis(errors))
    low, high = float(ranked[side].min()) / 1.3, float(ranked[side].max()) * 1.3
    figure.update_xaxes(
        plotting.make_log_axis(low, high, plotting.list_powers_of_two(low, high), "{:,}")
    )
    return figure


@dataclass(frozen=True, kw_only=True)
class LatentShapeSection(Section):
    """Spatial size or channels; a part of the section on latent sizes."""

    template = "sections/latent_shape.html.j2"
    sentence: str | None

    @classmethod
    def build(cls, data: ReportData) -> LatentShapeSection:
        """Build the section; see `Section.build`.

        Args:
            data: The study.

        Returns:
            The section. It needs a trial with a measured error, and has no figures if no latent
            size has several shapes: larger latents alone would explain what they show.
        """
        sentence = describe_sides(data.trials)
        if sentence is None:
            return cls(sentence=None)
        figures = {side.replace("_", "-"): draw_side(data.trials, side) for side in SIDES}
        return cls(figures=figures, sentence=sentence)
