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
from raycae.report.trials import Row, is_measured, list_rows, list_values
from raycae.report.wording import format_errors_apart, format_percent, format_signed_percent
from raycae.study.records import FAIL, PRUNED, RUNNING


def describe_ladder(steps: pd.DataFrame) -> str | None:
    """Describe how many changes were kept, which ones, and how far they reduced the error.

    Args:
        steps: What `make_ladder` returns.

    Returns:
        The sentences; None without steps.
    """
    if steps.empty:
        return None
    verdicts = steps["verdict"]
    kept = [str(change) for change in steps.loc[verdicts == KEPT, "change"]]
    n_judged = int(verdicts.isin([KEPT, DROPPED]).sum())
    if not n_judged:
        text = "No change has been judged yet."
    elif not kept:
        text = f"None of {format_count(n_judged, 'change')} was better than the start."
    else:
        verb = "was" if len(kept) == 1 else "were"
        n_changes = format_count(n_judged, "change")
        text = f"{len(kept)} of {n_changes} {verb} kept: {join_words(kept)}."
        held = steps["best"].dropna()
        first, last = float(held.iloc[0]), float(held.iloc[-1])
        if first > last:
            before, after = format_errors_apart(first, last)
            gain = format_percent(1 - last / first)
            who = "It reduces" if len(kept) == 1 else "Together they reduce"
            text += f" {who} the error from {before} to {after}, by {gain}."
    if n_again := int((verdicts == AGAIN).sum()):
        text += (
            f" {format_count(n_again, 'change')} had to be tried again, "
            "because another change was kept in the meantime."
        )
    return text


def make_ladder_row(step: Row) -> dict[str, str]:
    """Make a row of the table of steps.

    Args:
        step: A row of `make_ladder`.

    Returns:
        The cells as text.
    """
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
    """List the trials of a greedy search in the order of their ends.

    Args:
        trials: Trials in any state.

    Returns:
        One row per trial that has ended: `trial_number`, `state`, `change`, `parent`,
        `parent_change`, `val_mse`, `percent` (the change against the parent's error; NaN unless
        both ran to their end), `verdict`, and `best` (the lowest error of the kept trials so far;
        NaN without one). Empty if the search was not greedy.
    """
    steps = trials[trials["state"] != RUNNING].sort_values(["ended_at", "trial_number"])
    if steps["change"].isna().all():
        return pd.DataFrame(columns=LADDER_COLUMNS)
    changes = dict(zip(steps["trial_number"], list_values(steps["change"]), strict=True))
    rule = GreedyLadder()
    rows = []
    for number, state, parent, val_mse in zip(
        *(steps[name].tolist() for name in ("trial_number", "state", "parent", "val_mse")),
        strict=True,
    ):
        parent, val_mse = (None if pd.isna(value) else value for value in (parent, val_mse))
        verdict = rule.judge(number, parent, state, val_mse)
        error, parent_error = rule.errors[number], rule.errors.get(parent, math.inf)
        percent = (
            100 * (error / parent_error - 1) if 0 < parent_error < math.inf > error else math.nan
        )
        best = rule.errors.get(rule.best, math.inf)
        step = (number, state, changes[number], parent, val_mse, changes.get(parent), percent)
        rows.append((*step, verdict, best if best < math.inf else math.nan))
    return pd.DataFrame(rows, columns=LADDER_COLUMNS)


def draw_ladder(steps: pd.DataFrame) -> go.Figure | None:
    """Draw the error of each step in the order of their ends, and the lowest of the kept ones.

    Args:
        steps: What `make_ladder` returns.

    Returns:
        The figure; None if no step has an error.
    """
    shown = is_measured(steps["val_mse"])
    if not shown.any():
        return None
    figure = plotting.make_figure("trials that ended", "validation error, MSE")
    places = pd.Series(range(1, len(steps) + 1), index=steps.index)
    held = is_measured(steps["best"])
    errors = steps.loc[shown, "val_mse"].astype(float).tolist()
    zero = plotting.choose_zero_position(errors)
    figure.add_scatter(
        x=places[held].tolist(),
        y=plotting.lift_zeros(steps.loc[held, "best"], zero),
        name="best so far",
        mode="lines",
        line={"color": ORANGE, "width": 2, "shape": "hv"},
        hoverinfo="skip",
    )
    for verdicts, name, marker in (
        ((DROPPED,), "dropped", {"color": GREY, "symbol": "circle-open", "size": 8}),
        ((AGAIN,), "to be tried again", {"color": VIOLET, "symbol": "diamond", "size": 8}),
        ((START, KEPT), "start and kept changes", {"color": ORANGE, "size": 10}),
    ):
        chosen = shown & steps["verdict"].isin(verdicts)
        if chosen.any():
            figure.add_scatter(
                x=places[chosen].tolist(),
                y=plotting.lift_zeros(steps.loc[chosen, "val_mse"], zero),
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
    low = min(plotting.lift_zeros(errors, zero)) / 1.1
    high = max(min(max(errors) * 1.1, 1.0), 1.5 * low)
    figure.update_yaxes(plotting.make_full_error_axis(low, high, errors))
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
        """Build the section; see `Section.build`.

        Args:
            data: The study.

        Returns:
            The section; None if no trial of a greedy search has ended.
        """
        steps = make_ladder(data.trials)
        if steps.empty:
            return None
        figure = draw_ladder(steps)
        return cls(
            figures={} if figure is None else {"ladder": figure},
            sentence=describe_ladder(steps),
            rows=[make_ladder_row(step) for step in list_rows(steps)],
        )
