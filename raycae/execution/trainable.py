"""A Ray Tune trainable that trains attempts: one alone, or several as a fused group."""

from __future__ import annotations

import gc
import re
import socket
import time
import traceback
from dataclasses import replace
from typing import Any

import ray
import torch
from ray import tune

from raycae.data import Labels, Pixels, SharedPixels
from raycae.errors import StorageError
from raycae.model.weights import encode_weights
from raycae.storage.files import checksum, make_folder, write_atomic
from raycae.storage.paths import resolve_place
from raycae.study.artifacts import get_checkpoint_folder
from raycae.study.attempt import Attempt, EpochReport, FailureReport, Report, StorageReport
from raycae.training.device import configure_torch, put_on_device
from raycae.training.fused import FusedTrainings
from raycae.training.fusion_size import choose_fusion_size, get_available_bytes
from raycae.training.trainer import Diverged, Training

NO_MEMORY = re.compile("not enough memory|can't allocate memory|could not create a primitive$")
"""How torch's CPU allocator and oneDNN report, in a plain RuntimeError, that memory ran out. A
convolution that oneDNN does not support has another message: it lacks a primitive descriptor."""


class AutoencoderTrainable(tune.Trainable):
    """Trains its attempts for one epoch per step, on images that the workers of a node share.

    The keys of `config` are `attempts` (the `Attempt`s to train: one, or those of a group that may
    be fused), `epochs`, `first_images`, `threads`, `gpus` (the worker's share of a GPU), `folder`
    (the study's) and `fuse` (how many trials to fuse; None for as many as pay off on a GPU). One
    worker trains many trials, one after the other. An error ends attempts, not the worker.
    """

    def setup(
        self,
        config: dict[str, Any],
        train: Pixels | SharedPixels,
        val: Pixels | SharedPixels,
        test: Pixels | SharedPixels | None,
        labels: Labels,
    ) -> None:
        """Put the images on the device.

        Args:
            config: See the class.
            train: Training images, uint8 (N, H, W, 3), or the file of this machine that has them.
            val: Validation images, likewise.
            test: Test images, if their error is recorded for every epoch.
            labels: Class labels of all three.
        """
        self.device = get_device()
        configure_torch(config["threads"])
        self.train_images = put_on_device(map_if_shared(train), self.device, labels.train)
        self.val_images = put_on_device(map_if_shared(val), self.device, labels.val)
        self.test_images = (
            None if test is None else put_on_device(map_if_shared(test), self.device, labels.test)
        )
        self.host = socket.gethostname()
        self.reset_config(config)

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        """Take over new attempts. Networks are built in the first step, where errors are caught.

        Args:
            new_config: See the class.

        Returns:
            True: the worker is reused.
        """
        self.settings = new_config
        self.study = resolve_place(new_config["folder"])
        self.attempts: dict[int, Attempt] = {
            attempt.number: attempt for attempt in new_config["attempts"]
        }
        self.trainings: dict[int, Training] = {}
        self.groups: dict[tuple[int, ...], FusedTrainings] = {}
        self.damaged: dict[int, list[str]] = {}
        self.too_large: set[int] = set()  # to be captured, not to be trained eagerly
        self.fusion_size: int | None = new_config["fuse"]
        return True

    def drop_trial(self, number: int) -> None:
        """Stop training a trial, while others of its group continue.

        Args:
            number: Number of the trial.
        """
        del self.attempts[number]
        self.trainings.pop(number, None)
        self.groups = {
            members: group for members, group in self.groups.items() if number not in members
        }

    def step(self) -> dict[str, Any]:
        """Train every attempt for one epoch.

        Returns:
            A dict whose only key `reports` holds one `Report` for each attempt.
        """
        started = time.perf_counter()
        numbers = list(self.attempts)
        size = 1
        if len(numbers) > 1:
            self.fusion_size = size = self.fusion_size or self._choose_fusion_size()
        reports: list[Report] = []
        for i in range(0, len(numbers), size):
            reports += self._train_epoch(tuple(numbers[i : i + size]))
        # For a trial alone the time of the epoch counts, without what is done only once.
        elapsed_s = time.perf_counter() - started if len(numbers) > 1 else None
        return {
            "reports": [
                replace(
                    report,
                    damaged=tuple(self.damaged.pop(report.number, ())),
                    elapsed_s=elapsed_s,
                )
                for report in reports
            ]
        }

    def _train_epoch(self, numbers: tuple[int, ...]) -> list[Report]:
        """Train trials as one for one epoch, and report on each."""
        try:
            members = [self._open_training(number) for number in numbers]
            outcomes = zip(numbers, self._run_epoch(numbers, members), strict=True)
            return [
                self._make_failure_report(number, outcome)
                if isinstance(outcome, Diverged)
                else outcome
                for number, outcome in outcomes
            ]
        except StorageError as error:
            return [
                StorageReport(number, self.attempts[number].attempt, str(error))
                for number in numbers
            ]
        except Exception as error:
            is_captured = len(numbers) == 1 and self._is_captured(numbers[0])
            if is_captured and is_out_of_memory(error):
                self.too_large.add(numbers[0])
            # Whatever a configuration does to torch (memory, shapes, driver errors) ends these
            # attempts and no others. The ledger records the whole traceback.
            reports: list[Report] = [
                self._make_failure_report(number, error, is_fused=len(numbers) > 1)
                for number in numbers
            ]
            self.groups.clear()
            for number in numbers:
                self.trainings.pop(number, None)
        if any(isinstance(report, FailureReport) and report.out_of_memory for report in reports):
            gc.collect()  # The frames of the failed step may form a cycle that holds its tensors.
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
        if is_captured and numbers[0] in self.too_large:
            return self._train_epoch(numbers)
        return reports

    def _run_epoch(
        self, numbers: tuple[int, ...], members: list[Training]
    ) -> list[EpochReport | Diverged]:
        if len(members) == 1 and not self._is_captured(numbers[0]):
            return [self._save_epoch(numbers[0], members[0], members[0].run_epoch())]
        if numbers not in self.groups:
            # Where trials have left, those that remain are grouped again.
            self.groups = {
                others: group for others, group in self.groups.items() if not {*others} & {*numbers}
            }
            self.groups[numbers] = FusedTrainings(members)
        return [
            measured
            if isinstance(measured, Diverged)
            else self._save_epoch(number, member, measured)
            for number, member, measured in zip(
                numbers, members, self.groups[numbers].run_epoch(), strict=True
            )
        ]

    def _is_captured(self, number: int) -> bool:
        """Return whether a trial that trains alone is a fused group of one.

        On a GPU it is, because a captured step is one launch instead of hundreds. A group ignores
        `micro_batch`, which is set after memory ran out. Of several attempts none is, because each
        would keep the memory of its graphs. Graphs need more memory than eager steps, so a trial
        that ran out of it goes on without them.
        """
        is_alone = len(self.attempts) == 1 and self.attempts[number].micro_batch is None
        return self.device.type == "cuda" and is_alone and number not in self.too_large

    def _save_epoch(self, number: int, training: Training, measured: dict[str, Any]) -> EpochReport:
        """Write the checkpoint and the best model of an epoch, and report on it."""
        columns: dict[str, Any] = dict(measured)
        if self.test_images is not None:
            columns["test_mse"] = training.error(self.test_images)
        if training.best_epoch == training.epoch:
            weights = encode_weights(training.best_weights)
            columns["model"] = self._write_file(number, "safetensors", weights)
        if training.epoch < self.settings["epochs"]:
            columns["checkpoint"] = self._write_file(number, "pt", training.state())
        else:
            columns["val_ssim"] = training.val_ssim()
        return EpochReport(
            number,
            self.attempts[number].attempt,
            host=self.host,
            device=get_device_name(self.device),
            **columns,
        )

    def _make_failure_report(
        self, number: int, error: Exception, *, is_fused: bool = False
    ) -> FailureReport:
        return FailureReport(
            number,
            self.attempts[number].attempt,
            format_reason(error),
            "".join(traceback.format_exception(error)),
            out_of_memory=is_out_of_memory(error),
            is_fused=is_fused,
            host=self.host,
            device=get_device_name(self.device),
        )

    def _choose_fusion_size(self) -> int:
        """Choose how many trials to fuse: on a CPU none, on a GPU as many as pay off and fit."""
        if self.device.type != "cuda":
            return 1
        config = next(iter(self.attempts.values())).config
        available = get_available_bytes(self.device, self.settings["gpus"])
        try:
            return choose_fusion_size(config, len(self.attempts), self.train_images, available).m
        except RuntimeError:
            # Out of memory, too. Where one trial alone does not fit either, its attempt says so.
            return 1

    def _write_file(self, number: int, suffix: str, content: bytes) -> str:
        """Write a file of this epoch and attempt, and return its checksum for the ledger."""
        name = f"{self.trainings[number].epoch}-{self.attempts[number].attempt}.{suffix}"
        write_atomic(get_checkpoint_folder(self.study, number) / name, content)
        return checksum(content)

    def _open_training(self, number: int) -> Training:
        """Return the training of a trial; resume it from its newest intact checkpoint first."""
        if number not in self.trainings:
            self.trainings[number] = self._resume_training(number)
        return self.trainings[number]

    def _resume_training(self, number: int) -> Training:
        folder = get_checkpoint_folder(self.study, number)
        make_folder(folder, within=self.study)
        for epoch, attempt, expected in self.attempts[number].checkpoints:
            path = folder / f"{epoch}-{attempt}.pt"
            training = self._make_training(number)
            try:
                content = path.read_bytes()
                if expected and checksum(content) != expected:
                    raise ValueError("damaged")
                training.load_state(content)
                return training
            except StorageError:
                raise
            except Exception as error:  # torch raises a dozen types for a file that is no state
                reason = "missing" if isinstance(error, FileNotFoundError) else "damaged"
                self.damaged.setdefault(number, []).append(f"{path}: {reason}")
        return self._make_training(number)

    def _make_training(self, number: int) -> Training:
        attempt = self.attempts[number]
        return Training(
            attempt.config,
            self.train_images,
            self.val_images,
            epochs=self.settings["epochs"],
            seed=attempt.seed,
            order_seed=attempt.seed,
            micro_batch=attempt.micro_batch,
            first_images=self.settings["first_images"],
        )


def get_device() -> torch.device:
    """Return the GPU that Ray assigned to this process, or the CPU."""
    return torch.device("cuda" if ray.get_gpu_ids() and torch.cuda.is_available() else "cpu")


def get_device_name(device: torch.device) -> str:
    """Name a device for the tables, with the numbers of the GPUs that Ray assigned."""
    gpus = ",".join(map(str, ray.get_gpu_ids()))
    if device.type == "cuda":
        return f"{torch.cuda.get_device_name(device)} {gpus}"
    return f"cpu (GPU {gpus} unused: this torch sees none)" if gpus else "cpu"


def map_if_shared(pixels: Pixels | SharedPixels) -> Pixels:
    """Return images, mapped from their file if they are in one.

    Args:
        pixels: The images, or where they are.
    """
    return pixels.map() if isinstance(pixels, SharedPixels) else pixels


def is_out_of_memory(error: Exception) -> bool:
    """Return whether an error says that memory ran out.

    Args:
        error: An error that ended an attempt.
    """
    kinds = (torch.OutOfMemoryError, MemoryError)
    return isinstance(error, kinds) or bool(NO_MEMORY.search(get_first_line(error)))


def format_reason(error: Exception) -> str:
    """Format why an attempt failed.

    Args:
        error: The error that ended it.

    Returns:
        One line. Errors of one kind begin alike.
    """
    first_line = get_first_line(error)
    if isinstance(error, Diverged):
        return f"diverged: {first_line}"
    if is_out_of_memory(error):
        return f"out of memory: {first_line}"
    return f"{type(error).__name__}: {first_line}"


def get_first_line(error: Exception) -> str:
    """Return the first line of an error's message."""
    return (str(error).splitlines() or ["no message"])[0]
