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
import statistics
import warnings
from bisect import insort
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import optuna
from optuna.samplers import BaseSampler, RandomSampler, TPESampler
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, Trial, TrialState

from raycae.architecture import architecture
from raycae.config import TRAINING_KEYS, UNSEEN_KEYS, Config
from raycae.errors import InputError
from raycae.frontier import Strata, frontier_of
from raycae.greedy import Greedy, Step, drawn
from raycae.shared import SharedStudy
from raycae.space import Space, Value

TRIES = 1000
"""So many proposals in a row may be infeasible before a space counts as impossible."""
GRID_TRIES = 100_000
"""The same for a grid, which is walked in order and may have long stretches that are refused."""
PATIENCE = 50
"""So many of the sampler's own proposals are refused before random ones are drawn instead."""
LEAST_ERROR = 1e-12
"""Of logarithms; below is rounding."""
NOTHING: Mapping[Any, Any] = {}
WINDOW = 200
"""So many trials at most are laid before the sampler: the best ones and those that run, a quarter
each, and the newest. What it takes to propose would grow with the study."""


def _tpe(seed: int) -> BaseSampler:
    # group: conditional parameters are modelled jointly, not dropped to independent sampling. No
    # constant liar: a trial that runs is seen by its epochs, and what was proposed is not again.
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        return TPESampler(seed=seed, multivariate=True, group=True)


SAMPLERS: dict[str, Callable[[int], BaseSampler]] = {
    "tpe": _tpe,
    "strata": _tpe,
    "random": lambda seed: RandomSampler(seed),
    # Of these proposals are laid down; nothing is left to draw.
    "grid": lambda seed: RandomSampler(seed),
    "points": lambda seed: RandomSampler(seed),
    "greedy": lambda seed: RandomSampler(seed),
}


REPEATS = ("refuse", "seed")


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
            directions=directions(self._cost), sampler=RandomSampler(seed)
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
        self._grid = grid(space)
        self._start = next(iter(names), None)
        self._greedy = Greedy(space, self._first(), _identity) if sampler == "greedy" else None

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
        net = architecture(config)
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
            step = Step(proposal.config, proposal.change, proposal.parent)
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
        study = optuna.create_study(directions=directions(self._cost))
        if self.sampler != "random":
            study.add_trials(map(_Kept, self._window(place)))
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
        raise InputError(_impossible(self.space, refused))

    def _labels(self, params: Mapping[str, Any]) -> dict[str, Value]:
        """Return drawn values without the rounding errors of Optuna's arithmetic."""
        return {name: self.space.parameters[name].label(value) for name, value in params.items()}

    def _is_in(self, place: int, config: Config) -> bool:
        assert self.strata is not None
        return self.strata.of(architecture(config).latent_size) == place

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
                "identity": json.dumps(_identity(config)),
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
            seen = _at_their_end(seen)
        if place is not None:
            seen = {number: self._placed(number, trial, place) for number, trial in seen.items()}
        return [seen[number] for number in sorted(seen)]

    def _good(self, place: int | None) -> list[int]:
        """The best of those that ran to their end, at most a quarter of the window."""
        if self._cost:
            on = frontier_of(self._scored, self._cost)
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
        runs = self._runs[identity := _identity(config)]
        if self._shared:
            runs += self._shared.n_tries(json.dumps(identity))
        return None if runs and self.repeats == "refuse" else self.seed + runs

    def _lay_down(self, number: int, config: Config, params: dict[str, Value], seed: int) -> None:
        self._runs[_identity(config)] += 1
        if self._shared:
            self._shared.take(number, self._as_claimed(config, params, seed))
        if self.strata:
            self._sizes[number] = size = architecture(config).latent_size
            self.strata.begin(size)
        if self.settings > 1:
            self._count_setting(config, params)
        self.study.sampler = RandomSampler(self.seed)  # asked for nothing, and costs nothing
        self.study.enqueue_trial(params)
        trial = self._open[number] = self.study.ask()
        for name in params:
            self.space.parameters[name].suggest(trial, name)

    def _count_setting(self, config: Config, params: dict[str, Value]) -> None:
        network = architecture(config).hash
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
        middle = drawn(self.space, {})
        return middle if self.space.check(middle) is None else _possible(self.space, self.seed)

    def _next_of_greedy(self, number: int, greedy: Greedy) -> Proposal | None:
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
                raise InputError(_impossible(self.space, refused))
        return None

    def _pass_in_grid(self, params: dict[str, Value]) -> None:
        next((None for walked, _ in self._grid if walked == params), None)


def _at_their_end(trials: dict[int, FrozenTrial]) -> dict[int, FrozenTrial]:
    """What has an epoch but no end yet, or was stopped, as if it had run as far as the farthest:
    with its least error times the typical factors by which those that went on fell from there.

    Optuna takes any stopped trial for worse than any that ran to its end, and the first of these
    ran so far for want of company; and one that runs for as bad as the worst, though it may run
    because it is good (analysis/FINDINGS.md).
    """
    curves = {number: _least_so_far(trial) for number, trial in trials.items()}
    longest = max(map(len, curves.values()), default=0)
    to_come = [0.0] * (longest + 1)
    """What the logarithm of the error still gains, by epochs run."""
    for epochs in range(longest - 1, 0, -1):
        falls = [
            curve[epochs] - curve[epochs - 1] for curve in curves.values() if epochs < len(curve)
        ]
        to_come[epochs] = to_come[epochs + 1] + statistics.median(falls)
    return {
        number: optuna.trial.create_trial(
            value=math.exp(curves[number][-1] + to_come[len(curves[number])]),
            params=trial.params,
            distributions=trial.distributions,
        )
        if curves[number] and trial.state != TrialState.COMPLETE
        else trial
        for number, trial in trials.items()
    }


class _Kept(FrozenTrial):
    """A trial whose settings and curve nobody changes any more. Optuna copies what it is given; to
    do that in depth was a third of a proposal."""

    def __init__(self, trial: FrozenTrial) -> None:
        vars(self).update(vars(trial))

    def __deepcopy__(self, memo: dict[int, Any]) -> _Kept:
        return _Kept(self)


def _least_so_far(trial: FrozenTrial) -> list[float]:
    """The logarithm of the least error after each epoch."""
    errors = (error for _, error in sorted(trial.intermediate_values.items()))
    return [math.log(max(error, LEAST_ERROR)) for error in itertools.accumulate(errors, min)]


def _identity(config: Config) -> tuple[Any, ...]:
    """The same for two configurations that build one network and train it alike."""
    names = (*UNSEEN_KEYS, *TRAINING_KEYS)
    return architecture(config).hash, *(getattr(config, name) for name in names)


def directions(cost: str | None) -> list[StudyDirection]:
    """The error is to be small, and the cost where one counts."""
    return [StudyDirection.MINIMIZE] * (2 if cost else 1)


def usual_sampler(space: Space, cost: str | None = None) -> str:
    """Who proposes if nobody says; `cost`: what counts beside the error."""
    if space.parameters:
        return "strata" if cost == "latent_size" else "tpe"
    return "greedy" if space.file.series else "points"


def require_possible(space: Space, sampler: str, trials: int, seed: int = 0) -> None:
    """Refuse a search that could not begin or would run out of configurations.

    Raises:
        InputError: The sampler needs more than the named points (`greedy`: its start), and no
            random configuration meets the constraints; or there is nothing to try.
    """
    if sampler == "points" and not space.points:
        raise InputError(f"--sampler points: {space.name} names no points")
    if (1 if sampler == "greedy" else trials) > len(space.points):
        _possible(space, seed)
        if sampler == "grid":
            _require_early_in_grid(space)


def reachable(space: Space, bounds: Sequence[int], seed: int = 0) -> list[int]:
    """Of the strata up to each of `bounds`, those that a named point or one of `5 * TRIES` random
    configurations lies in."""
    strata = Strata(bounds, [0.0] * len(bounds))
    study = optuna.create_study(sampler=RandomSampler(seed))
    drawn_at_random = (space.draw(study.ask()) for _ in range(5 * TRIES))
    found: set[int | None] = set()
    for config in itertools.chain(space.points.values(), drawn_at_random):
        if space.check(config) is None:
            found.add(strata.of(architecture(config).latent_size))
        if len(found - {None}) == len(bounds):
            break
    return [bound for place, bound in enumerate(bounds) if place in found]


def _require_early_in_grid(space: Space) -> None:
    """Raise `InputError` if the grid's first `GRID_TRIES` combinations are all refused: the search
    would give up there."""
    refused = []
    for _, config in itertools.islice(grid(space), GRID_TRIES):
        if (refusal := space.check(config)) is None:
            return
        refused.append(refusal)
    raise InputError(_impossible(space, refused))


def _possible(space: Space, seed: int) -> Config:
    """A random configuration that meets the constraints. Raises `InputError`."""
    study = optuna.create_study(sampler=RandomSampler(seed))
    refused = []
    for _ in range(TRIES):
        config = space.draw(study.ask())
        refusal = space.check(config)
        if refusal is None:
            return config
        refused.append(refusal)
    raise InputError(_impossible(space, refused))


def grid(space: Space) -> Iterator[tuple[dict[str, Value], Config]]:
    """Every combination of a space, the last parameter changing fastest, conditions heeded.

    Ranges without a step are walked at a few places: whole numbers on a log scale by doubling,
    reals at their low, (geometric) middle and high.
    """
    path: list[int] = []
    while True:
        walker = _Walker(path)
        config = space.draw(walker)
        yield {n: space.parameters[n].label(v) for n, v in walker.params.items()}, config
        path = walker.path
        while path and path[-1] + 1 == walker.sizes[len(path) - 1]:
            path.pop()
        if not path:
            return
        path[-1] += 1


class _Walker:
    """Suggests, at each question, the choice that `path` says, and the first beyond its end."""

    def __init__(self, path: list[int]) -> None:
        self.path = path.copy()
        self.sizes: list[int] = []
        self.params: dict[str, Value] = {}

    def suggest_float(
        self, name: str, low: float, high: float, *, step: float | None = None, log: bool = False
    ) -> float:
        if step:
            places = [low + i * step for i in range(round((high - low) / step) + 1)]
        else:
            middle = math.sqrt(low * high) if log else (low + high) / 2
            places = [low, middle, high] if low < high else [low]
        return float(self._choose(name, places))

    def suggest_int(
        self, name: str, low: int, high: int, *, step: int = 1, log: bool = False
    ) -> int:
        if log:
            doubled = (low * 2**i for i in itertools.count())
            return int(self._choose(name, list(itertools.takewhile(lambda v: v <= high, doubled))))
        return int(self._choose(name, list(range(low, high + 1, step))))

    def suggest_categorical(self, name: str, choices: list[Any]) -> Any:
        return self._choose(name, choices)

    def _choose(self, name: str, places: list[Any]) -> Any:
        at = len(self.sizes)
        if at == len(self.path):
            self.path.append(0)
        self.sizes.append(len(places))
        self.params[name] = places[self.path[at]]
        return self.params[name]


def _impossible(space: Space, refused: list[str]) -> str:
    common = Counter(reason.split()[0] for reason in refused).most_common(1)[0][0]
    met = sorted({reason for reason in refused if reason.startswith(common)})
    examples = "; ".join(dict.fromkeys((met[0], met[-1])))
    return (
        f"{space.name}: constraints: none of {len(refused):,} proposals meets them "
        f"(e.g. {examples}); widen the constraint or the parameters"
    )
