"""`raycae simulate`: a search over recorded curves, in simulated time.

The searcher and the stopping rule are those of a real search, asked and told in the order in which
simulated workers come to the end of their epochs. Nothing is trained, nothing is written.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterator
from typing import TYPE_CHECKING, NamedTuple, Protocol

from raycae.optimization.early_stopping import StoppingRule
from raycae.optimization.proposer import Proposal
from raycae.study.records import COMPLETE, FAIL, PRUNED, RUNNING

if TYPE_CHECKING:
    from raycae.execution.recorded_curves import Recorded
    from raycae.execution.surrogate import Curve


class Searcher(Protocol):
    """What a simulation asks of who proposes; `proposer.Proposer` is one."""

    def propose(self, number: int) -> Proposal | None: ...

    def report(self, number: int, epoch: int, value: float) -> None: ...

    def tell(self, number: int, state: str, value: float | None) -> None: ...


class Epoch(NamedTuple):
    """An epoch that ended: when (simulated seconds since the search began), whose, which one, with
    which error (None: it diverged), and how its trial stands."""

    at_s: float
    number: int
    proposal: Proposal
    epoch: int
    error: float | None
    state: str


def simulate_search(
    searcher: Searcher,
    stopping: StoppingRule,
    world: Recorded,
    *,
    trials: int,
    epochs: int,
    workers: int,
) -> Iterator[Epoch]:
    """The epochs of a search for at most `trials`, of at most `epochs` each, on `workers`, in the
    order in which they end; of two that end together the trial that began first comes first.

    A search takes no simulated time between epochs.
    """
    ends: list[tuple[float, int]] = []
    running: dict[int, tuple[Proposal, Curve, list[float]]] = {}
    at_s, begun = 0.0, 0
    while True:
        while begun < trials and len(running) < workers and (new := searcher.propose(begun)):
            curve = world.curve(new.config, new.seed)
            running[begun] = (new, curve, [])
            heapq.heappush(ends, (at_s + curve.epoch_s, begun))
            begun += 1
        if not ends:
            return
        at_s, number = heapq.heappop(ends)
        proposal, curve, errors = running[number]
        epoch = len(errors) + 1
        error = curve.errors[epoch - 1] if epoch <= len(curve.errors) else None
        state = FAIL
        if error is not None:
            errors.append(error)
            goes_on = stopping.report(number, epoch, error, {"point": proposal.point})
            searcher.report(number, epoch, error)
            state = COMPLETE if epoch == epochs else RUNNING if goes_on else PRUNED
        if state == RUNNING:
            heapq.heappush(ends, (at_s + curve.epoch_s, number))
        else:
            del running[number]
            searcher.tell(number, state, min(errors, default=None))
        yield Epoch(at_s, number, proposal, epoch, error, state)
