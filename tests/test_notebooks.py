"""The notebooks in `analysis/`, executed from top to bottom on the studies that ship with them."""

from __future__ import annotations

import json
import re
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

from raycae import reproduction

ANALYSIS = Path(__file__).resolve().parents[1] / "analysis"
RECORDED = ANALYSIS / "recorded" / "reproduction"
VERDICTS = {"upheld": 15, "contradicted": 2, "undecided": 23}


def executed(name: str) -> list[str]:
    """What each code cell put out, as text. Raises where one fails."""
    notebook = nbformat.read(ANALYSIS / name, as_version=4)
    NotebookClient(
        notebook, timeout=120, kernel_name="python3", resources={"metadata": {"path": ANALYSIS}}
    ).execute()
    return [json.dumps(cell.get("outputs", [])) for cell in notebook.cells]


@pytest.mark.parametrize("path", sorted(ANALYSIS.glob("*.ipynb")), ids=lambda path: path.name)
def test_notebooks_ship_without_output(path: Path) -> None:
    """Oracle: the file. Outputs would be out of date sooner or later, and are made in seconds."""
    notebook = nbformat.read(path, as_version=4)
    assert not any(cell.get("outputs") for cell in notebook.cells)


def test_the_reproductions_answers() -> None:
    """Oracle: what the recorded study is known to say (FINDINGS, "The source report"): the rank
    correlations, how often each verdict was given, and for one claim which. All cells run."""
    said = "".join(executed("reproduction.ipynb"))
    assert "Over all 19 experiments larger latents go with smaller errors" in said
    assert "(rank correlation \\u22120.70, \\u22120.89 to \\u22120.31)" in said
    for verdict, n in VERDICTS.items():
        assert re.search(rf"{verdict} +{n}\b", said), verdict
    assert re.search("Strided convolutions beat pooling.{0,200}?upheld", said)
    assert "application/vnd.plotly" in said


def test_the_recorded_study_is_a_real_one() -> None:
    """Oracle: what `study.json` has to say of a run: command, versions, images, hardware; and that
    it is small."""
    for name in reproduction.REPORT:
        part = reproduction.read(RECORDED / name)
        assert part.study["command"].startswith("raycae reproduce")
        assert part.study["data"]["n_train"] == 10_500
        assert set(part.trials["state"]) == {"COMPLETE"}
        assert part.study["commit"]
    size = sum(path.stat().st_size for path in RECORDED.rglob("*") if path.is_file())
    assert size < 1_000_000
