"""Measure what thousands of trials in one study cost the driver.

Training is simulated and takes no time. Proposals, early stopping, the ledger with its fsyncs, and
the tables are real. Each tenth of the study prints one line: trials per second, resident memory,
ledger files. Then a new process opens the study, as `--resume` does. The last line is the ratio of
the last tenth's pace to that of the first.

    python analysis/benchmarks/many_trials.py [TRIALS] [SAMPLER]
"""

from __future__ import annotations

import os
import platform
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import optuna
import pyarrow

from raycae.space import loading
from raycae.storage.paths import Place
from raycae.study.attempt import EpochReport
from raycae.study.opening import create_study
from raycae.study.plan import Plan
from raycae.study.study import Study

RESUME = """
import sys
from pathlib import Path
from raycae.study.opening import resume_study
from raycae.study.plan import load_plan, read_study
folder = Path(sys.argv[1])
resume_study(folder, load_plan(read_study(folder))).close()
"""


def main(trials: int = 5000, sampler: str = "random") -> None:
    print(f"{trials} trials, 3 epochs, ASHA, {sampler}, space ex2")
    print(f"optuna {optuna.__version__}, pyarrow {pyarrow.__version__}, {platform.machine()}")
    with tempfile.TemporaryDirectory() as folder:
        plan = Plan("s", "ex2", "photos", trials, 3, None, 0, sampler, "asha")
        data = {"source": "photos", "fingerprint": "0", "n_train": 1, "n_val": 1}
        study = create_study(Path(folder) / "s", plan, loading.load_space("ex2"), data)
        paces = []
        for tenth in range(10):
            begun = time.perf_counter()
            for number in range(trials // 10 * tenth, trials // 10 * (tenth + 1)):
                run(study, number)
            paces.append(trials / 10 / (time.perf_counter() - begun))
            files = len(list((study.folder / "ledger").iterdir()))
            print(
                f"{trials // 10 * (tenth + 1):7}  {paces[-1]:6.1f} trials/s  "
                f"{resident_mb():6.0f} MB  {files:4} files",
                flush=True,
            )
        begun = time.perf_counter()
        study.close()
        print(f"closed in {time.perf_counter() - begun:.1f} s")
        measure_resume(study.folder)
        print(f"pace, last tenth / first tenth: {paces[-1] / paces[0]:.2f}")


def measure_resume(folder: Place) -> None:
    """Print the time and memory that a new process needs to open and close the study.

    The start of Python is included.

    Args:
        folder: The folder of the study.
    """
    begun = time.perf_counter()
    process = subprocess.Popen([sys.executable, "-c", RESUME, str(folder)])
    _, status, used = os.wait4(process.pid, 0)
    if status:
        raise SystemExit("the study could not be resumed")
    print(
        f"resumed and closed in {time.perf_counter() - begun:.1f} s, "
        f"{used.ru_utime + used.ru_stime:.1f} s of CPU, at most {used.ru_maxrss / 1e3:.0f} MB"
    )


def run(study: Study, number: int) -> None:
    """Run one trial with synthetic errors that depend on its number."""
    issue = study.ask()
    assert issue is not None
    study.start_attempt(issue.number, issue.attempt)
    for epoch in (1, 2, 3):
        error = 0.1 + (number * 7919 % 10007) / 100_000 - epoch / 1000
        measured = {
            "epoch": epoch,
            "train_mse": error,
            "val_mse": error,
            "val_psnr_db": 20.0,
            "epoch_time_s": 1.0,
            "images_per_s": 100.0,
        }
        if not study.report_epoch(EpochReport(issue.number, issue.attempt, **measured)):
            return


def resident_mb() -> float:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * 4096 / 1e6


if __name__ == "__main__":
    count, *name = sys.argv[1:] or ["5000"]
    main(int(count), *name)
