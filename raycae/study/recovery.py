"""Repair a damaged ledger from the tables, and replay it when a study is opened."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from itertools import chain
from typing import Any

import pandas as pd

from raycae.config import Config
from raycae.errors import InputError
from raycae.optimization.early_stopping import StoppingRule
from raycae.optimization.proposer import Proposal, Proposer
from raycae.optimization.shared_study import SharedStudy
from raycae.space.space import Space
from raycae.storage.files import quarantine
from raycae.storage.paths import Place
from raycae.study import tables
from raycae.study.ledger import Ledger, Range, iterate_events, iterate_readable
from raycae.study.records import EPOCH_COLUMNS, RUNNING, Records, parse_recorded_config


class LedgerRepair:
    """Restores what a ledger has lost from the tables, which are at most seconds behind it.

    Trials that the tables do not know either are run again.

    Args:
        folder: Folder of the study, which this process writes.
        ledger: Its ledger.
        study: Name of the study.
        space: Its search space.
    """

    def __init__(self, folder: Place, ledger: Ledger, study: str, space: Space) -> None:
        self._folder = folder
        self._ledger = ledger
        self._study = study
        self._space = space
        self._notes: list[str] = []

    def run(self) -> list[str]:
        """Repair the ledger.

        Returns:
            One sentence for everything that was found damaged, and for what became of it.
        """
        gaps, damage = self._ledger.find_gaps()
        known = self._fold(iterate_readable(self._ledger.folder))
        trials, epochs = self._read_trials(known), self._read_table("epochs", tables.read_epochs)
        n_recovered = 0
        if trials is None or epochs is None:
            for gap in gaps:
                self._ledger.fill_gap(gap, [])
        else:
            trials = trials[trials["study"] == self._study]
            n_recovered = self._recover_events(gaps, known, trials, epochs)
        self._notes += damage
        if damage or n_recovered:
            self._notes.append(
                f"{self._folder}: {n_recovered} events that the ledger lacks were restored from "
                "trials.parquet and epochs.parquet"
            )
        return self._notes

    def _recover_events(
        self, gaps: list[Range], known: Records, trials: pd.DataFrame, epochs: pd.DataFrame
    ) -> int:
        """Write the events that the tables know and the ledger lacks, and return their number.

        Events that later events of a trial build on go into the gap: its beginning, and the epochs
        of a trial that has ended, because nothing is accepted after its end. The rest is appended.
        """
        folder = self._ledger.folder
        created = [
            {**event, "params": derive_params(self._space, event["config"])}
            for event in rebuild_events(trials, epochs, known)
            if event["event"] == "created"
        ]
        n_events = len(created)
        for i, gap in enumerate(gaps):
            running = self._fold(chain(created, iterate_readable(folder, gap[0]))).running()
            known = self._fold(chain(created, iterate_readable(folder)))
            lost = [
                event
                for event in rebuild_events(trials, epochs, known)
                if event["event"] == "epoch"
                and event["trial_number"] in running
                and event["trial_number"] not in known.running()
            ]
            self._ledger.fill_gap(gap, lost if i else created + lost)
            n_events += len(lost)
        if created and not gaps:
            self._ledger.append(created)
        if gaps or created:
            known = self._fold(iterate_events(folder))
        rest = [
            event
            for event in rebuild_events(trials, epochs, known)
            if event["event"] != "epoch" or event["trial_number"] in known.running()
        ]
        if rest:
            self._ledger.append(rest)
        return n_events + len(rest)

    def _fold(self, events: Iterable[dict[str, Any]]) -> Records:
        records = Records(self._study, has_architecture=False)
        for event in events:
            records.apply(event)
        return records

    def _read_trials(self, known: Records) -> pd.DataFrame | None:
        """Read `trials.parquet` like `_read_table`.

        A configuration that the ledger knows is not checked again, which would take 0.3 ms of CPU
        for each trial (analysis/FINDINGS.md).
        """

        def read(folder: Place) -> pd.DataFrame:
            trials = tables.read_trials(folder, configs=False)
            for number, config in zip(trials["trial_number"], trials["config"], strict=True):
                if number not in known.trials or known.trials[number]["config"] != config:
                    tables.check_config(folder / "trials.parquet", number, config)
            return trials

        return self._read_table("trials", read)

    def _read_table(self, name: str, read: Callable[[Place], pd.DataFrame]) -> pd.DataFrame | None:
        """Read a table of the last process; quarantine one that cannot be read.

        Args:
            name: Name of the table.
            read: Reads it from the folder of the study.

        Returns:
            The table, or None if there is none that can be read.
        """
        path = self._folder / f"{name}.parquet"
        if not path.exists():
            return None
        try:
            return read(self._folder)
        except InputError as error:
            self._notes.append(
                f"{error}; quarantined in {quarantine(path).parent}, rebuilt from the ledger"
            )
            return None


def rebuild_events(
    trials: pd.DataFrame, epochs: pd.DataFrame, known: Records
) -> list[dict[str, Any]]:
    """Rebuild the events of trials and epochs that `known` lacks from the two tables.

    Args:
        trials: Content of `trials.parquet`.
        epochs: Content of `epochs.parquet`.
        known: What the ledger still knows.

    Returns:
        Events that bring `known` to the state in the tables. `created` lacks its `params`.
    """
    trials = trials[~check_known(trials, epochs, known)]
    epochs = epochs[epochs["trial_number"].isin(trials["trial_number"])]
    curves = dict(list(epochs.sort_values("epoch").groupby("trial_number")))
    events: list[dict[str, Any]] = []
    for row in trials.sort_values("trial_number").to_dict("records"):
        row = {name: None if pd.isna(value) else value for name, value in row.items()}
        number, attempt = int(row["trial_number"]), int(row["attempt"] or 0)
        event = {"trial_number": number, "attempt": attempt, "at": row["started_at"]}
        known_row = known.trials.get(number)
        if known_row is None:
            names = ("point", "config", "seed", "change", "parent")
            columns = {name: row[name] for name in names}
            events.append({**event, "attempt": 0, "event": "created", **columns})
        has_ended = known_row is not None and known_row["state"] != RUNNING
        if attempt > (known_row["attempt"] if known_row else 0) and not has_ended:
            events.append({**event, "event": "started"})
        shared = {name: row[name] for name in ("host", "device", "images_per_s", "val_ssim")}
        lacking = [
            epoch
            for epoch in (curves[number].to_dict("records") if number in curves else ())
            if epoch["epoch"] not in known.epochs.get(number, {})
        ]
        for epoch in lacking:
            values = ((name, epoch[name]) for name in EPOCH_COLUMNS)
            columns = {name: None if pd.isna(value) else value for name, value in values}
            events.append({**event, "event": "epoch", **shared, **columns})
        if row["state"] != RUNNING and not has_ended:
            end = {"state": row["state"], "reason": row["reason"], "at": row["ended_at"]}
            events.append({**event, "event": "ended", **end})
        is_lacking = lacking or known_row is None or known_row["test_mse"] is None
        if row["test_mse"] is not None and is_lacking:
            events.append({**event, "event": "evaluated", "test_mse": row["test_mse"]})
    return events


def check_known(trials: pd.DataFrame, epochs: pd.DataFrame, known: Records) -> pd.Series[bool]:
    """Check for each row of the trials whether the ledger knows all of it.

    It does for nearly all trials, and rebuilding the events of one takes 1.3 ms of CPU
    (analysis/FINDINGS.md).

    Args:
        trials: Content of `trials.parquet`.
        epochs: Content of `epochs.parquet`.
        known: What the ledger still knows.

    Returns:
        Whether the trial of the row has ended, and the ledger has its epochs and its test error.
    """
    curves: dict[int, set[int]] = {}
    for number, epoch in zip(epochs["trial_number"], epochs["epoch"], strict=True):
        curves.setdefault(number, set()).add(epoch)
    has_test_error = trials["test_mse"].notna()
    are_known = (
        (row := known.trials.get(number)) is not None
        and row["state"] != RUNNING
        and curves.get(number, set()) <= known.epochs[number].keys()
        and (row["test_mse"] is not None or not is_measured)
        for number, is_measured in zip(trials["trial_number"], has_test_error, strict=True)
    )
    return pd.Series(list(are_known), index=trials.index, dtype=bool)


def derive_params(space: Space, config: str) -> str:
    """Derive what the sampler would have had to draw for a configuration.

    Args:
        space: The search space.
        config: The configuration as JSON.

    Returns:
        The sampled parameters as JSON.
    """
    return json.dumps(space.params_of(Config.model_validate_json(config)))


def replay_ledger(
    folder: Place,
    space: Space,
    records: Records,
    proposer: Proposer,
    rule: StoppingRule,
    shared: SharedStudy | None,
) -> None:
    """Restore records, sampler and early-stopping rule as the last process left them.

    Args:
        folder: Folder of the ledger.
        space: Search space of the study from now on.
        records: Empty records.
        proposer: A new proposer.
        rule: A new early-stopping rule.
        shared: The database of all drivers of the study, if there is one.
    """
    drawn_from, current = "", space.hash
    for event in iterate_events(folder):
        number = event["trial_number"]
        is_known = number in records.trials
        records.apply(event)
        match event["event"]:
            case "begun" | "resumed":
                drawn_from = json.loads(event["study"])["space"]["hash"]
            case "known":
                curve = json.loads(event["curve"] or "{}")
                proposer.learn(
                    Config.model_validate_json(event["config"]),
                    event["val_mse"],
                    {int(epoch): error for epoch, error in curve.items()},
                )
                if shared and event["source"]:
                    shared.mark_seen(event["source"])
            case "created" if not is_known:
                is_same_space = drawn_from == current
                params = event["params"] if is_same_space else derive_params(space, event["config"])
                proposal = Proposal(
                    parse_recorded_config(event["config"]),
                    json.loads(params),
                    event["seed"],
                    event["point"],
                    event["change"],
                    event["parent"],
                )
                proposer.reopen(number, proposal)
            case "epoch" if is_known:
                proposer.report(number, event["epoch"], event["val_mse"])
                known = {**records.trials[number], **event}
                rule.report(number, event["epoch"], event["val_mse"], known)
            case "ended" if is_known:
                row = records.trials[number]
                proposer.tell(number, row["state"], row["val_mse"], row)
