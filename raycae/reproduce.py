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

from raycae import data, results, search, space
from raycae.errors import InputError
from raycae.results import RUNNING
from raycae.search import MAX_SEED
from raycae.space import Space
from raycae.storage import Place
from raycae.study import Plan, begun_points, holds_study, plan_of, read_content, require_place

SPACES = ("ex2-report", "ex3-report")
SEEDS = 3


def reproduce(
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
    limit: Annotated[
        int | None,
        typer.Option(
            min=16,
            metavar="IMAGES",
            help="Images for training and validation together.",
            show_default="all",
        ),
    ] = None,
    results_folder: Annotated[
        str,
        typer.Option(
            "--results",
            metavar="FOLDER|URI",
            envvar="RAYCAE_RESULTS",
            help="Where studies lie: a folder, s3://BUCKET/PATH, gs://…",
        ),
    ] = "results",
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
    cpus_per_trial: Annotated[int, typer.Option(min=1, metavar="C", help="CPU cores a run.")] = 1,
    gpus_per_trial: Annotated[
        float | None,
        typer.Option(min=0.0, metavar="G", help="GPUs a run.", show_default="1 if there is any"),
    ] = None,
    concurrent: Annotated[
        int | None,
        typer.Option(min=1, metavar="K", help="Runs at a time.", show_default="as many as fit"),
    ] = None,
    address: Annotated[
        str | None,
        typer.Option(
            metavar="A",
            help="A running Ray: auto, or its address; local: one of this machine's own.",
            show_default="the cluster this machine is in, or its own",
        ),
    ] = None,
) -> None:
    """Run the source report's experiments, and judge each of its claims.

    What was cut short goes on where it stopped; more seeds and more experiments are added to what
    is there.

    Example: raycae reproduce --seeds 3 --epochs 3 --limit 12000
    """
    folder = search.study_folder(results_folder, name)
    spaces = [space.load(name) for name in SPACES]
    chosen = _chosen(spaces, only, leave_out)
    given = {
        "data": search.absolute(data_source),
        "epochs": epochs,
        "limit": limit,
        "seed": seed,
        "n_seeds": n_seeds,
    }
    plans = [
        (the_space, _plan(folder / the_space.name, the_space, chosen, given))
        for the_space in spaces
        if any(point in chosen for point in the_space.points)
    ]
    for _, plan in plans:
        data.check(plan.data)
    resources = {"cpus": cpus_per_trial, "gpus": gpus_per_trial, "concurrent": concurrent}
    code = 0
    for the_space, plan in plans:
        if code in (0, 1) and _has_work(folder / the_space.name, plan):
            code = max(code, _run(folder / the_space.name, the_space, plan, resources, address))
    from raycae import reproduction

    for the_space, plan in plans if code in (0, 1) else []:
        _paint(folder / the_space.name, plan, the_space)
    print(f"page     {search.short(reproduction.write(folder))}")
    raise typer.Exit(code)


def _run(
    folder: Place, the_space: Space, plan: Plan, resources: dict[str, Any], address: str | None
) -> int:
    print(f"{the_space.name}: {len(plan.points or ())} experiments, {plan.n_seeds} seeds each")
    return search.run(
        folder,
        plan,
        the_space,
        holds_study(folder),
        resources,
        address=address,
        test_curves=True,
        go_on=shlex.join(["raycae", *sys.argv[1:]]),
    )


def _paint(folder: Place, plan: Plan, the_space: Space) -> None:
    """A sheet of the same images for each experiment that has none yet, by its best run."""
    from raycae import evaluation, reproduction

    numbers = reproduction.best_runs(reproduction.read(folder).runs).values()
    todo = [n for n in numbers if not (folder / "pictures" / f"{n}.png").exists()]
    if not todo:
        return
    size = the_space.image_size
    images = data.load(plan.data, image_size=size, limit=plan.limit, seed=plan.seed)
    for number in todo:
        try:
            evaluation.paint(folder, number, images.val)
        except InputError as error:
            print(f"note     {error}; no pictures")


def _chosen(spaces: list[Space], only: str | None, leave_out: str | None) -> list[str]:
    """The experiments to run, in the order of the files. Raises `InputError`."""
    known = [point for the_space in spaces for point in the_space.points]
    wanted = _names("--only", only, known) if only is not None else known
    without = _names("--leave-out", leave_out, known) if leave_out is not None else []
    if not (left := [name for name in known if name in wanted and name not in without]):
        raise InputError(f"--leave-out {leave_out}: leaves no experiment to run")
    return left


def _names(option: str, text: str, known: list[str]) -> list[str]:
    names = [name.strip() for name in text.split(",")]
    for name in names:
        if name not in known:
            raise InputError(f"{option} {name}: no such experiment; known: {', '.join(known)}")
    return names


def _plan(folder: Place, the_space: Space, chosen: list[str], given: dict[str, Any]) -> Plan:
    """What to run of one space, beside what is there. Raises `InputError` where budgets differ:
    results would not be comparable."""
    points = [point for point in the_space.points if point in chosen]
    asked = {name: value for name, value in given.items() if value is not None}
    if not holds_study(folder):
        require_place(folder)
        budget = the_space.budget
        defaults = {
            "data": the_space.file.data,
            "epochs": budget.epochs,
            "limit": budget.limit,
            "seed": 0,
            "n_seeds": SEEDS,
        }
        plan = Plan(
            study=the_space.name,
            space=the_space.name,
            trials=0,
            sampler="points",
            scheduler="none",
            points=points,
            **{**defaults, **asked},
        )
        return replace(plan, trials=len(points) * plan.n_seeds)
    content = read_content(folder)
    before = plan_of(content)
    search.require_comparable(content.get("versions") or {}, force=False)
    for name in ("data", "epochs", "limit", "seed"):
        if asked.get(name, getattr(before, name)) != getattr(before, name):
            raise InputError(
                f"--{name} {asked[name]}: {folder} was begun with {getattr(before, name)}, and "
                "runs of different budgets cannot be compared; leave the option out, or begin "
                "another reproduction with --study NAME"
            )
    n_seeds = max(asked.get("n_seeds", 1), before.n_seeds)
    wanted = {(point, before.seed + i) for point in points for i in range(n_seeds)}
    there = begun_points(folder)
    total = len(there) + len(wanted - set(there))
    return replace(before, points=points, n_seeds=n_seeds, trials=total)


def _has_work(folder: Place, plan: Plan) -> bool:
    if not holds_study(folder) or len(begun_points(folder)) < plan.trials:
        return True
    return RUNNING in set(results.read_trials(folder)["state"])
