"""A study: one search over one space in one folder, and the life of its trials.

Every event is written to the ledger first. Then the records, the sampler and the early-stopping
rule are updated. All three are functions of the ledger, so opening a study replays it and restores
the state in which the last process left it. This module uses neither Ray nor torch. Whatever runs
trials (Tune, a simulation, a test) calls `ask`, `start_attempt`, `report_epoch`, `fail_attempt` and
`lose_attempt`.
"""

from __future__ import annotations

import json
import math
from collections import deque
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any

from raycae.config import Config
from raycae.errors import StorageError
from raycae.optimization.frontier import Strata
from raycae.optimization.shared_study import SharedStudy, describe_shared_study
from raycae.space.space import Space
from raycae.storage.paths import Place
from raycae.study.artifacts import ArtifactStore
from raycae.study.attempt import Attempt, EpochReport, FailureReport
from raycae.study.journal import Journal, Listener
from raycae.study.lease import Lease
from raycae.study.ledger import Ledger
from raycae.study.plan import load_plan
from raycae.study.records import COHORT, COMPLETE, COUNTED, FAIL, MEMORY, PRUNED, RUNNING, Records
from raycae.study.recovery import LedgerRepair, replay_ledger
from raycae.study.strategy import make_proposer, make_stopping_rule
from raycae.study.watchdog import Watchdog

MAX_LOSSES = 3
"""After this many losses of its worker a trial is a FAIL. Lost nodes do not count."""
SHRINK = 4
"""By how much the micro-batch is divided where memory was not enough."""


class Study:
    """The study in a folder, open for writing by this process alone.

    Open it with `create_study` or `resume_study`, and `close` it.

    Args:
        folder: Folder of the study.
        content: Content of `study.json`.
        space: The search space.
        lease: The lease of the folder, which the study takes over.
        listener: Receives every event.
        shared: The database of all drivers of the study, if there is one.

    Attributes:
        plan: What the search was asked to do.
        notes: What was found damaged, and what became of it; one sentence each.
        broken: Whether the storage has failed for good. Then nothing more is written.
    """

    def __init__(
        self,
        folder: Place,
        content: Mapping[str, Any],
        space: Space,
        lease: Lease,
        listener: Listener | None,
        shared: SharedStudy | None = None,
    ) -> None:
        self.folder = folder
        self.plan = plan = load_plan(content)
        self.space = space
        self.notes: list[str] = []
        self.broken = False
        self._lease = lease
        self._shared = shared
        self._next_number = 0
        self._handed_out: dict[int, int] = {}
        """The attempt that each trial was last handed out for."""
        self._watchdog = Watchdog()
        self.ledger = Ledger(folder / "ledger")
        self.notes += LedgerRepair(folder, self.ledger, plan.study, space).run()
        self.records = Records(plan.study, content["data"].get("n_train"), plan.cost)
        self.journal = Journal(folder, self.ledger, self.records, lease, listener)
        strata = Strata(plan.strata, content["data"]["line"]) if plan.strata else None
        self.proposer = make_proposer(plan, space, strata, shared)
        self.rule = make_stopping_rule(plan, strata)
        replay_ledger(self.ledger.folder, space, self.records, self.proposer, self.rule, shared)
        self._watchdog.load_epochs(self.records)
        if self.records.orphans and self.notes:  # not again where the damage was reported before
            self.notes.append(
                f"{self.folder}: the ledger has lost the start of some trials. Their other "
                f"{self.records.orphans} events are ignored, and these trials start from the "
                "beginning."
            )
        if shared:
            self.notes += describe_shared_study(shared, plan.study)
        self._queue = deque(self.running())
        """The trials to hand out again, before any new one."""
        self._artifacts = ArtifactStore(folder, self.records, self.notes)
        self._artifacts.remove_stale_files()

    def ask(self) -> Attempt | None:
        """Hand out the next attempt: a trial that was interrupted or lost, else a new one.

        Returns:
            The attempt, or None if there is none now. A running trial may still be lost, and is
            then handed out again.
        """
        while self._queue:
            number = self._queue.popleft()
            if self._is_current(number):
                return self._hand_out(number)
        while self._next_number in self.records.trials:
            self._next_number += 1  # A number is free again if the beginning of its trial is lost.
        number = self._next_number
        if number >= self.plan.trials:
            return None
        self._import_shared_trials()
        proposal = self.proposer.propose(number)
        if proposal is None:
            return None
        self.journal.record(
            self.journal.make_event(
                number,
                "created",
                point=proposal.point,
                params=json.dumps(proposal.params),
                config=proposal.config.to_json(),
                seed=proposal.seed,
                change=proposal.change,
                parent=proposal.parent,
            )
        )
        return self._hand_out(number)

    def start_attempt(self, number: int, attempt: int, group_size: int = 1) -> None:
        """Record that a worker started an attempt.

        Args:
            number: Number of the trial.
            attempt: Number of the attempt.
            group_size: Number of trials that the worker trains together.
        """
        self._watchdog.watch(number, self.records.trials[number]["flops"], group_size)
        self.journal.record({**self.journal.make_event(number, "started"), "attempt": attempt})

    def write_reports_as_one_part(self) -> AbstractContextManager[None]:
        """Write the events of a worker's reports, and its next attempts, as one part of the ledger.

        A part costs 0.5 ms of CPU (analysis/FINDINGS.md). In a shared study each report is written
        by itself, before the other drivers get it.

        Returns:
            The context manager for the `with` block of the reports.
        """
        return nullcontext() if self._shared else self.journal.write_as_one_part()

    def report_epoch(self, report: EpochReport) -> bool:
        """Record an epoch and decide whether its trial continues.

        The epoch and the verdict that ends a trial are one part of the ledger: a process that dies
        leaves both or neither. Reports of an older attempt are refused.

        Args:
            report: What the worker measured.

        Returns:
            True if the trial continues.
        """
        number = report.number
        if not self._is_current(number, report.attempt):
            return False
        flops = self.records.trials[number]["flops"]
        self._watchdog.record_epoch(number, report.elapsed_s or report.epoch_time_s, flops)
        columns = report.get_columns()
        events = [self.journal.make_event(number, "epoch", **columns)]
        if end := self._judge_epoch(report, columns):
            events.append(self.journal.make_event(number, "ended", **end))
        best_before = self._artifacts.get_best_model(number)
        self.journal.record(*events)
        self.proposer.report(number, report.epoch, report.val_mse)
        if end:
            self._finish_trial(number)
            return False
        self.journal.run_when_written(lambda: self._artifacts.delete_old_files(number, best_before))
        return True

    def fail_attempt(self, report: FailureReport) -> None:
        """Record that an attempt cannot continue.

        Where memory was not enough, the trial is retried with the same minibatches in smaller
        pieces. With batch norm that would be another model, for it normalizes each piece by itself.
        A trial that has ended stays as it ended, whatever becomes of its worker.

        Args:
            report: What failed.
        """
        number = report.number
        if not self._is_current(number, report.attempt):
            return
        if report.out_of_memory and (micro_batch := self._choose_micro_batch(number)):
            self._requeue(number, MEMORY, report.reason, micro_batch)
        else:
            where = {"host": report.host, "device": report.device}
            self._fail_trial(number, report.reason, report.traceback, **where)

    def fail_fused_attempt(self, number: int, attempt: int, reason: str) -> None:
        """Record that a fused group cannot continue; each of its trials is retried alone.

        Args:
            number: Number of the trial.
            attempt: Number of the attempt.
            reason: Why, in one line; it says little about this trial.
        """
        if self._is_current(number, attempt):
            self._requeue(number, COHORT, reason)

    def lose_attempt(self, number: int, attempt: int, cause: str, reason: str) -> None:
        """Record that the worker of an attempt is gone.

        The trial resumes from its last epoch in another worker. Its third loss is a failure; the
        loss of a node does not count.

        Args:
            number: Number of the trial.
            attempt: Number of the attempt.
            cause: One of `records.CAUSES`.
            reason: Why, in one line.
        """
        if not self._is_current(number, attempt):
            return
        losses = self.records.trials[number]["losses"] + (cause in COUNTED)
        self._requeue(number, cause, reason)
        if losses >= MAX_LOSSES:
            self._fail_trial(number, f"lost {losses} times; the last time: {reason}")

    def find_hung_attempts(self) -> list[tuple[int, int, str]]:
        """Find attempts that hang; return trial number, attempt and reason of each."""
        return [
            (number, self.records.trials[number]["attempt"], f"hung: no epoch in {limit_s:.0f} s")
            for number, limit_s in self._watchdog.find_overdue(self._lease.waiting_s)
            if self._is_current(number)
        ]

    @property
    def fault(self) -> StorageError | None:
        """What the storage refuses, if the lease could not be renewed.

        Trials that wait for the same storage report nothing.
        """
        return self._lease.fault

    @property
    def hopeless(self) -> str | None:
        """Why the search should stop: trials fail in a row for one reason. None if they do not."""
        count = self._watchdog.count_alike_failures(self.plan.trials)
        if not count:
            return None
        reason = next(
            row["reason"] for row in reversed(self.records.trials.values()) if row["state"] == FAIL
        )
        alike = f"{count} trials in a row failed for the same reason"
        return f"{alike if count > 1 else 'The only trial failed'}: {reason}"

    def record_test_error(self, number: int, test_mse: float) -> None:
        """Record the error of a saved model on the test images.

        Args:
            number: Number of the trial.
            test_mse: The error.
        """
        self.journal.record(self.journal.make_event(number, "evaluated", test_mse=test_mse))

    def running(self) -> list[int]:
        """List the trials that have not ended."""
        return self.records.running()

    def mark_interrupted(self) -> None:
        """Mark the trials that have not ended as interrupted; a resumed search continues them."""
        if self.broken or self.journal.has_failed:
            return  # The ledger says as much without it: those trials have not ended.
        if events := [self.journal.make_event(number, "interrupted") for number in self.running()]:
            self.journal.record(*events)

    def kept(self) -> list[int]:
        """List the trials whose models are kept, lowest validation error first."""
        trials = self.records.trials
        return sorted(self.records.kept, key=lambda number: (trials[number]["val_mse"], number))

    def close(self) -> None:
        """Write both tables a last time and release the folder."""
        try:
            if not (self.broken or self.journal.has_failed):
                self.records.write(self.folder)
        finally:
            self._lease.release()

    def _judge_epoch(self, report: EpochReport, columns: Mapping[str, Any]) -> dict[str, str]:
        """Return the columns of the event that ends the trial, or nothing if it continues."""
        number, epoch = report.number, report.epoch
        # An epoch that is repeated because its checkpoint was damaged was judged the first time.
        is_repeated = epoch in self.records.epochs[number]
        known = {**self.records.trials[number], **columns}
        continues = is_repeated or self.rule.report(number, epoch, report.val_mse, known)
        limit_s = self.space.file.constraints.epoch_time_s.max or math.inf
        if epoch >= self.plan.epochs:
            return {"state": COMPLETE}
        if report.epoch_time_s > limit_s:
            reason = f"epoch_time_s {report.epoch_time_s:.3g} is above {limit_s:g}"
            return {"state": PRUNED, "reason": reason}
        if not continues:
            return {"state": PRUNED, "reason": f"{self.plan.scheduler} after epoch {epoch}"}
        return {}

    def _import_shared_trials(self) -> None:
        """Learn what other drivers of this study have found; the ledger records it first."""
        finished = self._shared.pop_finished() if self._shared else []
        if not finished:
            return
        self.journal.record(
            *(
                self.journal.make_event(
                    None,
                    "known",
                    config=trial.config,
                    val_mse=trial.error,
                    curve=json.dumps(trial.curve),
                    source=trial.source,
                )
                for trial in finished
            )
        )
        for trial in finished:
            config = Config.model_validate_json(trial.config)
            self.proposer.learn(config, trial.error, trial.curve)

    def _hand_out(self, number: int) -> Attempt:
        row = self.records.trials[number]
        curve = self.records.epochs[number]
        newest = [curve[epoch] for epoch in sorted(curve, reverse=True)[:2]]
        self._handed_out[number] = row["attempt"] + 1
        return Attempt(
            number,
            self._handed_out[number],
            Config.model_validate_json(row["config"]),
            row["seed"],
            row["micro_batch"],
            tuple((e["epoch"], e["attempt"], e["checkpoint"] or "") for e in newest),
        )

    def _is_current(self, number: int, attempt: int | None = None) -> bool:
        """Return whether a trial has not ended, and was last handed out for this attempt."""
        row = self.records.trials.get(number)
        return (
            row is not None
            and row["state"] == RUNNING
            and (attempt is None or self._handed_out.get(number) == attempt)
        )

    def _choose_micro_batch(self, number: int) -> int | None:
        """Return a smaller micro-batch after memory was not enough, or None if there is none."""
        row = self.records.trials[number]
        config = Config.model_validate_json(row["config"])
        size = row["micro_batch"] or config.batch_size
        return None if size == 1 or config.norm == "batch" else max(size // SHRINK, 1)

    def _requeue(
        self, number: int, cause: str, reason: str, micro_batch: int | None = None
    ) -> None:
        """Record the end of an attempt whose trial is handed out again."""
        self._watchdog.unwatch(number)
        self._handed_out.pop(number, None)  # Refuse what its worker may still report.
        columns = {"cause": cause, "reason": reason, "micro_batch": micro_batch}
        self.journal.record(self.journal.make_event(number, "lost", **columns))
        self._queue.append(number)

    def _fail_trial(
        self, number: int, reason: str, traceback: str | None = None, **where: str | None
    ) -> None:
        columns = {"state": FAIL, "reason": reason, "traceback": traceback, **where}
        self.journal.record(self.journal.make_event(number, "ended", **columns))
        self._finish_trial(number)

    def _finish_trial(self, number: int) -> None:
        """Tell the sampler how a trial has ended, and keep or delete its files."""
        row = self.records.trials[number]
        self._watchdog.unwatch(number)
        self.proposer.tell(number, row["state"], row["val_mse"], row)
        self._watchdog.record_end(row["state"], row["reason"])
        self.journal.run_when_written(lambda: self._artifacts.finish_trial(number))
