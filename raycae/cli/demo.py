"""`raycae demo`: a search on photographs that ship with scikit-image, without a download."""

from __future__ import annotations

from typing import Annotated

import typer

from raycae.cli.options import ResultsOption
from raycae.cli.search import search

DEMO_SPACE = "demo"
"""The search space, whose images, trials and epochs are the demo's."""


def run_demo(
    study: Annotated[
        str,
        typer.Option(
            "--study", metavar="NAME", help="Name of the study, which is a folder in the results."
        ),
    ] = DEMO_SPACE,
    results_folder: ResultsOption = "results",
) -> None:
    """Search on photographs that ship with scikit-image; no download.

    It is the same as `raycae search --space demo`. The report is written to report.html in the
    study's folder, by default results/demo/report.html.

    Example: raycae demo
    """
    search(space=DEMO_SPACE, study=study, results=results_folder)
    print("next     raycae search FOLDER   # your own images")
