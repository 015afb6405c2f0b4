"""The same questions to Apicurio and to the embedded registry, asked by Confluent's own client."""

import json
from collections.abc import Iterator
from typing import Any

import pytest
from confluent_kafka.schema_registry import Schema, SchemaRegistryClient
from confluent_kafka.schema_registry.avro import AvroDeserializer, AvroSerializer
from confluent_kafka.schema_registry.error import SchemaRegistryError
from confluent_kafka.serialization import MessageField, SerializationContext

from devstack import Stack


@pytest.fixture(params=["embedded", pytest.param("apicurio", marks=pytest.mark.integration)])
def client(request: pytest.FixtureRequest) -> Iterator[SchemaRegistryClient]:
    name = "stack" if request.param == "apicurio" else "embedded_stack"
    stack: Stack = request.getfixturevalue(name)
    with SchemaRegistryClient({"url": stack.registry_url, "timeout": 10}) as client:
        yield client


@pytest.fixture
def subject(request: pytest.FixtureRequest) -> str:
    """One of its own for each test."""
    return f"{request.node.name}-value"


def avro(*fields: dict[str, Any]) -> Schema:
    base = [{"name": "server_id", "type": "string", "fleetcast": {"role": "key"}}]
    text = {
        "type": "record",
        "name": "Event",
        "namespace": "n.v1",
        "fleetcast": {"step": 1},
        "fields": [*base, *fields],
    }
    return Schema(json.dumps(text), "AVRO")


NULLABLE = {"name": "extra", "type": ["null", "double"], "default": None}
REQUIRED = {"name": "extra", "type": "double"}


def refusal(call: Any, *arguments: Any) -> tuple[int, int]:
    """HTTP status and the error code of a refused call."""
    with pytest.raises(SchemaRegistryError) as caught:
        call(*arguments)
    return caught.value.http_status_code, caught.value.error_code


def test_registered_once(client: SchemaRegistryClient, subject: str) -> None:
    """A schema registered twice has one id and one version, and its subject is listed."""
    first = client.register_schema(subject, avro())
    again = client.register_schema(subject, avro())

    assert first == again
    assert client.get_versions(subject) == [1]
    assert subject in client.get_subjects()


def test_ids_belong_to_schemas(client: SchemaRegistryClient, subject: str) -> None:
    """The same schema has the same id under another subject; another schema has another id."""
    one = client.register_schema(subject, avro())

    assert client.register_schema(f"{subject}-other", avro()) == one
    assert client.register_schema(subject, avro(NULLABLE)) != one
    assert client.get_versions(subject) == [1, 2]


def test_normalized_text_is_the_same_schema(client: SchemaRegistryClient, subject: str) -> None:
    """With ``normalize`` neither white space nor the order of attributes makes a new version."""
    spaced = Schema(json.dumps(json.loads(avro().schema_str or ""), indent=3, sort_keys=True), "AVRO")
    one = client.register_schema(subject, avro(), normalize_schemas=True)

    assert client.register_schema(subject, spaced, normalize_schemas=True) == one
    assert client.lookup_schema(subject, spaced, normalize_schemas=True).schema_id == one
    assert client.get_versions(subject) == [1]


def test_text_comes_back_with_its_attributes(client: SchemaRegistryClient, subject: str) -> None:
    """By id and as latest, the schema is the one registered, attributes that Avro does not know included."""
    schema_id = client.register_schema(subject, avro(NULLABLE))
    latest = client.get_latest_version(subject)

    for text in (client.get_schema(schema_id).schema_str, latest.schema.schema_str):
        assert json.loads(text or "") == json.loads(avro(NULLABLE).schema_str or "")
    assert (latest.subject, latest.version, latest.schema_id) == (subject, 1, schema_id)


def test_versions_are_found(client: SchemaRegistryClient, subject: str) -> None:
    """Each version by its number, and the version of a schema by its text."""
    ids = [client.register_schema(subject, schema) for schema in (avro(), avro(NULLABLE))]

    assert [client.get_version(subject, number).schema_id for number in (1, 2)] == ids
    assert client.lookup_schema(subject, avro()).version == 1
    assert client.get_latest_version(subject).version == 2


def test_what_is_not_there(client: SchemaRegistryClient, subject: str) -> None:
    """Unknown subjects, versions, schemas and ids have Confluent's codes."""
    client.register_schema(subject, avro())

    assert refusal(client.get_latest_version, "nobody-value") == (404, 40401)
    assert refusal(client.get_versions, "nobody-value") == (404, 40401)
    assert refusal(client.delete_subject, "nobody-value") == (404, 40401)
    assert refusal(client.get_version, subject, 7) == (404, 40402)
    assert refusal(client.lookup_schema, subject, avro(NULLABLE)) == (404, 40403)
    assert refusal(client.get_schema, 987654) == (404, 40403)


@pytest.mark.parametrize("text", ["{", '{"type": "record"}', '"strin"', '{"type": "record", "name": "R", "fields": 3}'])
def test_no_schema_is_refused(client: SchemaRegistryClient, subject: str, text: str) -> None:
    """What is no Avro schema is refused as invalid, and no subject comes of it."""
    assert refusal(client.register_schema, subject, Schema(text, "AVRO")) == (422, 42201)
    assert subject not in client.get_subjects()


def test_incompatible_is_refused_with_its_reason(client: SchemaRegistryClient, subject: str) -> None:
    """Under BACKWARD a new required field is refused, the reason names it, and a nullable one is taken."""
    client.set_compatibility(subject, level="BACKWARD")
    client.register_schema(subject, avro())

    with pytest.raises(SchemaRegistryError) as caught:
        client.register_schema(subject, avro(REQUIRED))
    assert caught.value.http_status_code == 409
    assert "extra" in str(caught.value)
    assert client.register_schema(subject, avro(NULLABLE))


def test_compatibility_can_be_asked(client: SchemaRegistryClient, subject: str) -> None:
    """The compatibility test says beforehand what a registration would."""
    client.set_compatibility(subject, level="BACKWARD")
    client.register_schema(subject, avro())

    assert client.test_compatibility(subject, avro(NULLABLE))
    assert not client.test_compatibility(subject, avro(REQUIRED))
    assert client.get_versions(subject) == [1]


@pytest.mark.parametrize(
    ("level", "adds_required", "drops_required"),
    [("NONE", True, True), ("BACKWARD", False, True), ("FORWARD", True, False), ("FULL", False, False)],
)
def test_levels(
    client: SchemaRegistryClient, subject: str, level: str, adds_required: bool, drops_required: bool
) -> None:
    """Each level looks in its direction: new readers of old data, old readers of new data, both, or neither."""
    for name, old, new, allowed in (
        (f"{subject}-adds", avro(), avro(REQUIRED), adds_required),
        (f"{subject}-drops", avro(REQUIRED), avro(), drops_required),
    ):
        client.set_compatibility(name, level=level)
        client.register_schema(name, old)

        assert client.get_compatibility(name) == level
        assert client.test_compatibility(name, new) is allowed


def test_transitive_looks_at_all_versions(client: SchemaRegistryClient, subject: str) -> None:
    """BACKWARD looks at the last version, BACKWARD_TRANSITIVE at all."""
    other = {"name": "extra", "type": ["null", "string"], "default": None}
    for level, allowed in (("BACKWARD", True), ("BACKWARD_TRANSITIVE", False)):
        name = f"{subject}-{level}"
        client.set_compatibility(name, level=level)
        for schema in (avro(NULLABLE), avro()):
            client.register_schema(name, schema)
        if allowed:
            assert client.register_schema(name, avro(other))
        else:
            assert refusal(client.register_schema, name, avro(other))[0] == 409


def test_backward_unless_said_otherwise(client: SchemaRegistryClient, subject: str) -> None:
    """Where no level is set it is BACKWARD, as in Confluent's registry; an unknown level is refused."""
    client.register_schema(subject, avro())

    assert client.get_compatibility() == "BACKWARD"
    assert not client.test_compatibility(subject, avro(REQUIRED))
    assert refusal(client.set_compatibility, subject, "SIDEWAYS") == (422, 42203)


def test_nothing_is_incompatible_with_nothing(client: SchemaRegistryClient, subject: str) -> None:
    """A subject that does not exist takes any schema."""
    assert client.test_compatibility(subject, avro())


def test_deleted_is_gone_but_its_ids_stay(client: SchemaRegistryClient, subject: str) -> None:
    """After the deletion of a subject messages with its id can still be read."""
    schema_id = client.register_schema(subject, avro())

    assert client.delete_subject(subject) == [1]
    assert subject not in client.get_subjects()
    assert refusal(client.get_latest_version, subject) == (404, 40401)
    client.clear_caches()
    assert client.get_schema(schema_id).schema_str


def test_names_are_decoded(client: SchemaRegistryClient) -> None:
    """A subject may hold characters that are escaped in a URL."""
    name = "topic with/slash & ümlaut%-value"
    client.register_schema(name, avro())

    assert name in client.get_subjects()
    assert client.get_latest_version(name).subject == name


def test_serialisers_work(client: SchemaRegistryClient, subject: str) -> None:
    """Confluent's serialiser and deserialiser find their schemas, with auto-registration off."""
    context = SerializationContext(subject.removesuffix("-value"), MessageField.VALUE)
    client.register_schema(subject, avro(NULLABLE))
    config = {"auto.register.schemas": False}
    serialise = AvroSerializer(client, avro(NULLABLE), conf=config)  # type: ignore[call-arg]
    deserialise = AvroDeserializer(client)  # type: ignore[call-arg]

    event = {"server_id": "a", "extra": 1.5}
    assert deserialise(serialise(event, context) or b"", context) == event
