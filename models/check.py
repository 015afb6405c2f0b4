"""What an artifact is, for people and for scripts: shapes and lineage."""

from typing import Any

from models.artifact import Model


def describe(model: Model) -> dict[str, Any]:
    """Plain JSON values."""
    settings = model.contract.settings
    return {
        "model_version": model.version,
        "contract": f"{model.contract.namespace}.{model.contract.name}",
        "contract_fingerprint": model.fingerprint,
        "step_seconds": settings.step_seconds,
        "encoder_steps": settings.encoder_steps,
        "min_encoder_steps": settings.min_encoder_steps,
        "horizon_steps": settings.horizon_steps,
        "quantiles": list(settings.quantiles),
        "targets": [f.name for f in model.contract.targets],
        "inputs": {"encoder": [*model.layout.categories, *model.layout.known, *model.layout.observed],
                   "decoder": model.layout.known, "static": [*model.layout.statics, *model.layout.static_reals]},
        "constant_inputs": list(model.scaling.constant),
        "vocabulary": model.layout.vocabulary,
        "unseen_symbols": model.config.unseen_symbols,
        "stages": list(model.config.stages),
        "parameters": sum(p.numel() for p in model.network.parameters()),
        "tensors": {name: list(t.shape) for name, t in model.network.state_dict().items()},
        "training": model.metadata,
    }  # fmt: skip


def render(described: dict[str, Any]) -> str:
    """The same as text; all tensors, since a shape that does not fit is what this is asked for."""
    training = described["training"]
    lines = [
        f"model        {described['model_version']}",
        f"contract     {described['contract']}  {described['contract_fingerprint']}",
        f"encoder      {described['encoder_steps']} steps of {described['step_seconds']} s",
        f"at least     {described['min_encoder_steps']} of them",
        f"horizon      {described['horizon_steps']} steps",
        f"targets      {', '.join(described['targets'])}",
        f"quantiles    {', '.join(f'{q:g}' for q in described['quantiles'])}",
        f"inputs       {', '.join(described['inputs']['encoder'])}",
        f"known        {', '.join(described['inputs']['decoder'])}",
        f"static       {', '.join(described['inputs']['static'])}",
        f"constant     {', '.join(described['constant_inputs']) or 'none'} (fed as 0)",
    ]
    for name, symbols in described["vocabulary"].items():
        unseen = described["unseen_symbols"].get(name, [])
        lines.append(f"{name:12} {len(symbols)} symbols; never seen in training: {', '.join(unseen) or 'none'}")
    lines += [
        f"stages       {' -> '.join(['network', *described['stages']])}",
        f"trained on   {training.get('events', '?')} events of {training.get('servers', '?')} servers",
        f"data         {training.get('data_sha256', '?')}",
        f"parameters   {described['parameters']}",
        "tensors",
        *(f"  {shape!s:12} {name}" for name, shape in described["tensors"].items()),
        "fits",
    ]
    return "\n".join(lines)
