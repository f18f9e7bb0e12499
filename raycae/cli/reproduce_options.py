"""The options of `raycae reproduce` that no other command has."""

from __future__ import annotations

from typing import Annotated

import typer

from raycae.cli.options import make_typer_option
from raycae.execution.search_options import MAX_EPOCHS, MAX_SEED, OPTIONS

SEEDS = 3
"""Default number of runs of each experiment (`--seeds`)."""
EXPERIMENTS = "Experiments"
"""Heading of the options that select the experiments."""
LENGTH, RESULTS = OPTIONS["epochs"].group, OPTIONS["study"].group
SourceOption = Annotated[
    str | None,
    typer.Option(
        "--data",
        metavar="SOURCE",
        help="cifar10, photos, or a folder of Parquet files or images.",
        show_default="cifar10",
        rich_help_panel=EXPERIMENTS,
    ),
]
OnlyOption = Annotated[
    str | None,
    typer.Option(
        metavar="NAME,NAME",
        help="Only these experiments.",
        show_default="all",
        rich_help_panel=EXPERIMENTS,
    ),
]
LeaveOutOption = Annotated[
    str | None,
    typer.Option(
        metavar="NAME,NAME",
        help="All experiments except these.",
        rich_help_panel=EXPERIMENTS,
    ),
]
SeedsOption = Annotated[
    int | None,
    typer.Option(
        "--seeds",
        min=1,
        max=1000,
        metavar="N",
        help="Runs of each experiment.",
        show_default=str(SEEDS),
        rich_help_panel=LENGTH,
    ),
]
EpochsOption = Annotated[
    int | None,
    typer.Option(
        min=1,
        max=MAX_EPOCHS,
        metavar="E",
        help="Epochs per run.",
        show_default="10",
        rich_help_panel=LENGTH,
    ),
]
StudyOption = Annotated[
    str,
    typer.Option(
        "--study",
        metavar="NAME",
        help="Name of the folder in the results.",
        rich_help_panel=RESULTS,
    ),
]
SeedOption = Annotated[
    int | None,
    typer.Option(
        min=0,
        max=MAX_SEED,
        metavar="S",
        help="Seed of the splits and of the first run.",
        show_default="0",
        rich_help_panel=EXPERIMENTS,
    ),
]
LimitOption = Annotated[int | None, make_typer_option("limit", "all", EXPERIMENTS)]
