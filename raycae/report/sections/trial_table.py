"""The table of trials."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from raycae.formatting import format_error
from raycae.report.report_data import ReportData
from raycae.report.section import Section
from raycae.report.trials import Row, format_latent_shape

MOST_ROWS = 1000
"""Largest number of trials in the table; a row takes 0.7 kB of the page."""


@dataclass(frozen=True)
class Cell:
    """A cell of the table.

    Attributes:
        text: What is shown.
        value: What the column is sorted by; an empty value comes last.
        kind: The CSS class.
    """

    text: str
    value: float | str
    kind: str


@dataclass(frozen=True)
class Column:
    """A column of the table.

    Attributes:
        title: The heading.
        by: The key of a row that the column is sorted by.
        text: Gives the text of a row's cell.
        kind: The CSS class.
    """

    title: str
    by: str
    text: Callable[[Row], str]
    kind: str = "number"

    def make_cell(self, row: Row) -> Cell:
        """Make the cell of a row.

        Args:
            row: A trial.
        """
        if row[self.by] is None:
            return Cell("", "", self.kind)
        return Cell(self.text(row), row[self.by], self.kind)


def make_plain_cell(name: str) -> Callable[[Row], str]:
    """Return a function that gives the value of a row as text.

    Args:
        name: The key of the value.
    """
    return lambda row: str(row[name])


COLUMNS = (
    Column("trial", "trial_number", make_plain_cell("trial_number")),
    Column("point", "point", make_plain_cell("point"), "word"),
    Column("state", "shown_state", make_plain_cell("shown_state"), "word"),
    Column("val_mse", "val_mse", lambda row: format_error(row["val_mse"])),
    Column("mean PSNR", "val_psnr_db", lambda row: f"{row['val_psnr_db']:.2f}"),
    Column("test_mse", "test_mse", lambda row: format_error(row["test_mse"])),
    Column("latent", "latent_size", format_latent_shape),
    Column("params", "n_params", lambda row: f"{row['n_params']:,}"),
    Column("epochs", "epochs_run", make_plain_cell("epochs_run")),
    Column("time, s", "wall_time_s", lambda row: f"{row['wall_time_s']:,.1f}"),
    Column("network", "network", make_plain_cell("network"), "text"),
    Column(
        "training",
        "optimizer",
        lambda row: f"{row['optimizer']}, lr {row['lr']:.3g}, batch {row['batch_size']}",
        "text",
    ),
    Column("reason", "reason", make_plain_cell("reason"), "text"),
)
OFTEN_EMPTY = ("point", "test_mse", "reason")
"""Columns that the table leaves out if they are empty."""


def has_values(column: Column, rows: list[Row]) -> bool:
    """Check whether a column is to be shown.

    Args:
        column: The column.
        rows: The rows of the table.
    """
    return column.by not in OFTEN_EMPTY or any(row[column.by] is not None for row in rows)


SETTINGS = Column("settings", "n_settings", make_plain_cell("n_settings"))


@dataclass(frozen=True, kw_only=True)
class TrialTableSection(Section):
    """The table of trials."""

    template = "sections/trial_table.html.j2"
    headers: list[str]
    rows: list[list[Cell]]
    best: int | None
    """The number of the best trial."""
    n_trials: int

    @classmethod
    def build(cls, data: ReportData) -> TrialTableSection | None:
        """Build the section; see `Section.build`.

        Args:
            data: The study.

        Returns:
            The section; None if the study has no trial.
        """
        if not len(data.ranked):
            return None
        rows = data.ranked[:MOST_ROWS]
        columns = [*COLUMNS, SETTINGS] if data.plan["settings"] > 1 else [*COLUMNS]
        columns = [column for column in columns if has_values(column, rows)]
        return cls(
            headers=[column.title for column in columns],
            rows=[[column.make_cell(row) for column in columns] for row in rows],
            best=data.best["trial_number"] if data.best else None,
            n_trials=len(data.ranked),
        )
