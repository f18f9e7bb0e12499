"""Pictures of test images and what was measured on them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import pandas as pd

from raycae.errors import InputError
from raycae.formatting import format_error, format_ratio
from raycae.report.architecture_drawing import Drawing
from raycae.report.html import make_image_uri
from raycae.report.latent_error import LatentError, measure_against_linear
from raycae.report.report_data import ReportData
from raycae.report.section import Section
from raycae.report.trials import (
    RankedRows,
    Row,
    list_rows,
    select_best_per_latent_size,
    select_ended,
)
from raycae.storage.paths import Place
from raycae.study import find, tables
from raycae.study.tables import ALL, BEST, N_MEASURED, PCA, SAME, WORST

PICTURES_WIDTH_PX = 812  # 12 images of 32 pixels and the gaps between them, doubled
PNG_HEADER = b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR"
PALE = 0.8
"""Outputs with less of their originals' colourfulness are clearly paler; the limit is ours."""


@dataclass(frozen=True)
class Pictures:
    """A sheet of pictures.

    Attributes:
        uri: The sheet as a data URI.
        width_px: The width in which it is shown, in pixels.
        rows: The labels of its rows.
        errors: The error of each output as text; empty for sheets of older versions.
        split: The split of the images, `test` or `validation`.
    """

    uri: str
    width_px: int
    rows: tuple[str, ...]
    errors: tuple[str, ...]
    split: str


def make_sheets(
    folder: Place,
    shown: list[int],
    painted: pd.DataFrame | None,
    ranked: RankedRows,
    latent: LatentError,
    task: str,
) -> list[tuple[str, Pictures | None]]:
    """Make the sentence and the sheet of each pictured trial.

    Args:
        folder: The folder of the study.
        shown: The trial numbers.
        painted: The content of `pictures.parquet`; None without it.
        ranked: All trials as rows.
        latent: The baselines.
        task: The task.

    Returns:
        Sentence and sheet of each trial; None in place of a sheet that is not painted yet.
    """
    rows = ranked.select(shown)
    means, pca_means = average_measures(painted), average_measures(painted, PCA)
    sheets = []
    for number in shown:
        row = rows[number]
        over = measure_against_linear(row, latent)["linear"]
        against = "" if over == "–" else f", {over} times that of PCA"
        text = (
            f"Latent size {row['latent_size']:,}: trial {number}, "
            f"validation error {format_error(row['val_mse'])}{against}."
        )
        if number in means:
            text += f" {describe_measured(means[number], task)}"
            if number in pca_means:
                text += f" {describe_pca(pca_means[number])}"
        else:
            text += " These are validation images, which no trial was trained on."
        sheets.append((text, read_pictures(folder, number, painted, task)))
    return sheets


def describe_measured(mean: Row, task: str) -> str:
    """Describe how far the pictures of a trial differ from the originals on average.

    Args:
        mean: A row of `pictures.parquet`.
        task: The task.
    """
    if task == "reconstruct":
        return (
            f"On average its test pictures have a mean PSNR of {mean['psnr_db']:.1f} dB and an "
            f"SSIM of {mean['ssim']:.2f}; their colours are off by Delta E {mean['delta_e']:.1f}."
        )
    return (
        f"On average the colours of test images are off by Delta E {mean['delta_e']:.1f}, their "
        f"chroma by {mean['chroma_error']:.1f} and their hue by {mean['hue_error']:.1f}."
    )


def describe_pca(mean: Row) -> str:
    """Describe the pictures of PCA below those of a trial.

    Args:
        mean: A row of `pictures.parquet`.
    """
    return (
        f"PCA has a mean PSNR of {mean['psnr_db']:.1f} dB and an SSIM of "
        f"{mean['ssim']:.2f}; its colours are off by Delta E {mean['delta_e']:.1f}."
    )


def describe_selection(shown: list[int], trials: pd.DataFrame, strata: Sequence[int] | None) -> str:
    """Say which latent sizes have pictures.

    Args:
        shown: The numbers of the pictured trials.
        trials: Trials in any state.
        strata: The upper bounds of the latent-size bins; None without bins.

    Returns:
        Two sentences; empty if each latent size has pictures.
    """
    n_sizes = select_ended(trials)["latent_size"].nunique()
    if n_sizes <= len(shown):
        return ""
    n_selected = len(select_best_per_latent_size(trials, strata))
    if strata is None and n_selected == n_sizes:
        which = "evenly from the smallest to the largest"
    else:
        which = (
            "those whose best trial was not stopped early"
            if strata is None
            else "the one with the lowest error in each bin"
        )
        if n_selected > len(shown):
            which = f"spread evenly over {which}"
    sizes = f"{len(shown)} of {n_sizes} latent sizes are shown"
    return f"{sizes}, {which}. The best trial is included."


@dataclass(frozen=True)
class Gallery:
    """The text around the sheets, and the best and worst images of the best trial.

    Attributes:
        text: What the sheets show.
        warning: A warning about pale pictures; None without one.
        cases: The sheet of the best and worst images; None if it is not painted yet.
        cases_sentence: What that sheet shows.
    """

    text: str
    warning: str | None
    cases: Pictures | None
    cases_sentence: str


def make_gallery(
    folder: Place,
    shown: list[int],
    painted: pd.DataFrame | None,
    trials: pd.DataFrame,
    task: str,
    strata: Sequence[int] | None,
) -> Gallery | None:
    """Make the text around the sheets.

    Args:
        folder: The folder of the study.
        shown: The numbers of the pictured trials.
        painted: The content of `pictures.parquet`; None without it.
        trials: Trials in any state.
        task: The task.
        strata: The upper bounds of the latent-size bins; None without bins.

    Returns:
        The gallery; None if no test images of the best trial are painted yet.
    """
    means = average_measures(painted)
    best = find.find_best_trial(trials)
    if best not in means:
        return None
    of_chroma, units = (
        (" (of chroma)", " Chroma and hue are in units of CIE Lab.")
        if task == "colourise"
        else ("", "")
    )
    sentences = (
        describe_selection(shown, trials, strata),
        f"The test images are the same in every sheet, with the error{of_chroma} below each. They "
        "were used neither for training nor for selection. Means and best and worst images are "
        f"taken from all test images, or from {N_MEASURED:,} evenly spaced ones if there are more.",
        f"The difference is output minus original, amplified {tables.AMPLIFIED} times, with grey "
        "for no difference.",
        "The PCA row shows the best PCA whose latent is no larger than the model's."
        if average_measures(painted, PCA)
        else "",
        "A Delta E (CIEDE2000) of 1 is about the smallest visible difference between two adjacent "
        f"patches.{units}",
    )
    cases = read_pictures(folder, best, painted, task, BEST, WORST)
    least, most = (cases.errors[0], cases.errors[-1]) if cases and cases.errors else ("", "")
    cases_sentence = (
        f"Test images with the lowest errors (left, from {least}) and the highest errors (right, "
        f"up to {most}) of trial {best}."
    )
    return Gallery(
        " ".join(filter(None, sentences)), warn_if_pale(best, means[best]), cases, cases_sentence
    )


def warn_if_pale(number: int, mean: Row) -> str | None:
    """Warn if the pictures of a trial clearly have less colour than their originals.

    Args:
        number: The trial.
        mean: Its row of `pictures.parquet`.

    Returns:
        The warning; None if there is no reason for it.
    """
    output, original = mean["colourfulness"], mean["original_colourfulness"]
    if not output < PALE * original:
        return None
    return (
        f"The pictures of trial {number} are paler than their originals. Their mean colourfulness "
        f"(Hasler and Süsstrunk) is {output:.1f}, {format_ratio(output / original)} times that of "
        f"the originals, {original:.1f}."
    )


def average_measures(painted: pd.DataFrame | None, shows: str = ALL) -> dict[int, Row]:
    """Return the average measurements of each trial's pictures of test images.

    Args:
        painted: The content of `pictures.parquet`; None without it.
        shows: PCA for those of the PCA below a trial.
    """
    if painted is None:
        return {}
    return {row["trial_number"]: row for row in list_rows(painted[painted["shows"] == shows])}


def read_pictures(
    folder: Place, number: int, painted: pd.DataFrame | None, task: str, *shows: str
) -> Pictures | None:
    """Read a picture sheet of a trial.

    Older versions painted validation images; `pictures.parquet` has no rows for them.

    Args:
        folder: The folder of the study.
        number: The trial.
        painted: The content of `pictures.parquet`; None without it.
        task: The task.
        shows: BEST and WORST for the sheet of those images; nothing for the images of every trial.

    Returns:
        The sheet; None if it is not painted yet.

    Raises:
        InputError: The file is not a PNG.
    """
    path = folder / "pictures" / f"{number}{'-cases' if shows else ''}.png"
    if not path.exists():
        return None
    try:
        png = path.read_bytes() if path.is_file() else b""  # a pipe would be waited for
    except OSError as fault:
        raise InputError(f"{path}: cannot be read: {fault.strerror}") from None
    width = int.from_bytes(png[16:20], "big")  # the first field of the header, the first chunk
    if not png.startswith(PNG_HEADER) or not width:
        raise InputError(
            f"{path}: not a PNG file. Delete it and run raycae report to paint it again"
        )
    uri = make_image_uri(png)
    # Whole multiples: every pixel is the same size on the screen.
    scaled = width * max(PICTURES_WIDTH_PX // width, 1)
    grey = ("Grey",) if task == "colourise" else ()
    measured = None if painted is None else painted[painted["trial_number"] == number]
    if measured is None or measured.empty:
        old = (*grey, "Output", "Original")
        return Pictures(uri, min(scaled, PICTURES_WIDTH_PX), old, (), "validation")
    drawn = measured[measured["shows"].isin(shows or (SAME,))]
    difference = f"Difference × {tables.AMPLIFIED}"
    rows = ("Original", *grey, "Output", difference)
    if (measured["shows"] == PCA).any():
        rows += ("PCA",)
    errors = tuple(map(format_error, drawn["mse"]))
    return Pictures(uri, min(scaled, PICTURES_WIDTH_PX), rows, errors, "test")


@dataclass(frozen=True, kw_only=True)
class PicturesSection(Section):
    """Sheets of pictures of test images."""

    template = "sections/pictures.html.j2"
    sheets: list[tuple[int, str, Pictures | None]]
    """Trial number, sentence, and pictures of each sheet."""
    drawings: dict[int, Drawing]
    """The network of each trial with a sheet."""
    gallery: Gallery | None
    command: str

    @classmethod
    def build(cls, data: ReportData) -> PicturesSection | None:
        """Build the section; see `Section.build`.

        Args:
            data: The study.

        Returns:
            The section; None without a complete trial.
        """
        if data.best is None:
            return None
        sheets = make_sheets(
            data.folder, data.pictured, data.pictures, data.ranked, data.latent, data.task
        )
        gallery = make_gallery(
            data.folder, data.pictured, data.pictures, data.trials, data.task, data.plan["strata"]
        )
        return cls(
            sheets=[(n, *sheet) for n, sheet in zip(data.pictured, sheets, strict=True)],
            drawings={number: data.draw_network(number) for number in data.pictured},
            gallery=gallery,
            command=data.command,
        )
