"""The report of a study: one HTML page that works offline, and its figures as PNG files.

The page is the list `SECTIONS`. Each section reads the study from `ReportData` and holds its
figures and sentences. Jinja2 escapes every value. Only plotly's library and its JSON, in which
plotly escapes `<`, are inserted as they are.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import plotly.graph_objects as go

from raycae.errors import InputError
from raycae.formatting import format_error
from raycae.report.html import render_page, write_page
from raycae.report.report_data import ReportData, read_report_data
from raycae.report.section import Section
from raycae.report.sections.answer import AnswerSection, BestTrialSection
from raycae.report.sections.cost import CostSection
from raycae.report.sections.error_distribution import ErrorDistributionSection
from raycae.report.sections.frontier_growth import FrontierGrowthSection
from raycae.report.sections.greedy_ladder import GreedyLadderSection
from raycae.report.sections.importance import ImportanceSection
from raycae.report.sections.latent_size import LatentSizeSection
from raycae.report.sections.learning_curves import LearningCurvesSection
from raycae.report.sections.pictures import PicturesSection
from raycae.report.sections.search_health import SearchHealthSection
from raycae.report.sections.trial_table import TrialTableSection
from raycae.report.trial_details import describe_trials
from raycae.report.trials import count_states, format_latent_shape
from raycae.report.wording import format_time
from raycae.storage.paths import Place

SECTIONS: tuple[type[Section], ...] = (
    AnswerSection,
    LatentSizeSection,
    BestTrialSection,
    GreedyLadderSection,
    CostSection,
    FrontierGrowthSection,
    ImportanceSection,
    LearningCurvesSection,
    PicturesSection,
    TrialTableSection,
    ErrorDistributionSection,
    SearchHealthSection,
)
"""The sections of the page, from top to bottom."""


def write_report(folder: Place, path: Place | None = None, notes: Sequence[str] = ()) -> Place:
    """Write the report of a study.

    Args:
        folder: The folder of the study.
        path: The file to write, `report.html` in `folder` by default.
        notes: One sentence for each step that failed before the report.

    Returns:
        The path of the page.

    Raises:
        InputError: The folder holds no readable study.
    """
    return write_page(path or folder / "report.html", render_report(folder, notes))


def render_report(folder: Place, notes: Sequence[str] = ()) -> str:
    """Render the report of a study as HTML.

    Args:
        folder: The folder of the study.
        notes: One sentence for each step that failed before the report.

    Raises:
        InputError: The folder holds no readable study.
    """
    data = read_report_data(folder)
    return render_sections(data, build_sections(data), notes)


def build_sections(data: ReportData) -> list[Section]:
    """Build the sections that have something to show, in the order of the page.

    Args:
        data: The study.
    """
    built = (section.build(data) for section in SECTIONS)
    return [section for section in built if section is not None]


def collect_figures(sections: Sequence[Section]) -> dict[str, go.Figure]:
    """Collect the figures of all sections by the `id` of their element.

    Args:
        sections: The sections of the page.
    """
    return {name: figure for section in sections for name, figure in section.figures.items()}


def render_sections(data: ReportData, sections: Sequence[Section], notes: Sequence[str]) -> str:
    """Render the page of a study from its sections.

    Args:
        data: The study.
        sections: The sections of the page.
        notes: One sentence for each step that failed before the report.
    """
    figures = collect_figures(sections)
    return render_page(
        "report.html.j2",
        {name: figure.to_json() for name, figure in figures.items()},
        sections=sections,
        notes=notes,
        study=data.study,
        source=Path(data.study["plan"]["data"]).name,
        is_frontier=data.is_frontier,
        image_size=data.image_size,
        counts=count_states(data.trials),
        n_trials=len(data.ranked),
        hosts=sorted(set(data.trials["host"].dropna())),
        devices=sorted(set(data.trials["device"].dropna())),
        known=describe_trials(figures.values(), data.ranked, data.epochs),
        error=format_error,
        time=format_time,
        latent_shape=format_latent_shape,
    )


def write_images(folder: Place, target: Path) -> list[Path]:
    """Write the figures of a report as PNG files, 1800 x 1100 pixels, on white.

    Args:
        folder: The folder of the study.
        target: The folder for the files `NAME.png`; it is created if it is missing.

    Returns:
        The paths of the files.

    Raises:
        InputError: Kaleido or a browser is missing, `target` cannot be written, or `folder` holds
            no readable study.
    """
    figures = collect_figures(build_sections(read_report_data(folder)))
    paths = [target / f"{name}.png" for name in figures]
    for figure in figures.values():
        figure.update_layout(paper_bgcolor="white", font_color="#4a4f57")
    try:
        # Plotly imports it later and would raise another error.
        import kaleido  # noqa: F401
        from plotly.io import write_images

        target.mkdir(parents=True, exist_ok=True)
        write_images(list(figures.values()), paths, width=900, height=550, scale=2)
    except ImportError:
        raise InputError("--png: needs Kaleido: pip install 'raycae[png]'") from None
    except RuntimeError:
        raise InputError("--png: Kaleido finds no browser; install chromium or Chrome") from None
    except OSError as error:
        raise InputError(f"--png {target}: cannot be written: {error.strerror}") from None
    return paths
