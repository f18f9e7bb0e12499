"""CPU time of early stopping by Pareto rank: arrays against loops over all earlier trials.

Both judge the same made-up trials at one rung: log-normal errors, uniform latent sizes. The order
of the two alternates between seeds, and their verdicts must agree.

    python analysis/benchmarks/pareto_rank.py 1000 2000 5000
"""

from __future__ import annotations

import platform
import statistics
import sys
import time
from collections import defaultdict

import numpy as np

from raycae.optimization.early_stopping import AtRungs, Known, ParetoASHA

SEEDS = 5


class LoopParetoASHA(AtRungs):
    """`ParetoASHA` until 2026-11-30: every report compares with each earlier trial in Python."""

    def __init__(self, epochs: int, *, cost: str) -> None:
        super().__init__(epochs)
        self.cost = cost
        self._points: dict[int, list[tuple[float, float]]] = defaultdict(list)
        self._ranks: dict[int, list[int]] = defaultdict(list)

    def _judge(self, rung: int, value: float, known: Known) -> bool:
        points, ranks = self._points[rung], self._ranks[rung]
        new = (value, float(known[self.cost]))
        for i, other in enumerate(points):
            ranks[i] += dominates(new, other)
        rank = sum(dominates(other, new) for other in points)
        points.append(new)
        ranks.append(rank)
        n_better = sum(other < rank for other in ranks)
        return len(points) < self.factor or n_better < len(points) // self.factor


def dominates(first: tuple[float, float], second: tuple[float, float]) -> bool:
    """Return whether `first` is better in one number and not worse in the other."""
    return first != second and first[0] <= second[0] and first[1] <= second[1]


def main() -> None:
    """Print the CPU time of both for each number of trials on the command line."""
    print(f"Python {platform.python_version()}, NumPy {np.__version__}, {SEEDS} seeds")
    for n in map(int, sys.argv[1:]):
        spent_s: dict[type[AtRungs], list[float]] = {LoopParetoASHA: [], ParetoASHA: []}
        for seed in range(SEEDS):
            random = np.random.default_rng(seed)
            errors = random.lognormal(-5, 1, n).tolist()
            sizes = random.integers(16, 4096, n).tolist()
            verdicts = []
            for rule in list(spent_s)[:: 1 if seed % 2 else -1]:
                asha = rule(9, cost="latent_size")  # type: ignore[call-arg]
                started_s = time.process_time()
                reports = enumerate(zip(errors, sizes, strict=True))
                verdicts.append([asha.report(i, 1, e, {"latent_size": s}) for i, (e, s) in reports])
                spent_s[rule].append(time.process_time() - started_s)
            assert verdicts[0] == verdicts[1]
        for rule, times_s in spent_s.items():
            median_s = statistics.median(times_s)
            spread = f"{min(times_s):.2f} to {max(times_s):.2f}"
            print(f"{n:6} trials  {rule.__name__:15} {median_s:.2f} s of CPU ({spread})")


if __name__ == "__main__":
    main()
