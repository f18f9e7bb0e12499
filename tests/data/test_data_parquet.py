"""Which Parquet files, rows and columns are the data set."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from test_data import encoded, numbers_in, put_images, put_parquet, tile, tiles
from test_data_selection import sizes

from raycae import data
from raycae.data import layout
from raycae.data.loading import open_source
from raycae.errors import InputError


def put(folder: Path, *files: tuple[str, int]) -> Path:
    """Put Parquet files of differently coloured images into folders: (path, rows)."""
    first = 0
    for name, n in files:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        put_parquet(folder / name, tiles(range(first, first + n)), labels=[0] * n)
        first += n
    return folder


@pytest.mark.parametrize(
    ("train", "test"),
    [
        ("train-00000-of-00001.parquet", "test-00000-of-00001.parquet"),
        ("data/train-00000-of-00001.parquet", "data/test-00000-of-00001.parquet"),
        ("data/train-00000-of-00001-0123456789abcdef.parquet", "data/test-0.parquet"),
        ("train.parquet", "test.parquet"),
        ("training_00.parquet", "eval_00.parquet"),
        ("TRAIN.0.parquet", "Testing.0.PARQUET"),
        ("train/0000.parquet", "test/0000.parquet"),
        ("default/train/0000.parquet", "default/test/0000.parquet"),
        ("train/part-0.parquet", "testing/train-0.parquet"),
    ],
)
def test_splits_of_parquet_files(tmp_path: Path, train: str, test: str) -> None:
    """Oracle: 32 rows to train on and 8 to test on, by their colours."""
    put(tmp_path, (train, 32), (test, 8))
    assert sizes(tmp_path) == (28, 4, 8)
    assert numbers_in(data.load_test(str(tmp_path)), 40) == list(range(32, 40))
    assert open_source(str(tmp_path)).train.names()[31] == f"{train}#31"


@pytest.mark.parametrize(
    "files",
    [
        [("0000.parquet", 30), ("0001.parquet", 20)],
        [("train-0.parquet", 50)],
        [("cats.parquet", 30), ("train.parquet", 20)],
        [("trains-0.parquet", 30), ("test.parquet", 20)],
    ],
)
def test_one_set_of_parquet_files(tmp_path: Path, files: list[tuple[str, int]]) -> None:
    """Oracle: 50 rows divided 80 / 10 / 10 percent."""
    put(tmp_path, *files)
    assert sizes(tmp_path) == (40, 5, 5)


@pytest.mark.parametrize(
    ("word", "suffix"),
    [
        *((word, "-00000-of-00001") for word in sorted(layout.SPLIT_NAMES)),
        *(("val", ""), ("valid", "_images")),
    ],
)
def test_every_split_name_begins_the_name_of_a_file(tmp_path: Path, word: str, suffix: str) -> None:
    """Oracle: the rows of the three files, each with a synonym of a split at its beginning."""
    rows = {"train": 40, "validation": 20, "test": 10}
    split = layout.SPLIT_NAMES[word]
    names = {name: word if name == split else name for name in rows}
    put(tmp_path, *((f"{names[name]}{suffix}.parquet", n) for name, n in rows.items()))
    assert sizes(tmp_path) == (40, 20, 10)


@pytest.mark.parametrize("parent", ["", "data/"])
def test_parquet_files_that_can_be_read_both_ways_are_refused(tmp_path: Path, parent: str) -> None:
    """Oracle: the rows of both readings; both ways out do as they say."""
    put(
        tmp_path,
        (f"{parent}train-0.parquet", 32),
        (f"{parent}test-0.parquet", 8),
        (f"{parent}extra-0.parquet", 20),
    )
    with pytest.raises(
        InputError, match=r"32 training .*8 test .*20 images ignored .*As one set: 60 images"
    ):
        data.check(str(tmp_path))
    assert sizes(f"{tmp_path}?splits=no") == (48, 6, 6)
    assert sizes(f"{tmp_path}?splits=yes") == (28, 4, 8)
    (left_out,) = data.summarize(f"{tmp_path}?splits=yes").left_out
    assert left_out.reason == data.Reason.FILE_OUTSIDE_SPLITS


def test_a_clone_from_the_hub(tmp_path: Path) -> None:
    """Oracle: the rows of the Parquet files; 20 pictures beside them and four other files."""
    put(
        tmp_path, ("data/train-00000-of-00001.parquet", 40), ("data/test-00000-of-00001.parquet", 5)
    )
    put_images(tmp_path / "assets", range(20))
    (tmp_path / ".git" / "objects").mkdir(parents=True)
    for name in ("README.md", ".gitattributes", ".git/config"):
        (tmp_path / name).touch()
    assert sizes(tmp_path) == (35, 5, 5)
    summary = data.summarize(str(tmp_path))
    counts = {entry.reason: entry.count for entry in summary.left_out}
    assert counts == {
        data.Reason.BESIDE_PARQUET: 20,
        data.Reason.HIDDEN: 2,
        data.Reason.OTHER: 1,
    }
    assert summary.n_classes == 1


def test_a_table_without_images_beside_images(tmp_path: Path) -> None:
    """Oracle: the 20 images; the table is counted."""
    put_images(tmp_path, range(20))
    pq.write_table(pa.table({"name": ["a"], "class": [1]}), tmp_path / "labels.parquet")
    assert sum(sizes(tmp_path)) == 20
    assert str(data.summarize(str(tmp_path)).left_out[0]) == "1 other file: labels.parquet"
    with pytest.raises(InputError, match=r"labels\.parquet: has no image column 'name'"):
        data.check(f"{tmp_path}?column=name")
    (tmp_path / "labels.parquet").unlink()
    with pytest.raises(InputError, match="needs Parquet files"):
        data.check(f"{tmp_path}?column=name")


# --- columns --------------------------------------------------------------------------------------


def put_columns(file: Path, n: int, first: int = 0, **columns: str) -> None:
    """A table whose columns are structs ("struct") or plain binary ("binary").

    Images of the first column have the colours from `first` on, of the second n later, and so on.
    """
    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    table = {}
    for at, (name, column) in enumerate(columns.items()):
        blobs = [encoded(tile(first + at * n + row)) for row in range(n)]
        rows = [{"bytes": blob, "path": None} for blob in blobs]
        table[name] = pa.array(rows, kind) if column == "struct" else pa.array(blobs, pa.binary())
    file.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table(table), file)


@pytest.mark.parametrize(
    ("columns", "chosen"),
    [
        ({"conditioning": "struct", "image": "struct"}, 1),
        ({"mask": "struct", "img": "struct"}, 1),
        ({"mask": "struct", "image": "binary"}, 1),
        ({"Bild 1": "struct"}, 0),
        ({"embedding": "binary", "jpg": "binary"}, 1),
        ({"embedding": "binary", "photo": "struct"}, 1),
    ],
)
def test_the_image_column_is_found(tmp_path: Path, columns: dict[str, str], chosen: int) -> None:
    """Oracle: the colours of the column; `?column=` takes the other one, also a binary one."""
    put_columns(tmp_path / "train-0.parquet", 20, **columns)
    images = data.load(str(tmp_path))
    assert min(numbers_in(images.train, 40)) // 20 == chosen
    for at, name in enumerate(columns):
        images = data.load(f"{tmp_path}?column={name}")
        assert {number // 20 for number in numbers_in(images.train, 40)} == {at}


@pytest.mark.parametrize(
    "columns",
    [
        {"left": "struct", "right": "struct"},
        {"image": "struct", "img": "struct"},
        {"photo": "struct", "png": "binary"},
    ],
)
def test_equally_good_columns_are_refused(tmp_path: Path, columns: dict[str, str]) -> None:
    """Oracle: both names and both ways out, each of which is read; suffixes combine."""
    put_columns(tmp_path / "train.parquet", 20, **columns)
    put_columns(tmp_path / "test.parquet", 4, first=40, **columns)
    put_columns(tmp_path / "more.parquet", 4, first=50, **columns)
    with pytest.raises(InputError, match=r"columns (\w+), (\w+) all hold images") as raised:
        data.check(f"{tmp_path}?splits=no")
    ways = re.findall(r"'([^' ]*column=[^' ]*)'", str(raised.value))
    assert ways == [f"{tmp_path}?splits=no&column={name}" for name in columns]
    assert sizes(ways[0]) == (24, 2, 2)
    assert sizes(f"{tmp_path}?column={next(iter(columns))}&splits=yes") == (18, 2, 4)


def test_every_shard_must_have_the_column(tmp_path: Path) -> None:
    """Oracle: the file and the column that is missing there."""
    put_columns(tmp_path / "train-0.parquet", 20, image="struct", mask="struct")
    put_columns(tmp_path / "train-1.parquet", 20, first=40, mask="struct")
    with pytest.raises(InputError, match=r"train-1\.parquet: has no image column 'image'.*mask"):
        data.check(str(tmp_path))
    assert sum(sizes(f"{tmp_path}?column=mask")) == 40
    with pytest.raises(InputError, match=r"has no image column 'masks'"):
        data.check(f"{tmp_path}?column=masks")


def test_a_column_whose_name_is_odd(tmp_path: Path) -> None:
    """Oracle: it is read by its name."""
    put_columns(tmp_path / "0.parquet", 20, **{"a&b=c?": "struct", "other": "struct"})
    assert sum(sizes(f"{tmp_path}?splits=no&column=a&b=c?")) == 20


# --- shards and rows ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("names", "says"),
    [
        (["train-00000-of-00002"], r"1 of 2 shards are missing: 00001 of 00002"),
        (["train-00001-of-00006"], r"5 of 6 .* missing: 00000, 00002, 00003, … of 00006"),
        (["train-00000-of-00001", "train-00000-of-00002", "train-00001-of-00002"], "1 and 2 parts"),
        (["train/00000-of-00002"], "1 of 2 shards"),
        (["train_0_of_3", "train_2_of_3"], "1 of 3 shards"),
        (["train-00000-of-00001-aaaa", "train-00000-of-00001-bbbb"], "more than once"),
        (["train-00001-of-00001", "train-00000-of-00001"], "cannot exist"),
        (["data/train-00000-of-00001", "data/test-00001-of-00002"], "1 of 2 shards"),
    ],
)
def test_incomplete_sets_of_shards_are_refused(tmp_path: Path, names: list[str], says: str) -> None:
    """Oracle: what is missing, by hand; with a suffix too."""
    put(tmp_path, *((f"{name}.parquet", 20) for name in names))
    for suffix in ("", "?splits=no"):
        with pytest.raises(InputError, match=says):
            data.check(f"{tmp_path}{suffix}")


def test_complete_sets_of_shards_are_read(tmp_path: Path) -> None:
    """Oracle: all rows, in the order of the names; one shard may be empty."""
    names = [f"train-{n:05}-of-00003-{n:016x}.parquet" for n in range(3)]
    put(tmp_path, *zip(names, (20, 0, 12), strict=True), ("test-00000-of-00001.parquet", 8))
    assert sizes(tmp_path) == (28, 4, 8)


@pytest.mark.parametrize("name", ["test.parquet", "test/0.parquet"])
def test_a_split_without_rows_is_refused(tmp_path: Path, name: str) -> None:
    """Oracle: the file, before anything is decoded."""
    put(tmp_path, ("train/0.parquet", 30), (name, 0))
    for call in (data.check, data.load):
        with pytest.raises(InputError, match=rf"{name}: holds no rows, so the test split is empty"):
            call(str(tmp_path))
    assert sizes(f"{tmp_path}?splits=no") == (24, 3, 3)


@pytest.mark.parametrize("column", ["struct", "binary"])
def test_a_row_without_bytes_in_the_test_is_refused_at_once(tmp_path: Path, column: str) -> None:
    """Oracle: the file and the row, though only test images lack bytes."""
    put_columns(tmp_path / "train.parquet", 20, image=column)
    put_columns(tmp_path / "test.parquet", 5, image=column)
    table = pq.read_table(tmp_path / "test.parquet")
    rows = table.column("image").to_pylist()
    rows[3] = {"bytes": None, "path": "a.png"} if column == "struct" else None
    kind = table.schema.field("image").type
    for statistics in (True, False):
        pq.write_table(
            pa.table({"image": pa.array(rows, kind)}),
            tmp_path / "test.parquet",
            row_group_size=2,
            write_statistics=statistics,
        )
        with pytest.raises(InputError, match=r"test\.parquet, row 3 .*holds no bytes"):
            data.check(str(tmp_path))


def test_a_file_that_git_lfs_has_not_downloaded_says_so(tmp_path: Path) -> None:
    """Oracle: the way out, for Parquet files and images."""
    pointer = b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 9\n"
    (tmp_path / "rows").mkdir()
    (tmp_path / "rows" / "train-0.parquet").write_bytes(pointer)
    with pytest.raises(InputError, match=r"train-0\.parquet: is a Git LFS pointer.*git lfs pull"):
        data.check(str(tmp_path / "rows"))
    put_images(tmp_path / "files", range(20))
    (tmp_path / "files" / "00003.png").write_bytes(pointer)
    with pytest.raises(InputError, match=r"00003\.png: is a Git LFS pointer"):
        np.concatenate(
            [data.load(str(tmp_path / "files")).train, data.load_test(str(tmp_path / "files"))]
        )
