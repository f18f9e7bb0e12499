"""The table of trials and the details of each trial."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import pandas as pd
import plotly.graph_objects as go

from raycae.formatting import format_count, format_error
from raycae.report import sampled_values
from raycae.report.sampled_values import Parameters
from raycae.report.sections.latent_size import format_latent_shape
from raycae.report.trials import Row, is_measured

MOST_ROWS = 1000


def describe_trials(
    drawn: Iterable[go.Figure], ranked: list[Row], epochs: pd.DataFrame
) -> dict[int, dict[str, Any]]:
    """What the page tells of a trial when its point is clicked, for all trials of which any figure
    has a point: `words`, `psnr` (dB), and its curve, `epoch` and `val_mse`."""
    numbers = {number for figure in drawn for number in get_point_trials(figure)}
    told = epochs[epochs["trial_number"].isin(numbers) & is_measured(epochs["val_mse"])]
    told = told.sort_values(["trial_number", "epoch"]).astype({"val_mse": float})
    curves = dict(list(told.groupby("trial_number")))
    known = {}
    for row in ranked:
        if (number := row["trial_number"]) in numbers:
            curve = curves.get(number, told[:0])
            known[number] = {
                "words": describe_trial(row),
                "psnr": row["val_psnr_db"],
                "epoch": curve["epoch"].tolist(),
                "val_mse": [float(f"{val_mse:.4g}") for val_mse in curve["val_mse"]],
            }
    return known


def get_point_trials(figure: go.Figure) -> set[int]:
    """The numbers of the trials that have a point in it."""
    told = (trace.customdata for trace in figure.data if trace.customdata is not None)
    return {number for numbers in told for number in numbers if number is not None}


def list_colours(
    trials: pd.DataFrame, parameters: Parameters, figure: go.Figure | None
) -> list[dict[str, Any]]:
    """What the points of a figure can be coloured by: `name`, `marks` (positions with their values
    in words), `at` (the position of each trial that drew it, 0 to 1)."""
    if figure is None:
        return []
    shown = trials[trials["trial_number"].isin(get_point_trials(figure))]
    places = sampled_values.get_positions(shown, parameters)
    return [
        {
            "name": str(name),
            "marks": sampled_values.list_marks(parameters[str(name)]),
            "at": {
                int(number): round(place, 3)
                for number, place in zip(shown["trial_number"], places[name], strict=True)
                if not math.isnan(place)
            },
        }
        for name in places
    ]


def describe_trial(row: Row) -> list[str]:
    """A trial, line by line."""
    named = f", point {row['point']}" if row["point"] else ""
    epochs = format_count(row["epochs_run"], "epoch") if row["epochs_run"] else "its first epoch"
    said = [f"trial {row['trial_number']}{named}: {row['state']} after {epochs}"]
    if row["val_mse"] is not None:
        test = (
            "" if row["test_mse"] is None else f", on test images {format_error(row['test_mse'])}"
        )
        said.append(f"error {format_error(row['val_mse'])}{test}; PSNR {row['val_psnr_db']:.2f} dB")
    said.append(
        f"latent {format_latent_shape(row)} = {row['latent_size']:,}, {row['n_params']:,} "
        "parameters"
    )
    said.append(f"{row['optimizer']}, lr {row['lr']:.3g}, batch {row['batch_size']}")
    return [*said, row["network"], *([row["reason"]] if row["reason"] else [])]


@dataclass(frozen=True)
class Cell:
    """`value` is what sorting goes by; empty cells sort last."""

    text: str
    value: float | str
    kind: str


@dataclass(frozen=True)
class Column:
    """A column of the table of trials. `text` gives a row's cell; `by` names what sorts it."""

    title: str
    by: str
    text: Callable[[Row], str]
    kind: str = "number"

    def cell(self, row: Row) -> Cell:
        if row[self.by] is None:
            return Cell("", "", self.kind)
        return Cell(self.text(row), row[self.by], self.kind)


def make_plain_cell(name: str) -> Callable[[Row], str]:
    return lambda row: str(row[name])


COLUMNS = (
    Column("trial", "trial_number", make_plain_cell("trial_number")),
    Column("point", "point", make_plain_cell("point"), "word"),
    Column("state", "state", make_plain_cell("state"), "word"),
    Column("val_mse", "val_mse", lambda row: format_error(row["val_mse"])),
    Column("PSNR, dB", "val_psnr_db", lambda row: f"{row['val_psnr_db']:.2f}"),
    Column("test_mse", "test_mse", lambda row: format_error(row["test_mse"])),
    Column("latent", "latent_size", format_latent_shape),
    Column("params", "n_params", lambda row: f"{row['n_params']:,}"),
    Column("epochs", "epochs_run", make_plain_cell("epochs_run")),
    Column("time, s", "wall_time_s", lambda row: f"{row['wall_time_s']:,.1f}"),
    Column("network", "network", make_plain_cell("network"), "text"),
    Column(
        "training",
        "optimizer",
        lambda row: f"{row['optimizer']}, lr {row['lr']:.3g}, batch {row['batch_size']}",
        "word",
    ),
    Column("reason", "reason", make_plain_cell("reason"), "text"),
)
SETTINGS = Column("settings", "n_settings", make_plain_cell("n_settings"))
