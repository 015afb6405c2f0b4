"""``generate``, ``evaluate``, ``forecast``, ``model check``: everything that needs no Kafka."""

import json
from pathlib import Path

import click

from fleetcast.commands.stream import INTERVAL, SCENARIOS
from fleetcast.finite import FiniteRange
from fleetcast.options import Common, common, load_mapping, mapping_option
from fleetcast.times import Time

MODEL = click.option("--model", "model_name", default="latest", show_default=True, metavar="DIR|latest",
                     help="Artifact folder, or the newest in ./models, else the shipped one.")  # fmt: skip
DATA = click.option("--data", "data_path", required=True, type=click.Path(path_type=Path),
                    help="Parquet file or folder with the contract's columns.")  # fmt: skip


@click.command()
@click.option("--servers", type=click.IntRange(1), default=15, show_default=True)
@click.option("--hours", type=FiniteRange(0, 1e6, min_open=True), default=24.0, show_default=True)
@click.option("--output", required=True, type=click.Path(path_type=Path), metavar="DIR")
@click.option("--start", type=Time(), default="2026-01-05T00:00:00Z", show_default=True)
@click.option("--seed", type=int, default=0, show_default=True)
@click.option("--scenario", type=SCENARIOS, default="mixed", show_default=True)
@click.option("--interval", type=FiniteRange(0.001, 1e6), help=INTERVAL)
@click.option(
    "--prefix", default="", help="Stands before each server's id, so that several fleets can be put together."
)
@common
def generate(
    *, common: Common, servers: int, hours: float, output: Path, start: int, seed: int, scenario: str,
    interval: float | None, prefix: str,
) -> None:  # fmt: skip
    """A fleet's history as parquet: DIR/metrics.parquet and DIR/incidents.parquet."""
    from producer.fleet import default_interval_s
    from producer.generate import generate as run

    contract = common.contract()
    made = run(
        output, contract, servers=servers, hours=hours, start_ms=start, seed=seed, scenario=scenario,
        interval_s=interval or default_interval_s(contract), prefix=prefix,
    )  # fmt: skip
    click.echo(f"{made.rows} rows in {made.metrics}")
    click.echo(f"{made.incident_count} incidents in {made.incidents}")


@click.command()
@MODEL
@DATA
@click.option(
    "--windows", type=click.IntRange(1), default=2000, show_default=True, help="Most windows judged, evenly spread."
)
@click.option("--since", type=Time(), help="Only forecasts issued at or after this time.")
@click.option("--until", type=Time(), help="Only forecasts issued at or before this time.")
@click.option(
    "--boosting", is_flag=True, help="Gradient boosting too, fitted on the data before --since (needs scikit-learn)."
)
@click.option("--breaches", is_flag=True, help="Breaches foreseen: recall, precision and warning time. Takes longer.")
@click.option(
    "--breach-windows", type=click.IntRange(1), default=20_000, show_default=True, help="Most windows --breaches takes."
)
@click.option("--json", "as_json", is_flag=True, help="JSON instead of a table.")
@mapping_option
@common
def evaluate(
    *, common: Common, model_name: str, data_path: Path, windows: int, since: int | None, until: int | None,
    boosting: bool, breaches: bool, breach_windows: int, as_json: bool, mapping_file: Path | None,
) -> None:  # fmt: skip
    """MAE, pinball loss, coverage and MASE of the model, beside persistence and seasonal-naive."""
    from models.evaluate import evaluate as run
    from models.foresight import incidents_beside
    from models.report import render
    from schemas.errors import InputError
    from schemas.history import read_history

    if boosting and since is None:
        raise InputError("--boosting needs --since: gradient boosting is fitted on the data before it")
    model = load_model(model_name, common)
    events = read_history([data_path], model.contract, load_mapping(mapping_file))
    step_ms = model.contract.step_ms
    evaluation = run(
        model, events, max_windows=windows, since_step=-(-(since or 0) // step_ms),
        until_step=None if until is None else until // step_ms, boosting=boosting,
        breach_windows=breach_windows if breaches else 0, incidents=incidents_beside(data_path) if breaches else None,
    )  # fmt: skip
    click.echo(json.dumps(evaluation.to_json(), indent=2) if as_json else render(evaluation))


@click.command()
@MODEL
@DATA
@click.option("--output", required=True, type=click.Path(path_type=Path), metavar="FILE")
@click.option("--issued-at", type=Time(), help="Only forecasts issued at this time.")
@click.option("--since", type=Time(), help="Only forecasts issued at or after this time.")
@click.option("--until", type=Time(), help="Only forecasts issued at or before this time.")
@click.option("--every", type=click.IntRange(1), default=1, show_default=True, help="Only every N-th step.")
@mapping_option
@common
def forecast(
    *, common: Common, model_name: str, data_path: Path, output: Path, issued_at: int | None, since: int | None,
    until: int | None, every: int, mapping_file: Path | None,
) -> None:  # fmt: skip
    """The service's windows and numbers without Kafka: parquet in, forecasts as parquet out."""
    from models.offline import forecast_file
    from schemas.history import read_history

    model = load_model(model_name, common)
    events = read_history([data_path], model.contract, load_mapping(mapping_file))
    result = forecast_file(model, events, output, issued_at=issued_at, since=since, until=until, every=every)
    click.echo(f"{result.forecasts} forecasts, {result.rows} rows in {output}")


@click.group()
def model() -> None:
    """Model artifacts."""


@model.command("check")
@click.argument("model_name", metavar="DIR|latest", default="latest")
@click.option("--json", "as_json", is_flag=True, help="JSON instead of text.")
@common
def check_model(common: Common, model_name: str, as_json: bool) -> None:
    """Load an artifact and print its shapes and lineage, or say what does not fit (exit 3)."""
    from models.check import describe
    from models.check import render as text

    loaded = load_model(model_name, common, network=True)  # which checks every tensor
    described = describe(loaded)
    click.echo(json.dumps(described, indent=2) if as_json else text(described))


def load_model(name: str, common: Common, *, network: bool = False):  # type: ignore[no-untyped-def]
    """The model; what differs from the contract without mattering to it is told on stderr."""
    from models import artifact
    from schemas.contract import Contract
    from schemas.fingerprint import differences, other_differences

    given = common.given_contract()
    loaded = artifact.load(artifact.find(name), given, network=network)
    trained = Contract(loaded.config.contract)
    other = given or Contract.load()
    which = "the contract given" if given else "the shipped contract"
    for difference in [] if given else differences(trained, other):
        click.echo(f"note: differs from {which}: {difference}", err=True)
    for difference in other_differences(trained, other):
        click.echo(f"note: differs from {which}: {difference}", err=True)
    return loaded
