"""The two tables of a study, `trials.parquet` and `epochs.parquet`, and how to read them.

Both are derived from the ledger: `Records` folds its events, one by one, into one row a trial and
one row an epoch. Whoever wants to know how a study stands (the live view, the sampler after a
restart, the tables) asks a `Records`.
"""

from __future__ import annotations

import io
import json
import math
import shlex
from collections import Counter
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Any, Literal

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from raycae import ledger, tables
from raycae.architecture import Infeasible, architecture
from raycae.config import Config, explain, from_json
from raycae.errors import InputError
from raycae.frontier import COSTS, frontier_of
from raycae.storage import Place, at_the_door, place, write_whole

COMPLETE, PRUNED, FAIL, RUNNING = "COMPLETE", "PRUNED", "FAIL", "RUNNING"
STATES = (COMPLETE, PRUNED, FAIL, RUNNING)
INTERRUPTED = "interrupted"
CAUSES = PROCESS, HUNG, MACHINE, MEMORY, COHORT = "process", "hung", "machine", "memory", "cohort"
"""Why an attempt was lost: its process died, gave no sign of life, its machine went, or the model
did not fit into memory, or what it trained in could not go on, which says little of it."""
COUNTED = (PROCESS, HUNG)
"""The losses that may be the trial's own fault."""
MOST_ERROR = 3.5e38
"""Networks compute in float32."""
MOST_BYTES = 1 << 24
"""Of `study.json`; they are a few thousand."""

Count = Annotated[int, Field(ge=0, lt=2**63)]

TRIAL_COLUMNS: dict[str, pa.DataType] = {
    "study": pa.string(),
    "trial_number": pa.int64(),
    "state": pa.string(),
    "reason": pa.string(),
    "point": pa.string(),
    "change": pa.string(),
    "parent": pa.int64(),
    # here stand the params_* of the space
    "latent_size": pa.int64(),
    "latent_channels": pa.int64(),
    "latent_height": pa.int64(),
    "latent_width": pa.int64(),
    "compression_ratio": pa.float64(),
    "n_params": pa.int64(),
    "flops": pa.int64(),
    "arch_hash": pa.string(),
    "val_mse": pa.float64(),
    "train_mse": pa.float64(),
    "val_psnr_db": pa.float64(),
    "val_ssim": pa.float64(),
    "best_epoch": pa.int64(),
    "epochs_run": pa.int64(),
    "on_frontier": pa.bool_(),
    "test_mse": pa.float64(),
    "wall_time_s": pa.float64(),
    "epoch_time_s": pa.float64(),
    "images_per_s": pa.float64(),
    "n_images": pa.int64(),
    "seed": pa.int64(),
    "attempt": pa.int64(),
    "losses": pa.int64(),
    "micro_batch": pa.int64(),
    "device": pa.string(),
    "host": pa.string(),
    "started_at": pa.timestamp("us", tz="UTC"),
    "ended_at": pa.timestamp("us", tz="UTC"),
    "config": pa.string(),
}
EPOCH_COLUMNS: dict[str, pa.DataType] = {
    "trial_number": pa.int64(),
    "epoch": pa.int64(),
    "train_mse": pa.float64(),
    "val_mse": pa.float64(),
    "val_psnr_db": pa.float64(),
    "epoch_time_s": pa.float64(),
    "test_mse": pa.float64(),
    "n_images": pa.int64(),
}
BASELINE_COLUMNS: dict[str, pa.DataType] = {
    "data_fingerprint": pa.string(),
    "baseline": pa.string(),
    "latent_size": pa.int64(),
    "val_mse": pa.float64(),
    "test_mse": pa.float64(),
}
ALL, SAME, BEST, WORST = SHOWS = "all", "same", "best", "worst"
"""What a row of `pictures.parquet` is of: the mean over all test images; or one of the images that
are the same for every trial, of those with the least error, with the largest."""
MEASURES = (
    *("mse", "psnr_db", "ssim", "delta_e", "chroma_error", "hue_error"),
    *("colourfulness", "original_colourfulness"),
)
"""Of a trial's pictures, see `metrics`; `mse` is the task's loss."""
PICTURE_COLUMNS: dict[str, pa.DataType] = {
    "trial_number": pa.int64(),
    "shows": pa.string(),
    "image": pa.int64(),  # its place among the test images
    **dict.fromkeys(MEASURES, pa.float64()),
}
AMPLIFIED = 4
"""So many times the difference of output and original is drawn, around grey."""
MOST_PICTURED = 6
_PER_EPOCH = (
    *("train_mse", "val_mse", "val_psnr_db", "val_ssim", "epoch_time_s", "images_per_s"),
    *("test_mse", "n_images", "attempt", "checkpoint", "model"),
)
_FACTS = (
    "latent_size",
    "latent_channels",
    "latent_height",
    "latent_width",
    "compression_ratio",
    "n_params",
    "flops",
    "arch_hash",
)
_CREATED = (
    *("trial_number", "state", "config", "n_params"),
    *("latent_size", "latent_channels", "latent_height", "latent_width"),
)
"""What a row has from its first event on."""
LATER = ("change", "parent", "on_frontier", "epoch_time_s")
LATER_OF_EPOCHS = ("n_images",)
"""Columns that the first studies did not have."""


class _Part(BaseModel):
    """A part of `study.json` as it is read; there may be more in it."""

    model_config = ConfigDict(strict=True)


class _Plan(_Part):
    study: str
    space: str
    data: str
    trials: Count
    epochs: Count
    limit: Count | None
    seed: Count
    sampler: str
    scheduler: str
    points: list[str] | None = None
    n_seeds: Count = 1
    test_curves: bool = False
    repeats: str = "refuse"
    grace: Annotated[int, Field(ge=1)] = 1
    factor: Annotated[int, Field(ge=2)] = 3
    objective: Literal["val_mse", "frontier"] = "val_mse"
    cost: Literal[COSTS] = "latent_size"  # type: ignore[valid-type]
    strata: list[Annotated[int, Field(ge=1)]] | None = None
    settings: Annotated[int, Field(ge=1)] = 1
    first_images: Annotated[int, Field(ge=1)] | None = None


class _SpaceText(_Part):
    name: str
    hash: str
    text: str


class _Summary(_Part):
    text: str


class _Data(_Part):
    source: str
    fingerprint: str
    n_train: Count
    n_val: Count
    line: list[Annotated[float, Field(ge=0)]] | None = None
    labels: str | None = None
    n_test: Count | None = None
    splits: str | None = None
    summary: _Summary | None = None


class _Hardware(_Part):
    system: str
    cpu: str
    n_cpus: Count
    gpus: list[str]


class _StudyFile(_Part):
    study: str
    plan: _Plan
    space: _SpaceText
    task: Literal["reconstruct", "colourise"]
    data: _Data
    created_at: str
    command: str
    versions: dict[str, str]
    commit: str | None
    hardware: _Hardware


def facts(config: Config) -> dict[str, Any]:
    """What is known of a configuration before it is trained, by the names of the columns."""
    net = architecture(config)
    channels, height, width = net.latent_shape
    # Gammas repeat the one luma: colourisation starts from one number a pixel.
    numbers = config.image_size**2 * (3 if config.task == "reconstruct" else 1)
    values = (net.latent_size, channels, height, width, numbers / net.latent_size)
    return dict(zip(_FACTS, (*values, net.n_params, net.flops, net.hash), strict=True))


class Records:
    """How a study stands: the events so far, folded. What is asked after every event costs the
    same at the ten thousandth trial as at the first."""

    def __init__(
        self, study: str = "", n_images: int | None = None, cost: str = "latent_size"
    ) -> None:
        self.study = study
        self.n_images = n_images
        self.cost = cost
        """The column that stands against the error on the frontier."""
        self.trials: dict[int, dict[str, Any]] = {}
        self.epochs: dict[int, dict[int, dict[str, Any]]] = {}
        self.kept: set[int] = set()
        """The trials whose models stay, as `kept_models` has it."""
        self.orphans = 0
        """Events of trials whose beginning is lost; nothing can be made of them."""
        self._counts: Counter[str] = Counter()
        self._running: dict[int, None] = {}
        self._best: dict[str, Any] | None = None

    def apply(self, event: ledger.Event) -> None:
        """Fold one event in. Events of an older attempt than the trial's newest are refused:
        a machine that comes back after a network cut still reports. So are events of a trial that
        has ended, but for its evaluation."""
        number, kind = event["trial_number"], event["event"]
        if number is None:
            return  # of the study, not of a trial
        row = self.trials.get(number)
        if row is None:
            if kind != "created":
                self.orphans += 1
                return
            row = self.trials[number] = dict.fromkeys(TRIAL_COLUMNS)
            row |= {"study": self.study, "trial_number": number, "state": RUNNING, "attempt": 0}
            row |= {"n_images": self.n_images, "losses": 0}
            self.epochs[number] = {}
            self._counts[RUNNING] += 1
            self._running[number] = None
        elif (
            kind == "created"
            or (event.get("attempt") or 0) < row["attempt"]
            or (row["state"] != RUNNING and kind != "evaluated")
        ):
            return
        row["attempt"] = max(row["attempt"], event.get("attempt") or 0)
        getattr(self, f"_{kind}")(row, event)

    def counts(self) -> Counter[str]:
        return Counter(self._counts)

    def running(self) -> list[int]:
        """The trials that have not ended, in the order in which they began."""
        return list(self._running)

    def n_ended(self) -> int:
        return len(self.trials) - len(self._running)

    def best(self) -> dict[str, Any] | None:
        """The row with the least validation error among trials that ended well, or None."""
        return self._best

    def frontier(self) -> list[dict[str, Any]]:
        """The rows of the frontier, the cheapest first."""
        on = frontier_of(self.trials.values(), self.cost)
        return sorted((self.trials[n] for n in on if on[n]), key=lambda row: row[self.cost])

    def trials_table(self) -> pa.Table:
        rows = [self.trials[number] for number in sorted(self.trials)]
        frontier = frontier_of(rows, self.cost)
        rows = [row | {"on_frontier": frontier.get(row["trial_number"])} for row in rows]
        params = [json.loads(row["params"] or "{}") for row in rows]
        names = sorted({name for sampled in params for name in sampled}, key=_natural)
        columns = {}
        for name, kind in TRIAL_COLUMNS.items():
            if name == "latent_size":
                for param in names:
                    columns[f"params_{param}"] = _column([p.get(param) for p in params])
            columns[name] = pa.array([row[name] for row in rows], kind)
        return pa.table(columns)

    def epochs_table(self) -> pa.Table:
        rows = [
            {"trial_number": number, **self.epochs[number][epoch]}
            for number in sorted(self.epochs)
            for epoch in sorted(self.epochs[number])
        ]
        return pa.Table.from_pylist(rows, schema=pa.schema(list(EPOCH_COLUMNS.items())))

    def write(self, folder: Place) -> None:
        """Both tables into the study's folder, each replaced whole."""
        for name, table in (("epochs", self.epochs_table()), ("trials", self.trials_table())):
            buffer = io.BytesIO()
            pq.write_table(table, buffer, write_page_checksum=True)
            write_whole(folder / f"{name}.parquet", buffer.getvalue())

    def _created(self, row: dict[str, Any], event: ledger.Event) -> None:
        row |= {name: event[name] for name in ("point", "params", "config", "seed")}
        row |= {name: event.get(name) for name in ("change", "parent")}
        row |= facts(Config.model_validate_json(event["config"]))

    def _started(self, row: dict[str, Any], event: ledger.Event) -> None:
        row["reason"] = None
        row["started_at"] = row["started_at"] or event["at"]

    def _epoch(self, row: dict[str, Any], event: ledger.Event) -> None:
        curve = self.epochs[row["trial_number"]]
        curve[event["epoch"]] = {"epoch": event["epoch"]} | {k: event.get(k) for k in _PER_EPOCH}
        best = min(curve.values(), key=lambda e: (e["val_mse"], e["epoch"]))
        row |= {name: best[name] for name in ("val_mse", "train_mse", "val_psnr_db")}
        row["test_mse"] = best["test_mse"]  # None: it comes with the evaluation
        row["best_epoch"] = best["epoch"]
        row["epochs_run"] = len(curve)
        row["val_ssim"] = event.get("val_ssim")
        row["wall_time_s"] = math.fsum(e["epoch_time_s"] for e in curve.values())
        row["epoch_time_s"] = row["wall_time_s"] / len(curve)
        row["images_per_s"] = event.get("images_per_s")
        row |= {name: event[name] for name in ("host", "device") if event.get(name)}

    def _lost(self, row: dict[str, Any], event: ledger.Event) -> None:
        row["reason"] = event["reason"]
        row["losses"] += event["cause"] in COUNTED
        row["micro_batch"] = event.get("micro_batch") or row["micro_batch"]

    def _ended(self, row: dict[str, Any], event: ledger.Event) -> None:
        number = row["trial_number"]
        row |= {"state": event["state"], "reason": event.get("reason"), "ended_at": event["at"]}
        row |= {name: event[name] for name in ("host", "device") if event.get(name)}
        del self._running[number]
        self._counts[RUNNING] -= 1
        self._counts[row["state"]] += 1
        # A trial that has fallen out never comes back: others only join.
        self.kept = kept_models(self.trials[n] for n in self.kept | {number})
        order = (row["val_mse"], number)
        if row["state"] == COMPLETE and (
            self._best is None or order < (self._best["val_mse"], self._best["trial_number"])
        ):
            self._best = row

    def _interrupted(self, row: dict[str, Any], event: ledger.Event) -> None:
        row["reason"] = INTERRUPTED

    def _evaluated(self, row: dict[str, Any], event: ledger.Event) -> None:
        row["test_mse"] = event["test_mse"]


def events_of(trials: pd.DataFrame, epochs: pd.DataFrame, known: Records) -> list[dict[str, Any]]:
    """What the two tables tell of trials that `known` lacks: events that bring it to where they
    stand, all but the `params` of `created`. For a ledger that has lost parts; the tables are at
    most seconds behind it."""
    curves = dict(list(epochs.sort_values("epoch").groupby("trial_number")))
    found: list[dict[str, Any]] = []
    for row in trials.sort_values("trial_number").to_dict("records"):
        row = {name: None if pd.isna(value) else value for name, value in row.items()}
        number, attempt = int(row["trial_number"]), int(row["attempt"] or 0)
        event = {"trial_number": number, "attempt": attempt, "at": row["started_at"]}
        have = known.trials.get(number)
        if have is None:
            told = ("point", "config", "seed", "change", "parent")
            made = {name: row[name] for name in told}
            found.append({**event, "attempt": 0, "event": "created", **made})
        ended = have is not None and have["state"] != RUNNING
        if attempt > (have["attempt"] if have else 0) and not ended:
            found.append({**event, "event": "started"})
        where = {name: row[name] for name in ("host", "device", "images_per_s", "val_ssim")}
        lacking = [
            epoch
            for epoch in (curves[number].to_dict("records") if number in curves else ())
            if epoch["epoch"] not in known.epochs.get(number, {})
        ]
        for epoch in lacking:
            values = ((name, epoch[name]) for name in EPOCH_COLUMNS)
            measured = {name: None if pd.isna(value) else value for name, value in values}
            found.append({**event, "event": "epoch", **where, **measured})
        if row["state"] != RUNNING and not ended:
            how = {"state": row["state"], "reason": row["reason"], "at": row["ended_at"]}
            found.append({**event, "event": "ended", **how})
        if row["test_mse"] is not None and (lacking or have is None or have["test_mse"] is None):
            found.append({**event, "event": "evaluated", "test_mse": row["test_mse"]})
    return found


def kept_models(trials: Iterable[Mapping[str, Any]], best: int = 10) -> set[int]:
    """The trials whose models stay: the best of each latent size and of each named point, and the
    best ten of all. Stopped trials count too; a frontier at a rare latent size may rest on one."""
    scored = [t for t in trials if t["state"] in (COMPLETE, PRUNED) and t["val_mse"] is not None]
    ranked = sorted(scored, key=lambda t: (t["val_mse"], t["trial_number"]))
    of_size = {t["latent_size"]: t["trial_number"] for t in reversed(ranked)}
    of_point = {t["point"]: t["trial_number"] for t in reversed(ranked) if t["point"]}
    first = (t["trial_number"] for t in ranked[:best])
    return {*first, *of_size.values(), *of_point.values()}


def best_trial(trials: pd.DataFrame) -> int | None:
    """The number of the COMPLETE trial with the least validation error, or None."""
    ended = trials[(trials["state"] == COMPLETE) & trials["val_mse"].notna()]
    if ended.empty:
        return None
    return int(ended.sort_values(["val_mse", "trial_number"])["trial_number"].iloc[0])


def shown_off(trials: pd.DataFrame, strata: Iterable[int] | None) -> list[int]:
    """The trials that stand for their latent size, by latent size: the best one of each if it is
    COMPLETE; of a frontier with `strata` the one of it with the least error in each. The best trial
    is among them. None without a COMPLETE trial."""
    best = best_trial(trials)
    if best is None:
        return []
    ordered = trials.sort_values(["val_mse", "trial_number"]).dropna(subset="val_mse")
    if strata is None:
        first = ordered[ordered["state"].isin([COMPLETE, PRUNED])].drop_duplicates("latent_size")
        chosen = first[first["state"] == COMPLETE]
    else:
        on = ordered[ordered["on_frontier"].fillna(False).astype(bool)]
        within = on["latent_size"].map(
            lambda size: min((bound for bound in strata if bound >= size), default=None)
        )
        chosen = on[within.notna() & ~within.duplicated()]
    numbers = {*chosen["trial_number"], best}
    by_size = trials[trials["trial_number"].isin(numbers)].sort_values(["latent_size", "val_mse"])
    return [int(number) for number in by_size["trial_number"]]


def pictured(trials: pd.DataFrame, strata: Iterable[int] | None) -> list[int]:
    """The trials whose pictures the report shows: `MOST_PICTURED` of `shown_off`, evenly from the
    smallest latent to the largest, with the best among them."""
    numbers = shown_off(trials, strata)
    best = best_trial(trials)
    if best is None or len(numbers) <= MOST_PICTURED:
        return numbers
    places = {round(i * (len(numbers) - 1) / (MOST_PICTURED - 1)) for i in range(MOST_PICTURED)}
    own = numbers.index(best)
    places.remove(min(places, key=lambda place: abs(place - own)))
    return [numbers[place] for place in sorted({*places, own})]


def painted(folder: Place) -> set[int]:
    """The trials whose sheets are there, with what was measured of them. (Older versions painted
    validation images, and measured nothing.)"""
    told = read_pictures(folder)
    numbers = () if told is None else map(int, told["trial_number"].unique())
    return {
        number
        for number in numbers
        if all((folder / "pictures" / f"{number}{of}.png").exists() for of in ("", "-cases"))
    }


@at_the_door()
def find_study(path: str | Path, results: str | Path = "results") -> Place:
    """The folder of a study given as a path, a URI, or a name under `results` (a folder or a URI).
    Raises `InputError`."""
    known: list[str] = []
    under = place(results)
    with suppress(OSError):  # a name that is too long
        for folder in _candidates(str(path), under):
            if (folder / "study.json").is_file():
                return folder
    with suppress(OSError, RuntimeError):
        known = sorted(p.name for p in under.iterdir() if (p / "study.json").is_file())
    there = f"there are: {', '.join(known)}" if known else f"there are none in {results}"
    raise InputError(f"{path}: there is no study of this name or at this path; {there}")


def study_argument(folder: Place) -> str:
    """Return what names the study in `folder` on the command line, quoted for a shell.

    Args:
        folder: The study.

    Returns:
        Its name if it lies under `results` in the current folder, else its path or URI.
    """
    return shlex.quote(folder.name if folder.parent == place("results") else str(folder))


@at_the_door()
def find_model(path: str | Path, results: str | Path = "results") -> Place:
    """The folder of a model given by itself (`STUDY/models/TRIAL`), or the best kept one of a study
    given as in `find_study`. Raises `InputError`."""
    with suppress(OSError):
        for folder in _candidates(str(path), place(results)):
            if (folder / "config.json").is_file() or (folder / "model.safetensors").is_file():
                return folder
            if folder.parent.name == "models" and (study := folder.parent.parent).is_dir():
                there = ", ".join(map(str, _with_model(study))) or "none"
                raise InputError(
                    f"{path}: there is no model of a trial {folder.name}; {study.name} has kept "
                    f"those of: {there}"
                )
    folder = find_study(path, results)
    kept = _with_model(folder)
    trials = read_trials(folder)
    trials = trials[trials["trial_number"].isin(kept) & trials["val_mse"].notna()]
    if trials.empty:
        raise InputError(f"{path}: this study has kept no model (yet); models lie in models/TRIAL")
    # As `best_trial` has it; a stopped trial's only where no other one is left.
    trials = trials.assign(stopped=trials["state"] != COMPLETE)
    best = trials.sort_values(["stopped", "val_mse", "trial_number"])["trial_number"].iloc[0]
    return folder / "models" / str(best)


def _with_model(study: Place) -> list[int]:
    """The trials whose models lie in the study's folder."""
    with suppress(FileNotFoundError):
        return sorted(int(p.name) for p in (study / "models").iterdir() if p.name.isdigit())
    return []


def _candidates(path: str, under: Place) -> list[Place]:
    try:
        return [place(path), under / path]
    except InputError:
        if "://" in path:
            raise
        return []  # ~nobody: a name that no file system takes is no study's


def read_trials(folder: Place) -> pd.DataFrame:
    """One row a trial, its newest state. Raises `InputError` where there is no such table, or its
    rows are no trials."""
    path = folder / "trials.parquet"
    trials = tables.read(path, TRIAL_COLUMNS, filled=_CREATED, key=["trial_number"], later=LATER)
    _check_errors(path, trials)
    scored = trials["val_mse"].notna()
    if trials.loc[scored, ["val_psnr_db", "epochs_run"]].isna().to_numpy().any():
        raise InputError(f"{path}: where val_mse is, val_psnr_db and epochs_run have to be")
    if (bad := trials.loc[trials["latent_size"] < 1, "latent_size"]).size:
        raise InputError(f"{path}: latent_size: {bad.iloc[0]} is not allowed; it is from 1 on")
    for number, state, config in zip(
        *(trials[name].tolist() for name in ("trial_number", "state", "config")), strict=True
    ):
        if state not in STATES:
            allowed = ", ".join(STATES)
            raise InputError(f"{path}: trial {number}: state: {state!r}; allowed: {allowed}")
        try:
            architecture(from_json(config))
        except (InputError, Infeasible) as error:
            raise InputError(f"{path}: trial {number}: config: {error}") from None
    return trials


def read_epochs(folder: Place) -> pd.DataFrame:
    """One row an epoch. Raises `InputError` where there is no such table, or its rows are no
    epochs."""
    path, key = folder / "epochs.parquet", ["trial_number", "epoch"]
    epochs = tables.read(path, EPOCH_COLUMNS, filled=key, key=key, later=LATER_OF_EPOCHS)
    _check_errors(path, epochs)
    return epochs


def read_baselines(folder: Place, fingerprint: str | None = None) -> pd.DataFrame | None:
    """One row a baseline and its size, those measured on the images of `fingerprint` alone if it is
    given; None where no baselines were measured. Raises `InputError` where there is something
    else."""
    path = folder / "baselines.parquet"
    if not path.exists():
        return None
    baselines = tables.read(path, BASELINE_COLUMNS, filled=["baseline", "val_mse"])
    _check_errors(path, baselines)
    if fingerprint is None:
        return baselines
    return baselines[baselines["data_fingerprint"] == fingerprint]


def read_pictures(folder: Place) -> pd.DataFrame | None:
    """One row a picture that was painted, and one for the mean of each trial over all test images;
    None where none were. Raises `InputError` where there is something else."""
    path = folder / "pictures.parquet"
    if not path.exists():
        return None
    key = ["trial_number", "shows", "image"]
    filled = ["trial_number", "shows", *MEASURES]
    told = tables.read(path, PICTURE_COLUMNS, filled=filled, key=key)
    if (bad := told.loc[~told["shows"].isin(SHOWS), "shows"]).size:
        allowed = ", ".join(SHOWS)
        raise InputError(f"{path}: shows: {bad.iloc[0]!r} is not allowed; allowed: {allowed}")
    return told


def read_study(folder: Place) -> dict[str, Any]:
    """What was searched, with what, by which command: the content of `study.json`. Raises
    `InputError` where it lacks anything, or has it otherwise."""
    path = folder / "study.json"
    try:
        if not path.is_file():  # a pipe would be waited for
            raise InputError(f"{path}: there is no such file")
        with tables.opened(path) as file:
            text = file.read(MOST_BYTES + 1)
        content = json.loads(text)
        if not isinstance(content, dict):
            raise ValueError("it has to be a JSON object")
        _StudyFile.model_validate(content)
    except ValidationError as error:
        raise InputError(f"{path}: this is no study of raycae: {explain(error)}") from None
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"{path}: cannot be read: {error}") from None
    return content


def asked(study: Mapping[str, Any]) -> dict[str, Any]:
    """What the search was asked to do: `plan` in the content of a `study.json`; what was not there
    to be asked when it was written is as it was then."""
    return _Plan.model_validate(study["plan"]).model_dump()


def _check_errors(path: Place, table: pd.DataFrame) -> None:
    errors = table["val_mse"].dropna()
    if (bad := errors[(errors < 0) | (errors > MOST_ERROR)]).size:
        raise InputError(
            f"{path}: val_mse: {bad.iloc[0]} is not allowed; it is from 0 to {MOST_ERROR:g}"
        )


def _column(values: list[Any]) -> pa.Array:
    """A nullable column of the narrowest type that holds all values; mixed ones become text."""
    kinds = {type(value) for value in values if value is not None}
    if kinds <= {int, float} and float in kinds:
        return pa.array(values, pa.float64())
    if len(kinds) > 1:
        return pa.array([None if v is None else str(v) for v in values], pa.string())
    return pa.array(values)


def _natural(name: str) -> tuple[str, int]:
    """`channels_2` before `channels_10`."""
    stem, _, number = name.rpartition("_")
    return (stem, int(number)) if number.isdigit() else (name, 0)
