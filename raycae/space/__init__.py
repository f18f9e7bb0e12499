"""What may be searched: a YAML file, its parameters, and drawn configurations."""

from raycae.space.loading import load_space as load

__all__ = ["load"]
