"""The documentation site: it builds without warnings, and its reference is complete."""

from __future__ import annotations

import hashlib
import html
import inspect
import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import raycae
from raycae.cli import main
from raycae.config import Config
from raycae.data.membership import Membership
from raycae.execution.search_options import OPTIONS
from raycae.space.schema import SpaceFile
from raycae.study.records import Records
from raycae.study.tables import BASELINE_COLUMNS, PICTURE_COLUMNS

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The site, built as `make docs` does: a warning is an error."""
    folder = tmp_path_factory.mktemp("site")
    options = ["-q", "-W", "--keep-going", "-b", "html", "-d", folder / "doctrees"]
    done = subprocess.run(
        [sys.executable, "-m", "sphinx", *options, "docs", folder / "html"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return folder / "html"


def read_text(markup: str) -> str:
    """Return the text of HTML, with single blanks."""
    return " ".join(html.unescape(re.sub(r"<[^>]+>", "", markup)).split())


def read_section(page: str, title: str) -> str:
    """Return the HTML of the innermost section with a heading that begins with `title`."""
    for part in re.split(r"<section", page):
        heading = re.search(r"<h\d>(.*?)</h\d>", part, re.S)
        if heading and read_text(heading[1]).removesuffix("¶") == title:
            return part
    raise AssertionError(f"there is no section {title!r}")


def read_rows(markup: str) -> dict[str, list[str]]:
    """Return the cells of each row of all tables, by the text of the first cell."""
    rows = {}
    for row in re.findall(r"<tr.*?</tr>", markup, re.S):
        first, *others = map(read_text, re.findall(r"<td[^>]*>(.*?)</td>", row, re.S) or [""])
        rows[first] = others
    return rows


def test_the_readme_is_short() -> None:
    """Oracle: at most 120 lines; everything else is in `docs/`."""
    assert len((ROOT / "README.md").read_text(encoding="utf-8").splitlines()) <= 120


def test_the_faq_has_answers() -> None:
    """Oracle: at least 15 different headings that end with a question mark, each followed by text
    and not by the next heading."""
    text = (ROOT / "docs" / "faq.md").read_text(encoding="utf-8")
    answers = dict(re.findall(r"^### (.*\?)\n+(.*)", text, re.M))
    assert len(answers) == len(re.findall(r"^### ", text, re.M)) >= 15
    assert all(answer and not answer.startswith("#") for answer in answers.values())


def test_every_page_is_reached(site: Path) -> None:
    """Oracle: the Markdown files of `docs/`."""
    pages = sorted(path.relative_to(ROOT / "docs") for path in (ROOT / "docs").rglob("*.md"))
    navigation = (site / "index.html").read_text(encoding="utf-8")
    for page in pages:
        assert (site / page).with_suffix(".html").exists()
        assert f'href="{page.with_suffix(".html")}"' in navigation or page.stem == "index"


@pytest.mark.parametrize("name", main.COMMANDS)
def test_every_option_is_in_the_reference(site: Path, name: str) -> None:
    """Oracle: the command itself: each name of an option or argument, and its help."""
    page = (site / "reference" / "commands.html").read_text(encoding="utf-8")
    section = read_section(page, f"raycae {name}")
    command = main.load_command(name)
    text, rows = read_text(section), read_rows(section)
    for paragraph in command.help.replace("`", "").split("\n\n"):
        assert " ".join(paragraph.removeprefix("Example: ").split()) in text
    for param in command.params:
        names = param.opts if param.param_type_name == "option" else [param.metavar]
        row = next(
            row for row in rows if names[0] in re.split(r"[ ,\[\]]+", row) or names[0] == row
        )
        assert all(each in row for each in [*names, *param.secondary_opts])
        assert " ".join(param.help.replace("`", "").split()) in rows[row][0]


def test_every_setting_is_in_the_reference(site: Path) -> None:
    """Oracle: the fields of `Config`; each has values, a default and a meaning."""
    rows = read_rows((site / "reference" / "settings.html").read_text(encoding="utf-8"))
    assert rows.keys() - {""} == Config.model_fields.keys()
    assert all(all(rows[name]) for name in Config.model_fields)


def test_every_key_of_a_space_is_in_the_reference(site: Path) -> None:
    """Oracle: the JSON Schema of a space file."""
    page = (site / "reference" / "space-file.html").read_text(encoding="utf-8")
    schema: dict[str, Any] = SpaceFile.model_json_schema()
    titles = {
        "Budget": "budget",
        "Constraints": "constraints",
        "Bounds": "A range in constraints",
        "FloatParameter": "A parameter of type: float",
        "IntParameter": "A parameter of type: int",
        "CategoricalParameter": "A parameter of type: categorical",
    }
    models = {title: schema["$defs"][name] for name, title in titles.items()}
    for title, model in {"The file": schema, **models}.items():
        rows = read_rows(read_section(page, title))
        assert rows.keys() - {""} == model["properties"].keys()
        assert all(all(rows[name]) for name in model["properties"])
    assert schema["$defs"].keys() == {*titles, "Settings", "UpperBound"}
    assert schema["$defs"]["UpperBound"]["properties"].keys() <= {"max"}  # Part of a range.


def test_every_column_is_in_the_reference(site: Path) -> None:
    """Oracle: the tables that the code writes."""
    page = (site / "reference" / "tables.html").read_text(encoding="utf-8")
    membership = Membership(["train"], ["a.png"], np.zeros(1, np.uint64))
    splits = pq.read_table(pa.BufferReader(membership.to_parquet()))
    for name, columns in {
        "trials": Records().trials_table().column_names,
        "epochs": Records().epochs_table().column_names,
        "baselines": BASELINE_COLUMNS,
        "pictures": PICTURE_COLUMNS,
        "splits": splits.column_names,
    }.items():
        rows = read_rows(read_section(page, f"{name}.parquet"))
        assert [row for row in rows if row] == list(columns)
        assert all(all(rows[column]) for column in columns)


@pytest.mark.parametrize(
    ("code", "exception"),
    [
        ("2", "InputError"),
        ("1", "StorageError"),
        ("1", "SearchAborted"),
        ("1", "Unfinished"),
        ("130", "KeyboardInterrupt"),
        ("143", "SearchInterrupted"),
    ],
)
def test_exit_codes(site: Path, code: str, exception: str) -> None:
    """Oracle: the contract of the command line (README, docs/guide/searching.md)."""
    page = (site / "reference" / "exit-codes.html").read_text(encoding="utf-8")
    cells = [read_text(cell) for cell in re.findall(r"<td[^>]*>(.*?)</td>", page, re.S)]
    assert cells[cells.index(exception) - 1] == code


def test_every_public_name_is_in_the_reference(site: Path) -> None:
    """Oracle: `raycae.__all__`, and the public members of its classes; the text below each name is
    the first line of its docstring."""
    page = (site / "reference" / "python.html").read_text(encoding="utf-8")
    names = {name: getattr(raycae, name) for name in raycae.__all__ if name != "__version__"}
    for reader in ("StudyReader", "Codec"):
        members = inspect.getmembers(names[reader])
        names |= {f"{reader}.{name}": each for name, each in members if name[0] != "_"}
    for name, documented in names.items():
        assert f'id="raycae.{name}"' in page, name
        first, *_ = (inspect.getdoc(documented) or "").splitlines()
        assert read_text(first.replace("`", "")) in read_text(page), name
    for option in OPTIONS:
        assert f">{option}</" in page


def test_diagrams_are_in_step_with_their_pictures(site: Path) -> None:
    """Oracle: the checksum of the Mermaid text in each SVG file; the site shows the files."""
    drawn = []
    for page in sorted((ROOT / "docs").rglob("*.md")):
        sources = re.findall(r"^```mermaid\n(.*?)^```$", page.read_text(), re.S | re.M)
        for i, source in enumerate(sources, 1):
            picture = page.with_name(f"{page.stem}-{i}.svg")
            checksum = hashlib.sha256(source.encode()).hexdigest()
            assert f"drawn from {checksum} " in picture.read_text(), (
                f"{picture.name} is older than its diagram; see docs/draw_diagrams.py"
            )
            drawn.append(picture.name)
    assert drawn == ["architecture-1.svg", "architecture-2.svg"]
    page = (site / "explanation" / "architecture.html").read_text(encoding="utf-8")
    assert re.findall(r'src="\.\./_images/(architecture-\d\.svg)"', page) == drawn
    assert "flowchart TD" not in page


def test_the_gallery_has_live_reports(site: Path) -> None:
    """Oracle: the tables of the recorded studies; the files that the page links to."""
    page = (site / "gallery.html").read_text(encoding="utf-8")
    links = dict.fromkeys(re.findall(r'href="(gallery/[^"]+)"', page))
    assert len(links) >= 4
    for link in links:
        assert "Plotly.react(place" in (site / link).read_text(encoding="utf-8"), link
    for study in ("curves/ex2", "curves/ex3"):
        trials = pd.read_parquet(ROOT / "analysis" / "recorded" / study / "trials.parquet")
        best = trials[trials["state"] == "COMPLETE"].sort_values("val_mse").iloc[0]
        assert f"Trial {best['trial_number']} has a validation error of" in page
        assert f"{len(trials)} trials of up to" in page


def test_notebooks_are_pages_with_outputs(site: Path) -> None:
    """Oracle: the notebooks in `analysis/`; each output of text and each figure is in its page."""
    paths = sorted((ROOT / "analysis").glob("*.ipynb"))
    assert len(paths) >= 4
    for path in paths:
        page = (site / "notebooks" / f"{path.stem}.html").read_text(encoding="utf-8")
        n_figures = 0
        for cell in json.loads(path.read_text(encoding="utf-8"))["cells"]:
            for output in cell.get("outputs", []):
                n_figures += "image/png" in output.get("data", {})
                for line in output.get("text", []):
                    assert read_text(html.escape(line)) in read_text(page), path.name
        assert page.count("_images/") >= n_figures > 0, path.name


def test_the_site_needs_no_network(site: Path) -> None:
    """Oracle: the scripts, styles and pictures of all pages are files of the site."""
    for path in site.rglob("*.html"):
        text = re.sub(r"<script>.*?</script>", "", path.read_text(encoding="utf-8"), flags=re.S)
        loaded = re.findall(
            r'<(?:script|img|link rel="stylesheet")[^>]*?(?:src|href)="(http[^"]+)', text
        )
        assert loaded == [], path.name
