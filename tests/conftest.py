"""The stacks that integration tests run on: real ones, started here."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from devstack import Stack, StackError, start_stack

SHARED = Path(__file__).parents[2] / "shared"


@pytest.fixture(scope="session")
def stack() -> Iterator[Stack]:
    """Apache Kafka and Apicurio Registry; a green CI means that they were there."""
    try:
        with start_stack(broker="apache", registry="apicurio") as running:
            yield running
    except StackError as error:
        if os.environ.get("CI"):
            pytest.fail(f"CI needs a real broker and a real registry: {error}")
        pytest.skip(f"no real broker and registry here: {error}")


@pytest.fixture(scope="session")
def smd_servers() -> Path:
    """Real server metrics, kept outside the repository."""
    file = SHARED / "data" / "smd_servers.parquet"
    if not file.exists():
        pytest.skip("the real server metrics (shared/data/smd_servers.parquet) are not here")
    return file
