"""Embedded colour profiles are converted to sRGB; what is written is sRGB and says so."""

from __future__ import annotations

import io
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import Run
from models import put_model
from PIL import Image, ImageCms
from test_data import encoded, put_images

import raycae
from raycae import data
from raycae.data import colour_profiles, decoding, photos

pytestmark = pytest.mark.filterwarnings("ignore:The image decoding:DeprecationWarning")

WHITE = (0.9642, 1.0, 0.8249)  # of the profile connection space, D50
SRGB = ((0.43607, 0.22249, 0.01392), (0.38515, 0.71687, 0.09708), (0.14307, 0.06061, 0.71410))
ADOBE = ((0.60974, 0.31111, 0.01947), (0.20528, 0.62567, 0.06087), (0.14919, 0.06322, 0.74457))
P3 = ((0.51512, 0.24120, -0.00105), (0.29198, 0.69225, 0.04189), (0.15710, 0.06657, 0.78407))


def fixed(value: float) -> bytes:
    return struct.pack(">i", round(value * 65536))


def icc(space: bytes, tags: dict[bytes, bytes]) -> bytes:
    """An ICC profile of version 2 with these tags, by the specification."""
    text = b"made up\0"
    described = b"desc\0\0\0\0" + struct.pack(">I", len(text)) + text + bytes(78)
    xyz = b"XYZ \0\0\0\0" + b"".join(map(fixed, WHITE))
    tags = {b"desc": described, b"cprt": b"text\0\0\0\0none\0", b"wtpt": xyz, **tags}
    at = 128 + 4 + 12 * len(tags)
    table, content = struct.pack(">I", len(tags)), b""
    for name, tag in tags.items():
        tag += bytes(-len(tag) % 4)
        table += name + struct.pack(">II", at + len(content), len(tag))
        content += tag
    head = struct.pack(">I", at + len(content)) + b"lcms\x02\x10\0\0mntr" + space + b"XYZ "
    head += bytes(12) + b"acsp" + bytes(28) + b"".join(map(fixed, WHITE))
    return head.ljust(128, b"\0") + table + content


def gamma_curve(gamma: float) -> bytes:
    return b"curv\0\0\0\0" + struct.pack(">IH", 1, round(gamma * 256)) + b"\0\0"


def rgb_profile(primaries: tuple[tuple[float, ...], ...], gamma: float) -> bytes:
    tags = {}
    for letter, primary in zip(b"rgb", primaries, strict=True):
        tags[bytes([letter]) + b"XYZ"] = b"XYZ \0\0\0\0" + b"".join(map(fixed, primary))
        tags[bytes([letter]) + b"TRC"] = gamma_curve(gamma)
    return icc(b"RGB ", tags)


def grey_profile(gamma: float) -> bytes:
    return icc(b"GRAY", {b"kTRC": gamma_curve(gamma)})


def srgb_curve(linear: np.ndarray) -> np.ndarray:
    """IEC 61966-2-1: linear light to encoded values, both in [0, 1]."""
    linear = np.clip(linear, 0, 1)
    return np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)


def converted(
    pixels: np.ndarray, primaries: tuple[tuple[float, ...], ...], gamma: float
) -> np.ndarray:
    """What a person sees, in sRGB, 0 to 255: by the matrices and curves, without a library."""
    linear = (pixels / 255) ** gamma
    xyz = linear @ np.array(primaries)
    return 255 * srgb_curve(xyz @ np.linalg.inv(np.array(SRGB)))


def decode(image: bytes, size: int | None = None) -> np.ndarray:
    return decoding.decode(image, "the image", size)[0]


PATCHES = np.zeros((64, 64, 3), np.uint8)
PATCHES[:32, :32], PATCHES[:32, 32:] = (200, 60, 50), (70, 180, 60)
PATCHES[32:, :32], PATCHES[32:, 32:] = (60, 70, 190), (210, 190, 80)
CENTRES = ((16, 16), (16, 48), (48, 16), (48, 48))


def centres(pixels: np.ndarray) -> np.ndarray:
    return np.array([pixels[y, x] for y, x in CENTRES], int)


@pytest.mark.parametrize(
    ("format", "options"),
    [
        ("PNG", {}),
        ("JPEG", {"quality": 98, "subsampling": 0}),
        ("WEBP", {"lossless": True}),
        ("TIFF", {}),
        ("AVIF", {"quality": 100, "subsampling": "4:4:4"}),
    ],
)
@pytest.mark.parametrize(("primaries", "gamma"), [(ADOBE, 2.2), (P3, 1.8), (SRGB, 1.0)])
def test_profiles_are_converted(
    format: str, options: dict[str, Any], primaries: tuple[tuple[float, ...], ...], gamma: float
) -> None:
    """Oracle: matrices and curves in numpy. All sources read alike, also a picture's own size."""
    profile = rgb_profile(primaries, gamma)
    image = encoded(Image.fromarray(PATCHES), format, icc_profile=profile, **options)
    expected = converted(centres(PATCHES), primaries, gamma)
    near = 2 if format in ("PNG", "TIFF", "WEBP") else 8
    assert np.abs(centres(decode(image)) - expected).max() <= near
    assert np.abs(centres(decode(image, 64)) - expected).max() <= near
    assert np.abs(expected - centres(PATCHES)).max() > 10  # there was something to convert


def test_a_small_jpeg_with_a_profile_is_converted() -> None:
    """Oracle: the same picture as PNG."""
    image = Image.fromarray(PATCHES)
    options = {"quality": 98, "subsampling": 0}
    profile = rgb_profile(ADOBE, 2.2)
    jpeg = encoded(image, "JPEG", icc_profile=profile, **options)
    expected = centres(decode(encoded(image, "PNG", icc_profile=profile)))
    assert np.abs(centres(decode(jpeg, 64)) - expected).max() <= 8


@pytest.mark.parametrize("mode", ["L", "LA", "1", "I;16", "P", "RGBA"])
def test_profiles_of_other_modes_are_converted(mode: str) -> None:
    """Oracle: the curves in numpy, by hand: a grey profile of gamma 1, an RGB one of gamma 1."""
    value, alpha = 60, 128
    light = round(float(255 * srgb_curve(np.array(value / 255))))
    images = {
        "L": (Image.new("L", (8, 8), value), light),
        "LA": (Image.new("LA", (8, 8), (value, alpha)), light * alpha / 255 + 255 - alpha),
        "1": (Image.new("1", (8, 8), 1), 255),
        "I;16": (Image.fromarray(np.full((8, 8), value * 257, np.uint16)), light),
        "P": (Image.new("RGB", (8, 8), (value,) * 3).quantize(2), light),
        "RGBA": (
            Image.new("RGBA", (8, 8), (value, value, value, alpha)),
            light * alpha / 255 + 255 - alpha,
        ),
    }
    image, expected = images[mode]
    profile = rgb_profile(SRGB, 1.0) if mode in ("P", "RGBA") else grey_profile(1.0)
    pixels = decode(encoded(image, "PNG", icc_profile=profile))
    assert np.abs(pixels.astype(float) - expected).max() <= 2


def test_a_grey_image_with_a_colour_profile(tmp_path: Path) -> None:
    """Oracle: the same picture in colour."""
    profile = rgb_profile(ADOBE, 1.8)
    grey = Image.new("L", (8, 8), 90)
    pixels = decode(encoded(grey, "PNG", icc_profile=profile))
    assert np.array_equal(pixels, decode(encoded(grey.convert("RGB"), "PNG", icc_profile=profile)))


def cmyk_profile() -> bytes:
    """A printer's profile: white paper without ink; ink of any kind lets less light through."""
    n = 9
    steps = np.linspace(0, 1, n)
    grid = np.stack(np.meshgrid(*[steps] * 4, indexing="ij"), -1).reshape(-1, 4)
    rgb = (1 - grid[:, :3]) * (1 - grid[:, 3:])
    linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
    xyz = linear @ np.array(SRGB) / WHITE
    f = np.where(xyz > 0.008856, np.cbrt(xyz), 7.787 * xyz + 16 / 116)
    lab = np.stack([116 * f[:, 1] - 16, 500 * (f[:, 0] - f[:, 1]), 200 * (f[:, 1] - f[:, 2])], -1)
    codes = np.stack([lab[:, 0] * 652.8, (lab[:, 1] + 128) * 256, (lab[:, 2] + 128) * 256], -1)
    table = np.clip(np.round(codes), 0, 65535).astype(">u2").tobytes()
    identity = struct.pack(">2H", 0, 65535)
    lut = b"mft2\0\0\0\0" + bytes([4, 3, n, 0]) + b"".join(map(fixed, (1, 0, 0, 0, 1, 0, 0, 0, 1)))
    lut += struct.pack(">2H", 2, 2) + identity * 4 + table + identity * 3
    profile = bytearray(icc(b"CMYK", {b"A2B0": lut}))
    profile[12:16], profile[20:24] = b"prtr", b"Lab "
    return bytes(profile)


@pytest.mark.parametrize("format", ["TIFF", "JPEG"])
def test_a_printers_profile_is_converted(format: str) -> None:
    """Oracle: the colour model that the profile was made from, in numpy."""
    ink = (30, 200, 180, 20)
    image = Image.new("CMYK", (32, 32), ink)
    options = {"quality": 98} if format == "JPEG" else {}
    content = encoded(image, format, icc_profile=cmyk_profile(), **options)
    c, m, y, k = (value / 255 for value in ink)
    expected = np.array([255 * (1 - value) * (1 - k) for value in (c, m, y)])
    pixels, remarks = decoding.decode(content, "the image", 32)
    assert not remarks
    assert np.abs(pixels[16, 16] - expected).max() <= 6


def test_an_srgb_profile_changes_no_pixel() -> None:
    """Oracle: the pixels without a profile, for sRGB by two libraries' curves."""
    noise = np.random.Generator(np.random.PCG64(0)).integers(0, 256, (64, 64, 3), np.uint8)
    exact = [struct.pack(">H", round(65535 * v)) for v in linear_light(np.linspace(0, 1, 1024))]
    curve = b"curv\0\0\0\0" + struct.pack(">I", 1024) + b"".join(exact)
    tags = {}
    for letter, primary in zip(b"rgb", SRGB, strict=True):
        tags[bytes([letter]) + b"XYZ"] = b"XYZ \0\0\0\0" + b"".join(map(fixed, primary))
        tags[bytes([letter]) + b"TRC"] = curve
    for profile in (data.srgb_profile(), icc(b"RGB ", tags)):
        for format in ("PNG", "JPEG"):
            plain = encoded(Image.fromarray(noise), format)
            tagged = encoded(Image.fromarray(noise), format, icc_profile=profile)
            assert np.array_equal(decode(tagged, 64), decode(plain, 64))


def linear_light(values: np.ndarray) -> np.ndarray:
    return np.where(values <= 0.04045, values / 12.92, ((values + 0.055) / 1.055) ** 2.4)


BAD = {
    "text": b"no profile",
    "cut short": rgb_profile(ADOBE, 2.2)[:200],
    "zeros": bytes(500),
    "of grey, on colour": grey_profile(1.0),
    "a link between devices": rgb_profile(ADOBE, 2.2).replace(b"mntr", b"link", 1),
}


@pytest.mark.parametrize("kind", BAD)
def test_an_unreadable_profile_is_srgb_and_counted(tmp_path: Path, kind: str) -> None:
    """Oracle: the pixels without the profile; the file's name in the summary."""
    plain, bad = Image.fromarray(PATCHES), encoded(Image.fromarray(PATCHES), icc_profile=BAD[kind])
    assert np.array_equal(decode(bad), np.asarray(plain))
    put_images(tmp_path / "train", range(20))
    put_images(tmp_path / "test", range(20, 22))
    (tmp_path / "train" / "bad.png").write_bytes(bad)
    (left_out,) = data.load(str(tmp_path)).summary.left_out
    assert str(left_out) == "1 unreadable colour profile, read as sRGB: train/bad.png"


def test_frames_and_dark_16_bits_are_counted(tmp_path: Path) -> None:
    """Oracle: the names of the files, in the summary. Further pictures of MPO, which cameras add,
    are no frames; 12 bits scaled to 16 are not dark."""
    put_images(tmp_path / "train", range(20))
    put_images(tmp_path / "test", range(20, 22))
    frames = [Image.fromarray(np.roll(PATCHES, roll, axis=0)) for roll in range(3)]
    for name in ("stack.tif", "loop.gif", "loop.webp", "loop.png"):
        frames[0].save(tmp_path / "train" / name, save_all=True, append_images=frames[1:])
    frames[0].save(tmp_path / "train" / "phone.jpg", "MPO", save_all=True, append_images=frames[1:])
    levels = np.arange(4096, dtype=np.uint16).reshape(64, 64)
    Image.fromarray(levels).save(tmp_path / "train" / "dark.tif")
    Image.fromarray(levels << 4).save(tmp_path / "train" / "scaled.png")
    left_out = data.load(str(tmp_path)).summary.left_out
    assert [str(entry) for entry in left_out] == [
        "4 images whose further frames are not read: train/loop.gif, train/loop.png, "
        "train/loop.webp, …",
        "1 16-bit image of at most 12 bits, nearly black: train/dark.tif",
    ]


def test_a_gif_that_ends_in_a_later_frame_is_read() -> None:
    """Oracle: Pillow, which decodes the first frame of each part of the file that has it whole; an
    image that was changed, or whose file is closed, is taken as it is."""
    frames = [Image.fromarray(np.roll(PATCHES, roll, axis=0)) for roll in range(3)]
    buffer = io.BytesIO()
    frames[0].save(buffer, "GIF", save_all=True, append_images=frames[1:])
    content = buffer.getvalue()
    whole = decode(content)
    n_read = 0
    for end in range(len(content) * 2 // 5, len(content)):
        try:
            with Image.open(io.BytesIO(content[:end])) as image:
                image.load()
        except OSError:
            continue
        n_read += 1
        assert np.array_equal(decode(content[:end]), whole)
    assert n_read > 100
    with Image.open(io.BytesIO(content)) as image:
        image.load()
        image.paste(0, (0, 0, *image.size))
        changed = np.asarray(image.convert("RGB"))
        assert np.array_equal(np.asarray(decoding.to_rgb(image)), changed)
    assert np.array_equal(np.asarray(decoding.to_rgb(image)), changed)


def test_the_photos_are_srgb() -> None:
    """Oracle: a crop of the rocket, which is an Adobe RGB file, by matrices and curves; of the
    others, which are sRGB, the pixels as Pillow reads them."""
    crops = data.photo_crops("train")
    for name in data.PHOTOS:
        with Image.open(photos._find_photo(name)) as image:
            pixels = np.asarray(image.convert("RGB"))
        index = next(at for at, crop in enumerate(crops) if crop[0] == name and crop.side == 32)
        left, top, right, bottom = crops[index].box
        seen = pixels[top:bottom, left:right]
        taken = np.empty((1, 32, 32, 3), np.uint8)
        photos.PhotoCrops("train").decode_into(taken, np.array([0]), np.array([index]))
        if name == "rocket.jpg":
            assert np.abs(taken[0] - np.clip(converted(seen, ADOBE, 2.2), 0, 255)).max() <= 3
        else:
            assert np.array_equal(taken[0], seen)


def test_predict_and_codec_write_srgb_and_say_so(run: Run, tmp_path: Path) -> None:
    """Oracle: the profile in the files, as Pillow's colour engine reads it; the pixels are those of
    the picture converted by hand. The file is the same whenever it is written."""
    folder = put_model(tmp_path / "m", {})
    wide = tmp_path / "wide.png"
    wide.write_bytes(encoded(Image.fromarray(PATCHES), icc_profile=rgb_profile(ADOBE, 2.2)))
    assert run("predict", folder, wide, "-o", tmp_path / "out")[0] == 0
    assert run("predict", folder, wide, "-o", tmp_path / "again")[0] == 0
    for name in ("wide.png", "sheet.png"):
        assert (tmp_path / "out" / name).read_bytes() == (tmp_path / "again" / name).read_bytes()
        with Image.open(tmp_path / "out" / name) as image:
            profile = ImageCms.getOpenProfile(io.BytesIO(image.info["icc_profile"]))
        assert "sRGB" in ImageCms.getProfileDescription(profile)
    codec = raycae.load(folder)
    expected = codec.reconstruct(decode(wide.read_bytes()))
    given = codec.reconstruct(Image.open(wide))
    assert np.array_equal(np.asarray(given), expected)
    assert np.array_equal(np.asarray(Image.open(tmp_path / "out" / "wide.png")), expected)
    for format in ("PNG", "TIFF"):
        written = Image.open(io.BytesIO(encoded(given, format)))
        assert written.info.get("icc_profile") == colour_profiles.srgb_profile(), format
