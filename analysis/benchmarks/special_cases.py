"""Measure what single special cases for speed save: each with and without it, in turn.

    python analysis/benchmarks/special_cases.py [NAME...]

CPU time of this process in ms (of threads: wall time), median, least and most of five runs. Caches
are emptied before each run without them. The trials are random ones of `ex2`.
"""

from __future__ import annotations

import io
import os
import platform
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import optuna
from PIL import Image

from raycae.config import Config
from raycae.data import decoding
from raycae.model.architecture import build_architecture
from raycae.optimization import drawing, optuna_patches
from raycae.report import html, trials
from raycae.report.sections import single_changes
from raycae.space import loading
from raycae.study import ledger, recovery, tables
from raycae.study.attempt import EpochReport
from raycae.study.opening import create_study
from raycae.study.plan import Plan
from raycae.study.records import Records
from raycae.study.study import Study

RUNS = 5
N = 300
"""Number of trials or configurations."""
Case = tuple[Callable[[], object], Callable[[], object]]
"""A computation with the special case, and without it."""


def record_study(folder: str, sampler: str = "random", n: int = N, ended: int = N) -> Study:
    """Record a study whose trials train nothing; `ended` of `n` trials end."""
    plan = Plan("s", "ex2", "photos", n, 1, None, 0, sampler, "none")
    data = {"source": "photos", "fingerprint": "0", "n_train": 1, "n_val": 1}
    study = create_study(Path(folder) / "s", plan, loading.load_space("ex2"), data)
    for _ in range(min(ended, n)):
        attempt = study.ask()
        assert attempt is not None
        study.start_attempt(attempt.number, attempt.attempt)
        error = 0.01 + attempt.number * 7919 % 101 / 1000
        values = {"train_mse": error, "val_mse": error, "val_psnr_db": 20.0}
        report = {"epoch": 1, "epoch_time_s": 1.0, "images_per_s": 9.0, **values}
        study.report_epoch(EpochReport(attempt.number, attempt.attempt, **report))
    return study


class Forgetful(dict[Any, Any]):
    """The models of a window, of which `forgotten` ones are computed again each time."""

    forgotten: tuple[Any, ...] | None = None

    def __contains__(self, key: object) -> bool:
        is_forgotten = self.forgotten is None or key in self.forgotten
        return not is_forgotten and super().__contains__(key)


def propose(forgotten: tuple[Any, ...] | None) -> None:
    """Run 60 trials by TPE, and propose 40 more from the same results."""
    kind = type("Models", (Forgetful,), {"forgotten": forgotten})
    show = drawing.Window.show

    def show_forgetfully(window: drawing.Window, shown: Any) -> None:
        show(window, shown)
        window.models = kind()

    patch = mock.patch.object(drawing.Window, "show", show_forgetfully)
    with tempfile.TemporaryDirectory() as folder, patch:
        study = record_study(folder, "tpe", 100, ended=60)
        while study.ask():
            pass
        study.close()


def encode_jpeg(side: int) -> bytes:
    """Encode a smooth picture of `side` x `side` pixels as JPEG."""
    noise = np.random.default_rng(0).integers(0, 256, (8, 8, 3), np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(noise).resize((side, side), Image.Resampling.BICUBIC).save(buffer, "JPEG")
    return buffer.getvalue()


def list_cases(study: Study) -> dict[str, Case]:
    """List the special cases by name."""
    folder = study.folder
    events = ledger.read_events(folder / "ledger")
    configs = [str(row["config"]) for row in study.records.trials.values()]
    parsed = [Config.model_validate_json(text) for text in configs]
    table, epochs = tables.read_trials(folder, configs=False), tables.read_epochs(folder)
    photo, small = encode_jpeg(2000), encode_jpeg(32)
    part = ledger.encode_events(events[:150])

    def call_all(function: Any, *columns: Any, clear: Any = None) -> None:
        if clear:
            clear()
        for values in zip(*columns, strict=True):
            function(*values)

    def repeat(function: Any, *columns: Any) -> Case:
        """Call a function with a cache: filled, and emptied before."""
        call_all(function, *columns)
        return (
            lambda: call_all(function, *columns),
            lambda: call_all(function, *columns, clear=function.cache_clear),
        )

    def fold(has_architecture: bool) -> None:
        build_architecture.cache_clear()
        records = Records(has_architecture=has_architecture)
        for event in events:
            records.apply(event)

    def rebuild(is_checked: bool) -> None:
        unknown = lambda trials, epochs, known: trials["val_mse"].isna()  # noqa: E731
        check = recovery.check_known if is_checked else unknown
        with mock.patch.object(recovery, "check_known", check):
            recovery.rebuild_events(table, epochs, study.records)

    def read(configs: bool) -> None:
        build_architecture.cache_clear()
        tables.read_trials(folder, configs=configs)

    def decode_photo(has_draft: bool) -> None:
        if has_draft:
            decoding.decode(photo, "photo", 32)
        else:
            with mock.patch("PIL.JpegImagePlugin.JpegImageFile.draft", return_value=None):
                decoding.decode(photo, "photo", 32)

    def decode_files(n_threads: int) -> None:
        with mock.patch.object(os, "cpu_count", return_value=n_threads):
            decoding.run_in_threads(lambda _: decoding.decode(small, "small", 32), 4000)

    def render(has_cache: bool) -> None:
        if not has_cache:
            html._make_environment.cache_clear()
        html._make_environment().get_template("comparison.html.j2")

    networks = list(range(len(configs))), configs
    render(True)
    return {
        "TPE: models of a window fitted once": (lambda: propose(()), lambda: propose(None)),
        "TPE: trials divided once": (
            lambda: propose(()),
            lambda: propose((optuna_patches.SPLIT,)),
        ),
        f"build_architecture, {N} configurations": repeat(build_architecture, parsed),
        f"Records without architecture, {N} trials": (lambda: fold(False), lambda: fold(True)),
        f"check_known, {N} trials": (lambda: rebuild(True), lambda: rebuild(False)),
        f"configurations not checked, {N} trials": (lambda: read(False), lambda: read(True)),
        f"decode_small_part, {len(part):,} bytes": repeat(ledger.decode_small_part, [part]),
        f"describe_network, {N} configurations": repeat(trials.describe_network, *networks),
        f"get_written_settings, {N} configurations": repeat(
            single_changes.get_written_settings, configs
        ),
        "template of a page": (lambda: render(True), lambda: render(False)),
        "JPEG of 2,000 x 2,000 to 32 x 32": (
            lambda: decode_photo(True),
            lambda: decode_photo(False),
        ),
        "4,000 JPEG files in two threads": (lambda: decode_files(2), lambda: decode_files(1)),
    }


def main(names: list[str]) -> None:
    """Print a row for each case whose name contains one of `names`, or for all."""
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    print(f"Python {platform.python_version()}, Optuna {optuna.__version__}")
    with tempfile.TemporaryDirectory() as folder:
        study = record_study(folder)
        study.close()
        for name, case in list_cases(study).items():
            if names and not any(part in name for part in names):
                continue
            clock = time.perf_counter if "threads" in name else time.process_time
            spent_ms: tuple[list[float], list[float]] = ([], [])
            for _ in range(RUNS):
                for run, values in zip(case, spent_ms, strict=True):
                    begun = clock()
                    run()
                    values.append(1000 * (clock() - begun))
            cells = (
                f"{statistics.median(values):.3g} ({min(values):.3g} to {max(values):.3g})"
                for values in spent_ms
            )
            print(f"| {name} | {' | '.join(cells)} |", flush=True)
    print(f"load {os.getloadavg()[0]:.1f}")


if __name__ == "__main__":
    main(sys.argv[1:])
