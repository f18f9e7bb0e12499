"""Progress of a search for the caller of `run_search`: a function that gets typed values."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, get_args

if TYPE_CHECKING:
    from raycae.execution.interrupts import StopRequest
    from raycae.study.ledger import Event
    from raycae.study.records import Records
    from raycae.study.study import Study

ProgressEvent = Literal["started", "epoch", "lost", "ended"]
"""What has happened to a trial."""
EVENTS = get_args(ProgressEvent)
"""The events of a study that a callback receives."""


@dataclass(frozen=True)
class SearchProgress:
    """What has just happened in a search, and its state after that.

    Attributes:
        study: Name of the study.
        event: `started`: a worker began an attempt at a trial. `epoch`: the trial finished an
            epoch. `lost`: its worker was lost; the trial will be tried again. `ended`: its state is
            final.
        trial_number: Number of the trial.
        state: State of the trial: RUNNING, or COMPLETE, PRUNED (stopped early) or FAIL.
        reason: Why the trial was stopped, failed or lost its worker; None otherwise.
        latent_size: Number of values of the trial's latent.
        n_params: Number of parameters of its network.
        epochs_run: Number of epochs that the trial has run.
        epoch_val_mse: Validation error of the epoch that ended; None for other events.
        val_mse: Lowest validation error of the trial so far; None before its first epoch.
        n_ended: Number of trials that have ended.
        n_trials: Total number of trials that the search was asked for.
        best_trial: Number of the COMPLETE trial with the lowest validation error; None without one.
        best_val_mse: Its validation error.
    """

    study: str
    event: ProgressEvent
    trial_number: int
    state: str
    reason: str | None
    latent_size: int
    n_params: int
    epochs_run: int
    epoch_val_mse: float | None
    val_mse: float | None
    n_ended: int
    n_trials: int
    best_trial: int | None
    best_val_mse: float | None


ProgressCallback = Callable[[SearchProgress], object]
"""Receives the progress of a search; what it returns is ignored."""


def add_callback(study: Study, callback: ProgressCallback, stop: StopRequest) -> None:
    """Call a function for every step of a study, after the study's listener.

    Args:
        study: The study, open for writing.
        callback: The function. If it raises an exception, it is not called again.
        stop: Gets the exception, which ends the search cleanly.
    """
    listener, n_trials = study.journal.listener, study.plan.trials

    def listen(event: Event, records: Records) -> None:
        if listener:
            listener(event, records)
        progress = describe_progress(event, records, n_trials)
        if progress is None or stop.error:
            return
        study.journal.flush()  # The ledger has an event before the caller acts on it.
        try:
            callback(progress)
        except Exception as error:
            stop.error = error

    study.journal.listener = listen


def describe_progress(event: Event, records: Records, n_trials: int) -> SearchProgress | None:
    """Describe an event of a study for a callback.

    Args:
        event: The event.
        records: What the study knows after it.
        n_trials: Total number of trials of the search.

    Returns:
        The description; None for events that a callback does not receive.
    """
    row = records.trials.get(event["trial_number"])
    if row is None or event["event"] not in EVENTS:
        return None
    best = records.best() or {}
    return SearchProgress(
        study=records.study,
        event=event["event"],
        trial_number=row["trial_number"],
        state=row["state"],
        reason=row["reason"],
        latent_size=row["latent_size"],
        n_params=row["n_params"],
        epochs_run=row["epochs_run"] or 0,
        epoch_val_mse=event["val_mse"] if event["event"] == "epoch" else None,
        val_mse=row["val_mse"],
        n_ended=records.n_ended(),
        n_trials=n_trials,
        best_trial=best.get("trial_number"),
        best_val_mse=best.get("val_mse"),
    )
