import copy
import json
from pathlib import Path
from typing import Any

import pytest

from schemas.contract import Contract
from schemas.errors import ContractError, InputError
from tests import contracts
from tests.contracts import enum, field

LOAD = field("load", "double", "target")
KEY = field("host", "string", "key")
TIME = field("at", {"type": "long", "logicalType": "timestamp-millis"}, "time")


def record(*fields: Any, **settings: Any) -> dict[str, Any]:
    """A contract's schema with exactly these fields."""
    return {**contracts.schema(**settings), "fields": list(fields)}


def without(name: str) -> dict[str, Any]:
    schema = contracts.schema()
    del schema["fleetcast"][name]
    return schema


WRONG_SETTINGS = [
    (without("step_seconds"), ["step_seconds", "missing"]),
    (without("encoder_steps"), ["encoder_steps", "missing"]),
    (without("horizon_steps"), ["horizon_steps", "missing"]),
    (contracts.schema(step_seconds=0), ["step_seconds", "0"]),
    (contracts.schema(step_seconds="10"), ["step_seconds", "'10'"]),
    (contracts.schema(step_seconds=True), ["step_seconds", "True"]),
    (contracts.schema(step_seconds=2**31), ["step_seconds", "2147483648"]),
    (contracts.schema(encoder_steps=1, min_encoder_steps=1), ["encoder_steps", "1"]),
    (contracts.schema(encoder_steps=6.5), ["encoder_steps", "6.5"]),
    (contracts.schema(horizon_steps=0), ["horizon_steps", "0"]),
    (contracts.schema(horizon_steps=-1), ["horizon_steps", "-1"]),
    (contracts.schema(min_encoder_steps=0), ["min_encoder_steps", "0"]),
    (contracts.schema(min_encoder_steps=7), ["min_encoder_steps 7", "encoder_steps 6"]),
    (contracts.schema(quantiles=[0.5, 0.1]), ["quantiles", "[0.5, 0.1]"]),
    (contracts.schema(quantiles=[0.5, 0.5]), ["quantiles", "[0.5, 0.5]"]),
    (contracts.schema(quantiles=[0, 0.5]), ["quantiles", "[0.0, 0.5]"]),
    (contracts.schema(quantiles=[0.5, 1]), ["quantiles", "[0.5, 1.0]"]),
    (contracts.schema(quantiles=[]), ["quantiles", "[]"]),
    (contracts.schema(quantiles=["0.5"]), ["quantiles", "'0.5'"]),
    (contracts.schema(known=["hours"]), ["known", "'hours'"]),
    (contracts.schema(known=["hour", "hour"]), ["known", "hour"]),
    (contracts.schema(known=["season_lag"], season_steps=3), ["season_lag", "horizon_steps (4)", "season_steps (3)"]),
    (contracts.schema(season_steps=0), ["season_steps", "0"]),
    (contracts.schema(allowed_lateness_seconds=-1), ["allowed_lateness_seconds", "-1"]),
    (contracts.schema(allowed_lateness_seconds=float("inf")), ["allowed_lateness_seconds", "inf"]),
    (contracts.schema(max_ahead_seconds=float("nan")), ["max_ahead_seconds", "nan"]),
    (contracts.schema(max_gap_steps=-1), ["max_gap_steps", "-1"]),
    (contracts.schema(forecast_every_steps=0), ["forecast_every_steps", "0"]),
    (contracts.schema(horizont_steps=4), ["horizont_steps", "4"]),
]
WRONG_FIELDS = [
    (record(TIME, LOAD), ["'key'"]),
    (record(KEY, LOAD), ["'time'"]),
    (record(KEY, TIME), ["'target'"]),
    (record(KEY, field("id", "string", "key"), TIME, LOAD), ["'key'", "host", "id"]),
    (record(KEY, TIME, {**TIME, "name": "then"}, LOAD), ["'time'", "at", "then"]),
    (record(field("host", "long", "key"), TIME, LOAD), ["'host'", "key", "string", "long"]),
    (record(field("host", ["null", "string"], "key"), TIME, LOAD), ["'host'", "null or string"]),
    (record(KEY, field("at", "long", "time"), LOAD), ["'at'", "time", "long"]),
    (record(KEY, {**TIME, "type": ["null", TIME["type"]]}, LOAD), ["'at'", "null or timestamp-millis"]),
    (record(KEY, {**TIME, "type": {"type": "long", "logicalType": "time-micros"}}, LOAD), ["'at'", "time-micros"]),
    (contracts.schema(field("load", "string", "target")), ["'load'", "target", "number", "string"]),
    (contracts.schema(field("load", "boolean", "target")), ["'load'", "boolean"]),
    (contracts.schema(field("load", enum("E", "a"), "target")), ["'load'", "target", "E"]),
    (contracts.schema(field("load", TIME["type"], "target")), ["'load'", "timestamp-millis"]),
    (contracts.schema(LOAD, field("n", "string", "covariate")), ["'n'", "covariate", "string"]),
    (contracts.schema(LOAD, field("state", "string", "category")), ["'state'", "enum", "string"]),
    (contracts.schema(LOAD, field("zone", ["null", enum("Z", "a")], "static")), ["'zone'", "null or Z"]),
    (contracts.schema(LOAD, field("x", "bytes", "context")), ["'x'", "bytes"]),
    (contracts.schema(LOAD, field("x", {"type": "array", "items": "int"}, "context")), ["'x'", "array"]),
    (contracts.schema(LOAD, field("x", ["null", "int", "string"], "context")), ["'x'", "null or int or string"]),
    (contracts.schema(LOAD, field("x", ["int"], "context")), ["'x'", "int"]),
    (contracts.schema(LOAD, field("x", "Nowhere", "context")), ["'x'", "Nowhere"]),
    (contracts.schema(LOAD, {"name": "x"}), ["'x'", "None"]),
    (contracts.schema(LOAD, {"name": "cpu percent", "type": "double"}), ["cpu percent"]),
    (contracts.schema(LOAD, {"type": "double"}), ["double"]),
    (contracts.schema(LOAD, "load"), ["load"]),
    (contracts.schema(LOAD, LOAD), ["'load'", "twice"]),
    (contracts.schema(field("load", "double", "targte")), ["'load'", "role", "targte"]),
    (contracts.schema({"name": "load", "type": "double", "fleetcast": "target"}), ["'load'", "'target'"]),
    (contracts.schema({"name": "load", "type": "double", "fleetcast": {}}), ["'load'", "role"]),
    (contracts.schema(field("load", "double", "target", minimun=0)), ["'load'", "minimun"]),
    (contracts.schema(field("load", "double", "target", minimum="0")), ["'load'", "minimum", "'0'"]),
    (contracts.schema(field("load", "double", "target", maximum=float("nan"))), ["'load'", "maximum", "nan"]),
    (contracts.schema(field("load", "double", "target", minimum=5, maximum=5)), ["'load'", "minimum 5", "maximum 5"]),
    (contracts.schema(field("load", "double", "target", breach_above=5, breach_below=1)), ["'load'", "breach_above"]),
    (contracts.schema(LOAD, field("n", "double", "covariate", breach_above=5)), ["'n'", "covariate", "breach"]),
    (contracts.schema(LOAD, field("s", enum("S", "a"), "category", minimum=0)), ["'s'", "bounds"]),
    (contracts.schema(LOAD, field("s", enum("S"), "category")), ["'s'", "symbols"]),
    (contracts.schema(LOAD, field("s", enum("S", "a", "a"), "category")), ["'s'", "a"]),
    (contracts.schema(LOAD, field("s", enum("S", "a-b"), "category")), ["'s'", "a-b"]),
    (contracts.schema(LOAD, field("s", {"type": "enum", "name": "S", "symbols": "ab"}, "category")), ["'s'", "ab"]),
    (contracts.schema(LOAD, field("s", {"type": "enum", "name": "S", "symbols": 5}, "category")), ["'s'", "5"]),
    (contracts.schema(LOAD, field("a", enum("S", "x"), "category"), field("b", enum("S", "y"), "category")), ["S"]),
    (contracts.schema(LOAD, {"name": "n", "type": "int", "default": "many"}), ["many", "int"]),
    ({**contracts.schema(), "name": "9lives"}, ["9lives"]),
    ({k: v for k, v in contracts.schema().items() if k != "name"}, ["name"]),
    ({k: v for k, v in contracts.schema().items() if k != "fleetcast"}, ["fleetcast"]),
    ({**contracts.schema(), "fields": {}}, ["fields"]),
    ({"type": "enum", "name": "E", "symbols": ["a"]}, ["record"]),
    ([], ["record"]),
]


@pytest.mark.parametrize(("schema", "named"), [*WRONG_SETTINGS, *WRONG_FIELDS])
def test_what_makes_no_sense_is_named(schema: Any, named: list[str]) -> None:
    """A contract that makes no sense is refused, and the message names the field or attribute and its value."""
    with pytest.raises(ContractError) as caught:
        Contract(schema)

    assert [part for part in named if part not in str(caught.value)] == [], str(caught.value)
    assert caught.value.exit_code == 2


@pytest.mark.parametrize("text", ["", "{", "1" * 5000, "[" * 100_000, "null", '"record"', "[1]"])
def test_text_that_is_no_contract(text: str) -> None:
    """Text that is not JSON, or JSON that is no record, is one ContractError with the file's name."""
    with pytest.raises(ContractError, match=r"^mine\.avsc"):
        Contract.parse(text, source="mine.avsc")


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    """A missing file, a folder and bytes that are no text are errors that name the path."""
    binary = tmp_path / "binary.avsc"
    binary.write_bytes(b"\xff\xfe")
    for path in (tmp_path / "none.avsc", tmp_path, binary):
        with pytest.raises(InputError, match=path.name):
            Contract.load(path)


@pytest.mark.parametrize("name", ["step_start", "step_seconds", "count", "held", "held_fields", "contract_fingerprint"])
def test_reserved_names(name: str) -> None:
    """A metric with the name of a step's own field is refused; as the key's name it is nobody's business."""
    with pytest.raises(ContractError, match=f"'{name}'"):
        Contract(contracts.schema(LOAD, field(name, "double", "covariate")))

    assert Contract(contracts.schema(key=name)).key.name == name


def test_defaults() -> None:
    """Only step, encoder and horizon must be given; the rest has the documented defaults."""
    bare = {**contracts.schema(), "fleetcast": {"step_seconds": 300, "encoder_steps": 9, "horizon_steps": 2}}
    settings = Contract(bare).settings

    assert settings.model_dump() == {
        "step_seconds": 300,
        "encoder_steps": 9,
        "horizon_steps": 2,
        "min_encoder_steps": 4,
        "quantiles": (0.02, 0.1, 0.25, 0.5, 0.75, 0.9, 0.98),
        "known": (),
        "season_steps": 288,
        "allowed_lateness_seconds": 60,
        "max_ahead_seconds": 300,
        "max_gap_steps": 12,
        "forecast_every_steps": 1,
    }


def test_the_shipped_contract() -> None:
    """The default contract is the one that the design describes."""
    contract = Contract.load()

    assert (contract.key.name, contract.time.name, contract.time_units_per_ms) == ("server_id", "timestamp", 1)
    assert [f.name for f in contract.targets] == ["cpu_percent", "memory_percent", "disk_percent", "load_average"]
    assert [(f.minimum, f.maximum) for f in contract.targets] == [(0, 100)] * 3 + [(0, None)]
    assert [f.name for f in contract.categories] == ["status"]
    assert (contract.covariates, contract.statics, contract.labels) == ((), (), ())
    assert [f.name for f in contract.enums] == ["status", "profile"]
    assert [(len(f.symbols), f.role) for f in contract.enums] == [(8, "category"), (7, "context")]
    assert [f.nullable for f in contract.reals] == [False] * 4 + [True] * 6
    assert contract.settings.known == ("hour", "day_of_week", "month", "is_weekend")
    assert (contract.step_ms, contract.namespace, contract.name) == (300_000, "fleetcast.v1", "MetricEvent")


def test_columns_follow_roles_then_the_schemas_order() -> None:
    """Reals are targets, covariates, numeric context; enums are categories, statics, enum context; the rest labels."""
    shuffled = (
        {"name": "note", "type": ["null", "string"]},
        {"name": "grade", "type": ["null", enum("Grade", "b", "a")]},
        field("zone", enum("Zone", "z", "a"), "static"),
        {"name": "heat", "type": "float"},
        field("requests", "long", "covariate"),
        field("state", enum("State", "up", "down"), "category"),
        {"name": "ok", "type": "boolean"},
        field("load", "double", "target"),
        field("queue", ["int", "null"], "target"),
    )
    contract = Contract(contracts.schema(*shuffled))

    assert [f.name for f in contract.reals] == ["load", "queue", "requests", "heat"]
    assert [f.name for f in contract.inputs] == ["load", "queue", "requests"]
    assert [f.name for f in contract.enums] == ["state", "zone", "grade"]
    assert [f.name for f in contract.labels] == ["note", "ok"]
    assert [f.name for f in contract.fields if f.nullable] == ["note", "grade", "queue"]
    assert contract.enums[2].symbols == ("b", "a")


def test_fields_without_annotation_are_context() -> None:
    """A field that says nothing of a role is carried, and is no input."""
    contract = Contract(contracts.schema(LOAD, {"name": "heat", "type": ["null", "float"], "default": None}))

    heat = contract.reals[1]
    assert (heat.role, heat.nullable, heat.avro, heat in contract.inputs) == ("context", True, "float", False)


def test_micros() -> None:
    """Event time may be in microseconds."""
    micros = field("at", {"type": "long", "logicalType": "timestamp-micros"}, "time")

    assert Contract(record(KEY, micros, LOAD)).time_units_per_ms == 1000


@pytest.mark.parametrize("reference", ["State", "test.State"])
def test_an_enum_may_be_used_again_by_name(reference: str) -> None:
    """A second field may refer to an enum by its name, with or without the namespace, also as nullable."""
    contract = Contract(
        contracts.schema(
            LOAD,
            field("state", enum("State", "up", "down"), "category"),
            field("before", reference, "category"),
            {"name": "wanted", "type": ["null", reference]},
        )
    )

    assert [f.symbols for f in contract.enums] == [("up", "down")] * 3
    assert contract.enums[2].nullable


def test_enum_of_another_namespace_is_another_enum() -> None:
    """Two enums may share a short name if their namespaces differ, and each field gets its own."""
    other = {**enum("State", "x"), "namespace": "other"}
    fields = (field("a", enum("State", "up"), "category"), field("b", other, "category"))
    contract = Contract(contracts.schema(LOAD, *fields, field("c", "other.State", "category")))

    assert [f.symbols for f in contract.categories] == [("up",), ("x",), ("x",)]


def test_a_dotted_record_name_carries_its_namespace() -> None:
    """A full name as the record's name gives the namespace, as Avro says."""
    schema = {**contracts.schema(), "name": "other.v2.Sample"}

    assert (Contract(schema).namespace, Contract(schema).name) == ("other.v2", "Sample")


def test_reading_leaves_the_schema_alone() -> None:
    """The schema that will be registered is the one that was written, annotations included."""
    schema = contracts.schema(*contracts.RICH_FIELDS)
    before = copy.deepcopy(schema)

    assert Contract(schema).schema == before
    assert Contract.parse(json.dumps(schema)).schema == before
