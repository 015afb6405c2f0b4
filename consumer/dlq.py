"""What could not be used: the original bytes, with headers that say why.

The headers are those of Kafka Connect's dead letter queue (KIP-298), which tools already read; the record's original
timestamp is added, since the topic's own is the time of its refusal.
"""

from consumer.messages import Headers, Incoming, Outgoing
from schemas.batch import Rejection

_LONGEST_REASON = 1_000  # the headers must fit the room that the DLQ has beyond the input


def dead_letter(incoming: Incoming, rejection: Rejection, source_topic: str, partition: int, topic: str) -> Outgoing:
    """The refused record, byte for byte, and its reason."""
    why = {
        "__connect.errors.topic": source_topic,
        "__connect.errors.partition": str(partition),
        "__connect.errors.offset": str(incoming.offset),
        "__connect.errors.stage": rejection.stage,
        "__connect.errors.exception.message": rejection.reason[:_LONGEST_REASON],
        "fleetcast.original.timestamp": str(incoming.timestamp_ms),
    }
    headers: Headers = [*incoming.headers, *((name, text.encode()) for name, text in why.items())]
    return Outgoing(topic, incoming.key, incoming.value, headers)
