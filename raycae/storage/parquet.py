"""Parquet tables, checked at the door: they may be damaged, or come from elsewhere. A table that is
read has the columns and types that were asked for; a file that holds no such table is refused with
one message. Knows nothing of what is in them."""

from __future__ import annotations

import io
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import BinaryIO

import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from raycae.errors import InputError
from raycae.storage.paths import Place

PARAMETER = re.compile(r"params_\w+")
"""Columns of this name may be there besides, with numbers, words, or true and false."""
MOST_ROWS = 20
"""For every byte of a file. Equal values are packed well: two rows a byte are known of made-up
studies; a hostile file says it has more than any memory holds."""
MOST_UNPACKED = 1000
"""Texts are at most so many times as large as their file. A long one is packed into a few bytes,
however often it stands there, and a hostile file would fill the memory with its copies."""
_KINDS = (
    (pa.types.is_boolean, pa.bool_()),
    (pa.types.is_integer, pa.int64()),
    (pa.types.is_floating, pa.float64()),
    (pa.types.is_string, pa.string()),
    (pa.types.is_large_string, pa.string()),
    (pa.types.is_timestamp, pa.timestamp("us", tz="UTC")),
)
_NUMBERS = (pa.int64(), pa.float64())
_NULLABLE = {
    pa.bool_(): pd.BooleanDtype(),
    pa.int64(): pd.Int64Dtype(),
    pa.float64(): pd.Float64Dtype(),
    pa.string(): pd.StringDtype(),
}


def read_table(
    path: Place,
    columns: Mapping[str, pa.DataType],
    *,
    filled: Sequence[str] = (),
    key: Sequence[str] = (),
    later: Sequence[str] = (),
) -> pd.DataFrame:
    """The table in `path`, with nullable types. `filled`: columns without a gap; `key`: columns by
    which no two rows are the same; `later`: columns that older versions did not write, empty where
    they are missing. What else the file holds is passed over.

    Raises `InputError` naming the file, the column and what is wrong.
    """
    try:
        if not path.is_file():
            raise InputError(f"{path}: there is no such table; has the search begun?")
        with open_table(path) as file:
            table = read_columns(path, file, columns, later)
            frame: pd.DataFrame = table.to_pandas(types_mapper=_NULLABLE.get, ignore_metadata=True)
    except (OSError, ValueError, pa.ArrowException) as error:
        raise InputError(f"{path}: cannot be read as Parquet: {error}") from None
    for name in filled:
        if frame[name].isna().any():
            raise InputError(f"{path}: {name}: a row has none")
    if key and (twice := frame[frame.duplicated(key)]).size:
        row = ", ".join(f"{name} {twice[name].iloc[0]}" for name in key)
        raise InputError(f"{path}: {row} stands there twice")
    return frame


def open_table(path: Place) -> BinaryIO:
    """To be read; a file of an object store is fetched whole."""
    return path.open("rb") if isinstance(path, Path) else io.BytesIO(path.read_bytes())


def read_columns(
    path: Place, file: BinaryIO, columns: Mapping[str, pa.DataType], later: Sequence[str]
) -> pa.Table:
    size = file.seek(0, io.SEEK_END)
    schema = pq.read_schema(file)
    absent = [name for name in later if name not in schema.names]
    kinds = choose_kinds(path, schema, {k: v for k, v in columns.items() if k not in absent})
    texts = [name for name in kinds if classify_column(schema.field(name).type) == pa.string()]
    # As they are packed; unpacked once it is known how large they get.
    parquet = pq.ParquetFile(file, read_dictionary=texts, page_checksum_verification=True)
    n_rows = parquet.metadata.num_rows
    if n_rows > MOST_ROWS * size:
        raise InputError(f"{path}: damaged: it says that it has {n_rows:,} rows in {size:,} bytes")
    table = parquet.read(columns=list(kinds))
    if sum(get_unpacked_length(table[name]) for name in texts) > MOST_UNPACKED * size:
        raise InputError(f"{path}: its texts are more than {MOST_UNPACKED:,} times as long as it")
    table = table.select(list(kinds)).cast(pa.schema(list(kinds.items())))
    for name in absent:
        table = table.append_column(name, pa.nulls(n_rows, columns[name]))
    return table


def choose_kinds(
    path: Place, schema: pa.Schema, columns: Mapping[str, pa.DataType]
) -> dict[str, pa.DataType]:
    """The columns to read, and what as."""
    if missing := [name for name in columns if name not in schema.names]:
        raise InputError(f"{path}: this is no table of raycae; it lacks {', '.join(missing)}")
    kinds: dict[str, pa.DataType] = {}
    for field in schema:
        if field.name not in columns and not PARAMETER.fullmatch(field.name):
            continue
        found = classify_column(field.type)
        wanted = columns.get(field.name, found if found in _NULLABLE else None)
        fits = found == wanted or (found in _NUMBERS and wanted in _NUMBERS)
        if wanted is None or not (fits or pa.types.is_null(field.type)):
            raise InputError(
                f"{path}: {field.name}: {field.type} is not allowed; it has to be "
                f"{wanted or 'a number, a word, true or false'}"
            )
        if field.name in kinds:
            raise InputError(f"{path}: the column {field.name} stands there twice")
        kinds[field.name] = wanted
    return kinds


def classify_column(found: pa.DataType) -> pa.DataType | None:
    """What a column holds, however it was packed: other software packs it otherwise."""
    if pa.types.is_dictionary(found):
        found = found.value_type
    return next((kind for holds, kind in _KINDS if holds(found)), None)


def get_unpacked_length(texts: pa.ChunkedArray) -> int:
    """Bytes of a packed column once it is unpacked."""
    lengths = (pc.binary_length(c.dictionary).take(c.indices) for c in texts.chunks)
    return sum(pc.sum(part).as_py() or 0 for part in lengths)
