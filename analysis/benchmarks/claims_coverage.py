"""How often the intervals of `raycae reproduce` hold the truth, and how often its page errs.

    python analysis/benchmarks/claims_coverage.py [--pages 4000] [--seed 0]

Simulates pages of the source report's measured claims: log errors of every experiment and seed, and
from them the very differences that the claims compare. Every experiment spreads by 0.02 but the two
base models, which are in most claims and spread five times as much (0.1), or as much as the others
("equal"). Noise of log errors: `normal` (so errors are lognormal), `t3` (Student's with three
degrees of freedom), `skewed` (lognormal with sigma 0.5 or 1 even in the logarithm; centred). All
noise has the standard deviation that the spread says.

First table, pages without any effect: coverage of the claim that is covered least and of the
average claim; pages with at least one false verdict, raw and after Benjamini-Hochberg and Holm.
Second table, `normal`, pages where half of the experiments (drawn for each page) differ by 0.2:
the false share of the verdicts, pages with a false one, and the share of true differences found.

Intervals: `student`, as in `raycae.report.reproduction.statistics`; `welch`, unpaired; `smyth`,
moderated by all claims of a measure (Smyth 2004); `capped`, the same weighing no more than one
claim, as raycae had it before; `widened`, Student's with the larger of the claim's spread and the
capped spread.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import scipy
from scipy import special, stats

from raycae.report.reproduction.claims import CLAIMS, SIZES, Claim
from raycae.report.reproduction.statistics import CONFIDENCE

Reals = npt.NDArray[np.float64]
Noise = Callable[[np.random.Generator, tuple[int, ...]], Reals]

SPREAD, BASE_SPREAD = 0.02, 0.1
BASES = ("ex2-base", "ex3-base")
EFFECT = 0.2
MEASURED = [claim for claim in CLAIMS if claim.measure not in SIZES]
NAMES = sorted({name for claim in MEASURED for name in (claim.lower, claim.higher)})


def draw_normal(draw: np.random.Generator, shape: tuple[int, ...]) -> Reals:
    return draw.standard_normal(shape)


def draw_t3(draw: np.random.Generator, shape: tuple[int, ...]) -> Reals:
    return draw.standard_t(3, shape) / np.sqrt(3)


def draw_skewed(sigma: float) -> Noise:
    """Return a source of lognormal noise of this sigma, with mean 0 and standard deviation 1."""

    def noise(draw: np.random.Generator, shape: tuple[int, ...]) -> Reals:
        mean = np.exp(sigma**2 / 2)
        deviation = mean * np.sqrt(np.expm1(sigma**2))
        standard: Reals = (draw.lognormal(0, sigma, shape) - mean) / deviation
        return standard

    return noise


NOISES = {
    "normal": draw_normal,
    "t3": draw_t3,
    "skewed 0.5": draw_skewed(0.5),
    "skewed 1": draw_skewed(1.0),
}


def simulate(
    draw: np.random.Generator, noise: Noise, *, pages: int, n_seeds: int, base_spread: float
) -> tuple[Reals, Reals]:
    """Draw the log figures of `lower` and `higher`, each (pages, claims, seeds), without effects.

    Claims about training, validation and test errors see the same noise; times and rises of the
    error have separate noise.
    """
    spreads = np.array([base_spread if name in BASES else SPREAD for name in NAMES])[:, None]
    shape = (pages, len(NAMES), n_seeds)
    own = {kind: spreads * noise(draw, shape) for kind in ("error", "time", "rises")}

    def figures(side: Callable[[Claim], str]) -> Reals:
        parts = [own.get(c.measure, own["error"])[:, NAMES.index(side(c))] for c in MEASURED]
        return np.stack(parts, axis=1)

    return figures(lambda claim: claim.lower), figures(lambda claim: claim.higher)


def estimate_prior(variances: Reals, df: int, cap: bool) -> tuple[Reals, Reals]:
    """Estimate Smyth's prior from the variances (pages, claims) of comparisons of one measure.

    Returns:
        Prior variance and its degrees of freedom, each (pages, 1).
    """
    centred = np.log(variances) - special.digamma(df / 2) + np.log(df / 2)
    mean = centred.mean(1, keepdims=True)
    beyond = centred.var(1, ddof=1, keepdims=True) - special.polygamma(1, df / 2)
    prior_df = 2 * invert_trigamma(np.maximum(beyond, 1e-6))
    log_variance = mean + special.digamma(prior_df / 2) - np.log(prior_df / 2)
    variance = np.exp(np.where(beyond > 0, log_variance, mean))
    return variance, np.minimum(prior_df, df) if cap else prior_df


def invert_trigamma(y: Reals) -> Reals:
    """Find the x with trigamma(x) = y, by Newton's method on 1 / trigamma (Smyth 2004)."""
    x = 0.5 + 1 / y
    for _ in range(50):
        tri = special.polygamma(1, x)
        x += tri * (1 - tri / y) / special.polygamma(2, x)
    return x


def moderate(lower: Reals, higher: Reals, cap: bool) -> tuple[Reals, Reals]:
    """Compute moderated variances of the differences and their degrees of freedom (pages, claims).

    As raycae had it, the prior is that of the claims of one study and measure; with fewer than
    three of those there is none.
    """
    own = (lower - higher).var(2, ddof=1)
    df = lower.shape[2] - 1
    variances, dfs = own.copy(), np.full_like(own, df)
    groups = [(claim.lower[:3], claim.measure) for claim in MEASURED]
    for group in set(groups):
        members = [i for i, other in enumerate(groups) if other == group]
        if len(members) < 3:
            continue
        variance, prior_df = estimate_prior(own[:, members], df, cap)
        variances[:, members] = (prior_df * variance + df * own[:, members]) / (prior_df + df)
        dfs[:, members] = prior_df + df
    return variances, dfs


def compute_errors(method: str, lower: Reals, higher: Reals) -> tuple[Reals, Reals]:
    """Compute the standard errors of mean differences and their degrees of freedom by `method`."""
    n = lower.shape[2]
    own, df = (lower - higher).var(2, ddof=1), np.full(lower.shape[:2], n - 1.0)
    if method == "student":
        return np.sqrt(own / n), df
    if method == "welch":
        a, b = lower.var(2, ddof=1), higher.var(2, ddof=1)
        return np.sqrt((a + b) / n), (a + b) ** 2 / (a**2 + b**2) * (n - 1)
    variance, moderated_df = moderate(lower, higher, cap=method != "smyth")
    if method == "widened":
        return np.sqrt(np.maximum(own, variance) / n), df
    return np.sqrt(variance / n), moderated_df


METHODS = ("student", "welch", "smyth", "capped", "widened")


def correct(p: Reals) -> dict[str, Reals]:
    """Return p-values (pages, claims) as they are, by Benjamini-Hochberg, and by Holm."""
    n = p.shape[1]
    order = np.argsort(p, axis=1)
    steps = np.take_along_axis(p, order, 1) * np.arange(n, 0, -1)
    holm = np.empty_like(p)
    np.put_along_axis(holm, order, np.minimum(np.maximum.accumulate(steps, axis=1), 1), 1)
    return {"raw": p, "BH": stats.false_discovery_control(p, axis=1), "Holm": holm}


def compare_coverage(pages: int, seed: int) -> None:
    """Print the first table."""
    print("| noise | base | seeds | interval | least | mean | false pages: raw | BH | Holm |")
    print("|---|---|---|---|---|---|---|---|---|")
    for name, noise in NOISES.items():
        for base, base_spread in (("5 x", BASE_SPREAD), ("equal", SPREAD)):
            for n_seeds in (3, 5):
                draw = np.random.default_rng(seed)
                lower, higher = simulate(
                    draw, noise, pages=pages, n_seeds=n_seeds, base_spread=base_spread
                )
                for method in METHODS:
                    error, df = compute_errors(method, lower, higher)
                    t = np.abs((lower - higher).mean(2)) / error
                    covered = (t <= stats.t.ppf((1 + CONFIDENCE) / 2, df)).mean(0)
                    corrected = correct(2 * special.stdtr(df, -t))
                    false = [(p <= 1 - CONFIDENCE).any(1).mean() for p in corrected.values()]
                    shares = " | ".join(f"{share:.1%}" for share in false)
                    print(
                        f"| {name} | {base} | {n_seeds} | {method} | {covered.min():.1%} | "
                        f"{covered.mean():.1%} | {shares} |"
                    )


def compare_verdicts(pages: int, seed: int) -> None:
    """Print the second table."""
    print("| seeds | interval | correction | false verdicts | pages with one | true ones found |")
    print("|---|---|---|---|---|---|")
    for n_seeds in (3, 5):
        draw = np.random.default_rng(seed)
        lower, higher = simulate(
            draw, draw_normal, pages=pages, n_seeds=n_seeds, base_spread=BASE_SPREAD
        )
        moved = EFFECT * draw.integers(0, 2, (pages, len(NAMES)))
        lower += moved[:, [NAMES.index(claim.lower) for claim in MEASURED], None]
        higher += moved[:, [NAMES.index(claim.higher) for claim in MEASURED], None]
        difference = (lower - higher).mean(2)
        truth = np.sign(
            moved[:, [NAMES.index(claim.lower) for claim in MEASURED]]
            - moved[:, [NAMES.index(claim.higher) for claim in MEASURED]]
        )
        for method in METHODS:
            error, df = compute_errors(method, lower, higher)
            for name, p in correct(2 * special.stdtr(df, -np.abs(difference) / error)).items():
                given = p <= 1 - CONFIDENCE
                false = given & (np.sign(difference) != truth)
                share = (false.sum(1) / np.maximum(given.sum(1), 1)).mean()
                found = (given & ~false).sum() / (truth != 0).sum()
                print(
                    f"| {n_seeds} | {method} | {name} | {share:.1%} | "
                    f"{false.any(1).mean():.1%} | {found:.1%} |"
                )


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--pages", type=int, default=4000)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    print(
        f"{len(MEASURED)} claims on {len(NAMES)} experiments, {arguments.pages:,} pages a row, "
        f"seed {arguments.seed}; numpy {np.__version__}, scipy {scipy.__version__}\n"
    )
    compare_coverage(arguments.pages, arguments.seed)
    print()
    compare_verdicts(arguments.pages, arguments.seed)


if __name__ == "__main__":
    main()
