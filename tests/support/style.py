"""Read the prose of the repository and measure its style.

`python tests/support/style.py` prints the measures of this checkout: odd phrases per 1,000 words,
names that begin with a verb, docstrings with `Args:`, and the sizes of modules, classes and
functions. `python tests/support/style.py FILE ...` prints the odd phrases of these files.
"""

from __future__ import annotations

import ast
import io
import json
import re
import statistics
import sys
import tokenize
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]

PHRASES = {
    # Private words. The field has a standard term for each of them.
    r"whoever|whomever": "a user, a process, anyone",
    r"(?<!~)nobody|somebody": "no process, no user, another process",
    r"(?:in|into|of|the|a) company": "fused group",
    r"cohorts?": "fused group",
    r"(?:\d|free|every|each|trial) places?": "trial slot",
    r"as one(?=[,.;:)]|$| (?:network|model)\b)": "fused",
    r"(?<!early-)stopping rules?": "early-stopping rule",
    r"com(?:es?|ing) to (?:a|its|the|their) rung": "reach a rung",
    r"signs? of life": "hung",
    r"lost to us|lost for good": "lost",
    r"(?:set|sets|setting|lay|lays|laid|put|puts) (?:it |them )?aside": "quarantine",
    r"mend(?:s|ed|ing)?": "repair",
    r"anew|afresh": "again, rebuilt",
    r"whole or absent": "atomic",
    r"digests?": "checksum",
    r"known from the (?:beginning|start)": "warm start",
    r"(?:go|goes|went|gone|going) on(?: with| behind| where| after| there|[.,;:)]|$)": (
        "continue, resume"
    ),
    r"(?:begin|begins|began|begun) again": "retry, restart",
    r"linear (?:code|line)s?": "PCA baseline",
    r"(?:the|a|its|their|each|every) frontiers?": "Pareto front",
    # Sentence material of a translation.
    r"so many|so much|(?<!as\s)so long(?! as)": "the number, the duration",
    r"(?-i:what) (?:is|was)(?! (?:allowed|known|left out|missing|needed|new|repaired|wrong)\b)": (
        "the noun for it"
    ),
    r"of (?:its|their|your|one's) own(?! size)": "its own, separate, custom",
    r"stands?(?! for)": "is",
    r"(?:lies|lie|lay|lying)": "is, is stored",
    r"(?:is|are|was|were|be|been) told": "receives, is notified",
    r"(?:says?|said|tells?) of": "reports, describes",
    r"(?:has|have) to be said": "required",
    r"beside": "next to, in addition to",
    r"(?:has|have|had|with|without) no say|no say in": "has no effect on",
    r"for want of": "without",
    r"(?:is|are) ones? that": "the noun for it",
    r"and what comes": "the noun for it",
    r"(?:make|makes|making|made) room": "free space",
    r"(?:give|gives|without|no) leave": "permission",
    r"(?:end|ends|ended|ending|stop|stops) (?:\w+ ){0,3}in order": "stop cleanly",
    r"keeps? the books": "coordinates",
    r"is no (?:\w+ ){1,3}that": "is not a",
}
"""Regular expressions of odd phrases, each with what to write instead."""

GROUPS: dict[str, Callable[[], list[Path]]] = {
    "raycae": lambda: [*get_modules(), *sorted((ROOT / "raycae").rglob("*.j2"))],
    "README.md": lambda: [ROOT / "README.md"],
    "CHANGELOG.md": lambda: [ROOT / "CHANGELOG.md"],
    "CONTRIBUTING.md": lambda: [ROOT / "CONTRIBUTING.md"],
    "docs": lambda: sorted((ROOT / "docs").rglob("*.md")),
    "cluster": lambda: sorted(
        path for path in (ROOT / "cluster").iterdir() if path.suffix != ".json"
    ),
    "search_spaces": lambda: sorted((ROOT / "search_spaces").glob("*.yaml")),
    "notebooks": lambda: sorted((ROOT / "analysis").glob("*.ipynb")),
    "set-up": lambda: [ROOT / name for name in ("Makefile", "pyproject.toml", ".ci/run")],
}
"""The files whose prose is searched, by group."""

NAMED_BY_LIBRARIES = frozenset({"forward", "setup", "step", "emit", "handle_starttag"})
"""Methods whose names a library gives."""

_VERBS = """
    accept accumulate acquire add adjust adopt allow announce answer append apply ask assert
    assign attach average begin blend bound build bundle cache call can cap capture carries
    catch change check choose claim clamp classify clean clear clip close collect colour
    colourise combine compare complete compute conclude configure connect construct contains
    convert copy correct correlate count create crop cut decide decode deduplicate delete
    describe detach detect determine disable discard discover divide dominate dominates download
    draw drop dump embed emit enable encode end ensure enter enumerate escape estimate evaluate
    exceeds exclude exists exit expand expect explain export express extend extract extrapolate
    fail fetch fill filter find finish fit fits flatten flush fold follow forget format freeze
    fuse gather generate get give group grow guard guess handle has hash hide highlight hold
    identify ignore illustrate import include infer init initialize insert interpolate interrupt
    invert is issue iterate join judge keep kill label lacks launch learn leave limit link list
    listen load locate lock log look lose make map mark mask match may measure merge mirror mix
    modify move must name needs normalize note notify number observe offer omit open order
    override pack pad paint parse pass patch pause pick picture place plan plot poll pop predict
    prepare preview print probe process project propose prune publish pull push put quarantine
    quote raise rank read rebuild receive reconstruct record recover reduce refine refresh
    refuse register reject release reload remembers remove rename render renew reopen repair
    repeat replace replay replicate report request require rerun reserve reset resize resolve
    restart restore restrict resume retry return reveals revert rotate round run sample save
    scale scan score search seed select send separate serve set setup shift shorten should show
    shrink shuffle silence simplify simulate skip sleep snap sort split stack start starts step
    stop store stream strip subtract suggest summarise summarize supports suppress survey
    suspend switch sync take tell terminate test tile touch trace track train transform
    translate treat trim try tune undo unlink unlock unpack unwrap update upload use validate
    verify view visit wait walk warn watch widen withdraw wrap write yield
"""

VERBS = frozenset(_VERBS.split())
"""First words of a name that count as a verb."""

MODULE_LINES = 600
CLASS_LINES = 350
FUNCTION_LINES = 80
P90_MODULE_LINES = 400
"""Limits of size, in lines; the last one is for the 90th percentile of the modules."""


@dataclass(frozen=True)
class Prose:
    """One piece of text that people read, with the line at which it begins."""

    path: Path
    line: int
    text: str


@dataclass(frozen=True)
class Finding:
    """An odd phrase and where it is."""

    place: str
    phrase: str
    instead: str

    def __str__(self) -> str:
        return f"{self.place}: {self.phrase!r}; write: {self.instead}"


def read_prose(path: Path) -> list[Prose]:
    """Split a file into the texts that people read.

    Args:
        path: A Python module, notebook, Markdown file or template; of any other file the comments
            after `#` are read.

    Returns:
        Docstrings, comments and string literals with a blank; code in backquotes is blanked.
    """
    text = path.read_text(encoding="utf-8")
    if path.suffix == ".py":
        pieces = _read_python(text)
    elif path.suffix == ".ipynb":
        pieces = _read_notebook(text)
    elif path.suffix == ".md":
        pieces = iter([(1, text)])
    elif path.suffix == ".j2":
        pieces = iter(
            [(1, _blank(r"<style>.*?</style>|<script>.*?</script>|<[^>]*>|{[{%#].*?[}%#]}", text))]
        )
    else:
        pieces = _join_lines(
            (number, match[1])
            for number, line in enumerate(text.splitlines(), 1)
            if (match := re.search(r"(?:^|\s)#(?!!)\s?(.*)", line))
        )
    return [Prose(path, line, _blank(r"`[^`\n]+`", piece)) for line, piece in pieces]


def find_phrases(proses: Iterable[Prose]) -> list[Finding]:
    """Search texts for the phrases of `PHRASES`.

    Args:
        proses: Texts from `read_prose`.

    Returns:
        One finding per match, in the order of the texts, without overlaps.
    """
    phrases = "|".join(f"({phrase})" for phrase in PHRASES)
    pattern = re.compile(rf"\b(?:{phrases})(?!\w)".replace(" ", r"\s+"), re.I)
    instead = list(PHRASES.values())
    findings = []
    for prose in proses:
        for match in pattern.finditer(prose.text):
            line = prose.line + prose.text.count("\n", 0, match.start())
            place = f"{prose.path.relative_to(ROOT).as_posix()}:{line}"
            phrase = " ".join(match[0].split())
            findings.append(Finding(place, phrase, instead[(match.lastindex or 1) - 1]))
    return findings


def count_words(proses: Iterable[Prose]) -> int:
    """Count the words of texts."""
    return sum(len(re.findall(r"[^\W\d_]{2,}", prose.text)) for prose in proses)


def get_modules() -> list[Path]:
    """Return the modules of the package, sorted by path."""
    return sorted((ROOT / "raycae").rglob("*.py"))


@cache
def _parse(path: Path) -> ast.Module:
    """Parse a module once."""
    return ast.parse(path.read_text(encoding="utf-8"))


def find_large_parts() -> list[str]:
    """List the modules, classes and functions of the package that exceed their limit.

    Returns:
        `path` or `path:name`, each with its lines, sorted by path.
    """
    large = []
    for path in get_modules():
        text = path.read_text(encoding="utf-8")
        name = path.relative_to(ROOT).as_posix()
        if (lines := len(text.splitlines())) > MODULE_LINES:
            large.append(f"{name}: {lines} lines, limit {MODULE_LINES}")
        for node in ast.walk(_parse(path)):
            if not isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
                continue
            limit = CLASS_LINES if isinstance(node, ast.ClassDef) else FUNCTION_LINES
            if (lines := (node.end_lineno or 0) - node.lineno + 1) > limit:
                large.append(f"{name}:{node.name}: {lines} lines, limit {limit}")
    return large


def measure_module_p90() -> float:
    """Return the 90th percentile of the lines of a module."""
    lines = [len(path.read_text(encoding="utf-8").splitlines()) for path in get_modules()]
    return statistics.quantiles(lines, n=10)[-1]


def list_names() -> list[str]:
    """List functions and methods of the package as `path:line name`.

    Properties, names with two leading underscores and methods that a library calls by their name
    (`NAMED_BY_LIBRARIES`) are left out.
    """
    return [
        f"{path.relative_to(ROOT).as_posix()}:{node.lineno} {node.name}"
        for path in get_modules()
        for node in ast.walk(_parse(path))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        and not node.name.startswith("__")
        and node.name not in NAMED_BY_LIBRARIES
        and not any(
            re.search(r"property$|\.setter$", ast.unparse(decorator))
            for decorator in node.decorator_list
        )
    ]


def is_verb_first(name: str) -> bool:
    """Return whether a name, or a line of `list_names`, begins with a verb."""
    return name.split()[-1].strip("_").split("_")[0] in VERBS


def list_public_functions() -> list[tuple[str, bool]]:
    """List public functions and methods that have parameters.

    Returns:
        `path:line name`, and whether the docstring has a section `Args:`.
    """
    found = []
    for path in get_modules():
        tree = _parse(path)
        classes = [
            node
            for node in tree.body
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_")
        ]
        for node in [*tree.body, *(child for owner in classes for child in owner.body)]:
            if not isinstance(node, ast.FunctionDef) or node.name.startswith("_"):
                continue
            arguments = node.args
            names = [
                argument.arg
                for argument in [*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs]
                if argument.arg not in ("self", "cls")
            ]
            if names or arguments.vararg or arguments.kwarg:
                place = f"{path.relative_to(ROOT).as_posix()}:{node.lineno} {node.name}"
                found.append((place, "Args:" in (ast.get_docstring(node) or "")))
    return found


def find_unknown_names() -> list[str]:
    """List names of code that the documentation for developers mentions and the code lacks.

    Returns:
        `path:line name` for each name in backquotes with an underscore, a dot or a capital letter
        inside that occurs in no module, test, space or configuration file.
    """
    folders = ("raycae", "tests", "analysis", "search_spaces", "cluster")
    files = [path for folder in folders for path in sorted((ROOT / folder).rglob("*"))]
    files += [ROOT / name for name in ("pyproject.toml", "Makefile", "constraints.txt")]
    paths = {path.relative_to(ROOT).as_posix() for path in files}
    suffixes = {".py", ".yaml", ".toml", ".j2", ".json", ""}
    texts = [
        path.read_text("utf-8") for path in files if path.suffix in suffixes and path.is_file()
    ]
    words = {word for text in texts for word in re.findall(r"\w+", text)}
    words |= {Path(path).stem for path in paths} | {"get_cluster_config"}
    unknown = []
    for page in [*GROUPS["docs"](), *GROUPS["CONTRIBUTING.md"]()]:
        for number, line in enumerate(page.read_text(encoding="utf-8").splitlines(), 1):
            for quoted in re.findall(r"`([\w./:]+)`", line):
                if re.search(r"/[a-z_]+\.(?:py|yaml|j2|json)$", quoted):
                    is_known = any(path.endswith(quoted) for path in paths)
                else:
                    code = re.sub(r"\.py\b", "", quoted)
                    names = re.findall(r"\w+_\w+|\w+(?=\.)|(?<=\.)\w+|[A-Z]\w+", code)
                    is_known = all(name in words for name in names)
                if not is_known:
                    unknown.append(f"{page.relative_to(ROOT).as_posix()}:{number} {quoted}")
    return unknown


def print_measures() -> None:
    """Print the measures of this checkout."""
    for name, paths in GROUPS.items():
        proses = [prose for path in paths() for prose in read_prose(path)]
        findings, words = find_phrases(proses), count_words(proses)
        rate = 1000 * len(findings) / max(words, 1)
        print(f"odd phrases in {name}: {len(findings)} in {words:,} words, {rate:.1f} per 1,000")
    names = list_names()
    verbs = sum(map(is_verb_first, names))
    print(f"verb-first names: {100 * verbs / len(names):.0f} % of {len(names)}")
    functions = list_public_functions()
    documented = sum(has_args for _, has_args in functions)
    print(
        f"public functions with Args: {100 * documented / len(functions):.0f} % of {len(functions)}"
    )
    print(f"modules: 90th percentile {measure_module_p90():.0f} lines")
    print(*find_large_parts(), sep="\n")
    print("names in the documentation that the code lacks:", *find_unknown_names(), sep="\n")


def _read_python(text: str) -> Iterator[tuple[int, str]]:
    """Yield the comments and the strings of a module, each with its line."""
    comments = [
        (token.start[0], token.string.lstrip("# "))
        for token in tokenize.generate_tokens(io.StringIO(text).readline)
        if token.type == tokenize.COMMENT
    ]
    yield from _join_lines(comments)
    tree = ast.parse(text)
    inside = {
        id(child)
        for node in ast.walk(tree)
        if isinstance(node, ast.JoinedStr)
        for child in ast.walk(node)
        if isinstance(child, ast.Constant)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.JoinedStr):
            parts = (part.value if isinstance(part, ast.Constant) else "…" for part in node.values)
            yield node.lineno, "".join(map(str, parts))
        elif (
            isinstance(node, ast.Constant)
            and isinstance(node.value, str)
            and " " in node.value
            and id(node) not in inside
        ):
            yield node.lineno, node.value


def _read_notebook(text: str) -> Iterator[tuple[int, str]]:
    """Yield the Markdown cells of a notebook and the prose of its code cells.

    The line is the number of the cell's first line in the file.
    """
    for cell in json.loads(text)["cells"]:
        source = "".join(cell["source"])
        first = json.dumps(cell["source"][0], ensure_ascii=False) if cell["source"] else ""
        line = text[: text.find(first)].count("\n") + 1
        if cell["cell_type"] == "markdown":
            yield line, source
        else:
            yield from ((line + number - 1, piece) for number, piece in _read_python(source))


def _join_lines(lines: Iterable[tuple[int, str]]) -> Iterator[tuple[int, str]]:
    """Join the texts of consecutive lines, so that a phrase is found across a line break."""
    block: list[str] = []
    first = 0
    for number, text in lines:
        if block and number != first + len(block):
            yield first, "\n".join(block)
            block = []
        if not block:
            first = number
        block.append(text)
    if block:
        yield first, "\n".join(block)


def _blank(pattern: str, text: str) -> str:
    """Replace the matches of a pattern by blanks; line breaks stay."""
    return re.sub(pattern, lambda match: re.sub(r"[^\n]", " ", match[0]), text, flags=re.S)


if __name__ == "__main__":
    if files := sys.argv[1:]:
        for file in files:
            print(*find_phrases(read_prose(Path(file).resolve())), sep="\n")
    else:
        print_measures()
