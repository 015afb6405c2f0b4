"""Steps that were published, read back as columns: what windows are restored from."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import fastavro
import numpy as np
from numpy.typing import NDArray

from models.windows import PublishedSteps
from schemas.batch import Ints
from schemas.codec import DecodeError, WriterSchemas, plain_schema, read_value, split
from schemas.contract import Contract
from schemas.records import step_schema

GROUP, SOURCE_OFFSET = "fleetcast.group", "fleetcast.source.offset"  # headers of each step


@dataclass(frozen=True, slots=True)
class Read:
    """What a slice of a steps' partition held.

    Attributes:
        steps: those of our contract. kept: [n] their positions in the slice. skipped: how many others there were.
    """

    steps: PublishedSteps
    kept: Ints
    skipped: int


class StepReader:
    """Decodes MetricStep messages of one contract, whatever version of their schema wrote them."""

    def __init__(self, contract: Contract, fingerprint: str, writers: WriterSchemas) -> None:
        """``fingerprint``: steps of another model part are not of these windows, and are passed over."""
        self._contract, self._fingerprint, self._writers = contract, fingerprint, writers
        self._reader = fastavro.parse_schema(plain_schema(step_schema(contract)))
        self._parsed: dict[int, Any] = {}
        self._positions = {f.name: i for i, f in enumerate(contract.inputs)}

    def read(self, values: Sequence[bytes | None]) -> Read:
        """Decode a slice; what cannot be read is counted and passed over: it was not written by this service.

        Raises:
            UnreachableError: a schema id is not cached and the registry does not answer.
        """
        rows, kept = [], []
        for position, value in enumerate(values):
            try:
                schema_id, body = split(value)
                row = read_value(body, self._writer(schema_id), self._reader)
            except DecodeError:
                continue
            if row["contract_fingerprint"] == self._fingerprint:
                rows.append(row)
                kept.append(position)
        return Read(self._columns(rows), np.array(kept, np.int64), len(values) - len(kept))

    def _writer(self, schema_id: int) -> Any:
        if schema_id not in self._parsed:
            schema = self._writers.writer_schema(schema_id)
            if schema is None:
                raise DecodeError(f"schema id {schema_id} is not registered")
            self._parsed[schema_id] = fastavro.parse_schema(plain_schema(schema))
        return self._parsed[schema_id]

    def _columns(self, rows: list[dict[str, Any]]) -> PublishedSteps:
        contract, n = self._contract, len(rows)
        reals = np.full((n, len(contract.reals)), np.nan)
        enums = np.full((n, len(contract.enums)), -1, np.int16)
        labels = np.full((n, len(contract.labels)), None, dtype=object)
        for column, field in enumerate(contract.reals):
            reals[:, column] = [row[field.name] for row in rows]  # None becomes NaN
        for column, field in enumerate(contract.enums):
            code: dict[str | None, int] = {symbol: i for i, symbol in enumerate(field.symbols)}
            code[None] = -1
            enums[:, column] = [code[row[field.name]] for row in rows]
        for column, field in enumerate(contract.labels):
            labels[:, column] = [row[field.name] for row in rows]
        keys = np.empty(n, object)
        keys[:] = [row["server_id"] for row in rows]
        return PublishedSteps(
            keys=keys,
            step=np.array([row["step_start"] for row in rows], np.int64) // contract.step_ms,
            held=np.array([row["held"] for row in rows], bool),
            held_inputs=self._held_inputs([row["held_fields"] for row in rows]),
            reals=reals,
            enums=enums,
            labels=labels,
        )

    def _held_inputs(self, names: list[list[str]]) -> NDArray[np.bool_]:
        held = np.zeros((len(names), len(self._positions)), bool)
        for row, some in enumerate(names):
            for name in some:
                held[row, self._positions[name]] = True
        return held
