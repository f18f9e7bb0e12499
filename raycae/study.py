"""A study: one search over one space in one folder, and the life of its trials.

Every event is written to the ledger first; only then do the tables' records, the sampler and the
stopping rule hear of it. All three are functions of the ledger, so opening a study replays it and
stands where the last process stood. Neither Ray nor torch: whoever runs trials (Tune, a
simulation, a test) calls `ask`, `started`, `epoch`, `failed`.
"""

from __future__ import annotations

import json
import os
import shutil
import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from raycae import ledger, results
from raycae.config import Config
from raycae.errors import InputError
from raycae.ledger import Event, Ledger
from raycae.provenance import provenance
from raycae.results import COMPLETE, FAIL, PRUNED, RUNNING, Records
from raycae.searcher import Proposer
from raycae.space import Space, parse
from raycae.stopping import rule
from raycae.storage import write_whole

TABLES_EVERY_S = 3.0
"""The two tables are rewritten at most so often while a search runs; the ledger is always whole."""

Listener = Callable[[Event, Records], None]


@dataclass(frozen=True)
class Plan:
    """What a search was asked to do. `trials` is the study's total."""

    study: str
    space: str
    data: str
    trials: int
    epochs: int
    limit: int | None
    seed: int
    sampler: str
    scheduler: str


@dataclass(frozen=True)
class Issue:
    """A trial to run: its number, what to train, and the seed of its weights."""

    number: int
    config: Config
    seed: int


class Study:
    """The study in `folder`, open for writing by this process alone.

    Made by `Study.create` or `Study.resume`; `close` it.
    """

    def __init__(
        self, folder: Path, content: Mapping[str, Any], lock: FileLock, listener: Listener | None
    ) -> None:
        self.folder = folder
        self.plan = plan = plan_of(content)
        self.space = space = space_of(content)
        self._listener = listener
        self._lock = lock
        try:
            self.ledger = Ledger(folder / "ledger")
            self.records = Records(plan.study, content["data"].get("n_train"))
            self.proposer = Proposer(space, plan.sampler, plan.seed)
            self.rule = rule(plan.scheduler, plan.epochs)
            for event in self.ledger.read():
                self._hear(event)
        except BaseException:
            self._lock.release()
            raise
        self._to_go_on = deque(self.running())
        self._drop_models()  # what a process that died had not come to
        self._tables_at = -TABLES_EVERY_S

    @classmethod
    def create(
        cls,
        folder: Path,
        plan: Plan,
        space: Space,
        data: Mapping[str, Any],
        listener: Listener | None = None,
    ) -> Study:
        """A new study. `data`: the source, its fingerprint, `n_train` and `n_val`.

        Raises `InputError` where there is one already, or the folder cannot be written.
        """
        require_place(folder)
        content = {
            "study": plan.study,
            "plan": asdict(plan),
            "space": {"name": space.name, "hash": space.hash, "text": space.text},
            "task": space.task,
            "data": dict(data),
            "created_at": _now().isoformat(),
            **provenance(),
        }
        try:
            folder.mkdir(parents=True, exist_ok=True)
            lock = _locked(folder)
            require_place(folder)  # nobody else made one before the lock was ours
            _write_content(folder, content)
            begun = {"event": "begun", "at": _now(), "study": json.dumps(content)}
            Ledger(folder / "ledger").append([begun])
        except OSError as error:
            raise _unwritable(folder, error.strerror) from None
        return cls(folder, content, lock, listener)

    @classmethod
    def resume(cls, folder: Path, plan: Plan, listener: Listener | None = None) -> Study:
        """The study of an earlier search, where its ledger stands, with `plan` from now on."""
        lock = _locked(folder)
        try:
            content = read_content(folder)
            if content["plan"] != asdict(plan) or not (folder / "study.json").exists():
                content = {**content, "plan": asdict(plan)}
                _write_content(folder, content)
        except BaseException:
            lock.release()
            raise
        return cls(folder, content, lock, listener)

    def ask(self) -> Issue | None:
        """The next trial: first those that an interruption left, then new ones. None: no more."""
        if self._to_go_on:
            row = self.records.trials[self._to_go_on.popleft()]
            config = Config.model_validate_json(row["config"])
            return Issue(row["trial_number"], config, row["seed"])
        number = len(self.records.trials)
        proposal = self.proposer.propose(number) if number < self.plan.trials else None
        if proposal is None:
            return None
        self._record(
            self._event(
                number,
                "created",
                point=proposal.point,
                params=json.dumps(proposal.params),
                config=proposal.config.to_json(),
                seed=self.plan.seed,
            )
        )
        return Issue(number, proposal.config, self.plan.seed)

    def started(self, number: int) -> None:
        """The trial began, or began again: a new attempt."""
        event = self._event(number, "started")
        self._record({**event, "attempt": event["attempt"] + 1})

    def epoch(self, number: int, measured: Mapping[str, Any]) -> bool:
        """An epoch ended, with what `Training.run_epoch` measured. True: the trial goes on.

        The epoch and the verdict that ends a trial are one part of the ledger: a process that dies
        leaves both or neither.
        """
        epoch, value = measured["epoch"], measured["val_mse"]
        events = [self._event(number, "epoch", **measured)]
        # An epoch said again after a restart was judged when it was said first.
        said_before = epoch in self.records.epochs[number]
        goes_on = said_before or self.rule.report(number, epoch, value)
        if epoch >= self.plan.epochs:
            events.append(self._event(number, "ended", state=COMPLETE))
        elif not goes_on:
            reason = f"{self.plan.scheduler} after epoch {epoch}"
            events.append(self._event(number, "ended", state=PRUNED, reason=reason))
        self._record(*events)
        self.proposer.report(number, epoch, value)
        if len(events) == 1:
            return True
        self._tell(number)
        return False

    def failed(self, number: int, reason: str, traceback: str | None = None, **where: Any) -> None:
        """The trial cannot go on; `reason` is one line, `traceback` the whole of it if any.
        A trial that has ended stays as it ended, whatever becomes of its process."""
        if number in self.running():
            why = {"state": FAIL, "reason": reason, "traceback": traceback}
            self._record(self._event(number, "ended", **why, **where))
            self._tell(number)

    def evaluated(self, number: int, test_mse: float) -> None:
        """The error of a kept model on the test images."""
        self._record(self._event(number, "evaluated", test_mse=test_mse))

    def running(self) -> list[int]:
        """The numbers of trials that have not ended."""
        return [n for n, row in self.records.trials.items() if row["state"] == RUNNING]

    def interrupted(self) -> None:
        """Mark what still runs as interrupted; a resumed search goes on with it."""
        for number in self.running():
            self._record(self._event(number, "interrupted"))

    def kept(self) -> list[int]:
        """The trials whose models stay, in order of their validation error."""
        trials = self.records.trials
        kept = results.kept_models(trials.values())
        return sorted(kept, key=lambda number: (trials[number]["val_mse"], number))

    def close(self) -> None:
        """Write both tables a last time and let the folder go."""
        self.records.write(self.folder)
        self._lock.release()

    def _event(self, number: int, kind: str, **fields: Any) -> dict[str, Any]:
        row = self.records.trials.get(number)
        attempt = row["attempt"] if row else 0
        return {
            "event": kind,
            "at": _now(),
            "trial_number": number,
            "attempt": attempt,
            **fields,
        }

    def _record(self, *events: Event) -> None:
        """One part of the ledger; then everybody else hears of it."""
        self.ledger.append(events)
        for event in events:
            self.records.apply(event)
            if self._listener:
                self._listener(event, self.records)
        if time.monotonic() - self._tables_at >= TABLES_EVERY_S:
            self.records.write(self.folder)
            self._tables_at = time.monotonic()

    def _tell(self, number: int) -> None:
        """The sampler hears how a trial ended; models that are no longer worth keeping go."""
        row = self.records.trials[number]
        self.proposer.tell(number, row["state"], row["val_mse"])
        self._drop_models()

    def _hear(self, event: Event) -> None:
        """One event of the ledger, while it is replayed."""
        number = event["trial_number"]
        self.records.apply(event)
        match event["event"]:
            case "created":
                self.proposer.reopen(number, json.loads(event["params"]))
            case "epoch":
                self.proposer.report(number, event["epoch"], event["val_mse"])
                self.rule.report(number, event["epoch"], event["val_mse"])
            case "ended":
                value = self.records.trials[number]["val_mse"]
                self.proposer.tell(number, event["state"], value)

    def _drop_models(self) -> None:
        """Only models worth keeping stay; what a trial needed to go on goes once it has ended."""
        needed = {*results.kept_models(self.records.trials.values()), *self.running()}
        for folder in (self.folder / "models").glob("*"):
            if folder.name.isdigit() and int(folder.name) not in needed:
                shutil.rmtree(folder, ignore_errors=True)
        running = set(self.running())
        for path in (self.folder / "checkpoints").glob("*.pt"):
            if path.stem.isdigit() and int(path.stem) not in running:
                path.unlink(missing_ok=True)


def read_content(folder: Path) -> dict[str, Any]:
    """What `study.json` says; where it is gone, what the ledger's first event says it said."""
    if not (folder / "study.json").exists() and (folder / "ledger").is_dir():
        for event in ledger.read(folder / "ledger"):
            if event["event"] == "begun":
                content: dict[str, Any] = json.loads(event["study"])
                return content
    return results.read_study(folder)


def plan_of(content: Mapping[str, Any]) -> Plan:
    """The plan in the content of a `study.json`. Raises `InputError`."""
    try:
        return Plan(**content["plan"])
    except TypeError as error:
        raise InputError(f"study.json: plan: {error}") from None


def space_of(content: Mapping[str, Any]) -> Space:
    """The space in the content of a `study.json`. Raises `InputError`."""
    try:
        name, text = content["space"]["name"], content["space"]["text"]
    except (TypeError, KeyError) as error:
        raise InputError(f"study.json: space: lacks {error}") from None
    return parse(text, name=name)


def _write_content(folder: Path, content: Mapping[str, Any]) -> None:
    write_whole(folder / "study.json", json.dumps(content, indent=1).encode())


def model_folder(study: Path, number: int) -> Path:
    """Where the best epoch's model of a trial lies."""
    return study / "models" / str(number)


def checkpoint_path(study: Path, number: int) -> Path:
    """What a trial under way needs to go on after its last epoch."""
    return study / "checkpoints" / f"{number}.pt"


def require_place(folder: Path) -> None:
    """Raise `InputError` where a study lies in `folder` already, or none could be written."""
    if (folder / "study.json").exists() or (folder / "ledger").exists():
        raise InputError(
            f"{folder}: there is a study already; go on with it with --resume, "
            "or give this one another name with --study NAME"
        )
    nearest = next(path for path in (folder, *folder.parents) if path.exists())
    if not nearest.is_dir() or not os.access(nearest, os.W_OK):
        raise _unwritable(folder, f"{nearest} is no folder that may be written")


def _unwritable(folder: Path, reason: str | None) -> InputError:
    return InputError(
        f"{folder}: results cannot be written there: {reason}; choose another folder with --results"
    )


def _locked(folder: Path) -> FileLock:
    lock = FileLock(folder / ".lock")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise InputError(
            f"{folder}: another process is searching here; wait for it, or choose another --study"
        ) from None
    except OSError as error:
        raise InputError(f"{folder}: cannot be written: {error.strerror}") from None
    return lock


def _now() -> datetime:
    return datetime.now(UTC)
