"""Other people's searchers, driven by their own methods over recorded curves.

Each proposes as `simulate.Searcher` does, and `judge`s as a `stopping.Rule` does: (trial, epoch,
error) to go on or stop. Settings are as shipped. All begin with the space's first named point and
draw from the same space; where a proposal breaks a constraint its searcher is told so in its own
way, at no epochs, and asked again.
"""

from __future__ import annotations

import logging
import tempfile
import warnings
from datetime import datetime
from types import SimpleNamespace
from typing import Any

import optuna
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.trial import Trial, TrialState

from raycae.config import Config
from raycae.errors import InputError
from raycae.greedy import Answers
from raycae.searcher import Proposal
from raycae.space import Space


def built(space: Space, values: dict[str, Any]) -> Config | None:
    """The configuration, if the space's constraints allow it."""
    try:
        config = space.draw(Answers(space, values))
    except InputError:
        return None
    return config if space.check(config) is None else None


def first(space: Space) -> dict[str, Any]:
    """What the first named point says of every parameter; of one it lies outside of, the middle."""
    middles = {name: parameter.middle for name, parameter in space.parameters.items()}
    return middles | space.params_of(next(iter(space.points.values())))


class StockOptunaSearch:
    """Ray Tune's `OptunaSearch` and `ASHAScheduler`, called in the order in which Tune's controller
    calls them. A trial that breaks a constraint ends without a result, which `OptunaSearch` tells
    Optuna as PRUNED."""

    def __init__(self, space: Space, seed: int, epochs: int) -> None:
        from ray.tune.schedulers import ASHAScheduler
        from ray.tune.search.optuna import OptunaSearch

        def define(trial: Any) -> None:
            space.draw(trial)

        self.space, self.epochs = space, epochs
        self.search = OptunaSearch(
            define, metric="val_mse", mode="min", seed=seed, points_to_evaluate=[first(space)]
        )
        self.scheduler = ASHAScheduler(metric="val_mse", mode="min", max_t=epochs)
        self.last: dict[int, dict[str, Any]] = {}
        self.asked = 0

    def propose(self, number: int) -> Proposal:
        while True:
            self.id, self.asked = str(self.asked), self.asked + 1
            config = built(self.space, self.search.suggest(self.id))
            if config is not None:
                self.last[number] = {"id": self.id}
                self.scheduler.on_trial_add(None, SimpleNamespace(trial_id=self.id))
                return Proposal(config, {}, 0)
            self.search.on_trial_complete(self.id)

    def judge(self, number: int, epoch: int, value: float) -> bool:
        result = {"training_iteration": epoch, "val_mse": value}
        self.last[number] |= result
        id = self.last[number]["id"]
        goes_on = self.scheduler.on_trial_result(None, SimpleNamespace(trial_id=id), result)
        if goes_on == "CONTINUE":
            self.search.on_trial_result(id, result)
        return goes_on == "CONTINUE"

    def report(self, number: int, epoch: int, value: float) -> None:
        pass

    def tell(self, number: int, state: str, value: float | None) -> None:
        last = self.last.pop(number)
        id = last.pop("id")
        if state == "FAIL":
            self.search.on_trial_complete(id, error=True)
        else:
            self.scheduler.on_trial_complete(None, SimpleNamespace(trial_id=id), last)
            self.search.on_trial_complete(id, result=last)


class PlainOptuna:
    """`TPESampler()` with `HyperbandPruner` over the epochs. A trial that breaks a constraint is
    PRUNED before its first epoch."""

    def __init__(self, space: Space, seed: int, epochs: int) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            self.study = optuna.create_study(
                sampler=optuna.samplers.TPESampler(seed=seed),
                pruner=optuna.pruners.HyperbandPruner(1, epochs, 3),
                study_name=str(seed),  # the brackets are drawn from it
            )
        self.study.enqueue_trial(first(space))
        self.space = space
        self.open: dict[int, Trial] = {}

    def propose(self, number: int) -> Proposal:
        while True:
            trial = self.study.ask()
            config = self.space.draw(trial)
            if self.space.check(config) is None:
                self.open[number] = trial
                return Proposal(config, trial.params, 0)
            self.study.tell(trial, state=TrialState.PRUNED)

    def judge(self, number: int, epoch: int, value: float) -> bool:
        self.open[number].report(value, epoch)
        return not self.open[number].should_prune()

    def report(self, number: int, epoch: int, value: float) -> None:
        pass

    def tell(self, number: int, state: str, value: float | None) -> None:
        final = value if state == "COMPLETE" else None
        self.study.tell(self.open.pop(number), final, TrialState[state])


class SyneTune:
    """syne-tune's `ASHACQR` (Salinas et al., ICML 2023), the best of its authors' own comparison.
    Its spaces are flat, so every parameter is drawn and those without a say are passed over; a
    trial that breaks a constraint or diverges is one that failed."""

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
            points_to_evaluate=[first(space)],
        )
        self.space = space
        self.trials: dict[int, Any] = {}
        self.asked = 0

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
            trial = Trial(self.asked, values, datetime.now())
            self.asked += 1
            self.scheduler.on_trial_add(trial)
            config = built(self.space, values)
            if config is not None:
                self.trials[number] = trial
                return Proposal(config, {}, 0)
            self.scheduler.on_trial_error(trial)

    def judge(self, number: int, epoch: int, value: float) -> bool:
        result = {"epoch": epoch, "val_mse": value}
        return self.scheduler.on_trial_result(self.trials[number], result) == "CONTINUE"

    def report(self, number: int, epoch: int, value: float) -> None:
        pass

    def tell(self, number: int, state: str, value: float | None) -> None:
        trial = self.trials.pop(number)
        if state == "FAIL":
            self.scheduler.on_trial_error(trial)


class SMAC:
    """SMAC3's `MultiFidelityFacade`: random forest and Hyperband. It runs a configuration anew on
    each larger budget; whoever counts epochs passes over those that it has run before. A trial that
    breaks a constraint is a crash, at no epochs."""

    def __init__(self, space: Space, seed: int, epochs: int) -> None:
        from smac import MultiFidelityFacade, Scenario

        self.folder = tempfile.TemporaryDirectory()
        scenario = Scenario(
            self._configspace(space, seed),
            deterministic=True,
            n_trials=100_000,
            min_budget=1,
            max_budget=epochs,
            seed=seed,
            output_directory=self.folder.name,
        )
        # As many random configurations as raycae's and Optuna's TPE begin with; as shipped it would
        # be ten for each parameter, more than the race has epochs for.
        design = MultiFidelityFacade.get_initial_design(scenario, n_configs=10)
        self.smac = MultiFidelityFacade(
            scenario,
            lambda config, seed, budget: 0.0,
            initial_design=design,
            logging_level=logging.ERROR,
            overwrite=True,
        )
        self.space = space
        self.open: dict[int, Any] = {}

    @staticmethod
    def _configspace(space: Space, seed: int) -> Any:
        import ConfigSpace

        made = ConfigSpace.ConfigurationSpace(seed=seed)
        start = first(space)
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

    def propose(self, number: int) -> Proposal:
        from smac.runhistory import StatusType, TrialValue

        while True:
            info = self.smac.ask()
            config = built(self.space, dict(info.config))
            if config is not None:
                self.open[number] = info
                return Proposal(config, {}, 0)
            self.smac.tell(info, TrialValue(1.0, status=StatusType.CRASHED), save=False)

    def judge(self, number: int, epoch: int, value: float) -> bool:
        return epoch < round(self.open[number].budget)

    def report(self, number: int, epoch: int, value: float) -> None:
        pass

    def tell(self, number: int, state: str, value: float | None) -> None:
        from smac.runhistory import StatusType, TrialValue

        status = StatusType.CRASHED if state == "FAIL" else StatusType.SUCCESS
        cost = 1.0 if value is None else value
        self.smac.tell(self.open.pop(number), TrialValue(cost, status=status), save=False)
