"""Searches handed to a running cluster: one real head that asks for a token, with Ray's job server,
and results in a real S3 API."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from urllib.error import HTTPError
from urllib.request import urlopen

import pytest
from conftest import SMALL_SPACE, TINY_SPACE, Run, run_trial
from object_store import ObjectStore
from ray.job_submission import JobStatus
from searches import a_trainable, epochs_so_far, trials_of, wait_for

import raycae
from raycae.cli import jobs
from raycae.execution import resuming
from raycae.execution.time_left import estimate_time_left
from raycae.storage import paths
from raycae.storage.paths import resolve_place
from raycae.storage.retry import Refused
from raycae.study.study import Study

TOKEN = "a-token-that-is-nowhere-else-0123456789"
SECRET = "a-secret-key-that-is-nowhere-else"
SECRETS = (TOKEN, SECRET)
NAME = re.compile(r"[\w.-]+-[0-9a-f]{4}\n")
TYPED = """
import contextlib, io, json, sys
from raycae.cli import main
for line in sys.stdin:
    sys.argv, code = ["raycae", *json.loads(line)], 0
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            main.main()
        except SystemExit as end:
            code = end.code or 0
    print(json.dumps([code, out.getvalue(), err.getvalue()]), flush=True)
"""


class Head:
    """A cluster of one node on this machine; a context manager. Everything of it lies in a folder
    of its own, and its ports are its own."""

    def __init__(self, env: dict[str, str]) -> None:
        self.env = {**os.environ, **env, "RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": TOKEN}
        self.env["RAY_USAGE_STATS_ENABLED"] = "0"
        self.env.pop("RAY_ADDRESS", None)
        self.folder = Path(tempfile.mkdtemp(prefix="head-", dir="/tmp"))  # sockets: a short path

    def __enter__(self) -> Head:
        gcs, jobs, client, agent = free_ports(4)
        self.address = f"http://127.0.0.1:{jobs}"
        binaries = Path(sys.executable).parent
        options = {
            **{"temp-dir": self.folder, "node-ip-address": "127.0.0.1"},
            **{"dashboard-host": "127.0.0.1", "dashboard-port": jobs, "port": gcs},
            **{"ray-client-server-port": client, "dashboard-agent-listen-port": agent},
            **{"min-worker-port": 0, "max-worker-port": 0, "num-cpus": 2, "num-gpus": 0},
            "object-store-memory": 200_000_000,
        }
        self._process = subprocess.Popen(
            [
                *(binaries / "ray", "start", "--head", "--block"),
                *(f"--{name}={value}" for name, value in options.items()),
            ],
            env={**self.env, "PATH": f"{binaries}:{os.environ['PATH']}"},
            cwd=self.folder,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        wait_for(self._answers)
        return self

    def __exit__(self, *_: object) -> None:
        self._process.terminate()
        self._process.wait(60)
        shutil.rmtree(self.folder, ignore_errors=True)

    def raycae(self, *words: object, **env: str) -> subprocess.CompletedProcess[str]:
        """A command as somebody with the token types it, but for `env`."""
        command = [sys.executable, "-m", "raycae", *map(str, words), "--address", self.address]
        return subprocess.run(
            command,
            env={**self.env, **env},
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )

    def _answers(self) -> bool:
        assert self._process.poll() is None, "the head has ended"
        try:
            urlopen(f"{self.address}/api/version", timeout=5).close()
        except HTTPError as error:
            return error.code == 401
        except OSError:
            return False
        raise AssertionError("it asks nobody for a token")


@pytest.fixture(scope="module")
def store() -> Iterator[ObjectStore]:
    with ObjectStore() as made:
        made.env["AWS_SECRET_ACCESS_KEY"] = SECRET
        yield made


@pytest.fixture(scope="module")
def head(store: ObjectStore) -> Iterator[Head]:
    with Head(store.env) as started:
        yield started


@pytest.fixture
def typed(head: Head) -> Iterator[Run]:
    """`raycae … --address HEAD`, all in one process that has the token: Ray is imported once."""
    process = subprocess.Popen(
        [sys.executable, "-c", TYPED],
        env=head.env,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdin
    assert process.stdout

    def call(*words: object) -> tuple[int, str, str]:
        process.stdin.write(json.dumps([*map(str, words), "--address", head.address]) + "\n")
        process.stdin.flush()
        code, out, err = json.loads(process.stdout.readline())
        return code, out, err

    yield call
    process.communicate()


class Typist:
    """Types commands that succeed, and remembers what they printed."""

    def __init__(self, typed: Run) -> None:
        self._typed = typed
        self.said = ""

    def __call__(self, *words: object) -> str:
        code, out, err = self._typed(*words)
        assert (code, err) == (0, "")
        self.said += out
        return out


@pytest.fixture
def studies(store: ObjectStore, monkeypatch: pytest.MonkeyPatch) -> str:
    """The URI of a folder of results whose store this process may read."""
    for name, value in store.env.items():
        monkeypatch.setenv(name, value)
    return store.uri("studies")


@pytest.fixture
def odd_space(tmp_path: Path) -> Path:
    """A search space whose path a shell would take apart."""
    path = tmp_path / "my spaces" / "a $(touch owned) & 'tiny' one.yaml"
    path.parent.mkdir()
    path.write_text(SMALL_SPACE)
    return path


def require_secrets_kept(head: Head, said: str, *folders: Path) -> None:
    """Neither the token nor the secret key is in any file of the head or in what was printed."""
    files = [path for folder in (head.folder, *folders) for path in folder.rglob("*")]
    written = {str(path): path.read_bytes() for path in files if path.is_file()}
    written["what was said"] = said.encode()
    assert {n for n, text in written.items() for s in SECRETS if s.encode() in text} == set()
    assert not list(head.folder.rglob("owned"))


@pytest.mark.ray
@pytest.mark.timeout(900)
def test_a_search_on_a_cluster(
    head: Head, typed: Run, studies: str, odd_space: Path, tmp_path: Path
) -> None:
    """Oracle: the contract. A space whose path a shell would take apart, and results whose URI it
    would, arrive as they are. The search comes to its end while nobody but the cluster runs it; its
    logs end with it, its study comes home whole, once. Nobody's token or secret key stands in
    anything that was written or said."""
    raycae_ = Typist(typed)
    both = ["--space", odd_space, "--results", studies, "--concurrent", "1", "--scheduler", "none"]
    few = ["--trials", "2", "--epochs", "1", "--max", "n_params=99999"]
    submitted = head.raycae("submit", *both, "--study", "short", *few)
    assert (submitted.returncode, submitted.stderr) == (0, "")
    assert NAME.fullmatch(submitted.stdout)
    short = submitted.stdout.strip()

    followed = raycae_("logs", short, "-f")
    assert followed.splitlines()[-1].startswith("report   s3://raycae/studies/short/report")
    assert followed == raycae_("logs", short)
    wait_for(lambda: f"{short}  SUCCEEDED, begun " in raycae_("status", short))
    told = raycae_("status", short)
    assert "trials   2 COMPLETE of 2\nbest     trial " in told
    assert raycae_("fetch", short, "-o", tmp_path / "home").strip() == str(tmp_path / "home/short")
    home = raycae.open_study(tmp_path / "home" / "short")
    there = raycae.open_study("short", studies)
    assert home.trials.equals(there.trials)
    assert (home.folder / "report.html").read_bytes() == (there.folder / "report.html").read_bytes()
    assert raycae.load(home.folder).config == raycae.load(there.folder).config
    code, _, err = typed("fetch", short, "-o", tmp_path / "home")
    assert code == 2
    assert "home/short is there already; choose another folder" in err
    command = json.loads((home.folder / "study.json").read_text())["command"]
    assert shlex.split(command) == [
        *("raycae", "search", "--space", odd_space.name, "--max", "n_params=99999"),
        *("--trials", "2", "--epochs", "1", "--scheduler", "none", "--concurrent", "1"),
        *("--study", "short", "--results", studies),
    ]
    require_secrets_kept(head, raycae_.said, home.folder)


@pytest.mark.long
@pytest.mark.ray
@pytest.mark.timeout(900)
def test_two_searches_on_a_cluster(
    head: Head, typed: Run, studies: str, odd_space: Path, tmp_path: Path
) -> None:
    """Oracle: the contract. A short search beside a long one comes to its end. The long one is
    stopped: in order, so with report and without a trial that has been lost. What is not there, or
    is still running, is refused with the names that there are."""
    raycae_ = Typist(typed)
    both = ["--space", odd_space, "--results", studies, "--concurrent", "1", "--scheduler", "none"]
    long = raycae_("submit", *both, "--study", "long", "--epochs", "9999").strip()
    folder = resolve_place(studies) / "long"
    wait_for(lambda: epochs_so_far(folder) >= 1)
    # It trains to the end of this test, with the time that nothing else needs.
    os.setpriority(os.PRIO_PROCESS, a_trainable(), 19)
    few = ["--trials", "2", "--epochs", "1"]
    short = raycae_("submit", *both, "--study", "beside", *few).strip()
    raycae_("logs", short, "-f")
    wait_for(lambda: f"{short}  SUCCEEDED, begun " in raycae_("status", short))

    listed = [line.split()[:2] for line in raycae_("jobs").splitlines()[1:]]
    assert [long, "RUNNING"] in listed
    assert [short, "SUCCEEDED"] in listed
    code, _, err = typed("fetch", long)
    assert code == 2
    assert f"{long} is still RUNNING. Read its results at" in err
    wait_for(lambda: epochs_so_far(folder) >= 2)
    assert "1 RUNNING of 6\nleft     unknown yet\n" in raycae_("status", long)
    stopped = raycae_("stop", long)
    go_on = f"--resume --study long --results {shlex.quote(studies)}"
    assert stopped == (
        f"{long}  STOPPED\nContinue with: raycae submit --address {head.address} {go_on}\n"
    )
    assert (folder / "report.html").exists()
    assert trials_of(folder)["reason"].tolist() == ["interrupted"]
    assert "Interrupted; continue with: raycae search --resume --study long" in raycae_(
        "logs", long
    )

    code, _, err = typed("status", "ex3-0000")
    assert code == 2
    assert f"has this name. Searches: {', '.join(name for name, _ in listed)}" in err
    require_secrets_kept(head, raycae_.said)


@pytest.mark.ray
@pytest.mark.parametrize(
    ("env", "message"),
    [
        ({"RAY_AUTH_TOKEN": "another"}, "Authentication failed: Forbidden: Invalid"),
        ({"RAY_AUTH_MODE": "disabled"}, "Authentication required: Unauthorized: Missing"),
        ({"RAY_AUTH_TOKEN": "", "RAY_AUTH_TOKEN_PATH": "/no"}, "RAY_AUTH_TOKEN_PATH is set but"),
    ],
    ids=["another's token", "no token", "no such file"],
)
def test_who_is_not_let_in(head: Head, env: dict[str, str], message: str) -> None:
    """Oracle: Ray's middleware refuses them; one message that says what lets you in; code 2."""
    done = head.raycae("jobs", **env)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith(f"raycae: --address {head.address}: {message}")
    assert "RAY_AUTH_MODE=token" in done.stderr
    assert done.stderr.count("\n") == 1


def test_a_head_that_does_not_answer(run: Run) -> None:
    """Oracle: a port that nobody listens at; one where somebody listens and never answers; what is
    no URL of a head."""
    (port,) = free_ports(1)
    code, out, err = run("jobs", "--address", f"http://127.0.0.1:{port}")
    assert (code, out) == (2, "")
    assert f"--address http://127.0.0.1:{port}: no head answers there: " in err
    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = f"http://127.0.0.1:{silent.getsockname()[1]}"
        code, out, err = run("stop", "ex3-0000", "--address", address)
        assert (code, out) == (2, "")
        assert err == f"raycae: --address {address}: no head answers there: timed out\n"
    code, _, err = run("jobs", "--address", "head:8265")
    assert (code, err) == (
        2,
        "raycae: --address head:8265: must be a URL, such as http://HEAD:8265\n",
    )


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "--results is required"),
        (["--results", "nowhere"], "--results nowhere: there is no such folder here"),
        (
            ["--results", ".", "--data", "pictures"],
            "--data pictures: relative paths cannot",
        ),
        (["--results", ".", "--space", "ex4"], "--space ex4: unknown. Did you mean ex3?"),
        (["--results", ".", "--trials", "0"], "--trials 0: expected a whole number of at least 1"),
        (["--results", ".", "--epochs", "0"], "'--epochs'"),
        (["--results", ".", "--trails", "5"], "No such option"),
        (["--results", ".", "--resume"], "To start one, remove --resume"),
        (
            ["--results", ".", "--storage", "postgresql://me:pw@there/optuna"],
            "--storage: leave the password out of the URL",
        ),
        (
            ["--results", ".", "--storage", "mysql+pymysql://there/optuna?passwd=pw"],
            "--storage: leave the password out of the URL",
        ),
    ],
    ids=lambda value: " ".join(value)[:40] if isinstance(value, list) else "",
)
def test_what_is_refused_before_it_is_sent(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: list[str], message: str
) -> None:
    """Oracle: nobody listens at the address; the message is of the option all the same."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("RAYCAE_RESULTS", raising=False)
    code, out, err = run("submit", "--address", "http://127.0.0.1:9", *words)
    assert (code, out) == (2, "")
    assert message in err
    assert list(tmp_path.iterdir()) == []


def test_jobs_are_listed_and_stopped_without_their_stores(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Oracle: the results are the text that the head recorded; no store is asked for it. The folder
    of a study comes before the query of a URI, as in `StorePath`."""

    def ask_store(*_: object) -> None:
        raise Refused("asking for s3://deleted: Bucket 'deleted' not found")

    places = ["s3://deleted/r?scheme=http", "/shared/what?", "gs://b"]
    searches = [
        SimpleNamespace(
            submission_id=f"ex3-{number}",
            status=JobStatus.STOPPED,
            start_time=number,
            metadata={"study": "ex3", "results": place},
        )
        for number, place in enumerate(places)
    ]
    client = SimpleNamespace(
        list_jobs=lambda: searches,
        stop_job=lambda name: True,
        get_job_status=lambda name: JobStatus.STOPPED,
    )
    monkeypatch.setattr(paths, "make_client", ask_store)
    monkeypatch.setattr(jobs, "connect_to_head", lambda address: client)
    code, out, err = run("jobs")
    assert (code, err) == (0, "")
    assert [line.split()[-1] for line in out.splitlines()[1:]] == [
        "s3://deleted/r/ex3?scheme=http",
        "/shared/what?/ex3",
        "gs://b/ex3",
    ]
    code, out, err = run("stop", "ex3-0")
    assert (code, err) == (0, "")
    assert out.endswith("--resume --study ex3 --results 's3://deleted/r?scheme=http'\n")

    searches[0].status = JobStatus.RUNNING
    code, _, err = run("fetch", "ex3-0")
    assert code == 2
    assert "Read its results at s3://deleted/r/ex3?scheme=http" in err


class FakeHead:
    """Stands for Ray's job client: it keeps what was submitted, as the one job that it has."""

    def submit_job(self, **job: Any) -> None:
        self.words = shlex.split(job["entrypoint"])
        self.job = SimpleNamespace(**job, status=JobStatus.STOPPED, start_time=0)

    def list_jobs(self) -> list[SimpleNamespace]:
        return [self.job]

    def stop_job(self, _: str) -> bool:
        return True

    def get_job_status(self, _: str) -> JobStatus:
        return JobStatus.STOPPED


@pytest.fixture
def fake_head(monkeypatch: pytest.MonkeyPatch) -> FakeHead:
    made = FakeHead()
    monkeypatch.setattr(jobs, "connect_to_head", lambda address: made)
    return made


@pytest.mark.parametrize("kind", ["sqlite", "journal"])
def test_paths_mean_the_same_in_a_job(
    run: Run,
    fake_head: FakeHead,
    study: Study,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    kind: str,
) -> None:
    """Oracle: what the words mean in the folder where they are typed, as absolute paths: a job has
    a folder of its own. The name of a study in the results stays. The command that continues the
    search names the same database."""
    for _ in range(2):  # The first one is a named point, which the space does not draw.
        run_trial(study, 0.3, 0.2, 0.1)
    study.close()
    (tmp_path / "shared").mkdir()
    shutil.copytree(study.folder, tmp_path / "shared" / "named")
    shutil.copytree(study.folder, tmp_path / "old" / "before")
    (tmp_path / "tiny.yaml").write_text(TINY_SPACE)
    monkeypatch.chdir(tmp_path)
    words = ["--space", "tiny.yaml", "--results", "shared", "--sampler", "tpe"]
    words += ["--storage", f"{kind}:///study.db", "--from", "named, old/before"]
    code, name, err = run("submit", *words)
    assert (code, err) == (0, "")
    database = f"{kind}:///{tmp_path}/study.db"
    sent = dict(zip(fake_head.words[2::2], fake_head.words[3::2], strict=True))
    assert sent["--storage"] == database
    assert sent["--from"] == f"named,{tmp_path}/old/before"
    _, out, _ = run("stop", name.strip())
    assert out.endswith(
        f" --resume --study tiny --results {tmp_path}/shared --storage {database}\n"
    )


def test_versions_are_compared_by_the_job(
    run: Run, fake_head: FakeHead, study: Study, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Oracle: the job trains, not this machine: a study of other versions is sent without a word,
    and `raycae search` refuses it here."""
    study.close()
    monkeypatch.setattr(resuming, "get_versions", lambda: {"torch": "1.0", "raycae": "7.0"})
    words = ["--resume", "--study", study.folder.name, "--results", str(study.folder.parent)]
    code, out, err = run("submit", *words)
    assert (code, err) == (0, "")
    assert NAME.fullmatch(out)
    assert "--force" not in fake_head.words
    code, _, err = run("search", *words)
    assert code == 2
    assert "another version of raycae and torch" in err


def test_the_time_left() -> None:
    """Oracle: by hand. Two of six trials have ended after three epochs each, another has had one:
    eleven epochs are to come; seven have taken 70 s. Nothing is known before a trial has ended."""
    ended = {"state": "COMPLETE", "epochs_run": 3, "attempt": 1, "reason": None}
    running = {"state": "RUNNING", "epochs_run": 1, "attempt": 1, "reason": None}
    waiting = {"state": "RUNNING", "epochs_run": None, "attempt": 0, "reason": None}
    assert estimate_time_left([ended, ended, running, waiting], 6, 7, 70.0) == pytest.approx(110)
    assert estimate_time_left([running, waiting], 6, 1, 10.0) is None
    assert estimate_time_left([], 6, 0, 10.0) is None


def free_ports(n: int) -> list[int]:
    places = [socket.create_server(("127.0.0.1", 0)) for _ in range(n)]
    ports = [place.getsockname()[1] for place in places]
    for place in places:
        place.close()
    return ports
