"""How the service runs."""

from dataclasses import dataclass

EXACTLY_ONCE, AT_LEAST_ONCE = "exactly_once", "at_least_once"


@dataclass(frozen=True, slots=True)
class ServiceOptions:
    """How the service runs.

    Attributes:
        guarantee: ``exactly_once`` or ``at_least_once``.
        instance_id: of this member; the same in its next life.
        poll_records: most records of one batch. poll_seconds: longest wait for one.
        commit_seconds: shortest time between commits of few forecasts; ``commit_bytes`` of output commit at once.
        retry_seconds: pause of a partition whose schema cannot be looked up now, and of a round that was aborted.
        shutdown_timeout_seconds: longest time to deliver what is left when asked to stop, or when a partition goes.
        until_idle_seconds: end after so long without anything to read; None: never.
    """

    group_id: str = "fleetcast"
    guarantee: str = EXACTLY_ONCE
    instance_id: str = "fleetcast"
    poll_records: int = 20_000
    poll_seconds: float = 0.1
    commit_seconds: float = 0.2
    commit_bytes: int = 16 << 20
    retry_seconds: float = 1.0
    shutdown_timeout_seconds: float = 10.0
    until_idle_seconds: float | None = None
