"""``python -m devstack fetch`` fills the cache; ``python -m devstack run`` keeps a stack up until it is stopped."""

import signal
import sys
import threading

from devstack.errors import StackError
from devstack.jars import APICURIO, KAFKA, jars
from devstack.stack import start_stack


def main(arguments: list[str]) -> int:
    """Returns the exit code."""
    try:
        if arguments == ["fetch"]:
            for package in (KAFKA, APICURIO):
                sys.stdout.write(f"{jars(package, thorough=True)}\n")
            return 0
        if arguments == ["run"]:
            with start_stack() as stack:
                sys.stdout.write(
                    f"{stack.description}\nFLEETCAST_BOOTSTRAP_SERVERS={stack.bootstrap_servers}\n"
                    f"FLEETCAST_REGISTRY_URL={stack.registry_url}\n"
                )
                sys.stdout.flush()
                signal.signal(signal.SIGINT, lambda *_: done.set())
                done.wait()
            return 0
    except StackError as error:
        sys.stderr.write(f"error: {error}\n")
        return 4
    sys.stderr.write("usage: python -m devstack fetch|run\n")
    return 2


done = threading.Event()

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
