"""`ray up`, `ray submit`, `ray down` with `cluster/on-prem.yaml`, over ssh, on hosts apart."""

from __future__ import annotations

import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import hosts
import pandas as pd
import pytest
import yaml
from conftest import TINY_SPACE
from hosts import ALIVE, ROOT, Hosts, Process
from searches import events_of

missing = [name for name in ("sshd", "ssh", "rsync") if not shutil.which(name)]
WHY_NOT = hosts.available() or (f"not installed: {', '.join(missing)}" if missing else None)
pytestmark = [
    pytest.mark.ray,
    pytest.mark.timeout(600),
    pytest.mark.skipif(WHY_NOT is not None, reason=str(WHY_NOT)),
]

WORKERS = ("worker1", "worker2")
LASTING = ["--scheduler", "none", "--epochs", "60", "--limit", "400", "--gpus-per-trial", "0"]
"""Longer than a process takes to start: Tune hands what ends sooner to the processes it has."""


class Cluster:
    """A head, two workers of one core each, and the machine that a person sits at. Results lie in a
    folder that all of them share; the second worker is off until it is asked for."""

    def __init__(self, made: Hosts, shared: Path) -> None:
        self.hosts, self.shared = made, shared
        self.results = shared / "results"
        self.file = shared / "on-prem.yaml"
        self.file.write_text(yaml.safe_dump(self._config()))
        made.run("client", "umask 077; ray get-auth-token --generate >/dev/null")
        made.power_off("worker2")
        self.ray("up", "-y")
        self.joined("worker1")

    def joined(self, *workers: str) -> None:
        """Wait until these have come to the head."""
        nodes = [self.hosts.address(host) for host in ("head", *workers)]
        asked = [sys.executable, "-c", ALIVE, f"{nodes[0]}:6379", *nodes]
        there = self.hosts.run("head", asked, env={"RAY_AUTH_MODE": "token"}).stdout.split()
        assert there == sorted(nodes)

    def ray(self, command: str, *more: str, check: bool = True) -> str:
        """A command of Ray's with the cluster file, from the checkout. What it said."""
        done = self.hosts.run("client", self._words(command, *more), check=check, timeout=300)
        return done.stdout + done.stderr

    def submit(self, *arguments: str, log: Path) -> Process:
        """`ray submit` of a search, quoted for the head's shell; it writes to `log`."""
        quoted = [shlex.quote(argument) for argument in arguments]
        with log.open("w") as out:
            return self.hosts.popen(
                "client",
                self._words("submit", "raycae/search.py", "--", *quoted),
                stdout=out,
                stderr=subprocess.STDOUT,
                stdin=subprocess.DEVNULL,
            )

    def refused(self, arguments: str, before: str = "") -> str:
        """What a search says that is started on the head and refused, with exit code 2."""
        begun = time.monotonic()
        search = f"{before} python ~/raycae-src/raycae/search.py {arguments}"
        done = self.hosts.run("head", ["bash", "--login", "-i", "-c", search], check=False)
        print(f"\nrefused after {time.monotonic() - begun:.1f} s: {done.stderr}")
        assert done.returncode == 2, done.stderr
        (message,) = [line for line in done.stderr.splitlines() if line.startswith("raycae: ")]
        return message

    def _words(self, command: str, *more: str) -> str:
        words = shlex.join(["ray", command, str(self.file), *more])
        return f"cd {ROOT} && RAY_UP_enable_autoscaler_v2=0 {words}"

    def _config(self) -> dict[str, Any]:
        """The shipped file with these machines in it. They have no way to a package index: instead
        of being installed, the package is imported from where it was copied to."""
        config = yaml.safe_load((ROOT / "cluster" / "on-prem.yaml").read_text())
        config["provider"] |= {
            "head_ip": self.hosts.address("head"),
            "worker_ips": [self.hosts.address(worker) for worker in WORKERS],
        }
        config["auth"] = {"ssh_user": "root", "ssh_private_key": "~/.ssh/id_ed25519"}
        environment, install = config["setup_commands"]
        assert "pip install" in install
        environment = environment.replace("/srv/raycae/results", str(self.results))
        found = "echo 'export PYTHONPATH=$HOME/raycae-src' >> ~/.raycae.sh"
        config["setup_commands"] = [environment, found]
        config["worker_start_ray_commands"][-1] += " --num-cpus=1"
        return config


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    shared = tmp_path_factory.mktemp("shared")
    with Hosts(["head", *WORKERS, "client"], [shared], ssh=True) as made:
        yield Cluster(made, shared)


def wait_for(condition: Callable[[], Any], process: Process, log: Path, seconds: float) -> Any:
    until = time.monotonic() + seconds
    while not (answer := condition()):
        assert process.poll() is None, f"the search is over\n{log.read_text()}"
        assert time.monotonic() < until, f"it did not come to that\n{log.read_text()}"
        time.sleep(1)  # To read a ledger takes the time that the search needs.
    return answer


def test_wrong_use_is_refused(cluster: Cluster) -> None:
    """Oracle: the message names the node, the number or the option; nothing is left behind. The
    worker's /tmp is not the head's; no node has three GPUs, and of the worker that is off nobody
    knows what it has; the folder of results is not said."""
    unshared = cluster.refused("--results /tmp/mine")
    assert "--results /tmp/mine: node worker1 (10.77.0.2) cannot read a test file" in unshared
    assert cluster.hosts.run("head", "ls -A /tmp | grep -e mine -e seen", check=False).stdout == ""
    assert cluster.refused("--gpus-per-trial 3") == (
        "raycae: --cpus-per-trial 1 --gpus-per-trial 3: no node is large enough. Nodes in "
        "the cluster: 0 CPU and 0 GPU, 1 CPU and 0 GPU. Number of nodes that have not joined: 1 "
        "(see `ray status`)."
    )
    assert "--results is required on a cluster" in cluster.refused(
        "", before="env -u RAYCAE_RESULTS"
    )
    assert not cluster.results.exists()


def make_odd_space(cluster: Cluster) -> Path:
    """A space file in a folder whose name has blanks and shell characters."""
    odd = cluster.shared / "my spaces; $(touch ran)"
    odd.mkdir(exist_ok=True)
    path = odd / "tiny.yaml"
    path.write_text(TINY_SPACE)
    return path


def get_hosts(study: Path) -> set[str]:
    """The hosts that trained an epoch."""
    return {event["host"] for event in events_of(study, "epoch")}


@pytest.mark.long
def test_a_worker_joins_and_a_search_is_resumed(cluster: Cluster) -> None:
    """Oracle: hosts in the ledger. A search that is submitted to a cluster with one worker uses the
    second one once that has joined; it is interrupted, goes on, and ends in order."""
    log = cluster.shared / "log"
    study = cluster.results / "tiny"
    space = ["--space", str(make_odd_space(cluster))]
    search = cluster.submit(*space, *LASTING, "--trials", "500", log=log)
    wait_for(lambda: get_hosts(study) == {"worker1"}, search, log, 180)
    cluster.hosts.power_on("worker2")
    wait_for(lambda: get_hosts(study) == {*WORKERS}, search, log, 180)
    cluster.hosts.run("head", "pkill -INT -f '^python .*search.py'")
    assert search.wait(120) != 0
    assert "Interrupted; continue with: raycae search --resume" in log.read_text()

    begun = len(events_of(study, "created"))
    more = cluster.submit("--resume", "--study", "tiny", "--trials", str(begun), log=log)
    assert more.wait(180) == 0, log.read_text()
    trials = pd.read_parquet(study / "trials.parquet")
    assert len(trials) == begun
    assert set(trials["state"]) == {"COMPLETE"}
    assert get_hosts(study) == {*WORKERS}
    assert (study / "report.html").exists()


def test_a_search_from_up_to_down(cluster: Cluster) -> None:
    """Oracle: hosts in the ledger and files on the shared folder. A search that is submitted is
    trained by the cluster's worker and ends in order; names with blanks and shell characters arrive
    as they are; no node is left after `ray down`, and what the search found is still there."""
    log = cluster.shared / "log"
    study = cluster.results / "short"
    few = ["--scheduler", "none", "--trials", "2", "--epochs", "2", "--gpus-per-trial", "0"]
    space = ["--space", str(make_odd_space(cluster)), "--study", "short"]
    search = cluster.submit(*space, *few, log=log)
    assert search.wait(300) == 0, log.read_text()
    cluster.ray("down", "-y")
    trials = pd.read_parquet(study / "trials.parquet")
    assert trials["state"].tolist() == ["COMPLETE"] * 2
    assert get_hosts(study)
    assert get_hosts(study) <= {*WORKERS}
    assert (study / "report.html").exists()
    assert cluster.hosts.run("head", "ls ran", check=False).returncode != 0
    assert cluster.hosts.run("head", "pgrep -f gcs_server", check=False).stdout == ""
