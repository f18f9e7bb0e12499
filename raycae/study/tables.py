"""The two tables of a study, `trials.parquet` and `epochs.parquet`, and how to read them.

Both are derived from the ledger: `Records` folds its events, one by one, into one row a trial and
one row an epoch. Whoever wants to know how a study stands (the live view, the sampler after a
restart, the tables) asks a `Records`.
"""

from __future__ import annotations

import pandas as pd
import pyarrow as pa

from raycae.config import parse_config
from raycae.errors import InputError
from raycae.model.architecture import Infeasible, build_architecture
from raycae.storage import parquet
from raycae.storage.paths import Place
from raycae.study.records import EPOCH_COLUMNS, STATES, TRIAL_COLUMNS

MOST_ERROR = 3.5e38
"""Networks compute in float32."""
BASELINE_COLUMNS: dict[str, pa.DataType] = {
    "data_fingerprint": pa.string(),
    "baseline": pa.string(),
    "latent_size": pa.int64(),
    "val_mse": pa.float64(),
    "test_mse": pa.float64(),
}
ALL, SAME, BEST, WORST = SHOWS = "all", "same", "best", "worst"
"""What a row of `pictures.parquet` is of: the mean over all test images; or one of the images that
are the same for every trial, of those with the least error, with the largest."""
MEASURES = (
    *("mse", "psnr_db", "ssim", "delta_e", "chroma_error", "hue_error"),
    *("colourfulness", "original_colourfulness"),
)
"""Of a trial's pictures, see `metrics`; `mse` is the task's loss."""
PICTURE_COLUMNS: dict[str, pa.DataType] = {
    "trial_number": pa.int64(),
    "shows": pa.string(),
    "image": pa.int64(),  # its place among the test images
    **dict.fromkeys(MEASURES, pa.float64()),
}
AMPLIFIED = 4
"""So many times the difference of output and original is drawn, around grey."""
_CREATED = (
    *("trial_number", "state", "config", "n_params"),
    *("latent_size", "latent_channels", "latent_height", "latent_width"),
)
"""What a row has from its first event on."""
LATER = ("change", "parent", "on_frontier", "epoch_time_s")
LATER_OF_EPOCHS = ("n_images",)
"""Columns that the first studies did not have."""


def read_trials(folder: Place) -> pd.DataFrame:
    """One row a trial, its newest state. Raises `InputError` where there is no such table, or its
    rows are no trials."""
    path = folder / "trials.parquet"
    trials = parquet.read_table(
        path, TRIAL_COLUMNS, filled=_CREATED, key=["trial_number"], later=LATER
    )
    check_errors(path, trials)
    scored = trials["val_mse"].notna()
    if trials.loc[scored, ["val_psnr_db", "epochs_run"]].isna().to_numpy().any():
        raise InputError(f"{path}: where val_mse is, val_psnr_db and epochs_run have to be")
    if (bad := trials.loc[trials["latent_size"] < 1, "latent_size"]).size:
        raise InputError(f"{path}: latent_size: {bad.iloc[0]} is not allowed; it is from 1 on")
    for number, state, config in zip(
        *(trials[name].tolist() for name in ("trial_number", "state", "config")), strict=True
    ):
        if state not in STATES:
            allowed = ", ".join(STATES)
            raise InputError(f"{path}: trial {number}: state: {state!r}; allowed: {allowed}")
        try:
            build_architecture(parse_config(config))
        except (InputError, Infeasible) as error:
            raise InputError(f"{path}: trial {number}: config: {error}") from None
    return trials


def read_epochs(folder: Place) -> pd.DataFrame:
    """One row an epoch. Raises `InputError` where there is no such table, or its rows are no
    epochs."""
    path, key = folder / "epochs.parquet", ["trial_number", "epoch"]
    epochs = parquet.read_table(path, EPOCH_COLUMNS, filled=key, key=key, later=LATER_OF_EPOCHS)
    check_errors(path, epochs)
    return epochs


def read_baselines(folder: Place, fingerprint: str | None = None) -> pd.DataFrame | None:
    """One row a baseline and its size, those measured on the images of `fingerprint` alone if it is
    given; None where no baselines were measured. Raises `InputError` where there is something
    else."""
    path = folder / "baselines.parquet"
    if not path.exists():
        return None
    baselines = parquet.read_table(path, BASELINE_COLUMNS, filled=["baseline", "val_mse"])
    check_errors(path, baselines)
    if fingerprint is None:
        return baselines
    return baselines[baselines["data_fingerprint"] == fingerprint]


def read_pictures(folder: Place) -> pd.DataFrame | None:
    """One row a picture that was painted, and one for the mean of each trial over all test images;
    None where none were. Raises `InputError` where there is something else."""
    path = folder / "pictures.parquet"
    if not path.exists():
        return None
    key = ["trial_number", "shows", "image"]
    filled = ["trial_number", "shows", *MEASURES]
    told = parquet.read_table(path, PICTURE_COLUMNS, filled=filled, key=key)
    if (bad := told.loc[~told["shows"].isin(SHOWS), "shows"]).size:
        allowed = ", ".join(SHOWS)
        raise InputError(f"{path}: shows: {bad.iloc[0]!r} is not allowed; allowed: {allowed}")
    return told


def check_errors(path: Place, table: pd.DataFrame) -> None:
    errors = table["val_mse"].dropna()
    if (bad := errors[(errors < 0) | (errors > MOST_ERROR)]).size:
        raise InputError(
            f"{path}: val_mse: {bad.iloc[0]} is not allowed; it is from 0 to {MOST_ERROR:g}"
        )
