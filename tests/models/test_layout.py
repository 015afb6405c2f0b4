from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from bench.peers.library import library_input
from models.calendar import Calendar
from models.layout import Layout, Scaling, relative_steps
from models.network_input import network_input
from models.samples import History
from schemas.contract import Contract
from schemas.errors import ContractError
from tests import contracts
from tests.contracts import enum, field
from tests.models.conftest import events

ALL_KNOWN = ["hour", "day_of_week", "month", "is_weekend", "time_of_day", "season_lag"]
CALENDAR = ("hour", "day_of_week", "month", "is_weekend", "time_of_day_sin", "time_of_day_cos")


def scaling_of(layout: Layout, constant: tuple[str, ...] = ()) -> Scaling:
    by_target = dict.fromkeys(layout.targets, 2.0)
    return Scaling(by_target, by_target, by_target, dict.fromkeys(layout.covariates, (1.0, 4.0)), constant)


def test_every_known_input_has_its_place() -> None:
    """Statics, then known inputs with the relative time index last, then targets and covariates."""
    layout = Layout(contracts.rich(known=ALL_KNOWN, season_steps=8640))

    assert layout.reals == [
        *(f"{target}_change_{steps}" for target in ("load", "queue") for steps in (1, 2, 4, 8)),
        "encoder_length", "load_center", "load_scale", "queue_center", "queue_scale",
        *CALENDAR, "load_season_lag", "queue_season_lag", "relative_time_idx",
        "load", "queue", "requests",
    ]  # fmt: skip
    assert (layout.statics, layout.categories) == (["zone"], ["state"])
    assert layout.vocabulary == {"zone": ["a", "m", "z"], "state": ["busy", "down", "up"]}


@pytest.mark.parametrize("known", [[], ["hour"], ["time_of_day"], ["season_lag"], ["is_weekend", "month"]])
def test_known_inputs_follow_the_contract(known: list[str]) -> None:
    """Only what the contract names is an input, in its order; the relative time index always is."""
    layout = Layout(contracts.rich(known=known))
    names = {
        "time_of_day": ["time_of_day_sin", "time_of_day_cos"],
        "season_lag": ["load_season_lag", "queue_season_lag"],
    }

    assert layout.known == [n for k in known for n in names.get(k, [k])] + ["relative_time_idx"]


@given(
    st.lists(st.integers(0, 2**32), min_size=1, max_size=20), st.sampled_from([1, 7, 60, 300, 3600, 86_400, 100_000])
)
def test_calendar_is_pandas(starts: list[int], step_seconds: int) -> None:
    """Hour, weekday, month, weekend and time of day of any step's start in UTC are those of pandas, fixedly scaled."""
    steps = np.array(starts, np.int64) // step_seconds
    time = pd.DatetimeIndex(pd.to_datetime(steps * step_seconds, unit="s", utc=True))
    angle = 2 * np.pi * (time.hour * 3600 + time.minute * 60 + time.second) / 86_400
    expected = [
        (time.hour - 11.5) / 6.922,
        (time.dayofweek - 3) / 2,
        (time.month - 6.5) / 3.452,
        ((time.dayofweek >= 5) - 2 / 7) / 0.4518,
        np.sqrt(2) * np.sin(angle),
        np.sqrt(2) * np.cos(angle),
    ]

    got = Calendar(CALENDAR, step_seconds).values(steps)

    np.testing.assert_allclose(got, np.stack(expected, axis=-1), rtol=1e-5, atol=1e-5)


def test_calendar_is_scaled_to_unit_variance() -> None:
    """Over whole years each calendar input has mean 0 and variance 1, whatever month a model was trained in."""
    hours = np.arange(24 * (365 * 4 + 1))
    got = Calendar(CALENDAR, 3600).values(hours)

    np.testing.assert_allclose(got.mean(axis=0), 0, atol=0.01)
    np.testing.assert_allclose(got.std(axis=0), 1, atol=0.01)


def test_calendar_of_nothing() -> None:
    """Without calendar inputs there are no columns."""
    assert Calendar((), 60).values(np.zeros((2, 3), np.int64)).shape == (2, 3, 0)


def test_the_horizon_follows_the_padding() -> None:
    """Relative steps end at -1 with the window and go on at 0 behind the padding."""
    layout = Layout(Contract(contracts.schema()))  # encoder 6, horizon 4

    assert relative_steps(layout, np.array([6, 3])).tolist() == [
        [-6, -5, -4, -3, -2, -1, 0, 1, 2, 3],
        [-3, -2, -1, 0, 1, 2, 0, 1, 2, 3],
    ]


@pytest.mark.parametrize(
    "name", ["type", "values", "keys", "items", "pop", "train", "forward", "training", "name", "T"]
)
@pytest.mark.parametrize("role", ["target", "covariate", "category", "static"])
def test_any_avro_name_works(name: str, role: str) -> None:
    """A field may have the name of something that torch modules own; it keeps its own column."""
    kind: Any = enum("E", "b", "a") if role in ("category", "static") else "double"
    layout = Layout(Contract(contracts.schema(field("load", "double", "target"), field(name, kind, role))))

    names = {"target": layout.targets, "covariate": layout.covariates,
             "category": layout.categories, "static": layout.statics}[role]  # fmt: skip
    assert names[-1].startswith(name)


@pytest.mark.parametrize("name", ["hour", "relative_time_idx", "encoder_length", "load_center", "load_scale"])
def test_names_of_our_own_inputs_are_refused(name: str) -> None:
    """An input with the name of one that Fleetcast makes itself is refused by its name; as context it may be."""
    inputs = contracts.schema(field("load", "double", "target"), field(name, "double", "covariate"), known=["hour"])
    with pytest.raises(ContractError, match=f"'{name}'"):
        Layout(Contract(inputs))

    context = contracts.schema(field("load", "double", "target"), field(name, "double", "context"), known=["hour"])
    assert name not in Layout(Contract(context)).observed


def test_symbols_find_their_rows() -> None:
    """Codes are in the schema's order, embedding rows in the alphabet's; each symbol finds its own row."""
    layout = Layout(contracts.rich())

    rows = layout.embedding_rows("state")[np.array([[0, 1], [2, 0]])]  # up, down, busy
    assert [[layout.vocabulary["state"][r] for r in row] for row in rows.tolist()] == [["up", "down"], ["busy", "up"]]


def test_shapes_and_types_of_every_tensor() -> None:
    """The network's input has the shapes and types that the layout says, full and short windows alike."""
    contract = contracts.rich(known=ALL_KNOWN, season_steps=8640)
    history = History(contract, events(contract, servers=3, steps=30))
    layout = Layout(contract)
    windows = history.windows(history.samples)
    inputs = network_input(layout, scaling_of(layout), windows)
    rows, encoder, horizon, n = len(windows), 6, 4, len(layout.reals)

    x = library_input(inputs)
    shapes = {k: [tuple(t.shape) for t in v] if isinstance(v, list) else tuple(v.shape) for k, v in x.items()}
    assert shapes == {
        "encoder_cont": (rows, encoder, n), "decoder_cont": (rows, horizon, n),
        "encoder_cat": (rows, encoder, 2), "decoder_cat": (rows, horizon, 2),
        "encoder_lengths": (rows,), "decoder_lengths": (rows,), "target_scale": [(rows, 2)] * 2,
    }  # fmt: skip
    assert inputs.cont.dtype == torch.float32
    assert inputs.cat.dtype == torch.int64
    assert torch.isfinite(inputs.cont).all()
    assert (inputs.center.shape, inputs.scale.shape) == ((rows, 2), (rows, 2))


def test_the_future_of_targets_is_not_fed() -> None:
    """In the decoder, targets and covariates are nothing: what is not known in advance cannot leak."""
    contract = contracts.rich(known=["hour"])
    layout = Layout(contract)
    history = History(contract, events(contract, servers=2, steps=20))
    decoder = network_input(layout, scaling_of(layout), history.windows(history.samples)).cont[
        :, contract.settings.encoder_steps :
    ]

    for name in layout.observed:
        assert not decoder[..., layout.at(name)].any()


def test_constant_inputs_are_fed_as_zero() -> None:
    """An input that was constant in training is 0 in encoder and decoder, and the others are what they were."""
    contract = contracts.rich(known=["hour", "month"])
    layout = Layout(contract)
    history = History(contract, events(contract, servers=2, steps=20))
    windows = history.windows(history.samples)
    plain = network_input(layout, scaling_of(layout), windows)
    zeroed = network_input(layout, scaling_of(layout, constant=("month", "requests")), windows)

    for name in layout.reals:
        column = layout.at(name)
        before = plain.cont[..., column]
        wanted = torch.zeros_like(before) if name in ("month", "requests") else before
        assert torch.equal(zeroed.cont[..., column], wanted)
    for name, table in zeroed.tables.items():
        told = table.values[table.rows][:, -1]  # noqa: PD011 -- no pandas here
        assert torch.equal(told, zeroed.cont[:, -1, layout.at(name)]), "a table says the same"
