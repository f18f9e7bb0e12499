"""Rebuild ledger events from the tables."""

from __future__ import annotations

from typing import Any

import pandas as pd

from raycae.study.records import EPOCH_COLUMNS, RUNNING, Records


def rebuild_events(
    trials: pd.DataFrame, epochs: pd.DataFrame, known: Records
) -> list[dict[str, Any]]:
    """What the two tables tell of trials that `known` lacks: events that bring it to where they
    stand, all but the `params` of `created`. For a ledger that has lost parts; the tables are at
    most seconds behind it."""
    curves = dict(list(epochs.sort_values("epoch").groupby("trial_number")))
    found: list[dict[str, Any]] = []
    for row in trials.sort_values("trial_number").to_dict("records"):
        row = {name: None if pd.isna(value) else value for name, value in row.items()}
        number, attempt = int(row["trial_number"]), int(row["attempt"] or 0)
        event = {"trial_number": number, "attempt": attempt, "at": row["started_at"]}
        have = known.trials.get(number)
        if have is None:
            told = ("point", "config", "seed", "change", "parent")
            made = {name: row[name] for name in told}
            found.append({**event, "attempt": 0, "event": "created", **made})
        ended = have is not None and have["state"] != RUNNING
        if attempt > (have["attempt"] if have else 0) and not ended:
            found.append({**event, "event": "started"})
        where = {name: row[name] for name in ("host", "device", "images_per_s", "val_ssim")}
        lacking = [
            epoch
            for epoch in (curves[number].to_dict("records") if number in curves else ())
            if epoch["epoch"] not in known.epochs.get(number, {})
        ]
        for epoch in lacking:
            values = ((name, epoch[name]) for name in EPOCH_COLUMNS)
            measured = {name: None if pd.isna(value) else value for name, value in values}
            found.append({**event, "event": "epoch", **where, **measured})
        if row["state"] != RUNNING and not ended:
            how = {"state": row["state"], "reason": row["reason"], "at": row["ended_at"]}
            found.append({**event, "event": "ended", **how})
        if row["test_mse"] is not None and (lacking or have is None or have["test_mse"] is None):
            found.append({**event, "event": "evaluated", "test_mse": row["test_mse"]})
    return found
