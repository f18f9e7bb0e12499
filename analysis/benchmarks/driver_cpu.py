"""Measure the driver's CPU time for a trial that trains nothing, and where it goes.

    python analysis/benchmarks/driver_cpu.py [--trials 250] [--sampler random] [--fuse 1] [--sample]
        [--against CHECKOUT]

It runs the idle trials of `around_trials.py` on one local Ray with two trial slots. The start of
the search and its first trials are left out: the time from the end of trial 50 to the end of the
last one counts. It prints the CPU time of all threads of the driver and that of the main thread.
With `--sample` it also prints how much of the main thread's time each function had on its stack.
The sampling itself costs 0.3 ms a trial. With `--against`, runs of the two checkouts alternate, and
the ratios of the medians are printed last.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import time
from collections import Counter
from pathlib import Path
from types import FrameType

import around_trials
import in_turn
import ray

import raycae
from raycae import data
from raycae.execution.progress import Progress
from raycae.study.ledger import Event
from raycae.study.records import Records

FIRST = 50
"""The measurement begins when this many trials have ended."""


class StackSampler:
    """Adds up the main thread's CPU time by the functions on its stack, 1,000 times a second."""

    def __init__(self) -> None:
        self.seconds: Counter[tuple[str, str]] = Counter()
        self._last = 0.0

    def start(self) -> None:
        self._last = time.thread_time()
        signal.signal(signal.SIGALRM, self._sample)
        signal.setitimer(signal.ITIMER_REAL, 0.001, 0.001)

    def stop(self) -> None:
        signal.setitimer(signal.ITIMER_REAL, 0)

    def _sample(self, number: int, frame: FrameType | None) -> None:
        now = time.thread_time()
        stack = set()
        while frame is not None:
            code = frame.f_code
            stack.add(("/".join(Path(code.co_filename).parts[-3:]), code.co_name))
            frame = frame.f_back
        for function in stack:
            self.seconds[function] += now - self._last
        self._last = now


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--trials", type=int, default=250)
    parser.add_argument("--sampler", default="random")
    parser.add_argument("--fuse", type=int, default=1)
    parser.add_argument("--sample", action="store_true")
    parser.add_argument("--against", type=Path, help="another checkout")
    parser.add_argument("--repeats", type=int, default=3, help="runs of each, with --against")
    parser.add_argument("--json", action="store_true", help="also print the figures as JSON")
    arguments = parser.parse_args()
    if arguments.trials <= FIRST:
        parser.error(f"--trials: at least {FIRST + 1}")
    if arguments.against:
        options = ["--trials", str(arguments.trials), "--sampler", arguments.sampler, "--json"]
        options += ["--fuse", str(arguments.fuse)]
        in_turn.compare_checkouts(__file__, options, arguments.against, arguments.repeats)
        return
    os.environ["TUNE_DISABLE_AUTO_CALLBACK_LOGGERS"] = "1"  # as a search does
    marks: list[tuple[float, float, float]] = []
    sampler = StackSampler()
    listen = Progress.listen

    def watch(progress: Progress, event: Event, records: Records) -> None:
        listen(progress, event, records)
        if event["event"] == "ended" and records.n_ended() in (FIRST, arguments.trials):
            marks.append((time.process_time(), time.thread_time(), time.perf_counter()))
            if arguments.sample:
                sampler.stop() if len(marks) > 1 else sampler.start()

    Progress.listen = watch  # type: ignore[method-assign]
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
    around_trials.ours(
        data.load("photos", limit=32),
        arguments.trials,
        sampler=arguments.sampler,
        fuse=arguments.fuse,
    )
    n = arguments.trials - FIRST
    process, thread, wall = (b - a for a, b in zip(*marks, strict=True))
    print(
        f"{Path(raycae.__file__).parents[1].name}, {arguments.sampler}, fuse {arguments.fuse}: "
        f"{1000 * process / n:.1f} ms of CPU a trial, {1000 * thread / n:.1f} in the main thread; "
        f"{n / wall:.0f} trials a second"
    )
    for (file, name), seconds in sampler.seconds.most_common(80):
        print(f"{1000 * seconds / n:7.2f} ms  {file}:{name}")
    if arguments.json:
        figures = {"CPU ms": process, "main thread ms": thread, "wall ms": wall}
        print(json.dumps({name: 1000 * seconds / n for name, seconds in figures.items()}))


if __name__ == "__main__":
    main()
