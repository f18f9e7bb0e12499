"""The ledger: what happened in a study, event by event, in append-only parts.

A part is written atomically and never changed. Its name is the range of sequence numbers that it
covers and the checksum of its content: `00000007-00000007-CHECKSUM.jsonl` for one, which is JSON
lines, and `00000000-00000063-CHECKSUM.parquet` for a part into which 64 were merged, which is
Parquet. So a single flipped bit is found, also where Parquet's own page checksums do not look.
Readers skip what a wider part covers, so merging can be interrupted at any point. One process
writes (a study is leased), and any number may read.
"""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from raycae.errors import InputError
from raycae.storage.files import checksum, delete_files, quarantine, write_atomic
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
        ("study", pa.string()),  # content of study.json from now on, JSON
        # created; known has the configuration and val_mse of a trial of an earlier study
        ("point", pa.string()),
        ("params", pa.string()),  # sampled, JSON
        ("config", pa.string()),  # resolved, JSON
        ("seed", pa.int64()),
        ("change", pa.string()),  # of a greedy series, made to trial `parent`
        ("parent", pa.int64()),
        # known of another driver of a shared study: the driver, and the error by epoch, JSON
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
        ("checkpoint", pa.string()),  # checksum of the checkpoint of this epoch
        ("model", pa.string()),  # checksum of the model, if this epoch is the best so far
        # lost: one of records.CAUSES, and the micro-batch from now on
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
"""The columns of an event. Each kind of event fills some of them."""
REQUIRED = ("event", "trial_number")
"""Every part has these columns, or it is no part of a ledger."""
Event = Mapping[str, Any]
SMALL_BYTES = 16_384
"""Size up to which `decode_small_part` remembers the content of parts."""
ROWS_AT_A_TIME = 1000
"""Number of events that are in memory at once while a ledger is read."""
FAN = 64
"""This many parts of one width are merged into one. So a folder holds at most a few times as many
files."""
_NAME = re.compile(r"(\d{8})-(\d{8})(?:-([0-9a-f]{32}))?\.(jsonl|parquet)")
Range = tuple[int, int]
"""First and last sequence number."""


def get_time() -> datetime:
    """Return the time that an event is recorded at, in UTC."""
    return datetime.now(UTC)


class Part(NamedTuple):
    """A file of the ledger.

    Attributes:
        first: First sequence number that it covers.
        last: Last sequence number that it covers.
        name: Name of the file.
    """

    first: int
    last: int
    name: str


class Ledger:
    """The ledger in a folder, for the one process that writes it.

    Args:
        folder: Folder of the parts; made if it is missing.
    """

    def __init__(self, folder: Place) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        self._parts = list_parts(folder)
        self._tables: dict[Part, pa.Table] = {}
        """Events of the parts that this object has written and not merged yet. Reading them again
        for each merge took half of the time of `append`."""

    def append(self, events: Iterable[Event]) -> None:
        """Write events as one new part, which is on disk when this returns.

        Args:
            events: The events, oldest first.
        """
        number = self._parts[-1].last + 1 if self._parts else 0
        written = list(events)
        table = make_table(written)  # It refuses a value of a wrong type, which JSON would take.
        part = self._write((number, number), encode_lines(written), "jsonl")
        self._parts.append(part)
        self._tables[part] = table
        while self._merge():
            pass

    def read(self) -> list[dict[str, Any]]:
        """Read all events, oldest first; see `read_events`."""
        return read_events(self.folder)

    def find_gaps(self) -> tuple[list[Range], list[str]]:
        """Find what is missing. Damaged parts are quarantined, never deleted.

        Returns:
            The ranges that no readable part covers, and one sentence for each fault. A missing last
            part leaves no gap.
        """
        notes = []
        damaged: list[Part] = []
        readable: set[Part] = set()
        found = list_all_parts(self.folder)  # Once, because an object store is asked each time.
        while unread := [part for part in select_widest(found) if part not in readable]:
            for part in unread:
                path = self.folder / part.name
                try:
                    read_part(path)
                    readable.add(part)
                except InputError as error:
                    # A merge may not have deleted the parts that it covers yet.
                    found.remove(part)
                    damaged.append(part)
                    notes.append(f"{error}; quarantined in {quarantine(path).parent}")
        self._parts = select_widest(found)
        starts = [0, *(part.last + 1 for part in self._parts)]
        gaps = [(a, part.first - 1) for a, part in zip(starts, self._parts, strict=False)]
        gaps = [(a, b) for a, b in gaps if a <= b]
        notes += [
            f"{self.folder}: part {a:08d} of the ledger is missing"
            for a, b in gaps
            if not any(part.first <= a and b <= part.last for part in damaged)
        ]
        return gaps, notes

    def fill_gap(self, gap: Range, events: Iterable[Event]) -> None:
        """Write events in place of lost parts.

        Args:
            gap: The range of the lost parts.
            events: The events, oldest first.
        """
        self._parts = sorted([*self._parts, self._write(gap, encode_events(events), "parquet")])

    def _merge(self) -> bool:
        """Merge the last `FAN` parts into one if they have the same width.

        Returns:
            True if they were merged.
        """
        tail = self._parts[-FAN:]
        widths = {part.last - part.first for part in tail}
        if len(tail) < FAN or len(widths) > 1:
            return False
        paths = [self.folder / part.name for part in tail]
        merged = pa.concat_tables(
            self._tables[part] if part in self._tables else read_part(path)
            for part, path in zip(tail, paths, strict=True)
        )
        whole = self._write((tail[0].first, tail[-1].last), encode_part(merged), "parquet")
        self._parts[-FAN:] = [whole]
        for part in tail:
            self._tables.pop(part, None)
        delete_files(paths)
        return True

    def _write(self, covered: Range, content: bytes, suffix: str) -> Part:
        first, last = covered
        part = Part(first, last, f"{first:08d}-{last:08d}-{checksum(content)}.{suffix}")
        write_atomic(self.folder / part.name, content)
        return part


def read_events(folder: Place) -> list[dict[str, Any]]:
    """Read all events of a ledger, even while another process writes it.

    Args:
        folder: Folder of the parts.

    Returns:
        The events, oldest first.

    Raises:
        InputError: A part is damaged or missing; the message names it.
    """
    return list(iterate_events(folder))


def iterate_events(folder: Place) -> Iterator[dict[str, Any]]:
    """Iterate over all events of a ledger without holding them in memory all at once.

    Args:
        folder: Folder of the parts.

    Yields:
        The events, oldest first.

    Raises:
        InputError: A part is damaged or missing; the message names it. Nothing was yielded then.
    """
    while True:
        try:
            parts = [read_part(folder / part.name) for part in list_whole_parts(folder)]
            break
        except FileNotFoundError:
            continue  # Parts were merged after they were listed; the wider part is there now.
    for part in parts:
        yield from iterate_rows(part)


def iterate_rows(table: pa.Table) -> Iterator[dict[str, Any]]:
    """Iterate over the rows of a table without making all of them at once.

    Args:
        table: The table.

    Yields:
        Each row by column.
    """
    for batch in table.to_batches(max_chunksize=ROWS_AT_A_TIME):
        yield from batch.to_pylist()


class Follower:
    """Follows a ledger that another process writes.

    Args:
        folder: Folder of the parts.
    """

    def __init__(self, folder: Place) -> None:
        self._folder = folder
        self._n_seen: dict[Part, int] = {}
        """How many events each part has; all of them were returned."""

    def news(self) -> list[dict[str, Any]]:
        """Return the events since the last call, oldest first.

        Raises:
            InputError: A part is damaged or missing; the message names it.
        """
        while True:
            parts = list_whole_parts(self._folder)
            try:
                fresh = {
                    part: read_part(self._folder / part.name).to_pylist()
                    for part in parts
                    if part not in self._n_seen
                }
                break
            except FileNotFoundError:
                continue  # See iterate_events.
        news = [
            event for part, events in fresh.items() for event in events[self._count_seen(part) :]
        ]
        self._n_seen = {
            part: len(fresh[part]) if part in fresh else self._n_seen[part] for part in parts
        }
        return news

    def _count_seen(self, merged: Part) -> int:
        """Count the events of a merged part that were returned from narrower parts."""
        return sum(
            n
            for part, n in self._n_seen.items()
            if merged.first <= part.first and part.last <= merged.last
        )


def has_parts(folder: Place) -> bool:
    """Return whether a folder holds any part of a ledger."""
    return folder.exists() and bool(list_parts(folder))


def is_whole(folder: Place) -> bool:
    """Return whether every part can be read and none is known to be missing.

    Args:
        folder: Folder of the parts.
    """
    try:
        read_events(folder)
    except InputError:
        return False
    return True


def iterate_readable(folder: Place, before: int | None = None) -> Iterator[dict[str, Any]]:
    """Iterate over the events of all parts that can be read.

    Args:
        folder: Folder of the parts.
        before: Sequence number at which to stop; None for all parts.

    Yields:
        The events, oldest first. Events of damaged or missing parts are left out.
    """
    for part in iterate_readable_parts(folder, before):
        yield from iterate_rows(part)


def iterate_readable_parts(folder: Place, before: int | None = None) -> Iterator[pa.Table]:
    """Iterate over the parts that can be read.

    Args:
        folder: Folder of the parts.
        before: Sequence number at which to stop; None for all parts.

    Yields:
        The events of each part, see `read_part`.
    """
    for part in list_parts(folder):
        if before is not None and part.first >= before:
            break
        with suppress(InputError, FileNotFoundError):
            yield read_part(folder / part.name)


def read_newest_study(folder: Place) -> str | None:
    """Read the newest content of `study.json` in the parts that can be read.

    Args:
        folder: Folder of the parts.

    Returns:
        The content as JSON; None if no readable part has any.
    """
    newest = None
    for part in iterate_readable_parts(folder):
        column = part["study"]
        if column.null_count < len(column):
            newest = [content for content in column.to_pylist() if content is not None][-1]
    return newest


def list_whole_parts(folder: Place) -> list[Part]:
    """List the parts to read, which follow each other without a gap.

    A folder that is listed during a merge may seem to have a gap, so it is listed again.

    Args:
        folder: Folder of the parts.

    Returns:
        The parts, in order.

    Raises:
        InputError: A part is missing; the message names the first one.
    """
    for _ in range(3):
        parts = list_parts(folder)
        starts = [0, *(part.last + 1 for part in parts)]
        missing = next((a for a, part in zip(starts, parts, strict=False) if a != part.first), None)
        if missing is None:
            return parts
    raise InputError(f"{folder}: part {missing:08d} of the ledger is missing")


def list_parts(folder: Place) -> list[Part]:
    """List the parts that no wider part covers.

    Args:
        folder: Folder of the parts.

    Returns:
        The parts, in order. There may be gaps between them.
    """
    return select_widest(list_all_parts(folder))


def list_all_parts(folder: Place) -> list[Part]:
    """List all parts, in any order, also those that a wider part covers.

    Args:
        folder: Folder of the parts.
    """
    names = [match for path in folder.iterdir() if (match := _NAME.fullmatch(path.name))]
    return [Part(int(m[1]), int(m[2]), m[0]) for m in names]


def select_widest(parts: Iterable[Part]) -> list[Part]:
    """Select the parts that no wider part covers.

    Args:
        parts: All parts.

    Returns:
        The selected parts, in order. There may be gaps between them.
    """
    kept: list[Part] = []
    for part in sorted(parts, key=lambda part: (part.first, -part.last, part.name)):
        if not kept or part.first > kept[-1].last:
            kept.append(part)
    return kept


def encode_lines(events: Iterable[Event]) -> bytes:
    """Encode events as JSON lines, without the columns that are null.

    Three events take 0.05 ms. The same as Parquet take 0.9 ms.
    """
    filled = [
        {name: value for name, value in event.items() if value is not None} for event in events
    ]
    lines = [json.dumps(event, default=encode_value, ensure_ascii=False) for event in filled]
    return "".join(f"{line}\n" for line in lines).encode()


def encode_value(value: Any) -> Any:
    """Return a time as text, and a number of NumPy as Python's; JSON knows neither.

    Args:
        value: A value of an event.
    """
    return value.isoformat() if isinstance(value, datetime) else value.item()


def decode_lines(content: bytes) -> pa.Table:
    """Decode what `encode_lines` returned.

    Args:
        content: The JSON lines.

    Returns:
        One row per event.

    Raises:
        ValueError: It is damaged.
    """
    lines = content.decode().split("\n")[:-1]  # Not `splitlines`: a text may hold a U+2028.
    events = [json.loads(line) for line in lines]
    for event in events:
        if "at" in event:  # A repaired ledger may not know the time.
            event["at"] = datetime.fromisoformat(event["at"])
    return make_table(events)


def encode_events(events: Iterable[Event]) -> bytes:
    """Encode events as Parquet, the content of a wide part."""
    return encode_part(make_table(events))


def make_table(events: Iterable[Event]) -> pa.Table:
    """Make a table of events; `Table.from_pylist` takes 0.35 ms for two of them, this 0.15 ms."""
    rows = pa.array(list(events), pa.struct(SCHEMA))
    return pa.Table.from_batches([pa.RecordBatch.from_struct_array(rows)])


def encode_part(table: pa.Table) -> bytes:
    """Encode a table of events as the content of a part.

    Columns that are null throughout are left out: `read_part` adds them. Statistics, and
    dictionaries for a few rows, save nothing. One event takes 0.4 instead of 1.1 ms so. Writing to
    a stream of Arrow instead of a `BytesIO` saves 0.06 ms of 0.5 ms.
    """
    used = [n for n in table.column_names if n in REQUIRED or table[n].null_count < len(table)]
    stream = pa.BufferOutputStream()
    pq.write_table(
        table.select(used),
        stream,
        write_page_checksum=True,
        write_statistics=False,
        use_dictionary=len(table) >= FAN,
        store_schema=False,
    )
    content: bytes = stream.getvalue().to_pybytes()
    return content


def read_part(path: Place) -> pa.Table:
    """Read one part of a ledger.

    Args:
        path: File of the part.

    Returns:
        One row per event. Columns that an older version did not write are null.

    Raises:
        InputError: The part is damaged; the message names it.
        FileNotFoundError: The part is gone.
    """
    name = _NAME.fullmatch(path.name)
    try:
        content = path.read_bytes()
        if name and name[3] and name[3] != checksum(content):
            raise ValueError("its content does not match the checksum in its name")
        if name and name[4] == "jsonl":
            return decode_lines(content)
        return decode_small_part(content) if len(content) <= SMALL_BYTES else decode_part(content)
    except FileNotFoundError:
        raise
    except (pa.ArrowException, OSError, ValueError, KeyError, TypeError, OverflowError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise InputError(f"{path}: this part of the ledger is damaged: {reason}") from None


def decode_part(content: bytes) -> pa.Table:
    """Decode the content of a part.

    Args:
        content: What `encode_part` returned, now or in an older version.

    Returns:
        One row per event. Columns that an older version did not write are null.

    Raises:
        pa.ArrowException: It is damaged.
        KeyError: It has another table's columns.
    """
    table = pq.read_table(pa.BufferReader(content), page_checksum_verification=True)
    table.select(REQUIRED)
    return pa.table(
        {
            name: table[name].cast(kind)
            if name in table.column_names
            else pa.nulls(len(table), kind)
            for name, kind in zip(SCHEMA.names, SCHEMA.types, strict=True)
        }
    )


decode_small_part = functools.lru_cache(maxsize=512)(decode_part)
"""The same for at most `SMALL_BYTES`. A study that is resumed reads its ledger five times, and most
parts are small. Decoding one of 16 kB takes 3.8 ms of CPU, finding it here 0.015 ms
(analysis/FINDINGS.md). The file itself is read each time, so that damage is noticed."""
