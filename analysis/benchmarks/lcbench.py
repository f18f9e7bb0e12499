"""LCBench as recorded curves: YAHPO Gym's surrogate of MLPs on OpenML tasks, over a raycae space.

The surrogate (Pfisterer et al., AutoML 2022) predicts the validation accuracy of a funnel-shaped
MLP after each of 52 epochs, for seven hyperparameters (LCBench: Zimmer, Lindauer & Hutter, TPAMI
2021). It is free of noise. The folder of the data has `model.onnx` and `encoding.json` of the
repository slds-lmu/yahpo_data, folder `lcbench`, and is an argument: nothing of it is in raycae.

raycae's samplers search a space of autoencoders, so seven of its settings with the ranges of
LCBench stand for the seven hyperparameters (`STAND_INS`); the search itself sees no difference.
"""

from __future__ import annotations

import json
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from raycae.config import Config
from raycae.execution.surrogate import Curve
from raycae.space import loading
from raycae.space.space import Space

EPOCHS = 52
DEVELOPMENT = ("126025", "126026", "146212", "167083", "167149", "167168", "167181", "167200")
"""OpenML tasks that defaults were chosen with."""
HELD_OUT = (*("168329", "168330", "168868", "189354", "189905", "189906", "34539", "3945", "7593"),)
"""OpenML tasks that nothing was chosen with."""
STAND_INS = {
    "batch_size": lambda config: config.batch_size,
    "learning_rate": lambda config: config.lr,
    "momentum": lambda config: config.momentum,
    "weight_decay": lambda config: config.weight_decay,
    "num_layers": lambda config: config.refine_convs - 1,
    "max_units": lambda config: config.latent_channels,
    "max_dropout": lambda config: config.averaging,
}
"""The hyperparameters in the order of the surrogate's inputs, and the setting for each of them."""
SPACE = """# LCBench: seven hyperparameters of an MLP, under the names of raycae's settings
task: reconstruct
data: cifar10
budget: {trials: 100, epochs: 52}
params:
  batch_size: {type: int, low: 16, high: 512, log: true}
  lr: {type: float, low: 1.0e-4, high: 1.0e-1, log: true}
  momentum: {type: float, low: 0.1, high: 0.99}
  weight_decay: {type: float, low: 1.0e-5, high: 1.0e-1}
  refine_convs: {type: int, low: 2, high: 6}
  latent_channels: {type: int, low: 64, high: 1024, log: true}
  averaging: {type: float, low: 0.0, high: 0.999999}
fixed: {optimizer: sgd, refine: 8}
"""
N_DRAWS = 3000
"""Random configurations from which the marks of a task are computed."""
LEAST_ERROR = 1e-3
"""Least error in per cent; the surrogate may predict an accuracy above 100 %."""


class Task:
    """The learning curves of one OpenML task.

    Args:
        folder: Folder of `model.onnx` and `encoding.json`.
        task: Id of the OpenML task.
    """

    epochs = EPOCHS

    def __init__(self, folder: Path, task: str) -> None:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        self._session = onnxruntime.InferenceSession(str(folder / "model.onnx"), options)
        codes = json.loads((folder / "encoding.json").read_text())["OpenML_task_id"]
        self._code = codes[task]
        self._curves: dict[tuple[float, ...], Curve] = {}
        self.name = task
        self.space = load_space()

    def get_curve(self, config: Config, seed: int) -> Curve:
        """Return the curve of a configuration, the same with every seed.

        Args:
            config: A configuration of `space`.
            seed: Random seed of the trial; without an effect.

        Returns:
            Errors in per cent, 100 - validation accuracy.
        """
        values = tuple(float(read(config)) for read in STAND_INS.values())
        if values not in self._curves:
            errors, seconds = self.predict(np.array([values]))
            self._curves[values] = Curve(tuple(errors[0].tolist()), float(seconds[0]))
        return self._curves[values]

    def predict(self, values: Any) -> tuple[Any, Any]:
        """Predict learning curves.

        Args:
            values: Hyperparameters in the order of `STAND_INS`, (N, 7).

        Returns:
            Errors in per cent after each epoch, float64 (N, 52), and the mean duration of an epoch
            in seconds, float64 (N,).
        """
        n = len(values)
        epochs = np.tile(np.arange(1, EPOCHS + 1), n)[:, None]
        inputs = {
            "x_cat": np.full((n * EPOCHS, 1), self._code, np.int32),
            "x_cont": np.hstack([epochs, np.repeat(values, EPOCHS, axis=0)]).astype(np.float32),
        }
        output = self._session.run(None, inputs)[0].reshape(n, EPOCHS, -1).astype(float)
        return np.maximum(100 - output[:, :, 1], LEAST_ERROR), np.maximum(output[:, -1, 0], 1) / 52

    @cached_property
    def marks(self) -> dict[str, float]:
        """The errors in per cent that results are compared with.

        "median": half of `N_DRAWS` random configurations reach it at some epoch. "best": the lowest
        error of any of them. Looking for lower ones finds corners where the surrogate errs.
        """
        units = np.random.default_rng(0).random((N_DRAWS, len(STAND_INS)))
        errors = self._predict_lowest(units)
        return {"median": float(np.median(errors)), "best": float(errors.min())}

    def scale(self, units: Any) -> Any:
        """Return the hyperparameters at points of the unit cube, (N, 7), for `predict`.

        Integers are rounded, so the ends of a range come half as often as the other values.
        """
        columns = []
        for name, unit in zip(self.space.parameters, units.T, strict=True):
            bounds = self.space.parameters[name].distribution
            low, high = bounds.low, bounds.high
            value = low * (high / low) ** unit if bounds.log else low + (high - low) * unit
            columns.append(np.round(value) if isinstance(low, int) else value)
        columns[4] -= 1  # refine_convs is one more than the number of layers.
        return np.stack(columns, axis=1)

    def _predict_lowest(self, units: Any) -> Any:
        """Predict the lowest error of configurations in the unit cube, (N, 7)."""
        values = self.scale(units)
        parts = np.array_split(values, max(1, len(values) // 500))
        return np.concatenate([self.predict(part)[0].min(axis=1) for part in parts])


def load_space() -> Space:
    """Return the space of autoencoder settings that stand for LCBench's hyperparameters."""
    return loading.parse_space(SPACE, name="lcbench")
