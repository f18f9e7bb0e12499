"""What a person sees while a search runs: a live view on a terminal and in a notebook, plain lines
on a pipe."""

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
WORDS = {COMPLETE: "done", RUNNING: "running", PRUNED: "pruned", FAIL: "failed"}
STARTING = "starting Ray …"
AGAIN_S = 60.0
CELL_EVERY_S = 1.0


class Progress:
    """Listens to a study. `trials` and `epochs` are what was asked for, `until` a deadline on
    `time.monotonic`'s clock, if there is one."""

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
        self._waited: dict[str, float] = {}
        self._begun = time.monotonic()
        self._epochs_before = 0
        self._epochs_now = 0
        self._images: list[tuple[float, float]] = []
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
        """What goes on beside the trials, in the last line of the live view."""
        self.note = note
        self._refresh()

    def warn(self, text: str) -> None:
        """What a person should know even later: a line of its own, above the live view."""
        if isinstance(self._live, Live):
            self._live.console.print(text, markup=False, highlight=False)
        else:
            print(text, file=sys.stderr, flush=True)

    def wait(self, text: str) -> None:
        """What is waited for, said again and again: in the last line of the live view, on a pipe
        once a minute."""
        kind, now = text.partition(":")[0], time.monotonic()
        if self._live:
            self.note = text
            self._refresh()
        elif now - self._waited.get(kind, -AGAIN_S) >= AGAIN_S:
            print(text, file=sys.stderr, flush=True)
            self._waited[kind] = now

    def resumed(self, records: Records) -> None:
        """What an earlier process had done; it does not count for this one's pace."""
        self.records = records

    def listen(self, event: Event, records: Records) -> None:
        self.records = records
        self.note = ""
        if event["event"] == "epoch":
            self._epochs_now += 1
            now = time.monotonic()
            n_images = event.get("n_images") or records.n_images or 0
            self._images.append((now, n_images))
        elif event["event"] == "lost":
            row = records.trials[event["trial_number"]]
            kept = row["epochs_run"] or 0
            self.warn(f"trial {row['trial_number']}: {event['reason']}; epochs kept: {kept}")
        elif event["event"] == "ended" and self._live is None:
            print(self.line(records.trials[event["trial_number"]]), flush=True)
        self._refresh()

    def line(self, row: Mapping[str, Any]) -> str:
        """One finished trial in plain words."""
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
        counts = self.records.counts()
        ended = self.records.n_ended()
        running = self._running()
        # Tune asks for a trial ahead of a free place; what waits is not running.
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
        facts.add_row("pace", self.pace())
        lines: list[RenderableType] = [head, facts]
        lines += [self._running_line(row) for row in running]
        if self.note:
            lines.append(Text(self.note, style="dim"))
        return Group(*lines)

    def pace(self) -> str:
        """Images a second over the last minute, and the time left."""
        now = time.monotonic()
        recent = [(at, n) for at, n in self._images if now - at < 60]
        self._images = recent
        since = max(min(60.0, now - self._begun), 1e-9)
        rate = sum(n for _, n in recent) / since
        left = self.seconds_left()
        return f"{rate:,.0f} images/s, " + (
            "time left unknown" if left is None else f"{format_duration(left)} left"
        )

    def seconds_left(self) -> float | None:
        """By the pace so far, or to the deadline."""
        spent = time.monotonic() - self._begun
        deadline = None if self.until is None else max(self.until - time.monotonic(), 0.0)
        left = estimate_time_left(
            self.records.trials.values(), self.trials, self._epochs_now, spent
        )
        known = [seconds for seconds in (left, deadline) if seconds is not None]
        return min(known, default=None)

    def _refresh(self) -> None:
        if isinstance(self._live, NotebookCell):
            self._live.refresh()

    def _running(self) -> list[Mapping[str, Any]]:
        return format_running(self.records.trials.values())

    def _running_line(self, row: Mapping[str, Any]) -> Text:
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
        from IPython.display import display

        self._shown = display(self._output(), raw=True, display_id=True)

    def refresh(self) -> None:
        if time.monotonic() - self._shown_at >= CELL_EVERY_S:
            self._shown.update(self._output(), raw=True)

    def stop(self) -> None:
        self._shown.update(self._output(), raw=True)

    def _output(self) -> dict[str, str]:
        """By MIME type."""
        self._shown_at = time.monotonic()
        paper = Console(
            file=io.StringIO(),
            record=True,
            width=100,
            force_jupyter=False,
            color_system="truecolor",
        )
        paper.print(self._render())
        text = paper.export_text(clear=False)
        return {
            "text/plain": text,
            "text/html": paper.export_html(inline_styles=True, code_format="<pre>{code}</pre>"),
        }


def estimate_time_left(
    rows: Collection[Mapping[str, Any]], trials: int, epochs: int, spent: float
) -> float | None:
    """Seconds until all `trials` have ended, by the pace so far: `epochs` in `spent` seconds. Those
    to come cost what those that ended cost on average; None where that is not known yet."""
    ended = [row["epochs_run"] or 0 for row in rows if row["state"] != RUNNING]
    if not epochs or not sum(ended):
        return None
    to_come = sum(ended) / len(ended) * (trials - len(ended))
    to_come -= sum(row["epochs_run"] or 0 for row in format_running(rows))
    return max(to_come, 0.0) * spent / epochs


def format_running(rows: Iterable[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    running = (row for row in rows if row["state"] == RUNNING and row["attempt"])
    return [row for row in running if row["reason"] != INTERRUPTED]
