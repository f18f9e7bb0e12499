"""The lease of a study: only one process writes it, and a dead process does not block it for ever.

On a file system the kernel's lock decides between processes of one machine. A lease file that its
holder renews decides between machines, and alone on an object store. A process on another machine
that finds such a file watches it for a while on its own clock. If the file does not change, it
takes the study over. A holder that could not renew its lease for a while checks that it still holds
it before it writes again.
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
from raycae.formatting import make_printable
from raycae.storage import retry
from raycae.storage.files import write_atomic
from raycae.storage.paths import Place, StorePath
from raycae.storage.retry import with_retries

if sys.platform != "win32":
    import fcntl
BEAT_S = 5.0
"""A holder renews its lease this often, in seconds."""
WATCH_S = 3 * BEAT_S
"""A lease of another machine that is not renewed for this many seconds is of a dead process."""
SETTLE_S = 2.0
"""A lease in an object store counts this many seconds after it was written. Of two processes that
write at the same time, the later one has it."""
NAME = "lease.json"
"""Name of the lease file in the folder of a study."""
NO_LOCKS = (errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP)
"""Error numbers of file systems that have no locks."""


class Lease:
    """The right to write a study, from `take` to `release` or until `lost` is True.

    Args:
        folder: Folder of the study.

    Attributes:
        fault: Why the storage cannot take the lease, if it cannot. It would take nothing else.

    Raises:
        InputError: Another process on this machine holds the kernel's lock.
    """

    def __init__(self, folder: Place) -> None:
        self._folder = folder
        self._path = folder / NAME
        token, location = uuid.uuid4().hex, get_location(folder)
        self._content = {"token": token, "folder": location, **describe_self()}
        self._n_renewals = 0
        self._renewed_at, self._attempted_at = read_clock_s(), time.monotonic()
        self._renewing = threading.Lock()
        self._released = threading.Event()
        self._lost = False
        self._lock = lock_file(folder) if isinstance(folder, Path) else None
        self.fault: StorageError | None = None

    @classmethod
    def take(cls, folder: Place) -> Lease:
        """Take the lease of a study.

        Args:
            folder: Folder of the study.

        Returns:
            The lease, which a thread renews from now on.

        Raises:
            InputError: Another process writes this study; the message names it.
        """
        lease = cls(folder)
        try:
            looked_at = lease._wait_for_holder()
            lease._renew()
            if lease._lock is None:
                # If the write came late after the last check, another process may have checked its
                # own lease before this write. It then needs one renewal to notice.
                is_late = read_clock_s() - looked_at > SETTLE_S / 2
                time.sleep(SETTLE_S + (BEAT_S if is_late else 0.0))
                if (holder := lease._read_holder()) and holder["token"] != lease._content["token"]:
                    raise make_held_error(folder, holder)
        except BaseException:
            lease._unlock()
            raise
        threading.Thread(target=lease._renew_regularly, daemon=True).start()
        return lease

    @property
    def lost(self) -> bool:
        """Whether another process has taken the study over; then nothing more may be written."""
        if read_clock_s() - self._renewed_at > WATCH_S / 2:
            self._renew_if_held()
        return self._lost

    @property
    def waiting_s(self) -> float:
        """Seconds for which the storage has not answered; about 0 while it answers."""
        return time.monotonic() - self._attempted_at if self._renewing.locked() else 0.0

    def release(self) -> None:
        """Give the lease up.

        If the storage is gone, nothing is waited for. The lease then expires by itself, and the
        lock is released with the process.
        """
        self._released.set()
        if retry.retry_policy.spent:
            threading.Thread(target=self._unlock, daemon=True).start()
            return
        # A renewal that is running would write the lease again after this.
        has_stopped = self._renewing.acquire(timeout=BEAT_S)
        with suppress(OSError, StorageError):
            holder = None if self._lost else self._read_holder()
            if holder and holder["token"] == self._content["token"]:
                self._path.unlink(missing_ok=True)
        if has_stopped:
            self._renewing.release()
        self._unlock()

    def _wait_for_holder(self) -> float:
        """Wait until no process holds the lease.

        Returns:
            When that was seen or a little before, in seconds of `read_clock_s`.

        Raises:
            InputError: Another process holds the lease.
        """
        looked_at = read_clock_s()
        found = self._read_holder()
        if found is None or (gone := has_ended(found)):
            return looked_at
        if gone is None:
            name = make_printable(str(self._folder))
            print(
                f"{name}: {format_holder(found)} wrote here last; "
                f"waiting {WATCH_S:.0f} s to see whether it still writes",
                flush=True,
            )
            until = time.monotonic() + WATCH_S  # A suspended process does not watch.
            while time.monotonic() < until:
                time.sleep(min(1.0, WATCH_S / 10))
                looked_at = read_clock_s()
                if (now := self._read_holder()) is None:
                    return looked_at
                if now != found:
                    raise make_held_error(self._folder, now)
            print(f"{name}: it no longer writes; taking over", flush=True)
            return looked_at
        raise make_held_error(self._folder, found)

    def _read_holder(self) -> dict[str, Any] | None:
        return read_holder(self._folder)

    def _is_taken_over(self) -> bool:
        """Return whether another process has taken the lease, even if it has since released it.

        An empty or missing folder is that of a mount that has gone.
        """
        if holder := self._read_holder():
            return bool(holder["token"] != self._content["token"])
        if read_clock_s() - self._renewed_at < WATCH_S:
            return False
        try:
            return any(path.name != NAME for path in self._folder.iterdir())
        except OSError:
            return False

    def _renew(self) -> None:
        self._n_renewals += 1
        content = {**self._content, "beat": self._n_renewals}
        write_atomic(self._path, json.dumps(content, indent=1).encode())
        self._renewed_at = read_clock_s()

    def _renew_regularly(self) -> None:
        while not self._released.wait(BEAT_S) and not self._lost:
            self._renew_if_held()

    def _renew_if_held(self) -> None:
        since = read_clock_s()
        with self._renewing:
            if self._lost or self._renewed_at > since:
                return  # Another thread has just done it.
            self._attempted_at = time.monotonic()
            try:
                if self._is_taken_over():
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


def read_clock_s() -> float:
    """Return the seconds of a clock that also counts while the machine is suspended.

    `time.monotonic` stops meanwhile on Linux and macOS, so a laptop that wakes up would not notice
    that another machine has taken its study over.
    """
    if sys.platform == "win32":
        return time.monotonic()
    return time.clock_gettime(getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC))


def read_holder(folder: Place) -> dict[str, Any] | None:
    """Read who holds the lease of a folder.

    Args:
        folder: Folder of the study.

    Returns:
        The content of the lease file. None if no process holds it: there is no file, it cannot be
        read, or it was copied together with another folder.
    """
    try:
        content = json.loads((folder / NAME).read_bytes())
        names = ("token", "folder", "host", "boot", "pid", "started", "beat")
        found = {name: content[name] for name in names}
        found["pid"] = int(found["pid"])
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return found if found["folder"] == get_location(folder) else None


def get_location(folder: Place) -> str:
    """Return what a lease records about its folder.

    Args:
        folder: Folder of the study.

    Returns:
        The path; in a store, bucket and key, because one store may have several URIs.
    """
    return folder.key if isinstance(folder, StorePath) else str(folder)


def wait_for_lease_file(folder: Path) -> dict[str, Any] | None:
    """Read who holds the lease of a locked folder; the holder writes it just after it locks."""
    for _ in range(10):
        if (holder := read_holder(folder)) and not has_ended(holder):
            return holder
        time.sleep(0.1)
    return None


def lock_file(folder: Path) -> int | None:
    """Take the kernel's lock on a folder.

    Args:
        folder: Folder of the study.

    Returns:
        A file descriptor that holds the lock as long as it is open. None where there are no such
        locks, so that the lease file alone decides.

    Raises:
        InputError: Another process holds the lock, or the folder cannot be written.
    """
    if sys.platform == "win32":
        return None

    def lock() -> int | OSError | None:
        try:
            descriptor = os.open(folder / ".lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        except OSError as error:
            return error  # with_retries does not repeat what is returned.
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            os.close(descriptor)
            return None if error.errno in NO_LOCKS else error
        return descriptor

    found = with_retries(f"locking {folder}", lock)
    if isinstance(found, BlockingIOError):
        raise make_held_error(folder, wait_for_lease_file(folder))
    if isinstance(found, OSError):
        raise InputError(f"{folder}: cannot be written: {found.strerror}")
    return found


def make_held_error(folder: Place, holder: dict[str, Any] | None) -> InputError:
    """Make the error for a study that another process writes."""
    who = f" ({format_holder(holder)})" if holder else ""
    return InputError(
        f"{folder}: another process is searching here{who}; wait for it, or choose another --study"
    )


def format_holder(holder: dict[str, Any]) -> str:
    """Name the process that holds a lease."""
    return f"process {holder['pid']} on {holder['host']}"


def has_ended(holder: dict[str, Any]) -> bool | None:
    """Return whether a holder's process has ended, or None if that cannot be known from here."""
    here = describe_self()
    if here["boot"] is None or (holder["host"], holder["boot"]) != (here["host"], here["boot"]):
        return None
    return get_start_time(holder["pid"]) != holder["started"]


def is_held(folder: Place) -> bool:
    """Return whether a process may write a study: it holds the lease, and is not known to be dead.

    Args:
        folder: Folder of the study.
    """
    holder = read_holder(folder)
    return holder is not None and has_ended(holder) is not True


def describe_self() -> dict[str, Any]:
    """Describe this process so that no other one has the same description."""
    pid = os.getpid()
    return {
        "host": platform.node(),
        "boot": get_boot_id(),
        "pid": pid,
        "started": get_start_time(pid),
    }


def get_boot_id() -> str | None:
    """Return what a process id is unique within: a boot of the machine, and a container."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot} {Path('/proc/self/ns/pid').readlink()}"
    except OSError:
        return None


def get_start_time(pid: int) -> int | None:
    """Return when a process started, in the kernel's ticks; process ids are used again."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return None
    return int(stat.rpartition(")")[2].split()[19])
