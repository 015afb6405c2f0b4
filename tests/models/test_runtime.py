from collections.abc import Callable

import numpy as np
import pandas as pd
import pytest

from models.artifact import Model
from models.partition import Partition
from models.samples import History
from schemas.batch import EventBatch
from schemas.contract import Contract
from tests import contracts
from tests.models.conftest import events
from tests.models.library import predict, reference_frame

ONE_TARGET = Contract(contracts.schema(step_seconds=60, encoder_steps=12, min_encoder_steps=4, horizon_steps=5))
CONTRACTS = {
    "one target": ONE_TARGET,
    "every role": contracts.rich(step_seconds=3600, encoder_steps=24, min_encoder_steps=6, horizon_steps=8,
                                 known=["hour", "day_of_week", "month", "is_weekend", "time_of_day"]),
    "season lag": contracts.rich(step_seconds=3600, encoder_steps=24, min_encoder_steps=6, horizon_steps=8,
                                 known=["time_of_day", "season_lag"]),
}  # fmt: skip
SHIPPED_SHORT = 320  # steps of history for the shipped contract: full windows of 288 and short ones of about 160


def observed_rows(contract: Contract, batch: EventBatch) -> pd.DataFrame:
    """All closed steps, held ones included, as a frame."""
    partition, rows = Partition(contract), []
    parts, _ = partition.advance(batch, np.arange(len(batch)))
    for closed, _ in parts:
        frame = pd.DataFrame({"server": [partition.keys[s] for s in closed.slot], "step": closed.step})
        for column, field in enumerate(contract.reals):
            frame[field.name] = closed.reals[:, column]
        for column, field in enumerate(contract.enums):
            frame[field.name] = np.array(field.symbols)[closed.enums[:, column]]
        rows.append(frame)
    return pd.concat(rows, ignore_index=True).sort_values(["server", "step"])


@pytest.mark.usefixtures("engines")
@pytest.mark.parametrize("engine", ["torch", "llvm"])
@pytest.mark.parametrize("name", [*CONTRACTS, "shipped"])
def test_equals_the_librarys_own_predict(
    name: str, engine: str, make_model: Callable[[Contract, History], Model]
) -> None:
    """The runtime's raw output is pytorch-forecasting's predict() on the same rows, full and short windows alike."""
    contract = CONTRACTS.get(name, Contract.load())
    batch = events(contract, servers=5, steps=SHIPPED_SHORT if name == "shipped" else 90)
    history = History(contract, batch)
    model = make_model(contract, history)
    rng = np.random.default_rng(1)
    samples = history.samples.take(np.sort(rng.choice(len(history.samples), 40, replace=False)))
    lengths = np.minimum(samples.available, contract.settings.encoder_steps)
    assert lengths.min() < contract.settings.encoder_steps == lengths.max(), "both full and short windows are compared"

    expected = predict(model, reference_frame(model, history, samples, observed_rows(contract, batch)))
    got = model.runtime(engine).raw(history.windows(samples)).transpose(0, 3, 1, 2)

    worst = np.abs(got - expected) / (1 + np.abs(expected))
    assert worst.max() <= 1e-4
    assert np.ptp(got, axis=0).max() > 0.1, "the comparison is of forecasts that differ between windows"
