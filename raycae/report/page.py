"""The page that people open first: what a study found, as one HTML file that works offline.

Everything comes from the study's folder: tables, baselines, pictures, `study.json`. What the
folder does not hold (yet) the page says in a line. Jinja2 escapes every value; only plotly's own
library and its JSON, in which plotly escapes `<`, are put in as they are.
"""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import plotly.graph_objects as go

from raycae.errors import InputError
from raycae.formatting import format_error
from raycae.optimization import early_stopping
from raycae.report.html import render_page, write_page
from raycae.report.sampled_values import Parameters
from raycae.report.sections import frontier_growth, greedy_ladder, latent_size, learning_curves
from raycae.report.sections.answer import describe_answer, describe_comparison
from raycae.report.sections.frontier_growth import describe_cost, describe_growth
from raycae.report.sections.greedy_ladder import describe_ladder, make_ladder_row
from raycae.report.sections.importance import summarise_importance
from raycae.report.sections.latent_size import (
    describe_frontier_answer,
    describe_latent_error,
    describe_sides,
    draw_psnr_view,
    format_latent_shape,
    make_frontier_rows,
)
from raycae.report.sections.learning_curves import describe_curves
from raycae.report.sections.pictures import make_gallery, make_sheets
from raycae.report.sections.search_health import summarise_health
from raycae.report.trial_table import COLUMNS, MOST_ROWS, SETTINGS, describe_trials, list_colours
from raycae.report.trials import (
    COST_NAMES,
    add_config_columns,
    count_states,
    list_rows,
    list_trials_with_pictures,
    rank_trials,
    select_trials_to_picture,
)
from raycae.space import loading
from raycae.storage.paths import Place
from raycae.study import tables
from raycae.study.plan import read_plan_facts, read_study
from raycae.study.records import COMPLETE, Records


def write_report(folder: Place, path: Place | None = None, notes: Sequence[str] = ()) -> Place:
    """Write a study's report.

    Args:
        folder: The study.
        path: The page, `report.html` in `folder` by default.
        notes: What could not be done for it, a sentence each.

    Returns:
        The page's path.

    Raises:
        InputError: The folder holds no readable study.
    """
    return write_page(path or folder / "report.html", render_report(folder, notes))


def write_images(folder: Place, target: Path) -> list[Path]:
    """Write a study's figures into the folder `target`, each `NAME.png`, 1800 x 1100 pixels on
    white. Returns their paths.

    Raises `InputError` where Kaleido or a browser for it is missing, or there is no such study.
    """
    drawn, _ = collect_content(folder)
    paths = [target / f"{name}.png" for name in drawn]
    for figure in drawn.values():
        figure.update_layout(paper_bgcolor="white", font_color="#4a4f57")
    try:
        import kaleido  # noqa: F401 - plotly asks for it later, with another error
        from plotly.io import write_images

        target.mkdir(parents=True, exist_ok=True)
        write_images(list(drawn.values()), paths, width=900, height=550, scale=2)
    except ImportError:
        raise InputError("--png: needs Kaleido: pip install 'raycae[png]'") from None
    except RuntimeError:
        raise InputError("--png: Kaleido finds no browser; install chromium or Chrome") from None
    except OSError as error:
        raise InputError(f"--png {target}: cannot be written: {error.strerror}") from None
    return paths


def render_report(folder: Place, notes: Sequence[str] = ()) -> str:
    """Render the page; see `write_report`. Raises `InputError` where the folder holds no readable
    study."""
    drawn, values = collect_content(folder)
    plots = {name: figure.to_json() for name, figure in drawn.items()}
    return render_page("report.html.j2", plots, notes=notes, **values)


def collect_content(folder: Place) -> tuple[dict[str, go.Figure], dict[str, Any]]:
    """The figures by their places in the page, and all else that its template shows."""
    study = read_study(folder)
    parameters = load_parameters(study)
    trials, epochs = read_tables(folder)
    trials = add_config_columns(trials)
    alike = trials.groupby("arch_hash")["trial_number"]
    trials = trials.assign(n_settings=alike.transform("count"))
    ranked = list_rows(rank_trials(trials))
    scored = (row for row in ranked if row["state"] == COMPLETE and row["val_mse"] is not None)
    best = next(scored, None)
    latent = latent_size.compute_latent_error(
        trials, tables.read_baselines(folder, study["data"]["fingerprint"])
    )
    curves = learning_curves.select_learning_curves(trials, epochs)
    steps = greedy_ladder.make_ladder(trials)
    plan = read_plan_facts(study)
    cost = plan["cost"]
    grown = (
        frontier_growth.compute_growth(trials, latent, cost)
        if plan["objective"] == "frontier"
        else None
    )
    curve = grown is not None and cost == "latent_size"
    winner = describe_answer(best) if best else None
    shown = select_trials_to_picture(trials, plan["strata"])
    painted = tables.read_pictures(folder)
    columns = [*COLUMNS, SETTINGS] if plan["settings"] > 1 else COLUMNS
    drawn: dict[str, go.Figure] = {}
    if grown is not None:
        drawn["growth"] = frontier_growth.draw_growth(grown)
        if cost != "latent_size":
            drawn["cost-error"] = frontier_growth.draw_cost(trials, cost)
    if (ladder := greedy_ladder.draw_ladder(steps)) is not None:
        drawn["ladder"] = ladder
    if not latent.points.empty:
        drawn["latent-error"] = latent_size.draw_latent_error(latent)
        for side in latent_size.SIDES:
            drawn[side.replace("_", "-")] = latent_size.draw_side(trials, side)
    if not curves.curves.empty:
        rungs = early_stopping.list_rungs(
            study["plan"]["scheduler"], plan["epochs"], grace=plan["grace"], factor=plan["factor"]
        )
        drawn["learning-curves"] = learning_curves.draw_learning_curves(curves, rungs)
    mattered = summarise_importance(trials, epochs, parameters)
    went = summarise_health(trials, parameters)
    drawn |= mattered.pop("figures") | went.pop("figures")
    return drawn, {
        "study": study,
        "source": Path(study["plan"]["data"]).name,
        "counts": count_states(trials),
        "best": best,
        "answer": describe_frontier_answer(latent, ranked) if curve else winner,
        "winner": winner,
        "comparison": describe_comparison(best, ranked, latent) if best else None,
        "latent_sentence": describe_latent_error(latent),
        "sides_sentence": describe_sides(trials),
        "curves_sentence": describe_curves(curves, study["plan"]["epochs"]),
        "ladder_sentence": describe_ladder(steps),
        "ladder": [make_ladder_row(step) for step in list_rows(steps)],
        "frontier": make_frontier_rows(latent, ranked),
        "has_linear": not latent.linear.empty,
        "has_baselines": bool(latent.levels) or not latent.linear.empty,
        "psnr": draw_psnr_view(latent, study["task"]),
        "growth_sentence": describe_growth(grown, cost) if grown else None,
        "cost": COST_NAMES[cost],
        "cost_sentence": describe_cost(frontier_growth.select_cost_frontier(trials, cost), cost)
        if "cost-error" in drawn
        else None,
        "sheets": make_sheets(folder, shown, painted, ranked, latent, study["task"]),
        "gallery": make_gallery(folder, shown, painted, trials, plan["strata"], study["task"]),
        "pictured": shown,
        "mattered": mattered,
        "health": went,
        "known": describe_trials(drawn.values(), ranked, epochs),
        "colours": list_colours(trials, parameters, drawn.get("latent-error")),
        "command": f"raycae report {shlex.quote(study['study'])}",
        "headers": [column.title for column in columns],
        "table": [[column.cell(row) for column in columns] for row in ranked[:MOST_ROWS]],
        "n_trials": len(ranked),
        "error": format_error,
        "latent_shape": format_latent_shape,
    }


def load_parameters(study: Mapping[str, Any]) -> Parameters:
    """What was searched; nothing where this version cannot read the space, which is no reason to
    show nothing else."""
    try:
        return loading.parse_space(study["space"]["text"], name=study["space"]["name"]).parameters
    except InputError:
        return {}


def lacks_pictures_or_baselines(folder: Place) -> bool:
    """Whether the folder lacks pictures of the best trials or baselines of its images."""
    study = read_study(folder)
    if not (
        shown := select_trials_to_picture(read_tables(folder)[0], read_plan_facts(study)["strata"])
    ):
        return False
    baselines = tables.read_baselines(folder, study["data"]["fingerprint"])
    unpainted = set(shown) - list_trials_with_pictures(folder)
    return bool(unpainted) or baselines is None or baselines.empty


def read_tables(folder: Place) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Both tables; empty ones where the search was cut off before its first trial."""
    if not (folder / "trials.parquet").exists():
        none = Records()
        return none.trials_table().to_pandas(), none.epochs_table().to_pandas()
    return tables.read_trials(folder), tables.read_epochs(folder)
