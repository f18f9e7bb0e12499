"""Searchers from other packages, driven by their own methods over recorded curves.

Each class is a `Searcher` (`execution.simulator`) with one more method, `judge(number, epoch,
error)`, which returns True if the trial should continue. Settings are the defaults of each package;
the docstrings name the exceptions. All rivals search the same space as raycae and start with its
first named point. If that point is outside of the space, they start as near as they can propose:
the base model of `ex2` has no weight decay, theirs has 1e-5 (regret 0.67 instead of 0.63 after its
last epoch; both are far above what the race calls near).

Constraints: raycae's own sampler rejects a configuration that breaks a constraint before it becomes
a trial. No rival can be given such a constraint (they are computed from the network), so a rival
proposes the configuration, receives a failed trial, and proposes again. This costs no epochs.
A failed trial counts neither as a start-up trial nor as an observation of a model
(tests/optimization/test_rivals.py): Optuna, Ray Tune and syne-tune report it as failed, SMAC
and BOHB skip it.
"""

from __future__ import annotations

import logging
import math
import random
import tempfile
import warnings
from collections.abc import Iterator
from datetime import datetime
from types import SimpleNamespace
from typing import Any

import numpy as np
import optuna
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.trial import Trial, TrialState

from raycae.config import Config
from raycae.errors import InputError
from raycae.optimization.greedy import HeldAnswers
from raycae.optimization.proposer import Proposal, Proposer
from raycae.space.space import Space


def build_allowed(space: Space, values: dict[str, Any]) -> Config | None:
    """Build the configuration with these parameter values.

    Args:
        space: The search space.
        values: A value for each parameter; values of inactive parameters are ignored.

    Returns:
        The configuration, or None if it is invalid or breaks a constraint of the space.
    """
    try:
        config = space.draw(HeldAnswers(space, values))
    except InputError:
        return None
    return config if space.check(config) is None else None


def list_starts(space: Space) -> list[dict[str, Any]]:
    """Return the parameter values of the first named point, if there is one.

    A parameter that the point does not set, or sets outside of its range, is at its middle.
    """
    return [find_middle(space) | space.params_of(point) for point in [*space.points.values()][:1]]


def find_middle(space: Space) -> dict[str, Any]:
    """Return the middle of the range of each parameter."""
    return {name: parameter.middle for name, parameter in space.parameters.items()}


class RayASHA:
    """Ray Tune's `ASHAScheduler` (an alias of `AsyncHyperBandScheduler`) with its default settings.

    Calls arrive in the order in which Tune's controller makes them.
    """

    def __init__(self, epochs: int) -> None:
        from ray.tune.schedulers import ASHAScheduler

        self.scheduler = ASHAScheduler(metric="val_mse", mode="min", max_t=epochs)
        self._results: dict[str, dict[str, Any]] = {}

    def start(self, trial_id: str) -> None:
        """Add a trial to the scheduler."""
        self.scheduler.on_trial_add(None, SimpleNamespace(trial_id=trial_id))

    def judge(self, trial_id: str, epoch: int, error: float) -> bool:
        """Report an epoch; returns True if the trial should continue."""
        result = {"training_iteration": epoch, "val_mse": error}
        self._results[trial_id] = result
        trial = SimpleNamespace(trial_id=trial_id)
        return self.scheduler.on_trial_result(None, trial, result) == "CONTINUE"

    def end(self, trial_id: str, state: str) -> dict[str, Any] | None:
        """Tell the scheduler that a trial ended.

        Returns:
            The trial's last result; None if it failed.
        """
        result = self._results.pop(trial_id, None)
        if state == "FAIL" or result is None:
            return None
        self.scheduler.on_trial_complete(None, SimpleNamespace(trial_id=trial_id), result)
        return result


class RandomRayASHA:
    """Random configurations, stopped early by Ray Tune's ASHA."""

    def __init__(self, space: Space, seed: int, epochs: int) -> None:
        self.proposer = Proposer(space, "random", seed)
        self.asha = RayASHA(epochs)

    def propose(self, number: int) -> Proposal | None:
        self.asha.start(str(number))
        return self.proposer.propose(number)

    def judge(self, number: int, epoch: int, error: float) -> bool:
        return self.asha.judge(str(number), epoch, error)

    def report(self, number: int, epoch: int, value: float) -> None:
        self.proposer.report(number, epoch, value)

    def tell(self, number: int, state: str, value: float | None) -> None:
        self.asha.end(str(number), state)
        self.proposer.tell(number, state, value)


class RayOptunaSearch:
    """Ray Tune's `OptunaSearch` and `ASHAScheduler`.

    A refused configuration is a trial that raised: Tune calls `on_trial_complete(error=True)`, and
    `OptunaSearch` tells Optuna FAIL.
    """

    def __init__(self, space: Space, seed: int, epochs: int) -> None:
        from ray.tune.search.optuna import OptunaSearch

        def define(trial: Any) -> None:
            space.draw(trial)

        self.space = space
        self.search = OptunaSearch(
            define, metric="val_mse", mode="min", seed=seed, points_to_evaluate=list_starts(space)
        )
        self.asha = RayASHA(epochs)
        self.ids: dict[int, str] = {}
        self.n_asked = 0

    @property
    def study(self) -> optuna.Study:
        return self.search._ot_study

    def propose(self, number: int) -> Proposal:
        while True:
            trial_id, self.n_asked = str(self.n_asked), self.n_asked + 1
            config = build_allowed(self.space, self.search.suggest(trial_id))
            if config is not None:
                self.ids[number] = trial_id
                self.asha.start(trial_id)
                return Proposal(config, {}, 0)
            self.search.on_trial_complete(trial_id, error=True)

    def judge(self, number: int, epoch: int, error: float) -> bool:
        trial_id = self.ids[number]
        should_continue = self.asha.judge(trial_id, epoch, error)
        if should_continue:
            result = {"training_iteration": epoch, "val_mse": error}
            self.search.on_trial_result(trial_id, result)
        return should_continue

    def report(self, number: int, epoch: int, value: float) -> None:
        pass

    def tell(self, number: int, state: str, value: float | None) -> None:
        trial_id = self.ids.pop(number)
        result = self.asha.end(trial_id, state)
        self.search.on_trial_complete(trial_id, result=result, error=result is None)


class OptunaStudy:
    """An Optuna study with a sampler and a pruner.

    A refused configuration is reported as FAIL, the state of a trial whose objective raised.
    """

    def __init__(self, space: Space, seed: int, epochs: int) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            self.study = optuna.create_study(
                sampler=self.make_sampler(seed),
                pruner=self.make_pruner(epochs),
                study_name=str(seed),  # the brackets are drawn from it
            )
        for start in list_starts(space):
            self.study.enqueue_trial(start)
        self.space = space
        self.open: dict[int, Trial] = {}

    def make_sampler(self, seed: int) -> optuna.samplers.BaseSampler:
        """Make Optuna's default sampler."""
        return optuna.samplers.TPESampler(seed=seed)

    def make_pruner(self, epochs: int) -> optuna.pruners.BasePruner:
        """Make the pruner for trials of `epochs` epochs; this one stops no trial."""
        return optuna.pruners.NopPruner()

    def propose(self, number: int) -> Proposal:
        while True:
            trial = self.study.ask()
            config = self.space.draw(trial)
            if self.space.check(config) is None:
                self.open[number] = trial
                return Proposal(config, trial.params, 0)
            self.study.tell(trial, state=TrialState.FAIL)

    def judge(self, number: int, epoch: int, error: float) -> bool:
        self.open[number].report(error, epoch)
        return not self.open[number].should_prune()

    def report(self, number: int, epoch: int, value: float) -> None:
        pass

    def tell(self, number: int, state: str, value: float | None) -> None:
        final = value if state == "COMPLETE" else None
        self.study.tell(self.open.pop(number), final, TrialState[state])


class OptunaHyperband(OptunaStudy):
    """Optuna's `TPESampler()` with `HyperbandPruner` over the epochs."""

    def make_pruner(self, epochs: int) -> optuna.pruners.BasePruner:
        return optuna.pruners.HyperbandPruner(1, epochs, 3)


class OptunaHalving(OptunaStudy):
    """Optuna's multivariate TPE, with groups and constant liar, and `SuccessiveHalvingPruner()`."""

    def make_sampler(self, seed: int) -> optuna.samplers.BaseSampler:
        return optuna.samplers.TPESampler(
            seed=seed, multivariate=True, group=True, constant_liar=True
        )

    def make_pruner(self, epochs: int) -> optuna.pruners.BasePruner:
        return optuna.pruners.SuccessiveHalvingPruner()


class SyneTune:
    """syne-tune's `ASHACQR` (Salinas et al., ICML 2023), the best in its authors' comparison.

    Its spaces have no conditions, so every parameter is sampled and inactive ones are ignored. A
    refused or diverged trial is reported by `on_trial_error`, as syne-tune's tuner does.
    """

    def __init__(self, space: Space, seed: int, epochs: int) -> None:
        from syne_tune.optimizer.baselines import ASHACQR

        logging.getLogger("syne_tune").setLevel(logging.ERROR)
        domains = {name: self._domain(p.distribution) for name, p in space.parameters.items()}
        self.scheduler = ASHACQR(
            domains,
            metric="val_mse",
            time_attr="epoch",
            max_t=epochs,
            random_seed=seed,
            points_to_evaluate=list_starts(space),
        )
        self.space = space
        self.trials: dict[int, Any] = {}
        self.n_asked = 0

    @staticmethod
    def _domain(distribution: Any) -> Any:
        from syne_tune import config_space

        match distribution:
            case CategoricalDistribution():
                return config_space.choice(list(distribution.choices))
            case IntDistribution():
                kind = config_space.lograndint if distribution.log else config_space.randint
            case FloatDistribution():
                kind = config_space.loguniform if distribution.log else config_space.uniform
        return kind(distribution.low, distribution.high)

    def propose(self, number: int) -> Proposal:
        from syne_tune.backend.trial_status import Trial

        while True:
            values = self.scheduler.suggest().config
            trial = Trial(self.n_asked, values, datetime.now())
            self.n_asked += 1
            self.scheduler.on_trial_add(trial)
            config = build_allowed(self.space, values)
            if config is not None:
                self.trials[number] = trial
                return Proposal(config, {}, 0)
            self.scheduler.on_trial_error(trial)

    def judge(self, number: int, epoch: int, error: float) -> bool:
        result = {"epoch": epoch, "val_mse": error}
        return self.scheduler.on_trial_result(self.trials[number], result) == "CONTINUE"

    def report(self, number: int, epoch: int, value: float) -> None:
        pass

    def tell(self, number: int, state: str, value: float | None) -> None:
        trial = self.trials.pop(number)
        if state == "FAIL":
            self.scheduler.on_trial_error(trial)


def make_configspace(space: Space, seed: int) -> Any:
    """Make the space of SMAC and BOHB; its default is the first named point."""
    import ConfigSpace

    made = ConfigSpace.ConfigurationSpace(seed=seed)
    start = next(iter(list_starts(space)), find_middle(space))
    for name, parameter in space.parameters.items():
        match parameter.distribution:
            case CategoricalDistribution() as d:
                made.add(
                    ConfigSpace.CategoricalHyperparameter(
                        name, list(d.choices), default_value=start[name]
                    )
                )
            case IntDistribution() as d:
                made.add(
                    ConfigSpace.UniformIntegerHyperparameter(
                        name, d.low, d.high, default_value=start[name], log=d.log
                    )
                )
            case FloatDistribution() as d:
                made.add(
                    ConfigSpace.UniformFloatHyperparameter(
                        name, d.low, d.high, default_value=start[name], log=d.log
                    )
                )
    for name, parameter in space.parameters.items():
        waits = []
        stage = int(name.rpartition("_")[2]) if parameter.per else 1
        if stage > 1 and "depth" in made:
            waits.append(ConfigSpace.GreaterThanCondition(made[name], made["depth"], stage - 1))
        for key, wanted in parameter.when.items():
            if key in made:
                choices = wanted if isinstance(wanted, list) else [wanted]
                waits.append(ConfigSpace.InCondition(made[name], made[key], choices))
        if waits:
            made.add(ConfigSpace.AndConjunction(*waits) if len(waits) > 1 else waits[0])
    return made


class SMAC:
    """SMAC3's `MultiFidelityFacade`: a random forest and synchronous Hyperband.

    SMAC runs a configuration again on each larger budget; the race does not count epochs twice.

    SMAC has no state for a trial to be left out: a CRASHED trial takes a slot of its Hyperband
    bracket and of the initial design, and enters the random forest at the crash cost. So refused
    configurations are skipped where SMAC selects configurations, in the initial design too.
    The initial design has 10 configurations, as many as the start-up trials of raycae's and
    Optuna's TPE; SMAC's default (10 for each parameter) exceeds the budget of the race. A diverged
    trial is CRASHED at a cost of 1, the error that no network with outputs in [0, 1] exceeds.
    """

    N_INITIAL = 10

    def __init__(self, space: Space, seed: int, epochs: int) -> None:
        from smac import MultiFidelityFacade, Scenario
        from smac.main.config_selector import ConfigSelector

        class AllowedSelector(ConfigSelector):
            def __iter__(self) -> Iterator[Any]:
                return (c for c in super().__iter__() if build_allowed(space, dict(c)))

        self.folder = tempfile.TemporaryDirectory()
        configspace = make_configspace(space, seed)
        scenario = Scenario(
            configspace,
            deterministic=True,
            n_trials=100_000,
            min_budget=1,
            max_budget=epochs,
            seed=seed,
            crash_cost=1.0,
            output_directory=self.folder.name,
        )
        initial = [configspace.get_default_configuration()] if space.points else []
        while len(initial) < self.N_INITIAL:
            config = configspace.sample_configuration()
            if build_allowed(space, dict(config)):
                initial.append(config)
        self.smac = MultiFidelityFacade(
            scenario,
            lambda config, seed, budget: 0.0,
            initial_design=MultiFidelityFacade.get_initial_design(
                scenario, n_configs=0, additional_configs=initial
            ),
            config_selector=AllowedSelector(scenario),
            logging_level=logging.ERROR,
            overwrite=True,
        )
        self.space = space
        self.open: dict[int, Any] = {}

    def propose(self, number: int) -> Proposal:
        info = self.smac.ask()
        config = build_allowed(self.space, dict(info.config))
        assert config is not None
        self.open[number] = info
        return Proposal(config, {}, 0)

    def judge(self, number: int, epoch: int, error: float) -> bool:
        return epoch < round(self.open[number].budget)

    def report(self, number: int, epoch: int, value: float) -> None:
        pass

    def tell(self, number: int, state: str, value: float | None) -> None:
        from smac.runhistory import StatusType, TrialValue

        status = StatusType.CRASHED if state == "FAIL" else StatusType.SUCCESS
        cost = 1.0 if state == "FAIL" or value is None else value
        self.smac.tell(self.open.pop(number), TrialValue(cost, status=status), save=False)


class BOHB:
    """BOHB (Falkner, Klein and Hutter, ICML 2018) of its authors' package, hpbandster.

    Kernel densities and synchronous Hyperband with eta 3, all by the package. Refused
    configurations are skipped where it draws configurations. It runs a configuration again on each
    larger budget; no epoch counts twice in the race. It draws from NumPy's global generator, which
    the seed sets. A free worker begins the next bracket.
    """

    ETA = 3

    def __init__(self, space: Space, seed: int, epochs: int) -> None:
        from hpbandster import optimizers
        from hpbandster.optimizers.config_generators import bohb

        class AllowedGenerator(bohb.BOHB):  # type: ignore[misc, unused-ignore]
            def get_config(self, budget: float) -> tuple[dict[str, Any], dict[str, Any]]:
                while True:
                    config, info = super().get_config(budget)
                    if build_allowed(space, config):
                        return config, info

        np.random.seed(seed)
        configspace = make_configspace(space, seed)
        n_rungs = int(math.log(epochs) / math.log(self.ETA)) + 1
        facts = SimpleNamespace(
            eta=self.ETA,
            max_SH_iter=n_rungs,
            budgets=epochs * float(self.ETA) ** np.arange(1 - n_rungs, 1),
            config_generator=AllowedGenerator(configspace),
        )
        self.generator = facts.config_generator
        self.begin = lambda number: optimizers.BOHB.get_next_iteration(facts, number)
        self.brackets = [self.begin(0)]
        if space.points:
            start = dict(configspace.get_default_configuration())
            self.brackets[0].add_configuration(config=start)
        self.space = space
        self.open: dict[int, Any] = {}

    def propose(self, number: int) -> Proposal:
        from hpbandster.core.dispatcher import Job

        found = next((run for b in self.brackets if (run := b.get_next_run())), None)
        if found is None:
            self.brackets.append(self.begin(len(self.brackets)))
            found = self.brackets[-1].get_next_run()
        place, values, budget = found
        config = build_allowed(self.space, values)
        assert config is not None
        self.open[number] = Job(place, config=values, budget=budget)
        return Proposal(config, {}, 0)

    def judge(self, number: int, epoch: int, error: float) -> bool:
        return epoch < round(self.open[number].kwargs["budget"])

    def report(self, number: int, epoch: int, value: float) -> None:
        pass

    def tell(self, number: int, state: str, value: float | None) -> None:
        job = self.open.pop(number)
        failed = state == "FAIL" or value is None
        job.result = None if failed else {"loss": value}
        self.brackets[job.id[0]].register_result(job)
        self.generator.new_result(job)


class NePS:
    """NePS's PriorBand (Mallik et al., NeurIPS 2023) with its default base, Hyperband.

    A prior is needed; it is the first named point, or the middle of each range, with the default
    confidence. NePS runs a configuration again on each larger budget; no epoch counts twice in the
    race. NePS draws from the global generators, which the seed sets. It is raced on LCBench only,
    where no configuration is refused.
    """

    def __init__(self, space: Space, seed: int, epochs: int) -> None:
        import neps
        import torch

        torch.manual_seed(seed)
        np.random.seed(seed)
        random.seed(seed)
        start = next(iter(list_starts(space)), find_middle(space))
        parameters = {
            name: self._parameter(parameter.distribution, start[name])
            for name, parameter in space.parameters.items()
        }
        parameters["epoch"] = neps.HPOInteger(1, epochs, is_fidelity=True)
        self.neps = neps.AskAndTell(neps.algorithms.priorband(neps.SearchSpace(parameters)))
        self.space = space
        self.open: dict[int, Any] = {}

    @staticmethod
    def _parameter(distribution: Any, prior: Any) -> Any:
        import neps

        match distribution:
            case CategoricalDistribution():
                return neps.HPOCategorical(list(distribution.choices), prior=prior)
            case IntDistribution():
                kind = neps.HPOInteger
            case FloatDistribution():
                kind = neps.HPOFloat
        return kind(distribution.low, distribution.high, log=distribution.log, prior=prior)

    def propose(self, number: int) -> Proposal:
        trial = self.neps.ask()
        config = build_allowed(self.space, dict(trial.config))
        assert config is not None
        self.open[number] = trial
        return Proposal(config, {}, 0)

    def judge(self, number: int, epoch: int, error: float) -> bool:
        return epoch < self.open[number].config["epoch"]

    def report(self, number: int, epoch: int, value: float) -> None:
        pass

    def tell(self, number: int, state: str, value: float | None) -> None:
        failed = state == "FAIL" or value is None
        self.neps.tell(self.open.pop(number), InputError("diverged") if failed else value)
