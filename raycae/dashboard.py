"""`raycae dashboard`: optuna-dashboard over a study, while its search runs or after.

The Optuna study of a search lives in its memory and is a function of the ledger. So is the copy
that is shown here: the ledger is followed, never written, and nobody's lease is taken.

optuna-dashboard computes the importance of parameters by itself, of complete trials only and from
two trials on. Its page asks its server for it, so this server answers with what the report shows.
"""

from __future__ import annotations

import json
import re
import threading
import time
import warnings
from collections.abc import Callable, Iterable
from contextlib import suppress
from datetime import datetime
from socketserver import ThreadingMixIn
from typing import Annotated, Any
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

import optuna
import pandas as pd
import typer
from optuna.storages import InMemoryStorage
from optuna.trial import FrozenTrial, TrialState

from raycae import ledger, results
from raycae.architecture import architecture
from raycae.config import Config
from raycae.errors import InputError, StorageError, printable
from raycae.results import FAIL, RUNNING, Records
from raycae.search import ResultsOption
from raycae.storage import Place
from raycae.study import plan_of, read_content, space_of

LOOPBACK = "127.0.0.1"
FOLLOW_S = 2.0
"""So long after one look at the ledger comes the next, …"""
FOLLOW_SHARE = 0.1
"""and looking takes at most this share of the time, however long the study has grown."""
ATTRIBUTES = (
    *("trial_number", "state", "reason", "point", "change"),
    *("latent_size", "latent_channels", "latent_height", "latent_width", "n_params", "flops"),
    *("val_mse", "val_psnr_db", "test_mse", "best_epoch", "epochs_run"),
)
"""Columns of the trials that are shown as attributes; `network` says the architecture in words."""


def dashboard(
    study: Annotated[
        str, typer.Argument(metavar="STUDY", help="A study's name, or its folder or URI.")
    ] = "ex3",
    results_folder: ResultsOption = "results",
    port: Annotated[
        int, typer.Option(min=0, max=65535, metavar="P", help="0: any that is free.")
    ] = 8080,
    host: Annotated[
        str,
        typer.Option(
            metavar="ADDRESS",
            help="Where to listen. The page asks nobody who they are: another address than "
            "this machine's own shows the study to everyone who reaches it.",
        ),
    ] = LOOPBACK,
) -> None:
    """Show a study in optuna-dashboard, while its search runs or after; Ctrl-C ends it.

    What is shown is a copy that follows the study; nothing done there changes the study.

    Example: raycae dashboard ex3 --port 8080
    """
    folder = results.find_study(study, results_folder)
    try:
        import optuna_dashboard
    except ImportError:
        raise InputError(
            "raycae dashboard: optuna-dashboard is not installed; pip install 'raycae[dashboard]'"
        ) from None
    warnings.filterwarnings("ignore", module="optuna")  # what importances of few trials are worth
    copy = Copy(folder)
    copy.follow()
    app = with_importances(looking_only(optuna_dashboard.wsgi(copy.study._storage)), copy)
    try:
        server = make_server(host, port, app, _Server, _Handler)
    except (OSError, OverflowError) as error:
        raise InputError(f"--host {host} --port {port}: cannot listen there: {error}") from None
    threading.Thread(target=_keep_following, args=[copy], daemon=True).start()
    where = f"http://{host}:{server.server_port}/dashboard/studies/{copy.study._study_id}"
    print(f"{printable(folder.name)}: {where}  (Ctrl-C ends it)", flush=True)
    with server, suppress(KeyboardInterrupt):
        server.serve_forever()


class Copy:
    """A study's trials as an Optuna study in memory, under the study's name: `val_mse` to be
    minimised, and of a frontier its cost beside it. `follow` brings it to where the study stands.

    A trial that has ended stays as it is, as Optuna has it: a test error that is measured later is
    not among its attributes until the dashboard is started anew. Raises `InputError` where the
    folder holds no study that can be read.
    """

    def __init__(self, folder: Place) -> None:
        content = read_content(folder)
        plan = plan_of(content)
        self._folder, self._space = folder, space_of(content)
        self._fingerprint = content["data"]["fingerprint"]
        self._cost = plan.cost if plan.objective == "frontier" else None
        self._records = Records(plan.study, content["data"].get("n_train"), plan.cost)
        self._events = _events_of(folder)
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
        """Take in what has happened since the last time."""
        happened = [event for event in self._events() if event["trial_number"] is not None]
        for event in happened:
            self._records.apply(event)
        for number in dict.fromkeys(event["trial_number"] for event in happened):
            if number in self._records.trials:
                self._show(number)
        if any(event["event"] in ("ended", "evaluated") for event in happened):
            self._draw()

    def _show(self, number: int) -> None:
        storage = self.study._storage
        trial = self._frozen(number)
        if number not in self._shown:
            at = storage.create_new_trial(self.study._study_id, template_trial=trial)
            self._shown[number] = at
            return
        at = self._shown[number]
        if storage.get_trial(at).state.is_finished():
            return
        for epoch, error in trial.intermediate_values.items():
            storage.set_trial_intermediate_value(at, epoch, error)
        for name, value in trial.user_attrs.items():
            storage.set_trial_user_attr(at, name, value)
        if trial.state.is_finished():
            storage.set_trial_state_values(at, trial.state, trial.values)

    def _frozen(self, number: int) -> FrozenTrial:
        """The trial as Optuna has it."""
        row = self._records.trials[number]
        config = Config.model_validate_json(row["config"])
        params = self._space.params_of(config)
        values = None
        if row["state"] not in (RUNNING, FAIL):
            values = [row["val_mse"], *([row[self._cost]] if self._cost else [])]
        said = {name: row[name] for name in ATTRIBUTES if row[name] is not None}
        trial = optuna.trial.create_trial(
            state=TrialState[row["state"]],
            values=values,
            params=params,
            distributions={name: self._space.parameters[name].distribution for name in params},
            user_attrs={**said, "network": str(architecture(config))},
            intermediate_values={
                epoch: measured["val_mse"]
                for epoch, measured in self._records.epochs[number].items()
            },
        )
        trial.datetime_start = _local(row["started_at"])
        if trial.state.is_finished():
            trial.datetime_complete = _local(row["ended_at"])
        return trial

    def importances(self) -> list[list[dict[str, Any]]]:
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
        from raycae import effects

        trials, parameters = self._table(), self._space.parameters
        found = []
        for target in ("val_mse", *([self._cost] if self._cost else [])):
            weights = effects.importance(trials, parameters, target)
            kinds = [type(parameters[name].distribution).__name__ for name in weights["parameter"]]
            rows = zip(weights["parameter"], weights["share"], kinds, strict=True)
            names = ("name", "importance", "distribution")
            found.append([dict(zip(names, row, strict=True)) for row in rows])
        return found

    def _table(self) -> pd.DataFrame:
        """Return the table of trials with what each drew, which recorded events do not say."""
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
        """The figure of the report: error against latent size, or against the study's cost; and a
        note on the importance of parameters."""
        import optuna_dashboard

        from raycae import effects, figures

        trials = self._table()
        weights = effects.importance(trials, self._space.parameters)
        sentence = effects.importance_sentence(weights, len(effects.weighed(trials)))
        optuna_dashboard.save_note(
            self.study,
            f"{sentence}\n\nHyperparameter importance is computed as in the report of raycae "
            "(PED-ANOVA of the trials that ended with an error), not as Optuna does by default.",
        )
        if figures.ended(trials).empty:
            return
        if self._cost in (None, "latent_size"):
            lines = results.read_baselines(self._folder, self._fingerprint)
            latent = figures.latent_error(figures.described(trials), lines)
            figure = figures.latent_error_figure(latent)
        else:
            figure = figures.cost_figure(trials, self._cost)
        optuna_dashboard.save_plotly_graph_object(self.study, figure, graph_object_id="frontier")


def _events_of(folder: Place) -> Callable[[], Iterable[ledger.Event]]:
    """What gives the events that are new since it was last asked: of the ledger, or where a study
    was recorded without one, of its tables, which then no longer change."""
    if ledger.is_begun(folder / "ledger"):
        return ledger.Follower(folder / "ledger").news
    trials, epochs = results.read_trials(folder), results.read_epochs(folder)
    events = [{"params": None} | event for event in results.events_of(trials, epochs, Records())]
    told = [events]
    return lambda: told.pop() if told else []


def _keep_following(copy: Copy) -> None:
    took_s = 0.0
    while True:
        time.sleep(max(FOLLOW_S, took_s / FOLLOW_SHARE))
        begun = time.monotonic()
        # A ledger that is being mended, a store that does not answer: the next look may find it.
        with suppress(InputError, StorageError, OSError):
            copy.follow()
        took_s = time.monotonic() - begun


def looking_only(app: Callable[..., Any]) -> Callable[..., Any]:
    """The dashboard could also rename, delete, and tell trials; with a copy of a study that would
    only look as if it did something."""

    def answer(environ: dict[str, Any], start_response: Callable[..., Any]) -> Any:
        if environ["REQUEST_METHOD"] in ("GET", "HEAD"):
            return app(environ, start_response)
        start_response("405 Method Not Allowed", [("Content-Type", "application/json")])
        return [b'{"reason": "raycae dashboard shows a study; it changes none."}']

    return answer


def with_importances(app: Callable[..., Any], copy: Copy) -> Callable[..., Any]:
    """Answer what the page asks about the importance of parameters with the report's numbers."""
    path = re.compile(rf"/api/studies/{copy.study._study_id}/param_importances/?")

    def answer(environ: dict[str, Any], start_response: Callable[..., Any]) -> Any:
        is_asked = environ["REQUEST_METHOD"] == "GET" and path.fullmatch(environ["PATH_INFO"])
        if not is_asked:
            return app(environ, start_response)
        start_response("200 OK", [("Content-Type", "application/json")])
        return [json.dumps({"param_importances": copy.importances()}).encode()]

    return answer


def _local(at: datetime | None) -> datetime | None:
    """As Optuna has it: this machine's time, without a zone."""
    return None if at is None else datetime.fromtimestamp(at.timestamp())


class _Server(ThreadingMixIn, WSGIServer):
    daemon_threads = True


class _Handler(WSGIRequestHandler):
    def log_message(self, format: str, *args: Any) -> None:
        """Nothing: a page asks every few seconds."""
