"""raycae searches for convolutional autoencoders: how much error does a given latent size cost?

    import raycae

    study = raycae.run_search("folder", data="~/pictures")  # train, measure, write the report
    study = raycae.open_study("results/demo")  # read a study, also while it is searched
    study.trials  # a DataFrame, one row per trial
    study.plot()  # error against latent size, next to PCA
    codec = study.model(latent=256)  # the best saved model whose latent has at most 256 numbers
    latent = codec.encode(image)

`docs/` explains the rest; `raycae --help` lists the commands.
"""

from __future__ import annotations

# The command line removes the current folder from Python's path after this file has run, so this
# file imports no module that a file in that folder could replace, not even `typing`.
from os import environ  # Python itself has imported `os` already.

environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
# torch's OpenMP reads this once, when torch is loaded. Its threads then sleep while they wait for
# each other, instead of spinning for milliseconds. Ray's workers inherit the variable. On a busy
# machine, ten models on 10,000 images took 58 s of CPU with spinning threads and 23 s with sleeping
# ones (analysis/FINDINGS.md).

TYPE_CHECKING = False
if TYPE_CHECKING:
    from raycae.errors import InputError as InputError
    from raycae.errors import SearchAborted as SearchAborted
    from raycae.errors import SearchInterrupted as SearchInterrupted
    from raycae.errors import StorageError as StorageError
    from raycae.errors import Unfinished as Unfinished
    from raycae.execution.progress_callback import SearchProgress as SearchProgress
    from raycae.execution.runner import run_search as run_search
    from raycae.inference.codec import Codec as Codec
    from raycae.inference.codec import load_codec as load
    from raycae.report.reader import StudyReader as StudyReader
    from raycae.report.reader import open_study as open_study

    __version__: str

__all__ = [
    "Codec",
    "InputError",
    "SearchAborted",
    "SearchInterrupted",
    "SearchProgress",
    "StorageError",
    "StudyReader",
    "Unfinished",
    "__version__",
    "load",
    "open_study",
    "run_search",
]

_PUBLIC = {
    "Codec": ("inference.codec", "Codec"),
    "InputError": ("errors", "InputError"),
    "SearchAborted": ("errors", "SearchAborted"),
    "SearchInterrupted": ("errors", "SearchInterrupted"),
    "SearchProgress": ("execution.progress_callback", "SearchProgress"),
    "StorageError": ("errors", "StorageError"),
    "StudyReader": ("report.reader", "StudyReader"),
    "Unfinished": ("errors", "Unfinished"),
    "load": ("inference.codec", "load_codec"),
    "open_study": ("report.reader", "open_study"),
    "run_search": ("execution.runner", "run_search"),
}
"""Public name: module and name in it. A module is imported when its name is first used, so that
`import raycae` is cheap."""


if not TYPE_CHECKING:  # With it, a type checker would accept every name.

    def __getattr__(name: str) -> object:
        """Import a public name on first use."""
        from importlib import import_module

        if name == "__version__":  # On use: a checkout that is not installed has no version.
            return import_module("importlib.metadata").version("raycae")
        if name not in _PUBLIC:
            raise AttributeError(f"module 'raycae' has no attribute {name!r}")
        module, attribute = _PUBLIC[name]
        return getattr(import_module(f"raycae.{module}"), attribute)


def __dir__() -> list[str]:
    """List the public names."""
    return sorted(__all__)
