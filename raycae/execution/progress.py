"""The view of a running search: live on a terminal and in a notebook, plain lines on a pipe."""

from __future__ import annotations

import io
import sys
import time
from collections.abc import Callable, Collection, Iterable, Mapping
from types import TracebackType
from typing import Any, Self

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from raycae.formatting import format_duration
from raycae.study.ledger import Event
from raycae.study.records import COMPLETE, FAIL, INTERRUPTED, PRUNED, RUNNING, Records

STYLES = {COMPLETE: "green", PRUNED: "yellow", FAIL: "red", RUNNING: "cyan"}
"""The colour of each state in the live view."""
WORDS = {COMPLETE: "done", RUNNING: "running", PRUNED: "pruned", FAIL: "failed"}
"""The name of each state in the live view, in the order in which they are shown."""
STARTING = "starting Ray …"
"""The last line of the live view until the study is open."""
REPEAT_S = 60.0
"""On a pipe, a note about waiting is printed again after this many seconds."""
RATE_WINDOW_S = 60.0
"""The number of images per second is averaged over this many seconds."""
COUNT_EVERY_S = 10.0
"""On a pipe, the counter of a step after the trials is printed again after this many seconds."""
CELL_EVERY_S = 1.0
"""The output of a notebook's cell is replaced at most once in this many seconds."""


class Progress:
    """The view of a running search, which follows the events of its study.

    Attributes:
        console: Where the live view is drawn.
        trials: The study's total number of trials.
        epochs: Epochs of a full trial.
        until: The deadline in seconds of `time.monotonic()`, or None.
        records: What the study knows of its trials.
        note: The last line of the live view.
    """

    def __init__(
        self,
        trials: int,
        epochs: int,
        *,
        until: float | None = None,
        console: Console | None = None,
    ) -> None:
        self.console = console or Console()
        self.trials, self.epochs, self.until = trials, epochs, until
        self.records = Records()
        self.note = STARTING
        self._waits: dict[str, float] = {}
        """When each kind of waiting was printed last."""
        self._started_s = time.monotonic()
        self._n_epochs = 0
        self._step = ""
        """The step after the trials that runs now."""
        self._step_started_s = self._step_printed_s = 0.0
        self._images: list[tuple[float, float]] = []
        """When an epoch ended, and how many images it saw."""
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
        self.note = ""
        if self._live:
            self._live.stop()

    def say(self, note: str) -> None:
        """Show what happens apart from the trials.

        Args:
            note: The last line of the live view.
        """
        self.note = note
        self._refresh()

    def count(self, step: str, done: int, total: int) -> None:
        """Show how far a step after the trials has come, and the time it still takes.

        On a pipe, a line is printed when the step begins, then every `COUNT_EVERY_S` seconds.

        Args:
            step: The name of the step, in the -ing form.
            done: How many of its parts are done.
            total: The number of its parts, at least 1.
        """
        now = time.monotonic()
        if is_new := step != self._step:
            self._step, self._step_started_s = step, now
        text = f"{step}: {done}/{total}" if total > 1 else f"{step} …"
        if 0 < done < total:
            left_s = (now - self._step_started_s) / done * (total - done)
            text += f", {format_duration(left_s)} left"
        if self._live is None and (is_new or now - self._step_printed_s >= COUNT_EVERY_S):
            print(text, flush=True)
            self._step_printed_s = now
        self.say(text)

    def warn(self, text: str) -> None:
        """Print a line that stays.

        Args:
            text: The line. It appears above the live view, or on standard error.
        """
        if isinstance(self._live, Live):
            self._live.console.print(text, markup=False, highlight=False)
        else:
            print(text, file=sys.stderr, flush=True)

    def wait(self, text: str) -> None:
        """Show what the search waits for: in the live view, or once a minute on standard error.

        Args:
            text: The kind of waiting, a colon and details, which may change from call to call.
        """
        kind, now = text.partition(":")[0], time.monotonic()
        if self._live:
            self.note = text
            self._refresh()
        elif now - self._waits.get(kind, -REPEAT_S) >= REPEAT_S:
            print(text, file=sys.stderr, flush=True)
            self._waits[kind] = now

    def load_records(self, records: Records) -> None:
        """Show what earlier processes have done. It does not count for the pace of this one.

        Args:
            records: What the study knows of its trials.
        """
        self.records = records

    def listen(self, event: Event, records: Records) -> None:
        """Show an event of the study.

        Args:
            event: The event.
            records: What the study knows after it.
        """
        self.records = records
        self.note = ""
        if event["event"] != "evaluated":  # A step after the trials records these.
            self._step = ""
        if event["event"] == "epoch":
            self._n_epochs += 1
            now = time.monotonic()
            n_images = event.get("n_images") or records.n_images or 0
            self._images.append((now, n_images))
        elif event["event"] == "lost":
            row = records.trials[event["trial_number"]]
            kept = row["epochs_run"] or 0
            self.warn(f"trial {row['trial_number']}: {event['reason']}; epochs kept: {kept}")
        elif event["event"] == "ended" and self._live is None:
            print(self.format_trial_line(records.trials[event["trial_number"]]), flush=True)
        self._refresh()

    def format_trial_line(self, row: Mapping[str, Any]) -> str:
        """Write one line about a trial that has ended.

        Args:
            row: The trial, with the columns of `trials.parquet`.
        """
        ended = self.records.n_ended()
        best = self.records.best()
        parts = [f"[{ended}/{self.trials}] trial {row['trial_number']}", row["state"]]
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

    def render(self) -> Group:
        """Draw the live view."""
        counts = self.records.counts()
        ended = self.records.n_ended()
        running = list_running(self.records.trials.values())
        # Tune asks for a trial before a slot is free. A trial that waits is not running.
        shown = {**counts, RUNNING: len(running)}
        head = Text()
        head.append(f"{self.records.study or 'search'}  ", style="bold")
        for state, word in WORDS.items():
            n = shown.get(state, 0)
            head.append(f"{n} {word}  ", style=STYLES[state] if n else "dim")
        facts = Table.grid(padding=(0, 2))
        facts.add_column(style="dim")
        facts.add_column()
        bar = ProgressBar(total=self.trials, completed=ended, width=40)
        facts.add_row(f"{ended}/{self.trials}", bar)
        if best := self.records.best():
            facts.add_row(
                "best",
                f"trial {best['trial_number']}: val_mse [bold]{best['val_mse']:.5f}[/] "
                f"({best['val_psnr_db']:.2f} dB) at latent {best['latent_size']}, "
                f"{best['n_params']:,} parameters",
            )
        if not self._step:
            facts.add_row("pace", self.format_pace())
        lines: list[RenderableType] = [head, facts]
        lines += [self._format_running_line(row) for row in running]
        if self.note:
            lines.append(Text(self.note, style="dim"))
        return Group(*lines)

    def format_pace(self) -> str:
        """Write how many images per second were seen lately, and the time left."""
        now = time.monotonic()
        self._images = [(at_s, n) for at_s, n in self._images if now - at_s < RATE_WINDOW_S]
        elapsed_s = max(min(RATE_WINDOW_S, now - self._started_s), 1e-9)
        rate = sum(n for _, n in self._images) / elapsed_s
        left_s = self.estimate_seconds_left()
        left = "time left unknown" if left_s is None else f"{format_duration(left_s)} left"
        return f"{rate:,.0f} images/s, {left}"

    def estimate_seconds_left(self) -> float | None:
        """Estimate the seconds to the end, by the pace so far or the deadline, if that is sooner.

        Returns:
            The seconds; None if neither is known.
        """
        spent_s = time.monotonic() - self._started_s
        deadline = None if self.until is None else max(self.until - time.monotonic(), 0.0)
        rows = self.records.trials.values()
        left_s = estimate_time_left(rows, self.trials, self._n_epochs, spent_s)
        return min((s for s in (left_s, deadline) if s is not None), default=None)

    def _refresh(self) -> None:
        if isinstance(self._live, NotebookCell):
            self._live.refresh()

    def _format_running_line(self, row: Mapping[str, Any]) -> Text:
        done = row["epochs_run"] or 0
        error = f"val_mse {row['val_mse']:.5f}" if row["val_mse"] is not None else "first epoch"
        text = f"  trial {row['trial_number']}  epoch {done}/{self.epochs}  {error}"
        return Text(f"{text}  latent {row['latent_size']}", style="cyan")


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


def estimate_time_left(
    rows: Collection[Mapping[str, Any]], trials: int, epochs: int, spent_s: float
) -> float | None:
    """Estimate the time until all trials have ended, by the pace so far.

    A trial to come is taken to run as many epochs as those that have ended, on average.

    Args:
        rows: The trials so far, with the columns of `trials.parquet`.
        trials: The total number of trials.
        epochs: Epochs that have ended during `spent_s`.
        spent_s: Seconds since the search or its resumption began.

    Returns:
        Seconds; None while nothing is known.
    """
    ended = [row["epochs_run"] or 0 for row in rows if row["state"] != RUNNING]
    if not epochs or not sum(ended):
        return None
    epochs_left = sum(ended) / len(ended) * (trials - len(ended))
    epochs_left -= sum(row["epochs_run"] or 0 for row in list_running(rows))
    return max(epochs_left, 0.0) * spent_s / epochs


def list_running(rows: Iterable[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """List the trials that a worker has started, without those of an earlier process.

    Args:
        rows: Trials with the columns of `trials.parquet`.
    """
    running = (row for row in rows if row["state"] == RUNNING and row["attempt"])
    return [row for row in running if row["reason"] != INTERRUPTED]
