"""Decode image files to uint8 RGB arrays."""

from __future__ import annotations

import hashlib
import io
import os
import threading
import warnings
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

try:
    from PIL.AvifImagePlugin import SUPPORTED as HAS_AVIF
except ImportError:  # Pillow before 11.3
    HAS_AVIF = False

from raycae.data.colour_profiles import UnreadableProfileError, apply_profile
from raycae.data.summary import Reason
from raycae.data.types import Origin, Pixels
from raycae.errors import InputError
from raycae.formatting import format_count, join_words

SUFFIXES_OF = {
    "BMP": (".bmp", ".dib"),
    "GIF": (".gif",),
    "JPEG": (".jpg", ".jpeg", ".jpe", ".jfif", ".jif"),
    "PNG": (".png", ".apng"),
    "TIFF": (".tif", ".tiff"),
    "WEBP": (".webp",),
} | ({"AVIF": (".avif", ".avifs")} if HAS_AVIF else {})
"""Formats that are decoded, and the suffixes of their files."""
FORMATS = tuple(sorted(SUFFIXES_OF))
"""Formats that are decoded, whatever the suffix of a file.

Pillow can decode more formats, but it runs PostScript for some of them.
"""
IMAGE_SUFFIXES = tuple(sorted(suffix for suffixes in SUFFIXES_OF.values() for suffix in suffixes))
"""Suffixes of the image files that are read from a folder."""
LFS_POINTER = b"version https://git-lfs.github.com/spec/"
"""The first bytes of a file that Git LFS has not downloaded yet."""

_CHUNK = 256
"""Number of images that a thread decodes per task."""

MOST_NAMED = 5
"""At most this many images that cannot be decoded are named in a message."""

LARGE = 1 << 24
"""Pixels or bytes from which images are decoded one at a time: each may take a gigabyte."""

MOST_OF_12_BITS = 4095
"""Brightest value of cameras and scanners with 12 bits, which often write 16-bit files."""

_large_image_lock = threading.RLock()
"""Held while a large image is decoded."""


class DamagedImageError(InputError):
    """The content of an image cannot be decoded.

    Args:
        message: The text for the user.
        problems: The name of each such image and the message about it, if there may be several.

    Attributes:
        problems: See above.
    """

    def __init__(self, message: str, problems: Sequence[tuple[str, str]] = ()) -> None:
        super().__init__(message)
        self.problems = problems


def require_undamaged(problems: Sequence[tuple[str, str]]) -> None:
    """Raise an error that names all images that cannot be decoded.

    Args:
        problems: The name of each such image and the message about it.

    Raises:
        DamagedImageError: There are some.
    """
    if not problems:
        return
    (_, message), *others = problems
    if others:
        names = [name for name, _ in others[: MOST_NAMED - 1]]
        if n_more := len(others) - len(names):
            names.append(f"{n_more:,} more")
        count = format_count(len(others), "other image")
        message = f"{message.rstrip('.')}. {count} cannot be decoded either: {join_words(names)}."
    raise DamagedImageError(message, problems)


def decode(data: bytes, name: str, size: int | None) -> tuple[Pixels, list[Reason]]:
    """Decode one image to sRGB.

    Args:
        data: The encoded image.
        name: What messages call it.
        size: The side of the square that it is cut and resized to, in pixels; None: its own size.

    Returns:
        sRGB, uint8 (size, size, 3) or (H, W, 3); and what of it is not read as it is.

    Raises:
        DamagedImageError: The image is damaged, too large or of a format that is not decoded.
    """
    try:
        with Image.open(io.BytesIO(data), formats=FORMATS) as image:
            # Decoding a JPEG at 1/2, 1/4 or 1/8 leaves enough pixels for the resize to smooth. From
            # 2,000 x 2,000 to 32 x 32 pixels, it takes 6 instead of 106 ms of CPU
            # (analysis/FINDINGS.md). Other formats ignore this.
            if size:
                image.draft(None, (2 * size, 2 * size))
            with lock_large_image(image.width * image.height > LARGE):
                rgb, remarks = _to_srgb(image)
                if _has_more_frames(image):
                    remarks.append(Reason.MORE_FRAMES)
                return np.asarray(fit_square(rgb, size) if size else rgb), remarks
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise DamagedImageError(
            f"image {name}: refused, more than {Image.MAX_IMAGE_PIXELS:,} pixels"
        ) from error
    except UnidentifiedImageError as error:  # whose text names a buffer in memory
        if data.startswith(LFS_POINTER):
            raise DamagedImageError(
                f"image {name}: is a Git LFS pointer, not the image; run git lfs pull"
            ) from error
        raise DamagedImageError(
            f"image {name}: damaged, or of another format than {', '.join(FORMATS)}"
        ) from error
    except Exception as error:  # Decoders raise a dozen types on damaged data.
        raise DamagedImageError(
            f"image {name}: damaged or not supported: {error}. Repair it or remove it from the "
            "images."
        ) from error


def lock_large_image(large: bool) -> AbstractContextManager[Any]:
    """Return a lock that is held while a large image is decoded.

    Args:
        large: Whether the image is large.

    Returns:
        A context manager; it does nothing for other images.
    """
    return _large_image_lock if large else nullcontext()


def to_rgb(image: Image.Image) -> Image.Image:
    """Convert an image of any mode to 8-bit sRGB.

    The EXIF rotation and the colour profile are applied, and 16 bits are scaled to 8. Transparent
    parts are drawn over white, except for a transparent colour of 16-bit grey, which stays visible.

    Args:
        image: The image, of any mode of Pillow.

    Returns:
        The image in mode RGB.

    Raises:
        ValueError: The pixels are floating-point or have 32 bits, without an agreed range.
    """
    return _to_srgb(image)[0]


def _to_srgb(image: Image.Image) -> tuple[Image.Image, list[Reason]]:
    """Convert an image like `to_rgb`; also return what of it is not read as it is."""
    remarks = []
    image = ImageOps.exif_transpose(image)
    has_profile, profile = "icc_profile" in image.info, image.info.get("icc_profile")
    if image.mode == "F":
        raise ValueError("floating-point pixels have no agreed range; save it with 8 or 16 bits")
    is_grey = image.mode in ("1", "L", "LA")
    if image.mode.startswith("I"):  # Pillow's modes for 16-bit grey, and for 32 bits
        grey = np.asarray(image)
        if grey.min() < 0 or grey.max() > 65535:
            raise ValueError("32-bit pixels have no agreed range; save it with 8 or 16 bits")
        if grey.max() <= MOST_OF_12_BITS:
            remarks.append(Reason.FEW_BITS)
        image = Image.fromarray((grey // 257).astype(np.uint8))  # 65535 / 257 = 255
        is_grey = True
    elif image.has_transparency_data:
        image = image.convert("RGBA")
    if has_profile:
        # Grey images with transparency are RGBA here, with three equal channels.
        mode = "CMYK" if image.mode == "CMYK" else "L" if is_grey else "RGB"
        plain = image.getchannel("R") if is_grey and image.mode == "RGBA" else image.convert(mode)
        with suppress(UnreadableProfileError):
            converted = apply_profile(plain, profile or b"")
            if image.mode == "RGBA":
                converted.putalpha(image.getchannel("A"))
            image, has_profile = converted, False
    if image.mode == "RGBA":
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image.convert("RGB"), remarks + [Reason.BAD_PROFILE] * has_profile


def _has_more_frames(image: Image.Image) -> bool:
    """Return whether an opened file has frames after the first, which may be damaged."""
    with suppress(Exception):  # GIF is searched for them.
        # The further images of MPO, which cameras write as JPEG, are previews and other views.
        return getattr(image, "is_animated", False) and image.format != "MPO"
    return True


def fit_square(image: Image.Image, size: int) -> Image.Image:
    """Cut the centre square of an image and resize it with antialiasing.

    Args:
        image: The image.
        size: Side of the result in pixels.

    Returns:
        The resized square; `image` itself if it has the size already.
    """
    if image.size == (size, size):
        return image
    return ImageOps.fit(image, (size, size), Image.Resampling.LANCZOS)


def run_in_threads(fill: Callable[[int], None], count: int) -> None:
    """Call a function with every number from 0 to a count, on up to four threads.

    Two threads decode 4,000 small JPEG files in 9.3 instead of 12.3 s, on two cores with other work
    (analysis/FINDINGS.md).

    Args:
        fill: The function; its first exception ends the loop.
        count: How often it is called.
    """

    def run(chunk: Sequence[int]) -> None:
        for slot in chunk:
            fill(slot)

    chunks = [range(start, min(start + _CHUNK, count)) for start in range(0, count, _CHUNK)]
    # The filters are set here and not in the threads, because they are global to the process.
    with warnings_as_errors(), ThreadPoolExecutor(min(4, os.cpu_count() or 1)) as pool:
        for _ in pool.map(run, chunks):
            pass


@contextmanager
def warnings_as_errors() -> Iterator[None]:
    """Turn Pillow's warning of a decompression bomb into an exception."""
    with warnings.catch_warnings():
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        yield


def identify_files(folder: Path, files: Sequence[Path]) -> Origin:
    """Describe the state of files without reading them, as backup programs do.

    The time of the last status change (ctime) is part of it. The kernel sets it when a file is
    changed or renamed, and programs cannot set it as they can the modification time. Inodes are not
    part of it, because some file systems give new ones at each mount.

    Args:
        folder: Their folder.
        files: Paths relative to it, in the order of the images.

    Returns:
        The description.

    Raises:
        OSError: A file is missing or cannot be examined.
    """
    root = os.path.realpath(folder)
    digest = hashlib.blake2b(os.fsencode(root) + b"\0", digest_size=16)
    n_bytes = changed_ns = 0
    for file in files:
        name = str(file)
        status = os.stat(os.path.join(root, name))  # noqa: PTH116, PTH118 - half the time
        state = status.st_size, status.st_mtime_ns, status.st_ctime_ns
        digest.update(os.fsencode(name) + repr(state).encode() + b"\0")
        n_bytes += status.st_size
        changed_ns = max(changed_ns, status.st_ctime_ns)
    return Origin(digest.digest(), n_bytes, changed_ns)


def blank_images(count: int, size: int) -> Pixels:
    """Allocate memory for square images.

    Args:
        count: Number of images.
        size: Side of the images in pixels.

    Returns:
        Uninitialised memory, uint8 (count, size, size, 3).
    """
    return np.empty((count, size, size, 3), np.uint8)
