"""What a study was asked to do: `study.json` and its copy in the ledger."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from raycae.config import explain_validation_error
from raycae.errors import InputError
from raycae.optimization.frontier import COSTS
from raycae.storage import parquet
from raycae.storage.files import quarantine, write_atomic
from raycae.storage.paths import Place
from raycae.storage.retry import refusal_is_input_error
from raycae.study import ledger
from raycae.study.find import format_study_options

if TYPE_CHECKING:
    from raycae.space.space import Space


SPLITS = "splits.parquet"
"""Name of the file that says which image belongs to which split."""


@dataclass(frozen=True)
class Plan:
    """What a search was asked to do.

    Attributes:
        study: Name of the study.
        space: Name of the search space.
        data: The image source.
        trials: Number of trials of the study, over all its searches.
        epochs: Most epochs of a trial.
        limit: Most images that are used; None for all.
        seed: Random seed for splits, weights and sampling.
        sampler: Name of the sampler.
        scheduler: Name of the early-stopping rule.
        points: The named points to try; None for all of the space's.
        n_seeds: With how many seeds each of them is tried, from `seed` on.
        test_curves: Whether every epoch is measured on the test images, for the tables only.
        repeats: What happens to a repeated configuration: `refuse`, or `seed` for a new seed.
        grace: No trial is stopped before this epoch.
        factor: At each rung, about one trial in this many continues.
        objective: `val_mse`, or `frontier` for the Pareto front of error and `cost`.
        cost: The column of the second objective.
        strata: Upper bounds of the latent-size bins of the sampler `strata`.
        settings: With how many training settings each network is tried, the worse ones stopped
            early.
        first_images: Images of a trial's first epoch; each further epoch sees twice as many.
    """

    study: str
    space: str
    data: str
    trials: int
    epochs: int
    limit: int | None
    seed: int
    sampler: str
    scheduler: str
    points: list[str] | None = None
    n_seeds: int = 1
    test_curves: bool = False
    repeats: str = "refuse"
    grace: int = 1
    factor: int = 3
    objective: str = "val_mse"
    cost: str = "latent_size"
    strata: list[int] | None = None
    settings: int = 1
    first_images: int | None = None

    @property
    def frontier_cost(self) -> str | None:
        """The column of the second objective; None if only the error counts."""
        return self.cost if self.objective == "frontier" else None


def read_content(folder: Place) -> dict[str, Any]:
    """Read `study.json`, or its copy in the ledger if the file is missing or damaged.

    Args:
        folder: Folder of the study.

    Returns:
        The content of `study.json`.

    Raises:
        InputError: Neither of them can be read.
    """
    try:
        return read_study(folder)
    except InputError:
        if content := read_content_from_ledger(folder):
            return content
        raise


def recover_content(folder: Place) -> tuple[dict[str, Any], list[str]]:
    """Read the content of `study.json` for the process that writes the study.

    A complete ledger is believed rather than the file. A file that is damaged or differs from the
    ledger is quarantined.

    Args:
        folder: Folder of the study, leased by this process.

    Returns:
        The content of `study.json`, and one sentence for each fault.

    Raises:
        InputError: Neither file nor ledger can be read.
    """
    path = folder / "study.json"
    recorded = read_content_from_ledger(folder)
    try:
        written = read_study(folder)
    except InputError as error:
        if recorded is None:
            raise
        if not path.exists():
            return recorded, [f"{path}: missing; restored from the ledger"]
        note = f"{error}; quarantined in {quarantine(path).parent}, restored from the ledger"
        return recorded, [note]
    if recorded is None or recorded == written or not ledger.is_whole(folder / "ledger"):
        return written, []
    return recorded, [
        f"{path}: differs from the ledger of this study; "
        f"quarantined in {quarantine(path).parent}, restored from the ledger"
    ]


def read_content_from_ledger(folder: Place) -> dict[str, Any] | None:
    """Read the newest content of `study.json` from the ledger.

    Args:
        folder: Folder of the study.

    Returns:
        The content, or None if the ledger holds none that can be read.
    """
    if not (folder / "ledger").is_dir():
        return None
    newest = ledger.read_newest_study(folder / "ledger")
    return None if newest is None else json.loads(newest)


def count_begun(folder: Place) -> int:
    """Count the trials in the ledger of a study.

    Args:
        folder: Folder of the study.

    Returns:
        The number of trials that were begun, whatever became of them.
    """
    events = ledger.iterate_readable(folder / "ledger") if (folder / "ledger").is_dir() else ()
    return len({event["trial_number"] for event in events} - {None})


def list_begun_points(folder: Place) -> tuple[list[tuple[str | None, int]], bool]:
    """List the trials in the ledger of a study by named point and seed.

    Args:
        folder: Folder of the study.

    Returns:
        Named point and seed of each trial, and whether a trial has not ended.
    """
    begun: dict[int, tuple[str | None, int]] = {}
    ended = set()
    for event in ledger.iterate_readable(folder / "ledger"):
        if event["event"] == "created":
            begun[event["trial_number"]] = (event["point"], event["seed"])
        elif event["event"] == "ended":
            ended.add(event["trial_number"])
    return list(begun.values()), not begun.keys() <= ended


def load_plan(content: Mapping[str, Any]) -> Plan:
    """Load the plan from the content of a `study.json`.

    Args:
        content: The content.

    Returns:
        The plan.

    Raises:
        InputError: A field is missing, unknown or contradicts another one.
    """
    try:
        plan = Plan(**content["plan"])
    except TypeError as error:
        raise InputError(f"study.json: plan: {error}") from None
    if plan.strata and len(content["data"].get("line") or ()) != len(plan.strata):
        raise InputError(
            "study.json: the list data.line must have one error for each latent-size bin in "
            "plan.strata"
        )
    return plan


def load_study_space(content: Mapping[str, Any]) -> Space:
    """Load the search space from the content of a `study.json`.

    Args:
        content: The content.

    Returns:
        The space.

    Raises:
        InputError: The space is missing or is not valid.
    """
    try:
        name, text = content["space"]["name"], content["space"]["text"]
    except (TypeError, KeyError) as error:
        raise InputError(f"study.json: space: lacks {error}") from None
    from raycae.space.loading import parse_space  # It imports Optuna, which readers do not need.

    return parse_space(text, name=name)


@refusal_is_input_error()
def holds_study(folder: Place) -> bool:
    """Return whether a study was begun in a folder, even if `study.json` was not written yet.

    Args:
        folder: The folder.

    Raises:
        InputError: The folder cannot be read.
    """
    return (folder / "study.json").exists() or ledger.has_parts(folder / "ledger")


@refusal_is_input_error()
def require_free_place(folder: Place) -> None:
    """Check that a new study can be written to a folder.

    Args:
        folder: Folder of the new study.

    Raises:
        InputError: The folder holds a study already, or cannot be written.
    """
    if holds_study(folder):
        raise InputError(
            f"{folder}: this study already exists. Continue it with raycae search --resume "
            f"{format_study_options(folder)}, or choose another name with --study NAME."
        )
    if isinstance(folder, Path):
        nearest = next(path for path in (folder, *folder.parents) if path.exists())
        if not nearest.is_dir() or not os.access(nearest, os.W_OK):
            raise explain_unwritable(folder, f"{nearest} is not a writable folder")
    else:
        folder.require_writable()


def describe_content(space: Space) -> dict[str, str]:
    """Describe a search space, as `study.json` records it."""
    return {"name": space.name, "hash": space.hash, "text": space.text}


def write_content(folder: Place, content: Mapping[str, Any]) -> None:
    """Write `study.json`.

    Args:
        folder: Folder of the study.
        content: The content.
    """
    write_atomic(folder / "study.json", json.dumps(content, indent=1).encode())


def explain_unwritable(folder: Place, reason: str | None) -> InputError:
    """Make the error for a folder that cannot be written.

    Args:
        folder: Folder of the study.
        reason: What the system says.

    Returns:
        The error, with the way out.
    """
    return InputError(
        f"{folder}: results cannot be written there: {reason}. Choose another folder with "
        "--results."
    )


MOST_BYTES = 1 << 24
"""Largest size of a `study.json` that is read; a normal one has a few thousand bytes."""
Count = Annotated[int, Field(ge=0, lt=2**63)]
"""A number of something, as a 64-bit integer holds it."""


class _Part(BaseModel):
    """Base of the parts of `study.json`. Further fields are ignored."""

    model_config = ConfigDict(strict=True)


class _Plan(_Part):
    study: str
    space: str
    data: str
    trials: Count
    epochs: Count
    limit: Count | None
    seed: Count
    sampler: str
    scheduler: str
    points: list[str] | None = None
    n_seeds: Count = 1
    test_curves: bool = False
    repeats: str = "refuse"
    grace: Annotated[int, Field(ge=1)] = 1
    factor: Annotated[int, Field(ge=2)] = 3
    objective: Literal["val_mse", "frontier"] = "val_mse"
    cost: Literal[COSTS] = "latent_size"  # type: ignore[valid-type]
    strata: list[Annotated[int, Field(ge=1)]] | None = None
    settings: Annotated[int, Field(ge=1)] = 1
    first_images: Annotated[int, Field(ge=1)] | None = None


class _SpaceText(_Part):
    name: str
    hash: str
    text: str


class _Summary(_Part):
    text: str


class _Data(_Part):
    source: str
    fingerprint: str
    n_train: Count
    n_val: Count
    line: list[Annotated[float, Field(ge=0)]] | None = None
    labels: str | None = None
    n_test: Count | None = None
    splits: str | None = None
    summary: _Summary | None = None


class _Hardware(_Part):
    system: str
    cpu: str
    n_cpus: Count
    gpus: list[str]


class _StudyFile(_Part):
    study: str
    plan: _Plan
    space: _SpaceText
    task: Literal["reconstruct", "colourise"]
    data: _Data
    created_at: str
    command: str
    versions: dict[str, str]
    commit: str | None
    hardware: _Hardware


def read_study(folder: Place) -> dict[str, Any]:
    """Read and check `study.json`: what was searched, with what, by which command.

    Args:
        folder: Folder of the study.

    Returns:
        The content of the file.

    Raises:
        InputError: The file cannot be read, or a field is missing or has another type.
    """
    path = folder / "study.json"
    try:
        if not path.is_file():  # Opening a pipe would wait.
            raise InputError(f"{path}: there is no such file")
        with parquet.open_table(path) as file:
            text = file.read(MOST_BYTES + 1)
        content = json.loads(text)
        if not isinstance(content, dict):
            raise ValueError("expected a JSON object")
        _StudyFile.model_validate(content)
    except ValidationError as error:
        raise InputError(
            f"{path}: this is not a raycae study: {explain_validation_error(error)}"
        ) from None
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"{path}: cannot be read: {error}") from None
    return content


def read_plan_facts(study: Mapping[str, Any]) -> dict[str, Any]:
    """Read the plan from the content of a `study.json` of any version.

    Args:
        study: The content.

    Returns:
        The fields of the plan. Those that did not exist in that version have their defaults.
    """
    return _Plan.model_validate(study["plan"]).model_dump()
