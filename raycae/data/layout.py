"""Tell split folders from class folders, by their names and places alone.

The rule, for image files and Parquet files alike:

- ``train`` and ``training``; ``val``, ``valid``, ``validation`` and ``dev``; ``test``, ``testing``
  and ``eval`` are names of splits, also in capitals. A Parquet file whose name begins with one of
  them (``train-00000-of-00002.parquet``, ``test.parquet``) counts like a folder.
- They are splits only if a training split and at least one other exist, at the top
  (``DATA/train``) or one level down (``DATA/images/train``, ``DATA/CLASS/train``), and contain all
  images. One level down, every folder at the top must have the same splits.
- A layout with splits and with images outside of them is ambiguous and refused. So is one with two
  names of the same split, such as ``val`` and ``dev``.
- In every other layout such a name is an ordinary class, and all images are one set.

``?splits=no`` selects one set, ``?splits=yes`` the splits; it leaves the rest out.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field

from raycae.data.sources import Source
from raycae.errors import InputError
from raycae.formatting import format_count

SPLIT_NAMES = {
    "train": "train",
    "training": "train",
    "val": "validation",
    "valid": "validation",
    "validation": "validation",
    "dev": "validation",
    "test": "test",
    "testing": "test",
    "eval": "test",
}
"""Folder names, in lower case, and the split that they name."""
SPLITS = ("train", "validation", "test")
"""The splits, in their fixed order."""

Parts = tuple[str, ...]
"""The folders that contain a file, from the top.

For a Parquet file whose name begins with the name of a split, that name is the last part.
"""


@dataclass
class Layout:
    """Which files are in which split, as indices, and which are in none.

    Attributes:
        groups: Split to its files. A split whose folder is empty has none.
        names: Split to the paths of its folders.
        rest: Files that are in no split.
    """

    groups: dict[str, list[int]] = field(default_factory=dict)
    names: dict[str, list[str]] = field(default_factory=dict)
    rest: list[int] = field(default_factory=list)

    @property
    def is_divided(self) -> bool:
        """Whether a training split and another one are there, and at least one holds a file."""
        return "train" in self.groups and len(self.groups) > 1 and any(self.groups.values())

    @property
    def is_clean(self) -> bool:
        """Whether every file is in a split, and no split has two names."""
        return not self.rest and all(len(names) == 1 for names in self.names.values())


def parse_split(name: str) -> str | None:
    """Return the split that a folder's name stands for.

    Args:
        name: The name of the folder.

    Returns:
        The split, or None.
    """
    return SPLIT_NAMES.get(name.lower())


def find_split_word(stem: str) -> str | None:
    """Return the word at the beginning of a Parquet file's name if it stands for a split.

    Args:
        stem: The name without its suffix, such as ``train-00000-of-00002``.

    Returns:
        The word as it is written, or None.
    """
    letters = re.match(r"[^\W\d_]*", stem)
    return letters[0] if letters and parse_split(letters[0]) else None


def find_layout(
    source: Source, items: Sequence[Parts], sizes: Sequence[int], folders: Collection[Parts]
) -> Layout | None:
    """Find the splits of a source.

    Args:
        source: The source; its suffix may ask for one set or for splits.
        items: The place of every file.
        sizes: The number of images in every file.
        folders: The folders that hold no file, which may be splits that are empty.

    Returns:
        The splits, or None where all files are one set.

    Raises:
        InputError: The layout can be read in two ways, or there are no splits to read.
    """
    if source.splits is False:
        return None
    top = _read_level(items, range(len(items)), folders, 0)
    indices: dict[str, list[int]] = {}
    for index, parts in enumerate(items):
        if parts:
            indices.setdefault(parts[0], []).append(index)
    empty: dict[str, list[Parts]] = {}
    for parts in folders:
        empty.setdefault(parts[0], []).append(parts)
    below = {
        name: _read_level(items, indices[name], empty.get(name, ()), 1) for name in sorted(indices)
    }
    divided = {name: layout for name, layout in below.items() if layout.is_divided}
    if source.splits:
        if top.groups.get("train"):
            return top
        chosen = {name: layout for name, layout in below.items() if layout.groups.get("train")}
        if not chosen:
            raise InputError(
                f"source {source.text!r}: contains no images in a folder or Parquet file called "
                "train or training, at the top or one level down. Use "
                f"{source.with_suffix(splits=False)!r} to read all images as one set"
            )
        return _merge(chosen, items)
    if top.is_divided:
        if top.is_clean:
            return top
        raise InputError(_describe_ambiguity(source, top, items, sizes))
    if not divided:
        return None
    merged = _merge(divided, items)
    split_sets = {tuple(sorted(layout.groups)) for layout in below.values()}
    if (
        not merged.rest
        and len(split_sets) == 1
        and all(layout.is_clean for layout in below.values())
    ):
        return merged
    raise InputError(_describe_ambiguity(source, merged, items, sizes))


def describe_deeper(items: Sequence[Parts]) -> str:
    """Write a note on names of splits that are read as ordinary folders.

    Args:
        items: The place of every file of an undivided source.

    Returns:
        One sentence, or an empty text where there are no such names.
    """
    found = sorted({part for parts in items for part in parts if parse_split(part)})
    if not found or all(parts and parse_split(parts[0]) == "train" for parts in items):
        return ""
    if len(found) == 1:
        return f"{found[0]} is read as an ordinary folder, not as a split."
    return f"{', '.join(found[:-1])} and {found[-1]} are read as ordinary folders, not as splits."


def _read_level(
    items: Sequence[Parts], indices: Iterable[int], folders: Iterable[Parts], depth: int
) -> Layout:
    """Sort the files of a folder at ``depth``, and folders without files, by the next name."""
    layout = Layout()
    names: dict[str, dict[str, None]] = {}
    for parts in folders:
        if len(parts) == depth + 1 and (split := parse_split(parts[depth])):
            layout.groups.setdefault(split, [])
            names.setdefault(split, {})["/".join(parts)] = None
    for index in indices:
        parts = items[index]
        split = parse_split(parts[depth]) if len(parts) > depth else None
        if split is None:
            layout.rest.append(index)
        else:
            layout.groups.setdefault(split, []).append(index)
            names.setdefault(split, {})["/".join(parts[: depth + 1])] = None
    layout.names = {split: list(paths) for split, paths in names.items()}
    return layout


def _merge(layouts: dict[str, Layout], items: Sequence[Parts]) -> Layout:
    """Join the splits of several folders; the files of all other folders are the rest."""
    merged = Layout()
    for layout in layouts.values():
        for split, indices in layout.groups.items():
            merged.groups.setdefault(split, []).extend(indices)
            merged.names.setdefault(split, []).extend(layout.names[split])
    within = {index for indices in merged.groups.values() for index in indices}
    merged.rest = [index for index in range(len(items)) if index not in within]
    return merged


def _describe_ambiguity(
    source: Source, layout: Layout, items: Sequence[Parts], sizes: Sequence[int]
) -> str:
    """Describe both readings of a layout, with their numbers, and the way out."""

    def count(indices: Iterable[int], kind: str = "") -> str:
        return format_count(sum(sizes[index] for index in indices), f"{kind}image")

    parts = [
        f"{count(layout.groups[split], 'training ' if split == 'train' else f'{split} ')} "
        f"({_join_names(layout.names[split])})"
        for split in SPLITS
        if split in layout.groups
    ]
    if outside := Counter("/".join(items[index]) or "the top folder" for index in layout.rest):
        parts.append(f"{count(layout.rest)} ignored ({_join_names(outside)})")
    return (
        f"source {source.text!r}: this layout is ambiguous. With splits: {', '.join(parts)}. As "
        f"one set: {count(range(len(items)))}; the folders are not splits. Choose "
        f"{source.with_suffix(splits=True)!r} or {source.with_suffix(splits=False)!r}."
    )


def _join_names(names: Collection[str]) -> str:
    """Join up to three names; count the others."""
    shown = ", ".join(list(names)[:3])
    return f"{shown} and {len(names) - 3:,} more" if len(names) > 3 else shown
