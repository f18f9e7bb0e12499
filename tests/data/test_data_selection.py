"""Which images are the data set: splits and classes, links, hidden files, studies, suffixes."""

from __future__ import annotations

import json
import os
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from conftest import Run
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from test_data import colour, numbers_in, put_images, tile

from raycae import data
from raycae.data import layout
from raycae.data.loading import open_source
from raycae.data.sources import parse_source
from raycae.errors import InputError


def put(folder: Path, *counts: tuple[str, int]) -> Path:
    """Put differently coloured images into folders: (path, number)."""
    first = 0
    for name, n in counts:
        put_images(folder / name, range(first, first + n))
        first += n
    return folder


def sizes(source: Path | str, **options: int) -> tuple[int, int, int]:
    """The numbers of training, validation and test images, by loading them."""
    images = data.load(str(source), **options)  # type: ignore[arg-type]
    test = data.load_test(str(source))
    found = len(images.train), len(images.val), len(test)
    summary = images.summary
    assert found == (summary.n_train, summary.n_val, summary.n_test)
    return found


# --- splits or classes ----------------------------------------------------------------------------

CONSISTENT = {
    "two synonyms": ([("training", 32), ("testing", 8)], (28, 4, 8), None),
    "mixed names": ([("train", 32), ("testing", 8)], (28, 4, 8), None),
    "capitals": ([("TRAIN", 32), ("Eval", 8)], (28, 4, 8), None),
    "three": ([("train", 32), ("dev", 5), ("test", 8)], (32, 5, 8), None),
    "valid": ([("training", 40), ("valid", 5)], (36, 5, 4), None),
    "classes inside": (
        [("train/cat", 16), ("train/dog", 16), ("test/cat", 8)],
        (28, 4, 8),
        2,
    ),
    "a class called train inside": (
        [("train/train", 16), ("train/bus", 16), ("test/train", 8)],
        (28, 4, 8),
        2,
    ),
    "one level down": ([("images/train", 32), ("images/test", 8)], (28, 4, 8), None),
    "classes outside": (
        [("cat/train", 16), ("cat/test", 4), ("dog/train", 16), ("dog/test", 4)],
        (28, 4, 8),
        2,
    ),
    "a class called train": ([("bus", 20), ("car", 20), ("train", 10)], (40, 5, 5), 3),
    "a class called test": ([("train_station", 20), ("test", 30)], (40, 5, 5), 2),
    "classes val and dev": ([("val", 20), ("dev", 20), ("eval", 10)], (40, 5, 5), 3),
    "only train": ([("train/cat", 25), ("train/dog", 25)], (40, 5, 5), 2),
    "flat": ([("", 50)], (40, 5, 5), None),
    "loose beside classes": ([("", 10), ("cat", 20), ("dog", 20)], (40, 5, 5), None),
    "too deep": ([("a/b/train", 40), ("a/b/test", 10)], (40, 5, 5), 2),
}


@pytest.mark.parametrize("case", CONSISTENT)
def test_splits_and_classes(tmp_path: Path, case: str) -> None:
    """Oracle: the numbers by hand; an eighth (a ninth) of the training images is validation."""
    folders, expected, n_classes = CONSISTENT[case]
    put(tmp_path, *folders)
    assert sizes(tmp_path) == expected
    summary = data.summarize(str(tmp_path))
    assert summary.n_classes == n_classes
    assert summary.left_out == ()
    classes = f" in {n_classes} classes" if n_classes else ""
    assert summary.line().startswith(
        f"{expected[0]} training, {expected[1]} validation, {expected[2]} test images{classes} "
        f"from {tmp_path}"
    )


def test_each_split_has_its_own_images(tmp_path: Path) -> None:
    """Oracle: the colours, one for each image."""
    put(tmp_path, ("a/training", 20), ("a/dev", 10), ("a/eval", 10), ("b/training", 20))
    put_images(tmp_path / "b" / "dev", range(60, 65))
    put_images(tmp_path / "b" / "eval", range(65, 70))
    images = data.load(str(tmp_path))
    assert sorted(numbers_in(images.train, 70)) == [*range(20), *range(40, 60)]
    assert numbers_in(images.val, 70) == [*range(20, 30), *range(60, 65)]
    assert numbers_in(data.load_test(str(tmp_path)), 70) == [*range(30, 40), *range(65, 70)]


AMBIGUOUS = {
    "a class beside splits": [("train", 32), ("test", 8), ("bus", 20)],
    "loose images beside splits": [("train", 32), ("test", 8), ("", 20)],
    "some classes with splits": [("cat/train", 32), ("cat/test", 8), ("dog", 20)],
    "loose images one level up": [("images/train", 32), ("images/test", 8), ("", 20)],
    "loose images one level down": [("images/train", 32), ("images/test", 8), ("images", 20)],
}


@pytest.mark.parametrize("case", AMBIGUOUS)
def test_what_can_be_read_both_ways_is_refused(tmp_path: Path, case: str) -> None:
    """Oracle: both readings with their numbers, 32, 8, 20 and 60; both ways out do as they say."""
    put(tmp_path, *AMBIGUOUS[case])
    for call in (data.check, data.load, data.load_test, data.summarize):
        with pytest.raises(InputError, match="this layout is ambiguous") as raised:
            call(str(tmp_path))
        for part in ("32 training", "8 test", "20 images ignored", "As one set: 60 images"):
            assert part in str(raised.value)
        for way in ("?splits=yes", "?splits=no"):
            assert f"'{tmp_path}{way}'" in str(raised.value)
    assert sizes(f"{tmp_path}?splits=no") == (48, 6, 6)
    assert sizes(f"{tmp_path}?splits=yes") == (28, 4, 8)
    (left_out,) = data.summarize(f"{tmp_path}?splits=yes").left_out
    assert (left_out.reason, left_out.count) == (data.Reason.OUTSIDE_SPLITS, 20)
    assert data.summarize(f"{tmp_path}?splits=no").left_out == ()


@pytest.mark.parametrize(
    "folders",
    [
        [("train", 20), ("val", 10), ("dev", 10)],
        [("train", 20), ("training", 10), ("test", 10)],
        [("a/train", 20), ("a/test", 5), ("b/train", 10), ("b/test", 5), ("b/val", 5)],
    ],
)
def test_splits_that_differ_or_have_two_names_are_refused(
    tmp_path: Path, folders: list[tuple[str, int]]
) -> None:
    """Oracle: the message; `?splits=yes` joins them."""
    put(tmp_path, *folders)
    with pytest.raises(InputError, match="this layout is ambiguous"):
        data.check(str(tmp_path))
    assert sum(sizes(f"{tmp_path}?splits=yes")) == sum(n for _, n in folders)
    assert data.summarize(f"{tmp_path}?splits=yes").left_out == ()


@pytest.mark.parametrize("parent", [".", "images"])
def test_an_empty_split_is_refused(tmp_path: Path, parent: str) -> None:
    """Oracle: the folder's name, before images are decoded. Labels without images are no split."""
    put(tmp_path, (f"{parent}/train", 30), (f"{parent}/val", 5))
    (tmp_path / "labels" / "train").mkdir(parents=True)
    (tmp_path / "labels" / "train" / "0.txt").write_text("0")
    assert sizes(tmp_path) == (27, 5, 3)
    (tmp_path / parent / "test").mkdir()
    with pytest.raises(InputError, match=r"test: contains no images.*test split is empty"):
        data.check(str(tmp_path))
    (tmp_path / parent / "test" / "a.heic").touch()
    with pytest.raises(InputError, match="test split is empty"):
        data.check(str(tmp_path))


def test_splits_that_are_not_there_are_refused(tmp_path: Path) -> None:
    """Oracle: the message has the source and the way out."""
    put(tmp_path, ("cat", 20), ("test", 20))
    with pytest.raises(InputError, match=r"contains no images in a folder .*train.*splits=no"):
        data.check(f"{tmp_path}?splits=yes")


def test_names_that_are_no_splits_here_are_mentioned(tmp_path: Path) -> None:
    """Oracle: by hand. A source whose only split is the training split needs no note."""
    put(tmp_path / "a", ("bus", 20), ("train", 20))
    note = data.summarize(str(tmp_path / "a")).note
    assert note == "train is read as an ordinary folder, not as a split."
    put(tmp_path / "b", ("x/y/train", 20), ("x/y/test", 20))
    note = data.summarize(str(tmp_path / "b")).note
    assert note == "test and train are read as ordinary folders, not as splits."
    put(tmp_path / "c", ("train/cat", 20), ("train/dog", 20))
    assert data.summarize(str(tmp_path / "c")).note == ""


def expected_splits(places: list[tuple[str, ...]]) -> dict[str, set[int]] | str | None:
    """The rule, written again: splits, None for one set, or "refused". No folder is empty."""
    synonyms = {
        **dict.fromkeys(["train", "training"], "train"),
        **dict.fromkeys(["val", "valid", "validation", "dev"], "validation"),
        **dict.fromkeys(["test", "testing", "eval"], "test"),
    }

    def at(level: int, below: str | None) -> tuple[dict[str, set[int]], set[int], set[str]]:
        mine = [i for i, p in enumerate(places) if below is None or p[:1] == (below,)]
        named = {i: places[i][level] for i in mine if len(places[i]) > level}
        splits: dict[str, set[int]] = {}
        for i, name in named.items():
            if name.lower() in synonyms:
                splits.setdefault(synonyms[name.lower()], set()).add(i)
        inside = set().union(*splits.values()) if splits else set()
        return splits, set(mine) - inside, {named[i] for i in inside}

    splits, rest, names = at(0, None)
    if "train" in splits and len(splits) > 1:
        return splits if not rest and len(names) == len(splits) else "refused"
    parts = {top: at(1, top) for top in {p[0] for p in places if p}}
    full = [top for top, (s, _, _) in parts.items() if "train" in s and len(s) > 1]
    if not full:
        return None
    if any(not p for p in places) or len(full) < len(parts):
        return "refused"
    if any(r or len(n) != len(s) for s, r, n in parts.values()):
        return "refused"
    if len({frozenset(s) for s, _, _ in parts.values()}) > 1:
        return "refused"
    kinds = next(iter(parts.values()))[0]
    return {kind: set().union(*(s[kind] for s, _, _ in parts.values())) for kind in kinds}


folder_names = st.sampled_from(["train", "Training", "val", "dev", "test", "EVAL", "cat", "dog"])


@settings(deadline=None, max_examples=400)
@given(st.lists(st.lists(folder_names, max_size=3).map(tuple), min_size=1, max_size=8))
def test_any_tree_is_read_by_the_rule(places: list[tuple[str, ...]]) -> None:
    """Oracle: `expected_splits`, an independent reading of the rule."""
    expected = expected_splits(places)
    try:
        found = layout.find_layout(parse_source("photos"), places, [1] * len(places), ())
    except InputError:
        assert expected == "refused"
        return
    if found is None:
        assert expected is None
    else:
        assert {split: set(indices) for split, indices in found.groups.items()} == expected


# --- the text of a source -------------------------------------------------------------------------


def test_a_suffix_stays_with_the_source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Oracle: the stored text, opened from another folder, gives the same numbers."""
    put(tmp_path / "D", ("train", 30), ("test", 10), ("bus", 10))
    monkeypatch.chdir(tmp_path)
    stored = data.resolve_source("D?splits=no")
    assert stored == f"{tmp_path}/D?splits=no"
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert sizes(stored) == (40, 5, 5)


@pytest.mark.parametrize("name", ["what?", "a?splits=no", "?", "q?column=x&splits=yes"])
def test_a_folder_whose_name_has_a_question_mark(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """Oracle: its fifty images; a suffix may follow the name."""
    put(tmp_path / name, ("train", 40), ("test", 10))
    monkeypatch.chdir(tmp_path)
    for source in (name, f"{name}?splits=yes", f"{name}?splits=no"):
        stored = data.resolve_source(source)
        assert stored == str(tmp_path / source)
        assert sizes(stored) == (
            (40, 5, 5) if source.endswith("?splits=no") and source != name else (35, 5, 10)
        )


@pytest.mark.parametrize(
    "suffix", ["?", "?splits", "?splits=maybe", "?split=no", "?column=", "?splits=no&splits=no"]
)
def test_a_suffix_that_is_not_allowed_is_refused(tmp_path: Path, suffix: str) -> None:
    """Oracle: the message has the suffix and what is allowed."""
    put(tmp_path / "D", ("", 20))
    with pytest.raises(InputError, match=r"invalid suffix .*splits=yes") as raised:
        data.check(f"{tmp_path}/D{suffix}")
    assert repr(suffix) in str(raised.value)


@pytest.mark.parametrize("name", data.NAMED_SOURCES)
def test_a_name_that_is_also_a_folder_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """Oracle: both ways out, and that each does as it says. A stored plain name is built in."""
    monkeypatch.chdir(tmp_path)
    assert data.resolve_source(name) == name
    put(tmp_path / name, ("", 20))
    with pytest.raises(InputError, match=f"./{name} for the folder, builtin:{name} for"):
        data.resolve_source(name)
    assert data.resolve_source(f"builtin:{name}") == name
    assert data.resolve_source(f"./{name}") == str(tmp_path / name)
    assert sizes(f"./{name}") == (16, 2, 2)
    data.check(name)
    assert len(open_source("builtin:photos").train) == len(open_source("photos").train) > 1000


def test_sources_that_cannot_be(tmp_path: Path) -> None:
    """Oracle: one message each, with what is wrong."""
    for source, says in (
        ("builtin:flowers", "unknown built-in source"),
        ("photos?splits=no", "takes no suffix"),
        (f"{tmp_path}/nowhere?splits=no", "neither a built-in source nor a folder"),
    ):
        with pytest.raises(InputError, match=says):
            data.check(source)


# --- files ----------------------------------------------------------------------------------------


def test_every_suffix_that_can_be_decoded_is_read(tmp_path: Path) -> None:
    """Oracle: 20 files in all, each of which has its colour, nearly."""
    kinds = {".jfif": "JPEG", ".JPE": "JPEG", ".jpg": "JPEG", ".dib": "BMP", ".avif": "AVIF"}
    for number in range(20):
        suffix, kind = list(kinds.items())[number // 4]
        tile(number).save(tmp_path / f"{number:02}{suffix}", kind)
    summary = data.summarize(str(tmp_path))
    assert (summary.n_train + summary.n_val + summary.n_test, summary.left_out) == (20, ())
    for number, file in enumerate(sorted(tmp_path.iterdir())):
        assert np.abs(data.picture(file)[0, 0].astype(int) - colour(number)).max() <= 6


def test_what_cannot_be_decoded_is_counted_and_named(tmp_path: Path) -> None:
    """Oracle: by hand: five files of formats that are not decoded, two of no image format."""
    put(tmp_path, ("", 20))
    for name in ("a.heic", "b.HEIF", "c.jp2", "d.tga", "e.eps", "labels.csv", "README"):
        (tmp_path / name).touch()
    cannot, other = data.summarize(str(tmp_path)).left_out
    assert str(cannot) == "5 files that cannot be decoded: a.heic, b.HEIF, c.jp2, …"
    assert str(other) == "2 other files: README, labels.csv"


def test_a_folder_of_files_that_cannot_be_decoded_says_so(tmp_path: Path) -> None:
    """Oracle: the count and the first name."""
    for number in range(30):
        (tmp_path / f"{number:02}.heic").touch()
    with pytest.raises(InputError, match=r"contains no images.*30 files that cannot.*00\.heic"):
        data.check(str(tmp_path))


@pytest.mark.parametrize(
    "hidden",
    [
        ".thumbnails",
        "@eaDir",
        "__MACOSX",
        "$RECYCLE.BIN",
        "#recycle",
        "lost+found",
        ".@__thumb",
        "System Volume Information",
        ".git/objects",
        "cat/@EADIR/x.png",
    ],
)
def test_hidden_system_and_thumbnail_folders_are_left_out(tmp_path: Path, hidden: str) -> None:
    """Oracle: the 50 images outside; 5 inside are counted."""
    put(tmp_path, ("cat", 25), ("dog", 25))
    put_images(tmp_path / hidden, range(50, 55))
    assert sum(sizes(tmp_path)) == 50
    (left_out,) = data.summarize(str(tmp_path)).left_out
    assert (left_out.reason, left_out.count) == (data.Reason.HIDDEN, 5)
    assert left_out.examples[0].startswith(hidden)


def test_hidden_files_and_folders_without_images_are_counted(tmp_path: Path) -> None:
    """Oracle: four, by hand. The source's own name does not matter."""
    folder = put(tmp_path / ".cache", ("", 20))
    for name in ("._00001.png", "Thumbs.db", ".DS_Store"):
        (folder / name).touch()
    (folder / ".git").mkdir()
    (left_out,) = data.summarize(str(folder)).left_out
    assert (left_out.reason, left_out.count) == (data.Reason.HIDDEN, 4)


def test_links_to_folders_are_followed(tmp_path: Path) -> None:
    """Oracle: the colours of the linked folder and of one linked inside of it."""
    put(tmp_path, ("far", 10), ("src/cat", 20), ("D/dog", 20))
    (tmp_path / "src" / "cat" / "more").symlink_to(tmp_path / "far")
    (tmp_path / "D" / "cat").symlink_to("../src/cat")
    images, test = data.load(str(tmp_path / "D")), data.load_test(str(tmp_path / "D"))
    found = numbers_in(np.concatenate([images.train, images.val, test]), 50)
    assert sorted(found) == list(range(50))
    assert "cat/more/00000.png" in open_source(str(tmp_path / "D")).train.names()


def test_no_folder_is_read_twice(tmp_path: Path) -> None:
    """Oracle: 40 images once each; loops to the source, above it, to itself and between folders,
    and a second name of a folder, are five links, counted."""
    folder = put(tmp_path / "D", ("a/b", 20), ("c", 20))
    (folder / "a" / "b" / "loop").symlink_to(folder)
    (folder / "a" / "up").symlink_to(tmp_path)
    (folder / "a" / "to c").symlink_to(folder / "c")
    (folder / "c" / "to a").symlink_to(folder / "a")
    (folder / "again").symlink_to(folder / "c")
    (folder / "self").symlink_to(folder / "self")
    assert sum(sizes(folder)) == 40
    counts = {entry.reason: entry.count for entry in data.summarize(str(folder)).left_out}
    assert counts == {data.Reason.LINK: 5, data.Reason.OTHER: 1}


def test_splits_that_are_links(tmp_path: Path) -> None:
    """Oracle: links to folders outside are splits; to folders inside both readings are possible;
    two splits that are one folder are refused."""
    put(tmp_path, ("pool/x", 30), ("pool/y", 10))
    outside = tmp_path / "outside"
    outside.mkdir()
    for name, target in (("train", "x"), ("test", "y")):
        (outside / name).symlink_to(tmp_path / "pool" / target)
        (tmp_path / name).symlink_to(tmp_path / "pool" / target)
    assert sizes(outside) == (27, 3, 10)
    with pytest.raises(InputError, match="this layout is ambiguous"):
        data.check(str(tmp_path))
    inside = f"{tmp_path}?splits=yes"
    assert sizes(inside) == (27, 3, 10)
    (outside / "val").symlink_to(tmp_path / "pool" / "y")
    with pytest.raises(InputError, match="is in the validation and in the test split"):
        data.check(str(outside))


def test_a_folder_that_cannot_be_listed_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Oracle: its name; its images are not silently missing."""
    put(tmp_path, ("cat", 20), ("dog", 20))
    listed = os.scandir

    def refuse_dog(path: Path) -> object:
        if path.name == "dog":
            raise PermissionError(13, "Permission denied")
        return listed(path)

    monkeypatch.setattr(os, "scandir", refuse_dog)
    with pytest.raises(InputError, match="dog: cannot be listed: Permission denied"):
        data.check(str(tmp_path))


def test_a_study_is_never_data(tmp_path: Path) -> None:
    """Oracle: the 20 images outside of the study; the study, or a folder in it, is refused."""
    put(tmp_path, ("cat", 20), ("results/ex3/pictures", 5))
    study = tmp_path / "results" / "ex3"
    (study / "ledger").mkdir()
    (study / "study.json").write_text("{}")
    (study / "trials.parquet").write_bytes(b"")
    assert sum(sizes(tmp_path)) == 20
    (left_out,) = data.summarize(str(tmp_path)).left_out
    assert (left_out.reason, left_out.count) == (data.Reason.STUDY, 6)
    (tmp_path / "cat" / "link").symlink_to(study / "pictures")
    assert data.summarize(str(tmp_path)).left_out[0].count == 11
    for inside in (study, study / "pictures"):
        with pytest.raises(InputError, match="is a raycae study"):
            data.check(str(inside))


# --- the summary ----------------------------------------------------------------------------------


def test_the_summary_is_one_line_and_plain_values(tmp_path: Path) -> None:
    """Oracle: the line by hand; JSON and back is the same; a name cannot steer a terminal."""
    put(tmp_path, ("train/cat", 900), ("train/dog", 900), ("val/cat", 20), ("test/cat", 30))
    (tmp_path / "a\x1b[2J.heic").touch()
    summary = data.load(str(tmp_path), limit=1380, image_size=1).summary
    n_train, n_val = 1380 - (1380 * 20 // 1820), 1380 * 20 // 1820
    assert summary.line() == (
        f"{n_train:,} training, {n_val} validation, 30 test images in 2 classes from {tmp_path} "
        "(left out: 1 file that cannot be decoded: a\\x1b[2J.heic)"
    )
    content = json.loads(json.dumps(summary.as_dict()))
    assert (content["training"], content["validation"], content["test"]) == (n_train, n_val, 30)
    assert content["left_out"][0]["count"] == 1
    assert data.DataSummary.from_dict(content) == summary
    assert data.summarize(str(tmp_path), limit=1380) == summary


def test_photos_say_what_their_figures_mean() -> None:
    """Oracle: the note, and the numbers that `load` gives."""
    summary = data.load("photos", limit=100).summary
    assert summary.n_train + summary.n_val == 100
    assert "same five photographs" in summary.line()
    assert summary.n_classes is None


def test_names_and_counts_agree(tmp_path: Path) -> None:
    """Oracle: each name once, and it leads to the file."""
    put(tmp_path, ("cat/train", 10), ("cat/val", 6), ("dog/train", 10), ("dog/val", 6))
    pools = open_source(str(tmp_path))
    assert pools.validation is not None
    names = pools.train.names() + pools.validation.names()
    assert max(Counter(names).values()) == 1
    assert len(names) == 32
    for name in names:
        assert Image.open(tmp_path / name).size == (32, 32)


# --- the command ----------------------------------------------------------------------------------


def test_trial_prints_what_was_found(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Oracle: the line by hand, and today's facts; a name with two meanings is refused."""
    monkeypatch.chdir(tmp_path)
    put(tmp_path / "photos", ("training/cat", 20), ("training/dog", 20), ("testing/cat", 3))
    options = ("trial", "--space", "quickstart", "--epochs", 1, "--data")
    code, said, _ = run(*options, "./photos")
    assert code == 0
    assert "images    35 train, 5 validation\n" in said
    found = "data      35 training, 5 validation, 3 test images in 2 classes from ./photos\n"
    assert found in said
    assert "(3 images)" in said.replace("dB, ", "(")
    code, said, err = run(*options, "photos")
    assert (code, said) == (2, "")
    assert "builtin:photos" in err
