"""The records that go out: MetricStep, whose schema follows from the contract, and Forecast, the same for all."""

import json
from functools import cache
from pathlib import Path
from typing import Any

from schemas.contract import Contract
from schemas.fields import ContractField

_TIMESTAMP = {"type": "long", "logicalType": "timestamp-millis"}


@cache
def forecast_schema() -> dict[str, Any]:
    """The Avro schema of Forecast (``schemas/forecast.avsc``)."""
    text = Path(__file__).with_name("forecast.avsc").read_text(encoding="utf-8")
    schema: dict[str, Any] = json.loads(text)
    return schema


def step_schema(contract: Contract) -> dict[str, Any]:
    """The Avro schema of MetricStep under ``contract``.

    ``schemas/metric_step.avsc`` is this of the shipped contract, kept for readers; a test holds them equal.
    """
    head: list[dict[str, Any]] = [
        {"name": "server_id", "type": "string"},
        {"name": "step_start", "type": _TIMESTAMP},
        {"name": "step_seconds", "type": "int"},
        {"name": "count", "type": "int", "doc": "Events in the step; 0 where it was held over a gap."},
        {"name": "held", "type": "boolean", "doc": "No event: the values are the last ones."},
        {
            "name": "held_fields",
            "type": {"type": "array", "items": "string"},
            "doc": "Inputs whose value is carried over from the step before.",
        },
    ]
    values = [_value_field(f, contract) for f in (*contract.reals, *contract.enums, *contract.labels)]
    return {
        "type": "record",
        "name": "MetricStep",
        "namespace": contract.namespace,
        "doc": "One closed step of one server: means of the numbers, last symbol of the enums.",
        "fields": [*head, *values, {"name": "contract_fingerprint", "type": "string"}],
    }


def _value_field(field: ContractField, contract: Contract) -> dict[str, Any]:
    kind: Any = "double" if field.is_real else field.avro
    if field.is_enum:
        kind = {"type": "enum", "name": _enum_name(field, contract), "symbols": list(field.symbols)}
    if field.nullable:
        return {"name": field.name, "type": ["null", kind], "default": None}
    return {"name": field.name, "type": kind}


def _enum_name(field: ContractField, contract: Contract) -> str:
    """One name an enum field: two fields may share one enum, and Avro defines a name once."""
    return f"{contract.name}_{field.name}"
