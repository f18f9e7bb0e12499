"""Run a benchmark for two checkouts in turn, and print medians and ratios. No benchmark itself."""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parents[2]


def compare_checkouts(script: str, options: list[str], other: Path, repeats: int) -> None:
    """Run a script in turn with `raycae` from this checkout and from another one.

    Args:
        script: The script of this checkout. It prints its figures as JSON in its last line.
        options: Its options.
        other: The folder of the other checkout.
        repeats: Number of runs for each checkout.
    """
    checkouts = {"this": HERE, "other": other.resolve()}
    runs: dict[str, list[dict[str, float]]] = {name: [] for name in checkouts}
    for _ in range(repeats):
        for name, checkout in checkouts.items():
            done = subprocess.run(
                [sys.executable, script, *options],
                env={**os.environ, "PYTHONPATH": str(checkout)},
                stdout=subprocess.PIPE,
                text=True,
                check=True,
            )
            figures = json.loads(done.stdout.splitlines()[-1])
            runs[name].append(figures)
            shown = ", ".join(f"{key} {value:.2f}" for key, value in figures.items())
            print(f"  {name:5} {shown} (load {os.getloadavg()[0]:.1f})", flush=True)
    for name, measured in runs.items():
        for key in measured[0]:
            values = [figures[key] for figures in measured]
            print(
                f"{name:5} {key}: {statistics.median(values):.2f} "
                f"({min(values):.2f} to {max(values):.2f}, n = {repeats})"
            )
    for key in runs["this"][0]:
        medians = [statistics.median(f[key] for f in runs[name]) for name in ("other", "this")]
        print(f"other / this, {key}: {medians[0] / medians[1]:.2f}")
