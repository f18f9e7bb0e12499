"""`cluster/slurm.sh` under a Slurm of one node, from Debian's packages, on a host of its own."""

from __future__ import annotations

import shutil
import sys
import time
from pathlib import Path

import hosts
import pandas as pd
import pytest
from conftest import TINY_SPACE
from hosts import Hosts

missing = [name for name in ("slurmctld", "slurmd", "sbatch", "munged") if not shutil.which(name)]
WHY_NOT = hosts.available() or (
    f"not installed: {', '.join(missing)} (Debian: slurm-wlm, munge)" if missing else None
)
pytestmark = [
    pytest.mark.ray,
    pytest.mark.long,
    pytest.mark.skipif(WHY_NOT is not None, reason=str(WHY_NOT)),
]

SLURM = """
ClusterName=test
SlurmctldHost=node
SlurmUser=root
AuthType=auth/munge
AuthInfo=socket=/run/munge
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
StateSaveLocation=/tmp/slurm
SlurmdSpoolDir=/tmp/slurmd
SlurmctldPidFile=/run/slurmctld.pid
SlurmdPidFile=/run/slurmd.pid
ReturnToService=2
NodeName=node CPUs=2 RealMemory=1000
PartitionName=all Nodes=node Default=YES State=UP
"""
# Munge wants a key that nobody else reads, in folders that nobody else writes.
START = """
set -e
umask 077
head -c 128 /dev/urandom > /run/munge.key
mkdir /tmp/slurm /tmp/slurmd
munged --force --key-file /run/munge.key --socket /run/munge --pid-file /run/munge.pid \
    --log-file /run/munge.log --seed-file /run/munge.seed
slurmctld && slurmd
until sinfo -h -o %T | grep -q idle; do sleep 0.2; done
"""


def test_a_search_in_an_allocation(tmp_path: Path) -> None:
    """Oracle: Slurm's own exit code and the tables. The script finds raycae in .venv, starts Ray on
    the node, searches, and leaves neither a process nor a file of Ray's; a file's name with a
    blank arrives as it is."""
    (tmp_path / "my spaces").mkdir()
    (tmp_path / "my spaces" / "tiny.yaml").write_text(TINY_SPACE)
    (tmp_path / "slurm.conf").write_text(SLURM)
    (tmp_path / ".venv").symlink_to(sys.prefix)
    raycae = tmp_path / ".venv" / "bin" / "raycae"
    assert raycae.exists()
    search = ["--space", "my spaces/tiny.yaml", "--trials", "2", "--epochs", "1", "--limit", "200"]
    with Hosts(["node"], [tmp_path]) as made:
        env = {"SLURM_CONF": str(tmp_path / "slurm.conf"), "PYTHONPATH": str(hosts.ROOT)}
        made.run("node", START, env=env)
        script = str(hosts.ROOT / "cluster" / "slurm.sh")
        log = tmp_path / "log"
        job = ["sbatch", "--wait", "--chdir", str(tmp_path), "--output", str(log), "--time", "5"]
        begun = time.monotonic()
        done = made.run("node", [*job, script, *search], env=env, check=False, timeout=200)
        print(f"\nthe job took {time.monotonic() - begun:.1f} s")
        assert done.returncode == 0, log.read_text()
        assert made.run("node", "ls -d /tmp/raycae-*", check=False).stdout == ""
        assert made.run("node", "pgrep -f gcs_server", check=False).stdout == ""
    trials = pd.read_parquet(tmp_path / "results" / "tiny" / "trials.parquet")
    assert list(trials["state"]) == ["COMPLETE"] * 2
    assert set(trials["host"]) == {"node"}
