"""The course report's experiments as named points: exactly the layers that its tables say.

Every number here was worked out by hand: a convolution of i to o channels with a k x k kernel has
o (i k² + 1) parameters, a pool or a stride of 2 halves a side, nothing else changes one.
"""

from __future__ import annotations

import pytest

from raycae.config import Config
from raycae.model.architecture import build_architecture
from raycae.space import loading

BASE = (
    "conv 3-8 k3, max-pool 2, conv 8-12 k3, max-pool 2, conv 12-16 k3"
    " | nearest 8→16, conv 16-12 k3, nearest 16→32, conv 12-3 k3"
)
BASE3 = (
    "conv 4-8 k3, max-pool 2, conv 8-12 k3, max-pool 2, conv 12-16 k3"
    " | nearest 8→16, conv 16-12 k3, nearest 16→32, conv 12-2 k3"
)
X2_3 = (
    "conv 4-16 k3, max-pool 2, conv 16-24 k3, max-pool 2, conv 24-32 k3"
    " | nearest 8→16, conv 32-24 k3, nearest 16→32, conv 24-2 k3"
)
# 8 (27 + 1), 12 (72 + 1), 16 (108 + 1), 12 (144 + 1), 3 (108 + 1)
BASE_PARAMS = [224, 876, 1744, 1740, 327]  # 4,911, as the report has it
# 8 (36 + 1), …, 2 (108 + 1)
BASE3_PARAMS = [296, 876, 1744, 1740, 218]  # 4,874
# 16 (36 + 1), 24 (144 + 1), 32 (216 + 1), 24 (288 + 1), 2 (216 + 1)
X2_3_PARAMS = [592, 3480, 6944, 6936, 434]
ADAM = "adam 0.001 16"

# Name: layers, parameters of each convolution, latent (channels, height, width), and what it is
# trained with: optimizer, learning rate, batch size.
EXPERIMENTS: dict[str, tuple[str, list[int], tuple[int, int, int], str]] = {
    "ex2-base": (BASE, BASE_PARAMS, (16, 8, 8), ADAM),
    "ex2-latent-x2": (
        "conv 3-8 k3, max-pool 2, conv 8-12 k3, max-pool 2, conv 12-32 k3"
        " | nearest 8→16, conv 32-12 k3, nearest 16→32, conv 12-3 k3",
        [224, 876, 3488, 3468, 327],
        (32, 8, 8),
        ADAM,
    ),
    "ex2-latent-x4": (
        "conv 3-8 k3, max-pool 2, conv 8-12 k3, max-pool 2, conv 12-64 k3"
        " | nearest 8→16, conv 64-12 k3, nearest 16→32, conv 12-3 k3",
        [224, 876, 6976, 6924, 327],
        (64, 8, 8),
        ADAM,
    ),
    "ex2-channels-x2": (
        "conv 3-16 k3, max-pool 2, conv 16-24 k3, max-pool 2, conv 24-32 k3"
        " | nearest 8→16, conv 32-24 k3, nearest 16→32, conv 24-3 k3",
        [448, 3480, 6944, 6936, 651],
        (32, 8, 8),
        ADAM,
    ),
    "ex2-channels-x20": (
        "conv 3-160 k3, max-pool 2, conv 160-240 k3, max-pool 2, conv 240-320 k3"
        " | nearest 8→16, conv 320-240 k3, nearest 16→32, conv 240-3 k3",
        [4480, 345_840, 691_520, 691_440, 6483],
        (320, 8, 8),
        ADAM,
    ),
    "ex2-kernel-5": (
        BASE.replace("k3", "k5"),
        # 8 (75 + 1), 12 (200 + 1), 16 (300 + 1), 12 (400 + 1), 3 (300 + 1)
        [608, 2412, 4816, 4812, 903],
        (16, 8, 8),
        ADAM,
    ),
    "ex2-stride": (
        "conv 3-8 k3 s2, conv 8-12 k3 s2, conv 12-16 k3"
        " | nearest 8→16, conv 16-12 k3, nearest 16→32, conv 12-3 k3",
        BASE_PARAMS,
        (16, 8, 8),
        ADAM,
    ),
    "ex2-stride-extra": (
        "conv 3-8 k3, conv 8-8 k3 s2, conv 8-12 k3, conv 12-12 k3 s2, conv 12-16 k3"
        " | nearest 8→16, conv 16-12 k3, nearest 16→32, conv 12-3 k3",
        [224, 584, 876, 1308, 1744, 1740, 327],
        (16, 8, 8),
        ADAM,
    ),
    "ex2-fewer-pool": (
        "conv 3-8 k3, max-pool 2, conv 8-12 k3, conv 12-16 k3"
        " | conv 16-12 k3, nearest 16→32, conv 12-3 k3",
        BASE_PARAMS,
        (16, 16, 16),
        ADAM,
    ),
    "ex2-deeper": (
        "conv 3-8 k3, max-pool 2, conv 8-12 k3, max-pool 2, conv 12-12 k3, max-pool 2, "
        "conv 12-16 k3 | nearest 4→8, conv 16-16 k3, nearest 8→16, conv 16-12 k3, "
        "nearest 16→32, conv 12-3 k3",
        [224, 876, 1308, 1744, 2320, 1740, 327],
        (16, 4, 4),
        ADAM,
    ),
    "ex2-more-convs": (
        "conv 3-8 k3, conv 8-8 k3, max-pool 2, conv 8-12 k3, conv 12-12 k3, max-pool 2, "
        "conv 12-16 k3, conv 16-16 k3 | nearest 8→16, conv 16-12 k3, conv 12-12 k3, "
        "nearest 16→32, conv 12-12 k3, conv 12-3 k3",
        [224, 584, 876, 1308, 1744, 2320, 1740, 1308, 1308, 327],
        (16, 8, 8),
        ADAM,
    ),
    "ex2-channels-doubling": (
        "conv 3-8 k3, max-pool 2, conv 8-16 k3, max-pool 2, conv 16-32 k3"
        " | nearest 8→16, conv 32-16 k3, nearest 16→32, conv 16-3 k3",
        [224, 1168, 4640, 4624, 435],
        (32, 8, 8),
        ADAM,
    ),
    "ex2-channels-flat": (
        "conv 3-15 k3, max-pool 2, conv 15-15 k3, max-pool 2, conv 15-32 k3"
        " | nearest 8→16, conv 32-15 k3, nearest 16→32, conv 15-3 k3",
        [420, 2040, 4352, 4335, 408],
        (32, 8, 8),
        ADAM,
    ),
    "ex2-relu": (BASE, BASE_PARAMS, (16, 8, 8), ADAM),
    "ex2-output-leaky": (BASE, BASE_PARAMS, (16, 8, 8), ADAM),
    "ex2-output-linear": (BASE, BASE_PARAMS, (16, 8, 8), ADAM),
    "ex2-batch-1": (BASE, BASE_PARAMS, (16, 8, 8), "adam 0.001 1"),
    "ex2-batch-64": (BASE, BASE_PARAMS, (16, 8, 8), "adam 0.001 64"),
    "ex2-rmsprop": (BASE, BASE_PARAMS, (16, 8, 8), "rmsprop 0.001 16"),
    "ex2-rmsprop-lr-3e-4": (BASE, BASE_PARAMS, (16, 8, 8), "rmsprop 0.0003 16"),
    "ex3-base": (BASE3, BASE3_PARAMS, (16, 8, 8), ADAM),
    "ex3-rmsprop": (BASE3, BASE3_PARAMS, (16, 8, 8), "rmsprop 0.001 16"),
    "ex3-rmsprop-lr-3e-4": (BASE3, BASE3_PARAMS, (16, 8, 8), "rmsprop 0.0003 16"),
    "ex3-rmsprop-lr-1e-4": (BASE3, BASE3_PARAMS, (16, 8, 8), "rmsprop 0.0001 16"),
    "ex3-lr-1e-4": (BASE3, BASE3_PARAMS, (16, 8, 8), "adam 0.0001 16"),
    "ex3-channels-x2": (X2_3, X2_3_PARAMS, (32, 8, 8), ADAM),
    "ex3-batch-64": (BASE3, BASE3_PARAMS, (16, 8, 8), "adam 0.001 64"),
    "ex3-batch-64-stacked": (X2_3, X2_3_PARAMS, (32, 8, 8), "adam 0.0001 64"),
    "ex3-custom": (
        "conv 4-16 k3, conv 16-16 k3, conv 16-16 k3 s2, conv 16-32 k3, conv 32-32 k3 s2"
        " | nearest 8→16, tconv 32-32 k3, tconv 32-16 k3, nearest 16→32, tconv 16-8 k3, "
        "tconv 8-2 k3",
        [592, 2320, 2320, 4640, 9248, 9248, 4624, 1160, 146],
        (32, 8, 8),
        "adam 0.0001 1",
    ),
    "ex3-base-custom-training": (BASE3, BASE3_PARAMS, (16, 8, 8), "adam 0.0001 1"),
    # 8 (9 + 1) in the first layer
    "ex3-gamma-none": (BASE3.replace("4-8", "1-8"), [80, *BASE3_PARAMS[1:]], (16, 8, 8), ADAM),
    "ex3-gamma-mild": (BASE3, BASE3_PARAMS, (16, 8, 8), ADAM),
}
POINTS = {**loading.load_space("ex2-report").points, **loading.load_space("ex3-report").points}


def test_every_experiment_is_held_against_something() -> None:
    """Oracle: the names of the table in the issue's reading of the report, and what it adds."""
    assert set(EXPERIMENTS) == set(POINTS)


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_layers(name: str) -> None:
    """Oracle: the table above. Padding keeps every side, so only pools and strides change it."""
    layers, params, latent, training = EXPERIMENTS[name]
    config = POINTS[name]
    net = build_architecture(config)
    assert str(net) == layers
    assert net.n_params == sum(params)
    assert [layer.n_params for layer in net.layers if hasattr(layer, "n_params")] == params
    assert net.latent_shape == latent
    assert net.out_shape == ((3 if name.startswith("ex2") else 2), 32, 32)
    assert f"{config.optimizer} {config.lr} {config.batch_size}" == training


@pytest.mark.parametrize("name", POINTS)
def test_nothing_else_differs_from_the_base(name: str) -> None:
    """Oracle: the settings that no column above shows: those of the base but where the name says
    so."""
    others = {
        "ex2-relu": {"activation": "relu"},
        "ex2-output-leaky": {"output": "leaky_relu"},
        "ex2-output-linear": {"output": "linear"},
        "ex3-gamma-none": {"gammas": (1.0,)},
        "ex3-gamma-mild": {"gammas": (0.5, 0.8, 1.25, 2.0)},
    }
    shown = ("activation", "output", "norm", "residual", "weight_decay", "momentum", "gammas")
    base = POINTS[f"{name[:3]}-base"]
    expected = {key: getattr(base, key) for key in shown} | others.get(name, {})
    assert {key: getattr(POINTS[name], key) for key in shown} == expected
    if name.startswith("ex3") and name not in others:
        assert POINTS[name].gammas == (0.1, 0.5, 1.5, 3.0)


def test_an_ordinary_search_tries_only_the_base_first() -> None:
    """Oracle: the points of ex2 and ex3 are the base's settings and nothing else."""
    for name in ("ex2", "ex3"):
        points: dict[str, Config] = loading.load_space(name).points
        assert list(points.values()) == [POINTS[f"{name}-base"]]
