"""Save and load trained models: weights as safetensors, the configuration as JSON."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor

from raycae.config import Config
from raycae.errors import InputError
from raycae.model.architecture import build_architecture
from raycae.model.autoencoder import Autoencoder

if TYPE_CHECKING:
    from raycae.storage.paths import Place

WEIGHTS, CONFIG = "model.safetensors", "config.json"
"""Files of a stored model."""


def encode_weights(weights: Mapping[str, Tensor]) -> bytes:
    """Encode weights as the content of a `model.safetensors`.

    Args:
        weights: The tensors by name, on any device.

    Returns:
        The content of the file.
    """
    plain = {name: tensor.contiguous().cpu() for name, tensor in weights.items()}
    content: bytes = safetensors.torch.save(plain)
    return content


def load_model(folder: Place) -> tuple[Autoencoder, Config]:
    """Load the model of a trial; no pickle is involved.

    Args:
        folder: A folder with `model.safetensors` and `config.json`, which holds the configuration
            and the checksum of the weights.

    Returns:
        The network in eval mode on the CPU, and its configuration.

    Raises:
        InputError: A file is missing or damaged; the message names it.
    """
    from raycae.storage.files import (
        checksum,
    )  # imported here, because training needs no object store

    try:
        content = json.loads((folder / CONFIG).read_bytes())
        config = Config(**content["config"])
        weights = (folder / WEIGHTS).read_bytes()
        if content["weights"] != checksum(weights):
            raise ValueError(f"{WEIGHTS} does not match its checksum")
        model = Autoencoder(build_architecture(config))
        model.load_state_dict(safetensors.torch.load(weights))
    except FileNotFoundError as error:
        missing = error.filename or (str(error).splitlines() or [CONFIG])[0]
        raise InputError(f"{folder}: this is not a model folder; {missing} is missing") from None
    except (OSError, ValueError, KeyError, TypeError, RuntimeError, SafetensorError) as error:
        raise InputError(f"{folder}: this model cannot be read: {error}") from None
    return model.to(memory_format=torch.channels_last).eval(), config
