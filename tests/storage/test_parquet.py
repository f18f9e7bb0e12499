"""Tables that are read: what is damaged in them is named, whatever it is."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from raycae.errors import InputError
from raycae.storage.parquet import read_table


def test_text_that_is_not_utf_8_is_refused(tmp_path: Path) -> None:
    """Oracle: Arrow's own check of a column that claims to be text; the message names the file."""
    path = tmp_path / "trials.parquet"
    damaged = pa.array([b"COMPLETE", b"\xff\xfe"], pa.binary()).view(pa.string())
    pq.write_table(pa.table({"state": damaged}), path)
    with pytest.raises(InputError, match=r"trials\.parquet: cannot be read as Parquet: .*UTF8"):
        read_table(path, {"state": pa.string()})
