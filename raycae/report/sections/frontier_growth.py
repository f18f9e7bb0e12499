"""How the Pareto front grew, trial by trial."""

from __future__ import annotations

from dataclasses import dataclass

import pandas as pd
import plotly.graph_objects as go

from raycae.formatting import format_error, format_ratio
from raycae.optimization.frontier import compute_hypervolume
from raycae.report import plotting
from raycae.report.latent_error import LatentError
from raycae.report.plotting import EXACT, ORANGE, VIOLET
from raycae.report.report_data import ReportData
from raycae.report.section import Section
from raycae.report.trials import COST_NAMES, select_ended


def describe_growth(grown: Growth, cost: str) -> str:
    """Describe how far the Pareto front and PCA lie below the reference error.

    Args:
        grown: The growth of the front.
        cost: The column of the cost.
    """
    height = float(grown.steps["height"].iloc[-1])
    line = (
        ""
        if grown.line is None
        else " At the latent sizes of this front, the best PCA of the same size or smaller is a "
        f"factor of {format_ratio(10**grown.line)} below the reference."
    )
    reference = (
        "error of the worst trivial baseline" if grown.is_baseline else "worst trial's error"
    )
    over = COST_NAMES[cost].partition(",")[0]
    return (
        f"The reference is the {reference}, {format_error(grown.worst)}. From {grown.low:,.4g} to "
        f"{grown.high:,.4g} ({over}), the error of the Pareto front is on average (geometric mean) "
        f"a factor of {format_ratio(10**height)} below the reference. On logarithmic axes, "
        f"this is a hypervolume of {height:.2f} decades.{line}"
    )


@dataclass(frozen=True)
class Growth:
    """How the Pareto front grew.

    Attributes:
        steps: One row per trial in the order of their ends: `cost`, `error`, and `height`, the
            hypervolume so far. It is the mean, over costs from `low` to `high`, of how many decades
            the lowest error lies below `worst`.
        low: The smallest cost.
        high: The largest cost.
        worst: The error from which heights are measured.
        is_baseline: Whether this is the error of a baseline; otherwise it is that of a trial.
        line: The height of PCA, evaluated only at the latent sizes of the final front; None unless
            the cost is the latent size and there is a PCA baseline.
    """

    steps: pd.DataFrame
    low: float
    high: float
    worst: float
    is_baseline: bool
    line: float | None


def compute_growth(trials: pd.DataFrame, latent: LatentError, cost: str) -> Growth | None:
    """Compute how the hypervolume grew.

    Costs run from the smallest of any trial to twice the largest, so that each trial counts.
    Heights are measured from the reference error, that of the worst baseline without a
    latent. If it is unknown or zero, the reference is the worst error of a trial.

    Args:
        trials: Trials in any state.
        latent: The baselines.
        cost: The column of the cost.

    Returns:
        The growth; None if no trial has a measured error above zero.
    """
    rows = select_ended(trials).sort_values(["ended_at", "trial_number"])
    if rows.empty:
        return None
    steps = pd.DataFrame({"cost": rows[cost].astype(float), "error": rows["val_mse"].astype(float)})
    steps = steps.reset_index(drop=True)
    worst = max(latent.levels.values(), default=0.0)
    is_baseline = worst > EXACT
    if not is_baseline:
        worst = float(steps["error"].max())
    if worst <= EXACT:
        return None
    low, high = float(steps["cost"].min()), 2 * float(steps["cost"].max())
    errors = steps["error"].clip(lower=EXACT)  # a logarithm needs an end
    points = list(zip(steps["cost"].tolist(), errors.tolist(), strict=True))
    front: list[tuple[float, float]] = []
    heights = []
    for point in points:
        if not any(c <= point[0] and e <= point[1] for c, e in front):
            front = [p for p in front if p[0] < point[0] or p[1] < point[1]] + [point]
        heights.append(compute_hypervolume(front, low, high, worst))
    line = None
    if cost == "latent_size":
        # With PCA of every size, its steps would be finer, and it would win with equal errors.
        found = [(size, latent.find_best_linear(int(size))) for size, _ in front]
        codes = [(size, max(code.val_mse, EXACT)) for size, code in found if code is not None]
        if codes:
            line = compute_hypervolume(codes, low, high, worst)
    return Growth(steps.assign(height=heights), low, high, worst, is_baseline, line)


def draw_growth(data: Growth) -> go.Figure:
    """Draw the hypervolume after each trial.

    Args:
        data: The growth of the front.
    """
    figure = plotting.make_figure("trials that ended", "hypervolume of the Pareto front, decades")
    places = list(range(1, len(data.steps) + 1))
    plotting.use_whole_ticks(figure, len(places))
    figure.add_scatter(
        x=places,
        y=data.steps["height"].tolist(),
        name="Pareto front",
        mode="lines",
        line={"color": ORANGE, "width": 2, "shape": "hv"},
        cliponaxis=False,  # The last step is at the right edge.
        hovertemplate="%{x} trials: %{y:.3f}<extra></extra>",
    )
    if data.line is not None:
        figure.add_scatter(
            x=[1, len(places)],
            y=[data.line] * 2,
            name="PCA at the sizes of the final front",
            mode="lines",
            line={"color": VIOLET, "width": 1.5},
            hovertemplate="PCA: %{y:.3f}<extra></extra>",
        )
    figure.update_yaxes(rangemode="tozero")
    figure.update_xaxes(tickformat="d")
    return figure


@dataclass(frozen=True, kw_only=True)
class FrontierGrowthSection(Section):
    """How the Pareto front grew, trial by trial."""

    template = "sections/frontier_growth.html.j2"
    sentence: str

    @classmethod
    def build(cls, data: ReportData) -> FrontierGrowthSection | None:
        """Build the section; see `Section.build`.

        Args:
            data: The study.

        Returns:
            The section; None if the search did not optimise the front or no error is above zero.
        """
        if not data.is_frontier:
            return None
        growth = compute_growth(data.trials, data.latent, data.cost)
        if growth is None:
            return None
        return cls(
            figures={"growth": draw_growth(growth)}, sentence=describe_growth(growth, data.cost)
        )
