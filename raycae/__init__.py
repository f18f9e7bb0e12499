"""raycae searches for convolutional autoencoders: how much error does a given latent size cost?"""

from __future__ import annotations

from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from raycae.codec import Codec

__version__ = version("raycae")


def load(path: str | Path, results: str | Path = "results") -> Codec:
    """A trained model, ready for use: `codec.load`, imported with torch once it is needed."""
    from raycae import codec

    return codec.load(path, results)
