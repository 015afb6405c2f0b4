import io
import threading

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from structlog.testing import capture_logs

from producer.fleet import Fleet
from producer.pacing import Pace, SystemClock
from producer.progress import Progress
from producer.replay import replay
from producer.simulate import simulate
from schemas.batch import EventBatch
from schemas.contract import Contract
from schemas.errors import InputError
from tests.contracts import field, schema
from tests.producer.clock import FakeClock, Recorder

SHIPPED = Contract.load()
NOW_MS = 1_767_571_200_000
MINUTE_MS, HOUR_MS = 60_000, 3_600_000


def run(clock, sink, fleet=None, stop=None, **options):
    defaults = {"start_ms": NOW_MS - 25 * HOUR_MS, "until_ms": None, "speed": 60.0, "interval_s": 60.0}
    return simulate(
        sink, fleet or Fleet(SHIPPED, 3, 1), clock=clock, stop=stop or threading.Event(), **{**defaults, **options}
    )


def events(times_ms, contract=SHIPPED) -> EventBatch:
    batch = EventBatch.allocate(contract, len(times_ms))
    batch.time[:] = times_ms
    return batch


def test_the_encoder_is_a_burst_and_then_speed_counts():
    """The first 24 hours come at once; then an hour of events takes a minute at speed 60, until the present."""
    clock = FakeClock(NOW_MS)
    sink = Recorder(clock)

    run(clock, sink, until_ms=NOW_MS)
    wall, event = np.array(sink.times).T
    burst = event < NOW_MS - HOUR_MS

    assert (wall[burst] == NOW_MS).all()
    assert (wall[~burst] == NOW_MS + (event[~burst] - event[~burst][0]) // 60).all()
    assert burst.sum() == 24 * 60 * 3


@settings(max_examples=40, deadline=None)
@given(
    speed=st.one_of(st.none(), st.floats(0.5, 5000)),
    start=st.integers(-26 * HOUR_MS, HOUR_MS),
    interval=st.sampled_from([1.5, 60, 300]),
    cost=st.integers(0, 5000),
)
def test_nothing_is_published_before_its_own_time(speed, start, interval, cost):
    """Whatever the speed and the start, no event is later than now, and event time never goes back."""
    clock = FakeClock(NOW_MS)
    sink = Recorder(clock, cost_ms=cost)

    run(clock, sink, speed=speed, start_ms=NOW_MS + start, interval_s=interval, count=400)
    wall, event = np.array(sink.times).T

    assert len(event) == 400
    assert (event <= wall).all()
    assert (np.diff(event) >= 0).all()


@pytest.mark.parametrize("speed", [1.0, 60.0, None])
def test_at_the_present_every_speed_becomes_one(speed):
    """Having caught up, a server's events come a minute apart, each at its own time."""
    clock = FakeClock(NOW_MS)
    sink = Recorder(clock)

    run(clock, sink, speed=speed, start_ms=NOW_MS - HOUR_MS, encoder_s=600, until_ms=NOW_MS + 4 * HOUR_MS)
    wall, event = np.array(sink.times).T
    live = event >= NOW_MS + 3 * HOUR_MS

    assert live.sum() == 3 * 60
    if speed == 1.0:  # it never catches up: it is 50 minutes behind for ever
        assert (wall[live] - event[live] == 50 * MINUTE_MS).all()
    else:
        assert (wall[live] == event[live]).all()


def test_what_is_published_is_what_generate_writes():
    """The stream is the fleet's own columns, from the first tick after the start."""
    fleet, clock = Fleet(SHIPPED, 3, 1), FakeClock(NOW_MS)
    sink = Recorder(clock)

    done = run(clock, sink, fleet, speed=None, start_ms=NOW_MS - HOUR_MS + 1, until_ms=NOW_MS)
    got, wanted = EventBatch.concat(sink.batches), fleet.metrics(NOW_MS - HOUR_MS + MINUTE_MS, 60, 59)

    assert got.reals.tobytes() == wanted.reals.tobytes()
    assert got.time.tolist() == wanted.time.tolist()
    assert (done.rows, done.first_ms, done.last_ms) == (59 * 3, int(wanted.time[0]), NOW_MS - MINUTE_MS)


def test_count_cuts_within_a_tick():
    """Exactly so many events are published, even in the middle of a tick."""
    clock = FakeClock(NOW_MS)
    sink = Recorder(clock)

    assert run(clock, sink, count=10).rows == 10
    assert len(sink.times) == 10
    assert run(clock, sink, count=0) == (type(run(clock, sink, count=0)))(0, None, None)


def test_stop_ends_it_cleanly():
    """Once stop is set nothing more is published, and what was published is flushed."""
    clock = FakeClock(NOW_MS, stop_at_ms=NOW_MS + 10 * MINUTE_MS)
    sink = Recorder(clock)

    done = run(clock, sink, speed=1.0, start_ms=NOW_MS - HOUR_MS)

    assert sink.flushed
    assert max(wall for wall, _ in sink.times) <= NOW_MS + 10 * MINUTE_MS
    assert done.rows == len(sink.times) > 0


def test_a_sink_that_gives_up_is_believed():
    """Where the sink takes only part of a batch because of stop, only that part counts."""
    clock, stop = FakeClock(NOW_MS), threading.Event()

    class GivesUp(Recorder):
        def publish(self, batch):
            stop.set()
            return super().publish(batch)

    sink = GivesUp(clock, takes=7)

    done = run(clock, sink, stop=stop)

    assert done.rows == len(sink.times) == 7
    assert done.last_ms == sink.times[-1][1]


def test_the_burst_follows_the_contract():
    """Another contract's encoder is as long as it says."""
    contract = Contract(schema(field("load", "double", "target"), step_seconds=10, encoder_steps=6))
    clock = FakeClock(NOW_MS)
    sink = Recorder(clock)

    run(clock, sink, Fleet(contract, 1, 1), speed=2.0, interval_s=10, count=10)

    assert [wall - NOW_MS for wall, _ in sink.times] == [0] * 7 + [5000, 10_000, 15_000]


def test_replay_at_a_speed():
    """Ten minutes of file take one minute at speed 10, from the first event on, whatever its date."""
    clock = FakeClock(NOW_MS)
    sink = Recorder(clock)
    times = [1_000_000 + i * MINUTE_MS for i in range(11)]

    done = replay(sink, events(times), speed=10, clock=clock, stop=threading.Event())

    assert [wall - NOW_MS for wall, _ in sink.times] == [i * 6000 for i in range(11)]
    assert [event for _, event in sink.times] == times
    assert (done.rows, done.first_ms, done.last_ms) == (11, times[0], times[-1])
    assert sink.flushed


def test_replay_at_maximum_waits_for_nothing():
    """Without a speed the clock stands still, and all events come in order, in cuts."""
    clock = FakeClock(NOW_MS)
    sink = Recorder(clock)
    times = np.sort(np.random.default_rng(1).integers(0, NOW_MS, 20_001))

    replay(sink, events(times), speed=None, clock=clock, stop=threading.Event())

    assert [event for _, event in sink.times] == times.tolist()
    assert {wall for wall, _ in sink.times} == {NOW_MS}
    assert len(sink.batches) > 2


def test_replay_counts_and_stops():
    """--count ends a replay; so does stop, before the next cut."""
    clock, stop = FakeClock(NOW_MS), threading.Event()
    sink = Recorder(clock)

    assert replay(sink, events(range(100)), speed=None, clock=clock, stop=stop, count=42).rows == 42
    stop.set()
    assert replay(sink, events(range(100)), speed=None, clock=clock, stop=stop).rows == 0


def test_replay_warns_of_the_future():
    """A file whose events lie after now is replayed, and it is said how many and until when."""
    clock = FakeClock(NOW_MS)
    with capture_logs() as logs:
        done = replay(
            Recorder(clock), events([NOW_MS, NOW_MS + 1, NOW_MS + 2]), speed=None, clock=clock, stop=threading.Event()
        )
        replay(Recorder(clock), events([NOW_MS]), speed=None, clock=clock, stop=threading.Event())

    warnings = [line for line in logs if line["log_level"] == "warning"]
    assert done.rows == 3
    assert [line["events"] for line in warnings] == [2]
    assert "2026-01-05" in warnings[0]["latest"]


@pytest.mark.parametrize("speed", [0.0, -1.0, float("nan"), float("inf")])
def test_a_speed_that_is_none_is_refused(speed):
    """Speeds are finite and above 0."""
    with pytest.raises(InputError, match="speed"):
        Pace(FakeClock(0), speed)


def test_an_interval_that_is_none_is_refused():
    """An interval of nothing would never end."""
    with pytest.raises(InputError, match="interval: 0"):
        run(FakeClock(0), Recorder(FakeClock(0)), interval_s=0)


def test_a_set_stop_ends_the_waiting_of_the_real_clock():
    """The machine's clock does not sleep through a stop."""
    stop = threading.Event()
    stop.set()

    assert Pace(SystemClock(), 1.0, never_ahead=True).wait_for(2**50, stop) is False
    SystemClock().wait(1e6, stop)


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_progress_on_a_terminal_renews_its_line():
    """A person sees one line with rows, rate and time left, at most five times a second."""
    clock, terminal = FakeClock(NOW_MS), Terminal()
    progress = Progress(clock, "replay", total=4000, stream=terminal)
    for _ in range(20):
        clock.jump(100)
        progress.add(100, NOW_MS)
    lines = terminal.getvalue().split("\r")[1:]

    assert len(lines) == 10
    assert lines[-1].startswith(
        "replay: 2,000 of 4,000 (50%) rows, 1,000 rows/s, at 2026-01-05T00:00:00+00:00, 0:02 left"
    )
    assert "\n" not in terminal.getvalue()


def test_progress_without_a_terminal_logs_now_and_then():
    """Elsewhere a log line comes every five seconds, and one at the end."""
    clock = FakeClock(NOW_MS)
    with capture_logs() as logs:
        progress = Progress(clock, "replay", total=4000, stream=io.StringIO())
        for _ in range(20):
            clock.jump(600)
            progress.add(100, NOW_MS)
        progress.close()

    assert [line["rows"] for line in logs] == [900, 1800, 2000]
    assert logs[0]["seconds_left"] == 19
    assert logs[-1]["rows_per_second"] == 167
