"""Render and write HTML pages."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jinja2
from plotly.offline import get_plotlyjs

from raycae.errors import InputError
from raycae.storage.files import write_atomic
from raycae.storage.paths import Place


def write_page(path: Place, page: str) -> Place:
    """Write a page, whole or not at all. Returns its path. Raises `InputError`."""
    if not path.parent.is_dir():
        raise InputError(f"{path}: the page cannot be written there: {path.parent} is no folder")
    # A path on the command line need not be UTF-8; the page has to be.
    write_atomic(path, page.encode("utf-8", errors="replace"))
    return path


def render_page(template: str, plots: dict[str, str], **values: Any) -> str:
    """An HTML page with everything inside; `plots`: plotly's JSON by the id of its place."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent / "templates"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    plotly = get_plotlyjs() if plots else None
    return environment.get_template(template).render(plots=plots, plotly=plotly, **values)
