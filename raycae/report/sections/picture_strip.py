"""A strip of test images: the originals, then models and PCA of a few latent sizes.

The script of the page cuts the strip from the picture sheets, so that the page holds each picture
only once.
"""

from __future__ import annotations

import io
import math
from dataclasses import dataclass
from typing import Any

import pandas as pd
from PIL import Image

from raycae.formatting import format_count, join_words
from raycae.report.html import MOST_PIXELS
from raycae.report.plotting import EXACT
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
        cuts: What the script of the page cuts from the sheets; see `plan_cuts`.
        rows: The label of each row.
        text: The same images in words, for those who do not see them.
        has_pca: Whether there are rows of PCA.
        selection: Which of the latent sizes are shown; empty if all are.
    """

    cuts: dict[str, Any]
    rows: list[str]
    text: str
    has_pca: bool
    selection: str


def make_picture_strip(data: ReportData) -> PictureStrip | None:
    """Choose the strip from the picture sheets of the study.

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
    cuts = [(numbers[0], 0)]
    cuts += [(number, row) for number, rows in zip(numbers, places, strict=True) for row in rows]
    labels = ["original", *label_rows(data, numbers, painted)]
    return PictureStrip(
        cuts=plan_cuts(cuts, sheets[0].width, n_images),
        rows=labels,
        text=f"{min(N_COLUMNS, n_images)} test images in {len(labels)} rows: " + "; ".join(labels),
        has_pca=any(PCA_ROW in indices for indices in places),
        selection=describe_selection(data, numbers),
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


def describe_selection(data: ReportData, numbers: list[int]) -> str:
    """Describe which latent sizes the strip shows if there are others.

    Args:
        data: The study.
        numbers: The trials in the strip, by latent size.

    Returns:
        A sentence; empty if the strip shows all latent sizes.
    """
    n_sizes = data.latent.points["latent_size"].nunique()
    if n_sizes == len(numbers):
        return ""
    rows = data.ranked.select(numbers)
    sizes = join_words([f"{rows[number]['latent_size']:,}" for number in numbers])
    return f"{len(numbers)} of {n_sizes} latent sizes are shown: {sizes}."


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


def plan_cuts(rows: list[tuple[int, int]], sheet_width: int, n_images: int) -> dict[str, Any]:
    """Plan which parts of the sheets make up the strip.

    Every second image is shown, because neighbours may be crops of one photograph.

    Args:
        rows: The trial and the row of its sheet, counted from 0, for each row of the strip.
        sheet_width: The width of the sheets in pixels.
        n_images: The number of images in a row of a sheet. They are square.

    Returns:
        The `rows`; the `pitch` of images in the sheets and in the strip, and their `gap`, in
        pixels; the `step` between shown images; and `width` and `height` of the strip in pixels.
    """
    pitch = (sheet_width + GAP_PX) // n_images
    n_columns = min(N_COLUMNS, n_images)
    return {
        "rows": rows,
        "pitch": pitch,
        "gap": GAP_PX,
        "step": n_images // n_columns,
        "width": n_columns * pitch - GAP_PX,
        "height": len(rows) * pitch - GAP_PX,
    }


def label_rows(data: ReportData, numbers: list[int], painted: pd.DataFrame) -> list[str]:
    """Label the rows of trials, and of PCA below them, with the PSNR on the test images.

    Args:
        data: The study.
        numbers: The trials.
        painted: The content of `pictures.parquet`.

    Returns:
        The labels: the latent size or "PCA", a comma, and the PSNR. In reconstruction it is the
        PSNR of the test error, which the figure shows, too. In colourisation, whose error is that
        of the chroma, it is the mean PSNR of the pictures.
    """
    rows = data.ranked.select(numbers)
    means_db = {
        (row["trial_number"], row["shows"]): row["psnr_db"]
        for row in list_rows(painted[painted["shows"].isin([ALL, PCA])])
    }
    labels = []
    for number in numbers:
        row = rows[number]
        code = data.latent.find_best_linear(row["latent_size"])
        errors: dict[str, float | None] = {
            ALL: row["test_mse"],
            PCA: code.test_mse if code else None,
        }
        for kind, name in ((ALL, format_count(row["latent_size"], "number")), (PCA, "PCA")):
            if (number, kind) in means_db:
                error = errors[kind]
                psnr_db = means_db[number, kind]
                if data.task == "reconstruct" and error is not None:
                    psnr_db = -10 * math.log10(max(error, EXACT))
                labels.append(f"{name}, {psnr_db:.1f} dB")
    return labels
