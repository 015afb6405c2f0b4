"""A little fleet to train on, whose load can be learnt within a few epochs."""

import numpy as np

from models.training import TrainingOptions
from schemas.batch import EventBatch
from schemas.contract import Contract
from tests import contracts
from tests.models.conftest import START_MS
from tests.models.small import SMALL

OPTIONS = TrainingOptions(epochs=3, size=SMALL, epoch_windows=200, learning_rate=0.01, averaging=0.5)
STATES = ("up", "down", "busy", "never", "late")  # not in alphabetical order
CONTRACT = Contract(
    contracts.schema(
        contracts.field("load", "double", "target"),
        contracts.field("requests", "double", "covariate"),
        contracts.field("state", contracts.enum("State", *STATES), "category"),
        contracts.field("zone", contracts.enum("Zone", "z", "a", "m"), "static"),
        known=["hour", "month"],
    )
)
STEPS = 120


def fleet(seed: int = 0) -> EventBatch:
    """Four servers, one event a step: a load that the state and its own past explain; the last tenth is 'late'."""
    rng = np.random.default_rng(seed)
    batches = []
    for server in range(4):
        batch = EventBatch.allocate(CONTRACT, STEPS)
        state = rng.integers(0, 3, STEPS)
        batch.keys[:] = f"s{server}"
        batch.time[:] = START_MS + np.arange(STEPS) * CONTRACT.step_ms
        batch.reals[:, 0] = 5 * np.sin(np.arange(STEPS) / 3 + server) + 2 * state + rng.normal(0, 0.2, STEPS) + 20
        batch.reals[:, 1] = 0.1  # a constant whose standard deviation is not quite zero in floating point
        batch.enums[:, 0] = np.where(np.arange(STEPS) >= STEPS * 9 // 10, STATES.index("late"), state)
        batch.enums[:, 1] = server % 2
        batches.append(batch)
    merged = EventBatch.concat(batches)
    return merged.take(np.argsort(merged.time, kind="stable"))
