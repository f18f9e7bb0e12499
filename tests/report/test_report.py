"""The report: sentences against numbers worked out by hand, and the page as a parser sees it; for a
browser see `test_browser`. The studies are made up; see `made_studies`."""

from __future__ import annotations

import json
import math
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from made_studies import (
    BASELINES,
    HOSTILE,
    MEAN,
    SERIES,
    TRIALS,
    Page,
    Trial,
    made_study,
    painted,
    painted_before,
    plausible,
)
from plotly.offline import get_plotlyjs_version
from synthetic_study import long_study

from raycae.errors import InputError
from raycae.formatting import format_ratio
from raycae.report.html import get_plotlyjs
from raycae.report.page import (
    build_sections,
    collect_figures,
    render_report,
    render_sections,
    write_report,
)
from raycae.report.report_data import lacks_pictures_or_baselines, read_report_data
from raycae.report.sections import pictures
from raycae.report.sections.trial_table import COLUMNS
from raycae.report.trial_details import describe_trial
from raycae.report.trials import select_best_per_latent_size, select_trials_to_picture
from raycae.study import tables
from raycae.study.records import COMPLETE, FAIL, PRUNED, RUNNING


def test_a_page_answers_with_the_numbers_of_its_study(tmp_path: Path) -> None:
    """Oracle: worked out by hand from `TRIALS` and `BASELINES`: 0.001 / 0.005, / 0.002, / 0.05."""
    folder = painted(made_study(tmp_path / "s", TRIALS, baselines=BASELINES), 1, n_rows=2)
    path = write_report(folder)
    assert path == folder / "report.html"
    page = Page(path.read_text(encoding="utf-8"))
    assert "2 COMPLETE, 1 PRUNED, 1 FAIL, 1 INTERRUPTED" in page.text
    assert "Trial 1 has a validation error of 0.00100 (0.00110 on the test images)" in page.text
    assert "PSNR of 30.00 dB. Its latent has 1,024 numbers per image" in page.text
    assert (
        "Its error is 0.20 times that of the space's base configuration (trial 0), 0.50 times that "
        "of PCA of the same latent size (4 × 4 blocks) and 0.020 times that of a trivial "
        "baseline (mean colour)."
    ) in page.text
    assert (
        "From latent size 512 to 1,024, the lowest error falls from 0.03000 to 0.00100" in page.text
    )
    assert (
        "1 of the 2 trials on the Pareto front has less error than the best PCA of the same size "
        "or smaller."
    ) in page.text
    assert (
        "still improving when it ended: its last epoch, 4, reduced the error by 50 %." in page.text
    )
    assert "1 trial was stopped early, after epoch 1." in page.text
    assert "photos of mine" in page.text
    assert "/somewhere" not in page.text
    assert "diverged: loss is nan" in page.text
    assert "Output" in page.text
    assert "Grey" not in page.text
    for said in ("Some CPU", "0123456789ab", "f00d", "raycae search --space ex2", "torch 2.15.0"):
        assert said in page.text
    assert "raycae report" not in page.text  # nothing is missing
    drawings = [attrs for tag, attrs in page.elements if tag == "svg"]
    assert len(drawings) == 2  # of the best trial, and below its pictures
    assert all(attrs["aria-label"].startswith("conv 3-") for attrs in drawings)
    assert "Below each sheet is its network" in page.text


def test_the_ladder_of_a_greedy_series(tmp_path: Path) -> None:
    """Oracle: by hand. Slow is better than the start, but wide was kept while it ran: it comes
    again on top of that. 0.0024 is 40 % off 0.004, and 20 % off 0.003."""
    page = render_report(made_study(tmp_path / "s", SERIES, epochs=1))
    section = page[page.index("<h2>Greedy steps</h2>") : page.index("<h2>What mattered</h2>")]
    rows = [re.findall(r"<td[^>]*>(.*?)</td>", row) for row in section.split("<tr")[2:]]
    assert rows == [
        ["0", "start", "–", "0.00400", "–", "start"],
        ["1", "wide", "0 (start)", "0.00300", "−25.0 %", "kept"],
        ["2", "slow", "0 (start)", "0.00350", "−12.5 %", "again"],
        ["3", "kernel-5", "1 (wide)", "0.00450", "+50.0 %", "dropped"],
        ["4", "slow", "1 (wide)", "0.00240", "−20.0 %", "kept"],
        ["5", "fast", "4 (slow)", "–", "–", "dropped, failed"],
        ["6", "relu", "4 (slow)", "0.00200", "–", "dropped, stopped early"],
    ]
    assert (
        "2 of 5 changes were kept: wide and slow. Together they reduce the error from 0.00400 to "
        "0.00240, by 40 %. 1 change had to be tried again, because another change was kept in the "
        "meantime."
    ) in Page(section).text
    alone = render_report(made_study(tmp_path / "a", SERIES[:1] + SERIES[3:4], epochs=1))
    assert "None of 1 change was better than the start." in Page(alone).text
    assert "Greedy steps" not in render_report(made_study(tmp_path / "t", TRIALS))


def test_details_of_a_trial_without_a_complete_epoch(tmp_path: Path) -> None:
    """Oracle: by hand. A trial that failed before its first epoch ended has completed none."""
    trials = [Trial([0.02, 0.01]), Trial([], FAIL, reason="out of memory"), Trial([0.03], PRUNED)]
    rows = read_report_data(made_study(tmp_path / "s", trials)).ranked.select(range(3))
    assert {number: describe_trial(row)[0] for number, row in rows.items()} == {
        0: "trial 0: COMPLETE after 2 epochs",
        1: "trial 1: FAIL in its first epoch",
        2: "trial 2: PRUNED after 1 epoch",
    }


def test_trials_are_listed_best_first(tmp_path: Path) -> None:
    """Oracle: by hand; failed and without error last, then by number."""
    page = render_report(made_study(tmp_path / "s", TRIALS))
    listed = page[page.index('<table id="trials">') : page.index("<h2>How the search")]
    cells = [attrs for tag, attrs in Page(listed).elements if tag == "td"]
    n_columns = len(COLUMNS)
    numbers = [cell["data-value"] for cell in cells[::n_columns]]
    assert numbers == ["1", "0", "4", "2", "3"]


def test_colourisation_compares_with_grey_and_shows_it(tmp_path: Path) -> None:
    """Oracle: by hand; there is no linear code to compare with."""
    levels = [("grey_copy", None, 0.004), ("mean_chroma", None, 0.0035)]
    folder = made_study(tmp_path / "s", TRIALS[:2], task="colourise", baselines=levels)
    page = Page(render_report(painted(folder, 1, n_rows=3)))
    assert "0.29 times that of a trivial baseline (mean chroma)" in page.text
    assert "PCA" not in page.text
    rows = [page.text.index(row) for row in ("Original", "Grey", "Output", "Difference")]
    assert rows == sorted(rows)


@pytest.mark.parametrize(
    "trials",
    [
        [],
        [Trial([], RUNNING)],
        [Trial([0.02], RUNNING)],
        [Trial([], FAIL, reason="CUDA out of memory")],
        [Trial([0.02], PRUNED), Trial([0.02], FAIL)],
    ],
    ids=["empty", "begun", "running", "failed", "stopped"],
)
def test_without_a_complete_trial_there_is_a_page_that_says_so(
    tmp_path: Path, trials: list[Trial]
) -> None:
    """Oracle: the contract; a page, and no offer of a command that could not help."""
    page = Page(render_report(made_study(tmp_path / "s", trials)))
    assert "No trial is complete yet" in page.text
    assert "raycae report" not in page.text
    assert ("No trial yet" in page.text) == (not trials)


def test_a_study_cut_off_before_its_first_trial_has_a_page(tmp_path: Path) -> None:
    """Oracle: `create_study` writes `study.json` before there is any table."""
    folder = made_study(tmp_path / "s", [])
    for table in ("trials", "epochs"):
        (folder / f"{table}.parquet").unlink()
    assert "No trial yet" in Page(render_report(folder)).text


def test_no_study_is_wrong_input(tmp_path: Path) -> None:
    """Oracle: the contract of `InputError`."""
    with pytest.raises(InputError, match=r"study\.json"):
        write_report(tmp_path)


@pytest.mark.parametrize("fingerprint", [None, "other"])
def test_an_interrupted_search_says_what_is_missing(
    tmp_path: Path, fingerprint: str | None
) -> None:
    """Oracle: neither pictures nor baselines, or those of other images, and the command for them,
    as a shell wants the name."""
    folder = made_study(tmp_path / "s", TRIALS, study="my study")
    if fingerprint:
        made_study(tmp_path / "o", TRIALS, baselines=BASELINES)
        frame = pd.read_parquet(tmp_path / "o" / "baselines.parquet")
        frame.assign(data_fingerprint=fingerprint).to_parquet(folder / "baselines.parquet")
    page = Page(render_report(folder))
    assert "baselines have not been measured on these images" in page.text
    assert "pictures have not been drawn yet" in page.text
    assert page.text.count("raycae report 'my study'") == 2
    assert "that of a trivial baseline" not in page.text


def test_hostile_names_are_text(tmp_path: Path) -> None:
    """Oracle: a page of the same study with harmless names has the same elements, attributes that
    are code, and scripts up to the data of the figures, in which there is no `<`."""
    pages = {}
    for study, name in (("harmless", "base"), (HOSTILE, HOSTILE)):
        trials = [
            Trial([0.02, 0.01, 0.02, 0.03], point=name),
            Trial([0.02], PRUNED, reason=name, settings={"lr": 0.01}),
            Trial([], FAIL, reason=name),
            Trial([0.005], change=name, parent=0),
        ]
        levels = [("mean_colour", None, 0.05), (name, None, 0.04), (f"linear{name}", 64, 0.03)]
        folder = made_study(
            tmp_path / str(len(pages)), trials, study=study, data=f"/d/{name}", baselines=levels
        )
        pages[study] = Page(render_report(painted(folder, 0, n_rows=2)))
    harmless, hostile = pages["harmless"], pages[HOSTILE]
    assert [tag for tag, _ in hostile.elements] == [tag for tag, _ in harmless.elements]
    assert not hostile.having("onerror")
    assert len(hostile.scripts) == 3
    library, drawing, sorting = hostile.scripts
    assert (library, sorting) == (harmless.scripts[0], harmless.scripts[2])
    assert "<" not in drawing
    assert "alert" in hostile.text


def test_nothing_is_fetched(tmp_path: Path) -> None:
    """Oracle: every address in the page's own elements is a data URI, and the policy in its head
    forbids the rest, whatever the scripts try."""
    page = Page(render_report(plausible(tmp_path / "s", n=8)))
    assert [
        address[:5]
        for name in ("src", "href", "srcset", "data", "action")
        for address in page.having(name)
        if address
    ] == ["data:"] * 2
    assert not [tag for tag, _ in page.elements if tag in ("link", "iframe", "object", "base")]
    (policy,) = [
        attrs["content"]
        for _, attrs in page.elements
        if attrs.get("http-equiv") == "Content-Security-Policy"
    ]
    assert policy is not None
    assert policy.startswith("default-src 'none'; img-src data:;")
    assert "http" not in policy


def test_plotly_is_there_once_or_not_at_all(tmp_path: Path) -> None:
    """Oracle: the size of plotly's basic bundle, 1.2 MB; without a figure the page is small."""
    assert 1.1e6 < len(render_report(plausible(tmp_path / "s", n=8))) < 1.8e6
    assert len(render_report(made_study(tmp_path / "t", []))) < 2e4


def test_long_studies_have_a_table_of_1000_rows(tmp_path: Path) -> None:
    """Oracle: 1,001 trials; the page says how many it leaves out."""
    page = render_report(made_study(tmp_path / "s", [Trial([0.01])] * 1001, epochs=1))
    table = page[page.index('<table id="trials">') : page.index("<h2>How the search")]
    assert table.count("<tr") == 1 + 1000
    assert "the first 1000 of 1001" in Page(page).text


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.62, "0.62"), (1.84, "1.8"), (0.0123, "0.012"), (1.0, "1.0"), (140.2, "140"), (0.0, "0.0")],
)
def test_ratios_have_two_digits(value: float, text: str) -> None:
    """Oracle: by hand."""
    assert format_ratio(value) == text


def test_a_latent_as_large_as_the_picture_is_called_that(tmp_path: Path) -> None:
    """Oracle: a linear code of 3072 numbers is exact but for rounding; there is no factor."""
    trials = [Trial([0.01], settings={"latent_channels": 48}, point="base")]
    folder = made_study(tmp_path / "s", trials, baselines=[("pca_4x4", 3072, 1e-31)])
    text = Page(render_report(folder)).text
    assert (
        "The best trial is the space's base configuration. The error of PCA of that latent size is "
        "0." in text
    )
    assert "times that of PCA" not in text


FRONTIER = [
    Trial([0.02], settings={"latent_channels": 1}, test_mse=0.022),
    Trial([0.03], settings={"latent_channels": 2}, test_mse=0.03),
    Trial([0.01], settings={"latent_channels": 4}, test_mse=0.009),
    Trial([0.009], settings={"latent_channels": 4, "lr": 0.01}, test_mse=0.008),
]
FRONTIER_PLAN = {
    "objective": "frontier",
    "strata": [64, 128, 256],
    "sampler": "strata",
    "settings": 2,
}
BASIC_TRACES = {"bar", "pie", "scatter"}
"""What the basic bundle of plotly.js draws, by its documentation."""


def test_report_of_a_frontier(tmp_path: Path) -> None:
    """Oracle: by hand, four trials of 64, 128, 256 and 256 numbers. Each stratum's best on the
    frontier is shown, that of 128 numbers is on none; the line on test images has its own ratio;
    the sentence has the figure's numbers; the table counts the settings of one network."""
    lines = [("pca", 64, 0.01), ("pca", 256, 0.01), ("mean_colour", None, 0.06)]
    folder = made_study(tmp_path / "f", FRONTIER, baselines=lines, asked=FRONTIER_PLAN)
    for number in (0, 3):
        painted(folder, number, 2)
    page = render_report(folder)
    assert (
        "The Pareto front has 2 trials, with latents of 64 to 256 numbers per image. Compared with "
        "the best PCA of the same size or smaller, its error is lower at 256 numbers (0.90 times), "
        "and higher at 64 (2.0). On the test images, it is also lower at 256 numbers."
    ) in page
    assert "Trial 3 has a validation error of 0.00900" in page
    assert "Latent size 64: trial 0, validation error 0.02000, 2.0 times that of PCA." in page
    assert "Latent size 256: trial 3, validation error 0.00900, 0.90 times that of PCA." in page
    assert page.count("<figure data-trial=") == 2
    assert page.count("<figure>") == 1  # the best and worst images
    for ratios in (["0.90", "0.80", "–"], ["2.0", "2.2", "64"]):  # No PCA has an error of 0.009.
        assert ">" + '</td><td class="number">'.join(ratios) + "</td>" in page
    decades = (2 * math.log10(3) + math.log10(0.06 / 0.009)) / 3  # over three doublings
    assert f"a factor of {10**decades:.1f} below the reference." in page
    assert 'id="growth"' in page
    assert 'id="cost-error"' not in page
    settings = re.findall(r'<td class="number" data-value="(\d)">\1</td></tr>', page)
    assert sorted(settings) == ["1", "1", "2", "2"]
    assert not lacks_pictures_or_baselines(folder)
    (folder / "pictures" / "0.png").unlink()
    assert lacks_pictures_or_baselines(folder)


def test_few_trials_have_no_figures_of_parameters(tmp_path: Path) -> None:
    """Oracle: the constants of `importance`. Below ten configurations one sentence says how many
    are needed; nothing is drawn, and nothing is said of pairs that do not exist."""
    page = render_report(long_study(tmp_path / "few", 4, repeats=False))
    text = Page(page[page.index("<h2>What mattered</h2>") :]).text
    assert " ".join(text[: text.index("Learning curves")].split()) == (
        "What mattered Parameters are not ranked yet. Ranking needs 50 different configurations "
        "with a measured error; this study has 4. The figures of parameters need 10."
    )
    enough = render_report(long_study(tmp_path / "enough", 12, repeats=False))
    assert "The figures of this section need" not in enough
    assert "What the best have in common" in enough


def test_shapes_are_drawn_where_they_can_be_compared(tmp_path: Path) -> None:
    """Oracle: by hand. Latents of 2 x 8 x 8 and of 8 x 8 x 8 have different sizes, so the trials
    cannot tell spatial size from channels; 8 x 4 x 4 is another shape of 128 numbers."""
    trials = [Trial([0.03], settings={"latent_channels": n, "depth": 2}) for n in (2, 8)]
    page = render_report(made_study(tmp_path / "one", trials))
    assert "these trials cannot tell the two apart" in page
    assert "latent-positions" not in page
    assert "latent-channels" not in page
    trials.append(Trial([0.04], settings={"latent_channels": 8, "depth": 3}))
    page = render_report(made_study(tmp_path / "two", trials))
    assert "cannot tell the two apart" not in page
    assert 'id="latent-positions"' in page
    assert 'id="latent-channels"' in page


def test_checks_of_early_stopping_are_explained(tmp_path: Path) -> None:
    """Oracle: the page says "check" and what it is where it draws one, and never "rung"."""
    page = render_report(made_study(tmp_path / "s", TRIALS))
    assert '"text":"check"' in page
    assert "At each dotted line, early stopping checks the trials" in page
    assert "rung" not in Page(page).text
    assert '"rung"' not in page
    asked = {"scheduler": "none"}
    page = render_report(made_study(tmp_path / "n", TRIALS[:2], asked=asked))
    assert "At each dotted line" not in page
    assert '"text":"check"' not in page


def test_a_frontier_has_no_improvements(tmp_path: Path) -> None:
    """Oracle: by hand. 256 numbers have less error than 64, which is no improvement; with equal
    sizes it is one. Without a Pareto front, the lowest error is what the study is about."""

    def render(name: str, trials: list[Trial], **how: Any) -> str:
        return " ".join(
            Page(render_report(made_study(tmp_path / name, trials, **how))).text.split()
        )

    asked = {"objective": "frontier"}
    sizes = [Trial([0.04 / n], settings={"latent_channels": n}) for n in (1, 4)]
    page = render("f", sizes, asked=asked)
    assert "The best so far" not in page
    assert "The lowest error fell" not in page
    assert "What improvements cost" not in page
    assert "Training time Epochs took 5 s, summed over workers." in page
    same = [Trial([0.04], settings={"lr": 0.1}), Trial([0.01], settings={"lr": 0.01})]
    for page in (render("same", same, asked=asked), render("best", sizes)):
        assert "The best so far The lowest error fell from 0.04000 to 0.01000" in page
        assert "What improvements cost Epochs took 5 s, summed over workers." in page


def test_every_figure_has_a_place(tmp_path: Path) -> None:
    """Oracle: what the script of the page needs. Each figure has one element, each element has a
    figure, and the basic bundle of plotly.js draws the type of every trace."""
    shown: set[str] = set()
    for folder in (
        plausible(tmp_path / "many", n=30),
        made_study(tmp_path / "few", TRIALS, baselines=BASELINES),
        made_study(tmp_path / "series", SERIES, task="colourise", epochs=1),
        made_study(tmp_path / "frontier", FRONTIER, asked=FRONTIER_PLAN),
    ):
        data = read_report_data(folder)
        sections = build_sections(data)
        figures = collect_figures(sections)
        places = [
            attributes["id"]
            for _, attributes in Page(render_sections(data, sections, ())).elements
            if "plot" in (attributes.get("class") or "").split()
        ]
        assert sorted(map(str, places)) == sorted(figures)
        assert {trace.type for figure in figures.values() for trace in figure.data} <= BASIC_TRACES
        shown |= set(figures)
    assert {"growth", "ladder", "latent-error", "pairs", "timeline"} <= shown


@pytest.mark.parametrize(
    ("objective", "base", "is_compared"),
    [("frontier", 0, False), ("frontier", 2, True), ("val_mse", 0, True)],
)
def test_a_base_of_another_size_is_not_compared(
    tmp_path: Path, objective: str, base: int, is_compared: bool
) -> None:
    """Oracle: by hand. The best trial has 256 numbers, as trial 2; trial 0 has 64. On a Pareto
    front the larger latent explains the difference."""
    trials = list(FRONTIER)
    trials[base] = replace(trials[base], point="base")
    page = render_report(made_study(tmp_path / "f", trials, asked={"objective": objective}))
    assert ("that of the space&#39;s base configuration" in page) == is_compared


def test_the_strip_has_the_original_and_a_row_for_each_size(tmp_path: Path) -> None:
    """Oracle: six images of 32 pixels with gaps of 2, in three rows; by hand, the PSNR of the test
    errors 0.022 and 0.008. `test_browser` compares the colours."""
    asked = {"objective": "frontier", "strata": [64, 256], "sampler": "strata"}
    folder = made_study(tmp_path / "f", FRONTIER, asked=asked)
    for number in (0, 3):
        painted(folder, number, 3, psnr_db=20.0 + number)
    page = Page(render_report(folder))
    (strip,) = [attributes for tag, attributes in page.elements if tag == "canvas"]
    assert strip["aria-label"] == (
        "6 test images in 3 rows: original; 64 numbers, 16.6 dB; 256 numbers, 21.0 dB"
    )
    assert (strip["width"], strip["height"]) == (str(6 * 34 - 2), str(3 * 34 - 2))
    (folder / "pictures.parquet").unlink()
    assert "6 test images" not in render_report(folder)


def test_the_strip_says_which_sizes_it_leaves_out(tmp_path: Path) -> None:
    """Oracle: by hand, of seven latent sizes from 64 to 448 numbers. Six have pictures, evenly from
    the first to the last (round half to even), and four of those are in the strip."""
    trials = [Trial([0.1 / n], settings={"latent_channels": n}) for n in range(1, 8)]
    folder = made_study(tmp_path / "f", trials)
    for number in range(7):
        painted(folder, number, 3)
    page = render_report(folder)
    assert "4 of 7 latent sizes are shown: 64, 192, 320 and 448. No trial was trained on" in page
    folder = made_study(tmp_path / "all", trials[:4])
    for number in range(4):
        painted(folder, number, 3)
    assert "latent sizes are shown" not in render_report(folder)


def test_the_strip_has_pca_where_it_was_drawn(tmp_path: Path) -> None:
    """Oracle: one sheet has four rows; the sheet of the other trial is of a version without PCA.
    The page says what PCA is. `test_browser` compares the colours. The labels have the PSNR of the
    test errors 0.022, 0.008 and 0.01."""
    asked = {"objective": "frontier", "strata": [64, 256], "sampler": "strata"}
    lines = [("pca", 64, 0.01), ("pca", 256, 0.01)]
    folder = made_study(tmp_path / "f", FRONTIER, baselines=lines, asked=asked)
    painted(folder, 0, 3)
    painted(folder, 3, 4)
    before = render_report(folder)
    frame = pd.read_parquet(folder / "pictures.parquet")
    mean = frame[(frame["trial_number"] == 3) & (frame["shows"] == "all")]
    frame = pd.concat([frame, mean.assign(shows="pca", psnr_db=19.5)])
    frame.to_parquet(folder / "pictures.parquet", index=False)
    page = render_report(folder)
    explained = "the best PCA whose latent is no larger than the model"
    assert (before.count(explained), page.count(explained)) == (0, 2)
    (strip,) = [attributes for tag, attributes in Page(page).elements if tag == "canvas"]
    assert strip["aria-label"] == (
        "6 test images in 4 rows: original; 64 numbers, 16.6 dB; 256 numbers, 21.0 dB; PCA, 20.0 dB"
    )


def test_the_bundle_is_that_of_the_pinned_plotly() -> None:
    """Oracle: the version in the header of the bundle that plotly's Python package ships."""
    header = get_plotlyjs()[:100]
    assert f"plotly.js (basic - minified) v{get_plotlyjs_version()}" in header


def section(page: str) -> str:
    """The text of the pictures' section, without the names of the sheets' rows."""
    start = page.index("<h2>What it looks like</h2>")
    return Page(page[start : page.index("</section>", start)]).text


def test_what_is_said_of_the_pictures(tmp_path: Path) -> None:
    """Oracle: by hand, from `MEAN` and errors of 0.01 to 0.12. 18 is 0.9 times 20 and no reason
    for a warning, 9.8 is 0.49 times."""
    folder = painted(made_study(tmp_path / "r", TRIALS), 1, n_rows=3)
    text = section(render_report(folder))
    assert (
        "have a mean PSNR of 21.3 dB and an SSIM of 0.91; their colours are off by Delta E 12.3"
        in text
    )
    assert (
        "lowest errors (left, from 0.01000) and the highest errors (right, up to 0.12000)" in text
    )
    assert "The difference is output minus original, amplified 4 times" in text
    assert text.count("Error " + " ".join(f"{i / 100:.5f}" for i in range(1, 13))) == 2
    assert "paler" not in text
    assert "chroma" not in text
    folder = made_study(tmp_path / "c", TRIALS, task="colourise")
    text = section(render_report(painted(folder, 1, n_rows=4, colourfulness=9.8)))
    assert "off by Delta E 12.3, their chroma by 5.7 and their hue by 4.4" in text
    assert "pictures of trial 1 are paler than their originals" in text
    assert "is 9.8, 0.49 times that of the originals, 20.0" in text


@pytest.mark.parametrize(
    ("n", "n_shown", "stopped", "all_complete"),
    [
        (5, 3, "those whose best trial was not stopped early", None),
        (9, 6, "spread evenly over those whose best trial was not stopped early", "evenly from"),
    ],
)
def test_what_is_said_of_the_selection(
    tmp_path: Path, n: int, n_shown: int, stopped: str, all_complete: str | None
) -> None:
    """Oracle: by hand, of n latent sizes; the best trials of the first two were stopped early, or
    all are complete. Six are shown at most."""
    states = [PRUNED, PRUNED, *[COMPLETE] * (n - 2)]
    sizes = [{"latent_channels": at + 1} for at in range(n)]
    trials = [Trial([0.1 - at / 100], states[at], sizes[at]) for at in range(n)]
    text = section(render_report(painted(made_study(tmp_path / "s", trials), n - 1, n_rows=3)))
    assert (
        f"{n_shown} of {n} latent sizes are shown, {stopped}. The best trial is included." in text
    )
    trials = [Trial(trial.curve, settings=trial.settings) for trial in trials]
    text = section(render_report(painted(made_study(tmp_path / "a", trials), n - 1, n_rows=3)))
    if all_complete is None:
        assert "latent sizes are shown" not in text
    else:
        assert (
            f"6 of {n} latent sizes are shown, {all_complete} the smallest to the largest" in text
        )


@pytest.mark.parametrize(
    ("output", "original", "warns"),
    [(0.0, 0.0, False), (5.0, 0.0, False), (0.0, 5.0, True), (4.1, 5.0, False), (3.9, 5.0, True)],
)
def test_a_warning_of_pale_pictures(output: float, original: float, warns: bool) -> None:
    """Oracle: by hand, four fifths; originals without colour have none to lose."""
    mean = {**MEAN, "colourfulness": output, "original_colourfulness": original}
    assert (pictures.warn_if_pale(0, mean) is not None) == warns


def test_each_sheet_belongs_to_its_trial(tmp_path: Path) -> None:
    """Oracle: by hand. Trial 0 has no pictures yet, so the only sheet is that of trial 1."""
    trials = [Trial([0.02], settings={"latent_channels": 1}), Trial([0.006])]
    page = Page(render_report(painted(made_study(tmp_path / "s", trials), 1, n_rows=2)))
    assert page.having("data-trial") == ["1"]


def test_sheets_of_older_versions_are_shown_as_what_they_are(tmp_path: Path) -> None:
    """Oracle: a folder as they left it: validation images, the original below, no errors; and
    `raycae report` paints anew where it can."""
    folder = painted_before(made_study(tmp_path / "s", TRIALS, baselines=BASELINES), 1, n_rows=2)
    text = section(render_report(folder))
    assert text.index("Output") < text.index("Original")
    assert "These are validation images" in text
    assert "test images" not in text
    assert "Error" not in text
    assert "Difference" not in text
    assert lacks_pictures_or_baselines(folder)


def test_of_many_latent_sizes_six_are_shown(tmp_path: Path) -> None:
    """Oracle: by hand. 20 sizes, of which the one of trial 12 is best; trial 20, stopped, has less
    error than any of its size; trial 21 has more. Every fourth size or so, the ends among them."""
    settings = [{"latent_channels": n} for n in range(1, 21)]
    trials = [Trial([0.01 + abs(i - 12) / 1000], settings=s) for i, s in enumerate(settings)]
    trials += [Trial([0.001], PRUNED, settings[4]), Trial([0.02], settings=settings[12])]
    folder = made_study(tmp_path / "s", trials)
    table = tables.read_trials(folder)
    stand = select_best_per_latent_size(table, None)
    assert stand == [*range(4), *range(5, 20)]
    shown = select_trials_to_picture(table, None)
    assert shown == [0, 5, 8, 12, 15, 19]
    for number in shown:
        painted(folder, number, n_rows=3)
    page = render_report(folder)
    assert "6 of 20 latent sizes are shown" in page
    assert page.count("<figure data-trial=") == 6
    assert page.count("<figure>") == 1  # the best and worst images


def test_report_of_another_cost(tmp_path: Path) -> None:
    """Oracle: there is a figure of that cost, and no linear code to compare its growth with; errors
    and parameters of its cheapest and its best trial by hand."""
    folder = made_study(
        tmp_path / "f", FRONTIER, asked={"objective": "frontier", "cost": "n_params"}
    )
    page = render_report(folder)
    assert 'id="cost-error"' in page
    assert (
        "The lowest error falls from 0.02000 (parameters: 1,656) to 0.00900 (2,307): 1.4 times the "
        "cost reduces it by a factor of 2.2."
    ) in page
    assert "PCA of the same size or smaller is a factor" not in page
    assert "(parameters), the error of the Pareto front is" in page


def test_importing_the_report_loads_neither_ray_nor_torch() -> None:
    """Oracle: the modules of a fresh process."""
    code = "import sys, raycae.report.page; print({'ray', 'torch'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


@pytest.mark.parametrize("text", ["{", "[]", '{"lr": "fast"}', '{"image_size": 8, "depth": 4}'])
def test_a_damaged_configuration_is_one_message(tmp_path: Path, text: str) -> None:
    """Oracle: the number of the trial; the configurations are checked where they are described."""
    folder = made_study(tmp_path / "s", TRIALS)
    table = pd.read_parquet(folder / "trials.parquet")
    table.loc[1, "config"] = text
    table.to_parquet(folder / "trials.parquet")
    with pytest.raises(InputError, match=r"^trials\.parquet: trial 1: config: "):
        render_report(folder)


def test_trials_outside_the_searched_ranges_have_no_slices(tmp_path: Path) -> None:
    """Oracle: by hand: each trial is a named point, whose learning rate is above the range, so that
    no trial has a value on the axis of a parameter."""
    text = "task: reconstruct\nparams:\n  lr: {type: float, low: 1.0e-4, high: 1.0e-3}\n"
    folder = made_study(tmp_path / "s", [Trial([0.02], point="a"), Trial([0.03], point="b")])
    path = folder / "study.json"
    content = json.loads(path.read_text())
    path.write_text(json.dumps(content | {"space": {**content["space"], "text": text}}))
    page = render_report(folder)
    assert "What mattered" in page
    assert "Every parameter against the error" not in page
