"""``topics create``, ``schemas register``, ``schemas check``."""

import click

from fleetcast.options import Common, common


@click.group()
def topics() -> None:
    """Topics with the right settings."""


@topics.command("create")
@click.option("--partitions", type=click.IntRange(1), default=6, show_default=True)
@click.option("--replication-factor", type=click.IntRange(1), default=1, show_default=True)
@common
def create_topics(common: Common, partitions: int, replication_factor: int) -> None:
    """Create what is missing; repeats safely."""
    from schemas.topics import connect, create

    created = create(connect(common.kafka), common.topics(), partitions, replication_factor)
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
@common
def register_schemas(common: Common) -> None:
    """Register the schemas of events, steps and forecasts; repeats safely."""
    from schemas.errors import MismatchError
    from schemas.registry import Registry, subject

    registry = Registry(common.registry_url)
    for topic, schema in _subjects(common).items():
        if reasons := registry.incompatibilities(topic, schema):  # some registries would let it pass
            raise MismatchError("; ".join(reasons))
        click.echo(f"id {registry.register(topic, schema):>4}  {subject(topic)}")


@schemas.command("check")
@common
def check_schemas(common: Common) -> None:
    """Check that the schemas can follow what is registered; exit 3 where one cannot."""
    from schemas.errors import MismatchError
    from schemas.registry import Registry, subject

    registry = Registry(common.registry_url)
    bad = []
    for topic, schema in _subjects(common).items():
        found = registry.incompatibilities(topic, schema)
        verdict = "not registered" if found is None else "compatible" if not found else "; ".join(found)
        click.echo(f"{subject(topic)}: {verdict}")
        bad += found or []
    if bad:
        raise MismatchError("; ".join(bad))
