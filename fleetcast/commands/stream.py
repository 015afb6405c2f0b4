"""``simulate``, ``replay``, ``consume``: the services on the stream."""

import signal
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from fleetcast.finite import FiniteRange
from fleetcast.options import Common, common, load_mapping, mapping_option
from fleetcast.times import Speed, Time, factor

if TYPE_CHECKING:
    from producer.publish import Publisher

SCENARIOS = click.Choice(["mixed", "healthy", "degrading", "critical"])
INTERVAL = "Seconds between two samples of a server.  [default: 60, at most a step]"


class Stop(threading.Event):
    """Set by the first signal; ``hurry`` by the second one: end without waiting for others."""

    def __init__(self) -> None:
        """No signal yet."""
        super().__init__()
        self.hurry = threading.Event()


def stop_on_signal() -> Stop:
    """What SIGINT, SIGTERM and SIGHUP set; a third SIGINT interrupts for good."""
    stop = Stop()

    def handle(number: int, _: object) -> None:
        if stop.hurry.is_set() and number == signal.SIGINT:
            raise KeyboardInterrupt
        if stop.is_set():
            stop.hurry.set()
        stop.set()

    signal.signal(signal.SIGINT, handle)
    signal.signal(signal.SIGTERM, handle)
    if signal.getsignal(signal.SIGHUP) != signal.SIG_IGN:  # nohup's wish
        signal.signal(signal.SIGHUP, handle)
    return stop


def _publisher(common: Common, stop: threading.Event) -> "Publisher":
    from producer.publish import Publisher
    from schemas.codec import EventCodec
    from schemas.registry import Registry

    contract, topic = common.contract(), common.topics().metrics
    registry = Registry(common.registry_url)
    schema_id = registry.schema_id(topic, contract.schema)
    publisher = Publisher(common.kafka, topic, EventCodec(contract, registry), schema_id, stop)
    publisher.connect()
    return publisher


@click.command()
@click.option("--servers", type=click.IntRange(1), default=15, show_default=True)
@click.option("--start", type=Time(), default="-25h", show_default=True, help="ISO time, or an offset from now.")
@click.option("--until", type=Time(), help="End before this event time.")
@click.option("--speed", type=Speed(), default="1", show_default=True, help="Seconds of event time a second, or max.")
@click.option("--scenario", type=SCENARIOS, default="mixed", show_default=True)
@click.option("--seed", type=int, default=0, show_default=True)
@click.option("--interval", type=FiniteRange(0.001, 1e6), help=INTERVAL)
@click.option("--count", type=click.IntRange(1), help="End after so many events.")
@common
def simulate(
    *, common: Common, servers: int, start: int, until: int | None, speed: float | str, scenario: str, seed: int,
    interval: float | None, count: int | None,
) -> None:  # fmt: skip
    """A fleet as a live stream: the first window at once, then at its speed, never later than now."""
    from producer.fleet import Fleet, default_interval_s
    from producer.pacing import SystemClock
    from producer.simulate import simulate as run

    contract, stop = common.contract(), stop_on_signal()
    fleet = Fleet(contract, servers, seed, scenario)
    with _publisher(common, stop) as publisher:
        published = run(
            publisher, fleet, start_ms=start, until_ms=until, speed=factor(speed),
            interval_s=interval or default_interval_s(contract), clock=SystemClock(), stop=stop, count=count,
        )  # fmt: skip
    click.echo(f"{published.rows} events published")


@click.command()
@click.argument("paths", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("--speed", type=Speed(), default="max", show_default=True, help="Seconds of event time a second, or max.")
@click.option("--count", type=click.IntRange(1), help="End after so many rows.")
@mapping_option
@common
def replay(
    *, common: Common, paths: tuple[Path, ...], speed: float | str, mapping_file: Path | None, count: int | None
) -> None:
    """Parquet files into the stream, in time order."""
    from producer.pacing import SystemClock
    from producer.replay import replay as run
    from schemas.history import read_history

    stop = stop_on_signal()
    events = read_history(list(paths), common.contract(), load_mapping(mapping_file))
    terminal = sys.stderr if sys.stderr.isatty() else None
    with _publisher(common, stop) as publisher:
        published = run(
            publisher, events, speed=factor(speed), clock=SystemClock(), stop=stop, count=count, terminal=terminal
        )
    click.echo(f"{published.rows} of {len(events)} rows published")


@click.command()
@click.option("--model", "model_name", default="latest", show_default=True, metavar="DIR|latest")
@click.option("--group-id", default="fleetcast", show_default=True)
@click.option(
    "--processing-guarantee",
    type=click.Choice(["exactly_once", "at_least_once"]),
    default="exactly_once",
    show_default=True,
    help="at_least_once is for brokers without transactions.",
)
@click.option(
    "--http-port",
    type=click.IntRange(0, 65_535),
    default=8000,
    show_default=True,
    help="Health over HTTP (/livez, /readyz, /status); 0 chooses a free port, as does the default where it is taken.",
)
@click.option(
    "--instance-id",
    metavar="ID",
    help="Name of this member, the same in its next life.  [default: the host's name and its lowest free slot]",
)
@click.option(
    "--until-idle",
    type=FiniteRange(min=0),
    metavar="SECONDS",
    help="End when nothing came for so long and all was read.",
)
@click.option(
    "--commit-interval",
    type=FiniteRange(min=0),
    default=0.2,
    show_default=True,
    metavar="SECONDS",
    help="Longest time until what was made is committed; a full batch is committed at once.",
)
@click.option(
    "--shutdown-timeout",
    type=FiniteRange(min=0),
    default=10,
    show_default=True,
    metavar="SECONDS",
    help="Longest time to deliver what is left when asked to stop.",
)
@common
def consume(
    *, common: Common, model_name: str, group_id: str, processing_guarantee: str, http_port: int,
    instance_id: str | None, until_idle: float | None, commit_interval: float, shutdown_timeout: float,
) -> None:  # fmt: skip
    """The service: windows, inference, forecasts."""
    from consumer.core import Core
    from consumer.eviction import evict
    from consumer.health import health_server
    from consumer.instance import Instance
    from consumer.options import ServiceOptions
    from consumer.ownership import check_owner
    from consumer.published import StepReader
    from consumer.service import Service
    from consumer.startup import Patience, check_topics, codecs
    from models import artifact
    from schemas.contract import Contract
    from schemas.fingerprint import other_differences
    from schemas.registry import Registry

    stop, topics = stop_on_signal(), common.topics()
    contract = common.contract()
    model = artifact.load(artifact.find(model_name), contract, network=False)
    for difference in other_differences(Contract(model.config.contract), contract):
        click.echo(f"note: accepted difference from the model's contract: {difference}", err=True)
    registry = Registry(common.registry_url)
    patience = Patience(30, stop)
    patience(lambda: check_topics(common.kafka, topics, model.contract))
    patience(lambda: check_owner(common.kafka, topics.steps, group_id))
    core = Core(model, patience(lambda: codecs(model, registry, topics)), topics, group_id)
    instance = Instance(group_id, instance_id)
    if instance.former_member:
        evict(common.kafka, group_id, instance.former_member)
    options = ServiceOptions(
        group_id=group_id, guarantee=processing_guarantee, instance_id=instance.id, until_idle_seconds=until_idle,
        commit_seconds=commit_interval, shutdown_timeout_seconds=shutdown_timeout,
    )  # fmt: skip
    service = Service(
        core, kafka={**common.kafka, "client.id": instance.id}, topics=topics, options=options,
        reader=StepReader(model.contract, model.fingerprint, registry), stop=stop, hurry=stop.hurry,
        joined=instance.remember,
    )  # fmt: skip
    log_start(model, processing_guarantee, group_id, instance.id)
    chosen = click.get_current_context().get_parameter_source("http_port") is not ParameterSource.DEFAULT
    with health_server(http_port, service.status, any_port=not chosen):
        service.run()


def log_start(model: Any, guarantee: str, group_id: str, instance: str) -> None:
    """What runs, in one line."""
    import structlog

    structlog.get_logger(__name__).info(
        "consuming starts", model=model.version, contract=model.fingerprint[:12], group=group_id, guarantee=guarantee,
        instance=instance,
    )  # fmt: skip
