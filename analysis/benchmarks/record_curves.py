"""Record learning curves for `raycae simulate` and the race: random configurations of ex2 and ex3.

    python analysis/benchmarks/record_curves.py DATA RESULTS [TRIALS] [SEED]

In RESULTS it runs, or resumes, the studies `curves-ex2` and `curves-ex3`: TRIALS (150)
configurations each, drawn at random below 10 million FLOPs an image, nine epochs on 2,778 images of
DATA (2,431 for training), none stopped early. Then `curves-ex2-seeds` and `curves-ex3-seeds`:
twelve of those, evenly from the best to the worst, with three seeds each, to show how much a seed
changes a curve. A SEED other than 0 gives other configurations, images and weights, in studies
such as `curves-ex2-1`. At the end the script prints the cost. It recorded the shipped tables in
`analysis/recorded/curves`; `ex2-second` there is `curves-ex2-1`.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import yaml

from raycae.config import Config
from raycae.execution.runner import run_study
from raycae.execution.search_request import SearchRequest
from raycae.space import loading
from raycae.storage.paths import resolve_place
from raycae.study import tables
from raycae.study.plan import Plan, holds_study

EPOCHS, LIMIT, MOST_FLOPS = 9, 2778, 10_000_000
REPEATED, SEEDS = 12, 3
RESOURCES = {"cpus": 1, "gpus": 0, "concurrent": None}


def main(data: str, folder: str, trials: int = 150, seed: int = 0) -> None:
    for name in ("ex2", "ex3"):
        study = Path(folder) / (f"curves-{name}-{seed}" if seed else f"curves-{name}")
        command = [sys.executable, "-m", "raycae", "search", "--results", folder]
        if (study / "study.json").exists():
            command += ["--resume", "--study", study.name, "--trials", str(trials)]
        else:
            command += ["--space", name, "--study", study.name, "--data", data]
            command += ["--sampler", "random", "--scheduler", "none", "--epochs", str(EPOCHS)]
            command += ["--limit", str(LIMIT), "--max", f"flops={MOST_FLOPS}"]
            command += ["--trials", str(trials), "--address", "local", "--seed", str(seed)]
        subprocess.run(command, check=True)
        repeat(study, data, seed)
        for part in (study, study.with_name(f"{study.name}-seeds")):
            table = tables.read_trials(resolve_place(part))
            hours = table["wall_time_s"].sum() / 3600
            print(f"{part.name}: {len(table)} trials, {hours:.2f} hours of one core")


def repeat(study: Path, data: str, seed: int) -> None:
    """Run, or resume, some of the study's configurations with several seeds."""
    folder = resolve_place(study.with_name(f"{study.name}-seeds"))
    table = tables.read_trials(resolve_place(study))
    ranked = table[table["state"] == "COMPLETE"].sort_values("val_mse")
    chosen = ranked.iloc[[round(i * (len(ranked) - 1) / (REPEATED - 1)) for i in range(REPEATED)]]
    points = {}
    for number, text in zip(chosen["trial_number"], chosen["config"], strict=True):
        settings = Config.model_validate_json(text).model_dump(mode="json")
        task = settings.pop("task")
        settings.pop("image_size")  # the space's
        points[f"trial-{number}"] = settings
    content = yaml.safe_dump({"task": task, "points": points}, sort_keys=False)
    the_space = loading.parse_space(content, name=folder.name)
    plan = Plan(
        study=folder.name,
        space=the_space.name,
        data=data,
        trials=REPEATED * SEEDS,
        epochs=EPOCHS,
        limit=LIMIT,
        seed=seed,
        sampler="points",
        scheduler="none",
        n_seeds=SEEDS,
    )
    resume = holds_study(folder)
    run_study(SearchRequest(folder, plan, the_space, resume, RESOURCES, address="local"))


if __name__ == "__main__":
    main(str(Path(sys.argv[1]).resolve()), sys.argv[2], *map(int, sys.argv[3:]))
