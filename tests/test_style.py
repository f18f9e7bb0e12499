"""The style of names, texts and sizes (CONTRIBUTING.md, "Conventions"), as a lint.

`python tests/support/style.py` prints all measures.
"""

from __future__ import annotations

from pathlib import Path

import pytest
import style

ODD_PER_1000_WORDS = 1.5
"""The largest share of odd phrases in the package."""

MIN_VERB_FIRST = 0.60
"""The smallest share of functions and methods whose names begin with a verb."""

MIN_WITH_ARGS = 0.70
"""The smallest share of public functions with parameters whose docstring has `Args:`."""


@pytest.mark.parametrize("group", [name for name in style.GROUPS if name != "raycae"])
def test_documents_have_no_odd_phrases(group: str) -> None:
    """Oracle: the table `PHRASES`; each finding names file, line, phrase and the usual word."""
    findings = [
        finding
        for path in style.GROUPS[group]()
        for finding in style.find_phrases(style.read_prose(path))
    ]
    assert not findings, "\n" + "\n".join(map(str, findings))


def test_package_has_few_odd_phrases() -> None:
    """Oracle: the table `PHRASES` and the share `ODD_PER_1000_WORDS`."""
    proses = [prose for path in style.GROUPS["raycae"]() for prose in style.read_prose(path)]
    findings = style.find_phrases(proses)
    share = 1000 * len(findings) / style.count_words(proses)
    message = f"{share:.1f} odd phrases per 1,000 words\n" + "\n".join(map(str, findings))
    assert share <= ODD_PER_1000_WORDS, message


@pytest.mark.parametrize(
    ("name", "text", "expected"),
    [
        ("a.py", '"""The trial\nstands still."""', ["a.py:2: 'stands'"]),
        ("a.py", "x = 1  # told by\n# whoever asks\n", ["a.py:2: 'whoever'"]),
        ("a.py", "# It can\n# go on\n# with it\n", ["a.py:2: 'go on with'"]),
        ("a.py", "def f(stands, beside): return f'{stands} beside {beside}'", ["a.py:1: 'beside'"]),
        ("a.py", 'digest = "digest"', []),
        ("a.md", "`stands`\n\nIt stands\n", ["a.md:3: 'stands'"]),
        ("a.yaml", "a: stands\nb: 1  # it stands\n", ["a.yaml:2: 'stands'"]),
        ("a.j2", "<style>.anew {}</style>\n<p title='anew'>{{ anew }} is anew", ["a.j2:2: 'anew'"]),
    ],
)
def test_odd_phrases_are_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, text: str, expected: list[str]
) -> None:
    """Oracle: texts with phrases at known lines."""
    monkeypatch.setattr(style, "ROOT", tmp_path)
    (tmp_path / name).write_text(text)
    found = style.find_phrases(style.read_prose(tmp_path / name))
    assert [str(finding).split(";")[0] for finding in found] == expected


def test_sizes() -> None:
    """Oracle: the limits of modules, classes and functions in `tests/support/style.py`."""
    large = style.find_large_parts()
    assert not large, "\n" + "\n".join(large)
    assert style.measure_module_p90() <= style.P90_MODULE_LINES


def test_names_begin_with_a_verb() -> None:
    """Oracle: the list `VERBS`, over all functions and methods of the package."""
    names = style.list_names()
    others = [name for name in names if not style.is_verb_first(name)]
    assert len(others) <= (1 - MIN_VERB_FIRST) * len(names), "\n" + "\n".join(others)


def test_public_functions_document_their_parameters() -> None:
    """Oracle: the section `Args:` in the docstring, over all public functions with parameters."""
    functions = style.list_public_functions()
    without = [name for name, has_args in functions if not has_args]
    assert len(without) <= (1 - MIN_WITH_ARGS) * len(functions), "\n" + "\n".join(without)
