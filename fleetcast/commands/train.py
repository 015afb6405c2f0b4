"""``train``: a history in, a model that was measured out."""

import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import click

from fleetcast.commands.data import DATA
from fleetcast.finite import FiniteRange
from fleetcast.options import Common, common, load_mapping, mapping_option
from fleetcast.times import Time

_BREACH_WINDOWS = 200_000  # two minutes, which a training is worth
POSITIVE = FiniteRange(min=0, min_open=True)


@click.command()
@DATA
@click.option("--epochs", type=click.IntRange(1), default=20, show_default=True, help="At most; it stops early.")
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
@click.option("--dropout", type=FiniteRange(0, 0.9), default=0.1, show_default=True)
@click.option(
    "--epoch-windows", type=click.IntRange(1), default=6000, show_default=True, help="Windows drawn at random an epoch."
)
@click.option("--batch-size", type=click.IntRange(1), default=32, show_default=True)
@click.option("--learning-rate", type=POSITIVE, default=1e-2, show_default=True)
@click.option("--weight-decay", type=FiniteRange(0, 1e3), default=1e-3, show_default=True)
@click.option("--patience", type=click.IntRange(1), default=5, show_default=True,
              help="Epochs without a better validation loss before it stops.")  # fmt: skip
@click.option("--breach-share", type=FiniteRange(0, 0.5), default=0.2, show_default=True,
              help="Share of an epoch's windows drawn from those just before a breach.")  # fmt: skip
@click.option("--heading-share", type=FiniteRange(0, 0.5), default=0.2, show_default=True,
              help="Share drawn from those whose course leads to a breach, whether or not it came.")  # fmt: skip
@click.option("--holdout-servers", type=click.IntRange(0), default=None,
              help="Servers kept out wholly, to be judged as unseen.  [default: a tenth from 20 on]")  # fmt: skip
@click.option("--since", type=Time(), help="Only events at or after this time.")
@click.option("--until", type=Time(), help="Only events before this time: what follows can then be judged.")
@click.option("--test-data", "test_path", type=click.Path(path_type=Path, exists=True), metavar="PATH",
              help="Other data to judge the model on, breaches too; its figures join the card.")  # fmt: skip
@click.option(
    "--from", "start_name", metavar="DIR|latest", help="Begin with this model's weights; it must fit the contract."
)
@click.option("--resume", is_flag=True, help="Go on with a training of the same data and options that was cut off.")
@mapping_option
@common
def train(
    *, common: Common, data_path: Path, epochs: int, output: Path, seed: int, hidden_size: int, dropout: float,
    epoch_windows: int, batch_size: int, learning_rate: float, weight_decay: float, patience: int,
    breach_share: float, heading_share: float, holdout_servers: int | None, since: int | None, until: int | None,
    test_path: Path | None, start_name: str | None, resume: bool, mapping_file: Path | None,
) -> None:  # fmt: skip
    """Train on a parquet file or folder; the artifact's path is the last line on stdout."""
    from models.artifact import find, load, save
    from models.card import model_card
    from models.episodes import watched
    from models.evaluate import Scope, evaluate, evaluate_trained
    from models.foresight import incidents_beside
    from models.network_size import NetworkSize
    from models.plots import plots
    from models.split import within
    from models.train import Trainer
    from models.training import TrainingOptions
    from schemas.history import read_history

    contract = common.contract()
    with _writing(output):  # before hours are spent on what cannot be kept
        output.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=output).close()
    start = load(find(start_name), contract) if start_name else None
    events = read_history([data_path], contract, load_mapping(mapping_file))
    events = events.take(within(events.time, since, until))
    test_events = read_history([test_path], contract, load_mapping(mapping_file)) if test_path else None
    options = TrainingOptions(
        epochs=epochs, seed=seed, size=NetworkSize(hidden_size=hidden_size, dropout=dropout),
        epoch_windows=epoch_windows, batch_size=batch_size, learning_rate=learning_rate, weight_decay=weight_decay,
        patience=patience, breach_share=breach_share, heading_share=heading_share, holdout_servers=holdout_servers,
    )  # fmt: skip
    with _writing(output):
        fitted = Trainer(contract, events, options, start).train(output, resume=resume)
    version = time.strftime("tft_model_%Y%m%d_%H%M%S", time.gmtime())
    evaluation, others = None, {}
    if len(fitted.split.validation):
        evaluation = evaluate_trained(fitted.judged, events, Scope(since_step=fitted.split.first_validation_step))
        fitted.final.metadata["metrics"] = evaluation.to_json()
    if test_path is not None and test_events is not None:
        # Saved, it runs in the compiled engine, whose graphs also serve the first `consume`.
        with _writing(output), tempfile.TemporaryDirectory(dir=output) as scratch:
            saved = load(save(Path(scratch), version, fitted.final, ""), contract)
            others["data that was never trained on"] = tested = evaluate(
                saved, test_events, breach_windows=_BREACH_WINDOWS if watched(contract) else 0,
                incidents=incidents_beside(test_path),
            )  # fmt: skip
        fitted.final.metadata["test_metrics"] = tested.to_json()
    with _writing(output):
        pictures = plots(contract, evaluation) if evaluation else {}
        card = model_card(version, fitted.final, evaluation, pictures, others)
        folder = save(output, version, fitted.final, card, pictures)
    click.echo(folder)


@contextmanager
def _writing(output: Path) -> Iterator[None]:
    """What the system refuses to write becomes an error that names the path."""
    from schemas.errors import InputError

    try:
        yield
    except OSError as error:
        raise InputError(f"--output: cannot write {error.filename or output}: {error.strerror or error}") from None
