"""Measure what thousands of trials in one study cost the driver.

Training is simulated and takes no time. Proposals, early stopping, the ledger with its fsyncs, and
the tables are real. Each tenth of the study prints one line: trials per second, resident memory,
ledger files. Then a new process opens the study, as `--resume` does. The last line is the ratio of
the last tenth's pace to that of the first. With `--against`, runs of the two checkouts alternate,
and the ratios of the medians are printed last.

    python analysis/benchmarks/many_trials.py [TRIALS] [SAMPLER] [--against CHECKOUT]
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import in_turn
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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("trials", type=int, nargs="?", default=5000)
    parser.add_argument("sampler", nargs="?", default="random")
    parser.add_argument("--against", type=Path, help="another checkout")
    parser.add_argument("--repeats", type=int, default=3, help="runs of each, with --against")
    parser.add_argument("--json", action="store_true", help="also print the figures as JSON")
    arguments = parser.parse_args()
    trials, sampler = arguments.trials, arguments.sampler
    if trials < 10:
        parser.error("TRIALS: at least 10")
    if arguments.against:
        options = [str(trials), sampler, "--json"]
        in_turn.compare_checkouts(__file__, options, arguments.against, arguments.repeats)
        return
    figures = measure_study(trials, sampler)
    if arguments.json:
        print(json.dumps(figures))


def measure_study(trials: int, sampler: str) -> dict[str, float]:
    """Run a study and open it again; print and return the figures.

    Args:
        trials: Number of trials.
        sampler: The sampler.

    Returns:
        Milliseconds of wall time and CPU time for each trial, and CPU seconds and MB to resume.
    """
    print(f"{trials} trials, 3 epochs, ASHA, {sampler}, space ex2")
    print(f"optuna {optuna.__version__}, pyarrow {pyarrow.__version__}, {platform.machine()}")
    with tempfile.TemporaryDirectory() as folder:
        plan = Plan("s", "ex2", "photos", trials, 3, None, 0, sampler, "asha")
        data = {"source": "photos", "fingerprint": "0", "n_train": 1, "n_val": 1}
        study = create_study(Path(folder) / "s", plan, loading.load_space("ex2"), data)
        paces, process = [], time.process_time()
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
        process = time.process_time() - process
        begun = time.perf_counter()
        study.close()
        print(f"closed in {time.perf_counter() - begun:.1f} s")
        cpu_s, megabytes = measure_resume(study.folder)
        print(f"pace, last tenth / first tenth: {paces[-1] / paces[0]:.2f}")
    return {
        "trial wall ms": 100 * sum(1 / pace for pace in paces),
        "trial CPU ms": 1000 * process / trials,
        "resume CPU s": cpu_s,
        "resume MB": megabytes,
    }


def measure_resume(folder: Place) -> tuple[float, float]:
    """Print the time and memory that a new process needs to open and close the study.

    The start of Python is included.

    Args:
        folder: The folder of the study.

    Returns:
        CPU seconds, and the largest resident memory in MB.
    """
    begun = time.perf_counter()
    process = subprocess.Popen([sys.executable, "-c", RESUME, str(folder)])
    _, status, used = os.wait4(process.pid, 0)
    if status:
        raise SystemExit("the study could not be resumed")
    cpu_s, megabytes = used.ru_utime + used.ru_stime, used.ru_maxrss / 1e3
    print(
        f"resumed and closed in {time.perf_counter() - begun:.1f} s, {cpu_s:.1f} s of CPU, "
        f"at most {megabytes:.0f} MB"
    )
    return cpu_s, megabytes


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
    main()
