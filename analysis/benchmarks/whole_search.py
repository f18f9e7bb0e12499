"""Compare whole searches: raycae, and Ray's `OptunaSearch` with a function trainable.

    python analysis/benchmarks/whole_search.py [--data SOURCE] [--images 2000] [--trials 20]
        [--cache shared] [--load 0]

Each side runs twenty one-epoch trials of the base model's family (channels, latent channels,
learning rate; batch 16) in a separate process, timed from its start to its end. The stock side
follows the tutorials; it reads decoded images from a file. raycae's side is the command itself,
with all its other work: ledger, models, test errors, PCA, report. The sides alternate. The medians
and the ratio are printed last.

By default the runs of one side share a new cache folder, as searches of one person do, and the
first run of each side is not counted. `--cache empty` gives each run a new one. `--load N` starts N
processes that compute all the time, because searches are also run beside other work.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

SPACE = """
# Which of these is best? The same space as the stock side's.
task: reconstruct
budget: {trials: 20, epochs: 1}
params:
  channels: {type: int, low: 4, high: 16, per: stage}
  latent_channels: {type: int, low: 4, high: 32}
  lr: {type: float, low: 1.0e-4, high: 1.0e-2, log: true}
"""

STOCK = """
import sys
import numpy as np
import torch
from PIL import Image
from ray import tune
from ray.tune.search.optuna import OptunaSearch
from torch import nn
from torch.utils.data import DataLoader, Dataset
from torchvision.transforms import ToTensor

FILE, TRIALS = sys.argv[1], int(sys.argv[2])


class Pictures(Dataset):
    def __init__(self, images):
        self.images, self.transform = images, ToTensor()

    def __len__(self):
        return len(self.images)

    def __getitem__(self, index):
        return self.transform(Image.fromarray(self.images[index]))


class Autoencoder(nn.Module):
    def __init__(self, a, b, z):
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(3, a, 3, padding=1), nn.LeakyReLU(), nn.MaxPool2d(2),
            nn.Conv2d(a, b, 3, padding=1), nn.LeakyReLU(), nn.MaxPool2d(2),
            nn.Conv2d(b, z, 3, padding=1), nn.LeakyReLU(),
            nn.Upsample(scale_factor=2), nn.Conv2d(z, b, 3, padding=1), nn.LeakyReLU(),
            nn.Upsample(scale_factor=2), nn.Conv2d(b, 3, 3, padding=1), nn.Sigmoid(),
        )

    def forward(self, x):
        return self.layers(x)


def train(config):
    images = np.load(FILE)
    val = len(images) // 8
    trainset, valset = Pictures(images[val:]), Pictures(images[:val])
    trainloader = DataLoader(trainset, batch_size=16, shuffle=True, num_workers=2)
    valloader = DataLoader(valset, batch_size=16, num_workers=2)
    model = Autoencoder(config["channels_1"], config["channels_2"], config["latent_channels"])
    optimizer = torch.optim.Adam(model.parameters(), lr=config["lr"])
    for x in trainloader:
        optimizer.zero_grad()
        loss = nn.functional.mse_loss(model(x), x)
        loss.backward()
        optimizer.step()
    with torch.no_grad():
        losses = [nn.functional.mse_loss(model(x), x).item() for x in valloader]
    tune.report({"val_mse": sum(losses) / len(losses)})


tuner = tune.Tuner(
    train,
    param_space={
        "channels_1": tune.randint(4, 17),
        "channels_2": tune.randint(4, 17),
        "latent_channels": tune.randint(4, 33),
        "lr": tune.loguniform(1e-4, 1e-2),
    },
    tune_config=tune.TuneConfig(
        search_alg=OptunaSearch(), metric="val_mse", mode="min", num_samples=TRIALS
    ),
    run_config=tune.RunConfig(storage_path=sys.argv[3], verbose=0),
)
grid = tuner.fit()
assert len(grid) == TRIALS and not grid.errors
print("best", grid.get_best_result().metrics["val_mse"])
"""


def stock(images: Path, trials: int, scratch: Path) -> list[str]:
    script = scratch / "stock.py"
    script.write_text(STOCK)
    return [sys.executable, str(script), str(images), str(trials), str(scratch)]


def ours(source: str, images: int, trials: int, scratch: Path) -> list[str]:
    space = scratch / "bench.yaml"
    space.write_text(SPACE)
    return [
        *(sys.executable, "-m", "raycae", "search", "--space", str(space), "--data", source),
        *("--trials", str(trials), "--epochs", "1", "--limit", str(images)),
        *("--scheduler", "none", "--results", str(scratch)),
    ]


def make_cache(folder: Path, downloads: Path) -> Path:
    """Make a cache folder that contains only downloads.

    Args:
        folder: The new folder, or one that this function has made.
        downloads: The folder of the downloads.
    """
    folder.mkdir(exist_ok=True)
    for path in downloads.glob("cifar-10*"):
        if not (folder / path.name).exists():
            (folder / path.name).symlink_to(path)
    return folder


@contextmanager
def run_busy(n: int) -> Iterator[None]:
    """Run `n` processes that compute all the time.

    Args:
        n: Number of processes.
    """
    busy = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(n)]
    try:
        yield
    finally:
        for process in busy:
            process.kill()
            process.wait()


def main() -> None:
    from raycae import data
    from raycae.provenance import collect_provenance, describe_hardware

    parser = argparse.ArgumentParser()
    parser.add_argument("--data", default="photos")
    parser.add_argument("--images", type=int, default=2000)
    parser.add_argument("--trials", type=int, default=20)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--cache", choices=("shared", "empty"), default="shared")
    parser.add_argument("--load", type=int, default=0, help="busy processes during the searches")
    arguments = parser.parse_args()
    source = arguments.data
    if source not in data.NAMED_SOURCES:
        source = str(Path(source).resolve())

    downloads = data.cache_folder().absolute()
    machine, versions = describe_hardware(), collect_provenance()["versions"]
    print(f"{machine['cpu']}, {machine['n_cpus']} cores; {versions}")
    print(
        f"{source}: {arguments.trials} trials of one epoch, {arguments.images:,} images, cache "
        f"{arguments.cache}, {arguments.load} busy processes"
    )
    seconds: dict[str, list[float]] = {"stock": [], "raycae": []}
    is_shared = arguments.cache == "shared"
    with tempfile.TemporaryDirectory() as caches, run_busy(arguments.load):
        os.environ["RAYCAE_CACHE"] = str(make_cache(Path(caches, "own"), downloads))
        loaded = data.load(source, limit=arguments.images)
        decoded = np.concatenate([loaded.val, loaded.train])
        for repeat in range(arguments.repeats + is_shared):
            for name in seconds:
                cache = Path(caches, name if is_shared else f"{name}{repeat}")
                with tempfile.TemporaryDirectory() as folder:
                    scratch = Path(folder)
                    np.save(scratch / "images.npy", decoded)
                    commands = {
                        "stock": stock(scratch / "images.npy", arguments.trials, scratch),
                        "raycae": ours(source, arguments.images, arguments.trials, scratch),
                    }
                    environment = {
                        **os.environ,
                        "RAY_USAGE_STATS_ENABLED": "0",
                        "RAYCAE_CACHE": str(make_cache(cache, downloads)),
                    }
                    begun = time.perf_counter()
                    done = subprocess.run(
                        commands[name],
                        check=False,
                        stdout=subprocess.DEVNULL,
                        stderr=subprocess.PIPE,
                        text=True,
                        cwd=scratch,
                        env=environment,
                    )
                    wall_s = time.perf_counter() - begun
                    if done.returncode:
                        raise SystemExit(f"{name}: the search failed\n{done.stderr[-2000:]}")
                is_counted = repeat or not is_shared
                if is_counted:
                    seconds[name].append(wall_s)
                note = "" if is_counted else ", not counted"
                load = os.getloadavg()[0]
                print(f"  {name:6} {wall_s:6.1f} s (load {load:.1f}{note})", flush=True)
    medians = {name: statistics.median(values) for name, values in seconds.items()}
    print(f"stock {medians['stock']:.1f} s, raycae {medians['raycae']:.1f} s (medians)")
    print(f"stock / raycae: {medians['stock'] / medians['raycae']:.2f}")


if __name__ == "__main__":
    main()
