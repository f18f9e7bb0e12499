"""One attempt at a trial."""

from __future__ import annotations

from dataclasses import dataclass

from raycae.config import Config


@dataclass(frozen=True)
class Attempt:
    """An attempt at a trial: what to train, from the seed of its weights or from the newest of
    `checkpoints` that is whole, `micro_batch` images at a time (None: the whole minibatch)."""

    number: int
    attempt: int
    config: Config
    seed: int
    micro_batch: int | None = None
    checkpoints: tuple[tuple[int, int, str], ...] = ()
    """(epoch, attempt, digest), the newest first."""
