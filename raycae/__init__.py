"""raycae searches for convolutional autoencoders: how much error does a given latent size cost?"""

TYPE_CHECKING = False
"""True for type checkers. Nothing is imported here: with `python -m raycae` the current folder is
still first on the import path, and a file `typing.py` there would be imported."""
if TYPE_CHECKING:
    from raycae.codec import load as load
    from raycae.errors import InputError as InputError
    from raycae.reader import open_study as open_study
    from raycae.search import run_search as run_search

    __version__: str

_ROOMS = {
    "InputError": "errors",
    "load": "codec",
    "open_study": "reader",
    "run_search": "search",
}
"""The rooms of what Python finds here; one is opened when it is asked for, so that `import raycae`
costs nothing."""


def __getattr__(name: str) -> object:
    from importlib import import_module

    if name == "__version__":
        from importlib.metadata import version

        return version("raycae")  # not before: a mere checkout, which trains as well, has none
    if name not in _ROOMS:
        raise AttributeError(f"module 'raycae' has no attribute {name!r}")
    return getattr(import_module(f"raycae.{_ROOMS[name]}"), name)
