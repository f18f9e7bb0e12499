"""From the options of a search to what it will do: check them together, and plan the study."""

from __future__ import annotations

import hashlib
import itertools
import os
import re
import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from raycae import data as sources
from raycae.config import TRAINING_KEYS
from raycae.errors import InputError
from raycae.execution.ray_session import find_ray, require_ray_head, starts_own_ray
from raycae.execution.search_options import (
    OPTIONS,
    complete_options,
    format_option,
    parse_fuse,
    parse_hours,
    parse_limits,
    parse_strata,
    parse_trials,
)
from raycae.optimization.early_stopping import FACTOR
from raycae.optimization.feasibility import find_reachable_strata, require_possible
from raycae.optimization.frontier import USUAL_STRATA
from raycae.optimization.samplers import choose_sampler
from raycae.optimization.shared_study import JOURNAL, SQLITE
from raycae.provenance import get_versions
from raycae.space import loading
from raycae.space.space import Space
from raycae.storage.paths import Place, resolve_place
from raycae.study import warm_start
from raycae.study.plan import (
    Plan,
    count_begun,
    holds_study,
    load_plan,
    load_study_space,
    read_content,
    require_free_place,
)
from raycae.study.warm_start import Known

MAX_STUDY_NAME = 100
"""The longest name of a study, in characters."""
LEARNING_SAMPLERS = ("tpe", "strata")
"""The samplers that learn from finished trials."""
LEARNING_NAMES = " and ".join(LEARNING_SAMPLERS)
"""The same as a message names them."""
DECISIVE_PACKAGES = ("raycae", "torch")
"""Packages of which another minor version may train or measure differently."""


@dataclass(frozen=True)
class SearchRequest:
    """What to search, where, and with which resources; the options agree with each other.

    Attributes:
        folder: The folder of the study.
        plan: What is recorded in `study.json`.
        space: The search space, within the limits of `--max`.
        resume: Whether the study exists and is continued.
        resources: `cpus` and `gpus` per trial, and `concurrent` trials; None: as many as fit.
        hours: Stop cleanly after this many hours.
        address: The option `--address`.
        database: URL of the database that the search shares; paths in it are absolute.
        known: Trials of earlier studies that the sampler learns from.
        fuse: The largest number of trials to train together; None: as many as make it faster.
        notes: What to print before the search starts: points left out, earlier studies used.
        resume_command: The command that continues the search, if it is not `raycae search`.
    """

    folder: Place
    plan: Plan
    space: Space
    resume: bool
    resources: dict[str, Any]
    hours: float | None = None
    address: str | None = None
    database: str | None = None
    known: list[Known] = field(default_factory=list)
    fuse: int | None = None
    notes: list[str] = field(default_factory=list)
    resume_command: str | None = None


def parse_options(given: Mapping[str, Any]) -> SearchRequest:
    """Check the options of a search as far as any machine that reaches the results can.

    Neither the images nor the database are looked at.

    Args:
        given: Values by the names in `SearchOptions`; those that are left out have their default.

    Returns:
        What the search will do.

    Raises:
        InputError: A value is not allowed, or does not fit the others or the study.
        TypeError: There is no option of a name.
    """
    options = complete_options(given)
    recorded = check_recorded_options(options)
    resume = options["resume"]
    trials = None if options["trials"] is None else str(options["trials"])
    space = loading.load_space(str(options["space"] or "ex3"))
    notes: list[str] = []
    if limits := parse_limits(options["max"]):
        if resume:
            raise InputError(f"--max {limits[0]}: a study keeps the limits that it was begun with")
        space, notes = limit_parsed_space(space, limits, recorded)
    results_folder = choose_results_folder(options["results"], options["address"])
    folder = get_study_folder(results_folder, options["study"] or choose_study_name(space.name))
    known: list[Known] = []
    if options["from_"] is not None:
        studies = format_option(options["from_"])
        if resume:
            raise InputError(f"--from {studies}: a study learns from others when it is begun")
        known, known_notes = load_known_trials(studies, results_folder, space, recorded)
        notes += known_notes
    if resume:
        wanted = space if options["space"] else None
        plan, space = plan_resumed_study(folder, trials, recorded, wanted, options["force"])
    else:
        plan = plan_new_study(folder, space, trials, recorded)
    hours = parse_hours(options["hours"])
    return SearchRequest(
        folder,
        plan,
        space,
        resume,
        {
            "cpus": OPTIONS["cpus_per_trial"].check(options["cpus_per_trial"]),
            "gpus": OPTIONS["gpus_per_trial"].check(options["gpus_per_trial"]),
            "concurrent": OPTIONS["concurrent"].check(options["concurrent"]),
        },
        hours=hours if hours is not None else space.budget.hours,
        address=options["address"],
        database=_make_database_absolute(options["storage"]),
        known=known,
        fuse=parse_fuse(options["fuse"]),
        notes=notes,
    )


def check_recorded_options(options: Mapping[str, Any]) -> dict[str, Any]:
    """Check the options that a study records, each by itself.

    Args:
        options: Values by the names in `SearchOptions`.

    Returns:
        Those that are given, as `Plan` has them.

    Raises:
        InputError: A value is not allowed.
    """
    checked = {
        name: option.check(options[name]) for name, option in OPTIONS.items() if option.is_recorded
    }
    if checked["data"] is not None:
        checked["data"] = make_absolute(str(checked["data"]))
    if checked["strata"] is not None:
        checked["strata"] = parse_strata(format_option(checked["strata"]))
    return {name: value for name, value in checked.items() if value is not None}


def limit_parsed_space(
    space: Space, limits: list[str], recorded: Mapping[str, Any]
) -> tuple[Space, list[str]]:
    """Apply `--max`.

    Args:
        space: The space of the file.
        limits: What `--max` says, each `NAME=VALUE`.
        recorded: The options that are given, of those that a study records.

    Returns:
        The space within the limits, and one line about the points and changes left out, if any.

    Raises:
        InputError: A limit is not one, or the sampler begins with a named point and none is left.
    """
    within = loading.limit_space(space, limits)
    excluded = {
        name: within.check(config)
        for name, config in space.points.items()
        if name not in within.points
    }
    option = f"--max {', '.join(limits)}"
    sampler = recorded.get("sampler") or choose_sampler(space, get_cost(space, recorded))
    needs_point = sampler == "points" or (sampler == "greedy" and space.file.series)
    if excluded and not within.points and (needs_point or not space.file.params):
        name, reason = next(iter(excluded.items()))
        cause, remedy = (
            (f"--sampler {sampler} starts at one", " or choose another sampler")
            if space.file.params
            else (f"{space.name} searches no parameters", "")
        )
        raise InputError(
            f"{option}: every named point of {space.name} exceeds the limit ({name}: {reason}), "
            f"and {cause}. Raise the limit{remedy}."
        )
    changes = space.file.series.keys() - within.file.series.keys()
    counts = []
    if excluded:
        counts.append(f"{len(excluded)} of {len(space.points)} named points: {', '.join(excluded)}")
    if changes:
        counts.append(f"{len(changes)} of {len(space.file.series)} changes")
    return within, [f"{option} leaves out {' and '.join(counts)}"] if counts else []


def _make_database_absolute(url: str | None) -> str | None:
    """Make the path in the URL of a database file absolute.

    The command that resumes a search is printed, and may be used in another folder.
    """
    for scheme in (SQLITE, JOURNAL):
        if url is not None and url.startswith(scheme):
            path, mark, options = url.removeprefix(scheme).partition("?")
            return f"{scheme}{Path(path).expanduser().absolute()}{mark}{options}" if path else url
    return url


def load_known_trials(
    studies: str, results_folder: str, space: Space, recorded: Mapping[str, Any]
) -> tuple[list[Known], list[str]]:
    """Load the trials of earlier studies for `--from`.

    Args:
        studies: Names or folders of the studies, separated by commas.
        results_folder: Where studies lie.
        space: The space of the search.
        recorded: The options that are given, of those that a study records.

    Returns:
        The trials that fit the space, and notes on what was used.

    Raises:
        InputError: The sampler does not learn, a study cannot be read, or it does not fit.
    """
    cost = get_cost(space, recorded)
    sampler = recorded.get("sampler") or choose_sampler(space, cost)
    if sampler not in LEARNING_SAMPLERS:
        raise InputError(f"--from {studies}: {sampler} does not learn; {LEARNING_NAMES} do")
    if cost == "epoch_time_s":
        raise InputError(f"--from {studies}: says nothing of the time of an epoch here")
    names = [name.strip() for name in studies.split(",")]
    return warm_start.load_known(names, results_folder, space)


def choose_results_folder(results: str | Path | None, address: str | None) -> str:
    """Choose where studies lie: `--results`, RAYCAE_RESULTS, or `results` on this machine.

    Raises:
        InputError: The search runs on a cluster and neither is given. A folder of the head would
            be lost with the head.
    """
    if given := results or os.environ.get("RAYCAE_RESULTS"):
        return str(given)
    if not starts_own_ray(address):
        require_ray_head(find_ray(address))
        raise InputError(
            "--results: has to be said on a cluster, here or in RAYCAE_RESULTS: a folder that all "
            "nodes share, or an object store: s3://BUCKET/PATH"
        )
    return "results"


def plan_new_study(
    folder: Place, space: Space, trials: str | None, recorded: Mapping[str, Any]
) -> Plan:
    """Plan a new study, before anything heavy is imported or written.

    Args:
        folder: Where the study will lie.
        space: Its space.
        trials: The option `--trials`.
        recorded: The options that are given, of those that a study records.

    Returns:
        The plan, with the defaults of the space.

    Raises:
        InputError: The options do not fit each other or the space, or a study lies there already.
    """
    budget = space.budget
    cost = get_cost(space, recorded)
    sampler = recorded.get("sampler", choose_sampler(space, cost))
    defaults = {
        "objective": space.file.objective,
        "data": recorded.get("data") or space.source,
        "epochs": budget.epochs,
        "limit": budget.limit,
        "seed": 0,
        "sampler": sampler,
        # These samplers compare errors after equally many epochs.
        "scheduler": "none" if sampler in ("greedy", "points") else "asha",
        "factor": FACTOR,
    }
    settings = {**defaults, **recorded}
    if settings["scheduler"] == "none":
        require_early_stopping(recorded)
    total = parse_trials(trials, so_far=0) or budget.trials
    only_points = trials is None and not space.file.params and sampler != "greedy"
    if sampler == "points" or (only_points and space.points):
        total = min(total, len(space.points))
    require_free_place(folder)
    require_possible(space, settings["sampler"], total)
    check_option_combinations(space, settings, cost)
    if sampler == "strata":
        settings["strata"] = choose_strata(space, settings.get("strata"))
    return Plan(study=folder.name, space=space.name, trials=total, **settings)


def require_early_stopping(recorded: Mapping[str, Any]) -> None:
    """Raise `InputError` for options that have no effect without early stopping."""
    for name in recorded.keys() & {"grace", "factor"}:
        raise InputError(f"--{name} {recorded[name]}: says when --scheduler none stops: never")
    if "first_images" in recorded:
        raise InputError(
            f"--first-images {recorded['first_images']}: few images are for finding out whom to "
            "stop, and --scheduler none stops nobody"
        )


def get_cost(space: Space, recorded: Mapping[str, Any]) -> str | None:
    """Return the cost column of a search for a Pareto front; None if only the error counts."""
    is_frontier = recorded.get("objective", space.file.objective) == "frontier"
    return recorded.get("cost", "latent_size") if is_frontier else None


def check_option_combinations(space: Space, settings: Mapping[str, Any], cost: str | None) -> None:
    """Raise `InputError` where an option has no effect beside the others.

    Args:
        space: The space of the search.
        settings: The recorded options, given ones and defaults.
        cost: What `get_cost` returns.
    """
    sampler = settings["sampler"]
    if cost is None:
        for name in settings.keys() & {"cost", "strata"}:
            value = format_option(settings[name])
            raise InputError(f"--{name} {value}: of --objective frontier only")
        if sampler == "strata":
            raise InputError("--sampler strata: searches a frontier; add --objective frontier")
    elif sampler == "greedy":
        raise InputError("--objective frontier: greedy is after one winner; take strata or tpe")
    elif sampler == "strata" and cost != "latent_size":
        raise InputError(f"--cost {cost}: strata are of latent sizes; take --sampler tpe")
    elif sampler != "strata" and "strata" in settings:
        value = format_option(settings["strata"])
        raise InputError(
            f"--strata {value}: of --sampler strata only; {sampler} looks at no strata"
        )
    if (n := settings.get("settings", 1)) > 1:
        if sampler not in (*LEARNING_SAMPLERS, "random"):
            raise InputError(
                f"--settings {n}: {sampler} draws none; {LEARNING_NAMES} and random do"
            )
        if not space.file.params.keys() & set(TRAINING_KEYS):
            keys = ", ".join(TRAINING_KEYS)
            raise InputError(f"--settings {n}: {space.name} searches none of {keys}")


def choose_strata(space: Space, wanted: list[int] | None) -> list[int]:
    """Choose the latent-size bins of the sampler `strata`.

    Args:
        space: The space of the search.
        wanted: The option `--strata`.

    Returns:
        The upper bounds that are asked for, or those of the usual ones that the space reaches.

    Raises:
        InputError: No network of the space lies in a bin.
    """
    bounds = wanted or list(USUAL_STRATA)
    reachable = find_reachable_strata(space, bounds)
    if reachable and wanted is None:
        return reachable
    for below, bound in itertools.pairwise([0, *bounds]):
        if bound not in reachable:
            raise InputError(
                f"--strata {bound}: no network of {space.name} was found that has a latent "
                f"of {below + 1:,} to {bound:,} numbers"
            )
    return reachable


def plan_resumed_study(
    folder: Place,
    trials: str | None,
    recorded: Mapping[str, Any],
    wanted: Space | None,
    force: bool,
) -> tuple[Plan, Space]:
    """Plan how to continue a study. Only its number of trials may change.

    Args:
        folder: The study.
        trials: The option `--trials`.
        recorded: The options that are given, of those that a study records.
        wanted: The space of `--space`; None if it is not given.
        force: The option `--force`: take `wanted` even if its content has changed.

    Returns:
        The plan and the space.

    Raises:
        InputError: There is no study, or an option contradicts it.
    """
    if not holds_study(folder):
        raise InputError(f"--resume: {folder} holds no study; leave --resume out to begin one")
    content = read_content(folder)
    plan = load_plan(content)
    for name, value in recorded.items():
        if value != getattr(plan, name):
            raise InputError(
                f"{OPTIONS[name].flag} {format_option(value)}: this study was begun with "
                f"{format_option(getattr(plan, name))}; "
                "leave the option out, or begin another study with --study NAME"
            )
    space = load_study_space(content)
    require_comparable(content.get("versions") or {}, force)
    if wanted and wanted.hash != space.hash:
        require_replaceable_space(space, wanted, force)
        space = wanted
    total = parse_trials(trials, so_far=plan.trials) or plan.trials
    if total < (n_started := count_begun(folder)):
        raise InputError(
            f"--trials {trials}: {n_started} trials have been begun already; "
            f"the study's total has to be at least that, or +N"
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
            f"--space {wanted.name}: this study was begun with a space of other content; "
            "--study NAME alone goes on with that one; --force goes on with this one; "
            "or begin another study"
        )
    if (wanted.task, wanted.image_size) != (space.task, space.image_size):
        raise InputError(
            f"--space {wanted.name}: {wanted.task} at {wanted.image_size} pixels cannot be "
            f"compared with this study's {space.task} at {space.image_size}; "
            "begin another study"
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
    print(f"versions have changed since this study was begun: {', '.join(changed)}", flush=True)
    decisive = [
        name
        for name in DECISIVE_PACKAGES
        if name in recorded
        and recorded[name].split(".")[:2] != current.get(name, "").split(".")[:2]
    ]
    if decisive and not force:
        raise InputError(
            f"errors of this study were measured with another {' and '.join(decisive)}; install "
            "that again, begin another study, or take them as comparable: search --resume --force"
        )


def choose_study_name(space_name: str) -> str:
    """Make a valid study name from the name of a space file.

    Characters that no study name may have become `-`; letters lose their accents. A name that is
    too long or not in Latin letters ends in a checksum, so that different names stay apart.
    """
    decomposed = unicodedata.normalize("NFKD", space_name)
    plain = "".join(c for c in decomposed if not unicodedata.combining(c))
    name = re.sub("[^A-Za-z0-9_.]+", "-", plain).strip("-.")
    if name and plain.isascii() and len(name) <= MAX_STUDY_NAME:
        return name
    checksum = hashlib.blake2b(os.fsencode(space_name), digest_size=4).hexdigest()
    return f"{name[: MAX_STUDY_NAME - 9].strip('-.') or 'space'}-{checksum}"


def get_study_folder(results_folder: str, name: str) -> Place:
    """Return the folder of a study.

    Args:
        results_folder: Where studies lie: a folder or a URI.
        name: The name of the study.

    Raises:
        InputError: No study can have this name.
    """
    if not re.fullmatch(rf"[A-Za-z0-9_][A-Za-z0-9_.-]{{0,{MAX_STUDY_NAME - 1}}}", name):
        raise InputError(
            f"--study {name!r}: letters, digits, '_', '-' and '.' are allowed, "
            f"at most {MAX_STUDY_NAME}, "
            "the first one a letter, a digit or '_'"
        )
    return resolve_place(results_folder) / name


def make_absolute(source: str | None) -> str | None:
    """Make the path of a data source absolute, because trials run elsewhere."""
    return None if source is None else sources.resolve_source(source)
