"""Where models and checkpoints of a study lie, and how models are written."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from raycae.storage.files import checksum, write_atomic
from raycae.storage.paths import Place


def get_model_folder(study: Place, number: int) -> Place:
    """Where the best epoch's model of a kept trial lies."""
    return study / "models" / str(number)


def write_model(folder: Place, weights: bytes, config: Mapping[str, Any], **facts: Any) -> None:
    """`model.safetensors` and `config.json`: the configuration, the digest of the weights, and
    `facts` beside them. `weights.load_model` reads it."""
    folder.mkdir(parents=True, exist_ok=True)
    write_atomic(folder / "model.safetensors", weights)
    content = {"config": config, **facts, "weights": checksum(weights)}
    write_atomic(folder / "config.json", json.dumps(content, indent=1).encode())


def get_checkpoint_folder(study: Place, number: int) -> Place:
    """What a trial under way needs to go on: for an epoch and the attempt that ran it
    `EPOCH-ATTEMPT.pt` and, where it is the best so far, `EPOCH-ATTEMPT.safetensors`. An attempt
    writes no file of another's."""
    return study / "checkpoints" / str(number)
