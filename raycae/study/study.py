"""A study: one search over one space in one folder, and the life of its trials.

Every event is written to the ledger first; only then do the tables' records, the sampler and the
stopping rule hear of it. All three are functions of the ledger, so opening a study replays it and
stands where the last process stood. Neither Ray nor torch: whoever runs trials (Tune, a
simulation, a test) calls `ask`, `started`, `epoch`, `failed`, `lost`.
"""

from __future__ import annotations

import json
import math
import re
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pandas as pd

from raycae.config import Config
from raycae.errors import InputError, StorageError
from raycae.optimization.early_stopping import make_rule
from raycae.optimization.frontier import Strata
from raycae.optimization.proposer import Proposal, Proposer
from raycae.optimization.shared_study import SharedStudy, describe_shared_study
from raycae.provenance import collect_provenance, get_versions
from raycae.space.space import Space
from raycae.storage.files import checksum, make_folder, quarantine, remove_tree, write_atomic
from raycae.storage.paths import Place
from raycae.study import ledger, tables
from raycae.study.artifacts import get_checkpoint_folder, get_model_folder, write_model
from raycae.study.attempt import Attempt
from raycae.study.lease import Lease
from raycae.study.ledger import Event, Ledger, Range
from raycae.study.opening import join_shared_study
from raycae.study.plan import (
    Plan,
    describe_content,
    explain_unwritable,
    load_plan,
    load_study_space,
    read_content_from_ledger,
    recover_content,
    require_free_place,
    write_content,
)
from raycae.study.records import COHORT, COMPLETE, COUNTED, FAIL, MEMORY, PRUNED, RUNNING, Records
from raycae.study.recovery import rebuild_events
from raycae.study.watchdog import (
    ALIKE,
    ALIKE_ELSE,
    DEAF_S,
    QUIET_FACTOR,
    QUIET_FIRST_S,
    QUIET_LEAST_S,
    QUIET_UNKNOWN_S,
)

TABLES_EVERY_S = 3.0
"""The two tables are rewritten at most so often while a search runs; the ledger is always whole."""
TABLES_SHARE = 0.05
"""And they cost at most this share of its time, however long they have grown."""
MAX_LOSSES = 3
"""The loss of a trial's process that makes it a FAIL. Machines that vanish do not count."""
SHRINK = 4
"""By how much fewer images go through the network at a time where memory was not enough."""
SPLITS = "splits.parquet"
"""The file that says which image belongs to which split: columns split, name, checksum."""
Listener = Callable[[Event, Records], None]


class Study:
    """The study in `folder`, open for writing by this process alone.

    Made by `Study.create` or `Study.resume`; `close` it.
    """

    def __init__(
        self,
        folder: Place,
        content: Mapping[str, Any],
        lease: Lease,
        listener: Listener | None,
        shared: SharedStudy | None = None,
    ) -> None:
        self.folder = folder
        self.plan = plan = load_plan(content)
        self.space = space = load_study_space(content)
        self.notes: list[str] = []
        """What was found damaged when the study was opened, and what became of it."""
        self.broken = False
        """The storage has failed for good: nothing more is tried on it."""
        self._listener = listener
        self._lease = lease
        self._streak: tuple[str, int] = ("", 0)
        self._next = 0
        self._issued: dict[int, int] = {}
        self._heard: dict[int, float] = {}
        self._company: dict[int, int] = {}
        self._listened = time.monotonic()
        self._slowest_s_per_flop = 0.0
        self._slowest_s: dict[int, float] = {}
        self._tables_at = -TABLES_EVERY_S
        self._tables_took_s = 0.0
        self.ledger = Ledger(folder / "ledger")
        self._mend()
        self.records = Records(plan.study, content["data"].get("n_train"), plan.cost)
        cost = plan.cost if plan.objective == "frontier" else None
        strata = Strata(plan.strata, content["data"]["line"]) if plan.strata else None
        self._shared = shared
        self.proposer = Proposer(
            space,
            plan.sampler,
            plan.seed,
            points=plan.points,
            n_seeds=plan.n_seeds,
            repeats=plan.repeats,
            cost=cost,
            strata=strata,
            settings=plan.settings,
            shared=shared,
        )
        self.rule = make_rule(
            plan.scheduler,
            plan.epochs,
            grace=plan.grace,
            factor=plan.factor,
            cost=cost,
            stratum=(lambda known: strata.of(known["latent_size"])) if strata else None,
            family="arch_hash" if plan.settings > 1 else None,
        )
        self._replay()
        if shared:
            self.notes += describe_shared_study(shared, plan.study)
        self._to_go_on = deque(self.running())
        self._tidy()

    @classmethod
    def create(
        cls,
        folder: Place,
        plan: Plan,
        space: Space,
        data: Mapping[str, Any],
        listener: Listener | None = None,
        database: str | None = None,
        known: Iterable[tuple[Config, float]] = (),
        splits: bytes | None = None,
    ) -> Study:
        """Begin a new study.

        Args:
            folder: Where it is to lie.
            plan: What is searched.
            space: The space.
            data: The source, `n_train`, `n_val`, the fingerprints of the images and of their
                labels, the checksum of the table of splits; see `runner.describe_data`.
            listener: Hears of every event.
            database: URL of a database for several searches that extend one study.
            known: Trials of earlier studies and their validation errors, for the sampler.
            splits: The content of `splits.parquet`, which is written before the ledger.

        Returns:
            The study, open for writing.

        Raises:
            InputError: There is a study already, or the folder cannot be written.
        """
        require_free_place(folder)
        content = {
            "study": plan.study,
            "plan": asdict(plan),
            "space": describe_content(space),
            "task": space.task,
            "data": dict(data),
            "created_at": get_time().isoformat(),
            **collect_provenance(),
        }
        try:
            folder.mkdir(parents=True, exist_ok=True)
            lease = Lease.take(folder)
        except OSError as error:
            raise explain_unwritable(folder, error.strerror) from None
        try:
            require_free_place(folder)  # nobody else made one before the lease was ours
            shared = join_shared_study(database, content, plan) if database else None
            if splits is not None:
                write_atomic(folder / SPLITS, splits)
            # The ledger first: what it holds can be written anew, and without it there is no study.
            begun = {"event": "begun", "at": get_time(), "study": json.dumps(content)}
            earlier = (
                {"event": "known", "at": get_time(), "config": config.to_json(), "val_mse": error}
                for config, error in known
            )
            Ledger(folder / "ledger").append([begun, *earlier])
            write_content(folder, content)
            return cls(folder, content, lease, listener, shared)
        except BaseException:
            lease.release()
            raise

    @classmethod
    def resume(
        cls,
        folder: Place,
        plan: Plan,
        listener: Listener | None = None,
        *,
        space: Space | None = None,
        database: str | None = None,
    ) -> Study:
        """The study of an earlier search, where its ledger stands, with `plan` from now on; to
        search on, with `space` and this process's versions. `notes` says what had to be mended."""
        lease = Lease.take(folder)
        try:
            before, notes = recover_content(folder)
            content = {**before, "plan": asdict(plan)}
            if space:
                content |= {"space": describe_content(space), "versions": get_versions()}
            shared = join_shared_study(database, content, plan) if database else None
            study = cls(folder, content, lease, listener, shared)
            study.notes[:0] = notes
            if content != read_content_from_ledger(folder):
                text = json.dumps(content)
                study.ledger.append([{"event": "resumed", "at": get_time(), "study": text}])
            if content != before or notes or not (folder / "study.json").exists():
                write_content(folder, content)
        except BaseException:
            lease.release()
            raise
        return study

    def ask(self) -> Attempt | None:
        """The next attempt: first at trials that an interruption or a loss left, then at new ones.
        None: nothing to begin now; but what still runs may be lost yet, and come back."""
        while self._to_go_on:
            number = self._to_go_on.popleft()
            if self._runs(number):
                return self._issue(number)
        number = self._next_number()
        if number >= self.plan.trials:
            return None
        self._hear_of_others()
        proposal = self.proposer.propose(number)
        if proposal is None:
            return None
        self._record(
            self._event(
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
        return self._issue(number)

    def started(self, number: int, attempt: int, company: int = 1) -> None:
        """A process has taken the attempt, and so many in all."""
        self._heard[number] = time.monotonic()
        self._company[number] = company
        self._record({**self._event(number, "started"), "attempt": attempt})

    def epoch(
        self,
        number: int,
        attempt: int,
        measured: Mapping[str, Any],
        lasted_s: float | None = None,
    ) -> bool:
        """An epoch ended, with what `Training.run_epoch` measured. True: the trial goes on.
        `lasted_s`: from one word of its process to the next, where it trains others beside it.

        The epoch and the verdict that ends a trial are one part of the ledger: a process that dies
        leaves both or neither. What an older attempt still says is refused.
        """
        if not self._runs(number, attempt):
            return False
        epoch, value = measured["epoch"], measured["val_mse"]
        self._note_pace(number, lasted_s or measured["epoch_time_s"])
        events = [self._event(number, "epoch", **measured)]
        # An epoch said again (its checkpoint was damaged) was judged when it was said first.
        said_before = epoch in self.records.epochs[number]
        known = {**self.records.trials[number], **measured}
        goes_on = said_before or self.rule.report(number, epoch, value, known)
        reason = None if goes_on else f"{self.plan.scheduler} after epoch {epoch}"
        most_s = self.space.file.constraints.epoch_time_s.max or math.inf
        if (took_s := measured["epoch_time_s"]) > most_s:
            reason = f"epoch_time_s {took_s:.3g} is above {most_s:g}"
        if epoch >= self.plan.epochs:
            events.append(self._event(number, "ended", state=COMPLETE))
        elif reason:
            events.append(self._event(number, "ended", state=PRUNED, reason=reason))
        best_before = self._best_model(number)
        self._record(*events)
        self.proposer.report(number, epoch, value)
        if len(events) == 1:
            self._drop_old_files(number, best_before)
            return True
        self._settle(number)
        return False

    def failed(
        self,
        number: int,
        attempt: int,
        reason: str,
        traceback: str | None = None,
        *,
        out_of_memory: bool = False,
        **where: Any,
    ) -> None:
        """The attempt cannot go on; `reason` is one line, `traceback` the whole of it if any.

        Where memory was not enough the same minibatches are tried again in smaller pieces, unless
        that would be another model: batch norm looks at a piece at a time. A trial that has ended
        stays as it ended, whatever becomes of its process.
        """
        if not self._runs(number, attempt):
            return
        if out_of_memory and (piece := self._smaller_piece(number)):
            self._lose(number, MEMORY, reason, micro_batch=piece)
        else:
            self._fail(number, reason, traceback, **where)

    def failed_together(self, number: int, attempt: int, reason: str) -> None:
        """A cohort cannot go on, which says little of its members: each is tried again, alone."""
        if self._runs(number, attempt):
            self._lose(number, COHORT, reason)

    def lost(self, number: int, attempt: int, cause: str, reason: str) -> None:
        """The attempt's process is gone (`cause`: one of `records.CAUSES`). The trial goes on from
        its last epoch in another process; its third loss is a FAIL, but for a machine's."""
        if not self._runs(number, attempt):
            return
        losses = self.records.trials[number]["losses"] + (cause in COUNTED)
        self._lose(number, cause, reason)
        if losses >= MAX_LOSSES:
            self._fail(number, f"lost {losses} times; the last time: {reason}")

    def overdue(self) -> list[tuple[int, int, str]]:
        """Attempts that have given no sign of life for longer than their pace explains: number,
        attempt, and why, in words."""
        now = time.monotonic()
        self._forgive(now)
        return [
            (number, self.records.trials[number]["attempt"], f"hung: no epoch in {limit:.0f} s")
            for number, heard in self._heard.items()
            if self._runs(number) and now - heard > (limit := self._patience_s(number))
        ]

    @property
    def fault(self) -> StorageError | None:
        """Why the storage takes nothing, where the lease has met it; trials that wait for the same
        storage say nothing."""
        return self._lease.fault

    @property
    def hopeless(self) -> str | None:
        """Why it makes no sense to go on: all trials fail, one after the other, for one reason."""
        cause, n = self._streak
        if n < min(ALIKE.get(cause.split(":")[0], ALIKE_ELSE), self.plan.trials):
            return None
        reason = next(
            row["reason"] for row in reversed(self.records.trials.values()) if row["state"] == FAIL
        )
        return f"{n} trial{'s' * (n > 1)} in a row failed alike: {reason}"

    def evaluated(self, number: int, test_mse: float) -> None:
        """The error of a kept model on the test images."""
        self._record(self._event(number, "evaluated", test_mse=test_mse))

    def running(self) -> list[int]:
        """The numbers of trials that have not ended."""
        return self.records.running()

    def interrupted(self) -> None:
        """Mark what still runs as interrupted; a resumed search goes on with it."""
        if self.broken:
            return  # the ledger tells it as well: those trials have not ended
        if events := [self._event(number, "interrupted") for number in self.running()]:
            self._record(*events)

    def kept(self) -> list[int]:
        """The trials whose models stay, in order of their validation error."""
        trials = self.records.trials
        return sorted(self.records.kept, key=lambda number: (trials[number]["val_mse"], number))

    def close(self) -> None:
        """Write both tables a last time and let the folder go."""
        try:
            if not self.broken:
                self.records.write(self.folder)
        finally:
            self._lease.release()

    def _hear_of_others(self) -> None:
        """What other drivers of this study have learnt: in the ledger first, like all else."""
        news = self._shared.pop_finished() if self._shared else []
        if not news:
            return
        self._record(
            *(
                {
                    "event": "known",
                    "at": get_time(),
                    "trial_number": None,
                    "config": ended.config,
                    "val_mse": ended.error,
                    "curve": json.dumps(ended.curve),
                    "source": ended.source,
                }
                for ended in news
            )
        )
        for ended in news:
            config = Config.model_validate_json(ended.config)
            self.proposer.learn(config, ended.error, ended.curve)

    def _issue(self, number: int) -> Attempt:
        row = self.records.trials[number]
        curve = self.records.epochs[number]
        newest = [curve[epoch] for epoch in sorted(curve, reverse=True)[:2]]
        self._issued[number] = row["attempt"] + 1
        return Attempt(
            number,
            self._issued[number],
            Config.model_validate_json(row["config"]),
            row["seed"],
            row["micro_batch"],
            tuple((e["epoch"], e["attempt"], e["checkpoint"] or "") for e in newest),
        )

    def _next_number(self) -> int:
        """The least that no trial has: where the beginning of one is lost it begins again."""
        while self._next in self.records.trials:
            self._next += 1
        return self._next

    def _runs(self, number: int, attempt: int | None = None) -> bool:
        """Whether the trial has not ended, and `attempt` is the one that it was handed out for."""
        row = self.records.trials.get(number)
        return (
            row is not None
            and row["state"] == RUNNING
            and (attempt is None or self._issued.get(number) == attempt)
        )

    def _smaller_piece(self, number: int) -> int | None:
        """How many images may go through the network at a time after memory was not enough."""
        row = self.records.trials[number]
        config = Config.model_validate_json(row["config"])
        piece = row["micro_batch"] or config.batch_size
        return None if piece == 1 or config.norm == "batch" else max(piece // SHRINK, 1)

    def _lose(self, number: int, cause: str, reason: str, micro_batch: int | None = None) -> None:
        self._heard.pop(number, None)
        self._issued.pop(number, None)  # whatever becomes of its process
        fields = {"cause": cause, "reason": reason, "micro_batch": micro_batch}
        self._record(self._event(number, "lost", **fields))
        self._to_go_on.append(number)

    def _fail(self, number: int, reason: str, traceback: str | None = None, **where: Any) -> None:
        why = {"state": FAIL, "reason": reason, "traceback": traceback}
        self._record(self._event(number, "ended", **why, **where))
        self._settle(number)

    def _event(self, number: int, kind: str, **fields: Any) -> dict[str, Any]:
        row = self.records.trials.get(number)
        attempt = row["attempt"] if row else 0
        return {
            "event": kind,
            "at": get_time(),
            "trial_number": number,
            "attempt": attempt,
            **fields,
        }

    def _record(self, *events: Event) -> None:
        """One part of the ledger; then everybody else hears of it."""
        if self._lease.lost:
            raise StorageError(
                f"{self.folder}: another process has taken this study over, for this one had not "
                "been heard of; nothing more is written here"
            )
        self.ledger.append(events)
        for event in events:
            self.records.apply(event)
            if self._listener:
                self._listener(event, self.records)
        now = time.monotonic()
        if now - self._tables_at >= max(TABLES_EVERY_S, self._tables_took_s / TABLES_SHARE):
            self.records.write(self.folder)
            self._tables_at = time.monotonic()
            self._tables_took_s = self._tables_at - now

    def _settle(self, number: int) -> None:
        """A trial has ended: the sampler hears how, its model is kept or goes, and what it would
        have needed to go on goes too."""
        row = self.records.trials[number]
        self._heard.pop(number, None)
        self.proposer.tell(number, row["state"], row["val_mse"], row)
        self._note_failure(row)
        if number in self.records.kept:
            self._keep_model(number)
        for other in self._models - self.records.kept:
            remove_tree(get_model_folder(self.folder, other))
        self._models &= self.records.kept
        remove_tree(get_checkpoint_folder(self.folder, number))

    def _note_failure(self, row: Mapping[str, Any]) -> None:
        if row["state"] != FAIL:
            self._streak = ("", 0)
            return
        cause = re.sub(r"\d+", "", row["reason"])
        before, n = self._streak
        self._streak = (cause, n + 1 if cause == before else 1)

    def _keep_model(self, number: int) -> None:
        """The best epoch's model, from where its process laid it, to where people look for it."""
        row = self.records.trials[number]
        best = self._best_model(number)
        if best is None:
            return  # told by tables that do not know it
        epoch, attempt, expected = best
        source = get_checkpoint_folder(self.folder, number) / f"{epoch}-{attempt}.safetensors"
        try:
            weights = source.read_bytes()
        except OSError as error:
            self.notes.append(f"{source}: {error.strerror or error}; this model is lost")
            return
        if checksum(weights) != expected:
            self.notes.append(f"{quarantine(source)}: damaged; this model is lost")
            return
        make_folder(get_model_folder(self.folder, number), within=self.folder)
        write_model(
            get_model_folder(self.folder, number),
            weights,
            json.loads(row["config"]),
            trial_number=number,
            epoch=epoch,
            val_mse=row["val_mse"],
        )
        self._models.add(number)

    def _best_model(self, number: int) -> tuple[int, int, str] | None:
        """(epoch, attempt, digest) of the best epoch's model."""
        best = self.records.epochs[number].get(self.records.trials[number]["best_epoch"])
        return (best["epoch"], best["attempt"], best["model"]) if best and best["model"] else None

    def _drop_old_files(self, number: int, best_before: tuple[int, int, str] | None) -> None:
        """Two checkpoints stay, for one may be damaged, and the best model. What is older goes, now
        that the ledger has what is newer."""
        folder = get_checkpoint_folder(self.folder, number)
        curve = self.records.epochs[number]
        for epoch in sorted(curve)[:-2][-1:]:
            (folder / f"{epoch}-{curve[epoch]['attempt']}.pt").unlink(missing_ok=True)
        if best_before and best_before != self._best_model(number):
            epoch, attempt, _ = best_before
            (folder / f"{epoch}-{attempt}.safetensors").unlink(missing_ok=True)

    def _note_pace(self, number: int, seconds: float) -> None:
        self._heard[number] = time.monotonic()
        self._slowest_s[number] = max(seconds, self._slowest_s.get(number, 0.0))
        per_flop = seconds / (self.records.trials[number]["flops"] or 1)
        self._slowest_s_per_flop = max(self._slowest_s_per_flop, per_flop)

    def _patience_s(self, number: int) -> float:
        if own := self._slowest_s.get(number):
            return QUIET_LEAST_S + QUIET_FACTOR * own
        if not self._slowest_s_per_flop:
            return QUIET_UNKNOWN_S
        expected = self._slowest_s_per_flop * (self.records.trials[number]["flops"] or 1)
        return QUIET_LEAST_S + QUIET_FIRST_S + QUIET_FACTOR * expected * self._company[number]

    def _forgive(self, now: float) -> None:
        """While this process waited for its storage it heard nobody, and while the storage is away
        trials wait for it too."""
        away = now - self._listened
        if self._lease.waiting_s > DEAF_S:
            self._heard = dict.fromkeys(self._heard, now)
        elif away > DEAF_S:
            self._heard = {number: heard + away for number, heard in self._heard.items()}
        self._listened = now

    def _replay(self) -> None:
        """Bring records, sampler and rule to where the ledger stands."""
        space = ""
        for event in ledger.read_events(self.folder / "ledger"):
            number = event["trial_number"]
            known = number in self.records.trials
            self.records.apply(event)
            match event["event"]:
                case "begun" | "resumed":
                    space = json.loads(event["study"])["space"]["hash"]
                case "known":
                    config = Config.model_validate_json(event["config"])
                    told = json.loads(event["curve"] or "{}")
                    curve = {int(epoch): error for epoch, error in told.items()}
                    self.proposer.learn(config, event["val_mse"], curve)
                    if self._shared and event["source"]:
                        self._shared.mark_seen(event["source"])
                case "created" if not known:
                    params = json.loads(event["params"])
                    if space != self.space.hash:  # drawn from another one
                        params = json.loads(self._drawn(event["config"]))
                    config = Config.model_validate_json(event["config"])
                    told = (event[name] for name in ("seed", "point", "change", "parent"))
                    self.proposer.reopen(number, Proposal(config, params, *told))
                case "epoch" if known:
                    self.proposer.report(number, event["epoch"], event["val_mse"])
                    row = self.records.trials[number]
                    self.rule.report(number, event["epoch"], event["val_mse"], {**row, **event})
                case "ended" if known:
                    row = self.records.trials[number]
                    self.proposer.tell(number, row["state"], row["val_mse"], row)
        if self.records.orphans and self.notes:  # not again when the damage was told long ago
            self.notes.append(
                f"{self.folder}: {self.records.orphans} events of trials whose beginning is lost "
                "are left out; those trials begin again"
            )

    def _mend(self) -> None:
        """Make a ledger that has lost parts whole again: the tables, which were made from it, are
        at most seconds behind. What they do not know either is run again."""
        gaps, words = self.ledger.gaps()
        trials, epochs = (self._table(name) for name in ("trials", "epochs"))
        if trials is not None:
            trials = trials[trials["study"] == self.plan.study]
        recovered = 0
        if trials is None or epochs is None:
            for gap in gaps:
                self.ledger.fill(gap, [])
        else:
            recovered = self._recover(gaps, trials, epochs)
        self.notes += words
        if words or recovered:
            self.notes.append(
                f"{self.folder}: {recovered} events that the ledger lacks are known from "
                "trials.parquet and epochs.parquet"
            )

    def _recover(self, gaps: list[Range], trials: pd.DataFrame, epochs: pd.DataFrame) -> int:
        """Write down what the ledger lacks and the tables know. Returns how many events.

        What later events of a trial build on goes where it was lost: its beginning, and epochs of
        one that has ended, for nothing is taken of it after its end. The rest comes last.
        """
        folder = self.folder / "ledger"
        there = ledger.read_readable(folder)
        created = [
            {**event, "params": self._drawn(event["config"])}
            for event in rebuild_events(trials, epochs, self._fold(there))
            if event["event"] == "created"
        ]
        n_events = len(created)
        for i, gap in enumerate(gaps):
            so_far = self._fold(created + ledger.read_readable(folder, before=gap[0])).running()
            known = self._fold(created + ledger.read_readable(folder))
            lost = [
                event
                for event in rebuild_events(trials, epochs, known)
                if event["event"] == "epoch"
                and event["trial_number"] in so_far
                and event["trial_number"] not in known.running()
            ]
            self.ledger.fill(gap, lost if i else created + lost)
            n_events += len(lost)
        if created and not gaps:
            self.ledger.append(created)
        known = self._fold(ledger.read_events(folder))
        rest = [
            event
            for event in rebuild_events(trials, epochs, known)
            if event["event"] != "epoch" or event["trial_number"] in known.running()
        ]
        if rest:
            self.ledger.append(rest)
        return n_events + len(rest)

    def _drawn(self, config: str) -> str:
        """What the sampler would have had to draw for `config`, JSON."""
        return json.dumps(self.space.params_of(Config.model_validate_json(config)))

    def _fold(self, events: list[dict[str, Any]]) -> Records:
        records = Records(self.plan.study)
        for event in events:
            records.apply(event)
        return records

    def _table(self, name: str) -> pd.DataFrame | None:
        """A table as the last process left it; None where there is none, or it cannot be read and
        is set aside."""
        path = self.folder / f"{name}.parquet"
        if not path.exists():
            return None
        try:
            read = tables.read_trials if name == "trials" else tables.read_epochs
            return read(self.folder)
        except InputError as error:
            self.notes.append(f"{error}; set aside in {quarantine(path).parent}, made anew")
            return None

    def _tidy(self) -> None:
        """What the last process had not come to: models to keep, files that nobody needs."""
        folders = (self.folder / "models", self.folder / "checkpoints")
        models, checkpoints = (
            {int(path.name) for path in folder.iterdir() if path.name.isdigit()}
            if folder.exists()
            else set()
            for folder in folders
        )
        self._models: set[int] = models
        for number in (self.records.kept & checkpoints) - models:
            self._keep_model(number)
        for number in models - self.records.kept - set(self.running()):
            remove_tree(get_model_folder(self.folder, number))
        self._models &= self.records.kept
        for number in checkpoints - set(self.running()):
            remove_tree(get_checkpoint_folder(self.folder, number))
        for folder in (self.folder, self.folder / "ledger"):
            if isinstance(folder, Path):
                for path in folder.glob(".*.????????"):
                    path.unlink(missing_ok=True)  # a writer died before the rename


def get_time() -> datetime:
    return datetime.now(UTC)
