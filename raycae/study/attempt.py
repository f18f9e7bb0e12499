"""Messages between a study and its workers: attempts to run, and reports on how they went."""

from __future__ import annotations

from dataclasses import KW_ONLY, dataclass, fields
from typing import Any

from raycae.config import Config


@dataclass(frozen=True)
class Attempt:
    """One run of a trial: what a worker trains, and where it starts.

    Attributes:
        number: Number of the trial.
        attempt: Number of the attempt at this trial, from 1.
        config: Configuration of the trial.
        seed: Seed of the first weights and of the minibatches.
        micro_batch: Images that go through the network at a time; None for the whole minibatch.
        checkpoints: (epoch, attempt, checksum) of each checkpoint to resume from, newest first.
            Without an intact one the trial starts from its first weights.
    """

    number: int
    attempt: int
    config: Config
    seed: int
    micro_batch: int | None = None
    checkpoints: tuple[tuple[int, int, str], ...] = ()


@dataclass(frozen=True)
class Report:
    """Base of what a worker reports on an attempt after a step.

    Attributes:
        number: Number of the trial.
        attempt: Number of the attempt at this trial.
        damaged: One phrase for each checkpoint that could not be used.
        elapsed_s: Seconds since the last report of this worker, if it trains several trials.
    """

    number: int
    attempt: int
    _: KW_ONLY
    damaged: tuple[str, ...] = ()
    elapsed_s: float | None = None


@dataclass(frozen=True)
class EpochReport(Report):
    """An epoch that was trained and validated.

    Attributes:
        epoch: Number of the epoch, from 1.
        train_mse: Mean training error over the epoch's images, while the weights changed.
        val_mse: Validation error after the epoch.
        val_psnr_db: Mean PSNR of the validation images in dB.
        epoch_time_s: Duration of the epoch in seconds; a share of it in a fused group.
        images_per_s: Training images per second.
        n_images: Number of images the epoch trained on.
        val_ssim: SSIM of the best epoch's model, after the last epoch.
        test_mse: Error on the test images, if the study records it for every epoch.
        checkpoint: Checksum of the checkpoint that was written.
        model: Checksum of the model that was written, if this epoch is the best so far.
        host: Host name of the worker.
        device: Name of its device.
    """

    _: KW_ONLY
    epoch: int
    train_mse: float
    val_mse: float
    val_psnr_db: float
    epoch_time_s: float
    images_per_s: float | None = None
    n_images: int | None = None
    val_ssim: float | None = None
    test_mse: float | None = None
    checkpoint: str | None = None
    model: str | None = None
    host: str | None = None
    device: str | None = None

    def get_columns(self) -> dict[str, Any]:
        """Return what the ledger records of the epoch, by column; only what is known."""
        columns = {field.name: getattr(self, field.name) for field in fields(self)}
        return {
            name: value
            for name, value in columns.items()
            if name not in NOT_RECORDED and value is not None
        }


NOT_RECORDED = ("number", "attempt", "damaged", "elapsed_s")
"""Fields of an `EpochReport` that are no columns of an epoch in the ledger."""


@dataclass(frozen=True)
class FailureReport(Report):
    """An attempt that cannot continue.

    Attributes:
        reason: Why, in one line; failures of one kind begin alike.
        traceback: The whole traceback, if there is one.
        out_of_memory: Whether memory was not enough.
        is_fused: Whether a fused group failed as a whole, which says little about its trials.
        host: Host name of the worker.
        device: Name of its device.
    """

    reason: str
    traceback: str | None = None
    _: KW_ONLY
    out_of_memory: bool = False
    is_fused: bool = False
    host: str | None = None
    device: str | None = None


@dataclass(frozen=True)
class StorageReport(Report):
    """A storage fault that the worker met; the attempt itself has not failed.

    Attributes:
        reason: What the storage refused.
    """

    reason: str
