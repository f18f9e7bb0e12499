"""Race over recorded curves: how many epochs each method needs to come near the best.

Every method searches the same space over the same recorded curves, surrogate and noise
(`execution.recorded_curves`) with four simulated workers. A method's result after n epochs is the
noise-free error of the trial it holds for its best, after the epochs that this trial has had.
Epochs of diverged trials count. Configurations refused by a constraint cost no epochs, for any
method. Random search without early stopping has ten times the budget of the others.

"Near" is the error that the best of as many random configurations reaches as the table has.
Regret is 0 at the lowest error that the surrogate predicts for a configuration of the table, and 1
at the median of random configurations, on a logarithmic scale.

raycae's defaults were once chosen on the table of `ex2` (with seeds 1 to 24; seeds 31 to 60 were
looked at later), so seeds 61 to 90 are new seeds there, not new data. On the second tables, such as
`ex2-second`, nothing was ever chosen. They have other configurations, other images and other seeds.
No configuration of `ex2-second` was repeated, so its curves have no noise.

Runs are saved in `analysis/recorded/race/runs.parquet`, how they were made in `made.json`, and the
page in `race.html` in the same folder. With Playwright and Chromium the page is also photographed
for `analysis/pictures/race.png`. Runs of methods that are not raced this time are kept. A task
whose surrogate is below `TRUSTED` is left out.

    python analysis/benchmarks/race.py [SEEDS [METHOD;METHOD [TASK;TASK]]]

SEEDS is the number of seeds of each method (default: 30), or a range such as 71-90 to add runs; 0
only writes the page from saved runs. METHOD is the beginning of a method's name, and TASK is one of
`TASKS`; all of them without it. syne-tune and SMAC
take part if they are installed:

    python -m venv rivals
    rivals/bin/pip install -e '.[simulate]' smac==2.4.1 syne-tune==0.16.0
    rivals/bin/pip install huggingface_hub fastparquet h5py s3fs  # imported by syne-tune's ASHACQR
    rivals/bin/python analysis/benchmarks/race.py
"""

from __future__ import annotations

import importlib.util
import io
import json
import shutil
import sys
import time
from collections.abc import Callable
from datetime import date
from functools import cache
from importlib.metadata import version
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import jinja2
import numpy as np
import pandas as pd
import rivals
from PIL import Image
from plotly.offline import get_plotlyjs
from scipy.stats import binomtest
from stopping_simulation import Capped

import raycae
from raycae import provenance
from raycae.config import Config
from raycae.execution import recorded_curves
from raycae.execution.recorded_curves import TRUSTED, Recorded
from raycae.execution.simulator import Searcher, simulate_search
from raycae.optimization.early_stopping import (
    ExemptBasePoint,
    StoppingRule,
    choose_grace,
    make_rule,
)
from raycae.optimization.proposer import Proposer
from raycae.report import plotting
from raycae.storage.files import write_atomic

RECORDED = Path(__file__).parents[1] / "recorded"
FOLDER = RECORDED / "race"
PICTURE = Path(__file__).parents[1] / "pictures" / "race.png"
UNTOUCHED = ("ex2-second",)
"""Tables on which nothing was chosen."""
TASKS = ("ex2", "ex3", *UNTOUCHED)
FIRST_SEED = 61
"""No default of raycae was chosen or checked with this seed or a later one."""
WORKERS = 4
EPOCHS = 450
RANDOM_FACTOR = 10
"""Random search without early stopping gets this many times the budget of the others."""
RANDOM = "random search, no early stopping"
DEFAULT = "raycae: TPE + ASHA (default)"
N_DRAWS = 3000
"""Random configurations from which the marks are computed."""
N_RESAMPLES = 2000

Contender = Callable[[Recorded, int], tuple[Searcher, StoppingRule]]


def make_raycae(sampler: str, scheduler: str, **options: Any) -> Contender:
    """Return a factory for raycae's searcher and early stopping."""

    def make(world: Recorded, seed: int) -> tuple[Searcher, StoppingRule]:
        given = {"grace": choose_grace(world.epochs), **options}
        return Proposer(world.space, sampler, seed), make_rule(scheduler, world.epochs, **given)

    return make


def make_capped(sampler: str) -> Contender:
    """Return a factory for raycae's searcher with its early stopping until 2026-11-29."""

    def make(world: Recorded, seed: int) -> tuple[Searcher, StoppingRule]:
        return Proposer(world.space, sampler, seed), ExemptBasePoint(Capped(world.epochs))

    return make


def make_rival(kind: Any) -> Contender:
    """Return a factory for a rival, which both proposes and stops early."""

    def make(world: Recorded, seed: int) -> tuple[Searcher, StoppingRule]:
        rival = kind(world.space, seed, world.epochs)
        return rival, SimpleNamespace(report=lambda *epoch: rival.judge(*epoch[:3]))

    return make


METHODS: dict[str, Contender] = {
    DEFAULT: make_raycae("tpe", "asha"),
    "syne-tune: ASHACQR": make_rival(rivals.SyneTune),
    "SMAC3: random forest + Hyperband": make_rival(rivals.SMAC),
    "Ray: OptunaSearch + ASHA": make_rival(rivals.RayOptunaSearch),
    "Ray: random + ASHA": make_rival(rivals.RandomRayASHA),
    "Optuna: TPE + Hyperband": make_rival(rivals.OptunaHyperband),
    RANDOM: make_raycae("random", "none"),
}
"""The methods that are compared."""
VARIANTS: dict[str, Contender] = {
    "raycae: TPE + ASHA, grace 4": make_raycae("tpe", "asha", grace=4),
    "raycae: TPE + Hyperband": make_raycae("tpe", "hyperband"),
    "raycae: random + ASHA": make_raycae("random", "asha"),
    "raycae: greedy, no early stopping": make_raycae("greedy", "none"),
    "raycae: TPE + capped ASHA (default before)": make_capped("tpe"),
    "raycae: random + capped ASHA (before)": make_capped("random"),
}
"""Other settings of raycae."""
NEEDS = {"syne-tune: ASHACQR": "syne-tune", "SMAC3: random forest + Hyperband": "smac"}
MODULES = {"syne-tune": "syne_tune"}
COLOURS = (
    plotting.ORANGE,
    "#a87b00",
    "#c4392b",
    plotting.BLUE,
    plotting.VIOLET,
    "#2f8f4e",
    plotting.GREY,
)


def main(seeds: str = "30", methods: str = "", tasks: str = ";".join(TASKS)) -> None:
    missing = [m for m, name in NEEDS.items() if not is_installed(name)]
    chosen = [
        m for m in METHODS | VARIANTS if any(m.startswith(name) for name in methods.split(";"))
    ]
    print(f"not installed: {', '.join(missing) or 'none'}")
    if parse_seeds(seeds):
        for task in tasks.split(";"):
            run_task(task, [m for m in chosen if m not in missing], parse_seeds(seeds))
    runs = pd.read_parquet(FOLDER / "runs.parquet")
    write_page(runs, json.loads((FOLDER / "made.json").read_text()))


def run_task(task: str, methods: list[str], seeds: range) -> None:
    """Race `methods` over the curves of one task and save each run."""
    world = read(task)
    print(f"{task}: {len(world.curves)} curves, rank correlation {world.rank_correlation:.3f}")
    if world.rank_correlation < TRUSTED:
        print(f"  below {TRUSTED}: no race")
        return
    marks = compute_marks(world)
    print("  " + ", ".join(f"{name} {value:.5f}" for name, value in marks.items()), flush=True)
    for method in methods:
        begin_s = time.process_time()
        for seed in seeds:
            runs = race(world, (METHODS | VARIANTS)[method], seed, method == RANDOM)
            save(runs.assign(task=task, method=method), marks)
        print(f"  {method}: {time.process_time() - begin_s:.0f} s", flush=True)


def parse_seeds(text: str) -> range:
    """Return the seeds of a number of seeds ("30") or of a range, both ends included ("71-90")."""
    first, _, last = text.rpartition("-")
    if first:
        return range(int(first), int(last) + 1)
    return range(FIRST_SEED, FIRST_SEED + int(last))


def is_installed(package: str) -> bool:
    return importlib.util.find_spec(MODULES.get(package, package)) is not None


def read(task: str) -> Recorded:
    """Read the recorded curves of a task, with those of several seeds where they were recorded."""
    folders = (RECORDED / "curves" / name for name in (task, f"{task}-seeds"))
    return recorded_curves.read_curves([folder for folder in folders if folder.exists()])


def compute_marks(world: Recorded) -> dict[str, float]:
    """Compute the errors that results are compared with.

    Returns:
        MSE: "best", the least error that the surrogate predicts for a recorded configuration;
        "median", that half of all random configurations reach; "near", that one of n random
        configurations reaches, where n is the number of recorded configurations.
    """
    proposer = Proposer(world.space, "random", seed=0, points=[])
    proposals = (proposer.propose(number) for number in range(N_DRAWS))
    random = [world.surrogate.predict_errors(p.config).min() for p in proposals if p]
    return {
        "best": float(min(world.surrogate.predict_errors(config).min() for config in world.curves)),
        "median": float(np.median(random)),
        "near": float(np.quantile(random, 1 / len(world.curves))),
    }


def race(world: Recorded, contender: Contender, seed: int, is_random: bool) -> pd.DataFrame:
    """Run one method with one seed.

    Returns:
        One row each time the best trial changed and one at the end: `epochs` spent, `error` of the
        best trial without noise (MSE), `trials` started, `seed`.
    """
    searcher, stopping = contender(world, seed)
    budget = RANDOM_FACTOR * EPOCHS if is_random else EPOCHS

    @cache
    def true_errors(config: Config) -> Any:
        return np.minimum.accumulate(world.surrogate.predict_errors(config))

    epochs = simulate_search(
        searcher, stopping, world, trials=10**6, epochs=world.epochs, workers=WORKERS
    )
    # SMAC runs a configuration again on a larger budget; the epochs it has had count once.
    spent: set[tuple[Config, int]] = set()
    rows, least, trials = [], np.inf, set()
    for epoch in epochs:
        spent.add((epoch.proposal.config, epoch.epoch))
        trials.add(epoch.number)
        if epoch.error is not None and epoch.error < least:
            least = epoch.error
            error = true_errors(epoch.proposal.config)[epoch.epoch - 1]
            rows.append((len(spent), error, len(trials)))
        if len(spent) == budget:
            break
    rows.append((budget, rows[-1][1], len(trials)))
    return pd.DataFrame(rows, columns=["epochs", "error", "trials"]).assign(seed=seed)


def save(runs: pd.DataFrame, marks: dict[str, float]) -> None:
    """Save the run of one method and seed, and how it was made.

    Saved runs of other methods and seeds are kept.
    """
    FOLDER.mkdir(exist_ok=True)
    keys = ["task", "method", "seed"]
    task, method, _ = runs[keys].iloc[0]
    if (path := FOLDER / "runs.parquet").exists():
        saved = pd.read_parquet(path)
        is_same = (saved[keys] == runs[keys].iloc[0]).all(axis=1)
        runs = pd.concat([saved[~is_same], runs])
    buffer = io.BytesIO()
    runs.to_parquet(buffer, index=False, compression="zstd")
    write_atomic(path, buffer.getvalue())
    made_path = FOLDER / "made.json"
    made = json.loads(made_path.read_text()) if made_path.exists() else {}
    of_task = made.setdefault(task, {"marks": marks, "methods": {}})
    packages = ["scikit-learn", *([NEEDS[method]] if method in NEEDS else [])]
    of_task["methods"][method] = {
        "date": date.today().isoformat(),
        "cpu": provenance.describe_hardware()["cpu"],
        "n_cpus": provenance.count_cpus(),
        "versions": provenance.get_versions() | {name: version(name) for name in packages},
    }
    write_atomic(made_path, (json.dumps(made, indent=1, sort_keys=True) + "\n").encode())


def epochs_until(runs: pd.DataFrame, error: float) -> Any:
    """Return the epochs each seed needed to reach `error`; infinity where it did not."""
    good = runs[runs["error"] <= error].groupby("seed")["epochs"].min().astype(float)
    return good.reindex(runs["seed"].unique(), fill_value=np.inf).to_numpy()


def errors_after(runs: pd.DataFrame, epochs: Any) -> Any:
    """Return the error of each seed after each number of epochs, (seeds, epochs).

    Before the first epoch has ended this is the error after it.
    """
    return np.array(
        [
            own["error"].to_numpy()[
                np.maximum(np.searchsorted(own["epochs"], epochs, side="right") - 1, 0)
            ]
            for _, own in runs.groupby("seed")
        ]
    )


def bootstrap_medians(values: Any, draw_seed: int = 0) -> Any:
    """Return the medians of `N_RESAMPLES` resamples of the seeds' values."""
    draw = np.random.default_rng(draw_seed)
    return np.median(draw.choice(values, (N_RESAMPLES, len(values))), axis=1)


def estimate_median(values: Any) -> tuple[float, float, float]:
    """Return the median and its 95 % bootstrap interval (percentiles of resampled seeds)."""
    low, high = np.quantile(bootstrap_medians(values), [0.025, 0.975], method="nearest")
    return float(np.median(values)), low, high


def estimate_ratio(values: Any, others: Any) -> tuple[float, float, float]:
    """Return the ratio of two medians and its 95 % interval; both samples are resampled."""
    ratios = bootstrap_medians(values) / bootstrap_medians(others, 1)
    low, high = np.quantile(ratios, [0.025, 0.975])
    return float(np.median(values) / np.median(others)), low, high


def format_interval(figures: tuple[float, float, float], digits: int) -> str:
    text = "{:.{d}f} ({:.{d}f} to {:.{d}f})".format(*figures, d=digits)
    return text.replace("inf", "∞")


def format_seeds(seeds: Any) -> str:
    """Return how many seeds there are and which: `38 (1–8, 61–90)`."""
    ordered = np.sort(seeds)
    ranges = np.split(ordered, np.flatnonzero(np.diff(ordered) > 1) + 1)
    return f"{len(seeds)} ({', '.join(f'{part[0]}–{part[-1]}' for part in ranges)})"


def write_page(runs: pd.DataFrame, made: dict[str, Any]) -> None:
    """Write `race.html`, print its tables and photograph it."""
    parts = []
    plots = {}
    for task, of_made in made.items():
        mark, how = of_made["marks"], of_made["methods"]
        of_task = runs[runs["task"] == task]
        groups = {
            title: {
                m: of_task[of_task["method"] == m] for m in group if (of_task["method"] == m).any()
            }
            for title, group in (
                ("raycae and others", METHODS),
                ("Other settings of raycae", VARIANTS),
            )
        }
        everyone = {m: own for group in groups.values() for m, own in group.items()}
        plots[f"regret-{task}"] = draw_regret(groups["raycae and others"], mark).to_json()
        tables = {
            title: make_table(group, everyone, mark) for title, group in groups.items() if group
        }
        for title, rows in tables.items():
            print(title, pd.DataFrame(rows).to_string(index=False), sep="\n")
        parts.append(
            {
                "task": task,
                "tables": tables,
                "n_best": sum(
                    int(np.isfinite(epochs_until(own, 1.01 * mark["best"])).sum())
                    for own in everyone.values()
                ),
                "n_runs": sum(own["seed"].nunique() for own in everyone.values()),
                "versions": list_versions([how[m] for m in everyone]),
                "cpus": sorted({f"{how[m]['n_cpus']} cores of {how[m]['cpu']}" for m in everyone}),
                **mark,
            }
        )
    folders = [Path(__file__).parent, Path(raycae.__file__).parent / "report" / "templates"]
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(folders), autoescape=True, undefined=jinja2.StrictUndefined
    )
    page = environment.get_template("race.html.j2").render(
        parts=parts,
        plots=plots,
        plotly=get_plotlyjs(),
        workers=WORKERS,
        n_epochs=EPOCHS,
        factor=RANDOM_FACTOR,
        default=DEFAULT,
        untouched=UNTOUCHED,
    )
    path = FOLDER / "race.html"
    write_atomic(path, page.encode())
    photograph(path, list(plots))


def photograph(page: Path, plots: list[str]) -> None:
    """Write `PICTURE` from the page once its `plots` are drawn; needs Playwright and Chromium."""
    chromium = shutil.which("chromium")
    if chromium is None or importlib.util.find_spec("playwright") is None:
        print(f"{PICTURE.name} not written: it needs Playwright and Chromium")
        return
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        tab = browser.new_page(viewport={"width": 1360, "height": 800})
        tab.goto(page.resolve().as_uri())
        for plot in plots:
            tab.locator(f"#{plot}").scroll_into_view_if_needed()
            tab.wait_for_selector(f"#{plot}.js-plotly-plot .main-svg")
        tab.screenshot(path=PICTURE, full_page=True)
        browser.close()
    picture = Image.open(PICTURE).convert("RGB")
    picture.quantize(256, Image.Quantize.FASTOCTREE).save(PICTURE, optimize=True)


def list_versions(made: list[dict[str, Any]]) -> str:
    """List the versions that the runs were made with, each package once."""
    wanted = ("python", "scikit-learn", "optuna", "ray", *NEEDS.values())
    found = {
        name: sorted({run["versions"][name] for run in made if name in run["versions"]})
        for name in wanted
    }
    return ", ".join(f"{name} {' and '.join(all_)}" for name, all_ in found.items() if all_)


def make_table(
    group: dict[str, pd.DataFrame], everyone: dict[str, pd.DataFrame], mark: dict[str, float]
) -> list[dict[str, str]]:
    """Make the rows of one table, one for each method."""
    rows = []
    for method, own in group.items():
        hits = epochs_until(own, mark["near"])
        n_near = int(np.isfinite(hits).sum())
        share = binomtest(n_near, len(hits)).proportion_ci()
        row = {
            "method": method,
            "seeds": format_seeds(own["seed"].unique()),
            "epochs until near": format_interval(estimate_median(hits), 0),
            "seeds that came near": f"{n_near / len(hits):.0%} "
            f"({share.low:.0%} to {share.high:.0%})",
            "default / this": "–",
        }
        if method != DEFAULT and DEFAULT in everyone:
            # A seed that did not come near counts with its budget, so the ratio is at most this.
            budget = RANDOM_FACTOR * EPOCHS if method == RANDOM else EPOCHS
            ours = np.minimum(epochs_until(everyone[DEFAULT], mark["near"]), EPOCHS)
            ratio = format_interval(estimate_ratio(ours, np.minimum(hits, budget)), 2)
            bound = "at most " if np.isinf(np.median(hits)) else ""
            row["default / this"] = bound + ratio
        for epochs in (200, EPOCHS):
            regrets = compute_regret(errors_after(own, [epochs]), mark)[:, 0]
            row[f"regret at {epochs}"] = format_interval(estimate_median(regrets), 2)
        row["trials"] = f"{own.groupby('seed')['trials'].max().mean():.0f}"
        rows.append(row)
    return rows


def compute_regret(errors: Any, mark: dict[str, float]) -> Any:
    """Return 0 at the table's best, 1 at the median of random configurations, in logarithms."""
    return np.log(errors / mark["best"]) / np.log(mark["median"] / mark["best"])


def draw_regret(group: dict[str, pd.DataFrame], mark: dict[str, float]) -> Any:
    """Draw the median regret by epochs with its 95 % interval, one line for each method."""
    figure = plotting.make_figure("epochs spent", "normalised regret, median over seeds")
    epochs = np.unique(np.geomspace(4, EPOCHS, 60).astype(int))
    colours = dict(zip(METHODS, COLOURS, strict=True))
    for method, own in group.items():
        regrets = compute_regret(errors_after(own, epochs), mark)
        middle, low, high = np.array([estimate_median(column) for column in regrets.T]).T
        figure.add_scatter(
            x=[*epochs, *epochs[::-1]],
            y=[*high, *low[::-1]],
            fill="toself",
            line={"width": 0},
            fillcolor=colours[method],
            opacity=0.15,
            hoverinfo="skip",
            showlegend=False,
        )
        figure.add_scatter(
            x=epochs.tolist(),
            y=middle.tolist(),
            name=method,
            line={"color": colours[method], "width": 2},
        )
    figure.update_xaxes(type="log")
    return figure


if __name__ == "__main__":
    main(*sys.argv[1:])
