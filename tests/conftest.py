"""The stacks that integration tests run on: real ones, started here."""

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from devstack import Stack, StackError, fetch_jars, start_stack
from devstack.java import find_java

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # as the command line does, before torch is loaded
# Models of random weights come and go by the hundred, and each takes a second to compile; those tests that are of the
# compiled engine, or of the whole product, ask for it.
os.environ["FLEETCAST_ENGINE"] = "torch"
# Under nohup, or in the background of a script, they would be ignored, here and in all that the tests start; some are
# about these signals.
signal.signal(signal.SIGHUP, signal.SIG_DFL)
signal.signal(signal.SIGINT, signal.default_int_handler)
_WITH_STACKS = {"bench", "chaos", "devstack", "integration"}
SHARED = Path(__file__).parents[2] / "shared"


@pytest.fixture(scope="session")
def stack() -> Iterator[Stack]:
    """Apache Kafka and Apicurio Registry; a green CI means that they were there."""
    try:
        for version in (17, 21):
            find_java(version)
        fetch_jars()
    except StackError as error:
        if os.environ.get("CI"):
            pytest.fail(f"CI needs a real broker and a real registry: {error}")
        pytest.skip(f"no real broker and registry here: {error}")
    # From here on nothing is excused.
    with start_stack(broker="apache", registry="apicurio", broker_may_be_killed=True) as running:
        yield running


@pytest.fixture(scope="session")
def smd_servers() -> Path:
    """Real server metrics, kept outside the repository."""
    file = SHARED / "data" / "smd_servers.parquet"
    if not file.exists():
        pytest.skip("the real server metrics (shared/data/smd_servers.parquet) are not here")
    return file


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What needs the shared stack comes late, and what treats it rudely last; all of it in one worker.

    Tests of stacks look for processes and folders that are left behind, and know only of their own. They wait most of
    the time, while another worker makes the others.
    """

    def rank(item: pytest.Item) -> int:
        shared = "stack" in getattr(item, "fixturenames", ())
        return int(shared) + int(shared and item.path.parent.name == "chaos")

    items.sort(key=rank)
    for item in items:
        if item.path.parent.name in _WITH_STACKS or item.path.name == "test_up.py":
            item.add_marker(pytest.mark.xdist_group("stacks"))
