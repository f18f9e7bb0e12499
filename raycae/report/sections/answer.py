"""The answer: what the best trial reaches, compared with base point and baselines."""

from __future__ import annotations

from dataclasses import dataclass

from raycae.formatting import format_count, format_error, format_factor, format_ratio, join_words
from raycae.optimization import early_stopping
from raycae.report.architecture_drawing import Drawing
from raycae.report.latent_error import LatentError, LinearCode
from raycae.report.plotting import EXACT
from raycae.report.report_data import ReportData
from raycae.report.section import Section
from raycae.report.similar_cost import SIMILAR_FACTOR
from raycae.report.trials import RankedRows, Row, get_baseline_name
from raycae.study.records import COMPLETE, PRUNED

TRIVIAL = ("mean_colour", "mean_chroma", "grey_copy")
"""The trivial baselines: the same answer for every image, or its grey copy."""
LOWER, EQUAL, HIGHER = "lower", "about the same (within 2 %)", "higher"
"""How an error compares with another one."""
SAME = 0.02
"""Share by which two errors may differ that are called about the same."""


def describe_answer(best: Row) -> str:
    """Describe what the best trial reaches, and with which latent size.

    Args:
        best: The best complete trial.
    """
    test = (
        ""
        if best["test_mse"] is None
        else f" ({format_error(best['test_mse'])} on the test images)"
    )
    return (
        f"Trial {best['trial_number']} has a validation error of {format_error(best['val_mse'])}"
        f"{test} and a mean PSNR of {best['val_psnr_db']:.2f} dB. Its latent has "
        f"{format_count(best['latent_size'], 'number')} per image, and its network has "
        f"{format_count(best['n_params'], 'parameter')}."
    )


def describe_comparison(
    best: Row, ranked: RankedRows, latent: LatentError, cost: str | None = None
) -> str | None:
    """Compare the best trial with the base point, with PCA, and with trivial baselines.

    Args:
        best: The best complete trial.
        ranked: All trials as rows.
        latent: The baselines.
        cost: The second objective. A base point of another cost is then not compared.

    Returns:
        A few sentences with factors; None if there is nothing to compare with. A factor of an error
        of zero does not exist, so such a baseline is named instead.
    """
    base = find_base(ranked)
    is_comparable = base and (cost is None or best[cost] <= SIMILAR_FACTOR * base[cost])
    parts = [
        compare_with_base(best, ranked) if is_comparable else None,
        compare_with_linear(best, latent),
    ]
    zero = []
    for level in filter(TRIVIAL.__contains__, latent.levels):
        if latent.levels[level] <= EXACT:
            zero.append(f"the {get_baseline_name(level)}")
            continue
        times = format_factor(best["val_mse"] / latent.levels[level])
        parts.append(f"{times} that of a trivial baseline ({get_baseline_name(level)})")
    factors = [part for part in parts if part]
    sentences = [
        "The best trial is the space's base configuration."
        if best["point"] == early_stopping.BASE
        else "",
        "The error of the space's base configuration is 0."
        if base and not _is_same(base, best) and _is_zero(base)
        else "",
        f"Its error is {join_words(factors)}." if factors else "",
        f"The error of {join_words(zero)} is 0 on these images." if zero else "",
        "The error of PCA of that latent size is 0." if is_exact(best, latent) else "",
    ]
    return " ".join(filter(None, sentences)) or None


def find_base(ranked: RankedRows) -> Row | None:
    """Find the trial of the base point.

    Args:
        ranked: All trials as rows.

    Returns:
        The trial; None if it has no measured error.
    """
    base = ranked.find_point(early_stopping.BASE)
    if base is None or base["state"] not in (COMPLETE, PRUNED) or base["val_mse"] is None:
        return None
    return base


def _is_same(row: Row, other: Row) -> bool:
    """Check whether two rows are of one trial."""
    return bool(row["trial_number"] == other["trial_number"])


def _is_zero(row: Row) -> bool:
    """Check whether the error of a trial is zero but for rounding."""
    return bool(row["val_mse"] <= EXACT)


def compare_with_base(best: Row, ranked: RankedRows) -> str | None:
    """Compare the best trial with the base point.

    Args:
        best: The best complete trial.
        ranked: All trials as rows.

    Returns:
        `0.20 times that of the space's base configuration (trial 0)`; None without a factor.
    """
    base = find_base(ranked)
    if base is None or _is_same(base, best) or _is_zero(base):
        return None
    stopped = f", stopped after epoch {base['epochs_run']}" if base["state"] == PRUNED else ""
    times = format_factor(best["val_mse"] / base["val_mse"])
    return f"{times} that of the space's base configuration (trial {base['trial_number']}{stopped})"


def compare_with_linear(best: Row, latent: LatentError) -> str | None:
    """Compare the best trial with PCA of the same size or smaller.

    Args:
        best: The best complete trial.
        latent: The baselines.

    Returns:
        `0.50 times that of PCA of the same latent size`; None without a factor.
    """
    code = latent.find_best_linear(best["latent_size"])
    if code is None or code.val_mse <= EXACT:
        return None
    kind = get_baseline_name(code.baseline).removeprefix("PCA, ")
    if code.latent_size == best["latent_size"]:
        which = f"of the same latent size ({kind})"
    else:
        size = format_count(code.latent_size, "number")
        which = f"with {size} ({kind}; the best PCA measured at this size or smaller)"
    return f"{format_factor(best['val_mse'] / code.val_mse)} that of PCA {which}"


def is_exact(best: Row, latent: LatentError) -> bool:
    """Check whether the error of PCA of this latent size is zero.

    This is so if the latent is as large as the picture.

    Args:
        best: The best complete trial.
        latent: The baselines.
    """
    code = latent.find_best_linear(best["latent_size"])
    return code is not None and code.val_mse <= EXACT


def describe_frontier_answer(latent: LatentError, ranked: RankedRows) -> str:
    """Describe at which latent sizes the Pareto front lies below PCA.

    Args:
        latent: The trials, the front and the baselines.
        ranked: All trials as rows.
    """
    rows = ranked.select(latent.frontier["trial_number"])
    front = [rows[number] for number in latent.frontier["trial_number"]]
    low, high = front[0]["latent_size"], front[-1]["latent_size"]
    sizes = f"{low:,} to {high:,} numbers" if low < high else format_count(low, "number")
    trials = format_count(len(front), "trial")
    text = f"The Pareto front has {trials}, with latents of {sizes} per image."
    codes = [(row, latent.find_best_linear(row["latent_size"])) for row in front]
    compared = [(row, code) for row, code in codes if code is not None and code.val_mse > EXACT]
    if not compared:
        return text
    ratios = [row["val_mse"] / code.val_mse for row, code in compared]
    kinds = [compare_ratio(ratio) for ratio in ratios]
    if set(kinds) == {HIGHER}:
        return f"{text} At every size compared, PCA of the same size or smaller is better."
    told = []
    is_first = True
    for kind in (LOWER, EQUAL, HIGHER):
        factors = []
        for (row, _), ratio, own in zip(compared, ratios, kinds, strict=True):
            if own != kind:
                continue
            size = row["latent_size"]
            name = format_count(size, "number") if is_first else f"{size:,}"
            factors.append(f"{name} ({format_ratio(ratio)}{' times' if is_first else ''})")
            is_first = False
        if factors:
            told.append(f"{kind} at {join_words(factors)}")
    text += (
        " Compared with the best PCA of the same size or smaller, its error is "
        f"{', and '.join([', '.join(told[:-1]), told[-1]]) if told[:-1] else told[-1]}."
    )
    below = [pair for pair, kind in zip(compared, kinds, strict=True) if kind == LOWER]
    return text + describe_test(below, len(below) == len(compared))


def compare_ratio(ratio: float) -> str:
    """Say whether an error is lower or higher than another one, or about the same.

    Args:
        ratio: The error over the other one.
    """
    if abs(round(ratio, 2) - 1) <= SAME + 1e-9:
        return EQUAL
    return LOWER if ratio < 1 else HIGHER


def describe_test(below: list[tuple[Row, LinearCode]], is_all: bool) -> str:
    """Say at how many of the sizes with a lower validation error the test error is lower, too.

    Args:
        below: Trials with a lower validation error than PCA, and the PCA.
        is_all: Whether these are all trials that were compared.

    Returns:
        A sentence after a space; empty without a test error.
    """
    tested = [(row, code) for row, code in below if row["test_mse"] is not None]
    if not tested:
        return ""
    on_test = sum(row["test_mse"] < code.test_mse for row, code in tested)
    if len(below) == 1:
        size = format_count(below[0][0]["latent_size"], "number")
        return f" On the test images, it is {'also' if on_test else 'not'} lower at {size}."
    where = "all" if on_test == len(tested) else f"{on_test:,}" if on_test else "none"
    sizes = (
        f"these {len(below):,} sizes" if is_all else f"the {len(below):,} sizes where it is lower"
    )
    if len(tested) < len(below):
        sizes = f"the {format_count(len(tested), 'size')} with a test error"
    return f" On the test images, it is lower at {where} of {sizes}."


@dataclass(frozen=True, kw_only=True)
class AnswerSection(Section):
    """What the study found, in a few sentences."""

    template = "sections/answer.html.j2"
    best: Row | None
    answer: str | None
    winner: str | None
    """Sentence about the best trial; equal to `answer` unless the study is about a Pareto front."""
    comparison: str | None
    has_baselines: bool
    drawing: Drawing | None
    """The network of the best trial."""
    command: str

    @classmethod
    def build(cls, data: ReportData) -> AnswerSection:
        """Build the section; see `Section.build`.

        Args:
            data: The study.

        Returns:
            The section; it is on every page.
        """
        best, latent = data.best, data.latent
        winner = describe_answer(best) if best else None
        is_front_of_sizes = data.is_frontier and data.cost == "latent_size"
        return cls(
            best=best,
            winner=winner,
            answer=describe_frontier_answer(latent, data.ranked)
            if best and is_front_of_sizes
            else winner,
            comparison=describe_comparison(
                best, data.ranked, latent, data.cost if data.is_frontier else None
            )
            if best
            else None,
            has_baselines=bool(latent.levels) or not latent.linear.empty,
            drawing=data.draw_network(best["trial_number"]) if best else None,
            command=data.command,
        )


@dataclass(frozen=True)
class BestTrialSection(AnswerSection):
    """The best trial: its errors, what they compare with, and its network."""

    template = "sections/best_trial.html.j2"
