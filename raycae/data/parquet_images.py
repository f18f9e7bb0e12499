"""Read Parquet files in the Hugging Face image layout."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property
from itertools import accumulate, pairwise
from pathlib import Path
from typing import Any

import numpy as np

from raycae.data.decoding import blank_images, decode, run_in_threads
from raycae.data.splits import SPLIT_NAMES
from raycae.data.types import Indices, Pixels, Pools
from raycae.errors import InputError


def open_parquet(folder: Path, files: list[Path]) -> Pools:
    parts: dict[str, list[Path]] = {"train": [], "validation": [], "test": []}
    for file in files:
        if named := re.match(r"([a-z]+)[-._]", file.name.lower()):
            parts.get(SPLIT_NAMES.get(named[1], ""), []).append(file)
    if not parts["train"]:
        raise InputError(
            f"folder {folder}: holds Parquet files, such as {files[0].name}, but none of them is "
            "named train-*.parquet (beside it, validation-*.parquet and test-*.parquet are read)"
        )
    _image_column(parts["train"][0])  # a wrong layout shows here, before anything is decoded
    return Pools(
        ParquetRows(folder, parts["train"]),
        ParquetRows(folder, parts["validation"]) if parts["validation"] else None,
        ParquetRows(folder, parts["test"]) if parts["test"] else None,
    )


class ParquetRows:
    """One image a row, in the order of the files and of the rows in them."""

    def __init__(self, folder: Path, files: list[Path]) -> None:
        self._folder, self._files = folder, files

    @cached_property
    def _ends(self) -> list[int]:
        """How many rows there are up to the end of each file."""
        return list(accumulate(_parquet(file).metadata.num_rows for file in self._files))

    def __len__(self) -> int:
        return self._ends[-1]

    def names(self) -> list[str]:
        counts = (end - start for start, end in pairwise([0, *self._ends]))
        return [
            f"{file.relative_to(self._folder).as_posix()}#{row}"
            for file, n_rows in zip(self._files, counts, strict=True)
            for row in range(n_rows)
        ]

    def take(self, indices: Indices, size: int) -> Pixels:
        out = blank_images(len(indices), size)
        bounds = pairwise([0, *self._ends])
        for file, (start, end) in zip(self._files, bounds, strict=True):
            slots = np.flatnonzero((indices >= start) & (indices < end))
            _decode_rows(file, indices[slots] - start, out, slots)
        return out

    def labels(self) -> Indices | None:
        columns = [_label_column(file) for file in self._files]
        known = [column for column in columns if column is not None]
        return np.concatenate(known) if len(known) == len(columns) else None


def _decode_rows(file: Path, rows: Indices, out: Pixels, slots: Indices) -> None:
    """Decode ``rows`` of ``file`` into ``slots`` of ``out``, one row group in memory at a time."""
    for group_rows, blobs, among in _read_rows(file, rows):

        def fill(
            job: int, rows: Indices = group_rows, blobs: list[Any] = blobs, among: Indices = among
        ) -> None:
            name = f"{file}, row {rows[job]} (the first row is 0)"
            if blobs[job] is None:
                raise InputError(f"image {name}: the row holds no bytes")
            out[slots[among[job]]] = decode(blobs[job], name, out.shape[1])

        run_in_threads(fill, len(blobs))


def _read_rows(file: Path, rows: Indices) -> Iterator[tuple[Indices, list[Any], Indices]]:
    """Per row group: the rows chosen in it, their bytes, and where in ``rows`` they stand."""
    import pyarrow as pa
    import pyarrow.compute as pc

    if len(rows) == 0:
        return
    column = _image_column(file)
    parquet = _parquet(file)
    start = 0
    for group in range(parquet.num_row_groups):
        end = start + parquet.metadata.row_group(group).num_rows
        among = np.flatnonzero((rows >= start) & (rows < end))
        if len(among):
            with _readable(file):
                table = parquet.read_row_group(group, columns=[f"{column}.bytes"])
                chosen = table.column(column).take(pa.array(rows[among] - start))
                blobs = pc.struct_field(chosen, "bytes").to_pylist()
            yield rows[among], blobs, among
        start = end


def _parquet(file: Path) -> Any:
    """The opened ``pyarrow.parquet.ParquetFile``: its footer is read, its rows are not."""
    import pyarrow.parquet as pq

    with _readable(file):
        if not file.is_file():
            raise InputError(f"Parquet file {file}: is no file")  # a pipe would be waited for
        parquet = pq.ParquetFile(file, page_checksum_verification=True)
        n_rows, n_bytes = parquet.metadata.num_rows, file.stat().st_size
        if n_rows > n_bytes:
            raise InputError(f"Parquet file {file}: damaged: {n_rows:,} rows in {n_bytes:,} bytes")
        return parquet


def _image_column(file: Path) -> str:
    """The first column of the Hugging Face image type: a struct with binary ``bytes``."""
    import pyarrow as pa

    schema = _parquet(file).schema_arrow
    for field in schema:
        if pa.types.is_struct(field.type):
            inner = {part.name: part.type for part in field.type.fields}
            kind = inner.get("bytes", pa.null())
            if pa.types.is_binary(kind) or pa.types.is_large_binary(kind):
                return str(field.name)
    raise InputError(
        f"Parquet file {file}: has no image column, a struct with binary 'bytes'; "
        f"its columns are {', '.join(schema.names) or 'none'}"
    )


def _label_column(file: Path) -> Indices | None:
    """The column ``label``, if it is one of whole numbers; -1 where a row has none."""
    import pyarrow as pa
    import pyarrow.compute as pc

    parquet = _parquet(file)
    schema = parquet.schema_arrow
    at = schema.get_field_index("label")
    if at < 0 or not pa.types.is_integer(schema.field(at).type):
        return None
    with _readable(file):
        column = parquet.read(columns=["label"]).column("label").cast(pa.int64())
    labels: Indices = pc.fill_null(column, -1).to_numpy()
    return labels


@contextmanager
def _readable(file: Path) -> Iterator[None]:
    import pyarrow as pa

    try:
        yield
    except (pa.ArrowException, OSError, LookupError, ValueError) as error:
        raise InputError(f"Parquet file {file}: cannot be read: {error}") from error
