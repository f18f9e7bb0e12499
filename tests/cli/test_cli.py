"""The command line: wrong use is one message and exit code 2; every command does what it says."""

from __future__ import annotations

import io
import json
import logging
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml
from conftest import SMALL_SPACE, TINY_SPACE, Run, begin, measured, run_trial, train_all
from PIL import Image
from rich.console import Console

from raycae import data
from raycae.execution import runner
from raycae.execution.progress import Progress
from raycae.execution.ray_session import silence_libraries, starts_own_ray
from raycae.space import loading
from raycae.study import tables
from raycae.study.attempt import EpochReport, FailureReport
from raycae.study.opening import create_study
from raycae.study.plan import Plan
from raycae.study.study import Study


@pytest.fixture
def no_ray(monkeypatch: pytest.MonkeyPatch) -> None:
    """Wrong input has to be found before Ray starts."""

    def refuse(*arguments: object) -> None:
        raise AssertionError("Ray was about to start")

    monkeypatch.setattr(runner, "connect_ray", refuse)


@pytest.fixture(scope="module")
def trained_once(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A study of three short trials, trained in this process; not evaluated, no baselines."""
    space = loading.parse_space(SMALL_SPACE, name="tiny")
    images = data.load("photos", image_size=16, limit=120)
    facts = {"source": "photos", "fingerprint": images.fingerprint, "n_train": 105, "n_val": 15}
    plan = Plan("tiny", "tiny", "photos", 3, 1, 120, 0, "random", "none")
    folder = tmp_path_factory.mktemp("trained") / "tiny"
    study = create_study(folder, plan, space, facts)
    train_all(study, images)
    study.close()
    return folder


@pytest.fixture
def trained(trained_once: Path, tmp_path: Path) -> Path:
    """Where a copy of that study lies, `tiny`."""
    shutil.copytree(trained_once, tmp_path / "tiny")
    return tmp_path


def space_with(folder: Path, **changes: object) -> Path:
    path = folder / "mine.yaml"
    path.write_text(yaml.safe_dump({**yaml.safe_load(TINY_SPACE), **changes}))
    return path


LR = {"type": "float", "low": 1e-4, "high": 1e-2}
UP = {"type": "categorical", "choices": ["cubic"]}


@pytest.mark.usefixtures("no_ray")
@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"taks": "reconstruct"}, "mine.yaml: taks: unknown key. Did you mean task?"),
        (
            {"params": {"lr": {**LR, "low": 1.0}}},
            "mine.yaml: params.lr: low 1.0 is above high",
        ),
        ({"params": {"upsample": UP}}, "mine.yaml: params.upsample.choices: 'cubic' is not"),
        (
            {"constraints": {"latent_size": {"max": 3}}, "points": {}},
            "mine: constraints: none of 1,000 proposals meets them",
        ),
    ],
    ids=["unknown key", "low above high", "choice not allowed", "impossible constraint"],
)
def test_mistakes_in_a_space(
    run: Run, tmp_path: Path, changes: dict[str, object], message: str
) -> None:
    """Oracle: one line on standard error that names file, key, value and what is allowed; exit
    code 2; no results folder appears."""
    path = space_with(tmp_path, **changes)
    code, out, err = run("search", "--space", path, "--results", tmp_path / "r")
    assert (code, out) == (2, "")
    assert err.startswith(f"raycae: {message}")
    assert err.count("\n") == 1
    assert not (tmp_path / "r").exists()


FRONTIER = ["--objective", "frontier"]


@pytest.mark.usefixtures("no_ray")
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--space", "ex4"], "--space ex4: unknown. Did you mean"),
        (["--space", "no/such/file.yaml"], "cannot be read: No such file or directory"),
        (["--trials", "0"], "--trials 0: expected a whole number of at least 1, or +N"),
        (["--trials", "many"], "--trials many: expected a whole number"),
        (["--trials", "9" * 5000], "expected a whole number"),
        (["--hours", "nan"], "--hours nan: expected a number above 0"),
        (["--hours", "inf"], "--hours inf: expected a number above 0"),
        (["--seed", "5000000000"], "'--seed'"),
        (["--space", "x" * 300], ": unknown. Use demo, "),
        (["--epochs", "0"], "'--epochs'"),
        (["--data", "nowhere/at/all"], "nowhere/at/all"),
        (["--data", "cifar"], "cifar10"),
        (["--limit", "8"], "'--limit'"),
        (["--sampler", "cma"], "--sampler cma: unknown. Use tpe, strata, random, grid"),
        (["--scheduler", "pbt"], "--scheduler pbt: unknown. Use asha, hyperband or none"),
        (["--scheduler", "none", "--grace", "2"], "--grace 2 has no effect with --scheduler none"),
        (["--factor", "1"], "--factor"),
        (["--repeats", "yes"], "--repeats yes: unknown. Use refuse or seed"),
        (["--objective", "psnr"], "--objective psnr: unknown. Use val_mse or frontier"),
        (["--objective", "frontier", "--cost", "dB"], "--cost dB: unknown. Use latent_size"),
        (["--cost", "flops"], "--cost flops has no effect without --objective"),
        (["--strata", "64"], "--strata 64 has no effect without --objective"),
        (["--sampler", "strata"], "--sampler strata requires --objective frontier"),
        (
            [*FRONTIER, "--strata", "64,9"],
            "--strata 64,9: expected latent sizes in ascending order",
        ),
        ([*FRONTIER, "--strata", "3,64"], "--strata 3: no network of quickstart was found with"),
        (
            [*FRONTIER, "--strata", "64", "--sampler", "tpe"],
            "--strata 64 has no effect with --sampler tpe",
        ),
        (
            [*FRONTIER, "--sampler", "greedy"],
            "--objective frontier: the sampler greedy looks for one",
        ),
        (
            [*FRONTIER, "--cost", "n_params", "--sampler", "strata"],
            "--cost n_params: the sampler strata works with latent_size only",
        ),
        (
            ["--settings", "3", "--sampler", "grid"],
            "--settings 3 cannot be used with --sampler grid",
        ),
        (["--settings", "0"], "'--settings'"),
        (["--first-images", "8"], "'--first-images'"),
        (
            ["--first-images", "99", "--scheduler", "none"],
            "--first-images 99 is only useful with early stopping",
        ),
        (
            ["--study", "../../x"],
            "--study '../../x': invalid name. Use at most 100 letters, digits",
        ),
        (["--study", "-rf"], "--study '-rf': invalid name. Use at most 100 letters, digits"),
        (["--study", "x" * 300], "letters, digits"),
        (["--resume"], "To start one, remove --resume"),
        (["--results", "/dev/null/results"], "results cannot be written there"),
    ],
    ids=lambda value: " ".join(value)[:30] if isinstance(value, list) else "",
)
def test_wrong_options(
    run: Run,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    arguments: list[str],
    message: str,
) -> None:
    """Oracle: the message names the option, the value and what is allowed; exit code 2; nothing is
    written."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("RAYCAE_RESULTS", raising=False)
    given = [] if "--space" in arguments else ["--space", "quickstart"]
    code, out, err = run("search", *given, *arguments)
    assert (code, out) == (2, "")
    assert message in err
    assert "Traceback" not in err
    assert list(tmp_path.iterdir()) == []


def test_address_where_nothing_answers(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Oracle: a port of this machine that nobody listens at; said at once and by the name of
    whoever named it, no trial begun."""
    arguments = ["--space", "quickstart", "--results", tmp_path, "--limit", "100"]
    code, _, err = run("search", *arguments, "--address", "127.0.0.1:9")
    assert code == 2
    assert "--address 127.0.0.1:9: nothing answers there: " in err
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:9")
    code, _, err = run("search", *arguments)
    assert code == 2
    assert "RAY_ADDRESS=127.0.0.1:9: nothing answers there: " in err
    monkeypatch.delenv("RAY_ADDRESS")
    monkeypatch.setenv("RAY_TMPDIR", str(tmp_path / "tmp"))
    (tmp_path / "tmp" / "ray").mkdir(parents=True)
    (tmp_path / "tmp" / "ray" / "ray_current_cluster").write_text("127.0.0.1:9")
    code, _, err = run("search", *arguments)
    assert code == 2
    assert "ray_current_cluster, which `ray start` wrote, names a Ray head at 127.0.0.1:9: " in err
    assert "run `ray stop` or delete the file" in err
    assert not (tmp_path / "quickstart").exists()


@pytest.mark.usefixtures("no_ray")
def test_damaged_image_is_named(run: Run, tmp_path: Path) -> None:
    """Oracle: of forty images one is cut in half; the message names it."""
    folder = tmp_path / "images"
    folder.mkdir()
    for i in range(40):
        buffer = io.BytesIO()
        Image.fromarray(np.full((32, 32, 3), i, np.uint8)).save(buffer, "PNG")
        content = buffer.getvalue()
        (folder / f"{i:02}.png").write_bytes(content[: len(content) // 2] if i == 7 else content)
    results_folder = tmp_path / "r"
    for seed in range(3):  # whichever split it falls into
        arguments = ["--space", "quickstart", "--data", folder, "--results", results_folder]
        code, _, err = run("search", *arguments, "--limit", "36", "--seed", str(seed))
        assert code == 2
        assert "07.png" in err
        assert not results_folder.exists()


@pytest.mark.usefixtures("no_ray")
def test_existing_study(run: Run, trained: Path) -> None:
    """Oracle: says how to resume or rename; every file stays as it was. A resume with other
    settings than the study's is refused by name."""
    before = {p: p.read_bytes() for p in trained.rglob("*") if p.is_file()}
    space_file = space_with(trained)
    start = ["search", "--space", space_file, "--results", trained, "--study", "tiny"]
    code, _, err = run(*start)
    assert code == 2
    assert "Continue it with raycae search --resume --study tiny --results " in err
    assert ", or choose another name with --study NAME" in err
    resume = ["search", "--results", trained, "--study", "tiny", "--resume"]
    for option, value, message in (
        ("--epochs", "9", "--epochs 9: this study was started with 1"),
        ("--seed", "4", "--seed 4: this study was started with 0"),
        ("--data", "cifar10", "--data cifar10: this study was started with photos"),
        ("--space", "ex2", "--space ex2: this study was started with a different version of this"),
    ):
        code, _, err = run(*resume, option, value)
        assert code == 2
        assert message in err
    space_file.unlink()
    assert {p: p.read_bytes() for p in trained.rglob("*") if p.is_file()} == before


def test_show(run: Run, trained: Path) -> None:
    """Oracle: as many rows as asked, best first, the numbers of the table. What was searched,
    reached and spent stands above it, and no layers."""
    code, out, _ = run("show", "tiny", "--results", trained, "-n", "2")
    lines = out.splitlines()
    best = tables.read_trials(trained / "tiny").sort_values("val_mse").iloc[0]
    assert code == 0
    distinct = tables.read_trials(trained / "tiny")["arch_hash"].nunique()
    assert (
        lines[0] == f"tiny: 3 COMPLETE, {distinct} distinct architectures; * = on the Pareto front"
    )
    assert lines[1].startswith("search   reconstruct photos, space ")
    assert lines[1].endswith(": 3 trials of up to 1 epoch by random")
    assert lines[2].startswith("over     ")
    assert lines[3].startswith("frontier ")
    assert f": {best['val_mse']:.5f}" in lines[3]
    assert lines[4].startswith("trained  ")
    assert lines[6].startswith("COMPLETE *")
    assert len(lines) == 8
    assert f"{best['val_mse']:.5f}" in lines[6]
    assert max(map(len, lines)) <= 120
    assert "conv" not in out
    code, _, err = run("show", "other", "--results", trained)
    assert code == 2
    assert "other: no study has this name or path" in err


@pytest.mark.parametrize("content", ["", "{}", "[]", "null", '{"plan": 3}'])
def test_study_json_of_something_else(run: Run, tmp_path: Path, content: str) -> None:
    """Oracle: every command that reads it names the file."""
    (tmp_path / "s").mkdir()
    (tmp_path / "s" / "study.json").write_text(content)
    for command in ("report", "evaluate"):
        code, _, err = run(command, tmp_path / "s")
        assert code == 2
        assert "study.json: " in err
    code, _, err = run("search", "--resume", "--study", "s", "--results", tmp_path)
    assert code == 2
    assert "study.json: " in err
    assert run("show", "x" * 300, "--results", tmp_path)[0] == 2


def test_whose_ray_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Oracle: by hand. Only a Ray of this machine's own may keep to the loopback address: a driver
    that joins a cluster has to be reached from its other machines."""
    monkeypatch.setenv("RAY_TMPDIR", str(tmp_path))
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    assert starts_own_ray(None)
    assert starts_own_ray("local")
    assert not starts_own_ray("auto")
    assert not starts_own_ray("10.0.0.1:6379")
    (tmp_path / "ray").mkdir()
    (tmp_path / "ray" / "ray_current_cluster").write_text("10.0.0.1:6379")
    assert not starts_own_ray(None)  # what `ray submit` meets on a cluster's head
    assert starts_own_ray("local")
    (tmp_path / "ray" / "ray_current_cluster").unlink()
    monkeypatch.setenv("RAY_ADDRESS", "10.0.0.1:6379")
    assert not starts_own_ray(None)


def test_evaluate_and_report(run: Run, trained: Path) -> None:
    """Oracle: every saved model gets its test error, once; the report gets its lines and
    pictures. Both commands say once what images they have read."""
    folder = trained / "tiny"
    code, out, _ = run("evaluate", folder)
    assert code == 0
    found, evaluated, *_ = out.splitlines()
    assert re.match(r"105 training, 15 validation, \d+ test images from photos", found)
    assert evaluated.startswith("3 models evaluated")
    assert tables.read_trials(folder)["test_mse"].notna().all()
    assert run("evaluate", folder)[1].startswith("0 models evaluated")
    assert not (folder / "baselines.parquet").exists()
    code, out, err = run("report", folder)
    assert code == 0
    assert Path(out.strip()) == folder / "report.html"
    assert err == f"{found}\n"
    assert (pd.read_parquet(folder / "baselines.parquet")["test_mse"].notna()).all()
    assert "data:image/webp;base64" in (folder / "report.html").read_text()


def test_a_report_of_images_that_are_gone(run: Run, trained: Path) -> None:
    """Oracle: the folder of images was moved away; there is a page of what the study's folder
    holds, which says what it lacks, and one note that names the source."""
    folder = trained / "tiny"
    content = json.loads((folder / "study.json").read_text())
    content["plan"]["data"] = str(trained / "gone")
    (folder / "study.json").write_text(json.dumps(content))
    code, _, err = run("report", folder)
    assert code == 0
    assert err.startswith("note: ")
    assert "gone" in err
    assert err.count("\n") == 1
    assert "pictures have not been drawn yet" in (folder / "report.html").read_text()


def test_preview(run: Run) -> None:
    """Oracle: the base model's known numbers in the first row; twenty rows."""
    code, out, _ = run("preview", "--space", "ex2", "-n", "20")
    rows = [line for line in out.splitlines() if "(" in line]
    assert code == 0
    assert len(rows) == 20
    for word in ("base", "1024 (16x8x8)", "4,911", "2.65"):
        assert word in rows[0]


def test_preview_measures_fusing(run: Run) -> None:
    """Oracle: a column that says of each network how many train as one, or that each trains alone,
    with the speed that was measured."""
    code, out, _ = run("preview", "--space", "ex1", "-n", "1", "--fuse", "2")
    assert code == 0
    assert re.search(r"(not fused: )?training 2 trials fused is \d+\.\d\d times as fast", out)


def test_spaces(run: Run) -> None:
    """Oracle: shipped ones with their questions."""
    code, out, _ = run("spaces")
    assert code == 0
    for name in (
        "ex1",
        "ex2",
        "ex3",
        "frontier",
        "quickstart",
        "which architecture has the lowest error",
    ):
        assert name in " ".join(out.split())


def test_trial(run: Run) -> None:
    """Oracle: one line an epoch, the base model's counts, a test error at the end; the same seed
    says the same."""
    arguments = ["--data", "photos", "--limit", "120", "--epochs", "2", "--set", "batch_size=32"]
    code, out, err = run("trial", "--space", "ex1", "--point", "base", *arguments)
    assert (code, err) == (0, "")
    assert "1024, 4,911 parameters" in out
    assert sum(line.startswith("epoch ") for line in out.splitlines()) == 2
    assert "test_mse" in out.splitlines()[-1]
    again = run("trial", "--space", "ex1", *arguments)[1]
    assert again.splitlines()[-1] == out.splitlines()[-1]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--point", "bse"], "--point bse: the space ex1 has no such point. Use base"),
        (["--set", "lr"], "--set lr: write NAME=VALUE"),
        (["--set", "lrr=1"], "--set lrr: unknown key. Did you mean lr?"),
        (["--set", "kernel=9"], "--set kernel.0: 9 is not allowed"),
        (
            ["--set", "depth=4", "--set", "factor=4"],
            "stage 3: max-pool 4 needs at least 4 x 4 pixels",
        ),
    ],
)
def test_trial_that_cannot_be(run: Run, arguments: list[str], message: str) -> None:
    """Oracle: the setting and what is allowed."""
    code, _, err = run("trial", "--space", "ex1", *arguments)
    assert code == 2
    assert message in err


def test_faults_keep_their_traceback(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """Oracle: what nobody foresaw is not dressed up as wrong input."""

    def fault(*arguments: object, **options: object) -> None:
        raise ZeroDivisionError("unforeseen")

    monkeypatch.setattr(data, "load", fault)
    with pytest.raises(ZeroDivisionError, match="unforeseen"):
        run("trial", "--space", "ex1", "--data", "photos")


def test_live_view(study: Study) -> None:
    """Oracle: what happened to the study, in words: counts, best with its latent size, pace, the
    running trial's epoch."""
    text = io.StringIO()
    console = Console(file=text, force_terminal=True, width=100)
    progress = Progress(trials=6, epochs=3, console=console)
    study.journal.listener = progress.listen
    run_trial(study, 0.3, 0.2, 0.1)
    failing = begin(study)
    study.fail_attempt(FailureReport(failing.number, failing.attempt, "diverged"))
    running = begin(study)
    study.report_epoch(EpochReport(running.number, running.attempt, **measured(1, 0.5)))
    console.print(progress.render())
    shown = text.getvalue()
    plain = Console(file=io.StringIO(), width=100)
    with plain.capture() as capture:
        plain.print(progress.render())
    lines = capture.get()
    for words in (
        "1 done  1 running  0 pruned  1 failed",
        "trial 0: val_mse 0.10000 (20.00 dB), latent 1,024, 4,911 parameters",
        "images/s",
        "left",
        f"trial {running.number}    █░░ 1/3    val_mse 0.50000",
    ):
        assert words in lines
    assert "\x1b[" in shown


def test_plain_lines_on_a_pipe(study: Study, capsys: pytest.CaptureFixture[str]) -> None:
    """Oracle: one line per trial that ended, in its order, and no control characters."""
    progress = Progress(trials=6, epochs=3, console=Console(file=io.StringIO()))
    study.journal.listener = progress.listen
    with progress:
        run_trial(study, 0.3, 0.2, 0.1)
        failing = begin(study)
        study.fail_attempt(FailureReport(failing.number, failing.attempt, "diverged: loss is nan"))
    first, second = capsys.readouterr().out.splitlines()
    assert first.startswith("[1/6] trial 0  COMPLETE  val_mse 0.10000  latent 1024  4,911 params")
    assert first.endswith("best so far")
    assert second.startswith("[2/6] trial 1  FAIL")
    assert second.endswith("(diverged: loss is nan)")


def test_steps_after_the_trials_are_named(
    study: Study, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Oracle: by hand, with a clock that goes 4 s per count. On a pipe a line when a step begins
    and one every 10 s, although each model is an event of the study; the live view shows the step
    in place of the pace."""
    now_s = 100.0
    monkeypatch.setattr("time.monotonic", lambda: now_s)
    number = run_trial(study, 0.3, 0.2, 0.1)
    progress = Progress(trials=6, epochs=3, console=Console(file=io.StringIO()))
    study.journal.listener = progress.listen
    for done in range(6):
        progress.count("Evaluating saved models", done, 6)
        study.record_test_error(number, 0.5)
        now_s += 4
    progress.count("Writing the report", 0, 1)
    assert capsys.readouterr().out.splitlines() == [
        "Evaluating saved models: 0/6",
        "Evaluating saved models: 3/6, 12 s left",
        "Writing the report …",
    ]
    plain = Console(file=io.StringIO(), width=100)
    with plain.capture() as capture:
        plain.print(progress.render())
    assert "Writing the report …" in capture.get()
    assert "images/s" not in capture.get()
    begin(study)
    assert progress.state.phase == ""


def test_ctrl_c_while_commands_are_imported() -> None:
    """Oracle: the signal comes in the middle of the imports: exit code 130 and not a word."""
    code = """
import os, signal, sys
class Interrupt:
    def find_spec(self, name, path=None, target=None):
        if name == "raycae.space.loading":
            os.kill(os.getpid(), signal.SIGINT)
sys.meta_path.insert(0, Interrupt())
from raycae.__main__ import main
main()
"""
    done = subprocess.run(
        [sys.executable, "-c", code, "spaces"], capture_output=True, text=True, timeout=60
    )
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "")


def test_libraries_log_nothing_into_a_terminal() -> None:
    """Oracle: an error that SQLAlchemy's pool logs, as it does where Ctrl-C meets a query."""
    silence_libraries()
    assert not logging.getLogger("sqlalchemy.pool.impl.QueuePool").isEnabledFor(logging.ERROR)
    assert not logging.getLogger("ray.tune").isEnabledFor(logging.ERROR)
