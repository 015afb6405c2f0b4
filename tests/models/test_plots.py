import io
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace

import matplotlib as mpl
import numpy as np
import pytest
from PIL import Image

from models.plots import FAN_CHARTS, MOST_ROWS, RELIABILITY, SKILL, fan_charts, plots, reliability, skill_by_horizon
from models.scores import Curves, Evaluation, Example
from schemas.contract import Contract
from tests import contracts


def many(targets: int) -> Contract:
    fields = (contracts.field(f"metric_{i}", "double", "target", unit="ms", breach_above=9) for i in range(targets))
    return Contract(contracts.schema(*fields, step_seconds=60, encoder_steps=120, horizon_steps=60))


CONTRACTS = {
    "shipped": Contract.load(),
    "twenty targets": many(20),
    "one quantile": Contract(contracts.schema(quantiles=[0.3])),
    "uneven quantiles": Contract(contracts.schema(quantiles=[0.2, 0.6, 0.9])),
    "one step": Contract(contracts.schema(horizon_steps=1, encoder_steps=2, min_encoder_steps=1)),
    "hourly": Contract(contracts.schema(step_seconds=3600, encoder_steps=48, horizon_steps=24)),
}


def curves(contract: Contract) -> Curves:
    rng = np.random.default_rng(0)
    levels, horizon = np.array(contract.settings.quantiles), contract.settings.horizon_steps
    targets = len(contract.targets)
    losses = {who: rng.uniform(1, 2, (targets, horizon)) for who in ("model", "persistence", "seasonal_naive")}
    shares = np.clip(levels + rng.normal(0, 0.02, (targets, len(levels))), 0, 1)
    return Curves(losses, losses, rng.normal(0.8, 0.01, (targets, horizon)), shares)


def examples(contract: Contract) -> tuple[Example, ...]:
    """Noisy ones: noise is what makes a picture's file large."""
    rng = np.random.default_rng(0)
    encoder, horizon = contract.settings.encoder_steps, contract.settings.horizon_steps
    spread = np.linspace(-5, 5, len(contract.settings.quantiles))[:, None]
    return tuple(
        Example(kind, f"web-{i}", 1_767_225_600_000, target.name, rng.normal(50, 2, encoder),
                rng.normal(50, 2, horizon), 50 + spread * np.sqrt(np.arange(horizon) + 1), pinball=1.0)
        for target in contract.targets for i, kind in enumerate(("best", "median", "worst"))
    )  # fmt: skip


def evaluation(contract: Contract) -> Evaluation:
    return Evaluation(None, 9, 9, 0, 3, 0, 0, {}, {}, curves=curves(contract), examples=examples(contract))


def pixels(png: bytes) -> Image.Image:
    return Image.open(io.BytesIO(png)).convert("RGB")


@pytest.mark.parametrize("name", [n if n == "shipped" else pytest.param(n, marks=pytest.mark.slow) for n in CONTRACTS])
def test_small_pictures_for_any_contract(name: str) -> None:
    """All three are drawn for any number of targets, quantiles and steps: PNGs below 150 kB that are not empty."""
    found = plots(CONTRACTS[name], evaluation(CONTRACTS[name]))

    assert set(found) == {FAN_CHARTS, RELIABILITY, SKILL}
    for png in found.values():
        assert png.startswith(b"\x89PNG")
        assert len(png) < 150_000
        assert len(pixels(png).getcolors(1 << 24) or []) > 8


def test_a_row_of_fan_charts_a_target() -> None:
    """Each target adds a row, until there are as many as anyone looks at."""
    heights = [pixels(fan_charts(many(n), examples(many(n)))).height for n in (1, MOST_ROWS, MOST_ROWS + 1)]

    assert heights[0] < heights[1] == heights[2]


def test_nothing_without_figures() -> None:
    """An evaluation without curves or examples gives no pictures."""
    assert plots(many(1), replace(evaluation(many(1)), curves=None, examples=())) == {}


def test_the_same_bytes_for_the_same_figures(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pictures hold no time and no version, do not depend on the user's style, and leave that as it was."""
    before = plots(many(2), evaluation(many(2)))
    monkeypatch.setitem(mpl.rcParams, "axes.facecolor", "black")
    monkeypatch.setitem(mpl.rcParams, "savefig.dpi", 30)

    assert plots(many(2), evaluation(many(2))) == before
    assert mpl.rcParams["axes.facecolor"] == "black"
    assert all(chunk not in png for png in before.values() for chunk in (b"tEXt", b"iTXt", b"tIME", b"Matplotlib"))


def test_what_is_missing_is_left_out() -> None:
    """NaN as truth, past or baseline, a target without examples, a baseline that never errs: drawn anyway."""
    contract = many(3)
    full = curves(contract)
    nothing = np.full_like(full.coverage80, np.nan)
    none = dict.fromkeys(full.pinball, nothing)
    perfect = {**full.pinball, "persistence": np.zeros_like(nothing)}
    blind = [replace(e, truth=np.full_like(e.truth, np.nan), past=np.full_like(e.past, np.nan))
             for e in examples(contract)[:5]]  # fmt: skip

    for figures in (replace(full, pinball=none, coverage80=nothing), replace(full, pinball=perfect)):
        assert skill_by_horizon(contract, figures)
    assert reliability(contract, replace(full, reliability=full.reliability * np.nan))
    assert fan_charts(contract, blind)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["$x^2$ \\frac", "a\nb\x1b[31m\x00", "x" * 500, "", "%s {0}", "_" * 30])
def test_any_server_name(name: str) -> None:
    """A server's name is text, never a formula or an escape, and a long one is cut."""
    contract = many(1)

    assert fan_charts(contract, [replace(e, server=name) for e in examples(contract)])


@pytest.mark.slow
@pytest.mark.parametrize("limit", [50.0, 52.0, 1e6, -1e6])
def test_a_threshold_far_away_does_not_flatten_the_values(limit: float) -> None:
    """A threshold near the values is a line; one far away is a word, and the scale stays that of the values."""
    field = contracts.field("load", "double", "target", breach_above=limit)
    given = Contract(contracts.schema(field, encoder_steps=50, horizon_steps=50))
    without = Contract(contracts.schema(encoder_steps=50, horizon_steps=50))
    red = _share(pixels(fan_charts(given, examples(given))), lambda r, g, b: (r > 150) & (g < 110) & (b < 100))
    blue = [
        _share(pixels(fan_charts(contract, examples(contract))), lambda r, g, b: (b > r + 25) & (b > g + 10))
        for contract in (given, without)
    ]

    assert red > 0
    assert blue[0] > 0.6 * blue[1]


def _share(image: Image.Image, wanted: Callable[..., np.ndarray]) -> float:
    red, green, blue = np.asarray(image).astype(int).transpose(2, 0, 1)
    return float(wanted(red, green, blue).mean())


def test_the_worst_of_the_worst() -> None:
    """Of several examples of a kind, in order from good to bad, the best one and the worst one are drawn."""
    contract = many(1)
    good, typical, bad = examples(contract)
    worse, better = replace(bad, server="worse"), replace(good, server="second")

    assert fan_charts(contract, [good, better, typical, bad, worse]) == fan_charts(contract, [good, typical, worse])


def test_serving_draws_nothing() -> None:
    """Loading a model, serving it and writing a card's text import no module of ours that draws."""
    code = "import sys, models.artifact, models.card, models.runtime; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()

    assert "models.plots" not in loaded
