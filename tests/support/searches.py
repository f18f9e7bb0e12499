"""Real searches as processes of their own, for the tests that break something under them."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any

import pandas as pd
from forked import Forked, Template
from object_store import ObjectStore

from raycae.storage.paths import Place, resolve_place
from raycae.study import tables
from raycae.study.ledger import read_events

START_RAY = """
import sys
import ray
from raycae.execution.ray_patches import start_fewer_processes
options = dict(include_dashboard=False, log_to_driver=False, logging_level="ERROR")
with start_fewer_processes():
    try:
        context = ray.init(num_cpus=2, num_gpus=2, **options)
    except Exception:  # A node has 30 s to start, which can be too short on a busy machine.
        ray.shutdown()
        context = ray.init(num_cpus=2, num_gpus=2, **options)
print(context.address_info["address"], flush=True)
sys.stdin.read()
"""


class SmallRay:
    """Two cores and two GPUs that exist in Ray's books alone; a context manager. It ends with the
    test's process, however that ends."""

    def __enter__(self) -> dict[str, str]:
        """The environment that leads to it."""
        # With the token that Ray makes for itself, and what its workers need for an object store.
        env = {**os.environ, **ObjectStore().env}
        env |= {"RAY_USAGE_STATS_ENABLED": "0", "RAY_AUTH_MODE": "token"}
        self._process = subprocess.Popen(
            [sys.executable, "-c", START_RAY],
            env=env,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,  # Ctrl-C is for the test
        )
        assert self._process.stdout is not None
        address = self._process.stdout.readline().strip()
        assert address, f"Ray ended with {self._process.wait()}"
        env["RAY_ADDRESS"] = address
        templates.append(Template(env))
        return env

    def __exit__(self, *_: object) -> None:
        templates.pop().close()
        self._process.communicate(timeout=60)


def command(space_file: Path, results_folder: Path | str, *more: str, setup: str = "") -> list[str]:
    """A search as a command line. `setup`: Python that its process runs first."""
    start = ["-m", "raycae"]
    if setup:
        quiet = "import signal, sys; signal.signal(2, lambda *_: sys.exit(130))"  # as `raycae` is
        start = ["-c", f"{quiet}\n{setup}\nfrom raycae.__main__ import main; main()"]
    return [
        *(sys.executable, *start, "search", "--space", str(space_file)),
        *("--results", str(results_folder), "--gpus-per-trial", "0", *more),
    ]


def drop_waiting_notes(stderr: str) -> str:
    """What a search said on standard error, but for the note that no trial has run for 30 s: on a
    busy machine the first worker may take longer to start."""
    lines = stderr.splitlines(keepends=True)
    return "".join(line for line in lines if not line.startswith("Waiting for a worker: "))


templates: list[Template] = []
"""What searches on the small Ray are forked from, while there is one."""


def start(arguments: list[str], env: dict[str, str]) -> subprocess.Popen[str] | Forked:
    """A process whose output is read; forked from a template where one fits."""
    for template in templates:
        if template.fits(arguments, env):
            return template.start(arguments, env)
    pipe = subprocess.PIPE
    return subprocess.Popen(arguments, env=env, stdout=pipe, stderr=pipe, text=True)


def run(
    arguments: list[str], env: dict[str, str], *, anew: bool = False
) -> subprocess.CompletedProcess[str]:
    """Wait for a command. `anew`: it is not forked from another process."""
    if anew:
        done = subprocess.run(
            arguments, env=env, capture_output=True, text=True, timeout=300, check=False
        )
        done.stderr = drop_waiting_notes(done.stderr)
        return done
    with Running(arguments, env) as process:
        return process.end()


class Running:
    """A command that runs while a test does something to it; a context manager, which leaves no
    process behind."""

    def __init__(self, arguments: list[str], env: dict[str, str]) -> None:
        self._process = start(arguments, env)
        self.pid = self._process.pid

    def __enter__(self) -> Running:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._process.poll() is None:
            self._process.kill()
            said = "nothing that could be read: it cannot be ended"
            with suppress(subprocess.TimeoutExpired):
                said = "\n".join(self._process.communicate(timeout=20))
            if error is not None:
                error.add_note(f"it had said: {said}")

    def send(self, number: int) -> None:
        self._process.send_signal(number)

    def ends(self) -> bool:
        return self._process.poll() is not None

    def end(self, seconds: float = 300) -> subprocess.CompletedProcess[str]:
        out, err = self._process.communicate(timeout=seconds)
        err = drop_waiting_notes(err)
        return subprocess.CompletedProcess(self._process.args, self._process.returncode, out, err)


def trials_of(folder: Path) -> pd.DataFrame:
    return tables.read_trials(folder).sort_values("trial_number")


def events_of(folder: Place | str, kind: str) -> list[dict[str, Any]]:
    """Of the ledger so far."""
    parts = resolve_place(folder) / "ledger"
    return [e for e in read_events(parts) if e["event"] == kind] if parts.exists() else []


def epochs_so_far(folder: Place | str) -> int:
    return len(events_of(folder, "epoch"))


def wait_for(condition: Callable[[], object], seconds: float = 240) -> None:
    until = time.monotonic() + seconds
    while True:
        asked = time.monotonic()
        if condition():
            return
        assert time.monotonic() < until, "it did not come to that"
        # To read a ledger again and again takes the time that the search needs.
        time.sleep(min(max(0.05, 9 * (time.monotonic() - asked)), 0.5))


def a_trainable() -> int:
    """The process id of a trial actor."""
    return trainables()[0]


def trainables() -> list[int]:
    """Of this test's own Ray: other tests may run beside it."""
    found = []
    for pid in descendants(os.getpid()):
        try:
            title = Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ")
        except OSError:
            continue
        if title.startswith(b"ray::") and b"Trainable" in title:
            found.append(pid)
    assert found, "no trial process found"
    return sorted(found)


def descendants(pid: int) -> set[int]:
    """A process and all that it started, and they."""
    parents = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = path.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        parents[int(path.parent.name)] = int(fields[1])
    found = {pid}
    while more := {child for child, parent in parents.items() if parent in found} - found:
        found |= more
    return found
