"""`raycae predict`: image files in, image files out; what is refused before anything is written."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from conftest import Run, run_trial
from models import NETWORKS, put_model
from PIL import Image
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

import raycae
from raycae.cli.predict import GAP, HEADING, compare_pictures
from raycae.study.artifacts import get_model_folder
from raycae.study.study import Study

RECORDED = Path(__file__).resolve().parents[2] / "analysis" / "recorded" / "curves" / "ex3"


def photograph(width: int, height: int) -> Image.Image:
    """Colours that run into each other, so that what a JPEG makes of it is near."""
    x, y = np.meshgrid(np.linspace(0, 255, width), np.linspace(0, 255, height))
    return Image.fromarray(np.stack([x, y, 255 - x], -1).astype(np.uint8))


@pytest.fixture
def image(tmp_path: Path) -> Path:
    photograph(47, 33).save(tmp_path / "cat.png")
    return tmp_path / "cat.png"


@pytest.mark.parametrize("name", ["base", "grey", "colour"])
def test_from_file_to_file(run: Run, tmp_path: Path, image: Path, name: str) -> None:
    """Oracle: `raycae.load(…).paint` of the same pixels, of which PNG loses nothing; the sheet has
    the columns and rows that its cells add up to."""
    folder = put_model(tmp_path / "m", NETWORKS[name])
    other = tmp_path / "dog.jpg"
    photograph(64, 96).save(other)
    out = tmp_path / "new" / "out"
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # The one about large latents is for Python.
        code, said, err = run("predict", folder, image, other, "-o", out)
    assert (code, err) == (0, "")
    files = [out / "cat.png", out / "dog.png", out / "sheet.png"]
    assert said.splitlines()[:-3] == [str(file) for file in files]
    assert sorted(out.iterdir()) == files
    for given, file in zip((image, other), files, strict=False):
        expected = raycae.load(folder).run(Image.open(given))
        np.testing.assert_array_equal(np.asarray(Image.open(file)), np.asarray(expected))
    # 47 x 33 eight times as large, 64 x 96 four times.
    columns = 2 if name == "base" else 3
    width = columns * (376 + GAP) + GAP
    height = HEADING + 264 + 384 + 2 * GAP
    assert Image.open(files[2]).size == (width, height)


@pytest.mark.parametrize("name", ["base", "grey", "large kernels"])
def test_quality_and_compression(run: Run, tmp_path: Path, image: Path, name: str) -> None:
    """Oracle: scikit-image on the files; bytes by hand: three or one per pixel of 33 x 47 and
    64 x 96, and four per number of the latents, as many as `encode` returns. Without a stride, by
    hand: 2 x 2 and 5 x 3 tiles of 32 pixels that overlap by half or more."""
    folder = put_model(tmp_path / "m", NETWORKS[name])
    ready = raycae.load(folder)
    other = tmp_path / "dog.png"
    photograph(64, 96).save(other)
    code, said, _ = run("predict", folder, image, other, "-o", tmp_path / "out")
    assert code == 0
    quality, latent, compression = said.splitlines()[-3:]
    pairs = [
        [np.asarray(Image.open(path)) for path in (given, tmp_path / "out" / given.name)]
        for given in (image, other)
    ]
    psnr = np.mean([peak_signal_noise_ratio(*pair) for pair in pairs])
    ssim = np.mean([structural_similarity(*pair, channel_axis=-1) for pair in pairs])
    assert quality == f"PSNR {psnr:.2f} dB, SSIM {ssim:.3f} (means of 2 images)"
    n_bytes = (33 * 47 + 64 * 96) * (3 if ready.config.task == "reconstruct" else 1)
    own = ready.encode(np.zeros((32, 32, 3), np.uint8)).size
    if ready.stride:
        counts = [ready.encode(Image.open(path)).size for path in (image, other)]
        how = f"{own:,} for 32 x 32, the training size"
    else:
        counts = [2 * 2 * own, 5 * 3 * own]
        how = f"{own:,} for each tile of 32 x 32; the tiles overlap"
    n_values = sum(counts)
    first, second = (f"{n:,} numbers" for n in counts)
    assert latent == f"latent: {first} for 47 x 33 pixels and {second} for 64 x 96 pixels ({how})"
    note = ". The latents are larger than the pixels" if 4 * n_values > n_bytes else ""
    kind = "8-bit RGB" if ready.config.task == "reconstruct" else "8-bit grey"
    assert compression == (
        f"compression ratio {n_bytes / n_values / 4:.2f}: {n_bytes:,} bytes of pixels ({kind}) to "
        f"{4 * n_values:,} bytes of latents (float32){note}"
    )


@pytest.mark.parametrize("height", [7, 256, 257, 261, 262, 263, 518, 700])
def test_pictures_are_compared_in_strips(height: int) -> None:
    """Oracle: scikit-image, on the whole pictures; strips are 256 pixels high, windows 7."""
    draw = np.random.default_rng(height)
    original = draw.integers(0, 256, (height, 9, 3), dtype=np.uint8)
    noise = draw.integers(-40, 41, original.shape) * np.linspace(0, 1, height)[:, None, None]
    output = np.clip(original + noise, 0, 255).astype(np.uint8)
    psnr_db, ssim = compare_pictures(original, output)
    assert psnr_db == pytest.approx(peak_signal_noise_ratio(original, output), abs=1e-4)
    assert ssim == pytest.approx(structural_similarity(original, output, channel_axis=-1), abs=1e-5)


def test_latent_sizes_of_many_images(run: Run, tmp_path: Path) -> None:
    """Oracle: by hand. Four sizes are a range, of 16 numbers per block of 4 x 4 pixels; images of
    the training size have the latent size of the model."""
    folder, images = put_model(tmp_path / "m", {}), []
    for width in (32, 64, 96, 128):
        images.append(tmp_path / f"{width}.png")
        photograph(width, 32).save(images[-1])
    _, said, _ = run("predict", folder, *images, "-o", tmp_path / "out")
    expected = "latent: 1,024 to 4,096 numbers per image (1,024 for 32 x 32, the training size)"
    assert said.splitlines()[-2] == expected
    _, said, _ = run("predict", folder, images[0], "-o", tmp_path / "one")
    assert said.splitlines()[-2] == "latent: 1,024 numbers for 32 x 32 pixels"


def test_a_smaller_model_is_advised_only_if_there_is_one(
    run: Run, study: Study, tmp_path: Path, image: Path
) -> None:
    """Oracle: the study, which has models of 1,024 and 256 numbers. `--latent` finds the small one,
    but the advice does not help if the option was given, or if MODEL is one model or the smallest.
    """
    best, small = run_trial(study, 0.3, 0.1, 0.1), run_trial(study, 0.3, 0.2, 0.2)
    put_model(get_model_folder(study.folder, best), {})
    study.close()
    command = ("predict", study.folder, image, "-o")
    note = ". The latents are larger than the pixels"
    assert run(*command, tmp_path / "a")[1].endswith(f"{note}\n")
    put_model(get_model_folder(study.folder, small), {"latent_channels": 4})
    table = pq.read_table(study.folder / "trials.parquet")
    place = table.column_names.index("latent_size")
    sizes = pa.array([1024, 256], table.schema.field(place).type)
    pq.write_table(
        table.set_column(place, table.schema.field(place), sizes), study.folder / "trials.parquet"
    )
    advice = "; --latent N with N below 1,024 chooses a smaller model"
    assert run(*command, tmp_path / "b")[1].endswith(f"{note}{advice}\n")
    assert run(*command, tmp_path / "c", "--latent", 1023)[1].endswith("latents (float32)\n")
    assert run(*command, tmp_path / "d", "--latent", 1024)[1].endswith(f"{note}\n")
    model = study.folder / "models" / str(best)
    assert run("predict", model, image, "-o", tmp_path / "e")[1].endswith(f"{note}\n")


def test_a_model_by_its_latent_size(run: Run, study: Study, tmp_path: Path, image: Path) -> None:
    """Oracle: the study: the best model of at most that many numbers; the sizes that there are."""
    put_model(get_model_folder(study.folder, run_trial(study, 0.3, 0.125, 0.2)), {})
    study.close()
    command = ("predict", study.folder, image, "-o")
    assert run(*command, tmp_path / "a", "--latent", 1024)[0] == 0
    code, _, err = run(*command, tmp_path / "b", "--latent", 1000)
    assert (code, err.count("\n"), (tmp_path / "b").exists()) == (2, 1, False)
    assert "Their latent sizes are 1,024." in err


def test_the_sheet_shows_what_went_in_and_came_out(run: Run, tmp_path: Path, image: Path) -> None:
    """Oracle: the pixels of the files, each of them eight times as large; grey is Pillow's."""
    folder = put_model(tmp_path / "m", NETWORKS["grey"])
    assert run("predict", folder, image, "-o", tmp_path / "out")[0] == 0
    sheet = np.asarray(Image.open(tmp_path / "out" / "sheet.png")).astype(int)
    painted = Image.open(tmp_path / "out" / "cat.png")
    original = Image.open(image)
    for column, shown in enumerate((original, original.convert("L").convert("RGB"), painted)):
        left = GAP + column * (376 + GAP) + 4
        cut = sheet[HEADING + 4 :: 8, left::8][:33, :47]
        np.testing.assert_array_equal(cut, np.asarray(shown))


def test_latents(run: Run, tmp_path: Path, image: Path) -> None:
    """Oracle: `encode`; a row an image, 33 x 47 being 9 x 12 blocks of 4 pixels."""
    folder = put_model(tmp_path / "m", {})
    out = tmp_path / "out"
    assert run("predict", folder, image, "-o", out, "--latents")[0] == 0
    (row,) = pq.read_table(out / "latents.parquet").to_pylist()
    assert (row["file"], row["shape"]) == (str(image), [16, 9, 12])
    expected = raycae.load(folder).encode(Image.open(image))
    np.testing.assert_array_equal(np.float32(row["latent"]).reshape(row["shape"]), expected)


def as_rotated(path: Path) -> np.ndarray:
    picture, exif = photograph(20, 12), Image.Exif()
    exif[0x0112] = 6  # to be turned by a quarter, clockwise
    picture.save(path, exif=exif)
    return np.rot90(np.asarray(picture), -1)


def as_palette(path: Path) -> np.ndarray:
    picture = photograph(20, 12).quantize(16)
    picture.save(path)
    return np.asarray(picture.convert("RGB"))


def as_16_bits(path: Path) -> np.ndarray:
    grey = np.asarray(photograph(20, 12).convert("L"))
    Image.fromarray(grey.astype(np.uint16) * 257).save(path)
    return np.stack([grey] * 3, -1)


def as_transparent(path: Path) -> np.ndarray:
    Image.new("RGBA", (20, 12), (255, 0, 0, 0)).save(path)
    return np.full((12, 20, 3), 255, np.uint8)


@pytest.mark.parametrize("put", [as_rotated, as_palette, as_16_bits, as_transparent])
def test_files_of_every_kind(run: Run, tmp_path: Path, put: Callable[[Path], np.ndarray]) -> None:
    """Oracle: the pixels that a person sees, as an array."""
    folder, image = put_model(tmp_path / "m", {}), tmp_path / "a.png"
    seen = put(image)
    assert run("predict", folder, image, "-o", tmp_path / "out")[0] == 0
    expected = raycae.load(folder).reconstruct(seen)
    np.testing.assert_array_equal(np.asarray(Image.open(tmp_path / "out" / "a.png")), expected)


def test_the_class_is_told(run: Run, tmp_path: Path, image: Path) -> None:
    """Oracle: `colourise` with that label; without it one message and no folder."""
    folder, out = put_model(tmp_path / "m", NETWORKS["classes"]), tmp_path / "out"
    code, _, err = run("predict", folder, image, "-o", out)
    assert (code, out.exists()) == (2, False)
    assert err == (
        "raycae: labels: none given; this model needs the class of each image, from 0 to 2\n"
    )
    assert run("predict", folder, image, "-o", out, "--label", 2)[0] == 0
    expected = raycae.load(folder).colourise(Image.open(image), 2)
    np.testing.assert_array_equal(np.asarray(Image.open(out / "cat.png")), np.asarray(expected))


def cut_short(folder: Path) -> list[Any]:
    whole = folder / "whole.jpg"
    photograph(90, 90).save(whole)
    (folder / "cut.jpg").write_bytes(whole.read_bytes()[:-500])
    return [folder / "cut.jpg"]


def no_image(folder: Path) -> list[Any]:
    (folder / "text.png").write_text("no image")
    return [folder / "text.png"]


def same_name(folder: Path) -> list[Any]:
    (folder / "b").mkdir()
    photograph(9, 9).save(folder / "b" / "cat.jpg")
    return [folder / "b" / "cat.jpg"]


def called_sheet(folder: Path) -> list[Any]:
    photograph(9, 9).save(folder / "sheet.jpg")
    return [folder / "sheet.jpg"]


@pytest.mark.parametrize(
    ("further", "says"),
    [
        (cut_short, "cut.jpg: damaged or not supported"),
        (no_image, "text.png: damaged, or of another format than"),
        (lambda folder: [folder], "a folder, a device or a pipe; it must be a file"),
        (lambda folder: [folder / "none.png"], "none.png: cannot be read: No such file"),
        (same_name, "cat.png: 2 files would have this name"),
        (called_sheet, "sheet.png: 2 files would have this name"),
        (lambda folder: ["--label", "1"], "labels: 1: this model does not use classes"),
    ],
)
def test_wrong_images(
    run: Run, tmp_path: Path, image: Path, further: Callable[[Path], list[Any]], says: str
) -> None:
    """Oracle: one line that names the file, exit code 2; no picture of the good image either."""
    folder, out = put_model(tmp_path / "m", {}), tmp_path / "out"
    code, said, err = run("predict", folder, image, *further(tmp_path), "-o", out)
    assert (code, said, err.count("\n")) == (2, "", 1)
    assert says in err
    assert not out.exists()


def test_latents_that_cannot_be_had_leave_nothing(run: Run, tmp_path: Path, image: Path) -> None:
    """Oracle: the folder. The second image is of another size than the model's only one."""
    folder = put_model(tmp_path / "m", NETWORKS["colour"])
    photograph(32, 32).save(tmp_path / "fits.png")
    out = tmp_path / "out"
    code, said, err = run("predict", folder, tmp_path / "fits.png", image, "-o", out, "--latents")
    assert (code, said) == (2, "")
    assert err == (
        f"raycae: --latents: {image} has 47 x 33 pixels, and this model encodes only images of "
        "32 x 32 pixels. Leave out --latents, or cut the centre square of each image and resize it "
        "to 32 x 32, as for training.\n"
    )
    assert not out.exists()


def test_nothing_is_overwritten(run: Run, tmp_path: Path, image: Path) -> None:
    """Oracle: the file has its old content, and there is no other one beside it."""
    folder, out = put_model(tmp_path / "m", {}), tmp_path / "out"
    out.mkdir()
    (out / "sheet.png").write_text("mine")
    code, _, err = run("predict", folder, image, "-o", out)
    assert code == 2
    assert err.startswith(f"raycae: {out / 'sheet.png'}: exists already")
    assert [file.read_text() for file in out.iterdir()] == ["mine"]


def test_where_no_folder_can_be(run: Run, tmp_path: Path, image: Path) -> None:
    """Oracle: one line, exit code 2, where a file stands in the way, and for latents that there
    are not."""
    folder = put_model(tmp_path / "m", NETWORKS["odd size"])
    code, _, err = run("predict", folder, image, "-o", image / "out")
    assert (code, err.count("\n")) == (2, 1)
    assert f"{image} is not a folder." in err
    code, _, err = run("predict", folder, image, "-o", tmp_path / "out", "--latents")
    assert (code, err.count("\n")) == (2, 1)
    assert "--latents: " in err
    assert "has 47 x 33 pixels, and this model encodes only images of 30 x 30 pixels" in err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("model", "says"),
    [
        ("nowhere", "nowhere: no study has this name or path"),
        (RECORDED, "ex3: this study has no model yet"),
    ],
)
def test_no_model(run: Run, tmp_path: Path, image: Path, model: Any, says: str) -> None:
    """Oracle: one line that names it, exit code 2, nothing written."""
    code, _, err = run("predict", model, image, "-o", tmp_path / "out")
    assert (code, err.count("\n")) == (2, 1)
    assert says in err
    assert not (tmp_path / "out").exists()
