"""The ledger: what happened in a study, event by event, in append-only Parquet parts.

A part is written whole and never changed. Its name is the range of sequence numbers that it
covers, `00000007-00000007.parquet` for one and `00000000-00000255.parquet` for a part into which
256 were merged; a reader passes over what a wider part covers, so merging can be cut off at any
point. One process writes (a study is locked), any number read.
"""

from __future__ import annotations

import io
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from raycae.errors import InputError
from raycae.storage import write_whole

SCHEMA = pa.schema(
    [
        # begun (once, of the study), created, started, epoch, ended, interrupted, evaluated
        ("event", pa.string()),
        ("at", pa.timestamp("us", tz="UTC")),
        ("trial_number", pa.int64()),
        ("attempt", pa.int64()),
        # begun
        ("study", pa.string()),  # what study.json says, JSON
        # created
        ("point", pa.string()),
        ("params", pa.string()),  # sampled, JSON
        ("config", pa.string()),  # resolved, JSON
        ("seed", pa.int64()),
        # started
        ("host", pa.string()),
        ("device", pa.string()),
        # epoch
        ("epoch", pa.int64()),
        ("train_mse", pa.float64()),
        ("val_mse", pa.float64()),
        ("val_psnr_db", pa.float64()),
        ("val_ssim", pa.float64()),
        ("epoch_time_s", pa.float64()),
        ("images_per_s", pa.float64()),
        # ended
        ("state", pa.string()),
        ("reason", pa.string()),
        ("traceback", pa.string()),
        # evaluated
        ("test_mse", pa.float64()),
    ]
)
Event = Mapping[str, Any]

MERGE_AT = 256
"""So many single parts are merged into one: a folder stays short however long the study."""

_NAME = re.compile(r"(\d{8})-(\d{8})\.parquet")


class Ledger:
    """The parts in `folder`, which is made if it is missing."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        ranges = _ranges(folder)
        self._next = max((last for _, last in ranges), default=-1) + 1
        self._single = [first for first, last in ranges if first == last]

    def append(self, events: Iterable[Event]) -> None:
        """One new part that holds `events` in their order; on disk when this returns."""
        write_whole(self._path(self._next, self._next), _encode(events))
        self._single.append(self._next)
        self._next += 1
        if len(self._single) >= MERGE_AT:
            self._merge()

    def read(self) -> list[dict[str, Any]]:
        """All events, oldest first. Raises `InputError` naming a part that cannot be read."""
        return read(self.folder)

    def _merge(self) -> None:
        first, last = self._single[0], self._single[-1]
        parts = [self._path(number, number) for number in self._single]
        merged = pa.concat_tables(_read_part(part) for part in parts)
        write_whole(self._path(first, last), _to_bytes(merged))
        for part in parts:
            part.unlink()
        self._single = []

    def _path(self, first: int, last: int) -> Path:
        return self.folder / f"{first:08d}-{last:08d}.parquet"


def read(folder: Path) -> list[dict[str, Any]]:
    """All events of the ledger in `folder`, oldest first; also while another process writes it."""
    while True:
        try:
            parts = [_read_part(folder / f"{a:08d}-{b:08d}.parquet") for a, b in _whole(folder)]
        except FileNotFoundError:
            continue  # merged away between listing and reading: the wider part is there now
        return [event for part in parts for event in part.to_pylist()]


def _whole(folder: Path) -> list[tuple[int, int]]:
    """The parts to read, which have to follow each other without a gap.

    Raises `InputError` naming the first missing one. A gap may also be a listing taken while
    parts were merged, so it is looked at again before it counts.
    """
    for _ in range(3):
        ranges = _ranges(folder)
        starts = [0, *(last + 1 for _, last in ranges)]
        missing = next((a for a, (b, _) in zip(starts, ranges, strict=False) if a != b), None)
        if missing is None:
            return ranges
    raise InputError(f"{folder}: part {missing:08d} of the ledger is missing")


def _ranges(folder: Path) -> list[tuple[int, int]]:
    """The parts that no wider part covers, in order."""
    found = [_NAME.fullmatch(path.name) for path in folder.iterdir()]
    ranges = sorted((int(m[1]), -int(m[2])) for m in found if m)
    kept: list[tuple[int, int]] = []
    for first, minus_last in ranges:
        if not kept or first > kept[-1][1]:
            kept.append((first, -minus_last))
    return kept


def _encode(events: Iterable[Event]) -> bytes:
    return _to_bytes(pa.Table.from_pylist(list(events), schema=SCHEMA))


def _to_bytes(table: pa.Table) -> bytes:
    buffer = io.BytesIO()
    pq.write_table(table, buffer, write_page_checksum=True, store_schema=False)
    return buffer.getvalue()


def _read_part(path: Path) -> pa.Table:
    try:
        return pq.read_table(
            pa.BufferReader(path.read_bytes()), page_checksum_verification=True
        ).cast(SCHEMA)
    except (pa.ArrowException, OSError) as error:
        if isinstance(error, FileNotFoundError):
            raise
        raise InputError(f"{path}: this part of the ledger is damaged: {error}") from None
