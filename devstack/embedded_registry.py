"""A small schema registry in this process that speaks Confluent's API, in memory.

The calls that Confluent's clients make, with the same error codes:
https://docs.confluent.io/platform/current/schema-registry/develop/api.html
"""

import json
import re
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote, urlsplit

import fastavro

from devstack.compatibility import problems

LEVELS = ("NONE", "BACKWARD", "BACKWARD_TRANSITIVE", "FORWARD", "FORWARD_TRANSITIVE", "FULL", "FULL_TRANSITIVE")


class RefusedError(Exception):
    """An answer that is an error: HTTP status, Confluent's code, and the reason."""

    def __init__(self, status: int, code: int, message: str) -> None:
        """All three go to the client."""
        super().__init__(message)
        self.status, self.code = status, code


class Subjects:
    """Schemas by id, versions by subject, compatibility levels."""

    def __init__(self) -> None:
        """Empty, BACKWARD."""
        self._lock = threading.Lock()
        self._ids: dict[str, int] = {}  # by the schema's own JSON, sorted: equal schemas share an id
        self._texts: dict[int, str] = {}
        self._subjects: dict[str, dict[int, int]] = {}  # subject -> version -> id
        self._levels: dict[str, str] = {"": "BACKWARD"}

    def register(self, subject: str, text: str) -> dict[str, Any]:
        """A new version, or the one that is there."""
        parsed = _parse(text)
        with self._lock:
            known = self._ids.get(_canonical(parsed))
            versions = self._subjects.setdefault(subject, {})
            if known is None or known not in versions.values():
                if reasons := self._conflicts(subject, parsed):
                    raise RefusedError(409, 409, f"incompatible with an earlier schema: {'; '.join(reasons)}")
                known = known or len(self._texts) + 1
                self._ids[_canonical(parsed)] = known
                self._texts.setdefault(known, text)
                versions[max(versions, default=0) + 1] = known
            return {"id": known}

    def look_up(self, subject: str, text: str) -> dict[str, Any]:
        """The version that a schema has under a subject."""
        wanted = self._ids.get(_canonical(_parse(text)))
        for version, schema_id in self._versions(subject).items():
            if schema_id == wanted:
                return self.version(subject, str(version))
        raise RefusedError(404, 40403, "Schema not found")

    def version(self, subject: str, version: str) -> dict[str, Any]:
        """One version, or ``latest``."""
        versions = self._versions(subject)
        number = max(versions) if version in ("latest", "-1") else int(version) if version.isdigit() else 0
        if number not in versions:
            raise RefusedError(404, 40402, f"Version {version} not found")
        schema_id = versions[number]
        return {"subject": subject, "version": number, "id": schema_id, "schema": self._texts[schema_id]}

    def by_id(self, schema_id: int) -> dict[str, Any]:
        """The schema's text."""
        if schema_id not in self._texts:
            raise RefusedError(404, 40403, "Schema not found")
        return {"schema": self._texts[schema_id]}

    def uses(self, schema_id: int) -> list[dict[str, Any]]:
        """Subjects and versions that hold an id."""
        self.by_id(schema_id)
        return [
            {"subject": subject, "version": version}
            for subject, versions in self._subjects.items()
            for version, held in versions.items()
            if held == schema_id
        ]

    def subjects(self) -> list[str]:
        """All names."""
        return sorted(name for name, versions in self._subjects.items() if versions)

    def versions(self, subject: str) -> list[int]:
        """All version numbers."""
        return sorted(self._versions(subject))

    def delete(self, subject: str) -> list[int]:
        """Forget a subject; ids stay."""
        versions = self.versions(subject)
        del self._subjects[subject]
        return versions

    def level(self, subject: str) -> dict[str, Any]:
        """The compatibility level, own or global."""
        return {"compatibilityLevel": self._levels.get(subject, self._levels[""])}

    def set_level(self, subject: str, level: str) -> dict[str, Any]:
        """Change it."""
        if level not in LEVELS:
            raise RefusedError(422, 42203, f"Invalid compatibility level {level}")
        self._levels[subject] = level
        return {"compatibility": level}

    def test(self, subject: str, text: str) -> dict[str, Any]:
        """Whether a schema could be registered next."""
        reasons = self._conflicts(subject, _parse(text))
        return {"is_compatible": not reasons, "messages": reasons}

    def _versions(self, subject: str) -> dict[int, int]:
        versions = self._subjects.get(subject)
        if not versions:
            raise RefusedError(404, 40401, f"Subject '{subject}' not found")
        return versions

    def _conflicts(self, subject: str, new: Any) -> list[str]:
        level = self.level(subject)["compatibilityLevel"]
        versions = self._subjects.get(subject, {})
        numbers = sorted(versions) if level.endswith("_TRANSITIVE") else sorted(versions)[-1:]
        found: list[str] = []
        for number in numbers:
            old = json.loads(self._texts[versions[number]])
            if level.startswith(("BACKWARD", "FULL")):
                found += problems(new, old)
            if level.startswith(("FORWARD", "FULL")):
                found += problems(old, new)
        return found


def _parse(text: str) -> Any:
    try:
        schema = json.loads(text)
        fastavro.parse_schema(schema)
    except Exception as error:  # noqa: BLE001  fastavro's errors have no common base, and all mean: no schema
        raise RefusedError(422, 42201, f"Invalid schema: {error}") from None
    return schema


def _canonical(schema: Any) -> str:
    return json.dumps(schema, sort_keys=True)


Route = tuple[str, str, Callable[..., Any]]


def _routes(s: Subjects) -> list[Route]:
    """Method, pattern of the path, and what answers; the body comes last where there is one."""
    return [
        ("GET", r"/subjects", s.subjects),
        ("GET", r"/subjects/([^/]+)/versions", s.versions),
        ("GET", r"/subjects/([^/]+)/versions/([^/]+)", s.version),
        ("POST", r"/subjects/([^/]+)/versions", lambda subject, body: s.register(subject, body["schema"])),
        ("POST", r"/subjects/([^/]+)", lambda subject, body: s.look_up(subject, body["schema"])),
        ("DELETE", r"/subjects/([^/]+)", s.delete),
        ("GET", r"/schemas/ids/(\d+)", lambda i: s.by_id(int(i))),
        ("GET", r"/schemas/ids/(\d+)/subjects", lambda i: [use["subject"] for use in s.uses(int(i))]),
        ("GET", r"/schemas/ids/(\d+)/versions", lambda i: s.uses(int(i))),
        ("GET", r"/schemas/types", lambda: ["AVRO"]),
        ("GET", r"/config", lambda: s.level("")),
        ("GET", r"/config/([^/]+)", s.level),
        ("PUT", r"/config", lambda body: s.set_level("", body["compatibility"])),
        ("PUT", r"/config/([^/]+)", lambda subject, body: s.set_level(subject, body["compatibility"])),
        ("POST", r"/compatibility/subjects/([^/]+)/versions(?:/[^/]+)?", lambda n, body: s.test(n, body["schema"])),
    ]


class EmbeddedRegistry:
    """Serves until stopped."""

    def __init__(self) -> None:
        """Start on a free port of 127.0.0.1."""
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(_routes(Subjects())))
        self._server.daemon_threads = True
        threading.Thread(target=self._server.serve_forever, name="registry", daemon=True).start()
        self.url = f"http://127.0.0.1:{self._server.server_port}"

    def stop(self) -> None:
        """End; everything is forgotten."""
        self._server.shutdown()
        self._server.server_close()


def _handler(routes: list[Route]) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def _serve(self) -> None:
            try:
                status, answer = 200, self._answer()
            except RefusedError as refused:
                status, answer = refused.status, {"error_code": refused.code, "message": str(refused)}
            except (ValueError, KeyError, TypeError) as error:
                status, answer = 422, {"error_code": 42201, "message": f"Invalid request: {error!r}"}
            body = json.dumps(answer).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/vnd.schemaregistry.v1+json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def _answer(self) -> Any:
            length = int(self.headers.get("Content-Length") or 0)
            body = [json.loads(self.rfile.read(length))] if length else []
            path = urlsplit(self.path).path.rstrip("/")
            for method, pattern, answer in routes:
                match = re.fullmatch(pattern, path)
                if method == self.command and match:
                    return answer(*map(unquote, match.groups()), *body)
            raise RefusedError(404, 404, f"HTTP 404 {self.command} {path}")

        do_GET = do_POST = do_PUT = do_DELETE = _serve  # noqa: N815  the base class's names

        def log_message(self, *_: object) -> None:
            """Its user is on the same machine and sees the answers."""

    return Handler
