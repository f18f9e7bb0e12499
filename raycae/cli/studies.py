"""`raycae show`, `raycae evaluate` and `raycae report`: commands about one study."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Annotated, Any

import typer

from raycae.cli.options import ResultsOption, StudyArgument
from raycae.cli.terminal import print_table
from raycae.config import Config
from raycae.errors import InputError
from raycae.formatting import make_printable
from raycae.storage.paths import Place, resolve_place
from raycae.study import find, tables
from raycae.study.plan import read_plan_facts, read_study


def show_study(
    study: StudyArgument = "ex3",
    results_folder: ResultsOption = "results",
    number: Annotated[int, typer.Option("-n", min=1, help="Number of trials to print.")] = 20,
) -> None:
    """Print the leaderboard of a study, also while it runs.

    Example: raycae show ex3 -n 10
    """
    import pandas as pd
    from rich.table import Table

    from raycae.model.architecture import build_architecture
    from raycae.study.summary import format_counts

    folder = find.find_study(study, results_folder)
    trials = tables.read_trials(folder)
    distinct = trials["arch_hash"].nunique()
    print(
        f"{make_printable(folder.name)}: {format_counts(Counter(trials['state']))}, "
        f"{distinct} distinct architecture{'s' * (distinct != 1)}; * on the frontier"
    )
    table = Table(box=None, pad_edge=False)
    for name in ("", "trial", "val_mse", "dB", "test_mse", "latent", "params", "epochs", "network"):
        table.add_column(name, justify="left" if name in ("", "network") else "right")
    ranked = trials[trials["val_mse"].notna() & (trials["state"] != "FAIL")]
    ranked = ranked.sort_values(["val_mse", "trial_number"])
    plan = read_plan_facts(read_study(folder))
    if plan["objective"] == "frontier":  # The frontier comes first, ordered by cost.
        is_on_frontier = ranked["on_frontier"].fillna(False).astype(bool)
        frontier = ranked[is_on_frontier].sort_values(plan["cost"], kind="stable")
        ranked = pd.concat([frontier, ranked[~is_on_frontier]])
    for row in ranked.head(number).to_dict("records"):
        config = Config.model_validate_json(row["config"])
        table.add_row(
            row["state"] + (" *" if row["on_frontier"] is True else ""),
            str(row["trial_number"]),
            f"{row['val_mse']:.5f}",
            f"{row['val_psnr_db']:.2f}",
            format_or_dash(row["test_mse"], "{:.5f}"),
            str(row["latent_size"]),
            f"{row['n_params']:,}",
            str(row["epochs_run"]),
            make_printable(
                f"{format_or_dash(row['point'], '[{}] ')}{build_architecture(config)}".removeprefix(
                    "-"
                )
            ),
        )
    print_table(table)


def evaluate_study(study: StudyArgument = "ex3", results_folder: ResultsOption = "results") -> None:
    """Evaluate the kept models that have no test error yet on the test images.

    Example: raycae evaluate ex3
    """
    folder = find.find_study(study, results_folder)
    from raycae.execution.evaluation import evaluate_kept_models
    from raycae.report.page import write_report
    from raycae.study.summary import format_trial

    with reopen_study(folder) as opened:
        number = evaluate_kept_models(opened)
        print(f"{number} models evaluated on the test images")
        for kept in opened.kept():
            print(f"  {format_trial(opened.records.trials[kept])}")
        for note in opened.notes:
            print(f"note: {note}")
        notes = list(opened.notes)
    write_report(folder, notes=notes)


def report_study(
    studies: Annotated[
        list[str] | None,
        typer.Argument(metavar="STUDY...", help="Names, folders or URIs.", show_default="ex3"),
    ] = None,
    results_folder: ResultsOption = "results",
    output: Annotated[
        str | None,
        typer.Option(
            "-o",
            metavar="FILE",
            help="Where to write the page.",
            show_default="report.html in the study, or comparison.html in the results",
        ),
    ] = None,
    png: Annotated[
        Path | None,
        typer.Option(metavar="FOLDER", help="Also write the figures of one study as images."),
    ] = None,
) -> None:
    """Write the report of a study, or a comparison of several: an HTML page that works offline.

    Baselines and pictures that an interrupted search has not made are added.

    Example: raycae report ex3
    """
    names = studies or ["ex3"]
    if png is not None and len(names) > 1:
        raise InputError("--png works with one study, not with a comparison.")
    folders = [find.find_study(name, results_folder) for name in names]
    path = None if output is None else resolve_place(output)
    from raycae.report.comparison import write_comparison
    from raycae.report.page import write_images, write_report
    from raycae.report.reader import StudyReader

    finishes = [StudyReader(folder).illustrate() for folder in folders]
    if len(folders) > 1:
        default = resolve_place(results_folder) / "comparison.html"
        print(make_printable(str(write_comparison(folders, path or default))))
    else:
        print(make_printable(str(write_report(folders[0], path, finishes[0].notes))))
        for image in write_images(folders[0], png) if png is not None else ():
            print(make_printable(str(image)))
    for finish in finishes:
        finish.raise_fault()


def reopen_study(folder: Place) -> Any:
    """Return a context manager that opens a study for writing and closes it.

    Args:
        folder: The study.
    """
    from contextlib import closing

    from raycae.study.opening import resume_study
    from raycae.study.plan import load_plan, read_content

    return closing(resume_study(folder, load_plan(read_content(folder))))


def format_or_dash(value: Any, template: str) -> str:
    """Write a value, or a dash if it is missing.

    Args:
        value: A value of a table.
        template: How `str.format` writes it.
    """
    import pandas as pd

    return "-" if pd.isna(value) else template.format(value)
