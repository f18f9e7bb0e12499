"""Read the text that names a source: a built-in name or a folder, with an optional suffix."""

from __future__ import annotations

import difflib
import re
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from raycae.errors import InputError

NAMED_SOURCES = ("cifar10", "photos")
"""Names of the built-in sources."""
BUILT_IN = "builtin:"
"""Prefix that always means the built-in source, also where a folder has the same name."""

_SUFFIXES = "?splits=yes, ?splits=no or ?column=NAME (combined with &)"
"""The allowed suffixes, as messages list them."""


@dataclass(frozen=True)
class Source:
    """A parsed source.

    Attributes:
        text: The source as it was given; messages quote it.
        path: The text without its suffix.
        name: The built-in source, one of `NAMED_SOURCES`, or None for a folder.
        folder: The folder, or None for a built-in source.
        splits: True reads split folders and leaves the rest out. False reads everything as one set.
            None lets the layout decide.
        column: The Parquet column that holds the images, or None to choose it by the rule.
    """

    text: str
    path: str
    name: str | None = None
    folder: Path | None = None
    splits: bool | None = None
    column: str | None = None

    def with_suffix(self, *, splits: bool | None = None, column: str | None = None) -> str:
        """Write the source with a changed suffix, for a message that offers it.

        Args:
            splits: The new value of `splits`; None keeps it.
            column: The new value of `column`; None keeps it.

        Returns:
            The source as text.
        """
        splits = self.splits if splits is None else splits
        column = column or self.column
        parts = [] if splits is None else [f"splits={'yes' if splits else 'no'}"]
        parts += [f"column={column}"] if column else []
        return f"{self.path}?{'&'.join(parts)}" if parts else self.path


def parse_source(text: str) -> Source:
    """Parse the text of a source.

    A plain built-in name always means the built-in source here, because studies store folders as
    absolute paths. `resolve_source` handles text that a user types.

    Args:
        text: ``cifar10``, ``builtin:cifar10``, ``DATA`` or ``DATA?splits=no&column=image``.

    Returns:
        A built-in source or an existing folder, with its suffix.

    Raises:
        InputError: There is no such source, or the suffix is not allowed.
    """
    if (name := text.removeprefix(BUILT_IN)) in NAMED_SOURCES:
        return Source(text, text, name=name)
    if text.startswith(BUILT_IN):
        raise InputError(
            f"source {text!r}: unknown built-in source. Use "
            + " or ".join(BUILT_IN + name for name in NAMED_SOURCES)
            + "."
        )
    path, suffix = _split_suffix(text)
    if not (folder := _find_folder(path)):
        name = text.partition("?")[0]
        if is_built_in(name):
            raise InputError(f"source {text!r}: {name} is built in and takes no suffix; remove it")
        raise InputError(_describe_unknown(text))
    if suffix is None:
        return Source(text, path, folder=folder)
    splits, column = _parse_suffix(text, suffix)
    return Source(text, path, folder=folder, splits=splits, column=column)


def require_unambiguous(text: str, base: Path | None = None) -> None:
    """Raise `InputError` if a built-in name is also the name of a folder in ``base``.

    Args:
        text: The source as typed or as written in a search-space file.
        base: The folder that relative paths start from; None: the current folder.
    """
    base = base or Path.cwd()
    if text in NAMED_SOURCES and (base / text).is_dir():
        raise InputError(
            f"source {text!r} is both a built-in source and a folder in {base}. Choose one: "
            f"./{text} for the folder, {BUILT_IN}{text} for the built-in source"
        )


def resolve_source(text: str, base: Path | None = None) -> str:
    """Return the text to store for a source that a person named: it reopens from any folder.

    Args:
        text: The source as typed or as written in a search-space file.
        base: The folder that relative paths start from; None: the current folder.

    Returns:
        The plain name of a built-in source, or the absolute path of a folder with its suffix. A
        folder that does not exist keeps its text as an absolute path.

    Raises:
        InputError: A built-in name is also the name of a folder in ``base``, or no file system
            takes the name.
    """
    base = base or Path.cwd()
    require_unambiguous(text, base)
    if (name := text.removeprefix(BUILT_IN)) in NAMED_SOURCES:
        return name
    if not text or text.startswith(BUILT_IN):
        return parse_source(text).text  # This raises `InputError`.
    path, suffix = _split_suffix(text, base)
    with suppress(OSError, RuntimeError, ValueError):  # an invalid name, or an unknown user after ~
        path = str((base / Path(path).expanduser()).resolve())
    return path if suffix is None else f"{path}?{suffix}"


def is_built_in(text: str) -> bool:
    """Return whether a text names a built-in source, with or without the prefix.

    Args:
        text: The source as typed.

    Returns:
        Whether it does.
    """
    return text.removeprefix(BUILT_IN) in NAMED_SOURCES


def _split_suffix(text: str, base: Path | None = None) -> tuple[str, str | None]:
    """Split a source after the longest part that is a folder; a name may contain question marks.

    Returns:
        The path, and the suffix without its question mark or None.
    """
    marks = [match.start() for match in re.finditer(r"\?", text)]
    for end in (len(text), *reversed(marks)):
        if _find_folder(text[:end], base):
            return text[:end], None if end == len(text) else text[end + 1 :]
    return text, None


def _find_folder(text: str, base: Path | None = None) -> Path | None:
    """Return the folder of this name, or None."""
    if text:  # an empty name would be the current folder
        with suppress(OSError, RuntimeError, ValueError):
            folder = Path(text).expanduser()
            if (base or Path()).joinpath(folder).is_dir():
                return folder
    return None


def _parse_suffix(text: str, suffix: str) -> tuple[bool | None, str | None]:
    """Parse a suffix; return its choice of splits and its column, None where not given."""
    found: dict[str, str] = {}
    for part in re.split(r"&(?=splits=|column=)", suffix):  # a column's name may contain an &
        key, _, value = part.partition("=")
        allowed = value in ("yes", "no") if key == "splits" else key == "column" and value
        if not allowed or key in found:
            raise InputError(
                f"source {text!r}: invalid suffix {'?' + suffix!r}. Use {_SUFFIXES}, each at "
                "most once."
            )
        found[key] = value
    splits = {"yes": True, "no": False, None: None}[found.get("splits")]
    return splits, found.get("column")


def _describe_unknown(text: str) -> str:
    """Write the message for a source that does not exist; suggest a similar name."""
    is_file = False
    with suppress(OSError, RuntimeError, ValueError):
        is_file = bool(text) and Path(text).expanduser().is_file()
    what = "a file, not a folder" if is_file else "neither a built-in source nor a folder"
    close = difflib.get_close_matches(Path(text).name.lower(), NAMED_SOURCES, n=1)
    return (
        f"source {text!r} is {what}. Use {', '.join(NAMED_SOURCES)}, or a folder of images or "
        f"Parquet files. A folder may end with {_SUFFIXES}."
        + (f" Did you mean {close[0]}?" if close else "")
    )
