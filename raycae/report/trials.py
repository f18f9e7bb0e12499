"""The figures of a report, each in two steps: numbers first, a plotly figure second.

The first step is where something can be wrong, and is tested on its numbers; the second only
draws. Every error is the task's mean squared error, on values from 0 to 1.

Plotly reads a little HTML in every text, so what comes from files is escaped before it gets there.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import numpy as np
import pandas as pd

from raycae.config import Config
from raycae.model.architecture import build_architecture
from raycae.storage.paths import Place
from raycae.study.find import find_best_trial
from raycae.study.records import COMPLETE, FAIL, PRUNED, STATES
from raycae.study.tables import read_pictures

COST_NAMES = {
    "latent_size": "latent size, numbers per image",
    "n_params": "parameters",
    "flops": "FLOPs an image, forward",
    "epoch_time_s": "time of an epoch, s",
}
BASELINES = {
    "linear": "PCA, whole image",
    "linear_4x4": "PCA, 4 × 4 blocks",
    "linear_8x8": "PCA, 8 × 8 blocks",
    "mean_colour": "mean colour",
    "grey_copy": "grey copy",
    "mean_chroma": "mean chroma",
    "luma_function": "best function of luma",
}


def get_baseline_name(baseline: str) -> str:
    """In words; a baseline that this version does not know keeps its own name."""
    return BASELINES.get(baseline, baseline.replace("_", " "))


def add_config_columns(trials: pd.DataFrame) -> pd.DataFrame:
    """`trials` with what their configurations say: `network` (in words),
    `latent_positions` (height × width), `optimizer`, `lr`, `batch_size`."""
    configs = [Config.model_validate_json(text) for text in trials["config"]]
    nets = [build_architecture(config) for config in configs]
    return trials.assign(
        network=list(map(str, nets)),
        latent_positions=[net.latent_shape[1] * net.latent_shape[2] for net in nets],
        optimizer=[config.optimizer for config in configs],
        lr=[config.lr for config in configs],
        batch_size=[config.batch_size for config in configs],
    )


def rank_trials(trials: pd.DataFrame) -> pd.DataFrame:
    """Best first; those that failed or have no error yet come last, by their numbers."""
    scored = trials["val_mse"].notna() & trials["state"].ne(FAIL)
    best_first = trials[scored].sort_values(["val_mse", "trial_number"])
    return pd.concat([best_first, trials[~scored].sort_values("trial_number")])


def thin_trials(trials: pd.DataFrame, most: int) -> pd.DataFrame:
    """At most `most` rows: a third of them the first, the others taken evenly from the rest, in
    their order. For trials from the best to the worst: the best are looked at most."""
    if len(trials) <= most:
        return trials
    first = most // 3
    places = np.linspace(first, len(trials) - 1, most - first).round().astype(int)
    return trials.iloc[[*range(first), *places]]


def is_measured(errors: pd.Series[float]) -> pd.Series[bool]:
    """True where there is a finite error; 0 is a measured error."""
    values = errors.to_numpy(dtype=float, na_value=math.nan)
    return pd.Series(np.isfinite(values) & (values >= 0), index=errors.index)


def select_ended(trials: pd.DataFrame) -> pd.DataFrame:
    """The trials that ended with an error, complete or stopped early; 0 is an error, too."""
    return trials[trials["state"].isin([COMPLETE, PRUNED]) & is_measured(trials["val_mse"])]


def select_distinct(trials: pd.DataFrame) -> pd.DataFrame:
    """Select the first trial of each configuration that ended with an error.

    Another seed of a configuration repeats it; it is no further evidence about its settings.
    """
    return select_ended(trials).sort_values("trial_number").drop_duplicates("config")


Row = dict[str, Any]
"""One trial; what the table lacks is None."""


def count_states(trials: pd.DataFrame) -> dict[str, int]:
    """How many trials are in each state, those states only that occur."""
    counts = trials["state"].value_counts()
    return {state: int(counts[state]) for state in STATES if state in counts}


def list_rows(table: pd.DataFrame) -> list[Row]:
    """A table's rows."""
    plain = table.astype(object).where(table.notna(), None)
    return [{str(name): value for name, value in row.items()} for row in plain.to_dict("records")]


MOST_PICTURED = 6


def select_best_per_latent_size(trials: pd.DataFrame, strata: Iterable[int] | None) -> list[int]:
    """The trials that stand for their latent size, by latent size: the best one of each if it is
    COMPLETE; of a frontier with `strata` the one of it with the least error in each. The best trial
    is among them. None without a COMPLETE trial."""
    best = find_best_trial(trials)
    if best is None:
        return []
    ordered = trials.sort_values(["val_mse", "trial_number"]).dropna(subset="val_mse")
    if strata is None:
        first = ordered[ordered["state"].isin([COMPLETE, PRUNED])].drop_duplicates("latent_size")
        chosen = first[first["state"] == COMPLETE]
    else:
        on = ordered[ordered["on_frontier"].fillna(False).astype(bool)]
        within = on["latent_size"].map(
            lambda size: min((bound for bound in strata if bound >= size), default=None)
        )
        chosen = on[within.notna() & ~within.duplicated()]
    numbers = {*chosen["trial_number"], best}
    by_size = trials[trials["trial_number"].isin(numbers)].sort_values(["latent_size", "val_mse"])
    return [int(number) for number in by_size["trial_number"]]


def select_trials_to_picture(trials: pd.DataFrame, strata: Iterable[int] | None) -> list[int]:
    """The trials whose pictures the report shows: `MOST_PICTURED` of `select_best_per_latent_size`,
    evenly from the smallest latent to the largest, with the best among them."""
    numbers = select_best_per_latent_size(trials, strata)
    best = find_best_trial(trials)
    if best is None or len(numbers) <= MOST_PICTURED:
        return numbers
    places = {round(i * (len(numbers) - 1) / (MOST_PICTURED - 1)) for i in range(MOST_PICTURED)}
    own = numbers.index(best)
    places.remove(min(places, key=lambda place: abs(place - own)))
    return [numbers[place] for place in sorted({*places, own})]


def list_trials_with_pictures(folder: Place) -> set[int]:
    """The trials whose sheets are there, with what was measured of them. (Older versions painted
    validation images, and measured nothing.)"""
    told = read_pictures(folder)
    numbers = () if told is None else map(int, told["trial_number"].unique())
    return {
        number
        for number in numbers
        if all((folder / "pictures" / f"{number}{of}.png").exists() for of in ("", "-cases"))
    }


def format_latent_shape(row: Row) -> str:
    """Channels × height × width."""
    return " × ".join(str(row[f"latent_{side}"]) for side in ("channels", "height", "width"))
