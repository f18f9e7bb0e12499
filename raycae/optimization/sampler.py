"""The interface of samplers: what each of them gets, and the one method that it has to have."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import ClassVar

from raycae.config import Config
from raycae.optimization.frontier import Strata
from raycae.optimization.history import History
from raycae.space.parameters import Value
from raycae.space.space import Space

TRIES = 1000
"""Number of random configurations that are drawn before a space counts as impossible or as
exhausted."""


@dataclass(frozen=True)
class Proposal:
    """A configuration to try.

    Attributes:
        config: The resolved configuration.
        params: Values of the parameters drawn for it.
        seed: Random seed of the weights and minibatches.
        point: Name of the point of the space, if it is one.
        change: In a greedy series, the change made to the trial `parent`.
        parent: In a greedy series, the number of the trial that is changed.
    """

    config: Config
    params: dict[str, Value]
    seed: int
    point: str | None = None
    change: str | None = None
    parent: int | None = None


@dataclass(frozen=True)
class Candidate:
    """A configuration that a sampler suggests; the proposer accepts it or takes the next one.

    Attributes:
        config: The resolved configuration.
        params: Values of its parameters.
        seed: The seed to run it with. None: the proposer chooses one, and refuses a configuration
            that was proposed before.
        point: As in `Proposal`.
        change: As in `Proposal`.
        parent: As in `Proposal`.
        is_fallback: Accept it only if no other candidate for this trial is accepted.
    """

    config: Config
    params: dict[str, Value]
    seed: int | None = None
    point: str | None = None
    change: str | None = None
    parent: int | None = None
    is_fallback: bool = False


@dataclass(frozen=True)
class SamplerSetup:
    """What samplers are made from; each takes what it needs.

    Attributes:
        space: The search space.
        seed: Random seed of the search.
        points: Names of the points of the space that are tried first, in this order.
        n_seeds: Number of seeds that each point is run with, from `seed` on.
        strata: Latent-size bins that share the trials among them, if any.
        settings: Number of training settings that each network is tried with.
    """

    space: Space
    seed: int = 0
    points: Sequence[str] = ()
    n_seeds: int = 1
    strata: Strata | None = None
    settings: int = 1


class Sampler(ABC):
    """Suggests configurations for one trial after the other.

    A sampler is a function of its setup and the history: the same ledger gives the same
    proposals. It does not check constraints or repetitions; the `Proposer` does.
    """

    starts_with_points: ClassVar[bool] = True
    """The named points of the space are tried before this sampler is asked."""
    waits_for_results: ClassVar[bool] = False
    """It may suggest nothing now and something once a running trial has ended."""
    avoids_other_drivers: ClassVar[bool] = True
    """In a shared study, skip what another driver tries already."""
    max_refusals: int = TRIES
    """Number of candidates for one trial that may break the constraints; then the search stops
    with an error."""

    def __init__(self, setup: SamplerSetup) -> None:
        self.setup = setup
        self.space = setup.space

    @abstractmethod
    def sample(self, number: int, history: History) -> Iterator[Candidate]:
        """Yield candidates for a trial, best first, until the proposer accepts one.

        Args:
            number: Trial number.
            history: The trials so far.

        Yields:
            Candidates; none if there is nothing to try.
        """

    def begin(self, number: int, proposal: Proposal) -> None:  # noqa: B027 - most need no hook
        """Note that a trial begins, from whichever sampler it is, or that the ledger has it.

        Args:
            number: Trial number.
            proposal: What the trial runs.
        """

    def end(self, number: int, state: str, error: float | None) -> None:  # noqa: B027
        """Note that a trial has ended.

        Args:
            number: Trial number.
            state: COMPLETE, PRUNED or FAIL.
            error: Its lowest validation error, if it has one.
        """
