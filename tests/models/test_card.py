import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from models import artifact
from models.artifact import Trained
from models.card import model_card
from models.episodes import Foresight
from models.evaluate import Scope, evaluate_trained
from models.foresight import PROBABILITIES, Breaches
from models.network_size import NetworkSize
from models.plots import plots
from models.scores import BOOSTING, Evaluation, Example, Group, skill
from models.train import train
from models.training import TrainingOptions
from schemas.batch import EventBatch
from schemas.contract import Contract
from schemas.fingerprint import fingerprint
from tests import contracts
from tests.models.conftest import events

VERSION = "tft_model_20260101_000000"
CONTRACT = contracts.rich(known=["hour", "month"], quantiles=[0.1, 0.5, 0.9])


@pytest.fixture(scope="module")
def history() -> EventBatch:
    batch = events(CONTRACT, servers=3, steps=60)
    batch.enums[:, 0] = np.where(batch.enums[:, 0] == 2, 0, batch.enums[:, 0])  # nobody is ever busy
    return batch


@pytest.fixture(scope="module")
def trained(history: EventBatch) -> Trained:
    size = NetworkSize(hidden_size=8, attention_head_size=2, hidden_continuous_size=4)
    return train(CONTRACT, history, TrainingOptions(epochs=2, size=size, epoch_windows=64)).judged


@pytest.fixture(scope="module")
def evaluation(trained: Trained, history: EventBatch) -> Evaluation:
    return evaluate_trained(trained, history, Scope())


def tables(card: str) -> list[list[list[str]]]:
    """The card's tables: lines of cells, as GitHub reads them."""
    blocks = [block.splitlines() for block in card.split("\n\n") if block.startswith("|")]
    return [[re.split(r"(?<!\\)\|", line)[1:-1] for line in block] for block in blocks]


def section(card: str, title: str) -> str:
    return card.split(f"\n## {title}\n\n")[1].split("\n## ", maxsplit=1)[0]


def foresight(right: float) -> Foresight:
    return Foresight(judged=10, foreseen=7, runs=12, alarms=12.0, true_alarms=right, warning_minutes=45.0)


def test_says_what_was_trained_on_what(trained: Trained, history: EventBatch) -> None:
    """Data, its hash, the contract's fingerprint, options, every epoch's loss and what training never saw."""
    card = model_card(VERSION, trained, None)

    assert card.startswith(f"# {VERSION}\n")
    assert f"| events | {len(history):,} |" in card
    assert "| servers | 3 |" in card
    assert trained.metadata["data_sha256"] in card
    assert fingerprint(CONTRACT) in card
    assert "| `hidden_size` | 8 |" in card
    assert "| `epoch_windows` | 64 |" in card
    for epoch, losses in enumerate(trained.metadata["losses"], start=1):
        assert f"| {epoch} | {losses['train']:.4f} | {losses['validation']:.4f} |" in card
    assert card.count("| kept |") == 1
    assert "symbols of `state` never seen, embedded as the mean of those that were: `busy`" in card
    assert "fed as 0: `hour`, `month`" in card
    assert "Not measured." in card


def test_shows_measured_skill(trained: Trained, history: EventBatch) -> None:
    """With an evaluation, each target and horizon has its row, and where a baseline is better the limits say so."""
    cut = int(history.time[-1]) // CONTRACT.step_ms - 15
    evaluation = evaluate_trained(trained, history, Scope(since_step=cut))
    card = model_card(VERSION, trained, evaluation)

    for target, horizons in evaluation.targets.items():
        for horizon, scores in horizons.items():
            assert f"| {target} | {horizon} | {scores['model'].mae:.4g} |" in card
        behind = [horizon for horizon, scores in horizons.items() if (skill(scores, "mae") or 0) < 0]
        line = f"- mae of `{target}` is worse than the better baseline's at horizon {', '.join(behind)}."
        assert (line in card) if behind else (f"- mae of `{target}`" not in card)
    assert "Not measured." not in card
    assert f"{evaluation.windows} of {evaluation.candidates} windows of 3 servers" in card


def test_every_table_has_its_columns(trained: Trained, evaluation: Evaluation) -> None:
    """Lines of one table have the same number of cells, and a rule under the head: it renders as a table."""
    found = tables(model_card(VERSION, trained, evaluation, others={"another fleet": evaluation}))

    assert len(found) > 6
    for lines in found:
        assert len({len(cells) for cells in lines}) == 1
        assert {cell.strip() for cell in lines[1]} == {"---"}


def test_names_cannot_break_a_table(trained: Trained, evaluation: Evaluation) -> None:
    """A server of any name, with bars, backticks or line breaks, stays in its cell."""
    example = Example("worst", "a|b`c\n| d |", 0, "load", *(np.zeros(6), np.zeros(4), np.zeros((3, 4))), pinball=1.25)
    card = model_card(VERSION, trained, replace(evaluation, examples=(example,)))
    worst = tables(section(card, "Where it fails"))[0]

    assert [cell.strip() for cell in worst[2]] == ["`load`", r"`a\|b'c \| d \|`", "1970-01-01T00:00:00Z", "1.25", "-"]


def test_pictures_are_linked_where_they_are(trained: Trained, evaluation: Evaluation, tmp_path: Path) -> None:
    """Each picture is linked by its plain name, and lies beside the card; without pictures there is no link."""
    files = plots(CONTRACT, evaluation)
    card = model_card(VERSION, trained, evaluation, files)
    folder = artifact.save(tmp_path, VERSION, trained, card, files)
    links = re.findall(r"!\[[^]]+\]\(([^)]+)\)", card)

    assert sorted(links) == sorted(files) == ["fan_charts.png", "reliability.png", "skill_by_horizon.png"]
    assert all((folder / name).read_bytes() == files[name] for name in links)
    assert "![" not in model_card(VERSION, trained, evaluation)


def test_tells_of_groups_and_other_evaluations(trained: Trained, evaluation: Evaluation) -> None:
    """Seen and unseen servers have a table, and so has an evaluation on other data, under its own title."""
    groups = {name: Group(7, 2, evaluation.targets) for name in ("seen", "unseen")}
    card = model_card(VERSION, trained, evaluation, others={"the other fleet": replace(evaluation, groups=groups)})
    rows = tables(section(card, "Skill on the other fleet"))[-1]

    assert "2 unseen (7 windows)" in section(card, "Skill on the other fleet")
    assert [row[0].strip() for row in rows[2:]] == list(evaluation.targets)
    assert rows[2][-1].strip() == "1"
    assert "unseen" not in section(card, "Skill")


@pytest.mark.parametrize(
    ("right", "words"), [(10, "Best recall at a precision of 80 % or more, with an alarm: 70.0 %"), (3, "at no")]
)
def test_tells_of_breaches_foreseen(trained: Trained, evaluation: Evaluation, right: float, words: str) -> None:
    """Recall, precision and warning by target and in total, the best probability or none, and kinds of incident."""
    curve = dict.fromkeys(PROBABILITIES, foresight(right))
    breaches = Breaches(9, 3, 0.5, {"load": 11}, {"load": curve}, curve, curve, {"disk_fill": foresight(right)})
    skill_section = section(model_card(VERSION, trained, replace(evaluation, breaches=breaches)), "Skill")

    assert "| load | 11 | 10 | 7 | 70.0 | 12 |" in skill_section
    assert "| total | 11 | 10 | 7 | 70.0 | 12 |" in skill_section
    assert "| disk_fill | 10 | 7 | 70.0 | 45 |" in skill_section
    assert words in skill_section


def test_renders_what_there_is_of_calibration(trained: Trained) -> None:
    """Plain values are a list, values by target a table; without any there is no section."""
    calibration = {
        "windows": 1500,
        "coverage80": {"load": {"before": 0.712345, "after": 0.8}, "queue": {"after": 0.81}},
        "levels": {"0.1": 0.09},
    }
    told = replace(trained, metadata={**trained.metadata, "calibration": calibration})
    card = section(model_card(VERSION, told, None), "Calibration")

    assert "- windows: 1,500" in card
    assert "| coverage80 | before | after |" in card
    assert "| load | 0.7123 | 0.8 |" in card
    assert "| queue | - | 0.81 |" in card
    assert "| 0.1 | 0.09 |" in card
    assert "## Calibration" not in model_card(VERSION, replace(trained, metadata={}), None)


def test_says_where_it_fails(trained: Trained, evaluation: Evaluation) -> None:
    """Horizons that a baseline or boosting wins, and intervals that cover too little, a line each; else that."""
    scores = evaluation.targets["load"]["1"]
    good = replace(scores["model"], mae=1.0, pinball=1.0, coverage80=0.8)
    worse = replace(good, mae=2.0, pinball=2.0)
    fine = {"load": {"1": {"model": good, "persistence": worse, "seasonal_naive": worse}}}
    lost = {"load": {"1": {**fine["load"]["1"], BOOSTING: replace(good, mae=0.5, pinball=None)}}}
    lost["load"]["3"] = {**fine["load"]["1"], "model": replace(good, pinball=3.0, coverage80=0.704)}
    at = lambda targets: section(  # noqa: E731 -- shorter than a helper
        model_card(VERSION, trained, replace(evaluation, targets=targets, examples=())), "Where it fails"
    )

    assert at(lost).strip().splitlines() == [
        "- mae of `load` is worse than gradient boosting's at horizon 1.",
        "- pinball of `load` is worse than the better baseline's at horizon 3.",
        "- The 80 % interval of `load` covers 70.4 % at horizon 3.",
    ]
    assert at(fine).startswith("At none of these horizons")
    elsewhere = {"another fleet": replace(evaluation, targets=lost)}
    assert "On another fleet:\n\n- mae of `load`" in section(
        model_card(VERSION, trained, None, others=elsewhere), "Where it fails"
    )


def test_goes_into_the_artifact(trained: Trained, history: EventBatch, tmp_path: Path) -> None:
    """Card and metrics are saved with the model, and the metrics come back with it."""
    evaluation = evaluate_trained(trained, history, Scope())
    metadata = {**trained.metadata, "metrics": evaluation.to_json()}
    measured = Trained(trained.network, trained.layout, trained.scaling, trained.size, trained.unseen, metadata)
    folder = artifact.save(tmp_path, VERSION, measured, model_card(VERSION, measured, evaluation))

    assert artifact.load(folder, Contract(CONTRACT.schema)).metadata["metrics"] == evaluation.to_json()
    assert (folder / artifact.CARD).read_text() == model_card(VERSION, measured, evaluation)
