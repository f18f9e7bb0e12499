"""The environment that a command finds: current folder, terminal, temporary folder, stale files."""

from __future__ import annotations

import codecs
import functools
import io
import os
import shutil
import socket
import stat
import subprocess
import sys
import tempfile
import textwrap
import threading
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import mounts
import pytest
from conftest import Run
from made_studies import Trial, made_study
from searches import command, trials_of
from searches import run as run_process

from raycae import import_path
from raycae.cli.terminal import ASCII_FORMS, configure_output
from raycae.errors import InputError, StorageError
from raycae.execution import ray_session as execution_ray_session
from raycae.execution.progress import Progress
from raycae.execution.ray_session import (
    RAY_SOCKET,
    SOCKET_PATH_BYTES,
    RayTarget,
    connect_ray,
    find_ray,
    require_ray_head,
)

PACKAGE = Path(import_path.__file__).resolve().parent
SHADOWS = (
    *("json", "typing", "signal", "csv", "random", "statistics", "profile", "logging/__init__"),
    *("email/__init__", "optuna", "numpy/__init__", "pandas", "rich", "yaml", "typer", "pyarrow"),
    *("torch/__init__", "ray/__init__", "raycae/__init__"),
)
"""Modules that a person may have in the current folder."""


def fill_with_shadows(folder: Path, content: str, names: tuple[str, ...] = SHADOWS) -> None:
    for name in names:
        path = folder / f"{name}.py"
        path.parent.mkdir(exist_ok=True)
        path.write_text(content)


def call(
    *arguments: str | Path, cwd: Path | None = None, **variables: str
) -> subprocess.CompletedProcess[bytes]:
    """Run a Python process; its output stays bytes."""
    env = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    return subprocess.run(
        [sys.executable, *map(str, arguments)],
        cwd=cwd,
        env={**env, **variables},
        capture_output=True,
        timeout=120,
        check=False,
    )


class TestCurrentFolder:
    """Files where a command is run never replace a package."""

    @pytest.mark.parametrize("start", ["console script", "python -m", "search.py", "PYTHONPATH"])
    def test_driver_imports_nothing_from_there(self, start: str, tmp_path: Path) -> None:
        """Oracle: each file ends the process with a message of its own; the command prints what it
        prints elsewhere."""
        names = SHADOWS
        arguments: list[str | Path] = ["preview", "--space", "quickstart", "-n", "1"]
        variables = {}
        if start == "search.py":  # As `ray submit` copies it into the home folder of the head.
            shutil.copy(PACKAGE / "search.py", tmp_path)
            arguments = [tmp_path / "search.py", "--help"]
        elif start == "python -m":  # Python itself runs a folder that is called raycae.
            names = SHADOWS[:-1]
            arguments = ["-m", "raycae", *arguments]
        else:
            scripts = tmp_path / "bin"
            scripts.mkdir()
            script = "import sys\nfrom raycae.__main__ import main\nsys.exit(main())\n"
            (scripts / "raycae").write_text(script)
            arguments = [scripts / "raycae", *arguments]
            # Files beside the script: Python itself takes raycae from there, before it can be told.
            fill_with_shadows(scripts, "raise SystemExit('shadowed')\n", SHADOWS[:-1])
            if start == "PYTHONPATH":  # An empty entry stands for the current folder.
                names = ("optuna", "numpy/__init__", "pandas", "rich", "torch/__init__", "profile")
                variables = {"PYTHONPATH": f"{os.pathsep}/nowhere"}
        fill_with_shadows(tmp_path, "raise SystemExit(f'shadowed by {__file__}')\n", names)
        done = call(*arguments, cwd=tmp_path, **variables)
        assert done.returncode == 0, done.stderr
        assert b"shadowed" not in done.stdout + done.stderr
        assert b"--space" in done.stdout or b"conv 3-8 k3" in done.stdout

    @pytest.mark.ray
    def test_workers_import_nothing_from_there(
        self, tmp_path: Path, space_file: Path, small_ray: dict[str, str]
    ) -> None:
        """Oracle: the files are imported by no worker, though the driver's script lies beside them
        and its folder is on the driver's path; every trial completes."""
        here = tmp_path / "here"
        here.mkdir()
        fill_with_shadows(here, "raise ImportError(f'shadowed by {__file__}')\n")
        script = here / "mine.py"
        script.write_text(
            textwrap.dedent(
                f"""
                import sys
                folder = sys.path.pop(0)
                import ray, raycae.execution.evaluation, raycae.execution.progress
                import raycae.execution.tuner, raycae.report.page, raycae.report.picture_sheets
                import raycae.study.summary
                sys.path.insert(0, folder)
                raycae.run_search(
                    {str(space_file)!r}, results={str(tmp_path)!r}, trials=2, epochs=1, limit=100,
                    gpus_per_trial=0, concurrent=1,
                )
                """
            )
        )
        done = subprocess.run(
            [sys.executable, script],
            cwd=here,
            env=small_ray,
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        assert (trials_of(tmp_path / "tiny")["state"] == "COMPLETE").all()

    @pytest.mark.ray
    def test_another_raycae_in_the_workers_is_refused(
        self, tmp_path: Path, space_file: Path, small_ray: dict[str, str]
    ) -> None:
        """Oracle: the driver imports a copy in which one line was added; the message names both
        folders, and no study is begun."""
        shutil.copytree(PACKAGE, tmp_path / "copy" / "raycae")
        with (tmp_path / "copy" / "raycae" / "training" / "trainer.py").open("a") as file:
            file.write("# changed\n")
        setup = f"import sys; sys.path.insert(0, {str(tmp_path / 'copy')!r})"
        arguments = command(space_file, tmp_path / "r", setup=setup)
        done = run_process(arguments, small_ray, anew=True)
        assert done.returncode == 2, done.stderr
        assert done.stderr.count("\n") == 1
        assert f"from {PACKAGE}," in done.stderr
        assert f"from {tmp_path}/copy/raycae," in done.stderr
        assert not (tmp_path / "r" / "tiny").exists()

    def test_a_checkout_that_is_not_installed(self, tmp_path: Path) -> None:
        """Oracle: a process that is started as Ray is imports the copy that its parent imports, and
        `optuna` from where everybody does. Nothing is left behind."""
        shutil.copytree(PACKAGE, tmp_path / "raycae")
        (tmp_path / "optuna.py").write_text("raise SystemExit('shadowed')\n")
        code = textwrap.dedent(
            """
            import subprocess, sys
            from contextlib import ExitStack
            sys.path.insert(0, sys.argv[1])
            from raycae.execution import ray_session
            sys.path.pop(0)
            child = "import os, raycae, optuna; print(os.path.realpath(raycae.__file__))"
            with ExitStack() as stack, ray_session._make_package_importable(stack):
                subprocess.run([sys.executable, "-c", child], check=True, cwd="/")
            """
        )
        temporary = tmp_path / "t"
        temporary.mkdir()
        done = call("-c", code, tmp_path, cwd=Path("/"), TMPDIR=str(temporary))
        assert done.returncode == 0, done.stderr
        assert done.stdout.decode().strip() == str(tmp_path / "raycae" / "__init__.py")
        assert list(temporary.iterdir()) == []

    @pytest.mark.parametrize(
        "arguments",
        [
            ["-m", "raycae", "--help"],
            ["-m", "raycae", "spaces"],
            ["-m", "raycae", "show", "ex3"],
            ["-m", "raycae", "trial", "--space", "quickstart"],
            ["-m", "raycae", "search", "--space", "quickstart"],
            [str(PACKAGE / "search.py"), "--space", "quickstart"],
        ],
        ids=" ".join,
    )
    def test_it_was_deleted(self, arguments: list[str], tmp_path: Path) -> None:
        """Oracle: exit code 2 and one line that says what to do."""
        start = 'mkdir gone && cd gone && rmdir ../gone && exec "$0" "$@"'
        done = subprocess.run(
            ["bash", "-c", start, sys.executable, *arguments],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        assert done.returncode == 2, done.stderr
        assert done.stdout == ""
        lines = [line for line in done.stderr.splitlines() if not line.startswith("shell-init")]
        assert len(lines) == 1
        assert "raycae: the current folder is not accessible" in lines[0]
        assert "cd ~" in lines[0]


LEGACY = {
    "ascii": {"PYTHONIOENCODING": "ascii"},
    "latin-1": {"PYTHONIOENCODING": "latin-1"},
    "cp1252": {"PYTHONIOENCODING": "cp1252"},
    "C locale": {"LC_ALL": "C", "PYTHONUTF8": "0"},
}


@functools.cache
def call_in_utf8(*arguments: str) -> subprocess.CompletedProcess[bytes]:
    return call("-m", "raycae", *arguments, PYTHONIOENCODING="utf-8")


class TestTerminal:
    """Output that a terminal cannot show."""

    @pytest.mark.parametrize("name", LEGACY)
    def test_commands(self, name: str) -> None:
        """Oracle: the terminal's own codec reads every byte; the text is that of a UTF-8 terminal
        with an ASCII form for what the codec lacks."""
        encoding = {"C locale": "ascii"}.get(name, name)
        variables = LEGACY[name]
        for arguments in (
            ["preview", "--space", "quickstart", "-n", "2"],  # a table with arrows
            ["search", "--help"],  # an ellipsis, which cp1252 has
            ["show", "/no such study → ✓"],  # a message on standard error
        ):
            expected = call_in_utf8(*arguments)
            done = call("-m", "raycae", *arguments, **variables)
            assert done.returncode == expected.returncode
            for legacy, utf8 in ((done.stdout, expected.stdout), (done.stderr, expected.stderr)):
                text = utf8.decode("utf-8")
                for character in set(text):
                    try:
                        character.encode(encoding)
                    except UnicodeEncodeError:
                        form = {"→": "->", "…": "...", "×": "x"}.get(character, "?")
                        text = text.replace(character, form)
                if "show" not in arguments:  # Arguments are decoded by the locale.
                    assert legacy.decode(encoding) == text
                assert b"Traceback" not in legacy
                legacy.decode(encoding)

    def test_utf8_is_left_alone(self) -> None:
        """Oracle: the bytes of the characters themselves."""
        done = call("-m", "raycae", "preview", "--space", "quickstart", PYTHONIOENCODING="utf-8")
        assert "→".encode() in done.stdout
        assert b"->" not in done.stdout

    def test_a_handler_that_was_asked_for_stays(self) -> None:
        """Oracle: what Python's `replace` writes."""
        done = call(
            *("-m", "raycae", "preview", "--space", "quickstart", "-n", "1"),
            PYTHONIOENCODING="latin-1:xmlcharrefreplace",
        )
        assert b"&#8594;" in done.stdout

    def test_the_live_view(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Oracle: what is drawn can be read by the terminal's codec."""
        from rich.console import Console

        written = io.BytesIO()
        stream = io.TextIOWrapper(written, encoding="latin-1")
        monkeypatch.setattr(sys, "stdout", stream)
        configure_output()
        with Progress(6, 3, console=Console(file=stream, force_terminal=True)) as progress:
            progress.say("evaluating 3 × 4 models → test images …")
            assert progress._live is not None
            progress._live.refresh()
            progress.warn("µ ≤ 3 – “odd” ✓")
        stream.flush()
        text = written.getvalue().decode("latin-1")
        assert "evaluating 3 × 4 models -> test images ..." in text
        assert 'µ <= 3 - "odd" ?' in text

    def test_every_replacement_is_ascii(self) -> None:
        """Oracle: Python's own codec."""
        configure_output()
        for character, form in ASCII_FORMS.items():
            assert form.isascii()
            assert character.encode("ascii", "raycae.ascii").decode("ascii") == form
        assert codecs.encode("日本", "ascii", "raycae.ascii") == b"??"

    @pytest.mark.parametrize("encoding", ["utf-8", "ascii", "latin-1"])
    def test_a_reader_that_has_gone(self, encoding: str, tmp_path: Path) -> None:
        """Oracle: `raycae show | head -1` prints the first line and nothing on standard error."""
        folder = made_study(tmp_path / "s", [Trial([0.02, 0.01])] * 30)
        shell = f'"{sys.executable}" -m raycae show "{folder}" -n 3000 | head -1'
        done = subprocess.run(
            ["bash", "-c", shell],
            env={**os.environ, "PYTHONIOENCODING": encoding},
            capture_output=True,
            text=True,
            timeout=60,
            check=True,
        )
        assert done.stdout.startswith("s: 30 COMPLETE")
        assert done.stderr == ""


class Listener:
    """A TCP port that is not a Ray head; a context manager.

    Args:
        greeting: What it sends first.
        answer: What it sends once it has received something.
        closes: Whether it closes each connection then.
    """

    def __init__(self, greeting: bytes = b"", answer: bytes = b"", closes: bool = False) -> None:
        self.greeting, self.answer, self.closes = greeting, answer, closes

    def __enter__(self) -> str:
        """Return its address."""
        self._socket = socket.create_server(("127.0.0.1", 0))
        threading.Thread(target=self._serve, daemon=True).start()
        return f"127.0.0.1:{self._socket.getsockname()[1]}"

    def __exit__(self, *_: object) -> None:
        self._socket.close()

    def _serve(self) -> None:
        open_connections = []
        while True:
            try:
                connection, _ = self._socket.accept()
                connection.sendall(self.greeting)
                if self.answer or self.closes:
                    connection.recv(1000)
                connection.sendall(self.answer)
            except OSError:
                return
            if self.closes:
                connection.close()
            open_connections.append(connection)


NOT_RAY = {
    "silent": Listener(),
    "hangs up": Listener(closes=True),
    "HTTP": Listener(answer=b"HTTP/1.0 400 Bad request\r\n\r\n", closes=True),
    "SSH": Listener(greeting=b"SSH-2.0-OpenSSH_9.2p1 Debian-2\r\n"),
    "Redis": Listener(answer=b"-ERR wrong number of arguments for 'pri' command\r\n"),
    "talks": Listener(greeting=b"x" * 100),
    "one byte": Listener(greeting=b"\0"),
}


@pytest.fixture
def no_cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Neither RAY_ADDRESS nor a file of `ray start`. Return where that file would lie."""
    monkeypatch.setenv("RAY_TMPDIR", str(tmp_path))
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setattr(execution_ray_session, "ANSWER_S", 1.0)
    (tmp_path / "ray").mkdir()
    return tmp_path / "ray" / "ray_current_cluster"


class TestWhichRay:
    """What does not answer like a Ray head is refused, with the ways out."""

    @pytest.mark.parametrize("said_by", ["option", "client", "variable", "file"])
    @pytest.mark.parametrize("what", NOT_RAY)
    def test_other_servers(
        self, what: str, said_by: str, no_cluster: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Oracle: real sockets. The message names the address, who said it, and `--address local`;
        for the file also `ray stop` and deleting the file."""
        with NOT_RAY[what] as address:
            option = None
            source = str(no_cluster)
            if said_by == "file":
                no_cluster.write_text(address)
            elif said_by == "variable":
                monkeypatch.setenv("RAY_ADDRESS", address)
                source = f"RAY_ADDRESS={address}"
            else:
                option = f"ray://{address}" if said_by == "client" else address
                source = f"--address {option}"
            with pytest.raises(InputError) as caught:
                require_ray_head(find_ray(option))
        message = str(caught.value)
        assert source in message
        assert address in message
        assert "--address local" in message
        assert ("`ray stop` or delete the file" in message) == (said_by == "file")

    def test_a_grpc_server_that_is_no_ray(
        self, no_cluster: Path, capfd: pytest.CaptureFixture[str]
    ) -> None:
        """Oracle: a real gRPC server without Ray's services, such as a wrong port of a Ray node.
        Ray's own log stays out of the terminal."""
        grpc = pytest.importorskip("grpc")
        from concurrent.futures import ThreadPoolExecutor

        server = grpc.server(ThreadPoolExecutor(1))
        port = server.add_insecure_port("127.0.0.1:0")
        server.start()
        try:
            with pytest.raises(InputError, match="not a Ray head"):
                require_ray_head(find_ray(f"127.0.0.1:{port}"))
        finally:
            server.stop(None)
        assert capfd.readouterr().err == ""

    @pytest.mark.ray
    def test_a_real_head(
        self, small_ray: dict[str, str], no_cluster: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Oracle: a running Ray is accepted; without its token the message is Ray's."""
        monkeypatch.setattr(execution_ray_session, "ANSWER_S", 60.0)
        code = (
            "from raycae.execution.ray_session import find_ray, require_ray_head; "
            "require_ray_head(find_ray(None))"
        )
        done = subprocess.run(
            [sys.executable, "-c", code], env=small_ray, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
        monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
        done = subprocess.run(
            [sys.executable, "-c", code],
            env={**small_ray, "RAY_AUTH_MODE": "disabled"},
            capture_output=True,
            text=True,
            check=False,
        )
        assert "InputError: RAY_ADDRESS=" in done.stderr
        assert "token" in done.stderr

    @pytest.mark.parametrize(
        "address",
        [
            *("head", "head:", ":6379", "head:port", "head:99999", "head:-1", "ray://head", ""),
            *("http://head:8265", "https://head:8265", "redis://head:6379", "ray:/head:1", "a b"),
        ],
    )
    def test_what_is_no_address(self, address: str, no_cluster: Path) -> None:
        """Oracle: the message says what an address looks like."""
        with pytest.raises(InputError, match=r"HOST:PORT, ray://HOST:PORT, auto or local"):
            require_ray_head(find_ray(address))

    @pytest.mark.parametrize("content", ["", "\n", "garbage", "127.0.0.1", "\0\xff:1"])
    def test_a_damaged_file(self, content: str, no_cluster: Path) -> None:
        """Oracle: the message names the file and the ways out."""
        no_cluster.write_bytes(content.encode("latin-1"))
        with pytest.raises(InputError, match=r"ray_current_cluster.*`ray stop` or delete the file"):
            require_ray_head(find_ray(None))

    @pytest.mark.parametrize("more", [[], ["--results", "r"], ["--address", "auto"]], ids=" ".join)
    def test_after_a_ray_that_crashed(
        self,
        more: list[str],
        run: Run,
        no_cluster: Path,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        """Oracle: the same message with and without --results, and no study is begun."""
        monkeypatch.delenv("RAYCAE_RESULTS", raising=False)
        monkeypatch.chdir(tmp_path)
        no_cluster.write_text("127.0.0.1:1")
        code, out, err = run("search", "--space", "quickstart", *more)
        assert (code, out) == (2, "")
        assert err.startswith(
            f"raycae: {no_cluster}, which `ray start` wrote, names a Ray head at "
        )
        assert "`ray stop`" in err
        assert "--address local" in err
        assert not (tmp_path / "r").exists()

    def test_sources(self, no_cluster: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """Oracle: Ray's documentation of `ray.init`: the option, then RAY_ADDRESS, then the file;
        `local` is always a new Ray."""
        assert find_ray(None).address is None
        assert find_ray("auto").address == "auto"
        no_cluster.write_text("10.0.0.1:6379\n")
        assert find_ray(None) == find_ray("auto")
        assert find_ray(None).address == "10.0.0.1:6379"
        assert find_ray("local").address is None
        monkeypatch.setenv("RAY_ADDRESS", "local")
        assert find_ray(None).address is None
        monkeypatch.setenv("RAY_ADDRESS", "auto")
        assert find_ray(None).address == "10.0.0.1:6379"
        monkeypatch.setenv("RAY_ADDRESS", "10.0.0.2:6379")
        assert find_ray("auto").address == "10.0.0.2:6379"
        assert find_ray("10.0.0.3:6379").address == "10.0.0.3:6379"

    @pytest.mark.ray
    def test_another_version_of_ray(
        self, space_file: Path, tmp_path: Path, small_ray: dict[str, str]
    ) -> None:
        """Oracle: Ray's own message about the versions, in one line."""
        setup = "import ray; ray.__version__ = '2.0.0'"
        done = run_process(command(space_file, tmp_path / "r", setup=setup), small_ray)
        assert done.returncode == 2, done.stderr
        assert done.stderr.count("\n") == 1
        assert "2.0.0" in done.stderr

    def test_a_ray_that_does_not_start(
        self, no_cluster: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Oracle: the cause and the folder of the log are in the message."""
        import ray

        folders = []

        def fail(**options: Any) -> None:
            folders.append(Path(options["_temp_dir"]))
            (folders[0] / "session_latest" / "logs").mkdir(parents=True)
            raise RuntimeError("The current node timed out during startup.\nMore.")

        monkeypatch.setattr(ray, "init", fail)
        monkeypatch.setenv("RAY_TMPDIR", str(no_cluster / "missing"))
        with pytest.raises(StorageError) as caught, connect_ray(None):
            pass
        logs = folders[0] / "session_latest" / "logs"
        assert f"timed out during startup. More; its log is in {logs}" in str(caught.value)
        assert logs.exists()
        shutil.rmtree(folders[0])


class TestTemporaryFolder:
    """TMPDIR and RAY_TMPDIR that Ray cannot use."""

    @pytest.fixture
    def refused(self, tmp_path: Path) -> dict[str, Path]:
        (tmp_path / "file").write_text("")
        return {
            "too long": tmp_path / ("x" * 60),
            "missing": tmp_path / "missing",
            "a file": tmp_path / "file",
            "not writable": Path("/proc"),
        }

    @pytest.mark.parametrize("variable", ["RAY_TMPDIR", "TMPDIR"])
    @pytest.mark.parametrize("what", ["too long", "missing", "a file", "not writable"])
    def test_another_folder_is_used(
        self,
        what: str,
        variable: str,
        refused: dict[str, Path],
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        """Oracle: the kernel: a socket can be bound in the folder that is taken instead; only its
        owner can enter it; it is gone afterwards, and two searches get two folders."""
        refused["too long"].mkdir()
        monkeypatch.delenv("RAY_TMPDIR", raising=False)
        monkeypatch.setenv(variable, str(refused[what]))
        problem = execution_ray_session._find_folder_problem(
            execution_ray_session._get_ray_folder()
        )
        assert problem
        with ExitStack() as stack:
            folder, other = (
                execution_ray_session._make_session_folder(problem, stack) for _ in range(2)
            )
            assert folder != other
            assert stat.S_IMODE(folder.stat().st_mode) == 0o700
            path = f"{folder}{RAY_SOCKET}"
            Path(path).parent.mkdir(parents=True)
            with socket.socket(socket.AF_UNIX) as bound:
                bound.bind(path)
        assert not folder.exists()
        assert not other.exists()

    def test_the_longest_path(self) -> None:
        """Oracle: the kernel binds a socket at the longest path that is accepted, and none at one
        more byte."""
        with tempfile.TemporaryDirectory(dir="/tmp") as short:
            room = SOCKET_PATH_BYTES - len(f"{short}/{RAY_SOCKET}")
            for more in (0, 1):
                folder = Path(short, "x" * (room + more))
                path = f"{folder}{RAY_SOCKET}"
                Path(path).parent.mkdir(parents=True)
                problem = execution_ray_session._find_folder_problem(folder)
                with socket.socket(socket.AF_UNIX) as bound:
                    if more:
                        with pytest.raises(OSError, match="too long"):
                            bound.bind(path)
                        assert "too long" in str(problem)
                    else:
                        bound.bind(path)
                        assert problem is None

    @pytest.mark.skipif(mounts.available() is not None, reason=str(mounts.available()))
    def test_a_full_disk(self, tmp_path: Path) -> None:
        """Oracle: a real file system of two megabytes."""
        (tmp_path / "full").mkdir()
        with mounts.Tmpfs(tmp_path / "full", 2 * 2**20):
            assert execution_ray_session._find_folder_problem(tmp_path / "full" / "ray")

    def test_no_folder_at_all(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """Oracle: one message that names the folder, the reason and RAY_TMPDIR; nothing is left."""
        long = tmp_path / ("y" * 60)
        long.mkdir()
        monkeypatch.setenv("RAY_TMPDIR", str(long))
        monkeypatch.setenv("HOME", str(long))
        monkeypatch.setattr(execution_ray_session, "FALLBACK_FOLDERS", (str(long),))
        with pytest.raises(StorageError) as caught, connect_ray("local"):
            pass
        assert f"{long}/ray: the path is" in str(caught.value)
        assert "Set RAY_TMPDIR to a writable folder" in str(caught.value)
        assert list(long.iterdir()) == []

    @pytest.mark.long
    @pytest.mark.ray
    @pytest.mark.parametrize("what", ["too long", "missing", "a file"])
    def test_a_search(
        self, what: str, refused: dict[str, Path], space_file: Path, tmp_path: Path
    ) -> None:
        """Oracle: a real search with a Ray of its own completes; nothing of Ray is left in the
        folder, in the fallback folder or in the study. Other tests that run at the same time use
        /tmp, so the fallback folder is another one, and so is Python's own."""
        refused["too long"].mkdir()
        env = {name: os.environ[name] for name in os.environ if name != "RAY_ADDRESS"}
        more = ["--trials", "1", "--epochs", "1", "--limit", "100", "--address", "local"]
        with tempfile.TemporaryDirectory(dir="/tmp") as fallback:
            setup = (
                "import tempfile; from raycae.execution import ray_session; "
                f"ray_session.FALLBACK_FOLDERS = ({fallback!r},); tempfile.tempdir = {fallback!r}"
            )
            done = run_process(
                command(space_file, tmp_path / "r", *more, setup=setup),
                {**env, "TMPDIR": str(refused[what])},
            )
            assert done.returncode == 0, done.stderr
            assert done.stderr == ""
            assert list(Path(fallback).iterdir()) == []
        assert (trials_of(tmp_path / "r" / "tiny")["state"] == "COMPLETE").all()
        assert list(refused["too long"].iterdir()) == []
        assert not refused["missing"].exists()
        assert not list((tmp_path / "r").rglob("session_*"))


def test_targets_say_where_they_come_from() -> None:
    """Oracle: by hand."""
    target = RayTarget("1.2.3.4:5", "--address 1.2.3.4:5")
    assert "Check the address" in str(
        execution_ray_session._make_no_head_error(target, "nothing answers")
    )
