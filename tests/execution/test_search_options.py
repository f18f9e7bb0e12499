"""The options of a search are declared once; everything that reads the declaration agrees."""

from __future__ import annotations

import inspect
import shlex
import typing
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from types import NoneType
from typing import Any

import numpy as np
import pytest

import raycae
from raycae.cli import main
from raycae.errors import InputError
from raycae.execution import search_request
from raycae.execution.locations import choose_results_folder, get_study_folder
from raycae.execution.search_options import OPTIONS, SAMPLERS, SourceOptions
from raycae.optimization import samplers
from raycae.space import loading
from raycae.study.find import find_study, format_study_argument
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


def test_none_stands_for_the_default(tmp_path: Path) -> None:
    """Oracle: the same search without any of the options."""
    given = {"results": tmp_path, "address": "local"}
    nothing = dict.fromkeys(OPTIONS.keys() - given.keys())
    ours, theirs = (search_request.parse_options(given | more) for more in (nothing, {}))
    assert (ours.plan, ours.resources) == (theirs.plan, theirs.resources)
    assert (ours.folder, ours.resume_command) == (theirs.folder, theirs.resume_command)


@pytest.mark.parametrize(
    "sizes", [(64, 128, 192, 256), range(64, 257, 64), np.arange(64, 257, 64), "64,128,192,256"]
)
def test_sequences_of_any_type(tmp_path: Path, sizes: object) -> None:
    """Oracle: the list of the same numbers."""
    given = {"results": tmp_path, "address": "local", "objective": "frontier", "strata": sizes}
    assert search_request.parse_options(given).plan.strata == [64, 128, 192, 256]


def test_paths_are_taken_as_text(tmp_path: Path) -> None:
    """Oracle: the same options as text."""
    paths = {"results": tmp_path, "study": Path("x"), "storage": Path("a.db")}
    ours, theirs = (
        search_request.parse_options({"address": "local", **given})
        for given in (paths, {name: str(path) for name, path in paths.items()})
    )
    assert (ours.folder, ours.database) == (theirs.folder, theirs.database)


@pytest.mark.parametrize("name", ["sampler", "scheduler", "repeats", "objective", "cost", "max"])
def test_an_array_is_no_word(tmp_path: Path, name: str) -> None:
    """Oracle: no such word or limit: one message that names the option."""
    with pytest.raises(InputError, match=f"--{name} "):
        search_request.parse_options({"results": tmp_path, "address": "local", name: np.arange(2)})


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


@pytest.mark.parametrize("variable", [None, "", "results", "elsewhere", "s3://[b", "~no-such-user"])
@pytest.mark.parametrize("results", ["results", "elsewhere", "a third"])
def test_the_printed_command_names_the_same_study(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, results: str, variable: str | None
) -> None:
    """Oracle: the commands themselves, parsed as if they were typed in the same shell: they open
    the study that was searched, and take the same resources."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("RAYCAE_RESULTS", raising=False)
    if variable is not None:
        monkeypatch.setenv("RAYCAE_RESULTS", variable)
    given = {"hours": 1.5, "cpus_per_trial": 2, "gpus_per_trial": 0.25, "concurrent": 3}
    given |= {"fuse": 4, "address": "local"}
    request = search_request.parse_options({"results": results, "study": "x", **given})
    words = shlex.split(request.resume_command)
    assert words[:2] == ["raycae", "search"]
    typed: dict[str, Any] = main.load_command("search").make_context("search", words[2:]).params
    found = choose_results_folder(typed["results"], typed["address"])
    assert typed["resume"]
    assert get_study_folder(found, typed["study"]) == request.folder
    assert {name: typed[name] for name in given} == {**given, "fuse": "4"}

    (request.folder / "study.json").parent.mkdir(parents=True)
    (request.folder / "study.json").write_text("{}")
    (named,) = shlex.split(format_study_argument(request.folder))
    if variable not in ("s3://[b", "~no-such-user"):
        assert find_study(named, variable or "results") == request.folder


@pytest.mark.parametrize("url", ["u:secret@db/x", "db/x?user=u&password=secret"])
def test_the_printed_command_has_no_password(tmp_path: Path, url: str) -> None:
    """Oracle: by hand; the rest of the URL is there."""
    given = {"results": tmp_path, "address": "local", "storage": f"postgresql://{url}"}
    command = search_request.parse_options(given).resume_command
    assert "secret" not in command
    assert "postgresql://db/x" in command


def test_the_printed_command_on_a_cluster_names_the_results(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Oracle: by hand. A cluster requires --results, also if it is the usual folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("RAYCAE_RESULTS", raising=False)
    usual = "raycae search --resume --study x"

    def get_command(address: str | None) -> str:
        given = {"results": "results", "study": "x", "address": address}
        return search_request.parse_options(given).resume_command

    assert get_command("local") == f"{usual} --address local"
    assert get_command("auto") == f"{usual} --results {tmp_path}/results --address auto"
    monkeypatch.setenv("RAYCAE_RESULTS", "results")
    assert get_command("auto") == f"{usual} --address auto"
