import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from producer.fleet import Fleet, default_interval_s, first_tick_ms
from producer.incidents import SCENARIOS
from producer.noise import Noise
from producer.profiles import NAMES
from producer.vitals import HEAVY_CPU, IDLE_CPU, MORNING_CPU
from schemas.batch import EventBatch
from schemas.contract import Contract
from schemas.errors import InputError
from schemas.validation import validate
from tests.contracts import enum, field, rich, schema

SHIPPED = Contract.load()
MONDAY_MS = 1_767_571_200_000  # 2026-01-05
DAY_MS = 86_400_000
CONTRACTS = {"shipped": SHIPPED, "rich": rich()}


def same(a: EventBatch, b: EventBatch) -> bool:
    """Byte for byte, NaN included."""
    numbers = all(getattr(a, n).tobytes() == getattr(b, n).tobytes() for n in ("time", "reals", "enums"))
    return numbers and a.keys.tolist() == b.keys.tolist() and a.labels.tolist() == b.labels.tolist()


def real(batch: EventBatch, name: str, contract: Contract = SHIPPED) -> np.ndarray:
    return batch.reals[:, [f.name for f in contract.reals].index(name)]


def status(batch: EventBatch) -> np.ndarray:
    column = [f.name for f in SHIPPED.enums].index("status")
    return np.array(SHIPPED.enums[column].symbols)[batch.enums[:, column]]


@settings(max_examples=40, deadline=None)
@given(
    contract=st.sampled_from(sorted(CONTRACTS)),
    scenario=st.sampled_from(sorted(SCENARIOS)),
    seed=st.integers(0, 2**70),
    servers=st.integers(1, 40),
    chunks=st.lists(st.integers(0, 30), min_size=1, max_size=6),
    start=st.integers(0, 4 * DAY_MS),
)
def test_chunks_of_time_give_the_same_bytes(*, contract, scenario, seed, servers, chunks, start):
    """However time is chunked, the events are the same, byte for byte."""
    fleet = Fleet(CONTRACTS[contract], servers, seed, scenario)
    parts, at = [], MONDAY_MS + start
    for steps in chunks:
        parts.append(fleet.metrics(at, 300, steps))
        at += steps * 300_000

    whole = fleet.metrics(MONDAY_MS + start, 300, sum(chunks))

    assert same(EventBatch.concat(parts), whole)


@settings(max_examples=40, deadline=None)
@given(
    contract=st.sampled_from(sorted(CONTRACTS)),
    scenario=st.sampled_from(sorted(SCENARIOS)),
    seed=st.integers(0, 2**32),
    few=st.integers(1, 40),
    more=st.integers(0, 70),
)
def test_a_server_is_the_same_in_a_fleet_of_any_size(contract, scenario, seed, few, more):
    """The first servers of a large fleet are those of a small one, events and incidents alike."""
    small, large = (Fleet(CONTRACTS[contract], n, seed, scenario) for n in (few, few + more))
    events, all_events = small.metrics(MONDAY_MS, 300, 36), large.metrics(MONDAY_MS, 300, 36)
    known, all_known = small.incidents(MONDAY_MS, MONDAY_MS + DAY_MS), large.incidents(MONDAY_MS, MONDAY_MS + DAY_MS)

    rows = np.isin(all_events.keys, small.ids)
    of_small = all_known[all_known["server_id"].isin(small.ids)].reset_index(drop=True)

    assert same(events, all_events.take(rows))
    assert known.equals(of_small)


def test_values_are_of_the_time_not_of_the_interval():
    """A fleet sampled every minute and every five minutes agrees where the times meet."""
    fleet = Fleet(SHIPPED, 20, seed=3)
    minutes, fives = fleet.metrics(MONDAY_MS, 60, 100), fleet.metrics(MONDAY_MS, 300, 20)

    assert same(fives, minutes.take((minutes.time - MONDAY_MS) % 300_000 == 0))


def test_seeds_differ():
    """Another seed is another fleet."""
    one, two = (Fleet(SHIPPED, 5, seed).metrics(MONDAY_MS, 60, 50) for seed in (1, 2))

    assert not (real(one, "cpu_percent") == real(two, "cpu_percent")).any()


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_a_week_is_valid(scenario):
    """Every event of a simulated week passes the stream's own validation."""
    batch = Fleet(SHIPPED, 40, seed=11, scenario=scenario).metrics(MONDAY_MS, 300, 7 * 288)

    assert validate(batch, SHIPPED) == []


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_status_follows_from_the_numbers(scenario):
    """Each status says what the numbers beside it say."""
    batch = Fleet(SHIPPED, 60, seed=5, scenario=scenario).metrics(MONDAY_MS, 300, 7 * 288)
    cpu, said = real(batch, "cpu_percent"), status(batch)
    worst = batch.reals[:, :3].max(axis=1)
    hour, weekday = batch.time // 3_600_000 % 24, (batch.time - MONDAY_MS) // DAY_MS < 5

    assert ((worst >= 90) == (said == "critical_issue"))[said != "offline"].all()
    assert (cpu[said == "offline"] == 0).all()
    assert ((cpu[said == "healthy"] >= IDLE_CPU) & (cpu[said == "healthy"] < HEAVY_CPU)).all()
    assert (cpu[said == "heavy_load"] >= HEAVY_CPU).all()
    assert (cpu[said == "idle"] < IDLE_CPU).all()
    morning = said == "morning_spike"
    assert (weekday & (hour >= 7) & (hour < 10) & (cpu >= MORNING_CPU))[morning].all()
    assert set(said) >= {"healthy", "heavy_load", "idle", "maintenance", "morning_spike", "offline"}


@pytest.mark.parametrize("threshold", [70, 90, 92.34567, 99])
@pytest.mark.parametrize("scenario", SCENARIOS)
def test_the_labels_are_the_whole_truth(scenario, threshold):
    """A percentage is at its threshold or above exactly between an incident's breach_start and end."""
    percent = {"role": "target", "minimum": 0, "maximum": 100, "breach_above": threshold}
    names = ("cpu_percent", "memory_percent", "disk_percent")
    contract = Contract(schema(*(field(name, "double", **percent) for name in names)))
    fleet = Fleet(contract, 60, seed=8, scenario=scenario)
    batch, labels = fleet.metrics(MONDAY_MS, 300, 7 * 288), fleet.incidents(MONDAY_MS, MONDAY_MS + 7 * DAY_MS)
    labelled = np.zeros(len(batch), bool)
    for row in labels.itertuples():
        breach, end = (int(t.timestamp() * 1000) for t in (row.breach_start, row.end))
        labelled |= (batch.keys == row.server_id) & (batch.time >= breach) & (batch.time < end)

    assert (labelled == (batch.reals.max(axis=1) >= threshold)).all()
    assert (len(labels) == 0) == (scenario == "healthy")
    assert (labels["lead_in_start"] < labels["breach_start"]).all()
    assert (labels["breach_start"] < labels["end"]).all()


def test_worse_scenarios_have_more_incidents():
    """Of healthy, mixed, degrading and critical, each has more than the one before."""
    counts = [
        len(Fleet(SHIPPED, 100, 1, scenario).incidents(MONDAY_MS, MONDAY_MS + 7 * DAY_MS)) for scenario in SCENARIOS
    ]

    assert counts[0] == 0
    assert counts == sorted(set(counts))


def test_a_cascade_goes_from_database_to_web():
    """Of a cascade, the databases of a group breach before its web servers do."""
    fleet = Fleet(SHIPPED, 15, seed=2, scenario="critical")
    labels = fleet.incidents(MONDAY_MS, MONDAY_MS + 28 * DAY_MS)
    cascade = labels[labels["kind"] == "cascade"].copy()
    cascade["kind_of_server"] = cascade["server_id"].str.split("-").str[0]
    days = cascade.groupby([cascade["breach_start"].dt.floor("D"), "kind_of_server"])["breach_start"].agg(
        ["min", "max"]
    )
    both = [day.droplevel(0) for _, day in days.groupby(level=0) if len(day) == 2]

    assert set(cascade["kind_of_server"]) == {"db", "web"}
    assert len(both) > 3
    assert all(day.loc["db", "max"] < day.loc["web", "min"] for day in both)


def test_the_day_has_a_rhythm():
    """CPU of a weekday afternoon is far above that of the night for office profiles, and weekends are quiet."""
    fleet = Fleet(SHIPPED, 60, seed=4, scenario="healthy")
    batch = fleet.metrics(MONDAY_MS, 3600, 7 * 24)
    database = np.char.startswith(batch.keys.astype(str), "db-")
    cpu, hour, day = real(batch, "cpu_percent"), batch.time // 3_600_000 % 24, (batch.time - MONDAY_MS) // DAY_MS

    noon, night = (cpu[database & (day < 5) & np.isin(hour, hours)].mean() for hours in ((9, 10, 14), (1, 2, 3)))
    weekend = cpu[database & (day >= 5) & np.isin(hour, (9, 10, 14))].mean()
    assert noon > night + 20
    assert noon > weekend + 15


def test_load_follows_cpu():
    """Within each server, load average and CPU move together."""
    fleet = Fleet(SHIPPED, 15, seed=4)
    batch = fleet.metrics(MONDAY_MS, 300, 288)
    cpu, load = (real(batch, name).reshape(288, 15) for name in ("cpu_percent", "load_average"))

    assert min(np.corrcoef(cpu[:, i], load[:, i])[0, 1] for i in range(15)) > 0.7


def test_a_small_fleet_has_every_profile():
    """Fifteen servers, the default, show all seven profiles, named in their ids."""
    fleet = Fleet(SHIPPED, 15, seed=0)
    batch = fleet.metrics(MONDAY_MS, 60, 1)
    column = [f.name for f in SHIPPED.enums].index("profile")

    assert {SHIPPED.enums[column].symbols[code] for code in batch.enums[:, column]} == set(NAMES)
    assert len(set(fleet.ids)) == 15
    assert fleet.ids[0] == "web-0001"


def test_another_contract_is_served():
    """A contract of unknown fields gets valid values that move, whole numbers where it wants them."""
    contract = Contract(
        schema(
            field("queue_depth", "int", "target", minimum=-3, maximum=17),
            field("temperature", "float", "target", maximum=-5),
            field("cpu_percent", "double", "target", minimum=0, maximum=1),  # a fraction in spite of its name
            field("state", enum("State", "up", "down", "busy"), "category"),
            field("zone", enum("Zone", "z", "a", "m"), "static"),
            field("note", "string", "context"),
            field("spare", ["null", "boolean"], "context"),
        )
    )
    batch = Fleet(contract, 30, seed=1).metrics(MONDAY_MS, 10, 2000)
    zones = batch.enums[:, 1].reshape(2000, 30)

    assert validate(batch, contract) == []
    assert (batch.reals[:, 0] == np.rint(batch.reals[:, 0])).all()
    assert (batch.reals.std(axis=0) > 0).all()
    assert real(batch, "cpu_percent", contract).max() <= 1
    assert set(batch.enums[:, 0]) == {0, 1, 2}
    assert (zones == zones[0]).all()
    assert all(isinstance(note, str) and isinstance(spare, bool) for note, spare in batch.labels)


def test_a_nullable_metric_is_missing_while_a_server_is_off():
    """Latency of a server that restarts is null; where null is not allowed it is 0."""
    strict = Contract(schema(field("cpu_percent", "double", "target"), field("latency_ms", "double", "covariate")))
    week = (MONDAY_MS, 300, 2016)
    loose, filled = Fleet(SHIPPED, 5, 1).metrics(*week), Fleet(strict, 5, 1).metrics(*week)

    assert np.isnan(real(loose, "latency_ms")[status(loose) == "offline"]).all()
    assert (real(filled, "latency_ms", strict)[status(loose) == "offline"] == 0).all()
    assert not np.isnan(real(loose, "latency_ms")[status(loose) != "offline"]).any()


@pytest.mark.parametrize(
    ("wrong", "says"), [({"servers": 0}, "servers: 0"), ({"scenario": "merry"}, "scenario: 'merry'.*healthy")]
)
def test_bad_arguments_are_named(wrong, says):
    """A fleet that makes no sense is refused with the argument and its value."""
    with pytest.raises(InputError, match=says):
        Fleet(SHIPPED, **{"servers": 3, "seed": 1, "scenario": "mixed", **wrong})


def test_ticks_are_multiples_of_the_interval():
    """The first tick is the first multiple of the interval at or after a time."""
    assert first_tick_ms(120_000, 60) == 120_000
    assert first_tick_ms(120_001, 60) == 180_000


def test_the_default_interval_is_no_longer_than_a_step():
    """A step of the contract is never without a sample by default."""
    assert default_interval_s(SHIPPED) == 60
    assert default_interval_s(rich()) == 10


def test_noise_is_near_normal_and_independent():
    """White noise has mean 0 and variance 1, and neither neighbours in time nor servers are correlated."""
    white = Noise(1, np.arange(200)).white("x", np.arange(2000)[:, None])

    assert abs(white.mean()) < 0.01
    assert abs(white.std() - 1) < 0.01
    assert abs((white[1:] * white[:-1]).mean()) < 0.01
    assert abs((white[:, 1:] * white[:, :-1]).mean()) < 0.01


def test_smooth_noise_is_autocorrelated():
    """Smooth noise has variance 1, hardly moves within a fraction of its period and is forgotten after a few."""
    smooth = Noise(1, np.arange(500)).smooth("x", np.arange(2000) * 60_000, 1200)

    def correlation(lag: int) -> float:
        return float((smooth[lag:] * smooth[:-lag]).mean())

    assert abs(smooth.std() - 1) < 0.02
    assert correlation(1) > 0.97
    assert abs(correlation(60)) < 0.02
