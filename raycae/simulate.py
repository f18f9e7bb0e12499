"""`raycae simulate`: a search over recorded curves, in simulated time.

The searcher and the stopping rule are those of a real search, asked and told in the order in which
simulated workers come to the end of their epochs. Nothing is trained, nothing is written.
"""

from __future__ import annotations

import heapq
import time
from collections import Counter
from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated, NamedTuple, Protocol

import numpy as np
import typer

from raycae import results
from raycae.errors import InputError, printable
from raycae.progress import summary
from raycae.results import COMPLETE, FAIL, PRUNED, RUNNING
from raycae.search import MAX_SEED, ResultsOption
from raycae.searcher import SAMPLERS, Proposal, Proposer
from raycae.stopping import FACTOR, SCHEDULERS, Rule, rule

if TYPE_CHECKING:
    from raycae.recorded import Curve, Recorded


class Searcher(Protocol):
    """What a simulation asks of who proposes; `searcher.Proposer` is one."""

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


def run(
    searcher: Searcher, stopping: Rule, world: Recorded, *, trials: int, epochs: int, workers: int
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


def simulate(
    studies: Annotated[
        list[str],
        typer.Argument(
            metavar="STUDY...",
            help="Studies whose trials ran to their end; further ones add curves to the first "
            "one's, also other seeds.",
        ),
    ],
    results_folder: ResultsOption = "results",
    sampler: Annotated[str, typer.Option(metavar="NAME", help=f"{', '.join(SAMPLERS)}.")] = "tpe",
    scheduler: Annotated[
        str, typer.Option(metavar="NAME", help=f"Early stopping: {', '.join(SCHEDULERS)}.")
    ] = "asha",
    trials: Annotated[int, typer.Option(min=1, metavar="N")] = 100,
    epochs: Annotated[
        int | None,
        typer.Option(min=1, metavar="E", help="Epochs a trial.", show_default="the study's"),
    ] = None,
    workers: Annotated[int, typer.Option(min=1, metavar="W", help="Trials at a time.")] = 2,
    grace: Annotated[
        int, typer.Option(min=1, metavar="E", help="No trial is stopped before epoch E.")
    ] = 1,
    factor: Annotated[
        int,
        typer.Option(
            min=2, metavar="F", help="At each early-stopping check, keep the best 1 in F trials."
        ),
    ] = FACTOR,
    seed: Annotated[int, typer.Option(min=0, max=MAX_SEED, metavar="S")] = 0,
) -> None:
    """Search over the recorded curves of a study in simulated time; nothing is trained.

    A configuration that was run has the curve that was recorded, every other one what a surrogate
    fitted to the table predicts, with the noise of seeds where the table shows any.

    Example: raycae simulate ex2 --sampler tpe --scheduler asha --trials 300 --workers 8
    """
    from raycae import recorded  # scipy takes a while, and no other command needs it

    if sampler == "strata":
        raise InputError("--sampler strata: is after a frontier; simulated is the least error")
    world = recorded.read([results.find_study(name, results_folder) for name in studies])
    if epochs is not None and epochs > world.epochs:
        raise InputError(f"--epochs {epochs}: the curves end after epoch {world.epochs}")
    epochs = epochs or world.epochs
    searcher = Proposer(world.space, sampler, seed)
    stopping = rule(scheduler, epochs, grace=grace, factor=factor)
    correlation = world.rank_correlation
    print(
        f"{printable(', '.join(studies))}: {len(world.curves)} configurations, "
        f"{world.epochs} epochs; least error {world.least:.5f}\n"
        f"surrogate: rank correlation {correlation:.2f} on held-out configurations"
        + (
            f"; below {recorded.TRUSTED} it is not fit to compare methods"
            if correlation < recorded.TRUSTED
            else ""
        )
    )
    spreads = [np.sqrt(np.mean(other.deviations**2)) for other in world.repeated]
    print(
        f"noise of seeds: as in {len(spreads)} configurations, {min(spreads):.1%} to "
        f"{max(spreads):.1%}, median {np.median(spreads):.1%}"
        if spreads
        else "noise of seeds: none, for no configuration was run with two"
    )
    begun = time.perf_counter()
    ended: Counter[str] = Counter()
    least: dict[int, float] = {}
    complete: list[int] = []
    n_epochs, at_s = 0, 0.0
    for epoch in run(searcher, stopping, world, trials=trials, epochs=epochs, workers=workers):
        n_epochs, at_s = n_epochs + 1, epoch.at_s
        if epoch.error is not None:
            least[epoch.number] = min(epoch.error, least.get(epoch.number, epoch.error))
        if epoch.state != RUNNING:
            ended[epoch.state] += 1
        if epoch.state == COMPLETE:
            complete.append(epoch.number)
    print(f"{summary(ended)}; {n_epochs:,} epochs")
    if complete:
        best = min(complete, key=lambda number: (least[number], number))
        print(f"best: {least[best]:.5f} (trial {best})")
    print(
        f"{at_s / 3600:.2f} simulated hours on {workers} workers, "
        f"computed in {time.perf_counter() - begun:.1f} s"
    )
