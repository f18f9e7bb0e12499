"""A cohort: what its members learn is what each would learn alone, and neighbours have no part.

The same tests run on a GPU with `-m gpu`, where there is one.
"""

from __future__ import annotations

import os
import runpy
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import optuna
import pytest
import torch
from hypothesis import given, reject, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.utils.data import TensorDataset

from raycae import data
from raycae.config import resolve
from raycae.model.architecture import Infeasible, fusion_key
from raycae.space import loading
from raycae.training.device import put_on_device
from raycae.training.fused import FusedTrainings
from raycae.training.fusion_size import MIN_SPEEDUP, choose_fusion_size, predict_bytes
from raycae.training.trainer import Diverged, Training

Pictures = tuple[TensorDataset, TensorDataset]

DEVICES = [
    "cpu",
    pytest.param(
        "cuda",
        marks=[
            pytest.mark.gpu,
            pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"),
        ],
    ),
]

TINY: dict[str, Any] = {"image_size": 8, "channels": [4, 5], "latent_channels": 4}

TRAININGS: list[dict[str, Any]] = [
    {"optimizer": "adam"},
    {"optimizer": "adam", "weight_decay": 1e-3, "schedule": "cosine", "averaging": 0.95},
    {"optimizer": "adamw", "weight_decay": 0.01, "lr": 0.002},
    {"optimizer": "rmsprop", "weight_decay": 1e-4},
    {"optimizer": "sgd", "lr": 0.1},
    {"optimizer": "sgd", "lr": 0.05, "momentum": 0.9, "weight_decay": 1e-4, "averaging": 0.5},
]
"""Every optimizer, and whatever else members may differ in."""

NETWORKS: dict[str, dict[str, Any]] = {
    "base": {},
    "strides": {"downsample": "stride", "upsample": "pixel_shuffle", "kernel": 5},
    "transposed": {"upsample": "transposed", "kernel": 4, "decoder_kind": "transposed"},
    "residual": {"convs": 2, "residual": True, "norm": "batch", "channels": [3, 6]},
    "average": {"downsample": "average", "upsample": "bilinear", "activation": "gelu"},
    "uneven": {"kernel": 2, "padding": "none", "downsample": ["max", "none"]},
    "linear": {"linear_path": "pca", "output": "linear", "refine": 4, "norm": "batch"},
    "colour": {"task": "colourise", "gammas": [0.5, 1.0, 2.0, 3.0], "residual": True},
    "classes": {"task": "colourise", "classes": 3, "norm": "batch"},
    "flipped": {"flips": "both", "linear_path": "pca", "output": "linear"},
}


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> Iterator[None]:
    """Maps this small are not worth handing from one core to another."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module", params=DEVICES)
def photos(request: pytest.FixtureRequest) -> Iterator[Pictures]:
    """On a GPU also its numbers: the same at every run."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.backends.cudnn, "deterministic", True)
        yield pictures(request.param)


def pictures(device: str = "cpu", n: int = 96, size: int = 8) -> Pictures:
    """Photographs, `size` pixels square, of three classes."""
    images = data.load("photos", image_size=size, limit=n)
    train, val = (
        put_on_device(part, torch.device(device), torch.arange(len(part)).numpy() % 3)
        for part in (images.train, images.val)
    )
    return train, val


class Doubled:
    """A task whose numbers are float64."""

    def __init__(self, task: Any) -> None:
        self.task, self.picture = task, task.picture

    def batch(self, *images: Tensor) -> tuple[Tensor, ...]:
        return tuple(part.double() for part in self.task.batch(*images))


def trainings(
    photos: Pictures, network: dict[str, Any], of: Sequence[dict[str, Any]] = TRAININGS, **more: Any
) -> list[Training]:
    """One of this network for each way to train it, each with weights and a length of its own."""
    return [
        Training(resolve(TINY | network | way), *photos, epochs=24 + seed, seed=seed, **more)
        for seed, way in enumerate(of)
    ]


def exact(members: list[Training]) -> list[Training]:
    for member in members:
        member.task = Doubled(member.task)  # type: ignore[assignment]
        member.model.double()
        if member.averaged:
            member.averaged.double()
    return members


def apart(one: nn.Module, other: nn.Module) -> float:
    """Relative difference of two networks' weights and running statistics."""
    a, b = (
        torch.cat(
            [t.detach().flatten() for t in network.state_dict().values() if t.is_floating_point()]
        )
        for network in (one, other)
    )
    return float((a - b).norm() / b.norm())


def assert_equal(fused: Training, alone: Training, bound: float) -> None:
    assert apart(fused.model, alone.model) <= bound
    assert apart(fused.evaluation_model, alone.evaluation_model) <= bound
    counts = [
        [t for t in network.state_dict().values() if not t.is_floating_point()]
        for network in (fused.model, alone.model)
    ]
    assert counts[0] == counts[1]
    assert fused.best_epoch == alone.best_epoch
    assert fused.best_weights.keys() == alone.best_weights.keys()


def same_bits(one: Training, other: Training) -> bool:
    a, b = (
        [*t.model.state_dict().values(), *t.evaluation_model.state_dict().values()]
        for t in (one, other)
    )
    return all(map(torch.equal, a, b))


@pytest.mark.parametrize("network", NETWORKS)
def test_a_member_learns_what_it_learns_alone(photos: Pictures, network: str) -> None:
    """Oracle: the same trainings one by one, in float64: two epochs, the last minibatch smaller.
    Sums in another order differ in the sixteenth digit; where a gradient is nothing else (before
    weights that begin at zero) Adam and RMSprop divide it by 1e-8."""
    alone = exact(trainings(photos, NETWORKS[network]))
    fused = exact(trainings(photos, NETWORKS[network]))
    cohort = FusedTrainings(fused)
    for _ in range(2):
        said, expected = cohort.run_epoch(), [training.run_epoch() for training in alone]
        for one, other in zip(said, expected, strict=True):
            assert not isinstance(one, Diverged)
            assert one.keys() == other.keys()
            for name in ("epoch", "train_mse", "val_mse", "val_psnr_db", "n_images"):
                assert one[name] == pytest.approx(other[name], rel=1e-6), name
    for one, other in zip(fused, alone, strict=True):
        # Torch reckons the share that an average keeps in float32.
        assert_equal(one, other, 1e-7 if one.averaged else 1e-8)


@pytest.mark.long
def test_200_steps_in_float32(photos: Pictures) -> None:
    """Oracle: the same trainings alone. The bound is the project's: a relative difference of the
    weights of 1e-5 after 200 steps."""
    alone, fused = (trainings(photos, {"batch_size": 8}) for _ in range(2))
    cohort, steps = FusedTrainings(fused), 0
    while steps < 200:
        cohort.run_epoch()
        for training in alone:
            training.run_epoch()
        steps += -(-len(photos[0]) // 8)
    for one, other in zip(fused, alone, strict=True):
        assert_equal(one, other, 1e-5)


def test_a_cohort_in_bf16(photos: Pictures) -> None:
    """Oracle: the same trainings alone, up to what is left of seven bits after an epoch; and not
    the cohort in float32. Weights stay float32."""
    ways = [way for way in TRAININGS if way["optimizer"] != "rmsprop"]  # divides by what it rounds
    fused, alone = (trainings(photos, {"precision": "bf16"}, ways) for _ in range(2))
    unrounded = trainings(photos, {}, ways)
    FusedTrainings(unrounded).run_epoch()
    for said, one, other, plain in zip(
        FusedTrainings(fused).run_epoch(), fused, alone, unrounded, strict=True
    ):
        assert not isinstance(said, Diverged)
        assert said["val_mse"] == pytest.approx(other.run_epoch()["val_mse"], rel=0.02)
        assert {p.dtype for p in one.model.parameters()} == {torch.float32}
        assert apart(one.model, plain.model) > 1e-6
    with pytest.raises(ValueError, match="fused trials differ"):
        FusedTrainings([fused[0], unrounded[0]])


@settings(max_examples=10, deadline=None, derandomize=True)
@given(st.sampled_from(["ex2", "ex3"]), st.integers(0, 2**31), st.integers(1, 4), st.integers(0, 3))
def test_networks_of_the_spaces(name: str, seed: int, m: int, at: int) -> None:
    """Oracle: alone, in float64, for drawn configurations of the searches, at any position among
    neighbours with other rates; two minibatches, images of half the size."""
    trial = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed)).ask()
    smaller = {"image_size": 16, "batch_size": 8}
    config = loading.load_space(name).draw(trial).model_copy(update=smaller)
    at %= m
    photos = pictures(n=18, size=16)

    def one(position: int) -> Training:
        rate = {"lr": config.lr * 2.0 ** (at - position)}
        return Training(config.model_copy(update=rate), *photos, epochs=1, seed=position)

    try:
        fused = exact([one(position) for position in range(m)])
    except Infeasible:
        reject()
    (alone,) = exact([one(at)])
    said = FusedTrainings(fused).run_epoch()[at]
    assert not isinstance(said, Diverged)
    assert said["val_mse"] == pytest.approx(alone.run_epoch()["val_mse"], rel=1e-9)
    assert_equal(fused[at], alone, 1e-8)


@pytest.mark.parametrize("network", NETWORKS)
def test_one_that_diverges_leaves_the_others_alone(photos: Pictures, network: str) -> None:
    """Oracle: the same cohort in which that member is well. The others' weights, errors and
    averages are the same to the bit, and what diverged is said as alone."""
    well, ill = (trainings(photos, NETWORKS[network]) for _ in range(2))
    torch.nn.init.constant_(next(ill[2].model.parameters()), float("nan"))
    expected, said = FusedTrainings(well).run_epoch(), FusedTrainings(ill).run_epoch()
    assert isinstance(said[2], Diverged)
    assert str(said[2]) == "training loss is nan in epoch 1"
    for i in (0, 1, 3, 4, 5):
        assert same_bits(ill[i], well[i])
        for name in ("train_mse", "val_mse", "val_psnr_db"):
            assert said[i][name] == expected[i][name]
    del ill[2], well[2]
    FusedTrainings(ill).run_epoch()
    FusedTrainings(well).run_epoch()
    assert all(map(same_bits, ill, well))


def test_members_come_and_go(photos: Pictures) -> None:
    """Oracle: alone all the time. One leaves the cohort and goes on alone from its state, in a
    fresh training; one that trained alone joins the others at their epoch."""
    network = {"norm": "batch"}
    alone = exact(trainings(photos, network))
    for training in alone:
        for _ in range(3):
            training.run_epoch()
    fused = exact(trainings(photos, network))
    newcomer = fused.pop()
    FusedTrainings(fused).run_epoch()
    leaver = exact(trainings(photos, network))[0]
    leaver.load_state(fused.pop(0).state())
    newcomer.run_epoch()
    cohort = FusedTrainings([*fused, newcomer])
    for _ in range(2):
        leaver.run_epoch()
        cohort.run_epoch()
    for one, other in zip([leaver, *cohort.members], alone, strict=True):
        assert one.epoch == 3
        assert_equal(one, other, 1e-7 if one.averaged else 1e-8)
        assert one.val_ssim() == pytest.approx(other.val_ssim(), rel=1e-6)
        restored = exact(trainings(photos, network))[alone.index(other)]
        restored.load_state(one.state())
        assert same_bits(restored, one)
        assert restored.run_epoch()["val_mse"] == one.run_epoch()["val_mse"]


def test_what_may_train_together(photos: Pictures) -> None:
    """Oracle: the words of `fusion_key` and `FusedTrainings`."""
    base = resolve(TINY)
    for way in TRAININGS:
        assert fusion_key(resolve(TINY | way)) == fusion_key(base)
    colours = {"task": "colourise", "gammas": [1, 1, 1]}
    for other in ({"batch_size": 8}, {"kernel": 5}, {"flips": "both"}, colours):
        assert fusion_key(resolve(TINY | other)) != fusion_key(base)
    one, two = trainings(photos, {}, TRAININGS[:2])
    one.run_epoch()
    with pytest.raises(ValueError, match="fused trials differ"):
        FusedTrainings([one, two])
    with pytest.raises(ValueError, match="fused trials differ"):
        FusedTrainings(
            trainings(photos, {}, TRAININGS[:1]) + trainings(photos, {}, [{}], order_seed=1)
        )


def test_whether_fusing_pays(photos: Pictures) -> None:
    """Oracle: what is said agrees with what was measured; a cohort is halved until its prediction
    fits, and where not even two fit each trains alone."""
    config = resolve(TINY)
    free = choose_fusion_size(config, 4, photos[0], memory_bytes=10**12)
    measured = free.m if free.speedup >= MIN_SPEEDUP else 2
    assert free.m in ((2, 4) if free.speedup >= MIN_SPEEDUP else (1,))
    assert f"training {measured} trials fused is {free.speedup:.2f} times as fast" in free.why
    cpu = torch.device("cpu")
    assert free.n_bytes == predict_bytes(config, measured, cpu)
    tight = choose_fusion_size(config, 8, photos[0], memory_bytes=predict_bytes(config, 3, cpu))
    assert tight.n_bytes == predict_bytes(config, 2, cpu)
    none = choose_fusion_size(config, 8, photos[0], memory_bytes=10)
    assert (none.m, none.speedup) == (1, 1.0)
    assert none.why.startswith("not fused: fusing 2 trials would take")
    assert (
        choose_fusion_size(config, 1, photos[0], memory_bytes=10**12).why
        == "not fused: there is only one trial"
    )


def test_the_yardstick_measures_points_of_the_spaces() -> None:
    """Oracle: the spaces' own files."""
    script = Path(__file__).resolve().parents[2] / "analysis" / "benchmarks" / "yardstick.py"
    networks = runpy.run_path(str(script))["NETWORKS"]
    points = {"ex1-base": loading.load_space("ex1").points["base"]}
    points |= loading.load_space("ex2-report").points | loading.load_space("ex3-report").points
    for name, changes in networks.items():
        assert resolve(changes | {"batch_size": points[name].batch_size}) == points[name]


NOT_INSTALLED = """
from importlib import metadata

of = metadata.version


def version(name):
    if name == "raycae":
        raise metadata.PackageNotFoundError(name)
    return of(name)


metadata.version = version
"""


@pytest.mark.long
def test_the_yardstick_needs_neither_ray_nor_optuna(tmp_path: Path) -> None:
    """Oracle: a Python that has neither, raycae as a mere checkout; every way is in the table."""
    checkout = Path(__file__).resolve().parents[2]
    (tmp_path / "sitecustomize.py").write_text(NOT_INSTALLED)
    for missing in ("ray", "optuna", "plotly"):
        (tmp_path / f"{missing}.py").write_text(f"raise ImportError('no {missing}')")
    there = [
        *(sys.executable, checkout / "analysis" / "benchmarks" / "yardstick.py"),
        *("--networks", "ex1-base", "--images", "16", "--repeats", "1"),
        *("--batches", "16", "--members", "2"),
    ]
    path = os.pathsep.join([str(tmp_path), str(checkout)])
    done = subprocess.run(
        there, capture_output=True, text=True, env={**os.environ, "PYTHONPATH": path}, check=True
    )
    table = done.stdout.partition("| network |")[2]
    for way in ("a loader", "b eager", "c raycae", "d raycae", "e vmap", "f HFTA", "g processes"):
        assert f"| {way}" in table
