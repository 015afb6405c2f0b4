"""``tail`` and ``up``: looking at it."""

import click

from fleetcast.commands.stream import SCENARIOS, stop_on_signal
from fleetcast.finite import FiniteRange
from fleetcast.options import Common, common
from fleetcast.times import Speed


@click.command()
@click.option("--topic", help="[default: forecasts]")
@click.option("--server", help="Only this server.")
@click.option("--from-beginning", is_flag=True, help="Also what is there already.")
@click.option("--count", type=click.IntRange(1), help="End after so many records.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object a line, with ISO times.")
@common
def tail(
    *, common: Common, topic: str | None, server: str | None, from_beginning: bool, count: int | None, as_json: bool
) -> None:
    """Decoded records as they come: forecasts as a line with spark bars."""
    from itertools import islice

    from consumer import tail as reader
    from schemas.registry import Registry

    key = common.contract().key.name
    stop = stop_on_signal()
    found = reader.records(
        common.kafka,
        Registry(common.registry_url),
        topic or common.topics().forecasts,
        stop,
        from_beginning=from_beginning,
    )
    mine = (r for r in found if server in (None, r.get("server_id", r.get(key))))
    for record in islice(mine, count):
        print(reader.as_json(record) if as_json else reader.as_line(record), flush=True)


@click.command()
@click.option("--broker", type=click.Choice(["auto", "apache", "embedded"]), default="auto", show_default=True)
@click.option("--registry", type=click.Choice(["auto", "apicurio", "embedded"]), default="auto", show_default=True)
@click.option("--seconds", type=FiniteRange(min=0), help="End so long after the consumer is ready.")
@click.option("--model", "model_name", default="latest", show_default=True, metavar="DIR|latest")
@click.option("--servers", type=click.IntRange(1), default=15, show_default=True)
@click.option("--start", default="-7d", show_default=True, help="Where the fleet's history begins.")
@click.option("--speed", type=Speed(), default="60", show_default=True, help="Seconds of event time a second, or max.")
@click.option("--scenario", type=SCENARIOS, default="mixed", show_default=True)
@click.option("--http-port", type=click.IntRange(0, 65_535), default=0, show_default=True, help="0: any free one.")
@common
def up(
    *, common: Common, broker: str, registry: str, seconds: float | None, model_name: str, servers: int, start: str,
    speed: float | str, scenario: str, http_port: int,
) -> None:  # fmt: skip
    """All of it on this machine: broker, registry, topics, simulator, consumer, and the forecasts printed.

    Its parts speak to the broker and registry that it starts, on topics of the default names: of a --config file only
    the options of this command count, and addresses, [kafka] and [topics] do not.
    """
    from fleetcast.up import Plan, run

    plan = Plan(
        broker=broker, registry=registry, seconds=seconds, model=model_name, servers=servers, start=start,
        speed=str(speed), scenario=scenario, http_port=http_port, contract=common.contract(),
        contract_file=common.contract_file,
    )  # fmt: skip
    run(plan, stop_on_signal())
