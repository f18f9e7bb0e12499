"""A real S3 API on this machine, behind a door that can be made to fail: moto's server and a proxy.

Both run in one process of their own, which a test steers through its standard input: so it can run
on a host out of `hosts.py` as well, and it ends with the test however that ends.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import logging
import socket
import socketserver
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler
from typing import Any

FAULTS = ("ok", "refuse", "slow", "stall", "every_third", "reset")
FRAMING = {"connection", "transfer-encoding", "content-length"}  # of one connection, not of both
SLOW_DOWN = (
    b'<?xml version="1.0" encoding="UTF-8"?>\n'
    b"<Error><Code>SlowDown</Code><Message>Please reduce your request rate.</Message></Error>"
)


class ObjectStore:
    """An empty bucket and how to reach it; a context manager.

    It listens on `address`. For one on a host: `ObjectStore(address=hosts.address("head"),
    popen=functools.partial(hosts.popen, "head"))`.
    """

    def __init__(
        self,
        bucket: str = "raycae",
        *,
        address: str = "127.0.0.1",
        popen: Callable[..., subprocess.Popen[str]] = subprocess.Popen,
    ) -> None:
        self.bucket = bucket
        self.address = address
        self.env = {
            "AWS_ACCESS_KEY_ID": "test",
            "AWS_SECRET_ACCESS_KEY": "test",
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_EC2_METADATA_DISABLED": "true",  # or the client asks an address that is not there
        }
        self._popen = popen

    def __enter__(self) -> ObjectStore:
        self._process = self._popen(
            [sys.executable, __file__, self.address, self.bucket],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.port, self.direct_port = self._heard()
        return self

    def __exit__(self, *_: object) -> None:
        self._process.communicate()  # closes its standard input, upon which it ends

    def uri(self, name: str = "", *, direct: bool = False, **options: object) -> str:
        """What `pyarrow.fs.FileSystem.from_uri` takes; `direct` goes round the faults, `options`
        are S3FileSystem's that a URI can carry."""
        port = self.direct_port if direct else self.port
        query = {"endpoint_override": f"{self.address}:{port}", "scheme": "http", **options}
        query.setdefault("region", "us-east-1")
        path = f"{self.bucket}/{name}" if name else self.bucket
        return f"s3://{path}?" + "&".join(f"{key}={value}" for key, value in query.items())

    def fault(self, kind: str, seconds: float = 0) -> None:
        """From the next request on, until the next call:

        ok           everything is passed on
        refuse       nobody listens, and open connections are reset
        slow         each request is passed on `seconds` later
        stall        requests are read and never answered
        every_third  every third request is answered 503 SlowDown, the others passed on
        reset        requests are passed on, and the connection is reset in the middle of the answer
        """
        assert kind in FAULTS
        self._ask("fault", kind, seconds)

    @property
    def requests(self) -> int:
        """How many have come through the door so far, answered or not."""
        return self._ask("requests")

    def _ask(self, *words: object) -> Any:
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(words) + "\n")
        self._process.stdin.flush()
        return self._heard()

    def _heard(self) -> Any:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        assert line, f"the object store ended with {self._process.wait()}"
        return json.loads(line)


class Fault:
    """What happens to requests, until it is over."""

    def __init__(self, kind: str, seconds: float = 0) -> None:
        self.kind = kind
        self.seconds = seconds
        self.over = threading.Event()
        self.requests = 0


class Door(socketserver.ThreadingTCPServer):
    """The proxy that clients talk to."""

    daemon_threads = True
    allow_reuse_address = True
    request_queue_size = 128

    def __init__(self, address: str, upstream: tuple[str, int]) -> None:
        super().__init__((address, 0), Passage, bind_and_activate=False)
        self.upstream = upstream
        self.requests = 0
        self.lock = threading.Lock()
        self.fault = Fault("ok")
        self.connections: set[socket.socket] = set()
        # While nobody listens the port stays taken, or a client that knocks could be given that
        # very port for its own end and talk to itself.
        self._place = socket.socket()
        self._place.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self._place.bind((address, 0))
        self.server_address = self._place.getsockname()
        self._listen()

    def set(self, fault: Fault) -> None:
        before, self.fault = self.fault, fault
        before.over.set()
        if before.kind == "refuse" != fault.kind:
            self.socket = socket.socket()
            self._listen()
        if before.kind != "refuse" == fault.kind:
            self.shutdown()
            self.socket.close()
            for connection in list(self.connections):
                reset(connection)

    def count(self) -> tuple[Fault, int]:
        """The fault that a request meets, and the how many-th it is of those who met it."""
        with self.lock:
            fault = self.fault
            self.requests += 1
            fault.requests += 1
            return fault, fault.requests

    def _listen(self) -> None:
        self.server_bind()
        self.server_activate()
        threading.Thread(target=self.serve_forever, args=(0.02,), daemon=True).start()

    def handle_error(self, *_: object) -> None:
        """A connection that broke is the client's business."""


class Passage(BaseHTTPRequestHandler):
    """One connection of a client, request by request."""

    protocol_version = "HTTP/1.1"
    server: Door

    def setup(self) -> None:
        super().setup()
        self.server.connections.add(self.connection)

    def finish(self) -> None:
        self.server.connections.discard(self.connection)
        super().finish()

    def pass_on(self) -> None:
        fault, number = self.server.count()
        body = self._body()
        if fault.kind == "refuse":  # the connection was made just before
            reset(self.connection)
        elif fault.kind == "stall":
            fault.over.wait()
            self.close_connection = True
        elif fault.kind == "every_third" and number % 3 == 0:
            head = ["HTTP/1.1 503 Slow Down", "Content-Type: application/xml"]
            self.wfile.write(message([*head, f"Content-Length: {len(SLOW_DOWN)}"], SLOW_DOWN))
        else:
            if fault.kind == "slow":
                time.sleep(fault.seconds)
            answer = self._ask_store(body)
            if fault.kind == "reset":
                self.wfile.write(answer[: len(answer) // 2])
                reset(self.connection)
            else:
                self.wfile.write(answer)

    do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = pass_on  # noqa: N815

    def _body(self) -> bytes:
        if "chunked" not in self.headers.get("Transfer-Encoding", "").lower():
            return self.rfile.read(int(self.headers.get("Content-Length", 0)))
        parts = []
        while size := int(self.rfile.readline().partition(b";")[0], 16):
            parts.append(self.rfile.read(size))
            self.rfile.readline()
        while self.rfile.readline().strip():
            pass  # trailers
        return b"".join(parts)

    def _ask_store(self, body: bytes) -> bytes:
        """The store's whole answer, with its length, so that the connection can be used again."""
        store = http.client.HTTPConnection(*self.server.upstream)
        store.putrequest(self.command, self.path, skip_host=True, skip_accept_encoding=True)
        for name, value in self.headers.items():
            if name.lower() not in {*FRAMING, "expect"}:
                store.putheader(name, value)
        store.putheader("Content-Length", str(len(body)))
        store.endheaders(body)
        answer = store.getresponse()
        content = answer.read()
        store.close()
        head = [f"HTTP/1.1 {answer.status} {answer.reason}"]
        head += [f"{k}: {v}" for k, v in answer.getheaders() if k.lower() not in FRAMING]
        if self.command == "HEAD":  # the length of what it did not get
            head.append(f"Content-Length: {answer.getheader('Content-Length', '0')}")
        elif answer.status not in (204, 304):
            head.append(f"Content-Length: {len(content)}")
        return message(head, content)

    def log_message(self, *_: object) -> None:
        """Nothing: the test counts."""


def message(head: list[str], content: bytes) -> bytes:
    return "\r\n".join([*head, "", ""]).encode("latin-1") + content


def reset(connection: socket.socket) -> None:
    """Closed so that the other side hears "connection reset by peer" and not just an end, also
    while a thread of ours waits for what it says."""
    # Taken away from that thread first: once awake it would close in order, before us.
    with (
        contextlib.suppress(OSError, ValueError),  # it went by itself
        socket.socket(fileno=connection.detach()) as mine,
    ):
        mine.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        mine.shutdown(socket.SHUT_RD)


def main(address: str, bucket: str) -> None:
    from moto.server import ThreadedMotoServer

    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    store = ThreadedMotoServer(address, 0, verbose=False)
    store.start()
    upstream = store.get_host_and_port()
    made = http.client.HTTPConnection(*upstream)
    made.request("PUT", f"/{bucket}")
    assert made.getresponse().status == 200
    door = Door(address, upstream)
    print(json.dumps([door.server_address[1], upstream[1]]), flush=True)
    for line in sys.stdin:
        what, *how = json.loads(line)
        if what == "fault":
            door.set(Fault(*how))
        print(door.requests, flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
