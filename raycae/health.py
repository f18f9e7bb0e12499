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
from raycae.canvas import BLUE, ORANGE, counted, error, listed
from raycae.config import resolve
from raycae.effects import BEST, FEWEST, Parameters, position, values, word
from raycae.errors import InputError
from raycae.figures import ended, ranking
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
    """Where trials fail: `region` in words, `failed` and `n` (trials there, running ones left out),
    the commonest `reason`, for each choice and each third of a range in which at least
    `FEWEST_FAILED` failed and their share is twice that of all trials; the greatest share first."""
    over = trials[trials["state"] != RUNNING]
    everywhere = over["state"].eq(FAIL).mean() if len(over) else 0.0
    found = []
    for name, parameter in parameters.items():
        drawn = values(over, name, parameter).dropna()
        if isinstance(parameter, CategoricalParameter):
            parts = drawn.map(lambda label, name=name: f"{name} {word(label)}")
        else:
            thirds = drawn.map(lambda value, p=parameter: min(int(3 * position(value, p)), 2))
            ends = drawn.groupby(thirds).agg(["min", "max"])
            parts = thirds.map(
                {at: f"{name} {word(low)} to {word(high)}" for at, low, high in ends.itertuples()}
            )
        for region, there in over.loc[drawn.index].groupby(parts):
            failed, n = int(there["state"].eq(FAIL).sum()), len(there)
            if failed >= FEWEST_FAILED and failed / n >= 2 * everywhere:
                found.append((region, failed, n, failures(there)["reason"].iloc[0]))
    found.sort(key=lambda row: row[1] / row[2], reverse=True)  # ties as the parameters come
    return pd.DataFrame(found, columns=["region", "failed", "n", "reason"])


def edges(trials: pd.DataFrame, parameters: Parameters) -> pd.DataFrame:
    """Ranges at whose edge the best trials lie: `parameter`, `end` (`upward`, `downward`), `limit`
    (the end itself), `n_edge` and `n`: of the best tenth those in the outermost tenth of the range
    or at its last value, and those that drew it. Only where they are more than half, half as many
    again as among all trials, and the setting allows more. Empty below `FEWEST` trials that ended
    with an error."""
    ranked = ranking(ended(trials))
    columns = ["parameter", "end", "limit", "n_edge", "n"]
    found = []
    for name, parameter in parameters.items() if len(ranked) >= FEWEST else ():
        if isinstance(parameter, CategoricalParameter):
            continue
        drawn = values(ranked, name, parameter)
        at = drawn.dropna().map(lambda value, p=parameter: position(value, p))
        best = at[at.index.isin(ranked.index[: math.ceil(BEST * len(ranked))])]
        for end, limit, near in (
            ("downward", parameter.low, at <= EDGE),
            ("upward", parameter.high, at >= 1 - EDGE),
        ):
            n_edge, chance = int(near[best.index].sum()), near.mean()
            often = n_edge > max(0.5, 1.5 * chance) * len(best)
            if often and _can_be_wider(name, parameter, end):
                found.append((name, end, limit, n_edge, len(best)))
    return pd.DataFrame(found, columns=columns)


def _can_be_wider(name: str, parameter: FloatParameter | IntParameter, end: str) -> bool:
    """Whether the setting takes values beyond this end of what is searched."""
    setting, _, stage = name.rpartition("_")
    step = 1 if isinstance(parameter, IntParameter) else 1e-3 * (parameter.high - parameter.low)
    if isinstance(parameter, FloatParameter) and parameter.log and end == "downward":
        step = parameter.low / 2
    beyond = parameter.high + step if end == "upward" else parameter.low - step
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


def best_so_far_figure(data: pd.DataFrame, over: str, end: float) -> go.Figure:
    """The least error so far, over `n` or `hours` of `improvements`, to `end`. Needs one row."""
    titles = {"n": "trials that ended", "hours": "hours since the first trial began"}
    figure = canvas.figure(titles[over], "least validation error, MSE")
    texts = [
        f"trial {number}: {error(val_mse)}"
        for number, val_mse in zip(data["trial_number"], data["val_mse"], strict=True)
    ]
    figure.add_scatter(
        x=[*data[over].tolist(), end],
        y=[*data["val_mse"].tolist(), data["val_mse"].iloc[-1]],
        customdata=[*data["trial_number"].astype(int).tolist(), None],
        mode="lines+markers",
        line={"color": ORANGE, "width": 2, "shape": "hv"},
        marker={"size": [7] * len(data) + [0]},
        hovertext=[*map(canvas.plain, texts), ""],
        hoverinfo="text",
        showlegend=False,
    )
    low, high = data["val_mse"].min() / 1.1, data["val_mse"].max() * 1.1
    return figure.update_yaxes(canvas.log_axis(low, max(min(high, 1.0), 1.5 * low)))


def _hours(times: pd.Series[Any], since: Any) -> pd.Series[float]:
    return (times - since).dt.total_seconds().astype(float) / 3600


def improvements_sentence(data: pd.DataFrame, trials: pd.DataFrame) -> str | None:
    """When the best came, and whether more was to be expected; None without a complete trial."""
    if data.empty:
        return None
    n_ended = int(trials["ended_at"].notna().sum())
    last = data.iloc[-1]
    after = n_ended - int(last["n"])
    if len(data) == 1:
        return (
            f"The first complete trial, {last['trial_number']:.0f}, was never improved on by the "
            f"{counted(after, 'trial')} that ended after it."
        )
    low, high = error(data["val_mse"].iloc[0]), error(last["val_mse"])
    return (
        f"The least error fell from {low} to {high} in {counted(len(data) - 1, 'improvement')}. "
        f"The last one, trial {last['trial_number']:.0f}, ended as number {last['n']:,.0f} of "
        f"{n_ended:,}, after {_time(float(last['hours']) * 3600)}, and took "
        f"{100 * last['gain']:.2g} % off."
    )


def cost_sentence(data: pd.DataFrame, trials: pd.DataFrame) -> str | None:
    """What all trials spent in epochs, what the best had cost by then, and the last improvement."""
    total = float(trials["wall_time_s"].astype(float).fillna(0).sum())
    if not total:
        return None
    said = f"Trials spent {_time(total)} in epochs, summed over workers"
    devices = ", ".join(sorted(set(trials["device"].dropna())))
    if devices:
        said += f" (on {devices})"
    if data.empty:
        return f"{said}."
    last = data.iloc[-1]
    return (
        f"{said}; the best trial was there after {last['spent_s'] / total:.0%} of that, and the "
        f"last improvement cost {_time(float(last['cost_s']))}."
    )


def workers_sentence(data: Workers) -> str:
    """How many ran at a time, and which part of that time was epochs."""
    ran = float((data.steps["hours"].diff().shift(-1) * data.steps["running"]).sum())
    share = f"; {data.busy_hours / ran:.0%} of their time went into epochs" if ran else ""
    return f"While any trial ran, {data.mean:.1f} ran on average and {data.most} at most{share}."


def failures_sentence(trials: pd.DataFrame) -> str:
    """The share of trials that failed."""
    over = trials[trials["state"] != RUNNING]
    failed = int(over["state"].eq(FAIL).sum())
    if not failed:
        return "No trial failed."
    return f"{failed} of {counted(len(over), 'trial')} failed ({failed / len(over):.0%})."


def edges_sentence(found: pd.DataFrame) -> str:
    """Which ranges to widen."""
    if found.empty:
        return "The best trials do not crowd at the edge of any searched range."
    parts = [
        f"widen {row['parameter']} {row['end']} (of the best tenth {row['n_edge']} of {row['n']} "
        f"lie at {word(row['limit'])})"
        for row in found.to_dict("records")
    ]
    said = listed(parts)
    return f"{said[0].upper()}{said[1:]}."


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
