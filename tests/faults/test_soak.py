"""Hours of faults, one after the other, on one study.

RAYCAE_SOAK_MINUTES=120 python -m pytest -m long tests/faults/test_soak.py -s
"""

from __future__ import annotations

import os
import random
import signal
import time
from collections import Counter
from pathlib import Path

import pytest
from searches import a_trainable, command, run, trials_of
from test_faults import QUIET, Kills, epochs_said, seen_by_a_reader, start

from raycae.study.plan import count_begun

MINUTES = float(os.environ.get("RAYCAE_SOAK_MINUTES", "120"))

pytestmark = [pytest.mark.ray, pytest.mark.long, pytest.mark.timeout(60 * MINUTES + 1800)]


def test_hours_of_faults(
    space_file: Path,
    tmp_path: Path,
    small_ray: dict[str, str],
) -> None:
    """Oracle: whatever is done to the driver (kill -9, Ctrl-C once or twice, SIGTERM) and to trials
    (kill -9, SIGSTOP), in whatever order: no epoch that a reader saw is gone, each trial stands
    there once, and all that were begun end when they are let."""
    folder = tmp_path / "tiny"
    more = ["--trials", "100000", "--epochs", "12", "--storage", f"sqlite:///{tmp_path / 'o.db'}"]
    kills = Kills(command(space_file, tmp_path, *more, setup=QUIET), folder, small_ray)
    draw = random.Random(5)
    done: Counter[str] = Counter()
    until = time.monotonic() + 60 * MINUTES
    while time.monotonic() < until:
        process = start(kills.command(), small_ray)
        for _ in range(draw.randint(0, 3)):
            watch(kills, draw.uniform(5, 20))
            number = draw.choice([signal.SIGKILL, signal.SIGSTOP])
            try:
                os.kill(a_trainable(), number)
            except (AssertionError, ProcessLookupError):
                continue  # between two trials
            done[f"trial {number.name}"] += 1
        watch(kills, draw.uniform(5, 30))
        how = draw.choice(["kill", "SIGINT", "SIGTERM", "two SIGINT"])
        done[f"driver {how}"] += 1
        if how == "kill":
            process.kill()
        else:
            process.send_signal(signal.SIGTERM if how == "SIGTERM" else signal.SIGINT)
            if how == "two SIGINT":
                time.sleep(draw.uniform(0, 1))
                process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=120)
        assert "Traceback" not in err, err
        kills.count_running()
    begun = count_begun(folder)  # the tables of a killed driver are older than its ledger
    last = [*command(space_file, tmp_path, "--resume", "--trials", str(begun))]
    finished = run(last, small_ray)
    assert finished.returncode == 0, finished.stderr
    trials = trials_of(folder)
    said = epochs_said(folder)
    repeated = sum(n - 1 for n in said.values())
    states = trials["state"].value_counts().to_dict()
    print(
        f"{MINUTES:.0f} minutes, {dict(done)}: {len(trials)} trials {states}, "
        f"{sum(said.values())} epochs, {repeated} repeated, lost 0"
    )
    assert trials["trial_number"].is_unique
    assert not (trials["state"] == "RUNNING").any()
    assert kills.shown <= set(said)
    assert repeated <= kills.running_at_kills + sum(
        n for what, n in done.items() if what.startswith("trial")
    )


def watch(kills: Kills, seconds: float) -> None:
    """What a reader of the tables sees meanwhile."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        kills.shown |= seen_by_a_reader(kills.folder)
        time.sleep(0.5)
