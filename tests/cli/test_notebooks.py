"""The notebooks in `analysis/`, executed from top to bottom on the studies that ship with them."""

from __future__ import annotations

import json
import os
import re
import signal
import threading
from collections.abc import Iterator
from pathlib import Path

import nbformat
import numpy as np
import pandas as pd
import pytest
from nbclient import NotebookClient
from scipy.stats import spearmanr
from searches import epochs_so_far, wait_for

from raycae.report.reproduction.page import read_part
from raycae.space.loading import REPORT
from raycae.study.records import COMPLETE

ANALYSIS = Path(__file__).resolve().parents[2] / "analysis"
RECORDED = ANALYSIS / "recorded" / "reproduction"
VERDICTS = {"upheld": (12, 3), "contradicted": (1, 1), "undecided": (27, 36)}
"""By itself, and adjusted for the number of claims."""


@pytest.fixture(scope="module")
def kernel() -> Iterator[NotebookClient]:
    """One kernel for all notebooks: pandas, plotly and the others are imported once."""
    client = NotebookClient(
        nbformat.v4.new_notebook(),
        timeout=300,
        kernel_name="python3",
        resources={"metadata": {"path": ANALYSIS}},
    )
    with client.setup_kernel():
        yield client


def execute(kernel: NotebookClient, name: str) -> list[str]:
    """What each code cell put out, as text. Raises where one fails. No name of another notebook is
    left in the kernel."""
    kept = nbformat.read(ANALYSIS / name, as_version=4)
    kernel.nb = nbformat.read(ANALYSIS / name, as_version=4)
    kernel.nb.cells.insert(0, nbformat.v4.new_code_cell("%reset -f"))
    kernel.reset_execution_trackers()
    for i, cell in enumerate(kernel.nb.cells):
        kernel.execute_cell(cell, i)
    kernel.nb.cells.pop(0)
    assert read_printed(kept) == read_printed(kernel.nb), "run analysis/run_notebooks.py again"
    return [json.dumps(cell.get("outputs", [])) for cell in kernel.nb.cells]


def read_printed(notebook: nbformat.NotebookNode) -> list[str]:
    """What each code cell printed."""
    return [
        "".join(output["text"] for output in cell.outputs if output.output_type == "stream")
        for cell in notebook.cells
        if cell.cell_type == "code"
    ]


@pytest.mark.parametrize("path", sorted(ANALYSIS.glob("*.ipynb")), ids=lambda path: path.name)
def test_notebooks_ship_with_small_outputs(path: Path) -> None:
    """Oracle: the file: every figure is a picture, and nothing tells of the machine. `executed`
    compares what is printed with a new run."""
    notebook = nbformat.read(path, as_version=4)
    kinds = {
        kind
        for cell in notebook.cells
        for o in cell.get("outputs", [])
        for kind in o.get("data", {})
    }
    assert kinds == {"text/plain", "text/html", "image/png"}
    assert path.stat().st_size < 200_000
    assert str(ANALYSIS.parent) not in path.read_text()


def test_the_reproductions_answers(kernel: NotebookClient) -> None:
    """Oracle: what the recorded study is known to say (FINDINGS, "The source report"): the rank
    correlations, how often each verdict was given, and for one claim which. All cells run."""
    said = "".join(execute(kernel, "reproduction.ipynb"))
    assert "Over all 19 experiments, larger latents go with smaller errors" in said
    assert "(rank correlation \\u22120.70, \\u22120.89 to \\u22120.31)" in said
    for verdict, counts in VERDICTS.items():
        assert [int(n) for n in re.findall(rf"{verdict} +(\d+)\b", said)] == list(counts)
    assert re.search("Strided convolutions beat pooling.{0,200}?undecided", said)
    assert "application/vnd.plotly" in said


def test_the_first_look(kernel: NotebookClient) -> None:
    """Oracle: the tables of the recorded frontier, asked by other means. SQL says the same."""
    said = "".join(execute(kernel, "01-first-look.ipynb"))
    trials = pd.read_parquet(ANALYSIS / "recorded/frontier/trials.parquet")
    stopped = trials[trials["state"] == "PRUNED"]
    share = stopped["wall_time_s"].sum() / trials["wall_time_s"].sum()
    front = trials[trials["on_frontier"].fillna(False).astype(bool)].sort_values("latent_size")
    low, high = front["val_mse"].iloc[[0, -1]]
    assert f"{len(stopped)} of {len(trials)} trials were stopped early" in said
    assert f"took {share:.0%} of the training time" in said
    assert f"from {low:.5f} to {high:.5f}: by a factor of {low / high:.1f}" in said
    (hours,) = re.findall(r"PRUNED +\\u2502 +27 \\u2502 +([0-9.]+)", said)
    assert float(hours) == round(stopped["wall_time_s"].sum() / 3600, 2)
    assert said.count("application/vnd.plotly") == 2


def test_latent_size_and_error(kernel: NotebookClient) -> None:
    """Oracle: the rank correlation of the whole table, and the slope of its frontier by the
    definition of one: nobody with at most as many numbers has less error."""
    said = "".join(execute(kernel, "02-latent-size-and-error.ipynb"))
    trials = pd.read_parquet(ANALYSIS / "recorded/curves/ex2/trials.parquet")
    rho = spearmanr(trials["latent_size"], trials["val_mse"]).statistic
    assert f"all trials: rank correlation {rho:+.2f} (95 % interval" in said
    front = trials[
        [
            not (
                (trials["latent_size"] <= size)
                & (trials["val_mse"] <= error)
                & (trials["trial_number"] != number)
            ).any()
            for size, error, number in trials[["latent_size", "val_mse", "trial_number"]].to_numpy()
        ]
    ]
    slope = np.polyfit(np.log2(front["latent_size"]), np.log2(front["val_mse"]), 1)[0]
    assert f"{len(front)} trials; slope {slope:.2f}: half the numbers" in said
    assert f"At best, half the numbers cost {2**-slope:.2f} times the error" in said


def test_comparing_studies(kernel: NotebookClient) -> None:
    """Oracle: the two tables: at each latent size of either frontier from 256 on, where both have
    trials, how the least errors compare."""
    said = "".join(execute(kernel, "03-compare-studies.ipynb"))
    assert "The same task and pictures: errors can be compared." in said
    names = ("reproduction/ex2-report", "frontier")
    hand, search = (pd.read_parquet(ANALYSIS / f"recorded/{n}/trials.parquet") for n in names)
    both = [
        (hand[hand["latent_size"] <= size]["val_mse"].min(), search_least)
        for size in [256, 264, 280, 327, 384, 411, 417, 424, 476, 488, 512, 832, 1024, 4096]
        if (search_least := search[search["latent_size"] <= size]["val_mse"].min())
    ]
    median = np.median([found / picked for picked, found in both])
    assert f"at {len(both)} latent sizes where both have trials" in said
    assert f"in the middle it has {median:.2f} times the error" in said


@pytest.mark.ray
@pytest.mark.timeout(900)
def test_searching_in_a_notebook(
    small_ray: dict[str, str], space_file: Path, tmp_path: Path
) -> None:
    """Oracle: the contract. An interrupt is a KeyboardInterrupt, after which the kernel lives, the
    study can be read, nothing of it is lost and it goes on; another search follows in the same
    kernel. With a thousandth of an hour a search ends in order, long before its 99 trials. A cell
    holds one output that is replaced, not a line a trial."""
    cells = [
        "import os, raycae\nprint(os.getpid())\n"
        f"options = dict(results={str(tmp_path)!r}, gpus_per_trial=0, concurrent=1)",
        f"raycae.run_search({str(space_file)!r}, trials=99, epochs=50, study='many', **options)",
        "many = raycae.open_study('many', options['results'])\nprint(len(many.epochs))",
        "raycae.run_search(resume=True, study='many', hours=0.002, **options)",
        f"raycae.run_search({str(space_file)!r}, trials=3, epochs=1, study='few', **options)",
    ]
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(c) for c in cells])
    client = NotebookClient(notebook, timeout=300, kernel_name="python3", allow_errors=True)
    with client.setup_kernel(env=small_ray):
        client.execute_cell(notebook.cells[0], 0)
        pid = int(notebook.cells[0].outputs[0]["text"])

        def interrupt() -> None:
            wait_for(lambda: epochs_so_far(tmp_path / "many") >= 3)
            os.kill(pid, signal.SIGINT)

        thread = threading.Thread(target=interrupt)
        thread.start()
        for i, cell in enumerate(notebook.cells[1:], 1):
            client.execute_cell(cell, i)
        thread.join()
    _, interrupted, reopened, resumed, few = notebook.cells
    assert interrupted.outputs[-1]["ename"] == "KeyboardInterrupt"
    assert int(reopened.outputs[0]["text"]) >= 3
    assert "resuming many" in json.dumps(resumed.outputs)
    assert [o for o in resumed.outputs if o["output_type"] == "error"] == []
    many = pd.read_parquet(tmp_path / "many" / "trials.parquet")
    assert len(many) < 99
    assert set(many[many["state"] == "RUNNING"]["reason"]) == {"interrupted"}
    last = few.outputs[-1]["data"]
    assert "3 COMPLETE" in last["text/html"]
    assert "few/report.html" in last["text/html"]
    for cell in (interrupted, resumed, few):
        assert len(json.dumps(cell.outputs)) < 10_000
    states = pd.read_parquet(tmp_path / "few" / "trials.parquet")["state"]
    assert states.tolist() == [COMPLETE] * 3


def test_the_recorded_study_is_a_real_one() -> None:
    """Oracle: what `study.json` has to say of a run: command, versions, images, hardware; and that
    it is small."""
    for name in REPORT:
        part = read_part(RECORDED / name)
        assert part.study["command"].startswith("raycae reproduce")
        assert part.study["data"]["n_train"] == 10_500
        assert set(part.trials["state"]) == {"COMPLETE"}
        assert part.study["commit"]
    size = sum(path.stat().st_size for path in RECORDED.rglob("*") if path.is_file())
    assert size < 1_000_000
