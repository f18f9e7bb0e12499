"""`raycae reproduce`: the source report's experiments with several seeds, and a page of verdicts.

The experiments are the named points of two spaces. Errors of one task say nothing about those of
the other, so each task is a study of its own, `RESULTS/NAME/ex2-report` and `RESULTS/NAME/
ex3-report`, run by the same code as every search; the page over both is `RESULTS/NAME/report.html`.
"""

from __future__ import annotations

import shlex
import sys
from dataclasses import replace
from typing import Annotated, Any

import typer

from raycae import data
from raycae.cli.options import (
    AddressOption,
    ConcurrentOption,
    CpusOption,
    GpusOption,
    LimitOption,
    ResultsOption,
)
from raycae.errors import InputError, SearchAborted, Unfinished
from raycae.execution import runner, search_options
from raycae.execution.search_options import MAX_SEED
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

SEEDS = 3
BUDGET = ("data", "epochs", "limit", "seed")
"""What has to be the same for all runs of a reproduction."""


def reproduce_report(
    data_source: Annotated[
        str | None,
        typer.Option(
            "--data",
            metavar="SOURCE",
            help="cifar10, photos, or a folder of Parquet files or of images.",
            show_default="cifar10",
        ),
    ] = None,
    only: Annotated[
        str | None,
        typer.Option(
            metavar="NAME,NAME", help="These experiments alone.", show_default="every one"
        ),
    ] = None,
    leave_out: Annotated[
        str | None, typer.Option(metavar="NAME,NAME", help="All but these experiments.")
    ] = None,
    n_seeds: Annotated[
        int | None,
        typer.Option(
            "--seeds", min=1, max=1000, metavar="N", help="Runs of each.", show_default=str(SEEDS)
        ),
    ] = None,
    epochs: Annotated[
        int | None,
        typer.Option(min=1, metavar="E", help="Epochs a run.", show_default="10"),
    ] = None,
    limit: LimitOption = None,
    results_folder: ResultsOption = "results",
    name: Annotated[
        str, typer.Option("--study", metavar="NAME", help="The folder under the results.")
    ] = "reproduction",
    seed: Annotated[
        int | None,
        typer.Option(
            min=0,
            max=MAX_SEED,
            metavar="S",
            help="Of splits, and the first of the runs'.",
            show_default="0",
        ),
    ] = None,
    cpus_per_trial: CpusOption = 1,
    gpus_per_trial: GpusOption = None,
    concurrent: ConcurrentOption = None,
    address: AddressOption = None,
) -> None:
    """Run the source report's experiments, and judge each of its claims.

    What was cut short goes on where it stopped; more seeds and more experiments are added to what
    is there.

    Example: raycae reproduce --seeds 3 --epochs 3 --limit 12000
    """
    folder = search_options.get_study_folder(results_folder, name)
    spaces = [loading.load_space(name) for name in REPORT]
    chosen = choose_experiments(spaces, only, leave_out)
    given = {
        "data": search_options.make_absolute(data_source),
        "epochs": epochs,
        "limit": limit,
        "seed": seed,
        "n_seeds": n_seeds,
    }
    wanted = [s for s in spaces if any(point in chosen for point in s.points)]
    given = complete_budget([folder / s.name for s in spaces], given)
    plans = [(s, folder / s.name, plan_runs(folder / s.name, s, chosen, given)) for s in wanted]
    todo = [(s, at, plan) for s, at, plan in plans if has_work(at, plan)]
    for the_space, at, plan in todo:
        require_same(at, the_space)
        data.check(plan.data)
    resources = {"cpus": cpus_per_trial, "gpus": gpus_per_trial, "concurrent": concurrent}
    code = 0
    for the_space, at, plan in todo:
        if code in (0, 1):
            try:
                code = max(code, run_experiments(at, the_space, plan, resources, address))
            except (
                SearchAborted,
                Unfinished,
            ) as error:  # of this task; the other one may do better
                print(f"raycae: {error}", file=sys.stderr)
                code = 1
    from raycae.report.reproduction.page import write_reproduction

    for _, at, _ in plans if code in (0, 1) else []:
        add_illustrations(at)
    print(f"page     {runner.shorten_path(write_reproduction(folder))}")
    raise typer.Exit(code)


def run_experiments(
    folder: Place, the_space: Space, plan: Plan, resources: dict[str, Any], address: str | None
) -> int:
    print(f"{the_space.name}: {len(plan.points or ())} experiments, {plan.n_seeds} seeds each")
    return runner.run_study(
        folder,
        plan,
        the_space,
        holds_study(folder),
        resources,
        address=address,
        go_on=shlex.join(["raycae", *sys.argv[1:]]),
    )


def add_illustrations(folder: Place) -> None:
    """Make the baselines that a study lacks, and a sheet of the same images by each experiment's
    best run. What cannot be made is a note."""
    from raycae.report import picture_sheets
    from raycae.report.reproduction.page import read_part, select_best_runs
    from raycae.study.images import load_test_images

    finish = Finish()
    remedy = f"raycae reproduce --study {folder.parent.name}"
    failure = "Pictures and baselines could not be made"
    finish.attempt(
        failure, remedy, picture_sheets.add_pictures_and_baselines, folder, finish=finish
    )
    part = read_part(folder)
    numbers = set(select_best_runs(part.runs).values())

    def paint() -> None:
        loaded = load_test_images(folder, part.study, load_study_space(part.study).classes)
        for number in unpainted:
            failure = f"The pictures of trial {number} could not be painted"
            test, labels = loaded.pixels, loaded.labels
            finish.attempt(
                failure, remedy, picture_sheets.write_picture_sheets, folder, number, test, labels
            )

    if unpainted := sorted(numbers - trials.list_trials_with_pictures(folder)):
        finish.attempt("The test images could not be read", remedy, paint)
    for note in dict.fromkeys(finish.notes):
        print(f"note     {note}")


def choose_experiments(spaces: list[Space], only: str | None, leave_out: str | None) -> list[str]:
    """The experiments to run, in the order of the files. Raises `InputError`."""
    known = [point for the_space in spaces for point in the_space.points]
    wanted = list_names("--only", only, known) if only is not None else known
    without = list_names("--leave-out", leave_out, known) if leave_out is not None else []
    if not (left := [name for name in known if name in wanted and name not in without]):
        raise InputError(f"--leave-out {leave_out}: leaves no experiment to run")
    return left


def list_names(option: str, text: str, known: list[str]) -> list[str]:
    names = [name.strip() for name in text.split(",")]
    for name in names:
        if name not in known:
            raise InputError(f"{option} {name}: no such experiment; known: {', '.join(known)}")
    return names


def complete_budget(folders: list[Place], given: dict[str, Any]) -> dict[str, Any]:
    """`given`, completed by what there is: the second task is run like the first."""
    for folder in folders:
        if holds_study(folder):
            before = load_plan(read_content(folder))
            there = {name: getattr(before, name) for name in BUDGET}
            asked = {name: value for name, value in given.items() if value is not None}
            for name in BUDGET:
                if asked.get(name, there[name]) != there[name]:
                    raise InputError(
                        f"--{name} {asked[name]}: {folder} was begun with {there[name]}, and runs "
                        "of different budgets cannot be compared; leave the option out, or begin "
                        "another reproduction with --study NAME"
                    )
            return {**given, **there}
    return given


def plan_runs(folder: Place, the_space: Space, chosen: list[str], given: dict[str, Any]) -> Plan:
    """What to run of one space, beside what is there."""
    points = [point for point in the_space.points if point in chosen]
    defaults = {
        "data": the_space.file.data,
        "epochs": the_space.budget.epochs,
        "limit": the_space.budget.limit,
        "seed": 0,
        "n_seeds": SEEDS,
    }
    asked = {name: value for name, value in given.items() if value is not None}
    plan = Plan(
        study=the_space.name,
        space=the_space.name,
        trials=0,
        sampler="points",
        scheduler="none",
        points=points,
        test_curves=True,
        **{**defaults, **asked},
    )
    wanted = {(point, plan.seed + i) for point in points for i in range(plan.n_seeds)}
    if not holds_study(folder):
        require_free_place(folder)
        return replace(plan, trials=len(wanted))
    there, _ = list_begun_points(folder)
    return replace(plan, trials=len(there) + len(wanted - set(there)))


def has_work(folder: Place, plan: Plan) -> bool:
    if not holds_study(folder):
        return True
    there, runs = list_begun_points(folder)
    return runs or len(there) < plan.trials


def require_same(folder: Place, the_space: Space) -> None:
    """Raise `InputError` where what is there was run by other versions, or its experiments have
    changed since."""
    if not holds_study(folder):
        return
    content = read_content(folder)
    search_options.require_comparable(content.get("versions") or {}, force=False)
    if load_study_space(content).hash != the_space.hash:
        raise InputError(
            f"{folder}: was begun with other experiments than today's {the_space.name}; begin "
            "another reproduction with --study NAME"
        )
