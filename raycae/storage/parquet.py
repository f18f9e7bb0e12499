"""Read and write Parquet tables.

A table may be damaged or come from elsewhere. A table that is read has the requested columns and
types; any other file is refused with one message.
"""

from __future__ import annotations

import io
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from raycae.errors import InputError
from raycae.storage.files import write_atomic
from raycae.storage.paths import Place

if TYPE_CHECKING:
    import pandas as pd

PARAMETER = re.compile(r"params_\w+")
"""Names of optional columns, which hold numbers, words or booleans."""
MOST_ROWS = 20
"""Maximum number of rows per byte of a file.

Equal values compress well: two rows per byte occur in synthetic studies. A hostile file claims
more rows than fit into memory.
"""
MOST_UNPACKED = 1000
"""Maximum ratio of the length of all texts to the size of their file.

A long repeated text compresses to a few bytes, so a hostile file could fill the memory.
"""
_KINDS = (
    (pa.types.is_boolean, pa.bool_()),
    (pa.types.is_integer, pa.int64()),
    (pa.types.is_floating, pa.float64()),
    (pa.types.is_string, pa.string()),
    (pa.types.is_large_string, pa.string()),
    (pa.types.is_timestamp, pa.timestamp("us", tz="UTC")),
)
_NUMBERS = (pa.int64(), pa.float64())
_PARAMETER_KINDS = (pa.bool_(), pa.int64(), pa.float64(), pa.string())


def read_frame(
    path: Place,
    columns: Mapping[str, pa.DataType],
    *,
    filled: Sequence[str] = (),
    key: Sequence[str] = (),
    later: Sequence[str] = (),
) -> pd.DataFrame:
    """Read and check a table like `read_table`, as a data frame.

    Args:
        path: The Parquet file.
        columns: As in `read_table`.
        filled: As in `read_table`.
        key: As in `read_table`.
        later: As in `read_table`.

    Returns:
        The table with nullable pandas types.

    Raises:
        InputError: The file is missing or not such a table; the message names file and column.
    """
    return to_frame(path, read_table(path, columns, filled=filled, key=key, later=later))


def to_frame(path: Place, table: pa.Table) -> pd.DataFrame:
    """Convert a table to a data frame.

    Args:
        path: The path that messages name.
        table: The table.

    Returns:
        The table with nullable pandas types.

    Raises:
        InputError: Pandas cannot hold a value.
    """
    import pandas as pd  # Importing it takes 0.5 s of CPU, which `raycae show` does without.

    nullable = {
        pa.bool_(): pd.BooleanDtype(),
        pa.int64(): pd.Int64Dtype(),
        pa.float64(): pd.Float64Dtype(),
        pa.string(): pd.StringDtype(),
    }
    try:
        frame: pd.DataFrame = table.to_pandas(types_mapper=nullable.get, ignore_metadata=True)
    except (ValueError, pa.ArrowException) as error:
        raise InputError(f"{path}: cannot be read as Parquet: {error}") from None
    return frame


def read_table(
    path: Place,
    columns: Mapping[str, pa.DataType],
    *,
    filled: Sequence[str] = (),
    key: Sequence[str] = (),
    later: Sequence[str] = (),
) -> pa.Table:
    """Read a table and check its columns, types and keys.

    Args:
        path: The Parquet file.
        columns: Arrow types of the required columns. Other columns are ignored, except those that
            match `PARAMETER`.
        filled: Columns without missing values.
        key: Columns whose values together identify a row.
        later: Columns that older versions did not write; they are empty where they are missing.

    Returns:
        The table.

    Raises:
        InputError: The file is missing or not such a table; the message names file and column.
    """
    try:
        if not path.is_file():
            raise InputError(f"{path}: the table does not exist. Has the search started?")
        with open_table(path) as file:
            table = read_columns(path, file, columns, later)
    except (OSError, ValueError, pa.ArrowException) as error:
        raise InputError(f"{path}: cannot be read as Parquet: {error}") from None
    for name in filled:
        if any(map(is_missing, table[name].to_pylist())):
            raise InputError(f"{path}: {name}: a value is missing")
    # Not by `Table.group_by`: PyArrow imports pandas for it.
    keys = Counter(zip(*(table[name].to_pylist() for name in key), strict=True))
    if len(keys) < table.num_rows and key:
        twice = next(values for values, number in keys.items() if number > 1)
        row = ", ".join(f"{name} {value}" for name, value in zip(key, twice, strict=True))
        raise InputError(f"{path}: {row} appears more than once")
    return table


def is_missing(value: object) -> bool:
    """Return whether a value of a table is missing: null or not a number.

    Args:
        value: The value.
    """
    return value is None or value != value


def encode_table(table: pa.Table) -> bytes:
    """Encode a table as a Parquet file with page checksums.

    Args:
        table: The table to encode.

    Returns:
        The content of the Parquet file.
    """
    buffer = io.BytesIO()
    pq.write_table(table, buffer, write_page_checksum=True)
    return buffer.getvalue()


def write_parquet(path: Place, table: pa.Table | pd.DataFrame) -> None:
    """Write a table to a Parquet file, atomically and with page checksums.

    Args:
        path: The file to write or replace.
        table: The table; the index of a data frame is not written.

    Raises:
        StorageError: The storage does not take the file.
    """
    if not isinstance(table, pa.Table):
        table = pa.Table.from_pandas(table, preserve_index=False)
    write_atomic(path, encode_table(table))


def open_table(path: Place) -> BinaryIO:
    """Open a Parquet file for reading; fetch it completely from an object store.

    Args:
        path: The Parquet file.

    Returns:
        The opened file.
    """
    return path.open("rb") if isinstance(path, Path) else io.BytesIO(path.read_bytes())


def read_columns(
    path: Place, file: BinaryIO, columns: Mapping[str, pa.DataType], later: Sequence[str]
) -> pa.Table:
    """Read the required columns of a Parquet file after checking its size.

    Args:
        path: The path that messages name.
        file: The opened file.
        columns: Arrow types of the required columns.
        later: Columns that may be missing.

    Returns:
        The table, cast to the required types.

    Raises:
        InputError: Columns are missing or of another type, or the file claims too many rows.
    """
    size = file.seek(0, io.SEEK_END)
    schema = pq.read_schema(file)
    absent = [name for name in later if name not in schema.names]
    kinds = choose_kinds(path, schema, {k: v for k, v in columns.items() if k not in absent})
    texts = [name for name in kinds if classify_column(schema.field(name).type) == pa.string()]
    # Texts stay dictionary-encoded until their unpacked size is known.
    parquet = pq.ParquetFile(file, read_dictionary=texts, page_checksum_verification=True)
    n_rows = parquet.metadata.num_rows
    if n_rows > MOST_ROWS * size:
        raise InputError(f"{path}: damaged: it claims {n_rows:,} rows in {size:,} bytes")
    table = parquet.read(columns=list(kinds))
    if sum(get_unpacked_length(table[name]) for name in texts) > MOST_UNPACKED * size:
        raise InputError(
            f"{path}: damaged: its unpacked text would be more than {MOST_UNPACKED:,} times the "
            "file size"
        )
    table = table.select(list(kinds)).cast(pa.schema(list(kinds.items())))
    table.validate(full=True)  # Texts that are not UTF-8, for example.
    for name in absent:
        table = table.append_column(name, pa.nulls(n_rows, columns[name]))
    return table


def choose_kinds(
    path: Place, schema: pa.Schema, columns: Mapping[str, pa.DataType]
) -> dict[str, pa.DataType]:
    """Choose the columns to read and their types.

    Args:
        path: The path that messages name.
        schema: The schema of the file.
        columns: Arrow types of the required columns.

    Returns:
        The type of each column to read, by name.

    Raises:
        InputError: A column is missing, of a wrong type or there twice.
    """
    if missing := [name for name in columns if name not in schema.names]:
        raise InputError(f"{path}: this is not a table of raycae; it lacks {', '.join(missing)}")
    kinds: dict[str, pa.DataType] = {}
    for field in schema:
        if field.name not in columns and not PARAMETER.fullmatch(field.name):
            continue
        found = classify_column(field.type)
        wanted = columns.get(field.name, found if found in _PARAMETER_KINDS else None)
        fits = found == wanted or (found in _NUMBERS and wanted in _NUMBERS)
        if wanted is None or not (fits or pa.types.is_null(field.type)):
            raise InputError(
                f"{path}: {field.name}: {field.type} is not allowed; it must be "
                f"{wanted or 'a number, a word, true or false'}"
            )
        if field.name in kinds:
            raise InputError(f"{path}: the column {field.name} appears twice")
        kinds[field.name] = wanted
    return kinds


def classify_column(found: pa.DataType) -> pa.DataType | None:
    """Return the type that a column is read as, whatever encoding another program chose.

    Args:
        found: The type of the column in the file.

    Returns:
        The common Arrow type, or None for a type that is not read.
    """
    if pa.types.is_dictionary(found):
        found = found.value_type
    return next((kind for holds, kind in _KINDS if holds(found)), None)


def get_unpacked_length(texts: pa.ChunkedArray) -> int:
    """Compute the total length of a dictionary-encoded text column.

    Args:
        texts: The encoded column.

    Returns:
        The length of all texts in bytes.
    """
    lengths = (pc.binary_length(c.dictionary).take(c.indices) for c in texts.chunks)
    return sum(pc.sum(part).as_py() or 0 for part in lengths)
