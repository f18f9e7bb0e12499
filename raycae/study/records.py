"""The state of a study, folded from its ledger."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Iterable, Mapping
from functools import lru_cache
from typing import Any

import pyarrow as pa

from raycae.config import Config
from raycae.model.architecture import build_architecture
from raycae.optimization.frontier import find_frontier
from raycae.storage.parquet import is_missing, write_parquet
from raycae.storage.paths import Place
from raycae.study.ledger import Event

COMPLETE, PRUNED, FAIL, RUNNING = "COMPLETE", "PRUNED", "FAIL", "RUNNING"
STATES = (COMPLETE, PRUNED, FAIL, RUNNING)
"""The states of a trial; the first three are final."""
INTERRUPTED = "interrupted"
"""The reason of a trial that was running when its search ended."""
CAUSES = PROCESS, HUNG, MACHINE, MEMORY, COHORT = "process", "hung", "machine", "memory", "cohort"
"""Why an attempt was lost: its process died, its process hung, its node was lost, memory was not
enough, or its fused group failed."""
COUNTED = (PROCESS, HUNG)
"""The causes of losses that count towards the failure of a trial."""
TRIAL_COLUMNS: dict[str, pa.DataType] = {
    "study": pa.string(),
    "trial_number": pa.int64(),
    "state": pa.string(),
    "reason": pa.string(),
    "point": pa.string(),
    "change": pa.string(),
    "parent": pa.int64(),
    # The params_* columns of the space come here.
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
"""The columns of `trials.parquet`."""
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
"""The columns of `epochs.parquet`."""
_PER_EPOCH = (
    *("train_mse", "val_mse", "val_psnr_db", "val_ssim", "epoch_time_s", "images_per_s"),
    *("test_mse", "n_images", "attempt", "checkpoint", "model"),
)
"""The columns of each epoch, without its number."""
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
"""The columns that the architecture determines."""
N_BEST = 10
"""Number of the best trials whose models are kept, whatever their latent size."""
ALL = ""
"""Key of the group that contains all trials."""
NO_LIMIT = (math.inf, 0)
"""Above the error of every trial."""
UNIT_BITS = 1074
"""Every float is a whole multiple of 2 to the power of minus this."""


@lru_cache(maxsize=16)
def parse_recorded_config(text: str) -> Config:
    """Parse a configuration in the ledger.

    The result is cached: replaying a trial asks twice, and it takes a tenth of the time.

    Args:
        text: The configuration as JSON.
    """
    return Config.model_validate_json(text)


def get_architecture_columns(config: Config) -> dict[str, Any]:
    """Compute the columns of a configuration that are known before it is trained.

    Args:
        config: Configuration of a trial.

    Returns:
        The values by column: sizes of the latent, compression ratio, parameters, FLOPs, hash.
    """
    architecture = build_architecture(config)
    channels, height, width = architecture.latent_shape
    # All gammas repeat the same luma, so colourization starts from one value per pixel.
    n_values = config.image_size**2 * (3 if config.task == "reconstruct" else 1)
    latent_size = architecture.latent_size
    sizes = (latent_size, channels, height, width, n_values / latent_size)
    costs = (architecture.n_params, architecture.flops, architecture.hash)
    return dict(zip(_FACTS, (*sizes, *costs), strict=True))


class Records:
    """The state of a study: its events so far, folded into rows.

    What is needed after every event takes constant time, however many trials there are.

    Args:
        study: Name of the study.
        n_images: Number of training images.
        cost: Column of the second objective of the Pareto front.
        has_architecture: Whether rows have the columns that the architecture determines. With them,
            the events of a trial take 0.41 instead of 0.04 ms of CPU (analysis/FINDINGS.md).

    Attributes:
        trials: One row per trial, by its number; the columns are those of `TRIAL_COLUMNS`.
        epochs: One row per epoch, by trial number and epoch.
        kept: The trials whose models are kept; see `select_kept_models`.
        orphans: Number of events of trials whose beginning is lost; they are ignored.
    """

    def __init__(
        self,
        study: str = "",
        n_images: int | None = None,
        cost: str = "latent_size",
        *,
        has_architecture: bool = True,
    ) -> None:
        self.study = study
        self.n_images = n_images
        self.cost = cost
        self._has_architecture = has_architecture
        self.trials: dict[int, dict[str, Any]] = {}
        self.epochs: dict[int, dict[int, dict[str, Any]]] = {}
        self.kept: set[int] = set()
        self.orphans = 0
        self._counts: Counter[str] = Counter()
        self._running: dict[int, None] = {}
        self._best: dict[str, Any] | None = None
        self._limits: dict[int | str, tuple[float, int]] = {}
        """Error and number that a trial must be below to be kept: as one of the best, or as the
        best of its latent size or named point."""
        self._epoch_units: dict[int, int | None] = {}
        """The exact sum of the epoch times of each running trial, see `count_units`; None if a time
        is not finite. Adding up all epochs after each one took 0.45 ms at 3,000 epochs."""

    def apply(self, event: Event) -> None:
        """Fold one event in.

        Events of an older attempt are refused, because a node that was cut off may still report.
        So are events of a trial that has ended, except for its test error.

        Args:
            event: The event.
        """
        number, kind = event["trial_number"], event["event"]
        if number is None:
            return  # An event of the study.
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
        getattr(self, f"_apply_{kind}")(row, event)

    def counts(self) -> Counter[str]:
        """Count the trials by state."""
        return Counter(self._counts)

    def running(self) -> list[int]:
        """List the trials that have not ended, in the order in which they began."""
        return list(self._running)

    def n_ended(self) -> int:
        """Count the trials that have ended."""
        return len(self.trials) - len(self._running)

    def best(self) -> dict[str, Any] | None:
        """Return the row of the COMPLETE trial with the lowest validation error, or None."""
        return self._best

    def frontier(self) -> list[dict[str, Any]]:
        """List the rows of the Pareto front, the lowest cost first."""
        is_on_front = find_frontier(self.trials.values(), self.cost)
        rows = (self.trials[number] for number, is_on in is_on_front.items() if is_on)
        return sorted(rows, key=lambda row: row[self.cost])

    def trials_table(self) -> pa.Table:
        """Return the content of `trials.parquet`."""
        numbers = sorted(self.trials)
        rows = [self.trials[number] for number in numbers]
        frontier = find_frontier(rows, self.cost)
        params = [json.loads(row["params"] or "{}") for row in rows]
        names = sorted({name for sampled in params for name in sampled}, key=sort_naturally)
        columns = {}
        for name, kind in TRIAL_COLUMNS.items():
            if name == "latent_size":
                for param in names:
                    columns[f"params_{param}"] = make_column([p.get(param) for p in params])
            columns[name] = pa.array([row[name] for row in rows], kind)
        columns["on_frontier"] = pa.array(map(frontier.get, numbers), pa.bool_())
        return pa.table(columns)

    def epochs_table(self) -> pa.Table:
        """Return the content of `epochs.parquet`."""
        numbers = [number for number in sorted(self.epochs) for _ in self.epochs[number]]
        rows = [curve[epoch] for _, curve in sorted(self.epochs.items()) for epoch in sorted(curve)]
        columns = {"trial_number": pa.array(numbers, pa.int64())}
        for name, kind in EPOCH_COLUMNS.items():
            if name not in columns:
                columns[name] = pa.array([row[name] for row in rows], kind)
        return pa.table(columns)

    def write(self, folder: Place) -> None:
        """Write both tables, each atomically.

        Args:
            folder: Folder of the study.
        """
        for name, table in (("epochs", self.epochs_table()), ("trials", self.trials_table())):
            write_parquet(folder / f"{name}.parquet", table)

    def _apply_created(self, row: dict[str, Any], event: Event) -> None:
        row |= {name: event[name] for name in ("point", "params", "config", "seed")}
        row |= {name: event.get(name) for name in ("change", "parent")}
        if self._has_architecture:
            row |= get_architecture_columns(parse_recorded_config(event["config"]))

    def _apply_started(self, row: dict[str, Any], event: Event) -> None:
        row["reason"] = None
        row["started_at"] = row["started_at"] or event["at"]

    def _apply_epoch(self, row: dict[str, Any], event: Event) -> None:
        curve = self.epochs[row["trial_number"]]
        replaced = curve.get(event["epoch"])
        newest = {"epoch": event["epoch"]} | {k: event.get(k) for k in _PER_EPOCH}
        best_before = curve.get(row["best_epoch"])
        curve[event["epoch"]] = newest
        best = find_best_epoch(curve, best_before, newest, replaced)
        row |= {name: best[name] for name in ("val_mse", "train_mse", "val_psnr_db")}
        row["test_mse"] = best["test_mse"]  # None if it is measured after the search.
        row["best_epoch"] = best["epoch"]
        row["epochs_run"] = len(curve)
        row["val_ssim"] = event.get("val_ssim")
        row["wall_time_s"] = self._sum_epoch_times(row["trial_number"], newest, replaced)
        row["epoch_time_s"] = row["wall_time_s"] / len(curve)
        row["images_per_s"] = event.get("images_per_s")
        row |= {name: event[name] for name in ("host", "device") if event.get(name)}

    def _sum_epoch_times(
        self, number: int, newest: Mapping[str, Any], replaced: Mapping[str, Any] | None
    ) -> float:
        """Sum the epoch times of a trial; the result is that of `math.fsum`.

        Args:
            number: The trial.
            newest: The epoch that was added to its curve.
            replaced: The epoch whose place it took, or None.
        """
        total = self._epoch_units.get(number, 0)
        if total is not None and math.isfinite(newest["epoch_time_s"]):
            total += count_units(newest["epoch_time_s"])
            total -= count_units(replaced["epoch_time_s"]) if replaced else 0
            self._epoch_units[number] = total
            return total / (1 << UNIT_BITS)
        self._epoch_units[number] = None
        return math.fsum(epoch["epoch_time_s"] for epoch in self.epochs[number].values())

    def _apply_lost(self, row: dict[str, Any], event: Event) -> None:
        row["reason"] = event["reason"]
        row["losses"] += event["cause"] in COUNTED
        row["micro_batch"] = event.get("micro_batch") or row["micro_batch"]

    def _apply_ended(self, row: dict[str, Any], event: Event) -> None:
        number = row["trial_number"]
        row |= {"state": event["state"], "reason": event.get("reason"), "ended_at": event["at"]}
        row |= {name: event[name] for name in ("host", "device") if event.get(name)}
        del self._running[number]
        self._epoch_units.pop(number, None)
        self._counts[RUNNING] -= 1
        self._counts[row["state"]] += 1
        if self._may_be_kept(row):
            self._select_kept(number)
        order = (row["val_mse"], number)
        if row["state"] == COMPLETE and (
            self._best is None or order < (self._best["val_mse"], self._best["trial_number"])
        ):
            self._best = row

    def _may_be_kept(self, row: dict[str, Any]) -> bool:
        """Return whether `select_kept_models` could select a trial that has ended.

        In a long study it nearly never does, and selecting took a sixth of the time of a replay.
        """
        if row["val_mse"] is None:
            return False
        rank = (row["val_mse"], row["trial_number"])
        limits = (self._limits.get(key, NO_LIMIT) for key in (ALL, *list_groups(row)))
        return any(rank < limit for limit in limits)

    def _select_kept(self, number: int) -> None:
        """Select the models to keep after a trial has ended.

        A model that has fallen out never comes back, so only this trial has to be compared.
        """
        self.kept = select_kept_models(self.trials[n] for n in self.kept | {number})
        rows = [self.trials[n] for n in self.kept]
        ranked = sorted((row["val_mse"], row["trial_number"]) for row in rows)
        self._limits = {ALL: ranked[N_BEST - 1]} if len(ranked) >= N_BEST else {}
        for row in rows:
            rank = (row["val_mse"], row["trial_number"])
            for group in list_groups(row):
                self._limits[group] = min(rank, self._limits.get(group, NO_LIMIT))

    def _apply_interrupted(self, row: dict[str, Any], event: Event) -> None:
        row["reason"] = INTERRUPTED

    def _apply_evaluated(self, row: dict[str, Any], event: Event) -> None:
        row["test_mse"] = event["test_mse"]


def find_best_epoch(
    curve: Mapping[int, dict[str, Any]],
    best_before: dict[str, Any] | None,
    newest: dict[str, Any],
    replaced: dict[str, Any] | None,
) -> dict[str, Any]:
    """Find the epoch with the lowest validation error, the first one if several have it.

    Comparing all epochs after each one took most of 0.45 ms at 3,000 epochs. It is necessary only
    if the best epoch was replaced by a worse one.

    Args:
        curve: The epochs of a trial, by number.
        best_before: The best one before `newest` was added; None if there was none.
        newest: The epoch that was added.
        replaced: The epoch whose place it took, or None.

    Returns:
        The best epoch.
    """

    def rank(epoch: Mapping[str, Any]) -> tuple[float, int]:
        return epoch["val_mse"], epoch["epoch"]

    if best_before is None or rank(newest) < rank(best_before):
        return newest
    if replaced is best_before:
        is_same = rank(newest) == rank(best_before)
        return newest if is_same else min(curve.values(), key=rank)
    if replaced is not None and is_missing(newest["val_mse"]):
        return min(curve.values(), key=rank)  # NaN is neither below nor above another error.
    return best_before


def count_units(seconds: float) -> int:
    """Count the multiples of 2 ** -`UNIT_BITS` in a number, exactly.

    Args:
        seconds: A finite number.
    """
    numerator, denominator = seconds.as_integer_ratio()  # The denominator is a power of 2.
    return numerator << (UNIT_BITS + 1 - denominator.bit_length())


def list_groups(row: Mapping[str, Any]) -> list[int | str]:
    """List the groups of a trial of which the best model is kept: latent size and named point.

    Args:
        row: The row of the trial.
    """
    return [group for group in (row["latent_size"], row["point"]) if group]


def select_kept_models(trials: Iterable[Mapping[str, Any]], best: int = N_BEST) -> set[int]:
    """Select the trials whose models are kept.

    These are the best one of each latent size, the best one of each named point, and the best ones
    of all. Stopped trials count too: the Pareto front may rest on one at a rare latent size.

    Args:
        trials: Rows of trials.
        best: How many of the best trials of all are kept.

    Returns:
        The numbers of the trials.
    """
    scored = [t for t in trials if t["state"] in (COMPLETE, PRUNED) and t["val_mse"] is not None]
    ranked = sorted(scored, key=lambda t: (t["val_mse"], t["trial_number"]))
    by_size = {t["latent_size"]: t["trial_number"] for t in reversed(ranked)}
    by_point = {t["point"]: t["trial_number"] for t in reversed(ranked) if t["point"]}
    first = (t["trial_number"] for t in ranked[:best])
    return {*first, *by_size.values(), *by_point.values()}


def make_column(values: list[Any]) -> pa.Array:
    """Make a nullable column of the narrowest type that holds all values.

    Args:
        values: The values; None where there is none.

    Returns:
        The column. Values of mixed types become text.
    """
    kinds = {type(value) for value in values if value is not None}
    if kinds <= {int, float} and float in kinds:
        return pa.array(values, pa.float64())
    if len(kinds) > 1:
        return pa.array([None if v is None else str(v) for v in values], pa.string())
    return pa.array(values)


def sort_naturally(name: str) -> tuple[str, int]:
    """Return a key that sorts `channels_2` before `channels_10`."""
    stem, _, number = name.rpartition("_")
    return (stem, int(number)) if number.isdigit() else (name, 0)
