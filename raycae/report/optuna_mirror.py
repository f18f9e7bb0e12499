"""A study as an in-memory Optuna study that follows the ledger."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable
from datetime import datetime
from typing import Any

import optuna
import pandas as pd
from optuna.storages import InMemoryStorage
from optuna.trial import FrozenTrial, TrialState

from raycae.config import Config
from raycae.model.architecture import build_architecture
from raycae.storage.paths import Place
from raycae.study import ledger, recovery, tables
from raycae.study.ledger import Event, Follower
from raycae.study.plan import load_plan, load_study_space, read_content
from raycae.study.records import FAIL, RUNNING, Records

optuna.logging.set_verbosity(optuna.logging.ERROR)  # The dashboard prints its address only.

ATTRIBUTES = (
    *("trial_number", "state", "reason", "point", "change"),
    *("latent_size", "latent_channels", "latent_height", "latent_width", "n_params", "flops"),
    *("val_mse", "val_psnr_db", "test_mse", "best_epoch", "epochs_run"),
)
"""Columns of the trials that are shown as attributes; `network` says the architecture in words."""


class OptunaMirror:
    """An in-memory Optuna study that follows a study on disk.

    It has the name of the study and minimises `val_mse`; if the study optimises a Pareto front,
    also the cost. `follow` brings it up to date. A trial that has ended does not change any more,
    so a test error that is measured later is missing until the dashboard is started again.

    Args:
        folder: The folder of the study.

    Raises:
        InputError: The folder holds no readable study.
    """

    def __init__(self, folder: Place) -> None:
        content = read_content(folder)
        plan = load_plan(content)
        self._folder, self._space = folder, load_study_space(content)
        self._fingerprint = content["data"]["fingerprint"]
        self._cost = plan.cost if plan.objective == "frontier" else None
        self._records = Records(plan.study, content["data"].get("n_train"), plan.cost)
        self._events = make_event_source(folder)
        self._shown: dict[int, int] = {}
        """Optuna's id of each trial."""
        self._importances: tuple[int, list[list[dict[str, Any]]]] | None = None
        """How many trials had ended, and what `importances` gave then."""
        self.study = optuna.create_study(
            storage=InMemoryStorage(),
            study_name=folder.name,
            directions=["minimize"] * (2 if self._cost else 1),
        )
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            self.study.set_metric_names(["val_mse", *([self._cost] if self._cost else [])])

    def follow(self) -> None:
        """Apply the events since the last call."""
        happened = [event for event in self._events() if event["trial_number"] is not None]
        for event in happened:
            self._records.apply(event)
        for number in dict.fromkeys(event["trial_number"] for event in happened):
            if number in self._records.trials:
                self._show(number)
        if any(event["event"] in ("ended", "evaluated") for event in happened):
            self._draw()

    def _show(self, number: int) -> None:
        """Add a trial to the Optuna study, or update it there."""
        storage = self.study._storage
        trial = self._make_frozen_trial(number)
        if number not in self._shown:
            trial_id = storage.create_new_trial(self.study._study_id, template_trial=trial)
            self._shown[number] = trial_id
            return
        trial_id = self._shown[number]
        if storage.get_trial(trial_id).state.is_finished():
            return
        for epoch, error in trial.intermediate_values.items():
            storage.set_trial_intermediate_value(trial_id, epoch, error)
        for name, value in trial.user_attrs.items():
            storage.set_trial_user_attr(trial_id, name, value)
        if trial.state.is_finished():
            storage.set_trial_state_values(trial_id, trial.state, trial.values)

    def _make_frozen_trial(self, number: int) -> FrozenTrial:
        """Make the Optuna trial of a trial of the study."""
        row = self._records.trials[number]
        config = Config.model_validate_json(row["config"])
        params = self._space.params_of(config)
        values = None
        if row["state"] not in (RUNNING, FAIL):
            values = [row["val_mse"], *([row[self._cost]] if self._cost else [])]
        attributes = {name: row[name] for name in ATTRIBUTES if row[name] is not None}
        trial = optuna.trial.create_trial(
            state=TrialState[row["state"]],
            values=values,
            params=params,
            distributions={name: self._space.parameters[name].distribution for name in params},
            user_attrs={**attributes, "network": str(build_architecture(config))},
            intermediate_values={
                epoch: measured["val_mse"]
                for epoch, measured in self._records.epochs[number].items()
            },
        )
        trial.datetime_start = to_local_time(row["started_at"])
        if trial.state.is_finished():
            trial.datetime_complete = to_local_time(row["ended_at"])
        return trial

    def get_importances(self) -> list[list[dict[str, Any]]]:
        """Return the importance of the parameters as optuna-dashboard's page takes it.

        Returns:
            One list an objective, each parameter with `name`, `importance` (its share, as in the
            report), and `distribution`; empty where the report ranks no parameters.
        """
        n_ended = self._records.n_ended()
        if self._importances is None or self._importances[0] != n_ended:
            self._importances = n_ended, self._compute_importances()
        return self._importances[1]

    def _compute_importances(self) -> list[list[dict[str, Any]]]:
        from raycae.report.sections import importance

        trials, parameters = self._make_trials_table(), self._space.parameters
        found = []
        for target in ("val_mse", *([self._cost] if self._cost else [])):
            cost = self._cost if target == "val_mse" else None
            weights = importance.compute_importance(trials, parameters, target, cost)
            kinds = [type(parameters[name].distribution).__name__ for name in weights["parameter"]]
            rows = zip(weights["parameter"], weights["share"], kinds, strict=True)
            names = ("name", "importance", "distribution")
            found.append([dict(zip(names, row, strict=True)) for row in rows])
        return found

    def _make_trials_table(self) -> pd.DataFrame:
        """Make the table of trials with drawn parameters, which recorded events lack."""
        trials = self._records.trials_table().to_pandas()
        drawn = {t.user_attrs["trial_number"]: t.params for t in self.study.get_trials(False)}
        params = {
            f"params_{name}": pd.Series(
                [drawn[number].get(name) for number in trials["trial_number"]], dtype=object
            )
            for name in self._space.parameters
        }
        return trials.assign(**params)

    def _draw(self) -> None:
        """Save the figure of error against latent size or cost, and a note on importance."""
        import optuna_dashboard

        from raycae.report import latent_error
        from raycae.report.sections import cost, importance, latent_size
        from raycae.report.trials import select_ended

        trials = self._make_trials_table()
        weights = importance.compute_importance(trials, self._space.parameters, cost=self._cost)
        n = len(importance.select_weighed(trials))
        sentence = importance.describe_importance(weights, n, self._cost)
        optuna_dashboard.save_note(
            self.study,
            f"{sentence}\n\nHyperparameter importance is computed as in the report of raycae "
            "(PED-ANOVA of the trials with a measured error), not as Optuna does by default.",
        )
        if select_ended(trials).empty:
            return
        if self._cost in (None, "latent_size"):
            lines = tables.read_baselines(self._folder, self._fingerprint)
            latent = latent_error.compute_latent_error(trials, lines)
            figure = latent_size.draw_latent_error(latent)
        else:
            figure = cost.draw_cost(trials, self._cost)
        optuna_dashboard.save_plotly_graph_object(self.study, figure, graph_object_id="frontier")


def make_event_source(folder: Place) -> Callable[[], Iterable[Event]]:
    """Return a function that gives the events since its last call.

    Args:
        folder: The folder of the study. A study that was recorded without its ledger gives the
            events of its tables, once.
    """
    if ledger.has_parts(folder / "ledger"):
        return Follower(folder / "ledger").news
    trials, epochs = tables.read_trials(folder), tables.read_epochs(folder)
    events = [
        {"params": None, **event} for event in recovery.rebuild_events(trials, epochs, Records())
    ]
    batches = [events]
    return lambda: batches.pop() if batches else []


def to_local_time(time: datetime | None) -> datetime | None:
    """Convert a time to this computer's time without a zone, as Optuna stores it.

    Args:
        time: A time with a zone, or None.
    """
    return None if time is None else datetime.fromtimestamp(time.timestamp())
