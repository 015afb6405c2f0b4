"""fastavro's one-record functions in a loop: what there is for Avro in Python without a compiler."""

import io
from collections.abc import Callable, Sequence
from typing import Any

import fastavro

_HEADER = 5  # Confluent's magic byte and schema id


def reading(schema: dict[str, Any], messages: Sequence[bytes]) -> Callable[[], list[Any]]:
    """Decode framed messages into dictionaries."""
    parsed = fastavro.parse_schema(schema)
    read = fastavro.schemaless_reader
    return lambda: [read(io.BytesIO(message[_HEADER:]), parsed) for message in messages]


def writing(schema: dict[str, Any], records: Sequence[Any], header: bytes) -> Callable[[], list[bytes]]:
    """Encode dictionaries into framed messages."""
    parsed = fastavro.parse_schema(schema)

    def write() -> list[bytes]:
        messages = []
        for record in records:
            out = io.BytesIO()
            out.write(header)
            fastavro.schemaless_writer(out, parsed, record)
            messages.append(out.getvalue())
        return messages

    return write
