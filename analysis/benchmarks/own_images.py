"""Measure what the tutorial's search finds on a small folder of images.

    python analysis/benchmarks/own_images.py DATA [FOLDER]

1,500 training images of DATA (any source of `--data`) are saved as PNG files and searched with
`raycae search FOLDER`. It prints the error of each trial on the Pareto front, and its error
over that of the best PCA of no larger size, whole image or blocks.
"""

from __future__ import annotations

import sys
import tempfile
import time
from pathlib import Path

import pandas as pd
from PIL import Image

import raycae
from raycae import data

N_IMAGES = 1500
"""Number of images in the folder."""


def main(source: str, folder: Path) -> None:
    """Save the images, search, and print the table.

    Args:
        source: Where the images come from.
        folder: Where they and the study are written.
    """
    images = folder / "pictures"
    images.mkdir(parents=True)
    loaded = data.load(source, image_size=32, limit=2000, seed=0)
    for number, pixels in enumerate(loaded.train[:N_IMAGES]):
        Image.fromarray(pixels).save(images / f"{number:04d}.png")
    start_s = time.monotonic()
    study = raycae.run_search("folder", images, study="mine", results=folder / "results")
    print(f"{time.monotonic() - start_s:.0f} s")
    baselines = pd.read_parquet(Path(study.folder) / "baselines.parquet")
    pca = baselines[baselines["baseline"].str.startswith("pca")]
    for row in study.frontier().itertuples():
        best = pca[pca["latent_size"] <= row.latent_size].sort_values("val_mse").iloc[0]
        print(
            f"{row.latent_size:5}: val_mse {row.val_mse:.6f}, {row.val_mse / best['val_mse']:.3f} "
            f"of {best['baseline']}; test_mse {row.test_mse:.6f}, "
            f"{row.test_mse / best['test_mse']:.3f}"
        )


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2] if sys.argv[2:] else tempfile.mkdtemp()))
