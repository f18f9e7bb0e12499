"""What checking the code for GPUs needs: torch, NumPy, pydantic and pytest."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = ROOT / "analysis" / "benchmarks" / "gpu_check.py"
INSTALLED = ("torch", "numpy", "pydantic", "pytest")
"""What a bare machine has, with all that these packages require."""

Run = Callable[..., subprocess.CompletedProcess[str]]


def list_missing() -> list[str]:
    """List the installed modules that a bare machine lacks."""
    installed, names = {"raycae"}, list(INSTALLED)
    while names:
        name = canonicalize_name(names.pop())
        with suppress(metadata.PackageNotFoundError):  # It is for another system.
            if name not in installed:
                required = map(Requirement, metadata.requires(name) or ())
                names += [r.name for r in required if not r.marker or r.marker.evaluate()]
        installed.add(name)
    return [
        module
        for module, packages in metadata.packages_distributions().items()
        if module.isidentifier() and installed.isdisjoint(map(canonicalize_name, packages))
    ]


@pytest.fixture
def run_bare(tmp_path: Path) -> Run:
    """Run Python in the checkout, without what a bare machine lacks."""
    folder = tmp_path / "bare"
    folder.mkdir()
    missing = list_missing()
    assert {"ray", "optuna", "plotly", "hypothesis", "pandas", "pyarrow", "yaml"} <= {*missing}
    for name in missing:
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
    """Oracle: the files with tests that are marked `gpu`. The command of the documentation collects
    tests of all of them without an error."""
    command = "-m pytest --confcutdir=tests/devices -m gpu tests/devices"
    for page in ("CONTRIBUTING.md", "docs/explanation/architecture.md"):
        assert f"python {command}" in (ROOT / page).read_text()
    done = run_bare(*command.split(), "--collect-only", "-p", "no:cacheprovider")
    assert done.returncode == 0, done.stdout + done.stderr
    marked = {
        str(path.relative_to(ROOT))
        for path in ROOT.glob("tests/**/test_*.py")
        if "mark.gpu" in path.read_text() and path != Path(__file__)
    }
    found = [line.partition("::") for line in done.stdout.splitlines() if "::" in line]
    assert {file for file, _, _ in found} == marked
    assert all("[cuda" in test or "on_the_gpu" in test for _, _, test in found)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_gpu_tests_are_skipped_without_a_gpu(run_bare: Run) -> None:
    """Oracle: the skip reason in the summary, and no test that ran."""
    command = "-m pytest --confcutdir=tests/devices -m gpu tests/devices -p no:cacheprovider"
    done = run_bare(*command.split())
    assert "no CUDA device" in done.stdout, done.stdout + done.stderr
    assert re.search(r"^\d+ skipped, \d+ deselected", done.stdout, re.MULTILINE), done.stdout


def test_the_gpu_check(run_bare: Run, tmp_path: Path) -> None:
    """Oracle: what fused training promises, and for each layer a convolution in float64. All
    sections run at the size `small`; the tables have the rows of the file."""
    images = tmp_path / "images.npy"
    np.save(images, np.random.default_rng(0).integers(0, 256, (64, 16, 16, 3), np.uint8))
    done = run_bare(SCRIPT, images, tmp_path / "out.json", "--size", "small")
    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads((tmp_path / "out.json").read_text())
    assert done.stdout.startswith(f"device: {found['device']}\n")
    for title, rows in found["sections"].items():
        table = done.stdout.partition(f"\n{title} (ended ")[2].split("\n\n")[1].splitlines()
        assert table[0] == f"| {' | '.join(rows[0])} |"
        assert len(table) == 2 + len(rows)
    fused, waits, nan, twice, speed, kernels, layers = found["sections"].values()
    assert len({row["network"] for row in fused}) == 7
    assert all(row["weights, difference"] < 1e-4 for row in fused)
    assert len(waits) == 3
    assert all(row["others equal to the bit"] and row["reported as diverged"] for row in nan)
    if not torch.cuda.is_available():
        assert all(row["equal to the bit"] for row in twice)
        assert {row["wait"] for row in waits} == {"not measured: needs CUDA"}
    for m in (1, 4):  # Memory formats do not change the numbers.
        errors = [row["train_mse"] for row in speed if row["members"] == m]
        assert errors == pytest.approx([errors[0]] * len(errors), rel=1e-4)
    assert all(row["total, us"] > 0 for row in kernels)
    assert len(layers) == 4 * 7
    for row in layers:
        assert row["difference"] < (0.01 if row["type"] == "bfloat16" or row["tf32"] else 1e-6)


def test_the_gpu_check_continues_after_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Oracle: sections with known errors. A case, and a section, that fails does not keep the
    others from running; the exit code is 1. After the time limit no case begins."""
    spec = importlib.util.spec_from_file_location("gpu_check", SCRIPT)
    script = importlib.util.module_from_spec(spec)  # type: ignore[arg-type]
    monkeypatch.setitem(sys.modules, "gpu_check", script)
    spec.loader.exec_module(script)  # type: ignore[union-attr]

    def divide(check: Any) -> list[dict[str, Any]]:
        return check.measure_cases([{"n": 0}, {"n": 2}], lambda n: {"half": 1 / n})

    def fail(check: Any) -> list[dict[str, Any]]:
        raise RuntimeError("out of | memory")

    monkeypatch.setattr(script, "configure_torch", lambda threads: None)
    monkeypatch.setattr(script, "SECTIONS", {"First": fail, "Second": divide})
    images, output = tmp_path / "images.npy", tmp_path / "out.json"
    np.save(images, np.zeros((4, 16, 16, 3), np.uint8))
    expected = [{"n": 0, "failed": "ZeroDivisionError: division by zero"}, {"n": 2, "half": 0.5}]
    late = [{"n": n, "left out": "no time left"} for n in (0, 2)]
    for seconds, rows in {"460": expected, "0": late}.items():
        words = ["gpu_check.py", str(images), str(output), "--size", "small", "--seconds", seconds]
        monkeypatch.setattr(sys, "argv", words)
        with pytest.raises(SystemExit) as end:
            script.main()
        assert end.value.code == 1
        assert json.loads(output.read_text())["sections"]["Second"] == rows
        assert "| RuntimeError: out of / memory |" in capsys.readouterr().out
