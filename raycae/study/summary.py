"""Describe trials and studies in one line of text."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from raycae.formatting import format_count
from raycae.study.records import INTERRUPTED, RUNNING, STATES

INTERRUPTED_STATE = "INTERRUPTED"
"""How people read of a trial that has not ended and does not run; the tables call it RUNNING."""
SHOWN_STATES = (*STATES, INTERRUPTED_STATE)
"""The states of a trial as people read them."""


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


def name_states(
    states: Iterable[str], reasons: Iterable[str | None], is_searched: bool
) -> list[str]:
    """Name the states of trials as people read them: INTERRUPTED if a RUNNING trial does not run.

    Args:
        states: The states in the records.
        reasons: The reasons in the records. A trial that a resumed search has not started again
            still has the reason `interrupted`.
        is_searched: Whether a process may write the study; see `lease.is_held`.
    """
    return [
        INTERRUPTED_STATE
        if state == RUNNING and (reason == INTERRUPTED or not is_searched)
        else state
        for state, reason in zip(states, reasons, strict=True)
    ]


def format_counts(counts: Mapping[str, int], is_searched: bool = True) -> str:
    """Describe how many trials are in each state, as in `20 COMPLETE, 3 PRUNED, 1 FAIL`.

    Args:
        counts: The number of trials in each state of `SHOWN_STATES`.
        is_searched: Whether a process may write the study. Otherwise no trial runs, and those that
            have not ended are called INTERRUPTED.
    """
    if not is_searched:
        n_interrupted = counts.get(RUNNING, 0) + counts.get(INTERRUPTED_STATE, 0)
        counts = {**counts, RUNNING: 0, INTERRUPTED_STATE: n_interrupted}
    return ", ".join(f"{counts[s]} {s}" for s in SHOWN_STATES if counts.get(s)) or "no trials"
