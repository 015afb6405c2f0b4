"""Small contracts for tests, written as a user would write them."""

from typing import Any

from schemas.contract import Contract


def field(name: str, avro: Any, role: str, **annotation: Any) -> dict[str, Any]:
    return {"name": name, "type": avro, "fleetcast": {"role": role, **annotation}}


def enum(name: str, *symbols: str) -> dict[str, Any]:
    return {"type": "enum", "name": name, "symbols": list(symbols)}


def schema(*extra: dict[str, Any], key: str = "host", **settings: Any) -> dict[str, Any]:
    """A contract of one key, one time and the fields given; small windows unless said otherwise."""
    defaults = {
        "step_seconds": 10,
        "encoder_steps": 6,
        "min_encoder_steps": 3,
        "horizon_steps": 4,
        "allowed_lateness_seconds": 5,
        "max_ahead_seconds": 20,
        "max_gap_steps": 2,
    }
    fields = extra or (field("load", "double", "target"),)
    return {
        "type": "record",
        "name": "Sample",
        "namespace": "test",
        "fleetcast": {**defaults, **settings},
        "fields": [
            field(key, "string", "key"),
            field("at", {"type": "long", "logicalType": "timestamp-millis"}, "time"),
            *fields,
        ],
    }


RICH_FIELDS = (
    field("load", "double", "target", minimum=0),
    field("queue", ["null", "double"], "target"),
    field("requests", "long", "covariate"),
    field("state", enum("State", "up", "down", "busy"), "category"),
    field("zone", enum("Zone", "z", "a", "m"), "static"),
    field("temperature", ["null", "float"], "context"),
    field("note", ["null", "string"], "context"),
)


def rich(**settings: Any) -> Contract:
    """A contract that has every role, nullable inputs, and enums that are not in alphabetical order."""
    return Contract(schema(*RICH_FIELDS, **settings))
