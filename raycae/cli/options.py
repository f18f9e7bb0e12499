"""Options and arguments that several commands share."""

from __future__ import annotations

from typing import Annotated

import typer

from raycae.execution.search_options import RANGES

SpaceOption = Annotated[
    str, typer.Option("--space", metavar="NAME|FILE", help="A shipped space or a file.")
]
StudyArgument = Annotated[
    str, typer.Argument(metavar="STUDY", help="A study's name, or its folder or URI.")
]
LimitOption = Annotated[
    int | None,
    typer.Option(
        min=RANGES["limit"].low,
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
CpusOption = Annotated[
    int, typer.Option(min=RANGES["cpus_per_trial"].low, metavar="C", help="CPU cores a trial.")
]
GpusOption = Annotated[
    float | None,
    typer.Option(
        min=RANGES["gpus_per_trial"].low,
        metavar="G",
        help="GPUs a trial, e.g. 0.25 for four on one.",
        show_default="1 if there is any",
    ),
]
ConcurrentOption = Annotated[
    int | None,
    typer.Option(
        min=RANGES["concurrent"].low,
        metavar="K",
        help="Trials at a time.",
        show_default="as many as fit",
    ),
]
AddressOption = Annotated[
    str | None,
    typer.Option(
        metavar="A",
        help="A running Ray: auto, or its address; local: one of this machine's own.",
        show_default="the cluster this machine is in, or its own",
    ),
]
ModelArgument = Annotated[
    str,
    typer.Argument(
        metavar="MODEL", help="A study (its best kept model), or a model folder STUDY/models/TRIAL."
    ),
]
