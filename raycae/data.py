"""Sources of images, as uint8 arrays and disjoint splits.

A source is one of

- ``cifar10``: CIFAR-10, downloaded once into `cache_folder`;
- ``photos``: crops of the colour photographs inside the scikit-image wheel, no download;
- a folder of Parquet files in the Hugging Face image layout: ``train-*.parquet`` and, where
  there are any, ``validation-*.parquet`` and ``test-*.parquet``;
- a folder of image files, with or without ``train``, ``validation`` and ``test`` folders, and with
  or without class folders. Hidden files and links to folders are not followed.

A folder called ``photos`` is reached as ``./photos``.

Every source ends as three disjoint splits (see `split_indices`). Training and validation come from
`load`; the test images come from `load_test` alone, and `load` does not decode them nor, where the
source keeps them apart, open the files they are in.

CIFAR-10 says which class each image is of, and so do Parquet files with a column ``label`` of whole
numbers, as Hugging Face writes them. `load_labels` reads that, of the test images too, so that
nobody learns after a search that they cannot be evaluated.
"""

from __future__ import annotations

import difflib
import hashlib
import importlib.util
import io
import os
import re
import shutil
import stat
import sys
import tarfile
import tempfile
import threading
import urllib.request
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from dataclasses import dataclass
from functools import cached_property
from http.client import HTTPException
from itertools import accumulate, pairwise, product
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from raycae.errors import InputError

Pixels = NDArray[np.uint8]
Indices = NDArray[np.int64]

NAMED_SOURCES = ("cifar10", "photos")
IMAGE_SUFFIXES = {".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff", ".gif"}
FORMATS = ("BMP", "GIF", "JPEG", "PNG", "TIFF", "WEBP")
"""What is decoded, whatever a file is called. Pillow knows more, and would have PostScript run."""
LEAST_IMAGES = 16
"""The fewest images that training and validation together can be made of."""

_SPLIT_NAMES = {
    "train": "train",
    "val": "validation",
    "valid": "validation",
    "validation": "validation",
    "test": "test",
}
_NETWORK_TIMEOUT = 30.0  # seconds without an answer, or without another byte
_CHUNK = 256  # images a thread decodes before it asks for more
_LARGE = 1 << 24  # pixels; above, images are decoded one at a time, for each may take a gigabyte
_one_large = threading.RLock()


class Labels(NamedTuple):
    """The class of each image of a split, int64 (N,), in the order of the images; None: not asked
    for. ``fingerprint`` is that of all three."""

    train: Indices | None = None
    val: Indices | None = None
    test: Indices | None = None
    fingerprint: str | None = None


@dataclass(frozen=True)
class Images:
    """The images a search trains and validates on.

    ``train`` is uint8 (N, H, W, 3) and ``val`` uint8 (M, H, W, 3), RGB, 0 to 255, H = W.
    ``fingerprint`` is 16 hexadecimal digits: equal for equal images in equal order and shape.
    ``labels`` are the classes that were asked for.
    """

    train: Pixels
    val: Pixels
    fingerprint: str
    labels: Labels


def load(
    source: str,
    *,
    image_size: int = 32,
    limit: int | None = None,
    seed: int = 0,
    classes: int = 0,
) -> Images:
    """The training and validation images of ``source``, ``image_size`` pixels square, and with
    ``classes`` what `load_labels` gives.

    ``limit`` bounds training and validation images together; only those are decoded. The same
    arguments give the same arrays; `split_indices` says what ``seed`` and ``limit`` choose.

    Raises `InputError`, naming the source or the file, where the source is unknown or cannot be
    read, an image is damaged, or fewer than `LEAST_IMAGES` images would be left.
    """
    _check_numbers(image_size, seed)
    labels = load_labels(source, classes=classes, limit=limit, seed=seed)  # refused in no time
    pools = _open(source)
    split = _split(source, pools, limit, seed)
    if pools.validation is None:  # one pass over the files for both
        cut = len(split.train)
        both = pools.train.take(np.concatenate([split.train, split.validation]), image_size)
        train, val = both[:cut], both[cut:]
    else:
        train = pools.train.take(split.train, image_size)
        val = pools.validation.take(split.validation, image_size)
    return Images(train, val, _fingerprint(train, val), labels)


def load_test(source: str, *, image_size: int = 32, seed: int = 0) -> Pixels:
    """The test images of ``source``: uint8 (N, H, W, 3), for the final evaluation only.

    A source without test images of its own sets a tenth aside by ``seed``: the seed given here has
    to be the seed given to `load`. Raises `InputError` as `load` does.
    """
    _check_numbers(image_size, seed)
    pools = _open(source)
    if pools.test is not None:
        return pools.test.take(np.arange(len(pools.test)), image_size)
    return pools.train.take(_split(source, pools, None, seed).test, image_size)


def load_labels(source: str, *, classes: int, limit: int | None = None, seed: int = 0) -> Labels:
    """The class, 0 to ``classes`` - 1, of every image that `load` and `load_test` give with this
    ``limit`` and ``seed``. No image is decoded; without ``classes`` nothing is read at all.

    Raises `InputError` where the source does not say them, or one is not below ``classes``.
    """
    if not classes:
        return Labels()
    pools = _open(source)
    split = _split(source, pools, limit, seed)

    def labels(pool: _Pool) -> Indices:
        found = pool.labels()
        if found is None:
            raise InputError(
                f"source {source!r}: does not say which class its images are of, and "
                f"classes: {classes} asks for it; cifar10 does, and Parquet files with a column "
                "'label' of whole numbers"
            )
        if len(odd := found[(found < 0) | (found >= classes)]):
            raise InputError(
                f"source {source!r}: holds an image of class {odd[0]}; "
                f"with classes: {classes} allowed are 0 to {classes - 1}"
            )
        return found

    own = labels(pools.train)
    train = own[split.train]
    val = (own if pools.validation is None else labels(pools.validation))[split.validation]
    test = own[split.test] if pools.test is None else labels(pools.test)
    return Labels(train, val, test, _fingerprint(train, val, test))


def picture(file: Path) -> Pixels:
    """The image in ``file`` at its own size, as the images of a folder are read: uint8 (H, W, 3),
    RGB, 0 to 255. Raises `InputError` naming the file where it is none."""
    with _as_errors():
        return _read_file(file, None)


def check(source: str) -> None:
    """Raise `InputError` where ``source`` plainly cannot be read; decode and download nothing."""
    _open(source)


def cache_folder() -> Path:
    """Where downloads are kept: ``RAYCAE_CACHE``, or ``~/.cache/raycae``. It may not exist yet."""
    return Path(os.environ.get("RAYCAE_CACHE") or "~/.cache/raycae").expanduser()


# --- splits ---------------------------------------------------------------------------------------


class Split(NamedTuple):
    """Which images make up each split, in order, as indices."""

    train: Indices
    validation: Indices
    test: Indices


def split_indices(
    count: int,
    *,
    own_validation: int | None = None,
    own_test: bool,
    limit: int | None,
    seed: int,
) -> Split:
    """Divide ``count`` training images, shuffled by ``seed``, into disjoint splits.

    - A source without test images of its own (``own_test`` false) sets the first tenth of the
      shuffled images aside as ``test``, whatever the limit.
    - ``limit`` then bounds training and validation together: the first ``limit`` of the rest.
    - The first eighth of these (a ninth where a tenth went to the test) is ``validation``. So
      CIFAR-10 gives 43,750 / 6,250 / its own 10,000, and an undivided folder 80 / 10 / 10 percent.
    - A source with ``own_validation`` validation images of its own keeps them, in their order;
      ``validation`` then indexes those, and a limit is shared out in proportion, the validation
      images evenly spaced among all there are.

    A limit above the number of images means all of them. Raises `InputError` where that leaves
    fewer than `LEAST_IMAGES`, or no training or no validation image.
    """
    order = np.random.Generator(np.random.PCG64(seed)).permutation(count)
    held_out = 0 if own_test else count // 10
    test, rest = order[:held_out], order[held_out:]
    available = count + (own_validation or 0)
    wanted = available if limit is None else min(available, limit)
    if wanted < LEAST_IMAGES or count == 0 or own_validation == 0:
        own = "" if own_validation is None else f" to train on, {own_validation} to validate on"
        limited = "" if limit is None else f", limited to {limit}"
        raise InputError(
            f"too few images: there are {count}{own}{limited}; training and validation together "
            f"need at least {LEAST_IMAGES}, and one of each"
        )
    if own_validation is None:
        rest = rest[:wanted]
        cut = len(rest) // (8 if own_test else 9)
        return Split(train=rest[cut:], validation=rest[:cut], test=test)
    wanted = min(wanted, len(rest) + own_validation)
    few = max(1, wanted * own_validation // (len(rest) + own_validation))
    evenly_spaced = np.arange(few) * own_validation // few
    return Split(train=rest[: wanted - few], validation=evenly_spaced, test=test)


def _split(source: str, pools: _Pools, limit: int | None, seed: int) -> Split:
    count = len(pools.train)
    own_validation = None if pools.validation is None else len(pools.validation)
    try:
        return split_indices(
            count,
            own_validation=own_validation,
            own_test=pools.test is not None,
            limit=limit,
            seed=seed,
        )
    except InputError as error:
        raise InputError(f"source {source!r}: {error}") from None


# --- sources --------------------------------------------------------------------------------------


class _Pool(Protocol):
    """Images in a fixed order, counted without decoding and decoded when taken."""

    def __len__(self) -> int: ...

    def take(self, indices: Indices, size: int) -> Pixels:
        """uint8 (len(indices), size, size, 3), in the order of ``indices``."""

    def labels(self) -> Indices | None:
        """The class of every image, int64; None where the source does not say it."""


@dataclass(frozen=True)
class _Pools:
    """What a source holds. Pools are lazy: one that is never asked never opens its files."""

    train: _Pool
    validation: _Pool | None
    test: _Pool | None


def _open(source: str) -> _Pools:
    if source == "cifar10":
        return _Pools(_Cifar10(train=True), None, _Cifar10(train=False))
    if source == "photos":
        return _Pools(_PhotoCrops("train"), _PhotoCrops("validation"), _PhotoCrops("test"))
    folder = Path(source)
    is_folder = is_file = False
    with suppress(OSError, RuntimeError):  # a name that no file system takes, ~nobody
        folder = folder.expanduser()
        is_folder, is_file = folder.is_dir(), folder.is_file()
    if not source or not is_folder:  # an empty name would be the current folder
        raise InputError(_unknown(source, is_file))
    try:
        names = sorted(path.name for path in folder.iterdir())
    except OSError as error:
        raise InputError(f"folder {folder}: cannot be listed: {error.strerror}") from error
    parquet = [folder / name for name in names if re.fullmatch(r"(?i)[^.].*\.parquet", name)]
    return _open_parquet(folder, parquet) if parquet else _open_images(folder)


def _unknown(source: str, is_file: bool) -> str:
    what = "a file, not a folder" if is_file else "no known source and no folder"
    close = difflib.get_close_matches(source.lower(), NAMED_SOURCES, n=1)
    return (
        f"source {source!r} is {what}; allowed are {', '.join(NAMED_SOURCES)}, "
        "a folder of Parquet files (train-*.parquet) or a folder of images"
        + (f". Did you mean {close[0]}?" if close else "")
    )


def _open_parquet(folder: Path, files: list[Path]) -> _Pools:
    parts: dict[str, list[Path]] = {"train": [], "validation": [], "test": []}
    for file in files:
        if named := re.match(r"([a-z]+)[-._]", file.name.lower()):
            parts.get(_SPLIT_NAMES.get(named[1], ""), []).append(file)
    if not parts["train"]:
        raise InputError(
            f"folder {folder}: holds Parquet files, such as {files[0].name}, but none of them is "
            "named train-*.parquet (beside it, validation-*.parquet and test-*.parquet are read)"
        )
    _image_column(parts["train"][0])  # a wrong layout shows here, before anything is decoded
    return _Pools(
        _ParquetRows(parts["train"]),
        _ParquetRows(parts["validation"]) if parts["validation"] else None,
        _ParquetRows(parts["test"]) if parts["test"] else None,
    )


def _open_images(folder: Path) -> _Pools:
    parts: dict[str, list[Path]] = {"train": [], "validation": [], "test": []}
    for path in sorted(folder.iterdir()):
        if path.is_dir() and (part := _SPLIT_NAMES.get(path.name.lower())):
            parts[part].append(path)
    set_apart = {*parts["validation"], *parts["test"]}
    train = _image_files(parts["train"] or [folder], skip=set_apart)
    if not train:
        raise InputError(
            f"folder {', '.join(map(str, parts['train'] or [folder]))}: holds no images to train "
            f"on; read are {', '.join(sorted(IMAGE_SUFFIXES))} files, and train-*.parquet files"
        )
    return _Pools(_ImageFiles(train), _named_part(parts["validation"]), _named_part(parts["test"]))


def _named_part(folders: list[Path]) -> _Pool | None:
    if not folders:
        return None
    files = _image_files(folders)
    if not files:
        raise InputError(
            f"folder {folders[0]}: holds no images; put some there or remove the folder"
        )
    return _ImageFiles(files)


def _image_files(folders: Iterable[Path], skip: Iterable[Path] = ()) -> list[Path]:
    """The image files below ``folders``, in the order of their paths."""
    found: list[Path] = []
    for top in folders:
        for here, below, names in os.walk(top):
            at = Path(here)
            below[:] = [name for name in below if name[0] != "." and at / name not in skip]
            found += [
                at / name
                for name in names
                if name[0] != "." and Path(name).suffix.lower() in IMAGE_SUFFIXES
            ]
    return sorted(found)


# --- pools ----------------------------------------------------------------------------------------


class _ImageFiles:
    """One image a file."""

    def __init__(self, files: list[Path]) -> None:
        self._files = files

    def __len__(self) -> int:
        return len(self._files)

    def take(self, indices: Indices, size: int) -> Pixels:
        out = _blank(len(indices), size)

        def fill(slot: int) -> None:
            out[slot] = _read_file(self._files[indices[slot]], size)

        _in_threads(fill, len(indices))
        return out

    def labels(self) -> None:
        return None


def _read_file(file: Path, size: int | None) -> Pixels:
    try:
        n_bytes = _n_bytes(file)
        with _alone_if(n_bytes > _LARGE):
            return _decode(file.read_bytes(), str(file), size)
    except OSError as error:
        raise InputError(f"image {file}: cannot be read: {error.strerror}") from error


def _n_bytes(file: Path) -> int:
    """The size of an image file; `InputError` for what cannot be one. A pipe would be waited for,
    and a device has no end."""
    about = file.stat()
    if not stat.S_ISREG(about.st_mode):
        raise InputError(f"image {file}: a folder, a device or a pipe; it has to be a file")
    assert Image.MAX_IMAGE_PIXELS is not None  # nobody sets it
    if about.st_size > (most := 8 * Image.MAX_IMAGE_PIXELS):  # four channels of 16 bits
        raise InputError(f"image {file}: {about.st_size:,} bytes; at most {most:,} are read")
    return about.st_size


class _ParquetRows:
    """One image a row, in the order of the files and of the rows in them."""

    def __init__(self, files: list[Path]) -> None:
        self._files = files

    @cached_property
    def _ends(self) -> list[int]:
        """How many rows there are up to the end of each file."""
        return list(accumulate(_parquet(file).metadata.num_rows for file in self._files))

    def __len__(self) -> int:
        return self._ends[-1]

    def take(self, indices: Indices, size: int) -> Pixels:
        out = _blank(len(indices), size)
        bounds = pairwise([0, *self._ends])
        for file, (start, end) in zip(self._files, bounds, strict=True):
            slots = np.flatnonzero((indices >= start) & (indices < end))
            _decode_rows(file, indices[slots] - start, out, slots)
        return out

    def labels(self) -> Indices | None:
        columns = [_label_column(file) for file in self._files]
        known = [column for column in columns if column is not None]
        return np.concatenate(known) if len(known) == len(columns) else None


def _decode_rows(file: Path, rows: Indices, out: Pixels, slots: Indices) -> None:
    """Decode ``rows`` of ``file`` into ``slots`` of ``out``, one row group in memory at a time."""
    for group_rows, blobs, among in _read_rows(file, rows):

        def fill(
            job: int, rows: Indices = group_rows, blobs: list[Any] = blobs, among: Indices = among
        ) -> None:
            name = f"{file}, row {rows[job]} (the first row is 0)"
            if blobs[job] is None:
                raise InputError(f"image {name}: the row holds no bytes")
            out[slots[among[job]]] = _decode(blobs[job], name, out.shape[1])

        _in_threads(fill, len(blobs))


def _read_rows(file: Path, rows: Indices) -> Iterator[tuple[Indices, list[Any], Indices]]:
    """Per row group: the rows chosen in it, their bytes, and where in ``rows`` they stand."""
    import pyarrow as pa
    import pyarrow.compute as pc

    if len(rows) == 0:
        return
    column = _image_column(file)
    parquet = _parquet(file)
    start = 0
    for group in range(parquet.num_row_groups):
        end = start + parquet.metadata.row_group(group).num_rows
        among = np.flatnonzero((rows >= start) & (rows < end))
        if len(among):
            with _readable(file):
                table = parquet.read_row_group(group, columns=[f"{column}.bytes"])
                chosen = table.column(column).take(pa.array(rows[among] - start))
                blobs = pc.struct_field(chosen, "bytes").to_pylist()
            yield rows[among], blobs, among
        start = end


def _parquet(file: Path) -> Any:
    """The opened ``pyarrow.parquet.ParquetFile``: its footer is read, its rows are not."""
    import pyarrow.parquet as pq

    with _readable(file):
        if not file.is_file():
            raise InputError(f"Parquet file {file}: is no file")  # a pipe would be waited for
        parquet = pq.ParquetFile(file, page_checksum_verification=True)
        n_rows, n_bytes = parquet.metadata.num_rows, file.stat().st_size
        if n_rows > n_bytes:
            raise InputError(f"Parquet file {file}: damaged: {n_rows:,} rows in {n_bytes:,} bytes")
        return parquet


def _image_column(file: Path) -> str:
    """The first column of the Hugging Face image type: a struct with binary ``bytes``."""
    import pyarrow as pa

    schema = _parquet(file).schema_arrow
    for field in schema:
        if pa.types.is_struct(field.type):
            inner = {part.name: part.type for part in field.type.fields}
            kind = inner.get("bytes", pa.null())
            if pa.types.is_binary(kind) or pa.types.is_large_binary(kind):
                return str(field.name)
    raise InputError(
        f"Parquet file {file}: has no image column, a struct with binary 'bytes'; "
        f"its columns are {', '.join(schema.names) or 'none'}"
    )


def _label_column(file: Path) -> Indices | None:
    """The column ``label``, if it is one of whole numbers; -1 where a row has none."""
    import pyarrow as pa
    import pyarrow.compute as pc

    parquet = _parquet(file)
    schema = parquet.schema_arrow
    at = schema.get_field_index("label")
    if at < 0 or not pa.types.is_integer(schema.field(at).type):
        return None
    with _readable(file):
        column = parquet.read(columns=["label"]).column("label").cast(pa.int64())
    labels: Indices = pc.fill_null(column, -1).to_numpy()
    return labels


@contextmanager
def _readable(file: Path) -> Iterator[None]:
    import pyarrow as pa

    try:
        yield
    except (pa.ArrowException, OSError, LookupError, ValueError) as error:
        raise InputError(f"Parquet file {file}: cannot be read: {error}") from error


class _Cifar10:
    """One half of CIFAR-10, its training or its test images."""

    def __init__(self, train: bool) -> None:
        self._train = train

    @cached_property
    def _half(self) -> Any:
        return _cifar10(self._train)

    def __len__(self) -> int:
        return len(self._half)

    def take(self, indices: Indices, size: int) -> Pixels:
        chosen: Pixels = self._half.data[indices]
        if size == chosen.shape[1]:
            return chosen
        out = _blank(len(indices), size)

        def fill(slot: int) -> None:
            out[slot] = np.asarray(_fit(Image.fromarray(chosen[slot]), size))

        _in_threads(fill, len(indices))
        return out

    def labels(self) -> Indices:
        return np.array(self._half.targets, np.int64)


class _PhotoCrops:
    """Square crops of the photographs, from the regions that belong to one split."""

    def __init__(self, split: str) -> None:
        self._split = split

    def __len__(self) -> int:
        return len(photo_crops(self._split))

    def take(self, indices: Indices, size: int) -> Pixels:
        out = _blank(len(indices), size)
        crops = photo_crops(self._split)
        photos = {name: Image.open(_photo(name)).convert("RGB") for name in PHOTOS}
        for slot, index in enumerate(indices):
            crop = crops[index]
            # Cut first, then resize: the filter of a resize "in place" reads past the crop's edge,
            # and so into another split's region.
            out[slot] = np.asarray(_fit(photos[crop.photo].crop(crop.box), size))
        return out

    def labels(self) -> None:
        return None


# --- photos ---------------------------------------------------------------------------------------

PHOTOS = ("astronaut.png", "chelsea.png", "coffee.png", "motorcycle_left.png", "rocket.jpg")
"""The colour photographs in the scikit-image wheel. Left out: the second view of the motorcycle,
which shows again what the first shows, and medical and astronomical pictures."""

REGION = 96
"""The least side of a region, in pixels of the photograph."""

CROPS = {32: 3, 48: 3, 64: 3, 96: 1}
"""Side of a crop, in pixels of the photograph, to how many a region holds along each axis."""


class Crop(NamedTuple):
    """A square of a photograph, in its pixels."""

    photo: str
    left: int
    top: int
    side: int

    @property
    def box(self) -> tuple[int, int, int, int]:
        """Left, top, right and bottom; right and bottom are outside."""
        return self.left, self.top, self.left + self.side, self.top + self.side


def photo_crops(split: str) -> list[Crop]:
    """The crops of ``split`` ("train", "validation" or "test"), the same on every call.

    Every photograph is cut into a grid of regions and every region belongs to one split. A crop, at
    whatever scale, lies inside one region, so no pixel is seen by two splits.
    Where images larger than a crop are asked for, the crop is enlarged.
    """
    return [
        Crop(photo, left, top, side)
        for photo in PHOTOS
        for (x0, y0, x1, y1), owner in _regions(photo)
        if owner == split
        for side, along in CROPS.items()
        for top, left in product(_spread(y0, y1 - side, along), _spread(x0, x1 - side, along))
    ]


def _regions(photo: str) -> Iterator[tuple[tuple[int, int, int, int], str]]:
    """The regions of a photograph: left, top, right, bottom, and the split that owns it."""
    with Image.open(_photo(photo)) as image:
        width, height = image.size
    columns, rows = width // REGION, height // REGION
    for row, column in product(range(rows), range(columns)):
        box = (
            column * width // columns,
            row * height // rows,
            (column + 1) * width // columns,
            (row + 1) * height // rows,
        )
        # A knight's move from row to row: validation and test come from all over the photograph.
        yield box, {4: "validation", 9: "test"}.get((column + 3 * row) % 10, "train")


def _spread(first: int, last: int, count: int) -> list[int]:
    """``count`` positions evenly spaced from first to last; the middle for a single one."""
    if count == 1:
        return [(first + last) // 2]
    return [first + (last - first) * step // (count - 1) for step in range(count)]


def _photo(name: str) -> Path:
    """Where the wheel has it. scikit-image is not imported: its loaders may start a download."""
    spec = importlib.util.find_spec("skimage")
    assert spec is not None  # a dependency of the package
    return Path(str(spec.origin)).with_name("data") / name


# --- CIFAR-10 -------------------------------------------------------------------------------------


def _cifar10(train: bool) -> Any:
    """The training or the test half, from the cache, after a download where it is not there.

    Any number of processes may start together: one downloads, the others wait for it.
    """
    from filelock import FileLock

    root = cache_folder()
    try:
        return _cifar10_half(root, train)  # needs no lock, so a read-only cache will do
    except RuntimeError:
        pass  # not there, or damaged
    try:
        root.mkdir(parents=True, exist_ok=True)
        with FileLock(root / "cifar10.lock"):
            _complete_cifar10(root)
            return _cifar10_half(root, train)
    except (OSError, HTTPException, RuntimeError) as error:
        from torchvision.datasets import CIFAR10

        raise InputError(
            f"source 'cifar10' is not in {root} and cannot be downloaded there: {error}. Put "
            f"{CIFAR10.filename} into that folder, or unpacked as {root / CIFAR10.base_folder}, "
            "or use another source: photos, a folder of Parquet files or a folder of images"
        ) from error


def _cifar10_half(root: Path, train: bool) -> Any:
    """One half as torchvision's data set, with ``data`` uint8 (N, 32, 32, 3) and ``targets``;
    RuntimeError where one of its files is missing or damaged."""
    from torchvision.datasets import CIFAR10

    # torchvision checks the files of both halves; without its list, the other one stays unopened.
    half = type("Cifar10Half", (CIFAR10,), {"test_list" if train else "train_list": []})
    return half(root, train=train)


def _complete_cifar10(root: Path) -> None:
    """Have every file of CIFAR-10 whole in ``root``, from the archive, downloaded if need be."""
    from torchvision.datasets import CIFAR10
    from torchvision.datasets.utils import check_integrity

    folder = root / CIFAR10.base_folder
    wanted = [
        *CIFAR10.train_list,
        *CIFAR10.test_list,
        (CIFAR10.meta["filename"], CIFAR10.meta["md5"]),
    ]
    if all(check_integrity(folder / name, md5) for name, md5 in wanted):
        return  # another process was faster
    archive = root / CIFAR10.filename
    if not check_integrity(archive, CIFAR10.tgz_md5):
        _download(CIFAR10.url, archive, CIFAR10.tgz_md5)
    # File by file, each in one step: a process that reads without the lock sees whole files only.
    with tempfile.TemporaryDirectory(dir=root) as fresh, tarfile.open(archive) as tar:
        tar.extractall(fresh, filter="data")
        folder.mkdir(exist_ok=True)
        for file in Path(fresh, CIFAR10.base_folder).iterdir():
            file.replace(folder / file.name)


def _download(url: str, target: Path, md5: str) -> None:
    """Fetch ``url`` to ``target``, which appears only when it is whole.

    Not torchvision's own download: that one waits for ever on a silent host, asks for the file
    twice, and leaves half a file under the final name.
    """
    from torchvision.datasets.utils import check_integrity

    print(f"raycae: downloading {url} into {target.parent}", file=sys.stderr)
    partial = target.with_name(target.name + ".partial")
    request = urllib.request.Request(url, headers={"User-Agent": "raycae"})
    try:
        with (
            urllib.request.urlopen(request, timeout=_NETWORK_TIMEOUT) as reply,
            partial.open("wb") as file,
        ):
            shutil.copyfileobj(reply, file, 1 << 20)
        if not check_integrity(partial, md5):
            raise RuntimeError(f"{url} sent a file that is cut short or not CIFAR-10 (wrong MD5)")
        partial.replace(target)
    finally:
        partial.unlink(missing_ok=True)


# --- decoding -------------------------------------------------------------------------------------


def _decode(data: bytes, name: str, size: int | None) -> Pixels:
    """One encoded image as uint8 (size, size, 3), or of its own size (H, W, 3); `InputError` with
    its ``name`` where it fails."""
    try:
        if size and _is_plain_jpeg(data, size):
            # Pillow takes over where torchvision's decoder refuses (Pillow then says what is
            # wrong), was built without libjpeg, or is gone: it is deprecated since 0.29.
            with suppress(ImportError, RuntimeError):
                return _decode_plain_jpeg(data)
        with Image.open(io.BytesIO(data), formats=FORMATS) as image:
            # A JPEG can be decoded at 1/2, 1/4 or 1/8: much faster for photographs, and enough left
            # for the resize to smooth. Other formats ignore this.
            if size:
                image.draft(None, (2 * size, 2 * size))
            with _alone_if(image.width * image.height > _LARGE):
                rgb = to_rgb(image)
                return np.asarray(_fit(rgb, size) if size else rgb)
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise InputError(
            f"image {name}: refused, more than {Image.MAX_IMAGE_PIXELS:,} pixels"
        ) from error
    except UnidentifiedImageError as error:  # its own text would name a buffer in memory
        raise InputError(
            f"image {name}: damaged, or of another format than {', '.join(FORMATS)}"
        ) from error
    except Exception as error:  # decoders raise a dozen types on damaged data, none of them ours
        raise InputError(f"image {name}: damaged or not supported: {error}") from error


def _alone_if(large: bool) -> AbstractContextManager[Any]:
    return _one_large if large else nullcontext()


def to_rgb(image: Image.Image) -> Image.Image:
    """8-bit RGB, turned as its EXIF says, 16 bits scaled to 8. Transparent parts are laid over
    white, except for a colour of 16-bit grey that is to be transparent: it is seen."""
    image = ImageOps.exif_transpose(image)
    if image.mode == "F":
        raise ValueError("floating-point pixels have no agreed range, save it with 8 or 16 bits")
    if image.mode.startswith("I"):  # Pillow's modes for 16-bit grey, and for 32 bits
        grey = np.asarray(image)
        if grey.min() < 0 or grey.max() > 65535:
            raise ValueError("32-bit pixels have no agreed range, save it with 8 or 16 bits")
        image = Image.fromarray((grey // 257).astype(np.uint8))  # 65535 / 257 = 255
    elif image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image.convert("RGB")


def _fit(image: Image.Image, size: int) -> Image.Image:
    """The centre square, resized to ``size`` with antialiasing."""
    if image.size == (size, size):
        return image
    return ImageOps.fit(image, (size, size), Image.Resampling.LANCZOS)


def _is_plain_jpeg(data: bytes, size: int) -> bool:
    """Whether this is a JPEG of just the size wanted, grey or of three channels, without EXIF.

    Such images are what ready-made data sets hold by the ten thousand. They need none of the steps
    in `to_rgb`, and their size is known before memory is asked for.
    """
    if data[:2] != b"\xff\xd8":
        return False
    at = 2
    while at + 10 <= len(data) and data[at] == 0xFF:
        marker, length = data[at + 1], int.from_bytes(data[at + 2 : at + 4], "big")
        if marker in (0xC0, 0xC1, 0xC2):  # start of frame: length, depth, height, width, channels
            height = int.from_bytes(data[at + 5 : at + 7], "big")
            width = int.from_bytes(data[at + 7 : at + 9], "big")
            return height == width == size and data[at + 9] in (1, 3)
        if marker in (0xE1, 0xEE):  # EXIF (a rotation), Adobe (a colour transform)
            return False
        at += 2 + length
    return False


def _decode_plain_jpeg(data: bytes) -> Pixels:
    """Three times as fast as Pillow on small images, with the same pixels."""
    import torch
    from torchvision.io import ImageReadMode, decode_jpeg

    encoded = torch.frombuffer(bytearray(data), dtype=torch.uint8)
    pixels: Pixels = decode_jpeg(encoded, ImageReadMode.RGB).permute(1, 2, 0).numpy()
    return pixels


def _in_threads(fill: Callable[[int], None], count: int) -> None:
    """Call ``fill`` with 0 to count - 1 on a few threads; the first error ends it."""

    def run(chunk: Sequence[int]) -> None:
        for slot in chunk:
            fill(slot)

    chunks = [range(start, min(start + _CHUNK, count)) for start in range(0, count, _CHUNK)]
    # Set here, not in the threads: the filters belong to the whole process.
    with _as_errors(), ThreadPoolExecutor(min(4, os.cpu_count() or 1)) as pool:
        for _ in pool.map(run, chunks):
            pass


@contextmanager
def _as_errors() -> Iterator[None]:
    """Pillow only warns of the smaller decompression bombs."""
    with warnings.catch_warnings():
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        warnings.filterwarnings("ignore", "The image decoding", DeprecationWarning)  # torchvision
        yield


def _blank(count: int, size: int) -> Pixels:
    return np.empty((count, size, size, 3), np.uint8)


def _fingerprint(*arrays: NDArray[Any]) -> str:
    digest = hashlib.blake2b(digest_size=8)
    for array in arrays:
        digest.update(repr(array.shape).encode())
        digest.update(np.ascontiguousarray(array).data)
    return digest.hexdigest()


def _check_numbers(image_size: int, seed: int) -> None:
    if image_size < 1:
        raise InputError(f"image size {image_size}: allowed are whole numbers from 1 pixel on")
    if seed < 0:
        raise InputError(f"seed {seed}: allowed are whole numbers from 0 on")
