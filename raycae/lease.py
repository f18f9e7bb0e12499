"""The right to write a study: one process holds it, and a dead one does not hold it for ever.

On a file system the kernel's lock decides between processes of one machine. Beside it, and alone
on an object store, stands a file that the holder renews: whoever finds it from another machine
watches it for a while, on his own clock, and takes the study over where nothing moves.
"""

from __future__ import annotations

import json
import os
import platform
import threading
import time
import uuid
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from raycae.errors import InputError, StorageError
from raycae.storage import Place, write_whole

BEAT_S = 5.0
"""How often a holder renews its lease."""
WATCH_S = 3 * BEAT_S
"""A lease of another machine that has not been renewed for so long is a dead one's."""
SETTLE_S = 2.0
"""After writing a lease into an object store so long passes before it counts: of two that write
at once, the later one stands."""
NAME = "lease.json"


class Lease:
    """Held from `take` to `release`, or until `lost` says that another process took it over."""

    def __init__(self, folder: Place) -> None:
        self._folder = folder
        self._path = folder / NAME
        self._content = {"token": uuid.uuid4().hex, "folder": str(folder), **_self()}
        self._beats = 0
        self._released = threading.Event()
        self._lock = _kernel_lock(folder) if isinstance(folder, Path) else None
        self.lost = False

    @classmethod
    def take(cls, folder: Place) -> Lease:
        """Raises `InputError` naming the holder where another process writes this study."""
        lease = cls(folder)
        try:
            lease._wait_for_holder()
            lease._renew()
            if lease._lock is None:
                time.sleep(SETTLE_S)
                if (holder := lease._holder()) and holder["token"] != lease._content["token"]:
                    raise _held(folder, holder)
        except BaseException:
            lease._unlock()
            raise
        threading.Thread(target=lease._keep, daemon=True).start()
        return lease

    def release(self) -> None:
        """Also where the storage is gone: the lease runs out by itself."""
        self._released.set()
        try:
            if not self.lost:
                self._path.unlink(missing_ok=True)
        except (OSError, StorageError):
            pass
        self._unlock()

    def _wait_for_holder(self) -> None:
        found = self._holder()
        if found is None or (gone := _is_gone(found)):
            return
        if gone is None:
            print(
                f"{self._folder}: {_named(found)} wrote here last; "
                f"watching for {WATCH_S:.0f} s whether it still does",
                flush=True,
            )
            until = time.monotonic() + WATCH_S
            while time.monotonic() < until:
                time.sleep(min(1.0, WATCH_S / 10))
                if (now := self._holder()) is None:
                    return
                if now != found:
                    raise _held(self._folder, now)
            return
        raise _held(self._folder, found)

    def _holder(self) -> dict[str, Any] | None:
        """Who holds the lease of this folder. One that was copied with its folder, or cannot be
        read, is nobody's."""
        try:
            content = json.loads(self._path.read_bytes())
            names = ("token", "folder", "host", "boot", "pid", "started", "beat")
            found = {name: content[name] for name in names}
            found["pid"] = int(found["pid"])
        except (OSError, ValueError, KeyError, TypeError):
            return None
        return found if found["folder"] == str(self._folder) else None

    def _renew(self) -> None:
        self._beats += 1
        content = {**self._content, "beat": self._beats}
        write_whole(self._path, json.dumps(content, indent=1).encode())

    def _keep(self) -> None:
        while not self._released.wait(BEAT_S):
            try:
                holder = self._holder()
                if holder and holder["token"] != self._content["token"]:
                    self.lost = True
                    return
                self._renew()
            except StorageError:
                continue  # the ledger's writer waits for the same storage, and tells

    def _unlock(self) -> None:
        if self._lock:
            self._lock.release()


def _kernel_lock(folder: Path) -> FileLock:
    lock = FileLock(folder / ".lock")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise InputError(
            f"{folder}: another process is searching here; wait for it, or choose another --study"
        ) from None
    except OSError as error:
        raise InputError(f"{folder}: cannot be written: {error.strerror}") from None
    return lock


def _held(folder: Place, holder: dict[str, Any]) -> InputError:
    return InputError(
        f"{folder}: another process is searching here ({_named(holder)}); wait for it, "
        "or choose another --study"
    )


def _named(holder: dict[str, Any]) -> str:
    return f"process {holder['pid']} on {holder['host']}"


def _is_gone(holder: dict[str, Any]) -> bool | None:
    """Whether the holder's process has ended; None where that cannot be known from here."""
    here = _self()
    if here["boot"] is None or (holder["host"], holder["boot"]) != (here["host"], here["boot"]):
        return None
    return _started(holder["pid"]) != holder["started"]


def _self() -> dict[str, Any]:
    pid = os.getpid()
    boot = Path("/proc/sys/kernel/random/boot_id")
    return {
        "host": platform.node(),
        "boot": boot.read_text().strip() if boot.exists() else None,
        "pid": pid,
        "started": _started(pid),
    }


def _started(pid: int) -> int | None:
    """When a process began, in the kernel's ticks; a number is given to another process some
    day."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return None
    return int(stat.rpartition(")")[2].split()[19])
