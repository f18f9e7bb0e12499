"""Train one trial in plain PyTorch, with all images on the device and no data loader."""

from __future__ import annotations

import inspect
import io
import math
import time
from functools import lru_cache
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim import Optimizer
from torch.optim.swa_utils import AveragedModel
from torch.utils.data import TensorDataset

from raycae.config import Config
from raycae.model.architecture import build_architecture
from raycae.model.autoencoder import Autoencoder, build_network
from raycae.model.tasks import Task, make_task
from raycae.training import metrics
from raycae.training.baselines import fit_principal_axes
from raycae.training.device import copy_to_cpu, run_forward, set_rounding
from raycae.training.minibatches import FLIP_AXES, draw_minibatches, load_minibatch
from raycae.training.validation import VALIDATION_BATCH, Reference, compute_errors

EXPLODED = 1000.0
"""Loss beyond which a trial counts as diverged; an output of zeros has less than 1."""


class Diverged(Exception):
    """The loss is not finite, or so large that training does not recover."""


class Training:
    """A trial in training: model, optimizer, and the best epoch so far.

    Args:
        config: The configuration of the trial.
        train: Training images, from `put_on_device`.
        val: Validation images, from `put_on_device`.
        epochs: Number of planned epochs; a schedule ends with them.
        seed: Seed of the weights.
        order_seed: Seed of the minibatches.
        micro_batch: Maximum number of images that pass through the network at a time. The gradient
            of a minibatch, and so the trial, stays the same up to rounding. None for all.
        first_images: Number of training images in the first epoch. Each further epoch takes twice
            as many, until it takes all. None for all from the first epoch on.
    """

    def __init__(
        self,
        config: Config,
        train: TensorDataset,
        val: TensorDataset,
        *,
        epochs: int,
        seed: int = 0,
        order_seed: int = 0,
        micro_batch: int | None = None,
        first_images: int | None = None,
    ) -> None:
        self.config = config
        self.task: Task = make_task(config.task, config.gammas, config.classes)
        self.train, self.val = train, val
        self.device = train.tensors[0].device
        self.epochs = epochs
        self.order_seed = order_seed
        self.micro_batch = micro_batch
        self.first_images = first_images or len(train)
        architecture = build_architecture(config)
        model = build_network(architecture, seed=seed).to(self.device)
        if config.linear_path == "pca":
            side = architecture.linear[0].kernel
            model.init_from_pca(*fit_block_axes(train.tensors[0], side, config.flips))
        self.model: Autoencoder = model.to(memory_format=torch.channels_last)
        self.averaged = average_weights(self.model, config.averaging) if config.averaging else None
        self.optimizer = make_optimizer(self.model, config)
        self.epoch = 0
        self.best_epoch = 0
        self.best_val_mse = math.inf
        self.best_weights: dict[str, Tensor] = {}

    @property
    def evaluation_model(self) -> Autoencoder:
        """The network whose errors are reported and whose weights are kept.

        It is the model, or the moving average of its weights.
        """
        return cast(Autoencoder, self.averaged.module) if self.averaged else self.model

    @property
    def n_images(self) -> int:
        """Number of training images of this epoch: the first ones in their random order."""
        doublings = min(self.epoch - 1, len(self.train).bit_length())
        return min(len(self.train), self.first_images << doublings)

    def run_epoch(self) -> dict[str, Any]:
        """Train for one epoch, then validate.

        Returns:
            `epoch` (from 1), `train_mse` (mean over the epoch's images while the weights moved),
            `val_mse`, `val_psnr_db` (mean over images), `epoch_time_s` (training and validation),
            `images_per_s` (training alone) and `n_images` (trained on).

        Raises:
            Diverged: A loss is not finite or beyond `EXPLODED`.
        """
        start = time.perf_counter()
        self.epoch += 1
        train_mse = self._train()
        train_end = time.perf_counter()
        return {
            **self.finish_epoch(train_mse, *self._validate()),
            "epoch_time_s": time.perf_counter() - start,
            "images_per_s": self.n_images / (train_end - start),
        }

    def finish_epoch(self, train_mse: float, val_mse: float, val_psnr_db: float) -> dict[str, Any]:
        """Record the errors of an epoch; keep the weights if they are the best so far.

        Args:
            train_mse: Mean training error of the epoch.
            val_mse: Validation error after it.
            val_psnr_db: Mean PSNR of the validation images in dB.

        Returns:
            What `run_epoch` returns, without the times.

        Raises:
            Diverged: A loss is not finite or beyond `EXPLODED`.
        """
        if not train_mse < EXPLODED:
            raise Diverged(f"training loss is {train_mse:.3g} in epoch {self.epoch}")
        if not val_mse < EXPLODED:
            raise Diverged(f"validation loss is {val_mse:.3g} after epoch {self.epoch}")
        if val_mse < self.best_val_mse:
            self.best_val_mse, self.best_epoch = val_mse, self.epoch
            self.best_weights = self._copy_weights()
        return {
            "epoch": self.epoch,
            "train_mse": train_mse,
            "val_mse": val_mse,
            "val_psnr_db": val_psnr_db,
            "n_images": self.n_images,
        }

    def error(self, images: TensorDataset) -> float:
        """Compute the task's MSE on other images with the current weights.

        Args:
            images: Images on the device of the trial, from `put_on_device`.

        Returns:
            The mean squared error.
        """
        return compute_errors(
            self.evaluation_model.eval(), self.task, images, batch_size=self._validation_batch
        )[0]

    def val_ssim(self) -> float:
        """Compute the mean SSIM of the validation images with the weights of the best epoch."""
        if self.best_epoch == self.epoch:
            return self._compute_mean_ssim()
        now = self._copy_weights()
        self.evaluation_model.load_state_dict(self.best_weights)
        value = self._compute_mean_ssim()
        self.evaluation_model.load_state_dict(now)
        return value

    def state(self) -> bytes:
        """Encode the state after this epoch.

        Returns:
            All that `load_state` needs to continue; on the CPU of the same machine, to the bit.
        """
        state = {
            "model": self.model.state_dict(),
            "averaged": self.averaged.state_dict() if self.averaged else {},
            "optimizer": self.optimizer.state_dict(),
            "epoch": self.epoch,
            "best_epoch": self.best_epoch,
            "best_val_mse": self.best_val_mse,
            "best_weights": self.best_weights,
        }
        buffer = io.BytesIO()
        torch.save(state if self.device.type == "cpu" else copy_to_cpu(state), buffer)
        return buffer.getvalue()

    def load_state(self, content: bytes) -> None:
        """Restore what `state` returned; nothing in it is executed (`weights_only`).

        Args:
            content: The encoded state.
        """
        saved = torch.load(io.BytesIO(content), map_location=self.device, weights_only=True)
        self.model.load_state_dict(saved["model"])
        if self.averaged:
            self.averaged.load_state_dict(saved["averaged"])
        self.optimizer.load_state_dict(saved["optimizer"])
        self.epoch = saved["epoch"]
        self.best_epoch, self.best_val_mse = saved["best_epoch"], saved["best_val_mse"]
        self.best_weights = saved["best_weights"]

    def _train(self) -> float:
        """Train for one epoch; return the mean training error."""
        with set_rounding(self.config):
            return self._train_on_minibatches()

    def _train_on_minibatches(self) -> float:
        """Train on all minibatches of the epoch; return the mean training error."""
        self.model.train()
        total = torch.zeros((), device=self.device, dtype=torch.float64)
        n_images = self.n_images
        batches = draw_minibatches(
            n_images,
            self.config.batch_size,
            seed=self.order_seed,
            epoch=self.epoch,
            device=self.device,
            flips=self.config.flips,
        )
        n_batches = -(-n_images // self.config.batch_size)
        for step, rows in enumerate(batches):
            if self.config.schedule == "cosine":
                done = (self.epoch - 1 + step / n_batches) / self.epochs
                for group in self.optimizer.param_groups:
                    group["lr"] = self.config.lr * (1 + math.cos(math.pi * done)) / 2
            self.optimizer.zero_grad(set_to_none=True)
            for part in rows.split(self.micro_batch or len(rows)):
                x, y = self.task.batch(*load_minibatch(self.train, part, self.config.flips))
                loss = F.mse_loss(run_forward(self.model, x, self.config), y)
                if len(part) < len(rows):
                    loss = loss * (len(part) / len(rows))
                loss.backward()
                total += loss.detach() * len(rows)  # on the device, so that the step does not wait
            self.optimizer.step()
            if self.averaged:
                self.averaged.update_parameters(self.model)
        return float(total) / n_images

    @torch.inference_mode()
    def _validate(self) -> tuple[float, float]:
        """Compute MSE and PSNR (dB) on the validation images."""
        return compute_errors(
            self.evaluation_model.eval(), self.task, self.val, batch_size=self._validation_batch
        )

    def _copy_weights(self) -> dict[str, Tensor]:
        """Copy the weights of the evaluated network to the CPU."""
        weights: dict[str, Tensor] = copy_to_cpu(self.evaluation_model.state_dict())
        return weights

    @property
    def _validation_batch(self) -> int:
        """Number of images that validation passes through the network at a time."""
        return min(self.micro_batch or VALIDATION_BATCH, VALIDATION_BATCH)

    @torch.inference_mode()
    def _compute_mean_ssim(self) -> float:
        """Compute the mean SSIM of the validation images with the current weights."""
        network = self.evaluation_model.eval()
        truth = Reference(self.val, self._validation_batch)
        total = sum(
            metrics.compute_ssim(
                self.task.picture(batch[0], network(self.task.batch(*batch)[0])), rgb
            ).sum()
            for batch, rgb in truth
        )
        return float(total) / len(self.val)


def without_compiler(optimizer: type[Optimizer]) -> Any:
    """Derive an optimizer whose methods do not import torch's compiler.

    Torch decorates these methods so that `torch.compile` leaves them out. The decorators import
    `torch._dynamo` at the first call: 907 modules, 1.6 s of CPU in every process that trains. The
    methods inside compute the same; `step` is called without gradients, as by its decorator.

    Args:
        optimizer: A class of `torch.optim`.

    Returns:
        The derived class.
    """
    names = ("add_param_group", "zero_grad", "state_dict", "load_state_dict")
    methods = {name: inspect.unwrap(getattr(Optimizer, name)) for name in names}
    step = torch.no_grad()(inspect.unwrap(optimizer.step))
    return type(optimizer.__name__, (optimizer,), {**methods, "step": step})


OPTIMIZERS = {
    "adam": without_compiler(torch.optim.Adam),
    "adamw": without_compiler(torch.optim.AdamW),
    "rmsprop": without_compiler(torch.optim.RMSprop),
    "sgd": without_compiler(torch.optim.SGD),
}
"""Torch's optimizers by the names that the setting `optimizer` takes."""


def make_optimizer(model: nn.Module, config: Config) -> Optimizer:
    """Make the configured optimizer, in its fused form where torch has one.

    Args:
        model: The network.
        config: The configuration of the trial.

    Returns:
        The optimizer.
    """
    weights, lr, decay = model.parameters(), config.lr, config.weight_decay
    make = OPTIMIZERS[config.optimizer]
    match config.optimizer:
        case "sgd":
            return make(weights, lr, momentum=config.momentum, weight_decay=decay, fused=True)
        case "rmsprop":
            return make(weights, lr, weight_decay=decay)
        case _:
            return make(weights, lr, weight_decay=decay, fused=True)


def average_weights(model: Autoencoder, max_decay: float) -> AveragedModel:
    """Make an exponential moving average of weights and running statistics.

    Source of the warm-up: TensorFlow's `ExponentialMovingAverage(num_updates=...)`. A young average
    decays faster, so that the first weights are soon forgotten.

    Args:
        model: The network.
        max_decay: Share of the old average that a step keeps, at most, in [0, 1].

    Returns:
        The average; call `update_parameters` after each step.
    """

    def update(averages: Any, values: Any, n: Any) -> None:
        keep = ((1 + n) / (10 + n)).clamp(max=max_decay)  # on the device, so that nothing waits
        for average, value in zip(averages, values, strict=True):
            if average.is_floating_point():  # Counts of batches are not averaged.
                average.lerp_(value, 1 - keep)

    return AveragedModel(model, multi_avg_fn=update, use_buffers=True)


@lru_cache(maxsize=8)
def fit_block_axes(train: Tensor, side: int, flips: str) -> tuple[Tensor, Tensor]:
    """Fit the PCA that a linear path starts from.

    The result is cached: it takes seconds for whole images, and an actor trains many trials on the
    same images.

    Args:
        train: Training images, uint8 (N, H, W, 3).
        side: Side of a block in pixels.
        flips: The setting `flips`.

    Returns:
        The mean block, float (3, side, side), and the axes by falling variance, float
        (3 side², 3, side, side).
    """
    mean, basis = fit_principal_axes(train.cpu().numpy(), (side, side), FLIP_AXES[flips])
    axes = basis.T.reshape(-1, side, side, 3).permute(0, 3, 1, 2)
    return mean.view(side, side, 3).permute(2, 0, 1).float(), axes.float()
