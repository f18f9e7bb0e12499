"""`raycae reproduce`: what it runs, what it goes on with, what its page says."""

from __future__ import annotations

import json
import re
import shlex
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pyarrow.parquet as pq
import pytest
from conftest import Run, begin, die, measured
from scipy import stats
from searches import epochs_so_far, wait_for
from searches import run as run_process

from raycae.cli import reproduce as reproduce_command
from raycae.cli.reproduce import complete_budget, has_work, plan_runs
from raycae.errors import InputError
from raycae.report import picture_sheets
from raycae.report.reproduction.claims import CLAIMS
from raycae.report.reproduction.page import (
    correlate_latent_size,
    judge_reproduction,
    read_part,
    select_best_runs,
    write_reproduction,
)
from raycae.space import loading
from raycae.space.loading import REPORT
from raycae.study.attempt import EpochReport, FailureReport
from raycae.study.opening import create_study, resume_study
from raycae.study.plan import Plan, load_plan, read_content, read_study
from raycae.study.records import Records
from raycae.study.tables import read_epochs, read_trials

ONLY = ["ex2-base", "ex2-stride", "ex3-base"]


def made(folder: Path, name: str, errors: dict[tuple[str, int], float], epochs: int = 2) -> None:
    """A study of a reproduction, as the real code lays it down, with these test errors."""
    the_space = loading.load_space(name)
    points = list(dict.fromkeys(point for point, _ in errors))
    n_seeds = 1 + max(seed for _, seed in errors)
    plan = Plan(
        study=name,
        space=name,
        data="photos",
        trials=len(points) * n_seeds,
        epochs=epochs,
        limit=None,
        seed=0,
        sampler="points",
        scheduler="none",
        points=points,
        n_seeds=n_seeds,
    )
    facts = {"source": "photos", "fingerprint": "0" * 16, "n_train": 100, "n_val": 20}
    study = create_study(folder / name, plan, the_space, facts)
    while issue := study.ask():
        study.start_attempt(issue.number, issue.attempt)
        row = study.records.trials[issue.number]
        if (row["point"], row["seed"]) not in errors:
            study.fail_attempt(
                FailureReport(issue.number, issue.attempt, "diverged: training loss is nan")
            )
            continue
        final = errors[row["point"], row["seed"]]
        for epoch in range(1, epochs + 1):
            said = measured(epoch, final * (1 + epochs - epoch))
            study.report_epoch(
                EpochReport(
                    issue.number, issue.attempt, **{**said, "test_mse": 1.01 * said["val_mse"]}
                )
            )
    study.close()


@pytest.fixture
def reproduced(tmp_path: Path) -> Path:
    folder = tmp_path / "reproduction"
    of_ex2 = {}
    for seed in range(3):
        of_ex2 |= {
            ("ex2-base", seed): 0.0050 + seed / 1e5,
            ("ex2-stride", seed): 0.0040 + seed / 1e5,
            ("ex2-latent-x2", seed): 0.0050 - (seed - 1) / 1e3,
            ("ex2-fewer-pool", seed): 0.0020 + seed / 1e5,
            ("ex2-deeper", seed): 0.0100 + seed / 1e5,
        }
    made(folder, "ex2-report", of_ex2)
    return folder


def test_the_page_says_what_was_measured(reproduced: Path) -> None:
    """Oracle: made-up errors. Strides at 0.8 of the base are upheld, so is the deeper one's half;
    what scatters by a fifth is not decided; claims whose experiments nobody ran are named with
    them. Ranks of latents 1, 2.5, 2.5, 4, 5 against 5, 4, 2, 3, 1 of errors: -8 / sqrt(95)."""
    page = write_reproduction(reproduced).read_text()
    judged = {
        (j.claim.lower, j.claim.higher): j
        for j in judge_reproduction([read_part(reproduced / "ex2-report")])
        if j.claim.measure == "test"
    }
    stride = judged["ex2-stride", "ex2-base"]
    assert (stride.verdict, round(stride.effect or 0, 2)) == ("upheld", 0.8)
    assert judged["ex2-base", "ex2-deeper"].verdict == "upheld"
    assert judged["ex2-latent-x2", "ex2-base"].verdict == "undecided"
    assert judged["ex3-base", "ex3-rmsprop"].verdict == "not run"
    text = re.sub(r"\s+", " ", re.sub("<[^>]*>", " ", page.split("<script>")[0]))
    assert "Strided convolutions beat pooling. upheld" in text
    assert "Runs are missing: ex3-base and ex3-rmsprop" in text
    assert "Over all 5 experiments, no correlation between latent size and error is shown" in text
    assert "(rank correlation −0.82, " in text
    assert "Left out: ex2-latent-x4" in text
    for sentence in (claim.sentence for claim in CLAIMS):
        assert sentence.split("'")[0] in text


def test_adjusted_verdicts_stand_beside_the_raw_ones(reproduced: Path) -> None:
    """Oracle: Benjamini and Hochberg's rule by scipy over the p-values of both studies' claims; the
    page counts what is upheld by itself and what remains, and names the number of claims."""
    made(
        reproduced,
        "ex3-report",
        {(p, s): 0.003 + (s - 1) / 1e4 for p in ("ex3-base", "ex3-batch-64") for s in range(3)}
        | {("ex3-rmsprop", s): 0.004 + s / 1e3 for s in range(3)},
    )
    judged = judge_reproduction([read_part(reproduced / name) for name in REPORT])
    tested = [j for j in judged if j.p is not None]
    expected = stats.false_discovery_control([j.p for j in tested])
    assert [j.adjusted_p for j in tested] == pytest.approx(expected.tolist())
    for j, p in zip(tested, expected, strict=True):
        assert j.adjusted == (j.verdict if p <= 0.05 else "undecided")
    raw = sum(j.verdict == "upheld" for j in judged)
    remaining = sum(j.adjusted == "upheld" for j in judged)
    assert 0 < remaining < raw
    page = write_reproduction(reproduced).read_text()
    text = re.sub(r"\s+", " ", re.sub("<[^>]*>", " ", page.split("<script>")[0]))
    assert f"Unadjusted: {raw} upheld" in text
    assert f"Adjusted: {remaining} upheld" in text
    assert f"{len(tested)} claims were tested" in text


def test_a_correlation_needs_several_latent_sizes() -> None:
    """Oracle: counting. Twelve of fifteen experiments share one size, two have twice as much and
    one four times: the page says how many sizes there are and gives no correlation for them. With
    one more size at another width there are four, and only the whole has one."""
    errors = [0.01 - 1e-4 * i for i in range(15)]
    of_width_8 = pd.DataFrame(
        {
            "experiment": [f"e{i}" for i in range(15)],
            "latent_size": [1024] * 12 + [2048, 2048, 4096],
            "latent_side": 8,
            "test": errors,
        }
    )
    assert correlate_latent_size(of_width_8) is None
    smaller = pd.DataFrame(
        {"experiment": ["e15"], "latent_size": [256], "latent_side": [4], "test": [0.02]}
    )
    text = correlate_latent_size(pd.concat([of_width_8, smaller]))
    assert text is not None
    whole, held = text.split(" With")
    assert "Over all 16 experiments, larger latents go with smaller errors" in whole
    assert "There are 4 latent sizes; 12 of 16 experiments have latents of 1,024 numbers." in whole
    assert "held at 8 × 8 (15 experiments), no correlation can be given" in held
    assert "There are 3 latent sizes; 12 of 15 experiments have latents of 1,024 numbers." in held


def test_runs_without_any_error_are_counted(tmp_path: Path) -> None:
    """Oracle: one of six complete runs has an error of 0; the page says that one is left out."""
    errors = {(p, s): 0.005 + s / 1e5 for p in ("ex2-base", "ex2-stride") for s in range(3)}
    errors["ex2-stride", 2] = 0.0
    made(tmp_path, "ex2-report", errors)
    page = write_reproduction(tmp_path).read_text()
    assert "Left out: 1 complete run with an error of exactly 0" in page
    part = read_part(tmp_path / "ex2-report")
    assert {j.n for j in judge_reproduction([part]) if j.claim.lower == "ex2-stride"} == {2}


def test_a_failed_run_is_told(tmp_path: Path) -> None:
    """Oracle: one seed of one experiment diverged; the page says so and judges by the others."""
    errors = {(p, s): 0.005 for p in ("ex2-base", "ex2-stride") for s in range(3)}
    del errors["ex2-stride", 1]
    made(tmp_path, "ex2-report", errors)
    page = write_reproduction(tmp_path).read_text()
    assert "Failed: ex2-stride, seed 1: diverged: training loss is nan" in page
    part = read_part(tmp_path / "ex2-report")
    assert {j.n for j in judge_reproduction([part]) if j.claim.lower == "ex2-stride"} == {2}


def test_the_choice_of_the_epoch_never_sees_the_test_error(tmp_path: Path) -> None:
    """Oracle: the test error is least in the epoch with the greatest validation error; the run's
    epoch, and its figure, are the validation's choice."""
    made(tmp_path, "ex2-report", {("ex2-base", 0): 0.005})
    folder = tmp_path / "ex2-report"
    trials, epochs = read_trials(folder), read_epochs(folder)
    write_reproduction(tmp_path)  # of one run, and no baselines: cut short
    assert trials["best_epoch"].tolist() == [2]
    assert trials["test_mse"].tolist() == epochs["test_mse"].tolist()[1:]
    assert epochs["test_mse"].notna().all()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--only", "ex2-baze"], "--only ex2-baze: unknown. Use ex2-base, "),
        (["--only", ""], "--only : unknown. Use "),
        (["--leave-out", "nothing"], "--leave-out nothing: unknown. Use "),
        (["--only", "ex2-base", "--leave-out", "ex2-base"], "no experiment is left to run"),
        (["--data", "/nowhere"], "'/nowhere' is neither a built-in source"),
        (["--study", "../x"], "--study '../x': "),
        (["--seeds", "0"], "--seeds"),
    ],
)
def test_wrong_use(run: Run, tmp_path: Path, arguments: list[str], message: str) -> None:
    """Oracle: one message that names the option, its value and what is allowed; nothing written."""
    code, out, err = run("reproduce", "--results", tmp_path / "r", *arguments)
    assert (code, out) == (2, "")
    assert message in err
    assert not (tmp_path / "r").exists()


def test_other_budgets_are_refused(run: Run, reproduced: Path) -> None:
    """Oracle: runs of two epochs lie there; three would not be comparable."""
    arguments = ["--results", reproduced.parent, "--data", "photos", "--epochs", "3"]
    code, _, err = run("reproduce", *arguments)
    assert code == 2
    assert "--epochs 3: " in err
    assert "was started with 2" in err


def reproduce(folder: Path, seeds: int, *experiments: str) -> list[str]:
    """A reproduction of a few short runs as a command line."""
    command = [sys.executable, "-m", "raycae", "reproduce", "--data", "photos", "--limit", "100"]
    command += ["--epochs", "2", "--results", str(folder), "--seeds", str(seeds)]
    command += ["--concurrent", "1"]
    return [*command, "--only", ",".join(experiments)]


def require_runs(results: Path, seeds: int) -> None:
    """Each experiment of `ONLY` was run once with each seed; it has pictures, and a test error for
    each epoch."""
    seen = []
    for name in REPORT:
        folder = results / "reproduction" / name
        trials, epochs = read_trials(folder), read_epochs(folder)
        seen += list(zip(trials["point"], trials["seed"], strict=True))
        assert set(trials["state"]) == {"COMPLETE"}
        assert len(epochs) == 2 * len(trials)
        assert epochs["test_mse"].notna().all()
        by_epoch = epochs.set_index(["trial_number", "epoch"])["test_mse"]
        for row in trials.to_dict("records"):
            assert row["test_mse"] == by_epoch[row["trial_number"], row["best_epoch"]]
        best = select_best_runs(read_part(folder).runs)
        assert all((folder / "pictures" / f"{number}.png").exists() for number in best.values())
    assert sorted(seen) == sorted((name, seed) for name in ONLY for seed in range(seeds))


def test_a_failed_step_names_the_command_that_was_typed(
    tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Oracle: the arguments: they name the results, so the command finds the same studies."""

    def fail(folder: Path, finish: object = None) -> None:
        raise InputError("no images today")

    made(tmp_path / "r" / "reproduction", "ex2-report", {("ex2-base", 0): 0.01})
    monkeypatch.setattr(picture_sheets, "add_pictures_and_baselines", fail)
    monkeypatch.setattr(reproduce_command, "run_experiments", lambda requests: 0)
    words = ["reproduce", "--only", "ex2-base", "--results", str(tmp_path / "r")]
    code, out, err = run(*words)
    assert (code, err) == (0, "")
    assert f"no images today. Fix this, then run `raycae {shlex.join(words)}`." in out


@pytest.mark.ray
@pytest.mark.timeout(900)
def test_it_runs(tmp_path: Path, small_ray: dict[str, str], run: Run) -> None:
    """Oracle: counting. In the end each experiment stands there once with its seed; run again it
    does nothing but the page."""
    command = reproduce(tmp_path, 1, *ONLY)
    done = run_process(command, small_ray)
    assert done.returncode == 0, done.stderr
    require_runs(tmp_path, 1)
    page = (tmp_path / "reproduction" / "report.html").read_text()
    assert "Strided convolutions beat pooling." in page

    code, again, _ = run(*command[3:])  # In this process: nothing is run.
    assert code == 0
    assert [line.split()[0] for line in again.splitlines()] == ["page"]


@pytest.mark.long
@pytest.mark.ray
@pytest.mark.timeout(900)
def test_it_is_interrupted_and_goes_on_and_grows(tmp_path: Path, small_ray: dict[str, str]) -> None:
    """Oracle: counting. Interrupted, it goes on; in the end each experiment stands there once with
    each of two seeds; one more seed of one experiment is one more run."""
    command = reproduce(tmp_path, 2, *ONLY)
    process = subprocess.Popen(command, env=small_ray, stdout=subprocess.PIPE, text=True)
    first = tmp_path / "reproduction" / "ex2-report"
    wait_for(lambda: epochs_so_far(first) >= 1)
    process.send_signal(signal.SIGINT)
    out, _ = process.communicate(timeout=300)
    assert process.returncode == 130, out
    assert "continue with: raycae reproduce --data photos" in out
    done = subprocess.run(command, env=small_ray, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    require_runs(tmp_path, 2)

    grown = run_process(reproduce(tmp_path, 3, "ex2-stride"), small_ray)
    assert grown.returncode == 0, grown.stderr
    trials: pd.DataFrame = read_trials(first)
    assert list(zip(trials["point"], trials["seed"], strict=True))[4:] == [("ex2-stride", 2)]


def test_a_study_without_any_trial(tmp_path: Path) -> None:
    """Oracle: cut short before its first trial ended: a page that says that nothing was run."""
    made(tmp_path, "ex3-report", {("ex3-base", 0): 0.002})
    study = read_study(tmp_path / "ex3-report")
    for name, rows in (("trials", Records().trials_table()), ("epochs", None)):
        table = Records().epochs_table() if rows is None else rows
        pq.write_table(table, tmp_path / "ex3-report" / f"{name}.parquet")
    page = write_reproduction(tmp_path).read_text()
    assert study["study"] in page
    judged = judge_reproduction([read_part(tmp_path / "ex3-report")])
    assert {j.verdict for j in judged} == {"not run"}


def test_a_dead_process_leaves_work(tmp_path: Path) -> None:
    """Oracle: the tables of a process that died are older than its ledger: a run that it had begun
    is to go on, though no table knows of it; a whole study has none to do."""
    made(tmp_path, "ex2-report", {("ex2-base", 0): 0.005})
    folder = tmp_path / "ex2-report"
    plan = load_plan(read_content(folder))
    assert not has_work(folder, plan)
    tables = {path: path.read_bytes() for path in folder.glob("*.parquet")}
    more = replace(plan, points=["ex2-base", "ex2-stride"], trials=2)
    study = resume_study(folder, more)
    begin(study)
    die(study)
    for path, content in tables.items():
        path.write_bytes(content)
    assert has_work(folder, more)


def test_the_second_task_is_run_like_the_first(run: Run, reproduced: Path) -> None:
    """Oracle: reconstruction lies there with two epochs of the photographs; without options the
    same is planned for colourisation; with other ones it is refused."""
    folders = [reproduced / name for name in REPORT]
    given = dict.fromkeys(("data", "epochs", "limit", "seed", "n_seeds"))
    same = complete_budget(folders, given)
    assert (same["data"], same["epochs"], same["n_seeds"]) == ("photos", 2, None)
    plan = plan_runs(folders[1], loading.load_space("ex3-report"), ["ex3-base"], same)
    assert (plan.data, plan.epochs, plan.trials) == ("photos", 2, 3)
    only = ["--only", "ex3-base", "--epochs", "9"]
    code, _, err = run("reproduce", "--results", reproduced.parent, *only)
    assert code == 2
    assert "--epochs 9: " in err


def test_other_experiments_are_refused(run: Run, reproduced: Path) -> None:
    """Oracle: the text of the space, as recorded, is not today's."""
    text = loading.load_space("ex2-report").text.replace(
        "{latent_channels: 32}", "{latent_channels: 33}"
    )
    plan = load_plan(read_content(reproduced / "ex2-report"))
    other = loading.parse_space(text, name="ex2-report")
    resume_study(reproduced / "ex2-report", plan, space=other).close()
    code, _, err = run("reproduce", "--results", reproduced.parent, "--data", "photos")
    assert code == 2
    assert "was started with other experiments" in err


def test_other_versions_are_refused(run: Run, reproduced: Path) -> None:
    """Oracle: errors measured with another torch are not comparable with today's."""
    path = reproduced / "ex2-report" / "study.json"
    content = json.loads(path.read_text())
    content["versions"]["torch"] = "1.0.0"
    path.write_text(json.dumps(content))
    code, _, err = run("reproduce", "--results", reproduced.parent, "--data", "photos")
    assert code == 2
    assert "measured with another version of torch" in err
