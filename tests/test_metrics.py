"""Tests of raycae.metrics. Each docstring says what the result is held against."""

import math
from collections.abc import Callable

import numpy as np
import pytest
import skimage.data
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from skimage.metrics import peak_signal_noise_ratio, structural_similarity
from torch import Tensor

from raycae.errors import InputError
from raycae.metrics import PSNR_CAP_DB, mse, psnr_db, ssim

Metric = Callable[[Tensor, Tensor], Tensor]
METRICS: list[Metric] = [mse, psnr_db, ssim]


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
    ours = ssim(photos, degraded[kind])
    np.testing.assert_allclose(ours, skimage_ssim(photos, degraded[kind]), atol=1e-5, rtol=0)


@pytest.mark.parametrize("level", [0.0, 0.5, 0.97, 1.0])
def test_ssim_of_flat_pictures_equals_scikit_image(level: float) -> None:
    """Oracle: scikit-image. Flat areas have variance 0, where float32 rounding shows the most."""
    ramp = torch.linspace(0, 1e-3, 32 * 32).view(1, 1, 32, 32).expand(1, 3, 32, 32)
    a = (torch.full((1, 3, 32, 32), level) - ramp).clamp(0, 1)
    b = torch.full((1, 3, 32, 32), level)
    np.testing.assert_allclose(ssim(a, b), skimage_ssim(a, b), atol=1e-5, rtol=0)


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
    np.testing.assert_allclose(ssim(a, b), skimage_ssim(a, b), atol=1e-5, rtol=0)


@pytest.mark.parametrize(("first", "second"), [(0.9, 0.2), (0.03, 0.97), (0.7, 0.65), (1 / 255, 0)])
def test_ssim_of_different_flat_pictures_equals_scikit_image(first: float, second: float) -> None:
    """Oracle: scikit-image. Without variance the structure is exactly 1, not 1 and rounding."""
    a, b = torch.full((1, 3, 16, 16), first), torch.full((1, 3, 16, 16), second)
    np.testing.assert_allclose(ssim(a, b), skimage_ssim(a, b), atol=1e-5, rtol=0)


def test_ssim_refuses_pictures_smaller_than_its_window() -> None:
    """Oracle: the definition; there is no whole 7 x 7 window, and the error names the size."""
    with pytest.raises(InputError, match="6 x 20"):
        ssim(torch.zeros(1, 3, 6, 20), torch.zeros(1, 3, 6, 20))


@pytest.mark.parametrize("kind", DEGRADATIONS)
def test_psnr_equals_scikit_image(kind: str, photos: Tensor, degraded: dict[str, Tensor]) -> None:
    """Oracle: scikit-image's `peak_signal_noise_ratio` of each pair, in float64."""
    expected = [
        peak_signal_noise_ratio(a.double().numpy(), b.double().numpy(), data_range=1.0)
        for a, b in zip(photos, degraded[kind], strict=True)
    ]
    np.testing.assert_allclose(psnr_db(photos, degraded[kind]), expected, atol=1e-3, rtol=0)


def test_mse_and_psnr_by_hand() -> None:
    """Oracle: arithmetic. Errors of 0.1 everywhere: 0.01, 20 dB; black for white: 1, 0 dB."""
    a = torch.zeros(2, 3, 8, 8)
    b = torch.stack((torch.full((3, 8, 8), 0.1), torch.ones(3, 8, 8)))
    torch.testing.assert_close(mse(a, b), torch.tensor([0.01, 1.0]))
    torch.testing.assert_close(psnr_db(a, b), torch.tensor([20.0, 0.0]), atol=1e-4, rtol=0)


def test_identical_pictures(photos: Tensor) -> None:
    """Oracle: the definitions: no error, the cap instead of infinity, similarity 1."""
    assert mse(photos, photos).tolist() == [0, 0, 0]
    assert psnr_db(photos, photos).tolist() == [PSNR_CAP_DB] * 3
    torch.testing.assert_close(ssim(photos, photos), torch.ones(3), atol=1e-6, rtol=0)


def test_a_mean_psnr_stays_finite_and_the_cap_is_out_of_reach_of_8_bits(photos: Tensor) -> None:
    """Oracle: one step of 255 in one number of a picture, the least difference there is."""
    nearly = photos.clone()
    nearly[0, 0, 0, 0] += 1 / 255
    values = psnr_db(photos, nearly)
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


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("metric", METRICS)
def test_metrics_agree_on_the_gpu(
    metric: Metric, photos: Tensor, degraded: dict[str, Tensor]
) -> None:
    """Oracle: the same metric on the CPU."""
    a, b = photos, degraded["blur"]
    values = metric(a.cuda(), b.cuda()).cpu()
    torch.testing.assert_close(values, metric(a, b), atol=1e-5, rtol=1e-5)
