"""The mounts of the fault tests fill, freeze and hang: without that, those would test nothing."""

from __future__ import annotations

import subprocess
import sys
import threading
from pathlib import Path

import mounts
import pytest
from mounts import Freezable, Served, Tmpfs

pytestmark = pytest.mark.timeout(60)


@pytest.mark.skipif(mounts.available() is not None, reason=str(mounts.available()))
def test_a_full_one(tmp_path: Path) -> None:
    """Oracle: one more byte is refused for want of space, until there is some again."""
    with Tmpfs(tmp_path / "small", 1 << 20) as small:
        small.fill()
        with pytest.raises(OSError, match="No space left"):
            (tmp_path / "small" / "file").write_bytes(b"x")
        small.empty()
        small.fill(leave=8192)
        (tmp_path / "small" / "file").write_bytes(bytes(8192))
        assert small.free == 0
    assert list((tmp_path / "small").iterdir()) == []


@pytest.mark.skipif(mounts.no_freezing() is not None, reason=str(mounts.no_freezing()))
def test_a_frozen_one(tmp_path: Path) -> None:
    """Oracle: a writer is held until the thaw, a reader is not."""
    with Freezable(tmp_path / "ice") as ice:
        file = tmp_path / "ice" / "file"
        file.write_bytes(b"before")
        ice.freeze()
        writer = threading.Thread(target=file.write_bytes, args=[b"during"])
        writer.start()
        writer.join(0.5)
        assert writer.is_alive()
        assert file.read_bytes() == b"before"
        ice.thaw()
        writer.join(5)
        assert file.read_bytes() == b"during"


@pytest.mark.skipif(mounts.no_fuse() is not None, reason=str(mounts.no_fuse()))
def test_a_served_one(tmp_path: Path) -> None:
    """Oracle: files, folders and renames as in the folder behind it; stopped, it holds a reader,
    who can be killed; killed, it refuses."""
    where, behind = tmp_path / "where", tmp_path / "behind"
    with Served(where, behind) as served:
        (where / "a" / "b").mkdir(parents=True)
        content = bytes(range(256)) * 4000
        (where / "a" / "b" / "file").write_bytes(content)
        assert (behind / "a" / "b" / "file").read_bytes() == content
        (where / "a" / "b" / "file").replace(where / "a" / "new")
        (where / "a").rename(where / "c")
        assert (where / "c" / "new").read_bytes() == content
        (where / "c" / "new").write_bytes(b"short")
        assert sorted(p.name for p in (where / "c").iterdir()) == ["b", "new"]
        assert (where / "c" / "new").stat().st_size == 5
        (where / "c" / "b").rmdir()
        (where / "c" / "new").unlink()
        with pytest.raises(FileNotFoundError):
            (where / "c" / "new").read_bytes()

        served.stop()
        read = [sys.executable, "-c", f"import os; os.listdir({str(where)!r})"]
        reader = subprocess.Popen(read)
        with pytest.raises(subprocess.TimeoutExpired):
            reader.wait(1)
        reader.kill()
        reader.wait(5)
        served.go_on()
        assert [p.name for p in where.iterdir()] == ["c"]
        served.kill()
        with pytest.raises(OSError, match="not connected"):
            list(where.iterdir())
    assert list(where.iterdir()) == []
