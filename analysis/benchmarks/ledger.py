"""Measure the CPU time of the ledger's `append` for the events of a trial.

The events are those of a study of `ex2` whose trials train nothing: proposed, started, one epoch,
ended. They are written again, three at a time, as a search writes them when one trial ends and the
next begins, into a folder of the disk that has the temporary files. All merges of parts are
included. To compare checkouts, pass their folders: each one writes the same events, in turn, in a
new process. The ratios to the first one are printed last.

    python analysis/benchmarks/ledger.py [CHECKOUT...]
"""

from __future__ import annotations

import os
import pickle
import platform
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

import pyarrow

HERE = Path(__file__).resolve().parents[2]
APPENDS = 640
RUNS = 5
TRIALS = 80
PROGRAM = """
import pickle, sys, tempfile, time
from pathlib import Path
from raycae.study.ledger import Ledger
groups = pickle.loads(Path(sys.argv[1]).read_bytes())
with tempfile.TemporaryDirectory() as folder:
    ledger = Ledger(Path(folder) / "ledger")
    ledger.append(groups[0])
    process, thread = time.process_time(), time.thread_time()
    for group in groups:
        ledger.append(group)
    process, thread = time.process_time() - process, time.thread_time() - thread
print(1000 * process / len(groups), 1000 * thread / len(groups))
"""


def main(checkouts: list[Path]) -> None:
    """Print the milliseconds of each checkout: median, least and most of `RUNS` runs."""
    print(f"Python {platform.python_version()}, PyArrow {pyarrow.__version__}, {APPENDS} appends")
    runs: dict[Path, list[tuple[float, float]]] = {place: [] for place in checkouts}
    with tempfile.TemporaryDirectory() as folder:
        events = Path(folder) / "events"
        events.write_bytes(pickle.dumps(record_groups(Path(folder) / "study")))
        for _ in range(RUNS):
            for place in checkouts:
                done = subprocess.run(
                    [sys.executable, "-c", PROGRAM, events],
                    env={**os.environ, "PYTHONPATH": str(place)},
                    stdout=subprocess.PIPE,
                    text=True,
                    check=True,
                )
                process, thread = map(float, done.stdout.split())
                runs[place].append((process, thread))
    for place, measured in runs.items():
        columns = zip(*measured, strict=True)
        for name, values in zip(("all threads", "main thread"), columns, strict=True):
            print(
                f"{place.name:12} {name}: {statistics.median(values):.2f} ms for each append "
                f"({min(values):.2f} to {max(values):.2f}, n = {RUNS})"
            )
    medians = {
        place: statistics.median(process for process, _ in measured)
        for place, measured in runs.items()
    }
    first, *others = checkouts
    for place in others:
        ratio = medians[place] / medians[first]
        print(f"{place.name} / {first.name}, all threads: {ratio:.2f}")


def record_groups(folder: Path) -> list[list[dict[str, object]]]:
    """Record a study and return its events in `APPENDS` groups of three."""
    from raycae.space import loading
    from raycae.study.attempt import EpochReport
    from raycae.study.ledger import read_events
    from raycae.study.opening import create_study
    from raycae.study.plan import Plan

    plan = Plan("study", "ex2", "photos", TRIALS, 1, None, 0, "random", "none")
    data = {"source": "photos", "fingerprint": "0", "n_train": 1, "n_val": 1}
    study = create_study(folder, plan, loading.load_space("ex2"), data)
    while attempt := study.ask():
        study.start_attempt(attempt.number, attempt.attempt)
        measured = {
            "epoch": 1,
            "train_mse": 0.0123,
            "val_mse": 0.0123 + attempt.number / 1e6,
            "val_psnr_db": 19.1,
            "epoch_time_s": 1.0,
            "images_per_s": 100.0,
            "checkpoint": "0" * 32,
            "model": "0" * 32,
        }
        study.report_epoch(EpochReport(attempt.number, attempt.attempt, **measured))
    study.close()
    events = [e for e in read_events(folder / "ledger") if e["event"] not in ("begun", "resumed")]
    used = [{name: value for name, value in e.items() if value is not None} for e in events]
    return [[used[(3 * i + j) % len(used)] for j in range(3)] for i in range(APPENDS)]


if __name__ == "__main__":
    main([Path(argument).resolve() for argument in sys.argv[1:]] or [HERE])
