"""Small models in folders, with weights as torch draws them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from raycae.config import resolve
from raycae.model.architecture import build_architecture
from raycae.model.autoencoder import build_network
from raycae.model.weights import encode_weights
from raycae.study.artifacts import write_model

LARGE_KERNELS = {"depth": 3, "channels": 4, "factor": [4, 4, 2], "latent_channels": 6}
"""Of a latent of 1 x 1 pixels, whose 3 x 3 kernels nothing but zeros around it has been under."""

SCALING: dict[str, dict[str, Any]] = {
    "base": {},
    "classes": {"task": "colourise", "classes": 3},
    "grey": {"task": "colourise", "gammas": [1.0], "output": "linear"},
    "transposed": {"upsample": "transposed", "kernel": 4, "decoder_kind": "transposed"},
    "bilinear": {"upsample": "bilinear", "norm": "batch", "residual": True},
    "shuffle": {"upsample": "pixel_shuffle", "downsample": "stride", "kernel": 5},
    "linear": {"linear_path": "random", "output": "linear", "refine": 4, "factor": [4, 2]},
    "average": {"downsample": "average", "decoder_kernel": 2, "latent_channels": 0},
}
FIXED: dict[str, dict[str, Any]] = {
    "large kernels": LARGE_KERNELS,
    "colour": {"task": "colourise", **LARGE_KERNELS},
    "no padding": {"padding": "none"},
    "odd size": {"image_size": 30},
}


def put_model(folder: Path, settings: dict[str, Any]) -> Path:
    """A model of these settings, its weights drawn; and its folder."""
    config = resolve(settings)
    network = build_network(build_architecture(config), seed=0)
    write_model(folder, encode_weights(network.state_dict()), config.model_dump(mode="json"))
    return folder


NETWORKS = SCALING | FIXED
