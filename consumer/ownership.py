"""One group owns its output topics: two would publish everything twice, each exactly once.

The group's id stands in the headers of each step. Who starts looks at the newest steps of each partition.
"""

from collections.abc import Iterator
from typing import Any

from confluent_kafka import Consumer, KafkaError, KafkaException, Message, TopicPartition

from consumer.inbox import LIBRDKAFKA
from consumer.published import GROUP
from schemas.errors import MismatchError, UnreachableError

_LOOK_BACK = 200  # offsets; markers of transactions take some
_SECONDS = 5.0
_SETTINGS: dict[str, Any] = {
    "group.id": "fleetcast-ownership", "group.protocol": "classic", "enable.auto.commit": False,
    "enable.partition.eof": True, "fetch.wait.max.ms": 20, "isolation.level": "read_uncommitted",
}  # fmt: skip


def check_owner(kafka: dict[str, Any], topic: str, group_id: str) -> None:
    """See that the newest steps were written by our group, or by one that says nothing.

    Raises:
        MismatchError: another group writes there.
        UnreachableError: the broker does not answer.
    """
    plain = {k: v for k, v in kafka.items() if not k.startswith(("group.", "session.", "heartbeat.", "partition.assi"))}
    consumer = Consumer({**plain, **_SETTINGS}, logger=LIBRDKAFKA)
    try:
        for message in _newest(consumer, topic):
            owner = _group(message)
            if owner not in (None, group_id):
                raise MismatchError(
                    f"{topic} belongs to the group {owner}, not to {group_id}: one group owns its output topics. "
                    "Use --group-id of its owner, or topics of your own ([topics] in fleetcast.toml)"
                )
    except KafkaException as failure:
        raise UnreachableError(f"the newest steps cannot be read: {failure.args[0].str()}") from None
    finally:
        consumer.close()


def _newest(consumer: Consumer, topic: str) -> Iterator[Message]:
    found = consumer.list_topics(topic, timeout=_SECONDS).topics[topic]
    begin = []
    for partition in found.partitions:
        low, high = consumer.get_watermark_offsets(TopicPartition(topic, partition), timeout=_SECONDS)
        if high > low:
            begin.append(TopicPartition(topic, partition, max(low, high - _LOOK_BACK)))
    left = {p.partition for p in begin}
    consumer.assign(begin)
    while left:
        message = consumer.poll(_SECONDS)
        if message is None:
            raise UnreachableError(f"the newest records of {topic} do not come")
        error = message.error()
        if error is None:
            yield message
        elif error.code() == KafkaError._PARTITION_EOF:  # noqa: SLF001  its public name in the bindings
            left.discard(int(message.partition() or 0))
        else:
            raise UnreachableError(f"the newest records of {topic} cannot be read: {error.str()}")


def _group(message: Message) -> str | None:
    for header in message.headers() or []:
        if header[0] == GROUP and header[1] is not None:
            value = header[1]
            return value if isinstance(value, str) else value.decode(errors="replace")
    return None
