"""Divide images into disjoint splits: training, validation, test."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from raycae.data.types import Indices
from raycae.errors import InputError

LEAST_IMAGES = 16
"""The fewest images that training and validation together can be made of."""


class Split(NamedTuple):
    """Which images make up each split, in order, as indices."""

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
    """Divide ``count`` training images, shuffled by ``seed``, into disjoint splits.

    - A source without test images of its own (``own_test`` false) sets the first tenth of the
      shuffled images aside as ``test``, whatever the limit.
    - ``limit`` then bounds training and validation together: the first ``limit`` of the rest.
    - The first eighth of these (a ninth where a tenth went to the test) is ``validation``. So
      CIFAR-10 gives 43,750 / 6,250 / its own 10,000, and an undivided folder 80 / 10 / 10 percent.
    - A source with ``own_validation`` validation images of its own keeps them, in their order;
      ``validation`` then indexes those, and a limit is shared out in proportion, the validation
      images evenly spaced among all there are.

    A limit above the number of images means all of them. Raises `InputError` where that leaves
    fewer than `LEAST_IMAGES`, or no training or no validation image.
    """
    order = np.random.Generator(np.random.PCG64(seed)).permutation(count)
    held_out = 0 if own_test else count // 10
    test, rest = order[:held_out], order[held_out:]
    available = count + (own_validation or 0)
    wanted = available if limit is None else min(available, limit)
    if wanted < LEAST_IMAGES or count == 0 or own_validation == 0:
        own = "" if own_validation is None else f" to train on, {own_validation} to validate on"
        limited = "" if limit is None else f", limited to {limit}"
        raise InputError(
            f"too few images: there are {count}{own}{limited}; training and validation together "
            f"need at least {LEAST_IMAGES}, and one of each"
        )
    if own_validation is None:
        rest = rest[:wanted]
        cut = len(rest) // (8 if own_test else 9)
        return Split(train=rest[cut:], validation=rest[:cut], test=test)
    wanted = min(wanted, len(rest) + own_validation)
    few = max(1, wanted * own_validation // (len(rest) + own_validation))
    evenly_spaced = np.arange(few) * own_validation // few
    return Split(train=rest[: wanted - few], validation=evenly_spaced, test=test)
