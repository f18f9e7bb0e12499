"""Tests of raycae.data. Each docstring says what the result is held against."""

from __future__ import annotations

import hashlib
import io
import pickle
import re
import subprocess
import sys
import tarfile
import threading
import warnings
import zlib
from collections.abc import Callable, Iterator, Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from raycae import data
from raycae.data import cifar10, decoding, folders, loading, membership, photos
from raycae.errors import InputError

# These tests also call the decoder directly, outside the threads that silence this.
pytestmark = pytest.mark.filterwarnings("ignore:The image decoding:DeprecationWarning")

REAL_JPEGS = Path(__file__).resolve().parents[3] / "shared" / "data" / "cifar10-jpeg"
needs_real_jpegs = pytest.mark.skipif(
    not REAL_JPEGS.is_dir(), reason="no shared/data/cifar10-jpeg beside the repository"
)


def colour(number: int) -> tuple[int, int, int]:
    """A colour of its own for every number, to tell images apart."""
    return (number * 37 % 256, number // 256, 255 - number % 256)


def tile(number: int, size: int = 32) -> Image.Image:
    return Image.new("RGB", (size, size), colour(number))


def numbers_in(images: np.ndarray, count: int) -> list[int]:
    """Which numbers the one-coloured images were made from."""
    known = {colour(number): number for number in range(count)}
    return [known[tuple(image[0, 0].tolist())] for image in images]


def encoded(image: Image.Image, format: str = "PNG", **options: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, format, **options)
    return file.getvalue()


def put_images(folder: Path, numbers: range, suffix: str = ".png") -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for number in numbers:
        tile(number).save(folder / f"{number:05}{suffix}")


def put_parquet(
    file: Path,
    blobs: list[bytes | None],
    column: str = "img",
    row_group_size: int = 7,
    labels: Sequence[object] | None = None,
) -> None:
    """`labels`: the column of that name; the row's number if not given."""
    rows = [{"bytes": blob, "path": None} for blob in blobs]
    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    numbers = list(range(len(rows)) if labels is None else labels)
    table = pa.table({"label": numbers, column: pa.array(rows, kind)})
    pq.write_table(table, file, row_group_size=row_group_size)


def tiles(numbers: range) -> list[bytes | None]:
    return [encoded(tile(number)) for number in numbers]


def folder_with(tmp_path: Path, image: bytes, name: str = "aaa.png") -> Path:
    """Twenty good images and the one given, all of which `load` takes as the limit is open."""
    put_images(tmp_path / "train", range(20))
    put_images(tmp_path / "test", range(20, 22))
    (tmp_path / "train" / name).write_bytes(image)
    return tmp_path


def decoded(image: bytes, size: int = 32) -> np.ndarray:
    return decoding.decode(image, "the image", size)[0]


# --- splits ---------------------------------------------------------------------------------------


@settings(deadline=None)
@given(
    count=st.integers(18, 3000),
    limit=st.none() | st.integers(16, 4000),
    seed=st.integers(0, 2**32),
    own_validation=st.none() | st.integers(1, 500),
    own_test=st.booleans(),
)
def test_splits_are_disjoint_and_of_the_promised_sizes(
    count: int, limit: int | None, seed: int, own_validation: int | None, own_test: bool
) -> None:
    """The rules of `split_indices`, written again as arithmetic on sizes and sets."""
    split = data.split_indices(
        count, own_validation=own_validation, own_test=own_test, limit=limit, seed=seed
    )
    unlimited = data.split_indices(
        count, own_validation=own_validation, own_test=own_test, limit=None, seed=seed
    )
    assert np.array_equal(split.test, unlimited.test)
    assert len(split.test) == (0 if own_test else count // 10)
    left = count - len(split.test) + (own_validation or 0)
    total = left if limit is None else min(limit, left)
    assert len(split.train) + len(split.validation) == total
    assert len(split.train) > 0
    assert len(split.validation) > 0
    parts = [split.train, split.test]
    if own_validation is None:
        parts.append(split.validation)
        assert len(split.validation) == total // (8 if own_test else 9)
    else:
        assert len(set(split.validation.tolist())) == len(split.validation)
        assert set(split.validation.tolist()) <= set(range(own_validation))
    together = np.concatenate(parts).tolist()
    assert len(set(together)) == len(together)
    assert set(together) <= set(range(count))


def test_cifar10_divides_as_documented() -> None:
    """The sizes in the documentation: 43,750 and 6,250 of 50,000."""
    split = data.split_indices(50_000, own_test=True, limit=None, seed=0)
    assert (len(split.train), len(split.validation), len(split.test)) == (43_750, 6_250, 0)


def test_the_split_is_the_documented_permutation() -> None:
    """NumPy's PCG64 permutation, limited, its first eighth for validation."""
    order = np.random.Generator(np.random.PCG64(5)).permutation(100)
    split = data.split_indices(100, own_test=True, limit=40, seed=5)
    assert np.array_equal(split.validation, order[:5])
    assert np.array_equal(split.train, order[5:40])


@pytest.mark.parametrize(
    ("count", "limit", "own_validation"),
    [
        (15, None, None),
        (100, 15, None),
        (100, 0, None),
        (100, -1, None),
        (0, None, 50),
        (50, 20, 0),
    ],
)
def test_too_few_images_are_refused(
    count: int, limit: int | None, own_validation: int | None
) -> None:
    """The message names how many there are and the least needed, 16."""
    with pytest.raises(InputError, match=rf"there are {count}\b.*at least 16"):
        data.split_indices(count, own_validation=own_validation, own_test=True, limit=limit, seed=0)


# --- names ----------------------------------------------------------------------------------------


def test_every_image_has_a_stable_name(tmp_path: Path) -> None:
    """Names written by hand from the files put there; photo names are unique and tell the crop."""
    put_images(tmp_path / "files" / "train" / "cat", range(2))
    put_images(tmp_path / "files" / "test", range(3, 4))
    pools = loading.open_source(str(tmp_path / "files"))
    assert pools.train.names() == ["train/cat/00000.png", "train/cat/00001.png"]
    assert pools.test is not None
    assert pools.test.names() == ["test/00003.png"]
    (tmp_path / "rows").mkdir()
    put_parquet(tmp_path / "rows" / "train-0.parquet", tiles(range(2)))
    put_parquet(tmp_path / "rows" / "train-1.parquet", tiles(range(1)))
    rows = loading.open_source(str(tmp_path / "rows")).train.names()
    assert rows == ["train-0.parquet#0", "train-0.parquet#1", "train-1.parquet#0"]
    crops = loading.open_source("photos").train
    assert len(set(crops.names())) == len(crops)
    first = data.photo_crops("train")[0]
    assert crops.names()[0] == f"{first.photo}#{first.left},{first.top},{first.side}"


# --- photos ---------------------------------------------------------------------------------------


def test_photos_are_a_few_thousand_divided_80_10_10() -> None:
    """The sizes asked of the source: 3,000 to 4,000 crops, about 80/10/10 percent."""
    images, test = data.load("photos"), data.load_test("photos")
    sizes = np.array([len(images.train), len(images.val), len(test)])
    assert 3000 <= sizes.sum() <= 4000
    assert np.abs(sizes / sizes.sum() - [0.8, 0.1, 0.1]).max() < 0.03
    assert images.train.shape[1:] == images.val.shape[1:] == test.shape[1:] == (32, 32, 3)
    assert images.train.dtype == images.val.dtype == test.dtype == np.uint8


def test_no_pixel_of_a_photo_is_seen_by_two_splits() -> None:
    """Geometry: paint every crop onto a map of its photo; the maps of two splits never overlap."""
    painted = {}
    for split in ("train", "validation", "test"):
        maps = {name: np.zeros((2000, 2000), bool) for name in data.PHOTOS}
        for crop in data.photo_crops(split):
            left, top, right, bottom = crop.box
            maps[crop.photo][top:bottom, left:right] = True
        painted[split] = maps
    for name in data.PHOTOS:
        for one, other in combinations(painted.values(), 2):
            assert not (one[name] & other[name]).any()
        assert all(maps[name].any() for maps in painted.values())


def test_a_crop_lies_inside_its_photo() -> None:
    """The photo's own width and height."""
    for name in data.PHOTOS:
        with Image.open(photos._find_photo(name)) as image:
            width, height = image.size
        for split in ("train", "validation", "test"):
            for crop in data.photo_crops(split):
                if crop.photo == name:
                    left, top, right, bottom = crop.box
                    assert 0 <= left < right <= width
                    assert 0 <= top < bottom <= height


def test_a_crop_shows_nothing_outside_its_box(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A photo painted white wherever training looks: the training crops are all white."""
    crops = data.photo_crops("train")
    painted = {name: np.zeros((2000, 2000, 3), np.uint8) for name in data.PHOTOS}
    for crop in crops:
        left, top, right, bottom = crop.box
        painted[crop.photo][top:bottom, left:right] = 255
    for name, pixels in painted.items():
        with Image.open(photos._find_photo(name)) as image:
            width, height = image.size
        Image.fromarray(pixels[:height, :width]).save(tmp_path / name, "PNG", compress_level=1)
    monkeypatch.setattr(photos, "_find_photo", lambda name: tmp_path / name)
    taken, every = np.empty((len(crops), 24, 24, 3), np.uint8), np.arange(len(crops))
    photos.PhotoCrops("train").decode_into(taken, every, every)
    assert taken.min() == 255


def test_a_seed_reorders_the_training_photos_and_changes_no_split() -> None:
    """Equal sets of training images, equal validation and test arrays, another order."""
    one, other = data.load("photos", seed=1), data.load("photos", seed=2)
    assert not np.array_equal(one.train, other.train)
    assert sorted(map(bytes, one.train)) == sorted(map(bytes, other.train))
    assert np.array_equal(one.val, other.val)
    assert np.array_equal(data.load_test("photos", seed=1), data.load_test("photos", seed=2))


@pytest.mark.parametrize("size", [16, 64])
def test_photos_come_in_other_sizes(size: int) -> None:
    """The shape asked for, and a limit shared out between training and validation."""
    images = data.load("photos", image_size=size, limit=100)
    assert images.train.shape[1:] == images.val.shape[1:] == (size, size, 3)
    assert len(images.train) + len(images.val) == 100
    assert 8 <= len(images.val) <= 16


def test_photos_are_in_colour() -> None:
    """Grey images have three equal channels; most crops do not."""
    train = data.load("photos", limit=500).train.astype(int)
    assert (np.abs(train[..., 0] - train[..., 2]).mean(axis=(1, 2)) > 5).mean() > 0.8


# --- determinism ----------------------------------------------------------------------------------


def test_the_same_call_gives_the_same_images(tmp_path: Path) -> None:
    """Two calls agree to the byte; another seed gives another fingerprint."""
    put_images(tmp_path, range(40))
    one, again = data.load(str(tmp_path), seed=3), data.load(str(tmp_path), seed=3)
    assert np.array_equal(one.train, again.train)
    assert np.array_equal(one.val, again.val)
    assert one.fingerprint == again.fingerprint
    assert one.fingerprint != data.load(str(tmp_path), seed=4).fingerprint


def test_the_fingerprint_sees_pixels_order_shape_and_the_border_between_splits() -> None:
    """Each change to the arrays changes the hash."""
    a = np.arange(4 * 4 * 4 * 3, dtype=np.uint8).reshape(4, 4, 4, 3)
    prints = [
        membership.compute_fingerprint(a, a[:2]),
        membership.compute_fingerprint(a[::-1], a[:2]),
        membership.compute_fingerprint(a + 1, a[:2]),
        membership.compute_fingerprint(a[:3], np.concatenate([a[3:], a[:2]])),
        membership.compute_fingerprint(a.reshape(1, 8, 8, 3), a[:2]),
    ]
    assert len(set(prints)) == len(prints)
    assert all(len(text) == 16 and int(text, 16) >= 0 for text in prints)


# --- folders of images ----------------------------------------------------------------------------


def layouts() -> dict[str, Callable[[Path], None]]:
    def flat(at: Path) -> None:
        put_images(at, range(50))

    def classes(at: Path) -> None:
        put_images(at / "cat", range(25))
        put_images(at / "dog", range(25, 50))

    def train_only(at: Path) -> None:
        put_images(at / "train" / "cat", range(25))
        put_images(at / "train" / "dog", range(25, 50))

    return {"flat": flat, "classes": classes, "train only": train_only}


@pytest.mark.parametrize("layout", layouts())
def test_a_folder_without_a_test_is_divided_80_10_10(tmp_path: Path, layout: str) -> None:
    """Each of the 50 colours turns up once, in one of three splits of 40, 5 and 5."""
    layouts()[layout](tmp_path)
    images = data.load(str(tmp_path), seed=7)
    test = data.load_test(str(tmp_path), seed=7)
    assert (len(images.train), len(images.val), len(test)) == (40, 5, 5)
    together = np.concatenate([images.train, images.val, test])
    assert sorted(numbers_in(together, 50)) == list(range(50))


@pytest.mark.parametrize("classes", [True, False])
@pytest.mark.parametrize("names", [("train", "test"), ("Train", "TEST"), ("training", "eval")])
def test_a_folder_with_a_test_keeps_it(
    tmp_path: Path, names: tuple[str, str], classes: bool
) -> None:
    """Colours 0 to 31 are training images, an eighth of them validation; 32 to 39 the test."""
    train, test = names
    put_images(tmp_path / train / ("cat" if classes else ""), range(32))
    put_images(tmp_path / test / ("cat" if classes else ""), range(32, 40))
    images = data.load(str(tmp_path))
    assert (len(images.train), len(images.val)) == (28, 4)
    assert sorted(numbers_in(np.concatenate([images.train, images.val]), 40)) == list(range(32))
    assert numbers_in(data.load_test(str(tmp_path)), 40) == list(range(32, 40))


def test_a_folder_with_a_validation_folder_keeps_it(tmp_path: Path) -> None:
    """Validation is colours 40 to 49 in order, all of it; train and test divide 0 to 39."""
    put_images(tmp_path / "train", range(40))
    put_images(tmp_path / "val", range(40, 50))
    images = data.load(str(tmp_path))
    assert numbers_in(images.val, 50) == list(range(40, 50))
    rest = np.concatenate([images.train, data.load_test(str(tmp_path))])
    assert sorted(numbers_in(rest, 50)) == list(range(40))


def test_other_files_are_ignored(tmp_path: Path) -> None:
    """Twenty images and five other things: twenty images loaded, whatever the suffix's case."""
    put_images(tmp_path, range(10), ".png")
    put_images(tmp_path, range(10, 20), ".BMP")
    (tmp_path / "README.txt").write_text("not an image")
    (tmp_path / ".DS_Store").write_bytes(b"\0")
    (tmp_path / "._00001.png").write_bytes(b"\0")
    (tmp_path / "empty folder").mkdir()
    put_images(tmp_path / ".hidden", range(5))
    images, test = data.load(str(tmp_path)), data.load_test(str(tmp_path))
    assert len(images.train) + len(images.val) + len(test) == 20


@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP", "BMP", "TIFF", "GIF"])
def test_every_format_is_read(format: str) -> None:
    """The colour that was saved, within what lossy formats may change."""
    pixels = decoded(encoded(Image.new("RGB", (50, 40), (200, 100, 50)), format))
    assert pixels.shape == (32, 32, 3)
    assert np.abs(pixels.astype(int) - [200, 100, 50]).max() <= 6


def test_a_limit_decodes_only_the_images_it_chooses(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Count the calls of the decoder: as many as the limit, and the tenth that is the test."""
    put_images(tmp_path, range(60))
    calls = []
    decode = folders.decode
    monkeypatch.setattr(folders, "decode", lambda *args: (calls.append(1), decode(*args))[1])
    images = data.load(str(tmp_path), limit=20)
    assert len(images.train) + len(images.val) == 20
    assert len(calls) == 20 + len(images.test) == 26


def test_a_limit_above_the_size_means_all(tmp_path: Path) -> None:
    """The images without a limit."""
    put_images(tmp_path, range(30))
    limited = data.load(str(tmp_path), limit=10**9)
    assert limited.fingerprint == data.load(str(tmp_path)).fingerprint


def test_the_test_stays_apart_whatever_the_limit(tmp_path: Path) -> None:
    """No test colour among training and validation, for every limit."""
    put_images(tmp_path, range(40))
    test = set(numbers_in(data.load_test(str(tmp_path), seed=2), 40))
    for limit in (16, 25, 36, 40, 99):
        images = data.load(str(tmp_path), seed=2, limit=limit)
        seen = numbers_in(np.concatenate([images.train, images.val]), 40)
        assert not test & set(seen)


# --- colours and sizes ----------------------------------------------------------------------------


def test_the_middle_of_an_oblong_image_is_kept() -> None:
    """Red, green and blue squares side by side: either way up, only the green one is left
    (three pixels from its border, where the smoothing of the resize ends).
    """
    wide = np.zeros((64, 192, 3), np.uint8)
    for band in range(3):
        wide[:, band * 64 : (band + 1) * 64, band] = 255
    for pixels in (wide, wide.transpose(1, 0, 2)):
        middle = decoded(encoded(Image.fromarray(pixels)))[3:-3, 3:-3]
        assert (middle == [0, 255, 0]).all()


def test_resizing_smooths() -> None:
    """A checkerboard of single pixels becomes even grey; picking pixels would not."""
    board = np.indices((256, 256)).sum(axis=0) % 2 * 255
    pixels = decoded(encoded(Image.fromarray(board.astype(np.uint8))))
    assert np.abs(pixels[4:-4, 4:-4].astype(int) - 127).max() <= 2


def modes() -> dict[str, tuple[bytes, tuple[int, int, int]]]:
    """Encoded images of every mode, and the colour a person sees in them."""
    rgb = Image.new("RGB", (40, 40), (200, 100, 50))
    deep = Image.fromarray(np.full((40, 40), 200 * 257, np.uint16))
    signed = Image.fromarray(np.full((40, 40), 200 * 257, np.int32))
    clear_palette = encoded(rgb.quantize(4), transparency=0)
    grey_key = encoded(Image.new("L", (40, 40), 7), transparency=7)
    return {
        "1": (encoded(Image.new("1", (40, 40), 1)), (255, 255, 255)),
        "L": (encoded(Image.new("L", (40, 40), 90)), (90, 90, 90)),
        "LA": (encoded(Image.new("LA", (40, 40), (0, 0))), (255, 255, 255)),
        "P": (encoded(rgb.quantize(4)), (200, 100, 50)),
        "P, transparent": (clear_palette, (255, 255, 255)),
        "L, transparent": (grey_key, (255, 255, 255)),
        "RGBA, clear": (encoded(Image.new("RGBA", (40, 40), (9, 9, 9, 0))), (255, 255, 255)),
        "RGBA, half": (encoded(Image.new("RGBA", (40, 40), (0, 0, 0, 128))), (127, 127, 127)),
        "CMYK": (encoded(Image.new("CMYK", (40, 40), (0, 255, 255, 0)), "TIFF"), (255, 0, 0)),
        "CMYK, JPEG": (encoded(Image.new("CMYK", (32, 32), (0, 255, 255, 0)), "JPEG"), (255, 0, 0)),
        "I;16": (encoded(deep), (200, 200, 200)),
        "I;16, TIFF": (encoded(deep, "TIFF"), (200, 200, 200)),
        "I": (encoded(signed, "TIFF"), (200, 200, 200)),
        "YCbCr": (encoded(rgb.convert("YCbCr"), "TIFF"), (200, 100, 50)),
        "L, JPEG": (encoded(Image.new("L", (32, 32), 90), "JPEG"), (90, 90, 90)),
    }


@pytest.mark.parametrize("mode", modes())
def test_every_mode_becomes_rgb(mode: str) -> None:
    """The colour a person sees: clear parts on white paper, 16 bits scaled to 8."""
    image, seen = modes()[mode]
    pixels = decoded(image)
    assert pixels.shape == (32, 32, 3)
    assert np.abs(pixels.astype(int) - seen).max() <= 3


def test_an_animation_gives_its_first_frame() -> None:
    """The colour of the first of two frames."""
    frames = [Image.new("RGB", (40, 40), shade) for shade in ("red", "blue")]
    image = encoded(frames[0], "GIF", save_all=True, append_images=frames[1:])
    assert (decoded(image) == [255, 0, 0]).all()


@pytest.mark.parametrize("format", ["JPEG", "PNG"])
@pytest.mark.parametrize("size", [32, 80])
def test_an_exif_rotation_is_applied(format: str, size: int) -> None:
    """Orientation 6, a quarter turn clockwise: what is at the left of the file is on top."""
    pixels = np.zeros((size, size, 3), np.uint8)
    pixels[:, : size // 2] = 255
    exif = Image.Exif()
    exif[0x0112] = 6
    turned = decoded(encoded(Image.fromarray(pixels), format, exif=exif))
    assert turned[:12].min() > 200
    assert turned[20:].max() < 55


def test_jpegs_of_the_wanted_size_keep_the_pixels_of_pillow() -> None:
    """Pillow on the same bytes: noise in grey and in colour, with and without subsampling."""
    noise = np.random.Generator(np.random.PCG64(0)).integers(0, 256, (32, 32, 3), np.uint8)
    for image in (Image.fromarray(noise), Image.fromarray(noise[..., 0])):
        for options in ({"subsampling": 0}, {"subsampling": 2}, {"progressive": True}):
            jpeg = encoded(image, "JPEG", **options)
            expected = np.asarray(Image.open(io.BytesIO(jpeg)).convert("RGB"))
            assert np.array_equal(decoded(jpeg), expected)


# --- Parquet --------------------------------------------------------------------------------------


@pytest.mark.parametrize("column", ["img", "image", "Bild 1"])
def test_a_parquet_folder_with_a_test(tmp_path: Path, column: str) -> None:
    """Colours 0 to 39 over two files and many row groups, each once; the test in its order."""
    put_parquet(tmp_path / "train-00000-of-00002.parquet", tiles(range(25)), column)
    put_parquet(tmp_path / "train-00001-of-00002.parquet", tiles(range(25, 40)), column)
    put_parquet(tmp_path / "test-00000-of-00001.parquet", tiles(range(40, 45)), column)
    images = data.load(str(tmp_path), seed=1)
    order = np.random.Generator(np.random.PCG64(1)).permutation(40).tolist()
    assert numbers_in(images.val, 45) == order[:5]
    assert numbers_in(images.train, 45) == order[5:]
    assert numbers_in(data.load_test(str(tmp_path)), 45) == list(range(40, 45))


def test_a_parquet_folder_without_a_test_is_divided(tmp_path: Path) -> None:
    """All 50 colours, once each, over 40, 5 and 5 images."""
    put_parquet(tmp_path / "train-0.parquet", tiles(range(50)))
    images, test = data.load(str(tmp_path)), data.load_test(str(tmp_path))
    assert (len(images.train), len(images.val), len(test)) == (40, 5, 5)
    together = np.concatenate([images.train, images.val, test])
    assert sorted(numbers_in(together, 50)) == list(range(50))


def test_a_parquet_folder_with_validation_keeps_it(tmp_path: Path) -> None:
    """The colours of the validation file, all; with a limit of 20 a fifth of it, evenly spaced."""
    put_parquet(tmp_path / "train-0.parquet", tiles(range(40)))
    put_parquet(tmp_path / "validation-0.parquet", tiles(range(40, 50)))
    put_parquet(tmp_path / "test-0.parquet", tiles(range(50, 53)))
    images = data.load(str(tmp_path))
    assert numbers_in(images.val, 53) == list(range(40, 50))
    assert sorted(numbers_in(images.train, 53)) == list(range(40))
    limited = data.load(str(tmp_path), limit=20)
    assert numbers_in(limited.val, 53) == [40, 42, 45, 47]
    assert len(limited.train) == 16


@pytest.mark.parametrize("own", ["neither", "test", "validation"])
@pytest.mark.parametrize("limit", [None, 20])
def test_labels_are_of_the_images_beside_them(tmp_path: Path, own: str, limit: int | None) -> None:
    """Oracle: the images. Each is labelled with a remainder of the number that its colour tells,
    over two files, whichever split it comes into; another fingerprint for other labels alone."""

    def put(name: str, numbers: range) -> None:
        file = tmp_path / f"{name}.parquet"
        put_parquet(file, tiles(numbers), labels=[number % 7 for number in numbers])

    put("train-0", range(30))
    put("train-1", range(30, 50))
    if own != "neither":
        put(f"{own}-0", range(50, 60))
    images = data.load(str(tmp_path), seed=3, limit=limit, classes=7)
    test = data.load_test(str(tmp_path), seed=3)
    parts = zip((images.train, images.val, test), images.labels, strict=False)
    for pixels, labels in parts:
        assert labels is not None
        assert labels.dtype == np.int64
        assert labels.tolist() == [number % 7 for number in numbers_in(pixels, 60)]
    untold = data.load(str(tmp_path), seed=3, limit=limit)
    assert untold.labels == data.Labels()
    assert untold.fingerprint == images.fingerprint
    put_parquet(tmp_path / "train-1.parquet", tiles(range(30, 50)), labels=[0] * 20)
    relabelled = data.load(str(tmp_path), seed=3, limit=limit, classes=7)
    assert relabelled.fingerprint == images.fingerprint
    assert relabelled.labels.fingerprint != images.labels.fingerprint


def test_real_labels(jpeg_set: str) -> None:
    """Oracle: CIFAR-10's description: of each of ten classes 5,000 images and 1,000 test images."""
    labels = data.load_labels(jpeg_set, classes=10)
    assert labels.train is not None
    assert labels.val is not None
    assert labels.test is not None
    assert np.bincount(np.concatenate([labels.train, labels.val])).tolist() == [5000] * 10
    assert np.bincount(labels.test).tolist() == [1000] * 10


@pytest.mark.parametrize(
    ("train", "test", "says"),
    [
        (["cat"] * 20, [0] * 3, "has no class labels, but the setting classes: 4 needs"),
        ([0.5] * 20, [0] * 3, "has no class labels"),
        ([1] * 20, ["cat"] * 3, "has no class labels"),
        (
            [1] * 19 + [4],
            [0] * 3,
            "an image of class 4. With classes: 4, labels must be from 0 to 3",
        ),
        ([1] * 20, [0, 7, 0], "an image of class 7. With classes: 4, labels must be from 0 to 3"),
        ([1] * 20, [0, None, 0], "an image of class -1. With classes: 4"),
    ],
    ids=["words", "fractions", "words in the test", "too large", "too large in the test", "none"],
)
def test_labels_that_are_no_classes_are_refused(
    tmp_path: Path, train: list[object], test: list[object], says: str
) -> None:
    """The message names the source and the value; without classes the images load as ever."""
    put_parquet(tmp_path / "train-0.parquet", tiles(range(20)), labels=train)
    put_parquet(tmp_path / "test-0.parquet", tiles(range(20, 23)), labels=test)
    for call in (data.load, data.load_labels):
        with pytest.raises(InputError, match=re.escape(f"source '{tmp_path}': ") + f".*{says}"):
            call(str(tmp_path), classes=4)
    assert len(data.load(str(tmp_path)).train) == 18


def test_sources_without_labels_are_named(tmp_path: Path) -> None:
    """Photographs, image files, and Parquet files without the column: none says a class."""
    put_images(tmp_path / "files" / "cat", range(20))
    (tmp_path / "rows").mkdir()
    put_parquet(tmp_path / "rows" / "train-0.parquet", tiles(range(20)))
    table = pq.read_table(tmp_path / "rows" / "train-0.parquet").drop_columns("label")
    pq.write_table(table, tmp_path / "rows" / "train-0.parquet")
    for source in ("photos", str(tmp_path / "files"), str(tmp_path / "rows")):
        with pytest.raises(InputError, match=f"source '{source}': has no class labels"):
            data.load_labels(source, classes=10)


def test_unreadable_test_images_are_found_at_once(tmp_path: Path) -> None:
    """Test images that are garbage: load names the file, as load_test does; check opens none."""
    parquet, folder = tmp_path / "parquet", tmp_path / "folder"
    parquet.mkdir()
    put_parquet(parquet / "train-0.parquet", tiles(range(20)))
    put_parquet(parquet / "test-0.parquet", [b"garbage"])
    put_images(folder / "train", range(20))
    (folder / "test").mkdir()
    (folder / "test" / "bad.png").write_bytes(b"garbage")
    for source, name in ((parquet, "test-0.parquet"), (folder, "bad.png")):
        data.check(str(source))
        for call in (data.load, data.load_test):
            with pytest.raises(InputError, match=name):
                call(str(source))
    (parquet / "test-0.parquet").write_bytes(b"garbage")  # what needs no decoding shows at once
    for function in (data.check, data.load):
        with pytest.raises(InputError, match="test-0"):
            function(str(parquet))


@needs_real_jpegs
def test_real_jpegs_load() -> None:
    """The pixels that Pillow decodes from the rows that the documented split chooses;
    and no warning reaches the person.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        images = data.load(str(REAL_JPEGS), limit=80, seed=9)
    assert images.train.shape == (70, 32, 32, 3)
    assert images.val.shape == (10, 32, 32, 3)
    order = np.random.Generator(np.random.PCG64(9)).permutation(50_000)
    rows = pq.read_table(next(REAL_JPEGS.glob("train-*.parquet")), columns=["img"]).column("img")
    for slot in (0, 9):
        blob = rows[int(order[slot])].as_py()["bytes"]
        expected = np.asarray(Image.open(io.BytesIO(blob)))
        assert np.array_equal(images.val[slot], expected)


@needs_real_jpegs
def test_the_real_set_is_cifar10_in_size() -> None:
    """CIFAR-10 has 50,000 training and 10,000 test images."""
    pools = loading.open_source(str(REAL_JPEGS))
    assert len(pools.train) == 50_000
    assert pools.test is not None
    assert len(pools.test) == 10_000


# --- errors ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("source", "says"),
    [
        ("cifar-10", "Did you mean cifar10"),
        ("photo", "Did you mean photos"),
        ("CIFAR10", "Did you mean cifar10"),
        ("no/such/folder", "neither a built-in source nor a folder. Use cifar10, photos"),
        ("", "Use cifar10, photos"),
        (__file__, "a file, not a folder"),
    ],
)
def test_an_unknown_source_is_refused_with_what_is_allowed(source: str, says: str) -> None:
    """One message that names the source and the ones there are; all three functions agree."""
    for function in (data.check, data.load, data.load_test):
        with pytest.raises(InputError, match=says) as raised:
            function(source)
        assert repr(source) in str(raised.value)


def test_check_is_silent_about_the_named_sources(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No error, and nothing written to the cache."""
    monkeypatch.setenv("RAYCAE_CACHE", str(tmp_path / "cache"))
    for source in data.NAMED_SOURCES:
        data.check(source)
    assert not (tmp_path / "cache").exists()


def test_an_empty_folder_is_refused(tmp_path: Path) -> None:
    """The folder's name: top, train and test alike."""
    with pytest.raises(InputError, match="contains no images"):
        data.check(str(tmp_path))
    (tmp_path / "train").mkdir()
    put_images(tmp_path / "val", range(20))
    with pytest.raises(InputError, match="train: contains no images"):
        data.check(str(tmp_path))
    put_images(tmp_path / "train", range(20))
    (tmp_path / "test").mkdir()
    with pytest.raises(InputError, match="test: contains no images"):
        data.check(str(tmp_path))


def test_a_parquet_file_of_another_kind_is_refused(tmp_path: Path) -> None:
    """The file, and its columns."""
    file = tmp_path / "train-0.parquet"
    pq.write_table(pa.table({"text": ["a"], "blob": [b"plain binary"]}), file)
    with pytest.raises(InputError, match=r"train-0\.parquet: has no image column.*text, blob"):
        data.check(str(tmp_path))
    pq.write_table(pa.table({"img": [{"path": "a"}]}), file)
    with pytest.raises(InputError, match="has no image column"):
        data.check(str(tmp_path))
    file.write_bytes(b"PAR1 is not enough")
    with pytest.raises(InputError, match=r"train-0\.parquet: cannot be read"):
        data.check(str(tmp_path))


def test_a_parquet_file_damaged_in_the_middle_is_refused(tmp_path: Path) -> None:
    """The footer is whole, the pages are zeros: the file is named."""
    file = tmp_path / "train-0.parquet"
    put_parquet(file, tiles(range(40)))
    content = bytearray(file.read_bytes())
    content[4:2000] = bytes(1996)
    file.write_bytes(content)
    with pytest.raises(InputError, match=r"train-0\.parquet: cannot be read"):
        data.load(str(tmp_path))


def damaged_images() -> dict[str, bytes]:
    noise = Image.effect_noise((32, 32), 90).convert("RGB")
    large = Image.effect_noise((99, 99), 90).convert("RGB")
    return {
        "garbage": b"garbage",
        "nothing": b"",
        "half a PNG": encoded(noise)[:900],
        "half a small JPEG": encoded(noise, "JPEG")[:700],
        "half a large JPEG": encoded(large, "JPEG")[:1500],
        "a JPEG's first bytes": b"\xff\xd8\xff\xe0",
        "a GIF's first bytes": b"GIF89a",
        "floating point": encoded(Image.new("F", (40, 40), 0.5), "TIFF"),
    }


@pytest.mark.parametrize("damage", damaged_images())
def test_a_damaged_image_is_named(tmp_path: Path, damage: str) -> None:
    """The message has the file's name, or the Parquet file's and the row."""
    bad = damaged_images()[damage]
    with pytest.raises(InputError, match=r"train.aaa\.png: damaged"):
        data.load(str(folder_with(tmp_path / "files", bad)))
    (tmp_path / "rows").mkdir()
    put_parquet(tmp_path / "rows" / "train-0.parquet", [*tiles(range(13)), bad, *tiles(range(9))])
    put_parquet(tmp_path / "rows" / "test-0.parquet", tiles(range(1)))
    with pytest.raises(InputError, match=r"train-0\.parquet, row 13 .*: damaged"):
        data.load(str(tmp_path / "rows"))


@pytest.mark.parametrize("kind", ["files", "rows"])
@pytest.mark.parametrize(
    ("n_damaged", "others"),
    [
        (1, ""),
        (2, ". 1 other image cannot be decoded either: {1}."),
        (5, ". 4 other images cannot be decoded either: {1}, {2}, {3} and {4}."),
        (12, ". 11 other images cannot be decoded either: {1}, {2}, {3}, {4} and 7 more."),
    ],
)
def test_all_damaged_images_are_named(
    tmp_path: Path, kind: str, n_damaged: int, others: str
) -> None:
    """Oracle: by hand. Of 300 training and 12 test images, some of both splits and of several
    threads are damaged. The reason is that of the first one, four others are named in order, and
    the rest is counted."""
    damaged = [*range(0, 250, 25), 310, 311][-n_damaged:]
    names = {}
    for split, numbers in (("train", range(300)), ("test", range(300, 312))):
        folder, file = tmp_path / split, tmp_path / f"{split}-0.parquet"
        blobs = [b"garbage" if n in damaged else encoded(tile(n)) for n in numbers]
        if kind == "rows":
            put_parquet(file, blobs, row_group_size=40)
        else:
            folder.mkdir()
        for n, blob in zip(numbers, blobs, strict=True):
            names[n] = f"{file}, row {n - numbers[0]} (the first row is 0)"
            if kind == "files":
                names[n] = f"{folder / f'{n:05}.png'}"
                Path(names[n]).write_bytes(blob)
    with pytest.raises(InputError) as error:
        data.load(str(tmp_path))
    named = [names[n] for n in damaged]
    first = f"image {named[0]}: damaged, or of another format than {', '.join(decoding.FORMATS)}"
    assert str(error.value) == first + others.format(*named)


def test_a_row_without_bytes_is_named(tmp_path: Path) -> None:
    """The Parquet file and the row of the only missing image."""
    put_parquet(tmp_path / "train-0.parquet", [*tiles(range(30)), None])
    put_parquet(tmp_path / "test-0.parquet", tiles(range(1)))
    with pytest.raises(InputError, match=r"train-0\.parquet, row 30 .*holds no bytes"):
        data.load(str(tmp_path))


def png_of_zeros(width: int, height: int) -> bytes:
    """A small file that decodes to a very large black image."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        check = zlib.crc32(kind + content)
        return len(content).to_bytes(4, "big") + kind + content + check.to_bytes(4, "big")

    size = width.to_bytes(4, "big") + height.to_bytes(4, "big")
    header = chunk(b"IHDR", size + bytes([8, 0, 0, 0, 0]))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


@pytest.mark.parametrize("side", [10_000, 20_000])
def test_a_decompression_bomb_is_refused(tmp_path: Path, side: int) -> None:
    """Above Pillow's limit (a warning there) and above twice it (an error): refused, named."""
    source = folder_with(tmp_path, png_of_zeros(side, side))
    with pytest.raises(InputError, match=r"aaa\.png: refused, more than [\d,]+ pixels"):
        data.load(str(source))


def test_an_unreadable_image_is_named(tmp_path: Path) -> None:
    """The link that leads nowhere."""
    put_images(tmp_path, range(20))
    (tmp_path / "aaa.png").symlink_to(tmp_path / "nowhere")
    (tmp_path / "test").symlink_to(tmp_path)
    with pytest.raises(InputError, match=r"aaa\.png: cannot be read: No such file"):
        data.load(str(tmp_path))


@pytest.mark.parametrize(
    ("numbers", "says"), [({"image_size": 0}, "image size 0"), ({"seed": -1}, "seed -1")]
)
def test_impossible_numbers_are_refused(numbers: dict[str, int], says: str) -> None:
    """The message names the number."""
    with pytest.raises(InputError, match=says):
        data.load("photos", **numbers)


def test_the_room_is_light_to_import() -> None:
    """A fresh interpreter: torch, pyarrow and scikit-image are not there after the import."""
    script = "import sys, raycae.data; print({'torch', 'pyarrow', 'skimage'} & set(sys.modules))"
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "set()"


# --- CIFAR-10 -------------------------------------------------------------------------------------

ARCHIVE = "cifar-10-python.tar.gz"
FOLDER = "cifar-10-batches-py"


def md5(content: bytes) -> str:
    return hashlib.md5(content, usedforsecurity=False).hexdigest()


class SmallCifar:
    """CIFAR-10's layout with ten images a file: the archive, and what torchvision must expect."""

    def __init__(self) -> None:
        rng = np.random.Generator(np.random.PCG64(0))
        batches = [*(f"data_batch_{n}" for n in range(1, 6)), "test_batch"]
        self.pixels = {name: rng.integers(0, 256, (10, 3072), np.uint8) for name in batches}
        self.files = {
            name: pickle.dumps({"data": pixels, "labels": [number] * 10})
            for number, (name, pixels) in enumerate(self.pixels.items())
        }
        self.files["batches.meta"] = pickle.dumps({"label_names": ["thing"]})
        archive = io.BytesIO()
        with tarfile.open(fileobj=archive, mode="w:gz") as tar:
            for name, content in self.files.items():
                member = tarfile.TarInfo(f"{FOLDER}/{name}")
                member.size = len(content)
                tar.addfile(member, io.BytesIO(content))
        self.archive = archive.getvalue()

    def attributes(self, url: str) -> dict[str, Any]:
        """The attributes of torchvision's CIFAR10 that describe this set."""
        sums = {name: md5(content) for name, content in self.files.items()}
        return {
            "url": url,
            "tgz_md5": md5(self.archive),
            "train_list": [[name, sums[name]] for name in self.files if "data" in name],
            "test_list": [["test_batch", sums["test_batch"]]],
            "meta": {
                "filename": "batches.meta",
                "key": "label_names",
                "md5": sums["batches.meta"],
            },
        }

    def images(self, *names: str) -> np.ndarray:
        rows = np.concatenate([self.pixels[name] for name in names])
        return rows.reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)

    def unpack(self, cache: Path) -> None:
        (cache / FOLDER).mkdir(parents=True)
        for name, content in self.files.items():
            (cache / FOLDER / name).write_bytes(content)


class Server:
    """A web server on this machine that sends ``body`` and counts how often it was asked."""

    def __init__(self, body: bytes) -> None:
        self.body = body
        self.announced = len(body)
        self.requests = 0
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                outer.requests += 1
                self.send_response(200)
                self.send_header("Content-Length", str(outer.announced))
                self.end_headers()
                self.wfile.write(outer.body)

            def log_message(self, *args: object) -> None:
                pass

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.http.server_address[1]}/{ARCHIVE}"


@pytest.fixture
def cifar() -> SmallCifar:
    return SmallCifar()


@pytest.fixture
def server(cifar: SmallCifar) -> Iterator[Server]:
    server = Server(cifar.archive)
    thread = threading.Thread(target=server.http.serve_forever, args=(0.05,))
    thread.start()
    yield server
    server.http.shutdown()
    thread.join()
    server.http.server_close()


@pytest.fixture
def cache(
    tmp_path: Path, cifar: SmallCifar, server: Server, monkeypatch: pytest.MonkeyPatch
) -> Path:
    """A cache folder that does not exist yet, with torchvision pointed at the small set."""
    from torchvision.datasets import CIFAR10

    for name, value in cifar.attributes(server.url).items():
        monkeypatch.setattr(CIFAR10, name, value)
    monkeypatch.setenv("RAYCAE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    return tmp_path / "cache"


def test_cifar10_is_downloaded_once_and_quietly(
    cache: Path, cifar: SmallCifar, server: Server, capsys: pytest.CaptureFixture[str]
) -> None:
    """The pixels that were served, split as documented; one request; nothing on stdout."""
    images = data.load("cifar10", seed=4)
    train = cifar.images(*(f"data_batch_{n}" for n in range(1, 6)))
    order = np.random.Generator(np.random.PCG64(4)).permutation(50)
    assert np.array_equal(images.val, train[order[:6]])
    assert np.array_equal(images.train, train[order[6:]])
    assert np.array_equal(data.load_test("cifar10"), cifar.images("test_batch"))
    assert data.load("cifar10", image_size=16, limit=16).train.shape == (14, 16, 16, 3)
    pools = loading.open_source("cifar10")
    assert pools.train.names() == [f"train/{index:05}" for index in range(50)]
    assert pools.test is not None
    assert pools.test.names()[-1] == "test/00009"
    labels = data.load_labels("cifar10", classes=10, seed=4)
    assert np.array_equal(labels.val, order[:6] // 10)  # the number of an image's file
    assert np.array_equal(labels.train, order[6:] // 10)
    assert np.array_equal(labels.test, [5] * 10)
    assert server.requests == 1
    assert capsys.readouterr().out == ""
    assert sorted(path.name for path in cache.iterdir() if path.suffix != ".lock") == [
        FOLDER,
        ARCHIVE,
    ]


def test_a_damaged_test_batch_is_fetched_before_the_search(
    cache: Path, cifar: SmallCifar, server: Server
) -> None:
    """A test batch of garbage: load asks the server once for the archive, and has all images."""
    cifar.unpack(cache)
    (cache / FOLDER / "test_batch").write_bytes(b"garbage")
    images = data.load("cifar10")
    assert (len(images.train), len(images.test)) == (44, 10)
    assert server.requests == 1


@pytest.mark.parametrize("as_archive", [True, False])
def test_a_copy_put_into_the_cache_needs_no_network(
    cache: Path, cifar: SmallCifar, server: Server, as_archive: bool
) -> None:
    """Archive or unpacked folder in the cache: the server is never asked."""
    if as_archive:
        cache.mkdir()
        (cache / ARCHIVE).write_bytes(cifar.archive)
    else:
        cifar.unpack(cache)
    assert len(data.load("cifar10").train) == 44
    assert len(data.load_test("cifar10")) == 10
    assert server.requests == 0


def test_half_a_download_does_not_poison_later_runs(
    cache: Path, cifar: SmallCifar, server: Server
) -> None:
    """A connection cut half-way is an error and leaves no archive; the next run succeeds."""
    server.body = cifar.archive[: len(cifar.archive) // 2]
    with pytest.raises(InputError, match="cut short"):
        data.load("cifar10")
    assert [path.name for path in cache.iterdir() if path.suffix != ".lock"] == []
    server.body = cifar.archive
    assert len(data.load("cifar10").train) == 44


def test_half_an_archive_in_the_cache_is_replaced(
    cache: Path, cifar: SmallCifar, server: Server
) -> None:
    """A truncated archive and a truncated batch, as a killed run leaves them: both made whole."""
    cifar.unpack(cache)
    (cache / ARCHIVE).write_bytes(cifar.archive[:1000])
    (cache / FOLDER / "data_batch_2").write_bytes(b"")
    assert len(data.load("cifar10").train) == 44
    assert server.requests == 1


def test_a_host_that_cannot_be_reached_is_one_error(
    cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The message names the other sources, the folder and both forms of a copy."""
    from torchvision.datasets import CIFAR10

    monkeypatch.setattr(CIFAR10, "url", f"http://127.0.0.1:1/{ARCHIVE}")
    with pytest.raises(InputError) as raised:
        data.load("cifar10")
    for part in ("photos", "Parquet", "folder of images", str(cache), ARCHIVE, FOLDER):
        assert part in str(raised.value)
    assert str(raised.value).count("source 'cifar10'") == 1


def test_a_silent_host_is_given_up(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A port that accepts and never answers: the same one error, after the time-out."""
    import socket

    from torchvision.datasets import CIFAR10

    monkeypatch.setattr(cifar10, "_NETWORK_TIMEOUT", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as mute:
        monkeypatch.setattr(CIFAR10, "url", f"http://127.0.0.1:{mute.getsockname()[1]}/{ARCHIVE}")
        with pytest.raises(InputError, match="timed out"):
            data.load("cifar10")


def test_a_cache_that_cannot_be_made_is_one_error(
    cache: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A file where the folder should be: one message that names it."""
    (tmp_path / "file").touch()
    monkeypatch.setenv("RAYCAE_CACHE", str(tmp_path / "file"))
    with pytest.raises(InputError, match=r"is not in .*file and cannot be downloaded"):
        data.load("cifar10")


LOAD_IN_A_PROCESS = """
import sys, json
from torchvision.datasets import CIFAR10
for name, value in json.loads(sys.argv[1]).items():
    setattr(CIFAR10, name, value)
from raycae import data
print("ready", flush=True)
sys.stdin.readline()
print(data.load("cifar10").fingerprint)
"""


def test_processes_that_start_together_download_once(
    cache: Path, cifar: SmallCifar, server: Server
) -> None:
    """Three processes let go at once: three equal fingerprints, one request."""
    import json

    command = [sys.executable, "-c", LOAD_IN_A_PROCESS, json.dumps(cifar.attributes(server.url))]
    processes = [
        subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        for _ in range(3)
    ]
    for process in processes:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("\n")
        process.stdin.flush()
    prints = [process.communicate(timeout=60)[0] for process in processes]
    assert prints == [data.load("cifar10").fingerprint + "\n"] * 3
    assert server.requests == 1


def test_the_cache_folder_follows_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """RAYCAE_CACHE where it is set and not empty, else ~/.cache/raycae."""
    monkeypatch.setenv("RAYCAE_CACHE", "~/elsewhere")
    assert data.cache_folder() == Path.home() / "elsewhere"
    monkeypatch.setenv("RAYCAE_CACHE", "")
    assert data.cache_folder() == Path.home() / ".cache" / "raycae"
