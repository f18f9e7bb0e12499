"""Configuration of the documentation. `make docs` builds it; nothing is downloaded."""

from __future__ import annotations

import itertools
import os
import re
import sys
from importlib.metadata import version as get_version
from pathlib import Path

from sphinx.application import Sphinx

DOCS = Path(__file__).parent
ROOT = DOCS.parent
sys.path.insert(0, str(DOCS))

from draw_diagrams import DIAGRAM, name_diagram  # noqa: E402
from gallery import Gallery, write_reports  # noqa: E402
from reference_pages import Generated  # noqa: E402

project = "raycae"
author = "The raycae authors"
release = get_version("raycae")
html_title = f"raycae {release}"
html_theme = "furo"
html_show_copyright = False

extensions = [
    "myst_nb",  # the pages are Markdown (MyST) and notebooks
    "sphinx.ext.autodoc",  # the Python reference comes from the docstrings
    "sphinx.ext.napoleon",  # which are in Google style
    "sphinx_copybutton",  # a button that copies a block of commands
]
smartquotes = False  # Otherwise `--resume` gets a dash.
default_role = "code"  # Docstrings write code in single backticks, as Markdown does.
strip_signature_backslash = True  # Otherwise the option `from_` becomes a link.
autodoc_typehints = "description"
autodoc_typehints_description_target = "documented_params"
autodoc_member_order = "bysource"
python_use_unqualified_type_names = True
myst_heading_anchors = 4
nb_execution_mode = "off"  # Notebooks are kept with their outputs.

INCLUDED = {
    "findings": "analysis/FINDINGS.md",
    "contributing": "CONTRIBUTING.md",
    "changes": "CHANGELOG.md",
    "guide/cluster-files": "cluster/README.md",
}
"""Pages of the site whose text is a file outside this folder. The file here is empty."""
NOTEBOOKS = "notebooks/"
"""Folder of the notebooks, which are links to the files in `analysis/`."""
LINK = re.compile(r"\[([^\[\]]*)\]\(([^\s():#]+)(#[^\s()]*)?\)")
"""A Markdown link to a file: text, path, anchor."""


def adapt_page(app: Sphinx, page: str, source: list[str]) -> None:
    """Read a page from its place in the repository, and make its links work in the site.

    Args:
        app: The build.
        page: Name of the page.
        source: Its text, as the only entry.
    """
    path = Path(app.env.doc2path(page)).resolve()
    if page in INCLUDED:
        path = ROOT / INCLUDED[page]
        source[0] = path.read_text(encoding="utf-8")
    pages = {ROOT / file: DOCS / f"{name}.md" for name, file in INCLUDED.items()}

    def adapt_link(match: re.Match[str]) -> str:
        text, target, anchor = match[1], Path(os.path.normpath(path.parent / match[2])), match[3]
        if target.is_dir():
            return text  # The site has no page for it.
        if target.suffix == ".ipynb":
            return f"{{doc}}`{text} </{NOTEBOOKS}{target.stem}>`"
        target = pages.get(target, target)
        return f"[{text}]({os.path.relpath(target, (DOCS / page).parent)}{anchor or ''})"

    source[0] = replace_diagrams(page, LINK.sub(adapt_link, source[0]))


def replace_diagrams(page: str, text: str) -> str:
    """Show the Mermaid diagrams of a page as pictures, because Mermaid needs a download.

    Args:
        page: Name of the page.
        text: Its text.
    """
    indices = itertools.count(1)

    def show(match: re.Match[str]) -> str:
        headings = re.findall(r"^#+ (.*)$", text[: match.start()], re.M)
        alt = f"Diagram: {headings[-1]}"
        return f'```{{image}} {name_diagram(page, next(indices))}\n:alt: "{alt}"\n```'

    return DIAGRAM.sub(show, text)


def setup(app: Sphinx) -> None:
    """Register what this file defines.

    Args:
        app: The build.
    """
    app.connect("source-read", adapt_page)
    app.add_directive("generated", Generated)
    app.add_directive("gallery", Gallery)
    app.connect("build-finished", write_reports)
