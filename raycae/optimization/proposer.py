"""The proposer: accepts what the samplers suggest, numbers it, and keeps the history.

Ray's own `OptunaSearch` is not used. It reports stopped trials as COMPLETE with their first loss,
leaves diverged trials RUNNING, and fails on a second report. Here the history is in memory and a
function of the ledger: replaying the events gives the same history. What is proposed depends only
on the seed, the trial number and the history.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import optuna
from optuna.distributions import BaseDistribution
from optuna.trial import FrozenTrial, TrialState

from raycae.config import Config
from raycae.errors import InputError
from raycae.formatting import join_words
from raycae.optimization.feasibility import explain_impossible
from raycae.optimization.frontier import Strata
from raycae.optimization.history import NOTHING, History, make_training_identity
from raycae.optimization.sampler import Candidate, Proposal, Sampler, SamplerSetup
from raycae.optimization.samplers import SAMPLERS, PointsSampler
from raycae.space.parameters import Value
from raycae.space.space import Space

if TYPE_CHECKING:
    from raycae.optimization.shared_study import SharedStudy

__all__ = ["Proposal", "Proposer"]


class Proposer:
    """Accepts candidates of a sampler as trials, addressed by raycae's trial numbers.

    The named points of the space come first, as trials 0, 1, …, except with samplers that start
    elsewhere (`Sampler.starts_with_points`). A candidate has to meet the constraints of the space.
    The same network with the same training, however it is written, is proposed only once, or with
    `repeats` "seed" once for each seed. In a shared study, what another driver has claimed is
    skipped.

    Args:
        space: The search space.
        sampler: Name of the sampler, one of `SAMPLERS`.
        seed: Random seed of proposals and weights.
        points: Names of the points to try first; None for all points of the space.
        n_seeds: Number of seeds that each point is run with, from `seed` on.
        repeats: What happens to a configuration that was proposed before: `refuse` or `seed`.
        cost: Column that is minimised besides the error. Within a stratum only the error counts.
        strata: Latent-size bins for the sampler `strata`.
        settings: Number of training settings that each network is tried with.
        shared: The study in a database that several drivers extend, if any.

    Raises:
        InputError: The sampler is unknown, or has nowhere to start.
    """

    def __init__(
        self,
        space: Space,
        sampler: str = "tpe",
        seed: int = 0,
        *,
        points: Sequence[str] | None = None,
        n_seeds: int = 1,
        repeats: str = "refuse",
        cost: str | None = None,
        strata: Strata | None = None,
        settings: int = 1,
        shared: SharedStudy | None = None,
    ) -> None:
        if sampler not in SAMPLERS:
            raise InputError(
                f"--sampler {sampler}: unknown. Use {join_words(list(SAMPLERS), 'or')}."
            )
        self.space = space
        self.seed = seed
        self.repeats = repeats
        self.history = History(None if strata else cost)
        self._has_many_seeds = repeats == "seed" or n_seeds > 1
        names = list(space.points) if points is None else points
        self.setup = SamplerSetup(space, seed, names, n_seeds, strata, settings)
        self.sampler = SAMPLERS[sampler](self.setup)
        self._points = PointsSampler(self.setup) if self.sampler.starts_with_points else None
        self._is_exhausted = False
        self._shared = shared
        self._ended: set[int] = set()

    def propose(self, number: int) -> Proposal | None:
        """Propose what trial `number` runs, and register it as running.

        Args:
            number: Trial number.

        Returns:
            None once everything has been tried, or while a greedy series waits for a result.

        Raises:
            InputError: No candidate meets the constraints of the space.
        """
        if self._points and (proposal := self._accept_first(number, self._points)):
            return proposal
        if self._is_exhausted:
            return None
        return self._accept_first(number, self.sampler)

    def reopen(self, number: int, proposal: Proposal) -> None:
        """Register a trial of the ledger as running.

        Args:
            number: Trial number.
            proposal: What it runs; values with rounding errors, of older versions, are corrected.
        """
        params = {n: self.space.parameters[n].label(v) for n, v in proposal.params.items()}
        config = self.space.on_grid(proposal.config)
        self._register(number, replace(proposal, config=config, params=params))

    def learn(
        self,
        config: Config,
        error: float | None,
        curve: Mapping[int, float] = NOTHING,
    ) -> None:
        """Show a trial of another study or driver to the sampler.

        Args:
            config: Its configuration.
            error: Its validation error; None if it was stopped early.
            curve: Validation error by epoch, for a trial that was stopped early.
        """
        config = self.space.on_grid(config)
        params = self.space.params_of(config)
        self.history.learn(config, params, self._list_distributions(params), error, curve)

    def report(self, number: int, epoch: int, value: float) -> None:
        """Report the error of a running trial after an epoch.

        An epoch that is repeated after a restart, or reported after the end, is ignored.

        Args:
            number: Trial number.
            epoch: Epoch, from 1.
            value: Validation error (MSE).
        """
        if number in self._ended or not self.history.report(number, epoch, value):
            return
        if self._shared:
            self._shared.report(number, epoch, value)

    def tell(
        self, number: int, state: str, value: float | None, known: Mapping[str, Any] = NOTHING
    ) -> None:
        """Report how a trial ended; a second report is ignored.

        Args:
            number: Trial number.
            state: COMPLETE, PRUNED or FAIL.
            value: Its lowest validation error, if it has one.
            known: Other columns of the trial, of which the cost is read.
        """
        if number in self._ended:
            return
        self._ended.add(number)
        for sampler in self._list_samplers():
            sampler.end(number, state, value)
        error = value if state == "COMPLETE" else None
        self.history.end(number, state, error, known)
        if self._shared:
            cost = self.history.cost
            values = None if error is None else [error, *([known[cost]] if cost else [])]
            self._shared.tell(number, state, values)

    def _accept_first(self, number: int, sampler: Sampler) -> Proposal | None:
        """Accept the first candidate of a sampler that may be run, and register it."""
        refused: list[str] = []
        fallback: Proposal | None = None
        for candidate in sampler.sample(number, self.history):
            refusal = self.space.check(candidate.config)
            if refusal is not None:
                refused.append(refusal)
                if len(refused) >= sampler.max_refusals:
                    raise InputError(explain_impossible(self.space, refused))
                continue
            proposal = self._make_proposal(candidate)
            if proposal is None:
                continue
            if candidate.is_fallback:
                fallback = fallback or proposal
            elif self._claim(number, proposal, sampler):
                return self._register(number, proposal)
        if fallback:
            if self._claim(number, fallback, sampler):
                return self._register(number, fallback)
            return self._accept_first(number, sampler)  # Another driver was first.
        if sampler is self.sampler and not sampler.waits_for_results:
            self._is_exhausted = True
        return None

    def _make_proposal(self, candidate: Candidate) -> Proposal | None:
        """Choose the seed of a candidate; None if it was proposed before and is not repeated."""
        seed = candidate.seed
        if seed is None:
            n_runs = self.history.count_runs(candidate.config)
            if self._shared:
                identity = json.dumps(make_training_identity(candidate.config))
                n_runs += self._shared.count_tries(identity)
            if n_runs and self.repeats == "refuse":
                return None
            seed = self.seed + n_runs
        return Proposal(
            candidate.config,
            candidate.params,
            seed,
            candidate.point,
            candidate.change,
            candidate.parent,
        )

    def _claim(self, number: int, proposal: Proposal, sampler: Sampler) -> bool:
        """Claim a proposal for this driver; False if another driver was first."""
        if not self._shared or not sampler.avoids_other_drivers:
            return True
        return self._shared.claim(number, self._make_claim(proposal))

    def _make_claim(self, proposal: Proposal) -> FrozenTrial:
        return optuna.trial.create_trial(
            state=TrialState.RUNNING,
            params=proposal.params,
            distributions=self._list_distributions(proposal.params),
            user_attrs={
                "identity": json.dumps(make_training_identity(proposal.config)),
                "seed": proposal.seed if self._has_many_seeds else None,
                "config": proposal.config.to_json(),
            },
        )

    def _register(self, number: int, proposal: Proposal) -> Proposal:
        """Register a trial as running."""
        for sampler in self._list_samplers():
            sampler.begin(number, proposal)
        if self._shared:
            self._shared.take(number, self._make_claim(proposal))
        distributions = self._list_distributions(proposal.params)
        self.history.begin(number, proposal.config, proposal.params, distributions)
        return proposal

    def _list_samplers(self) -> list[Sampler]:
        return [self._points, self.sampler] if self._points else [self.sampler]

    def _list_distributions(self, params: Mapping[str, Value]) -> dict[str, BaseDistribution]:
        return {name: self.space.parameters[name].distribution for name in params}
