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

if TYPE_CHECKING:
    from raycae.space.space import Space


SPLITS = "splits.parquet"
"""The file that says which image belongs to which split: columns split, name, checksum."""


@dataclass(frozen=True)
class Plan:
    """What a search was asked to do. `trials` is the study's total."""

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
    """The named points to try; None: all of the space's."""
    n_seeds: int = 1
    """Each of them with so many seeds, from `seed` on."""
    test_curves: bool = False
    """Every epoch is measured on the test images too, for the tables alone."""
    repeats: str = "refuse"
    """What becomes of a proposal that was run already: `refuse`, or `seed`, another seed."""
    grace: int = 1
    """No trial is stopped before this epoch, …"""
    factor: int = 3
    """and of those that come to a rung one in so many goes on."""
    objective: str = "val_mse"
    """The least error, or the `frontier` of error against `cost`, …"""
    cost: str = "latent_size"
    strata: list[int] | None = None
    """cut at these latent sizes, for the sampler `strata`."""
    settings: int = 1
    """Settings of the training that each network is tried with, the worse ones stopped early."""
    first_images: int | None = None
    """Images that the first epoch of a trial sees; each further one sees twice as many."""

    @property
    def frontier_cost(self) -> str | None:
        """The column that counts beside the error; None if the error alone counts."""
        return self.cost if self.objective == "frontier" else None


def read_content(folder: Place) -> dict[str, Any]:
    """What `study.json` says; where it is gone or damaged, what the ledger says it said."""
    try:
        return read_study(folder)
    except InputError:
        if content := read_content_from_ledger(folder):
            return content
        raise


def recover_content(folder: Place) -> tuple[dict[str, Any], list[str]]:
    """The same for the process that writes the study: what a whole ledger says counts, and a
    `study.json` that is damaged, or says otherwise, is set aside; the notes say so."""
    path = folder / "study.json"
    told = read_content_from_ledger(folder)
    try:
        written = read_study(folder)
    except InputError as error:
        if told is None:
            raise
        if not path.exists():
            return told, [f"{path}: missing; made anew from the ledger"]
        return told, [f"{error}; set aside in {quarantine(path).parent}, made anew from the ledger"]
    if told is None or told == written or not ledger.is_whole(folder / "ledger"):
        return written, []
    return told, [
        f"{path}: not what the ledger says of this study; "
        f"set aside in {quarantine(path).parent}, made anew"
    ]


def read_content_from_ledger(folder: Place) -> dict[str, Any] | None:
    if not (folder / "ledger").is_dir():
        return None
    content = None
    for event in ledger.read_readable(folder / "ledger"):
        if event["event"] in ("begun", "resumed"):
            content = json.loads(event["study"])
    return content


def count_begun(folder: Place) -> int:
    """How many trials the ledger of the study in `folder` knows."""
    events = ledger.read_readable(folder / "ledger") if (folder / "ledger").is_dir() else []
    return len({event["trial_number"] for event in events} - {None})


def list_begun_points(folder: Place) -> tuple[list[tuple[str | None, int]], bool]:
    """Named point and seed of each trial that the ledger of the study in `folder` knows, and
    whether one of them has not ended."""
    begun: dict[int, tuple[str | None, int]] = {}
    ended = set()
    for event in ledger.read_readable(folder / "ledger"):
        if event["event"] == "created":
            begun[event["trial_number"]] = (event["point"], event["seed"])
        elif event["event"] == "ended":
            ended.add(event["trial_number"])
    return list(begun.values()), not begun.keys() <= ended


def load_plan(content: Mapping[str, Any]) -> Plan:
    """The plan in the content of a `study.json`. Raises `InputError`."""
    try:
        plan = Plan(**content["plan"])
    except TypeError as error:
        raise InputError(f"study.json: plan: {error}") from None
    if plan.strata and len(content["data"].get("line") or ()) != len(plan.strata):
        raise InputError("study.json: data: line has to say an error for each of the plan's strata")
    return plan


def load_study_space(content: Mapping[str, Any]) -> Space:
    """The space in the content of a `study.json`. Raises `InputError`."""
    try:
        name, text = content["space"]["name"], content["space"]["text"]
    except (TypeError, KeyError) as error:
        raise InputError(f"study.json: space: lacks {error}") from None
    from raycae.space.loading import parse_space  # Optuna: readers of tables do not need it

    return parse_space(text, name=name)


@refusal_is_input_error()
def holds_study(folder: Place) -> bool:
    """Whether a study was begun in `folder`; a process may have died just before."""
    return (folder / "study.json").exists() or ledger.has_parts(folder / "ledger")


@refusal_is_input_error()
def require_free_place(folder: Place) -> None:
    """Raise `InputError` where a study lies in `folder` already, or none could be written."""
    if holds_study(folder):
        raise InputError(
            f"{folder}: there is a study already; go on with it with --resume, "
            "or give this one another name with --study NAME"
        )
    if isinstance(folder, Path):
        nearest = next(path for path in (folder, *folder.parents) if path.exists())
        if not nearest.is_dir() or not os.access(nearest, os.W_OK):
            raise explain_unwritable(folder, f"{nearest} is no folder that may be written")
    else:
        folder.require_writable()


def describe_content(space: Space) -> dict[str, str]:
    return {"name": space.name, "hash": space.hash, "text": space.text}


def write_content(folder: Place, content: Mapping[str, Any]) -> None:
    write_atomic(folder / "study.json", json.dumps(content, indent=1).encode())


def explain_unwritable(folder: Place, reason: str | None) -> InputError:
    return InputError(
        f"{folder}: results cannot be written there: {reason}; choose another folder with --results"
    )


MOST_BYTES = 1 << 24
"""Of `study.json`; they are a few thousand."""
Count = Annotated[int, Field(ge=0, lt=2**63)]


class _Part(BaseModel):
    """A part of `study.json` as it is read; there may be more in it."""

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
    """What was searched, with what, by which command: the content of `study.json`. Raises
    `InputError` where it lacks anything, or has it otherwise."""
    path = folder / "study.json"
    try:
        if not path.is_file():  # a pipe would be waited for
            raise InputError(f"{path}: there is no such file")
        with parquet.open_table(path) as file:
            text = file.read(MOST_BYTES + 1)
        content = json.loads(text)
        if not isinstance(content, dict):
            raise ValueError("it has to be a JSON object")
        _StudyFile.model_validate(content)
    except ValidationError as error:
        raise InputError(
            f"{path}: this is no study of raycae: {explain_validation_error(error)}"
        ) from None
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"{path}: cannot be read: {error}") from None
    return content


def read_plan_facts(study: Mapping[str, Any]) -> dict[str, Any]:
    """What the search was asked to do: `plan` in the content of a `study.json`; what was not there
    to be asked when it was written is as it was then."""
    return _Plan.model_validate(study["plan"]).model_dump()
