"""`raycae export`: what the files give, what their cards say, what is refused."""

from __future__ import annotations

import errno
import json
import re
import shutil
import sys
from pathlib import Path, PurePath
from typing import Any
from urllib.parse import unquote

import numpy as np
import pytest
import safetensors
import torch
import yaml
from conftest import Run, run_trial
from hypothesis import given
from hypothesis import strategies as st
from made_studies import MEAN, Trial, made_study, painted
from models import NETWORKS, put_model

import raycae
from raycae import data
from raycae.cli import export as cli_export
from raycae.config import resolve
from raycae.inference.export import TOLERANCE
from raycae.inference.hub_header import write_header
from raycae.study.artifacts import get_model_folder
from raycae.study.find import format_study_argument
from raycae.study.study import Study


@pytest.mark.parametrize(
    ("form", "name"),
    [
        *(("onnx", "classes"), ("pt2", "linear"), ("pt2", "classes")),
        pytest.param("pt2", "colour", marks=pytest.mark.long),
    ],
)
def test_programs(
    run: Run, tmp_path: Path, form: str, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Oracle: `raycae.load` of the model, on photographs; the program is run as its card says, in
    a folder that has the file alone. Where there is a stride, on other sizes too."""
    folder = put_model(tmp_path / "m", NETWORKS[name])
    monkeypatch.chdir(tmp_path)
    code, out, err = run("export", folder, "--format", form)
    assert (code, err) == (0, "")
    files = [Path(f"m.{form}"), Path(f"m.{form}.md")]
    said = re.fullmatch(
        r"(.*): ([\d,]+) bytes; largest difference from the model on \d+ photographs: (\S*)"
        r"(?: \(values range from 0 to 1\))?\n(.*)\n",
        out,
    )
    assert said
    assert [said[1], said[4]] == [str(file) for file in files]
    assert int(said[2].replace(",", "")) == files[0].stat().st_size
    assert 0 <= float(said[3]) <= TOLERANCE
    (tmp_path / "elsewhere").mkdir()
    files[0].rename(tmp_path / "elsewhere" / files[0])
    monkeypatch.chdir(tmp_path / "elsewhere")
    ready = raycae.load(folder)
    sizes = [(5, 32, 32)] if ready.stride is None else [(1, 32, 32), (3, 48, 80)]
    (block,) = re.findall(r"```python\n(.*?)```", (tmp_path / files[1]).read_text(), re.S)
    photographs = torch.from_numpy(data.load_test("photos", image_size=96))
    for n, height, width in sizes:
        rgb = photographs[:n, :height, :width].permute(0, 3, 1, 2) / 255
        label = 2 if ready.config.classes else None
        expected = ready.run(rgb, label)
        given: dict[str, Any] = {"rgb": rgb, "labels": torch.full((n,), 2)}
        if form == "onnx":
            given = {key: value.numpy() for key, value in given.items()}
        exec(block, given)
        np.testing.assert_allclose(given["pictures"], expected, atol=TOLERANCE)


@pytest.mark.parametrize(
    ("form", "part"),
    [("onnx", "whole"), ("pt2", "whole"), ("pt2", "encoder"), ("pt2", "decoder")],
)
def test_latents_of_one_place(
    run: Run, tmp_path: Path, form: str, part: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Oracle: the check of the command itself, on photographs of the trained size; the sizes in the
    card, which a PyTorch program accepts."""
    settings = {"depth": 3, "channels": [4, 4, 8], "factor": [2, 4, 4], "latent_channels": 0}
    folder = put_model(tmp_path / "m", settings)
    monkeypatch.chdir(tmp_path)
    code, _, err = run("export", folder, "--format", form, "--part", part, "-o", f"m.{form}")
    assert (code, err) == (0, "")
    sides = {
        "onnx": "H and W are multiples of 32, from 32 on",
        "pt2": "H and W are 32: larger pictures must be cut into tiles",
    }
    assert sides[form] in Path(f"m.{form}.md").read_text()


@pytest.mark.parametrize(
    ("form", "name"),
    [("onnx", "linear"), ("pt2", "classes"), pytest.param("pt2", "base", marks=pytest.mark.long)],
)
def test_encoder_and_decoder(
    run: Run, tmp_path: Path, form: str, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Oracle: `encode` and `decode` of `raycae.load`; each file is run as its card says."""
    folder = put_model(tmp_path / "m", NETWORKS[name])
    monkeypatch.chdir(tmp_path)
    ready = raycae.load(folder)
    n, size = (2, 32) if ready.stride is None else (3, 48)
    photographs = torch.from_numpy(data.load_test("photos", image_size=96))
    rgb = photographs[:n, :size, :size].permute(0, 3, 1, 2) / 255
    latents = ready.encode(rgb, 2 if ready.config.classes else None)
    given: dict[str, Any] = {"rgb": rgb, "labels": torch.full((n,), 2), "latents": latents}
    if form == "onnx":
        given = {key: value.numpy() for key, value in given.items()}
    output = "pictures" if ready.config.task == "reconstruct" else "colours"
    for part, result, expected in (
        ("decoder", output, ready.decode(latents)),
        ("encoder", "latents", latents),
    ):
        code, out, err = run("export", folder, "--format", form, "--part", part)
        assert (code, err) == (0, "")
        assert out.startswith(f"m.{part}.{form}: ")
        card = Path(f"m.{part}.{form}.md").read_text()
        (block,) = re.findall(r"```python\n(.*?)```", card, re.S)
        names = dict(given)
        exec(block, names)
        np.testing.assert_allclose(names[result], expected, atol=TOLERANCE)


def split_card(card: str) -> tuple[dict[str, Any], str]:
    """Split a card into its YAML header and the Markdown below it, as the hub does."""
    found = re.fullmatch(r"---\n(.*?)\n---\n\n(.*)", card, re.S)
    assert found
    return yaml.safe_load(found[1]), found[2]


def test_weights(run: Run, tmp_path: Path) -> None:
    """Oracle: the header has the settings, and the tensors are those of the model's folder."""
    folder, file = put_model(tmp_path / "m", NETWORKS["grey"]), tmp_path / "w.safetensors"
    assert run("export", folder, "--format", "safetensors", "-o", file)[0] == 0
    with (
        safetensors.safe_open(file, "pt") as opened,
        safetensors.safe_open(folder / "model.safetensors", "pt") as original,
    ):
        settings = json.loads((folder / "config.json").read_text())["config"]
        assert json.loads(opened.metadata()["raycae"]) == settings
        assert set(opened.keys()) == set(original.keys())
        for key in original.keys():  # noqa: SIM118 - it is no dictionary
            assert torch.equal(opened.get_tensor(key), original.get_tensor(key))


def test_the_card_of_a_study(run: Run, study: Study, tmp_path: Path) -> None:
    """Oracle: what study.json and trials.parquet of this study say, and the layers by hand."""
    number = run_trial(study, 0.3, 0.125, 0.2)
    study.close()
    folder = put_model(get_model_folder(study.folder, number), {})
    file = tmp_path / "w.safetensors"
    assert run("export", study.folder, "--format", "safetensors", "-o", file)[0] == 0
    card = (tmp_path / "w.safetensors.md").read_text()
    assert folder.name == "0"
    header, body = split_card(card)
    assert header == {
        "library_name": "raycae",
        "pipeline_tag": "image-to-image",
        "tags": ["autoencoder", "image-compression"],
    }
    assert body.startswith("# tiny, trial 0: an autoencoder that reconstructs pictures\n")
    assert not file.with_name("w.safetensors.png").exists()
    for line in (
        "4,911 parameters; a latent of 1,024 values for an image of 32 x 32.",
        "     3x32x32  input",
        "      16x8x8  conv 12-16 k3   <- the latent",
        "     3x32x32  conv 12-3 k3",
        "Checked: largest difference from the model on 32 photographs: 0 (values range from 0 "
        "to 1).",
        "| source | photos |",
        "| training images | 100 |",
        "| validation images | 20 |",
        "| split by seed | 0 |",
        "| validation MSE | 0.125000 |",
        "| test MSE | not measured |",
        "| mean validation PSNR, dB | 20.00 |",
        "| validation SSIM | not measured |",
        "| epochs | 3, the best one 2 |",
        f"| torch | {torch.__version__.partition('+')[0]}",
        f"    raycae export {study.folder} --format safetensors -o {file}",
        "No baseline was measured. ",
        "This trial has no sample pictures. ",
        f"    raycae report {format_study_argument(study.folder)}\n",
    ):
        assert line in card


@pytest.mark.parametrize(
    ("baselines", "rows", "sentences"),
    [
        (
            [("pca", 512, 0.25), ("pca_4x4", 1024, 0.0625), ("pca", 2048, 0.01)],
            ["| PCA, 4 × 4 blocks, 1,024 numbers | 0.062500 | 0.062500 |"],
            ["The validation error of the model is 0.50 times that of this PCA."],
        ),
        (
            [("pca", 512, 0.0)],
            ["| PCA, whole image, 512 numbers | 0.000000 | 0.000000 |"],
            ["The validation error of this PCA is 0."],
        ),
        (
            [("pca", 2048, 0.01)],
            [],
            ["No PCA of at most the latent size of the model was measured."],
        ),
        (
            [("grey_copy", None, 0.5), ("luma_function", None, 0.125)],
            ["| best function of luma | 0.125000 | 0.125000 |"],
            ["The validation error of the model is 0.25 times that of this baseline."],
        ),
    ],
)
def test_the_baseline_in_the_card(
    run: Run,
    tmp_path: Path,
    baselines: list[tuple[str, int | None, float]],
    rows: list[str],
    sentences: list[str],
) -> None:
    """Oracle: the quotients by hand, of an error of 1/32 with 1,024 numbers; the model's test
    error is 1/16. `made_study` writes equal validation and test errors of baselines."""
    trials = [Trial([0.03125], test_mse=0.0625)]
    folder = made_study(tmp_path / "made-up", trials, baselines=baselines)
    put_model(get_model_folder(folder, 0), {})
    file = tmp_path / "w.safetensors"
    assert run("export", folder, "--format", "safetensors", "-o", file)[0] == 0
    _, body = split_card((tmp_path / "w.safetensors.md").read_text())
    section = body.partition("## Baseline\n")[2].partition("\n## ")[0]
    for text in (*rows, *sentences, *(["| this model | 0.031250 | 0.062500 |"] if rows else [])):
        assert text in section


@pytest.mark.parametrize(("task", "n_rows"), [("reconstruct", 4), ("colourise", 4)])
def test_the_sample_picture_of_the_card(run: Run, tmp_path: Path, task: str, n_rows: int) -> None:
    """Oracle: the bytes of the study's sheet, the report's labels of its rows, and the link as a
    browser resolves it. The hub's header gives the test error and the PSNR of `made_studies`."""
    trials = [Trial([0.03125], settings={"task": task}, test_mse=0.0625)]
    folder = painted(made_study(tmp_path / "made-up", trials, task=task), 0, n_rows)
    put_model(get_model_folder(folder, 0), {"task": task})
    file = tmp_path / "a b)#.safetensors"
    code, out, _ = run("export", folder, "--format", "safetensors", "-o", file)
    assert code == 0
    picture = tmp_path / "a b)#.safetensors.png"
    assert out.splitlines()[1:] == [f"{file}.md", str(picture)]
    assert picture.read_bytes() == (folder / "pictures" / "0.png").read_bytes()
    header, body = split_card(Path(f"{file}.md").read_text())
    text, link = re.findall(r"!\[(.*)\]\((.*)\)", body)[0]
    assert unquote(link) == picture.name
    grey = "grey, " if task == "colourise" else ""
    assert text == f"Sample pictures in rows: original, {grey}output and difference × 4"
    assert "Each column is one test image" in body
    (model,) = header["model-index"]
    assert model["name"] == "made-up, trial 0"
    (result,) = model["results"]
    assert result["dataset"] == {"type": "imagefolder", "name": "photos of mine", "split": "test"}
    metrics = [(metric["type"], metric["value"]) for metric in result["metrics"]]
    assert metrics == [("mse", 0.0625), ("psnr", MEAN["psnr_db"])]
    assert "| 21.26 |" in body
    code, out, err = run("export", folder, "--format", "safetensors", "-o", tmp_path / "b")
    assert code == 0
    for name in ("b", "b.md"):
        (tmp_path / name).unlink()
    code, out, err = run("export", folder, "--format", "safetensors", "-o", tmp_path / "b")
    assert (code, out, (tmp_path / "b").exists()) == (2, "", False)
    assert "b.png: exists already and is not overwritten." in err


NAMES = st.text(st.characters(exclude_categories=[])) | st.sampled_from(
    [
        "null",
        "1e3",
        "- a",
        "a: b",
        "---",
        '"',
        "'",
        "<img src=x>",
        "\\<",
        "\n---\n",
        "\x85",
        "\u2028",
    ]
)


@given(study=NAMES, source=NAMES)
def test_no_name_breaks_the_header(study: str, source: str) -> None:
    """Oracle: PyYAML reads the names back; both are quoted, because YAML 1.2 reads more words as
    numbers than PyYAML does; no tag, and no border `---` that would end the header early."""
    name = PurePath(source).name
    header = write_header(study, resolve({}), {"data": {"source": source}}, {"test_mse": 0.5}, None)
    assert "<" not in header
    lines = header.encode("utf-8", errors="replace").decode().split("\n")
    assert [i for i, line in enumerate(lines) if line == "---"] == [0, len(lines) - 1]
    (model,) = yaml.safe_load(header.removeprefix("---\n").removesuffix("---"))["model-index"]
    assert model["name"] == study
    assert model["results"][0]["dataset"]["name"] == name
    assert header.count('name: "') == 2


def test_the_hub_knows_cifar10() -> None:
    """Oracle: the name of CIFAR-10 on https://huggingface.co/datasets; no license is invented."""
    content, row = {"data": {"source": "cifar10"}}, {"test_mse": 1 / 3}
    config = resolve({"task": "colourise"})
    text = write_header("ex3, trial 1", config, content, row, None)
    header, _ = split_card(f"{text}\n\n# Title\n")
    assert header["datasets"] == ["uoft-cs/cifar10"]
    assert header["tags"] == ["autoencoder", "image-colorization"]
    assert "license" not in header
    (result,) = header["model-index"][0]["results"]
    assert result["dataset"]["type"] == "uoft-cs/cifar10"
    assert result["metrics"] == [{"type": "mse", "value": 0.333333, "name": "Test MSE"}]


def test_a_studys_name_is_text(run: Run, study: Study, tmp_path: Path) -> None:
    """Oracle: Markdown's rules: what is not code would be HTML to whoever shows the page."""
    put_model(get_model_folder(study.folder, run_trial(study, 0.3, 0.2, 0.1)), {})
    study.close()
    named = tmp_path / "<script>alert(1)<"
    shutil.copytree(study.folder, named)
    content = json.loads((named / "study.json").read_text())
    (named / "study.json").write_text(json.dumps({**content, "study": "<img src=x>|\na"}))
    file = tmp_path / "w.safetensors"
    assert run("export", named, "--format", "safetensors", "-o", file)[0] == 0
    card = (tmp_path / "w.safetensors.md").read_text()
    lines = [line for line in card.splitlines() if not line.startswith("    ")]
    assert not [line for line in lines if "<script" in line or "<img" in line]
    assert "| study | &lt;img src=x&gt;\\| a |" in lines


def test_the_card_of_a_copy(run: Run, study: Study, tmp_path: Path) -> None:
    """Oracle: by hand; beside the trials' models may lie another one, of which the tables know
    nothing."""
    folder = put_model(study.folder / "models" / "mine", {})
    file = tmp_path / "w.safetensors"
    assert run("export", folder, "--format", "safetensors", "-o", file)[0] == 0
    card = (tmp_path / "w.safetensors.md").read_text()
    _, body = split_card(card)
    assert body.startswith("# mine: an autoencoder that reconstructs pictures\n")
    assert not any(f"## {title}" in card for title in ("Errors", "Baseline", "Sample pictures"))


def test_what_differs_is_not_written(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Oracle: a program that gives back what it is given, or no numbers, is not the model: one line
    that says by how much, exit code 2, no file."""
    folder = put_model(tmp_path / "m", {})
    monkeypatch.chdir(tmp_path)
    for program in (lambda rgb: rgb, lambda rgb: rgb * torch.nan):
        monkeypatch.setattr(cli_export, "write_pt2", lambda *_, program=program: (b"", program))
        code, out, err = run("export", folder, "--format", "pt2")
        assert (code, out, err.count("\n")) == (2, "", 1)
        says = (
            r"m\.pt2: not written\. Its pictures differ .* by (0\.\d+|nan); the limit is 0\.0001\."
        )
        assert re.search(says, err)
        assert list(tmp_path.iterdir()) == [folder]


def test_a_full_disk_leaves_nothing(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Oracle: the files of the folder. If the card cannot be written, the model is deleted again,
    and the command can be repeated."""
    folder = put_model(tmp_path / "m", {})
    monkeypatch.chdir(tmp_path)
    write_atomic = cli_export.write_atomic

    def fail(path: Path, content: bytes) -> None:
        if path.suffix == ".md":
            raise OSError(errno.ENOSPC, "No space left on device")
        write_atomic(path, content)

    with monkeypatch.context() as patch:
        patch.setattr(cli_export, "write_atomic", fail)
        with pytest.raises(OSError, match="No space left"):
            run("export", folder, "--format", "safetensors")
    assert list(tmp_path.iterdir()) == [folder]
    assert run("export", folder, "--format", "safetensors")[0] == 0


def test_onnx_is_an_extra(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Oracle: without the package one line says how to install it."""
    folder = put_model(tmp_path / "m", {})
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    code, out, err = run("export", folder, "--format", "onnx")
    assert (code, out) == (2, "")
    assert err == "raycae: --format onnx: onnxscript is missing; pip install 'raycae[onnx]'\n"
    assert list(tmp_path.iterdir()) == [folder]


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["m", "--format", "tflite"], "--format tflite: unknown. Use onnx, pt2 or safetensors."),
        (
            ["m", "--format", "pt2", "--part", "half"],
            "--part half: unknown. Use whole, encoder or dec",
        ),
        (["m", "--format", "safetensors", "--part", "encoder"], "Use --format onnx or pt2"),
        (["m", "--format", "pt2", "--latent", "64"], "m: no study has this name"),
        (["tiny/models/7", "--format", "pt2"], "trial 7 has no model. Trials of tiny"),
        (["m", "--format", "pt2", "-o", "none/a.pt2"], "Cannot write to 'none': none is missing."),
        (
            ["m", "--format", "pt2", "-o", "mine"],
            "mine: exists already and is not overwritten. Choose another place with -o.",
        ),
        (
            ["m", "--format", "pt2", "-o", "a"],
            "a.md: exists already and is not overwritten. Choose another place with -o.",
        ),
        (["broken", "--format", "pt2"], "model.safetensors does not match its checksum"),
    ],
)
def test_refused(
    run: Run,
    study: Study,
    tmp_path: Path,
    arguments: list[str],
    says: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Oracle: one line that names it, exit code 2; no file more, and none changed."""
    put_model(tmp_path / "m", {})
    (put_model(tmp_path / "broken", {}) / "model.safetensors").write_bytes(b"broken")
    for name in ("mine", "a.md"):
        (tmp_path / name).write_text(name)
    monkeypatch.chdir(tmp_path)
    before = sorted(tmp_path.rglob("*"))
    code, out, err = run("export", *arguments)
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert says in err
    assert sorted(tmp_path.rglob("*")) == before
    assert all((tmp_path / name).read_text() == name for name in ("mine", "a.md"))
