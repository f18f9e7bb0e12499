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

import pandas as pd
import pytest
from conftest import study_json
from searches import a_trainable, command, epochs_so_far, run, trials_of, wait_for

from raycae.study import tables
from raycae.study.ledger import read_events

pytestmark = [pytest.mark.ray, pytest.mark.timeout(240)]


def test_a_search_from_command_to_report(
    space_file: Path, tmp_path: Path, small_ray: dict[str, str]
) -> None:
    """Oracle: the contract. Six trials, each accounted for; plain lines on a pipe and nothing of
    Ray's; kept models evaluated; tables, study.json, baselines and report where they belong."""
    done = run(command(space_file, tmp_path / "r"), small_ray)
    assert done.returncode == 0, done.stderr
    folder = tmp_path / "r" / "tiny"
    trials = trials_of(folder)
    assert len(trials) == 6
    assert set(trials["state"]) <= {"COMPLETE", "PRUNED", "FAIL"}
    assert trials["point"][0] == "base"
    lines = done.stdout.splitlines()
    assert sum(line.startswith("[") for line in lines) == 6
    assert any(line.startswith("best     trial") for line in lines)
    assert lines[-1].startswith("report")
    assert lines[0].startswith("data     350 training, 50 validation, 280 test images from photos")
    steps = [line for line in lines if re.match("(Evaluat|Draw|Comput|Writ)ing ", line)]
    assert [*dict.fromkeys(re.split(": | …", line)[0] for line in steps)] == [
        *("Evaluating kept models", "Drawing pictures", "Computing baselines"),
        "Writing the report",
    ]  # On a slow machine a counter is printed several times.
    assert len(lines) - len(steps) == 1 + 6 + 4
    assert done.stderr == ""

    complete = trials[trials["state"] == "COMPLETE"]
    assert complete["val_ssim"].between(0, 1).all()
    assert complete["test_mse"].notna().all()
    for number in complete["trial_number"]:
        model = folder / "models" / str(number)
        assert {p.name for p in model.iterdir()} == {"model.safetensors", "config.json"}
        assert json.loads((model / "config.json").read_text())["trial_number"] == number
    assert (folder / "report.html").stat().st_size > 1_000_000  # plotly is inside
    assert set(pd.read_parquet(folder / "baselines.parquet")["baseline"]) >= {"linear"}
    assert not list((folder / "checkpoints").glob("*.pt"))
    epochs = tables.read_epochs(folder)
    assert epochs.groupby("trial_number").size().tolist() == trials["epochs_run"].tolist()
    data = study_json(folder)["data"]
    assert data["n_train"] + data["n_val"] == 400
    assert f"data     {data['summary']['text']}" == lines[0]

    # And again: the name is taken, nothing is touched.
    again = run(command(space_file, tmp_path / "r"), small_ray)
    assert again.returncode == 2
    assert "go on with it with --resume" in again.stderr
    assert trials_of(folder).equals(trials)


def test_one_trial_at_a_time_is_repeatable(
    space_file: Path, tmp_path: Path, small_ray: dict[str, str]
) -> None:
    """Oracle: two searches with `--concurrent 1` and the same seed agree in every proposal and
    every loss, bit for bit. (What another seed proposes: tests/optimization/test_proposer.py.)"""
    frames = []
    for name in ("a", "b"):
        more = ["--concurrent", "1", "--seed", "1", "--study", name, "--trials", "4"]
        more += ["--epochs", "2", "--limit", "200"]
        done = run(command(space_file, tmp_path, *more), small_ray)
        assert done.returncode == 0, done.stderr
        drop = "study wall_time_s epoch_time_s images_per_s started_at ended_at"
        frames.append(trials_of(tmp_path / name).drop(columns=drop.split()))
    pd.testing.assert_frame_equal(frames[0], frames[1])


def test_interrupted_and_resumed(
    space_file: Path, tmp_path: Path, small_ray: dict[str, str]
) -> None:
    """Oracle: Ctrl-C ends in order with code 130, what is finished is in Parquet, the report is
    written, the rest is marked; `--resume` repeats nothing that had ended and reaches the total."""
    folder = tmp_path / "tiny"
    more = ["--epochs", "40", "--scheduler", "none", "--trials", "4"]
    process = subprocess.Popen(
        command(space_file, tmp_path, *more),
        env=small_ray,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    wait_for(lambda: epochs_so_far(folder) >= 45)  # one trial has ended, others run
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 130, err
    assert err == ""
    assert f"raycae search --resume --study tiny --results {tmp_path}" in out
    assert (folder / "report.html").exists()
    before = trials_of(folder)
    running = before[before["state"] == "RUNNING"]
    assert len(running) >= 1
    assert set(running["reason"]) == {"interrupted"}

    done = run(
        [
            *(sys.executable, "-m", "raycae", "search", "--resume", "--study", "tiny"),
            *("--results", str(tmp_path), "--gpus-per-trial", "0"),
        ],
        small_ray,
    )
    assert done.returncode == 0, done.stderr
    data_line, resume_line, *_ = done.stdout.splitlines()
    assert data_line.startswith("data ")
    assert resume_line.startswith("resuming tiny: ")
    after = trials_of(folder)
    assert (after["state"] == "COMPLETE").all()
    assert len(after) == 4
    assert (after["epochs_run"] == 40).all()
    ended = before[before["state"] == "COMPLETE"].index
    kept = [c for c in before if c != "test_mse"]
    pd.testing.assert_frame_equal(before.loc[ended, kept], after.loc[ended, kept])
    repeated = [e for e in read_events(folder / "ledger") if e["event"] == "epoch"]
    # Of each running trial at most one epoch was trained again.
    assert len(repeated) <= 4 * 40 + len(running)


def test_terminated(space_file: Path, tmp_path: Path, small_ray: dict[str, str]) -> None:
    """Oracle: SIGTERM, as a batch system sends it, ends in order with code 143 and a report,
    though Ray takes the signal for itself when it starts."""
    process = subprocess.Popen(
        command(space_file, tmp_path, "--epochs", "200", "--scheduler", "none"),
        env=small_ray,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    wait_for(lambda: epochs_so_far(tmp_path / "tiny") >= 4)
    process.send_signal(signal.SIGTERM)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 143, err
    assert "raycae search --resume --study tiny" in out
    assert (tmp_path / "tiny" / "report.html").exists()


def test_ended_while_it_finishes(
    space_file: Path, tmp_path: Path, small_ray: dict[str, str]
) -> None:
    """Oracle: the same for a SIGTERM that comes when Ray has gone already and pictures are to be
    painted: the report is there, exit code 143."""
    setup = (
        "import os, signal; from raycae.report import picture_sheets as sheets\n"
        "paint = sheets.add_pictures_and_baselines\n"
        "sheets.add_pictures_and_baselines = (\n"
        "    lambda *a: (os.kill(os.getpid(), signal.SIGTERM), paint(*a)))"
    )
    done = run(command(space_file, tmp_path, "--trials", "1", setup=setup), small_ray)
    assert done.returncode == 143, done.stderr
    assert "raycae search --resume --study tiny" in done.stdout
    assert (tmp_path / "tiny" / "report.html").exists()


def test_killed_and_resumed(space_file: Path, tmp_path: Path, small_ray: dict[str, str]) -> None:
    """Oracle: kill -9 of the driver; every trial is accounted for once, the total is what was
    asked, at most one epoch of each running trial is repeated."""
    folder = tmp_path / "tiny"
    process = subprocess.Popen(
        command(space_file, tmp_path, "--epochs", "20", "--trials", "4", "--scheduler", "none"),
        env=small_ray,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    wait_for(lambda: epochs_so_far(folder) >= 10)
    process.kill()
    process.wait()
    seen = epochs_so_far(folder)
    done = run(
        [*command(space_file, tmp_path, "--resume"), "--trials", "5"],
        small_ray,
    )
    assert done.returncode == 0, done.stderr
    trials = trials_of(folder)
    assert trials["trial_number"].tolist() == [0, 1, 2, 3, 4]
    assert (trials["epochs_run"] == 20).all()
    assert seen <= epochs_so_far(folder) <= 5 * 20 + 2  # of two running trials one epoch each


def test_a_failing_trial_is_recorded_and_the_search_goes_on(
    tmp_path: Path, small_ray: dict[str, str]
) -> None:
    """Oracle: of the two points one diverges at an absurd learning rate; the other completes."""
    path = tmp_path / "two.yaml"
    path.write_text(
        "task: reconstruct\ndata: photos\nbudget: {trials: 2, epochs: 2, limit: 200}\n"
        "points:\n  base: {}\n"
        "  wild: {output: linear, optimizer: sgd, lr: 10, momentum: 0.9}\n"
    )
    done = run(command(path, tmp_path), small_ray)
    assert done.returncode == 0, done.stderr
    trials = trials_of(tmp_path / "two").set_index("point")
    assert trials["state"].to_dict() == {"base": "COMPLETE", "wild": "FAIL"}
    assert trials["reason"]["wild"].startswith("diverged: training loss is")
    events = read_events(tmp_path / "two" / "ledger")
    assert any("Diverged" in (e["traceback"] or "") for e in events)


def test_a_killed_trial_goes_on(
    space_file: Path, tmp_path: Path, small_ray: dict[str, str]
) -> None:
    """Oracle: kill -9 of a trial's process: the trial begins a second attempt behind its last
    epoch and completes."""
    folder = tmp_path / "tiny"
    process = subprocess.Popen(
        command(space_file, tmp_path, "--epochs", "30", "--trials", "2", "--scheduler", "none"),
        env=small_ray,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    wait_for(lambda: epochs_so_far(folder) >= 6)
    os.kill(a_trainable(), signal.SIGKILL)
    _, err = process.communicate(timeout=120)
    assert process.returncode == 0, err
    trials = trials_of(folder)
    assert (trials["state"] == "COMPLETE").all()
    assert sorted(trials["attempt"]) == [1, 2]
    assert (trials["epochs_run"] == 30).all()


def test_two_gpus_two_trials_at_a_time(
    space_file: Path, tmp_path: Path, small_ray: dict[str, str]
) -> None:
    """Oracle: with two (logical) GPUs and no option, each trial holds one of its own; more than
    any node has, or may have, is refused at once."""
    arguments = command(space_file, tmp_path)
    at = arguments.index("--gpus-per-trial")
    alone = arguments[:at] + arguments[at + 2 :]
    more = ["--study", "whole", "--epochs", "60", "--trials", "4", "--scheduler", "none"]
    done = run([*alone, *more], small_ray)
    assert done.returncode == 0, done.stderr
    devices = set(trials_of(tmp_path / "whole")["device"])
    assert {d[:9] for d in devices} == {"cpu (GPU "}  # this machine's torch sees no GPU
    assert {d[9] for d in devices} == {"0", "1"}

    # With what `ray up` leaves on a head whose autoscaler may start more.
    (tmp_path / ".ray").symlink_to(Path.home() / ".ray")
    kinds = {"head": {"resources": {}}, "big": {"resources": {"CPU": 8, "GPU": 4}}}
    file = {"max_workers": 1, "head_node_type": "head", "provider": {"type": "aws"}}
    text = json.dumps({**file, "available_node_types": kinds})
    (tmp_path / "ray_bootstrap_config.yaml").write_text(text)
    too_many = [*alone, "--study", "big", "--gpus-per-trial", "5"]
    refused = run(too_many, {**small_ray, "HOME": str(tmp_path)})
    assert refused.returncode == 2
    assert "--gpus-per-trial 5: no node has that much; there is: 2 CPU, 2 GPU; " in refused.stderr
    assert "the autoscaler may start: 8 CPU, 4 GPU" in refused.stderr


def test_time_is_up(space_file: Path, tmp_path: Path, small_ray: dict[str, str]) -> None:
    """Oracle: with a thousandth of an hour the search ends in order long before its 500 epochs."""
    more = ["--epochs", "500", "--trials", "50", "--hours", "0.002"]
    done = run(command(space_file, tmp_path, *more), small_ray)
    assert done.returncode == 0, done.stderr
    trials = trials_of(tmp_path / "tiny")
    assert (trials["state"] == "RUNNING").any()
    assert set(trials[trials["state"] == "RUNNING"]["reason"]) == {"interrupted"}


def test_as_a_script_from_any_folder(
    space_file: Path, tmp_path: Path, small_ray: dict[str, str]
) -> None:
    """Oracle: `python raycae/search.py` does what `raycae search` does, from elsewhere too."""
    script = Path(__file__).resolve().parents[2] / "raycae" / "search.py"
    _, _, _, *arguments = command(space_file, tmp_path / "r", "--epochs", "1", "--trials", "1")
    done = subprocess.run(
        [sys.executable, str(script), *arguments[1:]],
        env=small_ray,
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert len(trials_of(tmp_path / "r" / "tiny")) == 1


def test_test_images_are_checked_first(
    space_file: Path, tmp_path: Path, small_ray: dict[str, str]
) -> None:
    """Oracle: a source whose test images cannot be read at all: no study is begun, one message
    names the file."""
    import numpy as np
    from PIL import Image

    for split, n in (("train", 64), ("test", 3)):
        (tmp_path / "images" / split).mkdir(parents=True)
        for i in range(n):
            pixels = np.random.default_rng(i).integers(0, 255, (32, 32, 3), np.uint8)
            Image.fromarray(pixels).save(tmp_path / "images" / split / f"{i}.png")
    for path in (tmp_path / "images" / "test").iterdir():
        path.write_bytes(b"no image")
    more = ["--data", str(tmp_path / "images"), "--trials", "2", "--epochs", "1"]
    done = run(command(space_file, tmp_path, *more, "--limit", "64"), small_ray)
    assert done.returncode == 2
    assert "images/test/0.png" in done.stderr
    assert "Traceback" not in done.stderr
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
