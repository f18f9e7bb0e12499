"""The command line.

Every command parses its options, calls the library and prints. The module of a command is imported
when the command runs, so that `raycae --help` answers in about 0.1 s.
"""

from __future__ import annotations

import os
import sys
from importlib import import_module
from typing import Annotated, Any, NamedTuple

import typer
from typer.core import TyperGroup

from raycae.cli.grouped_options import GroupedCommand
from raycae.cli.terminal import configure_output, require_current_folder
from raycae.errors import exit_silently_on_interrupt, exit_with_message


class Command(NamedTuple):
    """Where a command is defined, and what the list of commands says about it.

    Attributes:
        module: Module in `raycae.cli`.
        function: Function in it.
        summary: The first paragraph of its docstring, or the beginning of it. The list shows the
            first sentence.
        settings: Settings of its Click context.
    """

    module: str
    function: str
    summary: str
    settings: dict[str, Any] = {}  # noqa: RUF012 - nothing changes it


COMMANDS = {
    "demo": Command(
        "demo",
        "run_demo",
        "Search on photographs that ship with scikit-image; no download.",
    ),
    "spaces": Command(
        "spaces",
        "list_spaces",
        "List the shipped search spaces and the questions they answer.",
    ),
    "preview": Command(
        "spaces",
        "preview_space",
        "Print the first configurations of a search; nothing is trained.",
    ),
    "search": Command(
        "search",
        "search",
        "Search a space with Optuna and Ray; write tables and a report.",
    ),
    "trial": Command(
        "trial",
        "run_trial",
        "Run one trial in this process, without Ray, for debugging.",
    ),
    "list": Command(
        "studies",
        "list_studies",
        "List the studies in the results with their states.",
    ),
    "show": Command(
        "studies",
        "show_study",
        "Print the leaderboard of a study, even while it runs.",
    ),
    "open": Command(
        "studies",
        "open_report",
        "Open the report of a study in the browser. Write it first if it is missing.",
    ),
    "evaluate": Command(
        "studies",
        "evaluate_study",
        "Compute the missing test errors of saved models.",
    ),
    "report": Command(
        "studies",
        "report_study",
        "Write the report of a study, or a comparison of several.",
    ),
    "reproduce": Command(
        "reproduce",
        "reproduce_report",
        "Rerun the experiments of a course report and check its claims.",
    ),
    "simulate": Command(
        "simulate",
        "run_simulation",
        "Simulate a search on recorded curves; nothing is trained.",
    ),
    "cache": Command(
        "cache",
        "show_cache",
        "Print the content and size of the cache, or clear it.",
    ),
    "predict": Command(
        "predict",
        "predict_images",
        "Reconstruct or colourise image files at their original size.",
    ),
    "export": Command(
        "export",
        "export_model",
        "Write a model as ONNX, pt2 or weights, with its model card.",
    ),
    "dashboard": Command(
        "dashboard",
        "serve_dashboard",
        "Show a study in optuna-dashboard, even while it runs. Press Ctrl-C to stop.",
    ),
    "submit": Command(
        "jobs",
        "submit_search",
        "Submit a search to a running cluster and print its job's name.",
        {"ignore_unknown_options": True},
    ),
    "jobs": Command(
        "jobs",
        "list_jobs",
        "List the searches submitted to a cluster, with their results.",
    ),
    "status": Command(
        "jobs",
        "show_status",
        "Print the trials, the best one and the time left of a search.",
    ),
    "logs": Command("jobs", "show_logs", "Print the output of a search."),
    "stop": Command(
        "jobs",
        "stop_job",
        "Stop a search cleanly, as Ctrl-C does, and wait for its end.",
    ),
    "fetch": Command(
        "jobs",
        "fetch_results",
        "Copy the study of a finished search to this machine.",
    ),
}
"""The commands by name."""
GROUPS = {
    "Search": ("demo", "search", "trial", "reproduce", "simulate"),
    "Search spaces": ("spaces", "preview"),
    "Results": ("list", "show", "open", "report", "dashboard", "evaluate", "cache"),
    "Models": ("predict", "export"),
    "Searches on a cluster": ("submit", "jobs", "status", "logs", "stop", "fetch"),
}
"""The commands in the order of `raycae --help`, by heading."""

GUIDE = """\
raycae searches for convolutional autoencoders: how much error does a given latent size cost?

  raycae demo                                  a first search, without a download
  raycae search FOLDER                         the same search on your images
  raycae list                                  the studies and their states
  raycae show                                  the best trials of the newest study
  raycae open                                  its report, in the browser

raycae --help lists all commands; raycae COMMAND --help explains one."""
"""What `raycae` alone prints."""


class LazyGroup(TyperGroup):
    """A group whose commands are imported when they run; its help needs their summaries only."""

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        """Write the list of commands in groups.

        Args:
            ctx: Click's context of the group.
            formatter: Click's writer of help texts.
        """
        width = max(map(len, COMMANDS))
        for title, names in GROUPS.items():
            summaries = [
                self.commands[name].get_short_help_str(formatter.width - 6 - width)
                for name in names
            ]
            with formatter.section(title):
                formatter.write_dl(
                    [(f"{name:{width}}", text) for name, text in zip(names, summaries, strict=True)]
                )

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """Find the command that is called, and import it.

        Args:
            ctx: Click's context of the group.
            args: The words after `raycae`.

        Returns:
            Name, command and the remaining words.
        """
        name, _, rest = super().resolve_command(ctx, args)
        assert name is not None
        return name, load_command(name), rest


def load_command(name: str) -> Any:
    """Import a command.

    Args:
        name: One of `COMMANDS`.

    Returns:
        The Click command that Typer makes of its function.
    """
    command = COMMANDS[name]
    with exit_silently_on_interrupt():
        function = getattr(import_module(f"raycae.cli.{command.module}"), command.function)
    single = typer.Typer(
        add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None
    )
    single.command(name, cls=GroupedCommand, context_settings=command.settings)(function)
    return typer.main.get_command(single)


def print_version(is_requested: bool) -> None:
    """Print the version and end, if `--version` is given.

    Args:
        is_requested: Whether it is given.
    """
    if is_requested:
        from importlib.metadata import version

        print(f"raycae {version('raycae')}")
        raise typer.Exit()


app = typer.Typer(
    name="raycae",
    cls=LazyGroup,
    context_settings={"help_option_names": ["--help", "-h"]},
    help="Search for convolutional autoencoders: how much error does a given latent size cost?",
    invoke_without_command=True,
    add_completion=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)


@app.callback()
def show_guide(
    context: typer.Context,
    version: Annotated[
        bool,
        typer.Option("--version", callback=print_version, is_eager=True, help="Print the version."),
    ] = False,
) -> None:
    """Print the guide if no command is given."""
    if context.invoked_subcommand is None:
        print(GUIDE)


for _name, _command in COMMANDS.items():
    app.command(_name, help=_command.summary)(lambda: None)  # `LazyGroup` runs the real command.


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
