"""Begin a study in a new folder, or resume one where its ledger ends."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from typing import Any

from raycae.config import Config
from raycae.errors import InputError
from raycae.optimization.samplers import get_directions
from raycae.optimization.shared_study import SharedStudy
from raycae.provenance import collect_provenance, get_versions
from raycae.space.space import Space
from raycae.storage.files import write_atomic
from raycae.storage.paths import Place
from raycae.study import ledger
from raycae.study.journal import Listener
from raycae.study.lease import Lease
from raycae.study.plan import (
    SPLITS,
    Plan,
    describe_content,
    explain_unwritable,
    load_study_space,
    read_content_from_ledger,
    recover_content,
    require_free_place,
    write_content,
)
from raycae.study.study import Study


def create_study(
    folder: Place,
    plan: Plan,
    space: Space,
    data: Mapping[str, Any],
    listener: Listener | None = None,
    database: str | None = None,
    known: Iterable[tuple[Config, float]] = (),
    splits: bytes | None = None,
) -> Study:
    """Begin a new study.

    Args:
        folder: Folder of the study.
        plan: What the search was asked to do.
        space: The search space.
        data: The source, `n_train`, `n_val`, the fingerprints of the images and of their
            labels, the checksum of the table of splits; see `runner.describe_data`.
        listener: Receives every event.
        database: URL of a database for several drivers of one study.
        known: Configurations and validation errors of trials of earlier studies, for the
            sampler.
        splits: Content of `splits.parquet`, which is written before the ledger.

    Returns:
        The study, open for writing.

    Raises:
        InputError: The folder holds a study already, or cannot be written.
    """
    require_free_place(folder)
    content = describe_study(plan, space, data)
    lease = make_and_lease_folder(folder)
    try:
        require_free_place(folder)  # Another process may have begun one before the lease.
        shared = join_shared_study(database, content, plan) if database else None
        write_new_study(folder, content, known, splits)
        return Study(folder, content, space, lease, listener, shared)
    except BaseException:
        lease.release()
        raise


def resume_study(
    folder: Place,
    plan: Plan,
    listener: Listener | None = None,
    *,
    space: Space | None = None,
    database: str | None = None,
) -> Study:
    """Open the study of an earlier search, in the state in which its ledger is.

    Args:
        folder: Folder of the study.
        plan: What the search is asked to do from now on.
        listener: Receives every event.
        space: The search space from now on, to continue the search with this process's
            versions; None for the recorded space and versions.
        database: URL of a database for several drivers of one study.

    Returns:
        The study, open for writing. Its `notes` say what was repaired.

    Raises:
        InputError: The folder holds no study that can be read, or another process writes it.
    """
    lease = Lease.take(folder)
    try:
        before, notes = recover_content(folder)
        content = {**before, "plan": asdict(plan)}
        if space:
            content |= {"space": describe_content(space), "versions": get_versions()}
        shared = join_shared_study(database, content, plan) if database else None
        space = space or load_study_space(content)
        study = Study(folder, content, space, lease, listener, shared)
        study.notes[:0] = notes
        if content != read_content_from_ledger(folder):
            text = json.dumps(content)
            study.ledger.append([{"event": "resumed", "at": ledger.get_time(), "study": text}])
        if content != before or notes or not (folder / "study.json").exists():
            write_content(folder, content)
    except BaseException:
        lease.release()
        raise
    return study


def describe_study(plan: Plan, space: Space, data: Mapping[str, Any]) -> dict[str, Any]:
    """Describe a new study, as `study.json` records it.

    Args:
        plan: What the search was asked to do.
        space: Its search space.
        data: The images; see `runner.describe_data`.

    Returns:
        The content of `study.json`.
    """
    return {
        "study": plan.study,
        "plan": asdict(plan),
        "space": describe_content(space),
        "task": space.task,
        "data": dict(data),
        "created_at": ledger.get_time().isoformat(),
        **collect_provenance(),
    }


def make_and_lease_folder(folder: Place) -> Lease:
    """Make the folder of a new study and take its lease.

    Args:
        folder: Folder of the study.

    Returns:
        The lease.

    Raises:
        InputError: The folder cannot be written, or another process holds its lease.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        return Lease.take(folder)
    except OSError as error:
        raise explain_unwritable(folder, error.strerror) from None


def write_new_study(
    folder: Place,
    content: Mapping[str, Any],
    known: Iterable[tuple[Config, float]],
    splits: bytes | None,
) -> None:
    """Write the files with which a study begins.

    Args:
        folder: Folder of the study, leased by this process.
        content: Content of `study.json`.
        known: Configurations and validation errors of trials of earlier studies.
        splits: Content of `splits.parquet`, if the study records its splits.
    """
    if splits is not None:
        write_atomic(folder / SPLITS, splits)
    # The ledger comes before study.json, which can be restored from it; without a ledger there is
    # no study.
    begun = {"event": "begun", "at": ledger.get_time(), "study": json.dumps(content)}
    earlier = (
        {
            "event": "known",
            "at": ledger.get_time(),
            "config": config.to_json(),
            "val_mse": val_mse,
        }
        for config, val_mse in known
    )
    ledger.Ledger(folder / "ledger").append([begun, *earlier])
    write_content(folder, content)


def join_shared_study(database: str, content: Mapping[str, Any], plan: Plan) -> SharedStudy:
    """Join the study of all drivers in a database, or begin it there.

    Args:
        database: URL of the database.
        content: Content of `study.json`.
        plan: What this driver's search was asked to do.

    Returns:
        The study as all its drivers see it.

    Raises:
        InputError: The study in the database is another one, or a greedy series has more than one
            driver.
    """
    cost = plan.frontier_cost
    facts = {
        "space": content["space"]["hash"],
        "images": content["data"]["fingerprint"],
        "epochs": plan.epochs,
        "cost": cost,
    }
    driver = content["created_at"]  # Precise to the microsecond, so it identifies a driver.
    # Within a stratum only the error counts.
    directions = get_directions(None if plan.strata else cost)
    shared = SharedStudy(database, plan.study, driver, directions, facts)
    if shared.others and plan.sampler == "greedy":
        raise InputError(
            f"--sampler greedy: another search runs {plan.study} in that database, and only one "
            "search can run a greedy series. Choose another name with --study NAME."
        )
    return shared
