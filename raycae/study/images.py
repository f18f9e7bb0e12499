"""The images of a study."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa

from raycae import data
from raycae.errors import InputError
from raycae.storage import parquet
from raycae.storage.files import write_atomic
from raycae.storage.paths import Place
from raycae.study.plan import SPLITS, Plan, load_plan, load_study_space

COLUMNS = {"split": pa.string(), "name": pa.string(), "checksum": pa.int64()}
"""The columns of `splits.parquet`."""


class StudyTestImages(NamedTuple):
    """The test images of a study, with what a person should know of them.

    Attributes:
        pixels: uint8 (N, H, W, 3).
        labels: Their classes, int64 (N,), if they were asked for.
        line: One line with what the source holds.
        notes: Sentences on what was repaired.
    """

    pixels: data.Pixels
    labels: data.Indices | None
    line: str
    notes: list[str]


def load_images(
    folder: Place, content: Mapping[str, Any], classes: int = 0
) -> tuple[data.Images, list[str]]:
    """Load all images of a study and check that they are those it began with.

    A table of names that is lost or damaged is written again if the source still gives the same
    one. The images of an older study without that table are split by its seed, as that version did.

    Args:
        folder: The study.
        content: Its `study.json`.
        classes: Number of classes if labels are wanted.

    Returns:
        The images, and a sentence on everything that was repaired.

    Raises:
        InputError: Images are missing, have changed or cannot be read.
    """
    plan, size = load_plan(content), load_study_space(content).image_size
    checksum = content["data"].get("splits")
    if checksum is None:
        return _load_by_seed(plan, size, classes, keep_copies=True), []
    membership, fault = read_membership(folder, checksum)
    if membership is not None:
        images = data.load(plan.data, image_size=size, classes=classes, membership=membership)
        return images, []
    path = folder / SPLITS
    images = _load_by_seed(plan, size, classes)
    if images.membership.checksum != checksum:
        raise InputError(
            f"{path}: {fault}. It cannot be rebuilt, because the images in {plan.data} have "
            "changed since this study started. Restore the file or the images, or start another "
            "study."
        )
    write_atomic(path, images.membership.to_parquet())
    return images, [f"{path}: {fault}; rebuilt from {plan.data}"]


def load_test_images(
    folder: Place, content: Mapping[str, Any], classes: int = 0
) -> StudyTestImages:
    """Load the test images of a study, and no others if its table of names is whole.

    Args:
        folder: The study.
        content: Its `study.json`.
        classes: Number of classes if labels are wanted.

    Returns:
        The images.

    Raises:
        InputError: As `load_images` does, for test images.
    """
    plan, size = load_plan(content), load_study_space(content).image_size
    checksum = content["data"].get("splits")
    membership = read_membership(folder, checksum)[0] if checksum else None
    if checksum and membership is None:
        images, notes = load_images(folder, content, classes)
        return StudyTestImages(images.test, images.labels.test, images.summary.line(), notes)
    labels = data.load_labels(
        plan.data, classes=classes, limit=plan.limit, seed=plan.seed, membership=membership
    )
    pixels = data.load_test(plan.data, image_size=size, seed=plan.seed, membership=membership)
    summary = data.summarize(plan.data, limit=plan.limit, seed=plan.seed, membership=membership)
    return StudyTestImages(pixels, labels.test, summary.line(), [])


def read_membership(folder: Place, checksum: str) -> tuple[data.Membership | None, str]:
    """Read which image belongs to which split.

    Args:
        folder: The study.
        checksum: The table's, in `study.json`.

    Returns:
        The table, or None and what is wrong with the file.
    """
    path = folder / SPLITS
    if not path.is_file():
        return None, "missing"
    try:
        table = parquet.read_frame(path, COLUMNS, filled=["split", "name"], key=["name"])
    except InputError:
        return None, "damaged"
    checksums = table["checksum"].fillna(0).to_numpy(np.int64).view(np.uint64)
    membership = data.Membership(table["split"].tolist(), table["name"].tolist(), checksums)
    return (membership, "") if membership.checksum == checksum else (None, "damaged")


def _load_by_seed(plan: Plan, size: int, classes: int, *, keep_copies: bool = False) -> data.Images:
    """Load the images of a study and split them by its seed, without its table of names."""
    return data.load(
        plan.data,
        image_size=size,
        limit=plan.limit,
        seed=plan.seed,
        classes=classes,
        keep_copies=keep_copies,
    )
