"""Plan how to continue a study: what may change, and what must be as it was."""

from __future__ import annotations

import os
import shlex
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from raycae.errors import InputError
from raycae.execution.locations import make_database_absolute
from raycae.execution.option_values import format_option, parse_trials
from raycae.execution.ray_session import starts_own_ray
from raycae.execution.search_options import OPTIONS
from raycae.formatting import hide_password
from raycae.provenance import get_versions
from raycae.space.space import Space
from raycae.storage.paths import Place
from raycae.study.find import format_study_options, list_study_names
from raycae.study.plan import (
    Plan,
    count_begun,
    holds_study,
    load_plan,
    load_study_space,
    read_content,
)

DECISIVE_PACKAGES = ("raycae", "torch")
"""Packages of which another minor version may train or measure differently."""

OPTIONS_OF_A_RUN = ("hours", "cpus_per_trial", "gpus_per_trial", "concurrent", "fuse", "address")
"""Options that no study records, and that a search which continues one needs again."""


def format_search_command(folder: Place, options: Mapping[str, Any]) -> str:
    """Write the command `raycae search` that continues a study, without passwords.

    Args:
        folder: The folder of the study.
        options: All options of the search that it continues, as they were given.
    """
    # A cluster requires --results or RAYCAE_RESULTS.
    is_required = not (os.environ.get("RAYCAE_RESULTS") or starts_own_ray(options["address"]))
    study = format_study_options(folder, is_complete=is_required)
    command = f"raycae search --resume {study}"
    if options["storage"]:
        database = hide_password(make_database_absolute(options["storage"]) or "")
        command += f" --storage {shlex.quote(database)}"
    for name in OPTIONS_OF_A_RUN:
        if (value := options[name]) != OPTIONS[name].default:
            text = f"{value:g}" if isinstance(value, float) else str(value)
            command += f" {OPTIONS[name].flag} {shlex.quote(text)}"
    return command


def plan_resumed_study(
    folder: Place,
    trials: str | None,
    recorded: Mapping[str, Any],
    wanted: Space | None,
    force: bool,
    *,
    runs_here: bool = True,
) -> tuple[Plan, Space]:
    """Plan how to continue a study. Only its number of trials may change.

    Args:
        folder: The study.
        trials: The option `--trials`.
        recorded: The options that are given, of those that a study records.
        wanted: The space of `--space`; None if it is not given.
        force: The option `--force`: take `wanted` even if its content has changed.
        runs_here: Whether to compare the versions of this machine with those of the study.

    Returns:
        The plan and the space.

    Raises:
        InputError: There is no study, or an option contradicts it.
    """
    if not holds_study(folder):
        known = ", ".join(list_study_names(folder.parent))
        others = f" To continue another one, use --study (existing: {known})." if known else ""
        raise InputError(
            f"--resume: there is no study in {folder}. To start one, remove --resume.{others}"
        )
    content = read_content(folder)
    plan = load_plan(content)
    for name, value in recorded.items():
        if value != getattr(plan, name):
            raise InputError(
                f"{OPTIONS[name].flag} {format_option(value)}: this study was started with "
                f"{format_option(getattr(plan, name))}. Remove the option, or start another study "
                "with --study NAME."
            )
    space = load_study_space(content)
    if runs_here:
        require_comparable(content.get("versions") or {}, force)
    if wanted and wanted.hash != space.hash:
        require_replaceable_space(space, wanted, force)
        space = wanted
    total = parse_trials(trials, so_far=plan.trials) or plan.trials
    if total < (n_started := count_begun(folder)):
        raise InputError(
            f"--trials {trials}: {n_started} trials have been started already. Give a total of at "
            "least that many, or +N to add N."
        )
    return replace(plan, trials=total, space=space.name), space


def require_replaceable_space(space: Space, wanted: Space, force: bool) -> None:
    """Raise `InputError` unless a study may continue with a space of other content.

    Args:
        space: The space that the study began with.
        wanted: The space of `--space`.
        force: The option `--force`.
    """
    if not force:
        raise InputError(
            f"--space {wanted.name}: this study was started with a different version of this "
            "space, or with another space. Remove --space to keep the original, add --force to use "
            "the new one, or start another study with --study NAME."
        )
    if (wanted.task, wanted.image_size) != (space.task, space.image_size):
        raise InputError(
            f"--space {wanted.name}: {wanted.task} at {wanted.image_size} pixels cannot be "
            f"compared with this study's {space.task} at {space.image_size}. Start another study "
            "with --study NAME."
        )


def require_comparable(recorded: Mapping[str, str], force: bool) -> None:
    """Print which packages have changed since a study began.

    Args:
        recorded: The versions in `study.json`, by package.
        force: Whether to allow errors that may not be comparable.

    Raises:
        InputError: Errors measured then and now may differ, and `force` is not given.
    """
    current = get_versions()
    changed = [
        f"{name} {recorded[name]} → {version}"
        for name, version in current.items()
        if recorded.get(name, version) != version
    ]
    if not changed:
        return
    print(f"versions have changed since this study started: {', '.join(changed)}", flush=True)
    decisive = [
        name
        for name in DECISIVE_PACKAGES
        if name in recorded
        and recorded[name].split(".")[:2] != current.get(name, "").split(".")[:2]
    ]
    if decisive and not force:
        raise InputError(
            "errors of this study were measured with another version of "
            f"{' and '.join(decisive)}. Install that version, start another study, or accept the "
            "difference with --resume --force."
        )
