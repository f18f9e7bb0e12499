"""Divide images into disjoint splits: training, validation, test."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from raycae.data.types import Indices
from raycae.errors import InputError

LEAST_IMAGES = 16
"""Minimum number of training and validation images together."""


class Split(NamedTuple):
    """The images of each split, as indices in order."""

    train: Indices
    validation: Indices
    test: Indices


def split_indices(
    count: int,
    *,
    own_validation: int | None = None,
    own_test: bool,
    limit: int | None,
    seed: int,
) -> Split:
    """Divide shuffled images into disjoint splits.

    - A source without its own test images reserves the first tenth of the shuffled images for
      ``test``, whatever the limit.
    - ``limit`` bounds training and validation images together: the first ``limit`` of the rest.
    - The first eighth of these (a ninth where a tenth is reserved) is ``validation``. So CIFAR-10
      gives 43,750 / 6,250 / its own 10,000, and an undivided folder 80 / 10 / 10 percent.
    - A source with its own validation images keeps them in their order; ``validation`` then
      indexes those. A limit is divided in proportion, and the validation images are evenly spaced.

    Args:
        count: Number of training images in the source.
        own_validation: Number of the source's own validation images; None if it has none.
        own_test: Whether the source has its own test images.
        limit: Maximum number of training and validation images; None, or more than there are, means
            all.
        seed: Seed of the shuffle.

    Returns:
        The indices of each split.

    Raises:
        InputError: Fewer than `LEAST_IMAGES` images remain, or no training or no validation image.
    """
    order = np.random.Generator(np.random.PCG64(seed)).permutation(count)
    held_out = 0 if own_test else count // 10
    test, rest = order[:held_out], order[held_out:]
    available = count + (own_validation or 0)
    wanted = available if limit is None else min(available, limit)
    if wanted < LEAST_IMAGES or count == 0 or own_validation == 0:
        by_use = "" if own_validation is None else f" for training, {own_validation} for validation"
        limited = "" if limit is None else f", limited to {limit}"
        raise InputError(
            f"too few images: there are {count}{by_use}{limited}. Training and validation together "
            f"need at least {LEAST_IMAGES}, with at least 1 of each."
        )
    if own_validation is None:
        rest = rest[:wanted]
        cut = len(rest) // (8 if own_test else 9)
        return Split(train=rest[cut:], validation=rest[:cut], test=test)
    wanted = min(wanted, len(rest) + own_validation)
    n_validation = max(1, wanted * own_validation // (len(rest) + own_validation))
    evenly_spaced = np.arange(n_validation) * own_validation // n_validation
    return Split(train=rest[: wanted - n_validation], validation=evenly_spaced, test=test)
