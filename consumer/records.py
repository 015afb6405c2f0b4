"""Closed steps and quantiles as the Avro records that go out."""

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from models.breach import breach_probability
from models.partition import DueWindows
from models.runtime import Quantiles
from models.windows import ClosedSteps
from schemas.contract import Contract
from schemas.fields import ContractField

Record = dict[str, Any]
Source = tuple[str, int, NDArray[np.int64]]


def step_records(closed: ClosedSteps, keys: list[str], contract: Contract, fingerprint: str) -> Iterator[Record]:
    """MetricStep records; ``keys`` names the server of each slot."""
    n = len(closed)
    columns: dict[str, list[Any]] = {
        "server_id": [keys[slot] for slot in closed.slot],
        "step_start": (closed.step * contract.step_ms).tolist(),
        "step_seconds": [contract.settings.step_seconds] * n,
        "count": closed.count.tolist(),
        "held": closed.held.tolist(),
        "held_fields": [_names(contract.inputs, row) for row in closed.held_inputs],
    }
    for column, field in enumerate(contract.reals):
        columns[field.name] = [None if v != v else v for v in closed.reals[:, column].tolist()]  # noqa: PLR0124  NaN
    for column, field in enumerate(contract.enums):
        symbols = (*field.symbols, None)  # -1 is null
        columns[field.name] = [symbols[code] for code in closed.enums[:, column]]
    for column, field in enumerate(contract.labels):
        columns[field.name] = closed.labels[:, column].tolist()
    columns["contract_fingerprint"] = [fingerprint] * n
    names = tuple(columns)
    return (dict(zip(names, row, strict=True)) for row in zip(*columns.values(), strict=True))


def _names(fields: tuple[ContractField, ...], mask: NDArray[np.bool_]) -> list[str]:
    return [f.name for f, held in zip(fields, mask, strict=True) if held]


def forecast_records(
    due: DueWindows, quantiles: Quantiles, contract: Contract, lineage: Record, source: Source
) -> Iterator[Record]:
    """Forecast records of the windows whose output is finite.

    Args:
        due: the windows.
        quantiles: their forecasts.
        contract: names, units and thresholds.
        lineage: ``model_version`` and ``contract_fingerprint``.
        source: topic, partition, and [B] the offset of the event that closed each step.
    """
    topic, partition, offsets = source
    issued = (due.steps.step + 1) * contract.step_ms
    breaches = [_breaches(quantiles, column, field, contract, issued) for column, field in enumerate(contract.targets)]
    for row in np.flatnonzero(quantiles.finite):
        yield {
            "server_id": due.keys[row],
            "issued_at": int(issued[row]),
            "step_seconds": contract.settings.step_seconds,
            "horizon_steps": contract.settings.horizon_steps,
            **lineage,
            "encoder_steps": int(due.windows.lengths[row]),
            "held_steps": int(due.windows.held[row]),
            "targets": [
                {
                    "name": field.name,
                    "unit": field.unit,
                    "quantiles": [
                        {"level": level, "values": values}
                        for level, values in zip(
                            contract.settings.quantiles, quantiles.values[row, column].tolist(), strict=True
                        )
                    ],
                    "breach": breaches[column][row],
                }
                for column, field in enumerate(contract.targets)
            ],
            "source": {"topic": topic, "partition": partition, "offset": int(offsets[row])},
        }


def _breaches(
    quantiles: Quantiles, column: int, field: ContractField, contract: Contract, issued: NDArray[np.int64]
) -> list[Record | None]:
    above = field.breach_above is not None
    threshold = field.breach_above if above else field.breach_below
    if threshold is None:
        return [None] * len(issued)
    levels = np.array(contract.settings.quantiles)
    probability = breach_probability(quantiles.values[:, column], levels, threshold, above=above)  # [B, H]
    likely = probability >= 0.5
    first = issued + likely.argmax(axis=1) * contract.step_ms
    return [
        {
            "threshold": threshold,
            "direction": "above" if above else "below",
            "probability": float(probability[row].max()),
            "first_breach_at": int(first[row]) if likely[row].any() else None,
        }
        for row in range(len(issued))
    ]
