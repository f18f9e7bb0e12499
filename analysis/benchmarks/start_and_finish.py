"""Measure the time before a search's first trial and after its last one, in one or two checkouts.

    python analysis/benchmarks/start_and_finish.py [--against CHECKOUT] [--data SOURCE]

Runs `raycae search` with one-epoch trials of `quickstart` in a separate process and divides its
time by the lines that it prints: `start` ends with the first trial, `trials` with the last one,
`finish` with the process. CPU time is that of the command and of all its descendants (Ray's
processes and workers), sampled four times a second from /proc, so short-lived processes are partly
missed. The time until the line about the images is printed, too.

With `--against`, runs of the two checkouts alternate, and the ratios of the medians are printed
last. `--cache empty` gives each run a new cache folder; by default the runs of one checkout share
one, as searches of one person do, and the first run of each is not counted. Linux only.
"""

from __future__ import annotations

import argparse
import os
import re
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

PHASES = ("start", "trials", "finish")
TICKS = os.sysconf("SC_CLK_TCK")
HERE = Path(__file__).resolve().parents[2]


class CpuSampler:
    """Adds up the CPU seconds of a process and its descendants, those that have ended included."""

    def __init__(self, root: int) -> None:
        self._root, self._lock = root, threading.Lock()
        self._family, self._seconds = {root}, dict[int, float]()
        self._is_over = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()

    def read(self) -> float:
        """Return the CPU seconds so far."""
        self._sample()
        return sum(self._seconds.values())

    def stop(self) -> None:
        """Stop sampling."""
        self._is_over.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._is_over.wait(0.25):
            self._sample()

    def _sample(self) -> None:
        with self._lock:
            stats = {}
            for folder in Path("/proc").glob("[0-9]*"):
                try:
                    fields = (folder / "stat").read_text().rpartition(")")[2].split()
                except OSError:
                    continue
                stats[int(folder.name)] = int(fields[1]), (int(fields[11]) + int(fields[12]))
            has_grown = True
            while has_grown:  # A child may have a smaller number than its parent.
                found = {pid for pid, (parent, _) in stats.items() if parent in self._family}
                has_grown = not found <= self._family
                self._family |= found
            for pid in self._family & stats.keys():
                self._seconds[pid] = stats[pid][1] / TICKS


def run_search(checkout: Path, arguments: argparse.Namespace, cache: Path) -> dict[str, float]:
    """Run one search and return the wall and CPU seconds of its phases."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "raycae", "search", "--space", "quickstart"]
        command += ["--data", arguments.data, "--trials", str(arguments.trials), "--epochs", "1"]
        command += ["--scheduler", "none", "--results", folder]
        if arguments.images:
            command += ["--limit", str(arguments.images)]
        environment = {
            **os.environ,
            "PYTHONPATH": str(checkout),
            "RAYCAE_CACHE": str(cache),
            "PYTHONUNBUFFERED": "1",
        }
        begun = time.perf_counter()
        process = subprocess.Popen(
            command, stdout=subprocess.PIPE, text=True, cwd=folder, env=environment
        )
        sampler = CpuSampler(process.pid)
        marks, data_s = [(0.0, 0.0)], 0.0
        assert process.stdout is not None
        for line in process.stdout:
            if line.startswith("data "):
                data_s = time.perf_counter() - begun
            if (ended := re.match(r"\[(\d+)/(\d+)\] trial", line)) and ended[1] in ("1", ended[2]):
                marks.append((time.perf_counter() - begun, sampler.read()))
        if process.wait():
            raise SystemExit(f"{checkout}: the search ended with exit code {process.returncode}")
        marks.append((time.perf_counter() - begun, sampler.read()))
        sampler.stop()
    found = {"images wall": data_s}
    for i, phase in enumerate(PHASES):
        found[f"{phase} wall"] = marks[i + 1][0] - marks[i][0]
        found[f"{phase} CPU"] = marks[i + 1][1] - marks[i][1]
    return {**found, "all wall": marks[-1][0], "all CPU": marks[-1][1]}


def main() -> None:
    """Run the searches in turn and print medians, ranges and ratios."""
    sys.path.insert(0, str(HERE))
    from raycae.provenance import collect_provenance, describe_hardware

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--against", type=Path, help="another checkout")
    parser.add_argument("--data", default="photos")
    parser.add_argument("--images", type=int, help="training and validation images")
    parser.add_argument("--trials", type=int, default=10)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--cache", choices=("shared", "empty"), default="shared")
    arguments = parser.parse_args()
    if arguments.trials < 2:
        parser.error("--trials: at least 2")
    if Path(arguments.data).exists():
        arguments.data = str(Path(arguments.data).resolve())
    checkouts = {"this": HERE}
    if arguments.against:
        checkouts["other"] = arguments.against.resolve()
    machine, versions = describe_hardware(), collect_provenance()["versions"]
    print(f"{machine['cpu']}, {machine['n_cpus']} cores; {versions}")
    print(f"{arguments.data}, {arguments.trials} trials of one epoch, cache {arguments.cache}")
    runs: dict[str, list[dict[str, float]]] = {name: [] for name in checkouts}
    is_shared = arguments.cache == "shared"
    with tempfile.TemporaryDirectory() as caches:
        for repeat in range(arguments.repeats + is_shared):
            for name, checkout in checkouts.items():
                cache = Path(caches, name if is_shared else f"{name}{repeat}")
                found = run_search(checkout, arguments, cache)
                load = os.getloadavg()[0]
                shown = ", ".join(f"{key} {value:.1f}" for key, value in found.items())
                is_counted = repeat or not is_shared
                print(f"  {name:5} {shown} s (load {load:.1f})", flush=True)
                if is_counted:
                    runs[name].append(found)
    for name, found_runs in runs.items():
        for key in found_runs[0]:
            values = sorted(found[key] for found in found_runs)
            print(
                f"{name:5} {key:12} {statistics.median(values):6.1f} s "
                f"({values[0]:.1f} to {values[-1]:.1f}, n = {len(values)})"
            )
    if "other" in runs:
        for key in runs["this"][0]:
            other, this = (
                statistics.median(found[key] for found in runs[name]) for name in ("other", "this")
            )
            print(f"other / this, {key}: {other / this:.2f}")


if __name__ == "__main__":
    main()
