"""Validation error by epoch."""

from __future__ import annotations

import statistics
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from raycae.formatting import format_error
from raycae.optimization import early_stopping
from raycae.report import plotting
from raycae.report.plotting import GREY, ORANGE
from raycae.report.report_data import ReportData
from raycae.report.section import Section
from raycae.report.sections.improvements import ImprovementsSection
from raycae.report.trials import is_measured, rank_trials
from raycae.report.wording import format_percent
from raycae.study.records import COMPLETE, PRUNED

LEAST_GAIN = 0.001
"""A trial whose last epoch reduces the error by a smaller share hardly improves any more."""


def describe_curves(curves: LearningCurves, n_epochs: int) -> str | None:
    """Describe how the best trial ended, how many were stopped, and what is drawn.

    Args:
        curves: The learning curves.
        n_epochs: The number of epochs of a complete trial.

    Returns:
        The sentences; None if there is nothing to say.
    """
    if curves.curves.empty:
        return None
    sentences = []
    if curves.best is not None:
        sentences.append(describe_ending(curves, n_epochs))
    if stopped := curves.stopped_after:
        sentences.append(describe_stopping(stopped))
    if curves.n_drawn < curves.n_trials:
        sentences.append(
            f"{curves.n_drawn} of {curves.n_trials} trials are drawn, "
            "taken evenly from the best to the worst."
        )
    return " ".join(sentences) or None


def describe_stopping(stopped: tuple[int, ...]) -> str:
    """Describe after which epochs trials were stopped early.

    Args:
        stopped: The last epoch of each stopped trial, at least one.
    """
    if len(stopped) == 1:
        return f"1 trial was stopped early, after epoch {stopped[0]}."
    subject = f"{len(stopped):,} trials were stopped early"
    if min(stopped) == max(stopped):
        return f"{subject}, all after epoch {stopped[0]}."
    middle = statistics.median_low(stopped)
    if middle == max(stopped):  # "all of them by its epoch" would say nothing of the earlier ones
        middle = max(epoch for epoch in stopped if epoch < middle)
    return f"{subject}, {sum(epoch <= middle for epoch in stopped):,} of them by epoch {middle}."


def describe_ending(curves: LearningCurves, n_epochs: int) -> str:
    """Describe how the learning curve of the best trial ended.

    Args:
        curves: The learning curves, with a best trial.
        n_epochs: The number of epochs of a complete trial.
    """
    curve = curves.curves[curves.curves["trial_number"] == curves.best]
    epoch, last = curve["epoch"].tolist(), curve["val_mse"].tolist()
    lowest = last.index(min(last))
    if lowest < len(last) - 1 or len(last) < 2:
        return f"The best trial had its lowest error in epoch {epoch[lowest]} of {n_epochs}."
    gain = 1 - last[-1] / min(last[:-1])
    how = "was still improving" if gain >= LEAST_GAIN else "hardly improved any more"
    return (
        f"The best trial {how} when it ended: its last epoch, {epoch[-1]}, reduced the error by "
        f"{format_percent(gain)}."
    )


@dataclass(frozen=True)
class LearningCurves:
    """Validation error by epoch.

    Attributes:
        curves: `trial_number`, `state`, `epoch`, `val_mse`, by trial and epoch.
        best: The best complete trial; None without one.
        n_trials: The number of trials with a curve, drawn or not.
        stopped_after: The last epoch of each trial that was stopped early, drawn or not.
    """

    curves: pd.DataFrame
    best: int | None
    n_trials: int
    stopped_after: tuple[int, ...] = ()

    @property
    def n_drawn(self) -> int:
        return int(self.curves["trial_number"].nunique())


def select_learning_curves(
    trials: pd.DataFrame, epochs: pd.DataFrame, most: int = 30
) -> LearningCurves:
    """Select the learning curves to draw, evenly from the best trial to the worst.

    Args:
        trials: Trials in any state.
        epochs: Their epochs.
        most: The largest number of trials.
    """
    measured = epochs.loc[is_measured(epochs["val_mse"]), ["trial_number", "epoch", "val_mse"]]
    measured = measured.astype({"trial_number": int, "epoch": int, "val_mse": float})
    ranked = rank_trials(trials[trials["trial_number"].isin(measured["trial_number"])])
    complete = (ranked["state"] == COMPLETE).to_numpy()
    places = np.linspace(0, max(len(ranked) - 1, 0), min(most, len(ranked))).round().astype(int)
    best = None
    if complete.any():
        place = int(complete.argmax())
        best = int(ranked["trial_number"].iloc[place])
        if place not in places:
            places[0] = place  # stopped trials are ahead of it
    chosen = ranked.iloc[places][["trial_number", "state"]].astype({"trial_number": int})
    curves = chosen.merge(measured, on="trial_number").sort_values(["trial_number", "epoch"])
    stopped = measured["trial_number"].isin(ranked.loc[ranked["state"] == PRUNED, "trial_number"])
    ends = measured[stopped].groupby("trial_number")["epoch"].max()
    return LearningCurves(curves.reset_index(drop=True), best, len(ranked), tuple(ends.tolist()))


def draw_learning_curves(data: LearningCurves, rungs: Iterable[int] = ()) -> go.Figure:
    """Draw validation error by epoch.

    Args:
        data: The learning curves, at least one.
        rungs: The epochs after which trials may be stopped; each gets a dotted line.
    """
    figure = plotting.make_figure("epoch", "validation error, MSE")
    errors = data.curves["val_mse"].tolist()
    curves = data.curves.assign(
        drawn=plotting.lift_zeros(errors, plotting.choose_zero_position(errors))
    )
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
            x, y, texts = join_with_gaps(curves[chosen])
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
    figure.update_yaxes(plotting.make_full_error_axis(low, high, errors))
    last = int(curves["epoch"].max())
    for rung in rungs:
        if rung <= last:
            line = {"color": GREY, "width": 1.2, "dash": "dot"}
            label = {"text": "check", "textangle": 0, "font": {"size": 11, "color": GREY}}
            figure.add_vline(x=rung, line=line, layer="below", label=label)
    figure.update_xaxes(dtick=1 if last <= 12 else None, range=[0.5, last + 0.5], tickformat="d")
    return figure


def join_with_gaps(
    curves: pd.DataFrame,
) -> tuple[list[int | None], list[float | None], list[str | None]]:
    """Join curves to one line with gaps, so that the legend has a single entry for them.

    Args:
        curves: `trial_number`, `epoch`, `val_mse`, `drawn`.

    Returns:
        The x values, the y values and the hover texts, with None between two curves.
    """
    x: list[int | None] = []
    y: list[float | None] = []
    texts: list[str | None] = []
    for number, curve in curves.groupby("trial_number"):
        x += [*curve["epoch"].tolist(), None]
        y += [*curve["drawn"].tolist(), None]
        rows = zip(curve["epoch"], curve["val_mse"], strict=True)
        texts += [*(f"trial {number}, epoch {e}: {format_error(v)}" for e, v in rows), None]
    return x, y, texts


@dataclass(frozen=True, kw_only=True)
class LearningCurvesSection(Section):
    """Validation error by epoch, and the best error so far."""

    template = "sections/learning_curves.html.j2"
    sentence: str | None
    has_checks: bool
    """Whether the figure has a line for a check of early stopping."""
    improvements: ImprovementsSection

    @classmethod
    def build(cls, data: ReportData) -> LearningCurvesSection | None:
        """Build the section; see `Section.build`.

        Args:
            data: The study.

        Returns:
            The section; None if no trial has the error of an epoch.
        """
        curves = select_learning_curves(data.trials, data.epochs)
        if curves.curves.empty:
            return None
        plan = data.plan
        rungs = early_stopping.list_rungs(
            plan["scheduler"], plan["epochs"], grace=plan["grace"], factor=plan["factor"]
        )
        figure = draw_learning_curves(curves, rungs)
        improvements = ImprovementsSection.build(data)
        return cls(
            figures={"learning-curves": figure, **improvements.figures},
            sentence=describe_curves(curves, plan["epochs"]),
            has_checks=bool(figure.layout.shapes),
            improvements=improvements,
        )
