"""`raycae list`, `show`, `open`, `evaluate` and `report`: commands about studies."""

from __future__ import annotations

import json
import math
import os
import re
import sys
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from raycae.cli.options import JsonOption, ResultsOption, StudyArgument, find_study
from raycae.cli.terminal import print_table
from raycae.errors import InputError
from raycae.formatting import make_printable

if TYPE_CHECKING:
    from raycae.storage.paths import Place

SHOWN = [
    *("state", "trial_number", "val_mse", "val_psnr_db", "test_mse", "latent_size", "n_params"),
    *("flops", "epoch_time_s", "epochs_run", "wall_time_s", "point", "on_frontier"),
    *("arch_hash", "config"),
]
"""The columns of `trials.parquet` that `raycae show` reads."""


def list_studies(results_folder: ResultsOption = "results", as_json: JsonOption = False) -> None:
    """List the studies in the results with their states, newest first.

    Example: raycae list
    """
    from rich.table import Table

    from raycae.study import overview

    studies = overview.list_studies(results_folder)
    if as_json:
        print_json(studies)
        return
    if not studies:
        print(f"no studies in {make_printable(results_folder)}")
        return
    table = Table(box=None, pad_edge=False)
    for name in ("study", "state", "trials", "best val_mse", "space", "begun"):
        table.add_column(name, justify="right" if name in ("trials", "best val_mse") else "left")
    for study in studies:
        best, begun = study["best_val_mse"], study["created_at"]
        table.add_row(
            make_printable(study["study"]),
            study["state"],
            "" if begun is None else f"{study['trials_ended']}/{study['trials_planned']}",
            "" if best is None else f"{best:.5f}",
            make_printable(study["space"] or ""),
            make_printable((begun or "")[:16].replace("T", " ")),
        )
    print_table(table)


def print_json(content: list[dict[str, Any]] | dict[str, Any]) -> None:
    """Print the rows of a table or one of them as JSON, which has neither NaN nor infinity.

    Args:
        content: The rows, or one.
    """

    def replace_unbounded(row: dict[str, Any]) -> dict[str, Any]:
        return {name: None if is_unbounded(value) else value for name, value in row.items()}

    if isinstance(content, dict):
        print(json.dumps(replace_unbounded(content), indent=1))
    else:
        print(json.dumps([replace_unbounded(row) for row in content], indent=1))


def is_unbounded(value: Any) -> bool:
    """Return whether a value is a float that is not finite."""
    return isinstance(value, float) and not math.isfinite(value)


def show_study(
    study: StudyArgument = None,
    results_folder: ResultsOption = "results",
    number: Annotated[int, typer.Option("-n", min=1, help="Number of trials to print.")] = 20,
    as_json: JsonOption = False,
) -> None:
    """Print the leaderboard of a study, even while it runs.

    The lines above it list the searched parameters, the ends of the Pareto front, and the training
    time. With --json, each trial has its layers and its configuration.

    Example: raycae show ex3 -n 10
    """
    from rich.table import Table

    from raycae.storage.parquet import is_missing
    from raycae.study.lease import is_held
    from raycae.study.plan import read_plan_facts, read_study
    from raycae.study.summary import format_counts, name_states
    from raycae.study.tables import check_config, read_trials_table

    folder = find_study(study, results_folder)
    stored = read_trials_table(folder, configs=False)
    trials: list[dict[str, Any]] = stored.select(SHOWN).to_pylist()
    content = read_study(folder)
    plan = read_plan_facts(content)
    cost = plan["cost"] if plan["objective"] == "frontier" else None
    ranked = rank_trials(trials, cost)[:number]
    path = folder / "trials.parquet"
    networks = [str(check_config(path, t["trial_number"], t["config"])[1]) for t in ranked]
    if as_json:
        rows = zip(ranked, networks, strict=True)
        print_json(
            [{**row, "config": json.loads(row["config"]), "network": text} for row, text in rows]
        )
        return
    states, reasons = (stored[name].to_pylist() for name in ("state", "reason"))
    for row, shown in zip(trials, name_states(states, reasons, is_held(folder)), strict=True):
        row["state"] = shown
    distinct = len({row["arch_hash"] for row in trials} - {None})
    print(
        f"{make_printable(folder.name)}: {format_counts(Counter(row['state'] for row in trials))}, "
        f"{distinct} distinct architecture{'s' * (distinct != 1)}; * = on the Pareto front"
    )
    names = [name[7:] for name in stored.column_names if name.startswith("params_")]
    for line in describe_search(content["task"], plan, names, trials):
        print(make_printable(line))
    table = Table(box=None, pad_edge=False)
    for name in ("", "trial", "val_mse", "dB", "test_mse", "latent", "params", "MFLOPs", "epochs"):
        table.add_column(name, justify="left" if name == "" else "right")
    if any(row["point"] is not None for row in ranked):
        table.add_column("point")
    for row in ranked:
        cells = [
            row["state"] + (" *" if row["on_frontier"] else ""),
            str(row["trial_number"]),
            f"{row['val_mse']:.5f}",
            f"{row['val_psnr_db']:.2f}",
            "-" if is_missing(row["test_mse"]) else f"{row['test_mse']:.5f}",
            str(row["latent_size"]),
            f"{row['n_params']:,}",
            f"{row['flops'] / 1e6:.2f}",
            str(row["epochs_run"]),
            make_printable(row["point"] or ""),
        ]
        table.add_row(*cells[: len(table.columns)])
    print_table(table)


def describe_search(
    task: str, plan: dict[str, Any], names: list[str], trials: list[dict[str, Any]]
) -> list[str]:
    """Describe the searched parameters, the ends of the Pareto front, and the training time.

    Args:
        task: The task.
        plan: The plan of the study.
        names: The searched parameters.
        trials: Rows of `trials.parquet`.

    Returns:
        One line for each.
    """
    from raycae.formatting import format_count, format_duration
    from raycae.storage.parquet import is_missing
    from raycae.study.summary import format_frontier

    cost = plan["cost"]
    front = [row for row in rank_trials(trials, cost) if row["on_frontier"]]
    # A parameter of each stage ends with its number: the setting is named once.
    settings = dict.fromkeys(re.sub(r"_\d+$", "", name) for name in names)
    spent = [row["wall_time_s"] for row in trials if not is_missing(row["wall_time_s"])]
    if not settings:
        is_greedy = plan["sampler"] == "greedy"
        settings = {"the changes of the series" if is_greedy else "the points of the space": None}
    lines = [
        f"search   {task} {plan['data']}, space {plan['space']}: "
        f"{format_count(plan['trials'], 'trial')} of up to {format_count(plan['epochs'], 'epoch')} "
        f"by {plan['sampler']}",
        f"over     {', '.join(settings)}",
        format_frontier(front, cost),
        f"trained  {format_duration(math.fsum(spent))}, summed over the trials",
    ]
    has_front = any(row["on_frontier"] is not None for row in trials)
    return [line for line in lines if has_front or not line.startswith("frontier")]


def rank_trials(trials: list[dict[str, Any]], cost: str | None) -> list[dict[str, Any]]:
    """Rank the trials that did not fail by their validation error.

    Args:
        trials: Rows of `trials.parquet`.
        cost: Column of the second objective: the trials on the Pareto front come first, the lowest
            cost first. None if only the error counts.

    Returns:
        The rows of the trials that have an error.
    """
    from raycae.storage.parquet import is_missing

    scored = [t for t in trials if t["state"] != "FAIL" and not is_missing(t["val_mse"])]
    ranked = sorted(scored, key=lambda t: (t["val_mse"], t["trial_number"]))
    if cost is None:
        return ranked
    front = [t for t in ranked if t["on_frontier"]]
    front.sort(key=lambda t: math.inf if t[cost] is None else t[cost])
    return front + [t for t in ranked if not t["on_frontier"]]


def open_report(study: StudyArgument = None, results_folder: ResultsOption = "results") -> None:
    """Open the report of a study in the browser. Write it first if it is missing.

    The path of the report is printed. Without a display, no browser is opened.

    Example: raycae open ex3
    """
    folder = find_study(study, results_folder)
    report = folder / "report.html"
    if not report.is_file():
        from raycae.report.page import write_report

        write_report(folder)
    print(make_printable(str(report)), flush=True)
    if isinstance(report, Path) and has_browser():
        import webbrowser

        webbrowser.open(report.absolute().as_uri())


def has_browser() -> bool:
    """Return whether a browser with a window can be opened.

    On Linux, `webbrowser` would otherwise start a text browser in this terminal.
    """
    if os.environ.get("BROWSER") or not sys.platform.startswith("linux"):
        return True
    return bool(os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY"))


def evaluate_study(study: StudyArgument = None, results_folder: ResultsOption = "results") -> None:
    """Compute the missing test errors of saved models.

    Example: raycae evaluate ex3
    """
    from raycae.execution.evaluation import evaluate_kept_models
    from raycae.report.page import write_report
    from raycae.study.summary import format_trial

    folder = find_study(study, results_folder)
    with reopen_study(folder) as opened:
        number = evaluate_kept_models(opened)
        print(f"{number} models evaluated on the test images")
        for kept in opened.kept():
            print(f"  {format_trial(opened.records.trials[kept])}")
        for note in opened.notes:
            print(f"note: {make_printable(note)}")
        notes = list(opened.notes)
    write_report(folder, notes=notes)


def report_study(
    studies: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="STUDY...",
            help="Names, folders or URIs.",
            show_default="the newest in the results",
        ),
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

    Missing baselines and pictures, for example of an interrupted search, are computed first.

    Example: raycae report ex3
    """
    names: list[str | None] = [*studies] if studies else [None]
    if png is not None and len(names) > 1:
        raise InputError("--png works with one study, not with a comparison.")
    from raycae.storage.paths import resolve_place

    folders = [find_study(name, results_folder) for name in names]
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
