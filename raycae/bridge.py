"""Ray Tune's interfaces onto a `Study`: who proposes, who stops, who is told of losses.

Tune pickles what it is given into a snapshot of its own. raycae needs none of it (the ledger is
enough to go on), so these objects pickle as nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ray.tune import Callback, Stopper
from ray.tune.search import Searcher

from raycae.study import Study


class _NotPickled:
    def __reduce__(self) -> tuple[type, tuple[()]]:
        return (object, ())


class StudySearcher(_NotPickled, Searcher):
    """Hands the study's trials to Tune. How they end reaches the study by the other two."""

    def __init__(self, study: Study, settings: dict[str, Any]) -> None:
        super().__init__()
        self._study = study
        self._settings = settings

    def suggest(self, trial_id: str) -> dict[str, Any] | str:
        issue = self._study.ask()
        if issue is None:
            return Searcher.FINISHED
        return {
            "trial_number": issue.number,
            "config": issue.config.to_json(),
            "seed": issue.seed,
            **self._settings,
        }

    def on_trial_complete(
        self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False
    ) -> None:
        """Nothing to tell: the stopper heard every epoch, the callback every loss."""

    def save(self, checkpoint_path: str) -> None:
        """Nothing to save: the ledger has it."""

    def restore(self, checkpoint_path: str) -> None:
        """Nothing to restore."""


class StudyStopper(_NotPickled, Stopper):
    """Brings each epoch to the study and takes its verdict back; ends all when `over` says so.

    The stopper is what Tune asks first of all, so the ledger has an epoch before Tune acts on it.
    """

    def __init__(self, study: Study, over: Callable[[], bool]) -> None:
        self._study = study
        self._over = over

    def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
        measured = dict(result["measured"])
        number = measured.pop("trial_number")
        if "failed" in measured:
            self._study.failed(number, measured.pop("failed"), **measured)
            return True
        return not self._study.epoch(number, measured)

    def stop_all(self) -> bool:
        return self._over()


class StudyCallback(_NotPickled, Callback):
    """Tells the study of starts, and of trials whose process was lost for good."""

    def __init__(self, study: Study) -> None:
        self._study = study

    def on_trial_start(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        self._study.started(trial.config["trial_number"])

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        lost = str(trial.get_error() or "its process was lost").strip().splitlines()
        self._study.failed(trial.config["trial_number"], f"process lost: {lost[-1]}")
