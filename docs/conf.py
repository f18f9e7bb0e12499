"""Configuration of the documentation. `make docs` builds it; nothing is downloaded."""

from __future__ import annotations

import os
import re
import sys
from importlib.metadata import version as get_version
from pathlib import Path

from pygments.lexers.special import TextLexer
from sphinx.application import Sphinx

DOCS = Path(__file__).parent
ROOT = DOCS.parent
sys.path.insert(0, str(DOCS))

from reference_pages import Generated  # noqa: E402

project = "raycae"
author = "The raycae authors"
release = get_version("raycae")
html_title = f"raycae {release}"
html_theme = "furo"
html_show_copyright = False

extensions = [
    "myst_parser",  # the pages are Markdown
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

INCLUDED = {
    "findings": "analysis/FINDINGS.md",
    "contributing": "CONTRIBUTING.md",
    "changes": "CHANGELOG.md",
    "guide/cluster-files": "cluster/README.md",
}
"""Pages of the site whose text is a file outside this folder. The file here is empty."""
LINK = re.compile(r"\[([^\[\]]*)\]\(([^\s():#]+)(#[^\s()]*)?\)")
"""A Markdown link to a file: text, path, anchor."""


def adapt_page(app: Sphinx, page: str, source: list[str]) -> None:
    """Read a page from its place in the repository, and make its links work in the site.

    Args:
        app: The build.
        page: Name of the page.
        source: Its text, as the only entry.
    """
    path = ROOT / INCLUDED[page] if page in INCLUDED else DOCS / f"{page}.md"
    if page in INCLUDED:
        source[0] = path.read_text(encoding="utf-8")
    pages = {ROOT / file: DOCS / f"{name}.md" for name, file in INCLUDED.items()}

    def adapt_link(match: re.Match[str]) -> str:
        text, target, anchor = match[1], Path(os.path.normpath(path.parent / match[2])), match[3]
        if target.is_dir() or target.suffix == ".ipynb":
            return text  # The site has no page for it.
        target = pages.get(target, target)
        return f"[{text}]({os.path.relpath(target, (DOCS / page).parent)}{anchor or ''})"

    source[0] = LINK.sub(adapt_link, source[0])


def setup(app: Sphinx) -> None:
    """Register what this file defines.

    Args:
        app: The build.
    """
    app.connect("source-read", adapt_page)
    app.add_directive("generated", Generated)
    app.add_lexer("mermaid", TextLexer)  # Diagrams are shown as text: Mermaid needs a download.
