"""A study's images are those it began with: stored when it begins, checked whenever they are read
again. Searches run in this process, without Ray."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from conftest import TINY_SPACE, Run, study_json
from PIL import Image

from raycae.data.membership import Membership
from raycae.report import picture_sheets
from raycae.study import tables
from raycae.study.images import read_membership
from raycae.study.ledger import Ledger, read_events
from raycae.study.plan import SPLITS

pytestmark = pytest.mark.usefixtures("without_ray")

SMALL = TINY_SPACE.replace("batch_size: 32", "batch_size: 32, image_size: 8")
BUDGET = ("--trials", "2", "--epochs", "1", "--scheduler", "none")


def put_image(path: Path, number: int) -> None:
    pixels = np.random.default_rng(number).integers(0, 256, (8, 8, 3), np.uint8)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)


def stored_table(folder: Path) -> Membership:
    table, _ = read_membership(folder, study_json(folder)["data"]["splits"])
    assert table is not None
    return table


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """Sixty image files without splits."""
    for i in range(60):
        put_image(tmp_path / "images" / f"{i:02}.png", i)
    return tmp_path / "images"


@pytest.fixture
def search(run: Run, tmp_path: Path, images: Path) -> Callable[..., tuple[int, str, str]]:
    """A search over them, as a command; its study is `s`."""
    space_file = tmp_path / "small.yaml"
    space_file.write_text(SMALL)

    def call(*more: str) -> tuple[int, str, str]:
        where = ("--results", tmp_path / "r", "--study", "s")
        if "--resume" in more:
            return run("search", *where, *more)
        return run("search", "--space", space_file, "--data", images, *where, *BUDGET, *more)

    return call


Search = Callable[..., tuple[int, str, str]]


def test_what_a_study_stores(search: Search, tmp_path: Path, images: Path) -> None:
    """Oracle: by hand. One line with the numbers; the same in study.json and the ledger's copy of
    it, with the checksum of the table; the table was there before the first part of the ledger."""
    code, out, _ = search("--limit", "40")
    folder = tmp_path / "r" / "s"
    assert code == 0
    assert out.count(f"36 training, 4 validation, 6 test images from {images}") == 1
    content = study_json(folder)
    assert pq.read_schema(folder / SPLITS).names == ["split", "name", "checksum"]
    (begun,) = (e for e in read_events(folder / "ledger") if e["event"] == "begun")
    assert json.loads(begun["study"])["data"] == content["data"]
    table = stored_table(folder)
    assert content["data"]["splits"] == table.checksum
    assert (content["data"]["n_test"], content["data"]["summary"]["test"]) == (6, 6)
    first = min((folder / "ledger").iterdir())
    assert (folder / SPLITS).stat().st_mtime_ns <= first.stat().st_mtime_ns
    assert f"36 training, 4 validation, 6 test images from {images}" in (
        (folder / "report.html").read_text()
    )


def test_a_file_that_arrives_while_a_search_runs(
    search: Search, run: Run, tmp_path: Path, images: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Oracle: the same search undisturbed. A file that arrives when trials run, or later,
    changes no test error and no picture; it is counted when the images are read again."""
    from raycae.execution import runner

    train = runner.train_trials
    assert search()[0] == 0
    folder = tmp_path / "r" / "s"
    undisturbed = tmp_path / "undisturbed"
    folder.rename(undisturbed)

    def disturbed(*arguments: object) -> None:
        train(*arguments)  # type: ignore[arg-type]
        put_image(images / "zz.png", 1000)
        (images / data_test_name(folder)).touch()

    with monkeypatch.context() as patched:
        patched.setattr(runner, "train_trials", disturbed)
        patched.setattr(
            picture_sheets, "write_picture_sheets", lambda *_: None
        )  # some pictures are left to do
        assert search()[0] == 0
    put_image(images / "!.png", 1001)
    code, _, err = run("report", folder)
    assert code == 0
    assert "2 images added since the study began: !.png, zz.png" in err
    assert err.count("\n") == 1
    for read in (tables.read_trials, tables.read_pictures):
        before, after = read(undisturbed), read(folder)
        assert before is not None
        assert after is not None
        columns = [*{"test_mse", "mse", "image", "val_mse"} & {*before.columns}]
        assert before[columns].equals(after[columns])
    code, out, _ = search("--resume", "--trials", "+1")
    assert code == 0
    assert "2 images added since the study began" in out


def data_test_name(folder: Path) -> str:
    table = stored_table(folder)
    return table.get_split("test")[0][0]


@pytest.mark.parametrize("split", ["train", "validation", "test"])
@pytest.mark.parametrize("fault", ["missing", "have changed"])
def test_images_that_changed_while_a_search_was_away(
    search: Search, run: Run, tmp_path: Path, images: Path, split: str, fault: str
) -> None:
    """Oracle: by hand. The search is not resumed, nothing is written; what needs those images is
    refused with their names; what does not need them works."""
    assert search()[0] == 0
    folder = tmp_path / "r" / "s"
    content = study_json(folder)
    table = stored_table(folder)
    name = table.get_split(split)[0][0]
    if fault == "missing":
        (images / name).unlink()
    else:
        put_image(images / name, 1000)
    before = {p: p.read_bytes() for p in folder.rglob("*") if p.is_file()}
    code, _, err = search("--resume", "--trials", "+1")
    assert code == 2
    assert fault in err
    assert name in err
    assert err.count("\n") == 1
    assert {p: p.read_bytes() for p in folder.rglob("*") if p.is_file()} == before
    assert content["data"]["splits"] == table.checksum
    for path in (folder / "pictures.parquet", folder / "baselines.parquet"):
        path.unlink()
    code, _, err = run("report", folder)
    assert code == 0
    assert err.startswith("note: ")
    assert (fault in err, name in err) == (True, True)
    assert (folder / "report.html").exists()
    assert name in (folder / "report.html").read_text()


def without_test_errors(folder: Path) -> None:
    """As if the search had been interrupted before its evaluation."""
    events = read_events(folder / "ledger")
    shutil.rmtree(folder / "ledger")
    parts = Ledger(folder / "ledger")
    for event in events:
        if event["event"] != "evaluated":
            parts.append([event])
    trials = tables.read_trials(folder)
    trials["test_mse"] = np.nan
    trials.to_parquet(folder / "trials.parquet")


def test_evaluate_of_images_that_are_gone(
    search: Search, run: Run, tmp_path: Path, images: Path
) -> None:
    """Oracle: by hand. One message, exit code 2, the study as it was; with the images back every
    saved model has its test error, the one it had before."""
    assert search()[0] == 0
    folder = tmp_path / "r" / "s"
    errors = tables.read_trials(folder)["test_mse"]
    without_test_errors(folder)
    images.rename(tmp_path / "elsewhere")
    code, out, err = run("evaluate", folder)
    assert (code, out) == (2, "")
    assert str(images) in err
    assert err.count("\n") == 1
    assert run("report", folder)[0] == 0
    (tmp_path / "elsewhere").rename(images)
    put_image(images / "!.png", 1000)
    code, out, err = run("evaluate", folder)
    assert (code, err) == (0, "")
    assert "1 image added since the study began: !.png" in out
    assert np.allclose(tables.read_trials(folder)["test_mse"].astype(float), errors.astype(float))


@pytest.mark.parametrize("damage", ["gone", "cut", "of another study"])
@pytest.mark.parametrize("changed", [False, True])
def test_a_table_that_is_lost_or_damaged(
    search: Search, run: Run, tmp_path: Path, images: Path, damage: str, changed: bool
) -> None:
    """Oracle: the table as it was. It is made again from the same images, with one line; from
    others nothing is made, the message names both, and with the images back all is well."""
    assert search()[0] == 0
    folder = tmp_path / "r" / "s"
    whole = stored_table(folder)
    if damage == "gone":
        (folder / SPLITS).unlink()
    elif damage == "cut":
        (folder / SPLITS).write_bytes((folder / SPLITS).read_bytes()[:-100])
    else:
        other = Membership(whole.splits[::-1], whole.names, whole.checksums)
        (folder / SPLITS).write_bytes(other.to_parquet())
    if changed:
        put_image(images / "!.png", 1000)
        code, _, err = search("--resume", "--trials", "+1")
        assert code == 2
        assert f"{SPLITS}: {'missing' if damage == 'gone' else 'damaged'}" in err
        assert str(images) in err
        assert len(tables.read_trials(folder)) == 2
        (images / "!.png").unlink()
    code, out, _ = search("--resume", "--trials", "+1")
    assert code == 0
    assert f"; rebuilt from {images}" in out
    assert stored_table(folder).checksum == whole.checksum
    assert len(tables.read_trials(folder)) == 3


def test_the_ledger_alone_is_enough(search: Search, tmp_path: Path) -> None:
    """Oracle: study.json, tables and splits.parquet are deleted; the search goes on."""
    assert search()[0] == 0
    folder = tmp_path / "r" / "s"
    for path in folder.iterdir():
        if path.is_file():
            path.unlink()
    assert search("--resume", "--trials", "+1")[0] == 0
    assert len(tables.read_trials(folder)) == 3
    assert (folder / SPLITS).exists()


def test_test_images_are_decoded_once(search: Search, monkeypatch: pytest.MonkeyPatch) -> None:
    """Oracle: a count of the decoder's calls: each of the sixty images once in a whole search."""
    from raycae.data import folders

    calls: list[str] = []
    decode = folders.decode

    def counted(content: bytes, name: str, size: int | None) -> object:
        calls.append(name)
        return decode(content, name, size)

    monkeypatch.setattr(folders, "decode", counted)
    assert search()[0] == 0
    assert len(calls) == len(set(calls)) == 60


@pytest.mark.parametrize("fault", ["empty", "damaged", "labels"])
def test_faults_of_test_images_are_found_before_the_first_trial(
    search: Search, tmp_path: Path, images: Path, fault: str
) -> None:
    """Oracle: by hand. One message, exit code 2, and no study was begun."""
    for path in sorted(images.iterdir())[:50]:
        (images / "train").mkdir(exist_ok=True)
        path.rename(images / "train" / path.name)
    (images / "test").mkdir()
    for path in images.glob("*.png"):
        path.rename(images / "test" / path.name)
    if fault == "empty":
        for path in (images / "test").iterdir():
            path.unlink()
    elif fault == "damaged":
        path = images / "test" / "55.png"
        path.write_bytes(path.read_bytes()[:60])
    else:
        space = SMALL.replace("reconstruct", "colourise").replace(
            "fixed: {", "fixed: {classes: 3, "
        )
        (tmp_path / "small.yaml").write_text(space)
    code, _, err = search()
    assert code == 2
    assert err.count("\n") == 1
    assert not (tmp_path / "r" / "s").exists()


def test_a_study_of_before(search: Search, run: Run, tmp_path: Path, images: Path) -> None:
    """Oracle: a study.json as older versions wrote it, without the table. It is opened, resumed and
    evaluated; other images are refused by their fingerprint, as ever."""
    assert search()[0] == 0
    folder = tmp_path / "r" / "s"
    (folder / SPLITS).unlink()
    events = read_events(folder / "ledger")
    shutil.rmtree(folder / "ledger")
    parts = Ledger(folder / "ledger")
    for event in events:
        if event["event"] == "begun":
            content = json.loads(event["study"])
            for name in ("splits", "n_test", "summary"):
                del content["data"][name]
            event["study"] = json.dumps(content)
        parts.append([event])
    (folder / "study.json").unlink()
    (folder / "pictures.parquet").unlink()
    assert search("--resume", "--trials", "+1")[0] == 0
    assert len(tables.read_trials(folder)) == 3
    assert not (folder / SPLITS).exists()
    assert run("report", folder)[0] == 0
    put_image(images / "!.png", 1000)
    code, _, err = search("--resume", "--trials", "+1")
    assert code == 2
    assert "the images have changed since this study started" in err
