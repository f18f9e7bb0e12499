"""What reads a study takes a URI as it takes a folder; the store is a real S3 API on loopback."""

from __future__ import annotations

import functools
import os
import re
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import nbformat
import numpy as np
import pytest
from conftest import Run, train_all
from object_store import ObjectStore
from PIL import Image
from pyarrow.fs import FileSelector, FileSystem

import raycae
from raycae import data
from raycae.execution import runner
from raycae.space.space import Space
from raycae.storage import paths
from raycae.storage.files import fetch_tree
from raycae.storage.paths import resolve_place
from raycae.study.opening import create_study
from raycae.study.plan import Plan

ANALYSIS = Path(__file__).resolve().parents[2] / "analysis"
SECRET = "a-secret-key-that-is-nowhere-else"
NO_LEAVE = r"^raycae: [^\n]*(ACCESS_DENIED|INVALID_ACCESS_KEY)[^\n]*\n$"


@pytest.fixture(scope="module")
def started() -> Iterator[ObjectStore]:
    with ObjectStore() as made:
        made.env["AWS_SECRET_ACCESS_KEY"] = SECRET
        yield made


@pytest.fixture
def store(started: ObjectStore, monkeypatch: pytest.MonkeyPatch) -> ObjectStore:
    for key, value in started.env.items():
        monkeypatch.setenv(key, value)
    return started


def files_in(store: ObjectStore) -> dict[str, bytes]:
    filesystem, path = FileSystem.from_uri(store.uri(direct=True))
    listed = filesystem.get_file_info(FileSelector(path, recursive=True))
    files = (entry.path for entry in listed if entry.is_file)
    return {file: filesystem.open_input_stream(file).read() for file in files}


def test_every_reader_takes_a_uri(
    run: Run, store: ObjectStore, tmp_path: Path, tiny_space: Space, plan: Plan
) -> None:
    """Oracle: the same study fetched into a folder: every command says of one what it says of the
    other, and the files it writes are the same. The secret key stands in nothing that was written,
    here or in the store."""
    images = data.load("photos", limit=120)
    facts = runner.describe_data("photos", images)
    short = replace(plan, trials=2, epochs=1, limit=120)
    uri = store.uri("studies/tiny")
    splits = images.membership.to_parquet()
    study = create_study(resolve_place(uri), short, tiny_space, facts, splits=splits)
    train_all(study, images)
    study.close()
    told = []

    def said(*words: object, aside: str = "") -> str:
        code, out, err = run(*words)
        assert (code, err) == (0, aside)
        told.append(out)
        return out

    where = ("--results", store.uri("studies"))
    assert "2 models evaluated on the test images" in said("evaluate", "tiny", *where)
    found = f"{images.summary}\n"
    assert said("report", uri, aside=found).startswith("s3://raycae/studies/tiny/report.html?")
    home = paths.resolve_place(tmp_path / "home")
    assert isinstance(home, Path)
    fetch_tree(resolve_place(uri), home)
    assert (home / "splits.parquet").read_bytes() == splits
    assert said("show", uri) == said("show", "tiny", *where)
    assert told[-1].partition(":")[2] == said("show", home).partition(":")[2]
    assert raycae.open_study(uri).best.equals(raycae.open_study(home).best)
    assert said("report", "tiny", home, *where).startswith("s3://raycae/studies/comparison.html?")

    picture = tmp_path / "cat.png"
    Image.fromarray(np.arange(3072, dtype=np.uint8).reshape(32, 32, 3)).save(picture)
    for at, to in ((uri, "of-uri"), (home, "of-folder")):
        said("predict", at, picture, "-o", tmp_path / to)
        said("export", at, "--format", "safetensors", "-o", tmp_path / f"{to}.safetensors")
    for name in ("of-{}/cat.png", "of-{}/sheet.png", "of-{}.safetensors"):
        of_uri, of_folder = (tmp_path / name.format(at) for at in ("uri", "folder"))
        assert of_uri.read_bytes() == of_folder.read_bytes()
    loaded = [raycae.load(at).encode(Image.open(picture)) for at in (f"{uri}", home)]
    np.testing.assert_array_equal(*loaded)

    written = [path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()]
    written += [*files_in(store).values(), "".join(told).encode()]
    assert not any(SECRET.encode() in content for content in written)


@pytest.mark.parametrize(
    ("name", "studies"),
    [
        ("01-first-look", ["frontier"]),
        ("02-latent-size-and-error", ["curves/ex2"]),
        ("03-compare-studies", ["reproduction/ex2-report", "frontier"]),
    ],
)
def test_notebooks_take_a_uri(
    store: ObjectStore, monkeypatch: pytest.MonkeyPatch, name: str, studies: list[str]
) -> None:
    """Oracle: the notebook of the folder: with its studies in the store instead every cell runs,
    and what SQL answers is the same."""
    filesystem, _ = FileSystem.from_uri(store.uri())
    for study in studies:
        for file in (ANALYSIS / "recorded" / study).iterdir():
            with filesystem.open_output_stream(f"{store.bucket}/{study}/{file.name}") as stream:
                stream.write(file.read_bytes())
    monkeypatch.chdir(ANALYSIS)
    notebook = nbformat.read(ANALYSIS / f"{name}.ipynb", as_version=4)
    answers = []
    for at in ([f"recorded/{study}" for study in studies], list(map(store.uri, studies))):
        known: dict[str, object] = {"__name__": "notebook"}
        for cell in (cell for cell in notebook.cells if cell.cell_type == "code"):
            exec(cell.source, known)
            if cell.source.startswith("study_at ="):
                known["study_at"] = at[0]
            if cell.source.startswith("studies_at ="):
                known["studies_at"] = at
            if cell.source.startswith("import duckdb"):
                asked = cell.source[cell.source.rindex("duckdb.sql(") :]
                answers.append(eval(asked, known))
    assert len(answers) == 2
    assert answers[0].equals(answers[1])


@pytest.mark.parametrize(
    "name", ["/data/typo", "/", "s3://raycae/typo", "~/typo", "../typo", "typo"]
)
@pytest.mark.parametrize("command", ["show", "predict picture.png -o here"])
def test_a_study_that_is_not_in_the_store(
    run: Run, store: ObjectStore, monkeypatch: pytest.MonkeyPatch, command: str, name: str
) -> None:
    """Oracle: whatever is typed, one message that repeats it and names the results; code 2."""
    results = store.uri("results")
    monkeypatch.setenv("RAYCAE_RESULTS", results)
    typed = f"{name}?{results.partition('?')[2]}" if "://" in name else name
    word, *rest = command.split()
    code, out, err = run(word, typed, *rest)
    assert (code, out) == (2, "")
    there = f"There are no studies in {results}."
    assert err == f"raycae: {typed}: no study has this name or path. {there}\n"


def test_a_store_that_gives_no_leave(
    run: Run, store: ObjectStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Oracle: moto's own check of keys, which knows nobody: one message with the cause for whoever
    reads, writes or hands over, exit code 2; and a bucket that is not there."""
    monkeypatch.chdir(tmp_path)
    env = {**os.environ, "INITIAL_NO_AUTH_ACTION_COUNT": "1"}
    with ObjectStore(popen=functools.partial(subprocess.Popen, env=env)) as refusing:
        where = ("--results", refusing.uri("r"))
        for words in (
            ("show", "ex3"),
            ("report", refusing.uri("r/ex3")),
            ("predict", "ex3", "cat.png", "-o", "out"),
            ("search", "--space", "quickstart"),
            ("search", "--resume", "--study", "ex3"),
            ("submit", "--space", "quickstart"),
            ("submit", "--resume", "--study", "ex3"),
        ):
            code, out, err = run(*words, *where)
            assert (code, out) == (2, ""), words
            assert re.match(NO_LEAVE, err), err
            assert SECRET not in err
    nowhere = ("--results", store.uri("r").replace("/raycae/", "/no-such-bucket/"))
    for words in (("show", "ex3"), ("search", "--space", "quickstart"), ("submit",)):
        code, out, err = run(*words, *nowhere)
        assert (code, out) == (2, ""), words
        assert "no-such-bucket" in err
        assert err.count("\n") == 1
    assert list(tmp_path.iterdir()) == []
