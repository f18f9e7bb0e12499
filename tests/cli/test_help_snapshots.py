"""The exact text of every `--help` and of the messages after wrong use.

After a text was changed on purpose, read the difference that this command makes and commit it:

    python -m pytest tests/cli/test_help_snapshots.py --snapshot-update
"""

from __future__ import annotations

import shlex
import sys
from pathlib import Path

import numpy as np
import pytest
from conftest import TINY_SPACE, Run, data_facts
from PIL import Image
from syrupy.assertion import SnapshotAssertion

from raycae.cli import main
from raycae.execution import runner
from raycae.space.space import Space
from raycae.study.opening import create_study
from raycae.study.plan import Plan

WRONG_USE = """
raycae nothing
raycae search --no-such-option
raycae search --space ex4
raycae search --space no/such/file.yaml
raycae search --space unknown-key.yaml
raycae search --space low-above-high.yaml
raycae search --space not-allowed.yaml
raycae search nowhere
raycae search ex2
raycae search tiny.yaml
raycae search picture.png
raycae search mixed --data photos
raycae search mixed --resume
raycae search --space tiny.yaml --trials 0
raycae search --space tiny.yaml --trials many
raycae search --space tiny.yaml --epochs 0
raycae search --space tiny.yaml --epochs three
raycae search --space tiny.yaml --hours nan
raycae search --space tiny.yaml --hours -1
raycae search --space tiny.yaml --limit 8
raycae search --space tiny.yaml --seed 5000000000
raycae search --space tiny.yaml --data nowhere/at/all
raycae search --space tiny.yaml --data cifar
raycae search --space tiny.yaml --data mixed
raycae search --space tiny.yaml --data 'mixed?splits=perhaps'
raycae search --space tiny.yaml --sampler cma
raycae search --space tiny.yaml --scheduler pbt
raycae search --space tiny.yaml --scheduler none --grace 2
raycae search --space tiny.yaml --grace 0
raycae search --space tiny.yaml --factor 1
raycae search --space tiny.yaml --repeats yes
raycae search --space tiny.yaml --objective psnr
raycae search --space tiny.yaml --cost flops
raycae search --space tiny.yaml --objective frontier --cost dB
raycae search --space tiny.yaml --strata 64
raycae search --space tiny.yaml --sampler strata
raycae search --space tiny.yaml --objective frontier --strata 64,9
raycae search --space tiny.yaml --objective frontier --strata 64 --sampler tpe
raycae search --space tiny.yaml --objective frontier --sampler greedy
raycae search --space tiny.yaml --objective frontier --cost n_params --sampler strata
raycae search --space tiny.yaml --settings 3 --sampler grid
raycae search --space tiny.yaml --settings 0
raycae search --space tiny.yaml --first-images 8
raycae search --space tiny.yaml --first-images 99 --scheduler none
raycae search --space tiny.yaml --fuse many
raycae search --space tiny.yaml --max latent_size
raycae search --space tiny.yaml --max depth=3
raycae search --space tiny.yaml --from other
raycae search --space tiny.yaml --from mine --sampler random
raycae search --space tiny.yaml --study ../../x
raycae search --space tiny.yaml --study -rf
raycae search --space tiny.yaml --storage oracle://db/studies
raycae search --space tiny.yaml --results /dev/null/results
raycae search --space tiny.yaml --concurrent 0
raycae search --space tiny.yaml --gpus-per-trial -1
raycae search --space tiny.yaml --gpus-per-trial inf
raycae search --space tiny.yaml --epochs 2000000000
raycae search --space tiny.yaml --limit 100000000000000000000
raycae search --space tiny.yaml --grace 100000000000000000000
raycae search --space tiny.yaml --factor 100000000000000000000
raycae search --space tiny.yaml --first-images 100000000000000000000
raycae search --space long.yaml
raycae search --space tiny.yaml --storage sqlite:///~no-such-user/x.db
raycae search --space tiny.yaml --results s3://[b/x
raycae search --space tiny.yaml --from s3://[b/x
raycae search --space tiny.yaml --results LONG
raycae search ~no-such-user.yaml
raycae search --space tiny.yaml --study mine
raycae search --resume --study other
raycae search --resume --study mine --epochs 9
raycae search --resume --study mine --data cifar10
raycae search --resume --study mine --space ex2
raycae search --resume --study mine --max latent_size=64
raycae search --resume --study mine --from mine
raycae preview --space ex4
raycae preview --space tiny.yaml -n 0
raycae trial --space tiny.yaml --point other
raycae trial --space tiny.yaml --set lr
raycae trial --space tiny.yaml --set lr=fast
raycae trial --space tiny.yaml --set speed=3
raycae list --results s3://[b/x
raycae list --results LONG
raycae show s3://[b/x
raycae show other
raycae open other
raycae show mine -n 0
raycae evaluate other
raycae report other
raycae report mine other
raycae report mine mine --png figures
raycae reproduce --only ex9
raycae reproduce --leave-out ex9
raycae reproduce --only ex2-base --data photos --gpus-per-trial inf
raycae reproduce --only ex2-base --data photos --epochs 2000000000
raycae reproduce --only ex2-base --data photos --results LONG
raycae predict other picture.png -o out
raycae predict mine picture.png -o out
raycae export mine -o model.onnx --format onnx
raycae export other -o model.bin --format pt2
raycae export mine -o model.bin --format tflite
raycae export mine -o model.onnx --format onnx --part middle
raycae predict mine picture.png -o out --latent 64
raycae dashboard other
raycae submit --space ex4
raycae submit --space ex4 --results results
raycae submit --space tiny.yaml --results LONG
raycae submit --space tiny.yaml --results results --address 127.0.0.1:9
raycae status other --address http://127.0.0.1:9
raycae search --space tiny.yaml --address 127.0.0.1:9
"""
"""Wrong command lines: one option, file or study that does not fit. LONG is a name of 300
letters."""


@pytest.fixture(autouse=True)
def _plain_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fix the width, leave out colours, and forget the settings of this user."""
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setenv("NO_COLOR", "1")
    # Click would name the program after `python -m pytest`.
    monkeypatch.setattr(sys.modules["__main__"], "__package__", None, raising=False)
    for name in ("RAYCAE_RESULTS", "RAY_ADDRESS", "RAY_API_SERVER_ADDRESS", "FORCE_COLOR"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with spaces, images and the study `mine`, which has no trials."""
    folder = tmp_path_factory.mktemp("wrong-use")
    (folder / "tiny.yaml").write_text(TINY_SPACE)
    for name, old, new in (
        ("unknown-key", "budget:", "bugdet:"),
        ("low-above-high", "low: 1.0e-3", "low: 1.0"),
        ("not-allowed", "[adam, sgd]", "[adam, newton]"),
        ("long", "epochs: 3", "epochs: 2000000000"),
    ):
        assert old in TINY_SPACE
        (folder / f"{name}.yaml").write_text(TINY_SPACE.replace(old, new))
    for name in ("mixed/train", "mixed/test", "mixed/holidays"):
        (folder / name).mkdir(parents=True)
    for number, name in enumerate(("train/1", "test/2", "holidays/3")):
        pixels = np.full((32, 32, 3), number, np.uint8)
        Image.fromarray(pixels).save(folder / "mixed" / f"{name}.png")
    Image.fromarray(pixels).save(folder / "picture.png")
    return folder


@pytest.fixture
def here(folder: Path, tiny_space: Space, plan: Plan, monkeypatch: pytest.MonkeyPatch) -> None:
    """Change to `folder`; a command that gets as far as Ray fails."""
    if not (folder / "results").exists():
        create_study(folder / "results" / "mine", plan, tiny_space, data_facts()).close()
    monkeypatch.chdir(folder)
    monkeypatch.setenv("RAYCAE_CACHE", str(folder / "cache"))

    def refuse(*_: object) -> None:
        raise AssertionError("Ray was about to start")

    monkeypatch.setattr(runner, "connect_ray", refuse)


@pytest.mark.parametrize("command", ["", *main.COMMANDS])
def test_help(run: Run, snapshot: SnapshotAssertion, command: str) -> None:
    """Oracle: the recorded text, read by a person when it was recorded."""
    code, out, err = run(*command.split(), "--help")
    assert (code, err) == (0, "")
    assert out == snapshot


@pytest.mark.usefixtures("here")
@pytest.mark.parametrize("line", WRONG_USE.strip().splitlines())
def test_message(run: Run, snapshot: SnapshotAssertion, folder: Path, line: str) -> None:
    """Oracle: the recorded message, read by a person when it was recorded; exit code 2. It is one
    line, below a usage line where Typer refuses a value."""
    code, out, err = run(*shlex.split(line.replace("LONG", 300 * "a"))[1:])
    err = err.replace(300 * "a", "LONG")
    assert (code, out) == (2, "")
    assert err.startswith("raycae: ") == (err.count("\n") == 1)
    assert err.startswith(("raycae: ", "Usage: raycae "))
    assert err.replace(str(folder), "FOLDER") == snapshot
