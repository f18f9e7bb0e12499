"""Find, read and parse search-space files."""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from raycae.config import explain_validation_error, resolve
from raycae.errors import InputError
from raycae.formatting import join_words
from raycae.space.schema import Constraints, SpaceFile, list_file_keys, list_keys_at
from raycae.space.space import Space
from raycae.space.validation import check_draws, check_params, check_points
from raycae.yaml_core import dump_yaml, load_yaml

MAX_CHARACTERS = 100_000
"""Largest size of a space file."""
REPORT = ("ex2-report", "ex3-report")
"""Spaces whose points are the experiments of the course report."""


def get_spaces_folder() -> Path:
    """Return the folder of the shipped spaces, in the installed package or in a checkout."""
    package = Path(__file__).resolve().parents[1]
    installed = package / "search_spaces"
    return installed if installed.is_dir() else package.parent / "search_spaces"


def list_space_names() -> list[str]:
    """List the names of the shipped spaces in alphabetical order."""
    return sorted(path.stem for path in get_spaces_folder().glob("*.yaml"))


def load_space(space: str) -> Space:
    """Load a shipped space by its name, or a file by its path.

    Args:
        space: Name or path.

    Returns:
        The checked space.

    Raises:
        InputError: There is no such space, or its file has a fault.
    """
    path = Path(space)
    if path.suffix not in (".yaml", ".yml") and len(path.parts) == 1 and not is_space_file(path):
        if space not in list_space_names():
            close = difflib.get_close_matches(space, list_space_names(), n=1)
            hint = f"Did you mean {close[0]}? " if close else ""
            raise InputError(
                f"--space {space}: unknown. {hint}Use {', '.join(list_space_names())}, or the path "
                "of a .yaml file."
            )
        path = get_spaces_folder() / f"{space}.yaml"
    try:
        with path.expanduser().open(encoding="utf-8") as file:
            text = file.read(MAX_CHARACTERS + 1)
    except (
        OSError,
        ValueError,
        RuntimeError,
    ) as error:  # RuntimeError: the home of an unknown user.
        reason = getattr(error, "strerror", None) or error
        raise InputError(f"--space {space}: the file cannot be read: {reason}") from None
    if len(text) > MAX_CHARACTERS:
        raise InputError(
            f"--space {space}: {path} is larger than {MAX_CHARACTERS:,} characters; "
            "a space is a small YAML file"
        )
    folder = None if path.parent == get_spaces_folder() else path.expanduser().absolute().parent
    name = path.stem.encode(
        errors="replace"
    ).decode()  # File names may contain bytes that are not text.
    return parse_space(text, name=name, where=path.name, folder=folder)


def make_space(content: Mapping[str, Any], name: str = "custom") -> Space:
    """Make a space from the content of a space file.

    Args:
        content: The keys of a space file; see `SpaceFile`.
        name: Name of the space.

    Returns:
        The checked space. A relative path after `data` starts at the current folder.

    Raises:
        InputError: The message names the key, the value and what is allowed.
    """
    try:
        text = dump_yaml(dict(content))
    except (yaml.YAMLError, RecursionError) as error:
        raise InputError(
            f"space: {' '.join(map(str, error.args))}: only dicts, lists, text, numbers, booleans "
            "and None are allowed in a space"
        ) from None
    return parse_space(text, name=name, where="space")


def is_space_file(path: Path) -> bool:
    """Return whether there is a file at a path; False for names that no file can have.

    Args:
        path: A path or the name of a space.
    """
    try:
        return path.is_file()
    except OSError:  # E.g. the name is too long.
        return False


def parse_space(
    text: str, *, name: str, where: str | None = None, folder: Path | None = None
) -> Space:
    """Read and check a space.

    Args:
        text: Content of the file: YAML 1.2 with the core schema.
        name: Name of the space.
        where: What error messages begin with; by default the name of the file.
        folder: Folder of the file; see `Space.folder`.

    Raises:
        InputError: The message names the file, the key, the value and what is allowed.
    """
    where = where or f"{name}.yaml"
    try:
        content = load_yaml(text)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise InputError(f"{where}: not valid YAML: {' '.join(str(error).split())}") from None
    if not isinstance(content, dict):
        raise InputError(f"{where}: must be a mapping with the keys {list_file_keys()}")
    if odd := next(_find_odd_keys(content), None):
        raise InputError(f"{where}: {odd}: this key is not text; put it in quotes")
    try:
        file = SpaceFile(**content)
    except ValidationError as error:
        raise InputError(explain_validation_error(error, where, list_keys_at(error))) from None
    space = Space(name, text, file, folder)
    check_params(space, where)
    check_points(space, where)
    check_draws(space, where)
    return space


def limit_space(space: Space, limits: list[str]) -> Space:
    """Set upper limits for the trials of a space.

    Named points that exceed a limit are removed, and so are changes of the series that exceed it
    when they are made to the first remaining point. If no point remains for a series to start
    from, the series is removed.

    Args:
        space: The space as its file describes it.
        limits: NAME=VALUE each: the maximum of a count or of the time of an epoch, in place of the
            one in the file.

    Returns:
        The space with these limits.

    Raises:
        InputError: A limit is malformed, or contradicts the file.
    """
    content = load_yaml(space.text)
    constraints = content.setdefault("constraints", {})
    for limit in limits:
        name, maximum = _parse_limit(limit)
        constraints[name] = {**constraints.get(name, {}), "max": maximum}
    where = f"--max {', '.join(limits)}"
    points, series = content.pop("points", {}), content.pop("series", {})
    limited = parse_space(dump_yaml(content), name=space.name, where=where)

    def is_within(settings: Mapping[str, Any]) -> bool:
        try:
            return limited.check(resolve({**space.fixed, **settings})) is None
        except InputError:  # A change that contradicts the first remaining point.
            return False

    if remaining := {name: point for name, point in points.items() if is_within(point)}:
        content["points"] = remaining
    if series and (remaining or not points):
        start: dict[str, Any] = next(iter(remaining.values()), {})
        content["series"] = {
            name: change for name, change in series.items() if is_within({**start, **change})
        }
    comments = [line for line in space.text.splitlines() if line.startswith("#")]
    text = "\n".join([*comments, dump_yaml(content)])
    return parse_space(text, name=space.name, where=where, folder=space.folder)


def _parse_limit(limit: str) -> tuple[str, float]:
    """Parse `NAME=VALUE`, the value as in a space file; digits may be grouped by `_`."""
    name, _, value = limit.partition("=")
    if name not in Constraints.model_fields:
        allowed = join_words(list(Constraints.model_fields), "or")
        raise InputError(f"--max {limit}: {name!r} cannot be limited. Use {allowed}.")
    try:
        maximum = load_yaml(re.sub("(?<=[0-9])_(?=[0-9])", "", value))
    except (yaml.YAMLError, RecursionError):
        maximum = None
    is_number = isinstance(maximum, int | float) and not isinstance(maximum, bool)
    if not is_number or not 0 <= maximum < math.inf:
        raise InputError(f"--max {limit}: write {name}=NUMBER, e.g. {name}=50000")
    return name, float(maximum)


def _find_odd_keys(content: Any, path: str = "") -> Iterator[str]:
    """Yield the paths of keys that YAML reads as a number, a boolean or null."""
    for key, value in content.items() if isinstance(content, dict) else enumerate(content):
        if isinstance(content, dict) and not isinstance(key, str):
            yield f"{path}{key}"
        if isinstance(value, dict | list):
            yield from _find_odd_keys(value, f"{path}{key}.")
