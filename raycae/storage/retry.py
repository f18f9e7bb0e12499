"""Retries and timeouts for storage that fails for a while."""

from __future__ import annotations

import errno
import queue
import random
import re
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TypeVar

from raycae.errors import InputError, StorageError

T = TypeVar("T")
SILENT_S = 10.0
"""A storage that has not answered for so long is waited for aloud."""
ALOUD_S = 1.0
"""One that has failed for so long too: what passes by itself in a moment is nobody's business."""
LONGEST_PAUSE_S = 5.0
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
"""Waiting does not help: somebody has to make room, or give leave."""
REFUSED_FOR_GOOD = re.compile(
    "ACCESS_DENIED|NO_SUCH_BUCKET|Bucket '.*' not found|INVALID_ACCESS_KEY|"
    "SIGNATURE_DOES_NOT_MATCH|HTTP status 40[0134]"
)
"""The same in the words of object stores, which pyarrow hands on as plain `OSError`s."""


def print_once(note: str, said: list[str] = []) -> None:  # noqa: B006 - what was said last
    if said != [plain := re.sub(r"\d+", "", note)]:
        print(note, file=sys.stderr, flush=True)
        said[:] = [plain]


@dataclass
class RetryPolicy:
    """How a process waits for its storage: at most `limit_s` for one thing, and not for long once
    somebody wants the process to end (`over`), saying through `say` what it waits for. After one
    thing was waited for in vain the next ones are not waited for as long again."""

    limit_s: float = 600.0
    say: Callable[[str], None] = print_once
    over: Callable[[], bool] = lambda: False
    spent: bool = False
    speaker: int | None = None
    """Of many threads that wait, one says so."""

    @contextmanager
    def of(self, say: Callable[[str], None], over: Callable[[], bool]) -> Iterator[None]:
        """While a search runs, what it says through, and when it is to end."""
        before = self.say, self.over
        self.say, self.over = say, over
        try:
            yield
        finally:
            self.say, self.over = before

    def limit(self) -> float:
        return min(SILENT_S, self.limit_s) if self.spent or self.over() else self.limit_s

    def tell(self, note: str) -> None:
        me = threading.get_ident()
        if self.speaker in (None, me):
            self.speaker = me
            self.say(f"waiting for the storage: {note}")

    def ends(self, *, spent: bool) -> None:
        """A thread has its answer, or has waited in vain."""
        self.spent = spent
        if self.speaker == threading.get_ident():
            self.speaker = None


retry_policy = RetryPolicy()
"""This process's own; a search lets its live view say what is waited for."""


def with_retries(what: str, action: Callable[[], T]) -> T:
    """Do `action`; where the storage fails in a way that may pass, do it again, later and later.

    Raises `StorageError` where waiting does not help or has not helped, and what `action` raises
    besides: `FileNotFoundError` is an answer.
    """
    begun = time.monotonic()
    pause = 0.5
    spent = False
    try:
        while True:
            try:
                return call_with_timeout(what, action, begun)
            except FileNotFoundError:
                raise
            except NoAnswer:
                spent = True
                raise
            except OSError as error:
                if error.errno == errno.ENAMETOOLONG:
                    raise  # of the name, not of the storage
                reason = format_cause(error)
                if error.errno in LOST_FOR_GOOD or REFUSED_FOR_GOOD.search(str(error)):
                    raise Refused(f"{what}: {reason}") from None
            waited = time.monotonic() - begun
            if waited + pause > retry_policy.limit():
                spent = True
                raise StorageError(f"{what}: {reason}; waited for {waited:.0f} s")
            if waited >= ALOUD_S:
                retry_policy.tell(f"{what}: {reason}")
            time.sleep(pause * random.uniform(0.7, 1.0))  # or all trials would knock at once
            pause = min(2 * pause, LONGEST_PAUSE_S)
    finally:
        retry_policy.ends(spent=spent)


class Refused(StorageError):
    """Waiting does not help: no leave, no such bucket, no room."""


@contextmanager
def refusal_is_input_error() -> Iterator[None]:
    """While it is looked whether there is what a person named: what the storage refuses is wrong
    input then, an `InputError`."""
    try:
        yield
    except Refused as error:
        raise InputError(str(error)) from None


class NoAnswer(StorageError):
    """A call into the storage that does not come back."""


def call_with_timeout(what: str, action: Callable[[], T], begun: float) -> T:
    """What `action` returns or raises, in a thread of its own: a mount whose server is gone holds
    a caller for ever, and nothing can wake it."""
    outcome: queue.SimpleQueue[tuple[T | None, BaseException | None]] = queue.SimpleQueue()

    def attempt() -> None:
        try:
            outcome.put((action(), None))
        except BaseException as error:
            outcome.put((None, error))

    threading.Thread(target=attempt, daemon=True).start()
    at_once = time.monotonic()
    while True:
        try:
            value, error = outcome.get(timeout=1.0)
        except queue.Empty:
            silent = time.monotonic() - at_once
            if time.monotonic() - begun > retry_policy.limit():
                raise NoAnswer(f"{what}: the storage has not answered for {silent:.0f} s") from None
            if silent > SILENT_S:
                retry_policy.tell(f"{what}: no answer for {silent:.0f} s")
            continue
        if error is not None:
            raise error
        return value  # type: ignore[return-value]


def format_cause(error: OSError) -> str:
    """The cause. Object stores' clients begin with what was asked, which is known here."""
    line = error.strerror or (str(error).splitlines() or [type(error).__name__])[0]
    line = line.partition(": AWS Error ")[2] or line
    return re.split(r" \(Request ID: |; Details: |\. Detail: ", line)[0]
