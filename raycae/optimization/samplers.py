"""The samplers, and what each of them needs from a space."""

from __future__ import annotations

import itertools
import warnings
from collections import Counter
from collections.abc import Callable, Sequence

import optuna
from optuna.samplers import BaseSampler, RandomSampler, TPESampler
from optuna.study import StudyDirection

from raycae.config import Config
from raycae.errors import InputError
from raycae.model.architecture import build_architecture
from raycae.optimization.frontier import Strata
from raycae.optimization.grid import list_grid
from raycae.space.space import Space

TRIES = 1000
"""So many proposals in a row may be infeasible before a space counts as impossible."""
GRID_TRIES = 100_000
"""The same for a grid, which is walked in order and may have long stretches that are refused."""
PATIENCE = 50
"""So many of the sampler's own proposals are refused before random ones are drawn instead."""


def make_tpe_sampler(seed: int) -> BaseSampler:
    # group: conditional parameters are modelled jointly, not dropped to independent sampling. No
    # constant liar: a trial that runs is seen by its epochs, and what was proposed is not again.
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        return TPESampler(seed=seed, multivariate=True, group=True)


SAMPLERS: dict[str, Callable[[int], BaseSampler]] = {
    "tpe": make_tpe_sampler,
    "strata": make_tpe_sampler,
    "random": lambda seed: RandomSampler(seed),
    # Of these proposals are laid down; nothing is left to draw.
    "grid": lambda seed: RandomSampler(seed),
    "points": lambda seed: RandomSampler(seed),
    "greedy": lambda seed: RandomSampler(seed),
}
REPEATS = ("refuse", "seed")


def get_directions(cost: str | None) -> list[StudyDirection]:
    """The error is to be small, and the cost where one counts."""
    return [StudyDirection.MINIMIZE] * (2 if cost else 1)


def choose_sampler(space: Space, cost: str | None = None) -> str:
    """Who proposes if nobody says; `cost`: what counts beside the error."""
    if space.parameters:
        return "strata" if cost == "latent_size" else "tpe"
    return "greedy" if space.file.series else "points"


def require_possible(space: Space, sampler: str, trials: int, seed: int = 0) -> None:
    """Refuse a search that could not begin or would run out of configurations.

    Raises:
        InputError: The sampler needs more than the named points (`greedy`: its start), and no
            random configuration meets the constraints; or there is nothing to try.
    """
    if sampler == "points" and not space.points:
        raise InputError(f"--sampler points: {space.name} names no points")
    if (1 if sampler == "greedy" else trials) > len(space.points):
        draw_possible(space, seed)
        if sampler == "grid":
            require_early_in_grid(space)


def find_reachable_strata(space: Space, bounds: Sequence[int], seed: int = 0) -> list[int]:
    """Of the strata up to each of `bounds`, those that a named point or one of `5 * TRIES` random
    configurations lies in."""
    strata = Strata(bounds, [0.0] * len(bounds))
    study = optuna.create_study(sampler=RandomSampler(seed))
    drawn_at_random = (space.draw(study.ask()) for _ in range(5 * TRIES))
    found: set[int | None] = set()
    for config in itertools.chain(space.points.values(), drawn_at_random):
        if space.check(config) is None:
            found.add(strata.of(build_architecture(config).latent_size))
        if len(found - {None}) == len(bounds):
            break
    return [bound for place, bound in enumerate(bounds) if place in found]


def draw_possible(space: Space, seed: int) -> Config:
    """A random configuration that meets the constraints. Raises `InputError`."""
    study = optuna.create_study(sampler=RandomSampler(seed))
    refused = []
    for _ in range(TRIES):
        config = space.draw(study.ask())
        refusal = space.check(config)
        if refusal is None:
            return config
        refused.append(refusal)
    raise InputError(explain_impossible(space, refused))


def explain_impossible(space: Space, refused: list[str]) -> str:
    common = Counter(reason.split()[0] for reason in refused).most_common(1)[0][0]
    met = sorted({reason for reason in refused if reason.startswith(common)})
    examples = "; ".join(dict.fromkeys((met[0], met[-1])))
    return (
        f"{space.name}: constraints: none of {len(refused):,} proposals meets them "
        f"(e.g. {examples}); widen the constraint or the parameters"
    )


def require_early_in_grid(space: Space) -> None:
    """Raise `InputError` if the grid's first `GRID_TRIES` combinations are all refused: the search
    would give up there."""
    refused = []
    for _, config in itertools.islice(list_grid(space), GRID_TRIES):
        if (refusal := space.check(config)) is None:
            return
        refused.append(refusal)
    raise InputError(explain_impossible(space, refused))
