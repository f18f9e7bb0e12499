"""A real PostgreSQL that a test starts, for Optuna's RDBStorage."""

from __future__ import annotations

import functools
import os
import pwd
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any


def _programs() -> Path | None:
    """Debian keeps them out of the path, one folder a version."""
    folders = [path.parent for path in Path("/usr/lib/postgresql").glob("*/bin/initdb")]
    if folders:
        return max(folders, key=lambda folder: float(folder.parent.name))
    found = shutil.which("initdb")
    return Path(found).resolve().parent if found else None


@functools.cache
def available() -> str | None:
    """Why no PostgreSQL can be had here, or None."""
    if _programs() is None:
        return "no initdb: PostgreSQL is not installed (Debian: postgresql)"
    if os.geteuid() == 0 and "postgres" not in {user.pw_name for user in pwd.getpwall()}:
        return "PostgreSQL refuses to run as root, and there is no user postgres"
    return None


class PostgreSQL:
    """An empty database on a free port of 127.0.0.1; a context manager.

    What it wrote survives `stop` and `start`, not the machine's power: it does not sync.
    """

    def __init__(self) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.url = f"postgresql+psycopg://postgres@127.0.0.1:{self.port}/postgres"

    def __enter__(self) -> PostgreSQL:
        # Not below pytest's tmp_path: only root may look into that.
        self._folder = Path(tempfile.mkdtemp(prefix="raycae-postgresql-"))
        self._server: subprocess.Popen[bytes] | None = None
        try:
            if os.geteuid() == 0:
                shutil.chown(self._folder, "postgres", "postgres")
            made = self._popen("initdb", "--auth=trust", "--username=postgres", "--no-sync")
            assert made.wait(30) == 0, self._said()
            self.start()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()
        shutil.rmtree(self._folder, ignore_errors=True)

    def start(self) -> None:
        """Accepts connections when this returns."""
        where = ["-p", str(self.port), "-h", "127.0.0.1", "-k", ""]
        self._server = self._popen("postgres", *where, "-c", "fsync=off")
        ask = [self._program("pg_isready"), "-q", "-h", "127.0.0.1", "-p", str(self.port)]
        until = time.monotonic() + 30
        while subprocess.run(ask, check=False).returncode != 0:
            assert self._server.poll() is None, self._said()
            assert time.monotonic() < until, self._said()
            time.sleep(0.02)

    def stop(self) -> None:
        """At once: connections break, and the next start recovers from the log as after a crash."""
        if self._server is not None:
            self._server.send_signal(signal.SIGQUIT)
            self._server.wait(30)
            self._server = None

    def _program(self, name: str) -> str:
        programs = _programs()
        assert programs is not None, available()
        return str(programs / name)

    def _popen(self, name: str, *arguments: str) -> subprocess.Popen[bytes]:
        data = str(self._folder / "data")
        who: dict[str, Any] = {}
        if os.geteuid() == 0:
            who = {"user": "postgres", "group": "postgres", "extra_groups": []}
        with (self._folder / "log").open("a") as log:
            return subprocess.Popen(
                # It ends with the test, however that ends.
                ["setpriv", "--pdeathsig", "QUIT", self._program(name), "-D", data, *arguments],
                cwd=self._folder,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,  # Ctrl-C is for the test, which then stops it
                **who,
            )

    def _said(self) -> str:
        return (self._folder / "log").read_text()
