"""The studies in a results folder and their states."""

from __future__ import annotations

import math
from contextlib import suppress
from pathlib import Path
from typing import Any

from raycae.errors import InputError
from raycae.storage import parquet
from raycae.storage.paths import Place, resolve_place
from raycae.storage.retry import Refused, refusal_is_input_error
from raycae.study.lease import is_held
from raycae.study.plan import read_study
from raycae.study.records import COMPLETE, RUNNING, TRIAL_COLUMNS

FINISHED, UNFINISHED, UNREADABLE = "finished", "unfinished", "unreadable"
"""States of a study that no process writes: its planned trials have ended, or they have not, or its
files are damaged or may not be read."""
_READ = ("state", "val_mse")


@refusal_is_input_error()
def list_studies(results: str | Path) -> list[dict[str, Any]]:
    """Describe every study in a results folder.

    Args:
        results: Folder or URI of the studies.

    Returns:
        For each study `study`, `state`, `trials_ended`, `trials_planned`, `best_val_mse`, `space`
        and `created_at`, the newest study first. Values that are not known are None. A folder that
        may not be read is taken to be a study.
    """
    found: list[dict[str, Any] | None] = []
    folder = resolve_place(results)
    with suppress(FileNotFoundError, NotADirectoryError):
        found = [describe_study(study) for study in folder.iterdir()]
    studies = [study for study in found if study]
    return sorted(studies, key=lambda s: (s["created_at"] or "", s["study"]), reverse=True)


def find_newest_study(results: str | Path) -> str:
    """Find the study that was created last.

    Args:
        results: Folder or URI of the studies.

    Returns:
        Its name.

    Raises:
        InputError: There are no studies that can be read.
    """
    # A folder that may not be read may be no study.
    studies = [study for study in list_studies(results) if study["state"] != UNREADABLE]
    if not studies:
        raise InputError(
            f"{results}: there are no studies that can be read. Start one with raycae search, or "
            "name a folder of studies with --results."
        )
    name: str = studies[0]["study"]
    return name


def describe_study(folder: Place) -> dict[str, Any] | None:
    """Describe a study in a few values.

    Args:
        folder: A folder, which may be a study.

    Returns:
        An entry of `list_studies`; None if the folder is no study.
    """
    described: dict[str, Any] = dict.fromkeys(
        ("study", "state", "trials_ended", "trials_planned", "best_val_mse", "space", "created_at")
    )
    described |= {"study": folder.name, "state": UNREADABLE}
    try:
        if not (folder / "study.json").is_file():
            return None
        content = read_study(folder)
        states, errors = read_states(folder)
        is_running = is_held(folder)
    except (InputError, Refused):
        return described
    planned = content["plan"]["trials"]
    n_ended = len(states) - states.count(RUNNING)
    complete = [
        error
        for state, error in zip(states, errors, strict=True)
        if state == COMPLETE and error is not None and not math.isnan(error)
    ]
    over = FINISHED if n_ended >= planned else UNFINISHED
    return described | {
        "state": "running" if is_running else over,
        "trials_ended": n_ended,
        "trials_planned": planned,
        "best_val_mse": min(complete, default=None),
        "space": content["space"]["name"],
        "created_at": content["created_at"],
    }


def read_states(folder: Place) -> tuple[list[str], list[float | None]]:
    """Read the states and validation errors of the trials of a study.

    Args:
        folder: Folder of the study.

    Returns:
        The state of each trial, and its lowest validation error; no trials if none has begun.

    Raises:
        InputError: The table cannot be read.
    """
    path = folder / "trials.parquet"
    if not path.exists():
        return [], []
    table = parquet.read_table(path, {name: TRIAL_COLUMNS[name] for name in _READ})
    return table["state"].to_pylist(), table["val_mse"].to_pylist()
