"""What the options of a search come to before anything runs: limits, names, paths."""

from __future__ import annotations

import string
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import Run
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from raycae import data
from raycae.data import check
from raycae.errors import InputError
from raycae.execution.locations import choose_study_name, get_study_folder
from raycae.execution.search_request import SearchRequest, parse_options
from raycae.model.architecture import build_architecture
from raycae.optimization.proposer import Proposer
from raycae.optimization.samplers import SAMPLERS
from raycae.space import loading

FAR_DOWN_THE_GRID = {
    *[("ex2", 128), ("ex3", 128), ("ex3", 512)],
    *[("frontier", most) for most in (128, 512, 1024)],
}
"""Where the first 100,000 combinations are beyond what the space and the limit allow of latent
sizes: the deepest networks come last."""
LR = "task: reconstruct\nparams: {lr: {type: float, low: 0.001, high: 0.01}}\n"


def prepare(folder: Path, **options: Any) -> SearchRequest:
    return parse_options({"results": str(folder), "address": "local", **options})


# --- --max ----------------------------------------------------------------------------------------


def check_limit(folder: Path, name: str, sampler: str | None, most: int) -> None:
    """Oracle: latent sizes counted by `architecture`, and by hand what needs a point: `points`,
    a greedy series, and every space without parameters. ex3-class fixes the latent at no less than
    1,024 numbers. All other searches begin."""
    whole = loading.load_space(name)
    fit = [p for p, c in whole.points.items() if build_architecture(c).latent_size <= most]
    who = sampler or ("tpe" if whole.file.params else "greedy" if whole.file.series else "points")
    needs_point = who == "points" or (who == "greedy" and whole.file.series)
    more = {"objective": "frontier"} if sampler == "strata" else {"objective": "val_mse"}
    options = {"space": name, "sampler": sampler, "max": [f"latent_size={most}"], **more}
    if not fit and (needs_point or not whole.file.params):
        with pytest.raises(InputError) as caught:
            prepare(folder, **options)
        assert str(caught.value).startswith(
            f"--max latent_size={most}: every named point of {name}"
        )
        return
    if name == "ex3-class" and most < 1024:
        with pytest.raises(InputError, match=rf"ex3-class: .* is above {most}\); widen the"):
            prepare(folder, **options)
        return
    if sampler == "grid" and (name, most) in FAR_DOWN_THE_GRID:
        with pytest.raises(InputError, match=f"{name}: constraints: none of 100,000 proposals"):
            prepare(folder, **options)
        return
    asked = prepare(folder, **options)
    assert list(asked.space.points) == fit
    left_out = len(whole.points) - len(fit)
    assert bool(left_out) == any("named points" in note for note in asked.notes)
    proposal = Proposer(asked.space, asked.plan.sampler).propose(0)
    assert proposal is not None
    assert build_architecture(proposal.config).latent_size <= most


@pytest.mark.parametrize("sampler", [None, "points", "greedy", "random"])
@pytest.mark.parametrize("name", loading.list_space_names())
def test_limit_below_the_base(tmp_path: Path, name: str, sampler: str | None) -> None:
    """Oracle: see `check_limit`. The base model's latent has 1,024 numbers."""
    check_limit(tmp_path, name, sampler, 512)


@pytest.mark.long
@pytest.mark.parametrize("most", [128, 512, 1024])
@pytest.mark.parametrize("sampler", [None, *SAMPLERS])
@pytest.mark.parametrize("name", loading.list_space_names())
def test_any_limit(tmp_path: Path, name: str, sampler: str | None, most: int) -> None:
    """Oracle: see `check_limit`."""
    check_limit(tmp_path, name, sampler, most)


def test_notes_name_what_is_left_out(tmp_path: Path) -> None:
    """Oracle: by hand. Twice the latent channels make a latent of 2,048 numbers, which is also
    beyond the limit of the change; stride leaves it at 1,024."""
    file = tmp_path / "mine.yaml"
    file.write_text(
        "task: reconstruct\npoints: {wide: {latent_channels: 32}, base: {}}\n"
        "series: {wider: {latent_channels: 48}, stride: {downsample: stride}}\n"
    )
    asked = prepare(tmp_path, space=str(file), max=["latent_size=1024"])
    assert asked.notes == [
        "--max latent_size=1024 excludes 1 of 2 named points (wide) and 1 of 2 changes of the "
        "greedy series"
    ]
    assert list(asked.space.points) == ["base"]
    assert list(asked.space.file.series) == ["stride"]


@pytest.mark.parametrize(
    ("limit", "message"),
    [
        ("latent_size=50", "constraints.latent_size: min 100 is above max 50"),
        ("epoch_time_s=0", "constraints.epoch_time_s.max: 0.0 is not allowed"),
    ],
)
def test_limit_that_the_file_contradicts(tmp_path: Path, limit: str, message: str) -> None:
    """Oracle: one message with the option, the key and the values."""
    file = tmp_path / "mine.yaml"
    file.write_text(LR + "constraints: {latent_size: {min: 100}}\npoints: {base: {}}\n")
    with pytest.raises(InputError) as caught:
        prepare(tmp_path, space=str(file), max=[limit])
    assert str(caught.value).startswith(f"--max {limit}: {message}")


# --- names ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "study"),
    [
        ("ex2", "ex2"),
        ("my space", "my-space"),
        ("räume (neu)", "raume-neu"),
        (".hidden", "hidden"),
        ("-rf", "rf"),
        ("v1.2_b", "v1.2_b"),
    ],
)
def test_study_named_after_the_file(tmp_path: Path, name: str, study: str) -> None:
    """Oracle: by hand. What was typed as --study is taken as it is, or refused."""
    file = tmp_path / f"{name}.yaml"
    file.write_text(LR)
    assert prepare(tmp_path, space=str(file)).plan.study == study
    if study != name:
        with pytest.raises(InputError, match="--study"):
            prepare(tmp_path, space=str(file), study=name)


@settings(deadline=None, max_examples=500)
@given(st.text(max_size=150))
def test_any_file_name_makes_a_study(name: str) -> None:
    """Oracle: the rule for studies, which `study_folder` checks; nothing is added to names that
    keep to it and do not end in a dot or dash."""
    study = choose_study_name(name)
    assert get_study_folder("results", study).name == study
    plain = set(name) <= {*string.ascii_letters, *string.digits, "_"}
    assert (study == name) == (plain and 0 < len(name) <= 100) or "." in name or "-" in name


def test_names_that_are_not_latin_stay_apart() -> None:
    """Oracle: names that differ only where study names have no character, or beyond their end."""
    names = ["空间", "模型", "空间 a", "模型 a", "a" * 101, "a" * 102, "..", "..."]
    assert len({choose_study_name(name) for name in names}) == len(names)


def test_two_files_with_one_study_name(tmp_path: Path) -> None:
    """Oracle: the second one is refused, for there is a study already; its way out works."""
    for name in ("my space", "my-space"):
        (tmp_path / f"{name}.yaml").write_text(LR)
    folder = prepare(tmp_path, space=str(tmp_path / "my space.yaml")).folder
    assert isinstance(folder, Path)
    folder.mkdir()
    (folder / "study.json").write_text("{}")
    with pytest.raises(InputError, match="this study already exists"):
        prepare(tmp_path, space=str(tmp_path / "my-space.yaml"))
    prepare(tmp_path, space=str(tmp_path / "my-space.yaml"), study="other")


# --- paths ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ("pics", "{folder}/pics"),
        ("./pics", "{folder}/pics"),
        ("../pics", "{above}/pics"),
        ("~/pics", "{home}/pics"),
        ("/data/pics", "/data/pics"),
        ("pics?splits=no&column=a/../b", "{folder}/pics?splits=no&column=a/../b"),
        ("what?/pics?splits=no", "{folder}/what?/pics?splits=no"),
        ("there?is=one", "{folder}/there?is=one"),
        ("2024-01-01", "{folder}/2024-01-01"),
        ("photos", "photos"),
        ("cifar10", "cifar10"),
        ("builtin:photos", "photos"),
        ("./photos", "{folder}/photos"),
    ],
)
def test_data_beside_the_space_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, written: str, meant: str
) -> None:
    """Oracle: by hand. The same from another folder, and the hash is the same as anywhere."""
    folder, elsewhere = tmp_path / "spaces", tmp_path / "elsewhere"
    for path in (
        folder,
        elsewhere,
        folder / "there?is=one",
        folder / "what?/pics",
        folder / "pics",
    ):
        path.mkdir(parents=True)
    text = f"{LR}data: {written}\n"
    (folder / "s.yaml").write_text(text)
    meant = meant.format(folder=folder, above=tmp_path, home=Path.home())
    for here, typed in ((folder, "s.yaml"), (elsewhere, "../spaces/s.yaml")):
        monkeypatch.chdir(here)
        asked = prepare(tmp_path / "results", space=typed)
        assert asked.plan.data == meant
        limited = prepare(tmp_path / "results", space=typed, max=["n_params=5000"])
        assert limited.plan.data == meant
        assert asked.space.hash == loading.parse_space(text, name="s").hash
        assert asked.space.text == text


def test_data_behind_links(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Oracle: a link to the space file counts where the link is, as the person sees it; links to
    the data are followed."""
    (tmp_path / "real").mkdir()
    (tmp_path / "real" / "s.yaml").write_text(f"{LR}data: pics\n")
    (tmp_path / "linked").mkdir()
    (tmp_path / "linked" / "s.yaml").symlink_to(tmp_path / "real" / "s.yaml")
    (tmp_path / "linked" / "pics").symlink_to(tmp_path / "real")
    monkeypatch.chdir(tmp_path)
    assert loading.load_space("linked/s.yaml").source == str(tmp_path / "real")
    assert (
        data.resolve_source("linked/pics?splits=no", tmp_path) == f"{tmp_path / 'real'}?splits=no"
    )


def test_built_in_name_beside_a_folder_of_that_name(tmp_path: Path) -> None:
    """Oracle: the message has both ways out, and both work."""
    (tmp_path / "photos").mkdir()
    file = tmp_path / "s.yaml"
    file.write_text(f"{LR}data: photos\n")
    with pytest.raises(InputError, match=r"\./photos for the folder, builtin:photos"):
        prepare(tmp_path / "results", space=str(file))
    assert prepare(tmp_path / "results", space=str(file), data="photos").plan.data == "photos"
    file.write_text(f"{LR}data: ./photos\n")
    assert loading.load_space(str(file)).source == str(tmp_path / "photos")


@pytest.mark.parametrize("written", ["~nobody-here/pics", "a\\0b", "no-such-folder"])
def test_data_that_no_folder_can_be(tmp_path: Path, written: str) -> None:
    """Oracle: one message, before anything runs."""
    file = tmp_path / "s.yaml"
    file.write_text(f'{LR}data: "{written}"\n')
    with pytest.raises(InputError, match="is neither a built-in source nor a folder"):
        check(prepare(tmp_path, space=str(file)).plan.data)


def test_trial_of_a_space_elsewhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, run: Run
) -> None:
    """Oracle: the folder beside the space file holds the images, the current one none."""
    pics, elsewhere = tmp_path / "pics", tmp_path / "elsewhere"
    pics.mkdir()
    elsewhere.mkdir()
    for i in range(60):
        pixels = np.random.default_rng(i).integers(0, 256, (32, 32, 3), np.uint8)
        Image.fromarray(pixels).save(pics / f"{i:02}.png")
    (tmp_path / "s.yaml").write_text(f"{LR}data: pics\n")
    monkeypatch.chdir(elsewhere)
    code, out, err = run("trial", "--space", "../s.yaml", "--epochs", 1)
    assert (code, err) == (0, "")
    assert "best epoch 1" in out


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        ("sqlite:///o.db", "sqlite:///{here}/o.db"),
        ("sqlite:///o.db?timeout=60", "sqlite:///{here}/o.db?timeout=60"),
        ("sqlite:////data/o.db", "sqlite:////data/o.db"),
        ("journal:///sub/o.log", "journal:///{here}/sub/o.log"),
        ("postgresql+psycopg://host/db", "postgresql+psycopg://host/db"),
        (None, None),
    ],
)
def test_database_files_are_absolute(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, typed: str | None, meant: str | None
) -> None:
    """Oracle: by hand, by SQLAlchemy's rule that a fourth slash begins an absolute path."""
    monkeypatch.chdir(tmp_path)
    database = prepare(tmp_path, space="quickstart", storage=typed).database
    assert database == (meant and meant.format(here=tmp_path))
