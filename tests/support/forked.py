"""Searches as processes that are forked from one that has imported what a search needs.

To import torch, Ray and the rest takes 4 to 5 s of CPU in each process that is started anew. A
forked one is a process of its own in every other respect: arguments, environment, current folder,
standard output, signals, exit code. As a program this file is the process that they are forked
from; what Python takes from the environment when it starts is the same for all of them.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
from importlib import import_module
from pathlib import Path

RUN_PACKAGE = ["-m", "raycae"]
MODULES = ("trainable", "tune_adapter", "tuner")


class Forked:
    """A process and its output; the part of `subprocess.Popen` that the tests use."""

    def __init__(
        self, connection: socket.socket, arguments: list[str], env: dict[str, str]
    ) -> None:
        self.args = arguments
        self.returncode: int | None = None
        request = json.dumps(
            {"arguments": arguments[1:], "env": env, "cwd": str(Path.cwd())}
        ).encode()
        pipes = [os.pipe() for _ in range(3)]
        connection.sendall(struct.pack("!I", len(request)))
        socket.send_fds(connection, [b"!"], [write for _, write in pipes])
        connection.sendall(request)
        for _, write in pipes:
            os.close(write)
        out, err, self._status = (os.fdopen(read, "rb", buffering=0) for read, _ in pipes)
        (self.pid,) = struct.unpack("!i", self._status.read(4))
        self._said = {"out": b"", "err": b""}
        self._readers = [
            threading.Thread(target=self._read, args=(name, pipe), daemon=True)
            for name, pipe in (("out", out), ("err", err))
        ]
        self._ended = threading.Thread(target=self._wait, daemon=True)
        for thread in (*self._readers, self._ended):
            thread.start()

    def _read(self, name: str, pipe: object) -> None:
        with pipe:  # type: ignore[attr-defined]
            while part := pipe.read(65536):  # type: ignore[attr-defined]
                self._said[name] += part

    def _wait(self) -> None:
        with self._status:
            (status,) = struct.unpack("!i", self._status.read(4))
        self.returncode = os.waitstatus_to_exitcode(status)

    def poll(self) -> int | None:
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        self._ended.join(timeout)
        if self.returncode is None:
            raise subprocess.TimeoutExpired(self.args, timeout or 0)
        return self.returncode

    def communicate(self, timeout: float | None = None) -> tuple[str, str]:
        """Wait for the end of the process and of its output."""
        until = None if timeout is None else time.monotonic() + timeout
        for thread in (*self._readers, self._ended):
            thread.join(None if until is None else max(0.0, until - time.monotonic()))
            if thread.is_alive():
                raise subprocess.TimeoutExpired(self.args, timeout or 0)
        out, err = (self._said[name].decode().replace("\r\n", "\n") for name in ("out", "err"))
        return out, err

    def send_signal(self, number: int) -> None:
        if self.returncode is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)


class Template:
    """The process that others are forked from; it ends with this one, or when it is closed.

    Args:
        env: Its environment, and that of the processes, but for HOME.
    """

    def __init__(self, env: dict[str, str]) -> None:
        self._env = dict(env)
        self._connection, other = socket.socketpair()
        with other:
            self._process = subprocess.Popen(
                [sys.executable, __file__, str(other.fileno())],
                env=env,
                pass_fds=[other.fileno()],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
            )

    def fits(self, arguments: list[str], env: dict[str, str]) -> bool:
        """Whether these arguments of Python can be run in a fork."""
        is_code = arguments[1] == "-c" or arguments[1:3] == RUN_PACKAGE
        own = self._env | {"HOME": env.get("HOME", "")}
        is_there = self._process.poll() is None
        return arguments[0] == sys.executable and is_code and env == own and is_there

    def start(self, arguments: list[str], env: dict[str, str]) -> Forked:
        return Forked(self._connection, arguments, env)

    def close(self) -> None:
        self._connection.close()
        self._process.wait(60)


def import_everything() -> None:
    """Import what a search does, in the same way."""
    from raycae.execution import ray_session, runner

    ray_session.silence_libraries()
    for name in ("cli.main", "cli.search", *(f"execution.{module}" for module in MODULES)):
        import_module(f"raycae.{name}")
    runner._import_everything()


def receive(connection: socket.socket, n: int) -> bytes:
    """Read `n` bytes; fewer where the other side has closed the connection."""
    received = b""
    while len(received) < n and (part := connection.recv(n - len(received))):
        received += part
    return received


def serve(connection: socket.socket) -> dict[str, object]:
    """Fork a process for each request. Returns in those processes, with the request."""
    signal.signal(
        signal.SIGCHLD, signal.SIG_IGN
    )  # No process is left that has not been waited for.
    while length := receive(connection, 4):
        _, fds, _, _ = socket.recv_fds(connection, 1, 3)
        request = json.loads(receive(connection, *struct.unpack("!I", length)))
        if os.fork() == 0:
            connection.close()
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            *output, status = fds
            if (pid := os.fork()) == 0:
                for number, fd in enumerate(output, 1):
                    os.dup2(fd, number)
                for fd in fds:
                    os.close(fd)
                return request
            for fd in output:
                os.close(fd)
            os.write(status, struct.pack("!i", pid))
            os.write(status, struct.pack("!i", os.waitpid(pid, 0)[1]))
            os._exit(0)
        for fd in fds:
            os.close(fd)
    os._exit(0)


if __name__ == "__main__":
    sys.path.pop(0)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the test.
    import_everything()
    request = serve(socket.socket(fileno=int(sys.argv[1])))
    signal.signal(signal.SIGINT, signal.default_int_handler)
    os.environ.clear()
    os.environ.update(request["env"])  # type: ignore[call-overload]
    os.chdir(request["cwd"])  # type: ignore[arg-type]
    import numpy as np

    np.random.seed()
    arguments: list[str] = request["arguments"]  # type: ignore[assignment]
    if arguments[0] == "-c":
        sys.path.insert(0, "")
        sys.argv = ["-c", *arguments[2:]]
        exec(compile(arguments[1], "<string>", "exec"), {"__name__": "__main__"})
    else:
        import raycae.__main__

        sys.path.insert(0, str(Path.cwd()))
        sys.argv = [str(Path(raycae.__main__.__file__)), *arguments[2:]]
        raycae.__main__.main()
