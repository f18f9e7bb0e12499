"""Recorded learning curves, and a surrogate for configurations that nobody ran.

What a study's tables hold is answered as it was recorded. For the rest a surrogate is fitted to
them, and what seeds were seen to change is added; so every proposal has a curve, the
same one whenever it is asked for. Errors are validation errors (MSE, above 0), which differ by
factors: means and deviations are those of their logarithms.
"""

from __future__ import annotations

import hashlib
import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple, get_args

import numpy as np
import numpy.typing as npt
import pandas as pd
from scipy.optimize import nnls
from scipy.stats import spearmanr

from raycae import results
from raycae.architecture import architecture
from raycae.config import Config
from raycae.errors import InputError
from raycae.results import COMPLETE, FAIL
from raycae.space import Space
from raycae.storage import Place
from raycae.study import plan_of, space_of

Array = npt.NDArray[np.float64]

TRUSTED = 0.8
"""The rank correlation on held-out configurations below which methods are not compared."""
FEWEST = 20
"""Configurations that a surrogate can be fitted to, and held against."""
FOLDS = 10
ALIKE = 3
"""Of so many repeated configurations, those that end nearest to it, a curve gets its noise: what
learns nothing does so with every seed."""
DIVERGED = 10.0
"""What an epoch counts as in which a trial diverged, and those after it. Pictures lie in [0, 1]: an
error above 1 is none of a network that learnt anything."""


class Curve(NamedTuple):
    """A trial's validation error after each epoch, and the seconds that an epoch takes."""

    errors: tuple[float, ...]
    epoch_s: float
    failed: bool = False
    """It diverged in the epoch after the last of these."""


class Repeated(NamedTuple):
    """A configuration that was run with several seeds, by the logarithms of its errors."""

    least: float
    """Of the mean curve."""
    deviations: Array
    """(seeds, epochs), from the mean curve; as large as those from the true mean would be."""


@dataclass(frozen=True)
class Recorded:
    """Curves of `epochs` epochs over `space`: for each configuration one a seed."""

    space: Space
    epochs: int
    curves: Mapping[Config, Mapping[int, Curve]]

    def curve(self, config: Config, seed: int) -> Curve:
        """What was recorded, with this seed or, if that was not run, with the first one; else what
        the surrogate says, and on top what a seed was seen to do to curves that end about as low:
        a function of `config` and `seed`."""
        if runs := self.curves.get(config):
            return runs.get(seed) or next(iter(runs.values()))
        logs = np.log(self.surrogate.errors(config))
        if self.repeated:
            near = sorted(self.repeated, key=lambda other: abs(other.least - logs.min()))
            seen = np.concatenate([other.deviations for other in near[:ALIKE]])
            # Of precision no recorded curve says anything, and earlier races knew none.
            text = f"{config.model_dump_json(exclude={'precision'})} {seed}".encode()
            draw = int.from_bytes(hashlib.blake2b(text, digest_size=8).digest())
            logs += seen[draw % len(seen)]
        good = next((i for i, log in enumerate(logs) if log > 0), self.epochs)
        errors = tuple(np.exp(logs[:good]).tolist())
        return Curve(errors, self.surrogate.epoch_s(config), failed=good < self.epochs)

    @cached_property
    def repeated(self) -> list[Repeated]:
        found = []
        for runs in self.curves.values():
            logs = [np.log(run.errors) for run in runs.values() if len(run.errors) == self.epochs]
            if (n := len(logs)) > 1:
                mean = np.mean(logs, axis=0)
                deviations = (np.array(logs) - mean) * math.sqrt(n / (n - 1))
                found.append(Repeated(float(mean.min()), deviations))
        return found

    @cached_property
    def surrogate(self) -> Surrogate:
        """Raises `InputError` where there is too little to fit it to."""
        self._require_enough()
        return Surrogate(self.curves, self.epochs)

    @cached_property
    def rank_correlation(self) -> float:
        """Spearman's, of the least error of a curve and the surrogate's, each configuration being
        predicted by a surrogate that was fitted without it and a tenth of the others. Raises
        `InputError` where there are too few."""
        self._require_enough()
        configs = list(self.curves)
        order = np.random.default_rng(0).permutation(len(configs))
        told, predicted = [], []
        for fold in range(FOLDS):
            held_out = {configs[i] for i in order[fold::FOLDS]}
            rest = {config: self.curves[config] for config in configs if config not in held_out}
            surrogate = Surrogate(rest, self.epochs)
            told += [np.min(_log_errors(self.curves[c], self.epochs)) for c in held_out]
            predicted += [np.min(surrogate.errors(c)) for c in held_out]
        return float(spearmanr(told, predicted).statistic)

    def _require_enough(self) -> None:
        if len(self.curves) < FEWEST:
            raise InputError(
                f"{self.space.name}: {len(self.curves)} recorded configurations are too few for a "
                f"surrogate; it takes {FEWEST}"
            )

    @property
    def least(self) -> float:
        """The least error that any trial reached."""
        runs = (run for seeds in self.curves.values() for run in seeds.values())
        return min(error for run in runs for error in run.errors)


class Surrogate:
    """Gradient boosting of the errors' ranks, on what a configuration is and how far an epoch takes
    it: in steps, and in steps times the learning rate. A curve that diverged goes on at `DIVERGED`;
    no prediction is better than the best that was recorded."""

    def __init__(self, curves: Mapping[Config, Mapping[int, Curve]], epochs: int) -> None:
        self._epochs = epochs
        x = np.concatenate([_features(config, epochs) for config in curves])
        y = np.concatenate([_log_errors(runs, epochs) for runs in curves.values()])
        self._trees = _regressor(len(y)).fit(x, y)
        costs = np.array([_costs(config) for config in curves])
        seconds = np.array([np.mean([run.epoch_s for run in r.values()]) for r in curves.values()])
        # Weighted, so that it is ratios that are fitted: epochs differ by a factor of 20.
        self._seconds, _ = nnls(costs / seconds[:, None], np.ones(len(seconds)))

    def errors(self, config: Config) -> Array:
        """After each epoch, without any noise; above 1 where the trial would diverge."""
        return np.exp(self._trees.predict(_features(config, self._epochs)))

    def epoch_s(self, config: Config) -> float:
        return float(_costs(config) @ self._seconds)


def read(folders: Sequence[Place]) -> Recorded:
    """The curves of the studies in `folders`: of trials that ran to their end or diverged. The
    others have to have the first one's task and epochs; the space is the first one's.

    Raises `InputError` where that is not so, or there are no curves.
    """
    curves: dict[Config, dict[int, Curve]] = defaultdict(dict)
    first = results.read_study(folders[0])
    space, epochs = space_of(first), plan_of(first).epochs
    for folder in folders:
        content = results.read_study(folder)
        other, plan = space_of(content), plan_of(content)
        ours, theirs = (
            (s.task, s.image_size, e) for s, e in ((space, epochs), (other, plan.epochs))
        )
        if ours != theirs:
            words = ("{} at {} pixels, {} epochs".format(*what) for what in (theirs, ours))
            raise InputError(f"{folder}: {' does not go with '.join(words)}")
        for config, seed, curve in _runs(folder, epochs):
            curves[config].setdefault(seed, curve)
    if not curves:
        raise InputError(f"{folders[0]}: no trial ran to its end, so there are no curves to replay")
    return Recorded(space, epochs, dict(curves))


def _runs(folder: Place, epochs: int) -> list[tuple[Config, int, Curve]]:
    epochs_table = results.read_epochs(folder).sort_values("epoch")
    measured: dict[Any, pd.DataFrame] = dict(list(epochs_table.groupby("trial_number")))
    runs = []
    for trial in results.read_trials(folder).to_dict("records"):
        number = trial["trial_number"]
        failed = trial["state"] == FAIL and str(trial["reason"]).startswith("diverged")
        if number not in measured or not (trial["state"] == COMPLETE or failed):
            continue
        told = measured[number][["val_mse", "epoch_time_s"]].to_numpy(float, na_value=math.nan)
        if not (told > 0).all():
            raise InputError(
                f"{folder}: trial {number}: val_mse and epoch_time_s of a curve are above 0"
            )
        errors, seconds = told.T
        if failed or len(errors) == epochs:
            curve = Curve(tuple(errors.tolist()), float(np.median(seconds)), failed)
            runs.append((Config.model_validate_json(trial["config"]), int(trial["seed"]), curve))
    return runs


def _log_errors(runs: Mapping[int, Curve], epochs: int) -> Array:
    """The mean curve of a configuration's seeds."""
    logs = [
        np.log([*run.errors, *[DIVERGED] * (epochs - len(run.errors))]) for run in runs.values()
    ]
    return np.mean(logs, axis=0)


def _features(config: Config, epochs: int) -> Array:
    """(epochs, features): what the surrogate knows of a configuration after each epoch."""
    net = architecture(config)
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
        *_shares("downsample", config.downsample),
        *_shares("decoder_kind", config.decoder_kind),
        *(
            share
            for name in ("optimizer", "upsample", "activation", "output")
            for share in _shares(name, (getattr(config, name),))
        ),
    ]
    steps = np.log(np.arange(1, epochs + 1) / config.batch_size)
    # A step of SGD is as long as the gradient, and those are small; the others' as the rate.
    far = steps + rate
    sgd = np.full(epochs, config.optimizer == "sgd")
    path = [steps, far, np.where(sgd, far, 0.0), np.where(sgd, 0.0, far)]
    return np.column_stack([np.tile(settings, (epochs, 1)), *path])


def _shares(name: str, chosen: Sequence[str]) -> list[float]:
    """For each of the words that a setting may be, which share of the stages has it."""
    words = Config.model_fields[name].annotation
    while not all(isinstance(word, str) for word in get_args(words)):
        words = get_args(words)[0]
    return [chosen.count(word) / len(chosen) for word in get_args(words)]


def _costs(config: Config) -> Array:
    """What an epoch's time is a sum of: something for each layer of each step, something for each
    operation, something once."""
    net = architecture(config)
    return np.array([len(net.layers) / config.batch_size, net.flops / 1e6, 1.0])


def _regressor(n_rows: int) -> Any:
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
