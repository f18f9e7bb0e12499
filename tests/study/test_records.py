"""The rows that `Records` folds from the events of a study."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

from hypothesis import example, given
from hypothesis import strategies as st

from raycae.study.records import Records

Epoch = tuple[int, str, float]
ERRORS = st.sampled_from(["0.1", "0.2", "0.3", "nan"])
TIMES = st.floats(0, 1e300) | st.sampled_from([math.inf, math.nan, 5e-324])
EPOCHS = st.lists(st.tuples(st.integers(1, 8), ERRORS, TIMES), min_size=1, max_size=20)


def make_event(kind: str, **fields: Any) -> dict[str, Any]:
    return {"event": kind, "trial_number": 0, "attempt": 1, **fields}


def make_records() -> Records:
    records = Records(has_architecture=False)
    records.apply(make_event("created", point=None, params="{}", config="{}", seed=0))
    return records


def apply_epoch(records: Records, epoch: int, error: str, seconds: float) -> None:
    measured = {"val_mse": float(error), "train_mse": seconds, "val_psnr_db": 1.0}
    records.apply(make_event("epoch", epoch=epoch, epoch_time_s=seconds, **measured))


@given(EPOCHS)
@example([(2, "nan", 1.0), (1, "0.2", 0.1), (2, "0.3", 1e-20), (1, "nan", 0.2)])
def test_rows_are_those_of_the_whole_curve(epochs: list[Epoch]) -> None:
    """Oracle: the best epoch and the sum over all epochs after each event, to the bit, for epochs
    in any order and repeated ones."""
    records = make_records()
    row, curve = records.trials[0], records.epochs[0]
    for epoch in epochs:
        apply_epoch(records, *epoch)
        best = min(curve.values(), key=lambda e: (e["val_mse"], e["epoch"]))
        wall_time_s = math.fsum(e["epoch_time_s"] for e in curve.values())
        expected = (best["epoch"], best["val_mse"], best["train_mse"], len(curve), wall_time_s)
        expected = (*expected, wall_time_s / len(curve))
        names = ("best_epoch", "val_mse", "train_mse", "epochs_run", "wall_time_s", "epoch_time_s")
        assert repr(tuple(row[name] for name in names)) == repr(expected)


class CountedCurve(dict[int, dict[str, Any]]):
    """A curve that counts how often all of its epochs are visited."""

    n_visits = 0

    def values(self) -> Any:
        self.n_visits += 1
        return super().values()

    def __iter__(self) -> Iterator[int]:
        self.n_visits += 1
        return super().__iter__()


def test_an_epoch_does_not_visit_the_whole_curve() -> None:
    """Oracle: a count, for a trial that is trained twice, as after the loss of its checkpoints.
    The time of a replay would be quadratic in the number of epochs."""
    records = make_records()
    curve = records.epochs[0] = CountedCurve()
    for epoch in [*range(1, 101), *range(1, 101)]:
        apply_epoch(records, epoch, str(1 / epoch), 0.1)
    assert (len(curve), curve.n_visits) == (100, 0)
    apply_epoch(records, 100, "1.0", 0.1)
    assert (records.trials[0]["best_epoch"], curve.n_visits) == (99, 1)
