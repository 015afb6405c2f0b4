import copy
from collections.abc import Callable
from typing import Any

import pytest

from schemas.contract import Contract
from schemas.fingerprint import differences, fingerprint, other_differences
from tests import contracts
from tests.contracts import enum, field

SHIPPED = "3304cc30ef90a6e5f4fab0a8787540dfd8d8559ed660eac76f9a6a8b5802c911"
Change = Callable[[dict[str, Any]], object]


def the(schema: dict[str, Any], name: str) -> dict[str, Any]:
    found: dict[str, Any] = next(f for f in schema["fields"] if f["name"] == name)
    return found


def changed(change: Change, **settings: Any) -> tuple[Contract, Contract]:
    """The rich contract before and after a change of its schema."""
    schema = contracts.schema(*contracts.RICH_FIELDS, **settings)
    after = copy.deepcopy(schema)
    change(after)
    return Contract(schema), Contract(after)


def annotate(name: str, **attributes: Any) -> Change:
    return lambda schema: the(schema, name)["fleetcast"].update(attributes)


def setting(**values: Any) -> Change:
    return lambda schema: schema["fleetcast"].update(values)


def symbols(name: str, *values: str) -> Change:
    return lambda schema: the(schema, name)["type"].update(symbols=list(values))


def add(raw: dict[str, Any]) -> Change:
    return lambda schema: schema["fields"].append(raw)


def drop(name: str) -> Change:
    return lambda schema: schema["fields"].remove(the(schema, name))


def test_of_the_shipped_contract() -> None:
    """The shipped contract's fingerprint is this: a change of it is a breaking change for every trained model."""
    assert fingerprint(Contract.load()) == SHIPPED


MODEL_CHANGES = {
    "step": (setting(step_seconds=60), ["step_seconds", "10", "60"]),
    "encoder": (setting(encoder_steps=7), ["encoder_steps", "6", "7"]),
    "min encoder": (setting(min_encoder_steps=4), ["min_encoder_steps", "3", "4"]),
    "horizon": (setting(horizon_steps=5), ["horizon_steps", "4", "5"]),
    "quantiles": (setting(quantiles=[0.1, 0.5, 0.9]), ["quantiles", "[0.1, 0.5, 0.9]"]),
    "known": (setting(known=["hour"]), ["known", "[]", "['hour']"]),
    "max gap": (setting(max_gap_steps=3), ["max_gap_steps", "2", "3"]),
    "symbol added": (symbols("state", "up", "down", "busy", "draining"), ["state", "3 ", "4: + 'draining'"]),
    "symbol removed": (symbols("zone", "z", "a"), ["zone", "3 ", "2: - 'm'"]),
    "symbol renamed": (symbols("state", "up", "off", "busy"), ["state", "+ 'off'", "- 'down'"]),
    "symbols' order": (symbols("state", "busy", "down", "up"), ["state", "order", "['busy', 'down', 'up']"]),
    "minimum": (annotate("load", minimum=1), ["load", "minimum", "0", "1"]),
    "maximum": (annotate("load", maximum=9), ["load", "maximum", "None", "9"]),
    "role": (annotate("queue", role="covariate"), ["queue", "role", "target", "covariate"]),
    "target gone": (drop("queue"), ["target 'queue'", "in the model but not in the contract"]),
    "covariate gone": (drop("requests"), ["covariate 'requests'", "not in the contract"]),
    "static added": (add(field("kind", enum("Kind", "a"), "static")), ["static 'kind'", "not in the model"]),
    "renamed": (lambda s: the(s, "load").update(name="load1"), ["'load'", "'load1'"]),
    "order": (lambda s: s["fields"].reverse(), ["order", "['load', 'queue'"]),
}


@pytest.mark.parametrize("name", MODEL_CHANGES)
def test_changes_that_need_another_model(name: str) -> None:
    """A change of the model part changes the fingerprint and is told in words, whichever side is the model's."""
    change, words = MODEL_CHANGES[name]
    before, after = changed(change)

    told = " | ".join(differences(before, after))
    assert [word for word in words if word not in told] == [], told
    assert differences(after, before)
    assert fingerprint(before) != fingerprint(after)


def test_the_words_of_the_design() -> None:
    """An added status reads as the design says it."""
    before, after = changed(symbols("state", "up", "down", "busy", "draining"))

    assert differences(before, after) == [
        "state: model was trained with 3 symbols, contract has 4: + 'draining'",
    ]


OTHER_CHANGES = {
    "lateness": (setting(allowed_lateness_seconds=7), ["allowed_lateness_seconds", "5", "7"]),
    "ahead": (setting(max_ahead_seconds=7), ["max_ahead_seconds"]),
    "every": (setting(forecast_every_steps=2), ["forecast_every_steps"]),
    "unit": (annotate("load", unit="processes"), ["load", "unit"]),
    "threshold": (annotate("load", breach_above=4), ["load", "breach_above"]),
    "context added": (add({"name": "fans", "type": "int"}), ["context 'fans'", "new"]),
    "context gone": (drop("temperature"), ["context 'temperature'", "gone"]),
    "context changed": (lambda s: the(s, "temperature").update(type="double"), ["temperature", "avro", "nullable"]),
    "key renamed": (lambda s: the(s, "host").update(name="node"), ["node", "host"]),
    "type widened": (lambda s: the(s, "requests").update(type="double"), ["requests", "avro"]),
}


@pytest.mark.parametrize("name", OTHER_CHANGES)
def test_changes_that_a_model_survives(name: str) -> None:
    """Thresholds, lateness, units, context and the key's name may change: the fingerprint stands, and it is told."""
    change, words = OTHER_CHANGES[name]
    before, after = changed(change)

    told = " | ".join(other_differences(before, after))
    assert [word for word in words if word not in told] == [], told
    assert differences(before, after) == []
    assert fingerprint(before) == fingerprint(after)


def test_documentation_changes_nothing() -> None:
    """Docs, names and the order of attributes are no difference at all."""
    before, after = changed(lambda s: s.update(doc="Other words.", name="Renamed", namespace="elsewhere"))
    reordered = Contract(dict(reversed(list(before.schema.items()))))

    assert fingerprint(before) == fingerprint(after) == fingerprint(reordered)
    assert differences(before, after) == other_differences(before, after) == other_differences(before, reordered) == []


def test_written_defaults_are_no_difference() -> None:
    """A default that is written out, or 0 written as 0.0, is the same contract."""
    before, after = changed(
        lambda s: (
            s["fleetcast"].update(quantiles=[0.02, 0.1, 0.25, 0.5, 0.75, 0.9, 0.98], known=[]),
            the(s, "load")["fleetcast"].update(minimum=0.0),
        )
    )

    assert fingerprint(before) == fingerprint(after)


def test_season_counts_only_where_it_is_used() -> None:
    """The season's length is part of the model only with season_lag."""
    unused = changed(setting(season_steps=99))
    used = changed(setting(season_steps=99), known=["season_lag"])

    assert fingerprint(unused[0]) == fingerprint(unused[1])
    assert "season_steps" in " ".join(differences(*used))


def test_differences_are_empty_exactly_where_fingerprints_are_equal() -> None:
    """No contract differs in fingerprint without a difference in words, nor the other way round."""
    variants = [changed(change)[1] for change, _ in [*MODEL_CHANGES.values(), *OTHER_CHANGES.values()]]

    for a in variants:
        for b in variants:
            assert (fingerprint(a) == fingerprint(b)) == (differences(a, b) == [])
