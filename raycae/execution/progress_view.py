"""Draw the live view of a search, for every size of terminal.

Every line is cut at the width of the terminal, and lines are left out until the view fits its
height: first running trials, then the best ones.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from rich.console import Console, ConsoleOptions, RenderResult
from rich.text import Text

from raycae.execution.progress_state import ProgressState, Row, describe_load
from raycae.formatting import format_count, format_duration, format_error
from raycae.study.records import COMPLETE, FAIL, PRUNED, RUNNING

STYLES = {COMPLETE: "green", PRUNED: "yellow", FAIL: "red", RUNNING: "cyan"}
"""The colour of each state."""
WORDS = {COMPLETE: "done", RUNNING: "running", PRUNED: "pruned", FAIL: "failed"}
"""The name of each state, in the order in which they are shown."""
CELL_WIDTH = 29
"""Width of a running trial in columns, if there are too many for one line each."""
LABEL_WIDTH = 9
"""Width of the labels at the left."""
MEDIUM, WIDE = 75, 90
"""From these widths on, lines contain more."""
LEAST_WORKER_LINES = 3
"""The table of the best trials is shortened before fewer lines than these show running trials."""


@dataclass(frozen=True)
class Glyphs:
    """The characters of bars and curves.

    Attributes:
        done: A part of a bar that is done.
        rest: The rest of a bar.
        levels: The levels of a curve, ascending.
    """

    done: str
    rest: str
    levels: str


BLOCKS = Glyphs("█", "░", "▁▂▃▄▅▆▇█")
ASCII = Glyphs("#", ".", "_.-=+*#")
"""For terminals whose encoding is not UTF-8."""


class SearchView:
    """The live view, drawn anew for each size of the console.

    Args:
        state: What is known of the search.
    """

    def __init__(self, state: ProgressState) -> None:
        self._state = state

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """Draw the view.

        Args:
            console: The console.
            options: Its size and encoding.

        Yields:
            The lines.
        """
        glyphs = ASCII if options.ascii_only else BLOCKS
        height = (options.height or console.height) - 1
        for line in draw_lines(self._state, options.max_width, height, glyphs):
            line.no_wrap, line.overflow = True, "crop"
            line.truncate(options.max_width, overflow="crop" if options.ascii_only else "ellipsis")
            yield line


def draw_lines(state: ProgressState, width: int, height: int, glyphs: Glyphs) -> list[Text]:
    """Draw the view as lines.

    Args:
        state: What is known of the search.
        width: Width of the terminal in columns.
        height: Largest number of lines.
        glyphs: The characters of bars and curves.

    Returns:
        At most `height` lines.
    """
    running = state.list_running()
    head = [draw_title(state, len(running)), draw_bar_line(state, width, glyphs)]
    if not state.phase:
        head.append(draw_pace(state, width))
    tail = []
    if state.results:
        tail.append(label_line("results", Text(state.results)))
    if state.note:
        tail.append(Text(state.note, style="bold"))
    if state.top:
        head += draw_best(state, width, glyphs)
    room = height - len(head) - len(tail)
    n_workers = min(len(running), LEAST_WORKER_LINES)
    top = draw_top(state, width)
    top = top[: max(room - n_workers, 0)]
    top = top if len(top) > 2 else []
    workers = draw_running(state, running, width, room - len(top), glyphs)
    sections = [section for section in (head, top, workers, tail) if section]
    is_loose = sum(map(len, sections)) + len(sections) - 1 <= height
    lines: list[Text] = []
    for section in sections:
        lines += [Text(), *section] if is_loose and lines else section
    return lines[:height]


def label_line(label: str, text: Text) -> Text:
    """Put a dim label before a text.

    Args:
        label: The label.
        text: The text.
    """
    return Text.assemble((f"{label:{LABEL_WIDTH}}", "dim"), text)


def draw_title(state: ProgressState, n_running: int) -> Text:
    """Draw the line with the study's name and the number of trials in each state.

    Args:
        state: What is known of the search.
        n_running: Number of running trials. Tune asks for a trial before a slot is free; such a
            trial does not count.
    """
    counts = {**state.records.counts(), RUNNING: n_running}
    title = Text(f"{state.records.study or 'search'}  ", style="bold")
    for name, word in WORDS.items():
        n = counts.get(name, 0)
        title.append(f"{n} {word}  ", style=STYLES[name] if n else "dim")
    return title


def draw_bar_line(state: ProgressState, width: int, glyphs: Glyphs) -> Text:
    """Draw the progress bar with the number of trials, the elapsed time and the time left.

    Args:
        state: What is known of the search.
        width: Width of the terminal in columns.
        glyphs: The characters of the bar.
    """
    ended = state.records.n_ended()
    times = f"  {format_duration(state.get_elapsed_s())} elapsed"
    if not state.phase:
        left_s = state.estimate_seconds_left()
        times += "" if left_s is None else f", {format_duration(left_s)} left"
    bar_width = max(min(width - LABEL_WIDTH - len(times), 40), 5)
    bar = draw_bar(ended, state.trials, bar_width, glyphs)
    return label_line(f"{ended}/{state.trials}", Text.assemble((bar, "green"), times))


def draw_bar(done: int, total: int, width: int, glyphs: Glyphs) -> str:
    """Draw a bar.

    Args:
        done: How much is done.
        total: How much there is.
        width: Width of the bar in columns.
        glyphs: Its characters.
    """
    n = min(round(width * done / max(total, 1)), width)
    return glyphs.done * n + glyphs.rest * (width - n)


def draw_pace(state: ProgressState, width: int) -> Text:
    """Draw the line with the images per second and how busy the machine is.

    Args:
        state: What is known of the search.
        width: Width of the terminal in columns.
    """
    rate = f"{state.compute_image_rate():,.0f} images/s" if state.has_epochs else ""
    parts = [rate, describe_load()]
    devices = {row["device"] for row in state.list_running() if row["device"]}
    if devices and width >= WIDE:
        parts.append(f"on {', '.join(sorted(devices)[:4])}")
    return label_line("pace", Text(", ".join(filter(None, parts))))


def draw_best(state: ProgressState, width: int, glyphs: Glyphs) -> list[Text]:
    """Draw the best trial or the Pareto front, and the curve of the lowest error so far.

    Args:
        state: What is known of the search.
        width: Width of the terminal in columns.
        glyphs: The characters of the curve.
    """
    line = draw_front(state, width) if state.is_frontier else draw_best_trial(state.top[0], width)
    if len(state.best_curve) < 2:
        return [line]
    first, last = state.best_curve[0], state.best_curve[-1]
    ends = f"  lowest val_mse {format_error(first)} to {format_error(last)}"
    curve = draw_curve(state.best_curve, min(width - LABEL_WIDTH - len(ends), 60), glyphs)
    return [line, label_line("", Text.assemble((curve, "green"), (ends, "dim")))]


def draw_front(state: ProgressState, width: int) -> Text:
    """Draw the line about the Pareto front: its number of trials and its ends.

    Args:
        state: What is known of the search.
        width: Width of the terminal in columns.
    """
    cost, top = state.records.cost, state.top
    ends = [f"{row[cost]:,.6g}: {format_error(row['val_mse'])}" for row in (top[0], top[-1])]
    errors = " to ".join(dict.fromkeys(ends))
    if width >= MEDIUM:
        errors = f"val_mse by {cost}: {errors}"
    return label_line("front", Text(f"{format_count(state.n_front, 'trial')}; {errors}"))


def draw_best_trial(best: Row, width: int) -> Text:
    """Draw the line about the trial with the lowest error.

    Args:
        best: The trial.
        width: Width of the terminal in columns.
    """
    text = f"val_mse {format_error(best['val_mse'])}"
    if width >= MEDIUM:
        text += f" ({best['val_psnr_db']:.2f} dB)"
    text += f", latent {best['latent_size']:,}"
    if width >= WIDE:
        text += f", {best['n_params']:,} parameters"
    return label_line("best", Text(f"trial {best['trial_number']}: {text}"))


def draw_curve(values: Sequence[float], width: int, glyphs: Glyphs) -> str:
    """Draw a curve in one line, on a logarithmic scale.

    Args:
        values: The values, above 0. If there are more than columns, equally spaced ones are drawn.
        width: Largest width in columns.
        glyphs: The characters of the curve.
    """
    width = max(width, 2)
    if len(values) > width:
        values = [values[round(i * (len(values) - 1) / (width - 1))] for i in range(width)]
    logs = [math.log(max(value, 1e-12)) for value in values]
    low, span = min(logs), max(logs) - min(logs)
    n = len(glyphs.levels) - 1
    return "".join(glyphs.levels[round(n * (log - low) / span) if span else 0] for log in logs)


def draw_top(state: ProgressState, width: int) -> list[Text]:
    """Draw the table of the best trials.

    Args:
        state: What is known of the search.
        width: Width of the terminal in columns.

    Returns:
        Its heading and rows; nothing if there is only one trial.
    """
    if len(state.top) < 2:
        return []
    names = f"{'':{LABEL_WIDTH}}{'trial':>5} {'val_mse':>9} {'dB':>6} {'latent':>7} {'params':>11}"
    if width >= WIDE:
        names += f" {'epochs':>7}  state"
    lines = [Text(names, style="dim")]
    for place, row in enumerate(state.top, 1):
        text = (
            f"{place:>{LABEL_WIDTH - 1}} {row['trial_number']:>5} "
            f"{format_error(row['val_mse']):>9} "
            f"{row['val_psnr_db']:>6.2f} {row['latent_size']:>7,} {row['n_params']:>11,}"
        )
        if width >= WIDE:
            text += f" {row['epochs_run']:>7}  {WORDS[row['state']]}"
        lines.append(Text(text))
    return lines


def draw_running(
    state: ProgressState, running: Sequence[Row], width: int, room: int, glyphs: Glyphs
) -> list[Text]:
    """Draw what each worker trains now: one per line, or several if they would not fit.

    Args:
        state: What is known of the search.
        running: The running trials.
        width: Width of the terminal in columns.
        room: Largest number of lines.
        glyphs: The characters of the bars.
    """
    if not running or room <= 0:
        return []
    if len(running) <= room:
        return [draw_running_line(state, row, width, glyphs) for row in running]
    n_columns = max(width // CELL_WIDTH, 1)
    n_shown = room * n_columns
    cells = [draw_cell(state, row, glyphs) for row in running[:n_shown]]
    if len(running) > n_shown:
        cells[-1] = f"and {len(running) - n_shown + 1} more"
    return [
        Text("".join(f"{cell:{CELL_WIDTH}}" for cell in cells[i : i + n_columns]), style="cyan")
        for i in range(0, len(cells), n_columns)
    ]


def draw_running_line(state: ProgressState, row: Row, width: int, glyphs: Glyphs) -> Text:
    """Draw a running trial as a line.

    Args:
        state: What is known of the search.
        row: The trial.
        width: Width of the terminal in columns.
        glyphs: The characters of the bar.
    """
    done = row["epochs_run"] or 0
    bar = draw_bar(done, state.epochs, min(state.epochs, 10), glyphs)
    text = Text(f"  trial {row['trial_number']:<4} ", style="cyan")
    text.append(f"{bar} {f'{done}/{state.epochs}':<6}", style="cyan")
    text.append(f" {format_running_error(row):<17}  latent {row['latent_size']:,}")
    if width >= WIDE:
        text.append(f"  {row['n_params']:,} parameters")
        place = " on ".join(filter(None, (row["device"], row["host"])))
        text.append(f"  {place}", style="dim")
    return text


def draw_cell(state: ProgressState, row: Row, glyphs: Glyphs) -> str:
    """Draw a running trial in few columns.

    Args:
        state: What is known of the search.
        row: The trial.
        glyphs: The characters of the bar.
    """
    done = row["epochs_run"] or 0
    bar = draw_bar(done, state.epochs, 5, glyphs)
    error = format_error(row["val_mse"]) if row["val_mse"] is not None else ""
    return f"#{row['trial_number']:<4} {bar} {f'{done}/{state.epochs}':<6} {error:<9} "


def format_running_error(row: Row) -> str:
    """Write the lowest error of a running trial so far.

    Args:
        row: The trial.
    """
    error: Any = row["val_mse"]
    return "first epoch" if error is None else f"val_mse {format_error(error)}"
