import pytest

from schemas.errors import UnreachableError
from schemas.topics import Topics, connect


def test_settings_of_every_topic() -> None:
    """Every topic deletes, is compressed with zstd, carries append time and says how long it keeps."""
    settings = Topics().settings()

    assert list(settings) == [
        "server-metrics", "server-metrics.steps", "forecasts", "forecast-scores", "server-metrics.dlq",
    ]  # fmt: skip
    for config in settings.values():
        assert config["cleanup.policy"] == "delete"
        assert config["compression.type"] == "zstd"
        assert config["message.timestamp.type"] == "LogAppendTime"
        assert int(config["retention.ms"]) >= 86_400_000


def test_the_dlq_holds_what_the_input_holds() -> None:
    """The largest input record still fits into the DLQ, with 64 KiB of headers that say why."""
    topics = Topics(metrics="in", dlq="bad")
    settings = topics.settings()

    assert int(settings["bad"]["max.message.bytes"]) == int(settings["in"]["max.message.bytes"]) + 65_536


def test_no_broker() -> None:
    """A broker that does not answer is said with its address, and the exit code is 4."""
    with pytest.raises(UnreachableError, match=r"127\.0\.0\.1:1\b") as caught:
        connect({"bootstrap.servers": "127.0.0.1:1", "log_level": 0}, timeout_s=0.3)

    assert caught.value.exit_code == 4
