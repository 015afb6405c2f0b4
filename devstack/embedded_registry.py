"""A small schema registry in this process that speaks Confluent's API, in memory.

It answers the calls that Confluent's clients make, with the same error codes. Avro only, no references between schemas.
"""

import json
import re
import socket
import threading
from collections.abc import Callable, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qsl, unquote, urlsplit

from devstack.subjects import RefusedError, Subjects

_JSON = "application/vnd.schemaregistry.v1+json"
_ROOM_FOR_REQUEST_BYTES = 10_000_000
Query = Mapping[str, str]
Route = tuple[str, str, Callable[..., Any]]


class EmbeddedRegistry:
    """Serves until stopped; started again it has the same address and still knows its schemas."""

    def __init__(self) -> None:
        """Start on a free port of 127.0.0.1."""
        self._answer = _Answer(Subjects())
        self._server: _Server | None = _serve(0, self._answer)
        self._port = self._server.server_port
        self.url = f"http://127.0.0.1:{self._port}"

    def stop(self) -> None:
        """End: nobody listens, and open connections are closed."""
        if self._server is not None:
            self._server.stop()
            self._server = None

    def start(self) -> None:
        """Serve again after a stop."""
        if self._server is None:
            self._server = _serve(self._port, self._answer)


class _Answer:
    """Finds what answers a request; one at a time."""

    def __init__(self, subjects: Subjects) -> None:
        self._routes = _routes(subjects)
        self._lock = threading.Lock()

    def __call__(self, method: str, target: str, body: bytes) -> Any:
        url = urlsplit(target)
        path = url.path.rstrip("/")
        for known, pattern, answer in self._routes:
            match = re.fullmatch(pattern, path)
            if known == method and match:
                found = [*map(unquote, filter(None, match.groups()))]
                if method in ("POST", "PUT"):
                    found.append(json.loads(body))
                with self._lock:
                    return answer(dict(parse_qsl(url.query)), *found)
        raise RefusedError(404, 404, f"HTTP 404 Not Found: {method} {path}")


def _routes(s: Subjects) -> list[Route]:
    """Method, pattern of the path, and what answers: a function of query, parts of the path, and the body if any."""
    return [
        ("GET", r"/subjects", lambda _: s.subjects()),
        ("GET", r"/subjects/([^/]+)/versions", lambda _, n: s.versions(n)),
        ("GET", r"/subjects/([^/]+)/versions/([^/]+)", lambda _, n, v: s.version(n, v)),
        ("POST", r"/subjects/([^/]+)/versions", lambda _, n, body: s.register(n, body)),
        ("POST", r"/subjects/([^/]+)", lambda _, n, body: s.look_up(n, body)),
        ("DELETE", r"/subjects/([^/]+)", lambda q, n: s.delete(n, permanent=q.get("permanent") == "true")),
        ("GET", r"/schemas/ids/(\d+)", lambda _, i: s.by_id(i)),
        ("GET", r"/schemas/ids/(\d+)/subjects", lambda _, i: [use["subject"] for use in s.uses(i)]),
        ("GET", r"/schemas/ids/(\d+)/versions", lambda _, i: s.uses(i)),
        ("GET", r"/schemas/types", lambda _: ["AVRO"]),
        ("GET", r"/config", lambda _: s.level()),
        ("GET", r"/config/([^/]+)", lambda q, n: s.level(n, or_global=q.get("defaultToGlobal", "").lower() == "true")),
        ("PUT", r"/config", lambda _, body: s.set_level(None, body)),
        ("PUT", r"/config/([^/]+)", lambda _, n, body: s.set_level(n, body)),
        ("POST", r"/compatibility/subjects/([^/]+)/versions", lambda _, n, body: s.test(n, None, body)),
        ("POST", r"/compatibility/subjects/([^/]+)/versions/([^/]+)", lambda _, n, v, body: s.test(n, v, body)),
    ]


class _Server(ThreadingHTTPServer):
    """Knows its connections, so that a stop ends those that are kept alive too."""

    def __init__(self, port: int, handler: type[BaseHTTPRequestHandler]) -> None:
        self._connections: set[socket.socket] = set()
        super().__init__(("127.0.0.1", port), handler)

    def process_request(self, request: Any, client_address: Any) -> None:
        self._connections.add(request)
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        self._connections.discard(request)
        super().shutdown_request(request)

    def stop(self) -> None:
        self.shutdown()
        self.server_close()
        for connection in list(self._connections):
            super().shutdown_request(connection)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that goes away in the middle of an answer is no event."""


def _serve(port: int, answer: _Answer) -> _Server:
    server = _Server(port, _handler(answer))
    threading.Thread(target=server.serve_forever, args=(0.05,), name="registry", daemon=True).start()
    return server


def _handler(answer: _Answer) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True  # head and body are two writes: with it, each answer waits 40 ms for an ACK

        def _serve(self) -> None:
            try:
                status, told = 200, answer(self.command, self.path, self._body())
            except RefusedError as refused:
                status, told = refused.status, {"error_code": refused.code, "message": str(refused)}
            except (AttributeError, KeyError, RecursionError, TypeError, ValueError) as error:
                status, told = 422, {"error_code": 422, "message": f"Invalid request: {error!r}"}
            body = json.dumps(told).encode()
            self.send_response(status)
            self.send_header("Content-Type", _JSON)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def _body(self) -> bytes:
            length = int(self.headers.get("Content-Length") or 0)
            if not 0 <= length <= _ROOM_FOR_REQUEST_BYTES:
                self.close_connection = True
                raise RefusedError(413, 413, f"a request of {length} bytes")
            return self.rfile.read(length)

        do_GET = do_POST = do_PUT = do_DELETE = _serve  # noqa: N815  the base class's names

        def log_message(self, *_: object) -> None:
            """Its user is on the same machine and sees the answers."""

    return Handler
