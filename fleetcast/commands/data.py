"""``generate``, ``train``, ``evaluate``, ``forecast``, ``model check``: everything that needs no Kafka."""

import json
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import click

from fleetcast.commands.stream import SCENARIOS
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
@click.option(
    "--interval",
    type=FiniteRange(0.001, 1e6),
    default=60.0,
    show_default=True,
    help="Seconds between two samples of a server.",
)
@common
def generate(
    *, common: Common, servers: int, hours: float, output: Path, start: int, seed: int, scenario: str, interval: float
) -> None:
    """A fleet's history as parquet: DIR/metrics.parquet and DIR/incidents.parquet."""
    from producer.generate import generate as run

    made = run(
        output, common.contract(), servers=servers, hours=hours, start_ms=start, seed=seed, scenario=scenario,
        interval_s=interval,
    )  # fmt: skip
    click.echo(f"{made.rows} rows in {made.metrics}")
    click.echo(f"{made.incident_count} incidents in {made.incidents}")


@click.command()
@DATA
@click.option("--epochs", type=click.IntRange(1), default=20, show_default=True)
@click.option(
    "--output",
    type=click.Path(path_type=Path),
    default=Path("models"),
    show_default=True,
    metavar="DIR",
    help="The artifact becomes DIR/tft_model_YYYYMMDD_HHMMSS.",
)
@click.option("--seed", type=click.IntRange(0, 2**32 - 1), default=0, show_default=True)
@click.option("--hidden-size", type=click.IntRange(8, 1024), default=32, show_default=True)
@click.option(
    "--epoch-windows", type=click.IntRange(1), default=6000, show_default=True, help="Windows drawn at random an epoch."
)
@click.option("--batch-size", type=click.IntRange(1), default=64, show_default=True)
@click.option("--learning-rate", type=FiniteRange(min=0, min_open=True), default=2e-3, show_default=True)
@mapping_option
@common
def train(
    *, common: Common, data_path: Path, epochs: int, output: Path, seed: int, hidden_size: int, epoch_windows: int,
    batch_size: int, learning_rate: float, mapping_file: Path | None,
) -> None:  # fmt: skip
    """Train on a parquet file or folder; the artifact's path is the last line on stdout."""
    from models.artifact import save
    from models.card import model_card
    from models.evaluate import evaluate_trained
    from models.network import NetworkSize
    from models.train import TrainingOptions
    from models.train import train as run
    from schemas.history import read_history

    contract = common.contract()
    with _writing(output):  # before hours are spent on what cannot be kept
        output.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=output).close()
    events = read_history([data_path], contract, load_mapping(mapping_file))
    options = TrainingOptions(
        epochs=epochs, seed=seed, size=NetworkSize(hidden_size=hidden_size), epoch_windows=epoch_windows,
        batch_size=batch_size, learning_rate=learning_rate,
    )  # fmt: skip
    trained = run(contract, events, options)
    version = time.strftime("tft_model_%Y%m%d_%H%M%S", time.gmtime())
    evaluation = None
    if trained.metadata["validation_windows"]:
        evaluation = evaluate_trained(trained, events, trained.metadata["first_validation_step"])
        trained.metadata["metrics"] = evaluation.to_json()
    with _writing(output):
        folder = save(output, version, trained, model_card(version, trained, evaluation))
    click.echo(folder)


@contextmanager
def _writing(output: Path) -> Iterator[None]:
    """What the system refuses to write becomes an error that names the path."""
    from schemas.errors import InputError

    try:
        yield
    except OSError as error:
        raise InputError(f"--output: cannot write {error.filename or output}: {error.strerror or error}") from None


@click.command()
@MODEL
@DATA
@click.option(
    "--windows", type=click.IntRange(1), default=2000, show_default=True, help="Most windows judged, evenly spread."
)
@click.option("--json", "as_json", is_flag=True, help="JSON instead of a table.")
@mapping_option
@common
def evaluate(
    *, common: Common, model_name: str, data_path: Path, windows: int, as_json: bool, mapping_file: Path | None
) -> None:
    """MAE, pinball loss and coverage of the model, beside persistence and seasonal-naive."""
    from models.evaluate import evaluate as run
    from models.evaluate import render
    from schemas.history import read_history

    model = load_model(model_name, common)
    events = read_history([data_path], model.contract, load_mapping(mapping_file))
    evaluation = run(model, events, max_windows=windows)
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

    loaded = load_model(model_name, common)
    described = describe(loaded)
    click.echo(json.dumps(described, indent=2) if as_json else text(described))


def load_model(name: str, common: Common):  # type: ignore[no-untyped-def]
    """The model; what differs from the contract without mattering to it is told on stderr."""
    from models import artifact
    from schemas.contract import Contract
    from schemas.fingerprint import differences, other_differences

    given = common.given_contract()
    loaded = artifact.load(artifact.find(name), given)
    trained = Contract(loaded.config.contract)
    other = given or Contract.load()
    which = "the contract given" if given else "the shipped contract"
    for difference in [] if given else differences(trained, other):
        click.echo(f"note: differs from {which}: {difference}", err=True)
    for difference in other_differences(trained, other):
        click.echo(f"note: differs from {which}: {difference}", err=True)
    return loaded
