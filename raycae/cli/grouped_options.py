"""Help texts that list many options in groups.

Typer shows its groups (`rich_help_panel`) only with rich, which makes every command start later.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from typer.core import TyperCommand

MOST_UNGROUPED = 10
"""The most options that a help text lists without groups, `--help` not counted."""
OTHERS = "Help"
"""The heading of options without a group."""


def group_params(params: Iterable[Any]) -> dict[str, list[Any]]:
    """Group the arguments and options of a command.

    Args:
        params: Click's parameters, `--help` included.

    Returns:
        The parameters by heading: `Arguments` if there are any, then `Options`, or the groups if
        there are many options.
    """
    params = list(params)
    n_options = sum(param.param_type_name == "option" for param in params) - 1
    groups: dict[str, list[Any]] = {}
    for param in sorted(params, key=lambda param: param.param_type_name == "option"):
        if param.param_type_name == "argument":
            title = "Arguments"
        elif n_options <= MOST_UNGROUPED:
            title = "Options"
        else:
            title = param.rich_help_panel or OTHERS
        groups.setdefault(title, []).append(param)
    return groups


class GroupedCommand(TyperCommand):
    """A command whose help lists many options in groups."""

    def format_options(self, ctx: Any, formatter: Any) -> None:
        """Write the arguments and options under their headings.

        Args:
            ctx: Click's context of the command.
            formatter: Click's writer of help texts.
        """
        sections = {
            title: [record for param in params if (record := param.get_help_record(ctx))]
            for title, params in group_params(self.get_params(ctx)).items()
        }
        # One width for all groups, so that their texts are in one column.
        names = [name for title in sections if title != "Arguments" for name, _ in sections[title]]
        width = max(map(len, names))
        for title, rows in sections.items():
            if title != "Arguments":
                rows = [(f"{name:{width}}", text) for name, text in rows]
            with formatter.section(title):
                formatter.write_dl(rows)
