"""MODEL_CARD.md: what a model is, what it was trained on, how good it is, and where it ends (Mitchell et al., 2019)."""

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from typing import Any

from models.artifact import Trained
from models.episodes import best
from models.foresight import PUBLISHED, Breaches
from models.report import (
    BREACHES_HEAD,
    GROUPS_HEAD,
    SCALED_HEAD,
    TABLE_HEAD,
    breaches_table,
    groups_table,
    scaled_table,
    summary,
    table,
)
from models.scores import BOOSTING, MODEL, PERSISTENCE, SEASONAL_NAIVE, Evaluation, Example, Score, iso
from schemas.contract import Contract
from schemas.fields import ContractField
from schemas.fingerprint import fingerprint

_LEAST, _MOST = 0.78, 0.82  # an 80 % interval that covers less or more is told of
_PICTURES = {
    "fan_charts.png": "The best, a typical and the worst forecast of each target, beside what came",
    "reliability.png": "Share of truths at or below each quantile, beside the quantile's level",
    "skill_by_horizon.png": "Skill and coverage of the 80 % interval by time ahead",
}


def model_card(
    version: str,
    trained: Trained,
    evaluation: Evaluation | None,
    plots: Collection[str] = (),
    others: Mapping[str, Evaluation] | None = None,
) -> str:
    """The card as markdown.

    Args:
        version: the artifact's name.
        trained: network, scalers and ``metadata`` as ``models.train.train`` gives them.
        evaluation: on windows that were not trained on; None says that there was none.
        plots: names of the pictures that lie beside the card, of those that ``models.plots`` makes.
        others: more evaluations, by what they are on.
    """
    contract = trained.layout.contract
    sections = [
        [f"# {version}", _what(contract)],
        ["## Data", _data(trained.metadata)],
        ["## Contract", _contract(contract)],
        ["## Training", _training(trained)],
        ["## Losses", _losses(trained.metadata)],
        ["## Skill", *_skill(evaluation), *_picture("skill_by_horizon.png", plots)],
        *(["## Skill on " + title, *_skill(other)] for title, other in (others or {}).items()),
        ["## Calibration", *_calibration(trained.metadata), *_picture("reliability.png", plots)],
        ["## Forecasts to look at", *_picture("fan_charts.png", plots)],
        ["## Where it fails", *_fails(contract, evaluation), *_fails_elsewhere(others or {})],
        ["## Not in the training data", _missing(trained)],
        ["## Limits", _limits(contract, trained.metadata, evaluation)],
    ]
    return "\n\n".join(part for section in sections if len(section) > 1 for part in section) + "\n"


def _picture(name: str, plots: Collection[str]) -> list[str]:
    return [f"![{_PICTURES[name]}]({name})", f"{_PICTURES[name]}."] if name in plots else []


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
        ("of them held out wholly", len(metadata.get("held_out_servers", []))),
        ("first event", metadata.get("first_event_at")),
        ("last event", metadata.get("last_event_at")),
        ("refused events", _counts(metadata.get("refused_events"))),
        ("training windows", metadata.get("train_windows")),
        ("validation windows", metadata.get("validation_windows")),
        ("validation begins", metadata.get("first_validation_at")),
        ("windows of the refit on all rows", metadata.get("refit_windows")),
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
    versions, before = trained.metadata.get("versions", {}), trained.metadata.get("started_from")
    text = [
        f"{parameters:,} parameters. {_text(trained.metadata.get('seconds'))} s in all, "
        f"{_text(trained.metadata.get('windows_per_second'))} windows/s. "
        + (f"It began with the weights of {before}. " if before else "")
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
    lowest = scores.index(min(scores))
    rows = [
        (str(i + 1), _loss(entry["train"]), _loss(entry.get("validation")), "kept" if i == lowest else "")
        for i, entry in enumerate(losses)
    ]
    kept = "the best epoch's weights are kept"
    if "refit_windows" in metadata:
        kept = f"then the weights were fitted anew on all rows, for {_text(metadata.get('epochs'))} epochs"
    return f"Pinball loss in normalised units, near steps weighted; {kept}.\n\n" + _table(
        ("epoch", "training", "validation", ""), rows
    )


def _skill(evaluation: Evaluation | None) -> Iterator[str]:
    if evaluation is None:
        yield "Not measured."
        return
    yield (
        f"{summary(evaluation)}. Horizons in steps; errors in the target's unit, mean over observed steps; skill "
        "against the better of persistence and seasonal-naive; coverage of the interval from quantile 0.1 to 0.9."
    )
    yield _table(TABLE_HEAD, table(evaluation))
    if any(score.mase is not None for score in _all(evaluation, MODEL)) or any(_all(evaluation, BOOSTING)):
        yield "MASE: each error over its own server's mean seasonal difference. Boosting: gradient boosting."
        yield _table(SCALED_HEAD, scaled_table(evaluation))
    if len(evaluation.groups) > 1:
        counts = ", ".join(f"{g.servers} {name} ({g.windows} windows)" for name, g in evaluation.groups.items())
        yield f"Servers that training saw, and others, pinball loss over all steps: {counts}."
        yield _table(GROUPS_HEAD, groups_table(evaluation))
    if evaluation.breaches is not None:
        yield from _breaches(evaluation.breaches)


def _all(evaluation: Evaluation, who: str) -> Iterator[Score]:
    for horizons in evaluation.targets.values():
        yield from (scores[who] for scores in horizons.values() if who in scores)


def _breaches(breaches: Breaches) -> Iterator[str]:
    yield (
        f"Breaches foreseen at least 3 steps ahead, alarm at a probability of {PUBLISHED:g}, on {breaches.windows:,} "
        f"windows ({_percent(breaches.share)} % of all) of {breaches.servers} servers; warning: median time before."
    )
    yield _table(BREACHES_HEAD, breaches_table(breaches))
    for curve, whose in (
        (breaches.total, "an alarm"),
        (breaches.confirmed, "an alarm that the forecast before confirms"),
    ):
        if (chosen := best(curve)) is None:
            yield f"With {whose} a precision of 80 % is reached at no probability."
        else:
            yield (
                f"Best recall at a precision of 80 % or more, with {whose}: {_percent(curve[chosen].recall)} %, from a "
                f"probability of {chosen:g}."
            )
    if breaches.kinds:
        rows = [
            (kind, str(f.judged), str(f.foreseen), _percent(f.recall), _rounded(f.warning_minutes))
            for kind, f in breaches.kinds.items()
        ]
        yield _table(("incident", "judged", "foreseen", "recall %", "warning min"), rows)


def _calibration(metadata: Mapping[str, Any]) -> Iterator[str]:
    """Conformal offsets as the metadata tell of them: plain values as a list, tables of them as a table."""
    found = metadata.get("calibration")
    if not isinstance(found, dict) or not found:
        return
    yield "Conformal offsets (Romano et al., 2019) are added to the quantiles after the network, as a stage of its own."
    plain = {name: value for name, value in found.items() if not isinstance(value, dict | list)}
    if plain:
        yield "\n".join(f"- {name.replace('_', ' ')}: {_rounded(value)}" for name, value in plain.items())
    for name, value in found.items():
        if isinstance(value, dict) and value:
            yield _nested(name, value)


def _nested(name: str, values: Mapping[str, Any]) -> str:
    """A row a key; columns are the keys below, where there are such."""
    rows = {key: value if isinstance(value, dict) else {"value": value} for key, value in values.items()}
    columns = list(dict.fromkeys(column for row in rows.values() for column in row))
    head = (name.replace("_", " "), *(column.replace("_", " ") for column in columns))
    return _table(head, [(key, *(_rounded(row.get(column)) for column in columns)) for key, row in rows.items()])


def _fails(contract: Contract, evaluation: Evaluation | None) -> Iterator[str]:
    if evaluation is None:
        return
    lines = [*_lost(evaluation), *_uncovered(evaluation)]
    yield "\n".join(lines) or (
        "At none of these horizons is a baseline better, and every 80 % interval covers 78 to 82 %. Single forecasts "
        "fail all the same."
    )
    worst = [example for example in evaluation.examples if example.kind == "worst"]
    if worst:
        yield "The worst forecasts for how much the server moves:"
        yield _table(("target", "server", "issued at", "pinball", "unit"), [_example(contract, e) for e in worst])


def _fails_elsewhere(others: Mapping[str, Evaluation]) -> Iterator[str]:
    for title, other in others.items():
        if lines := [*_lost(other), *_uncovered(other)]:
            yield f"On {title}:"
            yield "\n".join(lines)


def _example(contract: Contract, example: Example) -> tuple[str, ...]:
    unit = next((f.unit for f in contract.targets if f.name == example.target), "")
    return f"`{example.target}`", _code(example.server), iso(example.issued_at), _rounded(example.pinball), unit or "-"


def _lost(evaluation: Evaluation) -> Iterator[str]:
    """Where a baseline is better than the model, a line per target and figure."""
    rivals = {"the better baseline's": (PERSISTENCE, SEASONAL_NAIVE), "gradient boosting's": (BOOSTING,)}
    for target, horizons in evaluation.targets.items():
        for figure in ("mae", "pinball"):
            for whose, names in rivals.items():
                lost = [h for h, scores in horizons.items() if _behind(scores, figure, names)]
                if lost:
                    yield f"- {figure} of `{target}` is worse than {whose} at horizon {', '.join(lost)}."


def _behind(scores: Mapping[str, Score], figure: str, rivals: Sequence[str]) -> bool:
    model = getattr(scores[MODEL], figure)
    others = [getattr(scores[name], figure) for name in rivals if name in scores]
    return model is not None and any(other is not None and other < model for other in others)


def _uncovered(evaluation: Evaluation) -> Iterator[str]:
    """Where the 80 % interval does not hold what it says, a line per target."""
    for target, horizons in evaluation.targets.items():
        shares = {horizon: scores[MODEL].coverage80 for horizon, scores in horizons.items()}
        off = [
            f"{_percent(share)} % at horizon {horizon}"
            for horizon, share in shares.items()
            if share is not None and not _LEAST <= share <= _MOST
        ]
        if off:
            yield f"- The 80 % interval of `{target}` covers {', '.join(off)}."


def _missing(trained: Trained) -> str:
    lines = [
        f"- symbols of `{name}` never seen, embedded as the mean of those that were: "
        + ", ".join(f"`{symbol}`" for symbol in symbols)
        for name, symbols in trained.unseen.items()
    ]
    if trained.scaling.constant:
        lines.append("- inputs that never changed, fed as 0: " + ", ".join(f"`{n}`" for n in trained.scaling.constant))
    return "\n".join(lines) or "Every symbol was seen, and every input varied."


def _limits(contract: Contract, metadata: Mapping[str, Any], evaluation: Evaluation | None) -> str:
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
        if "refit_windows" in metadata:
            lines.append(
                "- The weights that are kept saw that part too, after the number of epochs was chosen: skill there is "
                "that of the fit before."
            )
    return "\n".join(lines)


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(_cell(text) for text in line) + " |" for line in lines)


def _cell(text: str) -> str:
    """On one line, in one cell: a server may have any name."""
    return "".join(c if c.isprintable() else " " for c in text).replace("|", "\\|")


def _code(name: str) -> str:
    return "`" + (name.replace("`", "'") or " ") + "`"


def _names(fields: Sequence[ContractField]) -> str:
    return ", ".join(f"`{field.name}`" for field in fields) or "none"


def _counts(counts: dict[str, int] | None) -> str | None:
    return None if counts is None else ", ".join(f"{n} ({stage})" for stage, n in counts.items()) or "none"


def _percent(share: float | None) -> str:
    return "-" if share is None else f"{100 * share:.1f}"


def _rounded(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else _text(value)


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
