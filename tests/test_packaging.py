"""What a stranger installs: the wheel, the command, the documentation."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import yaml

from raycae import cli

ROOT = Path(__file__).resolve().parents[1]
COMMANDS = sorted(
    command.name or command.callback.__name__  # type: ignore[union-attr]
    for command in cli.app.registered_commands
)


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
    where = "import raycae.space as s; print(s.spaces_folder())"
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
    assert (wheel / "raycae" / "report.html.j2").exists()


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_is_documented(command: str) -> None:
    """Oracle: the README shows it, `--help` has an example of it, and asking costs neither torch
    nor Ray."""
    assert f"raycae {command}" in (ROOT / "README.md").read_text()
    code = (
        "import sys; from raycae.cli import app\n"
        f"try: app(['{command}', '--help'])\n"
        "except SystemExit: pass\n"
        "print('heavy:', {'torch', 'ray'} & set(sys.modules))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True
    )
    assert f"Example: raycae {command}" in " ".join(done.stdout.split())
    assert "heavy: set()" in done.stdout


def test_readme_options_exist() -> None:
    """Oracle: every `--option` that the README shows is one that some command has."""
    from typer.main import get_command

    known = {"--help", "--version"}
    for command in get_command(cli.app).commands.values():  # type: ignore[attr-defined]
        known |= {option for param in command.params for option in param.opts}
    blocks = re.findall(r"```sh\n(.*?)```", (ROOT / "README.md").read_text(), re.S)
    lines = [line for block in blocks for line in block.splitlines() if "raycae " in line]
    shown = {option for line in lines for option in re.findall(r"(?<=\s)--[a-z][a-z-]*", line)}
    assert shown - known == set()


def test_no_module_shadows_the_standard_library() -> None:
    """Oracle: Python's own list. `python raycae/search.py` puts the package's folder first."""
    modules = {path.stem for path in (ROOT / "raycae").glob("*.py")} - {"__init__", "__main__"}
    assert modules & sys.stdlib_module_names == set()


def test_rooms_import_one_way() -> None:
    """Oracle: the house's rule which room may know which, by a fresh interpreter for each."""
    rules = {
        "space": {"torch", "ray"},
        "architecture": {"torch", "ray", "optuna"},
        "study": {"torch", "ray"},
        "searcher": {"torch", "ray"},
        "stopping": {"torch", "ray", "optuna"},
        "results": {"torch", "ray", "optuna"},
        "figures": {"torch", "ray", "optuna"},
        "canvas": {"torch", "ray", "optuna"},
        "effects": {"torch", "ray"},
        "health": {"torch", "ray"},
        "report": {"torch", "ray"},
        "comparison": {"torch", "ray"},
        "reader": {"torch", "ray", "optuna"},
        "dashboard": {"torch", "ray"},
        "recorded": {"torch", "ray"},
        "simulate": {"torch", "ray"},
        "predict": {"torch", "ray"},
        "export": {"torch", "ray"},
        "card": {"torch", "ray", "optuna"},
        "codec": {"ray", "optuna"},
        "training": {"ray", "optuna"},
        "cohort": {"ray", "optuna"},
        "data": {"torch", "ray", "optuna"},
        "nodes": {"torch", "ray", "optuna"},
        "ray_session": {"torch", "ray", "optuna"},
        "search": {"torch", "ray"},
        "jobs": {"torch", "ray"},
        "cli": {"torch", "ray"},
    }
    code = "import sys, importlib; importlib.import_module('raycae.' + sys.argv[1])\n"
    code += "print(*sorted({'torch', 'ray', 'optuna'} & set(sys.modules)))"
    for room, forbidden in rules.items():
        done = subprocess.run(
            [sys.executable, "-c", code, room], capture_output=True, text=True, check=True
        )
        assert set(done.stdout.split()) & forbidden == set(), room


def test_training_needs_little() -> None:
    """Oracle: what a machine has that is lent for its GPU, which is torch and little else: the
    training core leaves all but numpy, Pillow, pydantic and safetensors out."""
    code = "import sys, raycae.cohort, raycae.data\nprint(*{m.split('.')[0] for m in sys.modules})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    left_out = "ray optuna pandas pyarrow plotly typer rich scipy yaml skimage filelock jinja2"
    assert set(done.stdout.split()) & set(left_out.split()) == set()


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
