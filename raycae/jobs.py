"""The commands that hand searches to a running cluster and look after them; a search is a Ray job.

The head runs it and knows its name; how it stands is read where its results lie. Neither this
machine nor its connection has to last.
"""

from __future__ import annotations

import asyncio
import importlib.util
import logging
import os
import re
import secrets
import shlex
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from datetime import UTC, datetime
from http.client import HTTPException
from pathlib import Path
from typing import Annotated, Any
from urllib.error import HTTPError
from urllib.request import urlopen

import pandas as pd
import typer

from raycae import results
from raycae.data import NAMED_SOURCES, is_built_in
from raycae.errors import InputError, printable
from raycae.progress import described, duration, summary, time_left
from raycae.search import Search, prepared, search
from raycae.storage import Place, fetch_tree, place

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

HeadOption = Annotated[
    str,
    typer.Option(
        "--address",
        metavar="URL",
        envvar="RAY_API_SERVER_ADDRESS",
        help="Where the cluster's head takes jobs: http://HEAD:8265.",
    ),
]
JobArgument = Annotated[
    str, typer.Argument(metavar="NAME", help="What `raycae submit` said, as in `raycae jobs`.")
]


def submit(
    options: Annotated[
        list[str] | None,
        typer.Argument(metavar="[OPTIONS OF SEARCH]...", help="See `raycae search --help`."),
    ] = None,
    address: HeadOption = HEAD,
) -> None:
    """Hand a search to a running cluster and print the name of its job. It goes on without this
    machine.

    Takes the options of `raycae search`; they are checked here before anything is sent. --results
    or RAYCAE_RESULTS has to say where: an object store, or a folder that this machine and every
    node share. --data names a source, or a folder of the nodes. A space's file goes with the job.

    Example: raycae submit --address http://head:8265 --space ex3 --results s3://my-bucket/studies
    """
    app = typer.Typer(add_completion=False)
    app.command()(search)
    command = typer.main.get_command(app)
    with command.make_context("raycae submit", list(options or ())) as context:
        asked = _checked(context)
        instead: dict[str, Any] = {"results": str(asked.folder.parent)}
        space = Path(context.params["space"] or "ex3").expanduser()
        with tempfile.TemporaryDirectory(prefix="raycae-submit-") as luggage:
            environment: dict[str, Any] = {"env_vars": {"RAY_JOB_STOP_WAIT_TIME_S": str(STOP_S)}}
            if space.is_file():
                shutil.copy(space, luggage)
                instead["space"] = space.name
                environment["working_dir"] = luggage
            name = f"{asked.plan.study}-{secrets.token_hex(2)}"
            _client(address).submit_job(
                entrypoint=shlex.join(["raycae", "search", *_words(context, instead)]),
                submission_id=name,
                runtime_env=environment,
                metadata=_told(asked),
            )
    print(name)


def jobs(address: HeadOption = HEAD) -> None:
    """List the searches that a cluster was handed, and where their results lie.

    Example: raycae jobs --address http://head:8265
    """
    from rich.console import Console
    from rich.table import Table

    table = Table("name", "state", "begun", "results", box=None, pad_edge=False)
    for name, job in _searches(_client(address)).items():
        where = place(job.metadata["results"]) / job.metadata["study"]
        table.add_row(name, str(job.status), _at(job.start_time), printable(str(where)))
    Console(width=None if sys.stdout.isatty() else 200, markup=False, emoji=False).print(table)


def status(name: JobArgument, address: HeadOption = HEAD) -> None:
    """Say how a search stands: trials, the best so far, the time left.

    Example: raycae status ex3-7f3a --address http://head:8265
    """
    job = _job(_client(address), name)
    folder = _folder(job)
    print(f"{name}  {job.status}, begun {_at(job.start_time)}")
    if (folder / "trials.parquet").exists():
        _print_standing(folder, job)
    else:
        print("no trial has begun")
    print(f"results  {printable(str(folder))}")
    if str(job.status) == "FAILED":
        reason = (job.message or "").strip() or "no reason is known"
        print(f"failed   {printable(reason.splitlines()[-1])}")


def logs(
    name: JobArgument,
    follow: Annotated[bool, typer.Option("-f", help="Go on with what comes, to its end.")] = False,
    address: HeadOption = HEAD,
) -> None:
    """Print what a search has said.

    Example: raycae logs ex3-7f3a -f --address http://head:8265
    """
    client = _client(address)
    _job(client, name)
    if not follow:
        print(client.get_job_logs(name).rstrip("\n"))
        return

    async def print_all() -> None:
        async for lines in client.tail_job_logs(name):
            print(lines, end="", flush=True)

    try:
        asyncio.run(print_all())
    except (OSError, RuntimeError) as error:
        print(f"raycae: {name} may go on, but the head is lost: {error}", file=sys.stderr)
        raise typer.Exit(1) from None
    except KeyboardInterrupt:
        raise typer.Exit(128 + signal.SIGINT) from None


def stop(name: JobArgument, address: HeadOption = HEAD) -> None:
    """End a search in order, as Ctrl-C does where it runs in a terminal, and wait until it has.

    Example: raycae stop ex3-7f3a --address http://head:8265
    """
    client = _client(address)
    job = _job(client, name)
    client.stop_job(name)
    while not (state := client.get_job_status(name)).is_terminal():
        time.sleep(0.3)
    print(f"{name}  {state}")
    if str(state) == "STOPPED":
        folder = _folder(job)
        where = shlex.join(["--study", folder.name, "--results", str(folder.parent)])
        print(f"go on with: raycae submit --address {address} --resume {where}")


def fetch(
    name: JobArgument,
    to: Annotated[
        Path, typer.Option("-o", metavar="FOLDER", help="The study becomes a folder in it.")
    ] = Path("results"),
    address: HeadOption = HEAD,
) -> None:
    """Bring the results of a search that has ended home: its study, with models and report.

    Example: raycae fetch ex3-7f3a -o results --address http://head:8265
    """
    job = _job(_client(address), name)
    if not job.status.is_terminal():
        raise InputError(
            f"{name}: is still {job.status}; read it where it lies (raycae show, report and load "
            f"take {_folder(job)}), or end it with raycae stop {name}"
        )
    folder = results.find_study(job.metadata["study"], job.metadata["results"])
    home = place(to / folder.name)
    assert isinstance(home, Path)
    if home.exists():
        raise InputError(f"-o {to}: {home} is there already; choose another folder")
    fetch_tree(folder, home)
    print(printable(str(home)))


def _checked(context: Any) -> Search:
    """The search that was asked for. Raises `InputError` for what cannot be, here or there."""
    options = context.params
    if _source(context, "results") == "DEFAULT":
        raise InputError(
            "--results: where every node of the cluster reaches it has to be said, here or in "
            "RAYCAE_RESULTS: s3://BUCKET/PATH, or a folder that this machine and all nodes share"
        )
    if re.search("//[^/@]*:[^/@]*@|password=", options["storage"] or ""):
        raise InputError(
            "--storage: leave the password out of the URL: a job's command can be read by all; "
            "the environment of the nodes or their ~/.pgpass is asked"
        )
    where = place(options["results"])
    if isinstance(where, Path) and not where.is_dir():
        raise InputError(
            f"--results {options['results']}: there is no such folder here; it has to be one that "
            "this machine and every node of the cluster share, or a URI: s3://BUCKET/PATH"
        )
    asked = prepared(**options)
    source = options["data"] or asked.space.file.data
    if not is_built_in(source) and not Path(source).is_absolute():
        raise InputError(
            f"--data {source}: {', '.join(NAMED_SOURCES)}, or the absolute path of a folder on the "
            "cluster's nodes"
        )
    return asked


def _words(context: Any, instead: dict[str, Any]) -> list[str]:
    """The options that were typed, as words of a command; some with another value."""
    words: list[str] = []
    for option in context.command.params:
        if option.name in instead or _source(context, option.name) == "COMMANDLINE":
            value = instead.get(option.name, context.params[option.name])
            for one in value if isinstance(value, list) else [value]:
                words += [option.opts[0]] if one is True else [option.opts[0], str(one)]
    return words


def _source(context: Any, option: str) -> str:
    """Who said what an option is: COMMANDLINE, ENVIRONMENT, DEFAULT. (By name: Typer has a click of
    its own, whose objects are not those of click.)"""
    name: str = context.get_parameter_source(option).name
    return name


def _told(asked: Search) -> dict[str, str]:
    """What the head keeps of a search, for whoever asks how it stands."""
    told = {"study": asked.folder.name, "results": str(asked.folder.parent)}
    return told if asked.hours is None else {**told, "hours": str(asked.hours)}


def _client(address: str) -> Any:
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


def _searches(client: Any) -> dict[str, Any]:
    """The cluster's jobs that are searches, by name, the newest last."""
    told = {"study", "results"}
    ours = [job for job in client.list_jobs() if told <= (job.metadata or {}).keys()]
    return {job.submission_id: job for job in sorted(ours, key=lambda job: job.start_time)}


def _job(client: Any, name: str) -> Any:
    known = _searches(client)
    if name not in known:
        there = ", ".join(known) or "none"
        raise InputError(f"{name}: the cluster has no search of this name; there are: {there}")
    return known[name]


def _folder(job: Any) -> Place:
    return place(job.metadata["results"]) / job.metadata["study"]


def _print_standing(folder: Place, job: Any) -> None:
    table = results.read_trials(folder)
    plain = table.astype(object).where(table.notna(), None)
    rows: list[dict[str, Any]] = plain.to_dict("records")  # type: ignore[assignment]
    total = results.asked(results.read_study(folder))["trials"]
    print(f"trials   {summary(Counter(table['state']))} of {total}")
    best = results.best_trial(table)
    if best is not None:
        print(f"best     {described(next(row for row in rows if row['trial_number'] == best))}")
    if job.status.is_terminal():
        return
    begun = pd.Timestamp(job.start_time, unit="ms", tz="UTC")
    spent = (pd.Timestamp.now("UTC") - begun).total_seconds()
    hours = job.metadata.get("hours")
    deadline = None if hours is None else max(float(hours) * 3600 - spent, 0.0)
    since = [row for row in rows if row["started_at"] is not None and row["started_at"] >= begun]
    left = time_left(rows, total, sum(row["epochs_run"] or 0 for row in since), spent)
    known = [seconds for seconds in (left, deadline) if seconds is not None]
    print(f"left     {duration(min(known)) if known else 'unknown yet'}")


def _at(milliseconds: int) -> str:
    return f"{datetime.fromtimestamp(milliseconds / 1000, UTC):%Y-%m-%d %H:%M} UTC"
