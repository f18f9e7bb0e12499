"""The page that people open first: what a study found, as one HTML file that works offline.

Everything comes from the study's folder: tables, baselines, pictures, `study.json`. What the
folder does not hold (yet) the page says in a line. Jinja2 escapes every value; only plotly's own
library and its JSON, in which plotly escapes `<`, are put in as they are.
"""

from __future__ import annotations

import base64
import math
import shlex
import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2
import pandas as pd
import plotly.graph_objects as go
from plotly.offline import get_plotlyjs

from raycae import effects, figures, health, results, space, stopping
from raycae.canvas import EXACT, counted, error, errors_apart, factor, fall, listed, ratio
from raycae.errors import InputError
from raycae.figures import Growth, LatentError, LearningCurves, baseline_name
from raycae.greedy import AGAIN, DROPPED, KEPT, START
from raycae.results import ALL, BEST, COMPLETE, FAIL, PRUNED, SAME, STATES, WORST, Records
from raycae.storage import Place, write_whole

MOST_ROWS = 1000
PICTURES_WIDTH_PX = 812  # 12 images of 32 pixels and the gaps between them, doubled
PNG_HEADER = b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR"
PALE = 0.8
"""Outputs with less of their originals' colourfulness are clearly paler; the limit is ours."""
NOTHING = ("mean_colour", "mean_chroma", "grey_copy")
"""The baselines that do nothing: the same answer for every image, or its grey copy."""

Row = dict[str, Any]
"""One trial; what the table lacks is None."""


def write(folder: Place, path: Place | None = None, notes: Sequence[str] = ()) -> Place:
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
    return put(path or folder / "report.html", render(folder, notes))


def put(path: Place, page: str) -> Place:
    """Write a page, whole or not at all. Returns its path. Raises `InputError`."""
    if not path.parent.is_dir():
        raise InputError(f"{path}: the page cannot be written there: {path.parent} is no folder")
    # A path on the command line need not be UTF-8; the page has to be.
    write_whole(path, page.encode("utf-8", errors="replace"))
    return path


def write_images(folder: Place, target: Path) -> list[Path]:
    """Write a study's figures into the folder `target`, each `NAME.png`, 1800 x 1100 pixels on
    white. Returns their paths.

    Raises `InputError` where Kaleido or a browser for it is missing, or there is no such study.
    """
    drawn, _ = _content(folder)
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


def render(folder: Place, notes: Sequence[str] = ()) -> str:
    """Render the page; see `write`. Raises `InputError` where the folder holds no readable
    study."""
    drawn, values = _content(folder)
    plots = {name: figure.to_json() for name, figure in drawn.items()}
    return page("report.html.j2", plots, notes=notes, **values)


def _content(folder: Place) -> tuple[dict[str, go.Figure], dict[str, Any]]:
    """The figures by their places in the page, and all else that its template shows."""
    study = results.read_study(folder)
    parameters = _parameters(study)
    trials, epochs = _tables(folder)
    trials = figures.described(trials)
    alike = trials.groupby("arch_hash")["trial_number"]
    trials = trials.assign(n_settings=alike.transform("count"))
    ranked = rows(figures.ranking(trials))
    scored = (row for row in ranked if row["state"] == COMPLETE and row["val_mse"] is not None)
    best = next(scored, None)
    latent = figures.latent_error(
        trials, results.read_baselines(folder, study["data"]["fingerprint"])
    )
    curves = figures.learning_curves(trials, epochs)
    steps = figures.ladder(trials)
    plan = results.asked(study)
    cost = plan["cost"]
    grown = figures.growth(trials, latent, cost) if plan["objective"] == "frontier" else None
    curve = grown is not None and cost == "latent_size"
    winner = answer(best) if best else None
    shown = results.pictured(trials, plan["strata"])
    painted = results.read_pictures(folder)
    columns = [*COLUMNS, SETTINGS] if plan["settings"] > 1 else COLUMNS
    drawn: dict[str, go.Figure] = {}
    if grown is not None:
        drawn["growth"] = figures.growth_figure(grown)
        if cost != "latent_size":
            drawn["cost-error"] = figures.cost_figure(trials, cost)
    if (ladder := figures.ladder_figure(steps)) is not None:
        drawn["ladder"] = ladder
    if not latent.points.empty:
        drawn["latent-error"] = figures.latent_error_figure(latent)
        for side in figures.SIDES:
            drawn[side.replace("_", "-")] = figures.side_figure(trials, side)
    if not curves.curves.empty:
        rungs = stopping.rungs(
            study["plan"]["scheduler"], plan["epochs"], grace=plan["grace"], factor=plan["factor"]
        )
        drawn["learning-curves"] = figures.learning_curves_figure(curves, rungs)
    mattered = _mattered(trials, epochs, parameters)
    went = _health(trials, parameters)
    drawn |= mattered.pop("figures") | went.pop("figures")
    return drawn, {
        "study": study,
        "source": Path(study["plan"]["data"]).name,
        "counts": state_counts(trials),
        "best": best,
        "answer": frontier_answer(latent, ranked) if curve else winner,
        "winner": winner,
        "comparison": comparison(best, ranked, latent) if best else None,
        "latent_sentence": latent_sentence(latent),
        "sides_sentence": sides_sentence(trials),
        "curves_sentence": curves_sentence(curves, study["plan"]["epochs"]),
        "ladder_sentence": ladder_sentence(steps),
        "ladder": [ladder_row(step) for step in rows(steps)],
        "frontier": frontier_rows(latent, ranked),
        "has_linear": not latent.linear.empty,
        "has_baselines": bool(latent.levels) or not latent.linear.empty,
        "psnr": psnr_view(latent, study["task"]),
        "growth_sentence": growth_sentence(grown, cost) if grown else None,
        "cost": figures.COST_NAMES[cost],
        "cost_sentence": cost_sentence(figures.cost_frontier(trials, cost), cost)
        if "cost-error" in drawn
        else None,
        "sheets": sheets(folder, shown, painted, ranked, latent, study["task"]),
        "gallery": gallery(folder, shown, painted, trials, plan["strata"], study["task"]),
        "pictured": shown,
        "mattered": mattered,
        "health": went,
        "known": known_trials(drawn.values(), ranked, epochs),
        "colours": colours(trials, parameters, drawn.get("latent-error")),
        "command": f"raycae report {shlex.quote(study['study'])}",
        "headers": [column.title for column in columns],
        "table": [[column.cell(row) for column in columns] for row in ranked[:MOST_ROWS]],
        "n_trials": len(ranked),
        "error": error,
        "latent_shape": latent_shape,
    }


def _parameters(study: Mapping[str, Any]) -> effects.Parameters:
    """What was searched; nothing where this version cannot read the space, which is no reason to
    show nothing else."""
    try:
        return space.parse(study["space"]["text"], name=study["space"]["name"]).parameters
    except InputError:
        return {}


def _mattered(
    trials: pd.DataFrame, epochs: pd.DataFrame, parameters: effects.Parameters
) -> dict[str, Any]:
    """What the template shows of "What mattered"."""
    weights = effects.importance(trials, parameters)
    n_ended = len(figures.distinct(trials))
    order = [*weights["parameter"], *(n for n in parameters if n not in set(weights["parameter"]))]
    parameters = {name: parameters[name] for name in order}
    slices = effects.slices(trials, parameters)
    paired = effects.pairs(trials, epochs)
    drawn = {f"slice-{data.name}": effects.slice_figure(data) for data in slices}
    if not weights.empty:
        drawn["importance"] = effects.importance_figure(weights)
    if (parallel := effects.parallel_figure(trials, parameters)) is not None:
        drawn["parallel"] = parallel
    if not paired.empty:
        drawn["pairs"] = effects.pairs_figure(paired)
    return {
        "figures": drawn,
        "sentence": effects.importance_sentence(weights, len(effects.weighed(trials))),
        "slices": [(data.name, slice_sentence(data), len(data.points)) for data in slices],
        "is_ranked": not weights.empty,
        "n_ended": n_ended,
        "n_searched": len(parameters),
        "common_sentence": effects.common_sentence(trials, parameters),
        "pairs_sentence": effects.pairs_sentence(paired),
        "n_paired": len(paired),
    }


def _health(trials: pd.DataFrame, parameters: effects.Parameters) -> dict[str, Any]:
    """What the template shows of "How the search went", and of the best so far."""
    better = health.improvements(trials)
    running = health.workers(trials)
    drawn = {}
    if not better.empty:
        ended = trials["ended_at"].dropna()
        hours = (ended.max() - trials["started_at"].min()).total_seconds() / 3600
        drawn["best-by-trial"] = health.best_so_far_figure(better, "n", len(ended))
        drawn["best-by-hour"] = health.best_so_far_figure(better, "hours", hours)
    if running is not None:
        drawn["workers"] = health.workers_figure(running)
    return {
        "figures": drawn,
        "failed": health.failures_sentence(trials),
        "failures": health.failures(trials).head(20).to_dict("records"),
        "regions": health.regions(trials, parameters).head(10).to_dict("records"),
        "edges": _edges_sentence(trials, parameters) if parameters else None,
        "duplicates": health.duplicates_sentence(trials),
        "workers": health.workers_sentence(running) if running else None,
        "cost": health.cost_sentence(better, trials),
        "improved": health.improvements_sentence(better, trials),
        "improvements": better.tail(20).to_dict("records"),
        "hosts": sorted(set(trials["host"].dropna())),
        "devices": sorted(set(trials["device"].dropna())),
    }


def _edges_sentence(trials: pd.DataFrame, parameters: effects.Parameters) -> str:
    n = len(figures.distinct(trials))
    return health.edges_sentence(health.edges(trials, parameters), n)


def slice_sentence(data: effects.Slice) -> str:
    """Say what the best tenth of the configurations that drew a parameter drew."""
    who = "best" if data.n_best == 1 else f"best {data.n_best:,}"
    return f"{who}: {data.best}"


def psnr_view(latent: LatentError, task: str) -> dict[str, Any]:
    """Return what the PSNR view of "latent size against error" draws beside the trials.

    Args:
        latent: The numbers of the figure.
        task: Pictures and errors are of the same values in reconstruction alone, so colourisation
            has no baseline in PSNR.

    Returns:
        `front`: the trials of the Pareto front by PSNR, by latent size; `x` and `y` of that line;
        `baselines`: whether an MSE is also a PSNR, 10 log10(1 / MSE).
    """
    front = latent.psnr_frontier
    return {
        "front": front["trial_number"].astype(int).tolist(),
        "x": front["latent_size"].astype(int).tolist(),
        "y": front["val_psnr_db"].astype(float).tolist(),
        "baselines": task == "reconstruct",
    }


def known_trials(
    drawn: Iterable[go.Figure], ranked: list[Row], epochs: pd.DataFrame
) -> dict[int, dict[str, Any]]:
    """What the page tells of a trial when its point is clicked, for all trials of which any figure
    has a point: `words`, `psnr` (dB), and its curve, `epoch` and `val_mse`."""
    numbers = {number for figure in drawn for number in _customdata(figure)}
    told = epochs[epochs["trial_number"].isin(numbers) & figures.measured(epochs["val_mse"])]
    told = told.sort_values(["trial_number", "epoch"]).astype({"val_mse": float})
    curves = dict(list(told.groupby("trial_number")))
    known = {}
    for row in ranked:
        if (number := row["trial_number"]) in numbers:
            curve = curves.get(number, told[:0])
            known[number] = {
                "words": _words(row),
                "psnr": row["val_psnr_db"],
                "epoch": curve["epoch"].tolist(),
                "val_mse": [float(f"{val_mse:.4g}") for val_mse in curve["val_mse"]],
            }
    return known


def _customdata(figure: go.Figure) -> set[int]:
    """The numbers of the trials that have a point in it."""
    told = (trace.customdata for trace in figure.data if trace.customdata is not None)
    return {number for numbers in told for number in numbers if number is not None}


def colours(
    trials: pd.DataFrame, parameters: effects.Parameters, figure: go.Figure | None
) -> list[dict[str, Any]]:
    """What the points of a figure can be coloured by: `name`, `marks` (positions with their values
    in words), `at` (the position of each trial that drew it, 0 to 1)."""
    if figure is None:
        return []
    shown = trials[trials["trial_number"].isin(_customdata(figure))]
    places = effects.positions(shown, parameters)
    return [
        {
            "name": str(name),
            "marks": effects.marks(parameters[str(name)]),
            "at": {
                int(number): round(place, 3)
                for number, place in zip(shown["trial_number"], places[name], strict=True)
                if not math.isnan(place)
            },
        }
        for name in places
    ]


def _words(row: Row) -> list[str]:
    """A trial, line by line."""
    named = f", point {row['point']}" if row["point"] else ""
    epochs = counted(row["epochs_run"], "epoch") if row["epochs_run"] else "its first epoch"
    said = [f"trial {row['trial_number']}{named}: {row['state']} after {epochs}"]
    if row["val_mse"] is not None:
        test = "" if row["test_mse"] is None else f", on test images {error(row['test_mse'])}"
        said.append(f"error {error(row['val_mse'])}{test}; PSNR {row['val_psnr_db']:.2f} dB")
    said.append(
        f"latent {latent_shape(row)} = {row['latent_size']:,}, {row['n_params']:,} parameters"
    )
    said.append(f"{row['optimizer']}, lr {row['lr']:.3g}, batch {row['batch_size']}")
    return [*said, row["network"], *([row["reason"]] if row["reason"] else [])]


def page(template: str, plots: dict[str, str], **values: Any) -> str:
    """An HTML page with everything inside; `plots`: plotly's JSON by the id of its place."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    plotly = get_plotlyjs() if plots else None
    return environment.get_template(template).render(plots=plots, plotly=plotly, **values)


def lacks_anything(folder: Place) -> bool:
    """Whether the folder lacks pictures of the best trials or baselines of its images."""
    study = results.read_study(folder)
    if not (shown := results.pictured(_tables(folder)[0], results.asked(study)["strata"])):
        return False
    baselines = results.read_baselines(folder, study["data"]["fingerprint"])
    unpainted = set(shown) - results.painted(folder)
    return bool(unpainted) or baselines is None or baselines.empty


def state_counts(trials: pd.DataFrame) -> dict[str, int]:
    """How many trials are in each state, those states only that occur."""
    counts = trials["state"].value_counts()
    return {state: int(counts[state]) for state in STATES if state in counts}


def answer(best: Row) -> str:
    """What the best complete trial reaches, and with what."""
    test = "" if best["test_mse"] is None else f" ({error(best['test_mse'])} on the test images)"
    return (
        f"Trial {best['trial_number']} reaches a validation error of {error(best['val_mse'])}"
        f"{test}, a PSNR of {best['val_psnr_db']:.2f} dB, through a latent of "
        f"{counted(best['latent_size'], 'number')} per image with "
        f"{counted(best['n_params'], 'parameter')}."
    )


def frontier_answer(latent: LatentError, ranked: list[Row]) -> str:
    """At which latent sizes the Pareto front lies below PCA, on validation and test images."""
    rows = {row["trial_number"]: row for row in ranked}
    front = [rows[number] for number in latent.frontier["trial_number"]]
    low, high = front[0]["latent_size"], front[-1]["latent_size"]
    sizes = f"from {low:,} to {high:,} numbers" if low < high else counted(low, "number")
    said = f"The Pareto front has {counted(len(front), 'trial')}, {sizes} per image."
    codes = [(row, latent.best_linear(row["latent_size"])) for row in front]
    compared = [(row, code) for row, code in codes if code is not None and code.val_mse > EXACT]
    below = [(row, code) for row, code in compared if row["val_mse"] < code.val_mse]
    if not compared:
        return said
    if not below:
        return f"{said} PCA of no larger size has less error, or as little, at every size compared."
    tested = [(row, code) for row, code in below if row["test_mse"] is not None]
    on_test = sum(row["test_mse"] < code.test_mse for row, code in tested)
    first, *others = (
        (f"{row['latent_size']:,}", ratio(row["val_mse"] / code.val_mse)) for row, code in below
    )
    words = [f"{first[0]} ({first[1]} times its error)", *(f"{n} ({times})" for n, times in others)]
    said += f" It lies below the best PCA of no larger size at {listed(words)}"
    if not tested:
        return f"{said}."
    where = "all" if on_test == len(below) else f"{on_test:,}" if on_test else "none"
    return f"{said}; on the test images at {where} of these."


def comparison(best: Row, ranked: list[Row], latent: LatentError) -> str | None:
    """The best trial's error as a multiple of the base point's, of PCA's of its latent size, and of
    doing nothing; None where there is nothing to compare with. An error of zero has no multiple:
    it is named."""
    parts = [_against_base(best, ranked), _against_linear(best, latent)]
    zero = []
    for level in filter(NOTHING.__contains__, latent.levels):
        if latent.levels[level] <= EXACT:
            zero.append(baseline_name(level))
            continue
        times = factor(best["val_mse"] / latent.levels[level])
        parts.append(f"{times} that of doing nothing ({baseline_name(level)})")
    factors = [part for part in parts if part]
    base = _base(ranked)
    said = [
        "It is the base point itself." if best["point"] == stopping.BASE else "",
        "The base point has no error." if base and base is not best and _is_zero(base) else "",
        f"Its error is {listed(factors)}." if factors else "",
        f"Doing nothing ({listed(zero)}) has no error on these images." if zero else "",
        "PCA of that latent size loses nothing." if _is_exact(best, latent) else "",
    ]
    return " ".join(filter(None, said)) or None


def _base(ranked: list[Row]) -> Row | None:
    """The trial of the base point, if it ended with an error."""
    base = next((row for row in ranked if row["point"] == stopping.BASE), None)
    if base is None or base["state"] not in (COMPLETE, PRUNED) or base["val_mse"] is None:
        return None
    return base


def _is_zero(row: Row) -> bool:
    return bool(row["val_mse"] <= EXACT)


def _against_base(best: Row, ranked: list[Row]) -> str | None:
    base = _base(ranked)
    if base is None or base is best or _is_zero(base):
        return None
    stopped = f", stopped after epoch {base['epochs_run']}" if base["state"] == PRUNED else ""
    times = factor(best["val_mse"] / base["val_mse"])
    return f"{times} that of the base point (trial {base['trial_number']}{stopped})"


def _against_linear(best: Row, latent: LatentError) -> str | None:
    code = latent.best_linear(best["latent_size"])
    if code is None or code.val_mse <= EXACT:
        return None
    kind = baseline_name(code.baseline).removeprefix("PCA, ")
    if code.latent_size == best["latent_size"]:
        size = "of the same latent size"
    else:
        size = f"of {counted(code.latent_size, 'number')}, the next smaller one measured"
    return f"{factor(best['val_mse'] / code.val_mse)} that of PCA {size} ({kind})"


def _is_exact(best: Row, latent: LatentError) -> bool:
    """A latent as large as the picture need not code anything."""
    code = latent.best_linear(best["latent_size"])
    return code is not None and code.val_mse <= EXACT


def latent_sentence(latent: LatentError) -> str | None:
    """How the Pareto front falls with the latent size, and how much of it PCA beats."""
    frontier = latent.frontier
    if frontier.empty:
        return None
    first, last = frontier.iloc[0], frontier.iloc[-1]
    if latent.points["latent_size"].nunique() == 1:
        said = (
            f"Every trial has a latent of {counted(last['latent_size'], 'number')}; "
            f"the least error is {error(last['val_mse'])}."
        )
    elif first["latent_size"] == last["latent_size"]:
        said = (
            f"The smallest latent of all, {counted(last['latent_size'], 'number')}, "
            f"also has the least error, {error(last['val_mse'])}."
        )
    else:
        before, after = errors_apart(first["val_mse"], last["val_mse"])
        said = (
            f"From latent size {first['latent_size']:,} to {last['latent_size']:,} the least "
            f"error falls from {before} to {after}, {fall(first['val_mse'], last['val_mse'])}."
        )
    compared = frontier[frontier["linear_mse"] > EXACT]
    if compared.empty:
        return said
    below = int((compared["val_mse"] < compared["linear_mse"]).sum())
    return (
        f"{said} Of {counted(len(compared), 'trial')} on the Pareto front that can be compared "
        f"with PCA of no larger size, {below or 'none'} {'has' if below == 1 else 'have'} less "
        "error than the best PCA."
    )


def cost_sentence(front: pd.DataFrame, cost: str) -> str:
    """How far the error falls along a Pareto front of error and `cost`, and for how much."""
    over = figures.COST_NAMES[cost].partition(",")[0]
    front = front.drop_duplicates(["val_mse", cost])
    first, last = front.iloc[0], front.iloc[-1]
    if len(front) == 1:
        return (
            f"One trial, {first['trial_number']}, has both the least error, "
            f"{error(first['val_mse'])}, and the least cost: {over} of {first[cost]:,.4g}."
        )
    before, after = errors_apart(first["val_mse"], last["val_mse"])
    return (
        f"From {first[cost]:,.4g} to {last[cost]:,.4g} ({over}) the least error falls from "
        f"{before} to {after}, {fall(first['val_mse'], last['val_mse'])} for "
        f"{bigger(last[cost] / first[cost])} the cost."
    )


def bigger(times: float) -> str:
    """`3.1 times`, or `1.0031 times` where two digits would read as no difference."""
    return factor(times) if times >= 1.1 else f"{times:.6g} times"


def growth_sentence(grown: Growth, cost: str) -> str:
    """How far the Pareto front lies below doing nothing, and PCA does."""
    height = float(grown.steps["height"].iloc[-1])
    line = "" if grown.line is None else f" PCA lies a factor of {ratio(10**grown.line)} below it."
    over = figures.COST_NAMES[cost].partition(",")[0]
    return (
        f"The Pareto front lies a factor of {ratio(10**height)} below an error of "
        f"{error(grown.worst)} ({height:.2f} decades: the geometric mean over {over} from "
        f"{grown.low:,.4g} to {grown.high:,.4g}, its hypervolume on logarithmic axes).{line}"
    )


def sides_sentence(trials: pd.DataFrame) -> str | None:
    """Say how often the widest shape has the least error, and whether that is more than chance;
    None where no latent size has several shapes."""
    shapes = figures.wider_is_better(trials)
    if not shapes.n:
        if not shapes.n_tied:
            return None
        return "Shapes of the same latent size tie for the least error."
    said = (
        f"The shape with the largest spatial size and the fewest channels has the least error at "
        f"{shapes.n_wider or 'none'} of {counted(shapes.n, 'latent size')} with more than one "
        f"shape; chance would give {shapes.expected:.1f}."
    )
    if shapes.p > figures.LEVEL:
        return f"{said} So neither spatial size nor channels stand out."
    better = "Spatial size" if shapes.n_wider > shapes.expected else "Channels"
    helps = "helps" if shapes.n_wider > shapes.expected else "help"
    worse = "channels" if shapes.n_wider > shapes.expected else "spatial size"
    return f"{said} {better} {helps} more than {worse} here."


def curves_sentence(curves: LearningCurves, n_epochs: int) -> str | None:
    """Whether the best trial had stopped improving, how many were stopped, what is drawn."""
    if curves.curves.empty:
        return None
    said = []
    if curves.best is not None:
        said.append(_ending(curves, n_epochs))
    if stopped := curves.stopped_after:
        said.append(_stopping(stopped))
    if curves.n_drawn < curves.n_trials:
        said.append(
            f"Drawn are {curves.n_drawn} of {curves.n_trials} trials, "
            "taken evenly from the best to the worst."
        )
    return " ".join(said) or None


def _stopping(stopped: tuple[int, ...]) -> str:
    """After which epochs trials were stopped early."""
    if len(stopped) == 1:
        return f"1 trial was stopped early, after epoch {stopped[0]}."
    who = f"{len(stopped):,} trials were stopped early"
    if min(stopped) == max(stopped):
        return f"{who}, all after epoch {stopped[0]}."
    middle = statistics.median_low(stopped)
    if middle == max(stopped):  # "all of them by its epoch" would say nothing of the earlier ones
        middle = max(epoch for epoch in stopped if epoch < middle)
    return f"{who}, {sum(epoch <= middle for epoch in stopped):,} of them by epoch {middle}."


def _ending(curves: LearningCurves, n_epochs: int) -> str:
    curve = curves.curves[curves.curves["trial_number"] == curves.best]
    epoch, last = curve["epoch"].tolist(), curve["val_mse"].tolist()
    lowest = last.index(min(last))
    if lowest < len(last) - 1 or len(last) < 2:
        return f"The best trial had its least error in epoch {epoch[lowest]} of {n_epochs}."
    return (
        f"The best trial was still improving when it ended: its last epoch, {epoch[-1]}, "
        f"took {health.percent(1 - last[-1] / min(last[:-1]))} off the error."
    )


def ladder_sentence(steps: pd.DataFrame) -> str | None:
    """How many changes were kept, which, and how far they came together."""
    if steps.empty:
        return None
    verdicts = steps["verdict"]
    kept = [str(change) for change in steps.loc[verdicts == KEPT, "change"]]
    n_judged = int(verdicts.isin([KEPT, DROPPED]).sum())
    if not n_judged:
        said = "No change has been judged yet."
    elif not kept:
        said = f"None of {counted(n_judged, 'change')} was better than the start."
    else:
        verb = "was" if len(kept) == 1 else "were"
        said = f"Of {counted(n_judged, 'change')} {len(kept)} {verb} kept: {listed(kept)}."
        held = steps["best"].dropna()
        first, last = float(held.iloc[0]), float(held.iloc[-1])
        if first > last:
            before, after = errors_apart(first, last)
            gain = health.percent(1 - last / first)
            said += f" They take the error from {before} to {after}, by {gain}."
    if n_again := int((verdicts == AGAIN).sum()):
        said += (
            f" {counted(n_again, 'change')} had to be tried again, "
            "for another one was kept meanwhile."
        )
    return said


def ladder_row(step: Row) -> dict[str, str]:
    """A step of the ladder as the table shows it."""
    parent, percent = step["parent"], step["percent"]
    named = f"{parent:.0f} ({step['parent_change'] or 'start'})" if parent is not None else "–"
    how = {PRUNED: ", stopped early", FAIL: ", failed"}.get(step["state"], "")
    return {
        "trial": str(step["trial_number"]),
        "change": step["change"] or START,
        "parent": named,
        "val_mse": "–" if step["val_mse"] is None else error(step["val_mse"]),
        "percent": "–" if percent is None else signed(percent),
        "verdict": step["verdict"] + how,
    }


def frontier_rows(latent: LatentError, ranked: list[Row]) -> list[Row]:
    """The trials of the Pareto front as rows, with `linear` and `linear_test`: their error over
    that of PCA, on validation and test images."""
    rows = {row["trial_number"]: row for row in ranked}
    return [
        {**rows[number], **_over_linear(rows[number], latent)}
        for number in latent.frontier["trial_number"]
    ]


def _over_linear(row: Row, latent: LatentError) -> dict[str, str]:
    code = latent.best_linear(row["latent_size"])
    if code is None or code.val_mse <= EXACT:
        return {"linear": "–", "linear_test": "–"}
    has_test = row["test_mse"] is not None and code.test_mse > EXACT
    return {
        "linear": ratio(row["val_mse"] / code.val_mse),
        "linear_test": ratio(row["test_mse"] / code.test_mse) if has_test else "–",
    }


@dataclass(frozen=True)
class Pictures:
    """A sheet of pictures as a data URI, how wide to show it, what its rows are, the error of each
    picture (of old sheets unknown), and which split the images are of."""

    uri: str
    width_px: int
    rows: tuple[str, ...]
    errors: tuple[str, ...]
    split: str


def sheets(
    folder: Place,
    shown: list[int],
    painted: pd.DataFrame | None,
    ranked: list[Row],
    latent: LatentError,
    task: str,
) -> list[tuple[str, Pictures | None]]:
    """What is said of each trial that is shown, and its pictures; None where there are none yet.
    `painted`: `pictures.parquet`."""
    rows = {row["trial_number"]: row for row in ranked}
    means = _means(painted)
    said = []
    for number in shown:
        row = rows[number]
        over = _over_linear(row, latent)["linear"]
        against = "" if over == "–" else f", {over} times that of PCA"
        text = (
            f"Latent size {row['latent_size']:,}: trial {number}, "
            f"validation error {error(row['val_mse'])}{against}."
        )
        if number in means:
            text += f" {measured_sentence(means[number], task)}"
        else:
            text += " These are validation images, which no trial was trained on."
        said.append((text, pictures(folder, number, painted, task)))
    return said


def measured_sentence(mean: Row, task: str) -> str:
    """How far a trial's test pictures are off on average; `mean` is a row of `pictures.parquet`."""
    if task == "reconstruct":
        return (
            f"On average its test pictures have a PSNR of {mean['psnr_db']:.1f} dB and an SSIM of "
            f"{mean['ssim']:.2f}; their colours are off by Delta E {mean['delta_e']:.1f}."
        )
    return (
        f"On average the colours of test images are off by Delta E {mean['delta_e']:.1f}, their "
        f"chroma by {mean['chroma_error']:.1f} and their hue by {mean['hue_error']:.1f}."
    )


@dataclass(frozen=True)
class Gallery:
    """What stands around the sheets: what they are of, a warning, the best trial's best and worst
    images."""

    said: str
    warning: str | None
    cases: Pictures | None
    cases_sentence: str


def gallery(
    folder: Place,
    shown: list[int],
    painted: pd.DataFrame | None,
    trials: pd.DataFrame,
    strata: list[int] | None,
    task: str,
) -> Gallery | None:
    """None where no test image was painted yet. `painted`: `pictures.parquet`."""
    means = _means(painted)
    best = results.best_trial(trials)
    if best not in means:
        return None
    n_sizes = len(results.shown_off(trials, strata))
    some = (
        f"Of {n_sizes} latent sizes {len(shown)} are shown, evenly from the smallest to the "
        "largest, the best trial's among them."
    )
    of_what, units = (
        (" (of chroma)", "; chroma and hue are in units of CIE Lab")
        if task == "colourise"
        else ("", "")
    )
    said = (
        some if n_sizes > len(shown) else "",
        f"The test images are the same in every sheet, and below each stands its error{of_what}; "
        "no trial was trained on them or chosen by them.",
        f"The difference is output less original, {results.AMPLIFIED} times as strong; where there "
        "is none it is grey.",
        "A Delta E (CIEDE2000) of 1 is about the least that is seen between two patches side by "
        f"side{units}.",
    )
    cases = pictures(folder, best, painted, task, BEST, WORST)
    least, most = (cases.errors[0], cases.errors[-1]) if cases and cases.errors else ("", "")
    cases_sentence = (
        f"Of all test images, from left to right, those with the least error of trial {best}, "
        f"from {least}, and those with the largest, up to {most}."
    )
    return Gallery(" ".join(filter(None, said)), pale(best, means[best]), cases, cases_sentence)


def pale(number: int, mean: Row) -> str | None:
    """A warning where a trial's pictures have clearly less colour than their originals."""
    output, original = mean["colourfulness"], mean["original_colourfulness"]
    if not output < PALE * original:
        return None
    return (
        f"The pictures of trial {number} are paler than their originals: their colourfulness "
        f"(Hasler and Süsstrunk) is {output:.1f} on average where that of the originals is "
        f"{original:.1f}: {ratio(output / original)} times as much."
    )


def _means(painted: pd.DataFrame | None) -> dict[int, Row]:
    """Of each trial what is measured of its pictures of test images, on average."""
    if painted is None:
        return {}
    return {row["trial_number"]: row for row in rows(painted[painted["shows"] == ALL])}


def pictures(
    folder: Place, number: int, painted: pd.DataFrame | None, task: str, *shows: str
) -> Pictures | None:
    """A trial's sheet of the same images as every trial's, or with `shows` BEST and WORST of those;
    None where it has not been painted. What older versions painted are validation images, of which
    `painted`, the study's `pictures.parquet`, says nothing. Raises `InputError` for what is no
    PNG."""
    path = folder / "pictures" / f"{number}{'-cases' if shows else ''}.png"
    if not path.exists():
        return None
    try:
        png = path.read_bytes() if path.is_file() else b""  # a pipe would be waited for
    except OSError as fault:
        raise InputError(f"{path}: cannot be read: {fault.strerror}") from None
    width = int.from_bytes(png[16:20], "big")  # the first field of the header, the first chunk
    if not png.startswith(PNG_HEADER) or not width:
        raise InputError(f"{path}: this is no PNG; without it, raycae report paints it anew")
    uri = f"data:image/png;base64,{base64.b64encode(png).decode()}"
    # Whole multiples: every pixel is the same size on the screen.
    scaled = width * max(PICTURES_WIDTH_PX // width, 1)
    grey = ("Grey",) if task == "colourise" else ()
    own = None if painted is None else painted[painted["trial_number"] == number]
    if own is None or own.empty:
        old = (*grey, "Output", "Original")
        return Pictures(uri, min(scaled, PICTURES_WIDTH_PX), old, (), "validation")
    drawn = own[own["shows"].isin(shows or (SAME,))]
    rows = ("Original", *grey, "Output", f"Difference × {results.AMPLIFIED}")
    errors = tuple(map(error, drawn["mse"]))
    return Pictures(uri, min(scaled, PICTURES_WIDTH_PX), rows, errors, "test")


def latent_shape(row: Row) -> str:
    """Channels × height × width."""
    return " × ".join(str(row[f"latent_{side}"]) for side in ("channels", "height", "width"))


@dataclass(frozen=True)
class Cell:
    """`value` is what sorting goes by; empty cells sort last."""

    text: str
    value: float | str
    kind: str


@dataclass(frozen=True)
class Column:
    """A column of the table of trials. `text` gives a row's cell; `by` names what sorts it."""

    title: str
    by: str
    text: Callable[[Row], str]
    kind: str = "number"

    def cell(self, row: Row) -> Cell:
        if row[self.by] is None:
            return Cell("", "", self.kind)
        return Cell(self.text(row), row[self.by], self.kind)


def _plain(name: str) -> Callable[[Row], str]:
    return lambda row: str(row[name])


COLUMNS = (
    Column("trial", "trial_number", _plain("trial_number")),
    Column("point", "point", _plain("point"), "word"),
    Column("state", "state", _plain("state"), "word"),
    Column("val_mse", "val_mse", lambda row: error(row["val_mse"])),
    Column("PSNR, dB", "val_psnr_db", lambda row: f"{row['val_psnr_db']:.2f}"),
    Column("test_mse", "test_mse", lambda row: error(row["test_mse"])),
    Column("latent", "latent_size", latent_shape),
    Column("params", "n_params", lambda row: f"{row['n_params']:,}"),
    Column("epochs", "epochs_run", _plain("epochs_run")),
    Column("time, s", "wall_time_s", lambda row: f"{row['wall_time_s']:,.1f}"),
    Column("network", "network", _plain("network"), "text"),
    Column(
        "training",
        "optimizer",
        lambda row: f"{row['optimizer']}, lr {row['lr']:.3g}, batch {row['batch_size']}",
        "word",
    ),
    Column("reason", "reason", _plain("reason"), "text"),
)


SETTINGS = Column("settings", "n_settings", _plain("n_settings"))


def signed(percent: float) -> str:
    """`−4.5 %`, `+0.03 %`"""
    digits = 1 if abs(percent) >= 0.1 else 2
    return f"{percent:+.{digits}f} %".replace("-", "−")


def _tables(folder: Place) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Both tables; empty ones where the search was cut off before its first trial."""
    if not (folder / "trials.parquet").exists():
        none = Records()
        return none.trials_table().to_pandas(), none.epochs_table().to_pandas()
    return results.read_trials(folder), results.read_epochs(folder)


def rows(table: pd.DataFrame) -> list[Row]:
    """A table's rows."""
    plain = table.astype(object).where(table.notna(), None)
    return [{str(name): value for name, value in row.items()} for row in plain.to_dict("records")]
