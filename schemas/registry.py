"""The schema registry: subjects by topic name, schemas by id, nothing registered behind anyone's back."""

import json
import time
from typing import Any

import httpx2 as httpx
from confluent_kafka.schema_registry import Schema, SchemaRegistryClient
from confluent_kafka.schema_registry.error import SchemaRegistryError

from schemas.errors import FleetcastError, InputError, MismatchError, UnreachableError

# Confluent's error codes: https://docs.confluent.io/platform/current/schema-registry/develop/api.html
_NOT_FOUND = (40401, 40402, 40403)
_AWAY_SECONDS = 0.9
_INCOMPATIBLE = (409, 40901)
# Refused credentials too: at run time someone may be rotating them, and no record is lost by waiting.
_TRY_AGAIN = (
    401,
    403,
    404,
    408,
    429,
)  # 404 without a code of Confluent's: a proxy with nothing behind it, or a wrong path
# By default the client waits for ever on a server that accepts and says nothing. Who asks tries again by himself.
_PATIENCE = {"timeout": 10, "max.retries": 1, "retries.wait.ms": 100}


def subject(topic: str) -> str:
    """The subject of a topic's values (TopicNameStrategy)."""
    return f"{topic}-value"


class Registry:
    """A registry with Confluent's API. Schemas by id are cached for ever: an id never changes its meaning."""

    def __init__(self, url: str) -> None:
        """``url`` may carry a path such as ``/apis/ccompat/v7``. Nothing is asked yet.

        Raises:
            InputError: it is no URL.
        """
        self.url = url
        try:
            self._client = SchemaRegistryClient({"url": url, **_PATIENCE})
        except ValueError as error:
            raise InputError(f"{url!r} is no URL of a registry: {error}") from None
        self._by_id: dict[int, dict[str, Any]] = {}
        self._away_until = 0.0

    def writer_schema(self, schema_id: int) -> dict[str, Any] | None:
        """The schema under an id, or None where the registry knows none.

        Raises:
            UnreachableError: when the registry does not answer and the id is not cached.
        """
        if schema_id not in self._by_id:
            if time.monotonic() < self._away_until:
                raise UnreachableError(f"the registry at {self.url} did not answer a moment ago")
            try:
                found = self._ask(lambda: self._client.get_schema(schema_id))
            except UnreachableError:  # one waiting time for all who ask now, not one for each
                self._away_until = time.monotonic() + _AWAY_SECONDS
                raise
            if found is None:
                return None
            # A topic may hold values of another kind than Avro; their type is what the codec refuses them by.
            avro_text = str(found.schema_str) if found.schema_type in (None, "AVRO") else json.dumps(found.schema_type)
            self._by_id[schema_id] = json.loads(avro_text)
        return self._by_id[schema_id]

    def schema_id(self, topic: str, schema: dict[str, Any]) -> int:
        """The id of ``schema`` under the topic's subject. Services never register by themselves.

        Raises:
            MismatchError: it is not registered there.
            UnreachableError: when the registry does not answer.
        """
        name = subject(topic)
        found = self._ask(lambda: self._client.lookup_schema(name, avro(schema)))
        if found is None:
            raise MismatchError(
                f"the schema {schema['name']} is not registered under {name} at {self.url}: "
                "run `fleetcast schemas register`"
            )
        schema_id = int(found.schema_id)
        self._by_id[schema_id] = schema
        return schema_id

    def register(self, topic: str, schema: dict[str, Any]) -> int:
        """Register ``schema`` under the topic's subject and return its id; repeats safely.

        Raises:
            MismatchError: it is not compatible with what is registered; the registry's reason is told.
            UnreachableError: when the registry does not answer.
        """
        found: int | None = self._ask(lambda: self._client.register_schema(subject(topic), avro(schema)))
        if found is None:
            raise FleetcastError(f"the registry at {self.url} knows no way to register {subject(topic)}")
        return int(found)

    def incompatibilities(self, topic: str, schema: dict[str, Any]) -> list[str] | None:
        """Why ``schema`` cannot follow what is registered; empty where it can, None where nothing is registered.

        Raises:
            UnreachableError: when the registry does not answer.
        """
        name = subject(topic)
        if self._ask(lambda: self._client.get_latest_version(name)) is None:
            return None
        answer = self._ask(lambda: self._client.test_compatibility_all_versions(name, avro(schema)))
        return [] if answer else [f"{schema['name']} is not compatible with what {name} holds"]

    def _ask(self, call: Any) -> Any:
        """Run a registry call; None for 'not found', our errors for the rest."""
        try:
            return call()
        except SchemaRegistryError as error:
            if error.error_code in _NOT_FOUND:
                return None
            if error.http_status_code == 409 or error.error_code in _INCOMPATIBLE:
                raise MismatchError(f"refused by the registry: {error.error_message}") from None
            if error.http_status_code >= 500 or error.http_status_code < 0 or error.http_status_code in _TRY_AGAIN:
                raise UnreachableError(
                    f"the registry at {self.url} fails with HTTP {error.http_status_code}: {error.error_message}"
                ) from None
            raise FleetcastError(f"the registry at {self.url} answers: {error.error_message}") from None
        except (httpx.HTTPError, OSError) as error:
            raise UnreachableError(
                f"no registry answers at {self.url}: {error}. Is it up? (--registry-url, FLEETCAST_REGISTRY_URL)"
            ) from None


def avro(schema: dict[str, Any]) -> Schema:
    """The registry client's wrapper of an Avro schema; attributes survive."""
    return Schema(json.dumps(schema), schema_type="AVRO")
