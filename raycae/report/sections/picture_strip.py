"""A strip of test images: the originals, then models and PCA of a few latent sizes."""

from __future__ import annotations

import io
from dataclasses import dataclass

import pandas as pd
from PIL import Image

from raycae.formatting import format_count
from raycae.report.html import MOST_PIXELS, make_image_uri
from raycae.report.report_data import ReportData
from raycae.report.trials import list_rows
from raycae.study.tables import ALL, PCA, SAME

N_COLUMNS = 6
"""Number of images in the strip."""
MOST_SIZES = 4
"""Largest number of latent sizes in the strip."""
OUTPUT_ROW = {"reconstruct": 1, "colourise": 2}
"""Row of the outputs in a trial's sheet, below the original and, in colourisation, the grey."""
PCA_ROW = 3
"""Row of PCA in a sheet that has it, below the outputs and their difference."""
GAP_PX = 2
"""Distance of two images in a sheet and in the strip, in pixels."""


@dataclass(frozen=True)
class PictureStrip:
    """The strip.

    Attributes:
        uri: The picture as a data URI.
        rows: The label of each row.
        text: The same images in words, for those who do not see them.
        has_pca: Whether there are rows of PCA.
    """

    uri: str
    rows: list[str]
    text: str
    has_pca: bool


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
    with_pca = set(painted.loc[painted["shows"] == PCA, "trial_number"])
    places = [
        [OUTPUT_ROW[data.task], *([PCA_ROW] if number in with_pca else [])] for number in numbers
    ]
    if len(sheets) < max(len(read), 2) or not has_layout(sheets, places, n_images):
        return None
    rows = [cut_row(sheets[0], 0, n_images)]
    for sheet, indices in zip(sheets, places, strict=True):
        rows += [cut_row(sheet, index, n_images) for index in indices]
    labels = ["original", *label_rows(data, numbers, painted)]
    return PictureStrip(
        uri=join_rows(rows),
        rows=labels,
        text=f"{rows[0].width // rows[0].height} test images in {len(rows)} rows: "
        + "; ".join(labels),
        has_pca=any(PCA_ROW in indices for indices in places),
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


def has_layout(sheets: list[Image.Image], places: list[list[int]], n_images: int) -> bool:
    """Return whether sheets are of equal width and hold the rows of `n_images` images to cut.

    Args:
        sheets: At least one sheet.
        places: The rows to cut from each sheet, counted from 0.
        n_images: The number of images in a row.
    """
    width = sheets[0].width
    if n_images < 1 or any(sheet.width != width for sheet in sheets):
        return False
    pitch = (width + GAP_PX) // n_images
    return pitch > GAP_PX and all(
        (max(rows) + 1) * pitch - GAP_PX <= sheet.height
        for sheet, rows in zip(sheets, places, strict=True)
    )


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


def label_rows(data: ReportData, numbers: list[int], painted: pd.DataFrame) -> list[str]:
    """Label the rows of trials, and of PCA below them, with the mean PSNR of the test images.

    Args:
        data: The study.
        numbers: The trials.
        painted: The content of `pictures.parquet`.

    Returns:
        The labels: the latent size or "PCA", a comma, and the PSNR.
    """
    rows = data.ranked.select(numbers)
    psnrs_db = {
        (row["trial_number"], row["shows"]): row["psnr_db"]
        for row in list_rows(painted[painted["shows"].isin([ALL, PCA])])
    }
    labels = []
    for number in numbers:
        size = format_count(rows[number]["latent_size"], "number")
        labels.append(f"{size}, {psnrs_db[number, ALL]:.1f} dB")
        if (number, PCA) in psnrs_db:
            labels.append(f"PCA, {psnrs_db[number, PCA]:.1f} dB")
    return labels
