"""`raycae search PATH`, and what a search says before it starts."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import Run
from made_studies import TRIALS, Trial, made_study
from PIL import Image

from raycae.cli.search import expand_path
from raycae.execution import runner
from raycae.execution.search_options import complete_options
from raycae.report.reader import StudyReader


@pytest.fixture
def pictures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a folder `summer 2026` with 40 images, next to the current folder's results."""
    folder = tmp_path / "summer 2026"
    folder.mkdir()
    for number in range(40):
        Image.fromarray(np.full((8, 8, 3), number, np.uint8)).save(folder / f"{number}.png")
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("RAYCAE_RESULTS", raising=False)
    return folder


def test_a_path_is_short_for_options(
    run: Run, pictures: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Oracle: the documented options that PATH is short for; the name is free."""
    searches: list[dict[str, Any]] = []

    def run_search(**options: Any) -> StudyReader:
        searches.append(options)
        return StudyReader(made_study(Path("results", options["study"]).absolute(), TRIALS[:4]))

    monkeypatch.setattr(runner, "run_search", run_search)
    (pictures.parent / "results" / "summer-2026").mkdir(parents=True)
    code, out, err = run("search", pictures, "--trials", "5")
    assert (code, err) == (0, "")
    (options,) = searches
    expected = {"data": str(pictures), "space": "folder", "study": "summer-2026-2", "trials": "5"}
    assert options == complete_options(expected)
    assert out.splitlines()[-1].startswith("next     raycae search --resume --study summer-2026-2")


@pytest.mark.parametrize(
    ("trials", "n_planned", "is_shown"),
    [(TRIALS[:4], 4, True), (TRIALS[:4], 9, False), (TRIALS, 5, False)],
)
def test_more_networks_are_offered_only_after_a_whole_search(
    run: Run,
    pictures: Path,
    monkeypatch: pytest.MonkeyPatch,
    trials: list[Trial],
    n_planned: int,
    is_shown: bool,
) -> None:
    """Oracle: by hand: the command names the options that say where the study is. It is not printed
    if trials are missing, as after --hours, or if one has not ended, as `TRIALS[4]`."""
    folder = made_study(
        pictures.parent / "my results" / "mine", trials, asked={"trials": n_planned}
    )
    monkeypatch.setattr(runner, "run_search", lambda **_: StudyReader(folder))
    options = ("--study", "mine", "--results", "my results", "--storage", "sqlite:///all.db")
    code, out, err = run("search", pictures, *options)
    assert (code, err) == (0, "")
    command = (
        f"next     raycae search --resume --study mine --results '{folder.parent}' "
        f"--storage sqlite:///{pictures.parent}/all.db --trials +8   # more networks"
    )
    assert out.splitlines() == [command] * is_shown


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({"study": "mine"}, ("folder", "mine")),
        ({"space": "frontier"}, ("frontier", "summer-2026")),
    ],
)
def test_other_options_combine_with_a_path(
    pictures: Path, given: dict[str, str], expected: tuple[str, str]
) -> None:
    """Oracle: by hand."""
    options = expand_path(f"{pictures}?splits=no", complete_options(given))
    assert (options["space"], options["study"]) == expected
    assert options["data"] == f"{pictures}?splits=no"


def test_a_search_says_what_it_will_do(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Oracle: the space ex3: CIFAR-10, which is in no cache here, 100 trials of 10 epochs. It is
    printed before the search begins."""
    monkeypatch.setenv("RAYCAE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(runner, "run_study", lambda request: print("begins"))
    monkeypatch.setattr(runner, "StudyReader", lambda folder: None)
    code, out, _ = run("search", "--results", tmp_path / "results")
    assert code == 0
    download, time, begins = out.splitlines()
    assert download.startswith(f"download cifar10 is not in {tmp_path / 'cache'}")
    assert time.startswith("time     about ")
    assert ": 100 trials of up to 10 epochs on " in time
    assert time.endswith(" ms)")
    assert begins == "begins"


def test_a_terminal_sees_a_line_at_once(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """Oracle: by hand: on a terminal the first line says that the search is prepared; a pipe,
    `--help` and wrong usage have no such line."""
    assert run("search", "no/such/folder")[2].startswith("raycae: ")
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    first, second = run("search", "no/such/folder")[2].splitlines()
    assert first == "Preparing the search …"
    assert second.startswith("raycae: ")
    assert run("search", "--help")[2] == ""
    code, _, err = run("search", "--typo")
    assert code == 2
    assert "Preparing" not in err


def test_completion_prints_nothing_into_the_prompt(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Oracle: Click's protocol for Bash: the completions on standard output, and nothing else."""
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    # Click makes the variable's name from the program's, which is not pytest's for a user.
    monkeypatch.setattr(sys.modules["__main__"], "__package__", None)
    monkeypatch.setenv("_RAYCAE_COMPLETE", "complete_bash")
    monkeypatch.setenv("COMP_WORDS", "raycae search --tri")
    monkeypatch.setenv("COMP_CWORD", "2")
    _, out, err = run()
    assert (out.split(), err) == (["--trials"], "")
