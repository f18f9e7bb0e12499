"""Sheets of pictures of test images, and what is measured of them. Networks are not trained here:
what is right of any picture can be worked out from it."""

from __future__ import annotations

import io
import threading
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import run_trial
from PIL import Image
from skimage import color
from skimage.metrics import structural_similarity
from torch import nn

from raycae.config import resolve
from raycae.execution import evaluation
from raycae.model import autoencoder
from raycae.model.architecture import build_architecture
from raycae.model.tasks import Colourise, Reconstruct
from raycae.model.weights import encode_weights, load_model
from raycae.report import picture_sheets, trials
from raycae.report.page import render_report
from raycae.study import tables
from raycae.study.artifacts import get_model_folder, write_model
from raycae.study.images import StudyTestImages
from raycae.study.study import Study
from raycae.study.tables import ALL, BEST, MEASURES, PCA, SAME, WORST
from raycae.training import device
from raycae.training.device import put_on_device

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def _one_core(monkeypatch: pytest.MonkeyPatch) -> None:
    """Threads that wait for each other on a busy machine take many times as long."""
    monkeypatch.setattr(device, "count_cpus", lambda: 1)


@pytest.fixture
def images() -> np.ndarray:
    """40 images of noise around a colour each, from dark to bright: uint8 (40, 32, 32, 3)."""
    chance = np.random.default_rng(0)
    colours = chance.uniform(0.1, 0.9, (40, 1, 1, 3))
    return ((colours + chance.normal(0, 0.05, (40, 32, 32, 3))).clip(0, 1) * 255).astype(np.uint8)


class Darker(nn.Module):
    """Three quarters of what it is given."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return 0.75 * x


class Grey(nn.Module):
    """No chroma at all."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.full_like(x[:, :1], 0.5).expand(-1, 2, -1, -1)


def test_what_is_measured_is_of_the_picture(images: np.ndarray) -> None:
    """Oracle: scikit-image and numpy, on pictures worked out here."""
    told = picture_sheets.measure_pictures(Darker(), Reconstruct(), put_on_device(images, CPU))
    assert tuple(told.columns) == MEASURES
    assert len(told) == 40
    for i in (0, 39):
        true = images[i] / 255
        off, lab = 0.75 * true, color.rgb2lab(true)
        assert told["mse"][i] == pytest.approx(((true - off) ** 2).mean(), rel=1e-5)
        assert told["psnr_db"][i] == pytest.approx(-10 * np.log10(told["mse"][i]), abs=1e-4)
        ssim = structural_similarity(true, off, channel_axis=-1, data_range=1.0)
        assert told["ssim"][i] == pytest.approx(ssim, abs=1e-4)
        delta_e = color.deltaE_ciede2000(lab, color.rgb2lab(off)).mean()
        assert told["delta_e"][i] == pytest.approx(delta_e, abs=0.01)
    whole, part = told["original_colourfulness"], told["colourfulness"]
    np.testing.assert_allclose(part, 0.75 * whole, rtol=1e-4)


def test_of_grey_outputs_the_chroma_is_wrong_and_not_the_hue(images: np.ndarray) -> None:
    """Oracle: the definitions. Without chroma there is no hue and no colour; the chroma is off by
    all that the original has."""
    told = picture_sheets.measure_pictures(Grey(), Colourise((1.0,)), put_on_device(images, CPU))
    lab = color.rgb2lab(images / 255)
    chroma = np.hypot(lab[..., 1], lab[..., 2]).mean(axis=(1, 2))
    np.testing.assert_allclose(told["chroma_error"], chroma, atol=0.02)
    np.testing.assert_allclose(told["hue_error"], 0, atol=0.02)
    np.testing.assert_allclose(told["colourfulness"], 0, atol=1e-3)


def made_model(study: Study) -> int:
    """A trial that ended, with a network as it was before training."""
    number = run_trial(study, 0.03, 0.02, 0.01)
    config = resolve({"task": "colourise", "channels": [4, 4], "latent_channels": 2})
    network = autoencoder.build_network(build_architecture(config), seed=number)
    weights = encode_weights(network.state_dict())
    write_model(get_model_folder(study.folder, number), weights, config.model_dump(mode="json"))
    return number


def opened(path: Path) -> np.ndarray:
    """(rows, columns, 32, 32, 4) of a sheet; what is between them has to be transparent."""
    sheet = np.asarray(Image.open(io.BytesIO(path.read_bytes())))
    n_rows, n_columns = (side // 34 for side in (sheet.shape[0] + 2, sheet.shape[1] + 2))
    padded = np.pad(sheet, ((0, 2), (0, 2), (0, 0)))
    cells = padded.reshape(n_rows, 34, n_columns, 34, 4).swapaxes(1, 2)
    assert not cells[:, :, 32:].any()
    assert not cells[:, :, :, 32:].any()
    return cells[:, :, :32, :32].astype(int)


def test_sheets_show_test_images_and_the_table_tells_of_them(
    study: Study, images: np.ndarray
) -> None:
    """Oracle: the images themselves; the difference by hand from the two rows above it; the least
    and largest of all errors. Painted twice, the table has each picture once, and another trial's
    beside it."""
    numbers = [made_model(study), made_model(study)]
    for number in (*numbers, numbers[0]):
        picture_sheets.write_picture_sheets(study.folder, number, images)
    told = tables.read_pictures(study.folder)
    assert told is not None
    assert len(told) == 2 * (1 + 12 + 6 + 6)
    assert trials.list_trials_with_pictures(study.folder) == set(numbers)
    told = told[told["trial_number"] == numbers[0]].set_index("shows")
    same, best, worst = (told.loc[of, "image"].to_numpy(int) for of in (SAME, BEST, WORST))
    assert same.tolist() == [0, 3, 7, 10, 14, 17, 21, 24, 28, 31, 35, 39]
    for name, places in (("", same), ("-cases", [*best, *worst])):
        sheet = opened(study.folder / "pictures" / f"{numbers[0]}{name}.png")
        original, grey, output, difference = sheet
        assert (sheet[..., 3] == 255).all()
        assert (original[..., :3] == images[places]).all()
        luma = images[places] @ [0.299, 0.587, 0.114]
        assert np.abs(grey[..., :3] - luma[..., None]).max() <= 0.51
        drawn = (127.5 + 4 * (output - original)[..., :3]).clip(0, 255)
        assert np.abs(difference[..., :3] - drawn).max() <= 0.5 + 0.01
    network, config = load_model(get_model_folder(study.folder, numbers[0]))
    every = picture_sheets.measure_pictures(
        network, Colourise(config.gammas), put_on_device(images, CPU)
    )
    order = every["mse"].sort_values().index
    assert best.tolist() == order[:6].tolist()
    assert worst.tolist() == order[-6:].tolist()
    np.testing.assert_allclose(told.loc[BEST, "mse"].astype(float), every["mse"][best], rtol=1e-4)
    for measure in MEASURES:
        assert told.loc[ALL, measure] == pytest.approx(every[measure].mean(), rel=1e-4)


def test_pca_is_drawn_below_the_output(
    study: Study, images: np.ndarray, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Oracle: PCA of the 640 blocks by numpy's SVD. The model has 32 numbers; of the baselines with
    at most as many, that of two components for each of 16 blocks has the least error."""
    monkeypatch.setenv("RAYCAE_CACHE", str(tmp_path / "cache"))
    codes = [
        ("pca", 24, 0.2),
        ("pca_8x8", 16, 0.3),
        ("pca_8x8", 32, 0.1),
        ("pca_8x8", 48, 0.05),
        ("mean_colour", None, 0.3),
    ]
    frame = pd.DataFrame(codes, columns=["baseline", "latent_size", "val_mse"])
    frame.insert(0, "data_fingerprint", "0" * 16)
    kinds = {"latent_size": "Int64", "val_mse": "Float64"}
    frame.assign(test_mse=frame["val_mse"]).astype(kinds).to_parquet(
        study.folder / "baselines.parquet"
    )
    config = resolve(
        {"task": "reconstruct", "channels": [4, 4, 4, 4], "depth": 4, "latent_channels": 8}
    )
    assert build_architecture(config).latent_size == 32
    number = run_trial(study, 0.03, 0.02, 0.01)
    network = autoencoder.build_network(build_architecture(config), seed=0)
    weights = encode_weights(network.state_dict())
    write_model(get_model_folder(study.folder, number), weights, config.model_dump(mode="json"))
    picture_sheets.write_picture_sheets(study.folder, number, images)
    told = tables.read_pictures(study.folder)
    assert told is not None
    assert PCA not in set(told["shows"])  # Nothing to fit it on.
    picture_sheets.write_picture_sheets(study.folder, number, images, None, images)
    told = tables.read_pictures(study.folder)
    assert told is not None
    told = told.set_index("shows")
    x = images.reshape(40, 4, 8, 4, 8, 3).swapaxes(2, 3).reshape(-1, 192) / 255
    axes = np.linalg.svd(x - x.mean(0), full_matrices=False)[2][:2]
    blocks = (x - x.mean(0)) @ axes.T @ axes + x.mean(0)
    fitted = blocks.reshape(40, 4, 4, 8, 8, 3).swapaxes(2, 3).reshape(images.shape)
    for name, shows in (("", [SAME]), ("-cases", [BEST, WORST])):
        sheet = opened(study.folder / "pictures" / f"{number}{name}.png")[..., :3]
        assert len(sheet) == 4  # Its difference would make the demo's page larger than 1.8 MB.
        expected = 255 * fitted[told.loc[shows, "image"].to_numpy(int)].clip(0, 1)
        assert np.abs(sheet[3] - expected).max() <= 0.5 + 0.1
    error = np.square(x - blocks).mean()
    assert told.loc[PCA, "mse"] == pytest.approx(error, rel=1e-2)
    study.records.write(study.folder)
    page = render_report(study.folder)
    assert "Rows of pictures: original, output, difference × 4, pca." in page
    assert f"PCA has a mean PSNR of {told.loc[PCA, 'psnr_db']:.1f} dB" in page


def test_of_many_test_images_some_are_measured(
    study: Study, images: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Oracle: `measure_pictures` of 14 of the 40 images, chosen by hand: every third one. Numbers
    are those in the whole set, and the sheet shows these images."""
    monkeypatch.setattr(picture_sheets, "N_MEASURED", 14)
    number, used = made_model(study), np.arange(0, 40, 3)
    picture_sheets.write_picture_sheets(study.folder, number, images)
    told = tables.read_pictures(study.folder)
    assert told is not None
    told = told.set_index("shows")
    same, best, worst = (told.loc[of, "image"].to_numpy(int) for of in (SAME, BEST, WORST))
    network, config = load_model(get_model_folder(study.folder, number))
    task, shown = Colourise(config.gammas), put_on_device(images[used], CPU)
    measured = picture_sheets.measure_pictures(network, task, shown)
    order = used[measured["mse"].argsort(kind="stable")]
    assert best.tolist() == order[:6].tolist()
    assert worst.tolist() == order[-6:].tolist()
    assert set(same) <= set(used)
    assert (same[0], same[-1], len(same)) == (0, 39, 12)
    for measure in MEASURES:
        assert told.loc[ALL, measure] == pytest.approx(measured[measure].mean(), rel=1e-6)
    sheet = opened(study.folder / "pictures" / f"{number}.png")
    assert (sheet[0, ..., :3] == images[same]).all()


@pytest.mark.parametrize("n", [1, 7])
def test_few_test_images(study: Study, images: np.ndarray, n: int) -> None:
    """Oracle: of fewer test images than a sheet has places each is there once, and the report can
    be written."""
    number = made_model(study)
    picture_sheets.write_picture_sheets(study.folder, number, images[:n])
    told = tables.read_pictures(study.folder)
    assert told is not None
    assert told.loc[told["shows"] == SAME, "image"].tolist() == list(range(n))
    study.records.write(study.folder)
    assert "data:image/webp" in render_report(study.folder)


def test_test_errors_that_have_begun_are_recorded(
    study: Study, images: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Oracle: by hand. Ctrl-C arrives while the second of four networks is evaluated. Its error is
    recorded, and so is that of every other network that was begun; the rest have none."""
    numbers = [made_model(study) for _ in range(4)]
    loaded = StudyTestImages(images, None, "40 images of noise", [])
    monkeypatch.setattr(evaluation, "load_test_images", lambda *_: loaded)
    begun: list[float] = []
    has_second, may_end = threading.Event(), threading.Event()

    def compute_errors(*_: object, **__: object) -> tuple[float, float]:
        begun.append(0.1 * len(begun))
        if len(begun) == 2:
            has_second.set()
            may_end.wait(60)
        return begun[-1], 20.0

    monkeypatch.setattr(evaluation, "compute_errors", compute_errors)

    def count(step: str, done: int, total: int) -> None:
        if done == 0:
            assert has_second.wait(60)
        else:
            may_end.set()

    n_evaluated = evaluation.evaluate_kept_models(study, over=has_second.is_set, count=count)
    errors = [study.records.trials[number]["test_mse"] for number in numbers]
    assert n_evaluated == len(begun) == sum(error is not None for error in errors)
    assert None not in errors[:2]


def test_a_search_that_is_over_paints_no_more(
    study: Study, images: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Oracle: a person who pressed Ctrl-C waits; nothing is painted and no line is fitted. Asked
    again, both sheets of the one trial are there, and then nothing more is read."""
    number = made_model(study)
    study.records.write(study.folder)
    read: list[int] = []

    def test_images(*_: object) -> StudyTestImages:
        read.append(len(images))
        return StudyTestImages(images, None, "40 images of noise", [])

    monkeypatch.setattr(picture_sheets, "load_test_images", test_images)
    monkeypatch.setattr(picture_sheets, "has_baselines", lambda *_: True)
    always: Callable[[], bool] = lambda: True  # noqa: E731
    picture_sheets.add_pictures_and_baselines(study.folder, over=always)
    assert not trials.list_trials_with_pictures(study.folder)
    picture_sheets.add_pictures_and_baselines(study.folder)
    assert trials.list_trials_with_pictures(study.folder) == {number}
    n_read = len(read)
    picture_sheets.add_pictures_and_baselines(study.folder)
    assert len(read) == n_read
