"""The page of `raycae reproduce`: verdicts first, then the runs that they rest on.

Everything comes from the folders of the two studies.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from raycae import formatting
from raycae.errors import InputError
from raycae.report import html
from raycae.report.reproduction import claims, figures, statistics
from raycae.report.reproduction.claims import Claim, Judgement
from raycae.report.reproduction.figures import Spread
from raycae.report.reproduction.statistics import CONTRADICTED, MISSING, UNDECIDED, UPHELD
from raycae.report.sections import pictures
from raycae.report.trials import format_latent_shape, get_baseline_name
from raycae.space.loading import REPORT
from raycae.space.space import Space
from raycae.storage.files import write_atomic
from raycae.storage.paths import Place
from raycae.study import plan, records, tables
from raycae.study.plan import load_study_space

TITLES = {"reconstruct": "Reconstruction", "colourise": "Colourisation"}
AXIS = (0.4, 2.5)
"""The ratios that the small intervals of the table of claims show."""


@dataclass(frozen=True)
class Part:
    """One of the two studies, as its folder has it."""

    folder: Place
    study: dict[str, Any]
    space: Space
    trials: pd.DataFrame
    epochs: pd.DataFrame
    """With `point` and `seed` of their trials."""
    runs: pd.DataFrame
    baselines: pd.DataFrame | None


def write_reproduction(folder: Place) -> Place:
    """Write `report.html` into the folder of a reproduction.

    Args:
        folder: The folder with the studies.

    Returns:
        The path of the page.

    Raises:
        InputError: The folder holds no readable study of a reproduction.
    """
    path = folder / "report.html"
    write_atomic(path, render_reproduction(folder).encode("utf-8", errors="replace"))
    return path


def render_reproduction(folder: Place) -> str:
    """Render the page of a reproduction.

    Args:
        folder: The folder with the studies.

    Raises:
        InputError: The folder holds no readable study of a reproduction.
    """
    parts = [read_part(folder / name) for name in REPORT if (folder / name / "study.json").exists()]
    if not parts:
        raise InputError(f"{folder}: there is no reproduction; run raycae reproduce")
    judged = judge_reproduction(parts)
    shown = [describe_part(part) for part in parts]
    plots = {id: figure for part in shown for id, figure in part.pop("plots").items()}
    return html.render_page(
        "reproduction.html.j2",
        plots,
        name=folder.name,
        parts=shown,
        counts={verdict: sum(j.verdict == verdict for j in judged) for verdict in VERDICTS},
        adjusted={verdict: sum(j.adjusted == verdict for j in judged) for verdict in VERDICTS},
        n_tested=sum(j.p is not None for j in judged),
        claims=[make_claim_row(judgement) for judgement in judged],
        axis=[(label, place_on_axis(label)) for label in (0.5, 1.0, 2.0)],
        correlation=next((s["correlation"] for s in shown if s["correlation"]), None),
        confidence=f"{statistics.CONFIDENCE:.0%}",
    )


VERDICTS = (UPHELD, CONTRADICTED, UNDECIDED, MISSING)


def read_part(folder: Place) -> Part:
    """Read a study of a reproduction.

    Args:
        folder: The folder of the study.

    Raises:
        InputError: The folder holds no readable study.
    """
    study = plan.read_study(folder)
    trials, epochs = tables.read_trials(folder, configs=False), tables.read_epochs(folder)
    epochs = epochs.merge(trials[["trial_number", "point", "seed"]], on="trial_number")
    baselines = tables.read_baselines(folder, study["data"]["fingerprint"])
    return Part(
        folder,
        study,
        load_study_space(study),
        trials,
        epochs,
        claims.collect_runs(trials, epochs),
        baselines,
    )


def judge_reproduction(parts: list[Part]) -> list[Judgement]:
    """Judge every claim by the runs, and adjust the verdicts for the number of claims.

    Args:
        parts: The studies.
    """
    judged: dict[Claim, Judgement] = {}
    for part in parts:
        points = part.space.points
        own_claims = [claim for claim in claims.CLAIMS if claim.lower in points]
        judged |= {j.claim: j for j in claims.judge_claims(part.runs, part.epochs, own_claims)}
    none = pd.DataFrame(columns=["experiment", "seed", *claims.MEASURES])
    lacking = [claim for claim in claims.CLAIMS if claim not in judged]
    judged |= {j.claim: j for j in claims.judge_claims(none, none, lacking)}
    return claims.adjust_verdicts([judged[claim] for claim in claims.CLAIMS])


def describe_part(part: Part) -> dict[str, Any]:
    """Collect what the template shows of a study.

    Args:
        part: The study.
    """
    study, task = part.study, part.study["task"]
    spread = figures.compute_spread(part.runs, part.baselines)
    order = spread.rows["experiment"].tolist()
    best = select_best_runs(part.runs)
    painted = tables.read_pictures(part.folder)
    plots = {}
    if order:
        plots[f"errors-{task}"] = figures.draw_spread(spread).to_json()
        ended = part.epochs["trial_number"].isin(part.runs["trial_number"])
        curves = figures.compute_three_curves(part.epochs[ended])
        plots[f"curves-{task}"] = figures.draw_three_curves(curves, spread).to_json()
        if task == "reconstruct":
            plots[f"latent-{task}"] = figures.draw_latent_spread(spread).to_json()
    seeds = sorted(set(part.runs["seed"]))
    return {
        "study": study,
        "title": TITLES[task],
        "task": task,
        "source": Path(study["plan"]["data"]).name,
        "plots": plots,
        "rows": [make_experiment_row(part, name, spread) for name in order],
        "left_out": [name for name in part.space.points if name not in set(part.trials["point"])],
        "seeds": seeds,
        "failed": list_failed(part.trials),
        "n_without_error": _count_without_error(part),
        "n_panels": len(order),
        "has_linear": not spread.linear.empty,
        "levels": [
            (get_baseline_name(name), formatting.format_error(level))
            for name, level in sorted(spread.levels.items(), key=lambda item: item[1])
        ],
        "correlation": correlate_latent_size(part.runs) if task == "reconstruct" else None,
        "pictures": [
            (name, sheet)
            for name in order
            if (sheet := pictures.read_pictures(part.folder, best[name], painted, task))
        ],
    }


def correlate_latent_size(runs: pd.DataFrame) -> str | None:
    """Say whether larger latents go with smaller errors, over all experiments and at one width.

    The experiments were not chosen to answer this: most share one latent size. So their number is
    followed by the number of different sizes, and nothing for fewer than four sizes.

    Args:
        runs: What `claims.collect_runs` returns.

    Returns:
        Two sentences; None where the experiments have too few latent sizes.
    """
    means = runs.groupby("experiment").agg(
        latent=("latent_size", "first"), side=("latent_side", "first"), test=("test", "mean")
    )
    found = statistics.compute_rank_correlation(means["latent"].tolist(), means["test"].tolist())
    if found is None:
        return None
    side = means["side"].mode().iloc[0]
    same = means[means["side"] == side]
    held = statistics.compute_rank_correlation(same["latent"].tolist(), same["test"].tolist())
    sentence = (
        f"Over all {formatting.format_count(len(means), 'experiment')}, "
        f"{describe_tendency(*found)}. "
        f"{list_sizes(means['latent'])} "
        f"With the spatial size of the latent held at {side} × {side} "
        f"({formatting.format_count(len(same), 'experiment')}), "
    )
    if held is None:
        return f"{sentence}no correlation can be given. {list_sizes(same['latent'])}"
    return f"{sentence}{describe_tendency(*held)}. {list_sizes(same['latent'])}"


def list_sizes(latents: pd.Series[int]) -> str:
    """Describe how many latent sizes there are, and how many experiments share the most common one.

    Args:
        latents: The latent size of each experiment.
    """
    counts = latents.value_counts()
    if len(counts) == 1:
        return f"All of these experiments have latents of {counts.index[0]:,} numbers."
    if counts.iloc[0] == 1:
        return f"All {len(counts)} latent sizes differ."
    return (
        f"There are {len(counts)} latent sizes; {counts.iloc[0]} of {len(latents)} experiments "
        f"have latents of {counts.index[0]:,} numbers."
    )


def describe_tendency(rho: float, low: float, high: float) -> str:
    """Describe whether larger latents go with smaller errors.

    Args:
        rho: The rank correlation of latent size and error.
        low: The lower end of its interval.
        high: The upper end.
    """
    figure = f"(rank correlation {rho:.2f}, {low:.2f} to {high:.2f})".replace("-", "−")
    if high < 0:
        return f"larger latents go with smaller errors {figure}"
    if low > 0:
        return f"larger latents go with larger errors {figure}"
    return f"no correlation between latent size and error is shown {figure}"


def make_experiment_row(part: Part, name: str, spread: Spread) -> dict[str, Any]:
    """Make the row of an experiment in the table.

    Args:
        part: The study.
        name: The experiment.
        spread: The test errors of all experiments.
    """
    runs = part.runs[part.runs["experiment"] == name]
    number = runs["trial_number"].iloc[0]
    (trial,) = part.trials[part.trials["trial_number"] == number].to_dict("records")
    size = int(trial["latent_size"])
    codes = spread.linear[spread.linear["latent_size"] <= size]
    linear = None if codes.empty else float(codes["error"].iloc[-1])
    path = part.folder / "trials.parquet"
    config, architecture = tables.check_config(path, number, trial["config"])
    return {
        "name": name,
        "n": len(runs),
        "latent": format_latent_shape({str(k): v for k, v in trial.items()}),
        "latent_size": size,
        "n_params": int(trial["n_params"]),
        **{m: format_mean_and_spread(runs[m]) for m in ("train", "val", "test")},
        "linear": format_times(float(runs["test"].mean()), linear),
        "time": f"{runs['time'].mean():.1f}",
        "network": str(architecture),
        "training": f"{config.optimizer}, lr {config.lr:g}, batch {config.batch_size}, "
        f"{config.activation}, {config.output}",
    }


def format_times(error: float, linear: float | None) -> str:
    """Format an error as a multiple of that of PCA.

    Args:
        error: The test error of an experiment.
        linear: The error of PCA; None without one. PCA of almost as many numbers as the picture has
            loses almost nothing, so the factor may be very large.
    """
    if linear is None or linear == 0:  # of an error of zero nothing is a multiple
        return "–"
    return "> 1,000" if error > 1000 * linear else formatting.format_ratio(error / linear)


def format_mean_and_spread(values: pd.Series[float]) -> str:
    """Format the mean and the standard deviation of errors over seeds.

    Args:
        values: The error of each seed.
    """
    mean = f"{values.mean():.5f}"
    return mean if len(values) < 2 else f"{mean} ± {values.std():.5f}"


def select_best_runs(runs: pd.DataFrame) -> dict[str, int]:
    """Select the trial with the lowest validation error of each experiment; its model is kept.

    Args:
        runs: What `claims.collect_runs` returns.

    Returns:
        Trial numbers by experiment.
    """
    best = runs.sort_values(["val", "trial_number"]).drop_duplicates("experiment")
    return dict(zip(best["experiment"], best["trial_number"].astype(int), strict=True))


def list_failed(trials: pd.DataFrame) -> list[str]:
    """List the failed runs with their reasons.

    Args:
        trials: The trials of a study.
    """
    failed = trials[(trials["state"] == records.FAIL) & trials["point"].notna()]
    return [
        f"{point}, seed {seed}: {reason}"
        for point, seed, reason in zip(
            failed["point"], failed["seed"], failed["reason"], strict=True
        )
    ]


def _count_without_error(part: Part) -> int:
    """Count the complete runs with an error of exactly 0, which has no ratio."""
    complete = part.trials["point"].notna() & (part.trials["state"] == records.COMPLETE)
    return int(complete.sum()) - len(part.runs)


def make_claim_row(judgement: Judgement) -> dict[str, Any]:
    """Make the row of a claim in the table.

    Args:
        judgement: The verdict on the claim.
    """
    claim, low, high = judgement.claim, judgement.low, judgement.high
    is_ratio = claim.measure in claims.RATIOS
    by = claims.MEASURES[claim.measure]
    if claim.margin:
        by += f"; limit {1 - claim.margin:.2f}"
    row: dict[str, Any] = {
        "sentence": claim.sentence,
        "lower": claim.lower,
        "higher": claim.higher,
        "measure": by,
        "verdict": judgement.verdict,
        "style": choose_style(judgement.verdict),
        "adjusted": judgement.adjusted,
        "adjusted_style": choose_style(judgement.adjusted),
        "p": format_p_value(judgement.p),
        "adjusted_p": format_p_value(judgement.adjusted_p),
        "n": judgement.n,
        "why": judgement.why,
        "effect": "",
        "interval": "",
        "bar": None,
    }
    if judgement.effect is None or low is None or high is None:
        return row
    digits = 3 if claim.measure == claims.ROUGHNESS else 2
    row["effect"] = f"{judgement.effect:.{digits}f}"
    if claim.measure in claims.SIZES:
        return row
    if not math.isfinite(high):
        return {**row, "interval": "unknown"}
    row["interval"] = f"{low:.{digits}f} to {high:.{digits}f}"
    if is_ratio:
        left, right = place_on_axis(low), place_on_axis(high)
        row["bar"] = {
            "left": left,
            "width": max(right - left, 0.5),
            "dot": place_on_axis(judgement.effect),
            "limit": place_on_axis(1 - claim.margin),
        }
    return row


def choose_style(verdict: str) -> str:
    """Choose the CSS class of a verdict.

    Args:
        verdict: The verdict.
    """
    return "missing" if verdict == MISSING else verdict


def format_p_value(p: float | None) -> str:
    """Format a p-value.

    Args:
        p: The p-value; None if there is none.
    """
    if p is None:
        return ""
    return "< 0.001" if p < 0.001 else f"{p:.3f}"


def place_on_axis(ratio: float) -> float:
    """Return where a ratio lies on the axis of the small intervals, in percent.

    Args:
        ratio: A ratio; ratios outside of `AXIS` are drawn at its ends.
    """
    low, high = (math.log(end) for end in AXIS)
    return 100 * (min(max(math.log(max(ratio, 1e-9)), low), high) - low) / (high - low)
