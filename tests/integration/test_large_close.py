"""One event closes a step of ten thousand servers in one partition: 107 MB of forecasts in one transaction."""

import threading
import time
from collections import Counter
from collections.abc import Callable

import numpy as np
import pytest

from models.artifact import Model
from models.samples import History
from schemas.batch import EventBatch
from schemas.contract import Contract
from tests.integration.conftest import Stream
from tests.integration.test_faults import wait_until
from tests.models.conftest import START_MS, events, random_model

pytestmark = [pytest.mark.integration, pytest.mark.slow]
SERVERS, STEPS = 10_000, 4
FORECAST_BYTES = 107_000_000


def short_windows() -> Contract:
    """The shipped contract's forecasts from short windows: their size is what matters here, not the inference."""
    schema = dict(Contract.load().schema)
    schema["fleetcast"] = {**schema["fleetcast"], "encoder_steps": 4, "min_encoder_steps": 2, "max_gap_steps": 1}
    return Contract(schema)


def fleet(contract: Contract) -> EventBatch:
    """One event a step a server; the last one closes the step before for all."""
    rng = np.random.default_rng(0)
    n = SERVERS * STEPS + 2
    batch = EventBatch.allocate(contract, n)
    batch.keys[:] = [f"s{i % SERVERS:05d}" for i in range(n)]
    batch.time[:] = START_MS + (np.arange(n) // SERVERS) * contract.step_ms
    batch.time[-2] = START_MS + (STEPS - 1) * contract.step_ms + 60_000  # the allowed lateness: closes the third step
    batch.time[-1] += 120_000
    batch.reals[:] = rng.uniform(5, 60, batch.reals.shape)
    batch.enums[:] = 1
    return batch


@pytest.mark.timeout(1200)
def test_a_step_of_ten_thousand_servers_is_one_transaction(
    make_stream: Callable[..., Stream], tmp_path_factory: pytest.TempPathFactory
) -> None:
    """All its forecasts are there once, the group is never left meanwhile, and the producer is never fenced."""
    contract = short_windows()
    stream = make_stream(contract, partitions=1)
    history = History(contract, events(contract, servers=3, steps=20))
    model: Model = random_model(contract, history, tmp_path_factory.mktemp("large"))
    # A poll interval shorter than the inference: who would not poll during it would be thrown out.
    stream.properties.update({"max.poll.interval.ms": "10000"})
    batch = fleet(contract)
    stream.publish(batch.take(slice(0, -1)))
    stop = threading.Event()
    service = stream.service(model, stop)
    thread = threading.Thread(target=service.run)
    thread.start()

    def made(forecasts: int) -> bool:
        """So many, and all of them committed: the figures are those of a turn that is over."""
        return service.status()["forecasts"] == forecasts and not service._ledger

    wait_until(lambda: made(SERVERS * (STEPS - 2)), 600)
    assigned = service.core.state(0)

    began = time.monotonic()
    stream.publish(batch.take(slice(-1, None)))
    wait_until(lambda: made(SERVERS * (STEPS - 1)), 600)
    print(f"\n{SERVERS} servers closed, forecast and committed in {time.monotonic() - began:.1f} s")

    stop.set()
    thread.join(60)
    assert not thread.is_alive()
    assert service.core.state(0) is assigned or not service.core.partitions, "the partition was never lost"
    assert not service._broken
    counts, size = Counter[bytes | str | None](), 0
    for message in stream._messages(stream.topics.forecasts):
        size += len(message.value() or b"")
        counts[message.key()] += 1
    assert len(counts) == SERVERS
    assert set(counts.values()) == {STEPS - 1}
    assert size / (STEPS - 1) > FORECAST_BYTES * 0.95
