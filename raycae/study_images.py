"""The images of a study, found by the names that were stored when it began."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pyarrow import ArrowException

from raycae import data
from raycae.errors import InputError
from raycae.storage import Place, digest, write_whole
from raycae.study import Plan, plan_of, space_of

SPLITS = "splits.parquet"
"""Which image belongs to which split: columns split, name, checksum."""


def load_images(
    folder: Place, content: Mapping[str, Any], classes: int = 0
) -> tuple[data.Images, list[str]]:
    """Load all images of a study and check that they are those it began with.

    A table of names that is lost or damaged is written again if the source still gives the same
    one. Studies of versions without that table are cut as those versions did.

    Args:
        folder: The study.
        content: Its `study.json`.
        classes: Number of classes if labels are wanted.

    Returns:
        The images, and a sentence for everything a person should know.

    Raises:
        InputError: Images are missing, have changed or cannot be read.
    """
    plan, size = plan_of(content), space_of(content).image_size
    told = content["data"].get("splits")
    if told is None:
        images = _cut_again(plan, size, classes, keep_copies=True)
        return images, []
    membership, fault = read_membership(folder, told)
    if membership is not None:
        images = data.load(plan.data, image_size=size, classes=classes, membership=membership)
        return images, describe_added(plan.data, membership)
    images = _cut_again(plan, size, classes)
    if images.membership.checksum != told:
        raise InputError(
            f"{folder / SPLITS}: {fault}, and the images of {plan.data} are no longer those this "
            "study began with, so that it cannot be made again; restore either of them, or begin "
            "another study"
        )
    write_whole(folder / SPLITS, images.membership.to_parquet())
    return images, [f"{folder / SPLITS}: {fault}; made again from {plan.data}"]


def load_test_images(
    folder: Place, content: Mapping[str, Any], classes: int = 0
) -> tuple[data.Pixels, data.Indices | None, list[str]]:
    """Load the test images of a study alone.

    Args:
        folder: The study.
        content: Its `study.json`.
        classes: Number of classes if labels are wanted.

    Returns:
        The images, uint8 (N, H, W, 3); their classes, int64 (N,), or None; and a sentence for
        everything a person should know.

    Raises:
        InputError: As `load_images` does.
    """
    plan, size = plan_of(content), space_of(content).image_size
    told = content["data"].get("splits")
    membership, _ = read_membership(folder, told) if told else (None, "")
    if told and membership is None:
        images, notes = load_images(folder, content, classes)
        return images.test, images.labels.test, notes
    test = data.load_test(plan.data, image_size=size, seed=plan.seed, membership=membership)
    labels = data.load_labels(
        plan.data, classes=classes, limit=plan.limit, seed=plan.seed, membership=membership
    )
    return test, labels.test, describe_added(plan.data, membership) if membership else []


def read_membership(folder: Place, told: str) -> tuple[data.Membership | None, str]:
    """Read which image belongs to which split.

    Args:
        folder: The study.
        told: The checksum of the table in `study.json`.

    Returns:
        The table, or None and what is wrong with the file.
    """
    path = folder / SPLITS
    if not path.is_file():
        return None, "missing"
    try:
        membership = data.Membership.from_parquet(path.read_bytes())
    except (ArrowException, OSError, ValueError, KeyError):
        return None, "damaged"
    return (membership, "") if membership.checksum == told else (None, "damaged")
