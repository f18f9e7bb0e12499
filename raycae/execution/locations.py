"""Where a search finds and puts things: studies, images and database files."""

from __future__ import annotations

import hashlib
import os
import re
import unicodedata
from pathlib import Path

from raycae import data as sources
from raycae.errors import InputError
from raycae.execution.ray_session import find_ray, require_ray_head, starts_own_ray
from raycae.optimization.shared_study import JOURNAL, SQLITE
from raycae.storage.paths import Place, resolve_place
from raycae.storage.retry import refusal_is_input_error

MAX_STUDY_NAME = 100
"""The longest name of a study, in characters."""


def choose_results_folder(results: str | Path | None, address: str | None) -> str:
    """Choose where studies are stored: `--results`, RAYCAE_RESULTS, or `results` on this machine.

    Args:
        results: The option `--results`.
        address: The option `--address`.

    Raises:
        InputError: The search runs on a cluster and neither is given. A folder of the head would
            be lost with the head.
    """
    if given := results or os.environ.get("RAYCAE_RESULTS"):
        return str(given)
    if not starts_own_ray(address):
        require_ray_head(find_ray(address))
        raise InputError(
            "--results is required on a cluster. Set it, or RAYCAE_RESULTS, to a folder that all "
            "nodes share or to an object store (s3://BUCKET/PATH)."
        )
    return "results"


def choose_study_name(space_name: str) -> str:
    """Make a valid study name from the name of a space file.

    Characters that no study name may have become `-`; letters lose their accents. A name that is
    too long or not in Latin letters ends in a checksum, so that different names stay apart.

    Args:
        space_name: The name of the space file, without its extension.
    """
    decomposed = unicodedata.normalize("NFKD", space_name)
    plain = "".join(c for c in decomposed if not unicodedata.combining(c))
    name = re.sub("[^A-Za-z0-9_.]+", "-", plain).strip("-.")
    if name and plain.isascii() and len(name) <= MAX_STUDY_NAME:
        return name
    checksum = hashlib.blake2b(os.fsencode(space_name), digest_size=4).hexdigest()
    return f"{name[: MAX_STUDY_NAME - 9].strip('-.') or 'space'}-{checksum}"


@refusal_is_input_error()
def choose_new_study_name(source: str, results_folder: str) -> str:
    """Name a new study after its images.

    Args:
        source: A folder or a built-in source; see `raycae.data`.
        results_folder: Where studies are stored: a folder or a URI.

    Returns:
        The name of the folder or source; with `-2`, `-3`, … if that name is taken.
    """
    path = Path(sources.resolve_source(source).partition("?")[0])  # ?splits=no is no part of it.
    name = choose_study_name(path.name or "images")
    folder = resolve_place(results_folder)
    endings = ["", *(f"-{number}" for number in range(2, 10_000))]
    stems = (name[: MAX_STUDY_NAME - len(ending)] + ending for ending in endings)
    return next(candidate for candidate in stems if not (folder / candidate).exists())


def get_study_folder(results_folder: str, name: str) -> Place:
    """Return the folder of a study.

    Args:
        results_folder: Where studies are stored: a folder or a URI.
        name: The name of the study.

    Raises:
        InputError: No study can have this name.
    """
    if not re.fullmatch(rf"[A-Za-z0-9_][A-Za-z0-9_.-]{{0,{MAX_STUDY_NAME - 1}}}", name):
        raise InputError(
            f"--study {name!r}: invalid name. Use at most {MAX_STUDY_NAME} letters, digits, '_', "
            "'-' and '.'; start with a letter, a digit or '_'."
        )
    return resolve_place(results_folder) / name


def make_absolute(source: str | None) -> str | None:
    """Make the path of a data source absolute, because trials run elsewhere.

    Args:
        source: A built-in source, a folder, or None.
    """
    return None if source is None else sources.resolve_source(source)


def make_studies_absolute(studies: str) -> str:
    """Make the paths of earlier studies absolute, because a job has a folder of its own.

    Args:
        studies: The option `--from`: names and paths, separated by commas.
    """
    names = [name.strip() for name in studies.split(",")]
    folders = [Path(name).expanduser() for name in names]
    return ",".join(
        str(folder.absolute()) if (folder / "study.json").is_file() else name
        for name, folder in zip(names, folders, strict=True)
    )


def make_database_absolute(url: str | None) -> str | None:
    """Make the path in the URL of a database file absolute.

    The command that resumes a search is printed, and may be used in another folder.

    Args:
        url: The option `--storage`.

    Raises:
        InputError: The path begins with `~` and the name of an unknown user.
    """
    for scheme in (SQLITE, JOURNAL):
        if url is not None and url.startswith(scheme):
            path, mark, options = url.removeprefix(scheme).partition("?")
            try:
                absolute = Path(path).expanduser().absolute()
            except RuntimeError as error:
                raise InputError(f"--storage {url}: {error}") from None
            return f"{scheme}{absolute}{mark}{options}" if path else url
    return url
