"""Several hosts on one machine, out of Linux namespaces: what crosses a network, and what breaks.

Each host has its own network, address, processes, hostname, /root, /tmp, /run and /dev/shm. Packets
stay between the hosts: no namespace has a way out, and the test's own process has none in.
"""

from __future__ import annotations

import contextlib
import functools
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import IO, Any

ROOT = Path(__file__).resolve().parents[2]
NETWORK = "10.77.0"

# The first process of a host: name, disk, whether with sshd, shared folders. It ends with the
# test's process, however that ends, because the pipe that it reads then closes; and with it end the
# host's processes, mounts and network. Nothing has a name that a later run could trip over.
BOOT = r"""
set -e
name=$1 disk=$2 ssh=$3; shift 3
read -r pid _ < /proc/self/stat                 # as it is called outside: /proc is still theirs
echo "$name" > /proc/sys/kernel/hostname
mount --bind "$disk/../hosts" /etc/hosts
[ ! -e /etc/resolv.conf ] || mount --bind /dev/null /etc/resolv.conf   # unknown names fail at once
for folder in "$@"; do mkdir -p "$disk$folder"; mount --bind "$folder" "$disk$folder"; done
mount --rbind "$disk/root" /root
mount --rbind "$disk/tmp" /tmp
mount -t tmpfs -o mode=755 tmpfs /run
mount -t tmpfs -o mode=1777 tmpfs /dev/shm
mount -t proc proc /proc
mkdir /run/sshd
[ "$ssh" = no ] || "$(command -v sshd)" -f /dev/null -h ~root/.ssh/id_ed25519 \
    -o PermitRootLogin=yes -o StrictModes=no -o UsePAM=no -o PrintMotd=no -E /tmp/sshd.log
echo "$pid"
while read -r _; do :; done
"""
SWITCH = "ip link add br0 type bridge && ip link set br0 up && echo up && cat"
TRY = (
    "ip link add v0 type veth peer name v1 && ip link add br0 type bridge && mount -t tmpfs t /mnt"
)
OWN = (Path("/root"), Path("/tmp"))
"""What a host has of its own, also while it is off."""
ISOLATED = ["unshare", "--net", "--pid", "--mount", "--uts", "--ipc", "--fork"]


@functools.cache
def available() -> str | None:
    """Why hosts cannot be had here, or None."""
    if sys.platform != "linux" or os.geteuid() != 0:
        return "hosts out of namespaces need root on Linux"
    for program in ("ip", "unshare", "nsenter"):
        if not shutil.which(program):
            return f"hosts out of namespaces need `{program}` (Debian: iproute2, util-linux)"
    tried = subprocess.run([*ISOLATED, "sh", "-c", TRY], capture_output=True, text=True)
    return (
        f"namespaces are not permitted here: {tried.stderr.strip()}" if tried.returncode else None
    )


class Process(subprocess.Popen[str]):
    """A program on a host. Signals reach the program: nsenter, its parent, would pass none on."""

    def send_signal(self, sig: int) -> None:
        while self.poll() is None:
            for status in Path("/proc").glob("[0-9]*/stat"):
                with contextlib.suppress(OSError):  # it ended while we looked
                    if int(status.read_text().rpartition(")")[2].split()[1]) == self.pid:
                        os.kill(int(status.parent.name), sig)
                        return
            time.sleep(0.01)  # nsenter is not that far yet


class Hosts:
    """Hosts by name, all on one switch, all switched on; a context manager.

    `shared` are the folders that every host sees at the same path, beside this checkout, the
    virtual environment and its interpreter. A host keeps its /root and /tmp while it is off.
    """

    def __init__(
        self, names: Sequence[str], shared: Sequence[Path | str] = (), *, ssh: bool = False
    ) -> None:
        self._addresses = {name: f"{NETWORK}.{n}" for n, name in enumerate(names, 1)}
        everywhere = [ROOT, sys.prefix, sys.base_prefix, Path(sys.executable).resolve().parents[1]]
        folders = sorted({str(Path(folder).absolute()) for folder in [*everywhere, *shared]})
        # Anything else is where it always was; these would be hidden by a host's own.
        self._shared = [f for f in folders if any(own in Path(f).parents for own in OWN)]
        self._ssh = ssh
        self._boots: dict[str, subprocess.Popen[str]] = {}
        self._pids: dict[str, int] = {}

    def __enter__(self) -> Hosts:
        self._folder = Path(tempfile.mkdtemp(prefix="raycae-hosts-"))
        self._switch = _start("unshare", "--net", "sh", "-c", SWITCH)
        try:
            assert self._switch.stdout is not None
            assert self._switch.stdout.readline() == "up\n"
            lines = [f"{address} {name}" for name, address in self._addresses.items()]
            (self._folder / "hosts").write_text("\n".join(["127.0.0.1 localhost", *lines, ""]))
            if self._ssh:
                make_key = ["ssh-keygen", "-q", "-t", "ed25519", "-N", ""]
                subprocess.run([*make_key, "-f", self._folder / "key"], check=True)
            for name in self._addresses:
                self._furnish(self._folder / name)
                self.power_on(name)
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        for host in list(self._boots):
            self._end(host)
        self._switch.communicate()
        shutil.rmtree(self._folder, ignore_errors=True)

    def address(self, host: str) -> str:
        return self._addresses[host]

    def popen(
        self,
        host: str,
        command: str | Sequence[str],
        *,
        env: Mapping[str, str] | None = None,
        **more: Any,
    ) -> Process:
        """Start a command (a string is bash) in the host's /root, as root, with the virtual
        environment's programs first in the path."""
        words = ["bash", "-c", command] if isinstance(command, str) else list(command)
        enter = ["nsenter", "-t", str(self._pids[host])]
        enter += ["--net", "--pid", "--mount", "--uts", "--ipc", "env", "--chdir=/root"]
        theirs = ("RAY_", "TMPDIR", "XDG_")
        inherited = {k: v for k, v in os.environ.items() if not k.startswith(theirs)}
        path = f"{sys.prefix}/bin:{os.environ['PATH']}"
        return Process(
            [*enter, *words],
            env={**inherited, "HOME": "/root", "PATH": path, **(env or {})},
            **{"text": True, **more},
        )

    def run(
        self,
        host: str,
        command: str | Sequence[str],
        *,
        env: Mapping[str, str] | None = None,
        check: bool = True,
        timeout: float = 60,
    ) -> subprocess.CompletedProcess[str]:
        """Run a command to its end; what it said. With `check` another code than 0 is an
        AssertionError that quotes it."""
        # Files, not pipes: a daemon that the command leaves behind would hold a pipe open.
        with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as err:
            process = self.popen(
                host, command, env=env, stdin=subprocess.DEVNULL, stdout=out, stderr=err
            )
            try:
                process.wait(timeout)
            except BaseException as error:
                process.kill()
                process.wait()
                if isinstance(error, subprocess.TimeoutExpired):
                    error.output, error.stderr = _said(out), _said(err)
                raise
            done = subprocess.CompletedProcess(command, process.returncode, _said(out), _said(err))
        assert not (check and done.returncode), (
            f"{host}: {command} ended with {done.returncode}\n{done.stdout}{done.stderr}"
        )
        return done

    def power_off(self, host: str) -> None:
        """Everything ends at once and says nothing: the others see silence, no closed link."""
        self._in_switch(f"ip link del {self._port(host)}")
        self._end(host)

    def power_on(self, host: str) -> None:
        """The same address and disk, nothing running."""
        log = self._folder / f"{host}.log"
        disk = str(self._folder / host)
        boot = _start(
            *(*ISOLATED, "bash", "-c", BOOT, "bash", host, disk),
            *("yes" if self._ssh else "no", *self._shared),
            log=log,
        )
        self._boots[host] = boot
        assert boot.stdout is not None
        pid = boot.stdout.readline().strip()
        assert pid, f"{host} does not start: {log.read_text()}"
        self._pids[host] = int(pid)
        port, number = self._port(host), self._addresses[host].rpartition(".")[2]
        self._in_switch(
            f"ip link add {port} type veth peer name eth0 netns {pid} && ip link set {port} up"
        )
        self.heal(host)
        # The hardware address stays over a power-off: the others have it in their books. Without a
        # default route Ray takes 127.0.0.1 for the node's address; this one leads nowhere.
        self.run(
            host,
            f"ip link set lo up && ip link set eth0 address 02:00:00:00:00:{int(number):02x} && "
            f"ip addr add {self._addresses[host]}/24 dev eth0 && ip link set eth0 up && "
            "ip route add default dev eth0",
        )

    def cut(self, host: str) -> None:
        """From now on packets from and to the host vanish; the host's link stays up."""
        self._in_switch(f"ip link set {self._port(host)} nomaster")

    def heal(self, host: str) -> None:
        self._in_switch(f"ip link set {self._port(host)} master br0")

    def _end(self, host: str) -> None:
        """No process of the host is left when this returns: `unshare` ends after the last one."""
        boot, pid = self._boots.pop(host), self._pids.pop(host, None)
        if pid is not None and boot.poll() is None:
            os.kill(pid, signal.SIGKILL)
        boot.communicate()

    def _port(self, host: str) -> str:
        return f"port{self._addresses[host].rpartition('.')[2]}"

    def _in_switch(self, command: str) -> None:
        enter = ["nsenter", "-t", str(self._switch.pid), "--net", "sh", "-c", command]
        done = subprocess.run(enter, capture_output=True, text=True)
        assert done.returncode == 0, f"{command}: {done.stderr}"

    def _furnish(self, disk: Path) -> None:
        for name, mode in (("root", 0o700), ("tmp", 0o1777)):
            (disk / name).mkdir(parents=True)
            (disk / name).chmod(mode)
        if not self._ssh:
            return
        # One key for all: it is every host's own, it lets root in, and every host is known by it.
        (disk / "root" / ".ssh").mkdir(mode=0o700)
        shutil.copy(self._folder / "key", disk / "root" / ".ssh" / "id_ed25519")
        public = (self._folder / "key.pub").read_text()
        (disk / "root" / ".ssh" / "authorized_keys").write_text(public)
        (disk / "root" / ".ssh" / "known_hosts").write_text(f"* {public}")
        (disk / "root" / ".bashrc").write_text(f"export PATH={sys.prefix}/bin:$PATH\n")
        (disk / "root" / ".profile").write_text(". ~/.bashrc\n")


RAY_ENV = {
    "RAY_health_check_period_ms": "1000",  # a lost node is noticed in seconds, not in a minute
    "RAY_health_check_timeout_ms": "1000",
    "RAY_health_check_failure_threshold": "3",
    "RAY_USAGE_STATS_ENABLED": "0",
}
ALIVE = """
import sys, time, ray
ray.init(address=sys.argv[1], logging_level="ERROR", log_to_driver=False)
until = time.monotonic() + 120
while True:
    alive = sorted(node["NodeManagerAddress"] for node in ray.nodes() if node["Alive"])
    if alive == sorted({*alive, *sys.argv[2:]}) or time.monotonic() > until:
        break
    time.sleep(0.1)
print(*alive)
"""


def start_ray(
    hosts: Hosts,
    head: str,
    workers: Sequence[str],
    resources: Mapping[str, Mapping[str, int]] | None = None,
    env: Mapping[str, str] | None = None,
) -> str:
    """Ray on these hosts, one CPU each and what `resources` says (host, then kind: "gpus" …); the
    address for `ray.init` or RAY_ADDRESS on any of them. `env` comes on top of RAY_ENV."""
    how = ["--head", "--port", "6379", "--include-dashboard", "false"]
    _start_node(hosts, head, how, resources, env)
    return join_ray(hosts, head, workers, resources, env)


def join_ray(
    hosts: Hosts,
    head: str,
    workers: Sequence[str],
    resources: Mapping[str, Mapping[str, int]] | None = None,
    env: Mapping[str, str] | None = None,
) -> str:
    """These hosts, on which no Ray runs, join the Ray of `head`, whose address is returned."""
    address = f"{hosts.address(head)}:6379"

    def join(worker: str) -> None:
        _start_node(hosts, worker, ["--address", address], resources, env)

    with ThreadPoolExecutor() as pool:
        list(pool.map(join, workers))
    joined = [hosts.address(worker) for worker in workers]
    asked = [sys.executable, "-c", ALIVE, address, *joined]
    alive = hosts.run(head, asked, env={**RAY_ENV, **(env or {})}).stdout.split()
    assert alive == sorted({*alive, *joined}), f"{joined} join, but these are there: {alive}"
    return address


def _start_node(
    hosts: Hosts,
    host: str,
    how: Sequence[str],
    resources: Mapping[str, Mapping[str, int]] | None,
    env: Mapping[str, str] | None,
) -> None:
    options = ["--node-ip-address", hosts.address(host), "--object-store-memory", "200000000"]
    for kind, number in {"cpus": 1, **(resources or {}).get(host, {})}.items():
        options += [f"--num-{kind}", str(number)]
    hosts.run(host, ["ray", "start", *how, *options], env={**RAY_ENV, **(env or {})})


def _said(file: IO[str]) -> str:
    file.seek(0)
    return file.read()


def _start(*command: str, log: Path | None = None) -> subprocess.Popen[str]:
    with (log or Path(os.devnull)).open("w") as errors:
        return subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
            start_new_session=True,  # Ctrl-C is for the test, which then ends its hosts
        )
