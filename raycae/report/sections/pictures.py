"""Pictures of test images and what was measured on them."""

from __future__ import annotations

import base64
from dataclasses import dataclass

import pandas as pd

from raycae.errors import InputError
from raycae.formatting import format_error, format_ratio
from raycae.report.latent_error import LatentError, divide_by_linear
from raycae.report.report_data import ReportData
from raycae.report.section import Section
from raycae.report.trials import Row, list_rows, select_best_per_latent_size
from raycae.storage.paths import Place
from raycae.study import find, tables
from raycae.study.tables import ALL, BEST, SAME, WORST

PICTURES_WIDTH_PX = 812  # 12 images of 32 pixels and the gaps between them, doubled
PNG_HEADER = b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR"
PALE = 0.8
"""Outputs with less of their originals' colourfulness are clearly paler; the limit is ours."""


@dataclass(frozen=True)
class Pictures:
    """A sheet of pictures as a data URI, how wide to show it, what its rows are, the error of each
    picture (of old sheets unknown), and which split the images are of."""

    uri: str
    width_px: int
    rows: tuple[str, ...]
    errors: tuple[str, ...]
    split: str


def make_sheets(
    folder: Place,
    shown: list[int],
    painted: pd.DataFrame | None,
    ranked: list[Row],
    latent: LatentError,
    task: str,
) -> list[tuple[str, Pictures | None]]:
    """What is said of each trial that is shown, and its pictures; None where there are none yet.
    `painted`: `pictures.parquet`."""
    rows = {row["trial_number"]: row for row in ranked}
    means = average_measures(painted)
    said = []
    for number in shown:
        row = rows[number]
        over = divide_by_linear(row, latent)["linear"]
        against = "" if over == "–" else f", {over} times that of PCA"
        text = (
            f"Latent size {row['latent_size']:,}: trial {number}, "
            f"validation error {format_error(row['val_mse'])}{against}."
        )
        if number in means:
            text += f" {describe_measured(means[number], task)}"
        else:
            text += " These are validation images, which no trial was trained on."
        said.append((text, read_pictures(folder, number, painted, task)))
    return said


def describe_measured(mean: Row, task: str) -> str:
    """How far a trial's test pictures are off on average; `mean` is a row of `pictures.parquet`."""
    if task == "reconstruct":
        return (
            f"On average its test pictures have a PSNR of {mean['psnr_db']:.1f} dB and an SSIM of "
            f"{mean['ssim']:.2f}; their colours are off by Delta E {mean['delta_e']:.1f}."
        )
    return (
        f"On average the colours of test images are off by Delta E {mean['delta_e']:.1f}, their "
        f"chroma by {mean['chroma_error']:.1f} and their hue by {mean['hue_error']:.1f}."
    )


@dataclass(frozen=True)
class Gallery:
    """What stands around the sheets: what they are of, a warning, the best trial's best and worst
    images."""

    said: str
    warning: str | None
    cases: Pictures | None
    cases_sentence: str


def make_gallery(
    folder: Place,
    shown: list[int],
    painted: pd.DataFrame | None,
    trials: pd.DataFrame,
    strata: list[int] | None,
    task: str,
) -> Gallery | None:
    """None where no test image was painted yet. `painted`: `pictures.parquet`."""
    means = average_measures(painted)
    best = find.find_best_trial(trials)
    if best not in means:
        return None
    n_sizes = len(select_best_per_latent_size(trials, strata))
    some = (
        f"Of {n_sizes} latent sizes {len(shown)} are shown, evenly from the smallest to the "
        "largest, the best trial's among them."
    )
    of_what, units = (
        (" (of chroma)", "; chroma and hue are in units of CIE Lab")
        if task == "colourise"
        else ("", "")
    )
    said = (
        some if n_sizes > len(shown) else "",
        f"The test images are the same in every sheet, and below each stands its error{of_what}; "
        "no trial was trained on them or chosen by them.",
        f"The difference is output less original, {tables.AMPLIFIED} times as strong; where there "
        "is none it is grey.",
        "A Delta E (CIEDE2000) of 1 is about the least that is seen between two patches side by "
        f"side{units}.",
    )
    cases = read_pictures(folder, best, painted, task, BEST, WORST)
    least, most = (cases.errors[0], cases.errors[-1]) if cases and cases.errors else ("", "")
    cases_sentence = (
        f"Of all test images, from left to right, those with the least error of trial {best}, "
        f"from {least}, and those with the largest, up to {most}."
    )
    return Gallery(
        " ".join(filter(None, said)), warn_if_pale(best, means[best]), cases, cases_sentence
    )


def warn_if_pale(number: int, mean: Row) -> str | None:
    """A warning where a trial's pictures have clearly less colour than their originals."""
    output, original = mean["colourfulness"], mean["original_colourfulness"]
    if not output < PALE * original:
        return None
    return (
        f"The pictures of trial {number} are paler than their originals: their colourfulness "
        f"(Hasler and Süsstrunk) is {output:.1f} on average where that of the originals is "
        f"{original:.1f}: {format_ratio(output / original)} times as much."
    )


def average_measures(painted: pd.DataFrame | None) -> dict[int, Row]:
    """Of each trial what is measured of its pictures of test images, on average."""
    if painted is None:
        return {}
    return {row["trial_number"]: row for row in list_rows(painted[painted["shows"] == ALL])}


def read_pictures(
    folder: Place, number: int, painted: pd.DataFrame | None, task: str, *shows: str
) -> Pictures | None:
    """A trial's sheet of the same images as every trial's, or with `shows` BEST and WORST of those;
    None where it has not been painted. What older versions painted are validation images, of which
    `painted`, the study's `pictures.parquet`, says nothing. Raises `InputError` for what is no
    PNG."""
    path = folder / "pictures" / f"{number}{'-cases' if shows else ''}.png"
    if not path.exists():
        return None
    try:
        png = path.read_bytes() if path.is_file() else b""  # a pipe would be waited for
    except OSError as fault:
        raise InputError(f"{path}: cannot be read: {fault.strerror}") from None
    width = int.from_bytes(png[16:20], "big")  # the first field of the header, the first chunk
    if not png.startswith(PNG_HEADER) or not width:
        raise InputError(f"{path}: this is no PNG; without it, raycae report paints it anew")
    uri = f"data:image/png;base64,{base64.b64encode(png).decode()}"
    # Whole multiples: every pixel is the same size on the screen.
    scaled = width * max(PICTURES_WIDTH_PX // width, 1)
    grey = ("Grey",) if task == "colourise" else ()
    own = None if painted is None else painted[painted["trial_number"] == number]
    if own is None or own.empty:
        old = (*grey, "Output", "Original")
        return Pictures(uri, min(scaled, PICTURES_WIDTH_PX), old, (), "validation")
    drawn = own[own["shows"].isin(shows or (SAME,))]
    rows = ("Original", *grey, "Output", f"Difference × {tables.AMPLIFIED}")
    errors = tuple(map(format_error, drawn["mse"]))
    return Pictures(uri, min(scaled, PICTURES_WIDTH_PX), rows, errors, "test")


@dataclass(frozen=True, kw_only=True)
class PicturesSection(Section):
    """Sheets of pictures of test images."""

    template = "sections/pictures.html.j2"
    sheets: list[tuple[int, str, Pictures | None]]
    """Trial number, sentence, and pictures of each sheet."""
    gallery: Gallery | None
    command: str

    @classmethod
    def build(cls, data: ReportData) -> PicturesSection | None:
        """Build the section; see `Section.build`. None without a complete trial."""
        if data.best is None:
            return None
        strata = data.plan["strata"]
        sheets = make_sheets(
            data.folder, data.pictured, data.pictures, data.ranked, data.latent, data.task
        )
        gallery = make_gallery(
            data.folder, data.pictured, data.pictures, data.trials, strata, data.task
        )
        return cls(
            sheets=[(n, *sheet) for n, sheet in zip(data.pictured, sheets, strict=True)],
            gallery=gallery,
            command=data.command,
        )
