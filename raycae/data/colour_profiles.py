"""Convert images with an ICC profile to sRGB, and embed sRGB in files that are written.

The rendering intent is perceptual, which the ICC recommends for photographs. For the profiles of
cameras and screens (a matrix and curves) it gives the same colours as the relative colorimetric
intent. For printers' tables it preserves differences between colours outside sRGB, which the
relative colorimetric intent would merge.
"""

from __future__ import annotations

import io
import struct
from functools import lru_cache

import numpy as np
from PIL import Image, ImageCms

SAME = 2
"""Levels of 255 up to which a profile counts as sRGB.

Profiles of sRGB differ by this much through rounding alone.
"""

_CLASSES = (b"scnr", b"mntr", b"prtr", b"spac")
"""Classes of profiles that describe the colours of an image."""


class UnreadableProfileError(Exception):
    """The profile is damaged, or made for another kind of image."""


def apply_profile(image: Image.Image, profile: bytes) -> Image.Image:
    """Convert the colours of an image to sRGB.

    Args:
        image: Mode L, RGB or CMYK.
        profile: Its ICC profile.

    Returns:
        Mode RGB. The pixels of an image whose profile is sRGB stay as they are.

    Raises:
        UnreadableProfileError: The profile is damaged or for another mode.
    """
    space = profile[16:20]
    if image.mode == "L" and space == b"RGB ":
        image = image.convert("RGB")
    if (image.mode, space) not in (("L", b"GRAY"), ("RGB", b"RGB "), ("CMYK", b"CMYK")):
        raise UnreadableProfileError(f"a profile of {space!r} on an image of mode {image.mode}")
    transform = _make_transform(profile, image.mode)
    if transform is None:
        return image.convert("RGB")
    converted = ImageCms.applyTransform(image, transform)
    assert converted is not None  # It is None only for a conversion in place.
    return converted


@lru_cache(maxsize=1)
def srgb_profile() -> bytes:
    """Return an sRGB profile to embed in files; the same bytes on every call and machine."""
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    date = struct.pack(">6H", 2020, 1, 1, 0, 0, 0)  # the library writes the current time here
    return profile[:24] + date + profile[36:]


@lru_cache(maxsize=32)
def _make_transform(profile: bytes, mode: str) -> ImageCms.ImageCmsTransform | None:
    """Build the transform to sRGB, or return None if it would change nothing."""
    if profile[12:16] not in _CLASSES:
        raise UnreadableProfileError(f"a profile of the class {profile[12:16]!r}")
    try:
        transform = ImageCms.buildTransform(
            ImageCms.ImageCmsProfile(io.BytesIO(profile)),
            ImageCms.createProfile("sRGB"),
            mode,
            "RGB",
            ImageCms.Intent.PERCEPTUAL,
        )
        probe = _make_probe(mode)
        converted = np.asarray(ImageCms.applyTransform(probe, transform), np.int16)
    except (ImageCms.PyCMSError, OSError, TypeError, ValueError) as error:
        raise UnreadableProfileError(str(error)) from error
    same = mode != "CMYK" and np.abs(converted - np.asarray(probe.convert("RGB"))).max() <= SAME
    return None if same else transform


def _make_probe(mode: str) -> Image.Image:
    """Return an image of colours that cover the range of a mode."""
    levels = np.arange(0, 256, 15, dtype=np.uint8)
    if mode == "RGB":
        grid = np.stack(np.meshgrid(levels, levels, levels), -1)
        return Image.fromarray(grid.reshape(len(levels), -1, 3))
    return Image.fromarray(np.arange(256, dtype=np.uint8)[None]).convert(mode)
