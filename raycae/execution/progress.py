"""The view of a running search: live on a terminal and in a notebook, plain lines on a pipe."""

from __future__ import annotations

import io
import sys
import time
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import Any, Self

from rich.console import Console, RenderableType
from rich.live import Live

from raycae.execution.progress_state import ProgressState
from raycae.execution.progress_view import SearchView
from raycae.execution.time_left import Forecast, TimeLeft
from raycae.formatting import format_count, format_duration, make_printable
from raycae.study.ledger import Event
from raycae.study.records import Records

STARTING = "Starting"
"""The phase until another one is named."""
TRAINING_EVENTS = ("created", "started", "lost", "ended")
"""Before the first epoch, a note about workers follows these events. Others also occur in a resumed
search with nothing to train."""
REPEAT_S = 60.0
"""On a pipe, a note about waiting is printed again after this many seconds, and so is a line about
the trials if nothing else was printed."""
COUNT_EVERY_S = 10.0
"""On a pipe, the counter of a step after the trials is printed again after this many seconds."""
CELL_EVERY_S = 1.0
"""The output of a notebook's cell is replaced at most once in this many seconds."""


class Progress:
    """The view of a running search, which follows the events of its study.

    Args:
        trials: The study's total number of trials.
        epochs: Epochs of a full trial.
        until: The deadline in seconds of `time.monotonic()`, or None.
        results: Where the study is stored, as it is shown.
        is_frontier: Whether the search looks for a Pareto front.
        console: Where the live view is drawn.

    Attributes:
        console: Where the live view is drawn.
        state: What is known of the search.
    """

    def __init__(
        self,
        trials: int,
        epochs: int,
        *,
        until: float | None = None,
        results: str = "",
        is_frontier: bool = False,
        console: Console | None = None,
    ) -> None:
        self.console = console or Console()
        left = TimeLeft(trials, epochs)
        self.state = ProgressState(
            trials,
            epochs,
            until,
            left,
            results,
            is_frontier,
            phase=STARTING,
            note=f"{STARTING} …",
        )
        self._waits: dict[str, float] = {}
        """When each kind of waiting was printed last."""
        self._step_started_s = self._step_printed_s = 0.0
        self._printed_s = time.monotonic()
        """When the last line was printed on a pipe."""
        self._live: Live | NotebookCell | None = None
        if self.console.is_terminal:
            self._live = Live(
                get_renderable=self.render, console=self.console, refresh_per_second=4
            )
        elif self.console.is_jupyter:
            self._live = NotebookCell(self.render)

    def __enter__(self) -> Self:
        if self._live:
            self._live.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.state.note = ""
        if self._live:
            self._live.stop()

    def expect(self, forecast: Forecast | None) -> None:
        """Estimate the time left with what is expected of the trials.

        Args:
            forecast: What is expected; None if nothing is.
        """
        self.state.left = TimeLeft(self.state.trials, self.state.epochs, forecast)

    def say(self, note: str) -> None:
        """Show a note in the last line of the live view.

        Args:
            note: The line.
        """
        self.state.note = note
        self._refresh()

    def begin_phase(self, phase: str) -> None:
        """Show what happens now apart from the trials; on a pipe a line is printed.

        Args:
            phase: What happens, in the -ing form.
        """
        self.count(phase, 0, 1)

    def count(self, step: str, done: int, total: int) -> None:
        """Show how far a step after the trials has come, and the time it still takes.

        On a pipe, a line is printed when the step begins, then every `COUNT_EVERY_S` seconds.

        Args:
            step: The name of the step, in the -ing form.
            done: How many of its parts are done.
            total: The number of its parts, at least 1.
        """
        now, state = time.monotonic(), self.state
        if is_new := step != state.phase:
            state.phase, self._step_started_s = step, now
        text = f"{step}: {done}/{total}" if total > 1 else f"{step} …"
        if 0 < done < total:
            left_s = (now - self._step_started_s) / done * (total - done)
            text += f", {format_duration(left_s)} left"
        if self._live is None and (is_new or now - self._step_printed_s >= COUNT_EVERY_S):
            self._print(text)
            self._step_printed_s = now
        self.say(text)

    def tick(self) -> None:
        """Print a line about the trials on a pipe if none was printed for `REPEAT_S` seconds.

        A search calls it several times a second, also while nothing happens.
        """
        is_due = time.monotonic() - self._printed_s >= REPEAT_S
        if self._live is not None or self.state.phase or not is_due:
            return
        state = self.state
        running = format_count(len(state.list_running()), "running trial")
        left_s = state.estimate_seconds_left()
        left = "" if left_s is None else f", {format_duration(left_s)} left"
        self._print(f"Training: {state.records.n_ended()}/{state.trials} trials, {running}{left}")

    def warn(self, text: str) -> None:
        """Print a line that stays.

        Args:
            text: The line. It appears above the live view, or on standard error.
        """
        if isinstance(self._live, Live):
            self._live.console.print(make_printable(text), markup=False, highlight=False)
        else:
            print(make_printable(text), file=sys.stderr, flush=True)

    def wait(self, text: str) -> None:
        """Show what the search waits for: in the live view, or once a minute on standard error.

        Args:
            text: The kind of waiting, a colon and details, which may change from call to call.
        """
        kind, now = text.partition(":")[0], time.monotonic()
        text = make_printable(text)
        if self._live:
            self.state.note = text
            self._refresh()
        elif now - self._waits.get(kind, -REPEAT_S) >= REPEAT_S:
            print(text, file=sys.stderr, flush=True)
            self._waits[kind] = now

    def load_records(self, records: Records) -> None:
        """Show what earlier processes have done. It does not count for the pace of this one.

        Args:
            records: What the study knows of its trials.
        """
        self.state.load_records(records)

    def listen(self, event: Event, records: Records) -> None:
        """Show an event of the study.

        Args:
            event: The event.
            records: What the study knows after it.
        """
        self.state.apply(event, records)
        self.state.note = ""
        if event["event"] != "evaluated":  # A step after the trials records these.
            self.state.phase = ""
        if event["event"] in TRAINING_EVENTS and not self.state.has_epochs:
            is_training = bool(self.state.list_running())
            self.state.note = "Training the first epochs …" if is_training else "Starting workers …"
        if event["event"] == "lost":
            row = records.trials[event["trial_number"]]
            kept = row["epochs_run"] or 0
            self.warn(f"trial {row['trial_number']}: {event['reason']}; epochs kept: {kept}")
        elif event["event"] == "ended" and self._live is None:
            self._print(self.format_trial_line(records.trials[event["trial_number"]]))
        self._refresh()

    def format_trial_line(self, row: Mapping[str, Any]) -> str:
        """Write one line about a trial that has ended.

        Args:
            row: The trial, with the columns of `trials.parquet`.
        """
        records = self.state.records
        best = records.best()
        parts = [
            f"[{records.n_ended()}/{self.state.trials}] trial {row['trial_number']}",
            row["state"],
        ]
        if row["change"]:
            parts.append(row["change"])
        if row["val_mse"] is not None:
            parts.append(f"val_mse {row['val_mse']:.5f}")
        parts.append(f"latent {row['latent_size']}")
        parts.append(f"{row['n_params']:,} params")
        if row["wall_time_s"] is not None:
            n = row["epochs_run"]
            parts.append(f"{n} epoch{'s' * (n != 1)} in {row['wall_time_s']:.1f} s")
        if row["reason"]:
            parts.append(f"({row['reason']})")
        if best and best["trial_number"] == row["trial_number"]:
            parts.append("best so far")
        return "  ".join(parts)

    def render(self) -> SearchView:
        """Draw the live view."""
        return SearchView(self.state)

    def _print(self, line: str) -> None:
        """Print a line on a pipe."""
        print(line, flush=True)
        self._printed_s = time.monotonic()

    def _refresh(self) -> None:
        if isinstance(self._live, NotebookCell):
            self._live.refresh()


class NotebookCell:
    """The live view as one output of a notebook's cell, replaced at most once a second.

    `rich.live.Live` would need ipywidgets there, whose outputs are not saved with the notebook.
    """

    def __init__(self, render: Callable[[], RenderableType]) -> None:
        self._render = render
        self._shown_at = 0.0

    def start(self) -> None:
        """Display the output."""
        from IPython.display import display

        self._shown = display(self._render_output(), raw=True, display_id=True)

    def refresh(self) -> None:
        """Replace the output unless it was replaced within the last `CELL_EVERY_S` seconds."""
        if time.monotonic() - self._shown_at >= CELL_EVERY_S:
            self._shown.update(self._render_output(), raw=True)

    def stop(self) -> None:
        """Replace the output for the last time."""
        self._shown.update(self._render_output(), raw=True)

    def _render_output(self) -> dict[str, str]:
        """Draw the view as text and as HTML, by MIME type."""
        self._shown_at = time.monotonic()
        console = Console(
            file=io.StringIO(),
            record=True,
            width=100,
            force_jupyter=False,
            color_system="truecolor",
        )
        console.print(self._render())
        text = console.export_text(clear=False)
        return {
            "text/plain": text,
            "text/html": console.export_html(inline_styles=True, code_format="<pre>{code}</pre>"),
        }
