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


class Bounds(StrictModel):
    """What a trial may have at least and at most; both ends included."""

    min: FiniteFloat | None = None
    max: FiniteFloat | None = None

    @model_validator(mode="after")
    def _check_order(self) -> Self:
        if self.min is not None and self.max is not None and self.min > self.max:
            raise ValueError(f"min {self.min:,.0f} is above max {self.max:,.0f}")
        return self


class UpperBound(StrictModel):
    """What a trial may have at most."""

    max: PositiveFloat | None = None


COUNTED = ("latent_size", "n_params", "flops")


class Constraints(StrictModel):
    """Counts are checked before a trial is issued; a proposal outside is replaced."""

    latent_size: Bounds = Bounds()
    n_params: Bounds = Bounds()
    flops: Bounds = Bounds()
    epoch_time_s: UpperBound = UpperBound()
    """Known once it is measured: a trial is stopped after an epoch that takes longer."""


class Budget(StrictModel):
    """What a search of this space spends if the command does not say otherwise."""

    trials: PositiveInt = 50
    epochs: PositiveInt = 10
    limit: Annotated[int, Field(ge=16), IsInt] | None = None
    """Images for training and validation together; all of them if not given."""
    hours: PositiveFloat | None = None


class SpaceFile(StrictModel):
    """The file as it is written."""

    task: Literal["reconstruct", "colourise"]
    data: str = "cifar10"
    budget: Budget = Budget()
    objective: Literal["val_mse", "frontier"] = "val_mse"
    """What a search of this space is after if the command does not say otherwise: the least error,
    or the frontier of error against latent size."""
    params: dict[str, Parameter] = {}  # noqa: RUF012 - pydantic copies defaults
    fixed: Settings = Settings()
    points: dict[str, Settings] = {}  # noqa: RUF012
    series: dict[str, Settings] = {}  # noqa: RUF012
    """Changes for `--sampler greedy`, tried in this order on top of the best so far."""
    constraints: Constraints = Constraints()

    @model_validator(mode="after")
    def _read_choices(self) -> Self:
        """Bring choices such as 1e2 to the setting's type, as everywhere else in the file."""
        for name, parameter in self.params.items():
            if isinstance(parameter, CategoricalParameter) and name in SEARCHABLE:
                parameter.choices[:] = [read_choice(name, each) for each in parameter.choices]
        return self


def make_json_schema() -> str:
    """The JSON Schema of a space file, for editors; `search_spaces/schema.json` is this text."""
    return json.dumps(SpaceFile.model_json_schema(), indent=1, ensure_ascii=False) + "\n"


def list_file_keys() -> str:
    return ", ".join(SpaceFile.model_fields)


def list_keys_at(error: ValidationError) -> list[str]:
    """The keys that were allowed where the first fault found an unknown one."""
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
