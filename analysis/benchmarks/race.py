"""A race over recorded curves: who comes near the best for how few epochs.

Every method searches the same space over the same curves, surrogate and noise (`raycae.recorded`),
on four simulated workers, with seeds from 1 on (random search with seed 0 would propose what was
recorded). What counts is the error without noise of the trial that a method holds for its best,
after the epochs that this trial has had. Epochs that diverged count; proposals that break a
constraint cost nothing, for nobody. Random search is given ten times the epochs of the others.

Two marks. The table's best: within 1 % of the least error that the surrogate has for any recorded
configuration. A surrogate knows the good ones worse than they are, so that no further random
configuration comes there, as one in so many should; so the second mark is what one of as many
random configurations as the table has reaches.

Runs go to `analysis/recorded/race/runs.parquet`, where those of other methods stay, and the page to
`race.html` beside it. A task whose surrogate is below `recorded.TRUSTED` is left out.

    python analysis/benchmarks/race.py [SEEDS [METHOD;METHOD]]

Without SEEDS 30 of each; 0 makes the page alone, from the runs that are there. syne-tune and SMAC
race where they are installed.
"""

from __future__ import annotations

import importlib.util
import io
import sys
import time
from collections.abc import Callable
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import jinja2
import numpy as np
import pandas as pd
import rivals
from plotly.offline import get_plotlyjs

import raycae
from raycae import canvas, recorded
from raycae.config import Config
from raycae.recorded import TRUSTED, Recorded
from raycae.searcher import Proposer
from raycae.simulate import Searcher, run
from raycae.stopping import Rule, rule
from raycae.storage import write_whole

RECORDED = Path(__file__).parents[1] / "recorded"
TASKS = ("ex2", "ex3")
WORKERS = 4
EPOCHS = 450
RANDOM = "random"
DEFAULT = "raycae: TPE, ASHA"
STOCK = "Ray's OptunaSearch, ASHA"
DRAWS = 3000
RESAMPLES = 2000

Contender = Callable[[Recorded, int], tuple[Searcher, Rule]]


def ours(sampler: str, scheduler: str) -> Contender:
    def made(world: Recorded, seed: int) -> tuple[Searcher, Rule]:
        return Proposer(world.space, sampler, seed), rule(scheduler, world.epochs)

    return made


def theirs(kind: Any) -> Contender:
    def made(world: Recorded, seed: int) -> tuple[Searcher, Rule]:
        rival = kind(world.space, seed, world.epochs)
        return rival, SimpleNamespace(report=lambda *told: rival.judge(*told[:3]))

    return made


METHODS: dict[str, Contender] = {
    RANDOM: ours("random", "none"),
    "random, ASHA": ours("random", "asha"),
    "greedy": ours("greedy", "none"),
    DEFAULT: ours("tpe", "asha"),
    STOCK: theirs(rivals.StockOptunaSearch),
    "Optuna's TPE, Hyperband": theirs(rivals.PlainOptuna),
    "syne-tune's ASHACQR": theirs(rivals.SyneTune),
    "SMAC, Hyperband": theirs(rivals.SMAC),
}
NEEDS = {"syne-tune's ASHACQR": "syne_tune", "SMAC, Hyperband": "smac"}


def main(seeds: str = "30", methods: str = "") -> None:
    there = [m for m in METHODS if importlib.util.find_spec(NEEDS.get(m, "raycae"))]
    wanted = [m for m in there if any(m.startswith(name) for name in methods.split(";"))]
    print(f"left out, for they are not installed: {', '.join(METHODS.keys() - there) or 'none'}")
    marks = {}
    for task in TASKS:
        world = read(task)
        print(f"{task}: {len(world.curves)} curves, rank correlation {world.rank_correlation:.3f}")
        if world.rank_correlation < TRUSTED:
            print(f"  below {TRUSTED}: no race")
            continue
        marks[task] = measure(world)
        print("  " + ", ".join(f"{name} {value:.5f}" for name, value in marks[task].items()))
        for method in wanted if int(seeds) else []:
            begun = time.process_time()
            runs: list[pd.DataFrame] = []
            for seed in range(1, int(seeds) + 1):
                runs.append(race(world, method, seed))
                keep(pd.concat(runs).assign(task=task, method=method))  # some take hours for all
            print(f"  {method}: {time.process_time() - begun:.0f} s", flush=True)
    write_page(pd.read_parquet(RECORDED / "race" / "runs.parquet"), marks)


def read(task: str) -> Recorded:
    return recorded.read(sorted((RECORDED / "curves").glob(f"{task}*")))


def measure(world: Recorded) -> dict[str, float]:
    """The two marks, and what they are put in proportion to: the best of the table, and what half
    of all random configurations reach."""
    proposer = Proposer(world.space, "random", seed=0, points=[])
    proposals = (proposer.propose(number) for number in range(DRAWS))
    random = [world.surrogate.errors(p.config).min() for p in proposals if p]
    best = min(world.surrogate.errors(config).min() for config in world.curves)
    return {
        "best": best,
        "median": float(np.median(random)),
        "table's best": 1.01 * best,
        "best of random": float(np.quantile(random, 1 / len(world.curves))),
    }


def race(world: Recorded, method: str, seed: int) -> pd.DataFrame:
    """One row for each time that the best changed, and one at the end: `epochs` spent and the
    `error` of the best without noise; `trials` begun, `seed`."""
    searcher, stopping = METHODS[method](world, seed)
    budget = 10 * EPOCHS if method == RANDOM else EPOCHS

    @cache
    def truth(config: Config) -> Any:
        return np.minimum.accumulate(world.surrogate.errors(config))

    epochs = run(searcher, stopping, world, trials=10**6, epochs=world.epochs, workers=WORKERS)
    spent: set[tuple[Config, int]] = set()
    rows, least, trials = [], np.inf, set()
    for epoch in epochs:
        # A configuration that is run anew on more epochs goes on from where it was.
        spent.add((epoch.proposal.config, epoch.epoch))
        trials.add(epoch.number)
        if epoch.error is not None and epoch.error < least:
            least = epoch.error
            rows.append((len(spent), truth(epoch.proposal.config)[epoch.epoch - 1], len(trials)))
        if len(spent) == budget:
            break
    rows.append((budget, rows[-1][1], len(trials)))
    return pd.DataFrame(rows, columns=["epochs", "error", "trials"]).assign(seed=seed)


def keep(runs: pd.DataFrame) -> None:
    path = RECORDED / "race" / "runs.parquet"
    path.parent.mkdir(exist_ok=True)
    if path.exists():
        others = pd.read_parquet(path)
        same = (others["task"] == runs["task"].iloc[0]) & (
            others["method"] == runs["method"].iloc[0]
        )
        runs = pd.concat([others[~same], runs])
    buffer = io.BytesIO()
    runs.to_parquet(buffer, index=False, compression="zstd")
    write_whole(path, buffer.getvalue())


def reached(runs: pd.DataFrame, mark: float) -> Any:
    """Epochs until the error was at most `mark`, one for each seed; infinite where it never was."""
    good = runs[runs["error"] <= mark].groupby("seed")["epochs"].min().astype(float)
    return good.reindex(runs["seed"].unique(), fill_value=np.inf).to_numpy()


def errors_at(runs: pd.DataFrame, epochs: Any) -> Any:
    """(seeds, epochs): the error after so many epochs; before the first one has ended, its."""
    return np.array(
        [
            own["error"].to_numpy()[
                np.maximum(np.searchsorted(own["epochs"], epochs, side="right") - 1, 0)
            ]
            for _, own in runs.groupby("seed")
        ]
    )


def interval(figures: Any) -> tuple[float, float, float]:
    """The middle of bootstrapped figures and where 95 % of them lie."""
    low, middle, high = np.quantile(figures, [0.025, 0.5, 0.975], method="nearest")
    return middle, low, high


def resampled(values: Any) -> Any:
    """Medians of seeds drawn with replacement."""
    draw = np.random.default_rng(0)
    return np.median(draw.choice(values, (RESAMPLES, len(values))), axis=1)


def write_page(runs: pd.DataFrame, marks: dict[str, dict[str, float]]) -> None:
    parts = []
    plots = {}
    for task, mark in marks.items():
        of_task = runs[runs["task"] == task]
        by_method = {m: of_task[of_task["method"] == m] for m in METHODS}
        by_method = {m: own for m, own in by_method.items() if len(own)}
        plots[f"regret-{task}"] = regret_figure(by_method, mark).to_json()
        rows = table(by_method, mark)
        parts.append({"task": task, "rows": rows, **mark})
        print(pd.DataFrame(rows).to_string(index=False))
    folders = [Path(__file__).parent, Path(raycae.__file__).parent]
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(folders), autoescape=True, undefined=jinja2.StrictUndefined
    )
    page = environment.get_template("race.html.j2").render(
        parts=[
            part | {"mark": part["table's best"], "second": part["best of random"]}
            for part in parts
        ],
        plots=plots,
        plotly=get_plotlyjs(),
        workers=WORKERS,
    )
    write_whole(RECORDED / "race" / "race.html", page.encode())


def table(by_method: dict[str, pd.DataFrame], mark: dict[str, float]) -> list[dict[str, str]]:
    rows = []
    for method, own in by_method.items():
        row = {"method": method, "seeds": str(own["seed"].nunique())}
        for name in ("table's best", "best of random"):
            hits = reached(own, mark[name])
            shown = "{:.0f} ({:.0f} to {:.0f})".format(*interval(resampled(hits)))
            row[name] = f"{shown.replace('inf', '∞')}, {np.isfinite(hits).mean():.0%}"
            random = np.array([np.inf])
            if RANDOM in by_method:
                random = resampled(reached(by_method[RANDOM], mark[name]))
            if np.isfinite(random).all():
                ratio = "{:.2f} ({:.2f} to {:.2f})".format(*interval(resampled(hits) / random))
                row[f"{name}, of random's"] = ratio.replace("inf", "∞")
        for epochs in (100, 200, EPOCHS):
            regrets = regret(errors_at(own, [epochs]), mark)[:, 0]
            row[f"regret at {epochs}"] = "{:.2f} ({:.2f} to {:.2f})".format(
                *interval(resampled(regrets))
            )
        row["trials"] = f"{own.groupby('seed')['trials'].max().mean():.0f}"
        rows.append(row)
    return rows


def regret(errors: Any, mark: dict[str, float]) -> Any:
    """0 at the best of the table, 1 at the middle of all random configurations, by logarithms."""
    return np.log(errors / mark["best"]) / np.log(mark["median"] / mark["best"])


def regret_figure(by_method: dict[str, pd.DataFrame], mark: dict[str, float]) -> Any:
    figure = canvas.figure("epochs spent", "normalised regret, median over seeds")
    epochs = np.unique(np.geomspace(4, EPOCHS, 60).astype(int))
    colours = [canvas.GREY, "#b5b9be", canvas.VIOLET, canvas.ORANGE, canvas.BLUE]
    colours += ["#2f8f4e", "#a87b00", "#c4392b"]
    for colour, (method, own) in zip(colours, by_method.items(), strict=False):
        regrets = regret(errors_at(own, epochs), mark)
        middle, low, high = np.array([interval(resampled(at)) for at in regrets.T]).T
        figure.add_scatter(
            x=[*epochs, *epochs[::-1]],
            y=[*high, *low[::-1]],
            fill="toself",
            line={"width": 0},
            fillcolor=colour,
            opacity=0.15,
            hoverinfo="skip",
            showlegend=False,
        )
        figure.add_scatter(
            x=epochs.tolist(), y=middle.tolist(), name=method, line={"color": colour, "width": 2}
        )
    figure.update_xaxes(type="log")
    return figure


if __name__ == "__main__":
    main(*sys.argv[1:])
