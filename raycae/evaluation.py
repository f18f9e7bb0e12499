"""After the search: kept models on the test split, baselines, pictures. The one reader of the test
images."""

from __future__ import annotations

import io
import os
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from PIL import Image
from torch import Tensor

from raycae import data, model
from raycae.baselines import baselines
from raycae.storage import write_whole
from raycae.study import Study, model_folder
from raycae.tasks import Colourise, task
from raycae.training import errors, on_device

N_PICTURES = 12


def evaluate(study: Study) -> int:
    """Every kept model that has no test error yet, once, on the test images. Returns how many."""
    todo = [n for n in study.kept() if study.records.trials[n]["test_mse"] is None]
    if not todo:
        return 0
    device = best_device()
    test = on_device(load_test(study.plan.data, study_image_size(study), study.plan.seed), device)
    for number in todo:
        network, config = model.load(model_folder(study.folder, number))
        test_mse, _ = errors(network.to(device), task(config.task, config.gammas), test)
        study.evaluated(number, test_mse)
    return len(todo)


def write_baselines(folder: Path, kind: str, images: data.Images, test: np.ndarray) -> None:
    """`baselines.parquet`: linear codes and doing nothing, on the study's own images."""
    frame = baselines(kind, images.train, images.val, test)
    frame.insert(0, "data_fingerprint", images.fingerprint)
    buffer = io.BytesIO()
    frame.to_parquet(buffer, index=False)
    write_whole(folder / "baselines.parquet", buffer.getvalue())


def has_baselines(folder: Path, fingerprint: str) -> bool:
    path = folder / "baselines.parquet"
    return path.exists() and fingerprint in set(pd.read_parquet(path)["data_fingerprint"])


def paint(study_folder: Path, number: int, val: np.ndarray) -> Path:
    """A sheet of pictures of one trial's model on validation images, as PNG.

    The images are spread over the set, for neighbours may be crops of one photograph.
    Rows: what the network is shown (colourise: grey), its output, the original.
    """
    network, config = model.load(model_folder(study_folder, number))
    spread = np.linspace(0, len(val) - 1, N_PICTURES).astype(int)
    images = torch.from_numpy(val[spread])
    the_task = task(config.task, config.gammas)
    with torch.inference_mode():
        output = the_task.picture(images, network(the_task.batch(images)[0]))
    rows = [_to_rgb8(output), images]
    if isinstance(the_task, Colourise):
        rows.insert(0, _to_rgb8(the_task.grey(images)))
    path = study_folder / "pictures" / f"{number}.png"
    path.parent.mkdir(exist_ok=True)
    write_whole(path, _sheet(rows))
    return path


def load_test(source: str, image_size: int, seed: int) -> np.ndarray:
    return data.load_test(source, image_size=image_size, seed=seed)


def study_image_size(study: Study) -> int:
    return int(study.space.fixed.get("image_size", 32))


def best_device() -> torch.device:
    """A GPU if this process sees one; else the CPU with every core it may use."""
    if torch.cuda.is_available():
        return torch.device("cuda")
    torch.set_num_threads(len(os.sched_getaffinity(0)))
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


def describe(row: dict[str, Any]) -> str:
    """The best trial in one line."""
    text = (
        f"trial {row['trial_number']}: val_mse {row['val_mse']:.5f} ({row['val_psnr_db']:.2f} dB), "
        f"latent {row['latent_size']}, {row['n_params']:,} parameters"
    )
    if row["test_mse"] is not None:
        text += f", test_mse {row['test_mse']:.5f}"
    return text
