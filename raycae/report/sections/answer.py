"""The answer: what the best trial reaches, compared with base point and baselines."""

from __future__ import annotations

from raycae.formatting import format_count, format_error, format_factor, join_words
from raycae.optimization import early_stopping
from raycae.report.plotting import EXACT
from raycae.report.sections.latent_size import LatentError
from raycae.report.trials import Row, get_baseline_name
from raycae.study.records import COMPLETE, PRUNED

NOTHING = ("mean_colour", "mean_chroma", "grey_copy")
"""The baselines that do nothing: the same answer for every image, or its grey copy."""


def describe_answer(best: Row) -> str:
    """What the best complete trial reaches, and with what."""
    test = (
        ""
        if best["test_mse"] is None
        else f" ({format_error(best['test_mse'])} on the test images)"
    )
    return (
        f"Trial {best['trial_number']} reaches a validation error of "
        f"{format_error(best['val_mse'])}"
        f"{test}, a PSNR of {best['val_psnr_db']:.2f} dB, through a latent of "
        f"{format_count(best['latent_size'], 'number')} per image with "
        f"{format_count(best['n_params'], 'parameter')}."
    )


def describe_comparison(best: Row, ranked: list[Row], latent: LatentError) -> str | None:
    """The best trial's error as a multiple of the base point's, of PCA's of its latent size, and of
    doing nothing; None where there is nothing to compare with. An error of zero has no multiple:
    it is named."""
    parts = [compare_with_base(best, ranked), compare_with_linear(best, latent)]
    zero = []
    for level in filter(NOTHING.__contains__, latent.levels):
        if latent.levels[level] <= EXACT:
            zero.append(get_baseline_name(level))
            continue
        times = format_factor(best["val_mse"] / latent.levels[level])
        parts.append(f"{times} that of doing nothing ({get_baseline_name(level)})")
    factors = [part for part in parts if part]
    base = find_base(ranked)
    said = [
        "It is the base point itself." if best["point"] == early_stopping.BASE else "",
        "The base point has no error." if base and base is not best and _is_zero(base) else "",
        f"Its error is {join_words(factors)}." if factors else "",
        f"Doing nothing ({join_words(zero)}) has no error on these images." if zero else "",
        "PCA of that latent size loses nothing." if is_exact(best, latent) else "",
    ]
    return " ".join(filter(None, said)) or None


def find_base(ranked: list[Row]) -> Row | None:
    """The trial of the base point, if it ended with an error."""
    base = next((row for row in ranked if row["point"] == early_stopping.BASE), None)
    if base is None or base["state"] not in (COMPLETE, PRUNED) or base["val_mse"] is None:
        return None
    return base


def _is_zero(row: Row) -> bool:
    return bool(row["val_mse"] <= EXACT)


def compare_with_base(best: Row, ranked: list[Row]) -> str | None:
    base = find_base(ranked)
    if base is None or base is best or _is_zero(base):
        return None
    stopped = f", stopped after epoch {base['epochs_run']}" if base["state"] == PRUNED else ""
    times = format_factor(best["val_mse"] / base["val_mse"])
    return f"{times} that of the base point (trial {base['trial_number']}{stopped})"


def compare_with_linear(best: Row, latent: LatentError) -> str | None:
    code = latent.best_linear(best["latent_size"])
    if code is None or code.val_mse <= EXACT:
        return None
    kind = get_baseline_name(code.baseline).removeprefix("PCA, ")
    if code.latent_size == best["latent_size"]:
        size = "of the same latent size"
    else:
        size = f"of {format_count(code.latent_size, 'number')}, the next smaller one measured"
    return f"{format_factor(best['val_mse'] / code.val_mse)} that of PCA {size} ({kind})"


def is_exact(best: Row, latent: LatentError) -> bool:
    """A latent as large as the picture need not code anything."""
    code = latent.best_linear(best["latent_size"])
    return code is not None and code.val_mse <= EXACT


def format_larger_factor(times: float) -> str:
    """`3.1 times`, or `1.0031 times` where two digits would read as no difference."""
    return format_factor(times) if times >= 1.1 else f"{times:.6g} times"
