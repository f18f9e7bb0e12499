"""Tests of raycae.training.baselines. Each docstring says what the result is held against."""

import io
from itertools import pairwise
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow.parquet as pq
import pytest
import skimage.data
import torch
from PIL import Image

from raycae.errors import InputError
from raycae.training import baselines as training_baselines
from raycae.training.baselines import (
    compute_baselines,
    compute_linear_rows,
    fit_pca,
    fit_principal_axes,
)
from raycae.training.pca_network import PcaNetwork, find_block

Images = npt.NDArray[np.uint8]
Reals = npt.NDArray[np.float64]

REAL_JPEGS = Path(__file__).resolve().parents[3] / "shared" / "data" / "cifar10-jpeg"


def crops(photo: Images, side: int, stride: int) -> Images:
    """Square crops on a grid, (N, side, side, 3)."""
    windows = np.lib.stride_tricks.sliding_window_view(photo, (side, side), axis=(0, 1))
    tiles = windows[::stride, ::stride].reshape(-1, 3, side, side)
    return np.ascontiguousarray(tiles.transpose(0, 2, 3, 1))


@pytest.fixture(scope="module")
def train() -> Images:
    """Crops of a photograph, more of them (1024) than an image has numbers (192)."""
    return crops(skimage.data.astronaut(), 8, 16)


@pytest.fixture(scope="module")
def val() -> Images:
    return crops(skimage.data.chelsea(), 8, 32)


@pytest.fixture(scope="module")
def table(train: Images, val: Images) -> pd.DataFrame:
    return compute_baselines("reconstruct", train, val, train)


def vectors(images: Images, side: int) -> Reals:
    """Images as rows of blocks, one loop a block, float64 in [0, 1]."""
    n, height, width, _ = images.shape
    blocks = [
        images[i, y : y + side, x : x + side].ravel()
        for i in range(n)
        for y in range(0, height, side)
        for x in range(0, width, side)
    ]
    return np.stack(blocks) / 255


def svd_errors(fit: Reals, x: Reals, counts: list[int]) -> list[float]:
    """MSE of `x` projected, component by component, on the right singular vectors of `fit`."""
    mean = fit.mean(axis=0)
    _, _, axes = np.linalg.svd(fit - mean, full_matrices=False)
    centred = x - mean
    return [np.mean((centred - centred @ axes[:n].T @ axes[:n]) ** 2).item() for n in counts]


def rows(table: pd.DataFrame, name: str) -> pd.DataFrame:
    return table[table["baseline"] == name]


# --- reconstruct ---------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "side"), [("pca", 8), ("pca_8x8", 8), ("pca_4x4", 4)])
def test_linear_codes_equal_an_svd(
    name: str, side: int, train: Images, val: Images, table: pd.DataFrame
) -> None:
    """Oracle: numpy's SVD and explicit projections. On 8 x 8 images one block is the image."""
    lines = rows(table, name).iloc[::8]
    n_blocks = (8 // side) ** 2
    counts = [int(size) // n_blocks for size in lines["latent_size"]]
    fit = vectors(train, side)
    expected = svd_errors(fit, vectors(val, side), counts)
    np.testing.assert_allclose(lines["val_mse"].astype(float), expected, rtol=1e-6, atol=1e-12)
    expected = svd_errors(fit, fit, counts)
    np.testing.assert_allclose(lines["test_mse"].astype(float), expected, rtol=1e-6, atol=1e-12)


@pytest.mark.parametrize("name", ["pca", "pca_8x8", "pca_4x4"])
def test_linear_codes_fall_to_exactly_nothing(name: str, table: pd.DataFrame) -> None:
    """Oracle: an orthogonal projection on more axes is nearer to any image; all keep it."""
    lines = rows(table, name)
    assert lines["latent_size"].is_monotonic_increasing
    assert lines["latent_size"].is_unique
    assert lines["latent_size"].iloc[-1] == 192
    for column in ("val_mse", "test_mse"):
        assert all(later <= earlier for earlier, later in pairwise(lines[column]))
        assert lines[column].iloc[-1] == 0
        assert lines[column].iloc[-2] > 0


def test_mean_colour_by_hand(train: Images, val: Images, table: pd.DataFrame) -> None:
    """Oracle: numpy. On the training images it is their variance within each channel."""
    line = rows(table, "mean_colour").iloc[0]
    mean = (train / 255).mean(axis=(0, 1, 2))
    assert line["latent_size"] is pd.NA
    assert line["val_mse"] == pytest.approx(np.mean((val / 255 - mean) ** 2))
    assert line["test_mse"] == pytest.approx((train / 255).var(axis=(0, 1, 2)).mean())


def test_fewer_images_than_numbers(train: Images, val: Images) -> None:
    """Oracle: linear algebra. n centred images span n - 1 axes: no more rows, and no error left
    on the images themselves; the SVD agrees on other images."""
    few = train[:10]
    lines = rows(compute_baselines("reconstruct", few, val, few), "pca")
    assert lines["latent_size"].tolist() == list(range(1, 10))
    assert lines["test_mse"].iloc[-1] < 1e-12
    expected = svd_errors(vectors(few, 8), vectors(val, 8), list(range(1, 10)))
    np.testing.assert_allclose(lines["val_mse"].astype(float), expected, rtol=1e-6)


def test_one_training_image(train: Images) -> None:
    """Oracle: the definition. One image spans no axis; its blocks (here four) still span three."""
    table = compute_baselines("reconstruct", train[:1], train[:2])
    assert table["baseline"].tolist() == ["pca_4x4"] * 3 + ["mean_colour"]


def test_blocks_that_do_not_tile_the_image_are_left_out() -> None:
    """Oracle: arithmetic; 12 x 20 pixels are whole 4 x 4 blocks (15), but no whole 8 x 8 ones."""
    images = np.random.default_rng(0).integers(0, 256, (30, 12, 20, 3), dtype=np.uint8)
    table = compute_baselines("reconstruct", images, images)
    assert set(table["baseline"]) == {"pca", "pca_4x4", "mean_colour"}
    assert rows(table, "pca_4x4")["latent_size"].tolist() == [15 * n for n in range(1, 49)]


def test_pca_is_fitted_on_all_images(val: Images) -> None:
    """Oracle: numpy's SVD of all 12,000 images, sorted by kind: black ones, then noise. A fit on
    the first ten thousand, or on any other part of them, has other errors."""
    draw = np.random.default_rng(0)
    black = np.zeros((9_000, 4, 4, 3), np.uint8)
    train = np.concatenate((black, draw.integers(0, 256, (3_000, 4, 4, 3), dtype=np.uint8)))
    held_out = np.ascontiguousarray(val[:, :4, :4])
    lines = rows(compute_baselines("reconstruct", train, held_out), "pca")
    counts = [int(size) for size in lines["latent_size"]]
    expected = svd_errors(vectors(train, 4), vectors(held_out, 4), counts)
    np.testing.assert_allclose(lines["val_mse"].astype(float), expected, rtol=1e-6, atol=1e-12)


@pytest.mark.parametrize("side", [4, 8])
@pytest.mark.parametrize("flipped", [(1,), (2,), (2, 1)])
def test_pca_of_flipped_copies(side: int, flipped: tuple[int, ...]) -> None:
    """Oracle: PCA of the images and their copies, flipped by NumPy; the same to the bit, because
    the sums are exact."""
    images = np.random.default_rng(0).integers(0, 256, (50, 8, 8, 3), dtype=np.uint8)
    copies = images
    for axis in flipped:
        copies = np.concatenate((copies, np.flip(copies, axis)))
    mean, axes = fit_principal_axes(images, (side, side), flipped)
    expected_mean, expected_axes = fit_principal_axes(copies, (side, side))
    assert torch.equal(mean, expected_mean)
    assert torch.equal(axes, expected_axes)


def test_moments_in_float32_are_exact(monkeypatch: pytest.MonkeyPatch) -> None:
    """Oracle: float64 on the same images, whose products are the largest there are (black and
    white pixels). Rounding of any kind would change the last digits of the axes."""
    images = np.random.default_rng(0).choice(np.uint8([0, 255]), (1024, 8, 8, 3), p=[0.97, 0.03])
    images[:, :, :, 0] = 0  # sums to 1,024 x 128 x 128, the largest number that is still exact
    mean, axes = fit_principal_axes(images, (8, 8))
    monkeypatch.setattr(training_baselines, "EXACT_ROWS", 0)
    exact_mean, exact_axes = fit_principal_axes(images, (8, 8))
    assert torch.equal(mean, exact_mean)
    assert torch.equal(axes, exact_axes)
    np.testing.assert_allclose(mean, vectors(images, 8).mean(axis=0), rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize("level", [0, 77, 127, 255])
def test_one_grey_everywhere_has_no_error_and_a_row(level: int, tmp_path: Path) -> None:
    """Oracle: arithmetic. A picture that is the same in every pixel of every image is its own mean,
    so every baseline of it is exactly 0, which is a measured error and no gap."""
    images = np.full((60, 8, 8, 3), level, np.uint8)
    table = compute_baselines("reconstruct", images, images[:20], images[:20])
    assert set(table["baseline"]) == {"pca", "pca_8x8", "pca_4x4", "mean_colour"}
    assert (table["val_mse"] == 0).all()
    assert (table["test_mse"] == 0).all()
    table.to_parquet(tmp_path / "baselines.parquet")
    pd.testing.assert_frame_equal(pd.read_parquet(tmp_path / "baselines.parquet"), table)


def test_grey_pictures_have_no_error_of_chroma() -> None:
    """Oracle: the JFIF equations: Cb = Cr = 0.5 where red, green and blue are equal, up to the
    rounding of float32 (1e-7, squared)."""
    grey = np.random.default_rng(0).integers(0, 256, (60, 8, 8, 1), dtype=np.uint8).repeat(3, 3)
    table = compute_baselines("colourise", grey, grey, grey)
    assert table["baseline"].tolist() == ["grey_copy", "mean_chroma", "luma_function"]
    assert table[["val_mse", "test_mse"]].notna().all(axis=None)
    assert (table[["val_mse", "test_mse"]] < 1e-13).all(axis=None)


def test_large_images_keep_their_block_codes_only(monkeypatch: pytest.MonkeyPatch) -> None:
    """Oracle: the documented limit; a D x D matrix above it would take gigabytes."""
    monkeypatch.setattr(training_baselines, "PCA_LIMIT", 191)
    images = np.random.default_rng(0).integers(0, 256, (9, 8, 8, 3), dtype=np.uint8)
    assert "pca" not in set(compute_baselines("reconstruct", images, images)["baseline"])


def test_every_size_is_listed() -> None:
    """Oracle: as many components as fitted vectors less one, or as there are values. A network is
    compared with PCA of its own size, not of a smaller one that is worse."""
    images = np.random.default_rng(0).integers(0, 256, (60, 8, 8, 3), dtype=np.uint8)
    table = compute_baselines("reconstruct", images, images).dropna(subset="latent_size")
    sizes = table.groupby("baseline")["latent_size"].agg(list)
    assert sizes["pca"] == [*range(1, 60)]
    assert sizes["pca_4x4"] == [*range(4, 193, 4)]
    assert sizes["pca_8x8"] == [*range(1, 60)]


# --- colourise -----------------------------------------------------------------------------------


def pixels(images: Images) -> tuple[Reals, Reals]:
    """Luma (n,) in 0..255 and Cb, Cr (n, 2) in [0, 1] of every pixel, by the JFIF equations."""
    red, green, blue = (images.reshape(-1, 3) / 255).T
    luma = 0.299 * red + 0.587 * green + 0.114 * blue
    return luma * 255, np.stack(((blue - luma) / 1.772, (red - luma) / 1.402), axis=1) + 0.5


def test_colourise_baselines_by_hand(train: Images, val: Images) -> None:
    """Oracle: pandas' group means of the chroma in float64, by the JFIF equations."""
    table = compute_baselines("colourise", train, val, train).set_index("baseline")
    luma, chroma = pixels(train)
    mean = chroma.mean(axis=0)
    by_level = pd.DataFrame(chroma).groupby(np.rint(luma)).mean().reindex(range(256))
    by_level = by_level.fillna(dict(enumerate(mean)))
    for column, images in (("val_mse", val), ("test_mse", train)):
        luma, chroma = pixels(images)
        guess = by_level.to_numpy()[np.rint(luma).astype(int)]
        assert table[column]["grey_copy"] == pytest.approx(np.mean((chroma - 0.5) ** 2))
        assert table[column]["mean_chroma"] == pytest.approx(np.mean((chroma - mean) ** 2))
        # A luma within 1e-7 of the border of two levels may fall to either.
        assert table[column]["luma_function"] == pytest.approx(
            np.mean((chroma - guess) ** 2), rel=1e-4
        )
    assert table["latent_size"].isna().all()


def test_colourise_baselines_know_more_and_err_less(train: Images) -> None:
    """Oracle: on the training pixels, the best of more functions cannot be worse."""
    errors = compute_baselines("colourise", train, train)["val_mse"].tolist()
    assert errors == sorted(errors, reverse=True)


def test_levels_of_luma_without_a_training_pixel(train: Images) -> None:
    """Oracle: the documented fallback; trained on one colour, every level guesses that colour."""
    table = compute_baselines("colourise", np.full_like(train, 77), train).set_index("baseline")
    assert table["val_mse"]["luma_function"] == pytest.approx(table["val_mse"]["mean_chroma"])
    assert table["val_mse"]["luma_function"] == pytest.approx(table["val_mse"]["grey_copy"])


# --- both ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("task", ["reconstruct", "colourise"])
def test_columns_types_and_a_missing_test_set(
    task: str, train: Images, val: Images, tmp_path: Path
) -> None:
    """Oracle: the contract: four typed columns, null tests, the same again out of Parquet."""
    table = compute_baselines(task, train, val)
    assert table.columns.tolist() == ["baseline", "latent_size", "val_mse", "test_mse"]
    assert [str(kind) for kind in table.dtypes[1:]] == ["Int64", "Float64", "Float64"]
    assert table["test_mse"].isna().all()
    assert table["val_mse"].notna().all()
    table.to_parquet(tmp_path / "baselines.parquet")
    pd.testing.assert_frame_equal(pd.read_parquet(tmp_path / "baselines.parquet"), table)


def test_images_may_be_read_only(train: Images, recwarn: pytest.WarningsRecorder) -> None:
    """Oracle: the same table; Ray's object store and Arrow hand out arrays nobody may write to."""
    frozen = train.copy()
    frozen.flags.writeable = False
    table = compute_baselines("colourise", frozen, frozen)
    pd.testing.assert_frame_equal(table, compute_baselines("colourise", train, train))
    assert not [w for w in recwarn if "writable" in str(w.message)]


def test_the_number_of_threads_is_left_as_it_was(train: Images) -> None:
    """Oracle: the setting before. The eigensolver runs on one thread, what follows does not."""
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        compute_baselines("reconstruct", train[:20], train[:20])
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


def test_an_unknown_task_is_named_in_the_error(train: Images) -> None:
    """Oracle: the error's contract: it names the value and what is allowed."""
    with pytest.raises(InputError, match=r"'paint'.*reconstruct or colourise"):
        compute_baselines("paint", train, train)


@pytest.mark.skipif(
    not REAL_JPEGS.is_dir(), reason="no shared/data/cifar10-jpeg beside the repository"
)
def test_known_figures_of_cifar10_jpeg() -> None:
    """Oracle: known facts of CIFAR-10 (JPEG), from 1,500 of its test images: mean chroma leaves
    about 0.0030 of chroma MSE, and 16 numbers a 4 x 4 block (1024 in all) about 0.0002."""
    column = pq.read_table(REAL_JPEGS / "test-00000-of-00001.parquet", columns=["img"])["img"]
    encoded = [row["bytes"] for row in column[:1500].to_pylist()]
    images = np.stack([np.asarray(Image.open(io.BytesIO(jpeg))) for jpeg in encoded])
    colourise = compute_baselines("colourise", images[:1000], images[1000:]).set_index("baseline")
    assert colourise["val_mse"]["mean_chroma"] == pytest.approx(0.0030, abs=0.0003)
    blocks = compute_linear_rows("pca_4x4", images[:1000], [images[1000:]], (4, 4))
    errors = {size: error for _, size, (error,) in blocks}
    assert errors[1024] == pytest.approx(0.0002, abs=0.00003)
    assert errors[3072] == 0


@pytest.mark.parametrize("name", ["pca", "pca_4x4", "pca_8x8"])
def test_pca_as_a_network(val: Images, name: str) -> None:
    """Oracle: numpy's SVD of the centred blocks, and the error of the same baseline. The images are
    16 pixels high and 8 wide, so that blocks have to find their places."""
    images = np.concatenate([val[:60], val[60:120]], axis=1)
    block = find_block(name, images)
    assert block == {"pca": (16, 8), "pca_4x4": (4, 4), "pca_8x8": (8, 8)}[name]
    n_blocks = images[0].size // (3 * block[0] * block[1])
    mean, basis = fit_pca(images, block)
    with torch.inference_mode():
        network = PcaNetwork(block, mean, basis[:, :5])
        output = network(torch.tensor(images).permute(0, 3, 1, 2) / 255)
    rows = {size: errors for _, size, errors in compute_linear_rows(name, images, [images], block)}
    found = output.permute(0, 2, 3, 1).double().numpy()
    assert np.square(found - images / 255).mean() == pytest.approx(rows[5 * n_blocks][0], rel=1e-3)
    x = np.concatenate(
        [
            images[:, top : top + block[0], left : left + block[1]].reshape(len(images), -1) / 255
            for top in range(0, 16, block[0])
            for left in range(0, 8, block[1])
        ]
    )
    axes = np.linalg.svd(x - x.mean(0), full_matrices=False)[2][:5]
    expected = (x - x.mean(0)) @ axes.T @ axes + x.mean(0)
    corner = found[:, : block[0], : block[1]].reshape(len(images), -1)
    np.testing.assert_allclose(corner, expected[: len(images)], atol=1e-4)
