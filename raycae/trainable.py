"""One attempt at a trial as a Ray Tune trainable; an actor trains many, one after the other."""

from __future__ import annotations

import re
import socket
import traceback
from typing import Any

import numpy as np
import ray
import torch
from ray import tune

from raycae import model
from raycae.config import Config
from raycae.data import Labels
from raycae.errors import StorageError
from raycae.storage import digest, make_folder, place, write_whole
from raycae.study import checkpoint_folder
from raycae.training import Diverged, Training, on_device, prepare_cpu

NO_MEMORY = re.compile("not enough memory|can't allocate memory")
"""What torch's CPU allocator says, in a plain RuntimeError."""


class AutoencoderTrainable(tune.Trainable):
    """Trains what `config` says, an epoch a step, on images that every actor of a node shares.

    `config`: the fields of `study.Issue` (`config` as JSON), `epochs`, `first_images`, `threads`,
    `folder` (the study's). With `test` images each epoch is measured on them too; `labels` are of
    all three. A step returns a dict under `said`: `trial_number`, `attempt`, and what
    `Training.run_epoch` measured, or `failed` with the reason, or `storage` where the storage
    failed and not the trial. A fault ends the attempt, not the actor.
    """

    def setup(
        self,
        config: dict[str, Any],
        train: np.ndarray,
        val: np.ndarray,
        test: np.ndarray | None,
        labels: Labels,
    ) -> None:
        self.device = _device()
        prepare_cpu(config["threads"])
        self.train_images = on_device(train, self.device, labels.train)
        self.val_images = on_device(val, self.device, labels.val)
        self.test_images = None if test is None else on_device(test, self.device, labels.test)
        self.host = socket.gethostname()
        self.reset_config(config)

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        self.issue = new_config
        self.study = place(new_config["folder"])
        self.folder = checkpoint_folder(self.study, new_config["trial_number"])
        self.training: Training | None = None  # built in the first step, where faults are caught
        self.damaged: list[str] = []
        return True

    def step(self) -> dict[str, Any]:
        who = {"trial_number": self.issue["trial_number"], "attempt": self.issue["attempt"]}
        where = {"host": self.host, "device": _device_name(self.device)}
        try:
            said = {**where, **self._epoch()}
        except StorageError as fault:
            said = {"storage": str(fault)}
        except Exception as fault:
            # Whatever a configuration does to torch (memory, shapes, a driver's complaint) is this
            # attempt's end and no other's; the whole traceback goes into the ledger.
            self.training = None
            if self.device.type == "cuda":
                torch.cuda.empty_cache()
            said = {
                **where,
                "failed": _reason(fault),
                "traceback": traceback.format_exc(),
                "out_of_memory": _is_memory(fault),
            }
        said["damaged"], self.damaged = self.damaged, []
        return {"said": {**who, **said}}

    def _epoch(self) -> dict[str, Any]:
        if self.training is None:
            self.training = self._begin()
        training = self.training
        measured = training.run_epoch()
        if self.test_images is not None:
            measured["test_mse"] = training.error(self.test_images)
        if training.best_epoch == training.epoch:
            weights = model.to_bytes(training.best_weights)
            measured["model"] = self._write("safetensors", weights)
        if training.epoch < self.issue["epochs"]:
            measured["checkpoint"] = self._write("pt", training.state())
        else:
            measured["val_ssim"] = training.val_ssim()
        return measured

    def _write(self, kind: str, content: bytes) -> str:
        """A file of this epoch and this attempt. Returns its digest, for the ledger."""
        assert self.training is not None
        name = f"{self.training.epoch}-{self.issue['attempt']}.{kind}"
        write_whole(self.folder / name, content)
        return digest(content)

    def _begin(self) -> Training:
        """The trial where its newest whole checkpoint stands."""
        make_folder(self.folder, within=self.study)
        for epoch, attempt, expected in self.issue["checkpoints"]:
            path = self.folder / f"{epoch}-{attempt}.pt"
            training = self._fresh()
            try:
                content = path.read_bytes()
                if expected and digest(content) != expected:
                    raise ValueError("damaged")
                training.load_state(content)
                return training
            except StorageError:
                raise
            except Exception as fault:  # torch raises a dozen kinds for a file that is no state
                reason = "missing" if isinstance(fault, FileNotFoundError) else "damaged"
                self.damaged.append(f"{path}: {reason}")
        return self._fresh()

    def _fresh(self) -> Training:
        return Training(
            Config.model_validate_json(self.issue["config"]),
            self.train_images,
            self.val_images,
            epochs=self.issue["epochs"],
            seed=self.issue["seed"],
            order_seed=self.issue["seed"],
            micro_batch=self.issue["micro_batch"],
            first_images=self.issue["first_images"],
        )


def _device() -> torch.device:
    """The GPU that Ray gave this process, or the CPU."""
    return torch.device("cuda" if ray.get_gpu_ids() and torch.cuda.is_available() else "cpu")


def _device_name(device: torch.device) -> str:
    gpus = ",".join(map(str, ray.get_gpu_ids()))
    if device.type == "cuda":
        return f"{torch.cuda.get_device_name(device)} {gpus}"
    return f"cpu (GPU {gpus} unused: this torch sees none)" if gpus else "cpu"


def _is_memory(fault: Exception) -> bool:
    kinds = (torch.OutOfMemoryError, MemoryError)
    return isinstance(fault, kinds) or bool(NO_MEMORY.search(_first_line(fault)))


def _reason(fault: Exception) -> str:
    """One line that says why an attempt failed; faults of one kind begin alike."""
    first_line = _first_line(fault)
    if isinstance(fault, Diverged):
        return f"diverged: {first_line}"
    if _is_memory(fault):
        return f"out of memory: {first_line}"
    return f"{type(fault).__name__}: {first_line}"


def _first_line(fault: Exception) -> str:
    return (str(fault).splitlines() or ["no more is known"])[0]
