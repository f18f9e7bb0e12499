"""What a stranger installs: the wheel, the command, the documentation."""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
import textwrap
import venv
import zipfile
from importlib.metadata import distribution, requires
from pathlib import Path

import pytest
import yaml
from synthetic_study import long_study

from raycae.cli import main

ROOT = Path(__file__).resolve().parents[2]
USER_PAGES = [ROOT / "README.md", *sorted((ROOT / "docs" / "guide").glob("*.md"))]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, unpacked as an installer would."""
    folder = tmp_path_factory.mktemp("wheel")
    subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)],
        cwd=ROOT,
        check=True,
        capture_output=True,
        timeout=60,
    )
    (packed,) = folder.glob("*.whl")
    zipfile.ZipFile(packed).extractall(folder / "installed")
    return folder / "installed"


def test_spaces_ship_in_the_wheel(wheel: Path, tmp_path: Path) -> None:
    """Oracle: the installed package alone, from another folder, knows every space and draws from
    it; `--version` is the project's."""
    env = {**os.environ, "PYTHONPATH": str(wheel)}
    run = [sys.executable, "-m", "raycae"]
    where = "from raycae.space.loading import get_spaces_folder; print(get_spaces_folder())"
    for arguments, expected in (
        ([sys.executable, "-c", where], str(wheel / "raycae" / "search_spaces")),
        ([*run, "spaces"], "quickstart"),
        ([*run, "preview", "--space", "ex3", "-n", "2"], "base"),
        ([*run, "--version"], "raycae 0.1.0"),
    ):
        done = subprocess.run(
            arguments, env=env, cwd=tmp_path, capture_output=True, text=True, timeout=60, check=True
        )
        assert expected in done.stdout
    assert (wheel / "raycae" / "report" / "templates" / "report.html.j2").exists()
    assert (wheel / "raycae" / "py.typed").exists()


STRANGERS_SCRIPT = """
from pathlib import Path

import raycae

def show(progress: raycae.SearchProgress) -> None:
    if progress.event == "epoch" and progress.epoch_val_mse is not None:
        print(progress.trial_number, progress.epochs_run, f"{progress.epoch_val_mse:.5f}")

def compress(folder: Path) -> raycae.Codec:
    space = {"task": "reconstruct", "fixed": {"latent_channels": 4}, "points": {"base": {}}}
    try:
        study = raycae.run_search(space, folder, trials=4, max={"n_params": 9000}, on_progress=show)
    except raycae.InputError as error:
        raise SystemExit(str(error)) from error
    print(study.trials["val_mse"].min(), study.epochs.columns, study.best, study.frontier())
    study.plot().write_html("plot.html")
    print(study.report(), raycae.__version__)
    return study.model(latent=256)

reader: raycae.StudyReader = raycae.open_study("results/demo")
codec: raycae.Codec = raycae.load("results/demo")
latent = codec.encode(reader.folder / "cat.png")
"""
WRONG_LINES = {
    'raycae.run_search("demo", epochs="five")': "arg-type",
    'raycae.run_search("demo", rounds=5)': "call-arg",
    'raycae.open_study("demo").model(latent="256")': "arg-type",
    'raycae.open_study("demo").trails': "attr-defined",
    "raycae.run_search(on_progress=lambda progress: progress.epochs)": "attr-defined",
    "raycae.nothing": "attr-defined",
}
"""Mistakes in the use of the public API, with mypy's code for each."""


def test_a_strangers_script_is_typed(wheel: Path, tmp_path: Path) -> None:
    """Oracle: mypy --strict on a script next to the installed wheel: it accepts the public API, and
    finds each of `WRONG_LINES`, so that the types are known. Of the dependencies, only those are
    installed whose types the API shows; torch alone would take mypy 30 s."""
    venv.create(tmp_path / "venv", with_pip=False)
    (site,) = (tmp_path / "venv").glob("lib/python*/site-packages")
    (site / "raycae").symlink_to(wheel / "raycae")
    for name in ("pandas-stubs", "numpy"):
        (site / name).symlink_to(distribution(name).locate_file(name))
    (tmp_path / "right.py").write_text(STRANGERS_SCRIPT)
    (tmp_path / "wrong.py").write_text("\n".join(["import raycae", *WRONG_LINES]))
    command = [sys.executable, "-m", "mypy", "--strict", "right.py", "wrong.py"]
    done = subprocess.run(
        [*command, "--python-executable", tmp_path / "venv" / "bin" / "python"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    found = [line for line in done.stdout.splitlines() if ": error:" in line]
    lines = enumerate(WRONG_LINES.values(), 2)
    assert len(found) == len(WRONG_LINES), done.stdout
    for (number, code), line in zip(lines, found, strict=True):
        assert line.startswith(f"wrong.py:{number}: ")
        assert line.endswith(f"[{code}]")


@pytest.mark.parametrize("command", main.COMMANDS)
def test_summary(command: str) -> None:
    """Oracle: the first paragraph of the help of the command itself, which is its docstring, or
    its beginning up to a comma or colon."""
    paragraph, _, _ = main.load_command(command).help.partition("\n\n")
    text, summary = " ".join(paragraph.split()), main.COMMANDS[command].summary
    assert summary == text or (text.startswith(summary[:-1]) and text[len(summary) - 1] in ",:")


@pytest.mark.parametrize("command", main.COMMANDS)
def test_every_command_is_documented(command: str) -> None:
    """Oracle: the README or a guide shows it, and `--help` has an example of it."""
    assert f"raycae {command}" in "".join(page.read_text() for page in USER_PAGES)
    assert f"Example: raycae {command}" in " ".join(main.load_command(command).help.split())


HEAVY = "torch ray optuna pandas pyarrow numpy PIL plotly scipy jinja2"
"""Packages that take 0.1 s of CPU or more to import."""


@pytest.mark.parametrize(
    ("words", "needed"),
    [
        ("--help", ""),
        ("--version", ""),
        *((f"{command} --help", "") for command in ("spaces", "preview", "search", "trial")),
        *((f"{command} --help", "") for command in ("show", "evaluate", "report")),
        ("spaces", ""),
        ("preview", "optuna numpy"),
        ("show", "pyarrow numpy"),
    ],
)
def test_commands_import_little(words: str, needed: str, tmp_path: Path) -> None:
    """Oracle: the packages in `HEAVY`, in a fresh process; `needed` are those that a command
    cannot do without."""
    if words == "show":
        words = f"show {long_study(tmp_path / 'long', 8)}"
    code = (
        "import sys; from raycae.cli.main import app\n"
        f"try: app({words.split()})\n"
        "except SystemExit: pass\n"
        f"print('heavy:', *sorted({{*{HEAVY.split()}}} & {{*sys.modules}}))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True
    )
    *output, heavy = done.stdout.splitlines()
    assert len(output) > 2 or words == "--version"
    assert heavy.split()[1:] == sorted(needed.split())


def test_a_worker_imports_little() -> None:
    """Oracle: what Ray Tune and torch import themselves, in a fresh process."""
    code = """
import sys, torch
from ray import tune
before = {name.partition(".")[0] for name in sys.modules}
import raycae.execution.trainable
print(*{name.partition(".")[0] for name in sys.modules} - before)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert set(done.stdout.split()) <= {"raycae", "PIL", "safetensors"}


def test_readme_options_exist() -> None:
    """Oracle: every `--option` that the README or a guide shows is one that some command has."""
    known = {"--help", "--version", "--install-completion", "--show-completion"}
    for command in map(main.load_command, main.COMMANDS):
        known |= {option for param in command.params for option in param.opts}
    text = "".join(page.read_text() for page in USER_PAGES)
    blocks = re.findall(r"```sh\n(.*?)```", text, re.S)
    lines = [line for block in blocks for line in block.splitlines() if "raycae " in line]
    shown = {option for line in lines for option in re.findall(r"(?<=\s)--[a-z][a-z-]*", line)}
    assert shown - known == set()


def test_no_module_shadows_the_standard_library() -> None:
    """Oracle: Python's own list, and the project's dependencies. `python raycae/search.py` puts the
    package's folder first."""
    names = {path.stem for path in (ROOT / "raycae").iterdir()} - {"__init__", "__main__"}
    assert names & sys.stdlib_module_names == set()
    dependencies = {
        name for entry in requires("raycae") or () for name in re.findall(r"^\w+", entry)
    }
    assert names & dependencies == set()


LAYERS = [
    {"errors", "formatting", "import_path", "provenance", "yaml_core"},
    {"config"},
    {"storage", "data"},
    {"model"},
    {"space", "training"},
    {"optimization"},
    {"study"},
    {"inference"},
    {"report"},
    {"execution"},
    {"cli"},
    {"search", "__init__", "__main__"},
]
"""The packages and modules of `raycae`, lowest first. A module imports from lower layers only, and
from its own package. (`formatting` is below `errors` within the first layer.)"""


def test_packages_import_one_way() -> None:
    """Oracle: `LAYERS`, against every import statement in the package, local ones included."""
    layer = {name: number for number, names in enumerate(LAYERS) for name in names}
    layer["formatting"] = -1
    package = ROOT / "raycae"
    assert {path.stem for path in package.iterdir() if path.suffix in ("", ".py")} - {
        "__pycache__"
    } == set(layer)
    wrong = []
    for path in package.rglob("*.py"):
        importer = path.relative_to(package).with_suffix("").parts[0]
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = []
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom):
                assert node.level == 0, f"{path}: relative import"
                names = [f"{node.module}.{alias.name}" for alias in node.names]
            for name in names:
                parts = name.split(".")
                if parts[0] != "raycae" or len(parts) < 2 or parts[1] not in layer:
                    continue
                if parts[1] != importer and layer[parts[1]] >= layer[importer]:
                    wrong.append(f"{path.relative_to(package)}:{node.lineno} imports {name}")
    assert wrong == []


def test_packages_stay_light() -> None:
    """Oracle: which of torch, Ray and Optuna a module may not load, in fresh interpreters."""
    rules = {
        "space.loading": {"torch", "ray", "optuna", "numpy"},
        "model.architecture": {"torch", "ray", "optuna"},
        "study.study": {"torch", "ray"},
        "optimization.proposer": {"torch", "ray"},
        "optimization.early_stopping": {"torch", "ray", "optuna"},
        "study.tables": {"torch", "ray", "optuna", "pandas"},
        "study.find": {"torch", "ray", "optuna", "pandas"},
        "execution.search_options": {"torch", "ray", "optuna", "pandas", "numpy"},
        "report.trials": {"torch", "ray", "optuna"},
        "report.plotting": {"torch", "ray", "optuna"},
        "report.sections.importance": {"torch", "ray"},
        "report.sections.search_health": {"torch", "ray"},
        "report.page": {"torch", "ray"},
        "report.comparison": {"torch", "ray"},
        "report.reader": {"torch", "ray", "optuna"},
        "cli.dashboard": {"torch", "ray"},
        "execution.recorded_curves": {"torch", "ray"},
        "execution.simulator": {"torch", "ray"},
        "cli.predict": {"torch", "ray"},
        "cli.export": {"torch", "ray"},
        "inference.model_card": {"torch", "ray", "optuna"},
        "inference.codec": {"ray", "optuna"},
        "training.trainer": {"ray", "optuna"},
        "training.fused": {"ray", "optuna"},
        "data": {"torch", "ray", "optuna"},
        "execution.resources": {"torch", "ray", "optuna"},
        "execution.ray_session": {"torch", "ray", "optuna"},
        "execution.runner": {"torch", "ray"},
        "cli.jobs": {"torch", "ray"},
    }
    # One interpreter for all modules with the same rule: each is checked as it is imported.
    code = textwrap.dedent(
        """
        import importlib, sys
        forbidden, *modules = sys.argv[1:]
        for module in modules:
            importlib.import_module(f"raycae.{module}")
            if loaded := {*forbidden.split()} & {*sys.modules}:
                sys.exit(f"{module} loads {loaded}")
        """
    )
    for forbidden in {frozenset(names) for names in rules.values()}:
        modules = [module for module, names in rules.items() if names == forbidden]
        done = subprocess.run(
            [sys.executable, "-c", code, " ".join(forbidden), *modules],
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr


def test_training_needs_little() -> None:
    """Oracle: what a machine has that is lent for its GPU, which is torch and little else: the
    training core leaves all but numpy, Pillow, pydantic and safetensors out."""
    code = "import sys, raycae.training.fused, raycae.data\n"
    code += "print(*{m.split('.')[0] for m in sys.modules})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    left_out = "ray optuna pandas pyarrow plotly typer rich scipy yaml skimage filelock jinja2"
    assert set(done.stdout.split()) & set(left_out.split()) == set()


def test_training_does_not_import_the_compiler() -> None:
    """Oracle: the modules of a fresh process after an epoch with each optimizer, its state saved
    and loaded, and a fused one. `torch._dynamo` and SymPy are 900 modules."""
    code = """
import sys
import numpy as np, torch
from raycae.config import resolve
from raycae.training.device import put_on_device
from raycae.training.fused import FusedTrainings
from raycae.training.trainer import OPTIMIZERS, Training
images = put_on_device(np.zeros((16, 32, 32, 3), np.uint8), torch.device("cpu"))
for name in OPTIMIZERS:
    training = Training(resolve({"optimizer": name, "averaging": 0.5}), images, images, epochs=2)
    training.run_epoch()
    training.load_state(training.state())
    training.run_epoch()
FusedTrainings([training, training]).run_epoch()
print({"torch._dynamo", "sympy"} & {*sys.modules})
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"


def test_constraints_name_every_dependency() -> None:
    """Oracle: pyproject.toml."""
    import tomllib

    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    wanted = sum(project["optional-dependencies"].values(), project["dependencies"])
    names = {re.split(r"[\[>=]", entry)[0] for entry in wanted} - {"raycae"}
    pinned = re.findall(r"^([\w-]+)==", (ROOT / "constraints.txt").read_text(), re.M)
    assert names == set(pinned)


def test_spaces_are_yaml_with_the_contracts_keys() -> None:
    """Oracle: the contract's list of keys."""
    allowed = {
        "task",
        "data",
        "budget",
        "objective",
        "params",
        "fixed",
        "points",
        "series",
        "constraints",
    }
    for path in (ROOT / "search_spaces").glob("*.yaml"):
        assert set(yaml.safe_load(path.read_text())) <= allowed
