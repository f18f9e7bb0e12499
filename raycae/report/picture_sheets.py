"""Picture sheets of test images, what is measured on them, and baselines."""

from __future__ import annotations

import io
import sys
import threading
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Any

import numpy as np
import pandas as pd
import torch
from PIL import Image
from torch import Tensor, nn
from torch.utils.data import TensorDataset

from raycae import data
from raycae.config import Config
from raycae.model import weights
from raycae.model.architecture import build_architecture
from raycae.model.tasks import Colourise, Task, make_task
from raycae.report.baseline_cache import MOST_COMPONENTS, has_components, load_baselines, load_pca
from raycae.report.latent_error import find_best_linear, split_codes_and_levels
from raycae.report.trials import list_trials_with_pictures, select_trials_to_picture
from raycae.storage.files import make_folder, write_atomic
from raycae.storage.parquet import write_parquet
from raycae.storage.paths import Place
from raycae.study import find, plan, tables
from raycae.study.artifacts import get_model_folder
from raycae.study.finish import Finish, StepCounter, count_nothing
from raycae.study.images import load_images, load_test_images
from raycae.study.plan import load_plan, load_study_space
from raycae.study.tables import ALL, BEST, N_MEASURED, PCA, SAME, WORST
from raycae.training import metrics
from raycae.training.baselines import WHOLE_IMAGE
from raycae.training.device import choose_device, put_on_device, run_in_parallel
from raycae.training.pca_network import PcaNetwork, find_block
from raycae.training.validation import Reference, get_parallel_batch

N_PICTURES = 12
N_CASES = 6
"""Number of the best and of the worst test images that are shown on a second sheet."""
TABLE_LOCK = threading.Lock()
"""Held while a thread adds its rows to `pictures.parquet`."""


def add_pictures_and_baselines(
    folder: Place,
    images: data.Images | None = None,
    over: Callable[[], bool] = lambda: False,
    finish: Finish | None = None,
    count: StepCounter = count_nothing,
) -> None:
    """Make what the report shows beside the tables and the folder lacks: pictures of the best
    trials, and `baselines.parquet`.

    Args:
        folder: The study.
        images: Its images, if they are loaded already; else they are loaded and one line with what
            the source holds is printed on standard error.
        over: Whether to stop before the next step.
        finish: Collects the steps that fail; without it the first fault is raised after the last
            step.
        count: Shows how far a step has come.

    Raises:
        InputError: A step failed, for example because the images are gone, and `finish` is None.
    """
    steps = finish or Finish()
    content = plan.read_study(folder)
    trials = tables.read_trials(folder, configs=False)
    if not (shown := select_trials_to_picture(trials, load_plan(content).strata)):
        return
    painted = list_trials_with_pictures(folder)
    unpainted = [
        number
        for number in shown
        if number not in painted and (get_model_folder(folder, number) / "config.json").exists()
    ]
    fingerprint = content["data"]["fingerprint"]
    lines = not has_baselines(folder, fingerprint)
    if not unpainted and not lines:
        return
    remedy = f"raycae report {find.format_study_argument(folder)}"
    loaded: list[tuple[data.Pixels, data.Indices | None, data.Images | None]] = []

    def load() -> None:
        chosen = trials.loc[trials["trial_number"].isin(unpainted), ["trial_number", "config"]]
        path = folder / "trials.parquet"
        classes = least_classes(
            tables.check_config(path, number, text)[0]
            for number, text in chosen.itertuples(index=False)
        )
        lacks_pca = content["task"] == "reconstruct" and not has_components(fingerprint)
        loaded.append(_load_for_report(folder, content, images, classes, lines or lacks_pca))

    if steps.attempt("The images could not be read", remedy, load):
        test, labels, images = loaded[0]
        if images is not None and lines and not over():
            count("Computing baselines", 0, 1)
            failure = "The baselines could not be measured"
            steps.attempt(failure, remedy, measure_baselines, folder, images, count)
        train = None if images is None else images.train

        def draw(number: int, device: torch.device) -> None:
            write_picture_sheets(folder, number, test, labels, train, device)

        if unpainted and not over():
            _draw_all(draw, unpainted, over, count, steps, remedy)
    if finish is None:
        steps.raise_first()


def _draw_all(
    draw: Callable[[int, torch.device], None],
    numbers: list[int],
    over: Callable[[], bool],
    count: StepCounter,
    steps: Finish,
    remedy: str,
) -> None:
    """Draw the pictures of several trials at a time."""
    device = choose_device()
    with run_in_parallel(device, len(numbers)) as pool:
        tasks = [pool.submit(draw, number, device) for number in numbers]
        for place, (number, task) in enumerate(zip(numbers, tasks, strict=True)):
            if over() and task.cancel():
                continue  # Those that have begun are finished.
            count("Drawing pictures", place, len(numbers))
            failure = f"The pictures of trial {number} could not be drawn"
            steps.attempt(failure, remedy, task.result)


def least_classes(configs: Iterable[Config]) -> int:
    """Return the fewest classes that one of these models is told, or 0 if none is told any.

    Args:
        configs: The models' configurations.
    """
    return min(filter(None, (config.classes for config in configs)), default=0)


def _load_for_report(
    folder: Place,
    content: Mapping[str, Any],
    images: data.Images | None,
    classes: int,
    with_training: bool,
) -> tuple[data.Pixels, data.Indices | None, data.Images | None]:
    """Load the test images for the report; with `with_training` all images.

    Returns:
        The test images, their classes if `classes` is above 0, and all images if they are loaded.
    """
    if images is not None and not (classes and images.labels.test is None):
        return images.test, images.labels.test, images
    if with_training and images is None:
        images, notes = load_images(folder, content, classes)
        notes += images.notes
        test, labels, line = images.test, images.labels.test, images.summary.line()
    else:
        test, labels, line, notes = load_test_images(folder, content, classes)
    for text in (line, *notes):
        print(text, file=sys.stderr)
    return test, labels, images


def measure_baselines(
    folder: Place, images: data.Images, count: StepCounter = count_nothing
) -> None:
    """Write `baselines.parquet` of a study if it is missing.

    Args:
        folder: The folder of the study.
        images: The images of the study.
        count: Shows how many are computed.
    """
    space = load_study_space(plan.read_study(folder))
    if not has_baselines(folder, images.fingerprint):
        frame = load_baselines(space.task, images, partial(count, "Computing baselines"))
        frame.insert(0, "data_fingerprint", images.fingerprint)
        write_parquet(folder / "baselines.parquet", frame)


def write_picture_sheets(
    study_folder: Place,
    number: int,
    test: np.ndarray,
    labels: data.Indices | None = None,
    train: np.ndarray | None = None,
    device: torch.device | None = None,
) -> None:
    """Write two sheets of pictures of a trial as PNG, and what is measured on them.

    `NUMBER.png` has the same images for every trial, spread over the set, because neighbours may be
    crops of one photograph. `NUMBER-cases.png` has the `N_CASES` images with the lowest error, then
    those with the largest, in the order of their errors. The rows are the original, the input (only
    in colourisation: grey), the output, and the difference; then the output of the best PCA with at
    most as many numbers, if the study has one. The measurements go to `pictures.parquet`. Of more
    than `N_MEASURED` test images, so many are used and the others are not: SSIM and Delta E of
    10,000 images took 10 s of CPU per trial (analysis/FINDINGS.md).

    Args:
        study_folder: The folder of the study.
        number: The trial.
        test: The test images, uint8 (N, H, W, 3).
        labels: Their classes, int64 (N,), for a model that gets classes as input.
        train: The training images, uint8 (M, H, W, 3), to fit a PCA that is not in the cache.
        device: The device, if PyTorch is configured for it already; else it is chosen.
    """
    network, config = weights.load_model(get_model_folder(study_folder, number))
    device = device or choose_device()
    used = spread_places(len(test), N_MEASURED)
    images = put_on_device(test[used], device, None if labels is None else labels[used])
    task = make_task(config.task, config.gammas, config.classes)
    pca = load_best_pca(study_folder, build_architecture(config).latent_size, test, train)
    network, pca = network.to(device), pca and pca.to(device)
    measured = measure_pictures(network, task, images)
    order = measured["mse"].argsort(kind="stable").to_numpy()
    same = spread_places(len(used), N_PICTURES)
    cases = {SAME: same, BEST: order[:N_CASES], WORST: order[-N_CASES:]}
    make_folder(study_folder / "pictures", within=study_folder)
    for name, places in (("", same), ("-cases", np.concatenate((cases[BEST], cases[WORST])))):
        path = study_folder / "pictures" / f"{number}{name}.png"
        rows = make_sheet_rows(network, task, images[places])
        if pca is not None:
            rows.append(make_sheet_rows(pca, task, images[places])[1])
        write_atomic(path, draw_sheet(rows))
    means = {ALL: measured}
    if pca is not None:
        means[PCA] = measure_pictures(pca, task, images)
    parts_table = [
        values.mean().to_frame().T.assign(shows=shows, image=None)
        for shows, values in means.items()
    ]
    parts_table += [
        measured.iloc[indices].assign(shows=shows, image=used[indices])
        for shows, indices in cases.items()
    ]
    with TABLE_LOCK:
        before = tables.read_pictures(study_folder)
        others = [] if before is None else [before[before["trial_number"] != number]]
        frame = pd.concat([*others, *(part.assign(trial_number=number) for part in parts_table)])
        write_parquet(
            study_folder / "pictures.parquet",
            frame[list(tables.PICTURE_COLUMNS)].astype({"image": "Int64"}),
        )


def load_best_pca(
    folder: Place, latent_size: int, test: np.ndarray, train: np.ndarray | None
) -> PcaNetwork | None:
    """Return the PCA baseline with the lowest error that is no larger than a latent size.

    Args:
        folder: The folder of the study.
        latent_size: The largest number of values per image.
        test: The test images, uint8 (N, H, W, 3).
        train: The training images, uint8 (M, H, W, 3); None if they are not loaded.

    Returns:
        The baseline; None if the study has no such baseline, or if it is not in the cache and there
        are no training images.
    """
    fingerprint = plan.read_study(folder)["data"]["fingerprint"]
    linear, _ = split_codes_and_levels(tables.read_baselines(folder, fingerprint))
    is_kept = (linear["baseline"] != WHOLE_IMAGE) | (linear["latent_size"] <= MOST_COMPONENTS)
    linear = linear[is_kept]
    code = find_best_linear(linear, latent_size)
    if code is None:
        return None
    block = find_block(code.baseline, test)
    n_blocks = test[0].size // (3 * block[0] * block[1])
    return load_pca(fingerprint, train, block, code.latent_size // n_blocks)


def spread_places(n: int, most: int) -> np.ndarray:
    """Choose places that are spread evenly over a list, the first and the last included.

    Args:
        n: The length of the list.
        most: Maximum number of places, at least 2.

    Returns:
        The places in ascending order, int64 (min(n, most),).
    """
    return np.unique(np.linspace(0, n - 1, most).astype(int))


@torch.inference_mode()
def measure_pictures(network: nn.Module, task: Task, images: TensorDataset) -> pd.DataFrame:
    """Measure the output of a network for each image.

    Args:
        network: The network in eval mode, on the device of the images.
        task: The task.
        images: The images, and the classes if the model needs them.

    Returns:
        One row per image, with the columns `tables.MEASURES`.
    """
    parts = []
    for batch, rgb in Reference(images, get_parallel_batch(images.tensors[0].device)):
        x, y = task.batch(*batch)
        output = network(x)
        picture = task.picture(batch[0], output)
        colours, true = metrics.rgb_to_lab(picture), metrics.rgb_to_lab(rgb)
        values = (
            metrics.compute_mse(output, y),
            metrics.compute_psnr_db(picture, rgb),
            metrics.compute_ssim(picture, rgb),
            metrics.compute_delta_e(colours, true),
            metrics.compute_chroma_error(colours, true),
            metrics.compute_hue_error(colours, true),
            metrics.compute_colourfulness(picture),
            metrics.compute_colourfulness(rgb),
        )
        parts.append(torch.stack(values, dim=1).cpu())  # (N, 8)
    return pd.DataFrame(torch.cat(parts).double().numpy(), columns=list(tables.MEASURES))


@torch.inference_mode()
def make_sheet_rows(network: nn.Module, task: Task, batch: tuple[Tensor, ...]) -> list[Tensor]:
    """Make the rows of a sheet.

    Args:
        network: The network in eval mode.
        task: The task.
        batch: The images, uint8 (N, H, W, 3), and the classes if the model needs them.

    Returns:
        The rows, each RGB (N, 3, H, W), values in [0, 1].
    """
    images = batch[0]
    original = images.permute(0, 3, 1, 2).float() / 255
    output = task.picture(images, network(task.batch(*batch)[0]))
    # As the sheet shows it, in 8 bits: finer differences are noise that takes 9 % of the sheet.
    output = (255 * output).round() / 255
    difference = (0.5 + tables.AMPLIFIED * (output - original)).clamp(0, 1)
    shown = [task.grey(images)] if isinstance(task, Colourise) else []
    return [original, *shown, output, difference]


def draw_sheet(rows: list[Tensor], gap: int = 2) -> bytes:
    """Draw rows of pictures as a PNG, transparent between them.

    Args:
        rows: The rows, each RGB (N, 3, H, W), values in [0, 1].
        gap: The distance of two pictures in pixels.
    """
    n, _, height, width = rows[0].shape
    sheet = np.zeros((len(rows) * (height + gap) - gap, n * (width + gap) - gap, 4), np.uint8)
    for i, pictures in enumerate(rows):
        pixels = (pictures * 255).round().to(torch.uint8).permute(0, 2, 3, 1).cpu().numpy()
        for j, picture in enumerate(pixels):
            top, left = i * (height + gap), j * (width + gap)
            sheet[top : top + height, left : left + width, :3] = picture
            sheet[top : top + height, left : left + width, 3] = 255
    buffer = io.BytesIO()
    Image.fromarray(sheet).save(buffer, "PNG")
    return buffer.getvalue()


def has_baselines(folder: Place, fingerprint: str) -> bool:
    """Check whether a study has baselines of its images.

    Args:
        folder: The folder of the study.
        fingerprint: The fingerprint of the images.
    """
    found = tables.read_baselines(folder, fingerprint)
    return found is not None and not found.empty
