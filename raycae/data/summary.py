"""Summaries of a source: numbers of images, and what was left out and why."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Any

from raycae.formatting import make_printable

N_EXAMPLES = 3
"""Number of names that are kept for each reason."""


class Reason(Enum):
    """What is not part of the data set, or not read as it is, in the singular and plural."""

    CANNOT_DECODE = ("file that cannot be decoded", "files that cannot be decoded")
    HIDDEN = ("hidden, system or thumbnail file", "hidden, system or thumbnail files")
    STUDY = ("file written by raycae", "files written by raycae")
    LINK = ("link to a folder that is read already", "links to folders that are read already")
    BESIDE_PARQUET = ("image next to the Parquet files", "images next to the Parquet files")
    OUTSIDE_SPLITS = ("image outside the split folders", "images outside the split folders")
    FILE_OUTSIDE_SPLITS = (
        "Parquet file outside the splits",
        "Parquet files outside the splits",
    )
    COPY = ("copy of an image of another split", "copies of images of other splits")
    ADDED = ("image added since the study began", "images added since the study began")
    OTHER = ("other file", "other files")
    BAD_PROFILE = (
        "unreadable colour profile, read as sRGB",
        "unreadable colour profiles, read as sRGB",
    )
    MORE_FRAMES = (
        "image whose further frames are not read",
        "images whose further frames are not read",
    )
    FEW_BITS = (
        "16-bit image of at most 12 bits, nearly black",
        "16-bit images of at most 12 bits, nearly black",
    )

    def count(self, n: int) -> str:
        """Write a count, such as ``3 files that cannot be decoded``.

        Args:
            n: The count.

        Returns:
            The count with the matching noun.
        """
        return f"{n:,} {self.value[n != 1]}"


class Tally:
    """Counts of what is left out, with the first names for each reason."""

    def __init__(self) -> None:
        self._counts: dict[Reason, int] = {}
        self._examples: dict[Reason, list[str]] = {}

    def add(self, reason: Reason, name: str, n: int = 1) -> None:
        """Count something that is left out.

        Args:
            reason: Why it is left out.
            name: Its name, or the name of one example.
            n: How many things to count.
        """
        self._counts[reason] = self._counts.get(reason, 0) + n
        examples = self._examples.setdefault(reason, [])
        if len(examples) < N_EXAMPLES:
            examples.append(name)

    def extend(self, reason: Reason, names: Iterable[str]) -> None:
        """Count several things that are left out.

        Args:
            reason: Why they are left out.
            names: Their names.
        """
        for name in names:
            self.add(reason, name)

    def list_entries(self) -> tuple[LeftOut, ...]:
        """Return the counts, in the order of `Reason`."""
        return tuple(
            LeftOut(reason, self._counts[reason], tuple(self._examples[reason]))
            for reason in Reason
            if reason in self._counts
        )


@dataclass(frozen=True)
class LeftOut:
    """Something that is not part of the data set.

    Attributes:
        reason: Why it is left out.
        count: How many things are left out for this reason.
        examples: The first names, at most `N_EXAMPLES`, relative to the source.
    """

    reason: Reason
    count: int
    examples: tuple[str, ...]

    def __str__(self) -> str:
        more = ", …" if self.count > len(self.examples) else ""
        return f"{self.reason.count(self.count)}: {', '.join(self.examples)}{more}"


Remark = tuple[Reason, str]
"""What is said of one image that is read, and its name."""


@dataclass(frozen=True)
class DataSummary:
    """The content of a source, after the split and the limit.

    Attributes:
        source: The source as it was given.
        n_train: Number of training images.
        n_val: Number of validation images.
        n_test: Number of test images.
        n_classes: Number of class folders or of different labels; None without classes.
        left_out: What the source holds and is not read, with counts.
        note: A caveat for the reader of the numbers; empty if there is none.
    """

    source: str
    n_train: int
    n_val: int
    n_test: int
    n_classes: int | None = None
    left_out: tuple[LeftOut, ...] = ()
    note: str = ""

    def line(self) -> str:
        """Write the summary as one line of printable characters."""
        plural = "es" if self.n_classes != 1 else ""
        classes = f" in {self.n_classes:,} class{plural}" if self.n_classes else ""
        line = (
            f"{self.n_train:,} training, {self.n_val:,} validation, {self.n_test:,} test images"
            f"{classes} from {self.source}"
        )
        if self.left_out:
            line += f" (left out: {'; '.join(map(str, self.left_out))})"
        return make_printable(f"{line}. {self.note}" if self.note else line)

    __str__ = line

    def as_dict(self) -> dict[str, Any]:
        """Return the summary as plain values for JSON; `from_dict` reads them."""
        return {
            "source": self.source,
            "training": self.n_train,
            "validation": self.n_val,
            "test": self.n_test,
            "classes": self.n_classes,
            "left_out": [
                {
                    "reason": entry.reason.name.lower(),
                    "count": entry.count,
                    "examples": list(entry.examples),
                }
                for entry in self.left_out
            ],
            "note": self.note,
        }

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> DataSummary:
        """Read what `as_dict` returned.

        Args:
            content: The plain values.

        Returns:
            The summary.
        """
        return cls(
            content["source"],
            content["training"],
            content["validation"],
            content["test"],
            content["classes"],
            tuple(
                LeftOut(Reason[entry["reason"].upper()], entry["count"], tuple(entry["examples"]))
                for entry in content["left_out"]
            ),
            content["note"],
        )
