"""Reading and writing YAML with the core schema of YAML 1.2, of which JSON is a part.

PyYAML implements YAML 1.1, where `1:30` is 90, `010` is 8, `yes` is a boolean and `1e-4` is text.
Its syntax is kept here and its rules for plain scalars are replaced by those of YAML 1.2.2, section
10.3.2. ruamel.yaml is no replacement: its 1.2 mode still reads `1_000` as a number and `2024-01-01`
as a date. The merge key `<<` of YAML 1.1 stays, because the shipped spaces use it.
"""

from __future__ import annotations

import itertools
import json
import math
import re
from typing import Any

import yaml

MAX_VALUES = 100_000
"""Largest number of values in one text once its aliases are expanded."""
MAX_INTEGER_BITS = 64
"""Largest size of an integer; Python refuses to print integers of more than 4,300 digits."""
BOOLEANS = {"true": True, "false": False}
INTEGER = re.compile(r"[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+")
SPECIAL = r"[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)"
FLOAT = re.compile(rf"[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?|{SPECIAL}")
CORE_SCHEMA = [
    ("bool", re.compile(r"true|True|TRUE|false|False|FALSE"), "tTfF"),
    ("int", INTEGER, "-+0123456789"),
    ("float", FLOAT, "-+.0123456789"),
    ("merge", re.compile("<<"), "<"),
    ("null", re.compile(r"null|Null|NULL|~|"), ["n", "N", "~", ""]),
]
"""Tag, pattern and possible first characters of every plain scalar that is not text."""


def load_yaml(text: str) -> Any:
    """Read one document of YAML 1.2 with the core schema, or of JSON.

    Args:
        text: The document.

    Returns:
        Dicts, lists, strings, numbers, booleans and None.

    Raises:
        yaml.YAMLError: The text is not YAML, has a key twice, or is too large once expanded.
        RecursionError: The text is nested too deeply.
    """
    try:
        return _load_json(text)
    except (ValueError, RecursionError):  # The YAML parser explains what is wrong.
        return yaml.load(text, Loader=CoreLoader)


def dump_yaml(content: Any) -> str:
    """Write a document that `load_yaml` reads as `content`; keys keep their order.

    Args:
        content: Dicts, lists, strings, numbers, booleans and None.
    """
    return yaml.dump(content, Dumper=CoreDumper, sort_keys=False)


class CoreLoader(yaml.SafeLoader):
    """Safe loader with the core schema that refuses duplicate keys and runaway aliases."""

    def get_single_node(self) -> yaml.Node | None:
        """Compose the document; refuse aliases that expand to too many values."""
        node = super().get_single_node()
        if node and _count_values(node, {}) > MAX_VALUES:
            raise yaml.YAMLError(f"its aliases expand to more than {MAX_VALUES:,} values")
        return node

    def construct_object(self, node: yaml.Node, deep: bool = False) -> Any:
        """Construct a value; refuse large integers and bytes."""
        try:
            value = super().construct_object(node, deep)
        except (ArithmeticError, AttributeError, LookupError, ValueError):
            # PyYAML's own message for `!!bool maybe` names neither the value nor its position.
            kind = node.tag.rpartition(":")[2]
            raise yaml.YAMLError(
                f"{node.value!r} is not a valid {kind} ({node.start_mark})"
            ) from None
        if isinstance(value, int) and value.bit_length() > MAX_INTEGER_BITS:
            raise yaml.YAMLError(f"{node.value!r} is too large ({node.start_mark})")
        if isinstance(value, bytes):
            # Pydantic would read the bytes as the word or the number that they spell.
            raise yaml.YAMLError(f"!!binary is not supported ({node.start_mark})")
        return value

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        """Construct a mapping; refuse repeated keys and keys that are not text."""
        seen = set()
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode):
                raise yaml.YAMLError(f"a key must be text ({key.start_mark})")
            if key.value in seen:
                raise yaml.YAMLError(f"the key {key.value!r} appears twice ({key.start_mark})")
            seen.add(key.value)
        return super().construct_mapping(node, deep)

    def construct_yaml_bool(self, node: yaml.ScalarNode) -> bool:
        """Read a boolean of the core schema."""
        return BOOLEANS[node.value.lower()]

    def construct_yaml_int(self, node: yaml.ScalarNode) -> int:
        """Read an integer of the core schema."""
        if not INTEGER.fullmatch(node.value):
            raise ValueError
        return int(node.value, 0 if node.value[:2] in ("0o", "0x") else 10)

    def construct_yaml_float(self, node: yaml.ScalarNode) -> float:
        """Read a float of the core schema."""
        if not FLOAT.fullmatch(node.value):
            raise ValueError
        return float(re.sub(r"^([-+]?)\.(?=[in])", r"\1", node.value.lower()))

    def construct_yaml_str(self, node: yaml.ScalarNode) -> str:
        r"""Join surrogate pairs: JSON escapes characters above U+FFFF as `\ud83d\ude00`."""
        text = str(self.construct_scalar(node))
        return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le")


class CoreDumper(yaml.SafeDumper):
    """Safe dumper that quotes text which the core schema would read as something else."""


for _class in (CoreLoader, CoreDumper):
    _class.yaml_implicit_resolvers = {}
    for _tag, _pattern, _first in CORE_SCHEMA:
        _whole = re.compile(rf"(?:{_pattern.pattern})\Z")
        _class.add_implicit_resolver(f"tag:yaml.org,2002:{_tag}", _whole, list(_first))
for _kind in ("bool", "int", "float", "str"):
    CoreLoader.add_constructor(
        f"tag:yaml.org,2002:{_kind}", getattr(CoreLoader, f"construct_yaml_{_kind}")
    )
# Anywhere but as a key, `<<` is text.
CoreLoader.add_constructor("tag:yaml.org,2002:merge", CoreLoader.construct_yaml_str)


def _load_json(text: str) -> Any:
    """Read JSON.

    Raises:
        ValueError: The text needs the YAML parser, or its messages.
    """
    value = json.loads(
        text,
        parse_int=_parse_json_integer,
        parse_constant=_refuse_constant,
        object_pairs_hook=_build_object,
    )
    json.dumps(value, ensure_ascii=False).encode()  # Half of a surrogate pair is not text.
    return value


def _parse_json_integer(text: str) -> int:
    value = int(text)
    if value.bit_length() > MAX_INTEGER_BITS:
        raise ValueError(text)
    return value


def _refuse_constant(name: str) -> float:
    raise ValueError(name)  # NaN and Infinity are not JSON.


def _build_object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    content = dict(pairs)
    if len(content) < len(pairs):
        raise ValueError("a key appears twice")
    return content


def _count_values(node: yaml.Node, counts: dict[int, float]) -> float:
    """Count the values of a node with its aliases expanded; infinity where it contains itself."""
    if id(node) not in counts:
        # A node that is met again before its count is known contains itself.
        counts[id(node)] = math.inf
        inner = node.value if not isinstance(node, yaml.ScalarNode) else ()
        if isinstance(node, yaml.MappingNode):
            inner = itertools.chain.from_iterable(node.value)
        counts[id(node)] = 1 + sum(_count_values(part, counts) for part in inner)
    return counts[id(node)]
