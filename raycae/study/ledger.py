"""The ledger: what happened in a study, event by event, in append-only Parquet parts.

A part is written whole and never changed. Its name is the range of sequence numbers that it
covers and the digest of what is in it, `00000007-00000007-DIGEST.parquet` for one and
`00000000-00000063-DIGEST.parquet` for a part into which 64 were merged: a single flipped bit is
found, also where Parquet's own page checksums do not look. A reader passes over what a wider part
covers, so merging can be cut off at any point. One process writes (a study is leased), any number
read.
"""

from __future__ import annotations

import io
import re
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from raycae.errors import InputError
from raycae.storage.files import checksum, quarantine, write_atomic
from raycae.storage.paths import Place

SCHEMA = pa.schema(
    [
        # begun, known, resumed (of the study); created, started, epoch, lost, ended, interrupted,
        # evaluated (of a trial)
        ("event", pa.string()),
        ("at", pa.timestamp("us", tz="UTC")),
        ("trial_number", pa.int64()),
        ("attempt", pa.int64()),
        # begun, resumed
        ("study", pa.string()),  # what study.json says from now on, JSON
        # created; known has the configuration and val_mse of a trial of an earlier study
        ("point", pa.string()),
        ("params", pa.string()),  # sampled, JSON
        ("config", pa.string()),  # resolved, JSON
        ("seed", pa.int64()),
        ("change", pa.string()),  # of a greedy series, made to trial `parent`
        ("parent", pa.int64()),
        # known of another driver of a shared study: who ran it, and the error by epoch, JSON
        ("source", pa.string()),
        ("curve", pa.string()),
        # epoch, ended
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
        ("n_images", pa.int64()),
        ("checkpoint", pa.string()),  # digest of what it takes to go on from here
        ("model", pa.string()),  # digest of the model, where this epoch is the best so far
        # lost: one of records.CAUSES, and the images that go through the network at a time from now
        ("cause", pa.string()),
        ("micro_batch", pa.int64()),
        # lost, ended
        ("reason", pa.string()),
        # ended
        ("state", pa.string()),
        ("traceback", pa.string()),
        # evaluated
        ("test_mse", pa.float64()),
    ]
)
Event = Mapping[str, Any]
FAN = 64
"""So many parts of one width are merged into one: a folder holds a few times this many files,
however long the study."""
_NAME = re.compile(r"(\d{8})-(\d{8})(?:-([0-9a-f]{32}))?\.parquet")
Range = tuple[int, int]


def get_time() -> datetime:
    """Return the time that an event is recorded at, in UTC."""
    return datetime.now(UTC)


class Part(NamedTuple):
    """A part's file; `first` and `last` are the sequence numbers that it covers."""

    first: int
    last: int
    name: str


class Ledger:
    """The parts in `folder`, which is made if it is missing; for the one process that writes."""

    def __init__(self, folder: Place) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        self._parts = list_parts(folder)

    def append(self, events: Iterable[Event]) -> None:
        """One new part that holds `events` in their order; on disk when this returns."""
        number = self._parts[-1].last + 1 if self._parts else 0
        self._parts.append(self._write((number, number), encode_event(events)))
        while self._merge():
            pass

    def read(self) -> list[dict[str, Any]]:
        """All events, oldest first. Raises `InputError` naming a part that cannot be read."""
        return read_events(self.folder)

    def gaps(self) -> tuple[list[Range], list[str]]:
        """The ranges that no readable part covers, and what is wrong, in words.

        A damaged part is set aside, never deleted. A last part that is gone leaves no gap.
        """
        words = []
        damaged: list[Part] = []
        readable: set[Part] = set()
        while unread := [part for part in list_parts(self.folder) if part not in readable]:
            path = self.folder / unread[0].name
            try:
                read_part(path)
                readable.add(unread[0])
            except InputError as error:
                # What a merge had not deleted yet may lie under it.
                damaged.append(unread[0])
                words.append(f"{error}; set aside in {quarantine(path).parent}")
        self._parts = list_parts(self.folder)
        starts = [0, *(part.last + 1 for part in self._parts)]
        gaps = [(a, part.first - 1) for a, part in zip(starts, self._parts, strict=False)]
        gaps = [(a, b) for a, b in gaps if a <= b]
        words += [
            f"{self.folder}: part {a:08d} of the ledger is missing"
            for a, b in gaps
            if not any(part.first <= a and b <= part.last for part in damaged)
        ]
        return gaps, words

    def fill(self, gap: Range, events: Iterable[Event]) -> None:
        """Put `events` in the place of parts that are lost."""
        self._parts = sorted([*self._parts, self._write(gap, encode_event(events))])

    def _merge(self) -> bool:
        """Merge the last parts into one where there are `FAN` of the same width."""
        tail = self._parts[-FAN:]
        widths = {part.last - part.first for part in tail}
        if len(tail) < FAN or len(widths) > 1:
            return False
        paths = [self.folder / part.name for part in tail]
        merged = pa.concat_tables(read_part(path) for path in paths)
        whole = self._write((tail[0].first, tail[-1].last), encode_part(merged))
        self._parts[-FAN:] = [whole]
        for path in paths:
            path.unlink(missing_ok=True)
        return True

    def _write(self, covered: Range, content: bytes) -> Part:
        first, last = covered
        part = Part(first, last, f"{first:08d}-{last:08d}-{checksum(content)}.parquet")
        write_atomic(self.folder / part.name, content)
        return part


def read_events(folder: Place) -> list[dict[str, Any]]:
    """All events of the ledger in `folder`, oldest first; also while another process writes it.
    Raises `InputError` naming a part that is damaged or missing."""
    while True:
        try:
            parts = [read_part(folder / part.name) for part in list_whole_parts(folder)]
        except FileNotFoundError:
            continue  # merged away between listing and reading: the wider part is there now
        return [event for part in parts for event in part.to_pylist()]


class Follower:
    """What is new in the ledger in `folder`, which another process writes."""

    def __init__(self, folder: Place) -> None:
        self._folder = folder
        self._told: dict[Part, int] = {}
        """How many events each part has; all of them were told."""

    def news(self) -> list[dict[str, Any]]:
        """The events since it was last asked, oldest first. Raises `InputError` naming a part that
        is damaged or missing."""
        while True:
            parts = list_whole_parts(self._folder)
            try:
                fresh = {
                    part: read_part(self._folder / part.name).to_pylist()
                    for part in parts
                    if part not in self._told
                }
                break
            except FileNotFoundError:
                continue  # as in `read_events`
        news = [event for part, events in fresh.items() for event in events[self._before(part) :]]
        self._told = {
            part: len(fresh[part]) if part in fresh else self._told[part] for part in parts
        }
        return news

    def _before(self, merged: Part) -> int:
        """How many of a part's events were told when they lay in narrower ones."""
        return sum(
            n
            for part, n in self._told.items()
            if merged.first <= part.first and part.last <= merged.last
        )


def has_parts(folder: Place) -> bool:
    """Whether any part lies in `folder`."""
    return folder.exists() and bool(list_parts(folder))


def is_whole(folder: Place) -> bool:
    """Whether every part can be read and none is missing, as far as one can see."""
    try:
        read_events(folder)
    except InputError:
        return False
    return True


def read_readable(folder: Place, before: int | None = None) -> list[dict[str, Any]]:
    """The events of the parts that can be read, oldest first, up to sequence number `before`; the
    rest may be missing."""
    events: list[dict[str, Any]] = []
    for part in list_parts(folder):
        if before is not None and part.first >= before:
            break
        try:
            events += read_part(folder / part.name).to_pylist()
        except (InputError, FileNotFoundError):
            continue
    return events


def list_whole_parts(folder: Place) -> list[Part]:
    """The parts to read, which have to follow each other without a gap.

    Raises `InputError` naming the first missing one. A gap may also be a listing taken while
    parts were merged, so it is looked at again before it counts.
    """
    for _ in range(3):
        parts = list_parts(folder)
        starts = [0, *(part.last + 1 for part in parts)]
        missing = next((a for a, part in zip(starts, parts, strict=False) if a != part.first), None)
        if missing is None:
            return parts
    raise InputError(f"{folder}: part {missing:08d} of the ledger is missing")


def list_parts(folder: Place) -> list[Part]:
    """The parts that no wider part covers, in order."""
    names = [match for path in folder.iterdir() if (match := _NAME.fullmatch(path.name))]
    found = sorted((int(m[1]), -int(m[2]), m[0]) for m in names)
    kept: list[Part] = []
    for first, minus_last, name in found:
        if not kept or first > kept[-1].last:
            kept.append(Part(first, -minus_last, name))
    return kept


def encode_event(events: Iterable[Event]) -> bytes:
    return encode_part(pa.Table.from_pylist(list(events), schema=SCHEMA))


def encode_part(table: pa.Table) -> bytes:
    buffer = io.BytesIO()
    pq.write_table(table, buffer, write_page_checksum=True, store_schema=False)
    return buffer.getvalue()


def read_part(path: Place) -> pa.Table:
    """Columns that an older version did not write are null. Raises `InputError` naming a part that
    is damaged, `FileNotFoundError` for one that is gone."""
    name = _NAME.fullmatch(path.name)
    try:
        content = path.read_bytes()
        if name and name[3] and name[3] != checksum(content):
            raise ValueError("its content is not what its name says")
        table = pq.read_table(pa.BufferReader(content), page_checksum_verification=True)
        table["event"], table["trial_number"]
        return pa.table(
            {
                name: table[name].cast(kind)
                if name in table.column_names
                else pa.nulls(len(table), kind)
                for name, kind in zip(SCHEMA.names, SCHEMA.types, strict=True)
            }
        )
    except FileNotFoundError:
        raise
    except (pa.ArrowException, OSError, ValueError, KeyError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise InputError(f"{path}: this part of the ledger is damaged: {reason}") from None
