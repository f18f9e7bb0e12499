"""A strip of test images: the originals, then what a few latent sizes make of them."""

from __future__ import annotations

import io
from dataclasses import dataclass

import pandas as pd
from PIL import Image

from raycae.formatting import format_count
from raycae.report.html import MOST_PIXELS, make_image_uri
from raycae.report.report_data import ReportData
from raycae.report.trials import list_rows
from raycae.study.tables import ALL, SAME

N_COLUMNS = 6
"""Number of images in the strip."""
MOST_SIZES = 4
"""Largest number of latent sizes in the strip."""
OUTPUT_ROW = {"reconstruct": 1, "colourise": 2}
"""Row of the outputs in a trial's sheet, below the original and, in colourisation, the grey."""
GAP_PX = 2
"""Distance of two images in a sheet and in the strip, in pixels."""


@dataclass(frozen=True)
class PictureStrip:
    """The strip.

    Attributes:
        uri: The picture as a data URI.
        rows: The label of each row.
        text: The same images in words, for those who do not see them.
    """

    uri: str
    rows: list[str]
    text: str


def make_picture_strip(data: ReportData) -> PictureStrip | None:
    """Cut the strip from the picture sheets of the study.

    Args:
        data: The study.

    Returns:
        The strip; None if fewer than two latent sizes have pictures of test images.
    """
    painted = data.pictures
    if painted is None:
        return None
    measured = painted[painted["psnr_db"].notna()]
    with_mean = set(measured.loc[measured["shows"] == ALL, "trial_number"])
    numbers = select_evenly([n for n in data.pictured if n in with_mean], MOST_SIZES)
    read = [read_sheet(data, number) for number in numbers]
    sheets = [sheet for sheet in read if sheet is not None]
    n_images = int((painted[painted["trial_number"].isin(numbers[:1])]["shows"] == SAME).sum())
    if len(sheets) < max(len(read), 2) or not has_layout(sheets, n_images, data.task):
        return None
    rows = [cut_row(sheets[0], 0, n_images)]
    rows += [cut_row(sheet, OUTPUT_ROW[data.task], n_images) for sheet in sheets]
    labels = ["original", *label_trials(data, numbers, painted)]
    return PictureStrip(
        uri=join_rows(rows),
        rows=labels,
        text=f"{rows[0].width // rows[0].height} test images in {len(rows)} rows: "
        + "; ".join(labels),
    )


def select_evenly(numbers: list[int], most: int) -> list[int]:
    """Select at most `most` entries, evenly from the first to the last.

    Args:
        numbers: The entries.
        most: At least 2.
    """
    if len(numbers) <= most:
        return numbers
    return [numbers[round(i * (len(numbers) - 1) / (most - 1))] for i in range(most)]


def read_sheet(data: ReportData, number: int) -> Image.Image | None:
    """Read the sheet of a trial.

    Args:
        data: The study.
        number: The trial.

    Returns:
        The sheet; None if it is missing or cannot be decoded.
    """
    path = data.folder / "pictures" / f"{number}.png"
    try:
        content = path.read_bytes() if path.is_file() else b""  # A pipe would be waited for.
        with Image.open(io.BytesIO(content), formats=("PNG",)) as sheet:
            return sheet.convert("RGBA") if sheet.width * sheet.height <= MOST_PIXELS else None
    except Exception:  # Pillow raises many types for a damaged file.
        return None


def has_layout(sheets: list[Image.Image], n_images: int, task: str) -> bool:
    """Return whether sheets are of equal size and hold the rows of `n_images` images to cut.

    Args:
        sheets: At least one sheet.
        n_images: The number of images in a row.
        task: The task.
    """
    width, height = sheets[0].size
    if n_images < 1 or any(sheet.size != (width, height) for sheet in sheets):
        return False
    pitch = (width + GAP_PX) // n_images
    return pitch > GAP_PX and (OUTPUT_ROW[task] + 1) * pitch - GAP_PX <= height


def cut_row(sheet: Image.Image, row: int, n_images: int) -> Image.Image:
    """Cut some images of a row out of a sheet.

    Every second one is cut, because neighbours may be crops of one photograph.

    Args:
        sheet: The sheet, whose images are square.
        row: The row, counted from 0.
        n_images: The number of images in a row of the sheet.

    Returns:
        At most `N_COLUMNS` images side by side.
    """
    pitch = (sheet.width + GAP_PX) // n_images
    side = pitch - GAP_PX
    n_columns = min(N_COLUMNS, n_images)
    step = n_images // n_columns
    strip = Image.new("RGBA", (n_columns * pitch - GAP_PX, side))
    for i in range(n_columns):
        left, top = i * step * pitch, row * pitch
        strip.paste(sheet.crop((left, top, left + side, top + side)), (i * pitch, 0))
    return strip


def join_rows(rows: list[Image.Image]) -> str:
    """Join rows of images to one picture, as a data URI.

    Args:
        rows: The rows, of equal size.
    """
    width, height = rows[0].size
    joined = Image.new("RGBA", (width, len(rows) * (height + GAP_PX) - GAP_PX))
    for i, row in enumerate(rows):
        joined.paste(row, (0, i * (height + GAP_PX)))
    buffer = io.BytesIO()
    joined.save(buffer, "PNG")
    return make_image_uri(buffer.getvalue())


def label_trials(data: ReportData, numbers: list[int], painted: pd.DataFrame) -> list[str]:
    """Label rows with the latent size and the mean PSNR of all test images.

    Args:
        data: The study.
        numbers: The trials.
        painted: The content of `pictures.parquet`.
    """
    rows = data.ranked.select(numbers)
    means = {row["trial_number"]: row for row in list_rows(painted[painted["shows"] == ALL])}
    return [
        f"{format_count(rows[number]['latent_size'], 'number')}, {means[number]['psnr_db']:.1f} dB"
        for number in numbers
    ]
