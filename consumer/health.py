"""Health over HTTP: ``/livez``, ``/readyz`` and ``/status``, computed from the service, never assumed."""

import errno
import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import structlog

from schemas.errors import InputError

log = structlog.get_logger(__name__)


@contextmanager
def health_server(port: int, status: Callable[[], dict[str, Any]], *, any_port: bool = False) -> Iterator[int]:
    """Serve on all interfaces' ``port`` (0: any free one) while in the context; yields the port.

    Args:
        port: where.
        any_port: where it is taken, use a free one: several members may share a host.
        status: figures, with ``ready`` and ``alive``; asked for each request.

    Raises:
        InputError: the port is taken.
    """
    server = _bind(port, status, any_port=any_port)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, name="health", daemon=True)
    thread.start()
    log.info("health at", port=server.server_port)
    try:
        yield server.server_port
    finally:
        server.shutdown()
        server.server_close()


def _bind(port: int, status: Callable[[], dict[str, Any]], *, any_port: bool) -> ThreadingHTTPServer:
    try:
        return ThreadingHTTPServer(("", port), _handler(status))
    except OSError as error:
        if error.errno != errno.EADDRINUSE:
            raise
        if not any_port:
            raise InputError(f"port {port} is taken: choose another with --http-port") from None
    log.warning("the health port is taken; using a free one", port=port)
    return ThreadingHTTPServer(("", 0), _handler(status))


def _handler(status: Callable[[], dict[str, Any]]) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            figures = status()
            codes = {
                "/livez": 200 if figures["alive"] else 503,
                "/readyz": 200 if figures["ready"] else 503,
                "/status": 200,
            }
            body = json.dumps(figures).encode()
            self.send_response(codes.get(self.path, 404))
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            """Probes come every second; they are not worth a line each."""

    return Handler
