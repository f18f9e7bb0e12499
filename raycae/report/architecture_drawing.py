"""A drawing of a network: one box per feature map, from the image to its reconstruction."""

from __future__ import annotations

import math
from dataclasses import dataclass

from raycae.model.architecture import Architecture
from raycae.model.layers import Shape

TALLEST_PX, GAP_PX, MARGIN_PX = 64.0, 7.0, 12.0
"""Height of an image, distance of two boxes, and margin of the drawing."""


@dataclass(frozen=True)
class Box:
    """A feature map.

    Attributes:
        x: Left edge in pixels.
        y: Upper edge in pixels.
        width: Width in pixels; it grows with the logarithm of the number of channels.
        height: Height in pixels; it grows with the logarithm of the height of the map.
        kind: `image`, `latent` or `map`.
        title: What makes the map, and its shape.
    """

    x: float
    y: float
    width: float
    height: float
    kind: str
    title: str


@dataclass(frozen=True)
class Drawing:
    """A drawing of a network.

    Attributes:
        width: Width in pixels.
        height: Height in pixels.
        boxes: The feature maps from left to right.
        paths: SVG paths of what skips boxes: the linear path and the refinement.
        text: The network in words.
    """

    width: float
    height: float
    boxes: list[Box]
    paths: list[str]
    text: str


def draw_architecture(architecture: Architecture) -> Drawing:
    """Draw a network.

    Args:
        architecture: The layers.
    """
    layers = (*architecture.encoder, *architecture.decoder, *architecture.refine)
    n_encoder, n_plain = len(architecture.encoder), len(layers) - len(architecture.refine)
    steps: list[tuple[Shape, str]] = [(architecture.in_shape, "image")]
    steps += [(layer.out_shape, str(layer)) for layer in layers]
    largest = max(shape[1] for shape, _ in steps)
    boxes: list[Box] = []
    x = MARGIN_PX
    for i, (shape, name) in enumerate(steps):
        channels, height, width = shape
        tall = TALLEST_PX * math.log2(height + 1) / math.log2(largest + 1)
        wide = 5 + 3 * math.log2(channels + 1)
        kind = {0: "image", n_encoder: "latent", n_plain: "image", len(steps) - 1: "image"}.get(i)
        title = f"{name}: {channels} × {height} × {width}"
        y = MARGIN_PX + (TALLEST_PX - tall) / 2
        boxes.append(
            Box(round(x, 1), round(y, 1), round(wide, 1), round(tall, 1), kind or "map", title)
        )
        x += wide + GAP_PX
    paths = []
    if architecture.linear:
        paths = [connect(boxes[0], boxes[n_encoder]), connect(boxes[n_encoder], boxes[n_plain])]
    if architecture.refine:
        paths.append(connect(boxes[n_plain], boxes[-1]))
    return Drawing(
        round(x - GAP_PX + MARGIN_PX, 1),
        TALLEST_PX + 2 * MARGIN_PX,
        boxes,
        paths,
        str(architecture),
    )


def connect(box: Box, other: Box) -> str:
    """Return an SVG path below the boxes from one to another.

    Args:
        box: The box on the left.
        other: The box on the right.
    """
    start, end = box.x + box.width / 2, other.x + other.width / 2
    low = TALLEST_PX + 1.6 * MARGIN_PX
    return f"M{start:.1f} {box.y + box.height:.1f}V{low:.1f}H{end:.1f}V{other.y + other.height:.1f}"
