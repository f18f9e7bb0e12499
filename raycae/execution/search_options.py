"""The options of a search: one declaration that the command line and Python read.

A field of `SearchOptions` declares an option: its name, the values it takes from Python, and in its
`Option` the range, the default and the help text. From it come the command `raycae search`, the
signature and help of `raycae.run_search`, the checks of single values, and which options a study
records. A new option is a field here, its name in `GROUPS`, and a field of `study.plan.Plan` if
studies record it.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from numbers import Integral, Real
from pathlib import Path
from typing import Annotated, Any, TypedDict, TypeVar, get_args, get_type_hints

from raycae.errors import InputError
from raycae.formatting import join_words
from raycae.optimization.early_stopping import FACTOR, SCHEDULERS
from raycae.optimization.frontier import COSTS, USUAL_STRATA

MAX_SEED = 2**32 - 1
"""The largest seed that NumPy and PyTorch both take."""
MAX_EPOCHS = 100_000
"""The most epochs of a trial."""
MAX_IMAGES = 1_000_000_000
"""The largest number of images that an option takes."""
MAX_GPUS = 1000
"""The most GPUs of a trial. It excludes infinity."""
SAMPLERS = ("tpe", "strata", "random", "grid", "points", "greedy")
"""The names in `optimization.samplers.SAMPLERS`, which takes 0.4 s of CPU to import."""
REPEATS = ("refuse", "seed")
"""What happens to a repeated configuration."""
OBJECTIVES = ("val_mse", "frontier")
"""What a search can minimize: the validation error, or the error at every cost."""

GROUPS = {
    "Search space and goal": ("space", "data", "limit", "max", "objective", "cost"),
    "Length": ("trials", "epochs", "hours"),
    "Proposals": ("sampler", "strata", "settings", "repeats", "from_", "seed"),
    "Early stopping": ("scheduler", "grace", "factor", "first_images"),
    "Resources": ("cpus_per_trial", "gpus_per_trial", "concurrent", "fuse", "address"),
    "Results": ("study", "results", "storage", "resume", "force"),
}
"""The options by heading, in the order of `raycae search --help`."""

PLACEHOLDER = "    options: The options of the command."
"""The line of a docstring that `show_options` replaces by the options."""

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
        group: The heading in `GROUPS`.
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
    group: str = field(init=False)

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

    @property
    def takes_only_text(self) -> bool:
        """Whether the option takes nothing but text."""
        return {*get_args(self.value_type)} == {str, type(None)}

    def complete(self, value: Any) -> Any:
        """Return a value, or the default if it is None.

        Args:
            value: What was given. A path becomes text, and so does everything if the option takes
                only text.
        """
        if value is None:
            return self.default
        return str(value) if self.takes_only_text or isinstance(value, Path) else value

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
            raise InputError(
                f"{self.flag} {value}: unknown. Use {join_words(list(self.choices), 'or')}."
            )
        return value if self.number_type is None else self._check_number(value)

    def _check_number(self, value: Any) -> int | float:
        is_whole, low, high = self.number_type is int, self.minimum, self.maximum
        fits = isinstance(value, Integral if is_whole else Real) and not isinstance(value, bool)
        if fits and (low is None or value >= low) and (high is None or value <= high):
            return int(value) if is_whole else float(value)
        words = [
            "a whole number" if is_whole else "a number",
            "" if low is None else f"of at least {low:g}" if high is None else f"from {low:g}",
            "" if high is None else f"to {high}",
        ]
        raise InputError(f"{self.flag} {value!r}: expected {' '.join(filter(None, words))}")


class SourceOptions(TypedDict, total=False):
    """The two options that `run_search` also takes by position."""

    space: Annotated[
        str | Path | Mapping[str, Any] | None,
        Option("A shipped space (see `raycae spaces`) or a file.", "NAME|FILE", default_text="ex3"),
    ]
    data: Annotated[
        str | Path | None,
        Option(
            "cifar10, photos, or a folder of Parquet files or images.",
            "SOURCE",
            default_text="the space's",
            is_recorded=True,
        ),
    ]


class KeywordOptions(TypedDict, total=False):
    """The options that `run_search` takes by name alone."""

    limit: Annotated[
        int | None,
        Option(
            "Images for training and validation together.",
            "IMAGES",
            default_text="the space's",
            minimum=16,
            maximum=MAX_IMAGES,
            is_recorded=True,
        ),
    ]
    max: Annotated[
        Mapping[str, float] | Sequence[str] | None,
        Option(
            "Upper limit for latent_size, n_params, flops or epoch_time_s; may be repeated. "
            "Predefined configurations of the space (its named points) that exceed the limit are "
            "skipped.",
            "NAME=VALUE",
            default_text="the space's",
            is_repeatable=True,
        ),
    ]
    objective: Annotated[
        str | None,
        Option(
            "Minimize the validation error (val_mse), or find the Pareto front of error and cost "
            "(frontier).",
            "WHAT",
            default_text="the space's",
            choices=OBJECTIVES,
            is_recorded=True,
        ),
    ]
    cost: Annotated[
        str | None,
        Option(
            f"Cost of the Pareto front: {', '.join(COSTS)}.",
            "COLUMN",
            default_text="latent_size",
            choices=tuple(COSTS),
            is_recorded=True,
        ),
    ]
    trials: Annotated[
        int | str | None,
        Option(
            "Total number of trials of the study; +N adds N trials.",
            "N|+N",
            default_text="the space's",
        ),
    ]
    epochs: Annotated[
        int | None,
        Option(
            "Epochs per trial.",
            "E",
            default_text="the space's",
            minimum=1,
            maximum=MAX_EPOCHS,
            is_recorded=True,
        ),
    ]
    hours: Annotated[
        float | None,
        Option("Stop cleanly after this many hours.", "H", default_text="the space's"),
    ]
    sampler: Annotated[
        str | None,
        Option(
            f"How configurations are proposed: {', '.join(SAMPLERS)}.",
            "NAME",
            default_text="the space's",
            choices=SAMPLERS,
            is_recorded=True,
        ),
    ]
    strata: Annotated[
        Sequence[int] | str | None,
        Option(
            "Upper bounds of latent-size bins. The sampler strata proposes the next trial in the "
            "bin whose error is highest compared with PCA and with smaller latents.",
            "N,N",
            default_text=f"{','.join(map(str, USUAL_STRATA))}, without bins that the space cannot "
            "reach",
            is_recorded=True,
        ),
    ]
    settings: Annotated[
        int | None,
        Option(
            "How many combinations of training settings (optimizer, learning rate, …) to try for "
            "each network. Only the best trial of each network continues; the others are stopped "
            "early.",
            "K",
            default_text="1",
            minimum=1,
            maximum=1000,
            is_recorded=True,
        ),
    ]
    repeats: Annotated[
        str | None,
        Option(
            "Repeated configurations: skip them (refuse) or rerun them with a new seed (seed).",
            "HOW",
            default_text="refuse",
            choices=REPEATS,
            is_recorded=True,
        ),
    ]
    from_: Annotated[
        Sequence[str] | str | None,
        Option("Earlier studies whose trials the sampler learns from at the start.", "STUDY,STUDY"),
    ]
    seed: Annotated[
        int | None,
        Option(
            "Random seed for splits, weights and sampling.",
            "S",
            default_text="0",
            minimum=0,
            maximum=MAX_SEED,
            is_recorded=True,
        ),
    ]
    scheduler: Annotated[
        str | None,
        Option(
            f"Early stopping: {', '.join(SCHEDULERS)}.",
            "NAME",
            default_text="asha; none with points and greedy",
            choices=tuple(SCHEDULERS),
            is_recorded=True,
        ),
    ]
    grace: Annotated[
        int | None,
        Option(
            "Do not stop a trial before epoch E.",
            "E",
            default_text="a twelfth of the epochs, at least 1",
            minimum=1,
            maximum=MAX_EPOCHS,
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
            maximum=MAX_EPOCHS,
            is_recorded=True,
        ),
    ]
    first_images: Annotated[
        int | None,
        Option(
            "Number of training images in epoch 1. The number doubles every epoch until all images "
            "are used.",
            "IMAGES",
            default_text="all",
            minimum=16,
            maximum=MAX_IMAGES,
            is_recorded=True,
        ),
    ]
    cpus_per_trial: Annotated[int, Option("CPU cores per trial.", "C", default=1, minimum=1)]
    gpus_per_trial: Annotated[
        float | None,
        Option(
            "GPUs per trial; 0.25 runs four trials on one GPU.",
            "G",
            default_text="1 if there is a GPU",
            minimum=0.0,
            maximum=MAX_GPUS,
        ),
    ]
    concurrent: Annotated[
        int | None, Option("Trials at a time.", "K", default_text="as many as fit", minimum=1)
    ]
    fuse: Annotated[
        int | str | None,
        Option(
            "With --settings: how many trials of the same network a worker trains together. auto: "
            "on a GPU, as many as save time, otherwise one; off: one; M: at most M.",
            "auto|off|M",
            default_text="auto",
        ),
    ]
    address: Annotated[
        str | None,
        Option(
            "Ray instance to use: auto or HOST:PORT connects to a running one; local starts one on "
            "this machine.",
            "A",
            default_text="RAY_ADDRESS, the cluster of this machine, or local",
        ),
    ]
    study: Annotated[
        str | None,
        Option(
            "Name of the study, which is a folder in the results.",
            "NAME",
            default_text="the space's name",
        ),
    ]
    results: Annotated[
        str | Path | None,
        Option(
            "Where studies are stored: a folder, s3://BUCKET/PATH or gs://BUCKET/PATH. Required on "
            "a cluster.",
            "FOLDER|URI",
            default_text="results",
            variable="RAYCAE_RESULTS",
        ),
    ]
    storage: Annotated[
        str | None,
        Option(
            "Database for the Optuna study, which several searches can extend: "
            "postgresql+psycopg://…, sqlite:///FILE, journal:///FILE.",
            "URL",
            default_text="none",
        ),
    ]
    resume: Annotated[bool, Option("Continue an existing study.", default=False)]
    force: Annotated[
        bool,
        Option(
            "With --resume: continue even if versions or the space have changed.", default=False
        ),
    ]


class SearchOptions(SourceOptions, KeywordOptions, total=False):
    """All options of a search, in the order of the command's help."""


def _read_declaration() -> dict[str, Option]:
    options = {}
    headings = {name: heading for heading, names in GROUPS.items() for name in names}
    for name, hint in get_type_hints(SearchOptions, include_extras=True).items():
        value_type, option = get_args(hint)
        option.name, option.value_type, option.group = name, value_type, headings[name]
        options[name] = option
    return options


OPTIONS = _read_declaration()
"""Every option by its name in Python."""


def complete_options(options: Mapping[str, Any]) -> dict[str, Any]:
    """Add the default of every option that is not given.

    Args:
        options: Values by the names in `SearchOptions`; None stands for the default.

    Raises:
        TypeError: There is no such option.
    """
    if unknown := sorted(options.keys() - OPTIONS.keys()):
        raise TypeError(f"a search has no option {unknown[0]!r}; there are: {', '.join(OPTIONS)}")
    return {name: option.complete(options.get(name)) for name, option in OPTIONS.items()}


def show_options(function: F) -> F:
    """Give a function that takes the options as `**options` their signature and help.

    Args:
        function: It takes the options of `SourceOptions` by position or name, the others by name,
            and may have further parameters. Its docstring describes them, and has `PLACEHOLDER`
            in place of the others.

    Returns:
        The same function.
    """
    by_position = SourceOptions.__annotations__
    signature = inspect.signature(function)
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
    parameters += [
        parameter
        for name, parameter in signature.parameters.items()
        if name not in OPTIONS and parameter.kind is inspect.Parameter.KEYWORD_ONLY
    ]
    lines = []
    for name, option in OPTIONS.items():
        if name not in by_position:
            default = f" Default: {option.default_text}." if option.default_text else ""
            lines.append(f"    {name}: {option.help}{default}")
    shown: Any = function
    shown.__signature__ = signature.replace(parameters=parameters)
    docstring = inspect.cleandoc(function.__doc__ or "")
    shown.__doc__ = docstring.replace(PLACEHOLDER, "\n".join(lines))
    return function
