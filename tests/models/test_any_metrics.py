"""Contracts as users would write them, from the schema to forecasts: no code knows a metric's name."""

import json
import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from models import artifact
from models.artifact import Model
from models.card import model_card
from models.evaluate import evaluate
from models.network_size import NetworkSize
from models.offline import forecast_file
from models.plots import plots
from models.report import render
from models.runtime import Quantiles
from models.samples import History, Samples
from models.scores import FORECASTERS, Evaluation
from models.split import spread
from models.train import Fitted, train
from models.training import TrainingOptions
from producer.generate import generate
from schemas.batch import EventBatch
from schemas.contract import Contract
from schemas.fingerprint import fingerprint
from schemas.history import read_history
from tests import contracts
from tests.contracts import enum, field
from tests.models.conftest import START_MS

OPTIONS = TrainingOptions(
    epochs=1, epoch_windows=96, validation_windows=128, batch_size=32,
    size=NetworkSize(hidden_size=8, attention_head_size=2, hidden_continuous_size=4),
)  # fmt: skip
FORECAST_STEPS = 6  # how many issue times are forecast


@dataclass(frozen=True, slots=True)
class Case:
    """A contract, and how much history its user has.

    Attributes:
        interval_s: seconds between the samples of a server.
        missing: share of the nullable inputs that nobody measured.
    """

    contract: Contract
    servers: int
    hours: float
    interval_s: float
    missing: float = 0.0


def user_contract(*fields: dict[str, Any], **settings: Any) -> Contract:
    """As written by hand: what has a default is left to it."""
    wanted = {"step_seconds", "encoder_steps", "horizon_steps", *settings}
    schema = contracts.schema(*fields, **settings)
    schema["fleetcast"] = {name: value for name, value in schema["fleetcast"].items() if name in wanted}
    return Contract(schema)


CASES = {
    "one target, nothing known, hourly": Case(
        user_contract(field("orders", "double", "target", minimum=0), step_seconds=3600, encoder_steps=24,
                      horizon_steps=12),
        servers=3, hours=14 * 24, interval_s=1200,
    ),
    "20 targets, no category": Case(
        user_contract(
            *(field(f"sensor_{i:02}", "double", "target", minimum=-i, maximum=i) for i in range(20, 0, -1)),
            step_seconds=300, encoder_steps=12, horizon_steps=6, known=["hour", "day_of_week", "is_weekend"],
        ),
        servers=3, hours=18, interval_s=150,
    ),
    "categories, statics, nullable targets": Case(
        user_contract(
            field("tier", enum("Tier", "silver", "gold", "bronze"), "static"),
            field("pressure", ["null", "double"], "target", minimum=0, maximum=16, breach_above=12),
            field("mode", enum("Mode", "run", "off", "boost", "eco"), "category"),
            field("flow", ["null", "float"], "target"),
            field("valve", enum("Valve", "shut", "open", "half"), "category"),
            field("site", enum("Site", "oslo", "bern"), "static"),
            field("outdoor", ["null", "double"], "covariate", minimum=-40, maximum=50),
            field("remark", ["null", "string"], "context"),
            step_seconds=600, encoder_steps=18, min_encoder_steps=6, horizon_steps=6, known=["month"],
        ),
        servers=4, hours=36, interval_s=300, missing=0.2,
    ),
    "by the minute, daily lag": Case(
        user_contract(
            field("requests", "double", "target", minimum=0), field("lag_ms", "double", "target", minimum=0),
            step_seconds=60, encoder_steps=30, min_encoder_steps=15, horizon_steps=15,
            known=["time_of_day", "season_lag"],
        ),
        servers=2, hours=30, interval_s=60,
    ),
    "7 seconds, odd lengths": Case(
        user_contract(
            field("volts", "float", "target"), field("duty", "double", "covariate", minimum=0, maximum=1),
            step_seconds=7, encoder_steps=17, horizon_steps=5, quantiles=[0.05, 0.5, 0.95], known=["time_of_day"],
        ),
        servers=3, hours=0.6, interval_s=3,
    ),
    "whole numbers below zero": Case(
        user_contract(
            field("signal_dbm", "int", "target", minimum=-110, maximum=-30, breach_below=-95),
            field("balance", "long", "target", minimum=-1000, maximum=1000),
            step_seconds=120, encoder_steps=15, horizon_steps=8, season_steps=30, known=["season_lag"],
        ),
        servers=3, hours=8, interval_s=60,
    ),
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Way:
    """What a contract led to, from its history to its forecasts.

    Attributes:
        forecasts: the file of the last few issue times.
    """

    contract: Contract
    events: EventBatch
    history: History
    fitted: Fitted
    model: Model
    evaluation: Evaluation
    forecasts: pd.DataFrame

    @property
    def samples(self) -> Samples:
        """A few windows."""
        return self.history.samples.take(spread(self.history.samples, 40))


@pytest.fixture(scope="module", params=CASES.values(), ids=CASES.keys())
def way(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Way:
    """All the way once; each test looks at one thing of it."""
    case: Case = request.param
    contract, folder = case.contract, tmp_path_factory.mktemp("way")
    generate(
        folder, contract, servers=case.servers, hours=case.hours, start_ms=START_MS, seed=1, scenario="healthy",
        interval_s=case.interval_s,
    )  # fmt: skip
    events = with_missing(read_history([folder], contract), contract, case.missing)
    fitted = train(contract, events, OPTIONS)
    model = artifact.load(artifact.save(folder, "tft_model_20260101_000000", fitted.final, card="any"), contract)
    file = folder / "forecasts.parquet"
    open_ms = round(1000 * contract.settings.allowed_lateness_seconds)  # the last steps, which nothing has closed yet
    since = int(events.time[-1]) - open_ms - FORECAST_STEPS * contract.step_ms
    forecast_file(model, events, file, since=since)
    history = History(contract, events)
    return Way(
        contract, events, history, fitted, model, evaluate(model, events, max_windows=100), pd.read_parquet(file)
    )


def with_missing(events: EventBatch, contract: Contract, share: float) -> EventBatch:
    """The events, without that share of each nullable input."""
    rng = np.random.default_rng(0)
    for column, given in enumerate(contract.inputs):
        if given.nullable:
            events.reals[rng.random(len(events)) < share, column] = np.nan
    return events


def published(trained: Any, way: Way) -> Quantiles:
    """What is published of a few windows."""
    runtime = trained.runtime()
    return runtime.forecast(way.history.windows(way.samples))


def test_forecasts_are_ascending_and_within_bounds(way: Way) -> None:
    """Every forecast is finite, its quantiles ascend, and it stays within the target's bounds."""
    levels = [f"q{level:g}" for level in way.contract.settings.quantiles]
    values = way.forecasts[levels].to_numpy()

    assert np.isfinite(values).all()
    assert (np.diff(values, axis=1) >= 0).all()
    for target in way.contract.targets:
        mine = values[(way.forecasts.target == target.name).to_numpy()]
        assert len(mine)
        assert target.minimum is None or mine.min() >= np.float32(target.minimum)
        assert target.maximum is None or mine.max() <= np.float32(target.maximum)


def test_one_forecast_of_each_target_and_step(way: Way) -> None:
    """Each server has one row per issue time, target and step of the horizon, and columns for the contract's levels."""
    settings = way.contract.settings
    frame = way.forecasts

    quantiles = [f"q{level:g}" for level in settings.quantiles]
    assert list(frame.columns) == ["server_id", "issued_at", "target", "step", *quantiles]
    assert set(frame.server_id) == set(way.events.keys)
    names, steps = [f.name for f in way.contract.targets], range(1, settings.horizon_steps + 1)
    for _, one in frame.groupby(["server_id", "issued_at"]):
        assert list(zip(one.target, one.step, strict=True)) == [(name, step) for name in names for step in steps]
    issued_ms = frame.issued_at.astype("datetime64[ms, UTC]").astype(np.int64)
    assert (issued_ms % way.contract.step_ms == 0).all()
    assert frame.issued_at.nunique() >= 1


def test_scores_of_every_target(way: Way) -> None:
    """Every target has scores at every horizon that the contract reaches, beside both baselines, and all are finite."""
    found = way.evaluation.targets

    horizons = [str(h) for h in (1, 3, 12) if h <= way.contract.settings.horizon_steps]
    assert list(found) == [f.name for f in way.contract.targets]
    for scores in found.values():
        assert list(scores) == [*horizons, "all"]
        for by_forecaster in scores.values():
            assert list(by_forecaster) == list(FORECASTERS)
            assert all(np.isfinite([s.mae, s.pinball, s.coverage80]).all() for s in by_forecaster.values())
    assert way.evaluation.withheld == 0


def test_the_artifact_is_the_model(way: Way) -> None:
    """A loaded artifact has the weights and publishes the numbers of the model that was saved, bit for bit."""
    saved, loaded = way.fitted.final, way.model
    pairs = zip(saved.network.state_dict().values(), loaded.network.state_dict().values(), strict=True)

    assert all(torch.equal(a, b) for a, b in pairs)
    assert loaded.scaling == saved.scaling
    assert saved.offsets is not None, "enough windows to calibrate"
    np.testing.assert_array_equal(loaded.offsets, saved.offsets)
    assert loaded.fingerprint == fingerprint(way.contract)
    np.testing.assert_array_equal(published(loaded, way).values, published(saved, way).values)


def test_the_names_are_the_contracts(way: Way) -> None:
    """The network's inputs are the contract's fields and what is made of them by rule, and no name from elsewhere."""
    contract, model = way.contract, way.model
    fields = {f.name for f in (*contract.inputs, *contract.categories, *contract.statics)}
    inputs = {*model.network.hparams.x_reals, *model.network.hparams.x_categoricals}
    made = inputs - fields - {"encoder_length", "relative_time_idx", *model.layout.calendar.names}

    assert fields <= inputs
    assert all(name.startswith(tuple(f"{f.name}_" for f in contract.targets)) for name in made), made
    assert model.config.vocabulary == {f.name: sorted(f.symbols) for f in (*contract.categories, *contract.statics)}, (
        "every symbol of the schema, whichever the data hold"
    )
    assert set(way.forecasts.target) == {f.name for f in contract.targets}
    config = json.dumps(model.config.model_dump(mode="json"))
    shipped = {f.name for f in Contract.load().fields} - {f.name for f in contract.fields}
    assert not shipped & set(re.findall(r'"([^"]*)"', config)), "nothing of the shipped contract"


def test_every_input_counts(way: Way) -> None:
    """Each field that varied in training has a part in the forecasts: another value of it gives another forecast."""
    contract, runtime = way.contract, way.model.runtime()
    windows = way.history.windows(way.samples)
    before = runtime.forecast(windows)
    changed = {}
    for column, given in enumerate(contract.inputs):
        reals = windows.reals.copy()
        reals[:, ::2, column] += 1
        changed[given.name] = replace(windows, reals=reals)
    for column, given in enumerate(contract.categories):
        categories = windows.categories.copy()
        categories[..., column] = (categories[..., column] + 1) % len(given.symbols)
        changed[given.name] = replace(windows, categories=categories)
    for column, given in enumerate(contract.statics):
        statics = windows.statics.copy()
        statics[:, column] = (statics[:, column] + 1) % len(given.symbols)
        changed[given.name] = replace(windows, statics=statics)

    for name, other in changed.items():
        assert name in way.model.scaling.constant or not np.array_equal(
            runtime.forecast(other).values, before.values
        ), name


def test_the_card_tells_of_every_target(way: Way) -> None:
    """Report, card and pictures can be made of any contract, and name each of its targets."""
    text = render(way.evaluation)
    card = model_card("tft_model_20260101_000000", way.fitted.final, way.evaluation)
    pictures = plots(way.contract, way.evaluation)

    assert all(target.name in text and target.name in card for target in way.contract.targets)
    assert all(picture.startswith(b"\x89PNG") for picture in pictures.values())


def odd(**settings: Any) -> Contract:
    return user_contract(field("level", "double", "target"), **{"step_seconds": 60, "encoder_steps": 8,
                         "horizon_steps": 4, **settings})  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize(
    "contract",
    [
        odd(quantiles=[0.9]), odd(horizon_steps=1), odd(encoder_steps=2, min_encoder_steps=1),
        odd(encoder_steps=4, horizon_steps=12), odd(step_seconds=604_800, known=["month"]),
        odd(max_gap_steps=0, forecast_every_steps=5),
    ],
    ids=["one quantile", "horizon of one", "encoder of one or two", "horizon longer than encoder", "weekly", "no gaps"],
)  # fmt: skip
def test_the_corners_of_what_a_contract_may_say(contract: Contract, tmp_path: Path) -> None:
    """The shortest and longest that a contract may ask for is trained, judged and forecast like any other."""
    batch = some_events(contract)
    fitted = train(contract, batch, OPTIONS.model_copy(update={"epoch_windows": 32}))
    model = artifact.load(artifact.save(tmp_path, "tft_model_20260101_000000", fitted.final, card="odd"), contract)
    result = forecast_file(model, batch, tmp_path / "forecasts.parquet")

    assert result.forecasts == result.due > 0
    assert np.isfinite(evaluate(model, batch, max_windows=50).targets["level"]["all"]["model"].pinball)


SHIPPED_NAMES = {
    "pressure": "cpu_percent", "flow": "load_average", "outdoor": "memory_percent", "mode": "status",
    "valve": "profile", "tier": "disk_percent", "site": "type", "host": "server_id", "at": "timestamp",
}  # fmt: skip


def test_names_do_not_show_in_the_numbers() -> None:
    """The same columns under other names, of the shipped contract or of torch, give the same forecasts, bit for bit."""
    plain = CASES["categories, statics, nullable targets"].contract
    renamed = json.loads(json.dumps(plain.schema))
    for given in renamed["fields"]:
        given["name"] = SHIPPED_NAMES.get(given["name"], given["name"])
    found = []
    for contract in (plain, Contract(renamed)):
        batch = some_events(contract)
        trained = train(contract, batch, OPTIONS.model_copy(update={"epoch_windows": 32})).final
        history = History(contract, batch)
        samples = history.samples.take(spread(history.samples, 40))
        runtime = trained.runtime()
        found.append(runtime.forecast(history.windows(samples)).values)

    np.testing.assert_array_equal(*found)


def some_events(contract: Contract, servers: int = 3, steps: int = 80) -> EventBatch:
    """Values by a column's place, not by its name."""
    rng = np.random.default_rng(0)
    batch = EventBatch.allocate(contract, servers * steps)
    batch.keys[:] = np.tile([f"s{i}" for i in range(servers)], steps)
    batch.time[:] = START_MS + np.repeat(np.arange(steps), servers) * contract.step_ms
    batch.reals[:] = 8 + 4 * np.sin(np.arange(len(batch))[:, None] / 9) + rng.normal(0, 0.5, batch.reals.shape)
    for column, given in enumerate(contract.enums):
        batch.enums[:, column] = rng.integers(0, len(given.symbols), len(batch))
    return batch
