"""What follows the trials of a search may fail; the summary, the tables, the report and the command
with which to continue are there all the same. Searches run in this process, without Ray."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import TINY_SPACE, Run, train_all
from PIL import Image

from raycae import data
from raycae.errors import InputError, StorageError
from raycae.execution import evaluation, runner
from raycae.report import page, picture_sheets, trials
from raycae.space import loading
from raycae.storage.paths import Place
from raycae.study import tables
from raycae.study.finish import Finish
from raycae.study.opening import create_study
from raycae.study.plan import Plan
from raycae.study.study import Study

pytestmark = pytest.mark.usefixtures("without_ray")

SMALL = TINY_SPACE.replace("batch_size: 32", "batch_size: 32, image_size: 8")
"""Of 8 pixels square, for the baselines of larger images take seconds."""

STEPS = {
    "evaluate_kept_models": "The saved models could not be evaluated on the test images",
    "write_picture_sheets": "could not be drawn",
    "measure_baselines": "The baselines could not be measured",
}


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A study of two trials that have ended; nothing that follows them was done."""
    folder = tmp_path_factory.mktemp("finish")
    rng = np.random.default_rng(0)
    (folder / "images").mkdir()
    for i in range(40):
        pixels = rng.integers(0, 256, (32, 32, 3), np.uint8)
        Image.fromarray(pixels).save(folder / "images" / f"{i:02}.png")
    source = str(folder / "images")
    plan = Plan("tiny", "tiny", source, 2, 1, None, 0, "random", "none")
    images = data.load(source, image_size=8)
    facts = {"source": source, "fingerprint": images.fingerprint, "n_train": 32, "n_val": 4}
    made = create_study(folder / "tiny", plan, loading.parse_space(SMALL, name="tiny"), facts)
    train_all(made, images)
    made.close()
    return folder / "tiny"


@pytest.fixture
def folder(trained: Path, tmp_path: Path) -> Path:
    shutil.copytree(trained, tmp_path / "tiny")
    return tmp_path / "tiny"


def finish(run: Run, folder: Path) -> tuple[int, str, str]:
    """Go on with the search; what is left of it is what follows the trials."""
    return run("search", "--resume", "--study", "tiny", "--results", folder.parent)


def raising(error: Exception) -> Callable[..., Any]:
    def fail(*_: object, **__: object) -> None:
        raise error

    return fail


def require_safe(folder: Path, out: str) -> None:
    """Both trials are in the tables, and the summary says so."""
    rows = tables.read_trials(folder)
    assert rows["state"].tolist() == ["COMPLETE", "COMPLETE"]
    assert len(tables.read_epochs(folder)) == 2
    assert "2 COMPLETE of 2 trials\n" in out
    assert "\nbest     trial" in out
    assert "\nresults  " in out


@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize(
    "error",
    [InputError("image 7.png: damaged"), RuntimeError("a bug\nof two lines")],
    ids=["input", "bug"],
)
def test_a_step_that_fails_loses_nothing(
    folder: Path,
    run: Run,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    step: str,
    error: Exception,
) -> None:
    """Oracle: by hand. Summary and tables are there; the other steps ran; one note names the fault
    and the command, on the terminal and in the report. Wrong input is exit code 1 with one line, a
    bug keeps its traceback. The command of the note does the rest."""
    with monkeypatch.context() as broken:
        module = evaluation if step == "evaluate_kept_models" else picture_sheets
        broken.setattr(module, step, raising(error))
        if isinstance(error, InputError):
            code, out, err = finish(run, folder)
            assert code == 1
            assert err.startswith("raycae: All trials are recorded, but ")
            assert err.count("\n") == 1
        else:
            with pytest.raises(RuntimeError) as raised:
                finish(run, folder)
            assert raised.value is error
            out = capsys.readouterr().out
    require_safe(folder, out)
    notes = [line for line in out.splitlines() if line.startswith("note ")]
    page = (folder / "report.html").read_text()
    assert STEPS[step] in page
    for note in notes:
        assert STEPS[step] in note
        assert str(error).splitlines()[0] in note
    n_pictures = len(trials.select_trials_to_picture(tables.read_trials(folder), None))
    assert len(notes) == (n_pictures if step == "write_picture_sheets" else 1)
    assert tables.read_trials(folder)["test_mse"].notna().all() == (step != "evaluate_kept_models")
    assert (folder / "baselines.parquet").exists() == (step != "measure_baselines")
    assert bool(trials.list_trials_with_pictures(folder)) == (step != "write_picture_sheets")
    command = notes[0].split("`")[1].split()
    assert command == [
        "raycae",
        "evaluate" if step == "evaluate_kept_models" else "report",
        str(folder),
    ]
    assert run(*command[1:])[0] == 0
    assert tables.read_trials(folder)["test_mse"].notna().all()
    assert (folder / "baselines.parquet").exists()
    assert trials.list_trials_with_pictures(folder)
    assert STEPS[step] not in (folder / "report.html").read_text()


@pytest.mark.parametrize("file", ["report.html", "trials.parquet", "baselines.parquet", "0.png"])
def test_no_room_for_a_file_of_the_finish(
    folder: Path, run: Run, monkeypatch: pytest.MonkeyPatch, file: str
) -> None:
    """Oracle: by hand. The storage's own message and exit code 1, after the summary and a note. The
    ledger has the test errors; with room again `raycae evaluate` and `report` write the rest."""

    def refuse(write: Callable[..., Any]) -> Callable[..., Any]:
        def put(path: Place, content: bytes) -> Any:
            if path.name == file:
                raise StorageError(f"writing {path}: No space left on device")
            return write(path, content)

        return put

    with monkeypatch.context() as broken:
        for name, module in list(sys.modules.items()):
            if name.startswith("raycae.") and hasattr(module, "write_atomic"):
                broken.setattr(module, "write_atomic", refuse(module.write_atomic))
        code, out, err = finish(run, folder)
    assert code == 1
    assert err.startswith("raycae: writing ")
    assert err.endswith(f"{file}: No space left on device\n")
    assert err.count("\n") == 1
    require_safe(folder, out)
    assert f"{file}: No space left on device. Fix this, then run `raycae " in out
    for command in ("evaluate", "report"):
        assert run(command, folder)[0] == 0
    assert tables.read_trials(folder)["test_mse"].notna().all()
    assert (folder / "baselines.parquet").exists()
    assert trials.list_trials_with_pictures(folder)
    assert (folder / "report.html").exists()


def test_every_step_is_attempted_and_the_worst_fault_is_raised() -> None:
    """Oracle: by hand. A bug goes before a storage's message, and that before wrong input."""
    steps = Finish()
    told = [InputError("no such image"), StorageError("full"), ZeroDivisionError("bug")]
    done: list[int] = []
    assert steps.attempt("A", "raycae a", done.append, 1)
    for error in told:
        assert not steps.attempt("B", "raycae b", raising(error))
    assert steps.attempt("C", "raycae c", done.append, 2)
    assert done == [1, 2]
    assert steps.errors == told
    assert steps.notes == [
        "B: no such image. Fix this, then run `raycae b`.",
        "B: full. Fix this, then run `raycae b`.",
        "B: ZeroDivisionError: bug. Fix this, then run `raycae b`.",
    ]
    for error in reversed(told):
        with pytest.raises(type(error)):
            steps.raise_first()
        steps.errors.remove(error)
    steps.raise_first()


def test_an_interrupted_search_says_how_to_continue(
    folder: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Oracle: Ctrl-C while the trials run, and then no report: the command that goes on with the
    search is printed, exit code 130."""

    def interrupt(opened: Study, *_: object) -> None:
        import os
        import signal

        os.kill(os.getpid(), signal.SIGINT)

    with monkeypatch.context() as broken:
        broken.setattr(runner, "train_trials", interrupt)
        broken.setattr(page, "write_report", raising(InputError("no report today")))
        code, out, err = finish(run, folder)
    assert (code, err) == (130, "")
    require_safe(folder, out)
    note = "The report could not be written: no report today. Fix this, then run `raycae report"
    assert note in out
    assert (
        f"Interrupted; continue with: raycae search --resume --study tiny --results {folder}"
        in (out.replace(str(folder.parent), str(folder)))
    )
