"""Render and write HTML pages."""

from __future__ import annotations

import base64
import io
from functools import cache
from pathlib import Path
from typing import Any

import jinja2
from PIL import Image

from raycae.errors import InputError
from raycae.storage.files import write_atomic
from raycae.storage.paths import Place

MOST_PIXELS = 10_000_000
"""Largest number of pixels of a picture that is decoded; a sheet of 12 images of 256 pixels has 3
million."""
PLOTLY_BASIC = Path(__file__).parent / "assets" / "plotly-basic.min.js"
"""The basic bundle of plotly.js (scatter, bar and pie traces), from the npm package
`plotly.js-basic-dist-min` in the version that the pinned plotly ships as its full bundle. It is a
quarter of that bundle's size. MIT licence, see `plotly-LICENSE.txt` in the same folder."""


def get_plotlyjs() -> str:
    """Read the JavaScript that draws the figures of a page."""
    return PLOTLY_BASIC.read_text(encoding="utf-8")


def write_page(path: Place, page: str) -> Place:
    """Write an HTML page; either the whole file appears or nothing changes.

    Args:
        path: The file to write.
        page: The HTML text.

    Returns:
        The path.

    Raises:
        InputError: The folder of `path` does not exist.
    """
    if not path.parent.is_dir():
        raise InputError(f"{path}: the page cannot be written there: {path.parent} is not a folder")
    # A path on the command line need not be UTF-8; the page has to be.
    write_atomic(path, page.encode("utf-8", errors="replace"))
    return path


def make_image_uri(png: bytes) -> str:
    """Write a picture into a data URI, as lossless WebP, which is a quarter smaller than PNG.

    Args:
        png: The picture as PNG. It stays PNG if it is damaged, very large, or WebP is missing.
    """
    kind, content = "png", png
    try:
        with Image.open(io.BytesIO(png), formats=("PNG",)) as image:
            if image.width * image.height <= MOST_PIXELS:
                buffer = io.BytesIO()
                image.save(buffer, "WEBP", lossless=True)
                if len(buffer.getvalue()) < len(png):
                    kind, content = "webp", buffer.getvalue()
    except Exception:  # Pillow raises many types for a damaged file, which the browser may show.
        pass
    return f"data:image/{kind};base64,{base64.b64encode(content).decode()}"


def render_page(template: str, plots: dict[str, str], **values: Any) -> str:
    """Render an HTML page that contains everything it needs.

    Args:
        template: A file name under `templates/`.
        plots: The JSON of plotly figures by the `id` of their element.
        values: The variables of the template.
    """
    plotly = get_plotlyjs() if plots else None
    loaded = _make_environment().get_template(template)
    return loaded.render(plots=plots, plotly=plotly, **values)


@cache
def _make_environment() -> jinja2.Environment:
    """Make the environment of all pages.

    It keeps compiled templates: compiling one takes 17 ms of CPU (analysis/FINDINGS.md).
    """
    return jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent / "templates"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
