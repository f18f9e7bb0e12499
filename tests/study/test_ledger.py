"""The ledger: append-only parts, each whole, readable at every moment."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from raycae.errors import InputError, StorageError
from raycae.storage import files
from raycae.study import ledger as study_ledger
from raycae.study.ledger import Ledger, read_events


def event(number: int, **fields: Any) -> dict[str, Any]:
    at = datetime(2026, 1, 1, tzinfo=UTC)
    return {"event": "epoch", "at": at, "trial_number": number, "attempt": 1, **fields}


def numbers(folder: Path) -> list[int]:
    return [e["trial_number"] for e in read_events(folder)]


def test_what_is_appended_is_read(tmp_path: Path) -> None:
    """Oracle: the same values, types and order; a second process goes on behind the first."""
    first = Ledger(tmp_path / "ledger")
    first.append([event(0, epoch=1, val_mse=0.25, host="a"), event(1)])
    Ledger(tmp_path / "ledger").append([event(2, state="FAIL", reason="diverged")])
    events = first.read()
    assert [e["trial_number"] for e in events] == [0, 1, 2]
    assert events[0]["val_mse"] == 0.25
    assert events[0]["at"] == datetime(2026, 1, 1, tzinfo=UTC)
    assert events[1]["val_mse"] is None
    assert (events[2]["state"], events[2]["reason"]) == ("FAIL", "diverged")


def test_every_value_is_read_as_it_was_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Oracle: the values that were appended, to the bit, before and after parts are merged, and in
    parts of an older version, which were all Parquet."""
    monkeypatch.setattr(study_ledger, "FAN", 4)
    text = 'a "b"\n\r\t\x85\u2028\u2029\x00 \U0001f600 {'
    values: list[dict[str, Any]] = [
        {"epoch": 2**62, "train_mse": 0.1 + 0.2, "val_mse": math.nan, "val_psnr_db": math.inf},
        {"reason": text, "traceback": "", "val_mse": -math.inf, "train_mse": 5e-324},
        {"at": datetime(2026, 11, 30, 1, 2, 3, 4, tzinfo=UTC), "test_mse": 1, "params": text},
    ]
    events = [event(number, **fields) for number, fields in enumerate(values)]
    events.append({"event": "begun", "at": events[0]["at"], "trial_number": None, "study": text})
    written = Ledger(tmp_path / "ledger")
    for number, one in enumerate(events):
        written.append([one])
        assert numbers(tmp_path / "ledger")[-1] == (number if number < 3 else None)
        assert_read(tmp_path / "ledger", events[: number + 1])
    assert [path.suffix for path in (tmp_path / "ledger").iterdir()] == [".parquet"]
    older = tmp_path / "older"
    older.mkdir()
    content = study_ledger.encode_events(events)
    (older / f"00000000-00000000-{files.checksum(content)}.parquet").write_bytes(content)
    Ledger(older).append([event(4)])
    assert_read(older, [*events, event(4)])


@pytest.mark.parametrize(
    "wrong",
    [{"epoch": "three"}, {"reason": 3}, {"epoch": True}, {"epoch": 2**63}, {"reason": "\ud800"}],
    ids=str,
)
def test_a_wrong_value_is_refused_when_it_is_written(tmp_path: Path, wrong: dict[str, Any]) -> None:
    """Oracle: nothing is written. JSON takes most of these, and the part could never be read."""
    written = Ledger(tmp_path)
    written.append([event(0)])
    with pytest.raises((pa.ArrowException, TypeError, OverflowError, UnicodeEncodeError)):
        written.append([event(1, **wrong)])
    written.append([event(2, epoch=np.int64(3), val_mse=np.float32(0.1))])
    assert numbers(tmp_path) == [0, 2]
    assert read_events(tmp_path)[1]["val_mse"] == float(np.float32(0.1))


def assert_read(folder: Path, written: list[dict[str, Any]]) -> None:
    read = [{k: v for k, v in e.items() if v is not None} for e in read_events(folder)]
    for e in read:
        e["at"] = e["at"].astimezone(UTC)
    assert repr([sorted(e.items()) for e in read]) == repr(
        [
            sorted((k, float(v) if k.endswith("mse") else v) for k, v in e.items() if v is not None)
            for e in written
        ]
    )


def test_parts_are_merged_and_nothing_changes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Oracle: the events before and after; the folder stays short."""
    monkeypatch.setattr(study_ledger, "FAN", 8)
    written = Ledger(tmp_path)
    for number in range(50):
        written.append([event(number)])
        assert numbers(tmp_path) == list(range(number + 1))
    assert len(list(tmp_path.iterdir())) == 50 // 8 + 50 % 8
    Ledger(tmp_path).append([event(50)])
    assert numbers(tmp_path) == list(range(51))


def test_damage_on_disk_is_not_merged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Oracle: the events that were appended. A part that is cut on disk before it is merged is
    replaced by what the writer still holds; a later process, which holds nothing, refuses it."""
    monkeypatch.setattr(study_ledger, "FAN", 8)
    for late in (False, True):
        folder = tmp_path / str(late)
        written = Ledger(folder)
        for number in range(7):
            written.append([event(number)])
        sorted(folder.iterdir())[3].write_bytes(b"PAR1")
        if late:
            with pytest.raises(InputError, match=r"00000003-.* is damaged"):
                Ledger(folder).append([event(7)])
        else:
            written.append([event(7)])
            assert numbers(folder) == list(range(8))


def test_merging_cut_off_halfway(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Oracle: the wider part is written and some single ones are still there, as after a kill:
    every event is read once, and writing goes on."""
    monkeypatch.setattr(study_ledger, "FAN", 8)
    kept = {}
    written = Ledger(tmp_path)
    for number in range(7):
        written.append([event(number)])
    for path in sorted(tmp_path.iterdir())[2:5]:
        kept[path] = path.read_bytes()
    written.append([event(7)])
    for path, content in kept.items():
        path.write_bytes(content)
    assert numbers(tmp_path) == list(range(8))
    Ledger(tmp_path).append([event(8)])
    assert numbers(tmp_path) == list(range(9))


def test_reading_while_writing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Oracle: whatever a reader sees is a beginning of what is written, also across merges."""
    monkeypatch.setattr(study_ledger, "FAN", 8)
    written = Ledger(tmp_path)

    def write() -> None:
        for number in range(150):
            written.append([event(number)])

    with ThreadPoolExecutor() as pool:
        writing = pool.submit(write)
        while not writing.done():
            seen = numbers(tmp_path)
            assert seen == list(range(len(seen)))
    assert numbers(tmp_path) == list(range(150))


@pytest.mark.parametrize("is_damaged", [False, True])
def test_gaps_are_found_with_one_listing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_damaged: bool
) -> None:
    """Oracle: a count. For an object store, each listing is a request. The parts that a damaged
    part covers are found without another listing."""
    monkeypatch.setattr(study_ledger, "FAN", 8)
    written = Ledger(tmp_path)
    for number in range(7):
        written.append([event(number)])
    narrow = {path: path.read_bytes() for path in tmp_path.iterdir()}
    for number in range(7, 30):
        written.append([event(number)])
    for path, content in narrow.items():  # as after a merge that was interrupted
        path.write_bytes(content)
    (wide,) = tmp_path.glob("00000000-00000007-*")
    if is_damaged:
        wide.write_bytes(b"PAR1")
        next(iter(narrow)).write_bytes(b"{")
    reopened = Ledger(tmp_path)
    listed: list[Path] = []
    list_folder = Path.iterdir

    def count(folder: Path) -> Iterator[Path]:
        listed.append(folder)
        return list_folder(folder)

    monkeypatch.setattr(Path, "iterdir", count)
    gaps, notes = reopened.find_gaps()
    n_listed = len([folder for folder in listed if folder == tmp_path])
    assert n_listed == 1 + len(notes)  # To quarantine a local file looks whether it is mounted.
    first = int(next(iter(narrow)).name[:8])
    assert gaps == ([(first, first), (7, 7)] if is_damaged else [])
    assert len(notes) == len(gaps)
    assert len(list((tmp_path / "damaged").glob("*"))) == len(gaps)


def test_foreign_files_are_passed_over(tmp_path: Path) -> None:
    """Oracle: a temporary file of a killed writer, an editor's copy: neither is a part."""
    Ledger(tmp_path).append([event(0)])
    (tmp_path / ".00000001-00000001.jsonl.ab12cd34").write_bytes(b"half")
    (tmp_path / "notes.txt").write_text("hello")
    assert numbers(tmp_path) == [0]


@pytest.mark.parametrize("damage", [b"", b"PAR1", None], ids=["empty", "cut", "bit"])
def test_damaged_part_is_named(tmp_path: Path, damage: bytes | None) -> None:
    """Oracle: the message names the file; a flipped bit is found in whichever byte it is."""
    Ledger(tmp_path).append([event(0, reason="a text long enough to lie in a page of its own")])
    path = next(tmp_path.iterdir())
    content = path.read_bytes()
    for at in range(len(content)) if damage is None else [0]:
        flipped = content[:at] + bytes([content[at] ^ 1]) + content[at + 1 :]
        path.write_bytes(flipped if damage is None else damage)
        with pytest.raises(InputError, match=r"00000000-00000000-\w+\.jsonl: .*damaged"):
            read_events(tmp_path)


def test_missing_part_is_named(tmp_path: Path) -> None:
    """Oracle: the second of three parts is gone; the ledger is not read as if it had never been."""
    written = Ledger(tmp_path)
    for number in range(3):
        written.append([event(number)])
    next(tmp_path.glob("00000001-*")).unlink()
    with pytest.raises(InputError, match="part 00000001 of the ledger is missing"):
        read_events(tmp_path)


def test_write_whole_replaces_or_leaves(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Oracle: a disk that refuses leaves the old content and no temporary file."""
    path = tmp_path / "file"
    files.write_atomic(path, b"old")

    def refuse(handle: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", refuse)
    with pytest.raises(StorageError, match=r"writing .*/file: No space left"):
        files.write_atomic(path, b"new")
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]
