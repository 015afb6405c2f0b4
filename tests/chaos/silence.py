"""How long subscribers waited: a live read_committed subscriber of the disturbed group's forecasts.

Live, since under transactions a record is seen when its transaction ends, not when it was appended: a dead member's
open transaction hides what others write behind it.
"""

import threading
import time
from collections import defaultdict

import fastavro
import numpy as np
from confluent_kafka import Consumer, TopicPartition
from numpy.typing import NDArray

from schemas.codec import plain_schema
from schemas.records import forecast_schema
from tests.chaos.outputs import Kafka, decode, partitions


class Subscriber:
    """Notes when forecasts of each input partition are seen."""

    def __init__(self, kafka: Kafka, topic: str) -> None:
        """Begins at once."""
        self._seen: defaultdict[int, list[float]] = defaultdict(list)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, args=(kafka, topic), name="subscriber", daemon=True)
        self._thread.start()

    def seen(self) -> set[int]:
        """The input partitions of which there are forecasts."""
        return set(self._seen)

    def close(self) -> dict[int, NDArray[np.float64]]:
        """End it; by input partition the moments, on the monotonic clock, at which a forecast came."""
        self._stop.set()
        self._thread.join(30)
        return {partition: np.array(times) for partition, times in self._seen.items()}

    def _run(self, kafka: Kafka, topic: str) -> None:
        settings = {"group.id": "chaos-subscriber", "isolation.level": "read_committed", "fetch.wait.max.ms": 50}
        consumer = Consumer({**kafka, **settings, "enable.auto.commit": False})
        schema = fastavro.parse_schema(plain_schema(forecast_schema()))
        consumer.assign([TopicPartition(topic, p, 0) for p in partitions(consumer, topic)])
        while not self._stop.is_set():
            message = consumer.poll(0.2)
            if message is not None and message.error() is None:  # errors: the broker is away, and comes back
                self._seen[decode(message, schema)["source"]["partition"]].append(time.monotonic())
        consumer.close()


def longest_silence(seen: dict[int, NDArray[np.float64]], since: float, until: float) -> float:
    """Seconds until forecasts came again after what happened at ``since``.

    Of any input partition, not only the victim's: the longest time without a forecast of it that overlaps ``since`` to
    ``until`` (the next disturbance, or the load's end), counted from ``since`` where it began earlier and to its real
    end where that is later. The steps' own rhythm is part of it: a second or so even where nothing happens. A silence
    that outlasts the pause counts for the next disturbance too, from there on.
    """
    longest = 0.0
    for times in seen.values():
        begins, ends = times[:-1], times[1:]
        touched = (ends > since) & (begins < until)
        longest = max(longest, float((ends - np.maximum(begins, since))[touched].max(initial=0.0)))
    return longest
