"""Train all trials of a study with Ray Tune."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from raycae import data as sources
from raycae.errors import StorageError
from raycae.execution.resources import TrialSlots
from raycae.study.study import Study

if TYPE_CHECKING:
    import numpy as np

    from raycae.execution.progress import Progress

MAX_CONCURRENT = 1_000_000


def train_trials(
    study: Study,
    images: sources.Images,
    test: np.ndarray | None,
    room: TrialSlots,
    fuse: int | None,
    over: Callable[[], bool],
    progress: Progress,
) -> None:
    """All trials, on Ray. Raises `StorageError` where results can no longer be written."""
    from ray import tune

    from raycae.execution.trainable import AutoencoderTrainable
    from raycae.execution.tune_adapter import (
        SearchState,
        StudyCallback,
        StudySearcher,
        StudyStopper,
    )

    settings = {
        "epochs": study.plan.epochs,
        "first_images": study.plan.first_images,
        "threads": room.cpus,
        "folder": str(study.folder),
        "fuse": fuse,
    }
    # On a CPU it pays for some networks, at some moments (analysis/FINDINGS.md), and a search there
    # is repeatable to the bit, which what is decided by a clock is not.
    most = fuse or (study.plan.settings if room.gpus else 1)
    trainable = tune.with_resources(
        tune.with_parameters(
            AutoencoderTrainable,
            train=images.train,
            val=images.val,
            test=test,
            labels=images.labels,
        ),
        {"cpu": room.cpus, "gpu": room.gpus},
    )
    # Tune would ask for one actor at a time and hand trials that end quickly to the first one for
    # ever; so it asks for all that the searcher gives: no more than run at a time, so that each
    # proposal knows of every trial that has ended.
    os.environ["TUNE_MAX_PENDING_TRIALS_PG"] = str(MAX_CONCURRENT)
    run = SearchState(study, over, progress)
    with tempfile.TemporaryDirectory(prefix="raycae-tune-") as scratch:
        tune.Tuner(
            trainable,
            tune_config=tune.TuneConfig(
                search_alg=StudySearcher(run, settings, room.count_available, most),
                num_samples=-1,
                reuse_actors=True,
                trial_name_creator=name_attempt,
                trial_dirname_creator=name_attempt,
            ),
            run_config=tune.RunConfig(
                name="tune",
                storage_path=scratch,
                stop=StudyStopper(run),
                callbacks=[StudyCallback(run)],
                failure_config=tune.FailureConfig(max_failures=0),  # attempts are the study's
                checkpoint_config=tune.CheckpointConfig(checkpoint_at_end=False),  # ours
                progress_reporter=tune.CLIReporter(),  # a notebook's would clear the cell
                verbose=0,
            ),
        ).fit()
    if isinstance(run.fault, StorageError):
        study.broken = True
    if run.fault:
        study.interrupted()
        raise run.fault


def name_attempt(trial: Any) -> str:
    first = trial.config["issues"][0]
    return f"{first['number']}-{first['attempt']}"
