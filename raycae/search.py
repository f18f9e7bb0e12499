"""`raycae search`: space, data, sampler, stopping and trainable, wired into a Ray `Tuner`.

This file is also what `ray submit cluster/gpu.yaml raycae/search.py …` copies to a cluster's head
and runs there, so it imports the installed package only, and defines nothing that a worker has to
unpickle. Ray and torch are imported once a search begins.
"""

from __future__ import annotations

import sys

if __name__ == "__main__":
    # As a script, this file runs the search of the installed package. Python has put the folder of
    # the script first on the path, where a file `optuna.py` would be imported; so nothing else is
    # imported before that folder is gone.
    if not getattr(sys.flags, "safe_path", False):
        del sys.path[0]
    from importlib import import_module

    from raycae.import_path import remove_current_folder

    remove_current_folder()
    sys.exit(import_module("raycae.search").main())

import functools
import hashlib
import itertools
import os
import re
import shlex
import signal
import tempfile
import threading
import time
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, replace
from numbers import Integral, Real
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Annotated, Any, get_args, get_type_hints

import typer

from raycae import data as sources
from raycae import earlier, nodes
from raycae import space as spaces
from raycae.config import TRAINING_KEYS
from raycae.errors import Hopeless, InputError, StorageError, Unfinished, told_on_stderr
from raycae.finish import Finish
from raycae.frontier import COSTS, USUAL_STRATA
from raycae.provenance import versions
from raycae.ray_session import connect_ray, find_ray, require_ray_head, starts_own_ray
from raycae.reader import StudyReader
from raycae.results import study_argument
from raycae.searcher import (
    REPEATS,
    SAMPLERS,
    reachable,
    require_possible,
    usual_sampler,
)
from raycae.shared import JOURNAL, SQLITE, require_database, shown
from raycae.stopping import FACTOR, SCHEDULERS
from raycae.storage import Place, patience, place
from raycae.study import (
    Plan,
    Study,
    holds_study,
    n_begun,
    plan_of,
    read_content,
    require_place,
    space_of,
)
from raycae.study_images import load_images
from raycae.terminal import configure_output, require_current_folder

if TYPE_CHECKING:
    import numpy as np

    from raycae.progress import Progress

MAX_SEED = 2**32 - 1  # what numpy and torch both take
MAX_HOURS = 100_000
MAX_CONCURRENT = 1_000_000
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
LEARNING = ("tpe", "strata")
LEARN = " and ".join(LEARNING)
DECISIVE = ("raycae", "torch")
"""Another minor version of these may train or measure otherwise."""


LimitOption = Annotated[
    int | None,
    typer.Option(
        min=16,
        metavar="IMAGES",
        help="Images for training and validation together.",
        show_default="all",
    ),
]
ResultsOption = Annotated[
    str,
    typer.Option(
        "--results",
        metavar="FOLDER|URI",
        envvar="RAYCAE_RESULTS",
        help="Where studies lie: a folder, s3://BUCKET/PATH, gs://…",
    ),
]
SearchResultsOption = Annotated[
    str | None,
    typer.Option(
        "--results",
        metavar="FOLDER|URI",
        envvar="RAYCAE_RESULTS",
        help="Where studies lie: a folder, s3://BUCKET/PATH, gs://… Has to be said on a cluster.",
        show_default="results",
    ),
]
CpusOption = Annotated[int, typer.Option(min=1, metavar="C", help="CPU cores a trial.")]
GpusOption = Annotated[
    float | None,
    typer.Option(
        min=0.0,
        metavar="G",
        help="GPUs a trial, e.g. 0.25 for four on one.",
        show_default="1 if there is any",
    ),
]
ConcurrentOption = Annotated[
    int | None,
    typer.Option(min=1, metavar="K", help="Trials at a time.", show_default="as many as fit"),
]
AddressOption = Annotated[
    str | None,
    typer.Option(
        metavar="A",
        help="A running Ray: auto, or its address; local: one of this machine's own.",
        show_default="the cluster this machine is in, or its own",
    ),
]


def search(
    space: Annotated[
        str | None,
        typer.Option(
            "--space",
            metavar="NAME|FILE",
            help="A shipped space (see `raycae spaces`) or a file.",
            show_default="ex3",
        ),
    ] = None,
    data: Annotated[
        str | None,
        typer.Option(
            "--data",
            metavar="SOURCE",
            help="cifar10, photos, or a folder of Parquet files or of images.",
            show_default="the space's",
        ),
    ] = None,
    trials: Annotated[
        str | None,
        typer.Option(
            metavar="N|+N",
            help="Trials of the study in all; +N adds to them.",
            show_default="the space's",
        ),
    ] = None,
    epochs: Annotated[
        int | None,
        typer.Option(min=1, metavar="E", help="Epochs a trial.", show_default="the space's"),
    ] = None,
    hours: Annotated[
        float | None,
        typer.Option(metavar="H", help="End the search in order after so long."),
    ] = None,
    limit: LimitOption = None,
    results: SearchResultsOption = None,
    study: Annotated[
        str | None,
        typer.Option(
            "--study",
            metavar="NAME",
            help="The folder under the results.",
            show_default="the space's name",
        ),
    ] = None,
    seed: Annotated[
        int | None,
        typer.Option(
            min=0,
            max=MAX_SEED,
            metavar="S",
            help="Of splits, weights and proposals.",
            show_default="0",
        ),
    ] = None,
    sampler: Annotated[
        str | None,
        typer.Option(metavar="NAME", help=f"{', '.join(SAMPLERS)}.", show_default="the space's"),
    ] = None,
    scheduler: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help=f"Early stopping: {', '.join(SCHEDULERS)}.",
            show_default="asha",
        ),
    ] = None,
    max: Annotated[
        list[str] | None,
        typer.Option(
            "--max",
            metavar="NAME=VALUE",
            help="What a trial may have at most: latent_size, n_params, flops, epoch_time_s; may "
            "be repeated. Named points with more are left out.",
            show_default="the space's",
        ),
    ] = None,
    grace: Annotated[
        int | None,
        typer.Option(
            min=1, metavar="E", help="No trial is stopped before epoch E.", show_default="1"
        ),
    ] = None,
    first_images: Annotated[
        int | None,
        typer.Option(
            min=16,
            metavar="IMAGES",
            help="Few images first: epoch 1 sees so many, each further one twice as many.",
            show_default="all",
        ),
    ] = None,
    factor: Annotated[
        int | None,
        typer.Option(
            min=2,
            metavar="F",
            help="At each early-stopping check, keep the best 1 in F trials.",
            show_default=str(FACTOR),
        ),
    ] = None,
    repeats: Annotated[
        str | None,
        typer.Option(
            metavar="HOW",
            help="A proposal that was run already: refuse it, or run it with another seed: seed.",
            show_default="refuse",
        ),
    ] = None,
    objective: Annotated[
        str | None,
        typer.Option(
            metavar="WHAT",
            help="The least error, val_mse; or the frontier of error against a cost: frontier.",
            show_default="the space's",
        ),
    ] = None,
    cost: Annotated[
        str | None,
        typer.Option(
            metavar="COLUMN",
            help=f"Of the frontier: {', '.join(COSTS)}.",
            show_default="latent_size",
        ),
    ] = None,
    strata: Annotated[
        str | None,
        typer.Option(
            metavar="N,N",
            help="Latent sizes that the sampler strata keeps a best trial up to, spending the "
            "next one where the curve is weakest.",
            show_default=f"of {','.join(map(str, USUAL_STRATA))} what the space reaches",
        ),
    ] = None,
    settings: Annotated[
        int | None,
        typer.Option(
            min=1,
            max=1000,
            metavar="K",
            help="Settings of the training (optimizer, learning rate, …) for each network; only "
            "its best so far goes on.",
            show_default="1",
        ),
    ] = None,
    from_: Annotated[
        str | None,
        typer.Option(
            "--from",
            metavar="STUDY,STUDY",
            help="Earlier studies whose trials the sampler knows from the beginning.",
        ),
    ] = None,
    cpus_per_trial: CpusOption = 1,
    gpus_per_trial: GpusOption = None,
    concurrent: ConcurrentOption = None,
    fuse: Annotated[
        str | None,
        typer.Option(
            metavar="auto|off|M",
            help="Trials of one network (--settings) that train as one: as many as pays, none, or "
            "at most M.",
            show_default="auto",
        ),
    ] = None,
    address: AddressOption = None,
    storage: Annotated[
        str | None,
        typer.Option(
            "--storage",
            metavar="URL",
            help="A database with the Optuna study, to look at, and for several searches to "
            "extend: postgresql+psycopg://…, sqlite:///FILE, journal:///FILE.",
            show_default="none",
        ),
    ] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on with the study where it stands.")
    ] = False,
    force: Annotated[
        bool,
        typer.Option(
            "--force", help="With --resume: go on though versions or the space have changed."
        ),
    ] = False,
) -> None:
    """Search a space: Optuna proposes, Ray trains, results go into Parquet and a report.

    Example: raycae search --space ex3 --trials 50 --epochs 10
    """
    try:
        run_search(**locals())  # its options by their names
    except KeyboardInterrupt:
        raise typer.Exit(128 + signal.SIGINT) from None


def run_search(
    space: str | Path | None = None,
    data: str | Path | None = None,
    *,
    trials: int | str | None = None,
    epochs: int | None = None,
    hours: float | None = None,
    limit: int | None = None,
    results: str | Path | None = None,
    study: str | None = None,
    seed: int | None = None,
    sampler: str | None = None,
    scheduler: str | None = None,
    max: Mapping[str, float] | Sequence[str] | None = None,
    grace: int | None = None,
    first_images: int | None = None,
    factor: int | None = None,
    repeats: str | None = None,
    objective: str | None = None,
    cost: str | None = None,
    strata: Sequence[int] | str | None = None,
    settings: int | None = None,
    from_: Sequence[str] | str | None = None,
    cpus_per_trial: int = 1,
    gpus_per_trial: float | None = None,
    concurrent: int | None = None,
    fuse: int | str | None = None,
    address: str | None = None,
    storage: str | None = None,
    resume: bool = False,
    force: bool = False,
) -> StudyReader:
    """`raycae search` from Python: the same options by the same names (`from_`, for `from` is a
    word of Python's), with the same meaning, ranges and defaults (`raycae search --help`).

    `max` is `{"n_params": 5000}`, `strata` `[64, 128]`, `from_` `["ex2"]`; text is taken as it
    would be typed. Returns the study, to be read, once the search has ended and its report is
    written. An interrupt (Ctrl-C, or a notebook's stop button) ends the search in order and is a
    `KeyboardInterrupt` then; `open_study` reads what there is, `resume=True` goes on.

    Raises `InputError` for a value that is not allowed, `StorageError` where results cannot be
    written, `Hopeless` where trials fail one after the other for one reason, `Unfinished` where all
    trials are recorded but a step after them failed (exit code 1 of the command).
    """
    asked = prepared(**locals())
    sources.check(asked.plan.data)
    if asked.database is not None:
        require_database(asked.database)
    for note in asked.notes:
        print(note, flush=True)
    code = run(
        asked.folder,
        asked.plan,
        asked.space,
        asked.resume,
        asked.resources,
        hours=asked.hours,
        address=asked.address,
        database=asked.database,
        known=asked.known,
        fuse=asked.fuse,
    )
    if code == 128 + signal.SIGINT:
        raise KeyboardInterrupt
    if code:
        raise SystemExit(code)
    return StudyReader(asked.folder)


@dataclass(frozen=True)
class Search:
    """What a search was asked to do, and makes sense."""

    folder: Place
    plan: Plan
    space: spaces.Space
    resume: bool
    resources: dict[str, Any]
    hours: float | None
    address: str | None
    database: str | None
    known: list[earlier.Known]
    fuse: int | None
    notes: list[str]
    """What the person should know before it begins: points left out, earlier studies used."""


def prepared(**options: Any) -> Search:
    """What the options of `run_search` ask for, checked as far as any machine that reaches the
    results can: neither images nor database are looked at. Raises `InputError`."""
    for name, allowed in CHOICES.items():
        _require_choice(f"--{name}", options[name], allowed)
    data, strata, resume = options["data"], options["strata"], options["resume"]
    asked = {
        "data": None if data is None else absolute(str(data)),
        "strata": None if strata is None else _bounds(_told_as(strata)),
        **{name: options[name] for name in CHOICES},
        **{name: _number(name, options[name]) for name in COUNTS},
    }
    given = {name: value for name, value in asked.items() if value is not None}
    trials = None if options["trials"] is None else str(options["trials"])
    the_space = spaces.load(str(options["space"] or "ex3"))
    notes: list[str] = []
    if limits := _limits(options["max"]):
        if resume:
            raise InputError(f"--max {limits[0]}: a study keeps the limits that it was begun with")
        the_space, notes = _bounded(the_space, limits, given)
    where = _results(options["results"], options["address"])
    folder = study_folder(where, options["study"] or default_study(the_space.name))
    known: list[earlier.Known] = []
    if options["from_"] is not None:
        told = _told_as(options["from_"])
        if resume:
            raise InputError(f"--from {told}: a study learns from others when it is begun")
        known, about_known = _known(told, where, the_space, given)
        notes += about_known
    if resume:
        wanted = the_space if options["space"] else None
        plan, the_space = _resumed(folder, trials, given, wanted, options["force"])
    else:
        plan = _planned(folder, the_space, trials, given)
    hours = _number("hours", options["hours"])
    if hours is not None and not 0 < hours <= MAX_HOURS:
        raise InputError(f"--hours {hours:g}: has to be above 0 and at most {MAX_HOURS:,}")
    return Search(
        folder,
        plan,
        the_space,
        resume,
        {
            "cpus": _number("cpus_per_trial", options["cpus_per_trial"]),
            "gpus": _number("gpus_per_trial", options["gpus_per_trial"]),
            "concurrent": _number("concurrent", options["concurrent"]),
        },
        hours=hours if hours is not None else the_space.budget.hours,
        address=options["address"],
        database=_absolute_database(options["storage"]),
        known=known,
        fuse=_fuse(options["fuse"]),
        notes=notes,
    )


def _bounded(
    the_space: spaces.Space, limits: list[str], given: dict[str, Any]
) -> tuple[spaces.Space, list[str]]:
    """Apply `--max`.

    Returns:
        The space within the limits, and one line about the points and changes left out, if any.

    Raises:
        InputError: A limit is not one, or the sampler begins with a named point and none is left.
    """
    within = spaces.bounded(the_space, limits)
    out = {
        name: within.check(config)
        for name, config in the_space.points.items()
        if name not in within.points
    }
    told = f"--max {', '.join(limits)}"
    sampler = given.get("sampler") or usual_sampler(the_space, _cost(the_space, given))
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


def _known(
    told: str, where: str, the_space: spaces.Space, given: dict[str, Any]
) -> tuple[list[earlier.Known], list[str]]:
    """What the studies of `--from` know of the space, and in words. Raises `InputError`."""
    frontier = _cost(the_space, given)
    who = given.get("sampler") or usual_sampler(the_space, frontier)
    if who not in LEARNING:
        raise InputError(f"--from {told}: {who} does not learn; {LEARN} do")
    if frontier == "epoch_time_s":
        raise InputError(f"--from {told}: says nothing of the time of an epoch here")
    names = [name.strip() for name in told.split(",")]
    return earlier.known(names, where, the_space)


def _fuse(told: int | str | None) -> int | None:
    """`--fuse`: how many at most; None: as many as pays."""
    if told in (None, "auto"):
        return None
    if told == "off":
        return 1
    if not re.fullmatch("[0-9]{1,4}", str(told)) or int(told or 0) < 2:
        raise InputError(f"--fuse {told}: auto, off, or how many at most, from 2 to 9999")
    return int(told or 0)


def _results(told: str | Path | None, address: str | None) -> str:
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


def _number(option: str, value: Any) -> Any:
    """A number from Python by what the command's option of that name allows; None as it is. Raises
    `InputError`."""
    if value is None:
        return None
    hint = get_type_hints(search, include_extras=True)[option]
    (allowed,) = hint.__metadata__
    whole = float not in (hint.__origin__, *get_args(hint.__origin__))
    low, high = allowed.min, allowed.max
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


def _limits(limits: Mapping[str, float] | Sequence[str] | None) -> list[str]:
    """`NAME=VALUE`, as typed."""
    if isinstance(limits, Mapping):
        return [f"{name}={value}" for name, value in limits.items()]
    return [limits] if isinstance(limits, str) else list(limits or ())


def run(
    folder: Place,
    plan: Plan,
    the_space: spaces.Space,
    resume: bool,
    resources: dict[str, Any],
    *,
    hours: float | None = None,
    address: str | None = None,
    database: str | None = None,
    known: Iterable[earlier.Known] = (),
    fuse: int | None = None,
    go_on: str | None = None,
) -> int:
    """One search from its images to its report. Returns the exit code: 0, 130 or 143. Raises
    `Hopeless` where it stopped because every trial failed for the same reason, and `StorageError`.
    Where a step after the trials failed, the summary is printed with a note on each such step;
    then the fault is raised, or `Unfinished` where it was an `InputError`.

    `fuse`: trials at most in a cohort; None: as many as pays.
    `go_on`: the command that goes on with it, if it is not `raycae search --resume`.
    """
    # All of it now: a package that is updated while a search runs must not end it half old, half
    # new.
    from raycae import evaluation, report  # noqa: F401
    from raycae.progress import Progress, described, frontier_line, summary

    load = functools.partial(_load_images, folder, plan, the_space, resume)
    until = None if hours is None else time.monotonic() + hours * 3600
    progress = Progress(plan.trials, plan.epochs, until=until)
    received: list[int] = []
    begun: list[Study] = []

    def over() -> bool:
        return bool(received) or _passed(until)

    with (
        _signals(received, begun) as take_back,
        patience.of(progress.wait, lambda: bool(received)),
        progress,
        ExitStack() as open_study,
    ):
        # A fault of the images is found before a Ray is started for them; a cluster that is there
        # says what is wrong before they are loaded, which may take minutes.
        own = starts_own_ray(address)
        images = load() if own else None
        with connect_ray(address) as is_own:
            take_back()  # Ray takes SIGTERM for itself when it starts, and lets it kill afterwards
            room = nodes.Room(
                **resources,
                autoscaler=nodes.Autoscaler() if is_own else nodes.survey(folder.parent),
            )
            images = images or load()
            study = _open(folder, plan, the_space, resume, images, progress, database, known)
            open_study.enter_context(closing(study))
            begun.append(study)
            test = images.test if plan.test_curves else None
            _train(study, images, test, room, fuse, over, progress)
        take_back()
        finish = _finish(study, images, progress, lambda: bool(received))
        evaluate = f"raycae evaluate {study_argument(folder)}"
        finish.attempt("The tables could not be written", evaluate, open_study.close)
    for note in [*study.notes, *finish.notes]:
        print(f"note     {note}")
    counts = study.records.counts()
    print(f"{summary(counts)} of {plan.trials} trials")
    if best := study.records.best():
        print(f"best     {described(best)}")
    if plan.objective == "frontier":
        print(frontier_line(study.records.frontier(), plan.cost))
    print(f"results  {short(folder)}")
    if (folder / "report.html").exists():
        print(f"report   {short(folder / 'report.html')}")
    if go_on is None:
        go_on = f"raycae search --resume --study {plan.study}{_results_option(folder)}"
        if database:
            go_on += f" --storage {shlex.quote(shown(database))}"
    if received:
        print(f"Interrupted; go on with: {go_on}")
    elif _passed(until) and len(study.records.trials) < plan.trials:
        print(f"Time is up; go on with: {go_on}")
    elif not study.hopeless and len(study.records.trials) < plan.trials:
        print("Nothing is left to try in this space.")
    finish.raise_fault()
    if received:
        return 128 + received[0]
    if study.hopeless:
        raise Hopeless(f"{study.hopeless}; once that is mended: {go_on}")
    if finish.errors:
        raise Unfinished(
            "all trials are recorded, but not every step after them succeeded; "
            "the notes above say what to run"
        )
    return 0


def _results_option(folder: Place) -> str:
    if folder.parent == place("results"):
        return ""
    return f" --results {shlex.quote(str(folder.parent))}"


def _train(
    study: Study,
    images: sources.Images,
    test: np.ndarray | None,
    room: nodes.Room,
    fuse: int | None,
    over: Callable[[], bool],
    progress: Progress,
) -> None:
    """All trials, on Ray. Raises `StorageError` where results can no longer be written."""
    from ray import tune
    from ray.tune.execution import class_cache

    from raycae.bridge import Run, StudyCallback, StudySearcher, StudyStopper
    from raycae.trainable import AutoencoderTrainable

    settings = {
        "epochs": study.plan.epochs,
        "first_images": study.plan.first_images,
        "threads": room.cpus,
        "folder": str(study.folder),
        "fuse": fuse,
    }
    # On a CPU it pays for some networks, at some moments (analysis/FINDINGS.md), and a search there
    # is repeatable to the bit, which what is decided by a clock is not.
    most = fuse or (study.plan.settings if room.gpus else 1)
    trainable = tune.with_resources(
        tune.with_parameters(
            AutoencoderTrainable,
            train=images.train,
            val=images.val,
            test=test,
            labels=images.labels,
        ),
        {"cpu": room.cpus, "gpu": room.gpus},
    )
    # Tune would send the keys of an object store with each trial, and Ray writes to its log what is
    # sent; each node has keys of its own.
    sent = class_cache.ENV_VARS_TO_PROPAGATE
    sent -= {name for name in sent if name.startswith("AWS_")}
    # Tune would ask for one actor at a time and hand trials that end quickly to the first one for
    # ever; so it asks for all that the searcher gives: no more than run at a time, so that each
    # proposal knows of every trial that has ended.
    os.environ["TUNE_MAX_PENDING_TRIALS_PG"] = str(MAX_CONCURRENT)
    run = Run(study, over, progress)
    with tempfile.TemporaryDirectory(prefix="raycae-tune-") as scratch:
        tune.Tuner(
            trainable,
            tune_config=tune.TuneConfig(
                search_alg=StudySearcher(run, settings, room.places, most),
                num_samples=-1,
                reuse_actors=True,
                trial_name_creator=_attempt_name,
                trial_dirname_creator=_attempt_name,
            ),
            run_config=tune.RunConfig(
                name="tune",
                storage_path=scratch,
                stop=StudyStopper(run),
                callbacks=[StudyCallback(run)],
                failure_config=tune.FailureConfig(max_failures=0),  # attempts are the study's
                checkpoint_config=tune.CheckpointConfig(checkpoint_at_end=False),  # ours
                progress_reporter=tune.CLIReporter(),  # a notebook's would clear the cell
                verbose=0,
            ),
        ).fit()
    if isinstance(run.fault, StorageError):
        study.broken = True
    if run.fault:
        study.interrupted()
        raise run.fault


def _attempt_name(trial: Any) -> str:
    first = trial.config["issues"][0]
    return f"{first['number']}-{first['attempt']}"


def _passed(until: float | None) -> bool:
    return until is not None and time.monotonic() >= until


def _finish(
    study: Study, images: sources.Images, progress: Progress, over: Callable[[], bool]
) -> Finish:
    """Write the tables and measure test errors, pictures and baselines, then write the report.

    Each step runs even when an earlier one has failed.

    Args:
        study: The study, whose trials have ended or were interrupted.
        images: Its images.
        progress: The live view.
        over: Whether a person waits for the end; then only the tables and the report are written.

    Returns:
        What failed, with the commands that do it later.
    """
    from raycae import evaluation, report

    finish = Finish()
    named = study_argument(study.folder)
    evaluate, write = f"raycae evaluate {named}", f"raycae report {named}"
    unmarked = "The trials that still ran could not be marked as interrupted"
    finish.attempt(unmarked, evaluate, study.interrupted)
    unwritten = "The tables could not be written"
    finish.attempt(unwritten, evaluate, study.records.write, study.folder)
    if not over():
        progress.say("Evaluating kept models on the test images …")
        failure = "The kept models could not be evaluated on the test images"
        finish.attempt(failure, evaluate, evaluation.evaluate, study, images, over)
        finish.attempt(unwritten, evaluate, study.records.write, study.folder)
    if not over():
        progress.say("Painting pictures and fitting linear codes …")
        failure = "Pictures and baselines could not be made"
        finish.attempt(failure, write, evaluation.illustrate, study.folder, images, over, finish)
    progress.say("Writing the report …")
    notes = [*study.notes, *finish.notes]
    failure = "The report could not be written"
    finish.attempt(failure, write, report.write, study.folder, notes=notes)
    return finish


def _planned(
    folder: Place, the_space: spaces.Space, trials: str | None, given: dict[str, Any]
) -> Plan:
    """A new study, checked before anything heavy is imported or written."""
    budget = the_space.budget
    cost = _cost(the_space, given)
    sampler = given.get("sampler", usual_sampler(the_space, cost))
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
    total = _total(trials, so_far=0) or budget.trials
    only_points = trials is None and not the_space.file.params and sampler != "greedy"
    if sampler == "points" or (only_points and the_space.points):
        total = min(total, len(the_space.points))
    require_place(folder)
    require_possible(the_space, settings["sampler"], total)
    _require_sense(the_space, settings, cost)
    if sampler == "strata":
        settings["strata"] = _strata(the_space, settings.get("strata"))
    return Plan(study=folder.name, space=the_space.name, trials=total, **settings)


def _cost(the_space: spaces.Space, given: dict[str, Any]) -> str | None:
    """What counts beside the error; None where the error alone does."""
    frontier = given.get("objective", the_space.file.objective) == "frontier"
    return given.get("cost", "latent_size") if frontier else None


def _require_sense(the_space: spaces.Space, settings: dict[str, Any], cost: str | None) -> None:
    """Raise `InputError` where one option has nothing to say beside the others."""
    sampler = settings["sampler"]
    if cost is None:
        for name in settings.keys() & {"cost", "strata"}:
            raise InputError(f"--{name} {_told_as(settings[name])}: of --objective frontier only")
        if sampler == "strata":
            raise InputError("--sampler strata: searches a frontier; add --objective frontier")
    elif sampler == "greedy":
        raise InputError("--objective frontier: greedy is after one winner; take strata or tpe")
    elif sampler == "strata" and cost != "latent_size":
        raise InputError(f"--cost {cost}: strata are of latent sizes; take --sampler tpe")
    elif sampler != "strata" and "strata" in settings:
        told = _told_as(settings["strata"])
        raise InputError(f"--strata {told}: of --sampler strata only; {sampler} looks at no strata")
    if (n := settings.get("settings", 1)) > 1:
        if sampler not in (*LEARNING, "random"):
            raise InputError(f"--settings {n}: {sampler} draws none; {LEARN} and random do")
        if not the_space.file.params.keys() & set(TRAINING_KEYS):
            named = ", ".join(TRAINING_KEYS)
            raise InputError(f"--settings {n}: {the_space.name} searches none of {named}")


def _strata(the_space: spaces.Space, wanted: list[int] | None) -> list[int]:
    """The strata that are asked for, or of the usual ones those that the space reaches. Raises
    `InputError` for one that no network lies in."""
    bounds = wanted or list(USUAL_STRATA)
    there = reachable(the_space, bounds)
    if there and wanted is None:
        return there
    for below, bound in itertools.pairwise([0, *bounds]):
        if bound not in there:
            raise InputError(
                f"--strata {bound}: no network of {the_space.name} was found that has a latent "
                f"of {below + 1:,} to {bound:,} numbers"
            )
    return there


def _bounds(text: str) -> list[int]:
    """`64,128,256`"""
    bounds = [int(size) if re.fullmatch("[0-9]{1,9}", size) else 0 for size in text.split(",")]
    if min(bounds) < 1 or bounds != sorted(set(bounds)):
        raise InputError(f"--strata {text}: write latent sizes, each above the last: 64,128,256")
    return bounds


def _told_as(value: Any) -> str:
    return ",".join(map(str, value)) if isinstance(value, (list, tuple)) else str(value)


def _resumed(
    folder: Place,
    trials: str | None,
    given: dict[str, Any],
    wanted: spaces.Space | None,
    force: bool,
) -> tuple[Plan, spaces.Space]:
    """What the study was begun with; only its number of trials may change, and by `force` the text
    of its space."""
    if not holds_study(folder):
        raise InputError(f"--resume: {folder} holds no study; leave --resume out to begin one")
    content = read_content(folder)
    plan = plan_of(content)
    for name, value in given.items():
        if value != getattr(plan, name):
            raise InputError(
                f"--{name.replace('_', '-')} {_told_as(value)}: this study was begun with "
                f"{_told_as(getattr(plan, name))}; "
                "leave the option out, or begin another study with --study NAME"
            )
    the_space = space_of(content)
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
    total = _total(trials, so_far=plan.trials) or plan.trials
    if total < (there := n_begun(folder)):
        raise InputError(
            f"--trials {trials}: {there} trials have been begun already; "
            f"the study's total has to be at least that, or +N"
        )
    return replace(plan, trials=total, space=the_space.name), the_space


def require_comparable(before: dict[str, str], force: bool) -> None:
    """Say which packages have changed since the study was begun. Raises `InputError` where errors
    measured then and now would not be comparable, unless `force`."""
    now = versions()
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


def default_study(space_name: str) -> str:
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


def study_folder(results_folder: str, name: str) -> Place:
    """Where the study called `name` lies. Raises `InputError` for a name that is none."""
    if not re.fullmatch(rf"[A-Za-z0-9_][A-Za-z0-9_.-]{{0,{MAX_STUDY_NAME - 1}}}", name):
        raise InputError(
            f"--study {name!r}: letters, digits, '_', '-' and '.' are allowed, "
            f"at most {MAX_STUDY_NAME}, "
            "the first one a letter, a digit or '_'"
        )
    return place(results_folder) / name


def _load_images(
    folder: Place, plan: Plan, the_space: spaces.Space, resume: bool
) -> sources.Images:
    """Load the images of a search, decoding the test images too, and print what was found."""
    if resume:
        images, notes = load_images(folder, read_content(folder), the_space.classes)
    else:
        notes = []
        images = sources.load(
            plan.data,
            image_size=the_space.image_size,
            limit=plan.limit,
            seed=plan.seed,
            classes=the_space.classes,
        )
    for line in (f"data     {images.summary}", *(f"note     {note}" for note in notes)):
        print(line, flush=True)
    return images


def describe_data(source: str, images: sources.Images) -> dict[str, Any]:
    """Return what `study.json` says of the images of a new study."""
    return {
        "source": source,
        "fingerprint": images.fingerprint,
        "n_train": len(images.train),
        "n_val": len(images.val),
        "n_test": len(images.test),
        "labels": images.labels.fingerprint,
        "splits": images.membership.checksum,
        "summary": {"text": images.summary.line(), **images.summary.as_dict()},
    }


def _open(
    folder: Place,
    plan: Plan,
    the_space: spaces.Space,
    resume: bool,
    images: sources.Images,
    progress: Progress,
    database: str | None,
    known: Iterable[earlier.Known],
) -> Study:
    if not resume:
        from raycae import evaluation

        described = describe_data(plan.data, images)
        if plan.strata:
            progress.say("fitting linear codes, to know what each latent size has to beat …")
            described["line"] = evaluation.line(the_space.task, images, plan.strata)
        splits = images.membership.to_parquet()
        study = Study.create(
            folder, plan, the_space, described, progress.listen, database, known, splits
        )
        _say_notes(study, progress)
        progress.resumed(study.records)
        return study
    begun = read_content(folder)["data"]
    fingerprint, labels = begun["fingerprint"], begun.get("labels")
    if fingerprint != images.fingerprint:
        raise InputError(
            f"{plan.data}: these are not the images this study was begun with "
            f"(fingerprint {images.fingerprint}, then {fingerprint}); begin another study"
        )
    now = images.labels.fingerprint
    if labels and now and labels != now:
        raise InputError(
            f"{plan.data}: these images were of other classes when this study was begun "
            f"(fingerprint {now}, then {labels}); begin another study"
        )
    study = Study.resume(folder, plan, progress.listen, space=the_space, database=database)
    progress.resumed(study.records)
    _say_notes(study, progress)
    to_come = max(plan.trials - len(study.records.trials), 0)
    print(
        f"resuming {plan.study}: {study.records.n_ended()} trials have ended, "
        f"{len(study.running())} go on, "
        f"{to_come} are to come",
        flush=True,
    )
    return study


def _say_notes(study: Study, progress: Progress) -> None:
    for note in study.notes:
        progress.warn(note)
    study.notes.clear()


@contextmanager
def _signals(received: list[int], begun: list[Study]) -> Iterator[Callable[[], None]]:
    """Collects the first SIGINT or SIGTERM, which ends the search in order, or at once where none
    has `begun`. The second one ends the process at once; not where a person works on in it, in a
    notebook: there a SIGINT is a `KeyboardInterrupt`. What it gives takes both signals back from
    whoever took them meanwhile."""
    mine = threading.current_thread() is threading.main_thread()
    before = {n: signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM) if mine}

    def note(number: int, frame: FrameType | None) -> None:
        once_more, interactive = bool(received), hasattr(sys, "ps1")
        received.append(number)
        if interactive and number == signal.SIGINT and (once_more or not begun):
            raise KeyboardInterrupt
        if once_more:
            os._exit(128 + number)
        if not begun:
            raise SystemExit(128 + number)

    def take() -> None:
        for number in before:
            signal.signal(number, note)

    take()
    try:
        yield take
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _total(trials: str | None, *, so_far: int) -> int | None:
    """`--trials`: the study's total, or with a plus what is added to it. None if not given."""
    if trials is None:
        return None
    digits = trials.removeprefix("+")
    if not re.fullmatch("[0-9]{1,9}", digits) or int(digits) < 1:
        raise InputError(f"--trials {trials}: has to be a whole number from 1, or +N to add N")
    return int(digits) + (so_far if trials.startswith("+") else 0)


def _require_choice(option: str, value: str | None, allowed: Iterable[str]) -> None:
    if value is not None and value not in tuple(allowed):
        raise InputError(f"{option} {value}: not known; allowed: {', '.join(allowed)}")


def absolute(source: str | None) -> str | None:
    """Make the path of a data source absolute, because trials run elsewhere."""
    return None if source is None else sources.resolve_source(source)


def short(path: Place) -> str:
    """Relative to where the person stands, if that is shorter."""
    if not isinstance(path, Path):
        return str(path)
    try:
        here = os.path.relpath(path)
    except OSError:  # The current folder was deleted meanwhile.
        return str(path)
    return here if len(here) < len(str(path)) else str(path)


def main() -> None:
    """`python raycae/search.py …`"""
    app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None)
    app.command()(search)
    configure_output()
    with told_on_stderr():
        require_current_folder()
        app()
