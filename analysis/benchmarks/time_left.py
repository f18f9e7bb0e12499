"""Measure the error of the time left that the live view shows.

    python analysis/benchmarks/time_left.py

Two searches were recorded (`analysis/recorded/frontier` and `search-ex2`). The trials of the others
are simulated, with the default sampler and early stopping, on recorded learning curves
(`analysis/recorded/curves`) and recorded epoch times; a configuration that was not recorded has
predicted ones. After each trial from the third to the last but one, the estimate is compared with
the time that the search still took. The rule before 2026-11-30 (the pace so far) is measured as
well.
"""

from __future__ import annotations

import argparse
import json
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd

from raycae.execution.recorded_curves import Recorded, read_curves
from raycae.execution.search_request import parse_options
from raycae.execution.simulator import simulate_search
from raycae.execution.time_estimate import make_forecast
from raycae.execution.time_left import Forecast, TimeLeft, estimate_time_left
from raycae.optimization.early_stopping import choose_grace, make_rule
from raycae.optimization.proposer import Proposer
from raycae.storage.paths import resolve_place
from raycae.study.records import RUNNING

RECORDED = Path(__file__).parents[1] / "recorded"


class Event(NamedTuple):
    """An epoch that ended.

    Attributes:
        at_s: When it ended, in seconds since the search began.
        started_s: When its trial began.
        number: Trial number.
        config: The configuration as JSON.
        point: The named point, or None.
        state: State of the trial after this epoch.
    """

    at_s: float
    started_s: float
    number: int
    config: str
    point: str | None
    state: str


def simulate_events(curves: Recorded, seed: int, trials: int, workers: int) -> list[Event]:
    """Simulate a search on recorded curves.

    Args:
        curves: The recorded curves.
        seed: Random seed of the proposals.
        trials: Number of trials.
        workers: Number of workers.
    """
    rule = make_rule("asha", curves.epochs, grace=choose_grace(curves.epochs))
    proposer = Proposer(curves.space, "tpe", seed)
    ended = list(
        simulate_search(
            proposer, rule, curves, trials=trials, epochs=curves.epochs, workers=workers
        )
    )
    starts: dict[int, float] = {}
    events = []
    for e in ended:
        curve = curves.get_curve(e.proposal.config, e.proposal.seed)
        start_s = starts.setdefault(e.number, e.at_s - curve.epoch_s)
        config = e.proposal.config.to_json()
        events.append(Event(e.at_s, start_s, e.number, config, e.proposal.point, e.state))
    return events


def read_events(study: Path) -> list[Event]:
    """Read the epochs of a recorded search; those of a trial are spread over its time.

    Args:
        study: Its folder.
    """
    trials = pd.read_parquet(study / "trials.parquet").set_index("trial_number")
    epochs = pd.read_parquet(study / "epochs.parquet")
    begin = trials["started_at"].min()
    events = []
    for number, row in trials.iterrows():
        times = epochs.loc[epochs["trial_number"] == number, "epoch_time_s"].cumsum().tolist()
        start_s = (row["started_at"] - begin).total_seconds()
        length_s = (row["ended_at"] - row["started_at"]).total_seconds()
        point = row["point"] if isinstance(row["point"], str) else None
        for epoch, time_s in enumerate(times, 1):
            state = row["state"] if epoch == len(times) else RUNNING
            at_s = start_s + time_s * length_s / times[-1]
            events.append(Event(at_s, start_s, number, row["config"], point, state))
    return sorted(events)


def measure_errors(
    events: Sequence[Event], forecast: Forecast | None, trials: int, epochs: int
) -> dict[str, list[float]]:
    """Measure the relative errors in one search: |estimate - time left| / time left.

    Args:
        events: Its epochs in the order in which they ended.
        forecast: The forecast that was made before the search.
        trials: Number of trials.
        epochs: Epochs of a full trial.

    Returns:
        Errors after each trial, by the name of the rule.
    """
    end_s = events[-1].at_s
    rows: dict[int, dict[str, Any]] = {}
    last_s: dict[int, float] = {}
    left = TimeLeft(trials, epochs, forecast)
    errors: dict[str, list[float]] = {"now": [], "pace": []}
    firsts = {event.number: event for event in reversed(events)}
    for index, event in enumerate(events):
        for number, first in firsts.items():
            if first.started_s <= event.at_s and number not in rows:
                rows[number] = {
                    **{"trial_number": number, "state": RUNNING, "attempt": 1, "reason": None},
                    **{"epochs_run": 0, "wall_time_s": None},
                    **{"point": first.point, "config": first.config},
                }
                last_s[number] = first.started_s
        row = rows[event.number]
        row["wall_time_s"] = (row["wall_time_s"] or 0.0) + event.at_s - last_s[event.number]
        row["epochs_run"] += 1
        row["state"] = event.state
        last_s[event.number] = event.at_s
        if event.state == RUNNING:
            continue
        left.end_trial(row, row["wall_time_s"])
        rest_s = end_s - event.at_s
        if sum(row["state"] != RUNNING for row in rows.values()) < 3 or rest_s <= 0:
            continue
        known = [rows[number] for number in sorted(rows)]
        running = [row for row in known if row["state"] == RUNNING]
        waited_s = {number: event.at_s - seen_s for number, seen_s in last_s.items()}
        estimates = {
            "now": left.estimate(known, running, waited_s),
            "pace": estimate_time_left(known, trials, index + 1, event.at_s),
        }
        for rule_name, estimate in estimates.items():
            errors[rule_name].append(abs((estimate or 0.0) - rest_s) / rest_s)
    return errors


def print_errors(name: str, found: Mapping[str, list[float]]) -> None:
    """Print a line for each rule.

    Args:
        name: Description of the search.
        found: Errors by the name of the rule.
    """
    for rule_name, values in found.items():
        ranked = sorted(values)
        print(
            f"{name:28} {rule_name}  median {statistics.median(ranked):5.2f}  "
            f"90 % {ranked[int(0.9 * len(ranked))]:5.2f}  n {len(ranked)}",
            flush=True,
        )


def measure_recorded(study: Path) -> dict[str, list[float]]:
    """Measure the relative errors in a recorded search with two workers.

    Args:
        study: Its folder.

    Returns:
        See `measure_errors`.
    """
    content = json.loads((study / "study.json").read_text())
    trials, epochs = content["plan"]["trials"], content["plan"]["epochs"]
    plan = {"trials": trials, "epochs": epochs, "concurrent": 2}
    forecast = expect({"space": content["space"]["name"], **plan})
    return measure_errors(read_events(study), forecast, trials, epochs)


def expect(options: dict[str, Any]) -> Forecast | None:
    """Make the forecast of a search.

    Args:
        options: The options of the search.
    """
    return make_forecast(parse_options({"study": "none", **options}))


def main() -> None:
    """Print the errors of recorded and simulated searches."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=4)
    parser.add_argument("--trials", type=int, default=50)
    options = parser.parse_args()
    for name in ("frontier", "search-ex2"):
        print_errors(f"recorded {name}, 2 workers", measure_recorded(RECORDED / name))
    for name in ("ex2", "ex3"):
        folders = [resolve_place(RECORDED / "curves" / f) for f in (name, f"{name}-seeds")]
        curves = read_curves(folders)
        for workers in (2, 8):
            forecast = expect(
                {"space": name, "concurrent": workers}
                | {"trials": options.trials, "epochs": curves.epochs}
            )
            found = {"now": [], "pace": []}
            for seed in range(options.seeds):
                events = simulate_events(curves, seed, options.trials, workers)
                errors = measure_errors(events, forecast, options.trials, curves.epochs)
                for rule_name, values in errors.items():
                    found[rule_name] += values
            print_errors(f"simulated {name}, {workers} workers", found)


if __name__ == "__main__":
    main()
