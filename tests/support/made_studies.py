"""Studies of a few made-up trials, and the report's page as a parser sees it.

The studies are made of events folded by `Records`, as in a search.
"""

from __future__ import annotations

import json
import math
import random
import shutil
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pandas as pd
from PIL import Image

from raycae.config import resolve
from raycae.study import tables
from raycae.study.records import COMPLETE, FAIL, PRUNED, RUNNING, Records
from raycae.study.tables import ALL, BEST, SAME, WORST

BEGUN = datetime(2026, 3, 1, 12, tzinfo=UTC)


HOSTILE = '<script>alert(\'x\')</script>"><img src=x onerror="boom()">'


@dataclass
class Trial:
    """A made-up trial: its settings and the validation error after each epoch."""

    curve: list[float]
    state: str = COMPLETE
    settings: dict[str, Any] = field(default_factory=dict)
    point: str | None = None
    change: str | None = None
    parent: int | None = None
    reason: str | None = None
    test_mse: float | None = None


def made_study(
    folder: Path,
    trials: list[Trial],
    *,
    task: str = "reconstruct",
    study: str = "made-up",
    data: str = "/somewhere/photos of mine",
    baselines: list[tuple[str, int | None, float]] | None = None,
    epochs: int = 4,
    asked: dict[str, Any] | None = None,
) -> Path:
    """A study's folder as a search leaves it, without a ledger."""
    folder.mkdir(parents=True, exist_ok=True)
    plan = {"study": study, "space": "ex2", "data": data, "trials": len(trials)}
    plan |= {"epochs": epochs, "limit": None, "seed": 7, "sampler": "tpe", "scheduler": "asha"}
    plan |= asked or {}
    content = {
        "study": study,
        "plan": plan,
        "space": {"name": "ex2", "hash": "0123abcd", "text": "task: reconstruct"},
        "task": task,
        "data": {"source": data, "fingerprint": "f00d", "n_train": 5000, "n_val": 1000},
        "created_at": BEGUN.isoformat(),
        "command": f"raycae search --space ex2 --study {study}",
        "versions": {"python": "3.11.2", "raycae": "0.1.0", "torch": "2.15.0"},
        "commit": "0123456789ab",
        "hardware": {
            "host": "node",
            "system": "Linux",
            "cpu": "Some CPU",
            "n_cpus": 2,
            "memory_bytes": 8 << 30,
            "gpus": [],
        },
    }
    (folder / "study.json").write_text(json.dumps(content))
    records = Records(study, n_images=5000)
    for number, trial in enumerate(trials):
        for event in _events(number, trial, task):
            records.apply(event)
    records.write(folder)
    if baselines is not None:
        frame = pd.DataFrame(baselines, columns=["baseline", "latent_size", "val_mse"])
        frame.insert(0, "data_fingerprint", "f00d")
        kinds = {"latent_size": "Int64", "val_mse": "Float64"}
        frame.assign(test_mse=frame["val_mse"]).astype(kinds).to_parquet(
            folder / "baselines.parquet", index=False
        )
    return folder


def _events(number: int, trial: Trial, task: str) -> list[dict[str, Any]]:
    common = {"trial_number": number, "at": BEGUN + timedelta(minutes=number), "attempt": 1}
    config = resolve({"task": task, **trial.settings}).to_json()
    events = [
        {"event": "created", "point": trial.point, "params": "{}", "config": config, "seed": 7}
        | {"change": trial.change, "parent": trial.parent},
        {"event": "started"},
    ]
    for epoch, value in enumerate(trial.curve, 1):
        measured = {
            "train_mse": value,
            "val_mse": value,
            "val_psnr_db": -10 * math.log10(max(value, 1e-10)),
        }
        events.append({"event": "epoch", "epoch": epoch, "epoch_time_s": 2.5, **measured})
    if trial.state != RUNNING:
        events.append({"event": "ended", "state": trial.state, "reason": trial.reason})
    if trial.test_mse is not None:
        events.append({"event": "evaluated", "test_mse": trial.test_mse})
    return [{**common, **event} for event in events]


MEAN = {
    "mse": 0.0012,
    "psnr_db": 21.26,
    "ssim": 0.914,
    "delta_e": 12.34,
    "chroma_error": 5.66,
    "hue_error": 4.44,
    "colourfulness": 18.0,
    "original_colourfulness": 20.0,
}


def painted(folder: Path, number: int, n_rows: int, **mean: float) -> Path:
    """Both sheets as `evaluation.paint` lays them out: rows of 12 pictures of 32 pixels, gaps of 2;
    and what is measured of them: on average `MEAN` but for what is given, and errors of 0.01 more
    for each picture from the left to the right."""
    shows = [SAME] * 12 + [BEST] * 6 + [WORST] * 6
    rows = [{**MEAN, **mean, "trial_number": number, "shows": ALL}]
    rows += [
        {**MEAN, "trial_number": number, "shows": of, "image": i, "mse": 0.01 * (i % 12 + 1)}
        for i, of in enumerate(shows)
    ]
    before = tables.read_pictures(folder)
    frame = pd.concat([before, pd.DataFrame(rows)])
    frame.astype({"image": "Int64"}).to_parquet(folder / "pictures.parquet", index=False)
    painted_before(folder, number, n_rows)
    shutil.copy(folder / "pictures" / f"{number}.png", folder / "pictures" / f"{number}-cases.png")
    return folder


def painted_before(folder: Path, number: int, n_rows: int) -> Path:
    """The sheet alone, as versions did that painted validation images."""
    (folder / "pictures").mkdir(exist_ok=True)
    sheet = Image.new("RGB", (12 * 34 - 2, n_rows * 34 - 2), "white")
    slope = Image.linear_gradient("L").resize((32, 32))
    for row in range(n_rows):
        for i in range(12):
            hue = Image.new("L", (32, 32), 21 * i)
            picture = Image.merge("HSV", (hue, slope.rotate(90), slope)).convert("RGB")
            sheet.paste(picture, (34 * i, 34 * row))
    sheet.save(folder / "pictures" / f"{number}.png")
    return folder


def plausible(folder: Path, n: int = 60, task: str = "reconstruct") -> Path:
    """`n` trials with errors that fall with the latent size, some stopped, some failed."""
    chance = random.Random(0)
    scale = 0.9 if task == "reconstruct" else 0.04
    trials = [Trial([scale * 0.011 * (1 + 2 / e) for e in range(1, 11)], point="base")]
    for _ in range(n - 1):
        channels = chance.choice([2, 4, 8, 16, 24, 32])
        depth = chance.choice([1, 2, 2, 3, 3, 4])
        settings = {
            "latent_channels": channels,
            "depth": depth,
            "channels": [chance.choice([8, 16, 24, 32]) for _ in range(depth)],
            "optimizer": chance.choice(["adam", "adamw", "rmsprop", "sgd"]),
            "lr": 10 ** chance.uniform(-4, -1.6),
            "batch_size": chance.choice([16, 32, 64, 128]),
            "upsample": chance.choice(["nearest", "bilinear", "pixel_shuffle"]),
        }
        size = channels * (32 >> depth) ** 2
        floor = scale * size**-0.55 * 0.18 * chance.lognormvariate(0.35, 0.35)
        curve = [floor * (1 + chance.uniform(1, 3) / epoch) for epoch in range(1, 11)]
        state = chance.choices([COMPLETE, PRUNED, FAIL], [6, 5, 1])[0]
        length = {COMPLETE: 10, PRUNED: chance.choice([1, 1, 3]), FAIL: chance.choice([0, 2])}[
            state
        ]
        reason = {PRUNED: f"asha after epoch {length}", FAIL: "diverged: loss is nan in epoch 3"}
        change = f"channels_1 8 → {settings['channels'][0]}"
        told = {"reason": reason.get(state), "change": change, "parent": 0}
        trials.append(Trial(curve[:length], state, settings, **told))
    trials[1].test_mse = trials[1].curve[-1] * 1.02 if trials[1].curve else None
    if task == "reconstruct":
        codes = [("pca", k, 0.9 * k**-0.78) for k in (64, 128, 256, 512, 1024, 2048)]
        codes += [("pca_4x4", 64 * k, 0.026 * k**-0.95) for k in range(1, 49)]
        codes += [("pca_8x8", 16 * k, 0.05 * k**-0.75) for k in range(1, 192)]
        levels = [("mean_colour", None, 0.0617)]
    else:
        codes = []
        levels = [("grey_copy", None, 0.00412), ("mean_chroma", None, 0.0038)]
        levels += [("luma_function", None, 0.00352)]
    made_study(folder, trials, task=task, baselines=codes + levels, epochs=10, study=folder.name)
    finished = [(t.curve[-1], i) for i, t in enumerate(trials) if t.state == COMPLETE]
    return painted(folder, min(finished)[1], 2 if task == "reconstruct" else 3)


class Page(HTMLParser):
    """What a browser would make of a page: its elements, the text outside scripts, the scripts."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.scripts: list[str] = []
        self.text = ""
        self._inside = ""
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        self._inside = tag
        if tag == "script":
            self.scripts.append("")

    def handle_endtag(self, tag: str) -> None:
        self._inside = ""

    def handle_data(self, data: str) -> None:
        if self._inside == "script":
            self.scripts[-1] += data
        elif self._inside != "style":
            self.text += " ".join(data.split()) + " "

    def having(self, attribute: str) -> list[str | None]:
        return [attrs[attribute] for _, attrs in self.elements if attribute in attrs]


BASELINES: list[tuple[str, int | None, float]] = [
    ("mean_colour", None, 0.05),
    ("pca", 1024, 0.004),
    ("pca_4x4", 1024, 0.002),
    ("pca_4x4", 512, 0.008),
]


TRIALS = [
    Trial([0.02, 0.008, 0.006, 0.005], point="base"),
    Trial([0.01, 0.004, 0.002, 0.001], settings={"channels": [16, 24]}, test_mse=0.0011),
    Trial([0.03], PRUNED, {"latent_channels": 8}, reason="asha after epoch 1"),
    Trial([], FAIL, {"lr": 1.0}, reason="diverged: loss is nan"),
    Trial([0.02], RUNNING, {"lr": 0.01}, reason="interrupted"),
]


SERIES = [
    Trial([0.004], settings={"task": "colourise"}),
    Trial([0.003], change="wide", parent=0),
    Trial([0.0035], change="slow", parent=0),
    Trial([0.0045], change="kernel-5", parent=1),
    Trial([0.0024], change="slow", parent=1),
    Trial([], FAIL, change="fast", parent=4),
    Trial([0.002], PRUNED, change="relu", parent=4),
    Trial([0.01], RUNNING, change="deep", parent=4),
]
