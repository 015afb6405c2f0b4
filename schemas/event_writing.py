"""Events as columns to framed Avro messages of the contract's own schema."""

from typing import Any

from schemas.batch import EventBatch
from schemas.columnar_writing import FieldWriter, Part, integers, join
from schemas.contract import Contract


class EventWriter:
    """Writes the events of one contract."""

    def __init__(self, contract: Contract) -> None:
        """Of the contract's own schema, fields and branches in its order."""
        self._contract = contract
        branches = {raw["name"]: _branches(raw["type"]) for raw in contract.schema["fields"]}
        self._writers = {
            f.name: FieldWriter(f.name, f.avro, branches[f.name], len(f.symbols))
            for f in contract.fields
            if f.role != "time"
        }

    def write(self, batch: EventBatch, frame: bytes) -> list[bytes]:
        """One message an event, ``frame`` before its value.

        Raises:
            ValueError: a value is not one of its field's type; with the field's name and the value.
            TypeError: likewise.
        """
        contract = self._contract
        parts = {
            contract.key.name: self._writers[contract.key.name].part(batch.keys),
            contract.time.name: integers(batch.time * contract.time_units_per_ms),
        }
        for fields, values in (
            (contract.reals, batch.reals),
            (contract.enums, batch.enums),
            (contract.labels, batch.labels),
        ):
            for column, field in enumerate(fields):
                parts[field.name] = self._writers[field.name].part(values[:, column])
        message: list[Part] = [frame, *(parts[field.name] for field in contract.fields)]
        return join(message, len(batch))


def _branches(avro: Any) -> tuple[int, int] | None:
    """Positions of null and of the type in a nullable field's union."""
    if not isinstance(avro, list):
        return None
    null = avro.index("null")
    return null, 1 - null
