"""Tests of raycae.training.metrics. Each docstring says what the result is held against."""

import math
from collections.abc import Callable

import numpy as np
import pytest
import skimage.data
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from skimage import color
from skimage.color.delta_e import get_dH2
from skimage.metrics import peak_signal_noise_ratio, structural_similarity
from torch import Tensor

from raycae.errors import InputError
from raycae.training.metrics import (
    PSNR_CAP_DB,
    compute_chroma_error,
    compute_colourfulness,
    compute_delta_e,
    compute_hue_error,
    compute_mse,
    compute_psnr_db,
    compute_ssim,
    rgb_to_lab,
)

Metric = Callable[[Tensor, Tensor], Tensor]
OF_LAB: list[Metric] = [compute_delta_e, compute_chroma_error, compute_hue_error]
METRICS: list[Metric] = [compute_mse, compute_psnr_db, compute_ssim, *OF_LAB]
PAIRS = arrays.arrays(np.uint8, (2, 3, 3, 3))
"""Any two pictures of 3 x 3 pixels."""


def pictures(images: np.ndarray) -> Tensor:
    """uint8 (N, H, W, 3) to RGB float (N, 3, H, W) in [0, 1]."""
    return torch.from_numpy(images).permute(0, 3, 1, 2) / 255


def skimage_ssim(a: Tensor, b: Tensor) -> list[float]:
    """scikit-image's SSIM of each pair, in float64."""
    pairs = zip(a.double().permute(0, 2, 3, 1), b.double().permute(0, 2, 3, 1), strict=True)
    return [
        structural_similarity(x.numpy(), y.numpy(), channel_axis=-1, data_range=1.0)
        for x, y in pairs
    ]


@pytest.fixture(scope="module")
def photos() -> Tensor:
    """Crops of three photographs, (3, 3, 48, 64)."""
    whole = [skimage.data.astronaut(), skimage.data.chelsea(), skimage.data.coffee()]
    return pictures(np.stack([photo[100:148, 120:184] for photo in whole]))


@pytest.fixture(scope="module")
def degraded(photos: Tensor) -> dict[str, Tensor]:
    """The photographs, spoilt in the ways that networks and baselines spoil them."""
    noise = torch.randn(photos.shape, generator=torch.Generator().manual_seed(1))
    return {
        "noise": (photos + 0.1 * noise).clamp(0, 1),
        "faint noise": (photos + 0.001 * noise).clamp(0, 1),
        "blur": torch.nn.functional.avg_pool2d(photos, 5, stride=1, padding=2),
        "mean": photos.mean(dim=(2, 3), keepdim=True).expand_as(photos),
        "grey": photos.mean(dim=1, keepdim=True).expand_as(photos),
        "negative": 1 - photos,
        "other": photos.roll(1, dims=0),
    }


DEGRADATIONS = ["noise", "faint noise", "blur", "mean", "grey", "negative", "other"]


@pytest.mark.parametrize("kind", DEGRADATIONS)
def test_ssim_equals_scikit_image(kind: str, photos: Tensor, degraded: dict[str, Tensor]) -> None:
    """Oracle: scikit-image's `structural_similarity` with its defaults, in float64."""
    ours = compute_ssim(photos, degraded[kind])
    np.testing.assert_allclose(ours, skimage_ssim(photos, degraded[kind]), atol=1e-5, rtol=0)


@pytest.mark.parametrize("level", [0.0, 0.5, 0.97, 1.0])
def test_ssim_of_flat_pictures_equals_scikit_image(level: float) -> None:
    """Oracle: scikit-image. Flat areas have variance 0, where float32 rounding shows the most."""
    ramp = torch.linspace(0, 1e-3, 32 * 32).view(1, 1, 32, 32).expand(1, 3, 32, 32)
    a = (torch.full((1, 3, 32, 32), level) - ramp).clamp(0, 1)
    b = torch.full((1, 3, 32, 32), level)
    np.testing.assert_allclose(compute_ssim(a, b), skimage_ssim(a, b), atol=1e-5, rtol=0)


@settings(max_examples=15, deadline=None)
@given(
    images=arrays.arrays(
        np.uint8, st.tuples(st.just(2), st.integers(7, 10), st.integers(7, 10), st.just(3))
    )
)
def test_ssim_equals_scikit_image_on_any_picture(images: np.ndarray) -> None:
    """Oracle: scikit-image, down to pictures of a single window and sides that differ."""
    x = pictures(images)
    a, b = x[:1], x[1:]
    np.testing.assert_allclose(compute_ssim(a, b), skimage_ssim(a, b), atol=1e-5, rtol=0)


@pytest.mark.parametrize(("first", "second"), [(0.9, 0.2), (0.03, 0.97), (0.7, 0.65), (1 / 255, 0)])
def test_ssim_of_different_flat_pictures_equals_scikit_image(first: float, second: float) -> None:
    """Oracle: scikit-image. Without variance the structure is exactly 1, not 1 and rounding."""
    a, b = torch.full((1, 3, 16, 16), first), torch.full((1, 3, 16, 16), second)
    np.testing.assert_allclose(compute_ssim(a, b), skimage_ssim(a, b), atol=1e-5, rtol=0)


def test_ssim_refuses_pictures_smaller_than_its_window() -> None:
    """Oracle: the definition; there is no whole 7 x 7 window, and the error names the size."""
    with pytest.raises(InputError, match="6 x 20"):
        compute_ssim(torch.zeros(1, 3, 6, 20), torch.zeros(1, 3, 6, 20))


@pytest.mark.parametrize("kind", DEGRADATIONS)
def test_psnr_equals_scikit_image(kind: str, photos: Tensor, degraded: dict[str, Tensor]) -> None:
    """Oracle: scikit-image's `peak_signal_noise_ratio` of each pair, in float64."""
    expected = [
        peak_signal_noise_ratio(a.double().numpy(), b.double().numpy(), data_range=1.0)
        for a, b in zip(photos, degraded[kind], strict=True)
    ]
    np.testing.assert_allclose(compute_psnr_db(photos, degraded[kind]), expected, atol=1e-3, rtol=0)


def test_mse_and_psnr_by_hand() -> None:
    """Oracle: arithmetic. Errors of 0.1 everywhere: 0.01, 20 dB; black for white: 1, 0 dB."""
    a = torch.zeros(2, 3, 8, 8)
    b = torch.stack((torch.full((3, 8, 8), 0.1), torch.ones(3, 8, 8)))
    torch.testing.assert_close(compute_mse(a, b), torch.tensor([0.01, 1.0]))
    torch.testing.assert_close(compute_psnr_db(a, b), torch.tensor([20.0, 0.0]), atol=1e-4, rtol=0)


def test_identical_pictures(photos: Tensor) -> None:
    """Oracle: the definitions: no error, the cap instead of infinity, similarity 1."""
    assert compute_mse(photos, photos).tolist() == [0, 0, 0]
    assert compute_psnr_db(photos, photos).tolist() == [PSNR_CAP_DB] * 3
    torch.testing.assert_close(compute_ssim(photos, photos), torch.ones(3), atol=1e-6, rtol=0)


def test_a_mean_psnr_stays_finite_and_the_cap_is_out_of_reach_of_8_bits(photos: Tensor) -> None:
    """Oracle: one step of 255 in one number of a picture, the least difference there is."""
    nearly = photos.clone()
    nearly[0, 0, 0, 0] += 1 / 255
    values = compute_psnr_db(photos, nearly)
    least = 1 / 255**2 / photos[0].numel()
    assert values[0].item() == pytest.approx(-10 * math.log10(least), abs=0.01)
    assert values[0] < PSNR_CAP_DB
    assert torch.isfinite(values.mean())


@pytest.mark.parametrize("metric", METRICS)
def test_metrics_are_per_image_symmetric_and_blind_to_memory_order(
    metric: Metric, photos: Tensor, degraded: dict[str, Tensor]
) -> None:
    """Oracle: the same metric of one pair at a time, of the pair swapped, and of other strides."""
    a, b = photos.contiguous(), degraded["noise"].contiguous()
    values = metric(a, b)
    singles = torch.cat([metric(a[i : i + 1], b[i : i + 1]) for i in range(3)])
    last = torch.channels_last
    assert values.shape == (3,)
    torch.testing.assert_close(values, singles, atol=1e-6, rtol=1e-6)
    torch.testing.assert_close(values, metric(b, a), atol=1e-6, rtol=1e-6)
    reordered = metric(a.contiguous(memory_format=last), b.contiguous(memory_format=last))
    torch.testing.assert_close(values, reordered, atol=1e-6, rtol=1e-6)


def skimage_lab(a: Tensor) -> np.ndarray:
    """scikit-image's Lab, (N, H, W, 3), in float64."""
    found: np.ndarray = color.rgb2lab(a.double().permute(0, 2, 3, 1).numpy())
    return found


def planes(colours: np.ndarray) -> Tensor:
    """Lab (N, H, W, 3) as the metrics take it, float64 (N, 3, H, W)."""
    return torch.from_numpy(colours).permute(0, 3, 1, 2)


@given(images=PAIRS)
def test_lab_equals_scikit_image(images: np.ndarray) -> None:
    """Oracle: scikit-image, whose white is another by 1e-4; that is 0.005 in Lab."""
    ours = rgb_to_lab(pictures(images)).permute(0, 2, 3, 1)
    np.testing.assert_allclose(ours, skimage_lab(pictures(images)), atol=0.01, rtol=0)


@given(level=st.integers(0, 255))
def test_grey_has_no_chroma(level: int) -> None:
    """Oracle: the definition; a* and b* of r = g = b are 0, and L* is 0 for black, 100 for white,
    116 * 0.18 ** (1 / 3) - 16 for 18 % of its light."""
    light, red, yellow = rgb_to_lab(torch.full((1, 3, 1, 1), level / 255)).flatten().tolist()
    assert (red, yellow) == pytest.approx((0, 0), abs=1e-3)
    luminance = ((level / 255 + 0.055) / 1.055) ** 2.4 if level > 10 else level / 255 / 12.92
    root = luminance ** (1 / 3) if level > 23 else (luminance * 24389 / 27 + 16) / 116
    assert light == pytest.approx(116 * root - 16, abs=1e-3)


@given(images=PAIRS)
def test_delta_e_equals_scikit_image(images: np.ndarray) -> None:
    """Oracle: scikit-image's `deltaE_ciede2000` of the same Lab, in float64."""
    colours = skimage_lab(pictures(images))
    ours = compute_delta_e(planes(colours[:1]), planes(colours[1:])).item()
    assert ours == pytest.approx(color.deltaE_ciede2000(colours[0], colours[1]).mean(), abs=1e-6)


SHARMA = [
    ((50, 2.6772, -79.7751), (50, 0, -82.7485), 2.0425),
    ((50, -1.3802, -84.2814), (50, 0, -82.7485), 1.0000),
    ((50, 0, 0), (50, -1, 2), 2.3669),
    ((50, 2.49, -0.001), (50, -2.49, 0.0009), 7.1792),
    ((50, 2.49, -0.001), (50, -2.49, 0.0011), 7.2195),
    ((50, 2.5, 0), (50, 0, -2.5), 4.3065),
    ((50, 2.5, 0), (73, 25, -18), 27.1492),
    ((60.2574, -34.0099, 36.2677), (60.4626, -34.1751, 39.4387), 1.2644),
    ((2.0776, 0.0795, -1.1350), (0.9033, -0.0636, -0.5514), 0.9082),
]


@pytest.mark.parametrize(("a", "b", "expected"), SHARMA)
def test_delta_e_of_published_pairs(
    a: tuple[float, ...], b: tuple[float, ...], expected: float
) -> None:
    """Oracle: the table of Sharma, Wu and Dalal 2005, made to find what others had got wrong: hues
    either side of opposite ones, grey, blue."""
    one, other = (torch.tensor(x, dtype=torch.float64).view(1, 3, 1, 1) for x in (a, b))
    assert compute_delta_e(one, other).item() == pytest.approx(expected, abs=5e-5)


@given(images=PAIRS)
def test_chroma_and_hue_error_equal_scikit_image(images: np.ndarray) -> None:
    """Oracle: scikit-image's Lab and `get_dH2`; and of one pixel, with the difference of L*, the
    two make up CIE76, `deltaE_cie76`."""
    first, second = skimage_lab(pictures(images))
    a, b = planes(first[None]), planes(second[None])
    chroma = [np.hypot(x[..., 1], x[..., 2]) for x in (first, second)]
    expected = np.abs(chroma[0] - chroma[1]).mean()
    assert compute_chroma_error(a, b).item() == pytest.approx(expected, abs=1e-9)
    hue = np.sqrt(get_dH2(first, second).clip(0)).mean()
    assert compute_hue_error(a, b).item() == pytest.approx(hue, abs=1e-4)
    one, other = a[..., :1, :1], b[..., :1, :1]
    parts = (
        compute_chroma_error(one, other),
        compute_hue_error(one, other),
        (one - other)[:, 0].flatten(),
    )
    whole = sum(part.item() ** 2 for part in parts) ** 0.5
    assert whole == pytest.approx(color.deltaE_cie76(first[0, 0], second[0, 0]), abs=1e-9)


@given(images=PAIRS, turn=st.floats(0.1, 3.1))
def test_a_turn_of_the_hue_is_an_error_of_hue_alone(images: np.ndarray, turn: float) -> None:
    """Oracle: a rotation around grey by an angle leaves the chroma C*; the chord is
    2 C* sin(angle / 2). A change of lightness is neither."""
    a = rgb_to_lab(pictures(images[:1]).double())
    cos, sin = math.cos(turn), math.sin(turn)
    light, red, yellow = a.unbind(1)
    b = torch.stack((light + 3, cos * red - sin * yellow, sin * red + cos * yellow), dim=1)
    chord = (2 * torch.hypot(red, yellow) * math.sin(turn / 2)).mean().item()
    assert compute_hue_error(a, b).item() == pytest.approx(chord, abs=1e-6)
    assert compute_chroma_error(a, b).item() == pytest.approx(0, abs=1e-6)


@given(images=PAIRS)
def test_differences_of_colour_are_zero_for_equal_pictures_and_symmetric(
    images: np.ndarray,
) -> None:
    """Oracle: the definitions."""
    a, b = rgb_to_lab(pictures(images)).split(1)
    for metric in OF_LAB:
        assert metric(a, a).item() == pytest.approx(0, abs=1e-5)
        assert metric(a, b).item() == pytest.approx(metric(b, a).item(), abs=1e-3)


def test_against_grey_the_hue_is_not_wrong(photos: Tensor, degraded: dict[str, Tensor]) -> None:
    """Oracle: the definition; without chroma there is no hue, also where rounding leaves some."""
    a, grey = rgb_to_lab(photos), rgb_to_lab(degraded["grey"])
    assert compute_hue_error(a, grey).max() < 0.05
    torch.testing.assert_close(
        compute_chroma_error(a, grey),
        torch.hypot(a[:, 1], a[:, 2]).mean(dim=(1, 2)),
        atol=0.01,
        rtol=0,
    )


@given(images=arrays.arrays(np.uint8, (1, 4, 5, 3)), level=st.floats(-1, 1))
def test_colourfulness_by_numpy(images: np.ndarray, level: float) -> None:
    """Oracle: the paper's formula in numpy on values from 0 to 255. It does not see where pixels
    lie, nor how bright they are; half the contrast is half of it."""
    red, green, blue = images[0].reshape(-1, 3).astype(float).T
    rg, yb = red - green, (red + green) / 2 - blue
    expected = np.hypot(rg.std(), yb.std()) + 0.3 * np.hypot(rg.mean(), yb.mean())
    rgb = pictures(images).double()
    found = compute_colourfulness(rgb).item()
    assert found == pytest.approx(expected, abs=1e-4)  # float32 pictures
    assert compute_colourfulness(rgb.flip(2) + level).item() == pytest.approx(found, abs=1e-9)
    assert compute_colourfulness(rgb / 2).item() == pytest.approx(found / 2, abs=1e-9)


def test_colourfulness_of_flat_colours() -> None:
    """Oracle: arithmetic. Grey has none; red has rg 255 and yb 127.5 everywhere."""
    red = torch.tensor([1.0, 0, 0]).view(1, 3, 1, 1).expand(1, 3, 8, 8)
    assert compute_colourfulness(torch.full((1, 3, 8, 8), 0.4)).item() == 0
    assert compute_colourfulness(red).item() == pytest.approx(0.3 * math.hypot(255, 127.5))
