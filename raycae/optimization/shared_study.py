"""One study, several drivers: claims and results that they exchange in a database.

Each driver is a search with its own folder and ledger. It writes to an Optuna study what it tries.
That is a claim: Optuna numbers trials one after the other, so a driver that looks after its claim
sees every earlier one, and of two equal claims the earlier one wins. The database does not store
results: what a driver learns from it goes into the ledger, and trials of this driver that the
database lacks are written to it again from the ledger.
"""

from __future__ import annotations

import re
import sqlite3
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import optuna
from optuna.exceptions import DuplicatedStudyError, StorageInternalError, UpdateFinishedTrialError
from optuna.storages import BaseStorage, JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState

from raycae.errors import InputError
from raycae.formatting import hide_password
from raycae.storage.files import quarantine
from raycae.storage.retry import retry_policy

T = TypeVar("T")
SQLITE, JOURNAL = "sqlite:///", "journal:///"
"""Beginnings of the URLs of databases that are files."""
DRIVER = "driver "
"""Beginning of the user attributes that name the drivers of a study."""
PAUSE_S = 1.0
"""Pause in seconds before another try to reach the database."""
TRIES = 20
"""Number of tries, a quarter of `PAUSE_S` apart, while another driver creates tables or a study."""
Claim = tuple[str, int | None]
"""The identity of a training, and its seed if configurations are run with several seeds."""


class FinishedTrial(NamedTuple):
    """A trial of another driver that has ended.

    Attributes:
        source: The driver and its trial number.
        config: The configuration, JSON.
        error: Its validation error; None if it was stopped early.
        curve: Validation error by epoch; empty with two objectives.
    """

    source: str
    config: str
    error: float | None
    curve: dict[int, float]


@dataclass
class OwnTrial:
    """What the database has about a trial of this driver."""

    id: int
    claim: Claim
    epochs: set[int] = field(default_factory=set)
    ended: bool = False


class SharedStudy:
    """An Optuna study in a database, from the point of view of one of its drivers.

    Args:
        url: URL of the database.
        name: Name of the study in it.
        driver: Unique name of this driver.
        directions: One direction per objective.
        facts: Properties that have to be the same for all drivers. If they differ and there never
            was another driver, the study is created again.

    Raises:
        InputError: The database does not answer, or contains something else with this name.
    """

    def __init__(
        self,
        url: str,
        name: str,
        driver: str,
        directions: Sequence[StudyDirection],
        facts: Mapping[str, Any],
    ) -> None:
        self.driver = driver
        self.notes: list[str] = []
        """What was found damaged when the study was opened."""
        self._url = url
        self._has_curves = len(directions) == 1
        """Optuna stores no intermediate values with two objectives."""
        self._own: dict[int, OwnTrial] = {}
        self._seen: set[str] = set()
        """Sources of the trials that were returned, or that the ledger has. A driver that writes a
        trial again, because the database was lost, gives it another number in Optuna."""
        self._first_drivers: dict[Claim, str] = {}
        """The driver that was first with each claim."""
        self._n_tries: Counter[str] = Counter()
        self.others: Counter[str] = Counter()
        """Number of trials that each other driver has begun."""
        self._finished: dict[str, FinishedTrial] = {}
        self._is_unreachable = False
        """The database did not answer within the time limit of the retries."""
        self._study_id = run_or_explain(url, lambda: self._open_or_create(name, directions, facts))
        self._refresh()

    def count_tries(self, identity: str) -> int:
        """Count the trials of other drivers that try the same.

        Args:
            identity: Identity of a training, JSON.
        """
        return self._n_tries[identity]

    def claim(self, number: int, trial: FrozenTrial) -> bool:
        """Claim a configuration for a trial of this driver.

        Args:
            number: Trial number.
            trial: A running trial with the user attributes `identity` (JSON text that is equal for
                equal trainings), `seed` and `config` (JSON).

        Returns:
            False if another driver was first; then the claim is withdrawn.
        """
        self.take(number, trial)
        self._refresh()
        if self._first_drivers[self._own[number].claim] == self.driver:
            return True
        self._withdraw(number)
        return False

    def take(self, number: int, trial: FrozenTrial) -> None:
        """Write a trial of this driver to the database, even if another driver tries the same.

        Args:
            number: Trial number.
            trial: A running trial, as for `claim`.
        """
        claim = get_claim(trial)
        if number in self._own:
            if self._own[number].claim == claim:
                return
            # The process that claimed it died before its ledger had the trial.
            self._withdraw(number)
        trial.user_attrs |= {"driver": self.driver, "number": number}
        made = self._retry(lambda: self._storage.create_new_trial(self._study_id, trial))
        self._own[number] = OwnTrial(made, claim)

    def report(self, number: int, epoch: int, error: float) -> None:
        """Write the error after an epoch, once.

        Args:
            number: Trial number.
            epoch: Epoch, from 1.
            error: Validation error after that epoch.
        """
        own = self._own[number]
        if self._has_curves and not own.ended and epoch not in own.epochs:
            self._retry(lambda: self._storage.set_trial_intermediate_value(own.id, epoch, error))
            own.epochs.add(epoch)

    def tell(self, number: int, state: str, values: Sequence[float] | None) -> None:
        """Write how a trial ended, once.

        Args:
            number: Trial number.
            state: COMPLETE, PRUNED or FAIL.
            values: One value per objective, for a COMPLETE trial.
        """
        own = self._own[number]
        if not own.ended:
            self._end(own, TrialState[state], values)

    def pop_finished(self) -> list[FinishedTrial]:
        """Return the trials of other drivers that have ended since the last call, without FAILs."""
        self._refresh()
        finished, self._finished = self._finished, {}
        return list(finished.values())

    def mark_seen(self, source: str) -> None:
        """Leave a trial of another driver out of what `pop_finished` returns.

        Args:
            source: `FinishedTrial.source`.
        """
        self._seen.add(source)
        self._finished.pop(source, None)

    def _open_or_create(
        self, name: str, directions: Sequence[StudyDirection], facts: Mapping[str, Any]
    ) -> int:
        """Open or create the study and return its id; a damaged SQLite file is quarantined.

        What the file had about this driver is written again from the ledger.
        """
        path = Path(self._url.removeprefix(SQLITE))
        try:
            if self._url.startswith(SQLITE) and path.is_file():
                require_whole_sqlite(path)
            return self._connect_to_study(name, directions, facts)
        except (sqlite3.DatabaseError, ValueError) as fault:
            is_busy = isinstance(fault, sqlite3.OperationalError)  # In use, not damaged.
            if is_busy or isinstance(fault, InputError) or not path.is_file():
                raise
            folder = quarantine(path).parent
            self.notes.append(
                f"{path}: {format_database_error(fault)}; moved to {folder} and created again"
            )
            return self._connect_to_study(name, directions, facts)

    def _connect_to_study(
        self, name: str, directions: Sequence[StudyDirection], facts: Mapping[str, Any]
    ) -> int:
        self._storage = open_storage(self._url)
        study = None
        while study is None:
            try:
                study = self._create(name, directions, facts)
            except DuplicatedStudyError:
                study = self._join_existing(name, facts)
        for trial in study.trials:
            if get_driver(trial) == self.driver and "withdrawn" not in trial.user_attrs:
                self._own[trial.user_attrs["number"]] = OwnTrial(
                    trial._trial_id,
                    get_claim(trial),
                    set(trial.intermediate_values),
                    trial.state.is_finished(),
                )
        return study._study_id

    def _create(
        self, name: str, directions: Sequence[StudyDirection], facts: Mapping[str, Any]
    ) -> optuna.Study:
        study = optuna.create_study(study_name=name, storage=self._storage, directions=directions)
        study.set_user_attr(
            DRIVER + self.driver, True
        )  # First, so that an unfinished study has an owner.
        for fact, value in facts.items():
            study.set_user_attr(fact, value)
        return study

    def _join_existing(self, name: str, facts: Mapping[str, Any]) -> optuna.Study | None:
        """Join the study that a driver created; None if it was deleted to be created again."""
        study = optuna.load_study(study_name=name, storage=self._storage)
        for _ in range(TRIES):
            written = study.user_attrs
            missing = facts.keys() - written.keys()
            if study.trials or not missing:
                break
            time.sleep(PAUSE_S / 4)  # Its creator may be about to write them.
        drivers = {key for key in written if key.startswith(DRIVER)}
        differ = [fact for fact in facts.keys() & written.keys() if written[fact] != facts[fact]]
        if differ and drivers == {DRIVER + self.driver}:
            optuna.delete_study(study_name=name, storage=self._storage)
            return None
        # If its first driver died while it was created, the study names a driver and has no trials.
        is_foreign = missing and (study.trials or not drivers)
        if is_foreign or differ:
            differences = "; ".join(
                f"its {fact}: {written[fact]}, yours: {facts[fact]}" for fact in sorted(differ)
            )
            fault = f"the database has a different study {name} ({differences})"
            if is_foreign:
                fault = f"the database has a study {name} of another version of raycae"
            raise InputError(
                f"--storage {hide_password(self._url)}: {fault}. Choose another name with --study "
                "NAME, or delete the study in the database."
            )
        for fact in missing:
            study.set_user_attr(fact, facts[fact])
        study.set_user_attr(DRIVER + self.driver, True)
        return study

    def _refresh(self) -> None:
        """Read all trials: claims of all drivers, and what has ended."""
        trials = self._retry(lambda: self._storage.get_all_trials(self._study_id, deepcopy=False))
        standing = [t for t in trials if get_driver(t) and "withdrawn" not in t.user_attrs]
        theirs = [trial for trial in standing if get_driver(trial) != self.driver]
        self._first_drivers = {get_claim(trial): get_driver(trial) for trial in reversed(standing)}
        self._n_tries = Counter(trial.user_attrs["identity"] for trial in theirs)
        self.others = Counter(get_driver(trial) for trial in theirs)
        for trial in theirs:
            has_result = trial.state.is_finished() and trial.state != TrialState.FAIL
            if has_result and (source := get_source(trial)) not in self._seen:
                self._seen.add(source)
                self._finished[source] = make_finished_trial(trial)

    def _withdraw(self, number: int) -> None:
        own = self._own.pop(number)
        if not own.ended:
            self._retry(lambda: self._storage.set_trial_user_attr(own.id, "withdrawn", True))
            self._end(own, TrialState.FAIL, None)

    def _end(self, own: OwnTrial, state: TrialState, values: Sequence[float] | None) -> None:
        with suppress(UpdateFinishedTrialError):  # An earlier try succeeded unnoticed.
            self._retry(lambda: self._storage.set_trial_state_values(own.id, state, values))
        own.ended = True

    def _retry(self, action: Callable[[], T]) -> T:
        """Do `action`, again and again while the database does not answer.

        Raises:
            InputError: It did not answer within the time limit of the retries.
        """
        begun = time.monotonic()
        while True:
            try:
                return action()
            except (StorageInternalError, OSError) as error:
                fault = f"{hide_password(self._url)}: {format_database_error(error)}"
                waited_s = time.monotonic() - begun
            if self._is_unreachable or waited_s + PAUSE_S > retry_policy.limit():
                self._is_unreachable = True  # Later calls do not wait again.
                raise InputError(f"--storage {fault}; waited for {waited_s:.0f} s")
            retry_policy.say(f"waiting for the database: {fault}")
            time.sleep(PAUSE_S)


def require_database(url: str) -> None:
    """Require that a database can hold a study; SQLite files are not opened.

    Args:
        url: URL of the database.

    Raises:
        InputError: It cannot be opened.
    """
    if not url.startswith(SQLITE):
        run_or_explain(url, lambda: open_storage(url))


def get_driver(trial: FrozenTrial) -> str:
    """Return the driver of a trial; empty if the trial was not written by raycae.

    Args:
        trial: A trial of the study in the database.
    """
    return str(trial.user_attrs.get("driver", ""))


def get_source(trial: FrozenTrial) -> str:
    """Return the driver of a trial and the number that the driver gave it.

    Args:
        trial: A trial of the study in the database.
    """
    return f"{trial.user_attrs['driver']} {trial.user_attrs['number']}"


def get_claim(trial: FrozenTrial) -> Claim:
    """Return what a trial claims.

    Args:
        trial: A trial of the study in the database.
    """
    return trial.user_attrs["identity"], trial.user_attrs["seed"]


def make_finished_trial(trial: FrozenTrial) -> FinishedTrial:
    """Return a trial of another driver as that driver reported it.

    Args:
        trial: A trial that has ended.
    """
    attributes = trial.user_attrs
    curve = dict(sorted(trial.intermediate_values.items()))
    error = trial.values[0] if trial.values else None
    return FinishedTrial(get_source(trial), attributes["config"], error, curve)


def open_storage(url: str) -> BaseStorage:
    """Open a database; its tables are created if it is empty.

    Args:
        url: URL of the database.
    """
    if url.startswith(JOURNAL):
        return JournalStorage(JournalFileBackend(url.removeprefix(JOURNAL)))
    for _ in range(TRIES):
        try:
            return optuna.storages.get_storage(url)
        except Exception as error:
            # Another driver creates the tables at the same time.
            if not re.search("duplicate key|already exists", format_database_error(error)):
                raise
            time.sleep(PAUSE_S / 4)
    return optuna.storages.get_storage(url)


def run_or_explain(url: str, action: Callable[[], T]) -> T:
    """Do an action in a database, without retries.

    Args:
        url: URL of the database, for the message.
        action: What to do.

    Raises:
        InputError: The action failed.
    """
    try:
        return action()
    except InputError:
        raise
    except Exception as error:  # Every database driver has exceptions of its own.
        problem = format_database_error(error)
        if isinstance(error.__cause__ or error, ModuleNotFoundError):
            problem += ". Install it, or use sqlite:///FILE or journal:///FILE."
        raise InputError(f"--storage {hide_password(url)}: {problem}") from None


def format_database_error(error: BaseException) -> str:
    """Return the first line of an error's cause.

    Args:
        error: What Optuna or a database driver raised.
    """
    return (str(error.__cause__ or error).splitlines() or [type(error).__name__])[0]


def require_whole_sqlite(path: Path) -> None:
    """Check an SQLite file.

    Args:
        path: The file.

    Raises:
        sqlite3.DatabaseError: SQLite finds a fault.
    """
    with closing(sqlite3.connect(path)) as connection:
        (found,) = connection.execute("PRAGMA integrity_check(1)").fetchone()
    if found != "ok":
        raise sqlite3.DatabaseError(str(found).splitlines()[-1])


def describe_shared_study(shared: SharedStudy, name: str) -> list[str]:
    """Describe a shared study when it is opened.

    Args:
        shared: The study in the database.
        name: Name of the study.

    Returns:
        Notes for the user.
    """
    if not shared.others:
        return shared.notes
    n_trials, n_drivers = shared.others.total(), len(shared.others)
    searches = f"{n_drivers} other search{'es' * (n_drivers > 1)}"
    trials = f"{n_trials} trial{'s' * (n_trials != 1)}"
    whose = "its" if n_drivers == 1 else "their"
    note = f"{name} is shared with {searches}. This search repeats none of {whose} {trials}."
    return [*shared.notes, note]
