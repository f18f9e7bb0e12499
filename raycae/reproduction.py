"""The page of `raycae reproduce`: verdicts first, then what they rest on.

Everything comes from the two studies' folders: tables, baselines, pictures, `study.json`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from raycae import canvas, claims, figures, report, results
from raycae.architecture import architecture
from raycae.claims import CONTRADICTED, MISSING, UNDECIDED, UPHELD, Judgement
from raycae.config import Config
from raycae.errors import InputError
from raycae.space import REPORT, Space
from raycae.storage import Place, write_whole
from raycae.study import space_of

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


def write(folder: Place) -> Place:
    """Write `report.html` into a reproduction's folder, from the studies in it. Returns its path.

    Raises `InputError` where there is none to read.
    """
    path = folder / "report.html"
    write_whole(path, render(folder).encode("utf-8", errors="replace"))
    return path


def render(folder: Place) -> str:
    """The page. Raises `InputError`."""
    parts = [read(folder / name) for name in REPORT if (folder / name / "study.json").exists()]
    if not parts:
        raise InputError(f"{folder}: there is no reproduction; run raycae reproduce")
    judged = judge(parts)
    shown = [_shown(part) for part in parts]
    plots = {id: figure for part in shown for id, figure in part.pop("plots").items()}
    return report.page(
        "reproduction.html.j2",
        plots,
        name=folder.name,
        parts=shown,
        counts={said: sum(j.verdict == said for j in judged) for said in VERDICTS},
        adjusted={said: sum(j.adjusted == said for j in judged) for said in VERDICTS},
        n_tested=sum(j.p is not None for j in judged),
        claims=[_claim_row(judgement) for judgement in judged],
        axis=[(label, _place(label)) for label in (0.5, 1.0, 2.0)],
        correlation=next((s["correlation"] for s in shown if s["correlation"]), None),
        confidence=f"{claims.CONFIDENCE:.0%}",
    )


VERDICTS = (UPHELD, CONTRADICTED, UNDECIDED, MISSING)


def read(folder: Place) -> Part:
    """The study in `folder`. Raises `InputError`."""
    study = results.read_study(folder)
    trials, epochs = results.read_trials(folder), results.read_epochs(folder)
    epochs = epochs.merge(trials[["trial_number", "point", "seed"]], on="trial_number")
    baselines = results.read_baselines(folder, study["data"]["fingerprint"])
    return Part(
        folder, study, space_of(study), trials, epochs, claims.runs(trials, epochs), baselines
    )


def judge(parts: list[Part]) -> list[Judgement]:
    """Judge every claim from what was run, and adjust the verdicts for all claims of the page."""
    judged: dict[claims.Claim, Judgement] = {}
    for part in parts:
        points = part.space.points
        own = [claim for claim in claims.CLAIMS if claim.lower in points]
        judged |= {j.claim: j for j in claims.judge(part.runs, part.epochs, own)}
    none = pd.DataFrame(columns=["experiment", "seed", *claims.MEASURES])
    lacking = [claim for claim in claims.CLAIMS if claim not in judged]
    judged |= {j.claim: j for j in claims.judge(none, none, lacking)}
    return claims.adjust([judged[claim] for claim in claims.CLAIMS])


def _shown(part: Part) -> dict[str, Any]:
    """What the template shows of one study."""
    study, task = part.study, part.study["task"]
    spread = figures.spread(part.runs, part.baselines)
    order = spread.rows["experiment"].tolist()
    best = best_runs(part.runs)
    painted = results.read_pictures(part.folder)
    plots = {}
    if order:
        plots[f"errors-{task}"] = figures.spread_figure(spread).to_json()
        ended = part.epochs["trial_number"].isin(part.runs["trial_number"])
        curves = figures.three_curves(part.epochs[ended])
        plots[f"curves-{task}"] = figures.three_curves_figure(curves, spread).to_json()
        if task == "reconstruct":
            plots[f"latent-{task}"] = figures.latent_spread_figure(spread).to_json()
    seeds = sorted(set(part.runs["seed"]))
    return {
        "study": study,
        "title": TITLES[task],
        "task": task,
        "source": Path(study["plan"]["data"]).name,
        "plots": plots,
        "rows": [_experiment_row(part, name, spread) for name in order],
        "left_out": [name for name in part.space.points if name not in set(part.trials["point"])],
        "seeds": seeds,
        "failed": _failed(part.trials),
        "n_without_error": _count_without_error(part),
        "n_panels": len(order),
        "has_linear": not spread.linear.empty,
        "levels": [
            (figures.baseline_name(name), canvas.error(level))
            for name, level in sorted(spread.levels.items(), key=lambda item: item[1])
        ],
        "correlation": correlation(part.runs) if task == "reconstruct" else None,
        "pictures": [
            (name, sheet)
            for name in order
            if (sheet := report.pictures(part.folder, best[name], painted, task))
        ],
    }


def correlation(runs: pd.DataFrame) -> str | None:
    """Say whether larger latents go with smaller errors, over all experiments and at one width.

    The experiments were not chosen to answer this: most share one latent size. So their number is
    followed by the number of different sizes, and nothing is said of fewer than four sizes.

    Args:
        runs: What `claims.runs` returns.

    Returns:
        Two sentences; None where the experiments have too few latent sizes.
    """
    means = runs.groupby("experiment").agg(
        latent=("latent_size", "first"), side=("latent_side", "first"), test=("test", "mean")
    )
    found = claims.rank_correlation(means["latent"].tolist(), means["test"].tolist())
    if found is None:
        return None
    side = means["side"].mode().iloc[0]
    same = means[means["side"] == side]
    held = claims.rank_correlation(same["latent"].tolist(), same["test"].tolist())
    sentence = (
        f"Over all {len(means)} experiments {_tendency(*found)}; {_sizes(means['latent'])}. "
        f"With the spatial size of the latent held at {side} × {side} ({len(same)} experiments) "
    )
    if held is None:
        return f"{sentence}no correlation can be given: {_sizes(same['latent'])}."
    return f"{sentence}{_tendency(*held)}; {_sizes(same['latent'])}."


def _sizes(latents: pd.Series[int]) -> str:
    """How many different sizes there are, and how many experiments share the most common one."""
    counts = latents.value_counts()
    share = f"{counts.iloc[0]} of {len(latents)} have {counts.index[0]:,} numbers"
    return f"their latents have {len(counts)} sizes, and {share}"


def _tendency(rho: float, low: float, high: float) -> str:
    figure = f"(rank correlation {rho:.2f}, {low:.2f} to {high:.2f})".replace("-", "−")
    if high < 0:
        return f"larger latents go with smaller errors {figure}"
    if low > 0:
        return f"larger latents go with larger errors {figure}"
    return f"no correlation between latent size and error is shown {figure}"


def _experiment_row(part: Part, name: str, spread: figures.Spread) -> dict[str, Any]:
    own = part.runs[part.runs["experiment"] == name]
    number = own["trial_number"].iloc[0]
    (trial,) = part.trials[part.trials["trial_number"] == number].to_dict("records")
    size = int(trial["latent_size"])
    codes = spread.linear[spread.linear["latent_size"] <= size]
    linear = None if codes.empty else float(codes["error"].iloc[-1])
    config = Config.model_validate_json(trial["config"])
    return {
        "name": name,
        "n": len(own),
        "latent": report.latent_shape({str(k): v for k, v in trial.items()}),
        "latent_size": size,
        "n_params": int(trial["n_params"]),
        **{m: _mean_and_spread(own[m]) for m in ("train", "val", "test")},
        "linear": _times(float(own["test"].mean()), linear),
        "time": f"{own['time'].mean():.1f}",
        "network": str(architecture(config)),
        "training": f"{config.optimizer}, lr {config.lr:g}, batch {config.batch_size}, "
        f"{config.activation}, {config.output}",
    }


def _times(error: float, linear: float | None) -> str:
    """A linear code of nearly as many numbers as the picture has loses next to nothing."""
    if linear is None or linear == 0:  # of an error of zero nothing is a multiple
        return "–"
    return "> 1,000" if error > 1000 * linear else canvas.ratio(error / linear)


def _mean_and_spread(values: pd.Series[float]) -> str:
    mean = f"{values.mean():.5f}"
    return mean if len(values) < 2 else f"{mean} ± {values.std():.5f}"


def best_runs(runs: pd.DataFrame) -> dict[str, int]:
    """Of each experiment the trial with the least validation error, whose model is kept."""
    best = runs.sort_values(["val", "trial_number"]).drop_duplicates("experiment")
    return dict(zip(best["experiment"], best["trial_number"].astype(int), strict=True))


def _failed(trials: pd.DataFrame) -> list[str]:
    failed = trials[(trials["state"] == results.FAIL) & trials["point"].notna()]
    return [
        f"{point}, seed {seed}: {reason}"
        for point, seed, reason in zip(
            failed["point"], failed["seed"], failed["reason"], strict=True
        )
    ]


def _count_without_error(part: Part) -> int:
    """How many complete runs have an error of exactly 0, of which no ratio can be taken."""
    complete = part.trials["point"].notna() & (part.trials["state"] == results.COMPLETE)
    return int(complete.sum()) - len(part.runs)


def _claim_row(judgement: Judgement) -> dict[str, Any]:
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
        "style": _style(judgement.verdict),
        "adjusted": judgement.adjusted,
        "adjusted_style": _style(judgement.adjusted),
        "p": _p_value(judgement.p),
        "adjusted_p": _p_value(judgement.adjusted_p),
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
        left, right = _place(low), _place(high)
        row["bar"] = {
            "left": left,
            "width": max(right - left, 0.5),
            "dot": _place(judgement.effect),
            "limit": _place(1 - claim.margin),
        }
    return row


def _style(verdict: str) -> str:
    return "missing" if verdict == MISSING else verdict


def _p_value(p: float | None) -> str:
    if p is None:
        return ""
    return "< 0.001" if p < 0.001 else f"{p:.3f}"


def _place(ratio: float) -> float:
    """Where a ratio lies on the axis of the small intervals, in percent."""
    low, high = (math.log(end) for end in AXIS)
    return 100 * (min(max(math.log(max(ratio, 1e-9)), low), high) - low) / (high - low)
