"""Measure the CPU time of commands that compute little, and of the imports of a worker.

Each line runs in fresh processes and counts their user and system time, which other processes on
the machine change less than the clock. With a second checkout, its processes alternate with those
of this one, and the last column is the ratio of the medians. The second checkout runs in the same
environment. Studies that `show` prints have 60 synthetic trials. What an older checkout cannot run,
such as a command on a study of newer columns, is measured in this checkout alone.

    python analysis/benchmarks/start_up.py [--other CHECKOUT] [-n 9]
"""

from __future__ import annotations

import argparse
import os
import platform
import resource
import statistics
import subprocess
import sys
import tempfile
from importlib.metadata import version
from pathlib import Path

HERE = Path(__file__).resolve().parents[2]
FIRST_TRIAL = """
import resource, sys
import numpy as np, torch
from raycae.config import resolve
from raycae.training.device import put_on_device
from raycae.training.trainer import Training
images = put_on_device(np.zeros((16, 32, 32, 3), np.uint8), torch.device("cpu"))
before = resource.getrusage(resource.RUSAGE_SELF)
Training(resolve({}), images, images, epochs=1).run_epoch()
after = resource.getrusage(resource.RUSAGE_SELF)
print(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
"""
COMMANDS = {
    "python": ["-c", ""],
    "import typer": ["-c", "import typer"],
    "raycae --help": ["-m", "raycae", "--help"],
    "raycae --version": ["-m", "raycae", "--version"],
    "raycae spaces": ["-m", "raycae", "spaces"],
    "raycae show --help": ["-m", "raycae", "show", "--help"],
    "raycae search --help": ["-m", "raycae", "search", "--help"],
    "raycae show long": ["-m", "raycae", "show", "long"],
    "raycae preview": ["-m", "raycae", "preview"],
    "import of a driver": ["-c", "import raycae; raycae.run_search"],
    "import of a worker": ["-c", "import raycae.execution.trainable"],
    "first trial": ["-c", FIRST_TRIAL],
}
"""The commands to measure. The first trial prints its own time, without imports."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--other", type=Path, help="a second checkout")
    parser.add_argument("-n", type=int, default=9, help="runs of each command")
    parser.add_argument("--only", default="", help="commands with this text in their name")
    options = parser.parse_args()
    checkouts = [HERE] + ([options.other.resolve()] if options.other else [])
    packages = ("typer", "pydantic", "pandas", "pyarrow", "optuna", "torch", "ray")
    print(
        f"{platform.processor() or platform.machine()}, {os.cpu_count()} CPUs, Python "
        f"{platform.python_version()}, {', '.join(f'{name} {version(name)}' for name in packages)}"
    )
    print(f"seconds of CPU, median (least to most) of {options.n}; load {os.getloadavg()[0]:.1f}")
    with tempfile.TemporaryDirectory() as folder:
        if options.only in "raycae show long":
            write_study(Path(folder))
        for name, arguments in COMMANDS.items():
            if options.only not in name:
                continue
            able = [checkout for checkout in checkouts if can_run(checkout, arguments, folder)]
            seconds: list[list[float]] = [[] for _ in able]
            for _ in range(options.n):
                for checkout, of in zip(able, seconds, strict=True):
                    of.append(measure(checkout, arguments, folder))
            medians = [statistics.median(of) for of in seconds]
            columns = [
                f"{median:6.3f} ({min(of):.3f} to {max(of):.3f})"
                for median, of in zip(medians, seconds, strict=True)
            ]
            ratio = f"{medians[-1] / medians[0]:6.1f}x" if len(able) > 1 else ""
            print(f"{name:22}{'  '.join(columns)}  {ratio}", flush=True)


def can_run(checkout: Path, arguments: list[str], folder: str) -> bool:
    """Run Python on a checkout, which may compile modules; return whether it ends with 0.

    Raises:
        subprocess.CalledProcessError: This checkout fails.
    """
    try:
        measure(checkout, arguments, folder)
    except subprocess.CalledProcessError:
        if checkout == HERE:
            raise
        return False
    return True


def measure(checkout: Path, arguments: list[str], folder: str) -> float:
    """Run Python on a checkout; return the seconds of CPU it used, or those it printed."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run(
        [sys.executable, *arguments],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(checkout)},
        capture_output=True,
        text=True,
        check=True,
    )
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    if FIRST_TRIAL in arguments:
        return float(done.stdout)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def write_study(folder: Path) -> None:
    """Write the study `results/long`, in a process that does not count."""
    code = "import sys; from pathlib import Path; from synthetic_study import long_study; "
    code += 'long_study(Path(sys.argv[1]) / "long", 60)'
    path = os.pathsep.join([str(HERE), str(HERE / "tests" / "support")])
    subprocess.run(
        [sys.executable, "-c", code, str(folder / "results")],
        env={**os.environ, "PYTHONPATH": path},
        check=True,
    )


if __name__ == "__main__":
    main()
