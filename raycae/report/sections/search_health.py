"""How a search went: failures, edges of the ranges, repeats, and the use of workers."""

from __future__ import annotations

import re
from collections.abc import Hashable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from raycae.config import resolve
from raycae.errors import InputError
from raycae.formatting import format_count, join_words
from raycae.report import plotting
from raycae.report.plotting import BLUE
from raycae.report.report_data import ReportData
from raycae.report.sampled_values import (
    Parameters,
    format_choice,
    format_span,
    get_position,
    select_best_drawn,
    split_into_parts,
)
from raycae.report.section import Section
from raycae.report.sections.improvements import (
    ImprovementsSection,
    get_hours,
)
from raycae.report.sections.timeline import draw_timeline
from raycae.report.significance import LEVEL, compute_chance_of_marked
from raycae.report.similar_cost import rank_by_error
from raycae.report.trials import select_distinct
from raycae.report.wording import choose_time_unit, format_percent
from raycae.space.parameters import CategoricalParameter, FloatParameter, IntParameter
from raycae.study.records import FAIL, RUNNING

EDGE = 0.1
"""The part of a range that counts as its edge, on the scale that the sampler draws on."""
FEWEST_FAILED = 3
"""Trials of a region, below which a share of failures is chance."""


def count_failures(trials: pd.DataFrame) -> pd.DataFrame:
    """Count the reasons of failed trials, the most common first.

    Reasons that differ only in their numbers count as one and are shown with the first one's
    numbers.

    Args:
        trials: Trials in any state.

    Returns:
        `reason` and `n`.
    """
    failed = trials.loc[trials["state"] == FAIL, "reason"].fillna("no reason is known").astype(str)
    pattern = failed.map(lambda reason: re.sub(r"\d[\d.,e+-]*", "#", reason.partition("\n")[0]))
    counts = failed.groupby(pattern.to_numpy()).agg(["first", "size"])
    return counts.rename(columns={"first": "reason", "size": "n"}).sort_values(
        ["n", "reason"], ascending=[False, True], ignore_index=True
    )


def find_failing_regions(trials: pd.DataFrame, parameters: Parameters) -> pd.DataFrame:
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
        parts = split_into_parts(over, name, parameter)
        counts = has_failed.loc[parts.index].groupby(parts).agg(["sum", "size"])
        looked_at += [(parts, region, int(f), int(n)) for region, f, n in counts.itertuples()]
    found = []
    for parts, region, failed, n in looked_at:
        often = failed >= FEWEST_FAILED and failed / n >= 2 * has_failed.mean()
        chance = compute_chance_of_marked(len(over), int(has_failed.sum()), n, failed)
        if often and chance <= LEVEL / len(looked_at):
            reasons = count_failures(over.loc[parts.index[parts == region]])
            found.append((region, failed, n, reasons["reason"].iloc[0]))
    found.sort(key=lambda row: row[1] / row[2], reverse=True)  # ties as the parameters come
    return pd.DataFrame(found, columns=["region", "failed", "n", "reason"])


def find_edges(
    trials: pd.DataFrame, parameters: Parameters, cost: str | None = None
) -> pd.DataFrame:
    """Find ranges with the best trials at an edge.

    The edge is the outermost tenth of a range, and its last value. Under chance the best tenth is a
    random choice of the configurations that drew the parameter; an edge counts where more than half
    of them lie there and that is unlikely to be chance: by the hypergeometric distribution, all
    edges together have a probability of at most `LEVEL`. Only where the setting allows more.

    Args:
        trials: Trials in any state.
        parameters: What was searched.
        cost: The second objective; see `rank_by_error`.

    Returns:
        `parameter`, `end` (`above`, `below`), `limit` (the end itself), `n_edge` of the best `n`
        configurations that drew it lie at the edge, at the values `where`.
    """
    found, n_tested = [], 0
    ranked = rank_by_error(select_distinct(trials), cost)
    for name, parameter in parameters.items():
        if isinstance(parameter, CategoricalParameter):
            continue
        drawn, best = select_best_drawn(ranked, name, parameter)
        places = {value: get_position(value, parameter) for value in drawn.unique()}
        positions = drawn.map(places).astype(float)
        for end, limit, near in (
            ("below", parameter.low, positions <= EDGE),
            ("above", parameter.high, positions >= 1 - EDGE),
        ):
            if best.empty or not can_be_wider(name, parameter, end):
                continue
            n_tested += 1
            at_edge = best[near[best.index]]
            chance = compute_chance_of_marked(len(drawn), int(near.sum()), len(best), len(at_edge))
            if len(at_edge) > len(best) / 2:
                row = (name, end, limit, len(at_edge), len(best), format_span(at_edge, parameter))
                found.append((*row, chance))
    columns = ["parameter", "end", "limit", "n_edge", "n", "where", "p"]
    frame = pd.DataFrame(found, columns=columns)
    return frame[frame["p"] <= LEVEL / max(n_tested, 1)].drop(columns="p").reset_index(drop=True)


def can_be_wider(name: str, parameter: FloatParameter | IntParameter, end: str) -> bool:
    """Check whether a setting accepts values beyond an end of its searched range.

    Args:
        name: The name of the parameter.
        parameter: The parameter.
        end: `above` or `below`.
    """
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


def count_duplicates(trials: pd.DataFrame) -> tuple[int, int]:
    """Count the trials that repeat the configuration of an earlier one.

    Args:
        trials: Trials in any state.

    Returns:
        The number with the same seed, and the number with another seed.
    """
    again = trials.duplicated(["config"])
    same = trials.duplicated(["config", "seed"])
    return int(same.sum()), int((again & ~same).sum())


@dataclass(frozen=True)
class WorkerTimeline:
    """How many trials ran at a time.

    Attributes:
        steps: `hours` since the first trial began, and the number `running` from then on.
        busy_hours: The time that all trials together spent in epochs.
        mean: The mean number while any trial ran.
        most: The largest number.
    """

    steps: pd.DataFrame
    busy_hours: float
    mean: float
    most: int


def count_workers(trials: pd.DataFrame, most: int = 600) -> WorkerTimeline | None:
    """Count how many trials ran at a time, from their starts and ends.

    A trial that has not ended counts until the last time known of any trial. An interrupted trial
    counts as running until it ended.

    Args:
        trials: Trials in any state.
        most: The largest number of steps; each step of a longer timeline is a mean.

    Returns:
        The timeline; None if no trial has ended.
    """
    ran = trials.dropna(subset=["started_at"])
    if ran["ended_at"].isna().all():
        return None
    ends = ran["ended_at"].fillna(max(ran["started_at"].max(), ran["ended_at"].max()))
    times = pd.concat([ran["started_at"], ends], ignore_index=True)
    changes = pd.DataFrame({"hours": get_hours(times, times.min())})
    changes["by"] = np.repeat([1, -1], len(ran))
    running = changes.groupby("hours")["by"].sum().cumsum()
    hours, n = running.index.to_numpy(float), running.to_numpy(float)
    spans = np.diff(hours)
    with_any = spans[n[:-1] > 0].sum()
    mean = float((spans * n[:-1]).sum() / with_any) if with_any else float(n.max())
    steps = pd.DataFrame({"hours": hours, "running": n})
    if len(steps) > most:
        area = np.concatenate([[0.0], np.cumsum(spans * n[:-1])])
        edges = np.linspace(0, hours[-1], most + 1)
        means = np.diff(np.interp(edges, hours, area)) / np.diff(edges)
        steps = pd.DataFrame({"hours": edges, "running": [*means, 0.0]})
    busy = float(ran["wall_time_s"].fillna(0).sum()) / 3600
    return WorkerTimeline(steps, busy, mean, int(n.max()))


def draw_workers(data: WorkerTimeline) -> go.Figure:
    """Draw the number of running trials over time.

    Args:
        data: The timeline.
    """
    scale, unit = choose_time_unit(float(data.steps["hours"].max()))
    figure = plotting.make_figure(f"{unit} since the first trial began", "trials running")
    figure.add_scatter(
        x=(scale * data.steps["hours"]).tolist(),
        y=data.steps["running"].tolist(),
        mode="lines",
        line={"color": BLUE, "width": 1.5, "shape": "hv"},
        fill="tozeroy",
        fillcolor="rgba(59, 130, 196, 0.2)",
        hovertemplate=f"%{{x:.3g}} {unit}: %{{y:.3g}} running<extra></extra>",
        showlegend=False,
    )
    if data.most <= 10:  # Of few, plotly would also mark halves.
        figure.update_yaxes(dtick=1)
    return figure.update_yaxes(rangemode="tozero")


def describe_workers(data: WorkerTimeline) -> str:
    """Describe how many trials ran at a time, and which share of that time was epochs.

    Args:
        data: The timeline.
    """
    ran = float((data.steps["hours"].diff().shift(-1) * data.steps["running"]).sum())
    text = (
        "Not counting pauses, the number of trials that ran at the same time was "
        f"{data.mean:.1f} on average and {data.most:,} at most."
    )
    if ran <= 0:
        return text
    return (
        f"{text} Trials spent at least {format_percent(data.busy_hours / ran)} of that time in "
        "epochs; trials that are trained together share the time of an epoch."
    )


def describe_failures(trials: pd.DataFrame) -> str:
    """Describe the share of trials that failed.

    Args:
        trials: Trials in any state.
    """
    over = trials[trials["state"] != RUNNING]
    failed = int(over["state"].eq(FAIL).sum())
    if not failed:
        return "No trial failed."
    return f"{failed:,} of {format_count(len(over), 'trial')} failed ({failed / len(over):.0%})."


def describe_edges(found: pd.DataFrame, n: int) -> str:
    """Say which ranges to widen.

    Args:
        found: What `find_edges` gives.
        n: The configurations with a measured error.
    """
    if found.empty:
        return (
            "No range has its best trials at an end more often than chance explains "
            f"({format_count(n, 'configuration')})."
        )
    return " ".join(
        f"Try {row['parameter']} {row['end']} {format_choice(row['limit'])}: "
        f"{row['n_edge']:,} of the best "
        f"{format_count(row['n'], 'configuration')} with this parameter "
        f"{'lies' if row['n_edge'] == 1 else 'lie'} at the edge, at {row['where']}."
        for row in found.to_dict("records")
    )


def describe_duplicates(trials: pd.DataFrame) -> str:
    """Describe which trials repeated a configuration.

    Args:
        trials: Trials in any state.
    """
    same, seeds = count_duplicates(trials)
    if not same and not seeds:
        return "No configuration ran twice."
    parts = [
        f"{format_count(n, 'trial')} with {how} seed"
        for n, how in ((seeds, "another"), (same, "the same"))
        if n
    ]
    return f"An earlier configuration was repeated by {join_words(parts)}."


def describe_edges_of_ranges(
    trials: pd.DataFrame, parameters: Parameters, cost: str | None = None
) -> str | None:
    """Find edges and describe which ranges to widen.

    Args:
        trials: Trials in any state.
        parameters: The searched parameters.
        cost: The second objective; see `rank_by_error`.

    Returns:
        The sentences; None if no parameter has a range.
    """
    if all(isinstance(parameter, CategoricalParameter) for parameter in parameters.values()):
        return None
    n = len(select_distinct(trials))
    return describe_edges(find_edges(trials, parameters, cost), n)


@dataclass(frozen=True, kw_only=True)
class SearchHealthSection(Section):
    """How the search went: failures, edges, repeats, workers, and what improvements cost."""

    template = "sections/search_health.html.j2"
    failed: str
    failures: list[dict[Hashable, Any]]
    regions: list[dict[Hashable, Any]]
    edges: str | None
    duplicates: str
    workers: str | None
    has_timeline: bool
    improvements: ImprovementsSection

    @classmethod
    def build(cls, data: ReportData) -> SearchHealthSection | None:
        """Build the section; see `Section.build`.

        Args:
            data: The study.

        Returns:
            The section; None if the study has no trial.
        """
        trials, parameters = data.trials, data.parameters
        if trials.empty:
            return None
        timeline = count_workers(trials)
        figures = {} if timeline is None else {"workers": draw_workers(timeline)}
        bars = draw_timeline(trials)
        if bars is not None:
            figures["timeline"] = bars
        regions = find_failing_regions(trials, parameters)
        return cls(
            figures=figures,
            has_timeline="timeline" in figures,
            failed=describe_failures(trials),
            failures=count_failures(trials).head(20).to_dict("records"),
            regions=regions.head(10).to_dict("records"),
            edges=describe_edges_of_ranges(
                trials, parameters, data.cost if data.is_frontier else None
            ),
            duplicates=describe_duplicates(trials),
            workers=None if timeline is None else describe_workers(timeline),
            improvements=ImprovementsSection.build(data),
        )
