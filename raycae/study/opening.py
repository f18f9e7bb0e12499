"""Open a study together with other drivers in one database."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from raycae.errors import InputError
from raycae.optimization.samplers import get_directions
from raycae.optimization.shared_study import SharedStudy
from raycae.study.plan import Plan


def join_shared_study(database: str, content: Mapping[str, Any], plan: Plan) -> SharedStudy:
    """The study as all its searches see it. Raises `InputError`."""
    cost = plan.cost if plan.objective == "frontier" else None
    facts = {
        "space": content["space"]["hash"],
        "images": content["data"]["fingerprint"],
        "epochs": plan.epochs,
        "cost": cost,
    }
    # The moment it was begun, to the microsecond, tells one search from another.
    driver = content["created_at"]
    told = get_directions(None if plan.strata else cost)  # within a stratum the error alone counts
    shared = SharedStudy(database, plan.study, driver, told, facts)
    if shared.others and plan.sampler == "greedy":
        raise InputError(
            f"--sampler greedy: another search does {plan.study} in that database, and a series is "
            "one search's; give this one another name with --study NAME"
        )
    return shared
