"""Run a search from its images to its report.

`run_search` is what `raycae search` calls and what Python users call.
"""

from __future__ import annotations

import functools
import os
import shlex
import signal
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack, closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

from raycae import data as sources
from raycae.errors import InputError, SearchAborted, Unfinished
from raycae.execution.interrupts import catch_signals
from raycae.execution.ray_session import connect_ray, starts_own_ray
from raycae.execution.resources import Autoscaler, TrialSlots, survey_nodes
from raycae.execution.search_options import parse_options
from raycae.execution.tuner import train_trials
from raycae.optimization.shared_study import hide_password, require_database
from raycae.report.reader import StudyReader
from raycae.space.space import Space
from raycae.storage.paths import Place, resolve_place
from raycae.storage.retry import retry_policy
from raycae.study.find import format_study_argument
from raycae.study.finish import Finish
from raycae.study.images import load_images
from raycae.study.opening import create_study, resume_study
from raycae.study.plan import Plan, read_content
from raycae.study.study import Study
from raycae.study.warm_start import Known

if TYPE_CHECKING:
    from raycae.execution.progress import Progress


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
    written, `SearchAborted` where trials fail one after the other for one reason, `Unfinished`
    where all trials are recorded but a step after them failed (exit code 1 of the command).
    """
    asked = parse_options(**locals())
    sources.check(asked.plan.data)
    if asked.database is not None:
        require_database(asked.database)
    for note in asked.notes:
        print(note, flush=True)
    code = run_study(
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


def run_study(
    folder: Place,
    plan: Plan,
    the_space: Space,
    resume: bool,
    resources: dict[str, Any],
    *,
    hours: float | None = None,
    address: str | None = None,
    database: str | None = None,
    known: Iterable[Known] = (),
    fuse: int | None = None,
    go_on: str | None = None,
) -> int:
    """One search from its images to its report. Returns the exit code: 0, 130 or 143. Raises
    `SearchAborted` where it stopped because every trial failed for the same reason, and
    `StorageError`. Where a step after the trials failed, the summary is printed with a note on each
    such step; then the fault is raised, or `Unfinished` where it was an `InputError`.

    `fuse`: trials at most in a cohort; None: as many as pays.
    `go_on`: the command that goes on with it, if it is not `raycae search --resume`.
    """
    # All of it now: a package that is updated while a search runs must not end it half old, half
    # new.
    from raycae.execution import evaluation  # noqa: F401
    from raycae.execution.progress import Progress
    from raycae.report import page, picture_sheets  # noqa: F401
    from raycae.study.summary import (
        format_counts,
        format_frontier,
        format_trial,
    )

    load = functools.partial(_load_images, folder, plan, the_space, resume)
    until = None if hours is None else time.monotonic() + hours * 3600
    progress = Progress(plan.trials, plan.epochs, until=until)
    received: list[int] = []
    begun: list[Study] = []

    def over() -> bool:
        return bool(received) or has_passed(until)

    with (
        catch_signals(received, begun) as take_back,
        retry_policy.of(progress.wait, lambda: bool(received)),
        progress,
        ExitStack() as open_study,
    ):
        # A fault of the images is found before a Ray is started for them; a cluster that is there
        # says what is wrong before they are loaded, which may take minutes.
        own = starts_own_ray(address)
        images = load() if own else None
        with connect_ray(address) as is_own:
            take_back()  # Ray takes SIGTERM for itself when it starts, and lets it kill afterwards
            room = TrialSlots(
                **resources,
                autoscaler=Autoscaler() if is_own else survey_nodes(folder.parent),
            )
            images = images or load()
            study = open_study_for_writing(
                folder, plan, the_space, resume, images, progress, database, known
            )
            open_study.enter_context(closing(study))
            begun.append(study)
            test = images.test if plan.test_curves else None
            train_trials(study, images, test, room, fuse, over, progress)
        take_back()
        finish = finish_study(study, images, progress, lambda: bool(received))
        evaluate = f"raycae evaluate {format_study_argument(folder)}"
        finish.attempt("The tables could not be written", evaluate, open_study.close)
    for note in [*study.notes, *finish.notes]:
        print(f"note     {note}")
    counts = study.records.counts()
    print(f"{format_counts(counts)} of {plan.trials} trials")
    if best := study.records.best():
        print(f"best     {format_trial(best)}")
    if plan.objective == "frontier":
        print(format_frontier(study.records.frontier(), plan.cost))
    print(f"results  {shorten_path(folder)}")
    if (folder / "report.html").exists():
        print(f"report   {shorten_path(folder / 'report.html')}")
    if go_on is None:
        go_on = f"raycae search --resume --study {plan.study}{format_results_option(folder)}"
        if database:
            go_on += f" --storage {shlex.quote(hide_password(database))}"
    if received:
        print(f"Interrupted; go on with: {go_on}")
    elif has_passed(until) and len(study.records.trials) < plan.trials:
        print(f"Time is up; go on with: {go_on}")
    elif not study.hopeless and len(study.records.trials) < plan.trials:
        print("Nothing is left to try in this space.")
    finish.raise_fault()
    if received:
        return 128 + received[0]
    if study.hopeless:
        raise SearchAborted(f"{study.hopeless}; once that is mended: {go_on}")
    if finish.errors:
        raise Unfinished(
            "all trials are recorded, but not every step after them succeeded; "
            "the notes above say what to run"
        )
    return 0


def format_results_option(folder: Place) -> str:
    if folder.parent == resolve_place("results"):
        return ""
    return f" --results {shlex.quote(str(folder.parent))}"


def has_passed(until: float | None) -> bool:
    return until is not None and time.monotonic() >= until


def finish_study(
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
    from raycae.execution.evaluation import evaluate_kept_models
    from raycae.report import picture_sheets
    from raycae.report.page import write_report

    finish = Finish()
    named = format_study_argument(study.folder)
    evaluate, write = f"raycae evaluate {named}", f"raycae report {named}"
    unmarked = "The trials that still ran could not be marked as interrupted"
    finish.attempt(unmarked, evaluate, study.mark_interrupted)
    unwritten = "The tables could not be written"
    finish.attempt(unwritten, evaluate, study.records.write, study.folder)
    if not over():
        progress.say("Evaluating kept models on the test images …")
        failure = "The kept models could not be evaluated on the test images"
        finish.attempt(failure, evaluate, evaluate_kept_models, study, images, over)
        finish.attempt(unwritten, evaluate, study.records.write, study.folder)
    if not over():
        progress.say("Painting pictures and fitting linear codes …")
        failure = "Pictures and baselines could not be made"
        finish.attempt(
            failure,
            write,
            picture_sheets.add_pictures_and_baselines,
            study.folder,
            images,
            over,
            finish,
        )
    progress.say("Writing the report …")
    notes = [*study.notes, *finish.notes]
    failure = "The report could not be written"
    finish.attempt(failure, write, write_report, study.folder, notes=notes)
    return finish


def _load_images(folder: Place, plan: Plan, the_space: Space, resume: bool) -> sources.Images:
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


def open_study_for_writing(
    folder: Place,
    plan: Plan,
    the_space: Space,
    resume: bool,
    images: sources.Images,
    progress: Progress,
    database: str | None,
    known: Iterable[Known],
) -> Study:
    if not resume:
        from raycae.execution.evaluation import compute_linear_code_errors

        described = describe_data(plan.data, images)
        if plan.strata:
            progress.say("fitting linear codes, to know what each latent size has to beat …")
            described["line"] = compute_linear_code_errors(the_space.task, images, plan.strata)
        splits = images.membership.to_parquet()
        study = create_study(
            folder, plan, the_space, described, progress.listen, database, known, splits
        )
        print_notes(study, progress)
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
    study = resume_study(folder, plan, progress.listen, space=the_space, database=database)
    progress.resumed(study.records)
    print_notes(study, progress)
    to_come = max(plan.trials - len(study.records.trials), 0)
    print(
        f"resuming {plan.study}: {study.records.n_ended()} trials have ended, "
        f"{len(study.running())} go on, "
        f"{to_come} are to come",
        flush=True,
    )
    return study


def print_notes(study: Study, progress: Progress) -> None:
    for note in study.notes:
        progress.warn(note)
    study.notes.clear()


def shorten_path(path: Place) -> str:
    """Relative to where the person stands, if that is shorter."""
    if not isinstance(path, Path):
        return str(path)
    try:
        here = os.path.relpath(path)
    except OSError:  # The current folder was deleted meanwhile.
        return str(path)
    return here if len(here) < len(str(path)) else str(path)
