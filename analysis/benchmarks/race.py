"""Race over recorded curves: how many epochs each method needs to come near the best.

Every method searches the same space over the same recorded curves, surrogate and noise
(`raycae.recorded`) with four simulated workers. A method's result after n epochs is the noise-free
error of the trial it holds for its best, after the epochs that this trial has had. Epochs of
diverged trials count. Configurations refused by a constraint cost no epochs, for any method. Random
search without early stopping has ten times the budget of the others.

"Near" is the error that the best of as many random configurations reaches as the table has.
Regret is 0 at the least error that the surrogate predicts for a configuration of the table, and 1
at the median of random configurations, on a logarithmic scale.

What the race can't show: raycae's defaults were chosen on this table (with seeds 1 to 24; seeds 31
to 60 were looked at later). Seeds 61 to 90 are new seeds, not new data.

Runs are saved in `analysis/recorded/race/runs.parquet`, how they were made in `made.json`, and the
page in `race.html` beside them. With Playwright and Chromium the page is also photographed for
`analysis/pictures/race.png`. Runs of methods that are not raced this time are kept. A task whose
surrogate is below `recorded.TRUSTED` is left out.

    python analysis/benchmarks/race.py [SEEDS [METHOD;METHOD]]

SEEDS is the number of seeds of each method (default: 30), or a range such as 71-90 to add runs; 0
only writes the page from saved runs. METHOD is the beginning of a method's name. syne-tune and SMAC
take part if they are installed:

    python -m venv rivals
    rivals/bin/pip install -e '.[simulate]' smac==2.4.1 syne-tune==0.16.0 huggingface_hub
    rivals/bin/python analysis/benchmarks/race.py
"""

from __future__ import annotations

import importlib.util
import io
import json
import shutil
import sys
import time
from collections import defaultdict
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
from plotly.offline import get_plotlyjs
from scipy.stats import binomtest

import raycae
from raycae import provenance
from raycae.config import Config
from raycae.execution import recorded_curves
from raycae.execution.recorded_curves import TRUSTED, Recorded
from raycae.execution.simulator import Searcher, simulate_search
from raycae.optimization.early_stopping import StoppingRule, make_rule
from raycae.optimization.proposer import Proposer
from raycae.report import plotting
from raycae.storage.files import write_atomic

RECORDED = Path(__file__).parents[1] / "recorded"
PICTURE = Path(__file__).parents[1] / "pictures" / "race.png"
TASKS = ("ex2", "ex3")
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


class CappedASHA:
    """raycae's early stopping until 2026-11-29, kept to compare with: a capped form of ASHA.

    Rungs at 1, 4, 16 ... epochs. At a rung the best trial so far continues; any other continues
    only if it is among the best quarter of all errors seen at the rung and fewer than a quarter of
    the trials seen there have continued. The named point `base` always continues.
    """

    FACTOR = 4

    def __init__(self, epochs: int) -> None:
        self.rungs = [self.FACTOR**k for k in range(epochs) if self.FACTOR**k < epochs]
        self._seen: dict[int, dict[int, float]] = defaultdict(dict)
        self._continued: dict[int, set[int]] = defaultdict(set)

    def report(self, trial_number: int, epoch: int, value: float, known: Any = None) -> bool:
        if epoch not in self.rungs:
            return True
        seen, continued = self._seen[epoch], self._continued[epoch]
        if trial_number not in seen:
            seen[trial_number] = value
            n_places = len(seen) // self.FACTOR
            n_better = sum(other < value for other in seen.values())
            if not n_better or (n_better < n_places and len(continued) < n_places):
                continued.add(trial_number)
        return trial_number in continued or (known or {}).get("point") == "base"


def make_raycae(sampler: str, scheduler: str, **options: Any) -> Contender:
    """Return a maker of raycae's own searcher and early stopping."""

    def make(world: Recorded, seed: int) -> tuple[Searcher, StoppingRule]:
        return Proposer(world.space, sampler, seed), make_rule(scheduler, world.epochs, **options)

    return make


def make_capped(sampler: str) -> Contender:
    """Return a maker of raycae's own searcher with the early stopping it had before."""

    def make(world: Recorded, seed: int) -> tuple[Searcher, StoppingRule]:
        return Proposer(world.space, sampler, seed), CappedASHA(world.epochs)

    return make


def make_rival(kind: Any) -> Contender:
    """Return a maker of a rival, which both proposes and stops early."""

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


def main(seeds: str = "30", methods: str = "") -> None:
    contenders = METHODS | VARIANTS
    missing = [m for m, name in NEEDS.items() if not is_installed(name)]
    chosen = [m for m in contenders if any(m.startswith(name) for name in methods.split(";"))]
    print(f"not installed: {', '.join(missing) or 'none'}")
    marks = {}
    for task in TASKS:
        world = read(task)
        print(f"{task}: {len(world.curves)} curves, rank correlation {world.rank_correlation:.3f}")
        if world.rank_correlation < TRUSTED:
            print(f"  below {TRUSTED}: no race")
            continue
        marks[task] = compute_marks(world)
        print("  " + ", ".join(f"{name} {value:.5f}" for name, value in marks[task].items()))
        for method in chosen:
            if method in missing:
                continue
            begin_s = time.process_time()
            for seed in parse_seeds(seeds):
                runs = race(world, contenders[method], seed, method == RANDOM)
                save(runs.assign(task=task, method=method))
            print(f"  {method}: {time.process_time() - begin_s:.0f} s", flush=True)
    write_page(pd.read_parquet(RECORDED / "race" / "runs.parquet"), marks)


def parse_seeds(text: str) -> range:
    """Return the seeds of a number of seeds ("30") or of a range, both ends included ("71-90")."""
    first, _, last = text.rpartition("-")
    if first:
        return range(int(first), int(last) + 1)
    return range(FIRST_SEED, FIRST_SEED + int(last))


def is_installed(package: str) -> bool:
    return importlib.util.find_spec(MODULES.get(package, package)) is not None


def read(task: str) -> Recorded:
    """Read the recorded curves of a task, those with several seeds included."""
    return recorded_curves.read_curves(sorted((RECORDED / "curves").glob(f"{task}*")))


def compute_marks(world: Recorded) -> dict[str, float]:
    """Compute the errors that results are compared with.

    Returns:
        MSE: "best", the least error that the surrogate predicts for a recorded configuration;
        "median", that half of all random configurations reach; "near", that one of n random
        configurations reaches, where n is the number of recorded configurations.
    """
    proposer = Proposer(world.space, "random", seed=0, points=[])
    proposals = (proposer.propose(number) for number in range(N_DRAWS))
    random = [world.surrogate.errors(p.config).min() for p in proposals if p]
    return {
        "best": float(min(world.surrogate.errors(config).min() for config in world.curves)),
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
        return np.minimum.accumulate(world.surrogate.errors(config))

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


def save(runs: pd.DataFrame) -> None:
    """Save the runs of one method and how they were made.

    Saved runs of other methods and seeds are kept.
    """
    folder = RECORDED / "race"
    folder.mkdir(exist_ok=True)
    keys = ["task", "method", "seed"]
    if (path := folder / "runs.parquet").exists():
        saved = pd.read_parquet(path)
        is_same = (saved[keys] == runs[keys].iloc[0]).all(axis=1)
        runs = pd.concat([saved[~is_same], runs])
    buffer = io.BytesIO()
    runs.to_parquet(buffer, index=False, compression="zstd")
    write_atomic(path, buffer.getvalue())
    made_path = folder / "made.json"
    made = json.loads(made_path.read_text()) if made_path.exists() else {}
    packages = {name: version(name) for name in NEEDS.values() if is_installed(name)}
    made[f"{runs['task'].iloc[-1]}, {runs['method'].iloc[-1]}"] = {
        "date": date.today().isoformat(),
        "cpu": provenance.describe_hardware()["cpu"],
        "n_cpus": provenance.count_cpus(),
        "versions": provenance.get_versions()
        | {"scikit-learn": version("scikit-learn")}
        | packages,
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


def write_page(runs: pd.DataFrame, marks: dict[str, dict[str, float]]) -> None:
    """Write `race.html` and print its tables."""
    parts = []
    plots = {}
    made = json.loads((RECORDED / "race" / "made.json").read_text())
    for task, mark in marks.items():
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
                "versions": list_versions([made[f"{task}, {m}"] for m in everyone]),
                "cpus": sorted({f"{at['n_cpus']} cores of {at['cpu']}" for at in made.values()}),
                **mark,
            }
        )
    folders = [Path(__file__).parent, Path(raycae.__file__).parent]
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
    )
    path = RECORDED / "race" / "race.html"
    write_atomic(path, page.encode())
    photograph(path, [f"regret-{task}" for task in marks])


def photograph(page: Path, plots: list[str]) -> None:
    """Write `PICTURE` from the page once its `plots` are drawn; needs Playwright and Chromium."""
    chromium = shutil.which("chromium")
    if chromium is None or importlib.util.find_spec("playwright") is None:
        print(f"{PICTURE.name} not written: it needs Playwright and Chromium")
        return
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        tab = browser.new_page(viewport={"width": 1100, "height": 800})
        tab.goto(page.resolve().as_uri())
        for plot in plots:
            tab.locator(f"#{plot}").scroll_into_view_if_needed()
            tab.wait_for_selector(f"#{plot}.js-plotly-plot .main-svg")
        tab.screenshot(path=PICTURE, full_page=True)
        browser.close()


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
            "seeds": str(len(hits)),
            "epochs until near": format_interval(estimate_median(hits), 0),
            "seeds that came near": f"{n_near / len(hits):.0%} "
            f"({share.low:.0%} to {share.high:.0%})",
            "epochs of raycae's default / of this": "–",
        }
        if method != DEFAULT and DEFAULT in everyone:
            # A seed that did not come near counts with its budget, so the ratio is at most this.
            budget = RANDOM_FACTOR * EPOCHS if method == RANDOM else EPOCHS
            ours = np.minimum(epochs_until(everyone[DEFAULT], mark["near"]), EPOCHS)
            ratio = format_interval(estimate_ratio(ours, np.minimum(hits, budget)), 2)
            bound = "at most " if np.isinf(np.median(hits)) else ""
            row["epochs of raycae's default / of this"] = bound + ratio
        for epochs in (100, 200, EPOCHS):
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
