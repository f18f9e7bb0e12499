"""File systems that a test mounts and then breaks: one that fills up, one that can be frozen, one
whose server can be stopped. All need root."""

# What the kernel asks of the server is what `os` has, by name:
# ruff: noqa: PTH101, PTH102, PTH105, PTH106, PTH108, PTH208

from __future__ import annotations

import contextlib
import ctypes
import errno
import functools
import os
import select
import stat
import struct
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any


@functools.cache
def available() -> str | None:
    """Why nothing can be mounted here, or None."""
    if not sys.platform.startswith("linux"):
        return "mounts are made with Linux's own means"
    if os.geteuid() != 0:
        return "only root may mount"
    probe = ["unshare", "--mount", "mount", "-t", "tmpfs", "probe", "/mnt"]
    done = subprocess.run(probe, capture_output=True, text=True, check=False)
    return None if done.returncode == 0 else f"no mounts are permitted here: {done.stderr.strip()}"


@functools.cache
def no_freezing() -> str | None:
    """Why no file system can be frozen here, or None."""
    if reason := available():
        return reason
    if not Path("/dev/loop-control").exists():
        return "no loop devices here"
    missing = [name for name in ("mkfs.ext4", "fsfreeze") if not _program(name)]
    return f"not installed: {', '.join(missing)}" if missing else None


def no_fuse() -> str | None:
    """Why this process cannot serve a file system, or None."""
    return available() or (None if Path("/dev/fuse").exists() else "no /dev/fuse here")


class Tmpfs:
    """`size` bytes at `where`, which is made; a context manager. `mounted` says whether it is."""

    def __init__(self, where: Path, size: int) -> None:
        self.where, self.size = where, size

    def __enter__(self) -> Tmpfs:
        self.where.mkdir(parents=True, exist_ok=True)
        _call("mount", "-t", "tmpfs", "-o", f"size={self.size}", "raycae-test", str(self.where))
        return self

    def __exit__(self, *_: object) -> None:
        unmount(self.where)

    @property
    def free(self) -> int:
        found = os.statvfs(self.where)
        return found.f_bavail * found.f_frsize

    def fill(self, leave: int = 0) -> None:
        """Until `leave` bytes are left, and what others free meanwhile is taken too."""
        with (self.where / "filling").open("ab") as file:
            while (more := self.free - leave) > 0:
                try:
                    os.posix_fallocate(file.fileno(), file.seek(0, os.SEEK_END), more)
                except OSError:
                    time.sleep(0.001)  # somebody was quicker

    def empty(self) -> None:
        (self.where / "filling").unlink()


class Freezable:
    """An ext4 of 64 MiB at `where`, in a file beside it; a context manager. Frozen, it lets its
    readers go on and holds its writers, and no signal can end those."""

    def __init__(self, where: Path) -> None:
        self.where = where
        self._image = where.with_name(f"{where.name}.image")
        self._frozen = False

    def __enter__(self) -> Freezable:
        self.where.mkdir(parents=True, exist_ok=True)
        with self._image.open("wb") as file:
            file.truncate(64 << 20)
        _call("mkfs.ext4", "-q", str(self._image))
        _call("mount", "-o", "loop", str(self._image), str(self.where))
        return self

    def __exit__(self, *_: object) -> None:
        if self._frozen:
            self.thaw()
        unmount(self.where)
        self._image.unlink()

    def freeze(self) -> None:
        _call("fsfreeze", "-f", str(self.where))
        self._frozen = True

    def thaw(self) -> None:
        _call("fsfreeze", "-u", str(self.where))
        self._frozen = False


class Served:
    """The folder `behind` at `where`, through a server of its own, as a network's file system is; a
    context manager. Stopped, it holds whoever calls into it, though he can be killed; killed, it
    refuses every call."""

    def __init__(self, where: Path, behind: Path) -> None:
        self.where, self.behind = where, behind

    def __enter__(self) -> Served:
        self.where.mkdir(parents=True, exist_ok=True)
        self.behind.mkdir(parents=True, exist_ok=True)
        serve = [sys.executable, __file__, str(self.where), str(self.behind)]
        pipe = subprocess.PIPE
        self._server = subprocess.Popen(serve, stdin=pipe, stdout=pipe, text=True)
        self._hear("mounted")
        return self

    def __exit__(self, *_: object) -> None:
        self._server.kill()
        self._server.wait()
        unmount(self.where)

    def stop(self) -> None:
        # Not by a signal: the kernel lets nobody go whose call the server has already read.
        self._tell("stop")

    def go_on(self) -> None:
        self._tell("go on")

    def kill(self) -> None:
        self._server.kill()
        self._server.wait()

    def _tell(self, what: str) -> None:
        assert self._server.stdin is not None
        self._server.stdin.write(f"{what}\n")
        self._server.stdin.flush()
        self._hear(what)

    def _hear(self, what: str) -> None:
        assert self._server.stdout is not None
        assert self._server.stdout.readline() == f"{what}\n"


def unmount(where: Path) -> None:
    """Also while somebody is in it. Once is enough: a second time is no fault."""
    subprocess.run(["umount", "--lazy", str(where)], capture_output=True, check=False)


def _call(*words: str) -> None:
    done = subprocess.run([_program(words[0]) or words[0], *words[1:]], capture_output=True)
    assert done.returncode == 0, done.stderr.decode()


def _program(name: str) -> str | None:
    folders = (Path(folder) for folder in (*os.get_exec_path(), "/usr/sbin", "/sbin"))
    return next((str(folder / name) for folder in folders if (folder / name).exists()), None)


# The server. The kernel's side of it is in linux/fuse.h.

HEAD = struct.Struct("<IIQQIIIHH")
NEVER_ANSWERED = {2, 36, 42}  # forget, interrupt, batch_forget
Answer = bytes | None


class Server:
    """Hands every call on to the folder `behind`."""

    def __init__(self, behind: str) -> None:
        self.paths = {1: behind}
        self.handles: dict[int, Any] = {}
        self.calls: dict[int, Callable[[int, bytes], Answer]] = {
            1: self.lookup,
            3: self.getattr,
            4: self.setattr,
            9: self.mkdir,
            10: self.unlink,
            11: self.rmdir,
            12: lambda node, body: self.rename(node, body[:8] + bytes(8) + body[8:]),
            14: self.open,
            15: self.read,
            16: self.write,
            17: self.statfs,
            18: self.release,
            20: self.fsync,
            26: self.init,
            27: self.opendir,
            28: self.readdir,
            29: self.release,
            30: lambda node, body: b"",  # fsyncdir
            35: self.create,
            45: self.rename,
        }

    def serve(self, kernel: int) -> None:
        while True:
            ready, _, _ = select.select([kernel, sys.stdin], [], [])
            if sys.stdin in ready:
                self.obey()
                continue
            request = os.read(kernel, 1 << 18)
            _, call, unique, node, *_ = HEAD.unpack_from(request)
            fault, answer = 0, b""
            try:
                if call not in self.calls:
                    raise OSError(38, "not implemented")
                answer = self.calls[call](node, request[HEAD.size :]) or b""
            except OSError as error:
                fault = -(error.errno or 5)
            except KeyError:  # a node whose file another one has replaced: the kernel looks again
                fault = -errno.ESTALE
            if call not in NEVER_ANSWERED:
                os.write(kernel, struct.pack("<IiQ", 16 + len(answer), fault, unique) + answer)

    def obey(self) -> None:
        """Stop, in the middle of no call, until told to go on. It ends with the test."""
        for _ in range(2):
            told = sys.stdin.readline()
            if not told:
                sys.exit()
            print(told, end="", flush=True)

    def init(self, node: int, body: bytes) -> Answer:
        big = 1 << 17
        return struct.pack("<IIIIHHIIHH", 7, 31, big, 1 << 5, 12, 9, big, 1, 0, 0) + bytes(32)

    def lookup(self, node: int, body: bytes) -> Answer:
        return self.entry(self.below(node, body[:-1]))

    def getattr(self, node: int, body: bytes) -> Answer:
        return struct.pack("<QII", 0, 0, 0) + attributes(os.lstat(self.paths[node]))

    def setattr(self, node: int, body: bytes) -> Answer:
        valid, _, _, size = struct.unpack_from("<IIQQ", body)
        if valid & 1:
            os.chmod(self.paths[node], struct.unpack_from("<I", body, 68)[0] & 0o7777)
        if valid & 8:
            os.truncate(self.paths[node], size)
        return self.getattr(node, b"")

    def mkdir(self, node: int, body: bytes) -> Answer:
        path = self.below(node, body[8:-1])
        os.mkdir(path, struct.unpack_from("<I", body)[0])
        return self.entry(path)

    def unlink(self, node: int, body: bytes) -> Answer:
        os.unlink(self.below(node, body[:-1]))
        return None

    def rmdir(self, node: int, body: bytes) -> Answer:
        os.rmdir(self.below(node, body[:-1]))
        return None

    def rename(self, node: int, body: bytes) -> Answer:
        old, new = body[16:-1].split(b"\0")
        source = self.below(node, old)
        target = self.below(struct.unpack_from("<Q", body)[0], new)
        os.replace(source, target)
        self.paths = {n: p for n, p in self.paths.items() if p != target}
        for known, path in self.paths.items():
            if path == source or path.startswith(source + "/"):
                self.paths[known] = target + path[len(source) :]
        return None

    def open(self, node: int, body: bytes) -> Answer:
        flags = struct.unpack_from("<I", body)[0]
        return self.opened(os.open(self.paths[node], flags & ~os.O_CREAT & ~os.O_EXCL))

    def create(self, node: int, body: bytes) -> Answer:
        flags, mode = struct.unpack_from("<II", body)
        path = self.below(node, body[16:-1])
        descriptor = os.open(path, flags | os.O_CREAT, mode)
        return self.entry(path) + self.opened(descriptor)

    def opened(self, descriptor: int) -> bytes:
        self.handles[descriptor] = descriptor
        return struct.pack("<QII", descriptor, 0, 0)

    def read(self, node: int, body: bytes) -> Answer:
        handle, offset, size = struct.unpack_from("<QQI", body)
        return os.pread(handle, size, offset)

    def write(self, node: int, body: bytes) -> Answer:
        handle, offset, size = struct.unpack_from("<QQI", body)
        return struct.pack("<II", os.pwrite(handle, body[40 : 40 + size], offset), 0)

    def fsync(self, node: int, body: bytes) -> Answer:
        os.fsync(struct.unpack_from("<Q", body)[0])
        return None

    def release(self, node: int, body: bytes) -> Answer:
        handle = struct.unpack_from("<Q", body)[0]
        if isinstance(self.handles.pop(handle), int):
            os.close(handle)
        return None

    def opendir(self, node: int, body: bytes) -> Answer:
        handle = 1 << 32 | len(self.handles)
        while handle in self.handles:
            handle += 1
        self.handles[handle] = [".", "..", *sorted(os.listdir(self.paths[node]))]
        return struct.pack("<QII", handle, 0, 0)

    def readdir(self, node: int, body: bytes) -> Answer:
        handle, offset, size = struct.unpack_from("<QQI", body)
        answer = b""
        for number, name in enumerate(self.handles[handle][offset:], offset + 1):
            raw = os.fsencode(name)
            entry = struct.pack("<QQII", 1000 + number, number, len(raw), 0) + raw
            entry += bytes(-len(entry) % 8)
            if len(answer) + len(entry) > size:
                break
            answer += entry
        return answer

    def statfs(self, node: int, body: bytes) -> Answer:
        s = os.statvfs(self.paths[node])
        counts = (s.f_blocks, s.f_bfree, s.f_bavail, s.f_files, s.f_ffree)
        return struct.pack("<QQQQQIIII", *counts, s.f_bsize, 255, s.f_frsize, 0) + bytes(24)

    def below(self, node: int, name: bytes) -> str:
        return f"{self.paths[node]}/{os.fsdecode(name)}"

    def entry(self, path: str) -> bytes:
        found = os.lstat(path)
        node = next((n for n, p in self.paths.items() if p == path), max(self.paths) + 1)
        self.paths[node] = path
        return struct.pack("<QQQQII", node, 0, 0, 0, 0, 0) + attributes(found)


def attributes(s: os.stat_result) -> bytes:
    times = (int(s.st_atime), int(s.st_mtime), int(s.st_ctime))
    numbers = (s.st_mode, s.st_nlink, s.st_uid, s.st_gid, 0, s.st_blksize, 0)
    return struct.pack("<QQQQQQIII7I", s.st_ino, s.st_size, s.st_blocks, *times, 0, 0, 0, *numbers)


def main(where: str, behind: str) -> None:
    kernel = os.open("/dev/fuse", os.O_RDWR)
    options = f"fd={kernel},rootmode={stat.S_IFDIR:o},user_id=0,group_id=0,allow_other"
    libc = ctypes.CDLL(None, use_errno=True)
    words = (b"raycae-test", os.fsencode(where), b"fuse", 0, options.encode())
    assert libc.mount(*words) == 0, os.strerror(ctypes.get_errno())
    print("mounted", flush=True)
    with contextlib.suppress(OSError):  # unmounted
        Server(behind).serve(kernel)


if __name__ == "__main__":
    main(*sys.argv[1:])
