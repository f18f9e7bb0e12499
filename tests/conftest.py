"""What several test files share: the real images, made-up studies, one small Ray."""

from __future__ import annotations

import os

# Threads of one operation that wait for each other spin. With two processes of tests on two cores,
# an epoch takes over ten times the CPU so. torch and numpy read this when they are imported.
os.environ |= {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}

# Processes that tests start find the package compiled.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)

import json
import sys
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import hypothesis
import pytest
from searches import SmallRay

from raycae import data
from raycae.cli import main
from raycae.execution import runner
from raycae.space import loading
from raycae.space.space import Space
from raycae.storage.files import checksum
from raycae.study.artifacts import get_checkpoint_folder, get_model_folder, write_model
from raycae.study.attempt import Attempt, EpochReport
from raycae.study.opening import create_study
from raycae.study.plan import Plan
from raycae.study.study import Study
from raycae.training import device

# A busy machine is no fault of the code under test: no example has a time limit of its own.
hypothesis.settings.register_profile("raycae", deadline=None)
hypothesis.settings.load_profile("raycae")

JPEG_SET = Path(__file__).resolve().parents[2] / "shared" / "data" / "cifar10-jpeg"

TINY_SPACE = """
# Tiny: does it hang together?
task: reconstruct
data: photos
budget: {trials: 6, epochs: 3, limit: 400}
params:
  channels: {type: int, low: 4, high: 8, per: stage}
  lr: {type: float, low: 1.0e-3, high: 1.0e-2, log: true}
  optimizer: {type: categorical, choices: [adam, sgd]}
  momentum: {type: float, low: 0.0, high: 0.9, when: {optimizer: sgd}}
fixed: {batch_size: 32}
points:
  base: {}
"""

SMALL_SPACE = TINY_SPACE.replace("batch_size: 32", "batch_size: 32, image_size: 16")
"""The same for smaller images: baselines of 32 pixels square take seconds after every search."""

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture(autouse=True)
def _denormals_are_back() -> Iterator[None]:
    """Commands that train set their process to flush denormals; a process of tests goes on."""
    yield
    if torch := sys.modules.get("torch"):
        torch.set_flush_denormal(False)


@pytest.fixture(scope="session", autouse=True)
def _draws_are_checked_once() -> Iterator[None]:
    """A text that has passed this check, with its fixed seed, passes it again: it takes most of the
    time of reading a space, and tests read the same few spaces thousands of times."""
    passed: set[tuple[str, Path | None]] = set()
    check = loading.check_draws

    def check_once(space: Space, where: str) -> None:
        if (space.text, space.folder) not in passed:
            check(space, where)
            passed.add((space.text, space.folder))

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(loading, "check_draws", check_once)
        yield


@pytest.fixture(scope="session")
def small_ray() -> Iterator[dict[str, str]]:
    """The environment that leads to it."""
    with SmallRay() as env:
        yield env


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """`raycae …` in this process: exit code, standard output, standard error."""

    def call(*arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["raycae", *map(str, arguments)])
        capsys.readouterr()
        code = 0
        try:
            main.main()
        except SystemExit as end:
            code = int(end.code or 0)
        out, err = capsys.readouterr()
        return code, out, err

    return call


@pytest.fixture
def without_ray(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let `runner.run_study` train its trials in this process, one after the other."""

    def train(study: Study, images: data.Images, *_: object) -> None:
        train_all(study, images)

    monkeypatch.setattr(runner, "connect_ray", lambda *_: nullcontext(True))
    monkeypatch.setattr(runner, "TrialSlots", lambda **_: None)
    monkeypatch.setattr(runner, "train_trials", train)
    monkeypatch.setattr(device, "count_cpus", lambda: 1)


@pytest.fixture
def space_file(tmp_path: Path) -> Path:
    path = tmp_path / "tiny.yaml"
    path.write_text(SMALL_SPACE)
    return path


@pytest.fixture
def tiny_space() -> Space:
    return loading.parse_space(TINY_SPACE, name="tiny")


@pytest.fixture
def plan() -> Plan:
    return Plan(
        study="tiny",
        space="tiny",
        data="photos",
        trials=6,
        epochs=3,
        limit=None,
        seed=0,
        sampler="random",
        scheduler="none",
    )


@pytest.fixture
def study(tmp_path: Path, tiny_space: Space, plan: Plan) -> Iterator[Study]:
    made = create_study(tmp_path / "tiny", plan, tiny_space, data_facts())
    yield made
    made.close()


@pytest.fixture(scope="session")
def jpeg_set() -> str:
    """All of CIFAR-10 as JPEG; not part of the repository."""
    if not JPEG_SET.is_dir():
        pytest.skip("the real image set (cifar10-jpeg) is not beside this checkout")
    return str(JPEG_SET)


def data_facts() -> dict[str, Any]:
    return {"source": "photos", "fingerprint": "0" * 16, "n_train": 100, "n_val": 20}


def measured(epoch: int, val_mse: float) -> dict[str, Any]:
    """What `Training.run_epoch` returns, with the error that a test wants."""
    return {
        "epoch": epoch,
        "train_mse": val_mse * 1.1,
        "val_mse": val_mse,
        "val_psnr_db": 20.0,
        "epoch_time_s": 1.0,
        "images_per_s": 100.0,
    }


def begin(study: Study) -> Attempt:
    """Ask for an attempt and start it."""
    issue = study.ask()
    assert issue is not None
    study.start_attempt(issue.number, issue.attempt)
    return issue


def run_trial(study: Study, *errors: float) -> int:
    """Begin a trial and give it these errors by epoch, as far as it is let. Its number."""
    issue = begin(study)
    for epoch, error in enumerate(errors, 1):
        if not study.report_epoch(
            EpochReport(issue.number, issue.attempt, **measured(epoch, error))
        ):
            break
    return issue.number


def train_all(study: Study, images: data.Images) -> None:
    """Every trial of `study`, in this process and to its end; each keeps its model."""
    import torch

    from raycae.model.weights import encode_weights
    from raycae.training.device import put_on_device
    from raycae.training.trainer import Training

    cpu = torch.device("cpu")
    train, val = (
        put_on_device(pixels, cpu, labels)
        for pixels, labels in ((images.train, images.labels.train), (images.val, images.labels.val))
    )
    while issue := study.ask():
        study.start_attempt(issue.number, issue.attempt)
        training = Training(issue.config, train, val, epochs=study.plan.epochs, seed=0)
        goes_on = True
        while goes_on:
            told = training.run_epoch()
            if training.epoch == study.plan.epochs:
                told["val_ssim"] = training.val_ssim()
                weights = encode_weights(training.best_weights)
                folder = get_model_folder(study.folder, issue.number)
                write_model(folder, weights, issue.config.model_dump(mode="json"))
            goes_on = study.report_epoch(EpochReport(issue.number, issue.attempt, **told))


def write_epoch(study: Study, issue: Attempt, epoch: int) -> dict[str, str]:
    """The files of an epoch as a trial's process lays them down; what it says of them."""
    folder = get_checkpoint_folder(study.folder, issue.number)
    folder.mkdir(parents=True, exist_ok=True)
    said = {}
    for name, kind in (("checkpoint", "pt"), ("model", "safetensors")):
        content = f"{kind} of {issue.number} after {epoch}".encode()
        (folder / f"{epoch}-{issue.attempt}.{kind}").write_bytes(content)
        said[name] = checksum(content)
    return said


def die(study: Study) -> None:
    """What a killed process leaves: everything as it is, but nobody holds the lease."""
    study._lease.release()


def study_json(folder: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((folder / "study.json").read_text())
    return content
