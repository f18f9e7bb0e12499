"""Workers map cached images, or get a copy through Ray's object store; both train the same."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from searches import command, trials_of
from searches import run as run_process

pytestmark = [pytest.mark.ray, pytest.mark.timeout(600)]

SETUP = "from raycae.data import image_cache as c; c.LEAST_BYTES, c.SETTLE_S = {least}, 0.0"


def test_searches_with_and_without_mapped_images(
    space_file: Path, tmp_path: Path, small_ray: dict[str, str]
) -> None:
    """Oracle: the search without a cache, which gets its images through the object store of a
    running Ray. A search that starts its own Ray maps them, and agrees in every proposal and every
    loss, bit for bit."""
    (tmp_path / "images").mkdir()
    for number in range(150):
        pixels = np.random.default_rng(number).integers(0, 256, (4, 4, 3), np.uint8)
        image = Image.fromarray(pixels).resize((16, 16), Image.Resampling.BICUBIC)
        image.save(tmp_path / "images" / f"{number}.png")
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
