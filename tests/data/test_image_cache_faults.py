"""The cache of decoded images where files change, disappear or do not fit at an awkward moment."""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from test_image_cache import cache, decoded, require_equal, uncached
from test_membership import SIZE, load, put_files

from raycae import data
from raycae.data import decoding, folders, image_cache, pixel_files
from raycae.data.image_cache import Key
from raycae.data.pixel_files import NotCachedError

__all__ = ["cache", "decoded", "uncached"]
Uncached = Callable[..., data.Images]
N_BYTES = 40 * SIZE * SIZE * 3
"""Size of the pixels of 40 images."""


def swap_link(folder: Path) -> tuple[Path, Path, Callable[[], None]]:
    """The source is a link to a folder, and then to another one."""
    one, two = put_files(folder / "1", range(60)), put_files(folder / "2", range(100, 160))
    link = folder / "link"
    link.symlink_to(one)

    def swap() -> None:
        link.unlink()
        link.symlink_to(two)

    return link, one, swap


def swap_folders(folder: Path) -> tuple[Path, Path, Callable[[], None]]:
    """A folder in the source is exchanged for another one: the files keep their `ctime`."""
    put_files(folder / "source" / "x", range(60))
    put_files(folder / "other", range(100, 160))

    def swap() -> None:
        (folder / "source" / "x").rename(folder / "old")
        (folder / "other").rename(folder / "source" / "x")

    return folder / "source", folder / "source", swap


def restore_folders(folder: Path) -> None:
    if (folder / "old").exists():
        (folder / "source" / "x").rename(folder / "other")
        (folder / "old").rename(folder / "source" / "x")


@pytest.mark.parametrize("begin", [swap_link, swap_folders])
def test_files_that_are_exchanged_while_they_are_decoded(
    tmp_path: Path,
    cache: Path,
    uncached: Uncached,
    monkeypatch: pytest.MonkeyPatch,
    begin: Callable[[Path], tuple[Path, Path, Callable[[], None]]],
) -> None:
    """Oracle: the images before and after, by hand. The load has pixels of both, as without a
    cache; nothing is stored, so the next load of the first ones has theirs."""
    source, first, swap = begin(tmp_path)
    truth = uncached(first)
    read, calls = folders.read_image, [0]

    def read_and_swap(file: Path, size: int) -> Any:
        calls[0] += 1
        if calls[0] == 20:
            swap()
        return read(file, size)

    with monkeypatch.context() as patched:
        patched.setattr(folders, "read_image", read_and_swap)
        patched.setattr(
            folders, "run_in_threads", lambda fill, count: [fill(job) for job in range(count)]
        )
        mixed = load(source)
    assert calls == [60]
    is_first = (mixed.train == truth.train).all((1, 2, 3))
    assert is_first[:19].all()
    assert not is_first[19:].any()
    assert mixed.file is None
    (note,) = mixed.notes
    assert note.endswith(": an image file was changed while it was decoded")
    assert list(cache.iterdir()) == []
    restore_folders(tmp_path)
    require_equal(replace(load(first), summary=truth.summary), truth)


def test_a_name_stands_for_one_order_of_images(
    tmp_path: Path, uncached: Uncached, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Oracle: the images without a cache. With copies they are just large enough to be cached; what
    workers map stays, whatever a study with copies stores."""
    source = put_files(tmp_path / "all", [*range(60), *range(40)])
    expected = uncached(source)
    n_bytes = sum(path.stat().st_size for path in source.iterdir()) + 100 * SIZE * SIZE * 3
    monkeypatch.setattr(image_cache, "LEAST_BYTES", n_bytes)
    images = load(source)
    require_equal(images, expected)
    assert images.notes == ()
    shared = images.share()
    with_copies = load(source, keep_copies=True)
    assert with_copies.file is not None
    for found, pixels in zip(shared, (expected.train, expected.val, expected.test), strict=True):
        mapped = found.map() if isinstance(found, data.SharedPixels) else found
        assert np.array_equal(mapped, pixels)
    require_equal(load(source), expected)


def test_another_file_under_the_path_is_not_mapped(tmp_path: Path) -> None:
    """Oracle: the images of this process. Its open file is found in /proc; without it, that is an
    error."""
    images = load(put_files(tmp_path / "1", range(60)))
    other = load(put_files(tmp_path / "2", range(100, 160)))
    assert images.file is not None
    assert other.file is not None
    before = images.train.copy()
    shutil.copyfile(other.file.path, tmp_path / "copy")
    (tmp_path / "copy").replace(images.file.path)
    shared = images.share()[0]
    assert isinstance(shared, data.SharedPixels)
    assert np.array_equal(shared.map(), before)
    with pytest.raises(FileNotFoundError, match="deleted or replaced"):
        replace(shared, paths=shared.paths[:1]).map()


def test_paths_are_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Oracle: the images of this process, in another current folder, as workers have it."""
    source = put_files(tmp_path / "all", range(60))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("RAYCAE_CACHE", "relative")
    for images in (load(source), load(source)):  # stored, and found
        shared = images.share()[0]
        assert isinstance(shared, data.SharedPixels)
        with monkeypatch.context() as patched:
            patched.chdir("/")
            assert np.array_equal(replace(shared, paths=shared.paths[:1]).map(), images.train)


def test_without_proc_workers_get_copies(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Oracle: by hand. Arrays go through Ray's object store."""
    images = load(put_files(tmp_path / "all", range(60)))
    assert isinstance(images.share()[0], data.SharedPixels)
    is_dir = Path.is_dir
    monkeypatch.setattr(Path, "is_dir", lambda path: "/proc" not in str(path) and is_dir(path))
    for found, pixels in zip(images.share(), (images.train, images.val, images.test), strict=True):
        assert found is pixels


@pytest.mark.parametrize("code", [errno.EMFILE, errno.ENOMEM])
def test_only_damaged_files_are_deleted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    """Oracle: by hand. An error that passes deletes nothing, and neither does damage to a file that
    a process uses."""
    images = load(put_files(tmp_path / "all", range(60)))
    assert images.file is not None
    path = images.file.path

    def fail(*_: object) -> None:
        raise OSError(code, os.strerror(code))

    for owner, name in ((pixel_files, "map_pixels"), (image_cache, "_read_record")):
        with monkeypatch.context() as patched:
            patched.setattr(owner, name, fail)
            assert image_cache.find(path.stem, SIZE) is None
        assert path.exists()
        assert path.with_suffix(".record").exists()
    with path.open("r+b") as file:
        file.seek(-1, os.SEEK_END)
        file.write(bytes([255 - images.test.flat[-1]]))
    assert image_cache.find(path.stem, SIZE) is None
    assert path.exists()
    del images
    assert image_cache.find(path.stem, SIZE) is None
    assert not path.exists()


def test_inodes_do_not_count(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, decoded: list[str]
) -> None:
    """Oracle: by hand. Storage such as vfat and FUSE gives new ones at each mount."""
    source = put_files(tmp_path / "all", range(60))
    load(source)
    decoded.clear()
    stat = os.stat

    def renumber(path: Any) -> Any:
        status = stat(path)
        names = ("st_size", "st_mtime_ns", "st_ctime_ns", "st_dev")
        known = {name: getattr(status, name) for name in names}
        return SimpleNamespace(st_ino=status.st_ino + 1000, **known)

    with monkeypatch.context() as patched:
        renumbered = SimpleNamespace(**{**vars(os), "stat": renumber})
        patched.setattr(decoding, "os", renumbered)
        load(source)
    assert decoded == []


def test_nothing_is_deleted_for_images_that_cannot_fit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Oracle: by hand. First the disk is too small even without the old images, then the limit
    because a process uses them."""
    one, two = put_files(tmp_path / "1", range(40)), put_files(tmp_path / "2", range(50, 90))
    kept = load(one).file
    assert kept is not None
    path = kept.path
    del kept
    with monkeypatch.context() as patched:
        patched.setattr(image_cache, "MOST_BYTES", int(1.5 * N_BYTES))
        set_free(patched, int(0.8 * N_BYTES))
        assert "more than half" in load(two).notes[0]
    assert path.exists()
    kept = load(one).file
    monkeypatch.setattr(image_cache, "MOST_BYTES", int(1.5 * N_BYTES))
    assert "are in use" in load(two).notes[0]
    assert kept is not None
    assert path.exists()


def test_unused_images_make_room_on_a_full_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Oracle: by hand. New images need half of the free space, which the old ones have."""
    one, two = put_files(tmp_path / "1", range(40)), put_files(tmp_path / "2", range(50, 90))
    load(one)
    set_free(monkeypatch, int(1.5 * N_BYTES))
    images = load(two)
    assert images.file is not None
    assert [file.path for file in image_cache.list_files()] == [images.file.path]


def set_free(patched: pytest.MonkeyPatch, n_bytes: int) -> None:
    """Let the disk have so much free space."""
    patched.setattr(image_cache.shutil, "disk_usage", lambda _: SimpleNamespace(free=n_bytes))


def test_files_being_written_count(monkeypatch: pytest.MonkeyPatch) -> None:
    """Oracle: by hand. Two of 8 MB in a cache of 10 MB."""
    monkeypatch.setattr(image_cache, "MOST_BYTES", 10_000_000)
    shape = (1000, 52, 52, 3)
    with (
        image_cache.create_file(Key("a" * 32, 0), shape),
        pytest.raises(NotCachedError, match="in use"),
        image_cache.create_file(Key("b" * 32, 0), shape),
    ):
        pass
    with image_cache.create_file(Key("b" * 32, 0), shape):
        pass


def test_windows_has_no_cache(tmp_path: Path) -> None:
    """Oracle: a Python without `fcntl` that says it runs on Windows imports the package, and loads
    images without a cache and without a note."""
    put_files(tmp_path / "all", range(40))
    code = (
        "import sys, PIL.Image, numpy, pathlib, concurrent.futures, PIL.ImageOps, PIL.ImageCms;"
        "sys.modules['fcntl'] = None; sys.platform = 'win32';"
        "from raycae import data; from raycae.data import image_cache as c; c.LEAST_BYTES = 0;"
        f"i = data.load(sys.argv[1], image_size={SIZE}); print(i.file, i.notes)"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "all")]
    done = subprocess.run(command, capture_output=True, text=True)
    assert (done.stdout, done.stderr) == ("None ()\n", "")
