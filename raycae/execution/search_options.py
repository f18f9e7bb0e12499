"""The options of a search: parse them, check them together, and plan the study."""

from __future__ import annotations

import hashlib
import itertools
import os
import re
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from numbers import Integral, Real
from pathlib import Path
from typing import Any, NamedTuple

from raycae import data as sources
from raycae.config import TRAINING_KEYS
from raycae.errors import InputError
from raycae.execution.ray_session import find_ray, require_ray_head, starts_own_ray
from raycae.optimization.early_stopping import FACTOR, SCHEDULERS
from raycae.optimization.feasibility import find_reachable_strata, require_possible
from raycae.optimization.frontier import COSTS, USUAL_STRATA
from raycae.optimization.samplers import REPEATS, SAMPLERS, choose_sampler
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

MAX_SEED = 2**32 - 1
"""The largest seed that NumPy and PyTorch both take."""
MAX_HOURS = 100_000
MAX_STUDY_NAME = 100
OBJECTIVES = ("val_mse", "frontier")
CHOICES: dict[str, Iterable[str]] = {
    "sampler": SAMPLERS,
    "scheduler": SCHEDULERS,
    "repeats": REPEATS,
    "objective": OBJECTIVES,
    "cost": COSTS,
}
COUNTS = ("epochs", "limit", "seed", "grace", "factor", "settings", "first_images")


class Range(NamedTuple):
    """The numbers that an option takes, both ends included; None: no end."""

    kind: type[int] | type[float]
    low: float | None = None
    high: float | None = None


RANGES = {
    "epochs": Range(int, 1),
    "hours": Range(float),
    "limit": Range(int, 16),
    "seed": Range(int, 0, MAX_SEED),
    "grace": Range(int, 1),
    "first_images": Range(int, 16),
    "factor": Range(int, 2),
    "settings": Range(int, 1, 1000),
    "cpus_per_trial": Range(int, 1),
    "gpus_per_trial": Range(float, 0.0),
    "concurrent": Range(int, 1),
}
"""The range of every option that is a number, for the command line and for Python."""
LEARNING = ("tpe", "strata")
LEARN = " and ".join(LEARNING)
DECISIVE = ("raycae", "torch")
"""Another minor version of these may train or measure otherwise."""


@dataclass(frozen=True)
class SearchRequest:
    """What a search was asked to do, and makes sense."""

    folder: Place
    plan: Plan
    space: Space
    resume: bool
    resources: dict[str, Any]
    hours: float | None
    address: str | None
    database: str | None
    known: list[Known]
    fuse: int | None
    notes: list[str]
    """What the person should know before it begins: points left out, earlier studies used."""


def parse_options(**options: Any) -> SearchRequest:
    """What the options of `run_search` ask for, checked as far as any machine that reaches the
    results can: neither images nor database are looked at. Raises `InputError`."""
    for name, allowed in CHOICES.items():
        require_choice(f"--{name}", options[name], allowed)
    data, strata, resume = options["data"], options["strata"], options["resume"]
    asked = {
        "data": None if data is None else make_absolute(str(data)),
        "strata": None if strata is None else parse_strata(format_option(strata)),
        **{name: options[name] for name in CHOICES},
        **{name: check_number(name, options[name]) for name in COUNTS},
    }
    given = {name: value for name, value in asked.items() if value is not None}
    trials = None if options["trials"] is None else str(options["trials"])
    the_space = loading.load_space(str(options["space"] or "ex3"))
    notes: list[str] = []
    if limits := parse_limits(options["max"]):
        if resume:
            raise InputError(f"--max {limits[0]}: a study keeps the limits that it was begun with")
        the_space, notes = limit_parsed_space(the_space, limits, given)
    where = choose_results_folder(options["results"], options["address"])
    folder = get_study_folder(where, options["study"] or choose_study_name(the_space.name))
    known: list[Known] = []
    if options["from_"] is not None:
        told = format_option(options["from_"])
        if resume:
            raise InputError(f"--from {told}: a study learns from others when it is begun")
        known, about_known = load_known_trials(told, where, the_space, given)
        notes += about_known
    if resume:
        wanted = the_space if options["space"] else None
        plan, the_space = plan_resumed_study(folder, trials, given, wanted, options["force"])
    else:
        plan = plan_new_study(folder, the_space, trials, given)
    hours = check_number("hours", options["hours"])
    if hours is not None and not 0 < hours <= MAX_HOURS:
        raise InputError(f"--hours {hours:g}: has to be above 0 and at most {MAX_HOURS:,}")
    return SearchRequest(
        folder,
        plan,
        the_space,
        resume,
        {
            "cpus": check_number("cpus_per_trial", options["cpus_per_trial"]),
            "gpus": check_number("gpus_per_trial", options["gpus_per_trial"]),
            "concurrent": check_number("concurrent", options["concurrent"]),
        },
        hours=hours if hours is not None else the_space.budget.hours,
        address=options["address"],
        database=_absolute_database(options["storage"]),
        known=known,
        fuse=parse_fuse(options["fuse"]),
        notes=notes,
    )


def limit_parsed_space(
    the_space: Space, limits: list[str], given: dict[str, Any]
) -> tuple[Space, list[str]]:
    """Apply `--max`.

    Returns:
        The space within the limits, and one line about the points and changes left out, if any.

    Raises:
        InputError: A limit is not one, or the sampler begins with a named point and none is left.
    """
    within = loading.limit_space(the_space, limits)
    out = {
        name: within.check(config)
        for name, config in the_space.points.items()
        if name not in within.points
    }
    told = f"--max {', '.join(limits)}"
    sampler = given.get("sampler") or choose_sampler(the_space, get_cost(the_space, given))
    needs_point = sampler == "points" or (sampler == "greedy" and the_space.file.series)
    if out and not within.points and (needs_point or not the_space.file.params):
        name, reason = next(iter(out.items()))
        why, way = (
            (f"--sampler {sampler} starts at one", " or choose another sampler")
            if the_space.file.params
            else (f"{the_space.name} searches no parameters", "")
        )
        raise InputError(
            f"{told}: every named point of {the_space.name} exceeds the limit ({name}: {reason}), "
            f"and {why}. Raise the limit{way}."
        )
    changes = the_space.file.series.keys() - within.file.series.keys()
    left_out = [f"{len(out)} of {len(the_space.points)} named points: {', '.join(out)}"] * bool(out)
    left_out += [f"{len(changes)} of {len(the_space.file.series)} changes"] * bool(changes)
    return within, [f"{told} leaves out {' and '.join(left_out)}"] if left_out else []


def _absolute_database(url: str | None) -> str | None:
    """Make the path in the URL of a database file absolute: the command that resumes is printed,
    and may be used in another folder."""
    for scheme in (SQLITE, JOURNAL):
        if url is not None and url.startswith(scheme):
            path, mark, options = url.removeprefix(scheme).partition("?")
            return f"{scheme}{Path(path).expanduser().absolute()}{mark}{options}" if path else url
    return url


def load_known_trials(
    told: str, where: str, the_space: Space, given: dict[str, Any]
) -> tuple[list[Known], list[str]]:
    """What the studies of `--from` know of the space, and in words. Raises `InputError`."""
    frontier = get_cost(the_space, given)
    who = given.get("sampler") or choose_sampler(the_space, frontier)
    if who not in LEARNING:
        raise InputError(f"--from {told}: {who} does not learn; {LEARN} do")
    if frontier == "epoch_time_s":
        raise InputError(f"--from {told}: says nothing of the time of an epoch here")
    names = [name.strip() for name in told.split(",")]
    return warm_start.load_known(names, where, the_space)


def parse_fuse(told: int | str | None) -> int | None:
    """`--fuse`: how many at most; None: as many as pays."""
    if told in (None, "auto"):
        return None
    if told == "off":
        return 1
    if not re.fullmatch("[0-9]{1,4}", str(told)) or int(told or 0) < 2:
        raise InputError(f"--fuse {told}: auto, off, or how many at most, from 2 to 9999")
    return int(told or 0)


def choose_results_folder(told: str | Path | None, address: str | None) -> str:
    """Where studies lie. Raises `InputError` on a cluster where nobody has said: a folder of the
    head's goes with the head."""
    if said := told or os.environ.get("RAYCAE_RESULTS"):
        return str(said)
    if not starts_own_ray(address):
        require_ray_head(find_ray(address))
        raise InputError(
            "--results: has to be said on a cluster, here or in RAYCAE_RESULTS: a folder that all "
            "nodes share, or an object store: s3://BUCKET/PATH"
        )
    return "results"


def check_number(option: str, value: Any) -> Any:
    """A number from Python by what the command's option of that name allows; None as it is. Raises
    `InputError`."""
    if value is None:
        return None
    kind, low, high = RANGES[option]
    whole = kind is int
    fits = isinstance(value, Integral if whole else Real) and not isinstance(value, bool)
    if fits and not (low is not None and value < low) and not (high is not None and value > high):
        return int(value) if whole else float(value)
    words = [
        "a whole number" if whole else "a number",
        "" if low is None else f"from {low:g}",
        "" if high is None else f"to {high}",
    ]
    name = option.replace("_", "-")
    raise InputError(f"--{name} {value!r}: has to be {' '.join(filter(None, words))}")


def parse_limits(limits: Mapping[str, float] | Sequence[str] | None) -> list[str]:
    """`NAME=VALUE`, as typed."""
    if isinstance(limits, Mapping):
        return [f"{name}={value}" for name, value in limits.items()]
    return [limits] if isinstance(limits, str) else list(limits or ())


def plan_new_study(
    folder: Place, the_space: Space, trials: str | None, given: dict[str, Any]
) -> Plan:
    """A new study, checked before anything heavy is imported or written."""
    budget = the_space.budget
    cost = get_cost(the_space, given)
    sampler = given.get("sampler", choose_sampler(the_space, cost))
    defaults = {
        "objective": the_space.file.objective,
        "data": given.get("data") or the_space.source,
        "epochs": budget.epochs,
        "limit": budget.limit,
        "seed": 0,
        "sampler": sampler,
        # These compare errors after equally many epochs.
        "scheduler": "none" if sampler in ("greedy", "points") else "asha",
        "factor": FACTOR,
    }
    settings = {**defaults, **given}
    if settings["scheduler"] == "none":
        for name in given.keys() & {"grace", "factor"}:
            raise InputError(f"--{name} {settings[name]}: says when --scheduler none stops: never")
        if (n := settings.get("first_images")) is not None:
            raise InputError(
                f"--first-images {n}: few images are for finding out whom to stop, and "
                "--scheduler none stops nobody"
            )
    total = parse_trials(trials, so_far=0) or budget.trials
    only_points = trials is None and not the_space.file.params and sampler != "greedy"
    if sampler == "points" or (only_points and the_space.points):
        total = min(total, len(the_space.points))
    require_free_place(folder)
    require_possible(the_space, settings["sampler"], total)
    check_option_combinations(the_space, settings, cost)
    if sampler == "strata":
        settings["strata"] = choose_strata(the_space, settings.get("strata"))
    return Plan(study=folder.name, space=the_space.name, trials=total, **settings)


def get_cost(the_space: Space, given: dict[str, Any]) -> str | None:
    """What counts beside the error; None where the error alone does."""
    frontier = given.get("objective", the_space.file.objective) == "frontier"
    return given.get("cost", "latent_size") if frontier else None


def check_option_combinations(the_space: Space, settings: dict[str, Any], cost: str | None) -> None:
    """Raise `InputError` where one option has nothing to say beside the others."""
    sampler = settings["sampler"]
    if cost is None:
        for name in settings.keys() & {"cost", "strata"}:
            raise InputError(
                f"--{name} {format_option(settings[name])}: of --objective frontier only"
            )
        if sampler == "strata":
            raise InputError("--sampler strata: searches a frontier; add --objective frontier")
    elif sampler == "greedy":
        raise InputError("--objective frontier: greedy is after one winner; take strata or tpe")
    elif sampler == "strata" and cost != "latent_size":
        raise InputError(f"--cost {cost}: strata are of latent sizes; take --sampler tpe")
    elif sampler != "strata" and "strata" in settings:
        told = format_option(settings["strata"])
        raise InputError(f"--strata {told}: of --sampler strata only; {sampler} looks at no strata")
    if (n := settings.get("settings", 1)) > 1:
        if sampler not in (*LEARNING, "random"):
            raise InputError(f"--settings {n}: {sampler} draws none; {LEARN} and random do")
        if not the_space.file.params.keys() & set(TRAINING_KEYS):
            named = ", ".join(TRAINING_KEYS)
            raise InputError(f"--settings {n}: {the_space.name} searches none of {named}")


def choose_strata(the_space: Space, wanted: list[int] | None) -> list[int]:
    """The strata that are asked for, or of the usual ones those that the space reaches. Raises
    `InputError` for one that no network lies in."""
    bounds = wanted or list(USUAL_STRATA)
    there = find_reachable_strata(the_space, bounds)
    if there and wanted is None:
        return there
    for below, bound in itertools.pairwise([0, *bounds]):
        if bound not in there:
            raise InputError(
                f"--strata {bound}: no network of {the_space.name} was found that has a latent "
                f"of {below + 1:,} to {bound:,} numbers"
            )
    return there


def parse_strata(text: str) -> list[int]:
    """`64,128,256`"""
    bounds = [int(size) if re.fullmatch("[0-9]{1,9}", size) else 0 for size in text.split(",")]
    if min(bounds) < 1 or bounds != sorted(set(bounds)):
        raise InputError(f"--strata {text}: write latent sizes, each above the last: 64,128,256")
    return bounds


def format_option(value: Any) -> str:
    return ",".join(map(str, value)) if isinstance(value, (list, tuple)) else str(value)


def plan_resumed_study(
    folder: Place,
    trials: str | None,
    given: dict[str, Any],
    wanted: Space | None,
    force: bool,
) -> tuple[Plan, Space]:
    """What the study was begun with; only its number of trials may change, and by `force` the text
    of its space."""
    if not holds_study(folder):
        raise InputError(f"--resume: {folder} holds no study; leave --resume out to begin one")
    content = read_content(folder)
    plan = load_plan(content)
    for name, value in given.items():
        if value != getattr(plan, name):
            raise InputError(
                f"--{name.replace('_', '-')} {format_option(value)}: this study was begun with "
                f"{format_option(getattr(plan, name))}; "
                "leave the option out, or begin another study with --study NAME"
            )
    the_space = load_study_space(content)
    require_comparable(content.get("versions") or {}, force)
    if wanted and wanted.hash != the_space.hash:
        if not force:
            raise InputError(
                f"--space {wanted.name}: this study was begun with a space of other content; "
                "--study NAME alone goes on with that one; --force goes on with this one; "
                "or begin another study"
            )
        if (wanted.task, wanted.image_size) != (the_space.task, the_space.image_size):
            raise InputError(
                f"--space {wanted.name}: {wanted.task} at {wanted.image_size} pixels cannot be "
                f"compared with this study's {the_space.task} at {the_space.image_size}; "
                "begin another study"
            )
        the_space = wanted
    total = parse_trials(trials, so_far=plan.trials) or plan.trials
    if total < (there := count_begun(folder)):
        raise InputError(
            f"--trials {trials}: {there} trials have been begun already; "
            f"the study's total has to be at least that, or +N"
        )
    return replace(plan, trials=total, space=the_space.name), the_space


def require_comparable(before: dict[str, str], force: bool) -> None:
    """Say which packages have changed since the study was begun. Raises `InputError` where errors
    measured then and now would not be comparable, unless `force`."""
    now = get_versions()
    changed = [
        f"{name} {before[name]} → {now[name]}"
        for name in now
        if before.get(name, now[name]) != now[name]
    ]
    if not changed:
        return
    print(f"versions have changed since this study was begun: {', '.join(changed)}", flush=True)
    decisive = [
        name
        for name in DECISIVE
        if name in before and before[name].split(".")[:2] != now.get(name, "").split(".")[:2]
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
    """Where the study called `name` lies. Raises `InputError` for a name that is none."""
    if not re.fullmatch(rf"[A-Za-z0-9_][A-Za-z0-9_.-]{{0,{MAX_STUDY_NAME - 1}}}", name):
        raise InputError(
            f"--study {name!r}: letters, digits, '_', '-' and '.' are allowed, "
            f"at most {MAX_STUDY_NAME}, "
            "the first one a letter, a digit or '_'"
        )
    return resolve_place(results_folder) / name


def parse_trials(trials: str | None, *, so_far: int) -> int | None:
    """`--trials`: the study's total, or with a plus what is added to it. None if not given."""
    if trials is None:
        return None
    digits = trials.removeprefix("+")
    if not re.fullmatch("[0-9]{1,9}", digits) or int(digits) < 1:
        raise InputError(f"--trials {trials}: has to be a whole number from 1, or +N to add N")
    return int(digits) + (so_far if trials.startswith("+") else 0)


def require_choice(option: str, value: str | None, allowed: Iterable[str]) -> None:
    if value is not None and value not in tuple(allowed):
        raise InputError(f"{option} {value}: not known; allowed: {', '.join(allowed)}")


def make_absolute(source: str | None) -> str | None:
    """Make the path of a data source absolute, because trials run elsewhere."""
    return None if source is None else sources.resolve_source(source)
