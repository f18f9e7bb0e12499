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


def encode_weights(weights: Mapping[str, Tensor]) -> bytes:
    """What a `model.safetensors` holds."""
    plain = {name: tensor.contiguous().cpu() for name, tensor in weights.items()}
    content: bytes = safetensors.torch.save(plain)
    return content


def load_model(folder: Place) -> tuple[Autoencoder, Config]:
    """The model of a trial, in eval mode on the CPU.

    `folder` holds `model.safetensors` and `config.json`, which says the configuration and the
    digest of the weights. Raises `InputError` naming what is missing, damaged or no model.
    """
    from raycae.storage.files import checksum  # training needs no object store

    try:
        content = json.loads((folder / CONFIG).read_bytes())
        config = Config(**content["config"])
        weights = (folder / WEIGHTS).read_bytes()
        if content["weights"] != checksum(weights):
            raise ValueError(f"{WEIGHTS} is not what was written")
        model = Autoencoder(build_architecture(config))
        model.load_state_dict(safetensors.torch.load(weights))
    except FileNotFoundError as error:
        missing = error.filename or (str(error).splitlines() or [CONFIG])[0]
        raise InputError(f"{folder}: this is no model; {missing} is missing") from None
    except (OSError, ValueError, KeyError, TypeError, RuntimeError, SafetensorError) as error:
        raise InputError(f"{folder}: this model cannot be read: {error}") from None
    return model.to(memory_format=torch.channels_last).eval(), config
