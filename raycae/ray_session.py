"""Connecting to Ray: a running cluster, or a Ray that a search starts on this machine."""

from __future__ import annotations

import logging
import os
import socket
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from raycae.errors import InputError


@contextmanager
def connect_ray(address: str | None) -> Iterator[None]:
    """A connection to Ray: the one there is, the one at `address`, or one of this machine's own."""
    silence_libraries()
    own = starts_own_ray(address)
    if own:
        # Ray would listen on every interface; nobody else is meant to reach this machine's own.
        os.environ.setdefault("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "0")
    import ray

    if ray.is_initialized():
        yield
        return
    require_ray_head(address)
    # It prints what raylets say of lost machines and processes, whatever log_to_driver is.
    ray._private.worker.listen_error_messages = lambda *_: None
    try:
        ray.init(
            address=address,
            include_dashboard=False if own or address is None else None,
            log_to_driver=False,
            logging_level=logging.ERROR,
        )
    except (ConnectionError, ValueError) as error:
        raise InputError(f"{describe_source(address)}: no Ray answers there: {error}") from None
    try:
        yield
    finally:
        ray.shutdown()


def starts_own_ray(address: str | None) -> bool:
    """Whether Ray will start on this machine and not join a cluster: without an address it joins
    what `ray start` left word of, which is what `ray submit` rests on."""
    if address is not None:
        return address == "local"
    return not os.environ.get("RAY_ADDRESS") and not ray_address_file().exists()


def ray_address_file() -> Path:
    """Where `ray start` says which cluster this machine is in."""
    temporary = Path(os.environ.get("RAY_TMPDIR", os.environ.get("TMPDIR", "/tmp")))
    return temporary / "ray/ray_current_cluster"


def require_ray_head(address: str | None) -> None:
    """Ray itself would go on trying for minutes."""
    where = address or os.environ.get("RAY_ADDRESS", "auto")
    if where == "auto" and ray_address_file().exists():
        where = ray_address_file().read_text().strip()
    host, colon, port = where.removeprefix("ray://").rpartition(":")
    if not colon:
        return
    try:
        socket.create_connection((host, int(port)), timeout=5).close()
    except (OSError, ValueError, OverflowError) as error:
        raise InputError(f"{describe_source(address)}: nothing answers there: {error}") from None


def describe_source(address: str | None) -> str:
    """Who said where Ray is."""
    if address is not None:
        return f"--address {address}"
    if told := os.environ.get("RAY_ADDRESS"):
        return f"RAY_ADDRESS={told}"
    return "the cluster that `ray start` left word of on this machine"


def silence_libraries() -> None:
    """Ray's and Tune's own words stay out of the terminal, and their files out of the study."""
    os.environ.setdefault("TUNE_DISABLE_AUTO_CALLBACK_LOGGERS", "1")
    os.environ.setdefault("TUNE_DISABLE_SIGINT_HANDLER", "1")  # raycae ends the search in order
    os.environ.setdefault("TUNE_GLOBAL_CHECKPOINT_S", "1000000")  # its snapshot is not needed
    os.environ.setdefault("RAY_AIR_NEW_OUTPUT", "0")
    os.environ.setdefault("TUNE_FORCE_TRIAL_CLEANUP_S", "1")  # what still runs has had its time
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # nobody is told what is searched here
    # In a notebook: what would be nicer with ipywidgets, which raycae's view does without.
    warnings.filterwarnings("ignore", "IProgress not found")
    # SQLAlchemy would print a traceback where Ctrl-C meets it in the middle of a query.
    for name in ("ray", "ray.tune", "ray.train", "ray.air", "ray.widgets", "sqlalchemy"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
