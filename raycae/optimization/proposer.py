"""Who proposes: Optuna, by ask and tell, addressed by raycae's trial numbers.

Ray's own `OptunaSearch` is not used: it tells stopped trials as COMPLETE with their first loss,
leaves diverged ones RUNNING for ever, and cannot be told twice. Here the Optuna study lives in
memory and is a function of the ledger: replaying its events gives the same study back, and what is
proposed depends on (seed, trial number) and on what was told, on nothing else.
"""

from __future__ import annotations

import itertools
import json
import math
from bisect import insort
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import optuna
from optuna.samplers import RandomSampler
from optuna.trial import FrozenTrial, Trial, TrialState

from raycae.config import TRAINING_KEYS, UNSEEN_KEYS, Config
from raycae.errors import InputError
from raycae.model.architecture import build_architecture
from raycae.optimization.frontier import Strata, find_frontier
from raycae.optimization.greedy import GreedySeries, GreedyStep, draw_held
from raycae.optimization.grid import list_grid
from raycae.optimization.history import (
    LEAST_ERROR,
    NOTHING,
    WINDOW,
    SharedFrozenTrial,
    extrapolate_unfinished,
)
from raycae.optimization.samplers import (
    GRID_TRIES,
    PATIENCE,
    SAMPLERS,
    TRIES,
    draw_possible,
    explain_impossible,
    get_directions,
)
from raycae.optimization.shared_study import SharedStudy
from raycae.space.parameters import Value
from raycae.space.space import Space


@dataclass(frozen=True)
class Proposal:
    """A configuration to try, the parameters drawn for it, the seed of its weights, and the named
    point it is, if one; of a greedy series the change that it makes to trial `parent`."""

    config: Config
    params: dict[str, Value]
    seed: int
    point: str | None = None
    change: str | None = None
    parent: int | None = None


class Proposer:
    """Ask and tell, by raycae's trial numbers.

    The named points of the space come first, as trials 0, 1, …: those in `points`, all if it is
    None, once for each of `n_seeds` seeds from `seed` on. Then come the sampler's proposals, each
    checked against the space's constraints before it is returned. The greedy series starts at the
    first of the points, and tries no other.

    What was proposed already, the same network with the same training, however it is written, is
    not proposed again; or with `repeats` "seed" it is, with the next seed.

    With a `cost`, a column that counts beside the error, the sampler is after the frontier of both.
    With `strata` it is asked for a trial of the weakest one, whatever is asked for. Each network is
    proposed with so many `settings` of its training before the next one is.

    In a `shared` study what another driver has claimed is not proposed either.
    """

    def __init__(
        self,
        space: Space,
        sampler: str = "tpe",
        seed: int = 0,
        *,
        points: Sequence[str] | None = None,
        n_seeds: int = 1,
        repeats: str = "refuse",
        cost: str | None = None,
        strata: Strata | None = None,
        settings: int = 1,
        shared: SharedStudy | None = None,
    ) -> None:
        if sampler not in SAMPLERS:
            raise InputError(f"--sampler {sampler}: not known; allowed: {', '.join(SAMPLERS)}")
        self.space = space
        self.seed = seed
        self.sampler = sampler
        self.repeats = repeats
        self._many_seeds = repeats == "seed" or n_seeds > 1
        self._cost = None if strata else cost
        """What the sampler is told of beside the error; within a stratum the error alone counts."""
        self.strata = strata
        self.settings = settings
        self._lacking: dict[str, tuple[int, dict[str, Value]]] = {}
        """Networks that were proposed with too few settings: how many more, and the parameters that
        make the network."""
        self._networks: set[str] = set()
        self._runs: Counter[tuple[Any, ...]] = Counter()
        """How often each network was proposed with each training."""
        self._exhausted = False
        self.study = optuna.create_study(
            directions=get_directions(self._cost), sampler=RandomSampler(seed)
        )
        self._shared = shared
        self._open: dict[int, Trial] = {}
        self._ended: dict[int, FrozenTrial] = {}
        """Those that say something, in the order in which they ended."""
        self._best: list[tuple[float, int]] = []
        self._scored: list[dict[str, Any]] = []
        """Where two things count, both of each that ran to its end."""
        self._sizes: dict[int, int] = {}
        self._told: set[int] = set()
        self._reported: dict[int, dict[int, float]] = defaultdict(dict)
        names = space.points if points is None else points
        # A dict for its order: what is to come, and is struck off.
        self._points = dict.fromkeys((name, seed + i) for i in range(n_seeds) for name in names)
        self._grid = list_grid(space)
        self._start = next(iter(names), None)
        self._greedy = (
            GreedySeries(space, self._first(), make_training_identity)
            if sampler == "greedy"
            else None
        )

    def propose(self, number: int) -> Proposal | None:
        """What trial `number` tries; None once everything has been tried, or a greedy series waits
        for what runs. Raises `InputError` where the constraints leave nothing."""
        if self._greedy:
            return self._next_of_greedy(number, self._greedy)
        while self._points:
            name, seed = next(iter(self._points))
            config = self.space.points[name]
            proposal = Proposal(config, self.space.params_of(config), seed, name)
            if self._claim(number, config, proposal.params, seed):
                self.reopen(number, proposal)
                return proposal
            self._points.pop((name, seed))
        if self.sampler == "points" or self._exhausted:
            return None
        return self._next_of_grid(number) if self.sampler == "grid" else self._draw(number)

    def learn(
        self,
        config: Config,
        error: float | None,
        curve: Mapping[int, float] = NOTHING,
    ) -> None:
        """A trial of another study or driver, that ran to its end or, without an `error`, was
        stopped after `curve`: for the sampler's eyes alone, under a number below 0."""
        config = self.space.on_grid(config)
        params = self.space.params_of(config)
        number = -1 - len(self._ended)
        distributions = {name: self.space.parameters[name].distribution for name in params}
        net = build_architecture(config)
        known = {name: getattr(net, name) for name in ("latent_size", "n_params", "flops")}
        if self._cost and self._cost not in known:
            return  # the time of an epoch elsewhere says nothing of one here
        self._sizes[number] = net.latent_size
        self._ended[number] = optuna.trial.create_trial(
            state=TrialState.PRUNED if error is None else TrialState.COMPLETE,
            values=None if error is None else self._values(error, known),
            params=params,
            distributions=distributions,
            intermediate_values=dict(curve),
        )
        if error is not None:
            self._note_good(number, error, known)

    def reopen(self, number: int, proposal: Proposal) -> None:
        """Take trial `number`, of which all is known, as running: a named point, or a trial of the
        ledger."""
        proposal = replace(
            proposal,
            config=self.space.on_grid(proposal.config),
            params=self._labels(proposal.params),
        )
        if self._greedy:
            step = GreedyStep(proposal.config, proposal.change, proposal.parent)
            self._greedy.begin(number, step)
        if proposal.point is not None:
            self._points.pop((proposal.point, proposal.seed), None)
        elif self.sampler == "grid":
            self._pass_in_grid(proposal.params)
        self._lay_down(number, proposal.config, proposal.params, proposal.seed)

    def report(self, number: int, epoch: int, value: float) -> None:
        """An intermediate value of a running trial. An epoch repeated after a restart counts
        once."""
        if number not in self._told and epoch not in self._reported[number]:
            self._reported[number][epoch] = value
            if not self._cost:  # Optuna has no place for it where two things count
                self._open[number].report(value, epoch)
            if self._shared:
                self._shared.report(number, epoch, value)

    def tell(
        self, number: int, state: str, value: float | None, known: Mapping[str, Any] = NOTHING
    ) -> None:
        """How the trial ended: COMPLETE with its value, PRUNED or FAIL; `known`: its other columns,
        of which the cost is read. Telling twice is telling once."""
        if number in self._told:
            return
        self._told.add(number)
        trial = self._open.pop(number)
        if self._greedy:
            self._greedy.tell(number, state, value)
        if self.strata:
            self.strata.end(self._sizes[number], None if state == "FAIL" else value)
        final = value if state == "COMPLETE" else None
        values = None
        if final is not None:
            values = self._values(final, known)
            self._note_good(number, final, known)
        if state != "FAIL":
            self._ended[number] = self._frozen(number, trial, TrialState[state], values)
        said = None if final is None else [final, *([known[self._cost]] if self._cost else [])]
        self.study.tell(trial, said, TrialState[state])
        if self._shared:
            self._shared.tell(number, state, said)
        self._reported.pop(number, None)

    def _values(self, error: float, known: Mapping[str, Any]) -> list[float]:
        """What the sampler minimises; two things on scales on which a step of one is a step of the
        other."""
        if not self._cost:
            return [error]
        return [math.log(max(error, LEAST_ERROR)), math.log(known[self._cost])]

    def _note_good(self, number: int, error: float, known: Mapping[str, Any]) -> None:
        insort(self._best, (error, number))
        if self._cost:
            row = {"trial_number": number, "state": "COMPLETE", "val_mse": error}
            self._scored.append({**row, self._cost: known[self._cost]})

    def _draw(self, number: int) -> Proposal | None:
        """What the sampler proposes: a function of the seed, the number and what was told."""
        place = self.strata.weakest() if self.strata else None
        network = next((params for _, params in self._lacking.values()), None)
        refused = []
        beside: tuple[Config, dict[str, Value], int] | None = None
        study = optuna.create_study(directions=get_directions(self._cost))
        if self.sampler != "random":
            study.add_trials(map(SharedFrozenTrial, self._window(place)))
        for attempt in range(TRIES):
            draw = np.random.SeedSequence([self.seed, number, attempt]).generate_state(1)[0]
            name = self.sampler if attempt < PATIENCE else "random"
            study.sampler = SAMPLERS[name](int(draw))
            if network:
                study.enqueue_trial(network)  # the rest is drawn
            trial = study.ask()
            config = self.space.draw(trial)
            refusal = self.space.check(config)
            if refusal is None and (seed := self._seed_of(config)) is not None:
                found = (config, self._labels(trial.params), seed)
                if not (network or place is None or self._is_in(place, config)):
                    beside = beside or found
                elif self._claim(number, *found):
                    return self._issued(number, *found)
            if refusal is not None:
                refused.append(refusal)
            study.tell(trial, state=TrialState.FAIL)  # neither waited for nor learnt from
        if network:  # its settings have all been tried
            self._lacking.pop(next(iter(self._lacking)))
            return self._draw(number)
        if beside:
            if self._claim(number, *beside):
                return self._issued(number, *beside)
            return self._draw(number)  # another driver was first with it
        if len(refused) < TRIES:
            self._exhausted = True  # the others have all been tried
            return None
        raise InputError(explain_impossible(self.space, refused))

    def _labels(self, params: Mapping[str, Any]) -> dict[str, Value]:
        """Return drawn values without the rounding errors of Optuna's arithmetic."""
        return {name: self.space.parameters[name].label(value) for name, value in params.items()}

    def _is_in(self, place: int, config: Config) -> bool:
        assert self.strata is not None
        return self.strata.of(build_architecture(config).latent_size) == place

    def _issued(self, number: int, config: Config, params: dict[str, Value], seed: int) -> Proposal:
        self._lay_down(number, config, params, seed)
        return Proposal(config, params, seed)

    def _claim(self, number: int, config: Config, params: dict[str, Value], seed: int) -> bool:
        """Whether nobody else tries this."""
        if not self._shared:
            return True
        return self._shared.claim(number, self._as_claimed(config, params, seed))

    def _as_claimed(self, config: Config, params: dict[str, Value], seed: int) -> FrozenTrial:
        return optuna.trial.create_trial(
            state=TrialState.RUNNING,
            params=params,
            distributions={name: self.space.parameters[name].distribution for name in params},
            user_attrs={
                "identity": json.dumps(make_training_identity(config)),
                "seed": seed if self._many_seeds else None,
                "config": config.to_json(),
            },
        )

    def _window(self, place: int | None = None) -> list[FrozenTrial]:
        """What the sampler sees, as Optuna has it, in the order of the trials' numbers. If it is to
        propose for the stratum at `place`, trials elsewhere break a constraint, the more the
        farther off they are."""
        going = [n for n in self._open if self._reported[n]] if not self._cost else []
        running = going[-WINDOW // 4 :]
        best = {number: self._ended[number] for number in self._good(place)}
        newest = ((n, trial) for n, trial in reversed(self._ended.items()) if n not in best)
        left = WINDOW - len(running) - len(best)
        seen = best | dict(itertools.islice(newest, left))
        seen |= {n: self._frozen(n, self._open[n], TrialState.RUNNING) for n in running}
        if not self._cost:
            seen = extrapolate_unfinished(seen)
        if place is not None:
            seen = {number: self._placed(number, trial, place) for number, trial in seen.items()}
        return [seen[number] for number in sorted(seen)]

    def _good(self, place: int | None) -> list[int]:
        """The best of those that ran to their end, at most a quarter of the window."""
        if self._cost:
            on = find_frontier(self._scored, self._cost)
            good = (number for number in on if on[number])
        elif self.strata:
            of = self.strata.of
            good = (number for _, number in self._best if of(self._sizes[number]) == place)
        else:
            good = (number for _, number in self._best)
        return list(itertools.islice(good, WINDOW // 4))

    def _placed(self, number: int, trial: FrozenTrial, place: int) -> FrozenTrial:
        assert self.strata is not None
        return optuna.trial.create_trial(
            state=trial.state,
            values=trial.values,
            params=trial.params,
            distributions=trial.distributions,
            intermediate_values=trial.intermediate_values,
            constraints={"stratum": self.strata.outside(self._sizes[number], place)},
        )

    def _frozen(
        self, number: int, trial: Trial, state: TrialState, values: list[float] | None = None
    ) -> FrozenTrial:
        return optuna.trial.create_trial(
            state=state,
            values=values,
            params=trial.params,
            distributions=trial.distributions,
            intermediate_values={} if self._cost else dict(self._reported[number]),
        )

    def _seed_of(self, config: Config) -> int | None:
        """Of the next run of `config`; None where it is not to be run again."""
        runs = self._runs[identity := make_training_identity(config)]
        if self._shared:
            runs += self._shared.n_tries(json.dumps(identity))
        return None if runs and self.repeats == "refuse" else self.seed + runs

    def _lay_down(self, number: int, config: Config, params: dict[str, Value], seed: int) -> None:
        self._runs[make_training_identity(config)] += 1
        if self._shared:
            self._shared.take(number, self._as_claimed(config, params, seed))
        if self.strata:
            self._sizes[number] = size = build_architecture(config).latent_size
            self.strata.begin(size)
        if self.settings > 1:
            self._count_setting(config, params)
        self.study.sampler = RandomSampler(self.seed)  # asked for nothing, and costs nothing
        self.study.enqueue_trial(params)
        trial = self._open[number] = self.study.ask()
        for name in params:
            self.space.parameters[name].suggest(trial, name)

    def _count_setting(self, config: Config, params: dict[str, Value]) -> None:
        network = build_architecture(config).hash
        if network not in self._networks:
            self._networks.add(network)
            of_network = {n: v for n, v in params.items() if n not in TRAINING_KEYS}
            self._lacking[network] = (self.settings, of_network)
        if network in self._lacking:
            left, of_network = self._lacking.pop(network)
            if left > 1:
                self._lacking = {network: (left - 1, of_network), **self._lacking}

    def _first(self) -> Config:
        """Where a greedy series starts: the first point; without one the middle of the space, or
        where the constraints refuse that, any place that they allow."""
        if self._start is not None:
            return self.space.points[self._start]
        middle = draw_held(self.space, {})
        return middle if self.space.check(middle) is None else draw_possible(self.space, self.seed)

    def _next_of_greedy(self, number: int, greedy: GreedySeries) -> Proposal | None:
        step = greedy.propose(number)
        if step is None:
            return None
        params = self.space.params_of(step.config)
        self._lay_down(number, step.config, params, self.seed)
        point = self._start if step.change is None else None
        return Proposal(step.config, params, self.seed, point, step.change, step.parent)

    def _next_of_grid(self, number: int) -> Proposal | None:
        refused = []
        for params, config in self._grid:
            refusal = self.space.check(config)
            if refusal is None:
                seed = self._seed_of(config)
                if seed is not None and self._claim(number, config, params, seed):
                    return self._issued(number, config, params, seed)
                continue
            refused.append(refusal)
            if len(refused) >= GRID_TRIES:
                raise InputError(explain_impossible(self.space, refused))
        return None

    def _pass_in_grid(self, params: dict[str, Value]) -> None:
        next((None for walked, _ in self._grid if walked == params), None)


def make_training_identity(config: Config) -> tuple[Any, ...]:
    """The same for two configurations that build one network and train it alike."""
    names = (*UNSEEN_KEYS, *TRAINING_KEYS)
    return build_architecture(config).hash, *(getattr(config, name) for name in names)
