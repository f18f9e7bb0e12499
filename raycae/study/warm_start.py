"""Take trials of earlier studies over, for the sampler of a new study."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

from raycae.config import Config
from raycae.errors import InputError
from raycae.formatting import format_count
from raycae.optimization.greedy import HeldAnswers
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
    """Load the trials of earlier studies that a search space could have proposed.

    A trial is taken if it is COMPLETE. Its error is taken as it is, whatever the images and the
    budget were; the notes name them. Only the tables of the studies are read.

    Args:
        names: The studies, as in `find_study`.
        results_folder: Folder or URI of all studies.
        space: The search space of the new study.

    Returns:
        The trials, and one sentence for each study on what was taken from it.

    Raises:
        InputError: A study has another task or image size, or no trial of any study fits.
    """
    known: list[Known] = []
    notes = []
    for name in names:
        folder = find.find_study(name, results_folder)
        content = read_study(folder)
        plan, other = load_plan(content), load_study_space(content)
        if (other.task, other.image_size) != (space.task, space.image_size):
            raise InputError(
                f"--from {name}: {other.task} at {other.image_size} pixels cannot be used for "
                f"{space.task} at {space.image_size}"
            )
        taken, left_out = take_trials(folder, space)
        known += taken
        budget = f"{Path(plan.data).name}, {plan.epochs} epochs"
        rest = ", ".join(f"{n} {reason}" for reason, n in left_out.most_common())
        used = f"from {name} ({budget}): {format_count(len(taken), 'trial')} used"
        notes.append(f"{used}; left out: {rest}" if rest else used)
    if not known:
        raise InputError(f"--from {','.join(names)}: nothing to learn from; {'; '.join(notes)}")
    return known, notes


def take_trials(folder: Place, space: Space) -> tuple[list[Known], Counter[str]]:
    """Take the trials of one study that a search space could have proposed.

    Args:
        folder: Folder of the study.
        space: The search space.

    Returns:
        The trials, and how many were left out by reason.
    """
    taken: list[Known] = []
    left_out: Counter[str] = Counter()
    path, trials = folder / "trials.parquet", tables.read_trials(folder, configs=False)
    columns = ["trial_number", "state", "config", "val_mse"]
    for number, state, text, error in trials[columns].itertuples(index=False):
        if state != COMPLETE:
            left_out["incomplete"] += 1
            continue
        config = space.on_grid(tables.check_config(path, number, text)[0])
        if not is_in_space(space, config):
            left_out["outside this space"] += 1
        else:
            taken.append((config, float(error)))
    return taken, left_out


def is_in_space(space: Space, config: Config) -> bool:
    """Return whether a sampler could draw a configuration from a search space.

    Args:
        space: The search space.
        config: The configuration.

    Returns:
        True if drawing its parameters again gives the same, feasible configuration.
    """
    try:
        redrawn = space.draw(HeldAnswers(space, space.params_of(config)))
    except InputError:
        return False
    return redrawn == config and space.check(config) is None
