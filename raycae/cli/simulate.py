"""`raycae simulate`: search over recorded curves in simulated time."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterable
from typing import TYPE_CHECKING, Annotated

import numpy as np
import typer

from raycae.cli.options import ResultsOption
from raycae.errors import InputError
from raycae.execution.search_options import MAX_SEED
from raycae.execution.simulator import Epoch, simulate_search
from raycae.formatting import format_count, make_printable
from raycae.optimization.early_stopping import FACTOR, SCHEDULERS, choose_grace, make_rule
from raycae.optimization.proposer import Proposer
from raycae.optimization.samplers import SAMPLERS
from raycae.study import find
from raycae.study.records import COMPLETE, RUNNING
from raycae.study.summary import format_counts

if TYPE_CHECKING:
    from raycae.execution.recorded_curves import Recorded


def run_simulation(
    studies: Annotated[
        list[str],
        typer.Argument(
            metavar="STUDY...",
            help="Studies with complete trials of at least 20 configurations, all studies "
            "together. Their curves are combined, including repeats with other seeds.",
        ),
    ],
    results_folder: ResultsOption = "results",
    sampler: Annotated[
        str,
        typer.Option(
            metavar="NAME", help=f"{', '.join(name for name in SAMPLERS if name != 'strata')}."
        ),
    ] = "tpe",
    scheduler: Annotated[
        str, typer.Option(metavar="NAME", help=f"Early stopping: {', '.join(SCHEDULERS)}.")
    ] = "asha",
    trials: Annotated[int, typer.Option(min=1, metavar="N", help="Number of trials.")] = 100,
    epochs: Annotated[
        int | None,
        typer.Option(min=1, metavar="E", help="Epochs per trial.", show_default="the study's"),
    ] = None,
    workers: Annotated[int, typer.Option(min=1, metavar="W", help="Trials at a time.")] = 2,
    grace: Annotated[
        int | None,
        typer.Option(
            min=1,
            metavar="E",
            help="Do not stop a trial before epoch E.",
            show_default="a twelfth of the epochs, at least 1",
        ),
    ] = None,
    factor: Annotated[
        int,
        typer.Option(
            min=2, metavar="F", help="At each early-stopping check, keep the best 1 in F trials."
        ),
    ] = FACTOR,
    seed: Annotated[int, typer.Option(min=0, max=MAX_SEED, metavar="S", help="Random seed.")] = 0,
) -> None:
    """Simulate a search on recorded curves; nothing is trained.

    Configurations that were run use their recorded curves. For others, a surrogate model predicts
    the curve. If a configuration was run with several seeds, the spread between seeds is added as
    noise.

    Example: raycae simulate ex2 --sampler tpe --scheduler asha --trials 300 --workers 8
    """
    from raycae.execution import recorded_curves  # It imports SciPy, which takes a while.

    if sampler == "strata":
        raise InputError(
            "--sampler strata searches for a Pareto front, which cannot be simulated. Use another "
            "sampler."
        )
    folders = [find.find_study(name, results_folder) for name in studies]
    recorded = recorded_curves.read_curves(folders)
    if epochs is not None and epochs > recorded.epochs:
        raise InputError(f"--epochs {epochs}: the curves end after epoch {recorded.epochs}.")
    epochs = epochs or recorded.epochs
    proposer = Proposer(recorded.space, sampler, seed)
    rule = make_rule(scheduler, epochs, grace=grace or choose_grace(epochs), factor=factor)
    print_recorded_curves(studies, recorded)
    started_s = time.perf_counter()
    ended = simulate_search(proposer, rule, recorded, trials=trials, epochs=epochs, workers=workers)
    simulated_s = print_simulated_trials(ended)
    print(
        f"{simulated_s / 3600:.2f} simulated hours on {workers} workers, "
        f"computed in {time.perf_counter() - started_s:.1f} s"
    )


def print_recorded_curves(studies: list[str], recorded: Recorded) -> None:
    """Print what a simulation can know: the recorded curves, the surrogate, the noise of seeds.

    Args:
        studies: The studies as they were typed.
        recorded: Their curves.
    """
    from raycae.execution.recorded_curves import TRUSTED

    correlation = recorded.rank_correlation
    caution = (
        f"; a rank correlation below {TRUSTED} is too low to compare methods with this surrogate"
        if correlation < TRUSTED
        else ""
    )
    print(
        f"{make_printable(', '.join(studies))}: {len(recorded.curves)} configurations, "
        f"{recorded.epochs} epochs; lowest error {recorded.least:.5f}\n"
        f"surrogate: rank correlation {correlation:.2f} on held-out configurations{caution}"
    )
    spreads = [np.sqrt(np.mean(repeated.deviations**2)) for repeated in recorded.repeated]
    print(
        f"seed noise: {min(spreads):.1%} to {max(spreads):.1%} (median {np.median(spreads):.1%}), "
        f"measured on {format_count(len(spreads), 'configuration')} with several seeds"
        if spreads
        else "seed noise: unknown, because no configuration was run with two seeds"
    )


def print_simulated_trials(ended: Iterable[Epoch]) -> float:
    """Run a simulated search and print how its trials ended, and the best of them.

    Args:
        ended: The epochs of the search, in the order in which they end.

    Returns:
        When the last epoch ended, in simulated seconds.
    """
    states: Counter[str] = Counter()
    least: dict[int, float] = {}
    complete: list[int] = []
    n_epochs, simulated_s = 0, 0.0
    for epoch in ended:
        n_epochs, simulated_s = n_epochs + 1, epoch.at_s
        if epoch.error is not None:
            least[epoch.number] = min(epoch.error, least.get(epoch.number, epoch.error))
        if epoch.state != RUNNING:
            states[epoch.state] += 1
        if epoch.state == COMPLETE:
            complete.append(epoch.number)
    print(f"{format_counts(states)}; {n_epochs:,} epochs")
    if complete:
        best = min(complete, key=lambda number: (least[number], number))
        print(f"best: {least[best]:.5f} (trial {best})")
    return simulated_s
