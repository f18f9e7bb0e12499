"""The documentation site: it builds without warnings, and its reference is complete."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The site, built as `make docs` does: a warning is an error."""
    folder = tmp_path_factory.mktemp("site")
    done = subprocess.run(
        [sys.executable, *"-m sphinx -q -W --keep-going -b html -d".split()]
        + [folder / "doctrees", "docs", folder / "html"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return folder / "html"


def test_every_page_is_reached(site: Path) -> None:
    """Oracle: the Markdown files of `docs/`."""
    pages = sorted(path.relative_to(ROOT / "docs") for path in (ROOT / "docs").rglob("*.md"))
    navigation = (site / "index.html").read_text(encoding="utf-8")
    for page in pages:
        assert (site / page).with_suffix(".html").exists()
        assert f'href="{page.with_suffix(".html")}"' in navigation or page.stem == "index"
