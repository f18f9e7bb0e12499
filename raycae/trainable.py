"""One trial as a Ray Tune trainable; an actor trains many, one after the other."""

from __future__ import annotations

import re
import socket
import traceback
from pathlib import Path
from typing import Any

import numpy as np
import ray
import torch
from ray import tune

from raycae import model
from raycae.config import Config
from raycae.storage import write_whole
from raycae.study import checkpoint_path, model_folder
from raycae.training import Diverged, Training, on_device, prepare_cpu

NO_MEMORY = re.compile("not enough memory|can't allocate memory")
"""What torch's CPU allocator says, in a plain RuntimeError."""


class AutoencoderTrainable(tune.Trainable):
    """Trains what `config` says, an epoch a step, on images that every actor of a node shares.

    `config`: `trial_number`, `config` (resolved, JSON), `seed`, `order_seed`, `epochs`, `threads`,
    `folder` (the study's). A step returns `measured`, a dict: what `Training.run_epoch` measured,
    or `failed` with the reason and `traceback`. A fault ends the trial, not the actor.
    """

    def setup(self, config: dict[str, Any], train: np.ndarray, val: np.ndarray) -> None:
        self.device = _device()
        prepare_cpu(config["threads"])
        self.train_images = on_device(train, self.device)
        self.val_images = on_device(val, self.device)
        self.host = socket.gethostname()
        self.reset_config(config)

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        self.issue = new_config
        self.number: int = new_config["trial_number"]
        self.folder = Path(new_config["folder"])
        self.training: Training | None = None  # built in the first step, where faults are caught
        return True

    def step(self) -> dict[str, Any]:
        where = {"host": self.host, "device": _device_name(self.device)}
        try:
            measured = self._epoch()
        except Exception as fault:
            # Whatever a configuration does to torch (memory, shapes, a driver's complaint) is this
            # trial's end and no other's; the whole traceback goes into the ledger.
            measured = {"failed": _reason(fault), "traceback": traceback.format_exc()}
            self.training = None
            if self.device.type == "cuda":
                torch.cuda.empty_cache()
        return {"measured": {"trial_number": self.number, **where, **measured}}

    def _epoch(self) -> dict[str, Any]:
        if self.training is None:
            self.training = self._begin()
            if self.training.measured:
                # The last process may have died between writing this epoch's checkpoint and
                # reporting it. Reporting twice is reporting once, so it is always said again; and
                # it may have saved the model of an epoch that is not in the checkpoint.
                self._save_best()
                return self.training.measured
        training = self.training
        measured = training.run_epoch()
        if training.best_epoch == training.epoch:
            self._save_best()
        if training.epoch < self.issue["epochs"]:
            write_whole(checkpoint_path(self.folder, self.number), training.state())
        else:
            measured["val_ssim"] = training.val_ssim()
        return measured

    def _save_best(self) -> None:
        assert self.training is not None
        model.save(
            model_folder(self.folder, self.number),
            self.training.best_weights,
            self.training.config,
            trial_number=self.number,
            epoch=self.training.best_epoch,
            val_mse=self.training.best_val_mse,
        )

    def _begin(self) -> Training:
        training = Training(
            Config.model_validate_json(self.issue["config"]),
            self.train_images,
            self.val_images,
            seed=self.issue["seed"],
            order_seed=self.issue["order_seed"],
        )
        checkpoint = checkpoint_path(self.folder, self.number)
        checkpoint.parent.mkdir(exist_ok=True)
        if checkpoint.exists():
            training.load_state(checkpoint.read_bytes())
        return training


def _device() -> torch.device:
    """The GPU that Ray gave this process, or the CPU."""
    return torch.device("cuda" if ray.get_gpu_ids() and torch.cuda.is_available() else "cpu")


def _device_name(device: torch.device) -> str:
    gpus = ",".join(map(str, ray.get_gpu_ids()))
    if device.type == "cuda":
        return f"{torch.cuda.get_device_name(device)} {gpus}"
    return f"cpu (GPU {gpus} unused: this torch sees none)" if gpus else "cpu"


def _reason(fault: Exception) -> str:
    """One line that says why a trial failed; faults of one kind begin alike."""
    first_line = (str(fault).splitlines() or ["no more is known"])[0]
    if isinstance(fault, Diverged):
        return f"diverged: {first_line}"
    if isinstance(fault, torch.OutOfMemoryError | MemoryError) or NO_MEMORY.search(first_line):
        return f"out of memory: {first_line}"
    return f"{type(fault).__name__}: {first_line}"
