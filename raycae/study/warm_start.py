"""Trials of earlier studies, for the sampler of a new one to begin with."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

from optuna.trial import FixedTrial

from raycae.config import Config
from raycae.errors import InputError
from raycae.space.space import Space
from raycae.storage.paths import Place
from raycae.study import find, tables
from raycae.study.plan import load_plan, load_study_space, read_study
from raycae.study.records import COMPLETE

Known = tuple[Config, float]
"""A configuration and its validation error."""


def load_known(
    names: list[str], results_folder: str, space: Space
) -> tuple[list[Known], list[str]]:
    """What the studies called `names` know of `space`, and in words what was taken from each.

    Their tables are enough. A trial is taken where it ran to its end and the space could have
    proposed it. Its error is taken as it stands, whatever the images and the budget, which the
    words name. Raises `InputError` where a study is of another task or image size, or nothing of
    any of them fits.
    """
    found: list[Known] = []
    notes = []
    for name in names:
        folder = find.find_study(name, results_folder)
        content = read_study(folder)
        plan, theirs = load_plan(content), load_study_space(content)
        if (theirs.task, theirs.image_size) != (space.task, space.image_size):
            raise InputError(
                f"--from {name}: {theirs.task} at {theirs.image_size} pixels says nothing of "
                f"{space.task} at {space.image_size}"
            )
        taken, left_out = take_trials(folder, space)
        found += taken
        budget = f"{Path(plan.data).name}, {plan.epochs} epochs"
        others = "".join(f"; {n} {why}" for why, n in left_out.most_common())
        notes.append(f"from {name} ({budget}): {len(taken)} trials known{others}")
    if not found:
        raise InputError(f"--from {','.join(names)}: nothing to learn from; {'; '.join(notes)}")
    return found, notes


def take_trials(folder: Place, space: Space) -> tuple[list[Known], Counter[str]]:
    taken: list[Known] = []
    left_out: Counter[str] = Counter()
    trials = tables.read_trials(folder)
    for state, text, error in zip(
        trials["state"], trials["config"], trials["val_mse"], strict=True
    ):
        config = space.on_grid(Config.model_validate_json(text))
        if state != COMPLETE:
            left_out["not run to their end"] += 1
        elif not is_in_space(space, config):
            left_out["outside this space"] += 1
        else:
            taken.append((config, float(error)))
    return taken, left_out


def is_in_space(space: Space, config: Config) -> bool:
    """Whether a sampler could have drawn it."""
    try:
        again = space.draw(FixedTrial(space.params_of(config)))
    except (InputError, ValueError):  # ValueError: a parameter has no value inside the space.
        return False
    return again == config and space.check(config) is None
