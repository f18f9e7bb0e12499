"""After the search: kept models on the test split, baselines, pictures and what is measured of
them. Nothing is selected on test images."""

from __future__ import annotations

import io
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
import torch
from PIL import Image
from torch import Tensor, nn
from torch.utils.data import TensorDataset

from raycae import data, metrics, model, results
from raycae.baselines import baselines
from raycae.config import Config
from raycae.errors import InputError
from raycae.finish import Finish
from raycae.provenance import n_cpus
from raycae.results import ALL, BEST, SAME, WORST
from raycae.storage import Place, make_folder, write_whole
from raycae.study import Study, model_folder, plan_of, space_of
from raycae.study_images import load_images, load_test_images
from raycae.tasks import Colourise, Task, task
from raycae.training import Reference, errors, on_device, prepare

N_PICTURES = 12
N_CASES = 6
"""So many of the best and of the worst test images have a sheet of their own."""


def evaluate(
    study: Study, images: data.Images | None = None, over: Callable[[], bool] = lambda: False
) -> int:
    """Evaluate every kept model that has no test error yet on the test images, once.

    Args:
        study: The study, open for writing.
        images: Its images, if they are loaded already; else the test images are loaded and one line
            with what the source holds is printed.
        over: Whether to stop before the next model.

    Returns:
        The number of models that were evaluated.

    Raises:
        InputError: The test images cannot be read, or are not those the study began with.
    """
    todo = [n for n in study.kept() if study.records.trials[n]["test_mse"] is None]
    if not todo:
        return 0
    device = best_device()
    classes = least_classes(study.records.trials[number]["config"] for number in todo)
    if images is None or (classes and images.labels.test is None):
        loaded = load_test_images(study.folder, results.read_study(study.folder), classes)
        print(loaded.line)
        study.notes += loaded.notes
        test = on_device(loaded.pixels, device, loaded.labels)
    else:
        test = on_device(images.test, device, images.labels.test)
    done = 0
    for number in todo:
        if over():
            break
        try:
            network, config = model.load(model_folder(study.folder, number))
        except InputError as error:
            study.notes.append(f"{error}; not evaluated")
            continue
        the_task = task(config.task, config.gammas, config.classes)
        test_mse, _ = errors(network.to(device), the_task, test)
        study.evaluated(number, test_mse)
        done += 1
    return done


def illustrate(
    folder: Place,
    images: data.Images | None = None,
    over: Callable[[], bool] = lambda: False,
    finish: Finish | None = None,
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

    Raises:
        InputError: A step failed, for example because the images are gone, and `finish` is None.
    """
    steps = finish or Finish()
    content = results.read_study(folder)
    trials = results.read_trials(folder)
    if not (shown := results.pictured(trials, plan_of(content).strata)):
        return
    painted = results.painted(folder)
    unpainted = [
        number
        for number in shown
        if number not in painted and (model_folder(folder, number) / "config.json").exists()
    ]
    lines = not _has_baselines(folder, content["data"]["fingerprint"])
    if not unpainted and not lines:
        return
    remedy = f"raycae report {results.study_argument(folder)}"
    loaded: list[tuple[data.Pixels, data.Indices | None, data.Images | None]] = []

    def load() -> None:
        chosen = trials[trials["trial_number"].isin(unpainted)]
        classes = least_classes(chosen["config"])
        loaded.append(_load_for_report(folder, content, images, classes, lines))

    if steps.attempt("The images could not be read", remedy, load):
        test, labels, images = loaded[0]
        for number in unpainted:
            if not over():
                failure = f"The pictures of trial {number} could not be painted"
                steps.attempt(failure, remedy, paint, folder, number, test, labels)
        if images is not None and lines and not over():
            failure = "The baselines could not be measured"
            steps.attempt(failure, remedy, measure_baselines, folder, images)
    if finish is None:
        steps.raise_first()


def least_classes(configs: Iterable[str]) -> int:
    """Return the fewest classes that one of these models is told, or 0 if none is told any.

    Args:
        configs: The models' configurations, JSON.
    """
    told = (Config.model_validate_json(config).classes for config in configs)
    return min(filter(None, told), default=0)


def _load_for_report(
    folder: Place,
    content: Mapping[str, Any],
    images: data.Images | None,
    classes: int,
    with_training: bool,
) -> tuple[data.Pixels, data.Indices | None, data.Images | None]:
    """Return the test images of a study, their labels if there are `classes`, and with
    `with_training` all its images; `images` as far as they are loaded already."""
    if images is not None and not (classes and images.labels.test is None):
        return images.test, images.labels.test, images
    if with_training and images is None:
        images, notes = load_images(folder, content, classes)
        test, labels, line = images.test, images.labels.test, images.summary.line()
    else:
        test, labels, line, notes = load_test_images(folder, content, classes)
    for text in (line, *notes):
        print(text, file=sys.stderr)
    return test, labels, images


def measure_baselines(folder: Place, images: data.Images) -> None:
    """Write `baselines.parquet` of a study's images if it is missing."""
    the_space = space_of(results.read_study(folder))
    if not _has_baselines(folder, images.fingerprint):
        frame = baselines(the_space.task, images.train, images.val, images.test)
        frame.insert(0, "data_fingerprint", images.fingerprint)
        _write_table(folder / "baselines.parquet", frame)


def line(task: str, images: data.Images, sizes: Sequence[int]) -> list[float]:
    """At each latent size the least validation error of a linear code of at most so many numbers;
    of what needs no code (the mean colour, chroma from luma) where there is none."""
    frame = baselines(task, images.train, images.val)
    needed = frame["latent_size"].fillna(0)
    return [float(frame.loc[needed <= size, "val_mse"].min()) for size in sizes]


def paint(
    study_folder: Place, number: int, test: np.ndarray, labels: data.Indices | None = None
) -> None:
    """Two sheets of pictures of one trial's model on test images, as PNG, and what is measured of
    them, in `pictures.parquet`.

    `NUMBER.png` has the same images for every trial, spread over the set, for neighbours may be
    crops of one photograph; `NUMBER-cases.png` the `N_CASES` images with the least error, the least
    first, then those with the largest, the largest last. Rows: the original, what the network is
    shown (colourise: grey), its output, the difference. `labels`: the classes of the test images,
    int64 (N,), for a model that is told them.
    """
    network, config = model.load(model_folder(study_folder, number))
    device = best_device()
    images = on_device(test, device, labels)
    the_task = task(config.task, config.gammas, config.classes)
    network = network.to(device)
    measured = measure(network, the_task, images)
    order = measured["mse"].argsort(kind="stable").to_numpy()
    same = np.unique(np.linspace(0, len(test) - 1, N_PICTURES).astype(int))  # of a few, all
    cases = {SAME: same, BEST: order[:N_CASES], WORST: order[-N_CASES:]}
    make_folder(study_folder / "pictures", within=study_folder)
    for name, places in (("", same), ("-cases", np.concatenate((cases[BEST], cases[WORST])))):
        path = study_folder / "pictures" / f"{number}{name}.png"
        write_whole(path, _sheet(_rows(network, the_task, images[places])))
    told = [measured.mean().to_frame().T.assign(shows=ALL, image=None)]
    told += [measured.iloc[at].assign(shows=shows, image=at) for shows, at in cases.items()]
    before = results.read_pictures(study_folder)
    others = [] if before is None else [before[before["trial_number"] != number]]
    frame = pd.concat([*others, *(part.assign(trial_number=number) for part in told)])
    _write_table(
        study_folder / "pictures.parquet",
        frame[list(results.PICTURE_COLUMNS)].astype({"image": "Int64"}),
    )


@torch.inference_mode()
def measure(network: nn.Module, the_task: Task, images: TensorDataset) -> pd.DataFrame:
    """One row an image, one column each of `results.MEASURES`. `network` in eval mode."""
    parts = []
    for batch, rgb in Reference(images):
        x, y = the_task.batch(*batch)
        output = network(x)
        picture = the_task.picture(batch[0], output)
        colours, true = metrics.lab(picture), metrics.lab(rgb)
        values = (
            metrics.mse(output, y),
            metrics.psnr_db(picture, rgb),
            metrics.ssim(picture, rgb),
            metrics.delta_e(colours, true),
            metrics.chroma_error(colours, true),
            metrics.hue_error(colours, true),
            metrics.colourfulness(picture),
            metrics.colourfulness(rgb),
        )
        parts.append(torch.stack(values, dim=1).cpu())  # (N, 8)
    return pd.DataFrame(torch.cat(parts).double().numpy(), columns=list(results.MEASURES))


def best_device() -> torch.device:
    """A GPU if this process sees one; else the CPU with every core it may use. Prepares the
    process for either."""
    prepare(n_cpus())
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


@torch.inference_mode()
def _rows(network: nn.Module, the_task: Task, batch: tuple[Tensor, ...]) -> list[Tensor]:
    """The rows of a sheet, each RGB (N, 3, H, W) in [0, 1]."""
    images = batch[0]
    original = images.permute(0, 3, 1, 2).float() / 255
    output = the_task.picture(images, network(the_task.batch(*batch)[0]))
    difference = (0.5 + results.AMPLIFIED * (output - original)).clamp(0, 1)
    shown = [the_task.grey(images)] if isinstance(the_task, Colourise) else []
    return [original, *shown, output, difference]


def _sheet(rows: list[Tensor], gap: int = 2) -> bytes:
    """Rows of RGB pictures (N, 3, H, W) in [0, 1] as PNG, transparent between them: the page may
    be light or dark."""
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


def _write_table(path: Place, frame: pd.DataFrame) -> None:
    buffer = io.BytesIO()
    frame.to_parquet(buffer, index=False)
    write_whole(path, buffer.getvalue())


def _has_baselines(folder: Place, fingerprint: str) -> bool:
    found = results.read_baselines(folder, fingerprint)
    return found is not None and not found.empty
