from collections.abc import Callable, Iterator

import pytest
import structlog
from confluent_kafka import KafkaError
from hypothesis import HealthCheck, settings
from hypothesis.stateful import run_state_machine_as_test

from consumer.outbox import GivenUpError
from tests.consumer.broker_model import problem
from tests.consumer.client_model import FakeProducer
from tests.consumer.protocol import AtLeastOnceProtocol, Life, Protocol

Begun = Callable[..., Protocol]  # of a type of machine


@pytest.fixture
def quiet() -> Iterator[None]:
    """The service tells of each accident; there are thousands."""
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(50))
    yield
    structlog.reset_defaults()


@pytest.fixture
def begun(quiet: None, tmp_path_factory: pytest.TempPathFactory) -> Begun:  # noqa: ARG001
    """Makes machines whose members are there."""

    def begin(machine_type: type[Protocol] = Protocol) -> Protocol:
        machine_type.folder = tmp_path_factory.getbasetemp()
        machine = machine_type()
        machine.begin(seed=0)
        return machine

    return begin


@pytest.mark.usefixtures("quiet")
@pytest.mark.parametrize(("machine", "examples"), [(Protocol, 60), (AtLeastOnceProtocol, 30)])
def test_whatever_happens_the_outside_sees_one_pass(
    machine: type[Protocol], examples: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Steps, forecasts and dead letters are those of one undisturbed pass: exactly once, or at least once."""
    machine.folder = tmp_path_factory.getbasetemp()
    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=examples,
            derandomize=True,
            stateful_step_count=30,
            deadline=None,
            suppress_health_check=list(HealthCheck),
        ),
    )


@pytest.mark.parametrize("written", range(12))
def test_a_first_round_that_died_half_written_is_made_again(written: int, begun: Begun) -> None:
    """At least once, steps of a round without offsets restore nothing: the others of their events are not there."""
    machine = begun(AtLeastOnceProtocol)
    quiet = {
        "name": "one",
        "partition": 0,
        "n": 1,
        "seed": 0,
        "pace": 500,
        "slow": False,
        "late": set(),
        "leaving": None,
    }

    machine.turn(**quiet, allowance=0, commit=False, accidents={}, after=0)
    machine.turn(**quiet, allowance=30, commit=True, accidents={"produce": "broken"}, after=written)

    assert not machine.lives.keys() & {"one"}, "it died while it wrote"
    machine.teardown()


def test_a_partition_that_goes_while_the_producer_is_made_anew_does_not_decide_the_last_round(
    begun: Begun,
) -> None:
    """A round whose answer was lost had been committed: the other partition's part of it is not written again."""
    machine = begun()

    def breaks(producer: FakeProducer) -> None:
        producer.broken = True
        raise problem(KafkaError._FATAL, fatal=True)

    def moves(_: FakeProducer) -> None:
        machine.broker.want(0, "one")
        raise problem(KafkaError._TIMED_OUT, retriable=True)

    life = both_partitions(machine)
    life.turn(10, commit=True)
    life.turn(50, commit=False)
    assert sorted(life.service._ledger.open()) == [0, 1], "one round will hold both partitions"
    life.producer.accidents = {"committed": breaks, "init": moves}
    life.turn(0, commit=True)

    assert life.service.core.partitions == [1]
    assert not machine.broker.producers["two"].accidents, "both happened"
    machine.teardown()


def test_a_batch_whose_partition_goes_before_its_turn_opens_no_round(
    begun: Begun,
) -> None:
    """It was begun while the other partition's was written; that one is committed, and nothing is aborted."""
    machine = begun()
    life = both_partitions(machine)
    life.turn(10, commit=True)
    committed = machine.broker.committed[0]
    life.producer.accidents = {"produce": lambda _: machine.broker.want(1, "one")}

    life.turn(None, commit=True, slow=True)

    assert life.service.core.partitions == [0]
    assert machine.broker.committed[0] != committed
    assert life.service._write_again_at == 0.0, "a round that is aborted is written again later"
    machine.teardown()


def test_a_stop_in_the_middle_of_a_batch_commits_what_was_whole(begun: Begun) -> None:
    """The round that the batch was written in is aborted; those before it are written in another."""
    machine = begun()
    life = machine._life("one")
    life.turn(0, commit=True)
    life.turn(6, commit=True)
    committed = machine.broker.committed[0]
    life.turn(12, commit=False)
    assert machine.broker.committed[0] == committed
    assert life.service._ledger, "a whole batch waits for the next round"

    life.service._stop.set()
    life.service._give_up_at = machine.broker.now + 6.0  # of ten seconds; half is for what is whole
    life.consumer.allowance, life.tick = None, 0.6
    machine.broker.now += 1.5
    with pytest.raises(GivenUpError):
        life.service._turn()
    life.tick = 0.0
    life.service._drain()

    assert not life.service._ledger
    assert machine.broker.committed[0] != committed
    machine._bury("one")
    machine.teardown()


@pytest.mark.parametrize("machine_type", [Protocol, AtLeastOnceProtocol])
def test_starting_over_ends_the_wait_for_the_registry(machine_type: type[Protocol], begun: Begun) -> None:
    """A partition that waited for a schema when its producer broke is read again."""
    machine = begun(machine_type)
    machine.trouble(name="one", what="dies", deaf=0, partition=0)
    machine.registry_away(times=2)
    machine.calm("two", allowance=1)
    machine.trouble(name="two", what="has to start over", deaf=0, partition=0)

    machine.teardown()


def test_steps_without_forecasts_say_nothing_of_how_long_forecasts_take(
    begun: Begun,
) -> None:
    """A fleet that warms up closes steps by the thousand in no time; its first forecasts are no quicker for that."""
    machine = begun()
    machine.produce(0, n=600, seed=1, pace=15_000)
    life = machine._life("one")
    before = life.service._pace._seconds

    life.turn(0, commit=True)
    life.turn(None, commit=True)

    counts = life.service.core.counts
    assert counts.steps - counts.held_steps >= 100 > counts.forecasts
    assert life.service._pace._seconds == before
    machine.teardown()


def both_partitions(machine: Protocol) -> Life:
    """The second member owns both."""
    machine.broker.want(0, "two")
    for name in ("one", "two", "two"):  # gives it away, takes it on, restores it
        machine._life(name).turn(0, commit=True)
    life = machine._life("two")
    assert life.service.core.partitions == [0, 1]
    return life
