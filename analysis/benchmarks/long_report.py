"""Measure the report of a long study: time and peak memory of a new process, and the page's size.

The study's tables are synthetic (`tests/support/synthetic_study.py`): every trial has a
different configuration, as in a random search. That is the slowest case. Reading, computing and
drawing are real, and the time includes the start of Python. With the folders of several checkouts
the same tables are read by each in turn, and each line ends with the ratio of CPU time to the first
checkout's.

    python analysis/benchmarks/long_report.py [TRIALS [CHECKOUT...]]
"""

from __future__ import annotations

import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "tests" / "support"))

from synthetic_study import long_study

HERE = Path(__file__).resolve().parents[2]
RUNS = 3
PROGRAM = """
import sys
from pathlib import Path
from raycae.report.page import write_report
write_report(Path(sys.argv[1]))
"""


def main(trials: int = 20_000, checkouts: tuple[Path, ...] = (HERE,)) -> None:
    """Print one line per checkout: medians of `RUNS` runs, taken in turn."""
    print(f"python {platform.python_version()}, {platform.machine()}, {os.cpu_count()} CPUs")
    with tempfile.TemporaryDirectory() as folder:
        study = long_study(Path(folder) / "long", trials, repeats=False)
        runs: dict[Path, list[tuple[float, float, float]]] = {place: [] for place in checkouts}
        sizes = {}
        for _ in range(RUNS):
            for place in checkouts:
                runs[place].append(measure(place, study))
                sizes[place] = (study / "report.html").stat().st_size / 1e6
        first = statistics.median(cpu for _, cpu, _ in runs[checkouts[0]])
        for place, measured in runs.items():
            wall, cpu, peak = map(statistics.median, zip(*measured, strict=True))
            print(
                f"{trials:,} trials, {place.name}: {wall:.1f} s ({cpu:.1f} s of CPU), "
                f"{peak:.0f} MB, page {sizes[place]:.1f} MB, {cpu / first:.2f}"
            )


def measure(checkout: Path, study: Path) -> tuple[float, float, float]:
    """Return wall time and CPU time in seconds, and the peak of resident memory in MB."""
    begun = time.perf_counter()
    process = subprocess.Popen([sys.executable, "-c", PROGRAM, study], cwd=checkout)
    _, status, used = os.wait4(process.pid, 0)
    if status:
        raise SystemExit(f"the report of {checkout} failed")
    wall = time.perf_counter() - begun
    return wall, used.ru_utime + used.ru_stime, used.ru_maxrss / 1e3


if __name__ == "__main__":
    arguments = sys.argv[1:] or ["20000"]
    main(int(arguments[0]), tuple(map(Path, arguments[1:])) or (HERE,))
