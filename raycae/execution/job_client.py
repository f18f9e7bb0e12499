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
from raycae.execution.search_options import SearchRequest
from raycae.storage.paths import Place, resolve_place

HEAD = "http://127.0.0.1:8265"
ANSWER_S = 4.0
STOP_S = 90
"""A search that is told to stop is killed after so long. By itself it takes ten seconds, and what
its report takes."""
TALKATIVE = (
    "ray.dashboard.modules.dashboard_sdk",
    "ray.dashboard.modules.job.sdk",
    "ray._private.runtime_env.packaging",
)


def make_job_metadata(asked: SearchRequest) -> dict[str, str]:
    """What the head keeps of a search, for whoever asks how it stands."""
    told = {"study": asked.folder.name, "results": str(asked.folder.parent)}
    return told if asked.hours is None else {**told, "hours": str(asked.hours)}


def connect_to_head(address: str) -> Any:
    """A connection to the head. Raises `InputError` where none answers, or it lets nobody in."""
    if not re.match("https?://.", address):
        raise InputError(f"--address {address}: has to be a URL, such as http://HEAD:8265")
    if importlib.util.find_spec("aiohttp") is None:
        raise InputError("raycae submit: Ray's job client is missing; pip install 'raycae[jobs]'")
    try:
        urlopen(f"{address.rstrip('/')}/api/version", timeout=ANSWER_S).close()
    except HTTPError:
        pass  # somebody is there; Ray's client finds out who
    except (OSError, ValueError, HTTPException) as error:
        reason = getattr(error, "reason", error)
        raise InputError(f"--address {address}: no head answers there: {reason}") from None
    os.environ["RAY_API_SERVER_ADDRESS"] = address  # or RAY_ADDRESS would win over what was said
    from ray.exceptions import AuthenticationError
    from ray.job_submission import JobSubmissionClient

    for name in TALKATIVE:
        logging.getLogger(name).setLevel(logging.WARNING)
    try:
        return JobSubmissionClient(address)
    except AuthenticationError as error:
        reason = re.split(r"\n|\.+ Ensure", str(error))[0]
        raise InputError(
            f"--address {address}: {reason}; RAY_AUTH_MODE=token, with the cluster's token in "
            "RAY_AUTH_TOKEN or the file that RAY_AUTH_TOKEN_PATH names, lets you in"
        ) from None
    except (OSError, RuntimeError, ValueError, KeyError) as error:
        raise InputError(f"--address {address}: this is no head of Ray's: {error}") from None


def list_searches(client: Any) -> dict[str, Any]:
    """The cluster's jobs that are searches, by name, the newest last."""
    told = {"study", "results"}
    ours = [job for job in client.list_jobs() if told <= (job.metadata or {}).keys()]
    return {job.submission_id: job for job in sorted(ours, key=lambda job: job.start_time)}


def find_job(client: Any, name: str) -> Any:
    known = list_searches(client)
    if name not in known:
        there = ", ".join(known) or "none"
        raise InputError(f"{name}: the cluster has no search of this name; there are: {there}")
    return known[name]


def get_job_folder(job: Any) -> Place:
    return resolve_place(job.metadata["results"]) / job.metadata["study"]
