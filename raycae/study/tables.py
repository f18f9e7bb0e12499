"""The two tables of a study, `trials.parquet` and `epochs.parquet`, and how to read them.

Both are derived from the ledger: `Records` folds its events into one row per trial and one row per
epoch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pyarrow as pa

from raycae.config import Config, parse_config
from raycae.errors import InputError
from raycae.model.architecture import Architecture, Infeasible, build_architecture
from raycae.storage import parquet
from raycae.storage.paths import Place
from raycae.study.records import EPOCH_COLUMNS, STATES, TRIAL_COLUMNS

if TYPE_CHECKING:
    import pandas as pd

MOST_ERROR = 3.5e38
"""The largest error that is accepted; networks compute in float32."""
BASELINE_COLUMNS: dict[str, pa.DataType] = {
    "data_fingerprint": pa.string(),
    "baseline": pa.string(),
    "latent_size": pa.int64(),
    "val_mse": pa.float64(),
    "test_mse": pa.float64(),
}
"""The columns of `baselines.parquet`."""
ALL, PCA, SAME, BEST, WORST = SHOWS = "all", "pca", "same", "best", "worst"
"""What a row of `pictures.parquet` shows: the mean over the measured test images, of the trial or
of the best PCA of the same size or smaller; or one image. It is the same for all trials, or one of
the trial's images with the lowest or the highest error. All test images are measured, or
`N_MEASURED` evenly spread ones if there are more."""
N_MEASURED = 1000
"""Maximum number of test images whose pictures are measured."""
MEASURES = (
    *("mse", "psnr_db", "ssim", "delta_e", "chroma_error", "hue_error"),
    *("colourfulness", "original_colourfulness"),
)
"""What is measured of a trial's pictures; see `metrics`. `mse` is the loss of the task."""
PICTURE_COLUMNS: dict[str, pa.DataType] = {
    "trial_number": pa.int64(),
    "shows": pa.string(),
    "image": pa.int64(),  # index among the test images
    **dict.fromkeys(MEASURES, pa.float64()),
}
"""The columns of `pictures.parquet`."""
AMPLIFIED = 4
"""Differences between output and original are drawn this many times larger, around grey."""
_CREATED = (
    *("trial_number", "state", "config", "n_params"),
    *("latent_size", "latent_channels", "latent_height", "latent_width"),
)
"""Columns that every row of `trials.parquet` fills."""
_CHECKED = (
    *("trial_number", "state", "config", "latent_size", "val_mse", "val_psnr_db", "epochs_run"),
)
"""Columns of `trials.parquet` whose values are checked."""
LATER = ("change", "parent", "on_frontier", "epoch_time_s")
"""Columns of `trials.parquet` that the first studies did not have."""
LATER_OF_EPOCHS = ("n_images",)
"""Columns of `epochs.parquet` that the first studies did not have."""


def read_trials(folder: Place, *, configs: bool = True) -> pd.DataFrame:
    """Read and check `trials.parquet`.

    Args:
        folder: Folder of the study.
        configs: Whether to check all configurations, see `check_config`. Without, the caller checks
            those that it uses.

    Returns:
        One row per trial, in its newest state.

    Raises:
        InputError: There is no such table, or its values are not allowed.
    """
    return parquet.to_frame(folder / "trials.parquet", read_trials_table(folder, configs=configs))


def read_trials_table(folder: Place, *, configs: bool = True) -> pa.Table:
    """Read and check `trials.parquet` without pandas.

    Args:
        folder: Folder of the study.
        configs: As in `read_trials`.

    Returns:
        One row per trial, in its newest state.

    Raises:
        InputError: There is no such table, or its values are not allowed.
    """
    path = folder / "trials.parquet"
    trials = parquet.read_table(
        path, TRIAL_COLUMNS, filled=_CREATED, key=["trial_number"], later=LATER
    )
    check_errors(path, trials)
    values = {name: trials[name].to_pylist() for name in _CHECKED}
    if any(
        not parquet.is_missing(error) and (parquet.is_missing(psnr_db) or n_epochs is None)
        for error, psnr_db, n_epochs in zip(
            values["val_mse"], values["val_psnr_db"], values["epochs_run"], strict=True
        )
    ):
        raise InputError(f"{path}: a row has val_mse but lacks val_psnr_db or epochs_run")
    if (least := min(values["latent_size"], default=1)) < 1:
        raise InputError(f"{path}: latent_size: {least} is not allowed; it must be at least 1")
    for number, state, config in zip(
        values["trial_number"], values["state"], values["config"], strict=True
    ):
        if state not in STATES:
            allowed = ", ".join(STATES)
            raise InputError(f"{path}: trial {number}: state: {state!r}; allowed: {allowed}")
        if configs:
            check_config(path, number, config)
    return trials


def check_config(path: Place | str, number: int, text: str) -> tuple[Config, Architecture]:
    """Parse the configuration of a trial.

    This takes 0.3 ms, so a page about 20,000 trials parses only those that it describes.

    Args:
        path: File of the table, for the message.
        number: The trial.
        text: The configuration as JSON.

    Returns:
        The configuration and its layers.

    Raises:
        InputError: It is not a configuration, or its layers do not fit.
    """
    try:
        config = parse_config(text)
        return config, build_architecture(config)
    except (InputError, Infeasible) as error:
        raise InputError(f"{path}: trial {number}: config: {error}") from None


def read_epochs(folder: Place) -> pd.DataFrame:
    """Read and check `epochs.parquet`.

    Args:
        folder: Folder of the study.

    Returns:
        One row per epoch.

    Raises:
        InputError: There is no such table, or its values are not allowed.
    """
    path, key = folder / "epochs.parquet", ["trial_number", "epoch"]
    epochs = parquet.read_table(path, EPOCH_COLUMNS, filled=key, key=key, later=LATER_OF_EPOCHS)
    check_errors(path, epochs)
    return parquet.to_frame(path, epochs)


def read_baselines(folder: Place, fingerprint: str | None = None) -> pd.DataFrame | None:
    """Read and check `baselines.parquet`.

    Args:
        folder: Folder of the study.
        fingerprint: Fingerprint of the images whose baselines are wanted; None for all.

    Returns:
        One row per baseline and latent size, or None if no baselines were measured.

    Raises:
        InputError: The table cannot be read, or its values are not allowed.
    """
    path = folder / "baselines.parquet"
    if not path.exists():
        return None
    table = parquet.read_table(path, BASELINE_COLUMNS, filled=["baseline", "val_mse"])
    check_errors(path, table)
    baselines = parquet.to_frame(path, table)
    # Until 2026-11-30, PCA was called linear. The file is not changed.
    names = baselines["baseline"].str.replace("^linear", "pca", regex=True)
    baselines = baselines.assign(baseline=names)
    if fingerprint is None:
        return baselines
    return baselines[baselines["data_fingerprint"] == fingerprint]


def read_pictures(folder: Place) -> pd.DataFrame | None:
    """Read and check `pictures.parquet`.

    Args:
        folder: Folder of the study.

    Returns:
        One row per picture, and one per trial for the mean over its test images. None if there are
        no pictures.

    Raises:
        InputError: The table cannot be read, or its values are not allowed.
    """
    path = folder / "pictures.parquet"
    if not path.exists():
        return None
    key = ["trial_number", "shows", "image"]
    filled = ["trial_number", "shows", *MEASURES]
    pictures = parquet.read_frame(path, PICTURE_COLUMNS, filled=filled, key=key)
    if (bad := pictures.loc[~pictures["shows"].isin(SHOWS), "shows"]).size:
        allowed = ", ".join(SHOWS)
        raise InputError(f"{path}: shows: {bad.iloc[0]!r} is not allowed; allowed: {allowed}")
    return pictures


def check_errors(path: Place, table: pa.Table) -> None:
    """Check the range of the validation errors in a table.

    Args:
        path: File of the table, for the message.
        table: Its content.

    Raises:
        InputError: An error is negative or too large.
    """
    errors = [e for e in table["val_mse"].to_pylist() if not parquet.is_missing(e)]
    if bad := [error for error in errors if not 0 <= error <= MOST_ERROR]:
        raise InputError(
            f"{path}: val_mse: {bad[0]} is not allowed; it must be from 0 to {MOST_ERROR:g}"
        )
