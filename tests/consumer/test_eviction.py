import socket
import struct
import threading

import pytest

from consumer.eviction import evict


def serve(answers: list[bytes], asked: list[bytes]) -> int:
    """A broker that answers each connection once; its port."""
    listener = socket.create_server(("127.0.0.1", 0))

    def run() -> None:
        for answer in answers:
            connection, _ = listener.accept()
            (length,) = struct.unpack(">i", connection.recv(4))
            asked.append(connection.recv(length))
            connection.sendall(struct.pack(">i", len(answer) + 4) + struct.pack(">i", 1) + answer)
            connection.close()
        listener.close()

    threading.Thread(target=run, daemon=True).start()
    return int(listener.getsockname()[1])


def coordinator(port: int) -> bytes:
    host = b"127.0.0.1"
    return struct.pack(">ihhih", 0, 0, -1, 1, len(host)) + host + struct.pack(">i", port)


@pytest.mark.parametrize(("error", "left"), [(0, True), (25, False)])
def test_the_coordinator_is_told_that_the_member_left(error: int, left: bool) -> None:
    """A heartbeat with epoch -1 for that member goes to the group's coordinator; its answer decides."""
    asked: list[bytes] = []
    there = serve([b"\0" + struct.pack(">ih", 0, error) + b"\0" * 8], asked)
    first = serve([coordinator(there)], asked)

    assert evict({"bootstrap.servers": f"127.0.0.1:{first}"}, "group", "member-1") is left

    assert b"group" in asked[0]
    assert b"\x06group\x09member-1" + struct.pack(">i", -1) in asked[1]


@pytest.mark.parametrize(
    "kafka",
    [{"bootstrap.servers": "127.0.0.1:1"}, {"bootstrap.servers": "nonsense"}, {"security.protocol": "SASL_SSL"}, {}],
)
def test_where_it_cannot_be_told_nothing_breaks(kafka: dict[str, str]) -> None:
    """No broker, no address, a protocol we do not speak: the session's end is waited for, as without us."""
    assert evict(kafka, "group", "member") is False
