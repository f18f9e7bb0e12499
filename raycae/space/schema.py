"""The schema of a search-space file."""

from __future__ import annotations

import json
from typing import Annotated, Literal, Self

from pydantic import Field, ValidationError, model_validator

from raycae.config import Config, IsInt, Settings
from raycae.space.parameters import (
    CategoricalParameter,
    FiniteFloat,
    FloatParameter,
    IntParameter,
    Parameter,
    PositiveFloat,
    PositiveInt,
    StrictModel,
    read_choice,
)

SEARCHABLE = [name for name in Config.model_fields if name not in ("task", "image_size")]
"""Names of the settings that a space may search."""


class Bounds(StrictModel):
    """Smallest and largest allowed value, both included."""

    min: FiniteFloat | None = None
    """Smallest allowed value, included."""
    max: FiniteFloat | None = None
    """Largest allowed value, included."""

    @model_validator(mode="after")
    def _check_order(self) -> Self:
        if self.min is not None and self.max is not None and self.min > self.max:
            raise ValueError(f"min {self.min:,.0f} is above max {self.max:,.0f}")
        return self


class UpperBound(StrictModel):
    """Largest allowed value."""

    max: PositiveFloat | None = None
    """Largest allowed value, included."""


COUNT_CONSTRAINTS = ("latent_size", "n_params", "flops")
"""Constraints that are known before a trial is run."""


class Constraints(StrictModel):
    """What a trial may have; proposals that break a constraint on a count are replaced."""

    latent_size: Bounds = Bounds()
    """Number of values of the latent."""
    n_params: Bounds = Bounds()
    """Number of parameters of the network."""
    flops: Bounds = Bounds()
    """Floating-point operations of a forward pass over one image."""
    epoch_time_s: UpperBound = UpperBound()
    """A trial is stopped after an epoch that takes longer than this, in seconds."""


class Budget(StrictModel):
    """What a search of this space spends unless the command says otherwise."""

    trials: PositiveInt = 50
    """Number of trials."""
    epochs: PositiveInt = 10
    """Epochs per trial."""
    limit: Annotated[int, Field(ge=16), IsInt] | None = None
    """Number of images for training and validation together; all of them if not given."""
    hours: PositiveFloat | None = None
    """Stop cleanly after this many hours; no limit if not given."""


class SpaceFile(StrictModel):
    """The content of a search-space file."""

    task: Literal["reconstruct", "colourise"]
    """What the networks do: reconstruct images, or predict the colours of grey ones."""
    data: str = "cifar10"
    """Source of the images, as for `--data`; a relative path starts at this file."""
    budget: Budget = Budget()
    """What a search spends."""
    objective: Literal["val_mse", "frontier"] = "val_mse"
    """What a search minimises unless the command says otherwise: the validation error, or error
    and latent size, of which it finds the Pareto front."""
    params: dict[str, Parameter] = {}  # noqa: RUF012 - pydantic copies defaults
    """The settings that are searched, with their ranges."""
    fixed: Settings = Settings()
    """Settings that all trials share."""
    points: dict[str, Settings] = {}  # noqa: RUF012
    """Named configurations that are tried first; each lists only what it changes."""
    series: dict[str, Settings] = {}  # noqa: RUF012
    """Changes for `--sampler greedy`, tried in this order on top of the best trial so far."""
    constraints: Constraints = Constraints()
    """Limits for every trial."""

    @model_validator(mode="after")
    def _read_choices(self) -> Self:
        """Convert choices such as 1e2 to the type of the setting, as elsewhere in the file."""
        for name, parameter in self.params.items():
            if isinstance(parameter, CategoricalParameter) and name in SEARCHABLE:
                parameter.choices[:] = [read_choice(name, each) for each in parameter.choices]
        return self


def make_json_schema() -> str:
    """Return the JSON Schema of a space file, the text of `search_spaces/schema.json`."""
    return json.dumps(SpaceFile.model_json_schema(), indent=1, ensure_ascii=False) + "\n"


def list_file_keys() -> str:
    """List the keys of a space file, for messages."""
    return ", ".join(SpaceFile.model_fields)


def list_keys_at(error: ValidationError) -> list[str]:
    """List the keys that are allowed where a space file has an unknown one.

    Args:
        error: What pydantic found; its first fault is looked at.
    """
    path = [part for part in error.errors()[0]["loc"] if isinstance(part, str)]
    match path:
        case [_]:
            return list(SpaceFile.model_fields)
        case ["budget", *_]:
            return list(Budget.model_fields)
        case ["constraints", _]:
            return list(Constraints.model_fields)
        case ["constraints", *_]:
            return list(Bounds.model_fields)
        case ["fixed" | "points" | "series", *_]:
            return list(Config.model_fields)
        case ["params", _, kind, *_]:
            models = {"float": FloatParameter, "int": IntParameter}
            return list(models.get(kind, CategoricalParameter).model_fields)
    return []
