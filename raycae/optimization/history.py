"""What the sampler sees of earlier trials."""

from __future__ import annotations

import itertools
import math
import statistics
from collections.abc import Mapping
from typing import Any

import optuna
from optuna.trial import FrozenTrial, TrialState

LEAST_ERROR = 1e-12
"""Of logarithms; below is rounding."""
NOTHING: Mapping[Any, Any] = {}
WINDOW = 200
"""So many trials at most are laid before the sampler: the best ones and those that run, a quarter
each, and the newest. What it takes to propose would grow with the study."""


def extrapolate_unfinished(trials: dict[int, FrozenTrial]) -> dict[int, FrozenTrial]:
    """What has an epoch but no end yet, or was stopped, as if it had run as far as the farthest:
    with its least error times the typical factors by which those that went on fell from there.

    Optuna takes any stopped trial for worse than any that ran to its end, and the first of these
    ran so far for want of company; and one that runs for as bad as the worst, though it may run
    because it is good (analysis/FINDINGS.md).
    """
    curves = {number: accumulate_least(trial) for number, trial in trials.items()}
    longest = max(map(len, curves.values()), default=0)
    to_come = [0.0] * (longest + 1)
    """What the logarithm of the error still gains, by epochs run."""
    for epochs in range(longest - 1, 0, -1):
        falls = [
            curve[epochs] - curve[epochs - 1] for curve in curves.values() if epochs < len(curve)
        ]
        to_come[epochs] = to_come[epochs + 1] + statistics.median(falls)
    return {
        number: optuna.trial.create_trial(
            value=math.exp(curves[number][-1] + to_come[len(curves[number])]),
            params=trial.params,
            distributions=trial.distributions,
        )
        if curves[number] and trial.state != TrialState.COMPLETE
        else trial
        for number, trial in trials.items()
    }


class SharedFrozenTrial(FrozenTrial):
    """A trial whose settings and curve nobody changes any more. Optuna copies what it is given; to
    do that in depth was a third of a proposal."""

    def __init__(self, trial: FrozenTrial) -> None:
        vars(self).update(vars(trial))

    def __deepcopy__(self, memo: dict[int, Any]) -> SharedFrozenTrial:
        return SharedFrozenTrial(self)


def accumulate_least(trial: FrozenTrial) -> list[float]:
    """The logarithm of the least error after each epoch."""
    errors = (error for _, error in sorted(trial.intermediate_values.items()))
    return [math.log(max(error, LEAST_ERROR)) for error in itertools.accumulate(errors, min)]
