"""Several studies on one page, against studies of a few trials by hand."""

from __future__ import annotations

import builtins
import json
import re
from pathlib import Path
from typing import Any

import pytest
from conftest import Run
from made_studies import HOSTILE, TRIALS, Page, Trial, made_study
from PIL import Image
from synthetic_study import long_study

from raycae.errors import InputError
from raycae.report import report_data
from raycae.report.comparison import draw_frontiers, read_entry, render_comparison
from raycae.report.page import build_sections, collect_figures, render_sections, write_images
from raycae.report.report_data import read_report_data
from raycae.report.sections.latent_size import LatentSizeSection
from raycae.report.sections.trial_table import TrialTableSection

WIDE = [
    Trial([0.02], settings={"latent_channels": 1}),
    Trial([0.006], settings={"latent_channels": 4}),
]
NARROW = [
    Trial([0.01], settings={"latent_channels": 1}),
    Trial([0.008], settings={"latent_channels": 2}),
]


def with_images(folder: Path, fingerprint: str) -> Path:
    """The same study, on other images."""
    study = json.loads((folder / "study.json").read_text())
    study["data"]["fingerprint"] = fingerprint
    (folder / "study.json").write_text(json.dumps(study))
    return folder


def test_studies_of_the_same_images_share_a_figure(tmp_path: Path) -> None:
    """Oracle: by hand: 64, 128 and 256 numbers; narrow has less error at the first two, wide at the
    last; 0.006 / 0.008."""
    folders = [
        made_study(tmp_path / "wide", WIDE, study="wide"),
        made_study(tmp_path / "narrow", NARROW, study="narrow"),
    ]
    page = Page(render_comparison(folders))
    assert (
        "wide has the lowest error, 0.00600, 0.75 times that of narrow. The Pareto fronts contain "
        "3 latent sizes. At each size, the studies are compared by their lowest error "
        "with a latent of at most that size. Number of sizes at which each study is the best: "
        "wide 1, narrow 2. Each error is the lowest of a study's "
        "trials (wide: 2 trials, narrow: 2 trials) and was measured in one run, so a small "
        "difference may be chance."
    ) in page.text
    assert page.having("id") == ["frontiers-0"]
    assert "wide: Trial 1 has" in " ".join(page.text.split()).replace(" :", ":")
    assert "has its own figure" not in page.text


def test_a_legend_shows_quotes_as_they_are(tmp_path: Path) -> None:
    """Oracle: what plotly reads: tags are escaped, and it would show `&#x27;` for a quote."""
    entries = read_entry([made_study(tmp_path / "s", WIDE, study="Ann's <b>")])
    assert draw_frontiers(entries).data[0].name == "Ann's &lt;b&gt;"


@pytest.mark.parametrize("why", ["images", "task"])
def test_errors_that_say_nothing_of_one_another_stand_apart(tmp_path: Path, why: str) -> None:
    """Oracle: a figure for each, and the reason."""
    one = made_study(tmp_path / "one", WIDE, study="one")
    task = "colourise" if why == "task" else "reconstruct"
    other = made_study(tmp_path / "other", NARROW, study="other", task=task)
    page = Page(render_comparison([one, with_images(other, "beef") if why == "images" else other]))
    assert page.having("id") == ["frontiers-0", "frontiers-1"]
    assert f"Not all studies have the same {why}." in page.text
    assert page.text.count("there is no other study of these images") == 2


def test_a_study_without_trials_is_compared_all_the_same(tmp_path: Path) -> None:
    """Oracle: the page says that there is nothing, and shows the other one."""
    folders = [made_study(tmp_path / "a", TRIALS, study="a"), made_study(tmp_path / "b", [])]
    text = Page(render_comparison(folders)).text
    assert "No trial is complete yet." in text
    assert "a has the lowest error" in text
    nothing = Page(render_comparison([folders[1], made_study(tmp_path / "c", [], study="c")]))
    assert "None of these studies has a trial with a measured error yet." in nothing.text


def test_hostile_names_are_text(tmp_path: Path) -> None:
    """Oracle: the elements of a page with harmless names, and no `<` in the figures' data."""
    pages = []
    for n, name in enumerate(("harmless", HOSTILE)):
        folders = [
            made_study(tmp_path / f"{n}{i}", trials, study=name + str(i), data=f"/d/{name}")
            for i, trials in enumerate((WIDE, NARROW))
        ]
        pages.append(Page(render_comparison(folders)))
    assert [tag for tag, _ in pages[0].elements] == [tag for tag, _ in pages[1].elements]
    assert not pages[1].having("onerror")
    assert "<" not in pages[1].scripts[1].replace("=>", "")


def test_the_command_compares_and_says_where(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Oracle: the contract: `comparison.html` where studies lie, or the file that is named; wrong
    use is one message, exit code 2, and nothing is written."""
    monkeypatch.setattr(
        report_data, "lacks_pictures_or_baselines", lambda folder: False
    )  # there are no images
    for name, trials in (("wide", WIDE), ("narrow", NARROW)):
        made_study(tmp_path / "r" / name, trials, study=name)
    where = ["--results", tmp_path / "r"]
    code, out, _ = run("report", "wide", "narrow", *where)
    assert (code, out) == (0, f"{tmp_path / 'r' / 'comparison.html'}\n")
    code, out, _ = run("report", "wide", "narrow", *where, "-o", tmp_path / "c.html")
    assert (code, out) == (0, f"{tmp_path / 'c.html'}\n")
    code, out, _ = run("report", "wide", *where, "-o", tmp_path / "one.html")
    assert (code, out) == (0, f"{tmp_path / 'one.html'}\n")
    before = sorted(tmp_path.rglob("*"))
    for arguments, message in (
        (["wide", "wide"], "is listed twice"),
        (["wide", "gone"], "gone: no study has this name"),
        (["wide", "narrow", "--png", tmp_path / "p"], "--png works with one study"),
        (["wide", "-o", tmp_path / "c.html" / "x"], "the page cannot be written there"),
    ):
        code, out, err = run("report", *arguments, *where)
        assert (code, out) == (2, "")
        assert message in err
        assert err.count("\n") == 1
    assert sorted(tmp_path.rglob("*")) == before


def test_images_of_the_figures(tmp_path: Path) -> None:
    """Oracle: Pillow reads them; the size that the contract names; not one colour alone."""
    pytest.importorskip("kaleido")
    folder = made_study(tmp_path / "s", WIDE)
    try:
        paths = write_images(folder, tmp_path / "p")
    except InputError as error:
        pytest.skip(str(error))
    assert "latent-error.png" in [path.name for path in paths]
    for path in paths:
        with Image.open(path) as image:
            assert image.width == 1800
            assert len(image.convert("RGB").getcolors(1 << 22) or []) > 5


def test_images_without_kaleido_are_one_message(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Oracle: the message names what is missing and how to get it; nothing is written."""
    real = builtins.__import__

    def without(name: str, *args: Any, **options: Any) -> Any:
        if name == "kaleido":
            raise ImportError(name)
        return real(name, *args, **options)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(InputError, match=r"--png: needs Kaleido: pip install 'raycae\[png\]'"):
        write_images(made_study(tmp_path / "s", WIDE), tmp_path / "p")
    assert not (tmp_path / "p").exists()


def test_a_long_study_is_thinned(tmp_path: Path) -> None:
    """Oracle: two thousand trials; the figure has at most 800 points beside the frontier and says
    so, the table a thousand rows, the page less than 4 MB, and what a click tells is there for
    each."""
    data = read_report_data(long_study(tmp_path / "long", 2000))
    sections = build_sections(data)
    page = render_sections(data, sections, [])
    (sizes,) = (section for section in sections if isinstance(section, LatentSizeSection))
    (table,) = (section for section in sections if isinstance(section, TrialTableSection))
    drawn = collect_figures(sections)
    known = json.loads(re.search("const known = (.*);", page)[1])  # type: ignore[index]
    markers = [trace for trace in drawn["latent-error"].data if trace.mode == "markers"]
    points = [trace for trace in markers if trace.customdata]
    seeds = [trace for trace in markers if not trace.customdata]
    n_points = sum(len(trace.x) for trace in points)
    assert 700 < n_points <= 800 + len(sizes.frontier)
    assert f"{n_points} of {sizes.n_points:,} trials are drawn" in page
    assert [len(trace.x) for trace in seeds] == [300]
    assert all(str(number) in known for trace in points for number in trace.customdata)
    slices = [figure for name, figure in drawn.items() if name.startswith("slice-")]
    assert len(slices) == 20
    assert all(sum(len(trace.x) for trace in figure.data) <= 200 for figure in slices)
    assert len(table.rows) == 1000
    assert len(page) < 4e6
