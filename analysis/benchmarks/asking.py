"""Measure the cost of one TPE proposal in a study of 100, 1,000 and 10,000 trials.

The study is filled with random trials and synthetic errors. Then ten proposals are timed, in
seconds of this process's CPU time, which other processes on the machine hardly change. The last
line is the ratio of 10,000 trials to 100.

    python analysis/benchmarks/asking.py [SPACE]
"""

from __future__ import annotations

import platform
import statistics
import sys
import time
from pathlib import Path

import optuna

from raycae.optimization import history
from raycae.optimization.proposer import Proposer
from raycae.optimization.samplers import SAMPLERS
from raycae.space import loading


def main(name: str = "ex2") -> None:
    print(
        f"space {name}, a window of {history.WINDOW}; optuna {optuna.__version__}, "
        f"{platform.machine()}"
    )
    proposer = Proposer(loading.load_space(name), "random")
    samplers = {name: SAMPLERS[name](proposer.setup) for name in ("random", "tpe")}
    number = 0
    costs = []
    for size in (100, 1000, 10_000):
        proposer.sampler = samplers["random"]
        while number < size:
            number = one(proposer, number)
        proposer.sampler = samplers["tpe"]
        seconds = []
        for _ in range(10):
            begun = time.process_time()
            assert proposer.propose(number)
            seconds.append(time.process_time() - begun)
            end(proposer, number)
            number += 1
        costs.append(statistics.median(seconds))
        print(
            f"{size:7}  {1000 * costs[-1]:6.0f} ms a proposal "
            f"({1000 * min(seconds):.0f} to {1000 * max(seconds):.0f})  {resident_mb():5.0f} MB",
            flush=True,
        )
    print(f"10,000 / 100: {costs[-1] / costs[0]:.2f}")


def one(proposer: Proposer, number: int) -> int:
    assert proposer.propose(number)
    end(proposer, number)
    return number + 1


def end(proposer: Proposer, number: int) -> None:
    error = 0.1 + (number * 7919 % 10_007) / 100_000
    proposer.report(number, 1, error)
    if number % 3:
        proposer.tell(number, "PRUNED", error)
    else:
        proposer.tell(number, "COMPLETE", error)


def resident_mb() -> float:
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096 / 1e6


if __name__ == "__main__":
    main(*sys.argv[1:])
