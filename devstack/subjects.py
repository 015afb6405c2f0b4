"""What a schema registry knows: schemas by id, versions by subject, compatibility levels. In memory.

Error codes are Confluent's: https://docs.confluent.io/platform/current/schema-registry/develop/api.html
"""

import json
from typing import Any

import fastavro
from fastavro.schema import SchemaParseException

from devstack.compatibility import problems

LEVELS = ("NONE", "BACKWARD", "BACKWARD_TRANSITIVE", "FORWARD", "FORWARD_TRANSITIVE", "FULL", "FULL_TRANSITIVE")


class RefusedError(Exception):
    """An answer that is an error: HTTP status, Confluent's code, and the reason."""

    def __init__(self, status: int, code: int, message: str) -> None:
        """All three go to the client."""
        super().__init__(message)
        self.status, self.code = status, code


class Subjects:
    """Not safe for threads: its caller holds a lock."""

    def __init__(self) -> None:
        """Empty; BACKWARD, as Confluent's is."""
        self._ids: dict[str, int] = {}  # by the schema's JSON with sorted keys: equal schemas share an id
        self._texts: dict[int, str] = {}
        self._subjects: dict[str, dict[int, int]] = {}  # subject -> version -> id
        self._deleted: dict[str, list[int]] = {}
        self._level = "BACKWARD"
        self._levels: dict[str, str] = {}

    def register(self, subject: str, request: dict[str, Any]) -> dict[str, Any]:
        """A new version, or the one that is there."""
        text = _text(request)
        parsed = _parse(text)
        canonical = _canonical(parsed)
        known = self._ids.get(canonical)
        if known is None or known not in self._subjects.get(subject, {}).values():
            if reasons := self._conflicts(parsed, subject, self._versions_to_check(subject)):
                raise RefusedError(409, 409, f"Schema is incompatible with an earlier one: {'; '.join(reasons)}")
            known = known or len(self._texts) + 1
            self._ids[canonical] = known
            self._texts.setdefault(known, text)
            versions = self._subjects.setdefault(subject, {})
            versions[max([*versions, *self._deleted.get(subject, [])], default=0) + 1] = known
        return {"id": known}

    def look_up(self, subject: str, request: dict[str, Any]) -> dict[str, Any]:
        """The version that a schema has under a subject."""
        wanted = self._ids.get(_canonical(_parse(_text(request))))
        for version, schema_id in self._versions(subject).items():
            if schema_id == wanted:
                return self.version(subject, str(version))
        raise RefusedError(404, 40403, "Schema not found")

    def version(self, subject: str, version: str) -> dict[str, Any]:
        """One version, or ``latest``."""
        number = self._number(subject, version)
        schema_id = self._subjects[subject][number]
        return {"subject": subject, "version": number, "id": schema_id, "schema": self._texts[schema_id]}

    def by_id(self, schema_id: str) -> dict[str, Any]:
        """The schema's text, as it was registered."""
        if int(schema_id) not in self._texts:
            raise RefusedError(404, 40403, f"Schema {schema_id} not found")
        return {"schema": self._texts[int(schema_id)]}

    def uses(self, schema_id: str) -> list[dict[str, Any]]:
        """Subjects and versions that hold an id."""
        self.by_id(schema_id)
        return [
            {"subject": subject, "version": version}
            for subject, versions in self._subjects.items()
            for version, held in versions.items()
            if held == int(schema_id)
        ]

    def subjects(self) -> list[str]:
        """All names."""
        return sorted(self._subjects)

    def versions(self, subject: str) -> list[int]:
        """All version numbers."""
        return sorted(self._versions(subject))

    def delete(self, subject: str, *, permanent: bool = False) -> list[int]:
        """Forget a subject and its level; ids stay. For good (clients then call twice) only what is deleted already."""
        if permanent and subject in self._deleted and subject not in self._subjects:
            return self._deleted.pop(subject)
        versions = self.versions(subject)
        if permanent:
            raise RefusedError(404, 40405, f"Subject '{subject}' was not deleted before being deleted permanently")
        self._deleted[subject] = versions
        del self._subjects[subject]
        self._levels.pop(subject, None)
        return versions

    def level(self, subject: str | None = None, *, or_global: bool = False) -> dict[str, Any]:
        """The global compatibility level, or a subject's own."""
        if subject is None or (or_global and subject not in self._levels):
            return {"compatibilityLevel": self._level}
        if subject not in self._levels:
            raise RefusedError(404, 40408, f"Subject '{subject}' does not have subject-level compatibility configured")
        return {"compatibilityLevel": self._levels[subject]}

    def set_level(self, subject: str | None, request: dict[str, Any]) -> dict[str, Any]:
        """Change it; None is the global one."""
        level = str(request["compatibility"]).upper()
        if level not in LEVELS:
            raise RefusedError(422, 42203, f"Invalid compatibility level {level}: one of {', '.join(LEVELS)}")
        if subject is None:
            self._level = level
        else:
            self._levels[subject] = level
        return {"compatibility": level}

    def test(self, subject: str, version: str | None, request: dict[str, Any]) -> dict[str, Any]:
        """Whether a schema could be registered next, judged against one version or those that its level names."""
        parsed = _parse(_text(request))
        if version is None or (version == "latest" and subject not in self._subjects):  # nothing to be compatible with
            numbers = self._versions_to_check(subject)
        else:
            numbers = [self._number(subject, version)]
        reasons = self._conflicts(parsed, subject, numbers)
        return {"is_compatible": not reasons, "messages": reasons}

    def _versions(self, subject: str) -> dict[int, int]:
        if subject not in self._subjects:
            raise RefusedError(404, 40401, f"Subject '{subject}' not found")
        return self._subjects[subject]

    def _number(self, subject: str, version: str) -> int:
        versions = self._versions(subject)
        if version in ("latest", "-1"):
            return max(versions)
        if not version.isdecimal() or int(version) == 0:
            raise RefusedError(422, 42202, f"The specified version '{version}' is not a valid version id")
        if int(version) not in versions:
            raise RefusedError(404, 40402, f"Version {version} not found")
        return int(version)

    def _effective_level(self, subject: str) -> str:
        return self._levels.get(subject, self._level)

    def _versions_to_check(self, subject: str) -> list[int]:
        numbers = sorted(self._subjects.get(subject, {}))
        return numbers if self._effective_level(subject).endswith("_TRANSITIVE") else numbers[-1:]

    def _conflicts(self, new: Any, subject: str, numbers: list[int]) -> list[str]:
        level = self._effective_level(subject)
        found: list[str] = []
        for number in numbers:
            old = json.loads(self._texts[self._subjects[subject][number]])
            if level.startswith(("BACKWARD", "FULL")):
                found += problems(new, old)
            if level.startswith(("FORWARD", "FULL")):
                found += problems(old, new)
        return found


def _text(request: dict[str, Any]) -> str:
    kind = request.get("schemaType") or "AVRO"
    if kind != "AVRO" or request.get("references"):
        raise RefusedError(422, 42201, f"Invalid schema: {kind} with references or of another type than AVRO")
    return str(request["schema"])


def _parse(text: str) -> Any:
    try:
        schema = json.loads(text)
        fastavro.parse_schema(schema)
    except (SchemaParseException, AttributeError, LookupError, RecursionError, TypeError, ValueError) as error:
        raise RefusedError(422, 42201, f"Invalid schema: {error}") from None
    return schema


def _canonical(schema: Any) -> str:
    return json.dumps(schema, sort_keys=True)
