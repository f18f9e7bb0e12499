"""A search over recorded learning curves, in simulated time (`raycae simulate`).

The proposer and the early-stopping rule are those of a real search. They get the epochs in the
order in which simulated workers finish them. Nothing is trained or written.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from raycae.optimization.early_stopping import StoppingRule
from raycae.optimization.proposer import Proposal
from raycae.study.records import COMPLETE, FAIL, PRUNED, RUNNING

if TYPE_CHECKING:
    from raycae.config import Config


class Curve(NamedTuple):
    """The learning curve of a trial.

    Attributes:
        errors: Validation error (MSE) after each epoch.
        epoch_s: Duration of an epoch in seconds.
        failed: Whether the trial diverged in the epoch after the last of `errors`.
    """

    errors: tuple[float, ...]
    epoch_s: float
    failed: bool = False


class Searcher(Protocol):
    """What a simulation needs to get proposals, e.g. a `proposer.Proposer`."""

    def propose(self, number: int) -> Proposal | None:
        """Propose what trial `number` runs; None if there is nothing to run now."""

    def report(self, number: int, epoch: int, value: float) -> None:
        """Report the error of trial `number` after an epoch."""

    def tell(self, number: int, state: str, value: float | None) -> None:
        """Report the state in which trial `number` ended, and its lowest error."""


class World(Protocol):
    """What a simulation needs to get learning curves, e.g. a `recorded_curves.Recorded`."""

    def get_curve(self, config: Config, seed: int) -> Curve:
        """Return the curve of a configuration with a seed, the same every time."""


class Epoch(NamedTuple):
    """An epoch that ended.

    Attributes:
        at_s: When it ended, in simulated seconds since the search began.
        number: Trial number.
        proposal: What the trial runs.
        epoch: Epoch, from 1.
        error: Validation error; None if the trial diverged.
        state: State of the trial after this epoch.
    """

    at_s: float
    number: int
    proposal: Proposal
    epoch: int
    error: float | None
    state: str


def simulate_search(
    searcher: Searcher,
    stopping: StoppingRule,
    world: World,
    *,
    trials: int,
    epochs: int,
    workers: int,
    describe: Callable[[Proposal], Mapping[str, Any]] | None = None,
) -> Iterator[Epoch]:
    """Simulate a search; proposals and decisions take no simulated time.

    Args:
        searcher: Proposes configurations.
        stopping: Decides after each epoch whether a trial continues.
        world: The learning curves.
        trials: Largest number of trials.
        epochs: Largest number of epochs of a trial.
        workers: Number of trials that run at the same time.
        describe: Returns the columns of a trial that the early-stopping rule needs; by default only
            `point`.

    Yields:
        The epochs in the order in which they end. Of two that end at the same time, that of the
        trial that began first comes first.
    """
    ends: list[tuple[float, int]] = []
    running: dict[int, tuple[Proposal, Curve, list[float], Mapping[str, Any]]] = {}
    at_s, n_begun = 0.0, 0
    while True:
        while n_begun < trials and len(running) < workers and (new := searcher.propose(n_begun)):
            curve = world.get_curve(new.config, new.seed)
            known = describe(new) if describe else {"point": new.point}
            running[n_begun] = (new, curve, [], known)
            heapq.heappush(ends, (at_s + curve.epoch_s, n_begun))
            n_begun += 1
        if not ends:
            return
        at_s, number = heapq.heappop(ends)
        proposal, curve, errors, known = running[number]
        epoch = len(errors) + 1
        error = curve.errors[epoch - 1] if epoch <= len(curve.errors) else None
        state = FAIL
        if error is not None:
            errors.append(error)
            should_continue = stopping.report(number, epoch, error, known)
            searcher.report(number, epoch, error)
            state = COMPLETE if epoch == epochs else RUNNING if should_continue else PRUNED
        if state == RUNNING:
            heapq.heappush(ends, (at_s + curve.epoch_s, number))
        else:
            del running[number]
            searcher.tell(number, state, min(errors, default=None))
        yield Epoch(at_s, number, proposal, epoch, error, state)
