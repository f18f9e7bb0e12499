"""The report: sentences against numbers worked out by hand, and the page as a parser sees it; for a
browser see `test_browser`. The studies are made up: events folded by `Records`, as in a search."""

from __future__ import annotations

import json
import math
import random
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from PIL import Image

from raycae.config import resolve
from raycae.errors import InputError
from raycae.formatting import format_ratio
from raycae.report import trial_table
from raycae.report.page import lacks_pictures_or_baselines, render_report, write_report
from raycae.report.sections import pictures
from raycae.report.trials import select_best_per_latent_size, select_trials_to_picture
from raycae.study import tables
from raycae.study.records import COMPLETE, FAIL, PRUNED, RUNNING, Records
from raycae.study.tables import ALL, BEST, SAME, WORST

BEGUN = datetime(2026, 3, 1, 12, tzinfo=UTC)
HOSTILE = '<script>alert(\'x\')</script>"><img src=x onerror="boom()">'


@dataclass
class Trial:
    """A made-up trial: its settings and the validation error after each epoch."""

    curve: list[float]
    state: str = COMPLETE
    settings: dict[str, Any] = field(default_factory=dict)
    point: str | None = None
    change: str | None = None
    parent: int | None = None
    reason: str | None = None
    test_mse: float | None = None


def made_study(
    folder: Path,
    trials: list[Trial],
    *,
    task: str = "reconstruct",
    study: str = "made-up",
    data: str = "/somewhere/photos of mine",
    baselines: list[tuple[str, int | None, float]] | None = None,
    epochs: int = 4,
    asked: dict[str, Any] | None = None,
) -> Path:
    """A study's folder as a search leaves it, without a ledger."""
    folder.mkdir(parents=True, exist_ok=True)
    plan = {"study": study, "space": "ex2", "data": data, "trials": len(trials)}
    plan |= {"epochs": epochs, "limit": None, "seed": 7, "sampler": "tpe", "scheduler": "asha"}
    plan |= asked or {}
    content = {
        "study": study,
        "plan": plan,
        "space": {"name": "ex2", "hash": "0123abcd", "text": "task: reconstruct"},
        "task": task,
        "data": {"source": data, "fingerprint": "f00d", "n_train": 5000, "n_val": 1000},
        "created_at": BEGUN.isoformat(),
        "command": f"raycae search --space ex2 --study {study}",
        "versions": {"python": "3.11.2", "raycae": "0.1.0", "torch": "2.15.0"},
        "commit": "0123456789ab",
        "hardware": {
            "host": "node",
            "system": "Linux",
            "cpu": "Some CPU",
            "n_cpus": 2,
            "memory_bytes": 8 << 30,
            "gpus": [],
        },
    }
    (folder / "study.json").write_text(json.dumps(content))
    records = Records(study, n_images=5000)
    for number, trial in enumerate(trials):
        for event in _events(number, trial, task):
            records.apply(event)
    records.write(folder)
    if baselines is not None:
        frame = pd.DataFrame(baselines, columns=["baseline", "latent_size", "val_mse"])
        frame.insert(0, "data_fingerprint", "f00d")
        kinds = {"latent_size": "Int64", "val_mse": "Float64"}
        frame.assign(test_mse=frame["val_mse"]).astype(kinds).to_parquet(
            folder / "baselines.parquet", index=False
        )
    return folder


def _events(number: int, trial: Trial, task: str) -> list[dict[str, Any]]:
    common = {"trial_number": number, "at": BEGUN + timedelta(minutes=number), "attempt": 1}
    config = resolve({"task": task, **trial.settings}).to_json()
    events = [
        {"event": "created", "point": trial.point, "params": "{}", "config": config, "seed": 7}
        | {"change": trial.change, "parent": trial.parent},
        {"event": "started"},
    ]
    for epoch, value in enumerate(trial.curve, 1):
        measured = {
            "train_mse": value,
            "val_mse": value,
            "val_psnr_db": -10 * math.log10(max(value, 1e-10)),
        }
        events.append({"event": "epoch", "epoch": epoch, "epoch_time_s": 2.5, **measured})
    if trial.state != RUNNING:
        events.append({"event": "ended", "state": trial.state, "reason": trial.reason})
    if trial.test_mse is not None:
        events.append({"event": "evaluated", "test_mse": trial.test_mse})
    return [{**common, **event} for event in events]


MEAN = {"mse": 0.0012, "psnr_db": 21.26, "ssim": 0.914, "delta_e": 12.34, "chroma_error": 5.66}
MEAN |= {"hue_error": 4.44, "colourfulness": 18.0, "original_colourfulness": 20.0}


def painted(folder: Path, number: int, n_rows: int, **mean: float) -> Path:
    """Both sheets as `evaluation.paint` lays them out: rows of 12 pictures of 32 pixels, gaps of 2;
    and what is measured of them: on average `MEAN` but for what is given, and errors of 0.01 more
    for each picture from the left to the right."""
    shows = [SAME] * 12 + [BEST] * 6 + [WORST] * 6
    rows = [{**MEAN, **mean, "trial_number": number, "shows": ALL}]
    rows += [
        {**MEAN, "trial_number": number, "shows": of, "image": i, "mse": 0.01 * (i % 12 + 1)}
        for i, of in enumerate(shows)
    ]
    before = tables.read_pictures(folder)
    frame = pd.concat([before, pd.DataFrame(rows)])
    frame.astype({"image": "Int64"}).to_parquet(folder / "pictures.parquet", index=False)
    painted_before(folder, number, n_rows)
    shutil.copy(folder / "pictures" / f"{number}.png", folder / "pictures" / f"{number}-cases.png")
    return folder


def painted_before(folder: Path, number: int, n_rows: int) -> Path:
    """The sheet alone, as versions did that painted validation images."""
    (folder / "pictures").mkdir(exist_ok=True)
    sheet = Image.new("RGB", (12 * 34 - 2, n_rows * 34 - 2), "white")
    slope = Image.linear_gradient("L").resize((32, 32))
    for row in range(n_rows):
        for i in range(12):
            hue = Image.new("L", (32, 32), 21 * i)
            picture = Image.merge("HSV", (hue, slope.rotate(90), slope)).convert("RGB")
            sheet.paste(picture, (34 * i, 34 * row))
    sheet.save(folder / "pictures" / f"{number}.png")
    return folder


def plausible(folder: Path, n: int = 60, task: str = "reconstruct") -> Path:
    """`n` trials with errors that fall with the latent size, some stopped, some failed."""
    chance = random.Random(0)
    scale = 0.9 if task == "reconstruct" else 0.04
    trials = [Trial([scale * 0.011 * (1 + 2 / e) for e in range(1, 11)], point="base")]
    for _ in range(n - 1):
        channels = chance.choice([2, 4, 8, 16, 24, 32])
        depth = chance.choice([1, 2, 2, 3, 3, 4])
        settings = {
            "latent_channels": channels,
            "depth": depth,
            "channels": [chance.choice([8, 16, 24, 32]) for _ in range(depth)],
            "optimizer": chance.choice(["adam", "adamw", "rmsprop", "sgd"]),
            "lr": 10 ** chance.uniform(-4, -1.6),
            "batch_size": chance.choice([16, 32, 64, 128]),
            "upsample": chance.choice(["nearest", "bilinear", "pixel_shuffle"]),
        }
        size = channels * (32 >> depth) ** 2
        floor = scale * size**-0.55 * 0.18 * chance.lognormvariate(0.35, 0.35)
        curve = [floor * (1 + chance.uniform(1, 3) / epoch) for epoch in range(1, 11)]
        state = chance.choices([COMPLETE, PRUNED, FAIL], [6, 5, 1])[0]
        length = {COMPLETE: 10, PRUNED: chance.choice([1, 1, 3]), FAIL: chance.choice([0, 2])}[
            state
        ]
        reason = {PRUNED: f"asha after epoch {length}", FAIL: "diverged: loss is nan in epoch 3"}
        change = f"channels_1 8 → {settings['channels'][0]}"
        told = {"reason": reason.get(state), "change": change, "parent": 0}
        trials.append(Trial(curve[:length], state, settings, **told))
    trials[1].test_mse = trials[1].curve[-1] * 1.02 if trials[1].curve else None
    if task == "reconstruct":
        codes = [("linear", k, 0.9 * k**-0.78) for k in (64, 128, 256, 512, 1024, 2048)]
        codes += [("linear_4x4", 64 * k, 0.026 * k**-0.95) for k in range(1, 49)]
        codes += [("linear_8x8", 16 * k, 0.05 * k**-0.75) for k in range(1, 192)]
        levels = [("mean_colour", None, 0.0617)]
    else:
        codes = []
        levels = [("grey_copy", None, 0.00412), ("mean_chroma", None, 0.0038)]
        levels += [("luma_function", None, 0.00352)]
    made_study(folder, trials, task=task, baselines=codes + levels, epochs=10, study=folder.name)
    finished = [(t.curve[-1], i) for i, t in enumerate(trials) if t.state == COMPLETE]
    return painted(folder, min(finished)[1], 2 if task == "reconstruct" else 3)


class Page(HTMLParser):
    """What a browser would make of a page: its elements, the text outside scripts, the scripts."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.scripts: list[str] = []
        self.text = ""
        self._inside = ""
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        self._inside = tag
        if tag == "script":
            self.scripts.append("")

    def handle_endtag(self, tag: str) -> None:
        self._inside = ""

    def handle_data(self, data: str) -> None:
        if self._inside == "script":
            self.scripts[-1] += data
        elif self._inside != "style":
            self.text += " ".join(data.split()) + " "

    def having(self, attribute: str) -> list[str | None]:
        return [attrs[attribute] for _, attrs in self.elements if attribute in attrs]


BASELINES: list[tuple[str, int | None, float]] = [
    ("mean_colour", None, 0.05),
    ("linear", 1024, 0.004),
    ("linear_4x4", 1024, 0.002),
    ("linear_4x4", 512, 0.008),
]
TRIALS = [
    Trial([0.02, 0.008, 0.006, 0.005], point="base"),
    Trial([0.01, 0.004, 0.002, 0.001], settings={"channels": [16, 24]}, test_mse=0.0011),
    Trial([0.03], PRUNED, {"latent_channels": 8}, reason="asha after epoch 1"),
    Trial([], FAIL, {"lr": 1.0}, reason="diverged: loss is nan"),
    Trial([0.02], RUNNING, {"lr": 0.01}, reason="interrupted"),
]


def test_a_page_answers_with_the_numbers_of_its_study(tmp_path: Path) -> None:
    """Oracle: worked out by hand from `TRIALS` and `BASELINES`: 0.001 / 0.005, / 0.002, / 0.05."""
    folder = painted(made_study(tmp_path / "s", TRIALS, baselines=BASELINES), 1, n_rows=2)
    path = write_report(folder)
    assert path == folder / "report.html"
    page = Page(path.read_text(encoding="utf-8"))
    assert "2 COMPLETE, 1 PRUNED, 1 FAIL, 1 RUNNING" in page.text
    assert "Trial 1 reaches a validation error of 0.00100 (0.00110 on the test images)" in page.text
    assert "PSNR of 30.00 dB, through a latent of 1,024 numbers" in page.text
    assert (
        "Its error is 0.20 times that of the base point (trial 0), 0.50 times that of PCA of "
        "the same latent size (4 × 4 blocks) and 0.020 times that of doing nothing "
        "(mean colour)."
    ) in page.text
    assert (
        "From latent size 512 to 1,024 the least error falls from 0.03000 to 0.00100" in page.text
    )
    assert "Of 2 trials on the Pareto front" in page.text
    assert "1 has less error than the best PCA." in page.text
    assert "still improving when it ended: its last epoch, 4, took 50 % off" in page.text
    assert "1 trial was stopped early, after epoch 1." in page.text
    assert "photos of mine" in page.text
    assert "/somewhere" not in page.text
    assert "diverged: loss is nan" in page.text
    assert "Output" in page.text
    assert "Grey" not in page.text
    for said in ("Some CPU", "0123456789ab", "f00d", "raycae search --space ex2", "torch 2.15.0"):
        assert said in page.text
    assert "raycae report" not in page.text  # nothing is missing


SERIES = [
    Trial([0.004], settings={"task": "colourise"}),
    Trial([0.003], change="wide", parent=0),
    Trial([0.0035], change="slow", parent=0),
    Trial([0.0045], change="kernel-5", parent=1),
    Trial([0.0024], change="slow", parent=1),
    Trial([], FAIL, change="fast", parent=4),
    Trial([0.002], PRUNED, change="relu", parent=4),
    Trial([0.01], RUNNING, change="deep", parent=4),
]


def test_the_ladder_of_a_greedy_series(tmp_path: Path) -> None:
    """Oracle: by hand. Slow is better than the start, but wide was kept while it ran: it comes
    again on top of that. 0.0024 is 40 % off 0.004, and 20 % off 0.003."""
    page = render_report(made_study(tmp_path / "s", SERIES, epochs=1))
    section = page[page.index("<h2>The ladder</h2>") : page.index("<h2>What a latent")]
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
        "Of 5 changes 2 were kept: wide and slow. They take the error from 0.00400 to 0.00240, by "
        "40 %. 1 change had to be tried again, for another one was kept meanwhile."
    ) in Page(section).text
    alone = render_report(made_study(tmp_path / "a", SERIES[:1] + SERIES[3:4], epochs=1))
    assert "None of 1 change was better than the start." in Page(alone).text
    assert "The ladder" not in render_report(made_study(tmp_path / "t", TRIALS))


def test_trials_are_listed_best_first(tmp_path: Path) -> None:
    """Oracle: by hand; failed and without error last, then by number."""
    page = render_report(made_study(tmp_path / "s", TRIALS))
    listed = page[page.index('<table id="trials">') : page.index("<h2>How the search")]
    cells = [attrs for tag, attrs in Page(listed).elements if tag == "td"]
    n_columns = len(trial_table.COLUMNS)
    numbers = [cell["data-value"] for cell in cells[::n_columns]]
    assert numbers == ["1", "0", "4", "2", "3"]


def test_colourisation_compares_with_grey_and_shows_it(tmp_path: Path) -> None:
    """Oracle: by hand; there is no linear code to compare with."""
    levels = [("grey_copy", None, 0.004), ("mean_chroma", None, 0.0035)]
    folder = made_study(tmp_path / "s", TRIALS[:2], task="colourise", baselines=levels)
    page = Page(render_report(painted(folder, 1, n_rows=3)))
    assert "0.29 times that of doing nothing (mean chroma)" in page.text
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
    assert "pictures have not been painted" in page.text
    assert page.text.count("raycae report 'my study'") == 2
    assert "that of doing nothing" not in page.text


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
    """Oracle: its size, 4 to 6 MB; without a figure the page is small."""
    assert 4e6 < len(render_report(plausible(tmp_path / "s", n=8))) < 6e6
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
    folder = made_study(tmp_path / "s", trials, baselines=[("linear_4x4", 3072, 1e-31)])
    text = Page(render_report(folder)).text
    assert "It is the base point itself. PCA of that latent size loses nothing." in text
    assert "times that of PCA" not in text


FRONTIER = [
    Trial([0.02], settings={"latent_channels": 1}, test_mse=0.022),
    Trial([0.03], settings={"latent_channels": 2}, test_mse=0.03),
    Trial([0.01], settings={"latent_channels": 4}, test_mse=0.009),
    Trial([0.009], settings={"latent_channels": 4, "lr": 0.01}, test_mse=0.008),
]


def test_report_of_a_frontier(tmp_path: Path) -> None:
    """Oracle: by hand, four trials of 64, 128, 256 and 256 numbers. Each stratum's best on the
    frontier is shown, that of 128 numbers is on none; the line on test images has its own ratio;
    the sentence has the figure's numbers; the table counts the settings of one network."""
    asked = {"objective": "frontier", "strata": [64, 128, 256], "sampler": "strata", "settings": 2}
    lines = [("linear", 64, 0.01), ("linear", 256, 0.01), ("mean_colour", None, 0.06)]
    folder = made_study(tmp_path / "f", FRONTIER, baselines=lines, asked=asked)
    for number in (0, 3):
        painted(folder, number, 2)
    page = render_report(folder)
    assert (
        "The Pareto front has 2 trials, from 64 to 256 numbers per image. It lies below the best "
        "PCA of no larger size at 256 (0.90 times its error); on the test images at all of "
        "these."
    ) in page
    assert "Trial 3 reaches a validation error of 0.00900" in page
    assert "Latent size 64: trial 0, validation error 0.02000, 2.0 times that of PCA." in page
    assert "Latent size 256: trial 3, validation error 0.00900, 0.90 times that of PCA." in page
    assert page.count("<figure data-trial=") == 2
    assert page.count("<figure>") == 1  # the best and worst images
    assert re.search(r">0\.90</td><td class=\"number\">0\.80</td>", page)
    decades = (2 * math.log10(3) + math.log10(0.06 / 0.009)) / 3  # over three doublings
    assert f"lies a factor of {10**decades:.1f} below an error of 0.06000" in page
    assert 'id="growth"' in page
    assert 'id="cost-error"' not in page
    settings = re.findall(r'<td class="number" data-value="(\d)">\1</td></tr>', page)
    assert sorted(settings) == ["1", "1", "2", "2"]
    assert not lacks_pictures_or_baselines(folder)
    (folder / "pictures" / "0.png").unlink()
    assert lacks_pictures_or_baselines(folder)


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
        "have a PSNR of 21.3 dB and an SSIM of 0.91; their colours are off by Delta E 12.3" in text
    )
    assert "least error of trial 1, from 0.01000, and those with the largest, up to 0.12000" in text
    assert "The difference is output less original, 4 times as strong" in text
    assert text.count("Error " + " ".join(f"{i / 100:.5f}" for i in range(1, 13))) == 2
    assert "paler" not in text
    assert "chroma" not in text
    folder = made_study(tmp_path / "c", TRIALS, task="colourise")
    text = section(render_report(painted(folder, 1, n_rows=4, colourfulness=9.8)))
    assert "off by Delta E 12.3, their chroma by 5.7 and their hue by 4.4" in text
    assert "pictures of trial 1 are paler than their originals" in text
    assert "is 9.8 on average where that of the originals is 20.0: 0.49 times as much" in text


@pytest.mark.parametrize(
    ("output", "original", "warns"),
    [(0.0, 0.0, False), (5.0, 0.0, False), (0.0, 5.0, True), (4.1, 5.0, False), (3.9, 5.0, True)],
)
def test_a_warning_of_pale_pictures(output: float, original: float, warns: bool) -> None:
    """Oracle: by hand, four fifths; originals without colour have none to lose."""
    mean = {**MEAN, "colourfulness": output, "original_colourfulness": original}
    assert (pictures.warn_if_pale(0, mean) is not None) == warns


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
    assert "Of 19 latent sizes 6 are shown" in page
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
        "From 1,656 to 2,307 (parameters) the least error falls from 0.02000 to 0.00900, by a "
        "factor of 2.2 for 1.4 times the cost."
    ) in page
    assert "PCA lies" not in page
    assert "over parameters from" in page


def test_importing_the_report_loads_neither_ray_nor_torch() -> None:
    """Oracle: the modules of a fresh process."""
    code = "import sys, raycae.report.page; print({'ray', 'torch'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
