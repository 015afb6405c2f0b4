"""Against librdkafka's own broker: real TCP and real bytes."""

import threading

import pytest
from confluent_kafka import Consumer, TopicPartition
from confluent_kafka.admin import AdminClient
from structlog.testing import capture_logs

from producer.fleet import Fleet
from producer.pacing import SystemClock
from producer.publish import Publisher
from producer.replay import replay
from schemas.codec import EventCodec
from schemas.contract import Contract
from schemas.errors import FleetcastError, InputError, UnreachableError

SHIPPED = Contract.load()
PARTITIONS = 4  # what the embedded broker gives a topic
NOBODY = {"bootstrap.servers": "127.0.0.1:1"}


class Schemas:
    def writer_schema(self, schema_id):
        return SHIPPED.schema if schema_id == 7 else None


CODEC = EventCodec(SHIPPED, Schemas())


@pytest.fixture(scope="module")
def broker():
    """Properties of a client of an embedded broker."""
    admin = AdminClient({"bootstrap.servers": "unused:1", "test.mock.num.brokers": 1})
    host = next(iter(admin.list_topics(timeout=10).brokers.values()))
    yield {"bootstrap.servers": f"{host.host}:{host.port}"}
    del admin


def messages(broker, topic, count):
    """All messages of a topic, in each partition's order."""
    consumer = Consumer({**broker, "group.id": "x", "auto.offset.reset": "earliest", "fetch.wait.max.ms": 10})
    consumer.assign([TopicPartition(topic, p, 0) for p in range(PARTITIONS)])
    found = []
    while len(found) < count:
        got = consumer.consume(count, timeout=10)
        assert got, f"only {len(found)} of {count} messages"
        assert all(message.error() is None for message in got)
        found += got
    consumer.close()
    return found


def murmur2(key: bytes) -> int:
    """As in org.apache.kafka.common.utils.Utils.murmur2 (Apache Kafka), unsigned."""
    m, h = 0x5BD1E995, (0x9747B28C ^ len(key)) & 0xFFFFFFFF
    whole = len(key) // 4 * 4
    for i in range(0, whole, 4):
        k = int.from_bytes(key[i : i + 4], "little") * m & 0xFFFFFFFF
        k = (k ^ k >> 24) * m & 0xFFFFFFFF
        h = h * m & 0xFFFFFFFF ^ k
    if len(key) > whole:
        h = (h ^ int.from_bytes(key[whole:], "little")) * m & 0xFFFFFFFF
    h = (h ^ h >> 13) * m & 0xFFFFFFFF
    return h ^ h >> 15


def test_the_hash_is_javas():
    """The test's own murmur2 gives what Kafka's UtilsTest expects of Java's (as signed 32-bit)."""
    expected = {b"21": -973932308, b"foobar": -790332482, b"a-little-bit-long-string": -985981536, b"abc": 479470107}

    assert {key: murmur2(key) - (murmur2(key) >> 31 << 32) for key in expected} == expected


def test_events_arrive_whole_in_order_and_where_java_would_put_them(broker):
    """What is decoded from the topic is what was published: keyed by server, in order, partitioned by murmur2."""
    batch = Fleet(SHIPPED, 30, 1).metrics(0, 60, 40)
    with Publisher(broker, "whole", CODEC, 7) as publisher:
        publisher.connect()
        assert publisher.publish(batch) == publisher.published == len(batch)
        publisher.flush()

    got = messages(broker, "whole", len(batch))
    decoded, kept, rejected = CODEC.decode([m.value() for m in got])
    expected = {(k, int(t)): r.tobytes() for k, t, r in zip(batch.keys, batch.time, batch.reals, strict=True)}
    assert (len(kept), rejected) == (len(batch), [])
    assert {
        (k, int(t)): r.tobytes() for k, t, r in zip(decoded.keys, decoded.time, decoded.reals, strict=True)
    } == expected
    assert [m.key().decode() for m in got] == decoded.keys.tolist()
    assert all((murmur2(m.key()) & 0x7FFFFFFF) % PARTITIONS == m.partition() for m in got)
    for server in set(decoded.keys):
        times = decoded.time[decoded.keys == server]
        assert (times[1:] > times[:-1]).all()


def test_a_full_queue_is_waited_for(broker):
    """A queue far smaller than the batch loses nothing and keeps each server's order."""
    batch = Fleet(SHIPPED, 3, 1).metrics(0, 60, 200)
    with Publisher({**broker, "queue.buffering.max.messages": 20, "linger.ms": 1}, "narrow", CODEC, 7) as publisher:
        assert publisher.publish(batch) == len(batch)
        publisher.flush()

    decoded, _, _ = CODEC.decode([m.value() for m in messages(broker, "narrow", len(batch))])
    for server in set(batch.keys):
        assert decoded.time[decoded.keys == server].tolist() == batch.time[batch.keys == server].tolist()


def test_a_replay_ends_acknowledged(broker):
    """After a replay has returned, every event of it is on the broker."""
    batch = Fleet(SHIPPED, 20, 2).metrics(0, 60, 300)
    with Publisher(broker, "replayed", CODEC, 7) as publisher:
        done = replay(publisher, batch, speed=None, clock=SystemClock(), stop=threading.Event())

    consumer = Consumer({**broker, "group.id": "x"})
    ends = [consumer.get_watermark_offsets(TopicPartition("replayed", p), timeout=10)[1] for p in range(PARTITIONS)]
    consumer.close()
    assert done.rows == sum(ends) == len(batch)


def test_no_broker_is_said_at_once():
    """connect() names the address that does not answer."""
    with Publisher(NOBODY, "t", CODEC, 7) as publisher, pytest.raises(UnreachableError, match=r"127\.0\.0\.1:1"):
        publisher.connect(timeout_s=0.5)


def test_events_that_cannot_be_delivered_are_counted():
    """Events whose time is up are an error that says how many, where to and why."""
    batch = Fleet(SHIPPED, 3, 1).metrics(0, 60, 2)
    with Publisher({**NOBODY, "message.timeout.ms": 100}, "t", CODEC, 7) as publisher:
        publisher.publish(batch)
        with pytest.raises(UnreachableError, match=r"6 events were not delivered to t at 127.0.0.1:1: .*timed out"):
            publisher.flush(timeout_s=10)


def test_a_flush_that_is_not_acknowledged_is_an_error():
    """flush() does not return as if all were well when its time is up."""
    with Publisher(NOBODY, "t", CODEC, 7) as publisher:
        publisher.publish(Fleet(SHIPPED, 3, 1).metrics(0, 60, 1))
        with pytest.raises(UnreachableError, match=r"3 events were not acknowledged by 127\.0\.0\.1:1 within 0\.1 s"):
            publisher.flush(timeout_s=0.1)


def test_stop_ends_the_waiting_for_a_full_queue():
    """With stop set, a queue that nobody empties is not waited for, and what was taken is told."""
    stop = threading.Event()
    stop.set()
    with Publisher({**NOBODY, "queue.buffering.max.messages": 2}, "t", CODEC, 7, stop) as publisher:
        assert publisher.publish(Fleet(SHIPPED, 5, 1).metrics(0, 60, 1)) == 2


def test_a_message_that_is_too_large_is_refused(broker):
    """What the client itself refuses is an error, not a loss."""
    batch = Fleet(SHIPPED, 1, 1).metrics(0, 60, 1)
    batch.keys[:] = "x" * 2000
    with (
        Publisher({**broker, "message.max.bytes": 1000}, "large", CODEC, 7) as publisher,
        pytest.raises(FleetcastError, match=r"1 events were not delivered to large .*too large"),
    ):
        publisher.publish(batch)


@pytest.mark.parametrize("wrong", [{"nonsense": 1}, {"acks": 1}], ids=["unknown", "acks of 1 with idempotence"])
def test_a_property_that_is_refused_is_wrong_usage(wrong):
    """The client's own words for a property that it does not take."""
    with pytest.raises(InputError, match=r"Kafka property: .*(nonsense|acks)"):
        Publisher({**NOBODY, **wrong}, "t", CODEC, 7)


def test_trouble_is_told_once_a_kind():
    """A broker that is down is logged, but not at every attempt."""
    with (
        capture_logs() as logs,
        Publisher({**NOBODY, "reconnect.backoff.ms": 10, "reconnect.backoff.max.ms": 20}, "t", CODEC, 7) as publisher,
    ):
        with pytest.raises(UnreachableError):
            publisher.connect(timeout_s=1)
        publisher.flush(0.1)

    assert 1 <= len(logs) < 10
    assert all(line["log_level"] == "warning" for line in logs)
