"""``topics create``, ``schemas register``, ``schemas check``."""

import json

import click

from fleetcast.options import JSON, Common, common


@click.group()
def topics() -> None:
    """Topics with the right settings."""


@topics.command("create")
@click.option("--partitions", type=click.IntRange(1), default=6, show_default=True)
@click.option("--replication-factor", type=click.IntRange(1), default=1, show_default=True)
@JSON
@common
def create_topics(common: Common, partitions: int, replication_factor: int, as_json: bool) -> None:
    """Create what is missing; repeats safely."""
    from schemas.topics import connect, create

    created = create(connect(common.kafka), common.topics(), partitions, replication_factor)
    if as_json:
        click.echo(json.dumps([{"topic": name, "created": new} for name, new in created.items()], indent=2))
        return
    for name, new in created.items():
        click.echo(f"{'created' if new else 'exists '}  {name}")


@click.group()
def schemas() -> None:
    """Schemas in the registry, under TopicNameStrategy."""


def _subjects(common: Common) -> dict[str, dict[str, object]]:
    from schemas.records import forecast_schema, step_schema

    contract, topics = common.contract(), common.topics()
    return {
        topics.metrics: contract.schema,
        topics.steps: step_schema(contract),
        topics.forecasts: forecast_schema(),
    }


@schemas.command("register")
@JSON
@common
def register_schemas(common: Common, as_json: bool) -> None:
    """Register the schemas of events, steps and forecasts; repeats safely."""
    from schemas.errors import MismatchError
    from schemas.registry import Registry, subject

    registry = Registry(common.registry_url)
    ids = {}
    for topic, schema in _subjects(common).items():
        if reasons := registry.incompatibilities(topic, schema):  # some registries would let it pass
            raise MismatchError("; ".join(reasons))
        ids[subject(topic)] = registry.register(topic, schema)
        if not as_json:
            click.echo(f"id {ids[subject(topic)]:>4}  {subject(topic)}")
    if as_json:
        click.echo(json.dumps([{"subject": name, "id": number} for name, number in ids.items()], indent=2))


@schemas.command("check")
@JSON
@common
def check_schemas(common: Common, as_json: bool) -> None:
    """Check that the schemas can follow what is registered; exit 3 where one cannot."""
    from schemas.errors import MismatchError
    from schemas.registry import Registry, subject

    registry = Registry(common.registry_url)
    found = {subject(topic): registry.incompatibilities(topic, schema) for topic, schema in _subjects(common).items()}
    if as_json:
        click.echo(json.dumps([_verdict(name, reasons) for name, reasons in found.items()], indent=2))
    for name, reasons in {} if as_json else found.items():
        click.echo(f"{name}: {_in_words(reasons)}")
    if bad := [reason for reasons in found.values() for reason in reasons or []]:
        raise MismatchError("; ".join(bad))


def _verdict(name: str, reasons: list[str] | None) -> dict[str, object]:
    """``compatible`` is null where nothing is registered."""
    return {"subject": name, "compatible": None if reasons is None else not reasons, "reasons": reasons or []}


def _in_words(reasons: list[str] | None) -> str:
    if reasons is None:
        return "not registered"
    return "; ".join(reasons) or "compatible"
