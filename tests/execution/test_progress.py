"""The live view at fixed sizes, drawn from events, and the time left."""

from __future__ import annotations

import io
import random
import re
import runpy
import statistics
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from rich.cells import cell_len
from rich.console import Console
from rich.text import Text
from syrupy.assertion import SnapshotAssertion

from raycae.execution.progress import Progress
from raycae.execution.progress_state import ProgressState
from raycae.execution.progress_view import ASCII, BLOCKS, draw_curve, draw_lines
from raycae.execution.time_left import Forecast, TimeLeft
from raycae.space import loading
from raycae.study.records import COMPLETE, FAIL, PRUNED, RUNNING, Records

SIZES = [(60, 20), (80, 24), (100, 30), (200, 50)]
"""Widths and heights from small to large."""
EPOCHS = 6


class Clock:
    """A clock that a test sets, in seconds."""

    def __init__(self) -> None:
        self.now_s = 1000.0

    def monotonic(self) -> float:
        """Return the time."""
        return self.now_s


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """Set the clock and the load of the machine."""
    made = Clock()
    monkeypatch.setattr("time.monotonic", made.monotonic)
    monkeypatch.setattr(
        "raycae.execution.progress_view.describe_load", lambda: "load 1.9 on 2 cores"
    )
    return made


def play_search(clock: Clock, n_ended: int, n_running: int, *, frontier: bool = False) -> Progress:
    """Play the events of a search.

    Args:
        clock: Goes on by 3 s with every epoch.
        n_ended: Number of trials that have ended: most of them pruned, every ninth failed.
        n_running: Number of trials that run.
        frontier: Whether the search looks for a Pareto front.
    """
    space, draw = loading.load_space("demo"), random.Random(0)
    configs = list(space.points.values())
    progress = Progress(
        n_ended + n_running + 7,
        EPOCHS,
        results="results/holidays-in-a-very-long-folder-name",
        is_frontier=frontier,
        console=Console(file=io.StringIO()),
    )
    records = Records("holidays", 2688)

    def tell(number: int, kind: str, **columns: Any) -> None:
        at = datetime(2026, 1, 1, tzinfo=UTC)
        event = {"event": kind, "at": at, "trial_number": number, "attempt": 1, **columns}
        records.apply(event)
        progress.listen(event, records)

    for number in range(n_ended + n_running):
        config = configs[number % len(configs)]
        tell(number, "created", point=None, params="{}", config=config.to_json(), seed=number)
        tell(number, "started")
        state = RUNNING
        if number < n_ended:
            state = FAIL if number % 9 == 8 else COMPLETE if number % 3 == 0 else PRUNED
        error = draw.lognormvariate(-6, 1)
        for epoch in range(1, {COMPLETE: 6, PRUNED: 2, FAIL: 1, RUNNING: number % 5}[state] + 1):
            clock.now_s += 3
            tell(
                number,
                "epoch",
                epoch=epoch,
                val_mse=error * (1 + 1 / epoch),
                train_mse=error,
                val_psnr_db=25 + number / 10,
                epoch_time_s=3.0,
                images_per_s=900.0,
                test_mse=None,
                host="node-17",
                device="cpu",
            )
        if state != RUNNING:
            tell(number, "ended", state=state)
    return progress


def draw_view(progress: Progress, width: int, height: int) -> str:
    """Draw the view as text without colours."""
    file = io.StringIO()
    console = Console(file=file, width=width, height=height, force_terminal=True, no_color=True)
    console.print(progress.render())
    return file.getvalue()


@pytest.mark.parametrize(("width", "height"), SIZES)
@pytest.mark.parametrize("name", ["first", "few", "many", "frontier"])
def test_view(
    clock: Clock, name: str, width: int, height: int, snapshot: SnapshotAssertion
) -> None:
    """Oracle: the recorded view, read by a person; no line is wider than the terminal, and the view
    leaves one line free, so that nothing scrolls."""
    progress = {
        "first": lambda: play_search(clock, 0, 2),
        "few": lambda: play_search(clock, 12, 2),
        "many": lambda: play_search(clock, 40, 64),
        "frontier": lambda: play_search(clock, 12, 2, frontier=True),
    }[name]()
    lines = [line.plain for line in draw_lines(progress.state, width, height - 1, BLOCKS)]
    assert len(lines) <= height - 1
    shown = draw_view(progress, width, height)
    plain = [line.rstrip() for line in Text.from_ansi(shown).plain.splitlines()]
    assert len(plain) == len(lines)
    assert all(cell_len(line) <= width for line in plain)
    assert "\n".join(plain) == snapshot


@pytest.mark.parametrize("height", [1, 3, 5, 8, 11])
def test_a_low_terminal(clock: Clock, height: int) -> None:
    """Oracle: the height; the line with the trials comes first."""
    lines = draw_lines(play_search(clock, 12, 9).state, 60, height, BLOCKS)
    assert len(lines) <= height
    assert "done" in lines[0].plain


def test_ascii_terminals(clock: Clock) -> None:
    """Oracle: the encoding of the stream."""
    progress = play_search(clock, 12, 2)
    stream = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    console = Console(file=stream, width=80, height=24, force_terminal=True, no_color=True)
    console.print(progress.render())
    stream.flush()
    assert "######" in stream.buffer.getvalue().decode("ascii")  # type: ignore[attr-defined]


def test_no_color(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    """Oracle: no code of a colour, which would be 30 to 37 or 90 to 97."""
    monkeypatch.setenv("NO_COLOR", "1")
    file = io.StringIO()
    Console(file=file, width=80, height=24, force_terminal=True).print(
        play_search(clock, 12, 2).render()
    )
    assert not re.search(r"\x1b\[[\d;]*\b[39][0-7]\b", file.getvalue())


@pytest.mark.parametrize(
    ("values", "curve"),
    [([1e7, 1e3, 1.0], "█▄▁"), ([2.0, 2.0], "▁▁"), ([8.0, 8, 8, 8, 1, 1, 1, 1], "██▁▁")],
)
def test_curve(values: list[float], curve: str) -> None:
    """Oracle: by hand, on a logarithmic scale of eight levels."""
    assert draw_curve(values, 4, BLOCKS) == curve
    assert len(draw_curve(values, 4, ASCII)) == len(curve)


def test_lines_on_a_pipe_are_sparse(clock: Clock, capsys: pytest.CaptureFixture[str]) -> None:
    """Oracle: by hand: a line when a phase begins; one a minute if nothing ends."""
    progress = Progress(5, EPOCHS, console=Console(file=io.StringIO()))
    for _ in range(3):
        progress.begin_phase("Starting Ray")
        progress.tick()
        clock.now_s += 70
    assert capsys.readouterr().out.splitlines() == ["Starting Ray …"] * 3
    progress = play_search(clock, 2, 1)
    capsys.readouterr()
    for _ in range(650):  # 130 s
        progress.tick()
        clock.now_s += 0.2
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 2
    assert all(line.startswith("Training: 2/10 trials, 1 running trial, ") for line in lines)


def make_row(number: int, state: str, epochs: int, epoch_s: float) -> dict[str, Any]:
    """Make the row of a trial whose network is not known."""
    return {
        "trial_number": number,
        "state": state,
        "attempt": 1,
        "reason": None,
        "epochs_run": epochs,
        "wall_time_s": epochs * epoch_s or None,
        "config": None,
        "point": None,
    }


def test_time_left_by_hand() -> None:
    """Oracle: by hand. Two workers; a trial of 4 epochs of 10 s has ended, two have run 1 and 2
    epochs and continue to 4, and three further ones are to come: 30 s and 20 s, then
    20 + 40, 30 + 40 and 60 + 40 s."""
    left = TimeLeft(6, 4)
    running = [make_row(1, RUNNING, 1, 10.0), make_row(2, RUNNING, 2, 10.0)]
    rows = [make_row(0, COMPLETE, 4, 10.0), *running]
    assert left.estimate([make_row(0, RUNNING, 0, 0.0)], [], {}) is None
    assert left.estimate(rows, running, {}) == pytest.approx(100)
    assert left.estimate(rows, running, {1: 5.0, 2: 5.0}) == pytest.approx(95)


def test_time_left_learns_the_time_beside_epochs_and_the_epochs() -> None:
    """Oracle: by hand. Trials take twice as long as their epochs. They were expected to run 2
    epochs, and the ended one ran 4 of 4: with the weight of four trials of 4 epochs, (16 + 4) /
    (16 + 2) times as many, 2.22 epochs of 20 s."""
    forecast = Forecast([2.0] * 6, alive=[2.0, 3.0, 4.0, 4.0], lengths=[2], costs=[1.0])
    left = TimeLeft(3, 4, forecast)
    ended = make_row(0, COMPLETE, 4, 10.0)
    left.end_trial(ended, 80.0)
    assert left.estimate([ended], [], {}) == pytest.approx(2 * 2 * 20 / 18 * 20)


def test_time_left_of_many_trials() -> None:
    """Oracle: proportion. Of 30,000 trials to come only some are drawn; two workers need 15,000
    times 4 epochs of 10 s."""
    left = TimeLeft(30_002, 4)
    running = [make_row(1, RUNNING, 4, 10.0), make_row(2, RUNNING, 4, 10.0)]
    rows = [make_row(0, COMPLETE, 4, 10.0), *running]
    assert left.estimate(rows, running, {}) == pytest.approx(600_000, rel=0.01)


def test_time_left_in_a_recorded_search() -> None:
    """Oracle: the time that the search still took. Over all trials from the third to the last but
    one, the median error is at most 30 %; that of the pace so far is twice as large."""
    script = Path(__file__).parents[2] / "analysis" / "benchmarks" / "time_left.py"
    measure = runpy.run_path(str(script))["measure_recorded"]
    errors = measure(script.parents[1] / "recorded" / "search-ex2")
    assert len(errors["now"]) == 17
    assert statistics.median(errors["now"]) <= 0.3
    assert statistics.median(errors["pace"]) >= 2 * statistics.median(errors["now"])


def test_half_a_row() -> None:
    """Oracle: by hand. The main thread has counted the first epoch of a trial and not noted its
    duration yet: it counts as one that has run none."""
    left = TimeLeft(2, 4)
    half = {**make_row(1, RUNNING, 1, 10.0), "wall_time_s": None}
    assert left.estimate([make_row(0, COMPLETE, 4, 10.0), half], [half], {}) == pytest.approx(40)


@pytest.mark.parametrize("is_frontier", [False, True])
def test_the_best_trials(is_frontier: bool) -> None:
    """Oracle: those chosen from all trials at once. After every trial that ends, only it and those
    chosen before are compared."""
    draw = random.Random(0)
    records = Records("s", cost="latent_size")
    state = ProgressState(200, 1, is_frontier=is_frontier)
    for number in range(200):
        row = {"trial_number": number, "state": draw.choice([COMPLETE, PRUNED, FAIL])}
        row |= {"val_mse": draw.random(), "latent_size": draw.randrange(1, 60)}
        row |= {"wall_time_s": 1.0, "epochs_run": 1}
        records.trials[number] = row
        state.apply({"event": "ended", "trial_number": number}, records)
        whole = ProgressState(200, 1, is_frontier=is_frontier)
        whole.load_records(records)
        assert (state.top, state.n_front) == (whole.top, whole.n_front)


def test_workers_start_only_where_trials_need_them() -> None:
    """Oracle: by hand: a resumed search has only interrupted and evaluated trials to record; a
    search that creates a trial does start workers."""
    progress = Progress(2, EPOCHS, console=Console(file=io.StringIO()))
    records = Records("s", 100)
    config = next(iter(loading.load_space("demo").points.values())).to_json()
    notes = {}
    for event in (
        {"event": "created", "point": None, "params": "{}", "config": config, "seed": 0},
        {"event": "started"},
        {"event": "interrupted"},
        {"event": "evaluated", "test_mse": 0.01},
    ):
        at = datetime(2026, 1, 1, tzinfo=UTC)
        attempt = int(event["event"] != "created")
        event = {"at": at, "trial_number": 0, "attempt": attempt, **event}
        records.apply(event)
        progress.listen(event, records)
        notes[event["event"]] = progress.state.note
    assert notes["created"] == "Starting workers …"
    assert notes["started"] == "Training the first epochs …"
    assert notes["interrupted"] == notes["evaluated"] == ""
