"""The hosts of the fault tests are hosts: without that, the fault tests would test nothing."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import hosts
import pytest
from hosts import Hosts

pytestmark = [
    pytest.mark.ray,
    pytest.mark.timeout(240),
    pytest.mark.skipif(hosts.available() is not None, reason=str(hosts.available())),
]

SERVE = """
import socket
server = socket.create_server(("0.0.0.0", 7000))
print("listening", flush=True)
kept = []  # a connection that nobody holds is closed
while True:
    kept.append(server.accept()[0])
    kept[-1].sendall(b"hello")
"""


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("shared")


@pytest.fixture(scope="module")
def two(shared: Path) -> Iterator[Hosts]:
    with Hosts(["head", "worker"], [shared], ssh=shutil.which("sshd") is not None) as made:
        yield made


def answers(made: Hosts, asking: str, asked: str) -> bool:
    ask = "import socket, sys\nprint(socket.create_connection((sys.argv[1], 7000), 1).recv(5))"
    done = made.run(asking, [sys.executable, "-c", ask, asked], check=False)
    return done.stdout == "b'hello'\n"


def test_hosts_reach_one_another_until_cut(two: Hosts) -> None:
    """Oracle: a TCP connection by name or address works, while cut it does not, from either side,
    though within the host it does, and healed it works again."""
    servers = [
        two.popen(host, [sys.executable, "-c", SERVE], stdout=subprocess.PIPE)
        for host in ("head", "worker")
    ]
    for server in servers:
        assert server.stdout is not None
        assert server.stdout.readline() == "listening\n"
    assert answers(two, "head", "worker")
    assert answers(two, "worker", "head")
    assert answers(two, "worker", two.address("worker"))

    two.cut("worker")
    assert not answers(two, "head", "worker")
    assert not answers(two, "worker", "head")
    assert answers(two, "worker", "worker"), "only the network is cut"

    two.heal("worker")
    assert answers(two, "head", "worker")
    for server in servers:
        server.kill()
        assert server.wait() == -signal.SIGKILL


def test_what_is_a_hosts_own_and_what_is_shared(two: Hosts, shared: Path) -> None:
    """Oracle: hostname, /tmp, /root, /dev/shm and process ids differ; the shared folder, the
    checkout and the interpreter are the test's own."""
    write = "hostname > {0}/mine; cat {0}/mine"
    for folder in ("/tmp", "/root", "/dev/shm"):
        for host in ("head", "worker"):
            two.run(host, write.format(folder))
        for host in ("head", "worker"):
            assert two.run(host, f"cat {folder}/mine; uname -n").stdout == f"{host}\n{host}\n"
        assert not (Path(folder) / "mine").exists()
    two.run("head", f"echo seen > {shared}/note")
    assert two.run("worker", f"cat {shared}/note").stdout == "seen\n"
    assert (shared / "note").read_text() == "seen\n"
    assert len(two.run("head", "ls -d /proc/[0-9]*").stdout.split()) < 10
    prefix = two.run("head", [sys.executable, "-c", "import sys, raycae; print(sys.prefix)"])
    assert prefix.stdout.strip() == sys.prefix


def test_no_way_out(two: Hosts) -> None:
    """Oracle: a host has the loopback and its link to the switch, no other link; names from
    elsewhere fail; and the test's own process has no way in."""
    links = two.run("head", "ls /proc/sys/net/ipv4/conf").stdout.split()
    assert set(links) == {"all", "default", "lo", "eth0"}
    assert two.run("head", "getent hosts example.invalid", check=False).returncode != 0
    routes = subprocess.run(["ip", "route"], capture_output=True, text=True, check=True).stdout
    assert hosts.NETWORK not in routes


def test_signals_codes_and_time(two: Hosts) -> None:
    """Oracle: the program's own exit code, the signal it was sent, a time limit that ends it, and a
    daemon that outlives the command which started it without holding it up."""
    assert two.run("head", "exit 7", check=False).returncode == 7
    with pytest.raises(AssertionError, match="head: echo oh >&2; exit 7 ended with 7\noh"):
        two.run("head", "echo oh >&2; exit 7")
    # Not SIGINT: it is ignored, and cannot be caught, in what a shell started in the background.
    loop = "trap 'echo caught; exit 3' TERM; echo ready; while :; do sleep .1; done"
    trap = two.popen("head", loop, stdout=subprocess.PIPE)
    assert trap.stdout is not None
    assert trap.stdout.readline() == "ready\n"
    trap.send_signal(signal.SIGTERM)
    assert trap.communicate(timeout=30)[0] == "caught\n"
    assert trap.returncode == 3
    with pytest.raises(subprocess.TimeoutExpired) as late:
        two.run("head", "echo so far; exec sleep 71", timeout=0.5)
    assert late.value.stdout == "so far\n"
    two.run("head", "sleep 720 &")
    assert two.run("head", "pgrep -xa sleep").stdout.split()[1:] == ["sleep", "720"]


def test_power_off(two: Hosts) -> None:
    """Oracle: no process of the host is left; a connection to it hears nothing, not even its end;
    powered on again it has its address and disk, and nothing runs."""
    sleeping = two.popen("worker", ["sleep", "73"])
    two.run("worker", "echo kept > /tmp/disk; echo lost > /dev/shm/memory; setsid sleep 74 &")
    server = two.popen("worker", [sys.executable, "-c", SERVE], stdout=subprocess.PIPE)
    assert server.stdout is not None
    server.stdout.readline()
    listen = (
        "import socket\nopen = socket.create_connection(('worker', 7000), 30); open.recv(5)\n"
        "print('open', flush=True)\nopen.settimeout(1)\n"
        "try: print('end', open.recv(5))\nexcept TimeoutError: print('silence')"
    )
    client = two.popen("head", [sys.executable, "-c", listen], stdout=subprocess.PIPE)
    assert client.stdout is not None
    client.stdout.readline()
    namespace = two.run("worker", "readlink /proc/self/ns/pid").stdout.strip()
    assert len(processes(namespace)) >= 4

    two.power_off("worker")
    assert processes(namespace) == []
    assert sleeping.wait() == server.wait() == -signal.SIGKILL
    assert client.communicate(timeout=60)[0] == "silence\n"
    with pytest.raises(KeyError):
        two.run("worker", "true")

    two.power_on("worker")
    assert two.run("worker", "cat /tmp/disk; ls /dev/shm; pgrep -x sleep", check=False).stdout == (
        "kept\n"
    )


def processes(namespace: str) -> list[str]:
    """The processes, as they are called outside, of a process namespace."""
    found = []
    for link in Path("/proc").glob("[0-9]*/ns/pid"):
        with contextlib.suppress(OSError):  # it ended while we looked
            if str(link.readlink()) == namespace:
                found.append(link.parts[2])
    return found


CRASH = """
import sys
from hosts import Hosts
with Hosts(["alone"]) as made:
    made.popen("alone", ["sleep", "75"])
    print(made.run("alone", "readlink /proc/self/ns/pid").stdout, end="", flush=True)
    sys.stdin.read()
"""


def test_hosts_end_with_the_test_that_was_killed(tmp_path: Path) -> None:
    """Oracle: kill -9 of a process that has a host, and no process of that host is left."""
    here = Path(__file__).parents[1] / "support"
    made = subprocess.Popen(
        [sys.executable, "-c", CRASH],
        cwd=here,
        env={**os.environ, "PYTHONPATH": str(here), "TMPDIR": str(tmp_path)},  # disks stay
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert made.stdout is not None
    namespace = made.stdout.readline().strip()
    assert processes(namespace)
    made.kill()
    made.communicate()
    until = time.monotonic() + 60
    while processes(namespace):
        assert time.monotonic() < until
        time.sleep(0.02)


@pytest.mark.skipif(shutil.which("sshd") is None, reason="needs sshd (Debian: openssh-server)")
def test_ssh(two: Hosts) -> None:
    """Oracle: a login without a question, by name and by address, that finds the interpreter."""
    for name in ("worker", two.address("worker")):
        said = two.run("head", ["ssh", "-oBatchMode=yes", name, "hostname; command -v python"])
        assert said.stdout == f"worker\n{sys.prefix}/bin/python\n"
        assert said.stderr == ""
