"""Fused training of networks that searches draw, and the yardstick."""

from __future__ import annotations

import os
import runpy
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import optuna
import pytest
import torch
from fused_trainings import assert_equal, exact, pictures
from hypothesis import given, reject, settings
from hypothesis import strategies as st

from raycae.config import resolve
from raycae.model.architecture import Infeasible
from raycae.space import loading
from raycae.training.fused import FusedTrainings
from raycae.training.trainer import Diverged, Training


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> Iterator[None]:
    """Maps this small are not worth handing from one core to another."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@settings(max_examples=10, deadline=None, derandomize=True)
@given(st.sampled_from(["ex2", "ex3"]), st.integers(0, 2**31), st.integers(1, 4), st.integers(0, 3))
def test_networks_of_the_spaces(name: str, seed: int, m: int, at: int) -> None:
    """Oracle: alone, in float64, for drawn configurations of the searches, at any position among
    neighbours with other rates; two minibatches, images of half the size."""
    trial = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed)).ask()
    smaller = {"image_size": 16, "batch_size": 8}
    config = loading.load_space(name).draw(trial).model_copy(update=smaller)
    at %= m
    photos = pictures(n=18, size=16)

    def one(position: int) -> Training:
        rate = {"lr": config.lr * 2.0 ** (at - position)}
        return Training(config.model_copy(update=rate), *photos, epochs=1, seed=position)

    try:
        fused = exact([one(position) for position in range(m)])
    except Infeasible:
        reject()
    (alone,) = exact([one(at)])
    said = FusedTrainings(fused).run_epoch()[at]
    assert not isinstance(said, Diverged)
    assert said["val_mse"] == pytest.approx(alone.run_epoch()["val_mse"], rel=1e-9)
    assert_equal(fused[at], alone, 1e-8)


def test_the_yardstick_measures_points_of_the_spaces() -> None:
    """Oracle: the spaces' own files."""
    script = Path(__file__).resolve().parents[2] / "analysis" / "benchmarks" / "yardstick.py"
    networks = runpy.run_path(str(script))["NETWORKS"]
    points = {"ex1-base": loading.load_space("ex1").points["base"]}
    points |= loading.load_space("ex2-report").points | loading.load_space("ex3-report").points
    for name, changes in networks.items():
        assert resolve(changes | {"batch_size": points[name].batch_size}) == points[name]


NOT_INSTALLED = """
from importlib import metadata

of = metadata.version


def version(name):
    if name == "raycae":
        raise metadata.PackageNotFoundError(name)
    return of(name)


metadata.version = version
"""


@pytest.mark.long
def test_the_yardstick_needs_neither_ray_nor_optuna(tmp_path: Path) -> None:
    """Oracle: a Python that has neither, raycae as a mere checkout; every way is in the table."""
    checkout = Path(__file__).resolve().parents[2]
    (tmp_path / "sitecustomize.py").write_text(NOT_INSTALLED)
    for missing in ("ray", "optuna", "plotly"):
        (tmp_path / f"{missing}.py").write_text(f"raise ImportError('no {missing}')")
    there = [
        *(sys.executable, checkout / "analysis" / "benchmarks" / "yardstick.py"),
        *("--networks", "ex1-base", "--images", "16", "--repeats", "1"),
        *("--batches", "16", "--members", "2"),
    ]
    path = os.pathsep.join([str(tmp_path), str(checkout)])
    done = subprocess.run(
        there, capture_output=True, text=True, env={**os.environ, "PYTHONPATH": path}, check=True
    )
    table = done.stdout.partition("| network |")[2]
    for way in ("a loader", "b eager", "c raycae", "d raycae", "e vmap", "f HFTA", "g processes"):
        assert f"| {way}" in table
