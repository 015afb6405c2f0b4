import copy
import json
from pathlib import Path

import fastavro
import pytest

import schemas.records
from schemas.contract import Contract
from schemas.records import forecast_schema, step_schema
from tests import contracts
from tests.contracts import enum, field


def test_the_step_schema_file_is_the_shipped_contracts() -> None:
    """metric_step.avsc, kept for readers, is exactly what the shipped contract gives."""
    file = Path(schemas.records.__file__).with_name("metric_step.avsc")

    assert json.loads(file.read_text()) == step_schema(Contract.load())


@pytest.mark.parametrize(
    "contract",
    [
        Contract.load(),
        contracts.rich(),
        Contract(
            contracts.schema(
                field("load", "long", "target"),
                field("a", enum("E", "x", "y"), "category"),
                field("b", "E", "static"),
                {"name": "c", "type": ["null", "test.E"]},
                {"name": "ok", "type": "boolean"},
            )
        ),
    ],
)
def test_steps_of_any_contract_are_valid_avro(contract: Contract) -> None:
    """The step's schema is valid for any contract: numbers are means, so doubles; a shared enum is no double name."""
    schema = step_schema(contract)
    fastavro.parse_schema(copy.deepcopy(schema))

    types = {f["name"]: f["type"] for f in schema["fields"]}
    for f in contract.reals:
        assert types[f.name] == (["null", "double"] if f.nullable else "double")
    for f in contract.enums:
        kind = types[f.name][1] if f.nullable else types[f.name]
        assert kind["symbols"] == list(f.symbols)
    assert (schema["name"], schema["namespace"]) == ("MetricStep", contract.namespace)


def test_forecasts_have_one_schema() -> None:
    """Forecast's schema is valid Avro and depends on no contract."""
    schema = forecast_schema()
    fastavro.parse_schema(copy.deepcopy(schema))

    assert [f["name"] for f in schema["fields"]] == [
        "server_id", "issued_at", "step_seconds", "horizon_steps", "model_version", "contract_fingerprint",
        "encoder_steps", "held_steps", "targets", "source",
    ]  # fmt: skip
