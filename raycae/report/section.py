"""One section of a report: its figures, and what its template shows."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Self

import plotly.graph_objects as go

from raycae.report.report_data import ReportData


@dataclass(frozen=True, kw_only=True)
class Section(ABC):
    """Base class of the sections.

    A subclass adds its sentences and table rows as fields. Its template reads them from the
    variable `section`. `page.SECTIONS` lists the sections in their order on the page. A subsection
    is a field of its section, which passes on its figures and constants and includes its template.

    Attributes:
        template: The section's template, a path under `templates/`.
        figures: Plotly figures by the `id` of their element, which has the class `plot` in the
            template. `plotting.make_figure` makes them. The page draws scatter, bar and pie traces;
            `customdata` holds the trial number of each point.
        constants: JavaScript constants that the script of the page reads, by name. Names are
            shared by the whole page.
    """

    template: ClassVar[str]
    figures: Mapping[str, go.Figure] = field(default_factory=dict)
    constants: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    @abstractmethod
    def build(cls, data: ReportData) -> Self | None:
        """Build the section from a study.

        Args:
            data: The study's tables, and what is computed from them.

        Returns:
            The section; None if the study has nothing to show in it.
        """
