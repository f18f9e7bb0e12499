"""Error against latent size, beside PCA."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Hashable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from scipy.special import gammaln

from raycae.formatting import format_count, format_error, format_ratio, join_words
from raycae.optimization.frontier import find_frontier
from raycae.report import plotting
from raycae.report.plotting import BLUE, EXACT, GREY, VIOLET, draw_trials, errors_apart, fall
from raycae.report.trials import (
    Row,
    get_baseline_name,
    rank_trials,
    select_distinct,
    select_ended,
    thin_trials,
)
from raycae.study.records import COMPLETE


def draw_psnr_view(latent: LatentError, task: str) -> dict[str, Any]:
    """Return what the PSNR view of "latent size against error" draws beside the trials.

    Args:
        latent: The numbers of the figure.
        task: Pictures and errors are of the same values in reconstruction alone, so colourisation
            has no baseline in PSNR.

    Returns:
        `front`: the trials of the Pareto front by PSNR, by latent size; `x` and `y` of that line;
        `baselines`: whether an MSE is also a PSNR, 10 log10(1 / MSE).
    """
    front = latent.psnr_frontier
    return {
        "front": front["trial_number"].astype(int).tolist(),
        "x": front["latent_size"].astype(int).tolist(),
        "y": front["val_psnr_db"].astype(float).tolist(),
        "baselines": task == "reconstruct",
    }


def describe_frontier_answer(latent: LatentError, ranked: list[Row]) -> str:
    """At which latent sizes the Pareto front lies below PCA, on validation and test images."""
    rows = {row["trial_number"]: row for row in ranked}
    front = [rows[number] for number in latent.frontier["trial_number"]]
    low, high = front[0]["latent_size"], front[-1]["latent_size"]
    sizes = f"from {low:,} to {high:,} numbers" if low < high else format_count(low, "number")
    said = f"The Pareto front has {format_count(len(front), 'trial')}, {sizes} per image."
    codes = [(row, latent.best_linear(row["latent_size"])) for row in front]
    compared = [(row, code) for row, code in codes if code is not None and code.val_mse > EXACT]
    below = [(row, code) for row, code in compared if row["val_mse"] < code.val_mse]
    if not compared:
        return said
    if not below:
        return f"{said} PCA of no larger size has less error, or as little, at every size compared."
    tested = [(row, code) for row, code in below if row["test_mse"] is not None]
    on_test = sum(row["test_mse"] < code.test_mse for row, code in tested)
    first, *others = (
        (f"{row['latent_size']:,}", format_ratio(row["val_mse"] / code.val_mse))
        for row, code in below
    )
    words = [f"{first[0]} ({first[1]} times its error)", *(f"{n} ({times})" for n, times in others)]
    said += f" It lies below the best PCA of no larger size at {join_words(words)}"
    if not tested:
        return f"{said}."
    where = "all" if on_test == len(below) else f"{on_test:,}" if on_test else "none"
    return f"{said}; on the test images at {where} of these."


def describe_latent_error(latent: LatentError) -> str | None:
    """How the Pareto front falls with the latent size, and how much of it PCA beats."""
    frontier = latent.frontier
    if frontier.empty:
        return None
    first, last = frontier.iloc[0], frontier.iloc[-1]
    if latent.points["latent_size"].nunique() == 1:
        said = (
            f"Every trial has a latent of {format_count(last['latent_size'], 'number')}; "
            f"the least error is {format_error(last['val_mse'])}."
        )
    elif first["latent_size"] == last["latent_size"]:
        said = (
            f"The smallest latent of all, {format_count(last['latent_size'], 'number')}, "
            f"also has the least error, {format_error(last['val_mse'])}."
        )
    else:
        before, after = errors_apart(first["val_mse"], last["val_mse"])
        said = (
            f"From latent size {first['latent_size']:,} to {last['latent_size']:,} the least "
            f"error falls from {before} to {after}, {fall(first['val_mse'], last['val_mse'])}."
        )
    compared = frontier[frontier["linear_mse"] > EXACT]
    if compared.empty:
        return said
    below = int((compared["val_mse"] < compared["linear_mse"]).sum())
    return (
        f"{said} Of {format_count(len(compared), 'trial')} on the Pareto front that can be "
        "compared "
        f"with PCA of no larger size, {below or 'none'} {'has' if below == 1 else 'have'} less "
        "error than the best PCA."
    )


def describe_sides(trials: pd.DataFrame) -> str | None:
    """Say how often the widest shape has the least error, and whether that is more than chance;
    None where no latent size has several shapes."""
    shapes = count_wider_is_better(trials)
    if not shapes.n:
        if not shapes.n_tied:
            return None
        return "Shapes of the same latent size tie for the least error."
    said = (
        f"The shape with the largest spatial size and the fewest channels has the least error at "
        f"{shapes.n_wider or 'none'} of {format_count(shapes.n, 'latent size')} with more than one "
        f"shape; chance would give {shapes.expected:.1f}."
    )
    if shapes.p > LEVEL:
        return f"{said} So neither spatial size nor channels stand out."
    better = "Spatial size" if shapes.n_wider > shapes.expected else "Channels"
    helps = "helps" if shapes.n_wider > shapes.expected else "help"
    worse = "channels" if shapes.n_wider > shapes.expected else "spatial size"
    return f"{said} {better} {helps} more than {worse} here."


def make_frontier_rows(latent: LatentError, ranked: list[Row]) -> list[Row]:
    """The trials of the Pareto front as rows, with `linear` and `linear_test`: their error over
    that of PCA, on validation and test images."""
    rows = {row["trial_number"]: row for row in ranked}
    return [
        {**rows[number], **divide_by_linear(rows[number], latent)}
        for number in latent.frontier["trial_number"]
    ]


def divide_by_linear(row: Row, latent: LatentError) -> dict[str, str]:
    code = latent.best_linear(row["latent_size"])
    if code is None or code.val_mse <= EXACT:
        return {"linear": "–", "linear_test": "–"}
    has_test = row["test_mse"] is not None and code.test_mse > EXACT
    return {
        "linear": format_ratio(row["val_mse"] / code.val_mse),
        "linear_test": format_ratio(row["test_mse"] / code.test_mse) if has_test else "–",
    }


def format_latent_shape(row: Row) -> str:
    """Channels × height × width."""
    return " × ".join(str(row[f"latent_{side}"]) for side in ("channels", "height", "width"))


CLOSE = 1.6
"""Lines across a figure whose errors differ by less than this factor share a label."""
LEVEL = 0.05 / 6
"""The chance that pure noise makes a sentence of the report single something out. Six sentences do
so (importance, values in common, pairs, edges, regions of failures, shapes), so of all reports of
pure noise at most 5 % hold a false statement."""
SIDES = {
    "latent_positions": "spatial size of the latent, height × width",
    "latent_channels": "channels of the latent",
}
"""The latent size is their product."""


@dataclass(frozen=True)
class LinearCode:
    """A PCA baseline: its name, numbers per image, and errors."""

    baseline: str
    latent_size: int
    val_mse: float
    test_mse: float


POINT_COLUMNS = [
    *("trial_number", "state", "point", "latent_size", "val_mse", "val_psnr_db"),
    *("network", "optimizer", "lr", "batch_size"),
]


@dataclass(frozen=True)
class LatentError:
    """What a latent size costs.

    `points`: one row a trial that ended with an error (complete or stopped early), `POINT_COLUMNS`
    and `on_frontier`, `linear_mse` (see `best_linear`; NaN where there is none).
    `linear`: `baseline`, `latent_size`, `val_mse`, `test_mse` of the PCA baselines.
    `levels`: the error of each baseline without a latent, lowest first; 0 is an error, too.
    `seeds`: one row a configuration that ran to its end with several seeds: `latent_size`, `n`,
    `mean`, `low`, `high` of its errors.
    """

    points: pd.DataFrame
    linear: pd.DataFrame
    levels: dict[str, float]
    seeds: pd.DataFrame

    @property
    def frontier(self) -> pd.DataFrame:
        """The points that no other beats, from the smallest latent size to the largest; of several
        equal ones the first trial."""
        on = self.points[self.points["on_frontier"]].sort_values(["latent_size", "trial_number"])
        return on.drop_duplicates("latent_size")

    @property
    def psnr_frontier(self) -> pd.DataFrame:
        """The Pareto front by PSNR: the points that no other beats in latent size and mean PSNR of
        an image. It need not be that by MSE, for the mean of PSNRs is not the PSNR of the mean."""
        rows = self.points.assign(val_mse=-self.points["val_psnr_db"].astype(float))
        on = find_frontier(rows.to_dict("records"))  # type: ignore[arg-type]
        rows = self.points[self.points["trial_number"].map(on).astype(bool)]
        rows = rows.sort_values(["latent_size", "trial_number"])
        return rows.drop_duplicates("latent_size")

    def best_linear(self, latent_size: int) -> LinearCode | None:
        """The PCA baseline with the least error among those of at most `latent_size` numbers."""
        short = self.linear[self.linear["latent_size"] <= latent_size]
        if short.empty:
            return None
        best = short.sort_values("val_mse", kind="stable").iloc[0]
        errors = (float(best["val_mse"]), float(best["test_mse"]))
        return LinearCode(str(best["baseline"]), int(best["latent_size"]), *errors)


def compute_latent_error(trials: pd.DataFrame, baselines: pd.DataFrame | None) -> LatentError:
    """The numbers of "latent size against validation error".

    `trials`: rows as `described` gives them. `baselines`: `baseline`, `latent_size` (null: there is
    no latent), `val_mse`; None where there are none yet.
    """
    points = select_ended(trials).filter(POINT_COLUMNS).reset_index(drop=True)
    points = points.astype({"trial_number": int, "latent_size": int, "val_mse": float})
    on = find_frontier(points.to_dict("records"))  # type: ignore[arg-type]
    points["on_frontier"] = points["trial_number"].map(on).astype(bool)
    data = LatentError(points, *split_codes_and_levels(baselines), summarise_seeds(trials))
    codes = {size: data.best_linear(size) for size in points["latent_size"].unique().tolist()}
    errors = {size: math.nan if code is None else code.val_mse for size, code in codes.items()}
    points["linear_mse"] = points["latent_size"].map(errors).astype(float)
    return data


def summarise_seeds(trials: pd.DataFrame) -> pd.DataFrame:
    ended = select_ended(trials)
    complete = ended[ended["state"] == COMPLETE]
    errors = complete.astype({"val_mse": float}).groupby("config", sort=False)
    rows = errors.agg(
        latent_size=("latent_size", "first"),
        n=("seed", "nunique"),
        mean=("val_mse", "mean"),
        low=("val_mse", "min"),
        high=("val_mse", "max"),
    )
    return rows[rows["n"] > 1].reset_index(drop=True)


def draw_latent_error(data: LatentError, most: int = 1500) -> go.Figure:
    """Both axes logarithmic; beside the frontier at most `most` points. Needs at least one."""
    low, high, x_low, x_high = compute_window(data)
    figure = plotting.make_figure("latent size, numbers per image", "validation error, MSE")
    dashes = ("solid", "dash", "dashdot")
    codes = data.linear[data.linear["val_mse"] > EXACT].groupby("baseline", sort=True)
    for i, (baseline, code) in enumerate(codes):
        name = plotting.escape_html(get_baseline_name(str(baseline)))
        figure.add_scatter(
            x=code["latent_size"].tolist(),
            y=code["val_mse"].tolist(),
            name=name,
            mode="lines",
            line={"color": VIOLET, "width": 1.5, "dash": dashes[i % len(dashes)]},
            hovertemplate=f"{name}<br>%{{x:,}} numbers: %{{y:.4g}}<extra></extra>",
        )
    points = thin_trials(data.points.sort_values(["val_mse", "trial_number"]), most)
    on = [data.frontier, data.psnr_frontier] if "val_psnr_db" in points else [data.frontier]
    points = pd.concat([points, *on]).drop_duplicates("trial_number")
    zero = plotting.floor(list_zero_errors(data))
    draw_trials(figure, points, data.frontier, "latent_size", format_hover, zero)
    draw_seeds(figure, thin_trials(data.seeds.sort_values("mean"), most // 5))
    draw_levels(figure, data.levels, zero)
    sizes = plotting.list_powers_of_two(x_low, x_high)
    figure.update_xaxes(plotting.make_log_axis(x_low, x_high, sizes, "{:,}"))
    figure.update_yaxes(plotting.error_log_axis(low, high, list_zero_errors(data)))
    return figure


@dataclass(frozen=True)
class Shapes:
    """How often the largest spatial size with the fewest channels has the least error.

    `n`: latent sizes that configurations reached with more than one shape and where one shape alone
    has the least error; `n_wider`: those of them where it is that shape. `n_tied`: further sizes,
    where it shares the least error. `expected`: what `n_wider` is on average if shapes do not
    matter; `p`: the chance of being at least as far from that, on either side.
    """

    n: int
    n_wider: int
    n_tied: int
    expected: float
    p: float


def count_wider_is_better(trials: pd.DataFrame) -> Shapes:
    """Compare shapes of the latent at each latent size.

    If shapes do not matter each configuration of a latent size is equally likely to be its best, so
    the widest shape wins with its share of the configurations, at each size by itself.
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
    of = np.ones(1)  # the probability of each number of sizes
    for chance in chances:
        of = np.convolve(of, [1 - chance, chance])
    p = min(1.0, 2 * float(min(of[: n_wider + 1].sum(), of[n_wider:].sum())))
    return Shapes(len(chances), n_wider, n_tied, math.fsum(chances), p)


def draw_side(trials: pd.DataFrame, side: str, most: int = 600) -> go.Figure:
    """Error against one of `SIDES`, both axes logarithmic, with a line through the least error at
    each. Needs one trial that ended with an error."""
    ranked = rank_trials(select_ended(trials))
    least = ranked.drop_duplicates(side).sort_values(side)
    figure = plotting.make_figure(SIDES[side], "validation error, MSE")

    def hover(row: dict[Hashable, Any]) -> str:
        shape = f"{row['latent_channels']} × {row['latent_height']} × {row['latent_width']}"
        return f"trial {row['trial_number']}: {format_error(row['val_mse'])}<br>latent {shape}"

    errors = ranked["val_mse"].astype(float).tolist()
    zero, top = plotting.floor(errors), plotting.get_error_ceiling(errors)
    draw_trials(figure, thin_trials(ranked, most), least, side, hover, zero, top)
    figure.data[0].name = "least error"
    figure.update_yaxes(plotting.make_error_axis(errors))
    low, high = float(ranked[side].min()) / 1.3, float(ranked[side].max()) * 1.3
    figure.update_xaxes(
        plotting.make_log_axis(low, high, plotting.list_powers_of_two(low, high), "{:,}")
    )
    return figure


def split_codes_and_levels(baselines: pd.DataFrame | None) -> tuple[pd.DataFrame, dict[str, float]]:
    """Return PCA baselines by size, and the levels: the baselines without a latent. A level may be
    0: pictures without colour leave no error to colourisation."""
    if baselines is None:
        baselines = pd.DataFrame({"baseline": [], "latent_size": [], "val_mse": [], "test_mse": []})
    coded = baselines["latent_size"].notna()
    is_linear = coded & baselines["baseline"].astype(str).str.startswith("linear")
    kinds = {"baseline": str, "latent_size": int, "val_mse": float, "test_mse": float}
    baselines = baselines.assign(
        test_mse=baselines["test_mse"].astype("Float64").to_numpy(float, na_value=math.nan)
    )
    linear = baselines.loc[is_linear, list(kinds)].astype(kinds)
    levels = baselines[~coded].sort_values("val_mse")
    return linear.sort_values(["baseline", "latent_size"], ignore_index=True), {
        str(baseline): float(val_mse)
        for baseline, val_mse in zip(levels["baseline"], levels["val_mse"], strict=True)
    }


def compute_window(data: LatentError) -> tuple[float, float, float, float]:
    """Lowest and highest error, smallest and largest latent size to show.

    The trials say which sizes; PCA runs on to both sides, down to no error at all.
    """
    sizes = data.points["latent_size"]
    zero = plotting.floor(list_zero_errors(data))
    errors = plotting.lifted(data.points["val_mse"], zero)
    near = data.linear[data.linear["latent_size"].between(sizes.min(), sizes.max())]
    near = near[near["val_mse"] > EXACT]
    shown = [*errors, *near["val_mse"], *plotting.lifted(data.levels.values(), zero)]
    low = max(min(shown), min(errors) / 10) / 1.3
    high = max(max(shown) * 1.3, low * 3)
    if data.levels:  # room for their label
        label = (high / low) ** (0.07 * len(data.levels))
        high = max(high, max(plotting.lifted(data.levels.values(), zero)) * label)
    return low, high, min(sizes) / 1.7, max(sizes) * 1.7


def compute_chance_of_marked(n: int, n_marked: int, n_drawn: int, at_least: int) -> float:
    """Compute the probability that at least `at_least` of `n_drawn` trials, drawn at random from
    `n`, are among the `n_marked` (the upper tail of the hypergeometric distribution)."""
    low, high = max(at_least, n_drawn - (n - n_marked)), min(n_marked, n_drawn)
    k = np.arange(low, high + 1)
    logs = compute_log_choose(n_marked, k) + compute_log_choose(n - n_marked, n_drawn - k)
    return min(1.0, float(np.exp(logs - compute_log_choose(n, n_drawn)).sum()))


def compute_log_choose(n: int, k: Any) -> Any:
    return gammaln(n + 1) - gammaln(k + 1) - gammaln(n - k + 1)


def draw_seeds(figure: go.Figure, seeds: pd.DataFrame) -> None:
    """A bar from the least to the greatest error of a configuration that ran with several seeds."""
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
        name="several seeds: mean, least to greatest",
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
    """Draw dotted lines across, highest first, what is zero at `zero`. Lines too close for a label
    each share one above them, which names them in the order in which they lie."""
    label: list[str] = []
    above = math.inf
    drawn = zip(levels, plotting.lifted(levels.values(), zero), strict=True)
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
    name = "" if pd.isna(point["point"]) else f", point {point['point']}"
    network = textwrap.wrap(str(point["network"]), 56, break_long_words=False)
    lines = [
        f"trial {point['trial_number']}{name}: {format_error(point['val_mse'])}",
        f"latent size {point['latent_size']:,}",
        f"{point['optimizer']}, lr {point['lr']:.3g}, batch {point['batch_size']}",
        *network,
    ]
    return "<br>".join(map(plotting.escape_html, lines))


def list_zero_errors(data: LatentError) -> list[float]:
    """Return the errors that say where zero is drawn: those of the trials and the levels."""
    return [*data.points["val_mse"].tolist(), *data.levels.values()]
