"""What goes out as records, and their bytes as fastavro writes them: the reference for what is written as columns."""

import io
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import fastavro
import numpy as np
from numpy.typing import NDArray

from models.breach import breach_probability
from models.partition import DueWindows
from models.runtime import Quantiles
from models.windows import ClosedSteps
from schemas.batch import EventBatch
from schemas.codec import frame
from schemas.contract import Contract
from schemas.fields import ContractField

Record = dict[str, Any]
Source = tuple[str, int, NDArray[np.int64]]


class RecordCodec:
    """Encodes whole records of one schema."""

    def __init__(self, schema: dict[str, Any], schema_id: int) -> None:
        self._parsed = fastavro.parse_schema(schema)
        self._frame = frame(schema_id)

    def encode(self, records: Iterable[Mapping[str, Any]]) -> list[bytes]:
        """One framed message a record."""
        messages = []
        for record in records:
            out = io.BytesIO()
            out.write(self._frame)
            fastavro.schemaless_writer(out, self._parsed, record)
            messages.append(out.getvalue())
        return messages


def event_records(batch: EventBatch, contract: Contract) -> Iterable[dict[str, Any]]:
    """The events as Avro records; NaN stands for null where the field is nullable."""
    columns: dict[str, list[Any]] = {
        contract.key.name: batch.keys.tolist(),
        contract.time.name: (batch.time * contract.time_units_per_ms).tolist(),
    }
    for column, field in enumerate(contract.reals):
        values = batch.reals[:, column]
        if field.avro in ("int", "long"):
            columns[field.name] = [None if np.isnan(v) else round(v) for v in values]
        elif field.nullable:
            columns[field.name] = np.where(np.isnan(values), np.array(None), values).tolist()
        else:
            columns[field.name] = values.tolist()
    for column, field in enumerate(contract.enums):
        symbols = (*field.symbols, None)  # -1 is null
        columns[field.name] = [symbols[code] for code in batch.enums[:, column].tolist()]
    for column, field in enumerate(contract.labels):
        columns[field.name] = batch.labels[:, column].tolist()
    names = tuple(columns)
    return (dict(zip(names, values, strict=True)) for values in zip(*columns.values(), strict=True))


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


def quantiles_of(contract: Contract, values: NDArray[np.float32], finite: NDArray[np.bool_]) -> Quantiles:
    """Forecasts of those values, with their breaches by ``models.breach``."""
    horizon, levels = contract.settings.horizon_steps, np.array(contract.settings.quantiles)
    breach = np.zeros(values.shape[:2], np.float32)
    step = np.full(values.shape[:2], horizon)
    for column, field in enumerate(contract.targets):
        above = field.breach_above is not None
        threshold = field.breach_above if above else field.breach_below
        if threshold is not None:
            chance = breach_probability(values[:, column], levels, threshold, above=above)
            breach[:, column] = chance.max(axis=1)
            step[:, column] = np.where((chance >= 0.5).any(axis=1), (chance >= 0.5).argmax(axis=1), horizon)
    return Quantiles(values, finite, breach, step)


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
