"""Train all trials of a study with Ray Tune."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from raycae import data as sources
from raycae.errors import StorageError
from raycae.execution.ray_patches import apply_ray_patches
from raycae.execution.resources import TrialSlots
from raycae.study.study import Study

if TYPE_CHECKING:
    from raycae.execution.progress import Progress
    from raycae.execution.tune_adapter import SearchState, StudySearcher

MAX_CONCURRENT = 1_000_000
"""More pending trials than a search ever has. The searcher limits how many there are."""


def train_trials(
    study: Study,
    images: sources.Images,
    test: sources.Pixels | None,
    room: TrialSlots,
    fuse: int | None,
    over: Callable[[], bool],
    progress: Progress,
    is_local: bool = False,
) -> None:
    """Train all trials of a study on Ray.

    Args:
        study: The study, open for writing.
        images: Its images.
        test: Test images, uint8 (N, H, W, 3), if their error is recorded for every epoch.
        room: How many trials may run at a time, and what each of them needs.
        fuse: Most trials in a fused group; None for as many as pay off.
        over: Returns whether a person or a deadline ends the search.
        progress: The live view.
        is_local: Whether all workers are on this machine, where they can map cached images.

    Raises:
        StorageError: Results can no longer be written.
        InputError: The database of a shared study can no longer be used.
    """
    from ray import tune

    from raycae.execution.trainable import AutoencoderTrainable
    from raycae.execution.tune_adapter import SearchState, StudySearcher

    # Workers of this machine map cached images. Otherwise Ray's object store takes a copy.
    whole = images if is_local else replace(images, file=None)
    train, val, shared_test = whole.share()
    settings = {
        "epochs": study.plan.epochs,
        "first_images": study.plan.first_images,
        "threads": room.cpus,
        "gpus": room.gpus,
        "folder": str(study.folder),
        "fuse": fuse,
    }
    apply_ray_patches()  # The caller may have connected to Ray by other means than `connect_ray`.
    # On a CPU fusing pays off only for some networks and at some times (analysis/FINDINGS.md).
    # Besides, a search there is repeatable bit by bit; a decision that depends on the clock is not.
    max_fused = fuse or (study.plan.settings if room.gpus else 1)
    trainable = tune.with_resources(
        tune.with_parameters(
            AutoencoderTrainable,
            train=train,
            val=val,
            test=None if test is None else shared_test,
            labels=images.labels,
        ),
        {"cpu": room.cpus, "gpu": room.gpus},
    )
    state = SearchState(study, over, progress)
    run_tune(trainable, state, StudySearcher(state, settings, room.count_available, max_fused))
    if isinstance(state.fault, StorageError):
        study.broken = True
    if state.fault:
        study.mark_interrupted()
        raise state.fault


def run_tune(trainable: Any, state: SearchState, searcher: StudySearcher) -> None:
    """Run Ray Tune until the search is over.

    Args:
        trainable: The trainable, with its resources and images.
        state: The state of the search.
        searcher: Gives the attempts.
    """
    from ray import tune

    from raycae.execution.tune_adapter import StudyCallback, StudyStopper

    # By default Tune starts one actor at a time and gives all short trials to the first one. So it
    # may start as many as the searcher allows. The searcher allows only as many as can run, so that
    # each proposal knows every trial that has ended.
    os.environ["TUNE_MAX_PENDING_TRIALS_PG"] = str(MAX_CONCURRENT)
    with tempfile.TemporaryDirectory(prefix="raycae-tune-") as scratch:
        tune.Tuner(
            trainable,
            tune_config=tune.TuneConfig(
                search_alg=searcher,
                num_samples=-1,
                reuse_actors=True,
                trial_name_creator=name_attempt,
                trial_dirname_creator=name_attempt,
            ),
            run_config=tune.RunConfig(
                name="tune",
                storage_path=scratch,
                stop=StudyStopper(state, searcher.continue_worker),
                callbacks=[StudyCallback(state)],
                failure_config=tune.FailureConfig(max_failures=0),  # The study counts attempts.
                checkpoint_config=tune.CheckpointConfig(checkpoint_at_end=False),
                progress_reporter=tune.CLIReporter(),  # A notebook's one would clear the cell.
                verbose=0,
            ),
        ).fit()


def name_attempt(trial: Any) -> str:
    """Name a trial of Tune after its first attempt."""
    first = trial.config["attempts"][0]
    return f"{first.number}-{first.attempt}"
