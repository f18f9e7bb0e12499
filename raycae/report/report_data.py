"""Everything that the sections of a report read from a study."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import pandas as pd

from raycae.errors import InputError
from raycae.report.architecture_drawing import Drawing, draw_architecture
from raycae.report.latent_error import LatentError, compute_latent_error
from raycae.report.sampled_values import Parameters
from raycae.report.trials import (
    RankedRows,
    Row,
    list_shown_states,
    list_trials_with_pictures,
    select_trials_to_picture,
)
from raycae.space import loading
from raycae.storage.paths import Place
from raycae.study import tables
from raycae.study.find import find_best_trial
from raycae.study.plan import read_plan_facts, read_study
from raycae.study.records import Records


@dataclass(frozen=True)
class ReportData:
    """A study as the sections of its report read it.

    Attributes:
        folder: The folder of the study.
        study: The content of `study.json`.
        plan: The plan of the study, with a value for every field.
        trials: One row per trial: the columns of `trials.parquet`; `latent_positions`, height times
            width of the latent; `n_settings`, the number of trials with the same network; and
            `shown_state`, the state as people read it, which may be INTERRUPTED.
        epochs: The content of `epochs.parquet`.
        parameters: The searched parameters by name.
        latent: Error against latent size.
        pictures: The content of `pictures.parquet`; None without it.
    """

    folder: Place
    study: dict[str, Any]
    plan: dict[str, Any]
    trials: pd.DataFrame
    epochs: pd.DataFrame
    parameters: Parameters
    latent: LatentError
    pictures: pd.DataFrame | None

    @cached_property
    def ranked(self) -> RankedRows:
        """The trials as rows, the best first."""
        return RankedRows(self.trials)

    @cached_property
    def best(self) -> Row | None:
        """The complete trial with the lowest validation error; None without a complete trial."""
        number = find_best_trial(self.trials)
        return None if number is None else self.ranked.select([number])[number]

    @cached_property
    def pictured(self) -> list[int]:
        """The numbers of the trials whose pictures the report shows, by latent size."""
        return select_trials_to_picture(self.trials, self.plan["strata"])

    def draw_network(self, number: int) -> Drawing:
        """Draw the network of a trial.

        Args:
            number: The trial.
        """
        (config,) = self.trials.loc[self.trials["trial_number"] == number, "config"]
        _, architecture = tables.check_config("trials.parquet", number, config)
        return draw_architecture(architecture)

    @property
    def image_size(self) -> int | None:
        """Side of the images in pixels; None without a trial."""
        for number, config in (
            self.trials[["trial_number", "config"]].head(1).itertuples(index=False)
        ):
            return tables.check_config("trials.parquet", number, config)[0].image_size
        return None

    @property
    def task(self) -> str:
        """The task, `reconstruct` or `colourise`."""
        return str(self.study["task"])

    @property
    def cost(self) -> str:
        """The column of `trials` that the Pareto front of the study weighs against the error."""
        return str(self.plan["cost"])

    @property
    def is_frontier(self) -> bool:
        """Whether the search optimised the Pareto front."""
        return bool(self.plan["objective"] == "frontier")

    @property
    def command(self) -> str:
        """The command that writes this report again."""
        return f"raycae report {shlex.quote(self.study['study'])}"


def read_report_data(folder: Place) -> ReportData:
    """Read a study.

    Args:
        folder: The folder of the study.

    Raises:
        InputError: The folder holds no readable study.
    """
    study = read_study(folder)
    parameters = load_parameters(study)
    trials, epochs = read_tables(folder)
    # As categories: a copy of 20,000 configurations as text takes 20 MB, and there are many.
    trials = trials.astype({"config": "category"})
    same_network = trials.groupby("arch_hash")["trial_number"]
    trials = trials.assign(
        latent_positions=(trials["latent_height"] * trials["latent_width"]).astype(int),
        n_settings=same_network.transform("count"),
        shown_state=list_shown_states(trials, folder),
    )
    baselines = tables.read_baselines(folder, study["data"]["fingerprint"])
    return ReportData(
        folder=folder,
        study=study,
        plan=read_plan_facts(study),
        trials=trials,
        epochs=epochs,
        parameters=parameters,
        latent=compute_latent_error(trials, baselines),
        pictures=tables.read_pictures(folder),
    )


def load_parameters(study: Mapping[str, Any]) -> Parameters:
    """Parse the searched parameters from the content of a `study.json`.

    Returns:
        The parameters by name. Empty if this version cannot read the search space: the report then
        shows everything else.
    """
    try:
        return loading.parse_space(study["space"]["text"], name=study["space"]["name"]).parameters
    except InputError:
        return {}


def lacks_pictures_or_baselines(folder: Place) -> bool:
    """Check whether a study lacks pictures of its best trials or baselines of its images.

    Args:
        folder: The folder of the study.
    """
    study = read_study(folder)
    trials = read_trials_so_far(folder)
    pictured = select_trials_to_picture(trials, read_plan_facts(study)["strata"])
    if not pictured:
        return False
    baselines = tables.read_baselines(folder, study["data"]["fingerprint"])
    unpainted = set(pictured) - list_trials_with_pictures(folder)
    return bool(unpainted) or baselines is None or baselines.empty


def read_tables(folder: Place) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Read `trials.parquet` and `epochs.parquet`.

    Args:
        folder: The folder of the study.

    Returns:
        Both tables; empty ones if the search ended before its first trial.
    """
    trials = read_trials_so_far(folder)
    if not (folder / "trials.parquet").exists():
        return trials, Records().epochs_table().to_pandas()
    return trials, tables.read_epochs(folder)


def read_trials_so_far(folder: Place) -> pd.DataFrame:
    """Read `trials.parquet`; its configurations are checked when they are described.

    Args:
        folder: The folder of the study.

    Returns:
        The table; an empty one if the search ended before its first trial.
    """
    if not (folder / "trials.parquet").exists():
        return Records().trials_table().to_pandas()
    return tables.read_trials(folder, configs=False)
