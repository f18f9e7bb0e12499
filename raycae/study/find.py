"""Find a study or a kept model by name, path or URI."""

from __future__ import annotations

import shlex
from contextlib import suppress
from pathlib import Path

import pandas as pd

from raycae.errors import InputError
from raycae.storage.paths import Place, resolve_place
from raycae.storage.retry import refusal_is_input_error
from raycae.study.records import COMPLETE
from raycae.study.tables import read_trials


def find_best_trial(trials: pd.DataFrame) -> int | None:
    """The number of the COMPLETE trial with the least validation error, or None."""
    ended = trials[(trials["state"] == COMPLETE) & trials["val_mse"].notna()]
    if ended.empty:
        return None
    return int(ended.sort_values(["val_mse", "trial_number"])["trial_number"].iloc[0])


@refusal_is_input_error()
def find_study(path: str | Path, results: str | Path = "results") -> Place:
    """The folder of a study given as a path, a URI, or a name under `results` (a folder or a URI).
    Raises `InputError`."""
    known: list[str] = []
    under = resolve_place(results)
    with suppress(OSError):  # a name that is too long
        for folder in list_candidates(str(path), under):
            if (folder / "study.json").is_file():
                return folder
    with suppress(OSError, RuntimeError):
        known = sorted(p.name for p in under.iterdir() if (p / "study.json").is_file())
    there = f"there are: {', '.join(known)}" if known else f"there are none in {results}"
    raise InputError(f"{path}: there is no study of this name or at this path; {there}")


def format_study_argument(folder: Place) -> str:
    """Return what names the study in `folder` on the command line, quoted for a shell.

    Args:
        folder: The study.

    Returns:
        Its name if it lies under `results` in the current folder, else its path or URI.
    """
    return shlex.quote(folder.name if folder.parent == resolve_place("results") else str(folder))


@refusal_is_input_error()
def find_model(path: str | Path, results: str | Path = "results") -> Place:
    """The folder of a model given by itself (`STUDY/models/TRIAL`), or the best kept one of a study
    given as in `find_study`. Raises `InputError`."""
    with suppress(OSError):
        for folder in list_candidates(str(path), resolve_place(results)):
            if (folder / "config.json").is_file() or (folder / "model.safetensors").is_file():
                return folder
            if folder.parent.name == "models" and (study := folder.parent.parent).is_dir():
                there = ", ".join(map(str, list_trials_with_model(study))) or "none"
                raise InputError(
                    f"{path}: there is no model of a trial {folder.name}; {study.name} has kept "
                    f"those of: {there}"
                )
    folder = find_study(path, results)
    kept = list_trials_with_model(folder)
    trials = read_trials(folder)
    trials = trials[trials["trial_number"].isin(kept) & trials["val_mse"].notna()]
    if trials.empty:
        raise InputError(f"{path}: this study has kept no model (yet); models lie in models/TRIAL")
    # As `find_best_trial` has it; a stopped trial's only where no other one is left.
    trials = trials.assign(stopped=trials["state"] != COMPLETE)
    best = trials.sort_values(["stopped", "val_mse", "trial_number"])["trial_number"].iloc[0]
    return folder / "models" / str(best)


def list_trials_with_model(study: Place) -> list[int]:
    """The trials whose models lie in the study's folder."""
    with suppress(FileNotFoundError):
        return sorted(int(p.name) for p in (study / "models").iterdir() if p.name.isdigit())
    return []


def list_candidates(path: str, under: Place) -> list[Place]:
    try:
        return [resolve_place(path), under / path]
    except InputError:
        if "://" in path:
            raise
        return []  # ~nobody: a name that no file system takes is no study's
