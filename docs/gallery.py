"""The gallery: reports of the studies in `analysis/recorded`, written with the site."""

from __future__ import annotations

import html
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective

from raycae.report.page import render_report
from raycae.report.report_data import ReportData, read_report_data
from raycae.report.reproduction.page import (
    VERDICTS,
    judge_reproduction,
    read_part,
    render_reproduction,
)
from raycae.report.sections.answer import AnswerSection
from raycae.space.loading import REPORT

RECORDED = Path(__file__).resolve().parents[1] / "analysis" / "recorded"
FOLDER = "gallery"
"""Folder of the reports in the site."""
WIDTH, HEIGHT, MARGIN = 320, 200, 12
"""Size and margin of a thumbnail in pixels."""


@dataclass(frozen=True)
class Entry:
    """An entry of the gallery.

    Attributes:
        title: Its title.
        study: The folder of the study in `RECORDED`.
        text: What to look at in the report.
        is_reproduction: Whether the folder has the parts of `raycae reproduce`.
    """

    title: str
    study: str
    text: str
    is_reproduction: bool = False

    @property
    def link(self) -> str:
        """The address of the report, relative to the page."""
        return f"{FOLDER}/{self.study.replace('/', '-')}.html"


ENTRIES = (
    Entry(
        "The demo",
        "demo",
        "The report of `raycae demo`. Compare the pictures of each network with those of PCA.",
    ),
    Entry(
        "A curve instead of one winner",
        "frontier",
        "Compare the Pareto front with the lines of PCA, and look at which parameters mattered.",
    ),
    Entry(
        "150 random networks",
        "curves/ex2",
        "No trial was stopped early, so all learning curves are complete. "
        "Sort the table of trials, and colour the points by a parameter.",
    ),
    Entry(
        "Colour from grey",
        "curves/ex3",
        "The task is colourisation. The baselines are a grey copy, the mean chroma, and the best "
        "guess from a pixel's luma.",
    ),
    Entry(
        "The same networks with several seeds",
        "curves/ex2-seeds",
        "The spread of the seeds shows which differences between networks are luck.",
    ),
    Entry(
        "Claims of a report, checked",
        "reproduction",
        "`raycae reproduce` trains the named networks of an earlier report and gives a verdict on "
        "each of its claims.",
        is_reproduction=True,
    ),
)


def write_gallery() -> str:
    """Return the entries of the gallery as Markdown."""
    return "\n\n".join(map(write_entry, ENTRIES))


def write_entry(entry: Entry) -> str:
    """Return an entry as Markdown: a thumbnail, what was searched, the result, and the link.

    Args:
        entry: The entry.
    """
    folder = RECORDED / entry.study
    names = [name for name in REPORT if (folder / name).exists()] if entry.is_reproduction else [""]
    studies = [read_report_data(folder / name) for name in names]
    picture = draw_thumbnail(studies[0])
    result = describe_verdicts(folder) if entry.is_reproduction else describe_result(studies[0])
    searched = " ".join(map(describe_search, studies))
    return "\n".join(
        [
            f"## {entry.title}",
            "",
            f'<div><a href="{entry.link}" aria-label="Report: {html.escape(entry.title)}">{picture}'
            "</a></div>",
            "",
            f"**Searched:** {searched}",
            "",
            f"**Result:** {result}",
            "",
            f'{entry.text} <a href="{entry.link}">Open the report</a>.',
        ]
    )


def describe_search(data: ReportData) -> str:
    """Describe what a study searched, on which images, with which budget.

    Args:
        data: The study.
    """
    plan, images = data.plan, data.study["data"]
    return (
        f"space `{data.study['space']['name']}` ({data.task}); {len(data.trials)} trials of up to "
        f"{plan['epochs']} epochs, sampler `{plan['sampler']}`, early stopping "
        f"`{plan['scheduler']}`; {images['n_train']:,} training and {images['n_val']:,} validation "
        f"images of {Path(plan['data']).name}."
    )


def describe_result(data: ReportData) -> str:
    """Return the sentence with which the report of a study begins.

    Args:
        data: The study.
    """
    section = AnswerSection.build(data)
    return str(section.answer) if section else "No trial is complete."


def describe_verdicts(folder: Path) -> str:
    """Count the verdicts on the claims of a reproduction.

    Args:
        folder: The folder with the studies.
    """
    parts = [read_part(folder / name) for name in REPORT if (folder / name).exists()]
    verdicts = [judgement.adjusted for judgement in judge_reproduction(parts)]
    counts = ", ".join(f"{verdicts.count(verdict)} {verdict}" for verdict in VERDICTS)
    return f"Of {len(verdicts)} claims, adjusted for their number: {counts}."


def draw_thumbnail(data: ReportData) -> str:
    """Draw error against latent size as SVG: trials, the Pareto front and PCA, on two log axes.

    Args:
        data: The study.
    """
    points = data.latent.points[data.latent.points["val_mse"] > 0]
    front = data.latent.frontier
    pca = data.latent.linear[data.latent.linear["baseline"] == "pca"]
    low, high = points["latent_size"].min(), points["latent_size"].max()
    pca = pca[pca["latent_size"].between(low, high) & (pca["val_mse"] > 0)]
    x_range = (math.log(low), math.log(high))
    errors = pd.concat([points["val_mse"], pca["val_mse"]])
    y_range = (math.log(errors.max()), math.log(errors.min()))

    def place(value: float, limits: tuple[float, float], size: int) -> float:
        start, end = limits
        share = (math.log(value) - start) / ((end - start) or 1)
        return MARGIN + share * (size - 2 * MARGIN)

    def locate(rows: pd.DataFrame) -> list[tuple[float, float]]:
        sizes, values = rows["latent_size"], rows["val_mse"]
        return [
            (place(x, x_range, WIDTH), place(y, y_range, HEIGHT))
            for x, y in zip(sizes, values, strict=True)
        ]

    def draw_line(rows: pd.DataFrame, colour: str) -> str:
        corners = " ".join(f"{x:.1f},{y:.1f}" for x, y in locate(rows))
        return f'<polyline points="{corners}" fill="none" stroke="{colour}" stroke-width="2"/>'

    dots = "".join(
        f'<circle cx="{x:.1f}" cy="{y:.1f}" r="2.5" fill="#3b82c4"/>' for x, y in locate(points)
    )
    return (
        f'<svg width="{WIDTH}" height="{HEIGHT}" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" '
        f'aria-label="{len(points)} trials, latent size against error" '
        'style="border: 1px solid #8888; max-width: 100%">'
        f"{draw_line(pca, '#9270b8')}{dots}{draw_line(front, '#e4692b')}</svg>"
    )


def write_reports(app: Sphinx, error: Exception | None) -> None:
    """Write the reports into the site.

    Args:
        app: The build.
        error: Why the build failed.
    """
    if error or app.builder.format != "html":
        return
    for entry in ENTRIES:
        render = render_reproduction if entry.is_reproduction else render_report
        path = Path(app.outdir) / entry.link
        path.parent.mkdir(exist_ok=True)
        path.write_text(render(RECORDED / entry.study), encoding="utf-8")


class Gallery(SphinxDirective):
    """The entries of the gallery."""

    def run(self) -> list[Any]:
        """Return the parsed entries."""
        return self.parse_text_to_nodes(write_gallery(), allow_section_headings=True)
