"""The options of a search are declared once; everything that reads the declaration agrees."""

from __future__ import annotations

import inspect
import typing
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from types import NoneType

import pytest

import raycae
from raycae.cli import main
from raycae.execution import search_request
from raycae.execution.search_options import OPTIONS, SAMPLERS, SourceOptions
from raycae.optimization import samplers
from raycae.space import loading
from raycae.study.plan import Plan, load_plan, read_plan_facts

PARAMETERS = dict(inspect.signature(raycae.run_search).parameters)
del PARAMETERS["on_progress"]  # A function cannot be typed on a command line.


def list_types(annotation: object) -> set[object]:
    """List the members of a union, without None."""
    return {*(typing.get_args(annotation) or (annotation,))} - {NoneType}


def test_python_and_the_command_agree() -> None:
    """Oracle: the command's parser: its options, their defaults, and what it makes of a value."""
    command = main.load_command("search")
    options = {
        param.name: param
        for param in command.params
        if param.param_type_name == "option" and param.name != "help"
    }
    assert list(options) == list(PARAMETERS)
    words: list[str] = []
    for name, parameter in PARAMETERS.items():
        assert options[name].opts == ["--" + name.rstrip("_").replace("_", "-")]
        assert options[name].default == parameter.default
        words += options[name].opts if parameter.annotation is bool else [*options[name].opts, "20"]
    typed = command.make_context("search", words).params
    for name, parameter in PARAMETERS.items():
        types = list_types(parameter.annotation)
        if type(typed[name]) in (str, list):
            assert types & {str, Sequence[str]}
        else:
            assert types == {type(typed[name])}


def test_sampler_names() -> None:
    """Oracle: the table of samplers."""
    assert tuple(samplers.SAMPLERS) == SAMPLERS


def test_the_signature_is_typed() -> None:
    """Oracle: the function's own parameters: `space` and `data` as declared, and by position."""
    written = typing.get_type_hints(inspect.unwrap(raycae.run_search))
    for name in SourceOptions.__annotations__:
        assert written[name] == PARAMETERS[name].annotation
        assert PARAMETERS[name].kind is inspect.Parameter.POSITIONAL_OR_KEYWORD
    assert all(parameter.annotation is not parameter.empty for parameter in PARAMETERS.values())


def test_unknown_option() -> None:
    """Oracle: Python's own exception for an argument that a function does not have."""
    with pytest.raises(TypeError, match="no option 'epoch'; there are: space, data"):
        raycae.run_search(epoch=3)  # type: ignore[call-arg]


def test_a_plan_records_them() -> None:
    """Oracle: the fields of `Plan` and their types; a plan with any choice can be read again."""
    fields = typing.get_type_hints(Plan)
    plan = asdict(Plan("s", "s", "photos", 1, 1, None, 0, "random", "none"))
    for name, option in OPTIONS.items():
        if not option.is_recorded:
            continue
        if option.number_type:
            assert list_types(fields[name]) == {option.number_type}
        for choice in option.choices or ():
            assert read_plan_facts({"plan": plan | {name: choice}})[name] == choice


def test_the_default_grace_is_recorded(tmp_path: Path) -> None:
    """Oracle: by hand. A new study records a twelfth of its epochs, so a later default does not
    change it; a given value stays; an older study, which records 1 or nothing, keeps 1."""
    ex2 = loading.load_space("ex2")

    def plan(**given: object) -> Plan:
        return search_request.plan_new_study(tmp_path / "s", ex2, None, given)

    assert [plan().grace, plan(epochs=52).grace, plan(epochs=52, grace=2).grace] == [1, 4, 2]
    assert plan(epochs=52, scheduler="hyperband").grace == 4
    assert plan(epochs=52, scheduler="none").grace == 1
    older = asdict(plan(epochs=52)) | {"grace": 1}
    assert load_plan({"plan": older}).grace == 1
    del older["grace"]
    assert load_plan({"plan": older}).grace == 1
