"""Model and checkpoint files of a study: where they are, which are kept, which are deleted."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from raycae.storage.files import checksum, make_folder, quarantine, remove_tree, write_atomic
from raycae.storage.paths import Place

if TYPE_CHECKING:
    from raycae.study.records import Records

BestModel = tuple[int, int, str]
"""Epoch, attempt and checksum of the best model of a trial."""


def get_model_folder(study: Place, number: int) -> Place:
    """Return the folder of the best epoch's model of a kept trial.

    Args:
        study: Folder of the study.
        number: Number of the trial.
    """
    return study / "models" / str(number)


def get_checkpoint_folder(study: Place, number: int) -> Place:
    """Return the folder of the files that a running trial needs to resume.

    For an epoch and the attempt that ran it there is `EPOCH-ATTEMPT.pt`, and, if the epoch was the
    best so far, `EPOCH-ATTEMPT.safetensors`. No attempt writes a file of another one.

    Args:
        study: Folder of the study.
        number: Number of the trial.
    """
    return study / "checkpoints" / str(number)


def write_model(folder: Place, weights: bytes, config: Mapping[str, Any], **facts: Any) -> None:
    """Write `model.safetensors` and then `config.json`, which `weights.load_model` reads.

    Args:
        folder: Folder of the model.
        weights: Content of the weights' file.
        config: Configuration of the trial.
        facts: Further entries of `config.json`, which also holds the checksum of the weights.
    """
    folder.mkdir(parents=True, exist_ok=True)
    write_atomic(folder / "model.safetensors", weights)
    content = {"config": config, **facts, "weights": checksum(weights)}
    write_atomic(folder / "config.json", json.dumps(content, indent=1).encode())


def has_model(folder: Place) -> bool:
    """Return whether a folder has a complete model: `config.json` is written last.

    Args:
        folder: Folder of the model.
    """
    return (folder / "config.json").is_file()


class ArtifactStore:
    """The models and checkpoints in the folder of a study that this process writes.

    Args:
        folder: Folder of the study.
        records: The study's records, which say which models are kept.
        notes: Receives one sentence for each model that is lost.
    """

    def __init__(self, folder: Place, records: Records, notes: list[str]) -> None:
        self.folder = folder
        self._records = records
        self._notes = notes
        self._stored: set[int] = set()
        """The trials that have a folder in `models`."""

    def get_best_model(self, number: int) -> BestModel | None:
        """Find the best epoch's model of a running trial.

        Args:
            number: Number of the trial.

        Returns:
            Its epoch, attempt and checksum, or None if none was written.
        """
        best = self._records.epochs[number].get(self._records.trials[number]["best_epoch"])
        return (best["epoch"], best["attempt"], best["model"]) if best and best["model"] else None

    def delete_old_files(self, number: int, best_before: BestModel | None) -> None:
        """Delete what a running trial no longer needs, after the ledger has its newest epoch.

        Two checkpoints are kept, because one may be damaged, and the best model.

        Args:
            number: Number of the trial.
            best_before: Its best model before the newest epoch.
        """
        folder = get_checkpoint_folder(self.folder, number)
        curve = self._records.epochs[number]
        for epoch in sorted(curve)[:-2][-1:]:
            (folder / f"{epoch}-{curve[epoch]['attempt']}.pt").unlink(missing_ok=True)
        if best_before and best_before != self.get_best_model(number):
            epoch, attempt, _ = best_before
            (folder / f"{epoch}-{attempt}.safetensors").unlink(missing_ok=True)

    def finish_trial(self, number: int) -> None:
        """Store the model of a trial that has ended if it is kept, and delete its checkpoints.

        Models that fall out of the selection, because this one is better, are deleted.

        Args:
            number: Number of the trial.
        """
        kept = self._records.kept
        if number in kept:
            self._store_model(number)
        for dropped in self._stored - kept:
            remove_tree(get_model_folder(self.folder, dropped))
        self._stored &= kept
        remove_tree(get_checkpoint_folder(self.folder, number))

    def remove_stale_files(self) -> None:
        """Finish the work of the last process: keep models and remove files no longer needed."""
        kept, running = self._records.kept, set(self._records.running())
        self._stored = list_trial_folders(self.folder / "models")
        checkpoints = list_trial_folders(self.folder / "checkpoints")
        found = set(self._stored)
        for number in kept & checkpoints:
            if not has_model(get_model_folder(self.folder, number)):
                self._store_model(number)
        for number in found - kept - running:
            remove_tree(get_model_folder(self.folder, number))
        self._stored &= kept
        for number in checkpoints - running:
            remove_tree(get_checkpoint_folder(self.folder, number))
        for folder in (self.folder, self.folder / "ledger"):
            if isinstance(folder, Path):
                for path in folder.glob(".*.????????"):
                    path.unlink(missing_ok=True)  # A writer died before it renamed this file.

    def _store_model(self, number: int) -> None:
        """Copy the best epoch's model from the checkpoints to `models`."""
        row = self._records.trials[number]
        best = self.get_best_model(number)
        if best is None:
            return  # The trial was recovered from tables, which do not know its model.
        epoch, attempt, expected = best
        source = get_checkpoint_folder(self.folder, number) / f"{epoch}-{attempt}.safetensors"
        try:
            weights = source.read_bytes()
        except OSError as error:
            self._notes.append(f"{source}: {error.strerror or error}; this model is lost")
            return
        if checksum(weights) != expected:
            self._notes.append(f"{quarantine(source)}: damaged; this model is lost")
            return
        make_folder(get_model_folder(self.folder, number), within=self.folder)
        write_model(
            get_model_folder(self.folder, number),
            weights,
            json.loads(row["config"]),
            trial_number=number,
            epoch=epoch,
            val_mse=row["val_mse"],
        )
        self._stored.add(number)


def list_trial_folders(folder: Place) -> set[int]:
    """List the trials that have a folder in `models` or `checkpoints`."""
    if not folder.exists():
        return set()
    return {int(path.name) for path in folder.iterdir() if path.name.isdigit()}
