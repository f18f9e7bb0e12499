"""Ray's job server: the searches that were submitted to a cluster."""

from __future__ import annotations

import importlib.util
import logging
import os
import re
from http.client import HTTPException
from typing import Any
from urllib.error import HTTPError
from urllib.request import urlopen

from raycae.errors import InputError
from raycae.execution.search_request import SearchRequest
from raycae.storage.paths import Place, resolve_place

HEAD = "http://127.0.0.1:8265"
"""The address of a head on this machine, as Ray chooses it."""
ANSWER_S = 4.0
"""A head that has not answered after this many seconds is taken to be absent."""
STOP_S = 90
"""Ray kills a stopped job after this many seconds. A search needs six and the time of its report.
"""
NOISY_LOGGERS = (
    "ray.dashboard.modules.dashboard_sdk",
    "ray.dashboard.modules.job.sdk",
    "ray._private.runtime_env.packaging",
)
"""Loggers of Ray that print what every submitted job does."""


def make_job_metadata(request: SearchRequest) -> dict[str, str]:
    """Make what the head records about a search.

    Args:
        request: What the search will do.

    Returns:
        The name of its study, where studies are stored, and, if any, its time limit in hours and
        the URL of its database, which has no password.
    """
    metadata = {"study": request.folder.name, "results": str(request.folder.parent)}
    if request.hours is not None:
        metadata["hours"] = str(request.hours)
    if request.database is not None:
        metadata["storage"] = request.database
    return metadata


def connect_to_head(address: str) -> Any:
    """Connect to the job server of a cluster.

    Args:
        address: The URL of the head, such as `http://HEAD:8265`.

    Returns:
        Ray's `JobSubmissionClient`.

    Raises:
        InputError: Nothing answers at the address, it is not a head, or it refuses the token.
    """
    if not re.match("https?://.", address):
        raise InputError(f"--address {address}: must be a URL, such as http://HEAD:8265")
    if importlib.util.find_spec("aiohttp") is None:
        raise InputError("raycae submit: Ray's job client is missing; pip install 'raycae[jobs]'")
    try:
        urlopen(f"{address.rstrip('/')}/api/version", timeout=ANSWER_S).close()
    except HTTPError:
        pass  # Something answers; Ray's client finds out what it is.
    except (OSError, ValueError, HTTPException) as error:
        reason = getattr(error, "reason", error)
        raise InputError(f"--address {address}: no head answers there: {reason}") from None
    os.environ["RAY_API_SERVER_ADDRESS"] = address  # Otherwise RAY_ADDRESS would take precedence.
    from ray.exceptions import AuthenticationError
    from ray.job_submission import JobSubmissionClient

    for name in NOISY_LOGGERS:
        logging.getLogger(name).setLevel(logging.WARNING)
    try:
        return JobSubmissionClient(address)
    except AuthenticationError as error:
        reason = re.split(r"\n|\.+ Ensure", str(error))[0]
        raise InputError(
            f"--address {address}: {reason}. Set RAY_AUTH_MODE=token, and give the cluster's "
            "token in RAY_AUTH_TOKEN or in the file that RAY_AUTH_TOKEN_PATH names."
        ) from None
    except (OSError, RuntimeError, ValueError, KeyError) as error:
        raise InputError(f"--address {address}: this is not a Ray head: {error}") from None


def list_searches(client: Any) -> dict[str, Any]:
    """List the jobs of a cluster that are searches.

    Args:
        client: What `connect_to_head` returns.

    Returns:
        Ray's description of each job by the name of the job, the newest last.
    """
    keys = {"study", "results"}
    searches = [job for job in client.list_jobs() if keys <= (job.metadata or {}).keys()]
    return {job.submission_id: job for job in sorted(searches, key=lambda job: job.start_time)}


def find_job(client: Any, name: str) -> Any:
    """Find a search on a cluster.

    Args:
        client: What `connect_to_head` returns.
        name: The name that `raycae submit` printed.

    Raises:
        InputError: The cluster has no search of this name.
    """
    searches = list_searches(client)
    if name not in searches:
        known = ", ".join(searches) or "none"
        raise InputError(f"{name}: no search on the cluster has this name. Searches: {known}.")
    return searches[name]


def get_job_folder(job: Any) -> Place:
    """Return the folder of the study of a search on a cluster.

    Args:
        job: Ray's description of the job.
    """
    return resolve_place(job.metadata["results"]) / job.metadata["study"]


def format_job_folder(job: Any) -> str:
    """Write the folder of the study of a search, without asking its store, which may be gone.

    Args:
        job: Ray's description of the job.
    """
    results, study = job.metadata["results"], job.metadata["study"]
    if "://" not in results:
        return f"{results}/{study}"
    uri, mark, query = results.partition("?")
    return f"{uri}/{study}{mark}{query}"
