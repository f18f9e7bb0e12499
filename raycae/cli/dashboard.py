"""`raycae dashboard`: optuna-dashboard over a study, while its search runs or after.

The Optuna study of a search lives in its memory and is a function of the ledger. So is the copy
that is shown here: the ledger is followed, never written, and nobody's lease is taken.

optuna-dashboard computes the importance of parameters by itself, of complete trials only and from
two trials on. Its page asks its server for it, so this server answers with what the report shows.
"""

from __future__ import annotations

import json
import re
import threading
import time
import warnings
from collections.abc import Callable
from contextlib import suppress
from socketserver import ThreadingMixIn
from typing import Annotated, Any
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

import typer

from raycae.cli.options import ResultsOption, StudyArgument
from raycae.errors import InputError, StorageError
from raycae.formatting import make_printable
from raycae.report.optuna_mirror import OptunaMirror
from raycae.study import find

LOOPBACK = "127.0.0.1"
FOLLOW_S = 2.0
"""So long after one look at the ledger comes the next, …"""
FOLLOW_SHARE = 0.1
"""and looking takes at most this share of the time, however long the study has grown."""


def serve_dashboard(
    study: StudyArgument = "ex3",
    results_folder: ResultsOption = "results",
    port: Annotated[
        int, typer.Option(min=0, max=65535, metavar="P", help="0: any that is free.")
    ] = 8080,
    host: Annotated[
        str,
        typer.Option(
            metavar="ADDRESS",
            help="Where to listen. The page asks nobody who they are: another address than "
            "this machine's own shows the study to everyone who reaches it.",
        ),
    ] = LOOPBACK,
) -> None:
    """Show a study in optuna-dashboard, while its search runs or after; Ctrl-C ends it.

    What is shown is a copy that follows the study; nothing done there changes the study.

    Example: raycae dashboard ex3 --port 8080
    """
    folder = find.find_study(study, results_folder)
    try:
        import optuna_dashboard
    except ImportError:
        raise InputError(
            "raycae dashboard: optuna-dashboard is not installed; pip install 'raycae[dashboard]'"
        ) from None
    warnings.filterwarnings("ignore", module="optuna")  # what importances of few trials are worth
    copy = OptunaMirror(folder)
    copy.follow()
    app = with_importances(make_read_only(optuna_dashboard.wsgi(copy.study._storage)), copy)
    try:
        server = make_server(host, port, app, DashboardServer, DashboardHandler)
    except (OSError, OverflowError) as error:
        raise InputError(f"--host {host} --port {port}: cannot listen there: {error}") from None
    threading.Thread(target=keep_following, args=[copy], daemon=True).start()
    where = f"http://{host}:{server.server_port}/dashboard/studies/{copy.study._study_id}"
    print(f"{make_printable(folder.name)}: {where}  (Ctrl-C ends it)", flush=True)
    with server, suppress(KeyboardInterrupt):
        server.serve_forever()


def keep_following(copy: OptunaMirror) -> None:
    took_s = 0.0
    while True:
        time.sleep(max(FOLLOW_S, took_s / FOLLOW_SHARE))
        begun = time.monotonic()
        # A ledger that is being mended, a store that does not answer: the next look may find it.
        with suppress(InputError, StorageError, OSError):
            copy.follow()
        took_s = time.monotonic() - begun


def make_read_only(app: Callable[..., Any]) -> Callable[..., Any]:
    """The dashboard could also rename, delete, and tell trials; with a copy of a study that would
    only look as if it did something."""

    def answer(environ: dict[str, Any], start_response: Callable[..., Any]) -> Any:
        if environ["REQUEST_METHOD"] in ("GET", "HEAD"):
            return app(environ, start_response)
        start_response("405 Method Not Allowed", [("Content-Type", "application/json")])
        return [b'{"reason": "raycae dashboard shows a study; it changes none."}']

    return answer


def with_importances(app: Callable[..., Any], copy: OptunaMirror) -> Callable[..., Any]:
    """Answer what the page asks about the importance of parameters with the report's numbers."""
    path = re.compile(rf"/api/studies/{copy.study._study_id}/param_importances/?")

    def answer(environ: dict[str, Any], start_response: Callable[..., Any]) -> Any:
        is_asked = environ["REQUEST_METHOD"] == "GET" and path.fullmatch(environ["PATH_INFO"])
        if not is_asked:
            return app(environ, start_response)
        start_response("200 OK", [("Content-Type", "application/json")])
        return [json.dumps({"param_importances": copy.importances()}).encode()]

    return answer


class DashboardServer(ThreadingMixIn, WSGIServer):
    daemon_threads = True


class DashboardHandler(WSGIRequestHandler):
    def log_message(self, format: str, *args: Any) -> None:
        """Nothing: a page asks every few seconds."""
