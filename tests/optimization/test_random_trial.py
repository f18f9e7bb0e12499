"""Random draws without an Optuna study."""

from __future__ import annotations

import numpy as np
import optuna
import pytest

from raycae.optimization.random_trial import RandomTrial
from raycae.space import loading
from raycae.space.parameters import Suggest
from raycae.space.space import Space

EVERY_KIND = """
task: reconstruct
params:
  lr: {type: float, low: 1.0e-4, high: 1.0e-1, log: true}
  weight_decay: {type: float, low: 0.0, high: 0.1}
  momentum: {type: float, low: 0.1, high: 0.9, step: 0.1}
  batch_size: {type: int, low: 1, high: 64, log: true}
  channels: {type: int, low: 4, high: 32, step: 4, per: stage}
  depth: {type: int, low: 1, high: 3}
  latent_channels: {type: int, low: 8, high: 8}
  averaging: {type: float, low: 0.9, high: 0.9}
  optimizer: {type: categorical, choices: [adam, sgd]}
  kernel: {type: categorical, choices: [3]}
"""
"""Each kind of range, with one value and with several."""

TWO_VALUES = """
task: reconstruct
params:
  momentum: {type: float, low: 0.8, high: 0.9, step: 0.1}
  optimizer: {type: categorical, choices: [sgd]}
  averaging: {type: float, low: 0.1, high: 0.25, step: 0.1}
  batch_size: {type: int, low: 1, high: 64}
"""
"""In binary, 0.9 - 0.8 is less than 0.1. A high between two steps is lowered to the one below."""

SPACES = [
    *(
        loading.parse_space(text, name=name)
        for name, text in (("kinds", EVERY_KIND), ("two-values", TWO_VALUES))
    ),
    *map(loading.load_space, ("ex2", "ex3")),
]


@pytest.mark.parametrize("space", SPACES, ids=lambda space: space.name)
def test_the_values_are_optunas(space: Space) -> None:
    """Oracle: Optuna's random sampler with the same seed, trial after trial, equal to the bit."""
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(7))
    random = np.random.RandomState(7)
    for _ in range(100):
        own, optunas = RandomTrial(random), study.ask()
        assert space.draw(own) == space.draw(optunas)
        assert own.params == optunas.params
        assert [*map(type, own.params.values())] == [*map(type, optunas.params.values())]


@pytest.mark.parametrize("space", SPACES, ids=lambda space: space.name)
def test_what_is_given_is_not_drawn(space: Space) -> None:
    """Oracle: an enqueued trial of Optuna's with the same seed."""

    def draw(trial: Suggest) -> None:
        space.draw(trial)

    first = RandomTrial(np.random.RandomState(3))
    draw(first)
    given = dict(list(first.params.items())[1::2])
    for seed in range(10):
        study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed))
        study.enqueue_trial(given)
        own, optunas = RandomTrial(np.random.RandomState(seed), given), study.ask()
        draw(own)
        draw(optunas)
        assert own.params == optunas.params
