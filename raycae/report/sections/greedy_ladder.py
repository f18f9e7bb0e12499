"""The steps of a greedy search."""

from __future__ import annotations

import math
from dataclasses import dataclass

import pandas as pd
import plotly.graph_objects as go

from raycae.formatting import format_count, format_error, join_words
from raycae.optimization.greedy import AGAIN, DROPPED, KEPT, START, GreedyLadder
from raycae.report import plotting
from raycae.report.plotting import GREY, ORANGE, VIOLET
from raycae.report.report_data import ReportData
from raycae.report.section import Section
from raycae.report.trials import Row, is_measured, list_rows
from raycae.report.wording import format_errors_apart, format_percent, format_signed_percent
from raycae.study.records import FAIL, PRUNED, RUNNING


def describe_ladder(steps: pd.DataFrame) -> str | None:
    """How many changes were kept, which, and how far they came together."""
    if steps.empty:
        return None
    verdicts = steps["verdict"]
    kept = [str(change) for change in steps.loc[verdicts == KEPT, "change"]]
    n_judged = int(verdicts.isin([KEPT, DROPPED]).sum())
    if not n_judged:
        said = "No change has been judged yet."
    elif not kept:
        said = f"None of {format_count(n_judged, 'change')} was better than the start."
    else:
        verb = "was" if len(kept) == 1 else "were"
        said = f"Of {format_count(n_judged, 'change')} {len(kept)} {verb} kept: {join_words(kept)}."
        held = steps["best"].dropna()
        first, last = float(held.iloc[0]), float(held.iloc[-1])
        if first > last:
            before, after = format_errors_apart(first, last)
            gain = format_percent(1 - last / first)
            said += f" They take the error from {before} to {after}, by {gain}."
    if n_again := int((verdicts == AGAIN).sum()):
        said += (
            f" {format_count(n_again, 'change')} had to be tried again, "
            "for another one was kept meanwhile."
        )
    return said


def make_ladder_row(step: Row) -> dict[str, str]:
    """A step of the ladder as the table shows it."""
    parent, percent = step["parent"], step["percent"]
    named = f"{parent:.0f} ({step['parent_change'] or 'start'})" if parent is not None else "–"
    how = {PRUNED: ", stopped early", FAIL: ", failed"}.get(step["state"], "")
    return {
        "trial": str(step["trial_number"]),
        "change": step["change"] or START,
        "parent": named,
        "val_mse": "–" if step["val_mse"] is None else format_error(step["val_mse"]),
        "percent": "–" if percent is None else format_signed_percent(percent),
        "verdict": step["verdict"] + how,
    }


LADDER_COLUMNS = (
    *("trial_number", "state", "change", "parent", "val_mse"),
    *("parent_change", "percent", "verdict", "best"),
)


def make_ladder(trials: pd.DataFrame) -> pd.DataFrame:
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
    rule = GreedyLadder()
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


def draw_ladder(steps: pd.DataFrame) -> go.Figure | None:
    """Each step's error, in the order in which they ended, and the least of those that were kept;
    None where no step has an error."""
    shown = is_measured(steps["val_mse"])
    if not shown.any():
        return None
    figure = plotting.make_figure("trials that ended", "validation error, MSE")
    places = pd.Series(range(1, len(steps) + 1), index=steps.index)
    held = is_measured(steps["best"])
    errors = steps.loc[shown, "val_mse"].astype(float).tolist()
    zero = plotting.floor(errors)
    figure.add_scatter(
        x=places[held].tolist(),
        y=plotting.lifted(steps.loc[held, "best"], zero),
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
                y=plotting.lifted(steps.loc[chosen, "val_mse"], zero),
                name=name,
                mode="markers",
                marker=marker,
                hovertext=[
                    plotting.escape_html(
                        f"trial {step['trial_number']}, {step['change'] or START}: "
                        f"{format_error(step['val_mse'])}"
                    )
                    for step in steps[chosen].to_dict("records")
                ],
                hoverinfo="text",
            )
    low = min(plotting.lifted(errors, zero)) / 1.1
    high = max(min(max(errors) * 1.1, 1.0), 1.5 * low)
    figure.update_yaxes(plotting.error_log_axis(low, high, errors))
    last = len(steps)
    figure.update_xaxes(dtick=1 if last <= 24 else None, range=[0.5, last + 0.5], tickformat="d")
    return figure


@dataclass(frozen=True, kw_only=True)
class GreedyLadderSection(Section):
    """The steps of a greedy search."""

    template = "sections/greedy_ladder.html.j2"
    sentence: str | None
    rows: list[dict[str, str]]

    @classmethod
    def build(cls, data: ReportData) -> GreedyLadderSection | None:
        """Build the section; see `Section.build`. None if no trial has ended in a greedy search."""
        steps = make_ladder(data.trials)
        if steps.empty:
            return None
        figure = draw_ladder(steps)
        return cls(
            figures={} if figure is None else {"ladder": figure},
            sentence=describe_ladder(steps),
            rows=[make_ladder_row(step) for step in list_rows(steps)],
        )
