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
"""The rank correlation on held-out configurations below which methods are not compared."""
FEWEST = 20
"""Configurations that a surrogate can be fitted to, and held against."""
FOLDS = 10
ALIKE = 3
"""Of so many repeated configurations, those that end nearest to it, a curve gets its noise: what
learns nothing does so with every seed."""


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
            told += [np.min(average_log_errors(self.curves[c], self.epochs)) for c in held_out]
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


def read_curves(folders: Sequence[Place]) -> Recorded:
    """The curves of the studies in `folders`: of trials that ran to their end or diverged. The
    others have to have the first one's task and epochs; the space is the first one's.

    Raises `InputError` where that is not so, or there are no curves.
    """
    curves: dict[Config, dict[int, Curve]] = defaultdict(dict)
    first = read_study(folders[0])
    space, epochs = load_study_space(first), load_plan(first).epochs
    for folder in folders:
        content = read_study(folder)
        other, plan = load_study_space(content), load_plan(content)
        ours, theirs = (
            (s.task, s.image_size, e) for s, e in ((space, epochs), (other, plan.epochs))
        )
        if ours != theirs:
            words = ("{} at {} pixels, {} epochs".format(*what) for what in (theirs, ours))
            raise InputError(f"{folder}: {' does not go with '.join(words)}")
        for config, seed, curve in read_runs(folder, epochs):
            curves[config].setdefault(seed, curve)
    if not curves:
        raise InputError(f"{folders[0]}: no trial ran to its end, so there are no curves to replay")
    return Recorded(space, epochs, dict(curves))


def read_runs(folder: Place, epochs: int) -> list[tuple[Config, int, Curve]]:
    epochs_table = tables.read_epochs(folder).sort_values("epoch")
    measured: dict[Any, pd.DataFrame] = dict(list(epochs_table.groupby("trial_number")))
    runs = []
    for trial in tables.read_trials(folder).to_dict("records"):
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
