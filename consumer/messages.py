"""What comes in and what goes out, without a Kafka client in sight."""

from dataclasses import dataclass, field

Headers = list[tuple[str, bytes | None]]


@dataclass(frozen=True, slots=True)
class Incoming:
    """One record of an input partition."""

    offset: int
    timestamp_ms: int
    key: bytes | None
    value: bytes | None
    headers: Headers = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Outgoing:
    """One record to publish; ``partition`` None leaves the choice to the key."""

    topic: str
    key: bytes | None
    value: bytes | None
    headers: Headers = field(default_factory=list)
    partition: int | None = None

    @property
    def size(self) -> int:
        """Bytes of its value, which is most of it."""
        return len(self.value or b"")
