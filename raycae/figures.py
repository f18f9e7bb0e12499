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
from scipy.special import gammaln

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
    "linear": "PCA, whole image",
    "linear_4x4": "PCA, 4 × 4 blocks",
    "linear_8x8": "PCA, 8 × 8 blocks",
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
        on = frontier_of(rows.to_dict("records"))  # type: ignore[arg-type]
        rows = self.points[self.points["trial_number"].map(on).astype(bool)]
        rows = rows.sort_values(["latent_size", "trial_number"])
        return rows.drop_duplicates("latent_size")

    def best_linear(self, latent_size: int) -> Code | None:
        """The PCA baseline with the least error among those of at most `latent_size` numbers."""
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
    on = [data.frontier, data.psnr_frontier] if "val_psnr_db" in points else [data.frontier]
    points = pd.concat([points, *on]).drop_duplicates("trial_number")
    zero = canvas.floor(_zero_of(data))
    _draw_trials(figure, points, data.frontier, "latent_size", _hover, zero)
    _draw_seeds(figure, thinned(data.seeds.sort_values("mean"), most // 5))
    _draw_levels(figure, data.levels, zero)
    sizes = canvas.powers_of_two(x_low, x_high)
    figure.update_xaxes(canvas.log_axis(x_low, x_high, sizes, "{:,}"))
    figure.update_yaxes(canvas.error_log_axis(low, high, _zero_of(data)))
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


def wider_is_better(trials: pd.DataFrame) -> Shapes:
    """Compare shapes of the latent at each latent size.

    If shapes do not matter each configuration of a latent size is equally likely to be its best, so
    the widest shape wins with its share of the configurations, at each size by itself.
    """
    n_wider, n_tied, chances = 0, 0, []
    for _, rows in distinct(trials).groupby("latent_size"):
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


def side_figure(trials: pd.DataFrame, side: str, most: int = 600) -> go.Figure:
    """Error against one of `SIDES`, both axes logarithmic, with a line through the least error at
    each. Needs one trial that ended with an error."""
    ranked = ranking(ended(trials))
    least = ranked.drop_duplicates(side).sort_values(side)
    figure = canvas.figure(SIDES[side], "validation error, MSE")

    def hover(row: dict[Hashable, Any]) -> str:
        shape = f"{row['latent_channels']} × {row['latent_height']} × {row['latent_width']}"
        return f"trial {row['trial_number']}: {error(row['val_mse'])}<br>latent {shape}"

    errors = ranked["val_mse"].astype(float).tolist()
    zero, top = canvas.floor(errors), canvas.ceiling(errors)
    _draw_trials(figure, thinned(ranked, most), least, side, hover, zero, top)
    figure.data[0].name = "least error"
    figure.update_yaxes(canvas.error_axis(errors))
    low, high = float(ranked[side].min()) / 1.3, float(ranked[side].max()) * 1.3
    figure.update_xaxes(canvas.log_axis(low, high, canvas.powers_of_two(low, high), "{:,}"))
    return figure


@dataclass(frozen=True)
class Growth:
    """How a frontier grew: `steps`: `cost` and `error` of each trial, in the order in which they
    ended, and `height`, the hypervolume until then: the mean over costs from `low` to `high` of how
    many decades the least error lies below `worst`. `line`: the same of PCA, where the
    cost is the latent size and there are any."""

    steps: pd.DataFrame
    low: float
    high: float
    worst: float
    line: float | None


def growth(trials: pd.DataFrame, latent: LatentError, cost: str) -> Growth | None:
    """From the smallest cost of any trial to twice the largest, so that each counts. `worst` is the
    error of doing nothing, where that is known and not zero; else that of the worst trial. None
    where no trial has ended with an error above zero."""
    rows = ended(trials).sort_values(["ended_at", "trial_number"])
    if rows.empty:
        return None
    steps = pd.DataFrame({"cost": rows[cost].astype(float), "error": rows["val_mse"].astype(float)})
    steps = steps.reset_index(drop=True)
    worst = max(latent.levels.values(), default=0.0)
    if worst <= EXACT:
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
        heights.append(hypervolume(front, low, high, worst))
    line = None
    codes = latent.linear[latent.linear["val_mse"] > EXACT]
    if cost == "latent_size" and not codes.empty:
        sizes = zip(codes["latent_size"].tolist(), codes["val_mse"].tolist(), strict=True)
        line = hypervolume(sizes, low, high, worst)
    return Growth(steps.assign(height=heights), low, high, worst, line)


def growth_figure(data: Growth) -> go.Figure:
    """The hypervolume after each trial."""
    figure = canvas.figure("trials that ended", "mean height of the Pareto front, decades")
    places = list(range(1, len(data.steps) + 1))
    figure.add_scatter(
        x=places,
        y=data.steps["height"].tolist(),
        name="Pareto front",
        mode="lines",
        line={"color": ORANGE, "width": 2, "shape": "hv"},
        hovertemplate="%{x} trials: %{y:.3f}<extra></extra>",
    )
    if data.line is not None:
        figure.add_scatter(
            x=[1, len(places)],
            y=[data.line] * 2,
            name="PCA",
            mode="lines",
            line={"color": VIOLET, "width": 1.5},
            hovertemplate="PCA: %{y:.3f}<extra></extra>",
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

    errors = rows["val_mse"].astype(float).tolist()
    zero = canvas.floor(errors)
    _draw_trials(figure, rows, cost_frontier(rows, cost), cost, hover, zero)
    drawn = canvas.lifted(errors, zero)
    figure.update_yaxes(canvas.error_log_axis(min(drawn) / 1.2, max(drawn) * 1.2, errors))
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
    errors = steps.loc[shown, "val_mse"].astype(float).tolist()
    zero = canvas.floor(errors)
    figure.add_scatter(
        x=places[held].tolist(),
        y=canvas.lifted(steps.loc[held, "best"], zero),
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
                y=canvas.lifted(steps.loc[chosen, "val_mse"], zero),
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
    low = min(canvas.lifted(errors, zero)) / 1.1
    high = max(min(max(errors) * 1.1, 1.0), 1.5 * low)
    figure.update_yaxes(canvas.error_log_axis(low, high, errors))
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
    errors = data.curves["val_mse"].tolist()
    curves = data.curves.assign(drawn=canvas.lifted(errors, canvas.floor(errors)))
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
    low, high = curves["drawn"].min() / 1.15, min(curves["drawn"].max() * 1.15, 1.0)
    high = max(high, 2 * low)
    figure.update_yaxes(canvas.error_log_axis(low, high, errors))
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


def _window(data: LatentError) -> tuple[float, float, float, float]:
    """Lowest and highest error, smallest and largest latent size to show.

    The trials say which sizes; PCA runs on to both sides, down to no error at all.
    """
    sizes = data.points["latent_size"]
    zero = canvas.floor(_zero_of(data))
    errors = canvas.lifted(data.points["val_mse"], zero)
    near = data.linear[data.linear["latent_size"].between(sizes.min(), sizes.max())]
    near = near[near["val_mse"] > EXACT]
    shown = [*errors, *near["val_mse"], *canvas.lifted(data.levels.values(), zero)]
    low = max(min(shown), min(errors) / 10) / 1.3
    high = max(max(shown) * 1.3, low * 3)
    if data.levels:  # room for their label
        label = (high / low) ** (0.07 * len(data.levels))
        high = max(high, max(canvas.lifted(data.levels.values(), zero)) * label)
    return low, high, min(sizes) / 1.7, max(sizes) * 1.7


def _zero_of(data: LatentError) -> list[float]:
    """Return the errors that say where zero is drawn: those of the trials and the levels."""
    return [*data.points["val_mse"].tolist(), *data.levels.values()]


def ended(trials: pd.DataFrame) -> pd.DataFrame:
    """The trials that ended with an error, complete or stopped early; 0 is an error, too."""
    return trials[trials["state"].isin([COMPLETE, PRUNED]) & measured(trials["val_mse"])]


def distinct(trials: pd.DataFrame) -> pd.DataFrame:
    """Select the first trial of each configuration that ended with an error.

    Another seed of a configuration repeats it; it is no further evidence about its settings.
    """
    return ended(trials).sort_values("trial_number").drop_duplicates("config")


def chance_of_marked(n: int, n_marked: int, n_drawn: int, at_least: int) -> float:
    """Compute the probability that at least `at_least` of `n_drawn` trials, drawn at random from
    `n`, are among the `n_marked` (the upper tail of the hypergeometric distribution)."""
    low, high = max(at_least, n_drawn - (n - n_marked)), min(n_marked, n_drawn)
    k = np.arange(low, high + 1)
    logs = _log_choose(n_marked, k) + _log_choose(n - n_marked, n_drawn - k)
    return min(1.0, float(np.exp(logs - _log_choose(n, n_drawn)).sum()))


def _log_choose(n: int, k: Any) -> Any:
    return gammaln(n + 1) - gammaln(k + 1) - gammaln(n - k + 1)


def _draw_trials(
    figure: go.Figure,
    trials: pd.DataFrame,
    front: pd.DataFrame,
    cost: str,
    hover: Callable[[dict[Hashable, Any]], str],
    zero: float,
    top: float = math.inf,
) -> None:
    """Draw each trial's error over its `cost`, what is zero at `zero`, at most at `top`, and a line
    through `front`."""
    figure.add_scatter(
        x=front[cost].tolist(),
        y=canvas.lifted(front["val_mse"], zero),
        customdata=front["trial_number"].astype(int).tolist(),
        name="Pareto front",
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
                y=[min(y, top) for y in canvas.lifted(shown["val_mse"], zero)],
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
            f"{row['n']} seeds: {error(row['mean'])}, {error(row['low'])} to {error(row['high'])}"
            for row in seeds.to_dict("records")
        ],
        hoverinfo="text",
    )


def _draw_levels(figure: go.Figure, levels: dict[str, float], zero: float) -> None:
    """Draw dotted lines across, highest first, what is zero at `zero`. Lines too close for a label
    each share one above them, which names them in the order in which they lie."""
    label: list[str] = []
    above = math.inf
    drawn = zip(levels, canvas.lifted(levels.values(), zero), strict=True)
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
        y += [*curve["drawn"].tolist(), None]
        rows = zip(curve["epoch"], curve["val_mse"], strict=True)
        texts += [*(f"trial {number}, epoch {e}: {error(v)}" for e, v in rows), None]
    return x, y, texts


@dataclass(frozen=True)
class Spread:
    """`rows`: `experiment`, `latent_size`, `mean`, `low`, `high` of the test error over seeds, best
    first; `each`, the errors of the seeds; `baseline`, the error of PCA of at most its
    latent size, or where nothing is coded the least of the levels (NaN: none). `linear`:
    `latent_size`, `error` of the best PCA of at most that size. `levels`: the error of each
    baseline without a latent."""

    rows: pd.DataFrame
    linear: pd.DataFrame
    levels: dict[str, float]

    @property
    def baseline_name(self) -> str:
        if self.linear.empty:
            return baseline_name(min(self.levels, key=self.levels.__getitem__, default=""))
        return "PCA"


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
    errors = [*(error for each in rows["each"] for error in each), *data.levels.values()]
    zero = canvas.floor(errors)
    levels = dict(zip(data.levels, canvas.lifted(data.levels.values(), zero), strict=True))
    figure.add_scatter(
        x=canvas.lifted((error for each in rows["each"] for error in each), zero),
        y=[name for name, each in zip(names, rows["each"], strict=True) for _ in each],
        name="one seed",
        mode="markers",
        marker={"color": BLUE, "size": 6, "symbol": "circle-open"},
        hovertemplate="%{y}: %{x:.5f}<extra></extra>",
    )
    figure.add_scatter(
        x=canvas.lifted(rows["mean"], zero),
        y=names,
        name="mean over seeds",
        mode="markers",
        marker={"color": ORANGE, "size": 10, "symbol": "line-ns-open", "line": {"width": 3}},
        hovertemplate="%{y}: mean %{x:.5f}<extra></extra>",
    )
    low = min(canvas.lifted([*rows["low"], *data.levels.values()], zero)) / 1.15
    linear = rows[rows["baseline"].notna()] if len(data.linear) else rows[:0]
    if len(linear):
        figure.add_scatter(
            x=linear["baseline"].clip(lower=low).tolist(),
            y=[canvas.plain(name) for name in linear["experiment"]],
            name="PCA of its latent size; at the edge: far below",
            mode="markers",
            marker={"color": VIOLET, "size": 8, "symbol": "triangle-left"},
            hovertext=[f"PCA: {error(value)}" for value in linear["baseline"]],
            hoverinfo="text",
        )
    shown = [*canvas.lifted(rows["high"], zero), *levels.values(), *linear["baseline"]]
    for baseline, level in levels.items():
        if level > 3 * max(canvas.lifted(rows["high"], zero)):
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
    figure.update_xaxes(canvas.error_log_axis(low, high, errors))
    figure.update_yaxes(showgrid=True, ticks="", ticksuffix="  ")
    return figure


def latent_spread_figure(data: Spread) -> go.Figure:
    """Latent size against test error, both logarithmic, PCA beside it."""
    figure = canvas.figure("latent size, numbers per image", "test error, MSE")
    rows = data.rows
    sizes = rows["latent_size"].astype(int)
    errors = [error for each in rows["each"] for error in each]
    zero = canvas.floor(errors)
    near = data.linear[data.linear["latent_size"].between(sizes.min() / 2, sizes.max() * 2)]
    if not near.empty:
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
        y=canvas.lifted(rows["mean"], zero),
        error_y={
            "type": "data",
            "array": (rows["high"] - rows["mean"]).tolist(),
            "arrayminus": (rows["mean"] - rows["low"]).where(rows["low"] > EXACT, 0).tolist(),
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
    lows = canvas.lifted(rows["low"], zero)
    low = max(min([*lows, *near["error"]]), min(lows) / 30) / 1.3
    high = max(canvas.lifted(rows["high"], zero)) * 1.3
    x_low, x_high = sizes.min() / 1.7, sizes.max() * 1.7
    powers = canvas.powers_of_two(x_low, x_high)
    figure.update_xaxes(canvas.log_axis(x_low, x_high, powers, "{:,}"))
    figure.update_yaxes(canvas.error_log_axis(low, high, errors))
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
    PCA of its latent size, or the least of what needs no latent."""
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
    errors = [x for x in curves[list(CURVES)].to_numpy(float).ravel().tolist() if x == x]
    zero = canvas.floor(errors)
    low, high = min(canvas.lifted(errors, zero)) / 1.1, max(canvas.lifted(errors, zero)) * 1.1
    for i, point in enumerate(order):
        curve = curves[curves["point"] == point]
        place = {"row": i // columns + 1, "col": i % columns + 1}
        for column, (name, colour) in CURVES.items():
            figure.add_scatter(
                x=curve["epoch"].tolist(),
                y=canvas.lifted(curve[column], zero),
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
    figure.update_yaxes(canvas.error_log_axis(low, high, errors) | axis)
    last = int(curves["epoch"].max())
    figure.update_xaxes(
        axis | {"dtick": 1 if last <= 6 else None, "range": [0.7, last + 0.3], "tickformat": "d"}
    )
    figure.update_annotations(font={"size": 12, "color": GREY})
    return figure
