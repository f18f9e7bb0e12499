"""Measure the time and memory of loading many images: first start, second start, another checkout.

    python analysis/benchmarks/image_loading.py DATA [--images N ...] [--against CHECKOUT] ...

JPEG files of 64 x 64 pixels (quality 90) are made from the images of DATA, a source of `--data`:
each is enlarged, cut at a random place and mirrored, so that no two are equal. Every start is a
process of its own that calls `raycae.data.load`. It prints the wall and CPU seconds of the call,
and the peak of its memory (VmHWM of /proc) less that before the call, over the size of the pixels.
Anonymous memory (the most RssAnon, sampled 20 times a second) is what the system cannot drop.

The starts of the checkouts alternate. "first" has an empty cache folder, "second" that of the first
start; the image files are in the page cache. The other checkout is one without a cache; its starts
are all alike, so it starts once. Fingerprints must agree. Linux only.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
from PIL import Image

HERE = Path(__file__).resolve().parents[2]
SIZE = 64
"""Side of the images in pixels."""

START = f"""
import json, resource, sys, threading, time
from raycae import data

def read(key):
    for line in open("/proc/self/status"):
        if line.startswith(key + ":"):
            return int(line.split()[1]) * 1024

most, is_over = [0], threading.Event()
def watch():
    while not is_over.wait(0.05):
        most[0] = max(most[0], read("RssAnon"))

before, before_anonymous = read("VmHWM"), read("RssAnon")
threading.Thread(target=watch, daemon=True).start()
wall, cpu = time.perf_counter(), time.process_time()
images = data.load(sys.argv[1], image_size={SIZE})
wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
is_over.set()
n_bytes = images.train.nbytes + images.val.nbytes + images.test.nbytes
print(json.dumps({{
    "wall": wall, "cpu": cpu, "bytes": n_bytes, "fingerprint": images.fingerprint,
    "peak": (read("VmHWM") - before) / n_bytes,
    "anonymous": (most[0] - before_anonymous) / n_bytes,
}}))
"""


def make_images(source: str, folder: Path, count: int) -> None:
    """Write JPEG files, 1,000 in a folder.

    Args:
        source: Where the images come from.
        folder: The new folder.
        count: Number of files.
    """
    sys.path.insert(0, str(HERE))
    from raycae import data

    images = data.load(source, image_size=32, seed=0)
    rng = np.random.default_rng(0)
    for number in range(count):
        if number % 1000 == 0:
            part = folder / f"{number // 1000:04}"
            part.mkdir(parents=True)
        pixels = images.train[number % len(images.train)]
        image = Image.fromarray(pixels).resize((80, 80), Image.Resampling.BICUBIC)
        left, top = rng.integers(0, 80 - SIZE, 2)
        image = image.crop((left, top, left + SIZE, top + SIZE))
        if rng.integers(2):
            image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        image.save(part / f"{number:06}.jpg", quality=90)


def start(checkout: Path, folder: Path, cache: Path) -> dict[str, float]:
    """Load the images in a new process and return its measurements."""
    environment = {**os.environ, "PYTHONPATH": str(checkout), "RAYCAE_CACHE": str(cache)}
    command = [sys.executable, "-c", START, str(folder)]
    done = subprocess.run(
        command, env=environment, cwd=cache.parent, stdout=subprocess.PIPE, check=True
    )
    found: dict[str, float] = json.loads(done.stdout)
    return found


def main() -> None:
    """Measure and print the table and the ratios."""
    sys.path.insert(0, str(HERE))
    from raycae.provenance import collect_provenance, describe_hardware

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("source", metavar="DATA")
    parser.add_argument("--images", type=int, nargs="+", default=[50_000])
    parser.add_argument("--against", type=Path, help="another checkout")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--folder", type=Path, help="keep the JPEG files here, for the next run")
    arguments = parser.parse_args()
    checkouts = {"this": HERE}
    if arguments.against:
        checkouts["other"] = arguments.against.resolve()
    machine, versions = describe_hardware(), collect_provenance()["versions"]
    print(f"{machine['cpu']}, {machine['n_cpus']} cores; {versions}")
    for count in arguments.images:
        with tempfile.TemporaryDirectory(prefix="raycae-images-") as scratch:
            folder = Path(arguments.folder or scratch, f"images-{count}")
            if not folder.exists():
                make_images(arguments.source, folder, count)
            runs: dict[tuple[str, str], list[dict[str, float]]] = {}
            for repeat in range(arguments.repeats):
                for name, checkout in checkouts.items():
                    cache = Path(scratch, f"cache-{name}-{repeat}")
                    for kind in ("first", "second") if name == "this" else ("first",):
                        found = start(checkout, folder, cache)
                        runs.setdefault((name, kind), []).append(found)
                        load = os.getloadavg()[0]
                        print(f"  {name} {kind}: {found} (load {load:.1f})", flush=True)
                    subprocess.run(["rm", "-rf", str(cache)], check=True)
        print_table(count, runs)


def print_table(count: int, runs: dict[tuple[str, str], list[dict[str, float]]]) -> None:
    """Print medians with ranges, and ratios of medians.

    Args:
        count: Number of image files.
        runs: The measurements, by checkout and start.
    """
    assert len({found["fingerprint"] for rows in runs.values() for found in rows}) == 1
    size = next(iter(runs.values()))[0]["bytes"] / 1e9
    print(f"{count:,} files, {size:.2f} GB decoded")
    middle = {}
    for key, rows in runs.items():
        texts = []
        for value in ("wall", "cpu", "peak", "anonymous"):
            values = sorted(found[value] for found in rows)
            middle[*key, value] = statistics.median(values)
            texts.append(f"{value} {middle[*key, value]:.2f} ({values[0]:.2f}-{values[-1]:.2f})")
        print(f"{' '.join(key):12} {', '.join(texts)}, n = {len(rows)}")
    ratio = middle["this", "first", "cpu"] / middle["this", "second", "cpu"]
    print(f"CPU of the first start / of the second: {ratio:.2f}")
    if ("other", "first") in runs:
        for kind in ("first", "second"):
            ratio = middle["other", "first", "cpu"] / middle["this", kind, "cpu"]
            print(f"other / this, CPU of the {kind} start: {ratio:.2f}")


if __name__ == "__main__":
    main()
