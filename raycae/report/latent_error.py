"""Error against latent size: the trials, the Pareto front and the PCA baselines."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pandas as pd

from raycae.formatting import format_ratio
from raycae.optimization.frontier import find_frontier
from raycae.report.plotting import EXACT
from raycae.report.trials import Row, select_ended
from raycae.study.records import COMPLETE

POINT_COLUMNS = [
    *("trial_number", "state", "point", "latent_size", "val_mse", "val_psnr_db"),
    "config",
]
FRONT_COLUMNS = ["trial_number", "state", "latent_size", "val_mse"]
"""The columns that `find_frontier` reads."""


@dataclass(frozen=True)
class LinearCode:
    """A PCA baseline: its name, its latent size in numbers per image, and its errors."""

    baseline: str
    latent_size: int
    val_mse: float
    test_mse: float


@dataclass(frozen=True)
class LatentError:
    """Error against latent size.

    Attributes:
        points: One row per trial with a measured error: `POINT_COLUMNS`, `on_frontier`, and
            `linear_mse`, the error of `best_linear` (NaN without one).
        linear: The PCA baselines: `baseline`, `latent_size`, `val_mse`, `test_mse`.
        levels: The error of each baseline without a latent, lowest first; it may be 0.
        seeds: One row per configuration that is complete with several seeds: `latent_size`, `n`,
            and `mean`, `low`, `high` of its errors.
    """

    points: pd.DataFrame
    linear: pd.DataFrame
    levels: dict[str, float]
    seeds: pd.DataFrame

    @cached_property
    def frontier(self) -> pd.DataFrame:
        """The Pareto front by latent size; of equal points only the first trial."""
        front = self.points[self.points["on_frontier"]].sort_values(["latent_size", "trial_number"])
        return front.drop_duplicates("latent_size")

    @cached_property
    def psnr_frontier(self) -> pd.DataFrame:
        """The Pareto front by latent size and mean PSNR of an image.

        It can differ from the front by error: a mean of PSNRs is not the PSNR of the mean error.
        """
        rows = self.points.assign(val_mse=-self.points["val_psnr_db"].astype(float))
        is_on_front = find_frontier(rows[FRONT_COLUMNS].to_dict("records"))  # type: ignore[arg-type]
        rows = self.points[self.points["trial_number"].map(is_on_front).astype(bool)]
        rows = rows.sort_values(["latent_size", "trial_number"])
        return rows.drop_duplicates("latent_size")

    def find_best_linear(self, latent_size: int) -> LinearCode | None:
        """Find the PCA baseline with the lowest error that is no larger than a latent size.

        Args:
            latent_size: The largest number of values per image.

        Returns:
            The baseline; None if all are larger.
        """
        return find_best_linear(self.linear, latent_size)


def find_best_linear(linear: pd.DataFrame, latent_size: int) -> LinearCode | None:
    """Find the PCA baseline with the least error that is no larger than a latent size.

    Args:
        linear: The PCA baselines: `baseline`, `latent_size`, `val_mse`, `test_mse`.
        latent_size: The largest number of values per image.

    Returns:
        The baseline; None if all are larger.
    """
    errors = np.where(linear["latent_size"] <= latent_size, linear["val_mse"], np.inf)
    if not np.isfinite(errors).any():
        return None
    best = linear.iloc[errors.argmin()]
    name, size = str(best["baseline"]), int(best["latent_size"])
    return LinearCode(name, size, float(best["val_mse"]), float(best["test_mse"]))


def compute_latent_error(trials: pd.DataFrame, baselines: pd.DataFrame | None) -> LatentError:
    """Compute the numbers of the figure "latent size against validation error".

    Args:
        trials: Trials in any state.
        baselines: Rows of `baselines.parquet`; None if there are none yet.
    """
    points = select_ended(trials).filter(POINT_COLUMNS).reset_index(drop=True)
    points = points.astype({"trial_number": int, "latent_size": int, "val_mse": float})
    is_on_frontier = find_frontier(points[FRONT_COLUMNS].to_dict("records"))  # type: ignore[arg-type]
    points["on_frontier"] = points["trial_number"].map(is_on_frontier).astype(bool)
    data = LatentError(points, *split_codes_and_levels(baselines), summarise_seeds(trials))
    codes = {size: data.find_best_linear(size) for size in points["latent_size"].unique().tolist()}
    errors = {size: math.nan if code is None else code.val_mse for size, code in codes.items()}
    points["linear_mse"] = points["latent_size"].map(errors).astype(float)
    return data


def summarise_seeds(trials: pd.DataFrame) -> pd.DataFrame:
    """Summarise the errors of each configuration that is complete with several seeds.

    Args:
        trials: Trials in any state.

    Returns:
        One row per configuration: `latent_size`, `n` seeds, and `mean`, `low`, `high` of the error.
    """
    ended = select_ended(trials)
    complete = ended[ended["state"] == COMPLETE]
    errors = complete.astype({"val_mse": float}).groupby("config", sort=False, observed=True)
    rows = errors.agg(
        latent_size=("latent_size", "first"),
        n=("seed", "nunique"),
        mean=("val_mse", "mean"),
        low=("val_mse", "min"),
        high=("val_mse", "max"),
    )
    return rows[rows["n"] > 1].reset_index(drop=True)


def split_codes_and_levels(baselines: pd.DataFrame | None) -> tuple[pd.DataFrame, dict[str, float]]:
    """Split baselines into PCA of various sizes and baselines without a latent.

    Args:
        baselines: Rows of `baselines.parquet`; None if there are none yet.

    Returns:
        The PCA baselines (`baseline`, `latent_size`, `val_mse`, `test_mse`), and the validation
        error of each other baseline, lowest first. Such an error may be 0.
    """
    if baselines is None:
        baselines = pd.DataFrame({"baseline": [], "latent_size": [], "val_mse": [], "test_mse": []})
    coded = baselines["latent_size"].notna()
    is_linear = coded & baselines["baseline"].astype(str).str.startswith("pca")
    kinds = {"baseline": str, "latent_size": int, "val_mse": float, "test_mse": float}
    baselines = baselines.assign(
        test_mse=baselines["test_mse"].astype("Float64").to_numpy(float, na_value=math.nan)
    )
    linear = baselines.loc[is_linear, list(kinds)].astype(kinds)
    levels = baselines[~coded].sort_values("val_mse")
    return linear.sort_values(["baseline", "latent_size"], ignore_index=True), {
        str(baseline): float(val_mse)
        for baseline, val_mse in zip(levels["baseline"], levels["val_mse"], strict=True)
    }


def measure_against_linear(row: Row, latent: LatentError) -> dict[str, str]:
    """Compare the errors of a trial with those of PCA.

    Args:
        row: A trial.
        latent: The PCA baselines.

    Returns:
        `linear` and `linear_test`: the errors divided by those of the best PCA of the same size or
        smaller, for validation and test images; `linear_size`: the smallest latent size with which
        a PCA has no higher validation error. All are text; `–` where there is none.
    """
    sizes = latent.linear.loc[latent.linear["val_mse"] <= row["val_mse"], "latent_size"]
    size = "–" if sizes.empty else f"{sizes.min():,}"
    code = latent.find_best_linear(row["latent_size"])
    if code is None or code.val_mse <= EXACT:
        return {"linear": "–", "linear_test": "–", "linear_size": size}
    has_test = row["test_mse"] is not None and code.test_mse > EXACT
    return {
        "linear_size": size,
        "linear": format_ratio(row["val_mse"] / code.val_mse),
        "linear_test": format_ratio(row["test_mse"] / code.test_mse) if has_test else "–",
    }
