"""A study as Python reads it: its tables, its best trial, its frontier, its report.

Read only, also while a search runs: every answer is what the two tables say when it is asked for,
at most seconds behind the search.
"""

from __future__ import annotations

import html
import os
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pandas as pd

from raycae.optimization.frontier import ENDED, find_frontier
from raycae.storage.paths import Place
from raycae.study.find import find_best_trial, find_study
from raycae.study.finish import Finish
from raycae.study.plan import read_plan_facts, read_study
from raycae.study.records import FAIL, Records
from raycae.study.summary import format_counts
from raycae.study.tables import read_epochs, read_trials

SHOWN = ["trial_number", "state", "val_mse", "test_mse", "val_psnr_db", "latent_size", "n_params"]
BEST = 5


def open_study(study: str | Path, results: str | Path = "results") -> StudyReader:
    """A study to be read: its folder, its URI (`s3://BUCKET/PATH/NAME`, `gs://…`), or its name
    under `results`, a folder or a URI. Raises `InputError` where there is none."""
    return StudyReader(find_study(study, results))


class StudyReader:
    """The study in `folder`. Its tables are empty in the seconds before the first trial; everything
    raises `InputError` where the folder's files are no study's."""

    def __init__(self, folder: Place) -> None:
        self.folder = folder

    @property
    def trials(self) -> pd.DataFrame:
        """One row a trial, in any state; the columns of `trials.parquet`."""
        return read_trials(self.folder) if self._begun() else Records().trials_table().to_pandas()

    @property
    def epochs(self) -> pd.DataFrame:
        """One row an epoch of a trial; the columns of `epochs.parquet`."""
        return read_epochs(self.folder) if self._begun() else Records().epochs_table().to_pandas()

    @property
    def best(self) -> pd.Series[Any] | None:
        """The row of the COMPLETE trial with the least validation error; None where there is none
        yet."""
        trials = self.trials
        number = find_best_trial(trials)
        return None if number is None else trials[trials["trial_number"] == number].iloc[0]

    def frontier(self) -> pd.DataFrame:
        """The rows of the trials that no other beats in both error and cost, from the cheapest on;
        the cost is the study's own (`cost` of its plan), usually `latent_size`. Trials that were
        stopped early count too."""
        cost = read_plan_facts(read_study(self.folder))["cost"]
        trials = self.trials
        ended = trials[trials["state"].isin(ENDED) & trials["val_mse"].notna()]
        on = find_frontier(ended.to_dict("records"), cost)  # type: ignore[arg-type]
        return ended[ended["trial_number"].map(on).astype(bool)].sort_values(
            [cost, "trial_number"], ignore_index=True
        )

    def report(self) -> Place:
        """Write `report.html`, as `raycae report` does. Returns its path."""
        from raycae.report.page import write_report

        finish = self.illustrate()
        path = write_report(self.folder, notes=finish.notes)
        finish.raise_fault()
        return path

    def illustrate(self) -> Finish:
        """Make the pictures and baselines that the report lacks.

        Returns:
            The steps that failed, for example because the images are gone. Each is a note on
            standard error as well.
        """
        from raycae.report import picture_sheets
        from raycae.report.report_data import lacks_pictures_or_baselines

        finish = Finish()
        if lacks_pictures_or_baselines(self.folder):
            picture_sheets.add_pictures_and_baselines(self.folder, finish=finish)
        for note in finish.notes:
            print(f"note: {note}", file=sys.stderr)
        return finish

    def _begun(self) -> bool:
        return (self.folder / "trials.parquet").exists()

    def __repr__(self) -> str:
        return f"<study {self.folder}: {self._summary(self.trials)}>"

    def _repr_html_(self) -> str:
        """What a notebook shows: how it stands, the best trials, and where the report is."""
        trials = self.trials
        scored = trials[trials["val_mse"].notna() & (trials["state"] != FAIL)]
        best = scored.sort_values(["val_mse", "trial_number"]).head(BEST)[SHOWN]
        report = self.folder / "report.html"
        where = html.escape(str(report))
        if isinstance(report, Path):
            link = html.escape(os.path.relpath(report))
            where = f'<a href="{link}" target="_blank">{link}</a>' if report.exists() else "not yet"
        return (
            f"<p><b>{html.escape(self.folder.name)}</b>: {self._summary(trials)}</p>"
            f"{best.to_html(index=False, na_rep='–', float_format='{:.5g}'.format, border=0)}"
            f"<p>report: {where}</p>"
        )

    @staticmethod
    def _summary(trials: pd.DataFrame) -> str:
        return format_counts(Counter(trials["state"]))
