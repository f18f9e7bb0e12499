"""raycae from Python: `run_search` and `open_study`."""

from __future__ import annotations

import shutil
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
from conftest import Run, run_trial
from rich.console import Console

import raycae
from raycae.errors import InputError, SearchAborted
from raycae.execution import runner
from raycae.execution.interrupts import StopRequest
from raycae.execution.progress import Progress
from raycae.execution.search_request import SearchRequest
from raycae.report import picture_sheets
from raycae.report.reader import StudyReader
from raycae.study.artifacts import get_model_folder, write_model
from raycae.study.plan import Plan
from raycae.study.records import Records
from raycae.study.study import Study

FRONTIER = Path(__file__).resolve().parents[2] / "analysis" / "recorded" / "frontier"


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[SearchRequest]:
    """Return the requests that searches were started with; none of them runs."""
    requests: list[SearchRequest] = []
    monkeypatch.setattr(runner, "run_study", requests.append)
    return requests


def test_importing_costs_nothing() -> None:
    """Oracle: a fresh interpreter's modules; the names are there all the same, and no others."""
    code = (
        "import sys, raycae; before = set(sys.modules)\n"
        "print({'torch', 'ray', 'optuna', 'pandas', 'typer'} & before)\n"
        "print(raycae.open_study.__name__, raycae.run_search.__name__, hasattr(raycae, 'nothing'))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split("\n")[:2] == ["set()", "open_study run_search False"]


def test_both_doors_lead_to_the_same_search(
    run: Run, asked: list[SearchRequest], space_file: Path, tmp_path: Path
) -> None:
    """Oracle: each other: what is typed, and the same as Python has it, numpy's numbers too."""
    typed = "--trials 4 --epochs 2 --limit 100 --seed 3 --scheduler none --sampler tpe --hours 0.5"
    typed += " --max n_params=9000 --max flops=1e8 --settings 2 --gpus-per-trial 0 --concurrent 1"
    where = ("--space", space_file, "--results", tmp_path, "--study", "one")
    assert run("search", *where, *typed.split())[0] == 0
    raycae.run_search(
        space_file,
        results=tmp_path,
        study="one",
        trials=np.int64(4),  # type: ignore[arg-type]
        epochs=np.int64(2),  # type: ignore[arg-type]
        limit=100,
        seed=3,
        scheduler="none",
        sampler="tpe",
        hours=0.5,
        max={"n_params": 9000, "flops": "1e8"},  # type: ignore[dict-item]
        settings=2,
        gpus_per_trial=0,
        concurrent=1,
    )
    typed_one, pythons = asked
    assert typed_one == pythons
    plan = pythons.plan
    assert plan == Plan("one", "tiny", "photos", 4, 2, 100, 3, "tpe", "none", factor=4, settings=2)
    assert all(type(value) in (int, str, bool, type(None)) for value in vars(plan).values())


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"epochs": 0}, "--epochs 0: expected a whole number from 1 to 100000"),
        ({"epochs": 2.5}, "--epochs 2.5: expected a whole number from 1 to 100000"),
        ({"epochs": True}, "--epochs True: expected a whole number from 1 to 100000"),
        ({"seed": -1}, "--seed -1: expected a whole number from 0 to 4294967295"),
        ({"settings": 5000}, "--settings 5000: expected a whole number from 1 to 1000"),
        ({"gpus_per_trial": -0.5}, "--gpus-per-trial -0.5: expected a number from 0 to 1000"),
        ({"hours": "2"}, "--hours '2': expected a number"),
        ({"trials": 0}, "--trials 0: expected a whole number of at least 1, or +N to add N trials"),
        ({"sampler": ["tpe"]}, "--sampler ['tpe']: unknown. Use tpe, "),
        ({"max": {"x": 1}}, "--max x=1: 'x' cannot be limited. Use latent_size, "),
        ({"max": "n_params=-1"}, "--max n_params=-1: write n_params=NUMBER"),
        ({"strata": [128, 64]}, "--strata 128,64: expected latent sizes"),
        ({"from_": ["a", "b"], "resume": True}, "--from a,b: a study can learn from earlier ones"),
        ({"study": "a/b"}, "--study 'a/b': invalid name. Use at most 100 letters, digits"),
        ({"space": "nope"}, "--space nope: unknown. Use demo, "),
        ({"data": Path("nowhere")}, "nowhere' is neither a built-in source nor a folder"),
    ],
)
def test_bad_values(
    options: dict[str, Any], said: str, asked: list[SearchRequest], tmp_path: Path
) -> None:
    """Oracle: the message, which names the option, the value and what is allowed; nothing is run
    and nothing written."""
    with pytest.raises(raycae.InputError) as caught:
        raycae.run_search(**{"space": "quickstart", "results": tmp_path / "results", **options})
    assert said in str(caught.value)
    assert not asked
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("signal_number", "code", "raised"),
    [
        (signal.SIGINT, 130, KeyboardInterrupt),
        (signal.SIGTERM, 143, raycae.SearchInterrupted),
        (None, 0, None),
    ],
)
def test_how_a_search_ends(
    signal_number: int | None,
    code: int,
    raised: type[BaseException] | None,
    monkeypatch: pytest.MonkeyPatch,
    run: Run,
    space_file: Path,
    tmp_path: Path,
) -> None:
    """Oracle: the contract: Python raises its own exception for SIGINT and `SearchInterrupted`
    for SIGTERM; a shell sees exit code 128 + signal number."""
    monkeypatch.setattr(runner, "run_study", lambda _: signal_number)
    if raised:
        with pytest.raises(raised) as caught:
            raycae.run_search(space_file, results=tmp_path)
        assert getattr(caught.value, "signal_number", signal.SIGINT) == signal_number
    else:
        assert raycae.run_search(space_file, results=tmp_path).folder == tmp_path / "tiny"
    assert run("search", "--space", space_file, "--results", tmp_path)[0] == code


def test_a_hopeless_search(
    monkeypatch: pytest.MonkeyPatch, run: Run, space_file: Path, tmp_path: Path
) -> None:
    """Oracle: the contract: an exception to Python, one message and exit code 1 to a shell."""

    def fail(*_: Any, **__: Any) -> int:
        raise SearchAborted("5 trials in a row failed for the same reason: no device")

    monkeypatch.setattr(runner, "run_study", fail)
    with pytest.raises(SearchAborted):
        raycae.run_search(space_file, results=tmp_path)
    code, _, err = run("search", "--space", space_file, "--results", tmp_path)
    assert (code, err) == (1, "raycae: 5 trials in a row failed for the same reason: no device\n")


def test_reading_a_recorded_study() -> None:
    """Oracle: its tables as they lie there: the column that marks the frontier, and the least
    error of what is complete."""
    study = raycae.open_study("frontier", FRONTIER.parent)
    table = pd.read_parquet(FRONTIER / "trials.parquet")
    for name in ("trial_number", "state", "val_mse", "latent_size", "config"):
        assert study.trials[name].tolist() == table[name].tolist()
    assert len(study.epochs) == len(pd.read_parquet(FRONTIER / "epochs.parquet"))
    complete = table[table["state"] == "COMPLETE"]
    assert study.best is not None
    assert study.best["trial_number"] == complete.loc[complete["val_mse"].idxmin(), "trial_number"]
    front = study.frontier()
    marked = table[table["on_frontier"].fillna(False).astype(bool)]
    assert set(front["trial_number"]) == set(marked["trial_number"])
    assert front["latent_size"].is_monotonic_increasing
    assert front["val_mse"].is_monotonic_decreasing
    assert repr(study) == f"<study {FRONTIER}: 13 COMPLETE, 27 PRUNED>"


def test_reading_while_it_is_searched(study: Study) -> None:
    """Oracle: the events: nobody is complete before the first trial has ended. The search holds
    the lease all the while."""
    reader = StudyReader(study.folder)
    assert (len(reader.trials), len(reader.epochs), reader.best) == (0, 0, None)
    assert "no trials" in reader._repr_html_()
    study.records.write(study.folder)
    assert reader.best is None
    assert len(reader.frontier()) == 0
    number = run_trial(study, 0.3, 0.2, 0.1)
    study.records.write(study.folder)
    assert reader.best is not None
    assert (reader.best["trial_number"], reader.best["val_mse"]) == (number, 0.1)
    assert reader.epochs["val_mse"].tolist() == [0.3, 0.2, 0.1]
    assert "0.1" in reader._repr_html_()


def test_the_report(
    study: Study, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Oracle: the file; where the images are elsewhere by now there is one all the same, and a note
    says what is missing."""
    weights = b"never read, for the images come first"
    write_model(get_model_folder(study.folder, run_trial(study, 0.3, 0.2, 0.1)), weights, {})
    study.records.write(study.folder)

    def elsewhere(*_: object) -> None:
        raise InputError("images: elsewhere")

    monkeypatch.setattr(picture_sheets, "load_images", elsewhere)
    path = StudyReader(study.folder).report()
    assert capsys.readouterr().err == (
        "note: The images could not be read: images: elsewhere. "
        f"Fix this, then run `raycae report {study.folder}`.\n"
    )
    assert "The images could not be read: images: elsewhere" in path.read_text()
    assert path == study.folder / "report.html"
    assert path.read_bytes().startswith(b"<!")


def test_a_studys_name_is_text(study: Study, tmp_path: Path) -> None:
    """Oracle: HTML's rules: a folder called like a tag is shown, not obeyed."""
    study.records.write(study.folder)
    named = tmp_path / "<script>alert(1)<"
    shutil.copytree(study.folder, named)
    (named / "report.html").write_text("")
    assert "<script" not in StudyReader(named)._repr_html_()


def test_no_such_study(tmp_path: Path) -> None:
    """Oracle: the message, which names what there is."""
    with pytest.raises(InputError, match=r"ex9: no study has .* Existing studies: demo, frontier"):
        raycae.open_study("ex9", FRONTIER.parent)


def test_a_cell_is_not_flooded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Oracle: a notebook's own interface, made up: a thousand events of a moment are one output,
    replaced at the end, and what it says is how it stands."""
    told: list[dict[str, str]] = []

    def display(output: dict[str, str], **_: Any) -> Any:
        told.append(output)
        return SimpleNamespace(update=lambda output, **_: told.append(output))

    monkeypatch.setitem(sys.modules, "IPython.display", SimpleNamespace(display=display))
    records = Records("a <study>")
    with Progress(1000, 3, console=Console(force_jupyter=True)) as shown:
        for number in range(1000):
            shown.count("Evaluating", number, 1000)
        shown.listen({"event": "resumed", "trial_number": None}, records)
    assert len(told) <= 3
    assert "a <study>" in told[-1]["text/plain"]
    assert "a &lt;study&gt;" in told[-1]["text/html"]


class Failing:
    """An object whose destructor fails."""

    def __del__(self) -> None:
        1 / 0  # noqa: B018


class Interrupting:
    """An object whose destructor is interrupted."""

    def __init__(self, number: int) -> None:
        self.number = number

    def __del__(self) -> None:
        signal.raise_signal(self.number)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_within_a_destructor(
    number: int, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Oracle: a hook that counts. Python cannot raise an exception in a destructor; nothing is
    printed, the signal is noted, and the next check raises it. Other faults are printed as ever."""
    faults: list[object] = []
    monkeypatch.setattr(sys, "unraisablehook", lambda fault: faults.append(fault.exc_value))
    stop = StopRequest()
    with stop.catch_signals():
        Interrupting(number)
        assert stop.signal_number == number
        with pytest.raises((KeyboardInterrupt, raycae.SearchInterrupted)):
            stop.raise_if_interrupted()
        Failing()
    assert [type(fault) for fault in faults] == [ZeroDivisionError]


def test_interrupts_where_a_person_works_on(monkeypatch: pytest.MonkeyPatch) -> None:
    """Oracle: the contract: in an interactive Python the first interrupt of a search is noted, so
    that it ends in order, and the second, or one before the study has begun, is Python's own; a
    process of raycae's own would end."""
    monkeypatch.setattr(sys, "ps1", "In : ", raising=False)
    stop = StopRequest()
    stop.is_study_open = True
    with stop.catch_signals():
        signal.raise_signal(signal.SIGINT)
        assert stop.signal_number == signal.SIGINT
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
    with StopRequest().catch_signals(), pytest.raises(KeyboardInterrupt):
        signal.raise_signal(signal.SIGINT)


@pytest.mark.parametrize(
    ("number", "raised"),
    [(signal.SIGINT, KeyboardInterrupt), (signal.SIGTERM, raycae.SearchInterrupted)],
)
def test_a_signal_before_the_study_is_open(
    number: signal.Signals, raised: type[BaseException]
) -> None:
    """Oracle: the contract: there is nothing to finish, so the exception is raised at once; the
    handlers of before are restored."""
    before = signal.getsignal(number)
    with StopRequest().catch_signals(), pytest.raises(raised):
        signal.raise_signal(number)
    assert signal.getsignal(number) == before
