"""The command line.

Every command parses its options, calls the library and prints. Torch and Ray are imported by the
commands that need them, so that `raycae --help` answers at once.
"""

from __future__ import annotations

import os
import sys
from importlib.metadata import version
from typing import Annotated

import typer

from raycae.cli.dashboard import serve_dashboard
from raycae.cli.demo import run_demo
from raycae.cli.export import export_model
from raycae.cli.jobs import (
    fetch_results,
    list_jobs,
    show_logs,
    show_status,
    stop_job,
    submit_search,
)
from raycae.cli.predict import predict_images
from raycae.cli.reproduce import reproduce_report
from raycae.cli.search import search
from raycae.cli.simulate import run_simulation
from raycae.cli.spaces import list_spaces, preview_space
from raycae.cli.studies import evaluate_study, report_study, show_study
from raycae.cli.terminal import configure_output, require_current_folder
from raycae.cli.trial import run_trial
from raycae.errors import exit_with_message

app = typer.Typer(
    name="raycae",
    help="Search for convolutional autoencoders: how much error does a given latent size cost?",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
app.command("demo")(run_demo)
app.command("spaces")(list_spaces)
app.command("preview")(preview_space)
app.command("search")(search)
app.command("trial")(run_trial)
app.command("show")(show_study)
app.command("evaluate")(evaluate_study)
app.command("report")(report_study)
app.command("reproduce")(reproduce_report)
app.command("simulate")(run_simulation)
app.command("predict")(predict_images)
app.command("export")(export_model)
app.command("dashboard")(serve_dashboard)
app.command("submit", context_settings={"ignore_unknown_options": True})(submit_search)
app.command("jobs")(list_jobs)
app.command("status")(show_status)
app.command("logs")(show_logs)
app.command("stop")(stop_job)
app.command("fetch")(fetch_results)


def print_version(is_requested: bool) -> None:
    """Print the version and end, if `--version` is given.

    Args:
        is_requested: Whether it is given.
    """
    if is_requested:
        print(f"raycae {version('raycae')}")
        raise typer.Exit()


@app.callback()
def show_help(
    version: Annotated[
        bool,
        typer.Option("--version", callback=print_version, is_eager=True, help="Print the version."),
    ] = False,
) -> None:
    pass


def main() -> None:
    """Run the command line. An `InputError` becomes one line and exit code 2."""
    configure_output()
    try:
        with exit_with_message():
            require_current_folder()
            app()
    except BrokenPipeError:
        # The reader of a pipe has gone, as with `raycae show | head`. Without a standard output,
        # Python would print another error at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
