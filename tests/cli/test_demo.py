"""`raycae demo`: an ordinary search with fixed options."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from conftest import Run

from raycae.cli import demo
from raycae.model.architecture import build_architecture
from raycae.space import loading


def test_the_demo_is_an_ordinary_search(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Oracle: the options of `raycae search --space demo`, and a last line with a command that this
    command line has."""
    searches: list[dict[str, Any]] = []
    monkeypatch.setattr(demo, "search", lambda **options: searches.append(options))
    code, out, err = run("demo", "--study", "first", "--results", tmp_path)
    assert (code, err) == (0, "")
    assert searches == [{"space": "demo", "study": "first", "results": str(tmp_path)}]
    assert out.splitlines()[-1].startswith("next     raycae search FOLDER")


def test_a_second_demo_names_the_command_that_continues_the_first(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Oracle: `raycae search`, which has the option `--resume`; `raycae demo` does not."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("RAYCAE_RESULTS", raising=False)
    for results in ("results", "my results"):
        (tmp_path / results / "demo").mkdir(parents=True)
        (tmp_path / results / "demo" / "study.json").write_text("{}")
    code, out, err = run("demo")
    assert (code, out) == (2, "")
    way_out = ", or choose another name with --study NAME.\n"
    assert err.endswith(f"Continue it with raycae search --resume --study demo{way_out}")
    code, out, err = run("demo", "--results", "my results")
    assert (code, out) == (2, "")
    assert err.endswith(f" --study demo --results '{tmp_path}/my results'{way_out}")


def test_the_points_have_one_latent_size_each() -> None:
    """Oracle: the issue that asked for the demo: 64, 128, 256 and 1,024 numbers, no download, and
    every trial of the budget is one of them."""
    space = loading.load_space("demo")
    sizes = [build_architecture(config).latent_size for config in space.points.values()]
    assert sizes == [64, 128, 256, 1024]
    assert space.file.data == "photos"
    assert space.budget.trials == len(sizes)
