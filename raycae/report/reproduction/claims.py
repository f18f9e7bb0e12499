"""What the course report claims, and the rule that turns runs into verdicts.

A claim says that one experiment has less of something than another. It is judged on runs of both
with the same seeds, by a t-interval of their differences alone. Other claims do not help to
estimate their spread: experiments spread differently, and an interval that is too narrow for the
noisiest of them is too narrow for every claim that compares with it (as the base model, which is
in a dozen). `analysis/benchmarks/claims_coverage.py` compares this with four other intervals.

Many claims are judged at once, so some would get a verdict by chance. `adjust_verdicts` therefore
gives a second verdict by Benjamini and Hochberg, "Controlling the false discovery rate", 1995: at
most 5 % of those verdicts are expected to be false, and where no claim has an effect there is any
with a chance of at most 5 %. Holm's correction keeps that chance on every page, but leaves next to
nothing of three seeds. Plain numbers: neither Ray nor torch nor plotly.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
from scipy import stats

from raycae.report.reproduction.statistics import (
    CONFIDENCE,
    CONTRADICTED,
    MISSING,
    MOST,
    UNDECIDED,
    UPHELD,
    compute_interval,
    compute_p_value,
    decide_verdict,
    estimate_seeds_needed,
)
from raycae.study.records import COMPLETE

RATIOS = {
    "test": "test error",
    "val": "validation error",
    "train": "training error",
    "time": "seconds per epoch",
    "path": "validation error, mean over epochs",
}
"""Measures that are compared as ratios: 0.9 is a tenth less."""
ROUGHNESS = "rises"
"""By how much the validation error rises again from epoch to epoch, summed, as a logarithm; 0 where
it only falls. Compared by its difference."""
SIZES = {"latent_size": "numbers in the latent", "n_params": "parameters"}
"""Counted, not measured: no seed changes them. A latent keeps its size where it is the same."""
MEASURES = {**RATIOS, ROUGHNESS: "sum of increases of the validation error", **SIZES}


@dataclass(frozen=True)
class Claim:
    """A claim that one experiment has less of a measure than another.

    Attributes:
        sentence: The claim in words.
        lower: The experiment that has less.
        higher: The experiment that has more.
        measure: A key of `MEASURES`.
        margin: If above 0, the claim is that `lower` has less by at least this share (0.1: a
            tenth). If below 0, that it has more by at most this share.
        eventually: Whether the claim is about where the curves end. A gap that is closing then
            refutes nothing yet.
    """

    sentence: str
    lower: str
    higher: str
    measure: str = "test"
    margin: float = 0.0
    eventually: bool = False


CLAIMS = (
    # 2.2.1
    Claim(
        "A 5 x 5 kernel with padding 2 keeps the size of the latent.",
        "ex2-kernel-5",
        "ex2-base",
        "latent_size",
    ),
    Claim(
        "Two 3 x 3 convolutions in place of one of 5 x 5 need fewer parameters.",
        "ex2-more-convs",
        "ex2-kernel-5",
        "n_params",
    ),
    Claim(
        "Two 3 x 3 convolutions match one of 5 x 5 (at most a twentieth more error).",
        "ex2-more-convs",
        "ex2-kernel-5",
        margin=-0.05,
    ),
    Claim(
        "Channels that double with depth beat hidden layers of equal width with the same number of "
        "parameters.",
        "ex2-channels-doubling",
        "ex2-channels-flat",
    ),
    Claim(
        "Convolution and strided convolution take longer to train than convolution and pooling.",
        "ex2-base",
        "ex2-stride-extra",
        "time",
    ),
    Claim(
        "A strided convolution alone takes longer to train than convolution and pooling.",
        "ex2-base",
        "ex2-stride",
        "time",
    ),
    Claim(
        "Convolution and strided convolution beat a strided convolution alone.",
        "ex2-stride-extra",
        "ex2-stride",
    ),
    Claim(
        "More layers at the same pooling lower the error.",
        "ex2-more-convs",
        "ex2-base",
    ),
    # 2.2.2
    Claim("Twice the latent channels lower the error.", "ex2-latent-x2", "ex2-base"),
    Claim(
        "At the same latent size, doubling all channels beats doubling only the latent channels.",
        "ex2-channels-x2",
        "ex2-latent-x2",
    ),
    Claim("5 x 5 kernels are a little better than 3 x 3.", "ex2-kernel-5", "ex2-base"),
    Claim("Strided convolutions beat pooling.", "ex2-stride", "ex2-base"),
    Claim(
        "A further strided convolution in place of each pool beats pooling.",
        "ex2-stride-extra",
        "ex2-base",
    ),
    Claim(
        "At the same latent size, one pool fewer beats more latent channels.",
        "ex2-fewer-pool",
        "ex2-latent-x4",
    ),
    Claim("One more stage loses information: a higher error.", "ex2-base", "ex2-deeper"),
    # 2.2.3
    Claim("LeakyReLU beats ReLU.", "ex2-base", "ex2-relu"),
    Claim("A sigmoid at the output beats LeakyReLU there.", "ex2-base", "ex2-output-leaky"),
    Claim("A sigmoid at the output beats a linear one.", "ex2-base", "ex2-output-linear"),
    Claim("Adam beats RMSprop.", "ex2-base", "ex2-rmsprop"),
    Claim(
        "Adam at 0.001 also beats RMSprop at 0.0003 in reconstruction.",
        "ex2-base",
        "ex2-rmsprop-lr-3e-4",
    ),
    Claim("Batch 16 trains faster than batch 1.", "ex2-base", "ex2-batch-1", "time"),
    Claim("Batch 16 descends more smoothly than batch 1.", "ex2-base", "ex2-batch-1", ROUGHNESS),
    Claim("Batch 16 ends lower than batch 64.", "ex2-base", "ex2-batch-64"),
    # 3.1, 3.2
    Claim("Gammas 0.1, 0.5, 1.5, 3.0 beat the plain grey channel.", "ex3-base", "ex3-gamma-none"),
    Claim(
        "Gammas 0.1, 0.5, 1.5, 3.0 beat milder ones (0.5, 0.8, 1.25, 2.0).",
        "ex3-base",
        "ex3-gamma-mild",
    ),
    Claim("Adam converges faster than RMSprop.", "ex3-base", "ex3-rmsprop", "path"),
    Claim("Adam ends lower than RMSprop.", "ex3-base", "ex3-rmsprop"),
    Claim(
        "Adam at 0.001 also ends lower than RMSprop at 0.0003.", "ex3-base", "ex3-rmsprop-lr-3e-4"
    ),
    Claim(
        "Adam at 0.001 also ends lower than RMSprop at 0.0001.", "ex3-base", "ex3-rmsprop-lr-1e-4"
    ),
    Claim(
        "At a learning rate of 0.0001 the descent is smoother than at 0.001.",
        "ex3-lr-1e-4",
        "ex3-base",
        ROUGHNESS,
    ),
    Claim(
        "At a learning rate of 0.0001 the loss is eventually lower.",
        "ex3-lr-1e-4",
        "ex3-base",
        eventually=True,
    ),
    Claim("Twice the channels lower the training loss.", "ex3-channels-x2", "ex3-base", "train"),
    Claim("Twice the channels lower the validation loss.", "ex3-channels-x2", "ex3-base", "val"),
    Claim("Twice the channels lower the test loss.", "ex3-channels-x2", "ex3-base"),
    Claim("Batch 64 trains faster than batch 16.", "ex3-batch-64", "ex3-base", "time"),
    Claim("Batch 64 raises the loss.", "ex3-base", "ex3-batch-64"),
    Claim(
        "Batch 64 also raises the loss when added to the changes kept so far.",
        "ex3-base",
        "ex3-batch-64-stacked",
    ),
    Claim(
        "The custom model is drastically better (at least a tenth less error).",
        "ex3-custom",
        "ex3-base",
        margin=0.1,
    ),
    Claim(
        "The custom model's learning rate and batch size alone improve the base model.",
        "ex3-base-custom-training",
        "ex3-base",
    ),
    Claim(
        "With these training settings, the custom model's larger network beats the base model.",
        "ex3-custom",
        "ex3-base-custom-training",
    ),
)


@dataclass(frozen=True)
class Judgement:
    """The verdict on one claim.

    Attributes:
        claim: The claim.
        verdict: By its own 95 % interval, as if it were the only claim.
        n: Number of seeds that both experiments were run with.
        effect: `lower` over `higher` as a ratio (of `rises`: their difference); None where missing.
        low: Lower end of the effect's interval, with `CONFIDENCE`.
        high: Upper end of it.
        why: What follows from the verdict, or what is missing, in words.
        p: Two-sided p-value of the difference from the claim's limit; None for what is counted and
            not measured, and where too few seeds give none.
        adjusted_p: `p` after the correction for all claims of the page.
        adjusted: The verdict that remains after that correction.
    """

    claim: Claim
    verdict: str
    n: int = 0
    effect: float | None = None
    low: float | None = None
    high: float | None = None
    why: str = ""
    p: float | None = None
    adjusted_p: float | None = None
    adjusted: str = ""


def collect_runs(trials: pd.DataFrame, epochs: pd.DataFrame) -> pd.DataFrame:
    """Collect the measures of each complete run.

    A run without epochs is left out, and so is a run with an error of exactly 0, which has no
    ratio.

    Args:
        trials: Rows of `trials.parquet`.
        epochs: Rows of `epochs.parquet`.

    Returns:
        One row per run: `experiment`, `seed`, `trial_number`, `latent_side` (height and width of
        the latent in pixels), and every measure. `val`, `train` and `test` are those of the epoch
        with the lowest validation error; `time` is the median over the epochs, in seconds.
    """
    ended = trials[trials["point"].notna() & (trials["state"] == COMPLETE)]
    curves = dict(list(epochs.sort_values("epoch").groupby("trial_number")))
    rows = []
    for row in ended.to_dict("records"):
        curve = curves.get(row["trial_number"])
        if curve is None or 0 in (*curve["val_mse"], row["test_mse"], row["train_mse"]):
            continue
        logs = np.log(curve["val_mse"].to_numpy(float))
        rows.append(
            {
                "experiment": row["point"],
                "seed": row["seed"],
                "trial_number": row["trial_number"],
                "latent_side": row["latent_height"],
                "test": row["test_mse"],
                "val": row["val_mse"],
                "train": row["train_mse"],
                "time": float(curve["epoch_time_s"].median()),
                "path": float(np.exp(logs.mean())),
                ROUGHNESS: float(np.clip(np.diff(logs), 0, None).sum()),
                **{name: row[name] for name in SIZES},
            }
        )
    columns = ["experiment", "seed", "trial_number", "latent_side", *MEASURES]
    return pd.DataFrame(rows, columns=columns)


def judge_claims(
    found: pd.DataFrame, epochs: pd.DataFrame, claims: Sequence[Claim] = CLAIMS
) -> list[Judgement]:
    """Judge each of `claims`, and adjust the verdicts for the number of them.

    Args:
        found: What `collect_runs` returns.
        epochs: One row per epoch as `results` reads them, with `point` and `seed` of their trials.
        claims: What to judge. Experiments that are not in `found` are named in the verdict.

    Returns:
        One judgement per claim, in their order.
    """
    return adjust_verdicts(
        [judge_claim(claim, compute_differences(found, claim), found, epochs) for claim in claims]
    )


def adjust_verdicts(judgements: Sequence[Judgement]) -> list[Judgement]:
    """Correct verdicts for the number of claims that were tested (Benjamini and Hochberg, 1995).

    Args:
        judgements: All that appear together, on one page. Corrections made before are replaced.

    Returns:
        The same judgements with `adjusted_p` and `adjusted`. Sizes are counted and need none.
    """
    adjusted = iter(stats.false_discovery_control([j.p for j in judgements if j.p is not None]))
    return [
        replace(judgement, adjusted_p=None, adjusted=judgement.verdict)
        if judgement.p is None
        else adjust_judgement(judgement, float(next(adjusted)))
        for judgement in judgements
    ]


def adjust_judgement(judgement: Judgement, p: float) -> Judgement:
    """Set the adjusted p-value and the adjusted verdict.

    Args:
        judgement: The verdict on a claim.
        p: The adjusted p-value.
    """
    remains = judgement.verdict if p <= 1 - CONFIDENCE else UNDECIDED
    return replace(judgement, adjusted_p=p, adjusted=remains)


def compute_differences(found: pd.DataFrame, claim: Claim) -> pd.Series[float]:
    """Compute `lower` minus `higher` for each seed with runs of both; of ratios, of the logarithms.

    Args:
        found: What `collect_runs` returns.
        claim: The claim.
    """
    by_seed = found.pivot(index="seed", columns="experiment", values=claim.measure)
    if claim.lower not in by_seed or claim.higher not in by_seed:
        return pd.Series(dtype=float)
    lower, higher = (by_seed[name].astype(float) for name in (claim.lower, claim.higher))
    if claim.measure in RATIOS:
        lower, higher = lower.map(math.log, "ignore"), higher.map(math.log, "ignore")
    return (lower - higher).dropna()


def judge_claim(
    claim: Claim, differences: pd.Series[float], found: pd.DataFrame, epochs: pd.DataFrame
) -> Judgement:
    if differences.empty:
        lacking = [
            name for name in (claim.lower, claim.higher) if name not in set(found["experiment"])
        ]
        want = " and ".join(lacking) or f"{claim.lower} and {claim.higher} with the same seed"
        return Judgement(claim, MISSING, why=f"Runs are missing: {want}.")
    values = differences.tolist()
    if claim.measure in SIZES:
        sizes = found.drop_duplicates("experiment").set_index("experiment")[claim.measure]
        ratio = float(sizes[claim.lower] / sizes[claim.higher])
        holds = ratio == 1 if claim.measure == "latent_size" else ratio < 1
        why = f"{sizes[claim.lower]:,} against {sizes[claim.higher]:,}."
        return Judgement(
            claim, UPHELD if holds else CONTRADICTED, len(values), ratio, ratio, ratio, why
        )
    threshold = math.log1p(-claim.margin) if claim.measure in RATIOS else 0.0
    low, high = compute_interval(values)
    p = compute_p_value(values, threshold)
    said, why = decide_verdict(low, high, threshold), ""
    if said == CONTRADICTED and claim.eventually:
        said, why, p_widens = check_catching_up(claim, differences, epochs)
        p = max(p or 0.0, p_widens)  # both have to be seen: the gap, and that it grows
    elif said == UNDECIDED:
        why = describe_what_would_decide(values, threshold)
    shown = np.exp if claim.measure in RATIOS else np.asarray
    effect, low, high = (float(shown(value)) for value in (np.mean(values), low, high))
    return Judgement(claim, said, len(values), effect, low, high, why, p)


def describe_what_would_decide(values: list[float], threshold: float) -> str:
    if not any(values):
        return "Both are the same with every seed. More epochs may tell them apart."
    if len(values) < 2:
        return "One seed has no spread. At least two are needed."
    if (n := estimate_seeds_needed(values, threshold)) is None:
        return (
            "The difference is so close to the limit that more than "
            f"{MOST:,} seeds would be needed."
        )
    return f"At least {n} seeds would decide, if the difference stays the same."


def check_catching_up(
    claim: Claim, differences: pd.Series[float], epochs: pd.DataFrame
) -> tuple[str, str, float]:
    """Judge a claim about where curves end, of an experiment that is behind so far.

    Only a gap that widened in the last epoch, seed by seed, contradicts such a claim.

    Returns:
        Verdict, reason, and the p-value of the gap's change.
    """
    curves = epochs[epochs["seed"].isin(differences.index)]
    logs = np.log(curves.pivot_table("test_mse", ["seed", "epoch"], "point").astype(float))
    gaps = (logs[claim.lower] - logs[claim.higher]).unstack("epoch")
    if gaps.shape[1] < 2:
        return UNDECIDED, "One epoch does not show how the curves continue.", 1.0
    closed = (gaps.iloc[:, -2] - gaps.iloc[:, -1]).dropna().tolist()
    p = compute_p_value(closed)
    if p is not None and compute_interval(closed)[1] < 0:
        return CONTRADICTED, "Higher, and the gap widens.", p
    pace, gap = float(np.mean(closed)), float(gaps.iloc[:, -1].mean())
    if pace <= 0 or gap / pace > MOST:
        why = "Higher so far, and the gap hardly shrank in the last epoch. Train for more epochs."
        return UNDECIDED, why, 1.0
    n_epochs = gaps.shape[1] + math.ceil(gap / pace)
    why = (
        "Higher so far. At the pace of the last epoch, the curves would meet after about "
        f"{n_epochs} epochs in total."
    )
    return UNDECIDED, why, 1.0
