"""Several studies on one page: the answer of each, and the Pareto fronts of comparable studies.

Errors can be compared only between studies of the same task and the same images.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import plotly.graph_objects as go

from raycae.errors import InputError
from raycae.formatting import format_count, format_error, format_ratio
from raycae.report import html, plotting
from raycae.report.latent_error import LatentError, compute_latent_error
from raycae.report.plotting import BLUE, EXACT, GREY, ORANGE, VIOLET
from raycae.report.sections import answer
from raycae.report.trials import add_config_columns, list_rows
from raycae.report.wording import format_errors_apart
from raycae.storage.paths import Place
from raycae.study import find, tables
from raycae.study.plan import read_study

COLOURS = (BLUE, ORANGE, VIOLET, "#4a9d5b", "#c2407a", GREY)
DASHES = ("solid", "dash", "dot", "dashdot")


@dataclass(frozen=True)
class Entry:
    """A study on the page.

    Attributes:
        name: Its name on the page.
        folder: The folder of the study.
        study: The content of `study.json`.
        trials: Its trials.
        latent: Its errors against latent size.
    """

    name: str
    folder: Place
    study: dict[str, Any]
    trials: pd.DataFrame
    latent: LatentError

    @property
    def images(self) -> tuple[str, str]:
        """The task, and the fingerprint of the images."""
        return self.study["task"], self.study["data"]["fingerprint"]


def write_comparison(folders: list[Place], path: Place) -> Place:
    """Write the page that compares studies.

    Args:
        folders: The folders of the studies.
        path: The file to write.

    Returns:
        The path.

    Raises:
        InputError: A folder holds no readable study, or comes twice, or the page cannot be written.
    """
    return html.write_page(path, render_comparison(folders))


def render_comparison(folders: list[Place]) -> str:
    """Render the page that compares studies.

    Args:
        folders: The folders of the studies.

    Raises:
        InputError: A folder holds no readable study, or comes twice.
    """
    entries = read_entry(folders)
    groups: dict[tuple[str, str], list[Entry]] = {}
    for entry in entries:
        groups.setdefault(entry.images, []).append(entry)
    plots, shown = {}, []
    for number, group in enumerate(groups.values()):
        drawn = [entry for entry in group if not entry.latent.points.empty]
        if drawn:
            plots[f"frontiers-{number}"] = draw_frontiers(drawn).to_json()
        task, fingerprint = group[0].images
        source = Path(group[0].study["plan"]["data"]).name
        shown.append((f"{task}, {source} ({fingerprint[:8]})", compare_studies(drawn), bool(drawn)))
    return html.render_page(
        "comparison.html.j2",
        plots,
        names=[entry.name for entry in entries],
        apart=explain_separation(list(groups.values())),
        groups=shown,
        rows=[make_row(entry) for entry in entries],
        error=format_error,
    )


def read_entry(folders: list[Place]) -> list[Entry]:
    """Read the studies; those of the same name are named by their folders.

    Args:
        folders: The folders of the studies.

    Raises:
        InputError: A folder holds no readable study, or comes twice.
    """
    entries: list[Entry] = []
    for folder in folders:
        if folder in [entry.folder for entry in entries]:
            raise InputError(f"{folder}: is listed twice. List each study once")
        study = read_study(folder)
        trials = tables.read_trials(folder, configs=False)
        baselines = tables.read_baselines(folder, study["data"]["fingerprint"])
        taken = [entry.name for entry in entries]
        # Studies of the same name, from different folders, are told apart by these.
        name = study["study"] if study["study"] not in taken else str(folder)
        entries.append(Entry(name, folder, study, trials, compute_latent_error(trials, baselines)))
    return entries


def explain_separation(groups: list[list[Entry]]) -> str | None:
    """Explain why studies are in separate figures.

    Args:
        groups: The studies of each figure.

    Returns:
        The explanation; None if there is a single figure.
    """
    if len(groups) == 1:
        return None
    tasks = {task for task, _ in (group[0].images for group in groups)}
    images = {fingerprint for _, fingerprint in (group[0].images for group in groups)}
    why = " and ".join(
        what for what, kinds in (("task", tasks), ("images", images)) if len(kinds) > 1
    )
    return (
        f"Not all studies have the same {why}. Errors on different tasks or images cannot be "
        "compared, so each group has its own figure."
    )


def compare_studies(entries: list[Entry]) -> str:
    """Describe which study has the lowest error, and at how many latent sizes.

    Args:
        entries: Studies of the same task and images with a trial with a measured error.
    """
    if not entries:
        return "None of these studies has a trial with a measured error yet."
    least_errors = [float(entry.latent.points["val_mse"].min()) for entry in entries]
    order = sorted(range(len(entries)), key=least_errors.__getitem__)
    best = entries[order[0]]
    if len(entries) == 1:
        return (
            f"{best.name} has the lowest error, {format_error(least_errors[order[0]])}; there is "
            "no other study of these images to compare it with."
        )
    wins, n = count_lower_sizes(entries)
    counts = ", ".join(f"{entry.name} {won:,}" for entry, won in zip(entries, wins, strict=True))
    sizes = format_count(n, "latent size")
    tried = ", ".join(
        f"{entry.name}: {format_count(len(entry.latent.points), 'trial')}" for entry in entries
    )
    lead = _describe_lead(
        best.name, entries[order[1]].name, least_errors[order[0]], least_errors[order[1]]
    )
    return (
        f"{lead} The Pareto fronts contain {sizes}. At each size, the studies are "
        "compared by their lowest error with a latent of at most that size. Number of sizes at "
        f"which each study is the best: {counts}. Each error is the lowest "
        f"of a study's trials ({tried}) and was measured in one run, so a small difference may be "
        "chance."
    )


def _describe_lead(best: str, second: str, least_error: float, next_error: float) -> str:
    """Describe how far the study with the lowest error is ahead of the next one."""
    if least_error == next_error:
        return f"{best} and {second} have the same lowest error, {format_error(least_error)}."
    first, other = format_errors_apart(least_error, next_error)
    if next_error <= EXACT:
        return f"{best} has the lowest error, {first}; {second} has {other}."
    times = format_ratio(least_error / next_error)
    if times == "1.00":
        return f"{best} has the lowest error, {first}, hardly less than {second}, {other}."
    return f"{best} has the lowest error, {first}, {times} times that of {second}."


def count_lower_sizes(entries: list[Entry]) -> tuple[list[int], int]:
    """Count at how many latent sizes each study has the lowest error.

    The sizes are those on any Pareto front. A study's error at a size is that of its best trial
    with latents of that size or smaller. A tie counts for each study.

    Args:
        entries: Studies of the same task and images.

    Returns:
        The count of each study, and the number of sizes.
    """
    fronts = [entry.latent.frontier for entry in entries]
    sizes = sorted({size for front in fronts for size in front["latent_size"].tolist()})
    wins = [0] * len(entries)
    for size in sizes:
        errors = [front.loc[front["latent_size"] <= size, "val_mse"].min() for front in fronts]
        errors = [math.inf if math.isnan(value) else float(value) for value in errors]
        wins = [won + (value == min(errors)) for won, value in zip(wins, errors, strict=True)]
    return wins, len(sizes)


def draw_frontiers(entries: list[Entry]) -> go.Figure:
    """Draw the Pareto front of each study on logarithmic axes, with thin lines between its trials.

    Args:
        entries: The studies; each has a trial with a measured error.
    """
    figure = plotting.make_figure("latent size, numbers per image", "validation error, MSE")
    every = pd.concat([entry.latent.frontier for entry in entries])["val_mse"].tolist()
    zero = plotting.choose_zero_position(every)
    for i, entry in enumerate(entries):
        front = entry.latent.frontier
        name = plotting.escape_html(entry.name)
        numbers, errors = front["trial_number"].tolist(), front["val_mse"].tolist()
        sizes = front["latent_size"].tolist()
        figure.add_scatter(
            x=sizes,
            y=plotting.lift_zeros(errors, zero),
            name=name,
            mode="lines+markers",
            line={
                "color": COLOURS[i % len(COLOURS)],
                "dash": DASHES[i // len(COLOURS) % 4],
                "width": 1,
            },
            hovertext=[
                f"{name}, trial {number}<br>latent size {size:,}: {format_error(val_mse)}"
                for number, size, val_mse in zip(numbers, sizes, errors, strict=True)
            ],
            hoverinfo="text",
        )
    fronts = pd.concat([entry.latent.frontier for entry in entries])
    drawn = plotting.lift_zeros(every, zero)
    low, high = min(drawn) / 1.2, max(drawn) * 1.2
    figure.update_yaxes(plotting.make_full_error_axis(low, max(high, 1.5 * low), every))
    low, high = fronts["latent_size"].min() / 1.5, fronts["latent_size"].max() * 1.5
    return figure.update_xaxes(
        plotting.make_log_axis(low, high, plotting.list_powers_of_two(low, high), "{:,}")
    )


def make_row(entry: Entry) -> dict[str, Any]:
    """Make the row of a study in the table.

    Args:
        entry: The study.

    Returns:
        The cells; `best` is its best complete trial, or None.
    """
    number = find.find_best_trial(entry.trials)
    best = None
    if number is not None:
        (best,) = list_rows(
            add_config_columns(entry.trials[entry.trials["trial_number"] == number])
        )
    plan = entry.study["plan"]
    spent = float(entry.trials["wall_time_s"].astype(float).fillna(0).sum())
    return {
        "name": entry.name,
        "task": entry.study["task"],
        "source": f"{Path(plan['data']).name} ({entry.study['data']['fingerprint'][:8]})",
        "searched": f"{entry.study['space']['name']}, {plan['sampler']}, {plan['scheduler']}",
        "n_trials": len(entry.trials),
        "epochs": plan["epochs"],
        "hours": f"{spent / 3600:,.2f}",
        "answer": answer.describe_answer(best) if best else "No trial is complete yet.",
        "best": best,
    }
