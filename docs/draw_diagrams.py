"""Draw the Mermaid diagrams of the documentation as SVG files, which the site shows.

GitHub draws the diagrams itself. Mermaid is a JavaScript library, so this needs its file and a
Chromium, and is run by hand after a diagram was changed:

    npm pack mermaid && tar -xzf mermaid-*.tgz package/dist/mermaid.min.js
    python docs/draw_diagrams.py package/dist/mermaid.min.js
"""

from __future__ import annotations

import hashlib
import re
import shutil
import sys
from pathlib import Path

DOCS = Path(__file__).parent
DIAGRAM = re.compile(r"^```mermaid\n(.*?)^```$", re.S | re.M)
"""A diagram in a page."""
OPTIONS = """{
    startOnLoad: false, theme: "neutral", htmlLabels: false,
    flowchart: { htmlLabels: false, useMaxWidth: false }, sequence: { useMaxWidth: false },
    fontFamily: "Helvetica, Arial, sans-serif",
}"""


def name_diagram(page: str, index: int) -> str:
    """Return the file name of a diagram, in the folder of its page.

    Args:
        page: Name of the page, such as `explanation/architecture`.
        index: Place of the diagram in its page, from 1.
    """
    return f"{Path(page).name}-{index}.svg"


def sign_diagram(source: str) -> str:
    """Return the comment in an SVG file that identifies its source.

    Args:
        source: The diagram in Mermaid.
    """
    return f"<!-- drawn from {hashlib.sha256(source.encode()).hexdigest()} -->"


def draw_diagrams(library: Path) -> None:
    """Draw all diagrams.

    Args:
        library: `mermaid.min.js`.
    """
    from playwright.sync_api import sync_playwright  # The site imports this file without it.

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=shutil.which("chromium"), args=["--no-sandbox"]
        )
        page = browser.new_page()
        page.add_script_tag(path=library)
        page.evaluate(f"mermaid.initialize({OPTIONS})")
        for path in sorted(DOCS.rglob("*.md")):
            for i, source in enumerate(DIAGRAM.findall(path.read_text(encoding="utf-8")), 1):
                svg = page.evaluate("async text => (await mermaid.render('g', text)).svg", source)
                # On white, because the site also has a dark scheme.
                svg = svg.replace("<svg ", '<svg style="background: white" ', 1)
                target = path.parent / name_diagram(path.stem, i)
                target.write_text(f"{svg}\n{sign_diagram(source)}\n", encoding="utf-8")
                print(target.relative_to(DOCS))
        browser.close()


if __name__ == "__main__":
    draw_diagrams(Path(sys.argv[1]))
