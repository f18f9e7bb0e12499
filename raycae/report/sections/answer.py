"""The answer: what the best trial reaches, compared with base point and baselines."""

from __future__ import annotations

from dataclasses import dataclass

from raycae.formatting import format_count, format_error, format_factor, format_ratio, join_words
from raycae.optimization import early_stopping
from raycae.report.architecture_drawing import Drawing
from raycae.report.latent_error import LatentError
from raycae.report.plotting import EXACT
from raycae.report.report_data import ReportData
from raycae.report.section import Section
from raycae.report.trials import RankedRows, Row, get_baseline_name
from raycae.study.records import COMPLETE, PRUNED

TRIVIAL = ("mean_colour", "mean_chroma", "grey_copy")
"""The trivial baselines: the same answer for every image, or its grey copy."""


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
        f"{test} and a PSNR of {best['val_psnr_db']:.2f} dB. Its latent has "
        f"{format_count(best['latent_size'], 'number')} per image, and its network has "
        f"{format_count(best['n_params'], 'parameter')}."
    )


def describe_comparison(best: Row, ranked: RankedRows, latent: LatentError) -> str | None:
    """Compare the best trial with the base point, with PCA, and with trivial baselines.

    Args:
        best: The best complete trial.
        ranked: All trials as rows.
        latent: The baselines.

    Returns:
        A few sentences with factors; None if there is nothing to compare with. A factor of an error
        of zero does not exist, so such a baseline is named instead.
    """
    parts = [compare_with_base(best, ranked), compare_with_linear(best, latent)]
    zero = []
    for level in filter(TRIVIAL.__contains__, latent.levels):
        if latent.levels[level] <= EXACT:
            zero.append(f"the {get_baseline_name(level)}")
            continue
        times = format_factor(best["val_mse"] / latent.levels[level])
        parts.append(f"{times} that of a trivial baseline ({get_baseline_name(level)})")
    factors = [part for part in parts if part]
    base = find_base(ranked)
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
    below = [(row, code) for row, code in compared if row["val_mse"] < code.val_mse]
    if not compared:
        return text
    if not below:
        return (
            f"{text} At every size compared, PCA of the same size or smaller is at least as good."
        )
    tested = [(row, code) for row, code in below if row["test_mse"] is not None]
    on_test = sum(row["test_mse"] < code.test_mse for row, code in tested)
    first, *more = (
        (row["latent_size"], format_ratio(row["val_mse"] / code.val_mse)) for row, code in below
    )
    factors = [
        f"{format_count(first[0], 'number')} ({first[1]} times)",
        *(f"{n:,} ({times})" for n, times in more),
    ]
    others = [
        f"{row['latent_size']:,} ({format_ratio(row['val_mse'] / code.val_mse)})"
        for row, code in compared
        if row["val_mse"] >= code.val_mse
    ]
    text += (
        " Compared with the best PCA of the same size or smaller, its error is lower at "
        f"{join_words(factors)}{f', but not at {join_words(others)}' if others else ''}."
    )
    if not tested:
        return text
    if len(below) == 1:
        return f"{text} This {'also holds' if on_test else 'does not hold'} on the test images."
    where = "all" if on_test == len(tested) else f"{on_test:,}" if on_test else "none"
    n_tested = f"these {len(below):,} sizes"
    if len(tested) < len(below):
        n_tested = f"the {format_count(len(tested), 'size')} with a test error"
    return f"{text} On the test images, it is lower at {where} of {n_tested}."


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
            comparison=describe_comparison(best, data.ranked, latent) if best else None,
            has_baselines=bool(latent.levels) or not latent.linear.empty,
            drawing=data.draw_network(best["trial_number"]) if best else None,
            command=data.command,
        )


@dataclass(frozen=True)
class BestTrialSection(AnswerSection):
    """The best trial: its errors, what they compare with, and its network."""

    template = "sections/best_trial.html.j2"
