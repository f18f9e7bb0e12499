"""Make the proposer and the early-stopping rule that a plan asks for."""

from __future__ import annotations

from raycae.optimization.early_stopping import StoppingRule, make_rule
from raycae.optimization.frontier import Strata
from raycae.optimization.proposer import Proposer
from raycae.optimization.shared_study import SharedStudy
from raycae.space.space import Space
from raycae.study.plan import Plan


def make_proposer(
    plan: Plan, space: Space, strata: Strata | None, shared: SharedStudy | None
) -> Proposer:
    """Make the proposer that a plan asks for.

    Args:
        plan: What the search was asked to do.
        space: Its search space.
        strata: The latent-size bins of the plan, if it has any.
        shared: The database of all drivers of the study, if there is one.

    Returns:
        A proposer that knows no trials yet.
    """
    return Proposer(
        space,
        plan.sampler,
        plan.seed,
        points=plan.points,
        n_seeds=plan.n_seeds,
        repeats=plan.repeats,
        cost=plan.frontier_cost,
        strata=strata,
        settings=plan.settings,
        shared=shared,
    )


def make_stopping_rule(plan: Plan, strata: Strata | None) -> StoppingRule:
    """Make the early-stopping rule that a plan asks for.

    Args:
        plan: What the search was asked to do.
        strata: The latent-size bins of the plan, if it has any.

    Returns:
        A rule that has seen no trials yet.
    """
    return make_rule(
        plan.scheduler,
        plan.epochs,
        grace=plan.grace,
        factor=plan.factor,
        cost=plan.frontier_cost,
        stratum=(lambda known: strata.of(known["latent_size"])) if strata else None,
        family="arch_hash" if plan.settings > 1 else None,
    )
