"""Telling the group that a member of ours is dead, instead of letting its session time out.

A member that was killed keeps its partitions until its session ends (45 s by the broker's default). Under KIP-848 a
static member is no help: its successor is refused until then (UNRELEASED_INSTANCE_ID). But a member may leave by a
heartbeat with epoch -1, and nothing says from where: its successor on the same host, which holds its lock and so knows
that it is dead, sends it. The Python client offers no such call; these are two requests of Kafka's protocol
(https://kafka.apache.org/protocol, FindCoordinator v2 and ConsumerGroupHeartbeat v0). Where they cannot be sent, as
over TLS or SASL, the session's end is waited for.
"""

import socket
import struct
from typing import Any

import structlog

log = structlog.get_logger(__name__)
_FIND_COORDINATOR, _CONSUMER_GROUP_HEARTBEAT = 10, 68
_LEAVE_EPOCH = -1
_SECONDS = 2.0
_CLIENT = b"fleetcast"


def evict(kafka: dict[str, Any], group_id: str, member_id: str) -> bool:
    """Make a member that is known to be dead leave its group; whether the group's coordinator said that it did."""
    if str(kafka.get("security.protocol", "plaintext")).lower() != "plaintext":
        log.info("a killed member's partitions come when its session ends", member=member_id)
        return False
    for server in str(kafka.get("bootstrap.servers", "")).split(","):
        try:
            coordinator = _find_coordinator(_address(server), group_id)
            error = _leave(coordinator, group_id, member_id)
        except (OSError, ValueError, struct.error) as failure:
            log.debug("no eviction by this broker", server=server, reason=str(failure))
            continue
        log.info("the former life of this member left the group", member=member_id, error_code=error)
        return error == 0
    return False


def _address(server: str) -> tuple[str, int]:
    host, _, port = server.strip().rpartition("://")[2].rpartition(":")
    return host.strip("[]"), int(port)


def _find_coordinator(address: tuple[str, int], group_id: str) -> tuple[str, int]:
    body = _string(group_id) + struct.pack(">b", 0)
    answer = _ask(address, _FIND_COORDINATOR, 2, body)
    _, error = struct.unpack_from(">ih", answer)
    if error:
        raise ValueError(f"no coordinator: error {error}")
    at = 6
    (length,) = struct.unpack_from(">h", answer, at)  # the error's message; -1 is null
    at += 2 + max(length, 0) + 4  # and the node's id
    (length,) = struct.unpack_from(">h", answer, at)
    host = answer[at + 2 : at + 2 + length].decode()
    (port,) = struct.unpack_from(">i", answer, at + 2 + length)
    return host, port


def _leave(address: tuple[str, int], group_id: str, member_id: str) -> int:
    """The error code of the answer."""
    nothing = b"\0"  # null, in the compact encoding; also "no tagged fields"
    body = (
        _compact(group_id) + _compact(member_id) + struct.pack(">i", _LEAVE_EPOCH)
        + nothing + nothing + struct.pack(">i", -1)  # instance id, rack, rebalance timeout
        + nothing + nothing + nothing + nothing  # topics, assignor, owned partitions; tagged fields
    )  # fmt: skip
    answer = _ask(address, _CONSUMER_GROUP_HEARTBEAT, 0, body, flexible=True)
    return int(struct.unpack_from(">bih", answer)[2])  # tagged fields of the header, throttle time, error


def _ask(address: tuple[str, int], api: int, version: int, body: bytes, *, flexible: bool = False) -> bytes:
    """One request on a connection of its own; the answer without its correlation id."""
    header = struct.pack(">hhih", api, version, 1, len(_CLIENT)) + _CLIENT + (b"\0" if flexible else b"")
    with socket.create_connection(address, _SECONDS) as connection:
        connection.sendall(struct.pack(">i", len(header) + len(body)) + header + body)
        (length,) = struct.unpack(">i", _receive(connection, 4))
        return _receive(connection, length)[4:]


def _receive(connection: socket.socket, length: int) -> bytes:
    found = b""
    while len(found) < length:
        part = connection.recv(length - len(found))
        if not part:
            raise ValueError("the broker closed the connection")
        found += part
    return found


def _string(text: str) -> bytes:
    return struct.pack(">h", len(text.encode())) + text.encode()


def _compact(text: str) -> bytes:
    """A compact string: its length + 1 as an unsigned varint."""
    length, prefix = len(text.encode()) + 1, b""
    while length > 0x7F:
        prefix += bytes([length & 0x7F | 0x80])
        length >>= 7
    return prefix + bytes([length]) + text.encode()
