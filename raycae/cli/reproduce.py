"""`raycae reproduce`: the course report's experiments with several seeds, and a page of verdicts.

The experiments are the named points of two spaces. Errors of different tasks cannot be compared,
so each task has its own study, `RESULTS/NAME/ex2-report` and `RESULTS/NAME/ex3-report`. They are
run by the same code as every search. The page about both is `RESULTS/NAME/report.html`.
"""

from __future__ import annotations

import shlex
import sys
from dataclasses import replace
from typing import Any

import typer

from raycae import data
from raycae.cli.options import (
    AddressOption,
    ConcurrentOption,
    CpusOption,
    GpusOption,
    ResultsOption,
)
from raycae.cli.reproduce_options import (
    SEEDS,
    EpochsOption,
    LeaveOutOption,
    LimitOption,
    OnlyOption,
    SeedOption,
    SeedsOption,
    SourceOption,
    StudyOption,
)
from raycae.cli.terminal import exit_on_interrupt
from raycae.errors import InputError, SearchAborted, Unfinished
from raycae.execution import runner
from raycae.execution.locations import get_study_folder, make_absolute
from raycae.execution.resuming import require_comparable
from raycae.execution.search_request import SearchRequest
from raycae.formatting import join_words, make_printable
from raycae.report import trials
from raycae.space import loading
from raycae.space.loading import REPORT
from raycae.space.space import Space
from raycae.storage.paths import Place
from raycae.study.finish import Finish
from raycae.study.plan import (
    Plan,
    holds_study,
    list_begun_points,
    load_plan,
    load_study_space,
    read_content,
    require_free_place,
)

BUDGET = ("data", "epochs", "limit", "seed")
"""The options that must be the same for all runs of a reproduction."""


def reproduce_report(
    data_source: SourceOption = None,
    only: OnlyOption = None,
    leave_out: LeaveOutOption = None,
    n_seeds: SeedsOption = None,
    epochs: EpochsOption = None,
    limit: LimitOption = None,
    results_folder: ResultsOption = "results",
    name: StudyOption = "reproduction",
    seed: SeedOption = None,
    cpus_per_trial: CpusOption = 1,
    gpus_per_trial: GpusOption = None,
    concurrent: ConcurrentOption = None,
    address: AddressOption = None,
) -> None:
    """Rerun the experiments of a course report and check its claims.

    raycae grew from this report. An interrupted reproduction continues where it stopped. To add
    seeds or experiments to existing runs, repeat the command with a larger --seeds or with another
    --only.

    Example: raycae reproduce --seeds 3 --epochs 3 --limit 12000
    """
    folder = get_study_folder(results_folder, name)
    given = {
        "data": make_absolute(data_source),
        "epochs": epochs,
        "limit": limit,
        "seed": seed,
        "n_seeds": n_seeds,
    }
    resources = {"cpus": cpus_per_trial, "gpus": gpus_per_trial, "concurrent": concurrent}
    requests = plan_reproduction(folder, only, leave_out, given, resources, address)
    with exit_on_interrupt():
        code = run_experiments([r for r in requests if has_work(r.folder, r.plan)])
    from raycae.report.reproduction.page import write_reproduction

    for request in requests if code in (0, 1) else []:
        add_illustrations(request.folder, request.resume_command)
    print(f"page     {runner.shorten_path(write_reproduction(folder))}")
    raise typer.Exit(code)


def plan_reproduction(
    folder: Place,
    only: str | None,
    leave_out: str | None,
    given: dict[str, Any],
    resources: dict[str, Any],
    address: str | None,
) -> list[SearchRequest]:
    """Plan one search for each task that has experiments to run.

    Args:
        folder: The folder of the reproduction; each study is a folder in it.
        only: The option `--only`.
        leave_out: The option `--leave-out`.
        given: The options of the plan; None for those that are not given.
        resources: `cpus` and `gpus` per trial, and `concurrent` trials.
        address: The option `--address`.

    Returns:
        The searches, with those that have nothing left to run.

    Raises:
        InputError: An experiment is not known, or an option contradicts earlier runs.
    """
    spaces = [loading.load_space(name) for name in REPORT]
    chosen = choose_experiments(spaces, only, leave_out)
    budget = complete_budget([folder / space.name for space in spaces], given)
    return [
        SearchRequest(
            folder / space.name,
            plan_runs(folder / space.name, space, chosen, budget),
            space,
            holds_study(folder / space.name),
            resources,
            address=address,
            resume_command=shlex.join(["raycae", *sys.argv[1:]]),
        )
        for space in spaces
        if any(point in chosen for point in space.points)
    ]


def run_experiments(requests: list[SearchRequest]) -> int:
    """Run the experiments of each task.

    Args:
        requests: The searches that have trials left to run, one per task.

    Returns:
        The exit code: 0, or 1 if a search failed, or 128 + signal number if one was interrupted.
    """
    for request in requests:
        require_same(request.folder, request.space)
        data.check(request.plan.data)
    code = 0
    for request in requests:
        plan = request.plan
        print(f"{plan.space}: {len(plan.points or ())} experiments, {plan.n_seeds} seeds each")
        try:
            signal_number = runner.run_study(request)
        except (SearchAborted, Unfinished) as error:  # The other task may still succeed.
            print(f"raycae: {error}", file=sys.stderr)
            code = 1
            continue
        if signal_number is not None:
            return 128 + signal_number
    return code


def add_illustrations(folder: Place, remedy: str) -> None:
    """Make the baselines that a study lacks, and pictures of the best run of each experiment.

    What cannot be made is printed as a note.

    Args:
        folder: The study.
        remedy: The command that makes it later.
    """
    from raycae.report import picture_sheets
    from raycae.report.reproduction.page import read_part, select_best_runs
    from raycae.study.images import load_test_images

    finish = Finish()
    failure = "Pictures and baselines could not be made"
    finish.attempt(
        failure, remedy, picture_sheets.add_pictures_and_baselines, folder, finish=finish
    )
    part = read_part(folder)
    numbers = set(select_best_runs(part.runs).values())

    def paint() -> None:
        loaded = load_test_images(folder, part.study, load_study_space(part.study).classes)
        for number in unpainted:
            failure = f"The pictures of trial {number} could not be drawn"
            test, labels = loaded.pixels, loaded.labels
            finish.attempt(
                failure, remedy, picture_sheets.write_picture_sheets, folder, number, test, labels
            )

    if unpainted := sorted(numbers - trials.list_trials_with_pictures(folder)):
        finish.attempt("The test images could not be read", remedy, paint)
    for note in dict.fromkeys(finish.notes):
        print(f"note     {make_printable(note)}")


def choose_experiments(spaces: list[Space], only: str | None, leave_out: str | None) -> list[str]:
    """Choose the experiments to run, in the order of the files.

    Args:
        spaces: The spaces whose named points are the experiments.
        only: The option `--only`.
        leave_out: The option `--leave-out`.

    Returns:
        The names of the experiments.

    Raises:
        InputError: A name is not known, or no experiment is left.
    """
    known = [point for space in spaces for point in space.points]
    wanted = parse_names("--only", only, known) if only is not None else known
    excluded = parse_names("--leave-out", leave_out, known) if leave_out is not None else []
    if not (chosen := [name for name in known if name in wanted and name not in excluded]):
        raise InputError(f"--leave-out {leave_out}: no experiment is left to run.")
    return chosen


def parse_names(option: str, text: str, known: list[str]) -> list[str]:
    """Parse a list of experiments.

    Args:
        option: The option, for messages.
        text: Its value: names separated by commas.
        known: All experiments.

    Raises:
        InputError: A name is not known.
    """
    names = [name.strip() for name in text.split(",")]
    for name in names:
        if name not in known:
            raise InputError(f"{option} {name}: unknown. Use {join_words(known, 'or')}.")
    return names


def complete_budget(folders: list[Place], given: dict[str, Any]) -> dict[str, Any]:
    """Complete the options with those of earlier runs: the second task is run like the first.

    Args:
        folders: The studies, those included that have not begun.
        given: The options of the plan; None for those that are not given.

    Returns:
        `given`, with the `BUDGET` of the first study that has begun.

    Raises:
        InputError: An option differs from it.
    """
    for folder in folders:
        if holds_study(folder):
            earlier = load_plan(read_content(folder))
            budget = {name: getattr(earlier, name) for name in BUDGET}
            for name in BUDGET:
                if given.get(name) not in (None, budget[name]):
                    raise InputError(
                        f"--{name} {given[name]}: {folder} was started with {budget[name]}, and "
                        "runs of different budgets cannot be compared. Remove the option, or start "
                        "another reproduction with --study NAME."
                    )
            return {**given, **budget}
    return given


def plan_runs(folder: Place, space: Space, chosen: list[str], given: dict[str, Any]) -> Plan:
    """Plan the runs of one task, in addition to those that its study has.

    Args:
        folder: The study of the task.
        space: The space whose named points are the experiments.
        chosen: The experiments to run, of all tasks.
        given: The options of the plan; None for those that are not given.

    Returns:
        The plan. Its number of trials counts the runs of earlier plans too.
    """
    points = [point for point in space.points if point in chosen]
    defaults = {
        "data": space.file.data,
        "epochs": space.budget.epochs,
        "limit": space.budget.limit,
        "seed": 0,
        "n_seeds": SEEDS,
    }
    settings = {name: value for name, value in given.items() if value is not None}
    plan = Plan(
        study=space.name,
        space=space.name,
        trials=0,
        sampler="points",
        scheduler="none",
        points=points,
        test_curves=True,
        **{**defaults, **settings},
    )
    wanted = {(point, plan.seed + i) for point in points for i in range(plan.n_seeds)}
    if not holds_study(folder):
        require_free_place(folder)
        return replace(plan, trials=len(wanted))
    started, _ = list_begun_points(folder)
    return replace(plan, trials=len(started) + len(wanted - set(started)))


def has_work(folder: Place, plan: Plan) -> bool:
    """Return whether a trial of the plan has not been started, or has not ended.

    Args:
        folder: The study.
        plan: What to run in it.
    """
    if not holds_study(folder):
        return True
    started, is_unfinished = list_begun_points(folder)
    return is_unfinished or len(started) < plan.trials


def require_same(folder: Place, space: Space) -> None:
    """Check that a study was run by the same versions and has the same experiments.

    Args:
        folder: The study, which may not have begun.
        space: The space whose named points are the experiments.

    Raises:
        InputError: The versions or the experiments have changed since.
    """
    if not holds_study(folder):
        return
    content = read_content(folder)
    require_comparable(content.get("versions") or {}, force=False)
    if load_study_space(content).hash != space.hash:
        raise InputError(
            f"{folder} was started with other experiments than {space.name} has now. Start "
            "another reproduction with --study NAME."
        )
