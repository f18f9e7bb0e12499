"""One trial: it learns, it is repeatable, it goes on where it stopped, and it fails honestly."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from functools import partial

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F
from torch.optim import Optimizer
from torch.utils.data import TensorDataset

from raycae import data
from raycae.config import resolve
from raycae.model.architecture import build_architecture
from raycae.model.tasks import Colourise, Reconstruct
from raycae.training.baselines import compute_baselines
from raycae.training.device import configure_torch, put_on_device
from raycae.training.minibatches import FLIP_AXES, draw_minibatches, load_minibatch
from raycae.training.trainer import Diverged, Training
from raycae.training.validation import compute_errors

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def photos() -> tuple[TensorDataset, TensorDataset]:
    images = data.load("photos", limit=320)
    return put_on_device(images.train, CPU), put_on_device(images.val, CPU)


def train(
    photos: tuple[TensorDataset, TensorDataset], epochs: int, seed: int = 0, **settings: object
) -> Training:
    training = Training(resolve(settings), *photos, epochs=epochs, seed=seed)
    for _ in range(epochs):
        training.run_epoch()
    return training


@pytest.mark.parametrize("task", ["reconstruct", "colourise"])
@pytest.mark.parametrize("optimizer", ["adam", "adamw", "rmsprop", "sgd"])
def test_it_learns(photos: tuple[TensorDataset, TensorDataset], task: str, optimizer: str) -> None:
    """Oracle: the loss of the third epoch is below that of the first; the best validation error
    is the least of the three."""
    lr = 0.5 if optimizer == "sgd" else 0.003
    training = Training(
        resolve({"task": task, "optimizer": optimizer, "lr": lr, "momentum": 0.9}),
        *photos,
        epochs=3,
    )
    first, second, third = [training.run_epoch() for _ in range(3)]
    assert third["train_mse"] < first["train_mse"]
    assert training.best_val_mse == min(e["val_mse"] for e in (first, second, third))


@pytest.mark.parametrize(
    ("name", "make"),
    [
        ("adam", partial(torch.optim.Adam, fused=True)),
        ("adamw", partial(torch.optim.AdamW, fused=True)),
        ("rmsprop", torch.optim.RMSprop),
        ("sgd", partial(torch.optim.SGD, momentum=0.9, fused=True)),
    ],
)
def test_optimizers_compute_what_torchs_compute(
    photos: tuple[TensorDataset, TensorDataset], name: str, make: Callable[..., Optimizer]
) -> None:
    """Oracle: the classes of `torch.optim`, to the bit, also from a state that was loaded."""
    settings = {"lr": 0.003, "weight_decay": 0.01, "momentum": 0.9, "batch_size": 140}
    config = resolve({"optimizer": name, **settings})
    first, expected = (Training(config, *photos, epochs=2) for _ in range(2))
    expected.optimizer = make(expected.model.parameters(), 0.003, weight_decay=0.01)
    assert type(first.optimizer) is not type(expected.optimizer)
    first.run_epoch()
    resumed = Training(config, *photos, epochs=2)
    resumed.load_state(first.state())
    for training in (expected, expected, resumed):
        training.run_epoch()
    for a, b in zip(resumed.model.parameters(), expected.model.parameters(), strict=True):
        assert torch.equal(a, b)
    state, wanted = resumed.optimizer.state_dict(), expected.optimizer.state_dict()
    assert state["param_groups"] == wanted["param_groups"]
    torch.testing.assert_close(state["state"], wanted["state"], rtol=0, atol=0)


def test_numbers_are_what_they_say(photos: tuple[TensorDataset, TensorDataset]) -> None:
    """Oracle: the error of the whole validation set in one piece, by torch's own mean."""
    training = Training(resolve({}), *photos, epochs=1)
    measured = training.run_epoch()
    training.model.eval()
    x = photos[1].tensors[0].permute(0, 3, 1, 2).float() / 255
    with torch.inference_mode():
        expected = F.mse_loss(training.model(x), x)
    assert measured["val_mse"] == pytest.approx(float(expected), rel=1e-5)
    assert measured["epoch"] == 1
    assert measured["images_per_s"] > 0
    assert 0 < measured["epoch_time_s"] < 60


def test_bf16_rounds_what_training_reckons(
    photos: tuple[TensorDataset, TensorDataset],
) -> None:
    """Oracle: maps between layers are bfloat16 while it trains and float32 where it is measured,
    weights float32 throughout; it learns what float32 learns, to two digits."""
    seen: dict[bool, set[torch.dtype]] = {True: set(), False: set()}
    few = [TensorDataset(images.tensors[0][:48]) for images in photos]
    plain, rounded = (
        Training(resolve({"precision": precision}), *few, epochs=2)
        for precision in ("float32", "bf16")
    )
    rounded.model.encoder[1].register_forward_pre_hook(
        lambda module, inputs: seen[module.training].add(inputs[0].dtype)
    )
    for _ in range(2):
        told, expected = rounded.run_epoch(), plain.run_epoch()
    assert seen == {True: {torch.bfloat16}, False: {torch.float32}}
    assert {p.dtype for p in rounded.model.parameters()} == {torch.float32}
    assert told["val_mse"] != expected["val_mse"]
    assert told["val_mse"] == pytest.approx(expected["val_mse"], rel=0.05)


def test_tf32_is_asked_of_torch_while_it_trains(
    photos: tuple[TensorDataset, TensorDataset], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Oracle: torch's own setting, at each minibatch, and where errors are measured; after a fault,
    too, the next trial is exact."""
    training = Training(resolve({"precision": "tf32"}), *photos, epochs=2)
    seen: dict[bool, set[bool]] = {True: set(), False: set()}
    training.model.register_forward_pre_hook(
        lambda module, _: seen[module.training].add(torch.backends.cudnn.allow_tf32)
    )
    training.run_epoch()
    assert seen == {True: {True}, False: {False}}
    monkeypatch.setattr(training.optimizer, "step", lambda: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        training.run_epoch()
    assert not torch.backends.cudnn.allow_tf32
    assert not torch.backends.cuda.matmul.allow_tf32


def test_same_seed_same_trial(photos: tuple[TensorDataset, TensorDataset]) -> None:
    """Oracle: bit-equal weights; another seed differs."""
    a, b, c = train(photos, 2), train(photos, 2), train(photos, 2, seed=1)
    for name, tensor in a.model.state_dict().items():
        assert torch.equal(tensor, b.model.state_dict()[name])
    assert a.best_val_mse != c.best_val_mse


def test_order_of_minibatches() -> None:
    """Oracle: a permutation, the same for equal (seed, epoch, batch size) and different
    otherwise; the trial has no part in it."""

    def order(seed: int, epoch: int, batch_size: int) -> list[int]:
        batches = draw_minibatches(100, batch_size, seed=seed, epoch=epoch, device=CPU)
        return torch.cat(list(batches)).tolist()

    assert sorted(order(0, 1, 16)) == list(range(100))
    assert order(0, 1, 16) == order(0, 1, 16)
    assert len({tuple(order(*key)) for key in [(0, 1, 16), (1, 1, 16), (0, 2, 16), (0, 1, 8)]}) == 4
    sizes = [len(b) for b in draw_minibatches(100, 16, seed=0, epoch=1, device=CPU)]
    assert sizes == [16] * 6 + [4]


@pytest.mark.parametrize("flips", ["none", "horizontal", "both"])
def test_flips_of_minibatches(flips: str) -> None:
    """Oracle: NumPy's flips of the images in the order without flips; their labels; each copy of
    an image about equally often."""
    draw = np.random.default_rng(0)
    pixels = torch.from_numpy(draw.integers(0, 256, (40, 4, 6, 3), dtype=np.uint8))
    images = TensorDataset(pixels, torch.arange(40))
    axes = FLIP_AXES[flips]
    copies = {
        image.tobytes(): (number, code)
        for number in range(40)
        for code in range(2 ** len(axes))
        for image in [
            np.flip(
                pixels[number].numpy(),
                [axis - 1 for bit, axis in enumerate(axes) if code >> bit & 1],
            )
        ]
    }
    drawn: Counter[int] = Counter()
    for epoch in range(1, 51):
        order = {"seed": 7, "epoch": epoch, "device": CPU}
        plain = torch.cat(list(draw_minibatches(40, 16, **order))).tolist()
        found = []
        for rows in draw_minibatches(40, 16, **order, flips=flips):
            pictures, labels = load_minibatch(images, rows, flips)
            for picture, label in zip(pictures, labels.tolist(), strict=True):
                number, code = copies[picture.numpy().tobytes()]
                assert number == label
                found.append(number)
                drawn[code] += 1
        assert found == plain
    assert len(drawn) == 2 ** len(axes)
    assert max(drawn.values()) < 1.2 * min(drawn.values())


def test_flips_of_symmetric_images_change_nothing(
    photos: tuple[TensorDataset, TensorDataset],
) -> None:
    """Oracle: training without flips, to the bit, because such an image equals its copies. Other
    images do not."""
    pixels = photos[0].tensors[0]
    for axis in (1, 2):
        half = pixels.narrow(axis, 0, pixels.shape[axis] // 2)
        pixels = torch.cat((half, half.flip(axis)), axis)
    for train_images, is_equal in ((TensorDataset(pixels), True), (photos[0], False)):
        weights = []
        for flips in ("none", "both"):
            config = resolve({"flips": flips, "batch_size": 40})
            training = Training(config, train_images, photos[1], epochs=1)
            training.run_epoch()
            weights.append(training.model.state_dict())
        pairs = [(weights[0][name], weights[1][name]) for name in weights[0]]
        assert all(torch.equal(a, b) for a, b in pairs) == is_equal


@pytest.mark.parametrize(
    "settings_",
    [
        {"optimizer": "adamw", "norm": "batch"},
        {"norm": "batch", "schedule": "cosine", "averaging": 0.9, "batch_size": 70},
        {"linear_path": "pca", "output": "linear", "refine": 4, "batch_size": 70},
        {"flips": "both", "batch_size": 70},
    ],
)
def test_it_goes_on_where_it_stopped(
    photos: tuple[TensorDataset, TensorDataset], settings_: dict[str, object]
) -> None:
    """Oracle: four epochs in one go; two, a new process, and two more end in the same bits."""
    whole, half, resumed = (
        Training(resolve(settings_), *photos, epochs=4, seed=seed) for seed in (0, 0, 9)
    )
    expected = [whole.run_epoch()["val_mse"] for _ in range(4)]
    assert [half.run_epoch()["val_mse"] for _ in range(2)] == expected[:2]
    resumed.load_state(half.state())
    assert [resumed.run_epoch()["val_mse"] for _ in range(2)] == expected[2:]
    assert resumed.best_val_mse == whole.best_val_mse
    for network in ("model", "evaluation_model"):
        state = getattr(whole, network).state_dict()
        for name, tensor in getattr(resumed, network).state_dict().items():
            assert torch.equal(tensor, state[name])


BLOCKS_OF_4 = {"depth": 1, "channels": 4, "factor": 4, "latent_channels": 12}


@pytest.mark.parametrize(
    ("settings_", "baseline"),
    [
        (BLOCKS_OF_4, "pca_4x4"),
        (
            BLOCKS_OF_4 | {"residual": True, "norm": "batch", "upsample": "pixel_shuffle"},
            "pca_4x4",
        ),
        ({"depth": 3, "channels": 5, "factor": 2, "latent_channels": 0, "convs": 2}, "pca_8x8"),
        ({"depth": 2, "channels": 4, "factor": 4, "latent_channels": 40}, "pca"),
    ],
)
def test_pca_network_begins_on_the_linear_line(settings_: dict[str, object], baseline: str) -> None:
    """Oracle: `baselines`, another computation on the same images: from the energy on the axes left
    out. Its rows are of the same number of latents."""
    images = data.load("photos", image_size=16, limit=320)
    config = resolve(
        {"image_size": 16, "linear_path": "pca", "output": "linear", "refine": 6, **settings_}
    )
    pictures = [put_on_device(part, CPU) for part in (images.train, images.val)]
    training = Training(config, *pictures, epochs=1)
    lines = compute_baselines("reconstruct", images.train, images.val)
    line = lines[
        (lines["baseline"] == baseline)
        & (lines["latent_size"] == build_architecture(config).latent_size)
    ]["val_mse"].item()
    assert training.error(pictures[1]) == pytest.approx(line, rel=1e-5)
    assert training.run_epoch()["train_mse"] != pytest.approx(line, rel=1e-5)


def test_pca_network_with_more_channels_than_axes(
    photos: tuple[TensorDataset, TensorDataset],
) -> None:
    """Oracle: all axes lose nothing, and what is beyond them has no say."""
    settings_ = BLOCKS_OF_4 | {"latent_channels": 50, "linear_path": "pca", "output": "linear"}
    assert Training(resolve(settings_), *photos, epochs=1).error(photos[1]) < 1e-12


def test_pca_network_leaves_the_line_everywhere(
    photos: tuple[TensorDataset, TensorDataset],
) -> None:
    """Oracle: after two steps nothing that began at zero is zero any more: no part shuts another
    one off."""
    training = train(photos, 1, linear_path="pca", output="linear", refine=4, batch_size=140)
    for name, weight in training.model.named_parameters():
        assert weight.abs().max() > 0, name


def test_learning_rate_falls_by_the_cosine(
    photos: tuple[TensorDataset, TensorDataset], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Oracle: torch's own schedule, a step of it after each of the optimizer's."""
    training = Training(
        resolve({"lr": 0.01, "schedule": "cosine", "batch_size": 100}), *photos, epochs=3
    )
    rates = []
    step = training.optimizer.step
    monkeypatch.setattr(
        training.optimizer,
        "step",
        lambda: (rates.append(training.optimizer.param_groups[0]["lr"]), step()),
    )
    for _ in range(3):
        training.run_epoch()
    other = torch.optim.SGD([torch.zeros(1)], 0.01)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(other, len(rates))
    expected = []
    for _ in rates:
        expected.append(other.param_groups[0]["lr"])
        other.step()
        schedule.step()
    assert len(rates) == 9
    assert rates == pytest.approx(expected)


def test_weights_are_averaged(
    photos: tuple[TensorDataset, TensorDataset], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Oracle: the recursion by hand over the weights after each step; the errors that are told are
    the average's, and so is what is kept."""
    training = Training(resolve({"averaging": 0.5, "batch_size": 40}), *photos, epochs=1)
    seen: list[Tensor] = []
    step = training.optimizer.step
    weight = training.model.decoder[-1].conv.weight
    monkeypatch.setattr(
        training.optimizer, "step", lambda: (step(), seen.append(weight.detach().clone()))
    )
    measured = training.run_epoch()
    expected = seen[0]
    for n, value in enumerate(seen[1:], 1):
        keep = min(0.5, (1 + n) / (10 + n))
        expected = keep * expected + (1 - keep) * value
    kept = training.best_weights["decoder.3.conv.weight"]
    torch.testing.assert_close(kept, expected)
    assert not torch.allclose(kept, weight)
    assert training.error(photos[1]) == measured["val_mse"]
    plain = compute_errors(training.model.eval(), Reconstruct(), photos[1])[0]
    assert plain != pytest.approx(measured["val_mse"])


def test_diverging_is_said(photos: tuple[TensorDataset, TensorDataset]) -> None:
    """Oracle: a linear output at an absurd learning rate is not finite within an epoch."""
    training = Training(
        resolve({"output": "linear", "optimizer": "sgd", "lr": 10.0, "momentum": 0.9}),
        *photos,
        epochs=1,
    )
    with pytest.raises(Diverged, match=r"training loss is (nan|inf) in epoch 1"):
        training.run_epoch()


def test_exploding_loss_is_reported(photos: tuple[TensorDataset, TensorDataset]) -> None:
    """Oracle: an output of a thousand where pictures lie in [0, 1] costs a million: finite, and
    beyond everything that training comes back from."""
    training = Training(resolve({"output": "linear", "lr": 1e-9}), *photos, epochs=1)
    bias = [p for n, p in training.model.named_parameters() if n.endswith("bias")][-1]
    torch.nn.init.constant_(bias, 1000.0)
    with pytest.raises(Diverged, match=r"training loss is 9\.99e\+05 in epoch 1"):
        training.run_epoch()


@pytest.mark.parametrize("micro_batch", [5, 32, 100])
def test_a_minibatch_in_pieces(
    photos: tuple[TensorDataset, TensorDataset], micro_batch: int
) -> None:
    """Oracle: the same minibatches whole. Losses, errors and weights agree up to rounding, also
    where the last piece and the last minibatch are smaller."""
    settings = resolve({"batch_size": 32, "optimizer": "sgd", "lr": 0.1, "momentum": 0.9})
    whole = Training(settings, *photos, epochs=2)
    pieces = Training(settings, *photos, epochs=2, micro_batch=micro_batch)
    for _ in range(2):
        expected, measured = whole.run_epoch(), pieces.run_epoch()
        for name in ("train_mse", "val_mse", "val_psnr_db"):
            assert measured[name] == pytest.approx(expected[name], rel=1e-4)
    assert pieces.val_ssim() == pytest.approx(whole.val_ssim(), rel=1e-4)
    state = whole.model.state_dict()
    for name, tensor in pieces.model.state_dict().items():
        torch.testing.assert_close(tensor, state[name], rtol=1e-3, atol=1e-5)


def test_best_epoch_is_kept(photos: tuple[TensorDataset, TensorDataset]) -> None:
    """Oracle: the error of the kept weights is the least of all epochs, though the last epoch was
    made worse on purpose."""
    training = train(photos, 2)
    best = training.best_val_mse
    for group in training.optimizer.param_groups:
        group["lr"] = 0.3
    training.run_epoch()
    assert (training.best_epoch, training.best_val_mse) == (2, best)
    training.val_ssim()
    training.model.load_state_dict(training.best_weights)
    assert compute_errors(training.model.eval(), Reconstruct(), photos[1])[0] == pytest.approx(best)


def test_colourise_never_sees_colour(photos: tuple[TensorDataset, TensorDataset]) -> None:
    """Oracle: pictures of equal luma give equal inputs, whatever their colours."""
    grey = torch.full((1, 8, 8, 3), 100, dtype=torch.uint8)
    # 0.299 * 100 + 0.587 * 100 + 0.114 * 100 with red up and green down: luma moves below 1/255.
    tinted = grey.clone()
    tinted[..., 0], tinted[..., 1] = 158, 71
    tinted[..., 2] = 97
    a, b = (Colourise((1.0, 0.5)).batch(images)[0] for images in (grey, tinted))
    assert torch.allclose(a, b, atol=2 / 255)


def test_starved_networks_do_not_crawl() -> None:
    """Oracle: the smallest float32 above zero, times one, is zero after `configure_torch`; products
    keep their digits on a GPU, too, by what torch says of cuDNN."""
    smallest = torch.tensor([1.4e-45])
    assert float(smallest * 1) > 0
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = True
    try:
        configure_torch(torch.get_num_threads())
        assert float(smallest * 1) == 0
        assert not torch.backends.cudnn.allow_tf32
        assert not torch.backends.cuda.matmul.allow_tf32
    finally:
        torch.set_flush_denormal(False)


def test_images_are_shared_not_copied() -> None:
    """Oracle: the tensor's memory is the array's, also where the array is read-only as Ray's
    object store hands it out."""
    images = np.zeros((4, 8, 8, 3), np.uint8)
    images.flags.writeable = False
    (tensor,) = put_on_device(images, CPU).tensors
    assert tensor.data_ptr() == images.__array_interface__["data"][0]


def test_few_images_first(photos: tuple[TensorDataset, TensorDataset]) -> None:
    """Oracle: by hand: of 140 images 20, 40, 80, then all; a network that saw the first 20 alone is
    the same to the bit. Going on in a new process sees as many as going on in the old one."""
    few = [Training(resolve({}), *photos, epochs=5, first_images=20) for _ in range(2)]
    measured = [few[0].run_epoch() for _ in range(5)]
    n = len(photos[0])
    assert [epoch["n_images"] for epoch in measured] == [min(n, 20 * 2**e) for e in range(5)]
    first = TensorDataset(photos[0].tensors[0][:20])
    alone = Training(resolve({}), first, photos[1], epochs=5)
    assert alone.run_epoch()["val_mse"] == measured[0]["val_mse"]
    for _ in range(2):
        few[1].run_epoch()
    resumed = Training(resolve({}), *photos, epochs=5, first_images=20, seed=3)
    resumed.load_state(few[1].state())
    assert [resumed.run_epoch()["val_mse"] for _ in range(3)] == [
        epoch["val_mse"] for epoch in measured[2:]
    ]
