"""Metrics on a GPU."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from fused_trainings import pictures
from torch import Tensor

from raycae.training.metrics import (
    compute_chroma_error,
    compute_delta_e,
    compute_hue_error,
    compute_mse,
    compute_psnr_db,
    compute_ssim,
)
from raycae.training.validation import scale_to_rgb

METRICS: list[Callable[[Tensor, Tensor], Tensor]] = [
    *(compute_mse, compute_psnr_db, compute_ssim),
    *(compute_delta_e, compute_chroma_error, compute_hue_error),
]


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("metric", METRICS)
def test_metrics_agree_on_the_gpu(metric: Callable[[Tensor, Tensor], Tensor]) -> None:
    """Oracle: the same metric on the CPU, of pictures and blurred ones."""
    a = scale_to_rgb(pictures(size=32)[0].tensors[0])
    b = torch.nn.functional.avg_pool2d(a, 5, stride=1, padding=2)
    values = metric(a.cuda(), b.cuda()).cpu()
    torch.testing.assert_close(values, metric(a, b), atol=1e-5, rtol=1e-5)
