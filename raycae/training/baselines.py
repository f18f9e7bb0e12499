"""Reference errors on the images of a search: PCA, mean colour, mean chroma.

A network is worth its size if its error is lower. All errors are mean squared errors over every
value that a task predicts (R, G, B or Cb, Cr of all pixels), on the scale of [0, 1]. Everything is
fitted on all training images. What is not exact in integers is computed in float64.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from raycae.errors import InputError
from raycae.model.architecture import PCA_LIMIT
from raycae.model.tasks import Colourise, Reconstruct

if TYPE_CHECKING:
    import pandas as pd

Images = npt.NDArray[np.uint8]
"""Images, uint8 (N, H, W, 3)."""
Row = tuple[str, int | None, list[float]]
"""Name of a baseline, its latent size, and its error on each set of images."""
Fit = Callable[[Images, tuple[int, int]], tuple[Tensor, Tensor]]
"""A function like `fit_pca`."""
BLOCK_SIDES = (4, 8)
"""Sides of the blocks that PCA is fitted on, in pixels."""
WHOLE_IMAGE = "pca"
"""Name of PCA of whole images; PCA of blocks adds their size, as in `pca_8x8`."""
LUMA_LEVELS = 256
"""Number of luma levels that `luma_function` distinguishes."""
LEVELS = 255
"""Largest pixel value; pixel values are divided by it."""
MIDDLE = 128
"""Subtracted from pixel values, which leaves integers from -128 to 127."""
EXACT_ROWS = 1024
"""Number of products that float32 adds exactly: 1,024 x 128² = 2²⁴."""
CHUNK = 3_072_000
"""Number of values per chunk: 25 MB in float64, 1,000 images of 32 x 32."""


def compute_baselines(
    task: str, train: Images, val: Images, test: Images | None = None
) -> pd.DataFrame:
    """Compute the errors of the simple codes of a task, one row per baseline and size.

    reconstruct:

    - `pca`: PCA of the whole image; no other linear map of its size has a lower error on the
      images that it was fitted on. Left out above 6,000 values per image, where it would take
      minutes and gigabytes.
    - `pca_4x4`, `pca_8x8`: PCA of blocks of pixels, one code for all blocks; the latent size
      is blocks x components. Left out where the blocks do not tile the image.
    - `mean_colour`: the mean red, green and blue of the training images, everywhere.

    PCA is exact (eigenvectors of the covariance) and fitted on all training images. Fitted on n
    vectors, at most n - 1 components are listed: the rest would be noise.

    colourise:

    - `grey_copy`: Cb = Cr = 0.5, no colour at all.
    - `mean_chroma`: the mean Cb and Cr of the training images, everywhere.
    - `luma_function`: the best guess from a pixel's own luma, the mean chroma of the training
      pixels at each of 256 levels (overall mean where no training pixel has the level).

    Args:
        task: "reconstruct" or "colourise".
        train: Training images, uint8 (N, H, W, 3), N at least 1.
        val: Validation images, uint8 (M, H, W, 3), M at least 1.
        test: Test images, uint8 (K, H, W, 3), K at least 1, or None.

    Returns:
        A table with the columns `baseline` (str), `latent_size` (Int64, null where nothing is
        coded), `val_mse` and `test_mse` (Float64, the latter null without `test`).

    Raises:
        InputError: The task is unknown.
    """
    sets = [val] if test is None else [val, test]
    return build_frame(compute_rows(task, train, sets), has_test=test is not None)


def compute_rows(
    task: str, train: Images, sets: list[Images], fit: Fit | None = None
) -> Iterator[Row]:
    """Return the rows of `compute_baselines`.

    Args:
        task: "reconstruct" or "colourise".
        train: Training images, uint8 (N, H, W, 3).
        sets: The images to evaluate, each uint8 (M, H, W, 3).
        fit: Called in place of `fit_pca`, for example to keep what it returns.

    Raises:
        InputError: The task is unknown.
    """
    if task == Reconstruct.name:
        return compute_reconstruct_rows(train, sets, fit)
    if task == Colourise.name:
        return compute_colourise_rows(train, sets)
    raise InputError(f"task: {task!r} is unknown; use {Reconstruct.name} or {Colourise.name}")


def build_frame(rows: Iterable[Row], has_test: bool) -> pd.DataFrame:
    """Build the table of `compute_baselines`.

    Args:
        rows: The rows.
        has_test: Whether each row has a test error.

    Returns:
        The table.
    """
    import pandas as pd  # imported here, because training needs no tables

    names, sizes, errors = zip(*rows, strict=True)
    return pd.DataFrame(
        {
            "baseline": names,
            "latent_size": pd.array(sizes, dtype="Int64"),
            "val_mse": pd.array([error[0] for error in errors], dtype="Float64"),
            "test_mse": pd.array([error[1] if has_test else None for error in errors], "Float64"),
        }
    )


def compute_reconstruct_rows(
    train: Images, sets: list[Images], fit: Fit | None = None
) -> Iterator[Row]:
    """Yield the baselines of reconstruct.

    Args:
        train: Training images, uint8 (N, H, W, 3).
        sets: The images to evaluate, each uint8 (M, H, W, 3).
        fit: Called in place of `fit_pca`; None for `fit_pca`.
    """
    height, width = train.shape[1:3]
    for name, block in list_pca_blocks(height, width).items():
        yield from compute_linear_rows(name, train, sets, block, fit)
    mean = torch.from_numpy(train.mean(axis=(0, 1, 2)))  # (3,)
    errors = [
        compute_mean_square(x.double() - mean for x in iterate_blocks(s, (1, 1))) for s in sets
    ]
    yield "mean_colour", None, [error / LEVELS**2 for error in errors]


def list_pca_blocks(height: int, width: int) -> dict[str, tuple[int, int]]:
    """List the PCA baselines of images of a size.

    Args:
        height: Height of the images.
        width: Width of the images.

    Returns:
        Height and width of the blocks by the name of the baseline, whole images first.
    """
    blocks = {WHOLE_IMAGE: (height, width)} if 3 * height * width <= PCA_LIMIT else {}
    sides = [side for side in BLOCK_SIDES if height % side == 0 and width % side == 0]
    return blocks | {f"{WHOLE_IMAGE}_{side}x{side}": (side, side) for side in sides}


def compute_linear_rows(
    name: str, train: Images, sets: list[Images], block: tuple[int, int], fit: Fit | None = None
) -> Iterator[Row]:
    """Yield the errors of PCA for every number of components.

    Args:
        name: Name of the baseline.
        train: Training images, uint8 (N, H, W, 3).
        sets: The images to evaluate, each uint8 (M, H, W, 3).
        block: Height and width of a block in pixels; those of the image for PCA of whole images.
        fit: Called in place of `fit_pca`.
    """
    mean, basis = (fit or fit_pca)(train, block)
    errors = [compute_error_by_components(images, block, mean, basis) for images in sets]
    n_blocks = train[0].size // len(mean)
    rank = min(len(mean), len(train) * n_blocks - 1)
    for n in range(1, rank + 1):
        yield name, n_blocks * n, [float(error[n]) for error in errors]


def fit_principal_axes(
    train: Images, block: tuple[int, int], flipped: Sequence[int] = ()
) -> tuple[Tensor, Tensor]:
    """Compute the mean block and the principal axes of all blocks of all `train` images.

    Args:
        train: Images, uint8 (N, H, W, 3), N at least 1.
        block: Height and width of a block, which has to tile the images; (H, W) is the whole image.
        flipped: Axes of the images, 1 or 2 or both. The images count with all copies that are
            flipped along them.

    Returns:
        The mean block, float64 (D,), in [0, 1], and a complete orthonormal basis, float64 (D, D),
        columns by falling variance. The D = 3 x height x width numbers run over height, width, rgb.
    """
    mean, basis = fit_pca(train, block, flipped)
    return mean / LEVELS, basis


def fit_pca(
    images: Images, block: tuple[int, int], flipped: Sequence[int] = ()
) -> tuple[Tensor, Tensor]:
    """Fit a PCA like `fit_principal_axes`, with the mean in pixel values (0 to 255).

    The moments are sums of integers below 2⁵³ and therefore exact. So are products in float32 over
    few rows, such as whole images; they take half the time of float64.

    Args:
        images: Images, uint8 (N, H, W, 3).
        block: Height and width of a block in pixels.
        flipped: As in `fit_principal_axes`.

    Returns:
        The mean block, float64 (D,), and the basis, float64 (D, D).
    """
    dimension = 3 * block[0] * block[1]
    n = images.size // dimension
    total = torch.zeros(dimension, dtype=torch.float64)
    moment = torch.zeros(dimension, dimension, dtype=torch.float64)
    for chunk in iterate_blocks(images, block):
        x = chunk.to(torch.float32 if len(chunk) <= EXACT_ROWS else torch.float64).sub_(MIDDLE)
        total += x.sum(0)
        moment += x.T @ x
    places = torch.arange(dimension).view(*block, 3)
    for axis in flipped:
        mirrored = places.flip(axis - 1).flatten()
        total += total[mirrored]
        moment += moment[mirrored][:, mirrored]
        n *= 2
    mean = total / n
    covariance = moment.div_(n).addr_(mean, mean, alpha=-1)
    with use_one_thread():
        basis = torch.linalg.eigh(covariance).eigenvectors.flip(1)  # eigh sorts ascending.
    return mean + MIDDLE, basis


@contextmanager
def use_one_thread() -> Iterator[None]:
    """Run torch on one thread: the eigensolver's threads wait for each other by spinning.

    3072 x 3072 on two cores: 2.6 s on two threads and 4.1 s on one, but 20 to 40 s on two threads
    while another process keeps a core busy, as trials do.
    """
    n_threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(n_threads)


def compute_error_by_components(
    images: Images, block: tuple[int, int], mean: Tensor, basis: Tensor
) -> Tensor:
    """Compute the error of a PCA for every number of components.

    The basis is complete, so an error is the energy on the axes left out. It is summed from the
    last axis on: no small error is the difference of two large numbers, and all axes leave exactly
    0.

    Args:
        images: Images, uint8 (N, H, W, 3).
        block: Height and width of a block in pixels.
        mean: The mean block in pixel values, float64 (D,).
        basis: The basis, float64 (D, D).

    Returns:
        The MSE with the first 0, 1, .. D components, float64 (D + 1,).
    """
    energy = torch.zeros(len(mean), dtype=torch.float64)
    for x in iterate_blocks(images, block):
        energy += ((x.double() - mean) @ basis).square().sum(0)
    left_out = torch.cat((energy, energy.new_zeros(1))).flip(0).cumsum(0).flip(0)
    return left_out / (images.size * LEVELS**2)


def iterate_blocks(images: Images, block: tuple[int, int]) -> Iterator[Tensor]:
    """Yield chunks of images as rows of blocks, uint8 (n, D).

    The D values of a block run over height, width, rgb.

    Args:
        images: Images, uint8 (N, H, W, 3).
        block: Height and width of a block in pixels.
    """
    height, width = block
    _, rows, columns, _ = images.shape
    for chunk in iterate_chunks(images):
        tiles = chunk.view(-1, rows // height, height, columns // width, width * 3).transpose(2, 3)
        yield tiles.reshape(-1, height * width * 3)


def compute_colourise_rows(train: Images, sets: list[Images]) -> Iterator[Row]:
    """Yield the baselines of colourise.

    Args:
        train: Training images, uint8 (N, H, W, 3).
        sets: The images to evaluate, each uint8 (M, H, W, 3).
    """
    by_luma, mean = compute_mean_chroma(train)

    def make_row(name: str, table: Tensor) -> Row:
        """Evaluate a table of the chroma guessed at each luma level, float64 (256, 2)."""
        return (
            name,
            None,
            [compute_mean_square(c - table[y] for y, c in iterate_chroma(s)) for s in sets],
        )

    yield make_row("grey_copy", torch.full_like(by_luma, 0.5))
    yield make_row("mean_chroma", mean.expand_as(by_luma))
    yield make_row("luma_function", by_luma)


def compute_mean_chroma(images: Images) -> tuple[Tensor, Tensor]:
    """Compute the mean chroma at each luma level and over all pixels.

    Args:
        images: Images, uint8 (N, H, W, 3).

    Returns:
        Mean Cb and Cr in [0, 1], float64 (256, 2) and (2,).
    """
    counts = torch.zeros(LUMA_LEVELS, 1, dtype=torch.float64)
    sums = torch.zeros(LUMA_LEVELS, 2, dtype=torch.float64)
    for level, chroma in iterate_chroma(images):
        counts[:, 0] += torch.bincount(level, minlength=LUMA_LEVELS)
        sums.index_add_(0, level, chroma)
    mean = sums.sum(0) / counts.sum()
    return torch.where(counts > 0, sums / counts, mean), mean


def iterate_chroma(images: Images) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield chunks of pixels: luma levels, int64 (n,), and Cb, Cr in [0, 1], float64 (n, 2).

    Args:
        images: Images, uint8 (N, H, W, 3).
    """
    task = Colourise((1.0,))
    for chunk in iterate_chunks(images):
        luma, chroma = task.batch(chunk)  # (N, 1, H, W), (N, 2, H, W)
        level = luma.flatten().mul(LUMA_LEVELS - 1).round().long()
        yield level, chroma.permute(0, 2, 3, 1).reshape(-1, 2).double()


def iterate_chunks(images: Images) -> Iterator[Tensor]:
    """Yield chunks of images as tensors, copied because the array may be read-only.

    Args:
        images: Images, uint8 (N, H, W, 3).
    """
    n = max(1, CHUNK // images[0].size)
    for start in range(0, len(images), n):
        yield torch.tensor(images[start : start + n])


def compute_mean_square(differences: Iterable[Tensor]) -> float:
    """Compute the mean of the squares of all values in all tensors.

    Args:
        differences: The tensors, of any shapes.

    Returns:
        The mean square.
    """
    total, count = 0.0, 0
    for difference in differences:
        total += float(difference.square().sum())
        count += difference.numel()
    return total / count
