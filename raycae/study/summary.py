"""Describe trials and studies in one line of text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from raycae.formatting import format_count
from raycae.study.records import COMPLETE, FAIL, PRUNED, RUNNING


def format_trial(row: Mapping[str, Any]) -> str:
    """Describe a trial in one line.

    Args:
        row: Its row in the records.

    Returns:
        Number, errors, latent size and number of parameters.
    """
    text = (
        f"trial {row['trial_number']}: val_mse {row['val_mse']:.5f} "
        f"(mean PSNR {row['val_psnr_db']:.2f} dB), latent {row['latent_size']}, "
        f"{row['n_params']:,} parameters"
    )
    return text + (f", test_mse {row['test_mse']:.5f}" if row["test_mse"] is not None else "")


def format_frontier(rows: Sequence[Mapping[str, Any]], cost: str) -> str:
    """Describe the Pareto front in one line.

    Args:
        rows: Rows of the trials on it, the lowest cost first.
        cost: Column of the second objective.

    Returns:
        The number of trials, the cheapest one and the one with the lowest error.
    """
    if not rows:
        return "frontier nothing yet"
    ends = dict.fromkeys(f"{row[cost]:,.6g}: {row['val_mse']:.5f}" for row in (rows[0], rows[-1]))
    return f"frontier {format_count(len(rows), 'trial')}; val_mse by {cost}: {' to '.join(ends)}"


def format_counts(counts: Mapping[str, int]) -> str:
    """Describe how many trials are in each state, as in `20 COMPLETE, 3 PRUNED, 1 FAIL`."""
    order = (COMPLETE, PRUNED, FAIL, RUNNING)
    return ", ".join(f"{counts[s]} {s}" for s in order if counts.get(s)) or "no trials"
