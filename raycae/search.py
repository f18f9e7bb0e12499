"""Entry file of `ray submit cluster/gpu.yaml raycae/search.py …`: the same as `raycae search`.

`ray submit` copies this one file to the head of a cluster and runs it there, so it imports the
installed package and defines nothing itself.
"""

import sys

if __name__ == "__main__":
    # Python has put the folder of this script first on the path, where a file `optuna.py` would be
    # imported; so nothing else is imported before that folder is gone.
    if not getattr(sys.flags, "safe_path", False):
        del sys.path[0]
    from importlib import import_module

    from raycae.import_path import remove_current_folder

    remove_current_folder()
    sys.exit(import_module("raycae.cli.search").run_search_command())
