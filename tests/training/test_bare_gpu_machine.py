"""What checking the code for GPUs needs: torch, NumPy, pydantic and pytest."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

ROOT = Path(__file__).resolve().parents[2]
MISSING = (
    *("ray", "optuna", "hypothesis", "pandas", "pyarrow", "plotly", "typer", "rich", "scipy"),
    *("skimage", "PIL", "torchvision", "fsspec", "safetensors"),
)
"""What a bare machine lacks."""

Run = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def run_bare(tmp_path: Path) -> Run:
    """Run Python in the checkout, without what a bare machine lacks."""
    folder = tmp_path / "bare"
    folder.mkdir()
    for name in MISSING:
        (folder / f"{name}.py").write_text(f"raise ModuleNotFoundError('no {name}')")
    paths = os.pathsep.join(map(str, (folder, ROOT)))
    environment = {**os.environ, "PYTHONPATH": paths, "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}

    def run(*arguments: object) -> subprocess.CompletedProcess[str]:
        words = [sys.executable, *map(str, arguments)]
        return subprocess.run(
            words, env=environment, cwd=ROOT, capture_output=True, text=True, check=False
        )

    return run


def test_gpu_tests_are_found(run_bare: Run) -> None:
    """Oracle: the tests that are marked `gpu`. The command of the documentation collects them, and
    without a GPU all of them are skipped with a reason."""
    command = ("-m", "pytest", "--confcutdir=tests/devices", "-m", "gpu", "tests/devices")
    done = run_bare(*command, "-p", "no:cacheprovider")
    assert "no CUDA device" in done.stdout, done.stdout + done.stderr
    assert "passed" not in done.stdout
    assert "error" not in done.stdout.lower()
    marked = [path for path in ROOT.glob("tests/**/test_*.py") if "mark.gpu" in path.read_text()]
    assert {path.parent.name for path in marked} - {"training"} == {"devices"}


SECTIONS = """
import json, runpy, sys
import numpy as np

script = runpy.run_path(sys.argv[1])
if is_short := sys.argv[3:] != ["all"]:
    for name in {*script["NETWORKS"]} - {"base"}:
        del script["NETWORKS"][name]
check = script["Check"](np.load(sys.argv[2]))
names = sys.argv[3:] if is_short else [*script["SECTIONS"]]
print(json.dumps({name: script["run_section"](name, check) for name in names}))
"""
"""Runs sections of gpu_check.py: those that are named for one network, or all."""
FUSED, NAN, TWICE = (
    "fused against separate training",
    "members beside one that is not a number",
    "the same run twice",
)


@pytest.fixture
def run_sections(run_bare: Run, tmp_path: Path) -> Callable[..., dict[str, Any]]:
    """Run sections of the check on noise."""
    draw = np.random.default_rng(0)
    np.save(tmp_path / "images.npy", draw.integers(0, 256, (64, 32, 32, 3), np.uint8))

    def run(*names: str) -> dict[str, Any]:
        script = ROOT / "analysis" / "benchmarks" / "gpu_check.py"
        done = run_bare("-c", SECTIONS, script, tmp_path / "images.npy", *names)
        assert done.returncode == 0, done.stderr
        assert "failed" not in done.stdout
        found: dict[str, Any] = json.loads(done.stdout)
        return found

    return run


def test_the_gpu_check(run_sections: Callable[..., dict[str, Any]]) -> None:
    """Oracle: what fused training promises: members learn what they learn alone. The check is
    ready for the first GPU, because it runs on a CPU at a small size."""
    found = run_sections(FUSED)
    assert found[FUSED]["base"]["weights apart"] < 1e-4
    assert not found[FUSED]["base"]["captured"]


@pytest.mark.long
def test_the_whole_gpu_check(run_sections: Callable[..., dict[str, Any]]) -> None:
    """Oracle: what fused training promises, and the sizes that the check has on a CPU."""
    found = run_sections("all")
    assert all(found[NAN]["others equal"])
    assert found[TWICE]["weights apart"] == 0
    assert set(found["synchronizations within a step"].values()) == {"none"}
    assert {row["m"] for row in found["speed of a group"]} == {1, 4}
    assert all(row["model-images/s"] > 0 for row in found["speed of a group"])
    assert len(found["convolutions"]) == 4 * 6
