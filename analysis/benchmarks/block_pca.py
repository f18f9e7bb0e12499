"""PCA of whole images against PCA of blocks of 16, 8 and 4 pixels, at equal latent sizes.

    python analysis/benchmarks/block_pca.py photos
    python analysis/benchmarks/block_pca.py DATA --limit N

DATA is a source of images as `raycae search --data` takes it. PCA of blocks has fewer weights, and
each image gives it several examples. With few images it may therefore have a lower error on other
images than PCA of whole images, though its error on the training images is higher. The search space
`demo` chooses the blocks of its linear path by these figures, on the validation images.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from raycae import data
from raycae.training.baselines import compute_linear_rows

SIZES = (64, 128, 256, 384, 512, 1024)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("data")
    parser.add_argument("--limit", type=int)
    arguments = parser.parse_args()
    source = arguments.data
    if source not in data.NAMED_SOURCES:
        source = str(Path(source).resolve())
    images = data.load(source, limit=arguments.limit)
    sets = [images.train, images.val, images.test]
    print(images.summary)
    print("block  latent      train        val       test")
    for side in (32, 16, 8, 4):
        for _, size, errors in compute_linear_rows("pca", images.train, sets, (side, side)):
            if size in SIZES:
                print(f"{side:5}  {size:6}  " + "  ".join(f"{error:.6f}" for error in errors))


if __name__ == "__main__":
    main()
