"""Measure the cost of a long study's report: seconds to render, and megabytes of the page.

The study's tables are synthetic (`tests/support/synthetic_study.py`); reading, computing and
drawing are real.

    python analysis/benchmarks/long_report.py [TRIALS]
"""

from __future__ import annotations

import platform
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "tests" / "support"))

from synthetic_study import long_study

from raycae.report.page import write_report


def main(trials: int = 20_000) -> None:
    with tempfile.TemporaryDirectory() as folder:
        study = long_study(Path(folder) / "long", trials)
        begun, spent = time.perf_counter(), time.process_time()
        page = write_report(study)
        begun, spent = time.perf_counter() - begun, time.process_time() - spent
        megabytes = page.stat().st_size / 1e6
        print(f"{trials:,} trials: {begun:.1f} s ({spent:.1f} s of CPU), {megabytes:.1f} MB")
        print(f"python {platform.python_version()}, {platform.machine()}")


if __name__ == "__main__":
    main(*map(int, sys.argv[1:2]))
