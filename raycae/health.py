"""How a search went: what failed and where, at which edges the best trials lie, what ran twice, how
busy the workers were, and what each improvement cost.

Numbers first, figures second, as in `figures`.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from raycae import canvas
from raycae.canvas import BLUE, EXACT, ORANGE, counted, error, errors_apart, listed
from raycae.config import resolve
from raycae.effects import Parameters, best_drawn, parts, position, span, word
from raycae.errors import InputError
from raycae.figures import LEVEL, chance_of_marked, distinct, ended, ranking
from raycae.results import COMPLETE, FAIL, RUNNING
from raycae.space import CategoricalParameter, FloatParameter, IntParameter

EDGE = 0.1
"""The part of a range that counts as its edge, on the scale that the sampler draws on."""

FEWEST_FAILED = 3
"""Trials of a region, below which a share of failures is chance."""


def failures(trials: pd.DataFrame) -> pd.DataFrame:
    """`reason` and `n` of the trials that failed, the commonest first. Reasons that differ in their
    numbers alone are one, with the first one's numbers."""
    failed = trials.loc[trials["state"] == FAIL, "reason"].fillna("no reason is known").astype(str)
    alike = failed.map(lambda reason: re.sub(r"\d[\d.,e+-]*", "#", reason.partition("\n")[0]))
    counts = failed.groupby(alike.to_numpy()).agg(["first", "size"])
    return counts.rename(columns={"first": "reason", "size": "n"}).sort_values(
        ["n", "reason"], ascending=[False, True], ignore_index=True
    )


def regions(trials: pd.DataFrame, parameters: Parameters) -> pd.DataFrame:
    """Find where trials fail more often than elsewhere.

    A region is a choice, or a third of a range. It counts where at least `FEWEST_FAILED` failed, at
    twice the rate of all trials, and where that is unlikely to be chance: by the hypergeometric
    distribution, all regions together have a probability of at most `LEVEL`.

    Args:
        trials: Trials in any state; running ones are left out.
        parameters: What was searched.

    Returns:
        `region` in words, `failed` and `n` (trials there), the commonest `reason`; the greatest
        share first.
    """
    over = trials[trials["state"] != RUNNING]
    has_failed = over["state"].eq(FAIL)
    looked_at = []
    for name, parameter in parameters.items():
        there = parts(over, name, parameter)
        counts = has_failed.loc[there.index].groupby(there).agg(["sum", "size"])
        looked_at += [(there, region, int(f), int(n)) for region, f, n in counts.itertuples()]
    found = []
    for there, region, failed, n in looked_at:
        often = failed >= FEWEST_FAILED and failed / n >= 2 * has_failed.mean()
        chance = chance_of_marked(len(over), int(has_failed.sum()), n, failed)
        if often and chance <= LEVEL / len(looked_at):
            reasons = failures(over.loc[there.index[there == region]])
            found.append((region, failed, n, reasons["reason"].iloc[0]))
    found.sort(key=lambda row: row[1] / row[2], reverse=True)  # ties as the parameters come
    return pd.DataFrame(found, columns=["region", "failed", "n", "reason"])


def edges(trials: pd.DataFrame, parameters: Parameters) -> pd.DataFrame:
    """Find ranges at whose edge the best trials lie.

    The edge is the outermost tenth of a range, and its last value. Under chance the best tenth is a
    random choice of the configurations that drew the parameter; an edge counts where more than half
    of them lie there and that is unlikely to be chance: by the hypergeometric distribution, all
    edges together have a probability of at most `LEVEL`. Only where the setting allows more.

    Args:
        trials: Trials in any state.
        parameters: What was searched.

    Returns:
        `parameter`, `end` (`above`, `below`), `limit` (the end itself), `n_edge` of the best `n`
        configurations that drew it lie at the edge, at the values `where`.
    """
    found, n_tested = [], 0
    ranked = ranking(distinct(trials))
    for name, parameter in parameters.items():
        if isinstance(parameter, CategoricalParameter):
            continue
        drawn, best = best_drawn(ranked, name, parameter)
        at = drawn.map(lambda value, p=parameter: position(value, p)).astype(float)
        for end, limit, near in (
            ("below", parameter.low, at <= EDGE),
            ("above", parameter.high, at >= 1 - EDGE),
        ):
            if best.empty or not _can_be_wider(name, parameter, end):
                continue
            n_tested += 1
            at_edge = best[near[best.index]]
            chance = chance_of_marked(len(drawn), int(near.sum()), len(best), len(at_edge))
            if len(at_edge) > len(best) / 2:
                row = (name, end, limit, len(at_edge), len(best), span(at_edge, parameter))
                found.append((*row, chance))
    columns = ["parameter", "end", "limit", "n_edge", "n", "where", "p"]
    frame = pd.DataFrame(found, columns=columns)
    return frame[frame["p"] <= LEVEL / max(n_tested, 1)].drop(columns="p").reset_index(drop=True)


def _can_be_wider(name: str, parameter: FloatParameter | IntParameter, end: str) -> bool:
    """Whether the setting takes values beyond this end of what is searched."""
    setting, _, stage = name.rpartition("_")
    step = 1 if isinstance(parameter, IntParameter) else 1e-3 * (parameter.high - parameter.low)
    if isinstance(parameter, FloatParameter) and parameter.log and end == "below":
        step = parameter.low / 2
    beyond = parameter.high + step if end == "above" else parameter.low - step
    try:
        resolve({setting if stage.isdigit() else name: beyond})
    except InputError:
        return False
    return True


def duplicates(trials: pd.DataFrame) -> tuple[int, int]:
    """How many trials repeat the configuration of an earlier one: with its seed, with another."""
    again = trials.duplicated(["config"])
    same = trials.duplicated(["config", "seed"])
    return int(same.sum()), int((again & ~same).sum())


@dataclass(frozen=True)
class Workers:
    """How many trials ran at a time. `steps`: `hours` since the first trial began, and `running`
    from then on. `busy_hours`: what trials spent in epochs, together; `mean`: how many ran on
    average while any did; `most`: at most."""

    steps: pd.DataFrame
    busy_hours: float
    mean: float
    most: int


def workers(trials: pd.DataFrame, most: int = 600) -> Workers | None:
    """From when each trial began and ended; at most `most` steps, each the mean of its time. None
    where no trial that began has ended. What has not ended counts until the last time that is known
    of any trial. Where a search was interrupted, its trials count as running until they ended."""
    ran = trials.dropna(subset=["started_at"])
    if ran["ended_at"].isna().all():
        return None
    ends = ran["ended_at"].fillna(max(ran["started_at"].max(), ran["ended_at"].max()))
    times = pd.concat([ran["started_at"], ends], ignore_index=True)
    changes = pd.DataFrame({"hours": _hours(times, times.min())})
    changes["by"] = np.repeat([1, -1], len(ran))
    running = changes.groupby("hours")["by"].sum().cumsum()
    hours, n = running.index.to_numpy(float), running.to_numpy(float)
    spans = np.diff(hours)
    with_any = spans[n[:-1] > 0].sum()
    mean = float((spans * n[:-1]).sum() / with_any) if with_any else float(n.max())
    steps = pd.DataFrame({"hours": hours, "running": n})
    if len(steps) > most:
        area = np.concatenate([[0.0], np.cumsum(spans * n[:-1])])
        at = np.linspace(0, hours[-1], most + 1)
        means = np.diff(np.interp(at, hours, area)) / np.diff(at)
        steps = pd.DataFrame({"hours": at, "running": [*means, 0.0]})
    busy = float(ran["wall_time_s"].fillna(0).sum()) / 3600
    return Workers(steps, busy, mean, int(n.max()))


def workers_figure(data: Workers) -> go.Figure:
    """How many trials ran, over the hours."""
    figure = canvas.figure("hours since the first trial began", "trials running")
    figure.add_scatter(
        x=data.steps["hours"].tolist(),
        y=data.steps["running"].tolist(),
        mode="lines",
        line={"color": BLUE, "width": 1.5, "shape": "hv"},
        fill="tozeroy",
        fillcolor="rgba(59, 130, 196, 0.2)",
        hovertemplate="%{x:.2f} h: %{y:.3g} running<extra></extra>",
        showlegend=False,
    )
    return figure.update_yaxes(rangemode="tozero")


def improvements(trials: pd.DataFrame) -> pd.DataFrame:
    """The complete trials that were better than all before them, in the order in which they ended.

    `trial_number`, `val_mse`, `n` (the trials that had ended by then, this one included), `hours`
    since the first trial began, `spent_s` (what all trials that had ended by then spent in epochs,
    in seconds of a worker: a GPU or its part, or a core), `cost_s` (of that since the improvement
    before), `gain` (the part of the error that it took off; NaN for the first). The last row's
    `n` need not be the last trial's.
    """
    rows = trials.dropna(subset=["ended_at"]).sort_values(["ended_at", "trial_number"])
    rows = rows.assign(
        n=range(1, len(rows) + 1),
        hours=_hours(rows["ended_at"], trials["started_at"].min()),
        spent_s=rows["wall_time_s"].astype(float).fillna(0).cumsum(),
    )
    scored = rows[rows["state"].eq(COMPLETE) & rows.index.isin(ended(rows).index)]
    errors = scored["val_mse"].astype(float)
    better = scored[errors < errors.cummin().shift(fill_value=math.inf)]
    better = better.assign(
        val_mse=better["val_mse"].astype(float),
        cost_s=better["spent_s"].diff().fillna(better["spent_s"]),
        gain=-better["val_mse"].astype(float).pct_change(),
    )
    names = ["trial_number", "val_mse", "n", "hours", "spent_s", "cost_s", "gain"]
    return better[names].reset_index(drop=True)


def seed_spread(trials: pd.DataFrame) -> float:
    """Estimate how far two complete runs of one configuration with other seeds lie apart.

    Returns:
        The standard deviation of the difference of two log errors, pooled over all configurations
        that are complete with several seeds and have an error above zero; NaN where there is none.
    """
    rows = ended(trials)
    rows = rows[(rows["state"] == COMPLETE) & (rows["val_mse"] > EXACT)]
    rows = rows.drop_duplicates(["config", "seed"])
    logs = rows["val_mse"].astype(float).map(math.log).groupby(rows["config"])
    n_free = int((logs.size() - 1).sum())
    if not n_free:
        return math.nan
    squares = float(((logs.size() - 1) * logs.var().fillna(0)).sum())
    return math.sqrt(2 * squares / n_free)


def best_so_far_figure(data: pd.DataFrame, over: str, end: float) -> go.Figure:
    """The least error so far, over `n` or `hours` of `improvements`, to `end`. Needs one row."""
    titles = {"n": "trials that ended", "hours": "hours since the first trial began"}
    figure = canvas.figure(titles[over], "least validation error, MSE")
    texts = [
        f"trial {number}: {error(val_mse)}"
        for number, val_mse in zip(data["trial_number"], data["val_mse"], strict=True)
    ]
    errors = data["val_mse"].tolist()
    drawn = canvas.lifted(errors, canvas.floor(errors))
    figure.add_scatter(
        x=[*data[over].tolist(), end],
        y=[*drawn, drawn[-1]],
        customdata=[*data["trial_number"].astype(int).tolist(), None],
        mode="lines+markers",
        line={"color": ORANGE, "width": 2, "shape": "hv"},
        marker={"size": [7] * len(data) + [0]},
        hovertext=[*map(canvas.plain, texts), ""],
        hoverinfo="text",
        showlegend=False,
    )
    low, high = min(drawn) / 1.1, max(drawn) * 1.1
    high = max(min(high, 1.0), 1.5 * low)
    return figure.update_yaxes(canvas.error_log_axis(low, high, errors))


def _hours(times: pd.Series[Any], since: Any) -> pd.Series[float]:
    return (times - since).dt.total_seconds().astype(float) / 3600


def improvements_sentence(data: pd.DataFrame, trials: pd.DataFrame) -> str | None:
    """Say when the best came, and whether the improvements are more than the spread of seeds.

    Args:
        data: What `improvements` gives.
        trials: Trials in any state.

    Returns:
        None without a complete trial.
    """
    if data.empty:
        return None
    n_ended = int(trials["ended_at"].notna().sum())
    last = data.iloc[-1]
    number, after = int(last["trial_number"]), n_ended - int(last["n"])
    if len(data) == 1:
        if not after:
            return f"The first complete trial, {number}, is the last trial that ended."
        return (
            f"The first complete trial, {number}, was never improved on by the "
            f"{counted(after, 'trial')} that ended after it."
        )
    low, high = errors_apart(data["val_mse"].iloc[0], last["val_mse"])
    said = (
        f"The least error fell from {low} to {high} in {counted(len(data) - 1, 'improvement')}. "
        f"The last one, trial {number}, ended as number {last['n']:,.0f} of {n_ended:,}, after "
        f"{_time(float(last['hours']) * 3600)}, and took {percent(last['gain'])} off."
    )
    spread = seed_spread(trials)
    if math.isnan(spread):
        return (
            f"{said} No configuration is complete with several seeds, so the report cannot tell "
            "improvements from the luck of a seed."
        )
    steps = data["val_mse"].astype(float).clip(lower=EXACT).map(math.log).diff()
    n_clear = int((steps < -2 * spread).sum())
    verb = "is" if n_clear == 1 else "are"
    return (
        f"{said} Two seeds of one configuration typically differ by a factor of "
        f"{math.exp(spread):.3g}; {n_clear or 'none'} of the improvements {verb} larger than two "
        "such differences."
    )


def percent(share: float) -> str:
    """`50 %`, `0.31 %`, `100 %`: two digits, or as many as a whole number has."""
    return f"{100 * share:.0f} %" if share >= 0.095 else f"{100 * share:.2g} %"


def cost_sentence(data: pd.DataFrame, trials: pd.DataFrame) -> str | None:
    """What all trials spent in epochs, what the best had cost by then, and the last improvement."""
    total = float(trials["wall_time_s"].astype(float).fillna(0).sum())
    if total == 0:
        return None
    said = f"Trials spent {_time(total)} in epochs, summed over workers"
    devices = ", ".join(sorted(set(trials["device"].dropna())))
    if devices:
        said += f" (on {devices})"
    if data.empty:
        return f"{said}."
    last = data.iloc[-1]
    said += f"; the best trial was there after {last['spent_s'] / total:.0%} of that"
    if len(data) == 1:
        return f"{said}."
    return f"{said}, and the last improvement cost {_time(float(last['cost_s']))}."


def workers_sentence(data: Workers) -> str:
    """How many ran at a time, and which part of that time was epochs."""
    ran = float((data.steps["hours"].diff().shift(-1) * data.steps["running"]).sum())
    share = f"; {data.busy_hours / ran:.0%} of their time went into epochs" if ran > 0 else ""
    return f"While any trial ran, {data.mean:.1f} ran on average and {data.most:,} at most{share}."


def failures_sentence(trials: pd.DataFrame) -> str:
    """The share of trials that failed."""
    over = trials[trials["state"] != RUNNING]
    failed = int(over["state"].eq(FAIL).sum())
    if not failed:
        return "No trial failed."
    return f"{failed:,} of {counted(len(over), 'trial')} failed ({failed / len(over):.0%})."


def edges_sentence(found: pd.DataFrame, n: int) -> str:
    """Say which ranges to widen.

    Args:
        found: What `edges` gives.
        n: The configurations that ended with an error.
    """
    if found.empty:
        return (
            "No searched range has its best trials at an edge more often than chance allows "
            f"({counted(n, 'configuration')})."
        )
    return " ".join(
        f"Try {row['parameter']} {row['end']} {word(row['limit'])}: {row['n_edge']:,} of the best "
        f"{counted(row['n'], 'configuration')} that drew it "
        f"{'lies' if row['n_edge'] == 1 else 'lie'} at the edge, at {row['where']}."
        for row in found.to_dict("records")
    )


def duplicates_sentence(trials: pd.DataFrame) -> str:
    """What ran more than once."""
    same, seeds = duplicates(trials)
    if not same and not seeds:
        return "No configuration ran twice."
    parts = [
        f"{counted(n, 'trial')} with {how} seed"
        for n, how in ((seeds, "another"), (same, "the same"))
        if n
    ]
    return f"A configuration that had run before ran again in {listed(parts)}."


def _time(seconds: float) -> str:
    """`41 s`, `12 min`, `3.4 h`"""
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 6000 else f"{seconds / 3600:,.1f} h"
