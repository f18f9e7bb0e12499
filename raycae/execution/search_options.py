"""The options of a search: one declaration that the command line and Python read.

A field of `SearchOptions` declares an option: its name, the values it takes from Python, and in its
`Option` the range, the default and the help text. From it come the command `raycae search`, the
signature and help of `raycae.run_search`, the checks of single values, and which options a study
records. A new option is a field here, and a field of `study.plan.Plan` if studies record it.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from numbers import Integral, Real
from pathlib import Path
from typing import Annotated, Any, TypedDict, TypeVar, get_args, get_type_hints

from raycae.errors import InputError
from raycae.optimization.early_stopping import FACTOR, SCHEDULERS
from raycae.optimization.frontier import COSTS, USUAL_STRATA
from raycae.optimization.samplers import REPEATS, SAMPLERS

MAX_SEED = 2**32 - 1
"""The largest seed that NumPy and PyTorch both take."""
MAX_HOURS = 100_000
"""The longest time limit that `--hours` takes."""
OBJECTIVES = ("val_mse", "frontier")
"""What a search can minimize: the validation error, or the error at every cost."""

F = TypeVar("F", bound=Callable[..., Any])


@dataclass
class Option:
    """How one option of a search is shown, and which values it takes.

    Attributes:
        help: What the option does.
        metavar: What stands for the value in the command's help; None for a flag.
        default: The value if the option is not given.
        default_text: What the help says about a default that is looked up elsewhere.
        minimum: The least value of a number.
        maximum: The largest value of a number.
        choices: The words that the option takes.
        variable: The environment variable that the command reads if the option is not given.
        is_repeatable: Whether the command takes the option several times.
        is_recorded: Whether a study records the value in its plan. It must then not change when
            the study is resumed.
        name: The name of the field, which is the name in Python.
        value_type: The type of the field.
    """

    help: str
    metavar: str | None = None
    default: Any = None
    default_text: str | None = None
    minimum: float | None = None
    maximum: float | None = None
    choices: Sequence[str] | None = None
    variable: str | None = None
    is_repeatable: bool = False
    is_recorded: bool = False
    name: str = field(init=False)
    value_type: Any = field(init=False)

    @property
    def flag(self) -> str:
        """The option as it is typed, such as `--first-images`."""
        return "--" + self.name.rstrip("_").replace("_", "-")

    @property
    def number_type(self) -> type[int] | type[float] | None:
        """`int` or `float` if the option takes numbers and nothing else, else None."""
        types = {*get_args(self.value_type)} - {type(None)} or {self.value_type}
        return next((number for number in (int, float) if types == {number}), None)

    @property
    def typed_as(self) -> Any:
        """The type that the command line parses: a number, a flag, text, or a list of texts."""
        if self.number_type or self.value_type is bool:
            return self.value_type
        return list[str] | None if self.is_repeatable else str | None

    def check(self, value: Any) -> Any:
        """Check a value by the option's range or choices.

        Args:
            value: What was given; None if nothing was.

        Returns:
            The value; a number as a plain `int` or `float`.

        Raises:
            InputError: The value is not allowed.
        """
        if value is None:
            return None
        if self.choices is not None and value not in tuple(self.choices):
            allowed = ", ".join(self.choices)
            raise InputError(f"{self.flag} {value}: not known; allowed: {allowed}")
        return value if self.number_type is None else self._check_number(value)

    def _check_number(self, value: Any) -> int | float:
        is_whole, low, high = self.number_type is int, self.minimum, self.maximum
        fits = isinstance(value, Integral if is_whole else Real) and not isinstance(value, bool)
        if fits and (low is None or value >= low) and (high is None or value <= high):
            return int(value) if is_whole else float(value)
        words = [
            "a whole number" if is_whole else "a number",
            "" if low is None else f"from {low:g}",
            "" if high is None else f"to {high}",
        ]
        raise InputError(f"{self.flag} {value!r}: has to be {' '.join(filter(None, words))}")


class SourceOptions(TypedDict, total=False):
    """The two options that `run_search` also takes by position."""

    space: Annotated[
        str | Path | None,
        Option("A shipped space (see `raycae spaces`) or a file.", "NAME|FILE", default_text="ex3"),
    ]
    data: Annotated[
        str | Path | None,
        Option(
            "cifar10, photos, or a folder of Parquet files or of images.",
            "SOURCE",
            default_text="the space's",
            is_recorded=True,
        ),
    ]


class KeywordOptions(TypedDict, total=False):
    """The options that `run_search` takes by name alone."""

    trials: Annotated[
        int | str | None,
        Option("Trials of the study in all; +N adds to them.", "N|+N", default_text="the space's"),
    ]
    epochs: Annotated[
        int | None,
        Option("Epochs a trial.", "E", default_text="the space's", minimum=1, is_recorded=True),
    ]
    hours: Annotated[float | None, Option("End the search in order after so long.", "H")]
    limit: Annotated[
        int | None,
        Option(
            "Images for training and validation together.",
            "IMAGES",
            default_text="all",
            minimum=16,
            is_recorded=True,
        ),
    ]
    results: Annotated[
        str | Path | None,
        Option(
            "Where studies lie: a folder, s3://BUCKET/PATH, gs://… Has to be said on a cluster.",
            "FOLDER|URI",
            default_text="results",
            variable="RAYCAE_RESULTS",
        ),
    ]
    study: Annotated[
        str | None,
        Option("The folder under the results.", "NAME", default_text="the space's name"),
    ]
    seed: Annotated[
        int | None,
        Option(
            "Of splits, weights and proposals.",
            "S",
            default_text="0",
            minimum=0,
            maximum=MAX_SEED,
            is_recorded=True,
        ),
    ]
    sampler: Annotated[
        str | None,
        Option(
            f"{', '.join(SAMPLERS)}.",
            "NAME",
            default_text="the space's",
            choices=tuple(SAMPLERS),
            is_recorded=True,
        ),
    ]
    scheduler: Annotated[
        str | None,
        Option(
            f"Early stopping: {', '.join(SCHEDULERS)}.",
            "NAME",
            default_text="asha",
            choices=tuple(SCHEDULERS),
            is_recorded=True,
        ),
    ]
    max: Annotated[
        Mapping[str, float] | Sequence[str] | None,
        Option(
            "What a trial may have at most: latent_size, n_params, flops, epoch_time_s; may "
            "be repeated. Named points with more are left out.",
            "NAME=VALUE",
            default_text="the space's",
            is_repeatable=True,
        ),
    ]
    grace: Annotated[
        int | None,
        Option(
            "No trial is stopped before epoch E.",
            "E",
            default_text="1",
            minimum=1,
            is_recorded=True,
        ),
    ]
    first_images: Annotated[
        int | None,
        Option(
            "Few images first: epoch 1 sees so many, each further one twice as many.",
            "IMAGES",
            default_text="all",
            minimum=16,
            is_recorded=True,
        ),
    ]
    factor: Annotated[
        int | None,
        Option(
            "At each early-stopping check, keep the best 1 in F trials.",
            "F",
            default_text=str(FACTOR),
            minimum=2,
            is_recorded=True,
        ),
    ]
    repeats: Annotated[
        str | None,
        Option(
            "A proposal that was run already: refuse it, or run it with another seed: seed.",
            "HOW",
            default_text="refuse",
            choices=tuple(REPEATS),
            is_recorded=True,
        ),
    ]
    objective: Annotated[
        str | None,
        Option(
            "The least error, val_mse; or the frontier of error against a cost: frontier.",
            "WHAT",
            default_text="the space's",
            choices=OBJECTIVES,
            is_recorded=True,
        ),
    ]
    cost: Annotated[
        str | None,
        Option(
            f"Of the frontier: {', '.join(COSTS)}.",
            "COLUMN",
            default_text="latent_size",
            choices=tuple(COSTS),
            is_recorded=True,
        ),
    ]
    strata: Annotated[
        Sequence[int] | str | None,
        Option(
            "Latent sizes that the sampler strata keeps a best trial up to, spending the "
            "next one where the curve is weakest.",
            "N,N",
            default_text=f"of {','.join(map(str, USUAL_STRATA))} what the space reaches",
            is_recorded=True,
        ),
    ]
    settings: Annotated[
        int | None,
        Option(
            "Settings of the training (optimizer, learning rate, …) for each network; only "
            "its best so far goes on.",
            "K",
            default_text="1",
            minimum=1,
            maximum=1000,
            is_recorded=True,
        ),
    ]
    from_: Annotated[
        Sequence[str] | str | None,
        Option("Earlier studies whose trials the sampler knows from the beginning.", "STUDY,STUDY"),
    ]
    cpus_per_trial: Annotated[int, Option("CPU cores a trial.", "C", default=1, minimum=1)]
    gpus_per_trial: Annotated[
        float | None,
        Option(
            "GPUs a trial, e.g. 0.25 for four on one.",
            "G",
            default_text="1 if there is any",
            minimum=0.0,
        ),
    ]
    concurrent: Annotated[
        int | None, Option("Trials at a time.", "K", default_text="as many as fit", minimum=1)
    ]
    fuse: Annotated[
        int | str | None,
        Option(
            "Trials of one network (--settings) that train as one: as many as pays, none, or "
            "at most M.",
            "auto|off|M",
            default_text="auto",
        ),
    ]
    address: Annotated[
        str | None,
        Option(
            "A running Ray: auto, or its address; local: one of this machine's own.",
            "A",
            default_text="the cluster this machine is in, or its own",
        ),
    ]
    storage: Annotated[
        str | None,
        Option(
            "A database with the Optuna study, to look at, and for several searches to "
            "extend: postgresql+psycopg://…, sqlite:///FILE, journal:///FILE.",
            "URL",
            default_text="none",
        ),
    ]
    resume: Annotated[bool, Option("Go on with the study where it stands.", default=False)]
    force: Annotated[
        bool,
        Option("With --resume: go on though versions or the space have changed.", default=False),
    ]


class SearchOptions(SourceOptions, KeywordOptions, total=False):
    """All options of a search, in the order of the command's help."""


def _read_declaration() -> dict[str, Option]:
    options = {}
    for name, hint in get_type_hints(SearchOptions, include_extras=True).items():
        value_type, option = get_args(hint)
        option.name, option.value_type = name, value_type
        options[name] = option
    return options


OPTIONS = _read_declaration()
"""Every option by its name in Python."""


def complete_options(options: Mapping[str, Any]) -> dict[str, Any]:
    """Add the default of every option that is not given.

    Raises:
        TypeError: There is no such option.
    """
    if unknown := sorted(options.keys() - OPTIONS.keys()):
        raise TypeError(f"a search has no option {unknown[0]!r}; there are: {', '.join(OPTIONS)}")
    return {name: option.default for name, option in OPTIONS.items()} | dict(options)


def show_options(function: F) -> F:
    """Give a function that takes the options as `**options` their signature and help.

    Args:
        function: It takes the options of `SourceOptions` by position or name, the others by name.

    Returns:
        The same function.
    """
    by_position = SourceOptions.__annotations__
    parameters = [
        inspect.Parameter(
            name,
            inspect.Parameter.POSITIONAL_OR_KEYWORD
            if name in by_position
            else inspect.Parameter.KEYWORD_ONLY,
            default=option.default,
            annotation=option.value_type,
        )
        for name, option in OPTIONS.items()
    ]
    lines = []
    for name, option in OPTIONS.items():
        default = f" Default: {option.default_text}." if option.default_text else ""
        lines.append(f"    {name}: {option.help}{default}")
    shown: Any = function
    shown.__signature__ = inspect.signature(function).replace(parameters=parameters)
    shown.__doc__ = "\n".join([inspect.cleandoc(function.__doc__ or ""), "", "Options:", *lines])
    return function


def format_option(value: Any) -> str:
    """Write a value as it would be typed: sequences with commas."""
    return ",".join(map(str, value)) if isinstance(value, (list, tuple)) else str(value)


def parse_trials(trials: str | None, *, so_far: int) -> int | None:
    """Parse `--trials`.

    Args:
        trials: `N` for a total of N, `+N` for N more than `so_far`, or None.
        so_far: Trials that the study has been planned with.

    Returns:
        The study's total; None if the option is not given.

    Raises:
        InputError: The text is neither.
    """
    if trials is None:
        return None
    digits = trials.removeprefix("+")
    if not re.fullmatch("[0-9]{1,9}", digits) or int(digits) < 1:
        raise InputError(f"--trials {trials}: has to be a whole number from 1, or +N to add N")
    return int(digits) + (so_far if trials.startswith("+") else 0)


def parse_strata(text: str) -> list[int]:
    """Parse `--strata`, such as `64,128,256`.

    Returns:
        The upper bound of each latent-size bin, ascending.

    Raises:
        InputError: The text is no ascending list of latent sizes.
    """
    bounds = [int(size) if re.fullmatch("[0-9]{1,9}", size) else 0 for size in text.split(",")]
    if min(bounds) < 1 or bounds != sorted(set(bounds)):
        raise InputError(f"--strata {text}: write latent sizes, each above the last: 64,128,256")
    return bounds


def parse_fuse(text: int | str | None) -> int | None:
    """Parse `--fuse`.

    Returns:
        The largest number of trials to train together; None: as many as make it faster.

    Raises:
        InputError: The value is not allowed.
    """
    if text in (None, "auto"):
        return None
    if text == "off":
        return 1
    if not re.fullmatch("[0-9]{1,4}", str(text)) or int(text or 0) < 2:
        raise InputError(f"--fuse {text}: auto, off, or how many at most, from 2 to 9999")
    return int(text or 0)


def parse_hours(hours: float | None) -> float | None:
    """Check `--hours`, which has to be above zero.

    Raises:
        InputError: It is not a number of hours above 0 and up to `MAX_HOURS`.
    """
    hours = OPTIONS["hours"].check(hours)
    if hours is not None and not 0 < hours <= MAX_HOURS:
        raise InputError(f"--hours {hours:g}: has to be above 0 and at most {MAX_HOURS:,}")
    return hours


def parse_limits(limits: Mapping[str, float] | Sequence[str] | None) -> list[str]:
    """Write the limits of `--max` as they would be typed, `NAME=VALUE`."""
    if isinstance(limits, Mapping):
        return [f"{name}={value}" for name, value in limits.items()]
    return [limits] if isinstance(limits, str) else list(limits or ())
