"""Trials as the report reads them: ranked, selected, counted, and as rows."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from functools import lru_cache
from typing import Any, NamedTuple, overload

import numpy as np
import pandas as pd

from raycae.storage.paths import Place
from raycae.study.find import find_best_trial
from raycae.study.lease import is_held
from raycae.study.records import COMPLETE, FAIL, PRUNED
from raycae.study.summary import SHOWN_STATES, name_states
from raycae.study.tables import check_config, read_pictures

COST_NAMES = {
    "latent_size": "latent size, numbers per image",
    "n_params": "parameters",
    "flops": "FLOPs per image, forward",
    "epoch_time_s": "time of an epoch, s",
}
BASELINES = {
    "pca": "PCA, whole image",
    "pca_4x4": "PCA, 4 × 4 blocks",
    "pca_8x8": "PCA, 8 × 8 blocks",
    "mean_colour": "mean colour",
    "grey_copy": "grey copy",
    "mean_chroma": "mean chroma",
    "luma_function": "best function of luma",
}


def get_baseline_name(baseline: str) -> str:
    """Name a baseline as the report shows it.

    Args:
        baseline: The name in `baselines.parquet`. A name that this version does not know is kept.
    """
    return BASELINES.get(baseline, baseline.replace("_", " "))


def add_config_columns(trials: pd.DataFrame) -> pd.DataFrame:
    """Add columns that follow from the configuration of each trial.

    Args:
        trials: Rows of `trials.parquet`.

    Returns:
        A copy with `network` (the layers as text), `latent_positions` (height times width of the
        latent), `optimizer`, `lr` and `batch_size`.
    """
    networks = [
        describe_network(number, config)
        for number, config in zip(trials["trial_number"], trials["config"], strict=True)
    ]
    columns = pd.DataFrame(networks, index=trials.index, columns=list(Network._fields))
    return trials.assign(**{str(name): columns[name] for name in columns})


class Network(NamedTuple):
    """What the report says of a configuration: the fields are those of `add_config_columns`."""

    network: str
    latent_positions: int
    optimizer: str
    lr: float
    batch_size: int


@lru_cache(maxsize=8192)
def describe_network(number: int, text: str) -> Network:
    """Parse the configuration of a trial and describe it.

    The result is cached. Without the cache, a call takes 0.2 ms of CPU (analysis/FINDINGS.md).

    Args:
        number: The trial, for the message.
        text: The configuration as JSON.

    Raises:
        InputError: It is not a configuration, or its layers do not fit.
    """
    config, architecture = check_config("trials.parquet", number, text)
    _, height, width = architecture.latent_shape
    return Network(
        str(architecture), height * width, config.optimizer, config.lr, config.batch_size
    )


def rank_trials(trials: pd.DataFrame) -> pd.DataFrame:
    """Sort trials by validation error, the best first.

    Args:
        trials: Trials in any state.

    Returns:
        All trials. Failed ones and those without an error come last. Ties are sorted by number.
    """
    errors, numbers = (
        trials[name].to_numpy(dtype=float, na_value=math.nan)
        for name in ("val_mse", "trial_number")
    )
    unscored = np.isnan(errors) | trials["state"].eq(FAIL).to_numpy(dtype=bool, na_value=False)
    # One selection: it copies every column, which takes longer than the sorting.
    return trials.iloc[np.lexsort((numbers, np.where(unscored, 0.0, errors), unscored))]


def thin_trials(trials: pd.DataFrame, most: int) -> pd.DataFrame:
    """Keep at most `most` trials: the first third of them from the top, the rest evenly spaced.

    Args:
        trials: Trials, the best first.
        most: The largest number of rows to keep.
    """
    if len(trials) <= most:
        return trials
    first = most // 3
    places = np.linspace(first, len(trials) - 1, most - first).round().astype(int)
    return trials.iloc[[*range(first), *places]]


def is_measured(errors: pd.Series[float]) -> pd.Series[bool]:
    """Mark the finite errors; an error of 0 is measured, too.

    Args:
        errors: Mean squared errors; missing values are allowed.
    """
    values = errors.to_numpy(dtype=float, na_value=math.nan)
    return pd.Series(np.isfinite(values) & (values >= 0), index=errors.index)


def select_ended(trials: pd.DataFrame) -> pd.DataFrame:
    """Select the trials with a measured error, complete or stopped early.

    Args:
        trials: Trials in any state.
    """
    return trials[trials["state"].isin([COMPLETE, PRUNED]) & is_measured(trials["val_mse"])]


def select_distinct(trials: pd.DataFrame) -> pd.DataFrame:
    """Select the first trial of each configuration with a measured error.

    A repeat with another seed is no further evidence about the settings.

    Args:
        trials: Trials in any state.
    """
    return select_ended(trials).sort_values("trial_number").drop_duplicates("config")


Row = dict[str, Any]
"""One trial; what the table lacks is None."""


def count_states(trials: pd.DataFrame) -> dict[str, int]:
    """Count the trials in each state as people read it; states that do not occur are left out.

    Args:
        trials: Trials in any state.
    """
    counts = trials["shown_state"].value_counts()
    return {state: int(counts[state]) for state in SHOWN_STATES if state in counts}


def list_shown_states(trials: pd.DataFrame, folder: Place) -> list[str]:
    """List the states of trials as people read them; see `name_states`.

    Args:
        trials: Rows of `trials.parquet`.
        folder: The folder of the study.
    """
    return name_states(trials["state"], trials["reason"].fillna(""), is_held(folder))


def list_values(column: pd.Series[Any]) -> list[Any]:
    """List the values of a column as Python objects, with None where a value is missing.

    Args:
        column: A column of any type.
    """
    values: np.ndarray = column.to_numpy(dtype=object, copy=True)
    values[column.isna().to_numpy()] = None
    listed: list[Any] = values.tolist()
    return listed


class RankedRows(Sequence[Row]):
    """The trials of a study as rows, the best first.

    A row is made when it is first asked for: 20,000 of them with their networks would take 10 s.

    Args:
        trials: Rows of `trials.parquet`.
    """

    def __init__(self, trials: pd.DataFrame) -> None:
        self._trials = rank_trials(trials)
        numbers = self._trials["trial_number"].tolist()
        self._places = {number: place for place, number in enumerate(numbers)}
        self._rows: dict[int, Row] = {}

    def __len__(self) -> int:
        return len(self._trials)

    @overload
    def __getitem__(self, index: int) -> Row: ...

    @overload
    def __getitem__(self, index: slice) -> list[Row]: ...

    def __getitem__(self, index: int | slice) -> Row | list[Row]:
        if isinstance(index, slice):
            return list_rows(add_config_columns(self._trials.iloc[index]))
        if not -len(self) <= index < len(self):
            raise IndexError(index)
        place = index % len(self)
        return self[place : place + 1][0]

    def select(self, numbers: Iterable[int]) -> dict[int, Row]:
        """Return the rows of some trials by number, the best first.

        Args:
            numbers: The trials; others than those of the study are left out.
        """
        chosen = sorted({*numbers} & self._places.keys(), key=self._places.__getitem__)
        if new := [number for number in chosen if number not in self._rows]:
            trials = self._trials.iloc[[self._places[number] for number in new]]
            rows = list_rows(add_config_columns(trials))
            self._rows |= zip(new, rows, strict=True)
        return {number: self._rows[number] for number in chosen}

    def find_point(self, name: str) -> Row | None:
        """Return the best trial of a named point of the space.

        Args:
            name: The name of the point.

        Returns:
            The row; None without such a trial.
        """
        named = self._trials["point"].eq(name).fillna(False).to_numpy(bool)
        numbers = self._trials.loc[named, "trial_number"].head(1)
        return next(iter(self.select(numbers).values()), None)


def list_rows(table: pd.DataFrame) -> list[Row]:
    """List the rows of a table as dictionaries, with None where a value is missing.

    Args:
        table: Any table; its columns become keys.
    """
    columns = {str(name): list_values(column) for name, column in table.items()}
    return [
        dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)
    ]


MOST_PICTURED = 6


def select_best_per_latent_size(trials: pd.DataFrame, strata: Iterable[int] | None) -> list[int]:
    """Select the trials that represent the latent sizes.

    Without latent-size bins this is the best trial of each latent size, if it is COMPLETE. With
    bins it is the trial of the Pareto front with the lowest error in each bin. The best trial of
    the study is always included.

    Args:
        trials: Trials in any state.
        strata: The upper bounds of the latent-size bins; None without bins.

    Returns:
        Trial numbers by latent size; empty without a COMPLETE trial.
    """
    best = find_best_trial(trials)
    if best is None:
        return []
    # To select rows takes a time for every column.
    trials = trials[["trial_number", "state", "val_mse", "latent_size", "on_frontier"]]
    ordered = rank_trials(trials.dropna(subset="val_mse"))
    if strata is None:
        first = ordered[ordered["state"].isin([COMPLETE, PRUNED])].drop_duplicates("latent_size")
        chosen = first[first["state"] == COMPLETE]
    else:
        front = ordered[ordered["on_frontier"].fillna(False).astype(bool)]
        within = front["latent_size"].map(
            lambda size: min((bound for bound in strata if bound >= size), default=None)
        )
        chosen = front[within.notna() & ~within.duplicated()]
    numbers = {*chosen["trial_number"], best}
    by_size = trials[trials["trial_number"].isin(numbers)].sort_values(["latent_size", "val_mse"])
    return [int(number) for number in by_size["trial_number"]]


def select_trials_to_picture(trials: pd.DataFrame, strata: Iterable[int] | None) -> list[int]:
    """Select the trials whose pictures the report shows.

    Args:
        trials: Trials in any state.
        strata: The upper bounds of the latent-size bins; None without bins.

    Returns:
        At most `MOST_PICTURED` numbers of `select_best_per_latent_size`, evenly from the smallest
        latent size to the largest; the best trial is included.
    """
    numbers = select_best_per_latent_size(trials, strata)
    best = find_best_trial(trials)
    if best is None or len(numbers) <= MOST_PICTURED:
        return numbers
    indices = {round(i * (len(numbers) - 1) / (MOST_PICTURED - 1)) for i in range(MOST_PICTURED)}
    best_index = numbers.index(best)
    indices.remove(min(indices, key=lambda index: abs(index - best_index)))
    return [numbers[index] for index in sorted({*indices, best_index})]


def list_trials_with_pictures(folder: Place) -> set[int]:
    """List the trials that have both picture sheets and their measurements.

    Older versions painted validation images and measured nothing; their sheets do not count.

    Args:
        folder: The folder of the study.
    """
    pictures = read_pictures(folder)
    numbers = () if pictures is None else map(int, pictures["trial_number"].unique())
    return {
        number
        for number in numbers
        if all(
            (folder / "pictures" / f"{number}{suffix}.png").exists() for suffix in ("", "-cases")
        )
    }


def format_latent_shape(row: Row) -> str:
    """Format the shape of a latent as channels × height × width.

    Args:
        row: A trial.
    """
    return " × ".join(str(row[f"latent_{side}"]) for side in ("channels", "height", "width"))
