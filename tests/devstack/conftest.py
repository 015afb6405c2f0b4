from collections.abc import Iterator

import pytest

from devstack import Stack, start_stack


@pytest.fixture(scope="session")
def embedded_stack() -> Iterator[Stack]:
    """The pair that needs no Java."""
    with start_stack(broker="embedded", registry="embedded") as running:
        yield running
