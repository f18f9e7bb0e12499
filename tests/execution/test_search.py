"""The main job on a real Ray, the small one that all tests share."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from conftest import Run, study_json
from PIL import Image
from searches import Running, command, epochs_so_far, events_of, trials_of, wait_for
from searches import run as run_process

from raycae.errors import InputError
from raycae.execution import runner
from raycae.execution.interrupts import StopRequest
from raycae.report import page
from raycae.study import tables
from raycae.study.ledger import read_events

pytestmark = [pytest.mark.ray, pytest.mark.timeout(600)]


END_BEFORE_PICTURES = """
import os, signal
from raycae.report import picture_sheets as sheets
paint = sheets.add_pictures_and_baselines
sheets.add_pictures_and_baselines = lambda *a: (os.kill(os.getpid(), signal.SIGTERM), paint(*a))
"""
"""A SIGTERM that comes when Ray has gone already and pictures are to be painted."""


def test_a_search_from_command_to_report_is_repeatable(
    space_file: Path, tmp_path: Path, small_ray: dict[str, str], run: Run
) -> None:
    """Oracle: the contract. Six trials, each accounted for; plain lines on a pipe and nothing of
    Ray's; saved models evaluated; tables, study.json, baselines and report where they belong. With
    one trial at a time, another search with the same seed agrees in every proposal and every loss,
    bit for bit, though it is ended after its last trial: the report is there, exit code 143. (What
    another seed proposes: tests/optimization/test_proposer.py.)"""
    more = ["--concurrent", "1", "--seed", "1"]
    done = run_process(command(space_file, tmp_path / "r", *more), small_ray, anew=True)
    assert done.returncode == 0, done.stderr
    folder = tmp_path / "r" / "tiny"
    trials = trials_of(folder)
    assert len(trials) == 6
    assert set(trials["state"]) <= {"COMPLETE", "PRUNED", "FAIL"}
    assert trials["point"][0] == "base"
    lines = done.stdout.splitlines()
    assert lines[0].startswith(
        "time     unknown: 6 trials of up to 3 epochs; on a cluster, the time"
    )
    assert sum(line.startswith("[") for line in lines) == 6
    assert any(line.startswith("best     trial") for line in lines)
    assert lines[-1].startswith("report")
    (data_line,) = (line for line in lines if line.startswith("data"))
    assert data_line.startswith("data     350 training, 50 validation, 280 test images from photos")
    steps = [line for line in lines if re.match("[A-Z][a-z]+ing ", line)]
    assert [*dict.fromkeys(re.split(": | …", line)[0] for line in steps)] == [
        *("Planning the search", "Connecting to Ray", "Loading images", "Starting workers"),
        *("Evaluating saved models", "Computing baselines", "Drawing pictures"),
        "Writing the report",
    ]  # On a slow machine a counter is printed several times.
    assert len(lines) - len(steps) == 2 + 6 + 4
    assert done.stderr == ""

    complete = trials[trials["state"] == "COMPLETE"]
    assert complete["val_ssim"].between(0, 1).all()
    assert complete["test_mse"].notna().all()
    for number in complete["trial_number"]:
        model = folder / "models" / str(number)
        assert {p.name for p in model.iterdir()} == {"model.safetensors", "config.json"}
        assert json.loads((model / "config.json").read_text())["trial_number"] == number
    assert (folder / "report.html").stat().st_size > 1_000_000  # plotly is inside
    assert set(pd.read_parquet(folder / "baselines.parquet")["baseline"]) >= {"pca"}
    assert not list((folder / "checkpoints").glob("*.pt"))
    epochs = tables.read_epochs(folder)
    assert epochs.groupby("trial_number").size().tolist() == trials["epochs_run"].tolist()
    data = study_json(folder)["data"]
    assert data["n_train"] + data["n_val"] == 400
    assert f"data     {data['summary']['text']}" == data_line

    # And again: the name is taken, nothing is touched.
    code, _, err = run("search", "--space", space_file, "--results", tmp_path / "r")
    assert code == 2
    assert "Continue it with raycae search --resume" in err
    assert trials_of(folder).equals(trials)

    more += ["--study", "b"]
    arguments = command(space_file, tmp_path / "r", *more, setup=END_BEFORE_PICTURES)
    done = run_process(arguments, small_ray)
    assert done.returncode == 143, done.stderr
    assert "raycae search --resume --study b" in done.stdout
    assert (tmp_path / "r" / "b" / "report.html").exists()
    drop = ["study", "wall_time_s", "epoch_time_s", "images_per_s", "started_at", "ended_at"]
    repeated = trials_of(tmp_path / "r" / "b").drop(columns=drop)
    pd.testing.assert_frame_equal(trials.drop(columns=drop), repeated)


def test_interrupted_on_two_gpus_and_resumed(
    space_file: Path, tmp_path: Path, small_ray: dict[str, str]
) -> None:
    """Oracle: with two (logical) GPUs and no option, each trial holds one of its own. Ctrl-C ends
    in order with code 130, what is finished is in Parquet, the report is written, the rest is
    marked; `--resume` repeats nothing that had ended and reaches the total. (SIGTERM:
    tests/faults/test_faults.py.)"""
    folder = tmp_path / "tiny"
    more = ["--epochs", "10", "--scheduler", "none", "--trials", "200"]
    with Running(without_gpu_option(command(space_file, tmp_path, *more)), small_ray) as search:
        # One trial has ended, and both GPUs have been used.
        wait_for(lambda: events_of(folder, "ended") and len(devices_of(folder)) == 2)
        search.send(signal.SIGINT)
        interrupted = search.end()
    assert interrupted.returncode == 130, interrupted.stderr
    assert interrupted.stderr == ""
    assert f"raycae search --resume --study tiny --results {tmp_path}" in interrupted.stdout
    assert (folder / "report.html").exists()
    assert {d[:9] for d in devices_of(folder)} == {"cpu (GPU "}  # this machine's torch sees no GPU
    assert {d[9] for d in devices_of(folder)} == {"0", "1"}
    before = trials_of(folder)
    running = before[before["state"] == "RUNNING"]
    assert len(running) >= 1
    assert set(running["reason"]) == {"interrupted"}

    total = len(before) + 1
    done = run_process(
        [
            *(sys.executable, "-m", "raycae", "search", "--resume", "--study", "tiny"),
            *("--results", str(tmp_path), "--gpus-per-trial", "0", "--trials", str(total)),
        ],
        small_ray,
    )
    assert done.returncode == 0, done.stderr
    data_line, resume_line = (
        next(line for line in done.stdout.splitlines() if line.startswith(word))
        for word in ("data ", "resuming tiny: ")
    )
    assert done.stdout.index(data_line) < done.stdout.index(resume_line)
    after = trials_of(folder)
    assert (after["state"] == "COMPLETE").all()
    assert len(after) == total
    assert (after["epochs_run"] == 10).all()
    ended = before[before["state"] == "COMPLETE"].index
    # A further trial may dominate one that was on the front.
    kept = [c for c in before if c not in ("test_mse", "on_frontier")]
    pd.testing.assert_frame_equal(before.loc[ended, kept], after.loc[ended, kept])
    # Of each running trial at most one epoch was trained again.
    assert epochs_so_far(folder) <= total * 10 + len(running)


def devices_of(folder: Path) -> set[str]:
    """The devices of the epochs so far."""
    return {event["device"] for event in events_of(folder, "epoch")}


def without_gpu_option(arguments: list[str]) -> list[str]:
    at = arguments.index("--gpus-per-trial")
    return arguments[:at] + arguments[at + 2 :]


def test_more_gpus_than_any_node_has(
    space_file: Path, tmp_path: Path, small_ray: dict[str, str]
) -> None:
    """Oracle: more than any node has, or may have, is refused at once."""
    # With what `ray up` leaves on a head whose autoscaler may start more.
    (tmp_path / ".ray").symlink_to(Path.home() / ".ray")
    kinds = {"head": {"resources": {}}, "big": {"resources": {"CPU": 8, "GPU": 4}}}
    file = {"max_workers": 1, "head_node_type": "head", "provider": {"type": "aws"}}
    text = json.dumps({**file, "available_node_types": kinds})
    (tmp_path / "ray_bootstrap_config.yaml").write_text(text)
    too_many = [*without_gpu_option(command(space_file, tmp_path)), "--gpus-per-trial", "5"]
    refused = run_process(too_many, {**small_ray, "HOME": str(tmp_path)})
    assert refused.returncode == 2
    assert (
        "--gpus-per-trial 5: no node is large enough. Nodes in the cluster: 2 CPU and 2 GPU. "
        in refused.stderr
    )
    assert "The autoscaler can start: 8 CPU and 4 GPU." in refused.stderr


@pytest.mark.usefixtures("without_ray")
def test_time_is_up_while_the_last_trials_run(
    space_file: Path, tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Oracle: the contract. Every trial has begun, none has ended, and the time is up: the command
    that continues them is printed, and the space is not called exhausted."""
    monkeypatch.setattr(runner, "train_trials", lambda study, *_: [study.ask(), study.ask()])
    monkeypatch.setattr(StopRequest, "is_time_up", lambda self: True)
    where = ("--results", tmp_path / "r")
    code, out, _ = run("search", "--space", space_file, "--trials", 2, "--hours", 1, *where)
    assert code == 0
    assert "2 INTERRUPTED of 2 trials" in out
    assert "Time is up; continue with: raycae search --resume --study tiny" in out
    assert "Nothing is left" not in out


@pytest.mark.usefixtures("without_ray")
def test_names_that_are_not_utf_8(
    space_file: Path, tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Oracle: the bytes of the folders, as Python's escapes; a strict stream of UTF-8 cannot print
    them. The streams of `run` are strict, as those of a terminal are."""

    def fail(*_: object, **__: object) -> None:
        raise InputError("no report today")

    images, results = (tmp_path / os.fsdecode(name) for name in (b"i\xff", b"r\xff"))
    images.mkdir()
    for number in range(40):
        pixels = np.full((16, 16, 3), number, np.uint8)
        Image.fromarray(pixels).save(images / f"{number}.png")
    monkeypatch.setattr(StopRequest, "is_time_up", lambda self: True)
    monkeypatch.setattr(runner, "train_trials", lambda study, *_: study.ask())
    monkeypatch.setattr(page, "write_report", fail)
    monkeypatch.chdir(tmp_path)  # Paths are printed relative to it.
    where = ("--results", results, "--data", images)
    code, out, err = run("search", "--space", space_file, "--trials", 2, *where)
    assert (code, err.count("\n")) == (1, 1)
    escaped = rf"{tmp_path}/r\udcff"
    assert r"results  r\udcff/tiny" in out
    assert f"run `raycae report '{escaped}/tiny'`." in out
    command = f"raycae search --resume --study tiny --results '{escaped}'"
    assert f"Time is up; continue with: {command}\n" in out


def test_a_failing_trial_in_a_script_from_any_folder(
    tmp_path: Path, small_ray: dict[str, str]
) -> None:
    """Oracle: `python raycae/search.py` does what `raycae search` does, from elsewhere too. Of the
    two points one diverges at an absurd learning rate; it is recorded and the other completes."""
    path = tmp_path / "two.yaml"
    path.write_text(
        "task: reconstruct\ndata: photos\nbudget: {trials: 2, epochs: 2, limit: 200}\n"
        "fixed: {image_size: 16}\n"
        "points:\n  base: {}\n"
        "  wild: {output: linear, optimizer: sgd, lr: 10, momentum: 0.9}\n"
    )
    script = Path(__file__).resolve().parents[2] / "raycae" / "search.py"
    _, _, _, _, *arguments = command(path, tmp_path / "r", "--concurrent", "1")
    done = subprocess.run(
        [sys.executable, str(script), *arguments],
        env=small_ray,
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    trials = trials_of(tmp_path / "r" / "two").set_index("point")
    assert trials["state"].to_dict() == {"base": "COMPLETE", "wild": "FAIL"}
    assert trials["reason"]["wild"].startswith("diverged: training loss is")
    events = read_events(tmp_path / "r" / "two" / "ledger")
    assert any("Diverged" in (e["traceback"] or "") for e in events)


def test_test_images_are_checked_first(
    space_file: Path, tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Oracle: a source whose test images cannot be read at all: no Ray is started and no study is
    begun, one message names the file."""
    import numpy as np
    import ray
    from PIL import Image

    monkeypatch.setattr(ray, "init", lambda **_: pytest.fail("a Ray is started"))
    for split, n in (("train", 64), ("test", 3)):
        (tmp_path / "images" / split).mkdir(parents=True)
        for i in range(n):
            pixels = np.random.default_rng(i).integers(0, 255, (32, 32, 3), np.uint8)
            Image.fromarray(pixels).save(tmp_path / "images" / split / f"{i}.png")
    for path in (tmp_path / "images" / "test").iterdir():
        path.write_bytes(b"no image")
    more = ["--data", tmp_path / "images", "--trials", "2", "--epochs", "1", "--limit", "64"]
    more += ["--address", "local"]
    code, _, err = run("search", "--space", space_file, "--results", tmp_path, *more)
    assert code == 2
    assert "images/test/0.png" in err
    assert "Traceback" not in err
    assert not (tmp_path / "tiny").exists()


def test_reasons_of_failure() -> None:
    """Oracle: the faults themselves, raised for real where this machine can: an allocation of a
    petabyte on the CPU, a batch that is no batch."""
    import torch

    from raycae.execution.trainable import format_reason
    from raycae.training.trainer import Diverged

    def fault(call: Callable[[], object]) -> Exception:
        try:
            call()
        except Exception as caught:
            return caught
        raise AssertionError("nothing was raised")

    petabyte = fault(lambda: torch.empty(2**48))
    assert format_reason(petabyte).startswith("out of memory: ")
    assert format_reason(torch.OutOfMemoryError("CUDA out of memory.\nmore")) == (
        "out of memory: CUDA out of memory."
    )
    assert format_reason(MemoryError()).startswith("out of memory: ")
    assert format_reason(Diverged("loss is nan")) == "diverged: loss is nan"
    assert format_reason(fault(lambda: torch.zeros(2) + torch.zeros(3))).startswith(
        "RuntimeError: "
    )
