"""Ray Tune's interfaces onto a `Study`: who proposes, who stops, who is told of losses.

What a process trains together is one trial of Tune's: an attempt at a trial, or the attempts of a
cohort, each of which is at a trial of the study like any other. Tune's own retries are not used:
they know neither attempts nor why a process was lost. Tune pickles what it is given into a snapshot
of its own; raycae needs none of it (the ledger is enough to go on), so these objects pickle as
nothing.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import ray
from ray.tune import Callback, Stopper
from ray.tune.search import Searcher

from raycae.errors import InputError, StorageError
from raycae.execution.progress import Progress
from raycae.model.architecture import build_architecture, fusion_key
from raycae.study.attempt import Attempt
from raycae.study.records import HUNG, MACHINE, PROCESS
from raycae.study.study import Study

GRACE_S = 6.0
"""A search that is to end gives its trials so long to reach the end of their epoch."""
IDLE_S = 30.0
"""A search in which nothing has run for so long says so."""
MACHINE_GONE = re.compile("its node has died|actor's node was|node .* is dead|is unavailable")
"""What Ray says, in a text for people, of an actor whose machine went, or that it cannot reach. Of
one whose process died alone it is told by the machine, within a second."""
MEMORY_GONE = re.compile("node running low on memory")
WORDY = re.compile(" [0-9a-f]{20,}| The task may or may not .*| Some common causes .*")
"""What says nothing of this loss: ids, and what is always said."""
NOTHING = "nothing is known"


class SearchState:
    """What Tune's three interfaces know together: the attempts under way, and whether the search
    is to end, because `over` says so, all trials fail alike, or the storage is gone."""

    def __init__(self, study: Study, over: Callable[[], bool], progress: Progress) -> None:
        self.study = study
        self.fault: StorageError | InputError | None = None
        self.live: dict[int, Any] = {}
        """Tune's trial that each attempt is in which a process has taken, by trial number."""
        self.hung: dict[tuple[int, int], str] = {}
        self._over, self._progress = over, progress
        self._ends_at: float | None = None
        self._idle_since = time.monotonic()

    def ending(self) -> bool:
        if self._ends_at is None and (self.fault or self.study.hopeless or self._over()):
            self._ends_at = time.monotonic() + GRACE_S
        return self._ends_at is not None

    def ended(self) -> bool:
        """Whether every attempt has come to the end of its epoch, or its time is up."""
        self.fault = self.fault or self.study.fault
        if not self.ending():
            self._kill_overdue()
            self._tell_idle()
            return False
        assert self._ends_at is not None
        if self.live and time.monotonic() < self._ends_at:
            return False
        for trial in self.live.values():
            kill_attempt(trial)
        return True

    def heard(self, said: dict[str, Any]) -> bool:
        """What an attempt says after a step. True: it goes on."""
        number, attempt = said.pop("trial_number"), said.pop("attempt")
        lasted_s = said.pop("lasted_s", None)
        for damage in said.pop("damaged"):
            self._progress.warn(f"trial {number}: {damage}; goes on from what is whole")
        if "storage" in said:
            self.fault = StorageError(said["storage"])
            return False
        if said.pop("together", False):
            self.study.failed_together(number, attempt, said["failed"])
            return False
        if "failed" in said:
            self.study.failed(number, attempt, said.pop("failed"), **said)
            return False
        return self.study.epoch(number, attempt, said, lasted_s) and not self.ending()

    def lost(self, trial: Any) -> None:
        """An actor is gone, with what it trained."""
        words = get_error_text(trial)
        for number, attempt in list_attempts(trial):
            trained = self.live.get(number) is trial
            self.forget(number, attempt)
            if self._ends_at is None:  # or it was killed, and goes on when the search does
                alone = len(trial.config["issues"]) == 1
                self._lost(number, attempt, words, trained, alone)

    def _lost(self, number: int, attempt: int, words: str, trained: bool, alone: bool) -> None:
        if hung := self.hung.pop((number, attempt), None):
            self.study.lost(number, attempt, HUNG, hung)
        elif trained and MEMORY_GONE.search(words):
            memory = "out of memory: its process was ended for want of the host's"
            if alone:
                self.study.failed(number, attempt, memory, out_of_memory=True)
            else:
                self.study.failed_together(number, attempt, memory)
        else:
            cause = MACHINE if MACHINE_GONE.search(words) else PROCESS
            last = WORDY.sub("", words.splitlines()[-1].strip())
            self.study.lost(number, attempt, cause, f"{cause} lost: {last}")

    def forget(self, number: int, attempt: int, *, others_go_on: bool = False) -> None:
        """The attempt is over; a newer one may be under way. Where others of its cohort go on,
        their process hears of it before it is asked for the next epoch."""
        trial = self.live.get(number)
        if trial is None or (number, attempt) not in list_attempts(trial):
            return
        del self.live[number]
        if others_go_on and (actor := trial.temporary_state.ray_actor):
            actor.leave.remote(number)

    @contextmanager
    def guarded(self) -> Iterator[None]:
        """Tune would wrap what is raised inside it, and go on: it is kept for whoever runs Tune."""
        try:
            yield
        except (StorageError, InputError) as fault:
            self.fault = self.fault or fault

    def _tell_idle(self) -> None:
        """Where machines are gone, or have not come yet, Ray waits in silence."""
        now = time.monotonic()
        if self.live:
            self._idle_since = now
        elif now - self._idle_since > IDLE_S:
            idle = now - self._idle_since
            self._progress.wait(f"waiting for a machine: no trial has run for {idle:.0f} s")

    def _kill_overdue(self) -> None:
        for number, attempt, reason in self.study.overdue():
            if number in self.live and (number, attempt) not in self.hung:
                trial = self.live[number]
                self.hung |= dict.fromkeys(list_attempts(trial), reason)
                kill_attempt(trial)


def list_attempts(trial: Any) -> list[tuple[int, int]]:
    """Number and attempt of all that a trial of Tune's trains."""
    return [(issue["number"], issue["attempt"]) for issue in trial.config["issues"]]


def kill_attempt(trial: Any) -> None:
    """End an attempt's process, whatever it does; a stopped one too."""
    if actor := trial.temporary_state.ray_actor:
        ray.kill(actor)


def get_error_text(trial: Any) -> str:
    """What Ray says of a lost attempt. Tune writes it here, and not yet where `get_error` looks."""
    try:
        return Path(trial.error_file).read_text().strip() or NOTHING
    except (OSError, TypeError):
        return NOTHING


def get_fusion_group(issue: Attempt) -> Hashable:
    """Equal for attempts that may train in one cohort. One that goes on, or has to do with less
    memory, trains alone."""
    if issue.attempt > 1 or issue.micro_batch:
        return issue.number
    return fusion_key(issue.config), issue.seed


def is_same_network(issues: list[Attempt]) -> bool:
    first, last = issues[0], issues[-1]
    fresh = first.attempt == last.attempt == 1
    return fresh and build_architecture(first.config) == build_architecture(last.config)


class NotPickled:
    def __reduce__(self) -> tuple[type, tuple[()]]:
        return (object, ())


class StudySearcher(NotPickled, Searcher):
    """Hands the study's attempts to Tune, for as many processes at a time as `places` says at that
    time, up to `fuse` of one cohort to each. How they end reaches the study by the other two."""

    def __init__(
        self, run: SearchState, settings: dict[str, Any], places: Callable[[], int], fuse: int = 1
    ) -> None:
        super().__init__()
        self._run = run
        self._settings = settings
        self._places = places
        self._fuse = fuse
        self._out: set[str] = set()
        self._waiting: list[Attempt] = []
        """Asked for, and not in the cohort of those that were asked for before."""

    def suggest(self, trial_id: str) -> dict[str, Any] | str | None:
        if len(self._out) >= self._places():
            return None
        issues: list[Attempt] = []
        if not self._run.ending():
            with self._run.guarded():
                issues = self._together()
        if not issues:
            # One that runs may be lost yet, and is then handed out again.
            over = self._run.ending() or not self._run.study.running()
            return Searcher.FINISHED if over else None
        self._out.add(trial_id)
        told = [asdict(issue) | {"config": issue.config.to_json()} for issue in issues]
        return {"issues": told, **self._settings}

    def _together(self) -> list[Attempt]:
        """What the next process trains. More is asked for while it is of the same network, so that
        no proposal is made before it has to be but for that."""
        waiting = self._waiting
        while not waiting or (len(waiting) < self._fuse and is_same_network(waiting)):
            issue = self._run.study.ask()
            if issue is None:
                break
            waiting.append(issue)
        if not waiting:
            return []
        kind = get_fusion_group(waiting[0])
        together = [issue for issue in waiting if get_fusion_group(issue) == kind][: self._fuse]
        self._waiting = [issue for issue in waiting if issue not in together]
        return together

    def on_trial_complete(
        self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False
    ) -> None:
        self._out.discard(trial_id)

    def save(self, checkpoint_path: str) -> None:
        """Nothing to save: the ledger has it."""

    def restore(self, checkpoint_path: str) -> None:
        """Nothing to restore."""


class StudyStopper(NotPickled, Stopper):
    """Brings each epoch to the study and takes its verdict back; ends all when the run has ended.

    The stopper is what Tune asks first of all, so the ledger has an epoch before Tune acts on it.
    """

    def __init__(self, run: SearchState) -> None:
        self._run = run

    def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
        leaving = []
        for said in result["said"]:
            goes_on = False
            with self._run.guarded():
                goes_on = self._run.heard(dict(said))
            if not goes_on:
                leaving.append((said["trial_number"], said["attempt"]))
        over = len(leaving) == len(result["said"])
        for number, attempt in leaving:
            self._run.forget(number, attempt, others_go_on=not over)
        return over

    def stop_all(self) -> bool:
        ended = False
        with self._run.guarded():
            ended = self._run.ended()
        return ended


class StudyCallback(NotPickled, Callback):
    """Tells the study of starts, and of attempts whose process was lost."""

    def __init__(self, run: SearchState) -> None:
        self._run = run

    def on_trial_start(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        for number, attempt in list_attempts(trial):
            self._run.live[number] = trial
            with self._run.guarded():
                self._run.study.started(number, attempt, len(list_attempts(trial)))

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        with self._run.guarded():
            self._run.lost(trial)
