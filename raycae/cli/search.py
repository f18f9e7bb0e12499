"""`raycae search`: the command line of a search."""

from __future__ import annotations

import inspect
from typing import Annotated, Any

import typer

from raycae.cli.options import make_typer_option
from raycae.cli.terminal import configure_output, exit_on_interrupt, require_current_folder
from raycae.errors import exit_with_message
from raycae.execution.search_options import OPTIONS


def search(**options: Any) -> None:
    """Search a space: Optuna proposes, Ray trains, results go into Parquet and a report.

    Example: raycae search --space ex3 --trials 50 --epochs 10
    """
    from raycae.execution.runner import run_search

    with exit_on_interrupt():
        run_search(**options)


def make_search_signature() -> inspect.Signature:
    """Make the signature from which Typer reads the options of `search`."""
    return inspect.Signature(
        [
            inspect.Parameter(
                name,
                inspect.Parameter.KEYWORD_ONLY,
                default=option.default,
                annotation=Annotated[option.typed_as, make_typer_option(name)],
            )
            for name, option in OPTIONS.items()
        ]
    )


search.__signature__ = make_search_signature()  # type: ignore[attr-defined]


def run_search_command() -> None:
    """Run `python raycae/search.py …`."""
    app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None)
    app.command(context_settings={"help_option_names": ["--help", "-h"]})(search)
    configure_output()
    with exit_with_message():
        require_current_folder()
        app()
