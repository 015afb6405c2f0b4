"""An evaluation as text: tables for people, and the lines of them that a model card takes."""

from collections.abc import Sequence

from models.episodes import Curve, best
from models.foresight import PUBLISHED, Breaches
from models.scores import BOOSTING, FORECASTERS, Evaluation, Score, iso, skill

TABLE_HEAD = (
    "target", "horizon", "MAE model", "persist.", "seasonal", "skill %", "pinball model", "persist.", "seasonal",
    "skill %", "coverage80 %",
)  # fmt: skip
SCALED_HEAD = ("target", "horizon", "MASE model", "persist.", "seasonal", "boosting", "MAE boosting")
GROUPS_HEAD = ("target", "skill % seen", "unseen", "unseen / seen")
BREACHES_HEAD = (
    "target",
    "episodes",
    "judged",
    "foreseen",
    "recall %",
    "alarms",
    "right",
    "precision %",
    "warning min",
)


def table(evaluation: Evaluation) -> list[tuple[str, ...]]:
    """The scores as text, a row per target and horizon, columns as in ``TABLE_HEAD``."""
    rows = []
    for target, horizons in evaluation.targets.items():
        for horizon, scores in horizons.items():
            cells = []
            for figure in ("mae", "pinball"):
                cells += [_number(getattr(scores[who], figure)) for who in FORECASTERS]
                cells.append(_percent(skill(scores, figure)))
            rows.append((target, horizon, *cells, _percent(scores["model"].coverage80)))
    return rows


def scaled_table(evaluation: Evaluation) -> list[tuple[str, ...]]:
    """MASE of all, and gradient boosting's MAE; columns as in ``SCALED_HEAD``."""
    nothing = Score(None, None, None)
    rows = []
    for target, horizons in evaluation.targets.items():
        for horizon, scores in horizons.items():
            boosting = scores.get(BOOSTING, nothing)
            scaled = [*(scores[who] for who in FORECASTERS), boosting]
            rows.append((target, horizon, *(_number(score.mase) for score in scaled), _number(boosting.mae)))
    return rows


def groups_table(evaluation: Evaluation) -> list[tuple[str, ...]]:
    """Pinball skill over all steps of seen and unseen servers; columns as in ``GROUPS_HEAD``.

    The ratio says how much worse the unseen ones are beside the better baseline: (1 - their skill) / (1 - the seen
    ones'). Empty without groups.
    """
    rows: list[tuple[str, ...]] = []
    for target in evaluation.targets if evaluation.groups else ():
        found = {name: skill(group.targets[target]["all"], "pinball") for name, group in evaluation.groups.items()}
        rows.append((target, _percent(found.get("seen")), _percent(found.get("unseen")), _number(_ratio(found))))
    return rows


def _ratio(skills: dict[str, float | None]) -> float | None:
    seen, unseen = skills.get("seen"), skills.get("unseen")
    return None if seen is None or unseen is None or seen == 1 else (1 - unseen) / (1 - seen)


def breaches_table(breaches: Breaches) -> list[tuple[str, ...]]:
    """What was foreseen at the published probability, by target and in total; columns as in ``BREACHES_HEAD``."""
    curves = [(name, breaches.episodes[name], curve) for name, curve in breaches.targets.items()]
    curves.append(("total", sum(breaches.episodes.values()), breaches.total))
    return [(name, str(episodes), *_figures(curve, PUBLISHED)) for name, episodes, curve in curves]


def _figures(curve: Curve, probability: float) -> tuple[str, ...]:
    found = curve[probability]
    return (
        str(found.judged), str(found.foreseen), _percent(found.recall), _number(found.alarms),
        _number(found.true_alarms), _percent(found.precision), _number(found.warning_minutes),
    )  # fmt: skip


def summary(evaluation: Evaluation) -> str:
    """What the scores rest on, in one line."""
    text = (
        f"{evaluation.windows} of {evaluation.candidates} windows of {evaluation.servers} servers, issued "
        f"{iso(evaluation.first_issued_at)} to {iso(evaluation.last_issued_at)}"
    )
    if evaluation.withheld:
        text += f"; {evaluation.withheld} windows left out, their forecast was not finite"
    if evaluation.refused:
        text += "; events refused: " + ", ".join(f"{n} ({stage})" for stage, n in evaluation.refused.items())
    return text


def render(evaluation: Evaluation) -> str:
    """The scores as tables for people; horizons in steps, skill against the better of the two baselines."""
    parts = [f"{evaluation.model_version or 'model'}: {summary(evaluation)}", _aligned(TABLE_HEAD, table(evaluation))]
    parts.append(_aligned(SCALED_HEAD, scaled_table(evaluation)))
    if evaluation.groups:
        counts = ", ".join(f"{g.servers} {name} ({g.windows} windows)" for name, g in evaluation.groups.items())
        parts += [f"servers seen in training and not, pinball over all steps: {counts}"]
        parts.append(_aligned(GROUPS_HEAD, groups_table(evaluation)))
    if evaluation.breaches is not None:
        parts += _breaches(evaluation.breaches)
    return "\n\n".join(parts)


def _breaches(breaches: Breaches) -> list[str]:
    head = (
        f"breaches foreseen at p >= {PUBLISHED}, {breaches.windows} windows ({100 * breaches.share:.1f} % of all) of "
        f"{breaches.servers} servers"
    )
    parts = [head, _aligned(BREACHES_HEAD, breaches_table(breaches))]
    for title, curve in (("total", breaches.total), ("confirmed by two", breaches.confirmed)):
        by_p = [(f"p >= {p:g}", "", *_figures(curve, p)) for p in curve]
        parts.append(_aligned((title, *BREACHES_HEAD[1:]), by_p))
        chosen = best(curve)
        found = "no p reaches it" if chosen is None else f"{_percent(curve[chosen].recall)} % at p >= {chosen:g}"
        parts.append(f"best recall at a precision of 80 % or more: {found}")
    if breaches.kinds:
        rows = [
            (kind, str(f.judged), str(f.foreseen), _percent(f.recall), _number(f.warning_minutes))
            for kind, f in breaches.kinds.items()
        ]
        parts.append(_aligned(("incident", "judged", "foreseen", "recall %", "warning min"), rows))
    return parts


def _aligned(head: Sequence[str], body: Sequence[Sequence[str]]) -> str:
    """A table with aligned columns, a rule under its head."""
    rows = [head, *body]
    widths = [max(len(row[i]) for row in rows) for i in range(len(head))]
    lines = [
        f"{row[0]:<{widths[0]}}  " + "  ".join(f"{cell:>{w}}" for cell, w in zip(row[1:], widths[1:], strict=True))
        for row in rows
    ]
    return "\n".join([lines[0], "-" * len(lines[0]), *lines[1:]])


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.4g}"


def _percent(share: float | None) -> str:
    return "-" if share is None else f"{100 * share:.1f}"
