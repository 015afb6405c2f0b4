"""A broker and a registry, up together and down together: one context manager for tests, ``fleetcast up`` and demo."""

import shutil
import signal
import tempfile
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import structlog

from devstack.apicurio import Apicurio
from devstack.embedded_broker import EmbeddedBroker
from devstack.embedded_registry import EmbeddedRegistry
from devstack.errors import StackError
from devstack.kafka import Kafka

log = structlog.get_logger(__name__)
BROKERS = ("auto", "apache", "embedded")
REGISTRIES = ("auto", "apicurio", "embedded")


@dataclass(frozen=True, slots=True)
class Stack:
    """What runs, and where.

    Attributes:
        bootstrap_servers: of the broker. registry_url: of the registry's Confluent API, path included.
        broker: ``apache`` or ``embedded``. registry: ``apicurio`` or ``embedded``.
        description: one sentence for people.
        logs: folder of the servers' logs.
        kafka: the broker itself where it is Apache Kafka, to be killed and started again.
    """

    bootstrap_servers: str
    registry_url: str
    broker: str
    registry: str
    description: str
    logs: Path
    kafka: Kafka | None


@contextmanager
def start_stack(*, broker: str = "auto", registry: str = "auto", folder: Path | None = None) -> Iterator[Stack]:
    """Start both, wait until both answer, and stop both at the end.

    Nothing is left running or on disk afterwards, whatever ends us: an exception, SIGINT, SIGTERM or SIGKILL. In a
    ``folder`` of the caller's the servers' logs are kept, their data not.

    Args:
        broker: ``apache``, ``embedded``, or ``auto``: Apache Kafka where Java and Maven allow it.
        registry: ``apicurio``, ``embedded``, or ``auto``.
        folder: for data and logs; None for a temporary one.

    Raises:
        StackError: what was asked for cannot be had, in one sentence.
    """
    if broker not in BROKERS or registry not in REGISTRIES:
        raise StackError(f"there is no broker {broker!r} or registry {registry!r}")
    with ExitStack() as parts:
        parts.enter_context(_sigterm_unwinds())
        home = Path(parts.enter_context(tempfile.TemporaryDirectory(prefix="fleetcast-", ignore_cleanup_errors=True)))
        data = home / "data" if folder is None else folder.absolute() / "data"
        logs = home / "logs" if folder is None else folder.absolute() / "logs"
        for path in (data, logs):
            path.mkdir(parents=True, exist_ok=True)
        parts.callback(shutil.rmtree, data, ignore_errors=True)
        cleanup = home if folder is None else data
        kafka, why_no_kafka = _attempt(broker, "apache", lambda: Kafka(data, logs / "kafka.log", cleanup))
        server: Any = kafka or EmbeddedBroker()
        parts.callback(server.stop)
        apicurio, why_no_apicurio = _attempt(registry, "apicurio", lambda: Apicurio(logs / "registry.log", cleanup))
        schemas: Any = apicurio or EmbeddedRegistry()
        parts.callback(schemas.stop)
        for started in (kafka, apicurio):
            if started is not None:
                started.wait_ready()
        yield Stack(
            bootstrap_servers=server.bootstrap_servers,
            registry_url=schemas.url,
            broker="apache" if kafka else "embedded",
            registry="apicurio" if apicurio else "embedded",
            description=_describe(kafka, why_no_kafka, apicurio, why_no_apicurio),
            logs=logs,
            kafka=kafka,
        )


def _attempt(wanted: str, real: str, start: Any) -> tuple[Any, str]:
    """The real thing, or None and why; ``auto`` forgives, an explicit wish does not."""
    if wanted == "embedded":
        return None, "as asked"
    try:
        return start(), ""
    except StackError as error:
        if wanted == real:
            raise
        log.warning("using the embedded one", instead_of=real, reason=str(error))
        return None, str(error)


def _describe(kafka: Kafka | None, why_no_kafka: str, apicurio: Apicurio | None, why_no_apicurio: str) -> str:
    broker = "Apache Kafka" if kafka else f"the embedded broker, in memory and at least once ({why_no_kafka})"
    registry = "Apicurio Registry" if apicurio else f"the embedded registry, in memory ({why_no_apicurio})"
    return f"Running {broker} with {registry}."


@contextmanager
def _sigterm_unwinds() -> Iterator[None]:
    """Python's default SIGTERM ends a process without unwinding; within a stack it must unwind."""
    ours = threading.current_thread() is threading.main_thread() and signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
    if ours:
        signal.signal(signal.SIGTERM, _exit)
    try:
        yield
    finally:
        if ours:
            signal.signal(signal.SIGTERM, signal.SIG_DFL)


def _exit(number: int, _: object) -> None:
    raise SystemExit(128 + number)
