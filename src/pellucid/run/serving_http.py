"""The HTTP server of `pellucid serve`: for this computer only, with bounded requests and answers in JSON.

Web pages of other sites can make a browser send requests to this computer. They cannot read the answers, and these
checks refuse the requests: `Host` against a name that was rebound to 127.0.0.1, `Origin` and `Sec-Fetch-Site` against
scripts and forms of another site, and the content type, which such a form cannot choose.
"""

import os
import re
import socket
import sys
import threading
import time
import traceback
from collections.abc import Callable, Mapping
from contextlib import suppress
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import urlsplit

from pellucid.core.errors import ConfigError, DataError, PellucidError, ShapeError
from pellucid.run.serving_maps import Busy, Canceled, Job, LiveRun, TimeUp
from pellucid.run.serving_request import read_request
from pellucid.storage.atomic import json_text

__all__ = ["ADDRESS", "LiveServer"]

ADDRESS = "127.0.0.1"
"""The loopback address: other machines cannot connect."""
USUAL_PORT = 7007
"""Port to try first if none is given."""
MOST_BYTES = 16_000_000
"""Largest body of a request; a photograph in base64 takes 5 to 10 MB."""
MOST_DISCARDED = 64_000_000
"""Bytes of a too large body that are read and dropped, so that its sender reads the answer."""
MOST_CONNECTIONS = 32
"""Connections at a time; a browser opens at most six."""
SECONDS_TO_SEND = 15.0
"""Time in which a client must have sent its request."""
ROUTES = {
    "/": "GET",
    "/api": "GET",
    "/api/images/INDEX": "GET",
    "/api/misclassified": "GET",
    "/api/map": "POST",
}
"""Paths and their HTTP methods; no path refers to a file."""
HEADERS = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": "frame-ancestors 'none'",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
}
"""Headers of every answer. The page has its own policy for scripts."""


class Refused(PellucidError):
    """A rejected request, with its HTTP status."""

    def __init__(self, status: HTTPStatus, message: str) -> None:
        super().__init__(message)
        self.status = status


class LiveServer(ThreadingHTTPServer):
    """The page and the maps of a run. `page` returns the current HTML page."""

    daemon_threads = True
    block_on_close = False
    # on Windows, this option would let another program take over the port
    allow_reuse_address = os.name == "posix"

    def __init__(self, live: LiveRun, page: Callable[[], bytes], port: int | None = None) -> None:
        """Listen on a port, by default the usual one, or any free one if that is taken.

        Raises `ConfigError` if the given port cannot be used.
        """
        self.live, self.page = live, page
        self.is_closing = False
        self._free = threading.Semaphore(MOST_CONNECTIONS)
        self._receiving: dict[socket.socket, float] = {}
        self._bind(port)
        self.names: tuple[str, ...] = (f"{ADDRESS}:{self.server_port}", f"localhost:{self.server_port}")
        if self.server_port == 80:  # browsers leave the usual port out
            self.names += (ADDRESS, "localhost")

    def _bind(self, port: int | None) -> None:
        try:
            super().__init__((ADDRESS, USUAL_PORT if port is None else port), _Handler)
        except OSError as error:
            if port is None:
                super().__init__((ADDRESS, 0), _Handler)
                return
            raise ConfigError(
                f"port {port} cannot be used ({error.strerror or error}); choose another --port, or omit it for a "
                "free one."
            ) from error

    @property
    def address(self) -> str:
        """Address of the page."""
        return f"http://{ADDRESS}:{self.server_port}/"

    def server_bind(self) -> None:
        """Bind without looking up the name of the computer, which can take seconds without a network."""
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, int(self.allow_reuse_address))
        self.socket.bind(self.server_address)
        self.server_address = self.socket.getsockname()
        self.server_name, self.server_port = ADDRESS, self.server_address[1]

    def process_request(self, request: Any, client_address: Any) -> None:
        """Answer in a new thread, unless there are too many."""
        if not self._free.acquire(blocking=False):
            self.shutdown_request(request)
            return
        self._receiving[request] = time.monotonic()
        try:
            super().process_request(request, client_address)
        except BaseException:  # no thread was started that would do this
            self._done(request)
            raise

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        """Answer a request, and then accept another connection in its place."""
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._done(request)

    def _done(self, request: Any) -> None:
        self._receiving.pop(request, None)
        self._free.release()

    def received(self, request: Any) -> None:
        """Note that a request has arrived in full."""
        self._receiving.pop(request, None)

    def service_actions(self) -> None:
        """Disconnect the clients that send their request too slowly; called about twice a second."""
        for request, started in list(self._receiving.items()):
            if time.monotonic() - started > SECONDS_TO_SEND:
                self._receiving.pop(request, None)
                # in both directions, which wakes the thread that reads from it and closes it
                with suppress(OSError):
                    request.shutdown(socket.SHUT_RDWR)

    def handle_error(self, request: Any, client_address: Any) -> None:  # noqa: ARG002
        """Print the traceback of an unexpected error; a client that disconnects is not an error."""
        if not isinstance(sys.exception(), OSError | Canceled):
            traceback.print_exc()

    def server_close(self) -> None:
        """Stop listening, and end the computations."""
        self.is_closing = True
        super().server_close()


class _Handler(BaseHTTPRequestHandler):
    """One request. HTTP/1.0, so that each connection carries only one."""

    server: LiveServer
    server_version, sys_version = "pellucid", ""
    timeout = SECONDS_TO_SEND

    def do_GET(self) -> None:
        """Send the page, facts or an image."""
        self._answer(self._get)

    def do_HEAD(self) -> None:
        """Send the headers of a GET request."""
        self._answer(self._get)

    def do_POST(self) -> None:
        """Compute a map."""
        self._answer(self._post)

    def _answer(self, work: Callable[[], Mapping[str, Any] | bytes]) -> None:
        """Check the sender, do the work, and send its result or its error."""
        try:
            self._check_sender()
            self._check_path()
            content = work()
        except Canceled:
            return
        except PellucidError as error:
            self._send(_status(error), _failure(error))
        except Exception as error:  # noqa: BLE001  (the server goes on)
            traceback.print_exc()
            self._send(HTTPStatus.INTERNAL_SERVER_ERROR, _failure(error))
        else:
            self._send(HTTPStatus.OK, content)

    def _check_sender(self) -> None:
        names = self.server.names
        if self.headers.get_all("Host") not in [[name] for name in names]:
            raise Refused(HTTPStatus.MISDIRECTED_REQUEST, f"this server is only reachable as {names[0]}.")
        origin, site = self.headers.get("Origin"), self.headers.get("Sec-Fetch-Site", "none")
        is_page = self.command != "POST" and self._path() == "/"
        is_foreign = origin is not None and origin not in [f"http://{name}" for name in names]
        # links from other sites to the page are fine
        if is_foreign or (site not in ("same-origin", "none") and not is_page):
            raise Refused(HTTPStatus.FORBIDDEN, "pages of other sites cannot use this server.")

    def _get(self) -> Mapping[str, Any] | bytes:
        self.server.received(self.request)
        live, path = self.server.live, self._path()
        if path == "/":
            return self.server.page()
        if path == "/api":
            return live.facts()
        if path == "/api/misclassified":
            return {"indices": live.misclassified(self._job())}
        return live.image(int(path.rpartition("/")[2]), self._job())

    def _post(self) -> Mapping[str, Any] | bytes:
        body = self._body()
        self.server.received(self.request)
        return self.server.live.map(read_request(body), self._job())

    def _path(self) -> str:
        try:
            return urlsplit(self.path).path
        except ValueError as error:
            raise Refused(HTTPStatus.BAD_REQUEST, f"the address is invalid ({error}).") from error

    def _check_path(self) -> None:
        path = self._path()
        # at most nine digits, since int() refuses thousands of them
        route = re.sub(r"\A/api/images/[0-9]{1,9}\Z", "/api/images/INDEX", path)
        if route not in ROUTES:
            raise Refused(HTTPStatus.NOT_FOUND, f"unknown path; this server has {', '.join(ROUTES)}.")
        if ROUTES[route] != ("POST" if self.command == "POST" else "GET"):
            raise Refused(HTTPStatus.METHOD_NOT_ALLOWED, f"{path} accepts {ROUTES[route]}, not {self.command}.")

    def _body(self) -> bytes:
        """Receive the body of a request. Raises `Refused` unless it is JSON of an acceptable length."""
        length = self.headers.get("Content-Length", "")
        if not re.fullmatch(r"[0-9]{1,18}", length) or "Transfer-Encoding" in self.headers:
            raise Refused(HTTPStatus.LENGTH_REQUIRED, "the request has no valid Content-Length.")
        if int(length) > MOST_BYTES:
            self._discard(int(length))
            raise Refused(
                HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
                f"the request has {int(length):,} bytes; the limit is {MOST_BYTES:,}. Send a smaller image.",
            )
        if self.headers.get_content_type() != "application/json":
            self._discard(int(length))
            raise Refused(
                HTTPStatus.UNSUPPORTED_MEDIA_TYPE,
                f"expected Content-Type application/json, got {self.headers.get_content_type()}.",
            )
        body = self.rfile.read(int(length))
        if len(body) != int(length):
            raise Refused(HTTPStatus.BAD_REQUEST, f"the request ends after {len(body)} of {int(length)} bytes.")
        return body

    def _discard(self, length: int) -> None:
        left = min(length, MOST_DISCARDED)
        while left > 0 and (part := self.rfile.read(min(left, 65536))):
            left -= len(part)

    def _job(self) -> Job:
        return Job(lambda: self.server.is_closing or self._is_gone())

    def _is_gone(self) -> bool:
        """Return True if the client has closed the connection, which cancels its request."""
        self.connection.settimeout(0)
        try:
            # b"" is the end of the stream: nothing else follows a request of HTTP/1.0
            return self.connection.recv(1, socket.MSG_PEEK) == b""
        except BlockingIOError:
            return False
        except OSError:
            return True
        finally:
            self.connection.settimeout(self.timeout)

    def _send(self, status: HTTPStatus, content: Mapping[str, Any] | bytes) -> None:
        is_page = isinstance(content, bytes)
        body = content if isinstance(content, bytes) else json_text(content).encode()
        self.send_response(status)
        self.send_header("Content-Type", "text/html; charset=utf-8" if is_page else "application/json")
        self.send_header("Content-Length", str(len(body)))
        for name, value in HEADERS.items():
            self.send_header(name, value)
        if status is HTTPStatus.METHOD_NOT_ALLOWED:
            self.send_header("Allow", "GET, HEAD, POST")
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def send_error(self, code: int, message: str | None = None, explain: str | None = None) -> None:  # noqa: ARG002
        """Answer a request that cannot be parsed, or of another method, in JSON like all others."""
        status = HTTPStatus(code)
        if status is HTTPStatus.NOT_IMPLEMENTED:
            status, message = HTTPStatus.METHOD_NOT_ALLOWED, f"{self.command} is not allowed; use GET, HEAD or POST."
        self._send(status, _failure(Refused(status, message or status.phrase)))

    def log_message(self, format: str, *arguments: Any) -> None:  # noqa: A002
        """Print nothing for each request."""


def _status(error: PellucidError) -> HTTPStatus:
    """Return the status of an error: 4xx for what the client can change, 422 for methods that do not apply."""
    if isinstance(error, Refused):
        return error.status
    if isinstance(error, Busy | TimeUp):
        return HTTPStatus.SERVICE_UNAVAILABLE
    return (
        HTTPStatus.BAD_REQUEST
        if isinstance(error, ConfigError | DataError | ShapeError)
        else HTTPStatus.UNPROCESSABLE_ENTITY
    )


def _failure(error: Exception) -> dict[str, Any]:
    kind = type(error).__name__
    message = str(error) if isinstance(error, PellucidError) else f"unexpected {kind}: {error}"
    return {"error": {"type": kind, "message": message}}
