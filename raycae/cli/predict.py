"""`raycae predict`: image files through a model, to image files."""

from __future__ import annotations

import io
import math
import os
import statistics
from collections import Counter
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import numpy as np
import typer
from PIL import Image, ImageDraw, ImageFont

from raycae import data
from raycae.cli.options import LatentOption, ModelArgument, ResultsOption, find_model
from raycae.errors import InputError
from raycae.formatting import format_count, join_words, make_printable
from raycae.storage.files import require_new_file, require_writable_folder, write_atomic

if TYPE_CHECKING:
    from raycae.inference.codec import Codec

SHEET, LATENTS = "sheet.png", "latents.parquet"
"""The names of the files that show and list all images."""
MOST_ROWS = 24
"""The sheet shows at most this many images."""
MOST_SIZES = 3
"""At most this many image sizes are listed with the size of their latent."""
CELL = 400
"""The largest side of a picture on the sheet, in pixels. Small pictures are enlarged towards it."""
GAP, HEADING = 8, 28
"""The space between pictures and the height of the heading on the sheet, in pixels."""
STRIP = 256
"""Height of the strips in which pictures are compared, in pixels."""


def predict_images(
    model: ModelArgument,
    images: Annotated[list[Path], typer.Argument(metavar="IMAGE...", help="Files of any size.")],
    output: Annotated[
        Path, typer.Option("--output", "-o", metavar="FOLDER", help="Folder for the pictures.")
    ],
    label: Annotated[
        int | None,
        typer.Option(min=0, metavar="CLASS", help="Class of the images, if the model needs it."),
    ] = None,
    latents: Annotated[bool, typer.Option("--latents", help=f"Also write {LATENTS}.")] = False,
    latent: LatentOption = None,
    results_folder: ResultsOption = "results",
) -> None:
    """Reconstruct or colourise image files at their original size.

    The model's task decides which. FOLDER gets one PNG per image, and sheet.png, which shows inputs
    and outputs side by side. At the end, the command prints the mean PSNR and SSIM between inputs
    and outputs, the size of the latents, which grows with the image, and the compression ratio:
    bytes of the pixels (8 bits per channel) divided by bytes of the latents (float32). Colour
    profiles are converted to sRGB; the PNGs contain the sRGB profile. Files are never overwritten:
    if one exists, nothing is written.

    Example: raycae predict pictures *.jpg --latent 256 -o reconstructed

    Example: raycae predict ex3 holiday.jpg grandmother.png -o coloured
    """
    folder = find_model(model, latent, results_folder)
    targets = choose_targets(images, output, latents)
    # What is wrong with the last one shows before the first one is written.
    sizes = [data.picture(image).shape[:2] for image in images]

    from raycae.inference.codec import read_codec

    ready = read_codec(folder)
    if latents:
        require_latents(ready, images, sizes)
    rows: list[list[Image.Image]] = []
    codes = []
    quality: list[tuple[float, float]] = []
    for image in images:
        pixels = data.picture(image)
        painted = ready.run(pixels, label)
        quality.append(compare_pictures(pixels, painted))
        if latents:
            codes.append(ready.encode(pixels, label))
        output.mkdir(parents=True, exist_ok=True)
        write_atomic(targets[image], encode_png(Image.fromarray(painted)))
        print(make_printable(str(targets[image])), flush=True)
        if len(rows) < MOST_ROWS:
            rows.append(
                [fit_cell(Image.fromarray(p)) for p in make_columns(ready, pixels, painted)]
            )
    if latents:
        write_atomic(output / LATENTS, encode_latents(images, codes))
        print(make_printable(str(output / LATENTS)))
    names = ("original", "grey", "colourised") if len(rows[0]) == 3 else ("original", "output")
    write_atomic(output / SHEET, encode_png(draw_prediction_sheet(names, rows)))
    first = f" (the first {MOST_ROWS} images)" if len(images) > MOST_ROWS else ""
    print(make_printable(str(output / SHEET)) + first)
    print(format_quality(quality, len(images)))
    print(format_latents(ready, sizes))
    can_be_smaller = latent is None and has_smaller_model(model, results_folder, ready)
    print(format_compression(ready, sizes, can_be_smaller))


def choose_targets(images: Iterable[Path], output: Path, latents: bool) -> dict[Path, Path]:
    """Choose the file for the picture of each image.

    Args:
        images: The image files.
        output: The folder for the pictures.
        latents: Whether the latent vectors are written too.

    Returns:
        The file to write for each image.

    Raises:
        InputError: Two images would have the same file, a file exists, or none can be written.
    """
    targets = {image: output / f"{image.stem}.png" for image in images}
    written = [*targets.values(), output / SHEET, *([output / LATENTS] if latents else [])]
    path, times = Counter(written).most_common(1)[0]
    if times > 1:
        raise InputError(
            f"{path}: {times} files would have this name. Write them to separate folders."
        )
    for target in written:
        require_new_file(target)
    require_writable_folder(output, may_be_new=True)
    return targets


def require_latents(ready: Codec, images: list[Path], sizes: list[tuple[int, ...]]) -> None:
    """Raise `InputError` if the model cannot encode all images.

    Args:
        ready: The model.
        images: The image files.
        sizes: Height and width of each image.

    Raises:
        InputError: An image has another size than the only one that the model encodes.
    """
    for image, (height, width) in zip(images, sizes, strict=True):
        try:
            ready.require_latent(height, width)
        except InputError:
            side = f"{ready.config.image_size} x {ready.config.image_size}"
            raise InputError(
                f"--latents: {image} has {width} x {height} pixels, and this model encodes only "
                f"images of {side} pixels. Leave out --latents, or cut the centre square of each "
                f"image and resize it to {side}, as for training."
            ) from None


def make_columns(ready: Codec, pixels: np.ndarray, painted: np.ndarray) -> list[np.ndarray]:
    """List the pictures of one image on the sheet.

    Args:
        ready: The model.
        pixels: The image, uint8 (H, W, 3).
        painted: The output of the model, same shape and type.

    Returns:
        The original, the grey image if the model colourises, and the output.
    """
    if ready.config.task == "reconstruct":
        return [pixels, painted]
    grey = np.array(Image.fromarray(pixels).convert("L").convert("RGB"))
    return [pixels, grey, painted]


def compare_pictures(original: np.ndarray, output: np.ndarray) -> tuple[float, float]:
    """Measure how similar two pictures are, strip by strip.

    SSIM of a whole photograph would take 190 bytes of memory per pixel.

    Args:
        original: The input, uint8 (H, W, 3).
        output: The output of the model, same shape and type.

    Returns:
        PSNR in dB, and SSIM, which is not a number below 7 x 7 pixels.
    """
    import torch

    from raycae.training.metrics import WINDOW, compute_mse, compute_ssim, convert_mse_to_psnr_db

    height, width = original.shape[:2]
    mse = ssim = 0.0
    for top in range(0, height, STRIP):
        rows = slice(top, top + STRIP + WINDOW - 1)  # of all windows that begin in the strip
        a, b = (
            torch.from_numpy(picture[rows].copy()).permute(2, 0, 1)[None] / 255
            for picture in (original, output)
        )
        n_rows, n_windows = min(STRIP, height - top), a.shape[2] - WINDOW + 1
        mse += float(compute_mse(a[:, :, :n_rows], b[:, :, :n_rows])) * n_rows / height
        if n_windows > 0 and width >= WINDOW:
            ssim += float(compute_ssim(a, b)) * n_windows / (height - WINDOW + 1)
    psnr_db = float(convert_mse_to_psnr_db(torch.tensor(mse)))
    return psnr_db, ssim if min(height, width) >= WINDOW else math.nan


def format_quality(quality: list[tuple[float, float]], n_images: int) -> str:
    """Write the means of PSNR and SSIM over the images.

    Args:
        quality: PSNR in dB and SSIM of each image.
        n_images: Number of images.
    """
    psnr_db = statistics.fmean(psnr for psnr, _ in quality)
    ssims = [ssim for _, ssim in quality if not math.isnan(ssim)]
    text = f"PSNR {psnr_db:.2f} dB"
    if ssims:
        text += f", SSIM {statistics.fmean(ssims):.3f}"
    return text + (f" (means of {n_images} images)" if n_images > 1 else "")


def format_latents(ready: Codec, sizes: list[tuple[int, ...]]) -> str:
    """Write how many numbers the latents of the images have.

    Args:
        ready: The model.
        sizes: Height and width of each image.
    """
    counts = {size: ready.count_latent_values(*size) for size in sizes}
    least, most = min(counts.values()), max(counts.values())
    if len(counts) <= MOST_SIZES:
        listed = [
            f"{format_count(n, 'number')} for {width} x {height} pixels"
            for (height, width), n in counts.items()
        ]
        text = f"latent: {join_words(listed)}"
    else:
        text = f"latent: {least:,} to {format_count(most, 'number')} per image"
    own, side = ready.architecture.latent_size, ready.config.image_size
    if least == most == own:
        return text
    if ready.stride:
        return f"{text} ({own:,} for {side} x {side}, the training size)"
    return f"{text} ({own:,} for each tile of {side} x {side}; the tiles overlap)"


def has_smaller_model(model: str, results: str, ready: Codec) -> bool:
    """Return whether `--latent` can choose a model with a smaller latent.

    Args:
        model: The argument MODEL.
        results: The option `--results`.
        ready: The model that is chosen for MODEL without `--latent`.
    """
    from raycae.study import find

    with suppress(InputError):  # MODEL is the folder of a model, or there is no smaller one.
        study = find.find_study(model, results)
        find.find_kept_model(study, ready.architecture.latent_size - 1)
        return True
    return False


def format_compression(ready: Codec, sizes: list[tuple[int, ...]], can_be_smaller: bool) -> str:
    """Write the bytes of pixels and latents, and their ratio.

    Args:
        ready: The model.
        sizes: Height and width of each image.
        can_be_smaller: Whether `--latent` can choose a model with a smaller latent.
    """
    is_color = ready.config.task == "reconstruct"
    pixels = sum(height * width for height, width in sizes) * (3 if is_color else 1)
    latents = 4 * sum(ready.count_latent_values(height, width) for height, width in sizes)
    kind = "8-bit RGB" if is_color else "8-bit grey"
    text = (
        f"compression ratio {pixels / latents:.2f}: {pixels:,} bytes of pixels ({kind}) to "
        f"{latents:,} bytes of latents (float32)"
    )
    if latents > pixels:
        text += ". The latents are larger than the pixels"
        if can_be_smaller:
            own = ready.architecture.latent_size
            text += f"; --latent N with N below {own:,} chooses a smaller model"
    return text


def fit_cell(picture: Image.Image) -> Image.Image:
    """Resize a picture to a cell of the sheet.

    Args:
        picture: The picture. A small one is enlarged by a whole number, so that its pixels show.
    """
    largest = max(picture.size)
    if 2 * largest <= CELL:
        factor = CELL // largest
        grown = (picture.width * factor, picture.height * factor)
        return picture.resize(grown, Image.Resampling.NEAREST)
    picture = picture.copy()
    picture.thumbnail((CELL, CELL), Image.Resampling.LANCZOS)
    return picture


def draw_prediction_sheet(names: Iterable[str], rows: list[list[Image.Image]]) -> Image.Image:
    """Draw one row per image under the names of the columns, on white.

    Args:
        names: The names of the columns.
        rows: For each image one picture per column, all of the same width.
    """
    width = max(row[0].width for row in rows)
    heights = [row[0].height for row in rows]
    size = (
        len(rows[0]) * (width + GAP) + GAP,
        HEADING + sum(heights) + GAP * len(rows),
    )
    sheet = Image.new("RGB", size, "white")
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(size=14)
    for column, name in enumerate(names):
        left = GAP + column * (width + GAP)
        draw.text((left, 6), name, "black", font)
        top = HEADING
        for row in rows:
            sheet.paste(row[column], (left, top))
            top += row[column].height + GAP
    return sheet


def encode_latents(images: list[Path], codes: list[np.ndarray]) -> bytes:
    """A row an image: `file`, `shape` (channels, height, width), `latent`, flat in that order."""
    import pyarrow as pa

    from raycae.storage.parquet import encode_table

    table = pa.table(
        {
            "file": [os.fsencode(image).decode(errors="replace") for image in images],
            "shape": pa.array([code.shape for code in codes], pa.list_(pa.int32())),
            "latent": pa.array([code.ravel() for code in codes], pa.list_(pa.float32())),
        }
    )
    return encode_table(table)


def encode_png(picture: Image.Image) -> bytes:
    """Encode an sRGB picture as PNG, with the sRGB profile in it."""
    buffer = io.BytesIO()
    picture.save(buffer, "PNG", icc_profile=data.srgb_profile())
    return buffer.getvalue()
