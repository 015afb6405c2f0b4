"""The model part of a contract: what a trained model depends on, its fingerprint, and differences in words."""

import hashlib
import json
from typing import Any

from schemas.contract import Contract
from schemas.fields import ContractField

_SETTINGS = (
    "step_seconds",
    "encoder_steps",
    "min_encoder_steps",
    "horizon_steps",
    "quantiles",
    "known",
    "max_gap_steps",
)
_MODEL_ROLES = ("target", "covariate", "category", "static")


def model_part(contract: Contract) -> dict[str, Any]:
    """Everything of the contract that a model depends on, as plain JSON values.

    Thresholds, lateness, units in words and context fields are not part of it: they may change without retraining.
    """
    part: dict[str, Any] = {name: getattr(contract.settings, name) for name in _SETTINGS}
    part["quantiles"], part["known"] = list(part["quantiles"]), list(part["known"])
    if "season_lag" in contract.settings.known:
        part["season_steps"] = contract.settings.season_steps
    part["fields"] = [_field_part(f) for f in contract.fields if f.role in _MODEL_ROLES]
    return part


def _field_part(field: ContractField) -> dict[str, Any]:
    return {
        "name": field.name,
        "role": field.role,
        "minimum": field.minimum,
        "maximum": field.maximum,
        "symbols": list(field.symbols),
    }


def fingerprint(contract: Contract) -> str:
    """SHA-256 (hex) of the model part's sorted-key JSON. Avro's canonical form would drop our attributes."""
    text = json.dumps(model_part(contract), sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def differences(trained: Contract, given: Contract) -> list[str]:
    """What differs between the model parts of two contracts, in words; empty where a model fits both."""
    was, now = model_part(trained), model_part(given)
    found = [
        f"{name}: the model was trained with {was.get(name)}, the contract has {now.get(name)}"
        for name in sorted((was.keys() | now.keys()) - {"fields"})
        if was.get(name) != now.get(name)
    ]
    return found + _field_differences(was["fields"], now["fields"])


def _field_differences(was: list[dict[str, Any]], now: list[dict[str, Any]]) -> list[str]:
    old, new = {f["name"]: f for f in was}, {f["name"]: f for f in now}
    found = [f"{f['role']} {f['name']!r} is in the model but not in the contract" for f in was if f["name"] not in new]
    found += [f"{f['role']} {f['name']!r} is in the contract but not in the model" for f in now if f["name"] not in old]
    for name in [name for name in old if name in new]:
        found += _one_field(old[name], new[name])
    if not found and [f["name"] for f in was] != [f["name"] for f in now]:
        found.append(f"the fields' order: model {[f['name'] for f in was]}, contract {[f['name'] for f in now]}")
    return found


def _one_field(was: dict[str, Any], now: dict[str, Any]) -> list[str]:
    name = was["name"]
    found = [
        f"{name}: model was trained with {what} {was[what]}, contract has {now[what]}"
        for what in ("role", "minimum", "maximum")
        if was[what] != now[what]
    ]
    if was["symbols"] != now["symbols"]:
        added = [f"+ {s!r}" for s in now["symbols"] if s not in was["symbols"]]
        removed = [f"- {s!r}" for s in was["symbols"] if s not in now["symbols"]]
        detail = ", ".join(added + removed) or f"another order, {now['symbols']}"
        found.append(
            f"{name}: model was trained with {len(was['symbols'])} symbols, "
            f"contract has {len(now['symbols'])}: {detail}"
        )
    return found


def other_differences(trained: Contract, given: Contract) -> list[str]:
    """Differences outside the model part: told, and accepted."""
    if trained.schema == given.schema:
        return []
    was, now = trained.settings, given.settings
    found = [
        f"{name}: artifact {getattr(was, name)}, contract {getattr(now, name)}"
        for name in ("allowed_lateness_seconds", "max_ahead_seconds", "forecast_every_steps")
        if getattr(was, name) != getattr(now, name)
    ]
    old = {f.name: f for f in trained.fields}
    for field in given.fields:
        before = old.pop(field.name, None)
        if before is None:
            found.append(f"{field.role} {field.name!r} is new")
        elif before != field:
            changed = [k for k, v in field.model_dump().items() if getattr(before, k) != v]
            found.append(f"{field.name}: other {', '.join(changed)}")
    return found + [f"{field.role} {name!r} is gone" for name, field in old.items()]
