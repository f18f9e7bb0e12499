"""raycae searches for convolutional autoencoders: how much error does a given latent size cost?"""

from importlib.metadata import version

__version__ = version("raycae")
