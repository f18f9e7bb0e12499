"""Read folders of image files."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable
from pathlib import Path

from PIL import Image

from raycae.data.decoding import (
    LARGE,
    alone_if,
    blank_images,
    decode,
    run_in_threads,
    warnings_as_errors,
)
from raycae.data.splits import SPLIT_NAMES
from raycae.data.types import ImagePool, Indices, Pixels, Pools
from raycae.errors import InputError

IMAGE_SUFFIXES = {".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff", ".gif"}


def picture(file: Path) -> Pixels:
    """The image in ``file`` at its own size, as the images of a folder are read: uint8 (H, W, 3),
    RGB, 0 to 255. Raises `InputError` naming the file where it is none."""
    with warnings_as_errors():
        return read_image(file, None)


def open_images(folder: Path) -> Pools:
    parts: dict[str, list[Path]] = {"train": [], "validation": [], "test": []}
    for path in sorted(folder.iterdir()):
        if path.is_dir() and (part := SPLIT_NAMES.get(path.name.lower())):
            parts[part].append(path)
    set_apart = {*parts["validation"], *parts["test"]}
    train = _image_files(parts["train"] or [folder], skip=set_apart)
    if not train:
        raise InputError(
            f"folder {', '.join(map(str, parts['train'] or [folder]))}: holds no images to train "
            f"on; read are {', '.join(sorted(IMAGE_SUFFIXES))} files, and train-*.parquet files"
        )
    return Pools(
        ImageFiles(folder, train),
        _named_part(folder, parts["validation"]),
        _named_part(folder, parts["test"]),
    )


def _named_part(source: Path, folders: list[Path]) -> ImagePool | None:
    if not folders:
        return None
    files = _image_files(folders)
    if not files:
        raise InputError(
            f"folder {folders[0]}: holds no images; put some there or remove the folder"
        )
    return ImageFiles(source, files)


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


class ImageFiles:
    """One image a file."""

    def __init__(self, folder: Path, files: list[Path]) -> None:
        self._folder, self._files = folder, files

    def __len__(self) -> int:
        return len(self._files)

    def names(self) -> list[str]:
        return [file.relative_to(self._folder).as_posix() for file in self._files]

    def take(self, indices: Indices, size: int) -> Pixels:
        out = blank_images(len(indices), size)

        def fill(slot: int) -> None:
            out[slot] = read_image(self._files[indices[slot]], size)

        run_in_threads(fill, len(indices))
        return out

    def labels(self) -> None:
        return None


def read_image(file: Path, size: int | None) -> Pixels:
    try:
        n_bytes = _n_bytes(file)
        with alone_if(n_bytes > LARGE):
            return decode(file.read_bytes(), str(file), size)
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
