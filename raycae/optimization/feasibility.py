"""Checks that a search space has configurations which meet its constraints."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Sequence

import numpy as np

from raycae.config import Config
from raycae.errors import InputError
from raycae.model.architecture import build_architecture
from raycae.optimization.frontier import USUAL_STRATA, Strata
from raycae.optimization.grid import MAX_GRID_REFUSALS, list_grid
from raycae.optimization.random_trial import RandomTrial
from raycae.optimization.sampler import TRIES
from raycae.space.space import Space


def require_possible(space: Space, sampler: str, trials: int, seed: int = 0) -> None:
    """Refuse a search that could not begin or would run out of configurations.

    Args:
        space: The search space.
        sampler: Name of the sampler.
        trials: Number of trials.
        seed: Random seed of the configurations that are drawn for this check.

    Raises:
        InputError: There is nothing to try, or more is needed than the named points (`greedy`: a
            configuration to start from) and no random configuration meets the constraints.
    """
    if sampler == "points" and not space.points:
        raise InputError(f"--sampler points: the space {space.name} has no named points")
    if (1 if sampler == "greedy" else trials) > len(space.points):
        draw_possible(space, seed)
        if sampler == "grid":
            require_early_in_grid(space)


def find_reachable_strata(space: Space, bounds: Sequence[int], seed: int = 0) -> list[int]:
    """Find the latent-size bins that contain a named point or a random configuration.

    Args:
        space: The search space.
        bounds: Upper bounds of the bins, ascending.
        seed: Random seed of the configurations, of which `5 * TRIES` are drawn at most.

    Returns:
        The upper bounds of the bins that were reached, ascending.
    """
    strata = Strata(bounds, [0.0] * len(bounds))
    random = np.random.RandomState(seed)
    drawn = (space.draw(RandomTrial(random)) for _ in range(5 * TRIES))
    found: set[int | None] = set()
    allowed = space.file.constraints.latent_size
    # No configuration is drawn in search of a bin that the constraint excludes. That took 4.4 s of
    # CPU for the space `demo`, which excludes the highest one of the usual bins.
    possible = {
        index
        for index, (below, bound) in enumerate(itertools.pairwise([0, *bounds]))
        if (allowed.max is None or below < allowed.max)
        and (allowed.min is None or allowed.min <= bound)
    }
    for config in itertools.chain(space.points.values(), drawn):
        if found >= possible:
            break
        if space.check(config) is None:
            found.add(strata.of(build_architecture(config).latent_size))
    return [bound for index, bound in enumerate(bounds) if index in found]


def choose_strata(space: Space, wanted: list[int] | None) -> list[int]:
    """Choose the latent-size bins of the sampler `strata`.

    Args:
        space: The space of the search.
        wanted: The option `--strata`.

    Returns:
        The upper bounds that are asked for, or those of the usual ones that the space reaches.

    Raises:
        InputError: A bin has no network of the space.
    """
    bounds = wanted or list(USUAL_STRATA)
    reachable = find_reachable_strata(space, bounds)
    if reachable and wanted is None:
        return reachable
    for below, bound in itertools.pairwise([0, *bounds]):
        if bound not in reachable:
            raise InputError(
                f"--strata {bound}: no network of {space.name} was found with a latent size from "
                f"{below + 1:,} to {bound:,}."
            )
    return reachable


def draw_possible(space: Space, seed: int) -> Config:
    """Draw a random configuration that meets the constraints.

    Args:
        space: The search space.
        seed: Random seed.

    Returns:
        The first of at most `TRIES` configurations that meets the constraints.

    Raises:
        InputError: None of them does.
    """
    random = np.random.RandomState(seed)
    refused = []
    for _ in range(TRIES):
        config = space.draw(RandomTrial(random))
        refusal = space.check(config)
        if refusal is None:
            return config
        refused.append(refusal)
    raise InputError(explain_impossible(space, refused))


def explain_impossible(space: Space, refused: Sequence[str]) -> str:
    """Format the error for a space whose constraints no configuration met.

    Args:
        space: The search space.
        refused: The reasons why configurations were refused.

    Returns:
        The message, with two examples of the most common reason.
    """
    common = Counter(reason.split()[0] for reason in refused).most_common(1)[0][0]
    reasons = sorted({reason for reason in refused if reason.startswith(common)})
    examples = "; ".join(dict.fromkeys((reasons[0], reasons[-1])))
    return (
        f"{space.name}: constraints: none of {len(refused):,} proposals meets them "
        f"(e.g. {examples}); widen the constraint or the parameters"
    )


def require_early_in_grid(space: Space) -> None:
    """Require that the beginning of a grid has a combination that meets the constraints.

    Args:
        space: The search space.

    Raises:
        InputError: The first `MAX_GRID_REFUSALS` combinations all break a constraint, so the
            search would stop there.
    """
    refused = []
    for _, config in itertools.islice(list_grid(space), MAX_GRID_REFUSALS):
        if (refusal := space.check(config)) is None:
            return
        refused.append(refusal)
    raise InputError(explain_impossible(space, refused))
