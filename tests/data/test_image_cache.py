"""Decoded images are kept and mapped; the cache never changes a pixel and is never needed."""

from __future__ import annotations

import errno
import fcntl
import hashlib
import json
import os
import pickle
import subprocess
import sys
import time
import zlib
from collections.abc import Callable
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image
from test_membership import SIZE, keys, load, picture, png, put_files, put_rows

from raycae import data
from raycae.data import decoding, folders, image_cache, parquet_images, pixel_files
from raycae.errors import InputError


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache that takes images of any size, from files that have just been written.

    The tests wait themselves until a change must show, see `wait_for_clock`.
    """
    monkeypatch.setenv("RAYCAE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(image_cache, "LEAST_BYTES", 0)
    monkeypatch.setattr(image_cache, "SETTLE_S", 0.0)
    return tmp_path / "cache" / "decoded"


@pytest.fixture
def decoded(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the images that were decoded and not read from the cache."""
    names: list[str] = []
    decode = decoding.decode

    def note(content: bytes, name: str, size: int | None) -> Any:
        names.append(name)
        return decode(content, name, size)

    monkeypatch.setattr(folders, "decode", note)
    monkeypatch.setattr(parquet_images, "decode", note)
    return names


@pytest.fixture
def uncached(monkeypatch: pytest.MonkeyPatch) -> Callable[..., data.Images]:
    """Load images as before there was a cache."""

    def call(source: Path, **options: object) -> data.Images:
        with monkeypatch.context() as patched:
            patched.setattr(image_cache, "LEAST_BYTES", 1 << 60)
            images = load(source, **options)
        assert images.file is None
        return images

    return call


def require_equal(one: data.Images, other: data.Images) -> None:
    """Everything but the file and the notes about it is equal, to the bit."""
    for split in ("train", "val", "test"):
        found, expected = getattr(one, split), getattr(other, split)
        assert found.dtype == expected.dtype == np.uint8
        assert np.array_equal(found, expected)
        for a, b in zip(one.labels[:3], other.labels[:3], strict=True):
            assert (a is None and b is None) or np.array_equal(a, b)  # type: ignore[arg-type]
    assert one.membership.to_parquet() == other.membership.to_parquet()
    same = {field.name for field in fields(one)} - {"train", "val", "test", "labels", "membership"}
    for name in same - {"notes", "file"}:
        assert getattr(one, name) == getattr(other, name)


def wait_for_clock(file: Path) -> None:
    """Wait until a change of a file must get another time than its last one."""
    probe = file.with_name(".probe")
    while True:
        probe.write_bytes(b"")
        if probe.stat().st_ctime_ns > file.stat().st_ctime_ns:
            break
        time.sleep(0.002)
    probe.unlink()


LAYOUTS: dict[str, Callable[[Path], Path]] = {
    "files": lambda folder: put_files(folder / "all", range(60)),
    "copies": lambda folder: put_files(folder / "all", [*range(50), *range(50)]),
    "rows": lambda folder: put_rows(folder / "all", train=range(40), test=range(40, 50)),
    "own-validation": lambda folder: put_rows(
        folder / "all", train=[*range(40), 41], validation=[*range(40, 50), 50], test=range(50, 60)
    ),
    "no-test": lambda folder: put_rows(folder / "all", train=range(50), val=[1, 2, *range(50, 60)]),
}


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("limit", [None, 30])
def test_equal_with_and_without_a_cache(
    tmp_path: Path,
    uncached: Callable[..., data.Images],
    decoded: list[str],
    layout: str,
    limit: int | None,
) -> None:
    """Oracle: the images without a cache, to the bit: the first load, which decodes, the second,
    which does not, and a study that is resumed, which does not either, also where copies were left
    out."""
    source = LAYOUTS[layout](tmp_path)
    options: dict[str, object] = {"limit": limit, "seed": 3}
    if layout not in ("files", "copies"):
        options["classes"] = 100
    expected = uncached(source, **options)
    decoded.clear()
    first = load(source, **options)
    assert len(decoded) > 0
    require_equal(first, expected)
    assert first.file is not None
    decoded.clear()
    require_equal(load(source, **options), expected)
    member = {**options, "membership": first.membership}
    resumed = load(source, **member)
    require_equal(resumed, uncached(source, **member))
    decoded.clear()
    require_equal(load(source, **member), resumed)
    assert decoded == []
    files = image_cache.list_files()
    for membership in (first.membership, None):
        test = data.load_test(str(source), image_size=SIZE, seed=3, membership=membership)
        assert keys(test) == keys(expected.test)
    assert [file.path for file in image_cache.list_files()] == [file.path for file in files]


def test_nothing_is_decoded_for_a_resumed_study(tmp_path: Path, decoded: list[str]) -> None:
    """Oracle: by hand. Neither with copies nor without them; other images in the folder change
    nothing."""
    for layout in ("files", "copies", "own-validation"):
        source = LAYOUTS[layout](tmp_path / layout)
        images = load(source)
        decoded.clear()
        load(source)
        load(source, membership=images.membership)
        if layout != "own-validation":
            put_files(source, [900], first=9000)
            load(source, membership=images.membership)
        assert decoded == []


def test_unreadable_profiles_are_counted(
    tmp_path: Path, uncached: Callable[..., data.Images]
) -> None:
    """Oracle: the summary without a cache, of a new search and of a study that is resumed, which
    does not decode the copies."""
    source = put_files(tmp_path / "all", [*range(50), *range(50)])
    for number in (*range(0, 100, 3), 99):
        image = Image.fromarray(picture(number % 50))
        image.save(source / f"{number:04}.png", icc_profile=b"no profile")
    expected = uncached(source)
    member = {"membership": expected.membership}
    resumed = uncached(source, **member)
    assert "unreadable colour profiles" in resumed.summary.line() != expected.summary.line()
    for _ in range(2):
        require_equal(load(source), expected)
        require_equal(load(source, **member), resumed)


@pytest.mark.parametrize("layout", ["files", "rows"])
def test_a_changed_image_is_decoded_though_size_and_time_are_as_before(
    tmp_path: Path, decoded: list[str], layout: str
) -> None:
    """Oracle: the pixels that were written. A study notices the change, as without a cache; a new
    search gets the new image."""
    source = LAYOUTS[layout](tmp_path)
    for path in source.glob("*.parquet"):  # so that the bytes of an image can be replaced
        pq.write_table(pq.read_table(path), path, compression="none", use_dictionary=False)
    images = load(source)
    name = images.membership.get_split("train")[0][0]
    path = source / name.split("#")[0]
    before = path.stat()
    wait_for_clock(path)
    content = bytearray(path.read_bytes())
    place = content.index(png(int(name.split("#")[1])) if "#" in name else content)
    changed = other_of_equal_size(int(name.split("#")[1] if "#" in name else name[:4]))
    content[place : place + len(changed)] = changed
    with path.open("r+b") as file:  # The inode stays.
        file.write(content)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    after = path.stat()
    assert (after.st_size, after.st_mtime_ns, after.st_ino) == (
        *(before.st_size, before.st_mtime_ns, before.st_ino),
    )
    with pytest.raises(InputError, match=r"1 of the .* training images .* have changed"):
        load(source, membership=images.membership)
    fresh = load(source)
    assert fresh.fingerprint != images.fingerprint
    assert (fresh.train[1:] == images.train[1:]).all()
    assert (fresh.train[0] != images.train[0]).any()


def other_of_equal_size(number: int) -> bytes:
    """The PNG of another image, as long as that of a number."""
    wanted = len(png(number))
    return next(content for other in range(5000, 9000) if len(content := png(other)) == wanted)


DAMAGE: dict[str, Callable[[Path], object]] = {
    "flipped bit": lambda path: flip(path, -5),
    "flipped header": lambda path: flip(path, 3),
    "cut": lambda path: os.truncate(path, path.stat().st_size - 7),
    "empty": lambda path: path.write_bytes(b""),
    "gone": Path.unlink,
    "zeros": lambda path: path.write_bytes(bytes(path.stat().st_size)),
}


def flip(path: Path, place: int) -> None:
    content = bytearray(path.read_bytes())
    content[place] ^= 4
    path.write_bytes(content)


@pytest.mark.parametrize("suffix", [".npy", ".record"])
@pytest.mark.parametrize("damage", DAMAGE)
def test_damaged_files_are_made_again(
    tmp_path: Path, cache: Path, decoded: list[str], damage: str, suffix: str
) -> None:
    """Oracle: the images before the damage."""
    source = put_files(tmp_path / "all", range(60))
    before = replace(load(source), file=None)
    pixels = before.train.copy(), before.val.copy(), before.test.copy()
    (path,) = cache.glob(f"*{suffix}")
    DAMAGE[damage](path)
    decoded.clear()
    after = load(source)
    for found, expected in zip((after.train, after.val, after.test), pixels, strict=True):
        assert np.array_equal(found, expected)
    assert len(decoded) == 60
    decoded.clear()
    load(source)
    assert decoded == []


@pytest.mark.parametrize("bit_seed", range(20))
def test_a_flipped_bit_never_changes_a_pixel(tmp_path: Path, cache: Path, bit_seed: int) -> None:
    """Oracle: the images before. A bit of the pixels or of the record, in any place."""
    source = put_files(tmp_path / "all", range(40))
    before = load(source)
    expected = before.fingerprint, keys(before.test), before.membership.checksum
    for path in [*cache.glob("*.npy"), *cache.glob("*.record")]:
        place = int(np.random.default_rng(bit_seed).integers(path.stat().st_size))
        flip(path, place)
        after = load(source)
        assert (after.fingerprint, keys(after.test), after.membership.checksum) == expected


def test_any_flipped_bit_of_a_header_is_an_error_or_harmless(tmp_path: Path) -> None:
    """Oracle: the pixels. Every bit of the header and the magic number before it."""
    images = load(put_files(tmp_path / "all", range(40)))
    assert images.file is not None
    content = images.file.path.read_bytes()
    expected = images.file.pixels
    path = tmp_path / "flipped.npy"
    for bit in range(8 * 128):
        flipped = bytearray(content)
        flipped[bit // 8] ^= 1 << bit % 8
        path.write_bytes(flipped)
        with path.open("rb", buffering=0) as file:
            try:
                found = pixel_files.map_pixels(file)
            except ValueError:
                continue
        is_equal = found.shape == expected.shape and np.array_equal(found, expected)
        crcs = pixel_files.compute_crcs(expected)
        assert is_equal or len(found) != 40 or (pixel_files.compute_crcs(found) != crcs).any()


FAULTS: dict[str, Callable[[pytest.MonkeyPatch, Path], None]] = {}


def fault(function: Callable[[pytest.MonkeyPatch, Path], None]) -> None:
    FAULTS[function.__name__] = function


@fault
def no_folder(patched: pytest.MonkeyPatch, folder: Path) -> None:
    (folder / "file").write_text("")
    patched.setenv("RAYCAE_CACHE", str(folder / "file" / "below"))


@fault
def long_name(patched: pytest.MonkeyPatch, folder: Path) -> None:
    patched.setenv("RAYCAE_CACHE", str(folder / ("x" * 300)))


@fault
def no_permission(patched: pytest.MonkeyPatch, folder: Path) -> None:
    """As for a folder that another user owns, also for root."""
    stat, closed = os.stat, folder / "closed"
    patched.setenv("RAYCAE_CACHE", str(closed))

    def fail(path: Any, *arguments: Any, **options: Any) -> Any:
        if str(path).startswith(str(closed)):
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return stat(path, *arguments, **options)

    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(errno.EACCES, "Permission denied")

    patched.setattr(os, "stat", fail)
    patched.setattr(os, "mkdir", refuse)


@fault
def no_home(patched: pytest.MonkeyPatch, folder: Path) -> None:
    def fail() -> Path:
        raise RuntimeError("no home")

    patched.setattr(image_cache, "cache_folder", fail)


@fault
def no_space(patched: pytest.MonkeyPatch, folder: Path) -> None:
    def fail(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    patched.setattr(os, "posix_fallocate", fail)


@fault
def space_runs_out(patched: pytest.MonkeyPatch, folder: Path) -> None:
    calls: list[object] = []
    write = os.pwrite

    def fail(*arguments: Any) -> int:
        calls.append(arguments)
        if len(calls) > 30:
            raise OSError(errno.EDQUOT, "Disk quota exceeded")
        return write(*arguments)

    patched.setattr(os, "pwrite", fail)


@fault
def no_space_for_the_record(patched: pytest.MonkeyPatch, folder: Path) -> None:
    def fail(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    patched.setattr(image_cache, "_write_record", fail)


@fault
def too_large(patched: pytest.MonkeyPatch, folder: Path) -> None:
    patched.setattr(image_cache, "MOST_BYTES", 1000)


@fault
def little_free(patched: pytest.MonkeyPatch, folder: Path) -> None:
    patched.setattr(image_cache.shutil, "disk_usage", lambda _: type("", (), {"free": 10_000}))


@fault
def clock(patched: pytest.MonkeyPatch, folder: Path) -> None:
    patched.setattr(image_cache.time, "time", lambda: 1e9)


@pytest.mark.parametrize("name", FAULTS)
def test_without_a_cache_the_images_are_the_same_and_it_is_said(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    uncached: Callable[..., data.Images],
    cache: Path,
    name: str,
) -> None:
    """Oracle: the images without a cache. One note says why; nothing is left behind."""
    source = put_files(tmp_path / "all", [*range(50), *range(40)])
    expected = uncached(source)
    with monkeypatch.context() as patched:
        FAULTS[name](patched, tmp_path)
        images = load(source)
    require_equal(images, expected)
    assert images.file is None
    (note,) = images.notes
    assert note.startswith("decoded images are not cached, so each start decodes them: ")
    assert not cache.exists() or list(cache.iterdir()) == []


def test_a_read_only_folder(tmp_path: Path, cache: Path) -> None:
    """Oracle: the mode of the folder; root may write anyway, so the test leaves it to others."""
    if os.geteuid() == 0:
        pytest.skip("root may write into a read-only folder")
    source = put_files(tmp_path / "all", range(40))
    cache.mkdir(parents=True)
    cache.chmod(0o500)
    assert "Permission denied" in load(source).notes[0]


def test_a_damaged_image_is_an_error_and_leaves_nothing(tmp_path: Path, cache: Path) -> None:
    """Oracle: by hand."""
    source = put_files(tmp_path / "all", range(40))
    (source / "0007.png").write_bytes(png(7)[:90])
    for _ in range(2):
        with pytest.raises(InputError, match=r"0007\.png: damaged"):
            load(source)
        assert list(cache.iterdir()) == []


def test_the_cache_is_bounded(
    tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch, decoded: list[str]
) -> None:
    """Oracle: by hand. Of three data sets in a cache for two, the one used last longest goes; one
    that a process uses stays, whatever its age."""
    one, two, three, four = (
        put_files(tmp_path / str(n), range(100 * n, 100 * n + 40)) for n in range(4)
    )
    n_bytes = 40 * SIZE * SIZE * 3
    monkeypatch.setattr(image_cache, "MOST_BYTES", int(2.5 * n_bytes))
    for seconds, source in enumerate((one, two)):
        file = load(source).file
        assert file is not None
        os.utime(file.path, (seconds, seconds))
    del file
    load(one)  # It was used now.
    load(three)
    assert len(list(cache.glob("*.npy"))) == len(list(cache.glob("*.record"))) == 2
    decoded.clear()
    kept = load(one)
    assert decoded == []
    for cached in image_cache.list_files():
        os.utime(cached.path, (5, 5))
    assert kept.file is not None
    os.utime(kept.file.path, (1, 1))
    load(four)
    assert kept.file.path.exists()
    assert len(list(cache.glob("*.npy"))) == 2
    decoded.clear()
    load(one)
    assert decoded == []


def test_files_of_killed_processes_are_removed(tmp_path: Path, cache: Path) -> None:
    """Oracle: by hand. One that a living process has locked stays, and so do files that raycae did
    not write."""
    cache.mkdir(parents=True)
    dead, alive = (f"{digit * 32}.0123abcd.partial" for digit in "ab")
    others = {"mine.npy", "mine.record", "mine.partial", f"{'c' * 31}.npy", f"{'c' * 32}.npy.bak"}
    for name in (dead, alive, *others):
        (cache / name).write_bytes(b"x")
    with (cache / alive).open("rb") as file:
        fcntl.flock(file, fcntl.LOCK_SH)
        load(put_files(tmp_path / "all", range(40)))
        assert {path.name for path in cache.glob("*.partial")} == {alive, "mine.partial"}
    image_cache.remove_unused()
    assert {path.name for path in cache.iterdir()} == others


def test_other_processes_map_the_same_file(tmp_path: Path) -> None:
    """Oracle: the images of this process, read by another one, also after the file was deleted,
    where the system has /proc."""
    images = load(put_files(tmp_path / "all", range(60)))
    code = (
        "import sys, json, pickle, hashlib; shared = pickle.load(sys.stdin.buffer);"
        "print(json.dumps([hashlib.sha256(s.map()).hexdigest() for s in shared]))"
    )
    content = pickle.dumps(images.share())
    assert len(content) < 2000
    expected = [hashlib.sha256(a).hexdigest() for a in (images.train, images.val, images.test)]
    for is_deleted in (False, Path("/proc/self/fd").exists()):
        assert images.file is not None
        if is_deleted:
            images.file.path.unlink()
        done = subprocess.run([sys.executable, "-c", code], input=content, capture_output=True)
        assert json.loads(done.stdout) == expected


def test_images_are_mapped_and_read_only(tmp_path: Path) -> None:
    """Oracle: NumPy. No split has memory of its own, and the file is one that NumPy opens."""
    images = load(put_files(tmp_path / "all", [*range(60), *range(20)]))
    assert images.file is not None
    stored = np.load(images.file.path, mmap_mode="r")
    everything = np.concatenate([images.train, images.val, images.test])
    assert np.array_equal(stored, everything)
    for pixels in (images.train, images.val, images.test):
        assert not pixels.flags.owndata
        assert not pixels.flags.writeable


def test_built_in_and_small_sources_are_not_cached(
    tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Oracle: by hand."""
    assert data.load("photos", image_size=8, limit=100).file is None
    monkeypatch.setattr(image_cache, "LEAST_BYTES", 1 << 20)
    images = load(put_files(tmp_path / "all", range(40)))
    assert images.file is None
    assert images.notes == ()
    assert not cache.exists()


def test_two_loads_at_once(tmp_path: Path, cache: Path) -> None:
    """Oracle: the images of a load alone. Processes that start together do not disturb each
    other."""
    source = put_files(tmp_path / "all", [*range(200), *range(30)])
    code = (
        "import sys; from raycae import data; from raycae.data import image_cache;"
        "image_cache.LEAST_BYTES = 0; image_cache.SETTLE_S = 0;"
        f"i = data.load(sys.argv[1], image_size={SIZE}); print(i.fingerprint, i.file is not None)"
    )
    command = [sys.executable, "-c", code, str(source)]
    started = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(3)]
    outputs = {process.communicate()[0] for process in started}
    assert outputs == {f"{load(source).fingerprint} True\n"}
    assert list(cache.glob("*.partial")) == []


def test_crcs_are_those_of_zlib() -> None:
    """Oracle: zlib by hand, of whole images."""
    pixels = np.random.default_rng(0).integers(0, 256, (300, 4, 4, 3), np.uint8)
    expected = [zlib.crc32(image.tobytes()) for image in pixels]
    assert pixel_files.compute_crcs(pixels).tolist() == expected
