"""A cohort: what its members learn is what each would learn alone, and neighbours have no part.

The tests run on the CPU and, where there is one, on a GPU.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from fused_trainings import (
    NETWORKS,
    TINY,
    TRAININGS,
    Pictures,
    apart,
    assert_equal,
    exact,
    pictures,
    same_bits,
    trainings,
)

from raycae.config import resolve
from raycae.model.architecture import fusion_key
from raycae.training.fused import FusedTrainings
from raycae.training.fusion_size import MIN_SPEEDUP, choose_fusion_size, predict_bytes
from raycae.training.trainer import Diverged

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
    device = photos[0].tensors[0].device
    assert free.n_bytes == predict_bytes(config, measured, device)
    tight = choose_fusion_size(config, 8, photos[0], memory_bytes=predict_bytes(config, 3, device))
    assert tight.n_bytes == predict_bytes(config, 2, device)
    none = choose_fusion_size(config, 8, photos[0], memory_bytes=10)
    assert (none.m, none.speedup) == (1, 1.0)
    assert none.why.startswith("not fused: fusing 2 trials would take")
    assert (
        choose_fusion_size(config, 1, photos[0], memory_bytes=10**12).why
        == "not fused: there is only one trial"
    )
