"""Collect where results come from: versions, commit, hardware and command."""

from __future__ import annotations

import os
import platform
import re
import shlex
import shutil
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from raycae.formatting import hide_password

PACKAGES = ("raycae", "ray", "torch", "torchvision", "optuna", "numpy", "pandas", "pyarrow")
"""Packages whose versions are recorded."""


def collect_provenance() -> dict[str, Any]:
    """Collect what `study.json` records about this process and machine, without heavy imports.

    Returns:
        The keys `command`, `versions`, `commit` and `hardware`.
    """
    return {
        "command": get_command(),
        "versions": get_versions(),
        "commit": get_commit(),
        "hardware": describe_hardware(),
    }


def get_command() -> str:
    """Return the command of this process, ready to be typed again.

    Returns:
        The command as a shell line, without users and passwords of URLs.
    """
    words = [hide_password(word, user="…@") for word in sys.argv[1:]]
    program = Path(sys.argv[0]).name
    if program == "ipykernel_launcher.py":  # Its arguments do not describe the search.
        return "raycae.run_search, in a notebook"
    return shlex.join(["raycae" if program == "__main__.py" else program, *words])


def get_commit() -> str | None:
    """Return the commit of the running checkout.

    Returns:
        The commit, with the suffix `-dirty` if files differ; None for an installed wheel.
    """
    folder = Path(__file__).resolve().parent.parent
    if not (folder / ".git").exists():
        return None
    return run_program("git", "-C", str(folder), "describe", "--always", "--dirty", "--abbrev=12")


def count_cpus() -> int:
    """Count the cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def describe_hardware() -> dict[str, Any]:
    """Describe the host: name, system, CPU, cores, memory in bytes and GPUs."""
    return {
        "host": platform.node(),
        "system": platform.platform(terse=True),
        "cpu": get_cpu_name(),
        "n_cpus": count_cpus(),
        "memory_bytes": get_memory_bytes(),
        "gpus": (
            run_program("nvidia-smi", "--query-gpu=name", "--format=csv,noheader") or ""
        ).splitlines(),
    }


def get_versions() -> dict[str, str]:
    """Return the versions of Python and of the packages that results depend on."""
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue  # the training core runs without Ray and Optuna
    return found


def get_cpu_name() -> str:
    """Return the model name of the CPU."""
    try:
        text = Path("/proc/cpuinfo").read_text()
    except OSError:
        return platform.processor()
    match = re.search(r"model name\s*:\s*(.+)", text)
    return match[1] if match else platform.processor()


def get_memory_bytes() -> int | None:
    """Return the memory of this machine in bytes, or None where it is unknown."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (ValueError, OSError):
        return None


def run_program(*command: str) -> str | None:
    """Run a program and return what it prints.

    Args:
        command: The program and its arguments.

    Returns:
        The standard output without surrounding space; None if it is empty or the program is not
        installed.
    """
    if shutil.which(command[0]) is None:
        return None
    done = subprocess.run(command, capture_output=True, text=True, timeout=20, check=False)
    return done.stdout.strip() or None
