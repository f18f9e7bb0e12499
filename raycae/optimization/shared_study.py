"""One study, several searches: who tries what and how it ended, in a database that all reach.

Each search, a driver, has a folder and a ledger of its own, and says in an Optuna study what it
tries. That is a claim: Optuna numbers trials one after the other, so whoever looks after he has
made his claim sees every earlier one, and of two equal claims the earlier one stands. The database
is no place where results lie: what a driver has learnt there goes into its ledger, and what the
database lacks of its own trials is put there again from the ledger.
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
from raycae.storage.files import quarantine
from raycae.storage.retry import retry_policy

T = TypeVar("T")
SQLITE, JOURNAL = "sqlite:///", "journal:///"
DRIVER = "driver "
PAUSE_S = 1.0
TRIES = 20
Claim = tuple[str, int | None]
"""What is tried, and where it is tried with several seeds, with which."""


class Ended(NamedTuple):
    """A trial of another driver that has ended: who ran it, its configuration (JSON), its `error`,
    None where it was stopped, and the error after each epoch."""

    source: str
    config: str
    error: float | None
    curve: dict[int, float]


@dataclass
class OwnTrial:
    """What the database has of a trial of this driver."""

    id: int
    claim: Claim
    epochs: set[int] = field(default_factory=set)
    ended: bool = False


class SharedStudy:
    """The Optuna study called `name` in the database at `url`, as one `driver` of it sees it.

    `facts` have to be the same for all drivers; where they are not, and no other driver ever was,
    the study is made anew. `notes` says what was found damaged. Raises `InputError` where the
    database does not answer, or has something else under that name.
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
        self._url = url
        self._takes_epochs = len(directions) == 1
        """Optuna has no place for them where two things count."""
        self._own: dict[int, OwnTrial] = {}
        self._heard: set[int] = set()
        self._first: dict[Claim, str] = {}
        """Which driver was first with each claim."""
        self._tried: Counter[str] = Counter()
        self.others: Counter[str] = Counter()
        """How many trials each other driver has begun."""
        self._news: dict[str, Ended] = {}
        self._away = False
        """The database was waited for in vain."""
        self._study_id = do_at_once(url, lambda: self._found(name, directions, facts))
        self._look()

    def n_tries(self, identity: str) -> int:
        """How many trials of other drivers try the same."""
        return self._tried[identity]

    def claim(self, number: int, trial: FrozenTrial) -> bool:
        """Put trial `number` of this driver there; False, and nothing is there, where another
        driver was first.

        `trial` runs; its `user_attrs` have `identity`, one for all that is the same, `seed`, and
        `config`, JSON.
        """
        self.take(number, trial)
        self._look()
        if self._first[self._own[number].claim] == self.driver:
            return True
        self._withdraw(number)
        return False

    def take(self, number: int, trial: FrozenTrial) -> None:
        """Trial `number` is this driver's, whoever else tries the same."""
        claim = get_claim(trial)
        if number in self._own:
            if self._own[number].claim == claim:
                return
            self._withdraw(number)  # the process that claimed it died before its ledger knew
        trial.user_attrs |= {"driver": self.driver, "number": number}
        made = self._do(lambda: self._storage.create_new_trial(self._study_id, trial))
        self._own[number] = OwnTrial(made, claim)

    def report(self, number: int, epoch: int, error: float) -> None:
        """The error after an epoch; once."""
        own = self._own[number]
        if self._takes_epochs and not own.ended and epoch not in own.epochs:
            self._do(lambda: self._storage.set_trial_intermediate_value(own.id, epoch, error))
            own.epochs.add(epoch)

    def tell(self, number: int, state: str, values: Sequence[float] | None) -> None:
        """How the trial ended; once."""
        own = self._own[number]
        if not own.ended:
            self._end(own, TrialState[state], values)

    def news(self) -> list[Ended]:
        """Trials of other drivers that have ended since this was last asked, but for failures."""
        self._look()
        news, self._news = self._news, {}
        return list(news.values())

    def known(self, source: str) -> None:
        """The trial of another driver called `source` is no news."""
        self._news.pop(source, None)

    def _found(
        self, name: str, directions: Sequence[StudyDirection], facts: Mapping[str, Any]
    ) -> int:
        """The study's id. An SQLite file that is damaged is set aside: what it held of this driver
        can be made again from the ledger."""
        path = Path(self._url.removeprefix(SQLITE))
        try:
            if self._url.startswith(SQLITE) and path.is_file():
                require_whole_sqlite(path)
            return self._join(name, directions, facts)
        except (sqlite3.DatabaseError, ValueError) as fault:
            busy = isinstance(fault, sqlite3.OperationalError)  # another driver's, and whole
            if busy or isinstance(fault, InputError) or not path.is_file():
                raise
            aside = quarantine(path).parent
            self.notes.append(
                f"{path}: {format_database_error(fault)}; set aside in {aside}, made anew"
            )
            return self._join(name, directions, facts)

    def _join(
        self, name: str, directions: Sequence[StudyDirection], facts: Mapping[str, Any]
    ) -> int:
        self._storage = open_storage(self._url)
        study = None
        while study is None:
            try:
                study = self._made(name, directions, facts)
            except DuplicatedStudyError:
                study = self._met(name, facts)
        for trial in study.trials:
            if get_driver(trial) == self.driver and "withdrawn" not in trial.user_attrs:
                self._own[trial.user_attrs["number"]] = OwnTrial(
                    trial._trial_id,
                    get_claim(trial),
                    set(trial.intermediate_values),
                    trial.state.is_finished(),
                )
        return study._study_id

    def _made(
        self, name: str, directions: Sequence[StudyDirection], facts: Mapping[str, Any]
    ) -> optuna.Study:
        study = optuna.create_study(study_name=name, storage=self._storage, directions=directions)
        study.set_user_attr(DRIVER + self.driver, True)  # first: it says whose a half made one is
        for fact, value in facts.items():
            study.set_user_attr(fact, value)
        return study

    def _met(self, name: str, facts: Mapping[str, Any]) -> optuna.Study | None:
        """The study that another driver, or this one, made; None where it has to be made anew."""
        study = optuna.load_study(study_name=name, storage=self._storage)
        for _ in range(TRIES):
            there = study.user_attrs
            missing = facts.keys() - there.keys()
            if study.trials or not missing:
                break
            time.sleep(PAUSE_S / 4)  # who made it may be about to write them
        drivers = {key for key in there if key.startswith(DRIVER)}
        differ = [fact for fact in facts.keys() & there.keys() if there[fact] != facts[fact]]
        if differ and drivers == {DRIVER + self.driver}:
            optuna.delete_study(study_name=name, storage=self._storage)
            return None
        # One whose first driver died while he made it has a mark of his, and no trials.
        foreign = missing and (study.trials or not drivers)
        if foreign or differ:
            told = ", ".join(f"{fact} {there[fact]}, here {facts[fact]}" for fact in sorted(differ))
            fault = f"is of something else ({told})"
            if foreign:
                fault = "was not written by this version of raycae"
            raise InputError(
                f"--storage {hide_password(self._url)}: {name} in it {fault}; give this one "
                "another name "
                f"with --study NAME, or delete that one from the database"
            )
        for fact in missing:
            study.set_user_attr(fact, facts[fact])
        study.set_user_attr(DRIVER + self.driver, True)
        return study

    def _look(self) -> None:
        trials = self._do(lambda: self._storage.get_all_trials(self._study_id, deepcopy=False))
        standing = [t for t in trials if get_driver(t) and "withdrawn" not in t.user_attrs]
        theirs = [trial for trial in standing if get_driver(trial) != self.driver]
        self._first = {get_claim(trial): get_driver(trial) for trial in reversed(standing)}
        self._tried = Counter(trial.user_attrs["identity"] for trial in theirs)
        self.others = Counter(get_driver(trial) for trial in theirs)
        for trial in theirs:
            if trial.state.is_finished() and trial.number not in self._heard:
                self._heard.add(trial.number)
                if trial.state != TrialState.FAIL:
                    ended = get_ended(trial)
                    self._news[ended.source] = ended

    def _withdraw(self, number: int) -> None:
        own = self._own.pop(number)
        if not own.ended:
            self._do(lambda: self._storage.set_trial_user_attr(own.id, "withdrawn", True))
            self._end(own, TrialState.FAIL, None)

    def _end(self, own: OwnTrial, state: TrialState, values: Sequence[float] | None) -> None:
        with suppress(UpdateFinishedTrialError):  # done, and the answer was lost
            self._do(lambda: self._storage.set_trial_state_values(own.id, state, values))
        own.ended = True

    def _do(self, action: Callable[[], T]) -> T:
        """Do `action`; a database that is away for a while is waited for. Raises `InputError`."""
        begun = time.monotonic()
        while True:
            try:
                return action()
            except (StorageInternalError, OSError) as error:
                what, waited = (
                    f"{hide_password(self._url)}: {format_database_error(error)}",
                    time.monotonic() - begun,
                )
            if self._away or waited + PAUSE_S > retry_policy.limit():
                self._away = True  # nothing else is waited for as long
                raise InputError(f"--storage {what}; waited for {waited:.0f} s")
            retry_policy.say(f"waiting for the database: {what}")
            time.sleep(PAUSE_S)


def require_database(url: str) -> None:
    """Raise `InputError` where no study can be laid into the database at `url`."""
    if not url.startswith(SQLITE):
        do_at_once(url, lambda: open_storage(url))


def hide_password(url: str) -> str:
    """A URL without its password."""
    return re.sub("//[^/@]*@", "//", url)


def get_driver(trial: FrozenTrial) -> str:
    """Empty for a trial that no search of raycae's put there."""
    return str(trial.user_attrs.get("driver", ""))


def get_claim(trial: FrozenTrial) -> Claim:
    return trial.user_attrs["identity"], trial.user_attrs["seed"]


def get_ended(trial: FrozenTrial) -> Ended:
    said = trial.user_attrs
    curve = dict(sorted(trial.intermediate_values.items()))
    error = trial.values[0] if trial.values else None
    source = f"{said['driver']} {said['number']}"
    return Ended(source, said["config"], error, curve)


def open_storage(url: str) -> BaseStorage:
    if url.startswith(JOURNAL):
        return JournalStorage(JournalFileBackend(url.removeprefix(JOURNAL)))
    for _ in range(TRIES):
        try:
            return optuna.storages.get_storage(url)
        except Exception as error:
            # Other drivers, as early as this one, make the tables at the same time.
            if not re.search("duplicate key|already exists", format_database_error(error)):
                raise
            time.sleep(PAUSE_S / 4)
    return optuna.storages.get_storage(url)


def do_at_once(url: str, action: Callable[[], T]) -> T:
    """Do `action` in the database at `url`. Raises `InputError`."""
    try:
        return action()
    except InputError:
        raise
    except Exception as error:  # each kind of database has its own
        raise InputError(
            f"--storage {hide_password(url)}: {format_database_error(error)}"
        ) from None


def format_database_error(error: BaseException) -> str:
    return (str(error.__cause__ or error).splitlines() or [type(error).__name__])[0]


def require_whole_sqlite(path: Path) -> None:
    """Raise `sqlite3.DatabaseError` with what SQLite finds wrong with its file."""
    with closing(sqlite3.connect(path)) as connection:
        (found,) = connection.execute("PRAGMA integrity_check(1)").fetchone()
    if found != "ok":
        raise sqlite3.DatabaseError(str(found).splitlines()[-1])


def describe_shared_study(shared: SharedStudy, name: str) -> list[str]:
    """What there is to say of a shared study when it is opened."""
    if not shared.others:
        return shared.notes
    n, who = shared.others.total(), len(shared.others)
    also = f"{name} is searched by {who} other{'s' * (who > 1)} too"
    return [*shared.notes, f"{also}: {n} trials of theirs so far; none is run again"]
