"""The layout of the help texts; `test_help_snapshots.py` has their exact words."""

from __future__ import annotations

import re

import pytest
from conftest import Run

from raycae.cli import main
from raycae.cli.grouped_options import MOST_UNGROUPED
from raycae.execution.search_options import GROUPS, OPTIONS


@pytest.fixture(autouse=True)
def _terminal_of_80_columns(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setenv("NO_COLOR", "1")


def test_no_summary_is_cut(run: Run) -> None:
    """Oracle: the first sentence of each summary, in a terminal of 80 columns; Click writes `...`
    in place of what does not fit."""
    code, out, _ = run("--help")
    assert code == 0
    assert "..." not in out.partition("Search:")[2]
    for name, command in main.COMMANDS.items():
        first, _, _ = command.summary.partition(". ")
        assert re.search(rf"^  {name} +{re.escape(first)}", out, re.M), name


@pytest.mark.parametrize("command", ["", *main.COMMANDS])
def test_the_short_name_of_help(run: Run, command: str) -> None:
    """Oracle: `--help` of the same command."""
    assert run(*command.split(), "-h") == run(*command.split(), "--help")


def test_many_options_are_grouped(run: Run) -> None:
    """Oracle: the table `GROUPS` of the options of a search, in this order; each option is in one
    group. Commands with many options have no option outside the groups but `--help`."""
    assert [name for names in GROUPS.values() for name in names] == list(OPTIONS)
    _, out, _ = run("search", "--help")
    sections = dict(re.findall(r"^(\S.*):\n((?:  .*\n)+)", out, re.M))
    assert list(sections) == ["Arguments", *GROUPS, "Help"]
    for title, names in GROUPS.items():
        shown = re.findall(r"^  (--\S+)", sections[title], re.M)
        assert shown == [OPTIONS[name].flag for name in names]
    for command in map(main.load_command, main.COMMANDS):
        options = [param for param in command.params if param.param_type_name == "option"]
        titles = {param.rich_help_panel for param in options}
        assert len(options) <= MOST_UNGROUPED or None not in titles


def test_few_options_are_not_grouped(run: Run) -> None:
    """Oracle: the headings of a command with two options, one of which has a group in `search`."""
    _, out, _ = run("demo", "--help")
    assert re.findall(r"^(\S+):$", out, re.M) == ["Options"]
