"""The same windows as a Quix Streams program: means over five minutes of event time, exactly once, to another topic.

``python -m bench.peers.quix '{"bootstrap_servers": ..., ...}'``: a process of its own, which ends when nothing came for
a while. One ``reduce`` and windows that the partition's time closes: of the library's ways (``agg`` with a ``Mean`` a
field, windows closed by key) this was the quickest, by a third and more.
"""

import importlib.util
import io
import json
import sys
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from typing import Any

import fastavro

Row = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Job:
    """What to do.

    Attributes:
        time, reals, enums: names of fields: event time, those whose mean is wanted, those whose last value is.
        step_ms, grace_ms: length of a window, and how long its end is waited for.
        state: folder of RocksDB.
    """

    bootstrap_servers: str
    registry_url: str
    group: str
    source: str
    target: str
    state: str
    time: str
    reals: list[str]
    enums: list[str]
    step_ms: int
    grace_ms: int
    idle_seconds: float = 3.0

    def command(self) -> list[str]:
        """Arguments of this module."""
        return [json.dumps(asdict(self))]

    def windows(self, values: Iterable[bytes]) -> Iterator[Row]:
        """What came out, decoded."""
        schema = fastavro.parse_schema(_schema(self))
        for value in values:
            row = fastavro.schemaless_reader(io.BytesIO(value), schema)
            assert isinstance(row, dict)  # noqa: S101  a record
            yield row


def installed() -> bool:
    """Whether the library is here (the extra ``bench``)."""
    return importlib.util.find_spec("quixstreams") is not None


class Mean:
    """A window of one server while it is open: sums and counts of the numbers, the last of the symbols."""

    def __init__(self, job: Job) -> None:
        """Of the job's fields."""
        self._reals, self._enums = job.reals, job.enums

    def begin(self, value: Row) -> Row:
        """With its first event."""
        state: Row = {"count": 1}
        for name in self._reals:
            number = value[name]
            state[name] = [0.0, 0] if number is None else [number, 1]
        for name in self._enums:
            state[name] = value[name]
        return state

    def add(self, state: Row, value: Row) -> Row:
        """Another event."""
        state["count"] += 1
        for name in self._reals:
            number = value[name]
            if number is not None:
                total = state[name]
                total[0] += number
                total[1] += 1
        for name in self._enums:
            state[name] = value[name]
        return state

    def result(self, window: Row) -> Row:
        """What goes out when it closes."""
        state = window["value"]
        row: Row = {"start": window["start"], "end": window["end"], "count": state["count"]}
        for name in self._reals:
            total, count = state[name]
            row[name] = total / count if count else None
        for name in self._enums:
            row[name] = state[name]
        return row


def main(job: Job) -> None:
    """Run until nothing comes any more."""
    from quixstreams import Application  # noqa: PLC0415  an extra
    from quixstreams.models.serializers.avro import AvroDeserializer, AvroSerializer  # noqa: PLC0415  an extra
    from quixstreams.models.serializers.schema_registry import SchemaRegistryClientConfig  # noqa: PLC0415  an extra

    def event_time(value: Any, _headers: Any, _timestamp: float, _kind: Any) -> int:
        return int(value[job.time].timestamp() * 1000)

    app = Application(
        broker_address=job.bootstrap_servers, consumer_group=job.group, auto_offset_reset="earliest",
        processing_guarantee="exactly-once", state_dir=job.state, loglevel="WARNING",
    )  # fmt: skip
    source = app.topic(
        job.source,
        key_deserializer="str",
        value_deserializer=AvroDeserializer(
            schema_registry_client_config=SchemaRegistryClientConfig(url=job.registry_url)
        ),
        timestamp_extractor=event_time,
    )
    target = app.topic(job.target, key_serializer="str", value_serializer=AvroSerializer(_schema(job)))
    mean = Mean(job)
    windows = (
        app.dataframe(source)
        .tumbling_window(job.step_ms, grace_ms=job.grace_ms)
        .reduce(reducer=mean.add, initializer=mean.begin)
        .final(closing_strategy="partition")
        .apply(mean.result)
    )
    windows.to_topic(target)
    app.run(timeout=job.idle_seconds, collect=False)


def _schema(job: Job) -> Row:
    fields: list[Row] = [{"name": name, "type": "long"} for name in ("start", "end", "count")]
    fields += [{"name": name, "type": ["null", "double"]} for name in job.reals]
    fields += [{"name": name, "type": "string"} for name in job.enums]
    return {"type": "record", "name": "Window", "fields": fields}


if __name__ == "__main__":
    main(Job(**json.loads(sys.argv[1])))
