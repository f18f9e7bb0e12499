"""Commands that submit searches to a running cluster and watch them; a search is a Ray job.

The head runs the search and knows its name. Its state is read from its results. A search does not
depend on this machine or its connection.
"""

from __future__ import annotations

import asyncio
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
from pathlib import Path
from typing import Annotated, Any

import pandas as pd
import typer

from raycae.cli.search import expand_path, require_images_argument, search
from raycae.cli.studies import print_json
from raycae.cli.terminal import print_table
from raycae.data import NAMED_SOURCES, is_built_in
from raycae.errors import InputError
from raycae.execution.job_client import (
    HEAD,
    STOP_S,
    connect_to_head,
    find_job,
    format_job_folder,
    get_job_folder,
    list_searches,
    make_job_metadata,
)
from raycae.execution.locations import make_studies_absolute
from raycae.execution.search_request import SearchRequest, parse_options
from raycae.execution.time_left import estimate_time_left
from raycae.formatting import format_duration, make_printable
from raycae.storage.files import fetch_tree
from raycae.storage.paths import Place, resolve_place
from raycae.storage.retry import refusal_is_input_error
from raycae.study import find, plan, tables
from raycae.study.summary import format_counts, format_trial

HeadOption = Annotated[
    str,
    typer.Option(
        "--address",
        metavar="URL",
        envvar="RAY_API_SERVER_ADDRESS",
        help="URL of the cluster's job server: http://HEAD:8265.",
    ),
]
JobArgument = Annotated[
    str, typer.Argument(metavar="NAME", help="Name of the job, as in `raycae jobs`.")
]


BEST_COLUMNS = ("trial_number", "val_mse", "val_psnr_db", "latent_size", "n_params", "test_mse")
"""The columns of the best trial that `raycae status --json` prints."""


def submit_search(
    options: Annotated[
        list[str] | None,
        typer.Argument(metavar="[OPTIONS OF SEARCH]...", help="See `raycae search --help`."),
    ] = None,
    address: HeadOption = HEAD,
) -> None:
    """Submit a search to a running cluster and print its job's name.

    The search does not depend on this machine. The command takes the options of `raycae search`
    and checks them before anything is sent. --results or RAYCAE_RESULTS must name an object store,
    or a folder that this machine and all nodes share. --data names a built-in source or a folder on
    the nodes. A space file is sent with the job.

    Example: raycae submit --address http://head:8265 --space ex3 --results s3://my-bucket/studies
    """
    app = typer.Typer(add_completion=False)
    app.command()(search)
    command = typer.main.get_command(app)
    with command.make_context("raycae submit", list(options or ())) as context:
        options_of_search = expand_path_argument(context)
        request = check_search(context, options_of_search)
        replaced: dict[str, Any] = {"results": str(request.folder.parent)}
        if request.database is not None:
            replaced["storage"] = request.database
        if options_of_search["from_"] is not None:
            replaced["from_"] = make_studies_absolute(options_of_search["from_"])
        if context.params["path"] is not None:
            replaced |= {name: options_of_search[name] for name in ("data", "space", "study")}
        space = Path(options_of_search["space"] or "ex3").expanduser()
        with tempfile.TemporaryDirectory(prefix="raycae-submit-") as job_files:
            environment: dict[str, Any] = {"env_vars": {"RAY_JOB_STOP_WAIT_TIME_S": str(STOP_S)}}
            if space.is_file():
                shutil.copy(space, job_files)
                replaced["space"] = space.name
                environment["working_dir"] = job_files
            name = f"{request.plan.study}-{secrets.token_hex(2)}"
            connect_to_head(address).submit_job(
                entrypoint=shlex.join(["raycae", "search", *build_command(context, replaced)]),
                submission_id=name,
                runtime_env=environment,
                metadata=make_job_metadata(request),
            )
    print(name)


def list_jobs(address: HeadOption = HEAD) -> None:
    """List the searches submitted to a cluster, with their results.

    Example: raycae jobs --address http://head:8265
    """
    from rich.table import Table

    table = Table("name", "state", "begun", "results", box=None, pad_edge=False)
    for name, job in list_searches(connect_to_head(address)).items():
        folder = make_printable(format_job_folder(job))
        table.add_row(name, str(job.status), format_start(job.start_time), folder)
    print_table(table)


def show_status(
    name: JobArgument,
    address: HeadOption = HEAD,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of text.")] = False,
) -> None:
    """Print the trials, the best one and the time left of a search.

    Example: raycae status ex3-7f3a --address http://head:8265
    """
    job = find_job(connect_to_head(address), name)
    folder = get_job_folder(job)
    state = {
        "name": name,
        "status": str(job.status),
        "begun_at": datetime.fromtimestamp(job.start_time / 1000, UTC).isoformat(),
        "results": str(folder),
        **describe_trials(folder, job),
        "failure": None,
    }
    if state["status"] == "FAILED":
        reason = (job.message or "").strip() or "no reason is known"
        state["failure"] = make_printable(reason.splitlines()[-1])
    if as_json:
        print_json(state)
    else:
        print_status(state, format_start(job.start_time), is_over=job.status.is_terminal())


def print_status(state: dict[str, Any], begun: str, *, is_over: bool) -> None:
    """Print the state of a search in lines.

    Args:
        state: What `raycae status --json` prints.
        begun: When it began.
        is_over: Whether it has ended.
    """
    print(f"{state['name']}  {state['status']}, begun {begun}")
    if state["trials_planned"] is None:
        print("no trial has begun")
    else:
        counts = format_counts(Counter(state["trials"]), is_searched=not is_over)
        print(f"trials   {counts} of {state['trials_planned']}")
        if best := state["best"]:
            print(f"best     {format_trial(best)}")
        if not is_over:
            left_s = state["seconds_left"]
            print(f"left     {'unknown yet' if left_s is None else format_duration(left_s)}")
    print(f"results  {make_printable(state['results'])}")
    if state["failure"]:
        print(f"failed   {state['failure']}")


def show_logs(
    name: JobArgument,
    follow: Annotated[
        bool, typer.Option("-f", help="Follow the output until the search ends.")
    ] = False,
    address: HeadOption = HEAD,
) -> None:
    """Print the output of a search.

    Example: raycae logs ex3-7f3a -f --address http://head:8265
    """
    client = connect_to_head(address)
    find_job(client, name)
    if not follow:
        print(client.get_job_logs(name).rstrip("\n"))
        return

    async def print_all() -> None:
        async for lines in client.tail_job_logs(name):
            print(lines, end="", flush=True)

    try:
        asyncio.run(print_all())
    except (OSError, RuntimeError) as error:
        print(
            f"raycae: the connection to the head is lost, {name} may still run: {error}",
            file=sys.stderr,
        )
        raise typer.Exit(1) from None
    except KeyboardInterrupt:
        raise typer.Exit(128 + signal.SIGINT) from None


def stop_job(name: JobArgument, address: HeadOption = HEAD) -> None:
    """Stop a search cleanly, as Ctrl-C does, and wait for its end.

    Example: raycae stop ex3-7f3a --address http://head:8265
    """
    client = connect_to_head(address)
    job = find_job(client, name)
    client.stop_job(name)
    while not (state := client.get_job_status(name)).is_terminal():
        time.sleep(0.3)
    print(f"{name}  {state}")
    if str(state) == "STOPPED":
        study, results = job.metadata["study"], job.metadata["results"]
        options = ["--study", study, "--results", results]
        if database := job.metadata.get("storage"):
            options += ["--storage", database]
        where = shlex.join(options)
        print(f"Continue with: raycae submit --address {address} --resume {where}")


def fetch_results(
    name: JobArgument,
    to: Annotated[
        Path, typer.Option("-o", metavar="FOLDER", help="Folder in which to put the study.")
    ] = Path("results"),
    address: HeadOption = HEAD,
) -> None:
    """Copy the study of a finished search to this machine.

    The copy includes the models and the report.

    Example: raycae fetch ex3-7f3a -o results --address http://head:8265
    """
    job = find_job(connect_to_head(address), name)
    if not job.status.is_terminal():
        raise InputError(
            f"{name} is still {job.status}. Read its results at {format_job_folder(job)}, or end "
            f"it with raycae stop {name}."
        )
    with refusal_is_input_error():
        folder = get_job_folder(job)
        if not (folder / "study.json").is_file():
            raise InputError(f"{name}: there is no study at {folder}; see raycae logs {name}")
    home = resolve_place(to / folder.name)
    assert isinstance(home, Path)
    if home.exists():
        raise InputError(f"-o {to}: {home} is there already; choose another folder")
    fetch_tree(folder, home)
    print(make_printable(str(home)))


def expand_path_argument(context: Any) -> dict[str, Any]:
    """Return the options of a search, with those that its argument PATH is short for.

    Args:
        context: Click's context of the command `raycae search`.

    Raises:
        InputError: PATH is a search space, or an option contradicts it.
    """
    options = dict(context.params)
    path = options.pop("path")
    return options if path is None else expand_path(require_images_argument(path), options)


@refusal_is_input_error()
def check_search(context: Any, options: dict[str, Any]) -> SearchRequest:
    """Check the options of a search that the cluster will run.

    Args:
        context: Click's context of the command `raycae search`.
        options: The options of the search.

    Returns:
        What the search will do.

    Raises:
        InputError: The search cannot run, here or on the cluster.
    """
    if get_option_source(context, "results") == "DEFAULT":
        raise InputError(
            "--results is required. Set it, or RAYCAE_RESULTS, to an object store "
            "(s3://BUCKET/PATH) or to a folder that this machine and all nodes share."
        )
    if re.search("//[^/:]*:[^@]*@|passw(or)?d=", options["storage"] or "", re.I):
        raise InputError(
            "--storage: leave the password out of the URL, because everyone can read a job's "
            "command. Put it into the environment of the nodes or their ~/.pgpass."
        )
    results_folder = resolve_place(options["results"])
    if isinstance(results_folder, Path) and not results_folder.is_dir():
        raise InputError(
            f"--results {options['results']}: there is no such folder here. Give a folder that "
            "this machine and all nodes share, or a URI such as s3://BUCKET/PATH."
        )
    request = parse_options(options, runs_here=False)
    source = options["data"] or request.space.file.data
    if not is_built_in(source) and not Path(source).is_absolute():
        raise InputError(
            f"--data {source}: relative paths cannot be used on a cluster. Use "
            f"{', '.join(NAMED_SOURCES)}, or the absolute path of a folder on the nodes."
        )
    return request


def build_command(context: Any, replaced: dict[str, Any]) -> list[str]:
    """Write the options that were typed as words of a command.

    Args:
        context: Click's context of the command `raycae search`.
        replaced: Values to write in place of those that were typed, by the option's name.
    """
    words: list[str] = []
    for option in context.command.params:
        if option.param_type_name == "argument":
            continue
        if option.name in replaced or get_option_source(context, option.name) == "COMMANDLINE":
            given = replaced.get(option.name, context.params[option.name])
            for value in given if isinstance(given, list) else [given]:
                words += [option.opts[0]] if value is True else [option.opts[0], str(value)]
    return words


def get_option_source(context: Any, option: str) -> str:
    """Return where the value of an option comes from.

    Args:
        context: Click's context of the command.
        option: The name of the option.

    Returns:
        COMMANDLINE, ENVIRONMENT or DEFAULT. It is a name because Typer bundles its own Click,
        whose objects differ from Click's.
    """
    name: str = context.get_parameter_source(option).name
    return name


def describe_trials(folder: Place, job: Any) -> dict[str, Any]:
    """Describe the trials of a search.

    Args:
        folder: The study.
        job: Ray's description of the job.

    Returns:
        The number of trials by state, how many are planned, the best of them (an excerpt of its row
        in `trials.parquet`), and the seconds left. What is not known is None.
    """
    described: dict[str, Any] = dict.fromkeys(("trials", "trials_planned", "best", "seconds_left"))
    if not (folder / "trials.parquet").exists():
        return described
    table = tables.read_trials(folder, configs=False)
    plain = table.astype(object).where(table.notna(), None)
    rows: list[dict[str, Any]] = plain.to_dict("records")  # type: ignore[assignment]
    total = plan.read_plan_facts(plan.read_study(folder))["trials"]
    described |= {"trials": dict(Counter(table["state"])), "trials_planned": total}
    best = find.find_best_trial(table)
    if best is not None:
        row = next(row for row in rows if row["trial_number"] == best)
        described["best"] = {name: row[name] for name in BEST_COLUMNS}
    if job.status.is_terminal():
        return described
    started = pd.Timestamp(job.start_time, unit="ms", tz="UTC")
    spent_s = (pd.Timestamp.now("UTC") - started).total_seconds()
    hours = job.metadata.get("hours")
    deadline = None if hours is None else max(float(hours) * 3600 - spent_s, 0.0)
    of_job = [row for row in rows if row["started_at"] is not None and row["started_at"] >= started]
    n_epochs = sum(row["epochs_run"] or 0 for row in of_job)
    left = estimate_time_left(rows, total, n_epochs, spent_s)
    known = [seconds for seconds in (left, deadline) if seconds is not None]
    return described | {"seconds_left": min(known, default=None)}


def format_start(milliseconds: int) -> str:
    """Write when a job started.

    Args:
        milliseconds: The time since 1970 in ms.

    Returns:
        Date and minute in UTC.
    """
    return f"{datetime.fromtimestamp(milliseconds / 1000, UTC):%Y-%m-%d %H:%M} UTC"
