"""Tests of raycae.model.tasks. Each docstring says what the result is held against."""

import numpy as np
import pytest
import skimage.data
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from PIL import Image
from torch import Tensor

from raycae.errors import InputError
from raycae.model.color import rgb_to_ycbcr, ycbcr_to_rgb
from raycae.model.tasks import GAMMAS, Colourise, Reconstruct, Task, make_task

TASKS = [Reconstruct(), Colourise((1.0,)), Colourise(GAMMAS), Colourise(GAMMAS, classes=5)]

small_images = arrays.arrays(
    np.uint8, st.tuples(st.integers(1, 3), st.integers(1, 5), st.integers(1, 5), st.just(3))
).map(torch.from_numpy)


@pytest.fixture(scope="module")
def photos() -> Tensor:
    """Two crops of photographs, uint8 (2, 96, 128, 3)."""
    crops = [skimage.data.astronaut()[:96, 160:288], skimage.data.coffee()[100:196, 200:328]]
    return torch.from_numpy(np.stack(crops))


def is_channels_last(x: Tensor) -> bool:
    return x.is_contiguous(memory_format=torch.channels_last)


def scaled(images: Tensor) -> Tensor:
    """RGB float (N, 3, H, W) in [0, 1], written another way than in the module."""
    return torch.from_numpy(images.numpy().transpose(0, 3, 1, 2) / np.float32(255))


# --- colour spaces -------------------------------------------------------------------------------


def test_colour_conversion_agrees_with_pillow(photos: Tensor) -> None:
    """Oracle: Pillow's JPEG YCbCr, an implementation of its own in whole numbers. It cuts luma off,
    and chroma too, but around 128 in place of 127.5: which is ours, rounded."""
    ours = rgb_to_ycbcr(scaled(photos)).permute(0, 2, 3, 1).numpy() * 255
    for picture, ycbcr in zip(photos.numpy(), ours, strict=True):
        pillow = np.asarray(Image.fromarray(picture).convert("YCbCr"), dtype=float)
        luma_cut_off = ycbcr[..., 0] - pillow[..., 0]
        assert (
            -0.05 <= luma_cut_off.min() <= luma_cut_off.max() <= 1.05
        )  # 0.05: its table's rounding
        assert np.abs(ycbcr[..., 1:] - pillow[..., 1:]).max() <= 0.55


@pytest.mark.parametrize(
    ("rgb", "ycbcr"),
    [
        ((0, 0, 0), (0, 0.5, 0.5)),
        ((1, 1, 1), (1, 0.5, 0.5)),
        ((1, 0, 0), (0.299, 0.5 - 0.299 / 1.772, 1.0)),
        ((0, 1, 0), (0.587, 0.5 - 0.587 / 1.772, 0.5 - 0.587 / 1.402)),
        ((0, 0, 1), (0.114, 1.0, 0.5 - 0.114 / 1.402)),
    ],
)
def test_colour_conversion_of_the_primaries(
    rgb: tuple[float, ...], ycbcr: tuple[float, ...]
) -> None:
    """Oracle: the JFIF equations by hand. Cb is full (1) for blue, Cr for red."""
    converted = rgb_to_ycbcr(torch.tensor(rgb, dtype=torch.float32).view(1, 3, 1, 1))
    torch.testing.assert_close(converted.flatten(), torch.tensor(ycbcr), atol=1e-6, rtol=0)


@given(images=small_images)
def test_colour_conversion_round_trip(images: Tensor) -> None:
    """Oracle: the picture itself, in both orders of the two conversions."""
    x = scaled(images)
    torch.testing.assert_close(ycbcr_to_rgb(rgb_to_ycbcr(x)), x, atol=1e-6, rtol=0)
    torch.testing.assert_close(rgb_to_ycbcr(ycbcr_to_rgb(x)), x, atol=1e-6, rtol=0)


def test_colour_conversion_does_not_clamp() -> None:
    """Oracle: linearity. Twice the way from grey is twice the chroma, in [0, 1] or not."""
    rgb = torch.tensor([3.0, -1.0, 0.5]).view(1, 3, 1, 1)
    assert rgb_to_ycbcr(rgb).amax() > 1
    torch.testing.assert_close(ycbcr_to_rgb(rgb_to_ycbcr(rgb)), rgb)


# --- batches -------------------------------------------------------------------------------------


@settings(max_examples=30)
@given(images=small_images)
def test_reconstruct_asks_for_what_it_gives(images: Tensor) -> None:
    """Oracle: numpy's division by 255."""
    x, y = Reconstruct().batch(images)
    assert torch.equal(x, scaled(images))
    assert y is x


@settings(max_examples=30)
@given(images=small_images)
def test_colourise_target_is_the_chroma(images: Tensor) -> None:
    """Oracle: `rgb_to_ycbcr`, itself held against Pillow; `batch` takes a faster way."""
    ycbcr = rgb_to_ycbcr(scaled(images))
    x, y = Colourise((1.0,)).batch(images)
    torch.testing.assert_close(x, ycbcr[:, :1], atol=1e-6, rtol=0)
    torch.testing.assert_close(y, ycbcr[:, 1:], atol=1e-6, rtol=0)


@settings(max_examples=30)
@given(images=small_images, gammas=st.lists(st.floats(0.01, 100), min_size=1, max_size=5))
def test_colourise_input_is_luma_to_the_power_of_gamma(images: Tensor, gammas: list[float]) -> None:
    """Oracle: numpy's power in float64 of the luma by its definition; black stays 0."""
    x, _ = Colourise(tuple(gammas)).batch(images)
    luma = images.numpy() @ np.array([0.299, 0.587, 0.114]) / 255  # (N, H, W)
    for channel, gamma in zip(x.unbind(1), gammas, strict=True):
        # Near white, luma ** 100 multiplies luma's own rounding (1e-7) by 100.
        np.testing.assert_allclose(channel.numpy(), luma**gamma, atol=1e-6 + 1e-6 * gamma, rtol=0)
    assert torch.isfinite(x).all()


@settings(max_examples=30)
@given(images=small_images, classes=st.integers(1, 12), data=st.data())
def test_the_class_is_shown_as_planes(images: Tensor, classes: int, data: st.DataObject) -> None:
    """Oracle: numpy, by hand: ones in the plane of the image's class, zeros in the others. What
    comes before them and the target are those of a network that is told nothing."""
    labels = data.draw(st.lists(st.integers(0, classes - 1), min_size=3, max_size=3))[: len(images)]
    x, y = Colourise((1.0, 2.0), classes).batch(images, torch.tensor(labels))
    grey, chroma = Colourise((1.0, 2.0)).batch(images)
    expected = np.zeros((len(images), classes, *images.shape[1:3]), np.float32)
    for image, label in enumerate(labels):
        expected[image, label] = 1
    np.testing.assert_array_equal(x[:, 2:].numpy(), expected)
    assert torch.equal(x[:, :2], grey)
    assert torch.equal(y, chroma)


def test_luma_is_not_rounded() -> None:
    """Oracle: 0.299 and 0.114 of one step of 255, far less than half a step, must both show."""
    images = torch.tensor([[1, 0, 0], [0, 0, 1]], dtype=torch.uint8).view(1, 1, 2, 3)
    x, _ = Colourise((1.0,)).batch(images)
    torch.testing.assert_close(x.flatten(), torch.tensor([0.299, 0.114]) / 255)


def test_batches_ignore_the_speed_settings_of_training(photos: Tensor) -> None:
    """Oracle: the same call without autocast and bfloat16 products; nothing may change."""
    x, y = Colourise(GAMMAS).batch(photos)
    before = torch.get_float32_matmul_precision()
    try:
        torch.set_float32_matmul_precision("medium")
        with torch.autocast("cpu", dtype=torch.bfloat16):
            fast_x, fast_y = Colourise(GAMMAS).batch(photos)
    finally:
        torch.set_float32_matmul_precision(before)
    assert torch.equal(x, fast_x)
    assert torch.equal(y, fast_y)


@pytest.mark.parametrize("task", TASKS, ids=str)
@pytest.mark.parametrize("n", [1, 2, 16])
def test_shapes_types_and_memory_order(task: Task, n: int) -> None:
    """Oracle: the contract. Batches and pictures are float32, channels last, of stated channels."""
    images = torch.randint(0, 256, (n, 12, 20, 3), dtype=torch.uint8)
    kept = images.clone()
    x, y = task.batch(images, torch.arange(n) % 5)
    picture = task.picture(images, y)
    assert x.shape == (n, task.in_channels, 12, 20)
    assert y.shape == (n, task.out_channels, 12, 20)
    assert picture.shape == (n, 3, 12, 20)
    for tensor in (x, y, picture):
        assert tensor.dtype == torch.float32
        assert is_channels_last(tensor)
        assert 0 <= tensor.amin() <= tensor.amax() <= 1
    assert torch.equal(images, kept)


def test_one_grey_channel_is_channels_last_to_a_convolution() -> None:
    """Oracle: torch's own choice. With one channel both orders hold, and only the strides tell."""
    x, _ = Colourise((1.0,)).batch(torch.zeros(2, 8, 8, 3, dtype=torch.uint8))
    assert x.stride() == (64, 1, 8, 1)
    assert is_channels_last(torch.nn.Conv2d(1, 4, 3)(x))


# --- pictures ------------------------------------------------------------------------------------


@pytest.mark.parametrize("task", TASKS, ids=str)
def test_the_target_gives_back_the_picture(task: Task, photos: Tensor) -> None:
    """Oracle: the photographs. A network that hits its target exactly paints the original."""
    _, y = task.batch(photos, torch.tensor([0, 4]))
    torch.testing.assert_close(task.picture(photos, y), scaled(photos), atol=1e-6, rtol=0)


def test_grey_chroma_paints_the_grey_picture(photos: Tensor) -> None:
    """Oracle: Cb = Cr = 0.5 is no colour, so r = g = b = luma, the picture that `grey` shows."""
    colourise = Colourise(GAMMAS)
    luma, _ = Colourise((1.0,)).batch(photos)
    grey = colourise.grey(photos)
    painted = colourise.picture(photos, torch.full((2, 2, 96, 128), 0.5))
    torch.testing.assert_close(grey, luma.expand(-1, 3, -1, -1), atol=0, rtol=0)
    torch.testing.assert_close(painted, grey, atol=1e-6, rtol=0)


@pytest.mark.parametrize("task", TASKS, ids=str)
def test_any_output_paints_a_picture_in_range(task: Task, photos: Tensor) -> None:
    """Oracle: [0, 1]. An untrained network's output is anything, here bfloat16 as well."""
    output = torch.randn(2, task.out_channels, 96, 128, dtype=torch.bfloat16) * 9
    picture = task.picture(photos, output)
    assert picture.dtype == torch.float32
    assert 0 <= picture.amin() <= picture.amax() <= 1


def test_colourised_picture_keeps_the_true_luma(photos: Tensor) -> None:
    """Oracle: the luma. Wrong chroma changes the colour and, where nothing clamps, only that."""
    colourise = Colourise((1.0,))
    luma, chroma = colourise.batch(photos)
    picture = colourise.picture(photos, chroma + 0.02)
    inside = ((picture > 0) & (picture < 1)).all(dim=1, keepdim=True)
    assert inside.float().mean() > 0.5
    torch.testing.assert_close(
        rgb_to_ycbcr(picture)[:, :1][inside], luma[inside], atol=1e-6, rtol=0
    )


# --- choosing a task -----------------------------------------------------------------------------


def test_task_by_name() -> None:
    """Oracle: the two names of the product; tasks are values, equal and hashable."""
    assert make_task("reconstruct", [1.0]) == Reconstruct()
    assert make_task("colourise", [0.5, 2]) == Colourise((0.5, 2))
    assert make_task("colourise").in_channels == 4
    assert make_task("colourise", GAMMAS, 10) == Colourise(GAMMAS, 10)
    assert make_task("colourise", GAMMAS, 10).in_channels == 14
    assert len({make_task("colourise"), make_task("colourise", GAMMAS)}) == 1


def test_an_unknown_task_is_named_in_the_error() -> None:
    """Oracle: the error's contract: it names the value and what is allowed."""
    with pytest.raises(InputError, match=r"'colorize'.*reconstruct or colourise"):
        make_task("colorize")


@pytest.mark.parametrize("gammas", [(), (0.0,), (1.0, -0.5), (float("nan"),), (float("inf"),)])
def test_gammas_that_make_no_channel_are_refused(gammas: tuple[float, ...]) -> None:
    """Oracle: the error's contract; a power of 0 or less, or no power, is no grey picture."""
    with pytest.raises(InputError, match="gammas"):
        Colourise(gammas)
