"""Limits of the recorded demo: the size of its page, and errors compared with those of PCA."""

from __future__ import annotations

from pathlib import Path

import pytest

from raycae.report.page import render_report
from raycae.study import tables
from raycae.study.plan import read_study
from raycae.training.baselines import WHOLE_IMAGE

DEMO = Path(__file__).resolve().parents[2] / "analysis" / "recorded" / "demo"
LARGEST_PAGE_BYTES = 1_800_000


def test_the_page_is_small() -> None:
    """Oracle: the limit of the page's size; it holds the pictures of four trials."""
    page = render_report(DEMO)
    assert page.count("<figure data-trial=") == 4
    assert len(page.encode()) <= LARGEST_PAGE_BYTES


@pytest.mark.parametrize(("latent_size", "ratio"), [(64, 0.93), (128, 0.93), (256, 0.97)])
def test_trials_have_less_error_than_pca(latent_size: int, ratio: float) -> None:
    """Oracle: the test errors in the recorded tables, divided here. The best PCA is that with the
    lowest test error up to the size, of whole images or of blocks."""
    trials, study = tables.read_trials(DEMO), read_study(DEMO)
    baselines = tables.read_baselines(DEMO, study["data"]["fingerprint"])
    assert baselines is not None
    linear = baselines[baselines["baseline"].str.startswith("pca")]
    assert linear["baseline"].nunique() == 3
    (error,) = trials.loc[trials["latent_size"] == latent_size, "test_mse"]
    is_whole = (linear["baseline"] == WHOLE_IMAGE) & (linear["latent_size"] == latent_size)
    (whole,) = linear.loc[is_whole, "test_mse"]
    assert error <= ratio * whole
    assert error < linear.loc[linear["latent_size"] <= latent_size, "test_mse"].min()
