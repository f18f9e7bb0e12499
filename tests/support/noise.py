"""Studies whose errors are pure noise, or noise with one strong effect, and what a report says of
them."""

from __future__ import annotations

import functools
import re
from typing import Any

import numpy as np
import optuna
import pandas as pd
from synthetic_study import Chance

from raycae.config import Config
from raycae.model.architecture import build_architecture
from raycae.report.sampled_values import Parameters
from raycae.report.sections import importance, search_health, single_changes, slices
from raycae.report.sections.latent_shape import describe_sides
from raycae.space import loading
from raycae.space.space import Space
from raycae.study.records import COMPLETE, FAIL, PRUNED

EPOCHS = 4

FEW_VALUES = """
task: reconstruct
params:
  kernel: {type: categorical, choices: [3, 5]}
  norm: {type: categorical, choices: [none, batch]}
  activation: {type: categorical, choices: [relu, silu]}
  downsample: {type: categorical, choices: [max, stride]}
  batch_size: {type: categorical, choices: [16, 32, 64]}
  latent_channels: {type: int, low: 4, high: 8}
"""
"""240 configurations: many trials differ in one setting alone."""

RANGES = """
task: reconstruct
params:
  lr: {type: float, low: 1.0e-4, high: 1.0e-2, log: true}
  weight_decay: {type: float, low: 0.0, high: 0.1}
  optimizer: {type: categorical, choices: [adam, adamw, sgd]}
  momentum: {type: float, low: 0.0, high: 0.9, when: {optimizer: sgd}}
  depth: {type: int, low: 1, high: 3}
  latent_channels: {type: int, low: 2, high: 24}
  batch_size: {type: int, low: 8, high: 128, log: true}
"""
"""Ranges with edges, and latents of one size with several shapes."""

SPACES = {"few values": FEW_VALUES, "ranges": RANGES}

NOISE = ("normal", "t3", "lognormal", "rounded")
"""Of the log error: normal, t with three degrees of freedom, skewed, normal of two digits."""

SAID = {
    "importance": r"matters? (most|for reaching)|most about which trials",
    "values in common": r"^(All of the best|The best trial drew)",
    "pairs": r"[Tt]he clearest effect is",
    "edges": r"^(Try|Widen) ",
    "regions of failures": r"region",
    "shapes": r"here\.$",
}
"""How each sentence begins to single something out, by the name of the sentence."""


@functools.cache
def space_of(kind: str) -> Space:
    return loading.parse_space(SPACES[kind], name="noise")


@functools.lru_cache(maxsize=100_000)
def _facts(text: str) -> tuple[int, int]:
    net = build_architecture(Config.model_validate_json(text))
    return net.latent_size, net.latent_shape[1] * net.latent_shape[2]


def _noise(random: np.random.Generator, kind: str, n: int) -> Any:
    draws = {
        "normal": lambda: random.normal(0, 0.1, n),
        "t3": lambda: 0.1 * random.standard_t(3, n),
        "lognormal": lambda: random.lognormal(-2, 1, n),
        "rounded": lambda: random.normal(0, 0.1, n),
    }
    errors = 0.01 * np.exp(draws[kind]())
    return np.array([float(f"{e:.1e}") for e in errors]) if kind == "rounded" else errors


def made_page(
    seed: int,
    *,
    kind: str = "few values",
    n: int = 60,
    sampler: str = "random",
    noise: str = "normal",
    seeds: int = 1,
    factors: dict[tuple[str, Any], float] | None = None,
) -> tuple[pd.DataFrame, pd.DataFrame, Parameters]:
    """Make up the trials and epochs of one study.

    Args:
        seed: Of everything random.
        kind: One of `SPACES`.
        n: How many configurations.
        sampler: `random`, or `tpe`, which is told the errors.
        noise: One of `NOISE`.
        seeds: How often each configuration runs; what a configuration is worth then is noise, too.
        factors: What multiplies the error of a trial with this setting at this value. Without any
            nothing matters.

    Returns:
        The two tables and what was searched. A quarter of the trials is stopped after an epoch by
        its error alone, a tenth fails at random.
    """
    random = np.random.default_rng(seed)
    the_space = space_of(kind)
    chance = Chance(seed + 1_000_000)
    study = None
    if sampler == "tpe":
        optuna.logging.set_verbosity(optuna.logging.ERROR)
        study = optuna.create_study(sampler=optuna.samplers.TPESampler(seed=seed))
    rows: list[dict[str, Any]] = []
    curves: list[tuple[int, int, float]] = []
    known: set[str] = set()
    is_repeat = False
    while len(known) < n:
        chance.told = {}
        trial = None if study is None or is_repeat else study.ask()
        is_repeat = False
        text = the_space.draw(chance if trial is None else trial).to_json()
        params = dict(chance.told if trial is None else trial.params)
        if text in known:
            if study is not None and trial is not None:
                study.tell(trial, state=optuna.trial.TrialState.FAIL)
            is_repeat = True  # the next one is drawn at random: TPE would go on repeating itself
            continue
        known.add(text)
        worth = _noise(random, noise, 1)[0] / 0.01 if seeds > 1 else 1.0
        for other in range(seeds):
            error = float(worth * _noise(random, noise, 1)[0])
            for (name, value), factor in (factors or {}).items():
                error *= factor if params.get(name) == value else 1.0
            state = FAIL if random.random() < 0.1 else COMPLETE
            if state == COMPLETE and random.random() < 0.5 and error > 0.01:
                state = PRUNED
            length = {COMPLETE: EPOCHS, PRUNED: 1, FAIL: 0}[state]
            number = len(rows)
            errors = [error * (1 + (EPOCHS - e) / EPOCHS) for e in range(1, length + 1)]
            curves += [(number, e, value) for e, value in enumerate(errors, 1)]
            size, positions = _facts(text)
            rows.append(
                {f"params_{name}": value for name, value in params.items()}
                | {"trial_number": number, "state": state, "seed": other, "config": text}
                | {"val_mse": errors[-1] if errors else None, "latent_size": size}
                | {"latent_positions": positions, "reason": "diverged" if state == FAIL else None}
            )
        if study is not None and trial is not None:
            study.tell(trial, error)
        elif study is not None:
            kinds = {name: the_space.parameters[name].distribution for name in params}
            added = optuna.trial.create_trial(params=params, distributions=kinds, value=error)
            study.add_trial(added)
    trials = pd.DataFrame(rows).astype({"val_mse": "Float64"})
    epochs = pd.DataFrame(curves, columns=["trial_number", "epoch", "val_mse"])
    return trials, epochs, the_space.parameters


def announced(trials: pd.DataFrame, epochs: pd.DataFrame, parameters: Parameters) -> dict[str, str]:
    """Return those sentences of `SAID` that single something out, by name."""
    weights = importance.compute_importance(trials, parameters)
    n = len(importance.select_weighed(trials))
    weighed = importance.describe_importance(weights, n) or ""
    if hasattr(importance, "FEWEST_RANKED"):
        paired = single_changes.compare_single_changes(trials, epochs)
        edges = search_health.describe_edges(search_health.find_edges(trials, parameters), n)
    else:  # versions before 2026-11-29, for the benchmark's comparison
        paired = single_changes.compare_single_changes(trials)
        edges = search_health.describe_edges(search_health.find_edges(trials, parameters))  # type: ignore[call-arg]
    said = {
        "importance": weighed,
        "values in common": slices.describe_common_choices(trials, parameters),
        "pairs": single_changes.describe_single_changes(paired),
        "edges": edges,
        "regions of failures": " ".join(
            f"region {region}"
            for region in search_health.find_failing_regions(trials, parameters)["region"]
        ),
        "shapes": describe_sides(trials) or "",
    }
    return {name: text for name, text in said.items() if re.search(SAID[name], text)}


def reshuffled(
    page: tuple[pd.DataFrame, pd.DataFrame, Parameters], seed: int
) -> tuple[pd.DataFrame, pd.DataFrame, Parameters]:
    """Give the configurations of a page of pure noise each other's errors at random: another page
    of pure noise, at little cost."""
    trials, epochs, parameters = page
    order = np.random.default_rng(seed).permutation(len(trials))
    measured = ["trial_number", "state", "val_mse", "reason"]
    mixed = trials.assign(**{name: trials[name].to_numpy()[order] for name in measured})
    return mixed.astype({"val_mse": "Float64"}), epochs, parameters
