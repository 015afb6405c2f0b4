"""Topics: names, settings and their creation."""

import time
from dataclasses import dataclass
from typing import Any

from confluent_kafka import KafkaError, KafkaException
from confluent_kafka.admin import AdminClient
from confluent_kafka.cimpl import NewTopic

from schemas.errors import FleetcastError, UnreachableError

DAY_MS = 86_400_000
MAX_MESSAGE_BYTES = 1_048_588  # Kafka's default
DLQ_HEADROOM_BYTES = 65_536  # room for the headers that say why


@dataclass(frozen=True, slots=True)
class Topics:
    """The topic names; configuration, with these defaults."""

    metrics: str = "server-metrics"
    steps: str = "server-metrics.steps"
    forecasts: str = "forecasts"
    scores: str = "forecast-scores"
    dlq: str = "server-metrics.dlq"

    def settings(self) -> dict[str, dict[str, str]]:
        """Topic configuration by name. What the retention costs is written down in docs/topics.md.

        Event time belongs in the value: under CreateTime a replay of last year's data would be deleted at the next
        clean-up, and the rules of event time need a timestamp that is part of the log.
        """
        common = {
            "cleanup.policy": "delete",
            "compression.type": "zstd",
            "message.timestamp.type": "LogAppendTime",
            "max.message.bytes": str(MAX_MESSAGE_BYTES),
        }
        dlq_bytes = str(MAX_MESSAGE_BYTES + DLQ_HEADROOM_BYTES)
        return {
            self.metrics: {**common, "retention.ms": str(7 * DAY_MS)},
            self.steps: {**common, "retention.ms": str(7 * DAY_MS)},
            self.forecasts: {**common, "retention.ms": str(2 * DAY_MS)},
            self.scores: {**common, "retention.ms": str(30 * DAY_MS)},
            self.dlq: {**common, "retention.ms": str(30 * DAY_MS), "max.message.bytes": dlq_bytes},
        }


def connect(config: dict[str, Any], timeout_s: float = 10) -> AdminClient:
    """An admin client that has seen the broker.

    Raises:
        UnreachableError: when no broker answers in time.
    """
    admin = AdminClient(config)
    try:
        admin.list_topics(timeout=timeout_s)
    except KafkaException as error:
        servers = config.get("bootstrap.servers")
        raise UnreachableError(
            f"no Kafka broker answers at {servers}: {error.args[0].str()}. "
            "Is it up? (--bootstrap-servers, FLEETCAST_BOOTSTRAP_SERVERS)"
        ) from None
    return admin


def partition_counts(admin: AdminClient, names: list[str], timeout_s: float = 10) -> dict[str, int]:
    """Partitions of those topics that exist."""
    try:
        known = admin.list_topics(timeout=timeout_s).topics
    except KafkaException as error:
        raise UnreachableError(f"the broker does not answer: {error.args[0].str()}") from None
    return {name: len(known[name].partitions) for name in names if name in known and known[name].error is None}


def create(
    admin: AdminClient, topics: Topics, partitions: int = 6, replication_factor: int = 1, timeout_s: float = 30
) -> dict[str, bool]:
    """Create the topics that are missing; repeats safely.

    All follow the input's partition count where that exists; the steps must, since each lies in its events' partition.

    Returns:
        Name to whether it was created now.

    Raises:
        FleetcastError: the broker refuses one.
    """
    there = partition_counts(admin, list(topics.settings()))
    wanted = there.get(topics.metrics, partitions)
    new = [
        NewTopic(
            name,
            num_partitions=wanted,
            replication_factor=replication_factor,
            config=config,
        )
        for name, config in topics.settings().items()
        if name not in there
    ]
    created = dict.fromkeys(topics.settings(), False)
    for name, future in (admin.create_topics(new, operation_timeout=timeout_s) if new else {}).items():
        try:
            future.result(timeout_s)
            created[name] = True
        except KafkaException as error:
            if error.args[0].code() != KafkaError.TOPIC_ALREADY_EXISTS:  # another `topics create` was quicker
                raise FleetcastError(f"topic {name}: {error.args[0].str()}") from None
        except TimeoutError:
            raise UnreachableError(f"topic {name}: no answer from the broker within {timeout_s:g} s") from None
    _wait_visible(admin, list(created), timeout_s)
    return created


def _wait_visible(admin: AdminClient, names: list[str], timeout_s: float) -> None:
    """A created topic shows in the brokers' metadata a moment later; whoever comes next should find it."""
    deadline = time.monotonic() + timeout_s
    while missing := set(names) - partition_counts(admin, names).keys():
        if time.monotonic() > deadline:
            raise UnreachableError(f"topics {sorted(missing)} were created but do not show within {timeout_s:g} s")
        time.sleep(0.1)


def touch(admin: AdminClient, topics: Topics, timeout_s: float = 10) -> None:
    """Bring the topics into being on a broker that creates them on first use and knows no other way.

    librdkafka's own broker is one: it gives each four partitions and no settings.
    """
    for name in topics.settings():
        admin.list_topics(name, timeout=timeout_s)
