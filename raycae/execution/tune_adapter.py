"""Ray Tune's interfaces to a `Study`: the searcher, the stopper and the callback.

Each trial of Tune is one worker. It trains one attempt at a trial of the study, or the attempts of
a fused group, and then the next ones, until there are none: with a trial of Tune for each attempt,
the driver needs twice as much CPU time for a trial (analysis/FINDINGS.md). Tune's own retries are
not used, because they know neither attempts nor why a worker was lost. Tune pickles these objects
into its own snapshot. raycae resumes from the ledger and never reads that snapshot, so they pickle
as nothing.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import ray
from ray.tune import Callback, Stopper
from ray.tune.search import Searcher

from raycae.errors import InputError, StorageError
from raycae.execution.progress import Progress
from raycae.model.architecture import build_architecture, fusion_key
from raycae.study.attempt import Attempt, EpochReport, FailureReport, Report, StorageReport
from raycae.study.records import HUNG, MACHINE, PROCESS
from raycae.study.study import Study

GRACE_S = 6.0
"""How long trials may take to finish their epoch once the search is stopping, in seconds."""
STOPPING = f"Stopping: running trials may finish their epoch, for at most {GRACE_S:.0f} s"
"""Phase of a search that stops while trials run."""
PENDING_S = 5.0
"""After this many seconds, attempts that wait for a worker come before a worker's next ones."""
IDLE_S = 30.0
"""After how long without a running trial the search says that it waits, in seconds."""
MACHINE_GONE = re.compile("its node has died|actor's node was|node .* is dead|is unavailable")
"""What Ray's message says where a worker's node was lost or cannot be reached. A worker that died
alone is reported by its node within a second."""
MEMORY_GONE = re.compile("node running low on memory")
"""What Ray's message says where it ended a worker because its node ran out of memory."""
WORDY = re.compile(" [0-9a-f]{20,}| The task may or may not .*| Some common causes .*")
"""Parts of Ray's messages that say nothing about this loss: identifiers and fixed sentences."""
NOTHING = "Ray gives no reason"
"""The reason of a loss for which Ray gives none."""


class SearchState:
    """What Tune's three interfaces share: the running attempts, and whether the search is stopping.

    A search stops because `should_stop` returns True, because all trials fail for the same reason,
    or because the storage has failed.

    Args:
        study: The study, open for writing.
        should_stop: Returns whether a person or a deadline ends the search.
        progress: The live view.

    Attributes:
        fault: The error that ends the search, if there is one.
        running: The trial of Tune that runs an attempt which a worker has started, by number of
            the study's trial.
        pending: Since when trials of Tune wait for a worker, by their names.
        hung: Why a worker was killed as hung, by trial number and attempt.
    """

    def __init__(self, study: Study, should_stop: Callable[[], bool], progress: Progress) -> None:
        self.study = study
        self.fault: StorageError | InputError | None = None
        self.running: dict[int, Any] = {}
        self.pending: dict[str, float] = {}
        self.hung: dict[tuple[int, int], str] = {}
        self._should_stop, self._progress = should_stop, progress
        self._stop_at: float | None = None
        self._idle_since = time.monotonic()

    def is_stopping(self) -> bool:
        """Return whether the search is stopping; the grace period starts when it is first seen."""
        if self._stop_at is None and (self.fault or self.study.hopeless or self._should_stop()):
            self._stop_at = time.monotonic() + GRACE_S
            if self.running:
                self._progress.begin_phase(STOPPING)
        return self._stop_at is not None

    def is_finished(self) -> bool:
        """Return whether every attempt has finished its epoch, or the grace period is over.

        Until the search stops this also kills workers that hang. In the end it kills those that
        still run.
        """
        self.fault = self.fault or self.study.fault
        if not self.is_stopping():
            self._kill_hung_workers()
            self._report_idle()
            self._progress.tick()
            return False
        assert self._stop_at is not None
        if self.running and time.monotonic() < self._stop_at:
            self._progress.say(f"{STOPPING} …")  # An event has cleared the phase.
            return False
        for tune_trial in self.running.values():
            kill_worker(tune_trial)
        return True

    def start_attempts(self, tune_trial: Any) -> None:
        """Record that a worker starts the attempts in its config.

        Args:
            tune_trial: The trial of Tune that it runs.
        """
        attempts = list_attempts(tune_trial)
        for number, attempt in attempts:
            self.running[number] = tune_trial
            with self.catch_faults():
                self.study.start_attempt(number, attempt, len(attempts))

    def handle_report(self, report: Report) -> bool:
        """Pass a worker's report on to the study.

        Args:
            report: What the worker reports on one of its attempts.

        Returns:
            True if the attempt continues.
        """
        for damage in report.damaged:
            self._progress.warn(f"trial {report.number}: {damage}; resuming from what is intact")
        match report:
            case EpochReport():
                return self.study.report_epoch(report) and not self.is_stopping()
            case FailureReport(is_fused=True):
                self.study.fail_fused_attempt(report.number, report.attempt, report.reason)
            case FailureReport():
                self.study.fail_attempt(report)
            case StorageReport():
                self.fault = StorageError(report.reason)
        return False

    def handle_lost_worker(self, tune_trial: Any) -> None:
        """Record the loss of a worker for every attempt that it trained.

        Args:
            tune_trial: The trial of Tune that it ran.
        """
        message = get_error_text(tune_trial)
        attempts = tune_trial.config["attempts"]
        for attempt in attempts:
            has_started = self.running.get(attempt.number) is tune_trial
            self.forget_attempt(attempt.number, attempt.attempt)
            if self._stop_at is None:  # else it was killed, and resumes with the search
                self._record_loss(attempt, message, has_started, is_alone=len(attempts) == 1)

    def _record_loss(
        self, attempt: Attempt, message: str, has_started: bool, *, is_alone: bool
    ) -> None:
        identity = attempt.number, attempt.attempt
        if hung := self.hung.pop(identity, None):
            self.study.lose_attempt(*identity, HUNG, hung)
        elif has_started and MEMORY_GONE.search(message):
            reason = "out of memory: its process was ended because its node ran low on memory"
            if is_alone:
                self.study.fail_attempt(FailureReport(*identity, reason, out_of_memory=True))
            else:
                self.study.fail_fused_attempt(*identity, reason)
        else:
            cause = MACHINE if MACHINE_GONE.search(message) else PROCESS
            last_line = WORDY.sub("", message.splitlines()[-1].strip())
            self.study.lose_attempt(*identity, cause, f"{cause} lost: {last_line}")

    def forget_attempt(self, number: int, attempt: int, *, others_continue: bool = False) -> None:
        """Note that an attempt is over; a newer one of its trial may be running.

        Args:
            number: Number of the trial.
            attempt: Number of the attempt.
            others_continue: Whether other attempts of its worker continue. The worker then drops
                this trial before its next epoch.
        """
        tune_trial = self.running.get(number)
        if tune_trial is None or (number, attempt) not in list_attempts(tune_trial):
            return
        del self.running[number]
        if others_continue and (actor := tune_trial.temporary_state.ray_actor):
            actor.drop_trial.remote(number)

    @contextmanager
    def catch_faults(self) -> Iterator[None]:
        """Keep an error in `fault`: Tune would wrap what is raised inside it, and continue."""
        try:
            yield
        except (StorageError, InputError) as fault:
            self.fault = self.fault or fault

    def _report_idle(self) -> None:
        """Say that no trial runs: Ray waits in silence for nodes that are gone or starting."""
        now = time.monotonic()
        if self.running:
            self._idle_since = now
        elif now - self._idle_since > IDLE_S:
            idle = now - self._idle_since
            self._progress.wait(f"Waiting for a worker: no trial has run for {idle:.0f} s")

    def _kill_hung_workers(self) -> None:
        for number, attempt, reason in self.study.find_hung_attempts():
            if number in self.running and (number, attempt) not in self.hung:
                tune_trial = self.running[number]
                self.hung |= dict.fromkeys(list_attempts(tune_trial), reason)
                kill_worker(tune_trial)


def list_attempts(tune_trial: Any) -> list[tuple[int, int]]:
    """List trial number and attempt of everything that a trial of Tune trains."""
    return [(attempt.number, attempt.attempt) for attempt in tune_trial.config["attempts"]]


def kill_worker(tune_trial: Any) -> None:
    """End the worker of a trial of Tune at once, even if it is stopped."""
    if actor := tune_trial.temporary_state.ray_actor:
        ray.kill(actor)


def get_error_text(tune_trial: Any) -> str:
    """Return Ray's message about a lost worker; the file has it before `get_error` does."""
    try:
        return Path(tune_trial.error_file).read_text().strip() or NOTHING
    except (OSError, TypeError):
        return NOTHING


def get_fusion_group(attempt: Attempt) -> Hashable:
    """Return a key that is equal for attempts that may be fused.

    An attempt that resumes, or has to use less memory, trains alone.

    Args:
        attempt: The attempt.
    """
    if attempt.attempt > 1 or attempt.micro_batch:
        return attempt.number
    return fusion_key(attempt.config), attempt.seed


def is_same_network(attempts: list[Attempt]) -> bool:
    """Return whether the first and the last attempt are new and of the same architecture.

    Args:
        attempts: At least one attempt.
    """
    first, last = attempts[0], attempts[-1]
    is_new = first.attempt == last.attempt == 1
    return is_new and build_architecture(first.config) == build_architecture(last.config)


class NotPickled:
    """Base of objects that pickle as nothing."""

    def __reduce__(self) -> tuple[type, tuple[()]]:
        return (object, ())


class StudySearcher(NotPickled, Searcher):
    """Gives the study's attempts to Tune, for as many workers at a time as there are slots.

    Args:
        state: The state of the search.
        settings: The keys of each worker's config that are the same for all.
        count_slots: Returns the number of workers that may run at this time.
        max_fused: Most attempts of one network that a worker gets.
    """

    def __init__(
        self,
        state: SearchState,
        settings: dict[str, Any],
        count_slots: Callable[[], int],
        max_fused: int = 1,
    ) -> None:
        super().__init__()
        self._state = state
        self._settings = settings
        self._count_slots = count_slots
        self._max_fused = max_fused
        self._suggested: set[str] = set()
        self._waiting: list[Attempt] = []
        """Attempts that the study has handed out and that did not fit the groups so far."""

    def suggest(self, trial_id: str) -> dict[str, Any] | str | None:
        """Give the next worker its attempts.

        Args:
            trial_id: Tune's name of its trial.

        Returns:
            The worker's config, `FINISHED`, or None if none may start now.
        """
        if len(self._suggested) >= self._count_slots():
            return None
        attempts: list[Attempt] = []
        if not self._state.is_stopping():
            with self._state.catch_faults():
                attempts = self._take_group()
        if not attempts:
            # A running trial may still be lost, and is then handed out again.
            is_over = self._state.is_stopping() or not self._state.study.running()
            return Searcher.FINISHED if is_over else None
        self._suggested.add(trial_id)
        self._state.pending[trial_id] = time.monotonic()
        return {"attempts": attempts, **self._settings}

    def continue_worker(self, tune_trial: Any) -> bool:
        """Give a worker whose attempts are over its next ones.

        Args:
            tune_trial: The trial of Tune that it runs.

        Returns:
            False if there are none now, if fewer workers may run than do, if attempts that were
            handed out wait for a worker for long, or if this one was killed. The worker then ends
            its trial of Tune, and Tune gives it the attempts that wait.
        """
        if self._state.is_stopping() or len(self._suggested) > self._count_slots():
            return False
        waits = (time.monotonic() - since for since in self._state.pending.values())
        if any(wait_s >= PENDING_S for wait_s in waits):
            return False
        if self._state.hung.keys() & set(list_attempts(tune_trial)):
            return False
        journal = self._state.study.journal
        with self._state.catch_faults(), journal.write_as_one_part():
            if not (attempts := self._take_group()):
                return False
            tune_trial.config = {"attempts": attempts, **self._settings}
            self._state.start_attempts(tune_trial)
            # The actor takes calls in order, so this one comes before the next step.
            reset_config = tune_trial.temporary_state.ray_actor.reset_config
            journal.run_when_written(lambda: reset_config.remote(tune_trial.config))
        return self._state.fault is None

    def _take_group(self) -> list[Attempt]:
        """Take the attempts of the next worker.

        While the newest attempt is of the same network the study is asked for one more, so that
        each proposal is made as late as possible and knows as many results as possible.
        """
        waiting = self._waiting
        while not waiting or (len(waiting) < self._max_fused and is_same_network(waiting)):
            attempt = self._state.study.ask()
            if attempt is None:
                break
            waiting.append(attempt)
        if not waiting:
            return []
        key = get_fusion_group(waiting[0])
        group = [attempt for attempt in waiting if get_fusion_group(attempt) == key]
        group = group[: self._max_fused]
        self._waiting = [attempt for attempt in waiting if attempt not in group]
        return group

    def on_trial_complete(
        self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False
    ) -> None:
        """Free the slot. The stopper and the callback have told the study how its trials ended."""
        self._suggested.discard(trial_id)
        self._state.pending.pop(trial_id, None)

    def save(self, checkpoint_path: str) -> None:
        """Save nothing: the ledger holds everything."""

    def restore(self, checkpoint_path: str) -> None:
        """Restore nothing."""


class StudyStopper(NotPickled, Stopper):
    """Brings each report to the study and returns its verdict; stops all when the search is over.

    Tune asks the stopper before anything else, so an epoch is in the ledger before Tune acts on it.

    Args:
        state: The state of the search.
        continue_worker: Gives the worker of a trial of Tune its next attempts, and returns whether
            there are any.
    """

    def __init__(self, state: SearchState, continue_worker: Callable[[Any], bool]) -> None:
        self._state, self._continue_worker = state, continue_worker

    def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
        """Handle the reports of a worker; return whether Tune ends its trial."""
        state, reports = self._state, result["reports"]
        tune_trial = state.running.get(reports[0].number)
        # A worker that hung may report late, when another one has its trial.
        is_known = tune_trial is not None and tune_trial.trial_id == trial_id
        stopped: list[Report] = []
        continues_worker = False
        with state.catch_faults(), state.study.write_reports_as_one_part():
            stopped = [report for report in reports if not self._handle_report(report)]
            if len(stopped) == len(reports):
                for report in stopped:
                    state.forget_attempt(report.number, report.attempt)
                continues_worker = is_known and self._continue_worker(tune_trial)
        if state.fault:
            for attempt in list_attempts(tune_trial) if is_known else ():
                state.forget_attempt(*attempt)
            return True
        if len(stopped) == len(reports):
            return not continues_worker
        for report in stopped:
            state.forget_attempt(report.number, report.attempt, others_continue=True)
        return False

    def stop_all(self) -> bool:
        """Return whether the search is over."""
        is_finished = False
        with self._state.catch_faults():
            is_finished = self._state.is_finished()
        return is_finished

    def _handle_report(self, report: Report) -> bool:
        """Return whether the attempt of a report continues."""
        with self._state.catch_faults():
            return self._state.handle_report(report)
        return False


class StudyCallback(NotPickled, Callback):
    """Tells the study which attempts have started and which have lost their worker."""

    def __init__(self, state: SearchState) -> None:
        self._state = state

    def on_trial_start(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """Record the start of a worker's first attempts."""
        self._state.pending.pop(trial.trial_id, None)
        self._state.start_attempts(trial)

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """Record the loss of a worker."""
        with self._state.catch_faults():
            self._state.handle_lost_worker(trial)
