"""Which image belongs to which split: copies stay in one, and stored splits are found again."""

from __future__ import annotations

import io
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, reject, settings
from hypothesis import strategies as st
from PIL import Image

from raycae import data
from raycae.data.membership import (
    DUPLICATE,
    UNUSED,
    Membership,
    checksum_images,
)
from raycae.data.summary import Reason
from raycae.errors import InputError
from raycae.storage.paths import resolve_place
from raycae.study.images import read_membership
from raycae.study.plan import SPLITS

SIZE = 8


def picture(number: int) -> np.ndarray:
    """Noise that no other number has, uint8 (8, 8, 3)."""
    return np.random.default_rng(number).integers(0, 256, (SIZE, SIZE, 3), np.uint8)


def png(number: int) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(picture(number)).save(buffer, "PNG")
    return buffer.getvalue()


def put_files(folder: Path, numbers: Sequence[int], first: int = 0) -> Path:
    """Write one image file for each number, in their order."""
    folder.mkdir(parents=True, exist_ok=True)
    for i, number in enumerate(numbers, first):
        (folder / f"{i:04}.png").write_bytes(png(number))
    return folder


def put_rows(folder: Path, **splits: Sequence[int]) -> Path:
    """Write one Parquet file for each split; the label of an image is its number."""
    folder.mkdir(parents=True, exist_ok=True)
    for split, numbers in splits.items():
        table = pa.table(
            {
                "image": pa.array([{"bytes": png(n), "path": None} for n in numbers]),
                "label": pa.array(numbers, pa.int64()),
            }
        )
        pq.write_table(table, folder / f"{split}-0.parquet")
    return folder


def keys(pixels: np.ndarray) -> list[bytes]:
    return [image.tobytes() for image in pixels]


def numbers_of(pixels: np.ndarray, most: int) -> list[int]:
    """The numbers that images were made from."""
    known = {picture(number).tobytes(): number for number in range(most)}
    return [known[key] for key in keys(pixels)]


def load(source: Path, **more: object) -> data.Images:
    return data.load(str(source), image_size=SIZE, **more)  # type: ignore[arg-type]


def test_a_hundred_images_saved_twice(tmp_path: Path) -> None:
    """Oracle: sets of the images' bytes. No test or validation image is trained on; the test split
    is the one that `load_test` gives; what was left out is counted and named."""
    put_files(tmp_path / "all", [*range(100), *range(100)])
    images = load(tmp_path / "all")
    train, val, test = (keys(split) for split in (images.train, images.val, images.test))
    assert test == keys(data.load_test(str(tmp_path / "all"), image_size=SIZE))
    assert (len(test), len({*train, *val, *test})) == (20, 100)
    assert not {*train} & {*val, *test}
    assert not {*val} & {*test}
    (left_out,) = images.summary.left_out
    assert left_out.reason == Reason.COPY
    assert left_out.count == 200 - len(train) - len(val) - len(test) > 13
    assert f"{left_out.count} copies of images of other splits: 0" in images.summary.line()


few = st.lists(st.integers(0, 39), min_size=1, max_size=40)


@settings(deadline=None, max_examples=40)
@given(train=few, validation=few, test=few)
def test_copies_stay_in_one_split(
    tmp_path_factory: pytest.TempPathFactory,
    train: list[int],
    validation: list[int],
    test: list[int],
) -> None:
    """Oracle: sets of the numbers that images are made from. The test split keeps its images, then
    validation; labels follow their images; too few that are left are refused."""
    source = put_rows(
        tmp_path_factory.mktemp("rows"), train=train, validation=validation, test=test
    )
    kept_val = [n for n in validation if n not in test]
    kept_train = [n for n in train if n not in {*test, *validation}]
    if not kept_train or not kept_val or len(kept_train) + len(kept_val) < data.LEAST_IMAGES:
        with pytest.raises(InputError, match="too few images"):
            load(source, classes=40)
        return
    images = load(source, classes=40)
    assert numbers_of(images.test, 40) == test
    assert numbers_of(images.val, 40) == kept_val
    assert sorted(numbers_of(images.train, 40)) == sorted(kept_train)
    for split, labels in zip(("train", "val", "test"), images.labels[:3], strict=True):
        assert labels is not None
        assert labels.tolist() == numbers_of(getattr(images, split), 40)
    n_copies = len(train) + len(validation) - len(kept_train) - len(kept_val)
    assert sum(entry.count for entry in images.summary.left_out) == n_copies
    counts = (images.summary.n_train, images.summary.n_val, images.summary.n_test)
    assert counts == (len(kept_train), len(kept_val), len(test))
    again = load(source, classes=40, membership=images.membership)
    assert again.fingerprint == images.fingerprint
    assert again.labels.fingerprint == images.labels.fingerprint
    assert again.summary == images.summary


@settings(deadline=None, max_examples=40)
@given(
    numbers=st.lists(st.integers(0, 30), min_size=40, max_size=60),
    limit=st.none() | st.integers(30, 60),
    seed=st.integers(0, 3),
)
def test_an_undivided_folder_with_copies(
    tmp_path_factory: pytest.TempPathFactory, numbers: list[int], limit: int | None, seed: int
) -> None:
    """Oracle: what was written. Every file is in one row of the table; splits share no image; a
    copy that was left out is in an earlier split; the limit bounds what is loaded."""
    source = put_files(tmp_path_factory.mktemp("files"), numbers)
    try:
        images = load(source, limit=limit, seed=seed)
    except InputError:
        reject()  # too few are left
    table = images.membership
    assert sorted(table.names) == [f"{i:04}.png" for i in range(len(numbers))]
    of = {
        split: [numbers[int(name[:4])] for name in table.get_split(split)[0]]
        for split in ("train", "validation", "test", DUPLICATE, UNUSED)
    }
    for split, pixels in (
        ("train", images.train),
        ("validation", images.val),
        ("test", images.test),
    ):
        assert numbers_of(pixels, 31) == of[split]
    assert len(of["test"]) == len(numbers) // 10
    assert not {*of["train"]} & {*of["validation"], *of["test"]}
    assert not {*of["validation"]} & {*of["test"]}
    assert {*of[DUPLICATE]} <= {*of["validation"], *of["test"]}
    loaded = len(of["train"]) + len(of["validation"]) + len(of[DUPLICATE])
    assert loaded == min(limit or 60, len(numbers) - len(of["test"]))


@pytest.mark.parametrize("layout", ["files", "rows"])
def test_images_that_were_added_are_ignored(tmp_path: Path, layout: str) -> None:
    """Oracle: the images as before. Whatever is added later (files that sort first and last, a
    shard) is counted; without the stored splits the test split would be another one."""
    if layout == "files":
        source = put_files(tmp_path / "all", range(50))
        more = {name: png(n) for n, name in enumerate(("!.png", "zz.png", "sub/0.png"), 60)}
    else:
        source = put_rows(tmp_path / "all", train=range(50), test=range(50, 60))
        put_rows(tmp_path / "other", train=range(60, 63))
        more = {"train-1.parquet": (tmp_path / "other" / "train-0.parquet").read_bytes()}
    before = load(source, limit=40)
    for name, content in more.items():
        (source / name).parent.mkdir(exist_ok=True)
        (source / name).write_bytes(content)
    after = load(source, limit=40, membership=before.membership)
    for split in ("train", "val", "test"):
        assert keys(getattr(after, split)) == keys(getattr(before, split))
    test = data.load_test(str(source), image_size=SIZE, membership=before.membership)
    assert keys(test) == keys(before.test)
    assert "3 images added since the study began" in after.summary.line()
    assert load(source, limit=40).fingerprint != before.fingerprint


@pytest.mark.parametrize("split", ["train", "validation", "test"])
@pytest.mark.parametrize("fault", ["gone", "changed", "swapped"])
def test_images_that_are_not_the_studys_are_refused(tmp_path: Path, split: str, fault: str) -> None:
    """Oracle: by hand. The message has the count, the split and the first names. A training image
    under the name of a test image is such a change."""
    source = put_files(tmp_path / "all", range(100))
    images = load(source)
    names, _ = images.membership.get_split(split)
    other = images.membership.get_split("train" if split != "train" else "test")[0][0]
    for name in names[:7]:
        if fault == "gone":
            (source / name).unlink()
        else:
            swapped = (source / other).read_bytes()
            (source / name).write_bytes(png(1000) if fault == "changed" else swapped)
    word = {"train": "training"}.get(split, split)
    why = "are missing" if fault == "gone" else "have changed since it started"
    says = f"7 of the {len(names)} {word} images of this study {why}: {', '.join(names[:5])} and 2"
    with pytest.raises(InputError, match=says):
        load(source, membership=images.membership)
    if split == "test":
        with pytest.raises(InputError, match=says):
            data.load_test(str(source), image_size=SIZE, membership=images.membership)
    else:
        test = data.load_test(str(source), image_size=SIZE, membership=images.membership)
        assert keys(test) == keys(images.test)


def test_the_table_is_what_was_stored(tmp_path: Path) -> None:
    """Oracle: pyarrow and hashlib by hand. The file has the three columns; its checksum does not
    depend on how it was written, and changes with every cell."""
    images = load(put_files(tmp_path / "all", range(60)), limit=40)
    table = images.membership
    content = table.to_parquet()
    stored = pq.read_table(pa.BufferReader(content))
    assert stored.column_names == ["split", "name", "checksum"]
    counts = Counter(stored["split"].to_pylist())
    assert counts == {"train": 36, "validation": 4, "test": 6, "unused": 14}
    assert stored["checksum"].null_count == 14
    assert stored_as(tmp_path, content, table.checksum) is not None
    buffer = io.BytesIO()
    pq.write_table(stored.combine_chunks(), buffer, compression="zstd")
    assert stored_as(tmp_path, buffer.getvalue(), table.checksum) is not None
    others = [
        Membership(["test", *table.splits[1:]], table.names, table.checksums),
        Membership(table.splits, ["other.png", *table.names[1:]], table.checksums),
        Membership(table.splits, table.names, table.checksums + np.uint64(1)),
        Membership(table.splits[1:], table.names[1:], table.checksums[1:]),
    ]
    assert len({table.checksum, *(other.checksum for other in others)}) == 5


def stored_as(folder: Path, content: bytes, checksum: str) -> Membership | None:
    """What is read of a `splits.parquet`."""
    (folder / SPLITS).write_bytes(content)
    return read_membership(resolve_place(folder), checksum)[0]


def test_a_flipped_bit_is_found(tmp_path: Path) -> None:
    """Oracle: the table. After each of a few hundred flipped bits it is read as it was, where
    Parquet does not use the bit, or not at all."""
    table = load(put_files(tmp_path / "all", range(40))).membership
    content = table.to_parquet()
    for bit in np.random.default_rng(0).choice(8 * len(content), 300, replace=False).tolist():
        damaged = bytearray(content)
        damaged[bit // 8] ^= 1 << bit % 8
        found = stored_as(tmp_path, bytes(damaged), table.checksum)
        if found is not None:
            assert (found.splits, found.names) == (table.splits, table.names)
            assert found.checksums.tolist() == table.checksums.tolist()


def test_checksums_are_of_the_pixels() -> None:
    """Oracle: sets of bytes, of random images and of such that differ in one value."""
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (200, 4, 4, 3), np.uint8)
    pixels[100:150] = pixels[:50]
    pixels[150:] = pixels[50:100]
    pixels[150:, 3, 3, 2] ^= 1
    checksums = checksum_images(pixels)
    assert checksums.dtype == np.uint64
    assert len(set(checksums.tolist())) == len(set(keys(pixels))) == 150
    assert (checksums[100:150] == checksums[:50]).all()


def test_names_that_are_no_text(tmp_path: Path) -> None:
    """Oracle: a file name of other bytes than UTF-8 is stored, and found again."""
    source = put_files(tmp_path / "all", range(40))
    (source / "0000.png").rename(source / "\udcff.png")
    images = load(source)
    told = images.membership
    table = stored_as(tmp_path, told.to_parquet(), told.checksum)
    assert table is not None
    assert load(source, membership=table).fingerprint == images.fingerprint


def test_a_source_without_test_images(tmp_path: Path) -> None:
    """Oracle: by hand. No tenth of nine training images can be set aside for the test."""
    source = tmp_path / "all"
    put_rows(source, train=range(9), validation=range(10, 40))
    with pytest.raises(InputError, match=r"too few training images: 9\. It has no test split"):
        load(source)
