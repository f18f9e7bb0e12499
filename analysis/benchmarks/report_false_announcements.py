"""Measure how often the report highlights a finding, in noise and where there is a real effect.

Every page is a synthetic study (`tests/support/noise.py`): its errors are noise, the same for every
configuration. For each sentence that can name a winner among many: on how many of PAGES pages it
names one. `any` is a page with at least one such sentence. By design each sentence does so on at
most 0.05 / 6 of such pages, and a page with at most 0.05. Studies have 40, 60 or 100 configurations
in turn; the noise is normal, heavy-tailed, skewed or rounded in turn; a quarter of the trials or so
is stopped early and a tenth fails. The sampler is random, or Optuna's TPE, which learns from
the noise and proposes more configurations near lucky ones.

The last rows have one strong effect (the error is halved by one value), and show the power: on how
many pages the sentences speak.

    python analysis/benchmarks/report_false_announcements.py [PAGES [CHECKOUT]]

With CHECKOUT, the root of another checkout of raycae, that version's sentences are counted.
"""

from __future__ import annotations

import sys
from collections import Counter
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "tests"))
sys.path.insert(0, sys.argv[2] if len(sys.argv) > 2 else str(Path(__file__).resolve().parents[2]))

from noise import NOISE, SAID, SPACES, announced, made_page

SIZES = (40, 60, 100)
EFFECTS: dict[str, dict[tuple[str, Any], float]] = {
    "few values": {("kernel", 5): 0.5},
    "ranges": {("optimizer", "adam"): 0.5},
}


def count(pages: int, kind: str, sampler: str, seeds: int, power: bool) -> Counter[str]:
    """Count the pages on which each sentence highlights something."""
    found: Counter[str] = Counter()
    for seed in range(pages):
        page = made_page(
            seed,
            kind=kind,
            n=SIZES[seed % len(SIZES)] // seeds,
            sampler=sampler,
            noise=NOISE[seed % len(NOISE)] if not power else "normal",
            seeds=seeds,
            factors=EFFECTS[kind] if power else None,
        )
        said = announced(*page)
        found.update([*said, *(["any"] if said else [])])
    return found


def main(pages: int = 200) -> None:
    names = [*SAID, "any"]
    print(f"{pages} pages a row; share of pages, in %")
    print(" | ".join(["space", "sampler", "seeds", "effect", *names]))
    for power in (False, True):
        for kind in SPACES:
            for sampler, seeds in (("tpe", 1), ("random", 1), ("random", 3)):
                found = count(pages, kind, sampler, seeds, power)
                shares = [f"{100 * found[name] / pages:.1f}" for name in names]
                effect = "strong" if power else "none"
                print(" | ".join([kind, sampler, str(seeds), effect, *shares]), flush=True)


if __name__ == "__main__":
    main(*map(int, sys.argv[1:2]))
