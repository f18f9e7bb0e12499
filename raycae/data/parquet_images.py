"""Read Parquet files with a column of encoded images."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate, pairwise
from pathlib import Path
from typing import Any

import numpy as np

from raycae.data.decoding import (
    LFS_POINTER,
    DamagedImageError,
    decode,
    identify_files,
    require_undamaged,
    run_in_threads,
)
from raycae.data.sources import Source
from raycae.data.summary import Remark
from raycae.data.types import Indices, Origin, PixelTarget
from raycae.errors import InputError

PREFERRED = ("image", "img")
"""Names of columns that are preferred to other image columns."""

PLAIN_NAMES = (*PREFERRED, "bytes", "jpg", "jpeg", "png")
"""Names by which a plain binary column is a candidate; a struct with ``bytes`` always is."""


@dataclass(frozen=True)
class Footer:
    """The footer of a Parquet file.

    Attributes:
        n_rows: Number of rows.
        columns: Names of all columns.
        binary: Columns that can hold encoded images: a struct with binary ``bytes``, as Hugging
            Face writes them, or plain binary.
        candidates: Those of them that are taken for images without being named by the user.
    """

    n_rows: int
    columns: tuple[str, ...]
    binary: tuple[str, ...]
    candidates: tuple[str, ...]


def read_footer(file: Path) -> Footer:
    """Read the footer of a Parquet file, and none of its rows.

    Args:
        file: The Parquet file.

    Returns:
        Its footer.

    Raises:
        InputError: It is not a complete Parquet file; the message names it.
    """
    parquet = _open_parquet_file(file)
    schema = parquet.schema_arrow
    structs = [field.name for field in schema if _holds_bytes(field.type)]
    plain = [field.name for field in schema if _is_binary(field.type)]
    binary = tuple(name for name in schema.names if name in (*structs, *plain))
    candidates = tuple(name for name in binary if name in structs or name in PLAIN_NAMES)
    return Footer(parquet.metadata.num_rows, tuple(schema.names), binary, candidates)


def choose_column(source: Source, footers: Mapping[Path, Footer]) -> str:
    """Choose the column that holds the images of all files.

    It is the column of ``?column=NAME`` if given, else ``image`` or ``img``, else the only
    candidate.

    Args:
        source: The source; its suffix may name a column.
        footers: The footer of every file that is read, by its path relative to the source.

    Returns:
        The name of the column.

    Raises:
        InputError: There is no candidate, several are equally good, or a file lacks the column.
    """
    found = dict.fromkeys(name for footer in footers.values() for name in footer.candidates)
    preferred = [name for name in PREFERRED if name in found]
    best = [source.column] if source.column else preferred or list(found)
    if len(best) > 1:
        ways = " or ".join(repr(source.with_suffix(column=name)) for name in best)
        raise InputError(
            f"source {source.text!r}: the columns {', '.join(best)} all hold images. Choose one: "
            f"{ways}"
        )
    for path, footer in footers.items():
        if not best or best[0] not in footer.binary:
            wanted = f"image column {best[0]!r}" if best else "image column"
            raise InputError(
                f"Parquet file {source.folder}/{path.as_posix()}: has no {wanted}. This would be a "
                "struct with a binary field 'bytes', or a binary column called "
                f"{', '.join(PLAIN_NAMES[:-1])} or {PLAIN_NAMES[-1]}. The file has the columns "
                f"{', '.join(footer.columns) or 'none'}. To read another binary column, add "
                "?column=NAME to the source"
            )
    return best[0]


def require_whole_shards(folder: Path, files: Sequence[Path]) -> None:
    """Raise `InputError` unless every set of shards is complete.

    Files whose names end with ``-00000-of-00002`` are shards of one set if the folder and the name
    before that are the same; a hash may follow.

    Args:
        folder: The source folder.
        files: Paths of the Parquet files, relative to it.

    Raises:
        InputError: A shard is missing or there twice, or two sets are mixed.
    """
    sets: dict[tuple[Path, str], dict[Path, tuple[int, int]]] = {}
    for file in files:
        if shard := re.fullmatch(r"(.*?)[-_]?(\d+)[-_]of[-_](\d+)(?:[-_.].*)?", file.stem):
            key = file.parent, shard[1]
            sets.setdefault(key, {})[file] = int(shard[2]), int(shard[3])
    for (parent, prefix), shards in sets.items():
        name = f"{folder / parent / (prefix or 'the shards')}"
        totals = sorted({total for _, total in shards.values()})
        if len(totals) > 1:
            first = [min(f.name for f in shards if shards[f][1] == total) for total in totals]
            raise InputError(
                f"Parquet files {name}: shards of sets with {' and '.join(map(str, totals))} parts "
                f"are mixed, such as {' and '.join(first[:2])}. Remove the older set"
            )
        total, numbers = totals[0], sorted(number for number, _ in shards.values())
        if repeated := [number for number, following in pairwise(numbers) if number == following]:
            names = sorted(f.name for f in shards if shards[f][0] == repeated[0])
            raise InputError(
                f"Parquet files {name}: shard {repeated[0]} of {total} appears more than once, as "
                f"{' and '.join(names)}. Remove the files of the set that is out of date"
            )
        present = set(numbers)
        if present != set(range(total)):
            missing = total - len(present & set(range(total)))
            first_missing = (number for number in range(total) if number not in present)
            shown = ", ".join(
                f"{number:05}" for number, _ in zip(first_missing, "123", strict=False)
            )
            raise InputError(
                f"Parquet files {name}: {missing} of {total} shards are missing: {shown}"
                f"{', …' if missing > 3 else ''} of {total:05}. Complete the download"
                if missing
                else f"Parquet files {name}: shard {max(present):05} of {total:05} cannot exist; "
                "shards are counted from 00000"
            )


def require_bytes(file: Path, column: str) -> None:
    """Raise `InputError` if a row has no image; read only what the statistics do not rule out.

    Args:
        file: The Parquet file.
        column: The column with the encoded images.

    Raises:
        InputError: A row holds no bytes; the message names it.
    """
    import pyarrow.compute as pc

    parquet = _open_parquet_file(file)
    start = 0
    with _report_read_errors(file):
        for group in range(parquet.metadata.num_row_groups):
            metadata = parquet.metadata.row_group(group)
            if _may_have_nulls(metadata, column):
                nulls = pc.is_null(_read_blobs(parquet, file, group, column))
                if (row := pc.index(nulls, True).as_py()) >= 0:
                    raise InputError(
                        f"image {file}, row {start + row} (the first row is 0): the row holds no "
                        f"bytes in column {column!r}. Remove the row, or write the bytes of the "
                        "image into it"
                    )
            start += metadata.num_rows


def _may_have_nulls(row_group: Any, column: str) -> bool:
    """Return whether the statistics of a row group allow rows without bytes."""
    chunks = (row_group.column(index) for index in range(row_group.num_columns))
    known = [
        chunk.statistics for chunk in chunks if chunk.path_in_schema in (column, f"{column}.bytes")
    ]
    return any(stats is None or not stats.has_null_count or stats.null_count for stats in known)


class ParquetRows:
    """Rows of Parquet files as an `ImagePool`, in the order of files and rows."""

    def __init__(self, folder: Path, files: Sequence[Path], column: str) -> None:
        """Keep the files; decode no row.

        Args:
            folder: The source folder.
            files: Paths relative to it.
            column: The column with the encoded images.
        """
        self._folder, self._files, self._column = folder, files, column
        self.remarks: list[Remark] = []

    @cached_property
    def _ends(self) -> list[int]:
        """The number of rows up to the end of each file."""
        counts = (_open_parquet_file(self._folder / file).metadata.num_rows for file in self._files)
        return list(accumulate(counts))

    def __len__(self) -> int:
        return self._ends[-1]

    def names(self) -> list[str]:
        """Return ``FILE.parquet#ROW`` for every image, the first row being 0."""
        return [
            f"{file.as_posix()}#{row}"
            for file, (start, end) in zip(self._files, pairwise([0, *self._ends]), strict=True)
            for row in range(end - start)
        ]

    def decode_into(self, out: PixelTarget, slots: Indices, indices: Indices) -> None:
        """Decode images, see `ImagePool`."""
        problems: list[tuple[str, str]] = []
        for file, jobs, rows in self._find_rows(indices):
            problems += self._decode_rows(file, rows, out, slots[jobs])
        require_undamaged(problems)

    def identify(self, indices: Indices) -> Origin:
        """Describe what decides on the pixels of images, see `ImagePool`."""
        found = list(self._find_rows(indices))
        places = np.empty((len(indices), 2), "<i8")  # file and row of every image
        for number, (_, jobs, rows) in enumerate(found):
            places[jobs, 0], places[jobs, 1] = number, rows
        origin = identify_files(self._folder, [file for file, _, _ in found])
        digest = hashlib.blake2b(origin.digest, digest_size=16)
        digest.update(self._column.encode("utf-8", "surrogatepass") + b"\0")
        digest.update(places.tobytes())
        return origin._replace(digest=digest.digest())

    def _find_rows(self, indices: Indices) -> Iterator[tuple[Path, Indices, Indices]]:
        """Yield each file that holds some of the images, where these are in ``indices``, and their
        rows in the file."""
        for file, (start, end) in zip(self._files, pairwise([0, *self._ends]), strict=True):
            jobs = np.flatnonzero((indices >= start) & (indices < end))
            if len(jobs):
                yield file, jobs, indices[jobs] - start

    def labels(self) -> Indices | None:
        """Return the column ``label``, int64 (N,), or None if a file has none."""
        columns = [_read_labels(self._folder / file) for file in self._files]
        known = [column for column in columns if column is not None]
        return np.concatenate(known) if len(known) == len(columns) else None

    def _decode_rows(
        self, file: Path, rows: Indices, out: PixelTarget, slots: Indices
    ) -> list[tuple[str, str]]:
        """Decode ``rows`` of ``file`` into ``slots`` of ``out``, one row group at a time.

        Returns:
            The name of each image that cannot be decoded, and the message about it.
        """
        path = self._folder / file
        problems: dict[int, tuple[str, str]] = {}
        for group_rows, blobs, among in _read_rows(path, self._column, rows):

            def fill(
                job: int,
                rows: Indices = group_rows,
                blobs: list[Any] = blobs,
                among: Indices = among,
            ) -> None:
                name = f"{path}, row {rows[job]} (the first row is 0)"
                if blobs[job] is None:
                    raise InputError(f"image {name}: the row holds no bytes")
                try:
                    pixels, reasons = decode(blobs[job], name, out.shape[1])
                except DamagedImageError as error:
                    problems[rows[job]] = name, str(error)
                    return
                out[slots[among[job]]] = pixels
                self.remarks += [(reason, f"{file.as_posix()}#{rows[job]}") for reason in reasons]

            run_in_threads(fill, len(blobs))
        return [problems[row] for row in sorted(problems)]


def _read_rows(
    file: Path, column: str, rows: Indices
) -> Iterator[tuple[Indices, list[Any], Indices]]:
    """Yield per row group the chosen rows, their bytes and their positions in ``rows``."""
    import pyarrow as pa

    if len(rows) == 0:
        return
    parquet = _open_parquet_file(file)
    start = 0
    for group in range(parquet.num_row_groups):
        end = start + parquet.metadata.row_group(group).num_rows
        among = np.flatnonzero((rows >= start) & (rows < end))
        if len(among):
            with _report_read_errors(file):
                blobs = _read_blobs(parquet, file, group, column)
                chosen = blobs.take(pa.array(rows[among] - start)).to_pylist()
            yield rows[among], chosen, among
        start = end


def _read_blobs(parquet: Any, file: Path, group: int, column: str) -> Any:
    """Read the encoded images of a row group: an Arrow array of binary values."""
    import pyarrow.compute as pc

    with _report_read_errors(file):
        is_struct = _holds_bytes(parquet.schema_arrow.field(column).type)
        name = f"{column}.bytes" if is_struct else column
        values = parquet.read_row_group(group, columns=[name]).column(column)
        return pc.struct_field(values, "bytes") if is_struct else values


def _open_parquet_file(file: Path) -> Any:
    """Open a Parquet file: read its footer and none of its rows."""
    import pyarrow.parquet as pq

    with _report_read_errors(file):
        if not file.is_file():
            raise InputError(f"Parquet file {file}: is not a regular file")  # A pipe would block.
        with file.open("rb") as content:
            if content.read(len(LFS_POINTER)) == LFS_POINTER:
                raise InputError(
                    f"Parquet file {file}: is a Git LFS pointer, not the data; run git lfs pull"
                )
        parquet = pq.ParquetFile(file, page_checksum_verification=True)
        n_rows, n_bytes = parquet.metadata.num_rows, file.stat().st_size
        if n_rows > n_bytes:
            raise InputError(f"Parquet file {file}: damaged: {n_rows:,} rows in {n_bytes:,} bytes")
        return parquet


def _holds_bytes(kind: Any) -> bool:
    """Return whether an Arrow type is a struct with binary ``bytes``."""
    import pyarrow as pa

    return pa.types.is_struct(kind) and any(
        part.name == "bytes" and _is_binary(part.type) for part in kind.fields
    )


def _is_binary(kind: Any) -> bool:
    """Return whether an Arrow type is plain binary."""
    import pyarrow as pa

    return bool(pa.types.is_binary(kind) or pa.types.is_large_binary(kind))


def _read_labels(file: Path) -> Indices | None:
    """Return the integers in the column ``label`` of a file, -1 for a missing value."""
    import pyarrow as pa
    import pyarrow.compute as pc

    parquet = _open_parquet_file(file)
    schema = parquet.schema_arrow
    index = schema.get_field_index("label")
    if index < 0 or not pa.types.is_integer(schema.field(index).type):
        return None
    with _report_read_errors(file):
        column = parquet.read(columns=["label"]).column("label").cast(pa.int64())
    labels: Indices = pc.fill_null(column, -1).to_numpy()
    return labels


@contextmanager
def _report_read_errors(file: Path) -> Iterator[None]:
    """Turn exceptions on reading a file into an `InputError` that names it."""
    import pyarrow as pa

    try:
        yield
    except (pa.ArrowException, OSError, LookupError, ValueError) as error:
        raise InputError(f"Parquet file {file}: cannot be read: {error}") from error
