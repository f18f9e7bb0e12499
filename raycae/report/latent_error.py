"""Error against latent size: the trials, the Pareto front and the PCA baselines."""

from __future__ import annotations

import math
from dataclasses import dataclass

import pandas as pd

from raycae.formatting import format_ratio
from raycae.optimization.frontier import find_frontier
from raycae.report.plotting import EXACT
from raycae.report.trials import Row, select_ended
from raycae.study.records import COMPLETE

POINT_COLUMNS = [
    *("trial_number", "state", "point", "latent_size", "val_mse", "val_psnr_db"),
    *("network", "optimizer", "lr", "batch_size"),
]


@dataclass(frozen=True)
class LinearCode:
    """A PCA baseline: its name, numbers per image, and errors."""

    baseline: str
    latent_size: int
    val_mse: float
    test_mse: float


@dataclass(frozen=True)
class LatentError:
    """What a latent size costs.

    `points`: one row a trial that ended with an error (complete or stopped early), `POINT_COLUMNS`
    and `on_frontier`, `linear_mse` (see `best_linear`; NaN where there is none).
    `linear`: `baseline`, `latent_size`, `val_mse`, `test_mse` of the PCA baselines.
    `levels`: the error of each baseline without a latent, lowest first; 0 is an error, too.
    `seeds`: one row a configuration that ran to its end with several seeds: `latent_size`, `n`,
    `mean`, `low`, `high` of its errors.
    """

    points: pd.DataFrame
    linear: pd.DataFrame
    levels: dict[str, float]
    seeds: pd.DataFrame

    @property
    def frontier(self) -> pd.DataFrame:
        """The points that no other beats, from the smallest latent size to the largest; of several
        equal ones the first trial."""
        on = self.points[self.points["on_frontier"]].sort_values(["latent_size", "trial_number"])
        return on.drop_duplicates("latent_size")

    @property
    def psnr_frontier(self) -> pd.DataFrame:
        """The Pareto front by PSNR: the points that no other beats in latent size and mean PSNR of
        an image. It need not be that by MSE, for the mean of PSNRs is not the PSNR of the mean."""
        rows = self.points.assign(val_mse=-self.points["val_psnr_db"].astype(float))
        on = find_frontier(rows.to_dict("records"))  # type: ignore[arg-type]
        rows = self.points[self.points["trial_number"].map(on).astype(bool)]
        rows = rows.sort_values(["latent_size", "trial_number"])
        return rows.drop_duplicates("latent_size")

    def best_linear(self, latent_size: int) -> LinearCode | None:
        """The PCA baseline with the least error among those of at most `latent_size` numbers."""
        short = self.linear[self.linear["latent_size"] <= latent_size]
        if short.empty:
            return None
        best = short.sort_values("val_mse", kind="stable").iloc[0]
        errors = (float(best["val_mse"]), float(best["test_mse"]))
        return LinearCode(str(best["baseline"]), int(best["latent_size"]), *errors)


def compute_latent_error(trials: pd.DataFrame, baselines: pd.DataFrame | None) -> LatentError:
    """The numbers of "latent size against validation error".

    `trials`: rows as `described` gives them. `baselines`: `baseline`, `latent_size` (null: there is
    no latent), `val_mse`; None where there are none yet.
    """
    points = select_ended(trials).filter(POINT_COLUMNS).reset_index(drop=True)
    points = points.astype({"trial_number": int, "latent_size": int, "val_mse": float})
    on = find_frontier(points.to_dict("records"))  # type: ignore[arg-type]
    points["on_frontier"] = points["trial_number"].map(on).astype(bool)
    data = LatentError(points, *split_codes_and_levels(baselines), summarise_seeds(trials))
    codes = {size: data.best_linear(size) for size in points["latent_size"].unique().tolist()}
    errors = {size: math.nan if code is None else code.val_mse for size, code in codes.items()}
    points["linear_mse"] = points["latent_size"].map(errors).astype(float)
    return data


def summarise_seeds(trials: pd.DataFrame) -> pd.DataFrame:
    ended = select_ended(trials)
    complete = ended[ended["state"] == COMPLETE]
    errors = complete.astype({"val_mse": float}).groupby("config", sort=False)
    rows = errors.agg(
        latent_size=("latent_size", "first"),
        n=("seed", "nunique"),
        mean=("val_mse", "mean"),
        low=("val_mse", "min"),
        high=("val_mse", "max"),
    )
    return rows[rows["n"] > 1].reset_index(drop=True)


def split_codes_and_levels(baselines: pd.DataFrame | None) -> tuple[pd.DataFrame, dict[str, float]]:
    """Return PCA baselines by size, and the levels: the baselines without a latent. A level may be
    0: pictures without colour leave no error to colourisation."""
    if baselines is None:
        baselines = pd.DataFrame({"baseline": [], "latent_size": [], "val_mse": [], "test_mse": []})
    coded = baselines["latent_size"].notna()
    is_linear = coded & baselines["baseline"].astype(str).str.startswith("linear")
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


def divide_by_linear(row: Row, latent: LatentError) -> dict[str, str]:
    code = latent.best_linear(row["latent_size"])
    if code is None or code.val_mse <= EXACT:
        return {"linear": "–", "linear_test": "–"}
    has_test = row["test_mse"] is not None and code.test_mse > EXACT
    return {
        "linear": format_ratio(row["val_mse"] / code.val_mse),
        "linear_test": format_ratio(row["test_mse"] / code.test_mse) if has_test else "–",
    }
