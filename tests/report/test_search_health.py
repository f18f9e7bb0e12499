"""How a search went: failures, edges, workers and costs, against a handful of trials by hand."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from raycae.config import resolve
from raycae.report.sections import search_health
from raycae.report.sections.improvements import (
    describe_epochs_spent,
    describe_improvements,
    draw_best_so_far,
    find_improvements,
)
from raycae.report.sections.timeline import assign_rows, draw_timeline
from raycae.report.wording import choose_time_unit
from raycae.space import loading
from raycae.study.records import COMPLETE, FAIL, PRUNED, RUNNING

BEGUN = datetime(2026, 3, 1, 12, tzinfo=UTC)
PARAMETERS = loading.parse_space(
    """
task: reconstruct
params:
  lr: {type: float, low: 1.0e-4, high: 1.0e-2, log: true}
  depth: {type: int, low: 1, high: 4}
  norm: {type: categorical, choices: [none, batch]}
""",
    name="s",
).parameters


def made_trials(*rows: dict[str, Any]) -> pd.DataFrame:
    """Trials by their columns; begun at minute `at`, for `minutes`."""
    made = []
    for number, row in enumerate(rows):
        began = BEGUN + timedelta(minutes=row.get("at", number))
        made.append(
            {"trial_number": number, "state": COMPLETE, "reason": None, "seed": 0, "device": "cpu"}
            | {"config": resolve({"lr": row.get("params_lr", 1e-3)}).to_json()}
            | {"started_at": began, "ended_at": began + timedelta(minutes=row.get("minutes", 1))}
            | {"wall_time_s": 60.0 * row.get("minutes", 1), "val_mse": None, **row}
        )
    return pd.DataFrame(made).astype({"val_mse": "Float64", "wall_time_s": "Float64"})


def test_a_failure_without_words() -> None:
    """Oracle: by hand; other software may write an empty reason."""
    trials = made_trials({"state": FAIL, "reason": ""}, {"state": FAIL, "reason": "full\ndisk"})
    assert search_health.count_failures(trials).to_numpy().tolist() == [["", 1], ["full\ndisk", 1]]


def test_failures_are_counted_by_reason_and_region() -> None:
    """Oracle: by hand. Four of fourteen fail: three by one reason with other numbers; all three
    with a rate in the upper third, of which three others went well: 3 of 6 against 4 of 14 is not
    twice as often. Batch norm's 4 of 4 is: by chance that happens once in 1,001 times."""
    reasons = ["diverged: loss 1e5 in epoch 2", "diverged: loss nan in epoch 2"]
    rows: list[dict[str, Any]] = [{"val_mse": 0.01, "params_lr": 1e-4 * (i + 1)} for i in range(5)]
    rows += [{"val_mse": 0.01, "params_lr": 1e-4 * (i + 1)} for i in range(2)]
    rows += [{"val_mse": 0.01, "params_lr": 9e-3}] * 3
    rows += [
        {
            "state": FAIL,
            "reason": "diverged: loss 3e7 in epoch 1",
            "params_lr": 9e-3,
            "params_norm": "batch",
        },
        {"state": FAIL, "reason": reasons[0], "params_lr": 9e-3, "params_norm": "batch"},
        {"state": FAIL, "reason": reasons[0], "params_lr": 9e-3, "params_norm": "batch"},
        {"state": FAIL, "reason": reasons[1], "params_lr": 1e-4, "params_norm": "batch"},
        {"state": RUNNING, "params_lr": 9e-3, "params_norm": "batch"},
    ]
    trials = made_trials(*rows)
    assert search_health.count_failures(trials).to_numpy().tolist() == [
        ["diverged: loss 3e7 in epoch 1", 3],
        ["diverged: loss nan in epoch 2", 1],
    ]
    assert search_health.describe_failures(trials) == "4 of 14 trials failed (29%)."
    assert search_health.find_failing_regions(trials, PARAMETERS).to_numpy().tolist() == [
        ["norm batch", 4, 4, "diverged: loss 3e7 in epoch 1"]
    ]
    assert search_health.describe_failures(trials.head(3)) == "No trial failed."
    assert search_health.find_failing_regions(trials.head(0), PARAMETERS).empty


def test_ranges_are_to_be_widened_where_the_best_lie_at_their_edge() -> None:
    """Oracle: by hand. Of forty trials the four best have the greatest rates and a depth of 1; a
    network cannot be shallower, so that is no advice. Of twenty trials the best two are too few:
    by chance both lie at one of the edges of a range in 2 of 190 times."""
    rows = [
        {
            "val_mse": 0.1 - i / 1000,
            "params_lr": 1e-4 * 100 ** (i / 39),
            "params_depth": 1 + (i < 30) * i % 4,
        }
        for i in range(40)
    ]
    found = search_health.find_edges(made_trials(*rows), PARAMETERS)
    assert found.to_numpy().tolist() == [["lr", "above", 0.01, 4, 4, "0.00702 to 0.01"]]
    assert search_health.describe_edges(found, 40) == (
        "Try lr above 0.01: 4 of the best 4 configurations with this parameter lie at the edge, at "
        "0.00702 to 0.01."
    )
    few = search_health.find_edges(made_trials(*rows[::2]), PARAMETERS)
    assert few.empty
    assert search_health.describe_edges(few, 20) == (
        "No range has its best trials at an end more often than chance explains "
        "(20 configurations)."
    )


def test_repeats_are_counted_by_seed() -> None:
    """Oracle: by hand."""
    trials = made_trials({"seed": 0}, {"seed": 0}, {"seed": 1}, {"seed": 0, "params_lr": 1e-4})
    assert search_health.count_duplicates(trials) == (1, 1)
    assert search_health.describe_duplicates(trials) == (
        "An earlier configuration was repeated by 1 trial with another seed and 1 trial "
        "with the same seed."
    )
    assert search_health.describe_duplicates(trials.head(1)) == "No configuration ran twice."


def test_workers_are_counted_from_beginnings_and_ends() -> None:
    """Oracle: by hand: one trial for minutes 0 to 6, another for 3 to 6, nothing to 9, a third
    for 9 to 12: 1, 2, 0, 1 running; 12 trial-minutes in 9 minutes with any."""
    trials = made_trials({"at": 0, "minutes": 6}, {"at": 3, "minutes": 3}, {"at": 9, "minutes": 3})
    found = search_health.count_workers(trials)
    assert found is not None
    assert (found.steps["hours"] * 60).tolist() == pytest.approx([0, 3, 6, 9, 12])
    assert found.steps["running"].tolist() == [1, 2, 0, 1, 0]
    assert found.mean == pytest.approx(12 / 9)
    assert found.most == 2
    assert found.busy_hours == pytest.approx(0.2)
    assert search_health.describe_workers(found) == (
        "Not counting pauses, the number of trials that ran at the same time was 1.3 on average "
        "and 2 at most. Trials spent at least 100 % of that time in epochs; trials that are "
        "trained together share the time of an epoch."
    )
    assert search_health.count_workers(trials.assign(ended_at=pd.NaT)) is None


def test_what_still_runs_counts() -> None:
    """Oracle: by hand: two trials that began at minutes 0 and 2 still run when a third one, which
    began at minute 6, ends at minute 8: 2 * 8 - 2 + 2 trial-minutes in 8. That the third one is the
    best so far is known 8 minutes after the first one began."""
    trials = made_trials(
        {"at": 0, "state": RUNNING},
        {"at": 2, "state": RUNNING},
        {"at": 6, "minutes": 2, "val_mse": 0.01},
    )
    trials.loc[trials["state"] == RUNNING, "ended_at"] = pd.NaT
    found = search_health.count_workers(trials)
    assert found is not None
    assert (found.steps["hours"] * 60).tolist() == pytest.approx([0, 2, 6, 8])
    assert found.steps["running"].tolist() == [1, 2, 3, 0]
    assert found.mean == pytest.approx(16 / 8)
    assert find_improvements(trials)["hours"].tolist() == pytest.approx([8 / 60])


@given(st.lists(st.tuples(st.integers(0, 500), st.integers(1, 60)), min_size=1, max_size=60))
def test_thinning_keeps_the_time_that_trials_ran(spans: list[tuple[int, int]]) -> None:
    """Oracle: the area under the steps, before and after there are at most twenty of them."""
    trials = made_trials(*({"at": at, "minutes": minutes} for at, minutes in spans))
    found = search_health.count_workers(trials, most=20)
    assert found is not None
    assert len(found.steps) <= 21
    hours = found.steps["hours"].diff().shift(-1) * found.steps["running"]
    assert hours.sum() == pytest.approx(sum(minutes for _, minutes in spans) / 60)


def test_improvements_and_what_they_cost() -> None:
    """Oracle: by hand; a stopped trial with less error is no improvement, but its time counts."""
    trials = made_trials(
        {"val_mse": 0.04, "minutes": 1},
        {"val_mse": 0.05, "minutes": 2},
        {"val_mse": 0.01, "minutes": 3, "state": PRUNED},
        {"val_mse": 0.02, "minutes": 4},
        {"val_mse": 0.03, "minutes": 10},
    )
    found = find_improvements(trials)
    assert found["trial_number"].tolist() == [0, 3]
    assert found["n"].tolist() == [1, 4]
    assert found["spent_s"].tolist() == [60, 600]
    assert found["cost_s"].tolist() == [60, 540]
    assert found["gain"].iloc[1] == pytest.approx(0.5)
    assert found["hours"].iloc[1] == pytest.approx(7 / 60)
    assert describe_improvements(found, trials) == (
        "The lowest error fell from 0.04000 to 0.02000 in 1 improvement. The last improvement was "
        "trial 3, after 7 min, when 4 of 5 trials had ended. It reduced the error by 50 %. No "
        "configuration was run to the end with several seeds, so the report cannot tell "
        "improvements from seed noise."
    )
    assert describe_epochs_spent(found, trials) == (
        "Epochs took 20 min, summed over workers (on cpu). The best trial ended after 50 % of this "
        "time. Between the previous best trial and this one, workers spent 9 min in epochs."
    )
    figure = draw_best_so_far(found, "n", 5)
    assert list(figure.data[0].x) == [1, 4, 5]
    assert list(figure.data[0].y) == [0.04, 0.02, 0.02]
    alone = find_improvements(trials.head(2))
    assert describe_improvements(alone, trials.head(2)) == (
        "The first complete trial, 0, was never improved on by the 1 trial that ended after it."
    )


@given(st.lists(st.tuples(st.integers(0, 30), st.integers(0, 9)), min_size=1, max_size=40))
def test_bars_of_a_row_do_not_overlap(spans: list[tuple[int, int]]) -> None:
    """Oracle: all pairs of bars; as many rows as bars overlap at most, counted at every start."""
    spans = sorted(spans)
    starts = [float(start) for start, _ in spans]
    ends = [float(start + length) for start, length in spans]
    rows = assign_rows(starts, ends)
    bars = list(zip(starts, ends, rows, strict=True))
    for i, (start, _, row) in enumerate(bars):
        assert all(end <= start for _, end, other in bars[:i] if other == row)
    # A bar without length is in its row until the next one starts.
    most = max(sum(s <= start < e or s == start for s, e, _ in bars) for start in starts)
    assert max(rows) + 1 <= most


def test_a_bar_for_each_trial_that_began() -> None:
    """Oracle: by hand, in minutes; the trial that runs ends with the last time known."""
    begun = pd.to_datetime([f"2026-01-01 00:{m:02d}Z" for m in (0, 0, 10)])
    ended = pd.to_datetime(["2026-01-01 00:10Z", None, "2026-01-01 00:30Z"])
    trials = pd.DataFrame({"trial_number": [0, 1, 2], "started_at": begun, "ended_at": ended})
    figure = draw_timeline(trials.assign(state=["COMPLETE", "RUNNING", "FAIL"]))
    assert figure is not None
    assert figure.layout.xaxis.title.text == "minutes since the first trial began"
    drawn = {trace.name: [*trace.x[:2], trace.y[0], trace.customdata[0]] for trace in figure.data}
    assert drawn == {
        "complete": pytest.approx([0, 10, 0, 0]),
        "not ended": pytest.approx([0, 30, 1, 1]),
        "failed": pytest.approx([10, 30, 0, 2]),
    }
    assert not figure.layout.yaxis.visible
    assert draw_timeline(trials.assign(state="RUNNING", ended_at=pd.NaT)) is None


def test_the_timeline_groups_the_rows_of_a_host() -> None:
    """Oracle: by hand. Trials 0 and 2 overlap on host b, trial 3 follows there, and trial 1 ran on
    host a, which comes first; the host of trial 4 is not known. Labels are in the middle of their
    rows. With two devices, they are named, too."""
    trials = made_trials(
        {"at": 0, "minutes": 10, "host": "b"},
        {"at": 1, "minutes": 10, "host": "a"},
        {"at": 2, "minutes": 10, "host": "b"},
        {"at": 12, "minutes": 10, "host": "b"},
        {"at": 13, "minutes": 10, "host": None},
    )
    figure = draw_timeline(trials)
    assert figure is not None
    (bars,) = figure.data
    rows = dict(zip(bars.customdata, bars.y, strict=True))
    assert rows.pop(None) is None
    assert rows == pytest.approx({0: 1.6, 1: 0, 2: 2.6, 3: 1.6, 4: 4.2})
    assert figure.layout.yaxis.visible
    assert figure.layout.yaxis.ticktext == ("a", "b", "unknown host")
    assert figure.layout.yaxis.tickvals == pytest.approx([0, 2.1, 4.2])
    figure = draw_timeline(trials.assign(device=["cpu", "cpu", "cuda", "cuda", None]))
    assert figure is not None
    assert figure.layout.yaxis.ticktext == ("a, cpu", "b, cpu", "b, cuda", "unknown host")


@pytest.mark.parametrize(
    ("hours", "unit"),
    [
        (60, "days"),
        (47, "hours"),
        (2, "hours"),
        (1.9, "minutes"),
        (0.01, "seconds"),
        (0, "seconds"),
    ],
)
def test_the_unit_of_an_axis_fits(hours: float, unit: str) -> None:
    """Oracle: the largest unit of which there are at least two, or seconds."""
    per_hour, name = choose_time_unit(hours)
    assert name == unit
    assert per_hour == {"days": 1 / 24, "hours": 1, "minutes": 60, "seconds": 3600}[unit]
