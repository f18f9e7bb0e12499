"""A search on a Ray of its own: it listens on loopback only, and its workers map cached images; or
they get a copy through Ray's object store, with the same result."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from ray import tune
from searches import Running, command, descendants, epochs_so_far, trials_of, wait_for
from searches import run as run_process

from raycae import data
from raycae.data import image_cache
from raycae.execution import tune_adapter, tuner
from raycae.execution.trainable import map_if_shared
from raycae.study.study import Study

SETUP = "from raycae.data import image_cache as c; c.LEAST_BYTES, c.SETTLE_S = {least}, 0.0"


def put_images(folder: Path) -> Path:
    folder.mkdir()
    for number in range(150):
        pixels = np.random.default_rng(number).integers(0, 256, (4, 4, 3), np.uint8)
        image = Image.fromarray(pixels).resize((16, 16), Image.Resampling.BICUBIC)
        image.save(folder / f"{number}.png")
    return folder


@pytest.mark.parametrize("is_cached", [True, False])
@pytest.mark.parametrize("is_local", [True, False])
def test_only_workers_of_this_machine_map_images(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, study: Study, is_cached: bool, is_local: bool
) -> None:
    """Oracle: by hand. Without a cache, and on other machines, workers get arrays. What they map is
    what they would get."""
    monkeypatch.setenv("RAYCAE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(image_cache, "LEAST_BYTES", 0 if is_cached else 1 << 40)
    monkeypatch.setattr(image_cache, "SETTLE_S", 0.0)
    images = data.load(str(put_images(tmp_path / "images")), image_size=16)
    sent: dict[str, Any] = {}
    monkeypatch.setattr(tune, "with_parameters", lambda *_, **parameters: sent.update(parameters))
    monkeypatch.setattr(tune, "with_resources", lambda *_: None)
    monkeypatch.setattr(tuner, "run_tune", lambda *_: None)
    monkeypatch.setattr(tune_adapter, "SearchState", lambda *_: SimpleNamespace(fault=None))
    monkeypatch.setattr(tune_adapter, "StudySearcher", lambda *_: None)
    slots = SimpleNamespace(cpus=1, gpus=0, count_available=None)
    for test in (images.test, None):
        tuner.train_trials(
            study,
            images,
            test,
            slots,
            None,
            lambda: False,
            None,
            is_local,  # type: ignore[arg-type]
        )
        for name, expected in (("train", images.train), ("val", images.val), ("test", test)):
            is_shared = is_cached and is_local and expected is not None
            assert isinstance(sent[name], data.SharedPixels) == is_shared
            if expected is None:
                assert sent[name] is None
            else:
                assert np.array_equal(map_if_shared(sent[name]), expected)


@pytest.mark.long
@pytest.mark.timeout(300)
def test_it_listens_on_loopback_and_maps_images(space_file: Path, tmp_path: Path) -> None:
    """Oracle: the kernel's lists, while a search runs on a Ray of its own. Besides the driver, the
    worker maps the file of decoded images. Of the listening sockets none can be reached from
    another machine."""
    env = {k: v for k, v in os.environ.items() if not k.startswith("RAY_")}
    env["RAYCAE_CACHE"] = str(tmp_path / "cache")
    more = ["--data", str(put_images(tmp_path / "images")), "--trials", "1", "--epochs", "400"]
    arguments = command(space_file, tmp_path, *more, setup=SETUP.format(least=0))
    with Running(arguments, env) as search:
        wait_for(lambda: epochs_so_far(tmp_path / "tiny") >= 2)
        session = descendants(search.pid)
        sizes = {path: path.stat().st_size for path in (tmp_path / "cache").glob("decoded/*")}
        pixels = str(max(sizes, key=lambda path: sizes[path]))
        mapped = [pid for pid in session if pixels in Path(f"/proc/{pid}/maps").read_text()]
        assert len(mapped) >= 2
        if shutil.which("ss") is None:
            pytest.skip("ss (Debian's iproute2) is not installed")
        listed = subprocess.run(["ss", "-ltnpH"], capture_output=True, text=True, check=True).stdout
    ours = [
        line
        for line in listed.splitlines()
        if {int(pid) for pid in re.findall(r"pid=(\d+)", line)} & session
    ]
    assert len(ours) >= 3
    elsewhere = [line for line in ours if not re.search(r"(127\.0\.0\.1|::1)\]?:\d+ ", line)]
    assert elsewhere == []


@pytest.mark.long
@pytest.mark.ray
@pytest.mark.timeout(600)
def test_searches_with_and_without_mapped_images(
    space_file: Path, tmp_path: Path, small_ray: dict[str, str]
) -> None:
    """Oracle: the search without a cache, which gets its images through the object store of a
    running Ray. A search that starts its own Ray maps them, and agrees in every proposal and every
    loss, bit for bit."""
    put_images(tmp_path / "images")
    env = {**small_ray, "RAYCAE_CACHE": str(tmp_path / "cache")}
    more = ["--data", str(tmp_path / "images"), "--trials", "3", "--epochs", "2"]
    more += ["--concurrent", "1", "--sampler", "random"]
    outputs = {}
    for name, least, options in (
        ("copied", 1 << 40, []),
        ("mapped", 0, ["--address", "local"]),
    ):
        setup = SETUP.format(least=least)
        arguments = [*more, *options, "--study", name]
        done = run_process(command(space_file, tmp_path / "r", *arguments, setup=setup), env)
        assert (done.returncode, done.stderr) == (0, "")
        outputs[name] = done.stdout
    assert "cache" not in outputs["copied"]
    note = f"decoded images are kept in {tmp_path}/cache/decoded for the next start"
    assert note in outputs["mapped"]
    drop = ["study", "wall_time_s", "epoch_time_s", "images_per_s", "started_at", "ended_at"]
    copied, mapped = (trials_of(tmp_path / "r" / name).drop(columns=drop) for name in outputs)
    assert (mapped["state"] != "FAIL").all()
    pd.testing.assert_frame_equal(copied, mapped)
