"""Machines that vanish and come back: real hosts, one Ray over them, a search on it."""

from __future__ import annotations

import functools
import json
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from itertools import groupby
from pathlib import Path
from typing import Any

import hosts
import pytest
from conftest import TINY_SPACE
from hosts import Hosts, Process, join_ray, start_ray
from object_store import ObjectStore

from raycae.storage.files import checksum
from raycae.storage.paths import resolve_place

pytestmark = [
    pytest.mark.ray,
    pytest.mark.long,
    pytest.mark.timeout(240),
    pytest.mark.skipif(hosts.available() is not None, reason=str(hosts.available())),
]

WORKERS = ("worker1", "worker2")
CPUS = {"head": {"cpus": 0}, "worker1": {"cpus": 2}, "worker2": {"cpus": 2}}
"""Room on either worker for all trials: what moves does not have to wait for a place."""
KEYS = ObjectStore().env
"""Every node opens the object store with these: it looks into it before the first trial."""

READER = """
import json, sys
from raycae.storage.paths import resolve_place
from raycae.study.ledger import read_events
from raycae.study.tables import read_epochs
from raycae.study.tables import read_trials


folder = resolve_place(sys.argv[1])
for line in sys.stdin:
    if line == "ledger\\n":
        events = read_events(folder / "ledger") if (folder / "ledger").exists() else []
        print(json.dumps(events, default=lambda at: at.timestamp()), flush=True)
    else:
        tables = read_trials(folder), read_epochs(folder)
        columns = [table.to_dict("list") for table in tables]
        print(json.dumps(columns, default=str), flush=True)
"""

Event = dict[str, Any]


class Cluster:
    """Three hosts, one Ray over them, and a host for an object store beside it."""

    def __init__(self, made: Hosts, shared: Path) -> None:
        self.hosts, self.shared = made, shared
        self.address = start_ray(made, "head", WORKERS, CPUS, KEYS)
        self.off: set[str] = set()
        self.broken: set[str] = set()

    def mend(self) -> None:
        """All hosts are on, and nodes of one Ray, with nothing of an earlier test."""
        for host in self.broken:
            self.hosts.power_off(host)
        for host in self.off | self.broken:
            self.hosts.power_on(host)
        if "head" in self.off:
            start_ray(self.hosts, "head", WORKERS, CPUS, KEYS)
        elif self.off or self.broken:
            join_ray(self.hosts, "head", sorted(self.off | self.broken), CPUS, KEYS)
        self.off.clear()
        self.broken.clear()

    def power_off(self, *gone: str) -> None:
        """Silence: nobody is told that a connection has ended."""
        for host in gone:
            self.hosts.power_off(host)
        self.off.update(gone)

    def crash(self, host: str) -> None:
        """The raylet and all of its processes, killed at once: connections are reset."""
        self.broken.add(host)
        self.hosts.run(host, "kill -9 -1", check=False)


class Search:
    """A driver on a host, its results as a reader on another host sees them."""

    def __init__(self, study: str, driver: Process, log: Path, reader: Process) -> None:
        self.study, self.driver = study, driver
        self._log, self._reader = log, reader

    def events(self, *kinds: str) -> list[Event]:
        """Of the ledger; `at` in seconds."""
        return [event for event in self._read("ledger") if event["event"] in kinds]

    def tables(self) -> list[dict[str, list[Any]]]:
        """Of trials and of epochs, by column."""
        tables: list[dict[str, list[Any]]] = self._read("tables")
        return tables

    def wait_for(self, condition: Callable[[], Any], seconds: float = 120) -> Any:
        """What `condition` says once it holds; the search is still under way."""
        until = time.monotonic() + seconds
        while not (answer := condition()):
            assert self.driver.poll() is None, f"the search is over\n{self._said()}"
            assert time.monotonic() < until, f"it did not come to that\n{self._said()}"
            time.sleep(0.1)
        return answer

    def running(self, epochs: int = 3) -> dict[int, str]:
        """Where each running trial is, once `epochs` epochs of both are known."""

        def both() -> dict[int, str]:
            known = Counter(event["trial_number"] for event in self.events("epoch"))
            there = {event["trial_number"]: event["host"] for event in self.events("epoch")}
            return there if sum(n >= epochs for n in known.values()) == 2 else {}

        where: dict[int, str] = self.wait_for(both)
        return where

    def end(self, seconds: float = 100) -> str:
        """What it said until it ended in order; nothing of Ray's."""
        try:
            self.driver.wait(seconds)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"it hangs\n{self._said()}") from None
        said = self._said()
        assert self.driver.returncode == 0, said
        assert "Traceback" not in said
        assert "(raylet)" not in said
        return said

    def _said(self) -> str:
        return self._log.read_text()

    def _read(self, what: str) -> Any:
        assert self._reader.stdin is not None
        assert self._reader.stdout is not None
        self._reader.stdin.write(f"{what}\n")
        self._reader.stdin.flush()
        return json.loads(self._reader.stdout.readline())


Begin = Callable[..., Search]


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    shared = tmp_path_factory.mktemp("shared")
    (shared / "tiny.yaml").write_text(TINY_SPACE)
    with Hosts(["head", *WORKERS, "store"], [shared]) as made:
        yield Cluster(made, shared)


@pytest.fixture
def begin(cluster: Cluster, request: pytest.FixtureRequest) -> Iterator[Begin]:
    """Starts a search; it is ended with the test."""
    cluster.mend()
    study = request.node.name.translate(str.maketrans("[]", "__"))
    begun: list[Process] = []

    def begin(
        *more: str,
        host: str = "head",
        results: str = str(cluster.shared / "results"),
        env: Mapping[str, str] | None = None,
    ) -> Search:
        log = cluster.shared / f"{study}-{len(begun)}.log"
        start = [sys.executable, "-m", "raycae", "search", "--study", study, "--results", results]
        env = {"OMP_NUM_THREADS": "1", **(env or {})}
        with log.open("w") as output:
            driver = cluster.hosts.popen(
                host,
                [*start, *more],
                env=env,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
            )
        begun.append(driver)
        at = str(resolve_place(results) / study)
        pipe = subprocess.PIPE
        command = [sys.executable, "-c", READER, at]
        reader = cluster.hosts.popen("store", command, env=env, stdin=pipe, stdout=pipe)
        begun.append(reader)
        return Search(study, driver, log, reader)

    yield begin
    for process in begun:
        if process.poll() is None:
            process.kill()
        process.communicate()


def new(cluster: Cluster, epochs: int) -> list[str]:
    """Options of a search of two trials over the whole cluster."""
    space = ["--space", str(cluster.shared / "tiny.yaml"), "--scheduler", "none"]
    size = ["--trials", "2", "--epochs", str(epochs), "--limit", "400"]
    return [*space, *size, "--address", cluster.address, "--gpus-per-trial", "0"]


def check_whole(search: Search, epochs: int, moved: set[int]) -> None:
    """Each of the two trials once and COMPLETE, each epoch once; those that `moved` in a second
    attempt exactly behind the last epoch of the first, by no fault of their own."""
    trials, curves = search.tables()
    assert sorted(trials["trial_number"]) == [0, 1]
    assert trials["state"] == ["COMPLETE"] * 2
    assert trials["losses"] == [0, 0]
    assert trials["epochs_run"] == [epochs] * 2
    attempts = dict(zip(trials["trial_number"], trials["attempt"], strict=True))
    assert attempts == {number: 2 if number in moved else 1 for number in (0, 1)}
    every = [(number, epoch) for number in (0, 1) for epoch in range(1, epochs + 1)]
    assert sorted(zip(curves["trial_number"], curves["epoch"], strict=True)) == every

    for number in (0, 1):
        told = [e for e in search.events("epoch") if e["trial_number"] == number]
        assert [e["epoch"] for e in told] == [*range(1, epochs + 1)]
        of = [attempt for attempt, _ in groupby(e["attempt"] for e in told)]
        assert of == ([1, 2] if number in moved else [1])


def check_lost(search: Search, moved: set[int]) -> None:
    """Those trials were lost once each, to their machine."""
    losses = search.events("lost")
    told = [(e["trial_number"], e["attempt"], e["cause"], e["reason"]) for e in losses]
    assert sorted(e["trial_number"] for e in losses) == sorted(moved), told
    assert all(e["cause"] == "machine" for e in losses), told
    assert all(e["reason"].startswith("machine lost: ") for e in losses), told


def began_again(search: Search, moved: set[int]) -> float:
    """When, on the clock of the ledger, the last of the `moved` was begun again."""

    def again() -> list[Event]:
        started = search.events("started")
        return [e for e in started if e["attempt"] == 2 and e["trial_number"] in moved]

    found = search.wait_for(lambda: again() if len(again()) == len(moved) else None)
    return max(event["at"] for event in found)


@pytest.mark.parametrize("fault", ["power_off", "crash"])
def test_a_worker_vanishes(cluster: Cluster, begin: Begin, fault: str) -> None:
    """Oracle: the ledger. The trial of a worker that falls silent, or whose raylet and processes
    are all killed, is lost to its machine (not counted as a loss of its own), begun again on the
    other worker, and goes on exactly behind its last epoch; the search ends in order with every
    trial COMPLETE."""
    epochs = 80
    search = begin(*new(cluster, epochs))
    where = search.running()
    host = where[0]
    moved = {number for number, there in where.items() if there == host}
    failed_at = time.time()
    getattr(cluster, fault)(host)
    took = began_again(search, moved) - failed_at
    print(f"\n{fault}: trains again on another machine after {took:.1f} s")
    search.end()
    check_lost(search, moved)
    check_whole(search, epochs, moved)
    hosts_of = {(e["trial_number"], e["attempt"]): e["host"] for e in search.events("epoch")}
    for number in moved:
        assert hosts_of[number, 1] == host != hosts_of[number, 2]


def trainables(cluster: Cluster, host: str, signal: str) -> None:
    cluster.hosts.run(host, ["pkill", signal, "-f", "^ray::.*Trainable"])


def stop_in_an_epoch(cluster: Cluster, search: Search, host: str, folder: Path) -> None:
    """Stop trial 0 where it has been told to train an epoch of which nothing is written yet."""

    def stopped() -> bool:
        trainables(cluster, host, "-STOP")
        time.sleep(0.5)  # what it has said by now is heard
        known = max(e["epoch"] for e in search.events("epoch") if e["trial_number"] == 0)
        stems = {path.stem for path in folder.iterdir()}
        if f"{known}-1" in stems and f"{known + 1}-1" not in stems:
            return True
        trainables(cluster, host, "-CONT")
        return False

    search.wait_for(stopped)


def check_model(study: Path, number: int, epochs: list[Event]) -> None:
    """The saved model is the one that the ledger names as the trial's best."""
    best = min(
        (e for e in epochs if e["trial_number"] == number), key=lambda e: (e["val_mse"], e["epoch"])
    )
    model = (study / "models" / str(number) / "model.safetensors").read_bytes()
    assert checksum(model) == best["model"]


def hold(cluster: Cluster, search: Search, host: str, until: float) -> None:
    """Trial 0 trains an epoch now and then until that time: not so seldom that it seems to hang."""

    def trained() -> int:
        return sum(e["trial_number"] == 0 for e in search.events("epoch"))

    while (left := until - time.time()) > 0:
        trainables(cluster, host, "-STOP")
        known = trained()
        time.sleep(min(left, 20))
        trainables(cluster, host, "-CONT")
        search.wait_for(lambda known=known: trained() > known)


@pytest.mark.parametrize(
    "cut_s", [20, pytest.param(90, marks=[pytest.mark.long, pytest.mark.timeout(400)])]
)
def test_the_network_is_cut_and_healed(cluster: Cluster, begin: Begin, cut_s: int) -> None:
    """Oracle: the ledger, the files, the digests. A worker is cut off in the middle of an epoch,
    which it ends, and lays down, only when the trial has been begun again elsewhere: those
    files bear the older attempt's number and are never used, nothing it says is in the
    ledger. When the network is healed the search goes on as if nobody had come back, and ends in
    order with every trial COMPLETE, its saved model the one that the ledger names."""
    epochs = 150
    search = begin(*new(cluster, epochs))
    where = search.running()
    host = where[0]
    (other,) = {*WORKERS} - {host}
    moved = {number for number, there in where.items() if there == host}
    cluster.broken.add(host)
    folder = cluster.shared / "results" / search.study / "checkpoints" / "0"
    stop_in_an_epoch(cluster, search, host, folder)
    cut_at = time.time()
    cluster.hosts.cut(host)
    again_at = began_again(search, moved)
    print(f"\ncut: trains again on another machine after {again_at - cut_at:.1f} s")
    trainables(cluster, other, "-STOP")
    trainables(cluster, host, "-CONT")

    def late() -> list[Path]:
        return [f for f in folder.glob("[0-9]*-1.pt") if f.stat().st_mtime > again_at]

    found = search.wait_for(late, 20)
    print(f"what the lost machine wrote later: {[path.name for path in found]}")
    hold(cluster, search, other, until=cut_at + cut_s)
    cluster.hosts.heal(host)
    known = len(search.events("epoch"))
    search.wait_for(lambda: len(search.events("epoch")) > known)
    search.end()
    check_lost(search, moved)
    check_whole(search, epochs, moved)
    for number in moved:
        check_model(cluster.shared / "results" / search.study, number, search.events("epoch"))


def test_the_head_vanishes(cluster: Cluster, begin: Begin) -> None:
    """Oracle: the ledger on the object store. The head goes silent, with the driver and all that
    Ray knew; a search on another machine, with a Ray of its own, waits until the dead one's lease
    has run out, takes the study over and ends in order: every trial once and COMPLETE, no epoch
    that the ledger had is trained again."""
    epochs = 15
    made = cluster.hosts
    popen = functools.partial(made.popen, "store")
    with ObjectStore(address=made.address("store"), popen=popen) as store:
        there = {"results": store.uri("results"), "env": store.env}
        first = begin(*new(cluster, epochs), **there)
        first.running()
        cluster.power_off("head")
        failed_at = time.time()
        known = first.events("epoch")
        own = ("--address", "local")  # this machine was in the cluster that is gone
        second = begin("--resume", *own, "--gpus-per-trial", "0", host="worker1", **there)
        second.wait_for(lambda: len(second.events("epoch")) > len(known))
        print(f"\nhead lost: trains again after {time.time() - failed_at:.1f} s")
        said = second.end()
        assert "on head wrote here last; waiting 15 s to see" in said
        assert second.events("epoch")[: len(known)] == known
        assert second.events("lost") == []
        check_whole(second, epochs, {0, 1})
