"""`raycae cache` says what is kept, and deletes only what can be computed again."""

from __future__ import annotations

import errno
import re
from contextlib import ExitStack
from pathlib import Path
from typing import IO

import numpy as np
import pytest
from conftest import Run
from PIL import Image

from raycae import data
from raycae.data import image_cache
from raycae.data.pixel_files import lock_file
from raycae.report import baseline_cache


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache with the decoded images of a folder, a baseline, a download and a user's files."""
    folder = tmp_path / "cache"
    monkeypatch.setenv("RAYCAE_CACHE", str(folder))
    monkeypatch.setattr(image_cache, "LEAST_BYTES", 0)
    monkeypatch.setattr(image_cache, "SETTLE_S", 0.0)
    (tmp_path / "images").mkdir()
    for number in range(40):
        pixels = np.random.default_rng(number).integers(0, 256, (16, 16, 3), np.uint8)
        Image.fromarray(pixels).save(tmp_path / "images" / f"{number}.png")
    for name, size in (
        (f"baselines/{'0' * 32}.json", 2000),
        ("baselines/mine.json", 1000),
        ("components/1-0123-8x8.safetensors", 500),
        ("cifar-10-python.tar.gz", 3_000_000),
        ("cifar-10-batches-py/data_batch_1", 1_500_000),
        ("mine.txt", 10),
    ):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(bytes(size))
    return folder


def load(cache: Path) -> data.Images:
    return data.load(str(cache.parent / "images"), image_size=16)


def test_show(run: Run, cache: Path) -> None:
    """Oracle: by hand, the sizes of the files."""
    load(cache)
    code, out, err = run("cache")
    assert (code, err) == (0, "")
    lines = [line.split("  ") for line in out.splitlines()]
    rows = {cells[0] or cells[1]: cells[-1].strip() for cells in lines}
    assert lines[0] == [str(cache)]
    n_bytes = sum(path.stat().st_size for path in (cache / "decoded").iterdir())
    assert rows["decoded images"] == f"{n_bytes / 1e3:.1f} kB"
    (images,) = (row for row in rows if row.startswith("40 of 16 x 16, last used 20"))
    assert rows[images] == f"{(128 + 40 * 16 * 16 * 3) / 1e3:.1f} kB"
    assert rows["PCA baselines"] == "3.5 kB"
    assert rows["CIFAR-10 (not deleted by --clear)"] == "4.5 MB"


def test_clear(run: Run, cache: Path) -> None:
    """Oracle: by hand. Images in use stay until the search ends; downloads and files that raycae
    did not write stay for good."""
    images = load(cache)
    assert images.file is not None
    code, out, err = run("cache", "--clear")
    assert (code, err) == (0, "")
    assert out.splitlines()[0] == "deleted 2.5 kB"
    assert images.file.path.exists()
    before = images.train.copy()
    assert (images.train == before).all()
    n_bytes = sum(path.stat().st_size for path in (cache / "decoded").iterdir())
    del images
    code, out, err = run("cache", "--clear")
    assert out.splitlines()[0] == f"deleted {n_bytes / 1e3:.1f} kB"
    left = {str(path.relative_to(cache)) for path in cache.rglob("*") if path.is_file()}
    assert left == {
        *("baselines/mine.json", "cifar-10-python.tar.gz", "cifar-10-batches-py/data_batch_1"),
        "mine.txt",
    }
    assert run("cache", "--clear")[1].startswith("deleted 0.0 kB\n")


def test_clear_what_killed_processes_left(run: Run, cache: Path) -> None:
    """Oracle: by hand. The partial files of baselines and components are counted and deleted, but
    not one that a living process has locked."""
    names = [f"baselines/{'0' * 32}.{{}}.partial", "components/2-0123-8x8.{}.partial"]
    killed = [cache / name.format(1) for name in names]
    written = [cache / name.format(2) for name in names]
    for path in (*killed, *written):
        path.write_bytes(bytes(700))
    assert re.search(r"PCA baselines +6.3 kB", run("cache")[1])
    with ExitStack() as opened:
        for path in written:
            lock_file(opened.enter_context(path.open("rb")))
        assert run("cache", "--clear")[1].startswith("deleted 3.9 kB\n")
        assert [path.exists() for path in (*killed, *written)] == [False, False, True, True]
    assert run("cache", "--clear")[1].startswith("deleted 1.4 kB\n")
    assert not any(path.exists() for path in written)


@pytest.mark.parametrize("is_full", [False, True])
def test_a_file_is_locked_while_it_is_written(
    run: Run, cache: Path, monkeypatch: pytest.MonkeyPatch, is_full: bool
) -> None:
    """Oracle: by hand. The cache is cleared during a write, and the file is there after it; if the
    disk is full, nothing is left."""
    path = cache / "components" / "2-0123-8x8.safetensors"
    lock = baseline_cache.lock_file

    def clear(file: IO[bytes]) -> bool:
        is_locked = lock(file)
        run("cache", "--clear")
        if is_full:
            raise OSError(errno.ENOSPC, "No space left on device")
        return is_locked

    monkeypatch.setattr(baseline_cache, "lock_file", clear)
    baseline_cache.write_cache_file(path, b"x", 12)
    assert list(path.parent.iterdir()) == ([] if is_full else [path])


def test_without_a_cache(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Oracle: by hand. Nothing is made."""
    monkeypatch.setenv("RAYCAE_CACHE", str(tmp_path / "none"))
    for options in ((), ("--clear",)):
        code, out, err = run("cache", *options)
        assert (code, err) == (0, "")
        assert str(tmp_path / "none") in out
        assert out.count(" 0.0 kB") == 3 + len(options)
    assert not (tmp_path / "none").exists()


def test_a_folder_that_cannot_be_read(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Oracle: by hand. No system takes such a name."""
    monkeypatch.setenv("RAYCAE_CACHE", str(tmp_path / ("x" * 300)))
    for options in ((), ("--clear",)):
        code, out, err = run("cache", *options)
        assert (code, err) == (0, "")
        assert out.count(" 0.0 kB") == 3 + len(options)


def test_without_a_home(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """Oracle: one line, exit code 2."""

    def fail() -> Path:
        raise RuntimeError("no home")

    monkeypatch.setattr(data, "cache_folder", fail)
    assert run("cache") == (
        *(2, "", "raycae: this user has no home folder: set RAYCAE_CACHE to a folder\n"),
    )
