"""MODEL_CARD.md: what a model is, what it was trained on, how good it is, and where it ends (Mitchell et al., 2019)."""

from collections.abc import Iterable, Sequence
from typing import Any

from models.artifact import Trained
from models.evaluate import TABLE_HEAD, Evaluation, summary, table
from schemas.contract import Contract
from schemas.fields import ContractField
from schemas.fingerprint import fingerprint


def model_card(version: str, trained: Trained, evaluation: Evaluation | None) -> str:
    """The card as markdown.

    Args:
        version: the artifact's name.
        trained: network, scalers and ``metadata`` as ``models.train.train`` gives them.
        evaluation: on windows that were not trained on; None says that there was none.
    """
    contract = trained.layout.contract
    sections = (
        [f"# {version}", _what(contract)],
        ["## Data", _data(trained.metadata)],
        ["## Contract", _contract(contract)],
        ["## Training", _training(trained)],
        ["## Losses", _losses(trained.metadata)],
        ["## Skill", _skill(evaluation)],
        ["## Not in the training data", _missing(trained)],
        ["## Limits", _limits(contract, evaluation)],
    )
    return "\n\n".join(part for section in sections for part in section) + "\n"


def _what(contract: Contract) -> str:
    settings = contract.settings
    return (
        "A Temporal Fusion Transformer (Lim et al., 2021; pytorch-forecasting) that forecasts quantiles of "
        f"{_names(contract.targets)} of a server, {settings.horizon_steps} steps of {settings.step_seconds} s "
        f"({_duration(settings.horizon_steps * settings.step_seconds)}) ahead, from its last "
        f"{settings.min_encoder_steps} to {settings.encoder_steps} steps."
    )


def _data(metadata: dict[str, Any]) -> str:
    rows = [
        ("events", metadata.get("events")),
        ("servers", metadata.get("servers")),
        ("first event", metadata.get("first_event_at")),
        ("last event", metadata.get("last_event_at")),
        ("refused events", _counts(metadata.get("refused_events"))),
        ("training windows", metadata.get("train_windows")),
        ("validation windows", metadata.get("validation_windows")),
        ("validation begins", metadata.get("first_validation_at")),
        ("SHA-256", metadata.get("data_sha256")),
    ]
    return _table(("", "value"), [(name, _text(value)) for name, value in rows])


def _contract(contract: Contract) -> str:
    settings = contract.settings
    lines = [
        f"Record `{contract.name}`, fingerprint of the model part `{fingerprint(contract)}`.",
        "",
        f"- quantiles: {', '.join(f'{level:g}' for level in settings.quantiles)}",
        f"- known inputs: {', '.join(f'`{name}`' for name in settings.known) or 'none'}",
        f"- covariates: {_names(contract.covariates)}",
        f"- categories: {_names(contract.categories)}; statics: {_names(contract.statics)}",
        f"- gaps of at most {settings.max_gap_steps} steps are held; a longer one begins a new window",
        "",
        _table(("target", "unit", "minimum", "maximum"), [_bounds(f) for f in contract.targets]),
    ]
    return "\n".join(lines)


def _bounds(field: ContractField) -> tuple[str, ...]:
    return f"`{field.name}`", field.unit or "-", _text(field.minimum), _text(field.maximum)


def _training(trained: Trained) -> str:
    options = dict(trained.metadata.get("options", {}))
    options.pop("size", None)
    rows = [*trained.size.model_dump().items(), *options.items()]
    parameters = sum(p.numel() for p in trained.network.parameters())
    versions = trained.metadata.get("versions", {})
    text = [
        f"{parameters:,} parameters. {_text(trained.metadata.get('seconds'))} s in all, "
        f"{_text(trained.metadata.get('windows_per_second'))} windows/s. "
        + ", ".join(f"{name} {number}" for name, number in versions.items()),
        "",
        _table(("option", "value"), [(f"`{name}`", _text(value)) for name, value in rows]),
    ]
    return "\n".join(text)


def _losses(metadata: dict[str, Any]) -> str:
    losses = metadata.get("losses", [])
    if not losses:
        return "Not recorded."
    scores = [entry.get("validation", entry["train"]) for entry in losses]
    best = scores.index(min(scores))
    rows = [
        (str(i + 1), _loss(entry["train"]), _loss(entry.get("validation")), "kept" if i == best else "")
        for i, entry in enumerate(losses)
    ]
    intro = "Pinball loss in normalised units, near steps weighted; the weights of the best epoch are kept."
    return f"{intro}\n\n" + _table(("epoch", "training", "validation", ""), rows)


def _skill(evaluation: Evaluation | None) -> str:
    if evaluation is None:
        return "Not measured."
    return (
        f"{summary(evaluation)}. Horizons in steps; errors in the target's unit, mean over observed steps; skill "
        "against the better of persistence and seasonal-naive; coverage of the interval from quantile 0.1 to 0.9.\n\n"
    ) + _table(TABLE_HEAD, table(evaluation))


def _missing(trained: Trained) -> str:
    lines = [
        f"- symbols of `{name}` never seen, embedded as the mean of those that were: "
        + ", ".join(f"`{symbol}`" for symbol in symbols)
        for name, symbols in trained.unseen.items()
    ]
    if trained.scaling.constant:
        lines.append("- inputs that never changed, fed as 0: " + ", ".join(f"`{n}`" for n in trained.scaling.constant))
    return "\n".join(lines) or "Every symbol was seen, and every input varied."


def _limits(contract: Contract, evaluation: Evaluation | None) -> str:
    settings = contract.settings
    past, season = (
        _duration(steps * settings.step_seconds) for steps in (settings.encoder_steps, settings.season_steps)
    )
    lines = [
        f"- It sees at most {past} of a server's past, and nothing of other servers.",
        "- A server is only a key: one that training never saw is forecast from its own window.",
        "- Quantiles are per step; they say nothing of how steps or targets move together.",
        f"- Seasonal-naive repeats the value {season} earlier, or the last value where that was not seen.",
    ]
    if evaluation is not None:
        lines.append(
            "- The best epoch was chosen by its loss on the validation part. Where the skill above is measured there, "
            "expect a little less on later data."
        )
        lines += _lost(evaluation)
    return "\n".join(lines)


def _lost(evaluation: Evaluation) -> Iterable[str]:
    """Where a baseline is better than the model, a line per target and figure."""
    for target, horizons in evaluation.targets.items():
        for figure in ("mae", "pinball"):
            lost = []
            for horizon, scores in horizons.items():
                model, *baselines = (getattr(score, figure) for score in scores.values())
                if model is not None and model > min(baselines):
                    lost.append(horizon)
            if lost:
                yield f"- {figure} of `{target}` is worse than the better baseline's at horizon {', '.join(lost)}."


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)


def _names(fields: Sequence[ContractField]) -> str:
    return ", ".join(f"`{field.name}`" for field in fields) or "none"


def _counts(counts: dict[str, int] | None) -> str | None:
    return None if counts is None else ", ".join(f"{n} ({stage})" for stage, n in counts.items()) or "none"


def _loss(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"


def _text(value: object) -> str:
    if value is None:
        return "-"
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)


def _duration(seconds: int) -> str:
    for unit, length in (("h", 3_600), ("min", 60)):
        if seconds >= length and seconds % length == 0:
            return f"{seconds // length} {unit}"
    return f"{seconds} s"
