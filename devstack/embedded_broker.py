"""librdkafka's own broker: a real TCP broker inside this process, in memory, at least once.

It has no admin API (topics appear on first use, with four partitions), keeps about 5 MB a partition, and does not
isolate transactions. Good for a demo and for machines without Java; it says so.
"""

from typing import Any

from confluent_kafka import KafkaException
from confluent_kafka.admin import AdminClient

from devstack.errors import StackError


class EmbeddedBroker:
    """Lives as long as this object."""

    def __init__(self) -> None:
        """Start it.

        Raises:
            StackError: the library gives no address.
        """
        # The address is never used: test.mock.num.brokers replaces it (librdkafka, CONFIGURATION.md).
        self._handle: Any = AdminClient({"bootstrap.servers": "unused:1", "test.mock.num.brokers": 1, "log_level": 0})
        try:
            broker = next(iter(self._handle.list_topics(timeout=10).brokers.values()))
        except (KafkaException, StopIteration) as error:
            raise StackError(f"librdkafka's embedded broker did not start: {error!r}") from None
        self.bootstrap_servers = f"{broker.host}:{broker.port}"

    def stop(self) -> None:
        """End it; all its data are gone."""
        self._handle = None
