"""A surrogate model of recorded learning curves for configurations that were never run."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, get_args

import numpy as np
import numpy.typing as npt
from scipy.optimize import nnls

from raycae.config import Config
from raycae.errors import InputError
from raycae.execution.simulator import Curve as Curve
from raycae.model.architecture import build_architecture

Array = npt.NDArray[np.float64]
DIVERGED = 10.0
"""Error (MSE) of the epoch in which a trial diverged and of later ones. Images are in [0, 1], so
the error of a network that learned anything is below 1."""


class Surrogate:
    """A regression of the ranks of recorded errors by gradient boosting.

    The features are the settings of a configuration, its numbers of steps, and steps times learning
    rate. Curves that diverged are continued at `DIVERGED`. No prediction is lower than the lowest
    recorded error.

    Args:
        curves: Recorded curves by configuration and seed.
        epochs: Number of epochs of every curve.
    """

    def __init__(self, curves: Mapping[Config, Mapping[int, Curve]], epochs: int) -> None:
        self._epochs = epochs
        x = np.concatenate([compute_features(config, epochs) for config in curves])
        y = np.concatenate([average_log_errors(runs, epochs) for runs in curves.values()])
        self._trees = make_regressor(len(y)).fit(x, y)
        costs = np.array([compute_costs(config) for config in curves])
        seconds = np.array([np.mean([run.epoch_s for run in r.values()]) for r in curves.values()])
        # Weighted, so that relative errors are minimised: durations differ by a factor of 20.
        self._seconds, _ = nnls(costs / seconds[:, None], np.ones(len(seconds)))

    def predict_errors(self, config: Config) -> Array:
        """Predict the validation error after each epoch, without noise.

        Args:
            config: A configuration.

        Returns:
            Errors (MSE), float64 (epochs,); above 1 where the trial would diverge.
        """
        return np.exp(self._trees.predict(compute_features(config, self._epochs)))

    def predict_epoch_s(self, config: Config) -> float:
        """Predict the duration of an epoch in seconds.

        Args:
            config: A configuration.
        """
        return float(compute_costs(config) @ self._seconds)


def average_log_errors(runs: Mapping[int, Curve], epochs: int) -> Array:
    """Compute the mean of the logarithms of a configuration's curves.

    Args:
        runs: Curves by seed.
        epochs: Number of epochs.

    Returns:
        Natural logarithms, float64 (epochs,).
    """
    logs = [
        np.log([*run.errors, *[DIVERGED] * (epochs - len(run.errors))]) for run in runs.values()
    ]
    return np.mean(logs, axis=0)


def compute_features(config: Config, epochs: int) -> Array:
    """Compute the features of a configuration after each epoch.

    Args:
        config: A configuration.
        epochs: Number of epochs.

    Returns:
        Features, float64 (epochs, n_features).
    """
    architecture = build_architecture(config)
    channels = np.log(config.channels)
    rate = math.log(config.lr / (1 - config.momentum))
    settings = [
        *(math.log(config.lr), math.log(config.batch_size), rate, config.momentum),
        math.log10(config.weight_decay + 1e-8),
        *(config.depth, channels[0], channels[-1], channels.mean(), len(architecture.layers)),
        math.log(config.latent_channels + 1),
        *(math.log(architecture.latent_size), math.log(architecture.latent_shape[1])),
        *(math.log(architecture.n_params), math.log(architecture.flops)),
        *(np.mean(config.kernel), np.mean(config.convs), config.residual),
        *(len(config.gammas), np.mean(config.gammas), config.norm == "batch"),
        *compute_shares("downsample", config.downsample),
        *compute_shares("decoder_kind", config.decoder_kind),
        *(
            share
            for name in ("optimizer", "upsample", "activation", "output")
            for share in compute_shares(name, (getattr(config, name),))
        ),
    ]
    steps = np.log(np.arange(1, epochs + 1) / config.batch_size)
    # A step of SGD has the length of the gradient, which is small; steps of the other optimizers
    # have the length of the learning rate.
    path_length = steps + rate
    sgd = np.full(epochs, config.optimizer == "sgd")
    path = [
        steps,
        path_length,
        np.where(sgd, path_length, 0.0),
        np.where(sgd, 0.0, path_length),
    ]
    return np.column_stack([np.tile(settings, (epochs, 1)), *path])


def compute_shares(name: str, chosen: Sequence[str]) -> list[float]:
    """Compute for each allowed value of a setting the share of the stages that have it.

    Args:
        name: Name of a setting whose values are strings.
        chosen: Its value for each stage.

    Returns:
        Shares in [0, 1], in the order of the allowed values.
    """
    words = Config.model_fields[name].annotation
    while not all(isinstance(word, str) for word in get_args(words)):
        words = get_args(words)[0]
    return [chosen.count(word) / len(chosen) for word in get_args(words)]


def compute_costs(config: Config) -> Array:
    """Compute what the duration of an epoch is proportional to, a sum of three terms.

    Args:
        config: A configuration.

    Returns:
        Float64 (3,): layers / batch size for the overhead of a layer in each step, MFLOPs, and 1.
    """
    architecture = build_architecture(config)
    return np.array([len(architecture.layers) / config.batch_size, architecture.flops / 1e6, 1.0])


def make_regressor(n_rows: int) -> Any:
    """Make the regressor of the surrogate, a scikit-learn estimator.

    Args:
        n_rows: Number of rows that it is fitted to.

    Raises:
        InputError: scikit-learn is not installed.
    """
    try:
        from sklearn.compose import TransformedTargetRegressor
        from sklearn.ensemble import GradientBoostingRegressor
        from sklearn.preprocessing import QuantileTransformer
    except ImportError:
        raise InputError(
            "a surrogate needs scikit-learn; install it with: pip install 'raycae[simulate]'"
        ) from None
    trees = GradientBoostingRegressor(
        n_estimators=600,
        learning_rate=0.02,
        max_depth=5,
        min_samples_leaf=9,
        subsample=0.5,
        max_features=0.3,
        random_state=0,
    )
    # Ranks are mapped to a normal variable. With logarithms the few worst errors would dominate the
    # fit, and there would be fewer good predictions than good trials (analysis/FINDINGS.md).
    ranks = QuantileTransformer(
        n_quantiles=min(1000, n_rows), output_distribution="normal", random_state=0
    )
    return TransformedTargetRegressor(trees, transformer=ranks, check_inverse=False)
