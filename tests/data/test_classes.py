"""Networks that are told the image's class: from the source of the images to the report."""

from __future__ import annotations

import io
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from conftest import Run, train_all
from PIL import Image
from searches import command, trials_of
from searches import run as run_search
from torch.nn import functional as F

from raycae import data
from raycae.config import resolve
from raycae.errors import InputError
from raycae.execution import runner
from raycae.execution.evaluation import evaluate_kept_models
from raycae.execution.progress import Progress
from raycae.execution.search_request import SearchRequest
from raycae.model import weights
from raycae.model.architecture import build_architecture
from raycae.model.autoencoder import build_network
from raycae.model.color import rgb_to_ycbcr, ycbcr_to_rgb
from raycae.model.tasks import Colourise
from raycae.report import picture_sheets
from raycae.space import loading
from raycae.study import tables
from raycae.study.artifacts import get_model_folder
from raycae.study.opening import create_study, resume_study
from raycae.study.plan import Plan, load_plan, read_content
from raycae.study.study import Study
from raycae.training.device import put_on_device
from raycae.training.trainer import Training
from raycae.training.validation import compute_errors

CPU = torch.device("cpu")

TOY = """
# Toy: is the colour learnt that the class alone decides?
task: colourise
data: photos
budget: {trials: 2, epochs: 6}
fixed: {image_size: 8, depth: 1, channels: 8, latent_channels: 8, gammas: [1.0], lr: 0.02}
points:
  base: {}
  told: {classes: 4}
"""


def put_toy(file: Path, n: int, seed: int, classes: int = 4) -> None:
    """`n` images of noise in luma, each in the one colour of its class; `classes` 0: unlabelled."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 4, n)
    ycbcr = np.empty((n, 3, 8, 8))
    ycbcr[:, 0] = rng.uniform(0.4, 0.6, (n, 8, 8))
    ycbcr[:, 1] = np.where(labels % 2, 0.4, 0.6)[:, None, None]
    ycbcr[:, 2] = np.where(labels // 2, 0.4, 0.6)[:, None, None]
    rgb = (ycbcr_to_rgb(torch.from_numpy(ycbcr)) * 255).round().byte().permute(0, 2, 3, 1).numpy()
    rows = []
    for image in rgb:
        content = io.BytesIO()
        Image.fromarray(image).save(content, "PNG")
        rows.append({"bytes": content.getvalue()})
    columns = {"img": pa.array(rows, pa.struct([("bytes", pa.binary())]))}
    if classes:
        columns["label"] = pa.array(labels % classes)
    pq.write_table(pa.table(columns), file)


def put_toys(folder: Path) -> Path:
    """Two hundred images to train and validate on, forty to test."""
    folder.mkdir()
    put_toy(folder / "train-0.parquet", 200, seed=0)
    put_toy(folder / "test-0.parquet", 40, seed=1)
    return folder


@pytest.fixture
def toy(tmp_path: Path) -> Path:
    return put_toys(tmp_path / "toy")


@pytest.fixture(scope="module")
def images(trained: Path) -> data.Images:
    return data.load(str(trained / "toy"), image_size=8, classes=4)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the toys and a study of both points, trained here; not evaluated."""
    folder = tmp_path_factory.mktemp("trained")
    images = data.load(str(put_toys(folder / "toy")), image_size=8, classes=4)
    plan = Plan(
        study="made",
        space="toy",
        data="toy",
        trials=2,
        epochs=6,
        limit=None,
        seed=0,
        sampler="points",
        scheduler="none",
    )
    facts = {"source": "toy", "fingerprint": images.fingerprint, "n_train": 175, "n_val": 25}
    facts["labels"] = images.labels.fingerprint
    study = create_study(folder / "made", plan, loading.parse_space(TOY, name="toy"), facts)
    train_all(study, images)
    study.close()
    return folder


@pytest.fixture
def study(trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Study]:
    """A copy of `trained` to stand in, and its study opened."""
    shutil.copytree(trained, tmp_path / "here")
    monkeypatch.chdir(tmp_path / "here")
    opened = resume_study(Path("made").resolve(), load_plan(read_content(Path("made"))))
    yield opened
    opened.close()


def by_hand(network: torch.nn.Module, pixels: np.ndarray, labels: np.ndarray | None) -> float:
    """The error in chroma, with the input put together in numpy."""
    ycbcr = rgb_to_ycbcr(torch.from_numpy(pixels.transpose(0, 3, 1, 2) / np.float32(255)))
    shown = [ycbcr[:, :1].numpy()]
    if labels is not None:
        one_hot = np.eye(4, dtype=np.float32)[labels]
        shown.append(one_hot[:, :, None, None] * np.ones((8, 8), np.float32))
    with torch.inference_mode():
        return float(F.mse_loss(network(torch.from_numpy(np.concatenate(shown, 1))), ycbcr[:, 1:]))


def test_colour_by_class_is_learnt_with_the_class_alone(study: Study) -> None:
    """Oracle: the toy's chroma is 0.4 or 0.6, by the class; who does not know it can do no better
    than 0.5, an error of 0.01, and who knows it can do without error."""
    base, told = (study.records.trials[n]["val_mse"] for n in (0, 1))
    assert told < 0.001
    assert base > 0.008


def test_an_untrained_network_sees_the_class() -> None:
    """Oracle: one image with two labels. Two outputs where the network is told them; one where it
    is not."""
    image = torch.full((2, 8, 8, 3), 90, dtype=torch.uint8)
    for classes in (0, 4):
        config = resolve({"task": "colourise", "image_size": 8, "classes": classes})
        x, _ = Colourise(config.gammas, classes).batch(image, torch.tensor([0, 3]))
        one, other = build_network(build_architecture(config), seed=0)(x)
        assert torch.equal(one, other) == (classes == 0)


def test_it_goes_on_where_it_stopped(images: data.Images) -> None:
    """Oracle: four epochs in one go; two, a new process, and two more end in the same bits."""
    config = resolve({"task": "colourise", "image_size": 8, "classes": 4})
    parts = (
        put_on_device(images.train, CPU, images.labels.train),
        put_on_device(images.val, CPU, images.labels.val),
    )
    whole, half, resumed = (Training(config, *parts, epochs=4, seed=seed) for seed in (0, 0, 9))
    for training, epochs in ((whole, 4), (half, 2)):
        for _ in range(epochs):
            training.run_epoch()
    resumed.load_state(half.state())
    for _ in range(2):
        resumed.run_epoch()
    assert resumed.best_val_mse == whole.best_val_mse
    assert resumed.val_ssim() == whole.val_ssim()


def test_kept_models_are_evaluated_with_the_labels(study: Study, images: data.Images) -> None:
    """Oracle: inputs put together in numpy. A saved model has on the validation images the error of
    its training again, with their labels and not with others; and its test error is that on the
    test images with theirs."""
    assert evaluate_kept_models(study) == 2
    pixels = data.load_test(study.plan.data, image_size=8)
    for number, classes in ((0, 0), (1, 4)):
        network, config = weights.load_model(get_model_folder(study.folder, number))
        val, test = (labels if classes else None for labels in images.labels[1:3])
        assert config.classes == classes
        row = study.records.trials[number]
        assert row["val_mse"] == pytest.approx(by_hand(network, images.val, val), rel=1e-4)
        assert row["test_mse"] == pytest.approx(by_hand(network, pixels, test), rel=1e-4)
        for labels, same in ((images.labels.val, True), (np.zeros(25, np.int64), not classes)):
            found, _ = compute_errors(
                network, Colourise(config.gammas, classes), put_on_device(images.val, CPU, labels)
            )
            assert (found == pytest.approx(row["val_mse"], rel=1e-4)) == same


def test_pictures_are_painted_with_the_labels(study: Study, images: data.Images) -> None:
    """Oracle: the originals above them. Their colours cannot be told from the grey picture, and a
    model that knows the class has them all but right, also by CIEDE2000."""
    labels = data.load_labels(study.plan.data, classes=4).test
    picture_sheets.write_picture_sheets(
        study.folder, 1, data.load_test(study.plan.data, image_size=8), labels
    )
    content = (study.folder / "pictures" / "1.png").read_bytes()
    sheet = np.asarray(Image.open(io.BytesIO(content)).convert("RGB")).astype(int)
    original, grey, output = sheet[:8], sheet[10:18], sheet[20:28]
    assert np.abs(output - original).mean() < 10
    assert np.abs(grey - original).mean() > 20
    told = tables.read_pictures(study.folder)
    assert told is not None
    assert told["delta_e"].iloc[0] < 10


@pytest.mark.parametrize("left", [0, 2])
def test_images_that_are_not_labelled_any_more(run: Run, study: Study, left: int) -> None:
    """Oracle: the labels are taken out of the test images, or are others; the saved model is not
    evaluated without them: one message that names the source and `classes`, exit code 2."""
    put_toy(Path(study.plan.data) / "train-0.parquet", 200, seed=0, classes=left)
    study.close()
    if left:
        relabelled = data.load(study.plan.data, image_size=8, classes=4)
        with pytest.raises(
            InputError, match="the class labels have changed since this study started"
        ):
            runner.open_study_for_writing(
                SearchRequest(study.folder, study.plan, study.space, True, {}),
                relabelled,
                Progress(2, 6),
            )
        return
    code, out, err = run("evaluate", study.folder)
    assert (code, out) == (2, "")
    assert err.startswith(f"raycae: source '{study.plan.data}': has no class labels")
    assert err.count("\n") == 1


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["search", "--data", "photos"], "has no class labels, but the setting classes: "),
        (
            ["search", "--data", "LABELLED"],
            "an image of class 3. With classes: 3, labels must be from 0",
        ),
        (["trial", "--point", "told", "--data", "photos"], "has no class labels"),
        (["trial", "--data", "photos", "--set", "classes=2"], "has no class labels"),
    ],
)
def test_refused_before_the_first_trial(
    run: Run,
    tmp_path: Path,
    toy: Path,
    monkeypatch: pytest.MonkeyPatch,
    arguments: list[str],
    says: str,
) -> None:
    """Oracle: one line that names the source and the value; exit code 2; Ray does not start and no
    results folder appears. Labels are read after the line with the time estimate of a search."""

    def refuse(*arguments: object) -> None:
        raise AssertionError("Ray was about to start")

    monkeypatch.setattr(runner, "connect_ray", refuse)
    path = tmp_path / "mine.yaml"
    path.write_text(TOY.replace("classes: 4", "classes: 3"))
    source = arguments[arguments.index("--data") + 1].replace("LABELLED", str(toy))
    more = [argument.replace("LABELLED", source) for argument in arguments[1:]]
    if arguments[0] == "search":
        more += ["--results", str(tmp_path / "r")]
    code, out, err = run(arguments[0], "--space", path, *more)
    assert code == 2
    assert [line.split()[0] for line in out.splitlines()] in ([], ["time", "Loading"])
    assert err.startswith(f"raycae: source '{source}': ")
    assert says in err
    assert err.count("\n") == 1
    assert not (tmp_path / "r").exists()


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ("", 4),
        ("params: {classes: {type: categorical, choices: [0, 10, 3]}}", 3),
        ("params: {classes: {type: int, low: 0, high: 9, step: 3}}", 3),
        ("params: {classes: {type: int, low: 2, high: 9}}", 2),
        ("series: {told: {classes: 1}}", 1),
        ("params: {lr: {type: float, low: 0.1, high: 0.2}}", 4),
    ],
)
def test_the_fewest_classes_of_a_space(changes: str, expected: int) -> None:
    """Oracle: by hand, besides the 4 of the toy's point. A space that reconstructs tells none."""
    text = TOY.replace(", lr: 0.02", "") + changes
    assert loading.parse_space(text, name="mine").classes == expected
    assert loading.parse_space(text.replace("colourise", "reconstruct"), name="mine").classes == 0
    assert loading.load_space("ex3").classes == 0


def test_what_is_compared_by_the_shipped_space() -> None:
    """Oracle: by hand. The report's twice the channels, and ten planes more at the 16 filters of
    3 x 3 of its first convolution: 10 * 16 * 9 = 1,440 weights; nothing else."""
    without, told = loading.load_space("ex3-class").points.values()
    assert without == loading.load_space("ex3-report").points["ex3-channels-x2"]
    assert told == without.model_copy(update={"classes": 10})
    nets = [build_architecture(config) for config in (without, told)]
    assert [net.n_params for net in nets] == [18_386, 19_826]
    assert nets[0].layers[1:] == nets[1].layers[1:]


def test_equal_trials_are_equal() -> None:
    """Oracle: reconstruction has no use for classes, so one spelling is left."""
    assert resolve({"classes": 10}) == resolve({})
    with pytest.raises(InputError, match="classes: 1001 is not allowed"):
        resolve({"task": "colourise", "classes": 1001})


def test_a_search_from_command_to_test_error(
    toy: Path, tmp_path: Path, small_ray: dict[str, str]
) -> None:
    """Oracle: the toy's. Trained by Ray's processes, only who is told the class is right, on the
    test images too; the report has pictures."""
    path = tmp_path / "toy.yaml"
    path.write_text(TOY)
    more = ["--data", str(toy), "--sampler", "points", "--concurrent", "1"]
    done = run_search(command(path, tmp_path / "r", *more), small_ray)
    assert done.returncode == 0, done.stderr
    trials: pd.DataFrame = trials_of(tmp_path / "r" / "toy").set_index("point")
    for error in ("val_mse", "test_mse"):
        assert trials.loc["told", error] < 0.001
        assert trials.loc["base", error] > 0.008
    assert "data:image/webp;base64" in (tmp_path / "r" / "toy" / "report.html").read_text()
