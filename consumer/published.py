"""Steps that were published, read back as columns: what windows are restored from."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import fastavro
import numpy as np

from models.windows import PublishedSteps
from schemas.batch import EventBatch, Ints
from schemas.batch_decoding import BatchDecoder, Decoded
from schemas.codec import DecodeError, Plans, WriterSchemas, plain_schema, read_value, split
from schemas.columns import Columns, Flag
from schemas.contract import Contract
from schemas.fields import ContractField
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
    """Decodes MetricStep messages of one contract, whatever version of their schema wrote them.

    By columns where that is plain, as events are; fastavro decides on the rest.
    """

    def __init__(self, contract: Contract, fingerprint: str, writers: WriterSchemas) -> None:
        """``fingerprint``: steps of another model part are not of these windows, and are passed over."""
        self._contract, self._fingerprint, self._writers = contract, fingerprint, writers
        self._reader = fastavro.parse_schema(plain_schema(step_schema(contract)))
        self._inputs = {f.name for f in contract.inputs}
        self._parsed: dict[int, Any] = {}
        self._columns = _columns(contract, fingerprint)
        plans = Plans(self._writer, self._reader, self._columns)
        self._decoder = BatchDecoder(self._columns, plans, self._decode_each)

    def read(self, values: Sequence[bytes | None]) -> Read:
        """Decode a slice; what cannot be read is counted and passed over: it was not written by this service.

        Raises:
            UnreachableError: a schema id is not cached and the registry does not answer.
        """
        batch, positions, _ = self._decoder.decode(values)
        kept = np.array(positions, np.int64)
        enums = len(self._contract.enums)
        ours = batch.enums[:, enums] == 1
        if not ours.all():
            batch, kept = batch.take(ours), kept[ours]
        steps = PublishedSteps(
            keys=batch.keys,
            step=batch.time // self._contract.step_ms,
            held=batch.enums[:, enums + 1] == 1,
            held_inputs=batch.enums[:, enums + 2 :] == 1,
            reals=batch.reals,
            enums=batch.enums[:, :enums],
            labels=batch.labels,
        )
        return Read(steps, kept, len(values) - len(kept))

    def _writer(self, schema_id: int) -> Any:
        if schema_id not in self._parsed:
            schema = self._writers.writer_schema(schema_id)
            if schema is None:
                raise DecodeError(f"schema id {schema_id} is not registered")
            self._parsed[schema_id] = fastavro.parse_schema(plain_schema(schema))
        return self._parsed[schema_id]

    def _decode_each(self, values: Sequence[bytes | None]) -> Decoded:
        """With fastavro alone."""
        rows, kept = [], []
        for position, value in enumerate(values):
            try:
                schema_id, body = split(value)
                row = read_value(body, self._writer(schema_id), self._reader)
            except DecodeError:
                continue
            if row["contract_fingerprint"] == self._fingerprint and self._inputs.issuperset(row["held_fields"]):
                rows.append(row)
                kept.append(position)
        return self._batch(rows), kept, []

    def _batch(self, rows: list[dict[str, Any]]) -> EventBatch:
        contract, batch = self._contract, self._columns.allocate(len(rows))
        if not rows:
            return batch
        batch.keys[:] = [row["server_id"] for row in rows]
        batch.time[:] = [row["step_start"] for row in rows]
        for column, field in enumerate(contract.reals):
            batch.reals[:, column] = [row[field.name] for row in rows]  # None becomes NaN
        for column, field in enumerate(contract.enums):
            code: dict[str | None, int] = {symbol: i for i, symbol in enumerate(field.symbols)}
            code[None] = -1
            batch.enums[:, column] = [code[row[field.name]] for row in rows]
        for column, field in enumerate(contract.labels):
            batch.labels[:, column] = [row[field.name] for row in rows]
        position = {f.name: len(contract.enums) + 2 + i for i, f in enumerate(contract.inputs)}
        batch.enums[:, len(contract.enums)] = 1
        batch.enums[:, len(contract.enums) + 1] = [row["held"] for row in rows]
        batch.enums[:, len(contract.enums) + 2 :] = 0
        for at, row in enumerate(rows):
            for name in row["held_fields"]:
                batch.enums[at, position[name]] = 1
        return batch


def _columns(contract: Contract, fingerprint: str) -> Columns:
    """Those of ``step_schema``; flags say whether a step is ours, whether it is held, and which inputs are."""
    return Columns(
        key=ContractField(name="server_id", role="key", avro="string"),
        time=ContractField(name="step_start", role="time", avro="long"),
        reals=contract.reals,
        enums=contract.enums,
        labels=contract.labels,
        flags=(
            Flag("contract_fingerprint", same=fingerprint),
            Flag("held"),
            Flag("held_fields", names=tuple(f.name for f in contract.inputs)),
        ),
        ignored=("step_seconds", "count"),
    )
