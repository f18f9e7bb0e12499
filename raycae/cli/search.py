"""`raycae search`: the command line of a search."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any

import typer

from raycae.cli.grouped_options import GroupedCommand
from raycae.cli.options import make_typer_option
from raycae.cli.terminal import (
    configure_output,
    exit_on_interrupt,
    require_current_folder,
    show_phase,
)
from raycae.errors import InputError, exit_with_message
from raycae.execution.search_options import OPTIONS
from raycae.formatting import make_printable

if TYPE_CHECKING:
    from raycae.report.reader import StudyReader

FOLDER_SPACE = "folder"
"""The search space of `raycae search PATH`: one good network for each of four latent sizes, so that
the report shows a curve after minutes."""

PathArgument = Annotated[
    str | None,
    typer.Argument(
        metavar="PATH",
        help="Your images: a folder of images or Parquet files, cifar10 or photos. Short for "
        f"--data PATH --space {FOLDER_SPACE}; the new study is named after the folder.",
        show_default=False,
    ),
]


def search(path: str | None = None, **options: Any) -> None:
    """Search a space with Optuna and Ray; write tables and a report.

    Example: raycae search ~/pictures

    Example: raycae search --space ex3 --trials 50 --epochs 10
    """
    show_phase("Preparing the search")  # The imports below take seconds.
    if path is not None:
        from raycae.data.sources import parse_source

        parse_source(require_images_argument(path))
        options = expand_path(path, options)

    from raycae.execution.runner import run_search

    with exit_on_interrupt():
        study = run_search(**options)
    if path is not None:
        offer_more_networks(study, options)


def offer_more_networks(study: StudyReader, options: Mapping[str, Any]) -> None:
    """Print the command that adds trials to a study if all that were planned have ended.

    Args:
        study: The study.
        options: All options of the search.
    """
    from raycae.execution.resuming import format_search_command
    from raycae.study.plan import read_plan_facts, read_study
    from raycae.study.records import RUNNING

    n_ended = (study.trials["state"] != RUNNING).sum()
    if n_ended >= read_plan_facts(read_study(study.folder))["trials"]:
        command = make_printable(format_search_command(study.folder, options))
        print(f"next     {command} --trials +8   # more networks")


def require_images_argument(path: str) -> str:
    """Raise `InputError` if the argument PATH names a search space.

    Args:
        path: The argument.

    Returns:
        The same.
    """
    from raycae.data.sources import is_built_in
    from raycae.space.loading import is_space_file, list_space_names
    from raycae.storage.paths import resolve_path

    is_space = path in list_space_names() or (
        path.endswith((".yaml", ".yml")) and is_space_file(resolve_path(path))
    )
    if is_space and not is_built_in(path) and not resolve_path(path).is_dir():
        raise InputError(
            f"{path} is a search space, not a folder of images. Use: raycae search --space {path}"
        )
    return path


def expand_path(path: str, options: Mapping[str, Any]) -> dict[str, Any]:
    """Replace the argument PATH by the options that it is short for.

    Args:
        path: The argument: a folder or a built-in source.
        options: The options of the search; those that are given stay as they are.

    Returns:
        All options of the search.

    Raises:
        InputError: An option contradicts the argument.
    """
    if options["data"] is not None:
        raise InputError(
            f"{path} and --data {options['data']} both name the images. Remove one of them."
        )
    if options["resume"]:
        raise InputError(
            f"{path}: --resume continues a study with its images. Remove the path, and name the "
            "study with --study NAME."
        )
    from raycae.execution.locations import choose_new_study_name, choose_results_folder

    options = {**options, "data": path, "space": options["space"] or FOLDER_SPACE}
    if options["study"] is None:
        results = choose_results_folder(options["results"], options["address"])
        options["study"] = choose_new_study_name(path, results)
    return options


def make_search_signature() -> inspect.Signature:
    """Make the signature from which Typer reads the argument and the options of `search`."""
    path = inspect.Parameter(
        "path", inspect.Parameter.KEYWORD_ONLY, default=None, annotation=PathArgument
    )
    return inspect.Signature(
        [
            path,
            *(
                inspect.Parameter(
                    name,
                    inspect.Parameter.KEYWORD_ONLY,
                    default=option.default,
                    annotation=Annotated[option.typed_as, make_typer_option(name)],
                )
                for name, option in OPTIONS.items()
            ),
        ]
    )


search.__signature__ = make_search_signature()  # type: ignore[attr-defined]


def run_search_command() -> None:
    """Run `python raycae/search.py …`."""
    app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None)
    settings = {"help_option_names": ["--help", "-h"]}
    app.command(cls=GroupedCommand, context_settings=settings)(search)
    configure_output()
    with exit_with_message():
        require_current_folder()
        app()
