"""Figures of the reproduction report."""

from __future__ import annotations

import math
from dataclasses import dataclass

import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from raycae.formatting import format_error
from raycae.report import plotting
from raycae.report.latent_error import split_codes_and_levels
from raycae.report.plotting import BLUE, EXACT, GREY, ORANGE, VIOLET
from raycae.report.trials import get_baseline_name


@dataclass(frozen=True)
class Spread:
    """Test errors by experiment.

    Attributes:
        rows: One row per experiment, the best first: `experiment`, `latent_size`, `mean`, `low` and
            `high` of the test error over seeds; `each`, the errors of the seeds; `baseline`, the
            error of PCA of the same size or smaller, or without a PCA the lowest of the levels
            (NaN: none).
        linear: `latent_size`, and `error` of the best PCA of the same size or smaller.
        levels: The error of each baseline without a latent.
    """

    rows: pd.DataFrame
    linear: pd.DataFrame
    levels: dict[str, float]

    @property
    def baseline_name(self) -> str:
        """The name of the baseline of `rows`."""
        if self.linear.empty:
            return get_baseline_name(min(self.levels, key=self.levels.__getitem__, default=""))
        return "PCA"


def compute_spread(found: pd.DataFrame, baselines: pd.DataFrame | None) -> Spread:
    """Compute test errors by experiment.

    Args:
        found: What `claims.collect_runs` returns.
        baselines: Rows of `baselines.parquet` of the same images; None without them.
    """
    measured = found.dropna(subset="test")
    rows = (
        measured.groupby("experiment")
        .agg(
            latent_size=("latent_size", "first"),
            mean=("test", "mean"),
            low=("test", "min"),
            high=("test", "max"),
            each=("test", list),
        )
        .sort_values("mean")
        .reset_index()
    )
    if baselines is not None:
        baselines = baselines.dropna(subset="test_mse").assign(val_mse=baselines["test_mse"])
    codes, levels = split_codes_and_levels(baselines)
    best = codes.groupby("latent_size")["val_mse"].min().cummin()
    linear = pd.DataFrame({"latent_size": best.index, "error": best.to_numpy(float)})
    rows["baseline"] = [find_baseline(size, linear, levels) for size in rows["latent_size"]]
    return Spread(rows, linear[linear["error"] > EXACT], levels)


def find_baseline(latent_size: int, linear: pd.DataFrame, levels: dict[str, float]) -> float:
    """Find the error of the baseline of an experiment.

    Args:
        latent_size: The latent size of the experiment.
        linear: Rows of `Spread.linear`.
        levels: The errors of the baselines without a latent.

    Returns:
        The error of PCA of the same size or smaller, or without a PCA the lowest level; NaN
        without one.
    """
    if linear.empty:
        return min(levels.values(), default=math.nan)
    codes = linear.loc[linear["latent_size"] <= latent_size, "error"]
    return math.nan if codes.empty else float(codes.iloc[-1])


def draw_spread(data: Spread) -> go.Figure:
    """Draw the errors of each experiment's seeds and their mean.

    Args:
        data: The errors of at least one experiment.
    """
    figure = plotting.make_figure("test error, MSE", "")
    rows = data.rows[::-1]  # plotly begins at the bottom
    names = [plotting.escape_html(name) for name in rows["experiment"]]
    errors = [*(error for each in rows["each"] for error in each), *data.levels.values()]
    zero = plotting.choose_zero_position(errors)
    levels = dict(zip(data.levels, plotting.lift_zeros(data.levels.values(), zero), strict=True))
    figure.add_scatter(
        x=plotting.lift_zeros((error for each in rows["each"] for error in each), zero),
        y=[name for name, each in zip(names, rows["each"], strict=True) for _ in each],
        name="one seed",
        mode="markers",
        marker={"color": BLUE, "size": 6, "symbol": "circle-open"},
        hovertemplate="%{y}: %{x:.5f}<extra></extra>",
    )
    figure.add_scatter(
        x=plotting.lift_zeros(rows["mean"], zero),
        y=names,
        name="mean over seeds",
        mode="markers",
        marker={"color": ORANGE, "size": 10, "symbol": "line-ns-open", "line": {"width": 3}},
        hovertemplate="%{y}: mean %{x:.5f}<extra></extra>",
    )
    low = min(plotting.lift_zeros([*rows["low"], *data.levels.values()], zero)) / 1.15
    linear = rows[rows["baseline"].notna()] if len(data.linear) else rows[:0]
    if len(linear):
        figure.add_scatter(
            x=linear["baseline"].clip(lower=low).tolist(),
            y=[plotting.escape_html(name) for name in linear["experiment"]],
            name="PCA of the same latent size (drawn at the edge if far below)",
            mode="markers",
            marker={"color": VIOLET, "size": 8, "symbol": "triangle-left"},
            hovertext=[f"PCA: {format_error(value)}" for value in linear["baseline"]],
            hoverinfo="text",
        )
    shown = [*plotting.lift_zeros(rows["high"], zero), *levels.values(), *linear["baseline"]]
    for baseline, level in levels.items():
        if level > 3 * max(plotting.lift_zeros(rows["high"], zero)):
            shown.remove(level)  # far away; it would flatten the rest
            continue
        figure.add_vline(
            x=level,
            line={"color": GREY, "width": 1.5, "dash": "dot"},
            annotation={
                "text": plotting.escape_html(get_baseline_name(baseline)),
                "x": math.log10(level),  # plotly wants it so on a logarithmic axis
                "textangle": -90,
                "yanchor": "bottom",
                "y": 0,
                "xanchor": "right",
                "font": {"size": 12, "color": GREY},
            },
        )
    high = max(shown) * 1.15
    figure.update_xaxes(plotting.make_full_error_axis(low, high, errors))
    figure.update_yaxes(showgrid=True, ticks="", ticksuffix="  ")
    return figure


def draw_latent_spread(data: Spread) -> go.Figure:
    """Draw test error against latent size on logarithmic axes, with PCA.

    Args:
        data: The errors of at least one experiment.
    """
    figure = plotting.make_figure("latent size, numbers per image", "test error, MSE")
    rows = data.rows
    sizes = rows["latent_size"].astype(int)
    errors = [error for each in rows["each"] for error in each]
    zero = plotting.choose_zero_position(errors)
    near = data.linear[data.linear["latent_size"].between(sizes.min() / 2, sizes.max() * 2)]
    if not near.empty:
        near = near[plotting.thin_line(near["latent_size"])]
        figure.add_scatter(
            x=near["latent_size"].tolist(),
            y=near["error"].tolist(),
            name="best PCA of at most this size",
            mode="lines",
            line={"color": VIOLET, "width": 1.5},
            hovertemplate="%{x:,} numbers: %{y:.4g}<extra></extra>",
        )
    figure.add_scatter(
        x=sizes.tolist(),
        y=plotting.lift_zeros(rows["mean"], zero),
        error_y={
            "type": "data",
            "array": (rows["high"] - rows["mean"]).tolist(),
            "arrayminus": (rows["mean"] - rows["low"]).where(rows["low"] > EXACT, 0).tolist(),
            "color": BLUE,
            "thickness": 1,
            "width": 3,
        },
        name="experiment: mean, lowest and highest of its seeds",
        mode="markers",
        marker={"color": BLUE, "size": 8},
        hovertext=[
            plotting.escape_html(f"{name}: {format_error(mean)}")
            for name, mean in zip(rows["experiment"], rows["mean"], strict=True)
        ],
        hoverinfo="text",
    )
    lows = plotting.lift_zeros(rows["low"], zero)
    low = max(min([*lows, *near["error"]]), min(lows) / 30) / 1.3
    high = max(plotting.lift_zeros(rows["high"], zero)) * 1.3
    x_low, x_high = sizes.min() / 1.7, sizes.max() * 1.7
    powers = plotting.list_powers_of_two(x_low, x_high)
    figure.update_xaxes(plotting.make_log_axis(x_low, x_high, powers, "{:,}"))
    figure.update_yaxes(plotting.make_full_error_axis(low, high, errors))
    return figure


CURVES = {
    "train_mse": ("training", GREY),
    "val_mse": ("validation", BLUE),
    "test_mse": ("test", ORANGE),
}


def compute_three_curves(epochs: pd.DataFrame) -> pd.DataFrame:
    """Compute the mean training, validation and test error of each epoch over seeds.

    Args:
        epochs: Epochs with `point` and `seed`.

    Returns:
        One row per `point` and `epoch` that all seeds of the point have reached.
    """
    grouped = epochs.groupby(["point", "epoch"])
    mean = grouped[list(CURVES)].mean().astype(float)
    n = grouped["seed"].nunique()
    return mean[n == n.groupby("point").transform("max")].reset_index()


def draw_three_curves(curves: pd.DataFrame, data: Spread, columns: int = 4) -> go.Figure:
    """Draw a panel of three curves for each experiment, the best first, on the same axes.

    Each panel shows the experiment's baseline: PCA of its latent size, or the lowest level.

    Args:
        curves: What `compute_three_curves` returns.
        data: The errors of the experiments.
        columns: The number of panels in a row.
    """
    order = data.rows["experiment"].tolist()
    n_rows = math.ceil(len(order) / columns)
    baseline = dict(zip(order, data.rows["baseline"], strict=True))
    titles = [
        plotting.escape_html(name)
        + ("" if math.isnan(b) else f"<br>{data.baseline_name}: {format_error(b)}")
        for name, b in baseline.items()
    ]
    figure = make_subplots(
        n_rows,
        columns,
        subplot_titles=titles,
        shared_xaxes=True,
        shared_yaxes=True,
        horizontal_spacing=0.02,
        vertical_spacing=0.3 / n_rows,
    )
    plain = plotting.make_figure("", "").layout
    figure.update_layout(template="none", legend=plain.legend)
    for name in ("paper_bgcolor", "plot_bgcolor", "font", "margin", "hoverlabel", "hovermode"):
        figure.layout[name] = plain[name]
    figure.update_layout(dragmode=False, legend_y=1.04)
    errors = [x for x in curves[list(CURVES)].to_numpy(float).ravel().tolist() if x == x]
    zero = plotting.choose_zero_position(errors)
    low, high = (
        min(plotting.lift_zeros(errors, zero)) / 1.1,
        max(plotting.lift_zeros(errors, zero)) * 1.1,
    )
    for i, point in enumerate(order):
        curve = curves[curves["point"] == point]
        place = {"row": i // columns + 1, "col": i % columns + 1}
        for column, (name, colour) in CURVES.items():
            figure.add_scatter(
                x=curve["epoch"].tolist(),
                y=plotting.lift_zeros(curve[column], zero),
                name=name,
                legendgroup=name,
                showlegend=i == 0,
                mode="lines+markers",
                line={"color": colour, "width": 1.5},
                marker={"size": 4, "color": colour},
                hovertemplate=f"{name}, epoch %{{x}}: %{{y:.5f}}<extra></extra>",
                **place,
            )
        if low < baseline[point] < high:  # else it stands in the title
            line = {"color": VIOLET, "width": 1.5, "dash": "dot"}
            figure.add_hline(y=baseline[point], line=line, **place)
    axis = {name: plain.xaxis[name] for name in ("gridcolor", "linecolor", "zeroline")}
    axis |= {"fixedrange": True, "automargin": True}
    figure.update_yaxes(plotting.make_full_error_axis(low, high, errors) | axis)
    last = int(curves["epoch"].max())
    figure.update_xaxes(
        axis | {"dtick": 1 if last <= 6 else None, "range": [0.7, last + 0.3], "tickformat": "d"}
    )
    figure.update_annotations(font={"size": 12, "color": GREY})
    return figure
