"""Retries and timeouts for storage that fails for a while."""

from __future__ import annotations

import errno
import os
import queue
import random
import re
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, ClassVar, TypeVar, cast

from raycae.errors import InputError, StorageError

T = TypeVar("T")
Outcome = queue.SimpleQueue[tuple[Any, BaseException | None]]
"""Receives what a call returns and None, or None and what it raises."""
SILENT_S = 10.0
"""A call that has not returned after this many seconds is reported."""
ALOUD_S = 1.0
"""Errors are reported once a call has been retried for this many seconds. Shorter faults pass."""
LONGEST_PAUSE_S = 5.0
"""The longest pause between two attempts, in seconds."""
LOST_FOR_GOOD = {
    errno.ENOSPC,
    errno.EDQUOT,
    errno.EROFS,
    errno.EACCES,
    errno.EPERM,
    errno.ENOTDIR,
    errno.EISDIR,
    errno.EFBIG,
    errno.EEXIST,
}
"""Permanent errors, never retried: disk full, permission denied, read-only."""
REFUSED_FOR_GOOD = re.compile(
    "ACCESS_DENIED|NO_SUCH_BUCKET|Bucket '.*' not found|INVALID_ACCESS_KEY|"
    "SIGNATURE_DOES_NOT_MATCH|HTTP status 40[0134]"
)
"""Permanent errors of object stores, which pyarrow raises as plain `OSError`s."""


def print_once(note: str, last: list[str] = []) -> None:  # noqa: B006 - kept between calls
    """Print a note on standard error, unless it differs from the last one in numbers alone.

    Args:
        note: What to print.
        last: The last note that was printed, without its numbers.
    """
    if last != [plain := re.sub(r"\d+", "", note)]:
        print(note, file=sys.stderr, flush=True)
        last[:] = [plain]


@dataclass
class RetryPolicy:
    """How long this process waits for its storage, and where it reports that it waits.

    After one call has failed in the end, the next ones are not retried for as long.

    Attributes:
        limit_s: The longest time to retry one call, in seconds.
        say: Takes the note that the process waits.
        over: Whether the process should end, so that waiting is cut short.
        spent: Whether the last call has failed in the end.
        speaker: The id of the thread that reports. If many threads wait, only one does.
    """

    limit_s: float = 600.0
    say: Callable[[str], None] = print_once
    over: Callable[[], bool] = lambda: False
    spent: bool = False
    speaker: int | None = None

    @contextmanager
    def use(self, say: Callable[[str], None], over: Callable[[], bool]) -> Iterator[None]:
        """Report and end by other functions inside the `with` block.

        Args:
            say: Takes the note that the process waits.
            over: Whether the process should end.
        """
        earlier = self.say, self.over
        self.say, self.over = say, over
        try:
            yield
        finally:
            self.say, self.over = earlier

    def limit(self) -> float:
        """Return for how many seconds a call may be retried now."""
        return min(SILENT_S, self.limit_s) if self.spent or self.over() else self.limit_s

    def report(self, note: str) -> None:
        """Report that this thread waits, unless another thread has reported that it does.

        Args:
            note: What it waits for.
        """
        thread = threading.get_ident()
        if self.speaker in (None, thread):
            self.speaker = thread
            self.say(f"waiting for storage: {note}")

    def finish_call(self, *, spent: bool) -> None:
        """Note the end of a call of this thread.

        Args:
            spent: Whether it has failed in the end.
        """
        self.spent = spent
        if self.speaker == threading.get_ident():
            self.speaker = None


retry_policy = RetryPolicy()
"""The policy of this process. A search reports waiting in its live view."""


def with_retries(what: str, action: Callable[[], T]) -> T:
    """Call `action`, and call it again after growing pauses while the storage fails.

    Args:
        what: What is done, for messages.
        action: Takes no arguments. It must be safe to call again.

    Returns:
        What `action` returns.

    Raises:
        StorageError: Retrying cannot help, or has not helped within the limit of `retry_policy`.
        FileNotFoundError: From `action`, because it is an answer and not a fault. Exceptions that
            are no `OSError` are raised too.
    """
    started_s = time.monotonic()
    pause = 0.5
    spent = False
    try:
        while True:
            try:
                return call_with_timeout(what, action, started_s)
            except FileNotFoundError:
                raise
            except NoAnswer:
                spent = True
                raise
            except OSError as error:
                if error.errno == errno.ENAMETOOLONG:
                    raise  # This is a fault of the name, not of the storage.
                reason = format_cause(error)
                if error.errno in LOST_FOR_GOOD or REFUSED_FOR_GOOD.search(str(error)):
                    raise Refused(f"{what}: {reason}") from None
            waited_s = time.monotonic() - started_s
            if waited_s + pause > retry_policy.limit():
                spent = True
                raise StorageError(f"{what}: {reason}; waited for {waited_s:.0f} s")
            if waited_s >= ALOUD_S:
                retry_policy.report(f"{what}: {reason}")
            # A random share keeps all trials from calling at the same moment.
            time.sleep(pause * random.uniform(0.7, 1.0))
            pause = min(2 * pause, LONGEST_PAUSE_S)
    finally:
        retry_policy.finish_call(spent=spent)


class Refused(StorageError):
    """The storage refuses a call for good: no permission, no such bucket, no space."""


@contextmanager
def refusal_is_input_error() -> Iterator[None]:
    """Turn a refusal of the storage into an `InputError`.

    It is used where something is looked for that a person has named.

    Raises:
        InputError: The storage refuses a call inside the `with` block, or a name is too long.
    """
    try:
        yield
    except Refused as error:
        raise InputError(str(error)) from None
    except OSError as error:
        if error.errno != errno.ENAMETOOLONG:
            raise
        raise InputError(f"{error.filename}: {error.strerror}") from None


class NoAnswer(StorageError):
    """A call to the storage has not returned in time."""


def call_with_timeout(what: str, action: Callable[[], T], started_s: float) -> T:
    """Call `action` in a thread, and stop waiting for it after the limit of `retry_policy`.

    A mount whose server is gone blocks a call for ever, and nothing can wake it.

    Args:
        what: What is done, for messages.
        action: Takes no arguments.
        started_s: When the first attempt began, in seconds of `time.monotonic()`.

    Returns:
        What `action` returns.

    Raises:
        NoAnswer: The call has not returned in time. Its thread is abandoned.
        BaseException: What `action` raises.
    """
    helper = HelperThread.take()
    outcome = helper.start_call(action)
    is_idle = False
    called_s = time.monotonic()
    try:
        while True:
            try:
                value, error = outcome.get(timeout=1.0)
            except queue.Empty:
                silent_s = time.monotonic() - called_s
                if time.monotonic() - started_s > retry_policy.limit():
                    message = f"{what}: storage has not answered for {silent_s:.0f} s"
                    raise NoAnswer(message) from None
                if silent_s > SILENT_S:
                    retry_policy.report(f"{what}: no answer for {silent_s:.0f} s")
                continue
            is_idle = True
            break
    finally:
        helper.release(is_idle=is_idle)
    if error is not None:
        raise error
    return cast(T, value)


class HelperThread:
    """A thread that makes one call after the other for threads that stop waiting after a while.

    Threads are kept for the next call: to start one for each call to the storage took a fifth of
    the driver's CPU time for a trial that trains nothing.
    """

    _idle: ClassVar[list[HelperThread]] = []
    """The threads that wait for a call. Adding to a list and popping from it are atomic."""

    def __init__(self) -> None:
        self._calls: queue.SimpleQueue[tuple[Callable[[], Any], Outcome] | None]
        self._calls = queue.SimpleQueue()
        threading.Thread(target=self._run, daemon=True).start()

    @classmethod
    def take(cls) -> HelperThread:
        """Return a thread that waits for a call; `release` it afterwards."""
        try:
            return cls._idle.pop()
        except IndexError:
            return cls()

    @classmethod
    def forget_idle(cls) -> None:
        """Forget the threads that wait: a forked process has none of its parent's threads."""
        cls._idle.clear()

    def start_call(self, action: Callable[[], Any]) -> Outcome:
        """Call `action` in the thread.

        Args:
            action: Takes no arguments.

        Returns:
            The queue that will hold what it returns and None, or None and what it raises.
        """
        outcome: Outcome = queue.SimpleQueue()
        self._calls.put((action, outcome))
        return outcome

    def release(self, *, is_idle: bool) -> None:
        """Keep the thread for the next call, or let it end with its call that has not returned.

        Args:
            is_idle: Whether its call has returned.
        """
        if is_idle:
            self._idle.append(self)
        else:
            self._calls.put(None)

    def _run(self) -> None:
        while call := self._calls.get():
            action, outcome = call
            try:
                outcome.put((action(), None))
            except BaseException as error:
                outcome.put((None, error))
            del call, action, outcome  # What they refer to may be large.


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=HelperThread.forget_idle)


def format_cause(error: OSError) -> str:
    """Write the cause of an error in one line.

    Messages of object stores begin with the request, which is known, and end with an id.

    Args:
        error: What a call to the storage has raised.
    """
    line = error.strerror or (str(error).splitlines() or [type(error).__name__])[0]
    line = line.partition(": AWS Error ")[2] or line
    return re.split(r" \(Request ID: |; Details: |\. Detail: ", line)[0]
