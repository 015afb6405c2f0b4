import re

from devstack.kafka import _cluster_id


def test_cluster_ids_are_no_options() -> None:
    """A cluster id is what Kafka takes for one: 22 characters that do not begin as an option does (one in 64 would)."""
    assert all(re.fullmatch(r"\w[\w-]{21}", _cluster_id(), re.ASCII) for _ in range(2000))
