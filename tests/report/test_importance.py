"""What mattered: weights, slices and pairs, against trials whose effects are put in by hand."""

from __future__ import annotations

import math
import random
from typing import Any

import numpy as np
import optuna
import pandas as pd
import pytest
import scipy.stats
from hypothesis import given
from hypothesis import strategies as st

from raycae.config import resolve
from raycae.report import sampled_values
from raycae.report.sections import importance, parameter_maps, single_changes
from raycae.report.sections.slices import (
    describe_common_choices,
    draw_parallel_coordinates,
    draw_slice,
    make_slices,
)
from raycae.report.significance import LEVEL
from raycae.report.similar_cost import compute_relative_ranks, rank_by_error
from raycae.space import loading
from raycae.space import parameters as space_parameters
from raycae.space.parameters import CategoricalParameter
from raycae.study.records import COMPLETE, PRUNED

SPACE = """
task: reconstruct
params:
  lr: {type: float, low: 1.0e-4, high: 1.0e-2, log: true}
  optimizer: {type: categorical, choices: [adam, sgd]}
  momentum: {type: float, low: 0.0, high: 0.9, when: {optimizer: sgd}}
  kernel: {type: categorical, choices: [3, 5]}
  latent_channels: {type: int, low: 2, high: 10}
"""
PARAMETERS = loading.parse_space(SPACE, name="s").parameters


def made_trials(rows: list[tuple[dict[str, Any], float]], **columns: Any) -> pd.DataFrame:
    """Complete trials: what each drew, which is also all its configuration says, and its error."""
    drawn = pd.DataFrame([settings for settings, _ in rows]).convert_dtypes()
    frame = drawn.rename(columns=lambda name: f"params_{name}").assign(
        trial_number=range(len(rows)),
        state=COMPLETE,
        seed=0,
        val_mse=pd.array([val_mse for _, val_mse in rows], "Float64"),
        config=[resolve(settings).to_json() for settings, _ in rows],
    )
    return frame.assign(**columns)


def searched(n: int) -> pd.DataFrame:
    """Trials whose error follows from `lr` alone, least in the middle of its range; momentum is
    drawn where the optimizer is SGD."""
    chance = np.random.default_rng(0)
    rows = []
    for _ in range(n):
        settings: dict[str, Any] = {"lr": float(10 ** chance.uniform(-4, -2))}
        settings |= {"optimizer": str(chance.choice(["adam", "sgd"])), "kernel": 3}
        settings |= {"latent_channels": int(chance.integers(2, 11))}
        if settings["optimizer"] == "sgd":
            settings["momentum"] = float(chance.uniform(0, 0.9))
        rows.append((settings, 0.01 * (1 + (math.log10(settings["lr"]) + 3) ** 2)))
    return made_trials(rows)


def test_the_parameter_that_makes_the_error_has_the_weight() -> None:
    """Oracle: the error is a function of `lr`; a conditional parameter counts its own trials."""
    trials = searched(200)
    weights = importance.compute_importance(trials, PARAMETERS).set_index("parameter")
    assert weights["share"].sum() == pytest.approx(1)
    assert weights.index[0] == "lr"
    assert weights.loc["lr", "share"] > 0.5
    assert weights.loc["momentum", "n"] == (trials["params_optimizer"] == "sgd").sum()
    assert weights.loc["lr", "n"] == 200
    assert (weights["low"] <= weights["high"]).all()
    assert weights.loc["lr", "low"] > weights["high"].drop("lr").max()
    assert weights.loc["lr", "p"] < 1e-6
    assert (weights["p"].drop("lr") > 0.05).all()
    share = weights.loc["lr", "share"]
    said = importance.describe_importance(weights.reset_index(), 200)
    assert said.startswith(
        f"lr matters most for reaching the best tenth: its share of the importance is {share:.0%} ("
    )


def test_importance_is_optunas() -> None:
    """Oracle: Optuna's own PED-ANOVA of the same trials, for ranges, whole numbers, steps, log
    scales, choices and a parameter that half of the trials draw."""
    text = """
task: reconstruct
params:
  lr: {type: float, low: 1.0e-4, high: 1.0e-2, log: true}
  optimizer: {type: categorical, choices: [adam, sgd]}
  momentum: {type: float, low: 0.0, high: 0.9, when: {optimizer: sgd}}
  weight_decay: {type: float, low: 0.0, high: 0.1, step: 0.01}
  kernel: {type: categorical, choices: [3, 5, 7]}
  latent_channels: {type: int, low: 2, high: 100, log: true}
  batch_size: {type: int, low: 16, high: 128, step: 16}
"""
    parameters = loading.parse_space(text, name="s").parameters
    chance = np.random.default_rng(1)
    rows: list[tuple[dict[str, Any], float]] = []
    study = optuna.create_study()
    for _ in range(120):
        drawn: dict[str, Any] = {"lr": float(10 ** chance.uniform(-4, -2))}
        drawn |= {"optimizer": str(chance.choice(["adam", "sgd"]))}
        drawn |= {"kernel": int(chance.choice([3, 5, 7])), "latent_channels": 2}
        drawn["latent_channels"] = int(chance.integers(2, 101))
        drawn["batch_size"] = 16 * int(chance.integers(1, 9))
        drawn["weight_decay"] = 0.01 * int(chance.integers(0, 11))
        if drawn["optimizer"] == "sgd":
            drawn["momentum"] = float(chance.uniform(0, 0.9))
        error = float(0.01 * chance.lognormal(0, 0.5) * (1 + (math.log10(drawn["lr"]) + 3) ** 2))
        rows.append((drawn, error))
        kinds = {name: parameters[name].distribution for name in drawn}
        trial = optuna.trial.create_trial(params=drawn, distributions=kinds, value=error)
        study.add_trial(trial)
    evaluator = optuna.importance.PedAnovaImportanceEvaluator(target_quantile=0.1)
    theirs = optuna.importance.get_param_importances(study, evaluator=evaluator)
    total = sum(theirs.values())
    ours = importance.compute_importance(made_trials(rows), parameters)
    found = dict(zip(ours["parameter"], ours["share"], strict=True))
    assert found == pytest.approx({name: value / total for name, value in theirs.items()})


@pytest.mark.parametrize("n", [0, 1, 9, 49])
def test_few_trials_have_no_weights(n: int) -> None:
    """Oracle: the contract, fifty at least, and the sentence says how many there are."""
    trials = searched(50).head(n)
    assert importance.compute_importance(trials, PARAMETERS).empty
    said = importance.describe_importance(importance.compute_importance(trials, PARAMETERS), n)
    assert said == (
        "Parameters are not ranked yet. Ranking needs 50 different configurations with a measured "
        f"error; this study has {n}."
    )


def test_repeats_are_no_evidence() -> None:
    """Oracle: the contract. 25 configurations with three seeds are 25, too few to be ranked."""
    trials = pd.concat([searched(25).assign(seed=seed) for seed in range(3)], ignore_index=True)
    trials["trial_number"] = range(75)
    assert importance.compute_importance(trials, PARAMETERS).empty
    assert len(importance.select_weighed(trials)) == 25


@given(st.integers(0, 9000))
def test_importance_rests_on_a_bounded_number_of_trials(n: int) -> None:
    """Oracle: all of them up to 2,000; above that at most as many, and more than half."""
    trials = pd.DataFrame({"state": COMPLETE, "val_mse": pd.array([0.1] * n, "Float64")})
    trials = trials.assign(trial_number=range(n), config=list(map(str, range(n))))
    kept = len(importance.select_weighed(trials))
    assert kept == n if n <= 2000 else 1000 < kept <= 2000


def test_there_is_a_slice_for_every_parameter_that_was_drawn() -> None:
    """Oracle: by hand. The best tenth of twenty trials are the two with the least error; momentum's
    slice has the SGD trials alone; stopped trials are among the points."""
    rows: list[tuple[dict[str, Any], float]] = [
        ({"lr": 1e-4 * (i + 1), "optimizer": "adam", "latent_channels": 2 + i % 9}, 0.5 - i / 100)
        for i in range(18)
    ]
    rows += [({"lr": 5e-3, "optimizer": "sgd", "momentum": 0.5, "latent_channels": 4}, 0.01)]
    rows += [({"lr": 8e-3, "optimizer": "sgd", "momentum": 0.7, "latent_channels": 8}, 0.02)]
    trials = made_trials(rows, state=[COMPLETE] * 19 + [PRUNED])
    slices = {data.name: data for data in make_slices(trials, PARAMETERS)}
    assert list(slices) == ["lr", "optimizer", "momentum", "latent_channels"]
    assert slices["lr"].best == "0.005 to 0.008"
    assert slices["optimizer"].best == "sgd"
    assert slices["latent_channels"].best == "4 to 8"
    assert slices["momentum"].points["trial_number"].tolist() == [18, 19]
    figure = draw_slice(slices["lr"])
    assert sum(len(trace.x) for trace in figure.data) == 20
    assert figure.layout.xaxis.type == "log"


def test_values_outside_the_space_are_no_values() -> None:
    """Oracle: by hand; a point may lie outside, and words and numbers share a column of words."""
    mixed = space_parameters.CategoricalParameter(type="categorical", choices=[3, "wide", True])
    trials = pd.DataFrame({"params_p": ["3", "wide", "True", "5", None]})
    assert sampled_values.get_drawn_values(trials, "p", mixed).tolist() == [
        3,
        "wide",
        True,
        None,
        None,
    ]
    lr = pd.DataFrame({"params_lr": [1e-3, 1.0, None]})
    assert sampled_values.get_drawn_values(lr, "lr", PARAMETERS["lr"]).tolist() == [
        1e-3,
        None,
        None,
    ]
    assert sampled_values.get_drawn_values(lr, "gone", PARAMETERS["lr"]).isna().all()


@given(st.floats(1e-4, 1e-2), st.floats(1e-4, 1e-2))
def test_positions_keep_the_order_of_values(one: float, other: float) -> None:
    """Oracle: the property; 0 and 1 are the ends of the range."""
    at, then = (
        sampled_values.get_position(value, PARAMETERS["lr"]) for value in sorted((one, other))
    )
    assert -1e-9 <= at <= then <= 1 + 1e-9
    assert sampled_values.get_position(1e-4, PARAMETERS["lr"]) == 0
    assert sampled_values.get_position(1e-2, PARAMETERS["lr"]) == 1
    assert sampled_values.list_marks(PARAMETERS["kernel"]) == [(0.0, "3"), (1.0, "5")]


def test_pairs_agree_in_all_else() -> None:
    """Oracle: by hand. Kernels: 0.8 and 0.9 times, so the geometric mean sqrt(0.72), of too few
    pairs for an interval; the decoder's kernel goes along. SGD's momentum does not part it from
    Adam. A trial that also differs in the rate, and one that was stopped and of which no epoch is
    known, make no pair."""
    rows: list[tuple[dict[str, Any], float]] = [
        ({"kernel": 3, "lr": 1e-3}, 0.010),
        ({"kernel": 5, "lr": 1e-3}, 0.008),
        ({"kernel": 3, "lr": 2e-3, "downsample": "stride"}, 0.020),
        ({"kernel": 5, "lr": 2e-3, "downsample": "stride"}, 0.018),
        ({"optimizer": "sgd", "momentum": 0.9, "lr": 1e-3, "kernel": 3}, 0.02),
        ({"kernel": 7, "lr": 1e-3}, 0.001),
    ]
    trials = made_trials(rows, state=[COMPLETE] * 5 + [PRUNED])
    found = single_changes.compare_single_changes(trials)
    assert found[["setting", "value", "other", "n"]].to_numpy().tolist() == [
        ["kernel", "5", "3", 2],
        ["optimizer", "adam", "sgd", 1],
    ]
    assert found["ratio"].tolist() == pytest.approx([math.sqrt(0.72), 0.5])
    assert found["low"].isna().all()
    assert single_changes.describe_single_changes(found) == (
        "3 pairs of trials differ in one setting alone. No effect can be distinguished from "
        "chance. That needs at least 5 independent pairs for one effect; the largest number is 2."
    )


def test_intervals_of_effects_hold_together() -> None:
    """Oracle: scipy's t-interval of the mean of the five log ratios of each of two effects,
    at a level that Bonferroni's correction shares between the two."""
    ratios = {"kernel": [0.8, 0.9, 0.85, 0.7, 0.95], "norm": [0.5, 0.52, 0.48, 0.51, 0.5]}
    rows: list[tuple[dict[str, Any], float]] = []
    for i in range(5):
        base = {"kernel": 3, "norm": "none", "lr": 1e-3 * (i + 1)}
        rows.append((base, 0.01))
        rows.append(({**base, "kernel": 5}, 0.01 * ratios["kernel"][i]))
        rows.append(({**base, "norm": "batch"}, 0.01 * ratios["norm"][i]))
    found = single_changes.compare_single_changes(made_trials(rows)).set_index("setting")
    for setting, each in ratios.items():
        logs = np.log(each)
        low, high = scipy.stats.t.interval(1 - LEVEL / 2, 4, logs.mean(), scipy.stats.sem(logs))
        assert found.loc[setting, "n"] == 5
        assert found.loc[setting, "low"] == pytest.approx(math.exp(low))
        assert found.loc[setting, "high"] == pytest.approx(math.exp(high))
    assert single_changes.describe_single_changes(found.reset_index()).endswith(
        "The clearest effect is that of norm: batch has 0.50 times the error of none (0.46 to "
        "0.54, 5 pairs)."
    )


def test_stopped_trials_are_compared_at_the_common_epoch() -> None:
    """Oracle: by hand. The trial with kernel 5 was stopped after epoch 2, with a least error of
    0.03 so far; the other one had 0.04 by then, whatever it came to later. A stopped trial without
    an epoch makes no pair."""
    trials = made_trials(
        [({"kernel": 3}, 0.01), ({"kernel": 5}, 0.03), ({"kernel": 7}, 0.02)],
        state=[COMPLETE, PRUNED, PRUNED],
    )
    epochs = pd.DataFrame(
        [(0, 1, 0.05), (0, 2, 0.04), (0, 3, 0.01), (1, 1, 0.03), (1, 2, 0.035)],
        columns=["trial_number", "epoch", "val_mse"],
    )
    (found,) = single_changes.compare_single_changes(trials, epochs).to_dict("records")
    assert (found["value"], found["other"], found["n"], found["n_early"]) == ("5", "3", 1, 1)
    assert found["ratio"] == pytest.approx(0.75)
    assert single_changes.compare_single_changes(trials).empty
    assert "1 of them is compared at the epoch where a trial was stopped." in (
        single_changes.describe_single_changes(pd.DataFrame([found]))
    )


def test_one_pair_however_many_momenta() -> None:
    """Oracle: by hand. Two of SGD's trials differ in momentum alone: one pair for that, and their
    geometric mean, 0.02, against Adam's 0.01; an optimizer is not paired with itself."""
    rows: list[tuple[dict[str, Any], float]] = [
        ({"optimizer": "adam"}, 0.01),
        ({"optimizer": "sgd", "momentum": 0.5}, 0.016),
        ({"optimizer": "sgd", "momentum": 0.9}, 0.025),
    ]
    found = single_changes.compare_single_changes(made_trials(rows))
    assert found[["setting", "value", "other", "n"]].to_numpy().tolist() == [
        ["optimizer", "adam", "sgd", 1],
        ["momentum", "0.5", "0.9", 1],
    ]
    assert found["ratio"].tolist() == pytest.approx([0.5, 0.64])


def test_seeds_of_the_same_settings_are_one_pair() -> None:
    """Oracle: by hand; three seeds, the same ratio in each, but no other settings: one pair."""
    rows = [
        ({"kernel": k}, 0.01 * (0.5 if k == 5 else 1) * (1 + s)) for s in range(3) for k in (3, 5)
    ]
    found = single_changes.compare_single_changes(made_trials(rows, seed=[0, 0, 1, 1, 2, 2]))
    assert found["n"].tolist() == [1]
    assert found["ratio"].tolist() == pytest.approx([0.5])
    assert found["low"].isna().all()
    assert single_changes.describe_single_changes(found).startswith(
        "1 pair of trials differs in one setting alone"
    )
    assert "clearest" not in single_changes.describe_single_changes(found)


def test_parallel_lines_are_the_trials() -> None:
    """Oracle: by hand; forty trials, of which four are the best tenth; a trial without momentum has
    a gap there."""
    figure = draw_parallel_coordinates(searched(40), PARAMETERS)
    assert figure is not None
    others, best = figure.data
    n_axes = 5
    assert len(others.x) == 36 * (n_axes + 1)
    assert len(best.x) == 4 * (n_axes + 1)
    assert set(best.x) == {*PARAMETERS, None}
    assert all(y is None or 0 <= y <= 1 for y in best.y)
    assert [*best.meta, *others.meta] == rank_by_error(searched(40))["trial_number"].tolist()


def test_what_all_of_the_best_drew_alike() -> None:
    """Oracle: by hand. The best four of forty have Adam, and none of the others has: by chance
    1 in 91,390. Of twenty the best two have it: 1 in 190, for three parameters too many. A rate
    and a number of latent channels of its own each; what all trials drew says nothing."""
    rows: list[tuple[dict[str, Any], float]] = [
        (
            {"lr": 1e-4 * (i + 1), "latent_channels": 2 + i, "momentum": 0.5}
            | {"optimizer": "adam" if i < 4 else "sgd"},
            0.1 + i / 100,
        )
        for i in range(40)
    ]
    said = describe_common_choices(made_trials(rows), PARAMETERS)
    assert said == "All of the best 4 of 40 configurations have optimizer adam."
    others = made_trials(rows[2:22])
    assert describe_common_choices(others, PARAMETERS) == (
        "Of 20 configurations, the best 2 share no value that stands out from chance."
    )


def test_the_label_of_a_list_is_read_as_its_members() -> None:
    """Oracle: by hand; plotly shows escaped quotes as they are written, so there are none."""
    label = '["stride", "none"]'
    assert sampled_values.format_choice(label) == "stride, none"
    assert sampled_values.format_choice("[0.125, 3.0]") == "0.125, 3"
    parameter = CategoricalParameter(type="categorical", choices=[["stride", "none"], "average"])
    assert sampled_values.list_marks(parameter) == [(0.0, "stride, none"), (1.0, "average")]


def test_trials_without_a_partner_are_left_out_of_the_pairs(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Oracle: the effects of all pairs of trials, without leaving any out beforehand."""
    chance = random.Random(5)
    configs = [
        resolve(
            {
                "optimizer": (optimizer := chance.choice(["adam", "sgd"])),
                "momentum": chance.choice([0.0, 0.9]) if optimizer == "sgd" else 0.0,
                "lr": chance.choice([1e-3, 1.0001e-3, 2e-3, chance.uniform(1e-3, 1e-2)]),
                "kernel": chance.choice([3, 5, [3, 5]]),
                "decoder_kernel": chance.choice([3, 5]),
                "weight_decay": chance.choice([0.0, chance.random()]),
            }
        ).to_json()
        for _ in range(150)
    ]
    trials = pd.DataFrame({"trial_number": range(150), "state": COMPLETE, "config": configs})
    trials = trials.assign(val_mse=[chance.uniform(0.01, 0.02) for _ in configs], seed=0)
    found = single_changes.compare_single_changes(trials)
    assert 0 < len(single_changes.select_comparable(trials)) < 150
    monkeypatch.setattr(single_changes, "select_comparable", lambda rows: rows)
    pd.testing.assert_frame_equal(found, single_changes.compare_single_changes(trials))
    assert len(found) > 5


def test_a_map_has_points_of_the_parameters_that_vary() -> None:
    """Oracle: by hand: the position of lr on its logarithmic scale, the logarithm of each error;
    the kernel never varies, and choices come last."""
    trials = searched(40).assign(params_kernel="3")
    names = parameter_maps.list_varied(trials, PARAMETERS)
    assert names == ["lr", "momentum", "latent_channels", "optimizer"]
    figure = parameter_maps.draw_map(trials, PARAMETERS, "lr", "latent_channels")
    (points,) = figure.data
    expected = [(math.log10(lr) + 4) / 2 for lr in trials["params_lr"]]
    assert points.x == pytest.approx(expected, abs=1e-3)
    assert points.y == pytest.approx((trials["params_latent_channels"] - 2) / 8, abs=1e-3)
    assert points.marker.color == pytest.approx(
        [math.log10(e) for e in trials["val_mse"]], abs=1e-4
    )


def test_the_values_of_the_best_tenth_are_described() -> None:
    """Oracle: by hand: the best 3 of 30; only the fourth drew another channel."""
    rows = [
        ({"lr": 1e-3 * (1 + i % 9), "latent_channels": 2 + (i > 2)}, 0.01 + i) for i in range(30)
    ]
    trials = made_trials(rows)
    texts = [
        parameter_maps.describe_best(trials, name, PARAMETERS[name])
        for name in ("lr", "latent_channels", "momentum")
    ]
    assert texts == [
        "Values of the best tenth: 0.001 to 0.003.",
        "Values of the best tenth: 2.",
        "The best tenth does not use it.",
    ]


def test_a_density_is_drawn_from_fifty_configurations_on() -> None:
    """Oracle: each line sums to one; the best tenth, which all drew sgd, has most of it there."""
    rows = [
        ({"lr": 1e-3 * (1 + i % 9), "optimizer": "sgd" if i < 9 else "adam"}, 0.01 + i / 1000)
        for i in range(60)
    ]
    trials = made_trials(rows)
    for name in ("lr", "optimizer"):
        figure = parameter_maps.draw_density(trials, PARAMETERS, name)
        assert figure is not None
        assert [sum(trace.y) for trace in figure.data] == pytest.approx([1, 1], abs=0.01)
    texts = figure.layout.xaxis.ticktext
    assert figure.data[1].x == figure.layout.xaxis.tickvals
    best = dict(zip(texts, figure.data[1].y, strict=True))
    assert best["sgd"] > 0.7
    assert parameter_maps.draw_density(trials[:49], PARAMETERS, "lr") is None


def test_choices_with_one_shortened_text_have_a_bar_each() -> None:
    """Oracle: by hand: both choices read alike after 18 characters; half of the configurations
    drew each, and the best tenth drew the second."""
    lists = [[32, 64, 128, 256, 512], [32, 64, 128, 256, 1024]]
    choices = CategoricalParameter(type="categorical", choices=lists)
    rows = pd.DataFrame({"params_channels": [choices.labels[i < 30] for i in range(60)]})
    figure = parameter_maps.draw_density(rows, {"channels": choices}, "channels")
    assert figure is not None
    assert [list(bars.x) for bars in figure.data] == [[0, 1], [0, 1]]
    assert figure.data[0].y == pytest.approx([0.5, 0.5], abs=0.01)
    assert figure.data[1].y[1] > 0.7
    assert len(figure.layout.xaxis.ticktext) == len(figure.layout.xaxis.tickvals) == 2


@pytest.mark.parametrize("high", [4, 6, 300])
def test_an_axis_of_integers_has_whole_ticks(high: int) -> None:
    """Oracle: plotly marks every multiple of `dtick` from `tick0` on, or `tickvals`; all are whole.
    A longer axis is left to plotly, which marks at most some ten multiples of 20 or more."""
    space = f"""
task: reconstruct
params:
  latent_channels: {{type: int, low: 3, high: {high}}}
  batch_size: {{type: int, low: 3, high: {high}, log: true}}
"""
    parameters = loading.parse_space(space, name="s").parameters
    rows = [({"latent_channels": n, "batch_size": n}, 0.01 / n) for n in range(3, 7)]
    linear, log = (draw_slice(item) for item in make_slices(made_trials(rows), parameters))
    expected = (None, None) if high == 300 else (1, 1)
    assert (linear.layout.xaxis.tick0, linear.layout.xaxis.dtick) == expected
    assert all(tick == int(tick) for tick in log.layout.xaxis.tickvals)
    assert {3, high} <= set(log.layout.xaxis.tickvals)
    assert list(log.layout.xaxis.ticktext) == [str(int(tick)) for tick in log.layout.xaxis.tickvals]


def test_a_parameter_that_only_sets_the_cost_does_not_matter_at_equal_cost() -> None:
    """Oracle: the error is made as 1 / size, times up to 1.5 by `lr`. Over all sizes the channels
    decide, at similar size only `lr` does. The best tenth are then spread over the sizes."""
    chance = np.random.default_rng(1)
    rows = []
    for n in chance.integers(2, 11, 200).tolist():
        lr = float(10 ** chance.uniform(-4, -2))
        rows.append(({"lr": lr, "latent_channels": n}, (1 + 0.5 * (math.log10(lr) + 3) ** 2) / n))
    trials = made_trials(rows, latent_size=[64 * row["latent_channels"] for row, _ in rows])
    n_trials = len(importance.select_weighed(trials))
    for cost, first, goal in (
        (None, "latent_channels", "the best tenth:"),
        ("latent_size", "lr", "the best tenth at similar latent size:"),
    ):
        weights = importance.compute_importance(trials, PARAMETERS, cost=cost)
        said = importance.describe_importance(weights, n_trials, cost)
        assert said.startswith(f"{first} matters most for reaching {goal}")
    assert weights.set_index("parameter").loc["latent_channels", "share"] < 0.1
    best = rank_by_error(trials, "latent_size").head(20)
    assert set(best["latent_size"]) == {64 * n for n in range(2, 11)}
    by_size = trials.groupby("latent_size")["val_mse"].rank(pct=True)
    assert by_size[best.index].max() < 0.2


def test_relative_ranks_follow_their_definition() -> None:
    """Oracle: by hand. Of 21 trials the ten cheapest make a group, and those of equal cost stay
    together: eleven trials of cost 1 and ten of 2. A cost that was not measured is the highest."""
    trials = pd.DataFrame({"cost": [1.0] * 11 + [2.0] * 9 + [math.nan], "val_mse": range(21)})
    ranks = compute_relative_ranks(trials, "cost")
    assert ranks[:11] == pytest.approx([(i + 0.5) / 11 for i in range(11)])
    assert ranks[11:] == pytest.approx([(i + 0.5) / 10 for i in range(10)])
    assert compute_relative_ranks(trials[:3], "cost") == pytest.approx([1 / 6, 3 / 6, 5 / 6])


@pytest.mark.parametrize(
    ("sizes", "expected"),
    [
        ([64] * 19 + [128] + [256] * 10, [19, 11]),
        ([64] * 11 + [128] * 9 + [256] * 12 + [512] * 8, [11, 29]),
        ([64] * 25 + [128] * 3, [28]),
        ([*range(40)], [10, 10, 10, 10]),
    ],
)
def test_trials_of_similar_cost_are_at_least_ten(sizes: list[int], expected: list[int]) -> None:
    """Oracle: by hand. The worst trial of a group of n has the rank 1 - 1 / 2n. Equal costs stay
    together. A group that is too small so joins the next, or the one before if it is the last."""
    n = len(sizes)
    trials = pd.DataFrame({"latent_size": sizes, "val_mse": np.linspace(1, 2, n)})
    ranks = compute_relative_ranks(trials, "latent_size")
    ends = [i for i in range(n) if i == n - 1 or ranks[i + 1] < ranks[i]]
    lengths = np.diff([-1, *ends])
    assert lengths.tolist() == expected
    assert ranks[ends] == pytest.approx(1 - 0.5 / lengths)
