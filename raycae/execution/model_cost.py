"""A rule for how long an epoch of one configuration takes, compared with another one's.

A training image takes time in proportion to

    MFLOPs + LAYER_COST * layers / batch size + IMAGE_COST.

The first and the last term are the work on an image, the middle one is the overhead of a step.
"""

from __future__ import annotations

from raycae.config import Config
from raycae.model.architecture import build_architecture

LAYER_COST, IMAGE_COST = 5.5, 3.0
"""Cost of a layer in each step and of an image, relative to a MFLOP of an image. Fitted to the 300
recorded trials in `analysis/recorded/curves`."""


def compute_image_cost(config: Config) -> float:
    """Compute the cost of training on one image; see the module.

    Args:
        config: A configuration.

    Returns:
        The cost, in units of about a MFLOP.
    """
    architecture = build_architecture(config)
    overhead = LAYER_COST * len(architecture.layers) / config.batch_size
    return architecture.flops / 1e6 + overhead + IMAGE_COST
