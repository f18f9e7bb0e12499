"""What the page shows of a trial when its point is clicked."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pandas as pd
import plotly.graph_objects as go

from raycae.formatting import format_count, format_error
from raycae.report.trials import RankedRows, Row, format_latent_shape, is_measured


def describe_trials(
    figures: Iterable[go.Figure], ranked: RankedRows, epochs: pd.DataFrame
) -> dict[int, dict[str, Any]]:
    """Collect what the page shows of a trial when its point is clicked.

    Args:
        figures: The figures of the page.
        ranked: The trials as rows.
        epochs: Their epochs.

    Returns:
        By number, for all trials with a point in any figure: `words` (lines of text), `mse`, `psnr`
        in dB, and the learning curve as the lists `epoch` and `val_mse`.
    """
    numbers = {number for figure in figures for number in get_point_trials(figure)}
    measured = epochs[epochs["trial_number"].isin(numbers) & is_measured(epochs["val_mse"])]
    measured = measured.sort_values(["trial_number", "epoch"]).astype({"val_mse": float})
    details: dict[int, dict[str, Any]] = {
        number: {
            "words": describe_trial(row),
            "mse": row["val_mse"],
            "psnr": row["val_psnr_db"],
            "epoch": [],
            "val_mse": [],
        }
        for number, row in ranked.select(numbers).items()
    }
    columns = (measured[name].tolist() for name in ("trial_number", "epoch", "val_mse"))
    for number, epoch, val_mse in zip(*columns, strict=True):
        details[number]["epoch"].append(epoch)
        details[number]["val_mse"].append(float(f"{val_mse:.4g}"))
    return details


def get_point_trials(figure: go.Figure) -> set[int]:
    """Return the numbers of the trials that have a point in a figure.

    Args:
        figure: A figure whose traces have trial numbers as `customdata`.
    """
    columns = (trace.customdata for trace in figure.data if trace.customdata is not None)
    return {number for numbers in columns for number in numbers if number is not None}


def describe_trial(row: Row) -> list[str]:
    """Describe a trial in a few lines.

    Args:
        row: A trial.
    """
    named = f", point {row['point']}" if row["point"] else ""
    n_epochs = row["epochs_run"]
    when = f"after {format_count(n_epochs, 'epoch')}" if n_epochs else "in its first epoch"
    lines = [f"trial {row['trial_number']}{named}: {row['shown_state']} {when}"]
    if row["val_mse"] is not None:
        test = (
            "" if row["test_mse"] is None else f", on test images {format_error(row['test_mse'])}"
        )
        lines.append(
            f"error {format_error(row['val_mse'])}{test}; mean PSNR {row['val_psnr_db']:.2f} dB"
        )
    lines.append(
        f"latent {format_latent_shape(row)} = {row['latent_size']:,}, {row['n_params']:,} "
        "parameters"
    )
    lines.append(f"{row['optimizer']}, lr {row['lr']:.3g}, batch {row['batch_size']}")
    return [*lines, row["network"], *([row["reason"]] if row["reason"] else [])]
