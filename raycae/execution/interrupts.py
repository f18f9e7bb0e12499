"""SIGINT and SIGTERM: the first ends a search cleanly, the second at once."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import NoReturn

from raycae.errors import SearchInterrupted


class StopRequest:
    """Whether a search should stop: a signal has arrived, or its time is up.

    Attributes:
        signal_number: The first SIGINT or SIGTERM that arrived, or None.
        deadline: When the time is up, in seconds of `time.monotonic()`; None if there is no limit.
        error: An exception of the caller's code, which ends the search like a signal; or None.
        is_study_open: Whether there is a study that can be closed cleanly. Until then a signal
            raises an exception at once.
    """

    def __init__(self, hours: float | None = None) -> None:
        self.deadline = None if hours is None else time.monotonic() + hours * 3600
        self.signal_number: int | None = None
        self.error: Exception | None = None
        self.is_study_open = False
        self._caught: tuple[int, ...] = ()

    def raise_if_interrupted(self) -> None:
        """Raise the exception of a signal that Ray has swallowed.

        Raises:
            KeyboardInterrupt: SIGINT arrived.
            SearchInterrupted: Another signal arrived.
        """
        if self.signal_number is not None:
            raise_interrupt(self.signal_number)

    def is_interrupted(self) -> bool:
        """Return whether a signal has arrived, or the caller's code has failed."""
        return self.signal_number is not None or self.error is not None

    def is_time_up(self) -> bool:
        """Return whether the deadline has passed."""
        return self.deadline is not None and time.monotonic() >= self.deadline

    def is_due(self) -> bool:
        """Return whether the search should stop, for either reason."""
        return self.is_interrupted() or self.is_time_up()

    @contextmanager
    def catch_signals(self) -> Iterator[None]:
        """Receive SIGINT and SIGTERM inside the `with` block, if this is the main thread.

        A signal may arrive while a destructor or the callback of a weak reference runs. Python
        cannot raise an exception there. It would print a traceback, although the signal is noted
        and the search ends at the next check.
        """
        is_main = threading.current_thread() is threading.main_thread()
        self._caught = (signal.SIGINT, signal.SIGTERM) if is_main else ()
        earlier = {number: signal.getsignal(number) for number in self._caught}
        hook = sys.unraisablehook

        def report(fault: sys.UnraisableHookArgs) -> None:
            is_signal = isinstance(fault.exc_value, KeyboardInterrupt | SearchInterrupted)
            if not (is_signal and self.signal_number is not None):
                hook(fault)

        sys.unraisablehook = report
        self.install_handlers()
        try:
            yield
        finally:
            sys.unraisablehook = hook
            for number, handler in earlier.items():
                signal.signal(number, handler)

    def install_handlers(self) -> None:
        """Take both signals back from a library that has installed its own handlers."""
        for number in self._caught:
            signal.signal(number, self._handle)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        """Note the first signal, or end the process at the second one.

        In an interactive Python a second SIGINT raises `KeyboardInterrupt` instead.
        """
        is_first = self.signal_number is None
        if is_first:
            self.signal_number = number
            if not self.is_study_open:
                raise_interrupt(number)
        elif number == signal.SIGINT and hasattr(sys, "ps1"):
            raise_interrupt(number)
        else:
            os._exit(128 + number)


def raise_interrupt(signal_number: int) -> NoReturn:
    """Raise the exception that stands for a signal.

    Args:
        signal_number: The signal.

    Raises:
        KeyboardInterrupt: The signal is SIGINT.
        SearchInterrupted: It is another one.
    """
    if signal_number == signal.SIGINT:
        raise KeyboardInterrupt
    raise SearchInterrupted(signal_number)
