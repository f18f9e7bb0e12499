"""The object store of the fault tests stores, and each of its faults is the one it says."""

from __future__ import annotations

import functools
import http.client
import socket
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

import hosts
import pytest
from hosts import Hosts
from object_store import ObjectStore
from pyarrow.fs import AwsStandardS3RetryStrategy, FileSelector, FileSystem, S3FileSystem

pytestmark = pytest.mark.timeout(60)


@pytest.fixture(scope="module")
def started() -> Iterator[ObjectStore]:
    with ObjectStore() as made:
        yield made


@pytest.fixture
def store(started: ObjectStore, monkeypatch: pytest.MonkeyPatch) -> Iterator[ObjectStore]:
    for key, value in started.env.items():
        monkeypatch.setenv(key, value)
    yield started
    started.fault("ok")


def client(store: ObjectStore, attempts: int = 1, *, whole: bool = True) -> S3FileSystem:
    """One that gives up soon; `whole` writes a small file with one request and not with three."""
    return S3FileSystem(
        endpoint_override=f"{store.address}:{store.port}",
        scheme="http",
        region="us-east-1",
        connect_timeout=1,
        request_timeout=1,
        retry_strategy=AwsStandardS3RetryStrategy(max_attempts=attempts),
        allow_delayed_open=whole,
    )


def write(files: FileSystem, path: str, content: bytes) -> None:
    with files.open_output_stream(path) as stream:
        stream.write(content)


def read(files: FileSystem, path: str) -> bytes:
    with files.open_input_stream(path) as stream:
        return stream.read()


def test_files_go_round(store: ObjectStore) -> None:
    """Oracle: what was written, small and in many parts, comes back through both doors; it is
    listed, and gone when deleted; only one door counts."""
    files, path = FileSystem.from_uri(store.uri("some/file"))
    direct, same = FileSystem.from_uri(store.uri("some/file", direct=True))
    assert path == same == f"{store.bucket}/some/file"
    for content in (b"", b"small", bytes(range(256)) * 50_000):
        write(files, path, content)
        before = store.requests
        assert read(direct, path) == content
        assert store.requests == before
        assert read(files, path) == content
        assert store.requests > before
        assert files.get_file_info(path).size == len(content)
    listed = files.get_file_info(FileSelector(store.bucket, recursive=True))
    assert {entry.path for entry in listed if entry.is_file} == {path}
    files.delete_file(path)
    assert not direct.get_file_info(path).is_file


def test_one_connection_carries_many_requests(store: ObjectStore) -> None:
    """Oracle: Python's own client, on one connection: a body in chunks, one that waits for "100
    Continue", a HEAD with a length and no body, a 404, a DELETE without content."""
    connection = http.client.HTTPConnection(store.address, store.port, timeout=5)
    place = f"/{store.bucket}/chunks"

    signed = {
        "Authorization": "AWS4-HMAC-SHA256 Credential=test/20260101/us-east-1/s3/aws4_request"
    }

    def ask(method: str, body: Iterable[bytes] | None = None) -> tuple[int, bytes, str | None]:
        connection.request(method, place, body, signed)  # an iterable goes in chunks
        answer = connection.getresponse()
        return answer.status, answer.read(), answer.getheader("Content-Length")

    connection.connect()
    ours = connection.sock.getsockname()
    assert ask("PUT", iter([b"abc", b"defg"]))[0] == 200
    assert ask("GET")[:2] == (200, b"abcdefg")
    assert ask("HEAD") == (200, b"", "7")
    assert ask("DELETE") == (204, b"", None)
    assert ask("GET")[0] == 404
    assert connection.sock.getsockname() == ours

    head = f"PUT {place} HTTP/1.1\r\nHost: {store.address}:{store.port}\r\nContent-Length: 5\r\n"
    connection.sock.sendall(f"{head}Expect: 100-continue\r\n\r\n".encode())
    assert connection.sock.recv(100) == b"HTTP/1.1 100 Continue\r\n\r\n"
    connection.sock.sendall(b"later")
    assert connection.sock.recv(15) == b"HTTP/1.1 200 OK"
    connection.close()
    assert read(client(store), f"{store.bucket}/chunks") == b"later"


def test_refuse(store: ObjectStore) -> None:
    """Oracle: a new connection is refused by the kernel and an open one reset, a client says so at
    once; nothing arrives; afterwards the same port serves again."""
    files, path = client(store), f"{store.bucket}/refused"
    idle = socket.create_connection((store.address, store.port), 1)
    write(files, path, b"before")
    store.fault("refuse")
    before = store.requests
    with pytest.raises(ConnectionResetError):
        idle.recv(1)
    for _ in range(20):
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection((store.address, store.port), 1)
    with pytest.raises(OSError, match="NETWORK_CONNECTION"):
        write(files, path, b"during")
    assert store.requests == before
    assert read(FileSystem.from_uri(store.uri(direct=True))[0], path) == b"before"
    store.fault("ok")
    write(files, path, b"after")
    assert read(files, path) == b"after"


def test_slow(store: ObjectStore) -> None:
    """Oracle: each request takes at least the time it was given, and what it asks is done."""
    files, path = client(store), f"{store.bucket}/slow"
    store.fault("slow", 0.2)
    before, started = store.requests, time.monotonic()
    write(files, path, b"slow")
    took = time.monotonic() - started
    requests = store.requests - before
    assert requests > 0
    assert took >= 0.2 * requests
    assert read(files, path) == b"slow"


def test_stall(store: ObjectStore) -> None:
    """Oracle: a request is taken and never answered, the client's patience ends it, and what it
    asked is not done."""
    path = f"{store.bucket}/stalled"
    store.fault("stall")
    before = store.requests
    with socket.create_connection((store.address, store.port), 1) as knocking:
        knocking.sendall(b"GET / HTTP/1.1\r\nHost: here\r\n\r\n")
        knocking.settimeout(0.3)
        with pytest.raises(TimeoutError):
            knocking.recv(1)
        with pytest.raises(OSError, match="Timeout was reached"):
            write(client(store, whole=False), path, b"never")  # with one request it waits 7 s
        assert store.requests > before + 1
        store.fault("ok")
        assert knocking.recv(1) == b"", "let go, without an answer"
    assert not FileSystem.from_uri(store.uri(direct=True))[0].get_file_info(path).is_file


def test_every_third(store: ObjectStore) -> None:
    """Oracle: of six requests the third and the sixth are refused with S3's own words, and a client
    that tries again does not notice."""
    files, path = client(store), f"{store.bucket}/third"
    store.fault("every_third")
    fates = []
    for number in range(6):
        try:
            write(files, f"{path}-{number}", b"a third")
            fates.append("written")
        except OSError as error:
            fates.append("refused" if "SLOW_DOWN" in str(error) else str(error))
    assert fates == ["written", "written", "refused"] * 2
    patient = client(store, attempts=3)
    before = store.requests
    for number in range(3):
        write(patient, f"{path}-{number}", b"again")
    assert store.requests - before == 4


def test_reset(store: ObjectStore) -> None:
    """Oracle: half an answer and a reset connection, for a reader as for a writer; the writer's
    file is there all the same."""
    files, path = client(store), f"{store.bucket}/reset"
    store.fault("reset")
    with pytest.raises(OSError, match="NETWORK_CONNECTION"):
        write(files, path, b"more than half")
    store.fault("ok")
    assert read(files, path) == b"more than half"
    store.fault("reset")
    with socket.create_connection((store.address, store.port), 1) as asking:
        asking.sendall(f"GET /{path} HTTP/1.1\r\nHost: here\r\n\r\n".encode())
        with pytest.raises(ConnectionResetError):
            list(iter(functools.partial(asking.recv, 1), b""))


@pytest.mark.ray
@pytest.mark.skipif(hosts.available() is not None, reason=str(hosts.available()))
def test_on_a_host(tmp_path: Path) -> None:
    """Oracle: served by one host, written by another, read by the third after a fault."""
    ask = (
        "import sys\nfrom pyarrow.fs import FileSystem\n"
        "files, path = FileSystem.from_uri(sys.argv[1])\n"
        "if sys.argv[2:]:\n"
        "    with files.open_output_stream(path) as stream: stream.write(sys.argv[2].encode())\n"
        "else: print(files.open_input_stream(path).read())"
    )
    with (
        Hosts(["storage", "one", "two"]) as made,
        ObjectStore(
            address=made.address("storage"), popen=functools.partial(made.popen, "storage")
        ) as store,
    ):
        made.run("one", ["python", "-c", ask, store.uri("file"), "content"], env=store.env)
        assert store.requests > 0
        store.fault("every_third")
        said = made.run("two", ["python", "-c", ask, store.uri("file")], env=store.env)
        assert said.stdout == "b'content'\n"
