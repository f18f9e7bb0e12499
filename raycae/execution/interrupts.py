"""SIGINT and SIGTERM: the first ends a search cleanly, the second at once."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

from raycae.study.study import Study


@contextmanager
def catch_signals(received: list[int], begun: list[Study]) -> Iterator[Callable[[], None]]:
    """Collects the first SIGINT or SIGTERM, which ends the search in order, or at once where none
    has `begun`. The second one ends the process at once; not where a person works on in it, in a
    notebook: there a SIGINT is a `KeyboardInterrupt`. What it gives takes both signals back from
    whoever took them meanwhile."""
    mine = threading.current_thread() is threading.main_thread()
    before = {n: signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM) if mine}

    def note(number: int, frame: FrameType | None) -> None:
        once_more, interactive = bool(received), hasattr(sys, "ps1")
        received.append(number)
        if interactive and number == signal.SIGINT and (once_more or not begun):
            raise KeyboardInterrupt
        if once_more:
            os._exit(128 + number)
        if not begun:
            raise SystemExit(128 + number)

    def take() -> None:
        for number in before:
            signal.signal(number, note)

    take()
    try:
        yield take
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
