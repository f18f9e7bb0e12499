"""What the source report claims, and the rule that turns runs into verdicts.

A claim says that one experiment has less of something than another. It is judged on runs of both
with the same seeds. The spread over three seeds is hardly known from three seeds, so it is taken
together with that of all comparisons of the same measure (a moderated t interval: Smyth, "Linear
models and empirical Bayes methods", 2004). These comparisons share experiments and do not spread
alike, so all of them together weigh no more than the one itself. Plain numbers: neither Ray nor
torch nor plotly.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy import special, stats

from raycae.results import COMPLETE

UPHELD, CONTRADICTED, UNDECIDED, MISSING = "upheld", "contradicted", "undecided", "not run"
CONFIDENCE = 0.95
MOST = 1000
"""Above so many seeds, or epochs, it makes no sense to name a number."""

RATIOS = {
    "test": "test error",
    "val": "validation error",
    "train": "training error",
    "time": "seconds an epoch",
    "path": "validation error, mean on the way",
}
"""Measures that are compared as ratios: 0.9 is a tenth less."""
ROUGHNESS = "rises"
"""By how much the validation error rises again from epoch to epoch, summed, as a logarithm; 0 where
it only falls. Compared by its difference."""
SIZES = {"latent_size": "numbers in the latent", "n_params": "parameters"}
"""Counted, not measured: no seed changes them. A latent keeps its size where it is the same."""
MEASURES = {**RATIOS, ROUGHNESS: "rises of the validation error, summed", **SIZES}


@dataclass(frozen=True)
class Claim:
    """`lower` has less of `measure` than `higher`; by at least `margin` (0.1: a tenth) where that
    is above 0, and at most so much more where it is below."""

    sentence: str
    lower: str
    higher: str
    measure: str = "test"
    margin: float = 0.0
    eventually: bool = False
    """The claim is about where the curves end, so a gap that is closing refutes nothing yet."""


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
        "Channels that double with depth beat the same parameters in hidden layers of equal width.",
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
        "So does a strided convolution alone.",
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
        "At the same latent size, twice all channels beat twice the latent's alone.",
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
        "Batch 64 raises the loss, also on top of the changes kept so far.",
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
        "Its learning rate and batch size alone make the base model better.",
        "ex3-base-custom-training",
        "ex3-base",
    ),
    Claim(
        "Trained like this, its larger network is better than the base model's.",
        "ex3-custom",
        "ex3-base-custom-training",
    ),
)


@dataclass(frozen=True)
class Judgement:
    """A claim's verdict. `effect`, `low`, `high`: `lower` over `higher` as a ratio (of `rises`:
    their difference), and its interval; None where there is none. `n`: the seeds that both were
    run with. `why` says in words what follows, or what is missing."""

    claim: Claim
    verdict: str
    n: int = 0
    effect: float | None = None
    low: float | None = None
    high: float | None = None
    why: str = ""


def runs(trials: pd.DataFrame, epochs: pd.DataFrame) -> pd.DataFrame:
    """One row a run that ended well: `experiment`, `seed`, `trial_number`, `latent_side` (pixels of
    the latent's height and width), and every measure.

    `trials` and `epochs` as `results` reads them. `val`, `train` and `test` are those of the epoch
    with the least validation error; `time` is the median over the epochs. A run without epochs, or
    with an error of exactly 0, which no network has, is left out.
    """
    ended = trials[trials["point"].notna() & (trials["state"] == COMPLETE)]
    curves = dict(list(epochs.sort_values("epoch").groupby("trial_number")))
    rows = []
    for row in ended.to_dict("records"):
        curve = curves.get(row["trial_number"])
        if curve is None or not (curve["val_mse"] > 0).all() or row["test_mse"] == 0:
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


def judge(
    found: pd.DataFrame, epochs: pd.DataFrame, claims: Sequence[Claim] = CLAIMS
) -> list[Judgement]:
    """A verdict on each of `claims` from `runs`; `epochs` as `results` reads them, with `point` and
    `seed` of their trials."""
    differences = [_differences(found, claim) for claim in claims]
    judged = []
    for claim, own in zip(claims, differences, strict=True):
        alike = [d for c, d in zip(claims, differences, strict=True) if c.measure == claim.measure]
        judged.append(_judgement(claim, own, _prior(alike), found, epochs))
    return judged


def verdict(low: float, high: float, threshold: float = 0.0) -> str:
    """The rule. `low` and `high`: the interval of `lower` minus `higher`, of whichever scale; the
    claim is that it lies below `threshold`."""
    if high < threshold:
        return UPHELD
    if low > threshold:
        return CONTRADICTED
    return UNDECIDED


@dataclass(frozen=True)
class Prior:
    """What all comparisons of a measure say of the spread of one: `variance`, worth `df` degrees
    of freedom (infinite where all spread alike)."""

    variance: float
    df: float


def interval(differences: Sequence[float], prior: Prior | None = None) -> tuple[float, float]:
    """Where the mean of `differences` lies, with `CONFIDENCE`. Infinite where nothing is known of
    their spread."""
    mean = float(np.mean(differences))
    half = _half_width(differences, prior, len(differences))
    return mean - half, mean + half


def seeds_needed(
    differences: Sequence[float], prior: Prior | None, threshold: float = 0.0
) -> int | None:
    """How many seeds would decide if the mean stayed where it is; None: more than anybody runs."""
    distance = abs(float(np.mean(differences)) - threshold)
    for n in range(len(differences), MOST + 1):
        if _half_width(differences, prior, n) < distance:
            return n
    return None


def rank_correlation(x: Sequence[float], y: Sequence[float]) -> tuple[float, float, float] | None:
    """Spearman's, and its interval with `CONFIDENCE` (Bonett and Wright, "Sample size requirements
    for estimating Pearson, Kendall and Spearman correlations", 2000); None below four pairs or
    where one of both does not vary."""
    if len(x) < 4 or len(set(x)) < 2 or len(set(y)) < 2:
        return None
    rho = float(stats.spearmanr(x, y).statistic)
    half = stats.norm.ppf((1 + CONFIDENCE) / 2) * math.sqrt((1 + rho**2 / 2) / (len(x) - 3))
    most = 1 - 1 / len(x) ** 2  # a perfect order of a few is no certainty
    at = math.atanh(min(max(rho, -most), most))
    return rho, min(math.tanh(at - half), rho), max(math.tanh(at + half), rho)


def _differences(found: pd.DataFrame, claim: Claim) -> pd.Series[float]:
    """`lower` minus `higher` by seed, where both were run with it; of ratios the logarithms."""
    by_seed = found.pivot(index="seed", columns="experiment", values=claim.measure)
    if claim.lower not in by_seed or claim.higher not in by_seed:
        return pd.Series(dtype=float)
    lower, higher = (by_seed[name].astype(float) for name in (claim.lower, claim.higher))
    if claim.measure in RATIOS:
        lower, higher = lower.map(math.log, "ignore"), higher.map(math.log, "ignore")
    return (lower - higher).dropna()


def _judgement(
    claim: Claim,
    differences: pd.Series[float],
    prior: Prior | None,
    found: pd.DataFrame,
    epochs: pd.DataFrame,
) -> Judgement:
    if differences.empty:
        lacking = [
            name for name in (claim.lower, claim.higher) if name not in set(found["experiment"])
        ]
        want = " and ".join(lacking) or f"{claim.lower} and {claim.higher} with the same seed"
        return Judgement(claim, MISSING, why=f"For want of runs of {want}.")
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
    low, high = interval(values, prior)
    said, why = verdict(low, high, threshold), ""
    if said == CONTRADICTED and claim.eventually:
        said, why = _not_yet(claim, differences, epochs)
    elif said == UNDECIDED:
        why = _what_would_decide(claim, values, prior, threshold)
    shown = np.exp if claim.measure in RATIOS else np.asarray
    effect, low, high = (float(shown(value)) for value in (np.mean(values), low, high))
    return Judgement(claim, said, len(values), effect, low, high, why)


def _what_would_decide(
    claim: Claim, values: list[float], prior: Prior | None, threshold: float
) -> str:
    if not any(values):
        return "Both the same with every seed; more epochs may tell them apart."
    if len(values) < 2 and prior is None:
        return "One seed has no spread; two or more have."
    if (n := seeds_needed(values, prior, threshold)) is None:
        return f"More than {MOST:,} seeds would have to decide, so near to the limit is it."
    return f"At least {n} seeds would decide, if the difference stays what it is."


def _not_yet(claim: Claim, differences: pd.Series[float], epochs: pd.DataFrame) -> tuple[str, str]:
    """Whether the curve that is to be lower in the end is catching up: by how much the gap closed
    in the last epoch, seed by seed. Only a gap that widens refutes what is said of the end."""
    curves = epochs[epochs["seed"].isin(differences.index)]
    logs = np.log(curves.pivot_table("test_mse", ["seed", "epoch"], "point").astype(float))
    gaps = (logs[claim.lower] - logs[claim.higher]).unstack("epoch")
    if gaps.shape[1] < 2:
        return UNDECIDED, "One epoch does not say where curves end."
    closed = (gaps.iloc[:, -2] - gaps.iloc[:, -1]).dropna()
    if interval(closed.tolist())[1] < 0:
        return CONTRADICTED, "Higher, and the gap widens."
    pace, gap = float(closed.mean()), float(gaps.iloc[:, -1].mean())
    if pace <= 0 or gap / pace > MOST:
        return UNDECIDED, "Higher so far, and not seen to catch up: more epochs would have to tell."
    n_epochs = gaps.shape[1] + math.ceil(gap / pace)
    return UNDECIDED, f"Higher so far; at the pace of the last epoch {n_epochs} epochs would tell."


def _half_width(differences: Sequence[float], prior: Prior | None, n: int) -> float:
    """Half the interval of a mean of `n`, with the spread that `differences` and `prior` show."""
    df = n - 1
    variance = float(np.var(differences, ddof=1)) if len(differences) > 1 else 0.0
    if prior is not None:
        # Weighted as if the other comparisons were `prior.df` more observations of this one.
        own = len(differences) - 1
        share = 1.0 if math.isinf(prior.df) else prior.df / (prior.df + own)
        variance = share * prior.variance + (1 - share) * variance
        df += prior.df  # type: ignore[assignment]
    if df == 0:
        return math.inf
    return float(stats.t.ppf((1 + CONFIDENCE) / 2, df) * math.sqrt(variance / n))


def _prior(comparisons: Iterable[pd.Series[float]]) -> Prior | None:
    """Smyth's estimate from the variances of several comparisons, by the mean and the variance of
    their logarithms; None where fewer than three have a spread. It counts for no more than one
    comparison: his estimate takes them for independent, and where one noisy experiment is in many
    of them that made the intervals of all too narrow (`tests/test_claims.py` has the simulation).
    """
    spreads = [(len(d) - 1, float(d.var())) for d in comparisons if len(d) > 1]
    known = [(df, variance) for df, variance in spreads if variance > 0]
    if len(known) < 3:
        return None
    df = np.array([d for d, _ in known], float)
    logs = np.log([variance for _, variance in known])
    centred = logs - special.digamma(df / 2) + np.log(df / 2)
    beyond_chance = centred.var(ddof=1) - special.polygamma(1, df / 2).mean()
    if beyond_chance <= 0:
        return Prior(float(np.exp(centred.mean())), float(df.max()))
    prior_df = 2 * _inverse_trigamma(float(beyond_chance))
    log_variance = centred.mean() + special.digamma(prior_df / 2) - np.log(prior_df / 2)
    return Prior(float(np.exp(log_variance)), min(prior_df, float(df.max())))


def _inverse_trigamma(y: float) -> float:
    """The x with trigamma(x) = y, by Newton's method on 1 / trigamma, as Smyth has it."""
    x = 0.5 + 1 / y
    for _ in range(50):
        tri = special.polygamma(1, x)
        step = tri * (1 - tri / y) / special.polygamma(2, x)
        x += step
        if -step / x < 1e-8:
            break
    return float(x)
