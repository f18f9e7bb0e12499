"""Recorded learning curves, with a surrogate for configurations that were never run.

Configurations in the tables of a study have their recorded curves. The others get the prediction
of a surrogate plus the recorded deviation of a seed from its mean. So every proposal has a curve,
which is the same every time. Errors are validation errors (MSE, above 0). They differ by factors,
so means and deviations are those of their natural logarithms.
"""

from __future__ import annotations

import hashlib
import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from scipy.stats import spearmanr

from raycae.config import Config
from raycae.errors import InputError
from raycae.execution.surrogate import Array, Curve, Surrogate, average_log_errors
from raycae.space.space import Space
from raycae.storage.paths import Place
from raycae.study import tables
from raycae.study.plan import load_plan, load_study_space, read_study
from raycae.study.records import COMPLETE, FAIL

TRUSTED = 0.8
"""Smallest rank correlation on held-out configurations with which methods are compared."""
FEWEST = 20
"""Smallest number of configurations to fit and validate a surrogate."""
FOLDS = 10
"""Number of folds of the cross-validation of the surrogate."""
ALIKE = 3
"""Number of repeated configurations, nearest by their lowest error, from which a predicted curve
gets its noise. Configurations that learn nothing do so with every seed."""
NOT_DRAWN_FROM = {"flips", "precision"}
"""Settings that older races did not have. No recorded curve depends on them, and without them these
races can be run again."""


class Repeated(NamedTuple):
    """A configuration that was run with several seeds.

    Attributes:
        lowest: Minimum of the mean of the logarithmic curves.
        deviations: Deviations from that mean, float64 (n_seeds, epochs), scaled by
            sqrt(n / (n - 1)) so that their variance is unbiased.
    """

    lowest: float
    deviations: Array


@dataclass(frozen=True)
class Recorded:
    """Recorded curves over a space.

    Attributes:
        space: The search space.
        epochs: Number of epochs of every curve that did not diverge.
        curves: Curves by configuration and seed.
    """

    space: Space
    epochs: int
    curves: Mapping[Config, Mapping[int, Curve]]

    def get_curve(self, config: Config, seed: int) -> Curve:
        """Return the curve of a configuration, a function of `config` and `seed`.

        Args:
            config: A configuration.
            seed: Random seed of the trial.

        Returns:
            The recorded curve with this seed, else with the first recorded seed. For a
            configuration that was never run, the prediction of the surrogate plus the deviation of
            one seed of a configuration with a similar lowest error.

        Raises:
            InputError: There are too few curves to fit a surrogate.
        """
        if runs := self.curves.get(config):
            return runs.get(seed) or next(iter(runs.values()))
        logs = np.log(self.surrogate.predict_errors(config))
        if self.repeated:
            near = sorted(self.repeated, key=lambda other: abs(other.lowest - logs.min()))
            seen = np.concatenate([other.deviations for other in near[:ALIKE]])
            logs += seen[draw_number(config, seed) % len(seen)]
        good = next((i for i, log in enumerate(logs) if log > 0), self.epochs)
        errors = tuple(np.exp(logs[:good]).tolist())
        return Curve(errors, self.surrogate.predict_epoch_s(config), failed=good < self.epochs)

    @cached_property
    def repeated(self) -> list[Repeated]:
        """Configurations with several complete curves."""
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
        """The surrogate, fitted to all curves.

        Raises:
            InputError: There are too few curves.
        """
        self._require_enough()
        return Surrogate(self.curves, self.epochs)

    @cached_property
    def rank_correlation(self) -> float:
        """Spearman's correlation of recorded and predicted lowest errors, by cross-validation.

        Each configuration is predicted by a surrogate that was fitted without its fold.

        Raises:
            InputError: There are too few curves.
        """
        self._require_enough()
        configs = list(self.curves)
        order = np.random.default_rng(0).permutation(len(configs))
        recorded, predicted = [], []
        for fold in range(FOLDS):
            held_out = {configs[i] for i in order[fold::FOLDS]}
            rest = {config: self.curves[config] for config in configs if config not in held_out}
            surrogate = Surrogate(rest, self.epochs)
            recorded += [np.min(average_log_errors(self.curves[c], self.epochs)) for c in held_out]
            predicted += [np.min(surrogate.predict_errors(c)) for c in held_out]
        return float(spearmanr(recorded, predicted).statistic)

    def _require_enough(self) -> None:
        if len(self.curves) < FEWEST:
            raise InputError(
                f"{self.space.name}: {len(self.curves)} recorded configurations are too few for a "
                f"surrogate; it needs at least {FEWEST}"
            )

    @property
    def least(self) -> float:
        """The lowest recorded error."""
        runs = (run for seeds in self.curves.values() for run in seeds.values())
        return min(error for run in runs for error in run.errors)


def read_curves(folders: Sequence[Place]) -> Recorded:
    """Read the curves of studies: of the trials that ran to their end or diverged.

    Args:
        folders: The studies. All need the task, image size and epochs of the first, whose space is
            used.

    Raises:
        InputError: The studies do not go together, or there are no curves.
    """
    curves: dict[Config, dict[int, Curve]] = defaultdict(dict)
    first = read_study(folders[0])
    space, epochs = load_study_space(first), load_plan(first).epochs
    for folder in folders:
        content = read_study(folder)
        other, plan = load_study_space(content), load_plan(content)
        first_kind, kind = (
            (s.task, s.image_size, e) for s, e in ((space, epochs), (other, plan.epochs))
        )
        if kind != first_kind:
            words = ("{} at {} pixels, {} epochs".format(*k) for k in (kind, first_kind))
            raise InputError(f"{folder}: {' cannot be combined with '.join(words)}")
        for config, seed, curve in read_runs(folder, epochs):
            curves[config].setdefault(seed, curve)
    if not any(run.errors for runs in curves.values() for run in runs.values()):
        raise InputError(f"{folders[0]}: no trial ran to its end, so there are no curves to replay")
    return Recorded(space, epochs, dict(curves))


def read_runs(folder: Place, epochs: int) -> list[tuple[Config, int, Curve]]:
    """Read the curves of one study.

    Args:
        folder: The study.
        epochs: Number of epochs of a complete curve.

    Returns:
        Configuration, seed and curve of each trial that ran to its end or diverged. A trial that
        diverged in its first epoch has an empty curve; its epoch takes as long as the median one.

    Raises:
        InputError: An error or a duration is missing or not above 0.
    """
    epochs_table = tables.read_epochs(folder).sort_values("epoch")
    if epochs_table.empty:
        return []
    measured: dict[Any, pd.DataFrame] = dict(list(epochs_table.groupby("trial_number")))
    durations = epochs_table["epoch_time_s"].to_numpy(float, na_value=math.nan)
    usual_epoch_s = float(np.nanmedian(durations))
    runs = []
    for trial in tables.read_trials(folder, configs=False).to_dict("records"):
        number = trial["trial_number"]
        failed = trial["state"] == FAIL and str(trial["reason"]).startswith("diverged")
        if not (trial["state"] == COMPLETE or failed):
            continue
        rows = measured.get(number, epochs_table[:0])
        values = rows[["val_mse", "epoch_time_s"]].to_numpy(float, na_value=math.nan)
        if not (values > 0).all():
            raise InputError(f"{folder}: trial {number}: val_mse and epoch_time_s must be above 0")
        errors, seconds = values.T
        if failed or len(errors) == epochs:
            epoch_s = float(np.median(seconds)) if len(seconds) else usual_epoch_s
            curve = Curve(tuple(errors.tolist()), epoch_s, failed)
            config, _ = tables.check_config(folder / "trials.parquet", number, trial["config"])
            runs.append((config, int(trial["seed"]), curve))
    return runs


def draw_number(config: Config, seed: int) -> int:
    """Draw a number that depends on a configuration and a seed.

    Args:
        config: The configuration.
        seed: The seed.

    Returns:
        An integer of 64 bits.
    """
    text = f"{config.model_dump_json(exclude=NOT_DRAWN_FROM)} {seed}".encode()
    return int.from_bytes(hashlib.blake2b(text, digest_size=8).digest())
