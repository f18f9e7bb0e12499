"""From the options of a search to what it will do: check them together, and plan the study."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from raycae.config import TRAINING_KEYS
from raycae.errors import InputError
from raycae.execution.locations import (
    choose_results_folder,
    choose_study_name,
    get_study_folder,
    make_absolute,
    make_database_absolute,
)
from raycae.execution.option_values import (
    format_option,
    parse_fuse,
    parse_hours,
    parse_limits,
    parse_strata,
    parse_trials,
)
from raycae.execution.resuming import format_search_command, plan_resumed_study
from raycae.execution.search_options import OPTIONS, complete_options
from raycae.optimization.early_stopping import FACTOR, choose_grace
from raycae.optimization.feasibility import choose_strata, require_possible
from raycae.optimization.samplers import choose_sampler, get_cost
from raycae.space import loading
from raycae.space.space import Space
from raycae.storage.paths import Place
from raycae.study import warm_start
from raycae.study.plan import Plan, require_free_place
from raycae.study.warm_start import Known

if TYPE_CHECKING:
    from raycae.execution.progress_callback import ProgressCallback

LEARNING_SAMPLERS = ("tpe", "strata")
"""The samplers that learn from finished trials."""
LEARNING_NAMES = " or ".join(LEARNING_SAMPLERS)
"""The same as a message names them."""


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
        resume_command: The command that continues the search, without passwords.
        on_progress: Is called whenever a trial starts, ends an epoch, loses its worker or ends.
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
    resume_command: str = ""
    on_progress: ProgressCallback | None = None


def parse_options(given: Mapping[str, Any], *, runs_here: bool = True) -> SearchRequest:
    """Check the options of a search as far as any machine that reaches the results can.

    Neither the images nor the database are looked at.

    Args:
        given: Values by the names in `SearchOptions`; those that are left out have their default.
        runs_here: Whether the versions of this machine have to fit those of a resumed study.

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
    if isinstance(wanted_space := options["space"], Mapping):
        space = loading.make_space(wanted_space)
    else:
        space = loading.load_space(str(wanted_space or "ex3"))
    notes: list[str] = []
    if limits := parse_limits(options["max"]):
        if resume:
            raise InputError(f"--max {limits[0]}: a resumed study keeps its limits. Remove --max.")
        space, notes = limit_parsed_space(space, limits, recorded)
    results_folder = choose_results_folder(options["results"], options["address"])
    folder = get_study_folder(results_folder, options["study"] or choose_study_name(space.name))
    known: list[Known] = []
    if options["from_"] is not None:
        studies = format_option(options["from_"])
        if resume:
            raise InputError(
                f"--from {studies}: a study can learn from earlier ones only when it starts. "
                "Remove --from or --resume."
            )
        known, known_notes = load_known_trials(studies, results_folder, space, recorded)
        notes += known_notes
    if resume:
        wanted = space if options["space"] else None
        plan, space = plan_resumed_study(
            folder, trials, recorded, wanted, options["force"], runs_here=runs_here
        )
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
        database=make_database_absolute(options["storage"]),
        known=known,
        fuse=parse_fuse(options["fuse"]),
        notes=notes,
        resume_command=format_search_command(folder, options),
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
            (f"but --sampler {sampler} needs at least one of them", " or choose another sampler")
            if space.file.params
            else (f"and {space.name} searches no parameters", "")
        )
        raise InputError(
            f"{option}: every named point of {space.name} exceeds the limit ({name}: {reason}), "
            f"{cause}. Raise the limit{remedy}."
        )
    changes = space.file.series.keys() - within.file.series.keys()
    counts = []
    if excluded:
        counts.append(
            f"{len(excluded)} of {len(space.points)} named points ({', '.join(excluded)})"
        )
    if changes:
        counts.append(f"{len(changes)} of {len(space.file.series)} changes of the greedy series")
    return within, [f"{option} excludes {' and '.join(counts)}"] if counts else []


def load_known_trials(
    studies: str, results_folder: str, space: Space, recorded: Mapping[str, Any]
) -> tuple[list[Known], list[str]]:
    """Load the trials of earlier studies for `--from`.

    Args:
        studies: Names or folders of the studies, separated by commas.
        results_folder: Where studies are stored.
        space: The space of the search.
        recorded: The options that are given, of those that a study records.

    Returns:
        The trials that fit the space, and notes on the studies.

    Raises:
        InputError: The sampler does not learn, a study cannot be read, or it does not fit.
    """
    cost = get_cost(space, recorded)
    sampler = recorded.get("sampler") or choose_sampler(space, cost)
    if sampler not in LEARNING_SAMPLERS:
        raise InputError(
            f"--from {studies}: the sampler {sampler} does not learn from trials. Use "
            f"{LEARNING_NAMES}."
        )
    if cost == "epoch_time_s":
        raise InputError(
            f"--from {studies} cannot be used with --cost epoch_time_s: times measured by another "
            "search may come from another machine."
        )
    names = [name.strip() for name in studies.split(",")]
    return warm_start.load_known(names, results_folder, space)


def plan_new_study(
    folder: Place, space: Space, trials: str | None, recorded: Mapping[str, Any]
) -> Plan:
    """Plan a new study, before anything heavy is imported or written.

    Args:
        folder: The new study.
        space: Its space.
        trials: The option `--trials`.
        recorded: The options that are given, of those that a study records.

    Returns:
        The plan, with the defaults of the space.

    Raises:
        InputError: The options do not fit each other or the space, or the study exists already.
    """
    budget = space.budget
    cost = get_cost(space, recorded)
    sampler = recorded.get("sampler", choose_sampler(space, cost))
    defaults = {
        "objective": space.file.objective,
        "data": recorded.get("data") or space.source,
        "epochs": OPTIONS["epochs"].check(budget.epochs),
        "limit": OPTIONS["limit"].check(budget.limit),
        "seed": 0,
        "sampler": sampler,
        # These samplers compare errors after equally many epochs.
        "scheduler": "none" if sampler in ("greedy", "points") else "asha",
        "factor": FACTOR,
    }
    settings = {**defaults, **recorded}
    if settings["scheduler"] == "none":
        require_early_stopping(recorded)
    else:
        settings.setdefault("grace", choose_grace(settings["epochs"]))
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
    """Raise `InputError` for options that have no effect without early stopping.

    Args:
        recorded: The options that are given, of those that a study records.
    """
    for name in recorded.keys() & {"grace", "factor"}:
        raise InputError(
            f"--{name} {recorded[name]} has no effect with --scheduler none. Remove --{name} or "
            "use --scheduler asha."
        )
    if "first_images" in recorded:
        raise InputError(
            f"--first-images {recorded['first_images']} is only useful with early stopping. "
            "Remove --first-images or use --scheduler asha."
        )


def check_option_combinations(space: Space, settings: Mapping[str, Any], cost: str | None) -> None:
    """Raise `InputError` if an option has no effect with the others.

    Args:
        space: The space of the search.
        settings: The recorded options, given ones and defaults.
        cost: What `get_cost` returns.
    """
    sampler = settings["sampler"]
    if cost is None:
        for name in settings.keys() & {"cost", "strata"}:
            value = format_option(settings[name])
            raise InputError(
                f"--{name} {value} has no effect without --objective frontier. Add it or remove "
                f"--{name}."
            )
        if sampler == "strata":
            raise InputError("--sampler strata requires --objective frontier.")
    elif sampler == "greedy":
        raise InputError(
            "--objective frontier: the sampler greedy looks for one best configuration. Use "
            "--sampler strata or tpe."
        )
    elif sampler == "strata" and cost != "latent_size":
        raise InputError(
            f"--cost {cost}: the sampler strata works with latent_size only. Use --sampler tpe."
        )
    elif sampler != "strata" and "strata" in settings:
        value = format_option(settings["strata"])
        raise InputError(
            f"--strata {value} has no effect with --sampler {sampler}. Remove --strata or use "
            "--sampler strata."
        )
    if (n := settings.get("settings", 1)) > 1:
        if sampler not in (*LEARNING_SAMPLERS, "random"):
            raise InputError(
                f"--settings {n} cannot be used with --sampler {sampler}. Use tpe, strata or "
                "random."
            )
        if not space.file.params.keys() & set(TRAINING_KEYS):
            keys = ", ".join(TRAINING_KEYS)
            raise InputError(f"--settings {n} has no effect: {space.name} searches none of {keys}.")
