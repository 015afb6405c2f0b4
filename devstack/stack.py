"""A broker and a registry, up together and down together: one context manager for tests, ``fleetcast up`` and demo."""

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import structlog

from devstack.apicurio import Apicurio
from devstack.errors import StackError
from devstack.janitor import Scratch, scratch_folder
from devstack.kafka import Kafka

if TYPE_CHECKING:
    from devstack.embedded_broker import EmbeddedBroker
    from devstack.embedded_registry import EmbeddedRegistry

log = structlog.get_logger(__name__)
BROKERS = ("auto", "apache", "embedded")
REGISTRIES = ("auto", "apicurio", "embedded")
_Real = TypeVar("_Real")


@dataclass(frozen=True, slots=True)
class Stack:
    """What runs, and where.

    Attributes:
        bootstrap_servers: of the broker.
        registry_url: of the registry's Confluent API, path included.
        broker: ``apache`` or ``embedded``.
        registry: ``apicurio`` or ``embedded``.
        transactional: whether the broker isolates transactions, so that exactly once can be had.
        description: one sentence for people: what runs, and why not the real thing where it does not.
        logs: folder of the servers' logs (the embedded ones write none).
    """

    bootstrap_servers: str
    registry_url: str
    broker: str
    registry: str
    transactional: bool
    description: str
    logs: Path
    _broker: "Kafka | EmbeddedBroker" = field(repr=False)
    _registry: "Apicurio | EmbeddedRegistry" = field(repr=False)

    def kill_broker(self) -> None:
        """SIGKILL the broker, as an accident would.

        Raises:
            StackError: it is the embedded one, which lives in this process.
        """
        self._apache("killed").kill()

    def restart_broker(self) -> None:
        """Start the broker again on the same data and port, stopping it in order first where it runs.

        Raises:
            StackError: it is the embedded one, or it does not come up.
        """
        self._apache("restarted").restart()

    def stop_registry(self) -> None:
        """Stop the registry: nobody answers at its address."""
        self._registry.stop()

    def start_registry(self) -> None:
        """Start the registry again at the same address; it still knows its schemas.

        Raises:
            StackError: it does not come up.
        """
        self._registry.start()

    def _apache(self, what: str) -> Kafka:
        if not isinstance(self._broker, Kafka):
            raise StackError(f"the embedded broker lives in this process and cannot be {what}")
        return self._broker


@contextmanager
def start_stack(
    *, broker: str = "auto", registry: str = "auto", folder: Path | None = None, broker_may_be_killed: bool = False
) -> Iterator[Stack]:
    """Start both, wait until both answer, and stop both at the end.

    Nothing is left running or on disk afterwards, whatever ends us: an exception, SIGINT, SIGTERM or SIGKILL. In the
    main thread, and where the program has no handler of its own, SIGTERM raises SystemExit(143) within the ``with``.

    Args:
        broker: ``apache``, ``embedded``, or ``auto``: Apache Kafka where a Java and the jars, or Maven to fetch them,
            are there; else the embedded one, and the log and the description say why.
        registry: ``apicurio``, ``embedded``, or ``auto``.
        folder: for data and logs, made where it is missing; the data are removed at the end, the logs (``logs/``)
            stay. None for a temporary one, removed at the end.
        broker_may_be_killed: give Apache Kafka a controller in a process of its own (one more JVM), as a broker needs
            to come back from SIGKILL with its groups in order (`devstack.kafka`).

    Raises:
        StackError: what was asked for cannot be had, in one sentence, or it did not start, with the end of its log.
    """
    if broker not in BROKERS or registry not in REGISTRIES:
        raise StackError(f"broker {broker!r} is none of {BROKERS}, or registry {registry!r} is none of {REGISTRIES}")
    with ExitStack() as parts:
        parts.enter_context(_sigterm_unwinds())
        scratch, logs = _folders(folder, parts)
        # The registry takes longer and starts first; Kafka's storage is formatted meanwhile.
        apicurio, no_apicurio = _attempt(registry, "apicurio", lambda: Apicurio(scratch, logs / "registry.log"))
        schemas = apicurio or _embedded_registry()
        parts.callback(schemas.stop)
        kafka, no_kafka = _attempt(
            broker, "apache", lambda: Kafka(scratch, logs / "kafka.log", may_be_killed=broker_may_be_killed)
        )
        server = kafka or _embedded_broker()
        parts.callback(server.stop)
        for real in (kafka, apicurio):
            if real is not None:
                parts.callback(real.ask_to_end)  # both at once, before either is waited for
                real.wait_ready()
        stack = Stack(
            bootstrap_servers=server.bootstrap_servers,
            registry_url=schemas.url,
            broker="apache" if kafka else "embedded",
            registry="apicurio" if apicurio else "embedded",
            transactional=kafka is not None,
            description=_describe(no_kafka, no_apicurio),
            logs=logs,
            _broker=server,
            _registry=schemas,
        )
        log.info("dev stack is up", kafka=stack.bootstrap_servers, registry=stack.registry_url, logs=str(logs))
        yield stack


def _folders(folder: Path | None, parts: ExitStack) -> tuple[Scratch, Path]:
    """Where data go, and where logs go."""
    try:
        if folder is not None:
            folder.mkdir(parents=True, exist_ok=True)
        scratch = parts.enter_context(scratch_folder(folder and folder.absolute()))
        logs = (scratch.folder if folder is None else folder.absolute()) / "logs"
        logs.mkdir(exist_ok=True)
    except OSError as error:
        raise StackError(f"the dev stack has no folder for its data: {error}") from None
    return scratch, logs


def _attempt(wanted: str, real: str, start: Callable[[], _Real]) -> tuple[_Real | None, str]:
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


def _embedded_broker() -> "EmbeddedBroker":
    from devstack.embedded_broker import EmbeddedBroker  # noqa: PLC0415  `import devstack` stays light

    return EmbeddedBroker()


def _embedded_registry() -> "EmbeddedRegistry":
    from devstack.embedded_registry import EmbeddedRegistry  # noqa: PLC0415  `import devstack` stays light

    return EmbeddedRegistry()


def _describe(no_kafka: str, no_apicurio: str) -> str:
    broker = f"the embedded broker, in memory and at least once ({no_kafka})" if no_kafka else "Apache Kafka"
    registry = f"the embedded registry, in memory ({no_apicurio})" if no_apicurio else "Apicurio Registry"
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
        if ours and signal.getsignal(signal.SIGTERM) == _exit:
            signal.signal(signal.SIGTERM, signal.SIG_DFL)


def _exit(number: int, _: object) -> None:
    raise SystemExit(128 + number)
