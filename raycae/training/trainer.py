"""One trial, trained: plain torch, images held on the device, no loader.

The order of minibatches depends on (seed, epoch, batch size), never on the trial: trials of equal
seed and batch size see the same batches, so that later they can share them.
"""

from __future__ import annotations

import io
import math
import time
from collections.abc import Iterator
from functools import lru_cache
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim.swa_utils import AveragedModel
from torch.utils.data import TensorDataset

from raycae.config import Config
from raycae.model.architecture import build_architecture
from raycae.model.autoencoder import Autoencoder, build_network
from raycae.model.tasks import Task, make_task
from raycae.training import metrics
from raycae.training.baselines import fit_principal_axes
from raycae.training.device import run_forward, set_rounding
from raycae.training.validation import VALIDATION_BATCH, Reference, compute_errors

EXPLODED = 1000.0
"""Pictures lie in [0, 1]: an output that is 0 everywhere has an error below 1."""


class Diverged(Exception):
    """The loss is no longer a finite number, or beyond everything that training comes back from."""


def draw_minibatches(
    n: int, batch_size: int, *, seed: int, epoch: int, device: torch.device
) -> Iterator[Tensor]:
    """Indices of one epoch's minibatches; the last may be smaller."""
    generator = torch.Generator().manual_seed(mix_seed(seed, epoch, batch_size))
    order = torch.randperm(n, generator=generator).to(device)
    return iter(order.split(batch_size))


class Training:
    """A trial under way: model, optimizer, and the best epoch so far.

    `train` and `val` are what `put_on_device` made. `epochs` are planned: a schedule ends with
    them. `seed` draws the weights, `order_seed` the minibatches. With `micro_batch` a minibatch
    goes through the network so many images at a time; its gradient, and so the trial, is the same
    up to rounding. With `first_images` the first epoch sees so many of the training images, each
    further one twice as many and those before among them, until it sees all.
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
        net = build_architecture(config)
        model = build_network(net, seed=seed).to(self.device)
        if config.linear_path == "pca":
            model.begin_as(*fit_block_axes(train.tensors[0], net.linear[0].kernel))
        self.model: Autoencoder = model.to(memory_format=torch.channels_last)
        self.averaged = average_weights(self.model, config.averaging) if config.averaging else None
        self.optimizer = make_optimizer(self.model, config)
        self.epoch = 0
        self.best_epoch = 0
        self.best_val_mse = math.inf
        self.best_weights: dict[str, Tensor] = {}

    @property
    def measured(self) -> Autoencoder:
        """The network whose errors are told and whose weights are kept: the model, or the average
        of its weights."""
        return cast(Autoencoder, self.averaged.module) if self.averaged else self.model

    @property
    def n_images(self) -> int:
        """How many training images this epoch sees: the first ones, for their order is random."""
        doublings = min(self.epoch - 1, len(self.train).bit_length())
        return min(len(self.train), self.first_images << doublings)

    def run_epoch(self) -> dict[str, Any]:
        """Train for one epoch, then validate.

        Returns `epoch` (from 1), `train_mse` (mean over the epoch's images while the weights
        moved), `val_mse`, `val_psnr_db` (mean over images), `epoch_time_s` (all of it),
        `images_per_s` (training alone) and `n_images` (trained on). Raises `Diverged` where a
        loss is not finite or beyond `EXPLODED`.
        """
        begun = time.perf_counter()
        self.epoch += 1
        train_mse = self._train()
        trained = time.perf_counter()
        return {
            **self.conclude(train_mse, *self._validate()),
            "epoch_time_s": time.perf_counter() - begun,
            "images_per_s": self.n_images / (trained - begun),
        }

    def conclude(self, train_mse: float, val_mse: float, val_psnr_db: float) -> dict[str, Any]:
        """The errors of the epoch that the network stands behind: keeps the weights if they are
        the best so far. Returns and raises what `run_epoch` does, but for the times."""
        if not train_mse < EXPLODED:
            raise Diverged(f"training loss is {train_mse:.3g} in epoch {self.epoch}")
        if not val_mse < EXPLODED:
            raise Diverged(f"validation loss is {val_mse:.3g} after epoch {self.epoch}")
        if val_mse < self.best_val_mse:
            self.best_val_mse, self.best_epoch = val_mse, self.epoch
            self.best_weights = self._weights()
        return {
            "epoch": self.epoch,
            "train_mse": train_mse,
            "val_mse": val_mse,
            "val_psnr_db": val_psnr_db,
            "n_images": self.n_images,
        }

    def error(self, images: TensorDataset) -> float:
        """The task's MSE on other images (on the device), of the network as it stands."""
        return compute_errors(self.measured.eval(), self.task, images, at_once=self._at_once())[0]

    def val_ssim(self) -> float:
        """SSIM of the best epoch's pictures, mean over the validation images."""
        if self.best_epoch == self.epoch:
            return self._mean_ssim()
        now = self._weights()
        self.measured.load_state_dict(self.best_weights)
        value = self._mean_ssim()
        self.measured.load_state_dict(now)
        return value

    def state(self) -> bytes:
        """Everything needed to go on after this epoch, to the bit on the same machine."""
        buffer = io.BytesIO()
        torch.save(
            {
                "model": self.model.state_dict(),
                "averaged": self.averaged.state_dict() if self.averaged else {},
                "optimizer": self.optimizer.state_dict(),
                "epoch": self.epoch,
                "best_epoch": self.best_epoch,
                "best_val_mse": self.best_val_mse,
                "best_weights": self.best_weights,
            },
            buffer,
        )
        return buffer.getvalue()

    def load_state(self, content: bytes) -> None:
        """Go on from what `state` returned. Nothing in it is executed (`weights_only`)."""
        saved = torch.load(io.BytesIO(content), map_location=self.device, weights_only=True)
        self.model.load_state_dict(saved["model"])
        if self.averaged:
            self.averaged.load_state_dict(saved["averaged"])
        self.optimizer.load_state_dict(saved["optimizer"])
        self.epoch = saved["epoch"]
        self.best_epoch, self.best_val_mse = saved["best_epoch"], saved["best_val_mse"]
        self.best_weights = saved["best_weights"]

    def _train(self) -> float:
        with set_rounding(self.config):
            return self._train_on_minibatches()

    def _train_on_minibatches(self) -> float:
        self.model.train()
        total = torch.zeros((), device=self.device, dtype=torch.float64)
        n_images = self.n_images
        batches = draw_minibatches(
            n_images,
            self.config.batch_size,
            seed=self.order_seed,
            epoch=self.epoch,
            device=self.device,
        )
        n_batches = -(-n_images // self.config.batch_size)
        for step, rows in enumerate(batches):
            if self.config.schedule == "cosine":
                done = (self.epoch - 1 + step / n_batches) / self.epochs
                for group in self.optimizer.param_groups:
                    group["lr"] = self.config.lr * (1 + math.cos(math.pi * done)) / 2
            self.optimizer.zero_grad(set_to_none=True)
            for part in rows.split(self.micro_batch or len(rows)):
                x, y = self.task.batch(*self.train[part])
                loss = F.mse_loss(run_forward(self.model, x, self.config), y)
                if len(part) < len(rows):
                    loss = loss * (len(part) / len(rows))
                loss.backward()
                total += loss.detach() * len(rows)  # stays on the device: no wait in the epoch
            self.optimizer.step()
            if self.averaged:
                self.averaged.update_parameters(self.model)
        return float(total) / n_images

    @torch.inference_mode()
    def _validate(self) -> tuple[float, float]:
        return compute_errors(self.measured.eval(), self.task, self.val, at_once=self._at_once())

    def _weights(self) -> dict[str, Tensor]:
        return {k: v.clone() for k, v in self.measured.state_dict().items()}

    def _at_once(self) -> int:
        return min(self.micro_batch or VALIDATION_BATCH, VALIDATION_BATCH)

    @torch.inference_mode()
    def _mean_ssim(self) -> float:
        network = self.measured.eval()
        truth = Reference(self.val, self._at_once())
        total = sum(
            metrics.compute_ssim(
                self.task.picture(batch[0], network(self.task.batch(*batch)[0])), rgb
            ).sum()
            for batch, rgb in truth
        )
        return float(total) / len(self.val)


def make_optimizer(model: nn.Module, config: Config) -> torch.optim.Optimizer:
    """The configured optimizer, in its fused form where torch has one."""
    weights, lr, decay = model.parameters(), config.lr, config.weight_decay
    match config.optimizer:
        case "adam":
            return torch.optim.Adam(weights, lr, weight_decay=decay, fused=True)
        case "adamw":
            return torch.optim.AdamW(weights, lr, weight_decay=decay, fused=True)
        case "sgd":
            return torch.optim.SGD(
                weights, lr, momentum=config.momentum, weight_decay=decay, fused=True
            )
        case "rmsprop":
            return torch.optim.RMSprop(weights, lr, weight_decay=decay)


def average_weights(model: Autoencoder, most: float) -> AveragedModel:
    """An exponential moving average of weights and running statistics: of what it was it keeps
    `most` at each step, and less while it is young, so that the first weights are soon forgotten.
    Source of the warm-up: TensorFlow's `ExponentialMovingAverage(num_updates=...)`."""

    def update(averages: Any, values: Any, n: Any) -> None:
        keep = ((1 + n) / (10 + n)).clamp(max=most)  # on the device: nothing waits for it
        for average, value in zip(averages, values, strict=True):
            if average.is_floating_point():  # batch norm counts its batches, for nobody
                average.lerp_(value, 1 - keep)

    return AveragedModel(model, multi_avg_fn=update, use_buffers=True)


@lru_cache(maxsize=8)
def fit_block_axes(train: Tensor, side: int) -> tuple[Tensor, Tensor]:
    """The linear line's mean block (3, side, side) and its axes (3 side², 3, side, side), by
    falling variance. Kept, for they take seconds for whole images and an actor trains many trials
    on the images that it holds."""
    mean, basis = fit_principal_axes(train.cpu().numpy(), (side, side))
    axes = basis.T.reshape(-1, side, side, 3).permute(0, 3, 1, 2)
    return mean.view(side, side, 3).permute(2, 0, 1).float(), axes.float()


def mix_seed(*numbers: int) -> int:
    return int(np.random.SeedSequence(numbers).generate_state(1, np.uint64)[0] >> np.uint64(1))
