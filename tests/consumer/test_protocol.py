from collections.abc import Iterator

import pytest
import structlog
from hypothesis import HealthCheck, settings
from hypothesis.stateful import run_state_machine_as_test

from tests.consumer.protocol import AtLeastOnceProtocol, Protocol


@pytest.fixture
def quiet() -> Iterator[None]:
    """The service tells of each accident; there are thousands."""
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(50))
    yield
    structlog.reset_defaults()


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


@pytest.mark.usefixtures("quiet")
@pytest.mark.parametrize("written", range(12))
def test_a_first_round_that_died_half_written_is_made_again(
    written: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """At least once, steps of a round without offsets restore nothing: the others of their events are not there."""
    AtLeastOnceProtocol.folder = tmp_path_factory.getbasetemp()
    machine = AtLeastOnceProtocol()
    machine.begin(seed=0)
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
