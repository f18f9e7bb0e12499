"""A surrogate model of recorded learning curves for configurations that were never run."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, get_args

import numpy as np
import numpy.typing as npt
from scipy.optimize import nnls

from raycae.config import Config
from raycae.errors import InputError
from raycae.model.architecture import build_architecture

Array = npt.NDArray[np.float64]
DIVERGED = 10.0
"""What an epoch counts as in which a trial diverged, and those after it. Pictures lie in [0, 1]: an
error above 1 is none of a network that learnt anything."""


class Curve(NamedTuple):
    """A trial's validation error after each epoch, and the seconds that an epoch takes."""

    errors: tuple[float, ...]
    epoch_s: float
    failed: bool = False
    """It diverged in the epoch after the last of these."""


class Surrogate:
    """Gradient boosting of the errors' ranks, on what a configuration is and how far an epoch takes
    it: in steps, and in steps times the learning rate. A curve that diverged goes on at `DIVERGED`;
    no prediction is better than the best that was recorded."""

    def __init__(self, curves: Mapping[Config, Mapping[int, Curve]], epochs: int) -> None:
        self._epochs = epochs
        x = np.concatenate([compute_features(config, epochs) for config in curves])
        y = np.concatenate([average_log_errors(runs, epochs) for runs in curves.values()])
        self._trees = make_regressor(len(y)).fit(x, y)
        costs = np.array([compute_costs(config) for config in curves])
        seconds = np.array([np.mean([run.epoch_s for run in r.values()]) for r in curves.values()])
        # Weighted, so that it is ratios that are fitted: epochs differ by a factor of 20.
        self._seconds, _ = nnls(costs / seconds[:, None], np.ones(len(seconds)))

    def errors(self, config: Config) -> Array:
        """After each epoch, without any noise; above 1 where the trial would diverge."""
        return np.exp(self._trees.predict(compute_features(config, self._epochs)))

    def epoch_s(self, config: Config) -> float:
        return float(compute_costs(config) @ self._seconds)


def average_log_errors(runs: Mapping[int, Curve], epochs: int) -> Array:
    """The mean curve of a configuration's seeds."""
    logs = [
        np.log([*run.errors, *[DIVERGED] * (epochs - len(run.errors))]) for run in runs.values()
    ]
    return np.mean(logs, axis=0)


def compute_features(config: Config, epochs: int) -> Array:
    """(epochs, features): what the surrogate knows of a configuration after each epoch."""
    net = build_architecture(config)
    channels = np.log(config.channels)
    rate = math.log(config.lr / (1 - config.momentum))
    settings = [
        *(math.log(config.lr), math.log(config.batch_size), rate, config.momentum),
        math.log10(config.weight_decay + 1e-8),
        *(config.depth, channels[0], channels[-1], channels.mean(), len(net.layers)),
        math.log(config.latent_channels + 1),
        *(math.log(net.latent_size), math.log(net.latent_shape[1])),
        *(math.log(net.n_params), math.log(net.flops)),
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
    # A step of SGD is as long as the gradient, and those are small; the others' as the rate.
    far = steps + rate
    sgd = np.full(epochs, config.optimizer == "sgd")
    path = [steps, far, np.where(sgd, far, 0.0), np.where(sgd, 0.0, far)]
    return np.column_stack([np.tile(settings, (epochs, 1)), *path])


def compute_shares(name: str, chosen: Sequence[str]) -> list[float]:
    """For each of the words that a setting may be, which share of the stages has it."""
    words = Config.model_fields[name].annotation
    while not all(isinstance(word, str) for word in get_args(words)):
        words = get_args(words)[0]
    return [chosen.count(word) / len(chosen) for word in get_args(words)]


def compute_costs(config: Config) -> Array:
    """What an epoch's time is a sum of: something for each layer of each step, something for each
    operation, something once."""
    net = build_architecture(config)
    return np.array([len(net.layers) / config.batch_size, net.flops / 1e6, 1.0])


def make_regressor(n_rows: int) -> Any:
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
    # Ranks, as a normal variable: logarithms would leave it to the few worst what is fitted, and
    # predictions with a shorter tail of good ones than the table has (analysis/FINDINGS.md).
    ranks = QuantileTransformer(
        n_quantiles=min(1000, n_rows), output_distribution="normal", random_state=0
    )
    return TransformedTargetRegressor(trees, transformer=ranks, check_inverse=False)
