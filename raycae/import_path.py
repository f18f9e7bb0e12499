"""Which folders Python imports from, when raycae is started as a command.

Python puts the folder of the script, or with `-m` the current folder, first on `sys.path`. A file
`optuna.py` there would be imported in place of the package. This module imports only what a Python
process has loaded at that time, so that it cannot be affected itself.
"""

from __future__ import annotations

import os
import sys


def remove_current_folder() -> None:
    """Stop importing from the current folder and from the folder of the script.

    `sys.path` and the environment variable PYTHONPATH, which child processes inherit, lose both
    folders, also where an empty entry stands for the current folder. The folder that this package
    was imported from stays, as the last entry of `sys.path`: it may be a source checkout that is
    not installed.
    """
    package_parent = _resolve(f"{__file__}/../..")
    script_folder = os.path.dirname(sys.argv[0]) or os.curdir  # noqa: PTH120
    unwanted = {_resolve(os.curdir), _resolve(script_folder), None}
    holds_package = any(
        _resolve(entry) == package_parent for entry in sys.path if _resolve(entry) in unwanted
    )
    sys.path[:] = [entry for entry in sys.path if _resolve(entry) not in unwanted]
    if holds_package and package_parent is not None:
        sys.path.append(package_parent)
    if "PYTHONPATH" in os.environ:
        entries = os.environ["PYTHONPATH"].split(os.pathsep)
        kept = [entry for entry in entries if _resolve(entry) not in unwanted]
        os.environ["PYTHONPATH"] = os.pathsep.join(kept)


def _resolve(folder: str) -> str | None:
    """Return the absolute path without links; None if it is relative to a deleted folder."""
    try:
        return os.path.realpath(folder or os.curdir)
    except OSError:
        return None
