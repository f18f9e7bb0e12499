"""The process of a command: output that the terminal can show, interrupts, the current folder."""

from __future__ import annotations

import codecs
import io
import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import typer

from raycae.errors import InputError, SearchInterrupted

if TYPE_CHECKING:
    from rich.table import Table

ASCII_FORMS = {
    "→": "->",
    "←": "<-",
    "…": "...",
    "×": "x",
    "·": "*",
    "–": "-",
    "—": "-",
    "−": "-",
    "≤": "<=",
    "≥": ">=",
    "≈": "~",
    "±": "+/-",
    "µ": "u",
    "‘": "'",
    "’": "'",
    "“": '"',
    "”": '"',
    "\N{NO-BREAK SPACE}": " ",
    "━": "-",
    "╸": "-",
    "╺": "-",
}
"""Replacements for characters that a terminal cannot show; any other becomes a question mark."""
DEFAULT_ERRORS = ("strict", "surrogateescape", "backslashreplace")
"""Error handlers that Python chooses itself. Another one was asked for in PYTHONIOENCODING."""
TERMINAL_ASCII = "raycae_terminal_ascii"
"""ASCII under another name: Click writes UTF-8 to a stream whose encoding is called `ascii`."""

PIPE_COLUMNS = 200
"""The width of a table that is not printed to a terminal, in characters."""


def configure_output() -> None:
    """Make standard output and error replace characters that their encoding lacks.

    Streams that are UTF-8 stay as they are.
    """
    codecs.register_error("raycae.ascii", _replace_unencodable)
    codecs.register(_find_terminal_ascii)
    for stream in (sys.stdout, sys.stderr):
        if not isinstance(stream, io.TextIOWrapper) or stream.errors not in DEFAULT_ERRORS:
            continue
        encoding = codecs.lookup(stream.encoding).name
        if encoding == "ascii":
            stream.reconfigure(encoding=TERMINAL_ASCII, errors="raycae.ascii")
        elif not encoding.startswith("utf"):
            stream.reconfigure(errors="raycae.ascii")


def require_current_folder() -> None:
    """Raise `InputError` if the current folder was deleted or cannot be entered."""
    try:
        os.stat(os.getcwd())  # noqa: PTH109, PTH116
    except OSError as error:
        raise InputError(
            f"the current folder is not accessible ({error.strerror}): it was deleted, moved or "
            "remounted; change to another folder, for example with: cd ~"
        ) from None


def show_phase(phase: str) -> None:
    """Print what a command does before its live view starts, if a person looks at a terminal.

    Args:
        phase: What it does, in the -ing form.
    """
    if sys.stderr.isatty():
        print(f"{phase} …", file=sys.stderr, flush=True)


def print_table(table: Table) -> None:
    """Print a table.

    Args:
        table: It is as wide as the terminal, or `PIPE_COLUMNS` wide in a file or a pipe.
    """
    from rich.console import Console

    width = None if sys.stdout.isatty() else PIPE_COLUMNS
    Console(width=width, markup=False, emoji=False).print(table)


@contextmanager
def exit_on_interrupt() -> Iterator[None]:
    """End the command with exit code 128 + signal number if a signal ends the search inside.

    From then on, a further Ctrl-C ends the process at once. While Python ends, an exception of the
    ordinary handler may be raised in a destructor, which prints a traceback.
    """
    try:
        yield
    except (KeyboardInterrupt, SearchInterrupted) as interrupt:
        signal.signal(signal.SIGINT, lambda number, frame: os._exit(128 + number))
        number = getattr(interrupt, "signal_number", signal.SIGINT)
        raise typer.Exit(128 + number) from None


def _replace_unencodable(error: UnicodeError) -> tuple[str, int]:
    """Return the replacement of characters that cannot be encoded, and the position after them."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    text = error.object[error.start : error.end]
    return "".join(ASCII_FORMS.get(character, "?") for character in text), error.end


def _find_terminal_ascii(name: str) -> codecs.CodecInfo | None:
    """Return the ASCII codec under the name `TERMINAL_ASCII`."""
    if name != TERMINAL_ASCII:
        return None
    ascii_codec = codecs.lookup("ascii")
    return codecs.CodecInfo(
        ascii_codec.encode,
        ascii_codec.decode,
        ascii_codec.streamreader,
        ascii_codec.streamwriter,
        ascii_codec.incrementalencoder,
        ascii_codec.incrementaldecoder,
        name=TERMINAL_ASCII,
    )
