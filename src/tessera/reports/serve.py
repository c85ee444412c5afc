"""`tessera view`: the report of a run on the loopback address, made anew when the run has something new to say."""

from __future__ import annotations

import errno
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from hashlib import sha256
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from tessera.core.errors import UserError
from tessera.reports.credit import Method
from tessera.reports.files import reason
from tessera.reports.run import CONTENTS, RunFolder

ADDRESS, PORT = "127.0.0.1", 8411
NAMES = {"localhost", ADDRESS}  # a page of another site may have its own name lead to this machine: it gets nothing
RARELY, SHARE = 5.0, 10  # seconds between two makings of the page, or as many times what one takes: the run has work


class LivePage:
    """The page of a folder, made when it is asked for, and not again before the folder has changed.

    A newer one is told of `rarely` seconds after the last at the earliest; 0: at once.
    """

    def __init__(self, folder: RunFolder, methods: Mapping[str, Method] | None = None, rarely: float = RARELY) -> None:
        self.folder, self.methods, self.rarely = folder, methods, rarely
        self._lock = threading.Lock()
        self._rest, self._version, self._html = 0.0, "", ""

    def version(self) -> str:
        """Something else whenever there is a newer page."""
        with self._lock:
            return self._version if time.monotonic() < self._rest else self._now()

    def html(self) -> str:
        """The page."""
        with self._lock:
            now = self._now()
            if now != self._version:
                began = time.monotonic()
                self._html, self._version = self.folder.report(self.methods, version=now), now
                took = time.monotonic() - began
                self._rest = time.monotonic() + (max(self.rarely, SHARE * took) if self.rarely else 0.0)
            return self._html

    def _now(self) -> str:
        paths = (self.folder.path / name for name in CONTENTS if name != "report.html")
        seen = [(path.name, path.stat().st_size, path.stat().st_mtime_ns) for path in paths if path.is_file()]
        return sha256(repr(seen).encode()).hexdigest()[:16]


def server(page: LivePage, port: int = PORT) -> ThreadingHTTPServer:
    """A server of `page` on `port` (0: any that is free) of this machine alone; `serve_forever` starts it."""

    class Handler(_Handler):
        shown = page

    try:
        return ThreadingHTTPServer((ADDRESS, port), Handler)
    except (OSError, OverflowError) as error:
        if isinstance(error, OSError) and error.errno == errno.EADDRINUSE:
            raise UserError(f"port {port} of {ADDRESS} is in use: give another --port, or 0 for any free one") from None
        why = reason(error) if isinstance(error, OSError) else "it must lie in 0..65535"
        raise UserError(f"cannot serve on port {port} of {ADDRESS}: {why}") from None


def serve(page: LivePage, port: int, say: Callable[[str], None]) -> None:
    """Serve until interrupted."""
    page.html()  # what is wrong with the folder is said here
    with server(page, port) as waiting:
        say(f"http://{ADDRESS}:{waiting.server_port}/   Ctrl-C ends")
        try:
            waiting.serve_forever(poll_interval=0.2)
        except KeyboardInterrupt:
            say("ended")


class _Handler(BaseHTTPRequestHandler):
    shown: LivePage
    server_version, sys_version = "tessera", ""

    def do_GET(self) -> None:
        if self.headers.get("Host", "").rpartition(":")[0] not in NAMES:
            return self._answer(403, "text/plain", f"this page is for {ADDRESS} alone")
        try:
            if self.path == "/version":
                return self._answer(200, "text/plain", self.shown.version())
            if self.path.partition("?")[0] == "/":
                return self._answer(200, "text/html", self.shown.html())
        except UserError as error:  # the run was deleted, or a file of it is damaged
            return self._answer(500, "text/plain", str(error))
        return self._answer(404, "text/plain", "there is / and /version")

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing: a page asks every two seconds."""

    def _answer(self, code: int, kind: str, text: str) -> None:
        body = text.encode()
        with suppress(ConnectionError):  # a page that was closed waits for nothing
            self._send(code, kind, body)

    def _send(self, code: int, kind: str, body: bytes) -> None:
        self.send_response(code)
        self.send_header("Content-Type", f"{kind}; charset=utf-8")
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Cache-Control", "no-store")
        self.send_header("X-Content-Type-Options", "nosniff")
        self.end_headers()
        self.wfile.write(body)
