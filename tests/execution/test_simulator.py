"""Recorded curves, their surrogate, and searches over them in simulated time."""

from __future__ import annotations

import math
import shutil
from collections.abc import Mapping
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import TINY_SPACE, Run, begin, data_facts, measured
from hypothesis import given, settings
from hypothesis import strategies as st

from raycae.config import Config, resolve
from raycae.errors import InputError
from raycae.execution import recorded_curves
from raycae.execution.recorded_curves import Recorded
from raycae.execution.simulator import Epoch, simulate_search
from raycae.execution.surrogate import Curve
from raycae.optimization.early_stopping import ASHA, SCHEDULERS, NoStopping, make_rule
from raycae.optimization.proposer import Proposal, Proposer
from raycae.optimization.samplers import SAMPLERS
from raycae.space import loading
from raycae.space.space import Space
from raycae.study.attempt import EpochReport, FailureReport
from raycae.study.opening import create_study
from raycae.study.plan import Plan
from raycae.study.records import COMPLETE, FAIL, PRUNED, RUNNING

EPOCHS = 3


class Listed:
    """Proposes what it is given, and keeps what it is told."""

    def __init__(self, *configs: Config) -> None:
        self.configs = configs
        self.told: list[tuple[int, str, float | None]] = []

    def propose(self, number: int) -> Proposal | None:
        return Proposal(self.configs[number], {}, 0) if number < len(self.configs) else None

    def report(self, number: int, epoch: int, value: float) -> None:
        pass

    def tell(self, number: int, state: str, value: float | None) -> None:
        self.told.append((number, state, value))


def of(lr: float) -> Config:
    return resolve({"lr": lr})


def world(**curves: Curve) -> tuple[Recorded, dict[str, Config]]:
    """A world of these curves, and its configurations by name."""
    configs = {name: of(0.001 * (i + 1)) for i, name in enumerate(curves)}
    table: Mapping[Config, Mapping[int, Curve]] = {
        configs[name]: {0: curve} for name, curve in curves.items()
    }
    return Recorded(loading.parse_space(TINY_SPACE, name="tiny"), EPOCHS, table), configs


def begin_study(folder: Path, the_space: Space, trials: int = 40) -> None:
    """A study whose errors fall from epoch to epoch, and the less the farther the learning rate
    is from 0.003; trial 1 diverges in its second epoch."""
    plan = Plan(folder.name, "tiny", "photos", trials, EPOCHS, None, 0, "random", "none")
    study = create_study(folder, plan, the_space, data_facts())
    for _ in range(trials):
        issue = begin(study)
        for epoch in range(1, EPOCHS + 1):
            if issue.number == 1 and epoch == 2:
                study.fail_attempt(FailureReport(1, 1, "diverged: training loss is nan in epoch 2"))
                break
            study.report_epoch(
                EpochReport(
                    issue.number, issue.attempt, **measured(epoch, made_up(issue.config, epoch))
                )
            )
    study.close()


def made_up(config: Config, epoch: int) -> float:
    return 0.01 * math.exp(abs(math.log(config.lr / 0.003))) / epoch


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of a study of forty trials; to be read alone."""
    made = tmp_path_factory.mktemp("recorded") / "tiny"
    begin_study(made, loading.parse_space(TINY_SPACE, name="tiny"))
    return made


def test_noise_is_drawn_as_in_recorded_races() -> None:
    """Oracle: what the version drew that recorded the races, which had fewer settings."""
    rounded = resolve({"task": "colourise", "lr": 0.01, "precision": "bf16", "flips": "both"})
    assert recorded_curves.draw_number(resolve({}), 3) == 8146923822635767844
    assert recorded_curves.draw_number(rounded, 0) == 8364893017726493061


def test_two_workers_by_hand() -> None:
    """Oracle: by hand. a: 1 s an epoch, b: 2 s, c: 1 s and diverges in its second epoch. Worker one
    runs a until 3 s and then c, worker two runs b; at 2 and at 4 s a, c end an epoch together with
    b, and the earlier trial comes first."""
    table, configs = world(
        a=Curve((0.5, 0.4, 0.45), 1.0),
        b=Curve((0.3, 0.2, 0.1), 2.0),
        c=Curve((0.7,), 1.0, failed=True),
    )
    searcher = Listed(*configs.values())
    seen = simulate_search(searcher, NoStopping(), table, trials=9, epochs=EPOCHS, workers=2)
    assert [(e.at_s, e.number, e.epoch, e.error, e.state) for e in seen] == [
        (1.0, 0, 1, 0.5, RUNNING),
        (2.0, 0, 2, 0.4, RUNNING),
        (2.0, 1, 1, 0.3, RUNNING),
        (3.0, 0, 3, 0.45, COMPLETE),
        (4.0, 1, 2, 0.2, RUNNING),
        (4.0, 2, 1, 0.7, RUNNING),
        (5.0, 2, 2, None, FAIL),
        (6.0, 1, 3, 0.1, COMPLETE),
    ]
    assert searcher.told == [(0, COMPLETE, 0.4), (2, FAIL, 0.7), (1, COMPLETE, 0.1)]


def test_the_rule_stops() -> None:
    """Oracle: ASHA by hand, one worker: the first is the best of all and runs its three epochs, the
    others come to the first rung as worse ones. Their least error so far is what the sampler is
    told."""
    table, configs = world(
        a=Curve((0.3, 0.2, 0.1), 1.0),
        b=Curve((0.4, 0.2, 0.1), 1.0),
        c=Curve((0.5, 0.2, 0.1), 1.0),
    )
    searcher = Listed(*configs.values())
    seen = list(simulate_search(searcher, ASHA(EPOCHS), table, trials=3, epochs=EPOCHS, workers=1))
    assert len(seen) == 3 + 1 + 1
    assert searcher.told[1:] == [(1, PRUNED, 0.4), (2, PRUNED, 0.5)]


@settings(deadline=None)
@given(st.lists(st.floats(0.1, 9), min_size=1, max_size=12), st.integers(1, 5))
def test_workers_and_time(seconds: list[float], workers: int) -> None:
    """Oracle: invariants. Time never goes back; every epoch of every trial is there once; never are
    more trials under way than workers, nor fewer while any are left; the whole lasts at least its
    work over the workers and its longest trial."""
    curves = {f"t{i}": Curve((0.3, 0.2, 0.1), s) for i, s in enumerate(seconds)}
    table, configs = world(**curves)
    seen = list(
        simulate_search(
            Listed(*configs.values()), NoStopping(), table, trials=99, epochs=3, workers=workers
        )
    )
    assert all(a.at_s <= b.at_s for a, b in pairwise(seen))
    assert sorted((e.number, e.epoch) for e in seen) == [
        (number, epoch) for number in range(len(seconds)) for epoch in (1, 2, 3)
    ]
    began = {e.number: e.at_s - seconds[e.number] for e in seen if e.epoch == 1}
    ended = {e.number: e.at_s for e in seen if e.epoch == 3}
    for at in sorted(set(began.values())):
        under_way = sum(began[n] <= at + 1e-9 and ended[n] > at + 1e-9 for n in began)
        assert under_way == min(workers, sum(ended[n] > at + 1e-9 for n in ended))
    assert seen[-1].at_s >= max(3 * sum(seconds) / workers, 3 * max(seconds)) - 1e-9


def replayed(table: Recorded, sampler: str, scheduler: str, trials: int = 40) -> list[Epoch]:
    proposer = Proposer(table.space, sampler, seed=0)
    stopping = make_rule(scheduler, EPOCHS)
    return list(simulate_search(proposer, stopping, table, trials=trials, epochs=EPOCHS, workers=3))


def test_a_replay_is_what_was_recorded(folder: Path) -> None:
    """Oracle: the tables, read by pandas. The sampler and seed of the study propose its trials
    again, and without a surrogate their curves come out as they went in; so does the best."""
    import pandas as pd

    table = recorded_curves.read_curves([folder])
    trials, epochs = (pd.read_parquet(folder / f"{n}.parquet") for n in ("trials", "epochs"))
    seen = replayed(table, "random", "none")
    assert "surrogate" not in vars(table)
    for number, told in epochs.groupby("trial_number"):
        curve = [e.error for e in seen if e.number == number and e.error is not None]
        assert curve == told["val_mse"].tolist()
    states = {e.number: e.state for e in seen if e.state != RUNNING}
    assert states == dict(zip(trials["trial_number"], trials["state"], strict=True))
    assert min(e.error for e in seen if e.error is not None) == trials["val_mse"].min()
    assert table.least == trials["val_mse"].min()


def test_seeds_are_told_apart() -> None:
    """Oracle: two seeds of one configuration give their own curves, a third one the first's. The
    deviations by hand: log errors 0.1 above and below their mean in every epoch, so with two seeds
    they are 0.1 x sqrt(2)."""
    up, down = (Curve((0.2 * factor, 0.1 * factor), 1.0) for factor in (math.exp(0.2), 1.0))
    table = Recorded(loading.parse_space(TINY_SPACE, name="tiny"), 2, {of(0.1): {5: up, 6: down}})
    assert [table.get_curve(of(0.1), seed) for seed in (5, 6, 7)] == [up, down, up]
    (repeated,) = table.repeated
    assert repeated.lowest == pytest.approx(math.log(0.1) + 0.1)
    size = 0.1 * math.sqrt(2)
    assert repeated.deviations == pytest.approx(np.array([[size, size], [-size, -size]]))


class TestSurrogate:
    @pytest.fixture(autouse=True)
    def _there(self, monkeypatch: pytest.MonkeyPatch) -> None:
        pytest.importorskip("sklearn", reason="the surrogate is scikit-learn's")
        monkeypatch.setattr(recorded_curves, "FOLDS", 3)  # seconds

    def test_it_ranks_what_it_has_not_seen(self, folder: Path) -> None:
        """Oracle: errors that are a function of the learning rate alone are ranked; errors drawn
        from a hat cannot be."""
        table = recorded_curves.read_curves([folder])
        assert table.rank_correlation > 0.5
        draw = np.random.default_rng(0)
        hat = {
            config: {0: Curve(tuple(draw.uniform(0.1, 0.2, EPOCHS).tolist()), 1.0)}
            for config in table.curves
        }
        assert abs(Recorded(table.space, EPOCHS, hat).rank_correlation) < 0.5

    def test_noise_of_seeds(self, folder: Path) -> None:
        """Oracle: over many seeds the curves of a configuration that was not recorded deviate from
        the surrogate's by what was seen of seeds where curves end about as low, and by nothing of
        what was seen elsewhere; each about as often; the same seed gives the same curve."""
        table = recorded_curves.read_curves([folder])
        curves = dict(table.curves)
        ranked = sorted(curves, key=lambda config: min(curves[config][0].errors))
        shifts = {config: 0.01 * (1 + n) for n, config in enumerate(ranked[:3])}
        shifts |= dict.fromkeys(ranked[-3:], 1.0)
        for config, shift in shifts.items():
            up = tuple(error * math.exp(shift) for error in curves[config][0].errors)
            curves[config] = {**curves[config], 1: Curve(up, 1.0)}
        noisy = replace(table, curves=curves)
        good = of(0.00301)
        seen = [noisy.get_curve(good, seed) for seed in range(600)]
        assert seen[7] == noisy.get_curve(good, 7)
        deviations = np.log([c.errors for c in seen] / noisy.surrogate.predict_errors(good))
        assert np.ptp(deviations, axis=1) == pytest.approx(0)
        values, counts = np.unique(deviations[:, 0].round(9), return_counts=True)
        assert values == pytest.approx([0.01 * n / math.sqrt(2) for n in (-3, -2, -1, 1, 2, 3)])
        assert counts.min() > 60

    def test_what_diverges(self, folder: Path) -> None:
        """Oracle: where every recorded neighbour diverged, so does a proposal; where none did, it
        does not."""
        table = recorded_curves.read_curves([folder])
        curves: dict[Config, Any] = {
            c: {0: Curve((0.1,), 1.0, failed=True)} if c.optimizer == "sgd" else runs
            for c, runs in table.curves.items()
        }
        split = replace(table, curves=curves)
        (sgd, adam) = (resolve({"optimizer": o, "lr": 0.0031}) for o in ("sgd", "adam"))
        assert split.get_curve(sgd, 0).failed
        assert len(split.get_curve(sgd, 0).errors) < EPOCHS
        assert not split.get_curve(adam, 0).failed

    @pytest.mark.parametrize("scheduler", SCHEDULERS)
    @pytest.mark.parametrize("sampler", SAMPLERS)
    def test_every_sampler_and_rule(self, folder: Path, sampler: str, scheduler: str) -> None:
        """Oracle: the same seed gives the same search, whoever proposes and stops."""
        table = recorded_curves.read_curves([folder])
        first = replayed(table, sampler, scheduler, trials=14)
        assert first == replayed(table, sampler, scheduler, trials=14)

    def test_the_command(self, folder: Path, run: Run) -> None:
        """Oracle: what it prints of a replay is what numpy says of the table: the best, the epochs
        (forty trials of three, one of which ended in its second), trials by state; and nothing is
        written."""
        before = {path: path.stat().st_mtime_ns for path in folder.iterdir()}
        arguments = ["--sampler", "random", "--scheduler", "none", "--trials", "40"]
        code, out, err = run("simulate", folder, *arguments, "--workers", "4")
        assert (code, err) == (0, "")
        best = recorded_curves.read_curves([folder]).least
        assert f"best: {best:.5f} (trial " in out
        assert "39 COMPLETE, 1 FAIL; 119 epochs" in out
        assert "0.01 simulated hours on 4 workers" in out  # 119 s of work / 4
        assert {path: path.stat().st_mtime_ns for path in folder.iterdir()} == before


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--sampler", "cma"], "--sampler cma: unknown. Use tpe, strata, random, grid"),
        (["--sampler", "strata"], "--sampler strata searches for a Pareto front"),
        (["--scheduler", "pbt"], "--scheduler pbt: unknown. Use asha, hyperband or none"),
        (["--epochs", "4"], "--epochs 4: the curves end after epoch 3"),
        (["--workers", "0"], "'--workers'"),
        (["nobody"], "nobody: no study has this name or path"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_wrong_use(folder: Path, run: Run, arguments: list[str], message: str) -> None:
    """Oracle: one message that names the option, the value and what is allowed; exit code 2."""
    code, out, err = run("simulate", folder, "--results", folder.parent, *arguments)
    assert (code, out) == (2, "")
    assert message in err


def test_what_holds_no_curves(tmp_path: Path, tiny_space: Space, run: Run) -> None:
    """Oracle: studies without a finished trial, of too few, of another task or other epochs."""
    begin_study(tmp_path / "none", tiny_space, 0)
    begin_study(tmp_path / "few", tiny_space, 3)
    colour = loading.parse_space(TINY_SPACE.replace("reconstruct", "colourise"), name="colour")
    begin_study(tmp_path / "colour", colour, 1)
    for names, message in (
        (["none"], "no trial ran to its end, so there are no curves to replay"),
        (
            ["few"],
            "tiny: 3 recorded configurations are too few for a surrogate; it needs at least 20",
        ),
        (
            ["few", "colour"],
            "colourise at 32 pixels, 3 epochs cannot be combined with reconstruct at 32 pixels, "
            "3 epochs",
        ),
    ):
        code, out, err = run("simulate", "--results", tmp_path, *names)
        assert (code, out) == (2, "")
        assert message in err


def test_a_trial_that_diverged_at_once(folder: Path, tmp_path: Path) -> None:
    """Oracle: it has no epoch in the tables. Its curve is empty, its epoch takes as long as the
    median one of the study (1 s in all of them), and a replay of it fails in the first epoch. Other
    curves and the lowest error stay; alone it is no curve to replay."""
    import pandas as pd

    before = recorded_curves.read_curves([folder])
    changed = shutil.copytree(folder, tmp_path / "changed")
    epochs = pd.read_parquet(changed / "epochs.parquet")
    epochs[epochs["trial_number"] != 1].to_parquet(changed / "epochs.parquet")
    after = recorded_curves.read_curves([changed])
    trials = pd.read_parquet(folder / "trials.parquet").set_index("trial_number")
    config = Config.model_validate_json(trials.loc[1, "config"])
    assert [len(run.errors) for run in before.curves[config].values()] == [1]
    empty = Curve((), 1.0, failed=True)
    assert after.curves == {**before.curves, config: dict.fromkeys(before.curves[config], empty)}
    assert after.least == before.least
    (seen,) = simulate_search(Listed(config), NoStopping(), after, trials=1, epochs=3, workers=1)
    assert (seen.at_s, seen.epoch, seen.error, seen.state) == (1.0, 1, None, FAIL)

    table = pd.read_parquet(changed / "trials.parquet")
    table.loc[table["trial_number"] != 1, "state"] = "PRUNED"
    table.to_parquet(changed / "trials.parquet")
    with pytest.raises(InputError, match="no trial ran to its end"):
        recorded_curves.read_curves([changed])


def test_a_curve_of_nothing_is_refused(folder: Path, tmp_path: Path) -> None:
    """Oracle: an error of 0 has no logarithm; one message names the folder, trial and column."""
    import pandas as pd

    changed = shutil.copytree(folder, tmp_path / "changed")
    epochs = pd.read_parquet(changed / "epochs.parquet")
    epochs.loc[4, "val_mse"] = 0.0
    epochs.to_parquet(changed / "epochs.parquet")
    with pytest.raises(InputError, match="trial 2: val_mse and epoch_time_s must be above 0"):
        recorded_curves.read_curves([changed])
