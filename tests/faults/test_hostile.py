"""Hostile and broken input. Whatever a file holds, it is read and then the values are right, or it
is one `InputError` of one line; nothing in it is executed, and on a terminal and in a page it is
text. Each property is tried on a few examples here and on `LONG` ones with `-m long`."""

from __future__ import annotations

import ast
import copy
import html
import importlib
import io
import itertools
import json
import math
import os
import pickle
import re
import resource
import shutil
import struct
import subprocess
import sys
import zlib
from collections.abc import Callable, Iterator
from contextlib import redirect_stdout, suppress
from datetime import timedelta
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import optuna
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from made_studies import HOSTILE, TRIALS, Page, Trial, made_study, painted
from PIL import Image, ImageSequence

import raycae
from raycae import config, data
from raycae.cli import main, studies
from raycae.config import Config, resolve
from raycae.data import decoding, folders
from raycae.errors import InputError
from raycae.execution import runner
from raycae.execution.search_request import SearchRequest
from raycae.model import weights
from raycae.report import html as report_html
from raycae.report.page import render_report
from raycae.report.report_data import lacks_pictures_or_baselines
from raycae.report.sections import pictures
from raycae.space import loading
from raycae.storage.files import checksum
from raycae.study import find, plan, records, tables
from raycae.training.device import put_on_device
from raycae.training.trainer import Training

T = TypeVar("T")
LONG = 10_000
PACKAGE = Path(raycae.__file__).parent
BASELINES: list[tuple[str, int | None, float]] = [
    ("mean_colour", None, 0.05),
    ("pca", 1024, 0.004),
    ("pca_4x4", 512, 0.008),
]
SEQUENCE = "\x1b]0;owned\x07\x1b[2J\x9b31m"
"""Sets a terminal's title, clears it, makes it red."""


def halves(ordinary: int) -> pytest.MarkDecorator:
    """The same property twice: on `ordinary` examples, and on `LONG` ones with `-m long`."""
    many = pytest.param(LONG, marks=[pytest.mark.long, pytest.mark.timeout(3 * 3600)])
    return pytest.mark.parametrize("n", [ordinary, many])


def hold(n: int, examples: st.SearchStrategy[T], check: Callable[[T], None]) -> None:
    """`check` passes on `n` examples, each within seconds. A few are the same ones on every run;
    many are new ones."""
    seen = 0

    @settings(
        max_examples=n,
        deadline=timedelta(seconds=30),
        derandomize=n < LONG,
        database=None,
        suppress_health_check=list(HealthCheck),
    )
    @given(examples)
    def run(example: T) -> None:
        nonlocal seen
        seen += 1
        check(example)

    run()
    assert seen >= n


def accepted(action: Callable[[], T]) -> T | None:
    """What `action` returns, or None where it is refused as it should be."""
    try:
        return action()
    except InputError as error:
        message = str(error)
        assert message.isprintable(), message
        assert len(message) <= 2500
        return None


# --- what is drawn --------------------------------------------------------------------------------

WORDS = [
    *("", "adam", "sgd", "stage", "max", "lr", "depth", "channels", "momentum", "float", "int"),
    *("categorical", "type", "low", "high", "log", "step", "per", "when", "choices", "min", "2"),
    *("reconstruct", "colourise", "nan", "1e3", "null", "<b>", "a\nb", SEQUENCE, "\u202e", "\0"),
    *("\ud800", "../../x", "__class__", "items", "x" * 3000),
]
NUMBERS = [0, 1, -1, 2, 8, 512, 2**31, 2**63, -(2**64), 10**400, 0.1, 1e-320, 1e308, math.nan]
NUMBERS += [math.inf, -math.inf]
WRITTEN = {
    "@huge@": "9" * 5000,
    "@hex@": "0x" + "f" * 5000,
    "@sexagesimal@": ":".join(["59"] * 3000),
    "@exponent@": "1e999",
    "@date@": "2001-01-01",
    "@deep@": "[" * 900 + "]" * 900,
}
"""What no value can be written out as: put into the text in place of these words."""

leaves = (
    st.none()
    | st.booleans()
    | st.sampled_from(NUMBERS)
    | st.integers(-3, 600)
    | st.floats()
    | st.sampled_from(WORDS)
    | st.sampled_from(list(WRITTEN))
    | st.text(max_size=8)
)
keys = st.sampled_from(WORDS[:28]) | st.text(max_size=8)
junk = st.recursive(
    leaves,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(keys, inner, max_size=3),
    max_leaves=6,
)


def places(tree: Any, at: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The paths of everything in a tree of dicts and lists, but not of the whole."""
    below = tree.items() if isinstance(tree, dict) else enumerate(tree)
    for key, value in below:
        yield (*at, key)
        if isinstance(value, dict | list):
            yield from places(value, (*at, key))


@st.composite
def mutated(draw: st.DrawFn, trees: list[Any]) -> Any:
    """One of `trees` with one to three things in it replaced, dropped, added or renamed."""
    tree = copy.deepcopy(draw(st.sampled_from(trees)))
    for _ in range(draw(st.integers(1, 3))):
        if not (paths := list(places(tree))):
            break
        *to, last = draw(st.sampled_from(paths))
        parent = tree
        for key in to:
            parent = parent[key]
        how = draw(st.sampled_from(["replace", "replace", "drop", "add", "rename"]))
        if how == "replace":
            parent[last] = draw(junk)
        elif how == "drop":
            del parent[last]
        elif isinstance(parent, list):
            parent.insert(last, draw(junk))
        else:
            parent[draw(keys)] = parent.pop(last) if how == "rename" else draw(junk)
    return tree


@st.composite
def damaged(draw: st.DrawFn, contents: list[bytes]) -> bytes:
    """One of `contents` cut short, with bits flipped, bytes overwritten or put in; or other
    bytes."""
    content = bytearray(draw(st.sampled_from(contents)))
    at = draw(st.integers(0, len(content) - 1))
    how = draw(st.sampled_from(["cut", "flip", "flip", "overwrite", "insert", "repeat", "other"]))
    if how == "cut":
        del content[at:]
    elif how == "flip":
        for _ in range(draw(st.integers(1, 4))):
            content[draw(st.integers(0, len(content) - 1))] ^= 1 << draw(st.integers(0, 7))
    elif how == "overwrite":
        new = draw(st.binary(min_size=1, max_size=12))
        content[at : at + len(new)] = new
    elif how == "insert":
        content[at:at] = draw(st.binary(min_size=1, max_size=12))
    elif how == "repeat":
        content[at:at] = content[: draw(st.integers(0, len(content)))]
    else:
        return draw(st.binary(max_size=200))
    return bytes(content)


def written_out(text: str) -> str:
    """`WRITTEN` in place of its words, with whichever quotes they were given."""
    for word, meant in WRITTEN.items():
        text = re.sub(f"""(['"]?){word}\\1""", lambda _, meant=meant: meant, text)
    return text


# --- search-space files ---------------------------------------------------------------------------

SPACES = [loading.load_space(name).text for name in loading.list_space_names()]
SPLICES = [
    *("&a ", "*a", "<<: *a\n", "!!python/object/apply:os.system ['true']", "? ", "- ", "\t", "\0"),
    *("\ufeff", "\u2028", "\x85", "{", "}", "[", "]", ":", "#", "'", '"', "|\n", "%YAML 9.9\n"),
    *("---\n", "...\n", "!!binary ", "!!set ", "!!timestamp ", "!!omap ", "1e999", ".nan", ", "),
]


@st.composite
def torn(draw: st.DrawFn, texts: list[str]) -> str:
    """One of `texts` with pieces of YAML put in, or parts of itself doubled or taken away."""
    text = draw(st.sampled_from(texts))
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, len(text)))
        to = at + draw(st.integers(0, 30))
        text = text[:at] + draw(st.sampled_from([*SPLICES, text[at:to] * 2])) + text[to:]
    return text


space_trees = mutated([yaml.safe_load(text) for text in SPACES])
space_files = space_trees.map(lambda tree: written_out(yaml.safe_dump(tree, sort_keys=False)))
space_texts = space_files | space_files | torn(SPACES) | st.text()


def check_space(text: str) -> None:
    the_space = accepted(lambda: loading.parse_space(text, name="mine"))
    if the_space is None:
        return
    content = yaml.safe_load(text)
    assert the_space.task == content["task"]
    assert list(the_space.points) == list(content.get("points", {}))
    assert len(the_space.hash) == 16
    trial = optuna.create_study(sampler=optuna.samplers.RandomSampler(0)).ask()
    drawn = the_space.draw(trial)
    the_space.check(drawn)
    for column, value in trial.params.items():
        declared = content["params"].get(column) or content["params"][column.rpartition("_")[0]]
        if "choices" in declared:
            assert value in declared["choices"] or json.loads(value) in declared["choices"]
        else:
            assert float(declared["low"]) <= value <= float(declared["high"])


@pytest.mark.filterwarnings("ignore:The distribution is specified by")
@halves(200)
def test_any_text_is_a_space_or_is_refused(n: int) -> None:
    """Oracle: the property. What is accepted has the file's own task and points, and what is drawn
    from it lies in the range or among the choices that PyYAML reads there."""
    hold(n, space_texts, check_space)


@halves(50)
def test_any_file_is_a_space_or_is_refused(n: int, tmp_path: Path) -> None:
    """Oracle: the property, for files of any bytes."""
    path = tmp_path / "mine.yaml"

    def check(content: bytes) -> None:
        path.write_bytes(content)
        accepted(lambda: loading.load_space(str(path)))

    hold(n, damaged([text.encode() for text in SPACES]) | st.binary(), check)


LAUGHS = "a: &a0 [1, 1]\n" + "".join(
    f"b{i}: &a{i + 1} [{', '.join([f'*a{i}'] * 9)}]\n" for i in range(12)
)


@pytest.mark.parametrize(
    ("written", "says"),
    [
        ("fixed: {channels: [1, 2, 3, 4, 5]}", "mine.yaml: fixed.channels: "),
        ("fixed: {depth: @hex@}", "is too large"),
        ("fixed: {depth: @sexagesimal@}", "expected a whole number such as 16, not the text"),
        ("params: {lr: {type: float, low: 0.1, high: 0.2, step: 1.0e-320}}", "params.lr: "),
        ("params: {lr: {type: categorical, choices: [@hex@]}}", "is too large"),
        ("points: {a: !!timestamp }", "'' is not a valid timestamp"),
        ("points: {a: !!bool maybe}", "'maybe' is not a valid bool"),
        ("points: {a: {channels: [8, 8, 8, 8, 8, 8, 8]}}", "points.a.channels: "),
        ("params: {gammas: {type: categorical, choices: [*a13]}}", "expand to more than"),
    ],
)
def test_what_was_no_message_once(written: str, says: str) -> None:
    """Oracle: each of these ended in a traceback, or in all of the memory."""
    laughs = LAUGHS.replace("a12 ", "a13 ") if "*a13" in written else ""
    text = written_out(f"{laughs}task: reconstruct\n{written}")
    with pytest.raises(InputError, match=re.escape(says)):
        loading.parse_space(text, name="mine")


@pytest.mark.parametrize(
    "written",
    [
        "points: {? !!binary YWJj : {lr: 0.01}}",
        "params: {? !!binary bHI= : {type: float, low: 0.01, high: 0.1}}",
        "params: {lr: {type: float, low: !!binary MC4wMQ==, high: 0.1}}",
    ],
)
def test_bytes_are_no_words(written: str) -> None:
    """Oracle: the message. They were taken for `abc`, `lr` and 0.01, which PyYAML does not read."""
    with pytest.raises(InputError, match="!!binary is not supported"):
        loading.parse_space(f"task: reconstruct\n{written}", name="mine")


def test_aliases_may_be_used() -> None:
    """Oracle: the same file without them. They are YAML, and refused only where they unfold to
    more than fits."""
    with_them = "points: {a: &a {lr: 0.01, kernel: 5}, b: {<<: *a, lr: 0.02}}"
    without = "points: {a: {lr: 0.01, kernel: 5}, b: {kernel: 5, lr: 0.02}}"
    one, other = (
        loading.parse_space(f"task: reconstruct\n{t}", name="m") for t in (with_them, without)
    )
    assert one.points == other.points


@pytest.mark.parametrize("source", ["/dev/zero", "large.yaml"])
def test_a_space_file_without_end_is_refused(source: str, tmp_path: Path) -> None:
    """Oracle: the message, before the memory is full."""
    if source != "/dev/zero":
        source = str(tmp_path / source)
        Path(source).touch()
        os.truncate(source, 1 << 40)
    with pytest.raises(InputError, match="is larger than"):
        loading.load_space(f"{source}" if source.endswith("yaml") else link(tmp_path, source))


def link(folder: Path, target: str) -> str:
    (folder / "link.yaml").symlink_to(target)
    return str(folder / "link.yaml")


@pytest.mark.parametrize("value", ["[" * 100_000, "9" * 5000, "[" * 800 + "]" * 800, "1e999"])
def test_settings_on_the_command_line(value: str) -> None:
    """Oracle: the property; `--set` takes JSON."""

    def action() -> Config:
        return resolve(dict([config.parse_setting(f"lr={value}")]))

    assert accepted(action) is None


# --- a study's folder -----------------------------------------------------------------------------


class Folder:
    """A made-up study that is put back before each example."""

    def __init__(self, at: Path, files: dict[str, bytes], tags: list[str]) -> None:
        self.at, self.files, self.tags = at, files, tags
        (at / "pictures").mkdir(parents=True)
        self.put("", b"")

    def put(self, name: str, content: bytes) -> None:
        """Everything as it was, but `name`."""
        for other, pristine in self.files.items():
            (self.at / other).write_bytes(content if other == name else pristine)

    def look(self, *names: str) -> list[Any]:
        """What the readers of these `names` make of it; None where it is refused."""
        readers: dict[str, Callable[[Path], Any]] = {
            "study": plan.read_study,
            "trials": tables.read_trials,
            "epochs": tables.read_epochs,
            "baselines": tables.read_baselines,
            "pictures": tables.read_pictures,
            "page": render_report,
            "lacks": lacks_pictures_or_baselines,
            "shown": self._shown,
        }
        return [accepted(lambda name=name: readers[name](self.at)) for name in names]  # type: ignore[misc]

    def _shown(self, at: Path) -> str:
        said = io.StringIO()
        with redirect_stdout(said):
            studies.show_study(str(at), Path("results"), 20)
        assert all(line.isprintable() for line in said.getvalue().split("\n"))
        return said.getvalue()


@pytest.fixture(scope="module")
def pristine(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, bytes], list[str]]:
    """The files of a made-up study by their paths in its folder, and the elements of its page."""
    at = tmp_path_factory.mktemp("pristine") / "s"
    made_study(at, [*TRIALS, Trial([0.02, 0.01], point="other")], baselines=BASELINES)
    painted(at, 1, n_rows=2)
    paths = [path for path in at.rglob("*") if path.is_file()]
    tags = [tag for tag, _ in Page(render_report(at)).elements]
    return {str(path.relative_to(at)): path.read_bytes() for path in paths}, tags


@pytest.fixture
def folder(
    pristine: tuple[dict[str, bytes], list[str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Folder:
    monkeypatch.setattr(report_html, "get_plotlyjs", lambda: "/* 4.6 MB, the same in every page */")
    return Folder(tmp_path / "s", *pristine)


@halves(40)
def test_any_study_json_is_a_study_or_is_refused(n: int, folder: Folder) -> None:
    """Oracle: the property. A page that is made of it has the elements that a harmless one has, and
    the study's name for its title."""
    pristine = folder.files["study.json"]
    trees = mutated([json.loads(pristine)])
    texts = trees.map(lambda tree: written_out(json.dumps(tree)).encode())

    def check(content: bytes) -> None:
        folder.put("study.json", content)
        study, page, _ = folder.look("study", "page", "lacks")
        assert (study is None) == (page is None)
        if page:
            tags = [tag for tag, _ in Page(page).elements if tag != "span"]  # 2 or 3 by the task
            if study["data"]["fingerprint"] == "f00d":  # else the baselines are of other images
                assert tags == [tag for tag in folder.tags if tag != "span"]
            assert set(tags) <= set(folder.tags)
            title = re.search("<title>(.*?)</title>", page, re.DOTALL)
            assert title
            assert html.unescape(title[1]) == f"{study['study']} – raycae"

    hold(n, texts | texts | damaged([pristine]) | junk.map(lambda j: json.dumps(j).encode()), check)


KINDS = [
    *(pa.int8(), pa.int64(), pa.uint64(), pa.float32(), pa.float64(), pa.bool_(), pa.null()),
    *(pa.string(), pa.large_string(), pa.binary(), pa.date32(), pa.timestamp("us", tz="UTC")),
    *(pa.timestamp("ns"), pa.decimal128(20, 3), pa.list_(pa.int64()), pa.time64("us")),
    *(pa.struct([("a", pa.int64())]), pa.dictionary(pa.int32(), pa.string())),
]
TEXTS = [
    *("", "COMPLETE", "PRUNED", "FAIL", "RUNNING", "3", "0.5", "{}", "[]", "null", "x" * 5000),
    *(HOSTILE, SEQUENCE, "a\nb", "[bold]b[/bold][/]", "\0", '{"depth": 4}', '{"lr": NaN}'),
    *(resolve({}).to_json(), resolve({"depth": 1}).to_json(), "[" * 5000),
    *('{"channels": [4096, 4096, 4096, 4096], "kernel": 7}', '{"depth": 4, "factor": 4}'),
    resolve({}).to_json().replace('"depth":2', '"depth":4'),
]


def values_of(kind: pa.DataType) -> st.SearchStrategy[Any]:
    if pa.types.is_integer(kind):
        bits = kind.bit_width - pa.types.is_signed_integer(kind)
        lowest = 0 if bits == kind.bit_width else -(2**bits)
        return st.sampled_from([0, 1, 2, 3, lowest, 2**bits - 1])
    if pa.types.is_floating(kind):
        return st.sampled_from([0.0, 0.01, 0.5, 3.0, -1.0, 5e-324, 1.7e308, math.nan, math.inf])
    if pa.types.is_boolean(kind):
        return st.booleans()
    if pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_dictionary(kind):
        return st.sampled_from(TEXTS)
    if pa.types.is_binary(kind):
        return st.sampled_from([b"", b"\xff\xfe", b"3", b"COMPLETE"])
    if pa.types.is_date(kind) or pa.types.is_time(kind) or pa.types.is_timestamp(kind):
        return st.integers(0, 2**30)
    if pa.types.is_decimal(kind):
        return st.sampled_from([0, 1, 3])
    if pa.types.is_list(kind):
        return st.lists(st.integers(0, 3), max_size=2)
    return st.fixed_dictionaries({"a": st.integers(0, 3)})


@st.composite
def columns(draw: st.DrawFn, kind: pa.DataType, n: int) -> pa.Array:
    """`n` values of a kind, some of them null."""
    if pa.types.is_null(kind):
        return pa.nulls(n)
    values = draw(st.lists(st.none() | values_of(kind), min_size=n, max_size=n))
    if pa.types.is_temporal(kind):
        width = pa.int32() if kind.bit_width == 32 else pa.int64()
        return pa.array(values, width).cast(kind)
    return pa.array(values, kind)


NAMES = ["params_x", "params_", "extra", "Ünïcode", "a.b", "", "params_<b>", "val_mse"]


CHANGES = ["lose", "retype", "revalue", "revalue", "nulls", "empty", "double", "add"]


@st.composite
def other_tables(draw: st.DrawFn, table: pa.Table) -> bytes:
    """`table` with columns lost, added, doubled, of another kind or other values, with no rows or
    with rows twice, as the bytes of a Parquet file."""
    for _ in range(draw(st.integers(1, 3))):
        at = draw(st.integers(0, table.num_columns - 1))
        name, n = table.column_names[at], table.num_rows
        how = draw(st.sampled_from(CHANGES))
        if how == "lose" and table.num_columns > 1:
            table = table.remove_column(at)
        elif how == "retype":
            kind = draw(st.sampled_from(KINDS))
            table = table.set_column(at, name, draw(columns(kind, n)))
        elif how == "revalue" and not pa.types.is_nested(table.field(at).type):
            table = table.set_column(at, name, draw(columns(table.field(at).type, n)))
        elif how == "nulls":
            table = table.set_column(at, name, pa.nulls(n, table.field(at).type))
        elif how == "empty":
            table = table.slice(0, 0)
        elif how == "double":
            table = pa.concat_tables([table, table])
        else:
            kind = draw(st.sampled_from(KINDS))
            new = draw(st.sampled_from([*NAMES, name]))
            table = table.append_column(new, draw(columns(kind, n)))
    buffer = io.BytesIO()
    pq.write_table(
        table,
        buffer,
        row_group_size=draw(st.sampled_from([None, 2])),
        store_schema=draw(st.booleans()),
        write_page_checksum=draw(st.booleans()),
        compression=draw(st.sampled_from(["snappy", "none", "zstd"])),
    )
    return buffer.getvalue()


def same(read: Any, written: Any) -> bool:
    """Whether a value was read as it stood in the file, whichever type it had there."""
    if written is None or read is pd.NA or written != written:
        return bool(pd.isna(read))
    if isinstance(written, bytes):
        written = written.decode()
    if isinstance(read, int | float) and not isinstance(read, bool):
        return bool(read == float(written) or read == written)
    return read == written or str(read) == str(written)


def check_table(folder: Folder, name: str, content: bytes) -> None:
    folder.put(f"{name}.parquet", content)
    frame, page, _, _ = folder.look(name, "page", "lacks", "shown")
    if frame is None:
        assert page is None
        return
    with pq.ParquetFile(io.BytesIO(content)) as file:
        table = file.read()
    assert len(frame) == table.num_rows
    for column in frame.columns:
        if not pa.types.is_timestamp(records.TRIAL_COLUMNS.get(column, pa.null())):
            if column not in table.column_names:  # of an older version's table
                assert column in tables.LATER
                assert frame[column].isna().all()
                continue
            values = zip(frame[column].tolist(), table[column].to_pylist(), strict=True)
            assert all(same(read, written) for read, written in values), column


@halves(40)
@pytest.mark.parametrize(
    "name",
    [
        *("trials", "epochs"),  # The others pass through the same reader.
        *(pytest.param(name, marks=pytest.mark.long) for name in ("baselines", "pictures")),
    ],
)
def test_any_table_is_read_or_refused(n: int, name: str, folder: Folder) -> None:
    """Oracle: the property; a table that is read holds the values that pyarrow reads there."""
    table = pq.read_table(io.BytesIO(folder.files[f"{name}.parquet"]))
    hold(n, other_tables(table), lambda content: check_table(folder, name, content))


@pytest.mark.parametrize("kind", [pa.timestamp("ns"), pa.timestamp("us", tz="UTC")])
def test_a_time_is_no_parameter(kind: pa.DataType, folder: Folder) -> None:
    """Oracle: the message. A time without a zone was read as one of UTC."""
    table = pq.read_table(io.BytesIO(folder.files["trials.parquet"]))
    times = pa.array([0] * table.num_rows, pa.int64()).cast(kind)
    folder.put("trials.parquet", bomb(table.append_column("params_x", times)))
    with pytest.raises(InputError, match=r"params_x: timestamp\[.*it must be a number"):
        tables.read_trials(folder.at)


@halves(40)
@pytest.mark.parametrize("name", ["trials", "epochs"])
def test_a_damaged_table_is_refused(n: int, name: str, folder: Folder) -> None:
    """Oracle: the property. Data pages have checksums: a table is read as it was written, or the
    damage was in the footer, which has none."""
    pristine = folder.files[f"{name}.parquet"]
    others = [folder.files[other] for other in ("trials.parquet", "epochs.parquet", "study.json")]
    footer = len(pristine) - 8 - struct.unpack("<I", pristine[-8:-4])[0]
    folder.put("", b"")
    (whole,) = folder.look(name)

    def check(content: bytes) -> None:
        folder.put(f"{name}.parquet", content)
        frame, _, _ = folder.look(name, "page", "shown")
        if frame is not None and content[footer:] == pristine[footer:]:
            pd.testing.assert_frame_equal(frame, whole)

    hold(n, damaged([pristine]) | damaged([pristine]) | damaged(others), check)


@halves(20)
def test_a_damaged_picture_is_refused(n: int, folder: Folder) -> None:
    """Oracle: the property, for the sheet of pictures that a page takes in: as a data URI of
    letters, no wider than the page. Of many examples a few hundred are looked at in their page."""
    pristine = folder.files["pictures/1.png"]
    pages = itertools.count()

    def check(content: bytes) -> None:
        folder.put("pictures/1.png", content)
        sheet = accepted(lambda: pictures.read_pictures(folder.at, 1, None, "reconstruct"))
        if sheet:
            assert sheet.uri.isascii()
            assert 0 < sheet.width_px <= pictures.PICTURES_WIDTH_PX
        if next(pages) < 300:
            page, _ = folder.look("page", "lacks")
            assert (page is None) == (sheet is None)

    hold(n, damaged([pristine[:60], pristine]), check)


@pytest.mark.parametrize("name", loading.list_space_names())
def test_what_raycae_writes_passes_its_own_door(name: str) -> None:
    """Oracle: the configurations themselves."""
    the_space = loading.load_space(name)
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(0))
    for drawn in (*the_space.points.values(), *(the_space.draw(study.ask()) for _ in range(50))):
        assert config.parse_config(drawn.to_json()) == drawn


def bomb(table: pa.Table) -> bytes:
    buffer = io.BytesIO()
    pq.write_table(table, buffer, compression="zstd", store_schema=False)
    return buffer.getvalue()


def test_a_table_that_unpacks_to_more_than_fits_is_refused(folder: Folder) -> None:
    """Oracle: the message, in the memory that there is: a terabyte of copies of one text, and a
    million rows, each in some kilobytes."""
    table = pq.read_table(io.BytesIO(folder.files["trials.parquet"])).slice(0, 1)
    rows = pa.array(np.zeros(50_000, np.int32))
    table = table.take(rows).set_column(1, "trial_number", pa.array(range(len(rows))))
    long = pa.DictionaryArray.from_arrays(rows, pa.array(["x" * 20_000_000]))
    texts = table.set_column(table.column_names.index("reason"), "reason", long)
    folder.put("trials.parquet", bomb(texts))
    with pytest.raises(InputError, match="its unpacked text would be more than 1,000 times"):
        tables.read_trials(folder.at)
    epochs = pq.read_table(io.BytesIO(folder.files["epochs.parquet"])).slice(0, 1)
    million = epochs.take(pa.array(np.zeros(1_000_000, np.int32)))
    folder.put("epochs.parquet", bomb(million))
    with pytest.raises(InputError, match="rows in"):
        tables.read_epochs(folder.at)


@pytest.mark.timeout(20)
@pytest.mark.parametrize(
    "name",
    [
        *("study.json", "trials.parquet", "epochs.parquet", "baselines.parquet"),
        *("pictures.parquet", "pictures/1.png", "pictures/1-cases.png"),
    ],
)
def test_a_pipe_or_a_folder_is_no_file(name: str, folder: Folder) -> None:
    """Oracle: one message at once; a pipe would be waited for."""
    path = folder.at / name
    path.unlink()
    for make in (os.mkfifo, os.mkdir):
        make(path)
        assert accepted(lambda: render_report(folder.at)) is None
        path.unlink() if path.is_fifo() else path.rmdir()


def test_a_bit_turned_in_a_number_is_noticed(folder: Folder) -> None:
    """Oracle: the message. Pages have checksums, which a reader has to be asked to look at."""
    pristine = folder.files["trials.parquet"]
    page = pq.ParquetFile(io.BytesIO(pristine)).metadata.row_group(0).column(13)
    content = bytearray(pristine)
    content[page.data_page_offset + page.total_compressed_size - 40] ^= 1
    folder.put("trials.parquet", bytes(content))
    with pytest.raises(InputError, match="cannot be read as Parquet"):
        tables.read_trials(folder.at)


# --- images ---------------------------------------------------------------------------------------


def take(*files: Path, size: int = 32) -> np.ndarray:
    """As `data.load` decodes files, with its threads and what they make of warnings."""
    taken, every = np.empty((len(files), size, size, 3), np.uint8), np.arange(len(files))
    folders.ImageFiles(Path("/"), list(files)).decode_into(taken, every, every)
    return taken


def encoded(image: Image.Image, format: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format, **options)
    return buffer.getvalue()


MODES = {
    "PNG": ["1", "L", "LA", "P", "RGB", "RGBA", "I;16"],
    "JPEG": ["L", "RGB", "CMYK"],
    "TIFF": ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "YCbCr", "I;16", "I;16B", "I"],
    "GIF": ["1", "L", "P"],
    "BMP": ["1", "L", "P", "RGB"],
    "WEBP": ["RGB", "RGBA"],
}
BANDS = {"LA": 2, "P": 3, "RGB": 3, "YCbCr": 3, "RGBA": 4, "CMYK": 4}
deep = st.integers(0, 65535)


def seen(mode: str, values: tuple[int, ...]) -> list[float]:
    """The colour a person sees, 0 to 255: clear parts on white paper, 16 bits scaled to 8."""
    match mode:
        case "1":
            return [255.0 * (values[0] > 127)] * 3
        case "I;16" | "I;16B" | "I":
            return [values[0] / 257] * 3
        case "L":
            return [float(values[0])] * 3
        case "LA" | "RGBA":
            *colour, alpha = values
            over = [value * alpha / 255 + 255 - alpha for value in colour]
            return over * 3 if mode == "LA" else over
        case "CMYK":
            return [(255 - ink) * (255 - values[3]) / 255 for ink in values[:3]]
        case "YCbCr":
            y, cb, cr = values[0], values[1] - 128, values[2] - 128
            rgb = (y + 1.402 * cr, y - 0.344136 * cb - 0.714136 * cr, y + 1.772 * cb)
            return [min(max(value, 0.0), 255.0) for value in rgb]
    return [float(value) for value in values]


@st.composite
def plain_images(draw: st.DrawFn) -> tuple[bytes, str, list[float]]:
    """An image of one colour in any format, mode and size: its bytes, what it is, its colour."""
    format = draw(st.sampled_from(sorted(MODES)))
    mode = draw(st.sampled_from(MODES[format]))
    size = draw(st.integers(1, 80)), draw(st.integers(1, 80))
    if mode.startswith("I"):
        values: tuple[int, ...] = (draw(deep),)
        kind = {"I": "<i4", "I;16": "<u2", "I;16B": ">u2"}[mode]
        image = Image.fromarray(np.full(size[::-1], values[0], kind))
    else:
        values = tuple(draw(st.tuples(*[st.integers(0, 255)] * BANDS.get(mode, 1))))
        colour = values[0] if len(values) == 1 else values
        if mode == "1":
            colour = 255 * (values[0] > 127)
        made = Image.new("RGB" if mode == "P" else mode, size, colour)
        image = made.quantize(2) if mode == "P" else made
    options = {"quality": 95} if format == "JPEG" else {"lossless": True} if "W" in format else {}
    return encoded(image, format, **options), f"{format} {mode} {size}", seen(mode, values)


@halves(150)
def test_any_image_is_the_colour_that_a_person_sees(n: int, tmp_path: Path) -> None:
    """Oracle: the colour models' definitions, on images of one colour."""
    path = tmp_path / "x.png"

    def check(example: tuple[bytes, str, list[float]]) -> None:
        content, what, colour = example
        path.write_bytes(content)
        (pixels,) = take(path)
        near = 6 if "JPEG" in what or "YCbCr" in what else 1.01
        assert np.abs(pixels - np.array(colour)).max() <= near, what

    hold(n, plain_images(), check)


NOISE = Image.effect_noise((70, 50), 90).convert("RGB")
REAL = {
    "PNG": encoded(NOISE, "PNG"),
    "palette": encoded(NOISE.quantize(16), "PNG", transparency=3),
    "APNG": encoded(NOISE, "PNG", save_all=True, append_images=[NOISE.rotate(180)]),
    "JPEG": encoded(NOISE, "JPEG"),
    "small JPEG": encoded(NOISE.resize((32, 32)), "JPEG"),
    "progressive": encoded(NOISE, "JPEG", progressive=True, exif=b"Exif\0\0II*\0\x08\0\0\0\0\0"),
    "CMYK": encoded(NOISE.convert("CMYK"), "JPEG"),
    "WebP": encoded(NOISE, "WEBP"),
    "animation": encoded(NOISE, "WEBP", save_all=True, append_images=[NOISE.rotate(180)]),
    "BMP": encoded(NOISE, "BMP"),
    "TIFF": encoded(NOISE, "TIFF"),
    "LZW": encoded(NOISE, "TIFF", compression="tiff_lzw"),
    "deflated": encoded(NOISE, "TIFF", compression="tiff_adobe_deflate"),
    "GIF": encoded(NOISE, "GIF", save_all=True, append_images=[NOISE.rotate(180)]),
}


@pytest.mark.filterwarnings("ignore::UserWarning:PIL")
@halves(300)
def test_any_bytes_are_an_image_or_are_refused(n: int, tmp_path: Path) -> None:
    """Oracle: the property. Not more memory than the largest image that is allowed takes."""
    path = tmp_path / "x.png"
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss

    def check(content: bytes) -> None:
        path.write_bytes(content)
        pixels = accepted(lambda: take(path))
        assert pixels is None or (pixels.shape, pixels.dtype) == ((1, 32, 32, 3), np.uint8)

    hold(n, damaged(list(REAL.values())) | damaged([c[:200] for c in REAL.values()]), check)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < MOST_MEMORY >> 10


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP", "TIFF"])
def test_an_image_is_upright_whatever_its_exif_says(
    format: str, orientation: int, tmp_path: Path
) -> None:
    """Oracle: the eight orientations of the EXIF standard, by numpy."""
    upright = np.kron([[0, 85], [170, 255]], np.ones((32, 32))).astype(np.uint8)
    stored = {
        1: upright,
        2: np.fliplr(upright),
        3: np.rot90(upright, 2),
        4: np.flipud(upright),
        5: upright.T,
        6: np.rot90(upright),
        7: np.rot90(upright, 2).T,
        8: np.rot90(upright, -1),
    }[orientation]
    exif = Image.Exif()
    exif[0x0112] = orientation
    image = Image.fromarray(np.ascontiguousarray(stored)).convert("RGB")
    path = tmp_path / "x.jpg"
    path.write_bytes(encoded(image, format, exif=exif))
    (pixels,) = take(path, size=64)
    assert np.abs(pixels[..., 0].astype(int) - upright)[4:28, 4:28].max() <= 8
    assert np.abs(pixels[..., 0].astype(int) - upright)[36:60, 36:60].max() <= 8


@pytest.mark.parametrize("what", ["APNG", "animation", "GIF"])
def test_an_animation_is_its_first_picture(what: str, tmp_path: Path) -> None:
    """Oracle: Pillow's own first frame."""
    path = tmp_path / "x.png"
    path.write_bytes(REAL[what])
    with Image.open(path) as image:
        assert image.n_frames == 2  # type: ignore[attr-defined]
        first = next(iter(ImageSequence.Iterator(image))).convert("RGB")
    assert np.array_equal(take(path)[0], np.asarray(decoding.fit_square(first, 32)))


def test_16_bits_are_scaled_and_not_clipped(tmp_path: Path) -> None:
    """Oracle: by hand. What has no place in 16 bits is refused, not made white."""
    path = tmp_path / "x.png"
    for value, expected in ((0, 0), (300, 1), (32896, 128), (65535, 255)):
        path.write_bytes(encoded(Image.fromarray(np.full((9, 9), value, np.uint16)), "PNG"))
        assert (take(path) == expected).all()
    for value in (-1, 65536, 2**31 - 1):
        path.write_bytes(encoded(Image.fromarray(np.full((9, 9), value, np.int32)), "TIFF"))
        with pytest.raises(InputError, match="8 or 16 bits"):
            take(path)


def png(width: int, height: int, depth: int = 8, colour: int = 0, rows: int = 0) -> bytes:
    """A PNG whose header says `width` x `height`, with `rows` black rows behind it."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return (
            struct.pack(">I", len(content)) + kind + content + struct.pack(">I", crc(kind, content))
        )

    def crc(kind: bytes, content: bytes) -> int:
        return zlib.crc32(kind + content)

    channels = {0: 1, 2: 3, 4: 2, 6: 4}[colour]
    squeeze = zlib.compressobj(1)
    row = bytes(1 + (width * channels * depth + 7) // 8) if rows else b""
    pixels = b"".join(squeeze.compress(row) for _ in range(rows)) + squeeze.flush()
    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    parts = chunk(b"IHDR", header) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + parts


def bombs() -> dict[str, bytes]:
    """Small files that say they are huge."""
    huge = struct.pack("<HH", 65535, 65535)
    gif = bytearray(encoded(Image.new("L", (9, 9)), "GIF"))
    gif[6:10] = huge
    frame = gif.index(b",\0\0\0\0")
    gif[frame + 5 : frame + 9] = huge
    bmp = bytearray(encoded(Image.new("RGB", (9, 9)), "BMP"))
    bmp[18:26] = struct.pack("<ii", 100_000, 100_000)
    jpeg = bytearray(encoded(Image.new("RGB", (9, 9)), "JPEG"))
    at = jpeg.index(b"\xff\xc0")
    jpeg[at + 5 : at + 9] = struct.pack(">HH", 65500, 65500)
    webp = bytearray(
        encoded(
            Image.new("RGBA", (9, 9)),
            "WEBP",
            save_all=True,
            append_images=[Image.new("RGBA", (9, 9), 1)],
        )
    )
    at = webp.index(b"VP8X") + 12
    webp[at : at + 6] = b"\xff\x3f\0" * 2  # 16,384 each
    tiff = bytearray(encoded(Image.new("RGB", (9, 9)), "TIFF"))
    for tag in (256, 257):
        at = tiff.index(struct.pack("<HHI", tag, 4, 1)) + 8  # a LONG, one of it
        tiff[at : at + 4] = struct.pack("<I", 100_000)
    return {
        "grey.png": png(100_000, 100_000),
        "deep.png": png(100_000, 100_000, 16, 6),
        "warned-of.png": png(10_000, 10_000),
        "wide.png": png(2**31 - 1, 1),
        "bomb.gif": bytes(gif),
        "bomb.bmp": bytes(bmp),
        "bomb.jpg": bytes(jpeg),
        "bomb.webp": bytes(webp),
        "bomb.tif": bytes(tiff),
    }


MOST_MEMORY = 3 << 30
"""Bytes: an image of the most pixels that are allowed (89 million), with transparency, is held
three times over while it is laid on white."""

DECODE = """
import resource, sys
from pathlib import Path
import numpy as np
from raycae import data
from raycae.data import folders
from raycae.errors import InputError
resource.setrlimit(resource.RLIMIT_AS, (int(sys.argv[1]),) * 2)
groups = [sys.argv[2:]] if sys.argv[2].endswith("large.png") else [[p] for p in sys.argv[2:]]
for paths in groups:
    try:
        pool = folders.ImageFiles(Path("/"), [Path(p) for p in paths])
        taken, every = np.empty((len(paths), 32, 32, 3), np.uint8), np.arange(len(paths))
        pool.decode_into(taken, every, every)
        print(taken.max(), Path(paths[0]).name)
    except InputError as error:
        print(error)
"""


def decoded_within(memory: int, *paths: Path) -> list[str]:
    """The lines that `DECODE` says in a process of its own."""
    done = subprocess.run(
        [sys.executable, "-c", DECODE, str(memory), *map(str, paths)],
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    return done.stdout.splitlines()


def test_decompression_bombs_are_refused_by_what_they_say_they_are(tmp_path: Path) -> None:
    """Oracle: one line each, in a process that has a gigabyte."""
    for name, content in bombs().items():
        (tmp_path / name).write_bytes(content)
    lines = decoded_within(1 << 30, *(tmp_path / name for name in bombs()))
    assert len(lines) == len(bombs())
    for name, line in zip(bombs(), lines, strict=True):
        assert re.search(f"{name}: (refused, more than|damaged)", line)
        assert "emory" not in line


@pytest.mark.long
def test_the_largest_images_that_are_allowed_come_one_at_a_time(tmp_path: Path) -> None:
    """Oracle: eight of 89 million pixels with transparency decode in the memory of one."""
    content = png(9400, 9500, 8, 6, rows=9500)
    paths = [tmp_path / f"{i}large.png" for i in range(8)]
    for path in paths:
        path.write_bytes(content)
    assert decoded_within(MOST_MEMORY, *paths) == ["255 0large.png"]


@pytest.fixture
def image_folder(tmp_path: Path) -> Path:
    """Forty good images to put a bad one beside."""
    folder = tmp_path / "images"
    (folder / "train").mkdir(parents=True)
    (folder / "test").mkdir()
    for i in range(40):
        Image.new("RGB", (9, 9), (i, i, i)).save(folder / "train" / f"{i}.png")
    Image.new("RGB", (9, 9)).save(folder / "test" / "0.png")
    return folder


EPS = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n(x) run\n%%EOF\n"


def test_what_is_called_an_image_and_is_none(image_folder: Path) -> None:
    """Oracle: one message with the file's name, at once. A pipe would be waited for, a device or a
    file without end would fill the memory, PostScript would be run."""
    bad = image_folder / "train" / "bad.png"
    made: dict[str, Callable[[], object]] = {
        "nothing": lambda: bad.write_bytes(b""),
        "text": lambda: bad.write_text("I am no picture"),
        "HTML": lambda: bad.write_text(f"<html>{HOSTILE}"),
        "PostScript": lambda: bad.write_bytes(EPS),
        "a link to nowhere": lambda: bad.symlink_to("nowhere"),
        "a link to itself": lambda: bad.symlink_to(bad),
        "a link to a device": lambda: bad.symlink_to("/dev/zero"),
        "a pipe": lambda: os.mkfifo(bad),
        "a file without end": lambda: (bad.touch(), os.truncate(bad, 1 << 40)),
        "a pickle": lambda: bad.write_bytes(pickle.dumps({"x": 1})),
    }
    for what, make in made.items():
        make()
        with pytest.raises(InputError, match=r"bad\.png: ") as caught:
            data.load(str(image_folder))
        assert str(caught.value).isprintable(), what
        bad.unlink()


def test_what_is_an_image_whatever_it_is_called(image_folder: Path) -> None:
    """Oracle: a JPEG called .png, one behind a link, one in a folder called x.png: 43 images."""
    train = image_folder / "train"
    Image.new("RGB", (9, 9), "red").save(image_folder / "test" / "0.png")  # not in train, too
    (train / "jpeg.png").write_bytes(REAL["JPEG"])
    (image_folder.parent / "elsewhere").write_bytes(encoded(NOISE.rotate(180), "PNG"))
    (train / "link.png").symlink_to(image_folder.parent / "elsewhere")
    (train / "x.png").mkdir()
    (train / "x.png" / "y\n\x1b[2J.png").write_bytes(REAL["GIF"])
    images = data.load(str(image_folder))
    assert len(images.train) + len(images.val) == 43
    (train / "x.png" / "y\n\x1b[2J.png").write_bytes(b"")
    assert accepted(lambda: data.load(str(image_folder))) is None


def image_table(blobs: list[bytes | None], name: str = "img") -> pa.Table:
    rows = [{"bytes": blob, "path": None} for blob in blobs]
    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    return pa.table({"label": list(range(len(rows))), name: pa.array(rows, kind)})


@halves(60)
def test_any_parquet_of_images_is_read_or_refused(n: int, tmp_path: Path) -> None:
    """Oracle: the property, for tables and files of any kind in the place of images."""
    blobs = [encoded(Image.new("RGB", (9, 9), (i, i, i)), "PNG") for i in range(20)]
    table = image_table(blobs)
    buffer = io.BytesIO()
    pq.write_table(table, buffer, row_group_size=7)
    (tmp_path / "test-0.parquet").write_bytes(buffer.getvalue())

    def check(content: bytes) -> None:
        (tmp_path / "train-0.parquet").write_bytes(content)
        images = accepted(lambda: data.load(str(tmp_path), image_size=8))
        assert images is None or images.train.shape[1:] == (8, 8, 3)

    twice = table.append_column("img", table["img"])
    dotted = image_table(blobs, "a.b")
    hold(
        n,
        damaged([buffer.getvalue()])
        | other_tables(table)
        | other_tables(twice)
        | other_tables(dotted),
        check,
    )


@pytest.mark.parametrize("source", ["x" * 300, "~nobody-of-this-name/x", "a\0b", "\ud800", "\n"])
def test_sources_that_cannot_be(source: str) -> None:
    """Oracle: the property, for names that no file system takes and homes of nobody."""
    for action in (data.check, loading.load_space, find.find_study):
        assert accepted(lambda action=action: action(source)) is None  # type: ignore[operator]


# --- nothing is executed --------------------------------------------------------------------------


class Payload:
    """Leaves a mark when it is unpickled."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Any, ...]:
        return open, (str(self.mark), "w")


def payloads(mark: Path) -> dict[str, bytes]:
    """The same payload as a pickle, in torch's two formats, as numpy's and as Arrow's."""
    payload = Payload(mark)
    zipped, legacy, array, arrow = (io.BytesIO() for _ in range(4))
    torch.save({"model": payload}, zipped)
    torch.save({"model": payload}, legacy, _use_new_zipfile_serialization=False)
    np.save(array, np.array([payload], object))
    extension = {
        "ARROW:extension:name": "arrow.py_extension_type",
        "ARROW:extension:metadata": pickle.dumps(payload),
    }
    fields = [
        pa.field(name, kind, metadata=extension) for name, kind in records.TRIAL_COLUMNS.items()
    ]
    pq.write_table(pa.schema(fields).empty_table(), arrow)
    return {
        "pickle": pickle.dumps(payload),
        "torch": zipped.getvalue(),
        "old torch": legacy.getvalue(),
        "numpy": array.getvalue(),
        "arrow": arrow.getvalue(),
    }


MODEL = ("models/1/config.json", "models/1/model.safetensors")
READ = [
    *("study.json", "trials.parquet", "epochs.parquet", "baselines.parquet"),
    *("pictures.parquet", "pictures/1.png", "pictures/1-cases.png"),
    *("ledger/00000000-00000000.parquet", f"ledger/00000000-00000000-{'0' * 32}.jsonl"),
    *("lease.json", *MODEL),
    *("checkpoints/4/1-1.pt", "checkpoints/4/1-1.safetensors"),
]
"""Every kind of file that raycae reads in a study's folder."""
UNREAD = [
    "tuner.pkl",
    "searcher-state-0.pkl",
    "study.pkl",
    "checkpoints/4.pt",
    "models/1/model.pth",
]
"""What others leave in such folders."""
CAME_AS = {
    ".parquet": ("pickle", "arrow"),
    ".pt": ("torch", "old torch"),
    ".safetensors": ("torch",),
}


def test_payloads_work(tmp_path: Path) -> None:
    """Oracle: each of them leaves its mark where it is unpickled after all; without this the next
    test would say nothing."""
    mark = tmp_path / "mark"
    loads: dict[str, Callable[[bytes], object]] = {
        "pickle": pickle.loads,
        "torch": lambda content: torch.load(io.BytesIO(content), weights_only=False),
        "old torch": lambda content: torch.load(io.BytesIO(content), weights_only=False),
        "numpy": lambda content: np.load(io.BytesIO(content), allow_pickle=True),
    }
    for name, load in loads.items():
        load(payloads(mark)[name])
        assert mark.exists(), name
        mark.unlink()


def test_nothing_in_a_study_is_unpickled(
    tmp_path: Path, image_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Oracle: the mark that each payload would leave, under every name, by every reader."""
    mark = tmp_path / "mark"
    monkeypatch.setattr(report_html, "get_plotlyjs", lambda: "")
    contents = payloads(mark)
    at = made_study(tmp_path / "s", TRIALS, data=str(image_folder), baselines=BASELINES)
    (at / "models" / "1").mkdir(parents=True)
    (at / "ledger").mkdir()
    (at / "checkpoints" / "4").mkdir(parents=True)
    for name in UNREAD:
        (at / name).write_bytes(contents["pickle"])
    whole = {path: path.read_bytes() for path in at.rglob("*") if path.is_file()}
    for name in READ:
        for kind in CAME_AS.get(Path(name).suffix, ("pickle",)):
            shutil.rmtree(at)
            for path, content in whole.items():
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(content)
            facts = {"config": resolve({}).model_dump(mode="json")}
            facts["weights"] = checksum(contents[kind])
            (at / MODEL[0]).write_text(json.dumps(facts))
            (at / MODEL[1]).write_bytes(contents[kind])
            (at / name).parent.mkdir(parents=True, exist_ok=True)
            (at / name).write_bytes(contents[kind])
            assert accepted(lambda: weights.load_model(at / "models" / "1")) is None
            for command in ("show", "report", "evaluate"):
                run_cli(monkeypatch, command, str(at))
            assert not mark.exists(), name
    images = put_on_device(np.zeros((16, 32, 32, 3), np.uint8), torch.device("cpu"))
    for content in contents.values():
        with suppress(Exception):  # which one is the training's affair
            Training(resolve({}), images, images, epochs=1).load_state(content)
        accepted(
            lambda content=content: loading.parse_space(content.decode("latin-1"), name="mine")
        )
        assert not mark.exists()


EXECUTES = re.compile(
    r"(eval|exec|compile|__import__|.*pickle\.\w+|pickle\.\w+|marshal\.\w+|shelve\.\w+|joblib\.\w+|"
    r"dill\.\w+|yaml\.(unsafe_|full_)?load(_all)?|.*\.read_pickle|torch\.load|np\.load|os\.system)"
)


def test_no_call_in_the_package_executes_what_it_reads() -> None:
    """Oracle: the syntax tree of every module. `torch.load` with `weights_only=True` and
    `yaml.load` with a safe loader are none."""
    found = []
    for path in sorted(PACKAGE.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import | ast.ImportFrom):
                names = {alias.name for alias in node.names} | {getattr(node, "module", "")}
                assert not names & {"pickle", "cloudpickle", "dill", "marshal", "shelve", "joblib"}
            if isinstance(node, ast.Call) and EXECUTES.fullmatch(called := ast.unparse(node.func)):
                options = {k.arg: ast.unparse(k.value) for k in node.keywords}
                loader = getattr(
                    importlib.import_module(
                        ".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts)
                    ),
                    options.get("Loader", ""),
                    None,
                )
                safe = (called == "torch.load" and options.get("weights_only") == "True") or (
                    called == "yaml.load" and loader and issubclass(loader, yaml.SafeLoader)
                )
                found += [] if safe else [f"{path.name}:{node.lineno}: {called}"]
    assert found == []


# --- names ----------------------------------------------------------------------------------------


def run_cli(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> tuple[int, str, str]:
    """`raycae …` in this process: exit code, standard output, standard error; no control
    characters in either."""
    out, err = (io.TextIOWrapper(io.BytesIO(), encoding="utf-8", write_through=True) for _ in "12")
    code = 0
    with monkeypatch.context() as patch:
        patch.setattr(sys, "argv", ["raycae", *arguments])
        patch.setattr(sys, "stdout", out)
        patch.setattr(sys, "stderr", err)
        try:
            main.main()
        except SystemExit as end:
            code = int(end.code or 0)
    said = [stream.buffer.getvalue().decode() for stream in (out, err)]  # type: ignore[attr-defined]
    for text in said:
        assert all(line.isprintable() for line in text.split("\n")), text
    return code, said[0], said[1]


NO_NAMES = [
    *("../../x", "a/b", "-rf", "x" * 300, "\U0001f4a5", "<script>alert(1)</script>", "a\nb"),
    *(
        ".",
        "..",
        "",
        "con",
        " ",
        "a b",
        "~",
        "[bold]",
        "~nobody-of-this-name",
        "$(true)",
        SEQUENCE,
        "\u202e",
    ),
]


@pytest.mark.parametrize("name", NO_NAMES)
def test_a_name_for_a_study(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Oracle: one line and nothing written; or a folder of that very name under the results."""
    begun: list[Path] = []

    def run(request: SearchRequest) -> None:
        assert isinstance(request.folder, Path)
        begun.append(request.folder)

    monkeypatch.setattr(runner, "run_study", run)
    monkeypatch.setattr(runner, "format_time_estimate", lambda *_: "time")
    monkeypatch.chdir(tmp_path)
    arguments = ["--space", "quickstart", "--results", str(tmp_path / "r"), "--study", name]
    code, out, err = run_cli(monkeypatch, "search", *arguments)
    assert out == ("time\n" if code == 0 else "")
    if code == 0:
        assert begun == [tmp_path / "r" / (name or "quickstart")]
    else:
        assert (code, begun) == (2, [])
        assert err.startswith("raycae: --study ")
        assert err.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("command", ["show", "report", "evaluate"])
@pytest.mark.parametrize("name", NO_NAMES)
def test_a_name_of_no_study(
    command: str, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Oracle: one line that says so, and nothing written."""
    made_study(tmp_path / "r" / f"there {SEQUENCE}", [])
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    before = sorted(tmp_path.rglob("*"))
    arguments = [name] if name == "-rf" else ["--", name]
    code, out, err = run_cli(monkeypatch, command, "--results", "../r", *arguments)
    assert (code, out) == (2, "")
    assert "Traceback" not in err
    if name != "-rf":  # an option, to the command line; it says how it is used
        assert err.count("\n") == 1
        assert "no study has this name or path" in err
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize(
    "name",
    [
        "<script>alert(1)</script>".replace("/", ""),
        "a\nb",
        "\U0001f4a5",
        "con",
        SEQUENCE,
        "x" * 250,
        "a\udcffb",
        "[red]",
    ],
)
def test_a_folder_of_a_hostile_name(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Oracle: all commands that read it do, and what they say can be printed."""
    monkeypatch.setattr(report_html, "get_plotlyjs", lambda: "")
    made = made_study(tmp_path / "made", TRIALS, baselines=BASELINES)
    folder = painted(made, 1, n_rows=2).rename(tmp_path / name)
    for command in ("show", "report"):
        code, out, err = run_cli(monkeypatch, command, str(folder))
        assert (code, err) == (0, "")
        assert out
    page = (folder / "report.html").read_text(encoding="utf-8")
    assert "<script>alert" not in page


def test_hostile_points_in_a_preview(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Oracle: the names are shown as text, or as Python writes them; `[/a]` is no markup."""
    points = {"[/a]": {}, ":x: [bold]b": {}, SEQUENCE: {}, "a\nb": {}, "\u202e": {}}
    path = tmp_path / "mine.yaml"
    path.write_text(yaml.safe_dump({"task": "reconstruct", "points": points}))
    code, out, err = run_cli(monkeypatch, "preview", "--space", str(path))
    assert (code, err) == (0, "")
    for name in ("[/a]", ":x: [bold]b", "a\\nb", "\\u202e"):
        assert name in out
    assert run_cli(monkeypatch, "trial", "--space", str(path), "--point", "a\x1b")[0] == 2


def hostile(tree: Any, text: str) -> Any:
    """`tree` with `text` at the end of every string in it."""
    if isinstance(tree, dict):
        return {key: hostile(value, text) for key, value in tree.items()}
    if isinstance(tree, list):
        return [hostile(value, text) for value in tree]
    return f"{tree}{text}" if isinstance(tree, str) else tree


@pytest.mark.parametrize(
    "text",
    [HOSTILE, "</title><script>alert(1)</script>", "{{ 7 * 7 }}{% raw %}", SEQUENCE, "\ud800"],
)
def test_hostile_strings_everywhere(
    text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Oracle: a page of a harmless study has the same elements and scripts of the same kind; the
    title is the study's name; a terminal gets no control characters."""
    monkeypatch.setattr(report_html, "get_plotlyjs", lambda: "")
    valid = text.encode("utf-8", "replace").decode()  # Parquet holds nothing else
    pages = []
    for end in ("", text):
        trials = [
            Trial([0.02, 0.01], point=f"base{valid if end else ''}", reason=f"no{valid}"),
            Trial([0.02], "PRUNED", reason=f"asha{valid}", settings={"lr": 0.01}),
            Trial([], "FAIL", reason=f"diverged{valid}"),
        ]
        levels = [
            ("mean_colour", None, 0.05),
            (f"x{valid}", None, 0.04),
            (f"linear{valid}", 64, 0.03),
        ]
        folder = made_study(tmp_path / f"s{len(pages)}", trials, baselines=levels)
        painted(folder, 0, n_rows=2)
        content = json.loads((folder / "study.json").read_text())
        changed = hostile(content, end) | {"task": content["task"]}
        changed["data"]["fingerprint"] = content["data"]["fingerprint"]
        changed["versions"] = {f"{key}{end}": value for key, value in content["versions"].items()}
        changed["hardware"]["gpus"] = [f"A GPU{end}"]
        (folder / "study.json").write_text(json.dumps(changed))
        for command in ("show", "report"):
            code, _, err = run_cli(monkeypatch, command, str(folder))
            assert (code, err) == (0, "")
        pages.append((folder / "report.html").read_text(encoding="utf-8"))
    harmless, other = map(Page, pages)
    assert [tag for tag, _ in other.elements] == [tag for tag, _ in harmless.elements]
    assert [sorted(attrs) for _, attrs in other.elements] == [
        sorted(attrs) for _, attrs in harmless.elements
    ]
    assert "<" not in other.scripts[1]
    assert "49" not in other.text.split("raycae study")[0]
    title = re.search("<title>(.*?)</title>", pages[1], re.DOTALL)
    assert title
    assert "<" not in title[1]
