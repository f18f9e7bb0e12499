"""A long study's tables, made up through the real columns without a single event."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from raycae.optimization.frontier import find_frontier
from raycae.space import loading
from raycae.study.records import (
    COMPLETE,
    EPOCH_COLUMNS,
    FAIL,
    PRUNED,
    TRIAL_COLUMNS,
    get_architecture_columns,
)

BEGUN = datetime(2026, 3, 1, 12, tzinfo=UTC)


class Chance:
    """What `space.Space.draw` asks for its values."""

    def __init__(self, seed: int) -> None:
        self.of = np.random.default_rng(seed)
        self.told: dict[str, object] = {}

    def suggest_float(
        self, name: str, low: float, high: float, *, step: float | None = None, log: bool = False
    ) -> float:
        drawn = np.exp(self.of.uniform(*np.log([low, high]))) if log else self.of.uniform(low, high)
        self.told[name] = float(drawn)
        return float(drawn)

    def suggest_int(
        self, name: str, low: int, high: int, *, step: int = 1, log: bool = False
    ) -> int:
        self.told[name] = int(self.of.integers(low, high + 1))
        return int(self.told[name])

    def suggest_categorical(self, name: str, choices: list[object]) -> object:
        self.told[name] = choices[self.of.integers(len(choices))]
        return self.told[name]


def long_study(
    folder: Path, n: int, *, name: str = "long", epochs: int = 10, repeats: bool = True
) -> Path:
    """`n` random trials of the space ex2, a third of them stopped early, a few failed; eight
    workers. With `repeats` they share a quarter as many configurations, at most 2,000."""
    the_space = loading.load_space("ex2")
    chance = Chance(0)
    drawn = []
    while len(drawn) < (min(n // 4, 2000) if repeats else n):
        chance.told = {}
        config = the_space.draw(chance)
        if the_space.check(config) is None:
            params = {f"params_{name}": value for name, value in chance.told.items()}
            drawn.append(
                {
                    **params,
                    **get_architecture_columns(config),
                    "config": config.to_json(),
                    "lr": config.lr,
                }
            )
    trials = pd.DataFrame(drawn).iloc[np.arange(n) % len(drawn)].reset_index(drop=True)
    of = np.random.default_rng(1)
    state = of.choice([COMPLETE, PRUNED, FAIL], n, p=[0.63, 0.34, 0.03])
    ran = np.where(state == COMPLETE, epochs, np.where(state == PRUNED, of.choice([1, 3], n), 0))
    floor = 0.12 * trials["latent_size"] ** -0.5 * of.lognormal(0, 0.3, n)
    floor *= 1 + (np.log10(trials.pop("lr")) + 2.5) ** 2 / 4
    error = np.where(ran > 0, np.minimum(floor * (1 + 2 / np.maximum(ran, 1)), 0.9), np.nan)
    begun = pd.Timestamp(BEGUN) + pd.to_timedelta(np.arange(n) // 8 * 60, unit="s")
    trials = trials.assign(
        study=name,
        trial_number=range(n),
        state=state,
        reason=np.where(state == FAIL, "diverged: loss is nan in epoch 1", None),
        val_mse=error,
        train_mse=error,
        val_psnr_db=-10 * np.log10(error),
        best_epoch=ran,
        epochs_run=ran,
        wall_time_s=4.0 * ran,
        epoch_time_s=4.0,
        n_images=5000,
        seed=np.arange(n) // len(drawn),
        attempt=1,
        losses=0,
        device="cpu",
        host="node",
        started_at=begun,
        ended_at=begun + pd.to_timedelta(4 * ran + 1, unit="s"),
    )
    on = find_frontier(trials.to_dict("records"))
    trials["on_frontier"] = trials["trial_number"].map(on)
    curves = trials.loc[trials.index.repeat(ran), ["trial_number"]]
    epoch = curves.groupby("trial_number").cumcount().to_numpy() + 1
    curve = floor.to_numpy()[curves["trial_number"]] * (1 + 2 / epoch)
    curves = curves.assign(epoch=epoch, val_mse=np.minimum(curve, 0.9), epoch_time_s=4.0)
    folder.mkdir(parents=True)
    for table, columns in (("trials", TRIAL_COLUMNS), ("epochs", EPOCH_COLUMNS)):
        frame = trials if table == "trials" else curves
        kinds = dict(columns)
        found = pa.Schema.from_pandas(frame)
        kinds |= {name: found.field(name).type for name in frame if name not in kinds}
        frame = frame.reindex(columns=list(kinds))
        made = pa.Table.from_pandas(frame, pa.schema(list(kinds.items())), preserve_index=False)
        pq.write_table(made, folder / f"{table}.parquet")
    plan = {"study": name, "space": "ex2", "data": "photos", "trials": n, "epochs": epochs}
    plan |= {"limit": None, "seed": 0, "sampler": "random", "scheduler": "asha"}
    content = {
        "study": name,
        "plan": plan,
        "space": {"name": "ex2", "hash": the_space.hash, "text": the_space.text},
        "task": "reconstruct",
        "data": {"source": "photos", "fingerprint": "f00d", "n_train": 5000, "n_val": 1000},
        "created_at": BEGUN.isoformat(),
        "command": "raycae search --space ex2",
        "versions": {"raycae": "0.1.0"},
        "commit": None,
        "hardware": {"system": "Linux", "cpu": "Some CPU", "n_cpus": 8, "gpus": []},
    }
    (folder / "study.json").write_text(json.dumps(content))
    return folder
