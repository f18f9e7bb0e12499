"""The notebooks in `analysis/`, executed from top to bottom on the studies that ship with them."""

from __future__ import annotations

import json
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

from raycae import reproduction

ANALYSIS = Path(__file__).resolve().parents[1] / "analysis"
RECORDED = ANALYSIS / "recorded" / "reproduction"


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
    """Oracle: the same functions in this process: the sentence on the correlation, and how often
    each verdict was given. All cells run."""
    said = "".join(executed("reproduction.ipynb"))
    parts = [reproduction.read(RECORDED / name) for name in reproduction.SPACES]
    sentence = json.dumps(reproduction.correlation(parts[0].runs))[1:-1]
    assert sentence in said
    verdicts = [j.verdict for j in reproduction.judge(parts)]
    for verdict in set(verdicts):
        assert f"{verdict} " in said
        assert f" {verdicts.count(verdict)}" in said
    assert "application/vnd.plotly" in said


def test_the_recorded_study_is_a_real_one() -> None:
    """Oracle: what `study.json` has to say of a run: command, versions, images, hardware; and that
    it is small."""
    for name in reproduction.SPACES:
        part = reproduction.read(RECORDED / name)
        assert part.study["command"].startswith("raycae reproduce")
        assert part.study["data"]["n_train"] == 10_500
        assert set(part.trials["state"]) == {"COMPLETE"}
        assert part.study["commit"]
    size = sum(path.stat().st_size for path in RECORDED.rglob("*") if path.is_file())
    assert size < 1_000_000
