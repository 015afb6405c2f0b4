import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from producer.fleet import Fleet
from producer.incidents import RECOVERY_MS, SCENARIOS
from producer.lives import AWAY_HOURS, HOUR_MS, LIFE_DAYS, SHARE, Lives
from producer.profiles import GROUP_SIZE
from schemas.contract import Contract

SHIPPED = Contract.load()
MONDAY_MS = 1_767_571_200_000  # 2026-01-05
DAY_MS = 86_400_000
FOUR_WEEKS = MONDAY_MS + np.arange(28 * 24) * HOUR_MS
LIVELY = sorted(set(SCENARIOS) - {"healthy"})


@settings(max_examples=40, deadline=None)
@given(
    scenario=st.sampled_from(sorted(SCENARIOS)),
    seed=st.integers(0, 2**70),
    few=st.integers(1, 200),
    more=st.integers(0, 200),
    cuts=st.lists(st.integers(0, len(FOUR_WEEKS)), max_size=5),
)
def test_presence_is_of_the_seed_the_server_and_the_time(*, scenario, seed, few, more, cuts):
    """Whether a server is there depends neither on the chunks of time nor on the size of the fleet."""
    whole = Lives(seed, few, scenario).present(FOUR_WEEKS)
    chunks = np.split(FOUR_WEEKS, sorted(cuts))
    larger = np.concatenate([Lives(seed, few + more, scenario).present(chunk) for chunk in chunks])

    assert np.array_equal(larger[:, :few], whole)


def test_seeds_have_other_lives():
    """Another seed has other servers join and leave."""
    one, two = (Lives(seed, 300, "mixed").present(FOUR_WEEKS) for seed in (1, 2))

    assert not np.array_equal(one, two)


@pytest.mark.parametrize("scenario", LIVELY)
def test_some_servers_are_replaced(scenario):
    """About a tenth of the servers is ever away; each for the hours and after the days that the module names."""
    servers = 600
    time_ms = MONDAY_MS + np.arange(60 * 24) * HOUR_MS
    there = Lives(4, servers, scenario).present(time_ms)
    left = np.nonzero(~there.all(axis=0))[0]
    absences, lives = [], []
    for server in left:
        turns = np.nonzero(np.diff(there[:, server].astype(int)))[0]
        hours = np.diff(turns)
        away_first = there[turns[0], server]  # the first stretch between two turns is an absence
        absences += hours[0 if away_first else 1 :: 2].tolist()
        leaves = turns[there[turns, server]]
        lives += (np.diff(leaves) / 24).tolist()

    assert abs(len(left) / servers - SHARE) < 0.04
    assert AWAY_HOURS[0] - 1 <= min(absences) <= max(absences) <= AWAY_HOURS[1] + 1
    # From one departure to the next is a life, give or take how long the absences are.
    spread_days = (AWAY_HOURS[1] - AWAY_HOURS[0]) / 24
    assert LIFE_DAYS[0] - spread_days <= min(lives) <= max(lives) <= LIFE_DAYS[1] + spread_days


@pytest.mark.parametrize("scenario", LIVELY)
def test_an_absent_server_has_no_rows(scenario):
    """The events are those of the present servers, each at every tick of its presence, and no others."""
    fleet, lives = Fleet(SHIPPED, 200, seed=6, scenario=scenario), Lives(6, 200, scenario)
    batch = fleet.metrics(MONDAY_MS, 3600, len(FOUR_WEEKS))
    tick, server = np.nonzero(lives.present(FOUR_WEEKS))

    assert len(batch) < len(FOUR_WEEKS) * 200
    assert batch.time.tolist() == FOUR_WEEKS[tick].tolist()
    assert batch.keys.tolist() == fleet.ids[server].tolist()


@pytest.mark.parametrize("scenario", LIVELY)
def test_an_absent_server_has_no_incidents(scenario):
    """From the lead-in of an incident until it has recovered, its server is there and the same machine."""
    fleet, lives = Fleet(SHIPPED, 300, seed=6, scenario=scenario), Lives(6, 300, scenario)
    labels = fleet.incidents(MONDAY_MS, MONDAY_MS + 28 * DAY_MS)
    number = {name: i for i, name in enumerate(fleet.ids)}
    of_members = labels[labels["server_id"].map(number).isin(lives.members)]

    assert len(of_members) > 20
    for row in of_members.itertuples():
        start, end = (int(t.timestamp() * 1000) for t in (row.lead_in_start, row.end))
        minutes = np.arange(start, end + RECOVERY_MS, 60_000)
        assert lives.present(minutes)[:, number[row.server_id]].all()


@pytest.mark.parametrize("seed", range(3))
def test_an_interval_with_an_absence_in_it_is_found(seed):
    """`away_between` is true exactly where a look at every quarter of an hour finds the server away."""
    lives, rng = Lives(seed, 200, "mixed"), np.random.default_rng(seed)
    server = rng.integers(0, 200, 500)
    server[::2] = rng.choice(lives.members, 250)
    start = MONDAY_MS + rng.integers(0, 28 * 96, 500) * 900_000
    steps = rng.integers(0, 72, 500)
    looked = [
        (~lives.present(s + np.arange(n + 1) * 900_000)[:, i]).any()
        for i, s, n in zip(server, start, steps, strict=True)
    ]

    assert 0 < sum(looked) < 500
    assert lives.away_between(server, start, start + steps * 900_000).tolist() == looked


def test_a_healthy_fleet_is_complete():
    """Nobody leaves a healthy fleet, however large."""
    assert Lives(1, 1000, "healthy").present(FOUR_WEEKS).all()
    assert len(Fleet(SHIPPED, 100, 1, "healthy").metrics(MONDAY_MS, 3600, 28 * 24)) == 28 * 24 * 100


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_the_first_group_is_complete(scenario):
    """The first fifteen servers, a default fleet, are there at any time, whatever the seed."""
    assert all(Lives(seed, 200, scenario).present(FOUR_WEEKS)[:, :GROUP_SIZE].all() for seed in range(50))


def test_another_machine_comes_back():
    """CPU and memory of a replaced server differ from before by an offset that stays for the machine's life."""
    lives = Lives(1, 300, "mixed")
    there = lives.present(FOUR_WEEKS)[:, lives.members]
    offset = lives.machine("cpu_percent", FOUR_WEEKS)
    moves, returns = np.diff(offset, axis=0) != 0, np.diff(there.astype(int), axis=0) > 0

    assert returns.sum() > 20
    assert np.array_equal(moves, returns)


def test_a_prefix_changes_the_ids_alone():
    """With a prefix all ids begin with it, in events and incidents, and nothing else changes."""
    plain, named = Fleet(SHIPPED, 60, seed=1), Fleet(SHIPPED, 60, seed=1, prefix="a-")
    events, renamed = (fleet.metrics(MONDAY_MS, 3600, 7 * 24) for fleet in (plain, named))
    labels, relabelled = (fleet.incidents(MONDAY_MS, MONDAY_MS + 7 * DAY_MS) for fleet in (plain, named))

    assert named.ids.tolist() == [f"a-{name}" for name in plain.ids]
    assert renamed.keys.tolist() == [f"a-{name}" for name in events.keys]
    assert all(getattr(renamed, n).tobytes() == getattr(events, n).tobytes() for n in ("time", "reals", "enums"))
    assert renamed.labels.tolist() == events.labels.tolist()
    assert len(labels) > 0
    assert relabelled.equals(labels.assign(server_id="a-" + labels["server_id"]))
