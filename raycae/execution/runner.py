"""Run a search from its images to its report.

`run_search` is what `raycae search` calls and what Python users call.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from contextlib import ExitStack, closing, suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Unpack

from raycae import data as sources
from raycae.errors import InputError, SearchAborted, Unfinished
from raycae.execution.interrupts import StopRequest, raise_interrupt
from raycae.execution.progress_callback import ProgressCallback, add_callback
from raycae.execution.ray_session import connect_ray, find_ray, require_ray_head, starts_own_ray
from raycae.execution.resources import Autoscaler, TrialSlots, survey_nodes
from raycae.execution.search_options import KeywordOptions, show_options
from raycae.execution.search_request import SearchRequest, parse_options
from raycae.execution.time_estimate import format_time_estimate, make_forecast
from raycae.execution.tuner import train_trials
from raycae.formatting import make_printable
from raycae.optimization.shared_study import require_database
from raycae.report.reader import StudyReader
from raycae.storage.paths import Place
from raycae.storage.retry import retry_policy
from raycae.study.find import format_study_argument
from raycae.study.finish import Finish
from raycae.study.images import load_images
from raycae.study.opening import create_study, resume_study
from raycae.study.plan import read_content
from raycae.study.records import FAIL, Records
from raycae.study.study import Study

if TYPE_CHECKING:
    from raycae.execution.progress import Progress


@show_options
def run_search(
    space: str | Path | Mapping[str, Any] | None = None,
    data: str | Path | None = None,
    *,
    on_progress: ProgressCallback | None = None,
    **options: Unpack[KeywordOptions],
) -> StudyReader:
    """Run a search, as `raycae search` does, and write its report.

    It takes the options of the command by the same names (`from_` for `--from`, because `from` is a
    keyword of Python), with the same meaning, ranges and defaults. `max` also takes a mapping, such
    as `{"n_params": 5000}`, and `strata` and `from_` take lists. Text is read as if it were typed.

    Args:
        space: A shipped space (see `raycae spaces`), a file, or a mapping with the keys of a space
            file; such a space is called `custom`. Default: ex3.
        data: cifar10, photos, or a folder of Parquet files or images. Default: the space's.
        on_progress: Is called in this process whenever a trial starts, finishes an epoch, loses its
            worker or ends. The search waits until it returns. If it raises an exception, the search
            ends cleanly, as after Ctrl-C, and the exception is raised.
        options: The options of the command.

    Returns:
        The study, for reading.

    Raises:
        InputError: A value is not allowed, or something that it names cannot be used.
        KeyboardInterrupt: Ctrl-C, or a notebook's stop button, ended the search cleanly;
            `resume=True` continues it.
        SearchInterrupted: SIGTERM ended it cleanly.
        StorageError: Results could not be written.
        SearchAborted: Trials failed one after the other for the same reason.
        Unfinished: All trials are recorded, but a step after them failed.
        Exception: Whatever `on_progress` raised.
    """
    request = parse_options({"space": space, "data": data, **options})
    counts = count_split_images(request)
    if request.database is not None:
        require_database(request.database)
    if not starts_own_ray(request.address):
        require_ray_head(find_ray(request.address))  # A message about it comes before other lines.
    for note in request.notes:
        print(make_printable(note), flush=True)
    if request.plan.data == "cifar10" and (download := sources.describe_download()):
        print(f"download {make_printable(download)}", flush=True)
    print(format_time_estimate(request, counts), flush=True)
    signal_number = run_study(replace(request, on_progress=on_progress))
    if signal_number is not None:
        raise_interrupt(signal_number)
    return StudyReader(request.folder)


def count_split_images(request: SearchRequest) -> tuple[int, int, int]:
    """Check the images of a search and count those of each split; decode and download nothing.

    Args:
        request: What is searched.

    Returns:
        The numbers of training, validation and test images.

    Raises:
        InputError: The images cannot be read.
    """
    plan = request.plan
    if not request.resume:
        return sources.count_images(plan.data, limit=plan.limit, seed=plan.seed)
    sources.check(plan.data)
    recorded = read_content(request.folder)["data"]
    return recorded["n_train"], recorded["n_val"], recorded.get("n_test", 0)


def run_study(request: SearchRequest) -> int | None:
    """Run one search from its images to its report.

    Where a step after the trials has failed, the summary is printed with a note on each such step
    before the exception is raised.

    Args:
        request: What to search, where, and with which resources.

    Returns:
        The signal that ended the search early, after which its study was closed cleanly; None if
        no signal arrived.

    Raises:
        InputError: The images, the study or the Ray cannot be used.
        SearchAborted: Every trial failed for the same reason.
        StorageError: Results could not be written.
        Unfinished: All trials are recorded, but a step after them could not use its input.
    """
    _import_everything()
    from raycae.execution.progress import Progress

    stop = StopRequest(request.hours)
    progress = Progress(
        request.plan.trials,
        request.plan.epochs,
        until=stop.deadline,
        results=shorten_path(request.folder),
        is_frontier=request.plan.objective == "frontier",
    )
    with (
        stop.catch_signals(),
        retry_policy.use(progress.wait, stop.is_interrupted),
        progress,
        ExitStack() as open_study,
    ):
        # Faulty images are found before a Ray is started for them. A running cluster first reports
        # what is wrong with it, because loading the images may take minutes.
        images = _load_images(request, progress) if starts_own_ray(request.address) else None
        progress.begin_phase("Planning the search")
        progress.expect(make_forecast(request))
        is_local = starts_own_ray(request.address)
        progress.begin_phase("Starting Ray" if is_local else "Connecting to Ray")
        with connect_ray(request.address) as is_own_ray:
            stop.install_handlers()  # Ray has taken SIGTERM when it started.
            autoscaler = Autoscaler() if is_own_ray else survey_nodes(request.folder.parent)
            slots = TrialSlots(**request.resources, autoscaler=autoscaler)
            stop.raise_if_interrupted()
            images = images or _load_images(request, progress)
            study = open_study_for_writing(request, images, progress)
            open_study.enter_context(closing(study))
            if request.on_progress:
                add_callback(study, request.on_progress, stop)
            stop.is_study_open = True
            test = images.test if request.plan.test_curves else None
            progress.begin_phase("Starting workers")
            train_trials(
                study, images, test, slots, request.fuse, stop.is_due, progress, is_own_ray
            )
        stop.install_handlers()
        finish = finish_study(study, images, progress, stop.is_interrupted)
        evaluate = f"raycae evaluate {format_study_argument(request.folder)}"
        finish.attempt("The tables could not be written", evaluate, open_study.close)
    print_summary(request, study, finish, stop)
    finish.raise_fault()
    if stop.error:
        raise stop.error
    if stop.is_interrupted():
        return stop.signal_number
    if study.hopeless:
        remedy = format_remedy(request, study.records)
        raise SearchAborted(f"{study.hopeless}. Fix the cause, then {remedy}")
    if finish.errors:
        raise Unfinished(
            "All trials are recorded, but a step after them failed. The notes above name the "
            "command to run."
        )
    return None


def _import_everything() -> None:
    """Import every module that a search needs later.

    If the package is updated while a search runs, the search must not end with half of each
    version.
    """
    from raycae.execution import evaluation, progress  # noqa: F401
    from raycae.report import page, picture_sheets  # noqa: F401
    from raycae.study import summary  # noqa: F401


def print_summary(request: SearchRequest, study: Study, finish: Finish, stop: StopRequest) -> None:
    """Print the notes and results of a search, and the command that continues it.

    Args:
        request: What was searched.
        study: The study, closed.
        finish: The steps after the last trial.
        stop: Why the search may have ended early.
    """
    from raycae.study.summary import format_counts, format_frontier, format_trial

    plan, folder, records = request.plan, request.folder, study.records
    command = make_printable(request.resume_command)
    for note in [*study.notes, *finish.notes]:
        print(f"note     {make_printable(note)}")
    print(f"{format_counts(records.counts(), is_searched=False)} of {plan.trials} trials")
    if best := records.best():
        print(f"best     {format_trial(best)}")
    if plan.objective == "frontier":
        print(format_frontier(records.frontier(), plan.cost))
    print(f"results  {shorten_path(folder)}")
    if (folder / "report.html").exists():
        print(f"report   {shorten_path(folder / 'report.html')}")
    if stop.is_interrupted():
        print(f"Interrupted; continue with: {command}")
    elif stop.is_time_up() and records.n_ended() < plan.trials:
        print(f"Time is up; continue with: {command}")
    elif not study.hopeless and len(records.trials) < plan.trials:
        print("Nothing is left to try in this space.")


def format_remedy(request: SearchRequest, records: Records) -> str:
    """Write how to continue a search that has stopped because its trials failed.

    Args:
        request: What was searched.
        records: The trials of the study. Those that failed are not repeated.
    """
    if records.n_ended() < request.plan.trials:
        return f"continue with: {request.resume_command}"
    afresh = "start another study with --study NAME"
    if request.plan.sampler == "points":  # It tries each point once.
        return f"{afresh}."
    command = f"{request.resume_command} --trials +{records.counts()[FAIL]}"
    return f"{afresh}, or, if the space has other configurations, continue with: {command}"


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
    unmarked = "Running trials could not be marked as interrupted"
    finish.attempt(unmarked, evaluate, study.mark_interrupted)
    unwritten = "The tables could not be written"
    finish.attempt(unwritten, evaluate, study.records.write, study.folder)
    if not over():
        failure = "The saved models could not be evaluated on the test images"
        finish.attempt(failure, evaluate, evaluate_kept_models, study, images, over, progress.count)
        finish.attempt(unwritten, evaluate, study.records.write, study.folder)
    if not over():
        failure = "Pictures and baselines could not be made"
        finish.attempt(
            failure,
            write,
            picture_sheets.add_pictures_and_baselines,
            study.folder,
            images,
            over,
            finish,
            progress.count,
        )
    progress.count("Writing the report", 0, 1)
    notes = [*study.notes, *finish.notes]
    failure = "The report could not be written"
    finish.attempt(failure, write, write_report, study.folder, notes=notes)
    return finish


def _load_images(request: SearchRequest, progress: Progress) -> sources.Images:
    """Load the images of a search, decoding the test images too, and print a summary."""
    plan, space = request.plan, request.space
    progress.begin_phase("Loading images")
    notes: list[str] = []
    if request.resume:
        content = read_content(request.folder)
        images, notes = load_images(request.folder, content, space.classes)
    else:
        images = sources.load(
            plan.data,
            image_size=space.image_size,
            limit=plan.limit,
            seed=plan.seed,
            classes=space.classes,
        )
    for line in (
        f"data     {images.summary}",
        *(f"note     {note}" for note in [*notes, *images.notes]),
    ):
        print(make_printable(line), flush=True)
    return images


def describe_data(source: str, images: sources.Images) -> dict[str, Any]:
    """Return the part `data` of `study.json` for the images of a new study.

    Args:
        source: The source of the images, as `Plan.data` has it.
        images: The images.
    """
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
    request: SearchRequest, images: sources.Images, progress: Progress
) -> Study:
    """Create the study of a search, or resume it.

    Args:
        request: What is searched.
        images: The images of the search.
        progress: The live view, which follows the study.

    Returns:
        The study, whose lease this process holds.

    Raises:
        InputError: The images or their classes are not those that the study began with.
    """
    if request.resume:
        return _resume_study(request, images, progress)
    return _create_study(request, images, progress)


def _create_study(request: SearchRequest, images: sources.Images, progress: Progress) -> Study:
    from raycae.execution.evaluation import compute_linear_code_errors

    plan, space = request.plan, request.space
    described = describe_data(plan.data, images)
    if plan.strata:
        described["line"] = compute_linear_code_errors(
            space.task, images, plan.strata, progress.count
        )
    study = create_study(
        request.folder,
        plan,
        space,
        described,
        progress.listen,
        request.database,
        request.known,
        images.membership.to_parquet(),
    )
    print_notes(study, progress)
    progress.load_records(study.records)
    return study


def _resume_study(request: SearchRequest, images: sources.Images, progress: Progress) -> Study:
    plan, space = request.plan, request.space
    recorded = read_content(request.folder)["data"]
    fingerprint, labels = recorded["fingerprint"], recorded.get("labels")
    if fingerprint != images.fingerprint:
        raise InputError(
            f"{plan.data}: the images have changed since this study started (fingerprint "
            f"{fingerprint} then, {images.fingerprint} now). Restore them, or start another study."
        )
    found_labels = images.labels.fingerprint
    if labels and found_labels and labels != found_labels:
        raise InputError(
            f"{plan.data}: the class labels have changed since this study started (fingerprint "
            f"{labels} then, {found_labels} now). Restore them, or start another study."
        )
    study = resume_study(
        request.folder, plan, progress.listen, space=space, database=request.database
    )
    progress.load_records(study.records)
    print_notes(study, progress)
    n_missing = max(plan.trials - len(study.records.trials), 0)
    print(
        f"resuming {plan.study}: {study.records.n_ended()} trials ended, "
        f"{len(study.running())} unfinished, {n_missing} not started",
        flush=True,
    )
    return study


def print_notes(study: Study, progress: Progress) -> None:
    """Print the notes of a study above the live view, and clear them.

    Args:
        study: The study.
        progress: The live view.
    """
    for note in study.notes:
        progress.warn(note)
    study.notes.clear()


def shorten_path(path: Place) -> str:
    """Write a path relative to the current folder if that is shorter, in printable characters.

    Args:
        path: A path, or a URI, which stays absolute.
    """
    shortest = str(path)
    if isinstance(path, Path):
        with suppress(OSError):  # The current folder may have been deleted meanwhile.
            shortest = min(shortest, os.path.relpath(path), key=len)
    return make_printable(shortest)
