"""Connect to Ray: a running cluster, or a Ray of this machine's own."""

from __future__ import annotations

import logging
import os
import queue
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from raycae.errors import InputError, StorageError
from raycae.execution.ray_patches import (
    apply_ray_patches,
    make_isolated_job_config,
    start_fewer_processes,
)

ADDRESS = re.compile(
    r"(?P<client>ray://)?(?P<host>\[[0-9A-Fa-f:.]+\]|[^][\s/:]+):(?P<port>[0-9]{1,5})"
)
ANSWER_S = 8.0
"""A Ray head that has not answered after this many seconds is taken to be absent."""
SOCKET_PATH_BYTES = 103 if sys.platform == "darwin" else 107
"""Longest path of a Unix socket."""
RAY_SOCKET = "/session_2026-01-01_00-00-00_000000_0000000/sockets/plasma_store"
"""What Ray adds to its temporary folder to name its longest socket."""
LEAST_FREE_BYTES = 64 * 2**20
"""Free disk space that Ray's session folder needs for logs and sockets."""
FALLBACK_FOLDERS = ("/tmp", "/var/tmp", "/dev/shm")
"""Where the session folder goes if TMPDIR cannot hold it."""
HTTP2_GREETING = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\0\0\0\x04\0\0\0\0\0"
"""First bytes of an HTTP/2 client: the connection preface and an empty SETTINGS frame (RFC 9113,
section 3.4)."""


@dataclass(frozen=True)
class RayTarget:
    """Which Ray a search uses.

    Attributes:
        address: HOST:PORT or ray://HOST:PORT; "auto" if Ray has to look for it among the processes
            of this machine; None if the search starts its own.
        source: Where the address comes from, as a message names it.
        file: The file that `ray start` left, if the address comes from there.
    """

    address: str | None
    source: str
    file: Path | None = None


@contextmanager
def connect_ray(address: str | None) -> Iterator[bool]:
    """Connect to the running Ray, to the one at `address`, or to a new one on this machine.

    Args:
        address: The option `--address`.

    Yields:
        Whether a Ray was started for this search alone.

    Raises:
        InputError: No Ray head answers at the address, or it refuses this driver.
        StorageError: A Ray cannot be started on this machine.
    """
    silence_libraries()
    target = find_ray(address)
    if target.address is None:
        # Otherwise Ray listens on every interface, where other machines could reach it.
        os.environ.setdefault("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "0")
    import ray

    apply_ray_patches()
    if ray.is_initialized():
        yield False
        return
    options: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
    with ExitStack() as stack:
        if target.address is None:
            _start_ray(options, stack)
        else:
            _join_ray(target, address, options)
        stack.callback(ray.shutdown)
        yield target.address is None


def starts_own_ray(address: str | None) -> bool:
    """Return whether a search starts a Ray on this machine.

    Without an address it joins the cluster that `ray start` left a file about, which is what
    `ray submit` needs.

    Args:
        address: The option `--address`.
    """
    return find_ray(address).address is None


def find_ray(address: str | None) -> RayTarget:
    """Find out which Ray to use: `--address`, then RAY_ADDRESS, then the file of `ray start`.

    Args:
        address: The option `--address`.
    """
    if address not in (None, "auto"):
        target = RayTarget(address, f"--address {address}")
    elif (variable := os.environ.get("RAY_ADDRESS", "")) not in ("", "auto"):
        target = RayTarget(variable, f"RAY_ADDRESS={variable}")
    elif (content := _read_address_file()) is not None:
        file = ray_address_file()
        target = RayTarget(content, f"{file}, which `ray start` wrote,", file)
    elif address or variable:
        target = RayTarget("auto", "--address auto" if address else "RAY_ADDRESS=auto")
    else:
        target = RayTarget(None, "this machine")
    return RayTarget(None, target.source) if target.address == "local" else target


def ray_address_file() -> Path:
    """Return where `ray start` writes the address of the cluster that this machine is in."""
    return _get_ray_folder() / "ray_current_cluster"


def require_ray_head(target: RayTarget) -> None:
    """Check within `ANSWER_S` seconds that a Ray head answers. Ray itself would try for minutes.

    Args:
        target: Which Ray to use.

    Raises:
        InputError: The address is not one, or what answers there is not a Ray head.
    """
    where = target.address
    if where is None or where == "auto":
        return
    address = ADDRESS.fullmatch(where)
    if address is None or int(address["port"]) > 65535:
        raise _make_no_head_error(
            target,
            f"{where!r} is not the address of a Ray head; expected HOST:PORT, ray://HOST:PORT, "
            "auto or local",
        )
    if os.environ.get("RAY_USE_TLS", "0").lower() not in ("1", "true"):
        try:
            _greet_http2(address["host"].strip("[]"), int(address["port"]))
        except OSError as error:
            raise _make_no_head_error(target, f"nothing answers there: {error}") from None
        except ValueError:
            raise _make_no_head_error(
                target, "the server that answers there is not a Ray head"
            ) from None
    if not address["client"]:
        _ask_gcs(target, where)


def silence_libraries() -> None:
    """Keep the messages of Ray and Tune out of the terminal, and their files out of the study."""
    os.environ.setdefault("TUNE_DISABLE_AUTO_CALLBACK_LOGGERS", "1")
    os.environ.setdefault("TUNE_DISABLE_SIGINT_HANDLER", "1")  # raycae stops the search
    os.environ.setdefault("TUNE_GLOBAL_CHECKPOINT_S", "1000000")  # its snapshot is not needed
    os.environ.setdefault("RAY_AIR_NEW_OUTPUT", "0")
    os.environ.setdefault("TUNE_FORCE_TRIAL_CLEANUP_S", "1")  # what still runs has had its time
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # no report to Ray
    # By default a `ray://` address without an answer is tried for 35 seconds.
    os.environ.setdefault("RAY_CLIENT_INITIAL_CONNECTION_TIMEOUT_S", "1")
    os.environ.setdefault("RAY_CLIENT_MAX_CONNECTION_TIMEOUT_S", "3")
    warnings.filterwarnings("ignore", "Ray Client connection timed out")
    # In a notebook: what would be nicer with ipywidgets, which raycae's view does without.
    warnings.filterwarnings("ignore", "IProgress not found")
    # SQLAlchemy would print a traceback where Ctrl-C meets it in the middle of a query.
    for name in ("ray", "ray.tune", "ray.train", "ray.air", "ray.widgets", "sqlalchemy"):
        logging.getLogger(name).setLevel(logging.CRITICAL)


def _start_ray(options: dict[str, Any], stack: ExitStack) -> None:
    """Start a Ray on this machine; `stack` removes its files later."""
    import ray

    session_folder = _get_ray_folder()
    if problem := _find_folder_problem(session_folder):
        session_folder = _make_session_folder(problem, stack)
        options["_temp_dir"] = str(session_folder)
    with _make_package_importable(stack), start_fewer_processes():
        try:
            ray.init(
                address="local",
                include_dashboard=False,
                job_config=make_isolated_job_config(),
                **options,
            )
        except Exception as error:
            ray.shutdown()
            logs = session_folder / "session_latest" / "logs"
            kept = f"; its log is in {logs}" if logs.exists() else ""
            if kept:
                stack.pop_all()  # The log stays.
            raise StorageError(
                f"Ray cannot be started on this machine: {_describe(error)}{kept}. Use "
                "--address HOST:PORT to connect to a running Ray instance."
            ) from error


def _join_ray(target: RayTarget, address: str | None, options: dict[str, Any]) -> None:
    """Connect to the running Ray that `target` names."""
    import ray

    require_ray_head(target)
    if address is None:
        options["include_dashboard"] = False
    if not str(target.address).startswith("ray://"):  # The server of a Ray client has its own.
        options["job_config"] = make_isolated_job_config()
    try:
        ray.init(address=address, **options)
    except Exception as error:
        raise _make_no_head_error(
            target, f"cannot connect to Ray there: {_describe(error)}"
        ) from error


@contextmanager
def _make_package_importable(stack: ExitStack) -> Iterator[None]:
    """Let the processes that are started inside import the raycae that this process has imported.

    A source checkout that is not installed is found through a folder that holds nothing but a link
    to the package, so that other files of the checkout shadow nothing.
    """
    package = Path(__file__).resolve().parents[1]
    code = "import raycae; print(raycae.__file__)"
    found = subprocess.run(
        [sys.executable, "-c", code], cwd="/", capture_output=True, text=True, check=False
    )
    if Path(found.stdout.strip()).resolve().parent == package:
        yield
        return
    folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="raycae-package-"))
    (Path(folder) / "raycae").symlink_to(package)
    before = os.environ.get("PYTHONPATH")
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, (folder, before)))
    try:
        yield
    finally:
        del os.environ["PYTHONPATH"]
        if before is not None:
            os.environ["PYTHONPATH"] = before


def _get_ray_folder() -> Path:
    """Return where Ray puts the folders of its sessions, by the variables that Ray reads."""
    variables = ("RAY_TMPDIR",) if sys.platform == "darwin" else ("RAY_TMPDIR", "TMPDIR")
    given = [os.environ[name] for name in variables if name in os.environ]
    return Path(given[0] if given else "/tmp") / "ray"


def _read_address_file() -> str | None:
    """Return the address that `ray start` left on this machine; None if there is none."""
    try:
        return ray_address_file().read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return None


def _find_folder_problem(folder: Path) -> str | None:
    """Return why Ray cannot use `folder` for its sessions, or None if it can."""
    length = len(os.fsencode(f"{folder}{RAY_SOCKET}"))
    if length > SOCKET_PATH_BYTES:
        return f"the path is {length - SOCKET_PATH_BYTES} bytes too long for Unix sockets"
    existing = folder if folder.exists() else folder.parent
    try:
        free = shutil.disk_usage(existing).free
        with tempfile.TemporaryFile(dir=existing) as probe:
            probe.write(bytes(2**20))
    except OSError as error:
        return error.strerror or str(error)
    if free < LEAST_FREE_BYTES:
        return f"{free / 2**20:.0f} MiB are free, {LEAST_FREE_BYTES / 2**20:.0f} MiB are needed"
    return None


def _make_session_folder(problem: str, stack: ExitStack) -> Path:
    """Make a private folder with a short path for Ray's session.

    Args:
        problem: Why Ray's usual folder cannot be used.
        stack: Removes the folder when it is closed.

    Raises:
        StorageError: No other folder can be used either.
    """
    for parent in (*FALLBACK_FOLDERS, str(Path.home())):
        if not Path(parent).is_dir():
            continue
        folder = Path(tempfile.mkdtemp(prefix="raycae-ray-", dir=parent))
        stack.callback(shutil.rmtree, folder, ignore_errors=True)
        if _find_folder_problem(folder) is None:
            return folder
    longest = SOCKET_PATH_BYTES - len(RAY_SOCKET) - len("/ray")
    raise StorageError(
        f"Ray cannot put its session folder into {_get_ray_folder()}: {problem}. Set RAY_TMPDIR to "
        f"a writable folder of at most {longest} characters with 64 MiB free"
    )


def _greet_http2(host: str, port: int) -> None:
    """Exchange the first frames of HTTP/2, which every gRPC server speaks and little else.

    Raises:
        OSError: Nothing answers within `ANSWER_S` seconds, name resolution included.
        ValueError: What answers does not speak HTTP/2.
    """
    outcome: queue.SimpleQueue[bytes | OSError] = queue.SimpleQueue()
    until = time.monotonic() + ANSWER_S

    def greet() -> None:
        try:
            with socket.create_connection((host, port), timeout=ANSWER_S) as connection:
                connection.sendall(HTTP2_GREETING)
                answer = b""
                while len(answer) < 9:
                    connection.settimeout(max(until - time.monotonic(), 0.01))
                    received = connection.recv(9 - len(answer))
                    if not received:
                        break
                    answer += received
                outcome.put(answer)
        except OSError as error:
            outcome.put(error)
        except UnicodeError as error:  # A host name that cannot be one.
            outcome.put(OSError(str(error)))

    threading.Thread(target=greet, daemon=True).start()
    try:
        answer = outcome.get(timeout=ANSWER_S)
    except queue.Empty:
        raise TimeoutError("timed out") from None
    if isinstance(answer, OSError):
        raise answer
    is_settings_frame = len(answer) == 9 and answer[3] == 4 and not any(answer[5:9])
    if not is_settings_frame:
        raise ValueError(f"no HTTP/2 SETTINGS frame: {answer!r}")


def _ask_gcs(target: RayTarget, where: str) -> None:
    """Raise `InputError` unless the gRPC server at `where` is the control service of a Ray head."""
    from ray._raylet import InnerGcsClient  # type: ignore[attr-defined]
    from ray.exceptions import AuthenticationError, RpcError

    try:
        with _discard_stderr():
            InnerGcsClient.standalone(where, None, 3000)
    except AuthenticationError as error:
        if target.file is None:  # For the cluster of this machine, Ray finds the token itself.
            raise _make_no_head_error(target, f"the Ray head refuses: {_describe(error)}") from None
    except RpcError as error:
        raise _make_no_head_error(
            target, f"the server that answers there is not a Ray head: {_describe(error)}"
        ) from None


@contextmanager
def _discard_stderr() -> Iterator[None]:
    """Discard output to file descriptor 2, where Ray's C++ code logs failures."""
    saved, null = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, 2)
    try:
        yield
    finally:
        os.dup2(saved, 2)
        os.close(saved)
        os.close(null)


def _make_no_head_error(target: RayTarget, problem: str) -> InputError:
    """Return the message that no Ray can be used where `target` says, with the ways out."""
    if target.file is None:
        return InputError(
            f"{target.source}: {problem}. Check the address, or use --address "
            "local to start Ray on this machine."
        )
    return InputError(
        f"{target.source} names a Ray head at {target.address or 'no address'}: {problem}. If it "
        "has ended, run `ray stop` or delete the file. Use --address local to start Ray on this "
        "machine."
    )


def _describe(error: BaseException) -> str:
    """Return the message of an error of Ray, or its type where there is none."""
    return str(error).strip().rstrip(".:") or type(error).__name__
