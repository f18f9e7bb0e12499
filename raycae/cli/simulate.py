"""`raycae simulate`: search over recorded curves in simulated time."""

from __future__ import annotations

import time
from collections import Counter
from typing import Annotated

import numpy as np
import typer

from raycae.cli.options import ResultsOption
from raycae.errors import InputError
from raycae.execution.search_options import MAX_SEED
from raycae.execution.simulator import simulate_search
from raycae.formatting import make_printable
from raycae.optimization.early_stopping import FACTOR, SCHEDULERS, make_rule
from raycae.optimization.proposer import Proposer
from raycae.optimization.samplers import SAMPLERS
from raycae.study import find
from raycae.study.records import COMPLETE, RUNNING
from raycae.study.summary import format_counts


def run_simulation(
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
    from raycae.execution import (
        recorded_curves,  # scipy takes a while, and no other command needs it
    )

    if sampler == "strata":
        raise InputError("--sampler strata: is after a frontier; simulated is the least error")
    world = recorded_curves.read_curves([find.find_study(name, results_folder) for name in studies])
    if epochs is not None and epochs > world.epochs:
        raise InputError(f"--epochs {epochs}: the curves end after epoch {world.epochs}")
    epochs = epochs or world.epochs
    searcher = Proposer(world.space, sampler, seed)
    stopping = make_rule(scheduler, epochs, grace=grace, factor=factor)
    correlation = world.rank_correlation
    print(
        f"{make_printable(', '.join(studies))}: {len(world.curves)} configurations, "
        f"{world.epochs} epochs; least error {world.least:.5f}\n"
        f"surrogate: rank correlation {correlation:.2f} on held-out configurations"
        + (
            f"; below {recorded_curves.TRUSTED} it is not fit to compare methods"
            if correlation < recorded_curves.TRUSTED
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
    for epoch in simulate_search(
        searcher, stopping, world, trials=trials, epochs=epochs, workers=workers
    ):
        n_epochs, at_s = n_epochs + 1, epoch.at_s
        if epoch.error is not None:
            least[epoch.number] = min(epoch.error, least.get(epoch.number, epoch.error))
        if epoch.state != RUNNING:
            ended[epoch.state] += 1
        if epoch.state == COMPLETE:
            complete.append(epoch.number)
    print(f"{format_counts(ended)}; {n_epochs:,} epochs")
    if complete:
        best = min(complete, key=lambda number: (least[number], number))
        print(f"best: {least[best]:.5f} (trial {best})")
    print(
        f"{at_s / 3600:.2f} simulated hours on {workers} workers, "
        f"computed in {time.perf_counter() - begun:.1f} s"
    )
