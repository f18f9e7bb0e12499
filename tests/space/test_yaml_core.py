"""YAML as space files have it: the core schema of YAML 1.2, in which JSON means what it says."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from raycae.config import parse_setting, resolve
from raycae.errors import InputError
from raycae.space import loading
from raycae.space.space import Space
from raycae.yaml_core import dump_yaml, load_yaml

PLAIN: list[tuple[str, Any]] = [
    *[
        (text, text)
        for text in ("1:30", "190:20:30", "1_000", "0b11", "yes", "No", "on", "OFF", "y")
    ],
    *[(text, text) for text in ("2024-01-01", "2001-12-14t21:59:43.10-05:00", "=", "0o9", "-0x1")],
    *[(text, text) for text in ("tRue", "NaN", "Infinity", "1e", "0x", "1.2.3", "+", ".", "1e5x")],
    *[("010", 10), ("-010", -10), ("+7", 7), ("0o10", 8), ("0x1F", 31), ("0", 0), ("00", 0)],
    *[("1e-4", 1e-4), ("1E4", 1e4), (".5", 0.5), ("5.", 5.0), ("-.5e+1", -5.0), ("1e3", 1000.0)],
    *[(".inf", math.inf), ("-.INF", -math.inf), ("+.Inf", math.inf)],
    *[("true", True), ("FALSE", False), ("null", None), ("~", None), ("Null", None)],
]
"""By hand from the tables of YAML 1.2.2, section 10.3.2."""


@pytest.mark.parametrize(("text", "meant"), PLAIN)
@pytest.mark.parametrize("form", ["{}", "[{}]", "- {}", "a: {}", "a: {{b: [{}]}}", "&x {}"])
def test_plain_scalars_of_the_core_schema(text: str, meant: Any, form: str) -> None:
    """Oracle: the table above; the same alone, in lists and in nested maps, of the same type."""
    value = load_yaml(form.format(text))
    while isinstance(value, list | dict):
        (value,) = value.values() if isinstance(value, dict) else value
    assert value == meant
    assert type(value) is type(meant)


@pytest.mark.parametrize(("text", "meant"), PLAIN)
def test_plain_keys_of_the_core_schema(text: str, meant: Any) -> None:
    """Oracle: the table above."""
    assert load_yaml(f"{text}: 1") == {meant: 1}


@pytest.mark.parametrize(
    ("text", "meant"),
    [
        ("!!int 010", 10),
        ("!!int '0x10'", 16),
        ("!!float 1", 1.0),
        ("!!float .inf", math.inf),
        ("!!bool True", True),
        ("!!str 010", "010"),
        ("'010'", "010"),
    ],
)
def test_explicit_tags(text: str, meant: Any) -> None:
    """Oracle: by hand; a tag changes the type and not the way a number is written."""
    assert load_yaml(text) == meant
    assert type(load_yaml(text)) is type(meant)


@pytest.mark.parametrize(
    "text", ["!!int 1:30", "!!int 1_0", "!!float 1:30", "!!bool yes", "!!int ''"]
)
def test_explicit_tags_of_other_text(text: str) -> None:
    """Oracle: none of these is one in YAML 1.2."""
    with pytest.raises(yaml.YAMLError, match="is no"):
        load_yaml(text)


texts = (
    st.text() | st.sampled_from([text for text, _ in PLAIN]) | st.sampled_from(["", "<<", "a: b"])
)
numbers = st.integers(-(2**63), 2**63) | st.floats(allow_nan=False, allow_infinity=False)
keys = texts.filter(lambda key: len(json.dumps(key)) <= 1000)
"""YAML 1.2.2, section 7.4: a key without a question mark has at most 1,024 characters."""
contents = st.recursive(
    st.none() | st.booleans() | numbers | texts,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(keys, inner, max_size=4),
    max_leaves=12,
)


def block(content: Any, indent: str = "") -> str:
    """YAML in block style, each scalar as JSON writes it; plain numbers, quoted text."""
    if not content or not isinstance(content, dict | list):
        return f" {json.dumps(content)}\n"
    pairs = content.items() if isinstance(content, dict) else ((None, each) for each in content)
    lines = (
        f"{indent}{'-' if key is None else json.dumps(key) + ':'}{block(value, indent + '  ')}"
        for key, value in pairs
    )
    return "\n" + "".join(lines)


@settings(deadline=None, max_examples=300)
@given(contents)
def test_json_is_yaml(content: Any) -> None:
    """Oracle: Python's `json`, whichever way it writes; and the same written in YAML's blocks."""
    for options in ({}, {"ensure_ascii": False}, {"indent": "\t"}, {"indent": 2}):
        text = json.dumps(content, **options)
        assert same(load_yaml(text), json.loads(text))
    assert same(load_yaml(block(content)), content)


@settings(deadline=None, max_examples=300)
@given(contents)
def test_what_is_written_is_read(content: Any) -> None:
    """Oracle: the content itself."""
    assert same(load_yaml(dump_yaml(content)), content)


def same(one: Any, other: Any) -> bool:
    """Equal, also in the types."""
    return one == other and repr(one) == repr(other)


@pytest.mark.parametrize("text", ['{"a": 1, "a": 2}', '"\\ud83d"', "9" * 40, '{"a": 1,, }'])
def test_json_is_checked_as_yaml_is(text: str) -> None:
    """Oracle: a key twice, half a character, a number beyond 64 bits and a fault of syntax are
    refused in either."""
    with pytest.raises(yaml.YAMLError):
        load_yaml(text)


# --- in a space file ------------------------------------------------------------------------------


def parse(text: str) -> Space:
    return loading.parse_space(f"task: reconstruct\n{text}", name="mine")


@pytest.mark.parametrize(
    ("text", "key"),
    [
        (
            "budget: {hours: 1:30}",
            "budget.hours: expected a number such as 0.5 or 1e-4, not the text '1:30'",
        ),
        (
            "budget: {trials: 1_000}",
            "budget.trials: expected a whole number such as 16, not the text '1_000'",
        ),
        (
            "budget: {epochs: '5'}",
            "budget.epochs: expected a whole number such as 16, not the text '5'",
        ),
        ("budget: {limit: true}", "budget.limit: expected a whole number such as 16, not True"),
        (
            "constraints: {flops: {max: 1_000}}",
            "constraints.flops.max: expected a number such as 0.5 or 1e-4, not the text '1_000'",
        ),
        (
            "constraints: {epoch_time_s: {max: 1:30}}",
            "constraints.epoch_time_s.max: expected a number such as 0.5 or 1e-4, not the text",
        ),
        ("fixed: {lr: 1_0}", "fixed.lr: expected a number such as 0.5 or 1e-4, not the text '1_0'"),
        (
            "fixed: {channels: [8, 1_6]}",
            "fixed.channels.1: expected a whole number such as 16, not the text '1_6'",
        ),
        ("fixed: {residual: yes}", "fixed.residual: expected true or false, not 'yes'"),
        ("fixed: {residual: 1}", "fixed.residual: expected true or false, not 1"),
        (
            "points: {a: {batch_size: 0b1}}",
            "points.a.batch_size: expected a whole number such as 16, not the text '0b1'",
        ),
        (
            "series: {a: {lr: 0_1}}",
            "series.a.lr: expected a number such as 0.5 or 1e-4, not the text '0_1'",
        ),
        (
            "params: {lr: {type: float, low: 1:30, high: 9}}",
            "params.lr.low: expected a number such as 0.5 or 1e-4, not the text '1:30'",
        ),
        (
            "params: {lr: {type: float, low: 1, high: 9, log: on}}",
            "params.lr.log: expected true or false, not 'on'",
        ),
        (
            "params: {depth: {type: int, low: 1, high: 2, step: '1'}}",
            "params.depth.step: expected a whole number such as 16, not the text '1'",
        ),
        (
            "params: {lr: {type: categorical, choices: [1:30]}}",
            "params.lr.choices: expected a number such as 0.5 or 1e-4, not the text '1:30'",
        ),
        (
            "params: {lr: {type: categorical, choices: [true]}}",
            "params.lr.choices: expected a number such as 0.5 or 1e-4, not True",
        ),
        (
            "params: {residual: {type: categorical, choices: [yes, no]}}",
            "params.residual.choices: expected true or false, not 'yes'",
        ),
        (
            "params: {lr: {type: float, low: 0.1, high: 0.2, when: {residual: on}}}",
            "params.lr.when.residual: expected true or false, not 'on'",
        ),
        ("points: {2024: {}}", "points.2024: this key is not text"),
        ("points: {a: {0x10: 3}}", "points.a.16: this key is not text"),
        ("true: 1", "True: this key is not text"),
        ("params: {lr: {type: float, low: 0.1, high: 0.2, when: {~: 1}}}", "params.lr.when.None: "),
    ],
)
def test_text_is_no_number_in_a_space_file(text: str, key: str) -> None:
    """Oracle: one message with the file, the key, the value and what is allowed."""
    with pytest.raises(InputError) as caught:
        parse(text)
    assert str(caught.value).startswith(f"mine.yaml: {key}")


def test_numbers_mean_the_same_everywhere_in_a_space_file() -> None:
    """Oracle: by hand, as JSON and YAML 1.2 have it."""
    mine = parse(
        """
budget: {hours: 1e-1, trials: 010, epochs: 0x10, limit: 1e3}
constraints: {n_params: {max: 1e4}, flops: {max: 1E9}}
fixed: {gammas: [.5, 1e0], image_size: 040}
params:
  lr: {type: categorical, choices: [1e-4, 1e-3, .01]}
  batch_size: {type: categorical, choices: [1e1, 010, 0x20]}
  depth: {type: int, low: 01, high: 2e0}
  latent_channels: {type: int, low: 010, high: 020}
  residual: {type: categorical, choices: [true, False]}
points:
  yes: {lr: 1e-3, channels: [010, 0o20]}
  1:30: {}
""".replace("010, 0x20", "0x20, 0o100")
    )
    budget, params = mine.budget, mine.file.params
    assert (budget.hours, budget.trials, budget.epochs, budget.limit) == (0.1, 10, 16, 1000)
    assert mine.file.constraints.n_params.max == 10_000
    assert mine.image_size == 40
    assert params["lr"].choices == [1e-4, 1e-3, 0.01]  # type: ignore[union-attr]
    batches = params["batch_size"].choices  # type: ignore[union-attr]
    assert [(type(size), size) for size in batches] == [(int, 10), (int, 32), (int, 64)]
    depth = params["depth"]
    assert (depth.low, depth.high) == (1, 2)  # type: ignore[union-attr]
    latent = params["latent_channels"]
    assert (latent.low, latent.high) == (10, 20)  # type: ignore[union-attr]
    assert params["residual"].choices == [True, False]  # type: ignore[union-attr]
    assert list(mine.points) == ["yes", "1:30"]
    assert mine.points["yes"].channels == (10, 16)


def test_a_space_as_json_is_the_same_space() -> None:
    """Oracle: the content read by PyYAML, written as JSON; the shipped files hold nothing that YAML
    1.1 reads otherwise."""
    for name in loading.list_space_names():
        shipped = loading.load_space(name)
        as_json = loading.parse_space(json.dumps(yaml.safe_load(shipped.text)), name=name)
        assert as_json.hash == shipped.hash
        assert as_json.file == shipped.file


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        ("lr=1e-4", {"lr": 1e-4}),
        ("lr=.5", {"lr": 0.5}),
        ("channels=010", {"channels": (10, 10)}),
        ("channels=[010, 0x10]", {"channels": (10, 16)}),
        ("batch_size=1e2", {"batch_size": 100}),
        ("residual=true", {"residual": True}),
        ("padding=[same, none]", {"padding": ("same", "none")}),
        ('padding=["same", "none"]', {"padding": ("same", "none")}),
        ("norm=none", {"norm": "none"}),
    ],
)
def test_set_means_the_same(typed: str, meant: dict[str, Any]) -> None:
    """Oracle: by hand, as in a space file."""
    config = resolve(dict([parse_setting(typed)]))
    assert {name: getattr(config, name) for name in meant} == meant


@pytest.mark.parametrize(
    "typed",
    ["lr=1:30", "channels=1_6", "residual=yes", "lr=true", "lr='1'", "depth=0b1", "lr=NaN", "lr="],
)
def test_set_takes_no_text_for_a_number(typed: str) -> None:
    """Oracle: what YAML 1.2 reads as text is refused, by the setting's name."""
    with pytest.raises(InputError, match=f"^{typed.partition('=')[0]}"):
        resolve(dict([parse_setting(typed)]))


@pytest.mark.parametrize(
    ("typed", "most"),
    [("1e4", 1e4), ("010", 10), ("0x10", 16), ("1_0", 10), (".5e3", 500), ("1E4", 1e4), ("7.", 7)],
)
def test_max_means_the_same(typed: str, most: float) -> None:
    """Oracle: by hand; `_` between digits is what --max takes on top."""
    bounded = loading.limit_space(parse(""), [f"n_params={typed}"])
    assert bounded.file.constraints.n_params.max == most


@pytest.mark.parametrize(
    "typed", ["1:30", "yes", "true", "-1", ".inf", ".nan", "[1]", "", "_1", "{"]
)
def test_max_takes_numbers_only(typed: str) -> None:
    """Oracle: one message with the option as it was typed."""
    with pytest.raises(InputError, match="write n_params=NUMBER"):
        loading.limit_space(parse(""), [f"n_params={typed}"])
