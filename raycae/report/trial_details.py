"""What the page shows of a trial when its point is clicked."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pandas as pd
import plotly.graph_objects as go

from raycae.formatting import format_count, format_error
from raycae.report.trials import Row, format_latent_shape, is_measured


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
