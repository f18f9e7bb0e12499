"""Measure the error of the time left that the live view shows, over simulated searches.

    python analysis/benchmarks/time_left.py

The trials are those of searches with the default sampler and early stopping on recorded learning
curves (`analysis/recorded/curves`), with the recorded duration of each epoch; a configuration that
was not recorded has predicted ones. After each trial from the third to the last but one, the
estimate is compared with the time that the simulated search still took. The rule of the versions
before 2026-11-30 (the pace so far) is measured as well.
"""

from __future__ import annotations

import argparse
import statistics
from pathlib import Path

from raycae.execution.recorded_curves import read_curves
from raycae.execution.search_request import parse_options
from raycae.execution.simulator import simulate_search
from raycae.execution.time_estimate import make_forecast
from raycae.execution.time_left import TimeLeft, estimate_time_left
from raycae.optimization.early_stopping import choose_grace, make_rule
from raycae.optimization.proposer import Proposer
from raycae.storage.paths import resolve_place
from raycae.study.records import RUNNING

CURVES = Path(__file__).parents[1] / "recorded" / "curves"


def measure_errors(
    name: str, curves: object, seed: int, trials: int, epochs: int, workers: int, noise: float
) -> dict[str, list[float]]:
    """Measure the relative errors of one search: |estimate - time left| / time left.

    Args:
        name: Space: ex2 or ex3.
        curves: Its recorded curves.
        seed: Random seed of the proposals.
        trials: Number of trials.
        epochs: Epochs of a trial.
        workers: Number of workers.
        noise: Not used; kept for the table's columns.

    Returns:
        Errors after each trial by the name of the rule.
    """
    request = parse_options(
        {"space": name, "study": "none", "trials": trials, "epochs": epochs, "concurrent": workers}
    )
    rule = make_rule("asha", epochs, grace=choose_grace(epochs))
    ended = list(
        simulate_search(
            Proposer(curves.space, "tpe", seed),
            rule,
            curves,
            trials=trials,
            epochs=epochs,
            workers=workers,
        )
    )
    end_s = ended[-1].at_s
    rows: dict[int, dict] = {}
    last_s: dict[int, float] = {}
    left = TimeLeft(trials, epochs, make_forecast(request))
    errors: dict[str, list[float]] = {"now": [], "pace": []}
    n_ended = 0
    # A trial starts when its first epoch begins.
    starts = {}
    for e in ended:
        starts.setdefault(
            e.number, e.at_s - curves.get_curve(e.proposal.config, e.proposal.seed).epoch_s
        )
    for index, e in enumerate(ended):
        for number, start_s in starts.items():
            if start_s <= e.at_s and number not in rows:
                first = next(x for x in ended if x.number == number)
                rows[number] = {
                    "trial_number": number,
                    "state": RUNNING,
                    "attempt": 1,
                    "reason": None,
                    "epochs_run": 0,
                    "wall_time_s": None,
                    "point": first.proposal.point,
                    "config": first.proposal.config.model_dump_json(),
                }
                last_s[number] = start_s
        row = rows[e.number]
        row["wall_time_s"] = (row["wall_time_s"] or 0.0) + e.at_s - last_s[e.number]
        row["epochs_run"] += 1
        last_s[e.number] = e.at_s
        row["state"] = e.state
        if e.state == RUNNING:
            continue
        left.end_trial(row, row["wall_time_s"])
        n_ended += 1
        rest_s = end_s - e.at_s
        if n_ended < 3 or rest_s <= 0:
            continue
        # The next trial starts at this moment; it is in `rows` from the next epoch on.
        running = [r for r in rows.values() if r["state"] == RUNNING]
        waited_s = {n: e.at_s - last_s[n] for n in rows}
        estimates = {
            "now": left.estimate(list(rows.values()), running, waited_s),
            "pace": estimate_time_left(list(rows.values()), trials, index + 1, e.at_s),
        }
        for rule_name, estimate in estimates.items():
            errors[rule_name].append(abs((estimate or 0.0) - rest_s) / rest_s)
    return errors


def main() -> None:
    """Print a table of median errors."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--trials", type=int, default=50)
    options = parser.parse_args()
    print("space workers epochs trials  rule  median  90 %  first half  n")
    for name in ("ex2", "ex3"):
        curves = read_curves(
            [resolve_place(CURVES / name), resolve_place(CURVES / f"{name}-seeds")]
        )
        for workers in (2, 8):
            found: dict[str, list[float]] = {"now": [], "pace": []}
            early: dict[str, list[float]] = {"now": [], "pace": []}
            for seed in range(options.seeds):
                errors = measure_errors(
                    name, curves, seed, options.trials, curves.epochs, workers, 0.0
                )
                for rule_name, values in errors.items():
                    found[rule_name] += values
                    early[rule_name] += values[: len(values) // 2]
            for rule_name, values in found.items():
                ranked = sorted(values)
                print(
                    f"{name} {workers:7} {curves.epochs:6} {options.trials:6}  {rule_name}  "
                    f"{statistics.median(ranked):6.2f}  {ranked[int(0.9 * len(ranked))]:5.2f}  "
                    f"{statistics.median(early[rule_name]):5.2f}  {len(ranked)}",
                    flush=True,
                )


if __name__ == "__main__":
    main()
