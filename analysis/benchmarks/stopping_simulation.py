"""Simulate early stopping: which good trials it loses, and how many epochs it spends.

Three parts. The first two take seconds, the third about an hour on two cores.

1. Synthetic trials of 9 epochs whose error does not change from epoch to epoch, so a rule that
   stops one of the best trials loses it for good. Two samplers: one that improves steadily, as a
   search that learns does, and one that draws at random. Per rule: the share of the best
   twentieth that is stopped at the first rung and at any rung, and the epochs spent.
2. The brackets of Hyperband: the share of the trials and of the epochs that each one gets.
3. Searches over the recorded curves (analysis/recorded/curves), random and TPE, four simulated
   workers: epochs of the first 100 trials, and after 450 epochs the trials begun and the regret,
   which is 0 at the best configuration of the table and 1 at the median of random ones, by
   logarithms of the error without noise.

`capped` is the rule that raycae called ASHA until 2026-11-29: the best trial so far continues. Of n
trials at a rung, others continue only while fewer than n // factor have done so.

    python analysis/benchmarks/stopping_simulation.py [made-up | recorded] [SEEDS] [SPACE]
"""

from __future__ import annotations

import platform
import sys
from collections import Counter, defaultdict
from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt

from raycae.execution.recorded_curves import Recorded
from raycae.optimization.early_stopping import (
    ASHA,
    FACTOR,
    NOTHING,
    AtRungs,
    Hyperband,
    Known,
    NoStopping,
    StoppingRule,
)

CURVES = Path(__file__).parents[1] / "recorded" / "curves"
TRIALS = 400
EPOCHS = 9
BUDGET = 450
WORKERS = 4
NOISE = 0.25
"""Standard deviation of the improving sampler's errors, in units of the fall of their mean."""


class Capped(AtRungs):
    """The rule that raycae called ASHA until 2026-11-29."""

    def __init__(self, epochs: int, *, grace: int = 1, factor: int = FACTOR) -> None:
        super().__init__(epochs, grace=grace, factor=factor)
        self._values: dict[int, list[float]] = defaultdict(list)
        self._n_went_on: Counter[int] = Counter()

    def _judge(self, rung: int, value: float, known: Known = NOTHING) -> bool:
        self._values[rung].append(value)
        places = len(self._values[rung]) // self.factor
        n_better = sum(other < value for other in self._values[rung])
        goes_on = not n_better or (n_better < places and self._n_went_on[rung] < places)
        self._n_went_on[rung] += goes_on
        return goes_on


RULES: dict[str, Callable[[int], StoppingRule]] = {
    "capped": Capped,
    "asha": ASHA,
    "hyperband": Hyperband,
    "none": lambda epochs: NoStopping(),
}


def main(part: str = "all", seeds: str = "20", space: str = "ex2") -> None:
    if part not in ("all", "made-up", "recorded"):
        sys.exit(f"{part}: not a part; allowed: made-up, recorded, all")
    print(f"factor {FACTOR}, seeds 1 to {seeds}; numpy {np.__version__}, {platform.machine()}")
    if part != "recorded":
        simulate_made_up(int(seeds))
        print_brackets()
    if part != "made-up":
        search_recorded(int(seeds), space)


def simulate_made_up(n_seeds: int) -> None:
    """Print what each rule stops and spends with made-up trials."""
    print(f"\n{TRIALS} made-up trials of {EPOCHS} epochs; mean (standard deviation) of the seeds")
    print(f"{'sampler':10} {'rule':10} best 5 % stopped: first rung, any rung   epochs")
    for sampler in ("improving", "random"):
        for name, make in RULES.items():
            found = [judge(make(EPOCHS), draw_errors(sampler, s + 1)) for s in range(n_seeds)]
            first, anywhere, epochs = np.array(found).T
            print(
                f"{sampler:10} {name:10} {_spread(100 * first, '%'):>28} "
                f"{_spread(100 * anywhere, '%'):>12} {_spread(epochs):>12}"
            )


def draw_errors(sampler: str, seed: int) -> npt.NDArray[np.float64]:
    """Draw the errors of `TRIALS` trials, in the order in which they arrive."""
    noise = np.random.default_rng(seed).normal(0, NOISE, TRIALS)
    return 1 - np.arange(TRIALS) / TRIALS + noise if sampler == "improving" else noise


def judge(rule: StoppingRule, errors: npt.NDArray[np.float64]) -> tuple[float, float, int]:
    """Run trials one after the other.

    Returns:
        The shares of the best twentieth that are stopped after epoch 1 and at any rung, and the
        epochs of all trials.
    """
    lengths = np.full(len(errors), EPOCHS)
    for number, error in enumerate(errors):
        for epoch in range(1, EPOCHS):
            if not rule.report(number, epoch, float(error)):
                lengths[number] = epoch
                break
    best = lengths[np.argsort(errors)[: len(errors) // 20]]
    return float(np.mean(best == 1)), float(np.mean(best < EPOCHS)), int(lengths.sum())


def print_brackets() -> None:
    """Print the shares of Hyperband's brackets, random errors, 20,000 trials."""
    for epochs, factor in ((27, 3), (81, 3), (EPOCHS, FACTOR)):
        hyperband = Hyperband(epochs, factor=factor)
        errors = np.random.default_rng(0).uniform(size=20_000)
        trials, spent = Counter[int](), Counter[int]()
        for number, error in enumerate(errors):
            bracket = hyperband.find_bracket(number)
            trials[bracket] += 1
            for epoch in range(1, epochs + 1):
                spent[bracket] += 1
                if epoch < epochs and not hyperband.report(number, epoch, float(error)):
                    break
        print(f"\nHyperband, {epochs} epochs, factor {factor}: first rung, trials, epochs")
        for n, bracket_rule in enumerate(hyperband.brackets):
            rungs = getattr(bracket_rule, "rungs", [])
            first = str(rungs[0]) if rungs else "never"
            share = f"{trials[n] / trials.total():8.1%} {spent[n] / spent.total():8.1%}"
            print(f"  {first:>5} {share}")


def search_recorded(n_seeds: int, space: str) -> None:
    """Print what searches over recorded curves spend and find."""
    from raycae.execution import recorded_curves
    from raycae.optimization.proposer import Proposer

    world = recorded_curves.read_curves([CURVES / space, CURVES / f"{space}-seeds"])
    random = Proposer(world.space, "random", seed=0, points=[])
    drawn = [proposal for number in range(1000) if (proposal := random.propose(number))]
    median = float(np.median([world.surrogate.predict_errors(p.config).min() for p in drawn]))
    best = min(float(world.surrogate.predict_errors(config).min()) for config in world.curves)
    print(
        f"\nrecorded curves of {space}, {world.epochs} epochs, {WORKERS} workers; surrogate's "
        f"rank correlation {world.rank_correlation:.2f}; mean (standard deviation) of the seeds"
    )
    print(f"{'sampler':8} {'rule':10} epochs of 100 trials   trials in {BUDGET}   regret")
    for sampler in ("tpe", "random"):
        for name in ("capped", "asha", "hyperband"):
            make = RULES[name]
            found = np.array(
                [search(world, sampler, seed + 1, make(world.epochs)) for seed in range(n_seeds)]
            )
            regret = np.log(found[:, 2] / best) / np.log(median / best)
            print(
                f"{sampler:8} {name:10} {_spread(found[:, 0]):>21} {_spread(found[:, 1]):>15} "
                f"{np.mean(regret):8.2f} ({np.std(regret, ddof=1):.2f})",
                flush=True,
            )


def search(world: Recorded, sampler: str, seed: int, rule: StoppingRule) -> tuple[int, int, float]:
    """Run one search.

    Returns:
        The epochs of the first 100 trials, the trials begun in `BUDGET` epochs, and the error
        without noise, by then, of the trial with the least error so far.
    """
    from raycae.execution.simulator import simulate_search
    from raycae.optimization.proposer import Proposer

    proposer = Proposer(world.space, sampler, seed)
    least, truth, begun, of_first, n_ended = np.inf, np.inf, 0, 0, 0
    epochs = simulate_search(
        proposer, rule, world, trials=10**6, epochs=world.epochs, workers=WORKERS
    )
    for n_epochs, epoch in enumerate(epochs, 1):
        if epoch.number < 100:
            of_first += 1
            n_ended += epoch.state != "RUNNING"
        if n_epochs <= BUDGET:
            begun = max(begun, epoch.number + 1)
            if epoch.error is not None and epoch.error < least:
                least = epoch.error
                truth = float(
                    world.surrogate.predict_errors(epoch.proposal.config)[: epoch.epoch].min()
                )
        if n_epochs >= BUDGET and n_ended == 100:
            break
    return of_first, begun, truth


def _spread(values: npt.NDArray[np.float64], unit: str = "") -> str:
    return f"{np.mean(values):,.0f} ({np.std(values, ddof=1):.0f}){unit}"


if __name__ == "__main__":
    main(*sys.argv[1:])
