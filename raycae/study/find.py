"""Find a study or a saved model by name, path or URI."""

from __future__ import annotations

import os
import shlex
from contextlib import suppress
from numbers import Integral
from pathlib import Path
from typing import TYPE_CHECKING

from raycae.errors import InputError, StorageError
from raycae.storage.paths import Place, resolve_place
from raycae.storage.retry import Refused, refusal_is_input_error
from raycae.study.artifacts import get_model_folder, has_model, list_trial_folders
from raycae.study.records import COMPLETE
from raycae.study.tables import read_trials

if TYPE_CHECKING:
    import pandas as pd


def find_best_trial(trials: pd.DataFrame) -> int | None:
    """Find the COMPLETE trial with the lowest validation error.

    Args:
        trials: Content of `trials.parquet`.

    Returns:
        Its number, or None if no trial is COMPLETE.
    """
    errors = trials.loc[trials["state"] == COMPLETE, ["val_mse", "trial_number"]].dropna()
    if errors.empty:
        return None
    return int(errors.sort_values(["val_mse", "trial_number"])["trial_number"].iloc[0])


@refusal_is_input_error()
def find_study(path: str | Path, results: str | Path | None = None) -> Place:
    """Find the folder of a study.

    Args:
        path: Path or URI of the study, or its name under `results`.
        results: Folder or URI of all studies; None for that of `get_default_results`.

    Returns:
        The folder.

    Raises:
        InputError: There is no such study. The message lists those that there are.
    """
    results = get_default_results() if results is None else results
    under = resolve_place(results)
    with suppress(OSError):  # The name may be too long for a file system.
        for folder in list_candidates(str(path), under):
            if (folder / "study.json").is_file():
                return folder
    known = ", ".join(list_study_names(under))
    there = f"Existing studies: {known}." if known else f"There are no studies in {results}."
    raise InputError(f"{path}: no study has this name or path. {there}")


def list_study_names(results: Place) -> list[str]:
    """List the names of the studies in a folder, ascending, without those that cannot be read.

    Args:
        results: The folder.
    """
    names = []
    with suppress(OSError, RuntimeError):
        for folder in results.iterdir():
            with suppress(Refused):
                if (folder / "study.json").is_file():
                    names.append(folder.name)
    return sorted(names)


def format_study_argument(folder: Place) -> str:
    """Return what names the study in `folder` on the command line, quoted for a shell.

    Args:
        folder: The study.

    Returns:
        Its name if commands look for it there without --results, else its path or URI.
    """
    return shlex.quote(folder.name if is_default_results(folder.parent) else str(folder))


def format_study_options(folder: Place, *, is_complete: bool = False) -> str:
    """Return the options of `raycae search` that name a study, quoted for a shell.

    Args:
        folder: The study.
        is_complete: Whether --results is written even if commands look there without it.
    """
    options = f"--study {shlex.quote(folder.name)}"
    if is_complete or not is_default_results(folder.parent):
        options += f" --results {shlex.quote(str(folder.parent))}"
    return options


def get_default_results() -> str:
    """Return where commands without --results look for studies: RAYCAE_RESULTS, or `results`."""
    return os.environ.get("RAYCAE_RESULTS") or "results"


def is_default_results(results: Place) -> bool:
    """Return whether commands without --results use a folder.

    Args:
        results: The folder of all studies.
    """
    default = get_default_results()
    if "://" in default:  # Making the client of a store may ask the network.
        return str(results) == default
    with suppress(InputError, StorageError, OSError):  # E.g. the current folder was deleted.
        return results == resolve_place(default)
    return False


@refusal_is_input_error()
def find_model(path: str | Path, results: str | Path | None = None) -> Place:
    """Find the folder of a model.

    Args:
        path: Path or URI of the model (`STUDY/models/TRIAL`), or a study as in `find_study`, for
            the best model that it has kept.
        results: Folder or URI of all studies; None for that of `get_default_results`.

    Returns:
        The folder.

    Raises:
        InputError: There is no such study or model.
    """
    results = get_default_results() if results is None else results
    with suppress(OSError):
        for folder in list_candidates(str(path), resolve_place(results)):
            if (folder / "config.json").is_file() or (folder / "model.safetensors").is_file():
                return folder
            if folder.parent.name == "models" and (study := folder.parent.parent).is_dir():
                there = ", ".join(map(str, list_trials_with_model(study))) or "none"
                raise InputError(
                    f"{path}: trial {folder.name} has no model. Trials of {study.name} with a "
                    f"model: {there}."
                )
    return find_kept_model(find_study(path, results), name=str(path))


@refusal_is_input_error()
def find_kept_model(study: Place, latent: int | None = None, name: str | None = None) -> Place:
    """Find the best model that a study has kept.

    Args:
        study: Folder of the study.
        latent: The largest latent size allowed; None for any. With a limit, a trial that was
            stopped early counts like any other, as on the Pareto front. Without one, it comes
            after all complete trials.
        name: The name of the study in messages; by default its folder.

    Returns:
        The folder of the model.

    Raises:
        InputError: There is no such model; the message names the latent sizes that there are.
    """
    name = name or str(study)
    kept = list_trials_with_model(study)
    trials = read_trials(study, configs=False) if kept else None
    if trials is not None:
        trials = trials[trials["trial_number"].isin(kept) & trials["val_mse"].notna()]
    if trials is None or trials.empty:
        raise InputError(f"{name}: this study has no model yet. Models are stored in models/TRIAL.")
    order = ["val_mse", "trial_number"]
    if latent is None:
        # The same order as in find_best_trial, with stopped trials after all others.
        trials = trials.assign(stopped=trials["state"] != COMPLETE)
        order = ["stopped", *order]
    else:
        sizes = sorted({*trials["latent_size"].tolist()})
        is_size = isinstance(latent, Integral) and not isinstance(latent, bool)
        if not is_size or latent < sizes[0]:
            problem = (
                f"all saved models of {name} are larger. Their latent sizes are"
                if is_size
                else f"expected a whole number. The latent sizes of the models of {name} are"
            )
            raise InputError(
                f"latent {latent!r}: {problem} {', '.join(f'{size:,}' for size in sizes)}. Use "
                f"a latent size of at least {sizes[0]:,}."
            )
        trials = trials[trials["latent_size"] <= latent]
    return study / "models" / str(trials.sort_values(order)["trial_number"].iloc[0])


def list_trials_with_model(study: Place) -> list[int]:
    """List the trials that have a complete model in the folder of a study."""
    numbers = list_trial_folders(study / "models")
    return sorted(number for number in numbers if has_model(get_model_folder(study, number)))


def list_candidates(path: str, under: Place) -> list[Place]:
    """List the folders that a path or a name may stand for.

    Args:
        path: A path, a URI or a name.
        under: Folder of all studies.

    Returns:
        The folder at that path, and the one of that name under `under`. An absolute path or a URI
        is no name in an object store.

    Raises:
        InputError: A URI is not valid.
    """
    try:
        folders = [resolve_place(path)]
    except InputError:
        if "://" in path:
            raise
        return []  # For example "~nobody", which no file system accepts.
    if isinstance(under, Path) or not ("://" in path or Path(path).is_absolute()):
        folders.append(under / path)
    return folders
