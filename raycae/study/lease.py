"""The right to write a study: one process holds it, and a dead one does not hold it for ever.

On a file system the kernel's lock decides between processes of one machine. Beside it, and alone
on an object store, stands a file that the holder renews: whoever finds it from another machine
watches it for a while, on his own clock, and takes the study over where nothing moves. A holder
that was not able to renew it for a while looks whether it is still his before it writes again.
"""

from __future__ import annotations

import errno
import json
import os
import platform
import sys
import threading
import time
import uuid
from contextlib import suppress
from pathlib import Path
from typing import Any

from raycae.errors import InputError, StorageError
from raycae.storage import retry
from raycae.storage.files import write_atomic
from raycae.storage.paths import Place
from raycae.storage.retry import with_retries

if sys.platform != "win32":
    import fcntl
BEAT_S = 5.0
"""How often a holder renews its lease."""
WATCH_S = 3 * BEAT_S
"""A lease of another machine that has not been renewed for so long is a dead one's."""
SETTLE_S = 2.0
"""After writing a lease into an object store so long passes before it counts: of two that write
at once, the later one stands."""
NAME = "lease.json"
NO_LOCKS = (errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP)


class Lease:
    """Held from `take` to `release`, or until `lost` says that another process took it over."""

    def __init__(self, folder: Place) -> None:
        self._folder = folder
        self._path = folder / NAME
        self._content = {"token": uuid.uuid4().hex, "folder": str(folder), **describe_self()}
        self._beats = 0
        self._renewed_at = self._beating_since = time.monotonic()
        self._beating = threading.Lock()
        self._released = threading.Event()
        self._lost = False
        self._lock = lock_file(folder) if isinstance(folder, Path) else None
        self.fault: StorageError | None = None
        """Why the storage cannot take the lease. It would not take anything else."""

    @classmethod
    def take(cls, folder: Place) -> Lease:
        """Raises `InputError` naming the holder where another process writes this study."""
        lease = cls(folder)
        try:
            looked_at = lease._wait_for_holder()
            lease._renew()
            if lease._lock is None:
                # A write so long after the last look may have come after another one's settling:
                # that one has to hear of it.
                late = time.monotonic() - looked_at > SETTLE_S / 2
                time.sleep(SETTLE_S + (BEAT_S if late else 0.0))
                if (holder := lease._holder()) and holder["token"] != lease._content["token"]:
                    raise read_held(folder, holder)
        except BaseException:
            lease._unlock()
            raise
        threading.Thread(target=lease._keep, daemon=True).start()
        return lease

    @property
    def lost(self) -> bool:
        """Whether another process has taken the study over; then nothing may be written."""
        if time.monotonic() - self._renewed_at > WATCH_S / 2:
            self._beat()
        return self._lost

    @property
    def waiting_s(self) -> float:
        """For how long the storage has not answered the holder; about 0 where it does."""
        return time.monotonic() - self._beating_since if self._beating.locked() else 0.0

    def release(self) -> None:
        """Where the storage is gone nothing is waited for: the lease runs out by itself, and the
        lock with the process."""
        self._released.set()
        if retry.retry_policy.spent:
            threading.Thread(target=self._unlock, daemon=True).start()
            return
        # A beat under way would write the lease anew behind this.
        beats_no_more = self._beating.acquire(timeout=BEAT_S)
        with suppress(OSError, StorageError):
            holder = None if self._lost else self._holder()
            if holder and holder["token"] == self._content["token"]:
                self._path.unlink(missing_ok=True)
        if beats_no_more:
            self._beating.release()
        self._unlock()

    def _wait_for_holder(self) -> float:
        """Until nobody holds it. Returns when that was seen, or a little before, on the monotonic
        clock."""
        looked_at = time.monotonic()
        found = self._holder()
        if found is None or (gone := is_gone(found)):
            return looked_at
        if gone is None:
            print(
                f"{self._folder}: {format_holder(found)} wrote here last; "
                f"watching for {WATCH_S:.0f} s whether it still does",
                flush=True,
            )
            until = time.monotonic() + WATCH_S
            while time.monotonic() < until:
                time.sleep(min(1.0, WATCH_S / 10))
                looked_at = time.monotonic()
                if (now := self._holder()) is None:
                    return looked_at
                if now != found:
                    raise read_held(self._folder, now)
            print(f"{self._folder}: it does not; taking over", flush=True)
            return looked_at
        raise read_held(self._folder, found)

    def _holder(self) -> dict[str, Any] | None:
        return read_holder(self._folder)

    def _is_anothers(self) -> bool:
        """Also where another one took it over, after so long, and has let it go since. A folder
        that is empty, or not there, is one whose mount has gone."""
        if holder := self._holder():
            return bool(holder["token"] != self._content["token"])
        if time.monotonic() - self._renewed_at < WATCH_S:
            return False
        try:
            return any(path.name != NAME for path in self._folder.iterdir())
        except OSError:
            return False

    def _renew(self) -> None:
        self._beats += 1
        content = {**self._content, "beat": self._beats}
        write_atomic(self._path, json.dumps(content, indent=1).encode())
        self._renewed_at = time.monotonic()

    def _keep(self) -> None:
        while not self._released.wait(BEAT_S) and not self._lost:
            self._beat()

    def _beat(self) -> None:
        since = time.monotonic()
        with self._beating:
            if self._lost or self._renewed_at > since:
                return  # another thread has just done it
            self._beating_since = since
            try:
                if self._is_anothers():
                    self._lost = True
                elif not self._released.is_set():
                    self._renew()
                self.fault = None
            except StorageError as fault:
                self.fault = fault

    def _unlock(self) -> None:
        lock, self._lock = self._lock, None
        if lock is not None:
            with suppress(OSError, StorageError):
                with_retries(f"unlocking {self._folder}", lambda: os.close(lock))


def read_holder(folder: Place) -> dict[str, Any] | None:
    """Who holds the lease of this folder. One that was copied with its folder, or cannot be read,
    is nobody's."""
    try:
        content = json.loads((folder / NAME).read_bytes())
        names = ("token", "folder", "host", "boot", "pid", "started", "beat")
        found = {name: content[name] for name in names}
        found["pid"] = int(found["pid"])
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return found if found["folder"] == str(folder) else None


def wait_for_holder_file(folder: Path) -> dict[str, Any] | None:
    """Who holds the lease of a folder that is locked. He writes it just after he locks."""
    for _ in range(10):
        if (holder := read_holder(folder)) and not is_gone(holder):
            return holder
        time.sleep(0.1)
    return None


def lock_file(folder: Path) -> int | None:
    """A descriptor that holds the lock as long as it is open. None where there are no such locks:
    the lease decides alone."""
    if sys.platform == "win32":
        return None

    def lock() -> int | OSError | None:
        try:
            descriptor = os.open(folder / ".lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        except OSError as error:
            return error  # not to be tried again
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            os.close(descriptor)
            return None if error.errno in NO_LOCKS else error
        return descriptor

    found = with_retries(f"locking {folder}", lock)
    if isinstance(found, BlockingIOError):
        raise read_held(folder, wait_for_holder_file(folder))
    if isinstance(found, OSError):
        raise InputError(f"{folder}: cannot be written: {found.strerror}")
    return found


def read_held(folder: Place, holder: dict[str, Any] | None) -> InputError:
    who = f" ({format_holder(holder)})" if holder else ""
    return InputError(
        f"{folder}: another process is searching here{who}; wait for it, or choose another --study"
    )


def format_holder(holder: dict[str, Any]) -> str:
    return f"process {holder['pid']} on {holder['host']}"


def is_gone(holder: dict[str, Any]) -> bool | None:
    """Whether the holder's process has ended; None where that cannot be known from here."""
    here = describe_self()
    if here["boot"] is None or (holder["host"], holder["boot"]) != (here["host"], here["boot"]):
        return None
    return get_start_time(holder["pid"]) != holder["started"]


def describe_self() -> dict[str, Any]:
    pid = os.getpid()
    return {
        "host": platform.node(),
        "boot": get_boot_id(),
        "pid": pid,
        "started": get_start_time(pid),
    }


def get_boot_id() -> str | None:
    """What a process id is unique in: a start of the machine, and a container."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot} {Path('/proc/self/ns/pid').readlink()}"
    except OSError:
        return None


def get_start_time(pid: int) -> int | None:
    """When a process began, in the kernel's ticks; a number is given to another process some
    day."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return None
    return int(stat.rpartition(")")[2].split()[19])
