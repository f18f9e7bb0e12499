"""The reference, written from the code while Sphinx builds the pages.

A page asks for a part with a directive:

    ```{generated} commands
    ```

Each part is a function that returns Markdown.
"""

from __future__ import annotations

import contextlib
import io
import json
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import pyarrow as pa
import typer
from pydantic import BaseModel
from sphinx.pycode import ModuleAnalyzer
from sphinx.util.docutils import SphinxDirective

from raycae import errors
from raycae.cli import main
from raycae.cli.grouped_options import group_params
from raycae.config import DECODER_STAGE_KEYS, ENCODER_STAGE_KEYS, TRAINING_KEYS, Config
from raycae.space import parameters, schema
from raycae.study import column_descriptions, records, tables
from raycae.study.plan import SPLITS


def write_commands() -> str:
    """Return the help of every command, by group."""
    lines = []
    for title, names in main.GROUPS.items():
        lines += [f"## {title}", ""]
        for name in names:
            lines += [f"### raycae {name}", "", *write_command(name), ""]
    return "\n".join(lines)


def write_command(name: str) -> list[str]:
    """Return the lines about a command: text, example, usage and options.

    Args:
        name: Its name.
    """
    command = main.load_command(name)
    context = typer.Context(command, info_name=f"raycae {name}", help_option_names=["--help", "-h"])
    paragraphs = command.help.split("\n\n")
    examples = [" ".join(each.split()[1:]) for each in paragraphs if each.startswith("Example: ")]
    text = "\n\n".join(each for each in paragraphs if not each.startswith("Example: "))
    usage = command.get_usage(context).removeprefix("Usage: ")
    groups = group_params(command.get_params(context))
    tables = []
    for title, params in groups.items():
        records = [param.get_help_record(context) for param in params]
        # Typer adds the type of a list to its metavar, such as `STUDY... <list[str]>`.
        rows = [(f"`{re.sub(' <.*>', '', record[0])}`", record[1]) for record in records if record]
        tables += [f"**{title}**", "", *write_table(("name", "meaning"), rows), ""]
    return [
        text,
        "",
        "```sh",
        *examples,
        "```",
        "",
        f"Usage: `{' '.join(usage.split())}`",
        "",
        *tables,
    ]


def write_settings() -> str:
    """Return every setting of a trial: its values, its default and its meaning."""
    groups = {
        "Images and task": ("task", "image_size", "gammas", "classes"),
        "Encoder": ("depth", *ENCODER_STAGE_KEYS),
        "Latent": ("latent_channels", "latent_kernel", "latent_convs"),
        "Decoder": (*DECODER_STAGE_KEYS, "upsample"),
        "Training": TRAINING_KEYS,
    }
    known = {name for names in groups.values() for name in names}
    others = [name for name in Config.model_fields if name not in known]
    groups = {**groups, "Whole network": tuple(others)}
    lines = []
    for title, names in groups.items():
        lines += [f"## {title}", "", *write_fields(Config, names), ""]
    return "\n".join(lines)


def write_space_file() -> str:
    """Return every key of a search-space file."""
    parts = {
        "The file": schema.SpaceFile,
        "`budget`": schema.Budget,
        "`constraints`": schema.Constraints,
        "A range in `constraints`": schema.Bounds,
        "A parameter of `type: float`": parameters.FloatParameter,
        "A parameter of `type: int`": parameters.IntParameter,
        "A parameter of `type: categorical`": parameters.CategoricalParameter,
    }
    lines = []
    for title, model in parts.items():
        lines += [f"## {title}", "", *write_fields(model, model.model_fields), ""]
    return "\n".join(lines)


def write_fields(model: type[BaseModel], names: Iterable[str]) -> list[str]:
    """Return a table of fields of a model.

    Args:
        model: The model.
        names: The fields.
    """
    content = model.model_json_schema()
    rows = []
    for name in names:
        field = content["properties"][name]
        rows.append(
            (
                f"`{name}`",
                describe_values(field, content.get("$defs", {})),
                describe_default(model, name),
                get_field_docstring(model, name),
            )
        )
    return write_table(("key", "values", "default", "meaning"), rows)


def describe_values(field: Mapping[str, Any], definitions: Mapping[str, Any]) -> str:
    """Describe the allowed values of a field in words.

    Args:
        field: Its JSON Schema.
        definitions: The definitions that the schema refers to.
    """
    if "$ref" in field or "oneOf" in field or field.get("type") == "object":
        return "a mapping"
    if "enum" in field or "const" in field:
        return ", ".join(f"`{value}`" for value in field.get("enum", [field.get("const")]))
    if "anyOf" in field:
        first, *others = field["anyOf"]
        n_most = next((other["maxItems"] for other in others if "maxItems" in other), None)
        entries = ""
        if "anyOf" in first:  # The entries of the list may be lists.
            first, inner = first["anyOf"]
            entries = f" such numbers or lists of at most {inner['maxItems']}"
        text = describe_values(first, definitions)
        return f"{text}; or a list of at most {n_most}{entries}" if n_most else text
    if field.get("type") == "array":
        return "a list"
    kinds = {"integer": "whole number", "number": "number", "boolean": "`true`, `false`"}
    words = [kinds.get(field.get("type", ""), "text")]
    for key, word in (
        ("minimum", "from"),
        ("exclusiveMinimum", "above"),
        ("maximum", "to"),
        ("exclusiveMaximum", "below"),
    ):
        if key in field:
            words.append(f"{word} {field[key]:g}")
    return " ".join(words)


def describe_default(model: type[BaseModel], name: str) -> str:
    """Return the default of a field as it is written in YAML.

    Args:
        model: Its model.
        name: Its name.
    """
    field = model.model_fields[name]
    if field.is_required():
        return "required"
    if isinstance(field.default, BaseModel) or field.default in (None, {}):
        return "none"
    value = field.default
    if isinstance(value, tuple) and len(value) == 1:  # One entry for all stages.
        value = value[0]
    return f"`{value if isinstance(value, str) else json.dumps(value)}`"


def get_field_docstring(model: type[BaseModel], name: str) -> str:
    """Return the docstring below a field, of the class that declares it.

    Args:
        model: Its model.
        name: Its name.
    """
    for parent in model.__mro__:
        docstrings = ModuleAnalyzer.for_module(parent.__module__).find_attr_docs()
        if lines := docstrings.get((parent.__name__, name)):
            return " ".join(lines).strip()
        if parent is BaseModel:
            break
    raise ValueError(f"{model.__name__}.{name} has no docstring")


def write_study_tables() -> str:
    """Return every column of the tables of a study."""
    return "\n".join(
        line
        for title, types, texts in (
            ("trials.parquet", records.TRIAL_COLUMNS, column_descriptions.TRIALS),
            ("epochs.parquet", records.EPOCH_COLUMNS, column_descriptions.EPOCHS),
            ("baselines.parquet", tables.BASELINE_COLUMNS, column_descriptions.BASELINES),
            ("pictures.parquet", tables.PICTURE_COLUMNS, column_descriptions.PICTURES),
            (SPLITS, SPLIT_COLUMNS, column_descriptions.SPLITS),
        )
        for line in (f"## {title}", "", *write_columns(types, texts), "")
    )


SPLIT_COLUMNS = {"split": pa.string(), "name": pa.string(), "checksum": pa.int64()}
"""The types of the columns that `Membership.to_parquet` writes."""


def write_columns(types: Mapping[str, pa.DataType], texts: Mapping[str, str]) -> list[str]:
    """Return a table of columns.

    Args:
        types: The type of each column.
        texts: The meaning of each column.
    """
    rows = [(f"`{name}`", f"{kind}", texts[name]) for name, kind in types.items()]
    return write_table(("column", "type", "meaning"), rows)


def write_exit_codes() -> str:
    """Return the exit codes, as the command line gives them to each exception."""
    rows = [("0", "", "Success. A search that reaches its time limit (`--hours`) also succeeds.")]
    for error in (
        errors.InputError,
        errors.StorageError,
        errors.SearchAborted,
        errors.Unfinished,
    ):
        rows.append((str(get_exit_code(error)), f"`{error.__name__}`", get_first_line(error)))
    rows += [
        (
            "130",
            "`KeyboardInterrupt`",
            "Ctrl-C (SIGINT) ended the command; a search ends cleanly. `raycae dashboard` ends "
            "with 0.",
        ),
        ("143", "`SearchInterrupted`", get_first_line(errors.SearchInterrupted)),
    ]
    return "\n".join(write_table(("code", "exception in Python", "meaning"), rows))


def get_exit_code(error: type[Exception]) -> int:
    """Return the exit code of a command that ends with an exception.

    Args:
        error: The exception.
    """
    with contextlib.redirect_stderr(io.StringIO()):
        try:
            with errors.exit_with_message():
                raise error("")
        except SystemExit as end:
            return int(end.code or 0)
    raise AssertionError(f"{error.__name__} does not end a command")


def get_first_line(documented: type) -> str:
    """Return the first line of a docstring.

    Args:
        documented: What has the docstring.
    """
    return (documented.__doc__ or "").strip().splitlines()[0]


def write_table(head: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> list[str]:
    """Return the lines of a Markdown table.

    Args:
        head: Its head.
        rows: Its rows, in Markdown.
    """
    lines = [head, tuple("---" for _ in head), *rows]
    return ["| " + " | ".join(escape_cell(cell) for cell in line) + " |" for line in lines]


def escape_cell(text: str) -> str:
    """Return a text as the cell of a Markdown table.

    Args:
        text: Markdown.
    """
    plain = text.replace("|", r"\|").replace("\n", " ")
    return re.sub(r"(?<!`)<(?!=)", "&lt;", plain) if "`" not in plain else plain


PARTS: dict[str, Callable[[], str]] = {
    "commands": write_commands,
    "settings": write_settings,
    "space-file": write_space_file,
    "tables": write_study_tables,
    "exit-codes": write_exit_codes,
}
"""The parts that a page can ask for."""


class Generated(SphinxDirective):
    """A part of the reference that is written from the code."""

    required_arguments = 1

    def run(self) -> list[Any]:
        """Return the parsed part."""
        text = PARTS[self.arguments[0]]()
        return self.parse_text_to_nodes(text, allow_section_headings=True)
