"""Attempts at trials as a Ray Tune trainable: one at a time, or a cohort; an actor trains many."""

from __future__ import annotations

import re
import socket
import time
import traceback
from typing import Any

import numpy as np
import ray
import torch
from ray import tune

from raycae.config import Config
from raycae.data import Labels
from raycae.errors import StorageError
from raycae.model.weights import encode_weights
from raycae.storage.files import checksum, make_folder, write_atomic
from raycae.storage.paths import resolve_place
from raycae.study.artifacts import get_checkpoint_folder
from raycae.training.device import configure_torch, put_on_device
from raycae.training.fused import FusedTrainings
from raycae.training.fusion_size import choose_fusion_size, get_available_bytes
from raycae.training.trainer import Diverged, Training

NO_MEMORY = re.compile("not enough memory|can't allocate memory")
"""What torch's CPU allocator says, in a plain RuntimeError."""


class AutoencoderTrainable(tune.Trainable):
    """Trains what `config` says, an epoch a step, on images that every actor of a node shares.

    `config`: `issues`, each the fields of a `attempt.Attempt` (`config` as JSON): one, or those of
    a cohort; `epochs`, `first_images`, `threads`, `folder` (the study's), and `fuse`: how many to
    train as one, or None for as many as pays on a GPU. With `test` images each epoch is measured on
    them too; `labels` are of all three. A step returns under `said` a dict for each that still
    trains: `trial_number`, `attempt`, and what `Training.run_epoch` measured, or `failed` with the
    reason, and whether it was a cohort's (`together`), or `storage` where the storage failed and
    not the trial. A fault ends attempts, not the actor.
    """

    def setup(
        self,
        config: dict[str, Any],
        train: np.ndarray,
        val: np.ndarray,
        test: np.ndarray | None,
        labels: Labels,
    ) -> None:
        self.device = get_device()
        configure_torch(config["threads"])
        self.train_images = put_on_device(train, self.device, labels.train)
        self.val_images = put_on_device(val, self.device, labels.val)
        self.test_images = None if test is None else put_on_device(test, self.device, labels.test)
        self.host = socket.gethostname()
        self.reset_config(config)

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        self.settings = new_config
        self.study = resolve_place(new_config["folder"])
        self.issues = {issue["number"]: issue for issue in new_config["issues"]}
        # All that follows is built in the first step, where faults are caught.
        self.trainings: dict[int, Training] = {}
        self.cohorts: dict[tuple[int, ...], FusedTrainings] = {}
        self.damaged: dict[int, list[str]] = {}
        self.at_once = new_config["fuse"]
        return True

    def leave(self, number: int) -> None:
        """Trial `number` is not trained any more."""
        del self.issues[number]
        self.trainings.pop(number, None)
        self.cohorts = {members: c for members, c in self.cohorts.items() if number not in members}

    def step(self) -> dict[str, Any]:
        begun = time.perf_counter()
        told: dict[int, dict[str, Any]] = {}
        numbers = list(self.issues)
        at_once = 1
        if len(numbers) > 1:
            self.at_once = at_once = self.at_once or self._at_once()
        for i in range(0, len(numbers), at_once):
            told |= self._epoch(tuple(numbers[i : i + at_once]))
        # Of one alone the epoch's own time says how long it takes, without what comes but once.
        lasted_s = time.perf_counter() - begun if len(numbers) > 1 else None
        return {"said": [self._said(number, told[number], lasted_s) for number in numbers]}

    def _said(self, number: int, told: dict[str, Any], lasted_s: float | None) -> dict[str, Any]:
        return {
            "trial_number": number,
            "attempt": self.issues[number]["attempt"],
            "damaged": self.damaged.pop(number, []),
            "lasted_s": lasted_s,
            **told,
        }

    def _epoch(self, numbers: tuple[int, ...]) -> dict[int, dict[str, Any]]:
        """One epoch of trials that train as one; what there is to say of each."""
        try:
            members = [self._training(number) for number in numbers]
            told = zip(numbers, self._trained(numbers, members), strict=True)
            return {n: self._failed(m) if isinstance(m, Diverged) else m for n, m in told}
        except StorageError as fault:
            return {number: {"storage": str(fault)} for number in numbers}
        except Exception as fault:
            # Whatever a configuration does to torch (memory, shapes, a driver's complaint) is the
            # end of these attempts and of no others; the whole traceback goes into the ledger.
            failed = self._failed(fault)
            self.cohorts.clear()
            for number in numbers:
                self.trainings.pop(number, None)
            if self.device.type == "cuda":
                torch.cuda.empty_cache()
            together = len(numbers) > 1
            return {number: {**failed, "together": together} for number in numbers}

    def _trained(
        self, numbers: tuple[int, ...], members: list[Training]
    ) -> list[dict[str, Any] | Diverged]:
        if len(members) == 1:
            return [self._kept(numbers[0], members[0], members[0].run_epoch())]
        if numbers not in self.cohorts:
            # Where some have left those that remain are divided anew.
            self.cohorts = {k: c for k, c in self.cohorts.items() if not {*k} & {*numbers}}
            self.cohorts[numbers] = FusedTrainings(members)
        return [
            measured if isinstance(measured, Diverged) else self._kept(number, member, measured)
            for number, member, measured in zip(
                numbers, members, self.cohorts[numbers].run_epoch(), strict=True
            )
        ]

    def _kept(self, number: int, training: Training, measured: dict[str, Any]) -> dict[str, Any]:
        """What an epoch leaves, on disk and to be said."""
        if self.test_images is not None:
            measured["test_mse"] = training.error(self.test_images)
        if training.best_epoch == training.epoch:
            weights = encode_weights(training.best_weights)
            measured["model"] = self._write(number, "safetensors", weights)
        if training.epoch < self.settings["epochs"]:
            measured["checkpoint"] = self._write(number, "pt", training.state())
        else:
            measured["val_ssim"] = training.val_ssim()
        return {**self._where(), **measured}

    def _failed(self, fault: Exception) -> dict[str, Any]:
        return {
            **self._where(),
            "failed": format_reason(fault),
            "traceback": "".join(traceback.format_exception(fault)),
            "out_of_memory": is_out_of_memory(fault),
        }

    def _where(self) -> dict[str, str]:
        return {"host": self.host, "device": get_device_name(self.device)}

    def _at_once(self) -> int:
        """How many of these trials to train as one: on a CPU none, on a GPU what pays and fits."""
        if self.device.type != "cuda":
            return 1
        config = Config.model_validate_json(next(iter(self.issues.values()))["config"])
        room = get_available_bytes(self.device)
        try:
            return choose_fusion_size(config, len(self.issues), self.train_images, room).m
        except RuntimeError:  # out of memory too: where one alone does not fit either, it says so
            return 1

    def _write(self, number: int, kind: str, content: bytes) -> str:
        """A file of this epoch and this attempt. Returns its digest, for the ledger."""
        name = f"{self.trainings[number].epoch}-{self.issues[number]['attempt']}.{kind}"
        write_atomic(get_checkpoint_folder(self.study, number) / name, content)
        return checksum(content)

    def _training(self, number: int) -> Training:
        """The trial where it stands; when it begins, where its newest whole checkpoint does."""
        if number not in self.trainings:
            self.trainings[number] = self._begin(number)
        return self.trainings[number]

    def _begin(self, number: int) -> Training:
        folder = get_checkpoint_folder(self.study, number)
        make_folder(folder, within=self.study)
        for epoch, attempt, expected in self.issues[number]["checkpoints"]:
            path = folder / f"{epoch}-{attempt}.pt"
            training = self._fresh(number)
            try:
                content = path.read_bytes()
                if expected and checksum(content) != expected:
                    raise ValueError("damaged")
                training.load_state(content)
                return training
            except StorageError:
                raise
            except Exception as fault:  # torch raises a dozen kinds for a file that is no state
                reason = "missing" if isinstance(fault, FileNotFoundError) else "damaged"
                self.damaged.setdefault(number, []).append(f"{path}: {reason}")
        return self._fresh(number)

    def _fresh(self, number: int) -> Training:
        issue = self.issues[number]
        return Training(
            Config.model_validate_json(issue["config"]),
            self.train_images,
            self.val_images,
            epochs=self.settings["epochs"],
            seed=issue["seed"],
            order_seed=issue["seed"],
            micro_batch=issue["micro_batch"],
            first_images=self.settings["first_images"],
        )


def get_device() -> torch.device:
    """The GPU that Ray gave this process, or the CPU."""
    return torch.device("cuda" if ray.get_gpu_ids() and torch.cuda.is_available() else "cpu")


def get_device_name(device: torch.device) -> str:
    gpus = ",".join(map(str, ray.get_gpu_ids()))
    if device.type == "cuda":
        return f"{torch.cuda.get_device_name(device)} {gpus}"
    return f"cpu (GPU {gpus} unused: this torch sees none)" if gpus else "cpu"


def is_out_of_memory(fault: Exception) -> bool:
    kinds = (torch.OutOfMemoryError, MemoryError)
    return isinstance(fault, kinds) or bool(NO_MEMORY.search(get_first_line(fault)))


def format_reason(fault: Exception) -> str:
    """One line that says why an attempt failed; faults of one kind begin alike."""
    first_line = get_first_line(fault)
    if isinstance(fault, Diverged):
        return f"diverged: {first_line}"
    if is_out_of_memory(fault):
        return f"out of memory: {first_line}"
    return f"{type(fault).__name__}: {first_line}"


def get_first_line(fault: Exception) -> str:
    return (str(fault).splitlines() or ["no more is known"])[0]
