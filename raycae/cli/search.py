"""`raycae search`: the command line of a search."""

from __future__ import annotations

import signal
from typing import Annotated

import typer

from raycae.cli.options import (
    AddressOption,
    ConcurrentOption,
    CpusOption,
    GpusOption,
    LimitOption,
    SearchResultsOption,
)
from raycae.cli.terminal import configure_output, require_current_folder
from raycae.errors import exit_with_message
from raycae.execution.runner import run_search
from raycae.execution.search_options import RANGES
from raycae.optimization.early_stopping import FACTOR, SCHEDULERS
from raycae.optimization.frontier import COSTS, USUAL_STRATA
from raycae.optimization.samplers import SAMPLERS


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
        typer.Option(
            min=RANGES["epochs"].low,
            metavar="E",
            help="Epochs a trial.",
            show_default="the space's",
        ),
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
            min=RANGES["seed"].low,
            max=RANGES["seed"].high,
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
            min=RANGES["grace"].low,
            metavar="E",
            help="No trial is stopped before epoch E.",
            show_default="1",
        ),
    ] = None,
    first_images: Annotated[
        int | None,
        typer.Option(
            min=RANGES["first_images"].low,
            metavar="IMAGES",
            help="Few images first: epoch 1 sees so many, each further one twice as many.",
            show_default="all",
        ),
    ] = None,
    factor: Annotated[
        int | None,
        typer.Option(
            min=RANGES["factor"].low,
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
            min=RANGES["settings"].low,
            max=RANGES["settings"].high,
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


def run_search_command() -> None:
    """`python raycae/search.py …`"""
    app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None)
    app.command()(search)
    configure_output()
    with exit_with_message():
        require_current_folder()
        app()
