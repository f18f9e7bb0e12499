"""Compare whole searches: raycae, and Ray's `OptunaSearch` with a function trainable.

    python analysis/benchmarks/whole_search.py [--data SOURCE] [--images 2000] [--trials 20]

Each side runs twenty one-epoch trials of the base model's family (channels, latent channels,
learning rate; batch 16) in a separate process, timed from its start to its end. The stock side
follows the tutorials; it reads decoded images from a file. raycae's side is the command itself,
with all its other work: ledger, models, test errors, PCA, report. The sides alternate. The medians
and the ratio are printed last.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
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


def main() -> None:
    from raycae import data
    from raycae.provenance import collect_provenance, describe_hardware

    parser = argparse.ArgumentParser()
    parser.add_argument("--data", default="photos")
    parser.add_argument("--images", type=int, default=2000)
    parser.add_argument("--trials", type=int, default=20)
    parser.add_argument("--repeats", type=int, default=3)
    arguments = parser.parse_args()
    source = arguments.data
    if source not in data.NAMED_SOURCES:
        source = str(Path(source).resolve())

    loaded = data.load(source, limit=arguments.images)
    machine, versions = describe_hardware(), collect_provenance()["versions"]
    print(f"{machine['cpu']}, {machine['n_cpus']} cores; {versions}")
    print(f"{source}: {arguments.trials} trials of one epoch, {arguments.images:,} images")
    seconds: dict[str, list[float]] = {"stock": [], "raycae": []}
    for _ in range(arguments.repeats):
        with tempfile.TemporaryDirectory() as folder:
            scratch = Path(folder)
            np.save(scratch / "images.npy", np.concatenate([loaded.val, loaded.train]))
            commands = {
                "stock": stock(scratch / "images.npy", arguments.trials, scratch),
                "raycae": ours(source, arguments.images, arguments.trials, scratch),
            }
            for name, command in commands.items():
                begun = time.perf_counter()
                subprocess.run(
                    command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
                    cwd=scratch, env={**os.environ, "RAY_USAGE_STATS_ENABLED": "0"},
                )  # fmt: skip
                seconds[name].append(time.perf_counter() - begun)
                print(f"  {name:6} {seconds[name][-1]:6.1f} s", flush=True)
    medians = {name: statistics.median(values) for name, values in seconds.items()}
    print(f"stock {medians['stock']:.1f} s, raycae {medians['raycae']:.1f} s (medians)")
    print(f"stock / raycae: {medians['stock'] / medians['raycae']:.2f}")


if __name__ == "__main__":
    main()
