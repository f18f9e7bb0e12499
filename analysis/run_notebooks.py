"""Run the notebooks in this folder and keep their outputs: python analysis/run_notebooks.py

Figures are kept as PNG, which GitHub and the documentation site show; in JupyterLab they are
interactive once a cell is run again. This needs Chromium and Kaleido (`pip install 'raycae[png]'`).
"""

from __future__ import annotations

import base64
import io
import os
from pathlib import Path

import nbformat
from nbclient import NotebookClient
from PIL import Image

ANALYSIS = Path(__file__).resolve().parent
COLOURS = 64
"""Number of colours of a figure; more would triple the size of the file and look the same."""


def run_notebook(path: Path) -> nbformat.NotebookNode:
    """Run a notebook from top to bottom.

    Args:
        path: The notebook.
    """
    notebook = nbformat.read(path, as_version=4)
    resources = {"metadata": {"path": ANALYSIS}}
    NotebookClient(notebook, timeout=300, kernel_name="python3", resources=resources).execute()
    return notebook


def clean_notebook(notebook: nbformat.NotebookNode) -> None:
    """Make the outputs small, and remove what differs between runs or machines.

    Args:
        notebook: The notebook, which is changed.
    """
    notebook.metadata.pop("language_info", None)
    for cell in notebook.cells:
        cell.metadata.pop("execution", None)
        for output in cell.get("outputs", []):
            data = output.get("data", {})
            if "image/png" in data:
                data["image/png"] = shrink_picture(data["image/png"])
            if "text/plain" in data:
                data["text/plain"] = data["text/plain"].replace(f"{ANALYSIS}{os.sep}", "")


def shrink_picture(png: str) -> str:
    """Reduce the colours of a picture, and put it on white.

    Args:
        png: The PNG file in base64.
    """
    buffer = io.BytesIO()
    with Image.open(io.BytesIO(base64.b64decode(png))) as image:
        white = Image.new("RGBA", image.size, "white")  # Reports let the page show through.
        flat = Image.alpha_composite(white, image.convert("RGBA")).convert("RGB")
        flat.quantize(COLOURS).save(buffer, "PNG", optimize=True)
    return base64.b64encode(buffer.getvalue()).decode()


if __name__ == "__main__":
    os.environ["PLOTLY_RENDERER"] = "png"
    for path in sorted(ANALYSIS.glob("*.ipynb")):
        notebook = run_notebook(path)
        clean_notebook(notebook)
        nbformat.write(notebook, path)
        print(path.name)
