import json
import socket
import urllib.error
import urllib.request

import pytest

from consumer.health import health_server
from schemas.errors import InputError


def get(port: int, path: str) -> tuple[int, dict[str, object]]:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=5) as answer:
            return answer.status, json.load(answer)
    except urllib.error.HTTPError as error:
        return error.code, json.load(error)


@pytest.mark.parametrize(("ready", "alive"), [(True, True), (False, True), (False, False)])
def test_codes_follow_the_figures(ready: bool, alive: bool) -> None:
    """Readiness and liveness are what the service says at that moment, each with its own code."""
    with health_server(0, lambda: {"ready": ready, "alive": alive, "events": 7}) as port:
        assert get(port, "/readyz")[0] == (200 if ready else 503)
        assert get(port, "/livez")[0] == (200 if alive else 503)
        assert get(port, "/status") == (200, {"ready": ready, "alive": alive, "events": 7})
        assert get(port, "/nothing")[0] == 404


def test_a_taken_port_is_told_or_replaced() -> None:
    """A port that was asked for and is taken is an error that names it; the default gives way to a free one."""
    with socket.socket() as taken:
        taken.bind(("", 0))
        taken.listen()
        port = taken.getsockname()[1]

        with pytest.raises(InputError, match=f"port {port} is taken"), health_server(port, dict):
            pass
        with health_server(port, lambda: {"ready": True, "alive": True}, any_port=True) as other:
            assert other != port
            assert get(other, "/readyz")[0] == 200
