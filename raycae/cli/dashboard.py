"""`raycae dashboard`: optuna-dashboard for a study, during its search or afterwards.

The Optuna study of a search is in its memory and is a function of the ledger. The dashboard shows
a copy that follows the ledger. It writes nothing and takes no lease.

optuna-dashboard computes importance from complete trials only, from the second trial on. This
server answers its page with the numbers of the report instead.
"""

from __future__ import annotations

import json
import os
import re
import sys
import threading
import time
import warnings
from collections.abc import Callable
from contextlib import suppress
from socketserver import ThreadingMixIn
from typing import Annotated, Any
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

import typer

from raycae.cli.options import ResultsOption, StudyArgument, find_study
from raycae.errors import InputError, StorageError
from raycae.formatting import make_printable
from raycae.report.optuna_mirror import OptunaMirror

LOOPBACK = "127.0.0.1"
FOLLOW_S = 2.0
"""Shortest pause between two reads of the ledger, in seconds."""
FOLLOW_SHARE = 0.1
"""Largest share of the time that reading takes; longer reads are followed by longer pauses."""


def serve_dashboard(
    study: StudyArgument = None,
    results_folder: ResultsOption = "results",
    port: Annotated[
        int,
        typer.Option(min=0, max=65535, metavar="P", help="Port to listen on; 0 picks a free one."),
    ] = 8080,
    host: Annotated[
        str,
        typer.Option(
            metavar="ADDRESS",
            help="Address to listen on. The dashboard has no login: any other address exposes "
            "the study to that network.",
        ),
    ] = LOOPBACK,
) -> None:
    """Show a study in optuna-dashboard, even while it runs. Press Ctrl-C to stop.

    The dashboard shows a copy that follows the study. It cannot change the study.

    Example: raycae dashboard ex3 --port 8080
    """
    folder = find_study(study, results_folder)
    try:
        import optuna_dashboard
    except ImportError:
        raise InputError(
            "raycae dashboard: optuna-dashboard is not installed; pip install 'raycae[dashboard]'"
        ) from None
    warnings.filterwarnings("ignore", module="optuna")  # Optuna warns about few trials.
    copy = OptunaMirror(folder)
    copy.follow()
    app = with_importances(make_read_only(optuna_dashboard.wsgi(copy.study._storage)), copy)
    try:
        server = make_server(host, port, app, DashboardServer, DashboardHandler)
    except (OSError, OverflowError) as error:
        raise InputError(f"--host {host} --port {port}: cannot listen there: {error}") from None
    threading.Thread(target=keep_following, args=[copy], daemon=True).start()
    where = f"http://{host}:{server.server_port}/dashboard/studies/{copy.study._study_id}"
    with server, suppress(KeyboardInterrupt):
        print(f"{make_printable(folder.name)}: {where}  (Ctrl-C ends it)", flush=True)
        server.serve_forever()
    # Python ends a daemon thread that is inside a call to Arrow's C++ by aborting the process.
    sys.stdout.flush()
    os._exit(0)


def keep_following(copy: OptunaMirror) -> None:
    """Follow the study until the process ends.

    Args:
        copy: The Optuna study that follows it.
    """
    took_s = 0.0
    while True:
        time.sleep(max(FOLLOW_S, took_s / FOLLOW_SHARE))
        begun = time.monotonic()
        # The ledger may be under repair or the storage away; the next read may succeed.
        with suppress(InputError, StorageError, OSError):
            copy.follow()
        took_s = time.monotonic() - begun


def make_read_only(app: Callable[..., Any]) -> Callable[..., Any]:
    """Refuse requests that would change something, which would only change the copy.

    Args:
        app: The WSGI application of optuna-dashboard.
    """

    def answer(environ: dict[str, Any], start_response: Callable[..., Any]) -> Any:
        if environ["REQUEST_METHOD"] in ("GET", "HEAD"):
            return app(environ, start_response)
        start_response("405 Method Not Allowed", [("Content-Type", "application/json")])
        return [b'{"reason": "raycae dashboard only shows a study and cannot change it."}']

    return answer


def with_importances(app: Callable[..., Any], copy: OptunaMirror) -> Callable[..., Any]:
    """Answer requests for importance with the numbers of the report.

    Args:
        app: The WSGI application.
        copy: The Optuna study that follows the study.
    """
    path = re.compile(rf"/api/studies/{copy.study._study_id}/param_importances/?")

    def answer(environ: dict[str, Any], start_response: Callable[..., Any]) -> Any:
        is_asked = environ["REQUEST_METHOD"] == "GET" and path.fullmatch(environ["PATH_INFO"])
        if not is_asked:
            return app(environ, start_response)
        start_response("200 OK", [("Content-Type", "application/json")])
        return [json.dumps({"param_importances": copy.get_importances()}).encode()]

    return answer


class DashboardServer(ThreadingMixIn, WSGIServer):
    """A server with one thread per request."""

    daemon_threads = True


class DashboardHandler(WSGIRequestHandler):
    """A handler that logs nothing."""

    def log_message(self, format: str, *args: Any) -> None:
        """Log nothing: the page sends a request every few seconds."""
