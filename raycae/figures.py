"""The figures of a report, each in two steps: numbers first, a plotly figure second.

The first step is where something can be wrong, and is tested on its numbers; the second only
draws. Every error is the task's mean squared error, on values from 0 to 1.

Plotly reads a little HTML in every text, so what comes from files is escaped before it gets there.
"""

from __future__ import annotations

import math
import textwrap
from collections.abc import Callable, Hashable, Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from raycae import canvas
from raycae.architecture import architecture
from raycae.canvas import BLUE, EXACT, GREY, ORANGE, VIOLET, error
from raycae.config import Config
from raycae.frontier import frontier_of, hypervolume
from raycae.greedy import AGAIN, DROPPED, KEPT, START, Ladder
from raycae.results import COMPLETE, FAIL, PRUNED, RUNNING

CLOSE = 1.6
"""Lines across a figure whose errors differ by less than this factor share a label."""

LEVEL = 0.05 / 6
"""The chance that pure noise makes a sentence of the report single something out. Six sentences do
so (importance, values in common, pairs, edges, regions of failures, shapes), so of all reports of
pure noise at most 5 % hold a false statement."""

COST_NAMES = {
    "latent_size": "latent size, numbers per image",
    "n_params": "parameters",
    "flops": "FLOPs an image, forward",
    "epoch_time_s": "time of an epoch, s",
}

SIDES = {
    "latent_positions": "spatial size of the latent, height × width",
    "latent_channels": "channels of the latent",
}
"""The latent size is their product."""

LADDER_COLUMNS = (
    *("trial_number", "state", "change", "parent", "val_mse"),
    *("parent_change", "percent", "verdict", "best"),
)

BASELINES = {
    "linear": "linear, whole image",
    "linear_4x4": "linear, 4 × 4 blocks",
    "linear_8x8": "linear, 8 × 8 blocks",
    "mean_colour": "mean colour",
    "grey_copy": "grey copy",
    "mean_chroma": "mean chroma",
    "luma_function": "best function of luma",
}


def baseline_name(baseline: str) -> str:
    """In words; a baseline that this version does not know keeps its own name."""
    return BASELINES.get(baseline, baseline.replace("_", " "))


def described(trials: pd.DataFrame) -> pd.DataFrame:
    """`trials` with what their configurations say: `network` (in words),
    `latent_positions` (height × width), `optimizer`, `lr`, `batch_size`."""
    configs = [Config.model_validate_json(text) for text in trials["config"]]
    nets = [architecture(config) for config in configs]
    return trials.assign(
        network=list(map(str, nets)),
        latent_positions=[net.latent_shape[1] * net.latent_shape[2] for net in nets],
        optimizer=[config.optimizer for config in configs],
        lr=[config.lr for config in configs],
        batch_size=[config.batch_size for config in configs],
    )


@dataclass(frozen=True)
class Code:
    """A linear code: its baseline's name, numbers per image, and errors."""

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
    and `on_frontier`, `linear_mse` (see `best_linear`; NaN where there is no such code).
    `linear`: `baseline`, `latent_size`, `val_mse`, `test_mse` of the linear codes.
    `levels`: the error of each baseline without a latent, lowest first.
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

    def best_linear(self, latent_size: int) -> Code | None:
        """The linear code with the least error among those of at most `latent_size` numbers."""
        short = self.linear[self.linear["latent_size"] <= latent_size]
        if short.empty:
            return None
        best = short.sort_values("val_mse", kind="stable").iloc[0]
        errors = (float(best["val_mse"]), float(best["test_mse"]))
        return Code(str(best["baseline"]), int(best["latent_size"]), *errors)


def latent_error(trials: pd.DataFrame, baselines: pd.DataFrame | None) -> LatentError:
    """The numbers of "latent size against validation error".

    `trials`: rows as `described` gives them. `baselines`: `baseline`, `latent_size` (null: there is
    no latent), `val_mse`; None where there are none yet.
    """
    points = ended(trials).filter(POINT_COLUMNS).reset_index(drop=True)
    points = points.astype({"trial_number": int, "latent_size": int, "val_mse": float})
    on = frontier_of(points.to_dict("records"))  # type: ignore[arg-type]
    points["on_frontier"] = points["trial_number"].map(on).astype(bool)
    data = LatentError(points, *_codes_and_levels(baselines), _over_seeds(trials))
    codes = {size: data.best_linear(size) for size in points["latent_size"].unique().tolist()}
    errors = {size: math.nan if code is None else code.val_mse for size, code in codes.items()}
    points["linear_mse"] = points["latent_size"].map(errors).astype(float)
    return data


def _over_seeds(trials: pd.DataFrame) -> pd.DataFrame:
    complete = ended(trials).query("state == @COMPLETE")
    errors = complete.astype({"val_mse": float}).groupby("config", sort=False)
    rows = errors.agg(
        latent_size=("latent_size", "first"),
        n=("seed", "nunique"),
        mean=("val_mse", "mean"),
        low=("val_mse", "min"),
        high=("val_mse", "max"),
    )
    return rows[rows["n"] > 1].reset_index(drop=True)


def latent_error_figure(data: LatentError, most: int = 1500) -> go.Figure:
    """Both axes logarithmic; beside the frontier at most `most` points. Needs at least one."""
    low, high, x_low, x_high = _window(data)
    figure = canvas.figure("latent size, numbers per image", "validation error, MSE")
    dashes = ("solid", "dash", "dashdot")
    codes = data.linear[data.linear["val_mse"] > EXACT].groupby("baseline", sort=True)
    for i, (baseline, code) in enumerate(codes):
        name = canvas.plain(baseline_name(str(baseline)))
        figure.add_scatter(
            x=code["latent_size"].tolist(),
            y=code["val_mse"].tolist(),
            name=name,
            mode="lines",
            line={"color": VIOLET, "width": 1.5, "dash": dashes[i % len(dashes)]},
            hovertemplate=f"{name}<br>%{{x:,}} numbers: %{{y:.4g}}<extra></extra>",
        )
    points = thinned(data.points.sort_values(["val_mse", "trial_number"]), most)
    points = pd.concat([points, data.frontier]).drop_duplicates("trial_number")
    _draw_trials(figure, points, data.frontier, "latent_size", _hover)
    _draw_seeds(figure, thinned(data.seeds.sort_values("mean"), most // 5))
    _draw_levels(figure, data.levels)
    sizes = canvas.powers_of_two(x_low, x_high)
    figure.update_xaxes(canvas.log_axis(x_low, x_high, sizes, "{:,}"))
    figure.update_yaxes(canvas.log_axis(low, high))
    return figure


def wider_is_better(trials: pd.DataFrame) -> tuple[int, int]:
    """Of the latent sizes that trials reached with more than one shape: at how many the shape with
    the most positions and the fewest channels has the least error; how many there are."""
    shapes = ended(trials).groupby(["latent_size", "latent_positions"])["val_mse"].min()
    best = shapes.astype(float).reset_index().sort_values("latent_positions")
    several = best[best["latent_size"].duplicated(keep=False)].groupby("latent_size")["val_mse"]
    return int((several.last() <= several.min()).sum()), several.ngroups


def side_figure(trials: pd.DataFrame, side: str, most: int = 600) -> go.Figure:
    """Error against one of `SIDES`, both axes logarithmic, with a line through the least error at
    each. Needs one trial that ended with an error."""
    ranked = ranking(ended(trials))
    least = ranked.drop_duplicates(side).sort_values(side)
    figure = canvas.figure(SIDES[side], "validation error, MSE")

    def hover(row: dict[Hashable, Any]) -> str:
        shape = f"{row['latent_channels']} × {row['latent_height']} × {row['latent_width']}"
        return f"trial {row['trial_number']}: {error(row['val_mse'])}<br>latent {shape}"

    errors = ranked["val_mse"].astype(float)
    shown = ranked.assign(val_mse=errors.clip(upper=canvas.ceiling(errors.tolist())))
    _draw_trials(figure, thinned(shown, most), least, side, hover)
    figure.data[0].name = "least error"
    figure.update_yaxes(canvas.error_axis(errors.tolist()))
    low, high = float(ranked[side].min()) / 1.3, float(ranked[side].max()) * 1.3
    figure.update_xaxes(canvas.log_axis(low, high, canvas.powers_of_two(low, high), "{:,}"))
    return figure


@dataclass(frozen=True)
class Growth:
    """How a frontier grew: `steps`: `cost` and `error` of each trial, in the order in which they
    ended, and `height`, the hypervolume until then: the mean over costs from `low` to `high` of how
    many decades the least error lies below `worst`. `line`: the same of linear codes, where the
    cost is the latent size and there are any."""

    steps: pd.DataFrame
    low: float
    high: float
    worst: float
    line: float | None


def growth(trials: pd.DataFrame, latent: LatentError, cost: str) -> Growth | None:
    """From the smallest cost of any trial to twice the largest, so that each counts. `worst` is the
    error of doing nothing, where that is known; else that of the worst trial. None where no trial
    has ended with an error."""
    rows = ended(trials).sort_values(["ended_at", "trial_number"])
    if rows.empty:
        return None
    steps = pd.DataFrame({"cost": rows[cost].astype(float), "error": rows["val_mse"].astype(float)})
    steps = steps.reset_index(drop=True)
    worst = max(latent.levels.values(), default=float(steps["error"].max()))
    low, high = float(steps["cost"].min()), 2 * float(steps["cost"].max())
    points = list(zip(steps["cost"].tolist(), steps["error"].tolist(), strict=True))
    front: list[tuple[float, float]] = []
    heights = []
    for point in points:
        if not any(c <= point[0] and e <= point[1] for c, e in front):
            front = [p for p in front if p[0] < point[0] or p[1] < point[1]] + [point]
        heights.append(hypervolume(front, low, high, worst))
    line = None
    codes = latent.linear[latent.linear["val_mse"] > EXACT]
    if cost == "latent_size" and not codes.empty:
        sizes = zip(codes["latent_size"].tolist(), codes["val_mse"].tolist(), strict=True)
        line = hypervolume(sizes, low, high, worst)
    return Growth(steps.assign(height=heights), low, high, worst, line)


def growth_figure(data: Growth) -> go.Figure:
    """The hypervolume after each trial."""
    figure = canvas.figure("trials that ended", "mean height of the frontier, decades")
    places = list(range(1, len(data.steps) + 1))
    figure.add_scatter(
        x=places,
        y=data.steps["height"].tolist(),
        name="frontier",
        mode="lines",
        line={"color": ORANGE, "width": 2, "shape": "hv"},
        hovertemplate="%{x} trials: %{y:.3f}<extra></extra>",
    )
    if data.line is not None:
        figure.add_scatter(
            x=[1, len(places)],
            y=[data.line] * 2,
            name="linear codes",
            mode="lines",
            line={"color": VIOLET, "width": 1.5},
            hovertemplate="linear codes: %{y:.3f}<extra></extra>",
        )
    figure.update_yaxes(rangemode="tozero")
    figure.update_xaxes(tickformat="d")
    return figure


def cost_frontier(trials: pd.DataFrame, cost: str) -> pd.DataFrame:
    """Of the trials that ended with an error those that no other beats in error and `cost`, the
    cheapest first."""
    rows = ended(trials).sort_values([cost, "val_mse"])
    on = frontier_of(rows.to_dict("records"), cost)  # type: ignore[arg-type]
    return rows[rows["trial_number"].map(on).astype(bool)]


def cost_figure(trials: pd.DataFrame, cost: str) -> go.Figure:
    """Error against a cost other than the latent size, both axes logarithmic. Needs one trial that
    ended with an error."""
    rows = ended(trials)
    figure = canvas.figure(COST_NAMES[cost], "validation error, MSE")

    def hover(row: dict[Hashable, Any]) -> str:
        return f"trial {row['trial_number']}: {error(row['val_mse'])}, {row[cost]:,.4g}"

    _draw_trials(figure, rows, cost_frontier(rows, cost), cost, hover)
    low, high = float(rows["val_mse"].min()) / 1.2, float(rows["val_mse"].max()) * 1.2
    figure.update_yaxes(canvas.log_axis(low, high))
    low, high = float(rows[cost].min()) / 1.2, float(rows[cost].max()) * 1.2
    figure.update_xaxes(canvas.log_axis(low, high, form="{:,.4g}"))
    return figure


@dataclass(frozen=True)
class LearningCurves:
    """`curves`: `trial_number`, `state`, `epoch`, `val_mse`, sorted by trial and epoch. `best`: the
    best complete trial, if one is complete. `n_trials`: how many trials have a curve, drawn or not.
    `stopped_after`: the last epoch of each trial that was stopped early, drawn or not.
    """

    curves: pd.DataFrame
    best: int | None
    n_trials: int
    stopped_after: tuple[int, ...] = ()

    @property
    def n_drawn(self) -> int:
        return int(self.curves["trial_number"].nunique())


def learning_curves(trials: pd.DataFrame, epochs: pd.DataFrame, most: int = 30) -> LearningCurves:
    """Validation error by epoch of at most `most` trials.

    Where there are more, they are taken evenly from the best to the worst, both included.
    """
    told = epochs.loc[measured(epochs["val_mse"]), ["trial_number", "epoch", "val_mse"]]
    told = told.astype({"trial_number": int, "epoch": int, "val_mse": float})
    ranked = ranking(trials[trials["trial_number"].isin(told["trial_number"])])
    complete = (ranked["state"] == COMPLETE).to_numpy()
    places = np.linspace(0, max(len(ranked) - 1, 0), min(most, len(ranked))).round().astype(int)
    best = None
    if complete.any():
        place = int(complete.argmax())
        best = int(ranked["trial_number"].iloc[place])
        if place not in places:
            places[0] = place  # stopped trials are ahead of it
    chosen = ranked.iloc[places][["trial_number", "state"]].astype({"trial_number": int})
    curves = chosen.merge(told, on="trial_number").sort_values(["trial_number", "epoch"])
    stopped = told["trial_number"].isin(ranked.loc[ranked["state"] == PRUNED, "trial_number"])
    ends = told[stopped].groupby("trial_number")["epoch"].max()
    return LearningCurves(curves.reset_index(drop=True), best, len(ranked), tuple(ends.tolist()))


def ladder(trials: pd.DataFrame) -> pd.DataFrame:
    """The trials of a greedy series in the order in which they ended; empty where there is none.

    `trial_number`, `state`, `change`, `parent`, `parent_change`, `val_mse`, `percent` (the error
    against the parent's, where both ran to their end; else NaN), `verdict`, and `best`, the least
    error so far of those that are kept (NaN before there is one).
    """
    steps = trials[trials["state"] != RUNNING].sort_values(["ended_at", "trial_number"])
    if steps["change"].isna().all():
        return pd.DataFrame(columns=LADDER_COLUMNS)
    changed = steps["change"].astype(object).where(steps["change"].notna(), None)
    changes = dict(zip(steps["trial_number"], changed, strict=True))
    rule = Ladder()
    rows = []
    for number, state, parent, val_mse in zip(
        *(steps[name].tolist() for name in ("trial_number", "state", "parent", "val_mse")),
        strict=True,
    ):
        parent, val_mse = (None if pd.isna(value) else value for value in (parent, val_mse))
        verdict = rule.judge(number, parent, state, val_mse)
        own, before = rule.errors[number], rule.errors.get(parent, math.inf)
        percent = 100 * (own / before - 1) if 0 < before < math.inf > own else math.nan
        best = rule.errors.get(rule.best, math.inf)
        step = (number, state, changes[number], parent, val_mse, changes.get(parent), percent)
        rows.append((*step, verdict, best if best < math.inf else math.nan))
    return pd.DataFrame(rows, columns=LADDER_COLUMNS)


def ladder_figure(steps: pd.DataFrame) -> go.Figure | None:
    """Each step's error, in the order in which they ended, and the least of those that were kept;
    None where no step has an error."""
    shown = measured(steps["val_mse"])
    if not shown.any():
        return None
    figure = canvas.figure("trials that ended", "validation error, MSE")
    places = pd.Series(range(1, len(steps) + 1), index=steps.index)
    held = measured(steps["best"])
    figure.add_scatter(
        x=places[held].tolist(),
        y=steps.loc[held, "best"].tolist(),
        name="best so far",
        mode="lines",
        line={"color": ORANGE, "width": 2, "shape": "hv"},
        hoverinfo="skip",
    )
    for verdicts, name, marker in (
        ((DROPPED,), "dropped", {"color": GREY, "symbol": "circle-open", "size": 8}),
        ((AGAIN,), "to be tried again", {"color": VIOLET, "symbol": "diamond", "size": 8}),
        ((START, KEPT), "start, and kept", {"color": ORANGE, "size": 10}),
    ):
        chosen = shown & steps["verdict"].isin(verdicts)
        if chosen.any():
            figure.add_scatter(
                x=places[chosen].tolist(),
                y=steps.loc[chosen, "val_mse"].tolist(),
                name=name,
                mode="markers",
                marker=marker,
                hovertext=[
                    canvas.plain(
                        f"trial {step['trial_number']}, {step['change'] or START}: "
                        f"{error(step['val_mse'])}"
                    )
                    for step in steps[chosen].to_dict("records")
                ],
                hoverinfo="text",
            )
    errors = steps.loc[shown, "val_mse"].astype(float)
    low = errors.min() / 1.1
    high = max(min(errors.max() * 1.1, 1.0), 1.5 * low)
    figure.update_yaxes(canvas.log_axis(low, high))
    last = len(steps)
    figure.update_xaxes(dtick=1 if last <= 24 else None, range=[0.5, last + 0.5], tickformat="d")
    return figure


def ranking(trials: pd.DataFrame) -> pd.DataFrame:
    """Best first; those that failed or have no error yet come last, by their numbers."""
    scored = trials["val_mse"].notna() & trials["state"].ne(FAIL)
    best_first = trials[scored].sort_values(["val_mse", "trial_number"])
    return pd.concat([best_first, trials[~scored].sort_values("trial_number")])


def thinned(trials: pd.DataFrame, most: int) -> pd.DataFrame:
    """At most `most` rows: a third of them the first, the others taken evenly from the rest, in
    their order. For trials from the best to the worst: the best are looked at most."""
    if len(trials) <= most:
        return trials
    first = most // 3
    places = np.linspace(first, len(trials) - 1, most - first).round().astype(int)
    return trials.iloc[[*range(first), *places]]


def learning_curves_figure(data: LearningCurves, rungs: Iterable[int] = ()) -> go.Figure:
    """Error on a logarithmic axis; dotted lines at `rungs`, the epochs after which trials may be
    stopped. Needs at least one curve."""
    figure = canvas.figure("epoch", "validation error, MSE")
    curves = data.curves
    is_best = curves["trial_number"] == data.best
    complete = curves["state"] == COMPLETE
    stopped = curves["state"] == PRUNED
    for name, chosen, colour, width in (
        ("failed or not ended", ~complete & ~stopped, "rgba(138, 143, 150, 0.35)", 1),
        ("stopped early", stopped, "rgba(138, 143, 150, 0.7)", 1),
        ("complete", complete & ~is_best, "rgba(59, 130, 196, 0.6)", 1.3),
        (f"best: trial {data.best}", is_best, ORANGE, 3),
    ):
        if chosen.any():
            x, y, texts = _gapped(curves[chosen])
            figure.add_scatter(
                x=x,
                y=y,
                name=name,
                mode="lines+markers",  # a trial stopped after its first epoch is a mere dot
                line={"color": colour, "width": width},
                marker={"size": 3 + width, "color": colour},
                hovertext=texts,
                hoverinfo="text",
            )
    # No network that predicts values from 0 to 1 is meant to be above 1; one that exploded in its
    # first epoch must not flatten all the others.
    low, high = curves["val_mse"].min() / 1.15, min(curves["val_mse"].max() * 1.15, 1.0)
    high = max(high, 2 * low)
    figure.update_yaxes(canvas.log_axis(low, high))
    last = int(curves["epoch"].max())
    for rung in rungs:
        if rung <= last:
            line = {"color": GREY, "width": 1.2, "dash": "dot"}
            label = {"text": "rung", "textangle": 0, "font": {"size": 11, "color": GREY}}
            figure.add_vline(x=rung, line=line, layer="below", label=label)
    figure.update_xaxes(dtick=1 if last <= 12 else None, range=[0.5, last + 0.5], tickformat="d")
    return figure


def measured(errors: pd.Series[float]) -> pd.Series[bool]:
    """True where there is a finite error; 0 is a measured error."""
    values = errors.to_numpy(dtype=float, na_value=math.nan)
    return pd.Series(np.isfinite(values) & (values >= 0), index=errors.index)


def _codes_and_levels(baselines: pd.DataFrame | None) -> tuple[pd.DataFrame, dict[str, float]]:
    """Linear codes by size, and the levels; no level where there is nothing to code: pictures
    without colour leave no error to colourisation, and a logarithmic axis has no place for it."""
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
        if val_mse > EXACT
    }


def _window(data: LatentError) -> tuple[float, float, float, float]:
    """Lowest and highest error, smallest and largest latent size to show.

    The trials say which sizes; linear codes run on to both sides, down to no error at all.
    """
    sizes, errors = data.points["latent_size"], data.points["val_mse"]
    near = data.linear[data.linear["latent_size"].between(sizes.min(), sizes.max())]
    shown = [*errors, *near["val_mse"], *data.levels.values()]
    low = max(min(shown), min(errors) / 10) / 1.3
    high = max(max(shown) * 1.3, low * 3)
    if data.levels:  # room for their label
        label = (high / low) ** (0.07 * len(data.levels))
        high = max(high, max(data.levels.values()) * label)
    return low, high, min(sizes) / 1.7, max(sizes) * 1.7


def ended(trials: pd.DataFrame) -> pd.DataFrame:
    """The trials that ended with an error, complete or stopped early; 0 is an error, too."""
    return trials[trials["state"].isin([COMPLETE, PRUNED]) & measured(trials["val_mse"])]


def distinct(trials: pd.DataFrame) -> pd.DataFrame:
    """Select the first trial of each configuration that ended with an error.

    Another seed of a configuration repeats it; it is no further evidence about its settings.
    """
    return ended(trials).sort_values("trial_number").drop_duplicates("config")


def log_chance_of_all(n: int, n_marked: int, n_drawn: int) -> float:
    """Compute the log probability that `n_drawn` of `n` trials, drawn at random, are all marked."""
    if n_drawn > n_marked:
        return -math.inf
    return math.fsum(math.log((n_marked - i) / (n - i)) for i in range(n_drawn))


def _draw_trials(
    figure: go.Figure,
    trials: pd.DataFrame,
    front: pd.DataFrame,
    cost: str,
    hover: Callable[[dict[Hashable, Any]], str],
) -> None:
    """Each trial's error over its `cost`, and a line through those of the frontier."""
    figure.add_scatter(
        x=front[cost].tolist(),
        y=front["val_mse"].tolist(),
        customdata=front["trial_number"].astype(int).tolist(),
        name="frontier",
        mode="lines",
        line={"color": ORANGE, "width": 2},
        hoverinfo="skip",
    )
    for state, name, marker in (
        (PRUNED, "stopped early", {"color": GREY, "symbol": "circle-open", "size": 7}),
        (COMPLETE, "complete", {"color": BLUE, "size": 8}),
    ):
        shown = trials[trials["state"] == state]
        if not shown.empty:
            figure.add_scatter(
                x=shown[cost].tolist(),
                y=shown["val_mse"].tolist(),
                name=name,
                mode="markers",
                marker=marker,
                customdata=shown["trial_number"].astype(int).tolist(),
                hovertext=[hover(trial) for trial in shown.to_dict("records")],
                hoverinfo="text",
            )


def _draw_seeds(figure: go.Figure, seeds: pd.DataFrame) -> None:
    """A bar from the least to the greatest error of a configuration that ran with several seeds."""
    if seeds.empty:
        return
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
            f"{row['n']} seeds: {error(row['mean'])}, {error(row['low'])} to {error(row['high'])}"
            for row in seeds.to_dict("records")
        ],
        hoverinfo="text",
    )


def _draw_levels(figure: go.Figure, levels: dict[str, float]) -> None:
    """Dotted lines across, highest first. Lines too close for a label each share one above them,
    which names them in the order in which they lie."""
    label: list[str] = []
    above = math.inf
    for baseline, val_mse in sorted(levels.items(), key=lambda level: -level[1]):
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
        label.append(canvas.plain(baseline_name(baseline)))
        figure.layout.annotations[-1].text = "<br>".join(label)


def _hover(point: dict[Hashable, Any]) -> str:
    name = "" if pd.isna(point["point"]) else f", point {point['point']}"
    network = textwrap.wrap(str(point["network"]), 56, break_long_words=False)
    lines = [
        f"trial {point['trial_number']}{name}: {error(point['val_mse'])}",
        f"latent size {point['latent_size']:,}",
        f"{point['optimizer']}, lr {point['lr']:.3g}, batch {point['batch_size']}",
        *network,
    ]
    return "<br>".join(map(canvas.plain, lines))


def _gapped(
    curves: pd.DataFrame,
) -> tuple[list[int | None], list[float | None], list[str | None]]:
    """Many curves as one line with gaps, so that the legend has one entry for them."""
    x: list[int | None] = []
    y: list[float | None] = []
    texts: list[str | None] = []
    for number, curve in curves.groupby("trial_number"):
        x += [*curve["epoch"].tolist(), None]
        y += [*curve["val_mse"].tolist(), None]
        rows = zip(curve["epoch"], curve["val_mse"], strict=True)
        texts += [*(f"trial {number}, epoch {e}: {error(v)}" for e, v in rows), None]
    return x, y, texts


@dataclass(frozen=True)
class Spread:
    """`rows`: `experiment`, `latent_size`, `mean`, `low`, `high` of the test error over seeds, best
    first; `each`, the errors of the seeds; `baseline`, the error of the linear code of at most its
    latent size, or where nothing is coded the least of the levels (NaN: none). `linear`:
    `latent_size`, `error` of the best linear code of at most that size. `levels`: the error of each
    baseline without a latent."""

    rows: pd.DataFrame
    linear: pd.DataFrame
    levels: dict[str, float]

    @property
    def baseline_name(self) -> str:
        if self.linear.empty:
            return baseline_name(min(self.levels, key=self.levels.__getitem__, default=""))
        return "linear code"


def spread(found: pd.DataFrame, baselines: pd.DataFrame | None) -> Spread:
    """Test errors by experiment. `found` as `claims.runs` gives it; `baselines` as `results` reads
    them, of the same images."""
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
    codes, levels = _codes_and_levels(baselines)
    best = codes.groupby("latent_size")["val_mse"].min().cummin()
    linear = pd.DataFrame({"latent_size": best.index, "error": best.to_numpy(float)})
    rows["baseline"] = [_baseline(size, linear, levels) for size in rows["latent_size"]]
    return Spread(rows, linear[linear["error"] > EXACT], levels)


def _baseline(latent_size: int, linear: pd.DataFrame, levels: dict[str, float]) -> float:
    if linear.empty:
        return min(levels.values(), default=math.nan)
    codes = linear.loc[linear["latent_size"] <= latent_size, "error"]
    return math.nan if codes.empty else float(codes.iloc[-1])


def spread_figure(data: Spread) -> go.Figure:
    """One line an experiment, from the least to the greatest of its seeds, the mean marked. Needs
    at least one."""
    figure = canvas.figure("test error, MSE", "")
    rows = data.rows[::-1]  # plotly begins at the bottom
    names = [canvas.plain(name) for name in rows["experiment"]]
    figure.add_scatter(
        x=[error for each in rows["each"] for error in each],
        y=[name for name, each in zip(names, rows["each"], strict=True) for _ in each],
        name="one seed",
        mode="markers",
        marker={"color": BLUE, "size": 6, "symbol": "circle-open"},
        hovertemplate="%{y}: %{x:.5f}<extra></extra>",
    )
    figure.add_scatter(
        x=rows["mean"].tolist(),
        y=names,
        name="mean over seeds",
        mode="markers",
        marker={"color": ORANGE, "size": 10, "symbol": "line-ns-open", "line": {"width": 3}},
        hovertemplate="%{y}: mean %{x:.5f}<extra></extra>",
    )
    low = min([*rows["low"], *data.levels.values()]) / 1.15
    linear = rows[rows["baseline"].notna()] if len(data.linear) else rows[:0]
    if len(linear):
        figure.add_scatter(
            x=linear["baseline"].clip(lower=low).tolist(),
            y=[canvas.plain(name) for name in linear["experiment"]],
            name="linear code of its latent size; at the edge: far below",
            mode="markers",
            marker={"color": VIOLET, "size": 8, "symbol": "triangle-left"},
            hovertext=[f"linear code: {error(value)}" for value in linear["baseline"]],
            hoverinfo="text",
        )
    shown = [*rows["high"], *data.levels.values(), *linear["baseline"]]
    for baseline, level in data.levels.items():
        if level > 3 * rows["high"].max():
            shown.remove(level)  # far away; it would flatten the rest
            continue
        figure.add_vline(
            x=level,
            line={"color": GREY, "width": 1.5, "dash": "dot"},
            annotation={
                "text": canvas.plain(baseline_name(baseline)),
                "x": math.log10(level),  # plotly wants it so on a logarithmic axis
                "textangle": -90,
                "yanchor": "bottom",
                "y": 0,
                "xanchor": "right",
                "font": {"size": 12, "color": GREY},
            },
        )
    high = max(shown) * 1.15
    figure.update_xaxes(canvas.log_axis(low, high))
    figure.update_yaxes(showgrid=True, ticks="", ticksuffix="  ")
    return figure


def latent_spread_figure(data: Spread) -> go.Figure:
    """Latent size against test error, both logarithmic, linear codes beside it."""
    figure = canvas.figure("latent size, numbers per image", "test error, MSE")
    rows = data.rows
    sizes = rows["latent_size"].astype(int)
    near = data.linear[data.linear["latent_size"].between(sizes.min() / 2, sizes.max() * 2)]
    if not near.empty:
        figure.add_scatter(
            x=near["latent_size"].tolist(),
            y=near["error"].tolist(),
            name="best linear code of at most this size",
            mode="lines",
            line={"color": VIOLET, "width": 1.5},
            hovertemplate="%{x:,} numbers: %{y:.4g}<extra></extra>",
        )
    figure.add_scatter(
        x=sizes.tolist(),
        y=rows["mean"].tolist(),
        error_y={
            "type": "data",
            "array": (rows["high"] - rows["mean"]).tolist(),
            "arrayminus": (rows["mean"] - rows["low"]).tolist(),
            "color": BLUE,
            "thickness": 1,
            "width": 3,
        },
        name="experiment: mean, least and greatest of its seeds",
        mode="markers",
        marker={"color": BLUE, "size": 8},
        hovertext=[
            canvas.plain(f"{name}: {error(mean)}")
            for name, mean in zip(rows["experiment"], rows["mean"], strict=True)
        ],
        hoverinfo="text",
    )
    low = max(min([*rows["low"], *near["error"]]), rows["low"].min() / 30) / 1.3
    high = rows["high"].max() * 1.3
    x_low, x_high = sizes.min() / 1.7, sizes.max() * 1.7
    powers = canvas.powers_of_two(x_low, x_high)
    figure.update_xaxes(canvas.log_axis(x_low, x_high, powers, "{:,}"))
    figure.update_yaxes(canvas.log_axis(low, high))
    return figure


CURVES = {
    "train_mse": ("training", GREY),
    "val_mse": ("validation", BLUE),
    "test_mse": ("test", ORANGE),
}


def three_curves(epochs: pd.DataFrame) -> pd.DataFrame:
    """Mean over seeds of the three errors by `point` and `epoch`, of the epochs that all the
    point's seeds have reached."""
    grouped = epochs.groupby(["point", "epoch"])
    mean = grouped[list(CURVES)].mean().astype(float)
    n = grouped["seed"].nunique()
    return mean[n == n.groupby("point").transform("max")].reset_index()


def three_curves_figure(curves: pd.DataFrame, data: Spread, columns: int = 4) -> go.Figure:
    """A small panel for each experiment, best first, all on the same axes, beside its baseline: the
    linear code of its latent size, or the least of what needs no latent."""
    order = data.rows["experiment"].tolist()
    n_rows = math.ceil(len(order) / columns)
    baseline = dict(zip(order, data.rows["baseline"], strict=True))
    titles = [
        canvas.plain(name) + ("" if math.isnan(b) else f"<br>{data.baseline_name}: {error(b)}")
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
    plain = canvas.figure("", "").layout
    figure.update_layout(template="none", legend=plain.legend)
    for name in ("paper_bgcolor", "plot_bgcolor", "font", "margin", "hoverlabel", "hovermode"):
        figure.layout[name] = plain[name]
    figure.update_layout(dragmode=False, legend_y=1.04)
    shown = curves[list(CURVES)].to_numpy(float)
    low, high = np.nanmin(shown) / 1.1, np.nanmax(shown) * 1.1
    for i, point in enumerate(order):
        curve = curves[curves["point"] == point]
        place = {"row": i // columns + 1, "col": i % columns + 1}
        for column, (name, colour) in CURVES.items():
            figure.add_scatter(
                x=curve["epoch"].tolist(),
                y=curve[column].tolist(),
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
    figure.update_yaxes(canvas.log_axis(low, high) | axis)
    last = int(curves["epoch"].max())
    figure.update_xaxes(
        axis | {"dtick": 1 if last <= 6 else None, "range": [0.7, last + 0.3], "tickformat": "d"}
    )
    figure.update_annotations(font={"size": 12, "color": GREY})
    return figure
