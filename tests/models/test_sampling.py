"""Which windows an epoch draws: those that head for a breach more often, told by what the network sees."""

import numpy as np
import pytest

from models.samples import History, Samples
from models.sampling import WindowStream, breach_near, heading_for_breach
from schemas.batch import EventBatch
from schemas.contract import Contract
from tests.contracts import field, schema
from tests.models.conftest import START_MS

STEPS = 40
RISING = [50.0] * 20 + [60.0, 70.0, 80.0, 95.0] + [95.0] * 16
CURVES = {
    "flat": [50.0] * STEPS,
    "rises": RISING,
    "turns back": [*RISING[:23], *[50.0] * 17],
    "falls": [80.0 - step for step in range(STEPS)],
    "never falls below": [95.0] * STEPS,
}


@pytest.fixture(scope="module")
def watched() -> Contract:
    """Steps of a minute, a horizon of eight, a threshold at 90."""
    load = field("load", "double", "target", unit="percent", breach_above=90)
    return Contract(schema(load, step_seconds=60, encoder_steps=8, horizon_steps=8, known=["hour"]))


def history_of(contract: Contract, curves: dict[str, list[float]]) -> History:
    batch = EventBatch.allocate(contract, STEPS * len(curves))
    batch.keys[:] = np.tile(np.array(list(curves), dtype=object), STEPS)
    batch.time[:] = np.repeat(START_MS + np.arange(STEPS) * contract.step_ms, len(curves))
    batch.reals[:, 0] = np.array(list(curves.values())).T.ravel()
    return History(contract, batch)


def heading(history: History, samples: Samples) -> set[tuple[str, int]]:
    """Server and step, counted from the first, of the windows that head for a breach."""
    rows = np.flatnonzero(heading_for_breach(history, samples))
    first = START_MS // history.contract.step_ms
    return {(history.keys[samples.slot[row]], int(samples.step[row]) - first) for row in rows}


def test_the_course_of_the_last_steps_tells(watched: Contract) -> None:
    """A window heads for a breach where its last two steps, carried on for a quarter of the horizon, are beyond."""
    history = history_of(watched, CURVES)

    found = heading(history, history.samples)

    # (80 - 60) / 2 a step: 100 two steps later; at 70 it would be 90, which is not above
    assert found == {("rises", 22), ("turns back", 22)}


def test_what_came_after_does_not_tell(watched: Contract) -> None:
    """Of two servers that were alike so far, both are drawn or none, whichever of them breached."""
    history = history_of(watched, CURVES)
    first = START_MS // watched.step_ms

    for step in range(23):
        alike = history.samples.take(history.samples.step == first + step)
        names = {name for name, _ in heading(history, alike)}
        assert ("rises" in names) == ("turns back" in names)


def test_a_breach_that_came_tells(watched: Contract) -> None:
    """A breach is near where an episode begins within a quarter of the horizon, and none was before."""
    history = history_of(watched, CURVES)
    first = START_MS // watched.step_ms

    rows = np.flatnonzero(breach_near(history, history.samples))
    found = {(history.keys[history.samples.slot[row]], int(history.samples.step[row]) - first) for row in rows}

    assert found == {("rises", 21), ("rises", 22)}


def test_so_many_of_an_epoch_are_chosen(watched: Contract) -> None:
    """An epoch holds the shares that were asked for, as far as there are such windows, and none twice."""
    history = history_of(watched, {f"s{i}": RISING for i in range(12)})

    for near, heading in ((0.0, 0.25), (0.25, 0.0), (0.25, 0.5), (0.5, 0.5)):
        stream = WindowStream(
            history, history.samples, epoch_windows=20, batch_size=8, seed=3, breach_share=near, heading_share=heading
        )
        chosen = stream._drawn(np.random.default_rng(3))

        drawn = history.samples.take(chosen)
        assert len(set(chosen.tolist())) == len(chosen) == 20
        assert breach_near(history, drawn).sum() >= 20 * near
        assert heading_for_breach(history, drawn).sum() >= min(20 * heading, 12)
