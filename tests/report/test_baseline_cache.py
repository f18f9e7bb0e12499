"""Baselines of the same images are computed once; the cache never changes a figure and is never
needed."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from raycae import data
from raycae.report import baseline_cache
from raycae.training.baselines import compute_baselines, fit_pca
from raycae.training.pca_network import PcaNetwork


@pytest.fixture(scope="module")
def loaded() -> data.Images:
    return data.load("photos", image_size=8, limit=200)


@pytest.fixture
def images(loaded: data.Images, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> data.Images:
    """Images of 8 x 8 pixels, and an empty cache folder."""
    monkeypatch.setenv("RAYCAE_CACHE", str(tmp_path / "cache"))
    return loaded


@pytest.fixture
def computed(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The tasks whose baselines were computed and not read."""
    calls: list[str] = []
    compute = baseline_cache.compute_rows

    def count(task: str, *arguments: Any) -> Any:
        calls.append(task)
        return compute(task, *arguments)

    monkeypatch.setattr(baseline_cache, "compute_rows", count)
    return calls


@pytest.mark.parametrize("task", ["reconstruct", "colourise"])
def test_a_cached_table_equals_a_computed_one(
    images: data.Images, computed: list[str], task: str
) -> None:
    """Oracle: `compute_baselines`, to the bit and with equal types, from memory and from the
    file."""
    expected = compute_baselines(task, images.train, images.val, images.test)
    for _ in range(2):
        found = baseline_cache.load_baselines(task, images)
        pd.testing.assert_frame_equal(found, expected, check_exact=True)
    assert computed == [task]


def test_computed_baselines_are_counted(images: data.Images) -> None:
    """Oracle: the names in the table. Each PCA is counted before it is fitted; a table from the
    cache has nothing to count."""
    counted: list[tuple[int, int]] = []
    for _ in range(2):
        frame = baseline_cache.load_baselines(
            "reconstruct", images, lambda *count: counted.append(count)
        )
    n = len({name for name in frame["baseline"] if name.startswith("pca")})
    assert counted == [(i, n) for i in range(n)]


def test_other_images_or_another_task_are_computed(
    images: data.Images, computed: list[str]
) -> None:
    """Oracle: by hand. One test image changes the fingerprint of the test images, not that of the
    study."""
    test = images.test.copy()
    test[3, 0, 0, 0] ^= 1
    baseline_cache.load_baselines("colourise", images)
    baseline_cache.load_baselines("colourise", replace(images, test=test))
    baseline_cache.load_baselines("colourise", replace(images, fingerprint="0" * 16))
    baseline_cache.load_baselines("reconstruct", images)
    baseline_cache.load_baselines("colourise", images)
    assert computed == ["colourise", "colourise", "colourise", "reconstruct"]


@pytest.mark.parametrize("damage", ["flip", "cut", "empty", "folder"])
def test_a_damaged_file_is_not_believed(
    images: data.Images, computed: list[str], damage: str
) -> None:
    """Oracle: the table before the damage."""
    before = baseline_cache.load_baselines("colourise", images)
    (path,) = (data.cache_folder() / "baselines").iterdir()
    content = bytearray(path.read_bytes())
    if damage == "flip":
        content[-3] ^= 1
    path.write_bytes(content[: {"cut": 60, "empty": 0}.get(damage, len(content))])
    if damage == "folder":
        path.unlink()
        path.mkdir()
    after = baseline_cache.load_baselines("colourise", images)
    pd.testing.assert_frame_equal(before, after, check_exact=True)
    assert len(computed) == 2


def test_without_a_cache_folder(
    images: data.Images, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Oracle: the same call with a cache. A folder that cannot be made is no fault."""
    expected = baseline_cache.load_baselines("colourise", images)
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("RAYCAE_CACHE", str(tmp_path / "file" / "below"))
    found = baseline_cache.load_baselines("colourise", images)
    pd.testing.assert_frame_equal(found, expected, check_exact=True)


def test_the_cache_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Oracle: by hand. Of five files in a cache of three, the three that were used last stay."""
    monkeypatch.setattr(baseline_cache, "MOST_FILES", 3)
    rows = [("grey_copy", None, [0.25, 0.5])]
    for i in range(4):
        baseline_cache.write_rows(tmp_path / f"{i}.json", rows)
        if i < 3:
            os.utime(tmp_path / f"{i}.json", (i, i))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["1.json", "2.json", "3.json"]
    assert baseline_cache.read_rows(tmp_path / "1.json") == rows  # It was used now.
    os.utime(tmp_path / "3.json", (3, 3))
    baseline_cache.write_rows(tmp_path / "4.json", rows)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["1.json", "3.json", "4.json"]


def test_infinite_and_tiny_errors_survive(tmp_path: Path) -> None:
    """Oracle: the numbers that were written, to the bit."""
    rows = [("pca", 1, [5e-324, float("inf")]), ("pca", 2, [0.1 + 0.2, np.pi])]
    baseline_cache.write_rows(tmp_path / "a.json", rows)
    assert baseline_cache.read_rows(tmp_path / "a.json") == rows


def reconstruct(network: PcaNetwork | None, images: np.ndarray) -> np.ndarray:
    assert network is not None
    with torch.inference_mode():
        return network(torch.tensor(images).permute(0, 3, 1, 2) / 255).numpy()


@pytest.mark.parametrize("block", [(8, 8), (4, 4)])
def test_components_come_from_the_cache(images: data.Images, block: tuple[int, int]) -> None:
    """Oracle: the PCA that is fitted without a cache, to a tenth of a level; it is kept by whoever
    computes baselines first. Without training images nothing is fitted."""
    arguments = (images.fingerprint, None, block, 7)
    assert baseline_cache.load_pca(*arguments) is None
    baseline_cache.load_baselines("reconstruct", images)
    mean, basis = fit_pca(images.train, block)
    expected = reconstruct(PcaNetwork(block, mean, basis[:, :7]), images.test)
    found = reconstruct(baseline_cache.load_pca(*arguments), images.test)
    np.testing.assert_allclose(found, expected, atol=0.1 / 255)
    path = baseline_cache.find_components_file(images.fingerprint, block)
    assert path is not None
    path.unlink()
    fitted = baseline_cache.load_pca(images.fingerprint, images.train, block, 7)
    assert (reconstruct(fitted, images.test) == found).all()


def test_components_beyond_the_cache(images: data.Images, monkeypatch: pytest.MonkeyPatch) -> None:
    """Oracle: by hand. Of 5 components there is no PCA with 6, which each trial would fit again. A
    damaged file is not believed; the training images replace it."""
    monkeypatch.setattr(baseline_cache, "MOST_COMPONENTS", 5)
    assert not baseline_cache.has_components(images.fingerprint)
    baseline_cache.load_baselines("reconstruct", images)
    assert baseline_cache.has_components(images.fingerprint)

    def load(n: int, train: np.ndarray | None = None) -> PcaNetwork | None:
        return baseline_cache.load_pca(images.fingerprint, train, (8, 8), n)

    assert load(5) is not None
    assert load(6) is None
    assert load(6, images.train) is None
    path = baseline_cache.find_components_file(images.fingerprint, (8, 8))
    assert path is not None
    content = bytearray(path.read_bytes())
    content[-300] ^= 1
    path.write_bytes(content)
    assert load(5) is None
    assert load(5, images.train) is not None
