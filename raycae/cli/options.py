"""Options and arguments that several commands share, and what a missing STUDY means."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from raycae.execution.search_options import OPTIONS

if TYPE_CHECKING:
    from raycae.storage.paths import Place


def make_typer_option(name: str, default_text: str = "", group: str = "") -> Any:
    """Make Typer's declaration of an option of a search.

    Args:
        name: The name of the option in `SearchOptions`.
        default_text: The default that the help shows, if it is another one than for a search.
        group: The heading in the help, if it is another one than for a search.
    """
    option = OPTIONS[name]
    return typer.Option(
        option.flag,
        help=option.help,
        metavar=option.metavar,
        min=option.minimum,
        max=option.maximum,
        envvar=option.variable,
        rich_help_panel=group or option.group,
        show_default=default_text or option.default_text or True,
    )


SpaceOption = Annotated[
    str, typer.Option("--space", metavar="NAME|FILE", help="A shipped space or a file.")
]
StudyArgument = Annotated[
    str | None,
    typer.Argument(
        metavar="STUDY",
        help="A study's name, or its folder or URI.",
        show_default="the newest in the results",
    ),
]
ModelArgument = Annotated[
    str,
    typer.Argument(
        metavar="MODEL",
        help="A study (its best saved model), or a model folder STUDY/models/TRIAL.",
    ),
]
LatentOption = Annotated[
    int | None,
    typer.Option(
        "--latent",
        min=1,
        metavar="N",
        help="Use the best saved model whose latent has at most N numbers (for an image of the "
        "size it was trained on). MODEL must be a study.",
        show_default="the best one of all",
    ),
]
ResultsOption = Annotated[
    str,
    typer.Option(
        "--results",
        metavar="FOLDER|URI",
        envvar="RAYCAE_RESULTS",
        help="Where studies are stored: a folder, s3://BUCKET/PATH or gs://BUCKET/PATH.",
        rich_help_panel=OPTIONS["results"].group,
    ),
]
LimitOption = Annotated[int | None, make_typer_option("limit")]
CpusOption = Annotated[int, make_typer_option("cpus_per_trial")]
GpusOption = Annotated[float | None, make_typer_option("gpus_per_trial")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")]
ConcurrentOption = Annotated[int | None, make_typer_option("concurrent")]
AddressOption = Annotated[str | None, make_typer_option("address")]


def find_model(model: str, latent: int | None, results: str) -> Place:
    """Find the model that a command is about.

    Args:
        model: The argument MODEL.
        latent: The option `--latent`; None if it is not given.
        results: The option `--results`.

    Returns:
        Its folder.

    Raises:
        InputError: There is no such model; or `--latent` is given and MODEL is not a study.
    """
    from raycae.study import find

    if latent is None:
        return find.find_model(model, results)
    return find.find_kept_model(find.find_study(model, results), latent, model)


def find_study(study: str | None, results: str) -> Place:
    """Find the study that a command is about.

    Args:
        study: The argument STUDY; None for the newest study.
        results: The option `--results`.

    Returns:
        Its folder.

    Raises:
        InputError: There is no such study.
    """
    from raycae.storage.paths import resolve_place
    from raycae.study import find, overview

    if study is None:
        return resolve_place(results) / overview.find_newest_study(results)
    return find.find_study(study, results)
