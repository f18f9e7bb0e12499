"""Several searches of one study in one database: nothing twice, and each learns from the others."""

from __future__ import annotations

import json
import os
import sqlite3
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import databases
import optuna
import pytest
from conftest import data_facts, die, run_trial
from databases import PostgreSQL
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend

from raycae.errors import InputError
from raycae.optimization import shared_study
from raycae.optimization.samplers import get_directions
from raycae.optimization.shared_study import SharedStudy, require_database
from raycae.space import loading
from raycae.space.space import Space
from raycae.storage import retry
from raycae.study.attempt import FailureReport
from raycae.study.ledger import read_events
from raycae.study.opening import create_study, resume_study
from raycae.study.plan import Plan
from raycae.study.study import Study

SMALL = """
task: reconstruct
data: photos
budget: {trials: 100, epochs: 2}
params:
  kernel: {type: categorical, choices: [2, 3, 5]}
  activation: {type: categorical, choices: [relu, silu]}
  optimizer: {type: categorical, choices: [adam, sgd]}
  batch_size: {type: categorical, choices: [16, 32]}
points:
  base: {kernel: 3}
  other: {kernel: 4}
"""
N_SMALL = 3 * 2 * 2 * 2 + 2
"""All that can be tried: the points lie outside, for their activation is another."""

KINDS = ["sqlite", "journal"]


@pytest.fixture
def small() -> Space:
    return loading.parse_space(SMALL, name="small")


@pytest.fixture(scope="module")
def server() -> Iterator[PostgreSQL]:
    if reason := databases.available():
        pytest.skip(reason)
    with PostgreSQL() as started:
        yield started


def plan_for(sampler: str, trials: int = 100) -> Plan:
    return Plan("small", "small", "photos", trials, 2, None, 0, sampler, "none")


def begin(folder: Path, the_space: Space, url: str, sampler: str = "random") -> Study:
    return create_study(folder, plan_for(sampler), the_space, data_facts(), database=url)


def url_of(kind: str, folder: Path) -> str:
    return f"{kind}:///{folder / 'optuna.db'}"


def tried(*studies: Study) -> Counter[str]:
    return Counter(row["config"] for study in studies for row in study.records.trials.values())


@pytest.mark.parametrize(
    ("kind", "sampler"), [("journal", "random"), ("sqlite", "tpe"), ("journal", "grid")]
)
def test_nothing_is_tried_twice(kind: str, sampler: str, tmp_path: Path, small: Space) -> None:
    """Oracle: the space has 26 things to try. Two drivers that take turns, from the same seed, try
    each of them once, and then neither has anything left."""
    url = url_of(kind, tmp_path)
    one, two = (begin(tmp_path / name, small, url, sampler) for name in ("one", "two"))
    while one.ask() or two.ask():
        two.ask()
    counted = tried(one, two)
    assert set(counted.values()) == {1}
    assert len(counted) == N_SMALL
    assert one.ask() is None
    assert two.ask() is None
    assert one.records.trials[0]["point"] == "base"
    assert two.records.trials[0]["point"] == "other"
    for study in (one, two):
        study.close()


@pytest.mark.parametrize("kind", KINDS)
def test_each_learns_from_the_others(kind: str, tmp_path: Path, small: Space) -> None:
    """Oracle: trials of one driver, run to their end or stopped, are laid before the other's
    sampler with their curves, and are in its ledger before that; failures are not; a driver that
    is opened again stands where it stood, and hears nothing twice."""
    url = url_of(kind, tmp_path)
    one, two = (begin(tmp_path / name, small, url, "tpe") for name in ("one", "two"))
    run_trial(one, 0.3, 0.2)
    failing = one.ask()
    assert failing is not None
    one.fail_attempt(FailureReport(failing.number, failing.attempt, "diverged: for the test"))
    two.ask()
    two.ask()
    seen = list(two.proposer.history.select_recent().values())
    (learnt,) = [trial for trial in seen if trial.state.name == "COMPLETE"]
    assert learnt.values == [0.2]
    assert learnt.intermediate_values == {1: 0.3, 2: 0.2}
    known = [event for event in read_events(two.folder / "ledger") if event["event"] == "known"]
    assert [json.loads(event["curve"]) for event in known] == [{"1": 0.3, "2": 0.2}]
    die(two)
    again = resume_study(two.folder, two.plan, database=url)
    expected = "is shared with 1 other search. This search repeats none of its 2 trials."
    assert any(expected in note for note in again.notes)
    recent = again.proposer.history.select_recent().values()
    assert [t.values for t in recent] == [t.values for t in seen]
    again.ask()
    assert [e["event"] for e in read_events(two.folder / "ledger")].count("known") == 1
    for study in (one, again):
        study.close()


@pytest.mark.parametrize("kind", KINDS)
def test_nothing_is_heard_twice_after_the_database_was_lost(
    kind: str, tmp_path: Path, small: Space
) -> None:
    """Oracle: the driver that has heard of a trial comes back first; then its own driver writes it
    again. The first one's ledger has it once, and a trial that ended since then once, too."""
    url = url_of(kind, tmp_path)
    one, two = (begin(tmp_path / name, small, url, "tpe") for name in ("one", "two"))
    run_trial(one, 0.3, 0.2)
    two.ask()
    for study in (one, two):
        die(study)
    (tmp_path / "optuna.db").unlink()
    two, one = (resume_study(study.folder, study.plan, database=url) for study in (two, one))
    two.ask()
    run_trial(one, 0.3, 0.1)
    two.ask()
    events = read_events(two.folder / "ledger")
    assert [event["val_mse"] for event in events if event["event"] == "known"] == [0.2, 0.1]
    for study in (one, two):
        study.close()


def test_what_a_stopped_trial_says(tmp_path: Path, small: Space) -> None:
    """Oracle: a trial that another driver's rule stopped counts with the epochs that it ran."""
    url = url_of("sqlite", tmp_path)
    halving = replace(plan_for("tpe"), scheduler="asha", factor=2)
    one = create_study(tmp_path / "one", halving, small, data_facts(), database=url)
    two = begin(tmp_path / "two", small, url, "tpe")
    for error in (0.5, 0.1, 0.6, 0.7):
        run_trial(one, error, error)
    stopped = one.records.counts()["PRUNED"]
    assert stopped >= 1
    two.ask()
    told = [t for t in two.proposer.history.ended.values() if t.state.name == "PRUNED"]
    assert len(told) == stopped
    assert all(set(trial.intermediate_values) == {1} for trial in told)
    for study in (one, two):
        study.close()


def test_a_claim_that_no_ledger_knows(tmp_path: Path, small: Space) -> None:
    """Oracle: a driver that dies between its claim and its ledger claims anew when it comes back;
    each of its trials stands once in the database, and everything is tried once."""
    url = url_of("journal", tmp_path)
    one, two = (begin(tmp_path / name, small, url) for name in ("one", "two"))
    for study in (one, two):
        study.ask()
    one.proposer.propose(1)  # and nobody writes it down
    die(one)
    one = resume_study(one.folder, one.plan, database=url)
    while one.ask() or two.ask():
        pass
    counted = tried(one, two)
    assert set(counted.values()) == {1}
    backend = JournalFileBackend(url.removeprefix("journal:///"))
    trials = optuna.load_study(study_name="small", storage=JournalStorage(backend)).trials
    standing = [t.user_attrs["config"] for t in trials if "withdrawn" not in t.user_attrs]
    assert Counter(standing) == counted
    for study in (one, two):
        study.close()


def test_other_seeds_where_repeats_are_wanted(tmp_path: Path, small: Space) -> None:
    """Oracle: with `repeats: seed` no two trials of all drivers have both network and seed."""
    url = url_of("journal", tmp_path)
    plan = replace(plan_for("random"), repeats="seed")
    one, two = (
        create_study(tmp_path / name, plan, small, data_facts(), database=url)
        for name in ("one", "two")
    )
    for _ in range(20):
        one.ask()
        two.ask()
    rows = [row for study in (one, two) for row in study.records.trials.values()]
    assert len({(row["config"], row["seed"]) for row in rows}) == len(rows) == 40
    for study in (one, two):
        study.close()


def test_what_cannot_be_shared(
    tmp_path: Path, small: Space, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Oracle: one message each: other images, a study of somebody else's, a series; the study of
    the first driver is as it was."""
    url = url_of("sqlite", tmp_path)
    one = begin(tmp_path / "one", small, url)
    one.ask()
    facts = {**data_facts(), "fingerprint": "1" * 16}
    with pytest.raises(InputError, match=r"a different study small \(its images: 0+, yours: 1+"):
        create_study(tmp_path / "two", plan_for("random"), small, facts, database=url)
    with pytest.raises(InputError, match="--sampler greedy: another search runs small"):
        begin(tmp_path / "three", small, url, "greedy")
    monkeypatch.setattr(shared_study, "PAUSE_S", 0.01)  # nobody is about to say what theirs is
    optuna.create_study(study_name="theirs", storage=url)
    theirs = replace(plan_for("random"), study="theirs")
    with pytest.raises(InputError, match="a study theirs of another version of raycae"):
        create_study(tmp_path / "four", theirs, small, data_facts(), database=url)
    assert len(optuna.load_study(study_name="small", storage=url).trials) == 1
    one.close()


def test_a_file_that_is_busy_is_left_alone(tmp_path: Path, small: Space) -> None:
    """Oracle: an SQLite file that another process holds is not taken for damaged: one message, and
    it lies where it lay."""
    url = url_of("sqlite", tmp_path)
    begin(tmp_path / "one", small, url).close()
    with closing(sqlite3.connect(tmp_path / "optuna.db")) as other:
        other.execute("BEGIN EXCLUSIVE")
        with pytest.raises(InputError, match="database is locked"):
            begin(tmp_path / "two", small, url)
    assert not (tmp_path / "damaged").exists()
    begin(tmp_path / "two", small, url).close()  # and nothing is left of the first attempt


@pytest.mark.parametrize("cost", ["epoch_time_s", "n_params", "latent_size"])
def test_frontiers_are_shared(cost: str, tmp_path: Path) -> None:
    """Oracle: two drivers after one frontier, whatever the cost, also by strata: they hear of each
    other as far as that says something here, and Optuna reads what lies in the database."""
    small = loading.parse_space(SMALL, name="small")
    plan = replace(plan_for("tpe"), objective="frontier", cost=cost)
    facts = data_facts()
    if cost == "latent_size":
        plan = replace(plan, sampler="strata", strata=[256, 2048])
        facts |= {"line": [0.1, 0.05]}
    url = url_of("sqlite", tmp_path)
    one, two = (
        create_study(tmp_path / name, plan, small, facts, database=url) for name in ("one", "two")
    )
    for _ in range(3):
        run_trial(one, 0.3, 0.2)
        run_trial(two, 0.3, 0.1)
    heard = [number for number in two.proposer.history.ended if number < 0]
    assert len(heard) == (0 if cost == "epoch_time_s" else 3)
    assert set(tried(one, two).values()) == {1}
    assert optuna.load_study(study_name="small", storage=url).best_trials
    for study in (one, two):
        die(study)
        resume_study(study.folder, plan, database=url).close()


DRIVER = """
import sys
from pathlib import Path
from conftest import data_facts, measured
from test_shared_study import SMALL, plan_for
from raycae.space import loading
from raycae.study.attempt import EpochReport
from raycae.study.opening import create_study


folder, url = sys.argv[1:]
study = create_study(
    Path(folder), plan_for("tpe"), loading.parse_space(SMALL, name="small"), data_facts(),
    database=url
)
print("begun", flush=True)
sys.stdin.readline()
while issue := study.ask():
    study.start_attempt(issue.number, issue.attempt)
    for epoch in (1, 2):
        error = 0.1 + issue.number / 1000
        study.report_epoch(EpochReport(issue.number, issue.attempt, **measured(epoch, error)))
study.close()
"""


@pytest.mark.timeout(300)
def test_two_processes_and_a_postgresql(server: PostgreSQL, tmp_path: Path) -> None:
    """Oracle: two processes at the same time, a real PostgreSQL, and the 26 things of the space:
    each is tried once, by one of them; both did some; and each has heard of what the other did, as
    far as it had ended when it last asked."""
    tests = Path(__file__).parents[1]
    here = Path(__file__).parent
    path = os.pathsep.join(map(str, (tests, tests / "support", here)))
    drivers = [
        subprocess.Popen(
            [sys.executable, "-c", DRIVER, tmp_path / name, server.url],
            env={**os.environ, "PYTHONPATH": path},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for name in ("one", "two")
    ]
    for driver in drivers:
        assert driver.stdout is not None
        assert driver.stdout.readline() == "begun\n"
    for driver in drivers:
        assert driver.stdin is not None
        driver.stdin.write("go\n")
        driver.stdin.flush()
    for driver in drivers:
        driver.communicate(timeout=240)
        assert driver.returncode == 0
    events = {name: read_events(tmp_path / name / "ledger") for name in ("one", "two")}
    created = {
        name: [e["config"] for e in told if e["event"] == "created"]
        for name, told in events.items()
    }
    assert set(Counter(created["one"] + created["two"]).values()) == {1}
    assert len(created["one"]) + len(created["two"]) == N_SMALL
    for name, other in (("one", "two"), ("two", "one")):
        heard = [e["config"] for e in events[name] if e["event"] == "known"]
        assert created[name]
        assert heard
        assert set(heard) <= set(created[other])
        assert len(set(heard)) == len(heard)


def test_two_that_come_first(tmp_path: Path) -> None:
    """Oracle: eight threads open one empty database at the same moment, and nobody is refused: that
    others make Optuna's tables meanwhile is no fault."""
    if reason := databases.available():
        pytest.skip(reason)
    with PostgreSQL() as empty, ThreadPoolExecutor(8) as pool:
        barrier = threading.Barrier(8)

        def come(_: int) -> None:
            barrier.wait()
            require_database(empty.url)

        assert list(pool.map(come, range(8))) == [None] * 8


@pytest.mark.parametrize("kind", KINDS)
def test_one_comes_while_the_first_says_what_the_study_is(
    kind: str, tmp_path: Path, small: Space, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Oracle: a driver that comes after the study was made, and before its first driver has said
    what it is, waits for that and joins; also, after a while, where nothing more comes, for the
    first driver died there. Facts that contradict its own it refuses, in either case."""
    url = url_of(kind, tmp_path)
    begin(tmp_path / "one", small, url).close()
    said = optuna.load_study(study_name="small", storage=shared_study.open_storage(url)).user_attrs
    (mark,) = (fact for fact in said if fact.startswith("driver "))
    rest = {fact: value for fact, value in said.items() if fact != mark}
    waits: list[float] = []

    def begun() -> optuna.Study:
        """As its first driver leaves it in the middle."""
        optuna.delete_study(study_name="small", storage=shared_study.open_storage(url))
        made = optuna.create_study(study_name="small", storage=shared_study.open_storage(url))
        made.set_user_attr(mark, True)
        return made

    def goes_on(pause: float) -> None:
        waits.append(pause)
        if rest:
            made.set_user_attr(*rest.popitem())

    monkeypatch.setattr(
        shared_study, "time", SimpleNamespace(sleep=goes_on, monotonic=time.monotonic)
    )
    made, n_facts = begun(), len(rest)
    begin(tmp_path / "two", small, url).close()
    assert len(waits) == n_facts
    made = begun()  # and nobody says the rest
    begin(tmp_path / "three", small, url).close()
    assert len(waits) == n_facts + shared_study.TRIES
    other = {**data_facts(), "fingerprint": "1" * 16}
    made = begun()
    made.set_user_attr("images", "2" * 16)
    with pytest.raises(
        InputError, match=r"the database has a different study \w+ \(its images: 2+, yours: 1+\)"
    ):
        create_study(tmp_path / "four", plan_for("random"), small, other, database=url)


def test_a_study_whose_only_driver_comes_with_other_facts(tmp_path: Path) -> None:
    """Oracle: the facts in the database. It is made anew for its only driver, and not for one of
    two."""
    url = url_of("sqlite", tmp_path)

    def come(driver: str, epochs: int) -> object:
        SharedStudy(url, "s", driver, get_directions(None), {"epochs": epochs})
        return optuna.load_study(study_name="s", storage=url).user_attrs["epochs"]

    assert [come("one", 1), come("one", 2), come("two", 2)] == [1, 2, 2]
    with pytest.raises(
        InputError, match=r"the database has a different study \w+ \(its epochs: 2, yours: 3\)"
    ):
        come("one", 3)


@pytest.mark.timeout(240)
def test_a_database_that_is_away(
    server: PostgreSQL, tmp_path: Path, small: Space, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Oracle: a server that is gone for a moment is waited for, aloud; one that stays away ends in
    one message without a password, and the ledger has all that was told before."""
    said: list[str] = []
    monkeypatch.setattr(retry.retry_policy, "say", said.append)
    plan = replace(plan_for("random"), study="away")
    study = create_study(tmp_path / "away", plan, small, data_facts(), database=server.url)
    run_trial(study, 0.2, 0.1)
    server.stop()
    trial = threading.Thread(target=run_trial, args=(study, 0.3, 0.2))
    trial.start()
    until = time.monotonic() + 100
    while not said and time.monotonic() < until:
        time.sleep(0.05)
    server.start()
    trial.join(100)
    assert not trial.is_alive()
    assert any("waiting for the database: postgresql" in note for note in said)
    server.stop()
    monkeypatch.setattr(retry.retry_policy, "limit_s", 1.5)
    try:
        with pytest.raises(InputError, match=r"--storage postgresql.*; waited for \d+ s"):
            study.ask()
    finally:
        server.start()
    die(study)
    assert study.records.counts()["COMPLETE"] == 2
    monkeypatch.setattr(retry.retry_policy, "limit_s", 60)
    again = resume_study(tmp_path / "away", plan, database=server.url)
    assert again.ask() is not None
    again.close()
