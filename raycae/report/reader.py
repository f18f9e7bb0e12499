"""A study in Python and in notebooks: its tables, best trial, Pareto front and report.

Reading changes nothing and works while a search runs. Every answer is what the two tables contain
at that moment, at most seconds behind the search.
"""

from __future__ import annotations

import html
import os
import sys
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from raycae.errors import InputError
from raycae.optimization.frontier import ENDED, find_frontier
from raycae.report.trials import list_shown_states, rank_trials
from raycae.storage.paths import Place
from raycae.study.find import find_best_trial, find_kept_model, find_study
from raycae.study.finish import Finish
from raycae.study.plan import read_plan_facts, read_study
from raycae.study.records import FAIL, Records
from raycae.study.summary import format_counts
from raycae.study.tables import check_config, read_epochs, read_trials

if TYPE_CHECKING:
    import plotly.graph_objects as go

    from raycae.inference.codec import Codec

SHOWN = ["trial_number", "state", "val_mse", "test_mse", "val_psnr_db", "latent_size", "n_params"]
BEST = 5


def open_study(study: str | Path, results: str | Path | None = None) -> StudyReader:
    """Open a study for reading.

    Args:
        study: Its folder, its URI (`s3://BUCKET/PATH/NAME`, `gs://…`), or its name under `results`.
        results: The folder or URI of the results. Default: RAYCAE_RESULTS, or `results`.

    Raises:
        InputError: There is no such study.
    """
    return StudyReader(find_study(study, results))


class StudyReader:
    """A study opened for reading, as `open_study` and `run_search` return it.

    Its tables are empty in the seconds before the first trial. Everything raises `InputError` if
    the files are not those of a study.

    Attributes:
        folder: The folder of the study, a `pathlib.Path` or an object with the same methods for an
            object store.
    """

    def __init__(self, folder: Place) -> None:
        self.folder = folder

    @property
    def trials(self) -> pd.DataFrame:
        """One row per trial in any state; the columns of `trials.parquet`."""
        return self._check_configs(self._read_trials())

    @property
    def epochs(self) -> pd.DataFrame:
        """One row per epoch of a trial; the columns of `epochs.parquet`."""
        return (
            read_epochs(self.folder) if self._has_begun() else Records().epochs_table().to_pandas()
        )

    @property
    def best(self) -> pd.Series[Any] | None:
        """The COMPLETE trial with the lowest validation error; None without one."""
        trials = self._read_trials()
        number = find_best_trial(trials)
        if number is None:
            return None
        return self._check_configs(trials[trials["trial_number"] == number]).iloc[0]

    def frontier(self) -> pd.DataFrame:
        """Select the Pareto front of error and cost, the cheapest trial first.

        The cost is that of the study, usually `latent_size`. Trials that were stopped early count,
        too.
        """
        cost = read_plan_facts(read_study(self.folder))["cost"]
        trials = self._read_trials()
        ended = trials[trials["state"].isin(ENDED) & trials["val_mse"].notna()]
        is_on_frontier = find_frontier(ended.to_dict("records"), cost)  # type: ignore[arg-type]
        front = ended[ended["trial_number"].map(is_on_frontier).astype(bool)]
        return self._check_configs(front).sort_values([cost, "trial_number"], ignore_index=True)

    def model(self, latent: int | None = None) -> Codec:
        """Load the best saved model, by validation error.

        A study keeps the models of its ten best trials, and of the best trial of each latent size
        and each named point.

        Args:
            latent: The largest latent size allowed, in numbers per image; None for any. With a
                limit, trials that were stopped early count, too.

        Returns:
            The model, on the CPU.

        Raises:
            InputError: No saved model is that small; the message names the latent sizes that there
                are. Or there is no model yet, or it is damaged.
        """
        from raycae.inference.codec import read_codec

        return read_codec(find_kept_model(self.folder, latent))

    def plot(self) -> go.Figure:
        """Draw the validation error against the latent size, next to PCA; the report's main figure.

        Returns:
            The figure; a notebook displays it, and its methods `show`, `write_html` and
            `write_image` (with `raycae[png]`) do so elsewhere.

        Raises:
            InputError: No trial has a measured error yet.
        """
        from raycae.report.report_data import read_report_data
        from raycae.report.sections.latent_size import draw_latent_error

        latent = read_report_data(self.folder).latent if self._has_begun() else None
        if latent is None or latent.points.empty:
            raise InputError(f"{self.folder}: no trial has ended yet, so there is nothing to plot")
        return draw_latent_error(latent)

    def report(self) -> Place:
        """Write `report.html`, as `raycae report` does.

        A step that lacks its images is left out, with a note on standard error and in the page.

        Returns:
            The path of the page.

        Raises:
            StorageError: The storage failed in a step, or the page cannot be written.
            InputError: The folder holds no readable study.
        """
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

    def _read_trials(self) -> pd.DataFrame:
        """Read the trials, or none yet; configurations are not checked, which takes 0.3 ms each."""
        if not self._has_begun():
            return Records().trials_table().to_pandas()
        return read_trials(self.folder, configs=False)

    def _check_configs(self, trials: pd.DataFrame) -> pd.DataFrame:
        """Check the configurations of trials, and return the trials.

        Raises:
            InputError: One of them is not a configuration, or its layers do not fit.
        """
        path = self.folder / "trials.parquet"
        for number, config in trials[["trial_number", "config"]].itertuples(index=False):
            check_config(path, number, config)
        return trials

    def _has_begun(self) -> bool:
        return (self.folder / "trials.parquet").exists()

    def __repr__(self) -> str:
        return f"<study {self.folder}: {self._format_counts(self._name_states())}>"

    def _repr_html_(self) -> str:
        """Show the counts, the best trials and the report's path in a notebook."""
        trials = self._name_states()
        scored = trials[trials["val_mse"].notna() & (trials["state"] != FAIL)]
        best = rank_trials(scored).head(BEST)[SHOWN]
        report = self.folder / "report.html"
        where = html.escape(str(report))
        if isinstance(report, Path):
            link = html.escape(os.path.relpath(report))
            where = f'<a href="{link}" target="_blank">{link}</a>' if report.exists() else "not yet"
        return (
            f"<p><b>{html.escape(self.folder.name)}</b>: {self._format_counts(trials)}</p>"
            f"{best.to_html(index=False, na_rep='–', float_format='{:.5g}'.format, border=0)}"
            f"<p>report: {where}</p>"
        )

    def _name_states(self) -> pd.DataFrame:
        """Read the trials, with their states as people read them."""
        trials = self._read_trials()
        return trials.assign(state=list_shown_states(trials, self.folder))

    @staticmethod
    def _format_counts(trials: pd.DataFrame) -> str:
        return format_counts(Counter(trials["state"]))
