"""After the search: kept models on the test split, baselines, pictures. The one reader of the test
images."""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence

import numpy as np
import pandas as pd
import torch
from PIL import Image
from torch import Tensor

from raycae import data, model, results
from raycae.baselines import baselines
from raycae.config import Config
from raycae.errors import InputError
from raycae.provenance import n_cpus
from raycae.space import Space
from raycae.storage import Place, make_folder, write_whole
from raycae.study import Plan, Study, model_folder, plan_of, space_of
from raycae.tasks import Colourise, task
from raycae.training import errors, on_device, prepare_cpu

N_PICTURES = 12


def evaluate(study: Study, over: Callable[[], bool] = lambda: False) -> int:
    """Every kept model that has no test error yet, once, on the test images, until `over` says
    stop. Returns how many."""
    todo = [n for n in study.kept() if study.records.trials[n]["test_mse"] is None]
    if not todo:
        return 0
    device = best_device()
    told = [Config.model_validate_json(study.records.trials[n]["config"]).classes for n in todo]
    labels = _labels(study.plan, min(filter(None, told), default=0))
    test = on_device(test_images(study.plan, study.space), device, labels.test)
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


def illustrate(folder: Place, images: data.Images | None = None, *, lines: bool = True) -> None:
    """What the report shows beside the tables, if the folder lacks it: pictures of the best trials
    and, with `lines`, `baselines.parquet`. `images`: the study's own, if they are at hand."""
    content = results.read_study(folder)
    plan, the_space = plan_of(content), space_of(content)
    if not (shown := results.pictured(results.read_trials(folder), plan.strata)):
        return
    if images is None:
        size = the_space.image_size
        images = data.load(plan.data, image_size=size, limit=plan.limit, seed=plan.seed)
    for number in shown:
        has_model = (model_folder(folder, number) / "config.json").exists()
        if has_model and not (folder / "pictures" / f"{number}.png").exists():
            paint(folder, number, images.val)
    if lines and not _has_baselines(folder, images.fingerprint):
        frame = baselines(the_space.task, images.train, images.val, test_images(plan, the_space))
        frame.insert(0, "data_fingerprint", images.fingerprint)
        buffer = io.BytesIO()
        frame.to_parquet(buffer, index=False)
        write_whole(folder / "baselines.parquet", buffer.getvalue())


def line(task: str, images: data.Images, sizes: Sequence[int]) -> list[float]:
    """At each latent size the least validation error of a linear code of at most so many numbers;
    of what needs no code (the mean colour, chroma from luma) where there is none."""
    frame = baselines(task, images.train, images.val)
    needed = frame["latent_size"].fillna(0)
    return [float(frame.loc[needed <= size, "val_mse"].min()) for size in sizes]


def paint(study_folder: Place, number: int, val: np.ndarray) -> None:
    """A sheet of pictures of one trial's model on validation images, as PNG.

    The images are spread over the set, for neighbours may be crops of one photograph.
    Rows: what the network is shown (colourise: grey), its output, the original.
    """
    network, config = model.load(model_folder(study_folder, number))
    labels = _labels(plan_of(results.read_study(study_folder)), config.classes).val
    spread = np.linspace(0, len(val) - 1, N_PICTURES).astype(int)
    batch = on_device(val, torch.device("cpu"), labels)[spread]
    images = batch[0]
    the_task = task(config.task, config.gammas, config.classes)
    with torch.inference_mode():
        output = the_task.picture(images, network(the_task.batch(*batch)[0]))
    rows = [_to_rgb8(output), images]
    if isinstance(the_task, Colourise):
        rows.insert(0, _to_rgb8(the_task.grey(images)))
    path = study_folder / "pictures" / f"{number}.png"
    make_folder(path.parent, within=study_folder)
    write_whole(path, _sheet(rows))


def best_device() -> torch.device:
    """A GPU if this process sees one; else the CPU with every core it may use."""
    if torch.cuda.is_available():
        return torch.device("cuda")
    prepare_cpu(n_cpus())
    return torch.device("cpu")


def _to_rgb8(pictures: Tensor) -> Tensor:
    """(N, 3, H, W) in [0, 1] to uint8 (N, H, W, 3)."""
    return (pictures * 255).round().to(torch.uint8).permute(0, 2, 3, 1)


def _sheet(rows: list[Tensor], gap: int = 2) -> bytes:
    """Rows of images (N, H, W, 3) on white, as PNG."""
    n, height, width, _ = rows[0].shape
    sheet = np.full(
        (len(rows) * (height + gap) - gap, n * (width + gap) - gap, 3), 255, dtype=np.uint8
    )
    for i, images in enumerate(rows):
        for j, image in enumerate(images.numpy()):
            top, left = i * (height + gap), j * (width + gap)
            sheet[top : top + height, left : left + width] = image
    buffer = io.BytesIO()
    Image.fromarray(sheet).save(buffer, "PNG")
    return buffer.getvalue()


def test_images(plan: Plan, the_space: Space) -> np.ndarray:
    """CIFAR-10's own, or what the source sets aside: uint8 (N, H, W, 3)."""
    return data.load_test(plan.data, image_size=the_space.image_size, seed=plan.seed)


def _labels(plan: Plan, classes: int) -> data.Labels:
    return data.load_labels(plan.data, classes=classes, limit=plan.limit, seed=plan.seed)


def _has_baselines(folder: Place, fingerprint: str) -> bool:
    path = folder / "baselines.parquet"
    if not path.exists():
        return False
    return fingerprint in set(pd.read_parquet(io.BytesIO(path.read_bytes()))["data_fingerprint"])
