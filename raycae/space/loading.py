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
from raycae.space.schema import Constraints, SpaceFile, list_file_keys, list_keys_at
from raycae.space.space import Space
from raycae.space.validation import check_draws, check_params, check_points
from raycae.yaml_core import dump_yaml, load_yaml

MOST_CHARACTERS = 100_000
REPORT = ("ex2-report", "ex3-report")
"""The spaces whose points are the source report's experiments."""


def get_spaces_folder() -> Path:
    """Where the shipped spaces are: inside the installed package, or beside it in a checkout."""
    package = Path(__file__).resolve().parents[1]
    installed = package / "search_spaces"
    return installed if installed.is_dir() else package.parent / "search_spaces"


def list_space_names() -> list[str]:
    """The shipped spaces, in alphabetical order."""
    return sorted(path.stem for path in get_spaces_folder().glob("*.yaml"))


def load_space(space: str) -> Space:
    """A shipped space by name, or a file by path. Raises `InputError`."""
    path = Path(space)
    if path.suffix not in (".yaml", ".yml") and len(path.parts) == 1 and not is_space_file(path):
        if space not in list_space_names():
            close = difflib.get_close_matches(space, list_space_names(), n=1)
            hint = f"; did you mean {close[0]}?" if close else "."
            raise InputError(
                f"--space {space}: there is no such space{hint} "
                f"Known: {', '.join(list_space_names())}; or give the path of a .yaml file."
            )
        path = get_spaces_folder() / f"{space}.yaml"
    try:
        with path.expanduser().open(encoding="utf-8") as file:
            text = file.read(MOST_CHARACTERS + 1)
    except (OSError, ValueError, RuntimeError) as error:  # RuntimeError: ~nobody
        reason = getattr(error, "strerror", None) or error
        raise InputError(f"--space {space}: {path} cannot be read: {reason}") from None
    if len(text) > MOST_CHARACTERS:
        raise InputError(
            f"--space {space}: {path} is larger than {MOST_CHARACTERS:,} characters; "
            "a space is a small YAML file"
        )
    folder = None if path.parent == get_spaces_folder() else path.expanduser().absolute().parent
    name = path.stem.encode(errors="replace").decode()  # file names may hold bytes that are no text
    return parse_space(text, name=name, where=path.name, folder=folder)


def is_space_file(path: Path) -> bool:
    try:
        return path.is_file()
    except OSError:  # a name that no file system takes
        return False


def parse_space(
    text: str, *, name: str, where: str | None = None, folder: Path | None = None
) -> Space:
    """Read and check a space.

    Args:
        text: What the file holds: YAML 1.2 with the core schema.
        name: The space's name.
        where: What stands in front of error messages; the file's name if None.
        folder: Where the file is; see `Space.folder`.

    Raises:
        InputError: The message names the file, the key, the value and what is allowed.
    """
    where = where or f"{name}.yaml"
    try:
        content = load_yaml(text)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise InputError(f"{where}: not valid YAML: {' '.join(str(error).split())}") from None
    if not isinstance(content, dict):
        raise InputError(f"{where}: has to be a mapping with the keys {list_file_keys()}")
    if odd := next(_find_odd_keys(content), None):
        raise InputError(f"{where}: {odd}: keys are words; write a name that is none in quotes")
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
    """Limit what a trial of `space` may have.

    Args:
        space: The space as its file has it.
        limits: NAME=VALUE each: the most of a count or of the time of an epoch, instead of what the
            file says.

    Returns:
        The space with these limits, without the named points that exceed them. Without changes of
        the series that exceed them, too, when made to the first point that is left; without a
        series where no point is left for it to start at.

    Raises:
        InputError: A limit is not one, or contradicts the file.
    """
    content = load_yaml(space.text)
    constraints = content.setdefault("constraints", {})
    for limit in limits:
        name, most = _parse_limit(limit)
        constraints[name] = {**constraints.get(name, {}), "max": most}
    where = f"--max {', '.join(limits)}"
    points, series = content.pop("points", {}), content.pop("series", {})
    limited = parse_space(dump_yaml(content), name=space.name, where=where)

    def fits(settings: Mapping[str, Any]) -> bool:
        try:
            return limited.check(resolve({**space.fixed, **settings})) is None
        except InputError:  # a change that does not go with the first point that is left
            return False

    if left := {name: point for name, point in points.items() if fits(point)}:
        content["points"] = left
    if series and (left or not points):
        start: dict[str, Any] = next(iter(left.values()), {})
        content["series"] = {n: change for n, change in series.items() if fits({**start, **change})}
    comments = [line for line in space.text.splitlines() if line.startswith("#")]
    text = "\n".join([*comments, dump_yaml(content)])
    return parse_space(text, name=space.name, where=where, folder=space.folder)


def _parse_limit(limit: str) -> tuple[str, float]:
    """Read `NAME=VALUE`, the value as in a space file; digits may be grouped by `_`."""
    name, _, value = limit.partition("=")
    if name not in Constraints.model_fields:
        allowed = ", ".join(Constraints.model_fields)
        raise InputError(f"--max {limit}: {name!r} has no limit; allowed: {allowed}")
    try:
        most = load_yaml(re.sub("(?<=[0-9])_(?=[0-9])", "", value))
    except (yaml.YAMLError, RecursionError):
        most = None
    if isinstance(most, bool) or not isinstance(most, int | float) or not 0 <= most < math.inf:
        raise InputError(f"--max {limit}: write {name}=NUMBER, e.g. {name}=50000")
    return name, float(most)


def _find_odd_keys(content: Any, path: str = "") -> Iterator[str]:
    """Find keys that YAML reads as a number, a boolean or null; yields their paths."""
    for key, value in content.items() if isinstance(content, dict) else enumerate(content):
        if isinstance(content, dict) and not isinstance(key, str):
            yield f"{path}{key}"
        if isinstance(value, dict | list):
            yield from _find_odd_keys(value, f"{path}{key}.")
